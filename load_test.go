package main

// Measurements of edge as a process of its own, on one core, with the load on the other, beside the kernel's floor: a process
// that does nothing but write(2) the same bytes to the same number of connections. They made the table in the README:
//
//	go test -run '^$' -bench Load -benchtime 3s -count 5 -timeout 1h
//
// What counts is the processor time of the server, and its ratio to the floor of the same moment.

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edge/internal/wire"
)

// cpu returns the processor time that the process has used, in microseconds; it is counted in hundredths of a second.
func (p *process) cpu() float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+2:]))
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) * 1e4
}

// startPinned starts a process on the first core, and moves this one to the others.
func startPinned(b *testing.B, kind string, args ...string) *process {
	exec.Command("taskset", "-a", "-c", "-p", "1-63", strconv.Itoa(os.Getpid())).Run() // without a second core all share one
	p := startProcess(b, kind, args...)
	exec.Command("taskset", "-a", "-c", "-p", "0", strconv.Itoa(p.cmd.Process.Pid)).Run()
	return p
}

// audience is connections that only count what they get.
type audience struct {
	poller  *poller
	unit    int64 // bytes of one broadcast, to all of them
	bytes   atomic.Int64
	arrived chan struct{} // gets something for each unit
	ends    sync.WaitGroup
}

// seat is one of them.
type seat struct {
	conn conn
	*audience
}

func (s *seat) receive(p []byte) {
	n := s.bytes.Add(int64(len(p)))
	for i := (n - int64(len(p))) / s.unit; i < n/s.unit; i++ {
		s.arrived <- struct{}{}
	}
}

func (s *seat) ended() {
	s.conn.free()
	s.ends.Done()
}

// newAudience takes connections over, each of which gets size bytes of every broadcast.
func newAudience(b *testing.B, conns []net.Conn, size int) *audience {
	p, err := newPoller()
	if err != nil {
		b.Fatal(err)
	}
	a := &audience{poller: p, unit: int64(size) * int64(len(conns)), arrived: make(chan struct{}, 1000)}
	b.Cleanup(func() { // runs last
		a.ends.Wait()
		p.close()
	})
	bounds := newBounds(0)
	for _, c := range conns {
		s := &seat{audience: a}
		s.conn.init(c, p, bounds)
		s.conn.start(s)
		a.ends.Add(1)
		b.Cleanup(s.conn.abort)
	}
	b.Cleanup(b.StopTimer) // runs first
	return a
}

// subscribers connects n clients to edge and subscribes them to the channel that name gives.
func subscribers(b *testing.B, p *process, n int, name func(i int) string) (conns []net.Conn) {
	return subscribersBy(connect, b, p, n, name)
}

// subscribersBy is subscribers with connections that open has made.
func subscribersBy(open func(testing.TB, string) *client, b *testing.B, p *process, n int, name func(i int) string) (conns []net.Conn) {
	conns = make([]net.Conn, n)
	var wg sync.WaitGroup
	for some := range slices.Chunk(conns, n/20+1) {
		wg.Go(func() {
			for i := range some {
				c := open(b, p.addr)
				c.join(name(n - cap(some) + i))
				some[i] = c.conn
			}
		})
	}
	wg.Wait()
	return conns
}

func room(int) string { return "room" }

// measureFloor measures what one event costs for each of n connections when each write(2) carries several, in microseconds of
// processor time.
func measureFloor(b *testing.B, n, each, size int) (cost float64) {
	p := startPinned(b, "floor", strconv.Itoa(n), strconv.Itoa(each*size))
	control := dial(b, p.addr)
	control.SetDeadline(time.Time{}) // it is for as long as it takes
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = dial(b, p.addr)
	}
	a := newAudience(b, conns, each*size)
	rounds, began, before := 0, time.Now(), 0.0
	for ; time.Since(began) < time.Second || rounds < 20; rounds++ {
		if rounds == 10 {
			before, began = p.cpu(), time.Now() // what came before was for warming up
		}
		control.Write([]byte("!"))
		<-a.arrived
	}
	return (p.cpu() - before) / float64((rounds-10)*n*each)
}

