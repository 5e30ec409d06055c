package main

// Signatures: hex HMAC-SHA256 with an app's secret (https://pusher.com/docs/channels/library_auth_reference/auth-signatures/).

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Key is one key of an app with its secret. The secret never leaves it.
type Key struct {
	name string // the public part
	macs sync.Pool
	uses atomic.Uint64 // signatures of it that were valid
}

// mac is the working memory of one signature: a keyed hash costs more to make than to reset.
type mac struct {
	hash hash.Hash
	sum  [sha256.Size]byte
}

// newKey makes a key. Its secret is kept only in the keyed hashes.
func newKey(name, secret string) *Key {
	k := &Key{name: name}
	k.macs.New = func() any { return &mac{hash: hmac.New(sha256.New, []byte(secret))} }
	return k
}

// sign appends the signature of the concatenated parts.
func (k *Key) sign(dst []byte, parts ...[]byte) []byte {
	m := k.macs.Get().(*mac)
	m.hash.Reset()
	for _, p := range parts {
		m.hash.Write(p)
	}
	dst = hex.AppendEncode(dst, m.hash.Sum(m.sum[:0]))
	k.macs.Put(m)
	return dst
}

// token appends the auth of a subscription or signin, which checkToken accepts.
func (k *Key) token(dst, text []byte) []byte {
	return k.sign(append(append(dst, k.name...), ':'), text)
}

// valid reports, in constant time, whether signature is the one sign would make.
func (k *Key) valid(signature string, parts ...[]byte) bool {
	var want, got [2 * sha256.Size]byte
	k.sign(want[:0], parts...)
	ok := copy(got[:], signature) == len(signature) && subtle.ConstantTimeCompare(want[:], got[:]) == 1
	if ok {
		k.uses.Add(1)
	}
	return ok
}

// Keys are the keys of an app, all of them valid.
type Keys []*Key

// find returns the key with this name, or nil. Names are no secret, so this need not take constant time.
func (ks Keys) find(name string) *Key {
	for _, k := range ks {
		if k.name == name {
			return k
		}
	}
	return nil
}

// same returns the one of ks that has the name and the secret of k, or else k.
func (ks Keys) same(k *Key) *Key {
	if old := ks.find(k.name); old != nil && subtle.ConstantTimeCompare(old.sign(nil), k.sign(nil)) == 1 { // of nothing, as neither tells its secret
		return old
	}
	return k
}

// access is what a secret opens in the console: an app.
type access struct {
	app   *App
	key   string      // the name of the secret's key
	still func() bool // reports whether it is valid; nil if it never was
}

func (a access) valid() bool { return a.still != nil && a.still() }

func (s *server) access(a *App, k *Key) access {
	return access{a, k.name, func() bool { return s.apps.Load().has(a) && slices.Contains(a.keys(), k) }}
}

// firstAccess is that of the first app, with its first key.
func (s *server) firstAccess() access {
	a := s.apps.Load().all[0]
	return s.access(a, a.keys()[0])
}

// signIn returns the access of the first key with this secret: of any app, or of the one with this id or key. It
// compares all secrets, each in constant time.
func (s *server) signIn(secret, app string) (first access) {
	given := newKey("", secret).sign(nil)
	for _, a := range s.apps.Load().all {
		for _, k := range a.keys() {
			same := subtle.ConstantTimeCompare(k.sign(nil), given) == 1
			if same && first.still == nil && (app == "" || app == a.id() || app == k.name) {
				first = s.access(a, k)
			}
		}
	}
	return first
}

// checkToken checks the auth of a subscription or signin, "KEY:SIGNATURE", made over text. It returns "" or what is wrong,
// cut to a length that is worth nobody's while to ask for. The expected signature is never part of it.
func (ks Keys) checkToken(auth, text []byte) string {
	name, signature, ok := strings.Cut(string(auth), ":")
	key := ks.find(name)
	switch {
	case !ok || key == nil:
		return fmt.Sprintf("Invalid key in subscription auth data: '%.100s'", name)
	case !key.valid(signature, text):
		return fmt.Sprintf("Invalid signature: Expected HMAC SHA256 hex digest of %.300s, but got %.100s", text, signature)
	}
	return ""
}

// channelText is what is signed for a subscription. channelData counts byte for byte as it was received, on any kind of
// channel; an empty one is absent.
func channelText(dst []byte, id socketID, channel, channelData []byte) []byte {
	dst = append(id.append(dst), ':')
	dst = append(dst, channel...)
	if len(channelData) > 0 {
		dst = append(dst, ':')
		dst = append(dst, channelData...)
	}
	return dst
}

// userText is what is signed for a signin.
func userText(dst []byte, id socketID, userData []byte) []byte {
	dst = append(id.append(dst), "::user::"...)
	return append(dst, userData...)
}

// param is one parameter of a query string, decoded, its name in lower case.
type param struct{ name, value string }

// params are the parameters of a request, sorted by name; those of the same name keep their order.
type params []param

