// Command edge is a Pusher Channels server: WebSocket channels and the HTTP API that triggers events on them, in one small
// binary that keeps everything in memory.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"edge/internal/config"
	"edge/internal/conn"
	"edge/internal/listen"
	"edge/internal/logs"
)

// Set by the linker for releases.
var (
	version = "0.1.0"
	built   = "" // RFC 3339
)

// sourceTime is the floor of builtAt, for builds without a stamp.
var sourceTime = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

// builtAt returns the time of the build or of its commit.
func builtAt() time.Time {
	stamp := built
	if info, ok := debug.ReadBuildInfo(); ok && stamp == "" {
		for _, s := range info.Settings {
			if s.Key == "vcs.time" {
				stamp = s.Value
			}
		}
	}
	if t, err := time.Parse(time.RFC3339, stamp); err == nil && t.After(sourceTime) {
		return t
	}
	return sourceTime
}

func main() {
	p := &program{args: os.Args[1:], getenv: os.LookupEnv, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, terminal: isTerminal(os.Stderr), shown: isTerminal(os.Stdout)}
	if p.serves() {
		out, problems := logs.NewWriter(os.Stdout, false), logs.NewWriter(os.Stderr, true)
		p.stdout, p.stderr = out, problems
		code := p.run()
		out.Close()
		problems.Close()
		os.Exit(code)
	}
	os.Exit(p.run())
}

// isTerminal reports whether a person reads what is written there.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// program is a call of edge, and the world around it but for network and files.
type program struct {
	args           []string
	getenv         func(string) (string, bool)
	stdin          io.Reader
	stdout, stderr io.Writer
	terminal       bool    // stderr is one
	shown          bool    // stdout is one: what is printed there is not kept
	command        command // that is run; none for the server
	helpText       string  // of the command, if it has its own
}

// command is what can stand before the options.
type command struct {
	name, args, help string
	run              func(p *program) error
	about            string // for its own help
}

// usage is how it is written.
func (c command) usage() string { return strings.TrimSpace(c.name + " " + c.args) }

// commands is all of them.
func commands() []command {
	return append([]command{
		{"config", "", "print the options that hold, and where each was set; -check only says what is wrong, -example prints a file", (*program).configCommand, ""},
	}, shellCommands()...)
}

// usageError is one of how edge was called: exit code 2.
type usageError struct{ error }

// run does what was asked for, and returns the exit code.
func (p *program) run() int {
	err := p.dispatch()
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp) && p.helpText != "":
		io.WriteString(p.stdout, p.helpText)
		return 0
	case errors.Is(err, flag.ErrHelp):
		printHelp(p.stdout)
		return 0
	case errors.Is(err, errEnough):
		return 0
	}
	fmt.Fprintln(p.stderr, "edge:", err)
	if errors.As(err, &usage) {
		return 2
	}
	return 1
}

// serves reports whether there is no command.
func (p *program) serves() bool { return len(p.args) == 0 || strings.HasPrefix(p.args[0], "-") }

// dispatch runs the command that the first argument names, or serves.
func (p *program) dispatch() error {
	if p.serves() {
		return p.serve()
	}
	all := commands()
	var names []string
	for _, c := range all {
		if names = append(names, c.name); c.name == p.args[0] {
			p.args, p.command = p.args[1:], c
			return c.run(p)
		}
	}
	return usageError{fmt.Errorf("there is no command %q; %s", p.args[0], config.DidYouMean("edge ", p.args[0], names, "edge -help lists them"))}
}

// serve is what edge does without a command.
func (p *program) serve() error {
	o, err := config.Parse(p.args, p.getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return usageError{err}
	case o.Version:
		fmt.Fprintf(p.stdout, "edge %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil
	}
	// While a channel's pump writes, someone must read the next requests, on a machine with one core too.
	runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0)))
	memory := conn.NewBudget(o.Memory)
	debug.SetMemoryLimit(memory.Limit)
	memory.Watch()
	defer memory.Stop()
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if o.File == "" && !signal.Ignored(syscall.SIGHUP) { // nohup(1) has it ignored
		ends = append(ends, syscall.SIGHUP) // the terminal was closed, and no server is to stay behind
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	defer stop()
	context.AfterFunc(ctx, stop)   // a second signal ends the process at once
	signal.Ignore(syscall.SIGPIPE) // whoever read our lines has gone: no reason to end
	return p.listenAndServe(ctx, o, memory)
}

