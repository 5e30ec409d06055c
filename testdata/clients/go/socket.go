package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/coder/websocket"
)

const timeout = 2 * time.Minute // for any one answer; only matters in failure

// socket is one subscriber. It reads strictly in order on every channel; between channels there is no order to rely on.
type socket struct {
	conn *websocket.Conn
	id   string
	held map[string][]message // read while waiting on another channel; "" for what has none
}

// message is one Pusher frame.
type message struct {
	Event   string          `json:"event"`
	Channel string          `json:"channel"`
	Data    json.RawMessage `json:"data"`
	UserID  string          `json:"user_id"`
}

// text returns data that must be a JSON string, as it is on everything but errors and signin_success.
func (m message) text() (string, error) {
	var s string
	if err := json.Unmarshal(m.Data, &s); err != nil {
		return "", fmt.Errorf("data of %s is %s, want a JSON string", m.Event, m.Data)
	}
	return s, nil
}

func dial(addr, key string) (*socket, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "ws://"+addr+"/app/"+key+"?protocol=7&client=go-test&version=1.0.0", nil)
	if err != nil {
		return nil, err
	}
	s := &socket{conn: conn, held: map[string][]message{}}
	data, err := s.expect("pusher:connection_established", "")
	if err != nil {
		return nil, err
	}
	var hello struct {
		SocketID string `json:"socket_id"`
	}
	err = json.Unmarshal([]byte(data), &hello)
	s.id = hello.SocketID
	return s, err
}

func (s *socket) close() { s.conn.CloseNow() }

func (s *socket) send(event string, data map[string]string) error {
	frame, err := json.Marshal(map[string]any{"event": event, "data": data})
	if err != nil {
		return err
	}
	return s.sendFrame(frame)
}

func (s *socket) sendFrame(frame []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return s.conn.Write(ctx, websocket.MessageText, frame)
}

// next returns the channel's next message.
func (s *socket) next(channel string) (m message, err error) {
	for len(s.held[channel]) == 0 {
		if m, err = s.read(); err != nil {
			return m, err
		}
		s.held[m.Channel] = append(s.held[m.Channel], m)
	}
	m, s.held[channel] = s.held[channel][0], s.held[channel][1:]
	return m, nil
}

// read reads one frame; pings of the server and subscription counts, which a server may add anywhere, are passed over.
func (s *socket) read() (m message, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for {
		_, frame, err := s.conn.Read(ctx)
		if err != nil {
			return m, err
		}
		m = message{}
		if err := json.Unmarshal(frame, &m); err != nil {
			return m, fmt.Errorf("frame %s: %w", frame, err)
		}
		if m.Event != "pusher:ping" && m.Event != "pusher_internal:subscription_count" {
			return m, nil
		}
	}
}

// expect takes the channel's next message, which must be the named event, and returns its data.
func (s *socket) expect(event, channel string) (string, error) {
	m, err := s.next(channel)
	if err != nil {
		return "", fmt.Errorf("waiting for %s on %q: %w", event, channel, err)
	}
	if m.Event != event {
		return "", fmt.Errorf("received %s on %q with data %s, want %s", m.Event, m.Channel, m.Data, event)
	}
	return m.text()
}

// expectNothing fails on messages that nobody has waited for.
func (s *socket) expectNothing() error {
	for _, messages := range s.held {
		for _, m := range messages {
			return fmt.Errorf("received %s on %q with data %s, want nothing", m.Event, m.Channel, m.Data)
		}
	}
	return nil
}

// expectClose reads what is left of the connection: at most an error that says why, then a close with the code.
func (s *socket) expectClose(code int) error {
	m, err := s.read()
	if m.Event == "pusher:error" && err == nil {
		m, err = s.read()
	}
	if err == nil {
		return fmt.Errorf("received %s on %q, want a close with %d", m.Event, m.Channel, code)
	}
	if got := websocket.CloseStatus(err); int(got) != code {
		return fmt.Errorf("closed with %w, want %d", err, code)
	}
	return s.expectNothing()
}

// subscribe joins a channel and returns the data of subscription_succeeded.
func (s *socket) subscribe(channel string, g grant) (string, error) {
	data := map[string]string{"channel": channel, "auth": g.Auth}
	if g.ChannelData != "" {
		data["channel_data"] = g.ChannelData
	}
	if err := s.send("pusher:subscribe", data); err != nil {
		return "", err
	}
	return s.expect("pusher_internal:subscription_succeeded", channel)
}

// SignIn makes the connection the user's, and subscribes to the user's own channel as official clients do.
func (s *socket) signIn(g grant, userID string) error {
	if err := s.send("pusher:signin", map[string]string{"auth": g.Auth, "user_data": g.UserData}); err != nil {
		return err
	}
	m, err := s.next("")
	if err != nil {
		return err
	}
	var in struct {
		UserData string `json:"user_data"`
	}
	if err := json.Unmarshal(m.Data, &in); err != nil || m.Event != "pusher:signin_success" || in.UserData != g.UserData {
		return fmt.Errorf("received %s with data %s, want pusher:signin_success with user_data %q", m.Event, m.Data, g.UserData)
	}
	_, err = s.subscribe("#server-to-user-"+userID, grant{})
	return err
}
