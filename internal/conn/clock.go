package conn

import "time"

var ProcessStart = time.Now()

// Now is a clock that no one can set, in nanoseconds. It is never 0.
func Now() int64 { return int64(time.Since(ProcessStart)) + 1 }
