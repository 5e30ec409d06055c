package conn

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edge/internal/edgetest"
)

// inBothWays runs a test with connections that are polled, if this system can, and with ones that have a goroutine.
func inBothWays(t *testing.T, test func(t *testing.T, p *Poller)) {
	t.Helper()
	p, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	if p != nil {
		t.Cleanup(p.Close)
		t.Run("polled", func(t *testing.T) { test(t, p) })
	}
	t.Run("goroutine", func(t *testing.T) { test(t, nil) })
}

// pair is a TCP connection: our end, which reads into what is returned with it, and the other one.
func pair(t *testing.T, p *Poller, limit int) (ours *Conn, theirs *net.TCPConn, got *inbox) {
	t.Helper()
	return pairIn(t, p, newGroup(limit))
}

func pairIn(t *testing.T, p *Poller, g *Group) (ours *Conn, theirs *net.TCPConn, got *inbox) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs, got = new(Conn), c.(*net.TCPConn), &inbox{pieces: make(chan string, 10_000), end: make(chan struct{}), group: g}
	ours.Init(a, p, g, got)
	if (ours.wrapped == nil) != (p != nil) {
		t.Fatalf("polled: %t, want %t", ours.wrapped == nil, p != nil)
	}
	got.conn = ours
	ours.Start(nil)
	t.Cleanup(func() {
		ours.Abort()
		theirs.Close()
		<-got.end
	})
	return ours, theirs, got
}

// inbox is what a conn receives.
type inbox struct {
	conn   *Conn
	pieces chan string
	end    chan struct{} // closed by ended
	group  *Group
}

// newGroup is a group of conns that may queue so many bytes each, and no end of them together.
func newGroup(queue int) *Group {
	g := &Group{Memory: NewBudget(1 << 40)}
	g.Queue.Store(int64(queue))
	return g
}

// say sends a message as a client does.
func say(w io.Writer, text string) { w.Write(edgetest.Masked(0x80|OpText, []byte(text))) }

// sharedBytes are bytes that someone uses who has begun to write them, as a pump.
func sharedBytes(b []byte) *Shared {
	s := &Shared{Bytes: b, Free: func() {}}
	s.Users.Store(1)
	return s
}

// expectCut checks that the connection was cut for this reason, and counted.
func (in *inbox) expectCut(t *testing.T, want CutReason) {
	t.Helper()
	if got, n := in.conn.failure(), in.group.Cuts[want].Load(); got != want || n != 1 {
		t.Errorf("failure %v, %d cuts counted, want 1 of %v", got, n, want)
	}
}

func (in *inbox) Message(text []byte) { in.pieces <- string(text) }

func (in *inbox) Ended() { close(in.end) }

// fill writes until more is queued than the kernel may still take, and returns what was written.
func fill(c *Conn) (written []byte) {
	for stuck := 0; stuck < 50; { // a queue that stays as it is for 50 ms
		before := c.queued()
		for n := 0; c.queued() < 200_000; n++ {
			piece := bytes.Repeat([]byte{byte(n)}, 5000)
			if _, err := c.Write(piece); err != nil {
				return written // of a connection that was cut off there is never enough
			}
			written = append(written, piece...)
		}
		if stuck++; c.queued() != before {
			stuck = 0
		}
		time.Sleep(time.Millisecond)
	}
	return written
}

// failure says why the connection is of no use any more, or nil.
func (c *Conn) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *Conn) queued() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.backlog == nil {
		return 0
	}
	return c.backlog.bytes
}

