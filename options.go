package main

// The one table of options, which flags, variables, the configuration file, -help and the README share.

import (
	"math"
	"net/netip"
	"strings"
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/listen"
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
	hooks        []string      // URLs that parseHook accepts
	webhookGrace time.Duration
	madeKey      bool // not given, made up
	madeSecret   bool
}

type keyPair struct{ key, secret string }

// option is one of them, by the name it has everywhere: the flag -send-buffer is the variable EDGE_SEND_BUFFER and the
// key "send-buffer" of the file.
type option struct {
	name, value string // value is the default
	traits      traits
	set         func(values []string) error
	help        string
}

// traits are a set of properties.
type traits uint8

const (
	atStart  traits = 1 << iota // a reload does not change it
	repeats                     // every further value is added
	masked                      // never printed
	onlyFlag                    // neither a variable nor in the file
	commas                      // values with commas between, which the file may have as a list
)

// inFile reports whether the configuration file may have it.
func (o option) inFile() bool { return o.traits&onlyFlag == 0 && o.name != "config" }

// allOptions is every option, to read of.
func allOptions() []option { return optionTable(new(options)) }

// optionTable is every option. The functions write to o.
func optionTable(o *options) []option {
	return append([]option{
		{"config", "", 0, value(&o.config, text),
			"file with any of these options, and several apps (edge config -example prints one)"},
		{"addr", ":6001", repeats | atStart, list(&o.addrs, whole, listen.ParseAddr),
			"address to listen on, may be repeated: host:port, :port for all addresses, unix:/path; " +
				"with TLS a further one on loopback or unix: is plain, as is plain:host:port, but not tls:host:port"},
		{"path", "", atStart, value(&o.path, prefix), "prefix before all paths, for a proxy that keeps it: /edge"},
		{"http-path", "/pusher", atStart, value(&o.httpPath, prefix), "path, behind -path, for clients that " +
			"WebSocket does not reach (httpPath of pusher-js); off for none"},
		{"tls-cert", "", 0, value(&o.tlsCert, text),
			"file with the certificate, in PEM; it is read again when it changes"},
		{"tls-key", "", 0, value(&o.tlsKey, text), "file with its key"},
		{"deflate", "false", atStart, value(&o.deflate, boolean),
			"offer permessage-deflate: clients that want it get events of 200 bytes and more compressed"},
		{"trusted-proxies", "", commas | atStart, list(&o.proxies, byComma, listen.ParseNetwork), "addresses of " +
			"proxies whose X-Forwarded-For names the client, with commas: 127.0.0.1, 10.0.0.0/8, unix"},
		{"dev-auth", "false", commas | atStart, value(&o.devAuth, signers),
			"for development: sign whatever is asked for at /pusher/auth and /pusher/user-auth, " +
				"for this machine only or for addresses: -dev-auth=192.168.1.0/24,127.0.0.1"},
		{"memory", "", atStart, value(&o.memory, conn.ParseMemory), "memory that edge may use, like 96M or 1G; " +
			"without it most of what its control group allows, or half of the machine's"},
		{"metrics-addr", "", atStart, value(&o.metricsAddr, listen.ParseAddr),
			"address for GET /metrics, /health and /ready, like 127.0.0.1:9601; without it there are no metrics"},
		{"log", "text", atStart, value(&o.logFormat, logFormat), "format of lines: text, like level=INFO msg=…, or json"},
		{"verbose", "false", 0, value(&o.verbose, boolean),
			"print connections, subscriptions, everything refused, events that reach nobody and every frame"},
		{"console", "true", atStart, value(&o.console, boolean),
			"serve the debug console at /console, for who knows the app secret"},
		{"pid-file", "", atStart, value(&o.pidFile, text), "file to write the process id to"},
		{"version", "false", onlyFlag, value(&o.version, boolean), "print the version and end"},
	}, appTable(&o.app)...)
}

// appTable is every option that an app of the file may have of its own.
func appTable(a *appOptions) []option {
	l := &a.limits
	return []option{
		{"id", "", 0, value(&a.id, appID), "app id; without it any id is accepted in API paths"},
		{"key", "", 0, value(&a.key, keyName), "app key; without it one is made up and printed"},
		{"secret", "", masked, value(&a.secret, text),
			"app secret; without it one is made up and printed (EDGE_SECRET keeps it off the command line)"},
		{"secret-file", "", 0, value(&a.secretFile, text),
			"file that holds the app secret; neither command line nor environment show it"},
		{"more-keys", "", repeats | masked, list(&a.moreKeys, strings.Fields, pair),
			"further keys that are valid too, KEY:SECRET with spaces between; -key signs webhooks"},
		{"client-events", "true", 0, value(&l.ClientEvents, boolean),
			"allow client events on private and presence channels"},
		{"max-connections", "", 0, value(&l.MaxConnections, number(1, math.MaxInt32)), "WebSocket connections at " +
			"once; more are refused with 4004; without it as many as memory and open files allow"},
		{"authorized-connections", "0", 0, value(&l.AuthorizeWithin, duration(0)), "time in which a client has to " +
			"sign in or to join a private channel before it is closed with 4009; 0 asks for neither"},
		{"origins", "", commas, list(&a.origins, byComma, origin), "origins that pages may connect from, " +
			"with commas: https://example.com, example.com or *.example.com; without it all"},
		{"activity-timeout", "120s", 0, value(&l.ActivityTimeout, duration(time.Second)),
			"silence after which a client is pinged"},
		{"pong-timeout", "30s", 0, value(&l.PongTimeout, duration(time.Millisecond)),
			"time it then has to answer before it is closed with 4201"},
		{"auth-window", "600s", 0, value(&a.authWindow, duration(0)),
			"how far the clock of an API client may be off; 0 for no check"},
		{"event-size", "10240", 0, value(&l.EventSize, number(1, 1<<20)), "bytes of data an event may have"},
		{"channel-name", "200", 0, value(&l.ChannelName, number(len(wire.UserChannelPrefix)+wire.MaxUserID, 1024)),
			"bytes the name of a channel may have (164 on the hosted service)"},
		{"presence-members", "100", 0, value(&l.PresenceMembers, number(1, math.MaxInt32)),
			"users a presence channel may have"},
		{"presence-user-size", "1024", 0, value(&l.PresenceUserSize, number(2, conn.MaxPayload)),
			"bytes of user_info a member may have"},
		{"cache-ttl", "30m", 0, value(&l.CacheTTL, duration(time.Second)),
			"how long a cache channel keeps its last event"},
		{"send-buffer", "1048576", 0, value(&l.SendBuffer, number(4096, math.MaxInt32)),
			"bytes that may wait for a client that reads slowly; beyond it is cut off"},
		{"subscription-count", "false", 0, value(&l.SubscriptionCount, boolean),
			"send pusher:subscription_count when subscriptions of a channel change"},
		{"webhook", "", repeats, list(&a.hooks, strings.Fields, hookURL),
			"URL to be told what happens, may be repeated (in the variable: with spaces); see Webhooks"},
		{"webhook-grace", "3s", 0, value(&a.webhookGrace, duration(0)),
			"time for a channel or member to come back before channel_vacated or member_removed is told"},
	}
}
