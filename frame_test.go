package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

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
