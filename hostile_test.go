package main

// What an enemy sends: JSON texts, requests and signatures that are wrong in one place, and requests that never end.

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/sign"
	"edge/internal/wire"
)

// 2. Memory

// allocated returns how many bytes f allocates: the least, since something else may allocate meanwhile. No collection empties the
// pools that f uses in between.
func allocated(f func()) int {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	least := math.MaxInt
	for range 5 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, int(after.TotalAlloc-before.TotalAlloc))
	}
	return least
}

// upTo repeats part between before and after as often as n bytes have room for.
func upTo(n int, before, part, after string) string {
	return before + strings.Repeat(part, max(0, (n-len(before)-len(after))/len(part))) + after
}

// hostileTexts are texts of up to n bytes that make parsers waste memory: those that did it to fastjson, and their like.
func hostileTexts(n int) map[string]string {
	deep := strings.Repeat("[", 14) + strings.Repeat("]", 14)
	return map[string]string{
		"301 open":             strings.Repeat("[", 301),
		"open":                 upTo(n, "", "[", ""),
		"deep":                 strings.Repeat("[", n/2) + strings.Repeat("]", n/2),
		"deep and NULs":        upTo(n, strings.Repeat("[", 298)+"t", "\x00", ""),
		"deep objects":         upTo(n, "", `{"":`, ""),
		"ones":                 upTo(n, "[", "1,", "1]"),
		"objects":              upTo(n, "[", "{},", "{}]"),
		"empty strings":        upTo(8000, "[", `"",`, `""]`),
		"deep enough":          upTo(n, "[", deep+",", "1]"),
		"newlines":             upTo(n, `"`, `\n`, `"`),
		"unicode escapes":      upTo(n, `"`, `\u00e9`, `"`),
		"half pairs":           upTo(n, `"`, `\ud800`, `"`),
		"bad escape at last":   upTo(n, `"`, `\u0041`, `\q"`),
		"spaces":               upTo(n, "", " ", "1"),
		"duplicates":           upTo(n, "{", `"event":0,`, `"event":0}`),
		"duplicates, escaped":  upTo(n, "{", `"\u0065vent":0,`, `"channel":0}`),
		"a long name":          upTo(n, `{"`, `\u0061`, `":0}`),
		"a long channel":       upTo(n, `{"channel":"`, `\u0061`, `"}`),
		"long strings":         upTo(n/2, `{"auth":"`, `\n`, `",`) + upTo(n/2-2, `"user_data":"`, `\n`, `"}`),
		"JSON in JSON":         upTo(n, `"[`, `\"\",`, `1]"`),
		"JSON in JSON, escape": upTo(n, `"{\"channel\":\"`, `\\u0061`, `\"}"`),
	}
}

// TestHostileAllocations: no message costs more memory than twice its size and 4 KiB, and no body more than measureAPI says.
func TestHostileAllocations(t *testing.T) {
	if edgetest.Race {
		t.Skip("the race detector allocates")
	}
	onSocket, inAPI := measureSocket(t), measureAPI(t)
	for name, text := range hostileTexts(conn.MaxPayload - 100) {
		for _, around := range [][2]string{{"", ""}, {`{"event":`, "}"}, {`{"event":"pusher:ping","data":`, "}"},
			{`{"event":"pusher:signin","data":`, "}"}, {`{"event":"client-x","channel":"private-other","data":`, "}"},
			{`{"event":"client-x","channel":"private-json","data":`, "}"}, // relayed, or too long for that
			{`{"event":"pusher:subscribe","data":`, "}"}, {`{"event":"pusher:unsubscribe","data":`, "}"}} {
			onSocket(name, around[0]+text+around[1])
		}
	}
	for name, text := range hostileTexts(600_000) { // nearly as much as a body may have
		for _, around := range [][2]string{{"", ""}, {`{"name":"e","data":`, "}"}, {`{"batch":`, "}"},
			{`{"name":"e","data":"","channels":`, "}"},
			{`{"name":"e","channel":"a","data":`, "}"}, {`{"batch":[{"name":"e","channel":"a","data":`, "}]}"},
			{`{"name":`, "}"}, {`{"name":"e","data":"","channel":`, "}"},
			{`{"name":"e","data":"","channel":"a","socket_id":`, "}"}} {
			inAPI(name, around[0]+text+around[1])
		}
	}
	files, _ := filepath.Glob("internal/wire/testdata/json/[in]_*.json")
	if len(files) < 200 {
		t.Fatalf("%d files of wrong JSON", len(files))
	}
	for _, name := range files {
		if text, _ := os.ReadFile(name); len(text) > 0 {
			onSocket(name, upTo(conn.MaxPayload, "[", string(text)+",", "1]"))
			onSocket(name, upTo(conn.MaxPayload, "", string(text), ""))
			inAPI(name, upTo(conn.MaxPayload, "[", string(text)+",", "1]"))
		}
	}
}

