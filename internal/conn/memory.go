package conn

// The memory budget: what the process may use in all, and how much of it clients may make it hold for them.
//
// A client that does not read, or that sends messages without an end, costs memory at a distance. Each has a bound of
// its own (-send-buffer, MaxPayload), but thousands of them together have not, and the kernel ends a process that uses
// too much. So all that is held for clients is counted in one place, and beyond a share of the budget the connection
// goes whose turn it has been for longest. What nobody can be cut off for (connections, subscriptions, members) is
// bounded by letting in nobody new while the live memory is near the budget.

import (
	"container/list"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

const (
	// The shares of the control group's limit and of the machine's memory that are the budget.
	groupShare, machineShare = 0.85, 0.5

	// The shares of the budget. The kernel's memory for connections is the process's too, but Go does not know of it.
	goShare, goParts     = 5, 8       // of it Go's memory limit
	heldShare            = 5          // a part in so many may be held for clients, the kernel's buffers included
	connShare, ConnBytes = 4, 6 << 10 // a part in so many is for connections, each of which costs so much in all
	callShare, callBytes = 8, 20 << 10
	tlsConnBytes         = 32 << 10 // with TLS

	// Clients over HTTP, each of which costs so much more than a connection.
	sessionShare, sessionBytes = 8, 32 << 10

	tightShare, tightParts = 3, 4 // of Go's limit, from which on nobody new is let in

	// What the kernel holds for a connection whose send buffer is full: it counts twice what is asked for (socket(7)).
	kernelHeld = 2 * kernelSendBuffer
)

// Budget bounds what the process may use. There is one for all apps.
type Budget struct {
	// Static after construction.
	Total   int64  // bytes
	Limit   int64  // of them, Go's
	Changed func() // called when a client came or left; nil for nobody

	Tight   atomic.Bool // nobody new is let in
	stopped atomic.Bool // judge is not called any more
	asked   atomic.Bool // a garbage collection is under way that refused asked for

	clients     atomic.Int64 // WebSocket connections, of all apps
	MostClients atomic.Int64 // that there may be; 0 for no limit

	mu      sync.Mutex // guards the following
	held    int64      // bytes in holdings, and those that several share
	since   list.List  // of *holding, the one that has not moved for longest first
	cutting bool       // cut runs
}

// Holding is what one connection makes the process hold, in one direction.
type Holding struct {
	Conn *Conn // static

	// Guarded by budget.mu.
	bytes int64
	place *list.Element // in budget.since; nil while bytes is 0
}

// NewBudget makes a budget of so many bytes, in which no memory is tight until watch is called.
func NewBudget(total int64) *Budget { return &Budget{Total: total, Limit: total / goParts * goShare} }

// ConnectionsFor is how many connections of an app a budget of so many bytes has memory for. With TLS some are, and any
// may be: crypto/tls keeps as much as the largest record that a client has sent.
func ConnectionsFor(memory int64, tls bool) int {
	each := int64(ConnBytes)
	if tls {
		each = tlsConnBytes
	}
	return int(min(memory/connShare/each, math.MaxInt32))
}

// Stop ends what watch began.
func (b *Budget) Stop() { b.stopped.Store(true) }

// Most is how many bytes may be held for clients.
func (b *Budget) Most() int64 { return b.Total / heldShare }

// callers is how many HTTP connections there is memory for, and sessions how many clients may be over HTTP.
func (b *Budget) Sessions() int { return int(min(b.Total/sessionShare/sessionBytes, math.MaxInt32)) }
func (b *Budget) Callers() int  { return int(min(b.Total/callShare/callBytes, math.MaxInt32)) }

// enter counts one more client, unless there are as many as there may be.
func (b *Budget) enter() bool {
	n, most := b.clients.Add(1), b.MostClients.Load()
	if most > 0 && n > most {
		b.clients.Add(-1)
		return false
	}
	b.noteClients()
	return true
}

// ClientCount is how many clients there are, of all apps.
func (b *Budget) ClientCount() int { return int(b.clients.Load()) }

// leave undoes enter.
func (b *Budget) leave() {
	b.clients.Add(-1)
	b.noteClients()
}

func (b *Budget) noteClients() {
	if b.Changed != nil {
		b.Changed()
	}
}

// Hold says that h now stands for so many bytes, 0 for none, and whether that is because it moved: something was sent,
// or began.
func (b *Budget) Hold(h *Holding, bytes int64, moved bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held += bytes - h.bytes
	h.bytes = bytes
	switch {
	case bytes == 0 && h.place != nil:
		b.since.Remove(h.place)
		h.place = nil
	case bytes != 0 && h.place == nil:
		h.place = b.since.PushBack(h)
	case bytes != 0 && moved:
		b.since.MoveToBack(h.place)
	}
	b.overLocked()
}

// share counts bytes that several connections hold together, or with fewer than none takes them back.
func (b *Budget) share(bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held += bytes
	b.overLocked()
}

// Holds is how many bytes are held.
func (b *Budget) Holds() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held
}

