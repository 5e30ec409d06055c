package main

// What an enemy sends: JSON texts, requests and signatures that are wrong in one place, and requests that never end.

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"edge/internal/edgetest"
	"edge/internal/sign"
	"edge/internal/wire"
	"encoding/hex"
	"errors"
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
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
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
	for name, text := range hostileTexts(maxPayload - 100) {
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
			onSocket(name, upTo(maxPayload, "[", string(text)+",", "1]"))
			onSocket(name, upTo(maxPayload, "", string(text), ""))
			inAPI(name, upTo(maxPayload, "[", string(text)+",", "1]"))
		}
	}
}

// measureSocket returns a function that checks what it costs to handle a message.
func measureSocket(t *testing.T) func(name, frame string) {
	s, _ := offline(t)
	s.conn.last = true // the answers are not sent: that would be measured too
	sub, err := s.app.subscribe(s, "private-json", wire.KindPrivate, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.subscriptions = []*Subscription{sub}
	return func(name, frame string) {
		t.Helper()
		b := []byte(frame)
		cost := allocated(func() {
			s.malformed, s.clientEvents, s.subscribes = 0, 0, 0
			s.handleMessage(b)
		})
		bound := 2*len(b) + 4096
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
	h := testOptions(t).server(t).offlineHandler()
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

// httpCase is a request as it stands on the wire. want is the status of every answer that comes until the connection ends, and
// after 101 the code of a refusal in the Pusher protocol if there is one; "" stands for no answer.
type httpCase struct{ name, request, want string }

// upgrades are handshakes that differ from httpUpgrade in one place.
var upgrades = []struct{ old, new, want string }{
	{"Connection: Upgrade", "Connection: close, Upgrade", "101"},
	{"Connection: Upgrade", "Connection: keep-alive,,Upgrade", "101"},
	{"Connection: Upgrade", "Connection:\tUpgrade\t", "101"},
	{"Connection: Upgrade", "connection: UPGRADE", "101"},
	{"Connection: Upgrade", "Connection: Upgrade;q=1", "426"},
	{"Connection: Upgrade", "Connection: \"Upgrade\"", "426"},
	{"Connection: Upgrade", "Connection: Up grade", "426"},
	{"Upgrade: websocket", "Upgrade: websocket\nUpgrade: h2c", "101"},
	{"Upgrade: websocket", "Upgrade: websocket/13", "426"},
	{"Upgrade: websocket", "Upgrade: \"websocket\"", "426"},
	{"Upgrade: websocket", "Upgrade: h2c", "426"},
	{"-Version: 13", "-Version:  13 ", "101"},
	{"-Version: 13", "-Version: 13, 8", "426"},
	{"-Version: 13", "-Version: 013", "426"},
	{"-Version: 13", "-Version: 14", "426"},
	{"-Version: 13", "-Version:", "426"},
	{"-Version: 13", "-Version: 8\nSec-WebSocket-Version: 13", "426"},
	{"ZQ==\n", "ZQ=\n", "400"},
	{"ZQ==\n", "ZQ\n", "400"},
	{"ZQ==\n", "ZR==\n", "101"}, // bits that mean nothing
	{"ZQ==\n", "ZQ==x\n", "400"},
	{"ZQ==\n", "Z Q==\n", "400"},
	{"dGhl", "-_hl", "400"}, // of the other alphabet
	{"dGhl", "", "400"},
	{"dGhl", "dGhldGhl", "400"},
	{"dGhl", "\xff\xff\xff\xff", "400"},
	{"GET", "POST", "405"},
	{"GET", "HEAD", "405"},
	{"GET", "OPTIONS", "405"},
	{"HTTP/1.1", "HTTP/1.0", "400"},
	{"HTTP/1.1", "HTTP/1.2", "101"},
	{"\n\n", "\nContent-Length: 0\n\n", "101"},
	{"\n\n", "\nContent-Length: 1\n\nx", "400"},
	{"\n\n", "\nContent-Length: 1\n\n", "400"},
	{"\n\n", "\nTransfer-Encoding: chunked\n\n0\r\n\r\n", "400"},
	{keyPath, "/app/%6bey?protocol=7", "101"},
	{keyPath, "//elsewhere/app/key?protocol=7", "101 4005"},
	{keyPath, "http://elsewhere/app/key?protocol=7", "101"},
	{keyPath, "/app/key/?protocol=7", "101 4005"},
	{keyPath, "/app/key/extra?protocol=7", "101 4005"},
	{keyPath, "/app/key%2Fextra?protocol=7", "101 4005"},
	{keyPath, "/app/../app/key?protocol=7", "101 4005"},
	{keyPath, "/app/./key?protocol=7", "101 4005"},
	{keyPath, "/app/%2e%2e?protocol=7", "101 4001"},
	{keyPath, "/app/key%00?protocol=7", "101 4001"},
	{keyPath, "/app/key;x?protocol=7", "101 4001"},
	{keyPath, "/app/key%0d%0aX:y?protocol=7", "101 4001"},
	{keyPath, "/apps/1/events?protocol=7", "101 4005"},
	{keyPath, "*", "101 4005"},
	{keyPath, "/app/key?protocol=7&protocol=4", "101"},
	{keyPath, "/app/key?PROTOCOL=7", "101 4008"},
	{keyPath, "/app/key?protocol=7;x=1", "101 4008"},
	{keyPath, "/app/key?protocol=%zz", "101 4008"},
	{keyPath, "/app/key?protocol=7%00", "101 4006"},
	{keyPath, "/app/key?protocol=7%0d%0a", "101 4006"},
	{keyPath, "/app/key?protocol=%2B7", "101"},
}

// heads are requests whose form is wrong, or looks so.
var heads = []httpCase{
	{"health", "GET /health HTTP/1.1\r\nHost: edge\r\n\r\n", "200"},
	{"two", "GET /health HTTP/1.1\r\nHost: edge\r\n\r\nGET /x HTTP/1.1\r\nHost: edge\r\n\r\n", "200 404"},
	{"nothing", "", ""},
	{"one letter", "G", "400"},
	{"headers without an end", "GET /health HTTP/1.1\r\nHost: edge\r\n", "400"},
	{"HTTP/1.0", "GET /health HTTP/1.0\r\n\r\n", "200"},
	{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"},
	{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", "400"},
	{"a frame", string(maskedFrame(0x80|opText, []byte("{}"))), "400"},
	{"NULs", strings.Repeat("\x00", 100), "400"},
	{"NUL in a value", "GET /health HTTP/1.1\r\nHost: edge\r\nX: a\x00b\r\n\r\n", "400"},
	{"folded value", "GET /health HTTP/1.1\r\nHost: edge\r\nX: a\r\n b\r\n\tc\r\n\r\n", "200"}, // joined, RFC 9112 section 5.2
	{"no Host", "GET /health HTTP/1.1\r\n\r\n", "400"},
	{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: edge\r\n\r\n", "200"},
	{"CONNECT", "CONNECT edge:80 HTTP/1.1\r\nHost: edge\r\n\r\n", "405"},
	{"TRACE", "TRACE /health HTTP/1.1\r\nHost: edge\r\n\r\n", "404"},
	{"DELETE", "DELETE /health HTTP/1.1\r\nHost: edge\r\n\r\n", "404"},
	{"POST", "POST / HTTP/1.1\r\nHost: edge\r\n\r\n", "404"},
	{"lower case", "get /health HTTP/1.1\r\nHost: edge\r\n\r\n", "404"},
	{"absolute form", "GET http://elsewhere/health HTTP/1.1\r\nHost: edge\r\n\r\n", "200"},
	{"not an upgrade", "GET /app/key?protocol=7 HTTP/1.1\r\nHost: edge\r\n\r\n", "426"},
	{"200 headers", "GET /health HTTP/1.1\r\nHost: edge\r\n" + strings.Repeat("X: y\r\n", 200) + "\r\n", "200"},
	{"10,000 headers", "GET /health HTTP/1.1\r\nHost: edge\r\n" + strings.Repeat("X:\r\n", 10_000) + "\r\n", "431"},
	{"8 KB of headers", "GET /health HTTP/1.1\r\nHost: edge\r\nX: " + strings.Repeat("x", 8000) + "\r\n\r\n", "200"},
	{"13 KB of headers", "GET /health HTTP/1.1\r\nHost: edge\r\nX: " + strings.Repeat("x", 13_000) + "\r\n\r\n", "431"}, // net/http grants 4 KiB more
	{"a line of 1 MiB", "GET /health HTTP/1.1\r\nHost: edge\r\nX: " + strings.Repeat("x", 1<<20), "431"},
	{"a path of 1 MiB", "GET /" + strings.Repeat("x", 1<<20) + " HTTP/1.1\r\nHost: edge\r\n\r\n", "431"},
	{"an upgrade of 13 KB", strings.Replace(httpUpgrade, "\n\n", "\nX: "+strings.Repeat("x", 13_000)+"\n\n", 1), "431"},
}

// bodies are what may stand for the headers that say where a body ends, and what follows them; the body is 37 bytes.
var bodies = []struct{ name, headers, body, want string }{
	{"length", "Content-Length: 37", eventBody, "200"},
	{"length, and a request after it", "Content-Length: 37", eventBody + "GET /health HTTP/1.1\r\nHost: edge\r\n\r\n", "200 200"},
	{"no length", "X: y", "", "401"}, // body_md5 is not that of nothing
	{"no length, but a body", "X: y", eventBody, "401 400"},
	{"too short", "Content-Length: 36", eventBody, "401"},
	{"too long", "Content-Length: 38", eventBody, "400"},
	{"negative", "Content-Length: -37", eventBody, "400"},
	{"two, not the same", "Content-Length: 37\r\nContent-Length: 5", eventBody, "400"},
	{"beyond int64", "Content-Length: 18446744073709551653", eventBody, "400"},
	{"max int64", "Content-Length: 9223372036854775807", eventBody, "413"},
	{"chunked", "Transfer-Encoding: chunked", "25\r\n" + eventBody + "\r\n0\r\n\r\n", "200"},
	{"chunked and a length", "Transfer-Encoding: chunked\r\nContent-Length: 5", "25\r\n" + eventBody + "\r\n0\r\n\r\n", "200"},
	{"gzip", "Transfer-Encoding: gzip, chunked", "25\r\n" + eventBody + "\r\n0\r\n\r\n", "501"},
	{"chunk extension", "Transfer-Encoding: chunked", "25;a=b\r\n" + eventBody + "\r\n0\r\n\r\n", "200"},
	{"chunk too short", "Transfer-Encoding: chunked", "24\r\n" + eventBody + "\r\n0\r\n\r\n", "400"},
	{"chunk of all memory", "Transfer-Encoding: chunked", "7fffffffffffffff\r\n" + eventBody, "400"},
	{"chunks without an end", "Transfer-Encoding: chunked", "25\r\n" + eventBody + "\r\n", "400"},
	{"trailer", "Transfer-Encoding: chunked", "25\r\n" + eventBody + "\r\n0\r\nX: y\r\n\r\n", "200"},
	{"expected", "Content-Length: 37\r\nExpect: 100-continue", eventBody, "100 200"},
	{"compressed", "Content-Length: 37\r\nContent-Encoding: gzip", eventBody, "200"}, // taken for what it is
}

const eventBody = `{"name":"e","channel":"a","data":"x"}`

// paths are POSTed to with a signature that is right for them.
var paths = []struct{ path, want string }{
	{"/apps/1/events", "200"},
	{"/apps/x/events", "200"}, // without -app-id any will do
	{"/apps/1/../2/events", "307"},
	{"//apps/1/events", "307"},
	{"/apps//events", "307"},
	{"/apps/1/events/", "404"},
	{"/apps/1/%2e%2e/2/events", "404"},
	{"/apps/%2e%2e/events", "200"}, // an app id like any other: it is no part of a path,
	{"/apps/1%2f..%2f2/events", "200"},
	{"/apps/1%2fevents", "404"},
	{"/%61pps/1/events", "200"},
	{"/apps/1/%65vents", "200"},
	{"/APPS/1/events", "404"},
	{"/apps/1/events;x=1", "404"},
	{"/apps/1;x=1/events", "200"},
	{"/apps/1/events%00", "404"},
	{"/apps/%00/events", "200"},
	{"/apps/%ff/events", "200"},
	{"/apps/%0d%0aX:%20y/events", "200"},
	{"/apps/1/events%", "400"},
	{"/apps/1/events#x", "404"},
	{"/apps/\\1/events", "200"},
	{"/apps/1/channels/../events", "307"},
	{"/apps/1/channels/a/events", "404"},
	{"/users/%2e%2e/terminate_connections", "200"},
	{"/users//terminate_connections", "307"},
	{"/app/key", "426"},
	{"/app/key/extra", "404"},
	{"http://elsewhere/apps/1/events", "401"}, // the path alone is signed
	{"/apps/1/é/events", "404"},
	{"/" + strings.Repeat("../", 1000) + "apps/1/events", "307"},
	{"/apps/" + strings.Repeat("%2e%2e%2f", 500) + "/events", "200"},
	{"/apps/" + strings.Repeat("x", 7000) + "/events", "200"},
}

// queries change that of a good request, before it is signed if that is possible (a query that is refused for itself cannot).
var queries = []struct{ old, new, want string }{
	{"", "", "200"},
	{"auth_key=key", "AUTH_KEY=key", "200"},
	{"auth_key=key", "auth%5Fkey=%6bey", "200"},
	{"auth_key=key", "auth_key=KEY", "401"},
	{"auth_key=key", "auth_key", "401"},
	{"auth_key=key", "auth_key[]=key", "401"},
	{"auth_key=key", "auth_key=key%0d%0aX:y", "401"},
	{"auth_key=key", "auth_key=key&auth_key=key", "400"},
	{"auth_key=key", "auth_key=key&Auth_Key=key", "400"},
	{"auth_key=key", "auth_key=key&auth%5fkey=key", "400"},
	{"auth_key=key&", "auth_key=key;", "401"},
	{"auth_key=key&", "&&auth_key=key&&", "200"},
	{"auth_key=key&", "", "401"},
	{"auth_version=1.0", "auth_version=1", "401"},
	{"auth_version=1.0", "auth_version=1.0&auth_version=1.0", "400"},
	{"auth_version=1.0&", "", "401"},
	{"auth_timestamp=", "auth_timestamp=%2B", "200"}, // a number to strconv, and signed
	{"auth_timestamp=", "auth_timestamp=0", "200"},
	{"auth_timestamp=", "auth_timestamp=-", "401"},
	{"auth_timestamp=", "auth_timestamp=1", "401"},
	{"auth_timestamp=", "auth_timestamp=9999999999", "401"},
	{"auth_timestamp=", "auth_timestamp=&x=", "401"},
	{"auth_timestamp=", "x=", "401"},
	{"&auth_version", ".0&auth_version", "401"},
	{"&auth_version", "%00&auth_version", "401"},
	{"&auth_version", "&auth_timestamp=1&auth_version", "400"},
	{"body_md5=", "BODY_MD5=", "200"},
	{"body_md5=", "body_md5=0", "401"},
	{"body_md5=", "body_md5=&x=", "401"},
	{"body_md5=", "x=", "401"},
	{"body_md5=", "body_md5=HASH&body_md5=", "400"},
	{"HASH", "d41d8cd98f00b204e9800998ecf8427e", "401"}, // of nothing
	{"HASH", "UPPER", "401"},
	{"HASH", "HASH%20", "401"},
	{"HASH", "HASH&x=%", "400"},
	{"HASH", "HASH&x=1&x=2", "400"},
	{"HASH", "HASH&x[]=1&x[]=2", "200"},
	{"HASH", "HASH&name=other", "200"},        // the body comes first
	{"HASH", "HASH&channels[]=%0d%0a", "400"}, // which is not in the body
	{"HASH", "HASH&socket_id=x", "400"},
	{"HASH", "HASH&info=%00", "200"},
	{"HASH", "HASH&x=" + strings.Repeat("%00", 2000), "200"},
	{"HASH", "HASH" + strings.Repeat("&a[]=1", 1000), "200"},
	{"HASH", "HASH&auth_signature=", "400"}, // with the one that is added, two
	{"HASH", "HASH&AUTH_SIGNATURE=x", "400"},
	{"HASH", "HASH#x", "401"},
}

// endings are put behind a good request's target, or in the place of its signature.
var endings = []struct{ old, new, want string }{
	{"$", "&auth_signature=0", "400"},
	{"$", "&auth_signature[]=0", "401"},
	{"$", "&x=y", "401"},
	{"$", "&x", "401"},
	{"$", "&=", "401"},
	{"$", "&", "200"},
	{"$", "0", "401"},
	{"$", "%00", "401"},
	{"$", "+", "401"},
	{"$", "#", "401"},
	{"$", "?", "401"},
	{"$", "%", "400"},
	{".$", "", "401"},
	{"auth_signature=", "auth_signature=%20", "401"},
	{"auth_signature=", "AUTH_SIGNATURE=", "200"},
	{"auth_signature=", "auth_signature", "401"},
	{"&auth_signature=.*", "", "401"},
	{"auth_signature=.*", "auth_signature=", "401"},
	{"auth_signature=.*", "auth_signature=" + strings.Repeat("0", 64), "401"},
	{"auth_signature=.*", "auth_signature=" + strings.Repeat("0", 6000), "401"},
	{`\?.*`, "", "401"},
	{`\?.*`, "?", "401"},
	{`\?`, "??", "401"},
	{`\?`, "%3F", "404"},
}

// post is a POST of eventBody to a target.
func post(target string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: edge\r\nContent-Length: %d\r\n\r\n%s", target, len(eventBody), eventBody)
}

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

// hostileRequests puts together the tables above.
func hostileRequests() []httpCase {
	all := slices.Clone(heads)
	for _, u := range upgrades {
		all = append(all, httpCase{fmt.Sprintf("%q made %q", u.old, u.new), strings.Replace(httpUpgrade, u.old, u.new, 1), u.want})
	}
	const events = "/apps/1/events"
	for _, b := range bodies {
		all = append(all, httpCase{b.name, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: edge\r\n%s\r\n\r\n%s", signed(events, "", ""), b.headers, b.body), b.want})
	}
	for _, p := range paths {
		all = append(all, httpCase{p.path, post(signed(p.path, "HASH", "HASH&name=e")), p.want})
	}
	for _, q := range queries {
		all = append(all, httpCase{fmt.Sprintf("%q made %q", q.old, q.new), post(signed(events, q.old, q.new)), q.want})
	}
	for _, e := range endings {
		target := regexp.MustCompile(e.old).ReplaceAllLiteralString(signed(events, "", ""), e.new)
		all = append(all, httpCase{fmt.Sprintf("%q ends with %q", e.old, e.new), post(target), e.want})
	}
	return all
}

// TestHostileHTTP sends each request on a connection of its own, and says that nothing follows.
func TestHostileHTTP(t *testing.T) {
	addr := startEdge(t)
	for _, c := range hostileRequests() {
		b, err := c.send(t, addr)
		if got := answers(b); got != c.want || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%.80s: %.300q\ngot %q, want %q: %.200q, %v", c.name, c.request, got, c.want, b, err)
		}
	}
	connect(t, addr).settled()
	publish(t, addr, "a", "e", "x")
}

// send sends the request, says that nothing follows, and returns all that comes. After an upgrade it first waits for a frame:
// without a poller a goroutine sends what is queued, and whoever leaves before gets nothing.
func (c httpCase) send(t *testing.T, addr string) ([]byte, error) {
	conn := dial(t, addr).(*net.TCPConn)
	defer conn.Close()
	in, upgrade := bufio.NewReader(conn), strings.HasPrefix(c.want, "101")
	go func() { // ends at the latest when conn is closed; an answer may come before all is sent
		io.WriteString(conn, c.request)
		if !upgrade {
			conn.CloseWrite()
		}
	}()
	if upgrade {
		in.Peek(len(plainLinks.handshake(nil, "x")) + 1)
		conn.CloseWrite()
	}
	return io.ReadAll(in)
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
	s, w := testOptions(t, "-key", vectorName, "-secret", vectorSecret).server(t), httptest.NewRecorder()
	s.clock.now = func() time.Time { return time.Unix(vectorTime, 0).Add(r.clock) }
	s.offlineHandler().ServeHTTP(w, req)
	if strings.Contains(w.Body.String(), vectorSecret) {
		t.Errorf("%+v: the secret is in the answer", r)
	}
	return w.Code
}
