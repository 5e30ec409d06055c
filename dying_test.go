package main

// Tests of what ends: peers that vanish, processes that are stopped or killed, handlers that panic, clocks that jump.

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"edge/internal/sign"
	"edge/internal/wire"
)

// Half-open connections

// blackhole is a TCP proxy that at some moment stops forwarding, and closes nothing: so a peer looks whose network is gone.
type blackhole struct {
	addr  string
	gone  atomic.Bool
	over  chan struct{} // closed by close
	close func()        // ends all connections, and waits; may be called again
}

func newBlackhole(t *testing.T, target string) *blackhole {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &blackhole{addr: l.Addr().String(), over: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far := dial(t, target)
			far.SetDeadline(time.Time{})
			wg.Go(func() { b.forward(near, far, n%3 == 1) })
			wg.Go(func() { b.forwardOr(n%3 == 2, far, near) })
			wg.Go(func() { <-b.over; near.Close(); far.Close() })
		}
	})
	b.close = sync.OnceFunc(func() {
		l.Close()
		close(b.over)
		wg.Wait()
	})
	t.Cleanup(b.close)
	return b
}

// forward forwards until the blackhole is there; from then on what comes is lost, or with stuck not even taken.
func (b *blackhole) forward(from, to net.Conn, stuck bool) {
	for buf := make([]byte, 4096); ; {
		n, err := from.Read(buf)
		if b.gone.Load() {
			if stuck {
				<-b.over
			}
			to = nil
		}
		if to != nil {
			to.Write(buf[:n])
		}
		if err != nil {
			return // the other direction does not learn of it
		}
	}
}

// forwardOr forwards in any case if only the other direction is to be lost.
func (b *blackhole) forwardOr(always bool, from, to net.Conn) {
	if always {
		io.Copy(to, from)
	} else {
		b.forward(from, to, false)
	}
}

// answerPings reads what c gets until its end, answers pings and returns the code of the close frame, 0 without one.
func (c *client) answerPings(each func(frame string)) (code int) {
	for {
		opcode, payload, err := c.readFrame()
		switch {
		case err != nil:
			return code
		case opcode == opPing:
			c.conn.Write(maskedFrame(0x80|opPong, payload))
		case opcode == opClose && len(payload) >= 2:
			code = int(payload[0])<<8 | int(payload[1])
		default:
			each(string(payload))
		}
	}
}

// TestHalfOpen: peers that vanish without a word leave when the time is over, each of them once; others stay.
func TestHalfOpen(t *testing.T) {
	const activity, pongs = time.Second, 5 * time.Second
	peers := sized(50, 500)
	s := startServer(t, "-activity-timeout", activity.String(), "-pong-timeout", pongs.String(), "-presence-members", strconv.Itoa(peers+1))
	b := newBlackhole(t, s.addr)
	c := connect(t, s.addr)
	c.subscribe("presence-x", `{"user_id":"watcher"}`)
	v, seen := &view{self: c.id}, make(chan int, 3*peers) // how many members there are, after each event
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(seen)
		c.answerPings(func(frame string) {
			if err := v.apply(frame); err != nil {
				t.Errorf("%v: %s", err, frame)
			}
			seen <- len(v.members)
		})
	})
	var told atomic.Int64 // that they are late
	for i := range peers {
		peer := connect(t, b.addr)
		peer.subscribe("presence-x", fmt.Sprintf(`{"user_id":"%d"}`, i))
		reading.Go(func() {
			if peer.answerPings(func(string) {}) == wire.CodePongMissing {
				told.Add(1)
			}
		})
	}
	until := func(members int) {
		for n := range seen {
			if n == members {
				return
			}
		}
		t.Fatalf("the watcher was closed before there were %d members", members)
	}
	until(peers + 1)
	b.gone.Store(true)
	began := time.Now()
	until(1) // view.apply has seen that nobody left twice
	took := time.Since(began)
	if waitUntil(t, "their connections are gone", func() bool { return len(s.app.closeless()) == 1 }); took > activity+pongs+patience/2 {
		t.Errorf("the last one left after %s", took)
	}
	t.Logf("the last of %d left after %s", peers, took.Round(time.Millisecond))
	if len(seen) > 0 {
		t.Errorf("%d events after the last had left", len(seen))
	}
	b.close()
	c.leave()
	reading.Wait()
	if int(told.Load()) < peers/3 {
		t.Errorf("%d of the %d that could still read were told that they are late", told.Load(), peers/3)
	}
}