// measureSocket returns a function that checks what it costs to handle a message.
func measureSocket(t *testing.T) func(name, frame string) {
	s, _ := offline(t)
	c := clientOf(s)
	sub, err := s.App.Subscribe(s, "private-json", wire.KindPrivate, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Subscriptions = []*channel.Subscription{sub}
	return func(name, frame string) {
		t.Helper()
		b := []byte(frame)
		cost := allocated(func() {
			c.malformed, c.clientEvents, c.subscribes = 0, 0, 0
			c.handleMessage(b)
		})
		bound := 2*len(b) + 16<<10 // of them 12 KB for answers that are queued
		if strings.HasPrefix(frame, `{"event":"client-x"`) {
			bound += 3 * len(b) // it goes on: as a literal, in a frame and in a batch, in buffers that may be new
		}
		if cost > bound {
			t.Errorf("%s: on the socket %d bytes cost %d: %.80q", name, len(b), cost, frame)
		}
	}
}

// measureAPI returns a function that checks what it costs to handle a body.
func measureAPI(t *testing.T) func(name, body string) {
	h := serverOf(t, testOptions(t)).offlineHandler()
	return func(name, body string) {
		t.Helper()
		path := "/apps/1/events"
		if strings.HasPrefix(body, `{"batch"`) {
			path = "/apps/1/batch_events"
		}
		r := httptest.NewRequest("POST", strings.TrimPrefix(signedURL("", "POST", path, "", body), "http://"), nil)
		in := strings.NewReader(body)
		r.Body, r.ContentLength = io.NopCloser(in), int64(len(body))
		w := &discardWriter{header: make(http.Header)}
		cost := allocated(func() {
			in.Reset(body)
			clear(w.header)
			h.ServeHTTP(w, r)
		})
		bound := 3*len(body) + 4096 + len(body)/4 // body, values and a text; the allocator rounds up, the more the larger a piece is
		if n, _, err := wire.CheckJSON([]byte(body), wire.APIDepth, wire.APIValues); err == nil && n > wire.SocketValues {
			bound += 640 * n // a tree that is not kept
		}
		if cost > bound || w.status >= 500 {
			t.Errorf("%s: in the API %d bytes cost %d, %d: %.80q", name, len(body), cost, w.status, body)
		}
	}
}

// 3. HTTP

const eventBody = `{"name":"e","channel":"a","data":"x"}`

// signed is a path with a query that is signed as it is; if that is impossible, as it would be without old made new.
func signed(path, old, new string) string {
	sum := md5.Sum([]byte(eventBody))
	digest := hex.EncodeToString(sum[:])
	now := strconv.FormatInt(time.Now().Unix(), 10)
	fill := strings.NewReplacer("NOW", now, "HASH", digest, "UPPER", strings.ToUpper(digest))
	const base = "auth_key=key&auth_timestamp=NOW&auth_version=1.0&body_md5=HASH"
	query := fill.Replace(strings.Replace(base, old, new, 1))
	ps, err := sign.ParseParams(nil, query)
	if err != nil {
		ps, _ = sign.ParseParams(nil, fill.Replace(base))
	}
	return fmt.Sprintf("%s?%s&auth_signature=%s", path, query, testKey.Sign(nil, sign.RequestText(nil, "POST", path, ps)))
}

var refusalCode = regexp.MustCompile(`"pusher:error","data":{"code":(\d+)`)

// answers returns the status of each answer in b, and after 101 the code of a refusal.
func answers(b []byte) string {
	var all []string
	for in := bufio.NewReader(bytes.NewReader(b)); ; {
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			break
		}
		all = append(all, strconv.Itoa(r.StatusCode))
		rest, _ := io.ReadAll(r.Body)
		if r.StatusCode == http.StatusSwitchingProtocols {
			rest, _ = io.ReadAll(in)
		}
		if code := refusalCode.FindSubmatch(rest); code != nil {
			all = append(all, string(code[1]))
		}
	}
	return strings.Join(all, " ")
}

