package logs

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
)

func TestWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // close does not wait for long
		var out bytes.Buffer
		l := NewWriter(&out, false)
		want := ""
		for i := range 100 {
			fmt.Fprintln(l, "line", i)
			want += fmt.Sprintln("line", i)
		}
		l.Close()
		if out.String() != want {
			t.Errorf("got %q", out.String())
		}
		fmt.Fprintln(l, "late") // after the end nothing happens
		l.Close()
		if out.String() != want {
			t.Errorf("got %q", out.String())
		}
	})
}

// Of a flood so many lines are written as are allowed, and how many were not.
func TestWriterPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := NewWriter(&out, true)
		l.pace = conn.Rate(conn.Now()) // which in a bubble is far below 0, where a rate begins
		flood := func(n int) {
			for range n {
				io.WriteString(l, "x\n")
				synctest.Wait() // it is written
			}
		}
		flood(burst)
		if got := strings.Count(out.String(), "x\n"); got != burst {
			t.Errorf("%d lines of a burst were written, want %d", got, burst)
		}
		flood(1000)
		time.Sleep(time.Second)
		out.Reset()
		flood(2 * rate)
		if got := strings.Count(out.String(), "x\n"); got != rate ||
			!strings.Contains(out.String(), `msg="more lines were suppressed" lines=1000`+"\n") {
			t.Errorf("a second later: %q", out.String())
		}
		l.Close()
		if !strings.HasSuffix(out.String(), fmt.Sprintf(`level=WARN msg="more lines were suppressed" lines=%d`+"\n", rate)) {
			t.Errorf("at the end: %q", out.String())
		}
		l = NewWriter(&out, true)
		New(l, true, false) // whose lines are JSON
		l.pace = conn.Rate(conn.Now())
		out.Reset()
		flood(burst)
		for range 3 {
			io.WriteString(l, "x\n")
		}
		l.Close()
		if !strings.Contains(out.String(), `{"level":"WARN","msg":"more lines were suppressed","lines":3}`+"\n") {
			t.Errorf("of JSON: %q", out.String())
		}
	})
}

// A reader that does not read holds up nobody, not even the end.
func TestWriterBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		l := NewWriter(w, false)
		for range 2 * waiting {
			io.WriteString(l, "x\n")
		}
		began := time.Now()
		l.Close()
		if took := time.Since(began); took != patience {
			t.Errorf("close took %s", took)
		}
		got := make(chan string)
		go func() {
			b, _ := io.ReadAll(r)
			got <- string(b)
		}()
		<-l.done
		w.Close()
		s := <-got
		lines := strings.Count(s, "x\n") + strings.Count(s, "suppressed")
		if lines < waiting || !strings.Contains(s, "more lines were suppressed") {
			t.Errorf("%d bytes were written", len(s))
		}
	})
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestWriterBroken(t *testing.T) {
	l := NewWriter(brokenWriter{}, true)
	for range 1000 {
		io.WriteString(l, "x\n")
	}
	l.Close()
}

// testApp is an app whose notices are printed.
func testApp(to io.Writer) *channel.App {
	app := channel.NewApp(conn.NewBudget(64<<20), channel.Limits{})
	NewPrinter(New(to, false, false)).Observe(app, func() string { return "1" })
	return app
}

// TestPrintVoid: of events those that reached nobody are printed, and those alone.
func TestPrintVoid(t *testing.T) {
	var out bytes.Buffer
	app := testApp(&out)
	app.Notify(channel.Notice{About: channel.AboutEvents, What: channel.NoticeEvent, Event: "heard", Reached: 1})
	app.Trigger("void", 0, channel.Event{Name: []byte("unheard"), Data: []byte(`"x"`), Keep: true})
	want := `level=INFO msg="event reached nobody" app=1 channel=void event=unheard ` +
		`reason="nobody subscribes to the channel" data="\"x\""` + "\n"
	if out.String() != want {
		t.Errorf("%s", out.String())
	}
}

// TestRefusalWithSignature: one that was given for the wrong channel is good for another, and not printed.
func TestRefusalWithSignature(t *testing.T) {
	var out bytes.Buffer
	testApp(&out).Notify(channel.Notice{About: channel.AboutRejections, What: channel.NoticeRejected,
		Reason: "it was signed " + strings.Repeat("0f", 32)})
	if strings.Contains(out.String(), "0f") || !strings.Contains(out.String(), "it was signed …") {
		t.Errorf("%s", out.String())
	}
}

// Of refusals without end so many are printed as of problems, and then how many were not.
func TestRefusalsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(conn.ProcessStart)) // on the clock of a bubble it is still to come
		var out bytes.Buffer
		app := testApp(&out)
		for range 1000 {
			app.Notify(channel.Notice{About: channel.AboutRejections, What: channel.NoticeRejected, Reason: "no"})
		}
		if n := strings.Count(out.String(), "refused"); n != burst {
			t.Errorf("%d lines", n)
		}
		time.Sleep(time.Second)
		app.Notify(channel.Notice{About: channel.AboutRejections, What: channel.NoticeRejected, Reason: "no"})
		app.Notify(channel.Notice{About: channel.AboutSubscriptions, What: "subscribed"})
		suppressed := fmt.Sprintf("suppressed=%d", 1000-burst)
		if !strings.Contains(out.String(), suppressed) || !strings.HasSuffix(out.String(), "subscribed app=1\n") {
			t.Errorf("%s", out.String()[len(out.String())-200:])
		}
	})
}

// TestLogFormats: each line says the same in every format, and none has a time where journald has its own.
func TestLogFormats(t *testing.T) {
	for _, c := range []struct {
		json, stamps bool
		want         string
	}{
		{false, false, `^level=INFO msg="a message" name="a\\nvalue" n=5\n$`},
		{false, true, `^time=20[-0-9:.TZ+]+ level=INFO msg="a message" name="a\\nvalue" n=5\n$`},
		{true, false, `^{"level":"INFO","msg":"a message","name":"a\\nvalue","n":5}\n$`},
		{true, true, `^{"time":"20[-0-9:.TZ+]+","level":"INFO","msg":"a message","name":"a\\nvalue","n":5}\n$`},
	} {
		var out bytes.Buffer
		New(&out, c.json, c.stamps).Info("a message", "name", "a\nvalue", "n", 5)
		if !regexp.MustCompile(c.want).Match(out.Bytes()) {
			t.Errorf("%+v: %q", c, out.String())
		}
	}
}
