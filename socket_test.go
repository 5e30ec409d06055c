package main

// The protocol as a client sees it: every test opens sockets, sends, and expects frames byte for byte.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/sign"
	"edge/internal/wire"
)

// What pusher-js asks for.
const keyPath = "/app/key?protocol=7&client=js&version=8.6.0&flash=false"

// httpUpgrade is a handshake for the tests that change a part of it. Lines may end in \n alone (RFC 9112 section 2.2).
const httpUpgrade = "GET " + keyPath + " HTTP/1.1\nHost: edge\nUpgrade: websocket\nConnection: Upgrade\n" +
	"Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n"

// request sends an HTTP request as it stands and reads the head of the answer.
func request(t testing.TB, addr, text string) (*peer, *http.Response) {
	t.Helper()
	conn := dial(t, addr)
	c := &peer{t: t, conn: conn, in: bufio.NewReader(conn)}
	c.raw([]byte(text))
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return c, r
}

// errorFrame is pusher:error; code 0 stands for null.
func errorFrame(code int, message string) string {
	return fmt.Sprintf(`{"event":"pusher:error","data":{"code":%s,"message":%s}}`, codeText(code), quote(message))
}

// channelError is pusher:error with the channel it is about, as client events get it.
func channelError(code int, message, channel string) string {
	return fmt.Sprintf(`{"event":"pusher:error","data":{"code":%s,"message":%s},"channel":%s}`, codeText(code), quote(message), quote(channel))
}

func codeText(code int) string {
	if code == 0 {
		return "null"
	}
	return strconv.Itoa(code)
}

// expectError reads pusher:error with this code in its exact shape, whatever its message is.
func (c *peer) expectError(code int) (message string) {
	c.t.Helper()
	got := c.text()
	var e struct{ Data struct{ Message string } }
	json.Unmarshal([]byte(got), &e)
	if want := errorFrame(code, e.Data.Message); got != want || e.Data.Message == "" {
		c.t.Fatalf("got  %s\nwant %s", got, errorFrame(code, "…"))
	}
	return e.Data.Message
}

// expectTurnedAway reads what a connection that may not stay gets: pusher:error, a close frame with its code, the end.
func (c *peer) expectTurnedAway(code int) (reason string) {
	c.t.Helper()
	c.expectError(code)
	if reason = c.expectClose(code); reason == "" {
		c.t.Fatal("closed without a reason")
	}
	return reason
}

// expectRefusal reads the two events of a refused subscription, and checks that the connection is still good.
func (c *peer) expectRefusal(channel, kind string, status int) (message string) {
	c.t.Helper()
	got := c.text()
	var e struct{ Data struct{ Error string } }
	json.Unmarshal([]byte(got), &e)
	want := fmt.Sprintf(`{"event":"pusher:subscription_error","channel":%s,"data":{"type":%q,"error":%s,"status":%d}}`,
		quote(channel), kind, quote(e.Data.Error), status)
	if got != want || e.Data.Error == "" {
		c.t.Fatalf("got  %s\nwant %s", got, want)
	}
	c.expect(errorFrame(0, e.Data.Error))
	c.settled()
	return e.Data.Error
}

// arrived returns the text frames that were on their way to c.
func (c *peer) arrived() (frames []string) {
	c.t.Helper()
	c.send(`{"event":"pusher:ping","data":{}}`)
	for {
		frame := c.text()
		if frame == pong {
			return frames
		}
		frames = append(frames, frame)
	}
}

// leave closes the connection without a word.
func (c *peer) leave() { c.conn.Close() }

// subscribeAs sends a subscription with this auth and, if not empty, channel_data.
func (c *peer) subscribeAs(channel, auth, channelData string) {
	c.t.Helper()
	data := map[string]string{"channel": channel, "auth": auth}
	if channelData != "" {
		data["channel_data"] = channelData
	}
	b, _ := json.Marshal(data)
	c.send(`{"event":"pusher:subscribe","data":%s}`, b)
}

func (c *peer) unsubscribe(channel string) {
	c.t.Helper()
	c.send(`{"event":"pusher:unsubscribe","data":{"channel":%s}}`, quote(channel))
}

// enter subscribes to a channel of any kind, and reads the answer and everything else that is on its way.
func (c *peer) enter(channel, channelData string) {
	c.t.Helper()
	c.subscribe(channel, channelData)
	frames := c.arrived()
	if !slices.ContainsFunc(frames, func(f string) bool { return strings.HasPrefix(f, strings.TrimSuffix(succeeded(channel), `"{}"}`)) }) {
		c.t.Fatalf("not subscribed to %s: %q", channel, frames)
	}
}

// snapshot is the answer to a subscription to a presence channel with these members: id, info, id, info…
func snapshot(channel string, members ...string) string {
	var ids, hash []string
	for m := range slices.Chunk(members, 2) {
		ids = append(ids, string(quote(m[0])))
		hash = append(hash, string(quote(m[0]))+":"+m[1])
	}
	return event("pusher_internal:subscription_succeeded", channel, fmt.Sprintf(`{"presence":{"count":%d,"ids":[%s],"hash":{%s}}}`,
		len(ids), strings.Join(ids, ","), strings.Join(hash, ",")))
}

func memberAdded(channel, id, info string) string {
	return event("pusher_internal:member_added", channel, fmt.Sprintf(`{"user_id":%s,"user_info":%s}`, quote(id), info))
}

func memberRemoved(channel, id string) string {
	return event("pusher_internal:member_removed", channel, fmt.Sprintf(`{"user_id":%s}`, quote(id)))
}

func cacheMiss(channel string) string { return event("pusher:cache_miss", channel, "{}") }

func subscriptionCount(channel string, n int) string {
	return event("pusher_internal:subscription_count", channel, fmt.Sprintf(`{"subscription_count":%d}`, n))
}

// 1. Connection

func TestEstablished(t *testing.T) {
	addr := startEdge(t, "-activity-timeout=30s")
	shape := regexp.MustCompile(`^\{"event":"pusher:connection_established","data":"\{\\"socket_id\\":\\"(\d+\.\d+)\\",\\"activity_timeout\\":30\}"\}$`)
	ids := make(map[string]bool)
	for _, query := range []string{"protocol=5", "protocol=6", "protocol=7", "protocol=7&client=js&version=8.6.0&flash=false", "version=x&client=&protocol=7"} {
		c := handshake(t, addr, "/app/key?"+query, "")
		hello := c.text()
		id := shape.FindStringSubmatch(hello)
		if id == nil || ids[id[1]] {
			t.Fatalf("%s: got %s after %v", query, hello, ids)
		}
		ids[id[1]] = true
		c.settled()
	}
}

func TestTurnedAway(t *testing.T) {
	addr := startEdge(t)
	for _, test := range []struct {
		path string
		code int
	}{
		{"/app/key", 4008},
		{"/app/key?client=js", 4008},
		{"/app/key?protocol=", 4008},
		{"/app/key?protocol=seven", 4006},
		{"/app/key?protocol=7.0", 4006},
		{"/app/key?protocol=0x7", 4006},
		{"/app/key?protocol=%207", 4006},
		{"/app/key?protocol=4", 4007},
		{"/app/key?protocol=8", 4007},
		{"/app/key?protocol=0", 4007},
		{"/app/key?protocol=-1", 4007},
		{"/app/key?protocol=99999999999999999999", 4007},
		{"/app/nokey?protocol=7", 4001},
		{"/app/KEY?protocol=7", 4001},
		{"/app/nokey", 4001},
		{"/", 4005},
		{"/app", 4005},
		{"/app/?protocol=7", 4005},
		{"/app/key/more?protocol=7", 4005},
		{"/elsewhere?protocol=7", 4005},
		{"//app/key?protocol=7", 4005},
	} {
		t.Run(test.path, func(t *testing.T) {
			handshake(t, addr, test.path, "").expectTurnedAway(test.code)
			// What the client sent in the meantime changes nothing.
			handshake(t, addr, test.path, string(maskedFrame(0x80|conn.OpText, []byte(`{"event":"pusher:ping"}`)))).expectTurnedAway(test.code)
		})
	}
}

// A reason that is not UTF-8 would make the whole close frame illegal (RFC 6455 section 5.5.1), and its code lost.
func TestReasonIsUTF8(t *testing.T) {
	addr := startEdge(t)
	for _, key := range []string{"%ff", strings.Repeat("%C3%A9", 100), "%F0%9F%98%80" + strings.Repeat("x", 200), "a" + strings.Repeat("%F0%9F%98%80", 99)} {
		if reason := handshake(t, addr, "/app/"+key+"?protocol=7", "").expectTurnedAway(4001); !utf8.ValidString(reason) {
			t.Errorf("reason %q for key %.20s…", reason, key)
		}
	}
}

func TestOrigin(t *testing.T) {
	addr := startEdge(t, "-origins=https://exact.com, example.com,*.example.com,http://local.test:8080")
	for origin, allowed := range map[string]bool{
		"":                                 true, // not a browser
		"Origin: https://exact.com":        true,
		"Origin: https://EXACT.com":        true,
		"Origin: http://exact.com":         false,
		"Origin: http://example.com:81":    true,
		"Origin: https://a.Example.Com":    true,
		"Origin: http://local.test":        false,
		"Origin: null":                     false,
		"Origin: https://evil-example.com": false,
		"Origin: https://example.com.evil": false,
	} {
		t.Run(origin, func(t *testing.T) {
			c, r := request(t, addr, strings.Replace(httpUpgrade, "\n\n", strings.TrimRight("\n"+origin, "\n")+"\n\n", 1))
			if r.StatusCode != http.StatusSwitchingProtocols {
				t.Fatal(r.Status)
			}
			if allowed {
				c.established()
			} else {
				c.expectTurnedAway(4009)
			}
		})
	}
}

