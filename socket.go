package main

// Socket is one client: the upgrade, one handleX for each verb of the protocol, liveness and the end.
//
// Each has one goroutine that reads, and every handler runs on it; gws parks it while nothing comes. Others may only
// deliver frames to a Socket or close it, which never blocks.

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/lxzan/gws"
	"github.com/valyala/fastjson"
)

const frameTimeout = 10 * time.Second // for a frame once begun to end

type Socket struct {
	gws.SessionStorage // always nil: it makes a Socket gws's session, so that gws needs no map for one

	// Static after upgrade.
	app  *App
	conn *conn
	ws   *gws.Conn
	id   socketID

	// Owned by the read goroutine.
	subscriptions []*Subscription
	user          *User         // nil until signed in
	userSub       *Subscription // to the user's channel, from signing in on
	userJoined    bool          // the client subscribed to the user's channel
	clientEvents  rate
	subscribes    rate // and their ends
	malformed     int  // messages in a row
	in            *readBuffer
	guard         frameGuard
	refused       int    // close code, once the bytes in in are used up
	lastRead      int64  // monotonic nanoseconds, as all times here
	pinged        int64  // when the last ping was sent
	frameBegan    int64  // when the frame was begun that had not ended at the last read,
	frameNumber   uint64 // and the guard's number of it

	closing atomic.Bool // a close frame was sent
}

var processStart = time.Now()

// monotonic is a clock that no one can set.
func monotonic() int64 { return int64(time.Since(processStart)) }

// upgrader turns HTTP requests into Sockets. It is gws's event handler for all of them.
type upgrader struct {
	// Static after construction.
	app *App
	gws *gws.Upgrader

	running sync.WaitGroup // the read goroutines
}

// newUpgrader makes the upgrader of an app.
func newUpgrader(app *App) *upgrader {
	u := &upgrader{app: app}
	u.gws = gws.NewUpgrader(u, &gws.ServerOption{
		ReadMaxPayloadSize: maxPayload,
		CheckUtf8Enabled:   true,
		ParallelGolimit:    1,
		NewSession:         func() gws.SessionStorage { return new(Socket) },
		// Recovery stays unset: gws would go on with the connection, Socket.leave ends it.
	})
	return u
}

// serveHTTP answers a WebSocket handshake on any path.
func (u *upgrader) serveHTTP(w http.ResponseWriter, r *http.Request) {
	key, ok := strings.CutPrefix(r.URL.Path, "/app/")
	if !ok || key == "" || strings.Contains(key, "/") {
		u.upgrade(w, r, codePathNotFound, "Path not found: connect to /app/{key}")
		return
	}
	if u.app.keys.find(key) == nil {
		u.upgrade(w, r, codeUnknownKey, fmt.Sprintf("App key %.60s does not exist on this server", strings.ToValidUTF8(key, "?")))
		return
	}
	code, reason := checkVersion(r.URL.Query().Get("protocol"))
	if code == 0 && !u.app.allowsOrigin(r.Header.Get("Origin")) {
		code, reason = codeUnauthorized, "Origin not allowed"
	}
	u.upgrade(w, r, code, reason)
}

// upgrade answers a WebSocket handshake. A client that is refused for a reason of the Pusher protocol is told so after
// the 101, by pusher:error and a close frame: to an HTTP status clients react by trying again. code is 0, or that reason.
func (u *upgrader) upgrade(w http.ResponseWriter, r *http.Request, code int, reason string) {
	if status, problem := checkHandshake(r); status != 0 {
		if status == http.StatusUpgradeRequired {
			w.Header().Set("Upgrade", "websocket")
			w.Header().Set("Sec-WebSocket-Version", "13")
		}
		http.Error(w, problem, status)
		return
	}
	// gws looks at the first of several lines only, and for nothing else in it.
	r.Header["Connection"], r.Header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	nc, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this connection cannot be upgraded", http.StatusInternalServerError)
		return
	}
	c := nc.(*conn)
	br := bufio.NewReaderSize(nil, 16) // the smallest there is: gws reads through Socket.Read, which has the buffer
	g := &gwsConn{Conn: c}
	ws, err := u.gws.UpgradeFromConn(g, br, r)
	if err != nil {
		return // gws has answered and closed
	}
	s := ws.Session().(*Socket)
	s.app, s.conn, s.ws = u.app, c, ws
	g.socket = s
	br.Reset(s)
	c.upgrade(u.app.limits.sendBuffer, &u.app.cuts)
	s.keep(rw.Reader)
	first := g.answer
	g.answer = nil // or it would stay as long as the connection
	u.running.Add(1)
	go func() { // ends with the connection; shutdown waits for running
		defer u.running.Done()
		s.serve(first, code, reason)
	}()
}