// overLocked sees to it that someone is cut off if more is held than may be.
func (b *Budget) overLocked() {
	if b.held > b.Most() && b.since.Len() > 0 && !b.cutting {
		b.cutting = true
		go b.cut() // ends when enough is free
	}
}

// cut cuts off the connections that have not moved for longest, until no more is held than may be.
func (b *Budget) cut() {
	defer func() {
		if p := recover(); p != nil {
			LogPanic("memory", p)
			b.mu.Lock()
			b.cutting = false
			b.mu.Unlock()
		}
	}()
	for h := b.takeLongest(); h != nil; h = b.takeLongest() {
		h.Conn.fail(CutMemory)
	}
}

// takeLongest takes the holding that has not moved for longest out of the account, or returns nil if nobody has to go.
func (b *Budget) takeLongest() *Holding {
	b.mu.Lock()
	defer b.mu.Unlock()
	longest := b.since.Front()
	if b.cutting = b.held > b.Most() && longest != nil; !b.cutting {
		return nil
	}
	h := b.since.Remove(longest).(*Holding)
	b.held -= h.bytes
	h.bytes, h.place = 0, nil
	return h
}

// Watch has judge called after every garbage collection: the only moments at which it is known how much memory lives,
// and on an idle server there are none.
func (b *Budget) Watch() {
	runtime.AddCleanup(new([16]byte), func(b *Budget) {
		if !b.stopped.Load() {
			defer b.Watch()
			defer Recovered("memory")
			b.Judge(liveMemory())
		}
	}, b)
}

// Judge decides whether someone new is let in, given the bytes that live.
func (b *Budget) Judge(live int64) {
	b.Tight.Store(live > b.Limit/tightParts*tightShare)
}

// Refuses reports whether someone new is not to be let in. While that is so, it has the memory looked at again.
func (b *Budget) Refuses() bool {
	if !b.Tight.Load() {
		return false
	}
	if b.asked.CompareAndSwap(false, true) {
		go func() { // ends by itself
			runtime.GC()
			b.asked.Store(false)
		}()
	}
	return true
}

// liveMemory is the memory of Go's that the last garbage collection left, and the stacks.
func liveMemory() (bytes int64) {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	for _, s := range samples {
		bytes += int64(s.Value.Uint64())
	}
	return bytes
}

// memoryThere is the memory for this process: most of its control group's limit, or half of the machine's memory, since
// others live there too; 0 if neither is known.
func memoryThere(limit, machine memlimit.Provider) int64 {
	there := memlimit.ApplyFallback(memlimit.ApplyRatio(limit, groupShare), memlimit.ApplyRatio(machine, machineShare))
	n, err := there()
	if err != nil {
		return 0
	}
	return int64(min(n, math.MaxInt))
}

// DefaultMemory is the budget where none is given: so that Go's limit is that of GOMEMLIMIT if it is set, or what there
// is.
func DefaultMemory() int64 {
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		return limit / goShare * goParts
	}
	if n := memoryThere(memlimit.FromCgroup, memlimit.FromSystem); n > 0 {
		return n
	}
	return 1 << 30
}

const leastMemory = 16 << 20

// ParseMemory reads a number of bytes, with K, M or G behind it of 1024, 1024² or 1024³ bytes.
func ParseMemory(s string) (int64, error) {
	digits, shift := strings.TrimRight(strings.ToUpper(s), "IB"), 0
	if n := len(digits) - 1; n >= 0 && strings.Contains("KMG", digits[n:]) {
		digits, shift = digits[:n], 10*(1+strings.Index("KMG", digits[n:]))
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > math.MaxInt>>shift || n<<shift < leastMemory {
		return 0, fmt.Errorf("it must be a size like 96M or 1G, at least %s", SizeText(leastMemory))
	}
	return n << shift, nil
}

// SizeText is a number of bytes for people to read.
func SizeText(bytes int64) string {
	for shift, unit := range []string{"bytes", "KB", "MB"} {
		if n := bytes >> (10 * shift); n < 10<<10 {
			return fmt.Sprintf("%d %s", n, unit)
		}
	}
	return fmt.Sprintf("%d GB", bytes>>30)
}
