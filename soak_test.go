package main

// What goes on for long, and what comes in great numbers.

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edge/internal/wire"
)

// soakTime is for go test -run TestSoak . -long 20m -timeout 40m
var soakTime = flag.Duration("long", 5*time.Second, "how long TestSoak runs; from a minute on with 9,000 idle connections")

// TestSoak: thousands of idle connections that say something once a minute, members that come and go in every way, and numbered
// events, for as long as one likes. Nobody is lost, nothing is missing, and memory stays where it was.
func TestSoak(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux")
	}
	const events = 50 // of every publisher on every channel, in one round
	idle := 200
	if *soakTime >= time.Minute {
		idle = 9000
	}
	if limit := descriptorLimit(); limit < idle+1000 {
		t.Skipf("%d descriptors are too few", limit)
	}
	p := startProcess(t, "edge", "-send-buffer", share(events))
	crowd := newCrowd(t, p.addr, idle)
	over := time.Now().Add(*soakTime)
	ctx, cancel := context.WithDeadline(t.Context(), over)
	defer cancel()
	var sides sync.WaitGroup
	var resident []int // each second
	sides.Go(func() {
		for each := time.NewTicker(time.Second); ctx.Err() == nil; <-each.C {
			resident = append(resident, p.resident())
		}
	})
	sides.Go(func() { crowd.murmur(ctx) })
	testChurnOfMembers(t, p.addr, func(churn func(ctx context.Context)) {
		sides.Go(func() { churn(ctx) })
		for again := true; again && !t.Failed(); again = ctx.Err() == nil {
			deliver(t, p.addr, events, func(context.Context) {})
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
	if quarter := len(resident) / 4; *soakTime >= time.Minute {
		early, late := median(resident[quarter:2*quarter]), median(resident[3*quarter:])
		if late > early+early/20+1<<20 {
			t.Errorf("memory has grown from %d to %d bytes", early, late)
		}
	}
}

func median(values []int) int {
	values = slices.Clone(values)
	slices.Sort(values)
	return values[len(values)/2]
}

// crowd is idle connections. Each has a goroutine that reads to its end.
type crowd struct {
	t       *testing.T
	clients []*client
	pongs   []atomic.Int64
	pings   []int64 // sent, by murmur or expectAll
	reading sync.WaitGroup
}

func newCrowd(t *testing.T, addr string, n int) *crowd {
	c := &crowd{t: t, clients: make([]*client, n), pongs: make([]atomic.Int64, n), pings: make([]int64, n)}
	for i := range n {
		client := connect(t, addr)
		client.join("crowd")
		client.conn.SetDeadline(time.Now().Add(*soakTime + 10*time.Minute)) // longer than all else may take
		c.clients[i] = client
		c.reading.Go(func() {
			client.answerPings(func(frame string) {
				if frame == pong {
					c.pongs[i].Add(1)
				}
			})
		})
	}
	return c
}

func (c *crowd) ping(i int) {
	c.clients[i].conn.Write(maskedFrame(0x80|opText, []byte(`{"event":"pusher:ping","data":{}}`)))
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
		waitUntil(c.t, fmt.Sprintf("idle connection %s is answered", client.id), func() bool { return c.pongs[i].Load() == c.pings[i] })
		client.leave()
	}
	c.reading.Wait()
}

// TestLargeChannel: every event reaches every one of thousands.
func TestLargeChannel(t *testing.T) {
	subscribers, events := sized(500, 5000), sized(20, 3000)
	if limit := descriptorLimit(); limit < 2*subscribers+1000 {
		t.Skipf("%d descriptors are too few", limit)
	}
	p := startProcess(t, "edge", "-activity-timeout", "1h")
	nb := newNumbering(t, p.addr)
	sent := make([]atomic.Int64, events) // nanoseconds of monotonic
	late := make([][]time.Duration, subscribers)
	var reading sync.WaitGroup
	for i := range subscribers {
		r := newReader(nb, connect(t, p.addr))
		r.conn.SetDeadline(time.Now().Add(time.Duration(sized(2, 40)) * patience))
		r.join(0)
		r.read(func() bool { return r.over(false) })
		reading.Go(func() {
			defer r.follow()
			for n := range events {
				if !r.read(func() bool { return r.got > int64(n) }) {
					return
				}
				late[i] = append(late[i], time.Duration(monotonic()-sent[n].Load()))
			}
		})
	}
	pace := time.NewTicker(100 * time.Millisecond)
	defer pace.Stop()
	for n := range events {
		<-pace.C
		nb.begun[0][0].Store(int64(n + 1))
		sent[n].Store(monotonic())
		publish(t, p.addr, channelName(0), "n", fmt.Sprintf("0 %0198d", n))
		nb.acked[0][0].Store(int64(n + 1))
	}
	publish(t, p.addr, channelName(0), "end", "")
	reading.Wait()
	all := slices.Concat(late...)
	slices.Sort(all)
	if len(all) == 0 {
		t.Fatal("nothing was delivered")
	}
	t.Logf("%d deliveries to %d subscribers, after %s in the middle, %s at p99, %s at most", nb.received.Load(), subscribers,
		all[len(all)/2].Round(time.Microsecond), all[len(all)*99/100].Round(time.Microsecond), all[len(all)-1].Round(time.Microsecond))
	if p99 := all[len(all)*99/100]; full() && p99 > 150*time.Millisecond {
		t.Errorf("p99 is %s", p99)
	}
}

// onePacket are inputs after which servers have died, as the first thing a connection sends. Each must be answered with this code.
var onePacket = []struct {
	name string
	sent []byte
	code int
}{
	{"a length with the top bit", frameHeader(0x80|opText, true, 64, 1<<63), closeProtocolError},
	{"the largest length", frameHeader(0x80|opBinary, true, 64, 1<<64-1), closeProtocolError},
	{"a length of 2^32+5", frameHeader(0x80|opText, true, 64, 1<<32+5), closeTooBig},
	{"a length of 2^31", frameHeader(opText, true, 64, 1<<31), closeTooBig},
	{"a length of 2^62 for a fragment", append(maskedFrame(opText, []byte("{")), frameHeader(opContinuation, true, 64, 1<<62)...), closeTooBig},
	{"a ping of 2^63", frameHeader(0x80|opPing, true, 64, 1<<63), closeProtocolError},
	{"no mask", frameHeader(0x80|opText, false, 64, 1<<63), closeProtocolError},
	{"fragments without end", append(maskedFrame(opText, nil), slices.Repeat(maskedFrame(opContinuation, nil), 100)...), closePolicy},
	{"brackets", slices.Repeat(maskedFrame(0x80|opText, slices.Repeat([]byte("["), 30_000)), 21), wire.CodeOverCapacity},
	{"brackets and NUL", slices.Repeat(maskedFrame(0x80|opText, append(slices.Repeat([]byte("["), 298), make([]byte, 10_000)...)), 21), wire.CodeOverCapacity},
	{"objects", slices.Repeat(maskedFrame(0x80|opText, slices.Repeat([]byte(`{"a":`), 6000)), 21), wire.CodeOverCapacity},
	{"values", slices.Repeat(maskedFrame(0x80|opText, []byte(`{"event":"x","data":[`+strings.Repeat("0,", 15_000)+`0]}`)), 21), wire.CodeOverCapacity},
}

// TestOnePacket sends each of them on a great many connections: the process lives, and has nothing to say about it.
func TestOnePacket(t *testing.T) {
	var problems strings.Builder
	cmd := edgeCommand("-addr", "127.0.0.1:0", "-key", "key")
	cmd.Stderr = &problems
	p := start(t, "edge", cmd)
	healthy := connect(t, p.addr)
	for _, packet := range onePacket {
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for range sized(3, 100) {
					conn := dial(t, p.addr)
					go conn.Write(append([]byte(httpUpgrade), packet.sent...)) // ends with the connection
					got, err := io.ReadAll(conn)
					if conn.Close(); isTimeout(err) || !strings.Contains(string(got), string([]byte{byte(packet.code >> 8), byte(packet.code)})) {
						t.Errorf("%s: %v, %.300q", packet.name, err, got)
					}
				}
			})
		}
		wg.Wait()
		healthy.settled()
	}
	healthy.leave()
	http.DefaultClient.CloseIdleConnections()
	cmd.Process.Kill()
	if cmd.Wait(); problems.Len() > 0 {
		t.Errorf("it said %s", problems.String())
	}
}
