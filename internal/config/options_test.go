package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"edge/internal/channel"
	"edge/internal/edgetest"
)

func parsed(t *testing.T, args []string, variables ...string) Options {
	t.Helper()
	o, err := Parse(args, edgetest.Getenv(variables...))
	if err != nil {
		t.Fatalf("%q %q: %v", args, variables, err)
	}
	return o
}

// refused expects options to be refused with a sentence that has these parts.
func refused(t *testing.T, args, variables []string, parts ...string) {
	t.Helper()
	_, err := Parse(args, edgetest.Getenv(append(variables, "EDGE_SECRET=sesame")...))
	if err == nil {
		t.Errorf("%q %q: accepted", args, variables)
		return
	}
	edgetest.OneSentence(t, "edge: "+err.Error()+"\n", parts...)
}

func TestOptionDefaults(t *testing.T) {
	o := parsed(t, []string{"-key", "k", "-secret", "s"})
	if o.app.Limits.MaxConnections < 64 {
		t.Errorf("%d connections", o.app.Limits.MaxConnections)
	}
	if o.Memory < 64<<20 {
		t.Errorf("%d bytes of memory", o.Memory)
	}
	o.app.Limits.MaxConnections, o.Memory = 0, 0
	app := App{Key: "k", Secret: "s", Limits: channel.Limits{
		ActivityTimeout: 120 * time.Second, PongTimeout: 30 * time.Second, CacheTTL: 30 * time.Minute,
		SendBuffer: 1 << 20, ChannelName: 200, EventSize: 10240, PresenceMembers: 100, PresenceUserSize: 1024,
		ClientEvents: true,
	}, AuthWindow: 600 * time.Second, WebhookGrace: 3 * time.Second}
	want := Options{Addrs: []string{":6001"}, HTTPPath: "/pusher", LogFormat: "text", Console: true, SecretShown: true,
		app: app, Apps: []App{app}}
	o.given, o.Connections, o.Apps[0].Limits.MaxConnections = nil, 0, 0
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got  %+v\nwant %+v", o, want)
	}
}

// For each option a value that is not the default, and another.
var optionSamples = map[string][2]string{
	"addr": {"127.0.0.1:7000", "[::1]:7001"}, "id": {"7", "an app"}, "key": {"k1", "k_2"}, "secret": {"s1", "s 2/é"},
	"client-events": {"false", "true"}, "max-connections": {"1", "2147483647"}, "origins": {"a.example",
		"https://b.example,*.c.example"},
	"activity-timeout": {"1s", "2h"}, "pong-timeout": {"100ms", "5"}, "auth-window": {"5m", "1s"}, "event-size": {"1",
		"102400"},
	"channel-name": {"164", "1024"}, "presence-members": {"1", "1000"}, "presence-user-size": {"2",
		"2048"}, "cache-ttl": {"1s", "1h"},
	"send-buffer": {"4096", "65536"}, "subscription-count": {"true", "false"},
	"verbose": {"true", "false"}, "console": {"false", "true"}, "deflate": {"true", "false"}, "version": {"true",
		"false"},
	"webhook": {"http://a.example", "https://b.example#events=cache_miss http://c.example"}, "webhook-grace": {"0",
		"1m"},
	"memory": {"16M", "1g"}, "path": {"/edge", "a/b"}, "http-path": {"off", "a/b"}, "tls-cert": {"a", "b"},
	"tls-key": {"a", "b"}, "trusted-proxies": {"127.0.0.1, unix", "10.0.0.0/8"}, "metrics-addr": {":9601",
		"127.0.0.1:9601"}, "log": {"json", "logfmt"},
	"pid-file": {"a", "b"}, "dev-auth": {"true", "192.168.1.0/24,127.0.0.1"}, "more-keys": {"a:b",
		"c:d e:f"}, "authorized-connections": {"30s", "5m"},
}

