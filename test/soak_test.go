//go:build unix

package test

// What goes on for long, and what comes in great numbers.

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edge/internal/edgetest"
)

// soakTime is for go test -run TestSoak ./test -long 20m -timeout 40m
var soakTime = flag.Duration("long", 5*time.Second, "how long TestSoak runs; from a minute on with 9,000 idle connections")

// TestSoak: thousands of idle connections that say something once a minute, members that come and go in every way, and
// numbered events, for as long as one likes. Nobody is lost, nothing is missing, and memory stays where it was.
func TestSoak(t *testing.T) {
	edgetest.NeedsLinux(t)
	const events = 50 // of every publisher on every channel, in one round
	idle, long := 200, *soakTime >= time.Minute
	if long {
		idle = 9000
	}
	edgetest.Descriptors(t, idle+1000)
	p := edgetest.StartPlain(t, "-send-buffer", share(events))
	crowd := newCrowd(t, p.Addr, idle)
	ctx, cancel := context.WithTimeout(t.Context(), *soakTime)
	defer cancel()
	var sides sync.WaitGroup
	var resident []int // each second
	sides.Go(func() {
		for each := time.NewTicker(time.Second); ctx.Err() == nil; <-each.C {
			resident = append(resident, p.Resident())
		}
	})
	sides.Go(func() { crowd.murmur(ctx) })
	testChurn(t, p.Addr, func(churn func(ctx context.Context)) {
		sides.Go(func() { churn(ctx) })
		for again := true; again && !t.Failed(); again = ctx.Err() == nil {
			delivery{p.Addr, events, edgetest.Connect, func(context.Context) {}}.run(t)
		}
		cancel()
		sides.Wait()
		crowd.expectAll()
	})
	var line []string
	for part := range slices.Chunk(resident, max(1, len(resident)/10)) {
		line = append(line, fmt.Sprintf("%.1f", float64(median(part))/(1<<20)))
	}
	t.Logf("%d idle connections; memory by tenths of %s, in MiB: %s", idle, *soakTime, strings.Join(line, " "))
	if quarter := len(resident) / 4; long {
		early, late := median(resident[quarter:2*quarter]), median(resident[3*quarter:])
		if late > early+early/20+1<<20 {
			t.Errorf("memory has grown from %d to %d bytes", early, late)
		}
	}
}

func median[T int | float64 | time.Duration](values []T) T {
	values = slices.Clone(values)
	slices.Sort(values)
	return values[len(values)/2]
}

// crowd is idle connections. Each has a goroutine that reads to its end.
type crowd struct {
	t       *testing.T
	clients []*edgetest.Client
	pongs   []atomic.Int64
	pings   []int64 // sent, by murmur or expectAll
	reading sync.WaitGroup
}

func newCrowd(t *testing.T, addr string, n int) *crowd {
	c := &crowd{t: t, pongs: make([]atomic.Int64, n), pings: make([]int64, n)}
	for i := range n {
		client := edgetest.Connect(t, addr)
		client.Join("crowd")
		client.Conn.SetDeadline(time.Now().Add(*soakTime + 10*time.Minute)) // longer than all else may take
		c.clients = append(c.clients, client)
		c.reading.Go(func() {
			client.AnswerPings(func(frame string) {
				if frame == edgetest.Pong {
					c.pongs[i].Add(1)
				}
			})
		})
	}
	return c
}

func (c *crowd) ping(i int) {
	c.clients[i].Conn.Write(edgetest.Text(edgetest.Ping))
	c.pings[i]++
}

// murmur has everyone say something once a minute.
func (c *crowd) murmur(ctx context.Context) {
	each := time.NewTicker(time.Minute / time.Duration(len(c.clients)))
	defer each.Stop()
	for i := 0; ctx.Err() == nil; i = (i + 1) % len(c.clients) {
		c.ping(i)
		<-each.C
	}
}

// expectAll checks that everyone is still there and was always answered, and ends them.
func (c *crowd) expectAll() {
	for i := range c.clients {
		c.ping(i)
	}
	for i, client := range c.clients {
		edgetest.WaitUntil(c.t, fmt.Sprintf("idle connection %s is answered", client.ID), func() bool {
			return c.pongs[i].Load() == c.pings[i]
		})
		client.Leave()
	}
	c.reading.Wait()
}

