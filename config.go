package main

// Options from flags, the environment and a configuration file. A flag goes before a variable, a variable before the
// file, and the file before the default. Any mistake in them ends edge before it starts, with one sentence.

import (
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"edge/internal/conn"
	"edge/internal/listen"
)

// setting is the value of an option, or the values of one that repeats, and where it was set.
type setting struct {
	values []string
	from   string
}

// given has the setting of each option, by name.
type given map[string]setting

// says enters a setting unless there is one already.
func (g given) says(name, from string, values ...string) {
	if _, ok := g[name]; !ok {
		g[name] = setting{values, from}
	}
}

// apply sets the options of a table, with defaults also those without a setting.
func (g given) apply(table []option, defaults bool) error {
	for _, opt := range table {
		if defaults && opt.value != "" {
			g.says(opt.name, "the default", opt.value)
		}
		if s, ok := g[opt.name]; ok {
			if err := opt.set(s.values); err != nil {
				return invalid(opt, strings.Join(s.values, " "), s.from, err)
			}
		}
	}
	return nil
}

// invalid is the error of a wrong value. It shows no secret.
func invalid(opt option, value, from string, err error) error {
	if opt.traits&masked != 0 || opt.name == "webhook" && strings.ContainsAny(value, "@?") {
		value = "***"
	}
	if strings.Contains(from, " line ") {
		return fmt.Errorf("%s: invalid value %.200q of %q: %v", from, value, opt.name, err)
	}
	return fmt.Errorf("invalid value %.200q of %s: %v", value, from, err)
}

// parseOptions reads flags, variables and the configuration file.
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

// parseCommand reads the options of a command, its own and the server's. o has one app, the one that is meant, and args
// is what is no option.
func parseCommand(own []option, all []string, getenv func(string) (string, bool)) (o options, args []string, err error) {
	o.choosing = true
	g, table := given{}, append(own, optionTable(&o)...)
	if args, err = g.readFlags(all, table); err == nil {
		err = o.read(g, table, getenv)
	}
	if err == nil {
		err = o.chooseApp()
	}
	return o, args, err
}

// ownOption makes an option of a command, which is a flag only.
func ownOption(name, standard, help string, to any) option {
	opt := option{name, standard, onlyFlag, nil, help}
	switch to := to.(type) {
	case *string:
		opt.set = value(to, text)
	case *bool:
		opt.set = value(to, boolean)
	case *int:
		opt.set = value(to, number(0, math.MaxInt32))
	case *time.Duration:
		opt.set = value(to, duration(0))
	case *[]string:
		opt.set, opt.traits = list(to, whole, text), onlyFlag|repeats
	}
	return opt
}

// withVariable makes an option one that may be in the environment too.
func (o option) withVariable() option {
	o.traits &^= onlyFlag
	return o
}

// read adds variables and the configuration file to the flags, g. table is that of o, and may have more options.
func (o *options) read(g given, table []option, getenv func(string) (string, bool)) (err error) {
	if slices.Equal(g["version"].values, []string{"true"}) { // whatever is wrong otherwise
		o.version = true
		return nil
	}
	_, o.secretShown = g["secret"]
	for _, opt := range table {
		if v, _ := getenv(envName(opt.name)); v != "" && opt.traits&onlyFlag == 0 {
			g.says(opt.name, envName(opt.name), v)
		}
	}
	file := configFile{name: strings.Join(g["config"].values, "")}
	if file.name != "" {
		err = file.read()
	}
	for name, s := range file.given {
		g.says(name, s.from, s.values...)
	}
	if file.apps == nil {
		o.found = g.readOthers(getenv)
	}
	if err == nil {
		err = g.apply(table, true)
	}
	if err == nil {
		o.given = g
		err = o.complete(file)
	}
	return err
}

// readFlags reads the command line, and returns the arguments. They may stand between options, unlike package flag's.
// All after -- are arguments, and so are negative numbers.
func (g given) readFlags(args []string, table []option) (more []string, err error) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		name, value, together := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		if !together && len(args) > 0 {
			value = args[0]
		}
		i := indexOption(table, name)
		switch {
		case arg == "--":
			return append(more, args...), nil
		case len(arg) < 2 || arg[0] != '-' || '0' <= arg[1] && arg[1] <= '9':
			more = append(more, arg)
			continue
		case i < 0 && (name == "h" || name == "help"):
			return nil, flag.ErrHelp
		case i < 0:
			return nil, unknownOption(name, value, table)
		case together:
		case table[i].value == "true" || table[i].value == "false":
			value = "true"
		case len(args) == 0:
			return nil, fmt.Errorf("option -%s needs a value", name)
		default:
			args = args[1:]
		}
		s := setting{[]string{value}, "option -" + name}
		if table[i].traits&repeats != 0 {
			s.values = append(g[name].values, value)
		}
		g[name] = s
	}
	return more, nil
}

