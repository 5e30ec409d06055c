package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// visitor is a page of the console.
type visitor struct {
	t      testing.TB
	base   string // http://…/console
	cookie *http.Cookie
}

// signIn opens the console with a secret.
func (s *testServer) signIn(t testing.TB, secret string) *visitor {
	t.Helper()
	v := &visitor{t: t, base: "http://" + s.addr + s.began.path + "/console"}
	if status, answer := v.login(fmt.Sprintf(`{"secret":%s}`, quote(secret))); status != 200 || answer != "{}" {
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

// do makes a request and returns the answer, in which there must be no secret.
func (v *visitor) do(method, path, body string, headers ...string) (status int, answer string) {
	v.t.Helper()
	return do(v.t, v.request(method, path, body, headers...))
}

func (v *visitor) login(body string, headers ...string) (status int, answer string) {
	v.t.Helper()
	resp, err := http.DefaultClient.Do(v.request("POST", "/login", body, headers...))
	if err != nil {
		v.t.Fatal(err)
	}
	if all := resp.Cookies(); len(all) > 0 {
		v.cookie = all[0]
	}
	return apiAnswer(v.t, resp)
}

// feedLine is one of a feed.
type feedLine struct {
	What, Socket, From, Channel, Event, User, Reason, Data string
	At                                                     int64
	Code, Reached, Size, Count                             int
	Seconds                                                [][]int
	Second                                                 []int
}

// feedReader is a feed that a test reads.
type feedReader struct {
	t     testing.TB
	body  io.ReadCloser
	lines *bufio.Scanner
}

// watch opens the feed and reads its first line.
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
	s.find("the history", func(l feedLine) bool { return l.What == "history" })
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
	tooLong := time.AfterFunc(patience, func() {
		s.t.Error("the feed does not end")
		s.body.Close()
	})
	defer tooLong.Stop()
	for ok := true; ok; {
		_, ok = s.next()
	}
}

// TestConsolePage: the page is small, whole, and allowed to run nothing but what is in it.
func TestConsolePage(t *testing.T) {
	s := startServer(t, "-path", "/edge")
	resp, err := http.Get("http://" + s.addr + "/edge/console/") // is sent to the address without the slash
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	page := string(b)
	if resp.StatusCode != 200 || resp.Request.URL.Path != "/edge/console" || page != consolePage || len(page) >= 60<<10 {
		t.Errorf("%s %s: %d bytes", resp.Request.URL, resp.Status, len(page))
	}
	policy := resp.Header.Get("Content-Security-Policy")
	for _, element := range []string{"script", "style"} {
		found := regexp.MustCompile(`(?s)<`+element+`[^>]*>(.*?)</`+element+`>`).FindAllStringSubmatch(page, -1)
		if len(found) != 1 {
			t.Fatalf("%d elements %s", len(found), element)
		}
		sum := sha256.Sum256([]byte(found[0][1]))
		if want := element + "-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "';"; !strings.Contains(policy, want) {
			t.Errorf("no %s in %s", want, policy)
		}
	}
	for _, want := range []string{"default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("no %s in %s", want, policy)
		}
	}
	if strings.Contains(policy, "unsafe") {
		t.Error(policy)
	}
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "Content-Type": "text/html; charset=utf-8"} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if bad := regexp.MustCompile(`https?://|innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function|localStorage|crypto\.|<[^>]* on[a-z]+=|<[^>]* style=`).FindString(page); bad != "" {
		t.Errorf("%s in the page", bad)
	}
}

// TestConsoleOff: without the console there is nothing of it.
func TestConsoleOff(t *testing.T) {
	s := startServer(t, "-console=false")
	for _, path := range []string{"", "/login", "/state", "/feed"} {
		v := &visitor{t: t, base: "http://" + s.addr + "/console"}
		if status, _ := v.do("GET", path, ""); status != 404 {
			t.Errorf("GET /console%s: %d", path, status)
		}
	}
	if status, _ := (&visitor{t: t, base: "http://" + s.addr + "/console"}).login(`{"secret":"` + testSecret + `"}`); status != 404 {
		t.Errorf("login: %d", status)
	}
}

