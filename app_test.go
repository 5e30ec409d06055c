package main

import (
	"fmt"
	"io"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"edge/internal/wire"
)

func TestAllowsOrigin(t *testing.T) {
	for _, test := range []struct{ allowed, origin, verdict string }{
		{"", "https://example.com", "yes"},
		{"", "null", "yes"},
		{"*", "https://example.com", "yes"},
		{"*", "null", "yes"},
		{"example.com", "", "yes"}, // not a browser
		{"example.com", "null", "no"},
		{"null", "null", "yes"},

		{"https://example.com", "https://example.com", "yes"},
		{"https://example.com", "HTTPS://EXAMPLE.COM", "yes"},
		{"HTTPS://Example.com", "https://example.com", "yes"},
		{"https://example.com", "http://example.com", "no"},
		{"https://example.com", "https://example.com:8443", "no"},
		{"https://example.com", "https://www.example.com", "no"},
		{"https://example.com", "https://example.com.evil", "no"},
		{"https://example.com:8443", "https://example.com:8443", "yes"},
		{"https://example.com:8443", "https://example.com", "no"},
		{"https://example.com:8443", "https://example.com:8444", "no"},

		{"example.com", "https://example.com", "yes"},
		{"example.com", "http://example.com:8080", "yes"},
		{"example.com", "http://EXAMPLE.com:8080", "yes"},
		{"example.com", "https://www.example.com", "no"},
		{"example.com", "https://evil-example.com", "no"},
		{"example.com", "https://example.com.evil", "no"},
		{"example.com", "https://example.comx", "no"},
		{"localhost", "http://localhost:3000", "yes"},
		{"[::1]", "http://[::1]", "yes"},
		{"[::1]", "http://[::1]:3000", "yes"},
		{"[::1]", "http://[::2]:3000", "no"},
		{"https://a.test,b.test", "http://b.test", "yes"},
		{"https://a.test,b.test", "http://a.test", "no"},

		{"*.example.com", "https://www.example.com", "yes"},
		{"*.example.com", "https://a.b.example.com:8443", "yes"},
		{"*.EXAMPLE.com", "https://www.example.COM", "yes"},
		{"*.example.com", "https://example.com", "no"},
		{"*.example.com", "https://evil-example.com", "no"},
		{"*.example.com", "https://www.example.com.evil", "no"},
		{"*.example.com", "null", "no"},
	} {
		a := testApp(t, "-origins", test.allowed)
		if got := a.allowsOrigin(test.origin); got != (test.verdict == "yes") {
			t.Errorf("%q allows %q: %t, want %s", test.allowed, test.origin, got, test.verdict)
		}
	}
}

func TestSocketIDs(t *testing.T) {
	const each, goroutines = 5000, 4
	a := testApp(t, "-max-connections", strconv.Itoa(each*goroutines-1))
	var adding sync.WaitGroup
	refused := make(chan error, goroutines*each)
	for range goroutines {
		adding.Go(func() {
			for range each {
				if err, _ := a.addSocket(new(Socket), true); err != nil {
					refused <- err
				}
			}
		})
	}
	adding.Wait()
	if len(a.sockets) != each*goroutines-1 || len(refused) != 1 || <-refused != errQuota {
		t.Errorf("%d sockets in the table, want one less than %d", len(a.sockets), each*goroutines)
	}
	for id, s := range a.sockets {
		if s.id != id || a.socket(id) != s {
			t.Fatalf("%s stands in the table as %s", s.id, id)
		}
	}
}

// TestNothingIsLeft has everyone who ever came leave again, one way or another.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel() // it waits for the cached event to expire
	s := startServer(t, "-subscription-count", "-cache-ttl=1s")
	var clients []*client
	for i := range 20 {
		c := connect(t, s.addr)
		c.signIn(fmt.Sprintf(`{"id":"%d","watchlist":["%d","nobody"]}`, i%10, (i+1)%10))
		c.arrived() // what the watchlist brings
		c.enter("presence-x", "")
		for _, channel := range []string{"x", "private-x", "cache-x", fmt.Sprint("own-", i)} {
			c.enter(channel, "")
		}
		c.unsubscribe("x")
		c.subscribe("private-x", "")
		c.subscribeAs("private-refused", "", "")
		clients = append(clients, c)
	}
	publish(t, s.addr, "cache-x", "e", "{}")
	publish(t, s.addr, "nowhere", "e", "{}")
	handshake(t, s.addr, "/app/nokey?protocol=7", "").leave()
	handshake(t, s.addr, keyPath, "").leave()
	if sockets, users, watched, channels := s.app.sizes(); sockets < 20 || users != 10 || watched != 11 || channels == 0 {
		t.Errorf("%d sockets, %d users, %d watched, %d channels", sockets, users, watched, channels)
	}
	for i, c := range clients {
		if i%2 == 0 {
			c.raw(maskedFrame(0x80|opClose, nil))
		}
		c.leave()
	}
	waitUntil(t, "the tables are empty", s.app.empty)
}

