package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/wire"
)

// visitor is a page of the console.
type visitor struct {
	t      testing.TB
	base   string // http://…/console
	cookie *http.Cookie
}

// SignIn opens the console with a secret.
func (s *testServer) signIn(t testing.TB, secret string) *visitor {
	t.Helper()
	v := &visitor{t: t, base: "http://" + s.addr + s.began.Path + "/console"}
	if status, answer := v.do("POST", "/login", fmt.Sprintf(`{"secret":%s}`, quote(secret))); status != 200 || answer != "{}" {
		t.Fatalf("login: %d %s", status, answer)
	}
	return v
}

// request makes a request with the session, if there is one.
func (v *visitor) request(method, path, body string, headers ...string) *http.Request {
	v.t.Helper()
	r, err := http.NewRequest(method, v.base+path, strings.NewReader(body))
	if err != nil {
		v.t.Fatal(err)
	}
	if method == "POST" {
		r.Header.Set("Content-Type", "application/json")
	}
	if v.cookie != nil {
		r.AddCookie(v.cookie)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

// do makes a request, keeps the cookie that it is given, and returns the answer, in which there must be no secret.
func (v *visitor) do(method, path, body string, headers ...string) (status int, answer string) {
	v.t.Helper()
	resp, err := http.DefaultClient.Do(v.request(method, path, body, headers...))
	if err != nil {
		v.t.Fatal(err)
	}
	if all := resp.Cookies(); len(all) > 0 {
		v.cookie = all[0]
	}
	status, answer = apiAnswer(v.t, resp)
	lookForSecret("an answer of the console", []byte(answer))
	return status, answer
}

// feedLine is one of a feed.
type feedLine struct {
	What, Socket, Client, Channel, Event, User, Reason, Data string
	At                                                       int64
	Code, Reached, Size, Count                               int
	Second                                                   []int
}

// feedReader is a feed that a test reads.
type feedReader struct {
	t     testing.TB
	body  io.ReadCloser
	lines *bufio.Scanner
}

// watch opens the feed.
func (v *visitor) watch() *feedReader {
	v.t.Helper()
	resp, err := http.DefaultClient.Do(v.request("GET", "/feed", ""))
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 {
		b, _ := io.ReadAll(resp.Body)
		v.t.Fatalf("feed: %s %s", resp.Status, b)
	}
	s := &feedReader{v.t, resp.Body, bufio.NewScanner(resp.Body)}
	s.lines.Buffer(nil, 1<<20)
	return s
}

// next reads a line; ok is false at the end.
func (s *feedReader) next() (l feedLine, ok bool) {
	s.t.Helper()
	if !s.lines.Scan() {
		return l, false
	}
	lookForSecret("the feed", s.lines.Bytes())
	if err := json.Unmarshal(s.lines.Bytes(), &l); err != nil {
		s.t.Fatalf("%v: %.300s", err, s.lines.Bytes())
	}
	return l, true
}

// find reads up to a line that is wanted.
func (s *feedReader) find(what string, wanted func(feedLine) bool) feedLine {
	s.t.Helper()
	tooLong := time.AfterFunc(patience, func() { s.body.Close() }) // there is a line every second
	defer tooLong.Stop()
	for {
		l, ok := s.next()
		if !ok {
			s.t.Fatalf("the feed has ended before %s", what)
		}
		if wanted(l) {
			return l
		}
	}
}

// end reads up to the end.
func (s *feedReader) end() {
	s.t.Helper()
	tooLong := time.AfterFunc(patience, func() { s.body.Close() })
	for ok := true; ok; {
		_, ok = s.next()
	}
	if !tooLong.Stop() {
		s.t.Error("the feed does not end")
	}
}

// TestConsoleOff: without the console there is nothing of it.
func TestConsoleOff(t *testing.T) {
	v := &visitor{t: t, base: "http://" + startServer(t, "-console=false").addr + "/console"}
	for path, method := range map[string]string{"": "GET", "/login": "POST", "/state": "GET", "/feed": "GET"} {
		if status, _ := v.do(method, path, `{"secret":"`+testSecret+`"}`); status != 404 {
			t.Errorf("%s /console%s: %d", method, path, status)
		}
	}
}

// TestConsoleLogin: who gets in, and who does not.
func TestConsoleLogin(t *testing.T) {
	right, wrong := `{"secret":"`+testSecret+`"}`, "This is not the secret of an app on this server\n"
	const elsewhere = "This request comes from another page than the console\n"
	for _, c := range []struct {
		desc, body string
		headers    []string
		status     int
		want       string
	}{
		{"the secret", right, nil, 200, "{}"},
		{"that of another key", `{"secret":"second","app":null}`, nil, 200, "{}"},
		{"that of an app without it", `{"secret":"second","app":"key"}`, nil, 403, wrong},
		{"the same, escaped", `{"secret":"sec\u006fnd"}`, nil, 200, "{}"},
		{"from the page", right, []string{"Sec-Fetch-Site", "same-origin"}, 200, "{}"},
		{"a wrong one", `{"secret":"wrong"}`, nil, 403, wrong},
		{"the beginning of it", `{"secret":"` + testSecret[:10] + `"}`, nil, 403, wrong},
		{"none", `{"secret":""}`, nil, 403, wrong},
		{"no link was made", `{"once":""}`, nil, 403, wrong},
		{"a link that is not good", `{"once":"x"}`, nil, 403, "This link has been used or has expired\n"},
		{"a key's name", `{"secret":"key"}`, nil, 403, wrong},
		{"a number", `{"secret":1}`, nil, 400, "Invalid request body: json: cannot unmarshal number into Go value of type string\n"},
		{"no JSON", `secret=x`, nil, 400, "Invalid request body: invalid character 's' looking for beginning of value\n"},
		{"too long", `{"secret":"` + strings.Repeat("x", 4096) + `"}`, nil, 413,
			"The request body exceeds the allowed maximum (4096 bytes)\n"},
		{"a form", right, []string{"Content-Type", "text/plain"}, 415, "Send application/json\n"},
		{"another page", right, []string{"Sec-Fetch-Site", "cross-site"}, 403, elsewhere},
		{"another port", right, []string{"Sec-Fetch-Site", "same-site"}, 403, elsewhere},
		{"another origin", right, []string{"Origin", "http://127.0.0.1:1"}, 403, elsewhere},
	} {
		s := startServer(t, "-more-keys", "other:second") // of its own, so that no guess is used up
		v := &visitor{t: t, base: "http://" + s.addr + "/console"}
		status, answer := v.do("POST", "/login", c.body, c.headers...)
		if status != c.status || answer != c.want {
			t.Errorf("%s: %d %s", c.desc, status, answer)
		}
		if state, _ := v.do("GET", "/state", ""); (status == 200) != (state == 200) || (status == 200) != (v.cookie != nil) {
			t.Errorf("%s: then %d, cookie %v", c.desc, state, v.cookie)
		}
		s.stop()
	}
}

// TestConsoleSession: what needs a session, and when it ends.
func TestConsoleSession(t *testing.T) {
	s := startServer(t)
	v, other := s.signIn(t, testSecret), s.signIn(t, testSecret)
	if len(v.cookie.Value) != 64 || v.cookie.Value == other.cookie.Value {
		t.Errorf("%s and %s", v.cookie, other.cookie)
	}
	feed := v.watch()
	for _, path := range []string{"/logout", "/trigger", "/terminate"} {
		for status, headers := range map[int][]string{
			403: {"Origin", "http://elsewhere.example"}, 415: {"Content-Type", "application/x-www-form-urlencoded"}, 401: {"Cookie", ""},
		} {
			if got, answer := v.do("POST", path, `{}`, headers...); got != status {
				t.Errorf("%s with %v: %d %s", path, headers, got, answer)
			}
		}
	}
	for _, path := range []string{"/state", "/feed"} {
		status, answer := v.do("GET", path, "", "Cookie", v.cookie.Name+"="+strings.Repeat("0", 64))
		if status != 401 {
			t.Errorf("%s with another cookie: %d %s", path, status, answer)
		}
	}
	if status, answer := v.do("POST", "/logout", "{}"); status != 200 {
		t.Errorf("logout: %d %s", status, answer)
	}
	feed.end()
	for v, want := range map[*visitor]int{v: 401, other: 200} {
		if status, _ := v.do("GET", "/state", ""); status != want {
			t.Errorf("after logging out: %d, want %d", status, want)
		}
	}
}

// TestConsoleBehindPrefix: a proxy may have something before the path, and keep it to itself.
func TestConsoleBehindPrefix(t *testing.T) {
	target, _ := url.Parse("http://" + startServer(t).addr)
	proxy := httptest.NewServer(http.StripPrefix("/edge", httputil.NewSingleHostReverseProxy(target)))
	defer proxy.Close()
	jar, _ := cookiejar.New(nil)
	browser := http.Client{Jar: jar}
	v := &visitor{t: t, base: proxy.URL + "/edge/console"}
	for _, step := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/", "", 200}, {"POST", "/login", `{"secret":"` + testSecret + `"}`, 200}, {"GET", "/state", "", 200},
		{"POST", "/logout", "{}", 200}, {"GET", "/state", "", 401},
	} {
		resp, err := browser.Do(v.request(step.method, step.path, step.body))
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != step.status {
			t.Errorf("%s: %s", step.path, resp.Status)
		}
		if all := jar.Cookies(target.JoinPath("/edge")); len(all) > 0 {
			t.Errorf("the cookie is sent elsewhere too: %v", all)
		}
	}
	page, _ := url.Parse(v.base + "/state")
	if all := jar.Cookies(page); len(all) > 0 {
		t.Errorf("the cookie stays: %v", all)
	}
}

// TestConsoleApps: a session sees the app whose secret it was begun with, and ends with that secret.
func TestConsoleApps(t *testing.T) {
	file := edgetest.File(t, `{"apps": [{"id": "1", "key": "one", "secret": "o"}, {"id": "2", "key": "two", "secret": "t", "more-keys": "three:same"}, {"id": "4", "key": "four", "secret": "same"}]}`)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := serveOptions(t, l, mustParse(t, []string{"-dev-auth"}, "EDGE_CONFIG="+file))
	one, two := s.signIn(t, "o"), s.signIn(t, "t")
	c1, c2 := connectTo(t, s.addr, "one"), connectTo(t, s.addr, "two")
	c1.join("of-one")
	c2.join("of-two")
	c2.settled() // or that it has subscribed might be told only now
	feed := two.watch()
	for v, want := range map[*visitor][3]string{one: {`"app":"1"`, `"key":"one"`, "of-two"}, two: {`"app":"2"`, `"key":"two"`, "of-one"}} {
		status, answer := v.do("GET", "/state?channel="+want[2], "")
		if status != 200 || !strings.Contains(answer, want[0]) || !strings.Contains(answer, want[1]) || strings.Contains(answer, want[2]) {
			t.Errorf("%d %s", status, answer)
		}
	}
	one.do("POST", "/terminate", `{"socket":"`+c2.id+`"}`) // of another app, which it does not see
	one.do("POST", "/trigger", `{"channel":"of-two","name":"e","data":"x"}`)
	unknown := handshake(t, s.addr, "/app/none?protocol=7", "")
	unknown.text()
	unknown.expectClose(wire.CodeUnknownKey)
	for _, path := range []string{"/apps/9/channels/of-one", "/apps/1/channels/of-one?%zz", "/apps/1/channels/of-one"} {
		resp, err := http.Get("http://" + s.addr + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if resp, err := http.Post("http://"+s.addr+"/pusher/auth?key=none", "application/x-www-form-urlencoded", strings.NewReader("socket_id=1.2&channel_name=private-of-one")); err == nil {
		resp.Body.Close()
	}
	c2.settled()
	two.do("POST", "/trigger", `{"channel":"of-two","name":"e","data":"x"}`)
	c2.expect(event("e", "of-two", "x"))
	for i, want := range []feedLine{ // what names no app is told to all, without what may be another's
		{What: "refused", Code: wire.CodeUnknownKey, Reason: "App key none does not exist on this server"},
		{What: "refused", Code: 404, Event: "GET", Reason: `Unknown app id "9"`},
		{What: "refused", Code: 403, Event: "POST", Reason: `there is no app with the key "none"`},
		{What: "event", Reached: 1, Channel: "of-two", Event: "e", Data: "x"},
	} {
		l := feed.find("a line", func(l feedLine) bool { return l.What != "second" })
		l.At, l.Socket, l.Client = 0, "", ""
		if fmt.Sprint(l) != fmt.Sprint(want) {
			t.Errorf("line %d of the second app is %+v, want %+v", i, l, want)
		}
	}

	// Apps with the same secret: the first one, or the one that is named.
	both := &visitor{t: t, base: one.base}
	for _, test := range []struct {
		app    string
		status int
		want   string
	}{{"", 200, `"key":"three"`}, {"1", 403, ""}, {"2", 200, `"key":"three"`}, {"four", 200, `"key":"four"`}, {"4", 200, `"app":"4"`}} {
		status, _ := both.do("POST", "/login", `{"secret":"same","app":"`+test.app+`"}`)
		if _, answer := both.do("GET", "/state", ""); status != test.status || !strings.Contains(answer, test.want) {
			t.Errorf("app %q: %d %s", test.app, status, answer)
		}
	}

	// A secret is changed, an app goes.
	if err := s.rewrite(t, file, `{"apps": [{"id": "1", "key": "one", "secret": "o"}, {"id": "2", "key": "two", "secret": "changed", "more-keys": "three:same"}]}`); err != nil {
		t.Fatal(err)
	}
	feed.end()
	for i, v := range []*visitor{one, two, both} {
		if status, _ := v.do("GET", "/state", ""); status != []int{200, 401, 401}[i] {
			t.Errorf("session %d: %d", i, status)
		}
	}
}

// TestConsoleFeed: there is a line for everything that happens, with the reason where there is one, and no signature
// in any.
func TestConsoleFeed(t *testing.T) {
	var failed atomic.Bool
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" && !failed.Swap(true) {
			w.WriteHeader(503)
		}
	}))
	t.Cleanup(receiver.Close)
	s := startServer(t, "-id", "1", "-send-buffer", "65536", "-webhook", receiver.URL+"/good#events=channel_occupied&prefix=private-hooked",
		"-webhook", receiver.URL+"/bad?password=x#events=channel_occupied&prefix=private-hooked")
	v := s.signIn(t, testSecret)
	feed := v.watch()
	want := func(desc string, wanted feedLine) feedLine {
		t.Helper()
		got := feed.find(desc, func(l feedLine) bool {
			return l.What == wanted.What && (wanted.Channel == "" || l.Channel == wanted.Channel) &&
				(wanted.Socket == "" || l.Socket == wanted.Socket) && strings.Contains(l.Reason, wanted.Reason)
		})
		if got.At == 0 || got.Code != wanted.Code || got.Reached != wanted.Reached || wanted.User != got.User ||
			wanted.Event != "" && got.Event != wanted.Event || wanted.Data != "" && wanted.Data != got.Data {
			t.Errorf("%s: got %+v\nwant %+v", desc, got, wanted)
		}
		return got
	}
	c := connect(t, s.addr)
	if l := want("a connection", feedLine{What: "connected", Socket: c.id}); !strings.HasPrefix(l.Client, "127.0.0.1:") {
		t.Errorf("from %s", l.Client)
	}
	c.join("private-hooked")
	first := map[string]feedLine{} // of each Client; they come in any order
	for len(first) < 3 {
		l := feed.find("a subscription and both receivers", func(l feedLine) bool { return l.What == "subscribed" || strings.HasPrefix(l.What, "webhook") })
		if _, ok := first[l.Client]; !ok {
			first[l.Client] = l
		}
	}
	if l := first[""]; l.What != "subscribed" || l.Channel != "private-hooked" || l.Socket != c.id || l.At == 0 {
		t.Errorf("%+v", l)
	}
	if l := first[receiver.URL+"/good"]; l.What != "webhook delivered" || l.Reached != 1 || !strings.Contains(l.Data, "channel_occupied") {
		t.Errorf("%+v", l)
	}
	if l := first[receiver.URL+"/bad"]; l.What != "webhook failed" || !strings.Contains(l.Reason, "503") {
		t.Errorf("%+v", l)
	}
	c.subscribe("presence-room", `{"user_id":"u1"}`)
	c.text()
	want("a member", feedLine{What: "subscribed", Channel: "presence-room", User: "u1"})
	c.signIn(`{"id":"u1"}`)
	want("signing in", feedLine{What: "signed in", User: "u1", Socket: c.id})

	digits := strings.Repeat("0123456789abcdef", 4)
	c.subscribeAs("private-refused", "key:"+digits, "")
	l := want("a refused subscription", feedLine{What: "refused", Channel: "private-refused", Socket: c.id, Code: 401, Reason: "Invalid signature: Expected HMAC SHA256 hex digest of " + c.id + ":private-refused, but got …"})
	if strings.Contains(l.Reason, digits[:32]) {
		t.Errorf("a signature is shown: %s", l.Reason)
	}
	c.send(`{"event":"client-x","channel":"room","data":{}}`)
	want("a refused message", feedLine{What: "refused", Channel: "room", Reason: "only supported on private"})
	unknown := handshake(t, s.addr, "/app/unknown?protocol=7", "")
	want("a refused connection", feedLine{What: "refused", Code: 4001, Reason: "App key unknown does not exist"})
	unknown.conn.Close()
	apiCall(t, s.addr, "POST", "/apps/1/events", "", "{")
	want("a refused call", feedLine{What: "refused", Event: "POST /apps/1/events", Code: 400, Reason: "Invalid request body"})

	publish(t, s.addr, "private-hooked", "news", `{"a":"\u00e4 <b>"}`)
	want("an event", feedLine{What: "event", Channel: "private-hooked", Event: "news", Reached: 1, Data: `{"a":"\u00e4 <b>"}`})
	want("the call", feedLine{What: "call", Event: "POST /apps/1/events", Code: 200})
	publish(t, s.addr, "nowhere", "news", "{}")
	want("an event that reaches nobody", feedLine{What: "event", Channel: "nowhere", Reached: 0, Reason: "nobody subscribes to the channel"})
	c.send(`{"event":"client-x","channel":"presence-room","data":{"b":1}}`)
	want("a client event that reaches nobody", feedLine{What: "client event", Channel: "presence-room", Event: "client-x", User: "u1", Socket: c.id, Data: `{"b":1}`, Reason: "nobody but the sender subscribes"})
	big := strings.Repeat("ä", 5120)
	publish(t, s.addr, "private-hooked", "big", big)
	want("a large event", feedLine{What: "event", Channel: "private-hooked", Event: "big", Reached: 1, Data: big})

	stuck := connect(t, s.addr) // reads nothing from now on
	stuck.join("flood")
	for there := true; s.app.Conns.Cuts[conn.CutFull].Load() == 0; there = s.app.ChannelInfo("flood").Subscriptions > 0 {
		if !there {
			t.Fatal("the slow reader has left, but its queue was not full")
		}
		publish(t, s.addr, "flood", "wave", strings.Repeat("x", 10_000))
	}
	want("a slow reader", feedLine{What: "cut", Socket: stuck.id, Reason: "its queue was full (-send-buffer)"})
	want("its end", feedLine{What: "disconnected", Socket: stuck.id})
	c.send(`{"event":"pusher:unsubscribe","data":{"channel":"private-hooked"}}`)
	want("an end of a subscription", feedLine{What: "unsubscribed", Channel: "private-hooked", Socket: c.id})
	s.app.Terminate("u1")
	want("being terminated", feedLine{What: "closed", Socket: c.id, Code: 4009, Reason: "You got disconnected by the app."})
	c.leave()
	want("the end", feedLine{What: "disconnected", Socket: c.id})
}

