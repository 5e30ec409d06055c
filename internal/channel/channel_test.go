package channel

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/wire"
)

var roomLimits = Limits{CacheTTL: 30 * time.Minute, MaxConnections: 10_000, SendBuffer: 1 << 20, PresenceMembers: 100}

func roomApp() *App { return NewApp(conn.NewBudget(1<<40), roomLimits) }

// seat is a Socket without a client above it: its test subscribes it.
type seat struct {
	Socket
	client *edgetest.Client // at the other end
	subs   []*Subscription  // that end with the connection
}

func (s *seat) Message([]byte) {}

func (s *seat) Ended() {
	for _, sub := range s.subs {
		s.App.Unsubscribe(sub)
	}
	s.App.Leave(&s.Socket)
}

func (s *seat) join(name string, k wire.Kind) *Subscription {
	sub, err := s.App.Subscribe(&s.Socket, name, k, nil, nil)
	if err != nil {
		s.client.T.Fatal(err)
	}
	return sub
}

// theater is a server of seats.
type theater struct {
	t     testing.TB
	addr  string
	seats chan *seat
}

func newTheater(t testing.TB, a *App) *theater {
	p, err := conn.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	th := &theater{t: t, seats: make(chan *seat, 1)}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := &seat{Socket: Socket{App: a}}
		first, _, ok := s.Conn.Upgrade(w, r, conn.UpgradeOptions{Poller: p, Deflate: true}, &a.Conns, s)
		if ok {
			a.Enter(&s.Socket, func(err error) { s.Conn.Write(first) })
			s.Conn.Start(nil)
			th.seats <- s
		}
	}))
	th.addr = srv.Listener.Addr().String()
	t.Cleanup(func() {
		sockets, ended := a.CloseSockets()
		for _, s := range sockets {
			s.Conn.Abort()
		}
		<-ended
		srv.Close()
		p.Close()
	})
	return th
}

// seat connects another client.
func (th *theater) seat(deflate bool) *seat {
	request := edgetest.Upgrade
	if deflate {
		request = strings.Replace(request, "Host: edge\n", "Host: edge\nSec-WebSocket-Extensions: permessage-deflate\n", 1)
	}
	c, _ := edgetest.Request(th.t, edgetest.Dial(th.t, th.addr), request)
	s := <-th.seats
	s.client = c
	return s
}

func (a *App) trigger2(name, event string) {
	a.Trigger(name, wire.KindPublic, Event{Name: []byte(event), Data: []byte(`"x"`)})
}

func (a *App) empty() bool {
	return a.Connections()+a.CountChannels()+len(a.users)+len(a.watchers) == 0
}

func (c *Channel) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pumping
}

func TestSocketIDs(t *testing.T) {
	const each, goroutines = 5000, 4
	a := roomApp()
	a.SetLimits(Limits{MaxConnections: each*goroutines - 1})
	var adding sync.WaitGroup
	rejected := make(chan error, goroutines*each)
	for range goroutines {
		adding.Go(func() {
			for range each {
				a.Enter(new(Socket), func(err error) {
					if err != nil {
						rejected <- err
					}
				})
			}
		})
	}
	adding.Wait()
	if len(a.sockets) != each*goroutines-1 || len(rejected) != 1 || <-rejected != conn.ErrQuota {
		t.Errorf("%d sockets in the table, want one less than %d", len(a.sockets), each*goroutines)
	}
	for id, s := range a.sockets {
		if s.ID != id || a.Socket(id) != s {
			t.Fatalf("%s stands in the table as %s", s.ID, id)
		}
	}
}

// A cached event lives for its time from the last publish on, and an empty channel as long as its cached event.
func TestCacheLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := roomApp()
		trigger := func(data string) {
			a.Trigger("cache-x", wire.KindCache, Event{Name: []byte("e"), Data: []byte(data), Keep: true})
		}
		expect := func(data string) {
			t.Helper()
			synctest.Wait()
			if got := a.ChannelInfo("cache-x").Cached; got == nil || string(got.Data) != data {
				t.Fatalf("cached is %v, want %s", got, data)
			}
		}
		trigger(`"first"`)
		time.Sleep(20 * time.Minute)
		expect(`"first"`)
		trigger(`"second"`)
		expect(`"second"`)
		time.Sleep(30*time.Minute - 1)
		expect(`"second"`)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if !a.empty() {
			t.Fatal("the channel outlives its cached event")
		}
		trigger(`"third"`)
		time.Sleep(30*time.Minute - 1)
		a.Trigger("cache-x", wire.KindCache, Event{Name: []byte("client-e"), Data: []byte(`"of a client"`)})
		expect(`"third"`)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if !a.empty() {
			t.Fatal("the channel outlives its cached event")
		}
	})
}

