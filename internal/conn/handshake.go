package conn

// The WebSocket handshake (RFC 6455 section 4.2), and the offer of compression in it.

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// UpgradeOptions are the same for all handshakes of a server.
type UpgradeOptions struct {
	Poller  *Poller // nil: every connection has a goroutine
	Deflate bool    // clients may have permessage-deflate
}

// Upgrade answers a WebSocket handshake, and makes c its connection, for h to handle. first is the answer, which is to
// be sent before anything else; early is what the client has sent already. Not ok is a request that is answered: it was
// none.
func (c *Conn) Upgrade(w http.ResponseWriter, r *http.Request, o UpgradeOptions, g *Group, h Handler) (
	first, early []byte, ok bool) {
	if status, problem := checkHandshake(r); status != 0 {
		if status == http.StatusUpgradeRequired {
			w.Header().Set("Connection", "Upgrade") // RFC 9110 section 7.8
			w.Header().Set("Upgrade", "websocket")
			w.Header().Set("Sec-WebSocket-Version", "13")
		}
		http.Error(w, problem, status)
		return nil, nil, false
	}
	nc, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this connection cannot be upgraded", http.StatusInternalServerError)
		return nil, nil, false
	}
	c.Init(nc, o.Poller, g, h)
	early, _ = rw.Reader.Peek(rw.Reader.Buffered()) // frames that came right behind the request
	links := plainLinks
	if o.Deflate && offersDeflate(r.Header["Sec-Websocket-Extensions"]) {
		links, c.in.deflate = deflateLinks(), true
	}
	return links.handshake(nil, r.Header.Get("Sec-WebSocket-Key")), early, true
}

// checkHandshake returns an HTTP status and text if r is not a WebSocket handshake (RFC 6455 section 4.2.1), or 0.
func checkHandshake(r *http.Request) (status int, problem string) {
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	switch {
	case !IsUpgrade(r):
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

// offersDeflate reports whether one of a client's offers is permessage-deflate on terms that edge keeps (RFC 7692
// section 7.1). Those are that neither side refers to earlier messages, and that our window is the usual one: gws has
// no other.
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

// IsUpgrade reports whether r asks for WebSocket.
func IsUpgrade(r *http.Request) bool {
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
