package channel

// The pump: what a channel's frames go through on their way to its subscriptions, in batches.

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"edge/internal/conn"
	"edge/internal/wire"
)

const (
	maxPending  = 64 << 10              // bytes of a batch beyond which publishers wait for the pump
	gatherLeast = 20 * time.Microsecond // on a hot channel the pump pauses for this long before each round,
	gatherShare = 12                    // or for this part of the last round's duration,
	gatherWhile = time.Millisecond      // while no more than this or the last round's duration has passed since
)

// Only tests change these.
var (
	Processors = runtime.NumCPU() // one for a process that is tied to one core
	Segment    = 1000             // subscriptions worth a goroutine of their own in a round
)

// batch is a run of frames on their way to every subscription. Once the pump has taken it, its frames, which are the
// bytes that it shares, do not change before nobody needs them any more.
type batch struct {
	conn.Shared
	count  int     // of frames
	skips  []skip  // who must not get which part of the frames; only for the pump
	packed *packed // for connections with compression; nil if there are none; only for the pump
}

// packed is the frames of a batch, compressed where that is worth it (RFC 7692).
type packed struct {
	conn.Shared
	frames []place // where each begins, and where the last ends
}

// place is where a frame begins in a batch, and in what is packed of it.
type place struct{ plain, packed int }

// skip says that socket must not get the bytes from…to of a batch's frames.
type skip struct {
	socket   *Socket
	from, to int
}

// join is a subscription that waits for its answer, and gets what is in the batch from at on.
type join struct {
	sub    *Subscription // nil for one who only waits until everything before has been written (flush)
	answer []byte
	at     int
	done   chan struct{} // closed when the answer is written; nil if nobody waits
}

// round is what the pump has taken, and has not delivered yet.
type round struct {
	batch   *batch // nil if there is nothing
	subs    []*Subscription
	joining []join
	deflate bool // a subscriber has negotiated compression
}

var (
	batches = sync.Pool{New: func() any { return new(batch) }}
	packs   = sync.Pool{New: func() any { return new(packed) }}
)

// waitLocked gives mu up until the pump has taken the batch.
func (c *Channel) waitLocked() {
	if c.taken == nil {
		c.taken = make(chan struct{})
	}
	taken := c.taken
	c.mu.Unlock()
	<-taken // a pump runs whenever something is pending
	c.mu.Lock()
}

// batchLocked appends a frame to what the pump will take next. It does not start the pump.
func (c *Channel) batchLocked(frame []byte) {
	if c.batch == nil {
		c.batch = batches.Get().(*batch)
		c.batch.Users.Store(1) // the pump
		if c.batch.Free == nil {
			c.batch.Free = c.batch.recycle
		}
	}
	c.batch.Bytes = append(c.batch.Bytes, frame...)
	c.batch.count++
}

// pendingLocked returns how many bytes wait to be taken.
func (c *Channel) pendingLocked() int {
	if c.batch == nil {
		return 0
	}
	return len(c.batch.Bytes)
}

// startLocked starts the pump if something is pending and none runs.
func (c *Channel) startLocked() {
	if c.pumping || c.batch == nil && len(c.joining) == 0 {
		return
	}
	c.pumping = true
	c.goPump()
}

// goPump starts the pump. The caller has set pumping.
func (c *Channel) goPump() {
	if c.run == nil {
		c.run = c.pump
	}
	go c.run() // ends when nothing is pending; flush waits for it
}

// pump delivers until nothing is pending.
//
// A channel is hot when its last batch had several frames: then whoever published the first of the next is likely to
// have more on the way, and a short pause lets them travel in the same write, where they are almost free. On a channel
// that gets one event at a time, every batch has one frame, and nothing is ever delayed.
func (c *Channel) pump() {
	for {
		if c.several && time.Duration(conn.Now()-c.lastEnd) < max(c.lastTook, gatherWhile) {
			time.Sleep(max(c.lastTook/gatherShare, gatherLeast))
		}
		if !c.round() {
			return
		}
	}
}

