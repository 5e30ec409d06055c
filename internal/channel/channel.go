// Package channel is what lives in an app: channels and their fan-out, sockets, subscriptions, members, users and
// watchlists. It knows neither HTTP nor JSON nor keys. Whoever wants to know what happens observes the App (notice.go).
//
// Publish appends a frame to a channel's batch and starts its pump if none runs. The pump takes the whole batch and
// gives it to every subscription in one write each, and repeats until nothing is left; then it ends. So a quiet channel
// has no goroutine, and under load one write carries many events.
//
// Only the pump writes to subscriptions, the answer to a subscribe included. That is why every subscriber sees one
// order, gets subscription_succeeded before any event, and has a list of members that agrees exactly with the
// member_added and member_removed that follow.
//
// No two locks of an App or of its channels are ever held at once. Socket.Mu is taken before any of them.
//
// A new kind of channel is a bit and a prefix in package wire, and what Channel does where it asks for that bit.
package channel

import (
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"edge/internal/conn"
	"edge/internal/wire"
)

// Channel is one channel of an app, from its first subscription (or cached event) to its last. There may be as many as
// connections, so its fields lie as closely as they can.
type Channel struct {
	// Static after construction.
	Name string
	Kind wire.Kind

	// Guarded by mu.
	gone         bool // out of use: look the name up again
	missed       bool // a cache_miss was reported since the cache was last filled
	pumping      bool // a pump runs; if not, nothing is pending
	countPending bool // a timer runs that will call sendCount
	hooked       bool // webhooks are told of it; decided when it becomes occupied, so that what they are told is whole

	expiring atomic.Bool // a timer of the App runs that will call expire

	mu sync.Mutex // guards the following, and what stands above

	countTold int32 // the last subscription_count sent; here, where there is room for it
	deflating int32 // subscriptions whose connections have negotiated compression
	several   bool  // the last batch had several frames; owned by the pump, see below
	countSent int64 // when countTold was sent, on the clock of monotonic

	subs    []*Subscription // appended to in place, replaced when many have left: the pump reads it without mu
	count   int             // subscriptions that have not left
	members []*Member       // in the order they joined; presence channels only
	cached  *CachedEvent

	batch   *batch        // what the pump has not yet taken; nil if there is nothing
	joining []join        // subscriptions the pump has not yet answered
	taken   chan struct{} // made by publishers that wait, closed when the batch is taken
	run     func()        // pump, made once: a go statement with a receiver would allocate for every event

	countNoted atomic.Int64 // when the latest count was taken that an observer has asked about

	// Owned by the pump, and handed on with pumping, as several is:
	lastTook time.Duration // how long it took to give the last batch out,
	lastEnd  int64         // and when that was done
}

func newChannel(name string, k wire.Kind) *Channel { return &Channel{Name: name, Kind: k} }

// change is what happened to a channel, for the App to tell whom it concerns.
type change struct {
	hooked                     bool // webhooks are told of the following
	occupied, vacated          bool
	memberAdded, memberRemoved bool // the member of the subscription
	cacheMiss                  bool
	counted                    bool          // subscription_count was sent
	count                      int           // subscriptions,
	countAt                    int64         // at this moment
	countIn                    time.Duration // when sendCount is due; 0 for never
	gone                       bool          // take the channel out of the table
}

// Subscription is one connection's membership of a channel.
type Subscription struct {
	// Static after construction.
	Socket  *Socket
	Channel *Channel
	Member  *Member // nil unless a presence channel

	left atomic.Bool // set under Channel.mu, read by the pump
}

// UserID is the id of the member, "" without one.
func (sub *Subscription) UserID() string {
	if sub.Member == nil {
		return ""
	}
	return sub.Member.ID
}

// Member is a user of a presence channel, who may have several connections.
type Member struct {
	// Static after construction.
	ID   string
	Info []byte // JSON

	Connections int // guarded by Channel.mu
}

// CachedEvent is the last event of a cache channel. It never changes.
type CachedEvent struct {
	frame   []byte
	Data    []byte // JSON string literal, a part of frame's payload
	Expires time.Time
}

