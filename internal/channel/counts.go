package channel

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"edge/internal/wire"
)

// What has happened in an app, in numbers, and how many there are of everything.

// counts are what has happened in an app since it began.
type counts struct {
	Connected, Disconnected          atomic.Uint64
	Received, Sent                   atomic.Uint64 // messages
	Calls, CallBytes, AnswerBytes    atomic.Uint64 // of the HTTP API
	Published, ClientEvents, Unheard atomic.Uint64 // events: over HTTP, by clients; of both, without subscribers

	mu       sync.Mutex // guards the following
	refusals map[Refused]uint64
}

// Refused is what was refused, and why: both are words of ours, of which there are few.
type Refused struct{ What, Reason string }

// Refuse counts a refusal.
func (c *counts) Refuse(what, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refusals == nil {
		c.refusals = make(map[Refused]uint64)
	}
	c.refusals[Refused{what, reason}]++
}

// Refused returns what was refused so far.
func (c *counts) Refused() map[Refused]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.refusals)
}

// Connections is how many there are.
func (a *App) Connections() int {
	a.socketsMu.Lock()
	defer a.socketsMu.Unlock()
	return len(a.sockets)
}

// CountChannels is how many channels there are. It walks over all of them.
func (a *App) CountChannels() (n int) {
	a.channels.Range(func(_, c any) bool {
		if c.(*Channel).Kind&wire.KindUser == 0 {
			n++
		}
		return true
	})
	return n
}

// SentBytes is what all connections were sent. It walks over all of them.
func (a *App) SentBytes() uint64 {
	a.socketsMu.Lock()
	all := slices.Collect(maps.Values(a.sockets))
	a.socketsMu.Unlock()
	for _, s := range all {
		s.Conn.CountSent()
	}
	return a.Conns.Sent.Load()
}
