package main

// What flags, the environment and a configuration file say of the options. A flag goes before a variable, a variable before the
// file, the file before a variable that another server's deployment has set, and that before the default. What is wrong anywhere
// ends edge before it starts, with one sentence.

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tailscale/hujson"
)

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
	case opt.traits&masked != 0 || opt.name == "webhook" && (strings.ContainsAny(value, "@?") || strings.Contains(value, "headers")):
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
	more, err := g.readFlags(args, table)
	if err == nil && len(more) > 0 {
		err = fmt.Errorf("unexpected argument %q; edge -help lists options and commands", more[0])
	}
	if err == nil {
		err = o.read(g, table, getenv)
	}
	return o, err
}

// read adds to what the flags say, g, what variables and the configuration file say. table is of o, and may have more.
func (o *options) read(g given, table []option, getenv func(string) (string, bool)) error {
	if slices.Equal(g["version"].values, []string{"true"}) { // whatever is wrong otherwise
		o.version = true
		return nil
	}
	_, o.secretShown = g["secret"]
	for _, opt := range table {
		if v, ok := getenv(envName(opt.name)); ok && v != "" && opt.traits&onlyFlag == 0 { // EDGE_VERSION is likely to be of something else
			g.says(opt.name, envName(opt.name), v)
		}
	}
	file := configFile{name: strings.Join(g["config"].values, "")}
	if file.name != "" {
		if err := file.read(optionTable(new(options))); err != nil {
			return err
		}
	}
	for name, s := range file.given {
		g.says(name, s.from, s.values...)
	}
	if file.apps == nil {
		g.readOthers(getenv)
	}
	if err := g.apply(table, true); err != nil {
		return err
	}
	o.given = g
	return o.complete(file)
}

// readFlags reads the command line, and returns what is no option: options may stand before, between and behind it, up to a --.
// A negative number is no option.
func (g given) readFlags(args []string, table []option) (more []string, err error) {
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
	for {
		err := fs.Parse(args)
		left, last := fs.Args(), ""
		if len(left) < len(args) {
			last = args[len(args)-len(left)-1]
		}
		switch {
		case err != nil && len(last) > 1 && '0' <= last[1] && last[1] <= '9':
			more, args = append(more, last), left
		case err != nil:
			return nil, optionError(err, table)
		case len(left) == 0 || last == "--":
			return append(more, left...), nil
		default:
			more, args = append(more, left[0]), left[1:]
		}
	}
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
	if err := o.checkTLS(); err != nil {
		return err
	}
	if slices.Contains(o.addrs, o.metricsAddr) {
		return fmt.Errorf("-metrics-addr and -addr are both %s: metrics need an address of their own", o.metricsAddr)
	}
	if o.memory == 0 {
		o.memory = defaultMemory()
		o.given.says("memory", "the system", sizeText(o.memory))
	}
	if o.app.limits.maxConnections == 0 {
		o.app.limits.maxConnections = min(defaultConnections(), o.forConnections())
		o.given.says("max-connections", fromSystem, strconv.Itoa(o.app.limits.maxConnections))
	}
	o.connections = o.app.limits.maxConnections
	if file.apps == nil {
		o.apps = []appOptions{o.app}
		if err := o.apps[0].complete(map[string]bool{}); err != nil {
			return err
		}
		o.app = o.apps[0]
		return nil
	}
	for _, name := range []string{"id", "key", "secret", "more-keys"} {
		if s, ok := o.given[name]; ok && !(o.choosing && name == "id") {
			return fmt.Errorf("the app is described twice: by %s and by \"apps\" in %s", s.from, file.name)
		}
	}
	return o.completeApps(file)
}

// checkTLS refuses addresses that would be served in plain by mistake. (A command does not serve, and may be about another server.)
func (o *options) checkTLS() error {
	sealed := func(addr string) bool {
		if o.tlsCert == "" {
			return strings.HasPrefix(addr, "tls:")
		}
		return !plain(addr, len(o.addrs)-1)
	}
	i := slices.IndexFunc(o.addrs, sealed)
	switch {
	case o.choosing || (i >= 0) == (o.tlsCert != ""):
		return nil
	case i >= 0:
		return fmt.Errorf("-addr %s needs -tls-cert and -tls-key", o.addrs[i])
	}
	return fmt.Errorf("there is -tls-cert, but every -addr is plain, like %s: write tls:host:port for one with TLS", o.addrs[0])
}