// readN reads n bytes.
func readN(t *testing.T, c net.Conn, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	c.SetReadDeadline(time.Now().Add(edgetest.Patience))
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestConnKeepsOrderThroughTheQueue(t *testing.T) {
	inBothWays(t, func(t *testing.T, p *Poller) {
		c, peer, in := pair(t, p, 1<<20)
		want := fill(c)
		others := sharedBytes(bytes.Repeat([]byte("shared"), 1000))
		mine := []byte("a copy")
		c.WriteShared(others, 0, len(others.Bytes))
		if n := others.Users.Load(); n != 2 {
			t.Errorf("%d use what is shared, want the pump and the queue", n)
		}
		c.Write(mine)
		want = append(append(want, others.Bytes...), mine...)
		copy(mine, "XXXXXX") // the caller may reuse what it gave to Write
		c.Write([]byte("!"))
		want = append(want, '!')
		if got := readN(t, peer, len(want)); !bytes.Equal(got, want) {
			t.Error("the bytes changed on the way")
		}
		edgetest.WaitUntil(t, "the queue is empty", func() bool { return !c.busy() })
		if c.WriteShared(others, 0, len(others.Bytes)); p != nil && others.Users.Load() != 1 {
			t.Error("the queue uses what the kernel took")
		}
		readN(t, peer, len(others.Bytes))
		edgetest.WaitUntil(t, "nobody uses it", func() bool { return others.Users.Load() == 1 })
		others.Done()
		edgetest.WaitUntil(t, "nothing is held", func() bool { return in.group.Memory.Holds() == 0 })
	})
}

// Writers, the queue and a reader that stops and goes on: whatever path the bytes take, they arrive once and in order.
func TestConnManyBacklogs(t *testing.T) {
	inBothWays(t, func(t *testing.T, p *Poller) {
		c, peer, _ := pair(t, p, 1<<20)
		const rounds, size = 2000, 3000
		go func() { // ends when all is written; the reader below waits for it
			for n := range rounds {
				for c.queued() > 900_000 {
					time.Sleep(time.Millisecond) // for the reader
				}
				c.Write(bytes.Repeat([]byte{byte(n)}, size))
			}
		}()
		for n := range rounds {
			if n%97 == 0 {
				time.Sleep(time.Millisecond) // lets a backlog grow, now and then
			}
			if got := readN(t, peer, size); !bytes.Equal(got, bytes.Repeat([]byte{byte(n)}, size)) {
				t.Fatalf("piece %d came as % .20x", n, got)
			}
		}
		edgetest.WaitUntil(t, "the queue is empty", func() bool { return !c.busy() })
	})
}

func TestConnCutsAtItsLimit(t *testing.T) {
	inBothWays(t, func(t *testing.T, p *Poller) {
		c, peer, in := pair(t, p, 300_000)
		fill(c)
		for range 30 {
			c.Write(make([]byte, 5000))
		}
		in.expectCut(t, CutFull)
		if _, err := c.Write([]byte("x")); err == nil {
			t.Error("a write after the cut succeeded")
		}
		<-in.end // although the other side has neither read nor closed
		peer.SetReadDeadline(time.Now().Add(edgetest.Patience))
		if _, err := io.Copy(io.Discard, peer); isTimeout(err) {
			t.Error("the connection was not closed")
		}
	})
}

func TestConnCutsAfterTheWriteTimeout(t *testing.T) {
	defer func(d time.Duration) { WriteTimeout = d }(WriteTimeout)
	WriteTimeout = 100 * time.Millisecond
	inBothWays(t, func(t *testing.T, p *Poller) {
		c, _, in := pair(t, p, 1<<20)
		fill(c)
		<-in.end
		in.expectCut(t, CutStalled)
	})
}

// The deadline of a queue must not outlive it: later writes would fail. And it counts from when a piece was first in
// the queue.
func TestConnWritesAfterTheWriteTimeout(t *testing.T) {
	defer func(d time.Duration) { WriteTimeout = d }(WriteTimeout)
	WriteTimeout = 2 * time.Second
	inBothWays(t, func(t *testing.T, p *Poller) {
		undisturbed(t, func(t *testing.T, beat func()) error {
			c, peer, _ := pair(t, p, 1<<20)
			for range 2 {
				beat()
				if _, err := io.CopyN(io.Discard, peer, int64(len(fill(c)))); err != nil {
					return err
				}
				edgetest.WaitUntil(t, "the queue is empty", func() bool { return !c.busy() })
				beat()
				time.Sleep(WriteTimeout / 4) // what must not matter is the time
				beat()
				time.Sleep(WriteTimeout / 4)
				beat()
				time.Sleep(WriteTimeout / 4)
				beat()
			}
			_, err := c.Write([]byte("later"))
			return err
		})
	})
}

// undisturbed runs a test that fails if it is held up for longer than half of WriteTimeout between two calls of beat,
// until it has not been. On a busy machine that happens to any program.
func undisturbed(t *testing.T, test func(t *testing.T, beat func()) error) {
	t.Helper()
	for n := range 20 {
		done := false
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			last, longest := time.Now(), time.Duration(0)
			beat := func() {
				longest = max(longest, time.Since(last))
				last = time.Now()
			}
			err := test(t, beat)
			beat()
			if done = err == nil || longest < WriteTimeout/2; err != nil && done {
				t.Error(err)
			}
		})
		if done {
			return
		}
	}
	t.Error("something has held it up each time")
}

