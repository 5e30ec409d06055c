package main

// The same binary from a shell: commands that call the HTTP API of a running server, be it edge, the hosted service or another
// that is compatible. They find the app and the address in the server's own options, variables and configuration file. What they
// print is one JSON object a line, for jq; what is for people goes to standard error.

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"edge/internal/config"
	"edge/internal/listen"
	"edge/internal/sign"
	"edge/internal/wire"
)

const (
	maxInput = 1 << 20                  // bytes of data, or of a line: more than any server takes
	forever  = time.Duration(1<<63 - 1) // a timeout of 0
)

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
	aboutTrigger = `Publishes an event. DATA is sent as written: clients decode it if it is JSON. Without it {} is sent;
- reads standard input. -lines sends each line of standard input as an event, in order; up to ten that came together
share a request. While the server cannot be reached or answers 5xx, it tries again, and an event may arrive twice.
If the server rejects a request, none of its lines is published: edge ends with exit code 1 and their numbers.

  edge trigger news hello '{"text":"It works."}'
  edge trigger -channel sports news hello '{"text":"to two channels"}'
  ping localhost | edge trigger -lines sensors ping
`
	aboutSubscribe = `Prints each event as one line: {"channel":…,"event":…,"data":…[,"user_id":…]}, with data decoded if
it is JSON. Signs for private and presence channels, and signs in for #server-to-user-ID. Data of encrypted channels
stays encrypted. Connects again when the connection is lost. A wrong key, a rejected subscription, and no server at the
start end it with exit code 1.

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

// print writes values to standard output, each as a line of JSON.
func (p *program) print(values ...any) error {
	var lines []byte
	for _, v := range values {
		lines = append(append(lines, encode(v)...), '\n')
	}
	_, err := p.stdout.Write(lines)
	if errors.Is(err, syscall.EPIPE) {
		return errEnough
	}
	return err
}

// encode is v in JSON, with characters like < as they are. v must be one that can be encoded.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
}

// say tells a person something.
func (p *program) say(format string, args ...any) {
	fmt.Fprintf(p.stderr, "edge: "+format+"\n", args...)
}

// misused is the error of a command with the wrong arguments.
func (p *program) misused() error {
	return usageError{fmt.Errorf("it is edge %s; edge %s -help says more", p.command.usage(), p.command.name)}
}

// own makes an option of a command, which is no variable.
func own(name, standard string, to any, help string) config.Option {
	return config.New(name, standard, to, help, config.OnlyFlag)
}

// commandOptions reads the options of a command, its own and the server's, and chooses its app. args is what is no option.
func (p *program) commandOptions(own []config.Option) (o config.Options, args []string, err error) {
	o, args, err = config.ParseCommand(own, p.args, p.getenv)
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
func (c command) helpText(own []config.Option) string {
	var b strings.Builder
	fmt.Fprintf(&b, "edge %s\n\n%s\n", c.usage(), c.about)
	for _, opt := range own {
		fmt.Fprintf(&b, "  -%-12s %s\n", opt.Name, opt.Help)
	}
	return b.String()
}

// atServer runs a command that calls a server and has from least to most arguments.
func (p *program) atServer(own []config.Option, least, most int, run func(r *remote, args []string) error) error {
	var w whereabouts
	o, args, err := p.commandOptions(append(own, w.table()...))
	if err != nil {
		return err
	}
	if len(args) < least || len(args) > most {
		return p.misused()
	}
	r, err := newRemote(o, w)
	if err != nil {
		return err
	}
	defer r.client.CloseIdleConnections()
	return run(r, args)
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

// triggered is an event as the HTTP API takes it, with one channel in a batch.
type triggered struct {
	Name     string   `json:"name"`
	Data     string   `json:"data"`
	Channel  string   `json:"channel,omitempty"`
	Channels []string `json:"channels,omitempty"`
	SocketID string   `json:"socket_id,omitempty"`
}

func (p *program) triggerCommand() error {
	t := &publication{p: p}
	return p.atServer([]config.Option{
		own("channel", "", &t.channels, "a further channel, may be repeated"),
		own("socket-id", "", &t.socketID, "connection that does not get the event"),
		own("lines", "false", &t.lines, "send each line of standard input as an event"),
		own("timeout", "0", &t.patience, "end if the event, with -lines a line, could not be sent for so long, like 1m; "+
			"without it after 30s, with -lines never"),
	}, 2, 3, func(r *remote, args []string) error {
		t.remote = r
		t.channels, t.event = append([]string{args[0]}, t.channels...), args[1]
		data := strings.Join(args[2:], "")
		switch {
		case t.lines && data != "" && data != "-":
			return p.misused()
		case t.lines:
			return t.sendLines(p.stdin)
		case len(args) == 2:
			data = "{}"
		case data == "-":
			b, err := io.ReadAll(io.LimitReader(p.stdin, maxInput+1))
			if err != nil {
				return fmt.Errorf("cannot read standard input: %w", err)
			}
			data = withoutBreak(b)
		}
		if err := t.check(data); err != nil {
			return err
		}
		return t.persist([]string{data})
	})
}

// withoutBreak is text without the line break at its end.
func withoutBreak(b []byte) string {
	return strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
}

var errTooLong = fmt.Errorf("the data has more than %d bytes", maxInput)

// check rejects data that would not arrive as it is.
func (t *publication) check(data string) error {
	switch {
	case len(data) > maxInput:
		return errTooLong
	case !utf8.ValidString(data):
		return errors.New("the data is not UTF-8")
	}
	var sealed struct{ Nonce, Ciphertext string }
	json.Unmarshal([]byte(data), &sealed) // stays empty if it is something else
	for _, channel := range t.channels {
		if strings.HasPrefix(channel, "private-encrypted-") && (sealed.Nonce == "" || sealed.Ciphertext == "") {
			return fmt.Errorf(`%s is an encrypted channel, whose data must come encrypted: {"nonce":…,"ciphertext":…}`, channel)
		}
	}
	return nil
}

// send publishes an event for each data. There is only one if there are several channels.
func (t *publication) send(ctx context.Context, all []string) error {
	batch := make([]triggered, len(all))
	for i, data := range all {
		batch[i] = triggered{Name: t.event, Data: data, Channel: t.channels[0], SocketID: t.socketID}
	}
	path, body := "/batch_events", any(map[string]any{"batch": batch})
	if len(all) == 1 {
		batch[0].Channel, batch[0].Channels = "", t.channels
		path, body = "/events", batch[0]
	}
	return t.call(ctx, "POST", path, nil, encode(body), &struct{}{})
}

// sendLines publishes each line as it comes, or several together that came together.
func (t *publication) sendLines(in io.Reader) error {
	lines := bufio.NewReaderSize(in, maxInput+2) // with a line break of two bytes
	for next := 1; ; {
		batch, bad := t.nextBatch(lines)
		if err := t.persist(batch); err != nil && len(batch) == 1 {
			return fmt.Errorf("line %d: %w", next, err)
		} else if err != nil {
			return fmt.Errorf("lines %d to %d: %w", next, next+len(batch)-1, err)
		}
		next += len(batch)
		switch {
		case bad == io.EOF:
			return nil
		case bad != nil:
			return fmt.Errorf("line %d: %w", next, bad)
		}
	}
}

// nextBatch reads a line, and those that have come with it. err is about the line after them; io.EOF if there is none.
func (t *publication) nextBatch(lines *bufio.Reader) (batch []string, err error) {
	for more := true; more && len(batch) < wire.MaxBatch; {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return batch, errTooLong
		case err == io.EOF && len(line) == 0:
			return batch, err
		case err != nil && err != io.EOF:
			return batch, fmt.Errorf("cannot read it: %w", err)
		}
		text := withoutBreak(line)
		if err := t.check(text); err != nil {
			return batch, err
		}
		batch = append(batch, text)
		waiting, _ := lines.Peek(lines.Buffered())
		more = bytes.IndexByte(waiting, '\n') >= 0 && len(t.channels) == 1 // an event of a batch has one channel
	}
	return batch, nil
}

// persist publishes a batch, if there is anything in it; lines are tried again while that may help.
func (t *publication) persist(batch []string) error {
	if len(batch) == 0 {
		return nil
	}
	late := fmt.Errorf("no answer within %s", t.patience)
	ctx, cancel := context.WithTimeoutCause(context.Background(), cmp.Or(t.patience, forever), late)
	defer cancel()
	for try := 0; ; try++ {
		err := t.send(ctx, batch)
		if err == nil && try > 0 {
			t.p.say("the server at %s takes events again", t.addr)
		}
		var rejected *wire.Error
		final := errors.As(err, &rejected) && rejected.Status < 500
		if err == nil || final || !t.lines || ctx.Err() != nil {
			return err
		}
		if try == 0 {
			t.p.say("%v: trying again", err)
		}
		if !pause(ctx, backoff(try)) {
			return err
		}
	}
}

func (p *program) channelsCommand() error {
	var prefix string
	return p.atServer([]config.Option{
		own("prefix", "", &prefix, "only channels whose names begin so"),
	}, 0, 0, func(r *remote, _ []string) error {
		ps := sign.Params{{Name: "info", Value: "subscription_count"}}
		if strings.HasPrefix(prefix, "presence-") {
			ps[0].Value += ",user_count"
		}
		if prefix != "" {
			ps = append(ps, sign.Param{Name: "filter_by_prefix", Value: prefix})
		}
		var answer struct{ Channels map[string]map[string]any }
		if err := r.call(context.Background(), "GET", "/channels", ps, nil, &answer); err != nil {
			return err
		}
		if answer.Channels == nil {
			return errors.New(`the server's answer has no "channels"`)
		}
		var lines []any
		for _, name := range slices.Sorted(maps.Keys(answer.Channels)) {
			line := map[string]any{"name": name}
			maps.Copy(line, answer.Channels[name])
			lines = append(lines, line)
		}
		return p.print(lines...)
	})
}

