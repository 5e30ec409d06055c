package main

// systemd, without its library: how we are (sd_notify(3)), sockets that it has opened (sd_listen_fds(3)), its watchdog
// (sd_watchdog_enabled(3)). The units are in package/.

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	statusEvery   = 5 * time.Second // at most, while something changes
	probeTimeout  = 5 * time.Second
	firstListenFD = 3 // SD_LISTEN_FDS_START
)

// notifier tells systemd how we are. Without it, nobody.
type notifier struct {
	// Static after construction.
	addr     *net.UnixAddr // nil for nobody
	watchdog time.Duration // in which it wants to hear of us; 0 for never

	pending atomic.Bool // a timer runs that will tell the status
}

// newNotifier reads from the environment what systemd has said.
func newNotifier(getenv func(string) (string, bool)) *notifier {
	n := new(notifier)
	if name, ok := getenv("NOTIFY_SOCKET"); ok && name != "" {
		n.addr = &net.UnixAddr{Name: name, Net: "unixgram"} // @ begins an abstract one, as Go has it too
	}
	usec, _ := getenv("WATCHDOG_USEC")
	pid, ok := getenv("WATCHDOG_PID")
	if micros, err := strconv.Atoi(usec); err == nil && micros > 0 && n.addr != nil && (!ok || pid == strconv.Itoa(os.Getpid())) {
		n.watchdog = time.Duration(micros) * time.Microsecond
	}
	return n
}

// tell sends lines like READY=1. What goes wrong is nobody's business.
func (n *notifier) tell(lines ...string) {
	if n.addr == nil {
		return
	}
	if conn, err := net.DialUnix("unixgram", nil, n.addr); err == nil {
		conn.SetWriteDeadline(time.Now().Add(time.Second)) // nobody may read it
		conn.Write([]byte(strings.Join(lines, "\n")))
		conn.Close()
	}
}

// status is the line that systemctl status shows.
func (s *server) status() string {
	connections, channels := 0, 0
	for _, a := range s.apps.Load().all {
		connections += a.connections()
		channels += a.countChannels()
	}
	return fmt.Sprintf("STATUS=%s, %s", plural(connections, "connection"), plural(channels, "channel"))
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// statusLater tells the status soon, after what else changes.
func (s *server) statusLater() {
	if s.notifier.addr != nil && s.notifier.pending.CompareAndSwap(false, true) {
		time.AfterFunc(statusEvery, func() {
			defer recovered("status")
			s.notifier.pending.Store(false)
			s.notifier.tell(s.status())
		})
	}
}

// feedWatchdog tells systemd's watchdog that we are alive as long as we are, until ctx is done.
func (s *server) feedWatchdog(ctx context.Context, l net.Listener) {
	for ctx.Err() == nil {
		wait := s.notifier.watchdog / 2
		if err := s.probe(ctx, l); err == nil {
			s.notifier.tell("WATCHDOG=1")
		} else if ctx.Err() == nil {
			slog.Error("an event does not come through: the watchdog is not fed", "error", err)
			wait /= 10 // one that fails must not end us: there is time for more
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// newProbe makes the app of the watchdog, which nobody else knows, and which has nothing to do with limits.
func newProbe(o options) *App {
	a := o.app.anonymous("watchdog")
	a.limits.origins, a.limits.authorizeWithin = nil, 0
	return newApp(a, newBudget(1<<30), new(watch))
}

// probe takes the way of all events: it connects to the listener, subscribes, triggers an event and waits until it comes.
func (s *server) probe(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var d net.Dialer
	addr := l.Addr().String()
	if host, port, err := net.SplitHostPort(addr); err == nil && net.ParseIP(host).IsUnspecified() {
		addr = net.JoinHostPort("localhost", port)
	}
	conn, err := d.DialContext(ctx, l.Addr().Network(), addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, sealed := l.(tlsListener); sealed {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // we know whom we talk to
	}
	fmt.Fprintf(conn, "GET %s/app/%s?protocol=7 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: d2F0Y2hkb2cgb2YgZWRnZQ==\r\n\r\n", s.began.path, s.probed.keys()[0].name)
	message := `{"event":"pusher:subscribe","data":{"channel":"watchdog"}}`
	conn.Write(appendMasked(nil, opText, [4]byte{}, []byte(message)))
	if err := readUntil(conn, eventSubscriptionSucceeded); err != nil {
		return err
	}
	s.probed.trigger("watchdog", kindPublic, Event{name: []byte("bark"), data: emptyData})
	return readUntil(conn, `"bark"`)
}

// readUntil reads what comes until this is in it.
func readUntil(r io.Reader, what string) error {
	var got []byte
	for b := make([]byte, 1024); !strings.Contains(string(got), what); {
		n, err := r.Read(b)
		if got = append(got, b[:n]...); err != nil {
			return fmt.Errorf("no %s: %w", what, err)
		}
	}
	return nil
}

// inheritedListeners are the sockets that systemd has opened for us; none if it has not.
func inheritedListeners(getenv func(string) (string, bool)) (all []net.Listener, err error) {
	pid, _ := getenv("LISTEN_PID")
	count, _ := getenv("LISTEN_FDS")
	n, _ := strconv.Atoi(count)
	if pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	for fd := firstListenFD; fd < firstListenFD+n; fd++ {
		f := os.NewFile(uintptr(fd), "LISTEN_FDS")
		l, err := net.FileListener(f)
		f.Close() // the listener has its own
		if err != nil {
			return nil, fmt.Errorf("cannot listen on descriptor %d that was passed: %w", fd, err)
		}
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // it is systemd's
		}
		all = append(all, l)
	}
	return all, nil
}
