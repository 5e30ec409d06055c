// Command edge is a Pusher Channels server: WebSocket channels and the HTTP API that triggers events on them, in one small
// binary that keeps everything in memory.
package main

import (
	"container/list"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// version is set by the linker for releases.
var version = "0.1.0"

const (
	shutdownTimeout = 10 * time.Second
	requestsTimeout = 3 * time.Second // of it, for API requests that are under way
	closeSpread     = 2 * time.Second // of it at most, between the first and the last connection to be closed
	closeInterval   = time.Millisecond
	closeTimeout    = 3 * time.Second // of it, for connections to close once they all have been told

	spareDescriptors = 32 // for what is neither a client nor a caller
	minCallers       = 16 // HTTP connections that are allowed in any case
)

// openPoller is a variable for tests of what systems without a poller do.
var openPoller = newPoller

// options are what the command line and the environment say.
type options struct {
	addr, id, key, secret string
	secretFile            string
	secretShown           bool  // on the command line
	madeKey, madeSecret   bool  // not given, made up
	memory                int64 // bytes the process may use
	limits                Limits
	hooks                 []string // URLs that parseHook accepts
	webhooks              webhookOptions
	verbose, version      bool
}

func main() {
	out, problems := newLines(os.Stdout, false), newLines(os.Stderr, true)
	log.SetFlags(log.LstdFlags)
	log.SetOutput(problems)
	code := command(os.Args[1:], os.LookupEnv, out, problems)
	out.close()
	problems.close()
	os.Exit(code)
}

// command is main without the process: it returns the exit code.
func command(args []string, getenv func(string) (string, bool), stdout, stderr io.Writer) int {
	o, err := parseOptions(args, getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
		printHelp(stdout)
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "edge:", err)
		return 2
	case o.version:
		fmt.Fprintf(stdout, "edge %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return 0
	}
	// While a channel's pump writes, someone must read the next requests, on a machine with one core too.
	runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0)))
	memory := newBudget(o.memory)
	debug.SetMemoryLimit(memory.limit)
	memory.watch()
	defer memory.stop()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)   // a second signal ends the process at once
	signal.Ignore(syscall.SIGPIPE) // whoever read our lines has gone: no reason to end
	if err := run(ctx, o, memory, stdout); err != nil {
		fmt.Fprintln(stderr, "edge:", err)
		return 1
	}
	return 0
}

// run listens and serves until ctx is done.
func run(ctx context.Context, o options, memory *budget, stdout io.Writer) error {
	l, err := net.Listen("tcp", o.addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("the address %s is in use by another program; choose one with -addr", o.addr)
	}
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w", o.addr, err)
	}
	app := o.app(memory)
	if o.verbose {
		app.log = log.New(stdout, "", log.LstdFlags)
	}
	io.WriteString(stdout, banner(o, l.Addr()))
	if passwd, _ := os.ReadFile("/etc/passwd"); o.secretShown && othersLogIn(string(passwd), os.Getuid()) {
		log.Print("the secret is on the command line, where other users of this machine can see it: use EDGE_SECRET or -secret-file")
	}
	return serve(ctx, l, app)
}

// app makes the app that the options describe.
func (o *options) app(memory *budget) *App {
	key := newKey(o.key, o.secret)
	app := newApp(o.id, Keys{key}, o.limits, memory)
	if len(o.hooks) > 0 {
		app.webhooks = newWebhooks(o.hooks, key, o.webhooks)
	}
	return app
}

// serve serves app on l, which it closes, until ctx is done and everyone has been told.
func serve(ctx context.Context, l net.Listener, app *App) error {
	poller, err := openPoller()
	if err != nil {
		return err
	}
	defer poller.close()
	up := &upgrader{app: app, poller: poller}
	srv := &http.Server{
		Handler:           handler(app, up),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      20 * time.Second,
		IdleTimeout:       3 * time.Minute, // longer than clients keep theirs, so that none sends into a closing one
		MaxHeaderBytes:    8 << 10,
		ConnState:         newCallers(min(descriptorLimit()-app.limits.maxConnections-spareDescriptors, app.bounds.memory.callers())).note,
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }() // ends when srv is shut down below
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	shutdown(srv, app)
	return nil
}

