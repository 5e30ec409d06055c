package main

// What the other tests are written with: a server on a free port, and clients that speak raw TCP, so that a test reads like
// the protocol: send, expect.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"
	"unsafe"

	"edge/internal/channel"
	"edge/internal/config"
	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/logs"
	"edge/internal/sign"
	"edge/internal/wire"
)

// TestMain fails if goroutines, descriptors or memory are left when the tests are over, or the secret was seen.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_POLLER") == "no" { // all tests as on a system without one
		openPoller = func() (*conn.Poller, error) { return nil, nil }
	}
	conn.WriteTimeout = time.Minute // a test may be held up for longer than a client may
	conn.Poison = func(message []byte) {
		for i := range message {
			message[i] = 0xff // no UTF-8
		}
	}
	channel.Processors, channel.Segment = 3, 8 // so that also the channels of tests are large
	log.SetOutput(errorOutput)
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close() // now the runtime's own poller has its descriptors
	}
	files := edgetest.OpenFiles()
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	if left := edgetest.Leaked(); left != "" && code == 0 {
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", left)
		code = 1
	}
	if left := edgetest.LeakedFiles(files); left != "" && code == 0 {
		fmt.Fprintf(os.Stderr, "files left open:\n%s\n", left)
		code = 1
	}
	if left := liveHeap(); left > mostLeft && code == 0 {
		fmt.Fprintf(os.Stderr, "%d bytes of memory left behind\n", left)
		code = 1
	}
	for place := range leaks.places {
		fmt.Fprintf(os.Stderr, "the secret was seen in %s\n", place)
		code = 1
	}
	os.Exit(code)
}

// mostLeft is what caches and pools may still hold when all tests are over: less than a connection each of them would.
const mostLeft = 16 << 20

const patience = 2 * time.Minute // how long a test waits for what must come; only a failing test waits that long

// testServer is a running edge.
type testServer struct {
	*server
	addr string
	app  *app   // its first
	stop func() // shuts it down and waits; may be called again
}

// startEdge starts a server with the given flags, and returns its address. It ends with the test.
func startEdge(t testing.TB, args ...string) (addr string) { return startServer(t, args...).addr }

func startServer(t testing.TB, args ...string) *testServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return startOn(t, l, args...)
}

// startOn is startServer for a listener that is there.
func startOn(t testing.TB, l net.Listener, args ...string) *testServer {
	t.Helper()
	return serveOptions(t, l, testOptions(t, args...))
}

// serveOptions is startOn for options.
func serveOptions(t testing.TB, l net.Listener, o config.Options) *testServer {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &testServer{server: serverOf(t, o), addr: l.Addr().String()}
	s.app = s.apps.Load().all[0]
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx, s.seal(l, "", 0)) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

// noEnv is an environment without variables.
func noEnv(string) (string, bool) { return "", false }

// testOptions are what the flags say, with the key and secret of these tests unless they say others.
func testOptions(t testing.TB, args ...string) config.Options {
	t.Helper()
	o, err := config.Parse(append([]string{"-key", "key", "-secret", testSecret}, args...), noEnv)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// serverOf makes the server that the options describe.
func serverOf(t testing.TB, o config.Options) *server {
	t.Helper()
	s, err := newServer(o, conn.NewBudget(o.Memory), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.clock.built = time.Time{} // so that tests may run at any time
	return s
}

// testApp is the app of a server that nobody can connect to.
func testApp(t testing.TB, args ...string) *app {
	return serverOf(t, testOptions(t, args...)).apps.Load().all[0]
}

// offlineHandler is what answers the requests to a server that has no listener.
func (s *server) offlineHandler() http.Handler { return s.handler(&upgrader{apps: &s.apps}) }

// printTo has all that happens printed, from now on.
func (s *server) printTo(log *slog.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setVerboseLocked(false)
	s.printer = logs.NewPrinter(log)
	s.setVerboseLocked(true)
}

// clientOf is the client above a connection.
func clientOf(s *channel.Socket) *client { return (*client)(unsafe.Pointer(s)) } // which begins with it

// stopPump stops the pumps of the app where they are about to send an event of this name, until the function that it returns is
// called: observers run in them. reached is closed when the first has come so far.
func (a *app) stopPump(name string) (reached <-chan struct{}, goOn func()) {
	gate, there := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(there) })
	end := a.Observe(channel.AboutFrames, func(n channel.Notice) {
		if n.What == "sent" && bytes.HasPrefix(n.Data, []byte(`{"event":"`+name+`"`)) {
			once()
			<-gate
		}
	})
	return there, func() {
		end()
		close(gate)
	}
}

