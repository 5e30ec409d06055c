package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// referenceReader is what frameReader must say of the frames in b, all of which come at the same moment: written from
// RFC 6455 section 5 and the limits, for a buffer that holds everything. It returns what is handed on too.
func referenceReader(b []byte) (frames []frame, good, code int) {
	inMessage, fragments, message, controls := false, 0, uint64(0), 0
	var opened frame // the message that has begun
	for at := 0; at < len(b); {
		frame := b[at:] // and what follows it
		fin, rsv, opcode := frame[0]&0x80 != 0, frame[0]&0x70, frame[0]&0x0f
		control := opcode >= 8
		switch {
		case rsv != 0, opcode > opBinary && opcode < opClose, opcode > opPong,
			control && !fin,
			!control && (opcode == opContinuation) != inMessage:
			return frames, at, closeProtocolError
		case control && controls == controlBurst, !control && fragments == maxFragments:
			return frames, at, closePolicy
		}
		if len(frame) < 2 {
			return frames, len(b), 0
		}
		masked, length, header := frame[1]&0x80 != 0, uint64(frame[1]&0x7f), 2
		if !masked || control && length > 125 {
			return frames, at + 1, closeProtocolError
		}
		switch length {
		case 126:
			header = 4
		case 127:
			header = 10
		}
		if len(frame) < header {
			return frames, len(b), 0
		}
		switch header {
		case 4:
			length = uint64(binary.BigEndian.Uint16(frame[2:]))
		case 10:
			length = binary.BigEndian.Uint64(frame[2:])
		}
		if length > math.MaxInt64 {
			return frames, at + header - 1, closeProtocolError
		}
		if control {
			controls++
		} else {
			if length > maxPayload || message+length > maxPayload {
				return frames, at + header - 1, closeTooBig
			}
			message, fragments, inMessage = message+length, fragments+1, true
			if fin {
				message, fragments, inMessage = 0, 0, false
			}
		}
		if uint64(len(frame)) < uint64(header)+4+length {
			return frames, len(b), 0
		}
		payload := slices.Clone(frame[header+4 : header+4+int(length)])
		for i := range payload {
			payload[i] ^= frame[header+i%4]
		}
		switch {
		case control:
			frames = append(frames, newFrame(opcode, payload))
		case opcode != opContinuation:
			opened = newFrame(opcode, payload)
		default:
			opened.payload = append(opened.payload, payload...)
		}
		if !control && fin {
			frames = append(frames, opened)
		}
		at += header + 4 + int(length)
	}
	return frames, len(b), 0
}

func newFrame(opcode byte, payload []byte) frame { return frame{opcode, payload} }

func sameFrames(a, b []frame) bool {
	return slices.EqualFunc(a, b, func(x, y frame) bool { return x.opcode == y.opcode && bytes.Equal(x.payload, y.payload) })
}

// check reads all of p and returns what was whole, how many bytes may stand, and the close code for the one after them.
func (r *frameReader) check(p []byte, now int64) (frames []frame, good, code int) {
	var f frame
	rest := slices.Clone(p)
	for len(rest) > 0 && code == 0 {
		if f, rest, code = r.next(rest, now); f.opcode != opContinuation {
			frames = append(frames, frame{f.opcode, slices.Clone(f.payload)})
		}
		r.release()
	}
	return frames, len(p) - len(rest), code
}

// feed gives b to the reader in pieces of these lengths, the last one as often as it takes.
func (r frameReader) feed(b []byte, pieces ...int) (frames []frame, good, code int) {
	for at, i := 0, 0; at < len(b); i++ {
		end := min(len(b), at+pieces[min(i, len(pieces)-1)])
		f, n, code := r.check(b[at:end], 0)
		frames = append(frames, f...)
		if at += n; code != 0 {
			return frames, at, code
		}
	}
	return frames, len(b), 0
}

