package conn

// guard and gws, compared with the reader that served connections before (reader_test.go).

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/lxzan/gws"

	"edge/internal/edgetest"
)

// outcome is what became of what a client sent.
type outcome struct {
	said []string // messages, pongs and, last, a close code
	good int      // bytes before the one that broke a rule of the guard, or all
	over bool     // there is a close code
}

func (s *outcome) say(format string, args ...any) {
	s.said = append(s.said, fmt.Sprintf(format, args...))
}

func (s *outcome) end(code int) {
	if !s.over {
		s.say("close %d", code)
	}
	s.over = true
}

func (s *outcome) equal(o *outcome) bool { return s.good == o.good && slices.Equal(s.said, o.said) }

// guarded reads as Socket.readFrames does.
type guarded struct {
	outcome
	t     testing.TB
	guard guard
	links *links
}

func (g *guarded) write(frame []byte) {
	opcode, payload, rest := NextServerFrame(frame)
	if opcode != OpPong || len(rest) > 0 {
		g.t.Errorf("gws has written % .40x, want a pong", frame)
	}
	g.say("pong %q", payload)
}

func (g *guarded) Close(code int, reason string) {
	if strings.Contains(reason, "gws") || code == CloseInternal {
		g.t.Errorf("closed with %d %q", code, reason)
	}
	g.end(code)
}

func (g *guarded) receive(p []byte) {
	all := len(p)
	link, ok := g.links.get(), true
	for ok && len(p) > 0 && !g.over {
		frames, rest, code := g.guard.next(p, 0)
		if code != 0 {
			g.end(code)
		} else if frames != nil {
			var m *gws.Message
			if m, ok = link.read(frames, g); m != nil {
				g.say("opcode %d %q", m.Opcode, m.Bytes())
				endMessage(m)
			}
			g.guard.release()
		}
		p = rest
	}
	if g.good += all - len(p); ok {
		g.links.put(link)
	}
}

// clone is a reader in the same state, whatever becomes of g.
func (g *guarded) clone() *guarded {
	c := *g
	c.said = slices.Clip(c.said)
	for i, kept := range c.guard.kept {
		if kept != nil {
			b := slices.Clip(*kept)
			c.guard.kept[i] = &b
		}
	}
	return &c
}

// reference is what must become of b.
func reference(b []byte) *outcome {
	var s outcome
	var r frameReader
	for rest := slices.Clone(b); len(rest) > 0 && !s.over; r.release() {
		f, next, code := r.next(rest, 0)
		rest = next
		s.good = len(b) - len(rest)
		switch {
		case code != 0:
			s.end(code)
		case f.opcode == OpText && !utf8.Valid(f.payload):
			s.end(CloseNotUTF8)
		case f.opcode == OpText, f.opcode == OpBinary:
			s.say("opcode %d %q", f.opcode, f.payload)
		case f.opcode == OpPing:
			s.say("pong %q", f.payload)
		case f.opcode == OpClose:
			s.end(closeOfGWS(f.payload))
		}
	}
	return &s
}

// closeOfGWS is how gws answers a client's close frame: where it decides otherwise than edge did before is here, and
// only here. RFC 6455 section 5.5.1 only says that an endpoint typically echoes the code, so all of these may be.
func closeOfGWS(payload []byte) int {
	code := closeAnswer(payload)
	switch {
	case len(payload) > 2 && !utf8.Valid(payload[2:]):
		return CloseNotUTF8 // before it was 1002 if the code was bad too
	case code == 1014:
		return CloseProtocolError // it is registered, but not by the RFC
	case code >= 1000 && code < 1016 && code != CloseProtocolError:
		return 1000
	case len(payload) >= 2 && binary.BigEndian.Uint16(payload) == CloseProtocolError:
		return 1000 // it was the client's
	}
	return code
}

