package main

// The auth endpoints of -dev-auth, for people who have no backend yet: POST /pusher/auth and /pusher/user-auth, where pusher-js
// looks for them, sign whatever they are asked. So who may ask is judged thrice: by the address that the request comes from, by
// those that proxies have noted, and, since a page of any site can make the browser of a developer ask, by the page's origin.

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"edge/internal/channel"
	"edge/internal/listen"
	"edge/internal/sign"
	"edge/internal/wire"
)

const maxAuthBody = 64 << 10 // bytes

// devAuth answers at the auth endpoints.
type devAuth struct{ *server }

// devAuthRoutes enters the auth endpoints into mux.
func (s *server) devAuthRoutes(mux *http.ServeMux) {
	d := devAuth{s}
	mux.HandleFunc(s.began.Path+"/pusher/auth", d.answer((*authRequest).signChannel))
	mux.HandleFunc(s.began.Path+"/pusher/user-auth", d.answer((*authRequest).signUser))
}

// answer makes the handler of an endpoint.
func (d devAuth) answer(sign func(*authRequest, *sign.Key) (authAnswer, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a := &authRequest{r, r.URL.Query()}
		app, err := d.check(w, a)
		if err == nil && r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		var answer authAnswer
		if err == nil {
			answer, err = sign(a, app.keys()[0])
		}
		what := channel.Notice{About: channel.AboutConnections, What: "signed by -dev-auth", Remote: listen.CallerAddr(r, d.began.Proxies), Channel: a.get("channel_name"), Event: r.Method + " " + r.URL.Path}
		w.Header().Set("Cache-Control", "no-store")
		if err != nil {
			e := wire.AsError(err, http.StatusBadRequest)
			what.About, what.What, what.Code, what.Reason = channel.AboutRejections, channel.NoticeRejected, e.Status, e.Text
			http.Error(w, e.Text, e.Status)
		} else {
			what.Socket, _ = wire.ParseSocketID(a.get("socket_id"))
			w.Header().Set("Content-Type", "application/json")
			w.Write(encode(answer)) // if it fails, the caller is gone
		}
		app.Notify(what)
	}
}

// check judges who asks, reads the request, and finds its app. In any case an app is returned.
func (d devAuth) check(w http.ResponseWriter, a *authRequest) (app *app, err error) {
	all := d.apps.Load()
	app = all.all[0]
	if err := d.allows(a.Request); err != nil {
		return app, err
	}
	origin := a.Header.Get("Origin")
	if origin != "" && all.sign(origin) {
		allowPage(w.Header(), a.Header, origin) // it may read what is wrong, too
	}
	if a.Method == http.MethodPost {
		if err := a.read(w); err != nil {
			return app, err
		}
	}
	if key := a.get("key"); key != "" {
		if app = all.byKey[key]; app == nil {
			return all.none, forbidden("there is no app with the key %.60q", key)
		}
	}
	if origin != "" && !app.signsFor(origin) {
		return app, forbidden("-dev-auth signs for pages of this machine and of the local network, not for those of %.100q: "+
			"open the page by its address, or name its origin with -origins", origin)
	}
	if a.Method != http.MethodPost && a.Method != http.MethodOptions {
		w.Header().Set("Allow", "POST, OPTIONS")
		return app, &wire.Error{Status: http.StatusMethodNotAllowed, Text: "Method Not Allowed: this is for POST"}
	}
	return app, nil
}

func forbidden(format string, args ...any) error {
	return &wire.Error{Status: http.StatusForbidden, Text: fmt.Sprintf(format, args...)}
}

// allows judges the address of who asks. One that a header names as the client's own only ever takes away: whoever is not behind
// a trusted proxy can write what he wants, and a proxy on this machine makes the whole world come from it.
func (d devAuth) allows(r *http.Request) error {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)            // a Unix socket has none
	asked := []netip.Addr{peer.Addr().Unmap().WithZone("")} // networks have no zones
	switch client := listen.ClientAddr(r, d.began.Proxies); {
	case client.IsValid():
		asked[0] = client
	case slices.ContainsFunc(d.began.Proxies, func(p netip.Prefix) bool { return p.Contains(asked[0]) }):
		return forbidden("-dev-auth does not know who asks: the proxy has not said so in X-Forwarded-For")
	case r.Header.Get("Forwarded") != "":
		return forbidden("-dev-auth does not read Forwarded: have the proxy send X-Forwarded-For only")
	default:
		for text := range strings.FieldsFuncSeq(strings.Join(append(r.Header["X-Forwarded-For"], r.Header["X-Real-Ip"]...), ","), isListSpace) {
			a, err := netip.ParseAddr(text)
			if err != nil {
				return forbidden("-dev-auth cannot read what a proxy says of who asks: %.100q", text)
			}
			asked = append(asked, a.Unmap())
		}
	}
	for _, a := range asked {
		if !listen.Within(d.began.DevAuth, a.WithZone("")) {
			who := "a Unix socket"
			if a.IsValid() {
				who = a.String()
			}
			return forbidden("-dev-auth signs for %s only, not for %s: -dev-auth=ADDRESSES allows others", listen.NetworksText(d.began.DevAuth), who)
		}
	}
	return nil
}

