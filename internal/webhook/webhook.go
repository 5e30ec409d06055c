// Package webhook is an app's webhooks (https://pusher.com/docs/channels/server_api/webhooks/): what happens to its
// channels, reported to HTTP receivers. Hooks observes a channel.App and learns nothing in another way; it has no
// options of its own and decides nothing for channels.
//
// A channel or member that comes or goes moves a level up or down. Levels, not events, decide what is reported: the two
// halves of a quick return cancel out, in whatever order goroutines notify of them, and the account is exact: what was
// reported as occupied is either occupied or will be reported as vacated. Each receiver has one queue and one
// goroutine, alive while there is something to deliver; nobody ever waits for it but shutdown.
//
// A new webhook event needs its name in internal/wire (Hook…) and in names below, a notice in channel's App.note, and
// a case in Hooks.observe with its fields beside name and channel.
package webhook

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/sign"
	"edge/internal/wire"
)

var names = []string{wire.HookOccupied, wire.HookVacated, wire.HookMemberAdded, wire.HookMemberRemoved,
	wire.HookClientEvent, wire.HookCacheMiss, wire.HookSubscriptionCount}

// Hooks are an app's webhooks.
type Hooks struct {
	// Static after construction.
	app    *channel.App    // gets notices of deliveries
	agent  string          // the User-Agent
	hurry  context.Context // done when draining begins: nothing more waits for others
	over   context.Context // done when draining ends: whatever is left is given up
	rush   func()          // ends hurry
	giveUp func()          // ends over

	mu         sync.Mutex    // guards the following, and the queues of all hooks
	grace      time.Duration // before the end of something is reported
	key        *sign.Key     // signs
	hooks      []*hook
	delivering int                 // goroutines that deliver
	ended      sync.Cond           // one of them has
	levels     map[levelKey]*level // of what is there, or was reported to be
	ends       []end               // grace periods in the order of their ends
	timer      *time.Timer         // calls settle at the first of them
}

// levelKey is a channel, or a member of one.
type levelKey struct{ channel, user string }

// level is how often something is there: once or not at all, and more for a moment when one goroutine notifies of its
// end after another of its return. It is deleted when it is 0 and nothing is reported.
type level struct {
	n        int
	reported bool      // receivers think it is there
	ends     time.Time // when that will be taken back, unless n rises before; zero while n is not 0

	// Of a channel only.
	members int   // reported; the channel is vacated only after them
	waits   bool  // for that, its grace period being over
	counted int64 // the moment of the last subscription_count reported
}

// end is the end of a grace period.
type end struct {
	key   levelKey
	level *level
	at    time.Time
}

// New makes the hooks of an app, none before Configure. The version of edge is for the User-Agent.
func New(app *channel.App, version string) *Hooks {
	w := &Hooks{app: app, agent: "edge/" + version, levels: make(map[levelKey]*level)}
	w.ended.L = &w.mu
	w.hurry, w.rush = context.WithCancel(context.Background())
	w.over, w.giveUp = context.WithCancel(context.Background())
	w.timer = time.AfterFunc(time.Hour, w.settle)
	w.timer.Stop()                                                        // until there is a grace period
	app.Observe(channel.AboutLevels|channel.AboutClientEvents, w.observe) // for good: levels must miss nothing
	return w
}

// Configure makes the hooks those with these URLs, which Check accepts. Bodies are signed with key. Hooks that stay are
// the same as before; those that do not deliver what they have.
func (w *Hooks) Configure(urls []string, key *sign.Key, grace time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.key, w.grace = key, grace
	old := w.hooks
	w.hooks = nil
	for _, url := range urls {
		h, _ := parse(url)
		h.of = w
		if i := slices.IndexFunc(old, func(h *hook) bool { return h.given == url && !h.gone }); i >= 0 {
			h = old[i]
			old = slices.Delete(old, i, i+1)
		}
		w.hooks = append(w.hooks, h)
	}
	for _, h := range old {
		if h.gone = true; h.running {
			w.hooks = append(w.hooks, h)
		}
	}
}

// observe gets what happens in the app. It never blocks.
func (w *Hooks) observe(n channel.Notice) {
	switch n.What {
	case wire.HookOccupied:
		w.move(n.Channel, "", 1)
	case wire.HookVacated:
		w.move(n.Channel, "", -1)
	case wire.HookMemberAdded:
		w.move(n.Channel, n.User, 1)
	case wire.HookMemberRemoved:
		w.move(n.Channel, n.User, -1)
	case wire.HookCacheMiss:
		w.report(wire.HookCacheMiss, n.Channel, nil)
	case wire.HookSubscriptionCount:
		w.reportCount(n)
	default:
		w.report(wire.HookClientEvent, n.Channel, clientEventFields(n))
	}
}

// clientEventFields are the fields of an event by a client. Its data stays the JSON string literal it is.
func clientEventFields(n channel.Notice) []byte {
	fields := append(make([]byte, 0, 128+len(n.Event)+len(n.Data)), `,"event":`...)
	fields = append(append(wire.AppendString(fields, n.Event), `,"data":`...), n.Data...)
	fields = append(n.Socket.Append(append(fields, `,"socket_id":"`...)), '"')
	if n.User != "" {
		fields = appendUser(fields, n.User)
	}
	return fields
}

func appendUser(fields []byte, id string) []byte {
	return wire.AppendString(append(fields, `,"user_id":`...), id)
}

