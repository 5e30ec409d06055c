//go:build !race

package edgetest

// Race says that the race detector is on, which allocates by itself.
const Race = false
