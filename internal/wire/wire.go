// Package wire is Pusher's protocol in words: its names, codes, kinds of channels and limits, the messages that clients
// send and those that edge sends. It does not lock, log or do I/O, and imports nothing of edge's.
package wire

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
	EventEstablished           = "pusher:connection_established"          // string: socket_id, activity_timeout (s)
	EventError                 = "pusher:error"                           // object: code or null, message
	EventPing                  = "pusher:ping"                            // anything
	EventPong                  = "pusher:pong"                            // string: {}
	EventSubscribe             = "pusher:subscribe"                       // channel[, auth[, channel_data string]]
	EventUnsubscribe           = "pusher:unsubscribe"                     // channel
	EventSignin                = "pusher:signin"                          // auth, user_data string
	EventSigninSuccess         = "pusher:signin_success"                  // object: user_data string
	EventSubscriptionSucceeded = "pusher_internal:subscription_succeeded" // string: {} or presence: count, ids, hash
	EventSubscriptionError     = "pusher:subscription_error"              // object: type, error, status
	EventMemberAdded           = "pusher_internal:member_added"           // string: user_id, user_info
	EventMemberRemoved         = "pusher_internal:member_removed"         // string: user_id
	EventSubscriptionCount     = "pusher_internal:subscription_count"     // string: subscription_count
	EventCacheMiss             = "pusher:cache_miss"                      // string: {}
	eventWatchlist             = "pusher_internal:watchlist_events"       // string: events: [{name, user_ids}]
	ClientEventPrefix          = "client-"
)

// Names of webhook events. What stands behind each is in it beside name and channel.
const (
	HookOccupied          = "channel_occupied"
	HookVacated           = "channel_vacated"
	HookMemberAdded       = "member_added"       // user_id
	HookMemberRemoved     = "member_removed"     // user_id
	HookClientEvent       = "client_event"       // event, data, socket_id[, user_id]
	HookCacheMiss         = "cache_miss"         //
	HookSubscriptionCount = "subscription_count" // subscription_count
)

// Close codes and codes of pusher:error. A client never comes back after 4000–4099, after a second after 4100–4199 and
// at once after 4200–4299.
const (
	CodeUnknownKey         = 4001
	CodeOverQuota          = 4004
	CodePathNotFound       = 4005
	codeBadVersion         = 4006
	codeUnsupportedVersion = 4007
	codeNoVersion          = 4008
	CodeUnauthorized       = 4009 // origin refused, user terminated
	CodeOverCapacity       = 4100
	CodeReconnect          = 4200
	CodePongMissing        = 4201
	CodeClientEventRate    = 4301 // only ever in an event
	CodeWatchlistTooLong   = 4302 // only ever in an event
	CodeUserInfoTooLarge   = 4301 // only ever as the status of a subscription_error, as soketi has it
)

const (
	minProtocol, MaxProtocol   = 5, 7
	MaxEventName               = 200 // characters
	MaxUserID                  = 128 // characters, presence and signin
	MaxWatchlist               = 100 // user ids
	maxTriggerChannels         = 100
	MaxBatch                   = 10
	MaxChannelsPerConnection   = 1000
	MaxClientEvents            = 10              // a second and connection
	SubscribeRate              = 200             // subscriptions and ends a second and connection: those beyond wait,
	SubscribeBurst             = 300             // but for so many at once
	MaxMalformed               = 20              // malformed messages in a row before the connection is closed
	socketDepth, SocketValues  = 16, 8192        // JSON from a socket: more values than fit into an event's data
	APIDepth, APIValues        = 32, 65_536      // JSON from the API: the same for a batch of ten
	AllOfSubscriptionCountUpTo = 100             // subscriptions: every change is sent,
	SubscriptionCountEvery     = 5 * time.Second // beyond them one in this time
)

// Kind is what the prefix of a channel's name says about it: a set of independent properties, so that a private cache
// channel can be neither taken for a public one nor for one without a cache.
type Kind uint8

const (
	KindPrivate   Kind = 1 << iota // needs a signature (presence and encrypted channels too)
	KindPresence                   // keeps a list of members
	KindCache                      // keeps the last event
	KindEncrypted                  // no client events; otherwise the server cannot tell
	KindUser                       // #server-to-user-{id}: for the connections signed in as that user

	KindPublic Kind = 0
)

const UserChannelPrefix = "#server-to-user-"

