package main

// Clients over HTTP, with nothing but requests: what pusher-js does in a browser is in testdata/clients/browser.

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf16"

	"edge/internal/channel"
	"edge/internal/config"
	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/wire"
)

const (
	goneAfter       = 5 * time.Second // without a request that receives
	heartbeat       = 25 * time.Second
	tooManyOverHTTP = "Too many clients over HTTP, in all or from one address (behind a proxy: see -trusted-proxies)"
	tooSlowOverHTTP = "What was sent was not received in time"
)

// page is a client over HTTP that numbers its requests as pusher-js does.
type page struct {
	t    testing.TB
	dial func() net.Conn
	base string // of the session
	args string // for requests that receive
	n    int    // of the last request
	id   string // socket id

	sending net.Conn // kept alive
	answers *bufio.Reader
}

// newPage makes a client for the path of a WebSocket, like /app/key?protocol=7.
func newPage(t testing.TB, dial func() net.Conn, path string) *page {
	pages.Lock()
	defer pages.Unlock()
	pages.n++
	app, args, _ := strings.Cut(path, "?")
	return &page{t: t, dial: dial, base: fmt.Sprintf("/pusher%s/%d/%08d", app, pages.n%1000, pages.n), args: args}
}

// pageTo is newPage for a server.
func pageTo(t testing.TB, addr string) *page {
	return newPage(t, func() net.Conn { return dial(t, addr) }, keyPath)
}

var pages struct {
	sync.Mutex
	n int
}

// answer is that to a request that receives.
type answer struct {
	t    testing.TB
	conn net.Conn
	*http.Response
	in *bufio.Reader // the body
}

// receive sends a request that receives, and reads the head of the answer.
func (p *page) receive(what string) *answer {
	p.t.Helper()
	p.n++
	return p.receiveAs(what, p.n)
}

// receiveAs is receive with this number.
func (p *page) receiveAs(what string, n int) *answer {
	p.t.Helper()
	a, err := p.tryReceive(what, n, p.dial())
	if err != nil {
		p.t.Fatal(err)
	}
	return a
}

func (p *page) tryReceive(what string, n int, conn net.Conn) (*answer, error) {
	_, err := fmt.Fprintf(conn, "POST %s/%s?%s&t=1&n=%d HTTP/1.1\r\nHost: edge\r\nOrigin: http://page.example\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n", p.base, what, p.args, n)
	if err != nil {
		return nil, err
	}
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, err
	}
	if r.StatusCode != 200 {
		return nil, fmt.Errorf("%s: %s", what, r.Status)
	}
	return &answer{p.t, conn, r, bufio.NewReader(r.Body)}, nil
}

// send posts a body to xhr_send and returns the answer.
func (p *page) send(body string) (status int, text string) {
	p.t.Helper()
	p.n++
	return p.sendAs(p.n, body)
}

