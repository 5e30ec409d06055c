package main

// Tests of edge as a process of its own: what it holds, what it survives.

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// process is a running edge.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	addr string
}

// processes are what this test binary can be instead (TestMain).
var processes = map[string]func(args []string){"edge": func([]string) { main() }, "floor": floor, "handler": bareHandler}

// startProcess starts this test binary as one of the processes, edge on a free port. It ends with the test.
func startProcess(t testing.TB, kind string, args ...string) *process {
	t.Helper()
	if kind == "edge" {
		args = append([]string{"-addr", "127.0.0.1:0", "-key", "key", "-secret", "secret"}, args...)
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "EDGE_TEST_PROCESS="+kind)
	cmd.Stderr = os.Stderr
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
	p := &process{t: t, cmd: cmd}
	for lines := bufio.NewScanner(out); p.addr == "" && lines.Scan(); {
		if _, rest, ok := strings.Cut(lines.Text(), "http://"); ok {
			p.addr, _, _ = strings.Cut(rest, "/")
		}
	}
	if p.addr == "" {
		t.Fatalf("%s says no address", kind)
	}
	return p
}

// status returns a number of /proc/PID/status, summed up over the threads if each of them has its own.
func (p *process) status(name string, threads bool) (sum int) {
	p.t.Helper()
	pattern := fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid)
	if threads {
		pattern = fmt.Sprintf("/proc/%d/task/*/status", p.cmd.Process.Pid)
	}
	files, _ := filepath.Glob(pattern)
	found := false
	for _, file := range files {
		b, _ := os.ReadFile(file) // a thread may have ended
		if _, rest, ok := strings.Cut(string(b), "\n"+name+":"); ok {
			line, _, _ := strings.Cut(rest, "\n")
			n, err := strconv.Atoi(strings.Fields(line)[0])
			found, sum = err == nil, sum+n
		}
	}
	if !found {
		p.t.Fatalf("no %s in %s", name, pattern)
	}
	return sum
}

// resident returns the bytes of memory the process holds.
func (p *process) resident() int { return p.status("VmRSS", false) << 10 }

// TestMemory: what an idle connection holds, and that it is given back.
func TestMemory(t *testing.T) {
	if raceEnabled || runtime.GOOS != "linux" {
		t.Skip("needs Linux, and no race detector")
	}
	const n, most = 5000, 5000 // connections, bytes
	p := startProcess(t, "edge")
	start := p.resident()
	clients := make([]*client, n)
	for i := range clients {
		clients[i] = connect(t, p.addr)
		clients[i].join("room")
	}
	waitUntil(t, fmt.Sprintf("a connection holds %d bytes", most), func() bool { return p.resident()-start <= n*most })
	t.Logf("%d KiB at start, %d bytes for each of %d connections", start>>10, (p.resident()-start)/n, n)
	for _, c := range clients {
		c.conn.Close()
	}
	waitUntil(t, "memory is given back", func() bool { return p.resident() <= 2*start })
}

// TestIdle: a server that nobody uses, or any more, does not wake up.
func TestIdle(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux")
	}
	t.Parallel() // waits most of the time
	p := startProcess(t, "edge")
	c := connect(t, p.addr)
	c.join("room")
	publish(t, p.addr, "room", "e", "{}")
	http.DefaultClient.CloseIdleConnections()
	c.conn.Close()
	switches := func() int {
		return p.status("voluntary_ctxt_switches", true) + p.status("nonvoluntary_ctxt_switches", true)
	}
	const seconds = 10
	waitUntil(t, fmt.Sprintf("it sleeps for %d seconds but for as many moments", seconds), func() bool {
		before := switches()
		time.Sleep(seconds * time.Second) // the time that is measured
		return switches()-before < seconds
	})
}
