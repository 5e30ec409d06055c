package config

// Tests of the configuration file, of other servers' credentials, of suggestions, and of edge config.

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/wire"
)

// TestConfigFile: the file says the same as flags would.
func TestConfigFile(t *testing.T) {
	for _, c := range []struct {
		file string
		args []string // that say the same
	}{
		{`{}`, nil},
		{"\n{\n}\n", nil},
		{"\ufeff{\"id\": \"7\"}", []string{"-id", "7"}},
		{`{"addr": "127.0.0.1:7000"}`, []string{"-addr", "127.0.0.1:7000"}},
		{`{"addr": [":7000", "unix:/tmp/x"]}`, []string{"-addr", ":7000", "-addr", "unix:/tmp/x"}},
		{`{"activity-timeout": "60s", "pong-timeout": 5}`, []string{"-activity-timeout", "60s", "-pong-timeout", "5"}},
		{`{"client-events": false, "subscription-count": true, "event-size": 1000}`,
			[]string{"-client-events=false", "-subscription-count", "-event-size", "1000"}},
		{`{"origins": ["a.example", "*.b.example"]}`, []string{"-origins", "a.example,*.b.example"}},
		{`{"origins": "a.example, *.b.example"}`, []string{"-origins", "a.example,*.b.example"}},
		{`{"trusted-proxies": ["127.0.0.1", "unix"], "dev-auth": ["10.0.0.0/8"]}`,
			[]string{"-trusted-proxies", "127.0.0.1,unix", "-dev-auth=10.0.0.0/8"}},
		{`{"webhook": "http://a http://b"}`, []string{"-webhook", "http://a", "-webhook", "http://b"}},
		{`{"webhook": ["http://a", "http://b#events=cache_miss"]}`, []string{"-webhook", "http://a", "-webhook",
			"http://b#events=cache_miss"}},
		{`{"more-keys": [{"key": "a", "secret": "b"}, "c:d"]}`, []string{"-more-keys", "a:b c:d"}},
		{`{"memory": "64M", "path": "/edge/", "verbose": true, "log": "json"}`,
			[]string{"-memory", "64M", "-path", "edge", "-verbose", "-log", "json"}},
		{`{"id": null, "webhook": [], "event-size": null}`, nil},
		{`{"id": "\u0037"}`, []string{"-id", "7"}},
		{`{"max-connections": "", "memory": "", "metrics-addr": "", "webhook": ""}`,
			nil}, // as the example has it
		{"// at the start\n{ /* inside */ \"id\": \"7\", // behind\n\"path\": \"a//b\" }",
			nil}, // which is refused below
	} {
		o, err := Parse([]string{"-config", edgetest.File(t, c.file), "-key", "k", "-secret", "s"}, edgetest.Getenv())
		if strings.Contains(c.file, "a//b") {
			if err == nil || !strings.Contains(err.Error(), `line 3: invalid value "a//b" of "path"`) {
				t.Errorf("%s: %v", c.file, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.file, err)
			continue
		}
		want := parsed(t, append([]string{"-key", "k", "-secret", "s"}, c.args...))
		o.File, o.given, want.given = "", nil, nil
		if !reflect.DeepEqual(o, want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", c.file, o, want)
		}
	}
}

// TestConfigPrecedence: a flag goes before a variable, that before the file, that before another server's variable.
func TestConfigPrecedence(t *testing.T) {
	file := edgetest.File(t, `{"key": "file", "event-size": 1, "secret": "s"}`)
	for _, c := range []struct {
		args, variables []string
		key, from       string
	}{
		{[]string{"-key", "flag"}, []string{"EDGE_KEY=variable", "PUSHER_APP_KEY=other"}, "flag", "option -key"},
		{nil, []string{"EDGE_KEY=variable", "PUSHER_APP_KEY=other"}, "variable", "EDGE_KEY"},
		{nil, []string{"PUSHER_APP_KEY=other"}, "file", file + " line 1"},
	} {
		for _, args := range [][]string{append(c.args, "-config", file), c.args} {
			variables := c.variables
			if len(args) == len(c.args) {
				variables = append(variables, "EDGE_CONFIG="+file)
			}
			o := parsed(t, args, variables...)
			if o.app.Key != c.key || o.given["key"].from != c.from || o.app.Limits.EventSize != 1 {
				t.Errorf("%q %q: %q from %q, event size %d", args, variables, o.app.Key, o.given["key"].from,
					o.app.Limits.EventSize)
			}
		}
	}
}

// Apps inherit what they do not say, and nothing of each other.
func TestConfigApps(t *testing.T) {
	o := parsed(t, []string{"-presence-members", "7", "-config", edgetest.File(t, `{
		"event-size": 100, "webhook": "http://all",
		"apps": [
			{"id": "1", "key": "a", "secret": "x", "more-keys": "b:y", "event-size": 200,
				"webhook": ["http://one", "http://two"]},
			{"id": "2", "key": "c", "secret": "z", "origins": ["a.example"], "client-events": false,
				"max-connections": 5},
			{"id": "3", "key": "d", "secret": "z", "origins": [], "webhook": []},
			{"id": "4", "key": "e", "secret": "z", "origins": "", "webhook": ""}
		]}`)}, "EDGE_ORIGINS=all.example")
	if len(o.Apps) != 4 {
		t.Fatalf("%d apps", len(o.Apps))
	}
	one, two := o.Apps[0], o.Apps[1]
	if open, silent := o.Apps[2], o.Apps[3]; open.Origins != nil || open.Hooks != nil || silent.Origins == nil ||
		silent.Hooks == nil {
		t.Errorf("an empty list says nothing, or \"\" does: %+v, %+v", open, silent)
	}
	if one.ID != "1" || one.Key != "a" || one.Secret != "x" || one.Limits.EventSize != 200 ||
		!one.Limits.ClientEvents ||
		!slices.Equal(one.Hooks, []string{"http://one", "http://two"}) ||
		!slices.Equal(one.Keys(), []Key{{"a", "x"}, {"b", "y"}}) {
		t.Errorf("the first is %+v", one)
	}
	if two.ID != "2" || two.Limits.EventSize != 100 || two.Limits.ClientEvents || two.Limits.MaxConnections != 5 ||
		two.Limits.PresenceMembers != 7 ||
		!slices.Equal(two.Hooks, []string{"http://all"}) || !slices.Equal(two.Origins, []string{"a.example"}) ||
		two.moreKeys != nil {
		t.Errorf("the second is %+v", two)
	}
	if one.Limits.PresenceMembers != 7 || !slices.Equal(one.Origins, []string{"all.example"}) ||
		one.Limits.MaxConnections == 5 {
		t.Errorf("the first has what is the second's: %+v", one)
	}
}

// TestConfigAppsOfAUnit: edge.service names a file with a secret. Apps that have none of their own have that.
func TestConfigAppsOfAUnit(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("credential\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := parsed(t, []string{"-secret-file", secret, "-config", edgetest.File(t, `{"apps": [
		{"id": "1", "key": "a"}, {"id": "2", "key": "b", "secret": "own"}]}`)})
	if len(o.Apps) != 2 || o.Apps[0].Secret != "credential" || o.Apps[1].Secret != "own" {
		t.Errorf("the apps are %+v", o.Apps)
	}
}

// TestConfigTLS: connections with TLS need more memory.
func TestConfigTLS(t *testing.T) {
	o := parsed(t, []string{"-memory", "32M"})
	sealed := Options{Memory: o.Memory, TLSCert: "x"}
	if plain := conn.ConnectionsFor(o.Memory, o.TLSCert != ""); conn.ConnectionsFor(sealed.Memory,
		sealed.TLSCert != "") > plain/5 || plain*conn.ConnBytes > 8<<20 {
		t.Errorf("%d and %d", plain, conn.ConnectionsFor(sealed.Memory, sealed.TLSCert != ""))
	}
}

// TestConfigRefused: whatever is wrong with a file is an error that says where, and what.
func TestConfigRefused(t *testing.T) {
	const app = `{"id": "1", "key": "a", "secret": "sesame"}`
	for _, c := range []struct {
		file  string
		parts []string
	}{
		{"", []string{"line 1", "unexpected EOF"}},
		{"{", []string{"line 1", "unexpected EOF"}},
		{"{\n", []string{"line 2", "unexpected EOF"}},
		{`{id: 7}`, []string{"line 1", "invalid string, number or word"}},
		{"{\n5: 7}", []string{"line 2", "object name"}},
		{"[]", []string{"line 1", "must be an object"}},
		{"{\n\"id\": 7\n\"key\": 8}", []string{"line 3", "expecting ','"}},
		{"{\n\n\"activty-timeout\": 5}", []string{"line 3", `"activty-timeout"`, "did you mean activity-timeout?"}},
		{`{"Addr": ":1"}`, []string{`"Addr"`, "did you mean addr?"}},
		{`{"port": 8080}`, []string{`"port"; did you mean addr?`}},
		{`{"nothing-like-it-at-all": ":1"}`, []string{`"nothing-like-it-at-all"`, "edge -help"}},
		{`{"config": "x"}`, []string{`"config" cannot stand in a file`}},
		{`{"version": true}`, []string{`"version" cannot stand in a file`}},
		{`{"versin": true}`, []string{`unknown option "versin"; edge -help`}},
		{`{"app": []}`, []string{`"app"; did you mean apps?`}},
		{`{"Apps": []}`, []string{`"Apps"; did you mean apps?`}},
		{"{\"apps\": [{\n\"memory\": \"64M\"}]}", []string{"line 2", `"memory"`, `outside "apps"`}},
		{`{"apps": [{"aps": []}]}`, []string{`unknown option "aps"; edge -help`}},
		{"{\"id\": \"1\",\n\"id\": \"2\"}", []string{"line 2", `"id" stands twice`}},
		{"{\"memory\": \"\",\n\"memory\": \"64M\"}", []string{"line 2", `"memory" stands twice`}},
		{"{\n\"event-size\": \"x\"}", []string{"line 2", `"x"`, `"event-size"`, "whole number"}},
		{`{"event-size": 0}`, []string{`"0"`, `"event-size"`}},
		{"{\n\"event-size\": [1, 2]}", []string{"line 2", `"event-size"`, "not a list"}},
		{`{"secret": ["sesame", "x"]}`, []string{"line 1", `"secret"`, "not a list"}},
		{`{"memory": []}`, []string{`"memory"`, "not a list"}},
		{"{\n\"addr\": []}", []string{"line 2", `"addr"`, "the list is empty"}},
		{`{"dev-auth": []}`, []string{`"dev-auth"`, "the list is empty"}},
		{`{"addr": {"host": "a"}}`, []string{`"addr"`, "object"}},
		{`{"addr": [[":1"]]}`, []string{`"addr"`}},
		{`{"secret": {"key": "a", "secret": 5}}`, []string{`"secret"`}},
		{`{"more-keys": [{"key": "a b", "secret": "sesame"}]}`, []string{`"more-keys"`, "spaces"}},
		{`{"more-keys": [{"key": "a?", "secret": "sesame"}]}`, []string{`"more-keys"`, `"***"`, "KEY:SECRET"}},
		{`{"more-keys": "sesame"}`, []string{`"more-keys"`, `"***"`}},
		{`{"trusted-proxies": "10.0.0.0/99"}`, []string{`"10.0.0.0/99"`, `"trusted-proxies"`}},
		{`{"tls-cert": "a"}`, []string{"-tls-cert and -tls-key"}},
		{`{"secret-file": "/nothing"}`, []string{"/nothing"}},
		{`{"secret-file": "/nothing", "secret": "sesame"}`, []string{"two secrets"}},
		{`{"log": "xml"}`, []string{`"xml"`, "text, json"}},
		{`{"metrics-addr": ":6001"}`, []string{"-metrics-addr", ":6001"}},
		{`{"metrics-addr": "x"}`, []string{`"x"`, `"metrics-addr"`}},
		{`{"apps": []}`, []string{`"apps"`, "one app at least"}},
		{`{"apps": {}}`, []string{`"apps"`}},
		{`{"apps": [5]}`, []string{"line 1", "object"}},
		{"{\"apps\": [\n{\"id\": \"1\"}]}", []string{"line 2", "id, a key and a secret"}},
		{"{\"apps\": [\n{\"id\": \"1\", \"key\": \"a b\", \"secret\": \"sesame\"}]}", []string{"line 2", `"a b"`}},
		{"{\"apps\": [" + app + "],\n\"apps\": [" + app + "]}", []string{"line 2", `"apps" stands twice`}},
		{`{"more-keys": [{"key": "a", "secret": "x sesame:z"}]}`, []string{`"more-keys"`, "spaces"}},
		{`{"key": "a", "secret": "x", "more-keys": ["a:sesame"]}`, []string{`"a" stands twice`}},
		{`{"id": "(none)"}`, []string{`"(none)"`, `"id"`}},
		{`{"path": "/a/../b"}`, []string{`"/a/../b"`, "path"}},
		{`{"webhook": "ftp://u:sesame@h"}`, []string{`"webhook"`, `"***"`}},
		{"{\"apps\": [" + app + ",\n" + app + "]}", []string{"line 2", `"1"`}},
		{`{"apps": [` + app + `, {"id": "2", "key": "a", "secret": "sesame"}]}`, []string{`"a"`, "twice"}},
		{`{"apps": [{"id": "1", "key": "a", "secret": "sesame", "more-keys": "a:b"}]}`, []string{`"a"`, "twice"}},
		{`{"apps": [{"id": "1", "key": "a", "secret": "sesame", "addr": ":1"}]}`, []string{`"addr"`}},
		{`{"key": "x", "apps": [` + app + `]}`, []string{"twice", "line 1"}},
		{"{\"id\": \"\xff\"}", []string{"not UTF-8"}},
		{"{\n\"key\": \"sesame\\q\"}", []string{"line 2", "invalid string"}},
		{"{\n\"key\": \"sesame\n\"}", []string{"line 2", "invalid string"}},
		{"{\n\"key\": sesame}", []string{"line 2", "invalid string, number or word"}},
		{`{"origins":` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + `}`,
			[]string{"a list cannot stand in a list"}},
		{"{\n\"origins\":" + strings.Repeat("[", 5_000_000),
			[]string{"more than 100000 lists"}}, // the stack is smaller
		{`{"id": "x" /* no end`, []string{"line 1"}},
	} {
		file := edgetest.File(t, c.file)
		refused(t, []string{"-config", file}, []string{"EDGE_SECRET="}, c.parts...)
	}
	for _, args := range [][]string{{"-config", "/nothing/edge.json"}, {"-config", t.TempDir()}} {
		refused(t, args, nil, args[1])
	}
	// Apps in the file, and one by flags.
	refused(t, []string{"-key", "k", "-config", edgetest.File(t, `{"apps": [`+app+`]}`)}, nil, "-key", "apps")
}

// TestConfigComments: comments and last commas change nothing, wherever they stand. What looks like them in strings
// stays.
func TestConfigComments(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	space := func() string {
		return []string{"", " ", "\n", "// a \" comment } ,\n", "/* , ] \" * / // */", "\t/**/"}[r.IntN(6)]
	}
	var write func(v any, b *strings.Builder)
	write = func(v any, b *strings.Builder) {
		b.WriteString(space())
		switch v := v.(type) {
		case []any:
			b.WriteString("[")
			for i, item := range v {
				if write(item, b); i < len(v)-1 || r.IntN(2) == 0 {
					b.WriteString(space() + ",")
				}
			}
			b.WriteString(space() + "]")
		case map[string]any:
			b.WriteString("{")
			left := len(v)
			for name, item := range v {
				b.WriteString(space() + string(wire.AppendString(nil, name)) + space() + ":")
				write(item, b)
				if left--; left > 0 || r.IntN(2) == 0 {
					b.WriteString(space() + ",")
				}
			}
			b.WriteString(space() + "}")
		default:
			text, _ := json.Marshal(v)
			b.Write(text)
		}
		b.WriteString(space())
	}
	for range 2000 {
		value := map[string]any{
			"a // b": []any{"/*", "*/", `\"//`, "x,]", 1.0, true, nil},
			"e,":     map[string]any{"f}": []any{}, "g": map[string]any{}, "h\\": "\n,}"},
		}
		var b strings.Builder
		write(value, &b)
		b.WriteString("// with no end")
		top, err := (&configFile{text: []byte(b.String())}).parse()
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, b.String())
		}
		top.Standardize()
		var got map[string]any
		if err := json.Unmarshal(top.Pack(), &got); err != nil || !reflect.DeepEqual(got, value) {
			t.Fatalf("seed %d: %v\n%s\nbecame\n%s", seed, err, b.String(), top)
		}
	}
}

