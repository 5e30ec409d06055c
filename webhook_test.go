package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"edge/internal/channel"
	"edge/internal/wire"
)

// receiver collects what a hook is sent. It checks every request as the official libraries do.
type receiver struct {
	t      testing.TB
	answer func() int // status of the next answer; nil for 200

	mu       sync.Mutex // guards the following
	requests []string   // bodies of all requests
	events   []string   // of the accepted ones, without time_ms
	arrived  chan struct{}
}

func newReceiver(t testing.TB) *receiver {
	return &receiver{t: t, arrived: make(chan struct{}, 1)}
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // broken off
	}
	var payload struct {
		TimeMS *int64 `json:"time_ms"`
		Events []json.RawMessage
	}
	if err := json.Unmarshal(body, &payload); err != nil || payload.TimeMS == nil || len(payload.Events) == 0 {
		r.t.Errorf("body %s: %v", body, err)
	}
	if h := req.Header; h.Get("Content-Type") != "application/json" || h.Get("X-Pusher-Key") != "key" || !testKey.Valid(h.Get("X-Pusher-Signature"), body) {
		r.t.Errorf("headers %v", h)
	}
	status := http.StatusOK
	if r.answer != nil {
		status = r.answer()
	}
	r.mu.Lock()
	r.requests = append(r.requests, string(body)+req.Header.Get("X-Pusher-Signature"))
	if status/100 == 2 {
		for _, e := range payload.Events {
			r.events = append(r.events, string(e))
		}
	}
	r.mu.Unlock()
	select {
	case r.arrived <- struct{}{}:
	default:
	}
	w.Header().Set("Location", "http://elsewhere/") // for those who follow redirects
	w.WriteHeader(status)
}

// got returns the accepted events so far.
func (r *receiver) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// want waits for these events and compares.
func (r *receiver) want(events ...string) {
	r.t.Helper()
	deadline := time.After(patience)
	for len(r.got()) < len(events) {
		select {
		case <-r.arrived:
		case <-deadline:
			r.t.Fatalf("got %d events:\n%s\nwant %d", len(r.got()), strings.Join(r.got(), "\n"), len(events))
		}
	}
	if got := r.got(); !slices.Equal(got, events) {
		r.t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(events, "\n"))
	}
}

func TestWebhookEvents(t *testing.T) {
	r := newReceiver(t)
	hook := httptest.NewServer(r)
	t.Cleanup(hook.Close) // after the server has drained
	s := startServer(t, "-webhook", hook.URL, "-webhook-grace", "1ms", "-subscription-count")
	c := connect(t, s.addr)
	c.subscribe("private-cache-a", "")
	c.text()
	c.text()
	c.text()
	r.want(`{"name":"channel_occupied","channel":"private-cache-a"}`,
		`{"name":"cache_miss","channel":"private-cache-a"}`,
		`{"name":"subscription_count","channel":"private-cache-a","subscription_count":1}`)
	r.events = nil

	p := connect(t, s.addr)
	p.subscribe("presence-p", `{"user_id":"u\"1"}`)
	p.text()
	p.send(`{"event":"client-e","channel":"presence-p","data":{"a":1}}`)
	p.settled()
	c.send(`{"event":"client-f","channel":"private-cache-a","data":"x\/y"}`)
	c.settled()
	r.want(`{"name":"channel_occupied","channel":"presence-p"}`,
		`{"name":"member_added","channel":"presence-p","user_id":"u\"1"}`,
		fmt.Sprintf(`{"name":"client_event","channel":"presence-p","event":"client-e","data":"{\"a\":1}","socket_id":"%s","user_id":"u\"1"}`, p.id),
		fmt.Sprintf(`{"name":"client_event","channel":"private-cache-a","event":"client-f","data":"x\/y","socket_id":"%s"}`, c.id))
	r.events = nil
	p.conn.Close()
	r.want(`{"name":"member_removed","channel":"presence-p","user_id":"u\"1"}`, `{"name":"channel_vacated","channel":"presence-p"}`)
}