// unknownOption is the error of an option that is not in the table. It shows the value only if that is a port.
func unknownOption(name, value string, table []option) error {
	meant := didYouMean("-", name, optionNames(table), "edge -help lists the options")
	if _, err := strconv.ParseUint(value, 10, 16); err == nil {
		meant = strings.Replace(meant, "PORT", value, 1)
	}
	return fmt.Errorf("unknown option %q; %s", "-"+name, meant)
}

func optionNames(table []option) (names []string) {
	for _, opt := range table {
		names = append(names, opt.name)
	}
	return names
}

func indexOption(table []option, name string) int {
	return slices.IndexFunc(table, func(o option) bool { return o.name == name })
}

// misnomers are options and commands of other servers, and ours.
var misnomers = map[string]string{
	"-port": "-addr :PORT", "-host": "-addr HOST:6001", "-app-key": "-key", "-app-secret": "-secret",
	"-cert": "-tls-cert", "-debug": "-verbose",
	"edge start": "edge", "edge serve": "edge", "edge version": "edge -version",
}

// didYouMean suggests the name nearest to the written one, with before in front of it, or says otherwise.
func didYouMean(before, written string, names []string, otherwise string) string {
	if name, ok := misnomers[before+written]; ok {
		return fmt.Sprintf("did you mean %s?", name)
	}
	if name, ok := misnomers["-"+written]; ok && before == "" { // a name in the file
		return fmt.Sprintf("did you mean %s?", strings.Fields(name[1:])[0])
	}
	for edits := range 1 + min(3, 1+len(written)/3) {
		for _, name := range names {
			if near(written, name, edits) {
				return fmt.Sprintf("did you mean %s%s?", before, name)
			}
		}
	}
	return otherwise
}

// near reports whether changing, adding or leaving out at most so many letters makes b of a.
func near(a, b string, edits int) bool {
	for a != "" && b != "" && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	if edits == 0 || a == "" || b == "" {
		return len(a)+len(b) <= edits
	}
	return near(a[1:], b[1:], edits-1) || near(a[1:], b, edits-1) || near(a, b[1:], edits-1)
}

// envName is the environment variable of an option.
func envName(option string) string {
	return "EDGE_" + strings.ToUpper(strings.ReplaceAll(option, "-", "_"))
}

// others are what the variables of other servers begin with that have an ID, a KEY and a SECRET.
var others = []string{"PUSHER_APP_", "REVERB_APP_", "SOKETI_DEFAULT_APP_"}

// readOthers reads the first complete credentials of others, unless there are own ones. found are their variables.
func (g given) readOthers(getenv func(string) (string, bool)) (found []string) {
	for _, own := range []string{"id", "key", "secret", "secret-file"} {
		if _, ok := g[own]; ok {
			return nil
		}
	}
	for _, server := range others {
		theirs := given{}
		for _, name := range []string{"id", "key", "secret"} {
			variable := server + strings.ToUpper(name)
			v, _ := getenv(variable)
			if n := len(v); n >= 2 && (v[0] == '"' || v[0] == '\'') && v[n-1] == v[0] {
				v = v[1 : n-1] // docker leaves the quotes of an --env-file
			}
			if v != "" {
				theirs[name] = setting{[]string{v}, variable}
				found = append(found, variable)
			}
		}
		if theirs["key"].values != nil && theirs["secret"].values != nil {
			maps.Copy(g, theirs)
			return found
		}
		found = nil
	}
	return nil
}

// unused names the variables of edge and of other servers that have no effect, except for links of Kubernetes.
func (o *options) unused(environment []string) string {
	used := slices.Clone(o.found)
	for _, name := range optionNames(allOptions()) {
		used = append(used, envName(name))
	}
	var unused []string
	for _, variable := range environment {
		name, value, _ := strings.Cut(variable, "=")
		server, _, _ := strings.Cut(name, "_")
		if slices.Contains([]string{"EDGE", "PUSHER", "REVERB", "SOKETI"}, server) && server != name &&
			value != "" && !strings.Contains(value, "://") && !slices.Contains(used, name) {
			unused = append(unused, name)
		}
	}
	if unused == nil {
		return ""
	}
	slices.Sort(unused)
	return fmt.Sprintf("edge does not use %s: edge -help lists options, each also a variable", strings.Join(unused, ", "))
}

const fromSystem = "memory and open files" // where the default of -max-connections comes from

