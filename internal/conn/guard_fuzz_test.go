package conn

import (
	"slices"
	"testing"

	"edge/internal/edgetest"
)

func FuzzGuard(f *testing.F) {
	for _, seed := range [][]byte{
		edgetest.Masked(0x80|OpText, []byte("hello")),
		slices.Concat(edgetest.Masked(OpText, []byte("he")), ping(1), edgetest.Masked(0x80, []byte("llo"))),
		frameHeader(0x80|OpText, true, 64, 1<<63),
		frameHeader(OpBinary, true, 16, MaxPayload+1),
		frameHeader(0x80|OpPing, false, 7, 125),
		slices.Concat(edgetest.Masked(OpText, nil), edgetest.Masked(OpContinuation, nil), edgetest.Masked(OpContinuation, nil)),
	} {
		f.Add(seed, uint(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, piece uint) {
		checkStream(t, nil, b, len(b) <= 100)
		want, got := reference(b), &guarded{t: t, links: plainLinks}
		for pieces := range slices.Chunk(b, int(piece%100)+1) {
			if !got.over {
				got.receive(pieces)
			}
		}
		if !got.equal(want) {
			t.Errorf("% x in pieces of %d: got %q, %d good bytes, want %q, %d", b, piece%100+1, got.said, got.good, want.said, want.good)
		}
	})
}