// checkReader compares what the reader says of b after prefix with the reference: whole, byte by byte, and cut in two at every
// byte of it if cuts is set.
func checkReader(t *testing.T, prefix, b []byte, cuts bool) {
	t.Helper()
	want, wantGood, wantCode := referenceReader(append(prefix, b...))
	prefixFrames, _, _ := referenceReader(prefix)
	want = want[len(prefixFrames):]
	var after frameReader
	if _, n, code := after.check(prefix, 0); n != len(prefix) || code != 0 {
		t.Fatalf("prefix % .20x: got %d, %d", prefix, n, code)
	}
	compare := func(how string, pieces ...int) {
		r := after
		if r.message != nil { // to be appended to by each
			m := slices.Clip(*after.message)
			r.message = &m
		}
		got, good, code := r.feed(b, pieces...)
		if good += len(prefix); good != wantGood || code != wantCode || !sameFrames(got, want) {
			t.Errorf("% .40x after %d bytes, %s: got %.60q, %d good bytes, code %d, want %.60q, %d, %d", b, len(prefix), how, got, good, code, want, wantGood, wantCode)
		}
	}
	compare("whole", len(b))
	compare("byte by byte", 1)
	for cut := 1; cuts && cut < len(b); cut++ {
		compare(fmt.Sprintf("cut at %d", cut), cut, len(b))
	}
}

// frameHeader is a client frame's header with a masking key of ff. form is the length of the length in bits: 7, 16 or 64.
func frameHeader(first byte, masked bool, form int, length uint64) []byte {
	b := []byte{first, 0}
	switch form {
	case 7:
		b[1] = byte(length)
	case 16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(length))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, length)
	}
	if masked {
		b[1] |= 0x80
		b = append(b, 0xff, 0xff, 0xff, 0xff)
	}
	return b
}

