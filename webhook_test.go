package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"edge/internal/channel"
	"edge/internal/edgetest"
	"edge/internal/webhook"
	"edge/internal/wire"
)

func TestWebhookEvents(t *testing.T) {
	r := edgetest.NewReceiver(t)
	hook := httptest.NewServer(r)
	t.Cleanup(hook.Close) // after the server has drained
	s := startServer(t, "-webhook", hook.URL, "-webhook-grace", "1ms", "-subscription-count")
	c := connect(t, s.addr)
	c.subscribe("private-cache-a", "")
	c.text()
	c.text()
	c.text()
	r.Want(`{"name":"channel_occupied","channel":"private-cache-a"}`,
		`{"name":"cache_miss","channel":"private-cache-a"}`,
		`{"name":"subscription_count","channel":"private-cache-a","subscription_count":1}`)
	r.Forget()

	p := connect(t, s.addr)
	p.subscribe("presence-p", `{"user_id":"u\"1"}`)
	p.text()
	p.send(`{"event":"client-e","channel":"presence-p","data":{"a":1}}`)
	p.settled()
	c.send(`{"event":"client-f","channel":"private-cache-a","data":"x\/y"}`)
	c.settled()
	r.Want(`{"name":"channel_occupied","channel":"presence-p"}`,
		`{"name":"member_added","channel":"presence-p","user_id":"u\"1"}`,
		fmt.Sprintf(`{"name":"client_event","channel":"presence-p","event":"client-e","data":"{\"a\":1}","socket_id":"%s","user_id":"u\"1"}`, p.id),
		fmt.Sprintf(`{"name":"client_event","channel":"private-cache-a","event":"client-f","data":"x\/y","socket_id":"%s"}`, c.id))
	r.Forget()
	p.conn.Close()
	r.Want(`{"name":"member_removed","channel":"presence-p","user_id":"u\"1"}`, `{"name":"channel_vacated","channel":"presence-p"}`)
}

// cache_miss comes once until the cache is filled or the channel vacated, and not for channels without a cache.
func TestWebhookCacheMiss(t *testing.T) {
	r := edgetest.NewReceiver(t)
	hook := httptest.NewServer(r)
	t.Cleanup(hook.Close) // after the server has drained
	s := startServer(t, "-webhook", hook.URL+"#events=cache_miss", "-cache-ttl", "1s")
	miss := `{"name":"cache_miss","channel":"cache-a"}`
	join := func() *peer {
		c := connect(t, s.addr)
		c.subscribe("cache-a", "")
		c.text()
		c.text()
		return c
	}
	a, b := join(), join()
	r.Want(miss)
	publish(t, s.addr, "cache-a", "e", "")
	join()
	waitUntil(t, "the event has expired", func() bool { return s.app.ChannelInfo("cache-a").Cached == nil })
	join()
	r.Want(miss, miss)
	a.conn.Close()
	b.conn.Close()
}

// TestWebhookCrowd lets all members of a channel come at once and leave at once, many times.
func TestWebhookCrowd(t *testing.T) {
	r := edgetest.NewReceiver(t)
	hook := httptest.NewServer(r)
	t.Cleanup(hook.Close) // after the server has drained
	s := startServer(t, "-webhook", hook.URL, "-webhook-grace", "1ms")
	const rounds, members = 100, 4
	for n := range rounds {
		var crowd sync.WaitGroup
		for i := range members {
			crowd.Go(func() {
				c := connect(t, s.addr)
				c.subscribe(fmt.Sprint("presence-", n), fmt.Sprintf(`{"user_id":"%d"}`, i))
				c.text()
				c.conn.Close()
			})
		}
		crowd.Wait()
	}
	waitUntil(t, "everyone has left", func() bool { return s.app.Connections() == 0 })
	s.stop()                     // delivers the rest
	open := make(map[string]int) // 1 for a channel and 1 for each member
	for _, e := range r.Got() {
		var event struct{ Name, Channel string }
		json.Unmarshal([]byte(e), &event)
		n := open[event.Channel]
		switch event.Name {
		case wire.HookOccupied:
			open[event.Channel]++
		case wire.HookMemberAdded:
			open[event.Channel]++
		default:
			open[event.Channel]--
		}
		if (event.Name == wire.HookOccupied) != (n == 0) || (event.Name == wire.HookVacated) != (n == 1 && event.Name != wire.HookMemberAdded) {
			t.Fatalf("%s with %d open", e, n)
		}
	}
	for channel, n := range open {
		if n != 0 {
			t.Errorf("%s: %d are left open", channel, n)
		}
	}
}

