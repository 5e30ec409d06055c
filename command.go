package main

// The same binary from a shell: commands that call the HTTP API of a running server, be it edge, the hosted service or another
// that is compatible. They find the app and the address in the server's own options, variables and configuration file. What they
// print is one JSON object a line, for jq; what is for people goes to standard error.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

const maxInput = 1 << 20 // bytes of data, or of a line: more than any server takes

// shellCommands are those that are about a running server.
func shellCommands() []command {
	return []command{
		{"trigger", "CHANNEL EVENT [DATA|-]", "publish an event", (*program).triggerCommand, aboutTrigger},
		{"subscribe", "CHANNEL...", "print the events of channels, one JSON object a line", (*program).subscribeCommand, aboutSubscribe},
		{"channels", "", "print the channels that have subscribers, one JSON object a line", (*program).channelsCommand, aboutChannels},
		{"users", "CHANNEL", "print the users of a presence channel, one JSON object a line", (*program).usersCommand, aboutUsers},
		{"terminate", "USER", "close all connections that have signed in as a user", (*program).terminateCommand, aboutTerminate},
		{"sign", "CHANNEL SOCKET_ID [CHANNEL_DATA]", "print what an auth endpoint answers", (*program).signCommand, aboutSign},
	}
}

const (
	aboutTrigger = `Publishes an event. DATA is sent as it is written: clients that can read it as JSON get that, others the text. Without it {} is
sent; - stands for all of standard input, without the line break at its end. -lines sends each line of standard input, as it
comes, as an event: up to ten travel together while a request is under way, their order stays, and a server that cannot be
reached or has a problem of its own (5xx) is tried again, so that nothing is lost while it restarts (an event may arrive twice
if the answer to it was lost). A line that the server refuses ends it with exit code 1, naming the line.

  edge trigger news hello '{"text":"It works."}'
  edge trigger -channel sports news hello '{"text":"to two channels"}'
  ping localhost | edge trigger -lines sensors ping
`
	aboutSubscribe = `Prints each event of the channels as one line: {"channel":…,"event":…,"data":…[,"user_id":…]}, with data decoded if it is JSON.
It signs for private and presence channels by itself, and signs in for #server-to-user-ID. Data of encrypted channels is
printed as it comes, encrypted. A lost connection is made again. It says on standard error when it is subscribed. What cannot
become better by waiting, like a wrong key or a refused subscription, ends it with exit code 1, and so does a server that is
not there at the start.

  edge subscribe news private-orders presence-room
  edge subscribe news | jq -r 'select(.event == "hello") | .data.text'
  edge subscribe -count 1 -timeout 10s news || echo "no news is good news"
`
	aboutChannels = `Prints {"name":…,"subscription_count":…} for each channel that has subscribers, with user_count if -prefix begins with presence-.

  edge channels -prefix presence- | jq -r .name
`
	aboutUsers = `Prints {"id":…} for each user of a presence channel.

  edge users presence-room | jq -r .id
`
	aboutTerminate = `Closes all connections that have signed in as the user. It prints nothing, and that there are none is no error.

  edge terminate 42
`
	aboutSign = `Prints what an auth endpoint answers for a channel and the socket_id of a connection: {"auth":…[,"channel_data":…]}. With
-user-data it is the answer for signing in: edge sign -user-data JSON SOCKET_ID. No server is needed.

  edge sign private-orders 1234.5678
  edge sign presence-room 1234.5678 '{"user_id":"42","user_info":{"name":"Ada"}}'
  edge sign -user-data '{"id":"42"}' 1234.5678
`
)

// errEnough is the error of writing to someone who does not read any more, as in edge channels | head -1: no reason to complain.
var errEnough = errors.New("nobody reads this any more")

// print writes to standard output.
func (p *program) print(b []byte) error {
	_, err := p.stdout.Write(b)
	if errors.Is(err, syscall.EPIPE) {
		return errEnough
	}
	return err
}

