package main

// App is one app: its keys and limits, and its live tables of channels, connections and users. It knows neither HTTP nor
// JSON. No two of its locks, or of a channel's, are ever held at once.

import (
	"crypto/rand"
	"errors"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"edge/internal/sign"
	"edge/internal/wire"
)

const (
	trimFrom  = 1000            // connections, or half of all: when so many have come or gone,
	trimAfter = 3 * time.Second // memory is given back, after the rest of the burst

	maxRefused = 16 // connections over the limit that may linger for their last words to be read
)

type App struct {
	// Static after construction.
	watch  *watch // who wants to know what happens
	bounds bounds // of its connections

	config atomic.Pointer[appConfig] // a reload sets another
	counts counts

	channels sync.Map // name → *Channel; read without a lock

	socketsMu sync.Mutex                // guards the following
	sockets   map[wire.SocketID]*Socket // every connection that was established and has not left
	trimmedAt int                       // how many there were when trim was last called
	trimming  bool                      // a timer runs that will call it
	open      int                       // connections that have not ended, the refused ones too
	closing   bool                      // no more are let in
	ended     chan struct{}             // closed when closing and no connection is left

	usersMu   sync.Mutex                      // guards the following
	users     map[string]map[*Socket]struct{} // connections signed in, by user id
	watchers  map[string]map[*Socket]struct{} // connections that watch a user, by the user's id
	watchOut  []watchFrame                    // watchlist events not yet written, in order
	watchBusy bool                            // someone is writing them
}

// appConfig is what a reload can change of an App. It never changes itself.
type appConfig struct {
	id       string // "" accepts any in API paths
	limits   Limits
	keys     sign.Keys
	webhooks *webhooks // nil if there never were any
}

// Limits are the limits of an app. Where the hosted service has one, it is the default (options in main.go).
type Limits struct {
	activityTimeout   time.Duration // silence after which a client is pinged
	pongTimeout       time.Duration // and after which it is closed when it does not answer
	authWindow        time.Duration // how far the clock of an API client may be off; 0 for no check
	cacheTTL          time.Duration // life of the event of a cache channel
	authorizeWithin   time.Duration // in which a client must sign in or join a private channel; 0 for never
	maxConnections    int
	sendBuffer        int // bytes queued for a client that reads too slowly
	channelName       int // bytes of a channel's name
	eventSize         int // bytes of an event's data
	presenceMembers   int // users of one presence channel
	presenceUserSize  int // bytes of user_info
	clientEvents      bool
	subscriptionCount bool     // send subscription_count
	hooked            bool     // webhooks are told what becomes of channels
	origins           []string // allowed values of the Origin header; none allows all
}

type watchFrame struct {
	to    *Socket
	frame []byte
}

// Reasons for which a connection or a subscription is turned away.
var (
	errGone     = errors.New("channel is gone")
	errFull     = errors.New("presence channel is full")
	errQuota    = errors.New("over the connection limit")
	errMemory   = errors.New("over the memory budget")
	errCapacity = errors.New("over the server's connection limit")
	errShutdown = errors.New("shutting down")
)

// newApp makes an app that nobody is connected to.
func newApp(o appOptions, memory *budget, w *watch) *App {
	a := &App{
		watch:    w,
		sockets:  make(map[wire.SocketID]*Socket),
		users:    make(map[string]map[*Socket]struct{}),
		watchers: make(map[string]map[*Socket]struct{}),
	}
	a.bounds.memory = memory
	a.configure(o)
	return a
}

