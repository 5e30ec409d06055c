package main

// Tests of edge as a process of its own: what it holds, what it survives.

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// process is a running edge.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	out  io.Reader // what follows the address
	addr string
}

// processes are what this test binary can be instead (TestMain).
var processes = map[string]func(args []string){"edge": func([]string) { main() }}

// startProcess starts this test binary as one of the processes, edge on a free port. It ends with the test.
func startProcess(t testing.TB, kind string, args ...string) *process {
	t.Helper()
	if kind == "edge" {
		args = append([]string{"-addr", "127.0.0.1:0", "-key", "key"}, args...)
	}
	return start(t, kind, exec.Command(os.Args[0], args...))
}

// edgeCommand is edge as a process, for start.
func edgeCommand(args ...string) *exec.Cmd { return exec.Command(os.Args[0], args...) }

// start starts a command that is one of the processes and says its address on its standard output. The secret is in its
// environment, and must not be seen anywhere else.
func start(t testing.TB, kind string, cmd *exec.Cmd) *process {
	t.Helper()
	cmd.Env = append(append(os.Environ(), "EDGE_TEST_PROCESS="+kind, "EDGE_SECRET="+testSecret), cmd.Env...)
	if cmd.Stderr == nil {
		cmd.Stderr = watched{"the standard error of a process", os.Stderr}
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	p := &process{t: t, cmd: cmd, out: io.TeeReader(out, watched{"the standard output of a process", io.Discard})}
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid))
	lookForSecret("a command line", line)
	for lines := bufio.NewScanner(p.out); p.addr == "" && lines.Scan(); {
		_, rest, ok := strings.Cut(lines.Text(), "http://")
		if !ok {
			_, rest, ok = strings.Cut(lines.Text(), "https://")
		}
		if ok {
			p.addr, _, _ = strings.Cut(rest, "/")
		}
	}
	if p.addr == "" {
		t.Fatalf("%s says no address", cmd)
	}
	return p
}
