package main

// The HTTP API (https://pusher.com/docs/channels/library_auth_reference/rest-api/): a route table, one authenticating
// wrapper, one handler for each call, one reply writer.

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fastjson"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/listen"
	"edge/internal/sign"
	"edge/internal/wire"
)

// api answers the calls.
type api struct {
	apps  *atomic.Pointer[apps]
	path  string // that every path of ours begins with
	clock *clock // which callers sign

	proxies []netip.Prefix // static: whose X-Forwarded-For counts
}

// routes enters the calls into mux, and for their paths an answer to other methods.
func (a *api) routes(mux *http.ServeMux) {
	for _, route := range []struct {
		method, path string
		handle       func(*call) error
	}{
		{"POST", "/apps/{app}/events", (*call).postEvents},
		{"POST", "/apps/{app}/batch_events", (*call).postBatchEvents},
		{"GET", "/apps/{app}/channels", (*call).getChannels},
		{"GET", "/apps/{app}/channels/{channel}", (*call).getChannel},
		{"GET", "/apps/{app}/channels/{channel}/users", (*call).getUsers},
		{"POST", "/apps/{app}/users/{user}/terminate_connections", (*call).postTerminate},
		{"POST", "/users/{user}/terminate_connections", (*call).postTerminate}, // the Python library leaves the app out
	} {
		mux.HandleFunc(route.method+" "+a.path+route.path, a.authenticated(route.handle))
		mux.HandleFunc(a.path+route.path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", route.method)
			http.Error(w, fmt.Sprintf("Method Not Allowed: this call is a %s", route.method), http.StatusMethodNotAllowed)
		})
	}
}

// call is one request on its way through a handler, which writes a JSON object to out or returns an error. Its memory is used
// again when the request has been answered.
type call struct {
	*http.Request
	app    *app
	params sign.Params
	body   []byte
	values []byte // what of the body is looked at
	out    []byte
	began  int64 // monotonic nanoseconds, if someone looks
}

var calls = sync.Pool{New: func() any { return new(call) }}

func (c *call) free() {
	if max(cap(c.body), cap(c.values), cap(c.out)) > wire.MaxBuffer {
		return
	}
	clear(c.params)
	*c = call{params: c.params[:0], body: c.body[:0], values: c.values[:0], out: c.out[:0]}
	calls.Put(c)
}

// authenticated is the way to every handler: it checks app, signature and body.
func (a *api) authenticated(handle func(*call) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c := calls.Get().(*call)
		defer c.free()
		c.Request, c.app = r, a.apps.Load().none
		if c.app.Observes(channel.AboutCalls) {
			c.began = conn.Now()
		}
		err := a.check(c)
		if err == nil {
			err = handle(c)
		}
		a.reply(w, c, err)
	}
}

// check fills c from its request and authenticates it. The signature comes before the body is read.
func (a *api) check(c *call) (err error) {
	if c.params, err = sign.ParseParams(c.params, c.URL.RawQuery); err != nil {
		return wire.BadRequest("%v", err)
	}
	id := c.PathValue("app")
	if app := a.apps.Load().find(id, c.params.Get("auth_key")); app != nil {
		c.app = app
	} else if id != "" {
		return &wire.Error{Status: http.StatusNotFound, Text: fmt.Sprintf("Unknown app id %q", id)}
	}
	// A proxy may have added our path before what was signed.
	paths := []string{c.URL.EscapedPath(), c.URL.Path, strings.TrimPrefix(c.URL.EscapedPath(), a.path), strings.TrimPrefix(c.URL.Path, a.path)}
	now, window := a.clock.read(c.app.window())
	if err = checkRequest(c.app.keys(), c.Method, paths, c.params, now, window); err != nil {
		return &wire.Error{Status: http.StatusUnauthorized, Text: err.Error()}
	}
	if err := c.readBody(bodyLimit(c.app.Limits())); err != nil {
		return err
	}
	if err := checkBodyMD5(c.params, c.body); err != nil {
		return &wire.Error{Status: http.StatusUnauthorized, Text: err.Error()}
	}
	return nil
}

// bodyLimit is the size of the largest legal request, a batch of ten: data with an escape for every byte, and the rest.
func bodyLimit(l *channel.Limits) int { return 64<<10 + wire.MaxBatch*6*l.EventSize }

