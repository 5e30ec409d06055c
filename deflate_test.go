package main

// Tests of permessage-deflate (RFC 7692): who is offered it, and how it is agreed on. That clients understand what follows is
// proved with theirs: TestClients/Deflate and DeflateBrowser.

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"edge/internal/conn"
	"edge/internal/wire"
)

// agreedDeflate is the answer to every offer that is accepted.
const agreedDeflate = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

// deflateOffers are header lines of clients, and whether one of the offers in them is accepted.
var deflateOffers = []struct {
	lines []string
	want  bool
}{
	{nil, false},
	{[]string{""}, false},
	{[]string{","}, false},
	{[]string{"permessage-deflate; client_max_window_bits"}, true}, // Chromium, ws
	{[]string{"permessage-deflate"}, true},                         // Firefox, Safari
	{[]string{"x-webkit-deflate-frame"}, false},                    // Safari of old
	{[]string{"permessage-deflate, x-webkit-deflate-frame"}, true},
	{[]string{"permessage-bzip2"}, false},
	{[]string{"permessage-deflated"}, false},
	{[]string{"x-permessage-deflate"}, false},
	{[]string{"client_max_window_bits; permessage-deflate"}, false},

	{[]string{"permessage-deflate; server_no_context_takeover"}, true},
	{[]string{"permessage-deflate; client_no_context_takeover"}, true},
	{[]string{" permessage-deflate ;client_no_context_takeover;\tserver_no_context_takeover ; client_max_window_bits=12 "}, true},
	{[]string{"permessage-deflate; server_no_context_takeover=1"}, false},
	{[]string{"permessage-deflate; client_no_context_takeover=true"}, false},

	{[]string{"permessage-deflate; client_max_window_bits=15"}, true},
	{[]string{"permessage-deflate; client_max_window_bits=8"}, true},
	{[]string{`permessage-deflate; client_max_window_bits="10"`}, true},
	{[]string{"permessage-deflate; client_max_window_bits=7"}, false},
	{[]string{"permessage-deflate; client_max_window_bits=16"}, false},
	{[]string{"permessage-deflate; client_max_window_bits=-8"}, false},
	{[]string{"permessage-deflate; client_max_window_bits="}, false},
	{[]string{"permessage-deflate; client_max_window_bits=x"}, false},

	{[]string{"permessage-deflate; server_max_window_bits=10"}, false}, // edge has no other window than the largest
	{[]string{"permessage-deflate; server_max_window_bits=15"}, false},
	{[]string{"permessage-deflate; server_max_window_bits"}, false},
	{[]string{"permessage-deflate; unknown"}, false},
	{[]string{"permessage-deflate; client_max_window_bits; unknown=1"}, false},
	{[]string{"permessage-deflate;"}, false},
	{[]string{"permessage-deflate; client_max_window_bits; client_max_window_bits"}, false},
	{[]string{"permessage-deflate; client_max_window_bits=10; client_max_window_bits=11"}, false},
	{[]string{"permessage-deflate; server_no_context_takeover; server_no_context_takeover"}, false},
	{[]string{"permessage-deflate; client_no_context_takeover; client_no_context_takeover"}, false},

	// The first that is acceptable counts.
	{[]string{"permessage-deflate; server_max_window_bits=10, permessage-deflate"}, true},
	{[]string{"permessage-deflate; server_max_window_bits=10, permessage-deflate; server_max_window_bits=9"}, false},
	{[]string{"x-webkit-deflate-frame, permessage-deflate; client_max_window_bits"}, true},
	{[]string{"x-webkit-deflate-frame", "permessage-deflate; client_max_window_bits"}, true},
	{[]string{"permessage-deflate; unknown", "", "permessage-deflate"}, true},
	{[]string{"permessage-deflate", "permessage-deflate; unknown"}, true},
	{[]string{"permessage-deflate; unknown", "foo"}, false},
}

// TestDeflateHandshake: what is agreed on, with -deflate and without, is answered and is what holds.
func TestDeflateHandshake(t *testing.T) {
	compressed := maskedFrame(0xC0|conn.OpText, []byte{ // {"event":"pusher:ping"}, compressed in a stored block
		0, 23, 0, 0xff ^ 23, 0xff, '{', '"', 'e', 'v', 'e', 'n', 't', '"', ':', '"', 'p', 'u', 's', 'h', 'e', 'r', ':', 'p', 'i', 'n', 'g', '"', '}', 0})
	for _, args := range [][]string{nil, {"-deflate=false"}, {"-deflate"}} {
		addr := startEdge(t, args...)
		for _, test := range deflateOffers {
			t.Run(fmt.Sprintf("%v/%q", args, test.lines), func(t *testing.T) {
				var header strings.Builder
				for _, line := range test.lines {
					fmt.Fprintf(&header, "\nSec-WebSocket-Extensions: %s", line)
				}
				c, r := request(t, addr, strings.Replace(httpUpgrade, "\n\n", header.String()+"\n\n", 1))
				want := ""
				if test.want && len(args) > 0 && args[0] == "-deflate" {
					want = agreedDeflate
				}
				got := r.Header["Sec-Websocket-Extensions"]
				if r.StatusCode != http.StatusSwitchingProtocols || len(got) > 1 || strings.Join(got, "") != want || want == "" && got != nil {
					t.Fatalf("%s with %q, want %q", r.Status, got, want)
				}
				c.established()
				c.settled()
				c.raw(compressed)
				if want != "" {
					c.expect(pong)
				} else {
					c.expectClose(conn.CloseProtocolError)
				}
				c.leave()
			})
		}
	}
}

// TestDeflateThreshold: shorter messages are not worth it.
func TestDeflateThreshold(t *testing.T) {
	for n, want := range map[int]byte{0: 0x80 | conn.OpText, 1: 0x80 | conn.OpText, 199: 0x80 | conn.OpText, 200: 0xC0 | conn.OpText, 100_000: 0xC0 | conn.OpText} {
		before := []byte("before")
		plain := wire.SealFrame(append(wire.OpenFrame(nil), strings.Repeat("x", n)...), 0)
		all, next := conn.AppendDeflated(before, append(plain, "next"...))
		frame := all[len(before):]
		_, payload, rest := conn.NextServerFrame(frame)
		if frame[0] != want || len(rest) > 0 || string(next) != "next" {
			t.Errorf("a message of %d bytes: % .20x and %d bytes more, then %q, want %x first", n, frame, len(rest), next, want)
		}
		if want&conn.Rsv1 == 0 && string(payload) != strings.Repeat("x", n) || want&conn.Rsv1 != 0 && len(payload) > n/5 {
			t.Errorf("a message of %d bytes became %d", n, len(payload))
		}
	}
}
