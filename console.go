package main

// The debug console: GET /console, a page that shows what happens while it happens, what there is, and sends events.
//
// Whoever opens it gives the secret of an app, once, or comes by a link that was printed on a terminal. For that there is a
// session, which lives in a cookie and in memory only; it sees its app and no other. A page is sent lines by its feed, which takes
// what it can and counts the rest: nobody ever waits for a page.

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"io"
	"iter"
	"maps"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"edge/internal/sign"
	"edge/internal/wire"
)

const (
	guessRate, guessBurst = 1, 5      // wrong secrets a second and in a row, from addresses that share a place
	mostSessions          = 64        // beyond, the oldest ends
	mostRows              = 200       // of a list in what a page is told
	linkTime              = time.Hour // for which the link is good
	loginSize             = 4 << 10
)

//go:embed console.html
var consolePage string

// console serves the page and what it asks for.
type console struct {
	// Static after construction.
	server *server
	seed   maphash.Seed
	over   chan struct{} // closed when the server ends

	mu       sync.Mutex // guards the following
	ended    bool       // over is closed
	guesses  [64]rate   // wrong secrets, each at a place that its address decides: who guesses holds up few others
	sessions map[[sha256.Size]byte]*signedIn
	once     [sha256.Size]byte // of the link's token, until it is used
	onceEnds int64             // on the clock of monotonic
	feeds    []*feed           // never changes, another takes its place
	history  map[*App]*history // of the apps that were watched lately
	ticking  *time.Timer       // calls tick while there is one; nil if not
	watched  int64             // when somebody last was, on the clock of monotonic
}

// signedIn is someone who has shown that he knows a secret.
type signedIn struct {
	// Static after construction.
	app   *App
	key   *sign.Key // whose secret it was: the session ends with it
	began int64
	ended chan struct{} // closed when it ends, by who takes it out of the table
}

func newConsole(s *server) *console {
	return &console{server: s, seed: maphash.MakeSeed(), over: make(chan struct{}),
		sessions: make(map[[sha256.Size]byte]*signedIn), history: make(map[*App]*history)}
}

// end ends all feeds, so that the server does not wait for them.
func (c *console) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended = true
	close(c.over)
	if c.ticking != nil {
		c.ticking.Stop()
	}
}

// newToken makes what cannot be guessed, and its hash, which is all that is kept of it.
func newToken() (token string, hash [sha256.Size]byte) {
	b := make([]byte, 32)
	rand.Read(b) // never fails (crypto/rand)
	token = hex.EncodeToString(b)
	return token, sha256.Sum256([]byte(token))
}

// link is what follows the path of the console in a link that can be used once. Browsers keep what stands behind a # to themselves.
func (c *console) link() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var token string
	token, c.once = newToken()
	c.onceEnds = monotonic() + int64(linkTime)
	return "#once=" + token
}

// routes enters the console into mux.
func (c *console) routes(mux *http.ServeMux) {
	base := c.server.began.path + "/console"
	mux.HandleFunc("GET "+base, servePage)
	mux.HandleFunc("GET "+base+"/{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "../console") // http.Redirect would make it absolute, without what a proxy has before it
		w.WriteHeader(http.StatusMovedPermanently)
	})
	mux.HandleFunc("POST "+base+"/login", c.answer(c.login))
	for _, route := range []struct {
		path   string
		handle func(*visit) error
	}{
		{"POST /logout", c.logout},
		{"POST /trigger", (*visit).trigger},
		{"POST /terminate", (*visit).terminate},
		{"GET /state", c.state},
		{"GET /feed", c.serveFeed},
	} {
		method, path, _ := strings.Cut(route.path, " ")
		mux.HandleFunc(method+" "+base+path, c.answer(func(v *visit) error {
			if v.session = c.session(v.Request); v.session == nil {
				return &wire.Error{Status: http.StatusUnauthorized, Text: "Sign in first: the session has ended, or there was none"}
			}
			v.app = v.session.app
			return route.handle(v)
		}))
	}
}

// visit is a request of the page.
type visit struct {
	*http.Request
	w       http.ResponseWriter
	session *signedIn
	app     *App
}

// answer is the way to every handler but that of the page, which anyone may have. What changes something must come from our
// own page: a form elsewhere cannot send JSON, and a script elsewhere is not of this origin.
func (c *console) answer(handle func(*visit) error) http.HandlerFunc {
	sameOrigin := http.NewCrossOriginProtection()
	return func(w http.ResponseWriter, r *http.Request) {
		setSafe(w.Header())
		kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
		var err error
		switch {
		case sameOrigin.Check(r) != nil:
			err = &wire.Error{Status: http.StatusForbidden, Text: "This request comes from another page than the console"}
		case r.Method == http.MethodPost && kind != "application/json":
			err = &wire.Error{Status: http.StatusUnsupportedMediaType, Text: "Send application/json"}
		default:
			err = handle(&visit{Request: r, w: w})
		}
		if err != nil {
			e := wire.AsError(err, http.StatusInternalServerError)
			w.Header()["Content-Type"] = textType
			w.WriteHeader(e.Status)
			io.WriteString(w, e.Text+"\n")
		}
	}
}