// tape is the far end of a Socket that has no network: it keeps what is written.
type tape struct {
	net.Conn
	mu      sync.Mutex // guards written
	written bytes.Buffer
}

func (r *tape) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.written.Write(p)
}

func (r *tape) SetWriteDeadline(time.Time) error { return nil }
func (r *tape) RemoteAddr() net.Addr             { return nil }

// take returns what was written since, without the headers of frames.
func (r *tape) take() (messages []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for b := bytes.Clone(r.written.Bytes()); len(b) > 0; {
		var payload []byte
		_, payload, b = conn.NextServerFrame(b)
		messages = append(messages, string(payload))
	}
	r.written.Reset()
	return messages
}

func recorded(a *App) (*Socket, *tape) {
	s, r := &seat{Socket: Socket{App: a}}, new(tape)
	s.Conn.Init(r, nil, &a.Conns, s)
	return &s.Socket, r
}

// Up to a hundred subscriptions every change is sent at once, beyond that one in five seconds, but always the last.
func TestSubscriptionCountThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, c := roomApp(), newChannel("x", wire.KindPublic)
		limits := &Limits{SubscriptionCount: true}
		later := func(ch change) { // as App.note does
			if ch.countIn > 0 {
				time.AfterFunc(ch.countIn, func() { c.sendCount() })
			}
		}
		var subs []*Subscription
		subscribe := func() {
			s, _ := recorded(a)
			var ch change
			sub, err := c.subscribe(s, nil, limits, nil, &ch)
			if err != nil {
				t.Fatal(err)
			}
			subs = append(subs, sub)
			later(ch)
		}
		unsubscribe := func() {
			later(c.unsubscribe(subs[len(subs)-1], limits))
			subs = subs[:len(subs)-1]
		}
		s, watcher := recorded(a)
		c.subscribe(s, nil, limits, nil, new(change))
		expect := func(counts ...int) {
			t.Helper()
			synctest.Wait()
			var want []string
			for _, n := range counts {
				want = append(want, edgetest.SubscriptionCount("x", n))
			}
			if got := watcher.take(); !slices.Equal(got, want) {
				t.Fatalf("got %q, want %q", got, want)
			}
		}
		synctest.Wait()
		if got := watcher.take(); !slices.Equal(got, []string{edgetest.Succeeded("x"), edgetest.SubscriptionCount("x", 1)}) {
			t.Fatal(got)
		}
		for n := 2; n <= 100; n++ {
			subscribe()
			expect(n)
		}
		for range 50 {
			subscribe()
		}
		expect() // the 100 was just now
		time.Sleep(5*time.Second - 1)
		expect()
		time.Sleep(time.Nanosecond)
		expect(150)
		time.Sleep(time.Hour)
		expect() // nothing changed
		subscribe()
		expect(151)
		unsubscribe()
		subscribe()
		subscribe()
		time.Sleep(5 * time.Second)
		expect(152)
		for range 51 {
			unsubscribe()
		}
		expect() // 101
		unsubscribe()
		expect(100) // at once again
		unsubscribe()
		expect(99)
	})
}

// needsExactAllocations skips a test where something else allocates: the race detector, or the goroutines that write
// where there is no poller.
func needsExactAllocations(t *testing.T) {
	t.Helper()
	if edgetest.Race || runtime.GOOS != "linux" {
		t.Skip("something else allocates")
	}
}

