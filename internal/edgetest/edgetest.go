// Package edgetest has what the tests of edge are written with: edge as a process, and clients that speak raw TCP,
// so that a test reads like the protocol: send, expect. It imports nothing of edge's: what it signs, frames and
// expects it makes by itself. Clients take an address, so they serve for a server in the test's own process too.
package edgetest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Patience is how long a test waits for what must come; only a failing test waits that long.
const Patience = 2 * time.Minute

// Key and Secret are those of every server of the tests. Wherever else the secret is seen, it has leaked: Main fails.
const (
	Key    = "key"
	Secret = "MarkerOfTheSecret"
)

// Full reports whether tests are to run at the size of a release: TEST_FULL=1.
func Full() bool { return os.Getenv("TEST_FULL") == "1" }

// Sized is how often something is done: fast, so that a commit can wait for it, or at the size of a release.
func Sized(fast, release int) int {
	if Full() {
		return release
	}
	return fast
}

// WaitUntil waits for a state that nothing announces.
func WaitUntil(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

var addresses atomic.Int32 // that FreeAddr has tried

// FreeAddr returns an address that nobody listens on and nobody else gets, another one each time: its port is below
// those that connections take. Processes that run at the same time begin far from each other.
func FreeAddr(t testing.TB) string {
	t.Helper()
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 20_000+(64*os.Getpid()+int(addresses.Add(1)))%12_000)
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

var leaks struct {
	sync.Mutex // guards the following
	places     []string
}

// LookForSecret notes if the secret is in what was seen in this place.
func LookForSecret(place string, seen []byte) {
	if !bytes.Contains(seen, []byte(Secret)) {
		return
	}
	leaks.Lock()
	defer leaks.Unlock()
	if !slices.Contains(leaks.places, place) {
		leaks.places = append(leaks.places, place)
	}
}