func TestMaxConnections(t *testing.T) {
	s := startServer(t, "-max-connections=1")
	first := connect(t, s.addr)
	handshake(t, s.addr, keyPath, "").expectTurnedAway(4004)
	first.settled()
	first.leave()
	waitUntil(t, "the first has left", func() bool { return gone(s.app) })
	connect(t, s.addr).settled()
}

func TestHandshake(t *testing.T) {
	addr := startEdge(t)
	for _, test := range []struct {
		old, new string
		status   int
	}{
		{"Connection: Upgrade", "Connection: upgrade", 101},
		{"Connection: Upgrade", "Connection: keep-alive, Upgrade", 101},
		{"Connection: Upgrade", "Connection: keep-alive\nConnection: Upgrade", 101},
		{"Upgrade: websocket", "Upgrade: WebSocket", 101},
		{"Upgrade: websocket", "Upgrade: h2c, websocket", 101},
		{"Connection: Upgrade", "Connection: notupgrade-x", 426},
		{"Connection: Upgrade\n", "", 426},
		{"Upgrade: websocket\n", "", 426},
		{"Upgrade: websocket", "Upgrade: websocket2", 426},
		{"Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8", 426},
		{"Sec-WebSocket-Version: 13\n", "", 426},
		{"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n", "", 400},
		{"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Key:", 400},
		{"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Key: eA==", 400},
		{"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==dGhl", 400},
		{"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Key: " + strings.Repeat("dGhl", 750), 400},
		{"GET", "POST", 405},
		{"HTTP/1.1", "HTTP/1.0", 400},
		{"\n\n", "\nContent-Length: 2\n\nhi", 400},
		{"\n\n", "\nTransfer-Encoding: chunked\n\n2\r\nhi\r\n0\r\n\r\n", 400},
	} {
		t.Run(fmt.Sprintf("%.60q", test.new), func(t *testing.T) {
			c, r := request(t, addr, strings.Replace(httpUpgrade, test.old, test.new, 1))
			if r.StatusCode != test.status {
				t.Fatalf("got %s, want %d", r.Status, test.status)
			}
			if test.status == http.StatusSwitchingProtocols {
				c.established()
			}
			if test.status == http.StatusUpgradeRequired && (r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Sec-WebSocket-Version") != "13") {
				t.Errorf("426 does not say what is required: %v", r.Header)
			}
		})
	}
}

// Neither compression nor a subprotocol is ever agreed on, whatever the client offers.
func TestNothingNegotiated(t *testing.T) {
	c, r := request(t, startEdge(t), strings.Replace(httpUpgrade, "\n\n",
		"\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\nSec-WebSocket-Protocol: pusher, chat\n\n", 1))
	if r.StatusCode != http.StatusSwitchingProtocols || len(r.Header["Sec-Websocket-Extensions"])+len(r.Header["Sec-Websocket-Protocol"]) > 0 {
		t.Fatalf("%s %v", r.Status, r.Header)
	}
	c.established()
	c.raw(maskedFrame(0xC0|conn.OpText, []byte{0xAA, 0x56, 0x4A, 0x2D, 0x4E, 0xD5, 0x51, 0x50, 0x50, 0x00}))
	c.expectClose(1002)
}

// TestEarlyFrames sends frames in one packet with the handshake, whole or only their beginning.
func TestEarlyFrames(t *testing.T) {
	addr := startEdge(t)
	frames := slices.Concat(maskedFrame(0x80|conn.OpText, []byte(`{"event":"pusher:subscribe","data":{"channel":"x"}}`)),
		maskedFrame(0x80|conn.OpPing, []byte("early")))
	for i := range 200 {
		n := len(frames)
		if i%2 == 1 {
			n = i / 2 % len(frames)
		}
		c := handshake(t, addr, keyPath, string(frames[:n]))
		c.established()
		c.raw(frames[n:])
		c.expect(succeeded("x"))
		c.expectControl(conn.OpPong, "early")
		c.leave()
	}
}

func (c *peer) expectControl(opcode byte, payload string) {
	c.t.Helper()
	if gotOpcode, got := c.frame(); gotOpcode != opcode || string(got) != payload {
		c.t.Fatalf("got opcode %d %q, want %d %q", gotOpcode, got, opcode, payload)
	}
}

// 2. Ping and pong

func TestPing(t *testing.T) {
	c := connect(t, startEdge(t))
	for _, ping := range []string{
		`{"event":"pusher:ping","data":{}}`,
		`{"event": "pusher:ping"}`,
		`{"event":"pusher:ping","data":"{}"}`,
		`{"event":"pusher:ping","data":""}`,
		`{"event":"pusher:ping","data":null}`,
		` { "data" : [ ] , "event" : "pusher\u003aping" } `,
	} {
		c.send("%s", ping)
		c.expect(pong)
	}
	for _, payload := range []string{"", "12345", strings.Repeat("\xff", 125)} {
		c.raw(maskedFrame(0x80|conn.OpPing, []byte(payload)))
		c.expectControl(conn.OpPong, payload)
	}
	c.raw(maskedFrame(0x80|conn.OpPong, []byte("nobody asked")))
	c.settled()
}

func TestSilentClientIsPingedAndClosed(t *testing.T) {
	t.Parallel()
	addr := startEdge(t, "-activity-timeout=1s", "-pong-timeout=100ms")
	began := time.Now()
	c := connect(t, addr)
	c.expectControl(conn.OpPing, "")
	if silent := time.Since(began); silent < time.Second {
		t.Errorf("pinged after %s", silent)
	}
	c.expectClose(4201)
	if silent := time.Since(began); silent < 1100*time.Millisecond {
		t.Errorf("closed after %s", silent)
	}
}

// pipes is a listener without a network, for tests in a synctest bubble: there time passes only when everyone waits.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error   { close(p.closed); return nil }
func (p pipes) Addr() net.Addr { return new(net.TCPAddr) }

// startInBubble starts a server with the default limits and returns a function that connects to it; rest is sent in one
// packet with the handshake.
func startInBubble(t *testing.T) (connect func(rest []byte) *peer) { return startInBubbleWith(t) }

// startInBubbleWith is startInBubble with these flags.
func startInBubbleWith(t *testing.T, args ...string) (connect func(rest []byte) *peer) {
	_, dial := serverInBubble(t, args...)
	return func(rest []byte) *peer { return connectInBubble(t, dial, rest) }
}

// serverInBubble starts a server with these flags in a bubble and returns a function that opens a connection to it.
func serverInBubble(t *testing.T, args ...string) (s *server, dial func() net.Conn) {
	s, dial, _ = stoppableInBubble(t, args...)
	return s, dial
}

// stoppableInBubble is serverInBubble for a test that stops the server itself.
func stoppableInBubble(t *testing.T, args ...string) (s *server, dial func() net.Conn, stop func()) {
	time.Sleep(time.Until(conn.ProcessStart)) // in a bubble it is the year 2000, and monotonic would be negative
	s = testOptions(t, args...).server(t)
	l := pipes{make(chan net.Conn), make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.serve(ctx, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return s, func() net.Conn {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close() })
		l.conns <- theirs
		return ours
	}, stop
}

// connectInBubble opens a WebSocket connection; rest is sent in one packet with the handshake.
func connectInBubble(t *testing.T, dial func() net.Conn, rest []byte) *peer {
	c := &peer{t: t, conn: dial()}
	c.in = bufio.NewReader(c.conn)
	c.raw(append([]byte(httpUpgrade), rest...))
	if r, err := http.ReadResponse(c.in, nil); err != nil || r.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(r, err)
	}
	c.established()
	return c
}

func TestLiveness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startInBubble(t)(nil)
		last := time.Now()
		expectPing := func() {
			t.Helper()
			c.expectControl(conn.OpPing, "")
			if silent := time.Since(last); silent != 120*time.Second {
				t.Fatalf("pinged after %s of silence", silent)
			}
		}
		for _, traffic := range []func(){
			func() { c.raw(maskedFrame(0x80|conn.OpPong, nil)) },
			func() { c.raw(maskedFrame(0x80|conn.OpPing, nil)); c.expectControl(conn.OpPong, "") },
			func() { c.send(`{"event":"nothing"}`) },
			c.settled,
		} {
			expectPing()
			time.Sleep(30*time.Second - 1) // any traffic is an answer, as long as it comes in time
			for range 10 {                 // and puts off the next ping
				traffic()
				last = time.Now()
				time.Sleep(119 * time.Second)
			}
		}
		expectPing()
		c.expectClose(4201)
		if silent := time.Since(last); silent < 150*time.Second || silent > 152*time.Second { // the end comes a moment later
			t.Fatalf("closed after %s of silence", silent)
		}
	})
}

// A frame once begun must end within ten seconds, however fast its bytes come, and whatever they came with.
func TestFrameTimeout(t *testing.T) {
	whole := maskedFrame(0x80|conn.OpText, []byte(`{"event":"pusher:ping","data":"`+strings.Repeat("x", 200)+`"}`))
	synctest.Test(t, func(t *testing.T) {
		connect := startInBubble(t)
		for _, n := range []int{1, 2, 3, 5, 8, 9, 100} {
			for name, begin := range map[string]func() *peer{
				"alone":          func() *peer { c := connect(nil); c.raw(whole[:n]); return c },
				"after a frame":  func() *peer { c := connect(nil); c.raw(slices.Concat(whole, whole[:n])); c.expect(pong); return c },
				"with handshake": func() *peer { return connect(whole[:n]) },
			} {
				began := time.Now()
				c := begin()
				if n == 8 { // byte by byte
					for _, b := range whole[n : n+9] {
						time.Sleep(time.Second)
						c.raw([]byte{b})
					}
				}
				opcode, payload := c.frame()
				if took := time.Since(began); opcode != conn.OpClose || binary.BigEndian.Uint16(payload) != 1008 || took != 10*time.Second {
					t.Errorf("%d bytes %s: opcode %d %q after %s", n, name, opcode, payload, took)
				}
				c.leave()
				c = begin()
				time.Sleep(10*time.Second - 1)
				c.raw(whole[n:])
				c.expect(pong)
				c.leave()
			}
		}
	})
}

