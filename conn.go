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
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
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

// writeTimeout is the time in which something of a queue has to leave. Only tests change it.
var writeTimeout = 10 * time.Second

var errLast = errors.New("connection is closing")

// cutReason is an error: why edge has cut a connection off.
type cutReason int

const (
	cutFull    cutReason = iota // its queue was full
	cutStalled                  // nothing has left the queue for writeTimeout
	cutMemory                   // of what is held for all clients there was too much, and of this one for longest
	cutReasons
)

var cutNames = [cutReasons]string{"full", "stalled", "memory"}

func (r cutReason) Error() string { return "connection cut: " + cutNames[r] }

// consumer is what stands above a conn. Its methods are called one at a time.
type consumer interface {
	receive(p []byte) // what came; p may be changed, not kept
	ended()           // nothing more will come; called once, and last
}

// bounds are what the conns of an app have in common.
type bounds struct {
	queue  atomic.Int64              // bytes that may wait for one of them
	memory *budget                   // static
	cuts   [cutReasons]atomic.Uint64 // connections cut off
}

// conn is a connection that belongs to edge alone.
type conn struct {
	// Static after construction.
	wrapped net.Conn // nil if polled
	seal    *seal    // if polled and TLS
	poller  *poller
	fd      int // if polled
	remote  netip.AddrPort
	bounds  *bounds
	above   consumer // set by start

	wakes atomic.Int32 // polled only: readiness not yet served; if not 0, a goroutine reads

	mu      sync.Mutex // guards the following
	backlog *backlog   // nil if the kernel has taken everything
	sent    uint64     // bytes that it has taken
	last    bool       // nothing more may be written
	err     error      // why the connection is of no use any more
}

// backlog is what the kernel has not taken yet. A conn that has one only ever appends to it, and flush or drain sends it.
type backlog struct {
	pieces  []piece     // in order
	bytes   int         // in pieces
	copied  int         // of them, in copies of ours
	since   time.Time   // when something of it last left, or it began
	timer   *time.Timer // polled only: calls overdue
	holding holding
}

// piece is a part of a backlog. There may be thousands, of small frames.
type piece struct {
	of       *shared
	from, to uint32 // the bytes of it that are to be sent
}

const pieceSize = 16 // bytes of memory for a piece

func (p *piece) bytes() []byte { return p.of.bytes[p.from:p.to] }

// shared is bytes that many connections send, and that nobody changes before the last has called done; or a copy of ours.
type shared struct {
	// Static while others use it.
	bytes []byte
	free  func() // called when nobody uses it any more; nil for a copy

	users atomic.Int32
	held  atomic.Pointer[budget] // where it counts as held
}

// keep adds a user.
func (s *shared) keep(b *budget) {
	s.users.Add(1)
	if s.held.CompareAndSwap(nil, b) {
		b.share(int64(cap(s.bytes)))
	}
}

// done takes a user away, be it one that never called keep.
func (s *shared) done() {
	if s.users.Add(-1) > 0 {
		return
	}
	if b := s.held.Swap(nil); b != nil {
		b.share(-int64(cap(s.bytes)))
	}
	if s.free != nil {
		s.free()
	}
}

// stream is what TCP and Unix connections can do beyond net.Conn.
type stream interface{ SetWriteBuffer(bytes int) error }

var readBuffers = sync.Pool{New: func() any { return new([readBufferSize]byte) }}

// init takes a connection over. With a poller (nil for none) nc must not be used any more.
func (c *conn) init(nc net.Conn, p *poller, b *bounds) {
	c.bounds = b
	boundKernel(nc)
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		c.remote = netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), uint16(a.Port))
	}
	if p == nil || !c.take(nc, p) && !c.takeSealed(nc, p) {
		c.wrapped = nc
	}
}

// boundKernel bounds what the kernel takes for a client that does not read.
func boundKernel(nc net.Conn) {
	if s, ok := below(nc).(stream); ok {
		s.SetWriteBuffer(kernelSendBuffer) // a failure only means that the kernel keeps its own size
	}
}

// below returns the connection that TLS runs over, or nc if it is not TLS. To close that is for those who may not wait: Close of
// a tls.Conn writes a last record, for which there may be no room for five seconds.
func below(nc net.Conn) net.Conn {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	if pipe, ok := nc.(*cipherPipe); ok {
		nc = pipe.Conn
	}
	return nc
}

// start begins to read. Whatever is to be received first must have been by now.
func (c *conn) start(above consumer) {
	c.above = above
	switch nc := c.wrapped.(type) {
	case nil:
		if c.seal != nil {
			c.seal.receive(nil, c) // what TLS has read already
		}
		c.watch()
	case *session:
		go nc.deliver() // ends with the session
	default:
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
		if n == len(b) {
			runtime.Gosched() // see readAll
		}
	}
	readBuffers.Put(b)
	c.above.ended()
}