// configure makes o hold from now on. Keys and receivers of webhooks that stay are the same as before, with their counts and queues.
func (a *App) configure(o appOptions) {
	c := &appConfig{id: o.id, limits: o.limits}
	old := a.config.Load()
	for _, pair := range o.keys() {
		k := sign.NewKey(pair.key, pair.secret)
		if old != nil {
			k = old.keys.Same(k)
		}
		c.keys = append(c.keys, k)
	}
	if old != nil {
		c.webhooks = old.webhooks
	}
	if c.limits.hooked = len(o.hooks) > 0; c.limits.hooked && c.webhooks == nil {
		c.webhooks = newWebhooks(a.tell)
	}
	if c.webhooks != nil {
		c.webhooks.configure(o.hooks, c.keys[0], o.webhookGrace)
	}
	a.bounds.queue.Store(int64(o.limits.sendBuffer))
	a.config.Store(c)
}

func (a *App) id() string { return a.config.Load().id }

// limits are the app's limits at this moment.
func (a *App) limits() *Limits { return &a.config.Load().limits }

// keys are the app's keys at this moment.
func (a *App) keys() sign.Keys { return a.config.Load().keys }

func (a *App) webhooks() *webhooks { return a.config.Load().webhooks }

// addSocket counts s and, if it is welcome, gives it an id that no other connection has and enters it into the table. crowded
// says that there are many more connections than allowed.
func (a *App) addSocket(s *Socket, welcome bool) (err error, crowded bool) {
	a.socketsMu.Lock()
	defer a.socketsMu.Unlock()
	a.open++
	most := a.limits().maxConnections
	crowded = a.open > most+maxRefused
	switch {
	case !welcome:
		return nil, crowded
	case a.closing:
		return errShutdown, crowded
	case len(a.sockets) >= most:
		return errQuota, crowded
	case a.bounds.memory.refuses():
		return errMemory, crowded
	case !a.bounds.memory.enter():
		return errCapacity, crowded
	}
	for s.id = wire.NewSocketID(); a.sockets[s.id] != nil; s.id = wire.NewSocketID() {
	}
	a.sockets[s.id] = s
	a.trimLaterLocked()
	return nil, false
}

// removeSocket undoes addSocket when the connection has ended.
func (a *App) removeSocket(s *Socket) {
	sent := s.conn.sentBytes()
	a.socketsMu.Lock()
	defer a.socketsMu.Unlock()
	if a.sockets[s.id] == s {
		delete(a.sockets, s.id)
		a.bounds.memory.leave()
		a.trimLaterLocked()
	}
	a.counts.sentBytes.Add(sent)
	a.open--
	a.noteEndLocked()
}

// noteEndLocked closes ended if it is time.
func (a *App) noteEndLocked() {
	if a.closing && a.open == 0 && a.ended != nil {
		close(a.ended)
		a.ended = nil // those that still come are not waited for
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
		defer recovered("timer")
		f()
	})
}

// trim gives back to the system the memory of connections that have left, and the garbage of the handshakes of those that have
// come. Nothing else would for minutes: an idle server allocates nothing, so it has no garbage collections, and maps never
// shrink.
func (a *App) trim() {
	a.socketsMu.Lock()
	here := make(map[wire.SocketID]*Socket, len(a.sockets))
	maps.Copy(here, a.sockets)
	a.sockets, a.trimmedAt, a.trimming = here, len(here), false
	a.socketsMu.Unlock()
	debug.FreeOSMemory()
}

// socket returns the connection with this id, or nil.
func (a *App) socket(id wire.SocketID) *Socket {
	a.socketsMu.Lock()
	defer a.socketsMu.Unlock()
	return a.sockets[id]
}

// closeSockets lets no more connections in and returns those there are, and what is closed when all have ended.
func (a *App) closeSockets() (sockets []*Socket, ended <-chan struct{}) {
	a.socketsMu.Lock()
	defer a.socketsMu.Unlock()
	if a.closing = true; a.ended == nil { // or someone waits for it already
		a.ended = make(chan struct{})
	}
	done := a.ended
	a.noteEndLocked()
	return slices.Collect(maps.Values(a.sockets)), done
}

