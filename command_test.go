package main

// The commands are tested as scripts, testdata/shell/*.txt, that a shell runs against a live server. Of a script
//
//	serve -options             says how to start it, once and first; "serve none" wants none
//	env NAME=VALUE             sets a variable for all commands
//	file NAME                  makes a file of the lines up to one with a point, in the directory $DIR
//	$ command                  is for sh, in a directory of its own; with & at its end the script goes on when it is subscribed
//	< line                     is its standard input
//	> line, ! line             are what it prints on standard output and on standard error, where … stands for anything
//	= 1                        is its exit code, if not 0

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// step is a command of a script, and what becomes of it.
type step struct {
	place           string
	command         string
	in, out, errors []string
	code            string
	behind          bool

	cmd            *exec.Cmd
	stdout, stderr watchedBuffer
	cancel         func()
}

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

// script is one that runs.
type script struct {
	t     *testing.T
	dir   string
	env   []string
	steps []*step
	args  []string // of the server
	alone bool     // there is none
}

// shell is a directory in which edge is this program.
func (s *script) shell() {
	s.t.Helper()
	s.dir = s.t.TempDir()
	if err := os.Symlink(must(filepath.Abs(os.Args[0])), filepath.Join(s.dir, "edge")); err != nil {
		s.t.Skip(err)
	}
	s.env = []string{"PATH=" + s.dir + string(os.PathListSeparator) + os.Getenv("PATH"), "EDGE_TEST_PROCESS=edge", "TMPDIR=" + s.dir, "LC_ALL=C.UTF-8",
		"EDGE_KEY=key", "EDGE_SECRET=" + testSecret}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// parse reads a script.
func (s *script) parse(name, text string) {
	s.t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	var last *step
	for i := 0; i < len(lines); i++ {
		verb, rest, _ := strings.Cut(lines[i], " ")
		place := fmt.Sprintf("%s:%d", name, i+1)
		switch {
		case verb == "" || verb == "#":
		case verb == "serve":
			s.args = strings.Fields(strings.ReplaceAll(rest, "$DIR", s.dir))
			s.alone = rest == "none"
		case verb == "env":
			s.env = append(s.env, rest)
		case verb == "file":
			var content strings.Builder
			for i++; lines[i] != "."; i++ {
				content.WriteString(lines[i] + "\n")
			}
			if err := os.WriteFile(filepath.Join(s.dir, rest), []byte(strings.ReplaceAll(content.String(), "$DIR", s.dir)), 0o600); err != nil {
				s.t.Fatal(err)
			}
		case verb == "$":
			command, behind := strings.CutSuffix(rest, " &")
			last = &step{place: place, command: command, behind: behind, code: "0"}
			s.steps = append(s.steps, last)
		case last == nil:
			s.t.Fatalf("%s: %q is before the first command", place, lines[i])
		case verb == "<":
			last.in = append(last.in, rest)
		case verb == ">":
			last.out = append(last.out, rest)
		case verb == "!":
			last.errors = append(last.errors, rest)
		case verb == "=":
			last.code = rest
		default:
			s.t.Fatalf("%s: %q is nothing that a script can have", place, lines[i])
		}
	}
}

// run runs a script that has been read.
func (s *script) run() {
	s.t.Helper()
	if !s.alone {
		s.env = append(s.env, "EDGE_ADDR="+s.serve())
	}
	for _, st := range s.steps {
		if st.start(s); st.behind {
			select {
			case <-st.stderr.heard:
			case <-st.ended():
				s.t.Errorf("%s: %s has ended, or is not subscribed", st.place, st.command)
			}
			continue
		}
		st.check(s.t)
	}
	for _, st := range s.steps {
		if st.behind {
			st.check(s.t)
		}
	}
}

// serve starts the server, with the key and secret of these tests unless there is a file that says others.
func (s *script) serve() (addr string) {
	s.t.Helper()
	if len(s.args) == 0 || s.args[0] != "-config" {
		return startEdge(s.t, s.args...)
	}
	o, err := parseOptions(s.args, noEnv)
	if err != nil {
		s.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	return serveOptions(s.t, l, o).addr
}

// ended is done when the command had to be killed for lack of time.
func (st *step) ended() <-chan time.Time { return time.After(patience) }

func (st *step) start(s *script) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*patience)
	st.cancel = cancel
	s.t.Cleanup(cancel)
	st.cmd = exec.CommandContext(ctx, "sh", "-c", st.command)
	st.cmd.Dir, st.cmd.Env, st.cmd.WaitDelay = s.dir, s.env, time.Second
	if st.in != nil {
		st.cmd.Stdin = strings.NewReader(strings.Join(st.in, "\n") + "\n")
	}
	st.stderr.text, st.stderr.heard = "edge: subscribed to", make(chan struct{})
	st.cmd.Stdout, st.cmd.Stderr = &st.stdout, &st.stderr
	if err := st.cmd.Start(); err != nil {
		s.t.Fatalf("%s: %v", st.place, err)
	}
}

