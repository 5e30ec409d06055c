//go:build !linux

package conn

// Without epoll every connection has a goroutine.

import (
	"errors"
	"net"
)

type Poller struct{}

func NewPoller() (*Poller, error) { return nil, nil }

func (p *Poller) Close() {}

func (c *Conn) take(net.Conn, *Poller) bool { return false }

var errNotPolled = errors.New("not reached: nothing is polled")

func (c *Conn) watch()                         {}
func (c *Conn) tryWrite(p []byte) (int, error) { return 0, errNotPolled }
func (c *Conn) hangUp(reset bool)              {}
func (c *Conn) shutdownWrite()                 {}
func (c *Conn) closeDescriptor()               {}

func DescriptorLimit() int { return 10_000 }