// cache_miss comes once until the cache is filled or the channel vacated, and not for channels without a cache.
func TestWebhookCacheMiss(t *testing.T) {
	r := newReceiver(t)
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
	r.want(miss)
	publish(t, s.addr, "cache-a", "e", "")
	join()
	waitUntil(t, "the event has expired", func() bool { return s.app.ChannelInfo("cache-a").Cached == nil })
	join()
	r.want(miss, miss)
	a.conn.Close()
	b.conn.Close()
}

func TestParseHook(t *testing.T) {
	for _, tt := range []struct{ in, url, events, prefix, problem string }{
		{in: "http://a/b?c=d", url: "http://a/b?c=d"},
		{in: "https://u:p@a:1/b#events=channel_occupied,member_added&prefix=presence-", url: "https://u:p@a:1/b", events: "channel_occupied,member_added", prefix: "presence-"},
		{in: "http://a#prefix=%23x", url: "http://a", prefix: "#x"},
		{in: "ftp://a", problem: "http://"},
		{in: "a.example/x", problem: "http://"},
		{in: "http://", problem: "http://"},
		{in: "file:///etc/passwd", problem: "http://"},
		{in: "http://a#events=nope", problem: `"nope"`},
		{in: "http://a#event=x", problem: `"event"`},
	} {
		h, err := parseHook(tt.in)
		if tt.problem != "" {
			if err == nil || !strings.Contains(err.Error(), tt.problem) {
				t.Errorf("%s: %v, want %q", tt.in, err, tt.problem)
			}
			continue
		}
		if err != nil || h.url != tt.url || strings.Join(h.events, ",") != tt.events || h.prefix != tt.prefix {
			t.Errorf("%s: %+v %v", tt.in, h, err)
		}
		if strings.Contains(h.name, "p@") || strings.Contains(h.name, "c=d") {
			t.Errorf("%s is logged as %s", tt.in, h.name)
		}
	}
}

func TestHookFilter(t *testing.T) {
	h, err := parseHook("http://a#events=member_added,channel_vacated&prefix=presence-")
	if err != nil {
		t.Fatal(err)
	}
	for event, want := range map[[2]string]bool{
		{wire.HookMemberAdded, "presence-a"}: true, {wire.HookVacated, "presence-"}: true,
		{wire.HookOccupied, "presence-a"}: false, {wire.HookVacated, "private-a"}: false, {wire.HookVacated, "a-presence-"}: false,
	} {
		if h.wants(event[0], event[1]) != want {
			t.Errorf("wants %s of %s: %t", event[0], event[1], !want)
		}
	}
}

// The rest runs on a clock of its own, with a transport in place of the network.

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// testHooks makes webhooks with one receiver for each handler.
func testHooks(t *testing.T, grace time.Duration, handlers ...http.Handler) *webhooks {
	t.Helper()
	w := newWebhooks(func(channel.Notice) {})
	w.configure(slices.Repeat([]string{"http://receiver"}, len(handlers)), testKey, grace)
	for i, handler := range handlers {
		w.hooks[i].client.Transport = transport(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host != "receiver" {
				t.Errorf("a request to %s", r.URL)
			}
			w, done := httptest.NewRecorder(), make(chan struct{})
			go func() { // ends with the handler
				handler.ServeHTTP(w, r)
				close(done)
			}()
			select {
			case <-done:
				return w.Result(), nil
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		})
	}
	return w
}

const usualGrace = 3 * time.Second

func occupied(channel string) string {
	return `{"name":"channel_occupied","channel":"` + channel + `"}`
}
func vacated(channel string) string { return `{"name":"channel_vacated","channel":"` + channel + `"}` }

// check compares what has been accepted when nothing moves any more at this moment.
func (r *receiver) check(events ...string) {
	r.t.Helper()
	synctest.Wait()
	if got := r.got(); !slices.Equal(got, events) {
		r.t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(events, "\n"))
	}
}

func TestWebhookGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		w := testHooks(t, usualGrace, r)
		w.move("a", "", 1)
		time.Sleep(time.Second)
		r.check(occupied("a"))
		for range 5 { // a page is reloaded again and again
			w.move("a", "", -1)
			time.Sleep(2900 * time.Millisecond)
			w.move("a", "", 1)
			time.Sleep(time.Minute)
		}
		w.move("a", "", 1) // the return is reported before the end,
		w.move("a", "", -1)
		time.Sleep(time.Minute)
		r.check(occupied("a"))
		w.move("a", "", -1)
		time.Sleep(2900 * time.Millisecond)
		r.check(occupied("a"))
		time.Sleep(200 * time.Millisecond)
		r.check(occupied("a"), vacated("a"))
		if len(w.levels) != 0 {
			t.Errorf("%d levels are left", len(w.levels))
		}
	})
}

// TestWebhookFlap: a member who flaps is told as often as he was away for longer than the grace period.
func TestWebhookFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		w := testHooks(t, usualGrace, r)
		w.move("presence-a", "", 1)
		for i := range 100 {
			w.move("presence-a", "u", 1)
			time.Sleep(100 * time.Millisecond)
			w.move("presence-a", "u", -1)
			if i%10 == 9 {
				time.Sleep(5 * time.Second)
			} else {
				time.Sleep(time.Second)
			}
		}
		want := []string{occupied("presence-a")}
		for range 10 {
			want = append(want, `{"name":"member_added","channel":"presence-a","user_id":"u"}`, `{"name":"member_removed","channel":"presence-a","user_id":"u"}`)
		}
		r.check(want...)
	})
}

// TestWebhookOrder: a channel is occupied before its members and vacated after them, whoever reports first.
func TestWebhookOrder(t *testing.T) {
	added, removed := `{"name":"member_added","channel":"presence-a","user_id":"u"}`, `{"name":"member_removed","channel":"presence-a","user_id":"u"}`
	for _, grace := range []time.Duration{0, 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			r := newReceiver(t)
			w := testHooks(t, grace, r)
			w.move("presence-a", "u", 1)
			w.move("presence-a", "", 1)
			time.Sleep(time.Minute)
			r.check(occupied("presence-a"), added)
			w.move("presence-a", "", -1)
			w.move("presence-a", "u", -1)
			time.Sleep(time.Minute)
			r.check(occupied("presence-a"), added, removed, vacated("presence-a"))
			if len(w.levels) != 0 {
				t.Errorf("%d levels are left", len(w.levels))
			}
		})
	}
}

// TestWebhookCrowd lets all members of a channel come at once and leave at once, many times.
func TestWebhookCrowd(t *testing.T) {
	r := newReceiver(t)
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
	for _, e := range r.got() {
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

// TestWebhookEncrypted: events of encrypted channels travel apart from others.
func TestWebhookEncrypted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		w := testHooks(t, usualGrace, r)
		for _, channel := range []string{"a", "b", "private-encrypted-c", "private-encrypted-d", "e"} {
			w.move(channel, "", 1)
		}
		time.Sleep(time.Second)
		r.check(occupied("a"), occupied("b"), occupied("private-encrypted-c"), occupied("private-encrypted-d"), occupied("e"))
		if len(r.requests) != 3 {
			t.Errorf("%d requests, want 3:\n%s", len(r.requests), strings.Join(r.requests, "\n"))
		}
	})
}

func TestWebhookBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		w := testHooks(t, usualGrace, r)
		var want []string
		for i := range 250 {
			w.move(fmt.Sprint("c", i), "", 1)
			want = append(want, occupied(fmt.Sprint("c", i)))
		}
		time.Sleep(time.Second)
		r.check(want...)
		if len(r.requests) != 3 {
			t.Errorf("250 events took %d requests, want 3", len(r.requests))
		}
		for range 40 { // 400 KB
			w.tell(wire.HookClientEvent, "private-a", []byte(`,"data":"`+strings.Repeat("x", 10_000)+`"`))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for _, body := range r.requests {
			if len(body) > webhookBodySize+100 {
				t.Errorf("a body of %d bytes", len(body))
			}
		}
		if len(r.requests) != 5 {
			t.Errorf("400 KB took %d requests, want 2", len(r.requests)-3)
		}
	})
}

