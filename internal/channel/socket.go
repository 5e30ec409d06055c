package channel

import (
	"sync"

	"edge/internal/conn"
	"edge/internal/wire"
)

// Socket is a connection of an app: what channels deliver to. The client above it embeds it, so that both are one
// allocation.
type Socket struct {
	conn.Conn // has its own locking

	// Static after App.enter.
	App   *App // before that
	ID    wire.SocketID
	Began int64 // when the connection was established

	greeting sync.Mutex // held until the first bytes are sent, which nothing may overtake

	Mu            sync.Mutex // guards the following and what the client has; taken before any other lock
	Subscriptions []*Subscription
	User          *wire.User    // nil until signed in
	UserSub       *Subscription // to the user's channel, from signing in on
}

// Write sends frames, which the caller may use again. Anyone may call it.
func (s *Socket) Write(frames []byte) {
	s.NoteSent(frames)
	s.Conn.Write(frames) // a failed write shows in ended
}

// NoteSent counts and shows a frame of the protocol that is about to be sent.
func (s *Socket) NoteSent(frames []byte) {
	s.App.Counts.Sent.Add(1)
	s.showSent(frames)
}

// showSent notifies of frames that are about to be sent.
func (s *Socket) showSent(frames []byte) {
	if !s.App.Observes(AboutFrames) {
		return
	}
	for len(frames) > 0 {
		var opcode byte
		var payload []byte
		if opcode, payload, frames = conn.NextServerFrame(frames); opcode == conn.OpText {
			s.NotifyFrame("sent", payload)
		}
	}
}

// NotifyFrame notifies of a message. A notice is large, and the stack of each connection that says something has to be
// made large enough for all that is not called by the way.
//
//go:noinline
func (s *Socket) NotifyFrame(what string, message []byte) {
	if s.App.Observes(AboutFrames) {
		s.App.Notify(Notice{About: AboutFrames, What: what, Socket: s.ID, Data: message})
	}
}

// deliverShared sends a part of what others are sent too, which begins and ends with a frame. Only a channel's pump may
// call it.
func (s *Socket) deliverShared(b *batch, from, to int) {
	s.showSent(b.Bytes[from:to])
	of := &b.Shared
	if p := b.packed; s.Conn.Deflates() && p != nil {
		of, from, to = &p.Shared, p.at(from), p.at(to)
	}
	s.Conn.WriteShared(of, from, to)
}

// Notify notifies of the connection itself. Without observers its address is not even made a text.
func (s *Socket) Notify(n Notice) {
	if s.App.Observes(n.About) {
		n.Socket, n.Remote = s.ID, s.Address()
		s.App.Notify(n)
	}
}

// Address is that of the client, as text.
func (s *Socket) Address() string {
	if a := s.Conn.Remote; a.Port() != 0 {
		return a.String()
	} else if a.IsValid() {
		return a.Addr().String()
	}
	return "unix"
}

// Close sends a close frame, if none was sent before, and ends the connection. Anyone may call it.
func (s *Socket) Close(code int, reason string) {
	s.greeting.Lock()
	defer s.greeting.Unlock()
	s.Conn.Close(code, reason)
}

// CloseBroken closes a connection that something has panicked for, which may be closing it too.
func (s *Socket) CloseBroken() {
	s.greeting.Lock()
	defer s.greeting.Unlock()
	s.Conn.CloseBroken()
}