// sendAs is send with this number.
func (p *page) sendAs(n int, body string) (status int, text string) {
	p.t.Helper()
	if p.sending == nil {
		p.sending = p.dial()
		p.answers = bufio.NewReader(p.sending)
	}
	p.sending.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(p.sending, "POST %s/xhr_send?t=1&n=%d HTTP/1.1\r\nHost: edge\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", p.base, n, len(body), body)
	r, err := http.ReadResponse(p.answers, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	if r.Close {
		p.sending.Close()
		p.sending = nil
	}
	return r.StatusCode, string(b)
}

// say sends messages, which must be accepted.
func (p *page) say(messages ...string) {
	p.t.Helper()
	body, _ := json.Marshal(messages)
	if messages == nil {
		body = []byte("[]")
	}
	if status, text := p.send(string(body)); status != http.StatusNoContent {
		p.t.Fatalf("xhr_send of %s: %d %s", body, status, text)
	}
}

// line reads a line; "" is the end of the answer.
func (a *answer) line() string {
	a.t.Helper()
	line, err := a.in.ReadString('\n')
	if err == io.EOF && line == "" {
		return ""
	}
	if err != nil {
		a.t.Fatalf("after %q: %v", line, err)
	}
	lookForSecret("a line", []byte(line))
	return strings.TrimSuffix(line, "\n")
}

// expect reads lines and compares them.
func (a *answer) expect(want ...string) {
	a.t.Helper()
	for _, w := range want {
		if got := a.line(); got != w {
			a.t.Fatalf("got  %s\nwant %s", got, w)
		}
	}
}

// expectEnd expects the answer to end, in order.
func (a *answer) expectEnd() {
	a.t.Helper()
	if got := a.line(); got != "" {
		a.t.Fatalf("got %s, want the end", got)
	}
}

// rest reads to the end of the answer.
func (a *answer) rest() (lines []string) {
	a.t.Helper()
	for line := a.line(); line != ""; line = a.line() {
		lines = append(lines, line)
	}
	return lines
}

// hangUp ends the connection as a browser does when a request is aborted.
func (a *answer) hangUp() { a.conn.Close() }

// said is the line for a message.
func said(message string) string { return "a[" + string(quote(message)) + "]" }

// established reads the first two lines.
func (p *page) established(a *answer) {
	p.t.Helper()
	a.expect("o")
	c := &peer{t: p.t}
	c.conn, c.in = nil, bufio.NewReader(strings.NewReader(string(plainFrames(p.t, a.line()))))
	c.established()
	p.id = c.id
}

// stream opens the session with a stream.
func (p *page) stream() *answer {
	p.t.Helper()
	a := p.receive("xhr_streaming")
	p.established(a)
	return a
}

// poll opens the session by polling, until it is established.
func (p *page) poll() {
	p.t.Helper()
	a := p.receive("xhr")
	p.established(a)
	a.expectEnd()
	a.hangUp()
}

// streamOf opens the session with a stream, and subscribes.
func (p *page) streamOf(channel string) *answer {
	p.t.Helper()
	a := p.stream()
	p.say(p.subscribing(channel, ""))
	a.expect(said(succeeded(channel)))
	return a
}

// pollOf opens the session by polling, and subscribes.
func (p *page) pollOf(channel string) {
	p.t.Helper()
	p.poll()
	p.say(p.subscribing(channel, ""))
	p.polled()
}

// polled is a whole answer to a poll.
func (p *page) polled() []string {
	p.t.Helper()
	a := p.receive("xhr")
	defer a.hangUp()
	return a.rest()
}

// token signs a subscription.
func (p *page) token(channel, channelData string) string {
	return (&peer{id: p.id}).token(channel, channelData)
}

// subscribing is the message that subscribes.
func (p *page) subscribing(channel, channelData string) string {
	data, _ := json.Marshal(map[string]string{"channel": channel, "auth": p.token(channel, channelData), "channel_data": channelData})
	return fmt.Sprintf(`{"event":"pusher:subscribe","data":%s}`, data)
}

// plainFrames are the WebSocket frames that a line stands for.
func plainFrames(t testing.TB, line string) (frames []byte) {
	t.Helper()
	switch {
	case strings.HasPrefix(line, "a["):
		var messages []string
		if err := json.Unmarshal([]byte(line[1:]), &messages); err != nil {
			t.Errorf("line %s: %v", line, err)
		}
		for _, m := range messages {
			start := len(frames)
			frames = wire.SealFrame(append(wire.OpenFrame(frames), m...), start)
		}
	case strings.HasPrefix(line, "c["):
		var code int
		var reason string
		if err := json.Unmarshal([]byte(line[1:]), &[]any{&code, &reason}); err != nil {
			t.Errorf("line %s: %v", line, err)
		}
		frames = closeFrame(code, reason)
	default:
		t.Errorf("line %q", line)
	}
	return frames
}

// tunnel is the connection of a client that speaks WebSocket to the test and HTTP to edge.
type tunnel struct {
	net.Conn // the last that receives
	page     *page
	read     *io.PipeReader
	lines    *io.PipeWriter
	unsent   []byte // of a message that is not whole

	mu   sync.Mutex // guards the following, and Conn
	left bool
}

// client makes the page a client whose requests that receive are of this kind.
func (p *page) client(what string) *edgetest.Client {
	p.t.Helper()
	tu := &tunnel{page: p}
	tu.read, tu.lines = io.Pipe()
	p.n = 1
	first := p.receiveAs(what, 1)
	first.expect("o")
	tu.Conn = first.conn
	var reading sync.WaitGroup
	reading.Go(func() { tu.receive(what, first) })
	p.t.Cleanup(func() {
		tu.Close()
		reading.Wait()
	})
	return &edgetest.Client{T: p.t, Conn: tu, In: bufio.NewReader(tu.read)}
}

// receive hands on the lines of one answer, or when polling of one after the other, until the last.
func (tu *tunnel) receive(what string, a *answer) {
	defer tu.lines.Close()
	for {
		line, err := a.in.ReadString('\n')
		switch {
		case line == "h\n" || line == "a[]\n":
			continue
		case line == "o\n":
			return // the session was lost
		case err == nil:
			if tu.lines.Write(plainFrames(tu.page.t, strings.TrimSuffix(line, "\n"))); line[0] == 'c' {
				return
			}
			continue
		}
		a.conn.Close()
		if err != io.EOF || what != "xhr" || tu.gone() {
			return
		}
		next := tu.page.dial()
		tu.mu.Lock()
		if tu.Conn = next; tu.left {
			next.Close()
		}
		tu.mu.Unlock()
		if a, err = tu.page.tryReceive(what, 0, next); err != nil {
			return
		}
	}
}

func (tu *tunnel) gone() bool {
	tu.mu.Lock()
	defer tu.mu.Unlock()
	return tu.left
}

func (tu *tunnel) Read(p []byte) (int, error) { return tu.read.Read(p) }

// Write takes whole frames of a client, none within a message of another, of which only messages can travel.
func (tu *tunnel) Write(p []byte) (int, error) {
	if tu.gone() {
		return 0, net.ErrClosed
	}
	var messages []string
	for rest := p; len(rest) > 0; {
		first, n, at := rest[0], int(rest[1]&0x7f), 2
		if n == 126 {
			n, at = int(binary.BigEndian.Uint16(rest[2:])), 4
		}
		key, payload := rest[at:at+4], rest[at+4:at+4+n]
		for i, b := range payload {
			tu.unsent = append(tu.unsent, b^key[i&3])
		}
		if first == 0x80|conn.OpText || first == 0x80|conn.OpContinuation {
			messages = append(messages, string(tu.unsent))
		}
		if first&0x80 != 0 {
			tu.unsent = nil
		}
		rest = rest[at+4+n:]
	}
	body, _ := json.Marshal(messages)
	if len(messages) > 0 {
		tu.page.send(string(body)) // to a client that is closed already it is all the same
	}
	return len(p), nil
}

func (tu *tunnel) Close() error {
	tu.mu.Lock()
	defer tu.mu.Unlock()
	tu.left = true
	tu.lines.Close()
	return tu.Conn.Close()
}

// TestProtocolOverHTTP plays the protocol's scripts: a client over HTTP is a client like any other.
func TestProtocolOverHTTP(t *testing.T) {
	for _, what := range []string{"xhr_streaming", "xhr"} {
		t.Run(what, func(t *testing.T) {
			edgetest.Scenes(t, "testdata/protocol", func(t *testing.T, s *edgetest.Scene) {
				if s.Bare || s.Timed { // who leaves over HTTP has gone five seconds later
					t.Skip("over a WebSocket only")
				}
				synctest.Test(t, func(t *testing.T) {
					_, dial := serverInBubble(t, s.Flags...)
					open := func(path string) *edgetest.Client { return newPage(t, dial, path).client(what) }
					s.Play(t, edgetest.Stage{Dial: dial, Open: open, Quiet: synctest.Wait})
				})
			})
		})
	}
}

func TestFallbackRequests(t *testing.T) {
	s := startServer(t)
	const session = "/pusher/app/key/1/abcdefgh"
	open := pageTo(t, s.addr)
	open.stream()
	for _, test := range []struct {
		method, path, body string
		status             int
		answer             string // contains
	}{
		{"OPTIONS", session + "/xhr", "", 204, ""},
		{"OPTIONS", session + "/xhr_streaming?protocol=7", "", 204, ""},
		{"OPTIONS", session + "/xhr_send?t=1&n=1", "", 204, ""},
		{"OPTIONS", "/pusher/app/key/007/abcdefgh/xhr", "", 204, ""},
		{"OPTIONS", session, "", 404, "not found"},
		{"OPTIONS", "/pusher/app/key/-1/abcdefgh/xhr", "", 404, "not found"},
		{"GET", session + "/xhr", "", 405, "POST"},
		{"PUT", session + "/xhr_send", "", 405, "POST"},
		{"GET", "/pusher/info", "", 404, "not found"},
		{"GET", "/pusher/info?t=1", "", 404, "not found"},
		{"POST", "/pusher", "", 404, "not found"},
		{"POST", "/pusher/", "", 404, "not found"},
		{"POST", "/pusher/iframe.html", "", 404, "not found"},
		{"POST", session + "/xhr/", "", 404, "not found"},
		{"POST", session + "/jsonp", "", 404, "not found"},
		{"POST", session + "/more/xhr", "", 404, "not found"},
		{"POST", "/pusher/app/key/1/short/xhr", "", 404, "not found"},
		{"POST", "/pusher/app/key/1/" + strings.Repeat("x", 65) + "/xhr", "", 404, "not found"},
		{"POST", "/pusher/app/key/1/abcdefg%21/xhr", "", 404, "not found"},
		{"POST", "/pusher/app/key/x/abcdefgh/xhr", "", 404, "not found"},
		{"POST", "/pusher/app/key/1000/abcdefgh/xhr", "", 404, "not found"},
		{"POST", session + "/xhr?protocol=7", "[]", 413, "no body"},
		{"POST", session + "/xhr_send", "[]", 404, "unknown session"},
		{"POST", open.base + "/xhr_send", "", 400, "expected an array"},
		{"POST", open.base + "/xhr_send", "{}", 400, "expected an array of strings"},
		{"POST", open.base + "/xhr_send", `"x"`, 400, "expected an array of strings"},
		{"POST", open.base + "/xhr_send", "[1]", 400, "strings only"},
		{"POST", open.base + "/xhr_send", `[["x"]]`, 400, "nested"},
		{"POST", open.base + "/xhr_send", `["x",null]`, 400, "strings only"},
		{"POST", open.base + "/xhr_send", `["x"`, 400, "invalid JSON: unexpected end of array at the end"},
		{"POST", open.base + "/xhr_send", "[\"\xff\"]", 400, "not UTF-8"},
		{"POST", open.base + "/xhr_send", "[" + strings.Repeat(`"",`, 100) + `""]`, 400, "at most 100"},
		{"POST", open.base + "/xhr_send", `["` + strings.Repeat("x", conn.MaxPayload+1) + `"]`, 413, "at most 32759 bytes"},
		{"POST", open.base + "/xhr_send", `["` + strings.Repeat("x", 256<<10) + `"]`, 413, "exceeds"},
		{"POST", open.base + "/xhr_send", "[]", 204, ""},
		{"POST", open.base + "/xhr_send?n=x", " [ ] ", 204, ""},
		{"POST", open.base + "/xhr_send?n=-1", `[""]`, 204, ""},
	} {
		r, _ := http.NewRequest(test.method, "http://"+s.addr+test.path, strings.NewReader(test.body))
		r.Header.Set("Origin", "http://page.example")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		name := fmt.Sprintf("%s %.60s with %.40q: %d %q", test.method, test.path, test.body, resp.StatusCode, b)
		if resp.StatusCode != test.status || !strings.Contains(string(b), test.answer) || test.status == 204 && len(b) > 0 {
			t.Errorf("%s, want %d %s", name, test.status, test.answer)
		}
		if test.path != "/pusher" && resp.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: no page would get to see it", name)
		}
		if test.method == "OPTIONS" && test.status == 204 &&
			(resp.Header.Get("Access-Control-Allow-Methods") != "POST, OPTIONS" || resp.Header.Get("Access-Control-Allow-Headers") != "content-type") {
			t.Errorf("%s: a browser would not send the request after it: %v", name, resp.Header)
		}
	}
}

