package main

// Tests of the memory budget: what is held for clients is counted, the right ones go when it is too much, and nobody new comes
// in while memory is tight.

import (
	"bytes"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"edge/internal/wire"
)

func (b *budget) expectHeld(t *testing.T, want int64) {
	t.Helper()
	if got := b.holds(); got != want {
		t.Errorf("%d bytes are held, want %d", got, want)
	}
}

// TestBudgetOrder: who has not moved for longest goes first, and no more than have to.
func TestBudgetOrder(t *testing.T) {
	b := newBudget(heldShare * 100)
	held := make([]*holding, 5)
	for i := range held {
		held[i] = &holding{conn: new(conn)}
		b.hold(held[i], 20, false)
	}
	b.hold(held[0], 15, true) // something was sent
	b.hold(held[1], 25, false)
	b.hold(held[3], 0, false)
	b.cutting = true // or overLocked would begin to cut
	b.share(41)      // 15 + 25 + 20 + 20 + 41
	b.expectHeld(t, 121)
	for i, want := range []*holding{held[1], nil} {
		if got := b.takeLongest(); got != want {
			t.Errorf("%d: took %+v, want %+v", i, got, want)
		}
	}
	b.expectHeld(t, 96)
	b.cutting = true
	b.share(1000)
	for i, want := range []*holding{held[2], held[4], held[0], nil} {
		if got := b.takeLongest(); got != want {
			t.Errorf("then %d: took %+v, want %+v", i, got, want)
		}
	}
	b.hold(held[0], 0, false) // who was taken out may end afterwards
	b.share(-1041)
	b.expectHeld(t, 0)
}

// TestBudgetOfBacklogs: of many that do not read the longest stuck are cut off, until what is left is within the budget. One that
// reads, however slowly, stays.
func TestBudgetOfBacklogs(t *testing.T) {
	inBothWays(t, func(t *testing.T, p *poller) {
		const stay = 8
		b := newBounds(1 << 20)
		b.memory = newBudget(heldShare * (stay*kernelHeld + 100_000)) // the rest is what they share, and less than its sixteenth part
		others := sharedBytes(bytes.Repeat([]byte("x"), 50_000))
		type end struct {
			ours   *conn
			theirs net.Conn
			sent   uint64 // when nothing moved any more
		}
		var all []end
		add := func() {
			c, peer, _ := pairBounded(t, p, b)
			for range 20 { // a megabyte, of which the kernel takes a part
				c.writeShared(others, 0, len(others.bytes))
			}
			for same, before := 0, 0; same < 20; before = c.queued() { // now nothing moves any more
				if same++; c.queued() != before {
					same = 0
				}
				time.Sleep(time.Millisecond)
			}
			if !c.busy() && c.failure() == nil {
				t.Fatal("the kernel took everything")
			}
			all = append(all, end{c, peer, c.sentBytes()})
		}
		for range 3 * stay {
			add()
		}
		const cut = 2 * stay
		waitUntil(t, "enough have been cut off", func() bool {
			return b.memory.holds() <= b.memory.most() && b.cuts[cutMemory].Load() >= cut
		})
		if n := b.cuts[cutMemory].Load(); n != cut {
			t.Errorf("%d of %d were cut off, want %d", n, len(all), cut)
		}
		oldest := -1 // that is left
		for i, e := range all {
			switch stays := e.ours.failure() == nil; {
			case e.ours.sentBytes() != e.sent: // the kernel took a little more later, as it does after a while
			case stays && oldest < 0:
				oldest = i
			case !stays && oldest >= 0:
				t.Errorf("connection %d was cut off, and %d, which is stuck for longer, was not", i, oldest)
			}
		}
		// The oldest reads: it has moved, so the next goes in its place.
		readN(t, all[oldest].theirs, 900_000)
		for range 4 {
			add()
		}
		waitUntil(t, "the next have been cut off", func() bool { return b.cuts[cutMemory].Load() >= cut+3 })
		if all[oldest].ours.failure() != nil {
			t.Error("one that reads was cut off")
		}
		for _, e := range all {
			e.ours.abort()
		}
		others.done()
		waitUntil(t, "nothing is held", func() bool { return b.memory.holds() == 0 }) // a goroutine may be writing
	})
}

