//go:build unix

package test

// The flooder of TestMemoryUnderFloods, a process of its own.

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"edge/internal/edgetest"
)

// floods are all kinds of them.
type floods struct {
	addr string
	done sync.Map // kind → *atomic.Int64: how much there was of it
}

func (f *floods) count(kind string) {
	n, _ := f.done.LoadOrStore(kind, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
}

// floodTime is how long a connection is misused.
var floodTime = time.Duration(edgetest.Sized(1, 10)) * time.Second

// flooder floods a server, ten times as many connections at once of each kind as it is told, until it is ended. Then it
// says what there was.
func flooder(args []string) {
	f := &floods{addr: args[0]}
	tens, _ := strconv.Atoi(args[1])
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	fmt.Printf("http://%s/\n", args[0]) // ready
	f.run(ctx, tens)
	f.done.Range(func(kind, n any) bool {
		fmt.Printf("%s: %d\n", kind, n.(*atomic.Int64).Load())
		return true
	})
}

// kind is a kind of flood.
type kind struct {
	name  string
	times int                                      // a frame is sent
	frame func(c *edgetest.Client, i int64) []byte // i is another each time
	reads bool
}

// kinds are what ten connections at a time do.
var kinds = []kind{
	{"names subscribed to", 1000, func(_ *edgetest.Client, i int64) []byte {
		return edgetest.SubscribeMessage(fmt.Sprintf("%0150d", i), "", "")
	}, true},
	{"members", 300, func(c *edgetest.Client, i int64) []byte {
		channel, data := fmt.Sprintf("presence-%d", i%300), fmt.Sprintf(`{"user_id":"%d","user_info":"%01000d"}`, i, 0)
		return edgetest.SubscribeMessage(channel, edgetest.Token(c.ID, channel, data), data)
	}, true},
	{"client events", 1000, func(c *edgetest.Client, i int64) []byte {
		join := edgetest.SubscribeMessage("private-flood", edgetest.Token(c.ID, "private-flood", ""), "")
		return append(join, edgetest.Text(`{"event":"client-x","channel":"private-flood","data":"%010000d"}`, i)...)
	}, true},
	{"readers that never read", 1, func(*edgetest.Client, int64) []byte {
		return slices.Concat(edgetest.SubscribeMessage("storm", "", ""), edgetest.SubscribeMessage(channelName(0), "", ""))
	}, false},
	{"messages without an end", 1, func(*edgetest.Client, int64) []byte {
		return edgetest.Masked(0x80|edgetest.OpText, bytes.Repeat([]byte("x"), 32_700))[:32_000]
	}, true},
}

// run floods until ctx is done.
func (f *floods) run(ctx context.Context, tens int) {
	var wg sync.WaitGroup
	for _, kind := range kinds {
		for range tens {
			wg.Go(func() { f.each(ctx, kind) })
		}
	}
	for _, attack := range attacks {
		if !attack.plain {
			sent := func(*edgetest.Client, int64) []byte { return attack.sent }
			wg.Go(func() { f.each(ctx, kind{attack.name, 1, sent, true}) })
		}
	}
	for range 5 {
		wg.Go(func() { f.publish(ctx) })
		wg.Go(func() { f.keepRequests(ctx) })
	}
	wg.Wait()
}

// each has ten connections at a time send frames as fast as the server takes them, keeps them for a moment, and closes
// them. They are refused at times, which is as it should be.
func (f *floods) each(ctx context.Context, flood kind) {
	for ctx.Err() == nil {
		var wg sync.WaitGroup
		end := time.Now().Add(floodTime)
		for range 10 {
			c, err := edgetest.TryConnect(f.addr)
			if err != nil {
				f.count("connections refused")
				continue
			}
			c.Conn.(*net.TCPConn).SetLinger(0)
			c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
			c.Conn.SetDeadline(end)
			wg.Go(func() {
				defer c.Leave()
				if flood.reads {
					go io.Copy(io.Discard, c.In) // ends with the connection
				}
				for n := 0; n < flood.times && err == nil && ctx.Err() == nil; n++ {
					_, err = c.Conn.Write(flood.frame(c, floodNumber.Add(1)))
					f.count(flood.name)
				}
				pause(ctx, time.Until(end))
			})
		}
		wg.Wait()
		pause(ctx, 10*time.Millisecond) // not to use up the machine's ports
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

var floodNumber atomic.Int64

// publish posts large events one after the other, also to channels that keep them.
func (f *floods) publish(ctx context.Context) {
	h := &http.Client{Timeout: edgetest.Patience, Transport: &http.Transport{}}
	defer h.CloseIdleConnections()
	data := strings.Repeat("x", 10_000)
	for i := 0; ctx.Err() == nil; i++ {
		channel := "storm"
		if i%10 == 9 {
			channel = fmt.Sprintf("cache-%d", floodNumber.Add(1))
		}
		if err := post(h, f.addr, "/apps/1/events", edgetest.EventBody(channel, "e", data)); err != nil {
			f.count("events refused")
		} else {
			f.count("events")
		}
	}
}

// keepRequests opens HTTP connections that send half a request.
func (f *floods) keepRequests(ctx context.Context) {
	for ctx.Err() == nil {
		var all []net.Conn
		for range 100 {
			if c, err := net.Dial("tcp", f.addr); err == nil {
				c.(*net.TCPConn).SetLinger(0)
				io.WriteString(c, "POST /apps/1/events HTTP/1.1\r\nHost: edge\r\n")
				all = append(all, c)
				f.count("requests without an end")
			}
		}
		pause(ctx, time.Second)
		for _, c := range all {
			c.Close()
		}
	}
}
