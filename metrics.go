package main

// What has happened, in numbers, and GET /metrics (https://prometheus.io/docs/instrumenting/exposition_formats/).
//
// Where soketi and sockudo have a figure, ours has the same name behind another prefix, so that their dashboards fit.

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"

	"edge/internal/conn"
	"edge/internal/listen"
	"edge/internal/webhook"
)

// metricsPage has the samples of each metric behind its description, in the order in which metrics were first added.
type metricsPage struct {
	names []string
	texts map[string][]byte
}

func (p *metricsPage) counter(name, help string, value any, labels ...string) {
	p.add("counter", name, help, value, labels)
}

func (p *metricsPage) gauge(name, help string, value any, labels ...string) {
	p.add("gauge", name, help, value, labels)
}

// add adds a sample. labels are names and values in turn, the value is a number.
func (p *metricsPage) add(kind, name, help string, value any, labels []string) {
	text, known := p.texts[name]
	if !known {
		p.names = append(p.names, name)
		text = fmt.Appendf(nil, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	}
	text = append(text, name...)
	for i := 0; i < len(labels); i += 2 {
		text = fmt.Appendf(text, `%c%s="%s"`, "{,"[min(i, 1)], labels[i], labelEscapes.Replace(labels[i+1]))
	}
	if len(labels) > 0 {
		text = append(text, '}')
	}
	p.texts[name] = fmt.Appendf(text, " %v\n", value)
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

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
	l, err := listen.Open(addr, "metrics-addr")
	if err != nil {
		return nil, err
	}
	srv := s.httpServer(s.metricsHandler())
	go srv.Serve(l) // ends with end
	return func() { srv.Close() }, nil
}

// appendMetrics appends all metrics.
func (s *server) appendMetrics(dst []byte) []byte {
	p := &metricsPage{texts: make(map[string][]byte)}
	now := s.apps.Load()
	for _, a := range append([]*app{now.none}, now.all...) {
		p.addApp(a)
		p.addRefusals(a)
		if w := a.webhooks(); w != nil {
			p.addWebhooks(w.Stats(), a.id())
		}
	}
	p.addServer(s)
	p.addProcess()
	for _, name := range p.names {
		dst = append(dst, p.texts[name]...)
	}
	return dst
}

func truth(is bool) int {
	if is {
		return 1
	}
	return 0
}

func (p *metricsPage) addApp(a *app) {
	c, app := &a.Counts, []string{"app_id", a.id()}
	p.gauge("edge_connected", "Connections of clients, over WebSocket or HTTP.", a.Connections(), app...)
	p.counter("edge_new_connections_total", "Connections established.", c.Connected.Load(), app...)
	p.counter("edge_new_disconnections_total", "Connections ended.", c.Disconnected.Load(), app...)
	p.counter("edge_ws_messages_received_total", "Messages from clients.", c.Received.Load(), app...)
	p.counter("edge_ws_messages_sent_total", "Messages to clients.", c.Sent.Load(), app...)
	p.counter("edge_socket_received_bytes", "Bytes from clients.", a.Conns.Received.Load(), app...)
	p.counter("edge_socket_transmitted_bytes", "Bytes to clients.", a.SentBytes(), app...)
	p.counter("edge_http_calls_received_total", "Calls of the HTTP API.", c.Calls.Load(), app...)
	p.counter("edge_http_received_bytes", "Bytes of their bodies.", c.CallBytes.Load(), app...)
	p.counter("edge_http_transmitted_bytes", "Bytes of the answers' bodies.", c.AnswerBytes.Load(), app...)
	p.gauge("edge_channels", "Channels with a subscription or a cached event.", a.CountChannels(), app...)
	p.counter("edge_events_published_total", "Events over HTTP, counted for each channel.", c.Published.Load(), app...)
	p.counter("edge_client_events_total", "Events by clients.", c.ClientEvents.Load(), app...)
	p.counter("edge_events_unheard_total", "Events of both that reached nobody.", c.Unheard.Load(), app...)
}

func (p *metricsPage) addRefusals(a *app) {
	for r, name := range conn.CutNames {
		p.counter("edge_slow_readers_cut_total",
			"Connections cut off because they read too slowly, or held too much memory for too long.",
			a.Conns.Cuts[r].Load(), "app_id", a.id(), "reason", name)
	}
	for r, n := range a.Counts.Refused() {
		p.counter("edge_refusals_total",
			"Connections, subscriptions, messages and calls refused, by close code, kind or status.",
			n, "app_id", a.id(), "what", r.What, "reason", r.Reason)
	}
	for _, k := range a.keys() {
		p.counter("edge_key_uses_total", "Valid signatures by each key: one that is not used any more can go.",
			k.Uses.Load(), "app_id", a.id(), "key", k.Name)
	}
}

func (p *metricsPage) addWebhooks(all []webhook.Stats, id string) {
	for i, c := range all {
		hook := []string{"app_id", id, "url", c.Receiver, "receiver", strconv.Itoa(i + 1)}
		p.gauge("edge_webhook_queue", "Events that wait for a receiver.", c.Queued-c.Sent-c.Dropped-c.Left, hook...)
		p.counter("edge_webhook_sent_total", "Events delivered.", c.Sent, hook...)
		p.counter("edge_webhook_retried_total", "Requests that failed and were tried again.", c.Retried, hook...)
		p.counter("edge_webhook_dropped_total", "Events given up.", c.Dropped, hook...)
		p.gauge("edge_webhook_failing", "1 while the last request failed.", truth(!c.FailingSince.IsZero()), hook...)
	}
}

func (p *metricsPage) addServer(s *server) {
	m := s.memory
	p.gauge("edge_memory_budget_bytes", "Memory that edge may use.", m.Total)
	p.gauge("edge_memory_held_bytes", "Of it, held for clients that read slowly or send messages in pieces.", m.Holds())
	p.gauge("edge_memory_tight", "1 while nobody new is let in because memory is short.", truth(m.Tight.Load()))
	p.counter("edge_panics_total", "Panics that were caught.", conn.Panics.Load())
	if s.cert != nil {
		p.gauge("edge_tls_certificate_expiry_seconds", "When the certificate ends, in seconds since 1970.", s.cert.Expiry())
	}
	p.gauge("edge_info", "What this is.", 1, "version", version, "go", runtime.Version())
}

// addProcess adds what is known of the process, under the names that all programs have for it.
func (p *metricsPage) addProcess() {
	start := float64(conn.ProcessStart.UnixMilli()) / 1000
	p.gauge("process_start_time_seconds", "When the process began, in seconds since 1970.", start)
	p.gauge("go_goroutines", "Goroutines.", runtime.NumGoroutine())
	if files, err := os.ReadDir("/proc/self/fd"); err == nil {
		p.gauge("process_open_fds", "Open files and connections.", len(files))
		p.gauge("process_max_fds", "How many there may be.", conn.DescriptorLimit())
	}
	stat, _ := os.ReadFile("/proc/self/stat") // proc_pid_stat(5)
	_, numbers, _ := strings.Cut(string(stat), ") ")
	if f := strings.Fields(numbers); len(f) > 21 {
		user, _ := strconv.Atoi(f[11]) // in hundredths of a second
		system, _ := strconv.Atoi(f[12])
		pages, _ := strconv.Atoi(f[21])
		p.counter("process_cpu_seconds_total", "Processor time used.", float64(user+system)/100)
		p.gauge("process_resident_memory_bytes", "Memory of the process.", pages*os.Getpagesize())
	}
}
