package conn

// Tests of the memory budget: what is held for clients is counted, the right ones go when it is too much, and nobody
// new comes in while memory is tight.

import (
	"bytes"
	"math"
	"net"
	"testing"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"edge/internal/edgetest"
)

func (b *Budget) expectHeld(t *testing.T, want int64) {
	t.Helper()
	if got := b.Holds(); got != want {
		t.Errorf("%d bytes are held, want %d", got, want)
	}
}

// TestBudgetOrder: who has not moved for longest goes first, and no more than have to.
func TestBudgetOrder(t *testing.T) {
	b := NewBudget(heldShare * 100)
	held := make([]*Holding, 5)
	for i := range held {
		held[i] = &Holding{Conn: new(Conn)}
		b.Hold(held[i], 20, false)
	}
	b.Hold(held[0], 15, true) // something was sent
	b.Hold(held[1], 25, false)
	b.Hold(held[3], 0, false)
	b.cutting = true // or overLocked would begin to cut
	b.share(41)      // 15 + 25 + 20 + 20 + 41
	b.expectHeld(t, 121)
	for i, want := range []*Holding{held[1], nil} {
		if got := b.takeLongest(); got != want {
			t.Errorf("%d: took %+v, want %+v", i, got, want)
		}
	}
	b.expectHeld(t, 96)
	b.cutting = true
	b.share(1000)
	for i, want := range []*Holding{held[2], held[4], held[0], nil} {
		if got := b.takeLongest(); got != want {
			t.Errorf("then %d: took %+v, want %+v", i, got, want)
		}
	}
	b.Hold(held[0], 0, false) // who was taken out may end afterwards
	b.share(-1041)
	b.expectHeld(t, 0)
}

// TestBudgetOfBacklogs: of many that do not read the longest stuck are cut off, until what is left is within the
// budget. One that reads, however slowly, stays.
func TestBudgetOfBacklogs(t *testing.T) {
	inBothWays(t, func(t *testing.T, p *Poller) {
		const stay = 8
		b := newGroup(1 << 20)
		b.Memory = NewBudget(heldShare * (stay*kernelHeld + 100_000)) // the rest is what they share, and less than its sixteenth part
		others := sharedBytes(bytes.Repeat([]byte("x"), 50_000))
		type end struct {
			ours   *Conn
			theirs net.Conn
			sent   uint64 // when nothing moved any more
		}
		var all []end
		add := func() {
			c, peer, _ := pairIn(t, p, b)
			for range 20 { // a megabyte, of which the kernel takes a part
				c.WriteShared(others, 0, len(others.Bytes))
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
			all = append(all, end{c, peer, sentBytes(c)})
		}
		for range 3 * stay {
			add()
		}
		const cut = 2 * stay
		edgetest.WaitUntil(t, "enough have been cut off", func() bool {
			return b.Memory.Holds() <= b.Memory.Most() && b.Cuts[CutMemory].Load() >= cut
		})
		if n := b.Cuts[CutMemory].Load(); n != cut {
			t.Errorf("%d of %d were cut off, want %d", n, len(all), cut)
		}
		oldest := -1 // that is left
		for i, e := range all {
			switch stays := e.ours.failure() == nil; {
			case sentBytes(e.ours) != e.sent: // the kernel took a little more later, as it does after a while
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
		edgetest.WaitUntil(t, "the next have been cut off", func() bool { return b.Cuts[CutMemory].Load() >= cut+3 })
		if all[oldest].ours.failure() != nil {
			t.Error("one that reads was cut off")
		}
		for _, e := range all {
			e.ours.Abort()
		}
		others.Done()
		edgetest.WaitUntil(t, "nothing is held", func() bool { return b.Memory.Holds() == 0 }) // a goroutine may be writing
	})
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
	if got := DefaultMemory(); got < 64*mib {
		t.Errorf("%d bytes on this machine", got)
	}
}

// SentBytes is how many bytes of c the kernel has taken.
func sentBytes(c *Conn) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent
}

// TestTightMemoryEnds: who is refused has the memory looked at, so that it does not stay tight when nothing happens.
func TestTightMemoryEnds(t *testing.T) {
	b := NewBudget(1 << 40)
	b.Watch()
	defer b.Stop()
	edgetest.WaitUntil(t, "nobody new is let in", func() bool { // unless the garbage is collected in between
		b.Judge(1 << 40)
		return b.Refuses()
	})
	edgetest.WaitUntil(t, "it is not tight any more", func() bool { return !b.Refuses() })
}

func TestSize(t *testing.T) {
	for text, want := range map[string]int64{"16777216": 16 << 20, "20480k": 20 << 20, "96M": 96 << 20,
		"96MB": 96 << 20, "96MiB": 96 << 20, "1g": 1 << 30} {
		if got, err := ParseMemory(text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "M", "16777215", "-50M", "1.5G", "1MM", "1KM", "x", "9999999999G", "1 G"} {
		if got, err := ParseMemory(text); err == nil || err.Error() != "it must be a size like 96M or 1G, at least 16 MB" {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for bytes, want := range map[int64]string{5: "5 bytes", 96 << 20: "96 MB", 11 << 30: "11 GB", 20 << 10: "20 KB"} {
		if got := SizeText(bytes); got != want {
			t.Errorf("%d: %q, want %q", bytes, got, want)
		}
	}
}