// TestConsoleLogin: who gets in, and who does not.
func TestConsoleLogin(t *testing.T) {
	right := `{"secret":"` + testSecret + `"}`
	for _, c := range []struct {
		desc, body string
		headers    []string
		status     int
		want       string
	}{
		{"the secret", right, nil, 200, "{}"},
		{"that of another key", `{"secret":"second"}`, nil, 200, "{}"},
		{"the same, escaped", `{"secret":"sec\u006fnd"}`, nil, 200, "{}"},
		{"from the page", right, []string{"Sec-Fetch-Site", "same-origin"}, 200, "{}"},
		{"a wrong one", `{"secret":"wrong"}`, nil, 403, "This is not the secret of an app on this server\n"},
		{"the beginning of it", `{"secret":"` + testSecret[:10] + `"}`, nil, 403, "This is not the secret of an app on this server\n"},
		{"none", `{"secret":""}`, nil, 403, "This is not the secret of an app on this server\n"},
		{"nothing", `{}`, nil, 403, "This is not the secret of an app on this server\n"},
		{"no link was made", `{"once":""}`, nil, 403, "This is not the secret of an app on this server\n"},
		{"a link that is not good", `{"once":"x"}`, nil, 403, "This link has been used or has expired\n"},
		{"a key's name", `{"secret":"key"}`, nil, 403, "This is not the secret of an app on this server\n"},
		{"a number", `{"secret":1}`, nil, 400, "\"secret\" must be a string\n"},
		{"twice", `{"secret":"a","secret":"` + testSecret + `"}`, nil, 400, "Invalid request body: \"secret\" stands twice\n"},
		{"no JSON", `secret=x`, nil, 400, "Invalid request body: invalid character 's' looking for beginning of value\n"},
		{"too long", `{"secret":"` + strings.Repeat("x", loginSize) + `"}`, nil, 413, "The request body exceeds the allowed maximum (4096 bytes)\n"},
		{"a form", right, []string{"Content-Type", "text/plain"}, 415, "Send application/json\n"},
		{"another page", right, []string{"Sec-Fetch-Site", "cross-site"}, 403, "This request comes from another page than the console\n"},
		{"another port", right, []string{"Sec-Fetch-Site", "same-site"}, 403, "This request comes from another page than the console\n"},
		{"another origin", right, []string{"Origin", "http://127.0.0.1:1"}, 403, "This request comes from another page than the console\n"},
	} {
		s := startServer(t, "-more-keys", "other:second") // of its own, so that no guess is used up
		v := &visitor{t: t, base: "http://" + s.addr + "/console"}
		status, answer := v.login(c.body, c.headers...)
		if status != c.status || answer != c.want {
			t.Errorf("%s: %d %s", c.desc, status, answer)
		}
		if state, _ := v.do("GET", "/state", ""); (status == 200) != (state == 200) || (status == 200) != (v.cookie != nil) {
			t.Errorf("%s: then %d, cookie %v", c.desc, state, v.cookie)
		}
		s.stop()
	}
}

// TestConsoleLink: the link opens the console once, for an hour.
func TestConsoleLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(processStart)) // see startInBubble
		c := testOptions(t).server(t).console
		enter := func(link string) error {
			_, err := c.begin(0, "", strings.TrimPrefix(link, "#once="), "")
			return err
		}
		link := c.link()
		if len(link) != len("#once=")+64 {
			t.Errorf("%s", link)
		}
		if err := enter(link + "0"); err == nil {
			t.Error("another token opens it")
		}
		time.Sleep(linkTime - time.Second)
		if err := enter(link); err != nil {
			t.Error(err)
		}
		if err := enter(link); err == nil {
			t.Error("it opens it twice")
		}
		link = c.link()
		time.Sleep(linkTime)
		if err := enter(link); err == nil {
			t.Error("it opens it after its time")
		}
	})
}

// TestConsoleGuessing: wrong secrets are slowed down, the right one only where they come from, and never for long.
func TestConsoleGuessing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(processStart)) // see startInBubble
		c := testOptions(t).server(t).console
		status := func(place uint64, secret string) int {
			_, err := c.begin(place, secret, "", "")
			if err == nil {
				return 200
			}
			return err.(*apiError).status
		}
		for range 100 {
			if got := status(0, testSecret); got != 200 {
				t.Fatalf("a right secret: %d", got)
			}
		}
		wrong := map[int]int{}
		for range 1000 {
			wrong[status(0, "wrong")]++
		}
		if wrong[403] != guessBurst || wrong[429] != 1000-guessBurst {
			t.Errorf("at once: %v", wrong)
		}
		if got := status(0, testSecret); got != 429 {
			t.Errorf("the right one meanwhile: %d, so that a guess can be told from no guess", got)
		}
		if got := status(1, testSecret); got != 200 {
			t.Errorf("from another place: %d", got)
		}
		time.Sleep(time.Second)
		if got := status(0, testSecret); got != 200 {
			t.Errorf("a second later: %d", got)
		}
		clear(wrong)
		for range 100 * 60 {
			wrong[status(0, "wrong")]++
			time.Sleep(10 * time.Millisecond)
		}
		if wrong[403] < 55 || wrong[403] > 65 {
			t.Errorf("in a minute %d guesses", wrong[403])
		}
		if n := len(c.sessions); n != mostSessions {
			t.Errorf("%d sessions", n)
		}
	})
}

// TestConsoleAddress: guesses count for who makes them, also behind a proxy.
func TestConsoleAddress(t *testing.T) {
	c := testOptions(t, "-trusted-proxies", "10.0.0.1,unix").server(t).console
	for _, test := range []struct{ remote, forwarded, want string }{
		{"10.0.0.9:1", "", "10.0.0.9"}, {"10.0.0.9:1", "1.2.3.4", "10.0.0.9"}, {"10.0.0.1:1", "1.2.3.4", "1.2.3.4"}, {"[::1]:5", "", "::1"}, {"@", "1.2.3.4", "1.2.3.4"}, {"@", "", ""},
	} {
		r := httptest.NewRequest("POST", "/console/login", nil)
		if r.RemoteAddr = test.remote; test.forwarded != "" {
			r.Header.Set("X-Forwarded-For", test.forwarded)
		}
		if got := c.address(r); got != test.want {
			t.Errorf("%v: %q", test, got)
		}
	}
}

