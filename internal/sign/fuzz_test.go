package sign

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"edge/internal/edgetest"
)

func FuzzQuery(f *testing.F) {
	for _, seed := range []string{
		"", edgetest.VectorQuery, edgetest.VectorQuery + "&channels[]=c1&channels[]=c2&name=foo", "a=1&A=2", "a=+%2B%20&b=%zz", "AUTH_Signature=x&a==&=&&b", "%C3%89=1&\xff=2",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		ps, err := ParseParams(nil, query)
		if err != nil {
			return
		}
		text := string(RequestText(nil, "GET", "/x", ps))
		std, err := url.ParseQuery(query)
		if err == nil { // it refuses semicolons
			n := 0
			for name, values := range std {
				n += len(values)
				name = strings.ToLower(name)
				if !ps.Has(name) || !strings.HasSuffix(name, "[]") && (len(values) != 1 || ps.Get(name) != values[0]) {
					t.Errorf("%q: %q is %q, want %q", query, name, ps.Get(name), values)
				}
			}
			if n != len(ps) {
				t.Errorf("%q: got %d parameters, want %d", query, len(ps), n)
			}
		}

		// The same parameters written otherwise are signed by the same text.
		var parts, signed []string
		for i, p := range ps {
			if i > 0 && p.Name < ps[i-1].Name || p.Name != strings.ToLower(p.Name) {
				t.Errorf("%q: %q is out of order or not in lower case", query, p.Name)
			}
			parts = append(parts, url.QueryEscape(p.Name)+"="+url.QueryEscape(p.Value))
			if p.Name != "auth_signature" {
				signed = append(signed, p.Name+"="+p.Value)
			}
		}
		if want := "GET\n/x\n" + strings.Join(signed, "&"); text != want {
			t.Errorf("%q: signed text: got %q, want %q", query, text, want)
		}
		again, err := ParseParams(nil, strings.Join(parts, "&"))
		if err != nil || !slices.Equal(again, ps) {
			t.Errorf("%q: %q is read as %q, %v, want %q", query, parts, again, err, ps)
		}
	})
}

// FuzzOptions starts edge, but for serving, with any flags and variables: one in a line. What is accepted is within its
// bounds, and what is not is refused in one line that does not say the secret.