func TestSecretFile(t *testing.T) {
	file := func(content string) string {
		name := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for content, want := range map[string]string{"s": "s", "s\n": "s", " s 2\r\n\n": "s 2"} {
		for _, o := range []Options{
			parsed(t, []string{"-key", "k", "-secret-file", file(content)}),
			parsed(t, []string{"-key", "k"}, "EDGE_SECRET_FILE="+file(content)),
		} {
			if o.app.Secret != want || o.app.MadeSecret {
				t.Errorf("%q: the secret is %q", content, o.app.Secret)
			}
		}
	}
	for _, args := range [][]string{
		{"-secret-file", file("")}, {"-secret-file", file(" \n")}, {"-secret-file", file("") + "x"}, {"-secret-file",
			t.TempDir()},
		{"-secret-file", file("s"), "-secret", "s"},
	} {
		if _, err := Parse(args, edgetest.Getenv()); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// A flag goes before a variable, a variable before the default.
func TestOptionPrecedence(t *testing.T) {
	fixed := []string{"-key", "k", "-secret", "s"}
	standard := parsed(t, fixed)
	for _, opt := range All() {
		sample, ok := optionSamples[opt.Name]
		if opt.Name == "secret-file" || opt.Name == "config" {
			continue // TestSecretFile, TestConfigFile
		}
		if !ok {
			t.Errorf("no sample for -%s", opt.Name)
			continue
		}
		base := slices.Clone(fixed)
		if i := slices.Index(base, "-"+opt.Name); i >= 0 {
			base = slices.Delete(base, i, i+2)
		}
		switch opt.Name { // which go together
		case "tls-cert":
			base = append(base, "-tls-key", "x")
		case "tls-key":
			base = append(base, "-tls-cert", "x")
		}
		flag := func(value string) []string { return append(slices.Clone(base), "-"+opt.Name+"="+value) }
		variable := envName(opt.Name) + "="
		first, second := parsed(t, flag(sample[0])), parsed(t, flag(sample[1]))
		for desc, c := range map[string]struct{ got, want Options }{
			"the variable alone":             {parsed(t, base, variable+sample[0]), first},
			"the other value":                {parsed(t, base, variable+sample[1]), second},
			"flag and variable":              {parsed(t, flag(sample[1]), variable+sample[0]), second},
			"flag and wrong variable":        {parsed(t, flag(sample[1]), variable+"\x00"), second},
			"the flag twice":                 {parsed(t, append(flag(sample[0]), flag(sample[1])...)), second},
			"a flag with two dashes":         {parsed(t, append(base, "--"+opt.Name+"="+sample[0])), first},
			"an empty variable and no other": {parsed(t, fixed, variable, "EDGE_UNKNOWN=x", "PATH=/"), standard},
		} {
			if desc == "the flag twice" { // some may be repeated
				c.want.Apps = slices.Clone(c.want.Apps)
				switch opt.Name {
				case "webhook":
					c.want.Apps[0].Hooks = slices.Concat(first.app.Hooks, second.app.Hooks)
				case "more-keys":
					c.want.Apps[0].moreKeys = slices.Concat(first.app.moreKeys, second.app.moreKeys)
				case "addr":
					c.want.Addrs = slices.Concat(first.Addrs, second.Addrs)
				}
				c.want.app = c.want.Apps[0]
			}
			if opt.Name == "version" && strings.HasSuffix(desc, "variable alone") {
				c.want = standard // EDGE_VERSION is likely to be of something else
			}
			c.got.SecretShown, c.got.given, c.want.given = c.want.SecretShown, nil, nil
			if !reflect.DeepEqual(c.got, c.want) {
				t.Errorf("-%s, %s\ngot  %+v\nwant %+v", opt.Name, desc, c.got, c.want)
			}
		}
		if reflect.DeepEqual(first, standard) || reflect.DeepEqual(first, second) {
			t.Errorf("-%s=%s changes nothing", opt.Name, sample[0])
		}
	}
}

func TestOptionValues(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "2m": 2 * time.Minute, "1h30m": 90 * time.Minute, "1.5s": 1500 * time.Millisecond,
		"1000ms": time.Second,
		"120":    2 * time.Minute, "1": time.Second, "24h": 24 * time.Hour,
	} {
		if o := parsed(t, []string{"-activity-timeout", value}); o.app.Limits.ActivityTimeout != want {
			t.Errorf("%q is %s, want %s", value, o.app.Limits.ActivityTimeout, want)
		}
	}
	for value, want := range map[string]bool{"-verbose": true, "-verbose=true": true, "-verbose=1": true,
		"-verbose=false": false, "-verbose=0": false} {
		if o := parsed(t, []string{value}); o.Verbose != want {
			t.Errorf("%s: %t", value, o.Verbose)
		}
	}
	for value, want := range map[string][]string{
		"": nil, ",": nil, "a": {"a"}, "https://a.example:8443, *.b.example ,,c": {"https://a.example:8443",
			"*.b.example", "c"},
		"https://a.example/": {"https://a.example"}, "*": {"*"}, "null,[::1],http://[::1]:80": {"null", "[::1]",
			"http://[::1]:80"}, "file://,capacitor://localhost": {"file://", "capacitor://localhost"},
	} {
		if o := parsed(t, []string{"-origins", value}); !slices.Equal(o.app.Origins, want) {
			t.Errorf("%q are %q, want %q", value, o.app.Origins, want)
		}
	}
	if o := parsed(t, []string{"-origins", ""}, "EDGE_ORIGINS=a"); o.app.Origins != nil {
		t.Errorf("-origins= does not go before the variable: %q", o.app.Origins)
	}
}

func TestRefusedOptions(t *testing.T) {
	type wrong struct {
		args      []string
		variables []string
		parts     []string // of the complaint
	}
	cases := []wrong{
		{[]string{"-bogus"}, nil, []string{"-bogus"}},
		{[]string{"--bogus=1"}, nil, []string{"-bogus"}},
		{[]string{"-=1"}, nil, []string{`"-"`}},
		{[]string{"-Key", "k"}, nil, []string{"-Key"}},
		{[]string{"extra"}, nil, []string{`"extra"`}},
		{[]string{"-verbose", "true"}, nil, []string{`"true"`}},
		{[]string{"--", "-key"}, nil, []string{`"-key"`}},
		{[]string{"-key"}, nil, []string{"-key"}},
		{[]string{"-key", "k", "-secret"}, nil, []string{"-secret"}},
		{[]string{"-version", "-bogus"}, nil, []string{"-bogus"}},
		{nil, []string{"EDGE_EVENT_SIZE=x"}, []string{"EDGE_EVENT_SIZE", `"x"`}},
		{nil, []string{"EDGE_MAX_CONNECTIONS=0"}, []string{"EDGE_MAX_CONNECTIONS", `"0"`}},
		{nil, []string{"EDGE_VERBOSE=maybe"}, []string{"EDGE_VERBOSE", `"maybe"`}},
		{nil, []string{"EDGE_CACHE_TTL=0"}, []string{"EDGE_CACHE_TTL", `"0"`}},
		{nil, []string{"EDGE_ADDR=6001"}, []string{`"6001"`}},
		{nil, []string{"EDGE_KEY=a b"}, []string{`"a b"`}},
		{[]string{"-addr", ":80", "-addr", "tls::443"}, nil, []string{"-addr tls::443", "-tls-cert"}},
	}
	for _, addrs := range []string{"127.0.0.1:0 [::1]:0", "127.0.0.1:0 unix:/nothing/x", "unix:/nothing/x",
		"plain::0"} {
		args := []string{"-tls-cert", "/nothing/a", "-tls-key", "/nothing/b"}
		first, _, _ := strings.Cut(addrs, " ")
		for addr := range strings.FieldsSeq(addrs) {
			args = append(args, "-addr", addr)
		}
		cases = append(cases, wrong{args, nil, []string{"-tls-cert", first, "tls:host:port"}})
	}
	for option, values := range map[string][]string{
		"webhook":       {"ftp://a", "a.example", "http://a#event=x", "http://a http://b#events=x"},
		"webhook-grace": {"-1s", "x"},
		"addr": {"127.0.0.1:noport", ":99999", "6001", "", ":", "localhost", "localhost:", "[::1]",
			"::1:6001"},
		"key": {"a b", "a/b", "a:b", "a?b", "a#b", "a%b", "a&b", "a\\b", `a"b`, "é", "a\nb", "\x00",
			"\x7f", "\xff"},
		"max-connections": {"0", "-1", "", "x", "1.5", "1e3", "2147483648", "99999999999999999999", " 1", "1 ",
			"0x10"},
		"event-size":         {"0", "10k", "2147483648"},
		"channel-name":       {"0", "-200", "143"},
		"presence-members":   {"0", "x"},
		"presence-user-size": {"1", "0"},
		"send-buffer":        {"4095", "0", "1MB"},
		"activity-timeout": {"0", "0s", "-1s", "-1", "999ms", "", "x", "1y", "5 s", "1e3", "99999999999h",
			"9999999999999999"},
		"pong-timeout": {"0", "0s", "-1ns", "-5", "x"},
		"auth-window":  {"-1ns", "-600"},
		"cache-ttl":    {"0", "1ms", "-30m"},
		"origins": {"://", "https://", "https:///", "://a", "https://*.example.org", "https://a/path", "https://a//",
			"a/", "*.", "*a", "a.*", "*.*.a", ".a", "a:80",
			"https://a https://b", "a,https://b/c"},
		"client-events":      {"maybe", "yes", "2", ""},
		"subscription-count": {"x"},
		"verbose":            {"-1"},
		"version":            {"2"},
	} {
		for _, value := range values {
			cases = append(cases, wrong{[]string{"-" + option + "=" + value}, nil, []string{"-" + option,
				fmt.Sprintf("%q", value)}})
		}
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%q %q", c.args, c.variables), func(t *testing.T) {
			refused(t, c.args, c.variables, c.parts...)
		})
	}
}

