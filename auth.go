package main

// Who may subscribe, sign in, call the HTTP API and open the console: every decision about tokens, signatures and secrets.

import (
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"edge/internal/api"
	"edge/internal/console"
	"edge/internal/sign"
	"edge/internal/wire"
)

// access is what a secret opens in the console: its app, for as long as there is the app and it has the key.
func (s *server) access(a *app, k *sign.Key) console.Access {
	valid := func() bool { return s.apps.Load().has(a) && slices.Contains(a.keys(), k) }
	return console.Access{App: a.App, Key: k.Name, ID: a.id, Valid: valid}
}

// firstAccess is that of the first app, with its first key.
func (s *server) firstAccess() console.Access {
	a := s.apps.Load().all[0]
	return s.access(a, a.keys()[0])
}

// signIn returns the access of the first key with this secret: of any app, or of the one with this id or key. It
// compares all secrets, each in constant time.
func (s *server) signIn(secret, app string) (first console.Access) {
	given := sign.NewKey("", secret)
	for _, a := range s.apps.Load().all {
		for _, k := range a.keys() {
			if k.SameSecret(given) && first.Valid == nil && (app == "" || app == a.id() || app == k.Name) {
				first = s.access(a, k)
			}
		}
	}
	return first
}

// checkToken checks the auth of a subscription or signin, "KEY:SIGNATURE", made over text. It returns "" or what is
// wrong, cut to a length that is worth nobody's while to ask for. The expected signature is never part of it.
func checkToken(keys sign.Keys, auth, text []byte) string {
	name, signature, ok := strings.Cut(string(auth), ":")
	key := keys.Find(name)
	switch {
	case !ok || key == nil:
		return fmt.Sprintf("Invalid key in subscription auth data: '%.100s'", name)
	case !key.Valid(signature, text):
		return fmt.Sprintf("Invalid signature: Expected HMAC SHA256 hex digest of %.300s, but got %.100s", text, signature)
	}
	return ""
}

// clock is the wall clock that requests to the API are checked by.
type clock struct {
	// Static after construction.
	now   func() time.Time
	built time.Time // the clock is surely not set while it stands before

	warn sync.Once
}

func newClock() *clock { return &clock{now: time.Now, built: builtAt()} }

// read returns the time and the window for requests at that time: 0, no check, while the clock is surely not set.
func (c *clock) read(window time.Duration) (time.Time, time.Duration) {
	now := c.now()
	if !now.Before(c.built) {
		return now, window
	}
	c.warn.Do(func() {
		slog.Warn("the clock of this machine is not set: the age of API requests is not checked until it is",
			"clock", now.UTC().Format(time.RFC3339))
	})
	return now, 0
}

// checkCall finds the app of an API call and authenticates it. The signature comes before the body is read.
func (s *server) checkCall(c *api.Call) (err error) {
	apps := s.apps.Load()
	a := apps.none
	c.App = a.App
	if c.Params, err = sign.ParseParams(c.Params, c.URL.RawQuery); err != nil {
		return wire.BadRequest("%v", err)
	}
	id := c.PathValue("app")
	if found := apps.find(id, c.Params.Get("auth_key")); found != nil {
		a, c.App = found, found.App
	} else if id != "" {
		return &wire.Error{Status: http.StatusNotFound, Text: fmt.Sprintf("Unknown app id %q", id)}
	}
	// A proxy may have added our path before what was signed.
	escaped, path := c.URL.EscapedPath(), c.URL.Path
	paths := []string{escaped, path, strings.TrimPrefix(escaped, s.began.Path), strings.TrimPrefix(path, s.began.Path)}
	now, window := s.clock.read(a.window())
	if err = checkRequest(a.keys(), c.Method, paths, c.Params, now, window); err != nil {
		return wire.AsError(err, http.StatusUnauthorized)
	}
	if err = c.ReadBody(); err != nil {
		return err
	}
	if err = checkBodyMD5(c.Params, c.Body); err != nil {
		return wire.AsError(err, http.StatusUnauthorized)
	}
	return nil
}

