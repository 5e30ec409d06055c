package main

// The wall clock, by which callers of the API sign. Boards without a clock of their own boot in the past and jump when the time
// comes over the network: until then no window of time can tell an old request from a new one. So until then a signature of any
// age is good, but only once.

import (
	"container/heap"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

const (
	clockCheck  = 10 * time.Second // how often is looked whether the clock is set
	mostReplays = 50_000           // signatures remembered
	sameRequest = 2 * time.Second  // in which a signature is good again: two equal requests of one second are signed alike
)

// clock is the wall clock, and what is remembered while it is not set.
type clock struct {
	// Static after construction.
	now   func() time.Time
	isSet func(now time.Time) bool

	mu      sync.Mutex // guards the following
	set     bool
	asked   bool  // isSet was asked,
	checked int64 // and when last, on the clock of monotonic
	replays replays
}

func newClock() *clock { return &clock{now: time.Now, isSet: clockIsSet} }

// clockIsSet reports whether the machine's clock can be right: it is past the time at which edge was made, and the kernel does not
// say that nobody has set it.
func clockIsSet(now time.Time) bool { return !now.Before(builtAt()) && kernelClockIsSet() }

// isRight reports whether the clock is set. A change is logged.
func (c *clock) isRight() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := monotonic()
	if c.asked && time.Duration(now-c.checked) < clockCheck {
		return c.set
	}
	before, first := c.set, !c.asked
	c.set, c.asked, c.checked = c.isSet(c.now()), true, now
	switch {
	case !c.set && (first || before):
		slog.Warn("the clock of this machine is not set: signatures of any age are accepted, but none twice", "clock", c.now().UTC().Format(time.RFC3339))
	case c.set && !first && !before:
		slog.Info("the clock of this machine is set")
		c.replays = replays{}
	}
	return c.set
}

// once returns an error if the signature, which is valid and of that time in seconds, was used before or is too old to know. In the
// window it never is: among many callers some are a little behind, and if the clock were set it would be good.
func (c *clock) once(signature string, stamp int64, window time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	age := c.now().Unix() - stamp
	return c.replays.add(signature, stamp, monotonic(), max(age, -age) <= int64(window/time.Second))
}

// replays remembers signatures, the latest of them: of those before it knows nothing, and takes none.
type replays struct {
	seen   map[string]int64 // when it was first used, on the clock of monotonic
	oldest stampHeap
	floor  int64 // a stamp up to which some have been forgotten; 0 if none have
}

type stamped struct {
	signature string
	stamp     int64
}

// stampHeap has the lowest stamp first (container/heap).
type stampHeap []stamped

func (h stampHeap) Len() int           { return len(h) }
func (h stampHeap) Less(i, j int) bool { return h[i].stamp < h[j].stamp }
func (h stampHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *stampHeap) Push(x any)        { *h = append(*h, x.(stamped)) }
func (h *stampHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

func (r *replays) add(signature string, stamp, now int64, recent bool) error {
	first, seen := r.seen[signature]
	switch {
	case seen && time.Duration(now-first) <= sameRequest:
		return nil
	case seen:
		return errors.New("Signature used before: while the clock of this server is not set, none is accepted twice")
	case r.floor > 0 && stamp <= r.floor && !recent:
		return fmt.Errorf("Timestamp too old: while the clock of this server is not set, requests have to be younger than %s",
			time.Unix(r.floor, 0).UTC().Format(time.RFC3339))
	case r.seen == nil:
		r.seen = make(map[string]int64)
	}
	r.seen[signature] = now
	heap.Push(&r.oldest, stamped{signature, stamp})
	if len(r.oldest) > mostReplays {
		forgotten := heap.Pop(&r.oldest).(stamped)
		delete(r.seen, forgotten.signature)
		r.floor = max(r.floor, forgotten.stamp)
	}
	return nil
}
