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
