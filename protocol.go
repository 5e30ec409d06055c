package main

// The Pusher Channels wire, protocols 5 to 7 (https://pusher.com/docs/channels/library_auth_reference/pusher-websockets-protocol/).
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
// This file parses and builds these messages and knows their limits. It does not lock, log or do I/O.

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/valyala/fastjson"
)

// Names of events. What stands behind each is its data; data marked "string" is JSON once more, inside a string.
const (
	eventEstablished           = "pusher:connection_established"          // string: socket_id, activity_timeout in seconds
	eventError                 = "pusher:error"                           // object: code or null, message
	eventPing                  = "pusher:ping"                            // anything
	eventPong                  = "pusher:pong"                            // string: {}
	eventSubscribe             = "pusher:subscribe"                       // channel[, auth[, channel_data string]]
	eventUnsubscribe           = "pusher:unsubscribe"                     // channel
	eventSignin                = "pusher:signin"                          // auth, user_data string
	eventSigninSuccess         = "pusher:signin_success"                  // object: user_data string
	eventSubscriptionSucceeded = "pusher_internal:subscription_succeeded" // string: {} or presence: count, ids, hash
	eventSubscriptionError     = "pusher:subscription_error"              // object: type, error, status
	eventMemberAdded           = "pusher_internal:member_added"           // string: user_id, user_info
	eventMemberRemoved         = "pusher_internal:member_removed"         // string: user_id
	eventSubscriptionCount     = "pusher_internal:subscription_count"     // string: subscription_count
	eventCacheMiss             = "pusher:cache_miss"                      // string: {}
	eventWatchlist             = "pusher_internal:watchlist_events"       // string: events: [{name, user_ids}]
	clientEventPrefix          = "client-"
)

// Close codes and codes of pusher:error. A client never comes back after 4000–4099, after a second after 4100–4199 and at
// once after 4200–4299.
const (
	codeUnknownKey         = 4001
	codeOverQuota          = 4004
	codePathNotFound       = 4005
	codeBadVersion         = 4006
	codeUnsupportedVersion = 4007
	codeNoVersion          = 4008
	codeUnauthorized       = 4009 // origin refused, user terminated
	codeOverCapacity       = 4100
	codeReconnect          = 4200
	codePongMissing        = 4201
	codeClientEventRate    = 4301 // only ever in an event
	codeWatchlistTooLong   = 4302 // only ever in an event
	codeUserInfoTooLarge   = 4301 // only ever as the status of a subscription_error, as soketi has it
)

// Limits are the limits of an app. Where the hosted service has one, it is the default (options in main.go).
type Limits struct {
	activityTimeout   time.Duration // silence after which a client is pinged
	pongTimeout       time.Duration // and after which it is closed when it does not answer
	authWindow        time.Duration // how far the clock of an API client may be off; 0 for no check
	cacheTTL          time.Duration // life of the event of a cache channel
	authorizeWithin   time.Duration // in which a client must sign in or join a private channel; 0 for never
	maxConnections    int
	sendBuffer        int // bytes queued for a client that reads too slowly
	channelName       int // bytes of a channel's name
	eventSize         int // bytes of an event's data
	presenceMembers   int // users of one presence channel
	presenceUserSize  int // bytes of user_info
	clientEvents      bool
	subscriptionCount bool     // send subscription_count
	hooked            bool     // webhooks are told what becomes of channels
	origins           []string // allowed values of the Origin header; none allows all
}

const (
	minProtocol, maxProtocol   = 5, 7
	maxEventName               = 200 // characters
	maxUserID                  = 128 // characters, presence and signin
	maxWatchlist               = 100 // user ids
	maxTriggerChannels         = 100
	maxBatch                   = 10
	maxChannelsPerConnection   = 1000
	maxClientEvents            = 10              // a second and connection
	subscribeRate              = 200             // subscriptions and their ends a second and connection: those beyond wait,
	subscribeBurst             = 300             // but for so many at once
	maxMalformed               = 20              // malformed messages in a row before the connection is closed
	socketDepth, socketValues  = 16, 8192        // JSON from a socket: more values than fit into an event's data
	apiDepth, apiValues        = 32, 65_536      // JSON from the API: the same for a batch of ten
	allOfSubscriptionCountUpTo = 100             // subscriptions: every change is sent,
	subscriptionCountEvery     = 5 * time.Second // beyond them one in this time
)

// kind is what the prefix of a channel's name says about it: a set of independent properties, so that a private cache
// channel can be neither taken for a public one nor for one without a cache.
type kind uint8