// Frames of a server, and one of a client with the masking key 0.
func closeFrame(code int, reason string) []byte {
	if code == 0 {
		return controlFrame(conn.OpClose, nil)
	}
	return controlFrame(conn.OpClose, append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...))
}

func controlFrame(opcode byte, payload []byte) []byte {
	return append([]byte{0x80 | opcode, byte(len(payload))}, payload...)
}

// upgraded is the answer to a handshake.
func upgraded(key string) []byte {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
}

// logTo has all that happens printed to w, from now on.
func (s *server) logTo(w io.Writer) {
	s.printTo(logs.New(w, false, false))
}

// peer is a WebSocket client that checks every frame it gets.
type peer struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
	id   string // socket id
}

// dial opens a TCP connection that ends with the test and on which nothing is waited for longer than patience.
func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// handshake opens a WebSocket connection; rest is sent in the same packet as the request.
func handshake(t testing.TB, addr, path, rest string) *peer {
	t.Helper()
	conn := dial(t, addr)
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n%s", path, addr, rest)
	c := &peer{t: t, conn: conn, in: bufio.NewReader(conn)}
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.StatusCode != http.StatusSwitchingProtocols || r.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("handshake for %s: %v", path, r)
	}
	return c
}

// connect opens a connection for the app key and reads connection_established.
func connect(t testing.TB, addr string) *peer {
	t.Helper()
	c := handshake(t, addr, "/app/key?protocol=7&client=test&version=1", "")
	c.established()
	return c
}

func (c *peer) established() {
	c.t.Helper()
	var hello struct{ Event, Data string }
	var data struct {
		SocketID string `json:"socket_id"`
	}
	json.Unmarshal([]byte(c.text()), &hello)
	json.Unmarshal([]byte(hello.Data), &data)
	if hello.Event != "pusher:connection_established" || data.SocketID == "" {
		c.t.Fatalf("no connection_established: %+v", hello)
	}
	c.id = data.SocketID
}

// maskedFrame is a client frame.
func maskedFrame(first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := [4]byte{0x12, 0x34, 0x56, 0x78}
	b = append(b, mask[:]...)
	for i, c := range payload {
		b = append(b, c^mask[i&3])
	}
	return b
}

