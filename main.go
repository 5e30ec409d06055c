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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Set by the linker for releases.
var (
	version = "0.1.0"
	built   = "" // when, as RFC 3339 has it
)

// builtAt is when the program was made, or the change it was made of: it cannot be earlier than that. Zero if it does not know.
func builtAt() time.Time {
	text := built
	if info, ok := debug.ReadBuildInfo(); ok && text == "" {
		for _, s := range info.Settings {
			if s.Key == "vcs.time" {
				text = s.Value
			}
		}
	}
	t, _ := time.Parse(time.RFC3339, text)
	return t
}

func main() {
	p := &program{args: os.Args[1:], getenv: os.LookupEnv, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, terminal: isTerminal(os.Stderr), shown: isTerminal(os.Stdout)}
	if p.serves() {
		out, problems := newLines(os.Stdout, false), newLines(os.Stderr, true)
		p.stdout, p.stderr = out, problems
		code := p.run()
		out.close()
		problems.close()
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
		{"reload", "[PID]", "have a running edge read its configuration again: edge reload PID, or with -pid-file", (*program).reloadCommand, ""},
		{"cert", "[NAME...]", "make a certificate for TLS on a local network, and say how devices come to trust it", (*program).certCommand, aboutCert},
		{"unit", "[service|socket]", "print units for systemd; edge unit service and edge unit socket print one", (*program).unitCommand, aboutUnit},
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
	return usageError{fmt.Errorf("there is no command %q; %s", p.args[0], didYouMean("edge ", p.args[0], names, "edge -help lists them"))}
}

// serve is what edge does without a command.
func (p *program) serve() error {
	o, err := parseOptions(p.args, p.getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return usageError{err}
	case o.version:
		fmt.Fprintf(p.stdout, "edge %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil
	}
	// While a channel's pump writes, someone must read the next requests, on a machine with one core too.
	runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0)))
	memory := newBudget(o.memory)
	debug.SetMemoryLimit(memory.limit)
	memory.watch()
	defer memory.stop()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)   // a second signal ends the process at once
	signal.Ignore(syscall.SIGPIPE) // whoever read our lines has gone: no reason to end
	return p.listenAndServe(ctx, stop, o, memory)
}

// listenAndServe serves until ctx is done, which stop sees to.
func (p *program) listenAndServe(ctx context.Context, stop func(), o options, memory *budget) error {
	_, journal := p.getenv("JOURNAL_STREAM")
	inJSON, stamps := o.logFormat == "json", !journal || p.terminal
	for _, w := range []io.Writer{p.stdout, p.stderr} {
		if l, ok := w.(*lines); ok {
			l.json.Store(inJSON)
		}
	}
	slog.SetDefault(newLogger(p.stderr, inJSON, stamps))
	s, err := newServer(o, memory, newLogger(p.stdout, inJSON, stamps))
	if err != nil {
		return usageError{err}
	}
	s.notifier = newNotifier(p.getenv)
	listeners, err := s.listen(p.getenv)
	if err != nil {
		return err
	}
	defer closeAll(listeners) // unless they have been served, and are closed by now
	if o.metricsAddr != "" {
		end, err := s.serveMetrics(o.metricsAddr)
		if err != nil {
			return err
		}
		defer end()
	}
	if o.pidFile != "" {
		if err := os.WriteFile(o.pidFile, fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
			return fmt.Errorf("cannot write -pid-file: %w", err)
		}
		defer os.Remove(o.pidFile)
	}
	if signal.Ignored(syscall.SIGHUP) || !hasTerminal() {
		stop = nil // nohup(1), or a service: a hangup only ever means to reload
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP, reloadSignal)
	defer signal.Stop(hangups)
	go s.reloadWhenAsked(ctx, hangups, func() (options, error) { return parseOptions(p.args, p.getenv) }, stop) // ends with ctx
	if s.console != nil && p.shown {
		o.consoleLink = s.console.link()
	}
	io.WriteString(p.stdout, banner(o, listeners))
	for _, warning := range warnings(o) {
		slog.Warn(warning)
	}
	return s.serve(ctx, listeners...)
}

// hasTerminal reports whether the process belongs to a terminal that is there.
func hasTerminal() bool {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	return err == nil
}

