//go:build unix

// Package test has the suites that see edge only from outside: they run a binary and speak to it over sockets.
package test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"edge/internal/edgetest"
)

// helpers are what this test binary can be instead, as a process of its own.
var helpers = map[string]func(args []string){"flooder": flooder, "floor": floor, "handler": bareHandler}

// TestMain fails if the secret was seen anywhere.
func TestMain(m *testing.M) {
	if be := helpers[os.Getenv("TEST_HELPER")]; be != nil {
		be(os.Args[1:])
		return
	}
	if os.Getenv("TEST_POLLER") == "no" {
		fmt.Println("skipped: the binary has its poller")
		return
	}
	os.Exit(edgetest.Main(m))
}

// startHelper starts this test binary as one of the helpers.
func startHelper(t testing.TB, kind string, args ...string) *edgetest.Process {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = []string{"TEST_HELPER=" + kind}
	return edgetest.StartCommand(t, cmd)
}

// throughShell has a script run the command, which has it as "$0" "$@".
func throughShell(cmd *exec.Cmd, script string) *exec.Cmd {
	return exec.Command("/bin/sh", append([]string{"-c", script, cmd.Path}, cmd.Args[1:]...)...)
}

// isTimeout reports whether the other side has neither sent nor ended in time.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