// TestConsoleState: what there is, in bounded lists.
func TestConsoleState(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := serveOptions(t, l, mustParse(t, nil, "EDGE_KEY=key", "EDGE_SECRET="+testSecret)) // which is nothing to warn of
	v := s.signIn(t, testSecret)
	expect := func(query string, wanted ...string) {
		t.Helper()
		_, answer := v.do("GET", "/state"+query, "")
		for _, want := range wanted {
			if !regexp.MustCompile(want).MatchString(answer) {
				t.Errorf("%s: no %s in %s", query, want, answer)
			}
		}
	}
	expect("?channel=none", `^{"app":"","channels":{"all":0,"rows":\[\]},"connections":{"all":0,"rows":\[\]},`, `"warnings":\[\]}$`)
	a, b, c := connect(t, s.addr), connect(t, s.addr), connect(t, s.addr)
	const mostRows = 200 // that are listed
	for i := range mostRows + 5 {
		a.join(fmt.Sprintf("room-%03d", i))
	}
	for i, member := range []*peer{a, b, c} {
		member.subscribe("presence-x", fmt.Sprintf(`{"user_id":"u%d","user_info":{"n":%d}}`, min(i, 1), i))
		member.text()
	}
	b.signIn(`{"id":"ada@x"}`)
	publish(t, s.addr, "cache-x", "e", "{}")
	sockets := s.app.AllSockets()
	for _, socket := range sockets { // it may still be being served, and then nothing is said of it: see below
		waitUntil(t, "it is not being served", func() bool { return socket.Mu.TryLock() })
		socket.Mu.Unlock()
	}
	row := func(c *peer, user string, channels int) string {
		return fmt.Sprintf(`{"age":\d+,"channels":%d,"from":"127.0.0.1:\d+","socket":"%s","user":"%s"}`, channels, c.id, user)
	}
	all := []string{row(c, "", 1), row(b, "ada@x", 1), row(a, "", mostRows+6)} // the newest first
	expect("?channel=presence-x",
		`"channel":{"all":2,"members":\[{"connections":1,"info":{"n":0},"user":"u0"},`+
			`{"connections":2,"info":{"n":1},"user":"u1"}\],"name":"presence-x"}`,
		`"channels":{"all":207,"rows":\[{"cached":true,"name":"cache-x","subscriptions":0},`+
			`{"cached":false,"members":2,"name":"presence-x","subscriptions":3},`+
			`{"cached":false,"name":"room-000","subscriptions":1},.*"name":"room-197","subscriptions":1}\]}`,
		`"connections":{"all":3,"rows":\[`+strings.Join(all, ",")+`\]}`)
	expect("?channels=room-20&connections=ada@&channel=room-001", `"channels":{"all":5,`,
		`"connections":{"all":1,"rows":\[`+all[1]+`\]}`, `"channel":{"all":1,"name":"room-001","sockets":\["`+a.id+`"\]}`)

	for _, socket := range sockets { // a connection that is just being served holds up nobody
		socket.Mu.Lock()
	}
	expect("", `"connections":{"all":3,"rows":\[`+row(c, "", 0))
	for _, socket := range sockets {
		socket.Mu.Unlock()
	}
}

