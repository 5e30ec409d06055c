package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/sign"
	"edge/internal/wire"
)

// An apiCase is one signed call and its answer.
type apiCase struct {
	desc, method, path, query, body string
	status                          int
	want                            string // the whole answer, an error's without its newline; after … a part of it
}

func runAPI(t *testing.T, addr string, cases []apiCase) {
	for _, c := range cases {
		t.Run(c.desc, func(t *testing.T) { c.run(t, addr) })
	}
}

func (c apiCase) run(t *testing.T, addr string) {
	t.Helper()
	r, err := http.NewRequest(c.method, signedURL(addr, c.method, c.path, c.query, c.body), strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	status, body := apiAnswer(t, resp)
	if !isAnswer(status, body, c.status, c.want) {
		t.Errorf("%s %s?%s %.200s\ngot  %d %s\nwant %d %s", c.method, c.path, c.query, c.body, status, body, c.status, c.want)
	}
}

func wantAnswer(t testing.TB, status int, body string, wantStatus int, want string) {
	t.Helper()
	if !isAnswer(status, body, wantStatus, want) {
		t.Errorf("got  %d %s\nwant %d %s", status, body, wantStatus, want)
	}
}

// isAnswer compares an answer with that of an apiCase.
func isAnswer(status int, body string, wantStatus int, want string) bool {
	if wantStatus/100 != 2 {
		body = strings.TrimSuffix(body, "\n")
	}
	part, isPart := strings.CutPrefix(want, "…")
	return status == wantStatus && (body == want || isPart && strings.Contains(body, part))
}

// apiAnswer reads an answer and checks what holds for all of them: a JSON object or a line of text, and never the secret.
func apiAnswer(t testing.TB, resp *http.Response) (status int, body string) {
	t.Helper()
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	kind, object := resp.Header.Get("Content-Type"), map[string]json.RawMessage(nil)
	switch status, body = resp.StatusCode, string(b); {
	case status/100 == 2:
		if err := json.Unmarshal(b, &object); kind != "application/json" || err != nil || object == nil {
			t.Errorf("%d with %s %q, want a JSON object", status, kind, body)
		}
	case !strings.HasPrefix(kind, "text/plain") || strings.Index(body, "\n") != len(body)-1:
		t.Errorf("%d with %s %q, want a line of text", status, kind, body)
	}
	if all := fmt.Sprint(resp.Header, body); strings.Contains(all, testSecret) || strings.Contains(all, docSecret) {
		t.Errorf("the secret is in the answer: %s", all)
	}
	return status, body
}

// readAll returns the frames on their way to c, up to the answer to a ping: all that c sent before has been handled then.
func readAll(c *peer) (frames []string) {
	c.t.Helper()
	c.send(`{"event":"pusher:ping"}`)
	for frame := c.text(); frame != pong; frame = c.text() {
		frames = append(frames, frame)
	}
	return frames
}

// enter subscribes c without looking at the answer; ChannelData is for presence channels.
func enter(c *peer, channel, channelData string) {
	c.t.Helper()
	c.subscribe(channel, channelData)
	readAll(c)
}

func signIn(c *peer, user string) {
	c.t.Helper()
	id, _ := wire.ParseSocketID(c.id)
	userData := fmt.Appendf(nil, `{"id":%s}`, quote(user))
	c.send(`{"event":"pusher:signin","data":{"auth":"key:%s","user_data":%s}}`, testKey.Sign(nil, sign.UserText(nil, id.String(), userData)), quote(string(userData)))
	c.expect(fmt.Sprintf(`{"event":"pusher:signin_success","data":{"user_data":%s}}`, quote(string(userData))))
}

// expectOnly checks that c gets these frames and no others.
func (s *testServer) expectOnly(c *peer, frames ...string) {
	c.t.Helper()
	s.app.Flush()
	if got := readAll(c); !slices.Equal(got, frames) {
		c.t.Errorf("frames that arrived\ngot  %s\nwant %s", got, frames)
	}
}

const (
	tooMuchData = "The data content of this event exceeds the allowed maximum (10240 bytes). " +
		"See https://pusher.com/docs/channels/server_api/http-api#publishing-events for more info"
	missingChannel = "Missing required parameter: channel"
	nameNoString   = "Expected name parameter to be a string"
)

func TestAPIEvents(t *testing.T) {
	s := startServer(t)
	a, b := connect(t, s.addr), connect(t, s.addr)
	a.join("a")
	b.join("b")
	long := strings.Repeat("n", 200)
	accented := strings.Repeat("é", 200)
	onA, onB := []string{event("e", "a", "x")}, []string{event("e", "b", "x")}
	var none []string
	for _, c := range []struct {
		desc, query, body string
		status            int
		want              string
		onA, onB          []string // frames that arrive
	}{
		{"one channel", "", `{"name":"e","channel":"a","data":"x"}`, 200, "{}", onA, none},
		{"a list of one", "", `{"name":"e","channels":["a"],"data":"x"}`, 200, "{}", onA, none},
		{"two channels", "", `{"name":"e","channels":["a","b"],"data":"x"}`, 200, "{}", onA, onB},
		{"twice the same", "", `{"name":"e","channels":["a","b","a"],"data":"x"}`, 200, "{}", onA, onB},
		{"other members", "", `{"x":[{"name":1}],"name":"e","tags":{},"channel":"a","data":"x"}`, 200, "{}", onA, none},
		{"white space", "", "\r\n{ \"name\" : \"e\" ,\t\"channel\" : \"a\" , \"data\" : \"x\" } \n", 200, "{}", onA, none},
		{"escaped member names", "", `{"n\u0061me":"e","channel":"\u0061","d\u0061ta":"x"}`, 200, "{}", onA, none},

		{"no name", "", `{"channel":"a","data":"x"}`, 400, "…name", none, none},
		{"name a number", "", `{"name":1,"channel":"a","data":"x"}`, 400, nameNoString, none, none},
		{"name a boolean", "", `{"name":false,"channel":"a","data":"x"}`, 400, nameNoString, none, none},
		{"name null", "", `{"name":null,"channel":"a","data":"x"}`, 400, "…name", none, none},
		{"name a list", "", `{"name":["e"],"channel":"a","data":"x"}`, 400, nameNoString, none, none},
		{"name an object", "", `{"name":{},"channel":"a","data":"x"}`, 400, nameNoString, none, none},
		{"name empty", "", `{"name":"","channel":"a","data":"x"}`, 400, "…name", none, none},
		{"name of 200", "", `{"name":"` + long + `","channel":"a","data":"x"}`, 200, "{}", []string{event(long, "a", "x")}, none},
		{"name of 201", "", `{"name":"` + long + `n","channel":"a","data":"x"}`, 400, "…200", none, none},
		{"name of 200 é", "", `{"name":"` + accented + `","channel":"a","data":"x"}`, 200, "{}", []string{event(accented, "a", "x")}, none},
		{"name of 201 é", "", `{"name":"` + accented + `é","channel":"a","data":"x"}`, 400, "…200", none, none},
		{"name pusher:", "", `{"name":"pusher:x","channel":"a","data":"x"}`, 400, "…pusher:", none, none},
		{"name pusher_internal:", "", `{"name":"pusher_internal:x","channel":"a","data":"x"}`, 400, "…pusher_internal:", none, none},
		{"name pusher: escaped", "", `{"name":"p\u0075sher\u003ax","channel":"a","data":"x"}`, 400, "…pusher:", none, none},
		{"name pusher-x", "", `{"name":"pusher-x","channel":"a","data":"x"}`, 200, "{}", []string{event("pusher-x", "a", "x")}, none},
		{"name client-x", "", `{"name":"client-x","channel":"a","data":"x"}`, 200, "{}", []string{event("client-x", "a", "x")}, none},
		{"name of Laravel", "", `{"name":"App\\Events\\X","channel":"a","data":"x"}`, 200, "{}", []string{event(`App\Events\X`, "a", "x")}, none},
		{"name of anything", "", `{"name":"\"a b\" 😀","channel":"a","data":"x"}`, 200, "{}", []string{event(`"a b" 😀`, "a", "x")}, none},

		{"no data", "", `{"name":"e","channel":"a"}`, 400, "…data", none, none},
		{"no channel", "", `{"name":"e","data":"x"}`, 400, missingChannel, none, none},
		{"no channels", "", `{"name":"e","channels":[],"data":"x"}`, 400, missingChannel, none, none},
		{"channels a string", "", `{"name":"e","channels":"a","data":"x"}`, 400, "…channels", none, none},
		{"channels an object", "", `{"name":"e","channels":{"a":"a"},"data":"x"}`, 400, "…channels", none, none},
		{"channels of numbers", "", `{"name":"e","channels":["a",1],"data":"x"}`, 400, "…channel", none, none},
		{"channels with null", "", `{"name":"e","channels":["a",null],"data":"x"}`, 400, "…channel", none, none},
		{"channels of lists", "", `{"name":"e","channels":["a",["b"]],"data":"x"}`, 400, "…channel", none, none},
		{"channel a list", "", `{"name":"e","channel":["a"],"data":"x"}`, 400, "…channel", none, none},
		{"channel a number", "", `{"name":"e","channel":1,"data":"x"}`, 400, "…channel", none, none},
		{"one bad channel", "", `{"name":"e","channels":["a","b b"],"data":"x"}`, 400, "…channel", none, none},
		{"100 channels", "", manyChannels(100), 200, "{}", onA, none},
		{"101 channels", "", manyChannels(101), 400, "…100", none, none},

		{"encrypted alone", "", `{"name":"e","channels":["private-encrypted-a"],"data":"x"}`, 200, "{}", none, none},
		{"encrypted first", "", `{"name":"e","channels":["private-encrypted-a","a"],"data":"x"}`, 400, "…encrypted", none, none},
		{"encrypted last", "", `{"name":"e","channels":["a","private-encrypted-cache-a"],"data":"x"}`, 400, "…encrypted", none, none},
		{"two encrypted", "", `{"name":"e","channels":["private-encrypted-a","private-encrypted-b"],"data":"x"}`, 400, "…encrypted", none, none},

		{"excluded", "", `{"name":"e","channels":["a","b"],"data":"x","socket_id":"` + a.id + `"}`, 200, "{}", none, onB},
		{"excluded elsewhere", "", `{"name":"e","channel":"a","data":"x","socket_id":"` + b.id + `"}`, 200, "{}", onA, none},
		{"unknown socket id", "", `{"name":"e","channel":"a","data":"x","socket_id":"1.2"}`, 200, "{}", onA, none},
		{"unlikely socket id", "", `{"name":"e","channel":"a","data":"x","socket_id":"007.99999999999999999999"}`, 200, "{}", onA, none},
		{"socket id a number", "", `{"name":"e","channel":"a","data":"x","socket_id":1.2}`, 400, "…socket_id", none, none},
		{"info a list", "", `{"name":"e","channel":"a","data":"x","info":["user_count"]}`, 400, "…info", none, none},

		{"no body", "", "", 400, "…name", none, none},
		{"no JSON", "", "name=e&channel=a&data=x", 400, "…JSON", none, none},
		{"a list", "", `[{"name":"e","channel":"a","data":"x"}]`, 400, "…object", none, none},
		{"null", "", `null`, 400, "…object", none, none},
		{"cut off", "", `{"name":"e","channel":"a","data":"x"`, 400, "…JSON", none, none},
		{"more behind", "", `{"name":"e","channel":"a","data":"x"}{}`, 400, "…JSON", none, none},
		{"comma too many", "", `{"name":"e","channel":"a","data":"x",}`, 400, "…JSON", none, none},
		{"not UTF-8", "", `{"name":"e","channel":"a","data":"` + "\xff" + `"}`, 400, "…UTF-8", none, none},
		{"control character", "", "{\"name\":\"e\",\"channel\":\"a\",\"data\":\"\x01\"}", 400, "…JSON", none, none},
		{"byte order mark", "", "\ufeff" + `{"name":"e","channel":"a","data":"x"}`, 400, "…JSON", none, none},
		{"two names", "", `{"name":"e","name":"f","channel":"a","data":"x"}`, 400, "…name", none, none},

		{"in the query", "name=e&channel=a&data=x", "", 200, "{}", onA, none},
		{"list in the query, as Ruby signs", "channels[]=a&channels[]=b&name=e&data=x", "", 200, "{}", onA, onB},
		{"list in the query, as PHP signs", "channels=a,b&name=e&data=x", "", 200, "{}", onA, onB},
		{"escaped in the query", "channels%5B%5D=%61&n%61me=e+f&data=%22%C3%A9", "", 200, "{}", []string{event("e f", "a", `"é`)}, none},
		{"some in the query", "name=e&channel=b", `{"data":"x"}`, 200, "{}", none, onB},
		{"body before query", "name=f&channel=b&data=y", `{"name":"e","channel":"a","data":"x"}`, 200, "{}", onA, none},
		{"excluded in the query", "socket_id=" + a.id, `{"name":"e","channels":["a","b"],"data":"x"}`, 200, "{}", none, onB},
		{"info in the query", "info=subscription_count", `{"name":"e","channel":"a","data":"x"}`, 200,
			`{"channels":{"a":{"subscription_count":1}}}`, onA, none},
		{"bad socket id in the query", "socket_id=x", `{"name":"e","channels":["a"],"data":"x"}`, 400, "…socket id", none, none},
		{"too many in the query", "channels=" + strings.Repeat("a,", 100) + "a&name=e&data=x", "", 400, "…100", none, none},
	} {
		t.Run(c.desc, func(t *testing.T) {
			apiCase{"", "POST", "/apps/1/events", c.query, c.body, c.status, c.want}.run(t, s.addr)
			s.expectOnly(a, c.onA...)
			s.expectOnly(b, c.onB...)
		})
	}
}

// manyChannels is the body of an event for n different channels, the first of them a.
func manyChannels(n int) string {
	body := `{"name":"e","data":"x","channels":["a"`
	for i := range n - 1 {
		body += fmt.Sprintf(`,"a%d"`, i)
	}
	return body + "]}"
}

// A comma is a legal part of a channel's name, and only PHP's form uses it to separate names.
func TestAPIQueryChannelWithComma(t *testing.T) {
	s := startServer(t)
	c := connect(t, s.addr)
	c.join("a,b")
	apiCase{"", "POST", "/apps/1/events", "channels[]=a,b&name=e&data=x", "", 200, "{}"}.run(t, s.addr)
	s.expectOnly(c, event("e", "a,b", "x"))
}

func TestAPISocketID(t *testing.T) {
	addr := startEdge(t)
	for _, id := range []string{"x", "1", "1.", ".1", "1.2.3", "-1.2", "+1.2", "1,2", "1.2 ", " 1.2", "1.0x2", "1e1.2", "１.２"} {
		body := fmt.Sprintf(`{"name":"e","channel":"a","data":"x","socket_id":%q}`, id)
		apiCase{"", "POST", "/apps/1/events", "", body, 400, "…" + strconv.Quote(id)}.run(t, addr)
		body = fmt.Sprintf(`{"batch":[{"name":"e","channel":"a","data":"x","socket_id":%q}]}`, id)
		apiCase{"", "POST", "/apps/1/batch_events", "", body, 400, "…" + strconv.Quote(id)}.run(t, addr)
	}
}

func TestAPIChannelNames(t *testing.T) {
	n200 := strings.Repeat("n", 200)
	for _, args := range [][]string{{}, {"-channel-name", "164"}} {
		addr := startEdge(t, args...)
		for name, ok := range map[string]bool{
			"a":                                true,
			"AZaz09_-=@,.;":                    true,
			"private-":                         true,
			n200[:164]:                         true,
			n200[:165]:                         len(args) == 0,
			n200:                               len(args) == 0,
			n200 + "n":                         false,
			"#server-to-user-12345":            true,
			"#server-to-user-a=b@c":            true,
			"#server-to-user-":                 false,
			"#server-to-user-a b":              false,
			"#server-to-user-#":                false,
			"##server-to-user-1":               false,
			"#a":                               false,
			"#":                                false,
			"#private-a":                       false,
			"#Server-to-user-1":                false,
			"a#":                               false,
			"":                                 false,
			" ":                                false,
			"a b":                              false,
			"a:b":                              false,
			"a/b":                              false,
			"a\\b":                             false,
			"a\x00":                            false,
			"a\n":                              false,
			"a'":                               false,
			"a+b":                              false,
			"a*":                               false,
			"é":                                false,
			"presence-" + strings.ToUpper("é"): false,
		} {
			status, want := 200, "{}"
			if !ok {
				status, want = 400, "…channel"
			}
			body := fmt.Sprintf(`{"name":"e","data":"x","channel":%s}`, quote(name))
			apiCase{"", "POST", "/apps/1/events", "", body, status, want}.run(t, addr)
			apiCase{"", "POST", "/apps/1/batch_events", "", `{"batch":[` + body + `]}`, status, want}.run(t, addr)
			if name == "" || name == "a/b" || name[0] == '#' && ok {
				continue // not one segment of a path, or never asked for
			}
			if ok {
				want = `{"occupied":false}`
			}
			apiCase{"", "GET", "/apps/1/channels/" + url.PathEscape(name), "", "", status, want}.run(t, addr)
		}
	}
}

// Data arrives byte for byte as it was sent, whatever escapes it was written with, and is counted decoded.
func TestAPIData(t *testing.T) {
	s := startServer(t)
	c := connect(t, s.addr)
	c.join("a")
	rep := strings.Repeat
	for _, d := range []struct{ desc, sent, arrives string }{ // arrives: "" as sent, "413" too large
		{"empty", `""`, ""},
		{"text", `"hello"`, ""},
		{"JSON in a string", `"{\"a\":[1,2.50,\"x\"]}"`, ""},
		{"broken JSON in a string", `"{\"a\":"`, ""},
		{"needless escapes", `"a\/b\u0041\u002f\u0022\u005c"`, ""},
		{"all escapes", `"\"\\\/\b\f\n\r\t\u0000\u001F"`, ""},
		{"pair of surrogates", `"\ud83d\uDE00"`, ""},
		{"half a pair", `"\ud83d x \uDE00"`, ""},
		{"UTF-8", `"é€😀 ` + "\u2028\u2029\ufeff\ufffd\x7f" + `<>&"`, ""},
		{"encrypted", `"{\"nonce\":\"AAA=\",\"ciphertext\":\"a+\/b==\"}"`, ""},

		{"object", "{ \"a\" : 1 ,\n\t\"b\" : [ true , null ] }", `"{\"a\":1,\"b\":[true,null]}"`},
		{"empty object", `{ }`, `"{}"`},
		{"empty list", `[ ]`, `"[]"`},
		{"object with our names", `{"name":"n","data":{"channel":"c"}}`, `"{\"name\":\"n\",\"data\":{\"channel\":\"c\"}}"`},
		{"object with escapes", `{"a\u0041":"\/\n"}`, `"{\"a\\u0041\":\"\\/\\n\"}"`},
		{"number", `12345678901234567890.10E+3`, `"12345678901234567890.10E+3"`},
		{"true", `true`, `"true"`},
		{"false", `false`, `"false"`},

		{"10240 letters", `"` + rep("x", 10240) + `"`, ""},
		{"10241 letters", `"` + rep("x", 10241) + `"`, "413"},
		{"10240 short escapes", `"` + rep(`\n`, 10240) + `"`, ""},
		{"10241 short escapes", `"` + rep(`\n`, 10240) + `x"`, "413"},
		{"10240 quotes", `"` + rep(`\"`, 10240) + `"`, ""},
		{"10241 quotes", `"` + rep(`\"`, 10241) + `"`, "413"},
		{"10240 long escapes", `"` + rep(`\u0041`, 10240) + `"`, ""},
		{"10241 long escapes", `"` + rep(`\u0041`, 10241) + `"`, "413"},
		{"5120 é", `"` + rep("é", 5120) + `"`, ""},
		{"5120 é and one", `"` + rep("é", 5120) + `x"`, "413"},
		{"5120 é escaped", `"` + rep(`\u00e9`, 5120) + `"`, ""},
		{"5120 é escaped and one", `"` + rep(`\u00e9`, 5120) + `x"`, "413"},
		{"3413 € and one", `"` + rep("€", 3413) + `x"`, ""},
		{"3413 € and two", `"` + rep("€", 3413) + `xx"`, "413"},
		{"3413 € escaped and one", `"` + rep(`\u20AC`, 3413) + `x"`, ""},
		{"3413 € escaped and two", `"` + rep(`\u20AC`, 3413) + `xx"`, "413"},
		{"2560 😀", `"` + rep("😀", 2560) + `"`, ""},
		{"2560 😀 and one", `"` + rep("😀", 2560) + `x"`, "413"},
		{"2560 😀 escaped", `"` + rep(`\ud83d\ude00`, 2560) + `"`, ""},
		{"2560 😀 escaped and one", `"` + rep(`\ud83d\ude00`, 2560) + `x"`, "413"},
		{"object of 10240", `{ "a" : "` + rep("x", 10232) + `" }`, `"{\"a\":\"` + rep("x", 10232) + `\"}"`},
		{"object of 10241", `{"a":"` + rep("x", 10233) + `"}`, "413"},
	} {
		t.Run(d.desc, func(t *testing.T) {
			status, want, frames := 200, "{}", []string{fmt.Sprintf(`{"event":"e","channel":"a","data":%s}`, d.sent)}
			switch d.arrives {
			case "":
			case "413":
				status, want, frames = 413, tooMuchData, nil
			default:
				frames = []string{fmt.Sprintf(`{"event":"e","channel":"a","data":%s}`, d.arrives)}
			}
			body := fmt.Sprintf(`{"name":"e","channel":"a","data":%s}`, d.sent)
			apiCase{"", "POST", "/apps/1/events", "", body, status, want}.run(t, s.addr)
			s.expectOnly(c, frames...)
			apiCase{"", "POST", "/apps/1/batch_events", "", `{"batch":[` + body + `]}`, status, want}.run(t, s.addr)
			s.expectOnly(c, frames...)
		})
	}
}

// What one event may have, all ten of a batch may have, however it is written.
func TestAPILargestBatch(t *testing.T) {
	addr := startEdge(t)
	for desc, data := range map[string]string{
		"letters":       strings.Repeat("x", 10240),
		"quotes":        strings.Repeat(`\"`, 10240),
		"UTF-8":         strings.Repeat("д", 5120),
		"Python's json": strings.Repeat(`\u0434`, 5120), // json.dumps escapes everything that is not ASCII
		"control codes": strings.Repeat(`\u001b`, 10240),
	} {
		t.Run(desc, func(t *testing.T) {
			item := fmt.Sprintf(`{"name":"e","channel":"a","data":"%s"}`, data)
			body := `{"batch":[` + strings.Repeat(item+",", 9) + item + `]}`
			apiCase{"", "POST", "/apps/1/batch_events", "", body, 200, "{}"}.run(t, addr)
		})
	}
}

// populate fills a server for the calls that ask: see the comments for who is where.
func populate(t *testing.T) *testServer {
	s := startServer(t)
	c, d, e := connect(t, s.addr), connect(t, s.addr), connect(t, s.addr)
	for _, channel := range []string{"a", "private-a", "private-encrypted-a", "cache-a", "private-cache-a", "mycache-x", "presencex"} {
		enter(c, channel, "")
	}
	enter(c, "presence-a", `{"user_id":"1"}`)
	enter(c, "presence-cache-a", `{"user_id":10,"user_info":{"name":"x"}}`)
	enter(d, "a", "")
	enter(d, "presence-a", `{"user_id":"1"}`) // the same user's second tab
	enter(e, "presence-a", `{"user_id":"\"é"}`)
	enter(e, "gone", "")
	e.send(`{"event":"pusher:unsubscribe","data":{"channel":"gone"}}`)
	signIn(e, "u")
	e.send(`{"event":"pusher:subscribe","data":{"channel":"#server-to-user-u","auth":""}}`)
	readAll(e)
	return s
}

func TestAPIInfo(t *testing.T) {
	s := populate(t)
	events := func(channels, info string) string {
		return fmt.Sprintf(`{"name":"e","data":"x","channels":%s,"info":%q}`, channels, info)
	}
	const all, both = `["a","private-a","presence-a","cache-a","private-cache-a","presence-cache-a","presence-b","b","#server-to-user-x"]`, "user_count,subscription_count"
	runAPI(t, s.addr, []apiCase{
		{"both", "POST", "/apps/1/events", "", events(all, both), 200, `{"channels":{"a":{"subscription_count":2},` +
			`"private-a":{"subscription_count":1},"presence-a":{"user_count":2,"subscription_count":3},"cache-a":{"subscription_count":1},` +
			`"private-cache-a":{"subscription_count":1},"presence-cache-a":{"user_count":1,"subscription_count":1},` +
			`"presence-b":{"user_count":0,"subscription_count":0},"b":{"subscription_count":0},"#server-to-user-x":{"subscription_count":0}}}`},
		{"users", "POST", "/apps/1/events", "", events(all, "user_count"), 200, `{"channels":{"a":{},"private-a":{},` +
			`"presence-a":{"user_count":2},"cache-a":{},"private-cache-a":{},"presence-cache-a":{"user_count":1},"presence-b":{"user_count":0},` +
			`"b":{},"#server-to-user-x":{}}}`},
		{"subscriptions", "POST", "/apps/1/events", "", events(`["presence-a"]`, "subscription_count"), 200, `{"channels":{"presence-a":{"subscription_count":3}}}`},
		{"encrypted", "POST", "/apps/1/events", "", events(`["private-encrypted-a"]`, both), 200, `{"channels":{"private-encrypted-a":{"subscription_count":1}}}`},
		{"unknown tokens", "POST", "/apps/1/events", "", events(`["a"]`, "x,subscription_count,,Y"), 200, `{"channels":{"a":{"subscription_count":2}}}`},
		{"no token", "POST", "/apps/1/events", "", events(`["a"]`, ""), 200, `{}`},
		{"twice the same", "POST", "/apps/1/events", "", events(`["a","a","b","a"]`, both), 200,
			`{"channels":{"a":{"subscription_count":2},"b":{"subscription_count":0}}}`},
		{"some of a batch", "POST", "/apps/1/batch_events", "", `{"batch":[{"name":"e","data":"x","channel":"a"},` +
			`{"name":"e","data":"x","channel":"presence-a","info":"user_count"},{"name":"e","data":"x","channel":"a","info":"user_count"},` +
			`{"name":"e","data":"x","channel":"a","info":"user_count,subscription_count"}]}`, 200,
			`{"batch":[{},{"user_count":2},{},{"subscription_count":2}]}`},
		{"an inapplicable one of a batch", "POST", "/apps/1/batch_events", "",
			`{"batch":[{"name":"e","data":"x","channel":"a","info":"user_count"}]}`, 200, `{"batch":[{}]}`},
		{"none of a batch", "POST", "/apps/1/batch_events", "", `{"batch":[{"name":"e","data":"x","channel":"a"}]}`, 200, `{}`},
	})
}

func TestAPIBatch(t *testing.T) {
	s := startServer(t)
	a := connect(t, s.addr)
	a.join("a")
	good := func(i int) string { return fmt.Sprintf(`{"name":"e%d","channel":"a","data":"x"}`, i) }
	batch := func(n, at int, item string) string { // n items, in the place at another one
		var items []string
		for i := range n {
			items = append(items, good(i))
			if i == at {
				items[i] = item
			}
		}
		return `{"batch":[` + strings.Join(items, ",") + `]}`
	}
	frames := func(n int) (all []string) {
		for i := range n {
			all = append(all, event(fmt.Sprintf("e%d", i), "a", "x"))
		}
		return all
	}
	for _, c := range []struct {
		desc, body string
		status     int
		want       string
		delivered  int
	}{
		{"one", batch(1, -1, ""), 200, "{}", 1},
		{"ten", batch(10, -1, ""), 200, "{}", 10},
		{"eleven", batch(11, -1, ""), 400, "Batch too large (11 > 10)", 0},
		{"none", `{"batch":[]}`, 400, "…batch", 0},
		{"no batch", `{}`, 400, "…batch", 0},
		{"no body", "", 400, "…batch", 0},
		{"an object", `{"batch":{"0":` + good(0) + `}}`, 400, "…batch", 0},
		{"null", `{"batch":null}`, 400, "…batch", 0},
		{"a list", `[` + good(0) + `]`, 400, "…object", 0},
		{"an event", good(0), 400, "…batch", 0},
		{"encrypted among others", batch(10, 9, `{"name":"e","channel":"private-encrypted-a","data":"x"}`), 200, "{}", 9},
		{"two encrypted", `{"batch":[{"name":"e","channel":"private-encrypted-a","data":"x"},{"name":"e","channel":"private-encrypted-b","data":"x"}]}`, 200, "{}", 0},
		{"one excluded", batch(3, 2, `{"name":"e","channel":"a","data":"x","socket_id":"`+a.id+`"}`), 200, "{}", 2},
		{"one for a user", batch(2, 1, `{"name":"e","channel":"#server-to-user-1","data":"x"}`), 200, "{}", 1},

		{"no channel", batch(10, 5, `{"name":"e","data":"x"}`), 400, missingChannel, 0},
		{"channels", batch(10, 5, `{"name":"e","channels":["a"],"data":"x"}`), 400, "…channels", 0},
		{"bad channel", batch(10, 5, `{"name":"e","channel":"a b","data":"x"}`), 400, "…channel", 0},
		{"no name", batch(10, 5, `{"channel":"a","data":"x"}`), 400, "…name", 0},
		{"name a number", batch(10, 5, `{"name":1,"channel":"a","data":"x"}`), 400, nameNoString, 0},
		{"reserved name", batch(10, 5, `{"name":"pusher:x","channel":"a","data":"x"}`), 400, "…pusher:", 0},
		{"no data", batch(10, 5, `{"name":"e","channel":"a"}`), 400, "…data", 0},
		{"too much data", batch(10, 9, `{"name":"e","channel":"a","data":"`+strings.Repeat("x", 10241)+`"}`), 413, tooMuchData, 0},
		{"bad socket id", batch(10, 5, `{"name":"e","channel":"a","data":"x","socket_id":"1"}`), 400, "…socket id", 0},
		{"info a number", batch(10, 5, `{"name":"e","channel":"a","data":"x","info":1}`), 400, "…info", 0},
		{"item a string", batch(10, 5, `"e"`), 400, "…5", 0},
		{"item null", batch(10, 9, `null`), 400, "…9", 0},
	} {
		t.Run(c.desc, func(t *testing.T) {
			apiCase{"", "POST", "/apps/1/batch_events", "", c.body, c.status, c.want}.run(t, s.addr)
			s.expectOnly(a, frames(c.delivered)...)
		})
	}
}

func TestAPIGet(t *testing.T) {
	runAPI(t, startEdge(t), []apiCase{
		{"nothing occupied", "GET", "/apps/1/channels", "", "", 200, `{"channels":{}}`},
		{"nothing occupied with users", "GET", "/apps/1/channels", "filter_by_prefix=presence-&info=user_count", "", 200, `{"channels":{}}`},
	})
	const (
		channels    = "/apps/1/channels"
		needsFilter = "user_count may only be requested for presence channels - please supply filter_by_prefix begining with presence-"
		noCount     = "Cannot retrieve the user count unless the channel is a presence channel"
		noUsers     = "Users can only be retrieved for presence channels"
	)
	addr := populate(t).addr
	publish(t, addr, "cache-unoccupied", "e", "x") // exists, but is not occupied
	runAPI(t, addr, []apiCase{
		{"channels", "GET", channels, "", "", 200, `{"channels":{"a":{},"cache-a":{},"mycache-x":{},"presence-a":{},"presence-cache-a":{},` +
			`"presencex":{},"private-a":{},"private-cache-a":{},"private-encrypted-a":{}}}`},
		{"with subscriptions", "GET", channels, "info=subscription_count", "", 200, `{"channels":{"a":{"subscription_count":2},` +
			`"cache-a":{"subscription_count":1},"mycache-x":{"subscription_count":1},"presence-a":{"subscription_count":3},` +
			`"presence-cache-a":{"subscription_count":1},"presencex":{"subscription_count":1},"private-a":{"subscription_count":1},` +
			`"private-cache-a":{"subscription_count":1},"private-encrypted-a":{"subscription_count":1}}}`},
		{"by prefix", "GET", channels, "filter_by_prefix=private-", "", 200, `{"channels":{"private-a":{},"private-cache-a":{},"private-encrypted-a":{}}}`},
		{"by whole name", "GET", channels, "filter_by_prefix=private-cache-a", "", 200, `{"channels":{"private-cache-a":{}}}`},
		{"by no one's prefix", "GET", channels, "filter_by_prefix=zzz", "", 200, `{"channels":{}}`},
		{"by empty prefix", "GET", channels, "filter_by_prefix=mycache&info=", "", 200, `{"channels":{"mycache-x":{}}}`},
		{"of users", "GET", channels, "filter_by_prefix=%23", "", 200, `{"channels":{}}`},
		{"with users", "GET", channels, "filter_by_prefix=presence-&info=user_count", "", 200,
			`{"channels":{"presence-a":{"user_count":2},"presence-cache-a":{"user_count":1}}}`},
		{"with both", "GET", channels, "filter_by_prefix=presence-a&info=user_count,subscription_count", "", 200,
			`{"channels":{"presence-a":{"user_count":2,"subscription_count":3}}}`},
		{"info escaped", "GET", channels, "filter_by_prefix=presence%2Da&info=user_count%2Csubscription_count", "", 200,
			`{"channels":{"presence-a":{"user_count":2,"subscription_count":3}}}`},
		{"unknown info", "GET", channels, "filter_by_prefix=mycache-&info=x,subscription_count,cache", "", 200, `{"channels":{"mycache-x":{"subscription_count":1}}}`},
		{"users of all", "GET", channels, "info=user_count", "", 400, needsFilter},
		{"users of private", "GET", channels, "filter_by_prefix=private-&info=user_count", "", 400, needsFilter},
		{"users of presence without a dash", "GET", channels, "filter_by_prefix=presence&info=subscription_count,user_count", "", 400, needsFilter},

		{"occupied", "GET", channels + "/a", "", "", 200, `{"occupied":true}`},
		{"occupied with count", "GET", channels + "/a", "info=subscription_count", "", 200, `{"occupied":true,"subscription_count":2}`},
		{"presence", "GET", channels + "/presence-a", "info=user_count,subscription_count", "", 200, `{"occupied":true,"user_count":2,"subscription_count":3}`},
		{"encrypted", "GET", channels + "/private-encrypted-a", "info=subscription_count", "", 200, `{"occupied":true,"subscription_count":1}`},
		{"never seen", "GET", channels + "/b", "", "", 200, `{"occupied":false}`},
		{"never seen with count", "GET", channels + "/b", "info=subscription_count", "", 200, `{"occupied":false,"subscription_count":0}`},
		{"never seen presence", "GET", channels + "/presence-b", "info=subscription_count,user_count", "", 200, `{"occupied":false,"user_count":0,"subscription_count":0}`},
		{"vacated", "GET", channels + "/gone", "info=subscription_count", "", 200, `{"occupied":false,"subscription_count":0}`},
		{"only cached", "GET", channels + "/cache-unoccupied", "info=subscription_count", "", 200, `{"occupied":false,"subscription_count":0}`},
		{"unknown token", "GET", channels + "/a", "info=x", "", 200, `{"occupied":true}`},
		{"users of a public channel", "GET", channels + "/a", "info=user_count", "", 400, noCount},
		{"users of a private channel", "GET", channels + "/private-a", "info=subscription_count,user_count", "", 400, noCount},
		{"users of presencex", "GET", channels + "/presencex", "info=user_count", "", 400, noCount},
		{"cache of a public channel", "GET", channels + "/a", "info=cache", "", 400, "…cache"},
		{"cache of mycache-x", "GET", channels + "/mycache-x", "info=cache", "", 400, "…cache"},
		{"cache of presence", "GET", channels + "/presence-a", "info=user_count,cache", "", 400, "…cache"},
		{"empty cache", "GET", channels + "/cache-a", "info=cache", "", 200, `{"occupied":true,"cache":null}`},
		{"empty cache, unoccupied", "GET", channels + "/private-encrypted-cache-b", "info=cache", "", 200, `{"occupied":false,"cache":null}`},
		{"all", "GET", channels + "/presence-cache-a", "info=cache,subscription_count,user_count", "", 200,
			`{"occupied":true,"user_count":1,"subscription_count":1,"cache":null}`},
		{"bad name", "GET", channels + "/a%20b", "", "", 400, "…channel"},
		{"escaped slash", "GET", channels + "/a%2Fb", "", "", 400, "…channel"},
		{"reserved name", "GET", channels + "/%23a", "", "", 400, "…channel"},

		{"users", "GET", channels + "/presence-a/users", "", "", 200, `{"users":[{"id":"1"},{"id":"\"é"}]}`},
		{"a numeric user", "GET", channels + "/presence-cache-a/users", "", "", 200, `{"users":[{"id":"10"}]}`},
		{"no users", "GET", channels + "/presence-b/users", "", "", 200, `{"users":[]}`},
		{"no presence channel", "GET", channels + "/private-a/users", "", "", 400, noUsers},
		{"users of a bad name", "GET", channels + "/presence-%20/users", "", "", 400, "…channel"},

		{"with the MD5 of nothing, as Python", "GET", channels + "/a", "body_md5=d41d8cd98f00b204e9800998ecf8427e", "", 200, `{"occupied":true}`},
	})
}

func TestAPICache(t *testing.T) {
	s := startServer(t, "-cache-ttl", "1h")
	c := connect(t, s.addr)
	publish(t, s.addr, "cache-a", "old", "old")
	body := `{"batch":[{"name":"e","channel":"cache-a","data":"{\"a\":\"\/\"}","socket_id":"` + c.id + `"}]}` // exclusion is no matter of the cache
	apiCase{"", "POST", "/apps/1/batch_events", "", body, 200, "{}"}.run(t, s.addr)
	_, answer := apiCall(t, s.addr, "GET", "/apps/1/channels/cache-a", "info=cache", "")
	m := regexp.MustCompile(`^\{"occupied":false,"cache":\{"data":"\{\\"a\\":\\"\\/\\"\}","ttl":(\d+)\}\}$`).FindStringSubmatch(answer)
	if m == nil {
		t.Fatalf("got %s", answer)
	}
	if ttl, _ := strconv.Atoi(m[1]); ttl < 3000 || ttl > 3600 {
		t.Errorf("ttl of an hour is %d", ttl)
	}
	c.subscribe("cache-a", "")
	c.expect(succeeded("cache-a"), `{"event":"e","channel":"cache-a","data":"{\"a\":\"\/\"}"}`)
	publish(t, s.addr, "a", "e", "x") // keeps nothing
	apiCase{"", "GET", "/apps/1/channels/a", "info=cache", "", 400, "…cache"}.run(t, s.addr)
}

func TestAPIUserEvents(t *testing.T) {
	s := startServer(t)
	u, second, v := connect(t, s.addr), connect(t, s.addr), connect(t, s.addr)
	signIn(u, "12345")
	signIn(second, "12345")
	signIn(v, "1234")
	second.send(`{"event":"pusher:subscribe","data":{"channel":"#server-to-user-12345","auth":""}}`)
	second.expect(succeeded("#server-to-user-12345"))
	for _, body := range []string{
		`{"name":"e","data":"x","channel":"#server-to-user-12345"}`,
		`{"name":"e","data":"x","channels":["#server-to-user-12345","a"]}`,
	} {
		apiCase{"", "POST", "/apps/1/events", "", body, 200, "{}"}.run(t, s.addr)
		s.expectOnly(u, event("e", "#server-to-user-12345", "x"))
		s.expectOnly(second, event("e", "#server-to-user-12345", "x"))
		s.expectOnly(v)
	}
}

func TestAPITerminate(t *testing.T) {
	s := startServer(t)
	for _, c := range []struct{ path, user, body string }{
		{"/apps/1/users/u/terminate_connections", "u", "{}"},
		{"/apps/1/users/u/terminate_connections", "u", ""},
		{"/users/u/terminate_connections", "u", "{}"}, // as the Python library
		{"/apps/1/users/%61%40b%2C%3B/terminate_connections", "a@b,;", "{}"},
		{"/users/u@=;.,-_/terminate_connections", "u@=;.,-_", ""},
	} {
		first, second, other, member := connect(t, s.addr), connect(t, s.addr), connect(t, s.addr), connect(t, s.addr)
		signIn(first, c.user)
		signIn(second, c.user)
		signIn(other, "other")
		enter(member, "presence-a", fmt.Sprintf(`{"user_id":%s}`, quote(c.user))) // not signed in
		apiCase{"", "POST", c.path, "", c.body, 200, "{}"}.run(t, s.addr)
		for _, closed := range []*peer{first, second} {
			if reason := closed.expectClose(4009); reason == "" {
				t.Error("closed without a reason")
			}
		}
		other.settled()
		member.settled()
	}
	apiCase{"", "POST", "/apps/1/users/caf%C3%A9%20%2F/terminate_connections", "", "{}", 200, "{}"}.run(t, s.addr) // nobody's id
	apiCase{"", "POST", "/apps/1/users/nobody/terminate_connections", "", "{}", 200, "{}"}.run(t, s.addr)
	apiCase{"", "POST", "/users/nobody/terminate_connections", "", "", 200, "{}"}.run(t, s.addr)
}

func TestAPIAppID(t *testing.T) {
	event := `{"name":"e","channel":"a","data":"x"}`
	runAPI(t, startEdge(t, "-id", "7"), []apiCase{
		{"own id", "POST", "/apps/7/events", "", event, 200, "{}"},
		{"own id escaped", "POST", "/apps/%37/events", "", event, 200, "{}"},
		{"other id", "POST", "/apps/8/events", "", event, 404, `…"8"`},
		{"longer id", "POST", "/apps/70/events", "", event, 404, `…"70"`},
		{"other id, batch", "POST", "/apps/8/batch_events", "", `{"batch":[` + event + `]}`, 404, `…"8"`},
		{"other id, channels", "GET", "/apps/8/channels", "", "", 404, `…"8"`},
		{"other id, channel", "GET", "/apps/8/channels/a", "", "", 404, `…"8"`},
		{"other id, users", "GET", "/apps/8/channels/presence-a/users", "", "", 404, `…"8"`},
		{"other id, terminate", "POST", "/apps/8/users/u/terminate_connections", "", "{}", 404, `…"8"`},
		{"no id in Python's path", "POST", "/users/u/terminate_connections", "", "{}", 200, "{}"},
	})
	runAPI(t, startEdge(t), []apiCase{
		{"any id", "POST", "/apps/8/events", "", event, 200, "{}"},
		{"any word", "POST", "/apps/an%20app/events", "", event, 200, "{}"},
	})
}

func TestAPIPathsAndMethods(t *testing.T) {
	addr := startEdge(t)
	for _, path := range []string{
		"/apps", "/apps/", "/apps/1", "/apps/1/", "/apps/1/event", "/apps/1/events/", "/apps/1/events/x", "/apps/1/channels/a/x",
		"/apps/1/channels/a/users/x", "/apps/1/channels/a/events", "/apps/1/channels/a/stats", "/apps/1/users/u", "/apps/1/users/u/x", "/APPS/1/events", "/apps/1/Events", "/users/u", "/channels", "/x",
	} {
		for _, method := range []string{"GET", "POST"} {
			apiCase{"", method, path, "", "", 404, "…not found"}.run(t, addr)
		}
	}
	for path, right := range map[string]string{
		"/apps/1/events":                        "POST",
		"/apps/1/batch_events":                  "POST",
		"/apps/1/channels":                      "GET",
		"/apps/1/channels/a":                    "GET",
		"/apps/1/channels/a/users":              "GET",
		"/apps/1/users/u/terminate_connections": "POST",
		"/users/u/terminate_connections":        "POST",
	} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
			if method != right {
				apiCase{"", method, path, "", "", 405, "…Method Not Allowed"}.run(t, addr)
			}
		}
	}
	for path, want := range map[string]string{"/": "/apps/{id}/events", "/health": "ok\n"} {
		resp, err := http.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if kind := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || !strings.Contains(string(b), want) || !strings.HasPrefix(kind, "text/plain") {
			t.Errorf("GET %s: %d %s %q", path, resp.StatusCode, kind, b)
		}
	}
}