// checkStream compares what becomes of b after prefix with the reference: whole, byte by byte, and cut in two at every
// byte of it if cuts is set.
func checkStream(t testing.TB, prefix, b []byte, cuts bool) {
	t.Helper()
	want := reference(slices.Concat(prefix, b))
	before := &guarded{t: t, links: plainLinks}
	before.receive(prefix)
	if before.good != len(prefix) || before.over {
		t.Fatalf("prefix % .20x: got %q", prefix, before.said)
	}
	compare := func(how string, cut ...int) {
		t.Helper()
		got := before.clone()
		from := 0
		for _, to := range append(cut, len(b)) {
			if !got.over {
				got.receive(b[from:to])
			}
			from = to
		}
		if !got.equal(want) {
			t.Errorf("% .40x after %d bytes, %s: got %.300q, %d good bytes, want %.300q, %d", b, len(prefix), how, got.said, got.good, want.said, want.good)
		}
	}
	compare("whole")
	every := make([]int, len(b))
	for i := range every {
		every[i] = i
	}
	compare("byte by byte", every...)
	for cut := 1; cuts && cut < len(b); cut++ {
		compare(fmt.Sprintf("cut at %d", cut), cut)
	}
}

// all has g judge b, and returns how many bytes are good, and the close code for the one after them.
func (g *guard) all(b []byte, now int64) (good, code int) {
	rest := b
	for len(rest) > 0 && code == 0 {
		_, rest, code = g.next(rest, now)
		g.release()
	}
	return len(b) - len(rest), code
}

func TestGuard(t *testing.T) {
	lengths := []struct {
		form   int
		length uint64
	}{
		{7, 0}, {7, 1}, {7, 2}, {7, 124}, {7, 125}, {16, 0}, {16, 5}, {16, 125}, {16, 126}, {16, 127}, {16, 256}, {16, MaxPayload - 1},
		{16, MaxPayload}, {16, MaxPayload + 1}, {16, 0xffff}, {64, 0}, {64, 5}, {64, 126}, {64, MaxPayload}, {64, MaxPayload + 1}, {64, 1 << 16},
		{64, 1<<31 - 1}, {64, 1 << 31}, {64, 1 << 32}, {64, 1<<32 + 5}, {64, 1 << 62}, {64, 1<<63 - 1}, {64, 1 << 63}, {64, 1<<63 + 5},
		{64, 1<<64 - 10}, {64, 1<<64 - 1},
	}
	begin := func(payload int) []byte { return edgetest.Masked(OpText, make([]byte, payload)) }
	states := map[string][]byte{
		"idle":                     nil,
		"after a message":          edgetest.Masked(0x80|OpText, []byte("hello")),
		"in a message":             begin(3),
		"in an empty message":      begin(0),
		"5 bytes below the limit":  begin(MaxPayload - 5),
		"at the limit":             begin(MaxPayload),
		"at the fragment limit -1": slices.Concat(begin(1), bytes.Repeat(edgetest.Masked(OpContinuation, nil), MaxFragments-2)),
		"at the fragment limit":    slices.Concat(begin(1), bytes.Repeat(edgetest.Masked(OpContinuation, nil), MaxFragments-1)),
	}
	inputs := 0
	for name, prefix := range states {
		t.Run(name, func(t *testing.T) {
			for first := range 256 { // FIN, RSV and opcode
				for _, l := range lengths {
					if first&0x70 != 0 && l.form == 64 {
						continue // a reserved bit fails at the first byte, whatever follows
					}
					for _, masked := range []bool{false, true} {
						b := frameHeader(byte(first), masked, l.form, l.length)
						if l.length <= 5 {
							b = append(b, "hello"[:l.length]...)
						} else {
							b = append(b, "abc"...) // the rest never comes
						}
						b = append(b, ping(1)...)
						inputs++
						checkStream(t, prefix, b, true)
						if t.Failed() {
							return
						}
					}
				}
			}
		})
	}
	t.Logf("%d inputs", inputs)
}

