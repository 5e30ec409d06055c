package main

// Tests of edge as a process of its own: what it holds, what it survives.

import (
	"bufio"
	"bytes"
	"edge/internal/edgetest"
	"edge/internal/wire"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is a running edge.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	out  io.Reader // what follows the address
	addr string
}

// processes are what this test binary can be instead (TestMain).
var processes = map[string]func(args []string){"edge": func([]string) { main() }, "floor": floor, "handler": bareHandler, "pinger": pinger, "flooder": flooder}

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
	if edgetest.Race || runtime.GOOS != "linux" {
		t.Skip("needs Linux, and no race detector")
	}
	const n, most = 5000, 5000 // connections, bytes
	if limit := descriptorLimit(); limit < n+1000 {
		t.Skipf("%d descriptors are too few for %d connections", limit, n)
	}
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

// TestDescriptors: with all descriptors but the reserve in use, by WebSocket connections and by ones that say nothing or go on
// saying something for ever, publishing works, nothing spins, and soon after they have gone all is as before.
func TestDescriptors(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux")
	}
	cmd := exec.Command("sh", "-c", `ulimit -n 256 && exec "$0" "$@"`, os.Args[0], "-addr", "127.0.0.1:0", "-key", "key")
	p := start(t, "edge", cmd)
	first := connect(t, p.addr)
	first.join("room")
	var all []net.Conn
	leave := func() {
		for _, c := range all {
			c.Close()
		}
		all = nil
		waitUntil(t, "others are welcome again", func() bool {
			c := handshake(t, p.addr, "/app/key?protocol=7", "")
			defer c.conn.Close()
			return strings.Contains(c.text(), "connection_established")
		})
	}
	http.DefaultClient.Timeout = patience
	defer func() { http.DefaultClient.Timeout = 0 }()
	for try := 1; ; try++ {
		for i := range 600 {
			c := dial(t, p.addr)
			switch all = append(all, c); i % 3 {
			case 0:
				fmt.Fprintf(c, "GET /app/key?protocol=7 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
					"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
			case 1:
				io.WriteString(c, "POST /apps/1/events HTTP/1.1\r\nHost")
			}
		}
		longest := time.Duration(0)
		for range 3 {
			http.DefaultClient.CloseIdleConnections() // so that it needs a new connection
			began := time.Now()
			publish(t, p.addr, "room", "hello", "{}")
			longest = max(longest, time.Since(began))
			first.expect(event("hello", "room", "{}"))
		}
		if longest < 4*time.Second { // after five some of those who hold the descriptors are cut off in any case
			break
		}
		if try == 3 {
			t.Fatalf("publishing takes %s", longest)
		}
		leave() // the machine may have been held up
	}
	before := p.cpu()
	time.Sleep(2 * time.Second) // the time that is measured
	if used := p.cpu() - before; used > 1e6 {
		t.Errorf("%.0f us of processor time in two seconds of doing nothing", used)
	}
	leave()
}

// TestUnreadLines: lines that nobody reads, or that cannot be written, hold up nothing, not even the end.
func TestUnreadLines(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	_, unread, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer unread.Close()
	for _, stderr := range []*os.File{full, unread} {
		cmd := exec.Command(os.Args[0], "-addr", "127.0.0.1:0", "-key", "key", "-verbose")
		cmd.Stderr = stderr
		p := start(t, "edge", cmd) // nobody reads its standard output either
		c := connect(t, p.addr)
		for i := range 2000 { // more than a pipe holds
			c.send(`{"event":"pusher:unsubscribe","data":{"channel":"%s%d"}}`, strings.Repeat("x", 150), i)
			if i == 200 {
				break // the rest would be slowed down
			}
		}
		for range 300 {
			handshake(t, p.addr, "/app/"+strings.Repeat("x", 50), "").conn.Close()
		}
		c.conn.Close()
		c = connect(t, p.addr)
		c.join("room")
		publish(t, p.addr, "room", "hello", "{}")
		c.expect(event("hello", "room", "{}"))
		cmd.Process.Signal(syscall.SIGTERM)
		c.expectClose(wire.CodeReconnect)
		if err := cmd.Wait(); err != nil {
			t.Errorf("exit: %v", err)
		}
	}
}

// TestSecretStaysInside makes everything go wrong that has to do with the secret, given in each way that hides it. (TestMain looks
// for it in whatever all the tests see.)
func TestSecretStaysInside(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(testSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"variable", "file"} {
		cmd := exec.Command(os.Args[0], "-addr", "127.0.0.1:0", "-key", "key", "-verbose", "-webhook", "http://127.0.0.1:1/none")
		if how == "file" {
			cmd.Args, cmd.Env = append(cmd.Args, "-secret-file", file), []string{"EDGE_SECRET="}
		}
		var problems bytes.Buffer
		cmd.Stderr = &problems
		p := start(t, "edge", cmd)
		c := connect(t, p.addr)
		c.send(`{"event":"pusher:subscribe","data":{"channel":"private-room","auth":"key:%064d"}}`, 1)
		said := c.text() + c.text()
		c.send(`{"event":"pusher:signin","data":{"auth":"key:%064d","user_data":"{\"id\":\"1\"}"}}`, 1)
		said += c.text()
		for _, path := range []string{"/apps/1/events", "/apps/1/channels", "/apps/1/nothing", "/"} {
			for _, method := range []string{"GET", "POST", "PUT"} {
				r, _ := http.NewRequest(method, strings.Replace(signedURL(p.addr, method, path, "", "{}"), "signature=", "signature=0", 1), strings.NewReader("{}"))
				_, answer := do(t, r)
				said += answer
			}
		}
		http.DefaultClient.CloseIdleConnections()
		cmd.Process.Signal(syscall.SIGTERM)
		rest, _ := io.ReadAll(p.out)
		cmd.Wait()
		if said += string(rest) + problems.String(); strings.Contains(said, testSecret) || strings.Count(said, "Invalid signature") < 4 {
			t.Errorf("by %s: the secret was said, or nothing was refused:\n%s", how, said)
		}
	}
}
