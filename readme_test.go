package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"edge/internal/config"
)

// TestRunningVariables: the options that docs/running.md names instead of other servers' variables exist.
func TestRunningVariables(t *testing.T) {
	row := regexp.MustCompile("(?m)^\\| `(PUSHER|REVERB|SOKETI)_.*\\| `-([a-z-]+)")
	rows := row.FindAllSubmatch(readFile(t, "docs/running.md"), -1)
	if len(rows) < 10 {
		t.Errorf("%d rows", len(rows))
	}
	for _, row := range rows {
		if !slices.ContainsFunc(config.All(), func(o config.Option) bool { return o.Name == string(row[2]) }) {
			t.Errorf("there is no option %s", row[2])
		}
	}
}

// TestPromises expects every test that docs/promises.md names to exist: a promise without one is only a sentence.
func TestPromises(t *testing.T) {
	var sources []byte
	for _, pattern := range []string{"*_test.go", "internal/*/*_test.go", "test/*_test.go"} {
		names, _ := filepath.Glob(pattern)
		for _, name := range names {
			sources = append(sources, readFile(t, name)...)
		}
	}
	found := regexp.MustCompile("`(Test\\w+)`").FindAllSubmatch(readFile(t, "docs/promises.md"), -1)
	if len(found) < 40 {
		t.Errorf("it names %d tests", len(found))
	}
	for _, m := range found {
		if !bytes.Contains(sources, []byte("\nfunc "+string(m[1])+"(t *testing.T)")) {
			t.Errorf("there is no %s", m[1])
		}
	}
}

// TestReadmeOptions compares the README's table of options with the one that drives the program. TEST_UPDATE=1 writes it anew.
func TestReadmeOptions(t *testing.T) {
	want := "| option | default | meaning |\n|---|---|---|\n"
	for _, opt := range config.All() {
		value := opt.Default
		if value != "" {
			value = "`" + value + "`"
		}
		want += fmt.Sprintf("| `-%s` | %s | %s |\n", opt.Name, value, opt.Help)
	}
	compareTable(t, "README.md", `\| option \| default \|`, want)
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// compareTable compares the table of the file whose first line begins so. TEST_UPDATE=1 writes it anew.
func compareTable(t *testing.T, file, begins, want string) {
	t.Helper()
	b := readFile(t, file)
	table := regexp.MustCompile("(?m)^" + begins + ".*\n(\\|.*\n)+")
	if got := table.Find(b); string(got) != want {
		t.Errorf("%s has\n%s\nwant\n%s", file, got, want)
		if os.Getenv("TEST_UPDATE") == "1" {
			os.WriteFile(file, table.ReplaceAllLiteral(b, []byte(want)), 0o644)
		}
	}
}
