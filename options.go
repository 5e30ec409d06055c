package main

// The one table of options, which flags, variables, the configuration file, -help and the README share.

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/listen"
	"edge/internal/webhook"
	"edge/internal/wire"
)

// options are what a server is to do.
type options struct {
	config      string
	addrs       []string
	path        string // before every path of ours: "" or /edge
	httpPath    string // behind it, before those for clients over HTTP; "" for none
	deflate     bool
	tlsCert     string
	tlsKey      string
	proxies     []netip.Prefix // whose X-Forwarded-For counts
	memory      int64          // bytes the process may use
	connections int            // of all apps together
	metricsAddr string
	logFormat   string
	pidFile     string
	verbose     bool
	console     bool
	version     bool
	secretShown bool           // on the command line
	choosing    bool           // it is for a command, which takes one of apps: -id says which
	devAuth     []netip.Prefix // who may have anything signed
	app         appOptions     // the one app of a simple set-up, and what apps of the file inherit
	apps        []appOptions   // all there are
	consoleLink string         // what follows /console in the banner
	given       given
	givenApps   []given  // by the file, of each of apps; nil if it has none
	found       []string // variables of other servers that credentials come from
}

// appOptions are what there is to know of one app.
type appOptions struct {
	id           string // "" if any is accepted, for a single app
	key, secret  string
	secretFile   string
	moreKeys     []keyPair
	limits       channel.Limits
	origins      []string      // allowed values of the Origin header; none allows all
	authWindow   time.Duration // how far the clock of an API client may be off; 0 for no check
	hooks        []string      // URLs that webhook.Check accepts
	webhookGrace time.Duration
	madeKey      bool // not given, made up
	madeSecret   bool
}

type keyPair struct{ key, secret string }

// option is one of them, by the name it has everywhere: the flag -send-buffer is the variable EDGE_SEND_BUFFER and the key
// "send-buffer" of the file.
type option struct {
	name, value, help string
	traits            traits
	set               func(string) error
	clear             func() // for one that repeats: forgets what it was set to
}

// traits are a set of properties.
type traits uint8

const (
	forApp   traits = 1 << iota // an app of the file may have its own
	repeats                     // every further value is added
	masked                      // never printed
	onlyFlag                    // neither a variable nor in the file
	commas                      // values with commas between, which the file may have as a list
)

// inFile reports whether the configuration file may have it.
func (o option) inFile() bool { return o.traits&onlyFlag == 0 && o.name != "config" }

// optionTable is every option. The functions write to o.
func optionTable(o *options) []option {
	return append([]option{
		{name: "config", help: "file with any of these options, and several apps (edge config -example prints one)", set: text(&o.config)},
		{"addr", ":6001", "address to listen on, may be repeated: host:port, :port for all addresses, unix:/path; with TLS a further one on loopback or unix: is plain, as is plain:host:port, but not tls:host:port", repeats, add(&o.addrs, checkAddr), forget(&o.addrs)},
		{name: "path", help: "prefix before all paths, for a proxy that keeps it: /edge", set: prefix(&o.path)},
		{"http-path", "/pusher", "path, behind -path, for clients that WebSocket does not reach (httpPath of pusher-js); off for none", 0, prefix(&o.httpPath), nil},
		{name: "tls-cert", help: "file with the certificate, in PEM; it is read again when it changes", set: text(&o.tlsCert)},
		{name: "tls-key", help: "file with its key", set: text(&o.tlsKey)},
		{"deflate", "false", "offer permessage-deflate: clients that want it get events of 200 bytes and more compressed", 0, boolean(&o.deflate), nil},
		{name: "trusted-proxies", help: "addresses of proxies whose X-Forwarded-For names the client, with commas: 127.0.0.1, 10.0.0.0/8, unix", traits: commas, set: proxies(&o.proxies), clear: forget(&o.proxies)},
		{"dev-auth", "false", "for development: sign whatever is asked for at /pusher/auth and /pusher/user-auth, for this machine only or for addresses: -dev-auth=192.168.1.0/24,127.0.0.1", commas, signers(&o.devAuth), forget(&o.devAuth)},
		{name: "memory", help: "memory that edge may use, like 96M or 1G; without it most of what its control group allows, or half of the machine's", set: size(&o.memory, 16<<20)},
		{name: "metrics-addr", help: "address for GET /metrics, /health and /ready, like 127.0.0.1:9601; without it there are no metrics", set: checked(&o.metricsAddr, checkAddr)},
		{"log", "text", "format of lines: text, like level=INFO msg=…, or json", 0, checked(&o.logFormat, checkLog), nil}, // auto and logfmt are old names of text
		{"verbose", "false", "print connections, subscriptions, everything refused, events that reach nobody and every frame", 0, boolean(&o.verbose), nil},
		{"console", "true", "serve the debug console at /console, for who knows the app secret", 0, boolean(&o.console), nil},
		{name: "pid-file", help: "file to write the process id to", set: text(&o.pidFile)},
		{"version", "false", "print the version and end", onlyFlag, boolean(&o.version), nil},
	}, appTable(&o.app)...)
}