// TestWebhookRetries: three errors, then success. The same body and signature each time, nothing behind it overtakes.
func TestWebhookRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		n := 0
		r.answer = func() int {
			n++
			return []int{501, 302, 404, 200, 204}[n-1] // anything but a 2xx is a failure, and no redirect is followed
		}
		w := testHooks(t, usualGrace, r)
		w.move("a", "", 1)
		time.Sleep(500 * time.Millisecond)
		w.move("b", "", 1)
		time.Sleep(time.Minute)
		r.check(occupied("a"), occupied("b"))
		if len(r.requests) != 5 || r.requests[0] != r.requests[1] || r.requests[0] != r.requests[3] {
			t.Errorf("requests:\n%s", strings.Join(r.requests, "\n"))
		}
		if c := w.hooks[0].counts(); c.queued != 2 || c.sent != 2 || c.retried != 3 || c.dropped != 0 || !c.failingSince.IsZero() {
			t.Errorf("counts %+v", c)
		}
	})
}

// TestWebhookHangs: a receiver that never answers, and one that is not there, hold up nobody else; after five minutes of
// trying a body is given up and counted.
func TestWebhookHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, back := newReceiver(t), newReceiver(t)
		hangs := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		began := time.Now()
		back.answer = func() int {
			if time.Since(began) < 30*time.Second {
				return 502
			}
			return 200
		}
		w := testHooks(t, usualGrace, good, hangs, back)
		w.move("a", "", 1)
		time.Sleep(time.Second)
		good.check(occupied("a"))
		if w.hooks[1].counts().failingSince != (time.Time{}) {
			t.Error("the hanging receiver failed before its time-out")
		}
		time.Sleep(time.Minute)
		back.check(occupied("a"))
		if w.hooks[1].counts().failingSince.IsZero() {
			t.Error("the hanging receiver does not count as failing")
		}
		w.move("b", "", 1)
		time.Sleep(10 * time.Minute)
		good.check(occupied("a"), occupied("b"))
		if c := w.hooks[1].counts(); c.sent != 0 || c.dropped != 2 || c.retried < 10 {
			t.Errorf("counts %+v", c)
		}
		synctest.Wait()
		if w.hooks[1].running != nil {
			t.Error("a goroutine lives although nothing is queued")
		}
	})
}

// TestWebhookQueue: beyond the bound the oldest client events go first, then the oldest of the rest, and all is counted.
func TestWebhookQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		var up atomic.Bool
		r.answer = func() int {
			if up.Load() {
				return 200
			}
			return 500
		}
		w := testHooks(t, 0, r)
		w.tell("first", "x", nil) // will be under way, and is not in the queue any more
		time.Sleep(time.Second)
		const half = webhookQueue / 2
		for i := range half + 1 {
			w.tell("rest", fmt.Sprint(i), nil)
			w.tell(wire.HookClientEvent, fmt.Sprint(i), nil)
		}
		h := w.hooks[0]
		w.mu.Lock()
		if h.dropped != 2 || len(h.rest) != half+1 || len(h.clients) != half-1 {
			t.Errorf("%d dropped, %d and %d left", h.dropped, len(h.rest), len(h.clients))
		}
		w.mu.Unlock()
		for i := range half + 2 {
			w.tell("more", fmt.Sprint(i), nil)
		}
		up.Store(true)
		time.Sleep(time.Minute)
		name := func(name string, i int) string { return fmt.Sprintf(`{"name":"%s","channel":"%d"}`, name, i) }
		want := []string{`{"name":"first","channel":"x"}`}
		for i := 3; i < half+1; i++ {
			want = append(want, name("rest", i))
		}
		for i := range half + 2 {
			want = append(want, name("more", i))
		}
		r.check(want...)
		if h.dropped != half+4 || h.queued != 3*half+5 || h.sent != webhookQueue+1 {
			t.Errorf("counts %+v", h.hookCounts)
		}
	})
}

func TestWebhookDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, bad := newReceiver(t), newReceiver(t)
		bad.answer = func() int { return 500 }
		w := testHooks(t, usualGrace, good, bad)
		w.move("a", "", 1)
		time.Sleep(time.Second)
		w.move("a", "", -1) // would be told in three seconds
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if left := w.drain(ctx); left != 2 {
			t.Errorf("%d events left, want 2", left)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("draining took %s", took)
		}
		good.check(occupied("a"), vacated("a"))
		if c := w.hooks[1].counts(); c.left != 2 {
			t.Errorf("counts %+v", c)
		}
	})
}

