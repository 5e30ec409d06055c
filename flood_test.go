package main

// Floods: far more of something than is good. Each alone must leave others unharmed and nothing behind; all together must fit into
// 128 MiB. EDGE_FULL=1 runs them at the size of a release.

import (
	"bytes"
	"context"
	"edge/internal/edgetest"
	"edge/internal/wire"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestConnectionFlood: of three times as many connections as are allowed exactly those are let in, and when they have gone as many
// others are.
func TestConnectionFlood(t *testing.T) {
	limit := sized(200, 2000)
	s := startServer(t, "-max-connections", strconv.Itoa(limit))
	for range 2 {
		var in, out atomic.Int64
		var clients sync.Map
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for range 3 * limit / 10 {
					c := handshake(t, s.addr, "/app/key?protocol=7", "")
					switch answer := c.text(); {
					case strings.Contains(answer, "connection_established"):
						in.Add(1)
						clients.Store(c, nil)
					case strings.Contains(answer, `"code":4004`):
						out.Add(1)
						c.leave()
					default:
						t.Errorf("answered with %s", answer)
					}
				}
			})
		}
		wg.Wait()
		if in.Load() != int64(limit) || out.Load() != int64(2*limit) {
			t.Errorf("%d let in, %d refused, want %d and %d", in.Load(), out.Load(), limit, 2*limit)
		}
		clients.Range(func(c, _ any) bool {
			c.(*client).leave()
			return true
		})
		waitUntil(t, "all have gone", s.app.empty)
	}
}

// TestSubscribeFlood: distinct names without end make no more channels than connections may have, and leave nothing behind.
func TestSubscribeFlood(t *testing.T) {
	conns, names := sized(20, 100), sized(400, 10_000)
	s := startServer(t)
	flood := func() {
		var wg sync.WaitGroup
		for i := range conns {
			c := connect(t, s.addr)
			c.conn.SetDeadline(time.Now().Add(patience + 5*time.Duration(names/wire.SubscribeRate)*time.Second))
			wg.Go(func() {
				defer c.leave()
				go func() { // ends when all are sent
					for n := range names {
						c.conn.Write(maskedFrame(0x80|opText, fmt.Appendf(nil, `{"event":"pusher:subscribe","data":{"channel":"%d-%d"}}`, i, n)))
					}
				}()
				for n, refused := 0, 0; n < names; n++ {
					switch answer := c.text(); {
					case strings.Contains(answer, "subscription_succeeded"):
					case strings.Contains(answer, "subscription_error"):
						refused++
						c.text() // pusher:error
					default:
						t.Errorf("answered with %s", answer)
						return
					}
					if n == names-1 && refused != max(0, names-wire.MaxChannelsPerConnection) {
						t.Errorf("%d of %d were refused", refused, names)
					}
				}
			})
		}
		wg.Wait()
		waitUntil(t, "all have gone", s.app.empty)
	}
	flood() // fills what is kept for later use
	before := liveHeap()
	flood()
	waitUntil(t, "as little is held as before", func() bool { return liveHeap() <= before+before/20+100_000 })
}

// TestPresenceFlood: a thousand users want to join one channel. A hundred do, the others are told, and all see the same hundred.
func TestPresenceFlood(t *testing.T) {
	if limit := descriptorLimit(); limit < 2100 {
		t.Skipf("%d descriptors are too few", limit)
	}
	s := startServer(t)
	var wg sync.WaitGroup
	var in, out atomic.Int64
	clients := make([]*client, 1000)
	for i := range clients {
		clients[i] = connect(t, s.addr)
	}
	for i, c := range clients {
		wg.Go(func() {
			c.subscribe("presence-x", fmt.Sprintf(`{"user_id":"%d","user_info":%s}`, i, quote(strings.Repeat("i", 1000))))
			switch answer := c.text(); {
			case strings.Contains(answer, "subscription_succeeded"):
				in.Add(1)
			case strings.Contains(answer, `"type":"LimitReached"`):
				out.Add(1)
			default:
				t.Errorf("answered with %.200s", answer)
			}
		})
	}
	wg.Wait()
	if in.Load() != 100 || out.Load() != 900 {
		t.Errorf("%d are in, %d refused", in.Load(), out.Load())
	}
	if info := s.app.channelInfo("presence-x"); info.users != 100 || info.subscriptions != 100 {
		t.Errorf("the channel has %+v", info)
	}
}

