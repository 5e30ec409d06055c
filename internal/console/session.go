package console

// Sessions: how they begin, with a secret or the link, and end.

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"hash/maphash"
	"net"
	"net/http"
	"slices"
	"time"

	"edge/internal/conn"
	"edge/internal/listen"
)

const (
	guessRate, guessBurst = 1, 5      // wrong secrets a second and in a row, from addresses that share a place
	mostSessions          = 64        // beyond, the oldest ends
	linkTime              = time.Hour // for which the link is good
	loginSize             = 4 << 10
)

// session is that of a visitor who has signed in.
type session struct {
	Access
	hash [sha256.Size]byte // of its token
	over context.Context
	end  context.CancelFunc
}

// newToken makes a token that nobody can guess, and its hash, which is all that is kept of it.
func newToken() (token string, hash [sha256.Size]byte) {
	b := make([]byte, 32)
	rand.Read(b) // never fails (crypto/rand)
	token = hex.EncodeToString(b)
	return token, sha256.Sum256([]byte(token))
}

// Link is what follows the console's path in a link that opens a once. Browsers send nothing of what is behind a #.
func (c *Console) Link(a Access) string {
	token, hash := newToken()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.once = session{Access: a, hash: hash}
	c.onceEnds = conn.Now() + int64(linkTime)
	return "#once=" + token
}

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
func (c *Console) session(r *http.Request) *session {
	cookie, err := r.Cookie(cookieName(r))
	if err != nil {
		return nil
	}
	hash := sha256.Sum256([]byte(cookie.Value))
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.sessions, func(s *session) bool { return s.hash == hash && s.valid() })
	if i < 0 {
		return nil
	}
	return c.sessions[i]
}

// endLocked ends a session, and with it the feeds of its pages. The caller holds mu.
func (c *Console) endLocked(s *session) {
	c.sessions = slices.DeleteFunc(c.sessions, func(other *session) bool { return other == s })
	s.end()
}

// login begins a session: {"secret":…[,"app":…]}, or {"once":…} with the token of the link. The feed shows nothing of
// it.
func (c *Console) login(v *visit) error {
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
func (c *Console) address(r *http.Request) string {
	address := listen.CallerAddr(r, c.options.Proxies)
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

// begin begins a session and returns its token. A wrong secret uses up one of the few guesses of its place, and while
// it has none the answer is the same for a right one.
func (c *Console) begin(place uint64, secret, once, app string) (token string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	guesses := c.guesses[place]
	if !guesses.Allow(conn.Now(), guessRate, guessBurst) {
		return "", refusal(http.StatusTooManyRequests, "Too many wrong secrets: wait a second and try again")
	}
	s, problem := new(session), "This is not the secret of an app on this server"
	if once == "" {
		s.Access = c.options.SignIn(secret, app)
	} else {
		problem = "This link has been used or has expired"
		if sha256.Sum256([]byte(once)) == c.once.hash && conn.Now() < c.onceEnds {
			s.Access, c.once = c.once.Access, session{}
		}
	}
	if !s.valid() {
		c.guesses[place] = guesses
		return "", refusal(http.StatusForbidden, problem)
	}
	if len(c.sessions) >= mostSessions {
		c.endLocked(c.sessions[0])
	}
	token, s.hash = newToken()
	s.over, s.end = context.WithCancel(c.over)
	c.sessions = append(c.sessions, s)
	return token, nil
}

func (c *Console) logout(v *visit) error {
	c.mu.Lock()
	c.endLocked(v.session)
	c.mu.Unlock()
	http.SetCookie(v.w, cookie(v.Request, ""))
	return v.reply(object{})
}
