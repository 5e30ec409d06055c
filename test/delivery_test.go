//go:build unix

package test

// Tests of the one promise that all others serve: numbered messages arrive once, in order and without a gap, whatever
// else goes on. TEST_FULL=1 runs them at the size of a release (ten million deliveries).

import (
	"bytes"
	"context"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"edge/internal/edgetest"
)

// delivery is a run of the test: so many numbers for every publisher and channel, while something else goes on until
// its context is done.
type delivery struct {
	addr      string
	readers   int
	of        func(i int) []int // the channels of reader i
	events    int
	connect   func(t testing.TB, addr string) *edgetest.Client
	meanwhile func(ctx context.Context)
}

func (d delivery) run(t *testing.T) {
	nb, began := newNumbers(t, d.addr), time.Now()
	var reading, others, publishing sync.WaitGroup
	late := d.audience(t, nb, &reading)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	others.Go(func() { d.meanwhile(ctx) })
	publishing.Go(func() {
		if err := nb.publish(false, func(k int) bool { return k < d.events*channels }); err != nil {
			t.Error(err)
		}
	})
	edgetest.WaitUntil(t, "a quarter is sent", func() bool {
		return t.Failed() || nb.acked[0][0].Load() >= int64(d.events/4)
	})
	late()
	publishing.Wait()
	nb.end(t)
	reading.Wait()
	took := time.Since(began)
	cancel()
	others.Wait()
	t.Logf("%d deliveries in %s", nb.received.Load(), took.Round(time.Millisecond))
}

// audience connects the readers. One in ten comes only when the publishers are at it, and again and again.
func (d delivery) audience(t *testing.T, nb *numbers, done *sync.WaitGroup) (late func()) {
	limit := time.Duration(edgetest.Sized(3, 30)) * edgetest.Patience
	laggards := make(map[*reader]int)
	for i := range d.readers {
		r := nb.newReader(d.connect(t, d.addr), limit)
		if i%10 == 9 {
			laggards[r] = i
		} else if r.join(d.of(i)...) {
			done.Go(r.follow)
		}
	}
	return func() {
		var joined sync.WaitGroup
		for r, i := range laggards {
			joined.Add(1)
			done.Go(func() {
				for range 25 { // below the server's limit
					r.join(d.of(i)...)
				}
				joined.Done()
				r.follow()
			})
		}
		joined.Wait()
	}
}

// someChannels are five of the channels.
func someChannels(i int) (all []int) {
	for j := range channelsOf {
		all = append(all, (i+11*j)%channels)
	}
	return all
}

// firstChannel is one channel for all.
func firstChannel(int) []int { return []int{0} }

// share is the bytes that a reader gets in all, at most: with so much of a queue it is not cut off however busy the
// machine is, while a reader of all channels that never reads is.
func share(events int) string { return strconv.Itoa(events * publishers * channelsOf * 60) }

func TestDelivery(t *testing.T) {
	// A few deliveries less arrive, where some readers come late.
	start := func(t *testing.T, deliveries, readers int, of func(i int) []int, args ...string) delivery {
		events := edgetest.Sized(deliveries, 10_400_000) / (publishers * readers * len(of(0)))
		p := edgetest.Start(t, append(args, "-send-buffer", share(events))...)
		return delivery{p.Addr, readers, of, events, edgetest.Connect, func(context.Context) {}}
	}
	t.Run("quiet", func(t *testing.T) { start(t, 300_000, subscribers, someChannels).run(t) })
	t.Run("large channel", func(t *testing.T) {
		readers := edgetest.Sized(500, 5000)
		edgetest.Descriptors(t, readers+1000)
		start(t, 200_000, readers, firstChannel).run(t)
	})
	t.Run("over TLS", func(t *testing.T) {
		dir, trust := edgetest.CertDir(t)
		plain := edgetest.FreeAddr(t)
		args := append(edgetest.TLSArgs(dir), "-addr", "tls:127.0.0.1:0", "-addr", plain)
		d := start(t, 100_000, subscribers, someChannels, args...)
		sealed := d.addr
		d.addr, d.connect = plain, func(t testing.TB, _ string) *edgetest.Client {
			return connectTLS(t, sealed, trust)
		}
		d.run(t)
	})
	t.Run("under attack", func(t *testing.T) {
		d := start(t, 200_000, subscribers, someChannels)
		a := &attackers{t: t, addr: d.addr}
		stuck := a.stuckReaders()
		d.meanwhile = a.attack
		d.run(t)
		for _, c := range stuck {
			expectCut(t, c, d.events*publishers*channels)
		}
	})
	t.Run("churn", func(t *testing.T) {
		d := start(t, 200_000, subscribers, someChannels)
		testChurn(t, d.addr, func(churn func(ctx context.Context)) {
			d.meanwhile = churn
			d.run(t)
		})
	})
}

// attackers keep attacking with one connection after the other, each of which the server has to end.
type attackers struct {
	t    *testing.T
	addr string
}