func (c *peer) raw(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// send sends a text frame.
func (c *peer) send(format string, args ...any) {
	c.t.Helper()
	c.raw(maskedFrame(0x80|conn.OpText, fmt.Appendf(nil, format, args...)))
}

// frame reads one frame of any kind.
func (c *peer) frame() (opcode byte, payload []byte) {
	c.t.Helper()
	opcode, payload, err := c.readFrame()
	if err != nil {
		c.t.Fatalf("read: %v", err)
	}
	return opcode, payload
}

func (c *peer) readFrame() (opcode byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1])
	switch head[1] {
	case 126:
		var b [2]byte
		io.ReadFull(c.in, b[:])
		n = uint64(binary.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		io.ReadFull(c.in, b[:])
		n = binary.BigEndian.Uint64(b[:])
	}
	if head[1]&0x80 != 0 || head[0]&0x70 != 0 || head[0]&0x80 == 0 {
		return 0, nil, fmt.Errorf("illegal server frame %x", head)
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(c.in, payload)
	lookForSecret("a frame", payload)
	return head[0] & 0xf, payload, err
}

// text reads one text frame.
func (c *peer) text() string {
	c.t.Helper()
	opcode, payload := c.frame()
	if opcode != conn.OpText {
		c.t.Fatalf("got opcode %d %q, want a text frame", opcode, payload)
	}
	return string(payload)
}

// expect reads text frames and compares them byte for byte.
func (c *peer) expect(want ...string) {
	c.t.Helper()
	for _, w := range want {
		if got := c.text(); got != w {
			c.t.Fatalf("got  %s\nwant %s", got, w)
		}
	}
}

// expectClose reads a close frame with this code and then the end of the connection.
func (c *peer) expectClose(code int) (reason string) {
	c.t.Helper()
	opcode, payload := c.frame()
	if opcode != conn.OpClose || len(payload) < 2 {
		c.t.Fatalf("got opcode %d %q, want close %d", opcode, payload, code)
	}
	if got := int(binary.BigEndian.Uint16(payload)); got != code {
		c.t.Fatalf("closed with %d %q, want %d", got, payload[2:], code)
	}
	if _, _, err := c.readFrame(); err == nil {
		c.t.Fatal("a frame after the close frame")
	}
	c.conn.Close()
	return string(payload[2:])
}

const pong = `{"event":"pusher:pong","data":"{}"}`

// settled checks that nothing is on its way to c: the next frame is the answer to a ping.
func (c *peer) settled() {
	c.t.Helper()
	c.send(`{"event":"pusher:ping","data":{}}`)
	c.expect(pong)
}

var testKey = sign.NewKey("key", testSecret)

// testSecret is the secret of every server of these tests. Wherever else it is seen, it has leaked, and the tests fail (TestMain).
const testSecret = "MarkerOfTheSecret"

var leaks struct {
	sync.Mutex
	places map[string]bool
}

// lookForSecret notes if the secret is in what was seen in this place.
func lookForSecret(place string, seen []byte) {
	if bytes.Contains(seen, []byte(testSecret)) {
		leaks.Lock()
		defer leaks.Unlock()
		if leaks.places == nil {
			leaks.places = make(map[string]bool)
		}
		leaks.places[place] = true
	}
}

// watched is a writer to which the secret must not be written.
type watched struct {
	place string
	to    io.Writer
}

func (w watched) Write(p []byte) (int, error) {
	lookForSecret(w.place, p)
	return w.to.Write(p)
}

// slogTo has the log go to w until the test is over.
func slogTo(t *testing.T, w io.Writer) {
	t.Cleanup(func() { log.SetOutput(errorOutput) })
	log.SetOutput(io.MultiWriter(w, errorOutput))
}

// errorOutput is where the log goes.
var errorOutput = watched{"the log", os.Stderr}

// token signs a subscription of c.
func (c *peer) token(channel, channelData string) string {
	id, _ := wire.ParseSocketID(c.id)
	return "key:" + string(testKey.Sign(nil, sign.ChannelText(nil, id.String(), []byte(channel), []byte(channelData))))
}

// subscribe sends a subscription with a correct signature.
func (c *peer) subscribe(channel, channelData string) {
	c.t.Helper()
	data, _ := json.Marshal(map[string]string{"channel": channel, "auth": c.token(channel, channelData), "channel_data": channelData})
	c.send(`{"event":"pusher:subscribe","data":%s}`, data)
}

// join subscribes to a channel that is not a presence channel, and reads the answer.
func (c *peer) join(channel string) {
	c.t.Helper()
	c.subscribe(channel, "")
	c.expect(succeeded(channel))
}

func succeeded(channel string) string {
	return `{"event":"pusher_internal:subscription_succeeded","channel":"` + channel + `","data":"{}"}`
}

func event(name, channel, data string) string {
	return fmt.Sprintf(`{"event":%q,"channel":%q,"data":%s}`, name, channel, quote(data))
}

// socketID is an id that is written right.
func socketID(s string) wire.SocketID {
	id, _ := wire.ParseSocketID(s)
	return id
}

func quote(s string) []byte { return wire.AppendString(nil, s) }

// signedURL is the address of an API call, with a valid signature of this moment. query is name=value&…, not escaped.
func signedURL(addr, method, path, query, body string) string {
	q := fmt.Sprintf("auth_key=key&auth_timestamp=%d&auth_version=1.0", time.Now().Unix())
	if body != "" {
		sum := md5.Sum([]byte(body))
		q += "&body_md5=" + hex.EncodeToString(sum[:])
	}
	if query != "" {
		q += "&" + query
	}
	ps, err := sign.ParseParams(nil, q)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("http://%s%s?%s&auth_signature=%s", addr, path, q, testKey.Sign(nil, sign.RequestText(nil, method, path, ps)))
}

// call makes a signed API call and returns status and body.
func apiCall(t testing.TB, addr, method, path, query, body string) (status int, answer string) {
	t.Helper()
	r, err := http.NewRequest(method, signedURL(addr, method, path, query, body), bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	return do(t, r)
}

func do(t testing.TB, r *http.Request) (status int, answer string) {
	t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	lookForSecret("an answer of the API", b)
	return resp.StatusCode, string(b)
}

// publish triggers an event over HTTP, which must succeed.
func publish(t testing.TB, addr, channel, name, data string) {
	t.Helper()
	body := fmt.Sprintf(`{"name":%s,"channel":%s,"data":%s}`, quote(name), quote(channel), quote(data))
	if status, answer := apiCall(t, addr, "POST", "/apps/1/events", "", body); status != 200 || answer != "{}" {
		t.Fatalf("POST /events: %d %s", status, answer)
	}
}

// waitUntil waits for a state that nothing announces.
func waitUntil(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}
