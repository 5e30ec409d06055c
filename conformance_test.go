package main

// Hostile and unusual frames over raw TCP: a generated table of headers, the cases of the Autobahn|Testsuite (categories 1 to
// 7, 9 and 10; 12 and 13 are about compression, which is never agreed on), and floods. After each of these tests everyone else
// must still be served, and nothing may be left of the clients that were turned away.

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/wire"
)

const pingMessage = `{"event":"pusher:ping"}`

// malformed stands in an expected frame for the pusher:error that text gets which is no message at all.
const malformed = `{"event":"pusher:error","data":{"code":null,"message":"Malformed message`

// expected is a frame as it is expected.
func expected(opcode byte, payload string) wsFrame { return wsFrame{opcode, []byte(payload)} }

// closedWith is an expected close frame, of which only the code matters; 0 stands for none.
func closedWith(code int) wsFrame {
	if code == 0 {
		return wsFrame{opcode: conn.OpClose}
	}
	return wsFrame{conn.OpClose, binary.BigEndian.AppendUint16(nil, uint16(code))}
}

// expectFrames reads these frames, and after a close frame the end of the connection.
func (c *peer) expectFrames(want []wsFrame) {
	c.t.Helper()
	for i, w := range want {
		opcode, payload := c.frame()
		if opcode == conn.OpClose {
			payload = payload[:min(2, len(payload))]
		}
		if string(w.payload) == malformed {
			payload = payload[:min(len(malformed), len(payload))]
		}
		if opcode != w.opcode || !bytes.Equal(payload, w.payload) {
			c.t.Fatalf("answer %d of %d: got opcode %d %.90q, want %d %.90q", i+1, len(want), opcode, payload, w.opcode, w.payload)
		}
	}
	if want[len(want)-1].opcode != conn.OpClose {
		return
	}
	if opcode, payload, err := c.readFrame(); err == nil {
		c.t.Fatalf("after the close frame: opcode %d %q", opcode, payload)
	}
}

// unharmed returns a check that the server is as it was: a neighbour is served, and no other connection and no goroutine is left.
func unharmed(t *testing.T, s *testServer) (check func()) {
	neighbour := connect(t, s.addr)
	neighbour.settled()
	goroutines := runtime.NumGoroutine()
	return func() {
		t.Helper()
		neighbour.conn.SetDeadline(time.Now().Add(patience)) // from now on, however long the test took
		neighbour.settled()
		waitUntil(t, "all others have left", func() bool {
			return s.app.Connections() == 1 && s.app.Conns.Count() == 1
		})
		waitUntil(t, "their goroutines have ended", func() bool { return runtime.NumGoroutine() <= goroutines })
	}
}

// single is a frame with FIN, part is one without.
func single(opcode byte, payload string) []byte { return maskedFrame(0x80|opcode, []byte(payload)) }
func part(opcode byte, payload string) []byte   { return maskedFrame(opcode, []byte(payload)) }

// closing is a close frame with a code.
func closing(code int, reason string) []byte {
	return single(conn.OpClose, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+reason)
}

// split is a message in frames of so many bytes.
func split(opcode byte, payload string, size int) (frames [][]byte) {
	for len(payload) > size {
		frames = append(frames, part(opcode, payload[:size]))
		opcode, payload = conn.OpContinuation, payload[size:]
	}
	return append(frames, single(opcode, payload))
}

// TestRelayedInAnyFrames: however an event of a client comes in, the others get what was sent.
func TestRelayedInAnyFrames(t *testing.T) {
	s := startServer(t, "-event-size=32000")
	from, to := connect(t, s.addr), connect(t, s.addr)
	from.join("private-room")
	to.join("private-room")
	id, _ := wire.ParseSocketID(from.id)
	socket := s.app.Socket(id)
	for _, n := range []int{0, 1, 60, 125, 126, 127, 128, 1000, 4096, 10_240, 31_997} {
		data := strings.Repeat("é", n/2) + strings.Repeat("\U0001f600", n%2)
		message := fmt.Sprintf(`{"event":"client-echo","channel":"private-room","data":%s}`, quote(data))
		for _, size := range []int{len(message)/60 + 1, len(message)/2 + 1, len(message)} { // of frames
			for _, chop := range []int{max(1, len(message)/100), 4096, 1 << 20} {
				socket.Mu.Lock()
				clientOf(socket).clientEvents = 0 // or the limit of ten a second would end it
				socket.Mu.Unlock()
				for piece := range slices.Chunk(slices.Concat(split(conn.OpText, message, size)...), chop) {
					from.raw(piece)
				}
				from.settled() // there was no error
				to.expect(event("client-echo", "private-room", data))
			}
		}
	}
	from.settled()
}

