package main

// Options: one table of them, and what flags, the environment and a configuration file say. A flag goes before a variable, a
// variable before the file, the file before a variable that another server's deployment has set, and that before the default.
// What is wrong anywhere ends edge before it starts, with one sentence.

import (
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// options are what a server is to do.
type options struct {
	config      string
	addrs       []string
	path        string // before every path of ours: "" or /edge
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
	secretShown bool         // on the command line
	app         appOptions   // the one app of a simple set-up, and what apps of the file inherit
	apps        []appOptions // all there are
	consoleLink string       // what follows /console in the banner
	given       given
	givenApps   []given // by the file, of each of apps; nil if it has none
}

// appOptions are what there is to know of one app.
type appOptions struct {
	id          string // "" if any is accepted, for a single app
	key, secret string
	secretFile  string
	moreKeys    []keyPair
	limits      Limits
	hooks       []string // URLs that parseHook accepts
	webhooks    webhookOptions
	madeKey     bool // not given, made up
	madeSecret  bool
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
)

// optionTable is every option. The functions write to o.
func optionTable(o *options) []option {
	return append([]option{
		{name: "config", help: "file with any of these options, and several apps (edge config -example prints one)", set: text(&o.config)},
		{"addr", ":6001", "address to listen on, may be repeated: host:port, :port for all addresses, unix:/path; with TLS a further one on loopback or unix: is plain, as is plain:host:port", repeats, add(&o.addrs, checkAddr), forget(&o.addrs)},
		{name: "path", help: "prefix before all paths, for a proxy that keeps it: /edge", set: prefix(&o.path)},
		{name: "tls-cert", help: "file with the certificate, in PEM; it is read again when it changes", set: text(&o.tlsCert)},
		{name: "tls-key", help: "file with its key", set: text(&o.tlsKey)},
		{name: "trusted-proxies", help: "addresses of proxies whose X-Forwarded-For names the client, with commas: 127.0.0.1, 10.0.0.0/8, unix", set: proxies(&o.proxies)},
		{name: "memory", help: "memory that edge may use, like 96M or 1G; without it most of what its control group allows, or half of the machine's", set: size(&o.memory, 16<<20)},
		{name: "metrics-addr", help: "address for GET /metrics, /health and /ready, like 127.0.0.1:9601; without it there are no metrics", set: checked(&o.metricsAddr, checkAddr)},
		{"log", "auto", "format of lines: text, logfmt or json; auto is text on a terminal and logfmt elsewhere", 0, oneOf(&o.logFormat, "auto", "text", "logfmt", "json"), nil},
		{"verbose", "false", "print connections, subscriptions, everything refused, events that reach nobody and every frame", 0, boolean(&o.verbose), nil},
		{"console", "true", "serve the debug console at /console, for who knows the app secret", 0, boolean(&o.console), nil},
		{name: "pid-file", help: "file to write the process id to, for edge reload", set: text(&o.pidFile)},
		{"version", "false", "print the version and end", onlyFlag, boolean(&o.version), nil},
	}, appTable(&o.app)...)
}

// appTable is every option that an app of the file may have of its own.
func appTable(a *appOptions) []option {
	l := &a.limits
	return []option{
		{"id", "", "app id; without it any id is accepted in API paths", forApp, text(&a.id), nil},
		{"key", "", "app key; without it one is made up and printed", forApp, checked(&a.key, checkKey), nil},
		{"secret", "", "app secret; without it one is made up and printed (EDGE_SECRET keeps it off the command line)", forApp | masked, text(&a.secret), nil},
		{"secret-file", "", "file that holds the app secret; neither command line nor environment show it", forApp, text(&a.secretFile), nil},
		{"more-keys", "", "further keys that are valid too, KEY:SECRET with spaces between; -key signs webhooks", forApp | repeats | masked, keyPairs(&a.moreKeys), forget(&a.moreKeys)},
		{"client-events", "true", "allow client events on private and presence channels", forApp, boolean(&l.clientEvents), nil},
		{"max-connections", "", "WebSocket connections at once; more are refused with 4004; without it as many as memory and open files allow", forApp, number(&l.maxConnections, 1, math.MaxInt32), nil},
		{"authorized-connections", "0", "time in which a client has to sign in or to join a private channel before it is closed with 4009; 0 asks for neither", forApp, duration(&l.authorizeWithin, 0), nil},
		{"origins", "", "origins that pages may connect from, with commas: https://example.com, example.com or *.example.com; without it all", forApp, commaList(&l.origins), nil},
		{"activity-timeout", "120s", "silence after which a client is pinged", forApp, duration(&l.activityTimeout, time.Second), nil},
		{"pong-timeout", "30s", "time it then has to answer before it is closed with 4201", forApp, duration(&l.pongTimeout, time.Millisecond), nil},
		{"auth-window", "600s", "how far the clock of an API client may be off", forApp, duration(&l.authWindow, time.Second), nil},
		{"event-size", "10240", "bytes of data an event may have", forApp, number(&l.eventSize, 1, 1<<20), nil},
		{"channel-name", "200", "bytes the name of a channel may have (164 on the hosted service)", forApp, number(&l.channelName, len(userChannelPrefix)+maxUserID, 1024), nil},
		{"presence-members", "100", "users a presence channel may have", forApp, number(&l.presenceMembers, 1, math.MaxInt32), nil},
		{"presence-user-size", "1024", "bytes of user_info a member may have", forApp, number(&l.presenceUserSize, 2, maxPayload), nil},
		{"cache-ttl", "30m", "how long a cache channel keeps its last event", forApp, duration(&l.cacheTTL, time.Second), nil},
		{"send-buffer", "1048576", "bytes that may wait for a client that reads slowly; beyond it is cut off", forApp, number(&l.sendBuffer, 4096, math.MaxInt32), nil},
		{"subscription-count", "false", "send pusher:subscription_count when subscriptions of a channel change", forApp, boolean(&l.subscriptionCount), nil},
		{"webhook", "", "URL to be told what happens, may be repeated (in the variable: with spaces); see Webhooks", forApp | repeats, hookList(&a.hooks), forget(&a.hooks)},
		{"webhook-grace", "3s", "time for a channel or member to come back before channel_vacated or member_removed is told", forApp, duration(&a.webhooks.grace, 0), nil},
		{"webhook-batch", "50ms", "events that happen within travel together; 0 sends each alone", forApp, duration(&a.webhooks.batch, 0), nil},
		{"webhook-queue", "10000", "events that may wait for a receiver; beyond, the oldest client events are dropped first", forApp, number(&a.webhooks.queue, 1, math.MaxInt32), nil},
		{"error-events", "true", "send pusher:error after pusher:subscription_error, as the hosted service does", forApp, boolean(&l.errorEvents), nil},
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

func oneOf(to *string, choices ...string) func(string) error {
	return func(s string) error {
		if *to = s; !slices.Contains(choices, s) {
			return fmt.Errorf("it must be one of %s", strings.Join(choices, ", "))
		}
		return nil
	}
}

// prefix takes the beginning of a path, with or without slashes around it.
func prefix(to *string) func(string) error {
	return func(s string) error {
		*to = ""
		if s = strings.Trim(s, "/"); s != "" {
			*to = "/" + s
		}
		if strings.ContainsAny(s, "?#%{}\\ ") || strings.Contains(s, "//") {
			return errors.New("it must be the beginning of a path, like /edge")
		}
		return nil
	}
}

func commaList(to *[]string) func(string) error {
	return func(s string) error {
		*to = nil
		for item := range strings.SplitSeq(s, ",") {
			if item = strings.TrimSpace(item); item != "" {
				*to = append(*to, item)
			}
		}
		return nil
	}
}

// proxies takes addresses and networks with commas between them. unix stands for whoever comes over a Unix socket.
func proxies(to *[]netip.Prefix) func(string) error {
	return func(s string) error {
		var list []string
		commaList(&list)(s)
		*to = nil
		for _, item := range list {
			p, err := netip.ParsePrefix(item)
			if a, errAddr := netip.ParseAddr(item); errAddr == nil {
				p, err = netip.PrefixFrom(a, a.BitLen()), nil
			}
			if item == "unix" {
				p, err = netip.Prefix{}, nil
			}
			if err != nil {
				return fmt.Errorf("%q is neither an address nor a network like 10.0.0.0/8", item)
			}
			*to = append(*to, p)
		}
		return nil
	}
}

// hookList takes URLs with spaces between them, and adds to what it got before.
func hookList(to *[]string) func(string) error {
	return func(s string) error {
		for hook := range strings.FieldsSeq(s) {
			if _, err := parseHook(hook); err != nil {
				return err
			}
			*to = append(*to, hook)
		}
		return nil
	}
}

// keyPairs takes KEY:SECRET with spaces between them, and adds to what it got before.
func keyPairs(to *[]keyPair) func(string) error {
	return func(s string) error {
		for pair := range strings.FieldsSeq(s) {
			key, secret, _ := strings.Cut(pair, ":")
			if key == "" || secret == "" || checkKey(key) != nil {
				return errors.New("it must be KEY:SECRET, or several with spaces between")
			}
			*to = append(*to, keyPair{key, secret})
		}
		return nil
	}
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
		for i, unit := range []string{"K", "M", "G"} {
			if rest, ok := strings.CutSuffix(digits, unit); ok {
				digits, shift = rest, 10*(i+1)
				break
			}
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
		if isInteger([]byte(s)) {
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
	if name, ok := strings.CutPrefix(addr, "unix:"); ok {
		if name == "" {
			return errors.New("it must be unix:/path")
		}
		return nil
	}
	_, port, err := net.SplitHostPort(strings.TrimPrefix(strings.TrimPrefix(addr, "plain:"), "tls:"))
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || port == "" {
		return errors.New("it must be host:port, :port or unix:/path")
	}
	return nil
}

// checkKey accepts what can stand in a URL and in an auth string, and "" for no key.
func checkKey(key string) error {
	if key != "" && strings.Trim(key, ".") == "" || strings.ContainsFunc(key, func(c rune) bool {
		return c >= 0x80 || !channelChars[c] || c == '=' || c == '@' || c == ',' || c == ';'
	}) {
		return errors.New("it is part of URLs and may have letters, digits, - _ and .")
	}
	return nil
}

// setting is what was said of an option, and where.
type setting struct {
	values []string
	from   string
}

// given is what counts of each option, by name.
type given map[string]setting

// says enters a setting unless one that goes before it is there.
func (g given) says(name, from string, values ...string) {
	if _, ok := g[name]; !ok {
		g[name] = setting{values, from}
	}
}

// differences are those of the names of which something else was said before.
func (g given) differences(before given, names ...string) (differ []string) {
	for _, name := range names {
		if !slices.Equal(g[name].values, before[name].values) {
			differ = append(differ, name)
		}
	}
	return differ
}

// apply sets the options of a table to what was given, and those of which nothing was said to defaults, if those are wanted.
func (g given) apply(table []option, defaults bool) error {
	for _, opt := range table {
		s, ok := g[opt.name]
		if !ok {
			if !defaults || opt.value == "" {
				continue
			}
			s = setting{[]string{opt.value}, "the default"}
			g[opt.name] = s
		}
		if opt.clear != nil {
			opt.clear()
		}
		for _, v := range s.values {
			if err := opt.set(v); err != nil {
				return invalid(opt, v, s.from, err)
			}
		}
	}
	return nil
}

// invalid says that a value is wrong.
func invalid(opt option, value, from string, err error) error {
	switch {
	case opt.traits&masked != 0:
		value = "***"
	case len(value) > 200:
		value = value[:200]
	}
	if strings.HasPrefix(from, "option ") {
		return fmt.Errorf("invalid value %q for %s: %v", value, from, err)
	}
	if _, _, inFile := strings.Cut(from, " line "); inFile {
		return fmt.Errorf("%s: invalid value %q of %q: %v", from, value, opt.name, err)
	}
	return fmt.Errorf("invalid value %q of %s: %v", value, from, err)
}

// parseOptions reads all there is: flags, variables and the configuration file.
func parseOptions(args []string, getenv func(string) (string, bool)) (o options, err error) {
	g, table := given{}, optionTable(&o)
	if err := g.readFlags(args, table); err != nil {
		return o, err
	}
	_, o.secretShown = g["secret"]
	for _, opt := range table {
		if v, ok := getenv(envName(opt.name)); ok && v != "" && opt.traits&onlyFlag == 0 { // EDGE_VERSION is likely to be of something else
			g.says(opt.name, envName(opt.name), v)
		}
	}
	file := configFile{name: strings.Join(g["config"].values, "")}
	if file.name != "" {
		if err := file.read(table); err != nil {
			return o, err
		}
	}
	for name, s := range file.given {
		g.says(name, s.from, s.values...)
	}
	if file.apps == nil {
		g.readOthers(getenv)
	}
	if err := g.apply(table, true); err != nil {
		return o, err
	}
	o.given = g
	return o, o.complete(file)
}

// readFlags reads the command line.
func (g given) readFlags(args []string, table []option) error {
	fs := flag.NewFlagSet("edge", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	for _, opt := range table {
		set := func(s string) error {
			old := g[opt.name]
			if opt.traits&repeats == 0 {
				old.values = nil
			}
			g[opt.name] = setting{append(old.values, s), "option -" + opt.name}
			return nil
		}
		if opt.value == "true" || opt.value == "false" {
			fs.BoolFunc(opt.name, opt.help, set)
		} else {
			fs.Func(opt.name, opt.help, set)
		}
	}
	if err := fs.Parse(args); err != nil {
		return optionError(err, table)
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; edge -help lists options and commands", fs.Arg(0))
	}
	return nil
}

// optionError words flag's errors for a reader who does not know Go.
func optionError(err error, table []option) error {
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	msg := err.Error()
	if name, ok := strings.CutPrefix(msg, "flag provided but not defined: "); ok {
		return fmt.Errorf("unknown option %q; %s", name, didYouMean("-", strings.TrimLeft(name, "-"), optionNames(table), "edge -help lists the options"))
	}
	if name, ok := strings.CutPrefix(msg, "flag needs an argument: "); ok {
		return fmt.Errorf("option %s needs a value", name)
	}
	if written, ok := strings.CutPrefix(msg, "bad flag syntax: "); ok {
		return fmt.Errorf("%q is not how an option is written; edge -help lists the options", written)
	}
	return errors.New(msg)
}

func optionNames(table []option) (names []string) {
	for _, opt := range table {
		names = append(names, opt.name)
	}
	return names
}

// didYouMean names the name that is nearest to what was written, with this before it, or says otherwise if none is near.
func didYouMean(before, written string, names []string, otherwise string) string {
	nearest, least := "", 1+len(written)/3
	for _, name := range names {
		if d := distance(written, name); d <= least && (nearest == "" || d < least) {
			nearest, least = name, d
		}
	}
	if nearest == "" {
		return otherwise
	}
	return fmt.Sprintf("did you mean %s%s?", before, nearest)
}

// distance is how many letters have to be changed, added or left out to make a of b (Levenshtein's).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// envName is the environment variable that goes with an option.
func envName(option string) string {
	return "EDGE_" + strings.ToUpper(strings.ReplaceAll(option, "-", "_"))
}

// complete checks what no single option can, reads what stands in other files, and makes up a key and a secret where there is
// none.
func (o *options) complete(file configFile) error {
	if (o.tlsCert == "") != (o.tlsKey == "") {
		return errors.New("-tls-cert and -tls-key go together: one of them is missing")
	}
	if slices.Contains(o.addrs, o.metricsAddr) {
		return fmt.Errorf("-metrics-addr and -addr are both %s: metrics need an address of their own", o.metricsAddr)
	}
	if o.memory == 0 {
		o.memory = defaultMemory()
		o.given.says("memory", "the system", sizeText(o.memory))
	}
	if o.app.limits.maxConnections == 0 {
		o.app.limits.maxConnections = min(defaultConnections(), newBudget(o.memory).connections())
		o.given.says("max-connections", "memory and open files", strconv.Itoa(o.app.limits.maxConnections))
	}
	o.connections = o.app.limits.maxConnections
	if file.apps == nil {
		o.apps = []appOptions{o.app}
		if err := o.apps[0].complete(); err != nil {
			return err
		}
		o.app = o.apps[0]
		return nil
	}
	for _, name := range []string{"id", "key", "secret", "secret-file", "more-keys"} {
		if s, ok := o.given[name]; ok {
			return fmt.Errorf("the app is described twice: by %s and by \"apps\" in %s", s.from, file.name)
		}
	}
	return o.completeApps(file)
}

// completeApps makes the apps of the file, each of which inherits what it does not say.
func (o *options) completeApps(file configFile) error {
	ids, keys := map[string]bool{}, map[string]bool{}
	for _, entry := range file.apps {
		a := o.app
		if err := entry.given.apply(appTable(&a), false); err != nil {
			return err
		}
		if a.id == "" || a.key == "" || a.secret == "" && a.secretFile == "" {
			return fmt.Errorf("%s: an app needs an id, a key and a secret", entry.from)
		}
		if err := a.complete(); err != nil {
			return fmt.Errorf("%s: %w", entry.from, err)
		}
		if ids[a.id] {
			return fmt.Errorf("%s: there is another app with the id %q", entry.from, a.id)
		}
		ids[a.id] = true
		for _, k := range a.keys() {
			if keys[k.key] {
				return fmt.Errorf("%s: the key %q stands twice", entry.from, k.key)
			}
			keys[k.key] = true
		}
		o.apps, o.givenApps = append(o.apps, a), append(o.givenApps, entry.given)
	}
	return nil
}

// complete checks what no single option of an app can.
func (a *appOptions) complete() error {
	if err := a.readSecret(); err != nil {
		return err
	}
	if a.madeKey = a.key == ""; a.madeKey {
		a.key = strings.ToLower(rand.Text()[:20])
	}
	if a.madeSecret = a.secret == ""; a.madeSecret {
		a.secret = strings.ToLower(rand.Text()[:20])
	}
	return nil
}

// readSecret takes the secret from the file that was given for it.
func (a *appOptions) readSecret() error {
	if a.secretFile == "" {
		return nil
	}
	if a.secret != "" {
		return errors.New("there are two secrets: give -secret (or EDGE_SECRET) or -secret-file, not both")
	}
	b, err := os.ReadFile(a.secretFile)
	if err != nil {
		return fmt.Errorf("cannot read -secret-file: %w", err)
	}
	if a.secret = strings.TrimSpace(string(b)); a.secret == "" {
		return fmt.Errorf("-secret-file %s is empty", a.secretFile)
	}
	return nil
}

// keys are all keys of the app, the one that signs first.
func (a *appOptions) keys() []keyPair {
	return append([]keyPair{{a.key, a.secret}}, a.moreKeys...)
}

// configFile is a configuration file: JSON (RFC 8259) in which comments, // and /* */, and a comma after the last of a list
// are allowed too.
type configFile struct {
	name  string
	given given
	apps  []appEntry // nil if it describes none
}

// appEntry is one of its apps.
type appEntry struct {
	from  string // where it stands
	given given
}

// read reads the file.
func (f *configFile) read(table []option) error {
	b, err := os.ReadFile(f.name)
	if err != nil {
		return fmt.Errorf("cannot read the configuration: %w", err)
	}
	b = plainJSON(b)
	var bad *jsonError
	if err := checkJSON(b, 8, 100_000); errors.As(err, &bad) {
		return fmt.Errorf("%s: %s", f.place(b, bad.at), bad.what)
	}
	top := value(strings.TrimSpace(string(b)))
	top = value(b[strings.IndexByte(string(b), top[0]):])
	if !top.is('{') {
		return fmt.Errorf("%s: the configuration must be an object: { … }", f.place(b, 0))
	}
	var apps value
	f.given, err = f.readObject(b, top, table, func(name string, v value) bool {
		if name == "apps" {
			apps = v
		}
		return name == "apps"
	})
	if err != nil || apps.absent() {
		return err
	}
	return f.readApps(b, apps)
}

// readApps reads the value of "apps".
func (f *configFile) readApps(b []byte, apps value) error {
	for v := range apps.items() {
		if !v.is('{') {
			return fmt.Errorf("%s: an app must be an object: { \"id\": …, \"key\": …, \"secret\": … }", f.placeOf(b, v))
		}
		g, err := f.readObject(b, v, appTable(new(appOptions)), func(string, value) bool { return false })
		if err != nil {
			return err
		}
		f.apps = append(f.apps, appEntry{f.placeOf(b, v), g})
	}
	if f.apps == nil {
		return fmt.Errorf("%s: \"apps\" must be a list of one app at least", f.placeOf(b, apps))
	}
	return nil
}

// readObject reads an object whose names are those of a table. special takes the others it knows.
func (f *configFile) readObject(b []byte, object value, table []option, special func(string, value) bool) (given, error) {
	g := given{}
	for name, v := range object.members() {
		from := f.placeOf(b, v)
		i := slices.IndexFunc(table, func(o option) bool { return o.name == name && o.traits&onlyFlag == 0 && o.name != "config" })
		if _, twice := g[name]; twice {
			return nil, fmt.Errorf("%s: %q stands twice", from, name)
		}
		switch {
		case special(name, v) || i >= 0 && v.absent():
		case i < 0:
			return nil, fmt.Errorf("%s: unknown option %q; %s", from, clip([]byte(name)), didYouMean("", name, optionNames(table), "edge -help lists the options"))
		default:
			values, err := settingValues(v, table[i].traits)
			if err != nil {
				return nil, fmt.Errorf("%s: invalid value of %q: %v", from, name, err)
			}
			g[name] = setting{values, from}
		}
	}
	return g, nil
}

// settingValues returns what a value of the file would be as flags: a string, number or truth value stands for itself, a list for
// its items. A pair of keys may be an object.
func settingValues(v value, t traits) (values []string, err error) {
	switch {
	case v.is('"'):
		return []string{string(v.text())}, nil
	case v.is('{'):
		var f [2]value
		if err := parseObject(v, 2, 100, []string{"key", "secret"}, f[:]); err != nil || t&masked == 0 || !f[0].is('"') || !f[1].is('"') {
			return nil, errors.New("an object cannot stand here")
		}
		return []string{string(f[0].text()) + ":" + string(f[1].text())}, nil
	case !v.is('['):
		return []string{string(v)}, nil
	}
	for item := range v.items() {
		some, err := settingValues(item, t)
		if err != nil || item.is('[') {
			return nil, errors.New("an item of the list cannot stand there")
		}
		values = append(values, some...)
	}
	if t&repeats == 0 {
		values = []string{strings.Join(values, ",")}
	}
	return values, nil
}

// placeOf says where v, a part of b, stands.
func (f *configFile) placeOf(b []byte, v value) string { return f.place(b, cap(b)-cap(v)) }

func (f *configFile) place(b []byte, at int) string {
	return fmt.Sprintf("%s line %d", f.name, 1+strings.Count(string(b[:at]), "\n"))
}

// plainJSON puts spaces in the place of comments, and of commas before a closing bracket.
func plainJSON(b []byte) []byte {
	comma := -1 // the last one, with nothing after it so far
	blank := func(from, to int) {
		for i := from; i < min(to, len(b)); i++ {
			if b[i] != '\n' {
				b[i] = ' '
			}
		}
	}
	for i := 0; i < len(b); i++ {
		rest := string(b[i:min(i+2, len(b))])
		switch c := b[i]; {
		case c == '"':
			for i++; i < len(b) && b[i] != '"' && b[i] != '\n'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			comma = -1
		case rest == "//" || rest == "/*":
			end, length := "\n", 0
			if rest == "/*" {
				end, length = "*/", 2
			}
			n := strings.Index(string(b[i+2:]), end)
			if n < 0 {
				n = len(b)
			}
			blank(i, i+2+n+length)
			i = min(i+1+n+length, len(b))
		case c == ',':
			comma = i
		case (c == '}' || c == ']') && comma >= 0:
			b[comma] = ' '
			comma = -1
		case c > ' ':
			comma = -1
		}
	}
	return b
}

// others are variables that deployments of other servers have, in the order in which they are asked, and what they say in our
// words: so a Laravel .env or a soketi container moves over as it is. convert returns "" if the value says nothing.
var others = []struct {
	variable, option string
	convert          func(value string, getenv func(string) string) string
}{
	{"PUSHER_APP_ID", "id", nil}, {"REVERB_APP_ID", "id", nil}, {"SOKETI_DEFAULT_APP_ID", "id", nil},
	{"PUSHER_APP_KEY", "key", nil}, {"REVERB_APP_KEY", "key", nil}, {"SOKETI_DEFAULT_APP_KEY", "key", nil},
	{"PUSHER_APP_SECRET", "secret", nil}, {"REVERB_APP_SECRET", "secret", nil}, {"SOKETI_DEFAULT_APP_SECRET", "secret", nil},
	{"SOKETI_PORT", "addr", portOf("SOKETI_HOST")},
	{"REVERB_SERVER_PORT", "addr", portOf("REVERB_SERVER_HOST")},
	{"REVERB_APP_KEY", "addr", func(_ string, getenv func(string) string) string {
		return net.JoinHostPort(anyHost(getenv("REVERB_SERVER_HOST")), "8080") // its default
	}},
	{"REVERB_SERVER_PATH", "path", nil},
	{"REVERB_APP_ACTIVITY_TIMEOUT", "activity-timeout", nil},
	{"REVERB_APP_MAX_CONNECTIONS", "max-connections", positive},
	{"SOKETI_DEFAULT_APP_MAX_CONNS", "max-connections", positive},
	{"SOKETI_DEFAULT_APP_ENABLE_CLIENT_MESSAGES", "client-events", nil},
	{"SOKETI_EVENT_MAX_SIZE_IN_KB", "event-size", kilobytes},
	{"SOKETI_PRESENCE_MAX_MEMBERS", "presence-members", nil},
	{"SOKETI_PRESENCE_MAX_MEMBER_SIZE", "presence-user-size", kilobytes},
	{"SOKETI_SSL_CERT", "tls-cert", nil}, {"SOKETI_SSL_KEY", "tls-key", nil},
	{"SOKETI_DEBUG", "verbose", nil},
	{"SOKETI_METRICS_ENABLED", "metrics-addr", func(v string, getenv func(string) string) string {
		if on, _ := strconv.ParseBool(v); !on {
			return ""
		}
		if port := getenv("SOKETI_METRICS_SERVER_PORT"); port != "" {
			return ":" + port
		}
		return ":9601"
	}},
	{"SOKETI_DEFAULT_APP_WEBHOOKS", "webhook", soketiHooks},
}

// anyHost is "" for an address that stands for all.
func anyHost(host string) string {
	if host == "0.0.0.0" || host == "::" {
		return ""
	}
	return host
}

func portOf(host string) func(string, func(string) string) string {
	return func(port string, getenv func(string) string) string {
		return net.JoinHostPort(anyHost(getenv(host)), port)
	}
}

// positive leaves out -1, which is no limit.
func positive(v string, _ func(string) string) string {
	if strings.HasPrefix(v, "-") {
		return ""
	}
	return v
}

func kilobytes(v string, _ func(string) string) string {
	n, err := strconv.ParseFloat(v, 64)
	if err != nil {
		return v // which will be refused
	}
	return strconv.Itoa(int(n * 1024))
}

// soketiHooks makes our webhooks of soketi's: [{"url":…,"event_types":[…],"filter":{"channel_name_starts_with":…}},…].
func soketiHooks(v string, _ func(string) string) string {
	var hooks []string
	if checkJSON([]byte(v), 8, 1000) != nil {
		return v // which will be refused
	}
	for item := range value(v).items() {
		var f [3]value
		if parseObject(item, 8, 1000, []string{"url", "event_types", "filter"}, f[:]) != nil || !f[0].is('"') {
			return v
		}
		var events, wants []string
		for e := range f[1].items() {
			if e.is('"') && slices.Contains(hookNames, string(e.text())) {
				events = append(events, string(e.text()))
			}
		}
		if len(events) > 0 {
			wants = append(wants, "events="+strings.Join(events, ","))
		}
		var prefix [1]value
		if parseObject(f[2], 8, 1000, []string{"channel_name_starts_with"}, prefix[:]) == nil && prefix[0].is('"') {
			wants = append(wants, "prefix="+url.QueryEscape(string(prefix[0].text())))
		}
		hook := string(f[0].text())
		if len(wants) > 0 {
			hook += "#" + strings.Join(wants, "&")
		}
		hooks = append(hooks, hook)
	}
	return strings.Join(hooks, " ")
}

// readOthers reads the variables of other servers.
func (g given) readOthers(getenv func(string) (string, bool)) {
	get := func(name string) string {
		v, _ := getenv(name)
		if n := len(v); n >= 2 && (v[0] == '"' || v[0] == '\'') && v[n-1] == v[0] {
			v = v[1 : n-1] // docker leaves the quotes of an --env-file
		}
		return v
	}
	for _, other := range others {
		v := get(other.variable)
		if v != "" && other.convert != nil {
			v = other.convert(v, get)
		}
		if v != "" {
			g.says(other.option, other.variable, v)
		}
	}
}

// options reads all there is of them, and of the files that they name.
func (p *program) options(args []string) (options, error) {
	o, err := parseOptions(args, p.getenv)
	if err == nil && o.tlsCert != "" {
		_, err = newCertificate(o.tlsCert, o.tlsKey)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		err = usageError{err}
	}
	return o, err
}

// configCommand prints the options that hold and where each was set, or with -check only what is wrong.
func (p *program) configCommand() error {
	check := slices.Contains(p.args, "-check")
	if slices.Contains(p.args, "-example") {
		_, err := io.WriteString(p.stdout, exampleConfig())
		return err
	}
	o, err := p.options(slices.DeleteFunc(slices.Clone(p.args), func(a string) bool { return a == "-check" }))
	switch {
	case err != nil:
		return err
	case check:
		fmt.Fprintln(p.stdout, "the configuration is good")
		return nil
	}
	o.given.print(p.stdout, "", optionTable(new(options)))
	for i, g := range o.givenApps {
		fmt.Fprintf(p.stdout, "\napp %s\n", o.apps[i].id)
		g.print(p.stdout, "  ", appTable(new(appOptions)))
	}
	return nil
}

// print prints what was given of the options of a table.
func (g given) print(w io.Writer, indent string, table []option) {
	for _, opt := range table {
		s, ok := g[opt.name]
		if !ok || opt.traits&onlyFlag != 0 {
			continue
		}
		text := strings.Join(s.values, " ")
		switch {
		case opt.traits&masked != 0 && text != "":
			text = "***"
		case opt.name == "webhook":
			text = redacted(text)
		}
		fmt.Fprintf(w, "%s%-23s %-30s # %s\n", indent, opt.name, text, s.from)
	}
}

// redacted returns URLs, with spaces between, without the passwords in them.
func redacted(urls string) string {
	all := strings.Fields(urls)
	for i, s := range all {
		if u, err := url.Parse(s); err == nil {
			all[i] = u.Redacted()
		}
	}
	return strings.Join(all, " ")
}

// exampleConfig is a file that says what holds without one, for people to change.
func exampleConfig() string {
	var b strings.Builder
	b.WriteString("// The configuration of edge: JSON, in which comments are allowed. What stands here in a comment is what holds without it.\n{\n")
	for _, opt := range optionTable(new(options)) {
		if opt.traits&onlyFlag != 0 || opt.name == "config" {
			continue
		}
		value := opt.value
		if _, err := strconv.Atoi(value); err != nil && value != "true" && value != "false" {
			value = string(appendString(nil, value))
		}
		fmt.Fprintf(&b, "  // %s\n  // %q: %s,\n", opt.help, opt.name, value)
	}
	b.WriteString("\n  // Several apps, each with whatever it has of its own. Without them the options above describe the only one.\n" +
		"  // \"apps\": [\n  //   { \"id\": \"1\", \"key\": \"one\", \"secret-file\": \"/etc/edge/one\", \"origins\": [\"https://example.com\"] },\n" +
		"  //   { \"id\": \"2\", \"key\": \"two\", \"secret\": \"…\", \"more-keys\": [{ \"key\": \"old\", \"secret\": \"…\" }], \"max-connections\": 100 },\n  // ],\n}\n")
	return b.String()
}
