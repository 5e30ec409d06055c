package metrics

import (
	"encoding/json"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/sign"
	"edge/internal/webhook"
)

// TestServe: the page is what Prometheus reads, with several apps and with receivers that share a URL.
func TestServe(t *testing.T) {
	memory := conn.NewBudget(64 << 20)
	keys := sign.Keys{sign.NewKey("one", edgetest.Secret), sign.NewKey("two", edgetest.Secret)}
	var apps []App
	for _, id := range []string{"", `a"b\c` + "\n"} {
		app := channel.NewApp(memory, channel.Limits{})
		hooks := webhook.New(app, "1")
		const secret = "http://name:" + edgetest.Secret + "@127.0.0.1:1/path?"
		hooks.Configure([]string{secret + "#prefix=a", secret + "#prefix=b"}, keys[0], 0)
		app.Counts.Refuse("call", "400")
		app.Counts.Refuse("call", "400")
		app.Counts.Refuse("subscription", "AuthError")
		apps = append(apps, App{id, app, keys, hooks})
	}
	apps = append(apps, App{ID: "alone", App: channel.NewApp(memory, channel.Limits{})})
	w := httptest.NewRecorder()
	Serve(w, Server{Version: "1.2", Memory: memory, Expiry: 1_800_000_000, Panics: 3}, apps)
	page := w.Body.String()
	for _, want := range []string{
		"# TYPE edge_connected gauge\nedge_connected{app_id=\"\"} 0\nedge_connected{app_id=\"a\\\"b\\\\c\\n\"} 0\n",
		`edge_refusals_total{app_id="",what="call",reason="400"} 2`,
		`edge_refusals_total{app_id="",what="subscription",reason="AuthError"} 1`,
		`edge_key_uses_total{app_id="",key="two"} 0`,
		`edge_webhook_queue{app_id="",url="http://127.0.0.1:1/path",receiver="2"} 0`,
		`edge_memory_budget_bytes 67108864`, `edge_panics_total 3`, `edge_tls_certificate_expiry_seconds 1800000000`,
		`edge_info{version="1.2",go="`, "process_start_time_seconds 1",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %s in\n%s", want, page)
		}
	}
	if strings.Contains(page, edgetest.Secret) {
		t.Error("a secret is in it")
	}
	checkExposition(t, page)
}

// checkExposition checks the format: every family is described once, before its values, which are numbers, each once.
// promtool may say more, if it is installed.
func checkExposition(t *testing.T, page string) {
	t.Helper()
	if _, err := exec.LookPath("promtool"); err == nil { // in Debian's prometheus
		cmd := exec.Command("promtool", "check", "metrics")
		cmd.Stdin = strings.NewReader(page)
		out, _ := cmd.CombinedOutput()
		const soketi = `_bytes counter metrics should have "_total" suffix` // the names of four are soketi's
		for line := range strings.Lines(string(out)) {
			if !strings.Contains(line, soketi) {
				t.Errorf("promtool: %s", line)
			}
		}
		if code := cmd.ProcessState.ExitCode(); code != 0 && code != 3 {
			t.Errorf("promtool: exit code %d", code)
		}
	}
	family, seen := "", map[string]bool{}
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		f := strings.SplitN(line, " ", 4)
		switch {
		case strings.HasPrefix(line, "# HELP "):
			if family = f[2]; seen[family] || len(f) != 4 {
				t.Errorf("%s", line)
			}
			seen[family] = true
		case strings.HasPrefix(line, "# TYPE "):
			if f[2] != family || f[3] != "gauge" && f[3] != "counter" {
				t.Errorf("%s", line)
			}
		default:
			i := strings.LastIndexByte(line, ' ')
			name, _, _ := strings.Cut(line[:i], "{")
			var number float64
			if json.Unmarshal([]byte(line[i+1:]), &number) != nil || name != family || seen["value of "+line[:i]] {
				t.Errorf("%s", line)
			}
			seen["value of "+line[:i]] = true
		}
	}
}
