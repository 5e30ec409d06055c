package fallback

// A session is what is under the Socket of a client over HTTP, and what waits for its requests. The Socket writes
// WebSocket frames to it as to any net.Conn; they become lines. What the client sends goes to the Socket as messages.

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
	"unicode/utf16"

	"edge/internal/conn"
	"edge/internal/wire"
)

const (
	sessionGap     = 5 * time.Second  // that a session lives without a request that receives
	heartbeatEvery = 25 * time.Second // when there is nothing else to send
	streamUnits    = 256 << 10        // UTF-16 units: with more pusher-js reopens a stream at the end of the line

	maxLines     = 64 << 10  // bytes of lines from which on Write blocks
	maxSend      = 256 << 10 // bytes of one xhr_send,
	maxMessages  = 100       // and messages
	inboxFull    = 64 << 10  // bytes not yet handled by the Socket, from which on senders wait for their answer,
	maxInbox     = 512 << 10 // and beyond which the session ends
	messageRoom  = 32        // bytes that each of them counts for beyond its text
	maxEarly     = 64        // requests that came before an earlier one, waiting for it,
	earlyTimeout = 500 * time.Millisecond

	textTooSlow = "What was sent was not received in time"
)

// session is the connection of a client over HTTP.
type session struct {
	net.Conn // nil: the rest of it is not called

	// Static after enter.
	of     *Handler
	name   string
	from   netip.Prefix
	socket *conn.Conn
	held   conn.Holding // of what waits in both directions

	mu        sync.Mutex // guards the following; the locks of Handler and budget may be taken while it is held
	changed   sync.Cond  // that something of it has
	receiving *receiving // the last; it may have ended
	lines     []byte     // for the client; the first is o
	repeat    []byte     // the last answer to a poll, until the next poll says that it has come,
	polled    uint64     // and the number of that request
	deadline  time.Time  // of Write
	closed    bool       // the line c was written: nothing comes after it
	pinged    bool       // a line h waits for its answer
	in        [][]byte   // messages for the Socket; nil for a sign of life
	early     []early    // in order
	inbox     int        // bytes in both
	next      uint64     // the number expected next; 0 before there is one
	handled   [8]uint64  // numbers of the last requests that sent, the latest first
	shut      bool       // one side has gone: nothing goes to the Socket or comes from it
	over      bool       // the client knows, or has gone: nothing is left to do
}

// receiving is a request that receives.
type receiving struct {
	// Static after construction.
	n      uint64
	stream bool
	hungUp func() error

	units int // that may still come; guarded by session.mu
}

// early is what came with a request before the one with an earlier number.
type early struct {
	n        uint64
	messages [][]byte // nil if it was one that receives
}

// stillHere is what a client sends that has nothing to say.
var stillHere = [][]byte{nil}

// deliver gives the client's messages to the Socket, until the session ends.
func (s *session) deliver() {
	for text, ok := s.nextMessage(); ok; text, ok = s.nextMessage() {
		s.socket.ReceiveText(text)
	}
	s.socket.Finish()
}

// nextMessage waits for the next message; not ok is the end.
func (s *session) nextMessage() (text []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.in) == 0 && !s.shut {
		s.changed.Wait()
	}
	if s.shut {
		return nil, false
	}
	text, s.in[0] = s.in[0], nil
	s.inbox -= len(text) + messageRoom
	if s.in = s.in[1:]; len(s.in) == 0 {
		s.in = nil
	}
	s.touchLocked(false)
	return text, true
}

// later calls f with mu held, after this time.
func (s *session) later(d time.Duration, f func()) *time.Timer {
	return time.AfterFunc(d, func() {
		defer conn.Recovered("session")
		s.mu.Lock()
		defer s.mu.Unlock()
		f()
	})
}

// waitLocked waits until done, at most until that time, and reports whether it is.
func (s *session) waitLocked(until time.Time, done func() bool) bool {
	defer s.later(time.Until(until), s.changed.Broadcast).Stop()
	for !done() {
		if time.Until(until) <= 0 {
			return false
		}
		s.changed.Wait()
	}
	return true
}