// check waits for the end of the command, and compares.
func (st *step) check(t *testing.T) {
	t.Helper()
	err := st.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Errorf("%s: %s: %v", st.place, st.command, err)
	}
	if got := fmt.Sprint(st.cmd.ProcessState.ExitCode()); got != st.code {
		t.Errorf("%s: %s: exit code %s, want %s", st.place, st.command, got, st.code)
	}
	for _, c := range []struct {
		what, got string
		want      []string
	}{{"standard output", st.stdout.String(), st.out}, {"standard error", st.stderr.String(), st.errors}} {
		want := strings.Join(append(c.want, ""), "\n")
		pattern := "^" + strings.ReplaceAll(regexp.QuoteMeta(want), "…", "[^\n]*") + "$"
		if got := c.got; got != want && !regexp.MustCompile(pattern).MatchString(got) {
			t.Errorf("%s: %s: %s\n%swant\n%s", st.place, st.command, c.what, got, want)
		}
	}
}

func runScript(t *testing.T, name, text string, variables ...string) {
	need(t, "sh")
	if strings.Contains(text, "| jq ") {
		need(t, "jq")
	}
	s := &script{t: t}
	s.shell()
	s.env = append(s.env, variables...)
	s.parse(name, text)
	if len(s.steps) == 0 {
		t.Fatalf("%s does nothing", name)
	}
	s.run()
}

func TestShell(t *testing.T) {
	files, err := filepath.Glob("testdata/shell/*.txt")
	if err != nil || len(files) < 7 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text := string(readFile(t, file))
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			runScript(t, file, text)
		})
	}
}

// TestReadmeShell runs the README's examples, and compares what it says that they print.
func TestReadmeShell(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```console\n(.*?)```").FindAllSubmatch(readFile(t, "README.md"), -1)
	if len(blocks) == 0 {
		t.Fatal("there are no examples")
	}
	var text strings.Builder
	for _, block := range blocks {
		for line := range strings.Lines(string(block[1])) {
			switch { // as a terminal shows it
			case strings.HasPrefix(line, "edge: "):
				line = "! " + line
			case !strings.HasPrefix(line, "$ "):
				line = "> " + line
			}
			text.WriteString(line)
		}
	}
	runScript(t, "README.md", text.String())
}

// shellProgram is edge as a command, in this process.
func shellProgram(addr string, stdin io.Reader, args ...string) (p *program, stdout, stderr *watchedBuffer) {
	stdout, stderr = &watchedBuffer{heard: make(chan struct{})}, &watchedBuffer{heard: make(chan struct{})}
	env := environment("EDGE_KEY=key", "EDGE_SECRET="+testSecret, "EDGE_ADDR="+addr)
	return &program{args: args, getenv: env, stdin: stdin, stdout: stdout, stderr: stderr}, stdout, stderr
}