// Name flood: see TestChannelNames, FuzzChannelName. Client events: see TestClientEventRate.

// TestMemoryOfSlowReaders: half of the readers of a channel never read. They are cut off, which costs a bounded amount of memory; the others
// lose nothing.
func TestMemoryOfSlowReaders(t *testing.T) {
	if edgetest.Race || runtime.GOOS != "linux" {
		t.Skip("needs Linux, and no race detector")
	}
	readers := sized(200, 2000)
	p := startProcess(t, "edge")
	nb := newNumbering(t, p.addr)
	var reading sync.WaitGroup
	var stuck []*client
	limit := time.Duration(sized(3, 10)) * patience
	for i := range readers {
		c := connect(t, p.addr)
		c.conn.SetDeadline(time.Now().Add(limit))
		if i%2 == 0 {
			c.conn.(*net.TCPConn).SetReadBuffer(4 << 10)
			c.join(channelName(0))
			stuck = append(stuck, c)
			continue
		}
		r := newReader(nb, c)
		r.join(0)
		if r.read(func() bool { return r.over(false) }) {
			reading.Go(r.follow)
		}
	}
	before, most := p.resident(), 0
	began, slowest := time.Now(), time.Duration(0)
	pace := time.NewTicker(2 * time.Millisecond)
	defer pace.Stop()
	cut := func() bool { return p.open() < readers/2+100 }
	n := 0
	for ; !cut() && time.Since(began) < limit/2; n++ {
		<-pace.C
		at := time.Now()
		nb.begun[0][0].Store(int64(n + 1))
		publish(t, p.addr, channelName(0), "n", fmt.Sprintf("0 %0198d", n))
		nb.acked[0][0].Store(int64(n + 1))
		slowest, most = max(slowest, time.Since(at)), max(most, p.resident())
	}
	if !cut() {
		t.Errorf("after %s some of the %d that never read are still there", time.Since(began), readers/2)
	}
	t.Logf("%d of %d readers never read: gone after %s and %d events; the slowest call took %s, memory grew by %d KiB",
		readers/2, readers, time.Since(began).Round(time.Millisecond), n, slowest.Round(time.Microsecond), (most-before)>>10)
	if most-before > 64<<20 {
		t.Errorf("memory grew by %d bytes", most-before)
	}
	publish(t, p.addr, channelName(0), "end", "")
	reading.Wait()
	for _, c := range stuck {
		c.leave()
	}
}

// open is how many descriptors the process has.
func (p *process) open() int {
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	return len(files)
}

// memoryGroup makes a control group with so much memory, and returns its directory, or "" where that is not allowed.
func memoryGroup(t *testing.T, bytes int) (dir string) {
	t.Helper()
	name := fmt.Sprintf("edge-test-%d", os.Getpid())
	for _, g := range []struct{ root, file string }{{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"/sys/fs/cgroup", "memory.max"}} {
		dir = filepath.Join(g.root, name)
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			waitUntil(t, "the group is gone", func() bool { return os.Remove(dir) == nil || !exists(dir) })
		})
		if os.WriteFile(filepath.Join(dir, g.file), []byte(strconv.Itoa(bytes)), 0) == nil {
			return dir
		}
		os.Remove(dir)
	}
	return ""
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// groupNumber reads a number of a control group, by its name in version 1 or in version 2; -1 if it has none.
func groupNumber(dir string, names ...string) int {
	for _, name := range names {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
			return n
		}
	}
	return -1
}

