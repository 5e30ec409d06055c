package edgetest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Ping and Pong are the protocol's own.
const (
	Ping = `{"event":"pusher:ping","data":{}}`
	Pong = `{"event":"pusher:pong","data":"{}"}`
)

// Quote is a JSON string in which only what must be escaped is.
func Quote(s string) string {
	var b strings.Builder
	for _, r := range s { // what is not UTF-8 is U+FFFD
		short := strings.IndexRune("\n\r\t", r)
		switch {
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		case short >= 0:
			b.WriteString([]string{`\n`, `\r`, `\t`}[short])
		case r < ' ':
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return `"` + b.String() + `"`
}

// Event is an event as a subscriber gets it.
func Event(name, channel, data string) string {
	return fmt.Sprintf(`{"event":%s,"channel":%s,"data":%s}`, Quote(name), Quote(channel), Quote(data))
}

// Succeeded is the answer to a subscription to a channel that is not a presence channel.
func Succeeded(channel string) string {
	return Event("pusher_internal:subscription_succeeded", channel, "{}")
}

// Snapshot is the answer to a subscription to a presence channel with these members: id, info, id, info…
func Snapshot(channel string, members ...string) string {
	var ids, hash []string
	for m := range slices.Chunk(members, 2) {
		ids = append(ids, Quote(m[0]))
		hash = append(hash, Quote(m[0])+":"+m[1])
	}
	return Event("pusher_internal:subscription_succeeded", channel, fmt.Sprintf(
		`{"presence":{"count":%d,"ids":[%s],"hash":{%s}}}`, len(ids), strings.Join(ids, ","), strings.Join(hash, ",")))
}

// MemberAdded is what members get when another comes.
func MemberAdded(channel, id, info string) string {
	return Event("pusher_internal:member_added", channel, fmt.Sprintf(`{"user_id":%s,"user_info":%s}`, Quote(id), info))
}

// MemberRemoved is what members get when another has gone.
func MemberRemoved(channel, id string) string {
	return Event("pusher_internal:member_removed", channel, fmt.Sprintf(`{"user_id":%s}`, Quote(id)))
}

// CacheMiss is what a subscriber to a cache channel gets that has no event.
func CacheMiss(channel string) string { return Event("pusher:cache_miss", channel, "{}") }

// SubscriptionCount is what subscribers get with -subscription-count.
func SubscriptionCount(channel string, n int) string {
	return Event("pusher_internal:subscription_count", channel, fmt.Sprintf(`{"subscription_count":%d}`, n))
}

// ErrorFrame is pusher:error; code 0 stands for null.
func ErrorFrame(code int, message string) string {
	return fmt.Sprintf(`{"event":"pusher:error","data":{"code":%s,"message":%s}}`, codeText(code), Quote(message))
}

// ChannelError is pusher:error with the channel it is about, as client events get it.
func ChannelError(code int, message, channel string) string {
	return strings.TrimSuffix(ErrorFrame(code, message), "}") + `,"channel":` + Quote(channel) + "}"
}

func codeText(code int) string {
	if code == 0 {
		return "null"
	}
	return strconv.Itoa(code)
}

// SubscribeMessage is a subscription in a frame, with auth and channel_data if they are not empty.
func SubscribeMessage(channel, auth, channelData string) []byte {
	data := `{"channel":` + Quote(channel)
	if auth != "" {
		data += `,"auth":` + Quote(auth)
	}
	if channelData != "" {
		data += `,"channel_data":` + Quote(channelData)
	}
	return Text(`{"event":"pusher:subscribe","data":%s}}`, data)
}

// Getenv is an environment of these NAME=VALUE.
func Getenv(variables ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, v := range variables {
			if value, ok := strings.CutPrefix(v, name+"="); ok {
				return value, true
			}
		}
		return "", false
	}
}

// File writes a file for a test.
func File(t testing.TB, text string) (name string) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "edge.json")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// OneSentence checks a complaint: a line that begins with the program's name and has these parts, and nothing of a panic.
func OneSentence(t testing.TB, complaint string, parts ...string) {
	t.Helper()
	line, more, _ := strings.Cut(complaint, "\n")
	text, ok := strings.CutPrefix(line, "edge: ")
	if !ok || text == "" || more != "" || strings.Contains(text, "goroutine") || strings.Contains(text, "sesame") {
		t.Errorf("not one sentence: %q", complaint)
	}
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q does not name %q", text, part)
		}
	}
}
