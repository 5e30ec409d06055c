package main

// The debug console: GET /console, a page with a feed of everything that happens, lists of what there is, and an
// event creator.
//
// A visitor signs in with the secret of an app, or once with a link that was printed on a terminal. The session is a
// cookie here and in memory only, and sees its app alone. A page gets its lines from its feed, which drops and counts
// what the page does not read: nobody ever waits for a page.

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"hash/maphash"
	"io"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/listen"
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

// console serves the page and its requests.
type console struct {
	// Static after construction.
	server *server
	seed   maphash.Seed
	over   context.Context // ends all sessions' feeds, so that the server does not wait for them
	end    context.CancelFunc
	feeds  atomic.Int32 // that are open

	mu       sync.Mutex    // guards the following
	guesses  [64]conn.Rate // wrong secrets, by a hash of the address: who guesses keeps out few others
	sessions []*signedIn   // the oldest first
	once     signedIn      // what the link opens, with the hash of its token, until it is used
	onceEnds int64         // on the clock of monotonic
}

// signedIn is a session.
type signedIn struct {
	access
	hash [sha256.Size]byte // of its token
	over context.Context
	end  context.CancelFunc
}

func newConsole(s *server) *console {
	c := &console{server: s, seed: maphash.MakeSeed()}
	c.over, c.end = context.WithCancel(context.Background())
	return c
}

// newToken makes a token that nobody can guess, and its hash, which is all that is kept of it.
func newToken() (token string, hash [sha256.Size]byte) {
	b := make([]byte, 32)
	rand.Read(b) // never fails (crypto/rand)
	token = hex.EncodeToString(b)
	return token, sha256.Sum256([]byte(token))
}

// link is what follows the console's path in a link that signs in once. Browsers send nothing of what is behind a #.
func (c *console) link() string {
	token, hash := newToken()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.once = signedIn{access: c.server.firstAccess(), hash: hash}
	c.onceEnds = conn.Now() + int64(linkTime)
	return "#once=" + token
}

// routes enters the console into mux.
func (c *console) routes(mux *http.ServeMux) {
	base := c.server.began.Path + "/console"
	mux.HandleFunc("GET "+base, servePage)
	mux.HandleFunc("GET "+base+"/{$}", servePage)
	for path, handle := range map[string]func(*visit) error{
		"POST login": c.login, "POST logout": c.logout, "POST trigger": (*visit).trigger, "POST terminate": (*visit).terminate,
		"GET state": c.state, "GET feed": c.serveFeed,
	} {
		mux.HandleFunc(strings.Replace(path, " ", " "+base+"/", 1), c.answer(handle))
	}
}

// visit is a request of the page.
type visit struct {
	call
	w       http.ResponseWriter
	session *signedIn // nil before login
}

