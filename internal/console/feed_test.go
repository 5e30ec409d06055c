package console

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/wire"
)

// TestFeedBounds: a page that does not read costs a bounded amount of memory, and is told how much it has missed; and
// a flood on one channel does not hide what happens on another.
func TestFeedBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(conn.ProcessStart) + 1) // as above
		c, a := testConsole(t, Options{})
		request := signIn(t, c, "GET", "/console/feed")
		var page sync.WaitGroup
		page.Go(func() { c.answer(c.serveFeed)(stuck{httptest.NewRecorder(), c.over.Done()}, request) })
		defer page.Wait()
		defer c.End()
		synctest.Wait()
		a.Notify(eventOn("", quote(strings.Repeat("x", feedData))))
		time.Sleep(time.Second) // now it is being written
		began := time.Now()
		f, end := c.openFeed(a)
		defer end()
		data := quote(strings.Repeat("\x01", 20_000)) // the longest there is when it is written
		const n = 5000
		for i := range n {
			a.Notify(eventOn("room-"+strconv.Itoa(i), data))
		}
		if most := feedBuffer + 7*feedData; len(f.lines) > most {
			t.Errorf("%d bytes wait, at most %d may", len(f.lines), most)
		}
		a.Notify(channel.Notice{About: channel.AboutRejections, What: channel.NoticeRejected, Reason: "yet told"})
		text := string(f.take())
		got := strings.Count(text, `"what":"event"`)
		if !strings.Contains(text, "yet told") {
			t.Error("large events leave no room for a refusal")
		}
		skipped := fmt.Sprintf("\n{\"what\":\"skipped\",\"count\":%d}\n", n-got)
		if !strings.HasSuffix(text, skipped) || got == 0 || !strings.Contains(text, `"size":20000`) {
			t.Errorf("%d lines, and at the end %s", got, text[max(0, len(text)-100):])
		}
		f.mu.Lock()
		clear(f.paces[:])
		f.mu.Unlock()
		for range n {
			a.Notify(eventOn("flood", quote("x")))
		}
		for i := range len(f.paces) {
			a.Notify(eventOn("room-"+strconv.Itoa(i), quote("rare")))
		}
		text = string(f.take())
		if got := strings.Count(text, `"flood"`); got < feedRate || got > 3*feedRate {
			t.Errorf("%d lines of a flood", got)
		}
		if hidden := len(f.paces) - strings.Count(text, "rare"); hidden > len(f.paces)/4 {
			t.Errorf("events on %d other channels of %d are hidden", hidden, len(f.paces))
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("a page that does not read holds up others for %s", took)
		}
		if f.take(); len(f.take()) != 0 {
			t.Error("something is said twice")
		}
	})
}

// TestFeedsAreFew: there are so many pages, and room for another when one is closed.
func TestFeedsAreFew(t *testing.T) {
	c, _ := testConsole(t, Options{})
	request := signIn(t, c, "GET", "/console/feed")
	var pages sync.WaitGroup
	defer pages.Wait()
	var last context.CancelFunc
	for range mostFeeds {
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		last = leave
		pages.Go(func() { serve(c, request.WithContext(ctx)) })
	}
	edgetest.WaitUntil(t, "all are open", func() bool { return c.feeds.Load() == mostFeeds })
	if w := serve(c, request); w.Code != 503 || !strings.Contains(w.Body.String(), "Too many pages") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	last()
	edgetest.WaitUntil(t, "there is room", func() bool { return c.feeds.Load() < mostFeeds })
	gone, leave := context.WithCancel(t.Context())
	leave()
	if w := serve(c, request.WithContext(gone)); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestAllocations: with nobody watching, before or any more, an event costs no allocation, one into the void
// neither.
func TestAllocations(t *testing.T) {
	if edgetest.Race {
		t.Skip("the race detector empties pools")
	}
	c, a := testConsole(t, Options{})
	e := channel.Event{Name: []byte("hello"), Data: quote("data"), Keep: true}
	once := func() { a.Trigger("room", wire.KindPublic, e) }
	if n := testing.AllocsPerRun(1000, once); n != 0 {
		t.Errorf("%v allocations before anybody watches", n)
	}
	f, end := c.openFeed(a)
	once()
	if !strings.Contains(string(f.take()), `"event":"hello"`) {
		t.Error("the feed does not show it")
	}
	end()
	if n := testing.AllocsPerRun(1000, once); n != 0 {
		t.Errorf("%v allocations when nobody watches any more", n)
	}
}
