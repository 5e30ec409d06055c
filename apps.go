package main

// The apps of a server: what they are called by, and whose keys, origins and webhooks they have.

import (
	"slices"
	"sync/atomic"
	"time"

	"edge/internal/channel"
	"edge/internal/config"
	"edge/internal/conn"
	"edge/internal/sign"
	"edge/internal/webhook"
)

// app is an App with what only the front knows of it.
type app struct {
	*channel.App
	front atomic.Pointer[front] // a reload sets another

	unprint func() // guarded by server.mu: ends printing of notices; nil while none are printed
}

// front is what a reload can change of an app but for its limits. It never changes itself.
type front struct {
	id       string // "" accepts any in API paths
	keys     sign.Keys
	origins  []string       // allowed values of the Origin header; none allows all
	window   time.Duration  // how far the clock of an API client may be off; 0 for no check
	webhooks *webhook.Hooks // nil if there never were any
}

// newFrontApp makes an app without connections.
func newFrontApp(o config.App, memory *conn.Budget) *app {
	a := &app{App: channel.NewApp(memory, o.Limits)}
	a.front.Store(new(front))
	a.configure(o)
	return a
}

// configure makes o hold from now on. Keys and receivers of webhooks that stay are the same as before, with their counts and queues.
func (a *app) configure(o config.App) {
	old := a.front.Load()
	f := &front{id: o.ID, origins: o.Origins, window: o.AuthWindow, webhooks: old.webhooks}
	for _, pair := range o.Keys() {
		f.keys = append(f.keys, old.keys.Same(sign.NewKey(pair.Name, pair.Secret)))
	}
	if len(o.Hooks) > 0 && f.webhooks == nil {
		f.webhooks = webhook.New(a.App, version)
	}
	if f.webhooks != nil {
		f.webhooks.Configure(o.Hooks, f.keys[0], o.WebhookGrace)
	}
	a.SetLimits(o.Limits)
	a.front.Store(f)
}

func (a *app) id() string               { return a.front.Load().id }
func (a *app) keys() sign.Keys          { return a.front.Load().keys }
func (a *app) webhooks() *webhook.Hooks { return a.front.Load().webhooks }
func (a *app) window() time.Duration    { return a.front.Load().window }

// apps are the apps of a server, by what requests call them. They never change: a reload makes others.
type apps struct {
	all   []*app
	byKey map[string]*app
	none  *app // for what names no app
}

// newApps makes the apps that are described; of old ones, if there were, those that still are stay, with their connections.
func newApps(list []config.App, memory *conn.Budget, old *apps) *apps {
	n := &apps{byKey: make(map[string]*app)}
	if old != nil {
		n.none = old.none
	} else {
		n.none = newFrontApp(list[0].Anonymous(config.NoneID), memory)
	}
	for _, o := range list {
		a := old.same(o.ID, len(list))
		if a == nil {
			a = newFrontApp(o, memory)
		} else {
			a.configure(o)
		}
		n.all = append(n.all, a)
		for _, k := range o.Keys() {
			n.byKey[k.Name] = a
		}
	}
	return n
}

// same returns the app with this id; if there is one and will be one, it is the same whatever its id.
func (l *apps) same(id string, there int) *app {
	if l == nil {
		return nil
	}
	for _, a := range l.all {
		if a.id() == id || there == 1 && len(l.all) == 1 {
			return a
		}
	}
	return nil
}

// find returns the app that a request names by its id, or where a library leaves that out by its key; nil if there is none.
func (l *apps) find(id, key string) *app {
	for _, a := range l.all {
		if have := a.id(); have == "" || id != "" && have == id {
			return a
		}
	}
	if id == "" {
		return l.byKey[key]
	}
	return nil
}

// done reports whether an app that is gone from the server has nothing left to do.
func (a *app) done() bool {
	w := a.webhooks()
	return a.Conns.Count() == 0 && (w == nil || w.Idle())
}

// has reports whether a is one of them.
func (l *apps) has(a *app) bool { return slices.Contains(l.all, a) }
