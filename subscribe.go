package main

// edge subscribe: a client of the protocol that protocol.go describes, over WebSocket (RFC 6455).

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/lxzan/gws"

	"edge/internal/config"
	"edge/internal/sign"
	"edge/internal/wire"
)

const (
	clientActivity   = 120 * time.Second // of silence at most before a ping
	clientPong       = 30 * time.Second  // for its answer
	maxServerMessage = 16 << 20          // bytes
	clientDepth      = 100               // of JSON: what is deeper is printed as a string

	comeBackLater = time.Second // with 4100 to 4199
)

// subscriber is edge subscribe.
type subscriber struct {
	*remote
	p        *program
	channels []string
	user     string // the id on presence channels
	userData string // for signing in; "" without
	member   string // channel_data
	all      bool   // print what the server itself has to say too
	count    int    // events to print; 0 for no end
	printed  int
	complete bool // subscribed to all, once at least

	// Of one connection.
	pending []string      // channels whose answers have not come
	id      wire.SocketID // zero until the server has greeted
}

// lost is why a connection ended that is worth making again.
type lost struct {
	code int // close code; 0 for none
	why  string
}

func (l *lost) Error() string {
	if l.code == 0 {
		return cmp.Or(l.why, "the server closed it")
	}
	return strings.TrimSpace(fmt.Sprintf("closed with %d %s", l.code, l.why))
}

// errCounted is the end of subscriber that was asked for with -count.
var errCounted = errors.New("as many events as wanted have come")

func (p *program) subscribeCommand() error {
	var timeout time.Duration
	var info string
	s := &subscriber{p: p}
	return p.atServer([]config.Option{
		own("count", "0", &s.count, "end after so many events; 0 for no end"),
		own("timeout", "0", &timeout, "end after so long, like 30s; "+
			"the exit code is 1 then if it never was subscribed, or with -count"),
		own("user", "", &s.user, "user id on presence channels; without it one is made up"),
		own("user-info", "{}", &info, "what others there learn of the user, an object"),
		own("all", "false", &s.all, "print what the server says too: "+
			"pusher:subscription_succeeded, pusher:member_added and the like"),
	}, 1, math.MaxInt, func(r *remote, args []string) error {
		s.remote = r
		for _, channel := range args {
			if !slices.Contains(s.channels, channel) {
				s.channels = append(s.channels, channel)
			}
		}
		if err := s.introduce(info); err != nil {
			return usageError{err}
		}
		return s.runFor(timeout)
	})
}

// runFor is run, until enough events have come or the timeout is over; 0 for no end.
func (s *subscriber) runFor(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(timeout, forever))
	defer cancel()
	err := s.run(ctx)
	switch {
	case errors.Is(err, errCounted):
		return nil
	case ctx.Err() == nil:
		return err
	case !s.complete:
		return fmt.Errorf("not subscribed to %s within %s", strings.Join(s.pending, ", "), timeout)
	case s.count > 0:
		return fmt.Errorf("%d of %d events came within %s", s.printed, s.count, timeout)
	}
	return nil
}

// introduce makes what the server is told of the user.
func (s *subscriber) introduce(info string) error {
	if s.user == "" {
		host, _ := os.Hostname()
		s.user = fmt.Sprintf("cli-%.80s-%d", host, os.Getpid())
	}
	s.member = fmt.Sprintf(`{"user_id":%s,"user_info":%s}`, encode(s.user), info)
	if _, _, err := wire.ParseMember([]byte(s.member)); err != nil {
		return fmt.Errorf("invalid -user or -user-info: %w", err)
	}
	for _, channel := range s.channels {
		if id, ok := strings.CutPrefix(channel, wire.UserChannelPrefix); ok {
			data := string(encode(map[string]string{"id": id}))
			if s.userData != "" && s.userData != data {
				return errors.New("a connection can sign in as one user only")
			}
			s.userData = data
		}
	}
	return nil
}

// run connects, again and again, until what it returns is an error that will not pass, or errCounted.
func (s *subscriber) run(ctx context.Context) error {
	connected := false // once at least
	for try := 0; ; try++ {
		began := time.Now()
		err := s.connection(ctx)
		greeted := s.id != wire.SocketID{}
		if greeted && time.Since(began) >= comeBackLater { // or it is one that takes us to throw us out
			try = 0
		}
		connected = connected || greeted
		var l *lost
		switch {
		case !errors.As(err, &l) || ctx.Err() != nil:
			return err
		case !connected && l.code == 0:
			return s.unreachable(err)
		case greeted || try == 0:
			s.p.say("connection lost (%v), connecting again", l)
		}
		wait := backoff(try)
		switch {
		case l.code/100 == 42 && try == 0:
			wait = 0
		case l.code/100 == 41:
			wait = max(wait, comeBackLater)
		}
		pause(ctx, wait) // the end of ctx ends the next connection
	}
}

