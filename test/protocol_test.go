//go:build unix

package test

import (
	"net"
	"testing"

	"edge/internal/edgetest"
)

// TestProtocol plays the protocol's scripts on a binary.
func TestProtocol(t *testing.T) {
	edgetest.Scenes(t, "../testdata/protocol", func(t *testing.T, s *edgetest.Scene) {
		if s.Timed {
			t.Skip("in virtual time only")
		}
		t.Parallel()
		p := edgetest.Start(t, s.Flags...)
		s.Play(t, edgetest.Stage{Dial: func() net.Conn { return edgetest.Dial(t, p.Addr) }})
	})
}