// callers keeps connections that are not WebSocket ones from using up the descriptors: of more than limit, the one that has
// been in the same state for longest is closed. So a new request finds room, whoever keeps connections open.
type callers struct {
	limit int // static

	mu    sync.Mutex // guards the following
	since *list.List // of net.Conn, the longest unchanged first
	place map[net.Conn]*list.Element
}

func newCallers(limit int) *callers {
	return &callers{limit: max(minCallers, limit), since: list.New(), place: make(map[net.Conn]*list.Element)}
}

// note is what http.Server calls with every change of a connection.
func (c *callers) note(nc net.Conn, state http.ConnState) {
	defer recovered("callers") // or new connections would not be taken any more
	c.mu.Lock()
	defer c.mu.Unlock()
	switch e := c.place[nc]; {
	case state == http.StateHijacked || state == http.StateClosed:
		c.dropLocked(e)
	case e != nil:
		c.since.MoveToBack(e)
	case state == http.StateNew: // another state is of one that was closed below
		c.place[nc] = c.since.PushBack(nc)
		if c.since.Len() > c.limit {
			longest := c.since.Front()
			longest.Value.(net.Conn).Close()
			c.dropLocked(longest)
		}
	}
}

func (c *callers) dropLocked(e *list.Element) {
	if e != nil {
		delete(c.place, c.since.Remove(e).(net.Conn))
	}
}

// handler is the route table of everything but the API's calls.
func handler(app *App, up *upgrader) http.Handler {
	mux := http.NewServeMux()
	(&api{app: app, now: time.Now}).routes(mux)
	mux.HandleFunc("/app/{key}", up.serveHTTP) // not an upgrade, which is what it says
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, welcome, version) })
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "not found: the API is under /apps/{id}, WebSocket connections under /app/{key}", http.StatusNotFound)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isUpgrade(r) { // before mux, which redirects paths it does not like: to a WebSocket client that is an error
			up.serveHTTP(w, r)
		} else {
			mux.ServeHTTP(w, r)
		}
	})
}

// shutdown ends in this order: no new connections and requests, the requests under way, the events they triggered, every
// WebSocket connection with 4200, after which official clients reconnect at once, and therefore spread over a moment; and
// the webhooks. What it has to leave undone in shutdownTimeout it logs.
func shutdown(srv *http.Server, app *App) {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	requests, cancelRequests := context.WithTimeout(ctx, requestsTimeout)
	defer cancelRequests()
	srv.Shutdown(requests) // those that take longer are cut off below
	app.flush()
	sockets, done := app.closeSockets()
	every := min(closeInterval, closeSpread/time.Duration(max(1, len(sockets))))
	for began, i := time.Now(), 0; i < len(sockets); i++ {
		// Sleeping for the whole distance so far keeps the pace whatever the machine's timers are like.
		time.Sleep(time.Until(began.Add(time.Duration(i) * every)))
		sockets[i].close(codeReconnect, "Please reconnect immediately")
	}
	select {
	case <-done:
	case <-time.After(closeTimeout):
		log.Printf("some connections did not close within %s and are cut off", closeTimeout)
		for _, s := range sockets {
			s.conn.abort()
		}
		select { // what they leave behind is told before webhooks are drained
		case <-done:
		case <-ctx.Done():
		}
	}
	srv.Close()
	if app.webhooks != nil {
		if left := app.webhooks.drain(ctx); left > 0 {
			log.Printf("%d webhook events were not delivered before the end", left)
		}
	}
}