// TestConsoleSession: what the cookie is like, and when the session ends.
func TestConsoleSession(t *testing.T) {
	s := startServer(t)
	v := s.signIn(t, testSecret)
	_, port, _ := net.SplitHostPort(s.addr)
	if c := v.cookie; !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "" || c.Secure || c.Name != "edge-console-"+port || len(c.Value) != 64 || c.MaxAge != 0 || !c.Expires.IsZero() {
		t.Errorf("%s", v.cookie)
	}
	behind := &visitor{t: t, base: v.base}
	if behind.login(`{"secret":"`+testSecret+`"}`, "X-Forwarded-Proto", "https"); !behind.cookie.Secure {
		t.Errorf("behind TLS: %s", behind.cookie)
	}
	feed := v.watch()
	for _, path := range []string{"/logout", "/trigger", "/terminate"} {
		for status, headers := range map[int][]string{403: {"Origin", "http://elsewhere.example"}, 415: {"Content-Type", "application/x-www-form-urlencoded"}, 401: {"Cookie", ""}} {
			if got, answer := v.do("POST", path, `{}`, headers...); got != status {
				t.Errorf("%s with %v: %d %s", path, headers, got, answer)
			}
		}
	}
	for _, path := range []string{"/state", "/feed"} {
		if status, answer := v.do("GET", path, "", "Cookie", v.cookie.Name+"="+strings.Repeat("0", 64)); status != 401 {
			t.Errorf("%s with another cookie: %d %s", path, status, answer)
		}
	}
	resp, err := http.DefaultClient.Do(v.request("POST", "/logout", "{}"))
	if err != nil {
		t.Fatal(err)
	}
	if status, answer := apiAnswer(t, resp); status != 200 || len(resp.Cookies()) != 1 || resp.Cookies()[0].MaxAge != -1 {
		t.Errorf("logout: %d %s %v", status, answer, resp.Cookies())
	}
	feed.end()
	if status, _ := v.do("GET", "/state", ""); status != 401 {
		t.Errorf("after logging out: %d", status)
	}
	if status, _ := behind.do("GET", "/state", ""); status != 200 {
		t.Errorf("the other session: %d", status)
	}
}

// TestConsoleBehindPrefix: a proxy may have something before the path, and keep it to itself.
func TestConsoleBehindPrefix(t *testing.T) {
	s := startServer(t)
	target, _ := url.Parse("http://" + s.addr)
	proxy := httptest.NewServer(http.StripPrefix("/edge", httputil.NewSingleHostReverseProxy(target)))
	defer proxy.Close()
	jar, _ := cookiejar.New(nil)
	browser := http.Client{Jar: jar}
	resp, err := browser.Get(proxy.URL + "/edge/console/")
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != 200 || resp.Request.URL.Path != "/edge/console" {
		t.Errorf("%s %s", resp.Request.URL, resp.Status)
	}
	v := &visitor{t: t, base: proxy.URL + "/edge/console"}
	for _, step := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/login", `{"secret":"` + testSecret + `"}`, 200}, {"GET", "/state", "", 200}, {"POST", "/logout", "{}", 200}, {"GET", "/state", "", 401},
	} {
		resp, err := browser.Do(v.request(step.method, step.path, step.body))
		if err != nil {
			t.Fatal(err)
		}
		if status, answer := apiAnswer(t, resp); status != step.status {
			t.Errorf("%s: %d %s", step.path, status, answer)
		}
		if all := jar.Cookies(target.JoinPath("/edge")); len(all) > 0 {
			t.Errorf("the cookie is sent elsewhere too: %v", all)
		}
	}
	if all := jar.Cookies(resp.Request.URL); len(all) > 0 {
		t.Errorf("the cookie stays: %v", all)
	}
}

