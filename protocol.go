package main

// The Pusher Channels protocol, versions 5 to 7 (https://pusher.com/docs/channels/library_auth_reference/pusher-websockets-protocol/).
//
// Protocol flow:
//
//	client: GET /app/{key}?protocol=7&client=js&version=8.4.0, Upgrade: websocket
//	server: 101, then connection_established with the socket id, or error and a close frame with a 40xx code
//
//	then the client sends, in any order and each as one text frame {"event":…,"data":…[,"channel":…]}:
//	  pusher:subscribe     answered by subscription_succeeded, then the cached event or cache_miss of a cache channel;
//	                       or by subscription_error and error, and the connection stays usable
//	  pusher:unsubscribe   not answered
//	  pusher:signin        answered by signin_success, then watchlist_events
//	  pusher:ping          answered by pong
//	  client-…             relayed to the other subscribers of a private or presence channel
//	and receives events, member_added, member_removed and subscription_count of its channels.
//
// Socket is one client: one handleX for each verb of the protocol, liveness and the end.
//
// Whatever a client sends is handled with its Socket's mu held, one message after the other, and so is what time brings: there
// is one goroutine at most at work for a client, and none while nothing comes. mu is taken before any other lock. Other
// goroutines may only deliver frames to a Socket or close it, which takes no lock but greeting and the connection's and never
// blocks.

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/lxzan/gws"

	"edge/internal/sign"
	"edge/internal/wire"
)

const (
	frameTimeout = 10 * time.Second // for a message to end after its last frame has begun
	tickAgain    = time.Second      // when the client is just being served

	textShortOfMemory = "The server is short of memory"
)

type Socket struct {
	// Static after serve.
	app   *App
	id    wire.SocketID
	began int64       // when the connection was established
	timer *time.Timer // calls tick
	conn  conn        // has its own locking

	deflate bool // it has negotiated permessage-deflate

	greeting sync.Mutex // held until the first bytes are sent, which nothing may overtake

	closing atomic.Bool // a close frame was sent

	mu            sync.Mutex // guards the following
	subscriptions []*Subscription
	user          *wire.User    // nil until signed in
	userSub       *Subscription // to the user's channel, from signing in on
	userJoined    bool          // the client subscribed to the user's channel
	left          bool          // leave was called
	clientEvents  rate
	subscribes    rate // and their ends
	malformed     int  // messages in a row
	in            guard
	held          *holding // what in keeps; nil for nothing
	lastRead      int64    // monotonic nanoseconds, as all times here
	pinged        int64    // when the last ping was sent
	frameBegan    int64    // when the frame was begun that had not ended at the last read,
	frameNumber   uint32   // and the guard's number of it
	leftAt        int64    // when leave was called
	authorized    bool     // it has signed in or joined a private channel
}

// cutTexts say why a connection was cut off, to who looks for it.
var cutTexts = [cutReasons]string{
	cutFull:    "it reads more slowly than it is sent to: its queue was full (-send-buffer)",
	cutStalled: "it does not read: what waited for it could not be sent in time",
	cutMemory:  "it reads slowly and memory is short (-memory)",
}

var processStart = time.Now()

// monotonic is a clock that no one can set.
func monotonic() int64 { return int64(time.Since(processStart)) }

// serve brings the connection to life, unless it is refused with code. first are bytes to be sent before anything else, early
// is what the client has sent already.
func (s *Socket) serve(first, early []byte, code int, reason string) {
	defer s.conn.start(s) // whatever happens: only what was started ends
	defer s.recovered()
	limits := s.app.limits()
	s.began = monotonic()
	s.lastRead = s.began
	s.timer = time.AfterFunc(limits.firstTick(), s.tick)
	s.greet(first, code, reason)
	if len(early) > 0 {
		s.receive(early)
	}
}

