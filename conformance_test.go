package main

// Hostile and unusual frames over raw TCP: a generated table of headers, the cases of the Autobahn|Testsuite (categories 1 to
// 7, 9 and 10; 12 and 13 are about compression, which is never agreed on), and floods. After each of these tests everyone else
// must still be served, and nothing may be left of the clients that were turned away.

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/lxzan/gws"

	"edge/internal/wire"
)

const pingMessage = `{"event":"pusher:ping"}`

// malformed stands in an expected frame for the pusher:error that text gets which is no message at all.
const malformed = `{"event":"pusher:error","data":{"code":null,"message":"Malformed message`

// say is a frame as it is expected.
func say(opcode byte, payload string) frame { return frame{opcode, []byte(payload)} }

// closed is an expected close frame, of which only the code matters; 0 stands for none.
func closed(code int) frame {
	if code == 0 {
		return frame{opcode: opClose}
	}
	return frame{opClose, binary.BigEndian.AppendUint16(nil, uint16(code))}
}

// expectFrames reads these frames, and after a close frame the end of the connection.
func (c *client) expectFrames(want []frame) {
	c.t.Helper()
	for i, w := range want {
		opcode, payload := c.frame()
		if opcode == opClose {
			payload = payload[:min(2, len(payload))]
		}
		if string(w.payload) == malformed {
			payload = payload[:min(len(malformed), len(payload))]
		}
		if opcode != w.opcode || !bytes.Equal(payload, w.payload) {
			c.t.Fatalf("answer %d of %d: got opcode %d %.90q, want %d %.90q", i+1, len(want), opcode, payload, w.opcode, w.payload)
		}
	}
	if want[len(want)-1].opcode != opClose {
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
			s.app.socketsMu.Lock()
			defer s.app.socketsMu.Unlock()
			return len(s.app.sockets) == 1 && s.app.open == 1
		})
		waitUntil(t, "their goroutines have ended", func() bool { return runtime.NumGoroutine() <= goroutines })
	}
}

// 1. The table of headers

// frameCase is what a client sends, and what edge must answer.
type frameCase struct {
	name string
	sent []byte
	want []frame
}

// frameLengths are the lengths of the table, how they are written, and what the payload is of; it is there up to maxPayload.
var frameLengths = []struct {
	form   int // bits
	length uint64
	fill   byte
}{
	{7, 0, 0}, {7, 1, 'x'}, {7, 5, 0xff}, {7, 6, 'x'}, {7, 125, 'x'}, {16, 0, 0}, {16, 5, 'x'}, {16, 126, 'x'}, {16, maxPayload, 'x'}, {16, maxPayload + 1, 0},
	{64, 5, 'x'},
	{64, maxPayload, 'x'}, {64, 1 << 31, 0}, {64, 1<<32 + 5, 0}, {64, 1<<63 - 1, 0}, {64, 1 << 63, 0}, {64, 1<<64 - 10, 0},
}

// frameStates are what came before the frame.
var frameStates = []struct {
	name   string
	prefix []byte
}{
	{"idle", nil},
	{"in a message", maskedFrame(opText, []byte("abc"))},
	{"after a message", maskedFrame(0x80|opText, []byte(pingMessage))},
	{"in a binary message", maskedFrame(opBinary, nil)},
	{"one below the fragment limit", append(maskedFrame(opText, nil), bytes.Repeat(maskedFrame(opContinuation, nil), maxFragments-2)...)},
	{"at the fragment limit", append(maskedFrame(opText, nil), bytes.Repeat(maskedFrame(opContinuation, nil), maxFragments-1)...)},
	{"5 bytes below the limit", maskedFrame(opText, []byte(strings.Repeat("x", maxPayload-5)))},
}

// frameTable is every first byte × length × mask × state, but reserved bits, which fail at the first byte whatever follows, with
// fewer of them. Behind the frame come a ping, which shows that it was good, and a message, which shows whether it ended one.
func frameTable() (cases []frameCase) {
	probes := slices.Concat(maskedFrame(0x80|opPing, []byte("alive")), maskedFrame(0x80|opText, []byte(pingMessage)))
	for _, state := range frameStates {
		for first := range 256 {
			for i, l := range frameLengths {
				if first&0x70 != 0 && (i%10 != 0 || len(state.prefix) > 8) {
					continue
				}
				for _, masked := range []bool{false, true} {
					b := append(slices.Clone(state.prefix), frameHeader(byte(first), masked, l.form, l.length)...)
					if l.length <= maxPayload {
						b = append(b, bytes.Repeat([]byte{l.fill ^ 0xff}, int(l.length))...) // frameHeader's mask is ff
					}
					b = append(b, probes...)
					name := fmt.Sprintf("%s/%02x, length %d in %d bits, masked %t", state.name, first, l.length, l.form, masked)
					cases = append(cases, frameCase{name, b, wantOf(b)})
				}
			}
		}
	}
	return cases
}

