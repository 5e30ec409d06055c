package main

// The server: its listeners, its routes, a new configuration while it runs, and the order in which it ends.

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"edge/internal/api"
	"edge/internal/channel"
	"edge/internal/config"
	"edge/internal/conn"
	"edge/internal/console"
	"edge/internal/fallback"
	"edge/internal/listen"
	"edge/internal/logs"
	"edge/internal/metrics"
	"edge/internal/systemd"
	"edge/internal/wire"
)

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
var openPoller = conn.NewPoller

// server serves the apps of its options.
type server struct {
	// Static after construction.
	memory   *conn.Budget
	printer  *logs.Printer
	cert     *listen.Certificate // nil without TLS
	began    config.Options      // what it was started with: some of that holds to the end
	callers  *listen.Callers
	clock    *clock
	notifier *systemd.Notifier
	probed   *app             // of the watchdog
	console  *console.Console // nil without

	apps     atomic.Pointer[apps]
	draining atomic.Bool // it is about to end

	mu      sync.Mutex     // guards the following
	options config.Options // what holds
	removed []*app         // by a reload; their webhooks deliver what they have
}

// newServer makes the server that the options describe. Its lines, if they are wanted, go to log.
func newServer(o config.Options, memory *conn.Budget, log *slog.Logger) (*server, error) {
	s := &server{memory: memory, printer: logs.NewPrinter(log), clock: newClock(), probed: newProbe(o),
		began: o, options: o}
	s.notifier = systemd.New(s.status)
	memory.Changed = s.notifier.StatusLater
	s.callers = listen.NewCallers()
	s.divide(o)
	s.apps.Store(newApps(o.Apps, memory, nil))
	s.setVerboseLocked(o.Verbose)
	if o.Console {
		s.console = s.newConsole()
	}
	if o.TLSCert != "" {
		var err error
		if s.cert, err = listen.Load(o.TLSCert, o.TLSKey); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// newConsole makes the console, which sees of the server nothing but what it is given.
func (s *server) newConsole() *console.Console {
	return console.New(console.Options{
		Path: s.began.Path, Version: version, Proxies: s.began.Proxies, None: s.apps.Load().none.App,
		SignIn: s.signIn,
		Alone:  func() bool { return len(s.apps.Load().all) == 1 },
		Warnings: func() []string {
			s.mu.Lock()
			o := s.options
			s.mu.Unlock()
			return warnings(o)
		},
	})
}

// divide gives clients what the options say of memory and descriptors, and callers what that leaves.
func (s *server) divide(o config.Options) {
	s.memory.MostClients.Store(int64(o.Connections))
	s.callers.Limit.Store(int64(max(minCallers, min(conn.DescriptorLimit()-o.Connections-spareDescriptors, s.memory.Callers()))))
}

// listen opens all addresses of the options, or takes what was opened for us instead.
func (s *server) listen() (all []net.Listener, err error) {
	all, err = listen.Inherited()
	for i, l := range all {
		all[i] = s.seal(l, l.Addr().Network()+":"+l.Addr().String(), len(all)-1)
	}
	if len(all) > 0 || err != nil {
		return all, err
	}
	addrs := s.began.Addrs
	for _, addr := range addrs {
		l, err := listen.Open(addr, "addr")
		if err != nil {
			listen.Close(all)
			return nil, err
		}
		all = append(all, s.seal(l, addr, len(addrs)-1))
	}
	return all, nil
}

// seal makes a listener one for TLS, if it is to be.
func (s *server) seal(l net.Listener, addr string, others int) net.Listener {
	if s.cert == nil || listen.Plain(addr, others) {
		return l
	}
	return conn.TLSListener{Listener: l, Config: s.cert.Config()}
}

// serve serves on the listeners, which it closes, until ctx is done and everyone has been told.
func (s *server) serve(ctx context.Context, listeners ...net.Listener) error {
	poller, err := openPoller()
	if err != nil {
		return err
	}
	defer poller.Close()
	up := &upgrader{apps: &s.apps, poller: poller, deflate: s.began.Deflate, path: s.began.Path, proxies: s.began.Proxies,
		probed: s.probed}
	srv := s.httpServer(s.handler(up))
	srv.ConnState = s.callers.Note
	srv.ConnContext = s.callers.Context
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { failed <- srv.Serve(l) }() // ends when srv is shut down below
	}
	s.notifier.Ready()
	go s.notifier.FeedWatchdog(ctx, s.probe(listeners[0])) // ends with ctx
	select {
	case err = <-failed:
		srv.Close()
		return err
	case <-ctx.Done():
	}
	s.draining.Store(true)
	s.notifier.Stopping()
	s.shutdown(srv)
	return nil
}

// httpServer is an http.Server with our limits. HTTP/2 is of no use to WebSocket clients, and callers do without.
func (s *server) httpServer(h http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           h,
		Protocols:         protocols,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      20 * time.Second,
		IdleTimeout:       3 * time.Minute, // longer than clients keep theirs, so that none sends into a closing one
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          log.New(serverErrors{}, "", 0),
	}
}

