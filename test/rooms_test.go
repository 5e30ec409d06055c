package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"edge/internal/edgetest"
)

// below has what each room may import of ours, itself or through others: nothing imports upward. The table of docs/architecture.md
// has the same rooms.
var below = map[string]string{
	"wire":     "",
	"sign":     "",
	"conn":     "",
	"listen":   "",
	"channel":  "wire conn",
	"api":      "channel wire conn sign listen",
	"webhook":  "channel wire conn sign",
	"fallback": "wire conn listen",
	"console":  "channel wire conn listen",
	"metrics":  "channel wire conn sign webhook",
	"logs":     "channel wire conn",
	"systemd":  "wire conn",
	"config":   "channel wire conn listen sign webhook",
	"cli":      "channel wire conn listen sign webhook config",
}

// TestRooms: no room imports upward, channel and wire do not know HTTP, and the documentation has the rooms that there are.
func TestRooms(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = edgetest.Root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var rooms []string
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p struct {
			ImportPath    string
			Imports, Deps []string
		}
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		room, ok := strings.CutPrefix(p.ImportPath, "edge/internal/")
		if !ok || room == "edgetest" {
			continue
		}
		rooms = append(rooms, room)
		may, known := below[room]
		if !known {
			t.Errorf("no rule for room %s", room)
		}
		for _, dep := range p.Deps {
			if other, ours := strings.CutPrefix(dep, "edge/"); ours && !slices.Contains(strings.Fields(may), strings.TrimPrefix(other, "internal/")) {
				t.Errorf("%s imports %s, itself or through another room", room, other)
			}
		}
		if (room == "channel" || room == "wire") && slices.Contains(p.Imports, "net/http") {
			t.Errorf("%s knows HTTP", room)
		}
	}
	text, err := os.ReadFile(edgetest.Root(t) + "/docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, m := range regexp.MustCompile("(?m)^\\| `internal/(\\w+)` \\|").FindAllSubmatch(text, -1) {
		told = append(told, string(m[1]))
	}
	slices.Sort(rooms)
	slices.Sort(told)
	if !slices.Equal(rooms, told) {
		t.Errorf("docs/architecture.md has the rooms %v, go list %v", told, rooms)
	}
	if n := strings.Count(string(text), "\n"); n > 120 {
		t.Errorf("docs/architecture.md has %d lines", n)
	}
}
