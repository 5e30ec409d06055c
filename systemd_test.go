package main

// Tests with what systemd gives a service: a datagram socket to tell how it is, sockets that are open already, a watchdog.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// supervisor is the other end of sd_notify(3).
type supervisor struct {
	t    *testing.T
	name string
	got  chan string
}

func newSupervisor(t *testing.T, name string) *supervisor {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Skip(err)
	}
	s := &supervisor{t: t, name: name, got: make(chan string, 1000)}
	var reading sync.WaitGroup
	reading.Go(func() {
		for b := make([]byte, 4096); ; {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			s.got <- string(b[:n])
		}
	})
	t.Cleanup(func() {
		conn.Close()
		reading.Wait()
	})
	return s
}

// expect waits for a message that matches, passing over watchdog messages, and after the first also over the status.
func (s *supervisor) expect(pattern string) {
	s.t.Helper()
	for end := time.After(patience); ; {
		select {
		case m := <-s.got:
			if regexp.MustCompile("^(?:" + pattern + ")$").MatchString(m) {
				return
			}
			if !strings.HasPrefix(m, "WATCHDOG=1") && !strings.HasPrefix(m, "STATUS=") {
				s.t.Fatalf("got %q, want %s", m, pattern)
			}
		case <-end:
			s.t.Fatalf("no %s", pattern)
		}
	}
}

// TestNotify: systemd is told what a service of type notify tells, over a socket with a name and over an abstract one.
func TestNotify(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux")
	}
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), fmt.Sprintf("@edge-test-%d", os.Getpid())} {
		sup := newSupervisor(t, name)
		cmd := edgeCommand("-addr", "127.0.0.1:0", "-key", "key", "-config", configOf(t, "{}"))
		cmd.Env = []string{"NOTIFY_SOCKET=" + name}
		p := start(t, "edge", cmd)
		sup.expect("READY=1\nSTATUS=0 connections, 0 channels")
		// It joins with the handshake: the status is told some time after a client came, and not again when one joins.
		c := handshake(t, p.addr, keyPath, string(maskedFrame(0x80|opText, []byte(`{"event":"pusher:subscribe","data":{"channel":"a"}}`))))
		c.established()
		c.expect(succeeded("a"))
		sup.expect("STATUS=1 connection, 1 channel")
		p.cmd.Process.Signal(syscall.SIGHUP)
		sup.expect(`RELOADING=1\nMONOTONIC_USEC=\d+\n`)
		sup.expect("READY=1\nSTATUS=1 connection, 1 channel")
		c.settled()
		p.cmd.Process.Signal(syscall.SIGTERM)
		sup.expect("STOPPING=1")
		c.expectClose(codeReconnect)
		if err := p.cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// TestWatchdog: it is fed while events come through, over TLS and behind a prefix too, and not when they do not, and leaves no trace
// in what an app sees.
func TestWatchdog(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux")
	}
	dir, _ := certDir(t)
	for _, args := range [][]string{nil, append(tlsArgs(dir), "-path", "/edge"), {"-origins", "a.example", "-max-connections", "1", "-authorized-connections", "1s"}} {
		name := filepath.Join(t.TempDir(), "notify")
		sup := newSupervisor(t, name)
		cmd := edgeCommand(append(args, "-addr", "127.0.0.1:0", "-key", "key", "-verbose")...)
		cmd.Env = []string{"NOTIFY_SOCKET=" + name, "WATCHDOG_USEC=200000"}
		p := start(t, "edge", cmd)
		sup.expect("READY=1\nSTATUS=0 connections, 0 channels")
		for range 5 {
			select {
			case m := <-sup.got:
				if m != "WATCHDOG=1" {
					t.Errorf("%q: got %q", args, m)
				}
			case <-time.After(patience):
				t.Fatalf("%q: the watchdog is not fed", args)
			}
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
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fails("a listener that nobody serves", silent)
	silent.Close()
	fails("one that is closed", silent)
	first := connectTo(t, s.addr, s.probed.keys()[0].name)
	first.join("watchdog")
	id, _ := parseSocketID(first.id)
	socket := s.probed.socket(id)
	socket.conn.mu.Lock() // the pump stands still there
	fails("a channel that delivers nothing", l)
	socket.conn.mu.Unlock()
	waitUntil(t, "it works again", func() bool { return s.probe(t.Context(), l) == nil })
}

// inherit starts edge with a listener that is open already, as systemd does: on descriptor 3, and with the process id it will have.
func inherit(t *testing.T, l *net.TCPListener, args ...string) *process {
	t.Helper()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := edgeCommand(args...)
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
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
				c, err := tryJoin(addr)
				switch {
				case err == nil:
					connected.Add(1)
					c.leave()
				case errors.Is(err, syscall.ECONNREFUSED):
					t.Errorf("refused: %v", err)
				} // any other: it was connected when the old one ended, and would come back
			}
		})
	}
	h := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	connecting.Go(func() {
		for !over.Load() {
			r, err := h.Get("http://" + addr + "/health")
			if errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("refused: %v", err)
			} else if err == nil {
				r.Body.Close()
			}
		}
	})
	for range 3 {
		before := connected.Load()
		waitUntil(t, "clients come", func() bool { return connected.Load() > before+20 })
		p.cmd.Process.Signal(syscall.SIGTERM)
		if err := p.cmd.Wait(); err != nil {
			t.Error(err)
		}
		p = inherit(t, l.(*net.TCPListener), "-key", "key")
	}
	before := connected.Load()
	waitUntil(t, "clients come", func() bool { return connected.Load() > before+20 })
	over.Store(true)
	connecting.Wait()
}