func TestMadeUpKeyAndSecret(t *testing.T) {
	form := regexp.MustCompile(`^[a-z0-9]{20}$`)
	o, again := parsed(t, nil), parsed(t, nil, "EDGE_KEY=", "EDGE_SECRET=")
	if !form.MatchString(o.app.Key) || !form.MatchString(o.app.Secret) || !o.app.MadeKey || !o.app.MadeSecret {
		t.Errorf("made up %q and %q", o.app.Key, o.app.Secret)
	}
	if o.app.Key == again.app.Key || o.app.Secret == again.app.Secret || o.app.Key == o.app.Secret {
		t.Errorf("made up twice: %q %q, %q %q", o.app.Key, o.app.Secret, again.app.Key, again.app.Secret)
	}
	if o := parsed(t, []string{"-key", "k"}, "EDGE_SECRET=s"); o.app.MadeKey || o.app.MadeSecret || o.app.Key != "k" ||
		o.app.Secret != "s" {
		t.Errorf("given and yet made up: %+v", o)
	}
	if o := parsed(t, []string{"-key", "k", "-secret", ""}, "EDGE_SECRET=s"); o.app.MadeKey || !o.app.MadeSecret ||
		o.app.Key != "k" {
		t.Errorf("an empty secret is none: %+v", o)
	}
}