// floor is the process that measureFloor measures. The first connection is the one that asks for broadcasts.
func floor(args []string) {
	n, _ := strconv.Atoi(args[0])
	size, _ := strconv.Atoi(args[1])
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("http://%s/\n", l.Addr())
	control, _ := l.Accept()
	poller, _ := newPoller()
	conns := make([]conn, n)
	for i := range conns {
		c, _ := l.Accept()
		conns[i].init(c, poller, newBounds(0))
	}
	for ask, data := make([]byte, 1), make([]byte, size); ; {
		if _, err := control.Read(ask); err != nil {
			return
		}
		for i := range conns {
			conns[i].tryWrite(data)
		}
	}
}

// bareHandler is a process that does with net/http alone what has to be done for an event: read a request, write the frame to
// everyone, answer.
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
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("http://%s/\n", l.Addr())
	http.Serve(l, nil)
}

// publisher triggers events over HTTP, on connections that are kept.
type publisher struct {
	b      *testing.B
	client http.Client
	addr   string
}

func newPublisher(b *testing.B, p *process) *publisher {
	t := &http.Transport{MaxIdleConnsPerHost: 64}
	b.Cleanup(t.CloseIdleConnections)
	return &publisher{b: b, client: http.Client{Transport: t}, addr: p.addr}
}

func (p *publisher) post(path, body string) {
	r, err := p.client.Post(signedURL(p.addr, "POST", path, "", body), "application/json", strings.NewReader(body))
	if err != nil {
		p.b.Error(err)
		return
	}
	io.Copy(io.Discard, r.Body)
	if r.Body.Close(); r.StatusCode != 200 {
		p.b.Errorf("POST %s: %s", path, r.Status)
	}
}

var loadEvent = fmt.Sprintf(`{"name":"event","channel":"room","data":%s}`, benchData)

// BenchmarkLoadFanout publishes to n subscribers of one channel with so many broadcasts outstanding.
func BenchmarkLoadFanout(b *testing.B) {
	size := len(wire.AppendEvent(nil, "event", "room", benchData, ""))
	for _, test := range []struct{ n, window, floorEach int }{{100, 4, 4}, {1000, 4, 4}, {5000, 4, 4}, {1000, 64, 16}} {
		b.Run(fmt.Sprintf("n=%d/window=%d", test.n, test.window), func(b *testing.B) {
			floorCost := measureFloor(b, test.n, test.floorEach, size)
			p := startPinned(b, "edge")
			a := newAudience(b, subscribers(b, p, test.n, room), size)
			pub, asks := newPublisher(b, p), make(chan struct{}, test.window)
			for range min(test.window, 8) {
				go func() { // ends with the benchmark
					for range asks {
						pub.post("/apps/1/events", loadEvent)
					}
				}()
			}
			defer close(asks)
			outstanding, before := 0, p.cpu()
			for b.Loop() {
				if outstanding++; outstanding > test.window {
					<-a.arrived
					outstanding--
				}
				asks <- struct{}{}
			}
			for ; outstanding > 0; outstanding-- {
				<-a.arrived
			}
			cost := (p.cpu() - before) / float64(b.N*test.n)
			b.ReportMetric(cost, "cpu-us/delivery")
			b.ReportMetric(cost/floorCost, "x-floor")
			b.ReportMetric(float64(b.N*test.n)/b.Elapsed().Seconds(), "deliveries/s")
		})
	}
}

