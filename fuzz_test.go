package main

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

func FuzzGuard(f *testing.F) {
	for _, seed := range [][]byte{
		maskedFrame(0x80|opText, []byte("hello")),
		slices.Concat(maskedFrame(opText, []byte("he")), ping(1), maskedFrame(0x80, []byte("llo"))),
		frameHeader(0x80|opText, true, 64, 1<<63),
		frameHeader(opBinary, true, 16, maxPayload+1),
		frameHeader(0x80|opPing, false, 7, 125),
		slices.Concat(maskedFrame(opText, nil), maskedFrame(opContinuation, nil), maskedFrame(opContinuation, nil)),
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

// The rules for names as the protocol reference writes them.
func FuzzOptions(f *testing.F) {
	for _, seed := range []string{
		"", "-key=k\n-secret=s\n-verbose", "EDGE_KEY=k\nEDGE_WEBHOOK=http://a http://b#events=cache_miss&prefix=x", "-activity-timeout\n1.5h\n-addr=[::1]:0",
		"-memory=96M\n-max-connections=5\nEDGE_MEMORY=x", "-origins=a, *.b ,", "-cache-ttl=9223372036854775807s", "-event-size=01", "-secret=s3cr3t\n-nonsense",
		"-origins=file://,://,*.,https://a/", "-addr=tls::0", "-addr=127.0.0.1:0\n-addr=unix:/x\n-tls-cert=a\n-tls-key=b",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var args, variables []string
		for _, line := range strings.Split(text, "\n") {
			if strings.Contains(line, "secret-file") || strings.Contains(line, "SECRET_FILE") {
				return // which file does not matter here
			}
			if strings.HasPrefix(line, "EDGE_") {
				variables = append(variables, line)
			} else if line != "" {
				args = append(args, line)
			}
		}
		o, err := parseOptions(args, environment(variables...))
		if err != nil {
			if message := err.Error(); message == "" || strings.ContainsAny(message, "\r\n") {
				t.Errorf("%q: %q", text, message)
			}
			return
		}
		l := o.app.limits
		if o.app.key == "" || o.app.secret == "" || o.memory < 16<<20 || l.maxConnections < 1 || l.eventSize < 1 || l.eventSize > 1<<20 || l.sendBuffer < 4096 ||
			l.activityTimeout < time.Second || l.pongTimeout < time.Millisecond || l.cacheTTL < time.Second || l.presenceMembers < 1 {
			t.Errorf("%q: accepted as %+v", text, o)
		}
		if o.tlsCert != "" {
			return // there is none
		}
		s := o.server(t)
		if text := banner(o, []net.Listener{pipes{}}); !strings.Contains(text, "/app/"+o.app.key) {
			t.Errorf("%q: %q", text, text)
		}
		s.offlineHandler()
	})
}