// gwsConn is the connection as gws writes to it: first the answer to the handshake, which is kept to travel together with
// the first frame, then close frames only.
type gwsConn struct {
	net.Conn
	answer []byte
	socket *Socket // nil until gws has answered
}

func (g *gwsConn) Write(b []byte) (int, error) {
	if g.socket == nil {
		g.answer = append(g.answer, b...)
	} else {
		g.socket.writeLast(b)
	}
	return len(b), nil
}

// SetDeadline is for the write that gws believes it makes.
func (g *gwsConn) SetDeadline(time.Time) error { return nil }

func (g *gwsConn) Close() error {
	if g.socket == nil { // gws has refused what checkHandshake let through
		g.Conn.SetWriteDeadline(time.Now().Add(lingerTimeout))
		g.Conn.Write(g.answer)
		return g.Conn.Close()
	}
	return nil // its close frame is on the way; Socket.leave closes once the other side has had time to read it
}

// checkHandshake returns an HTTP status and text if r is not a WebSocket handshake (RFC 6455 section 4.2.1), or 0.
func checkHandshake(r *http.Request) (status int, problem string) {
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	switch {
	case !isUpgrade(r):
		return http.StatusUpgradeRequired, "this address is for WebSocket connections"
	case r.Method != http.MethodGet:
		return http.StatusMethodNotAllowed, "a WebSocket handshake must be a GET"
	case !r.ProtoAtLeast(1, 1):
		return http.StatusBadRequest, "a WebSocket handshake needs HTTP/1.1"
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return http.StatusUpgradeRequired, "only version 13 of WebSocket is supported"
	case err != nil || len(key) != 16:
		return http.StatusBadRequest, "Sec-WebSocket-Key must be 16 bytes in base64"
	case r.ContentLength != 0:
		return http.StatusBadRequest, "a WebSocket handshake must not have a body"
	}
	return 0, ""
}

// isUpgrade reports whether r asks for WebSocket.
func isUpgrade(r *http.Request) bool {
	return hasToken(r.Header["Upgrade"], "websocket") && hasToken(r.Header["Connection"], "upgrade")
}

