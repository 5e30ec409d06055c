package channel

import (
	"errors"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"edge/internal/conn"
	"edge/internal/wire"
)

const (
	trimFrom  = 1000            // connections, or half of all: when so many have come or gone,
	trimAfter = 3 * time.Second // memory is given back, after the rest of the burst
)

// App is one app: its limits, and its live tables of channels, connections and users.
type App struct {
	// Static after construction.
	Conns conn.Group // its connections

	limit     atomic.Pointer[Limits] // what limits returns; a reload sets others
	observers observers
	Counts    counts

	channels sync.Map // name → *Channel; read without a lock

	socketsMu sync.Mutex                // guards the following
	sockets   map[wire.SocketID]*Socket // every connection that was established and has not left
	trimmedAt int                       // how many there were when trim was last called
	trimming  bool                      // a timer runs that will call it

	usersMu   sync.Mutex                      // guards the following
	users     map[string]map[*Socket]struct{} // connections signed in, by user id
	watchers  map[string]map[*Socket]struct{} // connections that watch a user, by the user's id
	watchOut  []watchFrame                    // watchlist events not yet written, in order
	watchBusy bool                            // someone is writing them
}

// Limits are the limits of an app. Where the hosted service has one, it is the default (options in main.go).
type Limits struct {
	ActivityTimeout   time.Duration // silence after which a client is pinged
	PongTimeout       time.Duration // and after which it is closed when it does not answer
	CacheTTL          time.Duration // life of the event of a cache channel
	AuthorizeWithin   time.Duration // in which a client must sign in or join a private channel; 0 for never
	MaxConnections    int
	SendBuffer        int // bytes queued for a client that reads too slowly
	ChannelName       int // bytes of a channel's name
	EventSize         int // bytes of an event's data
	PresenceMembers   int // users of one presence channel
	PresenceUserSize  int // bytes of user_info
	ClientEvents      bool
	SubscriptionCount bool // send subscription_count
}

type watchFrame struct {
	to    *Socket
	frame []byte
}

// Reasons for which a subscription is rejected.
var (
	errGone = errors.New("channel is gone")
	ErrFull = errors.New("presence channel is full")
)

// NewApp makes an app without connections, whose memory counts in this budget.
func NewApp(memory *conn.Budget, l Limits) *App {
	a := &App{
		sockets:  make(map[wire.SocketID]*Socket),
		users:    make(map[string]map[*Socket]struct{}),
		watchers: make(map[string]map[*Socket]struct{}),
	}
	a.Conns.Memory = memory
	a.SetLimits(l)
	return a
}

// Limits are the app's limits at this moment.
func (a *App) Limits() *Limits { return a.limit.Load() }

// SetLimits makes l the limits from now on.
func (a *App) SetLimits(l Limits) {
	a.Conns.Queue.Store(int64(l.SendBuffer))
	a.limit.Store(&l)
}

// Enter admits the connection of s, gives s an id that no other has and enters it into the table. It calls greet with
// nil or with the group's error before anyone else can write to s or close it.
func (a *App) Enter(s *Socket, greet func(error)) {
	s.greeting.Lock()
	defer s.greeting.Unlock()
	greet(a.addSocket(s))
}

func (a *App) addSocket(s *Socket) error {
	a.socketsMu.Lock()
	defer a.socketsMu.Unlock()
	if err := a.Conns.Admit(&s.Conn, a.Limits().MaxConnections); err != nil {
		return err
	}
	for s.ID = wire.NewSocketID(); a.sockets[s.ID] != nil; s.ID = wire.NewSocketID() {
	}
	a.sockets[s.ID] = s
	a.trimLaterLocked()
	return nil
}

// Leave takes s out of the table, if it is there.
func (a *App) Leave(s *Socket) {
	a.socketsMu.Lock()
	defer a.socketsMu.Unlock()
	if a.sockets[s.ID] == s {
		delete(a.sockets, s.ID)
		a.trimLaterLocked()
	}
}

// trimLaterLocked sees to it that trim is called soon after many connections have come or gone.
func (a *App) trimLaterLocked() {
	if moved := len(a.sockets) - a.trimmedAt; !a.trimming && max(moved, -moved) >= max(trimFrom, a.trimmedAt/2) {
		a.trimming = true
		a.later(trimAfter, a.trim)
	}
}

// later calls f when d has passed.
func (a *App) later(d time.Duration, f func()) {
	time.AfterFunc(d, func() {
		defer conn.Recovered("timer")
		f()
	})
}

// trim gives back to the system the memory of connections that have left, and the garbage of the handshakes of those
// that have come. Nothing else would for minutes: an idle server allocates nothing, so it has no garbage collections,
// and maps never shrink.
func (a *App) trim() {
	a.socketsMu.Lock()
	here := make(map[wire.SocketID]*Socket, len(a.sockets))
	maps.Copy(here, a.sockets)
	a.sockets, a.trimmedAt, a.trimming = here, len(here), false
	a.socketsMu.Unlock()
	debug.FreeOSMemory()
}

