package main

// Clients over HTTP: what pusher-js falls back to where a proxy or a captive network keeps WebSocket from getting through.
//
//	POST {-http-path}/app/{key}/{server}/{session}/xhr_streaming   receives lines, in one answer without an end
//	POST {-http-path}/app/{key}/{server}/{session}/xhr             receives lines: an answer has one at least
//	POST {-http-path}/app/{key}/{server}/{session}/xhr_send        sends a JSON array of messages; an empty one says: still here
//
// The client has made up server and session, which with the key name its session: one Socket. The lines are
//
//	o              the session is open; before all others
//	a["…"]         a message of the protocol (clients take m"…" for the same); a[] answers an empty array
//	h              heartbeat: it is answered with an empty array over a stream, and else with the next request
//	c[4200,"…"]    the end, with a close code
//
// This file answers the requests; session.go has what is between them.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/listen"
	"edge/internal/wire"
)

const textTooMany = "Too many clients over HTTP, in all or from one address (behind a proxy: see -trusted-proxies)"

// fallback answers the requests of clients over HTTP.
type fallback struct {
	// Static after construction.
	up       *upgrader
	callers  *listen.Callers
	memory   *conn.Budget
	path     string // before /app/
	most     int    // sessions,
	mostFrom int    // and from one address

	mu       sync.Mutex // guards the following
	sessions map[string]*session
	from     map[netip.Addr]int
}

func newFallback(up *upgrader, c *listen.Callers, b *conn.Budget, path string) *fallback {
	most := max(64, b.Sessions())
	return &fallback{up: up, callers: c, memory: b, path: path, most: most, mostFrom: most / 4,
		sessions: make(map[string]*session), from: make(map[netip.Addr]int)}
}

// serveHTTP answers every request below the path. Browsers ask first (OPTIONS), each time.
func (f *fallback) serveHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*") // -origins is about what the session may do: the page is to learn why not
	h.Set("Cache-Control", "no-store, no-transform")
	part := strings.Split(strings.TrimPrefix(r.URL.Path, f.path), "/") // "", app, key, server, session, what
	if len(part) != 6 || part[1] != "app" || !isSession(part[3], part[4]) || !slices.Contains([]string{"xhr", "xhr_streaming", "xhr_send"}, part[5]) {
		http.Error(w, fmt.Sprintf("not found: clients over HTTP use %s/app/{key}/{server}/{session}/ and xhr_streaming, xhr or xhr_send", f.path), http.StatusNotFound)
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
		f.send(w, r, name)
	default:
		f.receive(w, r, part[2], name, part[5] == "xhr_streaming")
	}
}

// isSession reports whether these are what clients make up: up to three digits, and a random word that nobody guesses.
func isSession(server, word string) bool {
	return server != "" && len(server) <= 3 && strings.Trim(server, "0123456789") == "" && len(word) >= 8 && len(word) <= 64 && wire.ValidKey(word)
}

// requestNumber is the number that a client gives its requests, all that receive or send for any session of a page counted; 0 for none.
func requestNumber(r *http.Request) uint64 {
	n, _ := strconv.ParseUint(r.URL.Query().Get("n"), 10, 64)
	return n
}

// send answers xhr_send. The error is for people: clients do not look at it.
func (f *fallback) send(w http.ResponseWriter, r *http.Request, name string) {
	err := error(&wire.Error{Status: http.StatusNotFound, Text: "unknown session: it has ended, or never began"})
	if s := f.find(name); s != nil {
		err = s.send(r)
	}
	var e *wire.Error
	if errors.As(err, &e) {
		http.Error(w, e.Text, e.Status)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// receive answers a request that receives, and opens the session if there is none.
func (f *fallback) receive(w http.ResponseWriter, r *http.Request, key, name string, stream bool) {
	if n, _ := io.CopyN(io.Discard, r.Body, 1); n > 0 {
		http.Error(w, "a request that receives has no body", http.StatusRequestEntityTooLarge)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/javascript; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff") // or browsers would wait for more before they show anything to the page
	h.Set("X-Accel-Buffering", "no")           // nginx would too
	t := &receiving{n: requestNumber(r), stream: stream, units: streamUnits, hungUp: r.Context().Err}
	s := f.find(name)
	if s != nil {
		s.attach(t)
	} else if s = f.open(r, key, name, t); s == nil {
		w.Write(appendEnd([]byte("o\n"), wire.CodeOverCapacity, textTooMany))
		return
	}
	defer s.detach(t)
	defer context.AfterFunc(r.Context(), s.wake)()
	nc, back := f.callers.Lend(r) // it is a client's, for whom there is a descriptor
	defer back()
	if nc != nil {
		conn.BoundKernel(nc)
	}
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
		if err == nil && t.stream {
			err = control.Flush()
		}
		if err != nil || last {
			s.answered(t, err)
			return
		}
	}
}

// find returns the session of this name, or nil.
func (f *fallback) find(name string) *session {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sessions[name]
}

// open makes a session that t receives for. It returns nil if there are too many.
func (f *fallback) open(r *http.Request, key, name string, t *receiving) *session {
	app, code, reason := f.up.welcome(key, r)
	socket := newClient(app)
	s := &session{of: f, name: name, socket: socket, receiving: t, held: conn.Holding{Conn: &socket.Conn}}
	s.changed.L = &s.mu
	if t.n > 0 {
		s.next = t.n + 1
	}
	socket.Conn.Init(s, nil, &app.Conns, socket)
	socket.Conn.Remote, _ = netip.ParseAddrPort(r.RemoteAddr) // a Unix socket has none
	if a := listen.ClientAddr(r, f.up.proxies); a.IsValid() {
		socket.Conn.Remote = netip.AddrPortFrom(a, 0)
	}
	s.from = network(socket.Conn.Remote.Addr().Unmap())
	switch there, ok := f.enter(s); {
	case !ok:
		app.Counts.Refuse("connection", strconv.Itoa(wire.CodeOverCapacity))
		socket.Notify(channel.Notice{About: channel.AboutRejections, What: channel.NoticeRejected, Code: wire.CodeOverCapacity, Reason: textTooMany})
		return nil
	case there != s: // another request was faster
		there.attach(t)
		return there
	}
	socket.serve(nil, nil, s.deliver, code, reason)
	return s
}

// enter makes s the session of its name, unless there is one, which it returns, or there are too many.
func (f *fallback) enter(s *session) (there *session, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if there := f.sessions[s.name]; there != nil {
		return there, true
	}
	if len(f.sessions) >= f.most || s.from.IsValid() && f.from[s.from] >= f.mostFrom {
		return nil, false
	}
	f.sessions[s.name] = s
	f.from[s.from]++
	return s, true
}

// leave undoes enter.
func (f *fallback) leave(s *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sessions[s.name] != s {
		return
	}
	delete(f.sessions, s.name)
	if f.from[s.from]--; f.from[s.from] == 0 {
		delete(f.from, s.from)
	}
}

// network is what counts as one address: with IPv6 everyone has 2⁶⁴ of them.
func network(a netip.Addr) netip.Addr {
	if a.Is6() {
		p, _ := a.WithZone("").Prefix(64)
		return p.Addr()
	}
	return a
}
