package conn

import (
	"errors"
	"sync"
	"sync/atomic"
)

// Reasons for which a connection is not admitted.
var (
	ErrQuota    = errors.New("over the connection limit")
	ErrMemory   = errors.New("over the memory budget")
	ErrCapacity = errors.New("over the server's connection limit")
	ErrShutdown = errors.New("shutting down")
)

// Group is the connections of one app, and what bounds them.
type Group struct {
	Memory *Budget                   // static
	Queue  atomic.Int64              // bytes that may wait for one of them
	Cuts   [CutReasons]atomic.Uint64 // connections cut off

	Received atomic.Uint64 // bytes
	Sent     atomic.Uint64 // those that CountSent has counted

	mu       sync.Mutex    // guards the following
	open     int           // connections that have not ended, the refused ones too
	admitted int           // of them, clients
	closing  bool          // no more are admitted
	ended    chan struct{} // closed when closing and none is open; nil if nobody waits
}

// enter counts one more connection.
func (g *Group) enter() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open++
}

// Admit makes c one of at most so many clients. Without an error it is one until it has ended.
func (g *Group) Admit(c *Conn, most int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closing:
		return ErrShutdown
	case g.admitted >= most:
		return ErrQuota
	case g.Memory.Refuses():
		return ErrMemory
	case !g.Memory.enter():
		return ErrCapacity
	}
	g.admitted++
	c.admitted = true
	return nil
}

// leave undoes enter and admit when c has ended.
func (g *Group) leave(c *Conn) {
	c.CountSent()
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.admitted {
		g.admitted--
		g.Memory.leave()
	}
	g.open--
	g.noteEndLocked()
}

// Close admits no more connections. What it returns is closed when all have ended.
func (g *Group) Close() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing = true; g.ended == nil { // or someone waits for it already
		g.ended = make(chan struct{})
	}
	ended := g.ended
	g.noteEndLocked()
	return ended
}

// noteEndLocked closes ended if it is time.
func (g *Group) noteEndLocked() {
	if g.closing && g.open == 0 && g.ended != nil {
		close(g.ended)
		g.ended = nil // those that still come are not waited for
	}
}

// Count is how many connections have not ended, the rejected ones too.
func (g *Group) Count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}