// appTable is every option that an app of the file may have of its own.
func appTable(a *appOptions) []option {
	l := &a.limits
	return []option{
		{"id", "", "app id; without it any id is accepted in API paths", forApp, checked(&a.id, checkID), nil},
		{"key", "", "app key; without it one is made up and printed", forApp, checked(&a.key, checkKey), nil},
		{"secret", "", "app secret; without it one is made up and printed (EDGE_SECRET keeps it off the command line)", forApp | masked, text(&a.secret), nil},
		{"secret-file", "", "file that holds the app secret; neither command line nor environment show it", forApp, text(&a.secretFile), nil},
		{"more-keys", "", "further keys that are valid too, KEY:SECRET with spaces between; -key signs webhooks", forApp | repeats | masked, items(&a.moreKeys, strings.Fields, parsePair), forget(&a.moreKeys)},
		{"client-events", "true", "allow client events on private and presence channels", forApp, boolean(&l.ClientEvents), nil},
		{"max-connections", "", "WebSocket connections at once; more are refused with 4004; without it as many as memory and open files allow", forApp, number(&l.MaxConnections, 1, math.MaxInt32), nil},
		{"authorized-connections", "0", "time in which a client has to sign in or to join a private channel before it is closed with 4009; 0 asks for neither", forApp, duration(&l.AuthorizeWithin, 0), nil},
		{"origins", "", "origins that pages may connect from, with commas: https://example.com, example.com or *.example.com; without it all", forApp | commas, items(&a.origins, byComma, parseOrigin), forget(&a.origins)},
		{"activity-timeout", "120s", "silence after which a client is pinged", forApp, duration(&l.ActivityTimeout, time.Second), nil},
		{"pong-timeout", "30s", "time it then has to answer before it is closed with 4201", forApp, duration(&l.PongTimeout, time.Millisecond), nil},
		{"auth-window", "600s", "how far the clock of an API client may be off; 0 for no check", forApp, duration(&a.authWindow, 0), nil},
		{"event-size", "10240", "bytes of data an event may have", forApp, number(&l.EventSize, 1, 1<<20), nil},
		{"channel-name", "200", "bytes the name of a channel may have (164 on the hosted service)", forApp, number(&l.ChannelName, len(wire.UserChannelPrefix)+wire.MaxUserID, 1024), nil},
		{"presence-members", "100", "users a presence channel may have", forApp, number(&l.PresenceMembers, 1, math.MaxInt32), nil},
		{"presence-user-size", "1024", "bytes of user_info a member may have", forApp, number(&l.PresenceUserSize, 2, conn.MaxPayload), nil},
		{"cache-ttl", "30m", "how long a cache channel keeps its last event", forApp, duration(&l.CacheTTL, time.Second), nil},
		{"send-buffer", "1048576", "bytes that may wait for a client that reads slowly; beyond it is cut off", forApp, number(&l.SendBuffer, 4096, math.MaxInt32), nil},
		{"subscription-count", "false", "send pusher:subscription_count when subscriptions of a channel change", forApp, boolean(&l.SubscriptionCount), nil},
		{"webhook", "", "URL to be told what happens, may be repeated (in the variable: with spaces); see Webhooks", forApp | repeats, items(&a.hooks, strings.Fields, checkHook), forget(&a.hooks)},
		{"webhook-grace", "3s", "time for a channel or member to come back before channel_vacated or member_removed is told", forApp, duration(&a.webhookGrace, 0), nil},
	}
}

func text(to *string) func(string) error {
	return func(s string) error { *to = s; return nil }
}

// checked is text for what check accepts.
func checked(to *string, check func(string) error) func(string) error {
	return func(s string) error { *to = s; return check(s) }
}

// add adds what check accepts to a list.
func add(to *[]string, check func(string) error) func(string) error {
	return func(s string) error { *to = append(*to, s); return check(s) }
}

func forget[T any](list *[]T) func() { return func() { *list = nil } }

// prefix takes the beginning of a path, with or without slashes around it; off is none.
func prefix(to *string) func(string) error {
	return func(s string) error {
		*to = ""
		if s = strings.Trim(s, "/"); s != "" && s != "off" {
			*to = "/" + s
		}
		if strings.ContainsAny(s, "?#%{}\\ \t") || *to != "" && path.Clean(*to) != *to {
			return errors.New("it must be the beginning of a path, like /edge")
		}
		return nil
	}
}

// items takes several values, and adds them to those it got before.
func items[T any](to *[]T, split func(string) []string, parse func(string) (T, error)) func(string) error {
	return func(s string) error {
		for _, text := range split(s) {
			item, err := parse(text)
			if err != nil {
				return err
			}
			*to = append(*to, item)
		}
		return nil
	}
}

// byComma returns what stands between commas, without spaces around it.
func byComma(s string) (found []string) {
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			found = append(found, item)
		}
	}
	return found
}