// subscribe adds a subscription of s and returns when it has been answered: with answer, or if that is nil with
// subscription_succeeded and what belongs to it. m is the member of a presence channel, or nil; a member who is there
// already keeps his first info. The error is errGone, or ErrFull if the channel has as many other members as the limits
// allow. ch.hooked says whether someone observes levels; in ch comes what happened.
func (c *Channel) subscribe(s *Socket, m *Member, limits *Limits, answer []byte, ch *change) (*Subscription, error) {
	sub, answered, err := c.join(s, m, limits, answer, ch)
	switch {
	case err != nil:
		return nil, err
	case answered != nil:
		<-answered // the pump never blocks, so this is at most two of its rounds
	case c.round(): // the usual case: nobody else has anything to be told, and the answer goes out from here
		c.goPump()
	}
	return sub, nil
}

// join enters a subscription that the pump is to answer; answered is closed when it has. It is nil if the caller is the pump.
func (c *Channel) join(s *Socket, m *Member, limits *Limits, answer []byte, ch *change) (
	sub *Subscription, answered chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return nil, nil, errGone
	}
	if m != nil {
		if m, err = c.joinMemberLocked(m, limits.PresenceMembers); err != nil {
			return nil, nil, err
		}
	}
	if answer == nil {
		answer, ch.cacheMiss = c.answerLocked()
	}
	sub = &Subscription{Socket: s, Channel: c, Member: m}
	c.count++
	if s.Conn.Deflates() {
		c.deflating++
	}
	if c.count == 1 {
		ch.occupied, c.hooked = true, ch.hooked
	}
	at := c.pendingLocked()
	ch.hooked, ch.memberAdded = c.hooked, m != nil && m.Connections == 1
	c.noteCountLocked(ch, limits)
	alone := !c.pumping && c.batch == nil
	if !alone {
		answered = make(chan struct{})
	}
	c.joining = append(c.joining, join{sub, answer, at, answered})
	if alone {
		c.pumping = true
	} else {
		c.startLocked()
	}
	return sub, answered, nil
}

// joinMemberLocked counts one more connection of the member and returns the one that represents the user.
func (c *Channel) joinMemberLocked(m *Member, limit int) (*Member, error) {
	for _, old := range c.members {
		if old.ID == m.ID {
			old.Connections++
			return old, nil
		}
	}
	if len(c.members) >= limit {
		return nil, ErrFull
	}
	m.Connections = 1
	c.members = append(c.members, m)
	if c.count > 0 {
		c.batchLocked(wire.AppendMemberAdded(nil, c.Name, m.ID, m.Info))
	}
	return m, nil
}

// answerLocked builds what a new subscriber is sent first. miss says that for the first time since the cache was filled
// there was no event in it.
func (c *Channel) answerLocked() (answer []byte, miss bool) {
	answer = wire.AppendSucceeded(nil, c.Name, c.eachMemberLocked())
	switch {
	case c.Kind&wire.KindCache == 0:
		return answer, false
	case c.cached != nil && time.Now().Before(c.cached.Expires):
		return append(answer, c.cached.frame...), false
	}
	miss, c.missed = !c.missed, true
	return wire.AppendEvent(answer, wire.EventCacheMiss, c.Name, wire.EmptyData, ""), miss
}

// eachMemberLocked walks the members, in the order they joined; nil unless it is a presence channel.
func (c *Channel) eachMemberLocked() iter.Seq2[string, []byte] {
	if c.Kind&wire.KindPresence == 0 {
		return nil
	}
	return func(yield func(string, []byte) bool) {
		for _, m := range c.members {
			if !yield(m.ID, m.Info) {
				return
			}
		}
	}
}

// unsubscribe ends a subscription.
func (c *Channel) unsubscribe(sub *Subscription, limits *Limits) (ch change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sub.left.Store(true)
	ch.hooked = c.hooked
	c.count--
	if sub.Socket.Conn.Deflates() {
		c.deflating--
	}
	if m := sub.Member; m != nil {
		if m.Connections--; m.Connections == 0 {
			ch.memberRemoved = true
			i := slices.Index(c.members, m)
			c.members = slices.Delete(c.members, i, i+1)
			if c.count > 0 {
				c.batchLocked(wire.AppendMemberRemoved(nil, c.Name, m.ID))
			}
		}
	}
	c.noteCountLocked(&ch, limits)
	if c.count == 0 {
		c.subs = nil
		c.gone, c.missed = c.cached == nil, false
		ch.vacated, ch.gone = true, c.gone
		return ch
	}
	if listed := len(c.subs); c.count < listed/2 {
		live := make([]*Subscription, 0, c.count+c.count/4)
		for _, s := range c.subs {
			if !s.left.Load() {
				live = append(live, s)
			}
		}
		c.subs = live
	}
	c.startLocked()
	return ch
}