// wantOf is what edge must answer to these bytes.
func wantOf(b []byte) (want []frame) {
	var r frameReader
	for rest := slices.Clone(b); len(rest) > 0; r.release() {
		f, next, code := r.next(rest, 0)
		rest = next
		switch {
		case code != 0:
			return append(want, closed(code))
		case f.opcode == opPing:
			want = append(want, frame{opPong, f.payload})
		case f.opcode == opBinary:
			return append(want, closed(closeUnsupported))
		case f.opcode == opClose:
			return append(want, closed(closeOfGWS(f.payload)))
		case f.opcode == opText && !utf8.Valid(f.payload):
			return append(want, closed(closeNotUTF8))
		case f.opcode == opText && string(f.payload) == pingMessage:
			want = append(want, say(opText, pong))
		case f.opcode == opText:
			want = append(want, say(opText, malformed))
		}
	}
	return want
}

// run sends the case on a connection of its own: in one packet with the handshake, or after it.
func (f frameCase) run(t *testing.T, addr string, early bool) {
	var c *client
	if early {
		c = handshake(t, addr, keyPath, string(f.sent))
		c.established()
	} else {
		c = connect(t, addr)
		c.conn.Write(f.sent) // fails if the server has gone meanwhile, which shows in what it said
	}
	c.expectFrames(f.want)
	c.leave()
}

// TestFrameTable: thousands of frames, each to a server that serves others too. Every one gets its exact close code or is
// answered, and nothing stays.
func TestFrameTable(t *testing.T) {
	s := startServer(t, "-activity-timeout", "1h") // the neighbour is not pinged
	check := unharmed(t, s)
	cases := frameTable()
	good, codes := tally(cases)
	if t.Logf("%d cases, %d of good frames; ends %v", len(cases), good, codes); len(cases) < 2000 || good < 100 || len(codes) != 7 {
		t.Fatal("that is not what the table is to be")
	}
	const workers = 8
	t.Run("cases", func(t *testing.T) {
		for worker := range workers {
			t.Run(fmt.Sprint(worker), func(t *testing.T) {
				t.Parallel()
				for i := worker; i < len(cases); i += workers {
					t.Run(cases[i].name, func(t *testing.T) { cases[i].run(t, s.addr, i/workers%2 == 1) })
				}
			})
		}
	})
	check()
}

// tally returns in how many cases the frame in question is good, and how many end with which close code: -1 is none, 0 is a
// close frame without one.
func tally(cases []frameCase) (good int, codes map[int]int) {
	codes = make(map[int]int)
	for _, f := range cases {
		if slices.ContainsFunc(f.want, func(w frame) bool { return w.opcode == opPong && string(w.payload) == "alive" }) {
			good++
		}
		switch last := f.want[len(f.want)-1]; {
		case last.opcode != opClose:
			codes[-1]++
		case len(last.payload) == 0:
			codes[0]++
		default:
			codes[int(binary.BigEndian.Uint16(last.payload))]++
		}
	}
	return good, codes
}

// 2. Autobahn
//
// Its server echoes, which edge does not. So each case runs twice: against echo, which is conn, guard and gws with nothing but
// an echo above them, for the content; and against edge, for the same close codes and for an answer to each message. Where edge
// has less than Autobahn expects, the case says so: messages end at 32,759 bytes, and invalid UTF-8 is found when the message
// ends, which the suite calls NON-STRICT (6.4.*).

// echo sends every message back. It reads as Socket.readFrames does.
type echo struct {
	conn    conn
	guard   guard
	closing bool
	left    *sync.WaitGroup
}

func (e *echo) receive(p []byte) {
	link, ok := plainLinks.get(), true
	for ok && len(p) > 0 && !e.closing {
		frames, rest, code := e.guard.next(p, monotonic())
		if p = rest; code != 0 {
			e.close(code, "")
		} else if frames != nil {
			var m *gws.Message
			if m, ok = link.read(frames, e); m != nil {
				b := wire.SealFrame(append(wire.OpenFrame(nil), m.Bytes()...), 0)
				b[0] = 0x80 | byte(m.Opcode)
				e.write(b)
				endMessage(m)
			}
			e.guard.release()
		}
	}
	if ok {
		plainLinks.put(link)
	}
}

