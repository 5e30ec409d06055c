package channel

import (
	"maps"
	"slices"

	"edge/internal/wire"
)

// Users: the connections that signed in, and those that watch whether a user is online.

// SignIn makes s a connection of the user: it gets the events sent to the user, can be terminated, is told which of the
// users it watches are online, and those who watch the user are told that he is. All this is in force when success, the
// answer to the client, goes out.
func (a *App) SignIn(s *Socket, u *wire.User, success []byte) *Subscription {
	a.enterUser(s, u)
	// Events for the user reach every signed-in connection, whether it subscribes to #server-to-user-{id} or not.
	// This fails on presence channels only.
	sub, _ := a.Subscribe(s, wire.UserChannelPrefix+u.ID, wire.KindUser, nil, success)
	a.enterWatcher(s, u)
	a.writeWatchFrames()
	return sub
}

// enterUser enters s among the user's connections.
func (a *App) enterUser(s *Socket, u *wire.User) {
	a.usersMu.Lock()
	defer a.usersMu.Unlock()
	if addTo(a.users, u.ID, s); len(a.users[u.ID]) == 1 {
		a.tellWatchersLocked(u.ID, wire.AppendWatchlist(nil, []string{u.ID}, nil))
	}
}

// enterWatcher enters s among those who watch the users of u's watchlist, and queues for it who of them is online.
func (a *App) enterWatcher(s *Socket, u *wire.User) {
	a.usersMu.Lock()
	defer a.usersMu.Unlock()
	var online, offline []string
	for _, id := range u.Watchlist {
		addTo(a.watchers, id, s)
		if len(a.users[id]) > 0 {
			online = append(online, id)
		} else {
			offline = append(offline, id)
		}
	}
	if frame := wire.AppendWatchlist(nil, online, offline); frame != nil {
		a.watchOut = append(a.watchOut, watchFrame{s, frame})
	}
}

// SignOut undoes SignIn when the connection is gone.
func (a *App) SignOut(s *Socket, u *wire.User, sub *Subscription) {
	a.Unsubscribe(sub)
	a.leaveUser(s, u)
	a.writeWatchFrames()
}

// leaveUser undoes enterUser and enterWatcher.
func (a *App) leaveUser(s *Socket, u *wire.User) {
	a.usersMu.Lock()
	defer a.usersMu.Unlock()
	for _, id := range u.Watchlist {
		removeFrom(a.watchers, id, s)
	}
	removeFrom(a.users, u.ID, s)
	if len(a.users[u.ID]) == 0 {
		a.tellWatchersLocked(u.ID, wire.AppendWatchlist(nil, nil, []string{u.ID}))
	}
}

// tellWatchersLocked queues a watchlist event about the user with this id. The caller holds usersMu.
func (a *App) tellWatchersLocked(id string, frame []byte) {
	for s := range a.watchers[id] {
		a.watchOut = append(a.watchOut, watchFrame{s, frame})
	}
}

// writeWatchFrames writes what is queued, in the order in which it was queued, without holding usersMu while it writes.
// If another goroutine is at it already, that one writes ours too.
func (a *App) writeWatchFrames() {
	for out := a.takeWatchFrames(false); len(out) > 0; out = a.takeWatchFrames(true) {
		for _, w := range out {
			w.write()
		}
	}
}

// takeWatchFrames takes what is queued; nothing if another goroutine writes. mine says that the caller has until now.
func (a *App) takeWatchFrames(mine bool) (out []watchFrame) {
	a.usersMu.Lock()
	defer a.usersMu.Unlock()
	if a.watchBusy && !mine {
		return nil
	}
	out, a.watchOut = a.watchOut, nil
	a.watchBusy = len(out) > 0
	return out
}

// write sends the frame. A panic ends the connection it is for, not that of whoever happens to write.
func (w watchFrame) write() {
	defer w.to.Conn.Broken()
	w.to.Write(w.frame)
}

// Terminate closes every connection that is signed in as the user, and returns how many there were.
func (a *App) Terminate(id string) int {
	a.usersMu.Lock()
	sockets := slices.Collect(maps.Keys(a.users[id]))
	a.usersMu.Unlock()
	Disconnect(sockets)
	return len(sockets)
}

// Disconnect closes connections because the app wants it.
func Disconnect(sockets []*Socket) {
	for _, s := range sockets {
		s.Close(wire.CodeUnauthorized, "You got disconnected by the app.")
	}
}

func addTo(m map[string]map[*Socket]struct{}, id string, s *Socket) {
	if m[id] == nil {
		m[id] = make(map[*Socket]struct{})
	}
	m[id][s] = struct{}{}
}

func removeFrom(m map[string]map[*Socket]struct{}, id string, s *Socket) {
	if delete(m[id], s); len(m[id]) == 0 {
		delete(m, id)
	}
}