// TestGuardVerdicts has the verdicts that matter as they are, not from the reference.
func TestGuardVerdicts(t *testing.T) {
	text := func(form int, length uint64) []byte { return frameHeader(0x80|OpText, true, form, length) }
	for _, test := range []struct {
		name string
		b    []byte
		code int
		good int
	}{
		{"2^31", text(64, 1<<31), CloseTooBig, 9},
		{"2^32+5", text(64, 1<<32+5), CloseTooBig, 9},
		{"2^62", text(64, 1<<62), CloseTooBig, 9},
		{"2^63-1", text(64, 1<<63-1), CloseTooBig, 9},
		{"2^63", text(64, 1<<63), CloseProtocolError, 9},
		{"2^64-10", text(64, 1<<64-10), CloseProtocolError, 9},
		{"2^64-1", text(64, 1<<64-1), CloseProtocolError, 9},
		{"2^63 in a binary frame", frameHeader(0x80|OpBinary, true, 64, 1<<63), CloseProtocolError, 9},
		{"2^63 in a first fragment", frameHeader(OpText, true, 64, 1<<63), CloseProtocolError, 9},
		{"2^63 in a ping", frameHeader(0x80|OpPing, true, 64, 1<<63), CloseProtocolError, 1},
		{"2^63 unmasked", frameHeader(0x80|OpText, false, 64, 1<<63), CloseProtocolError, 1},
		{"limit", text(16, MaxPayload), 0, 8},
		{"limit + 1", text(16, MaxPayload+1), CloseTooBig, 3},
		{"limit + 1, 64 bits", text(64, MaxPayload+1), CloseTooBig, 9},
		{"5 in 16 bits", append(text(16, 5), "hello"...), 0, 13}, // the RFC wants the shortest form; harmless
		{"ping of 125", frameHeader(0x80|OpPing, true, 7, 125), 0, 6},
		{"ping of 126", frameHeader(0x80|OpPing, true, 16, 126), CloseProtocolError, 1},
		{"pong of 2 in 16 bits", frameHeader(0x80|OpPong, true, 16, 2), CloseProtocolError, 1},
		{"ping without FIN", frameHeader(OpPing, true, 7, 0), CloseProtocolError, 0},
		{"close without FIN", frameHeader(OpClose, true, 7, 0), CloseProtocolError, 0},
		{"close", frameHeader(0x80|OpClose, true, 7, 0), 0, 6},
		{"RSV1", frameHeader(0xc0|OpText, true, 7, 0), CloseProtocolError, 0},
		{"RSV2", frameHeader(0xa0|OpText, true, 7, 0), CloseProtocolError, 0},
		{"RSV3", frameHeader(0x90|OpText, true, 7, 0), CloseProtocolError, 0},
		{"RSV1 on a ping", frameHeader(0xc0|OpPing, true, 7, 0), CloseProtocolError, 0},
		{"opcode 3", frameHeader(0x83, true, 7, 0), CloseProtocolError, 0},
		{"opcode B", frameHeader(0x8b, true, 7, 0), CloseProtocolError, 0},
		{"continuation of nothing", frameHeader(0x80|OpContinuation, true, 7, 0), CloseProtocolError, 0},
		{"continuation after a message", slices.Concat(text(7, 0), frameHeader(OpContinuation, true, 7, 0)), CloseProtocolError, 6},
		{"text in a message", slices.Concat(frameHeader(OpText, true, 7, 0), text(7, 0)), CloseProtocolError, 6},
		{"binary in a message", slices.Concat(frameHeader(OpText, true, 7, 0), frameHeader(0x80|OpBinary, true, 7, 0)), CloseProtocolError, 6},
		{"ping in a message", slices.Concat(frameHeader(OpText, true, 7, 0), ping(0), frameHeader(0x80|OpContinuation, true, 7, 0), text(7, 0)), 0, 24},
		{"unmasked", frameHeader(0x80|OpText, false, 7, 0), CloseProtocolError, 1},
		{"fragments over the limit", slices.Concat(edgetest.Masked(OpText, make([]byte, 32_000)), edgetest.Masked(OpContinuation, make([]byte, 760))),
			CloseTooBig, 32_008 + 3},
		{"fragments at the limit", slices.Concat(edgetest.Masked(OpText, make([]byte, 32_000)), edgetest.Masked(OpContinuation, make([]byte, 759)),
			ping(125), edgetest.Masked(0x80, nil), edgetest.Masked(0x80|OpText, make([]byte, MaxPayload))), 0, 32_008 + 767 + 131 + 6 + MaxPayload + 8},
		{"fragment of 2^64-5 after 5", slices.Concat(edgetest.Masked(OpText, make([]byte, 5)), frameHeader(OpContinuation, true, 64, 1<<64-5)), CloseProtocolError, 20},
		{"fragment of 2^63-5 after 5", slices.Concat(edgetest.Masked(OpText, make([]byte, 5)), frameHeader(OpContinuation, true, 64, 1<<63-5)), CloseTooBig, 20},
		{"HTTP", []byte("GET / HTTP/1.1\r\n"), CloseProtocolError, 0},
		{"nothing", nil, 0, 0},
	} {
		checkStream(t, nil, test.b, len(test.b) < 1000)
		var g guard
		if good, code := g.all(test.b, 0); good != test.good || code != test.code {
			t.Errorf("%s: got %d good bytes, code %d, want %d, %d", test.name, good, code, test.good, test.code)
		}
	}
}