// 3. Frames

// ignored is a message of n bytes that gets no answer.
func ignored(n int) []byte {
	m := []byte(`{"event":"nothing","data":""}`)
	return slices.Concat(m[:len(m)-2], []byte(strings.Repeat("x", n-len(m))), m[len(m)-2:])
}

// fragments is a message in n frames: first, nothing, nothing…, last.
func fragments(first, last []byte, n int) []byte {
	b := maskedFrame(conn.OpText, first)
	for range n - 2 {
		b = append(b, maskedFrame(conn.OpContinuation, nil)...)
	}
	return append(b, maskedFrame(0x80|conn.OpContinuation, last)...)
}

// TestMessageTimeout: an unfinished message counts like an unfinished frame, also between its frames.
func TestMessageTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		connect := startInBubble(t)
		c := connect(nil)
		c.raw(maskedFrame(conn.OpText, []byte(`{"event":`)))
		time.Sleep(9 * time.Second)
		c.raw(maskedFrame(conn.OpContinuation, []byte(`"pusher:ping"`)))
		time.Sleep(9 * time.Second)
		c.raw(maskedFrame(0x80|conn.OpContinuation, []byte("}")))
		c.expect(pong)
		began := time.Now()
		c.raw(maskedFrame(conn.OpText, []byte(`{"event":`)))
		if opcode, payload := c.frame(); opcode != conn.OpClose || binary.BigEndian.Uint16(payload) != 1008 || time.Since(began) != 10*time.Second {
			t.Errorf("opcode %d %q after %s", opcode, payload, time.Since(began))
		}
		c.leave()
	})
}

func TestGoodFrames(t *testing.T) {
	c := connect(t, startEdge(t))
	message := ignored(32_759)
	for _, frames := range [][]byte{
		maskedFrame(0x80|conn.OpText, message),
		fragments(message[:32_000], message[32_000:], 2),
		fragments(message[:10], message[10:], 64),
		fragments([]byte("{\"event\":\"\xc3"), []byte("\xa9\"}"), 2),                          // half a character in each
		append([]byte{0x80 | conn.OpText, 0x80 | 126, 0, 13, 0, 0, 0, 0}, `{"event":"x"}`...), // a longer length than it takes
	} {
		c.raw(frames)
		c.settled()
	}
}

func TestPingBetweenFragments(t *testing.T) {
	c := connect(t, startEdge(t))
	c.raw(maskedFrame(conn.OpText, []byte(`{"event":"pusher:`)))
	c.raw(maskedFrame(0x80|conn.OpPing, []byte("between")))
	c.raw(maskedFrame(0x80|conn.OpContinuation, []byte(`ping"}`)))
	c.expectControl(conn.OpPong, "between")
	c.expect(pong)
}

// TestBadFrames sends a good message and a bad frame in one packet: the first is answered, the second ends the connection,
// and nobody else's.
func TestBadFrames(t *testing.T) {
	addr := startEdge(t)
	other := connect(t, addr)
	good := maskedFrame(0x80|conn.OpText, []byte(`{"event":"pusher:ping"}`))
	for _, test := range []struct {
		name string
		bad  []byte
		code int
	}{
		{"not masked", []byte{0x80 | conn.OpText, 2, '{', '}'}, 1002},
		{"RSV1", maskedFrame(0xC0|conn.OpText, []byte("{}")), 1002},
		{"RSV2", maskedFrame(0xA0|conn.OpText, []byte("{}")), 1002},
		{"RSV3", maskedFrame(0x90|conn.OpText, []byte("{}")), 1002},
		{"RSV1 on a ping", maskedFrame(0xC0|conn.OpPing, nil), 1002},
		{"opcode 3", maskedFrame(0x83, nil), 1002},
		{"opcode 11", maskedFrame(0x8B, nil), 1002},
		{"continuation of nothing", maskedFrame(0x80|conn.OpContinuation, nil), 1002},
		{"message in a message", slices.Concat(maskedFrame(conn.OpText, nil), maskedFrame(0x80|conn.OpText, nil)), 1002},
		{"ping of 126 bytes", maskedFrame(0x80|conn.OpPing, make([]byte, 126)), 1002},
		{"ping in parts", maskedFrame(conn.OpPing, nil), 1002},
		{"close in parts", maskedFrame(conn.OpClose, nil), 1002},
		{"close with half a code", maskedFrame(0x80|conn.OpClose, []byte{3}), 1002},
		{"close with 999", maskedFrame(0x80|conn.OpClose, []byte{3, 0xe7}), 1002},
		{"close with 1005", maskedFrame(0x80|conn.OpClose, []byte{3, 0xed}), 1002},
		{"close with a bad reason", maskedFrame(0x80|conn.OpClose, []byte{3, 0xe8, 0xff}), 1007},
		{"binary", maskedFrame(0x80|conn.OpBinary, []byte("{}")), 1003},
		{"not UTF-8", maskedFrame(0x80|conn.OpText, []byte("{\"event\":\"\xff\"}")), 1007},
		{"overlong UTF-8", maskedFrame(0x80|conn.OpText, []byte("{\"event\":\"\xc0\xaf\"}")), 1007},
		{"surrogate", maskedFrame(0x80|conn.OpText, []byte("{\"event\":\"\xed\xa0\x80\"}")), 1007},
		{"half a character", fragments([]byte("{\"event\":\"\xc3"), []byte("\"}"), 2), 1007},
		{"32,760 bytes", maskedFrame(0x80|conn.OpText, ignored(32_760)), 1009},
		{"32,760 bytes announced", []byte{0x80 | conn.OpText, 0x80 | 126, 0x7f, 0xf8}, 1009},
		{"32,760 bytes in parts", fragments(ignored(32_760)[:32_000], ignored(32_760)[32_000:], 2), 1009},
		{"64 KiB announced", []byte{0x80 | conn.OpText, 0x80 | 127, 0, 0, 0, 0, 0, 1, 0, 0}, 1009},
		{"2^62 bytes announced", []byte{0x80 | conn.OpText, 0x80 | 127, 0x40, 0, 0, 0, 0, 0, 0, 0}, 1009},
		{"2^63 bytes announced", []byte{0x80 | conn.OpText, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0}, 1002},
		{"2^64-1 bytes announced", []byte("\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff"), 1002},
		{"65 parts", fragments(nil, nil, 65), 1008},
		{"65 parts without an end", fragments(nil, nil, 66)[:65*6], 1008},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := connect(t, addr)
			c.raw(slices.Concat(good, test.bad))
			c.expect(pong)
			c.expectClose(test.code)
			other.settled()
		})
	}
}

// TestLastWords: a client that goes on sending after its mistake still gets the close frame, every time. Closing a connection
// with unread input would make the kernel throw it away.
func TestLastWords(t *testing.T) {
	addr := startEdge(t)
	for range 200 {
		c := connect(t, addr)
		c.raw(slices.Concat(maskedFrame(0x83, nil), make([]byte, 20_000)))
		c.conn.Write(make([]byte, 20_000))
		opcode, payload := c.frame()
		if opcode != conn.OpClose || binary.BigEndian.Uint16(payload) != conn.CloseProtocolError {
			t.Fatalf("got opcode %d %q", opcode, payload)
		}
		c.leave()
	}
}

// TestCutClientIsNotServed: of what a client has sent that is cut off nothing more is handled, however much there is.
func TestCutClientIsNotServed(t *testing.T) {
	s := startServer(t)
	var handled atomic.Int64
	s.logTo(counter{&handled}) // a line for each subscription and its end
	c := connect(t, s.addr)
	id, _ := wire.ParseSocketID(c.id)
	go c.conn.Write(bytes.Repeat(slices.Concat(
		maskedFrame(0x80|conn.OpText, []byte(`{"event":"pusher:subscribe","data":{"channel":"room"}}`)),
		maskedFrame(0x80|conn.OpText, []byte(`{"event":"pusher:unsubscribe","data":{"channel":"room"}}`))), 10_000))
	c.expect(succeeded("room"))
	socket := s.app.Socket(id)
	socket.Conn.Abort()
	before := handled.Load()
	waitUntil(t, "it has left", func() bool { return s.app.Socket(id) == nil })
	if n := handled.Load() - before; n > 4 { // two that were under way, and the end of the connection
		t.Errorf("%d lines were logged after the end", n)
	}
}

// counter counts what is written to it.
type counter struct{ lines *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.lines.Add(1)
	return len(p), nil
}

func TestPingFlood(t *testing.T) {
	c := connect(t, startEdge(t))
	const burst = 40
	c.raw([]byte(strings.Repeat(string(maskedFrame(0x80|conn.OpPing, nil)), 10*burst)))
	for range burst {
		c.expectControl(conn.OpPong, "")
	}
	for {
		switch opcode, payload := c.frame(); {
		case opcode == conn.OpPong: // the allowance grows with time
		case opcode == conn.OpClose && binary.BigEndian.Uint16(payload) == 1008:
			return
		default:
			t.Fatalf("got opcode %d %q, want close 1008", opcode, payload)
		}
	}
}