func TestConnWriteLast(t *testing.T) {
	inBothWays(t, func(t *testing.T, p *Poller) {
		for _, queued := range []bool{false, true} {
			c, peer, _ := pair(t, p, 1<<20)
			var want []byte
			if queued {
				want = fill(c)
			}
			c.writeLast([]byte("bye"))
			c.writeLast([]byte("once more"))
			if _, err := c.Write([]byte("more")); err != errLast {
				t.Errorf("a write after the last: %v", err)
			}
			peer.SetReadDeadline(time.Now().Add(edgetest.Patience))
			got, err := io.ReadAll(peer) // to the end, which comes although we have not closed
			if err != nil || !bytes.Equal(got, append(want, "bye"...)) {
				t.Errorf("queued %t: got %d bytes, want %d and bye: %v", queued, len(got), len(want), err)
			}
		}
	})
}

// What comes is received, in order and to the last byte, also what came before start and right before the end.
func TestConnReceives(t *testing.T) {
	inBothWays(t, func(t *testing.T, p *Poller) {
		_, peer, in := pair(t, p, 1<<20)
		for _, size := range []int{1, 10, readBufferSize, readBufferSize + 1, 1, MaxPayload, 2} {
			want := strings.Repeat("x", size-1) + "!"
			say(peer, want)
			if got := <-in.pieces; got != want {
				t.Fatalf("%d bytes changed on the way", size)
			}
		}
		say(peer, "the last")
		peer.CloseWrite()
		if got := <-in.pieces; got != "the last" {
			t.Errorf("got %q", got)
		}
		<-in.end
	})
}