// TestMemoryUnderFloods runs all floods at once against an edge that may use 128 MiB: it stays within them, answers a healthy client, and
// whoever keeps up loses nothing. Where no control group can be made, edge is told its budget and its peak is measured.
func TestMemoryUnderFloods(t *testing.T) {
	if edgetest.Race || runtime.GOOS != "linux" {
		t.Skip("needs Linux, and no race detector")
	}
	const allowed = 128 << 20
	args := []string{"-addr", "127.0.0.1:0", "-key", "key", "-activity-timeout", "1h", "-max-connections", strconv.Itoa(sized(2000, 6000))}
	group := memoryGroup(t, allowed)
	cmd := exec.Command(os.Args[0], append(args, "-memory", strconv.Itoa(allowed/100*85))...)
	if group != "" {
		cmd = exec.Command("sh", append([]string{"-c", `echo $$ >` + group + `/cgroup.procs && exec "$0" "$@"`, os.Args[0]}, args...)...)
	}
	p := start(t, "edge", cmd)
	nb, limit := newNumbering(t, p.addr), time.Duration(sized(5, 600))*time.Second
	var reading sync.WaitGroup
	for i := range deliverySubscribers { // before the floods: nobody new may be let in afterwards
		r := newReader(nb, connect(t, p.addr))
		r.conn.SetDeadline(time.Now().Add(limit + patience))
		r.enroll(i)
		r.read(func() bool { return r.over(false) })
		reading.Go(r.follow)
	}
	healthy := startProcess(t, "pinger", p.addr)
	flooding := startProcess(t, "flooder", p.addr, strconv.Itoa(sized(3, 30)))
	before := p.cpu()
	over := time.Now().Add(limit)
	nb.publishWhile(t, func() bool { return time.Now().Before(over) && !t.Failed() })
	nb.end(t)
	reading.Wait()
	flooding.cmd.Process.Signal(os.Interrupt)
	counts, err := io.ReadAll(flooding.out)
	if flooding.cmd.Wait(); err != nil || len(counts) == 0 {
		t.Errorf("the flooder has counted nothing: %v", err)
	}
	waitUntil(t, "edge has recovered", func() bool {
		status, _ := apiCall(t, p.addr, "POST", "/apps/1/events", "", `{"name":"e","channel":"cache-x","data":"x"}`)
		return status == 200
	})
	connect(t, p.addr).settled()
	var pings int
	var slowest time.Duration
	healthy.cmd.Process.Signal(os.Interrupt)
	if _, err := fmt.Fscan(healthy.out, &pings, &slowest); err != nil || pings == 0 {
		t.Errorf("the healthy client: %d pings, %v", pings, err)
	}
	peak, in := p.status("VmHWM", false)<<10, "resident"
	if group != "" {
		peak, in = groupNumber(group, "memory.max_usage_in_bytes", "memory.peak"), "in its control group"
	}
	t.Logf("peak: %d KiB %s; healthy pings: %d, the slowest took %s", peak>>10, in, pings, slowest.Round(time.Millisecond))
	t.Logf("%d deliveries, %.1f s of processor time", nb.received.Load(), (p.cpu()-before)/1e6)
	t.Logf("what there was:\n%s", counts)
	if peak > allowed {
		t.Errorf("edge used %d bytes", peak)
	}
	if full() && slowest > time.Second {
		t.Errorf("a healthy ping was answered after %s", slowest)
	}
}

// publishWhile has every publisher send 200 events a second.
func (nb *numbering) publishWhile(t *testing.T, more func() bool) {
	var wg sync.WaitGroup
	for p := range deliveryPublishers {
		wg.Go(func() {
			pace := time.NewTicker(time.Second * wire.MaxBatch / 200)
			defer pace.Stop()
			for k := 0; more(); k += wire.MaxBatch {
				if err := nb.send(p, k); err != nil {
					t.Errorf("publisher %d: %v", p, err)
				}
				<-pace.C
			}
		})
	}
	wg.Wait()
}

// floods are all kinds of them.
type floods struct {
	addr string
	done sync.Map // kind → *atomic.Int64: how much there was of it
}

