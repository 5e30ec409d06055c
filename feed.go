package main

// What open pages of the console are sent: a line of JSON for everything that happens, and one a second with counts.
// Nobody waits for a page: lines that it does not read, and lines that come faster than anyone could read, are
// dropped and counted.

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"net/http"
	"slices"
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
	feedPatience = 10 * time.Second      // for a page to read what is written
)

// feed holds the lines for one page.
type feed struct {
	// Static after construction.
	app  *App
	apps *atomic.Pointer[apps]
	seed maphash.Seed
	more chan struct{} // has something in it when lines wait

	mu      sync.Mutex // guards the following
	lines   []byte     // that wait
	skipped int        // lines dropped since the last report
	paces   [64]rate   // by a hash of kind and channel, so that a flood on one hides few others
}

// feed gives a notice to the pages of the app. One that names no app of this server goes to the pages of the only
// app; those of several see of it only unknown keys, ids and paths, because all else may be about an app that is not
// theirs.
func (w *watch) feed(a *App, n notice) {
	for _, f := range *w.feeds.Load() {
		all := f.apps.Load()
		if a == f.app || a == all.none && len(all.all) == 1 {
			f.add(n)
		} else if a == all.none && n.what == noticeRefused && slices.Contains(codesForAll, n.code) {
			general := n
			general.channel = ""
			general.event, _, _ = strings.Cut(n.event, " ") // leaves the method: paths may have channels in them
			f.add(general)
		}
	}
}

var codesForAll = []int{wire.CodeUnknownKey, wire.CodePathNotFound, http.StatusNotFound, http.StatusForbidden}

// add adds a line for a notice. It does not block.
func (f *feed) add(n notice) {
	place := (maphash.String(f.seed, n.what) + maphash.String(f.seed, n.channel)) % uint64(len(f.paces))
	most := feedBuffer
	if n.data != nil || n.what == noticeCall {
		most /= 2 // what comes in floods leaves room for the rest, which is short and rarer
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.lines) >= most || !f.paces[place].allow(monotonic(), feedRate, feedRate) {
		f.skipped++
		return
	}
	f.lines = appendNotice(f.lines, n)
	select {
	case f.more <- struct{}{}:
	default: // it will be seen anyway
	}
}

// take returns the lines that wait.
func (f *feed) take() (lines []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	lines = f.lines
	if f.skipped > 0 {
		lines = fmt.Appendf(lines, `{"what":"skipped","count":%d}`+"\n", f.skipped)
	}
	f.lines, f.skipped = nil, 0
	return lines
}

// appendNotice appends a line. What is in it came from outside: the page makes nothing but text of it.
func appendNotice(dst []byte, n notice) []byte {
	line := object{"at": time.Now().UnixMilli(), "what": n.what}
	for _, a := range n.attrs("", feedData) {
		line[a.Key] = a.Value.Any()
	}
	if n.took != 0 {
		line["us"] = n.took.Microseconds()
	}
	if n.data != nil {
		text := []byte(n.data)
		if v := wire.Value(n.data); v.Is('"') {
			text = v.Text()
		}
		if len(text) > feedData {
			line["size"] = len(text) // only the beginning is sent
		}
		line["reached"], line["data"] = n.reached, string(text[:min(len(text), feedData)])
	}
	return appendObject(dst, line)
}

// appendObject appends a line of JSON.
func appendObject(dst []byte, o object) []byte {
	line, _ := json.Marshal(o) // never fails, of numbers and texts
	return append(append(dst, line...), '\n')
}

// serveFeed sends a page its lines until it goes, its session ends or the server does.
func (c *console) serveFeed(v *visit) error {
	f, w := c.newFeed(v.app), c.server.watch
	if !w.setFeed(f, true) {
		text := fmt.Sprintf("Too many pages of the console are open: %d may be", mostFeeds)
		return &wire.Error{Status: http.StatusServiceUnavailable, Text: text}
	}
	defer w.setFeed(f, false)
	control := http.NewResponseController(v.w)
	v.w.Header().Set("Content-Type", "application/x-ndjson")
	v.w.Header().Set("X-Accel-Buffering", "no") // nginx would keep the lines
	second := time.NewTicker(time.Second)
	defer second.Stop()
	var lines []byte
	for before := v.app.total(); v.session.valid(); {
		control.SetWriteDeadline(time.Now().Add(feedPatience))
		if _, err := v.w.Write(lines); err != nil || control.Flush() != nil {
			return nil
		}
		select {
		case <-f.more:
			time.Sleep(feedGather)
			lines = f.take()
		case <-second.C:
			now := v.app.total()
			lines = appendSecond(f.take(), before, now)
			before = now
		case <-v.session.over.Done():
			return nil
		case <-v.Context().Done():
			return nil
		}
	}
	return nil
}

func (c *console) newFeed(a *App) *feed {
	return &feed{app: a, apps: &c.server.apps, seed: c.seed, more: make(chan struct{}, 1)}
}

// setFeed has a feed be among those that are fed, or no more; false if there are too many.
func (w *watch) setFeed(f *feed, open bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	feeds := slices.DeleteFunc(slices.Clone(*w.feeds.Load()), func(other *feed) bool { return other == f })
	if open {
		feeds = append(feeds, f)
	}
	if len(feeds) > mostFeeds {
		return false
	}
	w.feeds.Store(&feeds)
	w.set(watchConsole, len(feeds) > 0)
	return true
}

// totals are an app's connections, and its counts of messages received and sent, of events, and of events without
// subscribers.
type totals [5]uint64

// total returns the app's counts at this moment.
func (a *App) total() totals {
	n := &a.counts
	events := n.published.Load() + n.clientEvents.Load()
	return totals{uint64(a.connections()), n.received.Load(), n.sent.Load(), events, n.unheard.Load()}
}

// appendSecond appends a line with the connections now, and what was added to the counts.
func appendSecond(dst []byte, before, now totals) []byte {
	second := now
	for i := 1; i < len(now); i++ {
		second[i] -= before[i]
	}
	return appendObject(dst, object{"what": "second", "second": second})
}