// TestConsoleTrigger: the creator's events are judged as the API's are.
func TestConsoleTrigger(t *testing.T) {
	s := startServer(t)
	v := s.signIn(t, testSecret)
	c := connect(t, s.addr)
	c.join("room")
	for _, test := range []struct {
		body   string
		status int
		want   string
	}{
		{`{"channel":"room","name":"e","data":"{\"a\":1}"}`, 200, `{"reached":1}`},
		{`{"channels":["room","void"],"name":"e","data":"{\"a\":1}"}`, 200, `{"reached":1}`},
		{`{"channel":"void","name":"e","data":""}`, 200, `{"reached":0}`},
		{`{"channel":"no room","name":"e","data":""}`, 400, "Invalid channel name: \"no room\"\n"},
		{`[]`, 400, "Invalid request body: expected an object\n"},
		{`{}`, 400, "Missing required parameter: name\n"},
		{`{"channel":"room","name":"e","data":"` + strings.Repeat("x", 10241) + `"}`, 413,
			"The data content of this event exceeds the allowed maximum (10240 bytes)"},
	} {
		if status, answer := v.do("POST", "/trigger", test.body); status != test.status || !strings.HasPrefix(answer, test.want) {
			t.Errorf("%.100s: %d %s", test.body, status, answer)
		}
	}
	c.expect(event("e", "room", `{"a":1}`), event("e", "room", `{"a":1}`))
	c.settled()
}

