package main

// Lines for people to read, which must never hold up what they are about.

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"edge/internal/wire"
)

const (
	logQueue    = 1000 // lines that may wait for whoever reads them
	logRate     = 20   // lines a second of what went wrong,
	logBurst    = 100  // and how many at once
	logPatience = time.Second
)

// lines is a writer that never blocks. It drops lines while nobody reads, and lines that come too fast. It counts
// them, and reports their number after the next line that it writes.
type lines struct {
	// Static after construction.
	to      io.Writer
	queue   chan []byte
	done    chan struct{} // closed when run has ended
	paced   bool
	dropped atomic.Int64 // since the last report
	json    atomic.Bool  // the lines are JSON

	mu     sync.Mutex // guards the following
	pace   rate
	closed bool
}

// newLines makes a writer whose close must be called. A paced one takes logRate lines a second.
func newLines(to io.Writer, paced bool) *lines {
	l := &lines{to: to, queue: make(chan []byte, logQueue), done: make(chan struct{}), paced: paced}
	go l.run() // ends with close
	return l
}

// Write takes one line or more. It never fails.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed && (!l.paced || l.pace.allow(monotonic(), logRate, logBurst)) {
		select {
		case l.queue <- bytes.Clone(p):
			return len(p), nil
		default:
		}
	}
	l.dropped.Add(1)
	return len(p), nil
}

// run writes the queue.
func (l *lines) run() {
	defer close(l.done)
	for p := range l.queue {
		l.write(p)
	}
	l.write(nil) // the last report
}

func (l *lines) write(p []byte) {
	defer func() { recover() }() // there is nowhere to report it
	l.to.Write(p)
	if n := l.dropped.Swap(0); n > 0 {
		newLogger(l.to, l.json.Load(), false).Warn("more lines were suppressed", "lines", n)
	}
}

// close waits until everything is written, but not for long if nobody reads it.
func (l *lines) close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.queue)
	}
	l.mu.Unlock()
	select {
	case <-l.done:
	case <-time.After(logPatience):
	}
}

// recovered catches a panic, so that only what was being done ends; it is deferred.
func recovered(where string) {
	if p := recover(); p != nil {
		logPanic(where, p)
	}
}

// logPanic logs a panic that was caught, and the stack of its place.
func logPanic(where string, p any) {
	panicsCaught.Add(1)
	slog.Error("panic", "in", where, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
}

var panicsCaught atomic.Uint64

// newLogger makes a logger, of JSON or of slog's text. Without stamps there is no time: journald has its own.
func newLogger(to io.Writer, json, stamps bool) *slog.Logger {
	o := &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey && !stamps {
			return slog.Attr{}
		}
		return a
	}}
	if json {
		return slog.New(slog.NewJSONHandler(to, o))
	}
	return slog.New(slog.NewTextHandler(to, o))
}

// watch is who wants to know what happens, in all apps: -verbose prints it, and pages of the console show it. When
// nobody does, a notice costs one atomic load.
type watch struct {
	on    atomic.Uint32           // a set of the following
	feeds atomic.Pointer[[]*feed] // for watchConsole; the list never changes, another takes its place

	log *slog.Logger // static: for watchVerbose

	mu         sync.Mutex // guards the following
	refusals   rate       // printed
	suppressed int        // refusals not printed since
}

const (
	watchVerbose = 1 << iota
	watchConsole
)

// notice is something that happened. Its strings are from outside: who prints them quotes them.
type notice struct {
	what    string // in a word or two, of ours
	socket  wire.SocketID
	remote  string
	channel string
	event   string
	user    string
	data    []byte // of an event a JSON string literal
	code    int
	reason  string
	reached int           // subscriptions that an event was given to, or events that a webhook was told
	took    time.Duration // to answer a call, or for a receiver to answer
}

// What is told in more than one place, or not to everyone.
const (
	noticeRefused     = "refused"
	noticeEvent       = "event"
	noticeClientEvent = "client event"
	noticeCall        = "call"
	noticeHook        = "webhook delivered"
)

