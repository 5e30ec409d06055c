package channel

import (
	"maps"
	"slices"
	"strings"

	"edge/internal/wire"
)

// Lists of what there is, for the console.

// ChannelsLike returns the channels with find in their names.
func (a *App) ChannelsLike(find string) (found []*Channel) {
	a.channels.Range(func(_, c any) bool {
		if ch := c.(*Channel); ch.Kind&wire.KindUser == 0 && strings.Contains(ch.Name, find) {
			found = append(found, ch)
		}
		return true
	})
	return found
}

// AllSockets returns the connections there are at this moment.
func (a *App) AllSockets() []*Socket {
	a.socketsMu.Lock()
	defer a.socketsMu.Unlock()
	return slices.Collect(maps.Values(a.sockets))
}

// SocketsLike returns the connections with find in their id, address or user.
func (a *App) SocketsLike(find string) []*Socket {
	return slices.DeleteFunc(a.AllSockets(), func(s *Socket) bool {
		user, _ := s.Who()
		return !strings.Contains(s.ID.String()+"\n"+s.Address()+"\n"+user, find)
	})
}

// Who returns the user that is signed in, if there is one, and the number of channels; nothing while the connection
// is being served.
func (s *Socket) Who() (user string, channels int) {
	if !s.Mu.TryLock() {
		return "", 0
	}
	defer s.Mu.Unlock()
	if s.User != nil {
		user = s.User.ID
	}
	return user, len(s.Subscriptions)
}