func (p *program) usersCommand() error {
	return p.atServer(nil, 1, 1, func(r *remote, args []string) error {
		var answer struct{ Users []any }
		if err := r.call(context.Background(), "GET", "/channels/"+args[0]+"/users", nil, nil, &answer); err != nil {
			return err
		}
		if answer.Users == nil {
			return errors.New(`the server's answer has no "users"`)
		}
		return p.print(answer.Users...)
	})
}

func (p *program) terminateCommand() error {
	return p.atServer(nil, 1, 1, func(r *remote, args []string) error {
		path := "/users/" + args[0] + "/terminate_connections"
		return r.call(context.Background(), "POST", path, nil, []byte("{}"), &struct{}{})
	})
}

func (p *program) signCommand() error {
	var userData string
	o, args, err := p.commandOptions([]config.Option{
		own("user-data", "", &userData, "sign in a user instead: an object with an id"),
	})
	if err != nil {
		return err
	}
	key := sign.NewKey(o.Apps[0].Key, o.Apps[0].Secret)
	var answer authAnswer
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
	return p.print(answer)
}

// authAnswer is the answer of an auth endpoint, and what a client sends on.
type authAnswer struct {
	Auth        string `json:"auth,omitempty"`
	ChannelData string `json:"channel_data,omitempty"`
	UserData    string `json:"user_data,omitempty"`
}