// ping is a client's ping.
func ping(payload int) []byte { return edgetest.Masked(0x80|OpPing, make([]byte, payload)) }

// TestGuardFloods: so many fragments and control frames pass, and not one more.
func TestGuardFloods(t *testing.T) {
	for _, test := range []struct {
		name         string
		first, frame []byte
		want         int // frames of the second kind that pass
		code         int
	}{
		{"empty fragments", edgetest.Masked(OpText, nil), edgetest.Masked(OpContinuation, nil), MaxFragments - 1, ClosePolicy},
		{"fragments of a byte", edgetest.Masked(OpBinary, []byte("x")), edgetest.Masked(OpContinuation, []byte("x")), MaxFragments - 1, ClosePolicy},
		{"fragments of 1000 bytes", edgetest.Masked(OpText, nil), edgetest.Masked(OpContinuation, make([]byte, 1000)), 32, CloseTooBig},
		{"pings", nil, ping(0), ControlBurst, ClosePolicy},
		{"pings of 125 bytes", nil, ping(125), ControlBurst, ClosePolicy},
		{"pongs", nil, edgetest.Masked(0x80|OpPong, nil), ControlBurst, ClosePolicy},
		{"closes", nil, edgetest.Masked(0x80|OpClose, nil), ControlBurst, ClosePolicy},
		{"pings in a message", edgetest.Masked(OpText, nil), ping(1), ControlBurst, ClosePolicy},
		{"messages", nil, edgetest.Masked(0x80|OpText, []byte("x")), 1000, 0},
		{"messages of two fragments", nil, slices.Concat(edgetest.Masked(OpText, nil), edgetest.Masked(0x80, []byte("x"))), 1000, 0},
	} {
		b := slices.Concat(test.first, bytes.Repeat(test.frame, 1000))
		checkStream(t, nil, b, false)
		var g guard
		good, code := g.all(b, 0)
		if got := (good - len(test.first)) / len(test.frame); got != test.want || code != test.code {
			t.Errorf("%s: got %d frames, code %d, want %d, %d", test.name, got, code, test.want, test.code)
		}
	}
	// 20 a second are let through for ever, and text does not count.
	var g guard
	for i := range 1000 {
		if _, code := g.all(slices.Concat(ping(3), edgetest.Masked(0x80|OpText, nil)), int64(i)*int64(time.Second)/ControlRate); code != 0 {
			t.Fatalf("ping %d at the allowed rate: got code %d", i, code)
		}
	}
}

// TestGuardDeflate: with compression the first frame of a message may have RSV1, and nothing else.
func TestGuardDeflate(t *testing.T) {
	fragment := edgetest.Masked(Rsv1|OpText, []byte("x"))
	for _, test := range []struct {
		name   string
		prefix []byte
		first  byte
		code   int
	}{
		{"text", nil, 0xc0 | OpText, 0}, {"binary", nil, 0xc0 | OpBinary, 0}, {"first fragment", nil, Rsv1 | OpText, 0},
		{"plain text", nil, 0x80 | OpText, 0}, {"continuation", fragment, 0x80, 0},
		{"RSV1 and RSV2", nil, 0xe0 | OpText, CloseProtocolError}, {"RSV1 and RSV3", nil, 0xd0 | OpText, CloseProtocolError},
		{"RSV2", nil, 0xa0 | OpText, CloseProtocolError}, {"RSV3", nil, 0x90 | OpText, CloseProtocolError},
		{"RSV1 on a continuation", fragment, Rsv1, CloseProtocolError}, {"RSV1 on the last", fragment, 0xc0, CloseProtocolError},
		{"RSV1 on a ping", nil, 0xc0 | OpPing, CloseProtocolError}, {"RSV1 on a pong", nil, 0xc0 | OpPong, CloseProtocolError},
		{"RSV1 on a close", nil, 0xc0 | OpClose, CloseProtocolError},
	} {
		g := guard{deflate: true}
		b := append(slices.Clone(test.prefix), edgetest.Masked(test.first, nil)...)
		want := len(b)
		if test.code != 0 {
			want = len(test.prefix)
		}
		if good, code := g.all(b, 0); good != want || code != test.code {
			t.Errorf("%s: %d good bytes, code %d, want %d, %d", test.name, good, code, want, test.code)
		}
	}
}