// readBody reads the body.
func (c *call) readBody(limit int) error {
	tooLarge := func() error {
		return &wire.Error{Status: http.StatusRequestEntityTooLarge, Text: fmt.Sprintf("The request body exceeds the allowed maximum (%d bytes)", limit)}
	}
	if c.ContentLength > int64(limit) {
		return tooLarge()
	}
	c.body = slices.Grow(c.body, int(max(c.ContentLength, 0))+1) // one more, so that the end is found without growing
	for {
		n, err := c.Body.Read(c.body[len(c.body):cap(c.body)])
		c.body = c.body[:len(c.body)+n]
		switch {
		case len(c.body) > limit:
			return tooLarge()
		case err == io.EOF:
			return nil
		case err != nil:
			return wire.BadRequest("The request body could not be read")
		case len(c.body) == cap(c.body):
			c.body = slices.Grow(c.body, len(c.body)+1)
		}
	}
}

var jsonType, textType = []string{"application/json"}, []string{"text/plain; charset=utf-8"}

// reply writes the answer: a JSON object, or the error as a line of text as the hosted service does.
func (a *api) reply(w http.ResponseWriter, c *call, err error) {
	status, kind, body := http.StatusOK, jsonType, c.out
	if err != nil {
		e := wire.AsError(err, http.StatusInternalServerError)
		c.app.Counts.Refuse("call", strconv.Itoa(e.Status))
		c.app.Notify(channel.Notice{About: channel.AboutRejections, What: channel.NoticeRejected, Remote: listen.CallerAddr(c.Request, a.proxies), Event: c.Method + " " + c.URL.Path, Code: e.Status, Reason: e.Text})
		status, kind, body = e.Status, textType, []byte(e.Text+"\n")
	} else if c.began != 0 {
		c.app.Notify(channel.Notice{About: channel.AboutCalls, What: "call", Remote: listen.CallerAddr(c.Request, a.proxies), Event: c.Method + " " + c.URL.Path, Code: status, Took: time.Duration(conn.Now() - c.began)})
	}
	c.app.Counts.Calls.Add(1)
	c.app.Counts.CallBytes.Add(uint64(len(c.body)))
	c.app.Counts.AnswerBytes.Add(uint64(len(body)))
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
func (c *call) postEvents() error {
	var f [len(wire.TriggerFields)]wire.Value
	if err := c.parseBody(wire.TriggerFields[:], f[:]); err != nil {
		return err
	}
	fromQuery(c.params, f[:])
	t, err := c.parseTrigger(f[:])
	if err != nil {
		return err
	}
	if _, err := c.app.Publish(t); err != nil {
		return err
	}
	c.out = append(c.out, '{')
	if t.Info != 0 {
		c.out = append(c.appendChannels(append(c.out, `"channels":{`...), t), '}')
	}
	c.out = append(c.out, '}')
	return nil
}

// parseBody parses a body that must be a JSON object, and finds its fields. An empty body has none.
func (c *call) parseBody(names []string, found []wire.Value) (err error) {
	if len(c.body) == 0 {
		return nil
	}
	if c.values, err = wire.ParseObject(c.values, c.body, wire.APIDepth, wire.APIValues, names, found); err != nil {
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

// wire.ParseTrigger checks one event by the limits of the app.
func (c *call) parseTrigger(f []wire.Value) (t wire.Trigger, err error) {
	l := c.app.Limits()
	c.values, t, err = wire.ParseTrigger(c.values, f, l.ChannelName, l.EventSize)
	return t, err
}

// appendChannels appends what t asks to know, a member for each channel.
func (c *call) appendChannels(dst []byte, t wire.Trigger) []byte {
	for i, name := range t.Channels {
		dst = append(wire.AppendString(wire.AppendComma(dst), name), ":{"...)
		dst = append(appendAttributes(dst, t.Info&^wire.InfoCache, t.Kinds[i], c.app.ChannelInfo(name)), '}')
	}
	return dst
}

// postBatchEvents triggers up to ten events, each on one channel: {"batch":[{"name":…,"data":…,"channel":…},…]}. All are
// checked before the first is triggered.
func (c *call) postBatchEvents() error {
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
			return wire.BadRequest("Invalid event %d of the batch: an event of a batch has one channel, not channels", i)
		}
		if triggers[i], err = c.parseTrigger(f[:]); err != nil {
			return err
		}
		asked |= triggers[i].Info
	}
	if _, err := c.app.Publish(triggers...); err != nil {
		return err
	}
	c.out = c.appendBatch(c.out, triggers, asked)
	return nil
}

// parseBatch reads {"batch":[…]}. It returns the fields of the first events, and how many there are in all.
func (c *call) parseBatch() (events [wire.MaxBatch][len(wire.TriggerFields)]wire.Value, n int, err error) {
	if len(c.body) == 0 {
		return events, 0, nil
	}
	err = wire.ReadJSON(c.body, wire.APIDepth, wire.APIValues, func(v *fastjson.Value) error {
		var batch [1]*fastjson.Value
		if err := wire.Pick(v, []string{"batch"}, batch[:]); err != nil {
			return err
		}
		c.values = slices.Grow(c.values, len(c.body))
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
func (c *call) appendBatch(dst []byte, triggers []wire.Trigger, asked wire.Info) []byte {
	if asked == 0 {
		return append(dst, "{}"...)
	}
	dst = append(dst, `{"batch":[`...)
	for _, t := range triggers {
		dst = append(wire.AppendComma(dst), '{')
		dst = append(appendAttributes(dst, t.Info&^wire.InfoCache, t.Kinds[0], c.app.ChannelInfo(t.Channels[0])), '}')
	}
	return append(dst, "]}"...)
}

// getChannels lists the occupied channels: {"channels":{"a":{},…}}, an object even when there is none.
func (c *call) getChannels() error {
	prefix, i := c.params.Get("filter_by_prefix"), wire.ParseInfo(c.params.Get("info"))
	if i&wire.InfoUserCount != 0 && !strings.HasPrefix(prefix, "presence-") {
		return wire.BadRequest("user_count may only be requested for presence channels - please supply filter_by_prefix begining with presence-")
	}
	c.out = append(c.out, `{"channels":{`...)
	c.app.Occupied(prefix, func(name string, k wire.Kind, ci channel.Info) {
		c.out = append(wire.AppendString(wire.AppendComma(c.out), name), ":{"...)
		c.out = append(appendAttributes(c.out, i&^wire.InfoCache, k, ci), '}')
	})
	c.out = append(c.out, "}}"...)
	return nil
}

// channel returns the name and kind of the channel in the path.
func (c *call) channel() (name string, k wire.Kind, err error) {
	name = c.PathValue("channel")
	k, ok := wire.ParseChannel(name, c.app.Limits().ChannelName)
	if !ok {
		return "", 0, wire.BadRequest("Invalid channel name: %q", name)
	}
	return name, k, nil
}

// getChannel describes one channel: {"occupied":true,…}. One that does not exist is not occupied, which is no error.
func (c *call) getChannel() error {
	name, k, err := c.channel()
	if err != nil {
		return err
	}
	i := wire.ParseInfo(c.params.Get("info"))
	switch {
	case i&wire.InfoUserCount != 0 && k&wire.KindPresence == 0:
		return wire.BadRequest("Cannot retrieve the user count unless the channel is a presence channel")
	case i&wire.InfoCache != 0 && k&wire.KindCache == 0:
		return wire.BadRequest("Cannot retrieve the cache unless the channel is a cache channel")
	}
	ci := c.app.ChannelInfo(name)
	c.out = strconv.AppendBool(append(c.out, `{"occupied":`...), ci.Subscriptions > 0)
	c.out = append(appendAttributes(c.out, i, k, ci), '}')
	return nil
}

// getUsers lists the members of a presence channel: {"users":[{"id":"1"},…]}, an array even when there is none.
func (c *call) getUsers() error {
	name, k, err := c.channel()
	if err != nil {
		return err
	}
	if k&wire.KindPresence == 0 {
		return wire.BadRequest("Users can only be retrieved for presence channels")
	}
	var ids []string
	if ch := c.app.Channel(name); ch != nil {
		ids = ch.UserIDs()
	}
	c.out = append(c.out, `{"users":[`...)
	for _, id := range ids {
		c.out = append(wire.AppendString(append(wire.AppendComma(c.out), `{"id":`...), id), '}')
	}
	c.out = append(c.out, "]}"...)
	return nil
}

// postTerminate closes the connections signed in as a user. That there is none is no error.
func (c *call) postTerminate() error {
	c.app.Terminate(c.PathValue("user"))
	c.out = append(c.out, "{}"...)
	return nil
}
