package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestReadmeOptions compares the README's table of options with the one that drives the program.
func TestReadmeOptions(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "| `-") {
			rows = append(rows, strings.TrimSpace(line))
		}
	}
	table := optionTable(new(options))
	if len(rows) != len(table) {
		t.Fatalf("README has %d options, the program %d", len(rows), len(table))
	}
	for i, opt := range table {
		value := opt.value
		if value != "" {
			value = "`" + value + "`"
		}
		if want := fmt.Sprintf("| `-%s` | %s | %s |", opt.name, value, opt.help); rows[i] != want {
			t.Errorf("README has\n%s\nwant\n%s", rows[i], want)
		}
	}
}
