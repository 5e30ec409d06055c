package main

// Tests of what ends within the process: handlers that panic, clocks that jump. What is seen from outside is in test.

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/logs"
	"edge/internal/sign"
	"edge/internal/wire"
)

// answerPings reads what c gets until its end, answers pings and returns the code of the close frame, 0 without one.
func (c *peer) answerPings(each func(frame string)) (code int) {
	for {
		opcode, payload, err := c.readFrame()
		switch {
		case err != nil:
			return code
		case opcode == conn.OpPing:
			c.conn.Write(maskedFrame(0x80|conn.OpPong, payload))
		case opcode == conn.OpClose && len(payload) >= 2:
			code = int(payload[0])<<8 | int(payload[1])
		default:
			each(string(payload))
		}
	}
}

// TestShutdownFlushes: what was acknowledged reaches those whom the pump has not come to when the end begins.
func TestShutdownFlushes(t *testing.T) {
	s := startServer(t)
	first := connect(t, s.addr)
	first.join("room")
	readers := make([]*peer, 20)
	for i := range readers {
		readers[i] = connect(t, s.addr)
		readers[i].join("room")
	}
	_, goOn := s.app.stopPump("e")
	publish(t, s.addr, "room", "e", "x")
	var stopped sync.WaitGroup
	stopped.Go(s.stop)
	time.Sleep(200 * time.Millisecond) // lets it go on, if it does not wait
	goOn()
	for _, c := range append(readers, first) {
		c.expect(event("e", "room", "x"))
		c.expectClose(wire.CodeReconnect)
	}
	stopped.Wait()
}

// Panics

// grenade is a log that panics at a word.
type grenade string

func (g grenade) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(g)) {
		panic("a test wants it")
	}
	return len(p), nil
}

func frameOf(text string) []byte { return wire.SealFrame(append(wire.OpenFrame(nil), text...), 0) }

// Whose connections end with a panic.
const (
	endsNone = iota
	endsVictim
	endsRoom
)

// scene is what a panic happens in.
type scene struct {
	*testServer
	t      *testing.T
	victim *peer
	socket *channel.Socket
}

// panics make each kind of goroutine and callback panic: by the word at which the log does, or by something missing.
var panics = []struct {
	name string
	ends int
	code int // of the close frame; 0 for none
	do   func(x scene)
}{
	{"a message", endsVictim, conn.CloseInternal, func(x scene) { x.victim.subscribe("explode", "") }},
	{"the end of a connection", endsVictim, wire.CodePongMissing, func(x scene) {
		x.socket.Mu.Lock()
		defer x.socket.Mu.Unlock()
		x.socket.Conn.Remote = netip.MustParseAddrPort("[fe80::1%explode]:1") // which it logs
		x.socket.Conn.Heard.Store(conn.Now() - int64(2*time.Hour))
		clientOf(x.socket).pinged = conn.Now() - int64(time.Hour)
		clientOf(x.socket).timer.Reset(0)
	}},
	{"a channel that is left", endsVictim, 0, func(x scene) {
		x.socket.Mu.Lock()
		defer x.socket.Mu.Unlock()
		x.socket.Subscriptions = slices.Insert(x.socket.Subscriptions, 1, nil) // the others must be left all the same
		x.victim.conn.(*net.TCPConn).SetLinger(0)
		x.victim.leave()
	}},
	{"a handshake", endsNone, 0, func(x scene) {
		c := dial(x.t, x.addr)
		io.WriteString(c, strings.Replace(httpUpgrade, "/app/key", "/app/explode", 1))
		if got, err := io.ReadAll(c); err != nil {
			x.t.Errorf("not ended: %q %v", got, err)
		}
	}},
	{"a request", endsNone, 0, func(x scene) {
		if r, err := http.Get("http://" + x.addr + "/apps/1/channels/explode"); err == nil {
			r.Body.Close()
			x.t.Errorf("answered with %s", r.Status)
		}
	}},
	{"a round", endsRoom, conn.CloseInternal, func(x scene) { publish(x.t, x.addr, "room", "explode", "") }},
	{"a message over HTTP", endsNone, 0, func(x scene) {
		p := pageTo(x.t, x.addr)
		stream := p.stream()
		p.say(p.subscribing("explode", ""))
		stream.expect(`c[1011,"internal error"]`)
	}},
	{"the goroutine that sends", endsNone, 0, func(x scene) {
		p := pageTo(x.t, x.addr)
		stream := p.stream()
		id, _ := wire.ParseSocketID(p.id)
		x.app.Socket(id).Conn.Write([]byte{0x80 | conn.OpText}) // half a frame, of which it makes a line
		stream.expect(`c[4100,"` + tooSlowOverHTTP + `"]`)
	}},
	{"the goroutine of a webhook", endsNone, 0, func(x scene) {
		x.app.Notify(channel.Notice{About: channel.AboutLevels, What: wire.HookCacheMiss, Channel: "cache-harm"}) // that it fails is logged, with the word in its address
	}},
	{"the memory budget", endsNone, 0, func(x scene) {
		b := x.app.Conns.Memory
		b.Hold(new(conn.Holding), b.Total, false)
	}},
	{"the lines that are printed", endsNone, 0, func(x scene) {
		l := logs.NewWriter(grenade("explode"), false)
		io.WriteString(l, "explode\n")
		l.Close()
		slog.Error("panic") // there is nowhere to say it
	}},
}

