package main

// Package wire is Pusher's protocol in words: its names, codes, kinds of channels and limits, the messages that clients send and
// those that edge sends. It does not lock, log or do I/O, and imports nothing of edge's.

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
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

// clip cuts what a client sent to a length that is worth repeating to it.
func clip(b []byte) []byte { return b[:min(len(b), 2000)] }

// reservedEvent reports whether only the server may send events of this name.
func reservedEvent[T string | []byte](name T) bool {
	return strings.HasPrefix(string(name), "pusher:") || strings.HasPrefix(string(name), "pusher_internal:")
}

// maxBatchBuf is the size of the largest buffer that a pool keeps.
const maxBatchBuf = 128 << 10

// frameBuffers are for building frames that are copied or written before the buffer is given back.
var frameBuffers = sync.Pool{New: func() any { return new([]byte) }}

// freeFrameBuffer gives *b back, unless it is nil, which it is then.
func freeFrameBuffer(b **[]byte) {
	if *b != nil && cap(**b) <= maxBatchBuf {
		frameBuffers.Put(*b)
	}
	*b = nil
}
