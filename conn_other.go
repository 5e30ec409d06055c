//go:build !unix

package main

// canTryWrite: without file descriptors everything goes through the queue and its goroutine.
const canTryWrite = false

func (c *conn) tryRead(uintptr) bool  { panic("not reached: canTryWrite is false") }
func (c *conn) tryWrite(uintptr) bool { panic("not reached: canTryWrite is false") }

func descriptorLimit() int { return 10_000 }
