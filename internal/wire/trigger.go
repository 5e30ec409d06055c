package wire

// Events from callers: {"name":…,"data":…,"channel":… or "channels":[…][,"socket_id":…][,"info":…]}.

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Error is an error with the HTTP status it has for the caller.
type Error struct {
	Status int
	Text   string
}

func (e *Error) Error() string { return e.Text }

// AsError is err, with this status if it has none.
func AsError(err error, status int) *Error {
	e := &Error{status, err.Error()}
	errors.As(err, &e)
	return e
}

// BadRequest is for what the caller can mend.
func BadRequest(format string, args ...any) error {
	return &Error{400, fmt.Sprintf(format, args...)}
}

// Trigger is one event from the API or the console, checked.
type Trigger struct {
	Name     []byte
	Data     []byte   // JSON string literal
	Channels []string // each once
	Kinds    []Kind   // of channels
	Except   SocketID // the connection that does not get it; zero for none
	Info     Info
}

// The fields of an event, and their places in the array that ParseTrigger takes.
var TriggerFields = [...]string{"name", "data", "channel", "channels", "socket_id", "info"}

const fieldName, fieldData, fieldChannel, FieldChannels, fieldSocketID, fieldInfo = 0, 1, 2, 3, 4, 5

// JSONString makes text a value as if it had come in a body.
func JSONString[T string | []byte](text T) Value { return AppendString(nil, text) }

// Info is a set of attributes that a caller asks for.
type Info uint8

const (
	InfoUserCount Info = 1 << iota
	InfoSubscriptionCount
	InfoCache
)

// ParseInfo reads a list with commas; what is unknown is passed over.
func ParseInfo(list string) (i Info) {
	for token := range strings.SplitSeq(list, ",") {
		switch strings.TrimSpace(token) {
		case "user_count":
			i |= InfoUserCount
		case "subscription_count":
			i |= InfoSubscriptionCount
		case "cache":
			i |= InfoCache
		}
	}
	return i
}

// ParseTrigger checks one event, completely, whose fields are those of TriggerFields. What it needs memory for lies in
// what it appends to dst, which it returns. A name of a channel may have ChannelName bytes, data EventSize.
func ParseTrigger(dst []byte, f []Value, channelName, eventSize int) (_ []byte, t Trigger, err error) {
	if t.Name, err = parseEventName(f[fieldName]); err != nil {
		return dst, t, err
	}
	if f[fieldData] == nil {
		return dst, t, BadRequest("Missing required parameter: data")
	}
	if dst, err = t.parseChannels(dst, f[fieldChannel], f[FieldChannels], channelName); err != nil {
		return dst, t, err
	}
	socket, err := stringField(f[fieldSocketID], "socket_id")
	if err != nil {
		return dst, t, BadRequest("%v", err)
	}
	if len(socket) > 0 {
		id, ok := ParseSocketID(socket)
		if !ok {
			return dst, t, BadRequest("Invalid socket id: %q", Clip(socket))
		}
		t.Except = id
	}
	list, err := stringField(f[fieldInfo], "info")
	if err != nil {
		return dst, t, BadRequest("%v", err)
	}
	t.Info = ParseInfo(string(list))
	if f[fieldData].Exceeds(eventSize) {
		return dst, t, &Error{413, fmt.Sprintf("The data content of this event exceeds the allowed maximum "+
			"(%d bytes). "+
			"See https://pusher.com/docs/channels/server_api/http-api#publishing-events for more info", eventSize)}
	}
	t.Data = f[fieldData].Literal()
	return dst, t, nil
}

// parseEventName takes any name that is not kept for the server: applications use backslashes, dots and spaces.
func parseEventName(v Value) ([]byte, error) {
	if v == nil {
		return nil, BadRequest("Missing required parameter: name")
	}
	name, err := stringField(v, "name")
	switch {
	case err != nil || v.absent():
		return nil, BadRequest("Expected name parameter to be a string")
	case len(name) == 0:
		return nil, BadRequest("Missing required parameter: name")
	case len(name) > utf8.UTFMax*MaxEventName || utf8.RuneCount(name) > MaxEventName:
		return nil, BadRequest("The event name exceeds the allowed maximum (%d characters)", MaxEventName)
	case ReservedEvent(name):
		return nil, BadRequest("Event names beginning with pusher: or pusher_internal: are reserved: %q", name)
	}
	return name, nil
}

// parseChannels reads channel or channels. A name that stands twice counts once.
func (t *Trigger) parseChannels(dst []byte, one, several Value, channelName int) (_ []byte, err error) {
	if !several.absent() && !several.Is('[') {
		return dst, BadRequest("Expected channels parameter to be an array of strings")
	}
	var list []Value
	var n int
	dst, list, n = ParseArray(dst, several, maxTriggerChannels)
	if !one.absent() {
		list, n = append(list, one), n+1
	}
	switch {
	case n == 0:
		return dst, BadRequest("Missing required parameter: channel")
	case n > maxTriggerChannels:
		return dst, BadRequest("Too many channels (%d > %d)", n, maxTriggerChannels)
	}
	for _, v := range list {
		name, err := stringField(v, "channel")
		if err != nil {
			return dst, BadRequest("Expected channel parameter to be a string")
		}
		k, ok := ParseChannel(name, channelName)
		if !ok {
			return dst, BadRequest("Invalid channel name: %q", Clip(name))
		}
		if slices.Contains(t.Channels, string(name)) {
			continue
		}
		t.Channels, t.Kinds = append(t.Channels, string(name)), append(t.Kinds, k)
	}
	for _, k := range t.Kinds {
		if k&KindEncrypted != 0 && len(t.Kinds) > 1 {
			return dst, BadRequest("An encrypted channel cannot be triggered together with others: " +
				"each has its own key")
		}
	}
	return dst, nil
}