// SIGTERM

// TestSigterm stops a process under load: whatever was acknowledged arrives, then everyone is told to come back.
func TestSigterm(t *testing.T) {
	conns := sized(500, 5000)
	if limit := descriptorLimit(); limit < conns+1000 {
		t.Skipf("%d descriptors are too few for %d connections", limit, conns)
	}
	for run := range sized(2, 20) {
		t.Run(strconv.Itoa(run), func(t *testing.T) { testSigterm(t, conns) })
	}
}

func testSigterm(t *testing.T, conns int) {
	p := startProcess(t, "edge")
	nb, limit := newNumbering(t, p.addr), time.Duration(sized(1, 4))*patience
	var reading, publishing sync.WaitGroup
	closed := make(chan time.Time, conns) // when each was told to go
	for i := range conns {
		r := newReader(nb, connect(t, p.addr))
		r.conn.SetDeadline(time.Now().Add(limit))
		r.join(i % deliveryChannels)
		if r.read(func() bool { return r.over(false) }) {
			reading.Go(func() { r.readToReconnect(closed) })
		}
	}
	began := time.Now()
	for i := range deliveryPublishers {
		publishing.Go(func() { nb.publishUntilGone(i) })
	}
	waitUntil(t, "a thousand events are acknowledged", func() bool { return nb.total() >= 1000 })
	rate := float64(nb.total()) / time.Since(began).Seconds()
	signalled := time.Now()
	p.cmd.Process.Signal(syscall.SIGTERM)
	err := p.cmd.Wait()
	took := time.Since(signalled)
	publishing.Wait()
	reading.Wait()
	if err != nil || took > shutdownTimeout {
		t.Errorf("ended after %s: %v", took, err)
	}
	close(closed)
	var times []time.Time
	for at := range closed {
		times = append(times, at)
	}
	if len(times) != conns {
		t.Fatalf("%d of %d were told 4200", len(times), conns)
	}
	slices.SortFunc(times, time.Time.Compare)
	spread := times[conns-1].Sub(times[0]) // which may be less than it was for edge: readers may be late
	if least := min(closeSpread, time.Duration(conns-1)*closeInterval); took < least {
		t.Errorf("all were told within %s, want %s at least", took, least)
	}
	t.Logf("%d connections, %d events at %.0f/s, %d deliveries; exit after %s, 4200 over %s", conns, nb.total(), rate,
		nb.received.Load(), took.Round(time.Millisecond), spread.Round(time.Millisecond))
}

// readToReconnect reads up to the close frame 4200. All that was acknowledged must have come before.
func (r *reader) readToReconnect(closed chan time.Time) {
	defer r.leave()
	for {
		opcode, frame, err := r.readFrame()
		if err == nil && opcode == opClose && bytes.HasPrefix(frame, []byte{wire.CodeReconnect >> 8, wire.CodeReconnect & 0xff}) {
			closed <- time.Now()
			r.numbers.received.Add(r.got)
			r.complete(&r.numbers.acked) // it cannot grow any more
			return
		}
		if err == nil {
			err = r.step(frame)
		}
		if err != nil {
			r.t.Errorf("%s, after %d numbers: opcode %d, %v: %.300q", r.id, r.got, opcode, err, frame)
			return
		}
	}
}

// publishUntilGone sends 200 events a second until the server takes no more.
func (nb *numbering) publishUntilGone(p int) {
	pace := time.NewTicker(time.Second * wire.MaxBatch / 200)
	defer pace.Stop()
	for k := 0; nb.send(p, k) == nil; k += wire.MaxBatch {
		<-pace.C
	}
}

// total is how many events were acknowledged.
func (nb *numbering) total() (sum int64) {
	for p := range nb.acked {
		for c := range nb.acked[p] {
			sum += nb.acked[p][c].Load()
		}
	}
	return sum
}

