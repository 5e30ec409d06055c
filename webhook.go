package main

// Webhooks (https://pusher.com/docs/channels/server_api/webhooks/): what happens to channels, told to HTTP receivers.
//
// A channel or member that comes or goes moves a level up or down. Levels, not events, decide what is told: the two halves
// of a quick return cancel out, in whatever order goroutines report them, and the account is exact: what was told as
// occupied is either occupied or will be told as vacated. Each receiver has one queue and one goroutine, which lives while
// there is something to deliver; nobody ever waits for it but shutdown.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/sign"
	"edge/internal/wire"
)

const (
	webhookTimeout   = 10 * time.Second       // for one request
	webhookRetries   = 5 * time.Minute        // during which a body is tried
	webhookBackoff   = time.Second            // before the first retry, doubled for each
	webhookSlowest   = 30 * time.Second       // of the retries
	webhookHurry     = 200 * time.Millisecond // instead, while shutdown drains
	webhookBatch     = 50 * time.Millisecond  // during which events gather for one body
	webhookEvents    = 100                    // in one body
	webhookBodySize  = 256 << 10
	webhookQueue     = 10_000  // events that may wait for a receiver
	webhookQueueSize = 8 << 20 // their bytes, however few they are
)

var hookNames = []string{wire.HookOccupied, wire.HookVacated, wire.HookMemberAdded, wire.HookMemberRemoved, wire.HookClientEvent, wire.HookCacheMiss, wire.HookSubscriptionCount}

// webhooks are an app's hooks.
type webhooks struct {
	// Static after construction.
	said    func(channel.Notice) // is told what becomes of requests
	hurry   context.Context      // done when draining begins: nothing more waits for others
	over    context.Context      // done when draining ends: whatever is left is given up
	drained [2]context.CancelFunc

	mu     sync.Mutex    // guards the following, and the queues of all hooks
	grace  time.Duration // before something that is gone is told
	key    *sign.Key     // signs
	hooks  []*hook
	levels map[levelKey]*level // of what is there, or was told to be
	ends   []end               // grace periods in the order in which they end
	timer  *time.Timer         // calls settle when the first of them ends; nil before there was one
}

// levelKey is a channel, or a member of one.
type levelKey struct{ channel, user string }

// level is how often something is there: once or not at all, and more for a moment when one goroutine reports its end after
// another its return. It is deleted when it is 0 and nothing is told.
type level struct {
	n    int
	told bool      // receivers think it is there
	ends time.Time // when that will be taken back, unless n rises before; zero while n is not 0

	// Of a channel only.
	members int   // told; the channel is vacated only after them
	waits   bool  // for that, its grace period being over
	counted int64 // when the subscription_count was taken that was last told
}

// end is the end of a grace period.
type end struct {
	key   levelKey
	level *level
	at    time.Time
}

// newWebhooks makes what configure gives hooks to. said is told what becomes of requests.
func newWebhooks(said func(channel.Notice)) *webhooks {
	w := &webhooks{said: said, levels: make(map[levelKey]*level)}
	w.hurry, w.drained[0] = context.WithCancel(context.Background())
	w.over, w.drained[1] = context.WithCancel(context.Background())
	return w
}

// configure makes the hooks those with these URLs, which parseHook accepts. Bodies are signed with key. Hooks that stay are the
// same as before; those that do not deliver what they have.
func (w *webhooks) configure(urls []string, key *sign.Key, grace time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.key, w.grace = key, grace
	old := slices.Clone(w.hooks)
	w.hooks = nil
	for _, url := range urls {
		i := slices.IndexFunc(old, func(h *hook) bool { return h.given == url && !h.gone })
		if i >= 0 {
			w.hooks = append(w.hooks, old[i])
			old = slices.Delete(old, i, i+1)
			continue
		}
		h, _ := parseHook(url)
		h.webhooks = w
		w.hooks = append(w.hooks, h)
	}
	for _, h := range old {
		if h.gone = true; h.running != nil {
			w.hooks = append(w.hooks, h)
		}
	}
}

// all returns the hooks there are now.
func (w *webhooks) all() []*hook {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.hooks)
}

