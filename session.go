package main

// A session: what is under the Socket of a client over HTTP (fallback.go), and what waits for its requests.
//
// It is a net.Conn to which the Socket writes WebSocket frames as to any other; they become lines. What the client sends
// goes to the Socket as messages.

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

	"edge/internal/api"
	"edge/internal/conn"
	"edge/internal/wire"
)

const (
	sessionGap     = 5 * time.Second  // that a session lives without a request that receives
	heartbeatEvery = 25 * time.Second // when there is nothing else to send
	streamUnits    = 256 << 10        // UTF-16 units: pusher-js reopens a stream at the end of the line in which there are more

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

	// Static after open.
	of     *fallback
	name   string
	from   netip.Addr
	socket *client
	held   conn.Holding // of what waits in both directions

	mu        sync.Mutex // guards the following; the locks of fallback and budget may be taken while it is held
	changed   sync.Cond  // that something of it has
	receiving *receiving // the last; it may have ended
	lines     []byte     // for the client
	repeat    []byte     // the last answer to a poll, until the next poll says that it has come,
	polled    uint64     // and the number of that request
	deadline  time.Time  // of Write
	opened    bool       // the line o was written
	closed    bool       // the line c was written: nothing comes after it
	pinged    bool       // a line h waits for its answer
	in        [][]byte   // messages for the Socket; nil for a sign of life
	early     []early    // in order
	next      uint64     // the number expected next; 0 before there is one
	handled   [8]uint64  // numbers of the last requests that sent
	handledN  int
	shut      bool // the Socket has gone
	over      bool // the client knows, or has gone: nothing is left to do
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
		s.socket.Conn.ReceiveText(text)
	}
	s.socket.Conn.Finish()
}

// nextMessage waits for the next message; not ok is the end.
func (s *session) nextMessage() (text []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.in) == 0 && !s.shut && !s.over {
		s.changed.Wait()
	}
	if s.shut || s.over {
		return nil, false
	}
	text, s.in[0] = s.in[0], nil
	if s.in = s.in[1:]; len(s.in) == 0 {
		s.in = nil
	}
	s.touchLocked(false)
	return text, true
}

// wake has whoever waits for something look again.
func (s *session) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
}

// waitLocked waits until done, at most until that time, and reports whether it is.
func (s *session) waitLocked(until time.Time, done func() bool) bool {
	if done() {
		return true
	}
	t := time.AfterFunc(time.Until(until), s.wake)
	defer t.Stop()
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
	bytes := cap(s.lines) + cap(s.repeat) + s.inboxLocked()
	if s.shut || s.over {
		bytes = 0
	}
	s.of.memory.Hold(&s.held, int64(bytes), moved)
}

// inboxLocked is how many bytes wait for the Socket.
func (s *session) inboxLocked() int {
	n := bytesOf(s.in)
	for _, e := range s.early {
		n += bytesOf(e.messages)
	}
	return n
}

func bytesOf(messages [][]byte) (n int) {
	for _, text := range messages {
		n += len(text) + messageRoom
	}
	return n
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
		s.in = append(s.in, stillHere...)
	}
	s.touchLocked(false)
}

// detach is called when the answer to t has ended.
func (s *session) detach(t *receiving) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.receiving == t && !s.over {
		time.AfterFunc(sessionGap, func() { s.lost(t) })
	}
}

// lost ends a session that nobody has received from since t.
func (s *session) lost(t *receiving) {
	defer conn.Recovered("session")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.receiving == t && !s.over {
		s.endLocked()
	}
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
	s.over = true
	s.lines, s.repeat, s.in, s.early = nil, nil, nil, nil
	s.touchLocked(false)
	s.of.leave(s)
}

// await waits for lines for t, nil if it is over. last says that the session ends with them.
func (s *session) await(t *receiving) (lines []byte, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	paused, wait := t.units < 0, heartbeatEvery
	if paused {
		wait = sessionGap // a client that has not reopened its stream by then is one that never does
	}
	ended := func() bool { return s.receiving != t || s.over || t.hungUp() != nil }
	s.waitLocked(time.Now().Add(wait), func() bool { return ended() || len(s.lines) > 0 && !paused })
	if ended() {
		return nil, false
	}
	if paused {
		t.units = math.MaxInt
	}
	if len(s.lines) == 0 {
		t.units -= len("h\n")
		return []byte("h\n"), false
	}
	lines = s.takeLocked(t)
	return lines, s.closed && s.lines == nil
}

