package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
)

// Whatever a body is, the API neither panics nor fails, and accepts nothing that encoding/json does not take for an
// object.
func FuzzBody(f *testing.F) {
	// Cached events are forgotten after a second, so that they do not pile up. Little data is too much already, since
	// the fuzzer spends its time on making large inputs smaller.
	app := channel.NewApp(conn.NewBudget(1<<30), channel.Limits{CacheTTL: time.Second, EventSize: 64, ChannelName: 200})
	check := func(c *Call) error {
		c.App = app
		return c.ReadBody()
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, route := range Routes[:2] {
			w := httptest.NewRecorder()
			route.Serve(check, nil)(w, httptest.NewRequest("POST", "/", bytes.NewReader(body)))
			answer := w.Body.Bytes()
			var object map[string]json.RawMessage
			switch {
			case w.Code == http.StatusOK:
				if err := json.Unmarshal(body, &object); err != nil || object == nil {
					t.Errorf("POST %s %q is accepted, which is no object: %v", route.Path, body, err)
				}
				if object = nil; json.Unmarshal(answer, &object) != nil || object == nil {
					t.Errorf("POST %s %q is answered with %q", route.Path, body, answer)
				}
			case w.Code != http.StatusBadRequest && w.Code != http.StatusRequestEntityTooLarge:
				t.Errorf("POST %s %q: %d %q", route.Path, body, w.Code, answer)
			case bytes.IndexByte(answer, '\n') != len(answer)-1:
				t.Errorf("POST %s %q: %d with %q, want a line of text", route.Path, body, w.Code, answer)
			}
		}
	})
}
