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

// run floods until ctx is done.
func (f *floods) run(ctx context.Context, tens int) {
	kinds := []func(context.Context, *edgetest.Client){f.subscribe, f.present, f.neverRead, f.halfMessages, f.idle}
	var wg sync.WaitGroup
	for range tens {
		for _, flood := range kinds {
			wg.Go(func() { f.each(ctx, flood) })
		}
	}
	for _, attack := range attacks {
		if sent := attack.bytes(); !attack.plain {
			wg.Go(func() {
				f.each(ctx, func(ctx context.Context, c *edgetest.Client) {
					f.sendAll(ctx, c, attack.name, func(int) []byte { return sent }, 1)
				})
			})
		}
	}
	for range 5 {
		wg.Go(func() { f.each(ctx, f.clientEvents) })
		wg.Go(func() { f.publish(ctx) })
		wg.Go(func() { f.keepRequests(ctx) })
	}
	wg.Wait()
}

// each has ten connections at a time misused by flood, and then closed. They are refused at times, which is as it
// should be.
func (f *floods) each(ctx context.Context, flood func(ctx context.Context, c *edgetest.Client)) {
	for ctx.Err() == nil {
		var wg sync.WaitGroup
		for range 10 {
			c, err := edgetest.TryConnect(f.addr)
			if err != nil {
				f.count("connections refused")
				continue
			}
			f.count("connections")
			c.Conn.(*net.TCPConn).SetLinger(0)
			wg.Go(func() {
				defer c.Leave()
				defer context.AfterFunc(ctx, c.Leave)()
				flood(ctx, c)
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

// sendAll sends frames as fast as the server takes them.
func (f *floods) sendAll(ctx context.Context, c *edgetest.Client, kind string, frame func(i int) []byte, n int) {
	go io.Copy(io.Discard, c.In) // ends with the connection
	end := time.Now().Add(floodTime)
	c.Conn.SetDeadline(end)
	for i := range n {
		if _, err := c.Conn.Write(frame(i)); err != nil {
			return
		}
		f.count(kind)
	}
	pause(ctx, time.Until(end))
}

var floodNumber atomic.Int64

func (f *floods) subscribe(ctx context.Context, c *edgetest.Client) {
	f.sendAll(ctx, c, "names subscribed to", func(int) []byte {
		return edgetest.SubscribeMessage(fmt.Sprintf("%0150d", floodNumber.Add(1)), "", "")
	}, 1000)
}

func (f *floods) present(ctx context.Context, c *edgetest.Client) {
	f.sendAll(ctx, c, "members", func(i int) []byte {
		channel := fmt.Sprintf("presence-%d", i)
		data := fmt.Sprintf(`{"user_id":"%d","user_info":"%01000d"}`, floodNumber.Add(1), 0)
		return edgetest.SubscribeMessage(channel, edgetest.Token(c.ID, channel, data), data)
	}, 300)
}

func (f *floods) clientEvents(ctx context.Context, c *edgetest.Client) {
	const channel = "private-flood"
	c.Conn.Write(edgetest.SubscribeMessage(channel, edgetest.Token(c.ID, channel, ""), ""))
	event := edgetest.Text(`{"event":"client-x","channel":"%s","data":"%010000d"}`, channel, 0)
	f.sendAll(ctx, c, "client events", func(int) []byte { return event }, 1000)
}

// neverRead subscribes to what is published most, and to the numbers, and reads nothing.
func (f *floods) neverRead(ctx context.Context, c *edgetest.Client) {
	c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	for _, channel := range []string{"storm", channelName(0), channelName(1)} {
		c.Conn.Write(edgetest.SubscribeMessage(channel, "", ""))
	}
	f.count("readers that never read")
	pause(ctx, floodTime)
}

// halfMessages begins a message and never ends it.
func (f *floods) halfMessages(ctx context.Context, c *edgetest.Client) {
	c.Conn.Write(edgetest.Masked(0x80|edgetest.OpText, bytes.Repeat([]byte("x"), 32_700))[:32_000])
	f.count("messages without an end")
	f.idle(ctx, c)
}

func (f *floods) idle(_ context.Context, c *edgetest.Client) {
	c.Conn.SetDeadline(time.Now().Add(floodTime))
	io.Copy(io.Discard, c.In)
}

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