func (e *echo) write(frame []byte) { e.conn.Write(frame) }

func (e *echo) close(code int, _ string) {
	e.closing = true
	e.conn.writeLast(appendClose(nil, code, ""))
}

func (e *echo) ended() {
	e.conn.free()
	e.left.Done()
}

// startEcho starts a server of echoes, without a handshake. It ends with the test.
func startEcho(t *testing.T) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := openPoller()
	if err != nil {
		t.Fatal(err)
	}
	var left sync.WaitGroup
	left.Go(func() { // ends when the listener is closed
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			e := &echo{left: &left}
			left.Add(1)
			e.conn.init(nc, p, newBounds(1<<20))
			e.conn.start(e)
		}
	})
	t.Cleanup(func() {
		l.Close()
		left.Wait()
		p.close()
	})
	return l.Addr().String()
}

// autobahnCase is a case under its number in the suite.
type autobahnCase struct {
	number string
	frames [][]byte
	chop   int     // bytes of each write; 0: each frame in a write
	want   []frame // from a server that echoes. If it does not end with a close frame, we end it with 1000.
}

const (
	together  = 1 << 20 // chop: all frames in one write
	octetWise = 1
)

// onEdge is what edge answers instead: text is no message of the protocol, and binary is not supported.
func onEdge(want []frame) (on []frame) {
	for _, f := range want {
		switch f.opcode {
		case opText:
			f = say(opText, malformed)
		case opBinary:
			return append(on, closed(closeUnsupported))
		}
		on = append(on, f)
	}
	return on
}

func (a autobahnCase) run(c *client, want []frame) {
	c.t.Helper()
	frames := a.frames
	if n := len(want); n == 0 || want[n-1].opcode != opClose {
		frames = append(slices.Clip(frames), closing(1000, ""))
		want = append(slices.Clip(want), closed(1000))
	}
	if a.chop > 0 {
		frames = slices.Collect(slices.Chunk(slices.Concat(frames...), a.chop))
	}
	for _, b := range frames {
		c.conn.Write(b) // fails if the server has gone meanwhile, which shows in what it said
	}
	c.expectFrames(want)
	c.leave()
}

// single is a frame with FIN, part is one without.
func single(opcode byte, payload string) []byte { return maskedFrame(0x80|opcode, []byte(payload)) }
func part(opcode byte, payload string) []byte   { return maskedFrame(opcode, []byte(payload)) }

// reserved is a frame with FIN and these reserved bits.
func reserved(rsv, opcode byte, payload string) []byte {
	return maskedFrame(0x80|rsv<<4|opcode, []byte(payload))
}

// closing is a close frame with a code.
func closing(code int, reason string) []byte {
	return single(opClose, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+reason)
}

// split is a message in frames of so many bytes.
func split(opcode byte, payload string, size int) (frames [][]byte) {
	for len(payload) > size {
		frames = append(frames, part(opcode, payload[:size]))
		opcode, payload = opContinuation, payload[size:]
	}
	return append(frames, single(opcode, payload))
}

// stars is what Autobahn fills messages with.
func stars(n int) string { return strings.Repeat("*", n) }

// echoed is a message of n bytes that comes back, or is too big.
func echoed(opcode byte, n int) []frame {
	if n > maxPayload {
		return []frame{closed(closeTooBig)}
	}
	return []frame{say(opcode, stars(n))}
}

func TestAutobahn(t *testing.T) {
	s := startServer(t, "-activity-timeout", "1h")
	echoes := startEcho(t)
	dialEcho := func(t *testing.T) *client {
		conn := dial(t, echoes)
		return &client{t: t, conn: conn, in: bufio.NewReader(conn)}
	}
	autobahnPings()[0].run(dialEcho(t), []frame{say(opPong, "")}) // from here on its poller has a goroutine
	check := unharmed(t, s)
	cases := slices.Concat(autobahnFraming(), autobahnPings(), autobahnReserved(), autobahnFragments(), autobahnUTF8(), autobahnClose(),
		autobahnCloseCodes(), autobahnSizes())
	for _, a := range cases {
		t.Run(a.number, func(t *testing.T) {
			a.run(dialEcho(t), a.want)
			a.run(connect(t, s.addr), onEdge(a.want))
		})
	}
	for i, size := range []int{0, 16, 64, 256, 1024, 4096} {
		for j, opcode := range []byte{opText, opBinary} {
			t.Run(fmt.Sprintf("9.%d.%d", 7+j, i+1), func(t *testing.T) { roundTrips(dialEcho(t), opcode, stars(size)) })
		}
	}
	check()
	t.Logf("%d cases, each against echo and against edge, and 12 of round trips", len(cases))
}

