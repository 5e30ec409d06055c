package main

// Events from callers: {"name":…,"data":…,"channel":… or "channels":[…][,"socket_id":…][,"info":…]}.

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// apiError is an error with the HTTP status it has for the caller.
type apiError struct {
	status int
	text   string
}

func (e *apiError) Error() string { return e.text }

// asAPIError is err, with this status if it has none.
func asAPIError(err error, status int) *apiError {
	e := &apiError{status, err.Error()}
	errors.As(err, &e)
	return e
}

// badRequest is for what the caller can mend.
func badRequest(format string, args ...any) error {
	return &apiError{400, fmt.Sprintf(format, args...)}
}

// trigger is one event from the API or the console, checked.
type trigger struct {
	name     []byte
	data     []byte   // JSON string literal
	channels []string // each once
	kinds    []kind   // of channels
	except   socketID // the connection that does not get it; zero for none
	info     info
}

// The fields of an event, and their places in the array that parseTrigger takes.
var eventFields = [...]string{"name", "data", "channel", "channels", "socket_id", "info"}

const fieldName, fieldData, fieldChannel, fieldChannels, fieldSocketID, fieldInfo = 0, 1, 2, 3, 4, 5

// jsonString makes text a value as if it had come in a body.
func jsonString[T string | []byte](text T) value { return appendString(nil, text) }

// info is a set of attributes that a caller asks for.
type info uint8

const (
	infoUserCount info = 1 << iota
	infoSubscriptionCount
	infoCache
)

// parseInfo reads a list with commas; what is unknown is passed over.
func parseInfo(list string) (i info) {
	for token := range strings.SplitSeq(list, ",") {
		switch strings.TrimSpace(token) {
		case "user_count":
			i |= infoUserCount
		case "subscription_count":
			i |= infoSubscriptionCount
		case "cache":
			i |= infoCache
		}
	}
	return i
}

// parseTrigger checks one event, completely, whose fields are those of eventFields. What it needs memory for lies in what it appends
// to dst, which it returns. A name of a channel may have channelName bytes, data eventSize.
func parseTrigger(dst []byte, f []value, channelName, eventSize int) (_ []byte, t trigger, err error) {
	if t.name, err = parseEventName(f[fieldName]); err != nil {
		return dst, t, err
	}
	if f[fieldData] == nil {
		return dst, t, badRequest("Missing required parameter: data")
	}
	if dst, err = t.parseChannels(dst, f[fieldChannel], f[fieldChannels], channelName); err != nil {
		return dst, t, err
	}
	socket, err := stringField(f[fieldSocketID], "socket_id")
	if err != nil {
		return dst, t, badRequest("%v", err)
	}
	if len(socket) > 0 {
		id, ok := parseSocketID(socket)
		if !ok {
			return dst, t, badRequest("Invalid socket id: %q", clip(socket))
		}
		t.except = id
	}
	list, err := stringField(f[fieldInfo], "info")
	if err != nil {
		return dst, t, badRequest("%v", err)
	}
	t.info = parseInfo(string(list))
	if f[fieldData].exceeds(eventSize) {
		return dst, t, &apiError{413, fmt.Sprintf("The data content of this event exceeds the allowed maximum (%d bytes). "+
			"See https://pusher.com/docs/channels/server_api/http-api#publishing-events for more info", eventSize)}
	}
	t.data = f[fieldData].literal()
	return dst, t, nil
}

// parseEventName takes any name that is not kept for the server: applications use backslashes, dots and spaces.
func parseEventName(v value) ([]byte, error) {
	if v == nil {
		return nil, badRequest("Missing required parameter: name")
	}
	name, err := stringField(v, "name")
	switch {
	case err != nil || v.absent():
		return nil, badRequest("Expected name parameter to be a string")
	case len(name) == 0:
		return nil, badRequest("Missing required parameter: name")
	case len(name) > utf8.UTFMax*maxEventName || utf8.RuneCount(name) > maxEventName:
		return nil, badRequest("The event name exceeds the allowed maximum (%d characters)", maxEventName)
	case reservedEvent(name):
		return nil, badRequest("Event names beginning with pusher: or pusher_internal: are reserved: %q", name)
	}
	return name, nil
}

// parseChannels reads channel or channels. A name that stands twice counts once.
func (t *trigger) parseChannels(dst []byte, one, several value, channelName int) (_ []byte, err error) {
	if !several.absent() && !several.is('[') {
		return dst, badRequest("Expected channels parameter to be an array of strings")
	}
	var list []value
	var n int
	dst, list, n = parseArray(dst, several, maxTriggerChannels)
	if !one.absent() {
		list, n = append(list, one), n+1
	}
	switch {
	case n == 0:
		return dst, badRequest("Missing required parameter: channel")
	case n > maxTriggerChannels:
		return dst, badRequest("Too many channels (%d > %d)", n, maxTriggerChannels)
	}
	for _, v := range list {
		name, err := stringField(v, "channel")
		if err != nil {
			return dst, badRequest("Expected channel parameter to be a string")
		}
		k, ok := parseChannel(name, channelName)
		if !ok {
			return dst, badRequest("Invalid channel name: %q", clip(name))
		}
		if slices.Contains(t.channels, string(name)) {
			continue
		}
		t.channels, t.kinds = append(t.channels, string(name)), append(t.kinds, k)
	}
	for _, k := range t.kinds {
		if k&kindEncrypted != 0 && len(t.kinds) > 1 {
			return dst, badRequest("An encrypted channel cannot be triggered together with others: each has its own key")
		}
	}
	return dst, nil
}
