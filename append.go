package main

// What edge sends. Every function appends one whole WebSocket frame.

import (
	"encoding/binary"
	"iter"
	"strconv"
	"time"
)

var (
	pongFrame = appendPlain(nil, eventPong)
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

// subscriptionError says why a subscription was refused: what stands in pusher:subscription_error.
type subscriptionError struct {
	kind   string // AuthError, LimitReached, InvalidChannel
	text   string
	status int
}

func (r *subscriptionError) Error() string { return r.text }

// appendSubscriptionError builds the answer to a refused subscription. The official server has no such event, its clients
// make it up when their auth endpoint fails; they hand it to the channel, where applications listen for it.
func appendSubscriptionError(dst []byte, channel []byte, r *subscriptionError) []byte {
	start := len(dst)
	dst = append(openFrame(dst), `{"event":"`+eventSubscriptionError+`","channel":`...)
	dst = appendString(dst, channel)
	dst = append(dst, `,"data":{"type":"`+r.kind+`","error":`...)
	dst = appendString(dst, r.text)
	dst = append(dst, `,"status":`...)
	dst = strconv.AppendInt(dst, int64(r.status), 10)
	return sealFrame(append(dst, "}}"...), start)
}

// appendSucceeded builds subscription_succeeded. members are the ids and user_info of a presence channel; nil for other channels.
// It is walked three times, and must not change meanwhile.
func appendSucceeded(dst []byte, channel string, members iter.Seq2[string, []byte]) []byte {
	if members == nil {
		return appendEvent(dst, eventSubscriptionSucceeded, channel, emptyData, "")
	}
	count := 0
	for range members {
		count++
	}
	data := strconv.AppendInt([]byte(`{"presence":{"count":`), int64(count), 10)
	data = append(data, `,"ids":[`...)
	for id := range members {
		data = appendString(appendComma(data), id)
	}
	data = append(data, `],"hash":{`...)
	for id, info := range members {
		data = append(appendString(appendComma(data), id), ':')
		data = append(data, info...)
	}
	data = append(data, "}}}"...)
	return appendEvent(dst, eventSubscriptionSucceeded, channel, appendString(nil, data), "")
}

// appendMemberAdded builds what the others on a presence channel get when a user comes.
func appendMemberAdded(dst []byte, channel, id string, info []byte) []byte {
	data := appendString([]byte(`{"user_id":`), id)
	data = append(data, `,"user_info":`...)
	data = append(data, info...)
	return appendEvent(dst, eventMemberAdded, channel, appendString(nil, append(data, '}')), "")
}

// appendMemberRemoved builds what the others get when the last connection of a user has left.
func appendMemberRemoved(dst []byte, channel, id string) []byte {
	data := appendString([]byte(`{"user_id":`), id)
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

// Server frames are not masked and never fragmented.

const textFrame = 0x81 // the first byte: FIN and opcode 1

const frameRoom = 4 // header of a frame of 126 to 65,535 bytes, by far the most common here

// openFrame begins a text frame: append the payload to what it returns, then call sealFrame with the length dst had.
func openFrame(dst []byte) []byte { return append(dst, 0, 0, 0, 0) }

// sealFrame writes the header of the frame that openFrame began at start.
func sealFrame(dst []byte, start int) []byte {
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
