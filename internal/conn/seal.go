package conn

// TLS of polled connections.

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// TLSListener takes connections for TLS.
type TLSListener struct {
	net.Listener
	Config *tls.Config
}

func (l TLSListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return tls.Server(&cipherPipe{Conn: nc}, l.Config), nil
}

// cipherPipe is what a tls.Conn reads from and writes to: a connection as others are, while net/http has it, and
// afterwards a polled conn. So the rule for slow readers counts what really is sent, and an idle connection has no
// goroutine.
type cipherPipe struct {
	net.Conn
	below atomic.Pointer[Conn] // nil while net/http has it

	// Owned by who reads.
	begun bool   // something has come
	in    []byte // what has come to below and was not read
}

// Read gives TLS what has arrived. On a polled connection that may be nothing: then it returns os.ErrDeadlineExceeded.
// All that edge relies on is that a tls.Conn may be read again after its Read has returned that, as after any deadline.
func (p *cipherPipe) Read(b []byte) (int, error) {
	if p.below.Load() == nil {
		n, err := p.Conn.Read(b)
		if n > 0 && !p.begun && 'A' <= b[0] && b[0] <= 'Z' { // TLS begins with another byte
			p.refusePlain()
			return 0, errPlain
		}
		p.begun = true
		return n, err
	}
	if len(p.in) == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(b, p.in)
	p.in = p.in[n:]
	return n, nil
}

var errPlain = errors.New("not TLS")

// refusePlain answers one who speaks HTTP without TLS, and has whatever else he sends come in first, or he would not
// get the answer.
func (p *cipherPipe) refusePlain() {
	const text = "This port is for TLS: use https:// or wss:// here " +
		"(with pusher-js: forceTLS: true, and wssPort instead of wsPort).\n"
	fmt.Fprintf(p.Conn, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"+
		"Content-Length: %d\r\n\r\n%s", len(text), text)
	if s, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		s.CloseWrite()
	}
	p.Conn.SetReadDeadline(time.Now().Add(lingerTimeout))
	io.CopyN(io.Discard, p.Conn, 64<<10)
}

func (p *cipherPipe) Write(b []byte) (int, error) {
	if c := p.below.Load(); c != nil {
		return c.writeBelow(b)
	}
	return p.Conn.Write(b)
}

// seal is the TLS of a polled connection.
type seal struct {
	// Static after construction.
	tls  *tls.Conn
	pipe *cipherPipe

	mu   sync.Mutex // held while a record is made: taken before conn.mu; guards the following
	last bool       // nothing more may be written
}

// takeSealed is take for a connection with TLS.
func (c *Conn) takeSealed(nc net.Conn, p *Poller) bool {
	sealed, ok := nc.(*tls.Conn)
	if !ok {
		return false
	}
	pipe, ok := sealed.NetConn().(*cipherPipe)
	if !ok || !c.take(pipe.Conn, p) {
		return false
	}
	c.seal = &seal{tls: sealed, pipe: pipe}
	pipe.below.Store(c)
	return true
}

// write writes what is not encrypted yet.
func (s *seal) write(p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last {
		return errLast
	}
	_, err := s.tls.Write(p)
	return err
}

// writeLast is write for the last bytes; it ends TLS too (RFC 8446 section 6.1).
func (s *seal) writeLast(p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last {
		return errLast
	}
	s.last = true
	if _, err := s.tls.Write(p); err != nil {
		return err
	}
	return s.tls.CloseWrite()
}

// receive hands on what is in p, encrypted, and what was left in TLS before. The connection's reader calls it.
func (s *seal) receive(p []byte, c *Conn) {
	b := readBuffers.Get().(*[readBufferSize]byte)
	defer readBuffers.Put(b)
	s.pipe.in = p
	for {
		n, err := s.tls.Read(b[:])
		if n > 0 {
			c.Receive(b[:n])
		}
		if isTimeout(err) {
			return
		}
		if err != nil { // TLS was ended, or broken
			c.Abort()
			return
		}
	}
}