// roundTrips sends a message a thousand times, each after the answer to the one before.
func roundTrips(c *client, opcode byte, payload string) {
	message := single(opcode, payload)
	for range 1000 {
		c.raw(message)
		c.expectFrames([]frame{say(opcode, payload)})
	}
	c.leave()
}

// autobahnFraming has category 1.
func autobahnFraming() (cases []autobahnCase) {
	for i, opcode := range []byte{opText, opBinary} {
		for j, n := range []int{0, 125, 126, 127, 128, 65_535, 65_536, 65_536} {
			chop := 0
			if j == 7 {
				chop = 997
			}
			cases = append(cases, autobahnCase{fmt.Sprintf("1.%d.%d", i+1, j+1), [][]byte{single(opcode, stars(n))}, chop, echoed(opcode, n)})
		}
	}
	return cases
}

// autobahnPings has category 2.
func autobahnPings() []autobahnCase {
	long := strings.Repeat("\xfe", 125)
	var ten [][]byte
	var pongs []frame
	for i := range 10 {
		ten = append(ten, single(opPing, fmt.Sprintf("payload-%d", i)))
		pongs = append(pongs, say(opPong, fmt.Sprintf("payload-%d", i)))
	}
	return []autobahnCase{
		{"2.1", [][]byte{single(opPing, "")}, 0, []frame{say(opPong, "")}},
		{"2.2", [][]byte{single(opPing, "Hello, world!")}, 0, []frame{say(opPong, "Hello, world!")}},
		{"2.3", [][]byte{single(opPing, "\x00\xff\xfe\xfd\xfc\xfb\x00\xff")}, 0, []frame{say(opPong, "\x00\xff\xfe\xfd\xfc\xfb\x00\xff")}},
		{"2.4", [][]byte{single(opPing, long)}, 0, []frame{say(opPong, long)}},
		{"2.5", [][]byte{single(opPing, long+"\xfe")}, 0, []frame{closed(1002)}},
		{"2.6", [][]byte{single(opPing, long)}, octetWise, []frame{say(opPong, long)}},
		{"2.7", [][]byte{single(opPong, "")}, 0, nil},
		{"2.8", [][]byte{single(opPong, "unsolicited pong payload")}, 0, nil},
		{"2.9", [][]byte{single(opPong, "unsolicited pong payload"), single(opPing, "ping payload")}, 0, []frame{say(opPong, "ping payload")}},
		{"2.10", ten, 0, pongs},
		{"2.11", ten, octetWise, pongs},
	}
}

// autobahnReserved has categories 3 and 4: reserved bits and opcodes.
func autobahnReserved() []autobahnCase {
	const hello = "Hello, world!"
	first, ping := single(opText, hello), single(opPing, "")
	failed, after := []frame{closed(1002)}, []frame{say(opText, hello), closed(1002)}
	cases := []autobahnCase{
		{"3.1", [][]byte{reserved(1, opText, hello)}, 0, failed},
		{"3.2", [][]byte{first, reserved(2, opText, hello), ping}, together, after},
		{"3.3", [][]byte{first, reserved(3, opText, hello), ping}, 0, after},
		{"3.4", [][]byte{first, reserved(4, opText, hello), ping}, octetWise, after},
		{"3.5", [][]byte{reserved(5, opBinary, "\x00\xff\xfe\xfd\xfc\xfb\x00\xff")}, 0, failed},
		{"3.6", [][]byte{reserved(6, opPing, hello)}, 0, failed},
		{"3.7", [][]byte{reserved(7, opClose, "")}, 0, failed},
	}
	for i, opcode := range []byte{3, 11} {
		number := fmt.Sprintf("4.%d.", i+1)
		cases = append(cases,
			autobahnCase{number + "1", [][]byte{single(opcode, "")}, 0, failed},
			autobahnCase{number + "2", [][]byte{single(opcode+1, "reserved opcode payload")}, 0, failed},
			autobahnCase{number + "3", [][]byte{first, single(opcode+2, ""), ping}, together, after},
			autobahnCase{number + "4", [][]byte{first, single(opcode+3, "reserved opcode payload"), ping}, 0, after},
			autobahnCase{number + "5", [][]byte{first, single(opcode+4, "reserved opcode payload"), ping}, octetWise, after})
	}
	return cases
}

