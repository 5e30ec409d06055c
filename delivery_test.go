package main

// Tests of the one promise that all others serve: numbered messages arrive once, in order and without a gap, whatever else
// goes on. EDGE_FULL=1 runs them at the size of a release (ten million deliveries), else at one that a commit can wait for.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edge/internal/wire"
)

const (
	deliveryPublishers  = 10
	deliveryChannels    = 50
	deliverySubscribers = 200
	deliveryEach        = 5 // channels of a subscriber
)

// full reports whether tests are to run at the size of a release.
func full() bool { return os.Getenv("EDGE_FULL") == "1" }

// sized is how often something is done: fast, or at the size of a release.
func sized(fast, release int) int {
	if full() {
		return release
	}
	return fast
}

// numbering is who has sent which numbers: 0, 1, 2… for every publisher and channel, so that a reader knows what is missing.
type numbering struct {
	addr         string
	http         http.Client
	begun, acked [deliveryPublishers][deliveryChannels]atomic.Int64 // numbers below were sent, and acknowledged
	received     atomic.Int64                                       // by all readers
}

func newNumbering(t *testing.T, addr string) *numbering {
	transport := &http.Transport{MaxIdleConnsPerHost: deliveryPublishers}
	t.Cleanup(transport.CloseIdleConnections)
	return &numbering{addr: addr, http: http.Client{Transport: transport, Timeout: patience}}
}

// numbered is the channel and number of a publisher's k-th event. Two in a row go to one channel, so that the order within a
// request matters too.
func numbered(k int) (channel, n int) {
	return k / 2 % deliveryChannels, k/(2*deliveryChannels)*2 + k%2
}

// channelName is the name of a channel with numbers.
func channelName(c int) string { return "numbers-" + strconv.Itoa(c) }

// send publishes events k…k+9 of publisher p in one request, and returns when that is acknowledged.
func (nb *numbering) send(p, k int) error {
	body := []byte(`{"batch":[`)
	for i := k; i < k+wire.MaxBatch; i++ {
		c, n := numbered(i)
		body = fmt.Appendf(body, `{"name":"n","channel":"%s","data":"%d %d"},`, channelName(c), p, n)
		nb.begun[p][c].Store(int64(n + 1))
	}
	body = append(body[:len(body)-1], "]}"...)
	if err := nb.post("/apps/1/batch_events", string(body)); err != nil {
		return err
	}
	for i := k; i < k+wire.MaxBatch; i++ {
		c, n := numbered(i)
		nb.acked[p][c].Store(int64(n + 1))
	}
	return nil
}

// post makes a signed API call, which must succeed.
func (nb *numbering) post(path, body string) error {
	r, err := nb.http.Post(signedURL(nb.addr, "POST", path, "", body), "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if answer, err := io.ReadAll(r.Body); err != nil || r.StatusCode != 200 {
		return fmt.Errorf("POST %s: %s %s %v", path, r.Status, answer, err)
	}
	return nil
}