// TestOthers: the first complete credentials of other servers count without own ones.
func TestOthers(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("ours\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	own, apps := edgetest.File(t, `{"id": "7"}`), edgetest.File(t, `{"apps": [{"id": "1", "key": "a", "secret": "b"}]}`)
	const all = "PUSHER_APP_ID=12 PUSHER_APP_KEY=k PUSHER_APP_SECRET=s "
	const names = "PUSHER_APP_ID, PUSHER_APP_KEY, PUSHER_APP_SECRET"
	for _, c := range []struct {
		variables, args string
		id, key, secret string // "" for a key or a secret that is made up
		found           string
	}{
		{all, "", "12", "k", "s", names},
		{`PUSHER_APP_KEY="k" PUSHER_APP_SECRET='s'`, "", "", "k", "s", "PUSHER_APP_KEY, PUSHER_APP_SECRET"},
		{all + "REVERB_APP_KEY=r REVERB_APP_SECRET=r", "", "12", "k", "s", names},
		{"PUSHER_APP_ID=1 PUSHER_APP_KEY=k REVERB_APP_KEY=r REVERB_APP_SECRET=s", "",
			"", "r", "s", "REVERB_APP_KEY, REVERB_APP_SECRET"},
		{"PUSHER_APP_KEY= PUSHER_APP_SECRET=s SOKETI_DEFAULT_APP_KEY=k SOKETI_DEFAULT_APP_SECRET=t SOKETI_PORT=7", "",
			"", "k", "t", "SOKETI_DEFAULT_APP_KEY, SOKETI_DEFAULT_APP_SECRET"},
		{"PUSHER_APP_ID=12 PUSHER_APP_SECRET=s REVERB_APP_KEY=k", "", "", "", "", ""},
		{all + "EDGE_KEY=ours", "", "", "ours", "", ""},
		{all, "-id 7", "7", "", "", ""},
		{all, "-config " + own, "7", "", "", ""},
		{all, "-secret-file " + secret, "", "", "ours", ""},
		{all, "-config " + apps, "1", "a", "b", ""},
	} {
		o := parsed(t, strings.Fields(c.args), strings.Fields(c.variables)...)
		a := o.Apps[0]
		for _, v := range []struct {
			got, want string
			made      bool
		}{{a.ID, c.id, false}, {a.Key, c.key, a.MadeKey}, {a.Secret, c.secret, a.MadeSecret}} {
			if v.made != (v.want == "" && v.got != "") || !v.made && v.got != v.want {
				t.Errorf("%s %s: %q, want %q", c.variables, c.args, v.got, v.want)
			}
		}
		found := strings.Join(o.Found, ", ")
		if found != c.found {
			t.Errorf("%s %s: found %s", c.variables, c.args, found)
		}
	}
	refused(t, nil, []string{"EDGE_SECRET=", "PUSHER_APP_KEY=a b", "PUSHER_APP_SECRET=sesame"}, "PUSHER_APP_KEY",
		`"a b"`)
}

// TestUnusedVariables: one line names the variables without an effect that look like ours or another server's.
func TestUnusedVariables(t *testing.T) {
	environment := []string{"EDGE_SECRTE=x", "EDGE_SECRET=x", "EDGE_PORT=tcp://10.0.0.1:80", "EDGE_NOTHING=", "EDGES=x",
		"PUSHER=x", "PATH=/", "MY_PUSHER_HOST=x",
		"SOKETI_PORT=6001", "REVERB_HOST=a", "PUSHER_APP_CLUSTER=mt1", "PUSHER_APP_KEY=k"}
	const names = "EDGE_SECRTE, PUSHER_APP_CLUSTER, REVERB_HOST, SOKETI_PORT:"
	got := (&Options{Found: []string{"PUSHER_APP_KEY"}}).Unused(environment)
	if !strings.Contains(got, " "+names) || strings.Contains(got, "\n") {
		t.Errorf("%q", got)
	}
	if got := new(Options).Unused(environment[1:8]); got != "" {
		t.Errorf("%q", got)
	}
}

// TestConfigExample: the example is accepted as it is, and so is what it offers, and both say what holds anyway.
func TestConfigExample(t *testing.T) {
	example := Example()
	standard := parsed(t, []string{"-key", "k", "-secret", "s"})
	active := ""
	for line := range strings.Lines(example) { // the options, but for those without a default, and no apps
		if i := strings.Index(line, `// "`); i >= 0 && !strings.Contains(line, `: "",`) &&
			!strings.Contains(line, "apps") {
			line = line[:i] + line[i+3:]
		}
		active += line
	}
	for _, text := range []string{example, active} {
		o := parsed(t, []string{"-key", "k", "-secret", "s", "-config", edgetest.File(t, text)})
		o.given, o.File, standard.given = nil, "", nil
		if !reflect.DeepEqual(o, standard) {
			t.Errorf("%s\ngot  %+v\nwant %+v", text, o, standard)
		}
	}
	if n := strings.Count(active, "\n  \""); n < 19 {
		t.Errorf("it offers %d options:\n%s", n, active)
	}
}

func TestNear(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"addr", "addr", 0}, {"adr", "addr", 1}, {"addrr", "addr",
		1}, {"kitten", "sitting", 3}, {"ab", "ba", 2}} {
		if !near(c.a, c.b, c.want) || c.want > 0 && near(c.a, c.b, c.want-1) {
			t.Errorf("%q, %q: not %d", c.a, c.b, c.want)
		}
	}
}

