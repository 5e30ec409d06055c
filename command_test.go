package main

// The commands in this process, against servers that go and come, are in trouble, or speak TLS. (What they print for whom is in
// the scripts of shell_test.go.)

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"edge/internal/config"
	"edge/internal/conn"
	"edge/internal/edgetest"
	"edge/internal/listen"
	"edge/internal/wire"
)

// watchedBuffer keeps what is written, and closes heard when a line of it has a text.
type watchedBuffer struct {
	mu    sync.Mutex // guards the following
	b     bytes.Buffer
	text  string
	heard chan struct{}
}

func (w *watchedBuffer) Write(p []byte) (int, error) {
	lookForSecret("the output of a command", p)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b.Write(p)
	if w.text != "" && strings.Contains(w.b.String(), w.text) {
		close(w.heard)
		w.text = ""
	}
	return len(p), nil
}

func (w *watchedBuffer) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// shellProgram is edge as a command, in this process.
func shellProgram(addr string, stdin io.Reader, args ...string) (p *program, stdout, stderr *watchedBuffer) {
	stdout, stderr = &watchedBuffer{heard: make(chan struct{})}, &watchedBuffer{heard: make(chan struct{})}
	env := edgetest.Getenv("EDGE_KEY=key", "EDGE_SECRET="+testSecret, "EDGE_ADDR="+addr)
	return &program{args: args, getenv: env, stdin: stdin, stdout: stdout, stderr: stderr}, stdout, stderr
}

// follow returns the numbers that c receives on a channel from now on, until it is closed.
func follow(c *peer) (numbers []int, closed int) {
	c.t.Helper()
	for {
		c.conn.SetDeadline(time.Now().Add(patience)) // for each, however long all take
		opcode, payload := c.frame()
		if opcode == conn.OpClose {
			return numbers, int(binary.BigEndian.Uint16(payload))
		}
		var e struct{ Event, Data string }
		if err := json.Unmarshal(payload, &e); err != nil || e.Event != "n" {
			c.t.Fatalf("%s %v", payload, err)
		}
		n, err := strconv.Atoi(e.Data)
		if err != nil {
			c.t.Fatal(err)
		}
		if numbers = append(numbers, n); n == tenThousand {
			return numbers, 0
		}
	}
}

const tenThousand = 10_000

func countTo(w io.WriteCloser, n int) {
	defer w.Close()
	b := bufio.NewWriter(w)
	defer b.Flush()
	for i := range n {
		fmt.Fprintln(b, i+1)
	}
}

// TestTriggerLines: ten thousand lines arrive, all of them, once and in order.
func TestTriggerLines(t *testing.T) {
	s := startServer(t)
	c := connect(t, s.addr)
	c.join("room")
	r, w := io.Pipe()
	go countTo(w, tenThousand) // ends when all is read
	p, _, stderr := shellProgram(s.addr, r, "trigger", "-lines", "room", "n")
	ended := make(chan int, 1)
	go func() { ended <- p.run() }()
	numbers, _ := follow(c)
	if code := <-ended; code != 0 || stderr.String() != "" || len(numbers) != tenThousand {
		t.Fatalf("exit code %d, %d arrived: %s", code, len(numbers), stderr)
	}
	for i, n := range numbers {
		if n != i+1 {
			t.Fatalf("%d is the %dth", n, i+1)
		}
	}
	if calls := s.app.Counts.Calls.Load(); calls > tenThousand/2 || calls < tenThousand/wire.MaxBatch {
		t.Errorf("%d calls: nothing travelled together", calls)
	}
}