// answer wraps every handler but that of the page, which anyone may have. All but login need a session, and requests
// must come from our own page: a form elsewhere cannot send JSON, and a script elsewhere has another origin.
func (c *console) answer(handle func(*visit) error) http.HandlerFunc {
	sameOrigin := http.NewCrossOriginProtection()
	return func(w http.ResponseWriter, r *http.Request) {
		setSafe(w.Header())
		v := &visit{call: call{Request: r}, w: w, session: c.session(r)}
		if v.session != nil {
			v.app = v.session.app
		}
		kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
		var err error
		switch {
		case sameOrigin.Check(r) != nil:
			err = &wire.Error{Status: http.StatusForbidden, Text: "This request comes from another page than the console"}
		case r.Method == http.MethodPost && kind != "application/json":
			err = &wire.Error{Status: http.StatusUnsupportedMediaType, Text: "Send application/json"}
		case v.session == nil && !strings.HasSuffix(r.Pattern, "/login"):
			err = &wire.Error{Status: http.StatusUnauthorized, Text: "Sign in first: the session has ended, or there was none"}
		default:
			err = handle(v)
		}
		if err != nil {
			e := wire.AsError(err, http.StatusInternalServerError)
			http.Error(w, e.Text, e.Status)
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
	return "default-src 'none'; script-src " + source("script") + "; style-src " + source("style") + "; connect-src 'self'" +
		"; require-trusted-types-for 'script'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
})

// cookieName has the port in it, which browsers do not tell cookies apart by.
func cookieName(r *http.Request) string {
	if _, port, err := net.SplitHostPort(r.Host); err == nil {
		return "edge-console-" + port
	}
	return "edge-console"
}

// cookie is a cookie of ours. One without a value ends what the browser has. Its path is left to the browser, which
// takes the console's: only there it is known with what a proxy has before it.
func cookie(r *http.Request, value string) *http.Cookie {
	k := &http.Cookie{Name: cookieName(r), Value: value, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https"}
	if value == "" {
		k.MaxAge = -1
	}
	return k
}

// session returns the session of a request, or nil. It has ended if its secret is no longer valid.
func (c *console) session(r *http.Request) *signedIn {
	cookie, err := r.Cookie(cookieName(r))
	if err != nil {
		return nil
	}
	hash := sha256.Sum256([]byte(cookie.Value))
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.sessions, func(s *signedIn) bool { return s.hash == hash && s.valid() })
	if i < 0 {
		return nil
	}
	return c.sessions[i]
}

// endLocked ends a session, and with it the feeds of its pages. The caller holds mu.
func (c *console) endLocked(s *signedIn) {
	c.sessions = slices.DeleteFunc(c.sessions, func(other *signedIn) bool { return other == s })
	s.end()
}

// login begins a session: {"secret":…[,"app":…]}, or {"once":…} with the token of the link. The feed shows nothing of
// it.
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
	return v.reply(object{})
}