// say tells a person something.
func (p *program) say(format string, args ...any) {
	fmt.Fprintf(p.stderr, "edge: "+format+"\n", args...)
}

// misused is the error of a command with the wrong arguments.
func (p *program) misused() error {
	return usageError{fmt.Errorf("it is edge %s; edge %s -help says more", p.command.usage(), p.command.name)}
}

// commandOptions reads the options of a command, its own and the server's, and chooses its app. args is what is no option.
func (p *program) commandOptions(own []option) (o *options, args []string, err error) {
	o = &options{choosing: true}
	g, table := given{}, append(own, optionTable(o)...)
	if args, err = g.readFlags(p.args, table); err == nil {
		err = o.read(g, table, p.getenv)
	}
	if err == nil {
		err = o.chooseApp()
	}
	return o, args, p.misread(err, p.command.helpText(own)+helpOfServer)
}

// misread makes an error of reading options one of usage; if it is that help was asked for, help is the text.
func (p *program) misread(err error, help string) error {
	switch {
	case errors.Is(err, flag.ErrHelp):
		p.helpText = help
	case err != nil:
		err = usageError{err}
	}
	return err
}

const helpOfServer = `
The app and the address are those of the server's own options, variables and file: -config, -addr, -path, -tls-cert, -id, -key,
-secret, -secret-file (EDGE_CONFIG, EDGE_KEY, ...). Of several apps in a file -id chooses one. Exit codes: 0 done, 1 failed, 2 called wrongly.
`

// helpText is the text of edge COMMAND -help.
func (c command) helpText(own []option) string {
	var b strings.Builder
	fmt.Fprintf(&b, "edge %s\n\n%s\n", c.usage(), c.about)
	for _, opt := range own {
		fmt.Fprintf(&b, "  -%-12s %s\n", opt.name, opt.help)
	}
	return b.String()
}

// chooseApp makes app the one that is meant.
func (o *options) chooseApp() error {
	if len(o.apps) == 1 && (o.app.id == "" || o.apps[0].id == o.app.id) {
		o.app = o.apps[0]
	} else if i := slices.IndexFunc(o.apps, func(a appOptions) bool { return a.id == o.app.id }); i >= 0 {
		o.app = o.apps[i]
	} else {
		var ids []string
		for _, a := range o.apps {
			ids = append(ids, a.id)
		}
		return fmt.Errorf("which app? -id is one of %s", strings.Join(ids, ", "))
	}
	if o.app.madeKey || o.app.madeSecret {
		return errors.New("which app? -key and -secret say it, EDGE_KEY and EDGE_SECRET, or the -config of the server")
	}
	return nil
}

// publication is edge trigger.
type publication struct {
	*remote
	p        *program
	channels []string
	event    string
	socketID string
	lines    bool
	patience time.Duration // 0 for that of call, with lines for ever
}

func (p *program) triggerCommand() error {
	var w whereabouts
	t := &publication{p: p}
	o, args, err := p.commandOptions(append([]option{
		{"channel", "", "a further channel, may be repeated", onlyFlag | repeats, add(&t.channels, func(string) error { return nil }), forget(&t.channels)},
		{"socket-id", "", "connection that does not get the event", onlyFlag, text(&t.socketID), nil},
		{"lines", "false", "send each line of standard input as an event", onlyFlag, boolean(&t.lines), nil},
		{"timeout", "0", "end if the event, with -lines a line, could not be sent for so long, like 1m; without it after 30s, with -lines never", onlyFlag, duration(&t.patience, 0), nil},
	}, w.table()...))
	if err != nil {
		return err
	}
	if len(args) < 2 || len(args) > 3 || t.lines && len(args) == 3 && args[2] != "-" {
		return p.misused()
	}
	if t.remote, err = newRemote(o, w); err != nil {
		return err
	}
	defer t.client.CloseIdleConnections()
	t.channels, t.event = append([]string{args[0]}, t.channels...), args[1]
	if t.lines {
		return t.sendLines(p.stdin)
	}
	data := "{}"
	if len(args) == 3 {
		data = args[2]
	}
	if data == "-" {
		b, err := io.ReadAll(io.LimitReader(p.stdin, maxInput+1))
		if err != nil {
			return fmt.Errorf("cannot read standard input: %w", err)
		}
		data = strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	}
	if problem := t.check(data); problem != nil {
		return problem
	}
	return t.persist([]string{data})
}

