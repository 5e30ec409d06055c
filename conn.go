package main

// The TCP connection under everything: writes that never block, reads that hold no buffer while idle.
//
// A Pusher connection has no gaps. So a client that cannot keep up is not skipped: it is cut off and comes back. And
// because this file lies under TLS and gws, that one rule covers events, pongs, close frames and TLS records alike.

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
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

// conn is one accepted connection. Until upgrade it is an ordinary net.Conn for net/http.
type conn struct {
	net.Conn

	// Static after construction.
	raw syscall.RawConn // nil where there are no non-blocking writes: then everything goes through the queue

	// Static after upgrade, which comes before anyone else knows the connection.
	limit   int            // bytes that may be queued
	cuts    *atomic.Uint64 // counts connections cut for reading too slowly
	readFn  func(fd uintptr) bool
	writeFn func(fd uintptr) bool

	// Owned by the reader.
	in    *readBuffer // what readFn fills
	inErr error

	mu       sync.Mutex // guards the following
	out      []byte     // argument and results of writeFn
	outN     int
	outErr   error
	queue    [][]byte // what the kernel did not take yet, in order
	queued   int      // bytes in queue
	owned    bool     // the last piece of queue is a copy of ours and may be appended to
	draining bool     // drain runs; only it writes then
	last     bool     // nothing more may be written
	err      error    // why the connection is of no use any more
}

// stream is what TCP and Unix connections can do beyond net.Conn.
type stream interface {
	SetWriteBuffer(bytes int) error
	CloseWrite() error
}

// readBuffer is a pooled buffer with what one read brought.
type readBuffer struct {
	bytes [readBufferSize]byte
	n     int // bytes filled
	at    int // bytes given on
	good  int // bytes that may be given on (frameGuard)
}

var readBuffers = sync.Pool{New: func() any { return new(readBuffer) }}

func newConn(c net.Conn) *conn {
	nc := &conn{Conn: c}
	if sc, ok := c.(syscall.Conn); ok && canTryWrite {
		nc.raw, _ = sc.SyscallConn()
	}
	return nc
}

// upgrade makes Write non-blocking. limit is the number of bytes that may wait for a slow reader.
func (c *conn) upgrade(limit int, cuts *atomic.Uint64) {
	c.limit, c.cuts = limit, cuts
	c.readFn, c.writeFn = c.tryRead, c.tryWrite
	if s, ok := c.Conn.(stream); ok {
		s.SetWriteBuffer(kernelSendBuffer) // a failure only means that the kernel keeps its own size
	}
}

// readBuffer waits for bytes and returns them in a buffer from the pool, which the caller gives back with free. Only the
// reader may call it, after upgrade.
func (c *conn) readBuffer() (*readBuffer, error) {
	if c.raw == nil {
		b := readBuffers.Get().(*readBuffer)
		n, err := c.Conn.Read(b.bytes[:])
		return b.filled(n, err)
	}
	c.inErr = nil
	err := c.raw.Read(c.readFn)
	b := c.in
	c.in = nil
	if err == nil {
		err = c.inErr
	}
	if b == nil {
		return nil, err
	}
	return b.filled(b.n, err)
}

// filled returns b with n bytes in it, or gives it back to the pool if there are none.
func (b *readBuffer) filled(n int, err error) (*readBuffer, error) {
	if n == 0 {
		b.free()
		return nil, err
	}
	b.n, b.at, b.good = n, 0, 0
	return b, nil
}

func (b *readBuffer) free() { readBuffers.Put(b) }

