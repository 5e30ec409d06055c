//go:build linux

package test

// Measurements of edge on one core, with the load on the other, beside the kernel's floor: a process that does nothing
// but write(2) the same bytes to the same number of connections. They made the table in the README:
//
//	go test -run '^$' -bench Load -benchtime 3s -count 5 -timeout 1h ./test
//
// What counts is the processor time of the server, and its ratio to the floor of the same moment.

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"edge/internal/edgetest"
)

// pin moves a process to some of the processor's cores. Without a second core all share one.
func pin(pid int, cores string) {
	exec.Command("taskset", "-a", "-c", "-p", cores, strconv.Itoa(pid)).Run()
}

// startPinned starts edge on the first core, and moves this process to the others.
func startPinned(b *testing.B, args ...string) *edgetest.Process {
	pin(os.Getpid(), "1-63")
	p := edgetest.StartPlain(b, args...)
	pin(p.Cmd.Process.Pid, "0")
	return p
}

// startPinnedHelper is startPinned for a helper.
func startPinnedHelper(b *testing.B, kind string, args ...string) *edgetest.Process {
	pin(os.Getpid(), "1-63")
	p := startHelper(b, kind, args...)
	pin(p.Cmd.Process.Pid, "0")
	return p
}

// audience is connections that only count what they get.
type audience struct {
	unit    int64 // bytes of one broadcast, to all of them
	bytes   atomic.Int64
	arrived chan struct{} // gets something for each unit
}

// newAudience takes connections over, each of which gets size bytes of every broadcast.
func newAudience(b *testing.B, conns []net.Conn, size int) *audience {
	a := &audience{unit: int64(size) * int64(len(conns)), arrived: make(chan struct{}, 1000)}
	var reading sync.WaitGroup
	b.Cleanup(reading.Wait) // runs after the connections are closed
	for _, c := range conns {
		reading.Go(func() { a.read(c) })
		b.Cleanup(func() { c.Close() })
	}
	b.Cleanup(b.StopTimer) // runs first
	return a
}

func (a *audience) read(c net.Conn) {
	c.SetDeadline(time.Time{})
	for buf := make([]byte, 4096); ; {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		all := a.bytes.Add(int64(n))
		for i := (all - int64(n)) / a.unit; i < all/a.unit; i++ {
			a.arrived <- struct{}{}
		}
	}
}

// frameSize is the size of an event's frame.
func frameSize(channel, data string) int {
	n := len(edgetest.Event("event", channel, data))
	return n + len(edgetest.Masked(0, make([]byte, n))) - n - 4 // a client's header has a mask of 4 bytes
}

// join connects n clients to edge and subscribes them to the channel that name gives.
func join(b *testing.B, connect func() *edgetest.Client, n int, name func(i int) string) []net.Conn {
	conns := make([]net.Conn, n)
	var wg sync.WaitGroup
	for some := range slices.Chunk(conns, n/20+1) {
		wg.Go(func() {
			for i := range some {
				c := connect()
				c.Join(name(n - cap(some) + i))
				some[i] = c.Conn
			}
		})
	}
	wg.Wait()
	return conns
}

// subscribe has n clients of edge join a channel.
func subscribe(b *testing.B, p *edgetest.Process, n int) []net.Conn {
	return join(b, func() *edgetest.Client { return edgetest.Connect(b, p.Addr) }, n, room)
}

func room(int) string { return "room" }

// measureFloor measures what one event costs for each of n connections when each write(2) carries several, in
// microseconds of processor time.
func measureFloor(b *testing.B, n, each, size int) (cost float64) {
	p := startPinnedHelper(b, "floor", strconv.Itoa(n), strconv.Itoa(each*size))
	conns := make([]net.Conn, n+1) // the first asks for broadcasts
	for i := range conns {
		conns[i] = edgetest.Dial(b, p.Addr)
	}
	conns[0].SetDeadline(time.Time{}) // it is for as long as it takes
	a := newAudience(b, conns[1:], each*size)
	rounds, began, before := 0, time.Now(), 0.0
	for ; time.Since(began) < time.Second || rounds < 20; rounds++ {
		if rounds == 10 {
			before, began = p.CPU(), time.Now() // what came before was for warming up
		}
		conns[0].Write([]byte("!"))
		<-a.arrived
	}
	return (p.CPU() - before) / float64((rounds-10)*n*each)
}