// TestWebhookAccount sends ten thousand channels up and down from many goroutines, with a receiver that fails now and then.
// The account is exact: nothing lost, nothing twice, and what is told as occupied is occupied.
func TestWebhookAccount(t *testing.T) {
	r := newReceiver(t)
	var n atomic.Int64
	r.answer = func() int {
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
	h := s.app.webhooks().hooks[0]
	waitUntil(t, "all is delivered", func() bool {
		s.app.webhooks().mu.Lock()
		defer s.app.webhooks().mu.Unlock()
		return h.sent == h.queued
	})
	state := make(map[string]bool)
	for _, e := range r.got() {
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
	t.Logf("%d events for %d subscriptions", h.sent, clients*rounds)
}

// TestWebhookReceiverKilled ends the receiver in mid-stream and starts another at the same address: each event arrives, in
// order; those of the body that was under way may arrive twice.
func TestWebhookReceiverKilled(t *testing.T) {
	r := newReceiver(t)
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
	<-r.arrived
	first.CloseClientConnections()
	first.Close()
	seen := len(r.got())
	go second.Serve(listenAgain(t, addr)) // ends with Close
	waitUntil(t, "all is delivered", func() bool {
		got := r.got()
		return slices.Contains(got, occupied("c299"))
	})
	var want []string
	for i := range 300 {
		want = append(want, occupied(fmt.Sprint("c", i)))
	}
	var got []string
	for _, e := range r.got() {
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

// TestWebhookBadReceivers: whatever a receiver does wrong on the wire, its events are tried until it does right, others get theirs, and
// nothing is read without end.
func TestWebhookBadReceivers(t *testing.T) {
	good := newReceiver(t)
	var bad atomic.Bool
	misbehave := func(how func(w http.ResponseWriter, r *http.Request)) *httptest.Server {
		return httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if bad.Load() {
				how(w, r)
			} else {
				good.ServeHTTP(w, r)
			}
		}))
	}
	raw := func(answer string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			io.WriteString(conn, answer)
			conn.Close()
		}
	}
	for _, test := range []struct {
		name string
		tls  bool
		how  func(w http.ResponseWriter, r *http.Request)
	}{
		{"is no HTTP server", false, raw("220 mail ready\r\n")},
		{"hangs up", false, raw("")},
		{"hangs up in the middle of a header", false, raw("HTTP/1.1 200 OK\r\nContent-")},
		{"answers before the request is read, with an error", false, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }},
		{"writes headers without end", false, func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			defer conn.Close()
			for _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n"); err == nil; {
				_, err = io.WriteString(conn, "X: "+strings.Repeat("x", 1000)+"\r\n")
			}
		}},
		{"writes an error without end", false, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(500)
			for err := error(nil); err == nil; {
				_, err = io.WriteString(w, strings.Repeat("x", 10_000))
			}
		}},
		{"has no certificate that we trust", true, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			good.t, good.events = t, nil
			bad.Store(true)
			ts := misbehave(test.how)
			url := "http://"
			if test.tls {
				ts.StartTLS()
				url = "https://"
			} else {
				ts.Start()
			}
			url += ts.Listener.Addr().String()
			defer ts.Close()
			neighbour := newReceiver(t)
			other := httptest.NewServer(neighbour)
			defer other.Close()
			w := newWebhooks(func(channel.Notice) {})
			w.configure([]string{url, other.URL}, testKey, 0)
			w.tell(wire.HookCacheMiss, "cache-a", nil)
			neighbour.want(`{"name":"cache_miss","channel":"cache-a"}`)
			waitUntil(t, "it has failed, and the other one not", func() bool { return w.hooks[0].counts().retried > 0 && w.hooks[1].counts().sent > 0 })
			bad.Store(false)
			ctx, cancel := context.WithCancel(t.Context())
			left := 0
			if test.tls { // which does not get better
				left = 1
				cancel()
			} else {
				good.want(`{"name":"cache_miss","channel":"cache-a"}`)
			}
			if got := w.drain(ctx); got != left || len(good.got()) != 1-left {
				t.Errorf("%d events are left, %d were taken", got, len(good.got()))
			}
			cancel()
		})
	}
}

