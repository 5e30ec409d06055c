package webhook

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/sign"
)

const (
	timeout       = 10 * time.Second       // for one request
	retryFor      = 5 * time.Minute        // a body
	firstBackoff  = time.Second            // before the first retry, doubled for each
	longBackoff   = 30 * time.Second       // at most
	hurriedWait   = 200 * time.Millisecond // instead, while shutdown drains
	gatherFor     = 50 * time.Millisecond  // events for one body
	mostInBody    = 100                    // events
	mostBody      = 256 << 10              // bytes
	mostWaiting   = 10_000                 // events in a queue
	mostWaitBytes = 8 << 20                // their bytes, however few they are
)

// failed is the one outcome after which a body is tried again.
const failed = "webhook failed"

// hook is one receiver.
type hook struct {
	// Static after construction.
	given  string   // what parse was given
	url    string   // without what it wants
	events []string // names of events it wants; none means all
	prefix string   // of the channels it wants
	client *http.Client
	of     *Hooks

	// Guarded by Hooks.mu, but for Stats.Receiver, which is static.
	Stats
	gone    bool // no longer wanted: it delivers what it has
	running bool // deliver does
	queue   []event
	bytes   int // in it

	// Owned by deliver.
	logged  time.Time // when drops were last logged,
	counted uint64    // and how many there had been
}

// Stats is what a hook has done.
type Stats struct {
	Receiver                       string // its URL without what may be secret in it
	Queued, Sent, Retried, Dropped uint64
	Left                           uint64    // given up at shutdown
	FailingSince                   time.Time // zero while the last request succeeded
}

// event waits for delivery.
type event struct {
	body   string // JSON, shared between hooks
	client bool   // by a client: the first to be dropped
	apart  bool   // in bodies of their own: Go's library takes none of a body that has one of an encrypted channel
}

// Check reports what is wrong with the URL of a hook, and returns it without what may be secret in it.
func Check(url string) (shown string, err error) {
	h, err := parse(url)
	if err != nil {
		return "", err
	}
	return h.Receiver, nil
}

// parse reads a hook's URL: http or https, and after a # what it wants: events=channel_occupied,channel_vacated and
// prefix=presence-, joined by &.
func parse(s string) (*hook, error) {
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
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("there is no event %q; there are %s", name, strings.Join(names, ", "))
		}
	}
	u.Fragment, u.RawFragment = "", ""
	h.url, h.Receiver = u.String(), u.Scheme+"://"+u.Host+u.Path
	h.client = &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second,
			TLSHandshakeTimeout: timeout, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return h, nil
}

// wants reports whether the hook's filter lets the event through.
func (h *hook) wants(name, channel string) bool {
	return !h.gone && (h.events == nil || slices.Contains(h.events, name)) && strings.HasPrefix(channel, h.prefix)
}

// pushLocked queues an event. If that is one too many, it drops the oldest of clients, or else the oldest of all.
func (h *hook) pushLocked(body, channel string, client bool) {
	h.queue = append(h.queue, event{body, client, strings.HasPrefix(channel, "private-encrypted-")})
	h.Queued++
	h.bytes += len(body)
	for len(h.queue) > mostWaiting || h.bytes > mostWaitBytes {
		h.removeLocked(max(0, slices.IndexFunc(h.queue, func(e event) bool { return e.client })))
		h.Dropped++
	}
	if !h.running {
		h.running = true
		h.of.delivering++
		go h.deliver() // ends when the queue is empty; Drain waits for it
	}
}

// removeLocked takes an event off the queue. Those before it move up: mostly it is the first, or close behind.
func (h *hook) removeLocked(i int) {
	h.bytes -= len(h.queue[i].body)
	copy(h.queue[1:i+1], h.queue[:i])
	h.queue[0] = event{} // the array keeps nothing alive
	h.queue = h.queue[1:]
}

// deliver sends what is queued until there is nothing more.
func (h *hook) deliver() {
	for h.deliverNext() {
	}
}

