package console

import (
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/wire"
)

// TestGuessing: wrong secrets are slowed down, the right one only where they come from, and never for long. The
// link opens the console once, for an hour.
func TestGuessing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(conn.ProcessStart) + 1) // in a bubble it is the year 2000: conn.Now must be positive
		c, app := testConsole(t, Options{})
		want := func(status, times int, place uint64, secret, link string) {
			t.Helper()
			for range times {
				_, err := c.begin(place, secret, strings.TrimPrefix(link, "#once="), "")
				if refused, ok := err.(*wire.Error); ok != (status != 200) || ok && refused.Status != status {
					t.Fatalf("%v, want %d", err, status)
				}
			}
		}
		want(200, 100, 0, edgetest.Secret, "")
		want(403, guessBurst, 0, "wrong", "")
		want(429, 1000, 0, "wrong", "")
		want(429, 1, 0, edgetest.Secret, "") // so that a guess cannot be told from no guess
		want(200, 1, 1, edgetest.Secret, "")
		time.Sleep(time.Second)
		want(200, 1, 0, edgetest.Secret, "")
		want(403, 1, 0, "wrong", "")
		want(429, 1, 0, "wrong", "")

		link := c.Link(accessTo(app))
		want(403, 1, 1, "", link+"0")
		time.Sleep(linkTime - time.Second)
		want(200, 1, 1, "", link)
		want(403, 1, 1, "", link)
		link = c.Link(accessTo(app))
		time.Sleep(linkTime)
		want(403, 1, 1, "", link)
		if n := len(c.sessions); n != mostSessions {
			t.Errorf("%d sessions", n)
		}
	})
}

// TestAddress: guesses count for who makes them, also behind a proxy.
func TestAddress(t *testing.T) {
	c, _ := testConsole(t, Options{Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), {}}}) // Unix too
	for _, test := range []struct{ remote, forwarded, want string }{
		{"10.0.0.9:1", "", "10.0.0.9"}, {"10.0.0.9:1", "1.2.3.4", "10.0.0.9"}, {"10.0.0.1:1", "1.2.3.4", "1.2.3.4"},
		{"[::1]:5", "", "::1"}, {"@", "1.2.3.4", "1.2.3.4"}, {"@", "", "@"},
	} {
		r := httptest.NewRequest("POST", "/console/login", nil)
		if r.RemoteAddr = test.remote; test.forwarded != "" {
			r.Header.Set("X-Forwarded-For", test.forwarded)
		}
		if got := c.address(r); got != test.want {
			t.Errorf("%v: %q", test, got)
		}
	}
}

// TestCookie: a name for each port, and over TLS for TLS only.
func TestCookie(t *testing.T) {
	for _, test := range []struct{ url, proto, want string }{
		{"http://a/", "", "edge-console=x; HttpOnly; SameSite=Strict"},
		{"http://a:6001/", "", "edge-console-6001=x; HttpOnly; SameSite=Strict"},
		{"http://[::1]:6001/", "https", "edge-console-6001=x; HttpOnly; Secure; SameSite=Strict"},
		{"https://a/", "", "edge-console=x; HttpOnly; Secure; SameSite=Strict"},
	} {
		r := httptest.NewRequest("POST", test.url, nil)
		r.Header.Set("X-Forwarded-Proto", test.proto)
		if got := cookie(r, "x").String(); got != test.want {
			t.Errorf("%v: %s", test, got)
		}
	}
}

// TestLogout: nothing of a session is left when it has ended.
func TestLogout(t *testing.T) {
	c, _ := testConsole(t, Options{})
	r := signIn(t, c, "POST", "/console/logout")
	if w := serve(c, r); w.Code != 200 || w.Body.String() != "{}" || len(c.sessions) != 0 {
		t.Errorf("%d %s, %d sessions", w.Code, w.Body, len(c.sessions))
	}
	if w := serve(c, r); w.Code != 401 {
		t.Errorf("again: %d %s", w.Code, w.Body)
	}
}
