package config

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

// Options are what a server is to do.
type Options struct {
	File        string
	Addrs       []string
	Path        string // before every path of ours: "" or /edge
	HTTPPath    string // behind it, before those for clients over HTTP; "" for none
	Deflate     bool
	TLSCert     string
	TLSKey      string
	Proxies     []netip.Prefix // whose X-Forwarded-For counts
	Memory      int64          // bytes the process may use
	Connections int            // of all apps together
	MetricsAddr string
	LogFormat   string
	PIDFile     string
	Verbose     bool
	Console     bool
	Version     bool
	SecretShown bool           // on the command line
	choosing    bool           // it is for a command, which takes one of apps: -id says which
	DevAuth     []netip.Prefix // who may have anything signed
	app         App            // the one app of a simple set-up, and what apps of the file inherit
	Apps        []App          // all there are
	given       given
	givenApps   []given  // by the file, of each of apps; nil if it has none
	Found       []string // variables of other servers that credentials come from
}

// App is what there is to know of one app.
type App struct {
	ID           string // "" if any is accepted, for a single app
	Key, Secret  string
	secretFile   string
	moreKeys     []Key
	Limits       channel.Limits
	Origins      []string      // allowed values of the Origin header; none allows all
	AuthWindow   time.Duration // how far the clock of an API client may be off; 0 for no check
	Hooks        []string      // URLs that webhook.Check accepts
	WebhookGrace time.Duration
	MadeKey      bool // not given, made up
	MadeSecret   bool
}

// Key is a name, which clients know, and its secret.
type Key struct{ Name, Secret string }

// Option is one of them, by the name it has everywhere: the flag -send-buffer is the variable EDGE_SEND_BUFFER and the
// key "send-buffer" of the file.
type Option struct {
	Name, Default, Help string
	set                 func(values []string) error
	traits              Traits
}

// Traits are a set of properties.
type Traits uint8

const (
	OnlyFlag Traits = 1 << iota // neither a variable nor in the file
	atStart                     // a reload does not change it
	repeats                     // every further value is added
	masked                      // never printed
	commas                      // values with commas between, which the file may have as a list
)

// New makes an option that sets what to points to, or that to, a func([]string) error, gets the values of.
func New(name, standard string, to any, help string, traits ...Traits) Option {
	opt := Option{Name: name, Default: standard, Help: help}
	for _, t := range traits {
		opt.traits |= t
	}
	switch to := to.(type) {
	case *string:
		opt.set = one(to, text)
	case *[]string:
		opt.set, opt.traits = list(to, whole, text), opt.traits|repeats
	case *bool:
		opt.set = one(to, boolean)
	case *int:
		opt.set = number(to, 0, math.MaxInt32)
	case *time.Duration:
		opt.set = duration(to, 0)
	case func([]string) error:
		opt.set = to
	}
	return opt
}

// inFile reports whether the configuration file may have it.
func (o Option) inFile() bool { return o.traits&OnlyFlag == 0 && o.Name != "config" }

// All is every option, to read of.
func All() []Option { return optionTable(new(Options)) }

// optionTable is every option. They write to o.
func optionTable(o *Options) []Option {
	return append([]Option{
		New("config", "", &o.File,
			"file with any of these options, and several apps (edge config -example prints one)"),
		New("addr", ":6001", list(&o.Addrs, whole, listen.ParseAddr), "address to listen on, may be repeated: "+
			"host:port, :port for all addresses, unix:/path; with TLS a further one on loopback or unix: is plain, "+
			"as is plain:host:port, but not tls:host:port", repeats, atStart),
		New("path", "", one(&o.Path, prefix), "prefix before all paths, for a proxy that keeps it: /edge", atStart),
		New("http-path", "/pusher", one(&o.HTTPPath, prefix), "path, behind -path, for clients that "+
			"WebSocket does not reach (httpPath of pusher-js); off for none", atStart),
		New("tls-cert", "", &o.TLSCert, "file with the certificate, in PEM; it is read again when it changes"),
		New("tls-key", "", &o.TLSKey, "file with its key"),
		New("deflate", "false", &o.Deflate,
			"offer permessage-deflate: clients that want it get events of 200 bytes and more compressed", atStart),
		New("trusted-proxies", "", list(&o.Proxies, byComma, listen.ParseNetwork), "addresses of proxies whose "+
			"X-Forwarded-For names the client, with commas: 127.0.0.1, 10.0.0.0/8, unix", commas, atStart),
		New("dev-auth", "false", one(&o.DevAuth, signers), "for development: sign whatever is asked for at "+
			"/pusher/auth and /pusher/user-auth, for this machine only or for addresses: "+
			"-dev-auth=192.168.1.0/24,127.0.0.1", commas, atStart),
		New("memory", "", one(&o.Memory, conn.ParseMemory), "memory that edge may use, like 96M or 1G; "+
			"without it most of what its control group allows, or half of the machine's", atStart),
		New("metrics-addr", "", one(&o.MetricsAddr, listen.ParseAddr), "address for GET /metrics, /health and /ready, "+
			"like 127.0.0.1:9601; without it there are no metrics", atStart),
		New("log", "text", one(&o.LogFormat, logFormat), "format of lines: text, like level=INFO msg=…, or json",
			atStart),
		New("verbose", "false", &o.Verbose,
			"print connections, subscriptions, everything refused, events that reach nobody and every frame"),
		New("console", "true", &o.Console, "serve the debug console at /console, for who knows the app secret",
			atStart),
		New("pid-file", "", &o.PIDFile, "file to write the process id to", atStart),
		New("version", "false", &o.Version, "print the version and end", OnlyFlag),
	}, appTable(&o.app)...)
}