// TestShutdownFlushes: what was acknowledged reaches those whom the pump has not come to when the end begins.
func TestShutdownFlushes(t *testing.T) {
	s := startServer(t)
	first := connect(t, s.addr)
	first.join("room")
	id, _ := wire.ParseSocketID(first.id)
	socket := s.app.socket(id)
	readers := make([]*client, 20)
	for i := range readers {
		readers[i] = connect(t, s.addr)
		readers[i].join("room")
	}
	socket.conn.mu.Lock() // as if another channel were writing to it: the pump stops there
	publish(t, s.addr, "room", "e", "x")
	var stopped sync.WaitGroup
	stopped.Go(s.stop)
	time.Sleep(200 * time.Millisecond) // lets it go on, if it does not wait
	socket.conn.mu.Unlock()
	for _, c := range append(readers, first) {
		c.expect(event("e", "room", "x"))
		c.expectClose(wire.CodeReconnect)
	}
	stopped.Wait()
}

// SIGKILL

// TestKill9 kills the process again and again, and starts it on the same port: everyone comes back by himself.
func TestKill9(t *testing.T) {
	rounds, clients := sized(3, 50), sized(100, 2000)
	if limit := descriptorLimit(); limit < clients+1000 {
		t.Skipf("%d descriptors are too few for %d connections", limit, clients)
	}
	addr := steadyAddr(t)
	var wg sync.WaitGroup
	joined, told := make(chan int, clients), make(chan string, clients)
	over := make(chan struct{})
	for range clients {
		wg.Go(func() { comeBack(addr, over, joined, told) })
	}
	slowest := time.Duration(0)
	for round := range rounds {
		began := time.Now()
		p := startProcess(t, "edge", "-addr", addr) // the later one counts
		collect(t, "clients are back", joined, clients, func(int) bool { return true })
		publish(t, addr, "room", "round", strconv.Itoa(round))
		want := event("round", "room", strconv.Itoa(round))
		collect(t, "clients got the event", told, clients, func(frame string) bool { return frame == want })
		slowest = max(slowest, time.Since(began))
		if round == rounds-1 {
			close(over)
		}
		p.cmd.Process.Kill()
		p.cmd.Wait()
		http.DefaultClient.CloseIdleConnections()
	}
	wg.Wait()
	t.Logf("%d times: %d clients were back and had an event after %s at most", rounds, clients, slowest.Round(time.Millisecond))
}

// collect takes n values, each of which must be right.
func collect[T any](t *testing.T, what string, from chan T, n int, right func(T) bool) {
	t.Helper()
	end := time.After(patience)
	for i := range n {
		select {
		case v := <-from:
			if !right(v) {
				t.Fatalf("%s: %v", what, v)
			}
		case <-end:
			t.Fatalf("waited in vain: %d of %d %s", i, n, what)
		}
	}
}

// steadyAddr is an address that nobody else gets while nobody listens there: its port is below those that connections take.
func steadyAddr(t *testing.T) string {
	for port := 20_000 + os.Getpid()%10_000; port < 32_000; port++ {
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Skip("no free port")
	return ""
}

// comeBack is a client that reconnects whenever its connection ends, at once and then after longer and longer times.
func comeBack(addr string, over chan struct{}, joined chan int, told chan string) {
	wait := time.Duration(0)
	for {
		select {
		case <-over:
			return
		case <-time.After(wait):
		}
		wait = min(2*wait+10*time.Millisecond, time.Second)
		c, err := tryJoin(addr)
		if err != nil {
			continue
		}
		wait = 0
		joined <- 1
		for err == nil {
			var frame []byte
			if _, frame, err = c.readFrame(); err == nil {
				told <- string(frame)
			}
		}
		c.leave()
	}
}

// tryJoin connects and subscribes, if there is a server.
func tryJoin(addr string) (*client, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(patience))
	c := &client{conn: conn, in: bufio.NewReader(conn)}
	conn.Write(append([]byte(httpUpgrade), maskedFrame(0x80|opText, []byte(`{"event":"pusher:subscribe","data":{"channel":"room"}}`))...))
	r, err := http.ReadResponse(c.in, nil)
	for i := 0; i < 2 && err == nil; i++ {
		var frame []byte
		if _, frame, err = c.readFrame(); err == nil && i == 1 && string(frame) != succeeded("room") {
			err = fmt.Errorf("not subscribed: %s", frame)
		}
	}
	if err == nil && r.StatusCode != http.StatusSwitchingProtocols {
		err = errors.New(r.Status)
	}
	if err != nil {
		c.leave()
		return nil, err
	}
	return c, nil
}