// move says that a channel (user is "") or a member has come (by is 1) or gone (-1). It never blocks.
func (w *webhooks) move(channel, user string, by int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := levelKey{channel, user}
	l := w.levelLocked(key)
	switch l.n += by; {
	case l.n > 0:
		l.ends, l.waits = time.Time{}, false
		w.arriveLocked(key, l)
	case w.grace > 0 && w.hurry.Err() == nil:
		l.ends = time.Now().Add(w.grace)
		i := len(w.ends)
		for i > 0 && w.ends[i-1].at.After(l.ends) { // which happens only after the period was made shorter
			i--
		}
		if w.ends = slices.Insert(w.ends, i, end{key, l, l.ends}); i == 0 {
			w.timeLocked()
		}
	default:
		w.settleLocked(key, l)
	}
}

// timeLocked sets the timer for the first grace period to end.
func (w *webhooks) timeLocked() {
	switch {
	case len(w.ends) == 0:
	case w.timer == nil:
		w.timer = time.AfterFunc(time.Until(w.ends[0].at), w.settle)
	default:
		w.timer.Reset(time.Until(w.ends[0].at))
	}
}

// settle tells what is gone for longer than the grace period.
func (w *webhooks) settle() {
	defer conn.Recovered("webhooks")
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.timeLocked()
	for len(w.ends) > 0 && time.Until(w.ends[0].at) <= 0 {
		w.settleFirstLocked()
	}
}

// settleFirstLocked ends the first grace period.
func (w *webhooks) settleFirstLocked() {
	e := w.ends[0]
	w.ends[0] = end{}
	w.ends = w.ends[1:]
	if e.level.ends == e.at { // else it has been back since
		w.settleLocked(e.key, e.level)
	}
}

func (w *webhooks) levelLocked(key levelKey) *level {
	l := w.levels[key]
	if l == nil {
		l = new(level)
		w.levels[key] = l
	}
	return l
}

// arriveLocked tells that something is there, if that is not told yet: of a member after his channel, whoever reports first.
func (w *webhooks) arriveLocked(key levelKey, l *level) {
	if l.told {
		return
	}
	l.told = true
	if key.user == "" {
		w.tellLocked(wire.HookOccupied, key.channel, nil)
		return
	}
	channel := w.levelLocked(levelKey{key.channel, ""})
	w.arriveLocked(levelKey{key.channel, ""}, channel)
	channel.members++
	w.tellLocked(wire.HookMemberAdded, key.channel, userField(key.user))
}

func userField(id string) []byte { return wire.AppendString([]byte(`,"user_id":`), id) }

// settleLocked takes back what was told of a level that is 0, and forgets it: of a channel after its members, who have all
// left, but whose ends may not all have been reported.
func (w *webhooks) settleLocked(key levelKey, l *level) {
	l.ends = time.Time{}
	if l.members > 0 {
		l.waits = true
		return
	}
	delete(w.levels, key)
	switch {
	case !l.told:
	case key.user == "":
		w.tellLocked(wire.HookVacated, key.channel, nil)
	default:
		w.tellLocked(wire.HookMemberRemoved, key.channel, userField(key.user))
		key.user = ""
		channel := w.levels[key]
		if channel.members--; channel.waits {
			w.settleLocked(key, channel)
		}
	}
}

// tell queues an event for every hook that wants it. rest is what follows its name and channel. It never blocks.
func (w *webhooks) tell(name, channel string, rest []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tellLocked(name, channel, rest)
}

// tellLocked is tell for who holds mu. One copy of the event serves all hooks.
func (w *webhooks) tellLocked(name, channel string, rest []byte) {
	var body []byte
	for _, h := range w.hooks {
		if !h.wants(name, channel) {
			continue
		}
		if body == nil {
			body = make([]byte, 0, len(`{"name":"","channel":""}`)+len(name)+len(channel)+len(rest))
			body = append(append(body, `{"name":"`...), name...)
			body = append(append(body, `","channel":"`...), channel...)
			body = append(append(append(body, '"'), rest...), '}')
		}
		h.pushLocked(body, channel, name == wire.HookClientEvent)
	}
}