// TestFallbackHeaders: nothing on the way may keep lines back.
func TestFallbackHeaders(t *testing.T) {
	addr := startEdge(t)
	for _, what := range []string{"xhr_streaming", "xhr"} {
		p := pageTo(t, addr)
		a := p.receive(what)
		for name, want := range map[string]string{
			"Content-Type":                "application/javascript; charset=utf-8",
			"Cache-Control":               "no-store, no-transform",
			"X-Accel-Buffering":           "no",
			"X-Content-Type-Options":      "nosniff",
			"Access-Control-Allow-Origin": "*",
		} {
			if got := a.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", what, name, got, want)
			}
		}
	}
}

// TestFallbackRefusals: a code counts for pusher-js only after o, and only with status 200.
func TestFallbackRefusals(t *testing.T) {
	s := startServer(t, "-origins", "page.example", "-max-connections", "1")
	pageTo(t, s.addr).stream()
	other := startServer(t, "-origins", "other.example")
	for _, test := range []struct {
		addr, path string
		code       int
	}{
		{s.addr, "/app/nokey?protocol=7", 4001},
		{s.addr, "/app/key?client=js", 4008},
		{s.addr, "/app/key?protocol=x", 4006},
		{s.addr, "/app/key?protocol=8", 4007},
		{s.addr, keyPath, 4004},
		{other.addr, keyPath, 4009},
	} {
		for _, what := range []string{"xhr_streaming", "xhr"} {
			p := newPage(t, func() net.Conn { return dial(t, test.addr) }, test.path)
			var lines []string
			for len(lines) < 3 { // a poll may take them in turn
				lines = append(lines, p.receive(what).rest()...)
			}
			frames := plainFrames(t, lines[1])
			_, event, _ := conn.NextServerFrame(frames)
			_, end, _ := conn.NextServerFrame(plainFrames(t, lines[2]))
			if lines[0] != "o" || !strings.Contains(string(event), fmt.Sprintf(`"pusher:error","data":{"code":%d,`, test.code)) || int(end[0])<<8|int(end[1]) != test.code {
				t.Errorf("%s of %s: got %q, want %d", what, test.path, lines, test.code)
			}
		}
	}
	waitUntil(t, "the refused have gone", func() bool { return gone(other.app) })
}

