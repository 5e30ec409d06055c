package webhook

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/wire"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct{ in, url, events, prefix, problem string }{
		{in: "http://a/b?c=d", url: "http://a/b?c=d"},
		{in: "https://u:p@a:1/b#events=channel_occupied,member_added&prefix=presence-", url: "https://u:p@a:1/b",
			events: "channel_occupied,member_added", prefix: "presence-"},
		{in: "http://a#prefix=%23x", url: "http://a", prefix: "#x"},
		{in: "ftp://a", problem: "http://"},
		{in: "a.example/x", problem: "http://"},
		{in: "http://", problem: "http://"},
		{in: "file:///etc/passwd", problem: "http://"},
		{in: "http://a#events=nope", problem: `"nope"`},
		{in: "http://a#event=x", problem: `"event"`},
	} {
		h, err := parse(tt.in)
		if tt.problem != "" {
			if err == nil || !strings.Contains(err.Error(), tt.problem) {
				t.Errorf("%s: %v, want %q", tt.in, err, tt.problem)
			}
			continue
		}
		if err != nil || h.url != tt.url || strings.Join(h.events, ",") != tt.events || h.prefix != tt.prefix {
			t.Errorf("%s: %+v %v", tt.in, h, err)
		}
		if strings.Contains(h.Receiver, "p@") || strings.Contains(h.Receiver, "c=d") {
			t.Errorf("%s is logged as %s", tt.in, h.Receiver)
		}
	}
}

func TestFilter(t *testing.T) {
	h, err := parse("http://a#events=member_added,channel_vacated&prefix=presence-")
	if err != nil {
		t.Fatal(err)
	}
	for event, want := range map[[2]string]bool{
		{wire.HookMemberAdded, "presence-a"}: true, {wire.HookVacated, "presence-"}: true,
		{wire.HookOccupied, "presence-a"}: false, {wire.HookVacated, "private-a"}: false,
		{wire.HookVacated, "a-presence-"}: false,
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
func testHooks(t *testing.T, grace time.Duration, handlers ...http.Handler) *Hooks {
	t.Helper()
	w := newHooks()
	w.Configure(slices.Repeat([]string{"http://receiver"}, len(handlers)), key, grace)
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

func TestGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := edgetest.NewReceiver(t)
		w := testHooks(t, usualGrace, r)
		w.move("a", "", 1)
		time.Sleep(time.Second)
		check(r, occupied("a"))
		for range 5 { // a page is reloaded again and again
			w.move("a", "", -1)
			time.Sleep(2900 * time.Millisecond)
			w.move("a", "", 1)
			time.Sleep(time.Minute)
		}
		w.move("a", "", 1) // the return is reported before the end,
		w.move("a", "", -1)
		time.Sleep(time.Minute)
		check(r, occupied("a"))
		w.move("a", "", -1)
		time.Sleep(2900 * time.Millisecond)
		check(r, occupied("a"))
		time.Sleep(200 * time.Millisecond)
		check(r, occupied("a"), vacated("a"))
		if len(w.levels) != 0 {
			t.Errorf("%d levels are left", len(w.levels))
		}
	})
}

// TestFlap: a member who flaps is told as often as he was away for longer than the grace period.
func TestFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := edgetest.NewReceiver(t)
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
			want = append(want, added, removed)
		}
		check(r, want...)
	})
}

// added and removed are the events of one member.
const (
	added   = `{"name":"member_added","channel":"presence-a","user_id":"u"}`
	removed = `{"name":"member_removed","channel":"presence-a","user_id":"u"}`
)

// TestOrder: a channel is occupied before its members and vacated after them, whoever reports first.
func TestOrder(t *testing.T) {
	for _, grace := range []time.Duration{0, 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			r := edgetest.NewReceiver(t)
			w := testHooks(t, grace, r)
			w.move("presence-a", "u", 1)
			w.move("presence-a", "", 1)
			time.Sleep(time.Minute)
			check(r, occupied("presence-a"), added)
			w.move("presence-a", "", -1)
			w.move("presence-a", "u", -1)
			time.Sleep(time.Minute)
			check(r, occupied("presence-a"), added, removed, vacated("presence-a"))
			if len(w.levels) != 0 {
				t.Errorf("%d levels are left", len(w.levels))
			}
		})
	}
}

// TestEncrypted: events of encrypted channels travel apart from others.
func TestEncrypted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := edgetest.NewReceiver(t)
		w := testHooks(t, usualGrace, r)
		var want []string
		for _, channel := range []string{"a", "b", "private-encrypted-c", "private-encrypted-d", "e"} {
			w.move(channel, "", 1)
			want = append(want, occupied(channel))
		}
		time.Sleep(time.Second)
		check(r, want...)
		if len(r.Requests()) != 3 {
			t.Errorf("%d requests, want 3:\n%s", len(r.Requests()), strings.Join(r.Requests(), "\n"))
		}
	})
}

