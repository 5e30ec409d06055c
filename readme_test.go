package main

import (
	"fmt"
	"os"
	"regexp"
	"testing"
)

// TestReadmeOptions compares the README's table of options with the one that drives the program. EDGE_UPDATE=1 writes it anew.
func TestReadmeOptions(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	want := "| option | default | meaning |\n|---|---|---|\n"
	for _, opt := range optionTable(new(options)) {
		value := opt.value
		if value != "" {
			value = "`" + value + "`"
		}
		want += fmt.Sprintf("| `-%s` | %s | %s |\n", opt.name, value, opt.help)
	}
	table := regexp.MustCompile(`(?m)^\| option \| default \|.*\n(\|.*\n)+`)
	if got := table.Find(b); string(got) != want {
		t.Errorf("README has\n%s\nwant\n%s", got, want)
		if os.Getenv("EDGE_UPDATE") == "1" {
			os.WriteFile("README.md", table.ReplaceAllLiteral(b, []byte(want)), 0o644)
		}
	}
}