// TestFallbackAmongOthers: clients over HTTP and over WebSockets are together in channels, and an answer may have many lines.
func TestFallbackAmongOthers(t *testing.T) {
	s := startServer(t)
	var log syncBuffer
	s.logTo(&log)
	p := pageTo(t, s.addr)
	stream := p.stream()
	q := pageTo(t, s.addr)
	q.poll()
	c := connect(t, s.addr)
	c.subscribe("presence-x", `{"user_id":"c"}`)
	c.expect(snapshot("presence-x", "c", "{}"))
	p.say(p.subscribing("presence-x", `{"user_id":"p"}`), p.subscribing("room", ""))
	c.expect(memberAdded("presence-x", "p", "{}"))
	if got := stream.line(); !strings.Contains(got, `\"count\\\":2`) {
		t.Errorf("the members are %s", got)
	}
	stream.expect(said(succeeded("room")))
	q.say(q.subscribing("room", ""))
	if got := q.polled(); len(got) != 1 || got[0] != said(succeeded("room")) {
		t.Errorf("polled %q", got)
	}
	p.say(`{"event":"client-x","channel":"presence-x","data":"hello"}`)
	if got := c.text(); !strings.Contains(got, `"client-x"`) || !strings.Contains(got, `"user_id":"p"`) {
		t.Errorf("client event %s", got)
	}
	for i := range 5 {
		publish(t, s.addr, "room", "e", fmt.Sprint(i))
		stream.expect(said(event("e", "room", fmt.Sprint(i))))
	}
	var got []string
	for len(got) < 5 {
		got = append(got, q.polled()...)
	}
	for i, line := range got {
		if line != said(event("e", "room", fmt.Sprint(i))) {
			t.Errorf("polled %q", got)
		}
	}
	p.say()
	stream.expect("a[]")
	if n := s.app.Connections(); n != 3 {
		t.Errorf("%d connections are counted", n)
	}
	for _, want := range []string{"connected", "subscribed", "pusher_internal:subscription_succeeded", "client=127.0.0.1:"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("-verbose does not say %q", want)
		}
	}
	if page := s.metricsPage(); !strings.Contains(page, "edge_connected{app_id=\"\"} 3\n") {
		t.Errorf("metrics: %s", page)
	}
	stream.hangUp()
	c.expect(memberRemoved("presence-x", "p"))
}

