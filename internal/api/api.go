// Package api is the calls of the HTTP API (https://pusher.com/docs/channels/library_auth_reference/rest-api/) on an
// authenticated request. It knows no keys: the check that Serve is given finds the app and decides who may call.
//
// A new call is a row in Routes and a handler, a method of Call: it reads PathValue, Params and Body, and appends a
// JSON object to Out or returns an error, a *wire.Error with the status for the caller. What it does is a method of
// channel.App.
package api

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fastjson"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/listen"
	"edge/internal/sign"
	"edge/internal/wire"
)

// Route is one call. In its path are the names of what the handler and the check ask PathValue for.
type Route struct {
	Method, Path string
	handle       func(*Call) error
}

// Routes are the calls, with paths as http.ServeMux takes them.
var Routes = []Route{
	{"POST", "/apps/{app}/events", (*Call).postEvents},
	{"POST", "/apps/{app}/batch_events", (*Call).postBatchEvents},
	{"GET", "/apps/{app}/channels", (*Call).getChannels},
	{"GET", "/apps/{app}/channels/{channel}", (*Call).getChannel},
	{"GET", "/apps/{app}/channels/{channel}/users", (*Call).getUsers},
	{"POST", "/apps/{app}/users/{user}/terminate_connections", (*Call).postTerminate},
	{"POST", "/users/{user}/terminate_connections", (*Call).postTerminate}, // the Python library leaves the app out
}

// Call is one request on its way through a handler. Its memory is used again when the request has been answered.
type Call struct {
	*http.Request
	App    *channel.App
	Params sign.Params
	Body   []byte
	Out    []byte

	values []byte // what of the body is looked at
}

var calls = sync.Pool{New: func() any { return new(Call) }}

func (c *Call) free() {
	if max(cap(c.Body), cap(c.values), cap(c.Out)) > wire.MaxBuffer {
		return
	}
	clear(c.Params)
	*c = Call{Params: c.Params[:0], Body: c.Body[:0], values: c.values[:0], Out: c.Out[:0]}
	calls.Put(c)
}

// NotAllowed answers other methods at the same path.
func (route Route) NotAllowed(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Allow", route.Method)
	http.Error(w, "Method Not Allowed: this call is a "+route.Method, http.StatusMethodNotAllowed)
}

// Serve makes the handler of the call. check sets App, even if it returns an error, and Params and Body, which ReadBody
// is for. Addresses in notices are what these proxies say.
func (route Route) Serve(check func(*Call) error, proxies []netip.Prefix) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, began := calls.Get().(*Call), conn.Now()
		defer c.free()
		c.Request = r
		err := check(c)
		if err == nil {
			err = route.handle(c)
		}
		n := channel.Notice{About: channel.AboutCalls, What: "call", Code: http.StatusOK}
		if err != nil {
			e := wire.AsError(err, http.StatusInternalServerError)
			n.About, n.What = channel.AboutRejections, channel.NoticeRejected
			n.Code, n.Reason = e.Status, e.Text
		} else {
			n.Took = time.Duration(conn.Now() - began)
		}
		if c.App.Observes(n.About) {
			n.Remote, n.Event = listen.CallerAddr(r, proxies), r.Method+" "+r.URL.Path
			c.App.Notify(n)
		}
		c.reply(w, n.Code, n.Reason)
	}
}

// ReadBody reads the body, which is no larger than the largest legal request: a batch of ten, data with an escape for
// every byte, and the rest.
func (c *Call) ReadBody() (err error) {
	c.Body, err = readBody(c.Body, c.Request, 64<<10+wire.MaxBatch*6*c.App.Limits().EventSize)
	return err
}

