package api

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/wire"
)

// TestMain fails if goroutines are left when the tests are over.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := edgetest.Leaked(); left != "" && code == 0 {
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// TestServe: no handler runs when the check fails, and what is answered is reported, with its caller.
func TestServe(t *testing.T) {
	app := channel.NewApp(conn.NewBudget(1<<30), channel.Limits{ChannelName: 200})
	var got string
	defer app.Observe(channel.AboutCalls|channel.AboutRejections, func(n channel.Notice) {
		got = fmt.Sprint(n.What, " ", n.Remote, " ", n.Event, " ", n.Code, " ", n.Reason)
	})()
	proxies := []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")} // httptest's
	var wrong error
	check := func(c *Call) error {
		c.App = app
		return wrong
	}
	forbidden := &wire.Error{Status: http.StatusForbidden, Text: "no"}
	for _, test := range []struct {
		wrong  error
		status int
		answer string
		notice string
	}{
		{nil, 200, `{"channels":{}}`, "call 1.2.3.4 GET /x 200 "},
		{forbidden, 403, "no\n", "refused 1.2.3.4 GET /x 403 no"},
		{fmt.Errorf("later"), 500, "later\n", "refused 1.2.3.4 GET /x 500 later"},
	} {
		got, wrong = "", test.wrong
		w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/x", strings.NewReader(""))
		r.Header.Set("X-Forwarded-For", "1.2.3.4")
		Routes[2].Serve(check, proxies)(w, r)
		if w.Code != test.status || w.Body.String() != test.answer || got != test.notice {
			t.Errorf("%+v: %d %q, reported as %q", test, w.Code, w.Body, got)
		}
	}
}