// TestFallbackGap: who does not ask for lines for five seconds has gone, and who comes back then learns it.
func TestFallbackGap(t *testing.T) {
	for _, what := range []string{"xhr_streaming", "xhr"} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, dial := serverInBubble(t)
				c := connectInBubble(t, dial, nil)
				c.subscribe("presence-x", `{"user_id":"c"}`)
				c.expect(snapshot("presence-x", "c", "{}"))
				p := newPage(t, dial, keyPath)
				p.poll()
				p.say(p.subscribing("presence-x", `{"user_id":"p"}`))
				p.polled()
				c.expect(memberAdded("presence-x", "p", "{}"))
				for range 3 {
					time.Sleep(goneAfter - time.Millisecond)
					a := p.dialled(what)
					synctest.Wait()
					a.Close() // as when a page is closed
				}
				last := time.Now()
				c.expect(memberRemoved("presence-x", "p"))
				if gone := time.Since(last); gone != goneAfter {
					t.Errorf("left after %s", gone)
				}
				p.receive("xhr").expect("o")
				if status, _ := newPage(t, dial, keyPath).send("[]"); status != 404 {
					t.Errorf("a session that never was takes messages: %d", status)
				}
			})
		})
	}
}

// dialled sends a request that receives and does not wait for the answer.
func (p *page) dialled(what string) net.Conn {
	conn := p.dial()
	p.n++
	fmt.Fprintf(conn, "POST %s/%s?%s&n=%d HTTP/1.1\r\nHost: edge\r\nContent-Length: 0\r\n\r\n", p.base, what, p.args, p.n)
	return conn
}

// TestFallbackHeartbeat: every answer has something to say within 25 s, and who answers heartbeats stays.
func TestFallbackHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, dial := serverInBubble(t)
		p, silent := newPage(t, dial, keyPath), newPage(t, dial, keyPath)
		stream, mute := p.stream(), silent.stream()
		last := time.Now()
		var lines []string
		var reading sync.WaitGroup
		reading.Go(func() { lines = mute.rest() })
		for range 20 {
			stream.expect("h")
			if since := time.Since(last); since != heartbeat {
				t.Errorf("h after %s", since)
			}
			last = time.Now()
			p.say()
			stream.expect("a[]")
		}
		reading.Wait()
		if want := "h h h h h h c[4201,\"Pong reply not received\"]"; strings.Join(lines, " ") != want { // one of them is the Socket's ping
			t.Errorf("one that does not answer was told %q, want %s", lines, want)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		_, dial := serverInBubble(t)
		p := newPage(t, dial, keyPath)
		p.poll()
		for range 20 {
			last := time.Now()
			if got := p.polled(); len(got) != 1 || got[0] != "h" || time.Since(last) > heartbeat {
				t.Fatalf("polled %q after %s", got, time.Since(last))
			}
		}
	})
}

// TestFallbackReopen: pusher-js reopens a stream at the end of the line with which it has more than 256 Ki UTF-16 units. What is
// written behind that line would be lost.
func TestFallbackReopen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dial := serverInBubble(t, "-send-buffer", "100000000")
		p := newPage(t, dial, keyPath)
		stream := p.receive("xhr_streaming")
		read := 0 // units
		line := func() string {
			line := stream.line()
			read += len(utf16.Encode([]rune(line + "\n")))
			return line
		}
		line()
		p.established(&answer{t: t, in: bufio.NewReader(strings.NewReader("o\n" + line() + "\n"))})
		p.say(p.subscribing("room", ""))
		line()
		text := strings.Repeat("😀ä", 1500) // 12,000 bytes of JSON, 4,500 units
		const events = 200
		var publishing sync.WaitGroup
		publishing.Go(func() {
			for i := range events {
				s.apps.Load().all[0].Trigger("room", wire.KindPublic, channel.Event{Name: []byte(fmt.Sprint(i)), Data: quote(text), Keep: true})
			}
		})
		defer publishing.Wait()
		streams := 1
		for i := range events {
			if want, got := said(event(fmt.Sprint(i), "room", text)), line(); got != want {
				t.Fatalf("event %d over stream %d: got %.100s", i, streams, got)
			}
			if read > 256<<10 {
				old := stream
				stream = p.receive("xhr_streaming")
				if rest := old.rest(); len(rest) > 0 {
					t.Fatalf("%d lines came after a client would have reopened the stream: %.100q", len(rest), rest)
				}
				old.hangUp()
				read, streams = 0, streams+1
			}
		}
		if streams != 4 {
			t.Errorf("%d streams", streams)
		}
	})
}

// TestFallbackNotReopened: a stream goes on after five seconds if the client is one that does not know it should reopen it.
func TestFallbackNotReopened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dial := serverInBubble(t)
		p := newPage(t, dial, keyPath)
		stream := p.stream()
		socket := onlySocket(t, s)
		message := strings.Repeat("x", 300<<10)
		socket.Write(frameOf(message))
		socket.Write(frameOf("next"))
		socket.Write(frameOf("and next"))
		stream.expect(said(message))
		began := time.Now()
		stream.expect(said("next"))
		if since := time.Since(began); since != goneAfter {
			t.Errorf("after %s", since)
		}
		stream.expect(said("and next"))
		if since := time.Since(began); since != goneAfter {
			t.Errorf("the one after that came after %s", since)
		}
	})
	synctest.Test(t, func(t *testing.T) { // to a poll it is the same: what is behind a long line comes with the next
		s, dial := serverInBubble(t)
		p := newPage(t, dial, keyPath)
		p.poll()
		message := strings.Repeat("x", 300<<10)
		onlySocket(t, s).Write(append(frameOf(message), frameOf("next")...))
		if got := p.polled(); len(got) != 1 || got[0] != said(message) {
			t.Errorf("polled %d lines", len(got))
		}
		if got := p.polled(); len(got) != 1 || got[0] != said("next") {
			t.Errorf("polled %.100q", got)
		}
	})
}

