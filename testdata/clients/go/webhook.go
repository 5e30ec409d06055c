package main

// The receiver proves that the official library validates and reads the webhooks of edge unchanged: the events with exactly
// their fields (the library has none for the number in subscription_count), in the order in which they happened and nothing
// between them, nothing after a quick return, and that it refuses forgeries. edge has to send them to EDGE_WEBHOOK_PORT, to
// this program alone, with -subscription-count and a short -webhook-grace.
//
// Encrypted channels are left out: the library decrypts the data of every event of theirs, and those that have none, which
// are all that edge sends, fail with "Failed to decrypt event, possibly wrong key?".

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/pusher/pusher-http-go/v5"
)

type receiver struct {
	*session
	deliveries chan delivery
	last       delivery              // that was looked at
	events     []pusher.WebhookEvent // in it and those before that nobody has waited for
	err        error                 // the first; nothing is done after it
}

// delivery is a request and what the library makes of it.
type delivery struct {
	header http.Header
	body   []byte
	hook   *pusher.Webhook
	err    error
}

func (s *session) runReceiver() error {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", os.Getenv("EDGE_WEBHOOK_PORT")))
	if err != nil {
		return err
	}
	r := &receiver{session: s, deliveries: make(chan delivery, 100)}
	server := &http.Server{Handler: r}
	go server.Serve(l) // ends with Shutdown
	for _, socket := range []**socket{&s.alice, &s.bob} {
		if *socket, err = dial(s.app.Host, s.app.Key); err != nil {
			return err
		}
	}
	err = runAll([]check{
		{"occupied and vacated", r.occupied},
		{"members", r.members},
		{"client events", r.clientEvents},
		{"cache miss", r.cacheMiss},
		{"quick return", r.quickReturn},
		{"forgeries", r.forgeries},
		{"nothing further", func() error { return same("further events", len(r.events), 0) }},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return server.Shutdown(ctx) // the last answer is on its way before the process ends
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return
	}
	hook, err := r.app.Webhook(request.Header, body)
	if err != nil {
		w.WriteHeader(http.StatusUnauthorized)
	}
	r.deliveries <- delivery{request.Header, body, hook, err}
}

// told waits until these are the events that have come since the last call, in this order.
func (r *receiver) told(want ...pusher.WebhookEvent) {
	limit := time.After(timeout)
	for r.err == nil && len(r.events) < len(want) {
		select {
		case r.last = <-r.deliveries:
			if r.last.err != nil {
				r.err = fmt.Errorf("delivery %s with %v: %w", r.last.body, r.last.header, r.last.err)
				return
			}
			r.events = append(r.events, r.last.hook.Events...)
		case <-limit:
			r.err = fmt.Errorf("waiting for %s: %s is all that came", show(want), show(r.events))
		}
	}
	if r.err == nil {
		r.err = same("webhook events", r.events[:len(want)], want)
		r.events = r.events[len(want):]
	}
}

func occupied(channel string) pusher.WebhookEvent {
	return pusher.WebhookEvent{Name: "channel_occupied", Channel: channel}
}

func vacated(channel string) pusher.WebhookEvent {
	return pusher.WebhookEvent{Name: "channel_vacated", Channel: channel}
}

func missed(channel string) pusher.WebhookEvent {
	return pusher.WebhookEvent{Name: "cache_miss", Channel: channel}
}

func counted(channel string) pusher.WebhookEvent {
	return pusher.WebhookEvent{Name: "subscription_count", Channel: channel}
}

func added(channel, user string) pusher.WebhookEvent {
	return pusher.WebhookEvent{Name: "member_added", Channel: channel, UserID: user}
}

func removed(channel, user string) pusher.WebhookEvent {
	return pusher.WebhookEvent{Name: "member_removed", Channel: channel, UserID: user}
}

// enter subscribes to a presence channel as the user. Like join and leave, it does nothing after an error.
func (r *receiver) enter(s *socket, channel, user string) {
	if r.err != nil {
		return
	}
	g, err := granted(r.app.AuthorizePresenceChannel(asks(s, channel), pusher.MemberData{UserID: user}))
	if err == nil {
		_, err = s.subscribe(channel, g)
	}
	r.err = err
}

// join subscribes to another channel.
func (r *receiver) join(s *socket, channel string) {
	if r.err == nil {
		r.err = r.session.join(s, channel)
	}
}

func (r *receiver) leave(s *socket, channel string) {
	if r.err == nil {
		r.err = s.send("pusher:unsubscribe", map[string]string{"channel": channel})
	}
}

func (r *receiver) occupied() error {
	for _, channel := range []string{"go-hook", "private-go-hook"} {
		r.join(r.alice, channel)
		r.told(occupied(channel), counted(channel))
		r.join(r.bob, channel)
		r.told(counted(channel))
		r.leave(r.alice, channel)
		r.told(counted(channel))
		r.leave(r.bob, channel)
		r.told(counted(channel), vacated(channel))
	}
	return r.err
}

func (r *receiver) members() error {
	const channel = "presence-go-hook"
	r.enter(r.alice, channel, `ä"1`)
	r.told(occupied(channel), added(channel, `ä"1`))
	r.enter(r.bob, channel, "2")
	r.told(added(channel, "2"))
	r.leave(r.alice, channel)
	r.told(removed(channel, `ä"1`))
	r.leave(r.bob, channel)
	r.told(removed(channel, "2"), vacated(channel))
	return r.err
}

func (r *receiver) clientEvents() error {
	const room, desk = "presence-go-talk", "private-go-talk"
	r.enter(r.alice, room, "1")
	r.join(r.alice, desk)
	r.told(occupied(room), added(room, "1"), occupied(desk), counted(desk))
	for _, tt := range []struct{ sent, data string }{
		{`{"n":1.50, "text":"<é>\u00e9\/🚀"}`, `{"n":1.50,"text":"<é>\u00e9\/🚀"}`},
		{`"plain \u2603 \"text\""`, `plain ☃ "text"`},
		{`[]`, `[]`},
		{`12345678901234567890`, `12345678901234567890`},
	} {
		for _, want := range []pusher.WebhookEvent{{Channel: room, UserID: "1"}, {Channel: desk}} {
			want.Name, want.Event, want.Data, want.SocketID = "client_event", "client-e", tt.data, r.alice.id
			if r.err == nil {
				r.err = r.alice.sendFrame(fmt.Appendf(nil, `{"event":"client-e","channel":"%s","data":%s}`, want.Channel, tt.sent))
			}
			r.told(want)
		}
	}
	r.leave(r.alice, desk)
	r.leave(r.alice, room)
	r.told(counted(desk), vacated(desk), removed(room, "1"), vacated(room))
	return r.err
}

func (r *receiver) cacheMiss() error {
	const channel = "cache-go-hook"
	r.join(r.alice, channel)
	r.told(occupied(channel), missed(channel), counted(channel))
	r.join(r.bob, channel)
	r.told(counted(channel))
	r.leave(r.bob, channel)
	r.told(counted(channel))
	r.leave(r.alice, channel)
	r.told(counted(channel), vacated(channel))
	return r.err
}

// quickReturn shows by the later leaving of another channel that nothing is told of who leaves and returns at once.
func (r *receiver) quickReturn() error {
	const room, marker = "presence-go-room", "presence-go-marker"
	for _, channel := range []string{room, marker} {
		r.enter(r.alice, channel, "1")
		r.told(occupied(channel), added(channel, "1"))
	}
	r.leave(r.alice, room)
	r.enter(r.alice, room, "1")
	r.leave(r.alice, marker)
	r.told(removed(marker, "1"), vacated(marker))
	r.alice.close()
	r.told(removed(room, "1"), vacated(room))
	return r.err
}

func (r *receiver) forgeries() error {
	sent := time.UnixMilli(int64(r.last.hook.TimeMs))
	if age := time.Since(sent); age < -time.Second || age > 10*time.Minute {
		return fmt.Errorf("the last delivery is of %s, %s ago", sent, age)
	}
	otherKey := r.last.header.Clone()
	otherKey.Set("X-Pusher-Key", "other")
	otherSecret := *r.app
	otherSecret.Secret = "other"
	for _, tt := range []struct {
		what   string
		client *pusher.Client
		header http.Header
		body   []byte
	}{
		{"another body", r.app, r.last.header, bytes.Replace(r.last.body, []byte("presence-go-room"), []byte("presence-go-hall"), 1)},
		{"one more byte", r.app, r.last.header, append(r.last.body, ' ')},
		{"another key", r.app, otherKey, r.last.body},
		{"another secret", &otherSecret, r.last.header, r.last.body},
	} {
		if hook, err := tt.client.Webhook(tt.header, tt.body); err == nil {
			return fmt.Errorf("with %s the library accepts %s", tt.what, show(hook))
		}
	}
	return nil
}