// sizes returns how many entries the tables have.
func (a *App) sizes() (sockets, users, watched, channels int) {
	a.socketsMu.Lock()
	sockets = len(a.sockets)
	a.socketsMu.Unlock()
	a.usersMu.Lock()
	users, watched = len(a.users), len(a.watchers)
	a.usersMu.Unlock()
	a.channels.Range(func(_, _ any) bool {
		channels++
		return true
	})
	return sockets, users, watched, channels
}

func (a *App) empty() bool {
	sockets, users, watched, channels := a.sizes()
	return sockets+users+watched+channels == 0
}

// A cached event lives for its time from the last publish on, and an empty channel as long as its cached event.
func TestCacheLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := testApp(t)
		trigger := func(data string) {
			a.trigger("cache-x", wire.KindCache, Event{name: []byte("e"), data: quote(data), keep: true})
		}
		expect := func(data string) {
			t.Helper()
			synctest.Wait()
			if got := a.channelInfo("cache-x").cached; got == nil || string(got.data) != string(quote(data)) {
				t.Fatalf("cached is %v, want %s", got, data)
			}
		}
		trigger("first")
		time.Sleep(20 * time.Minute)
		expect("first")
		trigger("second")
		expect("second")
		time.Sleep(30*time.Minute - 1)
		expect("second")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if !a.empty() {
			t.Fatal("the channel outlives its cached event")
		}
		trigger("third")
		time.Sleep(30*time.Minute - 1)
		expect("third")
		a.trigger("cache-x", wire.KindCache, Event{name: []byte("client-e"), data: quote("of a client")})
		expect("third")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if !a.empty() {
			t.Fatal("the channel outlives its cached event")
		}
	})
}

// TestReached: what counts as given to nobody, to the last subscriber.
func TestReached(t *testing.T) {
	s := startServer(t)
	a, b := connect(t, s.addr), connect(t, s.addr)
	for _, c := range []*client{a, b} {
		c.join("private-two")
	}
	a.join("private-one")
	id := func(c *client) *Socket {
		n, _ := wire.ParseSocketID(c.id)
		return s.app.socket(n)
	}
	for _, watched := range []bool{false, true} {
		if watched {
			s.watch.on.Or(watchVerbose)
			s.logTo(io.Discard)
		}
		for _, test := range []struct {
			channel string
			kind    wire.Kind
			except  *Socket
			keep    bool
			want    int
		}{
			{"none", wire.KindPublic, nil, true, 0}, {"private-one", wire.KindPrivate, nil, true, 1}, {"private-two", wire.KindPrivate, nil, true, 2},
			{"private-one", wire.KindPrivate, id(a), true, 0}, {"private-one", wire.KindPrivate, id(b), true, 1}, {"private-one", wire.KindPrivate, id(a), false, 0},
			{"private-two", wire.KindPrivate, id(a), false, 1}, {"cache-one", wire.KindCache, nil, true, 0}, {"cache-one", wire.KindCache, nil, true, 0},
			{wire.UserChannelPrefix + "x", wire.KindUser, nil, true, 0},
		} {
			unheard := s.app.counts.unheard.Load()
			got := s.app.trigger(test.channel, test.kind, Event{name: []byte("e"), data: benchData, except: test.except, keep: test.keep})
			if got != test.want || (s.app.counts.unheard.Load() > unheard) != (got == 0) {
				t.Errorf("%+v: %d", test, got)
			}
		}
		if got := s.app.trigger("private-two", wire.KindPrivate, Event{name: []byte("e"), data: benchData, except: id(a), keep: true}); watched && got != 1 {
			t.Errorf("looked at closely: %d", got)
		}
	}
}
