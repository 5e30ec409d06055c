package main

// The WebSocket handshake: from an HTTP request to a Socket.

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"edge/internal/wire"
)

// upgrader turns HTTP requests into Sockets.
type upgrader struct {
	// Static after construction.
	apps    *atomic.Pointer[apps]
	poller  *poller // nil: every connection has a goroutine
	deflate bool    // clients may have permessage-deflate
	path    string  // that every path of ours begins with
	proxies []netip.Prefix
	probed  *App // of the watchdog; nil without one
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
func (u *upgrader) welcome(key string, r *http.Request) (app *App, code int, reason string) {
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
func (u *upgrader) upgrade(w http.ResponseWriter, r *http.Request, app *App, code int, reason string) {
	if status, problem := checkHandshake(r); status != 0 {
		if status == http.StatusUpgradeRequired {
			w.Header().Set("Connection", "Upgrade") // RFC 9110 section 7.8
			w.Header().Set("Upgrade", "websocket")
			w.Header().Set("Sec-WebSocket-Version", "13")
		}
		http.Error(w, problem, status)
		return
	}
	nc, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this connection cannot be upgraded", http.StatusInternalServerError)
		return
	}
	s := &Socket{app: app}
	s.conn.init(nc, u.poller, &app.bounds)
	if a := clientAddr(r, u.proxies); a.IsValid() {
		s.conn.remote = netip.AddrPortFrom(a, 0)
	}
	early, _ := rw.Reader.Peek(rw.Reader.Buffered()) // frames that came right behind the request
	links := plainLinks
	if u.deflate && offersDeflate(r.Header["Sec-Websocket-Extensions"]) {
		links, s.deflate, s.in.deflate = deflateLinks(), true, true
	}
	buffer := wire.Buffers.Get().(*[]byte)
	defer wire.FreeBuffer(&buffer)
	*buffer = links.handshake((*buffer)[:0], r.Header.Get("Sec-WebSocket-Key"))
	s.serve(*buffer, early, code, reason)
}

// checkHandshake returns an HTTP status and text if r is not a WebSocket handshake (RFC 6455 section 4.2.1), or 0.
func checkHandshake(r *http.Request) (status int, problem string) {
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	switch {
	case !isUpgrade(r):
		return http.StatusUpgradeRequired, "this address is for WebSocket connections"
	case r.Method != http.MethodGet:
		return http.StatusMethodNotAllowed, "a WebSocket handshake must be a GET"
	case !r.ProtoAtLeast(1, 1):
		return http.StatusBadRequest, "a WebSocket handshake needs HTTP/1.1"
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return http.StatusUpgradeRequired, "only version 13 of WebSocket is supported"
	case err != nil || len(key) != 16:
		return http.StatusBadRequest, "Sec-WebSocket-Key must be 16 bytes in base64"
	case r.ContentLength != 0:
		return http.StatusBadRequest, "a WebSocket handshake must not have a body"
	}
	return 0, ""
}

// offersDeflate reports whether one of a client's offers is permessage-deflate on terms that edge keeps (RFC 7692 section 7.1).
// Those are that neither side refers to earlier messages, and that our window is the usual one: gws has no other.
func offersDeflate(lines []string) bool {
	for offer := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		terms := strings.Split(offer, ";")
		if strings.TrimSpace(terms[0]) == "permessage-deflate" && keepsTerms(terms[1:]) {
			return true
		}
	}
	return false
}

func keepsTerms(terms []string) bool {
	var seen []string
	for _, term := range terms {
		name, value, valued := strings.Cut(strings.TrimSpace(term), "=")
		bits, err := strconv.Atoi(strings.Trim(value, `"`))
		switch {
		case slices.Contains(seen, name):
			return false
		case !valued && (name == "server_no_context_takeover" || name == "client_no_context_takeover"):
		case name == "client_max_window_bits" && (!valued || err == nil && 8 <= bits && bits <= 15):
		default:
			return false
		}
		seen = append(seen, name)
	}
	return true
}

// isUpgrade reports whether r asks for WebSocket.
func isUpgrade(r *http.Request) bool {
	return hasToken(r.Header["Upgrade"], "websocket") && hasToken(r.Header["Connection"], "upgrade")
}

// hasToken reports whether one of the header lines lists the token, in upper or lower case.
func hasToken(lines []string, token string) bool {
	for _, line := range lines {
		for t := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}
