package main

// Tests of the server as a whole: several apps, a new configuration while it runs, its listeners, and what proxies say.

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"edge/internal/channel"
	"edge/internal/config"
	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/listen"
	"edge/internal/sign"
	"edge/internal/wire"
)

// withKey is a key other than the tests'.
type withKey struct{ name, secret string }

// url is signedURL for a key and its secret.
func (k withKey) url(addr, method, path, query, body string) string {
	url := signedURL(addr, method, path, query, body)
	target, rest, _ := strings.Cut(url, "?")
	rest, _, _ = strings.Cut(strings.Replace(rest, "auth_key=key", "auth_key="+k.name, 1), "&auth_signature=")
	ps, _ := sign.ParseParams(nil, rest)
	return fmt.Sprintf("%s?%s&auth_signature=%s", target, rest, sign.NewKey(k.name, k.secret).Sign(nil, sign.RequestText(nil, method, path, ps)))
}

// call makes an API call.
func (k withKey) call(t testing.TB, addr, method, path, body string) (status int, answer string) {
	t.Helper()
	r, err := http.NewRequest(method, k.url(addr, method, path, "", body), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return do(t, r)
}

// connectTo opens a connection for an app's key.
func connectTo(t testing.TB, addr, key string) *peer {
	t.Helper()
	c := handshake(t, addr, "/app/"+key+"?protocol=7", "")
	c.established()
	return c
}

// subscribeWith subscribes to a private channel with a signature of this key.
func (c *peer) subscribeWith(k withKey, channel string) {
	id, _ := wire.ParseSocketID(c.id)
	c.subscribeAs(channel, k.name+":"+string(sign.NewKey(k.name, k.secret).Sign(nil, sign.ChannelText(nil, id.String(), []byte(channel), nil))), "")
}

var (
	keyOne, keyOld, keyTwo = withKey{"one", "secret-one"}, withKey{"old", "secret-old"}, withKey{"two", "secret-two"}
	twoApps                = `{"apps": [
		{"id": "1", "key": "one", "secret": "secret-one", "more-keys": [{"key": "old", "secret": "secret-old"}], "event-size": 100, "webhook": [%q]},
		{"id": "2", "key": "two", "secret": "secret-two", "client-events": false, "origins": "a.example"}
	]}`
)

// startApps starts a server as a file says.
func startApps(t *testing.T, config string, args ...string) *testServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := mustParse(t, append(args, "-config", edgetest.File(t, config)))
	return serveOptions(t, l, o)
}