var errTooLong = fmt.Errorf("the data has more than %d bytes", maxInput)

// check refuses data that would not arrive as it is.
func (t *publication) check(data string) error {
	switch {
	case len(data) > maxInput:
		return errTooLong
	case !utf8.ValidString(data):
		return errors.New("the data is not UTF-8")
	}
	for _, channel := range t.channels {
		if strings.HasPrefix(channel, "private-encrypted-") && !encrypted([]byte(data)) {
			return fmt.Errorf(`%s is an encrypted channel, whose data must come encrypted: {"nonce":…,"ciphertext":…}`, channel)
		}
	}
	return nil
}

// encrypted reports whether data is what the clients of encrypted channels can read.
func encrypted(data []byte) bool {
	var all map[string]any
	json.Unmarshal(data, &all) // nothing, if it is no object
	_, nonce := all["nonce"].(string)
	_, text := all["ciphertext"].(string)
	return nonce && text
}

// send publishes an event for each data, of which there is one unless there is one channel.
func (t *publication) send(ctx context.Context, all []string) error {
	path, body := "/events", []byte{'{'}
	if len(all) > 1 {
		path, body = "/batch_events", []byte(`{"batch":[`)
	}
	for _, data := range all {
		if len(all) > 1 {
			body = append(appendComma(body), '{')
		}
		body = t.appendEvent(body, data, len(all) > 1)
		body = append(body, '}')
	}
	if len(all) > 1 {
		body = append(body, "]}"...)
	}
	_, err := t.call(ctx, "POST", path, nil, body)
	return err
}

func (t *publication) appendEvent(dst []byte, data string, batch bool) []byte {
	dst = appendString(append(dst, `"name":`...), t.event)
	dst = appendString(append(dst, `,"data":`...), data)
	if t.socketID != "" {
		dst = appendString(append(dst, `,"socket_id":`...), t.socketID)
	}
	if batch {
		return appendString(append(dst, `,"channel":`...), t.channels[0])
	}
	dst = append(dst, `,"channels":[`...)
	for _, channel := range t.channels {
		dst = appendString(appendComma(dst), channel)
	}
	return append(dst, ']')
}

// sendLines publishes each line as it comes, or several together that came while a request was under way.
func (t *publication) sendLines(in io.Reader) error {
	lines, done := make(chan string, maxBatch), make(chan struct{})
	defer close(done)
	var failed error // set before lines is closed
	go func() {      // ends with in, or with the program
		failed = t.readLines(in, lines, done)
		close(lines)
	}()
	most := maxBatch
	if len(t.channels) > 1 {
		most = 1 // an event of a batch has one channel
	}
	sent := 0
	for line := range lines {
		batch := []string{line}
		for more := true; more && len(batch) < most; {
			select {
			case line, more = <-lines:
				if more {
					batch = append(batch, line)
				}
			default:
				more = false
			}
		}
		if err := t.sendBatch(batch, sent); err != nil {
			return err
		}
		sent += len(batch)
	}
	return failed
}

// readLines hands on lines until in ends, one is bad, or nobody takes them any more.
func (t *publication) readLines(in io.Reader, lines chan<- string, done <-chan struct{}) error {
	s := bufio.NewScanner(in)
	s.Buffer(nil, maxInput+1)
	n := 1
	for ; s.Scan(); n++ {
		if err := t.check(s.Text()); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		select {
		case lines <- s.Text():
		case <-done:
			return nil
		}
	}
	switch err := s.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("line %d: %w", n, errTooLong)
	case err != nil:
		return fmt.Errorf("cannot read line %d: %w", n, err)
	}
	return nil
}