// optionTable is every option: flag, default, help. The flag -send-buffer is also the variable EDGE_SEND_BUFFER.
func optionTable(o *options) []option {
	l := &o.limits
	return []option{
		{"addr", ":6001", "address to listen on, host:port; without a host on all addresses", text(&o.addr)},
		{"id", "", "app id; without it any id is accepted in API paths", text(&o.id)},
		{"key", "", "app key; without it one is made up and printed", text(&o.key)},
		{"secret", "", "app secret; without it one is made up and printed (EDGE_SECRET keeps it off the command line)", text(&o.secret)},
		{"secret-file", "", "file that holds the app secret; neither command line nor environment show it", text(&o.secretFile)},
		{"client-events", "true", "allow client events on private and presence channels", boolean(&l.clientEvents)},
		{"memory", "", "memory that edge may use, like 96M or 1G; without it most of what its control group allows, or half of the machine's", size(&o.memory, 16<<20)},
		{"max-connections", "", "WebSocket connections at once; more are refused with 4004; without it as many as memory and open files allow", number(&l.maxConnections, 1, math.MaxInt32)},
		{"origins", "", "origins that pages may connect from, with commas: https://example.com, example.com or *.example.com; without it all", commaList(&l.origins)},
		{"activity-timeout", "120s", "silence after which a client is pinged", duration(&l.activityTimeout, time.Second)},
		{"pong-timeout", "30s", "time it then has to answer before it is closed with 4201", duration(&l.pongTimeout, time.Millisecond)},
		{"auth-window", "600s", "how far the clock of an API client may be off", duration(&l.authWindow, time.Second)},
		{"event-size", "10240", "bytes of data an event may have", number(&l.eventSize, 1, 1<<20)},
		{"channel-name", "200", "bytes the name of a channel may have (164 on the hosted service)", number(&l.channelName, len(userChannelPrefix)+maxUserID, 1024)},
		{"presence-members", "100", "users a presence channel may have", number(&l.presenceMembers, 1, math.MaxInt32)},
		{"presence-user-size", "1024", "bytes of user_info a member may have", number(&l.presenceUserSize, 2, maxPayload)},
		{"cache-ttl", "30m", "how long a cache channel keeps its last event", duration(&l.cacheTTL, time.Second)},
		{"send-buffer", "1048576", "bytes that may wait for a client that reads slowly; beyond it is cut off", number(&l.sendBuffer, 4096, math.MaxInt32)},
		{"subscription-count", "false", "send pusher:subscription_count when subscriptions of a channel change", boolean(&l.subscriptionCount)},
		{"webhook", "", "URL to be told what happens, may be repeated (in the variable: with spaces); see Webhooks", hookList(&o.hooks)},
		{"webhook-grace", "3s", "time for a channel or member to come back before channel_vacated or member_removed is told", duration(&o.webhooks.grace, 0)},
		{"webhook-batch", "50ms", "events that happen within travel together; 0 sends each alone", duration(&o.webhooks.batch, 0)},
		{"webhook-queue", "10000", "events that may wait for a receiver; beyond, the oldest client events are dropped first", number(&o.webhooks.queue, 1, math.MaxInt32)},
		{"error-events", "true", "send pusher:error after pusher:subscription_error, as the hosted service does", boolean(&l.errorEvents)},
		{"verbose", "false", "print connections, subscriptions and everything refused", boolean(&o.verbose)},
		{"version", "false", "print the version and end", boolean(&o.version)},
	}
}

type option struct {
	name, value, help string
	set               func(string) error
}

func text(to *string) func(string) error {
	return func(s string) error { *to = s; return nil }
}

func commaList(to *[]string) func(string) error {
	return func(s string) error {
		*to = nil
		for item := range strings.SplitSeq(s, ",") {
			if item = strings.TrimSpace(item); item != "" {
				*to = append(*to, item)
			}
		}
		return nil
	}
}

// hookList takes URLs with spaces between them, and adds to what it got before.
func hookList(to *[]string) func(string) error {
	return func(s string) error {
		for hook := range strings.FieldsSeq(s) {
			if _, err := parseHook(hook); err != nil {
				return err
			}
			*to = append(*to, hook)
		}
		return nil
	}
}

func boolean(to *bool) func(string) error {
	return func(s string) (err error) {
		if *to, err = strconv.ParseBool(s); err != nil {
			return errors.New("it must be true or false")
		}
		return nil
	}
}

func number(to *int, least, most int) func(string) error {
	return func(s string) (err error) {
		if *to, err = strconv.Atoi(s); err != nil || *to < least || *to > most {
			return fmt.Errorf("it must be a whole number from %d to %d", least, most)
		}
		return nil
	}
}