// onlySocket is the only client's.
func onlySocket(t *testing.T, s *server) *channel.Socket {
	t.Helper()
	all := s.apps.Load().all[0].AllSockets()
	if len(all) == 0 {
		t.Fatal("nobody is connected")
	}
	return all[0]
}

// TestFallbackNewestWins: a request that receives takes the place of the one before, which ends in order and without a word.
func TestFallbackNewestWins(t *testing.T) {
	s := startServer(t)
	p := pageTo(t, s.addr)
	stream := p.streamOf("room")
	for i, what := range []string{"xhr_streaming", "xhr_streaming", "xhr"} {
		next := make(chan *answer)
		go func() { // ends with the answer
			a, _ := p.tryReceive(what, 100+i, p.dial())
			next <- a
		}()
		stream.expectEnd()
		publish(t, s.addr, "room", "e", "x")
		stream = <-next
		stream.expect(said(event("e", "room", "x")))
	}
	stream.expectEnd()
}

// TestFallbackRepeatedPoll: a browser repeats a poll when the connection broke before the answer. It gets the lines that were lost.
func TestFallbackRepeatedPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dial := serverInBubble(t)
		p := newPage(t, dial, keyPath)
		p.poll()
		p.say(p.subscribing("room", ""))
		first := p.receive("xhr").rest()
		socket := onlySocket(t, s)
		socket.Write(frameOf("next"))
		synctest.Wait()
		if got, want := p.receiveAs("xhr", p.n).rest(), append(first, said("next")); !slices.Equal(got, want) {
			t.Errorf("repeated: got %q, want %q", got, want)
		}
		socket.Write(frameOf("last"))
		if got := p.polled(); !slices.Equal(got, []string{said("last")}) {
			t.Errorf("afterwards: %q", got)
		}
	})
}

// TestFallbackOrder: messages are handled in the order of their numbers, if the earlier ones come in time.
func TestFallbackOrder(t *testing.T) {
	for _, test := range []struct {
		name string
		sent string // numbers behind the session's first, the digit 0 for none; a dot stands for 100 ms, p for a poll with that number
		want string
	}{
		{"in order", "123", "123"},
		{"overtaken", "213", "123"},
		{"all turned round", "54321", "12345"},
		{"in time", "3....12", "123"},
		{"too late", "3......12", "312"},
		{"the others need not wait", "3.....45.12", "34512"},
		{"two gaps at once", "24......1", "241"},
		{"a gap before what has waited for longer", "4..2....13", "2413"},
		{"nor is it longer for those that come meanwhile", "3..4..5..12", "34512"},
		{"a poll has a number too", "1p23", "13"},
		{"a poll overtakes", "p312.4", "124"},
		{"repeated", "1122.33", "123"},
		{"repeated while early", "22113", "123"},
		{"without a number", "0030012", "0000123"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, dial := serverInBubble(t)
				c := connectInBubble(t, dial, nil)
				c.join("private-x")
				p := newPage(t, dial, keyPath)
				p.pollOf("private-x")
				first, want := p.n, ""
				for i, sent := 0, test.sent; i < len(sent); i++ {
					switch {
					case sent[i] == '.':
						time.Sleep(100 * time.Millisecond)
					case sent[i] == 'p':
						i++
						p.n = first + int(sent[i]-'1')
						p.dialled("xhr")
					default:
						n := first + int(sent[i]-'0')
						if sent[i] == '0' {
							n = 0
						}
						p.sendAs(n, fmt.Sprintf(`["{\"event\":\"client-x\",\"channel\":\"private-x\",\"data\":\"%c\"}"]`, sent[i]))
					}
					synctest.Wait()
				}
				for range test.want {
					var e struct{ Data string }
					json.Unmarshal([]byte(c.text()), &e)
					want += e.Data
				}
				if want != test.want {
					t.Errorf("handled in the order %s, want %s", want, test.want)
				}
				c.settled()
			})
		})
	}
}

// TestFallbackTooFew: what waits for a client that does not ask for it is bounded. It is told so, and so that it comes back.
func TestFallbackTooFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dial := serverInBubble(t, "-send-buffer", "100000")
		app := s.apps.Load().all[0]
		p := newPage(t, dial, keyPath)
		p.pollOf("room")
		data := quote(strings.Repeat("x", 10_000))
		for !gone(app) {
			app.Trigger("room", wire.KindPublic, channel.Event{Name: []byte("e"), Data: data, Keep: true})
			time.Sleep(time.Millisecond) // others sleep too, and no time passes while someone runs
			if held := s.memory.Holds(); held > 600_000 {
				t.Fatalf("%d bytes are held", held)
			}
		}
		if n := app.Conns.Cuts[conn.CutFull].Load(); n != 1 {
			t.Errorf("%d were cut off for a full queue", n)
		}
		if got := p.polled(); !slices.Equal(got, []string{`c[4100,"` + tooSlowOverHTTP + `"]`}) {
			t.Errorf("polled %.200q", got)
		}
		if held := s.memory.Holds(); held != 0 {
			t.Errorf("%d bytes are held", held)
		}
		p.receive("xhr").expect("o") // and that was the end of the session
	})
}