// greet adds the connection to its app, or refuses it, and sends the first bytes.
func (s *Socket) greet(first []byte, code int, reason string) {
	s.greeting.Lock()
	defer s.greeting.Unlock()
	err, crowded := s.app.addSocket(s, code == 0)
	switch err {
	case errQuota:
		code, reason = wire.CodeOverQuota, "The app is over its connection limit"
	case errMemory:
		code, reason = wire.CodeOverCapacity, textShortOfMemory
	case errCapacity:
		code, reason = wire.CodeOverCapacity, "The server is at its connection limit"
	case errShutdown:
		code, reason = wire.CodeReconnect, "Please reconnect immediately"
	}
	if code == 0 {
		s.app.counts.connected.Add(1)
		s.tell(notice{what: "connected"})
		frames := wire.AppendEstablished(first, s.id, s.app.limits().activityTimeout)
		s.noteSent(frames[len(first):])
		s.conn.Write(frames)
	} else {
		s.app.counts.refuse("connection", strconv.Itoa(code))
		s.tell(notice{what: noticeRefused, code: code, reason: reason})
		s.writeLast(appendClose(wire.AppendError(first, code, reason, ""), code, reason))
		if crowded {
			s.conn.abort() // there are no descriptors for lingering
		}
	}
}

// receive handles what the client sent. The connection calls it.
func (s *Socket) receive(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.recovered()
	now := monotonic()
	s.lastRead = now
	s.app.counts.receivedBytes.Add(uint64(len(p)))
	s.readFrames(p, now)
	s.holdMessage()
	if s.closing.Load() {
		s.leave()
	} else if !s.in.idle() && s.frameNumber != s.in.frames {
		s.frameNumber, s.frameBegan = s.in.frames, now
		s.wait(min(frameTimeout, max(0, s.toAuthorize(now))))
	}
}

// readFrames handles the messages and control frames that p makes whole.
func (s *Socket) readFrames(p []byte, now int64) {
	links := plainLinks
	if s.deflate {
		links = deflateLinks()
	}
	link, ok := links.get(), true
	for ok && len(p) > 0 && !s.over() {
		frames, rest, code := s.in.next(p, now)
		if p = rest; code != 0 {
			s.close(code, frameProblem(code))
		} else if frames != nil {
			ok = s.handleFrames(link, frames)
			s.in.release()
		}
	}
	if ok { // else, and after a panic, it is of no use any more
		links.put(link)
	}
}

// handleFrames handles a message or control frame. Not ok is a link that must not be used any more.
func (s *Socket) handleFrames(l *link, frames []byte) (ok bool) {
	m, ok := l.read(frames, s)
	switch {
	case m == nil: // a control frame, or gws has closed the connection
		return ok
	case m.Opcode == gws.OpcodeBinary:
		s.close(closeUnsupported, "binary messages are not supported")
	default:
		s.handleText(m.Bytes())
	}
	endMessage(m)
	return true
}

// receiveText is receive for a message of a client over HTTP, whose size and UTF-8 are checked; nil is a sign of life.
func (s *Socket) receiveText(text []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.recovered()
	s.lastRead = monotonic()
	s.app.counts.receivedBytes.Add(uint64(len(text)))
	switch {
	case s.over():
	case text != nil:
		s.handleText(text)
	case !s.in.controls.allow(s.lastRead, controlRate, controlBurst):
		s.close(closePolicy, frameProblem(closePolicy))
	}
	if s.closing.Load() {
		s.leave()
	}
}

// handleText counts, shows and handles a message.
func (s *Socket) handleText(text []byte) {
	s.app.counts.received.Add(1)
	s.showReceived(text)
	s.handleMessage(text)
}

// showReceived shows a message if someone wants to see it. A notice is large, and the stack of each connection that says
// something has to be made large enough for all that is not called by the way.
//
//go:noinline
func (s *Socket) showReceived(text []byte) {
	if w := s.app.watch; w.on.Load()&watchVerbose != 0 {
		w.show(s.app, notice{what: "received", socket: s.id, data: text})
	}
}