// A server that is started again in the middle takes the rest: what is sent while none is there waits.
func TestTriggerLinesSurvivesRestart(t *testing.T) {
	addr := edgetest.FreeAddr(t)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	first := startOn(t, l)
	c := connect(t, addr)
	c.join("room")
	r, w := io.Pipe()
	written := make(chan struct{})
	go func() { // ends when the half is read, and the whole
		for i := range tenThousand {
			if i == tenThousand/2 {
				<-written
			}
			fmt.Fprintln(w, i+1)
		}
		w.Close()
	}()
	p, _, stderr := shellProgram(addr, r, "trigger", "-lines", "room", "n")
	stderr.text = "trying again"
	ended := make(chan int, 1)
	go func() { ended <- p.run() }()
	go func() {
		waitUntil(t, "some have been sent", func() bool { return first.app.Counts.Calls.Load() > 100 })
		first.stop()
		close(written) // not before, or all might be sent to the first
	}()
	before, code := follow(c)
	if code != wire.CodeReconnect {
		t.Fatalf("%d events, then closed with %d", len(before), code)
	}
	<-stderr.heard // it has found nobody
	second := startServer(t)
	c = connect(t, second.addr)
	c.join("room")
	forward(t, addr, second.addr)
	after, _ := follow(c)
	if code := <-ended; code != 0 || !strings.HasSuffix(stderr.String(), "takes events again\n") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	all := append(before, after...)
	for i, next := 0, 1; i < len(all); i++ {
		switch {
		case all[i] == next:
			next++
		case i == len(before) && all[i] < next && next-all[i] <= wire.MaxBatch:
			next = all[i] + 1 // the answer was lost, so that these came twice
		default:
			t.Fatalf("%d after %d", all[i], all[max(0, i-1)])
		}
	}
	if len(before) == 0 || len(after) == 0 {
		t.Errorf("%d came before, %d after", len(before), len(after))
	}
}

// forward has connections to one address go to another, until the test is over.
func forward(t *testing.T, from, to string) {
	l, err := net.Listen("tcp", from)
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		open.Wait()
	})
	open.Go(func() { // ends with l
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				t.Error(err)
				return
			}
			open.Go(func() { io.Copy(out, in); out.Close() })
			open.Go(func() { io.Copy(in, out); in.Close() })
		}
	})
}

// A server that is in trouble is asked again, with all that was to be sent; one that rejects is not.
func TestTriggerLinesTrouble(t *testing.T) {
	const again = "500: text: trying again\nedge: the server at ADDR takes events again\n"
	for _, c := range []struct {
		name, in string
		answers  []int // to the first calls; the others get 200
		code     int
		calls    string // events in each
		says     string
	}{
		{"500 and 503", "1\n", []int{500, 503}, 0, "1 1 1", again},
		{"500 to a batch", strings.Repeat("1\n", 12), []int{200, 500}, 0, "10 2 2", again},
		{"400", "1\n", []int{400}, 1, "1", "edge: line 1: the server answered 400: text\n"},
		{"400 to a batch", strings.Repeat("1\n", 25), []int{200, 400}, 1, "10 10", "edge: lines 11 to 20: the server answered 400: text\n"},
		{"a bad line in a batch", "1\n2\n\xff\n4\n", nil, 1, "2", "edge: line 3: the data is not UTF-8\n"},
		{"no line break at the end", "1\r\n2", nil, 0, "1 1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var calls []string
			srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				calls = append(calls, fmt.Sprint(strings.Count(string(b), `"data":`)))
				if n := len(calls); n <= len(c.answers) && c.answers[n-1] != 200 {
					rw.WriteHeader(c.answers[n-1])
					io.WriteString(rw, "text\n")
					return
				}
				io.WriteString(rw, "{}")
			}))
			defer srv.Close()
			addr := srv.Listener.Addr().String()
			p, _, stderr := shellProgram(addr, strings.NewReader(c.in), "trigger", "room", "n", "-lines")
			if code := p.run(); code != c.code {
				t.Errorf("exit code %d", code)
			}
			if got := strings.Join(calls, " "); got != c.calls {
				t.Errorf("calls with %s, want %s", got, c.calls)
			}
			if got := strings.ReplaceAll(stderr.String(), addr, "ADDR"); !strings.HasSuffix(got, c.says) || c.says == "" && got != "" {
				t.Errorf("says %s, want %s", got, c.says)
			}
		})
	}
}