// TestConsoleSecure: over TLS the cookie is for TLS only.
func TestConsoleSecure(t *testing.T) {
	dir, trust := certDir(t)
	s := startServer(t, tlsArgs(dir)...)
	client := http.Client{Transport: &http.Transport{TLSClientConfig: trust}}
	defer client.CloseIdleConnections()
	resp, err := client.Post("https://"+s.addr+"/console/login", "application/json", strings.NewReader(`{"secret":"`+testSecret+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	if status, _ := apiAnswer(t, resp); status != 200 || !resp.Cookies()[0].Secure {
		t.Errorf("%d %s", status, resp.Cookies())
	}
}

// TestConsoleApps: a session sees the app whose secret it was begun with, and ends with that secret.
func TestConsoleApps(t *testing.T) {
	file := configOf(t, `{"apps": [{"id": "1", "key": "one", "secret": "o"}, {"id": "2", "key": "two", "secret": "t", "more-keys": "three:same"}, {"id": "4", "key": "four", "secret": "same"}]}`)
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
	for v, want := range map[*visitor][2]string{one: {`"app":"1","key":"one"`, "of-two"}, two: {`"app":"2","key":"two"`, "of-one"}} {
		if status, answer := v.do("GET", "/state?channel="+want[1], ""); status != 200 || !strings.Contains(answer, want[0]) || strings.Contains(answer, want[1]) {
			t.Errorf("%d %s", status, answer)
		}
	}
	one.do("POST", "/terminate", `{"socket":"`+c2.id+`"}`) // of another app, which it does not see
	one.do("POST", "/trigger", `{"channel":"of-two","name":"e","data":"x"}`)
	unknown := handshake(t, s.addr, "/app/none?protocol=7", "")
	unknown.text()
	unknown.expectClose(codeUnknownKey)
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
		{What: "refused", Code: codeUnknownKey, Reason: "App key none does not exist on this server"},
		{What: "refused", Code: 404, Event: "GET", Reason: `Unknown app id "9"`},
		{What: "refused", Code: 403, Event: "POST", Reason: `there is no app with the key "none"`},
		{What: "event", Reached: 1, Channel: "of-two", Event: "e", Data: "x"},
	} {
		l := feed.find("a line", func(l feedLine) bool { return l.What != "second" })
		l.At, l.Socket, l.From = 0, "", ""
		if fmt.Sprint(l) != fmt.Sprint(want) {
			t.Errorf("line %d of the second app is %+v, want %+v", i, l, want)
		}
	}

	// Apps with the same secret.
	both := &visitor{t: t, base: one.base}
	if status, answer := both.login(`{"secret":"same"}`); status != 409 || !strings.Contains(answer, "say which") {
		t.Errorf("%d %s", status, answer)
	}
	if status, answer := both.login(`{"secret":"same","app":"1"}`); status != 409 {
		t.Errorf("%d %s", status, answer)
	}
	if status, _ := both.login(`{"secret":"same","app":"4"}`); status != 200 {
		t.Errorf("%d", status)
	}
	if _, answer := both.do("GET", "/state", ""); !strings.HasPrefix(answer, `{"app":"4","key":"four"`) {
		t.Error(answer)
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

// TestConsoleFeed: there is a line for everything that happens, with the reason where there is one, and no signature in any.
func TestConsoleFeed(t *testing.T) {
	hook := newReceiver(t)
	var failed atomic.Bool
	failing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !failed.Swap(true) {
			w.WriteHeader(503)
		}
	}))
	receiver := httptest.NewServer(hook)
	t.Cleanup(receiver.Close)
	t.Cleanup(failing.Close)
	s := startServer(t, "-id", "1", "-send-buffer", "65536", "-webhook-batch", "0", "-webhook", receiver.URL+"/good#events=channel_occupied&prefix=private-hooked",
		"-webhook", failing.URL+"/bad?password=x#events=channel_occupied&prefix=private-hooked")
	v := s.signIn(t, testSecret)
	feed := v.watch()
	want := func(desc string, wanted feedLine) feedLine {
		t.Helper()
		got := feed.find(desc, func(l feedLine) bool {
			return l.What == wanted.What && (wanted.Channel == "" || l.Channel == wanted.Channel) && (wanted.Socket == "" || l.Socket == wanted.Socket) && strings.Contains(l.Reason, wanted.Reason)
		})
		if got.At == 0 || got.Code != wanted.Code || got.Reached != wanted.Reached || wanted.Event != "" && got.Event != wanted.Event || wanted.User != got.User || wanted.Data != "" && wanted.Data != got.Data {
			t.Errorf("%s: got %+v\nwant %+v", desc, got, wanted)
		}
		return got
	}
	c := connect(t, s.addr)
	if l := want("a connection", feedLine{What: "connected", Socket: c.id}); !strings.HasPrefix(l.From, "127.0.0.1:") {
		t.Errorf("from %s", l.From)
	}
	c.join("private-hooked")
	first := map[string]feedLine{} // of each From; they come in any order
	for len(first) < 3 {
		l := feed.find("a subscription and both receivers", func(l feedLine) bool { return l.What == "subscribed" || strings.HasPrefix(l.What, "webhook") })
		if _, ok := first[l.From]; !ok {
			first[l.From] = l
		}
	}
	if l := first[""]; l.What != "subscribed" || l.Channel != "private-hooked" || l.Socket != c.id || l.At == 0 {
		t.Errorf("%+v", l)
	}
	if l := first[receiver.URL+"/good"]; l.What != "webhook delivered" || l.Reached != 1 || !strings.Contains(l.Data, "channel_occupied") {
		t.Errorf("%+v", l)
	}
	if l := first[failing.URL+"/bad"]; l.What != "webhook failed" || !strings.Contains(l.Reason, "503") {
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
	for there := true; s.app.bounds.cuts[cutFull].Load() == 0; there = s.app.channelInfo("flood").subscriptions > 0 {
		if !there {
			t.Fatal("the slow reader has left, but its queue was not full")
		}
		publish(t, s.addr, "flood", "wave", strings.Repeat("x", 10_000))
	}
	want("a slow reader", feedLine{What: "cut", Socket: stuck.id, Reason: "its queue was full (-send-buffer)"})
	want("its end", feedLine{What: "disconnected", Socket: stuck.id})
	c.send(`{"event":"pusher:unsubscribe","data":{"channel":"private-hooked"}}`)
	want("an end of a subscription", feedLine{What: "unsubscribed", Channel: "private-hooked", Socket: c.id})
	s.app.terminate("u1")
	want("being terminated", feedLine{What: "closed", Socket: c.id, Code: 4009, Reason: "You got disconnected by the app."})
	c.leave()
	want("the end", feedLine{What: "disconnected", Socket: c.id})
}

// TestReached: what counts as given to nobody, to the last subscriber.
func TestReached(t *testing.T) {
	s := startServer(t)
	a, b := connect(t, s.addr), connect(t, s.addr)
	for _, c := range []*client{a, b} {
		c.join("private-two")
	}
	a.join("private-one")
	id := func(c *client) *Socket {
		n, _ := parseSocketID(c.id)
		return s.app.socket(n)
	}
	for _, watched := range []bool{false, true} {
		if watched {
			s.watch.on.Or(watchVerbose)
			s.logTo(io.Discard)
		}
		for _, test := range []struct {
			channel string
			kind    kind
			except  *Socket
			keep    bool
			want    int
		}{
			{"none", kindPublic, nil, true, 0}, {"private-one", kindPrivate, nil, true, 1}, {"private-two", kindPrivate, nil, true, 2},
			{"private-one", kindPrivate, id(a), true, 0}, {"private-one", kindPrivate, id(b), true, 1}, {"private-one", kindPrivate, id(a), false, 0},
			{"private-two", kindPrivate, id(a), false, 1}, {"cache-one", kindCache, nil, true, 0}, {"cache-one", kindCache, nil, true, 0},
			{userChannelPrefix + "x", kindUser, nil, true, 0},
		} {
			unheard := s.app.counts.unheard.Load()
			got := s.app.trigger(test.channel, test.kind, Event{name: []byte("e"), data: benchData, except: test.except, keep: test.keep})
			if got != test.want || (s.app.counts.unheard.Load() > unheard) != (got == 0) {
				t.Errorf("%+v: %d", test, got)
			}
		}
		if got := s.app.trigger("private-two", kindPrivate, Event{name: []byte("e"), data: benchData, except: id(a), keep: true}); watched && got != 1 {
			t.Errorf("looked at closely: %d", got)
		}
	}
}

// TestVerboseVoid: -verbose says what reached nobody, and that alone of events.
func TestVerboseVoid(t *testing.T) {
	var out syncBuffer
	s := startServer(t)
	s.logTo(&out)
	connect(t, s.addr).join("room")
	publish(t, s.addr, "room", "heard", "{}")
	publish(t, s.addr, "void", "unheard", `"x"`)
	text := out.String()
	if !strings.Contains(text, "msg=\"event reached nobody\" channel=void event=unheard reason=\"nobody subscribes to the channel\"") || strings.Contains(text, "event=heard") {
		t.Error(text)
	}
}

// TestConsoleState: what there is, in bounded lists.
func TestConsoleState(t *testing.T) {
	s := startServer(t)
	v := s.signIn(t, testSecret)
	type row struct {
		Name, Socket, From, User         string
		Subscriptions, Members, Channels int
		Cached                           bool
	}
	type state struct {
		Channels, Connections struct {
			All  int
			Rows []row
		}
		Channel struct {
			Name    string
			All     int
			Sockets []string
			Members []struct {
				User        string
				Info        json.RawMessage
				Connections int
			}
		}
		Warnings []string
	}
	get := func(query string) (st state) {
		t.Helper()
		status, answer := v.do("GET", "/state"+query, "")
		if err := json.Unmarshal([]byte(answer), &st); err != nil || status != 200 {
			t.Fatalf("%d %v %s", status, err, answer)
		}
		return st
	}
	if st := get("?channel=none"); st.Channels.All != 0 || st.Connections.Rows == nil || st.Channel.Name != "" || st.Warnings == nil {
		t.Errorf("%+v", st)
	}
	a, b := connect(t, s.addr), connect(t, s.addr)
	for i := range mostRows + 5 {
		a.join(fmt.Sprintf("room-%03d", i))
	}
	for i, c := range []*client{a, b, a} {
		if i == 2 {
			c = connect(t, s.addr)
		}
		c.subscribe("presence-x", fmt.Sprintf(`{"user_id":"u%d","user_info":{"n":%d}}`, min(i, 1), i))
		c.text()
	}
	b.signIn(`{"id":"ada@x"}`)
	publish(t, s.addr, "cache-x", "e", "{}")
	for _, socket := range s.app.allSockets() { // what was answered may still be being handled, and then nothing is told: see below
		waitUntil(t, "it is not being served", func() bool {
			free := socket.mu.TryLock()
			if free {
				socket.mu.Unlock()
			}
			return free
		})
	}
	st := get("?channel=presence-x")
	if n := st.Channels.All; n != mostRows+7 || len(st.Channels.Rows) != mostRows || !slices.IsSortedFunc(st.Channels.Rows, func(x, y row) int { return strings.Compare(x.Name, y.Name) }) {
		t.Errorf("%d channels, %d rows", n, len(st.Channels.Rows))
	}
	if r := st.Channels.Rows[0]; r.Name != "cache-x" || !r.Cached || r.Subscriptions != 0 {
		t.Errorf("%+v", r)
	}
	if r := st.Channels.Rows[1]; r.Name != "presence-x" || r.Members != 2 || r.Subscriptions != 3 {
		t.Errorf("%+v", r)
	}
	if c := st.Channel; c.Name != "presence-x" || c.All != 2 || len(c.Members) != 2 || c.Members[1].User != "u1" || c.Members[1].Connections != 2 || string(c.Members[0].Info) != `{"n":0}` {
		t.Errorf("%+v", c)
	}
	if all := st.Connections; all.All != 3 || len(all.Rows) != 3 || all.Rows[2].Socket != a.id || all.Rows[2].Channels != mostRows+6 || all.Rows[1].User != "ada@x" || !strings.HasPrefix(all.Rows[0].From, "127.0.0.1:") {
		t.Errorf("%+v", all)
	}
	if st := get("?channels=room-20&connections=ada@&channel=room-001"); st.Channels.All != 5 || st.Connections.All != 1 || st.Connections.Rows[0].Socket != b.id || !slices.Equal(st.Channel.Sockets, []string{a.id}) || st.Channel.All != 1 {
		t.Errorf("%+v", st)
	}
	// A connection that is just being served holds up nobody.
	id, _ := parseSocketID(b.id)
	socket := s.app.socket(id)
	socket.mu.Lock()
	st = get("")
	socket.mu.Unlock()
	if st.Connections.All != 3 || st.Connections.Rows[1].User != "" {
		t.Errorf("%+v", st.Connections)
	}
}

// TestLeast: the first few of many, in order.
func TestLeast(t *testing.T) {
	for _, n := range []int{0, 1, 9, 10, 11, 1000} {
		items := make([]int, n)
		for i := range items {
			items[i] = i * 7919 % 1009
		}
		list, all := least(slices.Values(items), 10, func(a, b int) int { return a - b })
		slices.Sort(items)
		if all != n || !slices.Equal(list, items[:min(n, 10)]) {
			t.Errorf("of %d: %v", n, list)
		}
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
		{`{"channel":"room","name":"e"}`, 400, "Missing required parameter: data\n"},
		{`{"channel":"no room","name":"e","data":""}`, 400, "Invalid channel name: \"no room\"\n"},
		{`{"channel":"room","name":"pusher:e","data":""}`, 400, "Event names beginning with pusher: or pusher_internal: are reserved: \"pusher:e\"\n"},
		{`[]`, 400, "Invalid request body: expected an object\n"},
		{``, 400, "Missing required parameter: name\n"},
	} {
		if status, answer := v.do("POST", "/trigger", test.body); status != test.status || answer != test.want {
			t.Errorf("%s: %d %s", test.body, status, answer)
		}
	}
	if status, _ := v.do("POST", "/trigger", `{"channel":"room","name":"e","data":"`+strings.Repeat("x", 10241)+`"}`); status != 413 {
		t.Errorf("too much data: %d", status)
	}
	c.expect(event("e", "room", `{"a":1}`), event("e", "room", `{"a":1}`))
	c.settled()
}

// TestConsoleTerminate: a user, a member or a connection goes, and nobody else.
func TestConsoleTerminate(t *testing.T) {
	s := startServer(t)
	v := s.signIn(t, testSecret)
	var all []*client
	for i := range 5 {
		c := connect(t, s.addr)
		c.subscribe("presence-x", fmt.Sprintf(`{"user_id":"m%d"}`, min(i, 3)))
		c.text()
		all = append(all, c)
	}
	for _, c := range all {
		c.subscribe("room", "")
		for c.text() != succeeded("room") {
		}
	}
	all[0].signIn(`{"id":"u"}`)
	for _, test := range []struct{ body, want string }{
		{`{"user":"u"}`, `{"closed":1}`},
		{`{"user":"u"}`, `{"closed":0}`},
		{`{"user":"m3"}`, `{"closed":0}`}, // it is not signed in
		{`{"user":"m3","channel":"room"}`, `{"closed":0}`},
		{`{"user":"m3","channel":"presence-x"}`, `{"closed":2}`},
		{`{"socket":"` + all[1].id + `"}`, `{"closed":1}`},
		{`{"socket":"1.1"}`, `{"closed":0}`},
		{`{"socket":"1.1","channel":"room"}`, `{"closed":0}`},
		{`{"socket":"x"}`, "Say who: a user or a socket\n"},
		{`{"channel":"room"}`, "Say who: a user or a socket\n"},
		{`{"user":1}`, "\"user\" must be a string\n"},
	} {
		if _, answer := v.do("POST", "/terminate", test.body); answer != test.want {
			t.Errorf("%s: %s", test.body, answer)
		}
		if test.body == `{"user":"u"}` {
			waitUntil(t, "it has left", func() bool { return s.app.connections() == 4 })
		}
	}
	for i, c := range all {
		if i == 2 {
			continue
		}
		for code, text := byte(0), []byte(nil); code != opClose; {
			if code, text = c.frame(); code == opClose && !bytes.Contains(text, []byte("You got disconnected by the app.")) {
				t.Errorf("%d: %s", i, text)
			}
		}
	}
	waitUntil(t, "they have left", func() bool { return s.app.connections() == 1 })
}

// TestFeedOfAnother: a page that begins to watch an app while the others are counted gets nothing of that, not an empty line.
func TestFeedOfAnother(t *testing.T) {
	file := configOf(t, `{"apps": [{"id": "1", "key": "one", "secret": "o"}, {"id": "2", "key": "two", "secret": "t"}]}`)
	s := mustParse(t, nil, "EDGE_CONFIG="+file).server(t)
	defer s.console.end()
	all := s.apps.Load().all
	one := s.console.openFeed(all[0])
	now := map[*App]totals{all[0]: all[0].total()}
	two := s.console.openFeed(all[1])
	s.console.tellSecond(now)
	if first := string(one.take()); !strings.Contains(first, `"what":"second"`) {
		t.Errorf("the first page was told %q", first)
	}
	for line := range strings.Lines(string(two.take())) {
		if !json.Valid([]byte(line)) || strings.Contains(line, `"what":"second"`) {
			t.Errorf("the second page was told %q", line)
		}
	}
}

// TestFeedBounds: a page that does not read costs a bounded amount of memory, and is told how much it has missed; and a flood on
// one channel does not hide what happens on another.
func TestFeedBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(processStart)) // see startInBubble
		s := testOptions(t).server(t)
		defer s.console.end()
		a := s.apps.Load().all[0]
		f := s.console.openFeed(a)
		defer s.console.closeFeed(f)
		data := quote(strings.Repeat("\x01", 20_000)) // the longest there is when it is written
		const n = 5000
		for i := range n {
			a.tell(notice{what: noticeEvent, channel: "room-" + strconv.Itoa(i), event: "e", data: data})
		}
		if most := feedBuffer + 7*feedData; len(f.lines) > most {
			t.Errorf("%d bytes wait, at most %d may", len(f.lines), most)
		}
		a.tell(notice{what: noticeRefused, channel: "refused", reason: "and yet it is told"})
		text := string(f.take())
		got := strings.Count(text, `"what":"event"`)
		if !strings.Contains(text, "and yet it is told") {
			t.Error("large events leave no room for a refusal")
		}
		if !strings.HasSuffix(text, fmt.Sprintf("\n{\"what\":\"skipped\",\"count\":%d}\n", n-got)) || got == 0 || !strings.Contains(text, `"size":20000`) {
			t.Errorf("%d lines, and at the end %s", got, text[max(0, len(text)-100):])
		}
		f.mu.Lock()
		clear(f.paces[:])
		f.mu.Unlock()
		for range n {
			a.tell(notice{what: noticeEvent, channel: "flood", event: "e", data: quote("x")})
		}
		for i := range len(f.paces[1]) {
			a.tell(notice{what: noticeEvent, channel: "room-" + strconv.Itoa(i), event: "rare", data: benchData})
		}
		text = string(f.take())
		if got := strings.Count(text, `"flood"`); got < feedRate || got > 2*feedRate+feedRate {
			t.Errorf("%d lines of a flood", got)
		}
		if hidden := len(f.paces[1]) - strings.Count(text, "rare"); hidden > len(f.paces[1])/4 {
			t.Errorf("events on %d other channels of %d are hidden", hidden, len(f.paces[1]))
		}
		if f.take(); len(f.take()) != 0 {
			t.Error("something is said twice")
		}
	})
}