const (
	kindPrivate   kind = 1 << iota // needs a signature (presence and encrypted channels too)
	kindPresence                   // keeps a list of members
	kindCache                      // keeps the last event
	kindEncrypted                  // no client events; otherwise the server cannot tell
	kindUser                       // #server-to-user-{id}: for the connections signed in as that user

	kindPublic kind = 0
)

const userChannelPrefix = "#server-to-user-"

// prefixes maps prefixes to kinds, the longer of two before the shorter.
var prefixes = []struct {
	prefix string
	kind   kind
}{
	{"private-encrypted-cache-", kindPrivate | kindEncrypted | kindCache},
	{"private-encrypted-", kindPrivate | kindEncrypted},
	{"private-cache-", kindPrivate | kindCache},
	{"private-", kindPrivate},
	{"presence-cache-", kindPrivate | kindPresence | kindCache},
	{"presence-", kindPrivate | kindPresence},
	{"cache-", kindCache},
	{userChannelPrefix, kindUser},
}

// parseChannel returns the kind of the channel with this name, and false if the name is empty, longer than maxLen bytes or
// has characters other than A–Z a–z 0–9 _ - = @ , . ; (a leading # only before server-to-user-).
func parseChannel[T string | []byte](name T, maxLen int) (kind, bool) {
	if len(name) == 0 || len(name) > maxLen {
		return 0, false
	}
	for i := range len(name) {
		if !channelChars[name[i]] && !(i == 0 && name[0] == '#') {
			return 0, false
		}
	}
	for _, p := range prefixes {
		if len(name) >= len(p.prefix) && string(name[:len(p.prefix)]) == p.prefix {
			return p.kind, p.kind != kindUser || len(name) > len(p.prefix)
		}
	}
	return kindPublic, name[0] != '#'
}

var channelChars = func() (set [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-=@,.;") {
		set[c] = true
	}
	return set
}()

// socketID is the id of a connection, two numbers written with a point between them; the server libraries refuse to sign
// anything else. It is part of every signature, so it must not be guessed: 106 random bits.
type socketID struct{ a, b uint64 }

// newSocketID makes an id at random. It may exist already: App.addSocket sees to that.
func newSocketID() socketID {
	var r [16]byte
	rand.Read(r[:]) // never fails (crypto/rand)
	// 53 bits each, which every language's numbers can hold.
	return socketID{binary.LittleEndian.Uint64(r[:8]) >> 11, binary.LittleEndian.Uint64(r[8:]) >> 11}
}

func (id socketID) append(dst []byte) []byte {
	dst = strconv.AppendUint(dst, id.a, 10)
	dst = append(dst, '.')
	return strconv.AppendUint(dst, id.b, 10)
}

func (id socketID) String() string { return string(id.append(make([]byte, 0, 41))) } // as long as it may be

// parseSocketID returns ok for anything of the form digits.digits. Numbers that newSocketID does not make give an id that
// no connection has, which is no error.
func parseSocketID[T string | []byte](s T) (id socketID, ok bool) {
	if len(s) > 2000 {
		return id, false // not worth a copy
	}
	a, b, _ := strings.Cut(string(s), ".")
	x, errA := strconv.ParseUint(a, 10, 64)
	y, errB := strconv.ParseUint(b, 10, 64)
	if errors.Is(errA, strconv.ErrSyntax) || errors.Is(errB, strconv.ErrSyntax) {
		return id, false
	}
	if id = (socketID{x, y}); id.String() != string(s) { // out of range, or with zeros before it
		id = socketID{}
	}
	return id, true
}

// checkVersion judges the protocol parameter of the URL.
func checkVersion(protocol string) (code int, reason string) {
	if protocol == "" {
		return codeNoVersion, "No protocol version supplied: add ?protocol=7"
	}
	v, err := strconv.Atoi(protocol)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return codeBadVersion, "Invalid protocol version: it must be an integer"
	}
	if v < minProtocol || v > maxProtocol {
		return codeUnsupportedVersion, fmt.Sprintf("Unsupported protocol version: %d to %d are supported", minProtocol, maxProtocol)
	}
	return 0, ""
}

// message is one message from a client. All of it, and what is read out of data, lies in *buffer.
type message struct {
	event   []byte
	channel []byte // client events only
	data    value  // nil if there was none
	buffer  *[]byte
}

var errNotAMessage = errors.New(`expected an object with a string "event"`)