// TestFallbackTooMany: nor may a client send without bounds.
func TestFallbackTooMany(t *testing.T) {
	s := startServer(t)
	p := pageTo(t, s.addr)
	stream := p.stream()
	socket := onlySocket(t, s.server)
	socket.Mu.Lock() // it does not come to read
	defer socket.Mu.Unlock()
	body := `["` + strings.Repeat("x", conn.MaxPayload) + `"]`
	var sending sync.WaitGroup
	for range (1 << 20) / conn.MaxPayload {
		sending.Go(func() {
			(&page{t: t, dial: p.dial, base: p.base}).sendAs(0, body)
		})
	}
	stream.expect(`c[4100,"too many messages at once"]`)
	stream.expectEnd()
	sending.Wait()
}

// TestFallbackSignsOfLife: those that say they are still here are bounded, like control frames.
func TestFallbackSignsOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, dial := serverInBubble(t)
		p := newPage(t, dial, keyPath)
		stream := p.stream()
		for range conn.ControlBurst + 1 {
			p.send("[]") // no time passes
		}
		lines := stream.rest()
		if last := lines[len(lines)-1]; last != `c[1008,"`+conn.FrameProblem(conn.ClosePolicy)+`"]` {
			t.Errorf("ended with %s", last)
		}
	})
}

// TestFallbackBrokenStream: who has missed lines of a stream has to begin anew.
func TestFallbackBrokenStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dial := serverInBubble(t)
		p := newPage(t, dial, keyPath)
		p.stream()
		onlySocket(t, s).Write(frameOf("x"))
		time.Sleep(conn.WriteTimeout + time.Millisecond) // nobody reads it
		p.receive("xhr_streaming").expect("o")
	})
}

// TestFallbackShutdown: clients over HTTP are told at the end, in whole answers, and do not hold it up.
func TestFallbackShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, dial, stop := stoppableInBubble(t)
		const each = 20
		streams, lines := make(chan []string, each), make(chan []string, each)
		for range each {
			stream := newPage(t, dial, keyPath).stream()
			go func() { streams <- stream.rest() }() // ends with the answer
		}
		for range each {
			p := newPage(t, dial, keyPath)
			p.poll()
			conn := p.dialled("xhr")
			go func() { // ends with the answer
				var got []string
				if r, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
					got = (&answer{t, conn, r, bufio.NewReader(r.Body)}).rest()
				}
				lines <- got
			}()
		}
		synctest.Wait() // everyone asks for lines
		began := time.Now()
		stop()
		if took := time.Since(began); took >= requestsTimeout {
			t.Errorf("it took %s", took)
		}
		want := []string{`c[4200,"Please reconnect immediately"]`}
		for range each {
			if got := <-streams; !slices.Equal(got, want) {
				t.Errorf("a stream ended with %q", got)
			}
			if got := <-lines; !slices.Equal(got, want) {
				t.Errorf("a poll ended with %q", got)
			}
		}
	})
}

// TestShutdownWaitsForRequests: a request under way is answered in the end, although those of clients over HTTP are not waited for.
func TestShutdownWaitsForRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dial, stop := stoppableInBubble(t)
		stream := newPage(t, dial, keyPath).stream()
		conn := dial()
		body := `{"name":"e","channel":"x","data":"d"}`
		u, _ := url.Parse(signedURL("edge", "POST", "/apps/1/events", "", body))
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: edge\r\nContent-Length: %d\r\n\r\n", u.RequestURI(), len(body))
		synctest.Wait() // the request has begun
		var ends sync.WaitGroup
		ends.Go(stop)
		ends.Go(func() { stream.rest() })
		waitUntil(t, "the server is about to end", s.draining.Load)
		time.Sleep(requestsTimeout - time.Second)
		io.WriteString(conn, body)
		if r, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || r.StatusCode != 200 {
			t.Errorf("got %v, %v", r, err)
		}
		ends.Wait()
	})
}

// TestFallbackLimits: sessions are bounded, all together and those of one address.
func TestFallbackLimits(t *testing.T) {
	s := startServer(t, "-memory", "16M") // 64, and 16
	from := func(host byte) *page {
		return newPage(t, func() net.Conn {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, host)}}
			conn, err := d.Dial("tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			conn.SetDeadline(time.Now().Add(patience))
			return conn
		}, keyPath)
	}
	var one *answer
	for host := range byte(4) {
		for range 16 {
			one = from(host + 1).stream()
		}
		for _, what := range []string{"xhr", "xhr_streaming"} {
			full := from(host + 1).receive(what)
			full.expect("o", `c[4100,"`+tooManyOverHTTP+`"]`)
			full.expectEnd()
		}
	}
	from(5).receive("xhr").expect("o", `c[4100,"`+tooManyOverHTTP+`"]`)
	connect(t, s.addr).settled()
	one.hangUp()
	waitUntil(t, "there is room", func() bool { return s.memory.ClientCount() == 64 })
	from(5).stream()
	if got := s.app.Counts.Refused()[channel.Refused{What: "connection", Reason: "4100"}]; got != 9 {
		t.Errorf("%d refusals are counted", got)
	}
	if n := s.app.Conns.Count(); n != 65 {
		t.Errorf("%d connections count, although those refused have gone", n)
	}
}

