package fallback

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edge/internal/conn"
	"edge/internal/wire"
)

// Sessions by themselves: clients over HTTP and the whole server are in the root's fallback_test.go.

// TestMostEarly: only so many requests wait for an earlier one, however soon that may come.
func TestMostEarly(t *testing.T) {
	s := &session{next: 1}
	for n := range uint64(maxEarly + 1) {
		if len(s.in) > 0 {
			t.Fatalf("the one that is missing is given up for %d", n)
		}
		s.arrivedLocked(n+2, [][]byte{{byte(n)}})
	}
	if len(s.in) != maxEarly+1 || len(s.early) != 0 {
		t.Errorf("%d have been handed on, %d wait", len(s.in), len(s.early))
	}
}

// TestSendersWait: while much has not been handled, those who have sent it wait for their answer, and so send no more.
func TestSendersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New(Options{Memory: conn.NewBudget(1 << 40)})
		s := &session{of: f, in: [][]byte{make([]byte, inboxFull)}, inbox: inboxFull}
		s.changed.L = &s.mu
		answered := make(chan error, 1)
		go func() { answered <- s.send(1, [][]byte{[]byte("x")}) }()
		synctest.Wait()
		if len(answered) > 0 {
			t.Error("it is answered at once")
		}
		began := time.Now()
		s.nextMessage()
		if err := <-answered; err != nil || time.Since(began) > 0 {
			t.Errorf("answered after %s: %v", time.Since(began), err)
		}
	})
}

// TestEnter: sessions are found by their name, those of one network are bounded, and of what has gone nothing is kept.
func TestEnter(t *testing.T) {
	open := func(*http.Request, string, net.Conn) (*conn.Conn, func(feed func())) { return new(conn.Conn), nil }
	f := New(Options{Memory: conn.NewBudget(0), Open: open})
	enter := func(name, remote string) *session {
		r := httptest.NewRequest("POST", "/", nil)
		r.RemoteAddr = remote
		s, _ := f.enter(r, "key", name)
		return s
	}
	for _, test := range [][3]string{ // two addresses of one network and one of another
		{"192.0.2.1:1", "[::ffff:192.0.2.1]:2", "192.0.2.2:1"},
		{"[2001:db8:1:2:3:4:5:6]:1", "[2001:db8:1:2::]:1", "[2001:db8:1:3::]:1"},
		{"[fe80::1%eth0]:1", "[fe80::2%eth1]:1", "[fe80:0:0:1::]:1"},
	} {
		var all []*session
		for i := range 16 {
			all = append(all, enter(fmt.Sprint(i), test[i&1]))
		}
		if enter("more", test[0]) != nil || enter("more", test[1]) != nil {
			t.Errorf("%s has more sessions than one network may have", test[0])
		}
		if enter("3", test[2]) != all[3] {
			t.Error("a session is not found")
		}
		all = append(all, enter("other", test[2]), enter("unix", "@"))
		for _, s := range all {
			s.endLocked()
			s.endLocked()
		}
		if len(f.sessions)+len(f.from) > 0 {
			t.Errorf("%d sessions, from %v", len(f.sessions), f.from)
		}
	}
}

// Whatever a client sends over HTTP, encoding/json would have read the same messages from it.
func FuzzSent(f *testing.F) {
	for _, seed := range []string{`[]`, `["x"]`, ` [ "a" , "b" ] `, `["\u00e9\ud83d\ude00\ud800"]`,
		`["{\"event\":\"pusher:ping\",\"data\":{}}"]`, `[""]`, `{}`, `["x",1]`, `[["x"]]`, `["x"`, `"x"`,
		`["` + strings.Repeat("x", 200) + `"]`, `["` + strings.Repeat("\\n", 70_000) + `"]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		messages, err := parseSent(body)
		var want []string
		if problem := json.Unmarshal(body, &want); err == nil && (problem != nil || want == nil) {
			t.Fatalf("%q is accepted: %v", body, problem)
		}
		if err != nil {
			if e := new(wire.Error); !errors.As(err, &e) || e.Status != 400 && e.Status != 413 || messages != nil {
				t.Fatalf("%q: %v and %d messages", body, err, len(messages))
			}
			return
		}
		same := func(got []byte, want string) bool { return got != nil && string(got) == want }
		if !slices.EqualFunc(messages, want, same) {
			t.Fatalf("%q: got %q, want %q", body, messages, want)
		}
	})
}