// deliverNext sends the next body, and reports whether there was one. After a panic, at the cost of that body, it goes
// on.
func (h *hook) deliverNext() (more bool) {
	defer func() {
		if p := recover(); p != nil {
			conn.LogPanic("webhook "+h.Receiver, p)
			h.wait(firstBackoff)
			more = true
		}
	}()
	h.of.mu.Lock()
	waiting := len(h.queue)
	h.of.mu.Unlock()
	if waiting > 0 && waiting < mostInBody {
		h.wait(gatherFor)
	}
	events, key := h.take()
	if events != nil {
		h.send(events, key)
	}
	return events != nil
}

// wait waits, though not for long once shutdown drains.
func (h *hook) wait(d time.Duration) {
	until := h.of.hurry
	if until.Err() != nil {
		d, until = min(d, hurriedWait), h.of.over
	}
	select {
	case <-time.After(d):
	case <-until.Done():
	}
}

// take takes the events of the next body, in their order, and the key that signs it. Without events deliver has ended.
func (h *hook) take() (events []string, key *sign.Key) {
	w, size := h.of, 0
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range h.queue[:min(len(h.queue), mostInBody)] {
		if size += len(e.body); events != nil && (size > mostBody || e.apart != h.queue[0].apart) {
			break
		}
		events = append(events, e.body)
	}
	for range events {
		h.removeLocked(0)
	}
	if events == nil {
		h.queue, h.running = nil, false
		w.delivering--
		w.ended.Broadcast()
	}
	return events, w.key
}

// send delivers one body, however often that has to be tried.
func (h *hook) send(events []string, key *sign.Key) {
	body := fmt.Appendf(nil, `{"time_ms":%d,"events":[%s]}`, time.Now().UnixMilli(), strings.Join(events, ","))
	header := http.Header{
		"Content-Type":       {"application/json"}, // exactly: older Ruby set-ups fail on a charset
		"User-Agent":         {h.of.agent},
		"X-Pusher-Key":       {key.Name},
		"X-Pusher-Signature": {string(key.Sign(nil, body))},
	}
	backoff, began := firstBackoff, time.Now()
	for outcome := failed; outcome == failed; backoff = min(2*backoff, longBackoff) {
		asked := time.Now()
		err := h.post(body, header)
		n := channel.Notice{About: channel.AboutDeliveries, Remote: h.Receiver, Data: body, Reached: len(events),
			Took: time.Since(asked)}
		outcome = h.note(uint64(len(events)), err, time.Since(began)+backoff > retryFor)
		if n.What = outcome; err != nil {
			n.Reason = err.Error()
		}
		if h.of.app.Notify(n); outcome == failed {
			h.wait(backoff/2 + rand.N(backoff/2))
		}
	}
}

// note counts the outcome of a request, and returns its name. It logs without the lock: a log may block.
func (h *hook) note(n uint64, err error, last bool) (outcome string) {
	h.of.mu.Lock()
	before := h.FailingSince
	outcome = "webhook given up"
	switch {
	case err == nil:
		h.Sent += n
		h.FailingSince, outcome = time.Time{}, "webhook delivered"
	case h.of.over.Err() != nil:
		h.Left += n
	case last:
		h.Dropped += n
	default:
		h.Retried++
		outcome = failed
	}
	if err != nil && before.IsZero() {
		h.FailingSince = time.Now()
	}
	dropped := h.Dropped
	h.of.mu.Unlock()
	switch {
	case err == nil && !before.IsZero():
		slog.Info("webhook delivers again", "to", h.Receiver, "after", time.Since(before).Round(time.Second))
	case err != nil && before.IsZero():
		slog.Warn("webhook fails and is tried again", "to", h.Receiver, "error", err)
	}
	if dropped > h.counted && time.Since(h.logged) >= time.Second {
		slog.Error("webhook has dropped events", "to", h.Receiver, "events", dropped-h.counted)
		h.counted, h.logged = dropped, time.Now()
	}
	return outcome
}

// post makes one request. Anything but a 2xx is an error.
func (h *hook) post(body []byte, header http.Header) error {
	r, err := http.NewRequestWithContext(h.of.over, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header = header
	resp, err := h.client.Do(r)
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err // without the URL, which may have a password
	} else if err != nil {
		return err
	}
	defer resp.Body.Close()
	io.CopyN(io.Discard, resp.Body, 4<<10) // enough to use the connection again
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("it answered %s", resp.Status)
	}
	return nil
}
