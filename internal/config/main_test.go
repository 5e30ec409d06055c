package config

import (
	"fmt"
	"os"
	"testing"

	"edge/internal/edgetest"
)

// TestMain fails if goroutines are left when the tests are over.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := edgetest.Leaked(); left != "" && code == 0 {
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}