// Write writes p without ever blocking; what the kernel does not take is copied and sent later. An error means that the
// connection is closed or closing.
func (c *conn) Write(p []byte) (int, error) {
	if c.seal != nil {
		return len(p), c.seal.write(p)
	}
	return c.writeBelow(p)
}

// writeBelow is Write for what is encrypted, if it is to be.
func (c *conn) writeBelow(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.writeLocked(p, nil, 0); err != nil {
		return 0, err
	}
	return len(p), nil
}

// writeShared is Write for a part of what others send too: what must wait is not copied, if it is worth it.
func (c *conn) writeShared(of *shared, from, to int) {
	if c.seal != nil {
		c.seal.write(of.bytes[from:to])
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeLocked(of.bytes[from:to], of, from)
}

// writeLast is Write for the last bytes of the connection: later writes fail, and once everything is sent the other side is
// told that nothing follows. It reports whether p is that: not if something else was, or the connection has failed.
func (c *conn) writeLast(p []byte) bool {
	if c.seal != nil {
		if c.seal.writeLast(p) != nil {
			return false
		}
		p = nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writeLocked(p, nil, 0) != nil {
		return false
	}
	c.last = true
	if c.backlog == nil {
		c.closeWrite()
	}
	return true
}

// writeLocked hands p, which stands at that place of what others send too if of is not nil, to the kernel, or to the backlog if
// there is one already or the kernel does not take all of it.
func (c *conn) writeLocked(p []byte, of *shared, at int) error {
	if c.last {
		return errLast
	}
	if c.err != nil {
		return c.err
	}
	queued := 0
	if c.backlog != nil {
		queued = c.backlog.bytes
	} else if c.wrapped == nil {
		n, err := c.tryWrite(p)
		if err != nil {
			c.failLocked(err)
			return err
		}
		if c.sent += uint64(n); n == len(p) {
			return nil
		}
		p, at = p[n:], at+n
	}
	if queued+len(p) > int(c.bounds.queue.Load()) {
		c.failLocked(cutFull)
		return cutFull
	}
	c.enqueueLocked(p, of, at)
	return nil
}

// enqueueLocked queues p, which is copied unless others send it too, and sees to it that the backlog is sent.
func (c *conn) enqueueLocked(p []byte, of *shared, at int) {
	fresh := c.backlog == nil
	if fresh {
		c.backlog = &backlog{since: time.Now()}
		c.backlog.holding.conn = c
	}
	b := c.backlog
	b.bytes += len(p)
	if of != nil && len(p) >= cap(of.bytes)/16 { // or a few bytes would keep a large buffer alive
		of.keep(c.bounds.memory)
		b.pieces = append(b.pieces, piece{of, uint32(at), uint32(at + len(p))})
	} else {
		b.copied += len(p)
		if n := len(b.pieces) - 1; n > 0 && b.pieces[n].of.free == nil && len(b.pieces[n].of.bytes) < kernelSendBuffer {
			last := &b.pieces[n] // one piece for many small frames; the first is on its way, and has its time
			last.of.bytes = append(last.of.bytes, p...)
			last.to = uint32(len(last.of.bytes))
		} else {
			b.pieces = append(b.pieces, piece{&shared{bytes: append([]byte(nil), p...)}, 0, uint32(len(p))})
		}
	}
	c.holdLocked(false)
	switch {
	case !fresh:
	case c.wrapped == nil:
		b.timer = time.AfterFunc(writeTimeout, c.overdue)
	default:
		go c.drain() // ends when the backlog is empty or a write fails, which closing the connection sees to
	}
}

// holdLocked accounts for the backlog. moved says that a piece of it has left.
func (c *conn) holdLocked(moved bool) {
	b := c.backlog
	c.bounds.memory.hold(&b.holding, int64(b.copied)+int64(len(b.pieces))*pieceSize+kernelHeld, moved)
}

// flush sends what the kernel takes now. The poller calls it whenever there is room.
func (c *conn) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.backlog != nil && c.err == nil {
		first := &c.backlog.pieces[0]
		n, err := c.tryWrite(first.bytes())
		if err != nil {
			c.failLocked(err)
			return
		}
		if c.sentLocked(n); first.from < first.to {
			return
		}
		c.nextPieceLocked()
	}
}

// sentLocked notes that so many bytes of the first piece have left.
func (c *conn) sentLocked(n int) {
	b := c.backlog
	b.bytes -= n
	c.sent += uint64(n)
	if n > 0 {
		b.since = time.Now()
	}
	b.pieces[0].from += uint32(n)
	if b.pieces[0].of.free == nil {
		b.copied -= n
	}
}

// nextPieceLocked drops the first piece, which is sent. With the last one the backlog ends.
func (c *conn) nextPieceLocked() {
	b := c.backlog
	b.pieces[0].of.done()
	b.pieces[0] = piece{}
	b.pieces = b.pieces[1:]
	if len(b.pieces) > 0 {
		c.holdLocked(true)
		return
	}
	c.endBacklogLocked()
	if c.last {
		c.closeWrite()
	}
}

func (c *conn) endBacklogLocked() {
	b := c.backlog
	if b == nil {
		return
	}
	if b.timer != nil {
		b.timer.Stop()
	}
	for _, p := range b.pieces {
		p.of.done()
	}
	c.bounds.memory.hold(&b.holding, 0, false)
	c.backlog = nil
}

// overdue cuts a polled connection off of whose backlog nothing has left for writeTimeout.
func (c *conn) overdue() {
	defer c.recovered()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.backlog == nil {
		return
	}
	if left := writeTimeout - time.Since(c.backlog.since); left > 0 {
		c.backlog.timer.Reset(left)
		return
	}
	c.failLocked(cutStalled)
}

// drain sends the backlog of a connection that is not polled. It is the only writer while it runs, and it ends with the backlog:
// the next one begins a drain of its own.
func (c *conn) drain() {
	defer c.recovered()
	for p, more := c.firstPiece(); more; {
		parts := 1 + len(p.bytes())/kernelSendBuffer // of a large piece: that one of them moves does not show
		c.wrapped.SetWriteDeadline(time.Now().Add(time.Duration(parts) * writeTimeout))
		n, err := c.wrapped.Write(p.bytes())
		p.of.done()
		p, more = c.wrote(n, err)
	}
}

// firstPiece returns the first piece of the backlog, which others do not change before done is called, even if the backlog ends.
func (c *conn) firstPiece() (p piece, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.firstPieceLocked()
}

func (c *conn) firstPieceLocked() (p piece, ok bool) {
	if c.backlog == nil {
		return p, false
	}
	p = c.backlog.pieces[0]
	p.of.users.Add(1)
	return p, true
}

// wrote is told how writing the first piece went, and returns the next as firstPiece does. That no other backlog can begin in
// between is why these two are one: with a second drain that piece would be sent twice.
func (c *conn) wrote(n int, err error) (next piece, more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.backlog == nil: // failed meanwhile
	case err == nil:
		c.sentLocked(n)
		c.nextPieceLocked()
		if c.backlog == nil && !c.last {
			c.wrapped.SetWriteDeadline(time.Time{}) // it is not one of what TLS writes by itself
		}
	case isTimeout(err):
		c.failLocked(cutStalled)
	default:
		c.failLocked(err)
	}
	return c.firstPieceLocked()
}