// Panics

// fuse takes the log, and mends what a test has broken as soon as it has done its harm: so it is broken exactly once.
type fuse struct {
	mu    sync.Mutex // guards the following
	mend  func()
	blown int // panics logged, with the stack of the place
}

func (f *fuse) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if bytes.Contains(p, []byte("panic")) && bytes.Contains(p, []byte("goroutine ")) {
		f.blown++
		if f.mend != nil {
			f.mend()
			f.mend = nil
		}
	}
	return len(p), nil
}

func (f *fuse) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.blown
}

// grenade is a log whose writer panics at a word.
type grenade string

func (g grenade) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(g)) {
		panic("a test wants it")
	}
	return len(p), nil
}

// panics are ways to make what runs for one connection panic: what is broken, and what then happens. code is that of the close
// frame, 0 if the connection is gone already. It holds Socket.mu while it breaks something.
var panics = []struct {
	name    string
	code    int
	damage  func(s *Socket, f *fuse)
	trigger func(c *client, s *Socket)
}{
	{"a message", closeInternal, breakApp, func(c *client, _ *Socket) { c.subscribe("x", "") }},
	{"a tick", closeInternal, breakApp, func(_ *client, s *Socket) { s.timer.Reset(0) }},
	{"a client event", closeInternal, breakList, func(c *client, _ *Socket) {
		c.send(`{"event":"client-x","channel":"private-none","data":"x"}`)
	}},
	{"leaving, after a close frame", 1000, breakList, func(c *client, _ *Socket) { c.raw(maskedFrame(0x80|opClose, []byte{3, 232})) }},
	{"leaving, when closed by another", 4009, breakList, func(_ *client, s *Socket) { s.app.terminate("victim") }},
	{"leaving, when the connection is gone", 0, breakList, func(c *client, _ *Socket) {
		c.conn.(*net.TCPConn).SetLinger(0)
		c.leave()
	}},
	{"after subscribing", closeInternal, func(*Socket, *fuse) {}, func(c *client, _ *Socket) { c.subscribe("explode", "") }},
	{"a refusal", closeInternal, func(*Socket, *fuse) {}, func(c *client, _ *Socket) { c.subscribeAs("private-explode", "x", "") }},
}

// breakApp takes the app away from the connection.
func breakApp(s *Socket, f *fuse) {
	app := s.app
	s.app, f.mend = nil, func() { s.app = app }
}

// breakList puts a subscription that is none between those of the connection.
func breakList(s *Socket, _ *fuse) { s.subscriptions = slices.Insert(s.subscriptions, 1, nil) }

// TestPanic: when something panics that runs for one connection, that one goes, with 1011 if it can still be told, and nothing
// of it stays behind. No other notices.
func TestPanic(t *testing.T) {
	for _, test := range panics {
		t.Run(test.name, func(t *testing.T) {
			f := new(fuse)
			log.SetOutput(f)
			t.Cleanup(func() { log.SetOutput(errorOutput) })
			s := startServer(t)
			s.logTo(grenade("explode"))
			other := connect(t, s.addr)
			other.enter("presence-x", `{"user_id":"other"}`)
			other.enter("room", "")
			sockets, users, watched, channels := s.app.sizes()
			victim, socket := newVictim(t, s)
			other.expect(memberAdded("presence-x", "victim", "{}"))

			socket.mu.Lock()
			test.damage(socket, f)
			socket.mu.Unlock()
			test.trigger(victim, socket)
			other.expect(memberRemoved("presence-x", "victim"))
			if test.code != 0 {
				victim.expectCloseAmong(test.code)
			}
			waitUntil(t, "nothing of the connection is left", func() bool {
				a, b, c, d := s.app.sizes()
				return a == sockets && b == users && c == watched && d == channels
			})
			publish(t, s.addr, "room", "e", "x")
			other.expect(event("e", "room", "x"))
			other.settled()
			if f.count() == 0 {
				t.Error("nothing has panicked")
			}
		})
	}
}