// listenAndServe serves until ctx is done.
func (p *program) listenAndServe(ctx context.Context, o config.Options, memory *conn.Budget) error {
	_, journal := p.getenv("JOURNAL_STREAM")
	inJSON, stamps := o.LogFormat == "json", !journal || p.terminal
	slog.SetDefault(logs.New(p.stderr, inJSON, stamps))
	s, err := newServer(o, memory, logs.New(p.stdout, inJSON, stamps))
	if err != nil {
		return usageError{err}
	}
	listeners, err := s.listen()
	if err != nil {
		return err
	}
	defer listen.Close(listeners) // unless they have been served, and are closed by now
	if o.MetricsAddr != "" {
		l, err := listen.Open(o.MetricsAddr, "metrics-addr")
		if err != nil {
			return err
		}
		srv := s.httpServer(s.metricsHandler())
		defer srv.Close()
		go srv.Serve(l) // ends with Close
	}
	if o.PIDFile != "" {
		if err := os.WriteFile(o.PIDFile, fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
			return fmt.Errorf("cannot write -pid-file: %w", err)
		}
		defer os.Remove(o.PIDFile)
	}
	if o.File != "" {
		hangups := make(chan os.Signal, 1)
		signal.Notify(hangups, syscall.SIGHUP)
		defer signal.Stop(hangups)
		go s.reloadWhenAsked(ctx, hangups, func() (config.Options, error) { return config.Parse(p.args, p.getenv) }) // ends with ctx
	}
	link := ""
	if s.console != nil && p.shown {
		link = s.console.Link(s.firstAccess())
	}
	io.WriteString(p.stdout, banner(o, listeners, link))
	if o.SecretShown && !p.terminal { // on a terminal somebody is trying things out
		slog.Warn("the secret is on the command line, where others can see it: use EDGE_SECRET or -secret-file")
	}
	for _, warning := range warnings(o) {
		slog.Warn(warning)
	}
	return s.serve(ctx, listeners...)
}

// warnings are what is legal, but probably not meant.
func warnings(o config.Options) (all []string) {
	if o.DevAuth != nil {
		all = append(all, fmt.Sprintf("-dev-auth is on: whoever calls from %s gets anything signed, which is for development only", listen.NetworksText(o.DevAuth)))
	}
	if unused := o.Unused(os.Environ()); unused != "" {
		all = append(all, unused)
	}
	if limit := config.DefaultConnections(); o.Connections > limit {
		all = append(all, fmt.Sprintf("-max-connections is %d, but open files allow for about %d: raise the limit (ulimit -n, or LimitNOFILE in a unit)", o.Connections, limit))
	}
	return all
}

// printHelp prints what there is to know without the README.
func printHelp(w io.Writer) {
	fmt.Fprint(w, "edge is a Pusher Channels server. Official Pusher clients and server libraries work with it unchanged.\n\n"+
		"  edge -key KEY -secret SECRET               serve on port 6001\n"+
		"  edge                                       the same, with a key and a secret made up for you\n"+
		"  edge -config FILE                          the same, as a file says\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  edge %-37s %s\n", c.usage(), c.help)
	}
	fmt.Fprint(w, "\nedge trigger -help says more of that, and so do the commands below it.\n\n"+
		"Options, each also an environment variable (-send-buffer is EDGE_SEND_BUFFER) and a key of the file (\"send-buffer\");\n"+
		"a flag goes before a variable, and that before the file:\n\n")
	for _, opt := range config.All() {
		fmt.Fprintf(w, "  -%-22s %s", opt.Name, opt.Help)
		if opt.Default != "" {
			fmt.Fprintf(w, " (default %s)", opt.Default)
		}
		fmt.Fprintln(w)
	}
}