// reportCount reports how many subscriptions a channel has, unless a later count was reported already, of it or of
// another that had its name before.
func (w *Hooks) reportCount(n channel.Notice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.levels[levelKey{n.Channel, ""}]
	if n.Latest() && (l == nil || n.At >= l.counted) { // asked with mu held, to report them in order
		if l != nil {
			l.counted = n.At
		}
		fields := strconv.AppendInt([]byte(`,"subscription_count":`), int64(n.Reached), 10)
		w.reportLocked(wire.HookSubscriptionCount, n.Channel, fields)
	}
}

// move notes that a channel (user is "") or a member has come (by is 1) or gone (-1).
func (w *Hooks) move(channel, user string, by int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := levelKey{channel, user}
	l := w.levelLocked(key)
	switch l.n += by; {
	case l.n > 0:
		l.ends, l.waits = time.Time{}, false
		w.arriveLocked(key, l)
	case w.grace > 0 && w.hurry.Err() == nil:
		l.ends = time.Now().Add(w.grace)
		i := len(w.ends)
		for i > 0 && w.ends[i-1].at.After(l.ends) { // only after the period was made shorter
			i--
		}
		w.ends = slices.Insert(w.ends, i, end{key, l, l.ends})
		w.timeLocked()
	default:
		w.settleLocked(key, l)
	}
}

// timeLocked sets the timer for the first grace period to end.
func (w *Hooks) timeLocked() {
	if len(w.ends) > 0 {
		w.timer.Reset(time.Until(w.ends[0].at))
	}
}

// settle reports what is gone for longer than the grace period.
func (w *Hooks) settle() {
	defer conn.Recovered("webhooks")
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.timeLocked()
	for len(w.ends) > 0 && time.Until(w.ends[0].at) <= 0 {
		w.settleFirstLocked()
	}
}

// settleFirstLocked ends the first grace period.
func (w *Hooks) settleFirstLocked() {
	e := w.ends[0]
	w.ends[0] = end{}
	w.ends = w.ends[1:]
	if e.level.ends == e.at { // else it has been back since
		w.settleLocked(e.key, e.level)
	}
}

func (w *Hooks) levelLocked(key levelKey) *level {
	l := w.levels[key]
	if l == nil {
		l = new(level)
		w.levels[key] = l
	}
	return l
}

// arriveLocked reports that something is there, unless it did before: a member after his channel, whichever notice
// comes first.
func (w *Hooks) arriveLocked(key levelKey, l *level) {
	if l.reported {
		return
	}
	l.reported = true
	if key.user == "" {
		w.reportLocked(wire.HookOccupied, key.channel, nil)
		return
	}
	channel := w.levelLocked(levelKey{key.channel, ""})
	w.arriveLocked(levelKey{key.channel, ""}, channel)
	channel.members++
	w.reportLocked(wire.HookMemberAdded, key.channel, appendUser(nil, key.user))
}

// settleLocked takes back what was reported of a level that is 0, and forgets it: of a channel after its members, who
// have all left, though not all their notices may have come.
func (w *Hooks) settleLocked(key levelKey, l *level) {
	l.ends = time.Time{}
	if l.members > 0 {
		l.waits = true
		return
	}
	delete(w.levels, key)
	switch {
	case !l.reported:
	case key.user == "":
		w.reportLocked(wire.HookVacated, key.channel, nil)
	default:
		w.reportLocked(wire.HookMemberRemoved, key.channel, appendUser(nil, key.user))
		key.user = ""
		channel := w.levels[key]
		if channel.members--; channel.waits {
			w.settleLocked(key, channel)
		}
	}
}

// report queues an event for every hook that wants it. fields are those behind its name and channel.
func (w *Hooks) report(name, channel string, fields []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reportLocked(name, channel, fields)
}

// reportLocked is report for who holds mu. One copy of the event serves all hooks.
func (w *Hooks) reportLocked(name, channel string, fields []byte) {
	body := ""
	for _, h := range w.hooks {
		if !h.wants(name, channel) {
			continue
		}
		if body == "" {
			body = `{"name":"` + name + `","channel":"` + channel + `"` + string(fields) + `}`
		}
		h.pushLocked(body, channel, name == wire.HookClientEvent)
	}
}

// Stats returns what each hook has done so far.
func (w *Hooks) Stats() (all []Stats) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.hooks {
		all = append(all, h.Stats)
	}
	return all
}

// Idle reports whether everything has been delivered to everyone.
func (w *Hooks) Idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.ends) == 0 && w.delivering == 0
}

// Drain reports at once what waits for its grace period, and waits until everything is delivered or ctx is done. It
// returns how many events are left. Nothing is delivered afterwards.
func (w *Hooks) Drain(ctx context.Context) (left int) {
	w.rush()
	defer w.giveUp()
	defer context.AfterFunc(ctx, w.giveUp)() // which breaks off requests under way
	w.mu.Lock()
	for len(w.ends) > 0 {
		w.settleFirstLocked()
	}
	for w.delivering > 0 {
		w.ended.Wait()
	}
	hooks := slices.Clone(w.hooks)
	w.mu.Unlock()
	for _, h := range hooks {
		h.client.CloseIdleConnections()
	}
	for _, s := range w.Stats() {
		left += int(s.Left)
	}
	return left
}