// newVictim is a connection that takes part in everything.
func newVictim(t *testing.T, s *testServer) (*client, *Socket) {
	c := connect(t, s.addr)
	c.signIn(`{"id":"victim","watchlist":["other"]}`)
	c.arrived()
	for _, channel := range []string{"private-x", "room", "presence-x"} {
		c.enter(channel, `{"user_id":"victim"}`)
	}
	id, _ := wire.ParseSocketID(c.id)
	return c, s.app.socket(id)
}

// expectCloseAmong reads up to the close frame, which must have this code, and the end.
func (c *client) expectCloseAmong(code int) {
	c.t.Helper()
	if got := c.answerPings(func(string) {}); got != code {
		c.t.Errorf("closed with %d, want %d", got, code)
	}
	c.leave()
}

// TestPanicWhileConnecting: a connection that was never brought to life ends too.
func TestPanicWhileConnecting(t *testing.T) {
	log.SetOutput(new(fuse))
	t.Cleanup(func() { log.SetOutput(errorOutput) })
	s := startServer(t)
	s.logTo(grenade("connected socket"))
	c := dial(t, s.addr)
	io.WriteString(c, httpUpgrade)
	if got, err := io.ReadAll(c); err != nil {
		t.Errorf("not ended: %q %v", got, err)
	}
	c.Close()
	waitUntil(t, "nothing of the connection is left", s.app.empty)
}

// TestPanicOfAPI: a panic while a request is handled ends that request, and nothing else.
func TestPanicOfAPI(t *testing.T) {
	f := new(fuse)
	log.SetOutput(f)
	t.Cleanup(func() { log.SetOutput(errorOutput) })
	s := startServer(t)
	s.logTo(grenade("explode"))
	c := connect(t, s.addr)
	c.join("room")
	r, err := http.Get("http://" + s.addr + "/apps/1/channels/explode")
	if err == nil {
		r.Body.Close()
		t.Errorf("answered with %s", r.Status)
	}
	publish(t, s.addr, "room", "e", "x")
	c.expect(event("e", "room", "x"))
	c.settled()
	if f.count() == 0 {
		t.Error("nothing has panicked")
	}
}

// brokenPipe is a connection that panics when it is written to.
type brokenPipe struct{ net.Conn }

func (brokenPipe) Write([]byte) (int, error) { panic("a test wants it") }

