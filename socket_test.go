package main

import "testing"

func TestFirstLight(t *testing.T) {
	addr := startEdge(t)
	c := connect(t, addr)
	c.settled()
	c.join("a")
	publish(t, addr, "a", "hello", `{"x":1}`)
	c.expect(event("hello", "a", `{"x":1}`))
	c.settled()
}
