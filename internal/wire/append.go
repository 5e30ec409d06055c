package wire

// What edge sends. Every function appends one whole WebSocket frame.

import (
	"encoding/binary"
	"iter"
	"strconv"
	"time"
)

var (
	PongFrame = AppendPlain(nil, EventPong)
	EmptyData = []byte(`"{}"`)
)

// AppendPlain builds an event of no channel and with no data to speak of.
func AppendPlain(dst []byte, event string) []byte {
	return AppendEvent(dst, event, "", EmptyData, "")
}

// AppendEvent builds an event of a channel. data is a JSON string literal; channel and UserID may be empty.
func AppendEvent[T string | []byte](dst []byte, name T, channel string, data []byte, userID string) []byte {
	start := len(dst)
	dst = append(OpenFrame(dst), `{"event":`...)
	dst = AppendString(dst, name)
	if channel != "" {
		// Names of channels have no character that needs an escape (ParseChannel).
		dst = append(dst, `,"channel":"`...)
		dst = append(dst, channel...)
		dst = append(dst, '"')
	}
	dst = append(dst, `,"data":`...)
	dst = append(dst, data...)
	if userID != "" {
		dst = append(dst, `,"user_id":`...)
		dst = AppendString(dst, userID)
	}
	return SealFrame(append(dst, '}'), start)
}

// AppendEstablished builds the first frame of a connection. Its data must be a string: the Java client reads nothing
// else.
func AppendEstablished(dst []byte, id SocketID, activityTimeout time.Duration) []byte {
	start := len(dst)
	dst = append(OpenFrame(dst), `{"event":"`+EventEstablished+`","data":"{\"socket_id\":\"`...)
	dst = id.Append(dst)
	dst = append(dst, `\",\"activity_timeout\":`...)
	// Whole seconds, and never 0: pusher-js refuses a handshake with 0.
	dst = strconv.AppendInt(dst, max(1, int64(activityTimeout/time.Second)), 10)
	return SealFrame(append(dst, `}"}`...), start)
}

// AppendError builds pusher:error; code 0 stands for null, which must never be sent before connection_established.
func AppendError(dst []byte, code int, text, channel string) []byte {
	start := len(dst)
	dst = append(OpenFrame(dst), `{"event":"`+EventError+`","data":{"code":`...)
	if code == 0 {
		dst = append(dst, "null"...)
	} else {
		dst = strconv.AppendInt(dst, int64(code), 10)
	}
	dst = append(dst, `,"message":`...)
	dst = AppendString(dst, text)
	dst = append(dst, '}')
	if channel != "" {
		dst = append(dst, `,"channel":`...)
		dst = AppendString(dst, channel)
	}
	return SealFrame(append(dst, '}'), start)
}

// SubscriptionError says why a subscription was refused: what stands in pusher:subscription_error.
type SubscriptionError struct {
	Kind   string // AuthError, LimitReached, InvalidChannel
	Text   string
	Status int
}

func (r *SubscriptionError) Error() string { return r.Text }

// AppendSubscriptionError builds the answer to a refused subscription. The official server has no such event, its
// clients make it up when their auth endpoint fails; they hand it to the channel, where applications listen for it.
func AppendSubscriptionError(dst []byte, channel []byte, r *SubscriptionError) []byte {
	start := len(dst)
	dst = append(OpenFrame(dst), `{"event":"`+EventSubscriptionError+`","channel":`...)
	dst = AppendString(dst, channel)
	dst = append(dst, `,"data":{"type":"`+r.Kind+`","error":`...)
	dst = AppendString(dst, r.Text)
	dst = append(dst, `,"status":`...)
	dst = strconv.AppendInt(dst, int64(r.Status), 10)
	return SealFrame(append(dst, "}}"...), start)
}