func TestFrameReader(t *testing.T) {
	lengths := []struct {
		form   int
		length uint64
	}{
		{7, 0}, {7, 1}, {7, 2}, {7, 124}, {7, 125}, {16, 0}, {16, 5}, {16, 125}, {16, 126}, {16, 127}, {16, 256}, {16, maxPayload - 1},
		{16, maxPayload}, {16, maxPayload + 1}, {16, 0xffff}, {64, 0}, {64, 5}, {64, 126}, {64, maxPayload}, {64, maxPayload + 1}, {64, 1 << 16},
		{64, 1<<31 - 1}, {64, 1 << 31}, {64, 1 << 32}, {64, 1<<32 + 5}, {64, 1 << 62}, {64, 1<<63 - 1}, {64, 1 << 63}, {64, 1<<63 + 5},
		{64, 1<<64 - 10}, {64, 1<<64 - 1},
	}
	begin := func(payload int) []byte { return maskedFrame(opText, make([]byte, payload)) }
	states := map[string][]byte{
		"idle":                     nil,
		"after a message":          maskedFrame(0x80|opText, []byte("hello")),
		"in a message":             begin(3),
		"in an empty message":      begin(0),
		"5 bytes below the limit":  begin(maxPayload - 5),
		"at the limit":             begin(maxPayload),
		"at the fragment limit -1": slices.Concat(begin(1), bytes.Repeat(maskedFrame(opContinuation, nil), maxFragments-2)),
		"at the fragment limit":    slices.Concat(begin(1), bytes.Repeat(maskedFrame(opContinuation, nil), maxFragments-1)),
	}
	inputs := 0
	for name, prefix := range states {
		prefix = slices.Grow(prefix, 64) // checkReader appends to it
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
						checkReader(t, prefix, b, true)
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

// TestFrameReaderVerdicts has the verdicts that matter as they are, not from the reference.
func TestFrameReaderVerdicts(t *testing.T) {
	text := func(form int, length uint64) []byte { return frameHeader(0x80|opText, true, form, length) }
	for _, test := range []struct {
		name string
		b    []byte
		code int
		good int
	}{
		{"2^31", text(64, 1<<31), closeTooBig, 9},
		{"2^32+5", text(64, 1<<32+5), closeTooBig, 9},
		{"2^62", text(64, 1<<62), closeTooBig, 9},
		{"2^63-1", text(64, 1<<63-1), closeTooBig, 9},
		{"2^63", text(64, 1<<63), closeProtocolError, 9},
		{"2^64-10", text(64, 1<<64-10), closeProtocolError, 9},
		{"2^64-1", text(64, 1<<64-1), closeProtocolError, 9},
		{"2^63 in a binary frame", frameHeader(0x80|opBinary, true, 64, 1<<63), closeProtocolError, 9},
		{"2^63 in a first fragment", frameHeader(opText, true, 64, 1<<63), closeProtocolError, 9},
		{"2^63 in a ping", frameHeader(0x80|opPing, true, 64, 1<<63), closeProtocolError, 1},
		{"2^63 unmasked", frameHeader(0x80|opText, false, 64, 1<<63), closeProtocolError, 1},
		{"limit", text(16, maxPayload), 0, 8},
		{"limit + 1", text(16, maxPayload+1), closeTooBig, 3},
		{"limit + 1, 64 bits", text(64, maxPayload+1), closeTooBig, 9},
		{"5 in 16 bits", append(text(16, 5), "hello"...), 0, 13}, // the RFC wants the shortest form; harmless
		{"ping of 125", frameHeader(0x80|opPing, true, 7, 125), 0, 6},
		{"ping of 126", frameHeader(0x80|opPing, true, 16, 126), closeProtocolError, 1},
		{"pong of 2 in 16 bits", frameHeader(0x80|opPong, true, 16, 2), closeProtocolError, 1},
		{"ping without FIN", frameHeader(opPing, true, 7, 0), closeProtocolError, 0},
		{"close without FIN", frameHeader(opClose, true, 7, 0), closeProtocolError, 0},
		{"close", frameHeader(0x80|opClose, true, 7, 0), 0, 6},
		{"RSV1", frameHeader(0xc0|opText, true, 7, 0), closeProtocolError, 0},
		{"RSV2", frameHeader(0xa0|opText, true, 7, 0), closeProtocolError, 0},
		{"RSV3", frameHeader(0x90|opText, true, 7, 0), closeProtocolError, 0},
		{"RSV1 on a ping", frameHeader(0xc0|opPing, true, 7, 0), closeProtocolError, 0},
		{"opcode 3", frameHeader(0x83, true, 7, 0), closeProtocolError, 0},
		{"opcode B", frameHeader(0x8b, true, 7, 0), closeProtocolError, 0},
		{"continuation of nothing", frameHeader(0x80|opContinuation, true, 7, 0), closeProtocolError, 0},
		{"continuation after a message", slices.Concat(text(7, 0), frameHeader(opContinuation, true, 7, 0)), closeProtocolError, 6},
		{"text in a message", slices.Concat(frameHeader(opText, true, 7, 0), text(7, 0)), closeProtocolError, 6},
		{"binary in a message", slices.Concat(frameHeader(opText, true, 7, 0), frameHeader(0x80|opBinary, true, 7, 0)), closeProtocolError, 6},
		{"ping in a message", slices.Concat(frameHeader(opText, true, 7, 0), ping(0), frameHeader(0x80|opContinuation, true, 7, 0), text(7, 0)), 0, 24},
		{"unmasked", frameHeader(0x80|opText, false, 7, 0), closeProtocolError, 1},
		{"fragments over the limit", slices.Concat(maskedFrame(opText, make([]byte, 32_000)), maskedFrame(opContinuation, make([]byte, 760))),
			closeTooBig, 32_008 + 3},
		{"fragments at the limit", slices.Concat(maskedFrame(opText, make([]byte, 32_000)), maskedFrame(opContinuation, make([]byte, 759)),
			ping(125), maskedFrame(0x80, nil), maskedFrame(0x80|opText, make([]byte, maxPayload))), 0, 32_008 + 767 + 131 + 6 + maxPayload + 8},
		{"fragment of 2^64-5 after 5", slices.Concat(maskedFrame(opText, make([]byte, 5)), frameHeader(opContinuation, true, 64, 1<<64-5)), closeProtocolError, 20},
		{"fragment of 2^63-5 after 5", slices.Concat(maskedFrame(opText, make([]byte, 5)), frameHeader(opContinuation, true, 64, 1<<63-5)), closeTooBig, 20},
		{"HTTP", []byte("GET / HTTP/1.1\r\n"), closeProtocolError, 0},
		{"nothing", nil, 0, 0},
	} {
		checkReader(t, nil, test.b, len(test.b) < 1000)
		var g frameReader
		if _, good, code := g.check(test.b, 0); good != test.good || code != test.code {
			t.Errorf("%s: got %d good bytes, code %d, want %d, %d", test.name, good, code, test.good, test.code)
		}
	}
}

// ping is a client's ping.
func ping(payload int) []byte { return maskedFrame(0x80|opPing, make([]byte, payload)) }

// TestFrameReaderFloods: so many fragments and control frames pass, and not one more.
func TestFrameReaderFloods(t *testing.T) {
	for _, test := range []struct {
		name         string
		first, frame []byte
		want         int // frames of the second kind that pass
		code         int
	}{
		{"empty fragments", maskedFrame(opText, nil), maskedFrame(opContinuation, nil), maxFragments - 1, closePolicy},
		{"fragments of a byte", maskedFrame(opBinary, []byte("x")), maskedFrame(opContinuation, []byte("x")), maxFragments - 1, closePolicy},
		{"fragments of 1000 bytes", maskedFrame(opText, nil), maskedFrame(opContinuation, make([]byte, 1000)), 32, closeTooBig},
		{"pings", nil, ping(0), controlBurst, closePolicy},
		{"pings of 125 bytes", nil, ping(125), controlBurst, closePolicy},
		{"pongs", nil, maskedFrame(0x80|opPong, nil), controlBurst, closePolicy},
		{"closes", nil, maskedFrame(0x80|opClose, nil), controlBurst, closePolicy},
		{"pings in a message", maskedFrame(opText, nil), ping(1), controlBurst, closePolicy},
		{"messages", nil, maskedFrame(0x80|opText, []byte("x")), 1000, 0},
		{"messages of two fragments", nil, slices.Concat(maskedFrame(opText, nil), maskedFrame(0x80, []byte("x"))), 1000, 0},
	} {
		b := slices.Concat(test.first, bytes.Repeat(test.frame, 1000))
		checkReader(t, nil, b, false)
		var g frameReader
		_, good, code := g.check(b, 0)
		if got := (good - len(test.first)) / len(test.frame); got != test.want || code != test.code {
			t.Errorf("%s: got %d frames, code %d, want %d, %d", test.name, got, code, test.want, test.code)
		}
	}
	// 20 a second are let through for ever, and text does not count.
	var g frameReader
	for i := range 1000 {
		if _, _, code := g.check(slices.Concat(ping(3), maskedFrame(0x80|opText, nil)), int64(i)*int64(time.Second)/controlRate); code != 0 {
			t.Fatalf("ping %d at the allowed rate: got code %d", i, code)
		}
	}
}

// TestFrameReaderIdle: the reader is idle between messages and only there, and counts the frames begun.
func TestFrameReaderIdle(t *testing.T) {
	b := slices.Concat(maskedFrame(opText, []byte("he")), ping(0), maskedFrame(0x80, make([]byte, 200)), maskedFrame(0x80|opText, nil))
	ends, frames := map[int]bool{0: true, 8: false, 14: false, 14 + 208: true, 14 + 208 + 6: true}, uint32(0) // where frames end
	var g frameReader
	for i := range b {
		if g.idle() != ends[i] || g.frames != frames {
			t.Errorf("before byte %d: idle %v, %d frames, want %v, %d", i, g.idle(), g.frames, ends[i], frames)
		}
		if _, end := ends[i]; end {
			frames++
		}
		if _, _, code := g.check(b[i:i+1], 0); code != 0 {
			t.Fatalf("byte %d: code %d", i, code)
		}
	}
	if !g.idle() || g.frames != 4 {
		t.Errorf("at the end: idle %v, %d frames, want true, 4", g.idle(), g.frames)
	}
}

func TestRateAllow(t *testing.T) {
	const second = int64(time.Second)
	type step struct {
		at      int64 // nanoseconds
		tries   int
		allowed int // of the tries
	}
	for _, test := range []struct {
		name             string
		perSecond, burst int
		steps            []step
	}{
		{"burst, then one each tenth", 10, 10, []step{{0, 20, 10}, {0, 1, 0}, {second/10 - 1, 1, 0}, {second / 10, 2, 1}, {second / 5, 2, 1}}},
		{"half the burst after half the time", 10, 10, []step{{0, 10, 10}, {second / 2, 10, 5}}},
		{"whole burst after the whole time", 10, 10, []step{{0, 10, 10}, {second, 20, 10}}},
		{"no more than the burst after a day", 10, 10, []step{{0, 10, 10}, {86_400 * second, 20, 10}}},
		{"a clock far from 0", 20, 40, []step{{1 << 62, 60, 40}, {1<<62 + second, 60, 20}}},
		{"a clock below 0", 20, 40, []step{{-5 * second, 1, 0}}}, // the zero value stands for the moment 0
		{"burst of 1", 2, 1, []step{{0, 3, 1}, {second/2 - 1, 1, 0}, {second / 2, 2, 1}}},
		{"refused ones cost nothing", 1, 2, []step{{0, 1000, 2}, {second, 1000, 1}, {2 * second, 1000, 1}, {4 * second, 3, 2}}},
		{"a clock that goes back", 10, 2, []step{{second, 3, 2}, {0, 1, 0}, {second + second/10, 2, 1}}},
	} {
		var r rate
		for i, s := range test.steps {
			allowed := 0
			for range s.tries {
				if r.allow(s.at, test.perSecond, test.burst) {
					allowed++
				}
			}
			if allowed != s.allowed {
				t.Errorf("%s, step %d: %d of %d allowed, want %d", test.name, i, allowed, s.tries, s.allowed)
			}
		}
	}
	var r rate
	allowed := 0
	for now := int64(0); now < 60*second; now += second / 1000 {
		if r.allow(now, controlRate, controlBurst) {
			allowed++
		}
	}
	if want := 60*controlRate + controlBurst; allowed < want-1 || allowed > want {
		t.Errorf("in a minute: %d allowed, want %d", allowed, want)
	}
}

// serverFrames decodes the frames the server sends, independently of how they are made.
func serverFrames(b []byte) (opcodes []byte, payloads []string, err error) {
	for at := 0; len(b) > 0; {
		if len(b) < 2 {
			return nil, nil, fmt.Errorf("half a header at the end: %x", b)
		}
		first, n := b[0], uint64(b[1])
		at = 2
		switch {
		case first&0xf0 != 0x80 || n > 127:
			return nil, nil, fmt.Errorf("header % x: want FIN, no reserved bit, no mask", b[:2])
		case n == 126 && len(b) >= 4:
			n, at = uint64(binary.BigEndian.Uint16(b[2:])), 4
		case n == 127 && len(b) >= 10:
			n, at = binary.BigEndian.Uint64(b[2:]), 10
		}
		if shortest := map[int]uint64{2: 0, 4: 126, 10: 1 << 16}[at]; n < shortest || uint64(len(b)-at) < n {
			return nil, nil, fmt.Errorf("header % x of a payload of %d bytes, %d are there", b[:at], n, len(b)-at)
		}
		opcodes = append(opcodes, first&0xf)
		payloads = append(payloads, string(b[at:at+int(n)]))
		b = b[at+int(n):]
	}
	return opcodes, payloads, nil
}

func TestSealFrame(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 4, 125, 126, 127, 128, 255, 256, 65_534, 65_535, 65_536, 65_537, 70_000} {
		payload := make([]byte, n)
		for i := range payload {
			payload[i] = byte(i * 7)
		}
		var header []byte
		switch {
		case n < 126:
			header = []byte{0x81, byte(n)}
		case n < 65_536:
			header = []byte{0x81, 126, byte(n >> 8), byte(n)}
		default:
			header = []byte{0x81, 127, 0, 0, 0, 0, 0, byte(n >> 16), byte(n >> 8), byte(n)}
		}
		for _, before := range []string{"", "b", "another frame"} {
			for _, room := range []int{0, n + 100} {
				dst := append(make([]byte, 0, room), before...)
				got := sealFrame(append(openFrame(dst), payload...), len(before))
				if want := slices.Concat([]byte(before), header, payload); !bytes.Equal(got, want) {
					t.Errorf("%d bytes after %q: got %d bytes % .24x…, want %d bytes % .24x…", n, before, len(got), got, len(want), want)
				}
			}
		}
	}
}

// TestSealFrames: frames built one behind the other do not touch each other.
func TestSealFrames(t *testing.T) {
	var all []byte
	var want []string
	for _, n := range []int{0, 70_000, 125, 126, 65_535, 1, 65_536, 0} {
		payload := strings.Repeat(string(rune('a'+n%26)), n)
		start := len(all)
		all = sealFrame(append(openFrame(all), payload...), start)
		want = append(want, payload)
	}
	_, got, err := serverFrames(all)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v: got %.100q, want %.100q", err, got, want)
	}
}