// appTable is every option that an app of the file may have of its own.
func appTable(a *App) []Option {
	const most = math.MaxInt32
	l := &a.Limits
	return []Option{
		New("id", "", one(&a.ID, appID), "app id; without it any id is accepted in API paths"),
		New("key", "", one(&a.Key, keyName), "app key; without it one is made up and printed"),
		New("secret", "", &a.Secret, "app secret; without it one is made up and printed "+
			"(EDGE_SECRET keeps it off the command line)", masked),
		New("secret-file", "", &a.secretFile,
			"file that holds the app secret; neither command line nor environment show it"),
		New("more-keys", "", list(&a.moreKeys, strings.Fields, pair), "further keys that are valid too, "+
			"KEY:SECRET with spaces between; -key signs webhooks", repeats, masked),
		New("client-events", "true", &l.ClientEvents, "allow client events on private and presence channels"),
		New("max-connections", "", number(&l.MaxConnections, 1, most), "WebSocket connections at once; "+
			"more are refused with 4004; without it as many as memory and open files allow"),
		New("authorized-connections", "0", &l.AuthorizeWithin, "time in which a client has to sign in or "+
			"to join a private channel before it is closed with 4009; 0 asks for neither"),
		New("origins", "", list(&a.Origins, byComma, origin), "origins that pages may connect from, with commas: "+
			"https://example.com, example.com or *.example.com; without it all", commas),
		New("activity-timeout", "120s", duration(&l.ActivityTimeout, time.Second),
			"silence after which a client is pinged"),
		New("pong-timeout", "30s", duration(&l.PongTimeout, time.Millisecond),
			"time it then has to answer before it is closed with 4201"),
		New("auth-window", "600s", &a.AuthWindow, "how far the clock of an API client may be off; 0 for no check"),
		New("event-size", "10240", number(&l.EventSize, 1, 1<<20), "bytes of data an event may have"),
		New("channel-name", "200", number(&l.ChannelName, len(wire.UserChannelPrefix)+wire.MaxUserID, 1024),
			"bytes the name of a channel may have (164 on the hosted service)"),
		New("presence-members", "100", number(&l.PresenceMembers, 1, most), "users a presence channel may have"),
		New("presence-user-size", "1024", number(&l.PresenceUserSize, 2, conn.MaxPayload),
			"bytes of user_info a member may have"),
		New("cache-ttl", "30m", duration(&l.CacheTTL, time.Second), "how long a cache channel keeps its last event"),
		New("send-buffer", "1048576", number(&l.SendBuffer, 4096, most),
			"bytes that may wait for a client that reads slowly; beyond it is cut off"),
		New("subscription-count", "false", &l.SubscriptionCount,
			"send pusher:subscription_count when subscriptions of a channel change"),
		New("webhook", "", list(&a.Hooks, strings.Fields, hookURL), "URL to be told what happens, may be repeated "+
			"(in the variable: with spaces); see Webhooks", repeats),
		New("webhook-grace", "3s", &a.WebhookGrace,
			"time for a channel or member to come back before channel_vacated or member_removed is told"),
	}
}
