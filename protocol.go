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
// client is one client: one handleX for each verb of the protocol, liveness and the end.
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
	"time"
	"unicode/utf8"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/sign"
	"edge/internal/wire"
)

type client struct {
	channel.Socket

	// Static after serve.
	app   *app
	timer *time.Timer // calls tick

	// Guarded by Socket.mu.
	userJoined   bool // it has subscribed to the user's channel
	left         bool // it takes part in nothing any more
	authorized   bool // it has signed in or joined a private channel
	clientEvents conn.Rate
	subscribes   conn.Rate // and their ends
	malformed    int       // messages in a row
	pinged       int64     // when the last ping was sent, on the clock of monotonic
}

// cutTexts say why a connection was cut off, to who looks for it.
var cutTexts = [conn.CutReasons]string{
	conn.CutFull:    "it reads more slowly than it is sent to: its queue was full (-send-buffer)",
	conn.CutStalled: "it does not read: what waited for it could not be sent in time",
	conn.CutMemory:  "it reads slowly and memory is short (-memory)",
}

// maxRejected is how many connections over the limit may linger for their last words to be read.
const maxRejected = 16

func newClient(a *app) *client { return &client{Socket: channel.Socket{App: a.App}, app: a} }

// serve brings the connection to life, unless it is refused with code. first is to be sent before anything else, early is what the
// client has sent already. feed is for conn.start.
func (s *client) serve(first, early []byte, feed func(), code int, reason string) {
	defer s.Conn.Start(feed) // whatever happens: only what was started ends
	defer s.recovered()
	s.Began = conn.Now()
	s.timer = time.AfterFunc(firstTick(s.app.Limits()), s.tick)
	if code == 0 {
		s.app.Enter(&s.Socket, func(err error) { s.greet(first, err) })
	} else {
		s.reject(first, code, reason)
	}
	if len(early) > 0 {
		s.Conn.Receive(early)
	}
}

// greet sends the first bytes of a connection that App.enter has admitted, or not.
func (s *client) greet(first []byte, err error) {
	if err == nil {
		s.app.Counts.Connected.Add(1)
		s.Notify(channel.Notice{About: channel.AboutConnections, What: "connected"})
		frames := wire.AppendEstablished(first, s.ID, s.app.Limits().ActivityTimeout)
		s.NoteSent(frames[len(first):])
		s.Conn.Write(frames)
		return
	}
	switch err {
	case conn.ErrQuota:
		s.reject(first, wire.CodeOverQuota, "The app is over its connection limit")
	case conn.ErrMemory:
		s.reject(first, wire.CodeOverCapacity, channel.TextShortOfMemory)
	case conn.ErrCapacity:
		s.reject(first, wire.CodeOverCapacity, "The server is at its connection limit")
	case conn.ErrShutdown:
		s.reject(first, wire.CodeReconnect, "Please reconnect immediately")
	}
}

// reject rejects the connection.
func (s *client) reject(first []byte, code int, reason string) {
	s.noteRejected(code, reason)
	s.Conn.CloseAfter(wire.AppendError(first, code, reason, ""), code, reason)
	if s.app.Conns.Count() > s.app.Limits().MaxConnections+maxRejected {
		s.Conn.Abort() // there are no descriptors for lingering
	}
}

func (s *client) noteRejected(code int, reason string) {
	s.app.Counts.Refuse("connection", strconv.Itoa(code))
	s.Notify(channel.Notice{About: channel.AboutRejections, What: channel.NoticeRejected, Code: code, Reason: reason})
}

// Message handles a message. The connection calls it.
func (s *client) Message(text []byte) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if !s.left {
		s.handleText(text)
	}
}

// handleText counts, shows and handles a message.
func (s *client) handleText(text []byte) {
	s.app.Counts.Received.Add(1)
	s.NotifyFrame("received", text)
	s.handleMessage(text)
}

// tick is called by the timer when the client should have been heard of. It is not set for every message: keepAlive finds out
// what came since.
func (s *client) tick() {
	defer s.recovered()
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if !s.left {
		s.keepAlive(conn.Now())
	}
}

// keepAlive pings, waits on or closes.
func (s *client) keepAlive(now int64) {
	limits := s.app.Limits()
	heard, toAuthorize := s.Conn.Heard.Load(), s.toAuthorize(now)
	silent := time.Duration(now - heard)
	wait := func(d time.Duration) { s.timer.Reset(min(d, toAuthorize)) }
	switch {
	case toAuthorize <= 0:
		s.Close(wire.CodeUnauthorized, "Connection not authorized within timeout")
	case silent < limits.ActivityTimeout:
		wait(limits.ActivityTimeout - silent)
	case s.pinged <= heard:
		s.pinged = now
		s.Write(conn.PingFrame)
		wait(limits.PongTimeout)
	case time.Duration(now-s.pinged) < limits.PongTimeout:
		wait(limits.PongTimeout - time.Duration(now-s.pinged))
	default:
		s.Close(wire.CodePongMissing, "Pong reply not received")
	}
}