// TestPublishAllocations: an event on its way to its subscribers allocates nothing.
func TestPublishAllocations(t *testing.T) {
	needsExactAllocations(t)
	defer func(n int) { Processors = n }(Processors)
	Processors = 1 // on a large channel there are goroutines, a few for thousands of deliveries
	for _, subscribers := range []int{1, 100} {
		a := roomApp()
		th := newTheater(t, a)
		for range subscribers {
			s := th.seat(false)
			s.join("room", wire.KindPublic)
			go io.Copy(io.Discard, s.client.In) // ends with the connection
		}
		ch := a.Channel("room")
		e := Event{Name: []byte("hello"), Data: []byte(`"some data"`)}
		if n := testing.AllocsPerRun(200, func() {
			a.Trigger("room", wire.KindPublic, e)
			for ch.busy() {
				runtime.Gosched()
			}
		}); n > 0 {
			t.Errorf("%d subscribers: %v allocations for an event, want none", subscribers, n)
		}
	}
}

// stopPump stops the pumps of the app where they are about to send an event of this name, until the function that it
// returns is called: observers run in them. reached is closed when the first has come so far.
func (a *App) stopPumpAt(name string) (reached <-chan struct{}, goOn func()) {
	gate, there := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(there) })
	end := a.Observe(AboutFrames, func(n Notice) {
		if bytes.HasPrefix(n.Data, []byte(`{"event":"`+name+`"`)) {
			once()
			<-gate
		}
	})
	return there, func() {
		end()
		close(gate)
	}
}

// TestLeaveWaitsForThePump: when the last subscription has ended, nothing of the channel is on its way any more, so
// that it cannot come after the answer to the connection's next subscription.
func TestLeaveWaitsForThePump(t *testing.T) {
	a := roomApp()
	s := newTheater(t, a).seat(false)
	sub := s.join("room", wire.KindPublic)
	reached, goOn := a.stopPumpAt("e")
	a.trigger2("room", "e")
	<-reached
	var written atomic.Bool
	time.AfterFunc(20*time.Millisecond, func() {
		written.Store(true)
		goOn()
	})
	if a.Unsubscribe(sub); !written.Load() {
		t.Error("the pump is still writing")
	}
	edgetest.WaitUntil(t, "the pump has ended", func() bool { return !sub.Channel.busy() })
}

// TestJoinInTheMiddle: who subscribes while the pump is under way gets the answer, then what was published since, and
// nothing from before, although all of it is in one batch.
func TestJoinInTheMiddle(t *testing.T) {
	a := roomApp()
	th := newTheater(t, a)
	first, late := th.seat(false), th.seat(false)
	first.join("room", wire.KindPublic)
	first.client.Expect(edgetest.Succeeded("room"))
	ch := a.Channel("room")
	reached, goOn := a.stopPumpAt("e0")
	a.trigger2("room", "e0")
	<-reached
	a.trigger2("room", "e1")
	var joined sync.WaitGroup
	joined.Go(func() { late.join("room", wire.KindPublic) })
	edgetest.WaitUntil(t, "the subscription waits", func() bool {
		ch.mu.Lock()
		defer ch.mu.Unlock()
		return len(ch.joining) == 1
	})
	a.trigger2("room", "e2")
	goOn()
	late.client.Expect(edgetest.Succeeded("room"), edgetest.Event("e2", "room", "x"))
	first.client.Expect(edgetest.Event("e0", "room", "x"), edgetest.Event("e1", "room", "x"), edgetest.Event("e2", "room", "x"))
	joined.Wait()
}

// TestExpireWhilePumping: a channel that is empty goes after its last frames, or they could come after those of the
// next.
func TestExpireWhilePumping(t *testing.T) {
	c := newChannel("cache-x", wire.KindCache)
	c.cached, c.pumping = &CachedEvent{Expires: time.Now().Add(-time.Hour)}, true
	if wait, gone := c.expire(); wait == 0 || gone {
		t.Errorf("a pump runs: again after %s, gone: %t", wait, gone)
	}
	c.pumping = false
	if wait, gone := c.expire(); wait != 0 || !gone {
		t.Errorf("none does: again after %s, gone: %t", wait, gone)
	}
}

