//go:build unix

package edgetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Root returns the folder of the repository.
func Root(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}

// binaries are programs built for the tests: with the race detector, and without.
var binaries struct {
	sync.Mutex // guards the following
	dir        string
	built      [2]string
}

// Binary returns the command that is edge: what TEST_BINARY names, be it with an emulator before it, or else a
// program that is built once. It has the race detector unless plain, where there is one.
func Binary(t testing.TB, plain bool) []string {
	t.Helper()
	if command := strings.Fields(os.Getenv("TEST_BINARY")); len(command) > 0 {
		return command
	}
	which, args := 0, []string{"build", "-buildvcs=false"}
	if !plain && (runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64") {
		which, args = 1, append(args, "-race")
	}
	binaries.Lock()
	defer binaries.Unlock()
	if binaries.built[which] == "" {
		if binaries.dir == "" {
			binaries.dir, _ = os.MkdirTemp("", "edgetest")
		}
		program := filepath.Join(binaries.dir, strconv.Itoa(which), "edge")
		cmd := exec.Command("go", append(args, "-o", program, ".")...)
		cmd.Dir, cmd.Env = Root(t), append(os.Environ(), "GOARCH="+runtime.GOARCH)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
		binaries.built[which] = program
	}
	return []string{binaries.built[which]}
}

// Main runs the tests and returns their exit code, which is not 0 if the secret was seen.
func Main(m *testing.M) (code int) {
	code = m.Run()
	if binaries.dir != "" {
		os.RemoveAll(binaries.dir)
	}
	for _, place := range leaks.places {
		fmt.Fprintf(os.Stderr, "the secret was seen in %s\n", place)
		code = 1
	}
	return code
}

// Process is a running edge. Its output is looked through at its end: it must not have panicked or raced.
type Process struct {
	Cmd  *exec.Cmd
	Addr string

	t     testing.TB
	out   Output
	ended sync.Once
}

// Output is what a program prints. Others may read it meanwhile.
type Output struct {
	mu   sync.Mutex // guards the following
	text bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Output is what the process has printed so far, on both outputs.
func (p *Process) Output() string { return p.out.String() }

// Start starts edge with the race detector on a free port, unless the arguments have an address. It ends with the
// test.
func Start(t testing.TB, args ...string) *Process {
	t.Helper()
	return StartCommand(t, Command(t, false, args...))
}

// StartPlain is Start without the race detector, for what that disturbs: memory and time.
func StartPlain(t testing.TB, args ...string) *Process {
	t.Helper()
	return StartCommand(t, Command(t, true, args...))
}

// Command is edge with these arguments, for StartCommand.
func Command(t testing.TB, plain bool, args ...string) *exec.Cmd {
	t.Helper()
	command := append(Binary(t, plain), "-key", Key)
	if !strings.Contains(" "+strings.Join(args, " "), " -addr") {
		command = append(command, "-addr", "127.0.0.1:0")
	}
	command = append(command, args...)
	return exec.Command(command[0], command[1:]...)
}

// Environ is the environment of the processes: without EDGE_ variables of the tests' own, and with the secret.
func Environ() (env []string) {
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "EDGE_") {
			env = append(env, v)
		}
	}
	return append(env, "EDGE_SECRET="+Secret, "GORACE=halt_on_error=1 atexit_sleep_ms=0")
}

// said is the address in what a process prints at its start.
var said = regexp.MustCompile(`https?://([^/\s]+)`)

// StartCommand starts a command that is edge, or says its address as edge does. The secret is in its environment, which
// cmd.Env adds to, and must not be seen anywhere else.
func StartCommand(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	return startOn(t, cmd, func(out io.Writer) io.Writer { return out })
}

// startOn starts a command whose standard output is what on returns for the writer that keeps it.
func startOn(t testing.TB, cmd *exec.Cmd, on func(out io.Writer) io.Writer) *Process {
	t.Helper()
	p := &Process{Cmd: cmd, t: t}
	cmd.Env = append(Environ(), cmd.Env...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = on(&p.out), &p.out, Patience
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.end(syscall.SIGTERM) })
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid))
	LookForSecret("a command line", line)
	for end := time.Now().Add(Patience); p.Addr == ""; time.Sleep(time.Millisecond) {
		if found := said.FindStringSubmatch(p.Output()); found != nil {
			p.Addr = found[1]
		} else if exited(cmd.Process.Pid) || time.Now().After(end) {
			t.Fatalf("%s says no address: %s", cmd, p.Output())
		}
	}
	return p
}

// exited reports whether a child has ended and is not waited for yet.
func exited(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(b), ") ")
	return err == nil && strings.HasPrefix(state, "Z")
}

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.Cmd.Process.Signal(s); err != nil {
		p.t.Error(err)
	}
}

// Stop ends edge with SIGTERM, as everything does that stops a service, and waits: it must exit with 0.
func (p *Process) Stop() {
	p.t.Helper()
	p.end(syscall.SIGTERM)
}

// Kill ends edge with SIGKILL.
func (p *Process) Kill() {
	p.t.Helper()
	p.end(syscall.SIGKILL)
}

func (p *Process) end(by syscall.Signal) {
	p.t.Helper()
	p.ended.Do(func() {
		p.Cmd.Process.Signal(by)
		timeout := time.AfterFunc(Patience, func() { p.Cmd.Process.Kill() })
		err := p.Cmd.Wait()
		timeout.Stop()
		var exit *exec.ExitError
		if by == syscall.SIGKILL && errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == by {
			err = nil
		}
		said := p.Output()
		LookForSecret("the output of a process", []byte(said))
		if err != nil || strings.Contains(said, "panic") || strings.Contains(said, "DATA RACE") {
			p.t.Errorf("edge ended: %v\n%s", err, said)
		}
	})
}

// Descriptors skips the test if this process may not have so many.
func Descriptors(t testing.TB, n int) {
	t.Helper()
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err == nil && int64(l.Cur) < int64(n) {
		t.Skipf("%d descriptors are too few, it takes %d", l.Cur, n)
	}
}

// NeedsLinux skips a test that reads /proc where there is none.
func NeedsLinux(t testing.TB) {
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux")
	}
}

// Status returns a number of /proc/PID/status, summed up over the threads if each of them has its own.
func (p *Process) Status(name string, threads bool) (sum int) {
	p.t.Helper()
	pattern := fmt.Sprintf("/proc/%d/status", p.Cmd.Process.Pid)
	if threads {
		pattern = fmt.Sprintf("/proc/%d/task/*/status", p.Cmd.Process.Pid)
	}
	files, _ := filepath.Glob(pattern)
	found := false
	for _, file := range files {
		b, _ := os.ReadFile(file) // a thread may have ended
		if _, rest, ok := strings.Cut(string(b), "\n"+name+":"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			found, sum = err == nil, sum+n
		}
	}
	if !found {
		p.t.Fatalf("no %s in %s", name, pattern)
	}
	return sum
}

// Resident returns the bytes of memory the process holds.
func (p *Process) Resident() int { return p.Status("VmRSS", false) << 10 }

// Open is how many descriptors the process has.
func (p *Process) Open() int {
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	return len(files)
}

// CPU returns the processor time that the process has used, in microseconds; it is counted in hundredths of a second.
func (p *Process) CPU() float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+2:]))
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) * 1e4
}
