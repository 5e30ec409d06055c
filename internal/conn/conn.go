// Package conn is the connection under a WebSocket: the handshake, writes that never block, and reads that hold nothing
// while nothing comes. It imports nothing of edge's, and knows nothing of Pusher's protocol: a Handler stands above it.
//
// A Pusher connection has no gaps. So a client that cannot keep up is not skipped: it is cut off and comes back. That
// rule is here and nowhere else, and covers events, pongs and close frames alike.
//
// Most connections are idle most of the time. On Linux an idle one has no goroutine and no buffer: its descriptor
// belongs to us alone, the poller (poll_linux.go) says when there is something to read or room to write, and only then
// a goroutine exists for it. Elsewhere, and for what is not a plain TCP or Unix connection, a goroutine waits in Read,
// and another writes while there is a queue. What stands above notices no difference.
package conn

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	kernelSendBuffer = 64 << 10 // bytes; without a bound the kernel takes 4 MiB for a client that never reads
	readBufferSize   = 4 << 10
)

// WriteTimeout is the time in which something of a queue has to leave. Only tests change it.
var WriteTimeout = 10 * time.Second

var errLast = errors.New("connection is closing")

// CutReason is an error: why edge has cut a connection off.
type CutReason int

const (
	CutFull    CutReason = iota // its queue was full
	CutStalled                  // nothing has left the queue for WriteTimeout
	CutMemory                   // of what is held for all clients there was too much, and of this one for longest
	CutReasons
)

var CutNames = [CutReasons]string{"full", "stalled", "memory"}

func (r CutReason) Error() string { return "connection cut: " + CutNames[r] }

// Conn is a connection that belongs to edge alone.
type Conn struct {
	// Static after construction.
	wrapped net.Conn // nil if polled
	seal    *seal    // if polled and TLS
	poller  *Poller
	fd      int // if polled
	Remote  netip.AddrPort
	group   *Group
	above   Handler

	wakes   atomic.Int32 // polled only: readiness not yet served; if not 0, a goroutine reads
	Closing atomic.Bool  // a close frame was sent: nothing more is handled
	ended   atomic.Bool  // above knows, or is about to, that the conversation is over
	through atomic.Int32 // of the reader and above, how many are done: the second frees
	Heard   atomic.Int64 // when something was last read
	began   atomic.Int64 // when the frame was begun that had not ended at the last read; 0 for none

	// Owned by the reader.
	in    guard
	held  *Holding // what in keeps; nil for nothing
	frame uint32   // the guard's number of the frame that began stands for

	admitted bool // guarded by group.mu

	mu      sync.Mutex  // guards the following
	backlog *backlog    // nil if the kernel has taken everything
	sent    uint64      // bytes that it has taken,
	counted uint64      // and of them, those that group counts
	last    bool        // nothing more may be written
	err     error       // why the connection is of no use any more
	timer   *time.Timer // calls tick; nil before it is needed
	closed  *Farewell   // nil before a close frame was sent
}

// backlog is what the kernel has not taken yet. A conn that has one only ever appends to it, and flush or drain sends
// it.
type backlog struct {
	pieces  []piece     // in order
	bytes   int         // in pieces
	copied  int         // of them, in copies of ours
	since   time.Time   // when something of it last left, or it began
	timer   *time.Timer // polled only: calls overdue
	holding Holding
}

// piece is a part of a backlog. There may be thousands, of small frames.
type piece struct {
	of       *Shared
	from, to uint32 // the bytes of it that are to be sent
}

const pieceSize = 16 // bytes of memory for a piece

func (p *piece) bytes() []byte { return p.of.Bytes[p.from:p.to] }

// Shared is bytes that many connections send, and that nobody changes before the last has called done; or a copy of
// ours.
type Shared struct {
	// Static while others use it.
	Bytes []byte
	Free  func() // called when nobody uses it any more; nil for a copy

	Users atomic.Int32
	held  atomic.Pointer[Budget] // where it counts as held
}

// keep adds a user.
func (s *Shared) keep(b *Budget) {
	s.Users.Add(1)
	if s.held.CompareAndSwap(nil, b) {
		b.share(int64(cap(s.Bytes)))
	}
}

// Done takes a user away, be it one that never called keep.
func (s *Shared) Done() {
	if s.Users.Add(-1) > 0 {
		return
	}
	if b := s.held.Swap(nil); b != nil {
		b.share(-int64(cap(s.Bytes)))
	}
	if s.Free != nil {
		s.Free()
	}
}

