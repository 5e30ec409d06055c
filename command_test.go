package main

// The commands are tested as scripts, testdata/shell/*.txt, that a shell runs against a live server. Of a script
//
//	serve -options             says how to start it, once and first; "serve none" wants none
//	env NAME=VALUE             sets a variable for all commands
//	file NAME                  makes a file of the lines up to one with a point, in the directory $DIR
//	$ command                  is for sh, in a directory of its own; with & at its end the script goes on when it is subscribed
//	< line                     is its standard input
//	> line, ! line             are what it prints on standard output and on standard error, where … stands for anything
//	= 1                        is its exit code, if not 0

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// step is a command of a script, and what becomes of it.
type step struct {
	place           string
	command         string
	in, out, errors []string
	code            string
	behind          bool

	cmd            *exec.Cmd
	stdout, stderr watchedBuffer
	cancel         func()
}

// watchedBuffer keeps what is written, and closes heard when a line of it has a text.
type watchedBuffer struct {
	mu    sync.Mutex // guards the following
	b     bytes.Buffer
	text  string
	heard chan struct{}
}

func (w *watchedBuffer) Write(p []byte) (int, error) {
	lookForSecret("the output of a command", p)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b.Write(p)
	if w.text != "" && strings.Contains(w.b.String(), w.text) {
		close(w.heard)
		w.text = ""
	}
	return len(p), nil
}

func (w *watchedBuffer) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
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

// shell is a directory in which edge is this program.
func (s *script) shell() {
	s.t.Helper()
	s.dir = s.t.TempDir()
	if err := os.Symlink(must(filepath.Abs(os.Args[0])), filepath.Join(s.dir, "edge")); err != nil {
		s.t.Skip(err)
	}
	s.env = []string{"PATH=" + s.dir + string(os.PathListSeparator) + os.Getenv("PATH"), "EDGE_TEST_PROCESS=edge", "TMPDIR=" + s.dir, "LC_ALL=C.UTF-8",
		"EDGE_KEY=key", "EDGE_SECRET=" + testSecret}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
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
			if err := os.WriteFile(filepath.Join(s.dir, rest), []byte(strings.ReplaceAll(content.String(), "$DIR", s.dir)), 0o600); err != nil {
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
		s.env = append(s.env, "EDGE_ADDR="+s.serve())
	}
	for _, st := range s.steps {
		if st.start(s); st.behind {
			select {
			case <-st.stderr.heard:
			case <-st.ended():
				s.t.Errorf("%s: %s has ended, or is not subscribed", st.place, st.command)
			}
			continue
		}
		st.check(s.t)
	}
	for _, st := range s.steps {
		if st.behind {
			st.check(s.t)
		}
	}
}

// serve starts the server, with the key and secret of these tests unless there is a file that says others.
func (s *script) serve() (addr string) {
	s.t.Helper()
	if len(s.args) == 0 || s.args[0] != "-config" {
		return startEdge(s.t, s.args...)
	}
	o, err := parseOptions(s.args, noEnv)
	if err != nil {
		s.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	return serveOptions(s.t, l, o).addr
}

// ended is done when the command had to be killed for lack of time.
func (st *step) ended() <-chan time.Time { return time.After(patience) }

func (st *step) start(s *script) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*patience)
	st.cancel = cancel
	s.t.Cleanup(cancel)
	st.cmd = exec.CommandContext(ctx, "sh", "-c", st.command)
	st.cmd.Dir, st.cmd.Env, st.cmd.WaitDelay = s.dir, s.env, time.Second
	if st.in != nil {
		st.cmd.Stdin = strings.NewReader(strings.Join(st.in, "\n") + "\n")
	}
	st.stderr.text, st.stderr.heard = "edge: subscribed to", make(chan struct{})
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

func runScript(t *testing.T, name, text string, variables ...string) {
	need(t, "sh")
	if strings.Contains(text, "| jq ") {
		need(t, "jq")
	}
	s := &script{t: t}
	s.shell()
	s.env = append(s.env, variables...)
	s.parse(name, text)
	if len(s.steps) == 0 {
		t.Fatalf("%s does nothing", name)
	}
	s.run()
}

func TestShell(t *testing.T) {
	files, err := filepath.Glob("testdata/shell/*.txt")
	if err != nil || len(files) < 7 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text := string(readFile(t, file))
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			runScript(t, file, text)
		})
	}
}

// TestReadmeShell runs the README's examples, and compares what it says that they print.
func TestReadmeShell(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```console\n(.*?)```").FindAllSubmatch(readFile(t, "README.md"), -1)
	if len(blocks) == 0 {
		t.Fatal("there are no examples")
	}
	var text strings.Builder
	for _, block := range blocks {
		for line := range strings.Lines(string(block[1])) {
			if !strings.HasPrefix(line, "$ ") {
				line = "> " + line
			}
			text.WriteString(line)
		}
	}
	runScript(t, "README.md", text.String())
}