func TestCloseIsEchoed(t *testing.T) {
	addr := startEdge(t)
	for _, closing := range []string{"", "\x03\xe8", "\x03\xe8bye", "\x10\x68", "\x10\x68bye"} { // no code, 1000, 4200
		c := connect(t, addr)
		c.raw(maskedFrame(0x80|conn.OpClose, []byte(closing)))
		opcode, payload := c.frame()
		if opcode != conn.OpClose || string(payload[:min(2, len(payload))]) != closing[:min(2, len(closing))] {
			t.Fatalf("got opcode %d %q, want close %q", opcode, payload, closing)
		}
		if _, _, err := c.readFrame(); err != io.EOF {
			t.Fatalf("after the close frame: %v", err)
		}
		c.leave()
	}
}

// 4. Channels

// TestSubscribe covers every kind of channel: what needs a signature, what has members and what a cache.
func TestSubscribe(t *testing.T) {
	addr := startEdge(t)
	other := connect(t, addr)
	for _, test := range []struct{ channel, wants string }{
		{"x", ""},
		{"cache-x", "cache"},
		{"private-x", "auth"},
		{"private-cache-x", "auth cache"},
		{"private-encrypted-x", "auth"},
		{"private-encrypted-cache-x", "auth cache"},
		{"presence-x", "auth members"},
		{"presence-cache-x", "auth members cache"},
		{"privateer", ""}, // the dash belongs to the prefix
		{"presence", ""},
		{"Private-x", ""},
		{"mycache-x", ""},
		{"x-private-x", ""},
		{"private-encryptedcache-x", "auth"},
		{"presence-encrypted-x", "auth members"},
	} {
		t.Run(test.channel, func(t *testing.T) {
			c := connect(t, addr)
			data, answer := "", []string{succeeded(test.channel)}
			if strings.Contains(test.wants, "members") {
				data, answer = `{"user_id":"1"}`, []string{snapshot(test.channel, "1", "{}")}
			}
			if strings.Contains(test.wants, "cache") {
				answer = append(answer, cacheMiss(test.channel))
			}
			good := c.token(test.channel, data)
			if strings.Contains(test.wants, "auth") {
				for _, auth := range []string{"", "key", ":", "key:", "nokey" + good[3:], good[:len(good)-1], good[4:], good + "0",
					other.token(test.channel, data), c.token(test.channel+"x", data), c.token(test.channel, data+" ")} {
					c.subscribeAs(test.channel, auth, data)
					message := c.expectRefusal(test.channel, "AuthError", 401)
					if strings.Contains(message, good[4:]) && !strings.Contains(auth, good[4:]) {
						t.Errorf("the refusal gives the signature away: %s", message)
					}
				}
			}
			c.subscribeAs(test.channel, good, data)
			c.expect(answer...)
			c.settled()
		})
	}
}

// Other ways to write a subscription.
func TestSubscribeForms(t *testing.T) {
	addr := startEdge(t)
	for channel, form := range map[string]string{
		"x":               `{"channel":"x"}`,
		"y":               `{"channel":"y","auth":"ignored"}`,
		"z":               `{"channel":"z","auth":null,"channel_data":null,"more":[1]}`,
		"text":            `"{\"channel\":\"text\"}"`,
		"escaped":         `{"ch\u0061nnel":"\u0065scaped"}`,
		"private-null":    `{"channel":"private-null","auth":"TOKEN","channel_data":null}`,
		"private-nothing": `{"channel":"private-nothing","auth":"TOKEN","channel_data":""}`,
		"private-text":    `"{\"channel\":\"private-text\",\"auth\":\"TOKEN\"}"`,
	} {
		c := connect(t, addr)
		c.send(`{"event":"pusher:subscribe","data":%s}`, strings.Replace(form, "TOKEN", c.token(channel, ""), 1))
		c.expect(succeeded(channel))
	}
	c := connect(t, addr)
	for _, form := range []string{`{}`, `{"channel":null}`, `{"channel":""}`, `{"channel":1}`, `{"auth":""}`, `[]`, `null`, `"x"`, `7`,
		`{"channel":"x","channel":"y"}`, `{"channel":"presence-x","channel_data":{"user_id":"1"}}`} {
		c.send(`{"event":"pusher:subscribe","data":%s}`, form)
		c.expectError(0)
		c.settled()
	}
	c.send(`{"event":"pusher:subscribe"}`)
	c.expectError(0)
}

// On a private channel channel_data means nothing, but is signed.
func TestPrivateChannelData(t *testing.T) {
	c := connect(t, startEdge(t))
	c.subscribeAs("private-x", c.token("private-x", ""), `{"a":1}`)
	c.expectRefusal("private-x", "AuthError", 401)
	c.subscribeAs("private-x", c.token("private-x", `{"a":1}`), "")
	c.expectRefusal("private-x", "AuthError", 401)
	c.subscribeAs("private-x", c.token("private-x", `{"a":1}`), `{"a":1}`)
	c.expect(succeeded("private-x"))
	c.subscribeAs("private-y", c.token("private-y", `not < JSON`), `not < JSON`)
	c.expect(succeeded("private-y"))
}

func TestSubscribeTwice(t *testing.T) {
	addr := startEdge(t)
	c := connect(t, addr)
	for _, channel := range []string{"x", "private-x", "presence-x"} {
		c.enter(channel, `{"user_id":"1"}`)
		c.subscribe(channel, `{"user_id":"2"}`)
		c.expect(errorFrame(0, "Existing subscription to channel "+channel))
		publish(t, addr, channel, "once", "{}")
		c.expect(event("once", channel, "{}"))
		c.settled()
	}
}

func TestUnsubscribe(t *testing.T) {
	addr := startEdge(t)
	c := connect(t, addr)
	for _, channel := range []string{"a", "b", "c"} {
		c.join(channel)
	}
	c.unsubscribe("a")
	c.settled()
	publish(t, addr, "a", "later", "{}")
	for _, channel := range []string{"b", "c"} {
		publish(t, addr, channel, "later", "{}")
		c.expect(event("later", channel, "{}"))
	}
	for _, channel := range []string{"a", "never", "private-never", "#server-to-user-1", "not a name"} {
		c.unsubscribe(channel)
		c.expect(errorFrame(0, "No current subscription to channel "+channel+", or subscription in progress"))
	}
	c.join("a")
	c.send(`{"event":"pusher:unsubscribe","data":"{\"channel\":\"a\"}"}`)
	c.settled()
	c.send(`{"event":"pusher:unsubscribe","data":{}}`)
	c.expectError(0)
	c.join("a")
}

func TestChannelNames(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-=@,.;"
	c := connect(t, startEdge(t))
	for _, name := range []string{alphabet, "-", strings.Repeat("x", 200)} {
		c.join(name)
	}
	for _, name := range []string{strings.Repeat("x", 201), "a b", "a:b", "a/b", "a#b", "#", "##x", "#x", "#private-x", "#server-to-user-",
		"#server-to-user", "é", "a\x00", "a\n", "a\"", "a\\", "a\u202e", "a%2e", "a?", "a*"} {
		c.subscribe(name, "")
		c.expectRefusal(name, "InvalidChannel", 400)
	}
	for b := range 128 {
		if name := string(rune(b)); !strings.Contains(alphabet, name) {
			c.subscribe(name, "")
			c.expectRefusal(name, "InvalidChannel", 400)
		}
	}
	c = connect(t, startEdge(t, "-channel-name=164"))
	c.join(strings.Repeat("x", 164))
	c.subscribe(strings.Repeat("x", 165), "")
	c.expectRefusal(strings.Repeat("x", 165), "InvalidChannel", 400)
}

func TestChannelsPerConnection(t *testing.T) {
	c := connect(t, startEdge(t))
	for i := range 1000 {
		c.join(fmt.Sprint("x", i))
	}
	c.subscribe("one-too-many", "")
	c.expectRefusal("one-too-many", "LimitReached", 4100)
	c.unsubscribe("x500")
	c.join("one-too-many")
}

// What is encrypted passes through as it is.
func TestEncryptedEvent(t *testing.T) {
	addr := startEdge(t)
	c := connect(t, addr)
	c.join("private-encrypted-x")
	body := `{"name":"e","channel":"private-encrypted-x","data":"{ \"nonce\" : \"a+\/=\", \"ciphertext\":\"\u0041\u00e9é\" }"}`
	if status, answer := apiCall(t, addr, "POST", "/apps/1/events", "", body); status != http.StatusOK {
		t.Fatal(status, answer)
	}
	c.expect(`{"event":"e","channel":"private-encrypted-x","data":"{ \"nonce\" : \"a+\/=\", \"ciphertext\":\"\u0041\u00e9é\" }"}`)
}

// Presence channels

func TestPresence(t *testing.T) {
	const channel, infoA = "presence-x", `{"name":"A","tags":["\u00e9",1.50]}`
	addr := startEdge(t)
	a, b, a2 := connect(t, addr), connect(t, addr), connect(t, addr)
	a.subscribe(channel, `{"user_id":"10","user_info":`+infoA+`}`)
	a.expect(snapshot(channel, "10", infoA))
	b.subscribe(channel, `{"user_id":"11"}`)
	b.expect(snapshot(channel, "10", infoA, "11", "{}"))
	a.expect(memberAdded(channel, "11", "{}"))

	a2.subscribe(channel, `{"user_id":"10","user_info":{"name":"another"}}`) // a second tab: nobody else is told
	a2.expect(snapshot(channel, "10", infoA, "11", "{}"))
	a.settled()
	b.settled()
	a.unsubscribe(channel)
	a.settled()
	b.settled()
	a2.settled()

	b.unsubscribe(channel)
	a2.expect(memberRemoved(channel, "11"))
	b.subscribe(channel, `{"user_id":"12","user_info":{}}`)
	b.expect(snapshot(channel, "10", infoA, "12", "{}"))
	a2.expect(memberAdded(channel, "12", "{}"))
	a2.leave() // the last tab
	b.expect(memberRemoved(channel, "10"))
	b.settled()
	a.subscribe(channel, `{"user_id":"10","user_info":{"name":"later"}}`)
	a.expect(snapshot(channel, "12", "{}", "10", `{"name":"later"}`))
	b.expect(memberAdded(channel, "10", `{"name":"later"}`))
	a.settled()
}

