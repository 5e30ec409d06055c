package main

// systemd: notifications (sd_notify(3)), inherited sockets (sd_listen_fds(3)) and the watchdog. The units are in package/.

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"edge/internal/channel"
	"edge/internal/config"
	"edge/internal/conn"
	"edge/internal/wire"
)

const (
	statusEvery   = 5 * time.Second // at most, while something changes
	probeTimeout  = 5 * time.Second
	notifyTimeout = time.Second
)

// notifier reports to systemd. Without systemd it does nothing.
type notifier struct {
	// Static after construction.
	watched  bool          // by systemd
	watchdog time.Duration // within which systemd expects WATCHDOG=1; 0 for never
	sending  chan struct{} // full while a message is being sent

	pending atomic.Bool // a timer runs that will report the status
}

// newNotifier reads systemd's wishes from the environment.
func newNotifier() *notifier {
	n := &notifier{watched: os.Getenv("NOTIFY_SOCKET") != "", sending: make(chan struct{}, 1)}
	if n.watched {
		n.watchdog, _ = daemon.SdWatchdogEnabled(false) // 0 for what it cannot read
	}
	return n
}

// notify sends lines like READY=1. It gives up after notifyTimeout if nobody reads, and does not report errors.
func (n *notifier) notify(lines ...string) {
	if !n.watched {
		return
	}
	late := time.After(notifyTimeout)
	select {
	case n.sending <- struct{}{}:
	case <-late:
		return
	}
	sent := make(chan struct{})
	go func() { // ends when systemd reads, or with the process
		daemon.SdNotify(false, strings.Join(lines, "\n"))
		<-n.sending
		close(sent)
	}()
	select {
	case <-sent:
	case <-late:
	}
}

// status is the line that systemctl status shows.
func (s *server) status() string {
	connections, channels := 0, 0
	for _, a := range s.apps.Load().all {
		connections += a.Connections()
		channels += a.CountChannels()
	}
	return fmt.Sprintf("STATUS=%s, %s", plural(connections, "connection"), plural(channels, "channel"))
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// statusLater reports the status in a few seconds, with all changes until then.
func (s *server) statusLater() {
	if s.notifier.watched && s.notifier.pending.CompareAndSwap(false, true) {
		time.AfterFunc(statusEvery, func() {
			defer conn.Recovered("status")
			s.notifier.pending.Store(false)
			s.notifier.notify(s.status())
		})
	}
}

// feedWatchdog tells systemd's watchdog that we are alive as long as we are, until ctx is done.
func (s *server) feedWatchdog(ctx context.Context, l net.Listener) {
	for ctx.Err() == nil {
		wait := s.notifier.watchdog / 2
		if err := s.probe(ctx, l); err == nil {
			s.notifier.notify(daemon.SdNotifyWatchdog)
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
func newProbe(o config.Options) *app {
	a := o.Apps[0].Anonymous("watchdog")
	a.Origins, a.Limits.AuthorizeWithin = nil, 0
	return newFrontApp(a, conn.NewBudget(1<<30))
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
	nc, err := d.DialContext(ctx, l.Addr().Network(), addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	if _, sealed := l.(conn.TLSListener); sealed {
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true}) // we know whom we talk to
	}
	fmt.Fprintf(nc, "GET %s/app/%s?protocol=7 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: d2F0Y2hkb2cgb2YgZWRnZQ==\r\n\r\n", s.began.Path, s.probed.keys()[0].Name)
	message := `{"event":"pusher:subscribe","data":{"channel":"watchdog"}}`
	nc.Write(conn.AppendMasked(nil, conn.OpText, [4]byte{}, []byte(message)))
	if err := readUntil(nc, wire.EventSubscriptionSucceeded); err != nil {
		return err
	}
	s.probed.Trigger("watchdog", wire.KindPublic, channel.Event{Name: []byte("bark"), Data: wire.EmptyData})
	return readUntil(nc, `"bark"`)
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