// Floods, and what never ends

func TestFloods(t *testing.T) {
	s := startServer(t, "-activity-timeout", "1h")
	check := unharmed(t, s)
	empty := maskedFrame(conn.OpContinuation, nil)
	pings, pongs := bytes.Repeat(single(conn.OpPing, strings.Repeat("p", 125)), 2000), bytes.Repeat(single(conn.OpPong, ""), 2000)
	for _, test := range []struct {
		name  string
		flood []byte
		want  []wsFrame // all that is answered, but for pongs
	}{
		{"as many fragments as may be", append(bytes.Repeat(fragments([]byte(pingMessage), nil, conn.MaxFragments), 30), single(conn.OpClose, "")...),
			append(slices.Repeat([]wsFrame{expected(conn.OpText, pong)}, 30), closedWith(0))},
		{"empty fragments", append(part(conn.OpText, ""), bytes.Repeat(empty, 2000)...), []wsFrame{closedWith(1008)}},
		{"empty fragments of a binary message", append(part(conn.OpBinary, ""), bytes.Repeat(empty, 2000)...), []wsFrame{closedWith(1008)}},
		{"fragments of a byte", append(part(conn.OpText, "x"), bytes.Repeat(part(conn.OpContinuation, "x"), 2000)...), []wsFrame{closedWith(1008)}},
		{"fragments of 1000 bytes", append(part(conn.OpText, ""), bytes.Repeat(part(conn.OpContinuation, long(1000)), 100)...), []wsFrame{closedWith(1009)}},
		{"pings", pings, []wsFrame{closedWith(1008)}},
		{"pongs", pongs, []wsFrame{closedWith(1008)}},
		{"pings in a message", append(part(conn.OpText, "x"), pings...), []wsFrame{closedWith(1008)}},
		{"pongs in a message", append(part(conn.OpText, "x"), pongs...), []wsFrame{closedWith(1008)}},
		{"closes", bytes.Repeat(closing(4000, ""), 2000), []wsFrame{closedWith(4000)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := connect(t, s.addr)
			c.conn.Write(test.flood) // may fail, since the server has gone meanwhile
			c.expectBesidesPongs(test.want)
			c.leave()
		})
	}
	t.Run("pipelined", func(t *testing.T) { floodWithMessages(t, s.addr) })
	t.Run("with the handshake", func(t *testing.T) { floodWithHandshakes(t, s.addr) })
	check()
}

// expectBesidesPongs reads these frames and the end. It passes over pongs: how many pings are answered depends on the time they
// take.
func (c *peer) expectBesidesPongs(want []wsFrame) {
	c.t.Helper()
	for i := 0; i < len(want); {
		opcode, payload := c.frame()
		if opcode == conn.OpPong {
			continue
		}
		if got := payload[:min(len(payload), len(want[i].payload))]; opcode != want[i].opcode || !bytes.Equal(got, want[i].payload) {
			c.t.Fatalf("got opcode %d %q, want %d %q", opcode, payload, want[i].opcode, want[i].payload)
		}
		i++
	}
	if opcode, payload, err := c.readFrame(); err == nil {
		c.t.Fatalf("at the end: opcode %d %q", opcode, payload)
	}
}

