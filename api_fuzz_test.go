package main

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
)

// Whatever a body is, the API neither panics nor fails, and accepts nothing that encoding/json does not take for an object.
func FuzzAPIBody(f *testing.F) {
	// Cached events are forgotten after a second, so that they do not pile up. Little data is too much already, since the
	// fuzzer spends its time on making large inputs smaller.
	h := serverOf(f, testOptions(f, "-cache-ttl", "1s", "-event-size", "64")).offlineHandler()
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, path := range []string{"/apps/1/events", "/apps/1/batch_events"} {
			w := httptest.NewRecorder()
			target := strings.TrimPrefix(signedURL("", "POST", path, "", string(body)), "http://")
			h.ServeHTTP(w, httptest.NewRequest("POST", target, bytes.NewReader(body)))
			answer := w.Body.Bytes()
			var object map[string]json.RawMessage
			switch {
			case w.Code == 200:
				if err := json.Unmarshal(body, &object); err != nil || object == nil {
					t.Errorf("POST %s %q is accepted, which is no object: %v", path, body, err)
				}
				if object = nil; json.Unmarshal(answer, &object) != nil || object == nil {
					t.Errorf("POST %s %q is answered with %q", path, body, answer)
				}
			case w.Code != 400 && w.Code != 413:
				t.Errorf("POST %s %q: %d %q", path, body, w.Code, answer)
			case bytes.IndexByte(answer, '\n') != len(answer)-1:
				t.Errorf("POST %s %q: %d with %q, want a line of text", path, body, w.Code, answer)
			}
		}
	})
}
