package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
)

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
				got := SealFrame(append(OpenFrame(dst), payload...), len(before))
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
		all = SealFrame(append(OpenFrame(all), payload...), start)
		want = append(want, payload)
	}
	_, got, err := serverFrames(all)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v: got %.100q, want %.100q", err, got, want)
	}
}
