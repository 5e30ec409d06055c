package main

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// clientAddr is the address that trusted proxies have noted as that of the client: the last of X-Forwarded-For that is not one of
// theirs. It is not valid if the connection is not from one of them, or they have noted nothing.
func clientAddr(r *http.Request, proxies []netip.Prefix) (client netip.Addr) {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr) // a Unix socket has none
	if !within(proxies, peer.Addr().Unmap().WithZone("")) {
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
		if client = a.Unmap(); !within(proxies, client) {
			break
		}
	}
	return client
}

// within reports whether one of the networks, which proxies has read, contains a. No address is that of who comes over a Unix socket.
func within(networks []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) || !p.IsValid() && !a.IsValid() })
}

// callerAddr is the address of whoever has sent r, for people to read.
func callerAddr(r *http.Request, proxies []netip.Prefix) string {
	if a := clientAddr(r, proxies); a.IsValid() {
		return a.String()
	}
	return r.RemoteAddr
}
