package conn

// Idle connections without goroutines (epoll(7)).
//
// Every polled connection is watched, edge-triggered, by one epoll instance of ours, and that instance by the runtime's
// poller like any file: so one parked goroutine, and no thread, waits for all of them, and an idle server makes no
// system call. The descriptor is a duplicate that the runtime does not know; it is closed when the reader has ended,
// under the lock of the connection, so that its number cannot come to stand for another connection while someone
// writes.

import (
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pollEvents: told once for each change, so that nothing needs to be asked for again.
const pollEvents = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET

// Poller says which connections have something to read or room to write.
type Poller struct {
	// Static after construction.
	file *os.File // the epoll instance
	raw  syscall.RawConn
	fd   int

	started sync.Once  // run
	mu      sync.Mutex // guards the following
	conns   []*Conn    // by descriptor
}

// NewPoller makes a poller, which must be closed when it is not needed any more.
func NewPoller() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	unix.SetNonblock(fd, true) // makes os.NewFile hand it to the runtime's poller
	p := &Poller{file: os.NewFile(uintptr(fd), "epoll"), fd: fd}
	p.raw, err = p.file.SyscallConn()
	if err == nil {
		err = p.file.SetDeadline(time.Time{}) // fails if the runtime's poller has not taken it
	}
	if err != nil {
		p.file.Close()
		return nil, err
	}
	return p, nil
}

// run tells connections what has happened to them, until close.
func (p *Poller) run() {
	events := make([]unix.EpollEvent, 128)
	for {
		var n int
		err := p.raw.Read(func(fd uintptr) bool {
			n, _ = unix.EpollWait(int(fd), events, 0) // fails only when interrupted, then there is nothing yet
			return n > 0
		})
		if err != nil {
			return
		}
		for _, e := range events[:n] {
			if c := p.conn(int(e.Fd)); c != nil {
				c.event(e.Events)
			}
		}
		if n == len(events) {
			// Many have something to say: let these be served first, or there would be a goroutine for each at once.
			runtime.Gosched()
		}
	}
}

func (p *Poller) Close() {
	if p != nil {
		p.file.Close()
	}
}

// conn returns the connection with this descriptor. It may be another than the event was for, if that was closed
// meanwhile: to be told of nothing does no harm.
func (p *Poller) conn(fd int) *Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conns[fd]
}

// add begins to poll c. Until that is done nobody finds it: an event for one that had its descriptor before could make
// a reader end it, and give the descriptor to the next, before it is watched.
func (p *Poller) add(c *Conn) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c.fd >= len(p.conns) {
		p.conns = append(p.conns, nil)
	}
	p.conns[c.fd] = c
	e := unix.EpollEvent{Events: pollEvents, Fd: int32(c.fd)}
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, c.fd, &e) // fails out of memory or over fs.epoll.max_user_watches
}

// remove forgets the connection with this descriptor.
func (p *Poller) remove(fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fd < len(p.conns) { // else it was never added
		p.conns[fd] = nil
	}
}

// take makes c own the descriptor of nc, and closes nc. It reports false if nc has none or no more can be had.
func (c *Conn) take(nc net.Conn, p *Poller) bool {
	if _, ok := nc.(stream); !ok {
		return false
	}
	raw, err := nc.(syscall.Conn).SyscallConn()
	if err != nil {
		return false
	}
	fd, failed := 0, error(nil)
	err = raw.Control(func(old uintptr) { // fails if nc is closed already
		fd, failed = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err != nil || failed != nil {
		return false
	}
	nc.Close()
	p.started.Do(func() { go p.run() }) // ends with close
	c.poller, c.fd = p, fd
	return true
}

// watch begins to poll. What is there already is told at once.
func (c *Conn) watch() {
	if c.poller.add(c) != nil {
		c.Abort()
		c.wake()
	}
}

// event is told what has happened, by the poller.
func (c *Conn) event(events uint32) {
	defer c.recovered()
	if events&unix.EPOLLOUT != 0 {
		c.flush()
	}
	if events&^unix.EPOLLOUT != 0 {
		c.wake()
	}
}

// wake sees to it that someone reads.
func (c *Conn) wake() {
	if c.wakes.Add(1) == 1 {
		go c.readAll() // ends when nothing more is there
	}
}

// readAll reads what is there, and what comes meanwhile.
func (c *Conn) readAll() {
	b := readBuffers.Get().(*[readBufferSize]byte)
	defer readBuffers.Put(b)
	for {
		served := c.wakes.Load()
		for {
			n, err := c.tryRead(b[:])
			if n > 0 && c.seal != nil {
				c.seal.receive(b[:n], c)
			} else if n > 0 {
				c.Receive(b[:n])
			}
			if n == len(b) {
				// Who sends without end waits for others after each piece, not after the 10 ms that Go lets it run.
				runtime.Gosched()
			}
			if err == unix.EAGAIN {
				break
			}
			if err != nil {
				c.Finish()
				return // wakes stays above 0, so that nobody reads again
			}
		}
		if c.wakes.CompareAndSwap(served, 0) {
			return
		}
	}
}

// tryRead reads what is there now: EAGAIN if that is nothing. (What cannot block cannot be interrupted: there is no
// EINTR.)
func (c *Conn) tryRead(p []byte) (int, error) {
	n, err := unix.Read(c.fd, p)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// tryWrite offers p to the kernel once; it never waits.
func (c *Conn) tryWrite(p []byte) (int, error) {
	n, err := unix.Write(c.fd, p)
	if err == unix.EAGAIN {
		err = nil
	}
	return max(n, 0), err
}

// hangUp ends both directions, which the poller notices. With reset the kernel need not keep what the client does not
// read.
func (c *Conn) hangUp(reset bool) {
	if reset {
		unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	unix.Shutdown(c.fd, unix.SHUT_RDWR)
}

func (c *Conn) shutdownWrite() { unix.Shutdown(c.fd, unix.SHUT_WR) }

func (c *Conn) closeDescriptor() {
	c.poller.remove(c.fd)
	unix.Close(c.fd)
}

// DescriptorLimit is how many files and connections the process may have open. Go raises it to the hard limit at start.
func DescriptorLimit() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 1024
	}
	return int(min(l.Cur, 1<<20))
}