// touchLocked is to be called when something has changed. moved says that lines have left.
func (s *session) touchLocked(moved bool) {
	s.changed.Broadcast()
	bytes := cap(s.lines) + cap(s.repeat) + s.inbox
	if s.shut {
		bytes = 0
	}
	s.of.Memory.Hold(&s.held, int64(bytes), moved)
}

// attach makes t what receives, in place of what did before, which ends without a word.
func (s *session) attach(t *receiving) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.receiving = t
	s.arrivedLocked(t.n, nil)
	if s.repeat != nil && t.n == s.polled && t.n != 0 { // a browser asks again if the connection broke before the answer
		s.lines = append(s.repeat, s.lines...)
	}
	s.repeat = nil
	if s.pinged {
		s.pinged = false
		s.arrivedLocked(0, stillHere)
	}
	s.touchLocked(false)
}

// detach is called when the answer to t has ended. If nobody receives from then on, the session ends.
func (s *session) detach(t *receiving) {
	s.mu.Lock()
	newest := s.receiving == t && !s.over
	s.mu.Unlock()
	if !newest {
		return
	}
	s.later(sessionGap, func() {
		if s.receiving == t {
			s.endLocked()
		}
	})
}

// answered ends a session whose client has been told, or may have missed lines: no connection has gaps. What a poll
// missed it can ask for again.
func (s *session) answered(t *receiving, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil || s.receiving == t && t.stream {
		s.endLocked()
	}
}

func (s *session) endLocked() {
	if s.over {
		return
	}
	s.over, s.shut = true, true
	s.lines, s.repeat, s.in, s.early = nil, nil, nil, nil
	s.touchLocked(false)
	s.of.leave(s)
}

// await waits for lines for t, nil if it is over. last says that the session ends with them. The line in which a stream's
// units are used up is the last: the client reopens the stream when it has read that, and what came behind would be lost.
// The answer to a poll is treated the same.
func (s *session) await(t *receiving) (lines []byte, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ended := func() bool { return s.receiving != t || s.over || t.hungUp() != nil }
	if t.units < 0 { // a client that does not reopen its stream now is one that never does
		s.waitLocked(time.Now().Add(sessionGap), ended)
		t.units = math.MaxInt
	}
	ready := func() bool { return len(s.lines) > 0 && string(s.lines) != "o\n" } // o goes with what follows it
	s.waitLocked(time.Now().Add(heartbeatEvery), func() bool { return ended() || ready() })
	if ended() {
		return nil, false
	}
	if len(s.lines) == 0 {
		s.lines = []byte("h\n")
	}
	end := 0
	for end < len(s.lines) && t.units >= 0 {
		line := s.lines[end : end+bytes.IndexByte(s.lines[end:], '\n')+1]
		for _, r := range string(line) {
			t.units -= utf16.RuneLen(r)
		}
		end += len(line)
	}
	if lines, s.lines = s.lines[:end:end], s.lines[end:]; len(s.lines) == 0 {
		s.lines = nil
	}
	if !t.stream {
		s.repeat, s.polled = lines, t.n
	}
	s.touchLocked(true)
	return lines, s.closed && s.lines == nil
}