// autobahnFragments has category 5.
func autobahnFragments() (cases []autobahnCase) {
	add := func(from int, chops []int, want []frame, frames ...[]byte) {
		for i, chop := range chops {
			cases = append(cases, autobahnCase{fmt.Sprintf("5.%d", from+i), frames, chop, want})
		}
	}
	asOne, all := []int{0}, []int{together, 0, octetWise}
	failed := []frame{closed(1002)}
	message := say(opText, "fragment1fragment2")
	one, two := part(opText, "fragment1"), single(opContinuation, "fragment2")
	next := single(opText, "Hello, world!")
	add(1, asOne, failed, part(opPing, "fragment1"), two)
	add(2, asOne, failed, part(opPong, "fragment1"), two)
	add(3, all, []frame{message}, one, two)
	add(6, all, []frame{say(opPong, "ping payload"), message}, one, single(opPing, "ping payload"), two)
	add(9, all, failed, single(opContinuation, "non-continuation payload"), next)
	add(12, all, failed, part(opContinuation, "non-continuation payload"), next)
	add(15, asOne, []frame{message, closed(1002)}, one, two, part(opContinuation, "fragment3"), single(opText, "fragment4"))
	loose := part(opContinuation, "fragment1")
	add(16, asOne, failed, loose, one, two, loose, one, two)
	loose = single(opContinuation, "fragment1")
	add(17, asOne, failed, loose, one, two, loose, one, two)
	add(18, asOne, failed, one, single(opText, "fragment2"))
	five := [][]byte{one, part(opContinuation, "fragment2"), single(opPing, "pongme 1!"), part(opContinuation, "fragment3"),
		part(opContinuation, "fragment4"), single(opPing, "pongme 2!"), single(opContinuation, "fragment5")}
	add(19, []int{0, octetWise}, []frame{say(opPong, "pongme 1!"), say(opPong, "pongme 2!"),
		say(opText, "fragment1fragment2fragment3fragment4fragment5")}, five...)
	return cases
}

// utf8Group is a group of byte sequences from 6.5 on: number 6.group.place.
type utf8Group struct {
	valid bool
	hex   string // sequences
}

var utf8Groups = []utf8Group{
	5: {true, "68656c6c6f24776f726c64 68656c6c6fc2a2776f726c64 68656c6c6fe282ac776f726c64 68656c6c6ff0a4ada2776f726c64 cebae1bdb9cf83cebcceb5"},
	// 6: the prefixes of κόσμε, in autobahnUTF8
	7:  {true, "00 c280 e0a080 f0908080"},
	8:  {false, "f888808080 fc8480808080"},
	9:  {true, "7f dfbf efbfbf f48fbfbf"},
	10: {false, "f7bfbfbf fbbfbfbfbf fdbfbfbfbfbf"},
	11: {true, "ed9fbf ee8080 efbfbd f48fbfbf"}, // and f4908080, in autobahnUTF8
	12: {false, "80 bf 80bf 80bf80 80bf80bf 80bf80bf80 80bf80bf80bf 808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e" +
		"9fa0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbe"},
	13: {false, "c020c120c220c320c420c520c620c720c820c920ca20cb20cc20cd20ce20cf20d020d120d220d320d420d520d620d720d820d920da20db20dc20dd20" +
		"de20df20 e020e120e220e320e420e520e620e720e820e920ea20eb20ec20ed20ee20ef20 f020f120f220f320f420f520f620f720 f820f920fa20fb20 fc20fd20"},
	14: {false, "c0 e080 f08080 f8808080 fc80808080 df efbf f7bfbf fbbfbfbf fdbfbfbfbf"},
	15: {false, "c0e080f08080f8808080fc80808080dfefbff7bfbffbbfbfbffdbfbfbfbf"},
	16: {false, "fe ff fefeffff"},
	17: {false, "c0af e080af f08080af f8808080af fc80808080af"},
	18: {false, "c1bf e09fbf f08fbfbf f887bfbfbf fc83bfbfbfbf"},
	19: {false, "c080 e08080 f0808080 f880808080 fc8080808080"},
	20: {false, "eda080 edadbf edae80 edafbf edb080 edbe80 edbfbf"},
	21: {false, "eda080edb080 eda080edbfbf edadbfedb080 edadbfedbfbf edae80edb080 edae80edbfbf edafbfedb080 edafbfedbfbf"},
	// Characters that are none (U+FFFE, U+FFFF and those of every plane) are valid UTF-8.
	22: {true, "efbfbe efbfbf f09fbfbe f09fbfbf f0afbfbe f0afbfbf f0bfbfbe f0bfbfbf f18fbfbe f18fbfbf f19fbfbe f19fbfbf f1afbfbe f1afbfbf " +
		"f1bfbfbe f1bfbfbf f28fbfbe f28fbfbf f29fbfbe f29fbfbf f2afbfbe f2afbfbf f2bfbfbe f2bfbfbf f38fbfbe f38fbfbf f39fbfbe f39fbfbf " +
		"f3afbfbe f3afbfbf f3bfbfbe f3bfbfbf f48fbfbe f48fbfbf"},
	23: {true, "efbfb9 efbfba efbfbb efbfbc efbfbd efbfbe efbfbf"},
}