// Write writes p without ever blocking; what the kernel does not take is copied and sent later. Before upgrade it blocks
// as usual. An error means that the connection is closed or closing.
func (c *conn) Write(p []byte) (int, error) {
	if c.limit == 0 {
		return c.Conn.Write(p)
	}
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

// writeLast is Write for the last bytes of the connection: later writes fail, and once the queue is empty the other side
// is told that nothing follows.
func (c *conn) writeLast(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.writeLocked(p, false); err != nil {
		return
	}
	c.last = true
	if !c.draining {
		c.closeWrite()
	}
}

// writeLocked hands p to the kernel, or to the queue if one exists already or the kernel does not take all of it. kept says
// that a reference to p is in the queue, which happens only if p is shared.
func (c *conn) writeLocked(p []byte, shared bool) (kept bool, err error) {
	if c.last {
		return false, errLast
	}
	if c.err != nil {
		return false, c.err
	}
	if !c.draining && c.raw != nil {
		n, err := c.writeNow(p)
		if err != nil {
			c.failLocked(err)
			return false, err
		}
		if n == len(p) {
			return false, nil
		}
		p = p[n:]
	}
	shared = shared && len(p) >= cap(p)/2 // or a few bytes would keep a large buffer alive, uncounted
	if c.queued += len(p); c.queued > c.limit {
		c.cuts.Add(1)
		c.failLocked(errCut)
		return false, errCut
	}
	c.enqueueLocked(p, shared)
	return shared, nil
}

// writeNow offers p to the kernel and returns how many bytes it took. The caller holds mu.
func (c *conn) writeNow(p []byte) (int, error) {
	c.out, c.outN, c.outErr = p, 0, nil
	err := c.raw.Write(c.writeFn)
	c.out = nil
	if err == nil {
		err = c.outErr
	}
	return c.outN, err
}

// enqueueLocked queues p, or a copy of it unless it is shared, and starts drain if it does not run.
func (c *conn) enqueueLocked(p []byte, shared bool) {
	if n := len(c.queue) - 1; !shared && c.owned && len(c.queue[n]) < kernelSendBuffer {
		c.queue[n] = append(c.queue[n], p...) // one piece for many small frames
	} else if shared {
		c.queue, c.owned = append(c.queue, p), false
	} else {
		c.queue, c.owned = append(c.queue, append([]byte(nil), p...)), true
	}
	if !c.draining {
		c.draining = true
		go c.drain() // ends when the queue is empty or a write fails, which closing the connection sees to
	}
}

// drain sends the queue. It is the only writer while it runs.
func (c *conn) drain() {
	for {
		p := c.nextPiece()
		if p == nil {
			return
		}
		c.Conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err := c.Conn.Write(p)
		c.mu.Lock()
		c.queued -= len(p)
		if err != nil {
			if isTimeout(err) && c.err == nil {
				c.cuts.Add(1)
				err = errCut
			}
			c.failLocked(err)
		}
		c.mu.Unlock()
	}
}

// nextPiece takes the first piece off the queue, or ends the drain and returns nil.
func (c *conn) nextPiece() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 || c.err != nil {
		c.draining, c.queue, c.queued, c.owned = false, nil, 0, false
		c.Conn.SetWriteDeadline(time.Time{}) // or a later write would fail because of this one's
		if c.last && c.err == nil {
			c.closeWrite()
		}
		return nil
	}
	p := c.queue[0]
	c.queue[0] = nil
	if c.queue = c.queue[1:]; len(c.queue) == 0 {
		c.owned = false
	}
	return p
}

// failLocked closes the connection at once and for good. The reader sees the closed connection and cleans up.
func (c *conn) failLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	if t, ok := c.Conn.(*net.TCPConn); ok && err == errCut {
		t.SetLinger(0) // the kernel need not keep what the client does not read
	}
	c.Conn.Close()
}

// abort closes the connection at once. It may be called by anyone, any number of times.
func (c *conn) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(net.ErrClosed)
}

// busy reports whether bytes are still on their way to the kernel.
func (c *conn) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining && c.err == nil
}

// closeWrite tells the other side that nothing follows (FIN).
func (c *conn) closeWrite() {
	if s, ok := c.Conn.(stream); ok {
		s.CloseWrite() // fails only if the connection is closed already
	}
}

// linger waits until the other side has closed too, so that it can read our last bytes: closing a connection that has
// unread input makes the kernel discard them. The reader calls it, last of all.
func (c *conn) linger() {
	for end := time.Now().Add(lingerLimit); time.Now().Before(end); {
		c.SetReadDeadline(time.Now().Add(lingerTimeout))
		b, err := c.readBuffer()
		for ; err == nil; b, err = c.readBuffer() {
			b.free()
		}
		if !isTimeout(err) || !c.busy() {
			return
		}
	}
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// listener wraps every accepted connection in a conn.
type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newConn(c), nil
}