// completeApps makes the apps of the file, each of which inherits what it does not say.
func (o *options) completeApps(file configFile) error {
	ids, keys := map[string]bool{}, map[string]bool{}
	for _, entry := range file.apps {
		a := o.app
		if _, own := entry.given["secret"]; own {
			a.secretFile = "" // that of the others: the unit of systemd names one
		}
		if err := entry.given.apply(appTable(&a), false); err != nil {
			return err
		}
		if a.id == "" || a.key == "" || a.secret == "" && a.secretFile == "" {
			return fmt.Errorf("%s: an app needs an id, a key and a secret", entry.from)
		}
		if ids[a.id] {
			return fmt.Errorf("%s: there is another app with the id %q", entry.from, a.id)
		}
		ids[a.id] = true
		if err := a.complete(keys); err != nil {
			return fmt.Errorf("%s: %w", entry.from, err)
		}
		o.apps, o.givenApps = append(o.apps, a), append(o.givenApps, entry.given)
	}
	return nil
}

// keepMadeUp lets what was made up for old stay, if o has nothing else. Whoever was given a key may not lose it by a reload.
func (o *options) keepMadeUp(old *options) error {
	app, before := &o.apps[0], &old.app
	switch {
	case app.madeKey && !before.madeKey || app.madeSecret && !before.madeSecret:
		return errors.New("it has no key, or no secret, any more")
	case app.madeKey:
		app.key = before.key
	}
	if app.madeSecret {
		app.secret = before.secret
	}
	o.app.key, o.app.secret = app.key, app.secret
	return nil
}

