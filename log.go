package main

// Lines for people to read, which must never hold up what they are about.

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

const (
	logQueue    = 1000 // lines that may wait for whoever reads them
	logRate     = 20   // lines a second of what went wrong,
	logBurst    = 100  // and how many at once
	logPatience = time.Second
)

// lines is a writer that never makes anyone wait. What the other end does not take is dropped, and so is what comes too fast;
// both are counted, and the next line that is written says how many there were.
type lines struct {
	// Static after construction.
	to     io.Writer
	queue  chan []byte
	done   chan struct{} // closed when run has ended
	paced  bool
	missed atomic.Int64 // lines dropped since that was last said

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
	if l.closed || l.paced && !l.pace.allow(monotonic(), logRate, logBurst) {
		l.missed.Add(1)
		return len(p), nil
	}
	select {
	case l.queue <- bytes.Clone(p):
	default:
		l.missed.Add(1)
	}
	return len(p), nil
}

// run writes what is queued.
func (l *lines) run() {
	defer close(l.done)
	for p := range l.queue {
		l.write(p)
	}
	l.confess()
}

func (l *lines) write(p []byte) {
	defer func() { recover() }() // there is nowhere to say it
	l.to.Write(p)                // nobody can be told that it failed
	l.confess()
}

// confess says how many lines were dropped.
func (l *lines) confess() {
	if n := l.missed.Swap(0); n > 0 {
		fmt.Fprintf(l.to, "%d more lines were suppressed\n", n)
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
func logPanic(where string, p any) { log.Printf("%s: panic: %v\n%s", where, p, debug.Stack()) }