// TestTriggerTimeout: -timeout holds, whatever a server does, with -lines and without.
func TestTriggerTimeout(t *testing.T) {
	w := whereabouts{host: "there:80"}
	for _, c := range []struct {
		name       string
		lines      bool
		patience   time.Duration
		dial       error // at all calls
		say        string
		ends       time.Duration
		says, told string
	}{
		{"silent", false, 7 * time.Second, nil, "", 7 * time.Second, "cannot reach the server at there:80: no answer within 7s", ""},
		{"stuck", false, 7 * time.Second, nil, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", 7 * time.Second, "cannot reach the server at there:80: no answer within 7s", ""},
		{"silent, by itself", false, 0, nil, "", requestTimeout, "", ""},
		{"silent, longer", false, time.Minute, nil, "", requestTimeout, "", ""},
		{"away", false, 7 * time.Second, syscall.ECONNREFUSED, "", 0, "cannot reach the server at there:80: connection refused", ""},
		{"lines, silent", true, 7 * time.Second, nil, "", 7 * time.Second, "line 1: cannot reach the server at there:80: no answer within 7s", ""},
		{"lines, silent, longer", true, time.Minute, nil, "", time.Minute, "line 1: cannot reach the server at there:80: no answer within 1m0s", "trying again"},
		{"lines, away", true, 7 * time.Second, syscall.ECONNREFUSED, "", 7 * time.Second, "line 1: cannot reach the server at there:80: connection refused", "trying again"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, _, stderr := shellProgram("", nil)
				r, err := newRemote(config.Options{Apps: []config.App{{Key: "key", Secret: testSecret}}}, w)
				if err != nil {
					t.Fatal(err)
				}
				r.dial = func(context.Context) (net.Conn, error) {
					if c.dial != nil {
						return nil, c.dial
					}
					ours, theirs := net.Pipe()
					go func() { // ends with the connection
						io.CopyN(io.Discard, theirs, 1)
						go io.WriteString(theirs, c.say)
						io.Copy(io.Discard, theirs)
					}()
					return ours, nil
				}
				pub := &publication{remote: r, p: p, channels: []string{"room"}, event: "e", lines: c.lines, patience: c.patience}
				began := time.Now()
				if c.lines {
					err = pub.sendLines(strings.NewReader("1\n"))
				} else {
					err = pub.persist([]string{"1"})
				}
				if after := time.Since(began); after != c.ends {
					t.Errorf("it took %s, want %s", after, c.ends)
				}
				if err == nil || c.says != "" && err.Error() != c.says || (stderr.String() != "") != (c.told != "") || !strings.Contains(stderr.String(), c.told) {
					t.Errorf("ended with %v, said %s", err, stderr)
				}
				r.client.CloseIdleConnections()
			})
		})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // whoever connects waits
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, options := range [][]string{nil, {"-lines"}} {
		p, _, stderr := shellProgram(l.Addr().String(), strings.NewReader("1\n"), append([]string{"trigger", "room", "e", "-timeout", "10ms"}, options...)...)
		if code := p.run(); code != 1 || !strings.HasSuffix(stderr.String(), "no answer within 10ms\n") {
			t.Errorf("%q: exit code %d: %s", options, code, stderr)
		}
	}
}

// tell subscribes, triggers and expects the event, with these options in addition.
func tell(t *testing.T, addr string, options ...string) {
	t.Helper()
	p, stdout, stderr := shellProgram(addr, nil, append([]string{"subscribe", "private-room", "-count", "1"}, options...)...)
	stderr.text = "\n"
	ended := make(chan int, 1)
	go func() { ended <- p.run() }()
	<-stderr.heard
	p, _, complaint := shellProgram(addr, nil, append([]string{"trigger", "private-room", "e", "7"}, options...)...)
	if code := p.run(); code != 0 {
		t.Fatalf("%q: trigger: exit code %d: %s%s", options, code, complaint, stderr)
	}
	if code := <-ended; code != 0 || stdout.String() != `{"channel":"private-room","event":"e","data":7}`+"\n" {
		t.Errorf("%q: exit code %d: %s%s", options, code, stdout, stderr)
	}
}