// parseOrigin takes what allowsOrigin can find: an origin as browsers send it, a host, *.host or *.
func parseOrigin(s string) (string, error) {
	if s == "*" || strings.EqualFold(s, "file://") { // pages of an app have it
		return s, nil
	}
	scheme, host, full := strings.Cut(strings.TrimSuffix(s, "/"), "://")
	if !full {
		scheme, host = "", strings.TrimPrefix(s, "*.")
	}
	port := !full && strings.Contains(host, ":") && !strings.HasSuffix(host, "]")
	if full && scheme == "" || host == "" || host[0] == '.' || port || strings.ContainsAny(host, "/*?#@ ") {
		return "", fmt.Errorf("no page has the origin %q: it must be like https://example.com, http://localhost:8080, "+
			"example.com or *.example.com", s)
	}
	if full {
		return scheme + "://" + host, nil
	}
	return s, nil
}

// proxies takes addresses and networks with commas between them, and adds them to those it got before.
func proxies(to *[]netip.Prefix) func(string) error { return items(to, byComma, parseProxy) }

// parseProxy takes an address or a network. unix, for whoever comes over a Unix socket, is the zero Prefix.
func parseProxy(s string) (p netip.Prefix, err error) {
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

// checkHook takes what webhook.Check accepts.
func checkHook(url string) (string, error) {
	_, err := webhook.Check(url)
	return url, err
}

// parsePair takes KEY:SECRET.
func parsePair(s string) (keyPair, error) {
	key, secret, _ := strings.Cut(s, ":")
	if key == "" || secret == "" || checkKey(key) != nil {
		return keyPair{}, errors.New("it must be KEY:SECRET, or several with spaces between")
	}
	return keyPair{key, secret}, nil
}

func boolean(to *bool) func(string) error {
	return func(s string) (err error) {
		if *to, err = strconv.ParseBool(s); err != nil {
			return errors.New("it must be true or false")
		}
		return nil
	}
}

func number(to *int, least, most int) func(string) error {
	return func(s string) (err error) {
		if *to, err = strconv.Atoi(s); err != nil || *to < least || *to > most {
			return fmt.Errorf("it must be a whole number from %d to %d", least, most)
		}
		return nil
	}
}

// size takes a number of bytes, with K, M or G behind it of 1024, 1024² or 1024³ bytes.
func size(to *int64, least int64) func(string) error {
	return func(s string) error {
		digits, shift := strings.TrimRight(strings.ToUpper(s), "IB"), 0
		if n := len(digits) - 1; n >= 0 && strings.Contains("KMG", digits[n:]) {
			digits, shift = digits[:n], 10*(1+strings.Index("KMG", digits[n:]))
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n > math.MaxInt>>shift || n<<shift < least {
			return fmt.Errorf("it must be a size like 96M or 1G, at least %s", sizeText(least))
		}
		*to = n << shift
		return nil
	}
}

// sizeText is a number of bytes for people to read.
func sizeText(bytes int64) string {
	for shift, unit := range []string{"bytes", "KB", "MB"} {
		if n := bytes >> (10 * shift); n < 10<<10 {
			return fmt.Sprintf("%d %s", n, unit)
		}
	}
	return fmt.Sprintf("%d GB", bytes>>30)
}

// duration takes 90s, 2m or 1h30m; a number alone counts seconds.
func duration(to *time.Duration, least time.Duration) func(string) error {
	return func(s string) (err error) {
		if _, err := strconv.Atoi(s); err == nil {
			s += "s"
		}
		if *to, err = time.ParseDuration(s); err != nil || *to < least {
			return fmt.Errorf("it must be a time like 30s or 2m, at least %s", least)
		}
		return nil
	}
}

// checkAddr accepts what listen can listen on.
func checkAddr(addr string) error {
	network, rest := listen.Split(addr)
	_, port, err := net.SplitHostPort(rest)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	_, number := strconv.ParseUint(addr, 10, 16)
	switch {
	case network == "unix" && rest != "", network != "unix" && err == nil && port != "":
		return nil
	case number == nil:
		return fmt.Errorf("it must be host:port, :port or unix:/path; did you mean :%s?", addr)
	}
	return errors.New("it must be host:port, :port or unix:/path")
}

func checkLog(format string) error {
	if !slices.Contains([]string{"auto", "text", "logfmt", "json"}, format) {
		return errors.New("it must be one of text, json")
	}
	return nil
}

func checkID(id string) error {
	if id == noneID {
		return errors.New("that stands for requests that name no app")
	}
	return nil
}

// checkKey accepts what can stand in a URL and in an auth string, and "" for no key.
func checkKey(key string) error {
	if key != "" && strings.Trim(key, ".") == "" || strings.ContainsFunc(key, func(c rune) bool {
		return c >= 0x80 || !wire.ChannelChars[c] || c == '=' || c == '@' || c == ',' || c == ';'
	}) {
		return errors.New("it is part of URLs and may have letters, digits, - _ and .")
	}
	return nil
}