// tell says what happened, to those who want to know. On paths where that must cost nothing, the caller looks at
// watch.on before it makes the notice.
func (a *App) tell(n notice) {
	on := a.watch.on.Load()
	if on&watchConsole != 0 {
		a.watch.feed(a, n)
	}
	if on&watchVerbose != 0 {
		a.watch.show(a, n)
	}
}

// tellEvent tells of an event that was triggered. That it reached nobody is what is asked for most.
func (a *App) tellEvent(name string, e Event, reached int) {
	n := notice{what: noticeEvent, channel: name, event: string(e.name), user: e.userID, data: e.data, reached: reached}
	if !e.keep {
		n.what = noticeClientEvent
	}
	if e.except != nil {
		n.socket = e.except.id
	}
	switch {
	case reached > 0:
	case e.except != nil:
		n.reason = "nobody but the sender subscribes to the channel"
	default:
		n.reason = "nobody subscribes to the channel"
	}
	a.tell(n)
}

// setVerbose sets whether notices are printed.
func (w *watch) setVerbose(on bool) {
	w.set(watchVerbose, on && w.log != nil)
}

func (w *watch) set(who uint32, on bool) {
	if on {
		w.on.Or(who)
	} else {
		w.on.And(^who)
	}
}

// show prints a notice. Events show as the frames they are sent in, but for those that nobody is sent.
func (w *watch) show(a *App, n notice) {
	suppressed, ok := 0, true
	switch n.what {
	case noticeCall, noticeHook:
		return
	case noticeEvent, noticeClientEvent:
		if n.reached > 0 {
			return
		}
		n.what += " reached nobody"
	case noticeRefused:
		if suppressed, ok = w.pace(); !ok {
			return
		}
	}
	attrs := n.attrs(a.id(), 200)
	if n.data != nil {
		attrs = append(attrs, slog.String("data", fmt.Sprintf("%.200s", hideSignatures(n.data[:min(len(n.data), 1000)]))))
	}
	if suppressed > 0 {
		attrs = append(attrs, slog.Int("suppressed", suppressed))
	}
	w.log.LogAttrs(context.Background(), slog.LevelInfo, n.what, attrs...)
}

// attrs are what a notice has but for its data, each cut to so many characters.
func (n notice) attrs(app string, most int) (all []slog.Attr) {
	add := func(name, text string) {
		if text != "" {
			all = append(all, slog.String(name, fmt.Sprintf("%.*s", most, text)))
		}
	}
	add("app", app)
	if n.socket != (wire.SocketID{}) {
		add("socket", n.socket.String())
	}
	add("client", n.remote)
	add("channel", n.channel)
	add("event", n.event)
	add("user", n.user)
	if n.code != 0 {
		all = append(all, slog.Int("code", n.code))
	}
	add("reason", string(hideSignatures([]byte(n.reason))))
	return all
}

// pace reports whether one more refusal is printed, and how many before it were not: whoever is refused tends to come
// again.
func (w *watch) pace() (suppressed int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.refusals.allow(monotonic(), logRate, logBurst) {
		w.suppressed++
		return 0, false
	}
	suppressed, w.suppressed = w.suppressed, 0
	return suppressed, true
}

// hideSignatures returns a copy of b without what could be one: 64 hexadecimal digits in a row.
func hideSignatures(b []byte) []byte {
	out := make([]byte, 0, len(b))
	digits := 0 // in a row, at the end of out
	for _, c := range b {
		out = append(out, c)
		if digits++; strings.IndexByte("0123456789abcdefABCDEF", c) < 0 {
			digits = 0
		}
		if digits == 64 {
			out, digits = append(out[:len(out)-64], "…"...), 0
		}
	}
	return out
}

// showFrames prints every frame of b, which is sent to or by this connection.
func (w *watch) showFrames(what string, s *Socket, b []byte) {
	for len(b) > 0 {
		var opcode byte
		var payload []byte
		if opcode, payload, b = nextServerFrame(b); opcode == opText {
			w.show(s.app, notice{what: what, socket: s.id, data: payload})
		}
	}
}
