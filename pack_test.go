package main

// Fan-out to connections that have negotiated compression (RFC 7692), beside others.

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/wire"
)

// connectDeflating is connect with permessage-deflate.
func connectDeflating(t testing.TB, addr string) *peer {
	t.Helper()
	c, r := request(t, addr, strings.Replace(httpUpgrade, "\n\n",
		"\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\n\n", 1))
	if got := r.Header.Get("Sec-WebSocket-Extensions"); got != agreedDeflate {
		t.Fatalf("negotiated %q", got)
	}
	c.established()
	return c
}

// inflated reads a message, and says whether it was compressed.
func (c *peer) inflated() (message string, compressed bool) {
	c.t.Helper()
	read := func(n int) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(c.in, b); err != nil {
			c.t.Fatal(err)
		}
		return b
	}
	head := read(2)
	n := int(head[1])
	if n == 126 {
		n = int(binary.BigEndian.Uint16(read(2)))
	}
	if compressed = head[0] == 0x80|conn.Rsv1|conn.OpText; !compressed && head[0] != 0x80|conn.OpText || n > 0xffff {
		c.t.Fatalf("header % x", head)
	}
	payload := read(n)
	if compressed {
		var err error
		if payload, err = io.ReadAll(flate.NewReader(bytes.NewReader(append(payload, 0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff)))); err != nil {
			c.t.Fatal(err)
		}
	}
	return string(payload), compressed
}

// inflatedUntil returns the events before the one named last, and calls count for each. They must be compressed exactly if the
// client deflates and they are long enough.
func (c *peer) inflatedUntil(last string, deflates bool, count func()) (events []string) {
	c.t.Helper()
	for {
		m, compressed := c.inflated()
		if compressed != (deflates && len(m) >= conn.DeflateFrom) {
			c.t.Fatalf("%d bytes are compressed: %v", len(m), compressed)
		}
		if strings.Contains(m, last) {
			return events
		}
		events = append(events, m)
		count()
	}
}

// TestDeflate: clients with and without compression get the same events in the same order, whatever else they are spared, also
// one that comes in the middle. One that never reads is cut off, and nothing stays held for it.
func TestDeflate(t *testing.T) {
	s := startServer(t, "-deflate")
	plain, packed, stuck := connect(t, s.addr), connectDeflating(t, s.addr), connectDeflating(t, s.addr)
	stuck.conn.(*net.TCPConn).SetReadBuffer(4096)
	for _, c := range []*peer{plain, packed, stuck} {
		c.subscribe("room", "")
		c.inflated() // subscription_succeeded
	}
	id, _ := wire.ParseSocketID(packed.id)
	own := s.app.Socket(id)
	var sent, read [2]atomic.Int64 // of plain and packed, so that these two are not cut off: who publishes waits for them
	var publishing sync.WaitGroup
	middle := make(chan struct{})
	for g := range 4 {
		publishing.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(g)))
			for i := range 400 {
				if g == 0 && i == 200 {
					close(middle)
				}
				name := "e"
				text := fmt.Appendf(nil, `{"from":%d,"n":%d,"text":"añ€`, g, i)
				for range r.IntN(4000) {
					text = append(text, '0'+byte(r.IntN(10)))
				}
				e := channel.Event{Data: wire.AppendString(nil, append(text, `"}`...)), Keep: true}
				if r.IntN(5) == 0 {
					name, e.Except = "not-packed", own
				}
				e.Name = []byte(name)
				for sent[0].Load()-read[0].Load() > 8 || sent[1].Load()-read[1].Load() > 8 {
					runtime.Gosched()
				}
				if sent[0].Add(1); e.Except == nil {
					sent[1].Add(1)
				}
				s.app.Trigger("room", wire.KindPublic, e)
			}
		})
	}
	var want, got, rest []string
	var reading sync.WaitGroup
	reading.Go(func() { want = plain.inflatedUntil(`"the-end"`, false, func() { read[0].Add(1) }) })
	reading.Go(func() { got = packed.inflatedUntil(`"the-end"`, true, func() { read[1].Add(1) }) })
	<-middle
	late := connectDeflating(t, s.addr)
	late.subscribe("room", "")
	late.inflated()
	reading.Go(func() { rest = late.inflatedUntil(`"the-end"`, true, func() {}) })
	publishing.Wait()
	s.app.Trigger("room", wire.KindPublic, channel.Event{Name: []byte("the-end"), Data: wire.EmptyData, Keep: true})
	reading.Wait()

	if len(want) != 1600 {
		t.Errorf("%d events without compression, want 1600", len(want))
	}
	if len(rest) == 0 || !slices.Equal(rest, want[len(want)-len(rest):]) {
		t.Errorf("%d events for who came late, which are not the last of all", len(rest))
	}
	want = slices.DeleteFunc(want, func(m string) bool { return strings.Contains(m, "not-packed") })
	if !slices.Equal(got, want) {
		t.Errorf("%d events with compression, want the same %d as without", len(got), len(want))
	}
	waitUntil(t, "who never reads is cut off", func() bool { return s.app.Conns.Cuts[conn.CutFull].Load() == 1 })
	waitUntil(t, "nothing is held", func() bool { return s.memory.Holds() == 0 })
	packed.conn.Close()
	late.conn.Close()
}
