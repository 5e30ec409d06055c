package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A clientTest is a program under testdata/clients that drives edge with official Pusher libraries, unchanged. It
// learns from the environment where edge is, and exits with 0, or with 1 and a line naming the expectation that failed.
type clientTest struct {
	name     string
	dir      string   // under testdata/clients; command and probe run there
	command  []string // its first word, like those of programs, is on the PATH or in dir
	programs []string // what else has to be on the PATH
	probe    []string // fails unless everything that command builds on is installed
	install  string   // how to install it
}

var (
	npmProbe   = []string{"npm", "ls"}
	npmInstall = "get Node 20.19 or later and run npm ci"
)

var clientTests = []clientTest{
	{"PusherJS8", "node", []string{"node", "pusher-js-8.mjs"}, nil, npmProbe, npmInstall},
	{"PusherJS8Encrypted", "node", []string{"node", "pusher-js-8-encrypted.mjs"}, nil, npmProbe, npmInstall},
	{"PusherJS4", "node", []string{"node", "pusher-js-4.mjs"}, nil, npmProbe, npmInstall},
	{"LaravelEcho", "node", []string{"node", "laravel-echo.mjs"}, nil, npmProbe, npmInstall},
	{"NodeServerLibrary", "node", []string{"node", "server-library.mjs"}, nil, npmProbe, npmInstall},
	{"Browser", "node", []string{"node", "../browser/driver.mjs"}, []string{"chromium"}, npmProbe,
		npmInstall + ", and get chromium"},
	{"Go", "go", []string{"go", "run", "."}, nil, []string{"go", "list", "-deps", "."}, "run go mod download"},
	{"Python", "python", []string{python(), "main.py"}, nil, []string{python(), "-c", "import nacl, pusher, websocket"},
		"run python3 -m venv .venv && .venv/bin/pip install -r requirements.txt"},
	{"Java", "java", []string{"mvn", "-q", "-o", "compile", "exec:java"}, nil,
		[]string{"mvn", "-q", "-o", "compile", "exec:java"}, // does nothing when it is a probe
		"get Maven and a JDK of 17 or later, and run EDGE_PREPARE=1 mvn -q compile exec:java"},
}

// TestClients runs every official client against a server of its own. A client that is not installed is skipped,
// unless EDGE_REQUIRE_CLIENTS=1 says that all of them have to be there.
func TestClients(t *testing.T) {
	for _, client := range clientTests {
		t.Run(client.name, func(t *testing.T) {
			t.Parallel()
			if missing := client.missing(t.Context()); missing != "" {
				skip := t.Skipf
				if os.Getenv("EDGE_REQUIRE_CLIENTS") == "1" {
					skip = t.Fatalf
				}
				skip("%s\nto install it, in testdata/clients/%s: %s", missing, client.dir, client.install)
			}
			addr := startEdge(t, "-id", "1", "-key", "key", "-secret", "secret", "-subscription-count")
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			if output, err := client.exec(ctx, client.command, addr).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", strings.Join(client.command, " "), err, output)
			}
		})
	}
}

// missing says what the client lacks to run, or nothing.
func (c clientTest) missing(ctx context.Context) string {
	for _, program := range append([]string{c.command[0]}, c.programs...) {
		if _, err := exec.LookPath(program); err != nil && filepath.Base(program) == program {
			return program + " is not on the PATH"
		}
	}
	probe := c.exec(ctx, c.probe, ":")
	probe.Env = append(probe.Env, "EDGE_PREPARE=1")
	if output, err := probe.CombinedOutput(); err != nil {
		return strings.Join(c.probe, " ") + " fails: " + strings.TrimSpace(string(output))
	}
	return ""
}

// exec prepares a command of the client. Killing it does not wait for grandchildren that hold on to its output.
func (c clientTest) exec(ctx context.Context, command []string, addr string) *exec.Cmd {
	host, port, _ := net.SplitHostPort(addr)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = filepath.Join("testdata", "clients", c.dir)
	cmd.Env = append(os.Environ(), "EDGE_HOST="+host, "EDGE_PORT="+port, "EDGE_APP_ID=1", "EDGE_KEY=key", "EDGE_SECRET=secret",
		"GOPROXY=off") // a test installs nothing by itself
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// python prefers the interpreter that has the client's requirements.
func python() string {
	venv := filepath.Join(".venv", "bin", "python")
	if _, err := os.Stat(filepath.Join("testdata", "clients", "python", venv)); err != nil {
		return "python3"
	}
	return venv
}