// parse reads a client's message. Data is left out of one that no server acts on, since copying it is what costs most.
func (m *message) parse(text []byte) error {
	return readJSON(text, socketDepth, socketValues, func(v *fastjson.Value) (err error) {
		var members [3]*fastjson.Value
		if err := pick(v, messageFields, members[:]); err != nil {
			return err
		}
		var f [3]value
		buffer := slices.Grow((*m.buffer)[:0], len(text))
		for i, member := range members {
			if member != nil && (i < 2 || m.takesData()) {
				buffer, f[i] = appendValue(buffer, member)
			}
			if i == 0 {
				m.event, err = stringField(f[0], "event")
			}
			if err != nil || len(m.event) == 0 {
				return errNotAMessage
			}
		}
		*m.buffer = buffer
		m.channel, err = stringField(f[1], "channel")
		m.data = f[2]
		return err
	})
}

// takesData reports whether data may matter.
func (m *message) takesData() bool {
	return bytes.HasPrefix(m.event, []byte("pusher:")) || bytes.HasPrefix(m.event, []byte(clientEventPrefix))
}

var (
	messageFields   = []string{"event", "channel", "data"}
	subscribeFields = []string{"channel", "auth", "channel_data"}
	signinFields    = []string{"auth", "user_data"}
	memberFields    = []string{"user_id", "user_info"}
	userFields      = []string{"id", "user_info", "watchlist"}
)

// stringField returns what a JSON string stands for. Absent and null count as empty.
func stringField(v value, name string) ([]byte, error) {
	if v.absent() {
		return nil, nil
	}
	if !v.is('"') {
		return nil, fmt.Errorf("%q must be a string", name)
	}
	return v.text(), nil
}

// parseData finds the named members of data: an object, or a string that holds one.
func (m *message) parseData(names []string, found []value) (err error) {
	data := []byte(m.data)
	if m.data == nil {
		return errors.New(`missing "data"`)
	}
	if m.data.is('"') {
		data = m.data.text()
	}
	*m.buffer, err = parseObject(*m.buffer, data, socketDepth, socketValues, names, found)
	return err
}

// subscribeRequest is the data of pusher:subscribe and, with channel alone, of pusher:unsubscribe.
type subscribeRequest struct{ channel, auth, channelData []byte }

// parseSubscribe reads the data of pusher:subscribe and pusher:unsubscribe.
func (m *message) parseSubscribe() (r subscribeRequest, err error) {
	err = m.parseStrings(subscribeFields, &r.channel, &r.auth, &r.channelData)
	if err == nil && len(r.channel) == 0 {
		err = errors.New("Missing parameter: data.channel")
	}
	return r, err
}

// parseStrings takes the named strings out of data.
func (m *message) parseStrings(names []string, to ...*[]byte) error {
	var f [3]value
	err := m.parseData(names, f[:len(names)])
	for i := 0; i < len(to) && err == nil; i++ {
		*to[i], err = stringField(f[i], names[i])
	}
	return err
}

type signinRequest struct{ auth, userData []byte }

// parseSignin reads the data of pusher:signin.
func (m *message) parseSignin() (r signinRequest, err error) {
	err = m.parseStrings(signinFields, &r.auth, &r.userData)
	switch {
	case err != nil:
	case len(r.auth) == 0:
		err = errors.New("Missing parameter: data.auth")
	case len(r.userData) == 0:
		err = errors.New("Missing parameter: data.user_data")
	}
	return r, err
}

var (
	errNoUserID     = errors.New(`channel_data must be an object with a "user_id": a string or an integer`)
	errUserID       = fmt.Errorf("user_id must have 1 to %d characters", maxUserID)
	errSigninUserID = fmt.Errorf(`user_data must be an object with a string "id" of 1 to %d of the characters of channel names`, maxUserID)
)

// parseMember reads channel_data. user_id comes out as a string however it was written, since the Java client and the Go
// library read nothing else; a number keeps its digits and never passes through a float. info is user_info as compact
// JSON, {} if there was none. Both are copies.
func parseMember(channelData []byte) (id string, info []byte, err error) {
	var f [2]value
	buffer := frameBuffers.Get().(*[]byte)
	defer freeFrameBuffer(&buffer)
	if *buffer, err = parseObject((*buffer)[:0], channelData, socketDepth, socketValues, memberFields, f[:]); err != nil {
		return "", nil, fmt.Errorf("channel_data: %w", err)
	}
	switch {
	case f[0].is('"'):
		id = string(f[0].text())
	case f[0].isInteger():
		id = string(f[0])
	default:
		return "", nil, errNoUserID
	}
	if id == "" || utf8.RuneCountInString(id) > maxUserID {
		return "", nil, errUserID
	}
	return id, userInfo(f[1]), nil
}

// userInfo returns a copy of user_info.
func userInfo(v value) []byte {
	if v.absent() {
		return []byte("{}")
	}
	return slices.Clone(v)
}

