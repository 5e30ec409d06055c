package main

// Clients over HTTP, with nothing but requests: what pusher-js does in a browser is in testdata/clients/browser.

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
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
func said(message string) string {
	b, _ := json.Marshal([]string{"x"})
	return strings.Replace(string(b), `"x"`, string(quote(message)), 1)
}

// established reads the first two lines.
func (p *page) established(a *answer) {
	p.t.Helper()
	a.expect("o")
	c := &client{t: p.t}
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

// polled is a whole answer to a poll.
func (p *page) polled() []string {
	p.t.Helper()
	a := p.receive("xhr")
	defer a.hangUp()
	return a.rest()
}

// token signs a subscription.
func (p *page) token(channel, channelData string) string {
	return (&client{id: p.id}).token(channel, channelData)
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
			frames = sealFrame(append(openFrame(frames), m...), start)
		}
	case strings.HasPrefix(line, "c["):
		var code int
		var reason string
		if err := json.Unmarshal([]byte(line[1:]), &[]any{&code, &reason}); err != nil {
			t.Errorf("line %s: %v", line, err)
		}
		frames = appendClose(nil, code, reason)
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
	unsent   frameReader

	mu   sync.Mutex // guards the following, and Conn
	left bool
}

// client makes the page a client whose requests that receive are of this kind.
func (p *page) client(what string) *client {
	p.t.Helper()
	tu := &tunnel{page: p}
	tu.read, tu.lines = io.Pipe()
	late := time.AfterFunc(patience, func() { tu.lines.CloseWithError(os.ErrDeadlineExceeded) })
	p.n = 1
	first := p.receiveAs(what, 1)
	first.expect("o")
	tu.Conn = first.conn
	var reading sync.WaitGroup
	reading.Go(func() { tu.receive(what, first) })
	p.t.Cleanup(func() {
		late.Stop()
		if !tu.gone() { // a client that leaves without a word would be waited for
			tu.lines.Close()
			p.sendAs(0, "["+strings.Repeat(`"nonsense",`, maxMalformed)+`"nonsense"]`)
			reading.Wait()
		}
		tu.Close()
		if p.sending != nil {
			p.sending.Close()
		}
		reading.Wait()
	})
	return &client{t: p.t, conn: tu, in: bufio.NewReader(tu.read)}
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

// Write takes client frames, of which only messages can travel.
func (tu *tunnel) Write(p []byte) (int, error) {
	if tu.gone() {
		return 0, net.ErrClosed
	}
	var messages []string
	for rest := append([]byte(nil), p...); len(rest) > 0; {
		var f frame
		if f, rest, _ = tu.unsent.next(rest, monotonic()); f.opcode == opText {
			messages = append(messages, string(f.payload))
		}
		tu.unsent.release()
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

// dialTunnel opens a connection that the tunnel is to close.
func dialTunnel(t testing.TB, addr string) net.Conn {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		conn, _ = net.Pipe()
	}
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// overHTTP says how the clients of a test receive: "" for over a WebSocket.
func overHTTP(t testing.TB) string {
	_, rest, _ := strings.Cut(t.Name(), "TestProtocolOverHTTP/")
	what, _, _ := strings.Cut(rest, "/")
	return what
}

// TestProtocolOverHTTP: a client over HTTP is a client like any other. These are the tests of those over a WebSocket.
func TestProtocolOverHTTP(t *testing.T) {
	for _, what := range []string{"xhr_streaming", "xhr"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			for _, test := range protocolTests {
				t.Run(test.name, func(t *testing.T) {
					t.Parallel()
					test.run(t)
				})
			}
		})
	}
}

var protocolTests = []struct {
	name string
	run  func(*testing.T)
}{
	{"Established", TestEstablished},
	{"Subscribe", TestSubscribe},
	{"SubscribeForms", TestSubscribeForms},
	{"PrivateChannelData", TestPrivateChannelData},
	{"RefusalWithoutErrorEvent", TestRefusalWithoutErrorEvent},
	{"SubscribeTwice", TestSubscribeTwice},
	{"Unsubscribe", TestUnsubscribe},
	{"ChannelNames", TestChannelNames},
	{"EncryptedEvent", TestEncryptedEvent},
	{"Presence", TestPresence},
	{"PresenceData", TestPresenceData},
	{"BadPresenceData", TestBadPresenceData},
	{"PresenceIsFull", TestPresenceIsFull},
	{"PresenceOfUser", TestPresenceOfUser},
	{"Cache", TestCache},
	{"CacheOfExcludedSocket", TestCacheOfExcludedSocket},
	{"ClientEvent", TestClientEvent},
	{"ClientEventData", TestClientEventData},
	{"RejectedClientEvents", TestRejectedClientEvents},
	{"DisabledClientEvents", TestDisabledClientEvents},
	{"Signin", TestSignin},
	{"BadSignin", TestBadSignin},
	{"ServerToUser", TestServerToUser},
	{"LongWatchlist", TestLongWatchlist},
	{"Terminate", TestTerminate},
	{"Malformed", TestMalformed},
	{"MalformedInARow", TestMalformedInARow},
	{"UnknownEvents", TestUnknownEvents},
	{"SubscribePace", TestSubscribePace},
	{"MaxConnections", TestMaxConnections},
}

func TestFallbackRequests(t *testing.T) {
	s := startServer(t)
	const session = "/pusher/app/key/1/abcdefgh"
	open := newPage(t, func() net.Conn { return dial(t, s.addr) }, keyPath)
	open.stream()
	for _, test := range []struct {
		method, path, body string
		status             int
		answer             string // contains
	}{
		{"OPTIONS", session + "/xhr", "", 204, ""},
		{"OPTIONS", session + "/xhr_streaming?protocol=7", "", 204, ""},
		{"OPTIONS", session + "/xhr_send?t=1&n=1", "", 204, ""},
		{"OPTIONS", session, "", 404, "not found"},
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
		{"POST", open.base + "/xhr_send", `["x"`, 400, "invalid JSON at byte 4"},
		{"POST", open.base + "/xhr_send", "[\"\xff\"]", 400, "not UTF-8"},
		{"POST", open.base + "/xhr_send", "[" + strings.Repeat(`"",`, maxMessages) + `""]`, 400, "at most 100"},
		{"POST", open.base + "/xhr_send", `["` + strings.Repeat("x", maxPayload+1) + `"]`, 413, "at most 32759 bytes"},
		{"POST", open.base + "/xhr_send", `["` + strings.Repeat("x", maxSend) + `"]`, 413, "exceeds"},
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
		p := newPage(t, func() net.Conn { return dial(t, addr) }, keyPath)
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
	newPage(t, func() net.Conn { return dial(t, s.addr) }, keyPath).stream()
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
			_, event, _ := nextServerFrame(frames)
			_, end, _ := nextServerFrame(plainFrames(t, lines[2]))
			if lines[0] != "o" || !strings.Contains(string(event), fmt.Sprintf(`"pusher:error","data":{"code":%d,`, test.code)) || int(end[0])<<8|int(end[1]) != test.code {
				t.Errorf("%s of %s: got %q, want %d", what, test.path, lines, test.code)
			}
		}
	}
	waitUntil(t, "the refused have gone", func() bool { return other.app.empty() })
}