// TestConsoleTerminate: a user, a member or a connection goes, and nobody else.
func TestConsoleTerminate(t *testing.T) {
	s := startServer(t)
	v := s.signIn(t, testSecret)
	var all []*peer
	for i := range 5 {
		c := connect(t, s.addr)
		c.join("room")
		c.subscribe("presence-x", fmt.Sprintf(`{"user_id":"m%d"}`, min(i, 3)))
		c.text()
		if all = append(all, c); i == 0 {
			c.signIn(`{"id":"u"}`)
		}
	}
	for _, test := range []struct{ body, want string }{
		{`{"user":"u"}`, `{"closed":1}`},
		{`{"user":"m3"}`, `{"closed":0}`}, // it is not signed in
		{`{"user":"m3","channel":"room"}`, `{"closed":0}`},
		{`{"user":"m3","channel":"presence-x"}`, `{"closed":2}`},
		{`{"socket":"` + all[1].id + `"}`, `{"closed":1}`},
		{`{"socket":"1.1","channel":"room"}`, `{"closed":0}`},
		{`{"socket":"x","channel":"room"}`, "Say who: a user or a socket\n"},
	} {
		if _, answer := v.do("POST", "/terminate", test.body); answer != test.want {
			t.Errorf("%s: %s", test.body, answer)
		}
	}
	for _, i := range []int{0, 1, 3, 4} {
		for code, text := byte(0), []byte(nil); code != conn.OpClose; {
			if code, text = all[i].frame(); code == conn.OpClose && !bytes.Contains(text, []byte("You got disconnected by the app.")) {
				t.Errorf("%d: %s", i, text)
			}
		}
	}
	waitUntil(t, "they have left", func() bool { return s.app.Connections() == 1 })
}

