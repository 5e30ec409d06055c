package main

// Tests of TLS: the connections and the certificate.

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/wire"
)

// secureConnect is connect over TLS.
func secureConnect(t testing.TB, addr string, trust *tls.Config) *peer {
	t.Helper()
	conn := tls.Client(dial(t, addr), trust)
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, httpUpgrade)
	c := &peer{t: t, conn: conn, in: bufio.NewReader(conn)}
	if r, err := http.ReadResponse(c.in, nil); err != nil || r.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v %v", r, err)
	}
	c.established()
	return c
}

// TestTLS: everything works over TLS as it does without.
func TestTLS(t *testing.T) {
	dir, trust := edgetest.CertDir(t)
	s := startServer(t, edgetest.TLSArgs(dir)...)
	c, other := secureConnect(t, s.addr, trust), secureConnect(t, s.addr, trust)
	c.enter("presence-x", `{"user_id":"1"}`)
	other.enter("presence-x", `{"user_id":"2"}`)
	c.expect(memberAdded("presence-x", "2", "{}"))
	other.send(`{"event":"client-e","channel":"presence-x","data":%q}`, strings.Repeat("x", 10_000)) // more than one read
	if got := c.text(); !strings.Contains(got, `"event":"client-e"`) || len(got) < 10_000 {
		t.Errorf("%.200s", got)
	}
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: trust}}
	defer h.CloseIdleConnections()
	body := `{"name":"e","channel":"presence-x","data":"x"}`
	url := strings.Replace(signedURL(s.addr, "POST", "/apps/1/events", "", body), "http:", "https:", 1)
	r, err := h.Post(url, "", strings.NewReader(body))
	if err != nil || r.StatusCode != 200 || r.ProtoMajor != 1 {
		t.Fatal(r, err)
	}
	r.Body.Close()
	c.expect(event("e", "presence-x", "x"))
	other.expect(event("e", "presence-x", "x"))
	// A message in as many records as it has bytes, and several in one.
	frame := maskedFrame(0x80|conn.OpText, []byte(`{"event":"pusher:ping","data":{}}`))
	for i := range frame {
		c.raw(frame[i : i+1])
	}
	c.expect(pong)
	c.raw(bytes.Repeat(frame, 20))
	for range 20 {
		c.expect(pong)
	}
	// The ends: ours with a close frame, then close_notify; theirs in every way.
	s.app.Terminate("nobody")
	c.raw(maskedFrame(0x80|conn.OpClose, []byte{3, 232}))
	c.expectClose(1000)
	other.expect(memberRemoved("presence-x", "1"))
	third := secureConnect(t, s.addr, trust)
	third.enter("presence-x", `{"user_id":"3"}`)
	other.expect(memberAdded("presence-x", "3", "{}"))
	third.conn.(*tls.Conn).CloseWrite() // close_notify
	other.expect(memberRemoved("presence-x", "3"))
	fourth := secureConnect(t, s.addr, trust)
	fourth.enter("presence-x", `{"user_id":"4"}`)
	other.expect(memberAdded("presence-x", "4", "{}"))
	fourth.conn.(*tls.Conn).NetConn().(*net.TCPConn).Write([]byte("no record of TLS at all"))
	other.expect(memberRemoved("presence-x", "4"))
	s.stop()
	other.expectClose(wire.CodeReconnect)
}

// TestTLSEarlyFrames: what comes in the same record as the handshake of WebSocket, or right behind, is not lost.
func TestTLSEarlyFrames(t *testing.T) {
	dir, trust := edgetest.CertDir(t)
	s := startServer(t, edgetest.TLSArgs(dir)...)
	join := maskedFrame(0x80|conn.OpText, []byte(`{"event":"pusher:subscribe","data":{"channel":"x"}}`))
	ping := maskedFrame(0x80|conn.OpText, []byte(`{"event":"pusher:ping","data":{}}`))
	for i := range 50 {
		conn := tls.Client(dial(t, s.addr), trust)
		if i%2 == 0 {
			conn.Write(append([]byte(httpUpgrade), append(join, ping...)...))
		} else {
			conn.Write([]byte(httpUpgrade))
			conn.Write(append(join, ping[:3]...))
			conn.Write(ping[3:])
		}
		c := &peer{t: t, conn: conn, in: bufio.NewReader(conn)}
		http.ReadResponse(c.in, nil)
		c.established()
		c.expect(succeeded("x"), pong)
		c.leave()
	}
}