// TestFeedSlow: with pages that do not read, every event reaches every subscriber.
func TestFeedSlow(t *testing.T) {
	s := startServer(t, "-send-buffer", "100000000") // this test may be held up
	v := s.signIn(t, testSecret)
	var feeds []*feedReader
	for range 3 {
		feeds = append(feeds, v.watch())
	}
	c := connect(t, s.addr)
	c.join("room")
	const n = 2000
	data := strings.Repeat("x", 9000)
	sent, began := make(chan bool), time.Now()
	go func() {
		defer close(sent)
		for i := range n {
			a := s.app
			a.trigger("room", kindPublic, Event{name: []byte("e"), data: quote(strconv.Itoa(i) + data)})
			a.trigger("void-"+strconv.Itoa(i), kindPublic, Event{name: []byte("e"), data: quote(data)})
		}
	}()
	for i := range n {
		c.expect(event("e", "room", strconv.Itoa(i)+data))
	}
	<-sent
	if took := time.Since(began); took >= feedPatience {
		t.Skipf("all was delivered, but after %s the pages may have been given up", took)
	}
	for _, f := range feeds {
		lines := 0
		for missed := 0; lines+missed < 2*n; {
			l := f.find("everything is accounted for", func(l feedLine) bool { return l.What == noticeClientEvent || l.What == "skipped" })
			if l.What == "skipped" {
				missed += l.Count
			} else {
				lines++
			}
		}
		if lines == 0 || lines == 2*n {
			t.Errorf("%d lines", lines)
		}
	}
}

