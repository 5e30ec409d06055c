//go:build unix

package test

// How edge is started, and what it says to whom.

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"edge/internal/edgetest"
)

// config writes a configuration file.
func config(t *testing.T, text string) (name string) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "edge.json")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// expectNoStart runs edge, which must say in one sentence what it cannot do.
func expectNoStart(t *testing.T, want string, args ...string) {
	t.Helper()
	cmd := edgetest.Command(t, true, args...)
	cmd.Env = edgetest.Environ()
	out, _ := cmd.CombinedOutput()
	said, code := string(out), cmd.ProcessState.ExitCode()
	sentence := strings.HasPrefix(said, "edge: ") && strings.Count(said, "\n") == 1
	if code != 1 || !sentence || !strings.Contains(said, want) {
		t.Errorf("%q: exit code %d: %s", args, code, said)
	}
}

// TestListeners: every address serves, a Unix socket too; one that a dead program left is taken over, one in use is
// not.
func TestListeners(t *testing.T) {
	name := filepath.Join(t.TempDir(), "s")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	p := edgetest.Start(t, "-addr", "127.0.0.1:0", "-addr", "unix:"+name, "-addr", "127.0.0.1:0")
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	c := edgetest.Connect(t, p.Addr)
	c.Join("room")
	dial := func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", name) }
	h := &http.Client{Transport: &http.Transport{DialContext: dial}}
	defer h.CloseIdleConnections()
	if err := post(h, "localhost", "/apps/1/events", edgetest.EventBody("room", "e", "x")); err != nil {
		t.Fatal(err)
	}
	c.Expect(edgetest.Event("e", "room", "x"))
	conn, err := net.Dial("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	edgetest.ConnectOn(t, conn).Leave()
	expectNoStart(t, "in use", "-addr", "unix:"+name)
	c.Leave()
	p.Stop()
	if _, err := os.Stat(name); !os.IsNotExist(err) {
		t.Errorf("the socket: %v", err)
	}
}

// TestMetricsAddr: metrics are on their address, and on no other.
func TestMetricsAddr(t *testing.T) {
	addr := edgetest.FreeAddr(t)
	p := edgetest.Start(t, "-metrics-addr", addr)
	for _, test := range []struct {
		address string
		status  int
		has     string
	}{
		{addr + "/metrics", 200, "\nprocess_resident_memory_bytes "},
		{addr + "/metrics", 200, "\nprocess_open_fds "},
		{addr + "/metrics", 200, "\nprocess_max_fds "},
		{addr + "/metrics", 200, "\nprocess_cpu_seconds_total "},
		{addr + "/apps/1/channels", 404, ""},
		{p.Addr + "/metrics", 404, ""},
	} {
		status, page := edgetest.Get(t, "http://"+test.address)
		if status != test.status || !strings.Contains(page, test.has) {
			t.Errorf("%s: %d, or no %q", test.address, status, test.has)
		}
	}
	expectNoStart(t, addr, "-metrics-addr", addr)
	http.DefaultClient.CloseIdleConnections()
}

// TestSaid: a secret on the command line is reported, and lines have no time where the journal has its own.
func TestSaid(t *testing.T) {
	for _, test := range []struct {
		env, begins string
		args        []string
		shown       bool
	}{
		{"JOURNAL_STREAM=8:1", "level=", nil, false},
		{"X=", "time=", []string{"-secret", "sesame"}, true},
	} {
		cmd := edgetest.Command(t, false, append(test.args, "-send-buffer", "4096", "-max-connections", "2000000000")...)
		cmd.Env = []string{test.env}
		p := edgetest.StartCommand(t, cmd)
		edgetest.WaitUntil(t, "it warns of the descriptors", func() bool {
			return strings.Contains(p.Output(), "max-connections")
		})
		p.Stop()
		for line := range strings.Lines(p.Output()) {
			if strings.Contains(line, "level=") && !strings.HasPrefix(line, test.begins) {
				t.Errorf("%s: %s", test.env, line)
			}
		}
		if got := strings.Contains(p.Output(), "the secret is on the command line"); got != test.shown {
			t.Errorf("%q: it says:\n%s", test.args, p.Output())
		}
	}
}

// TestHangupWithoutConfig: a closed terminal leaves no server behind unless nohup(1) started it. With -config, SIGHUP
// reloads even then.
func TestHangupWithoutConfig(t *testing.T) {
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGHUP) // a child starts with the default, even where nohup runs the tests
	defer signal.Stop(heard)
	file := config(t, "{}")
	for _, c := range []struct {
		script string
		args   []string
		ends   bool
		says   string
	}{
		{`exec "$0" "$@"`, nil, true, ""},
		{`trap "" HUP; exec "$0" "$@"`, nil, false, ""},
		{`trap "" HUP; exec "$0" "$@"`, []string{"-config", file}, false, "the new configuration holds"},
	} {
		p := edgetest.StartCommand(t, throughShell(edgetest.Command(t, false, c.args...), c.script))
		edgetest.Connect(t, p.Addr).Settled()
		p.Signal(syscall.SIGHUP)
		edgetest.WaitUntil(t, "it says "+c.says, func() bool { return strings.Contains(p.Output(), c.says) })
		if c.ends {
			edgetest.WaitUntil(t, "it has ended", func() bool {
				conn, err := net.Dial("tcp", p.Addr)
				if err == nil {
					conn.Close()
				}
				return err != nil
			})
			continue
		}
		edgetest.Connect(t, p.Addr).Settled()
		p.Stop()
	}
}

// TestSubscribeAcrossRestart: after kill -9 and a new start of the server, the command line gets events again.
func TestSubscribeAcrossRestart(t *testing.T) {
	addr := edgetest.FreeAddr(t)
	p := edgetest.Start(t, "-addr", addr)
	var out, said edgetest.Output
	cmd := edgetest.Command(t, true)
	cmd.Args = append(cmd.Args[:1], "subscribe", "room", "private-room", "-count", "2")
	cmd.Env = append(edgetest.Environ(), "EDGE_KEY="+edgetest.Key, "EDGE_ADDR="+addr)
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	says := func(times int, text string) {
		t.Helper()
		edgetest.WaitUntil(t, text, func() bool { return strings.Count(said.String(), text) == times })
	}
	says(1, "edge: subscribed to room, private-room\n")
	edgetest.Publish(t, addr, "private-room", "before", "1")
	edgetest.WaitUntil(t, "the first event is printed", func() bool { return out.String() != "" })
	p.Kill()
	says(1, "edge: connection lost (")
	http.DefaultClient.CloseIdleConnections()
	edgetest.Start(t, "-addr", addr)
	says(2, "edge: subscribed to room, private-room\n")
	edgetest.Publish(t, addr, "room", "after", "2")
	want := `{"channel":"private-room","event":"before","data":1}` + "\n" +
		`{"channel":"room","event":"after","data":2}` + "\n"
	if err := cmd.Wait(); err != nil || out.String() != want {
		t.Errorf("%v: got\n%swant\n%s", err, out.String(), want)
	}
	http.DefaultClient.CloseIdleConnections()
}