// TestWebhookQueueBytes: a queue is bounded in bytes too.
func TestWebhookQueueBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		w := testHooks(t, usualGrace, hangs)
		data := []byte(`,"data":"` + strings.Repeat("x", 30_000) + `"`)
		w.tell("first", "x", nil)
		time.Sleep(time.Second) // it is under way, and nothing else will be for a while
		synctest.Wait()
		for range 2000 {
			w.tell(wire.HookClientEvent, "private-a", data)
		}
		w.mu.Lock()
		h, size := w.hooks[0], 0
		for _, e := range h.clients {
			size += len(e.body)
		}
		if size > webhookQueueSize || size != h.bytes || h.dropped != uint64(2000-len(h.clients)) {
			t.Errorf("%d bytes queued, %d counted, %d dropped, %d left", size, h.bytes, h.dropped, len(h.clients))
		}
		w.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		w.drain(ctx)
	})
}

// TestWebhookShutdown: a client that does not read holds up neither the end of the server nor its last webhooks.
func TestWebhookShutdown(t *testing.T) {
	r := newReceiver(t)
	hook := httptest.NewServer(r)
	t.Cleanup(hook.Close)
	s := startServer(t, "-webhook", hook.URL, "-webhook-grace", "1m", "-send-buffer", "10000000")
	slow := connect(t, s.addr)
	slow.join("room")
	for s.memory.Holds() < 500_000 {
		publish(t, s.addr, "room", "e", strings.Repeat("x", 10_000))
	}
	s.stop()
	r.want(occupied("room"), vacated("room"))
}

// TestWebhookCountOvertaken: two have subscribed at once, and the second is faster to say so.
func TestWebhookCountOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, grace := range []time.Duration{0, usualGrace} {
			r := newReceiver(t)
			w := testHooks(t, grace, r)
			count := func(c *int64, n int, at int64) { // c is the channel's latest
				w.observe(channel.Notice{What: wire.HookSubscriptionCount, Channel: "x", Reached: n, At: at, Latest: func() bool {
					before := *c
					*c = max(before, at)
					return at >= before
				}})
			}
			c := new(int64)
			count(c, 2, 20)
			w.move("x", "", 1)
			count(c, 1, 10)
			w.move("x", "", 1)
			count(c, 1, 30)
			w.move("x", "", -1)
			w.move("x", "", -1)
			count(c, 0, 40)
			count(c, 1, 35)
			w.move("x", "", 1)
			count(new(int64), 3, 60)
			count(c, 0, 50) // the one before
			w.move("x", "", -1)
			time.Sleep(time.Minute)
			var counts []string
			for _, e := range r.got() {
				if _, count, ok := strings.Cut(e, `"subscription_count":`); ok {
					counts = append(counts, strings.Trim(count, "}"))
				}
			}
			if got := strings.Join(counts, " "); got != "2 1 0 3" {
				t.Errorf("with %s of grace the counts were %s", grace, got)
			}
			w.drain(t.Context())
		}
	})
}

// TestWebhookShorterGrace: what was shortened holds for the next, whatever still waits for longer.
func TestWebhookShorterGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		w := testHooks(t, time.Hour, r)
		w.move("a", "", 1)
		w.move("b", "", 1)
		w.move("a", "", -1)
		w.configure([]string{"http://receiver"}, testKey, usualGrace)
		w.move("b", "", -1)
		time.Sleep(usualGrace + time.Second)
		if got := r.got(); !slices.Contains(got, vacated("b")) || slices.Contains(got, vacated("a")) {
			t.Errorf("after the shorter one: %s", got)
		}
		time.Sleep(time.Hour)
		if got := r.got(); !slices.Contains(got, vacated("a")) {
			t.Errorf("after the longer one: %s", got)
		}
		w.drain(t.Context())
	})
}