// TestGuardIdle: the guard is idle between messages and only there, and counts the frames begun.
func TestGuardIdle(t *testing.T) {
	b := slices.Concat(edgetest.Masked(OpText, []byte("he")), ping(0), edgetest.Masked(0x80, make([]byte, 200)), edgetest.Masked(0x80|OpText, nil))
	ends, frames := map[int]bool{0: true, 8: false, 14: false, 14 + 208: true, 14 + 208 + 6: true}, uint32(0) // where frames end
	var g guard
	for i := range b {
		if g.idle() != ends[i] || g.frames != frames {
			t.Errorf("before byte %d: idle %v, %d frames, want %v, %d", i, g.idle(), g.frames, ends[i], frames)
		}
		if _, end := ends[i]; end {
			frames++
		}
		if _, code := g.all(b[i:i+1], 0); code != 0 {
			t.Fatalf("byte %d: code %d", i, code)
		}
	}
	if !g.idle() || g.frames != 4 {
		t.Errorf("at the end: idle %v, %d frames, want true, 4", g.idle(), g.frames)
	}
}

// TestRandomStreams compares random streams, valid ones and others, in random pieces: with TEST_FULL=1 a million.
func TestRandomStreams(t *testing.T) {
	seed, streams := rand.Uint64(), 5000
	if os.Getenv("TEST_FULL") != "" {
		streams = 1_000_000
	}
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	ends := map[string]int{}
	for range streams {
		b := randomStream(r)
		want, got := reference(b), &guarded{t: t, links: plainLinks}
		for rest := b; len(rest) > 0 && !got.over; {
			n := min(len(rest), 1+int(r.ExpFloat64()*float64(len(b))/4))
			got.receive(rest[:n])
			rest = rest[n:]
		}
		if !got.equal(want) {
			t.Fatalf("seed %d: % .100x (%d bytes): got %.300q, %d good bytes, want %.300q, %d", seed, b, len(b), got.said, got.good, want.said, want.good)
		}
		end := "open"
		if want.over {
			end = want.said[len(want.said)-1]
		}
		ends[end]++
	}
	t.Logf("%d streams end: %v", streams, ends)
	for _, end := range []string{"open", "close 1000", "close 1002", "close 1007", "close 1009", "close 4200"} {
		if ends[end] == 0 {
			t.Errorf("no stream ends with %s", end)
		}
	}
}

// randomStream is a few frames, most of which follow one another as they should.
func randomStream(r *rand.Rand) (b []byte) {
	const opcodes = "\x00\x00\x01\x01\x01\x02\x08\x09\x09\x0a"
	open := false
	for range 1 + r.IntN(12) {
		first := opcodes[r.IntN(len(opcodes))]
		if first < OpClose && r.IntN(30) > 0 { // as it should be
			if first = byte(OpText); open {
				first = OpContinuation
			}
		}
		if fin := r.IntN(3) > 0; fin || first >= OpClose && r.IntN(30) > 0 {
			first |= 0x80
		}
		if first&8 == 0 {
			open = first&0x80 == 0
		}
		if r.IntN(60) == 0 {
			first ^= 1 << r.IntN(8)
		}
		b = append(b, randomFrame(r, first)...)
	}
	if r.IntN(10) == 0 {
		b = b[:r.IntN(len(b)+1)]
	}
	return b
}

