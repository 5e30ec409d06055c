package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edge/internal/conn"
)

func TestLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // close does not wait for long
		var out bytes.Buffer
		l := newLines(&out, false)
		want := ""
		for i := range 100 {
			fmt.Fprintln(l, "line", i)
			want += fmt.Sprintln("line", i)
		}
		l.close()
		if out.String() != want {
			t.Errorf("got %q", out.String())
		}
		fmt.Fprintln(l, "late") // after the end nothing happens
		l.close()
		if out.String() != want {
			t.Errorf("got %q", out.String())
		}
	})
}

// Of a flood so many lines are written as are allowed, and how many were not.
func TestLinesPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := newLines(&out, true)
		l.pace = conn.Rate(conn.Now()) // which in a bubble is far below 0, where a rate begins
		flood := func(n int) {
			for range n {
				io.WriteString(l, "x\n")
				synctest.Wait() // it is written
			}
		}
		flood(logBurst)
		if got := strings.Count(out.String(), "x\n"); got != logBurst {
			t.Errorf("%d lines of a burst were written, want %d", got, logBurst)
		}
		flood(1000)
		time.Sleep(time.Second)
		out.Reset()
		flood(2 * logRate)
		if got := strings.Count(out.String(), "x\n"); got != logRate || !strings.Contains(out.String(), `msg="more lines were suppressed" lines=1000`+"\n") {
			t.Errorf("a second later: %q", out.String())
		}
		l.close()
		if !strings.HasSuffix(out.String(), fmt.Sprintf(`level=WARN msg="more lines were suppressed" lines=%d`+"\n", logRate)) {
			t.Errorf("at the end: %q", out.String())
		}
		l = newLines(&out, true)
		l.json.Store(true)
		l.pace = conn.Rate(conn.Now())
		out.Reset()
		flood(logBurst)
		for range 3 {
			io.WriteString(l, "x\n")
		}
		l.close()
		if !strings.Contains(out.String(), `{"level":"WARN","msg":"more lines were suppressed","lines":3}`+"\n") {
			t.Errorf("of JSON: %q", out.String())
		}
	})
}

// A reader that does not read holds up nobody, not even the end.
func TestLinesBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		l := newLines(w, false)
		for range 2 * logQueue {
			io.WriteString(l, "x\n")
		}
		began := time.Now()
		l.close()
		if took := time.Since(began); took != logPatience {
			t.Errorf("close took %s", took)
		}
		got := make(chan string)
		go func() {
			b, _ := io.ReadAll(r)
			got <- string(b)
		}()
		<-l.done
		w.Close()
		if s := <-got; strings.Count(s, "x\n")+strings.Count(s, "suppressed") < logQueue || !strings.Contains(s, "more lines were suppressed") {
			t.Errorf("%d bytes were written", len(s))
		}
	})
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestLinesBroken(t *testing.T) {
	l := newLines(brokenWriter{}, true)
	for range 1000 {
		io.WriteString(l, "x\n")
	}
	l.close()
}

// TestVerboseVoid: -verbose says what reached nobody, and that alone of events.
func TestVerboseVoid(t *testing.T) {
	var out syncBuffer
	s := startServer(t)
	s.logTo(&out)
	connect(t, s.addr).join("room")
	publish(t, s.addr, "room", "heard", "{}")
	publish(t, s.addr, "void", "unheard", `"x"`)
	text := out.String()
	if !strings.Contains(text, "msg=\"event reached nobody\" channel=void event=unheard reason=\"nobody subscribes to the channel\"") || strings.Contains(text, "event=heard") {
		t.Error(text)
	}
}