// TestFeedsAreFew: there are so many pages, and room for another when one is closed.
func TestFeedsAreFew(t *testing.T) {
	s := startServer(t)
	v := s.signIn(t, testSecret)
	var feeds []*feedReader
	for range mostFeeds {
		feeds = append(feeds, v.watch())
	}
	if status, answer := v.do("GET", "/feed", ""); status != 503 || !strings.Contains(answer, "Too many pages") {
		t.Errorf("%d %s", status, answer)
	}
	feeds[3].body.Close()
	waitUntil(t, "there is room", func() bool {
		s.console.mu.Lock()
		defer s.console.mu.Unlock()
		return len(s.console.feeds) < mostFeeds
	})
	v.watch()
}

// TestFeedEnds: open pages do not hold up the end of the server.
func TestFeedEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dial, stop := stoppableInBubble(t)
		var feeds sync.WaitGroup
		for range 2 {
			feeds.Go(s.watchOver(t, dial()).end)
		}
		began := time.Now()
		stop()
		if took := time.Since(began); took >= requestsTimeout {
			t.Errorf("it took %s", took)
		}
		feeds.Wait()
		if s.console.openFeed(s.apps.Load().all[0]) != nil {
			t.Error("a feed begins after the end")
		}
		s.console.end() // again
	})
}