// parseUser reads user_data. watchlist has at most maxWatchlist different ids; excess says that there were more.
func parseUser(userData []byte) (u User, excess bool, err error) {
	var f [3]value
	buffer := frameBuffers.Get().(*[]byte)
	defer freeFrameBuffer(&buffer)
	if *buffer, err = parseObject((*buffer)[:0], userData, socketDepth, socketValues, userFields, f[:]); err != nil {
		return u, false, fmt.Errorf("user_data: %w", err)
	}
	// The type is asked for first: an id that is a number must not pass for an absent one.
	id, err := stringField(f[0], "id")
	if err != nil || len(id) > maxUserID {
		return u, false, errSigninUserID
	}
	// The user's channel must have a name that can be published to.
	if k, ok := parseChannel(userChannelPrefix+string(id), len(userChannelPrefix)+maxUserID); !ok || k != kindUser {
		return u, false, errSigninUserID
	}
	u.id, u.info = string(id), userInfo(f[1])
	if f[2].absent() {
		return u, false, nil
	}
	if !f[2].is('[') {
		return u, false, errors.New("user_data: watchlist must be an array")
	}
	_, ids, _ := parseArray(nil, f[2], socketValues)
	seen := make(map[string]bool)
	for _, w := range ids {
		id, err := stringField(w, "watchlist")
		if err != nil || len(id) == 0 {
			return u, false, errors.New("user_data: watchlist must hold strings")
		}
		if seen[string(id)] {
			continue
		}
		if len(u.watchlist) == maxWatchlist {
			return u, true, nil
		}
		seen[string(id)] = true
		u.watchlist = append(u.watchlist, string(id))
	}
	return u, false, nil
}

// exceeds reports whether an event that carries v has more than most bytes of data.
func (v value) exceeds(most int) bool {
	if v.is('"') {
		raw := len(v) - 2 // a byte is written with one to six
		return raw > 6*most || raw > most && len(v.text()) > most
	}
	return len(v) > most
}

// literal returns v as the JSON string literal that an event carries as data. A string keeps the very bytes it came with; other
// values become a string that holds them.
func (v value) literal() []byte {
	if v.is('"') {
		return v
	}
	if v == nil {
		v = value("null")
	}
	return appendString(make([]byte, 0, len(v)+len(v)/4), []byte(v))
}

// clip cuts what a client sent to a length that is worth repeating to it.
func clip(b []byte) []byte { return b[:min(len(b), 2000)] }

// reservedEvent reports whether only the server may send events of this name.
func reservedEvent[T string | []byte](name T) bool {
	return strings.HasPrefix(string(name), "pusher:") || strings.HasPrefix(string(name), "pusher_internal:")
}

// The frames the server sends. Every function appends one whole WebSocket frame.

var (
	pongFrame = appendPlain(nil, eventPong)
	pingFrame = appendControl(nil, opPing, nil)
	emptyData = []byte(`"{}"`)
)

// appendPlain builds an event of no channel and with no data to speak of.
func appendPlain(dst []byte, event string) []byte {
	return appendEvent(dst, event, "", emptyData, "")
}

// appendEvent builds an event of a channel. data is a JSON string literal; channel and userID may be empty.
func appendEvent[T string | []byte](dst []byte, name T, channel string, data []byte, userID string) []byte {
	start := len(dst)
	dst = append(openFrame(dst), `{"event":`...)
	dst = appendString(dst, name)
	if channel != "" {
		// Names of channels have no character that needs an escape (parseChannel).
		dst = append(dst, `,"channel":"`...)
		dst = append(dst, channel...)
		dst = append(dst, '"')
	}
	dst = append(dst, `,"data":`...)
	dst = append(dst, data...)
	if userID != "" {
		dst = append(dst, `,"user_id":`...)
		dst = appendString(dst, userID)
	}
	return sealFrame(append(dst, '}'), start)
}

// appendEstablished builds the first frame of a connection. Its data must be a string: the Java client reads nothing else.
func appendEstablished(dst []byte, id socketID, activityTimeout time.Duration) []byte {
	start := len(dst)
	dst = append(openFrame(dst), `{"event":"`+eventEstablished+`","data":"{\"socket_id\":\"`...)
	dst = id.append(dst)
	dst = append(dst, `\",\"activity_timeout\":`...)
	// Whole seconds, and never 0: pusher-js refuses a handshake with 0.
	dst = strconv.AppendInt(dst, max(1, int64(activityTimeout/time.Second)), 10)
	return sealFrame(append(dst, `}"}`...), start)
}