// TestInheritedNoListener: a descriptor that is no listener is named.
func TestInheritedNoListener(t *testing.T) {
	cmd := edgeCommand("-key", "key")
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3</dev/null`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	cmd.Env = append(os.Environ(), "EDGE_TEST_PROCESS=edge")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "descriptor 3") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestNewNotifier: the watchdog is fed only if systemd wants it of this process, and reads what is sent.
func TestNewNotifier(t *testing.T) {
	for _, c := range []struct {
		socket, usec, pid string
		watchdog          time.Duration
	}{
		{"", "1000", "", 0},
		{"@x", "", "", 0},
		{"@x", "30000000", "", 30 * time.Second},
		{"@x", "5", "1", 0},
		{"@x", "x", "", 0},
	} {
		t.Setenv("NOTIFY_SOCKET", c.socket)
		t.Setenv("WATCHDOG_USEC", c.usec)
		t.Setenv("WATCHDOG_PID", c.pid)
		n := newNotifier()
		if n.watched != (c.socket != "") || n.watchdog != c.watchdog {
			t.Errorf("%+v: %t %s", c, n.watched, n.watchdog)
		}
		n.notify("READY=1") // to nobody
	}
}

// TestNotifyUnread: a supervisor that reads nothing holds up nobody, least of all the end.
func TestNotifyUnread(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadBuffer(1)
	cmd := edgeCommand("-addr", "127.0.0.1:0", "-key", "key")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+name)
	p := start(t, "edge", cmd)
	for full := false; !full; { // with what we send ourselves there is no room for STOPPING=1
		c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, err = c.Write([]byte("x"))
		full = isTimeout(err)
		c.Close()
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan error, 1)
	go func() { done <- p.cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("SIGTERM does not end it")
	}
}

// TestWatchdogTriesAgain: one probe that fails, of a listener that hangs for a moment, does not end a healthy server.
func TestWatchdogTriesAgain(t *testing.T) {
	const period = 30 * time.Second // it takes a tenth of it
	name := filepath.Join(t.TempDir(), "notify")
	sup := newSupervisor(t, name)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	broken := &brokenListener{Listener: l}
	broken.left.Store(2)
	t.Setenv("NOTIFY_SOCKET", name)
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
