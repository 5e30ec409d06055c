package main

import (
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"edge/internal/channel"
	"edge/internal/edgetest"
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

func liveHeap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// asUsual undoes what TestMain has changed.
func asUsual(b *testing.B) {
	p, s := channel.Processors, channel.Segment
	channel.Processors, channel.Segment = runtime.NumCPU(), 1000
	b.Cleanup(func() { channel.Processors, channel.Segment = p, s })
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
			e := channel.Event{Name: []byte("event"), Data: benchData}
			outstanding := 0
			b.ReportAllocs()
			for b.Loop() {
				s.app.Trigger("room", wire.KindPublic, e)
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

// countFrames reads frames of one size and reports each.
func countFrames(c *peer, size int, arrived chan<- struct{}) {
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
				r := edgetest.NewReceiver(b)
				r.Answer = func() int {
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
			e := channel.Event{Name: []byte("client-event"), Data: benchData, Except: new(channel.Socket)}
			for range others {
				c := connect(b, s.addr)
				c.join("private-room")
				c.conn.SetDeadline(time.Time{})
				go countFrames(c, len(wire.AppendEvent(nil, e.Name, "private-room", e.Data, "")), arrived) // ends with the connection
			}
			b.ReportAllocs()
			for b.Loop() {
				s.app.Trigger("private-room", wire.KindPrivate, e)
				receive(arrived, others)
			}
			up.Store(true) // so that shutting down has nothing to complain of
		})
	}
}
