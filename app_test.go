package main

import (
	"fmt"
	"io"
	"testing"

	"edge/internal/channel"
	"edge/internal/conn"
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

// TestNothingIsLeft has everyone who ever came leave again, one way or another.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel() // it waits for the cached event to expire
	s := startServer(t, "-subscription-count", "-cache-ttl=1s")
	var clients []*peer
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
	if s.app.Connections() < 20 || s.app.CountChannels() < 10 {
		t.Errorf("%d connections, %d channels", s.app.Connections(), s.app.CountChannels())
	}
	for i, c := range clients {
		if i%2 == 0 {
			c.raw(maskedFrame(0x80|conn.OpClose, nil))
		}
		c.leave()
	}
	waitUntil(t, "the tables are empty", func() bool { return gone(s.app) })
}

// TestReached: what counts as given to nobody, to the last subscriber.
func TestReached(t *testing.T) {
	s := startServer(t)
	a, b := connect(t, s.addr), connect(t, s.addr)
	for _, c := range []*peer{a, b} {
		c.join("private-two")
	}
	a.join("private-one")
	id := func(c *peer) *channel.Socket {
		n, _ := wire.ParseSocketID(c.id)
		return s.app.Socket(n)
	}
	for _, watched := range []bool{false, true} {
		if watched {
			s.logTo(io.Discard)
		}
		for _, test := range []struct {
			channel string
			kind    wire.Kind
			except  *channel.Socket
			keep    bool
			want    int
		}{
			{"none", wire.KindPublic, nil, true, 0}, {"private-one", wire.KindPrivate, nil, true, 1}, {"private-two", wire.KindPrivate, nil, true, 2},
			{"private-one", wire.KindPrivate, id(a), true, 0}, {"private-one", wire.KindPrivate, id(b), true, 1}, {"private-one", wire.KindPrivate, id(a), false, 0},
			{"private-two", wire.KindPrivate, id(a), false, 1}, {"cache-one", wire.KindCache, nil, true, 0}, {"cache-one", wire.KindCache, nil, true, 0},
			{wire.UserChannelPrefix + "x", wire.KindUser, nil, true, 0},
		} {
			unheard := s.app.Counts.Unheard.Load()
			got := s.app.Trigger(test.channel, test.kind, channel.Event{Name: []byte("e"), Data: benchData, Except: test.except, Keep: test.keep})
			if got != test.want || (s.app.Counts.Unheard.Load() > unheard) != (got == 0) {
				t.Errorf("%+v: %d", test, got)
			}
		}
		if got := s.app.Trigger("private-two", wire.KindPrivate, channel.Event{Name: []byte("e"), Data: benchData, Except: id(a), Keep: true}); watched && got != 1 {
			t.Errorf("looked at closely: %d", got)
		}
	}
}

// gone reports whether nothing is left of anyone who was connected.
func gone(a *app) bool { return a.Connections()+a.CountChannels() == 0 }