// reloadCommand has a running edge read its configuration again, if it is good as far as we can see.
func (p *program) reloadCommand() error {
	var number string
	if len(p.args) > 0 && !strings.HasPrefix(p.args[0], "-") {
		number, p.args = p.args[0], p.args[1:]
	}
	o, err := p.options(p.args)
	if err != nil {
		return err
	}
	if number == "" && o.pidFile != "" {
		b, err := os.ReadFile(o.pidFile)
		if err != nil {
			return fmt.Errorf("cannot tell which process: %w", err)
		}
		number = strings.TrimSpace(string(b))
	}
	pid, err := strconv.Atoi(number)
	if err != nil || pid <= 0 {
		return usageError{errors.New("which process? edge reload PID, or the -pid-file or -config it was started with")}
	}
	if what := programName(strconv.Itoa(pid)); what != "" && what != programName("self") && !strings.HasPrefix(what, "edge") {
		return fmt.Errorf("process %d is not edge, but %s: the pid file is an old one, or the number wrong", pid, what)
	}
	process, err := os.FindProcess(pid)
	if err == nil {
		err = process.Signal(reloadSignal)
		process.Release()
	}
	if err != nil {
		return fmt.Errorf("cannot tell process %d: %w", pid, err)
	}
	fmt.Fprintf(p.stdout, "told process %d; its log says whether it takes the configuration\n", pid)
	return nil
}

// programName is the name of the program that a process runs, as far as the kernel keeps it; "" if that is not known.
func programName(pid string) string {
	name, _ := os.ReadFile("/proc/" + pid + "/comm")
	return strings.TrimSpace(string(name))
}

// warnings are what is legal, but probably not meant.
func warnings(o options) (all []string) {
	if shown := shownSecret(o); shown != "" {
		all = append(all, shown)
	}
	if o.devAuth != nil {
		all = append(all, fmt.Sprintf("-dev-auth is on: whoever calls from %s gets anything signed, which is for development only", prefixesText(o.devAuth)))
	}
	all = append(all, almostOurs(os.Environ())...)
	if limit := defaultConnections(); o.connections > limit {
		all = append(all, fmt.Sprintf("-max-connections is %d, but open files allow for about %d: raise the limit (ulimit -n, or LimitNOFILE in a unit)", o.connections, limit))
	}
	return all
}

// shownSecret warns of a secret on the command line, if there are others to see it.
func shownSecret(o options) string {
	if passwd, _ := os.ReadFile("/etc/passwd"); o.secretShown && othersLogIn(string(passwd), os.Getuid()) {
		return "the secret is on the command line, where other users of this machine can see it: use EDGE_SECRET or -secret-file"
	}
	return ""
}

// othersLogIn reports whether passwd(5) has an account for a person other than the one with this uid.
func othersLogIn(passwd string, uid int) bool {
	for line := range strings.Lines(passwd) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 7 || strings.HasSuffix(f[6], "/nologin") || strings.HasSuffix(f[6], "/false") {
			continue
		}
		if id, err := strconv.Atoi(f[2]); err == nil && id >= 1000 && id < 60_000 && id != uid {
			return true
		}
	}
	return false
}

// defaultConnections leaves descriptors for API requests and whatever else needs one.
func defaultConnections() int {
	limit := descriptorLimit()
	return max(64, limit-max(128, limit/20))
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
	fmt.Fprint(w, "\nedge cert -help says more of that, and so do the commands below it.\n\nOptions, each also an environment variable (-send-buffer is EDGE_SEND_BUFFER) and a key of the file (\"send-buffer\");\n"+
		"a flag goes before a variable, and that before the file:\n\n")
	for _, opt := range optionTable(new(options)) {
		fmt.Fprintf(w, "  -%-22s %s", opt.name, opt.help)
		if opt.value != "" {
			fmt.Fprintf(w, " (default %s)", opt.value)
		}
		fmt.Fprintln(w)
	}
}

