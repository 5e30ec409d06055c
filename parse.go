package main

// What clients send: {"event":…,"data":…[,"channel":…]}, and what is in data.

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/valyala/fastjson"
)

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

// User is what a connection signs in as. It never changes.
type User struct {
	id        string
	info      []byte // JSON
	watchlist []string
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
