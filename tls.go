package main

// TLS: the certificate, which is read again when it changes, and the listener.

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const day = 24 * time.Hour

// certificateCheck is how often a handshake looks whether the files have changed.
const certificateCheck = time.Second

// certificate is the server's certificate and key.
type certificate struct {
	mu       sync.Mutex // guards the following
	cert     *tls.Certificate
	files    [2]string
	read     [2]os.FileInfo // as they were when they were read
	checked  int64          // when that was last compared,
	warned   int64          // and when warnLocked was called, on the clock of monotonic
	reported bool           // that they cannot be read
}

// newCertificate reads a certificate and its key from two files in PEM.
func newCertificate(cert, key string) (*certificate, error) {
	c := new(certificate)
	return c, c.use(cert, key)
}

// use makes it the certificate of these files. If they do not fit, it stays what it was.
func (c *certificate) use(cert, key string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.useLocked([2]string{cert, key})
}

func (c *certificate) useLocked(files [2]string) error {
	read := stat(files) // before reading: what is written in between is read again
	pair, err := tls.LoadX509KeyPair(files[0], files[1])
	if err != nil {
		return fmt.Errorf("cannot use the certificate %s with the key %s: %w", files[0], files[1], err)
	}
	c.cert, c.files, c.read, c.reported = &pair, files, read, false
	c.warnLocked()
	return nil
}

// warnLocked says, once a day, if clients do not take the certificate, or soon will not.
func (c *certificate) warnLocked() {
	c.warned = monotonic()
	switch leaf := c.cert.Leaf; {
	case time.Now().Before(leaf.NotBefore):
		slog.Warn("the certificate does not hold yet, or the clock is wrong", "file", c.files[0], "from", leaf.NotBefore)
	case time.Now().After(leaf.NotAfter):
		slog.Error("the certificate has ended: clients refuse it", "file", c.files[0], "on", leaf.NotAfter)
	case time.Until(leaf.NotAfter) < 30*day:
		slog.Warn("the certificate ends soon", "file", c.files[0], "days left", int(time.Until(leaf.NotAfter)/day))
	}
}

func stat(files [2]string) (info [2]os.FileInfo) {
	for i, name := range files {
		info[i], _ = os.Stat(name)
	}
	return info
}

// get returns the certificate for a handshake, as the files have it. One that cannot be read leaves the old one.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := monotonic(); time.Duration(now-c.checked) >= certificateCheck {
		c.checked = now
		if time.Duration(now-c.warned) >= day {
			c.warnLocked()
		}
		if now := stat(c.files); changed(now, c.read) {
			if err := c.useLocked(c.files); err == nil {
				slog.Info("the certificate has changed", "file", c.files[0])
			} else if !c.reported {
				c.reported = true
				slog.Error("the certificate has changed and cannot be read: the old one stays", "error", err)
			}
		}
	}
	return c.cert, nil
}

// changed reports whether the files are there and others than before.
func changed(now, before [2]os.FileInfo) bool {
	for i := range now {
		if now[i] == nil || before[i] == nil {
			return now[i] != nil
		}
		if !os.SameFile(now[i], before[i]) || !now[i].ModTime().Equal(before[i].ModTime()) || now[i].Size() != before[i].Size() {
			return true
		}
	}
	return false
}

// expiry is when the certificate ends, in seconds since 1970.
func (c *certificate) expiry() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cert.Leaf.NotAfter.Unix()
}

func (c *certificate) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get, NextProtos: []string{"http/1.1"}}
}

// tlsListener takes connections for TLS.
type tlsListener struct {
	net.Listener
	config *tls.Config
}

func (l tlsListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return tls.Server(&cipherPipe{Conn: nc}, l.config), nil
}

// cipherPipe is what a tls.Conn reads from and writes to: a connection as others are, while net/http has it, and afterwards a
// polled conn. So the rule for slow readers counts what really is sent, and an idle connection has no goroutine.
type cipherPipe struct {
	net.Conn
	below atomic.Pointer[conn] // nil while net/http has it

	// Owned by who reads.
	begun bool   // something has come
	in    []byte // what has come to below and was not read
}

// nothingYet is the error of a read for which nothing has come. For crypto/tls it is one after which reading can go on.
type nothingYet struct{}

func (nothingYet) Error() string   { return "nothing has come yet" }
func (nothingYet) Timeout() bool   { return true }
func (nothingYet) Temporary() bool { return true }

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
		return 0, nothingYet{}
	}
	n := copy(b, p.in)
	p.in = p.in[n:]
	return n, nil
}

var errPlain = errors.New("not TLS")

// refusePlain answers one who speaks HTTP without TLS, and has whatever else he sends come in first, or he would not get the answer.
func (p *cipherPipe) refusePlain() {
	const text = "This port is for TLS: use https:// or wss:// here (with pusher-js: forceTLS: true, and wssPort instead of wsPort).\n"
	fmt.Fprintf(p.Conn, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
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
func (c *conn) takeSealed(nc net.Conn, p *poller) bool {
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
func (s *seal) receive(p []byte, c *conn) {
	b := readBuffers.Get().(*[readBufferSize]byte)
	defer readBuffers.Put(b)
	s.pipe.in = p
	for {
		n, err := s.tls.Read(b[:])
		if n > 0 {
			c.above.receive(b[:n])
		}
		if errors.Is(err, nothingYet{}) {
			return
		}
		if err != nil { // TLS was ended, or broken
			c.abort()
			return
		}
	}
}