// harms are ways to make what runs for all connections panic, in each kind of goroutine that edge has. What they break is mended as
// soon as it has panicked. victim is closed, or nobody if there is none to blame. (The goroutines that read are those of TestPanic.)
var harms = []struct {
	name   string
	victim bool
	do     func(t *testing.T, s *testServer, f *fuse, victim *client, socket *Socket)
}{
	{"a round: a subscription that is none", false, func(t *testing.T, s *testServer, _ *fuse, _ *client, _ *Socket) {
		c := s.app.channel("room")
		c.mu.Lock()
		c.subs = slices.Insert(slices.Clone(c.subs), 0, nil)
		c.mu.Unlock()
		publish(t, s.addr, "room", "harm", "")
	}},
	{"a round: delivery to one", true, func(t *testing.T, s *testServer, f *fuse, _ *client, socket *Socket) {
		c := &socket.conn
		c.mu.Lock()
		bounds := c.bounds
		c.bounds, c.backlog, f.mend = nil, new(backlog), func() { c.bounds = bounds }
		c.mu.Unlock()
		publish(t, s.addr, "room", "harm", "")
	}},
	{"a round: the answer to a subscription", false, func(t *testing.T, s *testServer, _ *fuse, _ *client, _ *Socket) {
		c := s.app.channel("room")
		c.mu.Lock()
		c.joining = append(c.joining, join{sub: new(Subscription), done: make(chan struct{})})
		done := c.joining[0].done
		c.startLocked()
		c.mu.Unlock()
		<-done
	}},
	{"the poller", true, func(t *testing.T, _ *testServer, _ *fuse, victim *client, socket *Socket) {
		c := &socket.conn
		if c.wrapped != nil {
			t.Skip("there is none")
		}
		c.mu.Lock()
		c.backlog = &backlog{pieces: make([]piece, 1)}
		c.mu.Unlock()
		victim.send(`{"event":"pusher:ping","data":{}}`) // with the input comes that there is room for output
	}},
	{"the goroutine that sends", true, func(t *testing.T, _ *testServer, _ *fuse, victim *client, socket *Socket) {
		c := &socket.conn
		if c.wrapped == nil {
			t.Skip("there is none")
		}
		c.mu.Lock()
		c.wrapped = brokenPipe{c.wrapped}
		c.mu.Unlock()
		victim.send(`{"event":"pusher:ping","data":{}}`)
	}},
	{"the timer of a queue", true, func(_ *testing.T, _ *testServer, _ *fuse, _ *client, socket *Socket) {
		c := &socket.conn
		c.mu.Lock()
		c.backlog = &backlog{since: time.Now()} // without a timer to reset
		c.mu.Unlock()
		time.AfterFunc(0, c.overdue)
	}},
	{"a timer of the app", false, func(_ *testing.T, s *testServer, _ *fuse, _ *client, _ *Socket) {
		s.app.later(0, func() { s.app.expire(nil) })
	}},
	{"the timer of webhooks", false, func(_ *testing.T, s *testServer, _ *fuse, _ *client, _ *Socket) {
		w := s.app.webhooks()
		w.mu.Lock()
		w.ends = append(w.ends, end{levelKey{"none", ""}, nil, time.Now()})
		w.timeLocked()
		w.mu.Unlock()
	}},
	{"the goroutine of a webhook", false, func(_ *testing.T, s *testServer, f *fuse, _ *client, _ *Socket) {
		w := s.app.webhooks()
		<-w.hooks[0].delivered() // it does not run
		key := w.key
		w.key, f.mend = nil, func() { w.key = key }
		w.tell(hookCacheMiss, "cache-harm", nil)
	}},
	{"the memory budget", false, func(_ *testing.T, s *testServer, _ *fuse, _ *client, _ *Socket) {
		b := s.app.bounds.memory
		b.hold(new(holding), b.total, false)
	}},
	{"new connections", false, func(t *testing.T, s *testServer, _ *fuse, _ *client, _ *Socket) {
		c := new(callers) // without a map
		c.note(nil, http.StateNew)
	}},
	{"the lines that are printed", false, func(t *testing.T, _ *testServer, f *fuse, _ *client, _ *Socket) {
		l := newLines(grenade("explode"), false)
		io.WriteString(l, "explode\n")
		io.WriteString(l, "another\n")
		l.close()
		f.Write([]byte("panic, goroutine ")) // nobody could say it
	}},
}

// TestPanicForAll: when something panics that runs for all connections, everything goes on, but for the one connection that was
// being served, if there was one.
func TestPanicForAll(t *testing.T) {
	for _, harm := range harms {
		t.Run(harm.name, func(t *testing.T) {
			f := new(fuse)
			log.SetOutput(f)
			t.Cleanup(func() { log.SetOutput(errorOutput) })
			told := newReceiver(t)
			hook := httptest.NewServer(told)
			t.Cleanup(hook.Close) // after the server has drained
			s := startServer(t, "-webhook", hook.URL, "-webhook-grace", "0")
			other := connect(t, s.addr)
			other.enter("presence-x", `{"user_id":"other"}`)
			other.enter("room", "")
			victim, socket := newVictim(t, s)
			other.expect(memberAdded("presence-x", "victim", "{}"))
			harm.do(t, s, f, victim, socket)
			if harm.victim {
				other.until(memberRemoved("presence-x", "victim"))
				victim.leave()
			}
			waitUntil(t, "something has panicked", func() bool { return f.count() > 0 })
			publish(t, s.addr, "room", "after", "x")
			other.until(event("after", "room", "x"))
			if !harm.victim {
				victim.until(event("after", "room", "x"))
			}
			late := connect(t, s.addr)
			late.join("room")
			late.join("cache-late")
			late.expect(cacheMiss("cache-late"))
			waitUntil(t, "webhooks tell what happens", func() bool {
				return slices.Contains(told.got(), `{"name":"cache_miss","channel":"cache-late"}`)
			})
			other.settled()
		})
	}
}

// until reads frames up to this one.
func (c *client) until(want string) {
	c.t.Helper()
	for c.text() != want {
	}
}

