package main

// Tests with what systemd gives a service: a datagram socket to tell how it is, sockets that are open already, a watchdog.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"edge/internal/edgetest"
	"edge/internal/wire"
)

// supervisor is the other end of sd_notify(3).
type supervisor struct {
	*net.UnixConn
	t    *testing.T
	name string
}

func newSupervisor(t *testing.T) *supervisor {
	t.Helper()
	name := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &supervisor{conn, t, name}
}

// expect waits for a message that matches, and skips status and watchdog messages that do not.
func (s *supervisor) expect(pattern string) {
	s.t.Helper()
	s.SetReadDeadline(time.Now().Add(patience))
	for b := make([]byte, 4096); ; {
		n, err := s.Read(b)
		if err != nil {
			s.t.Fatalf("no %s: %v", pattern, err)
		}
		m := string(b[:n])
		if regexp.MustCompile("^(?:" + pattern + ")$").MatchString(m) {
			return
		}
		if !strings.HasPrefix(m, "WATCHDOG=1") && !strings.HasPrefix(m, "STATUS=") {
			s.t.Fatalf("got %q, want %s", m, pattern)
		}
	}
}

// TestNotify: the messages of a service of type notify, from its start to its end.
func TestNotify(t *testing.T) {
	sup := newSupervisor(t)
	cmd := edgeCommand("-addr", "127.0.0.1:0", "-key", "key", "-config", configOf(t, "{}"))
	cmd.Env = []string{"NOTIFY_SOCKET=" + sup.name}
	p := start(t, "edge", cmd)
	sup.expect("READY=1\nSTATUS=0 connections, 0 channels")
	// It joins with the handshake: the status follows some time after a client came, and not again when one joins.
	join := maskedFrame(0x80|opText, []byte(`{"event":"pusher:subscribe","data":{"channel":"a"}}`))
	c := handshake(t, p.addr, keyPath, string(join))
	c.established()
	c.expect(succeeded("a"))
	sup.expect("STATUS=1 connection, 1 channel")
	p.cmd.Process.Signal(syscall.SIGHUP)
	sup.expect(`RELOADING=1\nMONOTONIC_USEC=\d+\n`)
	sup.expect("READY=1\nSTATUS=1 connection, 1 channel")
	c.settled()
	p.cmd.Process.Signal(syscall.SIGTERM)
	sup.expect("STOPPING=1")
	c.expectClose(wire.CodeReconnect)
	if err := p.cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestWatchdog: it is fed while events come through, over TLS and behind a prefix too, whatever limits there are, and leaves no trace
// in the log.
func TestWatchdog(t *testing.T) {
	dir, _ := edgetest.CertDir(t)
	for _, args := range [][]string{
		nil,
		append(edgetest.TLSArgs(dir), "-path", "/edge"),
		{"-origins", "a.example", "-max-connections", "1", "-authorized-connections", "1s"},
	} {
		sup := newSupervisor(t)
		cmd := edgeCommand(append(args, "-addr", "127.0.0.1:0", "-key", "key", "-verbose")...)
		cmd.Env = []string{"NOTIFY_SOCKET=" + sup.name, "WATCHDOG_USEC=200000"}
		p := start(t, "edge", cmd)
		sup.expect("READY=1\nSTATUS=0 connections, 0 channels")
		for range 5 {
			sup.expect("WATCHDOG=1")
		}
		p.cmd.Process.Signal(syscall.SIGTERM)
		said, _ := io.ReadAll(p.out)
		if p.cmd.Wait(); strings.Contains(string(said), "watchdog") {
			t.Errorf("%q: it shows:\n%s", args, said)
		}
	}
}

// TestProbe: what the watchdog asks for is answered only as long as accepting and delivering work.
func TestProbe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := startOn(t, l)
	for range 3 {
		began := time.Now()
		if err := s.probe(t.Context(), l); err != nil && time.Since(began) < probeTimeout { // else the machine was held up: it works in the end
			t.Fatal(err)
		}
	}
	waitUntil(t, "nothing is left of it", s.probed.empty)
	if n := s.memory.clients.Load(); n != 0 || s.app.connections() != 0 {
		t.Errorf("it counts as %d clients", n)
	}
	fails := func(what string, l net.Listener) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := s.probe(ctx, l); err == nil {
			t.Errorf("%s is fine", what)
		}
	}
	silent, _ := net.Listen("tcp", "127.0.0.1:0")
	fails("a listener that nobody serves", silent)
	silent.Close()
	fails("one that is closed", silent)
	first := connectTo(t, s.addr, s.probed.keys()[0].Name)
	first.join("watchdog")
	id, _ := wire.ParseSocketID(first.id)
	socket := s.probed.socket(id)
	socket.conn.mu.Lock() // the pump stands still there
	fails("a channel that delivers nothing", l)
	socket.conn.mu.Unlock()
	waitUntil(t, "it works again", func() bool { return s.probe(t.Context(), l) == nil })
}

