//go:build unix

package test

// Numbered events: whoever reads them knows what is missing, comes twice or in the wrong order.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edge/internal/edgetest"
)

const (
	publishers  = 10
	channels    = 50
	subscribers = 200
	channelsOf  = 5  // a subscriber
	batch       = 10 // events of a request, as many as may be
)

// numbers are who has sent which: 0, 1, 2… for every publisher and channel.
type numbers struct {
	addr         string
	http         http.Client
	begun, acked [publishers][channels]atomic.Int64 // numbers below were sent, and acknowledged
	received     atomic.Int64                       // by all readers
}

func newNumbers(t *testing.T, addr string) *numbers {
	transport := &http.Transport{MaxIdleConnsPerHost: publishers}
	t.Cleanup(transport.CloseIdleConnections)
	return &numbers{addr: addr, http: http.Client{Transport: transport, Timeout: edgetest.Patience}}
}

// numbered is the channel and number of a publisher's k-th event. Two in a row go to one channel, so that the order
// within a request matters too.
func numbered(k int) (channel, n int) {
	return k / 2 % channels, k/(2*channels)*2 + k%2
}

// ChannelName is the name of a channel with numbers.
func channelName(c int) string { return "numbers-" + strconv.Itoa(c) }

// send publishes events k…k+9 of publisher p in one request, and returns when that is acknowledged.
func (nb *numbers) send(p, k int) error {
	body := []byte(`{"batch":[`)
	for i := k; i < k+batch; i++ {
		c, n := numbered(i)
		body = fmt.Appendf(body, `{"name":"n","channel":"%s","data":"%d %d"},`, channelName(c), p, n)
		nb.begun[p][c].Store(int64(n + 1))
	}
	err := post(&nb.http, nb.addr, "/apps/1/batch_events", string(body[:len(body)-1])+"]}")
	for i := k; i < k+batch && err == nil; i++ {
		c, n := numbered(i)
		nb.acked[p][c].Store(int64(n + 1))
	}
	return err
}

// post makes a signed API call, which must succeed.
func post(h *http.Client, addr, path, body string) error {
	r, err := h.Post(edgetest.URL(addr, "POST", path, "", body), "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if answer, err := io.ReadAll(r.Body); err != nil || r.StatusCode != http.StatusOK {
		return fmt.Errorf("POST %s: %s %s %v", path, r.Status, answer, err)
	}
	return nil
}