// setSafe sets the headers that all answers have.
func setSafe(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
}

// servePage serves the page, which runs nothing but its own script and speaks to nobody but us.
func servePage(w http.ResponseWriter, r *http.Request) {
	setSafe(w.Header())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", pagePolicy())
	io.WriteString(w, consolePage)
}

var pagePolicy = sync.OnceValue(func() string {
	source := func(element string) string {
		_, rest, _ := strings.Cut(consolePage, "<"+element+">")
		text, _, _ := strings.Cut(rest, "</"+element+">")
		sum := sha256.Sum256([]byte(text))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; script-src " + source("script") + "; style-src " + source("style") +
		"; connect-src 'self'; require-trusted-types-for 'script'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
})

// cookieName has the port in it, which browsers do not tell cookies apart by.
func cookieName(r *http.Request) string {
	if _, port, err := net.SplitHostPort(r.Host); err == nil {
		return "edge-console-" + port
	}
	return "edge-console"
}

// cookie is a cookie of ours. One without a value ends what the browser has. Its path is left to the browser, which takes the
// console's: only there it is known with what a proxy has before it.
func cookie(r *http.Request, value string) *http.Cookie {
	k := &http.Cookie{Name: cookieName(r), Value: value, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https"}
	if value == "" {
		k.MaxAge = -1
	}
	return k
}

// session returns the session of a request, or nil. It has ended if its app or its key is gone.
func (c *console) session(r *http.Request) *signedIn {
	cookie, err := r.Cookie(cookieName(r))
	if err != nil {
		return nil
	}
	c.mu.Lock()
	s := c.sessions[sha256.Sum256([]byte(cookie.Value))]
	c.mu.Unlock()
	if s == nil || !c.holds(s) {
		return nil
	}
	return s
}

// holds reports whether the secret that a session was begun with is still one.
func (c *console) holds(s *signedIn) bool {
	return c.server.apps.Load().has(s.app) && slices.Contains(s.app.keys(), s.key)
}

// endLocked ends a session. The caller holds mu.
func (c *console) endLocked(hash [sha256.Size]byte) {
	if s := c.sessions[hash]; s != nil {
		delete(c.sessions, hash)
		close(s.ended)
	}
}

// login begins a session for who knows a secret: {"secret":…[,"app":…]}, or {"once":…} with the token of the link. Nothing of it is
// told to anyone who watches.
func (c *console) login(v *visit) error {
	said, err := v.read()
	if err != nil {
		return err
	}
	place := maphash.String(c.seed, c.address(v.Request)) % uint64(len(c.guesses))
	token, err := c.begin(place, said["secret"], said["once"], said["app"])
	if err != nil {
		return err
	}
	http.SetCookie(v.w, cookie(v.Request, token))
	return v.reply([]byte("{}"))
}

// address is where a request comes from, without the port.
func (c *console) address(r *http.Request) string {
	if a := clientAddr(r, c.server.began.proxies); a.IsValid() {
		return a.String()
	}
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	return host
}

// begin begins a session and returns its token. A wrong secret uses up one of the few guesses that this place has, and while it has
// none no secret is looked at: the answer is the same whether it is right.
func (c *console) begin(place uint64, secret, once, id string) (token string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	guesses := c.guesses[place]
	if !guesses.allow(monotonic(), guessRate, guessBurst) {
		return "", &wire.Error{Status: http.StatusTooManyRequests, Text: "Too many wrong secrets: wait a second and try again"}
	}
	found := c.matchLocked(secret, once)
	if found == nil {
		c.guesses[place] = guesses
		if once != "" {
			return "", &wire.Error{Status: http.StatusForbidden, Text: "This link has been used or has expired"}
		}
		return "", &wire.Error{Status: http.StatusForbidden, Text: "This is not the secret of an app on this server"}
	}
	if len(found) > 1 { // apps with the same secret
		found = slices.DeleteFunc(found, func(s *signedIn) bool { return s.app.id() != id })
	}
	if len(found) != 1 {
		return "", &wire.Error{Status: http.StatusConflict, Text: "Several apps have this secret: say which, by its id"}
	}
	for len(c.sessions) >= mostSessions {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(c.sessions)), func(a, b [sha256.Size]byte) int { return cmp.Compare(c.sessions[a].began, c.sessions[b].began) })
		c.endLocked(oldest)
	}
	token, hash := newToken()
	c.sessions[hash] = found[0]
	return token, nil
}