// TestSeveralApps: apps share nothing but the process.
func TestSeveralApps(t *testing.T) {
	hook := &keyedReceiver{t: t, key: sign.NewKey("one", "secret-one")}
	receiver := httptest.NewServer(hook)
	t.Cleanup(receiver.Close)
	s := startApps(t, fmt.Sprintf(twoApps, receiver.URL))
	one, two := connectTo(t, s.addr, "one"), connectTo(t, s.addr, "two")
	older := connectTo(t, s.addr, "old") // a key of the first app too
	for _, c := range []*peer{one, two, older} {
		c.subscribe("room", "")
		c.expect(succeeded("room"))
	}
	for _, c := range []struct {
		key    withKey
		app    string
		status int
	}{
		{keyOne, "1", 200}, {keyOld, "1", 200}, {keyTwo, "2", 200}, {keyTwo, "1", 401}, {keyOne, "2", 401}, {keyOne, "3", 404}, {keyTwo, "", 404},
		{withKey{"one", "secret-two"}, "1", 401}, {withKey{"key", testSecret}, "1", 401},
	} {
		body := fmt.Sprintf(`{"name":"%s-%s","channel":"room","data":"x"}`, c.key.name, c.app)
		if status, answer := c.key.call(t, s.addr, "POST", "/apps/"+c.app+"/events", body); status != c.status {
			t.Errorf("%s for app %s: %d %q, want %d", c.key.name, c.app, status, answer, c.status)
		}
	}
	for _, c := range []*peer{one, older} {
		c.expect(event("one-1", "room", "x"), event("old-1", "room", "x"))
		c.settled()
	}
	two.expect(event("two-2", "room", "x"))
	two.settled()

	// Each has its own limits.
	large := `{"name":"e","channel":"room","data":"` + strings.Repeat("x", 200) + `"}`
	if status, _ := keyOne.call(t, s.addr, "POST", "/apps/1/events", large); status != 413 {
		t.Errorf("over the limit of the first: %d", status)
	}
	if status, _ := keyTwo.call(t, s.addr, "POST", "/apps/2/events", large); status != 200 {
		t.Errorf("within the limit of the second: %d", status)
	}
	two.text()
	two.subscribeWith(keyTwo, "private-x")
	two.expect(succeeded("private-x"))
	two.send(`{"event":"client-x","channel":"private-x","data":"x"}`)
	if got := two.text(); !strings.Contains(got, "you must enable this feature") {
		t.Errorf("a client event: %s", got)
	}
	// Tokens of any key of the app, and of no other.
	for key, want := range map[withKey]string{keyOne: "subscription_succeeded", keyOld: "subscription_succeeded", keyTwo: "subscription_error"} {
		c := connectTo(t, s.addr, "one")
		c.subscribeWith(key, "private-x")
		if got := c.text(); !strings.Contains(got, want) {
			t.Errorf("a token of %s: %s", key.name, got)
		}
		c.leave()
	}
	if status, answer := keyTwo.call(t, s.addr, "GET", "/apps/2/channels", ""); status != 200 || answer != `{"channels":{"private-x":{},"room":{}}}` {
		t.Errorf("channels of the second: %d %s", status, answer)
	}
	// The Python library leaves the app out of this path.
	if status, _ := keyTwo.call(t, s.addr, "POST", "/users/u/terminate_connections", "{}"); status != 200 {
		t.Errorf("terminate by the key alone: %d", status)
	}
	if status, _ := (withKey{"none", "x"}).call(t, s.addr, "POST", "/users/u/terminate_connections", "{}"); status != 401 {
		t.Errorf("terminate by an unknown key: %d", status)
	}
	waitUntil(t, "the first app's receiver is told", func() bool { return hook.got() > 0 })
	waitUntil(t, "the others have left", func() bool { return s.apps.Load().all[0].Connections() == 2 })
	page := s.metricsPage()
	for _, want := range []string{`edge_connected{app_id="1"} 2`, `edge_connected{app_id="2"} 1`, `edge_key_uses_total{app_id="1",key="old"} 2`} {
		if !strings.Contains(page, want+"\n") {
			t.Errorf("no %s in\n%s", want, page)
		}
	}
}

// keyedReceiver counts the events of webhooks that are signed with a key.
type keyedReceiver struct {
	t     *testing.T
	key   *sign.Key
	count atomic.Int64 // of events
}

func (r *keyedReceiver) got() int64 { return r.count.Load() }

func (r *keyedReceiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	if req.Header.Get("X-Pusher-Key") != r.key.Name || !r.key.Valid(req.Header.Get("X-Pusher-Signature"), body) {
		r.t.Errorf("signed by %q", req.Header.Get("X-Pusher-Key"))
	}
	r.count.Add(int64(bytes.Count(body, []byte(`"name":`))))
}

// TestServerLimit: all apps together have no more connections than the server may.
func TestServerLimit(t *testing.T) {
	s := startApps(t, `{"max-connections": 3, "apps": [
		{"id": "1", "key": "one", "secret": "x"}, {"id": "2", "key": "two", "secret": "x", "max-connections": 1}]}`)
	first, second := connectTo(t, s.addr, "one"), connectTo(t, s.addr, "two")
	full := handshake(t, s.addr, "/app/two?protocol=7", "")
	full.text()
	full.expectClose(wire.CodeOverQuota)
	connectTo(t, s.addr, "one")
	full = handshake(t, s.addr, "/app/one?protocol=7", "")
	full.text()
	if reason := full.expectClose(wire.CodeOverCapacity); !strings.Contains(reason, "server") {
		t.Errorf("reason %q", reason)
	}
	first.settled()
	second.leave()
	waitUntil(t, "there is room", func() bool { return s.memory.ClientCount() == 2 })
	connectTo(t, s.addr, "one")
}

// rewrite makes the file say something else and has the server read it.
func (s *testServer) rewrite(t *testing.T, file, text string) error {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := config.Parse([]string{"-config", file}, noEnv)
	if err != nil {
		return err
	}
	return s.reload(o)
}