// holdMessage accounts for what is kept of a message that is not whole. It does not count as moved when more of it comes, or a
// client could hold it for ever.
func (s *Socket) holdMessage() {
	switch bytes := s.in.held(); {
	case bytes > 0:
		if s.held == nil {
			s.held = &holding{conn: &s.conn}
		}
		s.app.bounds.memory.hold(s.held, int64(bytes), false)
	case s.held != nil:
		s.app.bounds.memory.hold(s.held, 0, false)
		s.held = nil
	}
}

// over reports whether what the client has sent is not to be handled any more.
func (s *Socket) over() bool { return s.closing.Load() || s.conn.failed() }

// wait sets the time until tick is called.
func (s *Socket) wait(d time.Duration) {
	s.timer.Reset(d)
	if s.closing.Load() {
		s.timer.Reset(0) // close may have come first
	}
}

// tick is called by the timer: when the client should have been heard of, and on the way out. It is not set for every
// message: keepAlive finds out what came since.
func (s *Socket) tick() {
	if !s.mu.TryLock() {
		s.timer.Reset(tickAgain) // what is being handled may wait for something (pace), but a goroutine need not wait with it
		return
	}
	defer s.mu.Unlock()
	defer s.recovered()
	switch {
	case s.left:
		if d := time.Duration(monotonic() - s.leftAt); d < lingerTimeout || d < lingerLimit && s.conn.busy() {
			s.timer.Reset(lingerTimeout)
		} else {
			s.conn.abort()
		}
	case s.closing.Load():
		s.leave()
	default:
		s.keepAlive(monotonic())
	}
}

// keepAlive pings, waits on or closes.
func (s *Socket) keepAlive(now int64) {
	limits := s.app.limits()
	silent, toAuthorize := time.Duration(now-s.lastRead), s.toAuthorize(now)
	wait := func(d time.Duration) { s.wait(min(d, toAuthorize)) }
	switch {
	case toAuthorize <= 0:
		s.close(wire.CodeUnauthorized, "Connection not authorized within timeout")
	case !s.in.idle():
		if left := frameTimeout - time.Duration(now-s.frameBegan); left > 0 {
			wait(left)
			return
		}
		s.close(closePolicy, fmt.Sprintf("a message must end within %s", frameTimeout))
	case silent < limits.activityTimeout:
		wait(limits.activityTimeout - silent)
	case s.pinged <= s.lastRead:
		s.pinged = now
		s.write(pingFrame)
		wait(limits.pongTimeout)
	case time.Duration(now-s.pinged) < limits.pongTimeout:
		wait(limits.pongTimeout - time.Duration(now-s.pinged))
	default:
		s.close(wire.CodePongMissing, "Pong reply not received")
	}
}

// toAuthorize is the time that is left to join a private channel or sign in.
func (s *Socket) toAuthorize(now int64) time.Duration {
	within := s.app.limits().authorizeWithin
	if within == 0 || s.authorized {
		return math.MaxInt64
	}
	return within - time.Duration(now-s.began)
}

// firstTick is the time after which a new connection is looked at.
func (l *Limits) firstTick() time.Duration {
	if l.authorizeWithin > 0 {
		return min(l.activityTimeout, l.authorizeWithin)
	}
	return l.activityTimeout
}

// recovered ends the connection, and no other, if handling it has panicked. It is deferred.
func (s *Socket) recovered() {
	if p := recover(); p != nil {
		logPanic("connection "+s.id.String(), p)
		s.closeBroken()
	}
}

// closeBroken closes a connection that something has panicked for, which may be closing it too.
func (s *Socket) closeBroken() {
	defer s.conn.recovered()
	s.close(closeInternal, "internal error")
}

// leave ends all that the client takes part in. The connection stays until the other side has closed it too, so that it can
// read our last bytes (closing one that has unread input makes the kernel discard them), or until that takes too long. It may
// be called again. The caller holds mu.
func (s *Socket) leave() {
	if !s.left {
		s.left, s.leftAt = true, monotonic()
		s.timer.Reset(lingerTimeout)
	}
	for len(s.subscriptions) > 0 {
		sub := s.subscriptions[0]
		s.subscriptions = s.subscriptions[1:]
		s.leaveChannel(sub)
	}
	if user := s.user; user != nil {
		s.user = nil
		s.app.signOut(s, user, s.userSub)
	}
}

