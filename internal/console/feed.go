package console

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
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
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
	seed maphash.Seed
	more chan struct{} // has something in it when lines wait

	mu      sync.Mutex    // guards the following
	lines   []byte        // that wait
	skipped int           // lines dropped since the last report
	paces   [64]conn.Rate // by a hash of kind and channel, so that a flood on one hides few others
}

// fed are the notices that pages get.
const fed = channel.AboutConnections | channel.AboutSubscriptions | channel.AboutRejections | channel.AboutEvents |
	channel.AboutClientEvents | channel.AboutCalls | channel.AboutDeliveries

// openFeed makes a feed of what happens in the app, until end is called. Requests that name no app of this server are
// fed to the pages of the only app; those of several see of them only unknown keys, ids and paths, because all else may
// be about an app that is not theirs.
func (c *Console) openFeed(a *channel.App) (f *feed, end func()) {
	f = &feed{seed: c.seed, more: make(chan struct{}, 1)}
	ends := [2]func(){a.Observe(fed, f.add), c.options.None.Observe(fed, func(n channel.Notice) {
		switch {
		case c.options.Alone():
			f.add(n)
		case n.About == channel.AboutRejections && slices.Contains(codesForAll, n.Code):
			n.Channel = ""
			n.Event, _, _ = strings.Cut(n.Event, " ") // leaves the method: paths may have channels in them
			f.add(n)
		}
	})}
	return f, func() {
		for _, end := range ends {
			end()
		}
	}
}

var codesForAll = []int{wire.CodeUnknownKey, wire.CodePathNotFound, http.StatusNotFound, http.StatusForbidden}

// add adds a line for a notice. It does not block.
func (f *feed) add(n channel.Notice) {
	place := (maphash.String(f.seed, n.What) + maphash.String(f.seed, n.Channel)) % uint64(len(f.paces))
	most := feedBuffer
	if n.Data != nil || n.About == channel.AboutCalls {
		most /= 2 // what comes in floods leaves room for the rest, which is short and rarer
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.lines) >= most || !f.paces[place].Allow(conn.Now(), feedRate, feedRate) {
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
func appendNotice(dst []byte, n channel.Notice) []byte {
	line := object{"at": time.Now().UnixMilli(), "what": n.What}
	for _, a := range n.Attrs("", feedData) {
		line[a.Key] = a.Value.Any()
	}
	if n.Took != 0 {
		line["us"] = n.Took.Microseconds()
	}
	if n.Data != nil {
		text := []byte(n.Data)
		if v := wire.Value(n.Data); v.Is('"') {
			text = v.Text()
		}
		if len(text) > feedData {
			line["size"] = len(text) // only the beginning is sent
		}
		line["reached"], line["data"] = n.Reached, string(text[:min(len(text), feedData)])
	}
	return appendObject(dst, line)
}

// appendObject appends a line of JSON.
func appendObject(dst []byte, o object) []byte {
	line, _ := json.Marshal(o) // never fails, of numbers and texts
	return append(append(dst, line...), '\n')
}

// serveFeed sends a page its lines until it goes, its session ends or the server does.
func (c *Console) serveFeed(v *visit) error {
	defer c.feeds.Add(-1)
	if c.feeds.Add(1) > mostFeeds {
		text := fmt.Sprintf("Too many pages of the console are open: %d may be", mostFeeds)
		return refusal(http.StatusServiceUnavailable, text)
	}
	f, end := c.openFeed(v.App)
	defer end()
	control := http.NewResponseController(v.w)
	v.w.Header().Set("Content-Type", "application/x-ndjson")
	v.w.Header().Set("X-Accel-Buffering", "no") // nginx would keep the lines
	second := time.NewTicker(time.Second)
	defer second.Stop()
	var lines []byte
	for before := total(v.App); v.valid(); {
		control.SetWriteDeadline(time.Now().Add(feedPatience))
		if _, err := v.w.Write(lines); err != nil || control.Flush() != nil {
			return nil
		}
		select {
		case <-f.more:
			time.Sleep(feedGather)
			lines = f.take()
		case <-second.C:
			now := total(v.App)
			lines = appendSecond(f.take(), before, now)
			before = now
		case <-v.over.Done():
			return nil
		case <-v.Context().Done():
			return nil
		}
	}
	return nil
}

// totals are an app's connections, and its counts of messages received and sent, of events, and of events without
// subscribers.
type totals [5]uint64

// total returns the app's counts at this moment.
func total(a *channel.App) totals {
	n := &a.Counts
	events := n.Published.Load() + n.ClientEvents.Load()
	return totals{uint64(a.Connections()), n.Received.Load(), n.Sent.Load(), events, n.Unheard.Load()}
}

// appendSecond appends a line with the connections now, and what was added to the counts.
func appendSecond(dst []byte, before, now totals) []byte {
	second := now
	for i := 1; i < len(now); i++ {
		second[i] -= before[i]
	}
	return appendObject(dst, object{"what": "second", "second": second})
}
