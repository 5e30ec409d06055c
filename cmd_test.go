package main

import (
	"slices"
	"strings"
	"testing"

	"edge/internal/edgetest"
)

// TestConfigCommand: edge config prints what holds and where it is from, and no secret.
func TestConfigCommand(t *testing.T) {
	file := edgetest.File(t, `{
  "event-size": 500,
  "webhook": ["http://user:sesame@a.example/x"]
}`)
	code, stdout, stderr := runCommand(t, []string{"config", "-key", "k", "-config", file, "-more-keys", "old:sesame"}, "EDGE_ORIGINS=a.example", "EDGE_ID=9")
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, %q", code, stderr)
	}
	for _, want := range [][]string{
		{"key", "k", "# option -key"}, {"secret", "***", "# EDGE_SECRET"}, {"more-keys", "***", "# option -more-keys"}, {"id", "9", "# EDGE_ID"},
		{"event-size", "500", "# " + file + " line 2"}, {"origins", "a.example", "# EDGE_ORIGINS"}, {"webhook", "http://a.example/x", "# " + file + " line 3"},
		{"cache-ttl", "30m", "# the default"}, {"memory", "B", "# the system"}, {"max-connections", "", "# memory and open files"},
	} {
		if !slices.ContainsFunc(strings.Split(stdout, "\n"), func(line string) bool {
			return strings.HasPrefix(line, want[0]+" ") && strings.Contains(line, want[1]) && strings.HasSuffix(line, want[2])
		}) {
			t.Errorf("no line %q in\n%s", want, stdout)
		}
	}
	if strings.Contains(stdout, "sesame") {
		t.Errorf("the secret is printed:\n%s", stdout)
	}
	if code, stdout, stderr := runCommand(t, []string{"config", "-check", "-config", file}); code != 0 || stdout != "the configuration is good\n" || stderr != "" {
		t.Errorf("-check: %d %q %q", code, stdout, stderr)
	}
}

// TestCommandNames: a command that is not there is named, with the nearest.
func TestCommandNames(t *testing.T) {
	for args, part := range map[string]string{"confg": "did you mean edge config?", "nonsense": "edge -help"} {
		code, _, stderr := runCommand(t, strings.Fields(args))
		if edgetest.OneSentence(t, stderr, part); code != 2 {
			t.Errorf("%s: exit code %d", args, code)
		}
	}
}
