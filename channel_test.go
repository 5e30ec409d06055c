package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/wire"
)

// view is what one connection has seen of a presence channel since its last subscription_succeeded. It must be exact: the
// members of the snapshot, changed by nothing but member_added and member_removed, and every publisher's numbers in a row.
type view struct {
	self       string // socket id
	subscribed bool
	members    map[string]bool
	next       map[string]int // by publisher
	final      bool
}

// apply checks one frame against the view and changes it accordingly.
func (v *view) apply(frame string) error {
	var e struct{ Event, Data, Channel string }
	if err := json.Unmarshal([]byte(frame), &e); err != nil {
		return err
	}
	var data struct {
		UserID   string `json:"user_id"`
		From     string
		N        int
		Presence struct {
			Count int
			IDs   []string
		}
	}
	json.Unmarshal([]byte(e.Data), &data)
	if e.Event != wire.EventSubscriptionSucceeded && !v.subscribed {
		return fmt.Errorf("before subscription_succeeded")
	}
	switch e.Event {
	case wire.EventSubscriptionSucceeded:
		*v = view{self: v.self, subscribed: true, members: map[string]bool{}, next: map[string]int{}}
		for _, id := range data.Presence.IDs {
			v.members[id] = true
		}
		if len(v.members) != data.Presence.Count {
			return fmt.Errorf("count %d, ids %v", data.Presence.Count, data.Presence.IDs)
		}
	case wire.EventMemberAdded:
		if v.members[data.UserID] {
			return fmt.Errorf("was a member already")
		}
		v.members[data.UserID] = true
	case wire.EventMemberRemoved:
		if !v.members[data.UserID] {
			return fmt.Errorf("was not a member")
		}
		delete(v.members, data.UserID)
	case "number", "client-number":
		if data.From == v.self {
			return fmt.Errorf("own event")
		}
		if want, ok := v.next[data.From]; ok && data.N != want {
			return fmt.Errorf("number %d of publisher %s, want %d", data.N, data.From, want)
		}
		v.next[data.From] = data.N + 1
	case "final":
		v.final = true
	default:
		return fmt.Errorf("unexpected event")
	}
	return nil
}

// TestChurn lets many connections of fewer users join, leave, vanish and publish at once, and checks every connection's view.
func TestChurn(t *testing.T) {
	const clients, users, rounds, channels, publishers = 24, 12, 40, 3, 3
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s := startServer(t)
	name := func(i int) string { return fmt.Sprintf("presence-churn-%d", i) }

	var churning, publishing sync.WaitGroup
	var over atomic.Bool
	for p := range publishers {
		publishing.Go(func() {
			for n := 0; !over.Load(); n++ {
				for c := range channels {
					publish(t, s.addr, name(c), "number", fmt.Sprintf(`{"from":"%d","n":%d}`, p, n))
				}
			}
		})
	}
	var views sync.Map // the last connections and their views
	for i := range clients {
		churning.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			user := fmt.Sprintf(`{"user_id":"%d"}`, i%users)
			for r := range rounds {
				c := connect(t, s.addr)
				channel := name(random.IntN(channels))
				v, sent := &view{self: c.id}, 0
				for again := range 1 + random.IntN(3) {
					if again > 0 {
						c.send(`{"event":"pusher:unsubscribe","data":{"channel":%q}}`, channel)
					}
					c.subscribe(channel, user)
					for range random.IntN(30) {
						if !churnFrame(t, c, v, seed) {
							return
						}
						if v.subscribed && sent < wire.MaxClientEvents && random.IntN(4) == 0 {
							c.send(`{"event":"client-number","channel":%q,"data":{"from":%q,"n":%d}}`, channel, c.id, sent)
							sent++
						}
					}
				}
				if r < rounds-1 {
					c.conn.Close()
					continue
				}
				views.Store(c, &lastView{channel, v})
			}
		})
	}
	churning.Wait()
	over.Store(true)
	publishing.Wait()
	if t.Failed() {
		return
	}
	waitUntil(t, "all but the last connections are gone", func() bool { return s.app.Connections() == clients })
	for c := range channels {
		publish(t, s.addr, name(c), "final", "{}")
	}
	views.Range(func(key, value any) bool {
		c, last := key.(*peer), value.(*lastView)
		for !last.view.final && churnFrame(t, c, last.view, seed) {
		}
		var got []string
		for id := range last.view.members {
			got = append(got, id)
		}
		want := s.app.Channel(last.channel).UserIDs()
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: a connection sees %v, members are %v (seed %d)", last.channel, got, want, seed)
		}
		return true
	})
}