// slowRequests are sent byte by byte from text on, with so much time between. The connection must live for a time, or for a second
// longer, in which net/http lets its answer arrive. TARGET stands for a signed one.
var slowRequests = []struct {
	name, head, text string
	every            time.Duration
	answer           string
	lives            time.Duration
}{
	{"nothing", "", "", 0, "", 5 * time.Second},
	{"headers", "GET /health HTTP/1.1\r\nHost: edge\r\n", "X: " + long(1000), 100 * time.Millisecond, "", 5 * time.Second},
	{"an upgrade", "", httpUpgrade, time.Second, "400", 5 * time.Second},
	{"in time, then idle", "", "GET /health HTTP/1.1\r\nHost: edge\r\n\r\n", 100 * time.Millisecond, "200", 3*time.Minute + 3500*time.Millisecond},
	{"body", "POST TARGET HTTP/1.1\r\nHost: edge\r\nContent-Length: 37\r\n\r\n", eventBody, time.Second, "400", 10 * time.Second},
	{"body after slow headers", "POST TARGET HTTP/1.1\r\nHost: edge\r\n", "Content-Length: 37\r\n\r\n" + eventBody, 200 * time.Millisecond, "400", 10 * time.Second},
	{"chunks", "POST TARGET HTTP/1.1\r\nHost: edge\r\nTransfer-Encoding: chunked\r\n\r\n", strings.Repeat("1\r\n \r\n", 100), time.Second, "400", 10 * time.Second},
	{"body not signed", "POST /apps/1/events HTTP/1.1\r\nHost: edge\r\nContent-Length: 37\r\n\r\n", "", 0, "401", 10 * time.Second},
	{"body nobody wants", "POST /x HTTP/1.1\r\nHost: edge\r\nContent-Length: 37\r\n\r\n", "", 0, "404", 10 * time.Second},
}

// TestSlowHTTP: nobody holds a connection for longer than headers, a body and idleness may take.
func TestSlowHTTP(t *testing.T) {
	for _, test := range slowRequests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, dial := serverInBubble(t)
				head := strings.Replace(test.head, "TARGET", signed("/apps/1/events", "", ""), 1)
				answer, lived := drip(dial(), head, test.text, test.every)
				if answer != test.answer || lived < test.lives || lived > test.lives+time.Second {
					t.Errorf("got %q after %s, want %q after %s", answer, lived, test.answer, test.lives)
				}
			})
		})
	}
}

// drip sends head, then text byte by byte, and returns what was answered and how long the connection lived.
func drip(conn net.Conn, head, text string, every time.Duration) (answer string, lived time.Duration) {
	began, sent := time.Now(), make(chan struct{})
	go func() { // ends when the server has closed the connection, if not before
		defer close(sent)
		_, err := io.WriteString(conn, head)
		for i := 0; i < len(text) && err == nil; i++ {
			_, err = io.WriteString(conn, text[i:i+1])
			time.Sleep(every)
		}
	}()
	b, _ := io.ReadAll(conn)
	lived = time.Since(began)
	<-sent
	return answers(b), lived
}

// TestSlowHTTPReader: who does not read an answer is cut off after WriteTimeout, and holds up nobody.
func TestSlowHTTPReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const request = "GET / HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n"
		_, dial := serverInBubble(t)
		var slow []net.Conn
		for range 100 {
			slow = append(slow, dial())
			io.WriteString(slow[len(slow)-1], request)
		}
		time.Sleep(19 * time.Second)
		if answer, lived := drip(dial(), request, "", 0); answer != "200" || lived > time.Second {
			t.Errorf("one who reads got %q after %s", answer, lived)
		}
		time.Sleep(2 * time.Second)
		for _, conn := range slow {
			if b, err := io.ReadAll(conn); len(b) > 0 || err != nil {
				t.Fatalf("after 21 s: %q, %v", b, err)
			}
		}
	})
}

// 4. Signatures

// TestMutatedRequests sends the official vectors, and what mutations makes of each, to the API itself: a wrong request is refused
// with the status of what is wrong, be it the path before the signature is looked at.
func TestMutatedRequests(t *testing.T) {
	for _, v := range requestVectors {
		good := apiRequest{v.method, v.path, vectorPrefix + v.query + "&auth_signature=" + v.digest, v.body, 0}
		if status := good.serve(t); status != 200 && v.name != "V14" || status == 401 { // V14 has no data, but is signed well
			t.Errorf("%s: %d", v.name, status)
		}
		refused := 0
		for _, m := range mutations {
			r := good
			if m.change(&r); r == good || m.name == "path escaped" { // which says the same, see TestAPIEscapedPath
				continue
			}
			switch status := r.serve(t); status {
			case 307, 400, 401, 404, 405:
				refused++
			default:
				t.Errorf("%s, %s: %d", v.name, m.name, status)
			}
		}
		if refused < 40 {
			t.Errorf("%s: only %d mutations were refused", v.name, refused)
		}
	}
}

// serve returns the status that the API answers r with, 400 if net/http would not let it come to that.
func (r apiRequest) serve(t *testing.T) int {
	t.Helper()
	u, err := url.ParseRequestURI(r.path + "?" + r.query)
	if err != nil || r.method == "" {
		return 400
	}
	req := httptest.NewRequest("POST", "/", strings.NewReader(r.body))
	req.Method, req.URL = r.method, u
	s, w := serverOf(t, testOptions(t, "-key", vectorName, "-secret", vectorSecret)), httptest.NewRecorder()
	s.clock.now = func() time.Time { return time.Unix(vectorTime, 0).Add(r.clock) }
	s.offlineHandler().ServeHTTP(w, req)
	if strings.Contains(w.Body.String(), vectorSecret) {
		t.Errorf("%+v: the secret is in the answer", r)
	}
	return w.Code
}