// Socket returns the connection with this id, or nil.
func (a *App) Socket(id wire.SocketID) *Socket {
	a.socketsMu.Lock()
	defer a.socketsMu.Unlock()
	return a.sockets[id]
}

// CloseSockets lets no more connections in and returns those there are, and what is closed when all have ended.
func (a *App) CloseSockets() (sockets []*Socket, ended <-chan struct{}) {
	a.socketsMu.Lock()
	defer a.socketsMu.Unlock()
	return slices.Collect(maps.Values(a.sockets)), a.Conns.Close()
}

// Channel finds a channel without a lock; nil if it does not exist.
func (a *App) Channel(name string) *Channel {
	if c, ok := a.channels.Load(name); ok {
		return c.(*Channel)
	}
	return nil
}

// openChannel finds or makes the channel. It may be gone by the time it is used: then the caller drops it and tries
// again.
func (a *App) openChannel(name string, k wire.Kind) *Channel {
	if c := a.Channel(name); c != nil {
		return c
	}
	c, _ := a.channels.LoadOrStore(name, newChannel(name, k))
	return c.(*Channel)
}

// dropChannel takes a channel that is gone out of the table, unless another has its place by now.
func (a *App) dropChannel(c *Channel) { a.channels.CompareAndDelete(c.Name, c) }

// Subscribe subscribes s, which must not be subscribed already, and returns when the subscription has been answered;
// see Channel.subscribe.
func (a *App) Subscribe(s *Socket, name string, k wire.Kind, m *Member, answer []byte) (*Subscription, error) {
	for {
		c := a.openChannel(name, k)
		ch := change{hooked: a.Observes(AboutLevels)}
		sub, err := c.subscribe(s, m, a.Limits(), answer, &ch)
		if err != errGone {
			a.note(c, m, &ch)
			return sub, err
		}
		a.dropChannel(c)
	}
}

// Unsubscribe ends a subscription. Only the read goroutine of its connection may call it, and only once.
func (a *App) Unsubscribe(sub *Subscription) {
	ch := sub.Channel.unsubscribe(sub, a.Limits())
	if ch.gone {
		a.dropChannel(sub.Channel)
		// If the connection subscribes again, another Channel will answer: nothing of this one may come after that.
		sub.Channel.flush()
	}
	a.note(sub.Channel, sub.Member, &ch)
}

// note notifies observers of what happened to a channel and, where it is one of a member, to m.
func (a *App) note(c *Channel, m *Member, ch *change) {
	if ch.countIn > 0 {
		a.later(ch.countIn, func() {
			ch := c.sendCount()
			a.note(c, nil, &ch)
		})
	}
	if c.Kind&wire.KindUser == 0 && a.Observes(AboutLevels) {
		a.noteLevels(c, m, ch)
	}
}

// noteLevels is note for those who observe levels. Its notices are large, and every connection's stack would have to be.
//
//go:noinline
func (a *App) noteLevels(c *Channel, m *Member, ch *change) {
	n := Notice{About: AboutLevels, Channel: c.Name}
	notify := func(happened bool, what string) {
		if n.What = what; happened {
			a.Notify(n)
		}
	}
	notify(ch.hooked && ch.occupied, wire.HookOccupied)
	if m != nil {
		n.User = m.ID
		notify(ch.hooked && ch.memberAdded, wire.HookMemberAdded)
		notify(ch.hooked && ch.memberRemoved, wire.HookMemberRemoved)
		n.User = ""
	}
	notify(ch.cacheMiss, wire.HookCacheMiss)
	if at := ch.countAt; ch.counted {
		n.Reached, n.At, n.Latest = ch.count, at, func() bool { return c.latest(at) }
		notify(true, wire.HookSubscriptionCount)
		n.Reached, n.At, n.Latest = 0, 0, nil
	}
	notify(ch.hooked && ch.vacated, wire.HookVacated)
}

// Event is what is triggered on a channel, over HTTP or by a client.
type Event struct {
	Name   []byte
	Data   []byte // JSON string literal
	UserID string // of the sender of a client event on a presence channel
	Except *Socket
	Keep   bool // keep it as the cached event of a cache channel: those from HTTP
}

// Trigger is the one door to fan-out: it gives the event to the subscriptions the channel has now, in the order in
// which trigger is called for this channel, and returns how many these are. It returns before the event is delivered,
// but may wait while the channel has more pending than it can send. The event's slices may be reused afterwards.
func (a *App) Trigger(name string, k wire.Kind, e Event) (reached int) {
	if e.Keep {
		a.Counts.Published.Add(1)
	} else {
		a.Counts.ClientEvents.Add(1)
	}
	if reached = a.fanOut(name, k, e); reached == 0 {
		a.Counts.Unheard.Add(1)
	}
	a.notifyEvent(name, e, reached)
	return reached
}