// TestWebhookAccount sends ten thousand channels up and down from many goroutines, with a receiver that fails now and then.
// The account is exact: nothing lost, nothing twice, and what is told as occupied is occupied.
func TestWebhookAccount(t *testing.T) {
	r := edgetest.NewReceiver(t)
	var n atomic.Int64
	r.Answer = func() int {
		if n.Add(1) == 20 {
			return 500
		}
		return 200
	}
	hook := httptest.NewServer(r)
	t.Cleanup(hook.Close) // after the server has drained
	s := startServer(t, "-webhook", hook.URL, "-webhook-grace", "0")
	const clients, rounds, channels = 100, 50, 20 // few enough not to be slowed down, nor to fill a queue
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			c := connect(t, s.addr)
			for n := range rounds {
				channel := fmt.Sprint("c", (i*7+n)%channels)
				c.join(channel)
				if n < rounds-1 {
					c.send(`{"event":"pusher:unsubscribe","data":{"channel":%q}}`, channel)
				}
			}
			c.settled()
		})
	}
	all.Wait()
	var done webhook.Stats
	waitUntil(t, "all is delivered", func() bool {
		done = s.app.webhooks().Stats()[0]
		return done.Sent == done.Queued
	})
	state := make(map[string]bool)
	for _, e := range r.Got() {
		var event struct{ Name, Channel string }
		json.Unmarshal([]byte(e), &event)
		if up := event.Name == wire.HookOccupied; up == state[event.Channel] {
			t.Fatalf("%s twice in a row", e)
		} else if state[event.Channel] = up; !up {
			delete(state, event.Channel)
		}
	}
	occupied := make(map[string]bool)
	s.app.Occupied("", func(name string, _ wire.Kind, _ channel.Info) { occupied[name] = true })
	if fmt.Sprint(state) != fmt.Sprint(occupied) {
		t.Errorf("told %v, occupied are %v", state, occupied)
	}
	t.Logf("%d events for %d subscriptions", done.Sent, clients*rounds)
}

// TestWebhookReceiverKilled ends the receiver in mid-stream and starts another at the same address: each event arrives, in
// order; those of the body that was under way may arrive twice.
func TestWebhookReceiverKilled(t *testing.T) {
	r := edgetest.NewReceiver(t)
	first, second := httptest.NewServer(r), &http.Server{Handler: r}
	t.Cleanup(func() { second.Close() }) // after the server has drained
	addr := first.Listener.Addr().String()
	s := startServer(t, "-webhook", first.URL)
	c := connect(t, s.addr)
	go func() { // ends after the last channel
		for i := range 300 {
			c.send(`{"event":"pusher:subscribe","data":{"channel":"c%d"}}`, i)
		}
	}()
	for i := range 300 {
		c.expect(succeeded(fmt.Sprint("c", i)))
	}
	r.Wait()
	first.CloseClientConnections()
	first.Close()
	seen := len(r.Got())
	go second.Serve(listenAgain(t, addr)) // ends with Close
	waitUntil(t, "all is delivered", func() bool {
		got := r.Got()
		return slices.Contains(got, edgetest.Occupied("c299"))
	})
	var want []string
	for i := range 300 {
		want = append(want, edgetest.Occupied(fmt.Sprint("c", i)))
	}
	var got []string
	for _, e := range r.Got() {
		if !slices.Contains(got, e) {
			got = append(got, e)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d of %d events; %d had arrived before the kill", len(got), len(want), seen)
	}
}

// listenAgain listens on an address that was in use a moment ago.
func listenAgain(t *testing.T, addr string) (l net.Listener) {
	t.Helper()
	waitUntil(t, "the address is free", func() bool {
		var err error
		l, err = net.Listen("tcp", addr)
		return err == nil
	})
	return l
}

// TestWebhookShutdown: a client that does not read holds up neither the end of the server nor its last webhooks.
func TestWebhookShutdown(t *testing.T) {
	r := edgetest.NewReceiver(t)
	hook := httptest.NewServer(r)
	t.Cleanup(hook.Close)
	s := startServer(t, "-webhook", hook.URL, "-webhook-grace", "1m", "-send-buffer", "10000000")
	slow := connect(t, s.addr)
	slow.join("room")
	for s.memory.Holds() < 500_000 {
		publish(t, s.addr, "room", "e", strings.Repeat("x", 10_000))
	}
	s.stop()
	r.Want(edgetest.Occupied("room"), edgetest.Vacated("room"))
}
