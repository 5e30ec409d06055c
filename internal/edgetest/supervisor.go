package edgetest

import (
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Supervisor is the other end of sd_notify(3).
type Supervisor struct {
	*net.UnixConn
	Name string // for NOTIFY_SOCKET

	t testing.TB
}

// NewSupervisor listens until the test is over.
func NewSupervisor(t testing.TB) *Supervisor {
	t.Helper()
	name := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &Supervisor{conn, name, t}
}

// Expect waits for a message that matches, and skips status and watchdog messages that do not.
func (s *Supervisor) Expect(pattern string) {
	s.t.Helper()
	s.SetReadDeadline(time.Now().Add(Patience))
	for b := make([]byte, 4096); ; {
		n, err := s.Read(b)
		if err != nil {
			s.t.Fatalf("no %s: %v", pattern, err)
		}
		m := string(b[:n])
		if regexp.MustCompile("^(?:" + pattern + ")$").MatchString(m) {
			return
		}
		if !strings.HasPrefix(m, "WATCHDOG=1") && !strings.HasPrefix(m, "STATUS=") {
			s.t.Fatalf("got %q, want %s", m, pattern)
		}
	}
}