// appendError builds pusher:error; code 0 stands for null, which must never be sent before connection_established.
func appendError(dst []byte, code int, text, channel string) []byte {
	start := len(dst)
	dst = append(openFrame(dst), `{"event":"`+eventError+`","data":{"code":`...)
	if code == 0 {
		dst = append(dst, "null"...)
	} else {
		dst = strconv.AppendInt(dst, int64(code), 10)
	}
	dst = append(dst, `,"message":`...)
	dst = appendString(dst, text)
	dst = append(dst, '}')
	if channel != "" {
		dst = append(dst, `,"channel":`...)
		dst = appendString(dst, channel)
	}
	return sealFrame(append(dst, '}'), start)
}

// refusal says why a subscription was refused: what stands in pusher:subscription_error.
type refusal struct {
	kind   string // AuthError, LimitReached, InvalidChannel
	text   string
	status int
}

func (r *refusal) Error() string { return r.text }

// appendSubscriptionError builds the answer to a refused subscription. The official server has no such event, its clients
// make it up when their auth endpoint fails; they hand it to the channel, where applications listen for it.
func appendSubscriptionError(dst []byte, channel []byte, r *refusal) []byte {
	start := len(dst)
	dst = append(openFrame(dst), `{"event":"`+eventSubscriptionError+`","channel":`...)
	dst = appendString(dst, channel)
	dst = append(dst, `,"data":{"type":"`+r.kind+`","error":`...)
	dst = appendString(dst, r.text)
	dst = append(dst, `,"status":`...)
	dst = strconv.AppendInt(dst, int64(r.status), 10)
	return sealFrame(append(dst, "}}"...), start)
}

// appendSucceeded builds subscription_succeeded, with the members of a presence channel (nil for other channels).
func appendSucceeded(dst []byte, channel string, presence []*Member) []byte {
	if presence == nil {
		return appendEvent(dst, eventSubscriptionSucceeded, channel, emptyData, "")
	}
	data := []byte(`{"presence":{"count":`)
	data = strconv.AppendInt(data, int64(len(presence)), 10)
	data = append(data, `,"ids":[`...)
	for _, m := range presence {
		data = appendString(appendComma(data), m.id)
	}
	data = append(data, `],"hash":{`...)
	for _, m := range presence {
		data = append(appendString(appendComma(data), m.id), ':')
		data = append(data, m.info...)
	}
	data = append(data, "}}}"...)
	return appendEvent(dst, eventSubscriptionSucceeded, channel, appendString(nil, data), "")
}

// appendMemberAdded builds what the others on a presence channel get when a user comes.
func appendMemberAdded(dst []byte, channel string, m *Member) []byte {
	data := appendString([]byte(`{"user_id":`), m.id)
	data = append(data, `,"user_info":`...)
	data = append(data, m.info...)
	return appendEvent(dst, eventMemberAdded, channel, appendString(nil, append(data, '}')), "")
}

// appendMemberRemoved builds what the others get when the last connection of a user has left.
func appendMemberRemoved(dst []byte, channel string, m *Member) []byte {
	data := appendString([]byte(`{"user_id":`), m.id)
	return appendEvent(dst, eventMemberRemoved, channel, appendString(nil, append(data, '}')), "")
}

// appendSubscriptionCount builds subscription_count, which is opt-in and not for presence channels.
func appendSubscriptionCount(dst []byte, channel string, count int) []byte {
	data := strconv.AppendInt([]byte(`"{\"subscription_count\":`), int64(count), 10)
	return appendEvent(dst, eventSubscriptionCount, channel, append(data, `}"`...), "")
}

// appendSigninSuccess builds the answer to a signin. user_data goes back as it came, without the signature.
func appendSigninSuccess(dst []byte, userData []byte) []byte {
	start := len(dst)
	dst = append(openFrame(dst), `{"event":"`+eventSigninSuccess+`","data":{"user_data":`...)
	dst = appendString(dst, userData)
	return sealFrame(append(dst, "}}"...), start)
}

// appendWatchlist builds watchlist_events; a group without ids is left out, and with none nothing is appended.
func appendWatchlist(dst []byte, online, offline []string) []byte {
	if len(online)+len(offline) == 0 {
		return dst
	}
	data := []byte(`{"events":[`)
	for i, ids := range [2][]string{online, offline} {
		if len(ids) == 0 {
			continue
		}
		data = append(appendComma(data), `{"name":"`...)
		data = append(data, [2]string{"online", "offline"}[i]...)
		data = append(data, `","user_ids":[`...)
		for _, id := range ids {
			data = appendString(appendComma(data), id)
		}
		data = append(data, "]}"...)
	}
	return appendEvent(dst, eventWatchlist, "", appendString(nil, append(data, "]}"...)), "")
}