func isListSpace(c rune) bool { return c == ',' || c == ' ' }

// sign reports whether one of the apps signs for pages of this origin.
func (l *apps) sign(origin string) bool {
	return slices.ContainsFunc(l.all, func(a *app) bool { return a.signsFor(origin) })
}

// signsFor reports whether a page of this origin may have something signed: one that -origins names, or without those one that
// does not come from the internet. Names that cannot be registered there are as good as addresses.
func (a *app) signsFor(origin string) bool {
	if len(a.front.Load().origins) > 0 {
		return a.allowsOrigin(origin)
	}
	u, err := url.Parse(origin)
	if err != nil {
		return false
	}
	host := strings.ToLower(u.Hostname())
	if ip, err := netip.ParseAddr(host); err == nil {
		ip = ip.Unmap()
		return ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast()
	}
	return host == "localhost" || slices.ContainsFunc([]string{".localhost", ".local", ".test"}, func(below string) bool { return strings.HasSuffix(host, below) })
}

// allowPage lets a page of another origin read the answer.
func allowPage(h, asked http.Header, origin string) {
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Credentials", "true") // some send cookies, which nobody looks at
	h.Set("Access-Control-Allow-Methods", "POST, OPTIONS")
	if names := asked.Get("Access-Control-Request-Headers"); names != "" {
		h.Set("Access-Control-Allow-Headers", names)
	}
	if asked.Get("Access-Control-Request-Private-Network") != "" {
		h.Set("Access-Control-Allow-Private-Network", "true")
	}
	h.Add("Vary", "Origin")
}

// authRequest is what was asked.
type authRequest struct {
	*http.Request
	values url.Values // of the query, and of the body, a form or JSON
}

// read reads the body.
func (a *authRequest) read(w http.ResponseWriter) error {
	a.Body = http.MaxBytesReader(w, a.Body, maxAuthBody)
	err := a.parse()
	var large *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &large):
		return &wire.Error{Status: http.StatusRequestEntityTooLarge, Text: fmt.Sprintf("the body has more than %d bytes", maxAuthBody)}
	}
	return wire.BadRequest("the body cannot be read: %v", err)
}

// parse reads a form or JSON.
func (a *authRequest) parse() error {
	if !strings.HasPrefix(a.Header.Get("Content-Type"), "application/json") {
		err := a.ParseForm()
		a.values = a.Form
		return err
	}
	var all map[string]json.RawMessage
	err := json.NewDecoder(a.Body).Decode(&all)
	for name, value := range all {
		var text string
		if json.Unmarshal(value, &text) != nil { // it is no string: user_info may be an object
			text = string(value)
		}
		if string(value) != "null" {
			a.values.Set(name, text)
		}
	}
	return err
}

// get returns a parameter, or "".
func (a *authRequest) get(name string) string { return a.values.Get(name) }

// signChannel answers POST /pusher/auth. On a presence channel the user is whom the request says: channel_data, or user_id and
// user_info.
func (a *authRequest) signChannel(key *sign.Key) (answer authAnswer, err error) {
	channel, data := a.get("channel_name"), a.get("channel_data")
	if channel == "" || a.get("socket_id") == "" {
		return answer, wire.BadRequest("Missing parameter: socket_id and channel_name, which pusher-js sends")
	}
	switch k, _ := wire.ParseChannel(channel, maxInput); {
	case k&wire.KindEncrypted != 0:
		return answer, wire.BadRequest("an encrypted channel needs a master key, which -dev-auth has not: use an auth endpoint of your own")
	case k&wire.KindPresence != 0 && data == "":
		data = a.user("user_id")
	}
	return signChannel(key, a.get("socket_id"), channel, data)
}

// signUser answers POST /pusher/user-auth. The user is whom the request says: user_data, or user_id, user_info and watchlist.
func (a *authRequest) signUser(key *sign.Key) (answer authAnswer, err error) {
	if a.get("socket_id") == "" {
		return answer, wire.BadRequest("Missing parameter: socket_id, which pusher-js sends")
	}
	return signUser(key, a.get("socket_id"), cmp.Or(a.get("user_data"), a.user("id")))
}

// user describes the user that the request names, or one that is made up for the connection, with the id under this name.
func (a *authRequest) user(idName string) string {
	id := a.get("user_id")
	if id == "" {
		number, _, _ := strings.Cut(a.get("socket_id"), ".")
		id = "user-" + number[:min(len(number), 6)]
	}
	info := cmp.Or(a.get("user_info"), string(encode(map[string]string{"name": id})))
	data := fmt.Sprintf(`{%q:%s,"user_info":%s`, idName, encode(id), info)
	if list := a.get("watchlist"); list != "" && idName == "id" {
		data += `,"watchlist":` + list
	}
	return data + "}"
}