// watchOver opens a feed over a connection.
func (s *server) watchOver(t *testing.T, conn net.Conn) *feedReader {
	t.Helper()
	token, err := s.console.begin(0, testSecret, "", "")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET /console/feed HTTP/1.1\r\nHost: x\r\nCookie: edge-console=%s\r\n\r\n", token)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	return &feedReader{t, resp.Body, bufio.NewScanner(resp.Body)}
}

// TestConsoleHistory: every second is counted while somebody watches and for ten minutes after, and then no more.
func TestConsoleHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(processStart)) // see startInBubble
		s := testOptions(t).server(t)
		a, c := s.apps.Load().all[0], s.console
		a.counts.sent.Add(1000) // before anybody looks
		f := c.openFeed(a)
		if got := string(f.take()); got != `{"what":"history","seconds":[]}`+"\n" {
			t.Error(got)
		}
		a.counts.sent.Add(5)
		a.counts.received.Add(2)
		a.trigger("void", kindPublic, Event{name: []byte("e"), data: benchData, keep: true})
		f.take()
		time.Sleep(time.Second)
		synctest.Wait()
		if got := string(f.take()); got != `{"what":"second","second":[0,2,5,1,1]}`+"\n" {
			t.Error(got)
		}
		time.Sleep(700 * time.Second)
		synctest.Wait()
		if n := len(c.history[a].seconds); n != historyLong {
			t.Errorf("%d seconds are kept", n)
		}
		c.closeFeed(f)
		if s.watch.on.Load() != 0 {
			t.Error("somebody watches")
		}
		a.counts.sent.Add(7)
		time.Sleep(300 * time.Second)
		synctest.Wait()
		f = c.openFeed(a)
		if got := string(f.take()); strings.Count(got, "[0,0,7,0,0]") != 1 {
			t.Errorf("what happened while nobody watched is not in %s", got)
		}
		c.closeFeed(f)
		time.Sleep((historyLong + 5) * time.Second)
		synctest.Wait()
		if c.ticking != nil || len(c.history) != 0 {
			t.Error("it still counts")
		}
		f = c.openFeed(a)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if n := len(c.history[a].seconds); n != 3 {
			t.Errorf("%d seconds after that", n)
		}
		c.closeFeed(f)
		c.end()
	})
}