// Ways to leave a presence channel.
func TestPresenceLeave(t *testing.T) {
	addr := startEdge(t)
	for name, leave := range map[string]func(c *peer){
		"unsubscribe": func(c *peer) { c.unsubscribe("presence-x") },
		"close frame": func(c *peer) { c.raw(maskedFrame(0x80|conn.OpClose, []byte{3, 0xe8})) },
		"end":         func(c *peer) { c.leave() },
		"reset":       func(c *peer) { c.conn.(*net.TCPConn).SetLinger(0); c.leave() },
		"bad frame":   func(c *peer) { c.raw([]byte{0xff, 0xff}) },
	} {
		t.Run(name, func(t *testing.T) {
			stays, leaves := connect(t, addr), connect(t, addr)
			stays.enter("presence-x", `{"user_id":"1"}`)
			leaves.enter("presence-x", `{"user_id":"2"}`)
			stays.expect(memberAdded("presence-x", "2", "{}"))
			leave(leaves)
			stays.expect(memberRemoved("presence-x", "2"))
			leaves.leave()
			stays.settled()
		})
	}
}

func TestPresenceData(t *testing.T) {
	addr := startEdge(t)
	long := strings.Repeat("é", 128)
	for data, want := range map[string][2]string{
		`{"user_id":"10"}`:                                         {"10", "{}"},
		`{"user_id":10}`:                                           {"10", "{}"}, // a string from here on
		`{"user_id":9007199254740993}`:                             {"9007199254740993", "{}"},
		`{"user_id":-5}`:                                           {"-5", "{}"},
		`{"user_id":0,"user_info":null}`:                           {"0", "{}"},
		`{"user_id":"a\"\\\u00e9\n","user_info":{}}`:               {"a\"\\é\n", "{}"},
		`{"user_id":"` + long + `"}`:                               {long, "{}"},
		` { "x" : 1 , "user_id" : "1" } `:                          {"1", "{}"},
		`{"user_info":{"a":[1e400,"\ud83d\ude00"]},"user_id":"1"}`: {"1", `{"a":[1e400,"\ud83d\ude00"]}`},
		`{"user_id":"1","user_info":` + infoOf(1024) + `}`:         {"1", infoOf(1024)},
	} {
		c := connect(t, addr)
		c.subscribe("presence-x", data)
		c.expect(snapshot("presence-x", want[0], want[1]))
		c.unsubscribe("presence-x")
		c.settled()
	}
}

// infoOf is user_info of n bytes.
func infoOf(n int) string { return `{"x":"` + strings.Repeat("x", n-8) + `"}` }

func TestBadPresenceData(t *testing.T) {
	c := connect(t, startEdge(t))
	for _, data := range []string{"x", "{", "[]", "1", `"1"`, "null", "{}", `{"user_id":null}`, `{"user_id":""}`, `{"user_id":true}`,
		`{"user_id":[]}`, `{"user_id":{}}`, `{"user_id":1.5}`, `{"user_id":1e3}`, `{"user_id":01}`, `{"user_info":{}}`, `{"id":"1"}`,
		`{"user_id":"1","user_id":"2"}`, `{"user_id":"1","user_\u0069d":"2"}`, `{"user_id":"1"} x`, `{"user_id":"1",}`, "{\"user_id\":\"\x01\"}",
		`{"user_id":"` + strings.Repeat("x", 129) + `"}`, `{"user_id":"1","user_info":` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + `}`} {
		c.subscribe("presence-x", data)
		c.expectRefusal("presence-x", "AuthError", 400)
	}
	c.subscribe("presence-x", `{"user_id":"1","user_info":`+infoOf(1025)+`}`)
	c.expectRefusal("presence-x", "LimitReached", 4301)
	c.subscribe("presence-x", "")
	c.expectRefusal("presence-x", "AuthError", 401)
	c.subscribe("presence-x", `{"user_id":"1"}`)
	c.expect(snapshot("presence-x", "1", "{}"))
}

func TestPresenceIsFull(t *testing.T) {
	const channel = "presence-x"
	addr := startEdge(t)
	for i := range 100 {
		connect(t, addr).enter(channel, fmt.Sprintf(`{"user_id":%d,"user_info":%s}`, i, infoOf(1024)))
	}
	c, tab := connect(t, addr), connect(t, addr)
	c.subscribe(channel, `{"user_id":100}`)
	c.expectRefusal(channel, "LimitReached", 4100)
	tab.subscribe(channel, `{"user_id":"7"}`)
	if got := tab.text(); len(got) < 100<<10 || !strings.HasPrefix(got, `{"event":"pusher_internal:subscription_succeeded","channel":"presence-x","data":"{\"presence\":{\"count\":100,`) {
		t.Errorf("second tab of a member got %.200s", got)
	}
	tab.settled()
}

// TestPresenceOfUser joins presence channels as the user the connection is signed in as.
func TestPresenceOfUser(t *testing.T) {
	addr := startEdge(t)
	c := connect(t, addr)
	c.subscribe("presence-x", "")
	c.expectRefusal("presence-x", "AuthError", 401)
	c.signIn(`{"id":"5","user_info":{"name":"Five"}}`)
	c.subscribe("presence-x", "")
	c.expect(snapshot("presence-x", "5", `{"name":"Five"}`))
	c.subscribe("presence-y", `{"user_id":"6"}`) // channel_data goes before
	c.expect(snapshot("presence-y", "6", "{}"))
	c = connect(t, addr)
	c.signIn(`{"id":"7"}`)
	c.subscribe("presence-z", "")
	c.expect(snapshot("presence-z", "7", "{}"))
	c = connect(t, addr)
	c.signIn(`{"id":"8","user_info":` + infoOf(1025) + `}`)
	c.subscribe("presence-z", "")
	c.expectRefusal("presence-z", "LimitReached", 4301)
}

// Cache channels

func TestCache(t *testing.T) {
	addr := startEdge(t)
	for _, channel := range []string{"cache-x", "private-cache-x", "private-encrypted-cache-x", "presence-cache-x"} {
		t.Run(channel, func(t *testing.T) {
			const user = `{"user_id":"1"}`
			answer := succeeded(channel)
			if strings.HasPrefix(channel, "presence-") {
				answer = snapshot(channel, "1", "{}")
			}
			c := connect(t, addr)
			c.subscribe(channel, user)
			c.expect(answer, cacheMiss(channel))
			c.leave()
			publish(t, addr, channel, "first", "1") // nobody need be there
			publishBatch(t, addr, channel, "last", "{\"x\":\"é\n\"}")
			last := event("last", channel, "{\"x\":\"é\n\"}")
			for range 2 {
				c = connect(t, addr)
				c.subscribe(channel, user)
				c.expect(answer, last)
				c.unsubscribe(channel)
				c.settled()
			}
			c.subscribe(channel, user)
			c.expect(answer, last)
			publish(t, addr, channel, "live", "2")
			c.expect(event("live", channel, "2"))
			c.settled()
		})
	}
}

// publishBatch is publish by the other call that triggers events.
func publishBatch(t testing.TB, addr, channel, name, data string) {
	t.Helper()
	body := fmt.Sprintf(`{"batch":[{"name":"not the last","channel":%s,"data":""},{"name":%s,"channel":%s,"data":%s}]}`,
		quote(channel), quote(name), quote(channel), quote(data))
	if status, answer := apiCall(t, addr, "POST", "/apps/1/batch_events", "", body); status != http.StatusOK || answer != "{}" {
		t.Fatalf("POST /batch_events: %d %s", status, answer)
	}
}

// An event that a connection did not get because it sent it is cached all the same.
func TestCacheOfExcludedSocket(t *testing.T) {
	addr := startEdge(t)
	c := connect(t, addr)
	c.enter("cache-x", "")
	status, answer := apiCall(t, addr, "POST", "/apps/1/events", "", `{"name":"e","channel":"cache-x","data":"{}","socket_id":"`+c.id+`"}`)
	if status != http.StatusOK {
		t.Fatal(status, answer)
	}
	c.settled()
	c.unsubscribe("cache-x")
	c.subscribe("cache-x", "")
	c.expect(succeeded("cache-x"), event("e", "cache-x", "{}"))
}

func TestCacheWithoutClientEvents(t *testing.T) {
	const channel = "private-cache-x"
	addr := startEdge(t)
	a, b := connect(t, addr), connect(t, addr)
	a.enter(channel, "")
	b.enter(channel, "")
	a.send(`{"event":"client-e","channel":%q,"data":"{}"}`, channel)
	b.expect(event("client-e", channel, "{}"))
	c := connect(t, addr)
	c.subscribe(channel, "")
	c.expect(succeeded(channel), cacheMiss(channel))
}

