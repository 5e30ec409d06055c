package main

// edge subscribe: a client of the protocol that protocol.go describes, over WebSocket (RFC 6455).

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
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
	silence time.Duration // after which to ping
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
	s := &subscriber{p: p, silence: clientActivity}
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
	defer c.nc.Close()
	defer context.AfterFunc(ctx, func() { c.nc.Close() })()
	s.pending = slices.Clone(s.channels)
	for {
		opcode, message, err := c.next(s.silence)
		switch {
		case err != nil:
			return err
		case opcode != opText:
			return errors.New("the server sent a message that is not text")
		}
		if err := s.receive(c, message); err != nil {
			if errors.Is(err, errCounted) {
				c.send(opClose, binary.BigEndian.AppendUint16(nil, 1000))
			}
			return err
		}
	}
}

// The fields of what a server sends.
var serverFields = []string{"event", "channel", "data", "user_id"}

// receive acts on a message.
func (s *subscriber) receive(c *wire, message []byte) error {
	var f [4]value
	err := parseObject(message, clientDepth, maxServerMessage, serverFields, f[:])
	if err != nil || !f[0].is('"') {
		return errors.New("the server sent what is no message of the Pusher protocol: " + oneLine(message))
	}
	event, channel, data := string(f[0].text()), "", f[2]
	if f[1].is('"') {
		channel = string(f[1].text())
	}
	if data.is('"') {
		if inner := data.text(); checkJSON(inner, clientDepth, maxServerMessage) == nil {
			data = value(bytes.TrimSpace(inner))
		}
	}
	switch event {
	case eventEstablished:
		return s.established(c, data)
	case eventPing:
		c.send(opText, []byte(`{"event":"`+eventPong+`","data":{}}`))
		return nil
	case eventPong:
		return nil
	case eventError:
		return s.failed(data)
	case eventSigninSuccess:
		s.subscribe(c, kindUser)
	case eventSubscriptionError:
		_, text := errorFields(data)
		return fmt.Errorf("cannot subscribe to %s: %s", oneLine([]byte(channel)), text)
	case eventSubscriptionSucceeded:
		s.subscribed(channel)
	}
	if reservedEvent(event) && !s.all {
		return nil
	}
	return s.print(strings.Replace(event, "pusher_internal:", "pusher:", 1), channel, data, f[3])
}