// sendBatch publishes lines, of which before is the number of the line before.
func (t *publication) sendBatch(batch []string, before int) error {
	err := t.persist(batch)
	if err == nil {
		return nil
	}
	if len(batch) == 1 || passing(err) {
		return fmt.Errorf("line %d: %w", before+1, err)
	}
	for i := range batch { // of a batch that is refused nothing is published: those before the line that is to blame can be
		if err := t.sendBatch(batch[i:i+1], before+i); err != nil {
			return err
		}
	}
	return nil
}

// persist is send, with lines tried again while that may help.
func (t *publication) persist(batch []string) error {
	ctx, cancel := context.Background(), func() {}
	if t.patience > 0 {
		ctx, cancel = context.WithTimeoutCause(ctx, t.patience, fmt.Errorf("no answer within %s", t.patience))
	}
	defer cancel()
	for try := 0; ; try++ {
		err := t.send(ctx, batch)
		if err == nil && try > 0 {
			t.p.say("the server at %s takes events again", t.api)
		}
		if err == nil || !t.lines || !passing(err) || ctx.Err() != nil {
			return err
		}
		if try == 0 {
			t.p.say("%v: trying again", err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(backoff(try)):
		}
	}
}

// list prints the items of a member of an answer, each as what line makes of it.
func (p *program) list(answer []byte, name string, each func(of []byte) [][]byte) error {
	var all map[string]json.RawMessage
	json.Unmarshal(answer, &all) // it is an object
	if of := string(all[name]); of == "" || of == "null" {
		return fmt.Errorf("the server's answer has no %q: %s", name, oneLine(answer))
	}
	return p.print(bytes.Join(append(each(all[name]), nil), []byte{'\n'}))
}

// compact returns JSON without the space between its tokens.
func compact(b []byte) []byte {
	var out bytes.Buffer
	json.Compact(&out, b)
	return out.Bytes()
}

func (p *program) channelsCommand() error {
	var w whereabouts
	var prefix string
	o, args, err := p.commandOptions(append([]option{
		{"prefix", "", "only channels whose names begin so", onlyFlag, text(&prefix), nil},
	}, w.table()...))
	if err != nil {
		return err
	}
	if len(args) > 0 {
		return p.misused()
	}
	r, err := newRemote(o, w)
	if err != nil {
		return err
	}
	defer r.client.CloseIdleConnections()
	var ps params
	infos := []params{{{"info", "subscription_count"}}, nil} // a server may not count subscriptions here
	if prefix != "" {
		ps = params{{"filter_by_prefix", prefix}}
	}
	if strings.HasPrefix(prefix, "presence-") {
		infos = []params{{{"info", "subscription_count,user_count"}}, {{"info", "user_count"}}, nil}
	}
	var answer []byte
	for _, info := range infos {
		answer, err = r.call(context.Background(), "GET", "/channels", append(info, ps...), nil)
		var refused *apiError
		if !errors.As(err, &refused) || refused.status != http.StatusBadRequest {
			break
		}
	}
	if err != nil {
		return err
	}
	return p.list(answer, "channels", func(of []byte) (lines [][]byte) {
		all, _ := members(of)
		for _, channel := range all {
			line := appendString([]byte(`{"name":`), channel.name)
			about, _ := members(channel.value)
			for _, f := range about {
				line = append(appendString(append(line, ','), f.name), ':')
				line = append(line, compact(f.value)...)
			}
			lines = append(lines, append(line, '}'))
		}
		slices.SortFunc(lines, bytes.Compare)
		return lines
	})
}

func (p *program) usersCommand() error {
	r, args, err := p.oneArgument()
	if err != nil {
		return err
	}
	defer r.client.CloseIdleConnections()
	answer, err := r.call(context.Background(), "GET", "/channels/"+args+"/users", nil, nil)
	if err != nil {
		return err
	}
	return p.list(answer, "users", func(of []byte) (lines [][]byte) {
		var all []json.RawMessage
		json.Unmarshal(of, &all) // nothing, if it is no list
		for _, user := range all {
			lines = append(lines, compact(user))
		}
		return lines
	})
}

func (p *program) terminateCommand() error {
	r, user, err := p.oneArgument()
	if err != nil {
		return err
	}
	defer r.client.CloseIdleConnections()
	_, err = r.call(context.Background(), "POST", "/users/"+user+"/terminate_connections", nil, []byte("{}"))
	return err
}

// oneArgument reads what there is to read for a command with one argument, which becomes part of a path.
func (p *program) oneArgument() (r *remote, argument string, err error) {
	var w whereabouts
	o, args, err := p.commandOptions(w.table())
	if err != nil {
		return nil, "", err
	}
	if len(args) != 1 || args[0] == "" || strings.Contains(args[0], "/") {
		return nil, "", p.misused()
	}
	r, err = newRemote(o, w)
	return r, args[0], err
}

func (p *program) signCommand() error {
	var userData string
	o, args, err := p.commandOptions([]option{
		{"user-data", "", "sign in a user instead: an object with an id", onlyFlag, text(&userData), nil},
	})
	if err != nil {
		return err
	}
	key := newKey(o.app.key, o.app.secret)
	var answer []byte
	switch {
	case userData != "" && len(args) == 1:
		answer, err = signUser(key, args[0], userData)
	case userData == "" && (len(args) == 2 || len(args) == 3):
		answer, err = signChannel(key, args[1], args[0], strings.Join(args[2:], ""))
	default:
		return p.misused()
	}
	if err != nil {
		return usageError{err}
	}
	return p.print(append(answer, '\n'))
}

// signChannel is what an auth endpoint answers for a channel: {"auth":…[,"channel_data":…]}.
func signChannel(key *Key, socket, channel, channelData string) ([]byte, error) {
	if _, err := checkSocketID(socket); err != nil {
		return nil, err
	}
	k, ok := parseChannel(channel, maxInput)
	switch {
	case !ok:
		return nil, fmt.Errorf("%.200q is not the name of a channel", channel)
	case k&kindPrivate == 0:
		return nil, fmt.Errorf("%.200s is not a private channel: it needs no signature", channel)
	case !utf8.ValidString(channelData):
		return nil, errors.New("channel_data is not UTF-8")
	case k&kindPresence != 0 && channelData != "": // without, the user is the one who has signed in
		if _, _, err := parseMember([]byte(channelData)); err != nil {
			return nil, err
		}
	}
	answer := appendSigned(key, channelText(nil, socket, []byte(channel), []byte(channelData)))
	if channelData != "" {
		answer = appendString(append(answer, `,"channel_data":`...), channelData)
	}
	return append(answer, '}'), nil
}

// signUser is what an auth endpoint answers for signing in: {"auth":…,"user_data":…}.
func signUser(key *Key, socket, userData string) ([]byte, error) {
	if _, err := checkSocketID(socket); err != nil {
		return nil, err
	}
	if _, _, err := parseUser([]byte(userData)); err != nil {
		return nil, err
	}
	answer := appendSigned(key, userText(nil, socket, []byte(userData)))
	answer = appendString(append(answer, `,"user_data":`...), userData)
	return append(answer, '}'), nil
}

func appendSigned(key *Key, text []byte) []byte {
	return appendString([]byte(`{"auth":`), key.token(nil, text))
}

// checkSocketID is parseSocketID for ids that are to be signed, as they are written.
func checkSocketID(s string) (socketID, error) {
	id, ok := parseSocketID(s)
	if !ok || id.String() != s {
		return id, fmt.Errorf("%.100q is not the socket_id of a connection: two numbers with a point between", s)
	}
	return id, nil
}