// readBody appends the body of a request to dst, which is empty, if it is not larger than limit.
func readBody(dst []byte, r *http.Request, limit int) ([]byte, error) {
	if r.ContentLength > int64(limit) {
		return dst, tooLarge(limit)
	}
	dst = slices.Grow(dst, int(max(r.ContentLength, 0))+1) // one more, so that the end is found without growing
	for {
		n, err := r.Body.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		switch {
		case len(dst) > limit:
			return dst, tooLarge(limit)
		case err == io.EOF:
			return dst, nil
		case err != nil:
			return dst, wire.BadRequest("The request body could not be read")
		case len(dst) == cap(dst):
			dst = slices.Grow(dst, len(dst)+1)
		}
	}
}

func tooLarge(limit int) error {
	text := fmt.Sprintf("The request body exceeds the allowed maximum (%d bytes)", limit)
	return &wire.Error{Status: http.StatusRequestEntityTooLarge, Text: text}
}

var jsonType, textType = []string{"application/json"}, []string{"text/plain; charset=utf-8"}

// reply writes the answer: a JSON object, or what is wrong as a line of text as the hosted service does.
func (c *Call) reply(w http.ResponseWriter, status int, wrong string) {
	kind, body := jsonType, c.Out
	if status != http.StatusOK {
		c.App.Counts.Refuse("call", strconv.Itoa(status))
		kind, body = textType, []byte(wrong+"\n")
	}
	c.App.Counts.Calls.Add(1)
	c.App.Counts.CallBytes.Add(uint64(len(c.Body)))
	c.App.Counts.AnswerBytes.Add(uint64(len(body)))
	w.Header()["Content-Type"] = kind
	w.WriteHeader(status)
	w.Write(body) // if it fails, the caller is gone
}

// appendAttributes appends the attributes i as members of an object that is still open.
func appendAttributes(dst []byte, i wire.Info, k wire.Kind, ci channel.Info) []byte {
	if i&wire.InfoUserCount != 0 && k&wire.KindPresence != 0 {
		dst = append(wire.AppendComma(dst), `"user_count":`...)
		dst = strconv.AppendInt(dst, int64(ci.Users), 10)
	}
	if i&wire.InfoSubscriptionCount != 0 {
		dst = append(wire.AppendComma(dst), `"subscription_count":`...)
		dst = strconv.AppendInt(dst, int64(ci.Subscriptions), 10)
	}
	if i&wire.InfoCache == 0 || k&wire.KindCache == 0 {
		return dst
	}
	dst = append(wire.AppendComma(dst), `"cache":`...)
	if ci.Cached == nil {
		return append(dst, "null"...)
	}
	dst = append(append(dst, `{"data":`...), ci.Cached.Data...)
	dst = append(dst, `,"ttl":`...)
	dst = strconv.AppendInt(dst, int64(time.Until(ci.Cached.Expires).Round(time.Second)/time.Second), 10)
	return append(dst, '}')
}

// postEvents triggers an event on up to a hundred channels:
//
//	{"name":…,"data":"…","channel":… or "channels":[…][,"socket_id":"1.2"][,"info":"user_count,subscription_count"]}
//
// It answers {}, or with info {"channels":{"a":{"subscription_count":1},…}}.
func (c *Call) postEvents() error {
	var f [len(wire.TriggerFields)]wire.Value
	if err := c.parseBody(wire.TriggerFields[:], f[:]); err != nil {
		return err
	}
	fromQuery(c.Params, f[:])
	t, err := c.parseTrigger(f[:])
	if err != nil {
		return err
	}
	if _, err := c.App.Publish(t); err != nil {
		return err
	}
	c.Out = append(c.Out, '{')
	if t.Info != 0 {
		c.Out = append(c.appendChannels(append(c.Out, `"channels":{`...), t), '}')
	}
	c.Out = append(c.Out, '}')
	return nil
}

// parseBody parses a body that must be a JSON object, and finds its fields. An empty body has none.
func (c *Call) parseBody(names []string, found []wire.Value) (err error) {
	if len(c.Body) == 0 {
		return nil
	}
	if c.values, err = wire.ParseObject(c.values, c.Body, wire.APIDepth, wire.APIValues, names, found); err != nil {
		return wire.BadRequest("Invalid request body: %v", err)
	}
	return nil
}