// toAuthorize is the time that is left to join a private channel or sign in.
func (s *client) toAuthorize(now int64) time.Duration {
	within := s.app.Limits().AuthorizeWithin
	if within == 0 || s.authorized {
		return math.MaxInt64
	}
	return within - time.Duration(now-s.Began)
}

// firstTick is the time after which a new connection is looked at.
func firstTick(l *channel.Limits) time.Duration {
	if l.AuthorizeWithin > 0 {
		return min(l.ActivityTimeout, l.AuthorizeWithin)
	}
	return l.ActivityTimeout
}

// recovered ends the connection, and no other, if handling it has panicked. It is deferred.
func (s *client) recovered() {
	if p := recover(); p != nil {
		conn.LogPanic("connection "+s.ID.String(), p)
		s.CloseBroken()
	}
}

// leaveChannel ends a subscription. A panic must not keep leave from ending the others.
func (s *client) leaveChannel(sub *channel.Subscription) {
	defer s.recovered()
	s.app.Unsubscribe(sub)
}

// Ended ends all that the client takes part in. The connection calls it when the conversation is over.
func (s *client) Ended() {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	defer s.app.Leave(&s.Socket)
	defer s.recovered()
	s.left = true
	s.timer.Stop()
	for len(s.Subscriptions) > 0 {
		sub := s.Subscriptions[0]
		s.Subscriptions = s.Subscriptions[1:]
		s.leaveChannel(sub)
	}
	if user := s.User; user != nil {
		s.User = nil
		s.app.SignOut(&s.Socket, user, s.UserSub)
	}
	if s.ID != (wire.SocketID{}) {
		s.app.Counts.Disconnected.Add(1)
		s.notifyEnd()
	}
}

// notifyEnd notifies of how the connection has ended.
func (s *client) notifyEnd() {
	if how := s.Conn.ClosedAs(); how != nil && how.Reason != "" { // or it is the answer to the client's
		s.Notify(channel.Notice{About: channel.AboutConnections, What: "closed", Code: how.Code, Reason: how.Reason})
	}
	if reason, cut := s.Conn.Cause().(conn.CutReason); cut {
		s.Notify(channel.Notice{About: channel.AboutConnections, What: "cut", Reason: cutTexts[reason]})
	}
	s.Notify(channel.Notice{About: channel.AboutConnections, What: "disconnected"})
}