// takeLocked takes lines for t, as many as it may have. The line in which a stream's units are used up is the last: the client
// reopens the stream when it has read that, and what came behind would be lost. It treats the answer to a poll the same.
func (s *session) takeLocked(t *receiving) (lines []byte) {
	end := 0
	for end < len(s.lines) && t.units >= 0 {
		line := s.lines[end : end+bytes.IndexByte(s.lines[end:], '\n')+1]
		t.units -= units(line)
		end += len(line)
	}
	lines, s.lines = s.lines[:end:end], s.lines[end:]
	if len(s.lines) == 0 {
		s.lines = nil
	}
	if !t.stream {
		s.repeat, s.polled = lines, t.n
	}
	s.touchLocked(true)
	return lines
}

// units is how long text is to JavaScript: a rune of four bytes of UTF-8 counts twice.
func units(text []byte) (n int) {
	for _, b := range text {
		if b&0xc0 != 0x80 {
			n++
		}
		if b >= 0xf0 {
			n++
		}
	}
	return n
}

// send takes what came with an xhr_send.
func (s *session) send(r *http.Request) error {
	body, err := api.ReadBody(nil, r, maxSend)
	if err != nil {
		return err
	}
	messages, err := parseSent(body)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut || s.over {
		return &wire.Error{Status: http.StatusNotFound, Text: "the session has ended"}
	}
	if len(messages) == 0 {
		messages, s.pinged = stillHere, false
		if s.opened && len(s.lines) == 0 && !s.closed { // any other line says as much
			s.lines = append(s.lines, "a[]\n"...)
		}
	}
	s.arrivedLocked(requestNumber(r), messages)
	if s.inboxLocked() > maxInbox {
		s.shutLocked("too many messages at once")
	}
	s.touchLocked(false)
	// Browsers have few requests at a time: those who wait for their answer send no more.
	s.waitLocked(time.Now().Add(sessionGap), func() bool { return bytesOf(s.in) < inboxFull || s.shut || s.over })
	return nil
}

// arrivedLocked is told of every request, with its number. Requests overtake one another, and those that send wait a moment for
// earlier ones.
func (s *session) arrivedLocked(n uint64, messages [][]byte) {
	if s.next == 0 {
		s.next = n
	}
	if messages != nil && n > 0 {
		if slices.Contains(s.handled[:], n) {
			return // a browser repeats a request if the connection broke before the answer
		}
		s.handled[s.handledN%len(s.handled)] = n
		s.handledN++
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
	if n >= s.next {
		time.AfterFunc(earlyTimeout, func() { s.giveUp(n) })
	}
}

// orderLocked hands on what came with the requests up to n, and what follows them without a gap.
func (s *session) orderLocked(n uint64) {
	for len(s.early) > 0 && s.early[0].n <= max(n, s.next) {
		s.in, s.next = append(s.in, s.early[0].messages...), s.early[0].n+1
		s.early = s.early[1:]
	}
	if len(s.early) == 0 {
		s.early = nil
	}
}

// giveUp is called when request n has waited for an earlier one. That may be another session's of the same page.
func (s *session) giveUp(n uint64) {
	defer conn.Recovered("session")
	s.mu.Lock()
	defer s.mu.Unlock()
	if n >= s.next {
		s.orderLocked(n)
		s.touchLocked(false)
	}
}

// Write makes lines of the frames of p, which must be whole. It blocks while there are too many for the client.
func (s *session) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.waitLocked(s.deadline, func() bool { return len(s.lines) < maxLines || s.shut || s.over }) {
		return 0, os.ErrDeadlineExceeded
	}
	if s.shut || s.over || s.closed {
		return 0, net.ErrClosed
	}
	s.openLocked()
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

// openLocked sees to it that the first line is o: without it clients do not believe the others.
func (s *session) openLocked() {
	if !s.opened {
		s.opened, s.lines = true, append(s.lines, "o\n"...)
	}
}

func appendEnd(dst []byte, code int, reason string) []byte {
	dst = append(strconv.AppendInt(append(dst, "c["...), int64(code), 10), ',')
	return append(wire.AppendString(dst, reason), "]\n"...)
}

// Close ends the connection for the Socket. If the client does not know yet it is told with its next request, if that comes.
func (s *session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shutLocked(textTooSlow)
	return nil
}

func (s *session) shutLocked(reason string) {
	if s.shut || s.over {
		return
	}
	if !s.closed {
		s.lines, s.repeat, s.closed = nil, nil, true // with a gap the rest is of no use
		s.openLocked()
		s.lines = appendEnd(s.lines, wire.CodeOverCapacity, reason)
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
