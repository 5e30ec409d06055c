//go:build linux

package test

// Tests of what a release consists of: the programs and packages that release.sh makes, and the units in them.

import (
	"bytes"
	"cmp"
	"debug/elf"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"edge/internal/edgetest"
)

// need skips the test if one of the programs is not installed, and fails it if TEST_REQUIRE_CLIENTS=1 says that all
// have to be.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			lack(t, program+" is not on the PATH")
		}
	}
}

// lack skips the test, or fails it as need does.
func lack(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("TEST_REQUIRE_CLIENTS") == "1" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// output runs a command that is to succeed, and returns all it prints.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// copySources copies what a release is made of to a folder of its own, where nobody edits it meanwhile.
func copySources(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	cmd := exec.Command("sh", "-c", `tar -c --exclude=.git --exclude=./testdata --exclude=./dist . | tar -x -C "$0"`, to)
	cmd.Dir = from
	output(t, cmd)
	return to
}

// makeFile makes a file and its folder.
func makeFile(t *testing.T, name string, mode os.FileMode, text string) {
	t.Helper()
	if err := cmp.Or(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), mode)); err != nil {
		t.Fatal(err)
	}
}

// habits are what one machine may have otherwise than another.
type habits struct {
	umask string
	env   []string
}

var (
	ours   = habits{umask: "022"}
	theirs = habits{"077", []string{"TZ=Pacific/Kiritimati", "LC_ALL=C.UTF-8", "GOFLAGS=-tags=other", "GOAMD64=v3"}}
)

// release runs release.sh in a folder with sources. The version is 1.2.3 unless the arguments have another.
func release(t *testing.T, sources string, h habits, args ...string) {
	t.Helper()
	args = append([]string{"-c", `umask "$0" && exec ./release.sh "$@"`, h.umask}, args...)
	cmd := exec.CommandContext(t.Context(), "sh", args...)
	cmd.Dir, cmd.Env = sources, append(append(os.Environ(), "VERSION=v1.2.3", "SOURCE_DATE_EPOCH=1700000000"), h.env...)
	output(t, cmd)
}

func wantSameBytes(t *testing.T, a, b string) {
	t.Helper()
	if x, y := readFile(t, a), readFile(t, b); !bytes.Equal(x, y) {
		t.Errorf("%s, %d bytes, and %s, %d bytes, differ", a, len(x), b, len(y))
	}
}

// TestReleaseReproducible: whoever builds a release gets the same bytes, and they need nothing but a kernel.
func TestReleaseReproducible(t *testing.T) {
	need(t, "bash", "go")
	sources := copySources(t, "..")
	elsewhere := copySources(t, sources)
	one, other := filepath.Join(t.TempDir(), "edge"), filepath.Join(t.TempDir(), "edge")
	release(t, sources, ours, "-o", one, "linux", "amd64")
	release(t, elsewhere, theirs, "-o", other, "linux", "amd64")
	wantSameBytes(t, one, other)
	if b := readFile(t, one); bytes.Contains(b, []byte(sources)) || !bytes.Contains(b, []byte("2023-11-14T22:13:20Z")) {
		t.Error("it knows where it was made, or not when")
	}
	program, err := elf.Open(one)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("it is not static: %v", p.Type)
		}
	}
	if program.Section(".symtab") != nil || program.Section(".debug_info") != nil {
		t.Error("it is not stripped")
	}
	if runtime.GOARCH == "amd64" || runtime.GOARCH == "386" {
		if said := output(t, exec.Command(one, "-version")); !strings.HasPrefix(said, "edge 1.2.3 (go") {
			t.Errorf("-version: %q", said)
		}
	}
}

var majorVersion = regexp.MustCompile(`/v\d+$`) // at the end of a module's path

// TestReleaseLicences: what the licences of linked modules ask to be shown is shown, word for word.
func TestReleaseLicences(t *testing.T) {
	need(t, "bash", "go", "sed")
	cmd := exec.Command("bash", "-euc", `eval "$(sed -n '/^copyright()/,/^}/p' release.sh)"; copyright`)
	cmd.Dir = ".."
	shown := output(t, cmd)
	linked := make(map[string]string) // modules, and where they are
	for _, system := range []string{"linux", "darwin", "windows"} {
		const format = "{{with .Module}}{{if not .Main}}{{.Path}} {{.Dir}}{{end}}{{end}}"
		cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", format, ".")
		cmd.Dir, cmd.Env = "..", append(os.Environ(), "GOOS="+system, "GOARCH=arm64", "CGO_ENABLED=0")
		for line := range strings.Lines(output(t, cmd)) {
			module, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
			linked[module] = dir
		}
	}
	if len(linked) < 4 {
		t.Errorf("go list knows %v", linked)
	}
	for module, dir := range linked {
		name := path.Base(majorVersion.ReplaceAllString(module, ""))
		if strings.HasPrefix(module, "golang.org/x/") {
			name = "golang" // the licence of Go itself
		}
		ours, err := os.ReadFile("../package/LICENSE." + name)
		if err != nil {
			t.Errorf("%s: %v", module, err)
			continue
		}
		if !strings.Contains(shown, string(ours)) {
			t.Errorf("%s: release.sh does not show its licence", module)
		}
		licences, _ := filepath.Glob(dir + "/LICEN*")
		notices, _ := filepath.Glob(dir + "/NOTICE*")
		if len(licences) == 0 {
			t.Errorf("%s has no licence where it was looked for", module)
		}
		for _, name := range append(licences, notices...) {
			if !bytes.Contains(ours, readFile(t, name)) {
				t.Errorf("%s: what we show is not its %s", module, filepath.Base(name))
			}
		}
	}
}