// Publish triggers events of callers, all or none of them, and returns how many subscriptions they are given to. An
// error is errShort, or one of what carries events to other machines. It returns before the events are delivered.
func (a *App) Publish(triggers ...wire.Trigger) (reached int, err error) {
	for _, t := range triggers {
		caches := slices.ContainsFunc(t.Kinds, func(k wire.Kind) bool { return k&wire.KindCache != 0 })
		if caches && a.Conns.Memory.Refuses() {
			return 0, errShort
		}
	}
	for _, t := range triggers {
		e := Event{Name: t.Name, Data: t.Data, Keep: true}
		if t.Except != (wire.SocketID{}) {
			e.Except = a.Socket(t.Except)
		}
		for i, name := range t.Channels {
			reached += a.Trigger(name, t.Kinds[i], e)
		}
	}
	return reached, nil
}

const TextShortOfMemory = "The server is short of memory"

var errShort = &wire.Error{Status: 503, Text: TextShortOfMemory + " and keeps no more events for cache channels"}

// fanOut is trigger without what is told of it.
func (a *App) fanOut(name string, k wire.Kind, e Event) (reached int) {
	keep := e.Keep && k&wire.KindCache != 0
	c := a.Channel(name)
	if c == nil && !keep {
		return 0
	}
	buffer := wire.Buffers.Get().(*[]byte)
	frame := wire.AppendEvent((*buffer)[:0], e.Name, name, e.Data, e.UserID)
	var cached *CachedEvent
	if keep {
		cached = a.cachedEvent(frame, e.Data)
	}
	for c != nil || keep {
		if c == nil {
			c = a.openChannel(name, k)
		}
		if n, ok := c.publish(frame, e.Except, cached); ok {
			if keep {
				a.expireLater(c)
			}
			reached = a.reached(c, e, n)
			break
		}
		a.dropChannel(c)
		c = a.Channel(name)
	}
	*buffer = frame
	wire.FreeBuffer(&buffer)
	return reached
}

// reached returns how many of the n subscriptions of c were given the event: all but that of e.except, if it is one of
// them. That is certain for who sent it as a client; for others it takes a walk, which is made if it decides on nobody,
// or if someone looks.
func (a *App) reached(c *Channel, e Event, n int) int {
	switch {
	case e.Except == nil || n == 0:
		return n
	case !e.Keep:
		return n - 1
	case n > 1 && !a.Observes(AboutEvents):
		return n
	}
	return n - len(c.Subscribers(func(sub *Subscription) bool { return sub.Socket == e.Except }))
}

// CachedEvent copies an event to keep. data must be the literal that stands in frame.
func (a *App) cachedEvent(frame, data []byte) *CachedEvent {
	return &CachedEvent{
		frame:   slices.Clone(frame),
		Data:    slices.Clone(data),
		Expires: time.Now().Add(a.Limits().CacheTTL),
	}
}

// expireLater sees to it that a cached event does not outlive its time. There is one timer for each channel that has
// one, however often the event is replaced.
func (a *App) expireLater(c *Channel) {
	if c.expiring.CompareAndSwap(false, true) {
		a.later(a.Limits().CacheTTL, func() { a.expire(c) })
	}
}

// expire is what the timer of expireLater calls.
func (a *App) expire(c *Channel) {
	c.expiring.Store(false) // before looking, so that an event cached from now on starts its own timer
	wait, gone := c.expire()
	if gone {
		a.dropChannel(c)
	}
	if wait > 0 && c.expiring.CompareAndSwap(false, true) {
		a.later(wait, func() { a.expire(c) })
	}
}

// Info is what is known of a channel; zeros if it does not exist.
func (a *App) ChannelInfo(name string) Info {
	if c := a.Channel(name); c != nil {
		return c.Info()
	}
	return Info{}
}

// Occupied calls f for every channel with a subscription whose name begins with prefix, in the order of the names.
// The channels of signed-in users are not among them.
func (a *App) Occupied(prefix string, f func(name string, k wire.Kind, info Info)) {
	var found []*Channel
	a.channels.Range(func(name, c any) bool {
		if c := c.(*Channel); c.Kind&wire.KindUser == 0 && strings.HasPrefix(c.Name, prefix) {
			found = append(found, c)
		}
		return true
	})
	slices.SortFunc(found, func(x, y *Channel) int { return strings.Compare(x.Name, y.Name) })
	for _, c := range found {
		if info := c.Info(); info.Subscriptions > 0 {
			f(c.Name, c.Kind, info)
		}
	}
}

// Flush waits until every event triggered before it has been handed to the kernel or to the queue of its connection.
func (a *App) Flush() {
	a.channels.Range(func(_, c any) bool {
		c.(*Channel).flush()
		return true
	})
}
