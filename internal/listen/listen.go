// Package listen is where clients and callers come in: addresses, the certificate, the addresses of clients behind
// proxies, and the limit of HTTP connections. It imports nothing of edge's.
package listen

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
)

// Open opens an address that this option names.
func Open(addr, option string) (net.Listener, error) {
	network, rest := Split(addr)
	l, err := net.Listen(network, rest)
	if network == "unix" && errors.Is(err, syscall.EADDRINUSE) && removeStale(rest) {
		l, err = net.Listen(network, rest)
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("the address %s is in use by another program, or there is a file of that name; "+
			"choose one with -%s", rest, option)
	case errors.Is(err, syscall.EACCES) && network == "tcp":
		return nil, fmt.Errorf("cannot listen on %s: ports below 1024 are for root, "+
			"or for programs with the capability CAP_NET_BIND_SERVICE", rest)
	case err != nil:
		return nil, fmt.Errorf("cannot listen on %s: %w", rest, err)
	}
	if network == "unix" {
		os.Chmod(rest, 0o660) // until now the umask had to do
	}
	return l, nil
}

// Split is what package net calls an address of the options.
func Split(addr string) (network, rest string) {
	if name, ok := strings.CutPrefix(addr, "unix:"); ok {
		return "unix", name
	}
	return "tcp", strings.TrimPrefix(strings.TrimPrefix(addr, "plain:"), "tls:")
}

// removeStale removes the socket of a program that has ended without doing so.
func removeStale(name string) bool {
	if info, err := os.Lstat(name); err != nil || info.Mode().Type() != os.ModeSocket {
		return false
	}
	conn, err := net.Dial("unix", name)
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED) && os.Remove(name) == nil // other errors are of one that is alive
}

// Plain reports whether an address is served without TLS although there is a certificate: one that says so, a Unix
// socket, and beside another address one of this machine only, which is for the programs on it.
func Plain(addr string, others int) bool {
	host, _, _ := net.SplitHostPort(strings.TrimPrefix(addr, "tcp:"))
	ip := net.ParseIP(host)
	local := host == "localhost" || ip != nil && ip.IsLoopback()
	return strings.HasPrefix(addr, "plain:") || strings.HasPrefix(addr, "unix:") || local && others > 0
}

func Close(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

// Inherited returns the sockets that systemd has opened for this process, if any.
func Inherited() ([]net.Listener, error) {
	all, _ := activation.Listeners() // its error is always nil
	for i, l := range all {
		if l == nil {
			return nil, fmt.Errorf("cannot listen on descriptor %d, passed by LISTEN_FDS: it is not a listening socket",
				3+i)
		}
	}
	return all, nil
}