// autobahnUTF8 has category 6.
func autobahnUTF8() (cases []autobahnCase) {
	add := func(number, payload string, valid bool, chop int, frames ...[]byte) {
		want := []frame{closed(1007)}
		if valid {
			want = []frame{say(opText, payload)}
		}
		cases = append(cases, autobahnCase{number, frames, chop, want})
	}
	const kosme, letters = "\u03ba\u1f79\u03c3\u03bc\u03b5", "Hello-µ@ßöäüàá-UTF-8!!"
	add("6.1.1", "", true, 0, single(opText, ""))
	add("6.1.2", "", true, 0, part(opText, ""), part(opContinuation, ""), single(opContinuation, ""))
	add("6.1.3", "middle frame payload", true, 0, part(opText, ""), part(opContinuation, "middle frame payload"), single(opContinuation, ""))
	add("6.2.1", letters, true, 0, single(opText, letters))
	add("6.2.2", letters, true, 0, split(opText, letters, len("Hello-µ@ßöä"))...)
	add("6.2.3", letters, true, 0, split(opText, letters, 1)...)
	add("6.2.4", kosme, true, 0, split(opText, kosme, 1)...)
	const edited = kosme + "\xed\xa0\x80edited"
	add("6.3.1", "", false, 0, single(opText, edited))
	add("6.3.2", "", false, 0, split(opText, edited, 1)...)
	// NON-STRICT: the suite would like the connection to fail at the first bad byte; edge judges whole messages.
	const beyond = "\xf4\x90\x80\x80"
	add("6.4.1", "", false, 0, part(opText, kosme), part(opContinuation, beyond), single(opContinuation, "edited"))
	add("6.4.2", "", false, 0, part(opText, kosme+beyond[:1]), part(opContinuation, beyond[1:2]), single(opContinuation, beyond[2:]+"edited"))
	add("6.4.3", "", false, 8+len(kosme), single(opText, kosme+beyond+"edited"))
	add("6.4.4", "", false, 8+len(kosme)+1, single(opText, kosme+beyond+"edited"))
	for i := range len(kosme) {
		add(fmt.Sprintf("6.6.%d", i+1), kosme[:i+1], strings.Contains(" 2 5 7 9 11 ", fmt.Sprintf(" %d ", i+1)), 0, single(opText, kosme[:i+1]))
	}
	for group, g := range utf8Groups {
		for i, digits := range strings.Fields(g.hex) {
			b, _ := hex.DecodeString(digits)
			add(fmt.Sprintf("6.%d.%d", group, i+1), string(b), g.valid, 0, single(opText, string(b)))
		}
	}
	add("6.11.5", "", false, 0, single(opText, beyond))
	return cases
}

// autobahnClose has the cases 7.1 to 7.5: closing, and what comes behind it.
func autobahnClose() []autobahnCase {
	const hello = "Hello World!"
	text, bye := single(opText, hello), closing(1000, "")
	done, after := []frame{closed(1000)}, []frame{say(opText, hello), closed(1000)}
	quarter := stars(256 << 10)
	return []autobahnCase{
		{"7.1.1", [][]byte{text, bye}, 0, after},
		{"7.1.2", [][]byte{bye, bye}, 0, done},
		{"7.1.3", [][]byte{bye, single(opPing, "")}, together, done},
		{"7.1.4", [][]byte{bye, text}, together, done},
		{"7.1.5", [][]byte{part(opText, "fragment1"), bye, single(opContinuation, "fragment2")}, together, done},
		{"7.1.6", [][]byte{single(opText, quarter), text, bye}, together, []frame{closed(closeTooBig)}}, // the suite wants the message back
		{"7.1.6 within the limit", [][]byte{single(opText, quarter[:maxPayload]), text, bye}, together, append(echoed(opText, maxPayload), after...)},
		{"7.3.1", [][]byte{single(opClose, "")}, 0, []frame{closed(0)}},
		{"7.3.2", [][]byte{single(opClose, "a")}, 0, []frame{closed(1002)}},
		{"7.3.3", [][]byte{bye}, 0, done},
		{"7.3.4", [][]byte{closing(1000, "Hello World!")}, 0, done},
		{"7.3.5", [][]byte{closing(1000, stars(123))}, 0, done},
		{"7.3.6", [][]byte{closing(1000, stars(124))}, 0, []frame{closed(1002)}},
		{"7.5.1", [][]byte{closing(1000, "\u03ba\u1f79\u03c3\u03bc\u03b5\xed\xa0\x80edited")}, 0, []frame{closed(1007)}},
	}
}