// connection is one connection, from dialling to its end.
func (s *subscriber) connection(ctx context.Context) (err error) {
	s.id, s.pending = wire.SocketID{}, slices.Clone(s.channels)
	nc, err := s.dial(ctx)
	if err != nil {
		return &lost{0, bare(err).Error()}
	}
	c := &clientConn{Conn: nc, s: s}
	c.ctx, c.end = context.WithCancelCause(ctx)
	defer c.end(nil)
	context.AfterFunc(c.ctx, func() { nc.Close() })
	c.ping = time.AfterFunc(clientActivity, func() { c.send(wire.EventPing, struct{}{}) })
	defer c.ping.Stop()
	c.silent = time.AfterFunc(dialTimeout, func() { c.end(&lost{0, "the server is silent"}) })
	defer c.silent.Stop()
	if err := c.handshake(s.host(), s.path+"/app/"+s.key.Name); err != nil {
		return err
	}
	defer func() {
		if problem := recover(); problem != nil { // gws takes a length of 2^63 and more for a negative one
			err = fmt.Errorf("%w: %v", errFrame, problem)
		}
	}()
	c.ws.ReadLoop()
	return context.Cause(c.ctx)
}

// heard is a message of a server, and what is printed of it.
type heard struct {
	Channel string           `json:"channel,omitempty"`
	Event   string           `json:"event"`
	Data    json.RawMessage  `json:"data"`
	UserID  *json.RawMessage `json:"user_id,omitempty"` // nil for null too
}

// receive acts on a message.
func (s *subscriber) receive(c *clientConn, message []byte) error {
	var m heard
	if json.Unmarshal(message, &m); m.Event == "" { // what is not as it should be stays empty
		return errors.New("the server sent what is no message of the Pusher protocol: " + oneLine(message))
	}
	m.Data = plainData(m.Data)
	switch m.Event {
	case wire.EventEstablished:
		return s.established(c, m.Data)
	case wire.EventPing:
		c.send(wire.EventPong, struct{}{})
		return nil
	case wire.EventPong:
		return nil
	case wire.EventError:
		return s.failed(m.Data)
	case wire.EventSigninSuccess:
		s.subscribe(c, wire.KindUser)
	case wire.EventSubscriptionError:
		_, text := errorFields(m.Data)
		return fmt.Errorf("cannot subscribe to %s: %s", oneLine([]byte(m.Channel)), text)
	case wire.EventSubscriptionSucceeded:
		s.subscribed(m.Channel)
	}
	if wire.ReservedEvent(m.Event) && !s.all {
		return nil
	}
	m.Event = strings.Replace(m.Event, "pusher_internal:", "pusher:", 1)
	if err := s.p.print(m); err != nil {
		return err
	}
	if s.printed++; s.printed == s.count {
		return errCounted
	}
	return nil
}

// plainData is data as it is printed: JSON in a string becomes JSON, and JSON too deep for readers of our output becomes
// a string.
func plainData(data json.RawMessage) json.RawMessage {
	text := string(data)
	if strings.HasPrefix(text, `"`) {
		json.Unmarshal(data, &text)
	}
	if data == nil {
		return json.RawMessage("null")
	}
	if _, _, err := wire.CheckJSON([]byte(text), clientDepth, 2+len(text)); err != nil {
		return encode(text)
	}
	return json.RawMessage(text)
}

// established is called with the first message of a connection.
func (s *subscriber) established(c *clientConn, data []byte) (err error) {
	var greeting struct {
		ID      string  `json:"socket_id"`
		Timeout float64 `json:"activity_timeout"` // seconds
	}
	json.Unmarshal(data, &greeting) // what is not as it should be stays empty
	if s.id, err = checkSocketID(greeting.ID); err != nil {
		return err
	}
	if c.silence = clientActivity; greeting.Timeout > 0 && greeting.Timeout < c.silence.Seconds() {
		c.silence = time.Duration(greeting.Timeout * float64(time.Second))
	}
	c.alive()
	if s.userData != "" {
		token := s.key.Token(nil, sign.UserText(nil, s.id.String(), []byte(s.userData)))
		c.send(wire.EventSignin, authAnswer{Auth: string(token), UserData: s.userData})
	}
	s.subscribe(c, 0)
	return nil
}