// A client that reads all the time is not cut off, though its queue may never be empty.
func TestConnSteadyReader(t *testing.T) {
	defer func(d time.Duration) { WriteTimeout = d }(WriteTimeout)
	WriteTimeout = 500 * time.Millisecond
	inBothWays(t, func(t *testing.T, p *Poller) {
		undisturbed(t, func(t *testing.T, beat func()) error {
			c, peer, _ := pair(t, p, 1<<20)
			fill(c)
			for end := time.Now().Add(3 * WriteTimeout); time.Now().Before(end); beat() {
				for c.queued() < 100_000 {
					if _, err := c.Write(make([]byte, 40_000)); err != nil {
						return err
					}
				}
				if _, err := io.CopyN(io.Discard, peer, 1000); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// A client that reads steadily is not cut off because one piece takes longer than WriteTimeout.
func TestConnLargePiece(t *testing.T) {
	defer func(d time.Duration) { WriteTimeout = d }(WriteTimeout)
	WriteTimeout = 1500 * time.Millisecond
	inBothWays(t, func(t *testing.T, p *Poller) {
		undisturbed(t, func(t *testing.T, beat func()) error {
			c, peer, _ := pair(t, p, 8<<20)
			if _, err := c.Write(make([]byte, 8<<20)); err != nil {
				return err
			}
			for range 25 { // 2.5 MB in 2.5 s
				time.Sleep(100 * time.Millisecond)
				if _, err := io.CopyN(io.Discard, peer, 100_000); err != nil {
					return err
				}
				beat()
			}
			if c.failed() || c.queued() == 0 {
				return fmt.Errorf("%d bytes are queued, failed: %t", c.queued(), c.failed())
			}
			return nil
		})
	})
}

// When the system will not watch one more connection, it ends, be there something to be read or not.
func TestConnUnwatched(t *testing.T) {
	for _, unread := range []string{"", "unread"} {
		p, err := NewPoller()
		if err != nil || p == nil {
			t.Skip("no poller on this system")
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		peer := edgetest.Dial(t, l.Addr().String())
		io.WriteString(peer, unread)
		nc, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		in := &inbox{conn: new(Conn), pieces: make(chan string, 10), end: make(chan struct{})}
		in.conn.Init(nc, p, newGroup(1<<20), in)
		p.Close() // watching fails from now on
		in.conn.Start(nil)
		<-in.end
	}
}

// What is closed already is not taken over.
func TestConnTakeClosed(t *testing.T) {
	p, err := NewPoller()
	if err != nil || p == nil {
		t.Skip("no poller on this system")
	}
	defer p.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := edgetest.Dial(t, l.Addr().String())
	c.Close()
	if new(Conn).take(c, p) {
		t.Error("a closed connection was taken over")
	}
}

// A reset ends a connection as a close does.
func TestConnReset(t *testing.T) {
	inBothWays(t, func(t *testing.T, p *Poller) {
		_, peer, in := pair(t, p, 1<<20)
		peer.SetLinger(0)
		peer.Close()
		<-in.end
	})
}

// TestConnIdle: an idle connection that is polled has no goroutine, also after it was read from and written to.
func TestConnIdle(t *testing.T) {
	p, err := NewPoller()
	if err != nil || p == nil {
		t.Skip("no poller on this system")
	}
	t.Cleanup(p.Close)
	before := runtime.NumGoroutine()
	for range 20 {
		c, peer, in := pair(t, p, 1<<20)
		say(peer, "in")
		<-in.pieces
		c.Write([]byte("out"))
		readN(t, peer, 3)
	}
	edgetest.WaitUntil(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= before+1 }) // the poller is one
}

// A descriptor number that is used again must not lead to what was there before.
func TestConnDescriptors(t *testing.T) {
	p, err := NewPoller()
	if err != nil || p == nil {
		t.Skip("no poller on this system")
	}
	t.Cleanup(p.Close)
	for i := range 300 {
		c, peer, in := pair(t, p, 1<<20)
		say(peer, fmt.Sprint(i))
		if got := <-in.pieces; got != fmt.Sprint(i) {
			t.Fatalf("connection %d got %q", i, got)
		}
		go c.Write([]byte("late")) // may come before, while or after the descriptor is given back
		peer.Close()
		<-in.end
	}
}

// TestConnOneDrain begins a backlog at the moment at which the last one ends, again and again: each is sent by one
// drain only, once.
func TestConnOneDrain(t *testing.T) {
	inBothWays(t, func(t *testing.T, p *Poller) {
		c, peer, _ := pair(t, p, 1<<20)
		const rounds = 20_000
		go func() { // ends when all is written; the reader below waits for it
			for n := range rounds {
				for c.busy() {
					runtime.Gosched()
				}
				c.Write(binary.BigEndian.AppendUint32(nil, uint32(n)))
			}
		}()
		for n := range rounds {
			if got := binary.BigEndian.Uint32(readN(t, peer, 4)); got != uint32(n) {
				t.Fatalf("got piece %d, want %d", got, n)
			}
		}
	})
}

// TestConnOverAPipe runs the way of systems without a poller with a clock of its own.
func TestConnOverAPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, peer := net.Pipe()
		in := &inbox{conn: new(Conn), group: newGroup(50_000)}
		c := in.conn
		c.Init(a, nil, in.group, in)
		c.Write([]byte("hello "))
		c.Write([]byte("world"))
		if got := readN(t, peer, 11); string(got) != "hello world" {
			t.Errorf("got %q", got)
		}
		time.Sleep(WriteTimeout * 2)
		go a.Write([]byte("!")) // as TLS does by itself; the deadline of the last piece is not its
		if got := readN(t, peer, 1); string(got) != "!" {
			t.Errorf("got %q", got)
		}
		c.Write([]byte(strings.Repeat("x", 1000))) // nobody reads
		time.Sleep(WriteTimeout * 2)
		synctest.Wait()
		in.expectCut(t, CutStalled)
	})
}

// A few bytes of a large buffer are copied: queued as a reference they would keep all of it alive, and count as a few.
func TestConnPinsNoLargeBuffer(t *testing.T) {
	inBothWays(t, func(t *testing.T, p *Poller) {
		c, _, _ := pair(t, p, 1<<20)
		fill(c)
		of := sharedBytes(make([]byte, 64<<10))
		if c.WriteShared(of, 0, 50); of.Users.Load() != 1 {
			t.Error("a small piece of a large buffer is kept")
		}
		if c.WriteShared(of, 50, len(of.Bytes)); of.Users.Load() != 2 {
			t.Error("the better part of a buffer is copied")
		}
	})
}

// TestConnTLSStalled: where there is no poller, the last record of a TLS connection that does not move keeps nobody
// waiting, who wants to send it something or has to end it.
func TestConnTLSStalled(t *testing.T) {
	dir, trust := edgetest.CertDir(t)
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "edge.pem"), filepath.Join(dir, "edge-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	trust.InsecureSkipVerify = true // in a bubble it is the year 2000
	for _, last := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			a, peer := net.Pipe()
			sealed, client := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{cert}}), tls.Client(peer, trust)
			go client.Handshake()
			if err := sealed.Handshake(); err != nil {
				t.Fatal(err)
			}
			in := &inbox{conn: new(Conn), pieces: make(chan string, 10), end: make(chan struct{}), group: newGroup(1 << 20)}
			c := in.conn
			c.Init(sealed, nil, in.group, in)
			c.Start(nil)
			if last {
				c.writeLast([]byte("bye"))
				readN(t, client, 3) // and what says that nothing follows is not read
			} else {
				c.Write([]byte("not read"))
				time.Sleep(WriteTimeout)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if !c.mu.TryLock() {
				t.Fatal("it is busy ending the connection")
			}
			c.mu.Unlock()
			c.Abort()
			<-in.end
			peer.Close()
		})
	}
}

