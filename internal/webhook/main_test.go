package webhook

import (
	"fmt"
	"os"
	"testing"
	"testing/synctest"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/sign"
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

var key = sign.NewKey(edgetest.Key, edgetest.Secret)

var occupied, vacated = edgetest.Occupied, edgetest.Vacated

// newHooks makes the hooks of an app in which nothing happens.
func newHooks() *Hooks { return New(channel.NewApp(conn.NewBudget(64<<20), channel.Limits{}), "test") }

// check compares what has been accepted when nothing moves any more at this moment.
func check(r *edgetest.Receiver, events ...string) {
	r.T.Helper()
	synctest.Wait()
	r.Check(events...)
}
