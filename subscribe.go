package main

// edge subscribe: a client of the protocol that protocol.go describes, over WebSocket (RFC 6455).

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lxzan/gws"
)

const (
	clientActivity   = 120 * time.Second // of silence at most before a ping
	clientPong       = 30 * time.Second  // for its answer, and for a message to end once it has begun
	maxServerMessage = 16 << 20          // bytes
	clientDepth      = 100               // of JSON: what is deeper is printed as a string

	comeBackLater = time.Second // with 4100 to 4199
)

// subscriber is edge subscribe.
type subscriber struct {
	*remote
	p         *program
	channels  []string
	user      string // the id on presence channels
	userData  string // for signing in; "" without
	member    string // channel_data
	all       bool   // print what the server itself has to say too
	left      int    // events still to print; negative for no end
	connected bool   // once at least
	complete  bool   // subscribed to all, once at least

	// Of one connection.
	pending []string // channels whose answers have not come
	id      socketID
}

// lost is why a connection ended that is worth making again.
type lost struct {
	code int // close code; 0 for none
	why  string
}

func (l *lost) Error() string {
	if l.code == 0 {
		return l.why
	}
	return strings.TrimSpace(fmt.Sprintf("closed with %d %s", l.code, l.why))
}

// errCounted is the end of subscriber that was asked for with -count.
var errCounted = errors.New("as many events as wanted have come")

func (p *program) subscribeCommand() error {
	var w whereabouts
	var timeout time.Duration
	s := &subscriber{p: p}
	info, count := "{}", 0
	o, args, err := p.commandOptions(append([]option{
		{"count", "0", "end after so many events; 0 for no end", onlyFlag, number(&count, 0, 1<<31-1), nil},
		{"timeout", "0", "end after so long, like 30s; the exit code is 1 then if it never was subscribed, or with -count", onlyFlag, duration(&timeout, 0), nil},
		{"user", "", "user id on presence channels; without it one is made up", onlyFlag, text(&s.user), nil},
		{"user-info", "{}", "what others there learn of the user, an object", onlyFlag, text(&info), nil},
		{"all", "false", "print what the server says too: pusher:subscription_succeeded, pusher:member_added and the like", onlyFlag, boolean(&s.all), nil},
	}, w.table()...))
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return p.misused()
	}
	for _, channel := range args {
		if !slices.Contains(s.channels, channel) {
			s.channels = append(s.channels, channel)
		}
	}
	if err := s.introduce(info); err != nil {
		return usageError{err}
	}
	if s.remote, err = newRemote(o, w); err != nil {
		return err
	}
	return s.runFor(timeout, count)
}

// runFor is run, until that many events have come or the timeout is over; 0 for no end.
func (s *subscriber) runFor(timeout time.Duration, count int) error {
	if s.left = count; count == 0 {
		s.left = -1
	}
	ctx, cancel := context.Background(), func() {}
	if timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, timeout)
	}
	defer cancel()
	err := s.run(ctx)
	switch {
	case errors.Is(err, errCounted):
		return nil
	case ctx.Err() == nil:
		return err
	case !s.complete && len(s.pending) > 0:
		return fmt.Errorf("not subscribed to %s within %s", strings.Join(s.pending, ", "), timeout)
	case count > 0 && s.connected:
		return fmt.Errorf("%d of %d events came within %s", count-s.left, count, timeout)
	case s.connected:
		return nil
	}
	return err
}

// introduce makes what the server is told of the user.
func (s *subscriber) introduce(info string) error {
	if s.user == "" {
		host, _ := os.Hostname()
		s.user = fmt.Sprintf("cli-%.80s-%d", host, os.Getpid())
	}
	member := appendString([]byte(`{"user_id":`), s.user)
	member = append(append(member, `,"user_info":`...), info...)
	s.member = string(append(member, '}'))
	if _, _, err := parseMember([]byte(s.member)); err != nil {
		return fmt.Errorf("invalid -user or -user-info: %w", err)
	}
	for _, channel := range s.channels {
		id, ok := strings.CutPrefix(channel, userChannelPrefix)
		data := string(append(appendString([]byte(`{"id":`), id), '}'))
		switch {
		case !ok:
		case s.userData != "" && s.userData != data:
			return errors.New("a connection can sign in as one user only")
		default:
			s.userData = data
		}
	}
	return nil
}