// matchLocked returns the sessions that a secret, or the token of the link, would be good for. All secrets are compared, and each in
// constant time.
func (c *console) matchLocked(secret, once string) (found []*signedIn) {
	add := func(a *App, k *sign.Key) {
		found = append(found, &signedIn{app: a, key: k, began: monotonic(), ended: make(chan struct{})})
	}
	apps := c.server.apps.Load()
	hash := sha256.Sum256([]byte(once))
	if subtle.ConstantTimeCompare(hash[:], c.once[:]) == 1 && monotonic() < c.onceEnds {
		c.onceEnds = 0
		add(apps.all[0], apps.all[0].keys()[0])
		return found
	}
	given := sign.NewKey("", secret)
	for _, a := range apps.all {
		for _, k := range a.keys() {
			if k.SameSecret(given) && !slices.ContainsFunc(found, func(s *signedIn) bool { return s.app == a }) {
				add(a, k)
			}
		}
	}
	return found
}

// logout ends the session, and with it the feeds of its pages.
func (c *console) logout(v *visit) error {
	have, _ := v.Cookie(cookieName(v.Request))
	c.mu.Lock()
	c.endLocked(sha256.Sum256([]byte(have.Value)))
	c.mu.Unlock()
	http.SetCookie(v.w, cookie(v.Request, ""))
	return v.reply([]byte("{}"))
}

// read reads the body if it is a JSON object of strings. One that is null counts as empty.
func (v *visit) read() (map[string]string, error) {
	c := call{Request: v.Request}
	if err := c.readBody(loginSize); err != nil {
		return nil, err
	}
	all, err := members(c.body)
	if err != nil {
		return nil, wire.BadRequest("Invalid request body: %v", err)
	}
	said := make(map[string]string)
	for _, f := range all {
		var text string
		if json.Unmarshal(f.value, &text) != nil {
			return nil, wire.BadRequest("%.100q must be a string", f.name)
		}
		said[f.name] = text
	}
	return said, nil
}

// reply writes a JSON object.
func (v *visit) reply(b []byte) error {
	v.w.Header()["Content-Type"] = jsonType
	v.w.Write(b) // if it fails, nobody is there any more
	return nil
}

// trigger sends an event as the HTTP API does, whose body it has, and says how many subscriptions it is given to.
func (v *visit) trigger() error {
	c := &call{Request: v.Request, app: v.app}
	if err := c.readBody(v.app.limits().bodyLimit()); err != nil {
		return err
	}
	var f [len(wire.TriggerFields)]wire.Value
	if err := c.parseBody(wire.TriggerFields[:], f[:]); err != nil {
		return err
	}
	t, err := c.parseTrigger(f[:])
	if err != nil {
		return err
	}
	reached, err := v.app.publish(t)
	if err != nil {
		return err
	}
	return v.reply(fmt.Appendf(nil, `{"reached":%d}`, reached))
}

// terminate closes the connections of a user, {"user":…}: those signed in as him, and with a "channel" those of this member; or the
// one {"socket":…}. It says how many there were.
func (v *visit) terminate() error {
	said, err := v.read()
	if err != nil {
		return err
	}
	user := said["user"]
	number, known := wire.ParseSocketID(said["socket"])
	if user == "" && !known {
		return wire.BadRequest("Say who: a user or a socket")
	}
	closed := 0
	if user != "" {
		closed = v.app.terminate(user)
	}
	var others []*Socket
	if c := v.app.channel(said["channel"]); c != nil && user != "" {
		others = c.subscribers(func(sub *Subscription) bool { return sub.userID() == user && !sub.socket.closing.Load() })
	}
	if s := v.app.socket(number); s != nil {
		others = append(others, s)
	}
	disconnect(others)
	return v.reply(fmt.Appendf(nil, `{"closed":%d}`, closed+len(others)))
}

// state tells what there is: ?channels=… and ?connections=… are what those listed have to contain, ?channel=… is the one whose members
// are wanted. Of every list there are mostRows at most, and how many in all.
func (c *console) state(v *visit) error {
	a, query := v.app, v.URL.Query()
	c.server.mu.Lock()
	o := c.server.options
	c.server.mu.Unlock()
	b := wire.AppendString([]byte(`{"app":`), a.id())
	b = wire.AppendString(append(b, `,"key":`...), v.session.key.Name)
	b = wire.AppendString(append(b, `,"version":`...), version)
	b = fmt.Appendf(b, `,"up":%d,"eventSize":%d,"warnings":[`, monotonic()/int64(time.Second), a.limits().eventSize)
	for _, w := range warnings(o) {
		b = wire.AppendString(wire.AppendComma(b), w)
	}
	b = a.appendChannelRows(append(b, `],"channels":`...), query.Get("channels"))
	b = a.appendSocketRows(append(b, `,"connections":`...), query.Get("connections"))
	if ch := a.channel(query.Get("channel")); ch != nil {
		b = ch.appendRows(append(b, `,"channel":`...))
	}
	return v.reply(append(b, '}'))
}

