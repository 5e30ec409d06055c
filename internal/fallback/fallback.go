// Package fallback is the clients over HTTP: what pusher-js falls back to where a proxy or a captive network keeps
// WebSocket from getting through.
//
//	POST {path}/app/{key}/{server}/{session}/xhr_streaming   receives lines, in one answer without an end
//	POST {path}/app/{key}/{server}/{session}/xhr             receives lines: an answer has one at least
//	POST {path}/app/{key}/{server}/{session}/xhr_send        sends a JSON array of messages; an empty one: still here
//
// The client has made up server and session, which with the key name its session. The lines are
//
//	o              the session is open; before all others
//	a["…"]         a message of the protocol (clients take m"…" for the same); a[] answers an empty array
//	h              heartbeat: it is answered with an empty array over a stream, and else with the next request
//	c[4200,"…"]    the end, with a close code
//
// The room knows no app and no message of the protocol: Options.Open makes the client above a session. This file answers
// the requests; session.go has what is between them. A new kind of request goes into ServeHTTP, a new line into
// session.Write.
package fallback

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"edge/internal/conn"
	"edge/internal/listen"
	"edge/internal/wire"
)

const (
	digits      = "0123456789"
	letters     = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-."
	textTooMany = "Too many clients over HTTP, in all or from one address (behind a proxy: see -trusted-proxies)"
)

// Options is what the room needs of the server.
type Options struct {
	Path    string // before /app/
	Callers *listen.Callers
	Memory  *conn.Budget
	Proxies []netip.Prefix

	// Open makes the client of a session, whose connection is c, over nc, to which it does not write yet: serve is called
	// next and brings the client to life, with feed for conn.Conn.Start. Open must not call into a session that is there.
	Open func(r *http.Request, key string, nc net.Conn) (c *conn.Conn, serve func(feed func()))
	// Reject notes that a client was rejected.
	Reject func(r *http.Request, key string, remote netip.AddrPort, code int, reason string)
}

// Handler answers the requests of clients over HTTP.
type Handler struct {
	// Static after New.
	Options
	most int // sessions; of them a quarter from one address

	mu       sync.Mutex // guards the following
	sessions map[string]*session
	from     map[netip.Prefix]int
}

// New makes a Handler for the requests below Options.Path.
func New(o Options) *Handler {
	return &Handler{Options: o, most: max(64, o.Memory.Sessions()),
		sessions: make(map[string]*session), from: make(map[netip.Prefix]int)}
}