// handleMessage is the switch of the protocol. text is valid until it returns.
func (s *client) handleMessage(text []byte) {
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
		s.Write(wire.PongFrame)
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
func (s *client) handleMalformed(err error) {
	if s.malformed++; s.malformed > wire.MaxMalformed {
		s.Close(wire.CodeOverCapacity, "too many malformed messages")
		return
	}
	s.sendError(0, "Malformed message: "+err.Error(), "")
}

// sendError sends pusher:error; code 0 is null, which all errors have that the connection survives, but for 43xx.
//
//go:noinline
func (s *client) sendError(code int, text, name string) {
	s.app.Counts.Refuse("message", strconv.Itoa(code))
	s.app.Notify(channel.Notice{About: channel.AboutRejections, What: channel.NoticeRejected, Socket: s.ID, Channel: name, Code: code, Reason: text})
	s.Write(wire.AppendError(nil, code, text, name))
}

// find returns the place of the subscription to the channel in the list, or -1. It is a list because a client has few
// channels, and never over a thousand.
func (s *client) find(name []byte) int {
	return slices.IndexFunc(s.Subscriptions, func(sub *channel.Subscription) bool { return sub.Channel.Name == string(name) })
}

// pace holds up a client that subscribes and unsubscribes without end, since every other member of a presence channel is notified
// each time. (To an error the client could only answer by trying again.) It reports false if the connection is over meanwhile. It
// gives mu up while it waits.
func (s *client) pace() bool {
	for !s.left && !s.Conn.Over() {
		wait := s.subscribes.Take(conn.Now(), wire.SubscribeRate, wire.SubscribeBurst)
		if wait == 0 {
			return true
		}
		s.Mu.Unlock()
		time.Sleep(wait)
		s.Mu.Lock()
	}
	return false
}

// handleSubscribe answers pusher:subscribe, before the next message of this connection is read.
func (s *client) handleSubscribe(m *wire.Message) {
	if !s.pace() {
		return
	}
	r, err := m.ParseSubscribe()
	if err != nil {
		s.sendError(0, err.Error(), "")
		return
	}
	k, ok := wire.ParseChannel(r.Channel, s.app.Limits().ChannelName)
	switch {
	case !ok:
		s.refuse(wire.Clip(r.Channel), "InvalidChannel", http.StatusBadRequest,
			"Invalid channel name: it must have 1 to %d of the characters A-Z a-z 0-9 _ - = @ , . ;", s.app.Limits().ChannelName)
	case k == wire.KindUser:
		s.subscribeUser(r.Channel)
	case s.find(r.Channel) >= 0:
		s.sendError(0, "Existing subscription to channel "+string(r.Channel), "")
	case len(s.Subscriptions) >= wire.MaxChannelsPerConnection:
		s.refuse(r.Channel, "LimitReached", wire.CodeOverCapacity, "A connection may have at most %d subscriptions", wire.MaxChannelsPerConnection)
	case s.app.Conns.Memory.Refuses():
		s.refuse(r.Channel, "LimitReached", wire.CodeOverCapacity, channel.TextShortOfMemory)
	default:
		s.subscribe(r, k)
	}
}

// subscribe subscribes to a channel that has a legal name and is not a user's.
func (s *client) subscribe(r wire.SubscribeRequest, k wire.Kind) {
	m, no := s.authorize(r, k)
	if no != nil {
		s.refuseWith(r.Channel, no)
		return
	}
	sub, err := s.app.Subscribe(&s.Socket, string(r.Channel), k, m, nil)
	if errors.Is(err, channel.ErrFull) {
		s.refuse(r.Channel, "LimitReached", wire.CodeOverCapacity, "The presence channel has its maximum of %d members", s.app.Limits().PresenceMembers)
		return
	}
	s.Subscriptions = append(s.Subscriptions, sub)
	s.authorized = s.authorized || k&wire.KindPrivate != 0
	s.notifyOf("subscribed", sub)
}

// notifyOf notifies of what has become of a subscription.
//
//go:noinline
func (s *client) notifyOf(what string, sub *channel.Subscription) {
	s.app.Notify(channel.Notice{About: channel.AboutSubscriptions, What: what, Socket: s.ID, Channel: sub.Channel.Name, User: sub.UserID()})
}

// authorize checks the signature of a channel that needs one, and returns the member for a presence channel.
func (s *client) authorize(r wire.SubscribeRequest, k wire.Kind) (*channel.Member, *wire.SubscriptionError) {
	if k&wire.KindPrivate == 0 {
		return nil, nil // pusher-js sends an empty auth on public channels
	}
	if len(r.Auth) == 0 {
		return nil, &wire.SubscriptionError{Kind: "AuthError", Text: "Auth info required to subscribe to " + string(r.Channel), Status: http.StatusUnauthorized}
	}
	if problem := checkToken(s.app.keys(), r.Auth, sign.ChannelText(nil, s.ID.String(), r.Channel, r.ChannelData)); problem != "" {
		return nil, &wire.SubscriptionError{Kind: "AuthError", Text: problem, Status: http.StatusUnauthorized}
	}
	if k&wire.KindPresence == 0 {
		return nil, nil
	}
	m := new(channel.Member)
	if len(r.ChannelData) > 0 {
		var err error
		if m.ID, m.Info, err = wire.ParseMember(r.ChannelData); err != nil {
			return nil, &wire.SubscriptionError{Kind: "AuthError", Text: "Invalid " + err.Error(), Status: http.StatusBadRequest}
		}
	} else if s.User != nil {
		m.ID, m.Info = s.User.ID, s.User.Info
	} else {
		return nil, &wire.SubscriptionError{Kind: "AuthError", Text: "Presence channels need channel_data with a user_id, or a connection that is signed in", Status: http.StatusUnauthorized}
	}
	if limit := s.app.Limits().PresenceUserSize; len(m.Info) > limit {
		return nil, &wire.SubscriptionError{Kind: "LimitReached", Text: fmt.Sprintf("user_info may have at most %d bytes", limit), Status: wire.CodeUserInfoTooLarge}
	}
	return m, nil
}

// subscribeUser answers a subscription to #server-to-user-{id}. Its events come with signing in; this only confirms it.
func (s *client) subscribeUser(channel []byte) {
	switch {
	case s.User == nil || string(channel[len(wire.UserChannelPrefix):]) != s.User.ID:
		s.refuse(channel, "AuthError", http.StatusUnauthorized, "Only a connection signed in as this user may subscribe to %s", channel)
	case s.userJoined:
		s.sendError(0, "Existing subscription to channel "+string(channel), "")
	default:
		s.userJoined = true
		s.Write(wire.AppendSucceeded(nil, string(channel), nil))
	}
}

// refuse refuses a subscription for a reason in the manner of fmt.Sprintf. It is for the ways that are rarely gone: on the
// usual one, which a connection's stack has to be large enough for, there is no formatting.
//
//go:noinline
func (s *client) refuse(channel []byte, kind string, status int, format string, args ...any) {
	s.refuseWith(channel, &wire.SubscriptionError{Kind: kind, Text: fmt.Sprintf(format, args...), Status: status})
}

// refuseWith answers a refused subscription twice: on the channel, where applications listen, and as the hosted service does.
func (s *client) refuseWith(name []byte, r *wire.SubscriptionError) {
	s.app.Counts.Refuse("subscription", r.Kind)
	s.app.Notify(channel.Notice{About: channel.AboutRejections, What: channel.NoticeRejected, Socket: s.ID, Channel: string(name), Code: r.Status, Reason: r.Text})
	s.Write(wire.AppendError(wire.AppendSubscriptionError(nil, name, r), 0, r.Text, ""))
}

// handleUnsubscribe answers pusher:unsubscribe only if there is no such subscription.
func (s *client) handleUnsubscribe(m *wire.Message) {
	if !s.pace() {
		return
	}
	r, err := m.ParseSubscribe()
	if err != nil {
		s.sendError(0, err.Error(), "")
		return
	}
	if s.userJoined && string(r.Channel) == wire.UserChannelPrefix+s.User.ID {
		s.userJoined = false
		return
	}
	i := s.find(r.Channel)
	if i < 0 {
		s.sendError(0, fmt.Sprintf("No current subscription to channel %s, or subscription in progress", wire.Clip(r.Channel)), "")
		return
	}
	sub := s.Subscriptions[i]
	s.Subscriptions = slices.Delete(s.Subscriptions, i, i+1)
	s.app.Unsubscribe(sub)
	s.notifyOf("unsubscribed", sub)
}

// handleSignin answers pusher:signin. Clients sign in each time they connect and never sign out; a connection stays that of
// the user it first signed in as.
func (s *client) handleSignin(m *wire.Message) {
	r, err := m.ParseSignin()
	if err != nil {
		s.sendError(0, err.Error(), "")
		return
	}
	if problem := checkToken(s.app.keys(), r.Auth, sign.UserText(nil, s.ID.String(), r.UserData)); problem != "" {
		s.sendError(0, problem, "")
		return
	}
	user, excess, err := wire.ParseUser(r.UserData)
	switch {
	case err != nil:
		s.sendError(0, "Invalid "+err.Error(), "")
		return
	case s.User != nil && s.User.ID != user.ID:
		s.sendError(0, "This connection is signed in as another user already", "")
		return
	case s.User == nil && s.app.Conns.Memory.Refuses():
		s.sendError(0, channel.TextShortOfMemory, "")
		return
	}
	success := wire.AppendSigninSuccess(nil, r.UserData)
	if excess {
		text := fmt.Sprintf("The watchlist may have at most %d users; accepted were the first: %s", wire.MaxWatchlist, strings.Join(user.Watchlist, ", "))
		success = wire.AppendError(success, wire.CodeWatchlistTooLong, text, "")
	}
	if s.User != nil {
		s.Write(success)
		return
	}
	s.UserSub = s.app.SignIn(&s.Socket, &user, success)
	s.User, s.authorized = &user, true
	s.app.Notify(channel.Notice{About: channel.AboutConnections, What: "signed in", Socket: s.ID, User: user.ID})
}

// handleClientEvent relays an event to the other subscribers of its channel. Of what the client sent only name and data go
// on: the user_id is that of its verified channel_data.
func (s *client) handleClientEvent(m *wire.Message) {
	limits := s.app.Limits()
	k, _ := wire.ParseChannel(m.Channel, limits.ChannelName)
	problem, place := "", s.find(m.Channel)
	switch {
	case len(m.Channel) == 0 || m.Data == nil:
		problem = "Invalid client event (must contain channel and data)"
	case !limits.ClientEvents:
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
	sub := s.Subscriptions[place]
	if m.Data.Exceeds(limits.EventSize) {
		s.sendError(0, fmt.Sprintf("Client event rejected - the data may have at most %d bytes", limits.EventSize), sub.Channel.Name)
		return
	}
	if !s.clientEvents.Allow(conn.Now(), wire.MaxClientEvents, wire.MaxClientEvents) {
		text := fmt.Sprintf("Rate limit exceeded: at most %d client events a second", wire.MaxClientEvents)
		s.sendError(wire.CodeClientEventRate, text, sub.Channel.Name)
		return
	}
	e := channel.Event{Name: m.Event, Data: m.Data.Literal(), Except: &s.Socket}
	if sub.Member != nil {
		e.UserID = sub.Member.ID
	}
	s.app.Trigger(sub.Channel.Name, k, e)
}
