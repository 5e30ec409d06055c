package main

// The server that a command talks to: its address, how it is trusted, and calls of its HTTP API.

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"edge/internal/channel"
	"edge/internal/config"
	"edge/internal/listen"
	"edge/internal/sign"
	"edge/internal/wire"
)

const (
	dialTimeout    = 10 * time.Second
	requestTimeout = 30 * time.Second
	maxAnswer      = 64 << 20 // bytes

	leastBackoff, mostBackoff = 100 * time.Millisecond, 5 * time.Second
)

// whereabouts are the options for a server that the server's own options do not describe.
type whereabouts struct {
	host, authority string
	tls             bool
}

func (w *whereabouts) table() []config.Option {
	return []config.Option{
		config.New("host", "", &w.host, "server elsewhere: HOST or HOST:PORT, with https:// before it for TLS "+
			"(port 6001, with TLS 443); without it -addr says where"),
		config.New("tls", "false", &w.tls, "use TLS with -host"),
		config.New("tls-ca", "", &w.authority, "file with an authority to trust besides the system's, "+
			"like edge-ca.pem; implies -tls"),
	}
}

// remote is the server that a command talks to, and its app there. All fields are static after construction.
type remote struct {
	id            string
	key           *sign.Key
	path          string // before all paths
	network, addr string // tcp or unix
	dial          func(context.Context) (net.Conn, error)
	trust         func() (*tls.Config, error) // nil without TLS
	client        http.Client
}

// newRemote finds the server.
func newRemote(o config.Options, w whereabouts) (r *remote, err error) {
	r = &remote{id: cmp.Or(o.Apps[0].ID, "1"), key: sign.NewKey(o.Apps[0].Key, o.Apps[0].Secret), path: o.Path} // edge takes any id then
	switch {
	case w.host != "":
		err = r.elsewhere(w)
	case w.tls || w.authority != "": // without TLS all the same, the line would be taken for encrypted
		err = errors.New("-tls and -tls-ca go with -host")
	default:
		r.here(o)
	}
	if err == nil && r.trust != nil {
		_, err = r.trust()
	}
	if err != nil {
		return nil, usageError{err}
	}
	r.dial = r.connect
	r.client = http.Client{
		Timeout:       requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return r.dial(ctx) },
		},
	}
	return r, nil
}

// here finds the server that runs on this machine with the same options.
func (r *remote) here(o config.Options) {
	others := len(o.Addrs) - 1
	i := max(0, slices.IndexFunc(o.Addrs, func(addr string) bool { return listen.Plain(addr, others) }))
	r.network, r.addr = listen.Split(o.Addrs[i])
	if o.TLSCert != "" && !listen.Plain(o.Addrs[i], others) {
		r.trust = func() (*tls.Config, error) { return trusting("-tls-cert", o.TLSCert, true) }
	}
}

// elsewhere finds a server by -host.
func (r *remote) elsewhere(w whereabouts) error {
	var unix bool
	if r.addr, unix = strings.CutPrefix(w.host, "unix:"); unix {
		r.network = "unix"
		return nil
	}
	host, port := w.host, "6001"
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() {
		host = "[" + host + "]"
	}
	if !strings.Contains(host, "://") {
		host = "http://" + host
	}
	u, err := url.Parse(strings.TrimSuffix(host, "/"))
	if err != nil || !strings.HasPrefix(u.Scheme, "http") || u.Hostname() == "" || u.String() != u.Scheme+"://"+u.Host {
		return fmt.Errorf("invalid value %q of -host: it must be HOST or HOST:PORT; a prefix of all paths is -path", w.host)
	}
	if w.tls || w.authority != "" || u.Scheme == "https" {
		port = "443"
		r.trust = func() (*tls.Config, error) { return trusting("-tls-ca", w.authority, false) }
	}
	r.network, r.addr = "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port))
	return nil
}

// trusting trusts the system's authorities and the certificates in the file of an option. If it is the server's own, the
// server is known by the first name in it, whatever its address.
func trusting(option, file string, own bool) (*tls.Config, error) {
	if file == "" {
		return &tls.Config{}, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", option, err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("there is no certificate in %s %s", option, file)
	}
	config := &tls.Config{RootCAs: pool}
	for block, rest := pem.Decode(b); own && block != nil && config.ServerName == ""; block, rest = pem.Decode(rest) {
		if leaf, err := x509.ParseCertificate(block.Bytes); err == nil { // else it is the key
			for _, ip := range leaf.IPAddresses {
				leaf.DNSNames = append(leaf.DNSNames, ip.String())
			}
			config.ServerName = cmp.Or(leaf.DNSNames...)
		}
	}
	return config, nil
}

// connect connects to the server, with TLS if it has that. The file to trust is read each time, as the server does.
func (r *remote) connect(ctx context.Context) (net.Conn, error) {
	d := &net.Dialer{Timeout: dialTimeout}
	if r.trust == nil {
		return d.DialContext(ctx, r.network, r.addr)
	}
	config, err := r.trust()
	if err != nil {
		return nil, err
	}
	return (&tls.Dialer{NetDialer: d, Config: config}).DialContext(ctx, r.network, r.addr)
}

// host is the host that requests name.
func (r *remote) host() string {
	if r.network == "unix" {
		return "localhost"
	}
	return r.addr
}

// unreachable words an error of the network.
func (r *remote) unreachable(err error) error {
	return fmt.Errorf("cannot reach the server at %s: %w", r.addr, bare(err))
}

// bare is an error without what net and net/http put before it, like the URL, which has a signature in it.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var number syscall.Errno
	if errors.As(err, &number) {
		err = number
	}
	return err
}

// call makes a call of the HTTP API below the app's path, and reads the answer, an object, into answer. If the server
// answers anything else, the error is an wire.Error.
func (r *remote) call(ctx context.Context, method, path string, ps sign.Params, body []byte, answer any) error {
	u := url.URL{Scheme: "http", Host: r.host(), Path: r.path + "/apps/" + r.id + path} // dial sees to TLS
	u.RawQuery = r.key.SignedQuery(method, u.Path, ps, body, time.Now().Unix())
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return r.unreachable(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "edge/"+version)
	var b []byte
	resp, err := r.client.Do(req)
	if err == nil {
		defer resp.Body.Close()
		b, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return r.unreachable(context.Cause(ctx))
	case err != nil:
		return r.unreachable(err)
	case resp.StatusCode/100 != 2:
		return &wire.Error{Status: resp.StatusCode, Text: fmt.Sprintf("the server answered %d: %s", resp.StatusCode, oneLine(b))}
	case json.Unmarshal(b, answer) != nil: // a captive portal says 200 too
		const text = "the server at %s does not answer like a Pusher server: %.100q"
		return &wire.Error{Status: resp.StatusCode, Text: fmt.Sprintf(text, r.addr, oneLine(b))}
	}
	return nil
}

// oneLine is text from elsewhere as it can be shown on a terminal: a redirection names the URL, which has a signature in it.
func oneLine(b []byte) string {
	words := strings.FieldsFunc(string(channel.HideSignatures(b[:min(len(b), 1000)])), func(c rune) bool {
		return c == ' ' || !unicode.IsPrint(c)
	})
	return strings.Join(words, " ")
}

// backoff is how long to wait before the try after this one, counted from 0.
func backoff(try int) time.Duration {
	d := min(mostBackoff, leastBackoff<<min(try, 10))
	return d/2 + rand.N(d/2)
}

// pause waits, and reports whether ctx let it.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