// autobahnCloseCodes has the rest of category 7: close codes that a client may send, and ones that it may not.
func autobahnCloseCodes() (cases []autobahnCase) {
	for i, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		cases = append(cases, autobahnCase{fmt.Sprintf("7.7.%d", i+1), [][]byte{closing(code, "")}, 0, []frame{closed(closeOfGWS([]byte{byte(code >> 8), byte(code)}))}})
	}
	for i, code := range []int{0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999} {
		cases = append(cases, autobahnCase{fmt.Sprintf("7.9.%d", i+1), [][]byte{closing(code, "")}, 0, []frame{closed(1002)}})
	}
	for i, code := range []int{5000, 65_535} { // the suite leaves open what happens
		cases = append(cases, autobahnCase{fmt.Sprintf("7.13.%d", i+1), [][]byte{closing(code, "")}, 0, []frame{closed(1002)}})
	}
	return append(cases, autobahnCase{"1015, not in the suite", [][]byte{closing(1015, "")}, 0, []frame{closed(1002)}})
}

// autobahnSizes has the cases 9.1 to 9.6 and 10.1. The suite sends up to 16 MiB, of which edge reads no more than the header;
// messages of the largest size that it takes stand in for them.
func autobahnSizes() (cases []autobahnCase) {
	add := func(number string, chop int, want []frame, frames ...[]byte) {
		cases = append(cases, autobahnCase{number, frames, chop, want})
	}
	const large = maxPayload
	for i, opcode := range []byte{opText, opBinary} {
		for j, n := range []int{64 << 10, 256 << 10, 1 << 20, 4 << 20, 8 << 20, 16 << 20} {
			header := frameHeader(0x80|opcode, true, 64, uint64(n))
			add(fmt.Sprintf("9.%d.%d", 1+i, j+1), 0, []frame{closed(closeTooBig)}, append(header, stars(1000)...))
		}
		for _, n := range []int{1 << 10, 4 << 10, 16 << 10, large - 1, large, large + 1} {
			add(fmt.Sprintf("9.%d with %d bytes", 1+i, n), 0, echoed(opcode, n), single(opcode, stars(n)))
		}
		for j, size := range []int{64, 256, 1 << 10, 4 << 10, 16 << 10, large, 512, 511} {
			want := echoed(opcode, large)
			if (large-1)/size >= maxFragments {
				want = []frame{closed(closePolicy)}
			}
			add(fmt.Sprintf("9.%d.%d in frames of %d", 3+i, j+1, size), 0, want, split(opcode, stars(large), size)...)
		}
		for j, chop := range []int{64, 128, 256, 512, 1024, 2048} {
			add(fmt.Sprintf("9.%d.%d", 5+i, j+1), chop, echoed(opcode, large), single(opcode, stars(large)))
		}
	}
	add("10.1.1", 0, []frame{closed(closeTooBig)}, split(opText, stars(65_536), 1300)...)
	add("10.1.1 within the limit", 0, echoed(opText, large), split(opText, stars(large), 1300)...)
	return cases
}

// TestAutobahnRelayed: however an event of a client comes in, the others get what was sent.
func TestAutobahnRelayed(t *testing.T) {
	s := startServer(t, "-event-size=32000")
	from, to := connect(t, s.addr), connect(t, s.addr)
	from.join("private-room")
	to.join("private-room")
	id, _ := wire.ParseSocketID(from.id)
	socket := s.app.socket(id)
	for _, n := range []int{0, 1, 60, 125, 126, 127, 128, 1000, 4096, 10_240, 31_997} {
		data := strings.Repeat("é", n/2) + strings.Repeat("\U0001f600", n%2)
		message := fmt.Sprintf(`{"event":"client-echo","channel":"private-room","data":%s}`, quote(data))
		for _, size := range []int{len(message)/60 + 1, len(message)/2 + 1, len(message)} { // of frames
			for _, chop := range []int{max(1, len(message)/100), 4096, together} {
				socket.mu.Lock()
				socket.clientEvents = 0 // or the limit of ten a second would end it
				socket.mu.Unlock()
				for piece := range slices.Chunk(slices.Concat(split(opText, message, size)...), chop) {
					from.raw(piece)
				}
				from.settled() // there was no error
				to.expect(event("client-echo", "private-room", data))
			}
		}
	}
	from.settled()
}