// stream is what TCP and Unix connections can do beyond net.Conn.
type stream interface{ SetWriteBuffer(bytes int) error }

var readBuffers = sync.Pool{New: func() any { return new([readBufferSize]byte) }}

// Init takes a connection over, for h to handle. With a poller (nil for none) nc must not be used any more. What begins
// with init ends with finish.
func (c *Conn) Init(nc net.Conn, p *Poller, g *Group, h Handler) {
	c.group, c.above = g, h
	c.Heard.Store(Now())
	g.enter()
	BoundKernel(nc)
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		c.Remote = netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), uint16(a.Port))
	}
	if p == nil || !c.take(nc, p) && !c.takeSealed(nc, p) {
		c.wrapped = nc
	}
}

// BoundKernel bounds what the kernel takes for a client that does not read.
func BoundKernel(nc net.Conn) {
	if s, ok := below(nc).(stream); ok {
		s.SetWriteBuffer(kernelSendBuffer) // a failure only means that the kernel keeps its own size
	}
}

// below returns the connection that TLS runs over, or nc if it is not TLS. To close that is for those who may not wait:
// Close of a tls.Conn writes a last record, for which there may be no room for five seconds.
func below(nc net.Conn) net.Conn {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	if pipe, ok := nc.(*cipherPipe); ok {
		nc = pipe.Conn
	}
	return nc
}

// Write writes p without ever blocking; what the kernel does not take is copied and sent later. An error means that the
// connection is closed or closing.
func (c *Conn) Write(p []byte) (int, error) {
	if c.seal != nil {
		return len(p), c.seal.write(p)
	}
	return c.writeBelow(p)
}

