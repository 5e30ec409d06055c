// This client proves that edge serves the official Go server library (pusher-http-go 5.1.1) unchanged: trigger on one and
// many channels, with an excluded socket and with info, batches, messages to a user, events that the library encrypts, the
// three queries on occupied and on empty channels, the statuses of refused requests, and that what the library signs for
// private, encrypted and presence channels and for users is accepted over a WebSocket. Whatever the library has a call for is
// done with that call; terminate.go adds the one it lacks. With the argument webhook it is the receiver in webhook.go instead.
package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/pusher/pusher-http-go/v5"
	"golang.org/x/crypto/nacl/secretbox"
)

// session is what the checks share: one app and two connections to it, alice signed in as go-user.
type session struct {
	app        *pusher.Client
	alice, bob *socket
	sealKey    [32]byte // what the library tells subscribers of private-encrypted-go to decrypt with
}

func main() {
	s := &session{app: &pusher.Client{
		Host:                      net.JoinHostPort(os.Getenv("EDGE_HOST"), os.Getenv("EDGE_PORT")),
		AppID:                     os.Getenv("EDGE_APP_ID"),
		Key:                       os.Getenv("EDGE_KEY"),
		Secret:                    os.Getenv("EDGE_SECRET"),
		HTTPClient:                &http.Client{Timeout: timeout},
		EncryptionMasterKeyBase64: base64.StdEncoding.EncodeToString([]byte("8tW5FQLniQ1sBQFwrw7t6TVEsJZd10yY")),
	}}
	name, run := "go client", s.run
	if slices.Equal(os.Args[1:], []string{"webhook"}) {
		name, run = "go webhook receiver", s.runReceiver
	}
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
	fmt.Println(name + ": ok")
}

// check is a part of a program, named in what it reports.
type check struct {
	name string
	run  func() error
}