type lastView struct {
	channel string
	view    *view
}

// churnFrame reads a frame and applies it to the view.
func churnFrame(t *testing.T, c *peer, v *view, seed uint64) bool {
	opcode, frame, err := c.readFrame()
	if err == nil && opcode == conn.OpText {
		err = v.apply(string(frame))
	}
	if err != nil {
		t.Errorf("%v: %s (seed %d)", err, frame, seed)
	}
	return err == nil
}

// TestExclusion publishes with exclusions to a channel whose pump is busy, so that batches hold several frames: everyone
// gets all frames but those it is excluded from, in order.
func TestExclusion(t *testing.T) {
	s := startServer(t)
	const readers, events = 20, 500
	clients := make([]*peer, readers)
	sockets := make([]*channel.Socket, readers)
	for i := range clients {
		clients[i] = connect(t, s.addr)
		clients[i].join("room")
		id, _ := wire.ParseSocketID(clients[i].id)
		sockets[i] = s.app.Socket(id)
	}
	go func() { // ends after the last event
		for n := range events {
			s.app.Trigger("room", wire.KindPublic, channel.Event{Name: []byte("n"), Data: quote(strconv.Itoa(n)), Except: sockets[n%readers]})
		}
	}()
	for i, c := range clients {
		for n := range events {
			if n%readers != i {
				c.expect(event("n", "room", strconv.Itoa(n)))
			}
		}
		c.settled()
	}
}

// TestSlowReader: one of two readers stops reading. It is cut off and counted; the other gets every event.
func TestSlowReader(t *testing.T) {
	s := startServer(t, "-send-buffer", "65536")
	slow, healthy := connect(t, s.addr), connect(t, s.addr)
	slow.join("room")
	healthy.join("room")
	data := strings.Repeat("x", 10_000)
	for n := 0; s.app.Conns.Cuts[conn.CutFull].Load() == 0; n++ {
		publish(t, s.addr, "room", strconv.Itoa(n), data)
		healthy.expect(event(strconv.Itoa(n), "room", data))
	}
	waitUntil(t, "the slow reader has left", func() bool { return s.app.ChannelInfo("room").Subscriptions == 1 })
	publish(t, s.addr, "room", "after", "")
	healthy.expect(event("after", "room", ""))
	for n := 0; ; n++ { // what it still reads has no gap
		_, frame, err := slow.readFrame()
		if err != nil {
			break
		}
		if want := event(strconv.Itoa(n), "room", data); string(frame) != want {
			t.Fatalf("the slow reader got %.60s as event %d", frame, n)
		}
	}
	if got := s.app.Conns.Cuts[conn.CutFull].Load(); got != 1 {
		t.Errorf("%d cuts counted, want 1", got)
	}
}

// TestBacklog: a reader that pauses, but not for too much, gets everything in order.
func TestBacklog(t *testing.T) {
	s := startServer(t, "-send-buffer", "8388608")
	c, healthy := connect(t, s.addr), connect(t, s.addr)
	c.join("room")
	healthy.join("room")
	data := strings.Repeat("x", 10_000)
	const events = 600 // far more than the kernel takes for one connection
	for n := range events {
		publish(t, s.addr, "room", strconv.Itoa(n), data)
		healthy.expect(event(strconv.Itoa(n), "room", data))
	}
	for n := range events {
		c.expect(event(strconv.Itoa(n), "room", data))
	}
	c.settled()
}

// TestClientEventAllocations: an event on its way from one client to others allocates nothing but gws's message.
func TestClientEventAllocations(t *testing.T) {
	if edgetest.Race || runtime.GOOS != "linux" || os.Getenv("TEST_POLLER") == "no" {
		t.Skip("something else allocates")
	}
	s := startServer(t)
	from, to := connect(t, s.addr), connect(t, s.addr)
	from.join("private-room")
	to.join("private-room")
	id, _ := wire.ParseSocketID(from.id)
	socket := s.app.Socket(id)
	frame := maskedFrame(0x80|conn.OpText, []byte(`{"event":"client-move","channel":"private-room","data":"{\"x\":1,\"y\":2}"}`))
	p, buf := make([]byte, len(frame)), make([]byte, 64<<10)
	if n := testing.AllocsPerRun(200, func() {
		clientOf(socket).clientEvents = 0 // or the limit of ten a second would end it
		copy(p, frame)
		socket.Conn.Receive(p)
		to.in.Read(buf) // the pump is done by then, but for its end
	}); n > 1 {
		t.Errorf("%v allocations for an event, want one", n)
	}
}