// listen is for helpers, which end when they are told to.
func listen() net.Listener {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	go func() { // ends the process
		<-ended
		os.Exit(0)
	}()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("http://%s/\n", l.Addr())
	return l
}

// floor is the process that measureFloor measures.
func floor(args []string) {
	n, _ := strconv.Atoi(args[0])
	size, _ := strconv.Atoi(args[1])
	l := listen()
	control, _ := l.Accept()
	var all []int
	for range n {
		c, _ := l.Accept()
		raw, _ := c.(*net.TCPConn).SyscallConn()
		raw.Control(func(fd uintptr) { all = append(all, int(fd)) })
		defer c.Close() // it must not be collected
	}
	for ask, data := make([]byte, 1), make([]byte, size); ; {
		if _, err := control.Read(ask); err != nil {
			return
		}
		for _, fd := range all {
			syscall.Write(fd, data)
		}
	}
}

// bareHandler is a process that does with net/http alone what has to be done for an event: read a request, write the
// frame to everyone, answer.
func bareHandler(args []string) {
	size, _ := strconv.Atoi(args[0])
	data := make([]byte, size)
	var conns []net.Conn
	http.HandleFunc("/join", func(w http.ResponseWriter, r *http.Request) {
		c, _, _ := http.NewResponseController(w).Hijack()
		conns = append(conns, c)
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
	})
	http.HandleFunc("/apps/1/events", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		for _, c := range conns {
			c.Write(data)
		}
		io.WriteString(w, "{}")
	})
	http.Serve(listen(), nil)
}

// publisher triggers events over HTTP, on connections that are kept.
type publisher struct {
	b      *testing.B
	client http.Client
	addr   string
}

func newPublisher(b *testing.B, p *edgetest.Process) *publisher {
	t := &http.Transport{MaxIdleConnsPerHost: 64}
	b.Cleanup(t.CloseIdleConnections)
	return &publisher{b: b, client: http.Client{Transport: t}, addr: p.Addr}
}

func (p *publisher) post(path, body string) {
	if err := post(&p.client, p.addr, path, body); err != nil {
		p.b.Error(err)
	}
}

// window publishes while more, with so many broadcasts outstanding, and returns how many there were.
func (p *publisher) window(a *audience, size int, body string, more func() bool) (events int) {
	asks := make(chan struct{}, size)
	var posting sync.WaitGroup
	for range min(size, 8) {
		posting.Go(func() {
			for range asks {
				p.post("/apps/1/events", body)
			}
		})
	}
	outstanding := 0
	for ; more(); events++ {
		if outstanding++; outstanding > size {
			<-a.arrived
			outstanding--
		}
		asks <- struct{}{}
	}
	close(asks)
	for ; outstanding > 0; outstanding-- {
		<-a.arrived
	}
	posting.Wait()
	return events
}

// second publishes for a second with four broadcasts outstanding, and returns what one costs, in microseconds, and how
// many there are in a second.
func (p *publisher) second(edge *edgetest.Process, a *audience, body string) (cost, speed float64) {
	before, began := edge.CPU(), time.Now()
	events := float64(p.window(a, 4, body, func() bool { return time.Since(began) < time.Second }))
	return (edge.CPU() - before) / events, events / time.Since(began).Seconds()
}

// loadData is the data of events, and loadEvent is a call that triggers one.
var (
	loadData  = `{"text":"` + fmt.Sprintf("%0170d", 7) + `"}`
	loadEvent = edgetest.EventBody("room", "event", loadData)
)