// BenchmarkLoadConsole publishes to 100 subscribers as fast as it goes, in turns with and without a page of the console that is told of
// every event, and reports the medians of the processor time and of the deliveries with it as multiples of those without.
func BenchmarkLoadConsole(b *testing.B) {
	const n, window = 100, 4
	p := startPinned(b, "edge")
	a := newAudience(b, subscribers(b, p, n, room), len(wire.AppendEvent(nil, "event", "room", quote(fmt.Sprintf("%0200d", 0)), "")))
	pub, asks := newPublisher(b, p), make(chan struct{}, window)
	for range window {
		go func() { // ends with the benchmark
			for range asks {
				pub.post("/apps/1/events", fmt.Sprintf(`{"name":"event","channel":"room","data":"%0200d"}`, 0))
			}
		}()
	}
	defer close(asks)
	round := func() (cost, speed float64) {
		events, outstanding, before, began := 0, 0, p.cpu(), time.Now()
		for ; time.Since(began) < time.Second; events++ {
			if outstanding++; outstanding > window {
				<-a.arrived
				outstanding--
			}
			asks <- struct{}{}
		}
		for ; outstanding > 0; outstanding-- {
			<-a.arrived
		}
		return (p.cpu() - before) / float64(events), float64(events) / time.Since(began).Seconds()
	}
	v := (&testServer{server: &server{}, addr: p.addr}).signIn(b, testSecret)
	round() // warms up
	var costs, speeds []float64
	for b.Loop() {
		cost, speed := round()
		feed, err := http.DefaultClient.Do(v.request("GET", "/feed", ""))
		if err != nil {
			b.Fatal(err)
		}
		told := make(chan int64)
		go func() { // ends with the feed
			bytes, _ := io.Copy(io.Discard, feed.Body)
			told <- bytes
		}()
		watchedCost, watchedSpeed := round()
		feed.Body.Close()
		if bytes := <-told; bytes < 10_000 {
			b.Fatalf("the page was told %d bytes", bytes)
		}
		costs, speeds = append(costs, watchedCost/cost), append(speeds, watchedSpeed/speed)
	}
	slices.Sort(costs)
	slices.Sort(speeds)
	b.ReportMetric(costs[len(costs)/2], "x-cpu")
	b.ReportMetric(speeds[len(speeds)/2], "x-deliveries")
}

// BenchmarkLoadDeflate publishes events of 1 KB of JSON to 1,000 subscribers, in turns to some with and some without compression,
// and reports what they cost with it as multiples of what they cost without: bytes, and the median of the processor time.
func BenchmarkLoadDeflate(b *testing.B) {
	const n, window = 1000, 4
	order := []byte("[")
	for i := range 8 {
		order = fmt.Appendf(wire.AppendComma(order), `{"id":%d,"product":"Product %d","quantity":%d,"price":%d.%02d,"currency":"EUR","in_stock":%t,"tags":["new","sale"]}`,
			48213+i*37, i*7919%100, 1+i%3, 10+i*31%90, i*17%100, i%2 == 0)
	}
	data := quote(string(order) + "]")
	frame := wire.AppendEvent(nil, "event", "room", data, "")
	deflated, _ := appendDeflated(nil, frame)
	p := startPinned(b, "edge", "-deflate")
	sizes := [2]int{len(frame), len(deflated)}
	pub, asks := newPublisher(b, p), make(chan string, window)
	for range window {
		go func() { // ends with the benchmark
			for name := range asks {
				pub.post("/apps/1/events", fmt.Sprintf(`{"name":"event","channel":"%s","data":%s}`, name, data))
			}
		}()
	}
	defer close(asks)
	names := [2]string{"root", "room"} // as long as one another
	var audiences [2]*audience
	for i, open := range []func(testing.TB, string) *client{connect, connectDeflating} {
		audiences[i] = newAudience(b, subscribersBy(open, b, p, n, func(int) string { return names[i] }), sizes[i])
	}
	var costs []float64
	for b.Loop() {
		var cost [2]float64
		for i, a := range audiences {
			events, outstanding, before, began := 0, 0, p.cpu(), time.Now()
			for ; time.Since(began) < time.Second; events++ {
				if outstanding++; outstanding > window {
					<-a.arrived
					outstanding--
				}
				asks <- names[i]
			}
			for ; outstanding > 0; outstanding-- {
				<-a.arrived
			}
			cost[i] = (p.cpu() - before) / float64(events)
		}
		costs = append(costs, cost[1]/cost[0])
	}
	slices.Sort(costs)
	b.ReportMetric(float64(sizes[1])/float64(sizes[0]), "x-bytes")
	b.ReportMetric(costs[len(costs)/2], "x-cpu")
}

