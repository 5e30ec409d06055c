//go:build unix

package test

// Tests of what edge holds as a process, and what it survives.

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"edge/internal/edgetest"
)

// TestSmoke: one event goes through. TEST_BINARY says which program to try, as .ci/run does with those for other
// machines.
func TestSmoke(t *testing.T) {
	const channel, data = "private-smoke", "{\"text\":\"\\\"quoted\\\" \\\\ / grüße 🚀 \u2028\",\"n\":1.50}"
	p := edgetest.Start(t)
	if status, answer := edgetest.Get(t, "http://"+p.Addr+"/health"); status != 200 || answer != "ok\n" {
		t.Errorf("GET /health: %d %q", status, answer)
	}
	c := edgetest.Connect(t, p.Addr)
	c.Join(channel)
	edgetest.Publish(t, p.Addr, channel, "smoke-event", data)
	c.Expect(edgetest.Event("smoke-event", channel, data))
	go p.Stop() // waited for below
	c.ExpectClose(edgetest.CloseReconnect)
	p.Stop()
}

// connectTLS is edgetest.Connect over TLS.
func connectTLS(t testing.TB, addr string, trust *tls.Config) *edgetest.Client {
	t.Helper()
	return edgetest.ConnectOn(t, tls.Client(edgetest.Dial(t, addr), trust))
}

// TestMemory: what an idle connection holds, without TLS and with it, and that it is given back.
func TestMemory(t *testing.T) {
	edgetest.NeedsLinux(t)
	dir, trust := edgetest.CertDir(t)
	for _, test := range []struct {
		args    []string
		n, most int // connections, bytes for each
		connect func(addr string) *edgetest.Client
	}{
		{nil, 5000, 5000, func(addr string) *edgetest.Client { return edgetest.Connect(t, addr) }},
		{edgetest.TLSArgs(dir), 1000, 26_000, func(addr string) *edgetest.Client { return connectTLS(t, addr, trust) }},
	} {
		edgetest.Descriptors(t, test.n+1000)
		p := edgetest.StartPlain(t, test.args...)
		start := p.Resident()
		clients := make([]*edgetest.Client, test.n)
		for i := range clients {
			clients[i] = test.connect(p.Addr)
			clients[i].Join("room")
		}
		edgetest.WaitUntil(t, fmt.Sprintf("a connection holds %d bytes", test.most), func() bool {
			return p.Resident()-start <= test.n*test.most
		})
		t.Logf("%d KiB at start, %d bytes for each of %d connections", start>>10, (p.Resident()-start)/test.n, test.n)
		for _, c := range clients {
			c.Leave()
		}
		edgetest.WaitUntil(t, "memory is given back", func() bool { return p.Resident() <= 2*start })
	}
}

// TestHandshakesWithoutEnd: a TLS handshake that is begun and not ended is cut off, and others get through meanwhile.
func TestHandshakesWithoutEnd(t *testing.T) {
	t.Parallel() // waits most of the time
	dir, trust := edgetest.CertDir(t)
	p := edgetest.Start(t, edgetest.TLSArgs(dir)...)
	var half []net.Conn
	for range edgetest.Sized(100, 500) {
		conn := edgetest.Dial(t, p.Addr)
		conn.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}) // a ClientHello of 512 bytes, the first few
		half = append(half, conn)
	}
	connectTLS(t, p.Addr, trust).Settled()
	for _, conn := range half {
		if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
			t.Fatal("not cut off")
		}
	}
}

// TestIdle: a server that nobody uses, or any more, does not wake up.
func TestIdle(t *testing.T) {
	edgetest.NeedsLinux(t)
	t.Parallel()                // waits most of the time
	p := edgetest.StartPlain(t) // the race detector wakes up
	c := edgetest.Connect(t, p.Addr)
	c.Join("room")
	edgetest.Publish(t, p.Addr, "room", "e", "{}")
	http.DefaultClient.CloseIdleConnections()
	c.Leave()
	switches := func() int {
		return p.Status("voluntary_ctxt_switches", true) + p.Status("nonvoluntary_ctxt_switches", true)
	}
	const seconds = 10
	edgetest.WaitUntil(t, fmt.Sprintf("it sleeps for %d seconds but for as many moments", seconds), func() bool {
		before := switches()
		time.Sleep(seconds * time.Second) // the time that is measured
		return switches()-before < seconds
	})
}

