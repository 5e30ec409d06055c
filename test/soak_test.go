//go:build unix

package test

// What goes on for long, and what comes in great numbers.

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edge/internal/edgetest"
)

// soakTime is for go test -run TestSoak ./test -long 20m -timeout 40m
var soakTime = flag.Duration("long", 5*time.Second, "how long TestSoak runs; from 1m on with 9,000 idle connections")

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
			delivery{p.Addr, subscribers, someChannels, events, edgetest.Connect, func(context.Context) {}}.run(t)
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