// ServeHTTP answers every request below the path. Browsers ask first (OPTIONS), each time.
func (f *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*") // -origins is about what the session may do: the page is to learn why not
	h.Set("Cache-Control", "no-store, no-transform")
	part := strings.Split(strings.TrimPrefix(r.URL.Path, f.Path), "/") // "", app, key, server, session, what
	if len(part) != 6 || part[1] != "app" || !is(part[3], digits, 1, 3) || !is(part[4], digits+letters, 8, 64) ||
		!slices.Contains([]string{"xhr", "xhr_streaming", "xhr_send"}, part[5]) {
		text := "not found: clients over HTTP use %s/app/{key}/{server}/{session}/ and xhr_streaming, xhr or xhr_send"
		http.Error(w, fmt.Sprintf(text, f.Path), http.StatusNotFound)
		return
	}
	name := strings.Join(part[2:5], "/")
	switch {
	case r.Method == http.MethodOptions:
		h.Set("Access-Control-Allow-Methods", "POST, OPTIONS")
		h.Set("Access-Control-Allow-Headers", "content-type")
		h.Set("Access-Control-Max-Age", "86400")
		w.WriteHeader(http.StatusNoContent)
	case r.Method != http.MethodPost:
		h.Set("Allow", "POST, OPTIONS")
		http.Error(w, "Method Not Allowed: this is a POST", http.StatusMethodNotAllowed)
	case part[5] == "xhr_send":
		if err := f.send(w, r, name); err != nil { // for people: clients do not look at it
			e := wire.AsError(err, http.StatusBadRequest)
			http.Error(w, e.Text, e.Status)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		f.receive(w, r, part[2], name, part[5] == "xhr_streaming")
	}
}

// is reports whether text has such characters only, at least and at most so many. Nobody guesses a client's random word.
func is(text, characters string, least, most int) bool {
	return len(text) >= least && len(text) <= most && strings.Trim(text, characters) == ""
}

// requestNumber is the number that a client gives its requests, all that receive or send for any session of a page
// counted; 0 for none.
func requestNumber(r *http.Request) uint64 {
	n, _ := strconv.ParseUint(r.URL.Query().Get("n"), 10, 64)
	return n
}

// send takes what came with an xhr_send.
func (f *Handler) send(w http.ResponseWriter, r *http.Request, name string) error {
	f.mu.Lock()
	s := f.sessions[name]
	f.mu.Unlock()
	if s == nil {
		return &wire.Error{Status: http.StatusNotFound, Text: "unknown session: it has ended, or never began"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSend))
	if err != nil {
		return &wire.Error{Status: http.StatusRequestEntityTooLarge, Text: "the body exceeds 256 KiB, or ends early"}
	}
	messages, err := parseSent(body)
	if err != nil {
		return err
	}
	return s.send(requestNumber(r), messages)
}

// receive answers a request that receives, and opens the session if there is none.
func (f *Handler) receive(w http.ResponseWriter, r *http.Request, key, name string, stream bool) {
	if n, _ := io.CopyN(io.Discard, r.Body, 1); n > 0 {
		http.Error(w, "a request that receives has no body", http.StatusRequestEntityTooLarge)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/javascript; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff") // or browsers would wait for more before they show anything to the page
	h.Set("X-Accel-Buffering", "no")           // nginx would too
	s, serve := f.enter(r, key, name)
	if s == nil {
		f.Reject(r, key, f.remote(r), wire.CodeOverCapacity, textTooMany)
		w.Write(appendEnd([]byte("o\n"), wire.CodeOverCapacity, textTooMany))
		return
	}
	t := &receiving{n: requestNumber(r), stream: stream, units: streamUnits, hungUp: r.Context().Err}
	s.attach(t)
	defer s.detach(t)
	if serve != nil {
		serve(s.deliver)
	}
	defer context.AfterFunc(r.Context(), func() { s.later(0, s.changed.Broadcast) })()
	nc, back := f.Callers.Lend(r) // it is a client's, for whom there is a descriptor
	defer back()
	conn.BoundKernel(nc)
	s.answer(w, t)
}

// answer writes lines to the client until the answer is to end.
func (s *session) answer(w http.ResponseWriter, t *receiving) {
	control := http.NewResponseController(w)
	if t.stream {
		control.Flush()
	}
	for more := true; more; more = t.stream {
		lines, last := s.await(t)
		if lines == nil {
			return
		}
		control.SetWriteDeadline(time.Now().Add(conn.WriteTimeout))
		_, err := w.Write(lines)
		if t.stream {
			err = errors.Join(err, control.Flush())
		}
		if err != nil || last {
			s.answered(t, err)
			return
		}
	}
}

// enter returns the session of this name, or a new one, which serve brings to life; nil if there are too many.
func (f *Handler) enter(r *http.Request, key, name string) (s *session, serve func(feed func())) {
	remote := f.remote(r)
	addr := remote.Addr().Unmap()
	from, _ := addr.Prefix(min(64, addr.BitLen())) // with IPv6 everyone has 2⁶⁴ of them
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.sessions[name]; s != nil {
		return s, nil
	}
	if len(f.sessions) >= f.most || from.IsValid() && f.from[from] >= f.most/4 {
		return nil, nil
	}
	s = &session{of: f, name: name, from: from, lines: []byte("o\n")}
	s.changed.L = &s.mu
	s.socket, serve = f.Open(r, key, s)
	s.socket.Remote, s.held.Conn = remote, s.socket
	f.sessions[name] = s
	f.from[from]++
	return s, serve
}

// leave undoes enter, once.
func (f *Handler) leave(s *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.sessions, s.name)
	if f.from[s.from]--; f.from[s.from] == 0 {
		delete(f.from, s.from)
	}
}

// remote is the address of a client.
func (f *Handler) remote(r *http.Request) netip.AddrPort {
	if a := listen.ClientAddr(r, f.Proxies); a.IsValid() {
		return netip.AddrPortFrom(a, 0)
	}
	peer, _ := netip.ParseAddrPort(r.RemoteAddr) // a Unix socket has none
	return peer
}
