package edgetest

// A protocol script is a text file of scenes, each with a server of its own. Its lines are steps, one after the other:
//
//	edge -client-events=false        a scene begins: edge with these flags
//	a connects [PATH] [HEADER: x]    over a WebSocket, with this header instead of its like; reads connection_established
//	a asks [PATH] [HEADER: x]        the same, but what is answered is up to the next lines
//	a leaves                         ends its connection without a word
//	a> TEXT                          sends a message
//	a< TEXT                          receives exactly this message
//	a< NAME CHANNEL DATA             short for {"event":"NAME","channel":"CHANNEL","data":"DATA"}, DATA being quoted
//	a< nothing                       nothing is on its way to a
//	a>> 89 PAYLOAD                   sends a frame, whose first byte is this
//	a<< 8a PAYLOAD                   receives exactly this frame
//	a! 4009 REASON                   is closed with this code, for this or any reason
//	a subscribes CHANNEL [DATA]      with a right signature, and DATA for its channel_data
//	a joins CHANNEL [DATA]           the same, and reads what comes until it is in
//	a unsubscribes CHANNEL
//	a signs in {"id":"1"}            and reads the answer
//	POST /apps/1/events?QUERY BODY   an API call, signed unless its query has an auth_signature
//	= 200 TEXT                       its answer; without this line, 200
//	mark                             a stopwatch starts
//	passed 10s                       so much time was on it when the last frame came
//	wait 3s                          scenes with this or "passed" are for virtual time
//
// What anybody receives has to be in the script: nothing may be on its way when a scene ends. Where … stands in what is
// received there may be anything. Between clients there is no order: each reads what came to itself.
//
// The lines from "do" to "end" are done for each row between "each" and "do". A row's fields, separated by " | ", are
// in them as $x and $y; a row 1..20 stands for twenty:
//
//	each x y
//		1 | one
//	do
//		a> $x $y
//	end
//
// A line that begins with "# " is a comment. Arguments of a step may have these in them:
//
//	$socket(a)                       a's socket id
//	$token(a,CHANNEL,DATA)           the auth of a subscription, DATA being optional
//	$user(a,DATA)                    the auth of a signin
//	$quote(TEXT)                     TEXT as a JSON string
//	$times(20,TEXT)                  TEXT twenty times
//	$bytes(\xff)                     what Go's escapes stand for
//	$md5(TEXT)
//	$time(-600)                      the time 600 seconds ago
//	$sign(GET PATH?QUERY)            the auth_signature of a call