// rawCall sends a request as it is, and reads the answer.
func rawCall(t testing.TB, addr, request string) *http.Response {
	t.Helper()
	conn := dial(t, addr)
	go io.WriteString(conn, request) // ends at the latest when conn is closed; an answer may come before all is sent
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%.100q: %v", request, err)
	}
	return resp
}

func TestAPIPathTricks(t *testing.T) {
	addr := startEdge(t)
	const body = `{"name":"e","channel":"a","data":"x"}`
	for _, path := range []string{
		"/apps/1/../2/events", "/apps/1/../../apps/2/events", "//apps/1/events", "/apps//events", "/apps//1/events", "/apps/./1/events",
		"/apps/1/events/.", "/apps/1/events/..", "/apps/1/%2e%2e/2/events", "/apps/%2e%2e/events", "/apps/%2E/events", "/apps/1;x/events",
		"/apps/1/events;x=1", "/apps/1/events;", "/;/apps/1/events", "/apps/1%2fevents", "/apps%2f1%2fevents", "/apps/1/events%00",
		"/apps/1/events%", "/apps/1/events%zz", "/apps/%ff/events", "/apps/%00/events", "/apps/1/channels/%2e%2e/users", "/apps/1/channels/../users",
		"/apps/1/channels/..%2f..%2f..%2fhealth/users", "/apps/1/channels//users", "/apps/1/channels/", "/users//terminate_connections",
		"/users/%2e%2e/terminate_connections", "/users/../terminate_connections", "/app/../apps/1/events", "/apps/1/events#x", "/apps/1/events?;",
		"/apps/1/events?&&&", "/apps/1/events?=", "/apps/1/events?%", "/apps/1/events?auth_key=key;auth_signature=x", "/apps/1/events?auth_key=key&auth_key=key",
		"http://elsewhere/apps/1/events", "/apps/1/events?auth_key", "/apps/\\1/events", "/apps/1/channels/a?info=cache",
	} {
		for _, method := range []string{"GET", "POST", "HEAD", "PUT", "CONNECT"} {
			resp := rawCall(t, addr, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", method, path, addr, len(body), body))
			if resp.StatusCode < 300 || resp.StatusCode >= 500 {
				t.Errorf("%s %s without a signature: %s", method, path, resp.Status)
			}
			u := signedURL("", method, path, "", body)
			resp = rawCall(t, addr, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", method, strings.TrimPrefix(u, "http://"), addr, len(body), body))
			if resp.StatusCode >= 500 {
				t.Errorf("%s %s with a signature: %s", method, path, resp.Status)
			}
		}
	}
}

// A client may sign the path as it is sent, or as it means it.
func TestAPIEscapedPath(t *testing.T) {
	addr := startEdge(t)
	for sent, meant := range map[string]string{
		"/apps/1/channels/presence-a%2Cb/users":      "/apps/1/channels/presence-a,b/users",
		"/apps/1/channels/presence-a%2cb/users":      "/apps/1/channels/presence-a,b/users",
		"/apps/1/channels/presence-%61%40b%3B/users": "/apps/1/channels/presence-a@b;/users",
		"/apps/a%20b/channels/presence-x/users":      "/apps/a b/channels/presence-x/users",
		"/apps/%C3%A9/channels/presence-x/users":     "/apps/é/channels/presence-x/users",
		"/apps/1%2F2/channels/presence-x/users":      "/apps/1/2/channels/presence-x/users",
		"/apps/1/channels/presence-a@b;=,/users":     "/apps/1/channels/presence-a@b;=,/users",
	} {
		for _, signed := range []string{sent, meant} {
			_, query, _ := strings.Cut(signedURL(addr, "GET", signed, "", ""), "?")
			status, answer := apiAnswer(t, rawCall(t, addr, fmt.Sprintf("GET %s?%s HTTP/1.1\r\nHost: %s\r\n\r\n", sent, query, addr)))
			if status != 200 || answer != `{"users":[]}` {
				t.Errorf("GET %s signed as %s: %d %s", sent, signed, status, answer)
			}
		}
		_, query, _ := strings.Cut(signedURL(addr, "GET", "/apps/1/channels/presence-other/users", "", ""), "?")
		status, _ := apiAnswer(t, rawCall(t, addr, fmt.Sprintf("GET %s?%s HTTP/1.1\r\nHost: %s\r\n\r\n", sent, query, addr)))
		if status != 401 {
			t.Errorf("GET %s signed as another path: %d", sent, status)
		}
	}
}

// bodyOfSize is an event for channel a, padded with white space.
func bodyOfSize(n int) string {
	const e = `{"name":"e","channel":"a","data":"x"}`
	return e + strings.Repeat(" ", n-len(e))
}

func TestAPIBody(t *testing.T) {
	s := startServer(t)
	limit := bodyLimit(s.app.Limits())
	for _, c := range []struct {
		desc   string
		size   int
		status int
		want   string
	}{
		{"small", 40, 200, "{}"},
		{"as large as allowed", limit, 200, "{}"},
		{"too large", limit + 1, 413, "…" + strconv.Itoa(limit)},
	} {
		body := bodyOfSize(c.size)
		target := strings.TrimPrefix(signedURL("", "POST", "/apps/1/events", "", body), "http://")
		head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\n", target, s.addr)
		chunks, rest := "", body
		for n := 1; rest != ""; n = min(7*n, len(rest)) {
			chunks, rest = chunks+fmt.Sprintf("%x\r\n%s\r\n", n, rest[:n]), rest[n:]
		}
		for how, request := range map[string]string{
			"with its length": fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(body), body),
			"in chunks":       head + "Transfer-Encoding: chunked\r\n\r\n" + chunks + "0\r\n\r\n",
			"of another type": fmt.Sprintf("%sContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s", head, len(body), body),
		} {
			t.Run(c.desc+" "+how, func(t *testing.T) {
				status, answer := apiAnswer(t, rawCall(t, s.addr, request))
				wantAnswer(t, status, answer, c.status, c.want)
			})
		}
	}
	t.Run("announced only", func(t *testing.T) { // refused before a byte of it is read
		target := strings.TrimPrefix(signedURL("", "POST", "/apps/1/events", "", "x"), "http://")
		status, _ := apiAnswer(t, rawCall(t, s.addr, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000000\r\n\r\n", target)))
		if status != 413 {
			t.Errorf("got %d", status)
		}
	})
	t.Run("not signed", func(t *testing.T) {
		status, _ := apiAnswer(t, rawCall(t, s.addr, "POST /apps/1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000000\r\n\r\n"))
		if status != 401 {
			t.Errorf("got %d", status)
		}
	})
}

func TestAPIKeepAlive(t *testing.T) {
	addr := startEdge(t)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	in := bufio.NewReader(conn)
	for i := range 300 {
		body, status := bodyOfSize(100), 200
		switch i % 3 {
		case 1: // refusals keep the connection too
			body, status = "{}", 400
		case 2:
			status = 401
		}
		target := strings.TrimPrefix(signedURL("", "POST", "/apps/1/events", "", body), "http://")
		if status == 401 {
			target += "0"
		}
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", target, addr, len(body), body)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		if got, answer := apiAnswer(t, resp); got != status || resp.Close {
			t.Fatalf("request %d: %d %s, closing: %t", i, got, answer, resp.Close)
		}
	}
}

// The key of the vectors in Pusher's documentation.
const docKey, docSecret, docTime = "278d425bdf160c739803", "7ad3773142a6692b25b8", 1353088179

// docAPI is an API without a network, whose clock is off by skew seconds.
func docAPI(skew int64) http.Handler {
	o, err := parseOptions([]string{"-key", "other", "-secret", "another", "-more-keys", docKey + ":" + docSecret}, noEnv)
	if err != nil {
		panic(err)
	}
	s, _ := newServer(o, conn.NewBudget(o.memory), nil)
	s.clock.built, s.clock.now = time.Time{}, func() time.Time { return time.Unix(docTime+skew, 0) }
	return s.offlineHandler()
}

func recordAPI(t testing.TB, h http.Handler, method, target, body string) (status int, answer string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	return apiAnswer(t, w.Result())
}

const (
	docQuery = "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0"
	docBody  = `{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}`
	docMD5   = "&body_md5=ec365a775a4cd0599faeb73354201b6f"
	docV9    = "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"
)

func TestAPIVectors(t *testing.T) {
	h := docAPI(0)
	const v15 = `{"batch":[{"channel":"project-3","name":"foo","data":"{\"some\":\"data\"}"}]}`
	const sig = "&auth_signature="
	for _, v := range []struct {
		name, method, target, body string
		status                     int
		want                       string
	}{
		{"V9", "POST", "/apps/3/events?" + docQuery + docMD5 + sig + docV9, docBody, 200, "{}"},
		{"V9 in another order", "POST", "/apps/3/events?auth_signature=" + docV9 + docMD5 +
			"&auth_version=1.0&auth_timestamp=1353088179&auth_key=278d425bdf160c739803", docBody, 200, "{}"},
		{"V9 in upper case", "POST", "/apps/3/events?AUTH_KEY=278d425bdf160c739803&Auth_Timestamp=1353088179&auth_Version=1.0" +
			strings.ToUpper("&body_md5=") + docMD5[len("&body_md5="):] + "&AUTH_SIGNATURE=" + docV9, docBody, 200, "{}"},
		{"V9 with empty parts", "POST", "/apps/3/events?&&" + docQuery + "&" + docMD5 + sig + docV9 + "&", docBody, 200, "{}"},
		{"V10", "GET", "/apps/3/channels?" + docQuery + "&filter_by_prefix=presence-&info=user_count,subscription_count" + sig +
			"ff97d40ab3fbbd15394386a29c12998c33635305357b2e2abd18dc67efe3f87d", "", 200, `{"channels":{}}`},
		{"V10 escaped", "GET", "/apps/3/channels?" + docQuery + "&filter_by_prefix=presence%2d&info=user%5Fcount%2Csubscription_count" + sig +
			"ff97d40ab3fbbd15394386a29c12998c33635305357b2e2abd18dc67efe3f87d", "", 200, `{"channels":{}}`},
		{"V11", "GET", "/apps/3/channels?" + docQuery + sig + "1cafa6382331c976588eb6bd3925a988e4158402be06c4626d0e97d2981f5382", "", 200, `{"channels":{}}`},
		{"V12", "GET", "/apps/3/channels?" + docQuery + "&body_md5=d41d8cd98f00b204e9800998ecf8427e" + sig +
			"5c3cd75022c4f62c35ad22f6a9cce366c860477a3b7092ca790ecfc17e6af302", "", 200, `{"channels":{}}`},
		{"V13", "POST", "/apps/3/users/12345/terminate_connections?" + docQuery + "&body_md5=99914b932bd37a50b983c5e7c90ae93b" + sig +
			"01fa634edeb0cae84115307cad5c23f65a46cd286461b1c89637a3b5871a8f0e", "{}", 200, "{}"},
		{"V14", "POST", "/apps/3/events?" + docQuery + "&channels[]=c1&channels[]=c2&name=foo" + sig +
			"f8b12c527610b5d37a6bbda4852e6dad872d1f7df72e42ee9277c5317a43b730", "", 400, "…data"}, // the signature is right
		{"V15", "POST", "/apps/3/batch_events?" + docQuery + "&body_md5=39e691c1f6a83daf77df2397111bfd98" + sig +
			"9df3472fb01f5d693bc9bd922118eb51e8268ac59841d3c6e3c37d488a837534", v15, 200, "{}"},
	} {
		t.Run(v.name, func(t *testing.T) {
			status, answer := recordAPI(t, h, v.method, v.target, v.body)
			wantAnswer(t, status, answer, v.status, v.want)
		})
	}
}

// Every failure names the part that is wrong, and none gives the right signature away.
func TestAPIAuthentication(t *testing.T) {
	key := sign.NewKey(docKey, docSecret)
	const stamp = "&auth_timestamp=1353088179&auth_version=1.0"
	const k = "auth_key=" + docKey
	for _, c := range []struct {
		desc, query string // query is signed unless it has a signature
		skew        int64
		body        string
		status      int
		want        string
	}{
		{"right", docQuery + docMD5, 0, docBody, 200, "{}"},
		{"no body", docQuery, 0, "", 400, "…name"}, // the signature is right
		{"the other key", "auth_key=other" + stamp + docMD5, 0, docBody, 200, "{}"},
		{"600 s late", docQuery + docMD5, 600, docBody, 200, "{}"},
		{"600 s early", docQuery + docMD5, -600, docBody, 200, "{}"},

		{"nothing", "auth_signature=", 0, docBody, 401, "Missing parameter: auth_key"},
		{"no key", "auth_timestamp=1353088179&auth_version=1.0" + docMD5, 0, docBody, 401, "Missing parameter: auth_key"},
		{"empty key", "auth_key=" + stamp + docMD5, 0, docBody, 401, "…auth_key"},
		{"unknown key", "auth_key=x" + stamp + docMD5, 0, docBody, 401, "…Unknown auth_key"},
		{"key and more", k + "x" + stamp + docMD5, 0, docBody, 401, "…Unknown auth_key"},
		{"no version", k + "&auth_timestamp=1353088179" + docMD5, 0, docBody, 401, "…Version required"},
		{"other version", k + "&auth_timestamp=1353088179&auth_version=2.0" + docMD5, 0, docBody, 401, "…Version not supported"},
		{"empty version", k + "&auth_timestamp=1353088179&auth_version=" + docMD5, 0, docBody, 401, "…Version"},
		{"no timestamp", k + "&auth_version=1.0" + docMD5, 0, docBody, 401, "…Timestamp required"},
		{"empty timestamp", k + "&auth_timestamp=&auth_version=1.0" + docMD5, 0, docBody, 401, "…Timestamp required"},
		{"timestamp a word", k + "&auth_timestamp=now&auth_version=1.0" + docMD5, 0, docBody, 401, "…auth_timestamp"},
		{"timestamp in milliseconds", k + "&auth_timestamp=1353088179000&auth_version=1.0" + docMD5, 0, docBody, 401, "…auth_timestamp"},
		{"timestamp with a fraction", k + "&auth_timestamp=1353088179.5&auth_version=1.0" + docMD5, 0, docBody, 401, "…auth_timestamp"},
		{"timestamp negative", k + "&auth_timestamp=-1&auth_version=1.0" + docMD5, 0, docBody, 401, "…auth_timestamp"},
		{"timestamp beyond all", k + "&auth_timestamp=99999999999999999999&auth_version=1.0" + docMD5, 0, docBody, 401, "…auth_timestamp"},
		{"601 s late", docQuery + docMD5, 601, docBody, 401,
			"…Timestamp expired: Given timestamp (2012-11-16T17:49:39Z) not within 600s of server time (2012-11-16T17:59:40Z)"},
		{"601 s early", docQuery + docMD5, -601, docBody, 401,
			"…Timestamp expired: Given timestamp (2012-11-16T17:49:39Z) not within 600s of server time (2012-11-16T17:39:38Z)"},
		{"key before version", "auth_key=x", 601, docBody, 401, "…auth_key"},
		{"version before timestamp", k, 601, docBody, 401, "…Version"},
		{"timestamp before signature", docQuery + "&auth_signature=x", 601, docBody, 401, "…Timestamp expired"},
		{"no signature", docQuery + docMD5 + "&auth_signature=", 0, docBody, 401, "…ignature"},
		{"bad signature", docQuery + docMD5 + "&auth_signature=00", 0, docBody, 401,
			`Invalid signature: you should have sent HmacSHA256Hex("POST\n/apps/3/events\nauth_key=278d425bdf160c739803&auth_timestamp=1353088179` +
				`&auth_version=1.0&body_md5=ec365a775a4cd0599faeb73354201b6f", your_secret_key), but you sent "00"`},
		{"upper case signature", docQuery + docMD5 + "&auth_signature=" + strings.ToUpper(docV9), 0, docBody, 401, "…Invalid signature"},
		{"half a signature", docQuery + docMD5 + "&auth_signature=" + docV9[:32], 0, docBody, 401, "…Invalid signature"},
		{"one more parameter", docQuery + docMD5 + "&x=y&auth_signature=" + docV9, 0, docBody, 401, "…Invalid signature"},
		{"no body_md5", docQuery, 0, docBody, 401, "…body_md5"},
		{"other body", docQuery + docMD5, 0, docBody + " ", 401, "…body_md5"},
		{"body lost", docQuery + docMD5, 0, "", 401, "…body_md5"},
		{"the MD5 of no body", docQuery + "&body_md5=d41d8cd98f00b204e9800998ecf8427e", 0, "", 400, "…name"}, // the signature is right
		{"empty body_md5", docQuery + "&body_md5=", 0, docBody, 401, "…body_md5"},
		{"signature over the second of two", docQuery + docMD5 + "&name=a&name=b", 0, docBody, 400, "…name"},
		{"keys that differ in case", docQuery + docMD5 + "&AUTH_KEY=x", 0, docBody, 400, "…auth_key"},
		{"a broken escape", docQuery + docMD5 + "&x=%zz", 0, docBody, 400, "…%zz"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			query := c.query
			if !strings.Contains(query, "auth_signature") {
				ps, _ := sign.ParseParams(nil, query)
				signer := key
				if ps.Get("auth_key") == "other" {
					signer = sign.NewKey("other", "another")
				}
				query += "&auth_signature=" + string(signer.Sign(nil, sign.RequestText(nil, "POST", "/apps/3/events", ps)))
			}
			status, answer := recordAPI(t, docAPI(c.skew), "POST", "/apps/3/events?"+query, c.body)
			wantAnswer(t, status, answer, c.status, c.want)
			if !strings.Contains(query, docV9) && strings.Contains(answer, docV9) {
				t.Errorf("the answer gives the right signature away: %s", answer)
			}
		})
	}
	for _, target := range []string{"/apps/3/event?", "/apps/4/events?", "/apps/3/channels?"} { // the path and method are signed
		method := map[bool]string{true: "GET", false: "POST"}[target == "/apps/3/channels?"]
		if status, _ := recordAPI(t, docAPI(0), method, target+docQuery+docMD5+"&auth_signature="+docV9, docBody); status != 401 && status != 404 {
			t.Errorf("%s %s with the signature of another: %d", method, target, status)
		}
	}
}

// postEvents returns a function that makes the same call again and again without a network.
func postEvents(t testing.TB) func() {
	h, body := testOptions(t).server(t).offlineHandler(), fmt.Sprintf(`{"name":"App\\Events\\OrderShipped","channels":["private-orders.12345"],"data":%s}`, quote(`{"text":"`+strings.Repeat("x", 170)+`"}`))
	r := httptest.NewRequest("POST", strings.TrimPrefix(signedURL("", "POST", "/apps/1/events", "", body), "http://"), nil)
	in := strings.NewReader(body)
	r.Body, r.ContentLength = io.NopCloser(in), int64(len(body))
	w := &discardWriter{header: make(http.Header)}
	return func() {
		in.Reset(body)
		clear(w.header)
		h.ServeHTTP(w, r)
		if w.status != 200 {
			t.Fatalf("status %d", w.status)
		}
	}
}

// discardWriter is a ResponseWriter that costs nothing.
type discardWriter struct {
	header http.Header
	status int
}

func (d *discardWriter) Header() http.Header         { return d.header }
func (d *discardWriter) WriteHeader(status int)      { d.status = status }
func (d *discardWriter) Write(b []byte) (int, error) { return len(b), nil }

func TestPostEventsAllocations(t *testing.T) {
	if edgetest.Race {
		t.Skip("the race detector empties pools")
	}
	const most = 6 // the last is ServeMux's
	if n := testing.AllocsPerRun(1000, postEvents(t)); n > most {
		t.Errorf("POST /events allocates %.0f times, want at most %d", n, most)
	}
}

func BenchmarkPostEvents(b *testing.B) {
	post := postEvents(b)
	b.ReportAllocs()
	for b.Loop() {
		post()
	}
}

// TestPostEventsAllocationsInAll counts what a request costs with net/http, whose own 22 we cannot avoid, and a subscriber.
func TestPostEventsAllocationsInAll(t *testing.T) {
	if edgetest.Race || runtime.GOOS != "linux" {
		t.Skip("something else allocates")
	}
	const most = 28
	loadEvent := fmt.Sprintf(`{"name":"event","channel":"room","data":%s}`, benchData)
	addr := startEdge(t)
	sub := connect(t, addr)
	sub.join("room")
	path := strings.TrimPrefix(signedURL(addr, "POST", "/apps/1/events", "", loadEvent), "http://"+addr)
	request := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, addr, len(loadEvent), loadEvent)
	conn := dial(t, addr)
	answer, events := make([]byte, 4096), make([]byte, 64<<10)
	once := func() {
		conn.Write(request)
		if n, err := conn.Read(answer); err != nil || !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 200 OK")) {
			t.Fatalf("%s %v", answer[:n], err)
		}
		sub.in.Read(events)
	}
	if n := testing.AllocsPerRun(20000, once); n > most {
		t.Errorf("%v allocations for a request, at most %d are allowed", n, most)
	} else {
		t.Logf("%v allocations for a request", n)
	}
}
