package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
)

// environment is one of these NAME=VALUE.
func environment(variables ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, v := range variables {
			if value, ok := strings.CutPrefix(v, name+"="); ok {
				return value, true
			}
		}
		return "", false
	}
}

func mustParse(t *testing.T, args []string, variables ...string) options {
	t.Helper()
	o, err := parseOptions(args, environment(variables...))
	if err != nil {
		t.Fatalf("%q %q: %v", args, variables, err)
	}
	return o
}

func TestOptionDefaults(t *testing.T) {
	o := mustParse(t, []string{"-key", "k", "-secret", "s"})
	if o.app.limits.MaxConnections < 64 {
		t.Errorf("%d connections", o.app.limits.MaxConnections)
	}
	if o.memory < 64<<20 {
		t.Errorf("%d bytes of memory", o.memory)
	}
	o.app.limits.MaxConnections, o.memory = 0, 0
	app := appOptions{key: "k", secret: "s", limits: channel.Limits{
		ActivityTimeout: 120 * time.Second, PongTimeout: 30 * time.Second, CacheTTL: 30 * time.Minute,
		SendBuffer: 1 << 20, ChannelName: 200, EventSize: 10240, PresenceMembers: 100, PresenceUserSize: 1024,
		ClientEvents: true,
	}, authWindow: 600 * time.Second, webhookGrace: 3 * time.Second}
	want := options{addrs: []string{":6001"}, httpPath: "/pusher", logFormat: "text", console: true, secretShown: true, app: app, apps: []appOptions{app}}
	o.given, o.connections, o.apps[0].limits.MaxConnections = nil, 0, 0
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got  %+v\nwant %+v", o, want)
	}
}