import (
	"bufio"
	"cmp"
	"crypto/md5"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Scene is a part of a script.
type Scene struct {
	Flags []string // of its server
	Timed bool     // it takes virtual time
	Bare  bool     // it takes a WebSocket: frames, headers or paths as they stand

	name  string
	steps []step
}

type step struct{ place, text string }

// Stage is where scenes are played.
type Stage struct {
	Dial  func() net.Conn
	Open  func(path string) *Client // how clients connect; nil: over a WebSocket
	Sleep func(time.Duration)       // passes virtual time
	Quiet func()                    // waits until the server has nothing left to do; nil: nobody can know
}

var (
	timedStep = regexp.MustCompile(`^(wait|passed) `)
	bareStep  = regexp.MustCompile(`^\w+(>>|<<| (connects|asks) (\$|.*: ))`)
	anyStep   = regexp.MustCompile(`^\s*(\w+|=)(>>|<<|>|<|!| |$)\s*(.*)$`)
	macro     = regexp.MustCompile(`\$([a-z0-9]+)\(([^()]*)\)`)
)

// Scenes has every scene of the scripts in a folder played as a test.
func Scenes(t *testing.T, dir string, play func(t *testing.T, s *Scene)) {
	files, _ := filepath.Glob(filepath.Join(dir, "*.txt"))
	if files == nil {
		t.Fatalf("no scripts in %s", dir)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range scenes(filepath.Base(file), string(text)) {
			t.Run(s.name, func(t *testing.T) { play(t, s) })
		}
	}
}

func scenes(file, text string) (all []*Scene) {
	var s *Scene
	for i, line := range strings.Split(text, "\n") {
		place, bare, fields := fmt.Sprintf("%s:%d", file, i+1), strings.TrimSpace(line), strings.Fields(line)
		switch {
		case bare == "" || strings.HasPrefix(bare, "# "):
		case fields[0] == "edge":
			s = &Scene{name: place, Flags: fields[1:]}
			all = append(all, s)
		default:
			s.steps = append(s.steps, step{place, line})
			s.Timed, s.Bare = s.Timed || timedStep.MatchString(bare), s.Bare || bareStep.MatchString(bare)
		}
	}
	for _, s := range all {
		s.steps = unroll(s.steps)
	}
	return all
}

// unroll does away with loops.
func unroll(steps []step) (flat []step) {
	for len(steps) > 0 {
		indent, names, loop := strings.Cut(steps[0].text, "each ")
		if !loop || strings.TrimSpace(indent) != "" {
			flat, steps = append(flat, steps[0]), steps[1:]
			continue
		}
		do := slices.IndexFunc(steps, func(s step) bool { return s.text == indent+"do" })
		end := slices.IndexFunc(steps, func(s step) bool { return s.text == indent+"end" })
		for _, row := range rows(steps[1:do]) {
			var values []string
			for i, value := range strings.Split(row, " | ") {
				values = append(values, "$"+strings.Fields(names)[i], strings.TrimSpace(value))
			}
			body := slices.Clone(steps[do+1 : end])
			for i, s := range body {
				body[i] = step{s.place + " for " + row, strings.NewReplacer(values...).Replace(s.text)}
			}
			flat = append(flat, unroll(body)...)
		}
		steps = steps[end+1:]
	}
	return flat
}

func rows(steps []step) (all []string) {
	for _, s := range steps {
		var from, to int
		if n, _ := fmt.Sscanf(s.text, "%d..%d", &from, &to); n < 2 {
			all = append(all, strings.TrimSpace(s.text))
			continue
		}
		for ; from <= to; from++ {
			all = append(all, strconv.Itoa(from))
		}
	}
	return all
}

// player plays one scene.
type player struct {
	testing.TB
	Stage
	at          step
	clients     map[string]*Client
	began       time.Time
	mark, frame time.Time // when the stopwatch started, and when the last frame came
	status      int       // of the last answer; 0 once that has been looked at
	answer      string
}

// Play plays the scene, with a server of its flags.
func (s *Scene) Play(t testing.TB, on Stage) {
	p := &player{TB: t, Stage: on, clients: make(map[string]*Client), began: time.Now()}
	for _, p.at = range s.steps {
		parts := anyStep.FindStringSubmatch(p.at.text)
		if parts == nil {
			p.Fatalf("no step")
		}
		args := p.expand(parts[3])
		first, rest, _ := strings.Cut(args, " ")
		p.step(parts[1], parts[2], args, first, rest)
	}
	p.at.text = "the end of the scene"
	p.step("mark", " ", "", "", "")
	for _, c := range p.clients {
		p.nothing(c)
	}
}

// Fatalf says where in the script it is.
func (p *player) Fatalf(format string, args ...any) {
	p.Helper()
	p.TB.Fatalf("%s: %.300s\n%s", p.at.place, strings.TrimSpace(p.at.text), fmt.Sprintf(format, args...))
}

func (p *player) step(who, how, args, first, rest string) {
	n, _ := strconv.Atoi(first)
	hex, _ := strconv.ParseUint(first, 16, 8)
	if who != "=" && p.status != 0 && p.status != http.StatusOK {
		p.Fatalf("after an answer of %d %s", p.status, p.answer)
	}
	switch c := p.clients[who]; {
	case who == "=" && (p.status != n || !like(p.answer, rest)):
		p.Fatalf("got  %d %s\nwant %d %s", p.status, p.answer, n, rest)
	case who == "=":
		p.status = 0
	case strings.ToUpper(who) == who:
		p.call(who, first, rest)
	case c == nil || how == " ":
		p.verb(c, who, first, rest)
	case how == ">":
		c.Send("%s", args)
	case how == ">>":
		c.Raw(Masked(byte(hex), []byte(rest)))
	case how == "<<":
		p.expect(c, byte(hex), rest)
	case how == "!":
		p.expect(c, 0x80|OpClose, string([]byte{byte(n >> 8), byte(n)})+cmp.Or(rest, "…"))
		if _, _, err := c.ReadFrame(); err == nil {
			p.Fatalf("a frame after the close frame")
		}
		p.leave(who)
	case args == "nothing":
		p.nothing(c)
	case strings.HasPrefix(args, "{"):
		p.expect(c, 0x80|OpText, args)
	default:
		channel, data, _ := strings.Cut(rest, " ")
		p.expect(c, 0x80|OpText, Event(first, channel, data))
	}
}

// verb does what is said in words.
func (p *player) verb(c *Client, who, first, rest string) {
	channel, data, _ := strings.Cut(rest, " ")
	d, _ := time.ParseDuration(first)
	switch {
	case first == "connects":
		p.open(who, rest).Established()
		return
	case first == "asks":
		p.open(who, rest)
		return
	case c == nil:
		p.time(who, d)
		return
	}
	switch first {
	case "leaves":
		p.leave(who)
	case "subscribes":
		c.Subscribe(channel, data)
	case "joins":
		c.Enter(channel, data)
	case "unsubscribes":
		c.Unsubscribe(channel)
	case "signs":
		c.SignIn(data)
	default:
		p.Fatalf("%s cannot do that", who)
	}
}

func (p *player) time(what string, d time.Duration) {
	switch passed := p.frame.Sub(p.mark); {
	case what == "wait":
		p.Sleep(d)
	case what == "mark":
		p.mark = time.Now()
	case what != "passed" || passed != d:
		p.Fatalf("it was %s, or nobody is there", passed)
	}
}

func (p *player) leave(who string) {
	if c := p.clients[who]; c != nil {
		c.Leave()
	}
	delete(p.clients, who)
}

// open asks for a WebSocket, or what the stage has for it. A refusal is the answer of a call.
func (p *player) open(who, how string) (c *Client) {
	p.leave(who)
	path, header, _ := strings.Cut(how, " ")
	if !strings.HasPrefix(path, "/") {
		path, header = Path, how
	}
	if p.Open != nil {
		c = p.Open(path)
		c.T, p.clients[who] = p, c
		return c
	}
	text := strings.Replace(Upgrade, Path, path, 1)
	if name, _, ok := strings.Cut(header, ":"); ok {
		text = regexp.MustCompile("(?m)^"+name+": .*\n").ReplaceAllString(text, "")
		text = strings.Replace(text, "\n\n", "\n"+header+"\n\n", 1)
	}
	c, r := Request(p, p.Dial(), text)
	if p.clients[who] = c; r.StatusCode != http.StatusSwitchingProtocols {
		p.read(r)
		p.leave(who)
	}
	return c
}

func (p *player) expect(c *Client, first byte, want string) {
	opcode, got := c.Frame()
	p.frame = time.Now()
	if 0x80|opcode != first || !like(string(got), want) {
		p.Fatalf("got  %x %q\nwant %x %q", 0x80|opcode, got, first, want)
	}
}

// like reports whether got is want, in which each … stands for something.
func like(got, want string) bool {
	before, after, open := strings.Cut(want, "…")
	rest, ok := strings.CutPrefix(got, before)
	if !open || !ok {
		return ok && rest == ""
	}
	for i := range rest {
		if i > 0 && like(rest[i:], after) {
			return true
		}
	}
	return after == "" && rest != ""
}

// nothing checks that nothing is on its way to a client.
func (p *player) nothing(c *Client) {
	if p.Quiet != nil {
		p.Quiet()
	}
	c.Settled()
}

// call makes an API call, on a connection of its own.
func (p *player) call(method, target, body string) {
	path, query, _ := strings.Cut(target, "?")
	if !strings.Contains(strings.ToLower(query), "auth_") {
		target = strings.TrimPrefix(URL("", method, path, query, body), "http://")
	} else if !strings.Contains(query, "auth_signature") {
		target += "&auth_signature=" + p.value("sign", method+" "+target)
	}
	conn := p.Dial()
	defer conn.Close()
	go fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: edge\r\nContent-Length: %d\r\n\r\n%s", method, target, len(body), body)
	r, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		p.Fatalf("%v", err)
	}
	p.read(r)
}