func (f *floods) count(kind string) {
	n, _ := f.done.LoadOrStore(kind, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
}

// floodTime is how long a connection is misused.
var floodTime = time.Duration(sized(1, 10)) * time.Second

// flooder is a process that floods a server, ten times as many connections at once of each kind as it is told, until it is
// interrupted. Then it says what there was.
func flooder(args []string) {
	f := &floods{addr: args[0]}
	tens, _ := strconv.Atoi(args[1])
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	fmt.Printf("http://%s/\n", args[0]) // ready
	f.run(ctx, tens)
	f.done.Range(func(kind, n any) bool {
		fmt.Printf("%s: %d\n", kind, n.(*atomic.Int64).Load())
		return true
	})
}

// run floods until ctx is done.
func (f *floods) run(ctx context.Context, tens int) {
	var wg sync.WaitGroup
	for range tens {
		wg.Go(func() { f.each(ctx, f.subscribe) })
		wg.Go(func() { f.each(ctx, f.present) })
		wg.Go(func() { f.each(ctx, f.neverRead) })
		wg.Go(func() { f.each(ctx, f.halfMessages) })
		wg.Go(func() { f.each(ctx, f.connect) })
	}
	for _, attack := range attacks {
		if sent := attack.bytes(); !attack.plain {
			wg.Go(func() {
				f.each(ctx, func(ctx context.Context, c *client) {
					f.sendAll(ctx, c, attack.name, func(int) []byte { return sent }, 1)
				})
			})
		}
	}
	for range 5 {
		wg.Go(func() { f.each(ctx, f.clientEvents) })
		wg.Go(func() { f.publish(ctx) })
		wg.Go(func() { f.keepRequests(ctx) })
	}
	wg.Wait()
}

// each has ten connections at a time misused by flood, and then closed. They are refused at times, which is as it should be.
func (f *floods) each(ctx context.Context, flood func(ctx context.Context, c *client)) {
	for ctx.Err() == nil {
		var wg sync.WaitGroup
		for range 10 {
			if c := f.dial(ctx); c != nil {
				wg.Go(func() {
					defer c.conn.Close()
					flood(ctx, c)
				})
			}
		}
		wg.Wait()
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond): // not to use up the machine's ports
		}
	}
}