// serverErrors takes what net/http complains of. That someone's TLS handshake failed is not worth a line.
type serverErrors struct{}

func (serverErrors) Write(p []byte) (int, error) {
	if line := strings.TrimSpace(string(p)); !strings.Contains(line, "TLS handshake error") {
		slog.Warn(line)
	}
	return len(p), nil
}

// handler is the route table.
func (s *server) handler(up *upgrader) http.Handler {
	mux := http.NewServeMux()
	for _, route := range api.Routes {
		mux.HandleFunc(route.Method+" "+s.began.Path+route.Path, route.Serve(s.checkCall, s.began.Proxies))
		mux.HandleFunc(s.began.Path+route.Path, route.NotAllowed)
	}
	mux.HandleFunc(s.began.Path+"/app/{key}", up.serveHTTP) // not an upgrade, which is what it says
	mux.HandleFunc("GET "+s.began.Path+"/{$}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, welcome, version) })
	if path := s.began.HTTPPath; path != "" {
		path = s.began.Path + path
		mux.Handle(path+"/", fallback.New(fallback.Options{Path: path, Callers: s.callers, Memory: s.memory,
			Proxies: s.began.Proxies, Open: up.openSession, Reject: up.rejectSession}))
	}
	s.healthRoutes(mux)
	if s.began.DevAuth != nil {
		s.devAuthRoutes(mux)
	}
	if s.console != nil {
		s.console.Routes(mux)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, fmt.Sprintf("not found: the API is under %s/apps/{id}, WebSocket connections under %[1]s/app/{key}", s.began.Path), http.StatusNotFound)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn.IsUpgrade(r) { // before mux, which redirects paths it does not like: to a WebSocket client that is an error
			up.serveHTTP(w, r)
		} else {
			mux.ServeHTTP(w, r)
		}
	})
}

// healthRoutes are for those who ask whether the server is alive, and whether it wants to be sent new clients.
func (s *server) healthRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case s.draining.Load():
			http.Error(w, "shutting down", http.StatusServiceUnavailable)
		case s.memory.Refuses():
			http.Error(w, "short of memory", http.StatusServiceUnavailable)
		default:
			io.WriteString(w, "ready\n")
		}
	})
}

// metricsHandler answers on the address that -metrics-addr names.
func (s *server) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	s.healthRoutes(mux)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		now := s.apps.Load()
		var apps []metrics.App
		for _, a := range append([]*app{now.none}, now.all...) {
			apps = append(apps, metrics.App{ID: a.id(), App: a.App, Keys: a.keys(), Hooks: a.webhooks()})
		}
		of := metrics.Server{Version: version, Memory: s.memory, Panics: conn.Panics.Load()}
		if s.cert != nil {
			of.Expiry = s.cert.Expiry()
		}
		metrics.Serve(w, of, apps)
	})
	return mux
}

// reload makes other options hold, as far as a running server can. No connection is dropped but those of apps that are gone.
func (s *server) reload(o config.Options) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.options
	late, err := o.Follow(&old, &s.began)
	if err != nil {
		return err
	}
	if s.cert != nil && o.TLSCert != "" {
		if err := s.cert.Use(o.TLSCert, o.TLSKey); err != nil {
			return err
		}
	}
	for _, name := range late {
		slog.Warn("this option takes effect with the next start", "option", name)
	}
	s.options = o
	s.divide(o)
	before := s.apps.Load()
	after := newApps(o.Apps, s.memory, before)
	s.apps.Store(after)
	removed := slices.DeleteFunc(s.removed, (*app).done)
	for _, a := range before.all {
		if !after.has(a) {
			removed = append(removed, a)
			sockets, _ := a.CloseSockets()
			for _, socket := range sockets {
				socket.Close(wire.CodeUnknownKey, "The app has been removed from this server")
			}
		}
	}
	s.removed = removed
	s.setVerboseLocked(o.Verbose)
	return nil
}

// setVerboseLocked sets whether notices are printed, of all apps.
func (s *server) setVerboseLocked(on bool) {
	for _, a := range s.allAppsLocked() {
		switch {
		case on && a.unprint == nil:
			a.unprint = s.printer.Observe(a.App, a.id)
		case !on && a.unprint != nil:
			a.unprint()
			a.unprint = nil
		}
	}
}