func TestCacheExpires(t *testing.T) {
	t.Parallel()
	s := startServer(t, "-cache-ttl=1s")
	c := connect(t, s.addr)
	c.enter("cache-occupied", "")
	began := time.Now()
	publish(t, s.addr, "cache-occupied", "e", "{}")
	publish(t, s.addr, "cache-empty", "e", "{}")
	c.expect(event("e", "cache-occupied", "{}"))
	waitUntil(t, "the cached events have expired", func() bool {
		return s.app.Channel("cache-empty") == nil && s.app.ChannelInfo("cache-occupied").Cached == nil
	})
	if age := time.Since(began); age < time.Second {
		t.Errorf("expired after %s", age)
	}
	for _, channel := range []string{"cache-empty", "cache-occupied"} {
		late := connect(t, s.addr)
		late.subscribe(channel, "")
		late.expect(succeeded(channel), cacheMiss(channel))
	}
	c.settled()
}

// TestCacheAndLiveEvents joins while events are published: each must follow the one that was cached, none lost, none twice.
func TestCacheAndLiveEvents(t *testing.T) {
	s := startServer(t, "-send-buffer=100000000") // this test may be held up
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // ends with the test
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				s.app.Trigger("cache-x", wire.KindCache, channel.Event{Name: []byte("n"), Data: quote(strconv.Itoa(i)), Keep: true})
				time.Sleep(10 * time.Microsecond)
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	waitUntil(t, "something is cached", func() bool { return s.app.ChannelInfo("cache-x").Cached != nil })
	for range 20 {
		c := connect(t, s.addr)
		c.join("cache-x")
		for i, want := 0, 0; i < 100; i, want = i+1, want+1 {
			var e struct{ Data string }
			json.Unmarshal([]byte(c.text()), &e)
			n, err := strconv.Atoi(e.Data)
			if i == 0 {
				want = n
			}
			if err != nil || n != want {
				t.Fatalf("event %d after joining was %q, want %d", i, e.Data, want)
			}
		}
		c.leave()
	}
}

// subscription_count

func TestSubscriptionCount(t *testing.T) {
	addr := startEdge(t, "-subscription-count")
	for _, channel := range []string{"x", "private-x", "private-encrypted-x"} {
		a, b := connect(t, addr), connect(t, addr)
		a.subscribe(channel, "")
		a.expect(succeeded(channel), subscriptionCount(channel, 1))
		b.subscribe(channel, "")
		b.expect(succeeded(channel), subscriptionCount(channel, 2))
		a.expect(subscriptionCount(channel, 2))
		a.unsubscribe(channel)
		b.expect(subscriptionCount(channel, 1))
		a.settled()
		a.join(channel)
		a.expect(subscriptionCount(channel, 2))
		b.expect(subscriptionCount(channel, 2))
		a.leave()
		b.expect(subscriptionCount(channel, 1))
		b.leave()
	}
	c := connect(t, addr)
	publish(t, addr, "cache-full", "e", "{}")
	c.subscribe("cache-full", "")
	c.expect(succeeded("cache-full"), event("e", "cache-full", "{}"), subscriptionCount("cache-full", 1))
	c.subscribe("cache-empty", "")
	c.expect(succeeded("cache-empty"), cacheMiss("cache-empty"), subscriptionCount("cache-empty", 1))
	c.subscribe("presence-x", `{"user_id":"1"}`)
	c.expect(snapshot("presence-x", "1", "{}"))
	c.settled()
	d := connect(t, addr)
	d.subscribe("cache-empty", "") // the count is not an event to be cached
	d.expect(succeeded("cache-empty"), cacheMiss("cache-empty"), subscriptionCount("cache-empty", 2))
}

// recorder is the far end of a Socket that has no network: it keeps what is written.
type recorder struct {
	net.Conn
	mu      sync.Mutex // guards written
	written bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.written.Write(p)
}

func (r *recorder) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.written.Read(p)
}

func (r *recorder) SetWriteDeadline(time.Time) error { return nil }
func (r *recorder) RemoteAddr() net.Addr             { return nil }

// offline returns a Socket, and a client that reads what is delivered to it.
func offline(t testing.TB) (*channel.Socket, *peer) {
	r := new(recorder)
	c := newClient(testApp(t))
	c.Conn.Init(r, nil, &c.app.Conns, c)
	return &c.Socket, &peer{t: t, conn: r, in: bufio.NewReader(r)}
}

// 5. Client events

func TestClientEvent(t *testing.T) {
	s := startServer(t)
	for _, test := range []struct{ channel, sender string }{
		{"private-x", ""},
		{"private-cache-x", ""},
		{"presence-x", `,"user_id":"10"`},
		{"presence-cache-x", `,"user_id":"10"`},
	} {
		t.Run(test.channel, func(t *testing.T) {
			a, tab, b, outsider := connect(t, s.addr), connect(t, s.addr), connect(t, s.addr), connect(t, s.addr)
			a.enter(test.channel, `{"user_id":10}`)
			tab.enter(test.channel, `{"user_id":"10"}`)
			b.enter(test.channel, `{"user_id":"11"}`)
			outsider.join("private-other")
			s.app.Flush()
			a.arrived() // member_added
			tab.arrived()
			a.send(`{"event":"client-typing","data":{"x":1},"channel":%q,"user_id":"99","socket_id":"1.1","more":{"x":[]}}`, test.channel)
			want := fmt.Sprintf(`{"event":"client-typing","channel":%q,"data":"{\"x\":1}"%s}`, test.channel, test.sender)
			tab.expect(want)
			b.expect(want)
			s.app.Flush()
			a.settled()
			outsider.settled()
		})
	}
}

func TestClientEventData(t *testing.T) {
	addr := startEdge(t)
	b := connect(t, addr)
	b.join("private-x")
	sender := func() *peer {
		c := connect(t, addr)
		c.join("private-x")
		return c
	}
	for data, want := range map[string]string{
		`"text"`:                       `"text"`,
		`""`:                           `""`,
		`"a\u0041\/\"\n\ud83d\ude00é"`: `"a\u0041\/\"\n\ud83d\ude00é"`,
		`"{\"x\":1}"`:                  `"{\"x\":1}"`,
		`{}`:                           `"{}"`,
		`{"a":"b\n","a\u0041":[1,2.50,1e400,-0],"x":null}`: `"{\"a\":\"b\\n\",\"a\\u0041\":[1,2.50,1e400,-0],\"x\":null}"`,
		`[true,"é"]`:                    `"[true,\"é\"]"`,
		`12.50`:                         `"12.50"`,
		`false`:                         `"false"`,
		`null`:                          `"null"`,
		string(quote(long(10_240))):     string(quote(long(10_240))),
		`["` + long(10_240-4) + `"]`:    `"[\"` + long(10_240-4) + `\"]"`,
		strings.Repeat(" ", 20) + `"x"`: `"x"`,
	} {
		a := sender()
		a.send(`{"event":"client-e","channel":"private-x","data":%s}`, data)
		b.expect(fmt.Sprintf(`{"event":"client-e","channel":"private-x","data":%s}`, want))
		a.settled()
		a.leave()
	}
	a, name := sender(), "client-"+strings.Repeat("é", 193)
	a.send(`{"event":%q,"channel":"private-x","data":"{}"}`, name)
	b.expect(event(name, "private-x", "{}"))
	for _, data := range []string{string(quote(long(10_241))), `["` + long(10_240-3) + `"]`} {
		a.send(`{"event":"client-e","channel":"private-x","data":%s}`, data)
		a.expect(channelError(0, "Client event rejected - the data may have at most 10240 bytes", "private-x"))
	}
	b.settled()
}

func long(n int) string { return strings.Repeat("x", n) }

func TestRejectedClientEvents(t *testing.T) {
	const unsupported = "Client event rejected - only supported on private and presence channels"
	addr := startEdge(t)
	sender, member := connect(t, addr), connect(t, addr)
	for _, c := range []*peer{sender, member} {
		for _, channel := range []string{"x", "cache-x", "private-x", "private-encrypted-x", "private-encrypted-cache-x"} {
			c.enter(channel, "")
		}
		c.signIn(`{"id":"1"}`)
	}
	member.join("private-y")
	member.enter("presence-y", `{"user_id":"1"}`)
	for _, test := range []struct{ channel, message string }{
		{"x", unsupported},
		{"nowhere", unsupported},
		{"cache-x", unsupported},
		{"private-encrypted-x", unsupported},
		{"private-encrypted-cache-x", unsupported},
		{"#server-to-user-1", unsupported},
		{"private-y", "Client event rejected - not subscribed to channel private-y"},
		{"presence-y", "Client event rejected - not subscribed to channel presence-y"},
		{"private-nobody", "Client event rejected - not subscribed to channel private-nobody"},
	} {
		sender.send(`{"event":"client-e","channel":%q,"data":"{}"}`, test.channel)
		sender.expect(channelError(0, test.message, test.channel))
	}
	sender.send(`{"event":"client-e","data":"{}"}`)
	sender.expect(errorFrame(0, "Invalid client event (must contain channel and data)"))
	sender.send(`{"event":"client-e","channel":"private-x"}`)
	sender.expect(channelError(0, "Invalid client event (must contain channel and data)", "private-x"))
	sender.send(`{"event":"client-%s","channel":"private-x","data":"{}"}`, strings.Repeat("x", 194))
	sender.expect(channelError(0, "Client event rejected - the name may have at most 200 characters", "private-x"))
	sender.send(`{"event":"clientele","channel":"private-x","data":"{}"}`) // not a client event
	member.settled()
	sender.unsubscribe("private-x")
	sender.send(`{"event":"client-e","channel":"private-x","data":"{}"}`)
	sender.expect(channelError(0, "Client event rejected - not subscribed to channel private-x", "private-x"))
	member.settled()
}