// follow returns the numbers that c receives on a channel from now on, until it is closed.
func follow(c *client) (numbers []int, closed int) {
	c.t.Helper()
	for {
		opcode, payload := c.frame()
		if opcode == opClose {
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
	if calls := s.app.counts.calls.Load(); calls > tenThousand/2 || calls < tenThousand/maxBatch {
		t.Errorf("%d calls: nothing travelled together", calls)
	}
}

// A server that is started again in the middle takes the rest: what is sent while none is there waits.
func TestTriggerLinesSurvivesRestart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
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
		waitUntil(t, "some have been sent", func() bool { return first.app.counts.calls.Load() > 100 })
		close(written)
		first.stop()
	}()
	before, code := follow(c)
	if code != codeReconnect {
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
		case i == len(before) && all[i] < next && next-all[i] <= maxBatch:
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

// A server that is in trouble is asked again, with all that was to be sent; one that refuses is not, and what came before the line
// that is to blame is published.
func TestTriggerLinesTrouble(t *testing.T) {
	for _, c := range []struct {
		name    string
		answers []int // to the first calls; the others get 200
		lines   int
		code    int
		calls   string // events in each
		says    string
	}{
		{"500 and 503", []int{500, 503}, 1, 0, "1 1 1", "500: text: trying again\nedge: the server at ADDR takes events again\n"},
		{"429", []int{429}, 1, 0, "1 1", "429: text: trying again\nedge: the server at ADDR takes events again\n"},
		{"400", []int{400}, 1, 1, "1", "edge: line 1: the server answered 400: text\n"},
		{"a batch", []int{200, 400}, 11, 0, "1 10 1 1 1 1 1 1 1 1 1 1", ""},
		{"the third of a batch", []int{200, 413, 200, 200, 413}, 11, 1, "1 10 1 1 1", "edge: line 4: the server answered 413: text\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var calls []string
			r, w := io.Pipe()
			srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				if len(calls) == 0 && c.lines > 1 { // while the first line is under way the others come
					for i := 1; i < c.lines; i++ {
						fmt.Fprintln(w, i+1)
					}
					w.Write(nil) // is taken when the last line has been
				}
				calls = append(calls, fmt.Sprint(strings.Count(string(b), `"data":`)))
				status := 200
				if len(calls) <= len(c.answers) {
					status = c.answers[len(calls)-1]
				}
				if len(calls) >= 2 || c.lines == 1 {
					w.Close()
				}
				rw.WriteHeader(status)
				io.WriteString(rw, "text\n")
			}))
			defer srv.Close()
			addr := srv.Listener.Addr().String()
			go fmt.Fprintln(w, 1) // ends when it is read
			p, _, stderr := shellProgram(addr, r, "trigger", "room", "n", "-lines")
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

// TestSubscribeAcrossRestart: after kill -9 and a new start of the server, events come again.
func TestSubscribeAcrossRestart(t *testing.T) {
	first := startProcess(t, "edge")
	p, stdout, stderr := shellProgram(first.addr, nil, "subscribe", "room", "private-room", "-count", "2")
	stderr.text = "subscribed to room, private-room"
	ended := make(chan int, 1)
	go func() { ended <- p.run() }()
	<-stderr.heard
	publish(t, first.addr, "private-room", "before", "1")
	waitUntil(t, "the first event is printed", func() bool { return stdout.String() != "" })
	first.cmd.Process.Kill()
	first.cmd.Wait()
	waitUntil(t, "it says so", func() bool { return strings.Contains(stderr.String(), "edge: connection lost (") })
	http.DefaultClient.CloseIdleConnections()
	second := start(t, "edge", edgeCommand("-addr", first.addr, "-key", "key"))
	waitUntil(t, "it is back", func() bool { return strings.Count(stderr.String(), "edge: subscribed to room, private-room\n") == 2 })
	publish(t, second.addr, "room", "after", "2")
	if code := <-ended; code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	want := `{"channel":"private-room","event":"before","data":1}` + "\n" + `{"channel":"room","event":"after","data":2}` + "\n"
	if got := stdout.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	http.DefaultClient.CloseIdleConnections()
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
	dir, _ := certDir(t)
	s := startServer(t, tlsArgs(dir)...)
	_, port, _ := net.SplitHostPort(s.addr)
	ca := filepath.Join(dir, "edge-ca.pem")
	tell(t, s.addr, tlsArgs(dir)...)
	tell(t, "", "-host", "localhost:"+port, "-tls-ca", ca)
	tell(t, "", "-host", "https://127.0.0.1:"+port+"/", "-tls-ca", ca)

	other, _ := certDir(t)
	for _, c := range []struct {
		addr string
		args []string
		says string
	}{
		{s.addr, tlsArgs(other), "the server has another certificate than the one in "},
		{"", []string{"-tls", "-host", "localhost:" + port}, "certificate signed by unknown authority"},
		{"", []string{"-host", "localhost:" + port, "-tls-ca", filepath.Join(other, "edge-ca.pem")}, "certificate signed by unknown authority"},
		{"", []string{"-host", misnamed(t, dir), "-tls-ca", ca}, "certificate is valid for example.com, not localhost"},
	} {
		for _, command := range [][]string{{"trigger", "room", "e"}, {"subscribe", "room"}} {
			p, _, stderr := shellProgram(c.addr, nil, append(command, c.args...)...)
			if code := p.run(); code != 1 || !strings.Contains(stderr.String(), c.says) {
				t.Errorf("%q %q: exit code %d: %s", command, c.args, code, stderr)
			}
		}
	}
	p, _, stderr := shellProgram("", nil, "trigger", "room", "e", "-host", "127.0.0.1:"+port)
	if code := p.run(); code != 1 || !strings.Contains(stderr.String(), "This port is for TLS") {
		t.Errorf("without TLS: exit code %d: %s", code, stderr)
	}
	certDirAgain(t, dir)
	waitUntil(t, "the new certificate is served, and trusted", func() bool {
		p, _, _ := shellProgram(s.addr, nil, append([]string{"trigger", "room", "e"}, tlsArgs(dir)...)...)
		return p.run() == 0
	})
}

// misnamed is the address of a server with a certificate of the authority in dir, for another name.
func misnamed(t *testing.T, dir string) string {
	authority, _, err := makeAuthority(filepath.Join(dir, "edge-ca.pem"), filepath.Join(dir, "edge-ca-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	if err := makeLeaf(authority, []string{"example.com"}, filepath.Join(other, "edge.pem"), filepath.Join(other, "edge-key.pem")); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(startEdge(t, tlsArgs(other)...))
	return "localhost:" + port
}

// TestShellOverUnixSocket: an address of a file works, also as the plain one beside TLS.
func TestShellOverUnixSocket(t *testing.T) {
	name := filepath.Join(t.TempDir(), "edge.sock")
	l, err := listen("unix:" + name)
	if err != nil {
		t.Fatal(err)
	}
	startOn(t, l)
	tell(t, "unix:"+name)
	tell(t, "", "-host", "unix:"+name)
	tell(t, ":1", append(tlsArgs("/nowhere"), "-addr", ":1", "-addr", "unix:"+name)...)
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

// TestRemote: where -host, -cluster and the server's own options point to.
func TestRemote(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string // network, TLS or not, address of the API, of WebSocket connections, id
	}{
		{nil, "tcp plain 127.0.0.1:6001 127.0.0.1:6001 1"},
		{[]string{"-addr", ":7000", "-id", "7"}, "tcp plain 127.0.0.1:7000 127.0.0.1:7000 7"},
		{[]string{"-addr", "0.0.0.0:7000"}, "tcp plain 127.0.0.1:7000 127.0.0.1:7000 1"},
		{[]string{"-addr", "[::]:7000"}, "tcp plain [::1]:7000 [::1]:7000 1"},
		{[]string{"-addr", "192.0.2.1:7000"}, "tcp plain 192.0.2.1:7000 192.0.2.1:7000 1"},
		{[]string{"-addr", "example.com:80"}, "tcp plain example.com:80 example.com:80 1"},
		{[]string{"-addr", "unix:/run/edge.sock"}, "unix plain /run/edge.sock /run/edge.sock 1"},
		{[]string{"-addr", ":7000", "-tls-cert", "a", "-tls-key", "b"}, "tcp tls 127.0.0.1:7000 127.0.0.1:7000 1"},
		{[]string{"-addr", ":7000", "-addr", "127.0.0.1:7001", "-tls-cert", "a", "-tls-key", "b"}, "tcp plain 127.0.0.1:7001 127.0.0.1:7001 1"},
		{[]string{"-addr", ":7000", "-addr", "plain:10.0.0.1:7001", "-tls-cert", "a", "-tls-key", "b"}, "tcp plain 10.0.0.1:7001 10.0.0.1:7001 1"},
		{[]string{"-addr", "tls:127.0.0.1:7000", "-addr", ":1", "-tls-cert", "a", "-tls-key", "b"}, "tcp tls 127.0.0.1:7000 127.0.0.1:7000 1"},
		{[]string{"-host", "pi.local"}, "tcp plain pi.local:6001 pi.local:6001 1"},
		{[]string{"-host", "pi.local", "-tls"}, "tcp tls pi.local:443 pi.local:443 1"},
		{[]string{"-host", "https://pi.local"}, "tcp tls pi.local:443 pi.local:443 1"},
		{[]string{"-host", "http://pi.local:80/"}, "tcp plain pi.local:80 pi.local:80 1"},
		{[]string{"-host", "pi.local:8080", "-tls"}, "tcp tls pi.local:8080 pi.local:8080 1"},
		{[]string{"-host", "::1"}, "tcp plain [::1]:6001 [::1]:6001 1"},
		{[]string{"-host", "[::1]"}, "tcp plain [::1]:6001 [::1]:6001 1"},
		{[]string{"-host", "[::1]:7000"}, "tcp plain [::1]:7000 [::1]:7000 1"},
		{[]string{"-host", "pi.local", "-addr", "unix:/x", "-tls-cert", "a", "-tls-key", "b"}, "tcp plain pi.local:6001 pi.local:6001 1"},
		{[]string{"-cluster", "eu", "-id", "7"}, "tcp tls api-eu.pusher.com:443 ws-eu.pusher.com:443 7"},
		{[]string{"-host", "api-mt1.pusher.com", "-id", "7"}, "tcp tls api-mt1.pusher.com:443 ws-mt1.pusher.com:443 7"},
		{[]string{"-host", "ws-mt1.pusher.com", "-id", "7"}, "tcp tls api-mt1.pusher.com:443 ws-mt1.pusher.com:443 7"},
	} {
		p, _, _ := shellProgram("", nil, c.args...)
		var w whereabouts
		o, _, err := p.commandOptions(w.table())
		if err != nil {
			t.Errorf("%q: %v", c.args, err)
			continue
		}
		r, err := newRemote(o, w)
		if err != nil {
			t.Errorf("%q: %v", c.args, err)
			continue
		}
		sealed := "plain"
		if r.tls != nil {
			sealed = "tls"
		}
		if got := strings.Join([]string{r.network, sealed, r.api, r.ws, r.id}, " "); got != c.want {
			t.Errorf("%q: %s, want %s", c.args, got, c.want)
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
		{"channels", "<html>", "edge: the server's answer has no \"channels\": <html>\n", 200},
		{"channels", "{}", "edge: the server's answer has no \"channels\": {}\n", 200},
		{"channels", "", "edge: the server answered 302: \n", 302},
		{"channels", `{"channels":[]}`, "", 200}, // some say so if there are none
		{"channels", `{"channels":{}}`, "", 200},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(c.status)
			io.WriteString(w, c.answer)
		}))
		p, stdout, stderr := shellProgram(srv.Listener.Addr().String(), nil, c.command)
		if code := p.run(); (code == 0) != (c.says == "") || stderr.String() != c.says || stdout.String() != "" {
			t.Errorf("%q: exit code %d: %s%s", c.answer, code, stdout, stderr)
		}
		srv.Close()
	}
}

// A server that does not count subscriptions in its list of channels is asked for the list alone.
func TestChannelsOfOthers(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("info") {
			http.Error(w, "no", 400)
			return
		}
		io.WriteString(w, `{"channels":{"b":{},"a":{"user_count": 3}}}`)
	}))
	defer srv.Close()
	p, stdout, stderr := shellProgram(srv.Listener.Addr().String(), nil, "channels")
	if code := p.run(); code != 0 || stdout.String() != "{\"name\":\"a\",\"user_count\":3}\n{\"name\":\"b\"}\n" {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
}