// TestShellOverTLS: beside the server its certificate is trusted, whatever names it has; from elsewhere, its authority.
func TestShellOverTLS(t *testing.T) {
	dir, _ := edgetest.CertDir(t)
	s := startServer(t, edgetest.TLSArgs(dir)...)
	_, port, _ := net.SplitHostPort(s.addr)
	ca := filepath.Join(dir, "edge-ca.pem")
	tell(t, s.addr, edgetest.TLSArgs(dir)...)
	tell(t, "", "-host", "localhost:"+port, "-tls-ca", ca)
	tell(t, "", "-host", "https://127.0.0.1:"+port+"/", "-tls-ca", ca)

	other, _ := edgetest.CertDir(t)
	named, file := misnamed(t)
	noTLS, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer noTLS.Close()
	go func() { // ends with noTLS
		for nc, err := noTLS.Accept(); err == nil; nc, err = noTLS.Accept() {
			io.WriteString(nc, "220 smtp\r\n")
			nc.Close()
		}
	}()
	for _, c := range []struct {
		addr string
		args []string
		says string // "" for success
	}{
		{s.addr, edgetest.TLSArgs(other), "certificate signed by unknown authority"},
		{"", []string{"-tls", "-host", "localhost:" + port}, "certificate signed by unknown authority"},
		{"", []string{"-host", "localhost:" + port, "-tls-ca", filepath.Join(other, "edge-ca.pem")}, "certificate signed by unknown authority"},
		{"", []string{"-host", "localhost:" + named, "-tls-ca", file}, "certificate is valid for example.com, "},
		{":" + named, []string{"-tls-cert", file, "-tls-key", file}, ""},
		{"", []string{"-host", noTLS.Addr().String(), "-tls"}, "tls: first record does not look like a TLS handshake"},
		{"", []string{"-host", "127.0.0.1:" + port}, "This port is for TLS"},
	} {
		for _, command := range []string{"trigger room e", "subscribe room -timeout 60s"} {
			p, _, stderr := shellProgram(c.addr, nil, append(strings.Fields(command), c.args...)...)
			code := p.run()
			if says := stderr.String(); c.says != "" && (code != 1 || !strings.Contains(says, c.says)) || strings.Contains(says, "again") {
				t.Errorf("%q %q: exit code %d: %s", command, c.args, code, says)
			} else if c.says == "" && !strings.Contains(says, "404") {
				t.Errorf("%q %q: exit code %d: %s, want what is no Pusher server to be reached", command, c.args, code, says)
			}
		}
	}
	edgetest.CertDirAgain(t, dir)
	waitUntil(t, "the new certificate is served, and trusted", func() bool {
		p, _, _ := shellProgram(s.addr, nil, append([]string{"trigger", "room", "e"}, edgetest.TLSArgs(dir)...)...)
		return p.run() == 0
	})
}

// misnamed is the port of a server with a certificate for example.com and some addresses, and a file with that certificate
// behind what is none. The server answers 404.
func misnamed(t *testing.T) (port, file string) {
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	_, port, _ = net.SplitHostPort(srv.Listener.Addr().String())
	file = filepath.Join(t.TempDir(), "misnamed.pem")
	b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("none")})
	b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})...)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return port, file
}

// TestShellOverUnixSocket: an address of a file works, also as the plain one beside TLS.
func TestShellOverUnixSocket(t *testing.T) {
	name := filepath.Join(t.TempDir(), "edge.sock")
	l, err := listen.Open("unix:"+name, "addr")
	if err != nil {
		t.Fatal(err)
	}
	startOn(t, l)
	tell(t, "unix:"+name)
	tell(t, "", "-host", "unix:"+name)
	tell(t, ":1", append(edgetest.TLSArgs("/nowhere"), "-addr", ":1", "-addr", "unix:"+name)...)
}

// Nobody reads any more: that is an end, and no failure, unlike a disk that is full.
func TestShellOutput(t *testing.T) {
	addr := startEdge(t)
	connect(t, addr).join("room")
	for _, c := range []struct {
		err  error
		code int
	}{{syscall.EPIPE, 0}, {syscall.ENOSPC, 1}} {
		p, _, stderr := shellProgram(addr, nil, "channels")
		p.stdout = failingWriter{c.err}
		if code := p.run(); code != c.code || (code == 0) != (stderr.String() == "") {
			t.Errorf("%v: exit code %d: %s", c.err, code, stderr)
		}
	}
}

type failingWriter struct{ error }

func (w failingWriter) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: "/dev/stdout", Err: w.error}
}