// TestDescriptors: with all descriptors but the reserve in use, by WebSocket connections and by ones that say nothing
// or go on saying something for ever, publishing works, nothing spins, and soon after they have gone all is as before.
func TestDescriptors(t *testing.T) {
	edgetest.NeedsLinux(t)
	p := edgetest.StartCommand(t, throughShell(edgetest.Command(t, false), `ulimit -n 256 && exec "$0" "$@"`))
	first := edgetest.Connect(t, p.Addr)
	first.Join("room")
	var all []net.Conn
	leave := func() {
		for _, c := range all {
			c.Close()
		}
		all = nil
		edgetest.WaitUntil(t, "others are welcome again", func() bool {
			c, err := edgetest.TryConnect(p.Addr)
			if err == nil {
				c.Leave()
			}
			return err == nil
		})
	}
	for try := 1; ; try++ {
		for i := range 600 {
			c := edgetest.Dial(t, p.Addr)
			all = append(all, c)
			io.WriteString(c, []string{edgetest.Upgrade, "POST /apps/1/events HTTP/1.1\r\nHost", ""}[i%3])
		}
		longest := time.Duration(0)
		for range 3 {
			http.DefaultClient.CloseIdleConnections() // so that it needs a new connection
			began := time.Now()
			edgetest.Publish(t, p.Addr, "room", "hello", "{}")
			longest = max(longest, time.Since(began))
			first.Expect(edgetest.Event("hello", "room", "{}"))
		}
		if longest < 4*time.Second { // after five some of those who hold the descriptors are cut off in any case
			break
		}
		if try == 3 {
			t.Fatalf("publishing takes %s", longest)
		}
		leave() // the machine may have been held up
	}
	before := p.CPU()
	time.Sleep(2 * time.Second) // the time that is measured
	if used := p.CPU() - before; used > 1e6 {
		t.Errorf("%.0f us of processor time in two seconds of doing nothing", used)
	}
	leave()
}

// TestUnreadLines: lines that nobody reads, or that cannot be written, hold up nothing, not even the end.
func TestUnreadLines(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	reader, unread, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer unread.Close()
	for _, out := range []*os.File{full, unread} {
		addr := edgetest.FreeAddr(t)
		cmd := edgetest.Command(t, false, "-addr", addr, "-verbose")
		cmd.Env, cmd.Stdout, cmd.Stderr = edgetest.Environ(), out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Process.Kill()
		up := func() bool {
			c, err := edgetest.TryConnect(addr)
			if err == nil {
				c.Leave()
			}
			return err == nil
		}
		edgetest.WaitUntil(t, "it listens", up)
		c := edgetest.Connect(t, addr)
		for range 600 { // more lines than a pipe holds
			key := strings.Repeat("x", 100)
			edgetest.Handshake(t, edgetest.Dial(t, addr), "/app/"+key, "").Leave()
		}
		c.Join("room")
		edgetest.Publish(t, addr, "room", "hello", "{}")
		c.Expect(edgetest.Event("hello", "room", "{}"))
		cmd.Process.Signal(os.Interrupt)
		c.ExpectClose(edgetest.CloseReconnect)
		if err := cmd.Wait(); err != nil {
			t.Errorf("exit: %v", err)
		}
	}
}

// TestSecretStaysInside makes everything go wrong that has to do with the secret, given in each way that hides it.
// (Main looks for it in whatever all the tests see.)
func TestSecretStaysInside(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(edgetest.Secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, how := range [][]string{nil, {"-secret-file", file}} {
		cmd := edgetest.Command(t, false, append(how, "-verbose", "-webhook", "http://127.0.0.1:1/none")...)
		if how != nil {
			cmd.Env = []string{"EDGE_SECRET="}
		}
		p := edgetest.StartCommand(t, cmd)
		c := edgetest.Connect(t, p.Addr)
		c.Send(`{"event":"pusher:subscribe","data":{"channel":"private-room","auth":"key:%064d"}}`, 1)
		c.Send(`{"event":"pusher:signin","data":{"auth":"key:%064d","user_data":"{\"id\":\"1\"}"}}`, 1)
		said := c.Text() + c.Text() + c.Text()
		for _, path := range []string{"/apps/1/events", "/apps/1/channels", "/apps/1/nothing", "/"} {
			for _, method := range []string{"GET", "POST", "PUT"} {
				target := strings.Replace(edgetest.URL(p.Addr, method, path, "", "{}"), "signature=", "signature=0", 1)
				r, _ := http.NewRequest(method, target, strings.NewReader("{}"))
				_, answer := edgetest.Do(t, r)
				said += answer
			}
		}
		http.DefaultClient.CloseIdleConnections()
		p.Stop()
		if said += p.Output(); strings.Contains(said, edgetest.Secret) || strings.Count(said, "Invalid signature") < 4 {
			t.Errorf("%q: the secret was said, or nothing was refused:\n%s", how, said)
		}
	}
}
