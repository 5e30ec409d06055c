package console

import (
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/wire"
)

// testConsole makes a console of one app, whose secret is edgetest.Secret.
func testConsole(t *testing.T, o Options) (*Console, *channel.App) {
	memory := conn.NewBudget(1 << 30)
	app := channel.NewApp(memory, channel.Limits{ChannelName: 200, EventSize: 10240})
	o.None = channel.NewApp(memory, channel.Limits{})
	o.SignIn = func(secret, _ string) (a Access) {
		if secret == edgetest.Secret {
			a = accessTo(app)
		}
		return a
	}
	o.Alone, o.Warnings = func() bool { return true }, func() []string { return nil }
	c := New(o)
	t.Cleanup(c.End)
	return c, app
}

func accessTo(a *channel.App) Access {
	return Access{App: a, Key: edgetest.Key, ID: func() string { return "1" }, Valid: func() bool { return true }}
}

// serve has the console answer a request.
func serve(c *Console, r *http.Request) *httptest.ResponseRecorder {
	mux, w := http.NewServeMux(), httptest.NewRecorder()
	c.Routes(mux)
	mux.ServeHTTP(w, r)
	return w
}

// signIn begins a session and returns a request of it.
func signIn(t *testing.T, c *Console, method, path string) *http.Request {
	t.Helper()
	token, err := c.begin(0, edgetest.Secret, "", "")
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(method, path, strings.NewReader("{}"))
	r.Header.Set("Content-Type", "application/json")
	r.AddCookie(cookie(r, token))
	return r
}

func quote(text string) []byte { return wire.AppendString(nil, text) }

func eventOn(name string, data []byte) channel.Notice {
	return channel.Notice{About: channel.AboutEvents, What: channel.NoticeEvent, Channel: name, Event: "e", Data: data}
}

// stuck is a page that does not read.
type stuck struct {
	*httptest.ResponseRecorder
	over <-chan struct{}
}

func (s stuck) Write(b []byte) (int, error) {
	if len(b) > 0 {
		<-s.over
	}
	return len(b), nil
}

// TestPage: the page is small, whole, and allowed to run nothing but what is in it.
func TestPage(t *testing.T) {
	c, _ := testConsole(t, Options{Path: "/edge"})
	resp := serve(c, httptest.NewRequest("GET", "/edge/console", nil)).Result()
	b, _ := io.ReadAll(resp.Body)
	page, policy := string(b), resp.Header.Get("Content-Security-Policy")
	if resp.StatusCode != 200 || page != consolePage || len(page) >= 60<<10 || strings.Contains(policy, "unsafe") {
		t.Errorf("%s: %d bytes, %s", resp.Status, len(page), policy)
	}
	wanted := []string{"default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'",
		"form-action 'none'"}
	for _, element := range []string{"script", "style"} {
		found := regexp.MustCompile(`(?s)<`+element+`[^>]*>(.*?)</`+element+`>`).FindAllStringSubmatch(page, -1)
		sum := sha256.Sum256([]byte(found[len(found)-1][1])) // there is one, or the others would not be allowed
		wanted = append(wanted, element+"-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"';")
	}
	for _, want := range wanted {
		if !strings.Contains(policy, want) {
			t.Errorf("no %s in %s", want, policy)
		}
	}
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
		"Cache-Control": "no-store", "Content-Type": "text/html; charset=utf-8"} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	bad := regexp.MustCompile(`https?://|innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function|` +
		`localStorage|crypto\.|<[^>]* on[a-z]+=|<[^>]* style=`)
	if found := bad.FindString(page); found != "" {
		t.Errorf("%s in the page", found)
	}
}