// observe is told what happens in the app. It never blocks.
func (w *webhooks) observe(n channel.Notice) {
	switch n.What {
	case wire.HookOccupied:
		w.move(n.Channel, "", 1)
	case wire.HookVacated:
		w.move(n.Channel, "", -1)
	case wire.HookMemberAdded:
		w.move(n.Channel, n.User, 1)
	case wire.HookMemberRemoved:
		w.move(n.Channel, n.User, -1)
	case wire.HookCacheMiss:
		w.tell(wire.HookCacheMiss, n.Channel, nil)
	case wire.HookSubscriptionCount:
		w.tellCount(n)
	default:
		w.tellClientEvent(n)
	}
}

// tellClientEvent tells of an event that a client sent. Its data stays the JSON string literal it is.
func (w *webhooks) tellClientEvent(n channel.Notice) {
	buffer := wire.Buffers.Get().(*[]byte)
	rest := wire.AppendString(append((*buffer)[:0], `,"event":`...), n.Event)
	rest = append(append(rest, `,"data":`...), n.Data...)
	rest = append(n.Socket.Append(append(rest, `,"socket_id":"`...)), '"')
	if n.User != "" {
		rest = wire.AppendString(append(rest, `,"user_id":`...), n.User)
	}
	w.tell(wire.HookClientEvent, n.Channel, rest)
	*buffer = rest
	wire.FreeBuffer(&buffer)
}

// tellCount tells how many subscriptions a channel has, unless a later count was told already, of it or of another that had its name
// before.
func (w *webhooks) tellCount(n channel.Notice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.levels[levelKey{n.Channel, ""}]
	if n.Latest() && (l == nil || n.At >= l.counted) { // asked with mu held, so that they are told in order
		if l != nil {
			l.counted = n.At
		}
		w.tellLocked(wire.HookSubscriptionCount, n.Channel, strconv.AppendInt([]byte(`,"subscription_count":`), int64(n.Reached), 10))
	}
}

// idle reports whether everything has been told to everyone.
func (w *webhooks) idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.ends) == 0 && !slices.ContainsFunc(w.hooks, func(h *hook) bool { return h.running != nil })
}

// drain tells at once what waits for its grace period, and waits until everything is delivered or ctx is done. It returns
// how many events are left. Nothing is delivered afterwards.
func (w *webhooks) drain(ctx context.Context) (left int) {
	w.drained[0]()
	w.mu.Lock()
	for len(w.ends) > 0 {
		w.settleFirstLocked()
	}
	w.mu.Unlock()
	hooks := w.all()
	for _, h := range hooks {
		select {
		case <-h.delivered():
		case <-ctx.Done():
		}
	}
	w.drained[1]()
	for _, h := range hooks {
		<-h.delivered() // the request under way is broken off
		left += int(h.counts().left)
		h.client.CloseIdleConnections()
	}
	return left
}

// hook is one receiver.
type hook struct {
	// Static after construction.
	given    string // what parseHook was given
	url      string
	name     string   // the URL without what may be secret in it
	events   []string // names of events it wants; none means all
	prefix   string   // of the channels it wants
	client   *http.Client
	webhooks *webhooks

	// Guarded by webhooks.mu.
	gone    bool // no longer wanted: it delivers what it has
	rest    []hookEvent
	clients []hookEvent   // client events, apart because they are the first to be dropped
	bytes   int           // in both queues
	next    uint64        // number of the next event
	running chan struct{} // closed when deliver ends; nil while it does not run
	hookCounts

	// Owned by deliver.
	logged  time.Time // when drops were last logged,
	counted uint64    // and how many there had been
}

// hookCounts is what a hook has done.
type hookCounts struct {
	queued, sent, retried, dropped uint64
	left                           uint64    // given up at shutdown
	failingSince                   time.Time // zero while the last request succeeded
}

// counts returns what the hook has done so far.
func (h *hook) counts() hookCounts {
	h.webhooks.mu.Lock()
	defer h.webhooks.mu.Unlock()
	return h.hookCounts
}

type hookEvent struct {
	body   []byte // JSON, shared between hooks
	number uint64 // the order of both queues together
	apart  bool   // in bodies of their own: Go's library takes none of a body that has one of an encrypted channel
}

