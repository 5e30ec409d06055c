package main

import (
	"net"
	"strings"
	"testing"
	"time"

	"edge/internal/config"
	"edge/internal/edgetest"
)

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
		o, err := config.Parse(args, edgetest.Getenv(variables...))
		if err != nil {
			if message := err.Error(); message == "" || strings.ContainsAny(message, "\r\n") {
				t.Errorf("%q: %q", text, message)
			}
			return
		}
		l := o.Apps[0].Limits
		if o.Apps[0].Key == "" || o.Apps[0].Secret == "" || o.Memory < 16<<20 || l.MaxConnections < 1 || l.EventSize < 1 || l.EventSize > 1<<20 || l.SendBuffer < 4096 ||
			l.ActivityTimeout < time.Second || l.PongTimeout < time.Millisecond || l.CacheTTL < time.Second || l.PresenceMembers < 1 {
			t.Errorf("%q: accepted as %+v", text, o)
		}
		if o.TLSCert != "" {
			return // there is none
		}
		s := serverOf(t, o)
		if text := banner(o, []net.Listener{pipes{}}, ""); !strings.Contains(text, "/app/"+o.Apps[0].Key) {
			t.Errorf("%q: %q", text, text)
		}
		s.offlineHandler()
	})
}
