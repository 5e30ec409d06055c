package wire

// What clients send: {"event":…,"data":…[,"channel":…]}, and what is in data.

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/valyala/fastjson"
)

// Message is one message from a client. All of it, and what is read out of data, lies in *buffer.
type Message struct {
	Event   []byte
	Channel []byte // client events only
	Data    Value  // nil if there was none
	Buffer  *[]byte
}

var errNotAMessage = errors.New(`expected an object with a string "event"`)

// Parse reads a client's message. Data is left out of one that no server acts on, since copying it is what costs most.
func (m *Message) Parse(text []byte) error {
	return ReadJSON(text, socketDepth, SocketValues, func(v *fastjson.Value) (err error) {
		var members [3]*fastjson.Value
		if err := Pick(v, messageFields, members[:]); err != nil {
			return err
		}
		var f [3]Value
		buffer := slices.Grow((*m.Buffer)[:0], len(text))
		for i, member := range members {
			if member != nil && (i < 2 || m.takesData()) {
				buffer, f[i] = appendValue(buffer, member)
			}
			if i == 0 {
				m.Event, err = stringField(f[0], "event")
			}
			if err != nil || len(m.Event) == 0 {
				return errNotAMessage
			}
		}
		*m.Buffer = buffer
		m.Channel, err = stringField(f[1], "channel")
		m.Data = f[2]
		return err
	})
}

// takesData reports whether data may matter.
func (m *Message) takesData() bool {
	return bytes.HasPrefix(m.Event, []byte("pusher:")) || bytes.HasPrefix(m.Event, []byte(ClientEventPrefix))
}

var (
	messageFields   = []string{"event", "channel", "data"}
	subscribeFields = []string{"channel", "auth", "channel_data"}
	signinFields    = []string{"auth", "user_data"}
	memberFields    = []string{"user_id", "user_info"}
	userFields      = []string{"id", "user_info", "watchlist"}
)

// stringField returns what a JSON string stands for. Absent and null count as empty.
func stringField(v Value, name string) ([]byte, error) {
	if v.absent() {
		return nil, nil
	}
	if !v.Is('"') {
		return nil, fmt.Errorf("%q must be a string", name)
	}
	return v.Text(), nil
}

// parseData finds the named members of data: an object, or a string that holds one.
func (m *Message) parseData(names []string, found []Value) (err error) {
	data := []byte(m.Data)
	if m.Data == nil {
		return errors.New(`missing "data"`)
	}
	if m.Data.Is('"') {
		data = m.Data.Text()
	}
	*m.Buffer, err = ParseObject(*m.Buffer, data, socketDepth, SocketValues, names, found)
	return err
}

// SubscribeRequest is the data of pusher:subscribe and, with channel alone, of pusher:unsubscribe.
type SubscribeRequest struct{ Channel, Auth, ChannelData []byte }

// ParseSubscribe reads the data of pusher:subscribe and pusher:unsubscribe.
func (m *Message) ParseSubscribe() (r SubscribeRequest, err error) {
	err = m.parseStrings(subscribeFields, &r.Channel, &r.Auth, &r.ChannelData)
	if err == nil && len(r.Channel) == 0 {
		err = errors.New("Missing parameter: data.channel")
	}
	return r, err
}

// parseStrings takes the named strings out of data.
func (m *Message) parseStrings(names []string, to ...*[]byte) error {
	var f [3]Value
	err := m.parseData(names, f[:len(names)])
	for i := 0; i < len(to) && err == nil; i++ {
		*to[i], err = stringField(f[i], names[i])
	}
	return err
}

type signinRequest struct{ Auth, UserData []byte }

// ParseSignin reads the data of pusher:signin.
func (m *Message) ParseSignin() (r signinRequest, err error) {
	err = m.parseStrings(signinFields, &r.Auth, &r.UserData)
	switch {
	case err != nil:
	case len(r.Auth) == 0:
		err = errors.New("Missing parameter: data.auth")
	case len(r.UserData) == 0:
		err = errors.New("Missing parameter: data.user_data")
	}
	return r, err
}

// User is what a connection signs in as. It never changes.
type User struct {
	ID        string
	Info      []byte // JSON
	Watchlist []string
}

var (
	errNoUserID     = errors.New(`channel_data must be an object with a "user_id": a string or an integer`)
	errUserID       = fmt.Errorf("user_id must have 1 to %d characters", MaxUserID)
	errSigninUserID = fmt.Errorf(
		`user_data must be an object with a string "id" of 1 to %d of the characters of channel names`, MaxUserID)
)

// ParseMember reads channel_data. user_id comes out as a string however it was written, since the Java client and the
// Go library read nothing else; a number keeps its digits and never passes through a float. info is user_info as
// compact JSON, {} if there was none. Both are copies.
func ParseMember(channelData []byte) (id string, info []byte, err error) {
	var f [2]Value
	buffer := Buffers.Get().(*[]byte)
	defer FreeBuffer(&buffer)
	*buffer, err = ParseObject((*buffer)[:0], channelData, socketDepth, SocketValues, memberFields, f[:])
	if err != nil {
		return "", nil, fmt.Errorf("channel_data: %w", err)
	}
	switch {
	case f[0].Is('"'):
		id = string(f[0].Text())
	case f[0].isInteger():
		id = string(f[0])
	default:
		return "", nil, errNoUserID
	}
	if id == "" || utf8.RuneCountInString(id) > MaxUserID {
		return "", nil, errUserID
	}
	return id, userInfo(f[1]), nil
}

// userInfo returns a copy of user_info.
func userInfo(v Value) []byte {
	if v.absent() {
		return []byte("{}")
	}
	return slices.Clone(v)
}

// ParseUser reads user_data. watchlist has at most MaxWatchlist different ids; excess says that there were more.
func ParseUser(userData []byte) (u User, excess bool, err error) {
	var f [3]Value
	buffer := Buffers.Get().(*[]byte)
	defer FreeBuffer(&buffer)
	if *buffer, err = ParseObject((*buffer)[:0], userData, socketDepth, SocketValues, userFields, f[:]); err != nil {
		return u, false, fmt.Errorf("user_data: %w", err)
	}
	// The type is asked for first: an id that is a number must not pass for an absent one.
	id, err := stringField(f[0], "id")
	if err != nil || len(id) > MaxUserID {
		return u, false, errSigninUserID
	}
	// The user's channel must have a name that can be published to.
	if k, ok := ParseChannel(UserChannelPrefix+string(id), len(UserChannelPrefix)+MaxUserID); !ok || k != KindUser {
		return u, false, errSigninUserID
	}
	u.ID, u.Info = string(id), userInfo(f[1])
	if f[2].absent() {
		return u, false, nil
	}
	if !f[2].Is('[') {
		return u, false, errors.New("user_data: watchlist must be an array")
	}
	_, ids, _ := ParseArray(nil, f[2], SocketValues)
	seen := make(map[string]bool)
	for _, w := range ids {
		id, err := stringField(w, "watchlist")
		if err != nil || len(id) == 0 {
			return u, false, errors.New("user_data: watchlist must hold strings")
		}
		if seen[string(id)] {
			continue
		}
		if len(u.Watchlist) == MaxWatchlist {
			return u, true, nil
		}
		seen[string(id)] = true
		u.Watchlist = append(u.Watchlist, string(id))
	}
	return u, false, nil
}