// read takes an answer, which must be a JSON object, or one line if it is an error.
func (p *player) read(r *http.Response) {
	b, _ := io.ReadAll(r.Body)
	LookForSecret("an answer", fmt.Append(nil, r.Header, string(b)))
	p.status, p.answer = r.StatusCode, strings.TrimSuffix(string(b), "\n")
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	object := kind == "application/json" && json.Valid(b) && b[0] == '{' && p.status < 300
	line := kind == "text/plain" && (p.status < 300 || !strings.Contains(p.answer, "\n"))
	if redirect := p.status/100 == 3; !object && !line && !redirect {
		p.Fatalf("%d with %s %q", p.status, kind, b)
	}
}

// expand replaces what begins with $.
func (p *player) expand(text string) string {
	for macro.MatchString(text) {
		text = macro.ReplaceAllStringFunc(text, func(found string) string {
			parts := macro.FindStringSubmatch(found)
			return p.value(parts[1], parts[2])
		})
	}
	return text
}

func (p *player) value(name, args string) string {
	first, rest, _ := strings.Cut(args, ",")
	n, _ := strconv.Atoi(first)
	c := p.clients[first]
	if c == nil {
		c = new(Client)
	}
	switch name {
	case "socket":
		return c.ID
	case "token":
		channel, data, _ := strings.Cut(rest, ",")
		return Token(c.ID, channel, data)
	case "user":
		return UserToken(c.ID, rest)
	case "quote":
		return Quote(args)
	case "md5":
		return fmt.Sprintf("%x", md5.Sum([]byte(args)))
	case "times":
		return strings.Repeat(rest, n)
	case "time":
		return strconv.FormatInt(p.began.Unix()+int64(n), 10)
	case "sign":
		method, target, _ := strings.Cut(args, " ")
		path, query, _ := strings.Cut(target, "?")
		signature, _ := SignQuery(method, path, query) // "" for what is no query
		return signature
	}
	bytes, err := strconv.Unquote(`"` + args + `"`)
	if name != "bytes" || err != nil {
		p.Fatalf("$%s(%s)", name, args)
	}
	return bytes
}