// banner is what a person needs after starting edge.
func banner(o options, listeners []net.Listener) string {
	first, app := listeners[0], o.apps[0]
	scheme := "http"
	if _, sealed := first.(tlsListener); sealed {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(first.Addr().String())
	elsewhere := ""
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host, elsewhere = "localhost", lanAddresses(port)
	}
	base := net.JoinHostPort(host, port) + o.path
	if err != nil {
		base, elsewhere = "localhost"+o.path, "" // a Unix socket
	}
	id, idNote, secret := app.id, "", "your secret"
	if id == "" {
		id, idNote = "1", " (any id is accepted)"
	}
	if app.madeSecret {
		secret = app.secret
	}
	var b strings.Builder
	fmt.Fprintf(&b, "edge %s, a Pusher Channels server\n\n", version)
	fmt.Fprintf(&b, "  WebSocket  ws%s://%s/app/%s\n  HTTP API   %s://%s/apps/%s\n%s", scheme[4:], base, app.key, scheme, base, id, elsewhere)
	for _, l := range listeners[1:] {
		fmt.Fprintf(&b, "  and on     %s\n", listenerText(l))
	}
	keyNote := o.foundIn("key")
	if app.madeKey {
		keyNote = " (made up for this run; set your own with -key or EDGE_KEY)"
	}
	fmt.Fprintf(&b, "  app id     %s%s\n  key        %s%s\n", id, idNote, app.key, keyNote)
	if app.madeSecret {
		fmt.Fprintf(&b, "  secret     %s (made up for this run; set your own with -secret or EDGE_SECRET)\n", app.secret)
	} else if found := o.foundIn("secret"); found != "" {
		fmt.Fprintf(&b, "  secret     ***%s\n", found)
	}
	for _, a := range o.apps[1:] {
		fmt.Fprintf(&b, "  app id     %s\n  key        %s\n", a.id, a.key)
	}
	memory := newBudget(o.memory)
	fmt.Fprintf(&b, "  memory     %s, of them %s for clients that read slowly\n", sizeText(memory.total), sizeText(memory.most()))
	fmt.Fprintf(&b, "  clients    %d at most%s\n", o.connections, tighter(o))
	found := slices.DeleteFunc(o.foreign(), func(s string) bool { return strings.HasPrefix(s, "key ") || strings.HasPrefix(s, "secret ") }) // see above
	if len(found) > 0 {
		fmt.Fprintf(&b, "  found      %s\n", strings.Join(found, "; "))
	}
	if o.metricsAddr != "" {
		fmt.Fprintf(&b, "  metrics    %s\n", metricsText(o.metricsAddr))
	}
	if o.console {
		fmt.Fprintf(&b, "  console    %s://%s/console%s\n", scheme, base, o.consoleLink)
	}
	if err == nil {
		b.WriteString(samples(app, id, secret, host, port, o.path, scheme == "https"))
	}
	fmt.Fprintf(&b, "Ready on %s. Ctrl-C ends it.\n", first.Addr())
	return b.String()
}

// metricsText is where the metrics are, given -metrics-addr.
func metricsText(addr string) string {
	network, rest := splitAddr(addr)
	if network == "unix" {
		return "http://localhost/metrics on " + rest
	}
	if strings.HasPrefix(rest, ":") {
		rest = "localhost" + rest
	}
	return "http://" + rest + "/metrics"
}

// samples are how clients find the server.
func samples(app appOptions, id, secret, host, port, path string, sealed bool) string {
	wsPort, wsPath := "wsPort", ""
	if sealed {
		wsPort = "wssPort"
	}
	if path != "" {
		wsPath = fmt.Sprintf(" wsPath: %q,", path)
	}
	return fmt.Sprintf("\nIn a page, with pusher-js:\n  new Pusher(%q, { cluster: \"\", wsHost: %q, %s: %s,%s forceTLS: %t, enabledTransports: [\"ws\", \"wss\"] })\n"+
		"On a server, with Node's pusher:\n  new Pusher({ appId: %q, key: %q, secret: %q, host: %q, port: %q, useTLS: %t })\n\n",
		app.key, host, wsPort, port, wsPath, sealed, id, app.key, secret, host, port, sealed)
}

// listenerText says where a listener listens, and how.
func listenerText(l net.Listener) string {
	addr := l.Addr()
	switch _, sealed := l.(tlsListener); {
	case addr.Network() == "unix":
		return "unix:" + addr.String()
	case sealed:
		return "https://" + addr.String()
	}
	return "http://" + addr.String()
}

// foundIn says that an option was found in a variable of another server.
func (o *options) foundIn(name string) string {
	for _, other := range others {
		if from := o.given[name].from; from == other.variable {
			return fmt.Sprintf(" (from %s)", from)
		}
	}
	return ""
}

// almostOurs complains of variables whose names are nearly those of options. (Others that begin with EDGE_ may be somebody else's:
// Kubernetes sets some for a service of that name.)
func almostOurs(environment []string) (all []string) {
	var names []string
	for _, opt := range optionTable(new(options)) {
		names = append(names, envName(opt.name))
	}
	for _, variable := range environment {
		name, _, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, "EDGE_") || slices.Contains(names, name) {
			continue
		}
		for _, ours := range names {
			if len(ours) > len("EDGE_")+4 && distance(name, ours) <= 2 {
				all = append(all, fmt.Sprintf("there is no variable %s; did you mean %s?", name, ours))
				break
			}
		}
	}
	return all
}

// tighter says what keeps edge from serving as many clients as there is memory for, if something does.
func tighter(o options) string {
	if there := o.forConnections(); o.connections < there && o.connections == defaultConnections() {
		return fmt.Sprintf(": the limit of open files is %d (ulimit -n), there is memory for %d", descriptorLimit(), there)
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
