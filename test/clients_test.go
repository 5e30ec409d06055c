//go:build linux

package test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"edge/internal/edgetest"
)

// A clientTest is a program under testdata/clients that drives edge with official Pusher libraries, or ws, unchanged. It
// learns from the environment where edge is, and exits with 0, or with 1 and a line naming the expectation that failed.
type clientTest struct {
	name    string
	setup   setup
	command []string // its first word, like those of programs, is on the PATH or in the setup's dir
	webhook bool     // edge tells it what happens, at EDGE_WEBHOOK_PORT
	tls     bool     // edge speaks it, with a certificate of its own
	args    []string // more of edge's
}

// A setup is what programs in one directory need to run.
type setup struct {
	dir      string   // under testdata/clients; command and probe run there
	programs []string // what has to be on the PATH besides commands
	probe    []string // fails unless everything that commands build on is installed
	install  string   // how to install it
}

var (
	nodeSetup    = setup{"node", nil, []string{"npm", "ls"}, "get Node 20.19 or later and run npm ci"}
	browserSetup = setup{"node", []string{"chromium"}, nodeSetup.probe, nodeSetup.install + ", and get chromium"}
	goSetup      = setup{"go", nil, []string{"go", "list", "-deps", "."}, "run go mod download"}
	pythonSetup  = setup{"python", nil, []string{python(), "-c", "import nacl, pusher, websocket"},
		"run python3 -m venv .venv && .venv/bin/pip install -r requirements.txt"}
	javaSetup = setup{"java", nil, []string{"mvn", "-q", "-o", "compile", "exec:java"}, // does nothing when it is a probe
		"get Maven and a JDK of 17 or later, and run EDGE_PREPARE=1 mvn -q compile exec:java"}
)

var clientTests = []clientTest{
	{"PusherJS8", nodeSetup, []string{"node", "pusher-js-8.mjs"}, false, false, nil},
	{"PusherJS8Encrypted", nodeSetup, []string{"node", "pusher-js-8-encrypted.mjs"}, false, false, nil},
	{"PusherJS4", nodeSetup, []string{"node", "pusher-js-4.mjs"}, false, false, nil},
	{"PusherJS8OverTLS", nodeSetup, []string{"node", "pusher-js-8.mjs"}, false, true, nil},
	{"NodeServerLibraryOverTLS", nodeSetup, []string{"node", "server-library.mjs"}, false, true, nil},
	{"LaravelEcho", nodeSetup, []string{"node", "laravel-echo.mjs"}, false, false, nil},
	{"NodeServerLibrary", nodeSetup, []string{"node", "server-library.mjs"}, false, false, nil},
	{"NodeWebhook", nodeSetup, []string{"node", "webhook.mjs"}, true, false, nil},
	{"NodeWebhookReadme", nodeSetup, []string{"node", "webhook-readme.mjs"}, true, false, nil},
	{"Browser", browserSetup, []string{"node", "../browser/driver.mjs"}, false, false, nil},
	{"DevAuth", nodeSetup, []string{"node", "dev-auth.mjs"}, false, false, nil},
	{"DevAuthBrowser", browserSetup, []string{"node", "../browser/dev-auth.mjs"}, false, false, nil},
	{"BrowserStreaming", browserSetup, []string{"node", "../browser/fallback.mjs", "8", "xhr_streaming"}, false, false, nil},
	{"BrowserStreamingPusherJS4", browserSetup, []string{"node", "../browser/fallback.mjs", "4", "xhr_streaming"}, false, false, nil},
	{"BrowserPolling", browserSetup, []string{"node", "../browser/fallback.mjs", "8", "xhr_polling"}, false, false, nil},
	{"BrowserPollingPusherJS4", browserSetup, []string{"node", "../browser/fallback.mjs", "4", "xhr_polling"}, false, false, nil},
	{"BrowserFallsBackToStreaming", browserSetup, []string{"node", "../browser/fallback.mjs", "8", "blocked"}, false, false, nil},
	{"BrowserFallsBackToStreamingPusherJS4", browserSetup, []string{"node", "../browser/fallback.mjs", "4", "blocked"}, false, false, nil},
	{"BrowserFallsBackToPolling", browserSetup, []string{"node", "../browser/fallback.mjs", "8", "buffered"}, false, false, nil},
	{"Console", browserSetup, []string{"node", "../browser/console.mjs"}, true, false, nil},
	{"Deflate", nodeSetup, []string{"node", "deflate.mjs"}, false, false, []string{"-deflate"}},
	{"DeflateBrowser", browserSetup, []string{"node", "../browser/deflate.mjs"}, false, false, []string{"-deflate"}},
	{"Go", goSetup, []string{"go", "run", "."}, false, false, nil},
	{"GoWebhook", goSetup, []string{"go", "run", ".", "webhook"}, true, false, nil},
	{"Python", pythonSetup, []string{python(), "main.py"}, false, false, nil},
	{"PythonWebhook", pythonSetup, []string{python(), "webhook.py"}, true, false, nil},
	{"Java", javaSetup, []string{"mvn", "-q", "-o", "compile", "exec:java"}, false, false, nil},
}