// TestReload: what a reload can change holds at once, and no connection notices but those of an app that is gone.
func TestReload(t *testing.T) {
	first := &keyedReceiver{t: t, key: sign.NewKey("new", "n")}
	receiver := httptest.NewServer(first)
	t.Cleanup(receiver.Close)
	file := edgetest.File(t, `{"apps": [{"id": "1", "key": "one", "secret": "o"}, {"id": "2", "key": "two", "secret": "t"}]}`)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := serveOptions(t, l, mustParse(t, nil, "EDGE_CONFIG="+file))
	one, two := connectTo(t, s.addr, "one"), connectTo(t, s.addr, "two")
	old := withKey{"one", "o"}
	one.subscribeWith(old, "private-a")
	one.expect(succeeded("private-a"))
	two.join("room")
	before := s.apps.Load().all

	// Another key before it, other limits, webhooks, an app more and an app less.
	most := fmt.Sprint(conn.DescriptorLimit() - spareDescriptors - minCallers) // so that callers have the least there is
	err = s.rewrite(t, file, `{"event-size": 3, "verbose": true, "max-connections": `+most+`, "apps": [
		{"id": "1", "key": "new", "secret": "n", "more-keys": "one:o", "webhook": `+string(quote(receiver.URL))+`, "webhook-grace": 0, "origins": "x.example"},
		{"id": "3", "key": "three", "secret": "t"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	if s.callers.Limit.Load() != minCallers {
		t.Errorf("%d callers beside %s connections", s.callers.Limit.Load(), most)
	}
	two.expectClose(wire.CodeUnknownKey)
	gone := handshake(t, s.addr, "/app/two?protocol=7", "")
	gone.text()
	gone.expectClose(wire.CodeUnknownKey)
	connectTo(t, s.addr, "three").settled()
	if now := s.apps.Load().all; now[0] != before[0] || now[0].keys().Find("one").Uses.Load() == 0 {
		t.Error("the first app is another, or its key has forgotten its uses")
	}
	one.settled()
	for i, key := range []withKey{old, {"new", "n"}} {
		if status, answer := key.call(t, s.addr, "POST", "/apps/1/events", `{"name":"e","channel":"private-a","data":"xyz"}`); status != 200 {
			t.Errorf("signed with %s: %d %s", key.name, status, answer)
		}
		one.expect(event("e", "private-a", "xyz"))
		c := connectTo(t, s.addr, key.name)
		c.subscribeWith(key, "private-b")
		c.expect(succeeded("private-b"))
		c.leave()
		// private-a was there before the webhooks were: they are told nothing of it, and all of private-b, signed with the new key.
		waitUntil(t, "the receiver is told", func() bool { return first.got() >= int64(2*(i+1)) })
	}
	if status, _ := old.call(t, s.addr, "POST", "/apps/1/events", `{"name":"e","channel":"private-a","data":"long"}`); status != 413 {
		t.Errorf("over the new limit: %d", status)
	}
	one.send(`{"event":"pusher:unsubscribe","data":{"channel":"private-a"}}`)
	one.settled()
	one.subscribeWith(old, "private-a")
	one.expect(succeeded("private-a"))
	waitUntil(t, "the receiver is told", func() bool { return first.got() == 5 })

	// A bad one changes nothing.
	for _, bad := range []string{`{`, `{"apps": [{"id": "1"}]}`, `{"event-size": "x"}`} {
		if err := s.rewrite(t, file, bad); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
	one.settled()
	if s.apps.Load().all[0].Limits().EventSize != 3 {
		t.Error("the limits are others")
	}

	// Without webhooks what is queued still is delivered, and no more.
	if err := s.rewrite(t, file, `{"apps": [{"id": "1", "key": "one", "secret": "o"}]}`); err != nil {
		t.Fatal(err)
	}
	one.settled()
	one.subscribeWith(old, "private-c")
	one.expect(succeeded("private-c"))
	s.stop()
	if n := first.got(); n != 5 {
		t.Errorf("%d events, want 5", n)
	}
}

// TestReloadOfOneApp: the only app of a simple set-up is the same whatever is changed, and a secret that was made up stays.
func TestReloadOfOneApp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := mustParse(t, nil)
	s := serveOptions(t, l, o)
	c := connectTo(t, s.addr, o.Apps[0].Key)
	c.join("room")
	again := mustParse(t, []string{"-id", "7", "-addr", ":7777"})
	if err := s.reload(again); err != nil {
		t.Fatal(err)
	}
	c.settled()
	key := withKey{o.Apps[0].Key, o.Apps[0].Secret}
	if status, answer := key.call(t, s.addr, "POST", "/apps/7/events", `{"name":"e","channel":"room","data":"x"}`); status != 200 {
		t.Errorf("%d %s", status, answer)
	}
	c.expect(event("e", "room", "x"))
	if status, _ := key.call(t, s.addr, "GET", "/apps/1/channels", ""); status != 404 {
		t.Errorf("another id: %d", status)
	}
}

// TestReloadOfWhatStays: what only the start can change is compared with the start, and memory keeps what was worked out of it.
func TestReloadOfWhatStays(t *testing.T) {
	var out syncBuffer
	log.SetOutput(&out)
	defer log.SetOutput(errorOutput)
	args := []string{"-key", "key", "-secret", testSecret}
	s := serverOf(t, mustParse(t, append(args, "-memory", "1G")))
	most := s.apps.Load().all[0].Limits().MaxConnections
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"-memory", "16M"}, []string{"option=memory"}},
		{[]string{"-memory", "16M", "-addr", ":7777"}, []string{"option=memory", "option=addr"}},
		{[]string{"-memory", "1G"}, nil},
	} {
		if err := s.reload(mustParse(t, append(args, c.args...))); err != nil {
			t.Fatal(err)
		}
		said := out.take()
		if strings.Count(said, "takes effect with the next start") != len(c.want) || !containsAll(said, c.want) {
			t.Errorf("%q: said %q", c.args, said)
		}
		if now := s.apps.Load().all[0].Limits().MaxConnections; now != most || s.memory.MostClients.Load() != int64(most) {
			t.Errorf("%q: %d connections, in all %d, want %d", c.args, now, s.memory.MostClients.Load(), most)
		}
	}
	if err := s.reload(mustParse(t, append(args, "-memory", "16M", "-max-connections", "77"))); err != nil {
		t.Fatal(err)
	}
	if now := s.apps.Load().all[0].Limits().MaxConnections; now != 77 {
		t.Errorf("%d connections, want what was said", now)
	}
}

func containsAll(s string, parts []string) bool {
	return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(s, part) })
}

func TestClientAddr(t *testing.T) {
	trusted := func(list string) []netip.Prefix { return testOptions(t, "-trusted-proxies", list).Proxies }
	for _, c := range []struct {
		proxies, peer string
		noted         []string
		want          string
	}{
		{"", "10.0.0.1:5", []string{"1.2.3.4"}, ""},
		{"127.0.0.1", "10.0.0.1:5", []string{"1.2.3.4"}, ""},
		{"10.0.0.0/8", "10.0.0.1:5", []string{"1.2.3.4"}, "1.2.3.4"},
		{"10.0.0.0/8", "[::ffff:10.0.0.1]:5", []string{"1.2.3.4"}, "1.2.3.4"},
		{"10.0.0.0/8", "10.0.0.1:5", nil, ""},
		{"10.0.0.0/8", "10.0.0.1:5", []string{""}, ""},
		{"10.0.0.0/8", "10.0.0.1:5", []string{"6.6.6.6, 1.2.3.4"}, "1.2.3.4"},
		{"10.0.0.0/8", "10.0.0.1:5", []string{"6.6.6.6, 1.2.3.4, 10.0.0.2"}, "1.2.3.4"},
		{"10.0.0.0/8", "10.0.0.1:5", []string{"6.6.6.6", "1.2.3.4,10.0.0.2", "10.9.9.9"}, "1.2.3.4"},
		{"10.0.0.0/8", "10.0.0.1:5", []string{"10.1.1.1,10.0.0.2"}, "10.1.1.1"},
		{"10.0.0.0/8", "10.0.0.1:5", []string{"1.2.3.4, nonsense, 10.0.0.2"}, "10.0.0.2"},
		{"10.0.0.0/8", "10.0.0.1:5", []string{"::ffff:1.2.3.4"}, "1.2.3.4"},
		{"::1", "[::1]:5", []string{"2001:db8::1"}, "2001:db8::1"},
		{"::1", "[::1]:5", []string{"6.6.6.6, 1.2.3.4:567"}, "1.2.3.4"},
		{"::1", "[::1]:5", []string{"6.6.6.6, [2001:db8::1]:567"}, "2001:db8::1"},
		{"::1", "[::1]:5", []string{"1.2.3.4:x"}, ""},
		{"unix", "@", []string{"1.2.3.4"}, "1.2.3.4"},
		{"unix", "10.0.0.1:5", []string{"1.2.3.4"}, ""},
		{"10.0.0.0/8", "@", []string{"1.2.3.4"}, ""},
	} {
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{"X-Forwarded-For": c.noted}}
		got := ""
		if a := listen.ClientAddr(r, trusted(c.proxies)); a.IsValid() {
			got = a.String()
		}
		if got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

func TestMetricsText(t *testing.T) {
	for addr, want := range map[string]string{"127.0.0.1:9601": "http://127.0.0.1:9601/metrics", ":9601": "http://localhost:9601/metrics",
		"unix:/run/metrics": "http://localhost/metrics on /run/metrics", "plain:10.0.0.1:9601": "http://10.0.0.1:9601/metrics"} {
		if got := metricsText(addr); got != want {
			t.Errorf("%s: %s", addr, got)
		}
	}
}

// TestStaleSocket: only the socket of a program that has ended is taken out of the way.
func TestStaleSocket(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no Unix sockets")
	}
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := runCommand(t, []string{"-addr", "unix:" + name})
	if edgetest.OneSentence(t, stderr, name, "a file of that name"); code != 1 || string(readFile(t, name)) != "mine" {
		t.Errorf("exit code %d", code)
	}
	if os.Remove(name); runtime.GOOS != "linux" {
		return
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0) // net's has no small backlog
	if err == nil {
		defer syscall.Close(fd)
		err = errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: name}), syscall.Listen(fd, 0))
	}
	if err != nil {
		t.Fatal(err)
	}
	for err == nil { // until it is full, and refuses for that
		var c net.Conn
		if c, err = net.Dial("unix", name); err == nil {
			defer c.Close()
		}
	}
	if code, _, _ := runCommand(t, []string{"-addr", "unix:" + name}); code != 1 || !exists(name) {
		t.Errorf("exit code %d, and the socket of a busy program is there: %t", code, exists(name))
	}
}

// TestCallersOverTLS: an HTTP client that reads nothing cannot hold up the one for whom it is cut off.
func TestCallersOverTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(conn.ProcessStart)) // or the certificate would not hold yet
		dir, trust := edgetest.CertDir(t)
		cert, err := listen.Load(filepath.Join(dir, "edge.pem"), filepath.Join(dir, "edge-key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		mine, theirs := net.Pipe() // which has no room, like a full buffer
		defer mine.Close()
		defer theirs.Close()
		stuck := tls.Server(mine, cert.Config())
		shaken := make(chan error, 1)
		go func() { shaken <- tls.Client(theirs, trust).Handshake() }()
		if err := errors.Join(stuck.Handshake(), <-shaken); err != nil {
			t.Fatal(err)
		}
		c := listen.NewCallers()
		c.Limit.Store(10)
		c.Note(stuck, http.StateNew)
		began := time.Now()
		for range c.Limit.Load() {
			c.Note(new(net.TCPConn), http.StateNew)
		}
		if waited := time.Since(began); waited > 0 {
			t.Errorf("it waits for the client for %s", waited) // crypto/tls would for five seconds
		}
	})
}

func TestPlain(t *testing.T) {
	for _, c := range []struct {
		addr   string
		others int
		want   bool
	}{
		{":6001", 0, false}, {":6001", 1, false}, {"127.0.0.1:6001", 0, false}, {"127.0.0.1:6001", 1, true}, {"localhost:1", 1, true},
		{"[::1]:6001", 2, true}, {"192.168.0.1:1", 1, false}, {"unix:/x", 0, true}, {"plain::80", 0, true}, {"plain:10.0.0.1:80", 1, true},
		{"tls:127.0.0.1:1", 1, false}, {"tcp:127.0.0.1:6001", 1, true}, {"tcp:[::]:6001", 1, false},
	} {
		if got := listen.Plain(c.addr, c.others); got != c.want {
			t.Errorf("%s beside %d others: plain: %t", c.addr, c.others, got)
		}
	}
}

// TestReady: it wants no new clients while it ends, or is short of memory.
func TestReady(t *testing.T) {
	s := startServer(t)
	ask := func(path string) (status int, text string) {
		w := httptest.NewRecorder()
		s.metricsHandler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	expect := func(path string, want int, text string) {
		t.Helper()
		if status, got := ask(path); status != want || got != text {
			t.Errorf("GET %s: %d %q, want %d %q", path, status, got, want, text)
		}
	}
	expect("/ready", 200, "ready")
	s.memory.Judge(s.memory.Limit)
	expect("/ready", 503, "short of memory")
	expect("/health", 200, "ok")
	s.memory.Judge(0)
	s.stop()
	expect("/ready", 503, "shutting down")
	expect("/health", 200, "ok")
}

// metricsPage is what GET /metrics answers.
func (s *server) metricsPage() string {
	w := httptest.NewRecorder()
	s.metricsHandler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// TestMetrics: the page says what has happened.
func TestMetrics(t *testing.T) {
	var fine atomic.Bool
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !fine.Load() {
			w.WriteHeader(500)
		}
	}))
	t.Cleanup(receiver.Close)
	defer fine.Store(true)
	s := startServer(t, "-id", `a"b\c`, "-webhook", receiver.URL+"/path?secret=x")
	a, b := connect(t, s.addr), connect(t, s.addr)
	a.join("private-x")
	b.join("private-x")
	a.send(`{"event":"client-e","channel":"private-x","data":"x"}`)
	b.expect(event("client-e", "private-x", "x"))
	call := func(body string) {
		r, _ := http.NewRequest("POST", signedURL(s.addr, "POST", "/apps/a%22b%5Cc/events", "", body), strings.NewReader(body))
		do(t, r)
	}
	call(`{"name":"e","channel":"private-x","data":"y"}`)
	call(`{"name":"e","channel":"nobody","data":"y"}`)
	call(`{"name":"e"}`)
	a.expect(event("e", "private-x", "y"))
	b.expect(event("e", "private-x", "y"))
	a.subscribeAs("private-z", "key:bad", "")
	a.text()
	a.text()
	b.leave()
	stranger := handshake(t, s.addr, "/app/none?protocol=7", "")
	stranger.text()
	stranger.expectClose(wire.CodeUnknownKey)
	waitUntil(t, "they have left", func() bool { return s.app.Connections() == 1 && s.app.webhooks().Stats()[0].Retried > 0 })
	waitUntil(t, "what they were sent and sent is counted", func() bool { return s.app.Counts.Sent.Load() >= 9 && s.app.Counts.Received.Load() >= 4 })
	page := s.metricsPage()
	const app = `{app_id="a\"b\\c"`
	for _, want := range []string{
		"# TYPE edge_connected gauge", "edge_connected" + app + "} 1", "edge_new_connections_total" + app + "} 2", "edge_new_disconnections_total" + app + "} 1",
		"edge_ws_messages_received_total" + app + "} 4",
		"edge_ws_messages_sent_total" + app + "} 9", // 2 established, 2 subscribed, 1 client event, 2 events, 1 refusal twice
		"edge_http_calls_received_total" + app + "} 3", "edge_events_published_total" + app + "} 2", "edge_client_events_total" + app + "} 1",
		"edge_events_unheard_total" + app + "} 1", "edge_channels" + app + "} 1", "edge_memory_tight 0", "edge_panics_total",
		`edge_refusals_total` + app + `,what="subscription",reason="AuthError"} 1`, `edge_refusals_total` + app + `,what="call",reason="400"} 1`,
		`what="connection",reason="4001"} 1`, `edge_slow_readers_cut_total` + app + `,reason="full"} 0`, `edge_key_uses_total` + app + `,key="key"} 5`,
		`edge_webhook_failing` + app + `,url="` + receiver.URL + `/path",receiver="1"} 1`, `edge_webhook_queue` + app, "process_start_time_seconds 1",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %s in\n%s", want, page)
		}
	}
	if strings.Contains(page, "secret=x") {
		t.Error("a webhook's query is in it")
	}
	var sent, received uint64 = s.app.SentBytes(), s.app.Conns.Received.Load()
	if !strings.Contains(page, fmt.Sprintf("edge_socket_transmitted_bytes%s} %d\n", app, sent)) || sent < 500 || received < 200 {
		t.Errorf("%d bytes sent, %d received", sent, received)
	}
}

// TestVerbose: everything is printed, frames too, and no signature.
func TestVerbose(t *testing.T) {
	var out syncBuffer
	s := startServer(t)
	s.logTo(&out)
	c := connect(t, s.addr)
	c.join("private-x")
	c.signIn(`{"id":"u1"}`)
	publish(t, s.addr, "private-x", "news", "hello")
	c.expect(event("news", "private-x", "hello"))
	apiCall(t, s.addr, "POST", "/apps/1/events", "", "{")
	c.send(`{"event":"pusher:unsubscribe","data":{"channel":"private-x"}}`)
	c.settled()
	c.leave()
	waitUntil(t, "it has left", func() bool { return gone(s.app) })
	text := out.String()
	for _, want := range []string{"connected socket=" + c.id, "received socket=", "sent socket=", `\"event\":\"news\"`, "subscribed socket=" + c.id + " channel=private-x",
		"signed in", "user=u1", "refused", "code=400", "unsubscribed", "disconnected", "client=127.0.0.1:", "pusher:signin_success"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	token := c.token("private-x", "")
	if signature := token[len("key:"):]; strings.Contains(text, signature) || strings.Contains(text, signature[:20]) {
		t.Errorf("a signature is printed:\n%s", text)
	}
}

// samplesTwice returns the samples of a page that stand on it twice, which Prometheus does not take.
func samplesTwice(page string) (twice []string) {
	seen := map[string]bool{}
	for line := range strings.Lines(page) {
		name := line[:strings.LastIndexByte(line, ' ')]
		if seen[name] && line[0] != '#' {
			twice = append(twice, name)
		}
		seen[name] = true
	}
	return twice
}

// TestMetricsOnce: whatever is configured, and configured again, each sample stands once, and nothing of apps that are gone stays.
func TestMetricsOnce(t *testing.T) {
	const one = `{"id": "1", "key": "one", "secret": "o", "webhook": ["http://127.0.0.1:1/h#prefix=a", "http://127.0.0.1:1/h#prefix=b"]}`
	const two = `{"id": "none", "key": "two", "secret": "t"}`
	file := edgetest.File(t, `{"apps": [`+one+`,`+two+`]}`)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := serveOptions(t, l, mustParse(t, nil, "EDGE_CONFIG="+file))
	for range 10 {
		if err := errors.Join(s.rewrite(t, file, `{"apps": [`+one+`]}`), s.rewrite(t, file, `{"apps": [`+one+`,`+two+`]}`)); err != nil {
			t.Fatal(err)
		}
	}
	if twice := samplesTwice(s.metricsPage()); twice != nil {
		t.Errorf("%d samples stand twice, like %s", len(twice), twice[0])
	}
	if n := len(s.allApps()); n > 4 {
		t.Errorf("%d apps are kept", n)
	}
}

// TestRevokedKey: a key that is gone is good for nothing, not even for what needs no app.
func TestRevokedKey(t *testing.T) {
	file := edgetest.File(t, `{"id": "1", "key": "one", "secret": "o"}`)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := serveOptions(t, l, mustParse(t, nil, "EDGE_CONFIG="+file))
	if err := s.rewrite(t, file, `{"id": "1", "key": "new", "secret": "n"}`); err != nil {
		t.Fatal(err)
	}
	if status, answer := (withKey{"one", "o"}).call(t, s.addr, "POST", "/users/u/terminate_connections", ""); status != 401 {
		t.Errorf("%d %s", status, answer)
	}
	if err := s.rewrite(t, file, `{"id": "1"}`); err == nil || !strings.Contains(err.Error(), "no key") {
		t.Errorf("a configuration without a key: %v", err)
	}
}

func TestHideSignatures(t *testing.T) {
	digits := strings.Repeat("0123456789abcdef", 4)
	for in, want := range map[string]string{
		"": "", "a": "a", digits: "…", `"` + digits + `"`: `"…"`, digits[1:]: digits[1:], digits + "0": "…0", "x" + digits + digits + "y": "x……y",
		digits[:32] + "-" + digits[32:]: digits[:32] + "-" + digits[32:],
	} {
		if got := string(channel.HideSignatures([]byte(in))); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