// TestFeedSeconds: pages get the counts of every second for as long as they are open, whatever time the server gives
// to requests, and do not hold up its end.
func TestFeedSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dial, stop := stoppableInBubble(t)
		a := s.apps.Load().all[0]
		a.Counts.Sent.Add(1000) // before anybody looks
		pages := []*feedReader{s.watchOver(t, dial()), s.watchOver(t, dial())}
		a.Counts.Sent.Add(5)
		a.Counts.Received.Add(2)
		a.Trigger("void", wire.KindPublic, channel.Event{Name: []byte("e"), Data: benchData, Keep: true})
		for i := range 300 {
			for _, f := range pages {
				l, ok := f.next()
				if i == 0 && l.What == channel.NoticeEvent {
					l, ok = f.next()
				}
				want := []int{0, 0, 0, 0, 0}
				if i == 0 {
					want = []int{0, 2, 5, 1, 1}
				}
				if !ok || l.What != "second" || !slices.Equal(l.Second, want) {
					t.Fatalf("second %d: %t %+v", i, ok, l)
				}
			}
		}
		var reading sync.WaitGroup
		for _, f := range pages {
			reading.Go(f.end)
		}
		began := time.Now()
		stop()
		if took := time.Since(began); took >= requestsTimeout {
			t.Errorf("the end took %s", took)
		}
		reading.Wait()
		if s.apps.Load().all[0].Observes(^channel.Kinds(0)) {
			t.Error("somebody watches")
		}
		s.console.End() // again
	})
}