// prefixes maps prefixes to kinds, the longer of two before the shorter.
var prefixes = []struct {
	prefix string
	kind   Kind
}{
	{"private-encrypted-cache-", KindPrivate | KindEncrypted | KindCache},
	{"private-encrypted-", KindPrivate | KindEncrypted},
	{"private-cache-", KindPrivate | KindCache},
	{"private-", KindPrivate},
	{"presence-cache-", KindPrivate | KindPresence | KindCache},
	{"presence-", KindPrivate | KindPresence},
	{"cache-", KindCache},
	{UserChannelPrefix, KindUser},
}

// ParseChannel returns the kind of the channel with this name, and false if the name is empty, longer than maxLen bytes
// or has characters other than A–Z a–z 0–9 _ - = @ , . ; (a leading # only before server-to-user-).
func ParseChannel[T string | []byte](name T, maxLen int) (Kind, bool) {
	if len(name) == 0 || len(name) > maxLen {
		return 0, false
	}
	for i := range len(name) {
		if !ChannelChars[name[i]] && !(i == 0 && name[0] == '#') {
			return 0, false
		}
	}
	for _, p := range prefixes {
		if len(name) >= len(p.prefix) && string(name[:len(p.prefix)]) == p.prefix {
			return p.kind, p.kind != KindUser || len(name) > len(p.prefix)
		}
	}
	return KindPublic, name[0] != '#'
}

var ChannelChars = func() (set [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-=@,.;") {
		set[c] = true
	}
	return set
}()

// ValidKey reports whether an app key can stand in a URL and in an auth string.
func ValidKey(s string) bool {
	return strings.Trim(s, ".") != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return c >= 0x80 || !ChannelChars[c] || strings.ContainsRune("=@,;", c)
	})
}

// SocketID is the id of a connection, two numbers written with a point between them; the server libraries refuse to
// sign anything else. It is part of every signature, so it must not be guessed: 106 random bits.
type SocketID struct{ a, b uint64 }

// NewSocketID makes an id at random. It may exist already: App.addSocket sees to that.
func NewSocketID() SocketID {
	var r [16]byte
	rand.Read(r[:]) // never fails (crypto/rand)
	// 53 bits each, which every language's numbers can hold.
	return SocketID{binary.LittleEndian.Uint64(r[:8]) >> 11, binary.LittleEndian.Uint64(r[8:]) >> 11}
}

func (id SocketID) Append(dst []byte) []byte {
	dst = strconv.AppendUint(dst, id.a, 10)
	dst = append(dst, '.')
	return strconv.AppendUint(dst, id.b, 10)
}

func (id SocketID) String() string { return string(id.Append(make([]byte, 0, 41))) } // as long as it may be

// ParseSocketID returns ok for anything of the form digits.digits. Numbers that NewSocketID does not make give an id
// that no connection has, which is no error.
func ParseSocketID[T string | []byte](s T) (id SocketID, ok bool) {
	if len(s) > 2000 {
		return id, false // not worth a copy
	}
	a, b, _ := strings.Cut(string(s), ".")
	x, errA := strconv.ParseUint(a, 10, 64)
	y, errB := strconv.ParseUint(b, 10, 64)
	if errors.Is(errA, strconv.ErrSyntax) || errors.Is(errB, strconv.ErrSyntax) {
		return id, false
	}
	if id = (SocketID{x, y}); id.String() != string(s) { // out of range, or with zeros before it
		id = SocketID{}
	}
	return id, true
}

// CheckVersion judges the protocol parameter of the URL.
func CheckVersion(protocol string) (code int, reason string) {
	if protocol == "" {
		return codeNoVersion, "No protocol version supplied: add ?protocol=7"
	}
	v, err := strconv.Atoi(protocol)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return codeBadVersion, "Invalid protocol version: it must be an integer"
	}
	if v < minProtocol || v > MaxProtocol {
		return codeUnsupportedVersion,
			fmt.Sprintf("Unsupported protocol version: %d to %d are supported", minProtocol, MaxProtocol)
	}
	return 0, ""
}

// Clip cuts what a client sent to a length that is worth repeating to it.
func Clip(b []byte) []byte { return b[:min(len(b), 2000)] }

// ReservedEvent reports whether only the server may send events of this name.
func ReservedEvent[T string | []byte](name T) bool {
	return strings.HasPrefix(string(name), "pusher:") || strings.HasPrefix(string(name), "pusher_internal:")
}

// MaxBuffer is the size of the largest buffer that a pool keeps.
const MaxBuffer = 128 << 10

// Buffers are for building frames that are copied or written before the buffer is given back.
var Buffers = sync.Pool{New: func() any { return new([]byte) }}

// FreeBuffer gives *b back, unless it is nil, which it is then.
func FreeBuffer(b **[]byte) {
	if *b != nil && cap(**b) <= MaxBuffer {
		Buffers.Put(*b)
	}
	*b = nil
}
