// Package systemd reports to systemd: that edge is ready, reloads or stops (sd_notify(3)), what it does, and that it
// lives, which it only says after an event has come through. Without systemd it does nothing. The units are in
// package/; inherited sockets are package listen's.
package systemd

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

	"edge/internal/conn"
	"edge/internal/wire"
)

const (
	statusEvery   = 5 * time.Second // at most, while something changes
	probeTimeout  = 5 * time.Second
	notifyTimeout = time.Second
)

// Notifier reports to systemd. Without systemd it does nothing.
type Notifier struct {
	// Static after construction.
	watched  bool          // by systemd
	watchdog time.Duration // within which systemd expects WATCHDOG=1; 0 for never
	sending  chan struct{} // full while a message is being sent
	status   func() string // what systemctl status shows

	pending atomic.Bool // a timer runs that will report the status
}

// New reads systemd's wishes from the environment. status is what systemctl status is to show.
func New(status func() string) *Notifier {
	n := &Notifier{watched: os.Getenv("NOTIFY_SOCKET") != "", sending: make(chan struct{}, 1), status: status}
	if n.watched {
		n.watchdog, _ = daemon.SdWatchdogEnabled(false) // 0 for what it cannot read
	}
	return n
}

// notify sends lines like READY=1. It gives up after notifyTimeout if nobody reads, and does not report errors.
func (n *Notifier) notify(lines ...string) {
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

// Ready says that edge serves, also again after Reloading.
func (n *Notifier) Ready() { n.notify(daemon.SdNotifyReady, "STATUS="+n.status()) }

// Reloading says that the configuration is being read again; Ready ends that.
func (n *Notifier) Reloading() { n.notify(daemon.SdNotifyReloading, daemon.SdNotifyMonotonicUsec()) }

// Stopping says that edge is about to end.
func (n *Notifier) Stopping() { n.notify(daemon.SdNotifyStopping) }

// StatusLater reports the status in a few seconds, with all changes until then.
func (n *Notifier) StatusLater() {
	if n.watched && n.pending.CompareAndSwap(false, true) {
		time.AfterFunc(statusEvery, func() {
			defer conn.Recovered("status")
			n.pending.Store(false)
			n.notify("STATUS=" + n.status())
		})
	}
}

// FeedWatchdog says that edge is alive as long as an event comes through, until ctx is done. It returns at once if
// nobody asks.
func (n *Notifier) FeedWatchdog(ctx context.Context, p Probe) {
	for n.watchdog > 0 && ctx.Err() == nil {
		wait := n.watchdog / 2
		if err := p.Run(ctx); err == nil {
			n.notify(daemon.SdNotifyWatchdog)
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

// ProbeChannel is the channel of a Probe.
const ProbeChannel = "watchdog"

// Probe takes the way of all events: it connects, subscribes to ProbeChannel, triggers an event and waits until it
// comes.
type Probe struct {
	Listener  net.Listener
	Path, Key string             // of the app
	Trigger   func(event string) // on ProbeChannel
}

// Run returns nil if the event has come within probeTimeout.
func (p Probe) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var d net.Dialer
	addr := p.Listener.Addr().String()
	if host, port, err := net.SplitHostPort(addr); err == nil && net.ParseIP(host).IsUnspecified() {
		addr = net.JoinHostPort("localhost", port)
	}
	nc, err := d.DialContext(ctx, p.Listener.Addr().Network(), addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	if _, sealed := p.Listener.(conn.TLSListener); sealed {
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true}) // we know whom we talk to
	}
	fmt.Fprintf(nc, "GET %s/app/%s?protocol=7 HTTP/1.1\r\nHost: localhost\r\n"+
		"Connection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: d2F0Y2hkb2cgb2YgZWRnZQ==\r\n\r\n", p.Path, p.Key)
	message := `{"event":"pusher:subscribe","data":{"channel":"` + ProbeChannel + `"}}`
	head := []byte{0x80 | conn.OpText, 0x80 | byte(len(message)), 0, 0, 0, 0} // the masking key is 0
	nc.Write(append(head, message...))
	if err := readUntil(nc, wire.EventSubscriptionSucceeded); err != nil {
		return err
	}
	p.Trigger("bark")
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
