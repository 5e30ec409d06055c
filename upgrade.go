package main

// The WebSocket handshake: from an HTTP request to a Socket.

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"

	"edge/internal/conn"
	"edge/internal/listen"
	"edge/internal/wire"
)

// upgrader turns HTTP requests into Sockets.
type upgrader struct {
	// Static after construction.
	apps    *atomic.Pointer[apps]
	poller  *conn.Poller // nil: every connection has a goroutine
	deflate bool         // clients may have permessage-deflate
	path    string       // that every path of ours begins with
	proxies []netip.Prefix
	probed  *app // of the watchdog; nil without one
}

// serveHTTP answers a WebSocket handshake on any path.
func (u *upgrader) serveHTTP(w http.ResponseWriter, r *http.Request) {
	key, ok := strings.CutPrefix(r.URL.Path, u.path+"/app/")
	if !ok || key == "" || strings.Contains(key, "/") {
		u.upgrade(w, r, u.apps.Load().none, wire.CodePathNotFound, "Path not found: connect to "+u.path+"/app/{key}")
		return
	}
	app, code, reason := u.welcome(key, r)
	u.upgrade(w, r, app, code, reason)
}

// welcome finds the app of a key, and says with which code and why the client is refused, if it is.
func (u *upgrader) welcome(key string, r *http.Request) (app *app, code int, reason string) {
	all := u.apps.Load()
	app = all.byKey[key]
	if probe := u.probed; probe != nil && key == probe.keys()[0].Name {
		app = probe
	}
	if app == nil {
		return all.none, wire.CodeUnknownKey, fmt.Sprintf("App key %.60s does not exist on this server", strings.ToValidUTF8(key, "?"))
	}
	code, reason = wire.CheckVersion(r.URL.Query().Get("protocol"))
	if code == 0 && !app.allowsOrigin(r.Header.Get("Origin")) {
		code, reason = wire.CodeUnauthorized, "Origin not allowed"
	}
	return app, code, reason
}

// upgrade answers a WebSocket handshake. A client that is refused for a reason of the Pusher protocol is told so after
// the 101, by pusher:error and a close frame: to an HTTP status clients react by trying again. code is 0, or that reason.
func (u *upgrader) upgrade(w http.ResponseWriter, r *http.Request, app *app, code int, reason string) {
	s := newClient(app)
	first, early, ok := s.Conn.Upgrade(w, r, conn.UpgradeOptions{Poller: u.poller, Deflate: u.deflate}, &app.Conns, s)
	if !ok {
		return
	}
	if a := listen.ClientAddr(r, u.proxies); a.IsValid() {
		s.Conn.Remote = netip.AddrPortFrom(a, 0)
	}
	s.serve(first, early, nil, code, reason)
}

// openSession makes the client of a session over HTTP, whose connection is nc.
func (u *upgrader) openSession(r *http.Request, key string, nc net.Conn) (c *conn.Conn, serve func(feed func())) {
	app, code, reason := u.welcome(key, r)
	s := newClient(app)
	s.Conn.Init(nc, nil, &app.Conns, s)
	return &s.Conn, func(feed func()) { s.serve(nil, nil, feed, code, reason) }
}

// rejectSession notes that a client over HTTP was rejected.
func (u *upgrader) rejectSession(r *http.Request, key string, remote netip.AddrPort, code int, reason string) {
	app, _, _ := u.welcome(key, r)
	s := newClient(app)
	s.Conn.Remote = remote
	s.noteRejected(code, reason)
}