// fromQuery takes fields that are not in the body from the query string, which the docs allow and discourage.
func fromQuery(ps sign.Params, f []wire.Value) {
	for i, name := range wire.TriggerFields {
		switch {
		case f[i] != nil:
		case i == wire.FieldChannels:
			f[i] = channelsFromQuery(ps)
		case ps.Has(name):
			f[i] = wire.JSONString(ps.Get(name))
		}
	}
}

// channelsFromQuery reads channels[]=a&channels[]=b, and channels=a,b as PHP writes it.
func channelsFromQuery(ps sign.Params) wire.Value {
	list := []byte{'['}
	for _, p := range ps {
		switch p.Name {
		case "channels[]":
			list = append(wire.AppendString(list, p.Value), ',')
		case "channels":
			for name := range strings.SplitSeq(p.Value, ",") {
				list = append(wire.AppendString(list, name), ',')
			}
		}
	}
	if len(list) == 1 {
		return nil
	}
	list[len(list)-1] = ']'
	return list
}

// parseTrigger checks one event by the limits of the app.
func (c *Call) parseTrigger(f []wire.Value) (t wire.Trigger, err error) {
	l := c.App.Limits()
	c.values, t, err = wire.ParseTrigger(c.values, f, l.ChannelName, l.EventSize)
	return t, err
}

// appendChannels appends what t asks to know, a member for each channel.
func (c *Call) appendChannels(dst []byte, t wire.Trigger) []byte {
	for i, name := range t.Channels {
		dst = append(wire.AppendString(wire.AppendComma(dst), name), ":{"...)
		dst = append(appendAttributes(dst, t.Info&^wire.InfoCache, t.Kinds[i], c.App.ChannelInfo(name)), '}')
	}
	return dst
}

// postBatchEvents triggers up to ten events, each on one channel: {"batch":[{"name":…,"data":…,"channel":…},…]}.
// All are checked before the first is triggered.
func (c *Call) postBatchEvents() error {
	events, n, err := c.parseBatch()
	switch {
	case err != nil:
		return err
	case n == 0:
		return wire.BadRequest("Missing required parameter: batch, an array of events")
	case n > wire.MaxBatch:
		return wire.BadRequest("Batch too large (%d > %d)", n, wire.MaxBatch)
	}
	triggers := make([]wire.Trigger, n)
	var asked wire.Info
	for i, f := range events[:n] {
		if f[wire.FieldChannels] != nil {
			return wire.BadRequest(
				"Invalid event %d of the batch: an event of a batch has one channel, not channels", i)
		}
		if triggers[i], err = c.parseTrigger(f[:]); err != nil {
			return err
		}
		asked |= triggers[i].Info
	}
	if _, err := c.App.Publish(triggers...); err != nil {
		return err
	}
	c.Out = c.appendBatch(c.Out, triggers, asked)
	return nil
}

// parseBatch reads {"batch":[…]}. It returns the fields of the first events, and how many there are in all.
func (c *Call) parseBatch() (events [wire.MaxBatch][len(wire.TriggerFields)]wire.Value, n int, err error) {
	if len(c.Body) == 0 {
		return events, 0, nil
	}
	err = wire.ReadJSON(c.Body, wire.APIDepth, wire.APIValues, func(v *fastjson.Value) error {
		var batch [1]*fastjson.Value
		if err := wire.Pick(v, []string{"batch"}, batch[:]); err != nil {
			return err
		}
		c.values = slices.Grow(c.values, len(c.Body))
		list := batch[0].GetArray()
		for n = range min(len(list), wire.MaxBatch) {
			if c.values, err = wire.AppendMembers(c.values, list[n], wire.TriggerFields[:], events[n][:]); err != nil {
				return fmt.Errorf("event %d of the batch: %w", n, err)
			}
		}
		n = len(list)
		return nil
	})
	if err != nil {
		err = wire.BadRequest("Invalid request body: %v", err)
	}
	return events, n, err
}