// TestTLSVersions: TLS 1.2 is the least.
func TestTLSVersions(t *testing.T) {
	dir, trust := edgetest.CertDir(t)
	s := startServer(t, edgetest.TLSArgs(dir)...)
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13} {
		with := trust.Clone()
		with.MinVersion, with.MaxVersion = version, version
		conn := tls.Client(dial(t, s.addr), with)
		if err := conn.Handshake(); (err == nil) != (version >= tls.VersionTLS12) {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if version >= tls.VersionTLS12 {
			secureConnect(t, s.addr, with).settled()
		}
	}
}

// TestPlainOnTLS: who speaks HTTP or WebSocket without TLS is told so, in plain text.
func TestPlainOnTLS(t *testing.T) {
	dir, _ := edgetest.CertDir(t)
	s := startServer(t, edgetest.TLSArgs(dir)...)
	for _, request := range []string{"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", httpUpgrade, "POST /apps/1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"} {
		conn := dial(t, s.addr)
		io.WriteString(conn, request)
		r, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(r.Body)
		if r.StatusCode != 400 || !strings.Contains(string(text), "wss://") || !strings.Contains(string(text), "https://") {
			t.Errorf("%d %q", r.StatusCode, text)
		}
		conn.Close()
	}
	garbage := dial(t, s.addr)
	io.WriteString(garbage, "\x00\x01\x02")
	garbage.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, garbage)
}

// TestTLSSlowReader: one that does not read is cut off over TLS too, and holds up nobody.
func TestTLSSlowReader(t *testing.T) {
	dir, trust := edgetest.CertDir(t)
	s := startServer(t, append(edgetest.TLSArgs(dir), "-send-buffer", "65536")...)
	slow, healthy := secureConnect(t, s.addr, trust), secureConnect(t, s.addr, trust)
	slow.join("room")
	healthy.join("room")
	data := strings.Repeat("x", 10_000)
	there := true
	for n := 0; s.app.Conns.Cuts[conn.CutFull].Load() == 0; n++ {
		if !there {
			t.Fatal("the slow reader has left, but its queue was not full")
		}
		s.app.Trigger("room", wire.KindPublic, channel.Event{Name: fmt.Append(nil, n), Data: quote(data), Keep: true})
		healthy.expect(event(fmt.Sprint(n), "room", data))
		there = s.app.ChannelInfo("room").Subscriptions == 2
	}
	waitUntil(t, "the slow reader has left", func() bool { return s.app.ChannelInfo("room").Subscriptions == 1 })
	for n := 0; ; n++ { // what it still reads has no gap
		_, frame, err := slow.readFrame()
		if err != nil {
			break
		}
		if want := event(fmt.Sprint(n), "room", data); string(frame) != want {
			t.Fatalf("the slow reader got %.60s as event %d", frame, n)
		}
	}
}

// TestCertificateSwap changes the certificate again and again while clients connect and events come: no connection is dropped, new
// ones see the new one, and one that cannot be read changes nothing.
func TestCertificateSwapUnderLoad(t *testing.T) {
	dir, trust := edgetest.CertDir(t)
	s := startServer(t, edgetest.TLSArgs(dir)...)
	logged := new(syncBuffer)
	slogTo(t, logged)
	stays := secureConnect(t, s.addr, trust)
	stays.join("room")
	serial := func() string {
		conn := tls.Client(dial(t, s.addr), trust)
		defer conn.Close()
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	var over atomic.Bool
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for !over.Load() {
				c := secureConnect(t, s.addr, trust)
				c.settled()
				c.leave()
			}
		})
	}
	seen := map[string]bool{serial(): true}
	for n := range 2 {
		edgetest.CertDirAgain(t, dir)
		now := ""
		waitUntil(t, "another certificate", func() bool { now = serial(); return !seen[now] })
		seen[now] = true
		s.app.Trigger("room", wire.KindPublic, channel.Event{Name: []byte("e"), Data: quote(fmt.Sprint(n)), Keep: true})
		stays.expect(event("e", "room", fmt.Sprint(n)))
	}
	if err := os.WriteFile(filepath.Join(dir, "edge.pem"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "a word on the file", func() bool { serial(); return strings.Contains(logged.String(), "the old one stays") })
	if err := s.reload(testOptions(t, edgetest.TLSArgs(dir)...)); err == nil {
		t.Error("a reload takes a certificate that cannot be read")
	}
	over.Store(true)
	load.Wait()
	stays.settled()
	// Another pair of files, by a reload.
	elsewhere, trustToo := edgetest.CertDir(t)
	if err := s.reload(testOptions(t, edgetest.TLSArgs(elsewhere)...)); err != nil {
		t.Fatal(err)
	}
	secureConnect(t, s.addr, trustToo).settled()
	stays.settled()
}
