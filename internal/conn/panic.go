package conn

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
)

// Recovered catches a panic, so that only what was being done ends; it is deferred.
func Recovered(where string) {
	if p := recover(); p != nil {
		LogPanic(where, p)
	}
}

// LogPanic logs a panic that was caught, and the stack of its place.
func LogPanic(where string, p any) {
	Panics.Add(1)
	slog.Error("panic", "in", where, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
}

var Panics atomic.Uint64