// send takes the messages of a request. It returns when the Socket has come to handle most of them: browsers have few
// requests at a time, and those that wait for their answer send no more.
func (s *session) send(n uint64, messages [][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut {
		return &wire.Error{Status: http.StatusNotFound, Text: "the session has ended"}
	}
	if len(messages) == 0 {
		messages, s.pinged = stillHere, false
		if len(s.lines) == 0 && !s.closed { // any other line says as much
			s.lines = append(s.lines, "a[]\n"...)
		}
	}
	s.arrivedLocked(n, messages)
	if s.inbox > maxInbox {
		s.shutLocked("too many messages at once")
	}
	s.touchLocked(false)
	s.waitLocked(time.Now().Add(sessionGap), func() bool { return s.inbox < inboxFull || s.shut })
	return nil
}

// arrivedLocked is told of every request, with its number. Requests overtake one another, and those that send wait a
// moment for earlier ones.
func (s *session) arrivedLocked(n uint64, messages [][]byte) {
	if s.next == 0 {
		s.next = n
	}
	if messages != nil && n > 0 {
		if slices.Contains(s.handled[:], n) {
			return // a browser repeats a request if the connection broke before the answer
		}
		copy(s.handled[1:], s.handled[:])
		s.handled[0] = n
	}
	for _, text := range messages {
		s.inbox += len(text) + messageRoom
	}
	if n < s.next || n == 0 {
		s.in = append(s.in, messages...)
		return
	}
	at, _ := slices.BinarySearchFunc(s.early, n, func(e early, n uint64) int { return cmp.Compare(e.n, n) })
	s.early = slices.Insert(s.early, at, early{n, messages})
	if s.orderLocked(s.next); len(s.early) > maxEarly {
		s.orderLocked(math.MaxUint64)
	}
	if n >= s.next { // the one before may be another session's of the same page
		s.later(earlyTimeout, func() {
			s.orderLocked(n)
			s.touchLocked(false)
		})
	}
}

// orderLocked hands on what came with the requests up to n, and what follows them without a gap.
func (s *session) orderLocked(n uint64) {
	for len(s.early) > 0 && s.early[0].n <= max(n, s.next) {
		s.in, s.next = append(s.in, s.early[0].messages...), s.early[0].n+1
		s.early = slices.Delete(s.early, 0, 1)
	}
}

// Write makes lines of the frames of p, which must be whole. It blocks while there are too many for the client.
func (s *session) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.waitLocked(s.deadline, func() bool { return len(s.lines) < maxLines || s.shut }) {
		return 0, os.ErrDeadlineExceeded
	}
	if s.shut || s.closed {
		return 0, net.ErrClosed
	}
	for rest := p; len(rest) > 0; {
		var opcode byte
		var payload []byte
		switch opcode, payload, rest = conn.NextServerFrame(rest); opcode {
		case conn.OpText:
			s.lines = append(wire.AppendString(append(s.lines, "a["...), payload), "]\n"...)
		case conn.OpPing:
			s.lines, s.pinged = append(s.lines, "h\n"...), true
		case conn.OpClose:
			s.closed, s.lines = true, appendEnd(s.lines, int(binary.BigEndian.Uint16(payload)), string(payload[2:]))
		}
	}
	s.touchLocked(false)
	return len(p), nil
}

func appendEnd(dst []byte, code int, reason string) []byte {
	dst = append(strconv.AppendInt(append(dst, "c["...), int64(code), 10), ',')
	return append(wire.AppendString(dst, reason), "]\n"...)
}

// Close ends the connection for the Socket. A client that does not know yet is told with its next request, if that comes.
func (s *session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shutLocked(textTooSlow)
	return nil
}

func (s *session) shutLocked(reason string) {
	if s.shut {
		return
	}
	if !s.closed {
		kept := s.lines[:0:0] // with a gap the rest is of no use, but without o clients do not believe the others
		if bytes.HasPrefix(s.lines, []byte("o\n")) {
			kept = []byte("o\n")
		}
		s.lines, s.repeat, s.closed = appendEnd(kept, wire.CodeOverCapacity, reason), nil, true
	}
	s.shut, s.in, s.early = true, nil, nil
	s.touchLocked(false)
}

func (s *session) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	return nil
}

func (s *session) RemoteAddr() net.Addr { return nil }

// parseSent returns the messages of an array; they are copies.
func parseSent(body []byte) (messages [][]byte, err error) {
	if _, _, err := wire.CheckJSON(body, 1, 1+maxMessages); err != nil {
		return nil, wire.BadRequest("expected an array of at most %d strings: %v", maxMessages, err)
	}
	body = bytes.TrimLeft(body, " \t\n\r")
	if body[0] != '[' {
		return nil, wire.BadRequest("expected an array of strings")
	}
	_, items, _ := wire.ParseArray(nil, body, maxMessages)
	for _, item := range items {
		if !item.Is('"') {
			return nil, wire.BadRequest("expected an array of strings only")
		}
		text := item.Text()
		if len(text) > conn.MaxPayload {
			return nil, &wire.Error{Status: http.StatusRequestEntityTooLarge, Text: conn.FrameProblem(conn.CloseTooBig)}
		}
		messages = append(messages, append([]byte{}, text...))
	}
	return messages, nil
}
