//go:build unix

package main

import (
	"io"
	"syscall"
)

// canTryWrite: file descriptors can be read and written without blocking.
const canTryWrite = true

// tryRead takes a buffer only once there are bytes; false makes RawConn.Read wait for them without one.
func (c *conn) tryRead(fd uintptr) bool {
	b := readBuffers.Get().(*readBuffer)
	n, err := ignoreEINTR(syscall.Read, fd, b.bytes[:])
	switch {
	case n > 0:
		b.n, c.in = n, b
		return true
	case err == syscall.EAGAIN:
		b.free()
		return false
	case err == nil:
		err = io.EOF
	}
	b.free()
	c.inErr = err
	return true
}

// tryWrite offers c.out to the kernel once; it never waits.
func (c *conn) tryWrite(fd uintptr) bool {
	n, err := ignoreEINTR(syscall.Write, fd, c.out)
	if c.outN = max(n, 0); err == syscall.EAGAIN {
		err = nil
	}
	c.outErr = err
	return true
}

func ignoreEINTR(call func(int, []byte) (int, error), fd uintptr, p []byte) (int, error) {
	for {
		n, err := call(int(fd), p)
		if err != syscall.EINTR {
			return n, err
		}
	}
}

// descriptorLimit is how many files and connections the process may have open. Go raises it to the hard limit at start.
func descriptorLimit() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 1024
	}
	return int(min(uint64(l.Cur), 1<<20))
}
