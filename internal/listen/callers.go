package listen

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// Callers keeps connections that are not WebSocket ones from using up the descriptors: of more than limit, the one that
// has been in the same state for longest is closed. So a new request finds room, whoever keeps connections open.
type Callers struct {
	Limit atomic.Int64

	mu    sync.Mutex // guards the following
	since *list.List // of *caller, the longest unchanged first
	place map[net.Conn]*list.Element
	lent  map[net.Conn]bool // until their requests are answered
}

type caller struct {
	nc    net.Conn
	state http.ConnState
}

// callerKey is the key to the connection of a request, in its context.
type callerKey struct{}

// Context is http.Server's ConnContext.
func (c *Callers) Context(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, callerKey{}, nc)
}

func NewCallers() *Callers {
	return &Callers{since: list.New(), place: make(map[net.Conn]*list.Element), lent: make(map[net.Conn]bool)}
}

// Note is what http.Server calls with every change of a connection.
func (c *Callers) Note(nc net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.lent, nc)
	switch e := c.place[nc]; {
	case state == http.StateHijacked || state == http.StateClosed:
		c.dropLocked(e)
	case e != nil:
		e.Value.(*caller).state = state
		c.since.MoveToBack(e)
	case state == http.StateNew: // another state is of one that was closed below
		c.addLocked(&caller{nc, state})
	}
}

func (c *Callers) addLocked(one *caller) {
	c.place[one.nc] = c.since.PushBack(one)
	if int64(c.since.Len()) > c.Limit.Load() {
		longest := c.since.Front()
		closeNow(longest.Value.(*caller).nc)
		c.dropLocked(longest)
	}
}

func (c *Callers) dropLocked(e *list.Element) {
	if e != nil {
		delete(c.place, c.since.Remove(e).(*caller).nc)
	}
}

// Lend makes the connection of a request none of the callers until back is called, which is to be done before it is
// answered.
func (c *Callers) Lend(r *http.Request) (nc net.Conn, back func()) {
	nc, _ = r.Context().Value(callerKey{}).(net.Conn)
	if nc == nil {
		return nil, func() {} // the server has not noted it
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked(c.place[nc])
	c.lent[nc] = true
	return nc, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.addLocked(&caller{nc, http.StateActive})
	}
}

// Lending reports whether a request is under way that a connection was lent for.
func (c *Callers) Lending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.lent) > 0
}

// Busy reports whether another request is under way, or may be about to.
func (c *Callers) Busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := c.since.Front(); e != nil; e = e.Next() {
		if e.Value.(*caller).state != http.StateIdle {
			return true
		}
	}
	return false
}

// closeNow closes a connection without waiting: with TLS Close writes a last record, for which there may be no room for
// seconds.
func closeNow(nc net.Conn) {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	nc.Close()
}