// throughShell has a script run the command, which has it as "$0" "$@".
func throughShell(cmd *exec.Cmd, script string) *exec.Cmd {
	return exec.Command("/bin/sh", append([]string{"-c", script, cmd.Path}, cmd.Args[1:]...)...)
}

// inherit starts edge with a listener that is open already, as systemd does: on descriptor 3, and with the process id it will have.
func inherit(t *testing.T, l *net.TCPListener, args ...string) *process {
	t.Helper()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := throughShell(edgeCommand(args...), `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`)
	cmd.ExtraFiles = []*os.File{f}
	return start(t, "edge", cmd)
}

// TestSocketActivation: edge serves a socket that somebody else has opened, and while it is restarted again and again nobody who
// connects to it is refused: they wait.
func TestSocketActivation(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().String()
	p := inherit(t, l.(*net.TCPListener), "-key", "key", "-addr", "127.0.0.1:1") // the address does not count
	if p.addr != addr {
		t.Fatalf("it listens on %s, want %s", p.addr, addr)
	}
	var over atomic.Bool
	var connecting sync.WaitGroup
	var connected atomic.Int64
	for range 4 {
		connecting.Go(func() {
			for !over.Load() {
				c, err := edgetest.TryJoin(addr, "room")
				if err == nil {
					connected.Add(1)
					c.Leave()
				} else if errors.Is(err, syscall.ECONNREFUSED) { // others: connected when the old one ended
					t.Errorf("refused: %v", err)
				}
			}
		})
	}
	for range 4 {
		before := connected.Load()
		waitUntil(t, "clients come", func() bool { return connected.Load() > before+20 })
		p.cmd.Process.Signal(syscall.SIGTERM)
		if err := p.cmd.Wait(); err != nil {
			t.Error(err)
		}
		p = inherit(t, l.(*net.TCPListener), "-key", "key")
	}
	over.Store(true)
	connecting.Wait()
}

// TestInheritedNoListener: a descriptor that is no listener is named.
func TestInheritedNoListener(t *testing.T) {
	cmd := throughShell(edgeCommand("-key", "key"), `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3</dev/null`)
	cmd.Env = append(os.Environ(), "EDGE_TEST_PROCESS=edge")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "descriptor 3") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestNotifyUnread: a supervisor that reads nothing holds up nobody, least of all the end.
func TestNotifyUnread(t *testing.T) {
	sup := newSupervisor(t)
	sup.SetReadBuffer(1)
	cmd := edgeCommand("-addr", "127.0.0.1:0", "-key", "key")
	cmd.Env = []string{"NOTIFY_SOCKET=" + sup.name}
	p := start(t, "edge", cmd)
	for full := false; !full; { // with what we send ourselves there is no room for STOPPING=1
		c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: sup.name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, err = c.Write([]byte("x"))
		full = isTimeout(err)
		c.Close()
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	defer time.AfterFunc(patience, func() { p.cmd.Process.Kill() }).Stop()
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("SIGTERM does not end it: %v", err)
	}
}

// TestWatchdogTriesAgain: one probe that fails, of a listener that hangs for a moment, does not end a healthy server.
func TestWatchdogTriesAgain(t *testing.T) {
	const period = 30 * time.Second // it takes a tenth of it
	sup := newSupervisor(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	broken := &brokenListener{Listener: l}
	broken.left.Store(2)
	t.Setenv("NOTIFY_SOCKET", sup.name)
	t.Setenv("WATCHDOG_USEC", fmt.Sprint(period.Microseconds()))
	s := testOptions(t).server(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	began := time.Now()
	go func() { done <- s.serve(ctx, broken) }()
	sup.expect("READY=1\nSTATUS=0 connections, 0 channels")
	sup.expect("WATCHDOG=1")
	if broken.left.Load() > 0 {
		t.Error("it was told before a probe has failed")
	}
	if waited := time.Since(began); waited >= period {
		t.Errorf("it was told after %s", waited)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// brokenListener closes some of what it accepts.
type brokenListener struct {
	net.Listener
	left atomic.Int64
}

func (l *brokenListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err == nil && l.left.Add(-1) >= 0 {
		nc.Close()
	}
	return nc, err
}
