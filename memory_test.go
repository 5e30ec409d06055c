package main

import (
	"bytes"
	"strings"
	"testing"

	"edge/internal/conn"
	"edge/internal/wire"
)

// TestBudgetOfMessages: messages that never end are held in a share of the budget, and not for longer than one may take.
func TestBudgetOfMessages(t *testing.T) {
	s := startServer(t, "-memory", "16M")
	healthy := connect(t, s.addr)
	healthy.join("room")
	half := maskedFrame(0x80|conn.OpText, bytes.Repeat([]byte("x"), 32_000))[:30_000]
	var stuck []*peer
	for range 300 {
		stuck = append(stuck, connect(t, s.addr))
	}
	for _, c := range stuck { // 9 MB of 3
		c.raw(half)
	}
	waitUntil(t, "enough have been cut off", func() bool {
		return s.app.Conns.Cuts[conn.CutMemory].Load() > 150 && s.app.Conns.Memory.Holds() <= s.app.Conns.Memory.Most()
	})
	large := strings.Repeat("y", 10_000) // comes in several pieces, and is as welcome as ever
	healthy.join("private-x")
	other := connect(t, s.addr)
	other.join("private-x")
	healthy.send(`{"event":"client-x","channel":"private-x","data":%q}`, large)
	other.expect(event("client-x", "private-x", large))
	for _, c := range stuck {
		c.leave()
	}
	waitUntil(t, "nothing is held", func() bool { return s.app.Conns.Memory.Holds() == 0 })
}

// TestTightMemory: while memory is tight nobody new comes in, and nothing new is kept; who is there is served as before.
func TestTightMemory(t *testing.T) {
	s := startServer(t)
	b := s.app.Conns.Memory
	c := connect(t, s.addr)
	c.join("room")
	b.Judge(1 << 50)
	late := handshake(t, s.addr, "/app/key?protocol=7", "")
	late.expect(`{"event":"pusher:error","data":{"code":4100,"message":"The server is short of memory"}}`)
	late.expectClose(wire.CodeOverCapacity)
	c.subscribe("other", "")
	c.expect(`{"event":"pusher:subscription_error","channel":"other","data":{"type":"LimitReached","error":"The server is short of memory","status":4100}}`,
		`{"event":"pusher:error","data":{"code":null,"message":"The server is short of memory"}}`)
	c.sendSignin(c.userToken(`{"id":"1"}`), `{"id":"1"}`)
	c.expect(`{"event":"pusher:error","data":{"code":null,"message":"The server is short of memory"}}`)
	publish(t, s.addr, "room", "e", "x")
	c.expect(event("e", "room", "x"))
	for _, body := range []string{`{"name":"e","channel":"cache-a","data":"x"}`, `{"name":"e","channels":["room","private-cache-a"],"data":"x"}`} {
		if status, answer := apiCall(t, s.addr, "POST", "/apps/1/events", "", body); status != 503 || !strings.HasPrefix(answer, "The server is short of memory") {
			t.Errorf("%s: %d %q, want 503", body, status, answer)
		}
	}
	b.Judge(0)
	c.join("other")
	c.expect()
	connect(t, s.addr).settled()
	c.settled() // nothing of what was refused has reached anyone
}