// publish appends a frame for every subscription but except's, and starts the pump. It waits while too much is pending,
// and reports false if the channel is gone. It does not wait for delivery. count is the number of subscriptions,
// except's included.
func (c *Channel) publish(frame []byte, except *Socket, keep *CachedEvent) (count int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.batch != nil && c.pendingLocked()+len(frame) > maxPending {
		c.waitLocked()
	}
	if c.gone {
		return 0, false
	}
	if keep != nil {
		c.cached, c.missed = keep, false
	}
	if c.count == 0 {
		return 0, true
	}
	at := c.pendingLocked()
	c.batchLocked(frame)
	if except != nil {
		c.batch.skips = append(c.batch.skips, skip{except, at, at + len(frame)})
	}
	c.startLocked()
	return c.count, true
}

// noteCountLocked sends subscription_count to everyone, if the app wants it: at once up to a hundred subscriptions,
// beyond that at most every five seconds, the last change always included. ch says what became of it.
func (c *Channel) noteCountLocked(ch *change, limits *Limits) {
	if !limits.SubscriptionCount || c.Kind&(wire.KindPresence|wire.KindUser) != 0 {
		return
	}
	if c.count > wire.AllOfSubscriptionCountUpTo {
		if c.countPending {
			return
		}
		if wait := wire.SubscriptionCountEvery - time.Duration(conn.Now()-c.countSent); c.countSent != 0 && wait > 0 {
			c.countPending, ch.countIn = true, wait
			return
		}
	}
	c.sendCountLocked(ch)
}

// sendCount sends the last change of the count if it was not sent since; it was due in change.countIn.
func (c *Channel) sendCount() (ch change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.countPending = false
	if c.count != int(c.countTold) {
		c.sendCountLocked(&ch)
		c.startLocked()
	}
	return ch
}

func (c *Channel) sendCountLocked(ch *change) {
	c.countTold, c.countSent = int32(c.count), conn.Now()
	ch.counted, ch.count, ch.countAt = true, c.count, c.countSent
	if c.count > 0 {
		c.batchLocked(wire.AppendSubscriptionCount(nil, c.Name, c.count))
	}
}

// latest reports whether a count that was taken at this moment is later than all that it was asked about before.
func (c *Channel) latest(at int64) bool {
	for {
		before := c.countNoted.Load()
		if at < before {
			return false
		}
		if c.countNoted.CompareAndSwap(before, at) {
			return true
		}
	}
}

// expire forgets the cached event when its time has come. It returns how long that still is, or 0, and whether the
// channel is gone now.
func (c *Channel) expire() (wait time.Duration, gone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cached == nil || c.gone {
		return 0, c.gone
	}
	if wait = time.Until(c.cached.Expires); wait > 0 {
		return wait, false
	}
	if c.count == 0 && c.pumping { // its last frames could come after the first of the next channel with this name
		return time.Second, false
	}
	c.cached = nil
	c.gone = c.count == 0
	return 0, c.gone
}

// Info is what the API tells about a channel.
type Info struct {
	Subscriptions, Users int
	Cached               *CachedEvent // nil if there is none
}

// Info returns what the API tells about the channel at this moment.
func (c *Channel) Info() Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := Info{Subscriptions: c.count, Users: len(c.members)}
	if c.cached != nil && time.Now().Before(c.cached.Expires) {
		i.Cached = c.cached
	}
	return i
}

// Subscribers returns the connections whose subscriptions are wanted. It looks at every one.
func (c *Channel) Subscribers(wanted func(*Subscription) bool) (found []*Socket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	look := func(sub *Subscription) {
		if sub != nil && !sub.left.Load() && wanted(sub) {
			found = append(found, sub.Socket)
		}
	}
	for _, sub := range c.subs {
		look(sub)
	}
	for _, j := range c.joining {
		look(j.sub)
	}
	return found
}

// FirstMembers returns the first of the members, in the order they joined, as they are at this moment.
func (c *Channel) FirstMembers(most int) (list []Member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members[:min(most, len(c.members))] {
		list = append(list, *m)
	}
	return list
}

// UserIDs returns the ids of the members, in the order they joined.
func (c *Channel) UserIDs() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := make([]string, len(c.members))
	for i, m := range c.members {
		ids[i] = m.ID
	}
	return ids
}