// dial opens a WebSocket connection, if it is let in.
func (f *floods) dial(ctx context.Context) *client {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", f.addr)
	if err != nil {
		f.count("connections failed")
		return nil
	}
	conn.(*net.TCPConn).SetLinger(0)
	conn.SetDeadline(time.Now().Add(patience))
	c, answer := &client{conn: conn}, make([]byte, 1000)
	io.WriteString(conn, httpUpgrade)
	for n := 0; n < len(answer); {
		m, err := conn.Read(answer[n:])
		if n += m; err != nil {
			break
		}
		if _, rest, ok := bytes.Cut(answer[:n], []byte(`socket_id\":\"`)); ok && bytes.Contains(rest, []byte("}")) {
			id, _, _ := bytes.Cut(rest, []byte(`\`))
			c.id = string(id)
			f.count("connections")
			return c
		}
	}
	f.count("connections refused")
	conn.Close()
	return nil
}

// hold keeps the connection for a moment, and reads what comes if asked to.
func (f *floods) hold(ctx context.Context, c *client, read bool) {
	c.conn.SetDeadline(time.Now().Add(floodTime))
	defer context.AfterFunc(ctx, func() { c.conn.Close() })()
	if read {
		io.Copy(io.Discard, c.conn)
	} else {
		<-time.After(floodTime)
	}
}

// sendAll sends frames as fast as the server takes them.
func (f *floods) sendAll(ctx context.Context, c *client, kind string, frames func(i int) []byte, n int) {
	defer context.AfterFunc(ctx, func() { c.conn.Close() })()
	go io.Copy(io.Discard, c.conn) // ends with the connection
	end := time.Now().Add(floodTime)
	c.conn.SetDeadline(end)
	for i := range n {
		if _, err := c.conn.Write(frames(i)); err != nil {
			return
		}
		f.count(kind)
	}
	<-time.After(time.Until(end))
}

var floodNumber atomic.Int64

func (f *floods) subscribe(ctx context.Context, c *client) {
	f.sendAll(ctx, c, "names subscribed to", func(int) []byte {
		return maskedFrame(0x80|opText, fmt.Appendf(nil, `{"event":"pusher:subscribe","data":{"channel":"%0150d"}}`, floodNumber.Add(1)))
	}, 1000)
}

func (f *floods) present(ctx context.Context, c *client) {
	f.sendAll(ctx, c, "members", func(i int) []byte {
		channel, data := fmt.Sprintf("presence-%d", i), fmt.Sprintf(`{"user_id":"%d","user_info":%s}`, floodNumber.Add(1), quote(strings.Repeat("i", 1000)))
		b, _ := json.Marshal(map[string]string{"channel": channel, "auth": c.token(channel, data), "channel_data": data})
		return maskedFrame(0x80|opText, fmt.Appendf(nil, `{"event":"pusher:subscribe","data":%s}`, b))
	}, 300)
}

func (f *floods) clientEvents(ctx context.Context, c *client) {
	b, _ := json.Marshal(map[string]string{"channel": "private-flood", "auth": c.token("private-flood", "")})
	c.conn.Write(maskedFrame(0x80|opText, fmt.Appendf(nil, `{"event":"pusher:subscribe","data":%s}`, b)))
	data := strings.Repeat("x", 10_000)
	f.sendAll(ctx, c, "client events", func(int) []byte {
		return maskedFrame(0x80|opText, fmt.Appendf(nil, `{"event":"client-x","channel":"private-flood","data":%q}`, data))
	}, 1000)
}

// neverRead subscribes to what is published most, and to the numbers, and reads nothing.
func (f *floods) neverRead(ctx context.Context, c *client) {
	c.conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	for _, channel := range []string{"storm", channelName(0), channelName(1)} {
		c.conn.Write(maskedFrame(0x80|opText, fmt.Appendf(nil, `{"event":"pusher:subscribe","data":{"channel":"%s"}}`, channel)))
	}
	f.count("readers that never read")
	f.hold(ctx, c, false)
}

// halfMessages begins a message and never ends it.
func (f *floods) halfMessages(ctx context.Context, c *client) {
	c.conn.Write(maskedFrame(0x80|opText, bytes.Repeat([]byte("x"), 32_700))[:32_000])
	f.count("messages without an end")
	f.hold(ctx, c, true)
}

func (f *floods) connect(ctx context.Context, c *client) { f.hold(ctx, c, true) }

// publish posts large events one after the other, also to channels that keep them.
func (f *floods) publish(ctx context.Context) {
	h := &http.Client{Timeout: patience, Transport: &http.Transport{}}
	defer h.CloseIdleConnections()
	data := strings.Repeat("x", 10_000)
	for i := 0; ctx.Err() == nil; i++ {
		channel := "storm"
		if i%10 == 9 {
			channel = fmt.Sprintf("cache-%d", floodNumber.Add(1))
		}
		body := fmt.Sprintf(`{"name":"e","channel":%q,"data":%q}`, channel, data)
		r, err := h.Post(signedURL(f.addr, "POST", "/apps/1/events", "", body), "application/json", strings.NewReader(body))
		if err != nil {
			f.count("events not answered")
			continue
		}
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
		f.count(fmt.Sprintf("events with status %d", r.StatusCode))
	}
}

// keepRequests opens HTTP connections that send half a request.
func (f *floods) keepRequests(ctx context.Context) {
	for ctx.Err() == nil {
		var all []net.Conn
		for range 100 {
			if c, err := net.Dial("tcp", f.addr); err == nil {
				c.(*net.TCPConn).SetLinger(0)
				io.WriteString(c, "POST /apps/1/events HTTP/1.1\r\nHost: edge\r\n")
				all = append(all, c)
				f.count("requests without an end")
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
		for _, c := range all {
			c.Close()
		}
	}
}

// pinger is a process that is a healthy client and wants to know whether the server is there, until it is interrupted. Then it
// says how many of its pings were answered, and after how many nanoseconds at most.
func pinger(args []string) {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	c, err := tryJoin(args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, "pinger:", err)
		return
	}
	fmt.Printf("http://%s/\n", args[0]) // ready
	pings, slowest := 0, time.Duration(0)
	for pause := time.NewTicker(50 * time.Millisecond); ; {
		select {
		case <-interrupted:
			fmt.Println(pings, int64(slowest))
			return
		case <-pause.C:
		}
		began := time.Now()
		c.conn.SetDeadline(began.Add(patience))
		c.conn.Write(maskedFrame(0x80|opText, []byte(`{"event":"pusher:ping","data":{}}`)))
		if _, frame, err := c.readFrame(); err != nil || string(frame) != pong {
			fmt.Fprintf(os.Stderr, "pinger: %q %v\n", frame, err)
			return
		}
		pings, slowest = pings+1, max(slowest, time.Since(began))
	}
}