// complete checks what no single option of an app can. keys are those of the apps before; its own are added.
func (a *appOptions) complete(keys map[string]bool) error {
	if err := a.readSecret(); err != nil {
		return err
	}
	for _, k := range a.keys() {
		if keys[k.key] {
			return fmt.Errorf("the key %q stands twice: a new secret needs a new key beside it", k.key)
		}
		keys[k.key] = true
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
	text  []byte
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
	f.text = bytes.TrimPrefix(b, []byte("\ufeff")) // which editors of Windows begin with
	top, err := f.parse()
	if err != nil {
		return err
	}
	object, ok := top.Value.(*hujson.Object)
	if !ok {
		return fmt.Errorf("%s: the configuration must be an object: { … }", f.place(top.StartOffset))
	}
	var apps hujson.Value
	f.given, err = f.readObject(object, table, &apps)
	if err != nil || apps.Value == nil || apps.Value.Kind() == 'n' {
		return err
	}
	return f.readApps(apps)
}

const maxBrackets = 100_000 // in a file: that hujson, which recurses, cannot use up the stack

// parse parses the text. What hujson finds wrong is worded like the rest, without literals: one may be a secret.
func (f *configFile) parse() (hujson.Value, error) {
	if !utf8.Valid(f.text) {
		return hujson.Value{}, fmt.Errorf("%s: not UTF-8", f.place(0))
	}
	brackets := 0
	for i, c := range f.text {
		if c == '[' || c == '{' {
			brackets++
		}
		if brackets > maxBrackets {
			return hujson.Value{}, fmt.Errorf("%s: nested too deep, or too many lists and objects", f.place(i))
		}
	}
	top, err := hujson.Parse(append(slices.Clip(f.text), '\n')) // for a comment at the end
	if err == nil {
		return top, nil
	}
	line, last := 0, 1+bytes.Count(f.text, []byte("\n"))
	fmt.Sscanf(err.Error(), "hujson: line %d,", &line)
	what := errors.Unwrap(err).Error()
	if strings.HasPrefix(what, "invalid literal") {
		what = "invalid string, number or word"
	}
	return top, fmt.Errorf("%s line %d: %s", f.name, min(line, last), what)
}

// readApps reads the value of "apps".
func (f *configFile) readApps(apps hujson.Value) error {
	list, ok := apps.Value.(*hujson.Array)
	if !ok || len(list.Elements) == 0 {
		return fmt.Errorf("%s: \"apps\" must be a list of one app at least", f.place(apps.StartOffset))
	}
	for _, v := range list.Elements {
		from := f.place(v.StartOffset)
		object, ok := v.Value.(*hujson.Object)
		if !ok {
			return fmt.Errorf("%s: an app must be an object: { \"id\": …, \"key\": …, \"secret\": … }", from)
		}
		g, err := f.readObject(object, appTable(new(appOptions)), nil)
		if err != nil {
			return err
		}
		f.apps = append(f.apps, appEntry{from, g})
	}
	return nil
}

// readObject reads an object whose names are those of a table. apps takes the value of that name, and is nil within it.
func (f *configFile) readObject(object *hujson.Object, table []option, apps *hujson.Value) (given, error) {
	g, seen := given{}, map[string]bool{}
	for _, m := range object.Members {
		name, v, from := nameOf(m), m.Value.Value, f.place(m.Value.StartOffset)
		i := slices.IndexFunc(table, func(o option) bool { return o.name == name && o.inFile() })
		if seen[name] {
			return nil, fmt.Errorf("%s: %q stands twice", from, clip([]byte(name)))
		}
		seen[name] = true
		switch {
		case name == "apps" && apps != nil:
			*apps = m.Value
		case i >= 0 && v.Kind() == 'n':
		case i < 0:
			return nil, fmt.Errorf("%s: %s", from, misplaced(name, table, apps != nil))
		default:
			values, err := settingValues(v, table[i].traits)
			if err == nil && v.Kind() == '[' && table[i].value != "" && strings.Join(values, "") == "" {
				err = errors.New("the list is empty")
			}
			if err != nil {
				return nil, fmt.Errorf("%s: invalid value of %q: %v", from, name, err)
			}
			// Or it says what the example shows: nothing.
			if table[i].value != "" || v.Kind() == '[' || !slices.Equal(values, []string{""}) {
				g[name] = setting{values, from}
			}
		}
	}
	return g, nil
}

// nameOf is what a member is called.
func nameOf(m hujson.ObjectMember) string { return m.Name.Value.(hujson.Literal).String() }

// misplaced says why a name cannot stand in an object of the file, which is the outermost or one of an app.
func misplaced(name string, table []option, outermost bool) string {
	all := optionTable(new(options))
	if i := slices.IndexFunc(all, func(o option) bool { return o.name == name }); i >= 0 && !all[i].inFile() {
		return fmt.Sprintf("%q cannot stand in a file; it is the option -%s", name, name)
	} else if i >= 0 {
		return fmt.Sprintf("%q is for all apps together and belongs outside \"apps\"", name)
	}
	names := optionNames(slices.DeleteFunc(slices.Clone(table), func(o option) bool { return !o.inFile() }))
	if outermost {
		names = append(names, "apps")
	}
	return fmt.Sprintf("unknown option %q; %s", clip([]byte(name)), didYouMean("", name, names, "edge -help lists the options"))
}

// settingValues returns what a value of the file would be as flags: a string, number or truth value stands for itself, a list for
// its items. A pair of keys may be an object.
func settingValues(v hujson.ValueTrimmed, t traits) (values []string, err error) {
	switch v := v.(type) {
	case hujson.Literal:
		return []string{v.String()}, nil
	case *hujson.Object:
		if t&masked == 0 {
			return nil, errNoObject
		}
		pair, err := keyAndSecret(v)
		return []string{pair}, err
	}
	if t&(repeats|commas) == 0 {
		return nil, errors.New("it takes one value, not a list")
	}
	for _, item := range v.(*hujson.Array).Elements {
		if item.Value.Kind() == '[' {
			return nil, errors.New("a list cannot stand in a list")
		}
		some, err := settingValues(item.Value, t)
		if err != nil {
			return nil, err
		}
		values = append(values, some...)
	}
	if t&repeats == 0 {
		values = []string{strings.Join(values, ",")}
	}
	return values, nil
}

var errNoObject = errors.New("an object cannot stand here")

// keyAndSecret makes KEY:SECRET of {"key":…,"secret":…}.
func keyAndSecret(object *hujson.Object) (string, error) {
	found := map[string]hujson.Literal{}
	for _, m := range object.Members {
		name := nameOf(m)
		if _, twice := found[name]; twice {
			return "", errNoObject
		}
		found[name], _ = m.Value.Value.(hujson.Literal)
	}
	key, secret := found["key"], found["secret"]
	if key.Kind() != '"' || secret.Kind() != '"' {
		return "", errNoObject
	}
	pair := key.String() + ":" + secret.String()
	if len(strings.Fields(pair)) != 1 {
		return "", errors.New("a key and its secret cannot have spaces")
	}
	return pair, nil
}

// place says where an offset of the text is.
func (f *configFile) place(at int) string {
	return fmt.Sprintf("%s line %d", f.name, 1+bytes.Count(f.text[:at], []byte("\n")))
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
		if port := getenv("SOKETI_METRICS_SERVER_PORT"); port != "" && !isLink(port) {
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

// isLink reports whether a variable is one of Kubernetes': SOKETI_PORT is tcp://10.0.0.1:6001 wherever there is a service named soketi.
func isLink(port string) bool { return strings.Contains(port, "://") }

func portOf(host string) func(string, func(string) string) string {
	return func(port string, getenv func(string) string) string {
		if isLink(port) {
			return ""
		}
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
	hooks, _ := readSoketiHooks(v)
	return hooks
}

// readSoketiHooks says too what of them we do not have.
func readSoketiHooks(v string) (_ string, lost []string) {
	var theirs []map[string]any
	if !utf8.ValidString(v) || json.Unmarshal([]byte(v), &theirs) != nil {
		return v, nil // which will be refused
	}
	var hooks []string
	note := func(there bool, what string) {
		if there && !slices.Contains(lost, what) {
			lost = append(lost, what)
		}
	}
	for _, h := range theirs {
		hook, isURL := h["url"].(string)
		events, isList := h["event_types"].([]any)
		known, unknown, ok := sortEvents(events)
		if !isURL || !ok {
			return v, nil
		}
		var wants []string
		switch {
		case known != nil:
			wants = append(wants, "events="+strings.Join(known, ","))
		case unknown != nil:
			wants = append(wants, "events="+url.QueryEscape(strings.Join(unknown, ","))) // which will be refused
		case isList:
			continue // it is told nothing
		}
		filter, _ := h["filter"].(map[string]any)
		if prefix, ok := filter["channel_name_starts_with"].(string); ok {
			wants = append(wants, "prefix="+url.QueryEscape(prefix))
		}
		headers, _ := h["headers"].(map[string]any)
		suffix, _ := filter["channel_name_ends_with"].(string)
		note(len(headers) > 0, "headers")
		note(suffix != "", "channel_name_ends_with")
		note(unknown != nil, "some event_types")
		if len(wants) > 0 {
			hook += "#" + strings.Join(wants, "&")
		}
		hooks = append(hooks, hook)
	}
	return strings.Join(hooks, " "), lost
}

// sortEvents tells the events that our webhooks know from the others. ok is false if one is no string.
func sortEvents(events []any) (known, unknown []string, ok bool) {
	for _, e := range events {
		name, ok := e.(string)
		switch {
		case !ok:
			return nil, nil, false
		case slices.Contains(hookNames, name):
			known = append(known, name)
		default:
			unknown = append(unknown, name)
		}
	}
	return known, unknown, true
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
		v, from := get(other.variable), other.variable
		if other.option == "webhook" {
			if _, lost := readSoketiHooks(v); lost != nil {
				from += " without " + strings.Join(lost, ", ")
			}
		}
		if v != "" && other.convert != nil {
			v = other.convert(v, get)
		}
		if _, file := g["secret-file"]; file && other.option == "secret" {
			continue // it is named already
		}
		if v != "" {
			g.says(other.option, from, v)
		}
	}
}

const fromSystem = "memory and open files" // where a limit comes from that nobody gave

// foreign says which options are as variables of other servers have them.
func (o *options) foreign() (all []string) {
	for _, opt := range optionTable(new(options)) {
		from := o.given[opt.name].from
		variable, _, _ := strings.Cut(from, " without ")
		for _, other := range others {
			if other.option == opt.name && other.variable == variable {
				all = append(all, opt.name+" from "+from)
			}
		}
	}
	return all
}

// options reads all there is of them, and of the files that they name.
func (p *program) options(args []string) (options, error) {
	o, err := parseOptions(args, p.getenv)
	if err == nil && o.tlsCert != "" {
		_, err = newCertificate(o.tlsCert, o.tlsKey)
	}
	return o, p.misread(err, "")
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

// redacted returns URLs, with spaces between, without what may be secret in them.
func redacted(urls string) string {
	all := strings.Fields(urls)
	for i, s := range all {
		if h, err := parseHook(s); err == nil {
			all[i] = h.name
		}
	}
	return strings.Join(all, " ")
}

// exampleConfig is a file that says what holds without one, for people to change.
func exampleConfig() string {
	var b strings.Builder
	b.WriteString("// The configuration of edge: JSON, in which comments are allowed. What stands here in a comment is what holds without it.\n{\n")
	for _, opt := range optionTable(new(options)) {
		if !opt.inFile() {
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