// TestBudgetOfMessages: messages that never end are held in a share of the budget, and not for longer than one may take.
func TestBudgetOfMessages(t *testing.T) {
	s := startServer(t, "-memory", "16M")
	healthy := connect(t, s.addr)
	healthy.join("room")
	half := maskedFrame(0x80|opText, bytes.Repeat([]byte("x"), 32_000))[:30_000]
	var stuck []*client
	for range 300 {
		stuck = append(stuck, connect(t, s.addr))
	}
	for _, c := range stuck { // 9 MB of 3
		c.raw(half)
	}
	waitUntil(t, "enough have been cut off", func() bool {
		return s.app.bounds.cuts[cutMemory].Load() > 150 && s.app.bounds.memory.holds() <= s.app.bounds.memory.most()
	})
	large := strings.Repeat("y", 10_000) // comes in several pieces, and is as welcome as ever
	healthy.join("private-x")
	other := connect(t, s.addr)
	other.join("private-x")
	healthy.send(`{"event":"client-x","channel":"private-x","data":%q}`, large)
	other.expect(event("client-x", "private-x", large))
	for _, c := range stuck {
		c.leave()
	}
	waitUntil(t, "nothing is held", func() bool { return s.app.bounds.memory.holds() == 0 })
}

// TestTightMemory: while memory is tight nobody new comes in, and nothing new is kept; who is there is served as before.
func TestTightMemory(t *testing.T) {
	s := startServer(t)
	b := s.app.bounds.memory
	c := connect(t, s.addr)
	c.join("room")
	b.judge(b.limit)
	late := handshake(t, s.addr, "/app/key?protocol=7", "")
	late.expect(`{"event":"pusher:error","data":{"code":4100,"message":"The server is short of memory"}}`)
	late.expectClose(wire.CodeOverCapacity)
	c.subscribe("other", "")
	c.expect(`{"event":"pusher:subscription_error","channel":"other","data":{"type":"LimitReached","error":"The server is short of memory","status":4100}}`,
		`{"event":"pusher:error","data":{"code":null,"message":"The server is short of memory"}}`)
	c.sendSignin(c.userToken(`{"id":"1"}`), `{"id":"1"}`)
	c.expect(`{"event":"pusher:error","data":{"code":null,"message":"The server is short of memory"}}`)
	publish(t, s.addr, "room", "e", "x")
	c.expect(event("e", "room", "x"))
	for _, body := range []string{`{"name":"e","channel":"cache-a","data":"x"}`, `{"name":"e","channels":["room","private-cache-a"],"data":"x"}`} {
		if status, answer := apiCall(t, s.addr, "POST", "/apps/1/events", "", body); status != 503 || !strings.HasPrefix(answer, "The server is short of memory") {
			t.Errorf("%s: %d %q, want 503", body, status, answer)
		}
	}
	waitUntil(t, "the memory has been looked at", func() bool { return !b.asked.Load() })
	b.judge(b.limit / 2)
	c.join("other")
	c.expect()
	connect(t, s.addr).settled()
	c.settled() // nothing of what was refused has reached anyone
}

// TestTightMemoryEnds: who is refused has the memory looked at, so that it does not stay tight when nothing happens.
func TestTightMemoryEnds(t *testing.T) {
	b := newBudget(1 << 40)
	b.watch()
	defer b.stop()
	waitUntil(t, "nobody new is let in", func() bool { // unless the garbage is collected in between
		b.judge(1 << 40)
		return b.refuses()
	})
	waitUntil(t, "it is not tight any more", func() bool { return !b.refuses() })
}

func TestMemoryThere(t *testing.T) {
	const mib = 1 << 20
	none := func() (uint64, error) { return 0, memlimit.ErrNoLimit }
	for _, test := range []struct {
		name           string
		limit, machine memlimit.Provider
		want           int64
	}{
		{"nothing known", none, none, 0},
		{"no group", none, memlimit.Limit(1000 * mib), 500 * mib},
		{"a group", memlimit.Limit(100 * mib), memlimit.Limit(1000 * mib), 85 * mib},
		{"more than there is", memlimit.Limit(math.MaxUint64), none, math.MaxInt},
	} {
		if got := memoryThere(test.limit, test.machine); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
	if got := defaultMemory(); got < 64*mib {
		t.Errorf("%d bytes on this machine", got)
	}
}

func TestSize(t *testing.T) {
	var got int64
	set := size(&got, 1024)
	for text, want := range map[string]int64{"1024": 1024, "2k": 2 << 10, "96M": 96 << 20, "96MB": 96 << 20, "96MiB": 96 << 20, "1g": 1 << 30} {
		if err := set(text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "M", "1023", "-5M", "1.5G", "1MM", "1KM", "x", "9999999999G", "1 G"} {
		if err := set(text); err == nil || err.Error() != "it must be a size like 96M or 1G, at least 1024 bytes" {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for bytes, want := range map[int64]string{5: "5 bytes", 96 << 20: "96 MB", 11 << 30: "11 GB", 20 << 10: "20 KB"} {
		if got := sizeText(bytes); got != want {
			t.Errorf("%d: %q, want %q", bytes, got, want)
		}
	}
}
