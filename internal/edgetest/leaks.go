package edgetest

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// OpenFiles returns what the process has open, by descriptor.
func OpenFiles() map[string]string {
	all := make(map[string]string)
	const dir = "/proc/self/fd"
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if name, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil { // not the directory itself, which is closed by now
			all[e.Name()] = name
		}
	}
	return all
}

// LeakedFiles waits for what was opened since to be closed, and returns what is not.
func LeakedFiles(before map[string]string) string {
	var left []string
	for end := time.Now().Add(Patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		left = nil
		for fd, name := range OpenFiles() {
			if before[fd] != name {
				left = append(left, fd+" "+name)
			}
		}
		if left == nil {
			return ""
		}
	}
	return strings.Join(left, "\n")
}

// Leaked waits for goroutines of ours to end and returns the stacks of those that do not.
func Leaked() string {
	var left []string
	for end := time.Now().Add(Patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		buf := make([]byte, 1<<20)
		left = nil
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if (strings.Contains(g, "\nedge.") || strings.Contains(g, "\nedge/internal/")) && !strings.Contains(g, ".TestMain(") {
				left = append(left, g)
			}
		}
		if left == nil {
			return ""
		}
	}
	return strings.Join(left, "\n\n")
}
