// Package logs is lines for people to read, which must never hold up what they are about: a writer that never blocks,
// loggers in both formats, and the printer of an app's notices for -verbose. It decides neither what is logged
// (whoever has something to say calls slog) nor what becomes a notice.
//
// To print another kind of notice: add it to printed, and to print what is special about its line.
package logs

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
	waiting  = 1000 // lines that may wait for whoever reads them
	rate     = 20   // lines a second of what went wrong,
	burst    = 100  // and how many at once
	patience = time.Second
)

// Writer is a writer that never blocks. It drops lines while nobody reads, and lines that come too fast. It counts
// them, and reports their number after the next line that it writes.
type Writer struct {
	// Static after construction.
	to      io.Writer
	done    chan struct{} // closed when run has ended
	paced   bool
	dropped atomic.Int64 // since the last report
	json    atomic.Bool  // the lines are JSON, and so are reports

	mu    sync.Mutex // guards the following
	pace  conn.Rate
	queue chan<- []byte // nil after Close
}

// NewWriter makes a writer whose Close must be called. A paced one takes rate lines a second.
func NewWriter(to io.Writer, paced bool) *Writer {
	queue := make(chan []byte, waiting)
	w := &Writer{to: to, queue: queue, done: make(chan struct{}), paced: paced}
	go w.run(queue) // ends with Close
	return w
}

// Write takes one line or more. It never fails.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.paced || w.pace.Allow(conn.Now(), rate, burst) {
		select {
		case w.queue <- bytes.Clone(p):
			return len(p), nil
		default:
		}
	}
	w.dropped.Add(1)
	return len(p), nil
}

// run writes the queue.
func (w *Writer) run(queue <-chan []byte) {
	defer close(w.done)
	for p := range queue {
		w.write(p)
	}
	w.write(nil) // the last report
}

func (w *Writer) write(p []byte) {
	defer func() { recover() }() // there is nowhere to report it
	w.to.Write(p)
	if n := w.dropped.Swap(0); n > 0 {
		New(w.to, w.json.Load(), false).Warn("more lines were suppressed", "lines", n)
	}
}

// Close waits until everything is written, but not for long if nobody reads it.
func (w *Writer) Close() {
	w.mu.Lock()
	if w.queue != nil {
		close(w.queue)
		w.queue = nil
	}
	w.mu.Unlock()
	select {
	case <-w.done:
	case <-time.After(patience):
	}
}

// New makes a logger, of JSON or of slog's text. Without stamps there is no time: journald has its own.
func New(to io.Writer, json, stamps bool) *slog.Logger {
	if w, ok := to.(*Writer); ok {
		w.json.Store(json)
	}
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

// printed are the notices that a printer wants.
const printed = channel.AboutConnections | channel.AboutSubscriptions | channel.AboutRejections | channel.AboutEvents |
	channel.AboutClientEvents | channel.AboutDeliveries | channel.AboutFrames

// Printer prints notices.
type Printer struct {
	log *slog.Logger // static

	mu         sync.Mutex // guards the following
	rejections conn.Rate  // printed
	suppressed int        // rejections not printed since
}

// NewPrinter makes a printer to this log.
func NewPrinter(log *slog.Logger) *Printer { return &Printer{log: log} }

// Observe prints the notices of an app until end is called. id is the app's at the moment.
func (p *Printer) Observe(app *channel.App, id func() string) (end func()) {
	return app.Observe(printed, func(n channel.Notice) { p.print(id(), n) })
}

// print prints a notice. Events show as the frames they are sent in, but for those that nobody is sent.
func (p *Printer) print(app string, n channel.Notice) {
	suppressed, ok := 0, true
	switch n.About {
	case channel.AboutDeliveries:
		ok = n.Reason != ""
	case channel.AboutEvents, channel.AboutClientEvents:
		ok = n.Reached == 0
		n.What += " reached nobody"
	case channel.AboutRejections:
		suppressed, ok = p.pace()
	}
	if !ok {
		return
	}
	attrs := n.Attrs(app, 200)
	if n.Data != nil {
		data := channel.HideSignatures(n.Data[:min(len(n.Data), 1000)])
		attrs = append(attrs, slog.String("data", fmt.Sprintf("%.200s", data)))
	}
	if suppressed > 0 {
		attrs = append(attrs, slog.Int("suppressed", suppressed))
	}
	p.log.LogAttrs(context.Background(), slog.LevelInfo, n.What, attrs...)
}

// pace reports whether one more rejection is printed, and how many before it were not: whoever is rejected tends to
// come again.
func (p *Printer) pace() (suppressed int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.rejections.Allow(conn.Now(), rate, burst) {
		p.suppressed++
		return 0, false
	}
	suppressed, p.suppressed = p.suppressed, 0
	return suppressed, true
}
