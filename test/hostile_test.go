//go:build unix

package test

// What an enemy sends over HTTP: requests that are wrong in one place.

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"edge/internal/edgetest"
)

// httpCase is a request as it stands on the wire. want is the status of every answer that comes until the connection
// ends, and after 101 the code of a refusal in the Pusher protocol if there is one; "" stands for no answer.
type httpCase struct{ name, request, want string }

// upgrades are handshakes that differ from Upgrade in one place.
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
	{edgetest.Path, "/app/%6bey?protocol=7", "101"},
	{edgetest.Path, "//elsewhere/app/key?protocol=7", "101 4005"},
	{edgetest.Path, "http://elsewhere/app/key?protocol=7", "101"},
	{edgetest.Path, "/app/key/?protocol=7", "101 4005"},
	{edgetest.Path, "/app/key/extra?protocol=7", "101 4005"},
	{edgetest.Path, "/app/key%2Fextra?protocol=7", "101 4005"},
	{edgetest.Path, "/app/../app/key?protocol=7", "101 4005"},
	{edgetest.Path, "/app/./key?protocol=7", "101 4005"},
	{edgetest.Path, "/app/%2e%2e?protocol=7", "101 4001"},
	{edgetest.Path, "/app/key%00?protocol=7", "101 4001"},
	{edgetest.Path, "/app/key;x?protocol=7", "101 4001"},
	{edgetest.Path, "/app/key%0d%0aX:y?protocol=7", "101 4001"},
	{edgetest.Path, "/apps/1/events?protocol=7", "101 4005"},
	{edgetest.Path, "*", "101 4005"},
	{edgetest.Path, "/app/key?protocol=7&protocol=4", "101"},
	{edgetest.Path, "/app/key?PROTOCOL=7", "101 4008"},
	{edgetest.Path, "/app/key?protocol=7;x=1", "101 4008"},
	{edgetest.Path, "/app/key?protocol=%zz", "101 4008"},
	{edgetest.Path, "/app/key?protocol=7%00", "101 4006"},
	{edgetest.Path, "/app/key?protocol=7%0d%0a", "101 4006"},
	{edgetest.Path, "/app/key?protocol=%2B7", "101"},
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
	{"a frame", string(edgetest.Text("{}")), "400"},
	{"NULs", strings.Repeat("\x00", 100), "400"},
	{"NUL in a value", "GET /health HTTP/1.1\r\nHost: edge\r\nX: a\x00b\r\n\r\n", "400"},
	{"folded value (RFC 9112 section 5.2)", "GET /health HTTP/1.1\r\nHost: edge\r\nX: a\r\n b\r\n\tc\r\n\r\n", "200"},
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
	// net/http grants 4 KiB more.
	{"13 KB of headers", "GET /health HTTP/1.1\r\nHost: edge\r\nX: " + strings.Repeat("x", 13_000) + "\r\n\r\n", "431"},
	{"a line of 1 MiB", "GET /health HTTP/1.1\r\nHost: edge\r\nX: " + strings.Repeat("x", 1<<20), "431"},
	{"a path of 1 MiB", "GET /" + strings.Repeat("x", 1<<20) + " HTTP/1.1\r\nHost: edge\r\n\r\n", "431"},
	{"an upgrade of 13 KB", strings.Replace(edgetest.Upgrade, "\n\n", "\nX: "+strings.Repeat("x", 13_000)+"\n\n", 1),
		"431"},
}

