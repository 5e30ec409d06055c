package listen

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// ClientAddr is the address that trusted proxies have noted as that of the client: the last of X-Forwarded-For that is
// not one of theirs. It is not valid if the connection is not from one of them, or they have noted nothing.
func ClientAddr(r *http.Request, proxies []netip.Prefix) (client netip.Addr) {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr) // a Unix socket has none
	if !Within(proxies, peer.Addr().Unmap().WithZone("")) {
		return client
	}
	noted := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
	for _, text := range slices.Backward(noted) {
		text = strings.TrimSpace(text)
		a, err := netip.ParseAddr(text)
		if err != nil { // some proxies note the port too
			var with netip.AddrPort
			with, err = netip.ParseAddrPort(text)
			a = with.Addr()
		}
		if err != nil {
			break
		}
		if client = a.Unmap(); !Within(proxies, client) {
			break
		}
	}
	return client
}

// Within reports whether one of the networks, which proxies has read, contains a. No address is that of who comes over
// a Unix socket.
func Within(networks []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool {
		return p.Contains(a) || !p.IsValid() && !a.IsValid()
	})
}

// CallerAddr is the address of whoever has sent r, for people to read.
func CallerAddr(r *http.Request, proxies []netip.Prefix) string {
	if a := ClientAddr(r, proxies); a.IsValid() {
		return a.String()
	}
	return r.RemoteAddr
}
