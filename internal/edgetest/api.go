package edgetest

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// Sign returns the signature of a text.
func Sign(text string) string {
	mac := hmac.New(sha256.New, []byte(Secret))
	io.WriteString(mac, text)
	return hex.EncodeToString(mac.Sum(nil))
}

// Token is what lets a connection subscribe to a channel.
func Token(id, channel, channelData string) string {
	text := id + ":" + channel
	if channelData != "" {
		text += ":" + channelData
	}
	return Key + ":" + Sign(text)
}

// UserToken is what lets a connection sign in.
func UserToken(id, userData string) string { return Key + ":" + Sign(id+"::user::"+userData) }

// SignQuery returns the signature of a call whose query is escaped already; an error if it is no query.
func SignQuery(method, path, query string) (signature string, err error) {
	var lines []string
	for part := range strings.SplitSeq(query, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		if name, err = url.QueryUnescape(name); err == nil {
			value, err = url.QueryUnescape(value)
		}
		if err != nil {
			return "", err
		}
		lines = append(lines, strings.ToLower(name)+"="+value)
	}
	slices.SortStableFunc(lines, func(a, b string) int {
		nameA, _, _ := strings.Cut(a, "=")
		nameB, _, _ := strings.Cut(b, "=")
		return strings.Compare(nameA, nameB)
	})
	return Sign(method + "\n" + path + "\n" + strings.Join(lines, "&")), nil
}

// URL is the address of an API call, with a valid signature of this moment. query is name=value&…, escaped.
func URL(addr, method, path, query, body string) string {
	q := fmt.Sprintf("auth_key=%s&auth_timestamp=%d&auth_version=1.0", Key, time.Now().Unix())
	if body != "" {
		q += fmt.Sprintf("&body_md5=%x", md5.Sum([]byte(body)))
	}
	if query != "" {
		q += "&" + query
	}
	signature, err := SignQuery(method, path, q)
	if err != nil {
		panic(err) // the test's own mistake
	}
	return fmt.Sprintf("http://%s%s?%s&auth_signature=%s", addr, path, q, signature)
}

// Call makes a signed API call and returns status and body.
func Call(t testing.TB, addr, method, path, query, body string) (status int, answer string) {
	t.Helper()
	r, err := http.NewRequest(method, URL(addr, method, path, query, body), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return Do(t, r)
}

// Do makes a request and returns status and body.
func Do(t testing.TB, r *http.Request) (status int, answer string) {
	t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	LookForSecret("an answer to a request", b)
	return resp.StatusCode, string(b)
}

// Get makes a request without a signature and returns status and body.
func Get(t testing.TB, address string) (status int, answer string) {
	t.Helper()
	r, err := http.NewRequest("GET", address, nil)
	if err != nil {
		t.Fatal(err)
	}
	return Do(t, r)
}

// EventBody is the body of a call that triggers an event.
func EventBody(channel, name, data string) string {
	return fmt.Sprintf(`{"name":%s,"channel":%s,"data":%s}`, Quote(name), Quote(channel), Quote(data))
}

// Publish triggers an event over HTTP, which must succeed.
func Publish(t testing.TB, addr, channel, name, data string) {
	t.Helper()
	status, answer := Call(t, addr, "POST", "/apps/1/events", "", EventBody(channel, name, data))
	if status != http.StatusOK || answer != "{}" {
		t.Fatalf("POST /events: %d %s", status, answer)
	}
}
