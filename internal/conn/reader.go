package conn

// The conversation below messages: what comes is cut into messages and control frames, a close frame ends it, and the
// connection lingers until the other side has closed it too.

import (
	"fmt"
	"runtime"
	"time"

	"github.com/lxzan/gws"
)

const (
	frameTimeout  = 10 * time.Second // for a message to end after its last frame has begun
	lingerTimeout = time.Second      // for the other side to close too,
	lingerLimit   = 10 * time.Second // and for the queue to leave before
)

// Handler is what stands above a conn. Different goroutines may call it: a message that was read before may be handed
// up while ended is called, or after it.
type Handler interface {
	Message(text []byte) // a text message; valid until it returns
	Ended()              // a close frame was sent, or the connection has failed; called once
}

// Farewell is how a conversation was closed.
type Farewell struct {
	Code   int // 0 for a close frame without one
	Reason string
	at     int64
}

// Start begins to read. With feed that runs instead, in a goroutine, which hands messages up and calls finish at the
// end.
func (c *Conn) Start(feed func()) {
	switch {
	case feed != nil:
		go feed() // ends with the session, which calls finish
	case c.wrapped == nil:
		if c.seal != nil {
			c.seal.receive(nil, c) // what TLS has read already
		}
		c.watch()
	default:
		go c.readLoop() // ends when the connection is closed
	}
}

// readLoop reads a connection that is not polled to its end.
func (c *Conn) readLoop() {
	b := readBuffers.Get().(*[readBufferSize]byte)
	for {
		n, err := c.wrapped.Read(b[:])
		if n > 0 {
			c.Receive(b[:n])
		}
		if err != nil {
			break
		}
		if n == len(b) {
			runtime.Gosched() // see readAll
		}
	}
	readBuffers.Put(b)
	c.Finish()
}

// Receive reads on in what the client sent, and hands up the messages that p makes whole. p may be changed. Only the
// reader calls it.
func (c *Conn) Receive(p []byte) {
	defer c.Broken()
	now := Now()
	c.Heard.Store(now)
	c.group.Received.Add(uint64(len(p)))
	links := plainLinks
	if c.in.deflate {
		links = deflateLinks()
	}
	l, ok := links.get(), true
	for ok && len(p) > 0 && !c.Over() {
		frames, rest, code := c.in.next(p, now)
		if p = rest; code != 0 {
			c.Close(code, FrameProblem(code))
		} else if frames != nil {
			ok = c.handleFrames(l, frames)
			c.in.release()
		}
	}
	if ok { // else, and after a panic, it is of no use any more
		links.put(l)
	}
	c.holdRest()
	switch {
	case c.in.idle():
		c.began.Store(0)
	case c.frame != c.in.frames:
		c.frame = c.in.frames
		c.began.Store(now)
		c.wait(frameTimeout)
	}
}

// handleFrames hands up a message, or has gws answer a control frame. Not ok is a link that must not be used any more.
func (c *Conn) handleFrames(l *link, frames []byte) (ok bool) {
	m, ok := l.read(frames, c)
	switch {
	case m == nil: // a control frame, or gws has closed the connection
		return ok
	case m.Opcode == gws.OpcodeBinary:
		c.Close(closeUnsupported, "binary messages are not supported")
	default:
		c.above.Message(m.Bytes())
	}
	endMessage(m)
	return true
}

// holdRest accounts for what is kept of a message that is not whole. It does not count as moved when more of it comes,
// or a client could hold it for ever.
func (c *Conn) holdRest() {
	switch bytes := c.in.held(); {
	case bytes > 0:
		if c.held == nil {
			c.held = &Holding{Conn: c}
		}
		c.group.Memory.Hold(c.held, int64(bytes), false)
	case c.held != nil:
		c.group.Memory.Hold(c.held, 0, false)
		c.held = nil
	}
}