// parseHook reads a hook's URL: http or https, and after a # what it wants: events=channel_occupied,channel_vacated and
// prefix=presence-, joined by &.
func parseHook(s string) (*hook, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("it must be a URL that begins with http:// or https://")
	}
	wants, err := url.ParseQuery(u.EscapedFragment())
	if err != nil {
		return nil, errors.New("what follows the # must be like events=channel_occupied,channel_vacated&prefix=presence-")
	}
	h := &hook{given: s, prefix: wants.Get("prefix")}
	for name := range wants {
		if name != "events" && name != "prefix" {
			return nil, fmt.Errorf("after the # it may have events and prefix, not %q", name)
		}
	}
	if list := wants.Get("events"); list != "" {
		h.events = strings.Split(list, ",")
	}
	for _, name := range h.events {
		if !slices.Contains(hookNames, name) {
			return nil, fmt.Errorf("there is no event %q; there are %s", name, strings.Join(hookNames, ", "))
		}
	}
	u.Fragment, u.RawFragment = "", ""
	h.url, h.name = u.String(), u.Scheme+"://"+u.Host+u.Path
	h.client = &http.Client{
		Timeout:       webhookTimeout,
		Transport:     &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second, TLSHandshakeTimeout: webhookTimeout, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return h, nil
}

// wants reports whether the hook's filter lets the event through.
func (h *hook) wants(name, channel string) bool {
	return !h.gone && (h.events == nil || slices.Contains(h.events, name)) && strings.HasPrefix(channel, h.prefix)
}

// pushLocked queues an event, and drops the oldest client event, or else the oldest of all, if that is one too many.
func (h *hook) pushLocked(body []byte, channel string, client bool) {
	e := hookEvent{body, h.next, strings.HasPrefix(channel, "private-encrypted-")}
	h.next++
	h.queued++
	if client {
		h.clients = append(h.clients, e)
	} else {
		h.rest = append(h.rest, e)
	}
	h.bytes += len(body)
	for len(h.clients)+len(h.rest) > webhookQueue || h.bytes > webhookQueueSize {
		oldest := &h.rest
		if len(h.clients) > 0 {
			oldest = &h.clients
		}
		h.pop(oldest)
		h.dropped++
	}
	if h.running == nil {
		h.running = make(chan struct{})
		go h.deliver() // ends when the queues are empty; webhooks.drain waits for it
	}
}

// pop takes the oldest event off one of the queues, which must have one.
func (h *hook) pop(queue *[]hookEvent) (e hookEvent) {
	e, (*queue)[0] = (*queue)[0], hookEvent{} // what was taken is not kept alive by the array
	*queue = (*queue)[1:]
	h.bytes -= len(e.body)
	return e
}

// delivered returns a channel that is closed when nothing is queued or under way.
func (h *hook) delivered() <-chan struct{} {
	h.webhooks.mu.Lock()
	defer h.webhooks.mu.Unlock()
	if h.running != nil {
		return h.running
	}
	closed := make(chan struct{})
	close(closed)
	return closed
}

// deliver sends what is queued until there is nothing more.
func (h *hook) deliver() {
	for h.deliverNext() {
	}
}

// deliverNext sends the next body, and reports whether there was one. After a panic, which costs what was in it, it goes on.
func (h *hook) deliverNext() (more bool) {
	defer func() {
		if p := recover(); p != nil {
			conn.LogPanic("webhook "+h.name, p)
			h.wait(webhookBackoff)
			more = true
		}
	}()
	h.wait(h.gatherTime())
	events := h.take()
	if events != nil {
		h.send(events)
	}
	return events != nil
}

// gatherTime is how long the next body waits for company.
func (h *hook) gatherTime() time.Duration {
	h.webhooks.mu.Lock()
	defer h.webhooks.mu.Unlock()
	if n := len(h.clients) + len(h.rest); n == 0 || n >= webhookEvents {
		return 0
	}
	return webhookBatch
}

// wait waits, though not for long once shutdown drains.
func (h *hook) wait(d time.Duration) {
	if d <= 0 {
		return
	}
	until := h.webhooks.hurry
	if until.Err() != nil {
		d, until = min(d, webhookHurry), h.webhooks.over
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-until.Done():
	}
}