func randomFrame(r *rand.Rand, first byte) []byte {
	payload := []byte(strings.Repeat("{\"é\u20ac\U0001f600\":1}", 10_000))[:[]int{0, 1, 5, 60, 125, 126, 400, 5000, MaxPayload - 3, MaxPayload + 1}[min(9, int(r.ExpFloat64()*2.5))]]
	if first&8 != 0 {
		payload = payload[:min(len(payload), 125)]
	}
	if first&0xf == OpClose && len(payload) > 1 {
		binary.BigEndian.PutUint16(payload, []uint16{1000, 1001, 1002, 1004, 1005, 1006, 1007, 1011, 1014, 1015, 1016, 2999, 3000, 4200, 4999, 5000, 0}[r.IntN(17)])
	}
	if len(payload) > 2 && r.IntN(20) == 0 {
		payload[2+r.IntN(len(payload)-2)] ^= 0xff
	}
	form := 7
	if n := len(payload); n > 0xffff || r.IntN(40) == 0 {
		form = 64
	} else if n > 125 || r.IntN(40) == 0 {
		form = 16
	}
	head := frameHeader(first, r.IntN(100) > 0, form, uint64(len(payload)))
	if len(head) > 4 && head[1]&0x80 != 0 { // the masking key is ff
		for i := range payload {
			payload[i] ^= 0xff
		}
	}
	return append(head, payload...)
}

// TestGuardKeepsNothingForAHeader: what a header announces costs nothing, and what has come counts as held.
func TestGuardKeepsNothingForAHeader(t *testing.T) {
	for _, length := range []uint64{126, 1000, MaxPayload, MaxPayload + 1, 1 << 31, 1 << 62, 1 << 63, 1<<64 - 1} {
		header := frameHeader(0x80|OpText, true, 64, length)
		var g guard
		if n := testing.AllocsPerRun(100, func() { g = guard{}; g.all(header, 0) }); n != 0 || g.held() != 0 {
			t.Errorf("a header of %d bytes: %v allocations, %d bytes are held", length, n, g.held())
		}
		if _, code := g.all([]byte("x"), 0); length <= MaxPayload && (code != 0 || g.held() < 1+len(header)) {
			t.Errorf("a byte of %d: code %d, %d bytes are held", length, code, g.held())
		}
	}
}

func TestGuardAllocations(t *testing.T) {
	b := slices.Concat(edgetest.Masked(OpText, []byte("hel")), ping(10), edgetest.Masked(0x80, make([]byte, 200)), edgetest.Masked(0x80|OpText, make([]byte, 2000)))
	var g guard
	now, messages := int64(0), 0
	if n := testing.AllocsPerRun(1000, func() {
		now += int64(time.Second)
		for rest := b; len(rest) > 0; messages++ {
			_, next, code := g.next(rest, now)
			if rest = next; code != 0 {
				t.Fatalf("code %d", code)
			}
			g.release()
		}
	}); n != 0 && !edgetest.Race { // with the race detector pools forget
		t.Errorf("next allocates %v times, want 0", n)
	}
	if messages != 3*1001 {
		t.Errorf("%d messages and control frames, want %d", messages, 3*1001)
	}
}

// TestOutOfStep: should gws ever take frames for others than guard, that connection ends, and its link is not used
// again.
func TestOutOfStep(t *testing.T) {
	hello := edgetest.Masked(0x80|OpText, []byte("hello"))
	for name, frames := range map[string][]byte{
		"half a message":       hello[:8],
		"half a header":        hello[:1],
		"two messages":         slices.Concat(hello, hello),
		"a ping and a message": slices.Concat(ping(3), hello),
		"a fragment":           edgetest.Masked(OpText, []byte("hello")),
	} {
		var closed outcome
		_, ok := plainLinks.get().read(frames, endNote{&closed})
		if want := []string{"close 1011"}; ok || !slices.Equal(closed.said, want) {
			t.Errorf("%s: ok %v, %q, want %q", name, ok, closed.said, want)
		}
	}
}

// endNote notes the close code.
type endNote struct{ *outcome }

func (endNote) write([]byte)               {}
func (e endNote) Close(code int, _ string) { e.end(code) }

// TestPoison: all tests run with messages that are overwritten as soon as they have been handled, see TestMain.
func TestPoison(t *testing.T) {
	link := plainLinks.get()
	m, ok := link.read(edgetest.Masked(0x80|OpText, []byte("hello")), endNote{new(outcome)})
	if !ok || string(m.Bytes()) != "hello" {
		t.Fatalf("got %v", m)
	}
	kept := m.Bytes()
	if endMessage(m); bytes.Contains(kept, []byte("l")) {
		t.Errorf("a message reads %q after its end", kept)
	}
	plainLinks.put(link)
}