// TestConnBroken: a panic in what runs for a connection ends it, and no other, and is logged once.
func TestConnBroken(t *testing.T) {
	inBothWays(t, func(t *testing.T, p *Poller) {
		for name, harm := range map[string]func(c *Conn, peer net.Conn){
			"the poller, or the goroutine that sends": func(c *Conn, peer net.Conn) {
				c.mu.Lock()
				c.backlog = &backlog{pieces: make([]piece, 1)}
				c.mu.Unlock()
				if c.wrapped != nil {
					go c.drain() // ends with the panic
				} else {
					peer.Write([]byte("x")) // with the input comes that there is room for output
				}
			},
			"the timer of a queue": func(c *Conn, _ net.Conn) {
				c.mu.Lock()
				c.backlog = &backlog{since: time.Now()} // without a timer to reset
				c.mu.Unlock()
				time.AfterFunc(0, c.overdue)
			},
			"the close frame": func(c *Conn, _ net.Conn) {
				c.mu.Lock()
				c.backlog = &backlog{pieces: make([]piece, 2)}
				c.mu.Unlock()
				c.CloseBroken()
			},
		} {
			before := Panics.Load()
			c, peer, in := pair(t, p, 1<<20)
			_, other, inOther := pair(t, p, 1<<20)
			harm(c, peer)
			<-in.end
			if n := Panics.Load() - before; n < 1 || n > 2 { // two goroutines may meet it
				t.Errorf("%s: %d panics are logged", name, n)
			}
			if say(other, "x"); <-inOther.pieces != "x" {
				t.Errorf("%s: another connection suffers", name)
			}
		}
	})
}