func TestDisabledClientEvents(t *testing.T) {
	addr := startEdge(t, "-client-events=false")
	a, b := connect(t, addr), connect(t, addr)
	a.join("private-x")
	b.join("private-x")
	a.send(`{"event":"client-e","channel":"private-x","data":"{}"}`)
	var e struct{ Data struct{ Message string } }
	got := a.text()
	json.Unmarshal([]byte(got), &e)
	if want := channelError(0, e.Data.Message, "private-x"); got != want || !strings.HasPrefix(e.Data.Message, "To send client events, you must enable this feature") {
		t.Errorf("got %s", got)
	}
	b.settled()
}

// TestClientEventRate sends many at once: ten pass, further ones as time goes by, and the rest is refused.
func TestClientEventRate(t *testing.T) {
	s := startServer(t)
	a, b, c := connect(t, s.addr), connect(t, s.addr), connect(t, s.addr)
	for _, c := range []*peer{a, b, c} {
		c.join("private-x")
	}
	const message = `{"event":"client-e","channel":"private-x","data":"{}"}`
	frame := maskedFrame(0x80|conn.OpText, []byte(message))
	a.raw([]byte(strings.Repeat(string(frame), 10)))
	a.settled()
	a.raw([]byte(strings.Repeat(string(frame), 50)))
	errors := a.arrived()
	for _, e := range errors {
		if want := channelError(4301, "Rate limit exceeded: at most 10 client events a second", "private-x"); e != want {
			t.Fatalf("got  %s\nwant %s", e, want)
		}
	}
	s.app.Flush()
	delivered := b.arrived()
	for _, e := range delivered {
		if want := event("client-e", "private-x", "{}"); e != want {
			t.Fatalf("got  %s\nwant %s", e, want)
		}
	}
	if len(delivered) < 10 || len(errors) == 0 || len(delivered)+len(errors) != 60 {
		t.Errorf("%d delivered, %d refused", len(delivered), len(errors))
	}
	// The limit is each connection's own.
	if n := len(c.arrived()); n != len(delivered) {
		t.Errorf("%d delivered to one, %d to another", len(delivered), n)
	}
	c.send(message)
	b.expect(event("client-e", "private-x", "{}"))
}

// Ten at once pass, the eleventh does not, a tenth of a second later one does.
func TestRate(t *testing.T) {
	var r conn.Rate
	now := int64(time.Hour)
	for i := range 10 {
		if !r.Allow(now, 10, 10) {
			t.Fatalf("number %d was refused", i+1)
		}
	}
	for _, step := range []struct {
		after   time.Duration
		allowed bool
	}{{0, false}, {99 * time.Millisecond, false}, {time.Millisecond, true}, {0, false}, {100 * time.Millisecond, true}, {time.Hour, true}} {
		now += int64(step.after)
		if r.Allow(now, 10, 10) != step.allowed {
			t.Fatalf("%v: allowed %t", step, !step.allowed)
		}
	}
}

// 6. Users

// userToken signs a signin of c.
func (c *peer) userToken(userData string) string {
	id, _ := wire.ParseSocketID(c.id)
	return "key:" + string(testKey.Sign(nil, sign.UserText(nil, id.String(), []byte(userData))))
}

func (c *peer) sendSignin(auth, userData string) {
	c.t.Helper()
	c.send(`{"event":"pusher:signin","data":{"auth":%s,"user_data":%s}}`, quote(auth), quote(userData))
}

// SignIn signs in and reads the answer, but not what the watchlist brings.
func (c *peer) signIn(userData string) {
	c.t.Helper()
	c.sendSignin(c.userToken(userData), userData)
	c.expect(fmt.Sprintf(`{"event":"pusher:signin_success","data":{"user_data":%s}}`, quote(userData)))
}

const userChannel = "#server-to-user-"

// signedIn reports whether c is signed in as the user.
func (c *peer) signedIn(id string) bool {
	c.t.Helper()
	c.subscribeAs(userChannel+id, "", "")
	frames := c.arrived()
	return len(frames) == 1 && frames[0] == succeeded(userChannel+id)
}

func TestSignin(t *testing.T) {
	addr := startEdge(t)
	for _, userData := range []string{
		`{"id":"12345"}`,
		`{"id":"12345","user_info":{},"watchlist":[]}`,
		` { "id" : "12345" , "user_info" : { "name" : "\u00e9\/é<>&" } , "x" : 1e400 } `, // verbatim
		`{"id":"12345","user_info":null,"watchlist":null}`,
	} {
		c := connect(t, addr)
		c.signIn(userData)
		c.settled()
		if !c.signedIn("12345") {
			t.Errorf("not signed in with %s", userData)
		}
	}
	c := connect(t, addr)
	data := `{"id":"a@b.c"}`
	c.send(`{"event":"pusher:signin","data":%s}`, quote(fmt.Sprintf(`{"auth":%s,"user_data":%s}`, quote(c.userToken(data)), quote(data))))
	c.expect(`{"event":"pusher:signin_success","data":{"user_data":"{\"id\":\"a@b.c\"}"}}`)
	c.signIn(data) // the same user once more
	c.signIn(`{"id":"a@b.c","user_info":{}}`)
	c.settled()
	other := `{"id":"other"}`
	c.sendSignin(c.userToken(other), other)
	c.expectError(0)
	if c.signedIn("other") || !c.signedIn("a@b.c") {
		t.Error("a second signin changed the user")
	}
}

func TestBadSignin(t *testing.T) {
	addr := startEdge(t)
	c, other := connect(t, addr), connect(t, addr)
	const good = `{"id":"1"}`
	for _, auth := range []string{"", "key", "key:", c.userToken(good)[4:], "nokey" + c.userToken(good)[3:], c.userToken(good) + "0", other.userToken(good),
		c.userToken(`{"id":"2"}`), c.token(":user", good), c.token("x", "")} {
		c.sendSignin(auth, good)
		if message := c.expectError(0); strings.Contains(message, c.userToken(good)[4:]) && !strings.Contains(auth, c.userToken(good)[4:]) {
			t.Errorf("the error gives the signature away: %s", message)
		}
		c.settled()
	}
	for _, data := range []string{"", "x", "[]", "null", `"1"`, "{}", `{"id":""}`, `{"id":null}`, `{"id":1}`, `{"id":["1"]}`, `{"user_id":"1"}`,
		`{"id":"1","id":"1"}`, `{"id":"1"}}`, `{"id":"` + strings.Repeat("x", 201) + `"}`, `{"id":"1","watchlist":"2"}`, `{"id":"1","watchlist":[2]}`} {
		c.sendSignin(c.userToken(data), data)
		c.expectError(0)
		c.settled()
	}
	for _, data := range []string{"{}", "null", "[]", `"x"`, "1", `{"auth":"` + c.userToken(good) + `"}`, `{"user_data":"{\"id\":\"1\"}"}`,
		`{"auth":"` + c.userToken(good) + `","user_data":{"id":"1"}}`, `{"auth":1,"user_data":"{\"id\":\"1\"}"}`} {
		c.send(`{"event":"pusher:signin","data":%s}`, data)
		c.expectError(0)
	}
	c.send(`{"event":"pusher:signin"}`)
	c.expectError(0)
	if c.signedIn("1") {
		t.Error("signed in all the same")
	}
}

// The id of a user is part of a channel's name.
func TestUserIDCharacters(t *testing.T) {
	c := connect(t, startEdge(t))
	for _, id := range []string{"a b", "a:b", "é", `a\"b`, "#"} {
		c.sendSignin(c.userToken(`{"id":"`+id+`"}`), `{"id":"`+id+`"}`)
		c.expectError(0)
	}
}

func TestServerToUser(t *testing.T) {
	const channel = userChannel + "1"
	addr := startEdge(t)
	a, tab, b, nobody := connect(t, addr), connect(t, addr), connect(t, addr), connect(t, addr)
	a.signIn(`{"id":"1"}`)
	tab.signIn(`{"id":"1"}`)
	b.signIn(`{"id":"2"}`)
	nobody.enter("presence-x", `{"user_id":"1"}`)
	for _, c := range []*peer{b, nobody} {
		c.subscribeAs(channel, "", "")
		c.expectRefusal(channel, "AuthError", 401)
		c.subscribe(channel, "") // no signature helps
		c.expectRefusal(channel, "AuthError", 401)
	}
	tell := func(name string) string {
		publish(t, addr, channel, name, `{"x":1}`)
		return event(name, channel, `{"x":1}`)
	}
	first := tell("before subscribing")
	a.expect(first)
	tab.expect(first)
	a.subscribeAs(channel, "", "")
	a.expect(succeeded(channel))
	a.subscribeAs(channel, "", "")
	a.expect(errorFrame(0, "Existing subscription to channel "+channel))
	second := tell("once to each")
	a.expect(second)
	tab.expect(second)
	a.unsubscribe(channel)
	a.unsubscribe(channel)
	a.expect(errorFrame(0, "No current subscription to channel "+channel+", or subscription in progress"))
	tab.leave()
	a.expect(tell("still signed in"))
	for _, c := range []*peer{a, b, nobody} {
		c.settled()
	}
	if status, answer := apiCall(t, addr, "GET", "/apps/1/channels", "", ""); answer != `{"channels":{"presence-x":{}}}` {
		t.Errorf("GET /channels: %d %s", status, answer)
	}
}

func watchlist(events string) string {
	return fmt.Sprintf(`{"event":"pusher_internal:watchlist_events","data":%s}`, quote(`{"events":[`+events+`]}`))
}