// TestConsoleAllocations: with nobody watching, before or any more, an event costs no allocation, one into the void neither.
func TestConsoleAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools")
	}
	s := testOptions(t).server(t)
	a := s.apps.Load().all[0]
	e := Event{name: []byte("hello"), data: benchData, keep: true}
	once := func() { a.trigger("room", kindPublic, e) }
	if n := testing.AllocsPerRun(1000, once); n != 0 {
		t.Errorf("%v allocations before anybody watches", n)
	}
	f := s.console.openFeed(a)
	once()
	if !strings.Contains(string(f.take()), `"event":"hello"`) {
		t.Error("the feed does not show it")
	}
	s.console.closeFeed(f)
	if n := testing.AllocsPerRun(1000, once); n != 0 {
		t.Errorf("%v allocations when nobody watches any more", n)
	}
	s.console.end()
}

// TestConsoleTogether: pages come and go, sign in and out while everything happens.
func TestConsoleTogether(t *testing.T) {
	s := startServer(t)
	done := make(chan bool)
	var busy, pages sync.WaitGroup
	for i := range 3 {
		busy.Go(func() {
			for j := 0; ; j++ {
				select {
				case <-done:
					return
				default:
				}
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
	close(done)
	busy.Wait()
	waitUntil(t, "nobody watches", func() bool { return s.watch.on.Load() == 0 })
	if n := len(s.console.sessions); n != 0 {
		t.Errorf("%d sessions are left", n)
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
			ended <- p.listenAndServe(ctx, stop, o, newBudget(o.memory))
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

// TestFeedLasts: a page is told for as long as it is open, whatever time the server gives to requests.
func TestFeedLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dial := serverInBubble(t)
		f := s.watchOver(t, dial())
		for began := time.Now(); time.Since(began) < 5*time.Minute; {
			if _, ok := f.next(); !ok {
				t.Fatalf("the feed has ended after %s", time.Since(began))
			}
		}
	})
}
