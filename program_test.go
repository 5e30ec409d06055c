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
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"edge/internal/config"
	"edge/internal/conn"
	"edge/internal/edgetest"
)

// The whole program in this process: what it prints, when it is ready, and how it ends.

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
		p := &program{args: args, getenv: edgetest.Getenv(append(variables, "EDGE_SECRET=sesame")...), stdout: &out, stderr: &complaint}
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
			for _, opt := range config.All() {
				if !strings.Contains(text, "\n  -"+opt.Name+" ") || opt.Help == "" || !strings.Contains(text, opt.Help) || !strings.Contains(text, opt.Default) {
					t.Errorf("%q does not explain -%s", c.args, opt.Name)
				}
			}
		} else if want := fmt.Sprintf("edge %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH); text != want {
			t.Errorf("%q prints %q, want %q", c.args, text, want)
		}
	}
}

func TestCommandCannotListen(t *testing.T) {
	if code, stdout, stderr := runCommand(t, []string{"-bogus"}); code != 2 || stdout != "" || !strings.Contains(stderr, "-bogus") {
		t.Errorf("an option that is none: exit code %d, %q %q", code, stdout, stderr)
	}
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
		edgetest.OneSentence(t, stderr, addr, part)
	}
	// A number that is no port is seen before or when it is used, but never a reason to start.
	code, stdout, stderr := runCommand(t, []string{"-addr", ":99999"})
	if code == 0 || stdout != "" {
		t.Errorf("port 99999: exit code %d; stdout %q", code, stdout)
	}
	edgetest.OneSentence(t, stderr, "99999")
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
		text := banner(o, []net.Listener{addressed{addr: c.addr}}, "")
		c.with = append(c.with, o.Apps[0].Key)
		if o.Apps[0].MadeSecret {
			c.with = append(c.with, o.Apps[0].Secret)
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
	o := mustParse(t, nil, "PUSHER_APP_KEY=k", "PUSHER_APP_SECRET=s")
	if text := banner(o, listenersOf(), ""); !strings.Contains(text, "\n  found      PUSHER_APP_KEY, PUSHER_APP_SECRET\n") {
		t.Errorf("no credentials found in\n%s", text)
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
		text := banner(testOptions(t, c.args...), []net.Listener{addressed{addr: &net.TCPAddr{IP: net.IPv6unspecified, Port: 6001}}}, c.link)
		if !strings.Contains(text, c.want) || c.want == "" && strings.Contains(text, "console") {
			t.Errorf("%v: %s", c.args, text)
		}
	}
	keepLog(t)
	for _, shown := range []bool{false, true} {
		out, stdout := io.Pipe()
		p := &program{args: []string{"-addr", "127.0.0.1:0", "-key", "key"}, getenv: edgetest.Getenv("EDGE_SECRET=" + testSecret), stdout: stdout, stderr: errorOutput, shown: shown}
		o, err := config.Parse(p.args, p.getenv)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- p.listenAndServe(ctx, o, conn.NewBudget(o.Memory))
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
		p := &program{args: []string{"-addr", "127.0.0.1:0", "-key", "key", "-verbose"}, getenv: edgetest.Getenv("EDGE_SECRET=" + testSecret), stdout: stdout, stderr: &stderr}
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
func listenersOf() []net.Listener {
	return []net.Listener{addressed{addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 6001}}}
}
func mustParse(t testing.TB, args []string, variables ...string) config.Options {
	t.Helper()
	o, err := config.Parse(args, edgetest.Getenv(variables...))
	if err != nil {
		t.Fatalf("%q %q: %v", args, variables, err)
	}
	return o
}
