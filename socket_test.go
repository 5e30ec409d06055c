package main

// The protocol as a client sees it. Most of it is in the scripts of testdata/protocol; here is what cannot be said there:
// pieces of frames, many clients at once, and states that a client does not see.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/edgetest"
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

// TestProtocol plays the protocol's scripts in virtual time.
func TestProtocol(t *testing.T) {
	edgetest.Scenes(t, "testdata/protocol", func(t *testing.T, s *edgetest.Scene) {
		synctest.Test(t, func(t *testing.T) {
			_, dial := serverInBubble(t, s.Flags...)
			s.Play(t, edgetest.Stage{Dial: dial, Sleep: time.Sleep, Quiet: synctest.Wait})
		})
	})
}

// A request that is no upgrade is told what is required.
func TestUpgradeRequired(t *testing.T) {
	_, r := request(t, startEdge(t), "GET "+keyPath+" HTTP/1.1\nHost: edge\n\n")
	if r.StatusCode != 426 || r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Sec-WebSocket-Version") != "13" {
		t.Errorf("%s %v", r.Status, r.Header)
	}
}

// TestEarlyFrames sends frames in one packet with the handshake, whole or only their beginning.
func TestEarlyFrames(t *testing.T) {
	addr := startEdge(t)
	frames := slices.Concat(maskedFrame(0x80|conn.OpText, []byte(`{"event":"pusher:subscribe","data":{"channel":"x"}}`)),
		maskedFrame(0x80|conn.OpPing, []byte("early")))
	for n := range len(frames) + 1 {
		c := handshake(t, addr, keyPath, string(frames[:n]))
		c.established()
		c.raw(frames[n:])
		c.expect(succeeded("x"))
		if opcode, payload := c.frame(); opcode != conn.OpPong || string(payload) != "early" {
			t.Fatalf("got opcode %d %q", opcode, payload)
		}
		c.leave()
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
	time.Sleep(time.Until(conn.ProcessStart) + 1) // in a bubble it is the year 2000, and monotonic would not be positive
	s = serverOf(t, testOptions(t, args...))
	l := pipes{make(chan net.Conn), make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
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

// fragments is a message in n frames: first, nothing, nothing…, last.
func fragments(first, last []byte, n int) []byte {
	b := maskedFrame(conn.OpText, first)
	for range n - 2 {
		b = append(b, maskedFrame(conn.OpContinuation, nil)...)
	}
	return append(b, maskedFrame(0x80|conn.OpContinuation, last)...)
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

func long(n int) string { return strings.Repeat("x", n) }

// userToken signs a signin of c.
func (c *peer) userToken(userData string) string {
	id, _ := wire.ParseSocketID(c.id)
	return "key:" + string(testKey.Sign(nil, sign.UserText(nil, id.String(), []byte(userData))))
}

func (c *peer) sendSignin(auth, userData string) {
	c.t.Helper()
	c.send(`{"event":"pusher:signin","data":{"auth":%s,"user_data":%s}}`, quote(auth), quote(userData))
}

// signIn signs in and reads the answer, but not what the watchlist brings.
func (c *peer) signIn(userData string) {
	c.t.Helper()
	c.sendSignin(c.userToken(userData), userData)
	c.expect(fmt.Sprintf(`{"event":"pusher:signin_success","data":{"user_data":%s}}`, quote(userData)))
}

// Who comes while the server stops is sent on too.
func TestConnectDuringShutdown(t *testing.T) {
	s := startServer(t)
	s.app.CloseSockets()
	c := handshake(t, s.addr, keyPath, "")
	c.text()
	c.expectClose(wire.CodeReconnect)
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

// TestCloseSocketsTwice: who waits for the connections to end is told, also if they are closed once more meanwhile.
func TestCloseSocketsTwice(t *testing.T) {
	s := startServer(t)
	c := connect(t, s.addr)
	_, first := s.app.CloseSockets()
	_, second := s.app.CloseSockets()
	c.leave()
	for _, ended := range []<-chan struct{}{first, second} {
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("nobody is told")
		}
	}
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