// BenchmarkLoadFanout publishes to n subscribers of one channel with so many broadcasts outstanding.
func BenchmarkLoadFanout(b *testing.B) {
	size := frameSize("room", loadData)
	for _, test := range []struct{ n, window, floorEach int }{{100, 4, 4}, {1000, 4, 4}, {5000, 4, 4}, {1000, 64, 16}} {
		b.Run(fmt.Sprintf("n=%d/window=%d", test.n, test.window), func(b *testing.B) {
			floorCost := measureFloor(b, test.n, test.floorEach, size)
			p := startPinned(b)
			a := newAudience(b, subscribe(b, p, test.n), size)
			before := p.CPU()
			newPublisher(b, p).window(a, test.window, loadEvent, b.Loop)
			cost := (p.CPU() - before) / float64(b.N*test.n)
			b.ReportMetric(cost, "cpu-us/delivery")
			b.ReportMetric(cost/floorCost, "x-floor")
			b.ReportMetric(float64(b.N*test.n)/b.Elapsed().Seconds(), "deliveries/s")
		})
	}
}

// BenchmarkLoadConsole publishes to 100 subscribers as fast as it goes, in turns with and without a page of the console
// that is told of every event, and reports the medians of the processor time and of the deliveries with it as multiples
// of those without.
func BenchmarkLoadConsole(b *testing.B) {
	p := startPinned(b)
	a, pub := newAudience(b, subscribe(b, p, 100), frameSize("room", loadData)), newPublisher(b, p)
	login := "http://" + p.Addr + "/console/login"
	r, err := http.Post(login, "application/json", strings.NewReader(`{"secret":"`+edgetest.Secret+`"}`))
	if err != nil || len(r.Cookies()) == 0 {
		b.Fatal(r, err)
	}
	r.Body.Close()
	feed, _ := http.NewRequest("GET", "http://"+p.Addr+"/console/feed", nil)
	feed.AddCookie(r.Cookies()[0])
	pub.second(p, a, loadEvent) // warms up
	var costs, speeds []float64
	for b.Loop() {
		cost, speed := pub.second(p, a, loadEvent)
		page, err := http.DefaultClient.Do(feed)
		if err != nil {
			b.Fatal(err)
		}
		told := make(chan int64)
		go func() { // ends with the feed
			bytes, _ := io.Copy(io.Discard, page.Body)
			told <- bytes
		}()
		watchedCost, watchedSpeed := pub.second(p, a, loadEvent)
		page.Body.Close()
		if bytes := <-told; bytes < 10_000 {
			b.Fatalf("the page was told %d bytes", bytes)
		}
		costs, speeds = append(costs, watchedCost/cost), append(speeds, watchedSpeed/speed)
	}
	b.ReportMetric(median(costs), "x-cpu")
	b.ReportMetric(median(speeds), "x-deliveries")
}

// BenchmarkLoadDeflate publishes events of 1 KB of JSON to 1,000 subscribers, in turns to some with and some without
// compression, and reports what they cost with it as multiples of what they cost without: bytes, and the median of the
// processor time.
func BenchmarkLoadDeflate(b *testing.B) {
	const n = 1000
	var order []string
	for i := range 8 {
		order = append(order, fmt.Sprintf(`{"id":%d,"product":"Product %d","quantity":%d,"price":%d.%02d,"currency":"EUR",`+
			`"in_stock":%t,"tags":["new","sale"]}`, 48213+i*37, i*7919%100, 1+i%3, 10+i*31%90, i*17%100, i%2 == 0))
	}
	data := "[" + strings.Join(order, ",") + "]"
	p := startPinned(b, "-deflate")
	pub := newPublisher(b, p)
	deflating := strings.Replace(edgetest.Upgrade, "\n\n", "\nSec-WebSocket-Extensions: permessage-deflate\n\n", 1)
	var events [2]string
	var sizes [2]int
	var audiences [2]*audience
	for i, upgrade := range []string{edgetest.Upgrade, deflating} {
		connect := func() *edgetest.Client {
			c, _ := edgetest.Request(b, edgetest.Dial(b, p.Addr), upgrade)
			c.Established()
			return c
		}
		name := []string{"root", "room"}[i] // as long as one another
		events[i] = edgetest.EventBody(name, "event", data)
		conns := join(b, connect, n, func(int) string { return name })
		pub.post("/apps/1/events", events[i]) // a first one, to see how large it is
		for _, c := range conns {
			sizes[i] = readFrame(b, c)
		}
		audiences[i] = newAudience(b, conns, sizes[i])
	}
	var costs []float64
	for b.Loop() {
		plain, _ := pub.second(p, audiences[0], events[0])
		deflated, _ := pub.second(p, audiences[1], events[1])
		costs = append(costs, deflated/plain)
	}
	b.ReportMetric(float64(sizes[1])/float64(sizes[0]), "x-bytes")
	b.ReportMetric(median(costs), "x-cpu")
}