// leaveChannel ends a subscription. A panic must not keep leave from ending the others.
func (s *Socket) leaveChannel(sub *Subscription) {
	defer s.recovered()
	s.app.unsubscribe(sub)
}

// ended is called by the connection when it is over.
func (s *Socket) ended() {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.app.removeSocket(s) // last: until then it has a descriptor and counts
	defer s.conn.free()
	defer s.recovered()
	s.leave()
	s.timer.Stop()
	s.in.kept = [2]*[]byte{}
	s.holdMessage()
	if s.id != (wire.SocketID{}) {
		s.app.counts.disconnected.Add(1)
		if reason, cut := s.conn.cause().(cutReason); cut {
			s.tell(notice{what: "cut", reason: cutTexts[reason]})
		}
		s.tell(notice{what: "disconnected"})
	}
}

// write sends frames, which the caller may use again. Anyone may call it.
func (s *Socket) write(frames []byte) {
	s.noteSent(frames)
	s.conn.Write(frames) // a failed write shows in ended
}

// noteSent counts and shows a frame of the protocol that is about to be sent.
func (s *Socket) noteSent(frames []byte) {
	s.app.counts.sent.Add(1)
	s.showSent(frames)
}

// showSent shows frames that are about to be sent, if someone wants to see them.
func (s *Socket) showSent(frames []byte) {
	if w := s.app.watch; w.on.Load()&watchVerbose != 0 {
		w.showFrames("sent", s, frames)
	}
}

// deliverShared sends a part of what others are sent too, which begins and ends with a frame. Only a channel's pump may call it.
func (s *Socket) deliverShared(b *batch, from, to int) {
	s.showSent(b.bytes[from:to])
	of := &b.shared
	if p := b.packed; s.deflate && p != nil {
		of, from, to = &p.shared, p.at(from), p.at(to)
	}
	s.conn.writeShared(of, from, to)
}

// tell tells of the connection itself. Without anyone who wants to know, its address is not even made a text.
func (s *Socket) tell(n notice) {
	if s.app.watch.on.Load() != 0 {
		n.socket, n.remote = s.id, s.remote()
		s.app.tell(n)
	}
}

// remote is the address of the client.
func (s *Socket) remote() string {
	if a := s.conn.remote; a.Port() != 0 {
		return a.String()
	} else if a.IsValid() {
		return a.Addr().String()
	}
	return "unix"
}

// close sends a close frame, if none was sent before, and ends the connection. Anyone may call it.
func (s *Socket) close(code int, reason string) {
	s.greeting.Lock()
	defer s.greeting.Unlock() // also after a panic: closeBroken comes here

	if s.writeLast(appendClose(nil, code, reason)) && reason != "" { // or it is the answer to the client's
		s.tell(notice{what: "closed", code: code, reason: reason})
	}
}

// writeLast sends a close frame, after which nothing is sent or handled, and reports whether it is the first. The caller holds greeting.
func (s *Socket) writeLast(closeFrame []byte) (first bool) {
	first = s.conn.writeLast(closeFrame)
	if s.closing.CompareAndSwap(false, true) {
		s.timer.Reset(0) // to leave, which the caller must not wait for
	}
	return first
}

// handleMessage is the switch of the protocol. text is valid until it returns.
func (s *Socket) handleMessage(text []byte) {
	buffer := wire.Buffers.Get().(*[]byte)
	defer wire.FreeBuffer(&buffer)
	m := wire.Message{Buffer: buffer}
	if err := m.Parse(text); err != nil {
		s.handleMalformed(err)
		return
	}
	s.malformed = 0
	switch string(m.Event) {
	case wire.EventPing:
		s.write(wire.PongFrame)
	case wire.EventSubscribe:
		s.handleSubscribe(&m)
	case wire.EventUnsubscribe:
		s.handleUnsubscribe(&m)
	case wire.EventSignin:
		s.handleSignin(&m)
	default:
		if bytes.HasPrefix(m.Event, []byte(wire.ClientEventPrefix)) {
			s.handleClientEvent(&m)
		}
		// Other names are ignored, as by every server.
	}
}