// established is called with the first message of a connection.
func (s *subscriber) established(c *wire, data value) error {
	var f [2]value
	if err := parseObject(data, clientDepth, maxServerMessage, []string{"socket_id", "activity_timeout"}, f[:]); err != nil || !f[0].is('"') {
		return errors.New("the server sent a greeting without socket_id: " + oneLine(data))
	}
	id, err := checkSocketID(string(f[0].text()))
	if err != nil {
		return err
	}
	s.id, s.silence, s.connected = id, clientActivity, true
	if seconds, err := strconv.ParseFloat(string(f[1]), 64); err == nil && seconds > 0 && seconds < s.silence.Seconds() {
		s.silence = time.Duration(seconds * float64(time.Second))
	}
	if s.userData != "" {
		data := append([]byte(`{"event":"`+eventSignin+`","data":`), appendSigned(s.key, userText(nil, id, []byte(s.userData)))...)
		data = appendString(append(data, `,"user_data":`...), s.userData)
		c.send(opText, append(data, "}}"...))
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
			m = appendString(m, s.key.token(nil, channelText(nil, s.id, []byte(channel), []byte(member))))
		}
		c.send(opText, append(m, "}}"...))
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
func (s *subscriber) failed(data value) error {
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
func errorFields(data value) (code int, text string) {
	var f [3]value
	parseObject(data, clientDepth, maxServerMessage, []string{"message", "code", "error"}, f[:])
	text = oneLine(data)
	for _, v := range []value{f[0], f[2]} {
		if v.is('"') {
			text = oneLine(v.text())
		}
	}
	code, _ = strconv.Atoi(string(f[1]))
	return code, text
}

// ended is what the end of a connection with a close code means: a lost, unless connecting again cannot help.
func ended(code int, why string) error {
	if code/100 == 40 || code >= 4300 && code < 5000 {
		return fmt.Errorf("the server refuses the connection: %d %s", code, why)
	}
	return &lost{code, why}
}

// print prints an event, and counts it.
func (s *subscriber) print(event, channel string, data, user value) error {
	line := []byte{'{'}
	if channel != "" {
		line = append(appendString(append(line, `"channel":`...), channel), ',')
	}
	line = appendString(append(line, `"event":`...), event)
	if line = append(line, `,"data":`...); data == nil {
		data = value("null")
	}
	line = data.appendCompact(line)
	if !user.absent() {
		line = user.appendCompact(append(line, `,"user_id":`...))
	}
	if err := s.p.print(append(line, '}', '\n')); err != nil {
		return err
	}
	if s.left--; s.left == 0 {
		return errCounted
	}
	return nil
}

// wire is a WebSocket connection, as a client has it.
type wire struct {
	nc net.Conn
	in *bufio.Reader
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
		nc = tls.Client(nc, config)
	}
	c := &wire{nc, bufio.NewReader(nc)}
	if err := c.handshake(s.host(s.ws), s.path+"/app/"+s.key.name); err != nil {
		nc.Close()
		return nil, err
	}
	if _, err := c.in.Peek(1); errors.Is(err, os.ErrDeadlineExceeded) {
		nc.Close()
		return nil, &lost{0, fmt.Sprintf("the server at %s does not greet", s.host(s.ws))}
	}
	nc.SetDeadline(time.Time{})
	return c, nil
}

// handshake is the opening handshake (RFC 6455 section 4.1).
func (c *wire) handshake(host, path string) error {
	var nonce [16]byte
	rand.Read(nonce[:]) // never fails (crypto/rand)
	key := base64.StdEncoding.EncodeToString(nonce[:])
	_, err := fmt.Fprintf(c.nc, "GET %s?protocol=%d&client=edge&version=%s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\nUser-Agent: edge/%[3]s\r\n\r\n", path, maxProtocol, version, host, key)
	if err != nil {
		return &lost{0, fmt.Sprintf("cannot reach the server at %s: %v", host, err)}
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return &lost{0, fmt.Sprintf("the server at %s does not answer as an HTTP server: %v", host, err)}
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		if !hasToken(resp.Header["Upgrade"], "websocket") || resp.Header.Get("Sec-Websocket-Accept") != string(appendAccept(nil, key)) {
			return fmt.Errorf("the server at %s does not speak WebSocket as it should", host)
		}
		return nil
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // what there is of it
	text := fmt.Sprintf("the server answered %d: %s", resp.StatusCode, oneLine(b))
	if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
		return &lost{0, text}
	}
	return errors.New(text)
}

// send sends a frame. If it fails, so will the next read.
func (c *wire) send(opcode byte, payload []byte) {
	var key [4]byte
	rand.Read(key[:]) // never fails (crypto/rand)
	c.nc.SetWriteDeadline(time.Now().Add(dialTimeout))
	c.nc.Write(appendMasked(nil, opcode, key, payload))
}

// next reads the next message. After silence it asks whether the server is there.
func (c *wire) next(silence time.Duration) (opcode byte, message []byte, err error) {
	for {
		if err := c.await(silence); err != nil {
			return 0, nil, err
		}
		fin, code, payload, err := c.frame(maxServerMessage - len(message))
		if err != nil {
			return 0, nil, err
		}
		switch {
		case code == opPing:
			c.send(opPong, payload)
			continue
		case code == opPong:
			continue
		case code == opClose:
			return 0, nil, c.closed(payload)
		case (code == opContinuation) != (opcode != 0):
			return 0, nil, errFrame
		case code != opContinuation:
			opcode = code
		}
		if message = append(message, payload...); fin {
			return opcode, message, nil
		}
	}
}

// await waits for a frame to begin.
func (c *wire) await(silence time.Duration) error {
	for pinged := false; ; pinged = true {
		c.nc.SetReadDeadline(time.Now().Add(silence))
		_, err := c.in.Peek(1)
		switch {
		case err == nil:
			c.nc.SetReadDeadline(time.Now().Add(clientPong))
			return nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return gone(err)
		case pinged:
			return &lost{0, "the server does not answer a ping"}
		}
		c.send(opText, []byte(`{"event":"`+eventPing+`","data":{}}`))
		silence = clientPong
	}
}

// gone is the end of a connection without a close frame.
func gone(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &lost{0, "the server closed it"}
	}
	return &lost{0, err.Error()}
}

// closed answers a close frame, and is what it means.
func (c *wire) closed(payload []byte) error {
	c.send(opClose, payload[:min(len(payload), 2)])
	if len(payload) < 2 {
		return &lost{0, "the server closed it"}
	}
	return ended(int(binary.BigEndian.Uint16(payload)), oneLine(payload[2:]))
}

var errFrame = errors.New("the server sent an illegal WebSocket frame")

// frame reads a frame, of most bytes at most (RFC 6455 section 5.2). What is kept is never more than has come.
func (c *wire) frame(most int) (fin bool, opcode byte, payload []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(c.in, head[:2]); err != nil {
		return false, 0, nil, gone(err)
	}
	fin, opcode = head[0]&0x80 != 0, head[0]&0xf
	length, more := uint64(head[1]), 0
	switch length {
	case 126:
		more = 2
	case 127:
		more = 8
	}
	control := opcode&0x8 != 0
	if head[0]&0x70 != 0 || head[1]&0x80 != 0 || control && (!fin || more > 0) || opcode > opBinary && opcode < opClose || opcode > opPong {
		return false, 0, nil, errFrame
	}
	if more > 0 {
		clear(head[:])
		if _, err := io.ReadFull(c.in, head[8-more:]); err != nil {
			return false, 0, nil, gone(err)
		}
		length = binary.BigEndian.Uint64(head[:])
	}
	if !control && length > uint64(max(most, 0)) {
		return false, 0, nil, fmt.Errorf("the server sent a message of more than %d MB", maxServerMessage>>20)
	}
	var b bytes.Buffer
	if _, err := io.CopyN(&b, c.in, int64(length)); err != nil {
		return false, 0, nil, gone(err)
	}
	if opcode == opText && fin && !utf8.Valid(b.Bytes()) {
		return false, 0, nil, errFrame
	}
	return fin, opcode, b.Bytes(), nil
}