// TestPanic: a panic ends what it is in: a connection, those of a channel, or nothing but one attempt. Nothing of them
// stays behind, it is logged once, and all else goes on.
func TestPanic(t *testing.T) {
	for _, test := range panics {
		t.Run(test.name, func(t *testing.T) {
			logged := new(syncBuffer)
			log.SetOutput(logged)
			t.Cleanup(func() { log.SetOutput(errorOutput) })
			told := edgetest.NewReceiver(t)
			hook := httptest.NewServer(failingOnce(told))
			t.Cleanup(hook.Close) // after the server has drained
			s := startServer(t, "-webhook", hook.URL+"/explode", "-webhook-grace", "0")
			s.logTo(grenade("explode"))
			other := connect(t, s.addr)
			other.enter("presence-x", `{"user_id":"other"}`)
			other.enter("elsewhere", "")
			connections, channels := s.app.Connections(), s.app.CountChannels()
			victim, socket := newVictim(t, s)
			fellow := connect(t, s.addr)
			fellow.enter("room", "")
			test.do(scene{s, t, victim, socket})
			panics := func() int {
				return strings.Count(logged.String(), "ERROR panic") + strings.Count(logged.String(), "http: panic")
			}
			waitUntil(t, "something has panicked", func() bool { return panics() > 0 })
			for i, c := range []*peer{victim, fellow} {
				if test.ends > i && test.code != 0 {
					c.expectCloseAmong(test.code)
				} else if test.ends <= i {
					publish(t, s.addr, "room", "after", "x")
					c.until(event("after", "room", "x"))
				}
				c.leave()
			}
			other.until(memberRemoved("presence-x", "victim"))
			waitUntil(t, "nothing of them is left", func() bool {
				return s.app.Connections() == connections && s.app.CountChannels() == channels
			})
			if n, want := panics(), 1+strings.Count(test.name, ", and "); n != want {
				t.Errorf("%d panics are logged, want %d:\n%s", n, want, logged.String())
			}
			late := connect(t, s.addr)
			for _, channel := range []string{"room", "cache-late"} {
				late.join(channel)
			}
			late.expect(cacheMiss("cache-late"))
			publish(t, s.addr, "elsewhere", "e", "x")
			other.until(event("e", "elsewhere", "x"))
			waitUntil(t, "webhooks tell what happens", func() bool {
				return slices.Contains(told.Got(), `{"name":"cache_miss","channel":"cache-late"}`)
			})
		})
	}
}

