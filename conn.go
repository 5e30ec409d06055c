package main

// The connection under a WebSocket: writes that never block, and reads that hold nothing while nothing comes.
//
// A Pusher connection has no gaps. So a client that cannot keep up is not skipped: it is cut off and comes back. That rule is
// here and nowhere else, and covers events, pongs and close frames alike.
//
// Most connections are idle most of the time. On Linux an idle one has no goroutine and no buffer: its descriptor belongs to
// us alone, the poller (poll_linux.go) says when there is something to read or room to write, and only then a goroutine
// exists for it. Elsewhere, and for what is not a plain TCP or Unix connection, a goroutine waits in Read, and another
// writes while there is a queue. What stands above notices no difference.

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	kernelSendBuffer = 64 << 10         // bytes; without a bound the kernel takes 4 MiB for a client that never reads
	lingerTimeout    = time.Second      // for the other side to close too,
	lingerLimit      = 10 * time.Second // and for the queue to leave before
	readBufferSize   = 4 << 10
)

// writeTimeout is the time a queued piece has to leave. Only tests change it.
var writeTimeout = 10 * time.Second

var (
	errCut  = errors.New("connection cut: the client reads too slowly")
	errLast = errors.New("connection is closing")
)

// consumer is what stands above a conn. Its methods are called one at a time.
type consumer interface {
	receive(p []byte) // what came; p may be changed, not kept
	ended()           // nothing more will come; called once, and last
}

// conn is a connection that belongs to edge alone.
type conn struct {
	// Static after construction.
	wrapped net.Conn // nil if polled
	poller  *poller
	fd      int // if polled
	remote  netip.AddrPort
	limit   int            // bytes that may be queued
	cuts    *atomic.Uint64 // counts connections cut for reading too slowly
	above   consumer       // set by start

	wakes atomic.Int32 // polled only: readiness not yet served; if not 0, a goroutine reads

	mu      sync.Mutex // guards the following
	backlog *backlog   // nil if the kernel has taken everything
	last    bool       // nothing more may be written
	err     error      // why the connection is of no use any more
}

// backlog is what the kernel has not taken yet. A conn that has one only ever appends to it, and flush or drain sends it.
type backlog struct {
	pieces [][]byte    // in order
	bytes  int         // in pieces
	owned  bool        // the last piece is a copy of ours and may be appended to, unless it is the first
	since  time.Time   // when the first piece became that
	timer  *time.Timer // polled only: calls overdue
}

// stream is what TCP and Unix connections can do beyond net.Conn.
type stream interface {
	SetWriteBuffer(bytes int) error
	CloseWrite() error
}

var readBuffers = sync.Pool{New: func() any { return new([readBufferSize]byte) }}

// init takes a connection over. limit is the number of bytes that may wait for a slow reader. With a poller (nil for none) nc
// must not be used any more.
func (c *conn) init(nc net.Conn, p *poller, limit int, cuts *atomic.Uint64) {
	c.limit, c.cuts = limit, cuts
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		c.remote = netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), uint16(a.Port))
	}
	if s, ok := nc.(stream); ok {
		s.SetWriteBuffer(kernelSendBuffer) // a failure only means that the kernel keeps its own size
	}
	if p == nil || !c.take(nc, p) {
		c.wrapped = nc
	}
}

// start begins to read. Whatever is to be received first must have been by now.
func (c *conn) start(above consumer) {
	c.above = above
	if c.wrapped == nil {
		c.watch()
	} else {
		go c.readLoop() // ends when the connection is closed
	}
}

// readLoop reads a connection that is not polled to its end.
func (c *conn) readLoop() {
	b := readBuffers.Get().(*[readBufferSize]byte)
	for {
		n, err := c.wrapped.Read(b[:])
		if n > 0 {
			c.above.receive(b[:n])
		}
		if err != nil {
			break
		}
	}
	readBuffers.Put(b)
	c.above.ended()
}

// Write writes p without ever blocking; what the kernel does not take is copied and sent later. An error means that the
// connection is closed or closing.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.writeLocked(p, false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// writeShared is Write for bytes that will never change: it keeps a reference instead of a copy, and says whether it did.
func (c *conn) writeShared(p []byte) (kept bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept, _ = c.writeLocked(p, true)
	return kept
}

// writeLast is Write for the last bytes of the connection: later writes fail, and once everything is sent the other side is
// told that nothing follows.
func (c *conn) writeLast(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.writeLocked(p, false); err != nil {
		return
	}
	c.last = true
	if c.backlog == nil {
		c.closeWrite()
	}
}