// publish has every publisher send events at the same time, as fast as it goes, or 200 a second with pace, while more,
// which is asked with the number of the next. It returns the first error of each.
func (nb *numbers) publish(pace bool, more func(k int) bool) error {
	var wg sync.WaitGroup
	var failed [publishers]error
	for p := range publishers {
		wg.Go(func() {
			each := time.NewTicker(time.Second * batch / 200)
			defer each.Stop()
			for k := 0; more(k) && failed[p] == nil; k += batch {
				if failed[p] = nb.send(p, k); pace {
					<-each.C
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(failed[:]...)
}

// total is how many events were acknowledged.
func (nb *numbers) total() (sum int64) {
	for p := range nb.acked {
		for c := range nb.acked[p] {
			sum += nb.acked[p][c].Load()
		}
	}
	return sum
}

// end lets the readers of every channel know that nothing follows.
func (nb *numbers) end(t *testing.T) {
	for c := range channels {
		edgetest.Publish(t, nb.addr, channelName(c), "end", "")
	}
}

// ledger is what a reader has of one channel since it joined.
type ledger struct {
	low, high [publishers]int64 // the first number must be one of low…high: what was acknowledged before joining must
	next      [publishers]int64 // not come, what was sent afterwards must; -1 before the first
	again     bool              // it had been a subscriber before, of whom something may still come
	joined    bool
	ended     bool
}

// reader is a client that checks every number it gets.
type reader struct {
	*edgetest.Client
	numbers *numbers
	ledgers map[int]*ledger // by channel
	got     int64
}

// newReader makes a reader that has so much time, and joins the channels.
func (nb *numbers) newReader(c *edgetest.Client, limit time.Duration, channels ...int) *reader {
	c.T.Helper()
	r := &reader{Client: c, numbers: nb, ledgers: make(map[int]*ledger)}
	c.Conn.SetDeadline(time.Now().Add(limit))
	r.join(channels...)
	return r
}

// join subscribes to channels with numbers, anew if it is subscribed, and reads until it is.
func (r *reader) join(channels ...int) bool {
	for _, c := range channels {
		l := &ledger{again: r.ledgers[c] != nil}
		if l.again {
			r.Unsubscribe(channelName(c))
		}
		for p := range l.next {
			l.low[p], l.next[p] = r.numbers.acked[p][c].Load(), -1
		}
		r.ledgers[c] = l
		r.Subscribe(channelName(c), "")
	}
	return r.read(func() bool { return r.over(false) })
}

var (
	numberPrefix    = []byte(`{"event":"n","channel":"numbers-`)
	endPrefix       = []byte(`{"event":"end","channel":"numbers-`)
	succeededPrefix = []byte(`{"event":"pusher_internal:subscription_succeeded","channel":"numbers-`)
)

// step takes one frame into account. (It does not parse JSON, as there are millions.)
func (r *reader) step(frame []byte) error {
	if rest, ok := bytes.CutPrefix(frame, numberPrefix); ok {
		channel, data, _ := bytes.Cut(rest, []byte(`","data":"`))
		p, n, _ := bytes.Cut(bytes.TrimSuffix(data, []byte(`"}`)), []byte(" "))
		return r.number(atoi(channel), atoi(p), int64(atoi(n)))
	}
	rest, ended := bytes.CutPrefix(frame, endPrefix)
	rest, answer := bytes.CutPrefix(rest, succeededPrefix)
	channel, _, _ := bytes.Cut(rest, []byte(`"`))
	c := atoi(channel)
	l := r.ledgers[c]
	switch {
	case l == nil || !ended && !answer || answer && l.joined:
		return errors.New("an unexpected frame")
	case answer: // from now on nothing may be missing
		l.joined = true
		for p := range l.high {
			l.high[p] = r.numbers.begun[p][c].Load()
		}
	case ended:
		l.ended = true
	}
	return nil
}

// atoi is strconv.Atoi, -1 for what is no number.
func atoi(b []byte) int {
	n, err := strconv.Atoi(string(b))
	if err != nil {
		return -1
	}
	return n
}

// number checks one number.
func (r *reader) number(c, p int, n int64) error {
	l := r.ledgers[c]
	switch {
	case l != nil && l.again && !l.joined:
		return nil
	case l == nil || !l.joined || l.ended || p < 0 || p >= publishers:
		return errors.New("a number out of place")
	case l.next[p] < 0 && (n < l.low[p] || n > l.high[p]):
		return fmt.Errorf("the first number is %d, want one of %d…%d", n, l.low[p], l.high[p])
	case l.next[p] >= 0 && n != l.next[p]:
		return fmt.Errorf("number %d, want %d", n, l.next[p])
	}
	l.next[p] = n + 1
	r.got++
	return nil
}

// read reads frames until done, and reports whether all were right.
func (r *reader) read(done func() bool) bool {
	for !done() {
		opcode, frame, err := r.ReadFrame()
		if err == nil && opcode != edgetest.OpText {
			err = fmt.Errorf("opcode %d", opcode)
		}
		if err == nil {
			err = r.step(frame)
		}
		if err != nil {
			r.T.Errorf("a healthy reader (%s, after %d numbers): %v: %.300q", r.ID, r.got, err, frame)
			return false
		}
	}
	return true
}

// over reports whether the reader has joined all its channels and, if ended, has seen their ends.
func (r *reader) over(ended bool) bool {
	for _, l := range r.ledgers {
		if !l.joined || ended && !l.ended {
			return false
		}
	}
	return true
}

// follow reads to the ends of all channels and checks that nothing is missing.
func (r *reader) follow() {
	if r.read(func() bool { return r.over(true) }) {
		r.complete()
	}
	r.Leave()
}

// complete checks that no acknowledged number is missing at the end.
func (r *reader) complete() {
	r.numbers.received.Add(r.got)
	for c, l := range r.ledgers {
		for p, next := range l.next {
			if next < 0 {
				next = l.high[p]
			}
			if want := r.numbers.acked[p][c].Load(); next < want {
				r.T.Errorf("%s lacks numbers %d…%d of publisher %d on channel %d", r.ID, next, want-1, p, c)
			}
		}
	}
}
