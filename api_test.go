package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"edge/internal/edgetest"
)

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
	if all := fmt.Sprint(resp.Header, body); strings.Contains(all, testSecret) {
		t.Errorf("the secret is in the answer: %s", all)
	}
	return status, body
}

// TestAPIBody: a body that is too large is refused, at the latest when too much of it has come, and before that the one
// who has no right to send any. The limit itself is in the scripts.
func TestAPIBody(t *testing.T) {
	addr := startEdge(t)
	right := strings.TrimPrefix(signedURL("", "POST", "/apps/1/events", "", "x"), "http://")
	for _, c := range []struct {
		target, rest string
		status       int
	}{
		{right, "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("fff\r\n"+strings.Repeat(" ", 0xfff)+"\r\n", 200) + "0\r\n\r\n", 413},
		{right, "Content-Length: 100000000000\r\n\r\n", 413},
		{"/apps/1/events", "Content-Length: 100000000000\r\n\r\n", 401},
	} {
		conn := dial(t, addr)
		go fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: edge\r\n%s", c.target, c.rest) // ends at the latest with conn
		r, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if status, answer := apiAnswer(t, r); status != c.status {
			t.Errorf("%.30q: %d %s, want %d", c.rest, status, answer, c.status)
		}
	}
}

// TestAPIKeepAlive: calls, also those that are refused, leave the connection open for the next.
func TestAPIKeepAlive(t *testing.T) {
	conn := dial(t, startEdge(t))
	in := bufio.NewReader(conn)
	for i := range 6 {
		body := []string{`{"name":"e","channel":"a","data":"x"}`, "{}"}[i%2]
		target := strings.TrimPrefix(signedURL("", "POST", "/apps/1/events", "", body), "http://") + strings.Repeat("0", i/4)
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: edge\r\nContent-Length: %d\r\n\r\n%s", target, len(body), body)
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		if status, answer := apiAnswer(t, r); status != []int{200, 400, 200, 400, 401, 401}[i] || r.Close {
			t.Errorf("request %d: %d %s, closing: %t", i, status, answer, r.Close)
		}
	}
}

// docBody is that of V9.
const docBody = `{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}`

// TestAPIVectors: what Pusher's documentation signs is accepted, with a key that is not the first. TestRequestVectors has
// them all.
func TestAPIVectors(t *testing.T) {
	s := serverOf(t, testOptions(t, "-more-keys", edgetest.VectorKey+":"+edgetest.VectorSecret))
	s.clock.now = func() time.Time { return time.Unix(edgetest.VectorTime, 0) }
	const rest = "/apps/3/events?" + edgetest.VectorQuery + "&body_md5=ec365a775a4cd0599faeb73354201b6f&auth_signature="
	for signature, want := range map[string]int{"da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c": 200, "0": 401} {
		status, answer := recordAPI(t, s.offlineHandler(), "POST", rest+signature, docBody)
		if status != want || strings.Contains(answer, edgetest.VectorSecret) {
			t.Errorf("signed with %s: %d %s", signature, status, answer)
		}
	}
}

func recordAPI(t testing.TB, h http.Handler, method, target, body string) (status int, answer string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	return apiAnswer(t, w.Result())
}

// discardWriter is a ResponseWriter that costs nothing.
type discardWriter struct {
	header http.Header
	status int
}

func (d *discardWriter) Header() http.Header         { return d.header }
func (d *discardWriter) WriteHeader(status int)      { d.status = status }
func (d *discardWriter) Write(b []byte) (int, error) { return len(b), nil }

// TestPostEventsAllocationsInAll counts what a request costs with net/http, whose own 22 we cannot avoid, and a subscriber.
func TestPostEventsAllocationsInAll(t *testing.T) {
	if edgetest.Race || runtime.GOOS != "linux" || os.Getenv("TEST_POLLER") == "no" {
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
