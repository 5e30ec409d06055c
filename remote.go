package main

// The server that a command talks to: where it is, how it is trusted, and calls of its HTTP API.

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
)

const (
	dialTimeout    = 10 * time.Second
	requestTimeout = 30 * time.Second
	maxAnswer      = 64 << 20 // bytes

	leastBackoff, mostBackoff = 100 * time.Millisecond, 5 * time.Second
)

// whereabouts are the options that say where a server is that is not described by the server's own.
type whereabouts struct {
	host, cluster, authority string
	tls                      bool
}

func (w *whereabouts) table() []option {
	return []option{
		{name: "host", help: "server elsewhere: HOST or HOST:PORT, with https:// before it for TLS (port 6001, with TLS 443); without it -addr says where", set: text(&w.host)},
		{name: "cluster", help: "cluster of the hosted service, like eu, instead of -host; -id is needed too", set: text(&w.cluster)},
		{"tls", "false", "use TLS with -host", 0, boolean(&w.tls), nil},
		{name: "tls-ca", help: "file with an authority to trust besides the system's, like edge-ca.pem; implies -tls", set: text(&w.authority)},
	}
}

// remote is the server that a command talks to, and its app there.
type remote struct {
	id      string
	key     *Key
	path    string      // before all paths
	network string      // tcp or unix
	api, ws string      // addresses of the HTTP API and of WebSocket connections: two only with the hosted service
	tls     *tls.Config // nil without
	dialer  func(ctx context.Context, network, addr string) (net.Conn, error)
	client  http.Client
}

// newRemote finds the server.
func newRemote(o *options, w whereabouts) (*remote, error) {
	r := &remote{id: o.app.id, key: newKey(o.app.key, o.app.secret), path: o.path, network: "tcp", dialer: (&net.Dialer{Timeout: dialTimeout}).DialContext}
	var err error
	switch {
	case w.host != "" && w.cluster != "":
		err = errors.New("-host and -cluster are two places: give one of them")
	case w.cluster != "":
		w.host = "api-" + w.cluster + ".pusher.com"
		fallthrough
	case w.host != "":
		err = r.elsewhere(w)
	case w.tls || w.authority != "": // else the line would be taken for encrypted
		err = errors.New("-tls and -tls-ca go with -host")
	default:
		r.here(o)
	}
	if err != nil {
		return nil, usageError{err}
	}
	if r.id == "" {
		r.id = "1" // edge takes any then
	}
	r.client = http.Client{
		Timeout:       requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return r.dialer(ctx, r.network, r.api) },
			TLSClientConfig:     r.tls,
			TLSHandshakeTimeout: dialTimeout,
		},
	}
	return r, nil
}

// here finds the server that runs on this machine with the same options.
func (r *remote) here(o *options) {
	others := len(o.addrs) - 1
	i := max(0, slices.IndexFunc(o.addrs, func(addr string) bool { return plain(addr, others) }))
	if o.tlsCert != "" && !plain(o.addrs[i], others) {
		r.tls = pinned(o.tlsCert)
	}
	network, addr := splitAddr(o.addrs[i])
	r.network = network
	if host, port, _ := net.SplitHostPort(addr); network == "tcp" && (host == "" || net.ParseIP(host).IsUnspecified()) {
		addr = net.JoinHostPort("127.0.0.1", port)
		if strings.Contains(host, ":") {
			addr = net.JoinHostPort("::1", port)
		}
	}
	r.api, r.ws = addr, addr
}

// elsewhere finds a server by what -host says.
func (r *remote) elsewhere(w whereabouts) (err error) {
	host, sealed := strings.CutPrefix(w.host, "https://")
	host = strings.TrimSuffix(strings.TrimPrefix(host, "http://"), "/")
	if name, ok := strings.CutPrefix(host, "unix:"); ok {
		r.network, r.api, r.ws = "unix", name, name
		return nil
	}
	hosted := strings.HasSuffix(host, ".pusher.com")
	sealed = sealed || w.tls || w.authority != "" || hosted
	name, port, notBoth := net.SplitHostPort(host)
	if notBoth != nil {
		name, port = strings.Trim(host, "[]"), "6001"
		if sealed {
			port = "443"
		}
	}
	if name == "" || strings.ContainsAny(host, "/ ") {
		return fmt.Errorf("invalid value %q of -host: it must be HOST or HOST:PORT; what comes before all paths is -path", w.host)
	}
	if hosted && r.id == "" {
		return errors.New("the hosted service needs the id of the app: -id")
	}
	r.api, r.ws = net.JoinHostPort(name, port), net.JoinHostPort(name, port)
	if hosted {
		_, cluster, _ := strings.Cut(r.api, "-")
		r.api, r.ws = "api-"+cluster, "ws-"+cluster
	}
	if sealed {
		r.tls, err = trusting(w.authority)
	}
	return err
}

