package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"edge/internal/config"
	"edge/internal/edgetest"
	"edge/internal/listen"
	"edge/internal/sign"
)

// asked is a request to an auth endpoint, by default from this machine.
type asked struct {
	method, path, body, kind string // POST, /pusher/auth, and a form
	from                     string
	header                   []string // name, value, …
}

const askedForm = "socket_id=1.2&channel_name=private-x"

func (a asked) request() *http.Request {
	or := func(s, otherwise string) string {
		if s == "" {
			return otherwise
		}
		return s
	}
	r := httptest.NewRequest(or(a.method, "POST"), or(a.path, "/pusher/auth"), strings.NewReader(or(a.body, askedForm)))
	r.Header.Set("Content-Type", or(a.kind, "application/x-www-form-urlencoded"))
	r.RemoteAddr = or(a.from, "127.0.0.1:4000")
	for i := 0; i < len(a.header); i += 2 {
		r.Header.Add(a.header[i], a.header[i+1])
	}
	return r
}

func (a asked) ask(t *testing.T, h http.Handler) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, a.request())
	lookForSecret("an answer of an auth endpoint", w.Body.Bytes())
	return w
}

// TestDevAuthAnswers: what is signed, and that the server takes the signatures.
func TestDevAuthAnswers(t *testing.T) {
	h := serverOf(t, testOptions(t, "-dev-auth")).offlineHandler()
	id := socketID("1.2")
	const asJSON = "application/json"
	for _, c := range []struct {
		name string
		asked
		data string // channel_data or user_data of the answer
		text []byte // that is signed
	}{
		{"private", asked{}, "", sign.ChannelText(nil, id.String(), []byte("private-x"), nil)},
		{"JSON", asked{kind: asJSON, body: ` {"channel_name":"private-x","socket_id":"1.2"} `}, "", sign.ChannelText(nil, id.String(), []byte("private-x"), nil)},
		{"JSON with a charset", asked{kind: asJSON + "; charset=utf-8", body: `{"channel_name":"private-\u0078","socket_id":"1.2"}`}, "", sign.ChannelText(nil, id.String(), []byte("private-x"), nil)},
		{"query", asked{path: "/pusher/auth?channel_name=private-y&socket_id=1.2", body: "x=y"}, "", sign.ChannelText(nil, id.String(), []byte("private-y"), nil)},
		{"private with data", asked{body: askedForm + "&channel_data=hello"}, "hello", sign.ChannelText(nil, id.String(), []byte("private-x"), []byte("hello"))},
		{"presence", asked{body: "socket_id=1.2&channel_name=presence-x"}, `{"user_id":"user-1","user_info":{"name":"user-1"}}`, nil},
		{"presence of a user", asked{body: `socket_id=1.2&channel_name=presence-x&user_id=a%22b`}, `{"user_id":"a\"b","user_info":{"name":"a\"b"}}`, nil},
		{"presence with info", asked{body: `socket_id=1.2&channel_name=presence-cache-x&user_id=7&user_info=%7B%22a%22%3A1%7D`}, `{"user_id":"7","user_info":{"a":1}}`, nil},
		{"presence in JSON", asked{kind: asJSON, body: `{"socket_id":"1.2","channel_name":"presence-x","user_id":7,"user_info":{"a":[1]}}`}, `{"user_id":"7","user_info":{"a":[1]}}`, nil},
		{"presence with channel_data", asked{body: `socket_id=1.2&channel_name=presence-x&channel_data={"user_id":7}`}, `{"user_id":7}`, nil},
		{"user", asked{path: "/pusher/user-auth", body: "socket_id=1.2"}, `{"id":"user-1","user_info":{"name":"user-1"}}`, nil},
		{"named user", asked{path: "/pusher/user-auth", body: `socket_id=1.2&user_id=7&watchlist=["1","2"]`}, `{"id":"7","user_info":{"name":"7"},"watchlist":["1","2"]}`, nil},
		{"user_data", asked{path: "/pusher/user-auth", body: `socket_id=1.2&user_data={"id":"8"}`}, `{"id":"8"}`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := c.ask(t, h)
			var answer map[string]string
			if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != 200 || w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
				t.Fatalf("%d %v %s", w.Code, w.Header(), w.Body)
			}
			text := c.text
			if data, user := answer["user_data"]; user {
				answer["channel_data"] = data
				text = sign.UserText(nil, id.String(), []byte(data))
			} else if text == nil {
				body := fmt.Sprint(c.body, "presence-cache-x")
				channel := body[strings.Index(body, "presence-"):]
				channel = channel[:strings.IndexAny(channel, `"&x`)] + "x"
				text = sign.ChannelText(nil, id.String(), []byte(channel), []byte(answer["channel_data"]))
			}
			if answer["channel_data"] != c.data {
				t.Errorf("data is %s, want %s", answer["channel_data"], c.data)
			}
			if problem := checkToken(sign.Keys{testKey}, []byte(answer["auth"]), text); problem != "" {
				t.Errorf("%s: %s", w.Body, problem)
			}
		})
	}
}