// TestReleaseArguments: what release.sh cannot do it says in one line.
func TestReleaseArguments(t *testing.T) {
	need(t, "bash")
	dir := t.TempDir()
	for _, test := range []struct{ says, args string }{
		{"it is ./release.sh [VERSION]", "-x"},
		{"it is ./release.sh [VERSION]", "1 2"},
		{"it is ./release.sh [VERSION]", "-o edge linux"},
		{"a version is like 1.2.3", "-deb " + dir + " latest amd64"},
		{"there is no package for s390x", "-deb " + dir + " 1 s390x"},
	} {
		cmd := exec.Command("./release.sh", strings.Fields(test.args)...)
		cmd.Dir = ".."
		out, err := cmd.CombinedOutput()
		line, more, _ := strings.Cut(string(out), "\n")
		if err == nil || !strings.HasPrefix(line, "release.sh: "+test.says) || more != "" {
			t.Errorf("%s: %v, %s", test.args, err, out)
		}
	}
}

// scratch is a system in a folder into which packages are installed. Nothing of it runs.
type scratch struct {
	t    *testing.T
	root string
	path string // PATH
}

// newScratch makes an empty system. A systemctl that is called in it fails the test.
func newScratch(t *testing.T) *scratch {
	t.Helper()
	s := &scratch{t: t, root: t.TempDir()}
	bin, called := t.TempDir(), filepath.Join(t.TempDir(), "called")
	s.path = bin + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin"
	t.Cleanup(func() {
		if b, err := os.ReadFile(called); err == nil {
			t.Errorf("systemctl was called: %s", b)
		}
	})
	makeFile(t, filepath.Join(bin, "systemctl"), 0o755, "#!/bin/sh\necho \"$@\" >>"+called+"\n")
	makeFile(t, s.name("/var/lib/dpkg/status"), 0o644, "")
	os.Mkdir(s.name("/var/lib/dpkg/updates"), 0o755)
	return s
}

// name is that of a file outside the scratch.
func (s *scratch) name(inside string) string { return s.root + inside }

func (s *scratch) read(name string) string {
	s.t.Helper()
	return string(readFile(s.t, s.name(name)))
}