// For each option a value that is not the default, and another.
var optionSamples = map[string][2]string{
	"addr": {"127.0.0.1:7000", "[::1]:7001"}, "id": {"7", "an app"}, "key": {"k1", "k_2"}, "secret": {"s1", "s 2/é"},
	"client-events": {"false", "true"}, "max-connections": {"1", "2147483647"}, "origins": {"a.example", "https://b.example,*.c.example"},
	"activity-timeout": {"1s", "2h"}, "pong-timeout": {"100ms", "5"}, "auth-window": {"5m", "1s"}, "event-size": {"1", "102400"},
	"channel-name": {"164", "1024"}, "presence-members": {"1", "1000"}, "presence-user-size": {"2", "2048"}, "cache-ttl": {"1s", "1h"},
	"send-buffer": {"4096", "65536"}, "subscription-count": {"true", "false"},
	"verbose": {"true", "false"}, "console": {"false", "true"}, "deflate": {"true", "false"}, "version": {"true", "false"},
	"webhook": {"http://a.example", "https://b.example#events=cache_miss http://c.example"}, "webhook-grace": {"0", "1m"},
	"memory": {"16M", "1g"}, "path": {"/edge", "a/b"}, "http-path": {"off", "a/b"}, "tls-cert": {"a", "b"},
	"tls-key": {"a", "b"}, "trusted-proxies": {"127.0.0.1, unix", "10.0.0.0/8"}, "metrics-addr": {":9601", "127.0.0.1:9601"}, "log": {"json", "logfmt"},
	"pid-file": {"a", "b"}, "dev-auth": {"true", "192.168.1.0/24,127.0.0.1"}, "more-keys": {"a:b", "c:d e:f"}, "authorized-connections": {"30s", "5m"},
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
		for _, o := range []options{
			mustParse(t, []string{"-key", "k", "-secret-file", file(content)}),
			mustParse(t, []string{"-key", "k"}, "EDGE_SECRET_FILE="+file(content)),
		} {
			if o.app.secret != want || o.app.madeSecret {
				t.Errorf("%q: the secret is %q", content, o.app.secret)
			}
		}
	}
	for _, args := range [][]string{
		{"-secret-file", file("")}, {"-secret-file", file(" \n")}, {"-secret-file", file("") + "x"}, {"-secret-file", t.TempDir()},
		{"-secret-file", file("s"), "-secret", "s"},
	} {
		if _, err := parseOptions(args, func(string) (string, bool) { return "", false }); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// A flag goes before a variable, a variable before the default.
func TestOptionPrecedence(t *testing.T) {
	fixed := []string{"-key", "k", "-secret", "s"}
	standard := mustParse(t, fixed)
	for _, opt := range optionTable(new(options)) {
		sample, ok := optionSamples[opt.name]
		if opt.name == "secret-file" || opt.name == "config" {
			continue // TestSecretFile, TestConfigFile
		}
		if !ok {
			t.Errorf("no sample for -%s", opt.name)
			continue
		}
		base := slices.Clone(fixed)
		if i := slices.Index(base, "-"+opt.name); i >= 0 {
			base = slices.Delete(base, i, i+2)
		}
		switch opt.name { // which go together
		case "tls-cert":
			base = append(base, "-tls-key", "x")
		case "tls-key":
			base = append(base, "-tls-cert", "x")
		}
		flag := func(value string) []string { return append(slices.Clone(base), "-"+opt.name+"="+value) }
		variable := envName(opt.name) + "="
		first, second := mustParse(t, flag(sample[0])), mustParse(t, flag(sample[1]))
		for desc, c := range map[string]struct{ got, want options }{
			"the variable alone":             {mustParse(t, base, variable+sample[0]), first},
			"the other value":                {mustParse(t, base, variable+sample[1]), second},
			"flag and variable":              {mustParse(t, flag(sample[1]), variable+sample[0]), second},
			"flag and wrong variable":        {mustParse(t, flag(sample[1]), variable+"\x00"), second},
			"the flag twice":                 {mustParse(t, append(flag(sample[0]), flag(sample[1])...)), second},
			"a flag with two dashes":         {mustParse(t, append(base, "--"+opt.name+"="+sample[0])), first},
			"an empty variable and no other": {mustParse(t, fixed, variable, "EDGE_UNKNOWN=x", "PATH=/"), standard},
		} {
			if desc == "the flag twice" { // some may be repeated
				c.want.apps = slices.Clone(c.want.apps)
				switch opt.name {
				case "webhook":
					c.want.apps[0].hooks = slices.Concat(first.app.hooks, second.app.hooks)
				case "more-keys":
					c.want.apps[0].moreKeys = slices.Concat(first.app.moreKeys, second.app.moreKeys)
				case "addr":
					c.want.addrs = slices.Concat(first.addrs, second.addrs)
				}
				c.want.app = c.want.apps[0]
			}
			if opt.name == "version" && strings.HasSuffix(desc, "variable alone") {
				c.want = standard // EDGE_VERSION is likely to be of something else
			}
			c.got.secretShown, c.got.given, c.want.given = c.want.secretShown, nil, nil
			if !reflect.DeepEqual(c.got, c.want) {
				t.Errorf("-%s, %s\ngot  %+v\nwant %+v", opt.name, desc, c.got, c.want)
			}
		}
		if reflect.DeepEqual(first, standard) || reflect.DeepEqual(first, second) {
			t.Errorf("-%s=%s changes nothing", opt.name, sample[0])
		}
	}
}

func TestOptionValues(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "2m": 2 * time.Minute, "1h30m": 90 * time.Minute, "1.5s": 1500 * time.Millisecond, "1000ms": time.Second,
		"120": 2 * time.Minute, "1": time.Second, "24h": 24 * time.Hour,
	} {
		if o := mustParse(t, []string{"-activity-timeout", value}); o.app.limits.ActivityTimeout != want {
			t.Errorf("%q is %s, want %s", value, o.app.limits.ActivityTimeout, want)
		}
	}
	for value, want := range map[string]bool{"-verbose": true, "-verbose=true": true, "-verbose=1": true, "-verbose=false": false, "-verbose=0": false} {
		if o := mustParse(t, []string{value}); o.verbose != want {
			t.Errorf("%s: %t", value, o.verbose)
		}
	}
	for value, want := range map[string][]string{
		"": nil, ",": nil, "a": {"a"}, "https://a.example:8443, *.b.example ,,c": {"https://a.example:8443", "*.b.example", "c"},
		"https://a.example/": {"https://a.example"}, "*": {"*"}, "null,[::1],http://[::1]:80": {"null", "[::1]", "http://[::1]:80"}, "file://,capacitor://localhost": {"file://", "capacitor://localhost"},
	} {
		if o := mustParse(t, []string{"-origins", value}); !slices.Equal(o.app.origins, want) {
			t.Errorf("%q are %q, want %q", value, o.app.origins, want)
		}
	}
	if o := mustParse(t, []string{"-origins", ""}, "EDGE_ORIGINS=a"); o.app.origins != nil {
		t.Errorf("-origins= does not go before the variable: %q", o.app.origins)
	}
}

