// Package console is the debug console, GET /console: a page with a feed of everything that happens in an app, lists of
// what there is, and an event creator.
//
// A visitor signs in with the secret of an app, or once with a link that was printed on a terminal. What a secret opens
// is decided above (Options.SignIn); here is the session, a cookie that only memory knows. A page gets its lines from
// its feed, which drops and counts what the page does not read: nobody ever waits for a page.
//
// The console may show what is reported in the session's app (channel.Notice) and what that app lists, in bounded
// pieces, and of the server what anyone who has a secret may know. It never shows a secret, a signature, or what may
// belong to another app. A new notice shows by itself; more of what there is goes into state and console.html.
package console

import (
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"edge/internal/channel"
	"edge/internal/conn"
	"edge/internal/wire"
)

const mostRows = 200 // of a list in what a page is told

//go:embed console.html
var consolePage string

// Options are what a console is of.
type Options struct {
	Path    string // before /console
	Version string
	Proxies []netip.Prefix // whose X-Forwarded-For counts
	None    *channel.App   // of requests that name no app

	SignIn   func(secret, app string) Access // app is an id or a key, "" for any app
	Alone    func() bool                     // reports whether there is only one app
	Warnings func() []string                 // of the server's configuration
}

// Access is what a secret opens: an app. The zero value opens nothing.
type Access struct {
	App   *channel.App
	Key   string // the name of the secret's key
	ID    func() string
	Valid func() bool // reports whether the secret is still one of the app
}

func (a Access) valid() bool { return a.Valid != nil && a.Valid() }

// Console serves the page and its requests.
type Console struct {
	// Static after construction.
	options Options
	seed    maphash.Seed
	over    context.Context // ends all sessions' feeds
	end     context.CancelFunc
	feeds   atomic.Int32 // that are open

	mu       sync.Mutex    // guards the following
	guesses  [64]conn.Rate // wrong secrets, by a hash of the address: who guesses keeps out few others
	sessions []*session    // the oldest first
	once     session       // what the link opens, with the hash of its token, until it is used
	onceEnds int64         // on the clock of conn.Now
}

// New makes a console, which must be ended.
func New(o Options) *Console {
	c := &Console{options: o, seed: maphash.MakeSeed()}
	c.over, c.end = context.WithCancel(context.Background())
	return c
}

// End ends the feeds of all pages, which would be requests under way for as long as the pages are open.
func (c *Console) End() { c.end() }

// Routes enters the console into mux.
func (c *Console) Routes(mux *http.ServeMux) {
	base := c.options.Path + "/console"
	mux.HandleFunc("GET "+base, servePage)
	mux.HandleFunc("GET "+base+"/{$}", servePage)
	for path, handle := range map[string]func(*visit) error{
		"POST login": c.login, "POST logout": c.logout, "POST trigger": (*visit).trigger,
		"POST terminate": (*visit).terminate, "GET state": c.state, "GET feed": c.serveFeed,
	} {
		mux.HandleFunc(strings.Replace(path, " ", " "+base+"/", 1), c.answer(handle))
	}
}

// visit is a request of the page.
type visit struct {
	*http.Request
	*session // nil before login
	w        http.ResponseWriter
}

// answer wraps every handler but that of the page, which anyone may have. All but login need a session, and requests
// must come from our own page: a form elsewhere cannot send JSON, and a script elsewhere has another origin.
func (c *Console) answer(handle func(*visit) error) http.HandlerFunc {
	sameOrigin := http.NewCrossOriginProtection()
	return func(w http.ResponseWriter, r *http.Request) {
		setSafe(w.Header())
		v := &visit{r, c.session(r), w}
		kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
		var err error
		switch {
		case sameOrigin.Check(r) != nil:
			err = refusal(http.StatusForbidden, "This request comes from another page than the console")
		case r.Method == http.MethodPost && kind != "application/json":
			err = refusal(http.StatusUnsupportedMediaType, "Send application/json")
		case v.session == nil && !strings.HasSuffix(r.Pattern, "/login"):
			err = refusal(http.StatusUnauthorized, "Sign in first: the session has ended, or there was none")
		default:
			err = handle(v)
		}
		if err != nil {
			e := wire.AsError(err, http.StatusInternalServerError)
			http.Error(w, e.Text, e.Status)
		}
	}
}

func refusal(status int, text string) error { return &wire.Error{Status: status, Text: text} }

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
		"; connect-src 'self'; require-trusted-types-for 'script'; base-uri 'none'; form-action 'none'" +
		"; frame-ancestors 'none'"
})

// body reads the body.
func (v *visit) body(limit int) ([]byte, error) {
	b, err := io.ReadAll(http.MaxBytesReader(v.w, v.Body, int64(limit)))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		text := fmt.Sprintf("The request body exceeds the allowed maximum (%d bytes)", limit)
		err = refusal(http.StatusRequestEntityTooLarge, text)
	case err != nil:
		err = wire.BadRequest("The request body could not be read")
	}
	return b, err
}

// read reads a body that is a JSON object of strings.
func (v *visit) read() (said map[string]string, err error) {
	b, err := v.body(loginSize)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &said); err != nil {
		return nil, wire.BadRequest("Invalid request body: %v", err)
	}
	return said, nil
}

// object is a JSON object that is sent to the page.
type object = map[string]any

func (v *visit) reply(answer object) error {
	b, err := json.Marshal(answer)
	if err == nil {
		v.w.Header().Set("Content-Type", "application/json")
		v.w.Write(b) // if it fails, nobody is there any more
	}
	return err
}

// trigger sends an event as the HTTP API does, with the same body, and answers how many subscriptions it is given to.
func (v *visit) trigger() error {
	l := v.App.Limits()
	body, err := v.body(64<<10 + 6*l.EventSize) // data with an escape for every byte, and the rest
	if err != nil {
		return err
	}
	var f [len(wire.TriggerFields)]wire.Value
	values, err := wire.ParseObject(nil, body, wire.APIDepth, wire.APIValues, wire.TriggerFields[:], f[:])
	if err != nil {
		return wire.BadRequest("Invalid request body: %v", err)
	}
	_, t, err := wire.ParseTrigger(values, f[:], l.ChannelName, l.EventSize)
	if err != nil {
		return err
	}
	reached, err := v.App.Publish(t)
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
		closed = v.App.Terminate(user)
		if c := v.App.Channel(said["channel"]); c != nil {
			others = c.Subscribers(func(s *channel.Subscription) bool {
				return s.UserID() == user && !s.Socket.Conn.Closing.Load()
			})
		}
	case known:
		if s := v.App.Socket(id); s != nil {
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
func (c *Console) state(v *visit) error {
	a, query := v.App, v.URL.Query()
	answer := object{
		"app": v.ID(), "key": v.Key, "version": c.options.Version, "up": conn.Now() / int64(time.Second),
		"eventSize": a.Limits().EventSize, "warnings": append([]string{}, c.options.Warnings()...),
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