// run connects, again and again, until what it returns is an error that will not pass, or errCounted.
func (s *subscriber) run(ctx context.Context) error {
	for try := 0; ; try++ {
		began, before := time.Now(), s.connected
		s.connected = false
		err := s.connection(ctx)
		if s.connected && time.Since(began) >= comeBackLater { // or it is one that takes us to throw us out
			try = 0
		}
		news := s.connected || try == 0
		s.connected = s.connected || before
		var l *lost
		if !errors.As(err, &l) || ctx.Err() != nil || !s.connected && l.code == 0 {
			return err
		}
		wait := backoff(try)
		switch {
		case l.code/100 == 42 && try == 0:
			wait = 0
		case l.code/100 == 41:
			wait = max(wait, comeBackLater)
		}
		if news {
			s.p.say("connection lost (%v), connecting again", l)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// connection is one connection, from dialling to its end.
func (s *subscriber) connection(ctx context.Context) error {
	c, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer c.Conn.Close()
	defer context.AfterFunc(ctx, func() { c.Conn.Close() })()
	s.pending = slices.Clone(s.channels)
	for {
		message, err := c.next()
		if err != nil {
			return err
		}
		if err := s.receive(c, message); err != nil {
			if errors.Is(err, errCounted) {
				c.ws.WriteClose(1000, nil)
			}
			return err
		}
	}
}

// serverMessage is a message of a server.
type serverMessage struct {
	Event, Channel string
	Data           json.RawMessage
	UserID         *json.RawMessage `json:"user_id"` // nil for null too
}

// receive acts on a message.
func (s *subscriber) receive(c *wire, message []byte) error {
	var m serverMessage
	json.Unmarshal(message, &m) // what is not as it should be stays empty
	if m.Event == "" || !isJSON(message) {
		return errors.New("the server sent what is no message of the Pusher protocol: " + oneLine(message))
	}
	data := plainData(m.Data)
	switch m.Event {
	case eventEstablished:
		return s.established(c, data)
	case eventPing:
		c.send(`{"event":"` + eventPong + `","data":{}}`)
		return nil
	case eventPong:
		return nil
	case eventError:
		return s.failed(data)
	case eventSigninSuccess:
		s.subscribe(c, kindUser)
	case eventSubscriptionError:
		_, text := errorFields(data)
		return fmt.Errorf("cannot subscribe to %s: %s", oneLine([]byte(m.Channel)), text)
	case eventSubscriptionSucceeded:
		s.subscribed(m.Channel)
	}
	if reservedEvent(m.Event) && !s.all {
		return nil
	}
	return s.print(m, data)
}

// plainData is data as it is printed: when it is a string that holds JSON, that JSON.
func plainData(data json.RawMessage) []byte {
	var text string
	if json.Unmarshal(data, &text) == nil {
		if isJSON([]byte(text)) {
			return compact([]byte(text))
		}
	}
	if data == nil {
		return []byte("null")
	}
	return compact(data)
}

// isJSON reports whether b is JSON that whoever reads our output can read too.
func isJSON(b []byte) bool {
	_, _, err := checkJSON(b, clientDepth, 2+len(b))
	return err == nil
}

// established is called with the first message of a connection.
func (s *subscriber) established(c *wire, data []byte) error {
	var greeting struct {
		ID      string          `json:"socket_id"`
		Timeout json.RawMessage `json:"activity_timeout"`
	}
	if json.Unmarshal(data, &greeting); greeting.ID == "" {
		return errors.New("the server sent a greeting without socket_id: " + oneLine(data))
	}
	id, err := checkSocketID(greeting.ID)
	if err != nil {
		return err
	}
	s.id, c.silence, s.connected = id, clientActivity, true
	seconds, err := strconv.ParseFloat(string(greeting.Timeout), 64)
	if err == nil && seconds > 0 && seconds < c.silence.Seconds() {
		c.silence = time.Duration(seconds * float64(time.Second))
	}
	if s.userData != "" {
		data := append([]byte(`{"event":"`+eventSignin+`","data":`), appendSigned(s.key, userText(nil, id.String(), []byte(s.userData)))...)
		data = appendString(append(data, `,"user_data":`...), s.userData)
		c.send(string(append(data, "}}"...)))
	}
	s.subscribe(c, 0)
	return nil
}

// subscribe subscribes to the channels of users, or to all others.
func (s *subscriber) subscribe(c *wire, users kind) {
	for _, channel := range s.channels {
		k, _ := parseChannel(channel, maxInput)
		if k&kindUser != users {
			continue
		}
		m := appendString([]byte(`{"event":"`+eventSubscribe+`","data":{"channel":`), channel)
		if k&kindPrivate != 0 {
			member := ""
			if k&kindPresence != 0 {
				member = s.member
				m = appendString(append(m, `,"channel_data":`...), member)
			}
			m = append(m, `,"auth":`...)
			m = appendString(m, s.key.token(nil, channelText(nil, s.id.String(), []byte(channel), []byte(member))))
		}
		c.send(string(append(m, "}}"...)))
	}
}

// subscribed is called when a subscription has succeeded.
func (s *subscriber) subscribed(channel string) {
	i := slices.Index(s.pending, channel)
	if i < 0 {
		return
	}
	if s.pending = slices.Delete(s.pending, i, i+1); len(s.pending) == 0 {
		s.complete = true
		s.p.say("subscribed to %s", strings.Join(s.channels, ", "))
	}
}

// failed is called with the data of pusher:error.
func (s *subscriber) failed(data []byte) error {
	code, text := errorFields(data)
	switch {
	case s.id == (socketID{}) && code != 0: // it refuses the connection, and may not care to close it
		return ended(code, text)
	case len(s.pending) > 0 && (code/100 == 41 || code/100 == 42):
		return &lost{code, text}
	case len(s.pending) > 0:
		return fmt.Errorf("cannot subscribe: %s", text)
	}
	s.p.say("the server complains: %s", text)
	return nil
}

// errorFields are the code, 0 if there is none, and the text of an error.
func errorFields(data []byte) (code int, text string) {
	var f struct {
		Code           int
		Message, Error string
	}
	json.Unmarshal(data, &f) // what is not as it should be stays empty
	return f.Code, oneLine([]byte(cmp.Or(f.Error, f.Message, string(data))))
}

// ended is what the end of a connection with a close code means: a lost, unless connecting again cannot help.
func ended(code int, why string) error {
	if code/100 == 40 || code >= 4300 && code < 5000 {
		return fmt.Errorf("the server refuses the connection: %d %s", code, why)
	}
	return &lost{code, why}
}

// print prints an event, and counts it.
func (s *subscriber) print(m serverMessage, data []byte) error {
	line := []byte{'{'}
	if m.Channel != "" {
		line = append(appendString(append(line, `"channel":`...), m.Channel), ',')
	}
	event := strings.Replace(m.Event, "pusher_internal:", "pusher:", 1)
	line = appendString(append(line, `"event":`...), event)
	line = append(append(line, `,"data":`...), data...)
	if m.UserID != nil {
		line = append(append(line, `,"user_id":`...), compact(*m.UserID)...)
	}
	if err := s.p.print(append(line, '}', '\n')); err != nil {
		return err
	}
	if s.left--; s.left == 0 {
		return errCounted
	}
	return nil
}

// wire is a WebSocket connection, as a client has it. It is also the net.Conn that gws has below it: a read of gws must
// not fail just because it is time for a ping, so the deadlines are kept here.
type wire struct {
	net.Conn
	gws.BuiltinEventHandler
	in      *bufio.Reader
	ws      *gws.Conn     // nil during the handshake
	silence time.Duration // after which to ping
	begun   time.Time     // when a message began that has not ended; zero without
	ended   error         // what gws says why it has ended
}

// open opens a connection to the app, until the server begins to greet.
func (s *subscriber) open(ctx context.Context) (*wire, error) {
	s.id = socketID{}
	nc, err := s.dialer(ctx, s.network, s.ws)
	if err != nil {
		return nil, &lost{0, s.unreachable(s.ws, err).Error()}
	}
	nc.SetDeadline(time.Now().Add(dialTimeout))
	defer context.AfterFunc(ctx, func() { nc.SetDeadline(time.Now()) })()
	if s.tls != nil {
		config := s.tls.Clone()
		config.ServerName, _, _ = net.SplitHostPort(s.host(s.ws))
		sealed := tls.Client(nc, config)
		if err := sealed.Handshake(); err != nil {
			nc.Close()
			return nil, &lost{0, s.unreachable(s.ws, err).Error()}
		}
		nc = sealed
	}
	c := &wire{Conn: nc, in: bufio.NewReader(nc), silence: clientActivity}
	if err := c.handshake(s.host(s.ws), s.path+"/app/"+s.key.name); err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

// handshake is the opening handshake (RFC 6455 section 4.1), and waits for the greeting to begin.
func (c *wire) handshake(host, path string) error {
	query := fmt.Sprintf("protocol=%d&client=edge&version=%s", maxProtocol, version)
	ws, resp, err := gws.NewClientFromConn(c, &gws.ClientOption{
		Addr:               (&url.URL{Scheme: "ws", Host: host, Path: path, RawQuery: query}).String(),
		RequestHeader:      http.Header{"User-Agent": {"edge/" + version}},
		HandshakeTimeout:   2 * dialTimeout, // ours ends it before, or gws would leave a goroutine behind
		ReadMaxPayloadSize: maxServerMessage,
		CheckUtf8Enabled:   true,
	}, c)
	switch {
	case err == nil:
		c.ws = ws
		if _, err := c.in.Peek(1); errors.Is(err, os.ErrDeadlineExceeded) {
			return &lost{0, fmt.Sprintf("the server at %s does not greet", host)}
		}
		return nil
	case resp == nil:
		return &lost{0, fmt.Sprintf("the server at %s does not answer as an HTTP server: %v", host, err)}
	case resp.StatusCode == http.StatusSwitchingProtocols:
		return fmt.Errorf("the server at %s does not speak WebSocket as it should", host)
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // what there is of it
	text := fmt.Sprintf("the server answered %d: %s", resp.StatusCode, oneLine(b))
	if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
		return &lost{0, text}
	}
	return errors.New(text)
}

// Read is for gws. After silence it asks whether the server is there. From the greeting on its errors are of type lost.
func (c *wire) Read(p []byte) (int, error) {
	if c.ws == nil {
		return c.in.Read(p[:1]) // or gws would take the beginning of the greeting along
	}
	deadline := c.begun.Add(clientPong)
	if c.begun.IsZero() {
		deadline = time.Now().Add(c.silence)
	}
	for pinged := false; ; pinged = true {
		c.SetReadDeadline(deadline)
		n, err := c.in.Read(p)
		if err == nil {
			if c.begun.IsZero() {
				c.begun = time.Now()
			}
			return n, nil
		}
		why, silent := err.Error(), c.begun.IsZero() && errors.Is(err, os.ErrDeadlineExceeded)
		switch {
		case silent && !pinged:
			c.send(`{"event":"` + eventPing + `","data":{}}`)
			deadline = time.Now().Add(clientPong)
			continue
		case silent:
			why = "the server does not answer a ping"
		case errors.Is(err, io.EOF):
			why = "the server closed it"
		}
		c.Conn.Close() // or gws would wait until a server that is not there takes a close frame
		return 0, &lost{0, why}
	}
}

// Write is for gws. Past the handshake, if it fails, so will the next read, which may have the server's reason first.
func (c *wire) Write(p []byte) (int, error) {
	if c.ws == nil {
		return c.Conn.Write(p)
	}
	c.SetWriteDeadline(time.Now().Add(dialTimeout))
	c.Conn.Write(p)
	return len(p), nil
}

// gws sets no deadline, and does not close what has the body of a refusal still to come: connection and open do.

func (c *wire) SetDeadline(time.Time) error { return nil }
func (c *wire) Close() error                { return nil }

func (c *wire) OnPing(_ *gws.Conn, payload []byte) {
	c.begun = time.Time{}
	c.ws.WritePong(payload)
}

func (c *wire) OnPong(*gws.Conn, []byte)       { c.begun = time.Time{} }
func (c *wire) OnClose(_ *gws.Conn, err error) { c.ended = err }

// send sends a message. If it fails, so will the next read.
func (c *wire) send(text string) { c.ws.WriteString(text) }

var errFrame = errors.New("the server sent an illegal WebSocket frame")

// next reads the next message.
func (c *wire) next() (message []byte, err error) {
	defer func() {
		if recover() != nil { // gws takes a length of 2^63 and more for a negative one
			message, err = nil, errFrame
		}
	}()
	m, err := c.ws.ReadMessage()
	c.begun = time.Time{}
	if err == nil && m.Opcode != gws.OpcodeText {
		return nil, errors.New("the server sent a message that is not text")
	} else if err == nil {
		return m.Bytes(), nil
	}
	switch e := c.ended.(type) {
	case *lost:
		return nil, e
	case *gws.CloseError:
		if e.Code < 1000 { // 0 for none
			return nil, &lost{0, "the server closed it"}
		}
		return nil, ended(int(e.Code), oneLine(e.Reason))
	case interface{ Uint16() uint16 }: // a close code, of a type that gws does not export
		if e.Uint16() == closeTooBig {
			return nil, fmt.Errorf("the server sent a message of more than %d MB", maxServerMessage>>20)
		}
	}
	return nil, errFrame
}
