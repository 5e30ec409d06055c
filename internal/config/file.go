package config

// The configuration file.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tailscale/hujson"

	"edge/internal/webhook"
	"edge/internal/wire"
)

// configFile is a configuration file: JSON (RFC 8259) with comments, // and /* */, and commas after last items.
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

// read reads the file, if there is one.
func (f *configFile) read() error {
	if f.name == "" {
		return nil
	}
	b, err := os.ReadFile(f.name)
	if err != nil {
		return fmt.Errorf("cannot read the configuration: %w", err)
	}
	f.text = bytes.TrimPrefix(b, []byte("\ufeff")) // editors of Windows begin with it
	top, err := f.parse()
	if err != nil {
		return err
	}
	var apps hujson.Value
	f.given, err = f.readObject(top, All(), &apps)
	if err != nil || apps.Value == nil || apps.Value.Kind() == 'n' {
		return err
	}
	list, ok := apps.Value.(*hujson.Array)
	if !ok || len(list.Elements) == 0 {
		return fmt.Errorf("%s: \"apps\" must be a list of one app at least", f.place(apps))
	}
	for _, v := range list.Elements {
		g, err := f.readObject(v, appTable(new(App)), nil)
		if err != nil {
			return err
		}
		f.apps = append(f.apps, appEntry{f.place(v), g})
	}
	return nil
}

// place says where a value stands.
func (f *configFile) place(v hujson.Value) string {
	return fmt.Sprintf("%s line %d", f.name, 1+bytes.Count(f.text[:v.StartOffset], []byte("\n")))
}

const maxBrackets = 100_000 // in a file: hujson recurses, and must not use up the stack

