package edgetest

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Receiver collects what a webhook is sent. It checks every request as the official libraries do.
type Receiver struct {
	T      testing.TB
	Answer func() int // status of the next answer; nil for 200

	mu       sync.Mutex // guards the following
	requests []string   // bodies of all requests, with their signatures
	events   []string   // of the accepted ones, without time_ms
	arrived  chan struct{}
}

// NewReceiver makes a receiver that accepts everything.
func NewReceiver(t testing.TB) *Receiver {
	return &Receiver{T: t, arrived: make(chan struct{}, 1)}
}

func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // broken off
	}
	var payload struct {
		TimeMS *int64 `json:"time_ms"`
		Events []json.RawMessage
	}
	if err := json.Unmarshal(body, &payload); err != nil || payload.TimeMS == nil || len(payload.Events) == 0 {
		r.T.Errorf("body %s: %v", body, err)
	}
	LookForSecret("a webhook", body)
	signature, kind := req.Header.Get("X-Pusher-Signature"), req.Header.Get("Content-Type")
	if kind != "application/json" || req.Header.Get("X-Pusher-Key") != Key || signature != Sign(string(body)) {
		r.T.Errorf("headers %v", req.Header)
	}
	status := http.StatusOK
	if r.Answer != nil {
		status = r.Answer()
	}
	r.mu.Lock()
	r.requests = append(r.requests, string(body)+signature)
	if status/100 == 2 {
		for _, e := range payload.Events {
			r.events = append(r.events, string(e))
		}
	}
	r.mu.Unlock()
	select {
	case r.arrived <- struct{}{}:
	default:
	}
	w.Header().Set("Location", "http://elsewhere/") // for those who follow redirects
	w.WriteHeader(status)
}

// Got returns the accepted events so far.
func (r *Receiver) Got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// Requests returns the bodies so far, each with its signature behind it.
func (r *Receiver) Requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// Forget forgets what was received.
func (r *Receiver) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests, r.events = nil, nil
}

// Wait waits until the receiver has something new.
func (r *Receiver) Wait() { <-r.arrived }

// Want waits for as many events and compares them with these.
func (r *Receiver) Want(events ...string) {
	r.T.Helper()
	deadline := time.After(Patience)
	for len(r.Got()) < len(events) {
		select {
		case <-r.arrived:
		case <-deadline:
			r.T.Fatalf("got %d events:\n%s\nwant %d", len(r.Got()), strings.Join(r.Got(), "\n"), len(events))
		}
	}
	r.Check(events...)
}

// Check compares the events so far.
func (r *Receiver) Check(events ...string) {
	r.T.Helper()
	if got := r.Got(); !slices.Equal(got, events) {
		r.T.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(events, "\n"))
	}
}

// Occupied is the webhook event of a channel that has its first subscription.
func Occupied(channel string) string {
	return `{"name":"channel_occupied","channel":` + Quote(channel) + `}`
}

// Vacated is that of a channel without subscriptions again.
func Vacated(channel string) string {
	return `{"name":"channel_vacated","channel":` + Quote(channel) + `}`
}
