// Package sign is signatures: hex HMAC-SHA256 with an app's secret, and the texts they are made over
// (https://pusher.com/docs/channels/library_auth_reference/auth-signatures/). No clock, no I/O, no decisions.
package sign

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"hash"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// Key is one key of an app with its secret. The secret never leaves it.
type Key struct {
	Name string // the public part
	macs sync.Pool
	Uses atomic.Uint64 // signatures of it that were valid
}

// mac is the working memory of one signature: a keyed hash costs more to make than to reset.
type mac struct {
	hash hash.Hash
	sum  [sha256.Size]byte
}

// NewKey makes a key. Its secret is kept only in the keyed hashes.
func NewKey(name, secret string) *Key {
	k := &Key{Name: name}
	k.macs.New = func() any { return &mac{hash: hmac.New(sha256.New, []byte(secret))} }
	return k
}

// Sign appends the signature of the concatenated parts.
func (k *Key) Sign(dst []byte, parts ...[]byte) []byte {
	m := k.macs.Get().(*mac)
	m.hash.Reset()
	for _, p := range parts {
		m.hash.Write(p)
	}
	dst = hex.AppendEncode(dst, m.hash.Sum(m.sum[:0]))
	k.macs.Put(m)
	return dst
}

// Token appends the auth of a subscription or signin, KEY:SIGNATURE.
func (k *Key) Token(dst, text []byte) []byte {
	return k.Sign(append(append(dst, k.Name...), ':'), text)
}

// Valid reports, in constant time, whether signature is the one sign would make.
func (k *Key) Valid(signature string, parts ...[]byte) bool {
	var want, got [2 * sha256.Size]byte
	k.Sign(want[:0], parts...)
	ok := copy(got[:], signature) == len(signature) && subtle.ConstantTimeCompare(want[:], got[:]) == 1
	if ok {
		k.Uses.Add(1)
	}
	return ok
}

// SameSecret reports, in constant time, whether both have the same secret: their signatures of nothing are equal.
func (k *Key) SameSecret(other *Key) bool {
	return subtle.ConstantTimeCompare(k.Sign(nil), other.Sign(nil)) == 1
}

// Keys are the keys of an app, all of them valid.
type Keys []*Key

// Find returns the key with this name, or nil. Names are no secret, so this need not take constant time.
func (ks Keys) Find(name string) *Key {
	for _, k := range ks {
		if k.Name == name {
			return k
		}
	}
	return nil
}

// Same returns the one of ks that has the name and the secret of k, or else k.
func (ks Keys) Same(k *Key) *Key {
	if old := ks.Find(k.Name); old != nil && old.SameSecret(k) {
		return old
	}
	return k
}

// ChannelText is what is signed for a subscription. ChannelData counts byte for byte as it was received, on any kind
// of channel; an empty one is absent.
func ChannelText(dst []byte, socketID string, channel, channelData []byte) []byte {
	dst = slices.Grow(dst, len(socketID)+len(channel)+len(channelData)+2)
	dst = append(append(dst, socketID...), ':')
	dst = append(dst, channel...)
	if len(channelData) > 0 {
		dst = append(dst, ':')
		dst = append(dst, channelData...)
	}
	return dst
}

// UserText is what is signed for a signin.
func UserText(dst []byte, socketID string, userData []byte) []byte {
	const between = "::user::"
	dst = slices.Grow(dst, len(socketID)+len(between)+len(userData))
	return append(append(append(dst, socketID...), between...), userData...)
}

// Param is one parameter of a query string, decoded, its name in lower case.
type Param struct{ Name, Value string }

// Params are the parameters of a request, sorted by name; those of the same name keep their order.
type Params []Param

// ParseParams appends the parameters of a query string to dst, which is empty. Only the name of an array (name[]) may
// stand twice: which of two would count is undefined, so signing one and acting on the other is ruled out here.
func ParseParams(dst Params, query string) (ps Params, err error) {
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
		ps = append(ps, Param{strings.ToLower(name), value})
	}
	slices.SortStableFunc(ps, func(a, b Param) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(ps); i++ {
		if name := ps[i].Name; name == ps[i-1].Name && !strings.HasSuffix(name, "[]") {
			return nil, fmt.Errorf("Duplicate query parameter: %s", name)
		}
	}
	return ps, nil
}

// Has reports whether there is a parameter of this name, be it empty.
func (ps Params) Has(name string) bool {
	return slices.ContainsFunc(ps, func(p Param) bool { return p.Name == name })
}

// Get returns the value of the first parameter of this name, or "".
func (ps Params) Get(name string) string {
	for _, p := range ps {
		if p.Name == name {
			return p.Value
		}
	}
	return ""
}

// RequestText is what is signed for an API request: method, path and the decoded parameters without the signature.
func RequestText(dst []byte, method, path string, ps Params) []byte {
	dst = append(dst, method...)
	dst = append(dst, '\n')
	dst = append(dst, path...)
	sep := byte('\n')
	for _, p := range ps {
		if p.Name == "auth_signature" {
			continue
		}
		dst = append(dst, sep)
		dst = append(dst, p.Name...)
		dst = append(dst, '=')
		dst = append(dst, p.Value...)
		sep = '&'
	}
	if sep == '\n' {
		dst = append(dst, sep)
	}
	return dst
}

// SignedQuery returns the query string of an API request with the signature in it. timestamp is in seconds since 1970.
func (k *Key) SignedQuery(method, path string, ps Params, body []byte, timestamp int64) string {
	ps = append(ps, Param{"auth_key", k.Name}, Param{"auth_version", "1.0"},
		Param{"auth_timestamp", strconv.FormatInt(timestamp, 10)})
	if len(body) > 0 {
		sum := md5.Sum(body)
		ps = append(ps, Param{"body_md5", hex.EncodeToString(sum[:])})
	}
	slices.SortStableFunc(ps, func(a, b Param) int { return strings.Compare(a.Name, b.Name) })
	var query []byte
	for _, p := range append(ps, Param{"auth_signature", string(k.Sign(nil, RequestText(nil, method, path, ps)))}) {
		query = append(append(append(query, '&'), p.Name...), '=')
		query = append(query, url.QueryEscape(p.Value)...)
	}
	return string(query[1:])
}