// parseParams appends the parameters of a query string to dst, which is empty. A name may stand twice only if it is an array (name[]): which of two would count is
// undefined, so signing one and acting on the other is ruled out here.
func parseParams(dst params, query string) (ps params, err error) {
	ps = slices.Grow(dst, 8) // a signed request has five or six
	for part := range strings.SplitSeq(query, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		if name, err = url.QueryUnescape(name); err != nil {
			return nil, fmt.Errorf("Invalid query parameter %q", part)
		}
		if value, err = url.QueryUnescape(value); err != nil {
			return nil, fmt.Errorf("Invalid query parameter %q", part)
		}
		ps = append(ps, param{strings.ToLower(name), value})
	}
	slices.SortStableFunc(ps, func(a, b param) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(ps); i++ {
		if name := ps[i].name; name == ps[i-1].name && !strings.HasSuffix(name, "[]") {
			return nil, fmt.Errorf("Duplicate query parameter: %s", name)
		}
	}
	return ps, nil
}

// has reports whether there is a parameter of this name, be it empty.
func (ps params) has(name string) bool {
	return slices.ContainsFunc(ps, func(p param) bool { return p.name == name })
}

// get returns the value of the first parameter of this name, or "".
func (ps params) get(name string) string {
	for _, p := range ps {
		if p.name == name {
			return p.value
		}
	}
	return ""
}

// requestText is what is signed for an API request: method, path and the decoded parameters without the signature.
func requestText(dst []byte, method, path string, ps params) []byte {
	dst = append(dst, method...)
	dst = append(dst, '\n')
	dst = append(dst, path...)
	sep := byte('\n')
	for _, p := range ps {
		if p.name == "auth_signature" {
			continue
		}
		dst = append(dst, sep)
		dst = append(dst, p.name...)
		dst = append(dst, '=')
		dst = append(dst, p.value...)
		sep = '&'
	}
	if sep == '\n' {
		dst = append(dst, sep)
	}
	return dst
}

// signedQuery returns the query string of an API request with the signature in it, which checkRequest and checkBodyMD5 accept.
func (k *Key) signedQuery(method, path string, ps params, body []byte, now time.Time) string {
	ps = append(ps, param{"auth_key", k.name}, param{"auth_timestamp", strconv.FormatInt(now.Unix(), 10)}, param{"auth_version", "1.0"})
	if len(body) > 0 {
		sum := md5.Sum(body)
		ps = append(ps, param{"body_md5", hex.EncodeToString(sum[:])})
	}
	slices.SortStableFunc(ps, func(a, b param) int { return strings.Compare(a.name, b.name) })
	var query []byte
	for _, p := range append(ps, param{"auth_signature", string(k.sign(nil, requestText(nil, method, path, ps)))}) {
		query = append(append(append(query, '&'), p.name...), '=')
		query = append(query, url.QueryEscape(p.value)...)
	}
	return string(query[1:])
}

// checkRequest authenticates an API request but for its body, which checkBodyMD5 is for. paths are the spellings of the
// path that may have been signed. Without a window (0) a request may be of any time. The error says which part failed, in the
// words of Pusher's own library where it has any.
func (ks Keys) checkRequest(method string, paths []string, ps params, now time.Time, window time.Duration) error {
	key := ks.find(ps.get("auth_key"))
	switch {
	case !ps.has("auth_key"):
		return errors.New("Missing parameter: auth_key")
	case key == nil:
		return fmt.Errorf("Unknown auth_key %q", ps.get("auth_key"))
	case !ps.has("auth_version"):
		return errors.New("Version required: auth_version=1.0")
	case ps.get("auth_version") != "1.0":
		return fmt.Errorf("Version not supported: auth_version=%q, only 1.0 is", ps.get("auth_version"))
	}
	if err := checkTimestamp(ps.get("auth_timestamp"), now, window); err != nil {
		return err
	}
	return key.checkSignature(method, paths, ps)
}

// checkTimestamp compares the clocks, and says how far they are apart: on boards without a clock that is what is wrong.
func checkTimestamp(stamp string, now time.Time, window time.Duration) error {
	if stamp == "" {
		return errors.New("Timestamp required: auth_timestamp")
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || seconds < 0 || seconds > 1<<40 {
		return fmt.Errorf("Timestamp invalid: auth_timestamp=%q is not in seconds since 1970", stamp)
	}
	given := time.Unix(seconds, 0).UTC()
	if window == 0 {
		return nil
	}
	if off := now.Sub(given).Abs(); off > window {
		return fmt.Errorf("Timestamp expired: Given timestamp (%s) not within %ds of server time (%s): off by %s",
			given.Format(time.RFC3339), int(window.Seconds()), now.UTC().Format(time.RFC3339), off.Round(time.Second))
	}
	return nil
}

// checkSignature tells a caller exactly what it should have signed, which is not secret: it came from the caller.
func (k *Key) checkSignature(method string, paths []string, ps params) error {
	signature := ps.get("auth_signature")
	buffer := frameBuffers.Get().(*[]byte)
	defer freeFrameBuffer(&buffer)
	for i, path := range paths {
		if i > 0 && path == paths[0] {
			continue
		}
		*buffer = requestText((*buffer)[:0], method, path, ps)
		if k.valid(signature, *buffer) {
			return nil
		}
	}
	text := requestText(nil, method, paths[0], ps)
	return fmt.Errorf("Invalid signature: you should have sent HmacSHA256Hex(%q, your_secret_key), but you sent %q", text, signature)
}

// checkBodyMD5 compares body_md5, which is signed, with the body, which is not. The Python library sends it with an empty
// body too.
func checkBodyMD5(ps params, body []byte) error {
	given := ps.get("body_md5")
	if !ps.has("body_md5") {
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
