package main

// Tests of a machine whose clock is not set.

import (
	"bytes"
	"fmt"
	"log"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestClockNotSet: while nobody has set the clock, requests of any time are good, but each once; when it is set, only those of now.
func TestClockNotSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(processStart)) // see startInBubble
		var lines bytes.Buffer
		log.SetOutput(&lines)
		defer log.SetOutput(errorOutput)
		s := testOptions(t).server(t)
		var set atomic.Bool
		boot := time.Unix(0, 0) // a board without a battery
		s.clock.now = func() time.Time { return boot }
		s.clock.isSet = func(time.Time) bool { return set.Load() }
		h := s.offlineHandler()
		now := time.Unix(1_800_000_000, 0)
		expect := func(at time.Time, name string, want int, text string) {
			t.Helper()
			if status, answer := publishAt(t, h, at, name); status != want || !strings.Contains(answer, text) {
				t.Errorf("%s at %s: %d %q, want %d %q", name, at, status, answer, want, text)
			}
		}
		expect(now, "a", 200, "")
		expect(now, "a", 200, "") // the same request again in the same second: it is signed alike
		expect(now, "b", 200, "")
		expect(now.Add(-10*365*day), "a", 200, "")
		time.Sleep(sameRequest + time.Second)
		expect(now, "a", 401, "used before")
		expect(now.Add(time.Second), "a", 200, "")
		expect(now.Add(-10*365*day), "a", 401, "used before")
		if n := strings.Count(lines.String(), "the clock of this machine is not set"); n != 1 {
			t.Errorf("said %d times:\n%s", n, lines.String())
		}
		boot = now // the time has come over the network
		set.Store(true)
		time.Sleep(clockCheck)
		expect(now, "c", 200, "")
		expect(now, "c", 200, "")
		expect(now.Add(-time.Hour), "c", 401, "off by 1h0m0s")
		if n := strings.Count(lines.String(), "the clock of this machine is set"); n != 1 {
			t.Errorf("said %d times:\n%s", n, lines.String())
		}
		set.Store(false) // and is lost again
		time.Sleep(clockCheck)
		expect(now.Add(-time.Hour), "c", 200, "")
		if n := strings.Count(lines.String(), "is not set"); n != 2 {
			t.Errorf("said %d times:\n%s", n, lines.String())
		}
		if status, _ := recordAPI(t, h, "GET", "/apps/1/channels?auth_key=key&auth_timestamp=5&auth_version=1.0&auth_signature=x", ""); status != 401 {
			t.Errorf("a bad signature: %d", status)
		}
	})
}

// TestReplays: memory is bounded, and what was forgotten is not accepted again.
func TestReplays(t *testing.T) {
	var r replays
	second := int64(time.Second)
	for i := range int64(3 * mostReplays) {
		if err := r.add(fmt.Sprint("s", i), 1000+i/10, i*second, false); err != nil {
			t.Fatal(i, err)
		}
	}
	if len(r.seen) != mostReplays || len(r.oldest) != mostReplays {
		t.Errorf("%d and %d are remembered", len(r.seen), len(r.oldest))
	}
	later := int64(10*mostReplays) * second
	for i := range int64(3 * mostReplays) {
		if err := r.add(fmt.Sprint("s", i), 1000+i/10, later, false); err == nil {
			t.Fatalf("signature %d is accepted twice", i)
		}
	}
	if err := r.add("young", 1000+3*mostReplays/10, later, false); err != nil {
		t.Error(err)
	}
	if err := r.add("old", 1000+2*mostReplays/10-1, later, false); err == nil || !strings.Contains(err.Error(), "younger than 1970-01-01T") {
		t.Errorf("%v", err)
	}
	if err := r.add("old, but in the window", 1000+2*mostReplays/10-1, later, true); err != nil {
		t.Error(err)
	}
}

// TestCallersWithOtherClocks: while the clock is not set, many requests of one caller do not lock out another whose clock is behind.
func TestCallersWithOtherClocks(t *testing.T) {
	c := &clock{now: func() time.Time { return time.Unix(vectorTime, 0) }}
	for i := range mostReplays + 1 {
		if err := c.once(fmt.Sprint("ahead", i), vectorTime+60, authWindow); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.once("behind", vectorTime-60, authWindow); err != nil {
		t.Error(err)
	}
	if err := c.once("long ago", vectorTime-3600, authWindow); err == nil {
		t.Error("what is older than the window and may have been forgotten is accepted")
	}
}

// The clock cannot be right before edge was made.
func TestClockBeforeBuild(t *testing.T) {
	defer func(b string) { built = b }(built)
	built = "2026-01-02T03:04:05Z"
	at := builtAt()
	if clockIsSet(at.Add(-time.Second)) {
		t.Error("a clock before it is right")
	}
	if clockIsSet(at) != kernelClockIsSet() {
		t.Error("a clock after it is not as the kernel says")
	}
}
