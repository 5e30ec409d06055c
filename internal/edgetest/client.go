package edgetest

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// Path is what pusher-js asks for.
const Path = "/app/" + Key + "?protocol=7&client=js&version=8.6.0&flash=false"

// Upgrade is a handshake for tests that change a part of it. Lines may end in \n alone (RFC 9112 section 2.2).
const Upgrade = "GET " + Path + " HTTP/1.1\nHost: edge\nUpgrade: websocket\nConnection: Upgrade\n" +
	"Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n"

// Client is a WebSocket client that checks every frame it gets. What it expects and does not get ends its test.
type Client struct {
	T    testing.TB
	Conn net.Conn
	In   *bufio.Reader
	ID   string // socket id
}

// Dial opens a TCP connection that ends with the test and on which nothing is waited for longer than Patience.
func Dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(Patience))
	return conn
}

// Request sends an HTTP request as it stands and reads the head of the answer.
func Request(t testing.TB, conn net.Conn, text string) (*Client, *http.Response) {
	t.Helper()
	c := &Client{T: t, Conn: conn, In: bufio.NewReader(conn)}
	c.Raw([]byte(text))
	r, err := http.ReadResponse(c.In, nil)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return c, r
}

// Handshake opens a WebSocket on a connection; rest is sent in the same packet as the request.
func Handshake(t testing.TB, conn net.Conn, path, rest string) *Client {
	t.Helper()
	c, r := Request(t, conn, strings.Replace(Upgrade, Path, path, 1)+rest)
	if r.StatusCode != http.StatusSwitchingProtocols ||
		r.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("handshake for %s: %v", path, r)
	}
	return c
}

// Connect opens a connection for the app key and reads connection_established.
func Connect(t testing.TB, addr string) *Client {
	t.Helper()
	return ConnectOn(t, Dial(t, addr))
}

// ConnectOn is Connect on a connection that is there.
func ConnectOn(t testing.TB, conn net.Conn) *Client {
	t.Helper()
	c := Handshake(t, conn, Path, "")
	c.Established()
	return c
}

// Established reads connection_established.
func (c *Client) Established() {
	c.T.Helper()
	if hello := c.Text(); !c.established(hello) {
		c.T.Fatalf("no connection_established: %s", hello)
	}
}

func (c *Client) established(hello string) bool {
	var e struct{ Event, Data string }
	var data struct {
		SocketID string `json:"socket_id"`
	}
	json.Unmarshal([]byte(hello), &e)
	json.Unmarshal([]byte(e.Data), &data)
	c.ID = data.SocketID
	return e.Event == "pusher:connection_established" && c.ID != ""
}

// TryConnect is Connect where there may be no server, or none that lets this client in. The client is of no test: it
// must not expect anything.
func TryConnect(addr string) (*Client, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(Patience))
	c := &Client{Conn: conn, In: bufio.NewReader(conn)}
	conn.Write([]byte(Upgrade))
	var hello []byte
	r, err := http.ReadResponse(c.In, nil)
	if err == nil {
		_, hello, err = c.ReadFrame()
	}
	if err == nil && (r.StatusCode != http.StatusSwitchingProtocols || !c.established(string(hello))) {
		err = fmt.Errorf("%s %s", r.Status, hello)
	}
	if err != nil {
		c.Leave()
		return nil, err
	}
	return c, nil
}

// TryJoin is TryConnect with a subscription to a public channel.
func TryJoin(addr, channel string) (*Client, error) {
	c, err := TryConnect(addr)
	if err != nil {
		return nil, err
	}
	c.Conn.Write(SubscribeMessage(channel, "", ""))
	_, frame, err := c.ReadFrame()
	if err == nil && string(frame) != Succeeded(channel) {
		err = errors.New("not subscribed: " + string(frame))
	}
	if err != nil {
		c.Leave()
		return nil, err
	}
	return c, nil
}

// Leave closes the connection without a word.
func (c *Client) Leave() { c.Conn.Close() }

// Raw sends bytes.
func (c *Client) Raw(b []byte) {
	c.T.Helper()
	if _, err := c.Conn.Write(b); err != nil {
		c.T.Fatalf("write: %v", err)
	}
}

// Send sends a text frame.
func (c *Client) Send(format string, args ...any) {
	c.T.Helper()
	c.Raw(Text(format, args...))
}

// ReadFrame reads one frame of any kind, or the end.
func (c *Client) ReadFrame() (opcode byte, payload []byte, err error) { return ReadFrame(c.In) }

// Frame reads one frame of any kind.
func (c *Client) Frame() (opcode byte, payload []byte) {
	c.T.Helper()
	opcode, payload, err := c.ReadFrame()
	if err != nil {
		c.T.Fatalf("read: %v", err)
	}
	return opcode, payload
}

// Text reads one text frame.
func (c *Client) Text() string {
	c.T.Helper()
	opcode, payload := c.Frame()
	if opcode != OpText {
		c.T.Fatalf("got opcode %d %q, want a text frame", opcode, payload)
	}
	return string(payload)
}

// Expect reads text frames and compares them byte for byte.
func (c *Client) Expect(want ...string) {
	c.T.Helper()
	for _, w := range want {
		if got := c.Text(); got != w {
			c.T.Fatalf("got  %s\nwant %s", got, w)
		}
	}
}

// Until reads text frames up to this one.
func (c *Client) Until(want string) {
	c.T.Helper()
	for c.Text() != want {
	}
}

