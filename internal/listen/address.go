package listen

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
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

// ParseAddr accepts what Open can open.
func ParseAddr(addr string) (string, error) {
	network, rest := Split(addr)
	_, port, err := net.SplitHostPort(rest)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	_, number := strconv.ParseUint(addr, 10, 16)
	switch {
	case network == "unix" && rest != "", network != "unix" && err == nil && port != "":
		return addr, nil
	case number == nil:
		return "", fmt.Errorf("it must be host:port, :port or unix:/path; did you mean :%s?", addr)
	}
	return "", errors.New("it must be host:port, :port or unix:/path")
}

// ParseNetwork reads an address or a network. unix, for whoever comes over a Unix socket, is the zero Prefix.
func ParseNetwork(s string) (p netip.Prefix, err error) {
	if s == "unix" {
		return p, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	if p, err = netip.ParsePrefix(s); err != nil {
		err = fmt.Errorf("%q is neither an address nor a network like 10.0.0.0/8", s)
	}
	return p, err
}

// Loopback are the networks of this machine.
var Loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// NetworksText lists networks for people.
func NetworksText(all []netip.Prefix) string {
	if slices.Equal(all, Loopback) {
		return "this machine"
	}
	var texts []string
	for _, p := range all {
		text := "unix"
		if p.IsValid() {
			text = strings.TrimSuffix(strings.TrimSuffix(p.String(), "/32"), "/128")
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}