// recovered ends the connection, and no other, if sending has panicked; it is deferred.
func (c *conn) recovered() {
	p := recover()
	if p == nil {
		return
	}
	logPanic("connection", p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.backlog; b != nil { // it may be what is broken
		c.backlog = nil
		c.bounds.memory.hold(&b.holding, 0, false)
	}
	c.failLocked(net.ErrClosed)
}

// failLocked makes the connection useless at once and for good. What stands above is told by ended.
func (c *conn) failLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	reason, cut := err.(cutReason)
	if cut {
		c.bounds.cuts[reason].Add(1)
	}
	c.endBacklogLocked()
	if c.wrapped == nil {
		c.hangUp(cut)
		return
	}
	nc := below(c.wrapped)
	if t, ok := nc.(*net.TCPConn); ok && cut {
		t.SetLinger(0) // the kernel need not keep what the client does not read
	}
	nc.Close()
}

// abort ends the connection at once. It may be called by anyone, any number of times.
func (c *conn) abort() { c.fail(net.ErrClosed) }

// fail is abort for a reason.
func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(err)
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
func (c *conn) failed() bool { return c.cause() != nil }

// cause is why the connection is of no use any more; nil if it is, or has ended as it should.
func (c *conn) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// sentBytes is how many bytes the kernel has taken.
func (c *conn) sentBytes() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent
}

// busy reports whether bytes are still on their way to the kernel.
func (c *conn) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.backlog != nil
}

// closeWrite tells the other side that nothing follows (FIN). It fails only if the connection is closed already.
func (c *conn) closeWrite() {
	switch nc := c.wrapped.(type) {
	case nil:
		c.shutdownWrite()
	case *tls.Conn:
		go func() { // ends after five seconds at most: a last record may have to wait for so long, and with mu everyone would
			defer recovered("connection")
			nc.CloseWrite()
		}()
	case interface{ CloseWrite() error }:
		nc.CloseWrite()
	}
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