// TestDeflatingSubscriptions: a channel compresses while one of its subscriptions has negotiated it, whoever else comes
// and goes.
func TestDeflatingSubscriptions(t *testing.T) {
	th := newTheater(t, roomApp())
	var subs []*Subscription
	for i, deflate := range []bool{false, true, true, false} {
		subs = append(subs, th.seat(deflate).join("room", wire.KindPublic))
		if got, want := int(subs[0].Channel.deflating), min(i, 2); got != want {
			t.Errorf("%d are there: %d are deflating, want %d", i+1, got, want)
		}
	}
	for _, step := range []struct {
		leaves int
		want   int32
	}{{3, 2}, {1, 1}, {2, 0}} {
		subs[0].Socket.App.Unsubscribe(subs[step.leaves])
		if got := subs[0].Channel.deflating; got != step.want {
			t.Errorf("subscription %d has ended: %d are deflating, want %d", step.leaves, got, step.want)
		}
	}
}

// TestRoundBroken: a panic in the pump ends the subscribers of the channel, one in a watchlist event its connection;
// both are logged once, and all others go on.
func TestRoundBroken(t *testing.T) {
	p, n := Processors, Segment
	t.Cleanup(func() { Processors, Segment = p, n })
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	for name, harm := range map[string]func(a *App, victim *seat){
		"an event": func(a *App, _ *seat) { a.trigger2("room", "explode") },
		"an event for two goroutines": func(a *App, _ *seat) {
			Processors, Segment = 2, 1
			a.trigger2("room", "explode")
		},
		"the answer to a subscription": func(a *App, s *seat) {
			a.Subscribe(&s.Socket, "room", wire.KindPublic, nil, wire.AppendPlain(nil, "explode"))
		},
		"a watchlist event": func(a *App, s *seat) {
			a.watchOut = append(a.watchOut, watchFrame{&s.Socket, wire.AppendPlain(nil, "explode")})
			a.writeWatchFrames()
		},
		"a timer": func(a *App, s *seat) {
			a.later(0, func() { a.expire(nil) })
			s.Conn.Abort() // which nothing else ends
		},
	} {
		t.Run(name, func(t *testing.T) {
			logged := new(edgetest.Output)
			log.SetOutput(logged)
			a := roomApp()
			a.Observe(AboutFrames, func(n Notice) {
				if bytes.Contains(n.Data, []byte("explode")) {
					panic("a test wants it")
				}
			})
			th := newTheater(t, a)
			victim, other := th.seat(false), th.seat(false)
			victim.subs = append(victim.subs, victim.join("room", wire.KindPublic))
			other.join("elsewhere", wire.KindPublic)
			harm(a, victim)
			edgetest.WaitUntil(t, "the victim has left", func() bool { return a.Connections() == 1 })
			if n := strings.Count(logged.String(), "ERROR panic"); n != 1 {
				t.Errorf("%d panics are logged:\n%s", n, logged.String())
			}
			late := th.seat(false)
			late.join("room", wire.KindPublic)
			a.trigger2("room", "e")
			late.client.Expect(edgetest.Succeeded("room"), edgetest.Event("e", "room", "x"))
			a.trigger2("elsewhere", "e")
			other.client.Expect(edgetest.Succeeded("elsewhere"), edgetest.Event("e", "elsewhere", "x"))
		})
	}
}

// TestCloseBroken: a close that panics does not keep the next one waiting, which is that of whoever recovers.
func TestCloseBroken(t *testing.T) {
	s := &Socket{App: roomApp()} // without a connection, which close needs
	func() {
		defer func() { recover() }()
		s.Close(wire.CodeReconnect, "")
	}()
	if !s.greeting.TryLock() {
		t.Error("nobody can close it any more")
	}
}

// BenchmarkLargeChannel writes to 5,000 connections with one processor and with all there are. Nobody reads, so that
// all of them are free for it; for as long as the kernel takes everything, which means with -benchtime 100x.
func BenchmarkLargeChannel(b *testing.B) {
	Segment = 1000
	for _, Processors = range slices.Compact([]int{1, runtime.NumCPU()}) {
		b.Run(fmt.Sprintf("processors=%d", Processors), func(b *testing.B) {
			th, subs := newTheater(b, roomApp()), make([]*Subscription, 5000)
			for i := range subs {
				subs[i] = &Subscription{Socket: &th.seat(false).Socket}
			}
			frames := batch{Shared: conn.Shared{Bytes: make([]byte, 250), Free: func() {}}}
			for b.Loop() {
				frames.deliverAll(subs)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(subs)), "ns/delivery")
		})
	}
}