// 3. Floods, and what never ends

func TestFloods(t *testing.T) {
	s := startServer(t, "-activity-timeout", "1h")
	check := unharmed(t, s)
	empty := maskedFrame(opContinuation, nil)
	pings, pongs := bytes.Repeat(ping(125), 2000), bytes.Repeat(single(opPong, ""), 2000)
	for _, test := range []struct {
		name  string
		flood []byte
		want  []frame // all that is answered, but for pongs
	}{
		{"as many fragments as may be", append(bytes.Repeat(fragments([]byte(pingMessage), nil, maxFragments), 30), single(opClose, "")...),
			append(slices.Repeat([]frame{say(opText, pong)}, 30), closed(0))},
		{"empty fragments", append(part(opText, ""), bytes.Repeat(empty, 2000)...), []frame{closed(1008)}},
		{"empty fragments of a binary message", append(part(opBinary, ""), bytes.Repeat(empty, 2000)...), []frame{closed(1008)}},
		{"fragments of a byte", append(part(opText, "x"), bytes.Repeat(part(opContinuation, "x"), 2000)...), []frame{closed(1008)}},
		{"fragments of 1000 bytes", append(part(opText, ""), bytes.Repeat(part(opContinuation, stars(1000)), 100)...), []frame{closed(1009)}},
		{"pings", pings, []frame{closed(1008)}},
		{"pongs", pongs, []frame{closed(1008)}},
		{"pings in a message", append(part(opText, "x"), pings...), []frame{closed(1008)}},
		{"pongs in a message", append(part(opText, "x"), pongs...), []frame{closed(1008)}},
		{"closes", bytes.Repeat(closing(4000, ""), 2000), []frame{closed(4000)}},
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
func (c *client) expectBesidesPongs(want []frame) {
	c.t.Helper()
	for i := 0; i < len(want); {
		opcode, payload := c.frame()
		if opcode == opPong {
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
	var want []frame
	for i := range 1000 {
		sent, want = append(sent, single(opText, pingMessage)...), append(want, say(opText, pong))
		if i%25 == 0 { // 40 in all, as many as may come at once
			number := fmt.Sprint(i)
			sent, want = append(sent, single(opPing, number)...), append(want, say(opPong, number))
		}
		if bits.OnesCount(uint(i))%2 == 0 {
			sent, want = append(sent, single(opText, "x")...), append(want, say(opText, malformed))
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
		c := handshake(t, addr, keyPath, string(single(opText, fmt.Sprintf(`{"event":"pusher:subscribe","data":{"channel":%q}}`, channel)))+
			string(single(opText, pingMessage)))
		c.established()
		c.expect(succeeded(channel), pong)
		c.leave()
	}
}

// TestFloodsWithoutEnd: what is begun and not ended is closed with 1008 after ten seconds, wherever it stops, and whether
// nothing more comes or a byte a second.
func TestFloodsWithoutEnd(t *testing.T) {
	long := append(frameHeader(0x80|opText, true, 64, 600), make([]byte, 600)...)
	begun := slices.Concat(part(opText, "x"), single(opPong, ""), part(opContinuation, "")) // a message without an end
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
func neverEnds(t *testing.T, connect func(rest []byte) *client, begun, more []byte, early bool) {
	t.Helper()
	began := time.Now()
	var c *client
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
	if took := time.Since(began); opcode != opClose || binary.BigEndian.Uint16(payload) != closePolicy || took != frameTimeout {
		t.Errorf("%d bytes, early %t, and %d more: opcode %d %q after %s", len(begun), early, len(more), opcode, payload, took)
	}
	c.leave()
	sent.Wait()
}

// TestFloodsSlowly: fragments that come just in time are counted like others.
func TestFloodsSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startInBubble(t)(nil)
		c.raw(part(opText, "x"))
		for range maxFragments - 1 {
			time.Sleep(frameTimeout - time.Second)
			c.raw(part(opContinuation, ""))
		}
		time.Sleep(frameTimeout - time.Second)
		c.conn.Write(part(opContinuation, "")[:1]) // a pipe: the rest would never be taken
		opcode, payload := c.frame()
		if opcode != opClose || binary.BigEndian.Uint16(payload) != closePolicy || !strings.Contains(string(payload), "fragments") {
			t.Errorf("opcode %d %q", opcode, payload)
		}
		c.leave()
	})
}