// publish has every publisher send so many events to every channel, all at the same time.
func (nb *numbering) publish(t *testing.T, events int) {
	var wg sync.WaitGroup
	for p := range deliveryPublishers {
		wg.Go(func() {
			for k := 0; k < events*deliveryChannels; k += wire.MaxBatch {
				if err := nb.send(p, k); err != nil {
					t.Errorf("publisher %d: %v", p, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// end tells the readers of every channel that nothing follows.
func (nb *numbering) end(t *testing.T) {
	for c := range deliveryChannels {
		publish(t, nb.addr, channelName(c), "end", "")
	}
}

// ledger is what a reader has of one channel since it joined.
type ledger struct {
	low, high [deliveryPublishers]int64 // the first number must be one of low…high: what was acknowledged before joining
	next      [deliveryPublishers]int64 // must not come, what was sent afterwards must; -1 before the first
	again     bool                      // it had been a subscriber before, of whom something may still come
	joined    bool
	ended     bool
}

// reader is a client that checks every number it gets.
type reader struct {
	*client
	numbers *numbering
	ledgers map[int]*ledger // by channel
	got     int64
}

func newReader(nb *numbering, c *client) *reader {
	return &reader{client: c, numbers: nb, ledgers: make(map[int]*ledger)}
}

// join subscribes to a channel with numbers, anew if it is subscribed. The answer is for step to read.
func (r *reader) join(c int) {
	r.t.Helper()
	l := &ledger{again: r.ledgers[c] != nil}
	if l.again {
		r.unsubscribe(channelName(c))
	}
	for p := range l.next {
		l.low[p], l.next[p] = r.numbers.acked[p][c].Load(), -1
	}
	r.ledgers[c] = l
	r.subscribe(channelName(c), "")
}

var (
	numberPrefix    = []byte(`{"event":"n","channel":"numbers-`)
	endPrefix       = []byte(`{"event":"end","channel":"numbers-`)
	succeededPrefix = []byte(`{"event":"pusher_internal:subscription_succeeded","channel":"numbers-`)
)

// step takes one frame into account. (It does not parse JSON, as there are millions; that they are well-formed others test.)
func (r *reader) step(frame []byte) error {
	if rest, ok := bytes.CutPrefix(frame, numberPrefix); ok {
		channel, data, _ := bytes.Cut(rest, []byte(`","data":"`))
		p, n, _ := bytes.Cut(bytes.TrimSuffix(data, []byte(`"}`)), []byte(" "))
		return r.number(atoi(channel), atoi(p), int64(atoi(n)))
	}
	rest, ended := bytes.CutPrefix(frame, endPrefix)
	rest, answer := bytes.CutPrefix(rest, succeededPrefix)
	channel, _, _ := bytes.Cut(rest, []byte(`"`))
	l := r.ledgers[atoi(channel)]
	switch {
	case l == nil || !ended && !answer:
		return errors.New("an unexpected frame")
	case answer:
		return r.joined(atoi(channel), l)
	}
	l.ended = true
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

// joined notes from when on nothing may be missing.
func (r *reader) joined(c int, l *ledger) error {
	if l.joined {
		return errors.New("joined twice")
	}
	l.joined = true
	for p := range l.high {
		l.high[p] = r.numbers.begun[p][c].Load()
	}
	return nil
}

// number checks one number.
func (r *reader) number(c, p int, n int64) error {
	l := r.ledgers[c]
	switch {
	case l != nil && l.again && !l.joined:
		return nil
	case l == nil || !l.joined || l.ended || p < 0 || p >= deliveryPublishers:
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
		opcode, frame, err := r.readFrame()
		if err == nil && opcode != opText {
			err = fmt.Errorf("opcode %d", opcode)
		}
		if err == nil {
			err = r.step(frame)
		}
		if err != nil {
			r.t.Errorf("a healthy reader (%s, after %d numbers): %v: %.300s", r.id, r.got, err, frame)
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

// complete checks that no number below to is missing at the end.
func (r *reader) complete(to *[deliveryPublishers][deliveryChannels]atomic.Int64) {
	for c, l := range r.ledgers {
		for p, next := range l.next {
			if next < 0 {
				next = l.high[p]
			}
			if want := to[p][c].Load(); next < want {
				r.t.Errorf("%s lacks numbers %d…%d of publisher %d on channel %d", r.id, next, want-1, p, c)
			}
		}
	}
}

// audience connects the readers of a test: each has its own channels, one in ten comes only when the publishers are at it.
func (nb *numbering) audience(t *testing.T, limit time.Duration, done *sync.WaitGroup) (late func()) {
	var joined sync.WaitGroup
	var laggards []*reader
	for i := range deliverySubscribers {
		r := newReader(nb, connect(t, nb.addr))
		r.conn.SetDeadline(time.Now().Add(limit))
		if i%10 == 9 {
			laggards = append(laggards, r)
			continue
		}
		r.enroll(i)
		r.read(func() bool { return r.over(false) })
		done.Go(r.follow)
	}
	return func() {
		for i, r := range laggards {
			joined.Add(1)
			done.Go(func() {
				for range 25 { // again and again, at any moment; below the server's limit
					r.enroll(10*i + 9)
					r.read(func() bool { return r.over(false) })
				}
				joined.Done()
				r.follow()
			})
		}
		joined.Wait()
	}
}

// enroll joins the channels of reader i.
func (r *reader) enroll(i int) {
	for j := range deliveryEach {
		r.join((i + 11*j) % deliveryChannels)
	}
}

// follow reads to the ends of all channels and checks that nothing is missing.
func (r *reader) follow() {
	if r.read(func() bool { return r.over(true) }) {
		r.complete(&r.numbers.acked)
	}
	r.numbers.received.Add(r.got)
	r.leave()
}

// deliver runs the test itself: so many numbers for every publisher and channel, while something else goes on until its
// context is done.
func deliver(t *testing.T, addr string, events int, meanwhile func(ctx context.Context)) {
	nb, began := newNumbering(t, addr), time.Now()
	limit := time.Duration(sized(3, 30)) * patience
	var reading, disturbing sync.WaitGroup
	late := nb.audience(t, limit, &reading)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	disturbing.Go(func() { meanwhile(ctx) })
	var publishing sync.WaitGroup
	publishing.Go(func() { nb.publish(t, events) })
	waitUntil(t, "a quarter is sent", func() bool { return t.Failed() || nb.acked[0][0].Load() >= int64(events/4) })
	late()
	publishing.Wait()
	nb.end(t)
	reading.Wait()
	took := time.Since(began)
	cancel()
	disturbing.Wait()
	t.Logf("%d deliveries in %s", nb.received.Load(), took.Round(time.Millisecond))
}

// share is the bytes that a reader gets in all, at most: with so much of a queue it is not cut off however busy the machine
// is, while a reader of all channels that never reads is.
func share(events int) string { return strconv.Itoa(events * deliveryPublishers * deliveryEach * 60) }

func TestDelivery(t *testing.T) {
	// Deliveries of one number of everyone. A few fewer arrive, as some readers come late.
	const perEvent = deliveryPublishers * deliverySubscribers * deliveryEach
	t.Run("quiet", func(t *testing.T) {
		events := sized(500_000, 10_400_000) / perEvent
		p := startProcess(t, "edge", "-send-buffer", share(events))
		deliver(t, p.addr, events, func(context.Context) {})
	})
	t.Run("under attack", func(t *testing.T) {
		events := sized(200_000, 10_400_000) / perEvent
		p := startProcess(t, "edge", "-send-buffer", share(events))
		a := &attackers{t: t, addr: p.addr}
		stuck := a.stuckReaders()
		deliver(t, p.addr, events, a.attack)
		for _, c := range stuck {
			expectCut(t, c, events)
		}
	})
	t.Run("churn", func(t *testing.T) {
		events := sized(200_000, 10_400_000) / perEvent
		p := startProcess(t, "edge", "-send-buffer", share(events))
		testChurnOfMembers(t, p.addr, func(churn func(ctx context.Context)) { deliver(t, p.addr, events, churn) })
	})
}

// Attacks

// attackers keep attacking with one connection after the other, each of which the server has to end.
type attackers struct {
	t     *testing.T
	addr  string
	ended [6]atomic.Int64 // by attack
}

// attacks are what one connection sends. A WebSocket connection gets it right after the handshake. code is that of the close
// frame it must get, 0 for one that is only slowed down, or that HTTP ends.
var attacks = [...]struct {
	name  string
	plain bool // no WebSocket
	code  int
	bytes func() []byte
}{
	{"headers without end", true, 0, func() []byte {
		return append([]byte("GET / HTTP/1.1\r\nHost: x\r\n"), bytes.Repeat([]byte("X-Header: x\r\n"), 10_000)...)
	}},
	{"fragments", false, closePolicy, func() []byte {
		return append(maskedFrame(opText, []byte("{")), bytes.Repeat(maskedFrame(opContinuation, nil), 1000)...)
	}},
	{"pings", false, closePolicy, func() []byte { return bytes.Repeat(maskedFrame(0x80|opPing, []byte("ping")), 1000) }},
	{"hostile JSON", false, wire.CodeOverCapacity, func() []byte {
		deep := maskedFrame(0x80|opText, bytes.Repeat([]byte("["), 30_000))
		wide := maskedFrame(0x80|opText, []byte(`{"event":"x","data":[`+strings.Repeat("0,", 15_000)+`0]}`))
		return bytes.Repeat(slices.Concat(deep, wide, maskedFrame(0x80|opText, []byte(`{"event":`))), 10)
	}},
	{"a frame too large", false, closeTooBig, func() []byte { return []byte{0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4} }},
	{"subscriptions", false, 0, func() []byte {
		join := maskedFrame(0x80|opText, []byte(`{"event":"pusher:subscribe","data":{"channel":"numbers-1"}}`))
		leave := maskedFrame(0x80|opText, []byte(`{"event":"pusher:unsubscribe","data":{"channel":"numbers-1"}}`))
		return bytes.Repeat(append(join, leave...), 10_000)
	}},
}

// attack runs all attacks until ctx is done, then checks that every kind has been ended by the server.
func (a *attackers) attack(ctx context.Context) {
	var wg sync.WaitGroup
	for kind, attack := range attacks {
		sent := attack.bytes()
		wg.Go(func() {
			for again := true; again; again = ctx.Err() == nil {
				a.once(ctx, kind, sent)
				time.Sleep(5 * time.Millisecond) // it is to disturb, not to use up the machine's ports
			}
		})
	}
	wg.Wait()
	for kind, attack := range attacks {
		a.t.Logf("%s: %d connections ended", attack.name, a.ended[kind].Load())
	}
}

// once attacks with one connection and waits for its end.
func (a *attackers) once(ctx context.Context, kind int, sent []byte) {
	attack := attacks[kind]
	conn, err := net.Dial("tcp", a.addr)
	if err != nil {
		a.t.Errorf("%s: %v", attack.name, err)
		return
	}
	conn.(*net.TCPConn).SetLinger(0)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if attack.name == "subscriptions" { // which is only slowed down
		conn.SetDeadline(time.Time{})
		defer context.AfterFunc(ctx, func() { conn.Close() })()
	}
	if !attack.plain {
		io.WriteString(conn, httpUpgrade)
	}
	go conn.Write(sent) // ends with the connection
	got, err := io.ReadAll(io.LimitReader(conn, 64<<20))
	a.ended[kind].Add(1)
	if isTimeout(err) {
		a.t.Errorf("%s: the connection was not ended", attack.name)
	}
	if attack.code != 0 && !bytes.Contains(got, []byte{0x80 | opClose}) {
		a.t.Errorf("%s: ended without a close frame: %.200q", attack.name, got)
	}
	if attack.code != 0 && !bytes.Contains(got, []byte{byte(attack.code >> 8), byte(attack.code)}) {
		a.t.Errorf("%s: ended without code %d: %.200q", attack.name, attack.code, got)
	}
}

// stuckReaders join every channel and never read again.
func (a *attackers) stuckReaders() (stuck []*client) {
	for range 4 {
		c := connect(a.t, a.addr)
		c.conn.SetDeadline(time.Time{})
		c.conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		for i := range deliveryChannels {
			c.join(channelName(i))
		}
		stuck = append(stuck, c)
	}
	return stuck
}

// expectCut reads what a stuck reader was sent before it was cut off, which is not everything.
func expectCut(t *testing.T, c *client, events int) {
	c.conn.SetDeadline(time.Now().Add(patience))
	n := 0
	for ; ; n++ {
		if _, _, err := c.readFrame(); isTimeout(err) {
			t.Fatalf("a reader that never reads was not cut off, after %d frames", n)
		} else if err != nil {
			break
		}
	}
	if all := events * deliveryPublishers * deliveryChannels; n >= all {
		t.Errorf("a reader that never reads got all of %d frames", n)
	}
}

// Presence

const churnUsers, churners, churnRooms = 20, 30, 8

// watcher keeps the list of members of a presence channel.
type watcher struct {
	*client
	view           *view
	added, removed int
}

// watch reads until the final event; what it sees must be exact (view.apply).
func (w *watcher) watch() {
	for w.view.final = false; !w.view.final; {
		opcode, frame, err := w.readFrame()
		switch {
		case err != nil:
		case opcode == opPing:
			_, err = w.conn.Write(maskedFrame(0x80|opPong, frame))
		case opcode == opText:
			err = w.view.apply(string(frame))
		}
		if err != nil {
			w.t.Errorf("watcher: %v: %s", err, frame)
			return
		}
		switch {
		case bytes.Contains(frame, []byte(wire.EventMemberAdded)):
			w.added++
		case bytes.Contains(frame, []byte(wire.EventMemberRemoved)):
			w.removed++
		}
	}
}

func churnRoom(i int) string { return fmt.Sprintf("presence-%d", i) }

// users asks the API who is in a room.
func users(t *testing.T, addr string, room int) (ids []string) {
	t.Helper()
	_, answer := apiCall(t, addr, "GET", "/apps/1/channels/"+churnRoom(room)+"/users", "", "")
	var a struct{ Users []struct{ ID string } }
	if err := json.Unmarshal([]byte(answer), &a); err != nil {
		t.Fatalf("%v: %s", err, answer)
	}
	for _, u := range a.Users {
		ids = append(ids, u.ID)
	}
	slices.Sort(ids)
	return ids
}

// testChurnOfMembers has members come and go in every way while deliver runs. Those who watch must see exactly what the API
// says, and in the end nobody.
func testChurnOfMembers(t *testing.T, addr string, deliver func(churn func(ctx context.Context))) {
	watchers, seed := make([]*watcher, churnRooms), rand.Uint64()
	t.Logf("seed %d", seed)
	var watching sync.WaitGroup
	watch := func() {
		for _, w := range watchers {
			w.conn.SetDeadline(time.Now().Add(*soakTime + 10*time.Minute)) // longer than all else may take
			watching.Go(w.watch)
		}
	}
	for room := range watchers {
		c := connect(t, addr)
		c.subscribe(churnRoom(room), `{"user_id":"watcher"}`)
		watchers[room] = &watcher{client: c, view: &view{self: c.id}}
	}
	watch()
	stayed := &stayers{rooms: make([]map[string]bool, churnRooms)}
	deliver(func(ctx context.Context) { churnAll(ctx, t, addr, seed, stayed) })
	compare := func() {
		t.Helper()
		for room, w := range watchers {
			stayed.expect(t, addr, room)
			publish(t, addr, churnRoom(room), "final", "{}")
			defer func() {
				w.compare(t, users(t, addr, room))
			}()
		}
		watching.Wait()
	}
	compare()
	watch()
	stayed.leave()
	compare()
	events := 0
	for room, w := range watchers {
		events += w.added + w.removed
		if w.added != w.removed || len(w.view.members) != 1 {
			t.Errorf("%s: %d added, %d removed, left are %v", churnRoom(room), w.added, w.removed, w.view.members)
		}
		w.leave()
	}
	t.Logf("%d times a member came or went", events)
	expectNobody(t, addr)
}

// expectNobody waits until there is no channel left.
func expectNobody(t *testing.T, addr string) {
	t.Helper()
	waitUntil(t, "there is no channel", func() bool {
		_, answer := apiCall(t, addr, "GET", "/apps/1/channels", "", "")
		return answer == `{"channels":{}}`
	})
}

// compare checks the watcher's list against the API's.
func (w *watcher) compare(t *testing.T, want []string) {
	t.Helper()
	var got []string
	for id := range w.view.members {
		got = append(got, id)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("the watcher sees %v, the API %v", got, want)
	}
}

// stayers are the members that have not left when the churn is over.
type stayers struct {
	mu      sync.Mutex // guards the following
	clients []*client
	rooms   []map[string]bool // users by room
}

func (s *stayers) add(c *client, room int, user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rooms[room] == nil {
		s.rooms[room] = make(map[string]bool)
	}
	s.rooms[room][user] = true
	s.clients = append(s.clients, c)
}

func (s *stayers) leave() {
	for i, c := range s.clients {
		leaveSomehow(c, i)
	}
	clear(s.rooms)
}

// expect waits until the members of the room are those who stayed, and the watcher: the last who left may be on their way.
func (s *stayers) expect(t *testing.T, addr string, room int) {
	t.Helper()
	want := []string{"watcher"}
	for id := range s.rooms[room] {
		want = append(want, id)
	}
	slices.Sort(want)
	waitUntil(t, fmt.Sprintf("%s has the members %v", churnRoom(room), want), func() bool {
		return slices.Equal(users(t, addr, room), want)
	})
}

// churnAll lets connections come and go until ctx is done, a few times at least; each leaves its last one.
func churnAll(ctx context.Context, t *testing.T, addr string, seed uint64, stayed *stayers) {
	var wg sync.WaitGroup
	for i := range churners {
		wg.Go(func() {
			random, user := rand.New(rand.NewPCG(seed, uint64(i))), strconv.Itoa(i%churnUsers)
			for n := 0; n < 10 || ctx.Err() == nil; n++ {
				c := connect(t, addr)
				for room, again := random.IntN(churnRooms), random.IntN(3); again > 0; again-- {
					c.subscribe(churnRoom(room), `{"user_id":"`+user+`"}`)
					c.unsubscribe(churnRoom(room))
				}
				c.subscribe(churnRoom(random.IntN(churnRooms)), `{"user_id":"`+user+`"}`)
				if random.IntN(2) == 0 {
					c.arrived()
				}
				leaveSomehow(c, random.IntN(leaveWays))
			}
			c, room := connect(t, addr), random.IntN(churnRooms)
			c.subscribe(churnRoom(room), `{"user_id":"`+user+`"}`)
			c.arrived()
			stayed.add(c, room, user)
		})
	}
	wg.Wait()
}

const leaveWays = 4

// leaveSomehow ends a connection in one of the ways clients do.
func leaveSomehow(c *client, way int) {
	switch way % leaveWays {
	case 0: // as it should be
		c.conn.Write(maskedFrame(0x80|opClose, []byte{3, 232}))
		io.Copy(io.Discard, c.in)
	case 1: // a crash
		c.conn.(*net.TCPConn).SetLinger(0)
	case 2: // in the middle of a frame
		frame := maskedFrame(0x80|opText, []byte(`{"event":"pusher:ping","data":{}}`))
		c.conn.Write(frame[:len(frame)/2])
	}
	c.conn.Close() // and nothing else: the page is gone
}
