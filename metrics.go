package main

// What has happened, in numbers, and GET /metrics (https://prometheus.io/docs/instrumenting/exposition_formats/).
//
// Where soketi and sockudo have a figure, ours has the same name behind another prefix, so that their dashboards fit.

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// counts are what has happened in an app since it began.
type counts struct {
	connected, disconnected          atomic.Uint64
	received, sent                   atomic.Uint64 // messages
	receivedBytes                    atomic.Uint64
	sentBytes                        atomic.Uint64 // of connections that have ended; see conn.sent
	calls, callBytes, answerBytes    atomic.Uint64 // of the HTTP API
	published, clientEvents, unheard atomic.Uint64 // events: over HTTP, by clients, and those of both that reached nobody

	mu       sync.Mutex // guards the following
	refusals map[refused]uint64
}

// refused is what was refused, and why: both are words of ours, of which there are few.
type refused struct{ what, reason string }

// refuse counts a refusal.
func (c *counts) refuse(what, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refusals == nil {
		c.refusals = make(map[refused]uint64)
	}
	c.refusals[refused{what, reason}]++
}

// refused returns what was refused so far.
func (c *counts) refused() map[refused]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.refusals)
}

// metricsPage is a page of them.
type metricsPage struct{ b []byte }

// family begins a metric: a counter or a gauge.
func (m *metricsPage) family(kind, name, help string) {
	m.b = fmt.Appendf(m.b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// sample adds a value to the family that was begun. labels are names and values in turn.
func (m *metricsPage) sample(name string, value float64, labels ...string) {
	m.b = append(m.b, name...)
	for i := 0; i < len(labels); i += 2 {
		m.b = append(m.b, "{,"[min(i, 1)])
		m.b = append(append(m.b, labels[i]...), '=')
		m.b = append(append(append(m.b, '"'), labelEscapes.Replace(labels[i+1])...), '"')
	}
	if len(labels) > 0 {
		m.b = append(m.b, '}')
	}
	m.b = append(strconv.AppendFloat(append(m.b, ' '), value, 'f', -1, 64), '\n')
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// each adds a family with a value of every app.
func (m *metricsPage) each(apps []*App, kind, name, help string, value func(a *App) float64) {
	m.family(kind, name, help)
	for _, a := range apps {
		m.sample(name, value(a), "app_id", a.id())
	}
}

// metricsHandler answers on the address that -metrics-addr names.
func (s *server) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	s.healthRoutes(mux)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		w.Write(s.appendMetrics(nil))
	})
	return mux
}

// serveMetrics serves them on an address of their own, until end is called.
func (s *server) serveMetrics(addr string) (end func(), err error) {
	l, err := listen(addr, "metrics-addr")
	if err != nil {
		return nil, err
	}
	srv := s.httpServer(s.metricsHandler())
	go srv.Serve(l) // ends with end
	return func() { srv.Close() }, nil
}