// parse parses the text. It leaves out literals of hujson's errors: one may be a secret.
func (f *configFile) parse() (top hujson.Value, err error) {
	if !utf8.Valid(f.text) {
		return top, fmt.Errorf("%s: not UTF-8", f.name)
	}
	if bytes.Count(f.text, []byte("["))+bytes.Count(f.text, []byte("{")) > maxBrackets {
		return top, fmt.Errorf("%s: more than %d lists and objects", f.name, maxBrackets)
	}
	top, err = hujson.Parse(append(slices.Clip(f.text), '\n')) // for a comment at the end
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

// readObject reads an object with the options of a table. apps takes the value of "apps"; it is nil inside an app.
func (f *configFile) readObject(v hujson.Value, table []Option, apps *hujson.Value) (given, error) {
	object, ok := v.Value.(*hujson.Object)
	if !ok {
		return nil, fmt.Errorf("%s: there must be an object of options, { … }", f.place(v))
	}
	g, seen := given{}, map[string]bool{}
	for _, m := range object.Members {
		name, from := m.Name.Value.(hujson.Literal).String(), f.place(m.Value)
		if seen[name] {
			return nil, fmt.Errorf("%s: %q stands twice", from, wire.Clip([]byte(name)))
		}
		seen[name] = true
		if apps != nil && name == "apps" {
			*apps = m.Value
			continue
		}
		i := indexOption(table, name)
		if i < 0 || !table[i].inFile() {
			return nil, fmt.Errorf("%s: %s", from, misplaced(name, table, apps != nil))
		}
		values, err := settingValues(m.Value.Value, table[i])
		if err != nil {
			return nil, fmt.Errorf("%s: invalid value of %q: %v", from, name, err)
		}
		if values != nil {
			g[name] = setting{values, from}
		}
	}
	return g, nil
}

// misplaced says why a name cannot stand in an object of the file, the outermost or that of an app.
func misplaced(name string, table []Option, outermost bool) string {
	all := All()
	if i := indexOption(all, name); i >= 0 && !all[i].inFile() {
		return fmt.Sprintf("%q cannot stand in a file; it is the option -%s", name, name)
	} else if i >= 0 {
		return fmt.Sprintf("%q is for all apps together and belongs outside \"apps\"", name)
	}
	names := optionNames(slices.DeleteFunc(slices.Clone(table), func(o Option) bool { return !o.inFile() }))
	if outermost {
		names = append(names, "apps")
	}
	meant := DidYouMean("", name, names, "edge -help lists the options")
	return fmt.Sprintf("unknown option %q; %s", wire.Clip([]byte(name)), meant)
}

// settingValues returns the value of an option as flags would give it, a list as several. It returns nil for null, and
// for "" where that holds without the file, as in the example.
func settingValues(v hujson.ValueTrimmed, opt Option) (values []string, err error) {
	items := []hujson.Value{{Value: v}}
	list, isList := v.(*hujson.Array)
	if isList && opt.traits&(repeats|commas) == 0 {
		return nil, errors.New("it takes one value, not a list")
	} else if isList {
		items = list.Elements
	}
	values = []string{}
	for _, item := range items {
		text, err := itemText(item.Value, opt)
		if err != nil {
			return nil, err
		}
		values = append(values, text)
	}
	empty := strings.Join(values, "") == ""
	switch {
	case isList && empty && opt.Default != "":
		return nil, errors.New("the list is empty")
	case isList && opt.traits&commas != 0:
		return []string{strings.Join(values, ",")}, nil
	case !isList && (v.Kind() == 'n' || empty && opt.Default == ""):
		return nil, nil
	}
	return values, nil
}

// itemText returns what a flag would say for a string, number or truth value, or for a pair of keys as an object.
func itemText(v hujson.ValueTrimmed, opt Option) (string, error) {
	switch v := v.(type) {
	case hujson.Literal:
		return v.String(), nil
	case *hujson.Object:
		if opt.traits&masked != 0 && opt.traits&repeats != 0 {
			return keyAndSecret(v)
		}
		return "", errors.New("an object cannot stand here")
	}
	return "", errors.New("a list cannot stand in a list")
}

// keyAndSecret makes KEY:SECRET of {"key":…,"secret":…}.
func keyAndSecret(object *hujson.Object) (string, error) {
	var pair struct{ Key, Secret string }
	v := hujson.Value{Value: object}
	v.Standardize()
	d := json.NewDecoder(bytes.NewReader(v.Pack()))
	d.DisallowUnknownFields()
	if d.Decode(&pair) != nil || len(strings.Fields(pair.Key+":"+pair.Secret)) != 1 {
		return "", errors.New(`an object here is { "key": …, "secret": … }, both without spaces`)
	}
	return pair.Key + ":" + pair.Secret, nil
}

// Print prints every option that holds, and where it was set, without secrets.
func (o *Options) Print(w io.Writer) {
	o.given.print(w, "", All())
	for i, g := range o.givenApps {
		fmt.Fprintf(w, "\napp %s\n", o.Apps[i].ID)
		g.print(w, "  ", appTable(new(App)))
	}
}

// print prints the settings of a table's options, without secrets.
func (g given) print(w io.Writer, indent string, table []Option) {
	for _, opt := range table {
		s, ok := g[opt.Name]
		if !ok || opt.traits&OnlyFlag != 0 {
			continue
		}
		text := strings.Join(s.values, " ")
		switch {
		case opt.traits&masked != 0 && text != "":
			text = "***"
		case opt.Name == "webhook":
			text = withoutSecrets(s.values)
		}
		fmt.Fprintf(w, "%s%-23s %-30s # %s\n", indent, opt.Name, text, s.from)
	}
}

// withoutSecrets returns the URLs of hooks without what may be secret in them.
func withoutSecrets(values []string) string {
	all := strings.Fields(strings.Join(values, " "))
	for i, url := range all {
		all[i], _ = webhook.Check(url) // they are good by now
	}
	return strings.Join(all, " ")
}

// Example returns a file with every default, for people to change.
func Example() string {
	var b strings.Builder
	b.WriteString("// The configuration of edge: JSON, in which comments are allowed. " +
		"What stands here in a comment is what holds without it.\n{\n")
	for _, opt := range All() {
		if !opt.inFile() {
			continue
		}
		value := opt.Default
		if _, err := strconv.Atoi(value); err != nil && value != "true" && value != "false" {
			value = string(wire.AppendString(nil, value))
		}
		fmt.Fprintf(&b, "  // %s\n  // %q: %s,\n", opt.Help, opt.Name, value)
	}
	b.WriteString(`
  // Several apps, each with whatever it has of its own. Without them the options above describe the only one.
  // "apps": [
  //   { "id": "1", "key": "one", "secret-file": "/etc/edge/one", "origins": ["https://example.com"] },
  //   { "id": "2", "key": "two", "secret": "…", "more-keys": [{ "key": "old", "secret": "…" }] },
  // ],
}
`)
	return b.String()
}