// channel finds a channel without a lock; nil if it does not exist.
func (a *App) channel(name string) *Channel {
	if c, ok := a.channels.Load(name); ok {
		return c.(*Channel)
	}
	return nil
}

// openChannel finds or makes the channel. It may be gone by the time it is used: then the caller drops it and tries again.
func (a *App) openChannel(name string, k wire.Kind) *Channel {
	if c := a.channel(name); c != nil {
		return c
	}
	c, _ := a.channels.LoadOrStore(name, newChannel(name, k))
	return c.(*Channel)
}

// dropChannel takes a channel that is gone out of the table, unless another has its place by now.
func (a *App) dropChannel(c *Channel) { a.channels.CompareAndDelete(c.name, c) }

// subscribe subscribes s, which must not be subscribed already, and returns when the subscription has been answered; see
// Channel.subscribe.
func (a *App) subscribe(s *Socket, name string, k wire.Kind, m *Member, answer []byte) (*Subscription, error) {
	for {
		c := a.openChannel(name, k)
		sub, ch, err := c.subscribe(s, m, a.limits(), answer)
		if err != errGone {
			a.note(c, m, ch)
			return sub, err
		}
		a.dropChannel(c)
	}
}

// unsubscribe ends a subscription. Only the read goroutine of its connection may call it, and only once.
func (a *App) unsubscribe(sub *Subscription) {
	ch := sub.channel.unsubscribe(sub, a.limits())
	if ch.gone {
		a.dropChannel(sub.channel)
		// If the connection subscribes again, another Channel will answer: nothing of this one may come after that.
		sub.channel.flush()
	}
	a.note(sub.channel, sub.member, ch)
}

// note tells the webhooks what happened to a channel and, where it is one of a member, to m.
func (a *App) note(c *Channel, m *Member, ch change) {
	if ch.countIn > 0 {
		a.later(ch.countIn, func() { a.note(c, nil, c.sendCount()) })
	}
	w := a.webhooks()
	if w == nil || c.kind&wire.KindUser != 0 {
		return
	}
	if ch.hooked && ch.occupied {
		w.move(c.name, "", 1)
	}
	if ch.hooked && ch.memberAdded {
		w.move(c.name, m.id, 1)
	}
	if ch.cacheMiss {
		w.tell(hookCacheMiss, c.name, nil)
	}
	if ch.counted {
		w.tellCount(c, ch.count, ch.countAt)
	}
	if ch.hooked && ch.memberRemoved {
		w.move(c.name, m.id, -1)
	}
	if ch.hooked && ch.vacated {
		w.move(c.name, "", -1)
	}
}

// Event is what is triggered on a channel, over HTTP or by a client.
type Event struct {
	name   []byte
	data   []byte // JSON string literal
	userID string // of the sender of a client event on a presence channel
	except *Socket
	keep   bool // keep it as the cached event of a cache channel: those from HTTP
}

// trigger is the one door to fan-out: it gives the event to the subscriptions the channel has now, in the order in which
// trigger is called for this channel, and returns how many these are. It returns before the event is delivered, but may wait
// while the channel has more pending than it can send. The event's slices may be reused afterwards.
func (a *App) trigger(name string, k wire.Kind, e Event) (reached int) {
	if e.keep {
		a.counts.published.Add(1)
	} else {
		a.counts.clientEvents.Add(1)
	}
	if reached = a.fanOut(name, k, e); reached == 0 {
		a.counts.unheard.Add(1)
	}
	if a.watch.on.Load() != 0 {
		a.tellEvent(name, e, reached)
	}
	return reached
}