// least returns the first most items in the order of compare, and how many items there are.
func least[T any](items iter.Seq[T], most int, compare func(a, b T) int) (list []T, all int) {
	for x := range items {
		if all++; len(list) == most {
			if compare(x, list[most-1]) >= 0 {
				continue
			}
			list = list[:most-1]
		}
		i, _ := slices.BinarySearchFunc(list, x, compare)
		list = slices.Insert(list, i, x)
	}
	return list, all
}

// appendChannelRows appends the channels whose names contain find, in the order of the names.
func (a *App) appendChannelRows(dst []byte, find string) []byte {
	rows, all := least(func(yield func(*Channel) bool) {
		a.channels.Range(func(_, c any) bool {
			ch := c.(*Channel)
			return ch.kind&wire.KindUser != 0 || !strings.Contains(ch.name, find) || yield(ch)
		})
	}, mostRows, func(x, y *Channel) int { return strings.Compare(x.name, y.name) })
	dst = fmt.Appendf(dst, `{"all":%d,"rows":[`, all)
	for _, ch := range rows {
		info := ch.info()
		dst = wire.AppendString(append(wire.AppendComma(dst), `{"name":`...), ch.name)
		dst = fmt.Appendf(dst, `,"subscriptions":%d`, info.subscriptions)
		if ch.kind&wire.KindPresence != 0 {
			dst = fmt.Appendf(dst, `,"members":%d`, info.users)
		}
		dst = fmt.Appendf(dst, `,"cached":%t}`, info.cached != nil)
	}
	return append(dst, "]}"...)
}

// allSockets returns the connections there are at this moment.
func (a *App) allSockets() []*Socket {
	a.socketsMu.Lock()
	defer a.socketsMu.Unlock()
	return slices.Collect(maps.Values(a.sockets))
}

// appendSocketRows appends the connections whose id, address or user contains find, the newest first.
func (a *App) appendSocketRows(dst []byte, find string) []byte {
	rows, all := least(func(yield func(*Socket) bool) {
		for _, s := range a.allSockets() {
			user, _ := s.who()
			if (strings.Contains(s.id.String(), find) || strings.Contains(s.remote(), find) || strings.Contains(user, find)) && !yield(s) {
				return
			}
		}
	}, mostRows, func(x, y *Socket) int { return cmp.Compare(y.began, x.began) })
	dst = fmt.Appendf(dst, `{"all":%d,"rows":[`, all)
	for _, s := range rows {
		user, channels := s.who()
		dst = append(s.id.Append(append(wire.AppendComma(dst), `{"socket":"`...)), '"')
		dst = appendField(dst, "from", s.remote())
		dst = appendField(dst, "user", user)
		dst = fmt.Appendf(dst, `,"age":%d,"channels":%d}`, (monotonic()-s.began)/int64(time.Second), channels)
	}
	return append(dst, "]}"...)
}

// who tells the user that is signed in, if there is one, and the number of channels; nothing while the connection is being served.
func (s *Socket) who() (user string, channels int) {
	if !s.mu.TryLock() {
		return "", 0
	}
	defer s.mu.Unlock()
	if s.user != nil {
		user = s.user.ID
	}
	return user, len(s.subscriptions)
}

// appendRows appends the members of a presence channel, or the connections that subscribe to another.
func (c *Channel) appendRows(dst []byte) []byte {
	members, info := c.firstMembers(mostRows), c.info()
	dst = wire.AppendString(append(dst, `{"name":`...), c.name)
	if c.kind&wire.KindPresence != 0 {
		dst = fmt.Appendf(dst, `,"all":%d,"members":[`, info.users)
		for _, m := range members {
			dst = wire.AppendString(append(wire.AppendComma(dst), `{"user":`...), m.id)
			dst = append(dst, `,"info":`...)
			if m.info == nil {
				dst = append(dst, "null"...)
			}
			dst = fmt.Appendf(append(dst, m.info...), `,"connections":%d}`, m.connections)
		}
		return append(dst, "]}"...)
	}
	n := 0
	sockets := c.subscribers(func(*Subscription) bool { n++; return n <= mostRows })
	dst = fmt.Appendf(dst, `,"all":%d,"sockets":[`, info.subscriptions)
	for _, s := range sockets {
		dst = append(s.id.Append(append(wire.AppendComma(dst), '"')), '"')
	}
	return append(dst, "]}"...)
}
