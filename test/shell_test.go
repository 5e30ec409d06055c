//go:build linux

package test

// The commands are tested as scripts, testdata/shell/*.txt, that a shell runs against a live server. Of a script
//
//	serve -options             says how to start it, once and first; "serve none" wants none
//	env NAME=VALUE             sets a variable for all commands
//	file NAME                  makes a file of the lines up to one with a point, in the directory $DIR
//	$ command                  is for sh, in a directory of its own; with & the script goes on when it is subscribed
//	< line                     is its standard input
//	> line, ! line             are what it prints on standard output and on standard error, where … stands for anything
//	= 1                        is its exit code, if not 0

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"edge/internal/edgetest"
)

// step is a command of a script, and what becomes of it.
type step struct {
	place           string
	command         string
	in, out, errors []string
	code            string
	behind          bool

	cmd            *exec.Cmd
	stdout, stderr edgetest.Output
}

// script is one that runs.
type script struct {
	t     *testing.T
	dir   string
	env   []string
	steps []*step
	args  []string // of the server
	alone bool     // there is none
}

// shell is a directory, and an environment in which edge is the program in another.
func (s *script) shell(bin string) {
	s.t.Helper()
	s.dir = s.t.TempDir()
	s.env = []string{"PATH=" + bin + string(os.PathListSeparator) + os.Getenv("PATH"), "TMPDIR=" + s.dir, "LC_ALL=C.UTF-8",
		"EDGE_KEY=" + edgetest.Key, "EDGE_SECRET=" + edgetest.Secret}
}

// parse reads a script.
func (s *script) parse(name, text string) {
	s.t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	var last *step
	for i := 0; i < len(lines); i++ {
		verb, rest, _ := strings.Cut(lines[i], " ")
		place := fmt.Sprintf("%s:%d", name, i+1)
		switch {
		case verb == "" || verb == "#":
		case verb == "serve":
			s.args = strings.Fields(strings.ReplaceAll(rest, "$DIR", s.dir))
			s.alone = rest == "none"
		case verb == "env":
			s.env = append(s.env, rest)
		case verb == "file":
			var content strings.Builder
			for i++; lines[i] != "."; i++ {
				content.WriteString(lines[i] + "\n")
			}
			text := strings.ReplaceAll(content.String(), "$DIR", s.dir)
			if err := os.WriteFile(filepath.Join(s.dir, rest), []byte(text), 0o600); err != nil {
				s.t.Fatal(err)
			}
		case verb == "$":
			command, behind := strings.CutSuffix(rest, " &")
			last = &step{place: place, command: command, behind: behind, code: "0"}
			s.steps = append(s.steps, last)
		case last == nil:
			s.t.Fatalf("%s: %q is before the first command", place, lines[i])
		case verb == "<":
			last.in = append(last.in, rest)
		case verb == ">":
			last.out = append(last.out, rest)
		case verb == "!":
			last.errors = append(last.errors, rest)
		case verb == "=":
			last.code = rest
		default:
			s.t.Fatalf("%s: %q is nothing that a script can have", place, lines[i])
		}
	}
}

// run runs a script that has been read.
func (s *script) run() {
	s.t.Helper()
	if !s.alone {
		cmd := edgetest.Command(s.t, false, s.args...)
		if slices.Contains(s.args, "-config") { // which says the keys
			cmd.Args, cmd.Env = slices.Delete(cmd.Args, 1, 3), []string{"EDGE_SECRET="}
		}
		s.env = append(s.env, "EDGE_ADDR="+edgetest.StartCommand(s.t, cmd).Addr)
	}
	for _, st := range s.steps {
		if st.start(s); !st.behind {
			st.check(s.t)
			continue
		}
		edgetest.WaitUntil(s.t, st.command+" is subscribed", func() bool {
			return strings.Contains(st.stderr.String(), "edge: subscribed to")
		})
	}
	for _, st := range s.steps {
		if st.behind {
			st.check(s.t)
		}
	}
}

func (st *step) start(s *script) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 6*edgetest.Patience) // it is killed then
	s.t.Cleanup(cancel)
	st.cmd = exec.CommandContext(ctx, "sh", "-c", st.command)
	st.cmd.Dir, st.cmd.Env, st.cmd.WaitDelay = s.dir, s.env, edgetest.Patience
	st.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	st.cmd.Cancel = func() error { // with all that it has started
		return syscall.Kill(-st.cmd.Process.Pid, syscall.SIGKILL)
	}
	if st.in != nil {
		st.cmd.Stdin = strings.NewReader(strings.Join(st.in, "\n") + "\n")
	}
	st.cmd.Stdout, st.cmd.Stderr = &st.stdout, &st.stderr
	if err := st.cmd.Start(); err != nil {
		s.t.Fatalf("%s: %v", st.place, err)
	}
}

// check waits for the end of the command, and compares.
func (st *step) check(t *testing.T) {
	t.Helper()
	err := st.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Errorf("%s: %s: %v", st.place, st.command, err)
	}
	if got := fmt.Sprint(st.cmd.ProcessState.ExitCode()); got != st.code {
		t.Errorf("%s: %s: exit code %s, want %s", st.place, st.command, got, st.code)
	}
	for _, c := range []struct {
		what, got string
		want      []string
	}{{"standard output", st.stdout.String(), st.out}, {"standard error", st.stderr.String(), st.errors}} {
		want := strings.Join(append(c.want, ""), "\n")
		pattern := "^" + strings.ReplaceAll(regexp.QuoteMeta(want), "…", "[^\n]*") + "$"
		if got := c.got; got != want && !regexp.MustCompile(pattern).MatchString(got) {
			t.Errorf("%s: %s: %s\n%swant\n%s", st.place, st.command, c.what, got, want)
		}
	}
}

func runScript(t *testing.T, bin, name, text string) {
	t.Parallel()
	if strings.Contains(text, "| jq ") {
		need(t, "jq")
	}
	s := &script{t: t}
	s.shell(bin)
	s.parse(name, text)
	if len(s.steps) == 0 {
		t.Fatalf("%s does nothing", name)
	}
	s.run()
}

// TestShell runs the scripts, and the README's examples: they print what it says that they do. The program has no
// race detector, with which it takes long to start.
func TestShell(t *testing.T) {
	need(t, "sh")
	bin := filepath.Dir(edgetest.Binary(t, true)[0])
	files, err := filepath.Glob("../testdata/shell/*.txt")
	if err != nil || len(files) < 7 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text := string(readFile(t, file))
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { runScript(t, bin, file, text) })
	}
	t.Run("README", func(t *testing.T) { runScript(t, bin, "README.md", readmeScript(t)) })
}

// readmeScript is what the README shows as on a terminal.
func readmeScript(t *testing.T) string {
	var text strings.Builder
	for _, block := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllSubmatch(readFile(t, "../README.md"), -1) {
		for line := range strings.Lines(string(block[1])) {
			switch {
			case strings.HasPrefix(line, "edge: "):
				line = "! " + line
			case !strings.HasPrefix(line, "$ "):
				line = "> " + line
			}
			text.WriteString(line)
		}
	}
	return text.String()
}
