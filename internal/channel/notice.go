package channel

// Notices: what happens in an app, for whoever observes it (webhooks, the console, the log). Without observers a notice
// costs one atomic load.

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"edge/internal/wire"
)

// Kinds is a set of kinds of notices.
type Kinds uint32

const (
	AboutConnections   Kinds = 1 << iota // established, closed, cut, signed in
	AboutSubscriptions                   // begun and ended
	AboutRejections                      // connections, subscriptions, messages and calls
	AboutEvents                          // triggered over HTTP
	AboutClientEvents                    // sent by clients
	AboutCalls                           // of the HTTP API, answered
	AboutDeliveries                      // of webhooks
	AboutFrames                          // every message received and sent
	AboutLevels                          // webhook events but for client_event: channels, members, caches and counts
)

// Notice is something that happened. Its strings are from outside: whoever prints them quotes them. Its slices are
// valid until the observer returns.
type Notice struct {
	About   Kinds  // one of them
	What    string // in a word or two, of ours; of a webhook event its name
	Socket  wire.SocketID
	Remote  string
	Channel string
	Event   string
	User    string
	Data    []byte // of an event a JSON string literal
	Code    int
	Reason  string
	Reached int           // subscriptions of an event or a channel, or events that a webhook delivered
	Took    time.Duration // to answer a call, or for a receiver to answer
	At      int64         // of a count, the moment at which it was taken,
	Latest  func() bool   // and whether that is later than those it was asked about before
}

// What is reported in more than one place.
const (
	NoticeRejected    = "refused"
	NoticeEvent       = "event"
	noticeClientEvent = "client event"
)

// observers are the observers of an app.
type observers struct {
	wanted atomic.Uint32               // kinds that one of them wants
	list   atomic.Pointer[[]*observer] // never changes, another takes its place; nil for none
	mu     sync.Mutex                  // held while list changes
}

type observer struct {
	kinds Kinds
	f     func(Notice)
}

// Observe has f called with every notice of these kinds until end is called. f runs in the goroutine in which it
// happens, with no lock of the app held; it must not block.
func (a *App) Observe(k Kinds, f func(Notice)) (end func()) {
	o := &observer{k, f}
	a.observers.change(func(all []*observer) []*observer { return append(all, o) })
	return func() {
		a.observers.change(func(all []*observer) []*observer {
			return slices.DeleteFunc(all, func(other *observer) bool { return other == o })
		})
	}
}

func (o *observers) change(f func([]*observer) []*observer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []*observer
	if old := o.list.Load(); old != nil {
		all = slices.Clone(*old)
	}
	all = f(all)
	wanted := Kinds(0)
	for _, one := range all {
		wanted |= one.kinds
	}
	o.list.Store(&all)
	o.wanted.Store(uint32(wanted))
}

// Observes reports whether someone wants notices of one of these kinds.
func (a *App) Observes(k Kinds) bool { return Kinds(a.observers.wanted.Load())&k != 0 }

// Notify gives n to its observers. Where that must cost nothing, the caller asks observes before it makes the notice.
func (a *App) Notify(n Notice) {
	if !a.Observes(n.About) {
		return
	}
	for _, o := range *a.observers.list.Load() {
		if o.kinds&n.About != 0 {
			o.f(n)
		}
	}
}

// notifyEvent notifies of an event that was triggered. That it reached nobody is what is asked for most.
func (a *App) notifyEvent(name string, e Event, reached int) {
	n := Notice{About: AboutEvents, What: NoticeEvent}
	if !e.Keep {
		n.About, n.What = AboutClientEvents, noticeClientEvent
	}
	if !a.Observes(n.About) {
		return
	}
	n.Channel, n.Event, n.User, n.Data, n.Reached = name, string(e.Name), e.UserID, e.Data, reached
	if e.Except != nil {
		n.Socket = e.Except.ID
	}
	switch {
	case reached > 0:
	case e.Except != nil:
		n.Reason = "nobody but the sender subscribes to the channel"
	default:
		n.Reason = "nobody subscribes to the channel"
	}
	a.Notify(n)
}

// Attrs are what a notice has but for its data, each cut to so many characters.
func (n Notice) Attrs(app string, most int) (all []slog.Attr) {
	add := func(name, text string) {
		if text != "" {
			all = append(all, slog.String(name, fmt.Sprintf("%.*s", most, text)))
		}
	}
	add("app", app)
	if n.Socket != (wire.SocketID{}) {
		add("socket", n.Socket.String())
	}
	add("client", n.Remote)
	add("channel", n.Channel)
	add("event", n.Event)
	add("user", n.User)
	if n.Code != 0 {
		all = append(all, slog.Int("code", n.Code))
	}
	add("reason", string(HideSignatures([]byte(n.Reason))))
	return all
}

// HideSignatures returns a copy of b without what could be one: 64 hexadecimal digits in a row.
func HideSignatures(b []byte) []byte {
	out := make([]byte, 0, len(b))
	digits := 0 // in a row, at the end of out
	for _, c := range b {
		out = append(out, c)
		if digits++; strings.IndexByte("0123456789abcdefABCDEF", c) < 0 {
			digits = 0
		}
		if digits == 64 {
			out, digits = append(out[:len(out)-64], "…"...), 0
		}
	}
	return out
}