func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := edgetest.NewReceiver(t)
		w := testHooks(t, usualGrace, r)
		var want []string
		for i := range 250 {
			w.move(fmt.Sprint("c", i), "", 1)
			want = append(want, occupied(fmt.Sprint("c", i)))
		}
		time.Sleep(time.Second)
		check(r, want...)
		if len(r.Requests()) != 3 {
			t.Errorf("250 events took %d requests, want 3", len(r.Requests()))
		}
		for range 40 { // 400 KB
			w.report(wire.HookClientEvent, "private-a", []byte(`,"data":"`+strings.Repeat("x", 10_000)+`"`))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for _, body := range r.Requests() {
			if len(body) > mostBody+100 {
				t.Errorf("a body of %d bytes", len(body))
			}
		}
		if len(r.Requests()) != 5 {
			t.Errorf("400 KB took %d requests, want 2", len(r.Requests())-3)
		}
	})
}

// TestRetries: three errors, then success. The same body and signature each time, nothing behind it overtakes.
func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := edgetest.NewReceiver(t)
		n := 0
		r.Answer = func() int {
			n++
			return []int{501, 302, 404, 200, 204}[n-1] // anything but a 2xx is a failure, and no redirect is followed
		}
		w := testHooks(t, usualGrace, r)
		w.move("a", "", 1)
		time.Sleep(500 * time.Millisecond)
		w.move("b", "", 1)
		time.Sleep(time.Minute)
		check(r, occupied("a"), occupied("b"))
		if len(r.Requests()) != 5 || r.Requests()[0] != r.Requests()[1] || r.Requests()[0] != r.Requests()[3] {
			t.Errorf("requests:\n%s", strings.Join(r.Requests(), "\n"))
		}
		if c := w.Stats()[0]; c.Queued != 2 || c.Sent != 2 || c.Retried != 3 || c.Dropped != 0 || !c.FailingSince.IsZero() {
			t.Errorf("counts %+v", c)
		}
	})
}

// TestHangs: a receiver that never answers, and one that is not there, hold up nobody else; after five minutes of
// trying a body is given up and counted.
func TestHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, back := edgetest.NewReceiver(t), edgetest.NewReceiver(t)
		hangs := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		began := time.Now()
		back.Answer = func() int {
			if time.Since(began) < 30*time.Second {
				return 502
			}
			return 200
		}
		w := testHooks(t, usualGrace, good, hangs, back)
		w.move("a", "", 1)
		time.Sleep(time.Second)
		check(good, occupied("a"))
		if w.Stats()[1].FailingSince != (time.Time{}) {
			t.Error("the hanging receiver failed before its time-out")
		}
		time.Sleep(time.Minute)
		check(back, occupied("a"))
		if w.Stats()[1].FailingSince.IsZero() {
			t.Error("the hanging receiver does not count as failing")
		}
		w.move("b", "", 1)
		time.Sleep(10 * time.Minute)
		check(good, occupied("a"), occupied("b"))
		if c := w.Stats()[1]; c.Sent != 0 || c.Dropped != 2 || c.Retried < 10 {
			t.Errorf("counts %+v", c)
		}
		synctest.Wait()
		if w.hooks[1].running {
			t.Error("a goroutine lives although nothing is queued")
		}
	})
}

// TestQueue: beyond the bound the oldest client events go first, then the oldest of the rest, and all is counted.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := edgetest.NewReceiver(t)
		var up atomic.Bool
		r.Answer = func() int {
			if up.Load() {
				return 200
			}
			return 500
		}
		w := testHooks(t, 0, r)
		w.report("first", "x", nil) // will be under way, and is not in the queue any more
		time.Sleep(time.Second)
		const half = mostWaiting / 2
		for i := range half + 1 {
			w.report("rest", fmt.Sprint(i), nil)
			w.report(wire.HookClientEvent, fmt.Sprint(i), nil)
		}
		h := w.hooks[0]
		w.mu.Lock()
		clients := 0
		for _, e := range h.queue {
			if e.client {
				clients++
			}
		}
		if h.Dropped != 2 || len(h.queue) != mostWaiting || clients != half-1 {
			t.Errorf("%d dropped, %d left, of them %d by clients", h.Dropped, len(h.queue), clients)
		}
		w.mu.Unlock()
		for i := range half + 2 {
			w.report("more", fmt.Sprint(i), nil)
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
		check(r, want...)
		if h.Dropped != half+4 || h.Queued != 3*half+5 || h.Sent != mostWaiting+1 {
			t.Errorf("counts %+v", h.Stats)
		}
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, bad := edgetest.NewReceiver(t), edgetest.NewReceiver(t)
		bad.Answer = func() int { return 500 }
		w := testHooks(t, usualGrace, good, bad)
		w.move("a", "", 1)
		time.Sleep(time.Second)
		w.move("a", "", -1) // would be told in three seconds
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if left := w.Drain(ctx); left != 2 {
			t.Errorf("%d events left, want 2", left)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("draining took %s", took)
		}
		check(good, occupied("a"), vacated("a"))
		if c := w.Stats()[1]; c.Left != 2 {
			t.Errorf("counts %+v", c)
		}
	})
}