// watchOver opens a feed over a connection.
func (s *server) watchOver(t *testing.T, conn net.Conn) *feedReader {
	t.Helper()
	in, body := bufio.NewReader(conn), `{"secret":"`+testSecret+`"}`
	fmt.Fprintf(conn, "POST /console/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		len(body), body)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	io.Copy(io.Discard, resp.Body)
	fmt.Fprintf(conn, "GET /console/feed HTTP/1.1\r\nHost: x\r\nCookie: %s\r\n\r\n", resp.Cookies()[0])
	if resp, err = http.ReadResponse(in, nil); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	return &feedReader{t, resp.Body, bufio.NewScanner(resp.Body)}
}

// TestConsoleTogether: pages come and go, sign in and out while everything happens.
func TestConsoleTogether(t *testing.T) {
	s := startServer(t)
	var done atomic.Bool
	var busy, pages sync.WaitGroup
	for i := range 3 {
		busy.Go(func() {
			for j := 0; !done.Load(); j++ {
				publish(t, s.addr, "room", "e", "{}")
				c := connect(t, s.addr)
				c.subscribe("presence-room", fmt.Sprintf(`{"user_id":"u%d-%d"}`, i, j))
				c.conn.Close()
			}
		})
	}
	for range 2 {
		pages.Go(func() {
			for range 10 {
				v := s.signIn(t, testSecret)
				f := v.watch()
				f.find("an event", func(l feedLine) bool { return l.What == "event" })
				v.do("GET", "/state?channel=presence-room", "")
				v.do("POST", "/logout", "{}")
				f.end()
			}
		})
	}
	pages.Wait()
	done.Store(true)
	busy.Wait()
	waitUntil(t, "nobody watches", func() bool { return !s.app.Observes(^channel.Kinds(0)) })
}
