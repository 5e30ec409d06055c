package main

// Lines for people to read, which must never hold up what they are about.

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
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
	pace   conn.Rate
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
	if !l.closed && (!l.paced || l.pace.Allow(conn.Now(), logRate, logBurst)) {
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

// printer prints notices.
type printer struct {
	log *slog.Logger // static

	mu         sync.Mutex // guards the following
	rejections conn.Rate  // printed
	suppressed int        // rejections not printed since
}

// printed are the notices that a printer wants.
const printed = channel.AboutConnections | channel.AboutSubscriptions | channel.AboutRejections | channel.AboutEvents | channel.AboutClientEvents | channel.AboutDeliveries | channel.AboutFrames

// print prints a notice of the app with this id. Events show as the frames they are sent in, but for those that nobody is sent.
func (p *printer) print(app string, n channel.Notice) {
	suppressed, ok := 0, true
	switch n.About {
	case channel.AboutDeliveries:
		if n.Reason == "" {
			return
		}
	case channel.AboutEvents, channel.AboutClientEvents:
		if n.Reached > 0 {
			return
		}
		n.What += " reached nobody"
	case channel.AboutRejections:
		if suppressed, ok = p.pace(); !ok {
			return
		}
	}
	attrs := n.Attrs(app, 200)
	if n.Data != nil {
		attrs = append(attrs, slog.String("data", fmt.Sprintf("%.200s", channel.HideSignatures(n.Data[:min(len(n.Data), 1000)]))))
	}
	if suppressed > 0 {
		attrs = append(attrs, slog.Int("suppressed", suppressed))
	}
	p.log.LogAttrs(context.Background(), slog.LevelInfo, n.What, attrs...)
}

// pace reports whether one more rejection is printed, and how many before it were not: whoever is rejected tends to come again.
func (p *printer) pace() (suppressed int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.rejections.Allow(conn.Now(), logRate, logBurst) {
		p.suppressed++
		return 0, false
	}
	suppressed, p.suppressed = p.suppressed, 0
	return suppressed, true
}
