//go:build unix

package test

// Tests of what ends: peers that vanish, processes that are stopped, killed or asked to read their configuration anew.

import (
	"fmt"
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

// TestHalfOpen: peers that are not heard of any more leave when the time is over, each of them once, and are told if
// they can still read; others stay.
func TestHalfOpen(t *testing.T) {
	edgetest.NeedsLinux(t)
	const activity, pongs = time.Second, 5 * time.Second
	peers := edgetest.Sized(50, 500)
	p := edgetest.Start(t, "-activity-timeout", activity.String(), "-pong-timeout", pongs.String(),
		"-presence-members", strconv.Itoa(peers+1))
	before := p.Open()
	w := &watcher{Client: edgetest.Connect(t, p.Addr)}
	w.Subscribe("presence-x", `{"user_id":"watcher"}`)
	if _, err := w.apply(w.Text()); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(w.watch)
	began := time.Now()
	for i := range peers {
		peer := edgetest.Connect(t, p.Addr)
		peer.Subscribe("presence-x", fmt.Sprintf(`{"user_id":"%d"}`, i))
		if i%2 == 0 {
			reading.Go(func() {
				code := 0
				for err := error(nil); err == nil; {
					var opcode byte
					var frame []byte
					if opcode, frame, err = peer.ReadFrame(); opcode == edgetest.OpClose {
						code = edgetest.CloseCode(frame)
					}
				}
				if code != edgetest.ClosePongMissing {
					t.Errorf("closed with %d", code)
				}
			})
		}
	}
	edgetest.WaitUntil(t, "they have gone", func() bool { return p.Open() <= before+2 }) // it, and the API's connection
	if took := time.Since(began); took < activity+pongs || took > activity+pongs+edgetest.Patience/2 {
		t.Errorf("they have gone after %s", took)
	}
	edgetest.Publish(t, p.Addr, "presence-x", "final", "")
	reading.Wait()
	if w.added != peers || w.removed != peers { // watch has seen that nobody left twice
		t.Errorf("%d came, %d left", w.added, w.removed)
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

// TestKill9 kills the process again and again, and starts it on the same port: everyone comes back by himself, all at
// once.
func TestKill9(t *testing.T) {
	rounds, clients := edgetest.Sized(3, 50), edgetest.Sized(100, 2000)
	edgetest.Descriptors(t, clients+1000)
	addr, slowest := edgetest.FreeAddr(t), time.Duration(0)
	for round := range rounds {
		began := time.Now()
		want := edgetest.Event("round", "room", strconv.Itoa(round))
		var joining, reading, leaving sync.WaitGroup
		joining.Add(clients)
		reading.Add(clients)
		for range clients {
			leaving.Go(func() {
				c, err := edgetest.TryJoin(addr, "room")
				for wait := time.Millisecond; err != nil; wait = min(2*wait, time.Second) {
					time.Sleep(wait)
					c, err = edgetest.TryJoin(addr, "room")
				}
				defer c.Leave()
				joining.Done()
				if _, frame, err := c.ReadFrame(); err != nil || string(frame) != want {
					t.Errorf("got %q, %v, want %s", frame, err, want)
				}
				reading.Done()
				if _, frame, err := c.ReadFrame(); err == nil {
					t.Errorf("got %q", frame)
				}
			})
		}
		p := edgetest.Start(t, "-addr", addr)
		joining.Wait()
		edgetest.Publish(t, addr, "room", "round", strconv.Itoa(round))
		reading.Wait()
		slowest = max(slowest, time.Since(began))
		p.Kill()
		leaving.Wait()
		http.DefaultClient.CloseIdleConnections()
	}
	t.Logf("%d times: %d clients were back and had an event after %s at most", rounds, clients, slowest)
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
