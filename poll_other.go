//go:build !linux

package main

// Without epoll every connection has a goroutine.

import (
	"errors"
	"net"
)

type poller struct{}

func newPoller() (*poller, error) { return nil, nil }

func (p *poller) close() {}

func (c *conn) take(net.Conn, *poller) bool { return false }

var errNotPolled = errors.New("not reached: nothing is polled")

func (c *conn) watch()                         {}
func (c *conn) tryWrite(p []byte) (int, error) { return 0, errNotPolled }
func (c *conn) hangUp(reset bool)              {}
func (c *conn) shutdownWrite()                 {}
func (c *conn) closeDescriptor()               {}

func descriptorLimit() int { return 10_000 }
