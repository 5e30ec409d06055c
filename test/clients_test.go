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

// A clientTest is a program under testdata/clients that drives edge with official Pusher libraries, or ws, unchanged.
// It learns from the environment where edge is, and exits with 0, or with 1 and a line naming the expectation that
// failed.
type clientTest struct {
	name    string
	setup   setup
	command string // its first word, like those of programs, is on the PATH or in the setup's dir
	with    string // "webhook": edge reports what happens, at EDGE_WEBHOOK_PORT; "tls"; or an option of edge
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
		"get Maven and a JDK of 17 or later, and run TEST_PREPARE=1 mvn -q compile exec:java"}
)

var clientTests = []clientTest{
	{"PusherJS8", nodeSetup, "node pusher-js-8.mjs", ""},
	{"PusherJS8Encrypted", nodeSetup, "node pusher-js-8-encrypted.mjs", ""},
	{"PusherJS4", nodeSetup, "node pusher-js-4.mjs", ""},
	{"PusherJS8OverTLS", nodeSetup, "node pusher-js-8.mjs", "tls"},
	{"NodeServerLibraryOverTLS", nodeSetup, "node server-library.mjs", "tls"},
	{"LaravelEcho", nodeSetup, "node laravel-echo.mjs", ""},
	{"NodeServerLibrary", nodeSetup, "node server-library.mjs", ""},
	{"NodeWebhook", nodeSetup, "node webhook.mjs", "webhook"},
	{"NodeWebhookReadme", nodeSetup, "node webhook-readme.mjs", "webhook"},
	{"Browser", browserSetup, "node ../browser/driver.mjs", ""},
	{"DevAuth", nodeSetup, "node dev-auth.mjs", ""},
	{"DevAuthBrowser", browserSetup, "node ../browser/dev-auth.mjs", ""},
	{"BrowserStreaming", browserSetup, "node ../browser/fallback.mjs 8 xhr_streaming", ""},
	{"BrowserStreamingPusherJS4", browserSetup, "node ../browser/fallback.mjs 4 xhr_streaming", ""},
	{"BrowserPolling", browserSetup, "node ../browser/fallback.mjs 8 xhr_polling", ""},
	{"BrowserPollingPusherJS4", browserSetup, "node ../browser/fallback.mjs 4 xhr_polling", ""},
	{"BrowserFallsBackToStreaming", browserSetup, "node ../browser/fallback.mjs 8 blocked", ""},
	{"BrowserFallsBackToStreamingPusherJS4", browserSetup, "node ../browser/fallback.mjs 4 blocked", ""},
	{"BrowserFallsBackToPolling", browserSetup, "node ../browser/fallback.mjs 8 buffered", ""},
	{"Console", browserSetup, "node ../browser/console.mjs", "webhook"},
	{"Deflate", nodeSetup, "node deflate.mjs", "-deflate"},
	{"DeflateBrowser", browserSetup, "node ../browser/deflate.mjs", "-deflate"},
	{"Go", goSetup, "go run .", ""},
	{"GoWebhook", goSetup, "go run . webhook", "webhook"},
	{"Python", pythonSetup, python() + " main.py", ""},
	{"PythonWebhook", pythonSetup, python() + " webhook.py", "webhook"},
	{"Java", javaSetup, "mvn -q -o compile exec:java", ""},
}

// consoleLink is what the console's page is opened with, in what edge says to a person.
var consoleLink = regexp.MustCompile(`/console(#once=\w+)`)

// TestClients runs every official client against a server of its own. A client that is not installed is skipped,
// unless TEST_REQUIRE_CLIENTS=1 says that all of them have to be there.
func TestClients(t *testing.T) {
	for _, client := range clientTests {
		t.Run(client.name, func(t *testing.T) {
			t.Parallel()
			if missing := client.missing(t.Context()); missing != "" {
				how := fmt.Sprintf("to install it, in testdata/clients/%s: %s", client.setup.dir, client.setup.install)
				lack(t, missing+"\n"+how)
			}
			addr, hook := edgetest.FreeAddr(t), edgetest.FreeAddr(t)
			args := []string{"-addr", addr, "-id", "1", "-subscription-count", "-dev-auth"}
			var env []string
			switch client.with {
			case "":
			case "webhook":
				args = append(args, "-webhook", "http://"+hook+"/hook", "-webhook-grace", "2s")
			case "tls":
				dir, _ := edgetest.CertDir(t)
				args = append(args, edgetest.TLSArgs(dir)...)
				env = []string{"EDGE_TLS=1", "NODE_EXTRA_CA_CERTS=" + filepath.Join(dir, "edge-ca.pem")}
			default:
				args = append(args, client.with)
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
			cmd := client.exec(ctx, strings.Fields(client.command), addr, hook)
			cmd.Env = append(append(cmd.Env, env...), "EDGE_CONTROL="+restart.URL)
			if output, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", client.command, err, output)
			} else {
				t.Logf("%s", output) // with -v
			}
		})
	}
}

// missing says what the client lacks to run, or nothing.
func (c clientTest) missing(ctx context.Context) string {
	for _, program := range append(strings.Fields(c.command)[:1], c.setup.programs...) {
		if _, err := exec.LookPath(program); err != nil && filepath.Base(program) == program {
			return program + " is not on the PATH"
		}
	}
	probe := c.exec(ctx, c.setup.probe, ":", ":")
	probe.Env = append(probe.Env, "TEST_PREPARE=1")
	if output, err := probe.CombinedOutput(); err != nil {
		return strings.Join(c.setup.probe, " ") + " fails: " + strings.TrimSpace(string(output))
	}
	return ""
}

// exec prepares a command of the client, for an edge at addr that sends its webhooks to hook. Killing it does not wait
// for grandchildren that hold on to its output.
func (c clientTest) exec(ctx context.Context, command []string, addr, hook string) *exec.Cmd {
	host, port, _ := net.SplitHostPort(addr)
	_, hookPort, _ := net.SplitHostPort(hook)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = filepath.Join("..", "testdata", "clients", c.setup.dir)
	cmd.Env = append(os.Environ(), "EDGE_HOST="+host, "EDGE_PORT="+port,
		"EDGE_APP_ID=1", "EDGE_KEY="+edgetest.Key, "EDGE_SECRET="+edgetest.Secret, "EDGE_WEBHOOK_PORT="+hookPort, "GOPROXY=off") // a test installs nothing by itself
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