// writeLocked hands p to the kernel, or to the backlog if there is one already or the kernel does not take all of it. kept
// says that a reference to p is in the backlog, which happens only if p is shared.
func (c *conn) writeLocked(p []byte, shared bool) (kept bool, err error) {
	if c.last {
		return false, errLast
	}
	if c.err != nil {
		return false, c.err
	}
	queued := 0
	if c.backlog != nil {
		queued = c.backlog.bytes
	} else if c.wrapped == nil {
		n, err := c.tryWrite(p)
		if err != nil {
			c.failLocked(err)
			return false, err
		}
		if n == len(p) {
			return false, nil
		}
		p = p[n:]
	}
	if queued+len(p) > c.limit {
		c.failLocked(errCut)
		return false, errCut
	}
	shared = shared && len(p) >= cap(p)/2 // or a few bytes would keep a large buffer alive, uncounted
	c.enqueueLocked(p, shared)
	return shared, nil
}

// enqueueLocked queues p, or a copy of it unless it is shared, and sees to it that the backlog is sent.
func (c *conn) enqueueLocked(p []byte, shared bool) {
	fresh := c.backlog == nil
	if fresh {
		c.backlog = &backlog{since: time.Now()}
	}
	b := c.backlog
	b.bytes += len(p)
	if n := len(b.pieces) - 1; !shared && b.owned && n > 0 && len(b.pieces[n]) < kernelSendBuffer {
		b.pieces[n] = append(b.pieces[n], p...) // one piece for many small frames; the first is on its way, and has its time
	} else if shared {
		b.pieces, b.owned = append(b.pieces, p), false
	} else {
		b.pieces, b.owned = append(b.pieces, append([]byte(nil), p...)), true
	}
	switch {
	case !fresh:
	case c.wrapped == nil:
		b.timer = time.AfterFunc(writeTimeout, c.overdue)
	default:
		go c.drain() // ends when the backlog is empty or a write fails, which closing the connection sees to
	}
}

// flush sends what the kernel takes now. The poller calls it whenever there is room.
func (c *conn) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.backlog != nil && c.err == nil {
		b := c.backlog
		n, err := c.tryWrite(b.pieces[0])
		if err != nil {
			c.failLocked(err)
			return
		}
		b.bytes -= n
		if b.pieces[0] = b.pieces[0][n:]; len(b.pieces[0]) > 0 {
			return
		}
		c.nextPieceLocked()
	}
}

// nextPieceLocked drops the first piece, which is sent. With the last one the backlog ends.
func (c *conn) nextPieceLocked() {
	b := c.backlog
	b.pieces[0] = nil
	b.pieces, b.since = b.pieces[1:], time.Now()
	if len(b.pieces) > 0 {
		return
	}
	c.endBacklogLocked()
	if c.last {
		c.closeWrite()
	}
}

func (c *conn) endBacklogLocked() {
	if c.backlog != nil && c.backlog.timer != nil {
		c.backlog.timer.Stop()
	}
	c.backlog = nil
}

// overdue cuts a polled connection off whose first piece is still there after writeTimeout.
func (c *conn) overdue() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.backlog == nil {
		return
	}
	if left := writeTimeout - time.Since(c.backlog.since); left > 0 {
		c.backlog.timer.Reset(left)
		return
	}
	c.failLocked(errCut)
}

// drain sends the backlog of a connection that is not polled. It is the only writer while it runs.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.backlog != nil {
		p := c.backlog.pieces[0]
		c.mu.Unlock()
		c.wrapped.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err := c.wrapped.Write(p)
		c.mu.Lock()
		switch {
		case c.backlog == nil: // failed meanwhile
		case err == nil:
			c.backlog.bytes -= len(p)
			c.nextPieceLocked()
		case isTimeout(err):
			c.failLocked(errCut)
		default:
			c.failLocked(err)
		}
	}
}

// failLocked makes the connection useless at once and for good. What stands above is told by ended.
func (c *conn) failLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	if err == errCut {
		c.cuts.Add(1)
	}
	c.endBacklogLocked()
	if c.wrapped == nil {
		c.hangUp(err == errCut)
		return
	}
	if t, ok := c.wrapped.(*net.TCPConn); ok && err == errCut {
		t.SetLinger(0) // the kernel need not keep what the client does not read
	}
	c.wrapped.Close()
}

// abort ends the connection at once. It may be called by anyone, any number of times.
func (c *conn) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(net.ErrClosed)
}

// free gives the descriptor back. What stands above calls it when the connection has ended, once.
func (c *conn) free() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(net.ErrClosed)
	if c.wrapped == nil {
		c.closeDescriptor()
	}
}

// failed reports whether the connection is of no use any more.
func (c *conn) failed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err != nil
}

// busy reports whether bytes are still on their way to the kernel.
func (c *conn) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.backlog != nil
}

// closeWrite tells the other side that nothing follows (FIN). It fails only if the connection is closed already.
func (c *conn) closeWrite() {
	if c.wrapped == nil {
		c.shutdownWrite()
	} else if s, ok := c.wrapped.(stream); ok {
		s.CloseWrite()
	}
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
