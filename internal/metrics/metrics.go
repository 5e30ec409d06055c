// Package metrics is the page of GET /metrics: what has happened, in numbers, as Prometheus reads it
// (https://prometheus.io/docs/instrumenting/exposition_formats/). It counts nothing itself, and does not listen.
//
// Where soketi and sockudo have a figure, ours has the same name behind another prefix, so that their dashboards fit.
//
// A new metric is a line with add: of each app in addApp, of the whole server in addServer.
package metrics

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/sign"
	"edge/internal/webhook"
)

// App is an app, and what is counted beside it.
type App struct {
	ID    string
	App   *channel.App
	Keys  sign.Keys
	Hooks *webhook.Hooks // nil without
}

// Server is what there is once.
type Server struct {
	Version string
	Memory  *conn.Budget
	Expiry  int64 // of the certificate, in seconds since 1970; 0 without
	Panics  uint64
}

// Serve answers with the metrics of a server and its apps.
func Serve(w http.ResponseWriter, s Server, apps []App) {
	p := &page{samples: make(map[string][]byte)}
	for _, a := range apps {
		p.addApp(a)
		p.addRefusals(a)
		if a.Hooks != nil {
			p.addHooks(a.Hooks.Stats(), a.ID)
		}
	}
	p.addServer(s)
	p.addProcess()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	for _, metric := range p.metrics {
		w.Write(p.samples[metric])
	}
}

// page has the samples of each metric behind its description, in the order of its first sample.
type page struct {
	metrics []string
	samples map[string][]byte
}