// signChannel is the answer of an auth endpoint for a channel.
func signChannel(key *sign.Key, socket, channel, channelData string) (answer authAnswer, err error) {
	if _, err := checkSocketID(socket); err != nil {
		return answer, err
	}
	k, ok := wire.ParseChannel(channel, maxInput)
	switch {
	case !ok:
		return answer, fmt.Errorf("%.200q is not the name of a channel", channel)
	case k&wire.KindPrivate == 0:
		return answer, fmt.Errorf("%.200s is not a private channel: it needs no signature", channel)
	case !utf8.ValidString(channelData):
		return answer, errors.New("channel_data is not UTF-8")
	case k&wire.KindPresence != 0 && channelData != "": // without, the user is the one who has signed in
		if _, _, err := wire.ParseMember([]byte(channelData)); err != nil {
			return answer, err
		}
	}
	text := sign.ChannelText(nil, socket, []byte(channel), []byte(channelData))
	return authAnswer{Auth: string(key.Token(nil, text)), ChannelData: channelData}, nil
}

// signUser is the answer of an auth endpoint for signing in.
func signUser(key *sign.Key, socket, userData string) (answer authAnswer, err error) {
	if _, err = checkSocketID(socket); err == nil {
		_, _, err = wire.ParseUser([]byte(userData))
	}
	if err != nil {
		return answer, err
	}
	return authAnswer{Auth: string(key.Token(nil, sign.UserText(nil, socket, []byte(userData)))), UserData: userData}, nil
}

// checkSocketID is wire.ParseSocketID for ids that are to be signed, as they are written.
func checkSocketID(s string) (wire.SocketID, error) {
	id, ok := wire.ParseSocketID(s)
	if !ok || id.String() != s {
		return id, fmt.Errorf("%.100q is not the socket_id of a connection: two numbers with a point between", s)
	}
	return id, nil
}

// configCommand prints every option with its value and where it was set, or with -check only what is wrong.
func (p *program) configCommand() error {
	if slices.Contains(p.args, "-example") {
		_, err := io.WriteString(p.stdout, config.Example())
		return err
	}
	check := slices.Contains(p.args, "-check")
	o, err := config.Parse(slices.DeleteFunc(slices.Clone(p.args), func(a string) bool { return a == "-check" }), p.getenv)
	if err == nil && o.TLSCert != "" {
		_, err = listen.Load(o.TLSCert, o.TLSKey)
	}
	switch {
	case err != nil:
		return p.misread(err, "")
	case check:
		fmt.Fprintln(p.stdout, "the configuration is good")
	default:
		o.Print(p.stdout)
	}
	return nil
}