// TestPanicOfARound: if the round itself panics, all of the channel may have missed something: they go, and the channel is as new.
func TestPanicOfARound(t *testing.T) {
	f := new(fuse)
	log.SetOutput(f)
	t.Cleanup(func() { log.SetOutput(errorOutput) })
	s := startServer(t)
	in, out := connect(t, s.addr), connect(t, s.addr)
	in.join("room")
	out.join("other")
	c := s.app.channel("room")
	c.mu.Lock()
	c.taken = make(chan struct{})
	close(c.taken)
	c.mu.Unlock()
	publish(t, s.addr, "room", "harm", "")
	in.expectCloseAmong(closeInternal)
	waitUntil(t, "the channel has gone", func() bool { return s.app.channel("room") == nil })
	out.join("room")
	publish(t, s.addr, "room", "e", "x")
	out.expect(event("e", "room", "x"))
	if f.count() != 1 {
		t.Errorf("%d panics", f.count())
	}
}

// The clock

// TestClockSteps: the wall clock of the server jumps. Requests signed by the new time pass, others are told how far it is off.
func TestClockSteps(t *testing.T) {
	s := startServer(t)
	c := connect(t, s.addr)
	c.join("room")
	var clock atomic.Int64 // seconds since 1970
	s.clock.now = func() time.Time { return time.Unix(clock.Load(), 0) }
	h := s.offlineHandler()
	start, year := time.Now(), 8766*time.Hour
	last := start
	for i, step := range []time.Duration{0, time.Hour, -time.Hour, 0, 10 * year, -10 * year, 10 * year, 0} {
		now := start.Add(step)
		clock.Store(now.Unix())
		name := fmt.Sprintf("e%d", i)
		if status, answer := publishAt(t, h, now, name); status != 200 {
			t.Errorf("%s: signed at the server's time: %d %s", step, status, answer)
		}
		c.expect(event(name, "room", "x"))
		if now != last {
			status, answer := publishAt(t, h, last, "late")
			if want := "off by " + now.Sub(last).Abs().String(); status != 401 || !strings.Contains(answer, want) ||
				!strings.Contains(answer, "server time ("+now.UTC().Format(time.RFC3339)) {
				t.Errorf("%s: signed at the time before: %d %s, want 401 and %q", step, status, answer, want)
			}
		}
		c.settled()
		last = now
	}
}

// publishAt triggers an event by a request that is signed at this time.
func publishAt(t *testing.T, h http.Handler, at time.Time, name string) (status int, answer string) {
	t.Helper()
	body := fmt.Sprintf(`{"name":%q,"channel":"room","data":"x"}`, name)
	ps, err := sign.ParseParams(nil, fmt.Sprintf("auth_key=key&auth_timestamp=%d&auth_version=1.0&body_md5=%x", at.Unix(), md5.Sum([]byte(body))))
	if err != nil {
		t.Fatal(err)
	}
	signature := testKey.Sign(nil, sign.RequestText(nil, "POST", "/apps/1/events", ps))
	query := fmt.Sprintf("auth_signature=%s", signature)
	for _, p := range ps {
		query += "&" + p.Name + "=" + p.Value
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", "/apps/1/events?"+query, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

// wallClock are the functions that read the wall clock, by the methods of time.Time that do. All else compares times that carry
// the monotonic clock, which no step moves.
var wallClock = map[string]bool{
	"auth.go checkTimestamp": true, // what the caller signed
	"auth.go read":           true, // what is logged
	"feed.go appendNotice":   true, // what is shown
	"metrics.go addProcess":  true, // process_start_time_seconds
	"remote.go call":         true, // auth_timestamp
	"tls.go expiry":          true,
	"webhook.go send":        true, // time_ms
}

// TestWallClock: nothing but what is known to need it looks at the wall clock.
func TestWallClock(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	seen := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && readsWallClock(f) {
				if place := file + " " + f.Name.Name; wallClock[place] {
					seen++
				} else {
					t.Errorf("%s depends on the wall clock", place)
				}
			}
		}
	}
	if seen != len(wallClock) {
		t.Errorf("%d places, want %d", seen, len(wallClock))
	}
}

// readsWallClock reports whether f calls a method that drops the monotonic clock of a time, or makes a time without one.
func readsWallClock(f *ast.FuncDecl) (found bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			switch s.Sel.Name {
			case "Unix", "UnixMilli", "UnixMicro", "UnixNano", "AddDate", "Date", "Clock", "YearDay", "Weekday", "UTC", "Local", "In":
				found = true
			}
		}
		return true
	})
	return found
}