// checkRequest authenticates an API request but for its body, which checkBodyMD5 is for. paths are the spellings of
// the path that may have been signed. With a window of 0 the age does not count. The error says which part failed, in
// the words of Pusher's own library where it has any.
func checkRequest(keys sign.Keys, method string, paths []string, ps sign.Params, now time.Time, window time.Duration) error {
	key := keys.Find(ps.Get("auth_key"))
	switch {
	case !ps.Has("auth_key"):
		return errors.New("Missing parameter: auth_key")
	case key == nil:
		return fmt.Errorf("Unknown auth_key %q", ps.Get("auth_key"))
	case !ps.Has("auth_version"):
		return errors.New("Version required: auth_version=1.0")
	case ps.Get("auth_version") != "1.0":
		return fmt.Errorf("Version not supported: auth_version=%q, only 1.0 is", ps.Get("auth_version"))
	}
	if err := checkTimestamp(ps.Get("auth_timestamp"), now, window); err != nil {
		return err
	}
	return checkSignature(key, method, paths, ps)
}

// checkTimestamp compares the clocks. Its error has their difference, and the way out for boards without a clock.
func checkTimestamp(stamp string, now time.Time, window time.Duration) error {
	if stamp == "" {
		return errors.New("Timestamp required: auth_timestamp")
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || seconds < 0 || seconds > 1<<40 {
		return fmt.Errorf("Timestamp invalid: auth_timestamp=%q is not in seconds since 1970", stamp)
	}
	given := time.Unix(seconds, 0).UTC()
	if off := now.Sub(given).Abs(); window > 0 && off > window {
		return fmt.Errorf("Timestamp expired: Given timestamp (%s) not within %ds of server time (%s): off by %s; "+
			"set the clocks, or the server's -auth-window (0 for no check)",
			given.Format(time.RFC3339), int(window.Seconds()), now.UTC().Format(time.RFC3339), off.Round(time.Second))
	}
	return nil
}

// checkSignature tells a caller exactly what it should have signed, which is not secret: it came from the caller.
func checkSignature(key *sign.Key, method string, paths []string, ps sign.Params) error {
	signature := ps.Get("auth_signature")
	buffer := wire.Buffers.Get().(*[]byte)
	defer wire.FreeBuffer(&buffer)
	for i, path := range paths {
		if i > 0 && path == paths[0] {
			continue
		}
		*buffer = sign.RequestText((*buffer)[:0], method, path, ps)
		if key.Valid(signature, *buffer) {
			return nil
		}
	}
	text := sign.RequestText(nil, method, paths[0], ps)
	return fmt.Errorf("Invalid signature: you should have sent HmacSHA256Hex(%q, your_secret_key), but you sent %q",
		text, signature)
}

// checkBodyMD5 compares body_md5, which is signed, with the body, which is not. The Python library sends it with an
// empty body too.
func checkBodyMD5(ps sign.Params, body []byte) error {
	given := ps.Get("body_md5")
	if !ps.Has("body_md5") {
		if len(body) == 0 {
			return nil
		}
		return errors.New("Missing parameter: body_md5, required when there is a body")
	}
	var b [2 * md5.Size]byte
	sum := md5.Sum(body)
	if want := hex.AppendEncode(b[:0], sum[:]); string(want) != given {
		return fmt.Errorf("Invalid body_md5: the MD5 of the body is %s, but you sent %q", string(want), given)
	}
	return nil
}

// allowsOrigin reports whether a browser page of this origin may connect. Clients that are not browsers send none.
// An allowed value is an origin, a host name, or *.host for every name below it.
func (a *app) allowsOrigin(origin string) bool {
	origins := a.front.Load().origins
	if len(origins) == 0 || origin == "" {
		return true
	}
	origin = strings.ToLower(origin)
	_, host, _ := strings.Cut(origin, "://")
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host = host[:i]
	}
	for _, allowed := range origins {
		allowed = strings.ToLower(allowed)
		below, wild := strings.CutPrefix(allowed, "*.")
		switch {
		case allowed == "*", allowed == origin, host != "" && allowed == host:
			return true
		case wild && strings.HasSuffix(host, "."+below):
			return true
		}
	}
	return false
}