// oneSentence checks a complaint: a line that begins with the program's name and has these parts, and nothing of a panic.
func oneSentence(t *testing.T, complaint string, parts ...string) {
	t.Helper()
	line, more, _ := strings.Cut(complaint, "\n")
	text, ok := strings.CutPrefix(line, "edge: ")
	if !ok || text == "" || more != "" || strings.Contains(text, "goroutine") || strings.Contains(text, "sesame") {
		t.Errorf("not one sentence: %q", complaint)
	}
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q does not name %q", text, part)
		}
	}
}

// keepLog lets the log go where it goes in tests again, when the test is over in which edge runs as a command.
func keepLog(t *testing.T) {
	before := slog.Default()
	t.Cleanup(func() {
		slog.SetDefault(before)
		log.SetOutput(errorOutput)
		log.SetFlags(log.LstdFlags)
	})
}

// runCommand runs a command that is to end by itself. The secret is sesame unless a variable says otherwise.
func runCommand(t *testing.T, args []string, variables ...string) (code int, stdout, stderr string) {
	t.Helper()
	keepLog(t)
	var out, complaint bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		p := &program{args: args, getenv: environment(append(variables, "EDGE_SECRET=sesame")...), stdout: &out, stderr: &complaint}
		ended <- p.run()
	}()
	select {
	case code = <-ended:
		return code, out.String(), complaint.String()
	case <-time.After(patience):
		t.Fatalf("%q %q: it serves", args, variables) // and goes on with it
		return 0, "", ""
	}
}

func TestCommandRefusesOptions(t *testing.T) {
	type refused struct {
		args      []string
		variables []string
		parts     []string // of the complaint
	}
	cases := []refused{
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
	for _, addrs := range []string{"127.0.0.1:0 [::1]:0", "127.0.0.1:0 unix:/nothing/x", "unix:/nothing/x", "plain::0"} {
		args := []string{"-tls-cert", "/nothing/a", "-tls-key", "/nothing/b"}
		first, _, _ := strings.Cut(addrs, " ")
		for addr := range strings.FieldsSeq(addrs) {
			args = append(args, "-addr", addr)
		}
		cases = append(cases, refused{args, nil, []string{"-tls-cert", first, "tls:host:port"}})
	}
	for option, values := range map[string][]string{
		"webhook":            {"ftp://a", "a.example", "http://a#event=x", "http://a http://b#events=x"},
		"webhook-grace":      {"-1s", "x"},
		"addr":               {"127.0.0.1:noport", ":99999", "6001", "", ":", "localhost", "localhost:", "[::1]", "::1:6001"},
		"key":                {"a b", "a/b", "a:b", "a?b", "a#b", "a%b", "a&b", "a\\b", `a"b`, "é", "a\nb", "\x00", "\x7f", "\xff"},
		"max-connections":    {"0", "-1", "", "x", "1.5", "1e3", "2147483648", "99999999999999999999", " 1", "1 ", "0x10"},
		"event-size":         {"0", "10k", "2147483648"},
		"channel-name":       {"0", "-200", "143"},
		"presence-members":   {"0", "x"},
		"presence-user-size": {"1", "0"},
		"send-buffer":        {"4095", "0", "1MB"},
		"activity-timeout":   {"0", "0s", "-1s", "-1", "999ms", "", "x", "1y", "5 s", "1e3", "99999999999h", "9999999999999999"},
		"pong-timeout":       {"0", "0s", "-1ns", "-5", "x"},
		"auth-window":        {"-1ns", "-600"},
		"cache-ttl":          {"0", "1ms", "-30m"},
		"origins": {"://", "https://", "https:///", "://a", "https://*.example.org", "https://a/path", "https://a//", "a/", "*.", "*a", "a.*", "*.*.a", ".a", "a:80",
			"https://a https://b", "a,https://b/c"},
		"client-events":      {"maybe", "yes", "2", ""},
		"subscription-count": {"x"},
		"verbose":            {"-1"},
		"version":            {"2"},
	} {
		for _, value := range values {
			cases = append(cases, refused{[]string{"-" + option + "=" + value}, nil, []string{"-" + option, fmt.Sprintf("%q", value)}})
		}
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%q %q", c.args, c.variables), func(t *testing.T) {
			code, stdout, stderr := runCommand(t, c.args, c.variables...)
			if code != 2 || stdout != "" {
				t.Errorf("exit code %d, want 2; stdout %q", code, stdout)
			}
			oneSentence(t, stderr, c.parts...)
		})
	}
}