// ReceiveText hands up a message that came by another way than frames. Its size and UTF-8 must have been checked; nil
// is a sign of life. Only the reader calls it.
func (c *Conn) ReceiveText(text []byte) {
	defer c.Broken()
	now := Now()
	c.Heard.Store(now)
	c.group.Received.Add(uint64(len(text)))
	switch {
	case c.Over():
	case text != nil:
		c.above.Message(text)
	case !c.in.controls.Allow(now, ControlRate, ControlBurst):
		c.Close(ClosePolicy, FrameProblem(ClosePolicy))
	}
}

// Deflates reports whether permessage-deflate was negotiated.
func (c *Conn) Deflates() bool { return c.in.deflate }

// Over reports whether what the client has sent is not to be handled any more.
func (c *Conn) Over() bool { return c.Closing.Load() || c.failed() }

// Broken closes the connection, and no other, if handling it has panicked. It is deferred.
func (c *Conn) Broken() {
	if p := recover(); p != nil {
		LogPanic("connection", p)
		c.CloseBroken()
	}
}

// CloseBroken closes a connection that something has panicked for, which may be closing it too.
func (c *Conn) CloseBroken() {
	defer c.recovered()
	c.Close(CloseInternal, "internal error")
}

// write is for link: it sends a pong. That the connection has failed shows in ended.
func (c *Conn) write(frame []byte) { c.Write(frame) }

// Close sends a close frame, if none was sent before, and ends the conversation. Anyone may call it. The handler learns
// of it in another goroutine.
func (c *Conn) Close(code int, reason string) { c.CloseAfter(nil, code, reason) }

// CloseAfter is close with frames to be sent before the close frame.
func (c *Conn) CloseAfter(frames []byte, code int, reason string) {
	c.writeLast(appendClose(frames, code, reason))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed == nil {
		c.closed = &Farewell{code, reason, Now()}
		c.Closing.Store(true)
		c.waitLocked(0) // to end, which the caller must not wait for
	}
}

// ClosedAs returns how the conversation was closed; nil if it was not.
func (c *Conn) ClosedAs() *Farewell {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// wait sets the time until tick is called.
func (c *Conn) wait(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed == nil {
		c.waitLocked(d)
	}
}

func (c *Conn) waitLocked(d time.Duration) {
	if c.timer == nil {
		c.timer = time.AfterFunc(d, c.tick)
	} else {
		c.timer.Reset(d)
	}
}

// tick is called by the timer: when a message should have ended, and on the way out.
func (c *Conn) tick() {
	defer c.recovered()
	if how := c.ClosedAs(); how != nil {
		c.linger(how)
		return
	}
	began := c.began.Load()
	if began == 0 {
		return
	}
	if left := frameTimeout - time.Duration(Now()-began); left > 0 {
		c.wait(left)
		return
	}
	c.Close(ClosePolicy, fmt.Sprintf("a message must end within %s", frameTimeout))
}

// linger ends the conversation. The connection stays until the other side has closed it too, so that it can read our
// last bytes (closing one that has unread input makes the kernel discard them), or until that takes too long.
func (c *Conn) linger(how *Farewell) {
	c.end()
	if d := time.Duration(Now() - how.at); d >= lingerTimeout && (d >= lingerLimit || !c.busy()) {
		c.Abort()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waitLocked(lingerTimeout)
}

// end notifies the handler that the conversation is over, once.
func (c *Conn) end() {
	if c.ended.CompareAndSwap(false, true) {
		defer c.done()
		c.above.Ended()
	}
}

// Finish is called by the reader, last: nothing more will come.
func (c *Conn) Finish() {
	defer c.done()
	defer c.Broken()
	c.end()
	c.in.kept = [2]*[]byte{}
	c.holdRest()
}

// done is called when the reader is done, and when the handler is. The later of them frees the connection: neither
// waits for the other, and until then it has a descriptor and counts.
func (c *Conn) done() {
	if c.through.Add(1) == 2 {
		defer c.group.leave(c)
		c.free()
	}
}