// readFrame reads a frame of 126 to 65,535 bytes, and returns its size with the header.
func readFrame(b *testing.B, c net.Conn) int {
	head := make([]byte, 4)
	_, err := io.ReadFull(c, head)
	n := int64(head[2])<<8 | int64(head[3])
	if err == nil {
		_, err = io.CopyN(io.Discard, c, n)
	}
	if err != nil || head[1] != 126 {
		b.Fatalf("%x: %v", head, err)
	}
	return 4 + int(n)
}

// BenchmarkLoadLatency publishes one event at a time, and reports how long it takes until the last subscriber has it,
// beside a bare handler of net/http that only writes.
func BenchmarkLoadLatency(b *testing.B) {
	size := frameSize("room", loadData)
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			bare := startPinnedHelper(b, "handler", strconv.Itoa(size))
			edge := startPinned(b)
			conns := make([]net.Conn, n)
			for i := range conns {
				conns[i] = edgetest.Dial(b, bare.Addr)
				io.WriteString(conns[i], "GET /join HTTP/1.1\r\nHost: x\r\n\r\n")
				http.ReadResponse(bufio.NewReader(conns[i]), nil)
			}
			pubs := []*publisher{newPublisher(b, bare), newPublisher(b, edge)}
			audiences := []*audience{newAudience(b, conns, size), newAudience(b, subscribe(b, edge, n), size)}
			var took [2][]time.Duration
			for b.Loop() {
				for i, pub := range pubs { // in turn, so that both meet the same machine
					began := time.Now()
					pub.post("/apps/1/events", loadEvent)
					<-audiences[i].arrived
					took[i] = append(took[i], time.Since(began))
				}
			}
			b.ReportMetric(float64(median(took[1]).Nanoseconds())/1e3, "p50-us")
			b.ReportMetric(float64(median(took[1]))/float64(median(took[0])), "x-bare")
		})
	}
}

// BenchmarkLoadPost publishes to one subscriber, from four connections.
func BenchmarkLoadPost(b *testing.B) {
	batch := `{"batch":[` + strings.Repeat(loadEvent+",", 9) + loadEvent + `]}`
	for path, body := range map[string]string{"events": loadEvent, "batch_events": batch} {
		b.Run(path, func(b *testing.B) {
			p := startPinned(b)
			newAudience(b, subscribe(b, p, 1), 1<<30)
			pub, before := newPublisher(b, p), p.CPU()
			b.ResetTimer() // and not what came before
			b.SetParallelism(4)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					pub.post("/apps/1/"+path, body)
				}
			})
			b.ReportMetric((p.CPU()-before)/float64(b.N), "cpu-us/request")
		})
	}
}

// BenchmarkLoadIdle connects and subscribes clients, and reports what each holds and what it cost.
func BenchmarkLoadIdle(b *testing.B) {
	const n, trimmed = 5000, 4 * time.Second // when memory is given back after a burst
	for kind, name := range map[string]func(int) string{
		"one channel":    room,
		"a channel each": func(i int) string { return "room-" + strconv.Itoa(i) },
	} {
		b.Run(kind, func(b *testing.B) {
			for b.Loop() {
				p := startPinned(b)
				before, start := p.CPU(), p.Resident()
				conns := join(b, func() *edgetest.Client { return edgetest.Connect(b, p.Addr) }, n, name)
				b.ReportMetric((p.CPU()-before)/n, "cpu-us/connection")
				time.Sleep(trimmed) // what it holds from then on
				b.ReportMetric(float64(p.Resident()-start)/n, "B/connection")
				for _, c := range conns {
					c.Close()
				}
			}
		})
	}
}