// publish triggers events of callers, all or none of them, and returns how many subscriptions they are given to. An error is
// errShort, or one of what carries events to other machines. It returns before the events are delivered.
func (a *App) publish(triggers ...wire.Trigger) (reached int, err error) {
	for _, t := range triggers {
		if slices.ContainsFunc(t.Kinds, func(k wire.Kind) bool { return k&wire.KindCache != 0 }) && a.bounds.memory.refuses() {
			return 0, errShort
		}
	}
	for _, t := range triggers {
		e := Event{name: t.Name, data: t.Data, keep: true}
		if t.Except != (wire.SocketID{}) {
			e.except = a.socket(t.Except)
		}
		for i, name := range t.Channels {
			reached += a.trigger(name, t.Kinds[i], e)
		}
	}
	return reached, nil
}

var errShort = &wire.Error{Status: 503, Text: textShortOfMemory + " and keeps no more events for cache channels"}

// fanOut is trigger without what is told of it.
func (a *App) fanOut(name string, k wire.Kind, e Event) (reached int) {
	keep := e.keep && k&wire.KindCache != 0
	c := a.channel(name)
	if c == nil && !keep {
		return 0
	}
	buffer := wire.Buffers.Get().(*[]byte)
	frame := wire.AppendEvent((*buffer)[:0], e.name, name, e.data, e.userID)
	var cached *cachedEvent
	if keep {
		cached = a.cachedEvent(frame, e.data)
	}
	for c != nil || keep {
		if c == nil {
			c = a.openChannel(name, k)
		}
		if n, ok := c.publish(frame, e.except, cached); ok {
			if keep {
				a.expireLater(c)
			}
			reached = a.reached(c, e, n)
			break
		}
		a.dropChannel(c)
		c = a.channel(name)
	}
	*buffer = frame
	wire.FreeBuffer(&buffer)
	return reached
}

// reached returns how many of the n subscriptions of c were given the event: all but that of e.except, if it is one of them. That is
// certain for who sent it as a client; for others it takes a walk, which is made if it decides on nobody, or if someone looks.
func (a *App) reached(c *Channel, e Event, n int) int {
	switch {
	case e.except == nil || n == 0:
		return n
	case !e.keep:
		return n - 1
	case n > 1 && a.watch.on.Load() == 0:
		return n
	}
	return n - len(c.subscribers(func(sub *Subscription) bool { return sub.socket == e.except }))
}

// clientEvent triggers an event that the connection e.except has sent.
func (a *App) clientEvent(name string, k wire.Kind, e Event) {
	a.trigger(name, k, e)
	if w := a.webhooks(); w != nil {
		w.tellClientEvent(name, e, e.except.id)
	}
}

// cachedEvent copies an event to keep. data must be the literal that stands in frame.
func (a *App) cachedEvent(frame, data []byte) *cachedEvent {
	return &cachedEvent{
		frame:   slices.Clone(frame),
		data:    slices.Clone(data),
		expires: time.Now().Add(a.limits().cacheTTL),
	}
}