// reloadWhenAsked applies the options that parse returns, after each hangup, until ctx is done.
func (s *server) reloadWhenAsked(ctx context.Context, hangups <-chan os.Signal, parse func() (config.Options, error)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		s.notifier.Reloading()
		o, err := parse()
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = s.reload(o)
		}
		if err != nil {
			slog.Error("the new configuration is refused, the old one stays", "error", err)
		} else {
			slog.Info("the new configuration holds")
		}
		s.notifier.Ready()
	}
}

// allApps are all apps there are or were, that of requests for none included.
func (s *server) allApps() []*app {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.allAppsLocked()
}

func (s *server) allAppsLocked() []*app {
	now := s.apps.Load()
	return append(append([]*app{now.none}, now.all...), s.removed...)
}

// shutdown ends in this order: no new connections and requests, the requests under way, the events they triggered, every
// WebSocket connection with 4200, after which official clients reconnect at once, and therefore spread over a moment; and
// the webhooks. What it has to leave undone in shutdownTimeout it logs.
func (s *server) shutdown(srv *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	requests, cancelRequests := context.WithTimeout(ctx, requestsTimeout)
	defer cancelRequests()
	if s.console != nil {
		s.console.End() // its pages would be requests under way
	}
	finish(requests, srv, s.callers.Busy) // those that take longer are cut off below
	all := append(s.allApps(), s.probed)
	var sockets []*channel.Socket
	var ended []<-chan struct{}
	for _, a := range all {
		a.Flush()
		some, done := a.CloseSockets()
		sockets, ended = append(sockets, some...), append(ended, done)
	}
	every := min(closeInterval, closeSpread/time.Duration(max(1, len(sockets))))
	for began, i := time.Now(), 0; i < len(sockets); i++ {
		// Sleeping for the whole distance so far keeps the pace whatever the machine's timers are like.
		time.Sleep(time.Until(began.Add(time.Duration(i) * every)))
		sockets[i].Close(wire.CodeReconnect, "Please reconnect immediately")
	}
	limit, cancelLimit := context.WithTimeout(ctx, closeTimeout)
	defer cancelLimit()
	if !waitAll(limit, ended) {
		slog.Warn("some connections did not close in time and are cut off", "after", closeTimeout)
		for _, socket := range sockets {
			socket.Conn.Abort()
		}
		waitAll(ctx, ended) // what they leave behind is told before webhooks are drained
	}
	finish(limit, srv, s.callers.Lending) // or clients over HTTP would not get their last words
	srv.Close()
	var draining sync.WaitGroup
	var left atomic.Int64
	for _, a := range all {
		if w := a.webhooks(); w != nil {
			draining.Go(func() { left.Add(int64(w.Drain(ctx))) })
		}
	}
	draining.Wait()
	if n := left.Load(); n > 0 {
		slog.Error("webhook events were not delivered before the end", "events", n)
	}
}

// finish takes no more connections, and waits for requests to be answered while there are unfinished ones and until ctx is done.
func finish(ctx context.Context, srv *http.Server, unfinished func() bool) {
	now, cancel := context.WithCancel(ctx)
	cancel() // Shutdown would wait for the requests of clients over HTTP, which end when they are told to
	for srv.Shutdown(now) != nil && unfinished() && ctx.Err() == nil {
		time.Sleep(closeInterval)
	}
}

// waitAll reports whether all channels were closed before ctx was done.
func waitAll(ctx context.Context, all []<-chan struct{}) bool {
	for _, c := range all {
		select {
		case <-c:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// status is the line that systemctl status shows.
func (s *server) status() string {
	connections, channels := 0, 0
	for _, a := range s.apps.Load().all {
		connections += a.Connections()
		channels += a.CountChannels()
	}
	return fmt.Sprintf("%s, %s", plural(connections, "connection"), plural(channels, "channel"))
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// newProbe makes the app of the watchdog, which nobody else knows, and which has nothing to do with limits.
func newProbe(o config.Options) *app {
	a := o.Apps[0].Anonymous(systemd.ProbeChannel)
	a.Origins, a.Limits.AuthorizeWithin = nil, 0
	return newFrontApp(a, conn.NewBudget(1<<30))
}

// probe is what the watchdog asks of the listener.
func (s *server) probe(l net.Listener) systemd.Probe {
	return systemd.Probe{Listener: l, Path: s.began.Path, Key: s.probed.keys()[0].Name, Trigger: func(event string) {
		s.probed.Trigger(systemd.ProbeChannel, wire.KindPublic, channel.Event{Name: []byte(event), Data: wire.EmptyData})
	}}
}