// handleMalformed answers what is no message at all, and ends the connection of a client that sends nothing else.
//
//go:noinline
func (s *Socket) handleMalformed(err error) {
	if s.malformed++; s.malformed > wire.MaxMalformed {
		s.close(wire.CodeOverCapacity, "too many malformed messages")
		return
	}
	s.sendError(0, "Malformed message: "+err.Error(), "")
}

// sendError sends pusher:error; code 0 is null, which all errors have that the connection survives, but for 43xx.
//
//go:noinline
func (s *Socket) sendError(code int, text, channel string) {
	s.app.counts.refuse("message", strconv.Itoa(code))
	s.app.tell(notice{what: noticeRefused, socket: s.id, channel: channel, code: code, reason: text})
	s.write(wire.AppendError(nil, code, text, channel))
}

// find returns the place of the subscription to the channel in the list, or -1. It is a list because a client has few
// channels, and never over a thousand.
func (s *Socket) find(channel []byte) int {
	return slices.IndexFunc(s.subscriptions, func(sub *Subscription) bool { return sub.channel.name == string(channel) })
}

// pace holds up a client that subscribes and unsubscribes without end, since every other member of a presence channel is
// told each time. To an error the client could only answer by trying again.
func (s *Socket) pace() {
	for !s.over() {
		wait := s.subscribes.take(monotonic(), wire.SubscribeRate, wire.SubscribeBurst)
		if wait == 0 {
			return
		}
		time.Sleep(wait)
	}
}

// handleSubscribe answers pusher:subscribe, before the next message of this connection is read.
func (s *Socket) handleSubscribe(m *wire.Message) {
	s.pace()
	r, err := m.ParseSubscribe()
	if err != nil {
		s.sendError(0, err.Error(), "")
		return
	}
	k, ok := wire.ParseChannel(r.Channel, s.app.limits().channelName)
	switch {
	case !ok:
		s.refuse(wire.Clip(r.Channel), "InvalidChannel", http.StatusBadRequest,
			"Invalid channel name: it must have 1 to %d of the characters A-Z a-z 0-9 _ - = @ , . ;", s.app.limits().channelName)
	case k == wire.KindUser:
		s.subscribeUser(r.Channel)
	case s.find(r.Channel) >= 0:
		s.sendError(0, "Existing subscription to channel "+string(r.Channel), "")
	case len(s.subscriptions) >= wire.MaxChannelsPerConnection:
		s.refuse(r.Channel, "LimitReached", wire.CodeOverCapacity, "A connection may have at most %d subscriptions", wire.MaxChannelsPerConnection)
	case s.app.bounds.memory.refuses():
		s.refuse(r.Channel, "LimitReached", wire.CodeOverCapacity, textShortOfMemory)
	default:
		s.subscribe(r, k)
	}
}

// subscribe subscribes to a channel that has a legal name and is not a user's.
func (s *Socket) subscribe(r wire.SubscribeRequest, k wire.Kind) {
	m, no := s.authorize(r, k)
	if no != nil {
		s.refuseWith(r.Channel, no)
		return
	}
	sub, err := s.app.subscribe(s, string(r.Channel), k, m, nil)
	if errors.Is(err, errFull) {
		s.refuse(r.Channel, "LimitReached", wire.CodeOverCapacity, "The presence channel has its maximum of %d members", s.app.limits().presenceMembers)
		return
	}
	s.subscriptions = append(s.subscriptions, sub)
	s.authorized = s.authorized || k&wire.KindPrivate != 0
	s.tellOf("subscribed", sub)
}