// writeBelow is Write for what is encrypted, if it is to be.
func (c *Conn) writeBelow(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.writeLocked(p, nil, 0); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteShared is Write for a part of what others send too: what must wait is not copied, if it is worth it.
func (c *Conn) WriteShared(of *Shared, from, to int) {
	if c.seal != nil {
		c.seal.write(of.Bytes[from:to])
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeLocked(of.Bytes[from:to], of, from)
}

// writeLast is Write for the last bytes of the connection: later writes fail, and once everything is sent the other
// side is told that nothing follows. It reports whether p is that: not if something else was, or the connection has
// failed.
func (c *Conn) writeLast(p []byte) bool {
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

// writeLocked hands p, which stands at that place of what others send too if of is not nil, to the kernel, or to the
// backlog if there is one already or the kernel does not take all of it.
func (c *Conn) writeLocked(p []byte, of *Shared, at int) error {
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
	if queued+len(p) > int(c.group.Queue.Load()) {
		c.failLocked(CutFull)
		return CutFull
	}
	c.enqueueLocked(p, of, at)
	return nil
}

// enqueueLocked queues p, which is copied unless others send it too, and sees to it that the backlog is sent.
func (c *Conn) enqueueLocked(p []byte, of *Shared, at int) {
	fresh := c.backlog == nil
	if fresh {
		c.backlog = &backlog{since: time.Now()}
		c.backlog.holding.Conn = c
	}
	b := c.backlog
	b.bytes += len(p)
	if of != nil && len(p) >= cap(of.Bytes)/16 { // or a few bytes would keep a large buffer alive
		of.keep(c.group.Memory)
		b.pieces = append(b.pieces, piece{of, uint32(at), uint32(at + len(p))})
	} else {
		b.copied += len(p)
		if n := len(b.pieces) - 1; n > 0 && b.pieces[n].of.Free == nil && len(b.pieces[n].of.Bytes) < kernelSendBuffer {
			last := &b.pieces[n] // one piece for many small frames; the first is on its way, and has its time
			last.of.Bytes = append(last.of.Bytes, p...)
			last.to = uint32(len(last.of.Bytes))
		} else {
			b.pieces = append(b.pieces, piece{&Shared{Bytes: append([]byte(nil), p...)}, 0, uint32(len(p))})
		}
	}
	c.holdLocked(false)
	switch {
	case !fresh:
	case c.wrapped == nil:
		b.timer = time.AfterFunc(WriteTimeout, c.overdue)
	default:
		go c.drain() // ends when the backlog is empty or a write fails, which closing the connection sees to
	}
}

// holdLocked accounts for the backlog. moved says that a piece of it has left.
func (c *Conn) holdLocked(moved bool) {
	b := c.backlog
	c.group.Memory.Hold(&b.holding, int64(b.copied)+int64(len(b.pieces))*pieceSize+kernelHeld, moved)
}

// flush sends what the kernel takes now. The poller calls it whenever there is room.
func (c *Conn) flush() {
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
func (c *Conn) sentLocked(n int) {
	b := c.backlog
	b.bytes -= n
	c.sent += uint64(n)
	if n > 0 {
		b.since = time.Now()
	}
	b.pieces[0].from += uint32(n)
	if b.pieces[0].of.Free == nil {
		b.copied -= n
	}
}

// nextPieceLocked drops the first piece, which is sent. With the last one the backlog ends.
func (c *Conn) nextPieceLocked() {
	b := c.backlog
	b.pieces[0].of.Done()
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

func (c *Conn) endBacklogLocked() {
	b := c.backlog
	if b == nil {
		return
	}
	if b.timer != nil {
		b.timer.Stop()
	}
	for _, p := range b.pieces {
		p.of.Done()
	}
	c.group.Memory.Hold(&b.holding, 0, false)
	c.backlog = nil
}

// overdue cuts a polled connection off of whose backlog nothing has left for WriteTimeout.
func (c *Conn) overdue() {
	defer c.recovered()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.backlog == nil {
		return
	}
	if left := WriteTimeout - time.Since(c.backlog.since); left > 0 {
		c.backlog.timer.Reset(left)
		return
	}
	c.failLocked(CutStalled)
}

// drain sends the backlog of a connection that is not polled. It is the only writer while it runs, and it ends with the
// backlog: the next one begins a drain of its own.
func (c *Conn) drain() {
	defer c.recovered()
	for p, more := c.firstPiece(); more; {
		parts := 1 + len(p.bytes())/kernelSendBuffer // of a large piece: that one of them moves does not show
		c.wrapped.SetWriteDeadline(time.Now().Add(time.Duration(parts) * WriteTimeout))
		n, err := c.wrapped.Write(p.bytes())
		p.of.Done()
		p, more = c.wrote(n, err)
	}
}

// firstPiece returns the first piece of the backlog, which others do not change before done is called, even if the
// backlog ends.
func (c *Conn) firstPiece() (p piece, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.firstPieceLocked()
}

func (c *Conn) firstPieceLocked() (p piece, ok bool) {
	if c.backlog == nil {
		return p, false
	}
	p = c.backlog.pieces[0]
	p.of.Users.Add(1)
	return p, true
}

// wrote is told how writing the first piece went, and returns the next as firstPiece does. That no other backlog can
// begin in between is why these two are one: with a second drain that piece would be sent twice.
func (c *Conn) wrote(n int, err error) (next piece, more bool) {
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
		c.failLocked(CutStalled)
	default:
		c.failLocked(err)
	}
	return c.firstPieceLocked()
}

// recovered ends the connection, and no other, if sending has panicked; it is deferred.
func (c *Conn) recovered() {
	p := recover()
	if p == nil {
		return
	}
	LogPanic("connection", p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.backlog; b != nil { // it may be what is broken
		c.backlog = nil
		c.group.Memory.Hold(&b.holding, 0, false)
	}
	c.failLocked(net.ErrClosed)
}

// failLocked makes the connection useless at once and for good. What stands above is told by ended.
func (c *Conn) failLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	reason, cut := err.(CutReason)
	if cut {
		c.group.Cuts[reason].Add(1)
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

// Abort ends the connection at once. It may be called by anyone, any number of times.
func (c *Conn) Abort() { c.fail(net.ErrClosed) }

// fail is abort for a reason.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(err)
}

// free gives the descriptor back, once.
func (c *Conn) free() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(net.ErrClosed)
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.wrapped == nil {
		c.closeDescriptor()
	}
}

// failed reports whether the connection is of no use any more.
func (c *Conn) failed() bool { return c.Cause() != nil }

// Cause is why the connection is of no use any more; nil if it is, or has ended as it should.
func (c *Conn) Cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// CountSent has group count the bytes that were sent since it was last called.
func (c *Conn) CountSent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.group.Sent.Add(c.sent - c.counted)
	c.counted = c.sent
}

// busy reports whether bytes are still on their way to the kernel.
func (c *Conn) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.backlog != nil
}

// closeWrite tells the other side that nothing follows (FIN). It fails only if the connection is closed already.
func (c *Conn) closeWrite() {
	switch nc := c.wrapped.(type) {
	case nil:
		c.shutdownWrite()
	case *tls.Conn:
		// A last record may have to wait for so long, and with mu everyone would.
		go func() { // ends after five seconds at most
			defer Recovered("connection")
			nc.CloseWrite()
		}()
	case interface{ CloseWrite() error }:
		nc.CloseWrite()
	}
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