// add adds a sample of a metric, a name and "counter" or "gauge". labels are names and values in turn, the value is a
// number.
func (p *page) add(metric, help string, value any, labels ...string) {
	name, _, _ := strings.Cut(metric, " ")
	text, known := p.samples[metric]
	if !known {
		p.metrics = append(p.metrics, metric)
		text = fmt.Appendf(nil, "# HELP %s %s\n# TYPE %s\n", name, help, metric)
	}
	text = append(text, name...)
	for i := 0; i < len(labels); i += 2 {
		text = fmt.Appendf(text, `%c%s="%s"`, "{,"[min(i, 1)], labels[i], labelEscapes.Replace(labels[i+1]))
	}
	if len(labels) > 0 {
		text = append(text, '}')
	}
	p.samples[metric] = fmt.Appendf(text, " %v\n", value)
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// number is that of a truth value.
var number = map[bool]int{true: 1}

func (p *page) addApp(a App) {
	c, app := &a.App.Counts, []string{"app_id", a.ID}
	p.add("edge_connected gauge", "Connections of clients, over WebSocket or HTTP.", a.App.Connections(), app...)
	p.add("edge_new_connections_total counter", "Connections established.", c.Connected.Load(), app...)
	p.add("edge_new_disconnections_total counter", "Connections ended.", c.Disconnected.Load(), app...)
	p.add("edge_ws_messages_received_total counter", "Messages from clients.", c.Received.Load(), app...)
	p.add("edge_ws_messages_sent_total counter", "Messages to clients.", c.Sent.Load(), app...)
	p.add("edge_socket_received_bytes counter", "Bytes from clients.", a.App.Conns.Received.Load(), app...)
	p.add("edge_socket_transmitted_bytes counter", "Bytes to clients.", a.App.SentBytes(), app...)
	p.add("edge_http_calls_received_total counter", "Calls of the HTTP API.", c.Calls.Load(), app...)
	p.add("edge_http_received_bytes counter", "Bytes of their bodies.", c.CallBytes.Load(), app...)
	p.add("edge_http_transmitted_bytes counter", "Bytes of the answers' bodies.", c.AnswerBytes.Load(), app...)
	p.add("edge_channels gauge", "Channels with a subscription or a cached event.", a.App.CountChannels(), app...)
	p.add("edge_events_published_total counter", "Events over HTTP, counted for each channel.", c.Published.Load(), app...)
	p.add("edge_client_events_total counter", "Events by clients.", c.ClientEvents.Load(), app...)
	p.add("edge_events_unheard_total counter", "Events of both that reached nobody.", c.Unheard.Load(), app...)
}

func (p *page) addRefusals(a App) {
	for r, name := range conn.CutNames {
		p.add("edge_slow_readers_cut_total counter",
			"Connections cut off because they read too slowly, or held too much memory for too long.",
			a.App.Conns.Cuts[r].Load(), "app_id", a.ID, "reason", name)
	}
	for r, n := range a.App.Counts.Refused() {
		p.add("edge_refusals_total counter",
			"Connections, subscriptions, messages and calls refused, by close code, kind or status.",
			n, "app_id", a.ID, "what", r.What, "reason", r.Reason)
	}
	for _, k := range a.Keys {
		p.add("edge_key_uses_total counter", "Valid signatures by each key: one that is not used any more can go.",
			k.Uses.Load(), "app_id", a.ID, "key", k.Name)
	}
}

func (p *page) addHooks(all []webhook.Stats, id string) {
	for i, s := range all {
		hook := []string{"app_id", id, "url", s.Receiver, "receiver", strconv.Itoa(i + 1)}
		p.add("edge_webhook_queue gauge", "Events that wait for a receiver.", s.Queued-s.Sent-s.Dropped-s.Left, hook...)
		p.add("edge_webhook_sent_total counter", "Events delivered.", s.Sent, hook...)
		p.add("edge_webhook_retried_total counter", "Requests that failed and were tried again.", s.Retried, hook...)
		p.add("edge_webhook_dropped_total counter", "Events given up.", s.Dropped, hook...)
		p.add("edge_webhook_failing gauge", "1 while the last request failed.", number[!s.FailingSince.IsZero()], hook...)
	}
}

func (p *page) addServer(s Server) {
	p.add("edge_memory_budget_bytes gauge", "Memory that edge may use.", s.Memory.Total)
	p.add("edge_memory_held_bytes gauge", "Of it, held for clients that read slowly or send messages in pieces.",
		s.Memory.Holds())
	p.add("edge_memory_tight gauge", "1 while nobody new is let in because memory is short.",
		number[s.Memory.Tight.Load()])
	p.add("edge_panics_total counter", "Panics that were caught.", s.Panics)
	if s.Expiry != 0 {
		p.add("edge_tls_certificate_expiry_seconds gauge", "When the certificate ends, in seconds since 1970.", s.Expiry)
	}
	p.add("edge_info gauge", "What this is.", 1, "version", s.Version, "go", runtime.Version())
}

// addProcess adds what is known of the process, under the names that all programs have for it.
func (p *page) addProcess() {
	start := float64(conn.ProcessStart.UnixMilli()) / 1000
	p.add("process_start_time_seconds gauge", "When the process began, in seconds since 1970.", start)
	p.add("go_goroutines gauge", "Goroutines.", runtime.NumGoroutine())
	if files, err := os.ReadDir("/proc/self/fd"); err == nil {
		p.add("process_open_fds gauge", "Open files and connections.", len(files))
		p.add("process_max_fds gauge", "How many there may be.", conn.DescriptorLimit())
	}
	stat, _ := os.ReadFile("/proc/self/stat") // proc_pid_stat(5)
	_, numbers, _ := strings.Cut(string(stat), ") ")
	if f := strings.Fields(numbers); len(f) > 21 {
		user, _ := strconv.Atoi(f[11]) // in hundredths of a second
		system, _ := strconv.Atoi(f[12])
		pages, _ := strconv.Atoi(f[21])
		p.add("process_cpu_seconds_total counter", "Processor time used.", float64(user+system)/100)
		p.add("process_resident_memory_bytes gauge", "Memory of the process.", pages*os.Getpagesize())
	}
}