// tellOf tells what has become of a subscription.
//
//go:noinline
func (s *Socket) tellOf(what string, sub *Subscription) {
	s.app.tell(notice{what: what, socket: s.id, channel: sub.channel.name, user: sub.userID()})
}

// authorize checks the signature of a channel that needs one, and returns the member for a presence channel.
func (s *Socket) authorize(r wire.SubscribeRequest, k wire.Kind) (*Member, *wire.SubscriptionError) {
	if k&wire.KindPrivate == 0 {
		return nil, nil // pusher-js sends an empty auth on public channels
	}
	if len(r.Auth) == 0 {
		return nil, &wire.SubscriptionError{Kind: "AuthError", Text: "Auth info required to subscribe to " + string(r.Channel), Status: http.StatusUnauthorized}
	}
	if problem := checkToken(s.app.keys(), r.Auth, sign.ChannelText(nil, s.id.String(), r.Channel, r.ChannelData)); problem != "" {
		return nil, &wire.SubscriptionError{Kind: "AuthError", Text: problem, Status: http.StatusUnauthorized}
	}
	if k&wire.KindPresence == 0 {
		return nil, nil
	}
	m := new(Member)
	if len(r.ChannelData) > 0 {
		var err error
		if m.id, m.info, err = wire.ParseMember(r.ChannelData); err != nil {
			return nil, &wire.SubscriptionError{Kind: "AuthError", Text: "Invalid " + err.Error(), Status: http.StatusBadRequest}
		}
	} else if s.user != nil {
		m.id, m.info = s.user.ID, s.user.Info
	} else {
		return nil, &wire.SubscriptionError{Kind: "AuthError", Text: "Presence channels need channel_data with a user_id, or a connection that is signed in", Status: http.StatusUnauthorized}
	}
	if limit := s.app.limits().presenceUserSize; len(m.info) > limit {
		return nil, &wire.SubscriptionError{Kind: "LimitReached", Text: fmt.Sprintf("user_info may have at most %d bytes", limit), Status: wire.CodeUserInfoTooLarge}
	}
	return m, nil
}

// subscribeUser answers a subscription to #server-to-user-{id}. Its events come with signing in; this only confirms it.
func (s *Socket) subscribeUser(channel []byte) {
	switch {
	case s.user == nil || string(channel[len(wire.UserChannelPrefix):]) != s.user.ID:
		s.refuse(channel, "AuthError", http.StatusUnauthorized, "Only a connection signed in as this user may subscribe to %s", channel)
	case s.userJoined:
		s.sendError(0, "Existing subscription to channel "+string(channel), "")
	default:
		s.userJoined = true
		s.write(wire.AppendSucceeded(nil, string(channel), nil))
	}
}

// refuse refuses a subscription for a reason in the manner of fmt.Sprintf. It is for the ways that are rarely gone: on the
// usual one, which a connection's stack has to be large enough for, there is no formatting.
//
//go:noinline
func (s *Socket) refuse(channel []byte, kind string, status int, format string, args ...any) {
	s.refuseWith(channel, &wire.SubscriptionError{Kind: kind, Text: fmt.Sprintf(format, args...), Status: status})
}

// refuseWith answers a refused subscription twice: on the channel, where applications listen, and as the hosted service does.
func (s *Socket) refuseWith(channel []byte, r *wire.SubscriptionError) {
	s.app.counts.refuse("subscription", r.Kind)
	s.app.tell(notice{what: noticeRefused, socket: s.id, channel: string(channel), code: r.Status, reason: r.Text})
	s.write(wire.AppendError(wire.AppendSubscriptionError(nil, channel, r), 0, r.Text, ""))
}