// TestLargeChannel: every event reaches every one of thousands.
func TestLargeChannel(t *testing.T) {
	subscribers, events := edgetest.Sized(500, 5000), edgetest.Sized(20, 3000)
	edgetest.Descriptors(t, 2*subscribers+1000)
	p := edgetest.StartPlain(t, "-activity-timeout", "1h")
	nb, began := newNumbers(t, p.Addr), time.Now()
	sent := make([]atomic.Int64, events) // nanoseconds since then
	late := make([][]time.Duration, subscribers)
	var reading sync.WaitGroup
	for i := range subscribers {
		r := nb.newReader(edgetest.Connect(t, p.Addr), time.Duration(edgetest.Sized(2, 40))*edgetest.Patience, 0)
		reading.Go(func() {
			defer r.follow()
			for n := range events {
				if !r.read(func() bool { return r.got > int64(n) }) {
					return
				}
				late[i] = append(late[i], time.Since(began)-time.Duration(sent[n].Load()))
			}
		})
	}
	pace := time.NewTicker(100 * time.Millisecond)
	defer pace.Stop()
	for n := range events {
		<-pace.C
		sent[n].Store(int64(time.Since(began)))
		nb.one(t, n)
	}
	nb.end(t)
	reading.Wait()
	all := slices.Concat(late...)
	slices.Sort(all)
	if len(all) != subscribers*events {
		t.Fatalf("%d deliveries", len(all))
	}
	p99 := all[len(all)*99/100]
	t.Logf("%d deliveries, after %s in the middle, %s at p99, %s at most", len(all), median(all), p99, all[len(all)-1])
	if edgetest.Full() && p99 > 150*time.Millisecond {
		t.Errorf("p99 is %s", p99)
	}
}

// onePacket are inputs after which servers have died, as the first thing a connection sends. Each must be answered with
// this code.
var onePacket = []struct {
	name string
	sent []byte
	code int
}{
	{"a length with the top bit", edgetest.Header(0x80|edgetest.OpText, true, 64, 1<<63), edgetest.CloseProtocol},
	{"the largest length", edgetest.Header(0x80|edgetest.OpBinary, true, 64, 1<<64-1), edgetest.CloseProtocol},
	{"a length of 2^32+5", edgetest.Header(0x80|edgetest.OpText, true, 64, 1<<32+5), edgetest.CloseTooBig},
	{"a length of 2^31", edgetest.Header(edgetest.OpText, true, 64, 1<<31), edgetest.CloseTooBig},
	{"a length of 2^62 for a fragment", append(edgetest.Masked(edgetest.OpText, []byte("{")),
		edgetest.Header(edgetest.OpContinuation, true, 64, 1<<62)...), edgetest.CloseTooBig},
	{"a ping of 2^63", edgetest.Header(0x80|edgetest.OpPing, true, 64, 1<<63), edgetest.CloseProtocol},
	{"no mask", edgetest.Header(0x80|edgetest.OpText, false, 64, 1<<63), edgetest.CloseProtocol},
	{"fragments without end", append(edgetest.Masked(edgetest.OpText, nil),
		slices.Repeat(edgetest.Masked(edgetest.OpContinuation, nil), 100)...), edgetest.ClosePolicy},
	{"brackets", again("%s", strings.Repeat("[", 30_000)), edgetest.CloseOverCapacity},
	{"brackets and NUL", again("%s%s", strings.Repeat("[", 298), make([]byte, 10_000)), edgetest.CloseOverCapacity},
	{"objects", again("%s", strings.Repeat(`{"a":`, 6000)), edgetest.CloseOverCapacity},
	{"values", again(`{"event":"x","data":[%s0]}`, strings.Repeat("0,", 15_000)), edgetest.CloseOverCapacity},
}

// again is one message more often than nonsense may come.
func again(format string, args ...any) []byte {
	return slices.Repeat(edgetest.Text(format, args...), 21)
}

// TestOnePacket sends each of them on a great many connections: the process lives, and has nothing to say about it.
func TestOnePacket(t *testing.T) {
	p := edgetest.Start(t)
	healthy := edgetest.Connect(t, p.Addr)
	before := len(p.Output())
	for _, packet := range onePacket {
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for range edgetest.Sized(3, 100) {
					var err error
					conn := edgetest.Dial(t, p.Addr)
					got := attackWith(conn, append([]byte(edgetest.Upgrade), packet.sent...), &err)
					if conn.Close(); isTimeout(err) || !closedWith(got, packet.code) {
						t.Errorf("%s: %v, %.300q", packet.name, err, got)
					}
				}
			})
		}
		wg.Wait()
		healthy.Settled()
	}
	http.DefaultClient.CloseIdleConnections()
	if said := p.Output()[before:]; said != "" {
		t.Errorf("it said %s", said)
	}
}