// dpkg runs dpkg, which is to ask nothing: nobody would answer.
func (s *scratch) dpkg(args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), "dpkg", append([]string{"--root=" + s.root, "--log=" + s.name("/dpkg.log"),
		"--force-script-chrootless", "--force-unsafe-io"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", "PATH="+s.path)
	return output(s.t, cmd)
}

func (s *scratch) wantGone(names ...string) {
	s.t.Helper()
	for _, name := range names {
		if _, err := os.Lstat(s.name(name)); !os.IsNotExist(err) {
			s.t.Errorf("%s is still there, or %v", name, err)
		}
	}
}

// unitSetting returns what an installed unit says once.
func (s *scratch) unitSetting(unit, name string) string {
	s.t.Helper()
	all := regexp.MustCompile("(?m)^"+name+"=(.*)$").FindAllStringSubmatch(s.read("/lib/systemd/system/"+unit), -1)
	if len(all) != 1 {
		s.t.Fatalf("%s has %q of %s", unit, all, name)
	}
	return all[0][1]
}

// startUnit starts edge as its unit says, but for the address, with a command before it that runs the program if there
// is one.
func (s *scratch) startUnit(secret string, before ...string) *edgetest.Process {
	s.t.Helper()
	credentials := s.t.TempDir()
	makeFile(s.t, filepath.Join(credentials, "secret"), 0o400, secret)
	args := strings.Fields(s.unitSetting("edge.service", "ExecStart"))
	for i, arg := range args {
		if args[i] = strings.ReplaceAll(arg, "${CREDENTIALS_DIRECTORY}", credentials); strings.HasPrefix(arg, "/") {
			args[i] = s.name(arg)
		}
	}
	args = append(append(before, args...), "-addr", "127.0.0.1:0")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = []string{"EDGE_SECRET=", "CREDENTIALS_DIRECTORY=" + credentials}
	return edgetest.StartCommand(s.t, cmd)
}

// wantServes expects the installed edge to do its work and to end in order.
func (s *scratch) wantServes() {
	s.t.Helper()
	p := s.startUnit(edgetest.Secret + "\n")
	if status, answer := edgetest.Get(s.t, "http://"+p.Addr+"/health"); status != 200 || answer != "ok\n" {
		s.t.Errorf("GET /health: %d %q", status, answer)
	}
	edgetest.Publish(s.t, p.Addr, "room", "hello", "{}")
	http.DefaultClient.CloseIdleConnections()
	p.Stop()
}

// needDpkg skips the test where dpkg cannot install a package of ours, and returns dpkg's name for this architecture.
func needDpkg(t *testing.T) string {
	t.Helper()
	need(t, "bash", "go", "dpkg")
	if os.Getuid() != 0 {
		t.Skip("dpkg wants to be run by root")
	}
	return strings.TrimSpace(output(t, exec.Command("dpkg", "--print-architecture")))
}

// TestDebPackage: the life of a package, from its making to its purge.
func TestDebPackage(t *testing.T) {
	arch := needDpkg(t)
	if !slices.Contains([]string{"amd64", "arm64", "armhf"}, arch) {
		t.Skip("there is no package for " + arch)
	}
	sources, dir, elsewhere := copySources(t, ".."), t.TempDir(), t.TempDir()
	first, second := dir+"/edge_1.2.3_"+arch+".deb", dir+"/edge_1.3.0-rc1_"+arch+".deb"
	release(t, sources, ours, "-deb", dir, "1.2.3", arch)
	release(t, copySources(t, sources), theirs, "-deb", elsewhere, "1.2.3", arch)
	wantSameBytes(t, first, filepath.Join(elsewhere, filepath.Base(first)))
	release(t, sources, ours, "-deb", dir, "v1.3.0-rc1", arch)

	s := newScratch(t)
	if said := s.dpkg("-i", first); !strings.Contains(said, "/etc/edge/secret") {
		t.Errorf("it does not say where the secret is:\n%s", said)
	}
	const shipped, mine = `"key": "app-key"`, `"key": "key"` // that of the tests
	secret := s.read("/etc/edge/secret")
	edited := strings.Replace(s.read("/etc/edge/edge.json"), shipped, mine, 1)
	if !strings.Contains(edited, "\n  "+mine+",\n") || !strings.Contains(edited, "\n  \"id\": \"1\",\n") {
		t.Fatalf("the configuration has other keys:\n%s", edited)
	}
	s.wantInstalled(s.read("/etc/edge/edge.json"), secret)
	makeFile(t, s.name("/etc/edge/edge.json"), 0o644, edited)

	if said := s.dpkg("-i", second); strings.Contains(said, "Configuration file") || strings.Contains(said, "made up") {
		t.Errorf("the upgrade is not silent:\n%s", said)
	}
	s.wantInstalled(edited, secret)
	said := output(t, exec.Command(s.name("/usr/bin/edge"), "-version"))
	if !strings.HasPrefix(said, "edge 1.3.0-rc1 (go") {
		t.Errorf("-version: %q", said)
	}
	s.wantServes()

	programs := []string{"/usr/bin/edge", "/lib/systemd/system", "/usr/share/doc/edge"}
	s.dpkg("-r", "edge")
	s.wantGone(programs...)
	s.dpkg("-i", first)
	s.wantInstalled(edited, secret)
	s.dpkg("-P", "edge")
	s.wantGone(append(programs, "/etc/edge")...)
	s.dpkg("-i", first)
	if s.read("/etc/edge/secret") == secret {
		t.Error("another installation has the same secret")
	}
}

// wantInstalled expects everything of the package in its place, and what is the administrator's as it was.
func (s *scratch) wantInstalled(configuration, secret string) {
	s.t.Helper()
	for name, mode := range map[string]os.FileMode{
		"/usr/bin/edge":                    0o755,
		"/lib/systemd/system/edge.service": 0o644,
		"/lib/systemd/system/edge.socket":  0o644,
		"/usr/share/doc/edge/copyright":    0o644,
		"/etc/edge":                        os.ModeDir | 0o755,
		"/etc/edge/edge.json":              0o644,
		"/etc/edge/secret":                 0o600,
	} {
		info, err := os.Lstat(s.name(name))
		if err != nil {
			s.t.Error(err)
		} else if owner := info.Sys().(*syscall.Stat_t); info.Mode() != mode || owner.Uid != 0 || owner.Gid != 0 {
			s.t.Errorf("%s: %v of %d:%d, want %v of root", name, info.Mode(), owner.Uid, owner.Gid, mode)
		}
	}
	if s.read("/etc/edge/edge.json") != configuration || s.read("/etc/edge/secret") != secret {
		s.t.Error("the configuration or the secret is another")
	}
	if !regexp.MustCompile(`^[0-9a-f]{32}\n$`).MatchString(secret) {
		s.t.Errorf("a strange secret of %d bytes", len(secret))
	}
	if credential := s.unitSetting("edge.service", "LoadCredential"); credential != "secret:/etc/edge/secret" {
		s.t.Errorf("the unit has another secret: %s", credential)
	}
	for line := range strings.Lines(s.dpkg("--verify", "edge")) {
		if !strings.Contains(line, " c /etc/edge/edge.json") { // which may be edited
			s.t.Errorf("not as it was shipped: %s", line)
		}
	}
	if status := s.dpkg("-s", "edge"); !strings.Contains(status, "\nStatus: install ok installed\n") {
		s.t.Errorf("dpkg has\n%s", status)
	}
}

// TestRaspberryPi runs the commands of docs/running.md, up to what needs a board: ssh, scp, sudo and apt are ours and
// mean a system in a folder, in which qemu-aarch64 runs the service.
func TestRaspberryPi(t *testing.T) {
	needDpkg(t)
	need(t, "git", "curl", "qemu-aarch64")
	s, home, bin := newScratch(t), t.TempDir(), t.TempDir()
	for name, script := range map[string]string{
		"scp": `case $2 in pi@raspberrypi.local:) cp "$1" ` + home + ` ;; *) exit 9 ;; esac`,
		"ssh": `[ "$1 $2 $3" = "-t pi@raspberrypi.local sudo" ] && shift 3 && cd ` + home + ` && exec "$@"`,
		"apt": `[ "$1" = install ] && exec dpkg --root=` + s.root +
			` --force-script-chrootless --force-unsafe-io --force-architecture -i "$2"`,
		"cat": `[ "$1" = /etc/edge/secret ] && exec /bin/cat ` + s.root + `/etc/edge/secret || exec /bin/cat "$@"`,
		"curl": `exec ` + output(t, exec.Command("sh", "-c", "command -v curl | tr -d '\n'")) +
			` -sS --connect-to "raspberrypi.local:6001:$EDGE_ADDR" "$@"`,
	} {
		makeFile(t, filepath.Join(bin, name), 0o755, "#!/bin/sh\n"+script+"\n")
	}
	page := string(readFile(t, "../docs/running.md"))
	_, page, _ = strings.Cut(page, "<!-- TestRaspberryPi runs these -->\n```sh\n")
	page, _, _ = strings.Cut(page, "\n```")
	commands, addr, answers, sources := strings.Split(page, "\n"), "", "", copySources(t, "..")
	if len(commands) != 5 {
		t.Fatalf("%d commands: %q", len(commands), commands)
	}
	for _, command := range commands {
		cmd := exec.CommandContext(t.Context(), "bash", "-euc", command)
		cmd.Dir = sources
		cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000", "EDGE_ADDR="+addr, "PATH="+bin+":"+s.path)
		answers += output(t, cmd)
		if strings.Contains(command, "apt install") { // which starts it, where there is systemd
			addr = s.startUnit(s.read("/etc/edge/secret"), "qemu-aarch64").Addr
		}
	}
	if !strings.HasSuffix(answers, "\n"+s.read("/etc/edge/secret")+"ready\n") {
		t.Errorf("the commands have printed:\n%s", answers)
	}
}

// TestUnits: systemd understands the units, and finds little that a wrong edge could do to the machine.
func TestUnits(t *testing.T) {
	need(t, "systemd-analyze")
	service, socket := filepath.Join(t.TempDir(), "edge.service"), "../package/edge.socket"
	text := string(readFile(t, "../package/edge.service"))
	makeFile(t, service, 0o644, strings.Replace(text, "/usr/bin/edge ", os.Args[0]+" ", 1)) // it has to exist
	said := output(t, exec.Command("systemd-analyze", "verify", "--man=no", service, socket))
	if strings.Contains(said, "edge.service") || strings.Contains(said, "edge.socket") { // and not of other units
		t.Errorf("systemd complains:\n%s", said)
	}
	const most = "20" // in tenths
	cmd := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold="+most, service)
	out, err := cmd.CombinedOutput()
	if bytes.Contains(out, []byte("unrecognized option '--offline")) {
		lack(t, "systemd-analyze is too old, 250 can do it")
	}
	_, overall, ok := strings.Cut(string(out), "Overall exposure level for edge.service: ")
	if err != nil || !ok {
		t.Errorf("%v; it is exposed more than %s tenths:\n%s", err, most, out)
	}
	t.Logf("exposure: %s", overall)
}