func TestCommandAnswers(t *testing.T) {
	for _, c := range []struct {
		args, variables []string
	}{
		{[]string{"-version"}, nil}, {[]string{"--version"}, nil}, {[]string{"-version=true", "-addr", ":1"}, nil},
		{[]string{"-help"}, nil}, {[]string{"-h"}, nil}, {[]string{"--help"}, nil}, {[]string{"-key", "k", "-help"}, []string{"EDGE_EVENT_SIZE=x"}},
	} {
		code, text, stderr := runCommand(t, c.args, c.variables...)
		if code != 0 || stderr != "" {
			t.Errorf("%q: exit code %d, %q", c.args, code, stderr)
		}
		if strings.Contains(text, "sesame") {
			t.Errorf("%q prints the secret", c.args)
		}
		if slices.ContainsFunc(c.args, func(s string) bool { return strings.Contains(s, "-h") }) {
			for _, opt := range optionTable(new(options)) {
				if !strings.Contains(text, "\n  -"+opt.name+" ") || opt.help == "" || !strings.Contains(text, opt.help) || !strings.Contains(text, opt.value) {
					t.Errorf("%q does not explain -%s", c.args, opt.name)
				}
			}
		} else if want := fmt.Sprintf("edge %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH); text != want {
			t.Errorf("%q prints %q, want %q", c.args, text, want)
		}
	}
}

func TestCommandCannotListen(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for addr, part := range map[string]string{
		l.Addr().String(): "in use",
		"192.0.2.1:0":     "listen", // an address no machine has (RFC 5737)
	} {
		code, stdout, stderr := runCommand(t, []string{"-addr", addr})
		if code != 1 || stdout != "" {
			t.Errorf("%s: exit code %d, want 1; stdout %q", addr, code, stdout)
		}
		oneSentence(t, stderr, addr, part)
	}
	// A number that is no port is seen before or when it is used, but never a reason to start.
	code, stdout, stderr := runCommand(t, []string{"-addr", ":99999"})
	if code == 0 || stdout != "" {
		t.Errorf("port 99999: exit code %d; stdout %q", code, stdout)
	}
	oneSentence(t, stderr, "99999")
}