// TestDevAuthRefuses: who is not to get anything signed, and what cannot be.
func TestDevAuthRefuses(t *testing.T) {
	page := func(origin string) asked { return asked{header: []string{"Origin", origin}} }
	for _, c := range []struct {
		name, Options string
		asked
		status int
		says   string
	}{
		// The address.
		{"loopback", "", asked{from: "127.8.9.1:1"}, 200, ""},
		{"loopback of IPv6", "", asked{from: "[::1]:1"}, 200, ""},
		{"loopback in IPv6", "", asked{from: "[::ffff:127.0.0.1]:1"}, 200, ""},
		{"elsewhere", "", asked{from: "192.168.1.7:1"}, 403, "-dev-auth signs for this machine only, not for 192.168.1.7"},
		{"elsewhere, IPv6", "", asked{from: "[2001:db8::1]:1"}, 403, "not for 2001:db8::1"},
		{"Unix socket", "", asked{from: "@"}, 403, "signs for this machine only, not for a Unix socket"},
		{"allowed", "-dev-auth=192.168.1.0/24", asked{from: "192.168.1.7:1"}, 200, ""},
		{"not loopback any more", "-dev-auth=192.168.1.0/24", asked{}, 403, "-dev-auth signs for 192.168.1.0/24 only, not for 127.0.0.1"},
		{"allowed, with a zone", "-dev-auth=fe80::/10", asked{from: "[fe80::7%eth0]:1"}, 200, ""},
		{"elsewhere, with a zone", "-dev-auth=fe80::1", asked{from: "[fe80::7%eth0]:1"}, 403, "not for fe80::7"},
		{"one address", "-dev-auth=10.0.0.1, unix", asked{from: "10.0.0.2:1"}, 403, "-dev-auth signs for 10.0.0.1, unix only"},
		{"allowed Unix socket", "-dev-auth=unix", asked{from: "@"}, 200, ""},
		{"off", "-dev-auth=false", asked{}, 404, "not found"},
		// What proxies say.
		{"behind a proxy", "", asked{header: []string{"X-Forwarded-For", "203.0.113.9"}}, 403, "not for 203.0.113.9"},
		{"behind two", "", asked{header: []string{"X-Forwarded-For", "127.0.0.1", "X-Forwarded-For", "127.0.0.1, 203.0.113.9"}}, 403, "not for 203.0.113.9"},
		{"pretends", "", asked{header: []string{"X-Forwarded-For", "203.0.113.9, 127.0.0.1"}}, 403, "not for 203.0.113.9"},
		{"pretends from elsewhere", "", asked{from: "203.0.113.9:1", header: []string{"X-Forwarded-For", "127.0.0.1"}}, 403, "not for 203.0.113.9"},
		{"another header", "", asked{header: []string{"X-Real-IP", "203.0.113.9"}}, 403, "not for 203.0.113.9"},
		{"a third", "", asked{header: []string{"Forwarded", "for=127.0.0.1"}}, 403, "does not read Forwarded"},
		{"nonsense", "", asked{header: []string{"X-Forwarded-For", "unknown"}}, 403, "cannot read"},
		{"behind a proxy of this machine, on it", "", asked{header: []string{"X-Forwarded-For", "::ffff:127.0.0.1"}}, 200, ""},
		{"behind a proxy, with a zone", "-dev-auth=127.0.0.1,fe80::/10", asked{header: []string{"X-Forwarded-For", "fe80::7%eth0"}}, 200, ""},
		{"trusted proxy", "-trusted-proxies=127.0.0.1", asked{header: []string{"X-Forwarded-For", "203.0.113.9"}}, 403, "not for 203.0.113.9"},
		{"trusted proxy for one of here", "-trusted-proxies=10.0.0.1", asked{from: "10.0.0.1:1", header: []string{"X-Forwarded-For", "203.0.113.9, 127.0.0.1"}}, 200, ""},
		{"trusted proxy that keeps quiet", "-trusted-proxies=127.0.0.1", asked{}, 403, "does not know who asks"},
		{"beside a trusted proxy", "-trusted-proxies=10.0.0.1", asked{}, 200, ""},
		// Pages.
		{"page of this machine", "", page("http://localhost:5173"), 200, ""},
		{"page of a loopback address", "", page("http://127.0.0.1:5173"), 200, ""},
		{"page of a loopback address of IPv6", "", page("http://[::1]:5173"), 200, ""},
		{"page of the local network", "", page("http://192.168.1.7:3000"), 200, ""},
		{"page of the local network, IPv6", "", page("https://[fd00::7]"), 200, ""},
		{"page of a local name", "", page("http://pi.local"), 200, ""},
		{"page of a name for tests", "", page("https://MyApp.Test"), 200, ""},
		{"page below localhost", "", page("http://app.localhost:8000"), 200, ""},
		{"page of the internet", "", page("https://evil.example"), 403, `-dev-auth signs for pages of this machine and of the local network, not for those of "https://evil.example"`},
		{"page of an address of the internet", "", page("http://203.0.113.9"), 403, "not for those of"},
		{"page that pretends", "", page("https://localhost.evil.example"), 403, "not for those of"},
		{"page that pretends an address", "", page("https://127.0.0.1.evil.example"), 403, "not for those of"},
		{"page that pretends a user", "", page("https://localhost@evil.example"), 403, "not for those of"},
		{"page of a name alone", "", page("http://ai"), 403, "not for those of"},
		{"page of a file", "", page("null"), 403, "not for those of"},
		{"page of nonsense", "", page("http://[::1"), 403, "not for those of"},
		{"page that -origins names", "-origins=app.example", page("https://app.example"), 200, ""},
		{"page that -origins does not name", "-origins=app.example", page("http://localhost:5173"), 403, "not for those of"},
		{"page of a file that -origins names", "-origins=null", page("null"), 200, ""},
		{"preflight from the internet", "", asked{method: "OPTIONS", header: []string{"Origin", "https://evil.example"}}, 403, "not for those of"},
		// What is asked.
		{"GET", "", asked{method: "GET", path: "/pusher/auth?" + askedForm}, 405, "this is for POST"},
		{"nothing", "", asked{body: "a=b"}, 400, "Missing parameter: socket_id and channel_name"},
		{"no channel", "", asked{body: "socket_id=1.2"}, 400, "Missing parameter: socket_id and channel_name"},
		{"no socket for a user", "", asked{path: "/pusher/user-auth", body: "a=b"}, 400, "Missing parameter: socket_id"},
		{"bad socket", "", asked{body: "socket_id=1.2:private-y&channel_name=private-x"}, 400, "is not the socket_id of a connection"},
		{"bad channel", "", asked{body: "socket_id=1.2&channel_name=private-x%20"}, 400, "is not the name of a channel"},
		{"public channel", "", asked{body: "socket_id=1.2&channel_name=x"}, 400, "it needs no signature"},
		{"encrypted channel", "", asked{body: "socket_id=1.2&channel_name=private-encrypted-x"}, 400, "an encrypted channel needs a master key"},
		{"bad info", "", asked{body: "socket_id=1.2&channel_name=presence-x&user_info=x"}, 400, "channel_data: invalid JSON"},
		{"info with another user", "", asked{body: `socket_id=1.2&channel_name=presence-x&user_info={},"user_id":"root"`}, 400, `"user_id" stands twice`},
		{"long user", "", asked{body: "socket_id=1.2&channel_name=presence-x&user_id=" + strings.Repeat("x", 129)}, 400, "user_id must have 1 to 128 characters"},
		{"bad user", "", asked{path: "/pusher/user-auth", body: "socket_id=1.2&user_id=a%20b"}, 400, "user_data must be an object"},
		{"bad JSON", "", asked{kind: "application/json", body: "{"}, 400, "the body cannot be read"},
		{"no object", "", asked{kind: "application/json", body: `"socket_id"`}, 400, "the body cannot be read"},
		{"bad form", "", asked{body: "a=%zz"}, 400, "the body cannot be read"},
		{"large form", "", asked{body: strings.Repeat("x", maxAuthBody+1)}, 413, "the body has more than 65536 bytes"},
		{"large JSON", "", asked{kind: "application/json", body: strings.Repeat(" ", maxAuthBody+1)}, 413, "the body has more than 65536 bytes"},
		{"unknown key", "", asked{path: "/pusher/auth?key=other"}, 403, `there is no app with the key "other"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := []string{"-dev-auth"}
			if c.Options != "" {
				args = append(args, c.Options)
			}
			w := c.ask(t, serverOf(t, testOptions(t, args...)).offlineHandler())
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) {
				t.Errorf("%d %s, want %d %s", w.Code, w.Body, c.status, c.says)
			}
			if w.Code != 200 && strings.Contains(w.Body.String(), `"auth"`) {
				t.Error("it signed all the same")
			}
			if w.Code == 403 && w.Header().Get("Access-Control-Allow-Origin") != "" {
				t.Error("a page may read it")
			}
		})
	}
}

// TestDevAuthPages: what browsers ask before and look for after.
func TestDevAuthPages(t *testing.T) {
	h := serverOf(t, testOptions(t, "-dev-auth", "-path", "/edge")).offlineHandler()
	const origin = "http://localhost:5173"
	w := asked{method: "OPTIONS", path: "/edge/pusher/user-auth", header: []string{"Origin", origin, "Access-Control-Request-Method", "POST",
		"Access-Control-Request-Headers", "content-type,x-csrf-token", "Access-Control-Request-Private-Network", "true"}}.ask(t, h)
	for name, want := range map[string]string{"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Methods": "POST, OPTIONS",
		"Access-Control-Allow-Headers": "content-type,x-csrf-token", "Access-Control-Allow-Private-Network": "true", "Vary": "Origin"} {
		if got := w.Header().Get(name); got != want || w.Code != 204 {
			t.Errorf("%d, %s: %q, want %q", w.Code, name, got, want)
		}
	}
	for body, status := range map[string]int{askedForm: 200, "x=y": 400, "x=%zz": 400, strings.Repeat("x", maxAuthBody+1): 413, askedForm + "&key=other": 403} { // a page reads what is wrong too
		w := asked{path: "/edge/pusher/auth", body: body, header: []string{"Origin", origin}}.ask(t, h)
		if w.Code != status || w.Header().Get("Access-Control-Allow-Origin") != origin || w.Header().Get("Vary") != "Origin" {
			t.Errorf("%d %v", w.Code, w.Header())
		}
	}
	for _, method := range []string{"POST", "OPTIONS"} {
		w := asked{method: method, path: "/edge/pusher/auth", body: "x=%zz", header: []string{"Origin", "https://evil.example"}}.ask(t, h)
		if w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("a page of the internet may read the answer to %s", method)
		}
	}
	if w := (asked{path: "/pusher/auth"}).ask(t, h); w.Code != 404 {
		t.Errorf("without the prefix: %d", w.Code)
	}
}

// TestDevAuthApps: the first app signs, or the one whose key is in the query.
func TestDevAuthApps(t *testing.T) {
	o, err := config.Parse([]string{"-dev-auth", "-config", edgetest.File(t, `{"apps":[
		{"id":"1","key":"one","secret":"a"},{"id":"2","key":"two","secret":"b","origins":["https://two.example"]}]}`)}, noEnv)
	if err != nil {
		t.Fatal(err)
	}
	h := serverOf(t, o).offlineHandler()
	for _, c := range []struct {
		asked
		want string
	}{
		{asked{}, `{"auth":"one:`}, {asked{path: "/pusher/auth?key=two"}, `{"auth":"two:`}, {asked{body: askedForm + "&key=two"}, `{"auth":"two:`},
		{asked{path: "/pusher/auth?key=two", header: []string{"Origin", "https://two.example"}}, `{"auth":"two:`},
		{asked{header: []string{"Origin", "https://two.example"}}, `-dev-auth signs for pages of`},
	} {
		if w := c.ask(t, h); !strings.HasPrefix(w.Body.String(), c.want) {
			t.Errorf("%+v: %d %s, want %s", c.asked, w.Code, w.Body, c.want)
		}
	}
}

func TestDevAuthOption(t *testing.T) {
	for value, want := range map[string]string{"": "this machine", "=true": "this machine", "=1": "this machine", "=false": "", "=0": "",
		"=192.168.1.0/24": "192.168.1.0/24", "=10.0.0.1, ::1,unix": "10.0.0.1, ::1, unix"} {
		if got := listen.NetworksText(testOptions(t, "-dev-auth"+value).DevAuth); got != want {
			t.Errorf("-dev-auth%s is %q, want %q", value, got, want)
		}
	}
	for _, value := range []string{"yes", "x", ",", "10.0.0.1/33", "localhost"} {
		if _, err := config.Parse([]string{"-dev-auth=" + value}, noEnv); err == nil || !strings.Contains(err.Error(), "it must be true, false or addresses") {
			t.Errorf("-dev-auth=%s: %v", value, err)
		}
	}
	o := mustParse(t, []string{"-config", edgetest.File(t, `{"dev-auth":["10.0.0.0/8","::1"]}`)})
	if want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}; fmt.Sprint(o.DevAuth) != fmt.Sprint(want) {
		t.Errorf("a list in a file is %v", o.DevAuth)
	}
	for args, want := range map[string]int{"-dev-auth": 1, "-dev-auth=false": 0} {
		if got := strings.Count(strings.Join(warnings(testOptions(t, args)), "\n"), "-dev-auth is on: "); got != want {
			t.Errorf("%s: %d warnings", args, got)
		}
	}
}

// TestDevAuthIsSeen: -verbose shows what was signed and what was not.
func TestDevAuthIsSeen(t *testing.T) {
	var log bytes.Buffer
	s := serverOf(t, testOptions(t, "-dev-auth"))
	s.logTo(&log)
	h := s.offlineHandler()
	asked{}.ask(t, h)
	asked{from: "10.0.0.1:1"}.ask(t, h)
	if got := log.String(); !strings.Contains(got, "signed by -dev-auth") || !strings.Contains(got, `socket=1.2 client=127.0.0.1:4000 channel=private-x event="POST /pusher/auth"`) || !strings.Contains(got, "not for 10.0.0.1") {
		t.Errorf("the log has %s", got)
	}
}