// BenchmarkLoadLatency publishes one event at a time, and reports how long it takes until the last subscriber has it, beside a
// bare handler of net/http that only writes.
func BenchmarkLoadLatency(b *testing.B) {
	size := len(wire.AppendEvent(nil, "event", "room", benchData, ""))
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			bare, conns := startPinned(b, "handler", strconv.Itoa(size)), make([]net.Conn, n)
			for i := range conns {
				conns[i] = dial(b, bare.addr)
				fmt.Fprintf(conns[i], "GET /join HTTP/1.1\r\nHost: x\r\n\r\n")
				http.ReadResponse(bufio.NewReader(conns[i]), nil)
			}
			edge := startPinned(b, "edge")
			var p50 [2]float64
			var pubs [2]*publisher
			var audiences [2]*audience
			for i, conns := range [][]net.Conn{conns, subscribers(b, edge, n, room)} {
				audiences[i], pubs[i] = newAudience(b, conns, size), newPublisher(b, []*process{bare, edge}[i])
			}
			var took [2][]time.Duration
			for b.Loop() {
				for i, pub := range pubs { // in turn, so that both meet the same machine
					began := time.Now()
					pub.post("/apps/1/events", loadEvent)
					<-audiences[i].arrived
					took[i] = append(took[i], time.Since(began))
				}
			}
			for i, took := range took {
				slices.Sort(took)
				p50[i] = float64(took[len(took)/2].Nanoseconds()) / 1e3
			}
			b.ReportMetric(p50[1], "p50-us")
			b.ReportMetric(p50[1]/p50[0], "x-bare")
		})
	}
}

// BenchmarkLoadPost publishes to one subscriber, from four connections.
func BenchmarkLoadPost(b *testing.B) {
	batch := `{"batch":[` + strings.Repeat(loadEvent+",", 9) + loadEvent + `]}`
	for _, test := range []struct{ path, body string }{{"/apps/1/events", loadEvent}, {"/apps/1/batch_events", batch}} {
		b.Run(test.path[len("/apps/1/"):], func(b *testing.B) {
			p := startPinned(b, "edge")
			newAudience(b, subscribers(b, p, 1, room), 1<<30)
			pub, before := newPublisher(b, p), p.cpu()
			b.ResetTimer() // and not what came before
			b.SetParallelism(4)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					pub.post(test.path, test.body)
				}
			})
			b.ReportMetric((p.cpu()-before)/float64(b.N), "cpu-us/request")
		})
	}
}

// BenchmarkLoadChannels publishes to one of many channels in turn, each with one subscriber.
func BenchmarkLoadChannels(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			p, each := startPinned(b, "edge"), (n+99)/100
			var wg sync.WaitGroup
			for i := 0; i < n; i += each {
				wg.Go(func() {
					c := connect(b, p.addr)
					c.conn.SetDeadline(time.Time{}) // however many there are to join
					for j := i; j < i+each; j++ {
						c.join("room-" + strconv.Itoa(j)) // at most 200 a second
					}
					newAudience(b, []net.Conn{c.conn}, 1<<30)
				})
			}
			wg.Wait()
			pub, next, before := newPublisher(b, p), atomic.Int64{}, p.cpu()
			b.ResetTimer() // and not what came before
			b.SetParallelism(4)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := next.Add(1) * 7919 % int64(n)
					pub.post("/apps/1/events", strings.Replace(loadEvent, `"room"`, fmt.Sprintf(`"room-%d"`, i), 1))
				}
			})
			b.ReportMetric((p.cpu()-before)/float64(b.N), "cpu-us/request")
		})
	}
}

// BenchmarkLoadIdle connects and subscribes clients, and reports what each holds and what it cost.
func BenchmarkLoadIdle(b *testing.B) {
	for name, channel := range map[string]func(int) string{"one channel": room, "a channel each": func(i int) string { return "room-" + strconv.Itoa(i) }} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				const n = 5000
				p := startPinned(b, "edge")
				before, start := p.cpu(), p.resident()
				conns := subscribers(b, p, n, channel)
				b.ReportMetric((p.cpu()-before)/n, "cpu-us/connection")
				time.Sleep(trimAfter + time.Second) // what it holds from then on
				b.ReportMetric(float64(p.resident()-start)/n, "B/connection")
				for _, c := range conns {
					c.Close()
				}
			}
		})
	}
}
