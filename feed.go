package main

// What pages of the console are sent while they are open: a line of JSON for everything that happens, and one a second with what
// is counted. Nobody waits for a page: what it does not take, and what comes faster than anyone could read, is left out and counted.

import (
	"encoding/json"
	"hash/maphash"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"edge/internal/wire"
)

const (
	mostFeeds    = 8
	feedGather   = 50 * time.Millisecond // between two writes
	feedBuffer   = 128 << 10             // bytes of lines that may wait for a page
	feedData     = 10 << 10              // of an event's data, the rest is cut off
	feedRate     = 150                   // lines a second of one kind and channel, and at once
	feedPatience = 10 * time.Second      // for a page to take what is written
	historyLong  = 600                   // seconds
)

// feed is what one page is sent.
type feed struct {
	// Static after construction.
	app  *App
	apps *atomic.Pointer[apps]
	seed maphash.Seed
	more chan struct{} // there is something in it when lines wait

	mu      sync.Mutex  // guards the following
	lines   []byte      // that wait
	spare   []byte      // memory for the next
	skipped int         // lines left out since that was last said
	paces   [2][32]rate // each for the kinds and channels that hash to it, so that a flood on one does not hide the others
}

// feed gives a notice to the pages that watch the app.
func (w *watch) feed(a *App, n notice) {
	for _, f := range *w.feeds.Load() {
		all := f.apps.Load()
		if a == f.app || a == all.none && len(all.all) == 1 {
			f.add(n)
		} else if a == all.none && n.isForAll() {
			f.add(n.forAll())
		}
	}
}

// isForAll reports whether the pages of several apps are told of a notice that is of none of them: that a key, an id or a path is
// not known here. What else is refused may name an app that is not theirs.
func (n notice) isForAll() bool {
	return n.what == noticeRefused && slices.Contains([]int{wire.CodeUnknownKey, wire.CodePathNotFound, http.StatusNotFound, http.StatusForbidden}, n.code)
}

// forAll is what they are told of it. Channels, which paths have in them too, are nobody's but the app's that was meant.
func (n notice) forAll() notice {
	n.channel = ""
	n.event, _, _ = strings.Cut(n.event, " ") // leaves the method
	return n
}

// add adds a line for a notice. It does not block.
func (f *feed) add(n notice) {
	place := (maphash.String(f.seed, n.what) + maphash.String(f.seed, n.channel)) % uint64(len(f.paces[0]))
	now, most, paces := time.Now(), feedBuffer, &f.paces[0]
	if n.data != nil || n.what == noticeCall {
		most, paces = feedBuffer/2, &f.paces[1] // what comes in floods leaves room for the rest, which is short and rarer
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.lines) >= most || !paces[place].allow(monotonic(), feedRate, feedRate) {
		f.skipped++
		return
	}
	f.lines = append(appendNotice(f.lines, n, now), '\n')
	f.wake()
}

// push adds a line that is never left out for its pace.
func (f *feed) push(line []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.lines) < feedBuffer {
		f.lines = append(append(f.lines, line...), '\n')
	}
	f.wake()
}

// wake has the lines sent soon.
func (f *feed) wake() {
	select {
	case f.more <- struct{}{}:
	default: // it will be seen anyway
	}
}

// take returns the lines that wait, which are good until it is called again.
func (f *feed) take() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.skipped > 0 {
		f.lines = append(strconv.AppendInt(append(f.lines, `{"what":"skipped","count":`...), int64(f.skipped), 10), "}\n"...)
		f.skipped = 0
	}
	lines := f.lines
	f.lines, f.spare = f.spare[:0], lines
	return lines
}

// appendField appends a member to an object that has others, unless it is empty.
func appendField(dst []byte, name, text string) []byte {
	if text == "" {
		return dst
	}
	return wire.AppendString(append(append(append(dst, `,"`...), name...), `":`...), text)
}

// appendNumber appends a member to an object that has others.
func appendNumber(dst []byte, name string, n int) []byte {
	return strconv.AppendInt(append(append(append(dst, `,"`...), name...), `":`...), int64(n), 10)
}

// appendNotice appends a notice as an object. What is in it came from outside: it is for a page that takes it for nothing but text.
func appendNotice(dst []byte, n notice, at time.Time) []byte {
	dst = strconv.AppendInt(append(dst, `{"at":`...), at.UnixMilli(), 10)
	dst = appendField(dst, "what", n.what)
	if n.socket != (wire.SocketID{}) {
		dst = append(n.socket.Append(append(dst, `,"socket":"`...)), '"')
	}
	dst = appendField(dst, "from", n.remote)
	dst = appendField(dst, "channel", n.channel)
	dst = appendField(dst, "event", n.event)
	dst = appendField(dst, "user", n.user)
	if n.code != 0 {
		dst = appendNumber(dst, "code", n.code)
	}
	if n.reason != "" {
		dst = appendField(dst, "reason", string(hideSignatures([]byte(n.reason))))
	}
	if n.took != 0 {
		dst = appendNumber(dst, "us", int(n.took.Microseconds()))
	}
	return append(appendPayload(dst, n), '}')
}

// appendPayload appends the data of a notice, and how many it reached. Of what is too long the beginning is sent, and how long it is.
func appendPayload(dst []byte, n notice) []byte {
	if n.data == nil {
		return dst
	}
	data := n.data
	if text := ""; len(data) > 0 && data[0] == '"' && json.Unmarshal(data, &text) == nil { // an event's
		data = []byte(text)
	}
	dst = appendNumber(dst, "reached", n.reached)
	if len(data) > feedData {
		dst = appendNumber(dst, "size", len(data))
		data = data[:feedData]
	}
	return wire.AppendString(append(dst, `,"data":`...), data)
}