func TestWatchlist(t *testing.T) {
	addr := startEdge(t)
	online := func(id string) string { return watchlist(`{"name":"online","user_ids":["` + id + `"]}`) }
	offline := func(id string) string { return watchlist(`{"name":"offline","user_ids":["` + id + `"]}`) }
	one, two, tab := connect(t, addr), connect(t, addr), connect(t, addr)
	one.signIn(`{"id":"1"}`)
	one.settled()
	w := connect(t, addr)
	w.signIn(`{"id":"w","watchlist":["3","1","2"]}`)
	w.expect(watchlist(`{"name":"online","user_ids":["1"]},{"name":"offline","user_ids":["3","2"]}`))
	two.signIn(`{"id":"2","watchlist":["1","w"]}`)
	two.expect(watchlist(`{"name":"online","user_ids":["1","w"]}`))
	w.expect(online("2"))
	tab.signIn(`{"id":"2","watchlist":["3"]}`) // the second connection of 2
	tab.expect(watchlist(`{"name":"offline","user_ids":["3"]}`))
	w.settled()
	two.leave()
	one.leave()
	w.expect(offline("1"))
	tab.settled()
	tab.leave()
	w.expect(offline("2"))
	tab = connect(t, addr)
	tab.signIn(`{"id":"2"}`)
	w.expect(online("2"))
	w.signIn(`{"id":"w","watchlist":["3","1","2"]}`) // nothing new
	w.settled()
}

// One who watches himself is online.
func TestWatchingOneself(t *testing.T) {
	addr := startEdge(t)
	c, tab := connect(t, addr), connect(t, addr)
	c.signIn(`{"id":"1","watchlist":["1"]}`)
	c.expect(watchlist(`{"name":"online","user_ids":["1"]}`))
	tab.signIn(`{"id":"1"}`)
	tab.settled()
	c.settled()
}

func TestLongWatchlist(t *testing.T) {
	addr := startEdge(t)
	var ids []string
	for i := range 101 {
		ids = append(ids, string(quote(fmt.Sprint("u", i))))
	}
	for _, n := range []int{100, 101} {
		c := connect(t, addr)
		c.signIn(fmt.Sprintf(`{"id":"w","watchlist":[%s]}`, strings.Join(ids[:n], ",")))
		if n > 100 {
			if message := c.expectError(4302); !strings.Contains(message, "u99") || strings.Contains(message, "u100") {
				t.Errorf("4302 does not name the accepted users: %s", message)
			}
		}
		c.expect(watchlist(`{"name":"offline","user_ids":[` + strings.Join(ids[:100], ",") + `]}`))
		c.settled()
		late := connect(t, addr)
		late.signIn(`{"id":"u100"}`)
		late.settled()
		c.settled()
		late.leave()
	}
}

func TestTerminate(t *testing.T) {
	addr := startEdge(t)
	a, tab, other, member := connect(t, addr), connect(t, addr), connect(t, addr), connect(t, addr)
	a.signIn(`{"id":"1"}`)
	tab.signIn(`{"id":"1"}`)
	other.signIn(`{"id":"2"}`)
	member.enter("presence-x", `{"user_id":"1"}`)
	if status, answer := apiCall(t, addr, "POST", "/apps/1/users/1/terminate_connections", "", "{}"); status != http.StatusOK || answer != "{}" {
		t.Fatal(status, answer)
	}
	a.expectClose(4009)
	tab.expectClose(4009)
	other.settled()
	member.settled()
}

// 7. Malformed messages

func TestMalformed(t *testing.T) {
	c := connect(t, startEdge(t))
	for _, message := range []string{"", "x", "{", "[]", "null", `"pusher:ping"`, "1", "{}", `{"event":null}`, `{"event":""}`, `{"event":1}`, `{"event":{}}`,
		`{"data":{}}`, `{"event":"pusher:ping"} x`, `{"event":"pusher:ping",}`, `{"event":"pusher:ping","event":"x"}`, `{"event":"\q"}`, `{"event":"x","data":01}`,
		`{"event":"pusher:ping","data":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "}", "{\"event\":\"a\x01\"}", "\ufeff{}"} {
		c.send("%s", message)
		c.expectError(0)
		c.settled()
	}
}

func TestMalformedInARow(t *testing.T) {
	c := connect(t, startEdge(t))
	for range 2 {
		for range 20 {
			c.send("not JSON")
			c.expectError(0)
		}
		c.settled() // a good one forgives them
	}
	for range 20 {
		c.send("not JSON")
		c.expectError(0)
	}
	c.send("not JSON")
	c.expectClose(4100)
}

func TestUnknownEvents(t *testing.T) {
	c := connect(t, startEdge(t))
	for _, name := range []string{"pusher:nonsense", "pusher_internal:member_added", "pusher:connection_established", "pusher:pong", "hello", "Pusher:ping", "client_x", "é"} {
		c.send(`{"event":%q,"data":{},"channel":"x"}`, name)
		c.settled()
	}
}

// 8. Shutdown

// TestShutdown stops the server: everyone is told to come back, after every event that was published before.
func TestShutdown(t *testing.T) {
	s := startServer(t)
	clients := make([]*peer, 20)
	for i := range clients {
		clients[i] = connect(t, s.addr)
		clients[i].join("x")
	}
	idle := connect(t, s.addr)
	const events = 50
	for i := range events {
		publish(t, s.addr, "x", "e", strconv.Itoa(i))
	}
	go s.stop() // the end of the test waits for it
	for _, c := range clients {
		for i := range events {
			c.expect(event("e", "x", strconv.Itoa(i)))
		}
		c.expectClose(4200)
	}
	idle.expectClose(4200)
}

// Who comes while the server stops is sent on too.
func TestConnectDuringShutdown(t *testing.T) {
	s := startServer(t)
	s.app.CloseSockets()
	handshake(t, s.addr, keyPath, "").expectTurnedAway(4200)
}

// TestCloseWhileConnecting: a connection that is closed as soon as it exists has been accepted first.
func TestCloseWhileConnecting(t *testing.T) {
	s := startServer(t)
	s.printTo(slog.New(lineHandler(func(line string) {
		if line == "connected" {
			go func() { // ends as soon as it may close it
				sockets, _ := s.app.CloseSockets()
				for _, socket := range sockets {
					socket.Close(wire.CodeReconnect, "Please reconnect immediately")
				}
			}()
			time.Sleep(100 * time.Millisecond) // for it, if it need not wait
		}
	})))
	c := connect(t, s.addr)
	c.expectClose(wire.CodeReconnect)
}

// lineHandler is told what is logged.
type lineHandler func(line string)

func (h lineHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h lineHandler) Handle(_ context.Context, r slog.Record) error {
	h(r.Message)
	return nil
}
func (h lineHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h lineHandler) WithGroup(string) slog.Handler      { return h }

// TestAuthorizedInTime: a client that is always in the middle of a frame has no more time to sign in than others.
func TestAuthorizedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startInBubbleWith(t, "-authorized-connections", "5s")(nil)
		began, message := time.Now(), maskedFrame(0x80|conn.OpText, []byte(`{"event":"x"}`))
		var sender sync.WaitGroup
		sender.Go(func() { // ends when the connection does
			time.Sleep(4 * time.Second)
			_, err := c.conn.Write(message[:3])
			for err == nil && time.Since(began) < time.Minute {
				time.Sleep(9 * time.Second)
				_, err = c.conn.Write(slices.Concat(message[3:], message[:3]))
			}
		})
		c.expectClose(wire.CodeUnauthorized)
		if took := time.Since(began); took > 7*time.Second { // and a moment for the other side to close too
			t.Errorf("closed after %s", took)
		}
		c.leave()
		sender.Wait()
	})
}

// TestCloseSocketsTwice: who waits for the connections to end is told, also if they are closed once more meanwhile.
func TestCloseSocketsTwice(t *testing.T) {
	s := startServer(t)
	c := connect(t, s.addr)
	_, first := s.app.CloseSockets()
	_, second := s.app.CloseSockets()
	c.leave()
	for _, ended := range []<-chan struct{}{first, second} {
		waitUntil(t, "it is told", func() bool {
			select {
			case <-ended:
				return true
			default:
				return false
			}
		})
	}
}

// A client that subscribes and unsubscribes without end is slowed down, not answered with errors.
func TestSubscribePace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startInBubble(t)(nil)
		began := time.Now()
		const pairs = 500
		var sender sync.WaitGroup
		defer sender.Wait()
		sender.Go(func() {
			for range pairs {
				c.send(`{"event":"pusher:subscribe","data":{"channel":"x"}}`)
				c.send(`{"event":"pusher:unsubscribe","data":{"channel":"x"}}`)
			}
		})
		for range pairs {
			c.expect(succeeded("x"))
		}
		if took, least := time.Since(began), (2*pairs-1-wire.SubscribeBurst)*time.Second/wire.SubscribeRate; took < least {
			t.Errorf("%d pairs took %s, want %s at least", pairs, took, least)
		}
	})
}

// What comes from outside does not write lines of its own into the log.
func TestLogInjection(t *testing.T) {
	var out syncBuffer
	s := startServer(t)
	s.logTo(&out)
	c := handshake(t, s.addr, "/app/x%0Afake%20line%1b%5B31m?protocol=7", "")
	c.text()
	c.expectClose(4001)
	c = connect(t, s.addr)
	c.send(`{"event":"pusher:subscribe","data":{"channel":"a\nfake line\u2028%s"}}`, strings.Repeat("x", 30_000))
	c.text()
	c.text()
	c.conn.Close()
	s.stop()
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "fake") || strings.Contains(line, "\x1b") || len(line) > 1000 {
			t.Errorf("logged %.200q", line)
		}
	}
	if !strings.Contains(out.String(), "fake line") {
		t.Errorf("not logged at all: %s", out.String())
	}
}

// syncBuffer is a bytes.Buffer for several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// take returns what has been written, and forgets it.
func (s *syncBuffer) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.b.Reset()
	return s.b.String()
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