func TestControlFrames(t *testing.T) {
	long := strings.Repeat("r", 200)
	for _, test := range []struct {
		name      string
		got, want string
	}{
		{"ping", string(pingFrame), "\x89\x00"},
		{"pong", string(appendControl([]byte("x"), opPong, []byte("hello"))), "x\x8a\x05hello"},
		{"pong of 125", string(appendControl(nil, opPong, []byte(long[:125]))), "\x8a\x7d" + long[:125]},
		{"close", string(appendClose([]byte("x"), 4001, "why")), "x\x88\x05\x0f\xa1why"},
		{"close without reason", string(appendClose(nil, closeProtocolError, "")), "\x88\x02\x03\xea"},
		{"close, longest reason", string(appendClose(nil, 4100, long[:123])), "\x88\x7d\x10\x04" + long[:123]},
		{"close, reason cut", string(appendClose(nil, 4100, long)), "\x88\x7d\x10\x04" + long[:123]},
	} {
		if test.got != test.want {
			t.Errorf("%s: got %x, want %x", test.name, test.got, test.want)
		}
	}
}

// TestCloseReason: a reason is text, however it is cut and whatever a client's URL put into it. A browser that gets another
// reports 1006 instead of the code, and so comes back for ever.
func TestCloseReason(t *testing.T) {
	for _, s := range hostileStrings {
		for _, s := range []string{s, strings.Repeat(s, 200), strings.Repeat("x", 122) + s, strings.Repeat("é", 60) + s} {
			opcodes, payloads, err := serverFrames(appendClose(nil, 4001, s))
			if err != nil || len(payloads) != 1 || opcodes[0] != opClose || len(payloads[0]) > maxControlFrame {
				t.Fatalf("%.130q: got %q, %v", s, payloads, err)
			}
			code, reason, _ := strings.Cut(payloads[0], "\xa1")
			switch {
			case code != "\x0f", !utf8.ValidString(reason):
				t.Fatalf("%.130q: got the reason %q", s, reason)
			case utf8.ValidString(s) && (!strings.HasPrefix(s, reason) || len(reason) < min(len(s), 120)):
				t.Fatalf("%.130q: cut to %q", s, reason)
			}
		}
	}
}

func TestFrameReaderAllocations(t *testing.T) {
	b := slices.Concat(maskedFrame(opText, []byte("hel")), ping(10), maskedFrame(0x80, make([]byte, 200)), maskedFrame(0x80|opText, make([]byte, 2000)))
	var g frameReader
	now, messages := int64(0), 0
	if n := testing.AllocsPerRun(1000, func() {
		now += int64(time.Second)
		for rest := b; len(rest) > 0; messages++ { // masked once more each time, but that is all the same here
			_, next, code := g.next(rest, now)
			if rest = next; code != 0 {
				t.Fatalf("code %d", code)
			}
			g.release()
		}
	}); n != 0 && !raceEnabled { // with the race detector pools forget
		t.Errorf("next allocates %v times, want 0", n)
	}
	if messages != 3*1001 {
		t.Errorf("%d messages and control frames, want %d", messages, 3*1001)
	}
	dst := make([]byte, 0, 1<<17)
	payload, _ := json.Marshal(strings.Repeat("x", 70_000))
	if n := testing.AllocsPerRun(100, func() { dst = sealFrame(append(openFrame(dst[:0]), payload...), 0) }); n != 0 {
		t.Errorf("sealFrame allocates %v times, want 0", n)
	}
}