// serveFeed sends a page its lines until it goes, its session ends or the server does.
func (c *console) serveFeed(v *visit) error {
	f := c.openFeed(v.app)
	if f == nil {
		return &wire.Error{Status: http.StatusServiceUnavailable, Text: "Too many pages of the console are open: " + strconv.Itoa(mostFeeds) + " may be"}
	}
	defer c.closeFeed(f)
	control := http.NewResponseController(v.w)
	v.w.Header().Set("Content-Type", "application/x-ndjson")
	v.w.Header().Set("X-Accel-Buffering", "no") // nginx would keep the lines
	for c.holds(v.session) {
		control.SetWriteDeadline(time.Now().Add(feedPatience))
		if _, err := v.w.Write(f.take()); err != nil || control.Flush() != nil {
			return nil
		}
		select {
		case <-f.more: // at least once a second
			time.Sleep(feedGather)
		case <-v.Context().Done():
			return nil
		case <-v.session.ended:
			return nil
		case <-c.over:
			return nil
		}
	}
	return nil
}

// openFeed makes a feed whose first line has the history of the app; nil if there are too many.
func (c *console) openFeed(a *App) *feed {
	now := a.total()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || len(c.feeds) >= mostFeeds {
		return nil
	}
	h := c.history[a]
	if h == nil {
		h = &history{before: now}
		c.history[a] = h
	}
	f := &feed{app: a, apps: &c.server.apps, seed: c.seed, more: make(chan struct{}, 1), lines: append(h.append(nil), '\n')}
	c.setFeedsLocked(append(slices.Clone(c.feeds), f))
	if c.ticking == nil {
		c.ticking = time.AfterFunc(time.Second, c.tick)
	}
	return f
}

func (c *console) closeFeed(f *feed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watched = monotonic()
	c.setFeedsLocked(slices.DeleteFunc(slices.Clone(c.feeds), func(other *feed) bool { return other == f }))
}

// setFeedsLocked makes the feeds those of the list, which nobody changes any more. The caller holds mu.
func (c *console) setFeedsLocked(feeds []*feed) {
	c.feeds = feeds
	w := c.server.watch
	w.feeds.Store(&feeds)
	if len(feeds) > 0 {
		w.on.Or(watchConsole)
	} else {
		w.on.And(^uint32(watchConsole))
	}
}

// history is what an app did in the last seconds. It is kept for a while after the last page has gone.
type history struct {
	seconds []totals // what each added, but for the connections; the oldest first
	before  totals   // at the last of them
}

// totals are what is shown of an app's counts.
type totals struct{ connections, received, sent, events, unheard uint64 }

// total returns the app's counts at this moment.
func (a *App) total() totals {
	n := &a.counts
	return totals{uint64(a.connections()), n.received.Load(), n.sent.Load(), n.published.Load() + n.clientEvents.Load(), n.unheard.Load()}
}

// add adds a second.
func (h *history) add(now totals) totals {
	was := h.before
	h.before = now
	s := totals{now.connections, now.received - was.received, now.sent - was.sent, now.events - was.events, now.unheard - was.unheard}
	if len(h.seconds) >= historyLong {
		h.seconds = slices.Delete(h.seconds, 0, len(h.seconds)-historyLong+1)
	}
	h.seconds = append(h.seconds, s)
	return s
}

// append appends what a second was like, as an array.
func (s totals) append(dst []byte) []byte {
	for i, n := range []uint64{s.connections, s.received, s.sent, s.events, s.unheard} {
		dst = strconv.AppendUint(append(dst, "[,"[min(i, 1)]), n, 10)
	}
	return append(dst, ']')
}

// append appends a line with everything.
func (h *history) append(dst []byte) []byte {
	dst = append(dst, `{"what":"history","seconds":[`...)
	for _, s := range h.seconds {
		dst = s.append(wire.AppendComma(dst))
	}
	return append(dst, "]}"...)
}

// tick is called every second while there are feeds, and for as long after as histories are.
func (c *console) tick() {
	defer recovered("console")
	c.mu.Lock()
	now := make(map[*App]totals)
	for a := range c.history {
		now[a] = totals{}
	}
	c.mu.Unlock()
	for a := range now {
		now[a] = a.total()
	}
	c.tellSecond(now)
}

// tellSecond tells the feeds what the last second was like, of those apps that are counted.
func (c *console) tellSecond(now map[*App]totals) {
	feeds, lines := c.count(now)
	for _, f := range feeds {
		if line := lines[f.app]; line != nil { // else it has been opened just now
			f.push(line)
		}
	}
}

// count adds a second to the histories, and returns the feeds and what each is told of it. It sets the next tick, unless nobody has
// watched for so long that what was shown is over.
func (c *console) count(now map[*App]totals) (feeds []*feed, lines map[*App][]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended:
		return nil, nil
	case len(c.feeds) == 0 && time.Duration(monotonic()-c.watched) > historyLong*time.Second:
		c.ticking = nil
		clear(c.history)
		return nil, nil
	}
	c.ticking.Reset(time.Second)
	lines = make(map[*App][]byte)
	for a, total := range now {
		lines[a] = append(c.history[a].add(total).append([]byte(`{"what":"second","second":`)), '}')
	}
	return c.feeds, lines
}