// TestRemote: where -host and the server's own options point to.
func TestRemote(t *testing.T) {
	_, file := misnamed(t)
	tls := " -tls-cert " + file + " -tls-key b"
	for args, want := range map[string]string{ // network, TLS or not, address, id
		"":                                       "tcp plain :6001 1",
		"-addr :7000 -id 7":                      "tcp plain :7000 7",
		"-addr 192.0.2.1:7000":                   "tcp plain 192.0.2.1:7000 1",
		"-addr example.com:80":                   "tcp plain example.com:80 1",
		"-addr unix:/run/edge.sock":              "unix plain /run/edge.sock 1",
		"-addr :7000" + tls:                      "tcp tls :7000 1",
		"-addr :7000 -addr 127.0.0.1:7001" + tls: "tcp plain 127.0.0.1:7001 1",
		"-addr :7000 -addr plain:10.0.0.1:701" + tls: "tcp plain 10.0.0.1:701 1",
		"-addr tls:127.0.0.1:7000 -addr :1" + tls:    "tcp tls 127.0.0.1:7000 1",
		"-host pi.local":                      "tcp plain pi.local:6001 1",
		"-host pi.local -tls":                 "tcp tls pi.local:443 1",
		"-host https://pi.local":              "tcp tls pi.local:443 1",
		"-host http://pi.local:80/":           "tcp plain pi.local:80 1",
		"-host pi.local:8080 -tls-ca " + file: "tcp tls pi.local:8080 1",
		"-host ::1":                           "tcp plain [::1]:6001 1",
		"-host [::1]":                         "tcp plain [::1]:6001 1",
		"-host [::1]:7000":                    "tcp plain [::1]:7000 1",
		"-host pi.local -addr unix:/x" + tls:  "tcp plain pi.local:6001 1",
		"-host unix:/x -id 7":                 "unix plain /x 7",
		"-host pi.local/edge":                 "invalid value",
		"-host pi.local?x":                    "invalid value",
		"-host ada@pi.local":                  "invalid value",
		"-host ws://pi.local":                 "invalid value",
		"-host :80":                           "invalid value",
	} {
		p, _, _ := shellProgram("", nil, strings.Fields(args)...)
		var w whereabouts
		o, _, err := p.commandOptions(w.table())
		if err != nil {
			t.Errorf("%q: %v", args, err)
			continue
		}
		r, err := newRemote(o, w)
		if err != nil {
			if !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%q: %v, want %s", args, err, want)
			}
			continue
		}
		sealed := "plain"
		if r.trust != nil {
			sealed = "tls"
		}
		if got := strings.Join([]string{r.network, sealed, r.addr, r.id}, " "); got != want {
			t.Errorf("%q: %s, want %s", args, got, want)
		}
	}
}

// An answer that is none does not get to a terminal as it is, and does not take memory without end.
func TestRemoteAnswers(t *testing.T) {
	for _, c := range []struct {
		command, answer, says string
		status                int
	}{
		{"channels", "\x1b[31mno\x07\n\n way", "edge: the server answered 401: [31mno way\n", 401},
		{"channels", strings.Repeat("x", 5000), "edge: the server answered 404: " + strings.Repeat("x", 1000) + "\n", 404},
		{"channels", "<html>", "edge: the server at ADDR does not answer like a Pusher server: \"<html>\"\n", 200},
		{"trigger room e", "<html>\n\x1b" + strings.Repeat("x", 200), "edge: the server at ADDR does not answer like a Pusher server: \"<html> " + strings.Repeat("x", 93) + "\"\n", 200},
		{"trigger room e", "", "edge: the server at ADDR does not answer like a Pusher server: \"\"\n", 200},
		{"trigger room e", "[]", "edge: the server at ADDR does not answer like a Pusher server: \"[]\"\n", 202},
		{"trigger room e", `{"ok":true}`, "", 200},
		{"trigger room e -lines", "<html>", "edge: lines 1 to 2: the server at ADDR does not answer like a Pusher server: \"<html>\"\n", 200},
		{"terminate 42", "<html>", "edge: the server at ADDR does not answer like a Pusher server: \"<html>\"\n", 200},
		{"terminate 42", " {}\n", "", 200},
		{"channels", "{}", "edge: the server's answer has no \"channels\"\n", 200},
		{"users x", "{}", "edge: the server's answer has no \"users\"\n", 200},
		{"channels", "", "edge: the server answered 302: \n", 302},
		{"users ..", "<a href=/?auth_signature=" + strings.Repeat("0a", 32) + "&x=y>", "edge: the server answered 307: <a href=/?auth_signature=…&x=y>\n", 307},
		{"channels", `{"channels":{}}`, "", 200},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(c.status)
			io.WriteString(w, c.answer)
		}))
		addr := srv.Listener.Addr().String()
		p, stdout, stderr := shellProgram(addr, strings.NewReader("1\n2\n"), strings.Fields(c.command)...)
		says := strings.ReplaceAll(c.says, "ADDR", addr)
		if code := p.run(); (code == 0) != (c.says == "") || stderr.String() != says || stdout.String() != "" {
			t.Errorf("%s: %q: exit code %d: %s%s", c.command, c.answer, code, stdout, stderr)
		}
		srv.Close()
	}
}