// floodWithMessages sends a thousand pings of the protocol in one write, and others between them that show the order.
func floodWithMessages(t *testing.T, addr string) {
	var sent []byte
	var want []wsFrame
	for i := range 1000 {
		sent, want = append(sent, single(conn.OpText, pingMessage)...), append(want, expected(conn.OpText, pong))
		if i%25 == 0 { // 40 in all, as many as may come at once
			number := fmt.Sprint(i)
			sent, want = append(sent, single(conn.OpPing, number)...), append(want, expected(conn.OpPong, number))
		}
		if bits.OnesCount(uint(i))%2 == 0 {
			sent, want = append(sent, single(conn.OpText, "x")...), append(want, expected(conn.OpText, malformed))
		}
	}
	c := connect(t, addr)
	c.raw(sent)
	c.expectFrames(want)
	c.settled()
	c.leave()
}

// floodWithHandshakes sends the handshake, a subscription and a message in one write, again and again.
func floodWithHandshakes(t *testing.T, addr string) {
	for i := range 200 {
		channel := fmt.Sprintf("room-%d", i%10)
		c := handshake(t, addr, keyPath, string(single(conn.OpText, fmt.Sprintf(`{"event":"pusher:subscribe","data":{"channel":%q}}`, channel)))+
			string(single(conn.OpText, pingMessage)))
		c.established()
		c.expect(succeeded(channel), pong)
		c.leave()
	}
}

// TestFloodsWithoutEnd: what is begun and not ended is closed with 1008 after ten seconds, wherever it stops, and whether
// nothing more comes or a byte a second.
func TestFloodsWithoutEnd(t *testing.T) {
	long := append(edgetest.Header(0x80|conn.OpText, true, 64, 600), make([]byte, 600)...)
	begun := slices.Concat(part(conn.OpText, "x"), single(conn.OpPong, ""), part(conn.OpContinuation, "")) // a message without an end
	synctest.Test(t, func(t *testing.T) {
		connect := startInBubble(t)
		neighbour := connect(nil)
		for _, early := range []bool{false, true} {
			for n := 1; n <= 20; n++ { // the header has 14 bytes
				neverEnds(t, connect, long[:n], nil, early)
				neverEnds(t, connect, long[:n], long[n:n+15], early)
				neighbour.settled()
			}
			neverEnds(t, connect, begun[:7], nil, early)
			neverEnds(t, connect, begun, nil, early)
		}
		neighbour.leave()
	})
}

// neverEnds sends the beginning of a message, in one packet with the handshake or after it, and then a byte a second.
func neverEnds(t *testing.T, connect func(rest []byte) *peer, begun, more []byte, early bool) {
	t.Helper()
	began := time.Now()
	var c *peer
	if early {
		c = connect(begun)
	} else {
		c = connect(nil)
		c.raw(begun)
	}
	var sent sync.WaitGroup
	sent.Go(func() { // ends when everything is sent, which no longer matters after the connection is closed
		for i := range more {
			time.Sleep(time.Second + time.Millisecond)
			c.conn.Write(more[i : i+1])
		}
	})
	opcode, payload := c.frame()
	if took := time.Since(began); opcode != conn.OpClose || binary.BigEndian.Uint16(payload) != conn.ClosePolicy || took != 10*time.Second {
		t.Errorf("%d bytes, early %t, and %d more: opcode %d %q after %s", len(begun), early, len(more), opcode, payload, took)
	}
	c.leave()
	sent.Wait()
}

// TestFloodsSlowly: fragments that come just in time are counted like others.
func TestFloodsSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startInBubble(t)(nil)
		c.raw(part(conn.OpText, "x"))
		for range conn.MaxFragments - 1 {
			time.Sleep(9 * time.Second)
			c.raw(part(conn.OpContinuation, ""))
		}
		time.Sleep(9 * time.Second)
		c.conn.Write(part(conn.OpContinuation, "")[:1]) // a pipe: the rest would never be taken
		opcode, payload := c.frame()
		if opcode != conn.OpClose || binary.BigEndian.Uint16(payload) != conn.ClosePolicy || !strings.Contains(string(payload), "fragments") {
			t.Errorf("opcode %d %q", opcode, payload)
		}
		c.leave()
	})
}
