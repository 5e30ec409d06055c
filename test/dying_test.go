//go:build unix

package test

// Tests of what ends: peers that vanish, processes that are stopped, killed or asked to read their configuration anew.

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"edge/internal/edgetest"
)

// blackhole is a TCP proxy that at some moment stops forwarding, and closes nothing: so a peer looks whose network is
// gone.
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
			far := edgetest.Dial(t, target)
			far.SetDeadline(time.Time{})
			wg.Go(func() { b.forward(near, far, n%3 == 1, false) })
			wg.Go(func() { b.forward(far, near, false, n%3 == 2) })
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

// forward forwards until the blackhole is there, or always. From then on input is lost, or with stuck not even read.
func (b *blackhole) forward(from, to net.Conn, stuck, always bool) {
	for buf := make([]byte, 4096); ; {
		n, err := from.Read(buf)
		gone := b.gone.Load() && !always
		if gone && stuck {
			<-b.over
		}
		if !gone {
			to.Write(buf[:n])
		}
		if err != nil {
			return // the other direction does not learn of it
		}
	}
}

// TestHalfOpen: peers that vanish without a word leave when the time is over, each of them once; others stay.
func TestHalfOpen(t *testing.T) {
	edgetest.NeedsLinux(t)
	const activity, pongs = time.Second, 5 * time.Second
	peers := edgetest.Sized(50, 500)
	p := edgetest.Start(t, "-activity-timeout", activity.String(), "-pong-timeout", pongs.String(),
		"-presence-members", strconv.Itoa(peers+1))
	before := p.Open()
	b := newBlackhole(t, p.Addr)
	c := edgetest.Connect(t, p.Addr)
	c.Subscribe("presence-x", `{"user_id":"watcher"}`)
	w, seen := &watcher{Client: c}, make(chan int, 3*peers) // how many members there are, after each event
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(seen)
		c.AnswerPings(func(frame string) {
			if _, err := w.apply(frame); err != nil {
				t.Errorf("%v: %s", err, frame)
			}
			seen <- len(w.members)
		})
	})
	var told atomic.Int64 // that they are late
	for i := range peers {
		peer := edgetest.Connect(t, b.addr)
		peer.Subscribe("presence-x", fmt.Sprintf(`{"user_id":"%d"}`, i))
		reading.Go(func() {
			if peer.AnswerPings(func(string) {}) == edgetest.ClosePongMissing {
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
	until(1) // apply has seen that nobody left twice
	took := time.Since(began)
	edgetest.WaitUntil(t, "their connections are gone", func() bool { return p.Open() <= before+2 })
	if t.Logf("the last of %d left after %s", peers, took); took > activity+pongs+edgetest.Patience/2 {
		t.Errorf("the last one left after %s", took)
	}
	if len(seen) > 0 {
		t.Errorf("%d events after the last had left", len(seen))
	}
	b.close()
	c.Leave()
	reading.Wait()
	if int(told.Load()) < peers/3 {
		t.Errorf("%d of the %d that could still read were told that they are late", told.Load(), peers/3)
	}
}

// TestSigterm stops a process under load: whatever was acknowledged arrives, then everyone is told to come back.
func TestSigterm(t *testing.T) {
	const atMost, spread, each = 10 * time.Second, 2 * time.Second, time.Millisecond // between two who are told
	conns := edgetest.Sized(500, 5000)
	edgetest.Descriptors(t, conns+1000)
	for run := range edgetest.Sized(2, 20) {
		t.Run(strconv.Itoa(run), func(t *testing.T) {
			p := edgetest.StartPlain(t)
			if run == 0 {
				p = edgetest.Start(t)
			}
			nb := newNumbers(t, p.Addr)
			var reading, publishing sync.WaitGroup
			var closed atomic.Int64 // that were told to go
			for i := range conns {
				limit := time.Duration(edgetest.Sized(1, 4)) * edgetest.Patience
				r := nb.newReader(edgetest.Connect(t, p.Addr), limit, i%channels)
				reading.Go(func() { r.readToReconnect(&closed) })
			}
			publishing.Go(func() { nb.publish(true, func(int) bool { return true }) }) // until it fails
			edgetest.WaitUntil(t, "a thousand events are acknowledged", func() bool { return nb.total() >= 1000 })
			began := time.Now()
			p.Stop()
			took := time.Since(began)
			publishing.Wait()
			reading.Wait()
			if least := min(spread, time.Duration(conns-1)*each); took < least || took > atMost {
				t.Errorf("ended after %s, want %s to %s", took, least, atMost)
			}
			if closed.Load() != int64(conns) {
				t.Errorf("%d of %d were told 4200", closed.Load(), conns)
			}
			t.Logf("%d connections, %d events, %d deliveries; exit after %s", conns, nb.total(), nb.received.Load(), took)
		})
	}
}

// readToReconnect reads up to the close frame 4200. All that was acknowledged must have come before.
func (r *reader) readToReconnect(closed *atomic.Int64) {
	defer r.Leave()
	for {
		opcode, frame, err := r.ReadFrame()
		if err == nil && opcode == edgetest.OpClose && edgetest.CloseCode(frame) == edgetest.CloseReconnect {
			closed.Add(1)
			r.complete() // nothing is acknowledged any more
			return
		}
		if err == nil {
			err = r.step(frame)
		}
		if err != nil {
			r.T.Errorf("%s, after %d numbers: opcode %d, %v: %.300q", r.ID, r.got, opcode, err, frame)
			return
		}
	}
}

// TestKill9 kills the process again and again, and starts it on the same port: everyone comes back by himself.
func TestKill9(t *testing.T) {
	rounds, clients := edgetest.Sized(3, 50), edgetest.Sized(100, 2000)
	edgetest.Descriptors(t, clients+1000)
	addr := edgetest.FreeAddr(t)
	var wg sync.WaitGroup
	joined, told := make(chan string, clients), make(chan string, clients)
	over := make(chan struct{})
	for range clients {
		wg.Go(func() { comeBack(addr, over, joined, told) })
	}
	slowest := time.Duration(0)
	for round := range rounds {
		began := time.Now()
		p := edgetest.Start(t, "-addr", addr)
		collect(t, joined, clients, "")
		edgetest.Publish(t, addr, "room", "round", strconv.Itoa(round))
		collect(t, told, clients, edgetest.Event("round", "room", strconv.Itoa(round)))
		if slowest = max(slowest, time.Since(began)); round == rounds-1 {
			close(over)
		}
		p.Kill()
		http.DefaultClient.CloseIdleConnections()
	}
	wg.Wait()
	t.Logf("%d times: %d clients were back and had an event after %s at most", rounds, clients, slowest)
}

// collect receives n texts, each of which must be this one.
func collect(t *testing.T, from chan string, n int, want string) {
	t.Helper()
	end := time.After(edgetest.Patience)
	for i := range n {
		select {
		case got := <-from:
			if got != want {
				t.Fatalf("got %s, want %s", got, want)
			}
		case <-end:
			t.Fatalf("waited in vain: %d of %d clients have %q", i, n, want)
		}
	}
}

// comeBack is a client that reconnects whenever its connection ends, at once and then after longer and longer times.
func comeBack(addr string, over chan struct{}, joined, told chan string) {
	wait := time.Duration(0)
	for {
		select {
		case <-over:
			return
		case <-time.After(wait):
		}
		wait = min(2*wait+10*time.Millisecond, time.Second)
		c, err := edgetest.TryJoin(addr, "room")
		if err != nil {
			continue
		}
		wait = 0
		joined <- ""
		for err == nil {
			var frame []byte
			if _, frame, err = c.ReadFrame(); err == nil {
				told <- string(frame)
			}
		}
		c.Leave()
	}
}

// TestHangup sends SIGHUP to a process that serves a thousand clients, again and again, while numbered events come:
// nobody is dropped and nothing is lost.
func TestHangup(t *testing.T) {
	const readers, reloads = 1000, 20
	edgetest.Descriptors(t, readers+1000)
	file, pidFile := config(t, `{"event-size": 1000}`), filepath.Join(t.TempDir(), "pid")
	write := func(text string) { os.WriteFile(file, []byte(text), 0o600) }
	p := edgetest.Start(t, "-config", file, "-pid-file", pidFile)
	nb := newNumbers(t, p.Addr)
	var reading, publishing sync.WaitGroup
	for i := range readers {
		reading.Go(nb.newReader(edgetest.Connect(t, p.Addr), 3*edgetest.Patience, i%channels).follow)
	}
	var over atomic.Bool
	publishing.Go(func() {
		if err := nb.publish(true, func(int) bool { return !over.Load() }); err != nil {
			t.Error(err)
		}
	})
	holds := func() int { return strings.Count(p.Output(), "the new configuration holds") }
	refused := func() int { return strings.Count(p.Output(), "the old one stays") }
	for n := range reloads {
		write(fmt.Sprintf(`{"event-size": %d, "more-keys": "k%d:s", "presence-members": %[1]d}`, 1000+n, n))
		if n%5 == 4 {
			write("{")
		}
		before := holds() + refused()
		p.Signal(syscall.SIGHUP)
		edgetest.WaitUntil(t, "it has read the file", func() bool { return holds()+refused() > before })
	}
	over.Store(true)
	publishing.Wait()
	nb.end(t)
	reading.Wait()
	if holds() != reloads*4/5 || refused() != reloads/5 {
		t.Errorf("%d hold, %d were refused:\n%s", holds(), refused(), p.Output())
	}
	p.Stop()
	if _, err := os.Stat(pidFile); !os.IsNotExist(err) {
		t.Errorf("the pid file: %v", err)
	}
	t.Logf("%d deliveries during %d reloads", nb.received.Load(), reloads)
}