func TestMadeUpKeyAndSecret(t *testing.T) {
	form := regexp.MustCompile(`^[a-z0-9]{20}$`)
	o, again := mustParse(t, nil), mustParse(t, nil, "EDGE_KEY=", "EDGE_SECRET=")
	if !form.MatchString(o.app.key) || !form.MatchString(o.app.secret) || !o.app.madeKey || !o.app.madeSecret {
		t.Errorf("made up %q and %q", o.app.key, o.app.secret)
	}
	if o.app.key == again.app.key || o.app.secret == again.app.secret || o.app.key == o.app.secret {
		t.Errorf("made up twice: %q %q, %q %q", o.app.key, o.app.secret, again.app.key, again.app.secret)
	}
	if o := mustParse(t, []string{"-key", "k"}, "EDGE_SECRET=s"); o.app.madeKey || o.app.madeSecret || o.app.key != "k" || o.app.secret != "s" {
		t.Errorf("given and yet made up: %+v", o)
	}
	if o := mustParse(t, []string{"-key", "k", "-secret", ""}, "EDGE_SECRET=s"); o.app.madeKey || !o.app.madeSecret || o.app.key != "k" {
		t.Errorf("an empty secret is none: %+v", o)
	}
}

func TestBanner(t *testing.T) {
	local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7000}
	everywhere := &net.TCPAddr{IP: net.IPv6unspecified, Port: 7000}
	for _, c := range []struct {
		desc    string
		args    []string
		addr    net.Addr
		with    []string // parts it has
		without []string
	}{
		{"given", []string{"-key", "the-key", "-secret", "sesame", "-id", "77"}, local,
			[]string{"ws://127.0.0.1:7000/app/the-key", "http://127.0.0.1:7000/apps/77", "the-key", "77", version}, []string{"sesame", "any id"}},
		{"verbose", []string{"-key", "the-key", "-secret", "sesame", "-verbose"}, local, []string{"the-key", "any id"}, []string{"sesame"}},
		{"secret of one letter", []string{"-key", "the-key", "-secret", "☃"}, local, nil, []string{"☃"}},
		{"everywhere", []string{"-key", "the-key", "-secret", "sesame"}, everywhere, []string{"ws://localhost:7000/app/the-key"}, []string{"sesame", "//[::]"}},
		{"IPv6", []string{"-key", "the-key", "-secret", "sesame"}, &net.TCPAddr{IP: net.IPv6loopback, Port: 7000}, []string{"ws://[::1]:7000/app/the-key"}, []string{"sesame"}},
		{"made up", nil, local, []string{"-secret", "EDGE_SECRET"}, nil},
		{"key made up", []string{"-secret", "sesame"}, local, nil, []string{"sesame"}},
		{"secret made up", []string{"-key", "the-key"}, local, []string{"the-key"}, nil},
	} {
		o := mustParse(t, c.args)
		text := banner(o, []net.Listener{addressed{addr: c.addr}})
		c.with = append(c.with, o.app.key)
		if o.app.madeSecret {
			c.with = append(c.with, o.app.secret)
		}
		for _, part := range c.with {
			if !strings.Contains(text, part) {
				t.Errorf("%s: no %q in\n%s", c.desc, part, text)
			}
		}
		for _, part := range c.without {
			if strings.Contains(text, part) {
				t.Errorf("%s: %q in\n%s", c.desc, part, text)
			}
		}
		lines := strings.Split(text, "\n")
		if n := len(lines); lines[n-1] != "" || !strings.HasPrefix(lines[n-2], "Ready on "+c.addr.String()) {
			t.Errorf("%s: the last line does not say ready:\n%s", c.desc, text)
		}
	}
}