// TestSuggestions: well-known misnomers are understood, for other unknown names the nearest is suggested.
func TestSuggestions(t *testing.T) {
	for written, meant := range map[string]string{
		"-port 8080": "-addr :8080", "-port=8080": "-addr :8080", "--port": "-addr :PORT", "-port x": "-addr :PORT",
		"-host ::1": "-addr HOST:6001", "-app-key k": "-key", "-app-secret=sesame": "-secret", "-cert x": "-tls-cert",
		"-debug": "-verbose", "-addr 6001": ":6001", "-orgins x": "-origins", "-Addr :1": "-addr",
	} {
		refused(t, strings.Fields(written), nil, "did you mean "+meant+"?")
	}
}

func TestProxies(t *testing.T) {
	got := parsed(t, []string{"-trusted-proxies", "127.0.0.1, 10.0.0.0/8,::1,unix"}).Proxies
	want := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("10.0.0.0/8"),
		netip.MustParsePrefix("::1/128"), {}}
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

// FuzzConfig reads any file: what is wrong with it is said in one line, without the secret.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		"{}", "// x\n{\"addr\": \":1\", /* y */ \"event-size\": 5,}",
		`{"apps":[{"id":"1","key":"k","secret":"s3cr3t","more-keys":[{"key":"a","secret":"s3cr3t"},],},]}`,
		`{"addr":[":1",":2"],"webhook":"http://a"}`, `{"secret":"s3cr3t","event-size":-1}`,
		`/*`, `{"a":"\`, "{\"a\":\"//\n\"}", `[,]`, "\xff", `{"addr":[]}`,
		`{"origins":[],"trusted-proxies":["unix"],
			"apps":[{"id":"1","key":"k","secret":["s3cr3t"],"origins":["https://a/"]}]}`, "\ufeff{}",
	} {
		f.Add([]byte(seed))
	}
	name := filepath.Join(f.TempDir(), "edge.json")
	f.Fuzz(func(t *testing.T, text []byte) {
		if bytes.Contains(text, []byte("secret-file")) {
			return // which file does not matter here
		}
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		o, err := Parse([]string{"-config", name}, edgetest.Getenv())
		if err != nil {
			if message := err.Error(); message == "" || strings.ContainsAny(message, "\r\n") ||
				bytes.Contains(text, []byte(`"secret":"s3cr3t"`)) && strings.Contains(message, "s3cr3t") {
				t.Errorf("%q: %q", text, message)
			}
			return
		}
		if len(o.Addrs) == 0 {
			t.Errorf("%q: accepted without an address", text)
		}
		for _, a := range o.Apps {
			if a.Key == "" || a.Secret == "" || a.Limits.EventSize < 1 || a.Limits.ActivityTimeout < time.Second {
				t.Errorf("%q: accepted as %+v", text, a)
			}
		}
	})
}
