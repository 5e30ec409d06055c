//go:build unix

package test

// Presence: members come and go in every way, and those who watch agree with the API.

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"edge/internal/edgetest"
)

const churnUsers, churners, churnRooms = 20, 30, 8

// watcher keeps the list of members of a presence channel.
type watcher struct {
	*edgetest.Client
	subscribed     bool
	members        map[string]bool
	added, removed int
}

// watch reads until the final event; what it sees must be exact.
func (w *watcher) watch() {
	for final := false; !final; {
		opcode, frame, err := w.ReadFrame()
		switch {
		case err != nil:
		case opcode == edgetest.OpPing:
			_, err = w.Conn.Write(edgetest.Masked(0x80|edgetest.OpPong, frame))
		case opcode == edgetest.OpText:
			final, err = w.apply(string(frame))
		}
		if err != nil {
			w.T.Errorf("watcher: %v: %s", err, frame)
			return
		}
	}
}

// apply checks one frame against what is known and changes that accordingly.
func (w *watcher) apply(frame string) (final bool, err error) {
	var e struct{ Event, Data string }
	var data struct {
		UserID   string `json:"user_id"`
		Presence struct {
			Count int
			IDs   []string
		}
	}
	if err := json.Unmarshal([]byte(frame), &e); err != nil {
		return false, err
	}
	json.Unmarshal([]byte(e.Data), &data)
	there := w.members[data.UserID]
	switch {
	case e.Event == "pusher_internal:subscription_succeeded" && !w.subscribed:
		w.subscribed, w.members = true, make(map[string]bool)
		for _, id := range data.Presence.IDs {
			w.members[id] = true
		}
		if len(w.members) == data.Presence.Count && data.Presence.Count == len(data.Presence.IDs) {
			return false, nil
		}
	case !w.subscribed:
	case e.Event == "pusher_internal:member_added" && !there:
		w.members[data.UserID] = true
		w.added++
		return false, nil
	case e.Event == "pusher_internal:member_removed" && there:
		delete(w.members, data.UserID)
		w.removed++
		return false, nil
	case e.Event == "final":
		return true, nil
	}
	return false, fmt.Errorf("it does not fit to %v", w.members)
}

func churnRoom(i int) string { return fmt.Sprintf("presence-%d", i) }

// users asks the API who is in a room.
func users(t *testing.T, addr string, room int) (ids []string) {
	t.Helper()
	_, answer := edgetest.Call(t, addr, "GET", "/apps/1/channels/"+churnRoom(room)+"/users", "", "")
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

// testChurn has members come and go in every way while deliver runs. Those who watch must see exactly what the API
// says, and in the end nobody.
func testChurn(t *testing.T, addr string, deliver func(churn func(ctx context.Context))) {
	watchers, seed := make([]*watcher, churnRooms), rand.Uint64()
	t.Logf("seed %d", seed)
	var watching sync.WaitGroup
	for room := range watchers {
		c := edgetest.Connect(t, addr)
		c.Subscribe(churnRoom(room), `{"user_id":"watcher"}`)
		c.Conn.SetDeadline(time.Now().Add(*soakTime + 10*time.Minute)) // longer than all else may take
		watchers[room] = &watcher{Client: c}
		watching.Go(watchers[room].watch)
	}
	stayed := new(stayers)
	deliver(func(ctx context.Context) { churnAll(ctx, t, addr, seed, stayed) })
	compare := func() {
		t.Helper()
		for room := range watchers {
			stayed.expect(t, addr, room)
			edgetest.Publish(t, addr, churnRoom(room), "final", "{}")
		}
		watching.Wait()
		for room, w := range watchers {
			got := make([]string, 0, len(w.members))
			for id := range w.members {
				got = append(got, id)
			}
			slices.Sort(got)
			if want := users(t, addr, room); !slices.Equal(got, want) {
				t.Errorf("the watcher sees %v, the API %v", got, want)
			}
		}
	}
	compare()
	for _, w := range watchers {
		watching.Go(w.watch)
	}
	stayed.leave()
	compare()
	events := 0
	for room, w := range watchers {
		events += w.added + w.removed
		if w.added != w.removed || len(w.members) != 1 {
			t.Errorf("%s: %d added, %d removed, left are %v", churnRoom(room), w.added, w.removed, w.members)
		}
		w.Leave()
	}
	t.Logf("%d times a member came or went", events)
	expectNobody(t, addr)
}

// expectNobody waits until there is no channel left.
func expectNobody(t *testing.T, addr string) {
	t.Helper()
	edgetest.WaitUntil(t, "there is no channel", func() bool {
		_, answer := edgetest.Call(t, addr, "GET", "/apps/1/channels", "", "")
		return answer == `{"channels":{}}`
	})
}

// stayers are the last connections of the churners, which have not left when the churn is over.
type stayers struct {
	clients [churners]*edgetest.Client
	rooms   [churners]int
}

func (s *stayers) leave() {
	for i, c := range s.clients {
		leaveSomehow(c, i)
	}
	*s = stayers{}
}

// expect waits until the members of the room are those who stayed, and the watcher: who left may be on his way.
func (s *stayers) expect(t *testing.T, addr string, room int) {
	t.Helper()
	want := []string{"watcher"}
	for i, c := range s.clients {
		if c != nil && s.rooms[i] == room {
			want = append(want, churner(i))
		}
	}
	slices.Sort(want)
	want = slices.Compact(want)
	edgetest.WaitUntil(t, fmt.Sprintf("%s has the members %v", churnRoom(room), want), func() bool {
		return slices.Equal(users(t, addr, room), want)
	})
}

// churner is the user of churner i. Some have two connections.
func churner(i int) string { return strconv.Itoa(i % churnUsers) }

// churnAll lets connections come and go until ctx is done, a few times at least; each leaves its last one.
func churnAll(ctx context.Context, t *testing.T, addr string, seed uint64, stayed *stayers) {
	var wg sync.WaitGroup
	for i := range churners {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			join := func(c *edgetest.Client, room int) { c.Subscribe(churnRoom(room), `{"user_id":"`+churner(i)+`"}`) }
			for n := 0; n < 10 || ctx.Err() == nil; n++ {
				c := edgetest.Connect(t, addr)
				for room, again := random.IntN(churnRooms), random.IntN(3); again > 0; again-- {
					join(c, room)
					c.Unsubscribe(churnRoom(room))
				}
				if join(c, random.IntN(churnRooms)); random.IntN(2) == 0 {
					c.Arrived()
				}
				leaveSomehow(c, random.IntN(leaveWays))
			}
			stayed.clients[i], stayed.rooms[i] = edgetest.Connect(t, addr), random.IntN(churnRooms)
			join(stayed.clients[i], stayed.rooms[i])
			stayed.clients[i].Arrived()
		})
	}
	wg.Wait()
}

const leaveWays = 4

// leaveSomehow ends a connection in one of the ways clients do.
func leaveSomehow(c *edgetest.Client, way int) {
	switch way % leaveWays {
	case 0: // as it should be
		c.Conn.Write(edgetest.Masked(0x80|edgetest.OpClose, []byte{3, 232}))
		io.Copy(io.Discard, c.In)
	case 1: // a crash
		c.Conn.(*net.TCPConn).SetLinger(0)
	case 2: // in the middle of a frame
		c.Conn.Write(edgetest.Text(edgetest.Ping)[:20])
	}
	c.Leave() // and nothing else: the page is gone
}