// complete checks what no single option can, and finds what the system says. The apps come last.
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
		o.memory = conn.DefaultMemory()
		o.given.says("memory", "the system", conn.SizeText(o.memory))
	}
	if o.app.limits.MaxConnections == 0 {
		o.app.limits.MaxConnections = o.mostConnections()
		o.given.says("max-connections", fromSystem, strconv.Itoa(o.app.limits.MaxConnections))
	}
	o.connections = o.app.limits.MaxConnections
	if file.apps != nil {
		return o.completeApps(file)
	}
	if err := o.app.complete(map[string]bool{}); err != nil {
		return err
	}
	o.apps = []appOptions{o.app}
	return nil
}

// checkTLS refuses addresses that would be plain by mistake, but not for commands, which may be about another server.
func (o *options) checkTLS() error {
	i := slices.IndexFunc(o.addrs, func(addr string) bool {
		return o.tlsCert == "" && strings.HasPrefix(addr, "tls:") || o.tlsCert != "" && !listen.Plain(addr, len(o.addrs)-1)
	})
	switch {
	case o.choosing || (i >= 0) == (o.tlsCert != ""):
		return nil
	case i >= 0:
		return fmt.Errorf("-addr %s needs -tls-cert and -tls-key", o.addrs[i])
	}
	return fmt.Errorf("there is -tls-cert, but every -addr is plain, like %s: write tls:host:port for one with TLS", o.addrs[0])
}

// completeApps makes the apps of the file. Each inherits the options that it does not have.
func (o *options) completeApps(file configFile) error {
	for _, name := range []string{"id", "key", "secret", "more-keys"} {
		if s, ok := o.given[name]; ok && !(o.choosing && name == "id") {
			return fmt.Errorf("the app is described twice: by %s and by \"apps\" in %s", s.from, file.name)
		}
	}
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

// follow makes o what a running server can have: a key and a secret that were made up for before, which held until now,
// stay, since clients know them, and so does the memory of began, the start. late are options that wait for the next one.
func (o *options) follow(before, began *options) (late []string, err error) {
	app, old := &o.apps[0], &before.apps[0]
	if app.madeKey && !old.madeKey || app.madeSecret && !old.madeSecret {
		return nil, errors.New("it has no key, or no secret, any more")
	}
	if app.madeKey {
		app.key = old.key
	}
	if app.madeSecret {
		app.secret = old.secret
	}
	for _, opt := range allOptions() {
		if opt.traits&atStart != 0 && !slices.Equal(o.given[opt.name].values, began.given[opt.name].values) {
			late = append(late, opt.name)
		}
	}
	if (o.tlsCert == "") != (began.tlsCert == "") {
		late = append(late, "tls-cert", "tls-key")
	}
	derived := o.connections
	if o.memory = began.memory; o.given["max-connections"].from != fromSystem {
		return late, nil
	}
	o.connections = o.mostConnections()
	for i := range o.apps {
		if l := &o.apps[i].limits; l.MaxConnections == derived {
			l.MaxConnections = o.connections
		}
	}
	return late, nil
}

// mostConnections is how many there is memory for, and files.
func (o *options) mostConnections() int {
	return min(defaultConnections(), conn.ConnectionsFor(o.memory, o.tlsCert != ""))
}

// defaultConnections leaves descriptors for API requests and whatever else needs one.
func defaultConnections() int {
	limit := conn.DescriptorLimit()
	return max(64, limit-max(128, limit/20))
}

// anonymous describes an app with the same limits, which nobody has the keys of.
func (a appOptions) anonymous(id string) appOptions {
	a.id, a.key, a.secret = id, strings.ToLower(rand.Text()), rand.Text()
	a.hooks, a.moreKeys = nil, nil
	return a
}

// chooseApp makes apps the one that is meant.
func (o *options) chooseApp() error {
	var ids []string
	for _, a := range o.apps {
		if ids = append(ids, a.id); a.id == o.app.id || o.app.id == "" && len(o.apps) == 1 {
			if o.apps = []appOptions{a}; a.madeKey || a.madeSecret {
				return errors.New("which app? -key and -secret say it, EDGE_KEY and EDGE_SECRET, or the -config of the server")
			}
			return nil
		}
	}
	return fmt.Errorf("which app? -id is one of %s", strings.Join(ids, ", "))
}

// complete reads the secret's file, adds the app's keys to those of other apps, and makes up a missing key or secret.
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

// readSecret reads the secret from its file, if there is one.
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

// keys are all keys of the app. The first signs.
func (a *appOptions) keys() []keyPair {
	return append([]keyPair{{a.key, a.secret}}, a.moreKeys...)
}