// TestFallbackProxy: behind a trusted proxy it is the client's own address that counts.
func TestFallbackProxy(t *testing.T) {
	s := startServer(t, "-memory", "16M", "-trusted-proxies", "127.0.0.1")
	for i := range 20 {
		r, _ := http.NewRequest("POST", fmt.Sprintf("http://%s/pusher/app/key/1/%08d/xhr?protocol=7", s.addr, i), nil)
		r.Header.Set("X-Forwarded-For", fmt.Sprintf("192.0.2.%d", i))
		if status, answer := do(t, r); status != 200 || !strings.Contains(answer, "connection_established") {
			t.Errorf("client %d: %d %s", i, status, answer)
		}
	}
}

// TestFallbackCallers: while a client asks for lines its connection is nobody's to close, and others find room.
func TestFallbackCallers(t *testing.T) {
	s := startServer(t)
	s.callers.Limit.Store(4)
	p := pageTo(t, s.addr)
	stream := p.stream()
	for range 10 {
		pageTo(t, s.addr).stream()
	}
	p.say(p.subscribing("room", ""))
	stream.expect(said(succeeded("room")))
	for range 20 {
		dial(t, s.addr) // says nothing
	}
	publish(t, s.addr, "room", "e", "x")
	stream.expect(said(event("e", "room", "x")))
	// When it has the answer it is a caller like others.
	q := pageTo(t, s.addr)
	q.poll()
	idle := q.receive("xhr_streaming")
	q.receive("xhr_streaming")
	idle.expectEnd()
	for range 10 {
		dial(t, s.addr)
	}
	if _, err := idle.conn.Read(make([]byte, 1)); err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("an idle connection stays: %v", err)
	}
	http.DefaultClient.CloseIdleConnections() // that of the first has been closed for others, which may not show yet
	publish(t, s.addr, "room", "e", "y")
	stream.expect(said(event("e", "room", "y")))
}

// TestFallbackMemory: what waits in sessions counts as held, and in the worst case who does not move has to go.
func TestFallbackMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dial := serverInBubble(t, "-memory", "16M")
		app := s.apps.Load().all[0]
		p := newPage(t, dial, keyPath)
		p.pollOf("room")
		app.Trigger("room", wire.KindPublic, channel.Event{Name: []byte("e"), Data: quote(strings.Repeat("x", 10_000)), Keep: true})
		waitUntil(t, "it waits", func() bool { return s.memory.Holds() >= 10_000 })
		other := &conn.Holding{Conn: new(conn.Conn)}
		s.memory.Hold(other, s.memory.Most(), true)
		waitUntil(t, "it was cut off", func() bool { return app.Conns.Cuts[conn.CutMemory].Load() == 1 })
		s.memory.Hold(other, 0, true)
		if got := p.polled(); !slices.Equal(got, []string{`c[4100,"` + tooSlowOverHTTP + `"]`}) {
			t.Errorf("polled %.200q", got)
		}
		waitUntil(t, "nothing is held", func() bool { return s.memory.Holds() == 0 && gone(app) })
	})
}

// TestHTTPPath: the path can be another, is behind -path, and can be switched off.
func TestHTTPPath(t *testing.T) {
	for _, test := range []struct {
		args  []string
		path  string
		there bool
	}{
		{nil, "/pusher", true},
		{[]string{"-http-path", "/fall/back"}, "/fall/back", true},
		{[]string{"-http-path", "/fall/back"}, "/pusher", false},
		{[]string{"-http-path", "apps/"}, "/apps", true},
		{[]string{"-path", "edge"}, "/edge/pusher", true},
		{[]string{"-path", "edge"}, "/pusher", false},
		{[]string{"-path", "/edge", "-http-path", "x"}, "/edge/x", true},
		{[]string{"-http-path", "off"}, "/pusher", false},
		{[]string{"-http-path", ""}, "/pusher", false},
		{[]string{"-http-path", "off"}, "", false},
	} {
		h := serverOf(t, testOptions(t, test.args...)).offlineHandler()
		for _, what := range []string{"xhr", "xhr_send", "xhr_streaming"} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("OPTIONS", test.path+"/app/key/1/abcdefgh/"+what, nil))
			if there := w.Code == 204; there != test.there {
				t.Errorf("%q: %s answers with %d", test.args, test.path, w.Code)
			}
		}
	}
	for _, bad := range []string{"/a//b", "/a?b", "/a b", "/{a}"} {
		if _, err := config.Parse([]string{"-http-path", bad}, noEnv); err == nil || !strings.Contains(err.Error(), "-http-path") {
			t.Errorf("%q is accepted, or refused with %v", bad, err)
		}
	}
}

// TestFallbackOverTLS: a stream over TLS, for longer than a request may take.
func TestFallbackOverTLS(t *testing.T) {
	dir, roots := edgetest.CertDir(t)
	s := startServer(t, edgetest.TLSArgs(dir)...)
	p := newPage(t, func() net.Conn {
		conn, err := tls.Dial("tcp", s.addr, roots)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(patience))
		return conn
	}, keyPath)
	stream := p.streamOf("private-x")
	s.stop()
	stream.expect(`c[4200,"Please reconnect immediately"]`)
	stream.expectEnd()
}