// address is where a request comes from, without the port.
func (c *console) address(r *http.Request) string {
	address := listen.CallerAddr(r, c.server.began.Proxies)
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

// begin begins a session and returns its token. A wrong secret uses up one of the few guesses of its place, and while
// it has none the answer is the same for a right one.
func (c *console) begin(place uint64, secret, once, app string) (token string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	guesses := c.guesses[place]
	if !guesses.Allow(conn.Now(), guessRate, guessBurst) {
		return "", &wire.Error{Status: http.StatusTooManyRequests, Text: "Too many wrong secrets: wait a second and try again"}
	}
	s, problem := new(signedIn), "This is not the secret of an app on this server"
	if once == "" {
		s.access = c.server.signIn(secret, app)
	} else {
		problem = "This link has been used or has expired"
		if sha256.Sum256([]byte(once)) == c.once.hash && conn.Now() < c.onceEnds {
			s.access, c.once = c.once.access, signedIn{}
		}
	}
	if !s.valid() {
		c.guesses[place] = guesses
		return "", &wire.Error{Status: http.StatusForbidden, Text: problem}
	}
	if len(c.sessions) >= mostSessions {
		c.endLocked(c.sessions[0])
	}
	token, s.hash = newToken()
	s.over, s.end = context.WithCancel(c.over)
	c.sessions = append(c.sessions, s)
	return token, nil
}

func (c *console) logout(v *visit) error {
	c.mu.Lock()
	c.endLocked(v.session)
	c.mu.Unlock()
	http.SetCookie(v.w, cookie(v.Request, ""))
	return v.reply(object{})
}

// read reads the body, a JSON object of strings.
func (v *visit) read() (said map[string]string, err error) {
	if err := v.readBody(loginSize); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(v.body, &said); err != nil {
		return nil, wire.BadRequest("Invalid request body: %v", err)
	}
	return said, nil
}

// object is a JSON object that is sent to the page.
type object = map[string]any

func (v *visit) reply(answer object) error {
	b, err := json.Marshal(answer)
	if err == nil {
		v.w.Header()["Content-Type"] = jsonType
		v.w.Write(b) // if it fails, nobody is there any more
	}
	return err
}

// trigger sends an event as the HTTP API does, with the same body, and answers how many subscriptions it is given to.
func (v *visit) trigger() error {
	if err := v.readBody(bodyLimit(v.app.Limits())); err != nil {
		return err
	}
	var f [len(wire.TriggerFields)]wire.Value
	if err := v.parseBody(wire.TriggerFields[:], f[:]); err != nil {
		return err
	}
	t, err := v.parseTrigger(f[:])
	if err != nil {
		return err
	}
	reached, err := v.app.Publish(t)
	if err != nil {
		return err
	}
	return v.reply(object{"reached": reached})
}

// terminate closes connections and answers how many: those signed in as {"user":…}, and with a "channel" those of
// this member; or the one of {"socket":…}.
func (v *visit) terminate() error {
	said, err := v.read()
	if err != nil {
		return err
	}
	user := said["user"]
	id, known := wire.ParseSocketID(said["socket"])
	var closed int
	var others []*channel.Socket
	switch {
	case user != "":
		closed = v.app.Terminate(user)
		if c := v.app.Channel(said["channel"]); c != nil {
			others = c.Subscribers(func(s *channel.Subscription) bool { return s.UserID() == user && !s.Socket.Conn.Closing.Load() })
		}
	case known:
		if s := v.app.Socket(id); s != nil {
			others = append(others, s)
		}
	default:
		return wire.BadRequest("Say who: a user or a socket")
	}
	channel.Disconnect(others)
	return v.reply(object{"closed": closed + len(others)})
}

// state answers what there is: ?channels=… and ?connections=… are parts of what is listed, ?channel=… is the one
// whose members are wanted. A list has mostRows at most, and the number of all.
func (c *console) state(v *visit) error {
	a, query := v.app, v.URL.Query()
	c.server.mu.Lock()
	o := c.server.options
	c.server.mu.Unlock()
	answer := object{
		"app": a.id(), "key": v.session.key, "version": version, "up": conn.Now() / int64(time.Second),
		"eventSize": a.Limits().EventSize, "warnings": append([]string{}, warnings(o)...),
		"channels":    rows(a.ChannelsLike(query.Get("channels")), byName, channelRow),
		"connections": rows(a.SocketsLike(query.Get("connections")), newestFirst, socketRow),
	}
	if ch := a.Channel(query.Get("channel")); ch != nil {
		answer["channel"] = audience(ch)
	}
	return v.reply(answer)
}

// rows lists the first mostRows of all in the order of compare.
func rows[T any](all []T, compare func(a, b T) int, row func(T) object) object {
	slices.SortFunc(all, compare)
	list := []object{}
	for _, x := range all[:min(len(all), mostRows)] {
		list = append(list, row(x))
	}
	return object{"all": len(all), "rows": list}
}

func byName(a, b *channel.Channel) int { return strings.Compare(a.Name, b.Name) }

func channelRow(c *channel.Channel) object {
	info := c.Info()
	row := object{"name": c.Name, "subscriptions": info.Subscriptions, "cached": info.Cached != nil}
	if c.Kind&wire.KindPresence != 0 {
		row["members"] = info.Users
	}
	return row
}

func newestFirst(a, b *channel.Socket) int { return cmp.Compare(b.Began, a.Began) }

func socketRow(s *channel.Socket) object {
	user, channels := s.Who()
	age := (conn.Now() - s.Began) / int64(time.Second)
	return object{"socket": s.ID.String(), "from": s.Address(), "user": user, "age": age, "channels": channels}
}

// audience lists the members of a presence channel, or the connections that subscribe to another.
func audience(c *channel.Channel) object {
	info := c.Info()
	if c.Kind&wire.KindPresence != 0 {
		list := []object{}
		for _, m := range c.FirstMembers(mostRows) {
			list = append(list, object{"user": m.ID, "info": json.RawMessage(m.Info), "connections": m.Connections})
		}
		return object{"name": c.Name, "all": info.Users, "members": list}
	}
	n, ids := 0, []string{}
	for _, s := range c.Subscribers(func(*channel.Subscription) bool { n++; return n <= mostRows }) {
		ids = append(ids, s.ID.String())
	}
	return object{"name": c.Name, "all": info.Subscriptions, "sockets": ids}
}