// TestBadReceivers: whatever a receiver does wrong on the wire, its events are tried until it does right, others get
// theirs, and nothing is read without end.
func TestBadReceivers(t *testing.T) {
	good := edgetest.NewReceiver(t)
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
		{"answers before the request is read, with an error", false, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(503)
		}},
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
			good.T = t
			good.Forget()
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
			neighbour := edgetest.NewReceiver(t)
			other := httptest.NewServer(neighbour)
			defer other.Close()
			w := newHooks()
			w.Configure([]string{url, other.URL}, key, 0)
			w.report(wire.HookCacheMiss, "cache-a", nil)
			neighbour.Want(`{"name":"cache_miss","channel":"cache-a"}`)
			edgetest.WaitUntil(t, "it has failed, and the other one not", func() bool {
				return w.Stats()[0].Retried > 0 && w.Stats()[1].Sent > 0
			})
			bad.Store(false)
			ctx, cancel := context.WithCancel(t.Context())
			left := 0
			if test.tls { // which does not get better
				left = 1
				cancel()
			} else {
				good.Want(`{"name":"cache_miss","channel":"cache-a"}`)
			}
			if got := w.Drain(ctx); got != left || len(good.Got()) != 1-left {
				t.Errorf("%d events are left, %d were taken", got, len(good.Got()))
			}
			cancel()
		})
	}
}

// TestPanic: one in the timer is logged, and what is due later is reported all the same.
func TestPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := edgetest.NewReceiver(t)
		w := testHooks(t, usualGrace, r)
		w.move("a", "", 1)
		w.mu.Lock()
		w.ends = append(w.ends, end{levelKey{"none", ""}, nil, time.Now()})
		w.timeLocked()
		w.mu.Unlock()
		w.move("a", "", -1)
		before := conn.Panics.Load()
		time.Sleep(time.Minute)
		check(r, occupied("a"), vacated("a"))
		if n := conn.Panics.Load() - before; n != 1 {
			t.Errorf("%d panics", n)
		}
	})
}

// TestQueueBytes: a queue is bounded in bytes too.
func TestQueueBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		w := testHooks(t, usualGrace, hangs)
		data := []byte(`,"data":"` + strings.Repeat("x", 30_000) + `"`)
		w.report("first", "x", nil)
		time.Sleep(time.Second) // it is under way, and nothing else will be for a while
		synctest.Wait()
		for range 2000 {
			w.report(wire.HookClientEvent, "private-a", data)
		}
		w.mu.Lock()
		h, size := w.hooks[0], 0
		for _, e := range h.queue {
			size += len(e.body)
		}
		if size > mostWaitBytes || size != h.bytes || h.Dropped != uint64(2000-len(h.queue)) {
			t.Errorf("%d bytes queued, %d counted, %d dropped, %d left", size, h.bytes, h.Dropped, len(h.queue))
		}
		w.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		w.Drain(ctx)
	})
}

// TestCountOvertaken: two have subscribed at once, and the second is faster to say so.
func TestCountOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, grace := range []time.Duration{0, usualGrace} {
			r := edgetest.NewReceiver(t)
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
			for _, e := range r.Got() {
				if _, count, ok := strings.Cut(e, `"subscription_count":`); ok {
					counts = append(counts, strings.Trim(count, "}"))
				}
			}
			if got := strings.Join(counts, " "); got != "2 1 0 3" {
				t.Errorf("with %s of grace the counts were %s", grace, got)
			}
			w.Drain(t.Context())
		}
	})
}

// TestShorterGrace: what was shortened holds for the next, whatever still waits for longer.
func TestShorterGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := edgetest.NewReceiver(t)
		w := testHooks(t, time.Hour, r)
		w.move("a", "", 1)
		w.move("b", "", 1)
		w.move("a", "", -1)
		w.Configure([]string{"http://receiver"}, key, usualGrace)
		w.move("b", "", -1)
		time.Sleep(usualGrace + time.Second)
		if got := r.Got(); !slices.Contains(got, vacated("b")) || slices.Contains(got, vacated("a")) {
			t.Errorf("after the shorter one: %s", got)
		}
		time.Sleep(time.Hour)
		if got := r.Got(); !slices.Contains(got, vacated("a")) {
			t.Errorf("after the longer one: %s", got)
		}
		w.Drain(t.Context())
	})
}
