package main

// Tests of what the watchdog asks for. The rest of what systemd gives a service is in test.

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"edge/internal/edgetest"
)

// TestProbe: what the watchdog asks for is answered only as long as accepting and delivering work.
func TestProbe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := startOn(t, l)
	for range 3 {
		began := time.Now()
		if err := s.probe(l).Run(t.Context()); err != nil && time.Since(began) < 5*time.Second { // else the machine was held up: it works in the end
			t.Fatal(err)
		}
	}
	waitUntil(t, "nothing is left of it", func() bool { return s.probed.Conns.Count() == 0 })
	if n := s.memory.ClientCount(); n != 0 || s.app.Connections() != 0 {
		t.Errorf("it counts as %d clients", n)
	}
	fails := func(what string, l net.Listener) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := s.probe(l).Run(ctx); err == nil {
			t.Errorf("%s is fine", what)
		}
	}
	silent, _ := net.Listen("tcp", "127.0.0.1:0")
	fails("a listener that nobody serves", silent)
	silent.Close()
	fails("one that is closed", silent)
	first := connectTo(t, s.addr, s.probed.keys()[0].Name)
	first.join("watchdog")
	_, goOn := s.probed.stopPump("bark")
	fails("a channel that delivers nothing", l)
	goOn()
	waitUntil(t, "it works again", func() bool { return s.probe(l).Run(t.Context()) == nil })
}

// TestWatchdogTriesAgain: one probe that fails, of a listener that hangs for a moment, does not end a healthy server.
func TestWatchdogTriesAgain(t *testing.T) {
	const period = 30 * time.Second // it takes a tenth of it
	sup := edgetest.NewSupervisor(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	broken := &brokenListener{Listener: l}
	broken.left.Store(2)
	t.Setenv("NOTIFY_SOCKET", sup.Name)
	t.Setenv("WATCHDOG_USEC", fmt.Sprint(period.Microseconds()))
	s := serverOf(t, testOptions(t))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	began := time.Now()
	go func() { done <- s.serve(ctx, broken) }()
	sup.Expect("READY=1\nSTATUS=0 connections, 0 channels")
	sup.Expect("WATCHDOG=1")
	if broken.left.Load() > 0 {
		t.Error("it was told before a probe has failed")
	}
	if waited := time.Since(began); waited >= period {
		t.Errorf("it was told after %s", waited)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// brokenListener closes some of what it accepts.
type brokenListener struct {
	net.Listener
	left atomic.Int64
}

func (l *brokenListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err == nil && l.left.Add(-1) >= 0 {
		nc.Close()
	}
	return nc, err
}