// ExpectControl reads one frame and compares it.
func (c *Client) ExpectControl(opcode byte, payload string) {
	c.T.Helper()
	if gotOpcode, got := c.Frame(); gotOpcode != opcode || string(got) != payload {
		c.T.Fatalf("got opcode %d %q, want %d %q", gotOpcode, got, opcode, payload)
	}
}

// ExpectClose reads a close frame with this code and then the end of the connection.
func (c *Client) ExpectClose(code int) (reason string) {
	c.T.Helper()
	opcode, payload := c.Frame()
	if opcode != OpClose || CloseCode(payload) != code {
		c.T.Fatalf("got opcode %d %q, want close %d", opcode, payload, code)
	}
	if _, _, err := c.ReadFrame(); err == nil {
		c.T.Fatal("a frame after the close frame")
	}
	c.Leave()
	return string(payload[2:])
}

// CloseCode is the code of a close frame, 0 if there is none.
func CloseCode(payload []byte) int {
	if len(payload) < 2 {
		return 0
	}
	return int(binary.BigEndian.Uint16(payload))
}

// ExpectError reads pusher:error with this code in its exact shape, whatever its message is.
func (c *Client) ExpectError(code int) (message string) {
	c.T.Helper()
	got := c.Text()
	var e struct{ Data struct{ Message string } }
	json.Unmarshal([]byte(got), &e)
	if want := ErrorFrame(code, e.Data.Message); got != want || e.Data.Message == "" {
		c.T.Fatalf("got  %s\nwant %s", got, ErrorFrame(code, "…"))
	}
	return e.Data.Message
}

// ExpectTurnedAway reads what a connection that may not stay gets: pusher:error, a close frame with its code, the end.
func (c *Client) ExpectTurnedAway(code int) (reason string) {
	c.T.Helper()
	c.ExpectError(code)
	if reason = c.ExpectClose(code); reason == "" {
		c.T.Fatal("closed without a reason")
	}
	return reason
}

// ExpectRefusal reads the two events of a refused subscription, and checks that the connection is still good.
func (c *Client) ExpectRefusal(channel, kind string, status int) (message string) {
	c.T.Helper()
	got := c.Text()
	var e struct{ Data struct{ Error string } }
	json.Unmarshal([]byte(got), &e)
	want := fmt.Sprintf(`{"event":"pusher:subscription_error","channel":%s,"data":{"type":%q,"error":%s,"status":%d}}`,
		Quote(channel), kind, Quote(e.Data.Error), status)
	if got != want || e.Data.Error == "" {
		c.T.Fatalf("got  %s\nwant %s", got, want)
	}
	c.Expect(ErrorFrame(0, e.Data.Error))
	c.Settled()
	return e.Data.Error
}

// Settled checks that nothing is on its way to c: the next frame is the answer to a ping.
func (c *Client) Settled() {
	c.T.Helper()
	c.Send(Ping)
	c.Expect(Pong)
}

// Arrived returns the text frames that were on their way to c.
func (c *Client) Arrived() (frames []string) {
	c.T.Helper()
	c.Send(Ping)
	for {
		frame := c.Text()
		if frame == Pong {
			return frames
		}
		frames = append(frames, frame)
	}
}

// AnswerPings reads what c gets until its end, answers pings and returns the code of the close frame, 0 without one.
// It may run while others send.
func (c *Client) AnswerPings(each func(frame string)) (code int) {
	for {
		opcode, payload, err := c.ReadFrame()
		switch {
		case err != nil:
			return code
		case opcode == OpPing:
			c.Conn.Write(Masked(0x80|OpPong, payload))
		case opcode == OpClose:
			code = CloseCode(payload)
		default:
			each(string(payload))
		}
	}
}

// Subscribe sends a subscription with a correct signature.
func (c *Client) Subscribe(channel, channelData string) {
	c.T.Helper()
	c.SubscribeAs(channel, Token(c.ID, channel, channelData), channelData)
}

// SubscribeAs sends a subscription with this auth and, if not empty, channel_data.
func (c *Client) SubscribeAs(channel, auth, channelData string) {
	c.T.Helper()
	c.Raw(SubscribeMessage(channel, auth, channelData))
}

// Unsubscribe sends an unsubscription.
func (c *Client) Unsubscribe(channel string) {
	c.T.Helper()
	c.Send(`{"event":"pusher:unsubscribe","data":{"channel":%s}}`, Quote(channel))
}

// Join subscribes to a channel that is not a presence channel, and reads the answer.
func (c *Client) Join(channel string) {
	c.T.Helper()
	c.Subscribe(channel, "")
	c.Expect(Succeeded(channel))
}

// Enter subscribes to a channel of any kind, and reads the answer and everything else that is on its way.
func (c *Client) Enter(channel, channelData string) {
	c.T.Helper()
	c.Subscribe(channel, channelData)
	frames, answer := c.Arrived(), strings.TrimSuffix(Succeeded(channel), `"{}"}`)
	if !slices.ContainsFunc(frames, func(f string) bool { return strings.HasPrefix(f, answer) }) {
		c.T.Fatalf("not subscribed to %s: %q", channel, frames)
	}
}

// SignIn signs the user in, and reads the answer.
func (c *Client) SignIn(userData string) {
	c.T.Helper()
	auth := UserToken(c.ID, userData)
	c.Send(`{"event":"pusher:signin","data":{"auth":%s,"user_data":%s}}`, Quote(auth), Quote(userData))
	c.Expect(`{"event":"pusher:signin_success","data":{"user_data":` + Quote(userData) + `}}`)
}