// handleUnsubscribe answers pusher:unsubscribe only if there is no such subscription.
func (s *Socket) handleUnsubscribe(m *wire.Message) {
	s.pace()
	r, err := m.ParseSubscribe()
	if err != nil {
		s.sendError(0, err.Error(), "")
		return
	}
	if s.userJoined && string(r.Channel) == wire.UserChannelPrefix+s.user.ID {
		s.userJoined = false
		return
	}
	i := s.find(r.Channel)
	if i < 0 {
		s.sendError(0, fmt.Sprintf("No current subscription to channel %s, or subscription in progress", wire.Clip(r.Channel)), "")
		return
	}
	sub := s.subscriptions[i]
	s.subscriptions = slices.Delete(s.subscriptions, i, i+1)
	s.app.unsubscribe(sub)
	s.tellOf("unsubscribed", sub)
}

// handleSignin answers pusher:signin. Clients sign in each time they connect and never sign out; a connection stays that of
// the user it first signed in as.
func (s *Socket) handleSignin(m *wire.Message) {
	r, err := m.ParseSignin()
	if err != nil {
		s.sendError(0, err.Error(), "")
		return
	}
	if problem := checkToken(s.app.keys(), r.Auth, sign.UserText(nil, s.id.String(), r.UserData)); problem != "" {
		s.sendError(0, problem, "")
		return
	}
	user, excess, err := wire.ParseUser(r.UserData)
	switch {
	case err != nil:
		s.sendError(0, "Invalid "+err.Error(), "")
		return
	case s.user != nil && s.user.ID != user.ID:
		s.sendError(0, "This connection is signed in as another user already", "")
		return
	case s.user == nil && s.app.bounds.memory.refuses():
		s.sendError(0, textShortOfMemory, "")
		return
	}
	success := wire.AppendSigninSuccess(nil, r.UserData)
	if excess {
		text := fmt.Sprintf("The watchlist may have at most %d users; accepted were the first: %s", wire.MaxWatchlist, strings.Join(user.Watchlist, ", "))
		success = wire.AppendError(success, wire.CodeWatchlistTooLong, text, "")
	}
	if s.user != nil {
		s.write(success)
		return
	}
	s.userSub = s.app.signIn(s, &user, success)
	s.user, s.authorized = &user, true
	s.app.tell(notice{what: "signed in", socket: s.id, user: user.ID})
}

// handleClientEvent relays an event to the other subscribers of its channel. Of what the client sent only name and data go
// on: the user_id is that of its verified channel_data.
func (s *Socket) handleClientEvent(m *wire.Message) {
	limits := s.app.limits()
	k, _ := wire.ParseChannel(m.Channel, limits.channelName)
	problem, place := "", s.find(m.Channel)
	switch {
	case len(m.Channel) == 0 || m.Data == nil:
		problem = "Invalid client event (must contain channel and data)"
	case !limits.clientEvents:
		problem = "To send client events, you must enable this feature: start edge without -client-events=false"
	case k&wire.KindPrivate == 0 || k&wire.KindEncrypted != 0:
		problem = "Client event rejected - only supported on private and presence channels"
	case place < 0:
		problem = "Client event rejected - not subscribed to channel " + string(m.Channel)
	case utf8.RuneCount(m.Event) > wire.MaxEventName:
		problem = fmt.Sprintf("Client event rejected - the name may have at most %d characters", wire.MaxEventName)
	}
	if problem != "" {
		s.sendError(0, problem, string(m.Channel))
		return
	}
	sub := s.subscriptions[place]
	if m.Data.Exceeds(limits.eventSize) {
		s.sendError(0, fmt.Sprintf("Client event rejected - the data may have at most %d bytes", limits.eventSize), sub.channel.name)
		return
	}
	if !s.clientEvents.allow(monotonic(), wire.MaxClientEvents, wire.MaxClientEvents) {
		text := fmt.Sprintf("Rate limit exceeded: at most %d client events a second", wire.MaxClientEvents)
		s.sendError(wire.CodeClientEventRate, text, sub.channel.name)
		return
	}
	e := Event{name: m.Event, data: m.Data.Literal(), except: s}
	if sub.member != nil {
		e.userID = sub.member.id
	}
	s.app.clientEvent(sub.channel.name, k, e)
}