// consoleLink is what the console's page is opened with, in what edge says to a person.
var consoleLink = regexp.MustCompile(`/console(#once=\w+)`)

// TestClients runs every official client against a server of its own. A client that is not installed is skipped,
// unless EDGE_REQUIRE_CLIENTS=1 says that all of them have to be there.
func TestClients(t *testing.T) {
	for _, client := range clientTests {
		t.Run(client.name, func(t *testing.T) {
			t.Parallel()
			if missing := client.missing(t.Context()); missing != "" {
				lack(t, fmt.Sprintf("%s\nto install it, in testdata/clients/%s: %s", missing, client.setup.dir, client.setup.install))
			}
			addr, hook := edgetest.FreeAddr(t), edgetest.FreeAddr(t)
			args := append([]string{"-addr", addr, "-id", "1", "-subscription-count", "-dev-auth"}, client.args...)
			if client.webhook {
				args = append(args, "-webhook", "http://"+hook+"/hook", "-webhook-grace", "2s")
			}
			var env []string
			if client.tls {
				dir, _ := edgetest.CertDir(t)
				args = append(args, edgetest.TLSArgs(dir)...)
				env = []string{"EDGE_TLS=1", "NODE_EXTRA_CA_CERTS=" + filepath.Join(dir, "edge-ca.pem")}
			}
			p := edgetest.StartOnTerminal(t, args...)
			edgetest.WaitUntil(t, "it is ready", func() bool { return strings.Contains(p.Output(), "Ready on") })
			if link := consoleLink.FindStringSubmatch(p.Output()); link != nil {
				env = append(env, "EDGE_CONSOLE_LINK="+link[1])
			}
			restart := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				p.Stop()
				p = edgetest.Start(t, args...)
			}))
			t.Cleanup(restart.Close)
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
			defer cancel()
			cmd := client.exec(ctx, client.command, addr, hook)
			cmd.Env = append(append(cmd.Env, env...), "EDGE_CONTROL="+restart.URL)
			if output, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", strings.Join(client.command, " "), err, output)
			} else {
				t.Logf("%s", output) // with -v
			}
		})
	}
}

// missing says what the client lacks to run, or nothing.
func (c clientTest) missing(ctx context.Context) string {
	for _, program := range append([]string{c.command[0]}, c.setup.programs...) {
		if _, err := exec.LookPath(program); err != nil && filepath.Base(program) == program {
			return program + " is not on the PATH"
		}
	}
	probe := c.exec(ctx, c.setup.probe, ":", ":")
	probe.Env = append(probe.Env, "EDGE_PREPARE=1")
	if output, err := probe.CombinedOutput(); err != nil {
		return strings.Join(c.setup.probe, " ") + " fails: " + strings.TrimSpace(string(output))
	}
	return ""
}

// exec prepares a command of the client, for an edge at addr that sends its webhooks to hook. Killing it does not wait for
// grandchildren that hold on to its output.
func (c clientTest) exec(ctx context.Context, command []string, addr, hook string) *exec.Cmd {
	host, port, _ := net.SplitHostPort(addr)
	_, hookPort, _ := net.SplitHostPort(hook)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = filepath.Join("..", "testdata", "clients", c.setup.dir)
	cmd.Env = append(os.Environ(), "EDGE_HOST="+host, "EDGE_PORT="+port, "EDGE_APP_ID=1", "EDGE_KEY=key", "EDGE_SECRET="+edgetest.Secret,
		"EDGE_WEBHOOK_PORT="+hookPort, "GOPROXY=off") // a test installs nothing by itself
	cmd.WaitDelay = edgetest.Patience
	return cmd
}

// python prefers the interpreter that has the client's requirements.
func python() string {
	venv := filepath.Join(".venv", "bin", "python")
	if _, err := os.Stat(filepath.Join("..", "testdata", "clients", "python", venv)); err != nil {
		return "python3"
	}
	return venv
}
