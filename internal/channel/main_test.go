package channel

import (
	"fmt"
	"os"
	"testing"

	"edge/internal/edgetest"
)

// TestMain fails if goroutines are left when the tests are over.
func TestMain(m *testing.M) {
	Processors, Segment = 3, 8 // so that also the channels of tests are large
	code := m.Run()
	if left := edgetest.Leaked(); left != "" && code == 0 {
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}