// expireLater sees to it that a cached event does not outlive its time. There is one timer for each channel that has one,
// however often the event is replaced.
func (a *App) expireLater(c *Channel) {
	if c.expiring.CompareAndSwap(false, true) {
		a.later(a.limits().cacheTTL, func() { a.expire(c) })
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

// channelInfo is what is known of a channel; zeros if it does not exist.
func (a *App) channelInfo(name string) channelInfo {
	if c := a.channel(name); c != nil {
		return c.info()
	}
	return channelInfo{}
}

// occupied calls f for every channel with a subscription whose name begins with prefix, in the order of the names.
// The channels of signed-in users are not among them.
func (a *App) occupied(prefix string, f func(name string, k wire.Kind, info channelInfo)) {
	var found []*Channel
	a.channels.Range(func(name, c any) bool {
		if c := c.(*Channel); c.kind&wire.KindUser == 0 && strings.HasPrefix(c.name, prefix) {
			found = append(found, c)
		}
		return true
	})
	slices.SortFunc(found, func(x, y *Channel) int { return strings.Compare(x.name, y.name) })
	for _, c := range found {
		if info := c.info(); info.subscriptions > 0 {
			f(c.name, c.kind, info)
		}
	}
}

// signIn makes s a connection of the user: it gets the events sent to the user, can be terminated, is told which of the
// users it watches are online, and those who watch the user are told that he is. All this is in force when success, the
// answer to the client, goes out.
func (a *App) signIn(s *Socket, u *wire.User, success []byte) *Subscription {
	a.enterUser(s, u)
	// Events for the user reach every signed-in connection, whether it subscribes to #server-to-user-{id} or not.
	sub, _ := a.subscribe(s, wire.UserChannelPrefix+u.ID, wire.KindUser, nil, success) // fails only on presence channels
	a.enterWatcher(s, u)
	a.writeWatchFrames()
	return sub
}

// enterUser enters s among the user's connections.
func (a *App) enterUser(s *Socket, u *wire.User) {
	a.usersMu.Lock()
	defer a.usersMu.Unlock()
	if addTo(a.users, u.ID, s); len(a.users[u.ID]) == 1 {
		a.tellWatchersLocked(u.ID, wire.AppendWatchlist(nil, []string{u.ID}, nil))
	}
}

// enterWatcher enters s among those who watch the users of u's watchlist, and queues for it who of them is online.
func (a *App) enterWatcher(s *Socket, u *wire.User) {
	a.usersMu.Lock()
	defer a.usersMu.Unlock()
	var online, offline []string
	for _, id := range u.Watchlist {
		addTo(a.watchers, id, s)
		if len(a.users[id]) > 0 {
			online = append(online, id)
		} else {
			offline = append(offline, id)
		}
	}
	if frame := wire.AppendWatchlist(nil, online, offline); frame != nil {
		a.watchOut = append(a.watchOut, watchFrame{s, frame})
	}
}

// signOut undoes signIn when the connection is gone.
func (a *App) signOut(s *Socket, u *wire.User, sub *Subscription) {
	a.unsubscribe(sub)
	a.leaveUser(s, u)
	a.writeWatchFrames()
}

// leaveUser undoes enterUser and enterWatcher.
func (a *App) leaveUser(s *Socket, u *wire.User) {
	a.usersMu.Lock()
	defer a.usersMu.Unlock()
	for _, id := range u.Watchlist {
		removeFrom(a.watchers, id, s)
	}
	removeFrom(a.users, u.ID, s)
	if len(a.users[u.ID]) == 0 {
		a.tellWatchersLocked(u.ID, wire.AppendWatchlist(nil, nil, []string{u.ID}))
	}
}

// tellWatchersLocked queues a watchlist event about the user with this id. The caller holds usersMu.
func (a *App) tellWatchersLocked(id string, frame []byte) {
	for s := range a.watchers[id] {
		a.watchOut = append(a.watchOut, watchFrame{s, frame})
	}
}

// writeWatchFrames writes what is queued, in the order in which it was queued, without holding usersMu while it writes.
// If another goroutine is at it already, that one writes ours too.
func (a *App) writeWatchFrames() {
	for out := a.takeWatchFrames(false); len(out) > 0; out = a.takeWatchFrames(true) {
		for _, w := range out {
			w.write()
		}
	}
}

// takeWatchFrames takes what is queued; nothing if another goroutine writes. mine says that the caller has until now.
func (a *App) takeWatchFrames(mine bool) (out []watchFrame) {
	a.usersMu.Lock()
	defer a.usersMu.Unlock()
	if a.watchBusy && !mine {
		return nil
	}
	out, a.watchOut = a.watchOut, nil
	a.watchBusy = len(out) > 0
	return out
}

// write sends the frame. A panic ends the connection it is for, not that of whoever happens to write.
func (w watchFrame) write() {
	defer w.to.recovered()
	w.to.write(w.frame)
}

// terminate closes every connection that is signed in as the user, and returns how many there were.
func (a *App) terminate(id string) int {
	a.usersMu.Lock()
	sockets := slices.Collect(maps.Keys(a.users[id]))
	a.usersMu.Unlock()
	disconnect(sockets)
	return len(sockets)
}

// disconnect closes connections because the app wants it.
func disconnect(sockets []*Socket) {
	for _, s := range sockets {
		s.close(wire.CodeUnauthorized, "You got disconnected by the app.")
	}
}

func addTo(m map[string]map[*Socket]struct{}, id string, s *Socket) {
	if m[id] == nil {
		m[id] = make(map[*Socket]struct{})
	}
	m[id][s] = struct{}{}
}

func removeFrom(m map[string]map[*Socket]struct{}, id string, s *Socket) {
	if delete(m[id], s); len(m[id]) == 0 {
		delete(m, id)
	}
}

// flush waits until every event triggered before it has been handed to the kernel or to the queue of its connection.
func (a *App) flush() {
	a.channels.Range(func(_, c any) bool {
		c.(*Channel).flush()
		return true
	})
}

// allowsOrigin reports whether a browser page of this origin may connect. Clients that are not browsers send none.
// An allowed value is an origin, a host name, or *.host for every name below it.
func (a *App) allowsOrigin(origin string) bool {
	origins := a.limits().origins
	if len(origins) == 0 || origin == "" {
		return true
	}
	origin = strings.ToLower(origin)
	_, host, _ := strings.Cut(origin, "://")
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host = host[:i]
	}
	for _, allowed := range origins {
		allowed = strings.ToLower(allowed)
		below, wild := strings.CutPrefix(allowed, "*.")
		switch {
		case allowed == "*", allowed == origin, host != "" && allowed == host:
			return true
		case wild && strings.HasSuffix(host, "."+below):
			return true
		}
	}
	return false
}

// apps are the apps of a server, by what requests call them. They never change: a reload makes others.
type apps struct {
	all   []*App
	byKey map[string]*App
	none  *App // for what names no app
}

// newApps makes the apps that are described; of old ones, if there were, those that still are stay, with their connections.
func newApps(list []appOptions, memory *budget, w *watch, old *apps) *apps {
	n := &apps{byKey: make(map[string]*App)}
	if old != nil {
		n.none = old.none
	} else {
		n.none = newApp(list[0].anonymous(noneID), memory, w)
	}
	for _, o := range list {
		a := old.same(o.id, len(list))
		if a == nil {
			a = newApp(o, memory, w)
		} else {
			a.configure(o)
		}
		n.all = append(n.all, a)
		for _, k := range o.keys() {
			n.byKey[k.key] = a
		}
	}
	return n
}

// noneID cannot be the id of another app.
const noneID = "(none)"

// anonymous returns what describes an app with the same limits, which nobody has the keys of.
func (a appOptions) anonymous(id string) appOptions {
	a.id, a.key, a.secret = id, strings.ToLower(rand.Text()), rand.Text()
	a.hooks, a.moreKeys = nil, nil
	return a
}

// same returns the app with this id; if there is one and will be one, it is the same whatever its id.
func (l *apps) same(id string, there int) *App {
	if l == nil {
		return nil
	}
	for _, a := range l.all {
		if a.id() == id || there == 1 && len(l.all) == 1 {
			return a
		}
	}
	return nil
}

// find returns the app that a request names by its id, or where a library leaves that out by its key; nil if there is none.
func (l *apps) find(id, key string) *App {
	for _, a := range l.all {
		if have := a.id(); have == "" || id != "" && have == id {
			return a
		}
	}
	if id == "" {
		return l.byKey[key]
	}
	return nil
}

// done reports whether an app that is gone from the server has nothing left to do.
func (a *App) done() bool {
	a.socketsMu.Lock()
	defer a.socketsMu.Unlock()
	w := a.webhooks()
	return a.open == 0 && (w == nil || w.idle())
}

// has reports whether a is one of them.
func (l *apps) has(a *App) bool { return slices.Contains(l.all, a) }
