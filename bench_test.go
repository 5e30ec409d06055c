package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edge/internal/wire"
)

var benchData = quote(`{"text":"` + fmt.Sprintf("%0170d", 7) + `"}`)

func BenchmarkFrame(b *testing.B) {
	name, buf := []byte("App\\Events\\OrderShipped"), make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = wire.AppendEvent(buf[:0], name, "private-orders.12345", benchData, "")
	}
}

func BenchmarkSignature(b *testing.B) {
	text := []byte("1234.1234:presence-foobar:{\"user_id\":10,\"user_info\":{\"name\":\"Mr. Channels\"}}")
	signature := testKey.Sign(nil, text)
	b.ReportAllocs()
	for b.Loop() {
		if !testKey.Valid(string(signature), text) {
			b.Fatal()
		}
	}
}

// The two candidates for the table of channels; App uses the first.

func BenchmarkLookupSyncMap(b *testing.B) {
	benchLookup(b, func(names []string) func(string) bool {
		var m sync.Map
		for _, name := range names {
			m.LoadOrStore(name, &Channel{name: name})
		}
		return func(name string) bool { c, ok := m.Load(name); return ok && c.(*Channel).name == name }
	})
}

func BenchmarkLookupShardedRWMutex(b *testing.B) {
	type shard struct {
		mu sync.RWMutex
		m  map[string]*Channel
		_  [96]byte // a cache line of its own
	}
	benchLookup(b, func(names []string) func(string) bool {
		var shards [64]shard
		of := func(name string) *shard {
			h := uint32(2166136261)
			for i := range len(name) {
				h = (h ^ uint32(name[i])) * 16777619
			}
			return &shards[h%64]
		}
		for _, name := range names {
			s := of(name)
			if s.m == nil {
				s.m = make(map[string]*Channel)
			}
			s.m[name] = &Channel{name: name}
		}
		return func(name string) bool {
			s := of(name)
			s.mu.RLock()
			defer s.mu.RUnlock()
			return s.m[name] != nil
		}
	})
}

func benchLookup(b *testing.B, table func(names []string) func(string) bool) {
	for _, n := range []int{10, 100_000} {
		names := make([]string, n)
		for i := range names {
			names[i] = fmt.Sprintf("private-orders.%d", i)
		}
		find := table(names)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.SetParallelism(32)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if !find(names[i*7919%n]) {
						b.Error("not found")
						return
					}
				}
			})
		})
	}
}

// BenchmarkChannelTable reports what a channel costs in memory when there are 100,000 of them.
func BenchmarkChannelTable(b *testing.B) {
	const n = 100_000
	for b.Loop() {
		app := testApp(b)
		before := liveHeap()
		for i := range n {
			app.openChannel(fmt.Sprintf("private-orders.%d", i), wire.KindPrivate)
		}
		b.ReportMetric(float64(liveHeap()-before)/n, "B/channel")
		runtime.KeepAlive(app)
	}
}

func liveHeap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// asUsual undoes what TestMain has changed.
func asUsual(b *testing.B) {
	p, s := processors, segment
	processors, segment = runtime.NumCPU(), 1000
	b.Cleanup(func() { processors, segment = p, s })
}

// BenchmarkPublish sends events through the whole server to subscribers on loopback, four outstanding at most, as the load
// generator of the design does. The clients run in the same process, so that compare only figures of the same benchmark.
func BenchmarkPublish(b *testing.B) {
	asUsual(b)
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := startServer(b)
			want := len(wire.AppendEvent(nil, "event", "room", benchData, ""))
			arrived := make(chan struct{}, 4*n)
			for range n {
				c := connect(b, s.addr)
				c.join("room")
				c.conn.SetDeadline(time.Time{})
				go countFrames(c, want, arrived) // ends with the connection
			}
			e := Event{name: []byte("event"), data: benchData}
			outstanding := 0
			b.ReportAllocs()
			for b.Loop() {
				s.app.trigger("room", wire.KindPublic, e)
				if outstanding++; outstanding == 4 {
					receive(arrived, n)
					outstanding--
				}
			}
			receive(arrived, outstanding*n)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/delivery")
		})
	}
}

// BenchmarkLargeChannel writes to 5,000 connections with one processor and with all there are. Nobody reads, so that all of them
// are free for it; for as long as the kernel takes everything, which means with -benchtime 100x.
func BenchmarkLargeChannel(b *testing.B) {
	asUsual(b)
	for _, processors = range slices.Compact([]int{1, runtime.NumCPU()}) {
		b.Run(fmt.Sprintf("processors=%d", processors), func(b *testing.B) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			p, err := newPoller()
			if err != nil {
				b.Fatal(err)
			}
			defer p.close()
			bounds := newBounds(1 << 30)
			subs, app := make([]*Subscription, 5000), testApp(b)
			for i := range subs {
				dial(b, l.Addr().String())
				c, err := l.Accept()
				if err != nil {
					b.Fatal(err)
				}
				s := &Socket{app: app}
				s.conn.init(c, p, bounds)
				defer s.conn.free()
				subs[i] = &Subscription{socket: s}
			}
			frames := batch{shared: shared{bytes: make([]byte, 250), free: func() {}}}
			for b.Loop() {
				frames.deliverAll(subs)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(subs)), "ns/delivery")
		})
	}
}

// countFrames reads frames of one size and reports each.
func countFrames(c *client, size int, arrived chan<- struct{}) {
	buf, have := make([]byte, 16<<10), 0
	for {
		n, err := c.in.Read(buf)
		if err != nil {
			return
		}
		for have += n; have >= size; have -= size {
			arrived <- struct{}{}
		}
	}
}

func receive(arrived <-chan struct{}, n int) {
	for range n {
		<-arrived
	}
}

// BenchmarkClientEvent compares what an event of a client to ten others costs without webhooks and with a receiver that fails,
// whose queue is full all the time. Events from the API are no webhook events, so with them nothing changes.
func BenchmarkClientEvent(b *testing.B) {
	log.SetOutput(io.Discard)
	defer log.SetOutput(errorOutput)
	for _, failing := range []bool{false, true} {
		b.Run(fmt.Sprintf("failing receiver=%t", failing), func(b *testing.B) {
			var args []string
			var up atomic.Bool
			if failing {
				r := newReceiver(b)
				r.answer = func() int {
					if up.Load() {
						return 200
					}
					return 500
				}
				hook := httptest.NewServer(r)
				b.Cleanup(hook.Close)
				args = []string{"-webhook", hook.URL}
			}
			s := startServer(b, args...)
			const others = 10
			arrived := make(chan struct{}, others)
			e := Event{name: []byte("client-event"), data: benchData, except: new(Socket)}
			for range others {
				c := connect(b, s.addr)
				c.join("private-room")
				c.conn.SetDeadline(time.Time{})
				go countFrames(c, len(wire.AppendEvent(nil, e.name, "private-room", e.data, "")), arrived) // ends with the connection
			}
			b.ReportAllocs()
			for b.Loop() {
				s.app.clientEvent("private-room", wire.KindPrivate, e)
				receive(arrived, others)
			}
			up.Store(true) // so that shutting down has nothing to complain of
		})
	}
}
