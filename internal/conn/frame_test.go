package conn

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"edge/internal/edgetest"
)

// frameHeader is a client frame's header with a masking key of ff. form is the length of the length in bits: 7, 16 or
// 64.
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
		var r Rate
		for i, s := range test.steps {
			allowed := 0
			for range s.tries {
				if r.Allow(s.at, test.perSecond, test.burst) {
					allowed++
				}
			}
			if allowed != s.allowed {
				t.Errorf("%s, step %d: %d of %d allowed, want %d", test.name, i, allowed, s.tries, s.allowed)
			}
		}
	}
	var r Rate
	allowed := 0
	for now := int64(0); now < 60*second; now += second / 1000 {
		if r.Allow(now, ControlRate, ControlBurst) {
			allowed++
		}
	}
	if want := 60*ControlRate + ControlBurst; allowed < want-1 || allowed > want {
		t.Errorf("in a minute: %d allowed, want %d", allowed, want)
	}
}

func TestControlFrames(t *testing.T) {
	long := strings.Repeat("r", 200)
	for _, test := range []struct {
		name      string
		got, want string
	}{
		{"ping", string(PingFrame), "\x89\x00"},
		{"pong", string(appendControl([]byte("x"), OpPong, []byte("hello"))), "x\x8a\x05hello"},
		{"pong of 125", string(appendControl(nil, OpPong, []byte(long[:125]))), "\x8a\x7d" + long[:125]},
		{"close", string(appendClose([]byte("x"), 4001, "why")), "x\x88\x05\x0f\xa1why"},
		{"close without reason", string(appendClose(nil, CloseProtocolError, "")), "\x88\x02\x03\xea"},
		{"close, longest reason", string(appendClose(nil, 4100, long[:123])), "\x88\x7d\x10\x04" + long[:123]},
		{"close, reason cut", string(appendClose(nil, 4100, long)), "\x88\x7d\x10\x04" + long[:123]},
	} {
		if test.got != test.want {
			t.Errorf("%s: got %x, want %x", test.name, test.got, test.want)
		}
	}
}

// TestCloseReason: a reason is text, however it is cut and whatever a client's URL put into it. A browser that gets
// another reports 1006 instead of the code, and so comes back for ever.
func TestCloseReason(t *testing.T) {
	for _, s := range edgetest.HostileStrings {
		for _, s := range []string{s, strings.Repeat(s, 200), strings.Repeat("x", 122) + s, strings.Repeat("é", 60) + s} {
			frame := appendClose(nil, 4001, s)
			opcode, payload, rest := NextServerFrame(frame)
			if len(rest) > 0 || opcode != OpClose || len(payload) > MaxControlFrame {
				t.Fatalf("%.130q: got %q", s, frame)
			}
			code, reason, _ := strings.Cut(string(payload), "\xa1")
			switch {
			case code != "\x0f", !utf8.ValidString(reason):
				t.Fatalf("%.130q: got the reason %q", s, reason)
			case utf8.ValidString(s) && (!strings.HasPrefix(s, reason) || len(reason) < min(len(s), 120)):
				t.Fatalf("%.130q: cut to %q", s, reason)
			}
		}
	}
}