// AppendSucceeded builds subscription_succeeded. members are the ids and user_info of a presence channel; nil for other
// channels. It is walked three times, and must not change meanwhile.
func AppendSucceeded(dst []byte, channel string, members iter.Seq2[string, []byte]) []byte {
	if members == nil {
		return AppendEvent(dst, EventSubscriptionSucceeded, channel, EmptyData, "")
	}
	count := 0
	for range members {
		count++
	}
	data := strconv.AppendInt([]byte(`{"presence":{"count":`), int64(count), 10)
	data = append(data, `,"ids":[`...)
	for id := range members {
		data = AppendString(AppendComma(data), id)
	}
	data = append(data, `],"hash":{`...)
	for id, info := range members {
		data = append(AppendString(AppendComma(data), id), ':')
		data = append(data, info...)
	}
	data = append(data, "}}}"...)
	return AppendEvent(dst, EventSubscriptionSucceeded, channel, AppendString(nil, data), "")
}

// AppendMemberAdded builds what the others on a presence channel get when a user comes.
func AppendMemberAdded(dst []byte, channel, id string, info []byte) []byte {
	data := AppendString([]byte(`{"user_id":`), id)
	data = append(data, `,"user_info":`...)
	data = append(data, info...)
	return AppendEvent(dst, EventMemberAdded, channel, AppendString(nil, append(data, '}')), "")
}

// AppendMemberRemoved builds what the others get when the last connection of a user has left.
func AppendMemberRemoved(dst []byte, channel, id string) []byte {
	data := AppendString([]byte(`{"user_id":`), id)
	return AppendEvent(dst, EventMemberRemoved, channel, AppendString(nil, append(data, '}')), "")
}

// AppendSubscriptionCount builds subscription_count, which is opt-in and not for presence channels.
func AppendSubscriptionCount(dst []byte, channel string, count int) []byte {
	data := strconv.AppendInt([]byte(`"{\"subscription_count\":`), int64(count), 10)
	return AppendEvent(dst, EventSubscriptionCount, channel, append(data, `}"`...), "")
}

// AppendSigninSuccess builds the answer to a signin. user_data goes back as it came, without the signature.
func AppendSigninSuccess(dst []byte, userData []byte) []byte {
	start := len(dst)
	dst = append(OpenFrame(dst), `{"event":"`+EventSigninSuccess+`","data":{"user_data":`...)
	dst = AppendString(dst, userData)
	return SealFrame(append(dst, "}}"...), start)
}

// AppendWatchlist builds watchlist_events; a group without ids is left out, and with none nothing is appended.
func AppendWatchlist(dst []byte, online, offline []string) []byte {
	if len(online)+len(offline) == 0 {
		return dst
	}
	data := []byte(`{"events":[`)
	for i, ids := range [2][]string{online, offline} {
		if len(ids) == 0 {
			continue
		}
		data = append(AppendComma(data), `{"name":"`...)
		data = append(data, [2]string{"online", "offline"}[i]...)
		data = append(data, `","user_ids":[`...)
		for _, id := range ids {
			data = AppendString(AppendComma(data), id)
		}
		data = append(data, "]}"...)
	}
	return AppendEvent(dst, eventWatchlist, "", AppendString(nil, append(data, "]}"...)), "")
}

// Server frames are not masked and never fragmented.

const textFrame = 0x81 // the first byte: FIN and opcode 1

const frameRoom = 4 // header of a frame of 126 to 65,535 bytes, by far the most common here

// OpenFrame begins a text frame: append the payload to what it returns, then call SealFrame with the length dst had.
func OpenFrame(dst []byte) []byte { return append(dst, 0, 0, 0, 0) }

// SealFrame writes the header of the frame that OpenFrame began at start.
func SealFrame(dst []byte, start int) []byte {
	n := len(dst) - start - frameRoom
	switch {
	case n < 126:
		copy(dst[start+2:], dst[start+frameRoom:])
		dst = dst[:len(dst)-2]
		dst[start+1] = byte(n)
	case n <= 0xffff:
		dst[start+1] = 126
		binary.BigEndian.PutUint16(dst[start+2:], uint16(n))
	default:
		dst = append(dst, 0, 0, 0, 0, 0, 0)
		copy(dst[start+10:], dst[start+frameRoom:])
		dst[start+1] = 127
		binary.BigEndian.PutUint64(dst[start+2:], uint64(n))
	}
	dst[start] = textFrame
	return dst
}