// bodies are what may stand for the headers that say where a body ends, and what follows them; the body is 37 bytes.
var bodies = []struct{ name, headers, body, want string }{
	{"length", "Content-Length: 37", eventBody, "200"},
	{"length, and a request after it", "Content-Length: 37",
		eventBody + "GET /health HTTP/1.1\r\nHost: edge\r\n\r\n", "200 200"},
	{"no length", "X: y", "", "401"}, // body_md5 is not that of nothing
	{"no length, but a body", "X: y", eventBody, "401 400"},
	{"too short", "Content-Length: 36", eventBody, "401"},
	{"too long", "Content-Length: 38", eventBody, "400"},
	{"negative", "Content-Length: -37", eventBody, "400"},
	{"two, not the same", "Content-Length: 37\r\nContent-Length: 5", eventBody, "400"},
	{"beyond int64", "Content-Length: 18446744073709551653", eventBody, "400"},
	{"max int64", "Content-Length: 9223372036854775807", eventBody, "413"},
	{"chunked", "Transfer-Encoding: chunked", "25\r\n" + eventBody + "\r\n0\r\n\r\n", "200"},
	{"chunked and a length", "Transfer-Encoding: chunked\r\nContent-Length: 5",
		"25\r\n" + eventBody + "\r\n0\r\n\r\n", "200"},
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

// queries change that of a good request, before it is signed if that is possible (one refused for itself cannot be).
// What is wrong with a signed request otherwise, TestMutatedRequests has.
var queries = []struct{ old, new, want string }{
	{"", "", "200"},
	{"auth_key=key", "AUTH_KEY=key", "200"},
	{"auth_key=key", "auth%5Fkey=%6bey", "200"},
	{"auth_key=key", "auth_key=key%0d%0aX:y", "401"},
	{"auth_key=key&", "auth_key=key;", "401"},
	{"auth_key=key&", "&&auth_key=key&&", "200"},
	{"auth_timestamp=", "auth_timestamp=%2B", "200"}, // a number to strconv, and signed
	{"auth_timestamp=", "auth_timestamp=0", "200"},
	{"body_md5=", "BODY_MD5=", "200"},
	{"HASH", "UPPER", "401"},
	{"HASH", "HASH&x=%", "400"},
	{"HASH", "HASH&x[]=1&x[]=2", "200"},
	{"HASH", "HASH&name=other", "200"},        // the body comes first
	{"HASH", "HASH&channels[]=%0d%0a", "400"}, // which is not in the body
	{"HASH", "HASH&socket_id=x", "400"},
	{"HASH", "HASH&info=%00", "200"},
	{"HASH", "HASH&x=" + strings.Repeat("%00", 2000), "200"},
	{"HASH", "HASH" + strings.Repeat("&a[]=1", 1000), "200"},
	{"HASH", "HASH&auth_signature=", "400"}, // with the one that is added, two
	{"HASH", "HASH#x", "401"},
}

// endings are put behind a good request's target, or in the place of its signature.
var endings = []struct{ old, new, want string }{
	{"$", "&", "200"},
	{"$", "#", "401"},
	{"$", "?", "401"},
	{"$", "%", "400"},
	{"auth_signature=", "AUTH_SIGNATURE=", "200"},
	{"auth_signature=.*", "auth_signature=" + strings.Repeat("0", 6000), "401"},
	{`\?.*`, "", "401"},
	{`\?`, "??", "401"},
	{`\?`, "%3F", "404"},
}

// posted is a POST of eventBody to a target.
func posted(target string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: edge\r\nContent-Length: %d\r\n\r\n%s", target, len(eventBody), eventBody)
}

// signed is a path with a query that is signed as it is; if that is impossible, as it would be without old made new.
func signed(path, old, new string) string {
	digest := fmt.Sprintf("%x", md5.Sum([]byte(eventBody)))
	now := strconv.FormatInt(time.Now().Unix(), 10)
	fill := strings.NewReplacer("NOW", now, "HASH", digest, "UPPER", strings.ToUpper(digest))
	const base = "auth_key=key&auth_timestamp=NOW&auth_version=1.0&body_md5=HASH"
	query := fill.Replace(strings.Replace(base, old, new, 1))
	signature, err := edgetest.SignQuery("POST", path, query)
	if err != nil {
		signature, _ = edgetest.SignQuery("POST", path, fill.Replace(base))
	}
	return path + "?" + query + "&auth_signature=" + signature
}

// hostileRequests puts together the tables above.
func hostileRequests() []httpCase {
	all := slices.Clone(heads)
	for _, u := range upgrades {
		all = append(all, httpCase{fmt.Sprintf("%q made %q", u.old, u.new),
			strings.Replace(edgetest.Upgrade, u.old, u.new, 1), u.want})
	}
	const events = "/apps/1/events"
	for _, b := range bodies {
		all = append(all, httpCase{b.name, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: edge\r\n%s\r\n\r\n%s",
			signed(events, "", ""), b.headers, b.body), b.want})
	}
	for _, p := range paths {
		all = append(all, httpCase{p.path, posted(signed(p.path, "HASH", "HASH&name=e")), p.want})
	}
	for _, q := range queries {
		all = append(all, httpCase{fmt.Sprintf("%q made %q", q.old, q.new), posted(signed(events, q.old, q.new)), q.want})
	}
	for _, e := range endings {
		target := regexp.MustCompile(e.old).ReplaceAllLiteralString(signed(events, "", ""), e.new)
		all = append(all, httpCase{fmt.Sprintf("%q ends with %q", e.old, e.new), posted(target), e.want})
	}
	return all
}

// TestHostileHTTP sends each request on a connection of its own, and says that nothing follows.
func TestHostileHTTP(t *testing.T) {
	p := edgetest.Start(t)
	for _, c := range hostileRequests() {
		b, err := c.send(t, p.Addr)
		if got := answers(b); got != c.want || isTimeout(err) {
			t.Errorf("%.80s: %.300q\ngot %q, want %q: %.200q, %v", c.name, c.request, got, c.want, b, err)
		}
	}
	edgetest.Connect(t, p.Addr).Settled()
	edgetest.Publish(t, p.Addr, "a", "e", "x")
}

// send sends the request, says that nothing follows, and returns all that comes. After an upgrade it first waits for a
// frame: without a poller a goroutine sends what is queued, and whoever leaves before gets nothing.
func (c httpCase) send(t *testing.T, addr string) ([]byte, error) {
	conn := edgetest.Dial(t, addr).(*net.TCPConn)
	defer conn.Close()
	in, upgrade := bufio.NewReader(conn), strings.HasPrefix(c.want, "101")
	go func() { // ends at the latest when conn is closed; an answer may come before all is sent
		io.WriteString(conn, c.request)
		if !upgrade {
			conn.CloseWrite()
		}
	}()
	if upgrade {
		in.Peek(200) // that is more than a handshake
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