// round delivers what is pending and reports whether more is. If not, the caller is no longer the pump.
func (c *Channel) round() (more bool) {
	var r round
	defer c.recovered(&r)
	c.take(&r)
	if r.batch != nil {
		c.deliver(&r)
	}
	for ; len(r.joining) > 0; r.joining = r.joining[1:] {
		r.joining[0].end(r.batch)
	}
	if b := r.batch; b != nil {
		r.batch = nil
		b.end()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pumping = c.batch != nil || len(c.joining) > 0
	return c.pumping
}

// deliver gives the batch of a round to its subscriptions, and notes how long that took.
func (c *Channel) deliver(r *round) {
	if r.deflate {
		r.batch.pack()
	}
	began := conn.Now()
	r.batch.deliverAll(r.subs)
	c.several, c.lastEnd = r.batch.count > 1, conn.Now()
	c.lastTook = time.Duration(c.lastEnd - began)
}

// end answers a subscription, and gives it what is in b, which may be nil, since then.
func (j join) end(b *batch) {
	if j.sub != nil {
		j.sub.Socket.Write(j.answer)
		if b != nil {
			b.deliver(j.sub.Socket, j.at)
		}
	}
	if j.done != nil {
		close(j.done)
	}
}

// recovered catches a panic of a round; it is deferred. Any subscriber may have missed something, so the connections of
// all end, and no others.
func (c *Channel) recovered(r *round) {
	p := recover()
	if p == nil {
		return
	}
	conn.LogPanic("channel", p)
	if r.batch != nil {
		r.batch.end()
	}
	subs, joining := c.reset()
	for _, sub := range subs {
		sub.Socket.CloseBroken()
	}
	for _, j := range append(r.joining, joining...) {
		if j.sub != nil {
			j.sub.Socket.CloseBroken()
		}
		if j.done != nil {
			close(j.done)
		}
	}
}

// reset drops what is pending, and returns the subscriptions and those to come. The caller is no longer the pump.
func (c *Channel) reset() (subs []*Subscription, joining []join) {
	c.mu.Lock()
	defer c.mu.Unlock()
	joining = c.joining
	c.pumping, c.batch, c.joining = false, nil, nil
	c.releaseLocked()
	return c.subs, joining
}

// releaseLocked lets publishers that wait go on.
func (c *Channel) releaseLocked() {
	if taken := c.taken; taken != nil {
		c.taken = nil
		close(taken)
	}
}

// take takes everything that is pending, and lets publishers go on.
func (c *Channel) take(r *round) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.batch, r.subs, r.joining, r.deflate = c.batch, c.subs, c.joining, c.deflating > 0
	c.batch, c.joining = nil, nil
	for _, j := range r.joining {
		if j.sub != nil {
			c.subs = append(c.subs, j.sub) // beyond the length of r.subs, so that this round does not see it there
		}
	}
	c.releaseLocked()
}

// deliverAll writes b to all of subs, on a large channel with as many goroutines as there are processors, and returns
// when it has: so every subscription gets every batch in the same order.
func (b *batch) deliverAll(subs []*Subscription) {
	part := max(Segment, (len(subs)+Processors-1)/Processors)
	if len(subs) < 2*Segment || Processors == 1 {
		b.deliverPart(subs)
		return
	}
	var others sync.WaitGroup
	var broken atomic.Pointer[string]
	deliver := func(some []*Subscription) {
		defer func() {
			if p := recover(); p != nil {
				text := fmt.Sprintf("%v\n%s", p, debug.Stack())
				broken.Store(&text)
			}
		}()
		b.deliverPart(some)
	}
	for some := range slices.Chunk(subs[part:], part) {
		others.Go(func() { deliver(some) })
	}
	deliver(subs[:part])
	others.Wait()
	if text := broken.Load(); text != nil {
		panic(*text) // for the pump, when nobody uses b any more
	}
}

func (b *batch) deliverPart(subs []*Subscription) {
	reached := 0
	for _, sub := range subs {
		if !sub.left.Load() {
			b.deliver(sub.Socket, 0)
			reached++
		}
	}
	if reached > 0 {
		subs[0].Socket.App.Counts.Sent.Add(uint64(reached * b.count))
	}
}

// deliver writes the frames from at on to s, without those that s must not get.
func (b *batch) deliver(s *Socket, at int) {
	for _, skip := range b.skips {
		if skip.socket != s || skip.to <= at {
			continue
		}
		if at < skip.from {
			s.deliverShared(b, at, skip.from)
		}
		at = skip.to
	}
	if at < len(b.Bytes) {
		s.deliverShared(b, at, len(b.Bytes))
	}
}

// pack compresses b for the connections that have negotiated it, once for all.
func (b *batch) pack() {
	p := packs.Get().(*packed)
	p.Users.Store(1) // the pump
	if p.Free == nil {
		p.Free = p.recycle
	}
	for rest := b.Bytes; len(rest) > 0; {
		p.frames = append(p.frames, place{len(b.Bytes) - len(rest), len(p.Bytes)})
		p.Bytes, rest = conn.AppendDeflated(p.Bytes, rest)
	}
	p.frames = append(p.frames, place{len(b.Bytes), len(p.Bytes)})
	b.packed = p
}

// at is where the frame, or the end, stands that stands at plain in the batch.
func (p *packed) at(plain int) int {
	i, _ := slices.BinarySearchFunc(p.frames, plain, func(f place, plain int) int {
		return cmp.Compare(f.plain, plain)
	})
	return p.frames[i].packed
}

// recycle gives p, which nobody needs any more, back to the pool.
func (p *packed) recycle() {
	if cap(p.Bytes) > wire.MaxBuffer {
		return
	}
	p.Bytes, p.frames = p.Bytes[:0], p.frames[:0]
	packs.Put(p)
}

// end is called by the pump when it has delivered b.
func (b *batch) end() {
	clear(b.skips)
	b.skips = b.skips[:0]
	if p := b.packed; p != nil {
		b.packed = nil
		p.Done()
	}
	b.Done()
}

// recycle gives b, which nobody needs any more, back to the pool.
func (b *batch) recycle() {
	if cap(b.Bytes) > wire.MaxBuffer {
		return
	}
	b.Bytes, b.count = b.Bytes[:0], 0
	batches.Put(b)
}

// flush waits until everything published before it has been written.
func (c *Channel) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.pumping {
		return
	}
	done := make(chan struct{})
	c.joining = append(c.joining, join{done: done})
	c.mu.Unlock()
	<-done
	c.mu.Lock()
}