func runAll(checks []check) error {
	for _, c := range checks {
		if err := c.run(); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

func (s *session) run() error {
	err := runAll([]check{
		{"nothing occupied", s.nothingOccupied},
		{"connect and subscribe", s.connect},
		{"trigger", s.trigger},
		{"trigger multi", s.triggerMulti},
		{"trigger exclusive", s.triggerExclusive},
		{"trigger with info", s.triggerInfo},
		{"trigger batch", s.triggerBatch},
		{"encrypted trigger", s.triggerEncrypted},
		{"send to user", s.sendToUser},
		{"channels", s.channels},
		{"channel", s.channel},
		{"users", s.users},
		{"refusals", s.refusals},
		{"terminate", s.terminate},
	})
	if err != nil {
		return err
	}
	s.bob.close()
	return s.bob.expectNothing()
}

// nothingOccupied needs its prefix for itself, so that it holds on a server that others use too.
func (s *session) nothingOccupied() error {
	const name = "presence-go-empty"
	list, err := s.app.Channels(pusher.ChannelsParams{FilterByPrefix: new(name), Info: new("user_count")})
	if err != nil {
		return err
	}
	if err := same("channels", list.Channels, map[string]pusher.ChannelListItem{}); err != nil {
		return err
	}
	users, err := s.app.GetChannelUsers(name)
	if err != nil {
		return err
	}
	if err := same("users", users.List, []pusher.User{}); err != nil {
		return err
	}
	channel, err := s.app.Channel(name, pusher.ChannelParams{Info: new("user_count,subscription_count")})
	if err != nil {
		return err
	}
	return same("channel", *channel, pusher.Channel{Name: name})
}

func (s *session) connect() error {
	for _, socket := range []**socket{&s.alice, &s.bob} {
		var err error
		if *socket, err = dial(s.app.Host, s.app.Key); err != nil {
			return err
		}
		for _, channel := range []string{"go-public", "private-go", "private-encrypted-go"} {
			if err := s.join(*socket, channel); err != nil {
				return err
			}
		}
	}
	if err := s.joinPresence(); err != nil {
		return err
	}
	user := map[string]any{"id": "go-user", "user_info": map[string]string{"name": "Gö"}}
	g, err := granted(s.app.AuthenticateUser(asks(s.alice, ""), user))
	if err != nil {
		return err
	}
	return s.alice.signIn(g, "go-user")
}

// grant is what the library answers an official client that asks to subscribe or to sign in.
type grant struct {
	Auth         string `json:"auth"`
	ChannelData  string `json:"channel_data"`
	UserData     string `json:"user_data"`
	SharedSecret []byte `json:"shared_secret"`
}

// asks is the request of that client.
func asks(s *socket, channel string) []byte {
	return []byte(url.Values{"socket_id": {s.id}, "channel_name": {channel}}.Encode())
}

func granted(response []byte, err error) (g grant, _ error) {
	if err != nil {
		return g, err
	}
	return g, json.Unmarshal(response, &g)
}

// join subscribes to a channel without presence, and keeps the key of an encrypted one.
func (s *session) join(socket *socket, channel string) (err error) {
	var g grant // empty for a public channel
	if strings.HasPrefix(channel, "private-") {
		if g, err = granted(s.app.AuthorizePrivateChannel(asks(socket, channel))); err != nil {
			return err
		}
	}
	if strings.HasPrefix(channel, "private-encrypted-") {
		s.sealKey = [32]byte(g.SharedSecret)
	}
	data, err := socket.subscribe(channel, g)
	if err != nil {
		return err
	}
	return same("data of subscription_succeeded", data, "{}")
}

func (s *session) joinPresence() error {
	one := pusher.MemberData{UserID: "1", UserInfo: info{"name": "Alice"}}
	if err := s.enter(s.alice, one, members{1, []string{"1"}, map[string]info{"1": {"name": "Alice"}}}); err != nil {
		return err
	}
	two := pusher.MemberData{UserID: "2"}
	if err := s.enter(s.bob, two, members{2, []string{"1", "2"}, map[string]info{"1": {"name": "Alice"}, "2": {}}}); err != nil {
		return err
	}
	data, err := s.alice.expect("pusher_internal:member_added", "presence-go")
	if err != nil {
		return err
	}
	return sameJSON(data, `{"user_id":"2","user_info":{}}`)
}

// enter subscribes to presence-go, where want is then to be found.
func (s *session) enter(socket *socket, member pusher.MemberData, want members) error {
	g, err := granted(s.app.AuthorizePresenceChannel(asks(socket, "presence-go"), member))
	if err != nil {
		return err
	}
	data, err := socket.subscribe("presence-go", g)
	if err != nil {
		return err
	}
	return sameMembers(data, want)
}

type info map[string]string

// members is the presence part of subscription_succeeded.
type members struct {
	Count int             `json:"count"`
	IDs   []string        `json:"ids"`
	Hash  map[string]info `json:"hash"`
}

func sameMembers(data string, want members) error {
	var got struct {
		Presence members `json:"presence"`
	}
	if err := json.Unmarshal([]byte(data), &got); err != nil {
		return fmt.Errorf("presence %s: %w", data, err)
	}
	slices.Sort(got.Presence.IDs)
	return same("presence", got.Presence, want)
}

func (s *session) trigger() error {
	const data = `{"message":"<b>\"hello\"</b> \\ grüße & 🚀","n":1.50}`
	if err := s.app.Trigger("private-go", `App\Events\Hello`, data); err != nil {
		return err
	}
	return s.bothReceive(`App\Events\Hello`, "private-go", data)
}

func (s *session) triggerMulti() error {
	if err := s.app.TriggerMulti([]string{"go-public", "private-go"}, "multi", "plain text"); err != nil {
		return err
	}
	for _, channel := range []string{"go-public", "private-go"} {
		if err := s.bothReceive("multi", channel, "plain text"); err != nil {
			return err
		}
	}
	return nil
}

// triggerExclusive follows the excluded event with another: that alice reads the second next proves she never got the first.
func (s *session) triggerExclusive() error {
	reply, err := s.app.TriggerWithParams("go-public", "not-alice", "1", pusher.TriggerParams{SocketID: &s.alice.id})
	if err != nil {
		return err
	}
	if len(reply.Channels) != 0 {
		return fmt.Errorf("reply without info holds channels %s", show(reply.Channels))
	}
	if err := receives(s.bob, "not-alice", "go-public", "1"); err != nil {
		return err
	}
	if err := s.app.Trigger("go-public", "everyone", ""); err != nil {
		return err
	}
	return s.bothReceive("everyone", "go-public", "")
}

func (s *session) triggerInfo() error {
	reply, err := s.app.TriggerMultiWithParams([]string{"presence-go", "go-nobody"}, "counted", "{}",
		pusher.TriggerParams{Info: new("user_count,subscription_count")})
	if err != nil {
		return err
	}
	want := map[string]pusher.TriggerChannelListItem{
		"presence-go": {UserCount: new(2), SubscriptionCount: new(2)},
		"go-nobody":   {SubscriptionCount: new(0)},
	}
	if err := same("channels", reply.Channels, want); err != nil {
		return err
	}
	return s.bothReceive("counted", "presence-go", "{}")
}

func (s *session) triggerBatch() error {
	reply, err := s.app.TriggerBatch([]pusher.Event{
		{Channel: "go-public", Name: "first", Data: "1"},
		{Channel: "go-public", Name: "second", Data: "2"},
	})
	if err != nil {
		return err
	}
	if len(reply.Batch) != 0 {
		return fmt.Errorf("reply without info holds batch %s", show(reply.Batch))
	}
	reply, err = s.app.TriggerBatch([]pusher.Event{
		{Channel: "go-public", Name: "third", Data: "3", SocketID: &s.bob.id, Info: new("subscription_count")},
		{Channel: "go-public", Name: "fourth", Data: "4"},
		{Channel: "presence-go", Name: "fifth", Data: "5", Info: new("user_count")},
	})
	if err != nil {
		return err
	}
	want := []pusher.TriggerBatchChannelListItem{{SubscriptionCount: new(2)}, {}, {UserCount: new(2)}}
	if err := same("batch", reply.Batch, want); err != nil {
		return err
	}
	for i, name := range []string{"first", "second", "third", "fourth"} {
		if err := receives(s.alice, name, "go-public", fmt.Sprint(i+1)); err != nil {
			return err
		}
		if name == "third" {
			continue
		}
		if err := receives(s.bob, name, "go-public", fmt.Sprint(i+1)); err != nil {
			return err
		}
	}
	return s.bothReceive("fifth", "presence-go", "5")
}

// triggerEncrypted decrypts as an official client does.
func (s *session) triggerEncrypted() error {
	const channel, data = "private-encrypted-go", `{"secret":"value"}`
	if err := s.app.Trigger(channel, "sealed", data); err != nil {
		return err
	}
	for _, socket := range []*socket{s.alice, s.bob} {
		sealed, err := socket.expect("sealed", channel)
		if err != nil {
			return err
		}
		var box struct{ Nonce, Ciphertext []byte }
		if err := json.Unmarshal([]byte(sealed), &box); err != nil {
			return fmt.Errorf("sealed data %q: %w", sealed, err)
		}
		if len(box.Nonce) != 24 {
			return fmt.Errorf("sealed data %q has no nonce", sealed)
		}
		opened, ok := secretbox.Open(nil, box.Ciphertext, (*[24]byte)(box.Nonce), &s.sealKey)
		if !ok {
			return fmt.Errorf("cannot decrypt %q", sealed)
		}
		if err := same("decrypted data", string(opened), data); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) sendToUser() error {
	if err := s.app.SendToUser("go-user", "for-you", `"hi"`); err != nil {
		return err
	}
	return receives(s.alice, "for-you", "#server-to-user-go-user", `"hi"`)
}

func (s *session) channels() error {
	list, err := s.app.Channels(pusher.ChannelsParams{FilterByPrefix: new("presence-go"), Info: new("user_count")})
	if err != nil {
		return err
	}
	if err := same("user_count of presence-go", list.Channels["presence-go"].UserCount, 2); err != nil {
		return err
	}
	if list, err = s.app.Channels(pusher.ChannelsParams{}); err != nil {
		return err
	}
	for _, name := range []string{"go-public", "private-go", "private-encrypted-go", "presence-go"} {
		if _, ok := list.Channels[name]; !ok {
			return fmt.Errorf("%s is not in %v", name, list.Channels)
		}
	}
	for name := range list.Channels {
		if strings.HasPrefix(name, "#") || name == "go-nobody" {
			return fmt.Errorf("%s is in the list", name)
		}
	}
	_, err = s.app.Channels(pusher.ChannelsParams{Info: new("user_count")})
	return wantStatus(err, 400)
}

func (s *session) channel() error {
	const presence, public = "presence-go", "go-public"
	channel, err := s.app.Channel(presence, pusher.ChannelParams{Info: new("user_count,subscription_count")})
	if err != nil {
		return err
	}
	want := pusher.Channel{Name: presence, Occupied: true, UserCount: 2, SubscriptionCount: 2}
	if err := same(presence, *channel, want); err != nil {
		return err
	}
	if channel, err = s.app.Channel(public, pusher.ChannelParams{Info: new("subscription_count")}); err != nil {
		return err
	}
	if err := same(public, *channel, pusher.Channel{Name: public, Occupied: true, SubscriptionCount: 2}); err != nil {
		return err
	}
	_, err = s.app.Channel(public, pusher.ChannelParams{Info: new("user_count")})
	return wantStatus(err, 400)
}

func (s *session) users() error {
	users, err := s.app.GetChannelUsers("presence-go")
	if err != nil {
		return err
	}
	slices.SortFunc(users.List, func(a, b pusher.User) int { return strings.Compare(a.ID, b.ID) })
	if err := same("users", users.List, []pusher.User{{ID: "1"}, {ID: "2"}}); err != nil {
		return err
	}
	_, err = s.app.GetChannelUsers("go-public")
	return wantStatus(err, 400)
}

func (s *session) refusals() error {
	forger := *s.app
	forger.Secret += "x"
	if err := wantStatus(forger.Trigger("go-public", "forged", "{}"), 401); err != nil {
		return fmt.Errorf("wrong secret: %w", err)
	}
	full := strings.Repeat("x", 10240)
	generous := *s.app
	generous.OverrideMaxMessagePayloadKB = 11 // or the library would refuse by itself
	if err := wantStatus(generous.Trigger("go-public", "large", full+"x"), 413); err != nil {
		return fmt.Errorf("10,241 bytes of data: %w", err)
	}
	if err := s.app.Trigger("go-public", "full", full); err != nil {
		return fmt.Errorf("10,240 bytes of data: %w", err)
	}
	return s.bothReceive("full", "go-public", full)
}

// terminate ends alice, who is signed in, and leaves bob, who is not.
func (s *session) terminate() error {
	if err := terminate(s.app, "go-user"); err != nil {
		return err
	}
	if err := s.alice.expectClose(4009); err != nil {
		return err
	}
	data, err := s.bob.expect("pusher_internal:member_removed", "presence-go")
	if err != nil {
		return err
	}
	return sameJSON(data, `{"user_id":"1"}`)
}

func (s *session) bothReceive(event, channel, data string) error {
	if err := receives(s.alice, event, channel, data); err != nil {
		return err
	}
	return receives(s.bob, event, channel, data)
}

func receives(s *socket, event, channel, data string) error {
	got, err := s.expect(event, channel)
	if err != nil {
		return err
	}
	return same("data of "+event, got, data)
}

// wantStatus goes by the text of the error, which is all the library gives.
func wantStatus(err error, status int) error {
	if err == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf("Status Code: %d - ", status)) {
		return fmt.Errorf("answered %v, want status %d", err, status)
	}
	return nil
}

func same(what string, got, want any) error {
	if !reflect.DeepEqual(got, want) {
		return fmt.Errorf("%s is %s, want %s", what, show(got), show(want))
	}
	return nil
}

func sameJSON(got, want string) error {
	var g, w any
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		return fmt.Errorf("%q is not JSON: %w", got, err)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		return err
	}
	if !reflect.DeepEqual(g, w) {
		return fmt.Errorf("received %s, want %s", got, want)
	}
	return nil
}

// show prints counts behind their pointers.
func show(v any) string {
	out, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(out)
}