// TestFallbackAmongOthers: clients over HTTP and over WebSockets are together in channels, and an answer may have many lines.
func TestFallbackAmongOthers(t *testing.T) {
	s := startServer(t)
	var log syncBuffer
	s.logTo(&log)
	p := newPage(t, func() net.Conn { return dial(t, s.addr) }, keyPath)
	stream := p.stream()
	q := newPage(t, func() net.Conn { return dial(t, s.addr) }, keyPath)
	q.poll()
	c := connect(t, s.addr)
	c.subscribe("presence-x", `{"user_id":"c"}`)
	c.expect(snapshot("presence-x", "c", "{}"))
	p.say(p.subscribing("presence-x", `{"user_id":"p"}`), p.subscribing("room", ""))
	c.expect(memberAdded("presence-x", "p", "{}"))
	if got := stream.line(); !strings.Contains(got, `\"count\\\":2`) {
		t.Errorf("the members are %s", got)
	}
	stream.expect("a" + said(succeeded("room")))
	q.say(q.subscribing("room", ""))
	if got := q.polled(); len(got) != 1 || got[0] != "a"+said(succeeded("room")) {
		t.Errorf("polled %q", got)
	}
	p.say(`{"event":"client-x","channel":"presence-x","data":"hello"}`)
	if got := c.text(); !strings.Contains(got, `"client-x"`) || !strings.Contains(got, `"user_id":"p"`) {
		t.Errorf("client event %s", got)
	}
	for i := range 5 {
		publish(t, s.addr, "room", "e", fmt.Sprint(i))
		stream.expect("a" + said(event("e", "room", fmt.Sprint(i))))
	}
	var got []string
	for len(got) < 5 {
		got = append(got, q.polled()...)
	}
	for i, line := range got {
		if line != "a"+said(event("e", "room", fmt.Sprint(i))) {
			t.Errorf("polled %q", got)
		}
	}
	p.say()
	stream.expect("a[]")
	if n := s.app.connections(); n != 3 {
		t.Errorf("%d connections are counted", n)
	}
	for _, want := range []string{"connected", "subscribed", "pusher_internal:subscription_succeeded", "client=127.0.0.1:"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("-verbose does not say %q", want)
		}
	}
	if page := string(s.appendMetrics(nil)); !strings.Contains(page, "edge_connected{app_id=\"\"} 3\n") {
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
					time.Sleep(sessionGap - time.Millisecond)
					a := p.dialled(what)
					synctest.Wait()
					a.Close() // as when a page is closed
				}
				last := time.Now()
				c.expect(memberRemoved("presence-x", "p"))
				if gone := time.Since(last); gone != sessionGap {
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
			if since := time.Since(last); since != heartbeatEvery {
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
			if got := p.polled(); len(got) != 1 || got[0] != "h" || time.Since(last) > heartbeatEvery {
				t.Fatalf("polled %q after %s", got, time.Since(last))
			}
		}
	})
}

// TestFallbackPing: the Socket's pings reach the client, and are answered by asking again.
func TestFallbackPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, dial := serverInBubble(t, "-activity-timeout", "10s", "-pong-timeout", "4s")
		q := newPage(t, dial, keyPath)
		q.poll()
		began := time.Now()
		for i := range 10 {
			if got := q.polled(); len(got) != 1 || got[0] != "h" {
				t.Fatalf("polled %q", got)
			}
			if since := time.Since(began); since != time.Duration(i+1)*10*time.Second {
				t.Fatalf("h after %s", since)
			}
		}
		time.Sleep(4 * time.Second)
		if got := q.polled(); len(got) != 1 || got[0] != `c[4201,"Pong reply not received"]` {
			t.Errorf("who was silent for too long polled %q", got)
		}
	})
}