// appendMetrics appends all metrics.
func (s *server) appendMetrics(dst []byte) []byte {
	m := &metricsPage{dst}
	now := s.apps.Load()
	apps := append([]*App{now.none}, now.all...)
	m.addApps(apps)
	m.addRefusals(apps)
	m.addWebhooks(apps)
	m.family("gauge", "edge_memory_budget_bytes", "Memory that edge may use.")
	m.sample("edge_memory_budget_bytes", float64(s.memory.total))
	m.family("gauge", "edge_memory_held_bytes", "Of it, held for clients that read slowly or send messages in pieces.")
	m.sample("edge_memory_held_bytes", float64(s.memory.holds()))
	m.family("gauge", "edge_memory_tight", "1 while nobody new is let in because memory is short.")
	m.sample("edge_memory_tight", truth(s.memory.tight.Load()))
	m.family("counter", "edge_panics_total", "Panics that were caught.")
	m.sample("edge_panics_total", float64(panicsCaught.Load()))
	if s.cert != nil {
		m.family("gauge", "edge_tls_certificate_expiry_seconds", "When the certificate ends, in seconds since 1970.")
		m.sample("edge_tls_certificate_expiry_seconds", float64(s.cert.expiry()))
	}
	m.family("gauge", "edge_info", "What this is.")
	m.sample("edge_info", 1, "version", version, "go", runtime.Version())
	m.addProcess()
	return m.b
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func (m *metricsPage) addApps(apps []*App) {
	of := func(counter func(a *App) *atomic.Uint64) func(a *App) float64 {
		return func(a *App) float64 { return float64(counter(a).Load()) }
	}
	m.each(apps, "gauge", "edge_connected", "Connections of clients, over WebSocket or HTTP.", func(a *App) float64 { return float64(a.connections()) })
	m.each(apps, "counter", "edge_new_connections_total", "Connections established.", of(func(a *App) *atomic.Uint64 { return &a.counts.connected }))
	m.each(apps, "counter", "edge_new_disconnections_total", "Connections ended.", of(func(a *App) *atomic.Uint64 { return &a.counts.disconnected }))
	m.each(apps, "counter", "edge_ws_messages_received_total", "Messages from clients.", of(func(a *App) *atomic.Uint64 { return &a.counts.received }))
	m.each(apps, "counter", "edge_ws_messages_sent_total", "Messages to clients.", of(func(a *App) *atomic.Uint64 { return &a.counts.sent }))
	m.each(apps, "counter", "edge_socket_received_bytes", "Bytes from clients.", of(func(a *App) *atomic.Uint64 { return &a.counts.receivedBytes }))
	m.each(apps, "counter", "edge_socket_transmitted_bytes", "Bytes to clients.", func(a *App) float64 { return float64(a.sentBytes()) })
	m.each(apps, "counter", "edge_http_calls_received_total", "Calls of the HTTP API.", of(func(a *App) *atomic.Uint64 { return &a.counts.calls }))
	m.each(apps, "counter", "edge_http_received_bytes", "Bytes of their bodies.", of(func(a *App) *atomic.Uint64 { return &a.counts.callBytes }))
	m.each(apps, "counter", "edge_http_transmitted_bytes", "Bytes of the answers' bodies.", of(func(a *App) *atomic.Uint64 { return &a.counts.answerBytes }))
	m.each(apps, "gauge", "edge_channels", "Channels with a subscription or a cached event.", func(a *App) float64 { return float64(a.countChannels()) })
	m.each(apps, "counter", "edge_events_published_total", "Events over HTTP, counted for each channel.", of(func(a *App) *atomic.Uint64 { return &a.counts.published }))
	m.each(apps, "counter", "edge_client_events_total", "Events by clients.", of(func(a *App) *atomic.Uint64 { return &a.counts.clientEvents }))
	m.each(apps, "counter", "edge_events_unheard_total", "Events of both that reached nobody.", of(func(a *App) *atomic.Uint64 { return &a.counts.unheard }))
}

func (m *metricsPage) addRefusals(apps []*App) {
	m.family("counter", "edge_slow_readers_cut_total", "Connections cut off because they read too slowly, or held too much memory for too long.")
	for _, a := range apps {
		for r, name := range cutNames {
			m.sample("edge_slow_readers_cut_total", float64(a.bounds.cuts[r].Load()), "app_id", a.id(), "reason", name)
		}
	}
	m.family("counter", "edge_refusals_total", "Connections, subscriptions, messages and calls refused, by close code, kind or status.")
	for _, a := range apps {
		for r, n := range a.counts.refused() {
			m.sample("edge_refusals_total", float64(n), "app_id", a.id(), "what", r.what, "reason", r.reason)
		}
	}
	m.family("counter", "edge_key_uses_total", "Valid signatures by each key: one that is not used any more can go.")
	for _, a := range apps {
		for _, k := range a.keys() {
			m.sample("edge_key_uses_total", float64(k.uses.Load()), "app_id", a.id(), "key", k.name)
		}
	}
}

func (m *metricsPage) addWebhooks(apps []*App) {
	for _, f := range []struct {
		kind, name, help string
		value            func(hookCounts) float64
	}{
		{"gauge", "edge_webhook_queue", "Events that wait for a receiver.", func(c hookCounts) float64 { return float64(c.queued - c.sent - c.dropped - c.left) }},
		{"counter", "edge_webhook_sent_total", "Events delivered.", func(c hookCounts) float64 { return float64(c.sent) }},
		{"counter", "edge_webhook_retried_total", "Requests that failed and were tried again.", func(c hookCounts) float64 { return float64(c.retried) }},
		{"counter", "edge_webhook_dropped_total", "Events given up.", func(c hookCounts) float64 { return float64(c.dropped) }},
		{"gauge", "edge_webhook_failing", "1 while the last request failed.", func(c hookCounts) float64 { return truth(!c.failingSince.IsZero()) }},
	} {
		m.family(f.kind, f.name, f.help)
		for _, a := range apps {
			w := a.webhooks()
			if w == nil {
				continue
			}
			for i, h := range w.all() {
				m.sample(f.name, f.value(h.counts()), "app_id", a.id(), "url", h.name, "receiver", strconv.Itoa(i+1))
			}
		}
	}
}

// addProcess adds what is known of the process, under the names that all programs have for it.
func (m *metricsPage) addProcess() {
	m.family("gauge", "process_start_time_seconds", "When the process began, in seconds since 1970.")
	m.sample("process_start_time_seconds", float64(processStart.UnixMilli())/1000)
	m.family("gauge", "go_goroutines", "Goroutines.")
	m.sample("go_goroutines", float64(runtime.NumGoroutine()))
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		pages, _ := strconv.Atoi(strings.Fields(string(b))[1])
		m.family("gauge", "process_resident_memory_bytes", "Memory of the process.")
		m.sample("process_resident_memory_bytes", float64(pages*os.Getpagesize()))
	}
	if files, err := os.ReadDir("/proc/self/fd"); err == nil {
		m.family("gauge", "process_open_fds", "Open files and connections.")
		m.sample("process_open_fds", float64(len(files)))
		m.family("gauge", "process_max_fds", "How many there may be.")
		m.sample("process_max_fds", float64(descriptorLimit()))
	}
	if used, ok := processorTime(); ok {
		m.family("counter", "process_cpu_seconds_total", "Processor time used.")
		m.sample("process_cpu_seconds_total", used.Seconds())
	}
}

// connections is how many there are.
func (a *App) connections() int {
	a.socketsMu.Lock()
	defer a.socketsMu.Unlock()
	return len(a.sockets)
}

// countChannels is how many channels there are. It walks over all of them.
func (a *App) countChannels() (n int) {
	a.channels.Range(func(_, c any) bool {
		if c.(*Channel).kind&kindUser == 0 {
			n++
		}
		return true
	})
	return n
}

// sentBytes is what all connections were sent. It walks over all of them.
func (a *App) sentBytes() (n uint64) {
	a.socketsMu.Lock()
	all := slices.Collect(maps.Values(a.sockets))
	n = a.counts.sentBytes.Load()
	a.socketsMu.Unlock()
	for _, s := range all {
		n += s.conn.sentBytes()
	}
	return n
}

// processorTime is what the process has used; it is not ok where that is not known.
func processorTime() (used time.Duration, ok bool) {
	b, _ := os.ReadFile("/proc/self/stat")
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, false
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond, true
}