// subscribe subscribes to the channels of users, or to all others.
func (s *subscriber) subscribe(c *clientConn, users wire.Kind) {
	for _, channel := range s.channels {
		k, _ := wire.ParseChannel(channel, maxInput)
		if k&wire.KindUser != users {
			continue
		}
		var auth authAnswer
		if k&wire.KindPresence != 0 {
			auth.ChannelData = s.member
		}
		if k&wire.KindPrivate != 0 {
			auth.Auth = string(s.key.Token(nil, sign.ChannelText(nil, s.id.String(), []byte(channel), []byte(auth.ChannelData))))
		}
		c.send(wire.EventSubscribe, struct {
			Channel string `json:"channel"`
			authAnswer
		}{channel, auth})
	}
}

// subscribed is called when a subscription has succeeded.
func (s *subscriber) subscribed(channel string) {
	before := len(s.pending)
	s.pending = slices.DeleteFunc(s.pending, func(c string) bool { return c == channel })
	if before > 0 && len(s.pending) == 0 {
		s.complete = true
		s.p.say("subscribed to %s", strings.Join(s.channels, ", "))
	}
}

// failed is called with the data of pusher:error.
func (s *subscriber) failed(data []byte) error {
	code, text := errorFields(data)
	switch {
	case s.id == (wire.SocketID{}) && code != 0: // it refuses the connection, and may not care to close it
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

var errFrame = errors.New("the server sent an illegal WebSocket frame")

// clientConn is a WebSocket connection, as a client has it, and the net.Conn that gws has below it. Whatever ends it ends ctx
// with the reason, and that closes it; the first reason counts.
type clientConn struct {
	net.Conn
	gws.BuiltinEventHandler
	s       *subscriber
	ctx     context.Context
	end     context.CancelCauseFunc
	ws      *gws.Conn
	silence time.Duration // after which to ping; 0 until the server has greeted
	ping    *time.Timer   // asks whether the server is there
	silent  *time.Timer   // ends a connection on which nothing comes
}

// alive is called when something has come.
func (c *clientConn) alive() {
	c.ping.Reset(c.silence)
	c.silent.Reset(c.silence + clientPong)
}

// handshake is the opening handshake (RFC 6455 section 4.1).
func (c *clientConn) handshake(host, path string) (err error) {
	query := fmt.Sprintf("protocol=%d&client=edge&version=%s", wire.MaxProtocol, version)
	var resp *http.Response
	c.ws, resp, err = gws.NewClientFromConn(c, &gws.ClientOption{
		Addr:               (&url.URL{Scheme: "ws", Host: host, Path: path, RawQuery: query}).String(),
		RequestHeader:      http.Header{"User-Agent": {"edge/" + version}},
		HandshakeTimeout:   2 * dialTimeout, // ours ends it before, or gws would leave a goroutine behind
		ReadMaxPayloadSize: maxServerMessage,
		CheckUtf8Enabled:   true,
	}, c)
	switch {
	case err == nil:
		return nil
	case resp == nil:
		err = cmp.Or(context.Cause(c.ctx), err)
		return &lost{0, fmt.Sprintf("it does not answer as an HTTP server: %v", err)}
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // what there is of it
	text := fmt.Sprintf("the server answered %d: %s", resp.StatusCode, cmp.Or(oneLine(b), err.Error()))
	if resp.StatusCode >= 500 {
		return &lost{0, text}
	}
	return errors.New(text)
}

// Read is for gws.
func (c *clientConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	switch {
	case err == nil && c.silence > 0:
		c.alive()
	case errors.Is(err, io.EOF):
		c.end(&lost{})
	case err != nil:
		c.end(&lost{0, bare(err).Error()})
	}
	return n, err
}

// Write is for gws. If it fails, so will the next read, which may have the server's reason first.
func (c *clientConn) Write(p []byte) (int, error) {
	c.SetWriteDeadline(time.Now().Add(dialTimeout))
	c.Conn.Write(p)
	return len(p), nil
}

// Close is for gws, which would close what has the body of a refusal still to come.
func (c *clientConn) Close() error { return nil }

func (c *clientConn) OnPing(_ *gws.Conn, payload []byte) { c.ws.WritePong(payload) }

func (c *clientConn) OnMessage(_ *gws.Conn, m *gws.Message) {
	if c.ctx.Err() != nil { // it has ended, but is not closed yet
		return
	}
	if err := c.s.receive(c, m.Bytes()); err != nil {
		c.ws.WriteClose(1000, nil)
		c.end(err)
	}
}

func (c *clientConn) OnClose(_ *gws.Conn, err error) {
	if e, ok := err.(*gws.CloseError); ok {
		c.end(ended(int(e.Code), oneLine(e.Reason)))
	}
	c.end(fmt.Errorf("%w: %w", errFrame, err))
}

// send sends an event. If it fails, so will the next read.
func (c *clientConn) send(event string, data any) {
	c.ws.WriteMessage(gws.OpcodeText, encode(struct {
		Event string `json:"event"`
		Data  any    `json:"data"`
	}{event, data}))
}