// failingOnce refuses what tells of the channel cache-harm.
func failingOnce(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if bytes.Contains(body, []byte("cache-harm")) {
			http.Error(w, "", http.StatusInternalServerError)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

// newVictim is a connection that takes part in everything.
func newVictim(t *testing.T, s *testServer) (*peer, *channel.Socket) {
	c := connect(t, s.addr)
	c.signIn(`{"id":"victim","watchlist":["other"]}`)
	c.arrived()
	for _, channel := range []string{"private-x", "room", "presence-x"} {
		c.enter(channel, `{"user_id":"victim"}`)
	}
	id, _ := wire.ParseSocketID(c.id)
	return c, s.app.Socket(id)
}

// expectCloseAmong reads up to the close frame, which must have this code, and the end.
func (c *peer) expectCloseAmong(code int) {
	c.t.Helper()
	if got := c.answerPings(func(string) {}); got != code {
		c.t.Errorf("closed with %d, want %d", got, code)
	}
}

// until reads frames up to this one.
func (c *peer) until(want string) {
	c.t.Helper()
	for c.text() != want {
	}
}

// The clock

// TestClockSteps: the wall clock of the server jumps. Requests signed by the new time pass, others are told how far it is off.
func TestClockSteps(t *testing.T) {
	s := startServer(t)
	c := connect(t, s.addr)
	c.join("room")
	var clock atomic.Int64 // seconds since 1970
	s.clock.now = func() time.Time { return time.Unix(clock.Load(), 0) }
	h := s.offlineHandler()
	start, year := time.Now(), 8766*time.Hour
	last := start
	for i, step := range []time.Duration{0, time.Hour, -time.Hour, 0, 10 * year, -10 * year, 10 * year, 0} {
		now := start.Add(step)
		clock.Store(now.Unix())
		name := fmt.Sprintf("e%d", i)
		if status, answer := publishAt(t, h, now, name); status != 200 {
			t.Errorf("%s: signed at the server's time: %d %s", step, status, answer)
		}
		c.expect(event(name, "room", "x"))
		if now != last {
			status, answer := publishAt(t, h, last, "late")
			if want := "off by " + now.Sub(last).Abs().String(); status != 401 || !strings.Contains(answer, want) ||
				!strings.Contains(answer, "server time ("+now.UTC().Format(time.RFC3339)) {
				t.Errorf("%s: signed at the time before: %d %s, want 401 and %q", step, status, answer, want)
			}
		}
		c.settled()
		last = now
	}
}

// publishAt triggers an event by a request that is signed at this time.
func publishAt(t *testing.T, h http.Handler, at time.Time, name string) (status int, answer string) {
	t.Helper()
	body := fmt.Sprintf(`{"name":%q,"channel":"room","data":"x"}`, name)
	ps, err := sign.ParseParams(nil, fmt.Sprintf("auth_key=key&auth_timestamp=%d&auth_version=1.0&body_md5=%x", at.Unix(), md5.Sum([]byte(body))))
	if err != nil {
		t.Fatal(err)
	}
	signature := testKey.Sign(nil, sign.RequestText(nil, "POST", "/apps/1/events", ps))
	query := fmt.Sprintf("auth_signature=%s", signature)
	for _, p := range ps {
		query += "&" + p.Name + "=" + p.Value
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", "/apps/1/events?"+query, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

// wallClock are the functions that read the wall clock, by the methods of time.Time that do. All else compares times that carry
// the monotonic clock, which no step moves.
var wallClock = map[string]bool{
	"auth.go checkTimestamp": true, // what the caller signed
	"auth.go read":           true, // what is logged
	"feed.go appendNotice":   true, // what is shown
	"metrics.go addProcess":  true, // process_start_time_seconds
	"remote.go call":         true, // auth_timestamp
	"certificate.go expiry":  true,
	"hook.go send":           true, // time_ms
}

// TestWallClock: nothing but what is known to need it looks at the wall clock.
func TestWallClock(t *testing.T) {
	files, _ := filepath.Glob("*.go")
	rooms, _ := filepath.Glob("internal/*/*.go")
	seen := 0
	for _, file := range append(files, rooms...) {
		if strings.HasSuffix(file, "_test.go") || strings.Contains(file, "edgetest") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && readsWallClock(f) {
				if place := filepath.Base(file) + " " + strings.ToLower(f.Name.Name[:1]) + f.Name.Name[1:]; wallClock[place] {
					seen++
				} else {
					t.Errorf("%s depends on the wall clock", place)
				}
			}
		}
	}
	if seen != len(wallClock) {
		t.Errorf("%d places, want %d", seen, len(wallClock))
	}
}

// readsWallClock reports whether f calls a method that drops the monotonic clock of a time, or makes a time without one.
func readsWallClock(f *ast.FuncDecl) (found bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			switch s.Sel.Name {
			case "Unix", "UnixMilli", "UnixMicro", "UnixNano", "AddDate", "Date", "Clock", "YearDay", "Weekday", "UTC", "Local", "In":
				found = true
			}
		}
		return true
	})
	return found
}
