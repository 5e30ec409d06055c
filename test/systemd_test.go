//go:build unix

package test

// Tests with what systemd gives a service: a datagram socket to tell how it is, sockets that are open already, a
// watchdog.

import (
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"edge/internal/edgetest"
)

// supervise starts edge under a supervisor and waits until it is ready.
func supervise(t *testing.T, env string, args ...string) (*edgetest.Supervisor, *edgetest.Process) {
	t.Helper()
	sup, cmd := edgetest.NewSupervisor(t), edgetest.Command(t, false, args...)
	cmd.Env = []string{"NOTIFY_SOCKET=" + sup.Name, env}
	p := edgetest.StartCommand(t, cmd)
	sup.Expect("READY=1\nSTATUS=0 connections, 0 channels")
	return sup, p
}

// TestNotify: the messages of a service of type notify, from its start to its end.
func TestNotify(t *testing.T) {
	sup, p := supervise(t, "", "-config", config(t, "{}"))
	// It joins with the handshake: the status follows some time after a client came, and not again when one joins.
	join := edgetest.SubscribeMessage("a", "", "")
	c := edgetest.Handshake(t, edgetest.Dial(t, p.Addr), edgetest.Path, string(join))
	c.Established()
	c.Expect(edgetest.Succeeded("a"))
	sup.Expect("STATUS=1 connection, 1 channel")
	p.Signal(syscall.SIGHUP)
	sup.Expect(`RELOADING=1\nMONOTONIC_USEC=\d+\n`)
	sup.Expect("READY=1\nSTATUS=1 connection, 1 channel")
	c.Settled()
	go p.Stop() // waited for below
	sup.Expect("STOPPING=1")
	c.ExpectClose(edgetest.CloseReconnect)
	p.Stop()
}

// TestWatchdog: it is fed while events come through, over TLS and behind a prefix too, whatever limits there are, and
// leaves no trace in the log.
func TestWatchdog(t *testing.T) {
	dir, _ := edgetest.CertDir(t)
	for _, args := range [][]string{
		nil,
		append(edgetest.TLSArgs(dir), "-path", "/edge"),
		{"-origins", "a.example", "-max-connections", "1", "-authorized-connections", "1s"},
	} {
		sup, p := supervise(t, "WATCHDOG_USEC=200000", append(args, "-verbose")...)
		for range 5 {
			sup.Expect("WATCHDOG=1")
		}
		if p.Stop(); strings.Contains(p.Output(), "watchdog") {
			t.Errorf("%q: it shows:\n%s", args, p.Output())
		}
	}
}

// TestNotifyUnread: a supervisor that reads nothing holds up nobody, least of all the end.
func TestNotifyUnread(t *testing.T) {
	sup, p := supervise(t, "")
	sup.SetReadBuffer(1)
	for full := false; !full; { // with what we send ourselves there is no room for STOPPING=1
		c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: sup.Name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, err = c.Write([]byte("x"))
		full = isTimeout(err)
		c.Close()
	}
	p.Stop()
}

// inherit starts edge with a listener that is open already, as systemd does: on descriptor 3, and with the process id
// it will have.
func inherit(t *testing.T, l net.Listener, args ...string) *edgetest.Process {
	t.Helper()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := throughShell(edgetest.Command(t, false, args...), `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`)
	cmd.ExtraFiles = []*os.File{f}
	return edgetest.StartCommand(t, cmd)
}

// TestSocketActivation: edge serves a socket that somebody else has opened, and while it is restarted again and again
// nobody who connects to it is refused: they wait.
func TestSocketActivation(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().String()
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
		p := inherit(t, l, "-addr", "127.0.0.1:1") // the address does not count
		if p.Addr != addr {
			t.Fatalf("it listens on %s, want %s", p.Addr, addr)
		}
		before := connected.Load()
		edgetest.WaitUntil(t, "clients come", func() bool { return connected.Load() > before+20 })
		p.Stop()
	}
	over.Store(true)
	inherit(t, l) // or who waits would wait for ever
	connecting.Wait()
}

// TestInheritedNoListener: a descriptor that is no listener is named.
func TestInheritedNoListener(t *testing.T) {
	script := `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3</dev/null`
	out, err := throughShell(edgetest.Command(t, true), script).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "descriptor 3") {
		t.Errorf("%v: %s", err, out)
	}
}