// attacks are what one connection sends, right after the handshake if it is a WebSocket connection: among them are
// packets after which servers have died. code is that of the close frame it must get, 0 for one that is only slowed
// down, or that HTTP ends.
var attacks = []struct {
	name  string
	plain bool // no WebSocket
	code  int
	sent  []byte
}{
	{"headers without end", true, 0, []byte("GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-Header: x\r\n", 10_000))},
	{"fragments", false, edgetest.ClosePolicy, append(edgetest.Masked(edgetest.OpText, []byte("{")),
		bytes.Repeat(edgetest.Masked(edgetest.OpContinuation, nil), 1000)...)},
	{"pings", false, edgetest.ClosePolicy, bytes.Repeat(edgetest.Masked(0x80|edgetest.OpPing, []byte("ping")), 1000)},
	{"subscriptions", false, 0, bytes.Repeat(append(edgetest.SubscribeMessage("numbers-1", "", ""),
		edgetest.Text(`{"event":"pusher:unsubscribe","data":{"channel":"numbers-1"}}`)...), 10_000)},
	{"2^63 bytes", false, edgetest.CloseProtocol, edgetest.Header(0x80|edgetest.OpText, true, 64, 1<<63)},
	{"2^64-1 bytes", false, edgetest.CloseProtocol, edgetest.Header(0x80|edgetest.OpBinary, true, 64, 1<<64-1)},
	{"2^32+5 bytes", false, edgetest.CloseTooBig, edgetest.Header(0x80|edgetest.OpText, true, 64, 1<<32+5)},
	{"2^31 bytes", false, edgetest.CloseTooBig, edgetest.Header(edgetest.OpText, true, 64, 1<<31)},
	{"a fragment of 2^62 bytes", false, edgetest.CloseTooBig, append(edgetest.Masked(edgetest.OpText, []byte("{")),
		edgetest.Header(edgetest.OpContinuation, true, 64, 1<<62)...)},
	{"a ping of 2^63 bytes", false, edgetest.CloseProtocol, edgetest.Header(0x80|edgetest.OpPing, true, 64, 1<<63)},
	{"no mask", false, edgetest.CloseProtocol, edgetest.Header(0x80|edgetest.OpText, false, 64, 1<<63)},
	{"brackets", false, edgetest.CloseOverCapacity, again("%s", strings.Repeat("[", 30_000))},
	{"brackets and NUL", false, edgetest.CloseOverCapacity, again("%s%s", strings.Repeat("[", 298), make([]byte, 10_000))},
	{"objects", false, edgetest.CloseOverCapacity, again("%s", strings.Repeat(`{"a":`, 6000))},
	{"values", false, edgetest.CloseOverCapacity, again(`{"event":"x","data":[%s0]}`, strings.Repeat("0,", 15_000))},
}

// again is one message more often than nonsense may come.
func again(format string, args ...any) []byte {
	return bytes.Repeat(edgetest.Text(format, args...), 21)
}

// attack runs all attacks until ctx is done; every kind has been ended by the server then.
func (a *attackers) attack(ctx context.Context) {
	var wg sync.WaitGroup
	for kind := range attacks {
		wg.Go(func() {
			n := 0
			for ; n == 0 || ctx.Err() == nil; n++ {
				a.once(ctx, kind)
				time.Sleep(5 * time.Millisecond) // it is to disturb, not to use up the machine's ports
			}
			a.t.Logf("%s: %d connections ended", attacks[kind].name, n)
		})
	}
	wg.Wait()
}

// once attacks with one connection and waits for its end.
func (a *attackers) once(ctx context.Context, kind int) {
	attack := attacks[kind]
	conn, err := net.Dial("tcp", a.addr)
	if err != nil {
		a.t.Errorf("%s: %v", attack.name, err)
		return
	}
	conn.(*net.TCPConn).SetLinger(0)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(edgetest.Patience))
	if attack.name == "subscriptions" { // which is only slowed down
		conn.SetDeadline(time.Time{})
		defer context.AfterFunc(ctx, func() { conn.Close() })()
	}
	if !attack.plain {
		io.WriteString(conn, edgetest.Upgrade)
	}
	go conn.Write(attack.sent) // ends with the connection
	got, err := io.ReadAll(io.LimitReader(conn, 64<<20))
	if isTimeout(err) {
		a.t.Errorf("%s: the connection was not ended", attack.name)
	}
	if attack.code != 0 && !closedWith(got, attack.code) {
		a.t.Errorf("%s: ended without a close frame of %d: %.200q", attack.name, attack.code, got)
	}
}

// closedWith reports whether there is a close frame with this code in what a server has sent.
func closedWith(got []byte, code int) bool {
	at := bytes.LastIndexByte(got, 0x80|edgetest.OpClose)
	return at >= 0 && len(got) >= at+4 && edgetest.CloseCode(got[at+2:]) == code
}

// stuckReaders join every channel and never read again.
func (a *attackers) stuckReaders() (stuck []*edgetest.Client) {
	for range 4 {
		c := edgetest.Connect(a.t, a.addr)
		c.Conn.SetDeadline(time.Time{})
		c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		for i := range channels {
			c.Join(channelName(i))
		}
		stuck = append(stuck, c)
	}
	return stuck
}

// expectCut reads what a stuck reader was sent before it was cut off, which is not all.
func expectCut(t *testing.T, c *edgetest.Client, all int) {
	c.Conn.SetDeadline(time.Now().Add(edgetest.Patience))
	for n := range all {
		if _, _, err := c.ReadFrame(); isTimeout(err) {
			t.Fatalf("a reader that never reads was not cut off, after %d frames", n)
		} else if err != nil {
			return
		}
	}
	t.Errorf("a reader that never reads got all of %d frames", all)
}