// hasToken reports whether one of the header lines lists the token, in upper or lower case.
func hasToken(lines []string, token string) bool {
	for _, line := range lines {
		for t := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// keep takes over bytes that came right behind the handshake and lie in net/http's buffer.
func (s *Socket) keep(r *bufio.Reader) {
	if n := r.Buffered(); n > 0 {
		b := readBuffers.Get().(*readBuffer)
		b.n, _ = io.ReadFull(r, b.bytes[:min(n, len(b.bytes))]) // net/http's buffer is not larger
		b.at = 0
		s.use(b, monotonic())
	}
}

// serve runs the connection to its end, unless it is refused with code. first are bytes to be sent before anything else.
func (s *Socket) serve(first []byte, code int, reason string) {
	defer s.leave()
	if code == 0 {
		switch s.app.addSocket(s) {
		case errQuota:
			code, reason = codeOverQuota, "The app is over its connection limit"
		case errShutdown:
			code, reason = codeReconnect, "Please reconnect immediately"
		}
	}
	if code != 0 {
		s.app.logf("%s refused: %d %q", s.conn.RemoteAddr(), code, reason)
		s.conn.writeLast(appendClose(appendError(first, code, reason, ""), code, reason))
		return
	}
	s.app.logf("%s connected as %s", s.conn.RemoteAddr(), s.id)
	s.deliver(appendEstablished(first, s.id, s.app.limits.activityTimeout))
	s.lastRead = monotonic()
	if s.guard.idle() { // else keep has set a shorter time
		s.await(s.app.limits.activityTimeout)
	}
	s.ws.ReadLoop()
}

// leave undoes everything when the read goroutine ends, for whatever reason: it does not rely on gws to say so.
func (s *Socket) leave() {
	if p := recover(); p != nil {
		log.Printf("connection %s: panic: %v\n%s", s.id, p, debug.Stack())
		s.close(closeInternal, "internal error")
	}
	for _, sub := range s.subscriptions {
		s.app.unsubscribe(sub)
	}
	if s.user != nil {
		s.app.signOut(s, s.user, s.userSub)
	}
	if s.in != nil {
		s.in.free()
	}
	s.conn.linger()
	s.conn.abort()
	s.app.removeSocket(s) // last: until then it has a descriptor and counts
	s.app.logf("%s closed", s.conn.RemoteAddr())
}

// deliver sends bytes that never change, and reports whether it kept a reference to them. Anyone may call it.
func (s *Socket) deliver(frames []byte) (kept bool) { return s.conn.writeShared(frames) }

// write sends bytes that the caller may use again.
func (s *Socket) write(frames []byte) { s.conn.Write(frames) } // a failed write shows in the next read

// close sends a close frame, if none was sent before, and makes the read goroutine end. Anyone may call it.
func (s *Socket) close(code int, reason string) { s.writeLast(appendClose(nil, code, reason)) }

// writeLast sends a close frame after which nothing is sent, and wakes the read goroutine.
func (s *Socket) writeLast(closeFrame []byte) {
	s.conn.writeLast(closeFrame)
	s.closing.Store(true)
	s.conn.SetReadDeadline(time.Unix(1, 0)) // wakes the reader; see await
}

// Read gives gws the bytes of checked frames. It holds a buffer only while there are bytes in it.
func (s *Socket) Read(p []byte) (int, error) {
	for s.in == nil {
		if s.refused != 0 {
			s.close(s.refused, frameProblem(s.refused))
			return 0, errLast
		}
		b, err := s.conn.readBuffer()
		now := monotonic()
		if err == nil {
			s.use(b, now)
		} else if !isTimeout(err) {
			return 0, err
		} else if !s.keepAlive(now) {
			return 0, errLast
		}
	}
	n := copy(p, s.in.bytes[s.in.at:s.in.good])
	if s.in.at += n; s.in.at == s.in.good {
		s.in.free()
		s.in = nil
	}
	return n, nil
}

// use checks the bytes of b and makes the good ones the next to be read.
func (s *Socket) use(b *readBuffer, now int64) {
	s.lastRead = now
	if b.good, s.refused = s.guard.check(b.bytes[:b.n], now); b.good == 0 {
		b.free()
		return
	}
	s.in = b
	if !s.guard.idle() && s.frameNumber != s.guard.frames {
		s.frameNumber, s.frameBegan = s.guard.frames, now
		s.await(frameTimeout)
	}
}

// await sets the time until Read is to call keepAlive. It is not called for every read: keepAlive finds out what was read
// since.
func (s *Socket) await(d time.Duration) {
	s.conn.SetReadDeadline(time.Now().Add(d))
	if s.closing.Load() {
		s.conn.SetReadDeadline(time.Unix(1, 0)) // close may have come first
	}
}

// keepAlive is called when the read deadline has passed. It pings, waits on or closes; false means that it is over.
func (s *Socket) keepAlive(now int64) bool {
	limits := &s.app.limits
	silent := time.Duration(now - s.lastRead)
	switch {
	case s.closing.Load():
		return false
	case !s.guard.idle():
		if left := frameTimeout - time.Duration(now-s.frameBegan); left > 0 {
			s.await(left)
			return true
		}
		s.close(closePolicy, fmt.Sprintf("a frame must end within %s", frameTimeout))
		return false
	case silent < limits.activityTimeout:
		s.await(limits.activityTimeout - silent)
	case s.pinged <= s.lastRead:
		s.pinged = now
		s.write(pingFrame)
		s.await(limits.pongTimeout)
	case time.Duration(now-s.pinged) < limits.pongTimeout:
		s.await(limits.pongTimeout - time.Duration(now-s.pinged))
	default:
		s.close(codePongMissing, "Pong reply not received")
		return false
	}
	return true
}

// What gws calls, on the read goroutine.

func (u *upgrader) OnOpen(*gws.Conn)         {}
func (u *upgrader) OnClose(*gws.Conn, error) {}
func (u *upgrader) OnPong(*gws.Conn, []byte) {}

// OnPing answers with the ping's own payload, RFC 6455 section 5.5.3.
func (u *upgrader) OnPing(c *gws.Conn, payload []byte) {
	c.Session().(*Socket).write(appendControl(nil, opPong, payload))
}

// OnMessage gets whole messages, checked for UTF-8.
func (u *upgrader) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	s := c.Session().(*Socket)
	if s.closing.Load() {
		return
	}
	if m.Opcode == gws.OpcodeBinary {
		s.close(closeUnsupported, "binary messages are not supported")
		return
	}
	s.handleMessage(m.Bytes())
}

// handleMessage is the switch of the protocol. frame is valid until it returns.
func (s *Socket) handleMessage(frame []byte) {
	err := checkJSON(frame, socketDepth, socketValues)
	if err != nil {
		s.handleMalformed(err)
		return
	}
	p := parsers.Get()
	defer freeParser(p, len(frame))
	m, err := parseMessage(p, frame)
	if err != nil {
		s.handleMalformed(err)
		return
	}
	s.malformed = 0
	switch string(m.event) {
	case eventPing:
		s.write(pongFrame)
	case eventSubscribe:
		s.handleSubscribe(m.data)
	case eventUnsubscribe:
		s.handleUnsubscribe(m.data)
	case eventSignin:
		s.handleSignin(m.data)
	default:
		if bytes.HasPrefix(m.event, []byte(clientEventPrefix)) {
			s.handleClientEvent(m)
		}
		// Other names are ignored, as by every server.
	}
}

// handleMalformed answers what is no message at all, and ends the connection of a client that sends nothing else.
func (s *Socket) handleMalformed(err error) {
	if s.malformed++; s.malformed > maxMalformed {
		s.close(codeOverCapacity, "too many malformed messages")
		return
	}
	s.sendError(0, "Malformed message: "+err.Error(), "")
}

// sendError sends pusher:error; code 0 is null, which all errors have that the connection survives, but for 43xx.
func (s *Socket) sendError(code int, text, channel string) {
	s.app.logf("%s refused: %.200q", s.id, text)
	s.deliver(appendError(nil, code, text, channel))
}

// find returns the place of the subscription to the channel in the list, or -1. It is a list because a client has few
// channels, and never over a thousand.
func (s *Socket) find(channel []byte) int {
	return slices.IndexFunc(s.subscriptions, func(sub *Subscription) bool { return sub.channel.name == string(channel) })
}

// pace holds up a client that subscribes and unsubscribes without end, since every other member of a presence channel is
// told each time. To an error the client could only answer by trying again.
func (s *Socket) pace() {
	for {
		wait := s.subscribes.take(monotonic(), subscribeRate, subscribeBurst)
		if wait == 0 {
			return
		}
		time.Sleep(wait)
	}
}

// handleSubscribe answers pusher:subscribe, before the next message of this connection is read.
func (s *Socket) handleSubscribe(data *fastjson.Value) {
	s.pace()
	r, err := parseSubscribe(data)
	if err != nil {
		s.sendError(0, err.Error(), "")
		return
	}
	k, ok := parseChannel(r.channel, s.app.limits.channelName)
	switch {
	case !ok:
		s.refuse(r.channel, "InvalidChannel", http.StatusBadRequest,
			"Invalid channel name: it must have 1 to %d of the characters A-Z a-z 0-9 _ - = @ , . ;", s.app.limits.channelName)
	case k == kindUser:
		s.subscribeUser(r.channel)
	case s.find(r.channel) >= 0:
		s.sendError(0, "Existing subscription to channel "+string(r.channel), "")
	case len(s.subscriptions) >= maxChannelsPerConnection:
		s.refuse(r.channel, "LimitReached", codeOverCapacity, "A connection may have at most %d subscriptions", maxChannelsPerConnection)
	default:
		s.subscribe(r, k)
	}
}

// subscribe subscribes to a channel that has a legal name and is not a user's.
func (s *Socket) subscribe(r subscribeRequest, k kind) {
	m, no := s.authorize(r, k)
	if no != nil {
		s.refuseWith(r.channel, no)
		return
	}
	sub, err := s.app.subscribe(s, string(r.channel), k, m, nil)
	if errors.Is(err, errFull) {
		s.refuse(r.channel, "LimitReached", codeOverCapacity, "The presence channel has its maximum of %d members", s.app.limits.presenceMembers)
		return
	}
	s.subscriptions = append(s.subscriptions, sub)
	s.app.logf("%s subscribed to %q", s.id, sub.channel.name)
}

// authorize checks the signature of a channel that needs one, and returns the member for a presence channel.
func (s *Socket) authorize(r subscribeRequest, k kind) (*Member, *refusal) {
	if k&kindPrivate == 0 {
		return nil, nil // pusher-js sends an empty auth on public channels
	}
	if len(r.auth) == 0 {
		return nil, &refusal{"AuthError", "Auth info required to subscribe to " + string(r.channel), http.StatusUnauthorized}
	}
	if problem := s.app.keys.checkToken(r.auth, channelText(nil, s.id, r.channel, r.channelData)); problem != "" {
		return nil, &refusal{"AuthError", problem, http.StatusUnauthorized}
	}
	if k&kindPresence == 0 {
		return nil, nil
	}
	m := new(Member)
	if len(r.channelData) > 0 {
		var err error
		if m.id, m.info, err = parseMember(r.channelData); err != nil {
			return nil, &refusal{"AuthError", "Invalid " + err.Error(), http.StatusBadRequest}
		}
	} else if s.user != nil {
		m.id, m.info = s.user.id, s.user.info
	} else {
		return nil, &refusal{"AuthError", "Presence channels need channel_data with a user_id, or a connection that is signed in", http.StatusUnauthorized}
	}
	if limit := s.app.limits.presenceUserSize; len(m.info) > limit {
		return nil, &refusal{"LimitReached", fmt.Sprintf("user_info may have at most %d bytes", limit), codeUserInfoTooLarge}
	}
	return m, nil
}

// subscribeUser answers a subscription to #server-to-user-{id}. Its events come with signing in; this only confirms it.
func (s *Socket) subscribeUser(channel []byte) {
	switch {
	case s.user == nil || string(channel[len(userChannelPrefix):]) != s.user.id:
		s.refuse(channel, "AuthError", http.StatusUnauthorized, "Only a connection signed in as this user may subscribe to %s", channel)
	case s.userJoined:
		s.sendError(0, "Existing subscription to channel "+string(channel), "")
	default:
		s.userJoined = true
		s.deliver(appendSucceeded(nil, string(channel), nil))
	}
}

// refuse refuses a subscription for a reason in the manner of fmt.Sprintf. It is for the ways that are rarely gone: on the
// usual one, which a connection's stack has to be large enough for, there is no formatting.
//
//go:noinline
func (s *Socket) refuse(channel []byte, kind string, status int, format string, args ...any) {
	s.refuseWith(channel, &refusal{kind, fmt.Sprintf(format, args...), status})
}

// refuseWith answers a refused subscription twice: on the channel, where applications listen, and as the hosted service does.
func (s *Socket) refuseWith(channel []byte, r *refusal) {
	s.app.logf("%s refused on %.200q: %.200q", s.id, channel, r.text)
	frames := appendSubscriptionError(nil, channel, r)
	if s.app.limits.errorEvents {
		frames = appendError(frames, 0, r.text, "")
	}
	s.deliver(frames)
}

// handleUnsubscribe answers pusher:unsubscribe only if there is no such subscription.
func (s *Socket) handleUnsubscribe(data *fastjson.Value) {
	s.pace()
	r, err := parseSubscribe(data)
	if err != nil {
		s.sendError(0, err.Error(), "")
		return
	}
	if s.userJoined && string(r.channel) == userChannelPrefix+s.user.id {
		s.userJoined = false
		return
	}
	i := s.find(r.channel)
	if i < 0 {
		s.sendError(0, fmt.Sprintf("No current subscription to channel %s, or subscription in progress", r.channel), "")
		return
	}
	sub := s.subscriptions[i]
	s.subscriptions = slices.Delete(s.subscriptions, i, i+1)
	s.app.unsubscribe(sub)
	s.app.logf("%s unsubscribed from %q", s.id, sub.channel.name)
}

// handleSignin answers pusher:signin. Clients sign in each time they connect and never sign out; a connection stays that of
// the user it first signed in as.
func (s *Socket) handleSignin(data *fastjson.Value) {
	r, err := parseSignin(data)
	if err != nil {
		s.sendError(0, err.Error(), "")
		return
	}
	if problem := s.app.keys.checkToken(r.auth, userText(nil, s.id, r.userData)); problem != "" {
		s.sendError(0, problem, "")
		return
	}
	user, excess, err := parseUser(r.userData)
	switch {
	case err != nil:
		s.sendError(0, "Invalid "+err.Error(), "")
		return
	case s.user != nil && s.user.id != user.id:
		s.sendError(0, "This connection is signed in as another user already", "")
		return
	}
	success := appendSigninSuccess(nil, r.userData)
	if excess {
		text := fmt.Sprintf("The watchlist may have at most %d users; accepted were the first: %s", maxWatchlist, strings.Join(user.watchlist, ", "))
		success = appendError(success, codeWatchlistTooLong, text, "")
	}
	if s.user != nil {
		s.deliver(success)
		return
	}
	s.userSub = s.app.signIn(s, &user, success)
	s.user = &user
	s.app.logf("%s signed in as %q", s.id, user.id)
}

// handleClientEvent relays an event to the other subscribers of its channel. Of what the client sent only name and data go
// on: the user_id is that of its verified channel_data.
func (s *Socket) handleClientEvent(m message) {
	limits := &s.app.limits
	k, _ := parseChannel(m.channel, limits.channelName)
	problem, place := "", s.find(m.channel)
	switch {
	case len(m.channel) == 0 || m.data == nil:
		problem = "Invalid client event (must contain channel and data)"
	case !limits.clientEvents:
		problem = "To send client events, you must enable this feature: start edge without -client-events=false"
	case k&kindPrivate == 0 || k&kindEncrypted != 0:
		problem = "Client event rejected - only supported on private and presence channels"
	case place < 0:
		problem = "Client event rejected - not subscribed to channel " + string(m.channel)
	case utf8.RuneCount(m.event) > maxEventName:
		problem = fmt.Sprintf("Client event rejected - the name may have at most %d characters", maxEventName)
	}
	if problem != "" {
		s.sendError(0, problem, string(m.channel))
		return
	}
	sub := s.subscriptions[place]
	buffer := frameBuffers.Get().(*[]byte)
	defer freeFrameBuffer(buffer)
	*buffer = appendLiteral((*buffer)[:0], m.data)
	if decodedLen(*buffer) > limits.eventSize {
		s.sendError(0, fmt.Sprintf("Client event rejected - the data may have at most %d bytes", limits.eventSize), sub.channel.name)
		return
	}
	if !s.clientEvents.allow(monotonic(), maxClientEvents, maxClientEvents) {
		text := fmt.Sprintf("Rate limit exceeded: at most %d client events a second", maxClientEvents)
		s.sendError(codeClientEventRate, text, sub.channel.name)
		return
	}
	e := Event{name: m.event, data: *buffer, except: s}
	if sub.member != nil {
		e.userID = sub.member.id
	}
	s.app.clientEvent(sub.channel.name, k, e)
}
