package sign

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"edge/internal/edgetest"
)

var vectorKey = NewKey(edgetest.VectorKey, edgetest.VectorSecret)

// TestTokenTexts: no two requests may be signed by the same text.
func TestTokenTexts(t *testing.T) {
	texts := make(map[string]string)
	for _, channel := range []string{"private-a", "presence-a", "private-a=b", "presence-a;x"} {
		for _, data := range []string{"", "{}", "{} ", `{"user_id":1}`, `{"user_id":"1"}`, ":"} {
			for _, id := range []string{"1.2", "12.2", "1.22"} {
				what := fmt.Sprint(id, channel, data)
				text := string(ChannelText([]byte("x"), id, []byte(channel), []byte(data)))
				if other, ok := texts[text]; ok || !strings.HasPrefix(text, "x"+id+":"+channel) {
					t.Errorf("%s is signed by %q, as is %q", what, text, other)
				}
				texts[text] = what
			}
		}
	}
	if got, want := string(UserText([]byte("x"), "1.2", []byte("{}"))), "x1.2::user::{}"; got != want {
		t.Errorf("signin: got %q, want %q", got, want)
	}
}

// TestWebhookVectors: a webhook's signature is over its body alone, in however many parts.
func TestWebhookVectors(t *testing.T) {
	for _, v := range [][3]string{
		{"V16", `{"time_ms":1327078148132,"events":[{"name":"channel_occupied","channel":"project-3"}]}`,
			"73654ae6d45e9562503ac8d017e634454e3e309c82b32e49c67677dde9e798b3"},
		{"V17", `{"time_ms":1327078148132,"events":[{"name":"client_event","channel":"presence-foobar","event":"client-x","data":"{\"a\":1}","socket_id":"1234.1234","user_id":"10"}]}`,
			"22e75285e8b988c11074204a73d65ba6f0cdda86775a9f8a3ae1387206017cea"},
	} {
		body := []byte(v[1])
		for cut := range body {
			if got := string(vectorKey.Sign([]byte("x"), body[:cut], body[cut:])); got != "x"+v[2] {
				t.Fatalf("%s: got %s, want x%s", v[0], got, v[2])
			}
		}
	}
}

// TestRequestTexts has what is signed for queries that say the same in different spellings.
func TestRequestTexts(t *testing.T) {
	for _, test := range []struct{ query, want string }{
		{"", ""},
		{"b=2&a=1", "a=1&b=2"},
		{"b=2&A=1&auth_signature=x", "a=1&b=2"},
		{"AUTH_SIGNATURE=x&a=1", "a=1"},
		{"auth_signature=x", ""},
		{"a=b+c%2Bd%20e", "a=b c+d e"},
		{"a=%C3%A9", "a=é"},
		{"a=1=2", "a=1=2"},
		{"a;b=1", "a;b=1"},
		{"a", "a="},
		{"a-b=1&a=2&a[]=3", "a=2&a-b=1&a[]=3"}, // by byte: the end comes before '-', '-' before '['
		{"channels[]=c2&name=foo&channels[]=c1", "channels[]=c2&channels[]=c1&name=foo"},
		{"channels%5B%5D=c2&name=foo&channels[]=c1", "channels[]=c2&channels[]=c1&name=foo"},
		{"channels=c2,c1&name=foo", "channels=c2,c1&name=foo"}, // the PHP library
	} {
		ps, err := ParseParams(nil, test.query)
		if err != nil {
			t.Errorf("%q: %v", test.query, err)
		} else if got := string(RequestText(nil, "GET", "/x", ps)); got != "GET\n/x\n"+test.want {
			t.Errorf("%q: signed text: got %q, want %q after GET /x", test.query, got, test.want)
		}
	}
}

func TestParams(t *testing.T) {
	ps, err := ParseParams(nil, "b[]=1&a=x&b[]=2&empty&"+url.QueryEscape("k=&")+"=v")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, want string
		has        bool
	}{{"a", "x", true}, {"b[]", "1", true}, {"b", "", false}, {"empty", "", true}, {"k=&", "v", true}, {"A", "", false}, {"", "", false}} {
		if got, has := ps.Get(test.name), ps.Has(test.name); got != test.want || has != test.has {
			t.Errorf("%q: got %q, %v, want %q, %v", test.name, got, has, test.want, test.has)
		}
	}
	for _, query := range []string{"a=1&a=1", "a=1&A=2", "a&a", "a=1&%61=2", "=1&=2", "a=%", "a=%4", "a=%4g", "%=1"} {
		if ps, err := ParseParams(nil, query); err == nil {
			t.Errorf("%q: accepted as %v", query, ps)
		}
	}
}

// TestKeyParallel: a key signs for everyone at once.
func TestKeyParallel(t *testing.T) {
	for range 4 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			for range 200 {
				for _, v := range edgetest.TokenVectors {
					if !vectorKey.Valid(v.Digest, v.Text(edgetest.VectorSocket)) {
						t.Fatalf("%s: not valid", v.Name)
					}
				}
			}
		})
	}
}

func TestKeyAllocations(t *testing.T) {
	if edgetest.Race {
		t.Skip("the race detector makes pools forget")
	}
	signature, text := edgetest.TokenVectors[0].Digest, edgetest.TokenVectors[0].Text(edgetest.VectorSocket)
	if n := testing.AllocsPerRun(1000, func() {
		if !vectorKey.Valid(signature, text) {
			t.Fatal("not valid")
		}
	}); n != 0 {
		t.Errorf("valid allocates %v times, want 0", n)
	}
}