// banner is what a person needs after starting edge.
func banner(o config.Options, listeners []net.Listener, consoleLink string) string {
	first, app := listeners[0], o.Apps[0]
	scheme := "http"
	if _, sealed := first.(conn.TLSListener); sealed {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(first.Addr().String())
	elsewhere := ""
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host, elsewhere = "localhost", lanAddresses(port)
	}
	base := net.JoinHostPort(host, port) + o.Path
	if err != nil {
		base, elsewhere = "localhost"+o.Path, "" // a Unix socket
	}
	id, idNote, secret := app.ID, "", "your secret"
	if id == "" {
		id, idNote = "1", " (any id is accepted)"
	}
	if app.MadeSecret {
		secret = app.Secret
	}
	var b strings.Builder
	fmt.Fprintf(&b, "edge %s, a Pusher Channels server\n\n", version)
	fmt.Fprintf(&b, "  WebSocket  ws%s://%s/app/%s\n  HTTP API   %s://%s/apps/%s\n%s", scheme[4:], base, app.Key, scheme, base, id, elsewhere)
	for _, l := range listeners[1:] {
		fmt.Fprintf(&b, "  and on     %s\n", listenerText(l))
	}
	keyNote := ""
	if app.MadeKey {
		keyNote = " (made up for this run; set your own with -key or EDGE_KEY)"
	}
	fmt.Fprintf(&b, "  app id     %s%s\n  key        %s%s\n", id, idNote, app.Key, keyNote)
	if app.MadeSecret {
		fmt.Fprintf(&b, "  secret     %s (made up for this run; set your own with -secret or EDGE_SECRET)\n", app.Secret)
	}
	for _, a := range o.Apps[1:] {
		fmt.Fprintf(&b, "  app id     %s\n  key        %s\n", a.ID, a.Key)
	}
	memory := conn.NewBudget(o.Memory)
	fmt.Fprintf(&b, "  memory     %s, of them %s for clients that read slowly\n", conn.SizeText(memory.Total), conn.SizeText(memory.Most()))
	fmt.Fprintf(&b, "  clients    %d at most%s\n", o.Connections, tighter(o))
	if o.Found != nil {
		fmt.Fprintf(&b, "  found      %s\n", strings.Join(o.Found, ", "))
	}
	if o.MetricsAddr != "" {
		fmt.Fprintf(&b, "  metrics    %s\n", metricsText(o.MetricsAddr))
	}
	if o.Console {
		fmt.Fprintf(&b, "  console    %s://%s/console%s\n", scheme, base, consoleLink)
	}
	if err == nil {
		b.WriteString(samples(app, id, secret, host, port, o.Path, scheme == "https"))
	}
	fmt.Fprintf(&b, "Ready on %s. Ctrl-C ends it.\n", first.Addr())
	return b.String()
}

// metricsText is where the metrics are, given -metrics-addr.
func metricsText(addr string) string {
	network, rest := listen.Split(addr)
	if network == "unix" {
		return "http://localhost/metrics on " + rest
	}
	if strings.HasPrefix(rest, ":") {
		rest = "localhost" + rest
	}
	return "http://" + rest + "/metrics"
}

// samples are how clients find the server.
func samples(app config.App, id, secret, host, port, path string, sealed bool) string {
	wsPort, wsPath := "wsPort", ""
	if sealed {
		wsPort = "wssPort"
	}
	if path != "" {
		wsPath = fmt.Sprintf(" wsPath: %q,", path)
	}
	return fmt.Sprintf("\nIn a page, with pusher-js:\n  new Pusher(%q, { cluster: \"\", wsHost: %q, %s: %s,%s forceTLS: %t, enabledTransports: [\"ws\", \"wss\"] })\n"+
		"On a server, with Node's pusher:\n  new Pusher({ appId: %q, key: %q, secret: %q, host: %q, port: %q, useTLS: %t })\n\n",
		app.Key, host, wsPort, port, wsPath, sealed, id, app.Key, secret, host, port, sealed)
}

// listenerText says where a listener listens, and how.
func listenerText(l net.Listener) string {
	addr := l.Addr()
	switch _, sealed := l.(conn.TLSListener); {
	case addr.Network() == "unix":
		return "unix:" + addr.String()
	case sealed:
		return "https://" + addr.String()
	}
	return "http://" + addr.String()
}

// tighter says what keeps edge from serving as many clients as there is memory for, if something does.
func tighter(o config.Options) string {
	if there := conn.ConnectionsFor(o.Memory, o.TLSCert != ""); o.Connections < there && o.Connections == config.DefaultConnections() {
		return fmt.Sprintf(": the limit of open files is %d (ulimit -n), there is memory for %d", conn.DescriptorLimit(), there)
	}
	return ""
}

// lanAddresses is a line with the addresses under which other machines find this one, or "".
func lanAddresses(port string) string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "" // only a hint is lost
	}
	var found []string
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			found = append(found, net.JoinHostPort(n.IP.String(), port))
		}
	}
	if len(found) == 0 {
		return ""
	}
	return "  elsewhere  " + strings.Join(found, ", ") + "\n"
}

const welcome = `This is edge %s, a Pusher Channels server.

  WebSocket connections   /app/{key}
  HTTP API                /apps/{id}/events and the other calls of Pusher's HTTP API
  Debug console           /console
  Is it alive?            /health

Point an official Pusher client or server library at this host and port: edge -help and the README say how.
`