// size takes a number of bytes, with K, M or G behind it of 1024, 1024² or 1024³ bytes.
func size(to *int64, least int64) func(string) error {
	return func(s string) error {
		digits, shift := strings.TrimRight(strings.ToUpper(s), "IB"), 0
		for i, unit := range []string{"K", "M", "G"} {
			if rest, ok := strings.CutSuffix(digits, unit); ok {
				digits, shift = rest, 10*(i+1)
				break
			}
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n > math.MaxInt>>shift || n<<shift < least {
			return fmt.Errorf("it must be a size like 96M or 1G, at least %s", sizeText(least))
		}
		*to = n << shift
		return nil
	}
}

// sizeText is a number of bytes for people to read.
func sizeText(bytes int64) string {
	for shift, unit := range []string{"bytes", "KB", "MB"} {
		if n := bytes >> (10 * shift); n < 10<<10 {
			return fmt.Sprintf("%d %s", n, unit)
		}
	}
	return fmt.Sprintf("%d GB", bytes>>30)
}

// duration takes 90s, 2m or 1h30m; a number alone counts seconds.
func duration(to *time.Duration, least time.Duration) func(string) error {
	return func(s string) (err error) {
		if isInteger([]byte(s)) {
			s += "s"
		}
		if *to, err = time.ParseDuration(s); err != nil || *to < least {
			return fmt.Errorf("it must be a time like 30s or 2m, at least %s", least)
		}
		return nil
	}
}

// parseOptions reads flags, then the environment for what no flag says, then defaults.
func parseOptions(args []string, getenv func(string) (string, bool)) (o options, err error) {
	fs := flag.NewFlagSet("edge", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	given := make(map[string]bool)
	table := optionTable(&o)
	for _, opt := range table {
		set := func(s string) error {
			given[opt.name] = true
			return opt.set(s)
		}
		if opt.value == "true" || opt.value == "false" {
			fs.BoolFunc(opt.name, opt.help, set)
		} else {
			fs.Func(opt.name, opt.help, set)
		}
	}
	if err := fs.Parse(args); err != nil {
		return o, optionError(err)
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q; edge -help lists the options", fs.Arg(0))
	}
	o.secretShown = o.secret != ""
	for _, opt := range table {
		if given[opt.name] {
			continue
		}
		value, from := opt.value, "the default"
		if v, ok := getenv(envName(opt.name)); ok && v != "" && opt.name != "version" { // EDGE_VERSION is likely to be of something else
			value, from = v, envName(opt.name)
		}
		if value == "" && from == "the default" {
			continue
		}
		if err := opt.set(value); err != nil {
			return o, fmt.Errorf("invalid value %q of %s: %v", value, from, err)
		}
	}
	return o, o.complete()
}

// optionError words flag's errors for a reader who does not know Go.
func optionError(err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	msg := err.Error()
	if name, ok := strings.CutPrefix(msg, "flag provided but not defined: "); ok {
		return fmt.Errorf("unknown option %q; edge -help lists the options", name)
	}
	if name, ok := strings.CutPrefix(msg, "flag needs an argument: "); ok {
		return fmt.Errorf("option %s needs a value", name)
	}
	return errors.New(strings.Replace(msg, " for flag -", " for option -", 1))
}

// envName is the environment variable that goes with an option.
func envName(option string) string {
	return "EDGE_" + strings.ToUpper(strings.ReplaceAll(option, "-", "_"))
}

// complete checks what no single option can, and makes up a key and a secret where there is none.
func (o *options) complete() error {
	_, port, err := net.SplitHostPort(o.addr)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || port == "" {
		return fmt.Errorf("invalid value %q for option -addr: it must be host:port or :port", o.addr)
	}
	if err := o.readSecret(); err != nil {
		return err
	}
	if o.memory == 0 {
		o.memory = defaultMemory()
	}
	if o.limits.maxConnections == 0 {
		o.limits.maxConnections = min(defaultConnections(), newBudget(o.memory).connections())
	}
	if o.madeKey = o.key == ""; o.madeKey {
		o.key = strings.ToLower(rand.Text()[:20])
	}
	if o.madeSecret = o.secret == ""; o.madeSecret {
		o.secret = strings.ToLower(rand.Text()[:20])
	}
	if strings.Trim(o.key, ".") == "" || strings.ContainsFunc(o.key, func(c rune) bool {
		return c >= 0x80 || !channelChars[c] || c == '=' || c == '@' || c == ',' || c == ';'
	}) {
		return fmt.Errorf("invalid value %q for option -key: it is part of URLs and may have letters, digits, - _ and .", o.key)
	}
	return nil
}

// readSecret takes the secret from the file that was given for it.
func (o *options) readSecret() error {
	if o.secretFile == "" {
		return nil
	}
	if o.secret != "" {
		return errors.New("there are two secrets: give -secret (or EDGE_SECRET) or -secret-file, not both")
	}
	b, err := os.ReadFile(o.secretFile)
	if err != nil {
		return fmt.Errorf("cannot read -secret-file: %w", err)
	}
	if o.secret = strings.TrimSpace(string(b)); o.secret == "" {
		return fmt.Errorf("-secret-file %s is empty", o.secretFile)
	}
	return nil
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
		"  edge -key KEY -secret SECRET    serve on port 6001\n"+
		"  edge                            the same, with a key and a secret made up for you\n\n"+
		"Options, each also an environment variable (-send-buffer is EDGE_SEND_BUFFER); a flag goes before a variable:\n\n")
	for _, opt := range optionTable(new(options)) {
		fmt.Fprintf(w, "  -%-20s %s", opt.name, opt.help)
		if opt.value != "" {
			fmt.Fprintf(w, " (default %s)", opt.value)
		}
		fmt.Fprintln(w)
	}
}

// banner is what a person needs after starting edge.
func banner(o options, addr net.Addr) string {
	host, port, _ := net.SplitHostPort(addr.String())
	ip := net.ParseIP(host)
	elsewhere := ""
	if ip == nil || ip.IsUnspecified() {
		host, elsewhere = "localhost", lanAddresses(port)
	}
	base := net.JoinHostPort(host, port)
	id, idNote, secret := o.id, "", "your secret"
	if id == "" {
		id, idNote = "1", " (any id is accepted)"
	}
	if o.madeSecret {
		secret = o.secret
	}
	var b strings.Builder
	fmt.Fprintf(&b, "edge %s, a Pusher Channels server\n\n", version)
	fmt.Fprintf(&b, "  WebSocket  ws://%s/app/%s\n  HTTP API   http://%s/apps/%s\n%s", base, o.key, base, id, elsewhere)
	fmt.Fprintf(&b, "  app id     %s%s\n  key        %s\n", id, idNote, o.key)
	if o.madeSecret {
		fmt.Fprintf(&b, "  secret     %s (made up for this run; set your own with -secret or EDGE_SECRET)\n", o.secret)
	}
	memory := newBudget(o.memory)
	fmt.Fprintf(&b, "  memory     %s, of them %s for clients that read slowly\n", sizeText(memory.total), sizeText(memory.most()))
	fmt.Fprintf(&b, "  clients    %d at most%s\n", o.limits.maxConnections, tighter(o.limits.maxConnections, memory))
	fmt.Fprintf(&b, "\nIn a page, with pusher-js:\n  new Pusher(%q, { cluster: \"\", wsHost: %q, wsPort: %s, forceTLS: false, enabledTransports: [\"ws\"] })\n", o.key, host, port)
	fmt.Fprintf(&b, "On a server, with Node's pusher:\n  new Pusher({ appId: %q, key: %q, secret: %q, host: %q, port: %q, useTLS: false })\n\n", id, o.key, secret, host, port)
	fmt.Fprintf(&b, "Ready on %s. Ctrl-C ends it.\n", addr)
	return b.String()
}

// tighter says what keeps edge from serving as many clients as there is memory for, if something does.
func tighter(connections int, memory *budget) string {
	if limit := descriptorLimit(); connections < memory.connections() && connections == defaultConnections() {
		return fmt.Sprintf(": the limit of open files is %d (ulimit -n), there is memory for %d", limit, memory.connections())
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
  Is it alive?            /health

Point an official Pusher client or server library at this host and port: edge -help and the README say how.
`