// take takes the events of the next body, in the order in which they happened. If there are none, deliver has ended.
func (h *hook) take() (events []hookEvent) {
	w := h.webhooks
	w.mu.Lock()
	defer w.mu.Unlock()
	for size := 0; len(h.clients)+len(h.rest) > 0; {
		oldest := &h.rest
		if len(h.rest) == 0 || len(h.clients) > 0 && h.clients[0].number < h.rest[0].number {
			oldest = &h.clients
		}
		e := (*oldest)[0]
		size += len(e.body)
		if len(events) > 0 && (size > webhookBodySize || len(events) == webhookEvents || e.apart != events[0].apart) {
			break
		}
		events = append(events, h.pop(oldest))
	}
	if events == nil {
		h.rest, h.clients = nil, nil
		close(h.running)
		h.running = nil
	}
	return events
}

// send delivers one body, however often that has to be tried.
func (h *hook) send(events []hookEvent) {
	body := fmt.Appendf(nil, `{"time_ms":%d,"events":[`, time.Now().UnixMilli())
	for i, e := range events {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, e.body...)
	}
	body = append(body, "]}"...)
	key := h.signer()
	signature := string(key.Sign(nil, body))
	backoff := webhookBackoff
	for began := time.Now(); ; backoff = min(2*backoff, webhookSlowest) {
		asked := time.Now()
		err := h.post(body, key.Name, signature)
		n := channel.Notice{About: channel.AboutDeliveries, What: "webhook delivered", Remote: h.name, Data: body, Reached: len(events), Took: time.Since(asked)}
		done := h.noteResult(uint64(len(events)), err, time.Since(began)+backoff > webhookRetries)
		if err != nil && done {
			n.What, n.Reason = "webhook given up", err.Error()
		} else if err != nil {
			n.What, n.Reason = "webhook failed", err.Error()
		}
		if h.webhooks.said(n); done {
			return
		}
		h.wait(backoff/2 + rand.N(backoff/2))
	}
}

// signer is the key that signs bodies at this moment.
func (h *hook) signer() *sign.Key {
	h.webhooks.mu.Lock()
	defer h.webhooks.mu.Unlock()
	return h.webhooks.key
}

// noteResult counts the outcome of a request, and reports whether the body is done with: delivered, or given up. Nothing is
// logged under the lock, since writing to a log may block.
func (h *hook) noteResult(n uint64, err error, last bool) (done bool) {
	w := h.webhooks
	w.mu.Lock()
	before := h.failingSince
	switch {
	case err == nil:
		h.sent += n
		h.failingSince, done = time.Time{}, true
	case w.over.Err() != nil:
		h.left += n
		done = true
	case last:
		h.dropped += n
		done = true
	default:
		h.retried++
	}
	if err != nil && before.IsZero() {
		h.failingSince = time.Now()
	}
	dropped := h.dropped
	w.mu.Unlock()
	switch {
	case err == nil && !before.IsZero():
		slog.Info("webhook delivers again", "to", h.name, "after", time.Since(before).Round(time.Second))
	case err != nil && before.IsZero():
		slog.Warn("webhook fails and is tried again", "to", h.name, "error", err)
	}
	if dropped > h.counted && time.Since(h.logged) >= time.Second {
		slog.Error("webhook has dropped events", "to", h.name, "events", dropped-h.counted)
		h.counted, h.logged = dropped, time.Now()
	}
	return done
}

// post makes one request. Anything but a 2xx is an error.
func (h *hook) post(body []byte, key, signature string) error {
	r, err := http.NewRequestWithContext(h.webhooks.over, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header = http.Header{
		"Content-Type":       {"application/json"}, // exactly: older Ruby set-ups fail on a charset
		"User-Agent":         {"edge/" + version},
		"X-Pusher-Key":       {key},
		"X-Pusher-Signature": {signature},
	}
	resp, err := h.client.Do(r)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL, which may have a password
		}
		return err
	}
	defer resp.Body.Close()
	io.CopyN(io.Discard, resp.Body, 4<<10) // enough to use the connection again
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("it answered %s", resp.Status)
	}
	return nil
}