// trusting trusts the system's authorities, and the one in the file.
func trusting(authority string) (*tls.Config, error) {
	if authority == "" {
		return &tls.Config{}, nil
	}
	b, err := os.ReadFile(authority)
	if err != nil {
		return nil, fmt.Errorf("cannot read -tls-ca: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("there is no certificate in -tls-ca %s", authority)
	}
	return &tls.Config{RootCAs: pool}, nil
}

// pinned trusts the very certificate that the server has from this file, for whatever names: whoever can read the one can read the other.
func pinned(file string) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
		b, err := os.ReadFile(file) // anew each time, as the server does
		if err != nil {
			return fmt.Errorf("cannot read -tls-cert: %w", err)
		}
		if block, _ := pem.Decode(b); block == nil || !bytes.Equal(block.Bytes, s.PeerCertificates[0].Raw) {
			return fmt.Errorf("the server has another certificate than the one in %s", file)
		}
		return nil
	}}
}

// host is what requests to an address name as their host.
func (r *remote) host(addr string) string {
	if r.network == "unix" {
		return "localhost"
	}
	return addr
}

// unreachable words an error of the network. Those of net/http name the URL, which has a signature in it.
func (r *remote) unreachable(addr string, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	return fmt.Errorf("cannot reach the server at %s: %w", addr, err)
}

// call makes a call of the HTTP API below the app's path, and returns the answer. Anything but a 2xx with an object is an apiError.
func (r *remote) call(ctx context.Context, method, path string, ps params, body []byte) ([]byte, error) {
	u := url.URL{Scheme: "http", Host: r.host(r.api), Path: r.path + "/apps/" + r.id + path}
	if r.tls != nil {
		u.Scheme = "https"
	}
	u.RawQuery = r.key.signedQuery(method, u.Path, ps, body, time.Now().Unix())
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, usageError{fmt.Errorf("%q is no address of a server", r.api)}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "edge/"+version)
	var answer []byte
	resp, err := r.client.Do(req)
	if err == nil {
		defer resp.Body.Close()
		answer, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, r.unreachable(r.api, context.Cause(ctx))
	case err != nil:
		return nil, r.unreachable(r.api, err)
	case resp.StatusCode/100 != 2:
		return nil, &apiError{resp.StatusCode, fmt.Sprintf("the server answered %d: %s", resp.StatusCode, oneLine(answer))}
	case len(answer) > maxAnswer:
		return nil, fmt.Errorf("the server's answer has more than %d MB", maxAnswer>>20)
	}
	if _, err := members(answer); err != nil { // a captive portal says 200 too
		return nil, &apiError{resp.StatusCode, fmt.Sprintf("the server at %s does not answer like a Pusher server: %.100q", r.api, oneLine(answer))}
	}
	return answer, nil
}

// oneLine is text from elsewhere as it can be shown on a terminal: a redirection names the URL, which has a signature in it.
func oneLine(b []byte) string {
	text := strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return ' '
		}
		return c
	}, string(hideSignatures(b[:min(len(b), 1000)])))
	return strings.Join(strings.Fields(text), " ")
}

// passing reports whether an error of call may be gone the next time.
func passing(err error) bool {
	var refused *apiError
	var usage usageError
	var untrusted *tls.CertificateVerificationError
	var noTLS tls.RecordHeaderError
	if errors.As(err, &refused) {
		return refused.status >= 500 || refused.status == http.StatusTooManyRequests
	}
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return true // or not valid yet: the clock of a small machine is set some time after it has started
	}
	return !errors.As(err, &usage) && !errors.As(err, &untrusted) && !errors.As(err, &noTLS) && !errors.Is(err, http.ErrSchemeMismatch)
}

// backoff is how long to wait before the try after this one, counted from 0.
func backoff(try int) time.Duration {
	d := min(mostBackoff, leastBackoff<<min(try, 10))
	return d/2 + rand.N(d/2)
}