// TestConsoleBanner: the banner says where the console is, and how to get in only where nobody keeps it.
func TestConsoleBanner(t *testing.T) {
	for _, c := range []struct {
		args       []string
		link, want string
	}{
		{nil, "", "  console    http://localhost:6001/console\n"},
		{nil, "#once=abc", "  console    http://localhost:6001/console#once=abc\n"},
		{[]string{"-path", "edge"}, "", "  console    http://localhost:6001/edge/console\n"},
		{[]string{"-console=false"}, "#once=abc", ""},
	} {
		o := testOptions(t, c.args...)
		o.consoleLink = c.link
		text := banner(o, []net.Listener{addressed{addr: &net.TCPAddr{IP: net.IPv6unspecified, Port: 6001}}})
		if !strings.Contains(text, c.want) || c.want == "" && strings.Contains(text, "console") {
			t.Errorf("%v: %s", c.args, text)
		}
	}
	keepLog(t)
	for _, shown := range []bool{false, true} {
		out, stdout := io.Pipe()
		p := &program{args: []string{"-addr", "127.0.0.1:0", "-key", "key"}, getenv: environment("EDGE_SECRET=" + testSecret), stdout: stdout, stderr: errorOutput, shown: shown}
		o, err := parseOptions(p.args, p.getenv)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- p.listenAndServe(ctx, o, conn.NewBudget(o.memory))
			stdout.Close()
		}()
		lines, link := bufio.NewScanner(out), false
		for lines.Scan() && !strings.HasPrefix(lines.Text(), "Ready on") {
			link = link || strings.Contains(lines.Text(), "/console#once=")
		}
		go io.Copy(io.Discard, out) // ends when stdout is closed
		stop()
		if err := <-ended; err != nil || link != shown {
			t.Errorf("on a terminal: %t, a link: %t, %v", shown, link, err)
		}
	}
}

// The whole command: it says when it is ready, serves, and ends with 0 on a signal.
func TestCommandServes(t *testing.T) {
	self, err := os.FindProcess(os.Getpid())
	if err != nil || runtime.GOOS == "windows" {
		t.Skip("no signals here")
	}
	defer self.Release()
	for _, variable := range os.Environ() { // of the tests, which it would name
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "EDGE_") {
			t.Setenv(name, "")
		}
	}
	keepLog(t)
	out, stdout := io.Pipe()
	var stderr bytes.Buffer
	ended := make(chan int, 1)
	go func() { // ends on the signal below
		p := &program{args: []string{"-addr", "127.0.0.1:0", "-key", "key", "-verbose"}, getenv: environment("EDGE_SECRET=" + testSecret), stdout: stdout, stderr: &stderr}
		code := p.run()
		stdout.Close()
		ended <- code
	}()
	lines, addr, printed := bufio.NewScanner(out), "", ""
	for addr == "" && lines.Scan() {
		printed += lines.Text() + "\n"
		if rest, ok := strings.CutPrefix(lines.Text(), "Ready on "); ok {
			addr, _, _ = strings.Cut(rest, " ")
			addr = strings.TrimSuffix(addr, ".")
		}
	}
	if addr == "" {
		t.Fatalf("never ready; exit code %d, %q %q", <-ended, printed, &stderr)
	}
	logged := make(chan string)
	go func() { // ends when the command closes stdout
		b, _ := io.ReadAll(out)
		logged <- string(b)
	}()
	c := connect(t, addr)
	c.join("a")
	publish(t, addr, "a", "e", "x")
	c.expect(event("e", "a", "x"))
	if status, _ := apiCall(t, addr, "POST", "/apps/1/events", "", `{"name":"e\nforged","channel":"é\n"}`); status != 400 {
		t.Errorf("status %d", status)
	}
	if err := self.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.expectClose(4200)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	select {
	case code := <-ended:
		if said := stderr.String(); code != 0 || said != "" {
			t.Errorf("exit code %d, %q", code, said)
		}
	case <-ctx.Done():
		t.Fatal("the signal does not end it")
	}
	said := <-logged
	if strings.Contains(printed+said, testSecret) {
		t.Errorf("the secret is printed:\n%s%s", printed, said)
	}
	if !strings.Contains(said, c.id) || strings.Contains(said, "\nforged") {
		t.Errorf("logged:\n%s", said)
	}
}

// addressed is a listener that has an address, and nothing else.
type addressed struct {
	net.Listener
	addr net.Addr
}

func (a addressed) Addr() net.Addr { return a.addr }

// listenersOf are listeners for a banner.
func listenersOf(options) []net.Listener {
	return []net.Listener{addressed{addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 6001}}}
}
