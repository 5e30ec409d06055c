package main

import (
	"bytes"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pair is a TCP connection: our end, upgraded, and the other one.
func pair(t *testing.T, limit int) (ours *conn, theirs *net.TCPConn, cuts *atomic.Uint64) {
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
	ours, theirs, cuts = newConn(a), c.(*net.TCPConn), new(atomic.Uint64)
	ours.upgrade(limit, cuts)
	t.Cleanup(func() { ours.abort(); theirs.Close() })
	return ours, theirs, cuts
}

// fill writes until more is queued than the kernel may still take, and returns what was written.
func fill(c *conn) (written []byte) {
	for n := 0; c.backlog() < 200_000; n++ {
		piece := bytes.Repeat([]byte{byte(n)}, 5000)
		c.Write(piece)
		written = append(written, piece...)
	}
	return written
}

// failure says why the connection is of no use any more, or nil.
func (c *conn) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *conn) backlog() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queued
}

// readN reads n bytes.
func readN(t *testing.T, c net.Conn, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestConnKeepsOrderThroughTheQueue(t *testing.T) {
	c, peer, _ := pair(t, 1<<20)
	want := fill(c)
	shared := bytes.Repeat([]byte("shared"), 1000)
	mine := []byte("a copy")
	if !c.writeShared(shared) {
		t.Error("writeShared with a queue did not keep a reference")
	}
	c.Write(mine)
	want = append(append(want, shared...), mine...)
	copy(mine, "XXXXXX") // the caller may reuse what it gave to Write
	c.Write([]byte("!"))
	want = append(want, '!')
	if got := readN(t, peer, len(want)); !bytes.Equal(got, want) {
		t.Error("the bytes changed on the way")
	}
	waitUntil(t, "the queue is empty", func() bool { return !c.busy() })
	if c.writeShared(shared) {
		t.Error("writeShared kept a reference although the kernel took everything")
	}
	readN(t, peer, len(shared))
}

func TestConnCutsAtItsLimit(t *testing.T) {
	c, peer, cuts := pair(t, 300_000)
	fill(c)
	for range 30 {
		c.Write(make([]byte, 5000))
	}
	if c.failure() != errCut || cuts.Load() != 1 {
		t.Errorf("failure %v, %d cuts", c.failure(), cuts.Load())
	}
	if _, err := c.Write([]byte("x")); err == nil {
		t.Error("a write after the cut succeeded")
	}
	peer.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, peer); isTimeout(err) {
		t.Error("the connection was not closed")
	}
}

func TestConnCutsAfterTheWriteTimeout(t *testing.T) {
	defer func(d time.Duration) { writeTimeout = d }(writeTimeout)
	writeTimeout = 100 * time.Millisecond
	c, _, cuts := pair(t, 1<<20)
	fill(c)
	waitUntil(t, "the connection is cut", func() bool { return c.failure() == errCut })
	waitUntil(t, "the drain has ended", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return !c.draining })
	if cuts.Load() != 1 {
		t.Errorf("%d cuts", cuts.Load())
	}
}

// The deadline of the queue must not outlive it: later writes would fail.
func TestConnWritesAfterTheWriteTimeout(t *testing.T) {
	defer func(d time.Duration) { writeTimeout = d }(writeTimeout)
	writeTimeout = 2 * time.Second
	c, peer, _ := pair(t, 1<<20)
	readN(t, peer, len(fill(c)))
	waitUntil(t, "the queue is empty", func() bool { return !c.busy() })
	time.Sleep(writeTimeout + 100*time.Millisecond) // the time that must not matter
	if _, err := c.Write([]byte("later")); err != nil {
		t.Fatal(err)
	}
	readN(t, peer, 5)
}

func TestConnWriteLast(t *testing.T) {
	for _, queued := range []bool{false, true} {
		c, peer, _ := pair(t, 1<<20)
		var want []byte
		if queued {
			want = fill(c)
		}
		c.writeLast([]byte("bye"))
		c.writeLast([]byte("once more"))
		if _, err := c.Write([]byte("more")); err != errLast {
			t.Errorf("a write after the last: %v", err)
		}
		peer.SetReadDeadline(time.Now().Add(patience))
		got, err := io.ReadAll(peer) // to the end, which comes although we have not closed
		if err != nil || !bytes.Equal(got, append(want, "bye"...)) {
			t.Errorf("queued %t: got %d bytes, want %d and bye: %v", queued, len(got), len(want), err)
		}
	}
}

func TestConnHoldsNoBufferWhileIdle(t *testing.T) {
	c, peer, _ := pair(t, 1<<20)
	got := make(chan string)
	go func() { // ends with the connection
		defer close(got)
		for {
			b, err := c.readBuffer()
			if err != nil {
				return
			}
			got <- string(b.bytes[:b.n])
			b.free()
		}
	}()
	for i := range 3 {
		io.WriteString(peer, strconv.Itoa(i))
		if s := <-got; s != strconv.Itoa(i) {
			t.Fatalf("read %q", s)
		}
	}
	peer.Close()
	<-got // the reader has ended
	if c.in != nil {
		t.Error("a buffer was held while there were no bytes")
	}
}

// TestConnWithoutRawWrites runs the way of systems without non-blocking writes, over a pipe and with a clock of its own.
func TestConnWithoutRawWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, peer := net.Pipe()
		c := newConn(a)
		if c.raw != nil {
			t.Fatal("a pipe has no raw writes")
		}
		cuts := new(atomic.Uint64)
		c.upgrade(50_000, cuts)
		c.Write([]byte("hello "))
		c.writeShared([]byte("world"))
		if got := readN(t, peer, 11); string(got) != "hello world" {
			t.Errorf("got %q", got)
		}
		time.Sleep(writeTimeout * 2)
		c.Write([]byte(strings.Repeat("x", 1000))) // nobody reads
		time.Sleep(writeTimeout * 2)
		synctest.Wait()
		if c.failure() != errCut || cuts.Load() != 1 {
			t.Errorf("failure %v, %d cuts", c.failure(), cuts.Load())
		}
	})
}

// A few bytes of a large buffer are copied: queued as a reference they would keep all of it alive, and count as a few.
func TestConnPinsNoLargeBuffer(t *testing.T) {
	c, _, _ := pair(t, 1<<20)
	fill(c)
	if small := make([]byte, 50, 64<<10); c.writeShared(small) {
		t.Error("a small piece of a large buffer is kept")
	}
	if large := make([]byte, 40<<10, 64<<10); !c.writeShared(large) {
		t.Error("the better part of a buffer is copied")
	}
}