// appendBatch appends the answer to a batch: empty unless an event asked for something, else one object for each event.
func (c *Call) appendBatch(dst []byte, triggers []wire.Trigger, asked wire.Info) []byte {
	if asked == 0 {
		return append(dst, "{}"...)
	}
	dst = append(dst, `{"batch":[`...)
	for _, t := range triggers {
		dst = append(wire.AppendComma(dst), '{')
		dst = append(appendAttributes(dst, t.Info&^wire.InfoCache, t.Kinds[0], c.App.ChannelInfo(t.Channels[0])), '}')
	}
	return append(dst, "]}"...)
}

// getChannels lists the occupied channels: {"channels":{"a":{},…}}, an object even when there is none.
func (c *Call) getChannels() error {
	prefix, i := c.Params.Get("filter_by_prefix"), wire.ParseInfo(c.Params.Get("info"))
	if i&wire.InfoUserCount != 0 && !strings.HasPrefix(prefix, "presence-") {
		return wire.BadRequest("user_count may only be requested for presence channels - " +
			"please supply filter_by_prefix begining with presence-")
	}
	c.Out = append(c.Out, `{"channels":{`...)
	c.App.Occupied(prefix, func(name string, k wire.Kind, ci channel.Info) {
		c.Out = append(wire.AppendString(wire.AppendComma(c.Out), name), ":{"...)
		c.Out = append(appendAttributes(c.Out, i&^wire.InfoCache, k, ci), '}')
	})
	c.Out = append(c.Out, "}}"...)
	return nil
}

// channel returns the name and kind of the channel in the path.
func (c *Call) channel() (name string, k wire.Kind, err error) {
	name = c.PathValue("channel")
	k, ok := wire.ParseChannel(name, c.App.Limits().ChannelName)
	if !ok {
		return "", 0, wire.BadRequest("Invalid channel name: %q", name)
	}
	return name, k, nil
}

// getChannel describes one channel: {"occupied":true,…}. One that does not exist is not occupied, which is no error.
func (c *Call) getChannel() error {
	name, k, err := c.channel()
	if err != nil {
		return err
	}
	i := wire.ParseInfo(c.Params.Get("info"))
	switch {
	case i&wire.InfoUserCount != 0 && k&wire.KindPresence == 0:
		return wire.BadRequest("Cannot retrieve the user count unless the channel is a presence channel")
	case i&wire.InfoCache != 0 && k&wire.KindCache == 0:
		return wire.BadRequest("Cannot retrieve the cache unless the channel is a cache channel")
	}
	ci := c.App.ChannelInfo(name)
	c.Out = strconv.AppendBool(append(c.Out, `{"occupied":`...), ci.Subscriptions > 0)
	c.Out = append(appendAttributes(c.Out, i, k, ci), '}')
	return nil
}

// getUsers lists the members of a presence channel: {"users":[{"id":"1"},…]}, an array even when there is none.
func (c *Call) getUsers() error {
	name, k, err := c.channel()
	if err != nil {
		return err
	}
	if k&wire.KindPresence == 0 {
		return wire.BadRequest("Users can only be retrieved for presence channels")
	}
	var ids []string
	if ch := c.App.Channel(name); ch != nil {
		ids = ch.UserIDs()
	}
	c.Out = append(c.Out, `{"users":[`...)
	for _, id := range ids {
		c.Out = append(wire.AppendString(append(wire.AppendComma(c.Out), `{"id":`...), id), '}')
	}
	c.Out = append(c.Out, "]}"...)
	return nil
}

// postTerminate closes the connections signed in as a user. That there is none is no error.
func (c *Call) postTerminate() error {
	c.App.Terminate(c.PathValue("user"))
	c.Out = append(c.Out, "{}"...)
	return nil
}
