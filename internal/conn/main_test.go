package conn

import (
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"edge/internal/edgetest"
)

// TestMain fails if goroutines or descriptors are left when the tests are over.
func TestMain(m *testing.M) {
	WriteTimeout = time.Minute // a test may be held up for longer than a client may
	Poison = func(message []byte) {
		for i := range message {
			message[i] = 0xff // no UTF-8
		}
	}
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close() // now the runtime's own poller has its descriptors
	}
	files := edgetest.OpenFiles()
	code := m.Run()
	if left := edgetest.Leaked(); left != "" && code == 0 {
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", left)
		code = 1
	}
	if left := edgetest.LeakedFiles(files); left != "" && code == 0 {
		fmt.Fprintf(os.Stderr, "files left open:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}
