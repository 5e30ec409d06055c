// Package config reads the options of edge: from flags, the environment and a configuration file. A flag goes before a
// variable, a variable before the file, and the file before the default. Any mistake in them is an error of one
// sentence, before edge starts. The package decides nothing that happens later, and opens nothing but the files that
// options name.
//
// A new option is a row of the table in options.go and a field. TEST_UPDATE=1 go test -run TestReadmeOptions . enters
// it into the README.
package config

import (
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

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
func (g given) apply(table []Option, defaults bool) error {
	for _, opt := range table {
		if defaults && opt.Default != "" {
			g.says(opt.Name, "the default", opt.Default)
		}
		if s, ok := g[opt.Name]; ok {
			if err := opt.set(s.values); err != nil {
				return s.invalid(opt, err)
			}
		}
	}
	return nil
}

// invalid is the error of a wrong value. It shows no secret.
func (s setting) invalid(opt Option, err error) error {
	value := strings.Join(s.values, " ")
	if opt.traits&masked != 0 || opt.Name == "webhook" && strings.ContainsAny(value, "@?") {
		value = "***"
	}
	if strings.Contains(s.from, " line ") {
		return fmt.Errorf("%s: invalid value %.200q of %q: %v", s.from, value, opt.Name, err)
	}
	return fmt.Errorf("invalid value %.200q of %s: %v", value, s.from, err)
}

// Parse reads the options of a server.
func Parse(args []string, getenv func(string) (string, bool)) (o Options, err error) {
	_, err = o.parse(nil, args, getenv)
	return o, err
}

// ParseCommand reads the options of a command, its own and the server's, and the arguments. o has only the app that is
// meant.
func ParseCommand(own []Option, args []string, getenv func(string) (string, bool)) (o Options, more []string,
	err error) {
	o.choosing = true
	if more, err = o.parse(own, args, getenv); err == nil {
		err = o.chooseApp()
	}
	return o, more, err
}

func (o *Options) parse(own []Option, args []string, getenv func(string) (string, bool)) (more []string, err error) {
	g, table := given{}, append(own, optionTable(o)...)
	more, err = g.readFlags(args, table)
	switch {
	case err != nil:
		return nil, err
	case len(more) > 0 && !o.choosing:
		return nil, fmt.Errorf("unexpected argument %q; edge -help lists options and commands", more[0])
	case slices.Equal(g["version"].values, []string{"true"}): // whatever is wrong otherwise
		o.Version = true
		return nil, nil
	}
	_, o.SecretShown = g["secret"]
	for _, opt := range table {
		if v, _ := getenv(envName(opt.Name)); v != "" && opt.traits&OnlyFlag == 0 {
			g.says(opt.Name, envName(opt.Name), v)
		}
	}
	file := configFile{name: strings.Join(g["config"].values, "")}
	if err := file.read(); err != nil {
		return nil, err
	}
	for name, s := range file.given {
		g.says(name, s.from, s.values...)
	}
	if file.apps == nil {
		o.Found = g.readOthers(getenv)
	}
	if err := g.apply(table, true); err != nil {
		return nil, err
	}
	o.given = g
	return more, o.complete(file)
}

// readFlags reads the command line, and returns the arguments. They may stand between options, unlike package flag's.
// All after -- are arguments, and so are negative numbers.
func (g given) readFlags(args []string, table []Option) (more []string, err error) {
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
		case table[i].Default == "true" || table[i].Default == "false":
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
func unknownOption(name, value string, table []Option) error {
	meant := DidYouMean("-", name, optionNames(table), "edge -help lists the options")
	if _, err := strconv.ParseUint(value, 10, 16); err == nil {
		meant = strings.Replace(meant, "PORT", value, 1)
	}
	return fmt.Errorf("unknown option %q; %s", "-"+name, meant)
}

func optionNames(table []Option) (names []string) {
	for _, opt := range table {
		names = append(names, opt.Name)
	}
	return names
}

func indexOption(table []Option, name string) int {
	return slices.IndexFunc(table, func(o Option) bool { return o.Name == name })
}

// misnomers are options and commands of other servers, and ours.
var misnomers = map[string]string{
	"-port": "-addr :PORT", "-host": "-addr HOST:6001", "-app-key": "-key", "-app-secret": "-secret",
	"-cert": "-tls-cert", "-debug": "-verbose",
	"edge start": "edge", "edge serve": "edge", "edge version": "edge -version",
}

// DidYouMean suggests the name nearest to the written one, with before in front of it, or says otherwise.
func DidYouMean(before, written string, names []string, otherwise string) string {
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

// Unused names the variables of edge and of other servers that have no effect, except for links of Kubernetes.
func (o *Options) Unused(environment []string) string {
	used := slices.Clone(o.Found)
	for _, name := range optionNames(All()) {
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
	return fmt.Sprintf("edge does not use %s: edge -help lists options, each also a variable",
		strings.Join(unused, ", "))
}

const fromSystem = "memory and open files" // where the default of -max-connections comes from

// complete checks what no single option can, and finds what the system says. The apps come last.
func (o *Options) complete(file configFile) error {
	if (o.TLSCert == "") != (o.TLSKey == "") {
		return errors.New("-tls-cert and -tls-key go together: one of them is missing")
	}
	if err := o.checkTLS(); err != nil {
		return err
	}
	if slices.Contains(o.Addrs, o.MetricsAddr) {
		return fmt.Errorf("-metrics-addr and -addr are both %s: metrics need an address of their own", o.MetricsAddr)
	}
	if o.Memory == 0 {
		o.Memory = conn.DefaultMemory()
		o.given.says("memory", "the system", conn.SizeText(o.Memory))
	}
	if o.app.Limits.MaxConnections == 0 {
		o.app.Limits.MaxConnections = o.mostConnections()
		o.given.says("max-connections", fromSystem, strconv.Itoa(o.app.Limits.MaxConnections))
	}
	o.Connections = o.app.Limits.MaxConnections
	if file.apps != nil {
		return o.completeApps(file)
	}
	if err := o.app.complete(map[string]bool{}); err != nil {
		return err
	}
	o.Apps = []App{o.app}
	return nil
}

// checkTLS refuses addresses that would be plain by mistake, but not for commands, which may be about another server.
func (o *Options) checkTLS() error {
	sealed := slices.IndexFunc(o.Addrs, func(addr string) bool {
		if o.TLSCert == "" {
			return strings.HasPrefix(addr, "tls:")
		}
		return !listen.Plain(addr, len(o.Addrs)-1)
	})
	switch {
	case o.choosing || (sealed >= 0) == (o.TLSCert != ""):
		return nil
	case sealed >= 0:
		return fmt.Errorf("-addr %s needs -tls-cert and -tls-key", o.Addrs[sealed])
	}
	return fmt.Errorf("there is -tls-cert, but every -addr is plain, like %s: write tls:host:port for one with TLS",
		o.Addrs[0])
}

// completeApps makes the apps of the file. Each inherits the options that it does not have.
func (o *Options) completeApps(file configFile) error {
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
		if a.ID == "" || a.Key == "" || a.Secret == "" && a.secretFile == "" {
			return fmt.Errorf("%s: an app needs an id, a key and a secret", entry.from)
		}
		if ids[a.ID] {
			return fmt.Errorf("%s: there is another app with the id %q", entry.from, a.ID)
		}
		ids[a.ID] = true
		if err := a.complete(keys); err != nil {
			return fmt.Errorf("%s: %w", entry.from, err)
		}
		o.Apps, o.givenApps = append(o.Apps, a), append(o.givenApps, entry.given)
	}
	return nil
}

// Follow makes o what a running server can have. The key and the secret that were made up for before, which held until
// now, stay, since clients know them. So does the memory of began, the start. late are options for the next start.
func (o *Options) Follow(before, began *Options) (late []string, err error) {
	app, old := &o.Apps[0], &before.Apps[0]
	if app.MadeKey && !old.MadeKey || app.MadeSecret && !old.MadeSecret {
		return nil, errors.New("it has no key, or no secret, any more")
	}
	if app.MadeKey {
		app.Key = old.Key
	}
	if app.MadeSecret {
		app.Secret = old.Secret
	}
	for _, opt := range All() {
		if opt.traits&atStart != 0 && !slices.Equal(o.given[opt.Name].values, began.given[opt.Name].values) {
			late = append(late, opt.Name)
		}
	}
	if (o.TLSCert == "") != (began.TLSCert == "") {
		late = append(late, "tls-cert", "tls-key")
	}
	derived := o.Connections
	if o.Memory = began.Memory; o.given["max-connections"].from != fromSystem {
		return late, nil
	}
	o.Connections = o.mostConnections()
	for i := range o.Apps {
		if l := &o.Apps[i].Limits; l.MaxConnections == derived {
			l.MaxConnections = o.Connections
		}
	}
	return late, nil
}

// mostConnections is how many there is memory for, and files.
func (o *Options) mostConnections() int {
	return min(DefaultConnections(), conn.ConnectionsFor(o.Memory, o.TLSCert != ""))
}

// DefaultConnections leaves descriptors for API requests and whatever else needs one.
func DefaultConnections() int {
	limit := conn.DescriptorLimit()
	return max(64, limit-max(128, limit/20))
}

// Anonymous describes an app with the same limits, which nobody has the keys of.
func (a App) Anonymous(id string) App {
	a.ID, a.Key, a.Secret = id, strings.ToLower(rand.Text()), rand.Text()
	a.Hooks, a.moreKeys = nil, nil
	return a
}

// chooseApp makes apps the one that is meant.
func (o *Options) chooseApp() error {
	var ids []string
	for _, a := range o.Apps {
		if ids = append(ids, a.ID); a.ID == o.app.ID || o.app.ID == "" && len(o.Apps) == 1 {
			if o.Apps = []App{a}; a.MadeKey || a.MadeSecret {
				return errors.New("which app? -key and -secret say it, EDGE_KEY and EDGE_SECRET, " +
					"or the -config of the server")
			}
			return nil
		}
	}
	return fmt.Errorf("which app? -id is one of %s", strings.Join(ids, ", "))
}

// complete reads the secret's file, adds the app's keys to those of other apps, and makes up a missing key or secret.
func (a *App) complete(keys map[string]bool) error {
	if err := a.readSecret(); err != nil {
		return err
	}
	for _, k := range a.Keys() {
		if keys[k.Name] {
			return fmt.Errorf("the key %q stands twice: a new secret needs a new key beside it", k.Name)
		}
		keys[k.Name] = true
	}
	if a.MadeKey = a.Key == ""; a.MadeKey {
		a.Key = strings.ToLower(rand.Text()[:20])
	}
	if a.MadeSecret = a.Secret == ""; a.MadeSecret {
		a.Secret = strings.ToLower(rand.Text()[:20])
	}
	return nil
}

// readSecret reads the secret from its file, if there is one.
func (a *App) readSecret() error {
	if a.secretFile == "" {
		return nil
	}
	b, err := os.ReadFile(a.secretFile)
	switch {
	case a.Secret != "":
		return errors.New("there are two secrets: give -secret (or EDGE_SECRET) or -secret-file, not both")
	case err != nil:
		return fmt.Errorf("cannot read -secret-file: %w", err)
	}
	if a.Secret = strings.TrimSpace(string(b)); a.Secret == "" {
		return fmt.Errorf("-secret-file %s is empty", a.secretFile)
	}
	return nil
}

// Keys are all keys of the app. The first signs.
func (a *App) Keys() []Key {
	return append([]Key{{a.Key, a.Secret}}, a.moreKeys...)
}
