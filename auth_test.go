package main

import (
	"bytes"
	"fmt"
	"log"
	"strings"
	"testing"
	"time"

	"edge/internal/edgetest"
	"edge/internal/listen"
	"edge/internal/sign"
)

const (
	vectorName   = edgetest.VectorKey
	vectorSecret = edgetest.VectorSecret
	vectorTime   = edgetest.VectorTime
	vectorPrefix = edgetest.VectorQuery
	authWindow   = 600 * time.Second
)

var vectorKeys = sign.Keys{sign.NewKey("other", "other secret"), sign.NewKey(vectorName, vectorSecret)}

func TestTokenVectors(t *testing.T) {
	for _, v := range edgetest.TokenVectors {
		text := v.Text(edgetest.VectorSocket)
		if got := string(vectorKeys[1].Sign(nil, text)); got != v.Digest {
			t.Errorf("%s: the signature of %s is %s, want %s", v.Name, text, got, v.Digest)
		}
		good := vectorName + ":" + v.Digest
		if got := checkToken(vectorKeys, []byte(good), text); got != "" {
			t.Errorf("%s: refused: %s", v.Name, got)
		}
		refuse := func(auth string, text []byte, part string) {
			t.Helper()
			got := checkToken(vectorKeys, []byte(auth), text)
			if !strings.Contains(got, part) || strings.Contains(got, vectorSecret) || strings.Contains(got, v.Digest) && !strings.Contains(auth, v.Digest) {
				t.Errorf("%s: auth %q for %q: got %q, want the text %q and no secret", v.Name, auth, text, got, part)
			}
		}
		const badKey, badSignature = "Invalid key", "Invalid signature"
		for i := range v.Digest {
			refuse(vectorName+":"+v.Digest[:i]+string(v.Digest[i]^1)+v.Digest[i+1:], text, badSignature)
		}
		refuse("", text, badKey)
		refuse(":", text, badKey)
		refuse(v.Digest, text, badKey)
		refuse(":"+v.Digest, text, badKey)
		refuse(vectorName, text, badKey)
		refuse(vectorName+v.Digest, text, badKey)
		refuse(strings.ToUpper(vectorName[:5])+"X"+vectorName[6:]+":"+v.Digest, text, badKey)
		refuse(" "+good, text, badKey)
		refuse("other:"+v.Digest, text, badSignature) // a key of the app, but not the one that signed
		refuse(vectorName+":", text, badSignature)
		refuse(vectorName+"::"+v.Digest, text, badSignature)
		refuse(vectorName+":"+strings.ToUpper(v.Digest), text, badSignature)
		refuse(good+" ", text, badSignature)
		refuse(good+"\x00", text, badSignature)
		refuse(good+":", text, badSignature)
		refuse(good[:len(good)-1], text, badSignature)
		refuse(good+"0", text, badSignature)
		refuse(good, v.Text("1234.1235"), badSignature)
		refuse(good, v.Text("12341.234"), badSignature)
		refuse(good, text[:len(text)-1], badSignature)
		refuse(good, append(text, ' '), badSignature)
		refuse(good, append(text, ':'), badSignature)
		refuse(good, nil, badSignature)
	}
}

// TestTokenTrap: the documentation prints the digest of "Mr. Pusher" next to the text with "Mr. Channels".
func TestTokenTrap(t *testing.T) {
	v2, v3 := edgetest.TokenVectors[1], edgetest.TokenVectors[2]
	if checkToken(vectorKeys, []byte(vectorName+":"+v3.Digest), v2.Text(edgetest.VectorSocket)) == "" {
		t.Errorf("%s… passes for %s", v3.Digest[:8], v2.Data)
	}
}

// apiRequest is what of an API request its signature depends on.
type apiRequest struct {
	method, path, query, body string
	clock                     time.Duration // how far the server's clock is ahead of the timestamp
}

func (r apiRequest) check() error {
	ps, err := sign.ParseParams(nil, r.query)
	if err != nil {
		return err
	}
	if err := checkRequest(vectorKeys, r.method, []string{r.path}, ps, time.Unix(vectorTime, 0).Add(r.clock), authWindow); err != nil {
		return err
	}
	return checkBodyMD5(ps, []byte(r.body))
}

// sign adds the signature that the vectors' key makes.
func (r apiRequest) sign() apiRequest {
	ps, err := sign.ParseParams(nil, r.query)
	if err != nil {
		panic(err)
	}
	r.query += "&auth_signature=" + string(vectorKeys[1].Sign(nil, sign.RequestText(nil, r.method, r.path, ps)))
	return r
}

var requestVectors = []struct {
	name, method, path, query, body, digest string
}{
	{"V9", "POST", "/apps/3/events", "&body_md5=ec365a775a4cd0599faeb73354201b6f", `{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}`,
		"da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"},
	{"V10", "GET", "/apps/3/channels", "&filter_by_prefix=presence-&info=user_count,subscription_count", "",
		"ff97d40ab3fbbd15394386a29c12998c33635305357b2e2abd18dc67efe3f87d"},
	{"V11", "GET", "/apps/3/channels", "", "", "1cafa6382331c976588eb6bd3925a988e4158402be06c4626d0e97d2981f5382"},
	{"V12", "GET", "/apps/3/channels", "&body_md5=d41d8cd98f00b204e9800998ecf8427e", "", // the Python library
		"5c3cd75022c4f62c35ad22f6a9cce366c860477a3b7092ca790ecfc17e6af302"},
	{"V13", "POST", "/apps/3/users/12345/terminate_connections", "&body_md5=99914b932bd37a50b983c5e7c90ae93b", "{}",
		"01fa634edeb0cae84115307cad5c23f65a46cd286461b1c89637a3b5871a8f0e"},
	{"V14", "POST", "/apps/3/events", "&channels[]=c1&channels[]=c2&name=foo", "",
		"f8b12c527610b5d37a6bbda4852e6dad872d1f7df72e42ee9277c5317a43b730"},
	{"V15", "POST", "/apps/3/batch_events", "&body_md5=39e691c1f6a83daf77df2397111bfd98", `{"batch":[{"channel":"project-3","name":"foo","data":"{\"some\":\"data\"}"}]}`,
		"9df3472fb01f5d693bc9bd922118eb51e8268ac59841d3c6e3c37d488a837534"},
}

// mutations each change one thing of a request. One that does not apply to a request leaves it as it is.
var mutations = []struct {
	name, part string // part stands in the error
	change     func(*apiRequest)
}{
	{"method lower case", `Hex("post\n`, func(r *apiRequest) { r.method = strings.Replace(r.method, "POST", "post", 1) }},
	{"method get", `Hex("get\n`, func(r *apiRequest) { r.method = strings.Replace(r.method, "GET", "get", 1) }},
	{"method PUT", `Hex("PUT\n`, func(r *apiRequest) { r.method = "PUT" }},
	{"method HEAD", `Hex("HEAD\n`, func(r *apiRequest) { r.method = "HEAD" }},
	{"method empty", `Hex("\n`, func(r *apiRequest) { r.method = "" }},
	{"path slash", `/\n`, func(r *apiRequest) { r.path += "/" }},
	{"path //", "Invalid signature", func(r *apiRequest) { r.path = "/" + r.path }},
	{"path no slash", `\napps/3`, func(r *apiRequest) { r.path = r.path[1:] }},
	{"path other app", "/apps/4/", func(r *apiRequest) { r.path = strings.Replace(r.path, "3", "4", 1) }},
	{"path cut", "Invalid signature", func(r *apiRequest) { r.path = r.path[:len(r.path)-1] }},
	{"path upper case", "/APPS/", func(r *apiRequest) { r.path = strings.ToUpper(r.path) }},
	{"path escaped", "%33", func(r *apiRequest) { r.path = strings.Replace(r.path, "3", "%33", 1) }},
	{"path prefixed", "/base/apps/", func(r *apiRequest) { r.path = "/base" + r.path }},
	{"path with query", "Invalid signature", func(r *apiRequest) { r.path += "?" }},
	{"path with newline", "Invalid signature", func(r *apiRequest) { r.path += "\n" }},
	{"path empty", "Invalid signature", func(r *apiRequest) { r.path = "" }},

	{"key missing", "Missing parameter: auth_key", inQuery("auth_key="+vectorName+"&", "")},
	{"key empty", `Unknown auth_key ""`, inQuery(vectorName, "")},
	{"key unknown", "Unknown auth_key", inQuery(vectorName, "278d425bdf160c739804")},
	{"key upper case", "Unknown auth_key", inQuery(vectorName, strings.ToUpper(vectorName))},
	{"key cut", "Unknown auth_key", inQuery(vectorName, vectorName[1:])},
	{"key with space", "Unknown auth_key", inQuery(vectorName, vectorName+"+")},
	{"key another of the app", "Invalid signature", inQuery(vectorName, "other")},
	{"key twice", "Duplicate query parameter: auth_key", inQuery("auth_key=", "auth_key="+vectorName+"&auth_key=")},
	{"key twice, upper case", "Duplicate query parameter: auth_key", inQuery("&auth_v", "&AUTH_KEY="+vectorName+"&auth_v")},
	{"key twice, escaped", "Duplicate query parameter: auth_key", inQuery("&auth_v", "&auth%5fkey="+vectorName+"&auth_v")},
	{"key an array", "Missing parameter: auth_key", inQuery("auth_key=", "auth_key[]=")},

	{"version missing", "Version required", inQuery("&auth_version=1.0", "")},
	{"version empty", "Version not supported", inQuery("auth_version=1.0", "auth_version=")},
	{"version 1", "Version not supported", inQuery("auth_version=1.0", "auth_version=1")},
	{"version 1.00", "Version not supported", inQuery("auth_version=1.0", "auth_version=1.00")},
	{"version 1.1", "Version not supported", inQuery("auth_version=1.0", "auth_version=1.1")},
	{"version with space", "Version not supported", inQuery("auth_version=1.0", "auth_version=1.0%20")},
	{"version swallows the next", "Version not supported", inQuery("auth_version=1.0&", "auth_version=1.0%26")},
	{"version twice", "Duplicate query parameter: auth_version", inQuery("&auth_version=1.0", "&auth_version=1.0&auth_version=1.0")},

	{"time missing", "Timestamp required", inQuery("&auth_timestamp=1353088179", "")},
	{"time empty", "Timestamp required", inQuery("1353088179", "")},
	{"time +1", "Invalid signature", inQuery("1353088179", "1353088180")},
	{"time -1", "Invalid signature", inQuery("1353088179", "1353088178")},
	{"time -600", "Invalid signature", inQuery("1353088179", "1353087579")},
	{"time -601", "Timestamp expired", inQuery("1353088179", "1353087578")},
	{"time +600", "Invalid signature", inQuery("1353088179", "1353088779")},
	{"time +601", "Timestamp expired", inQuery("1353088179", "1353088780")},
	{"time 0", "Timestamp expired", inQuery("1353088179", "0")},
	{"time negative", "Timestamp invalid", inQuery("1353088179", "-1353088179")},
	{"time with sign", "auth_timestamp=+1353088179", inQuery("1353088179", "%2B1353088179")},
	{"time with zero", "auth_timestamp=01353088179", inQuery("1353088179", "01353088179")},
	{"time with space", "Timestamp invalid", inQuery("1353088179", "+1353088179")},
	{"time in milliseconds", "Timestamp invalid", inQuery("1353088179", "1353088179000")},
	{"time a float", "Timestamp invalid", inQuery("1353088179", "1353088179.0")},
	{"time hexadecimal", "Timestamp invalid", inQuery("1353088179", "0x50A67A33")},
	{"time beyond int64", "Timestamp invalid", inQuery("1353088179", "18446744073709551617")},
	{"time max int64", "Timestamp invalid", inQuery("1353088179", "9223372036854775807")},
	{"time a word", "Timestamp invalid", inQuery("1353088179", "now")},
	{"time twice", "Duplicate query parameter: auth_timestamp", inQuery("&auth_v", "&auth_timestamp=1353088179&auth_v")},
	{"clock +601", "Timestamp expired", func(r *apiRequest) { r.clock = 601 * time.Second }},
	{"clock -601", "Timestamp expired", func(r *apiRequest) { r.clock = -601 * time.Second }},
	{"clock +600.001", "off by 10m0s", func(r *apiRequest) { r.clock = authWindow + time.Millisecond }},
	{"clock a century off", "Timestamp expired", func(r *apiRequest) { r.clock = 876_000 * time.Hour }},

	{"signature missing", `you sent ""`, func(r *apiRequest) { r.query, _, _ = strings.Cut(r.query, "&auth_signature=") }},
	{"signature empty", `you sent ""`, func(r *apiRequest) { r.query = r.query[:len(r.query)-64] }},
	{"signature upper case", "Invalid signature", func(r *apiRequest) { r.query = r.query[:len(r.query)-64] + strings.ToUpper(r.query[len(r.query)-64:]) }},
	{"signature cut", "Invalid signature", func(r *apiRequest) { r.query = r.query[:len(r.query)-1] }},
	{"signature longer", "Invalid signature", func(r *apiRequest) { r.query += "0" }},
	{"signature with space", "Invalid signature", func(r *apiRequest) { r.query += "+" }},
	{"signature with NUL", "Invalid signature", func(r *apiRequest) { r.query += "%00" }},
	{"signature twice", "Duplicate query parameter: auth_signature", func(r *apiRequest) { r.query += "&auth_signature=" + r.query[len(r.query)-64:] }},
	{"signature twice, first wrong", "Duplicate query parameter: auth_signature", func(r *apiRequest) { r.query = "auth_signature=0&" + r.query }},
	{"signature an array", `you sent ""`, inQuery("auth_signature=", "auth_signature[]=")},

	{"added parameter", "&foo=bar", func(r *apiRequest) { r.query += "&foo=bar" }},
	{"added before all", `\na=&auth_key=`, func(r *apiRequest) { r.query = "a=&" + r.query }},
	{"added without =", "&zzz=", func(r *apiRequest) { r.query += "&zzz" }},
	{"added without name", `\n=1&`, func(r *apiRequest) { r.query += "&=1" }},
	{"added array", "&x[]=1", func(r *apiRequest) { r.query += "&x[]=1" }},
	{"bad escape", "Invalid query parameter", func(r *apiRequest) { r.query += "&x=%zz" }},
	{"short escape", "Invalid query parameter", func(r *apiRequest) { r.query += "&x=%2" }},
	{"bad escape in a name", "Invalid query parameter", func(r *apiRequest) { r.query += "&%=1" }},
	{"query empty", "Missing parameter: auth_key", func(r *apiRequest) { r.query = "" }},

	{"array reordered", "Invalid signature", inQuery("channels[]=c1&channels[]=c2", "channels[]=c2&channels[]=c1")},
	{"array shorter", "Invalid signature", inQuery("channels[]=c1&", "")},
	{"array longer", "Invalid signature", inQuery("channels[]=c1", "channels[]=c1&channels[]=c1")},
	{"array joined", "Invalid signature", inQuery("channels[]=c1&channels[]=c2", "channels=c1,c2")},
	{"array without brackets", "Duplicate query parameter: channels", inQuery("channels[]=c1&channels[]=c2", "channels=c1&channels=c2")},
	{"array indexed", "Invalid signature", inQuery("channels[]=c1&channels[]=c2", "channels[0]=c1&channels[1]=c2")},
	{"value with +", "presence- ", inQuery("presence-", "presence-+")},
	{"value with %2B", "presence-+", inQuery("presence-", "presence-%2B")},
	{"value escaped twice", "user_count%2C", inQuery("user_count,", "user_count%252C")},
	{"value upper case", "PRESENCE-", inQuery("presence-", "PRESENCE-")},
	{"value twice", "Duplicate query parameter: info", inQuery("info=", "info=user_count&info=")},
	{"value moved", "Invalid signature", inQuery("filter_by_prefix=presence-&info=user_count", "filter_by_prefix=user_count&info=presence-")},

	{"MD5 missing", "Invalid signature", func(r *apiRequest) { // as long as its value, wherever it stands
		if i := strings.Index(r.query, "&body_md5="); i >= 0 {
			r.query = r.query[:i] + r.query[i+len("&body_md5=")+32:]
		}
	}},
	{"MD5 of the empty body", "Invalid signature", func(r *apiRequest) {
		if i := strings.Index(r.query, "&body_md5="); i >= 0 {
			i += len("&body_md5=")
			r.query = r.query[:i] + "d41d8cd98f00b204e9800998ecf8427e" + r.query[i+32:]
		}
	}},
	{"MD5 upper case", "Invalid signature", func(r *apiRequest) {
		if i := strings.Index(r.query, "&body_md5="); i >= 0 {
			i += len("&body_md5=")
			r.query = r.query[:i] + strings.ToUpper(r.query[i:i+32]) + r.query[i+32:]
		}
	}},
	{"MD5 twice", "Duplicate query parameter: body_md5", inQuery("&body_md5=", "&body_md5=1&body_md5=")},
	{"body longer", "body_md5", func(r *apiRequest) { r.body += " " }},
	{"body a newline longer", "body_md5", func(r *apiRequest) { r.body += "\n" }},
	{"body shorter", "Invalid body_md5", func(r *apiRequest) { r.body = r.body[:max(0, len(r.body)-1)] }},
	{"body gone", "Invalid body_md5", func(r *apiRequest) { r.body = "" }},
	{"body changed", "Invalid body_md5", func(r *apiRequest) { r.body = strings.Replace(r.body, "{", "[", 1) }},
}

// inQuery replaces the first old in the query.
func inQuery(old, new string) func(*apiRequest) {
	return func(r *apiRequest) { r.query = strings.Replace(r.query, old, new, 1) }
}

func TestRequestVectors(t *testing.T) {
	for _, v := range requestVectors {
		t.Run(v.name, func(t *testing.T) {
			ps, err := sign.ParseParams(nil, vectorPrefix+v.query)
			if err != nil {
				t.Fatal(err)
			}
			text := sign.RequestText([]byte("x"), v.method, v.path, ps)
			if want := "x" + v.method + "\n" + v.path + "\n" + vectorPrefix + v.query; string(text) != want {
				t.Errorf("signed text: got %q, want %q", text, want)
			}
			if got := string(vectorKeys[1].Sign(nil, text[1:])); got != v.digest {
				t.Fatalf("signature of %q: got %s, want %s", text[1:], got, v.digest)
			}
			good := apiRequest{v.method, v.path, vectorPrefix + v.query + "&auth_signature=" + v.digest, v.body, 0}
			for name, r := range map[string]apiRequest{
				"as it is":        good,
				"clock +600":      {good.method, good.path, good.query, good.body, authWindow},
				"clock -600":      {good.method, good.path, good.query, good.body, -authWindow},
				"signature first": {good.method, good.path, "auth_signature=" + v.digest + v.query + "&" + vectorPrefix, good.body, 0},
				"brackets, commas escaped": {good.method, good.path,
					strings.NewReplacer("[", "%5B", "]", "%5d", ",", "%2C").Replace(good.query), good.body, 0},
				"names in upper case": {good.method, good.path, strings.Replace(good.query, "auth_", "AUTH_", 4), good.body, 0},
				"empty parts":         {good.method, good.path, "&" + strings.ReplaceAll(good.query, "&", "&&") + "&", good.body, 0},
			} {
				if err := r.check(); err != nil {
					t.Errorf("%s: refused: %v", name, err)
				}
			}
			count := 0
			refuse := func(name, part string, r apiRequest) {
				t.Helper()
				if r == good {
					return
				}
				count++
				if err := r.check(); err == nil {
					t.Errorf("%s: passes: %+v", name, r)
				} else if !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), vectorSecret) {
					t.Errorf("%s: got %q, want an error with %q and without the secret", name, err, part)
				}
			}
			for i := range 64 {
				r := good
				at := len(r.query) - 64 + i
				r.query = r.query[:at] + string(r.query[at]^1) + r.query[at+1:]
				refuse(fmt.Sprintf("signature, character %d", i), "Invalid signature", r)
			}
			for _, m := range mutations {
				r := good
				m.change(&r)
				refuse(m.name, m.part, r)
			}
			if count < 64+40 {
				t.Errorf("only %d mutations apply", count)
			}
		})
	}
}

// TestSignedMutations are requests with a signature that is right for them, but which must be refused nevertheless.
func TestSignedMutations(t *testing.T) {
	const md5OfHello = "5d41402abc4b2a76b9719d911017c592"
	at := func(stamp string) string { return strings.Replace(vectorPrefix, "1353088179", stamp, 1) }
	for _, test := range []struct{ name, query, body, part string }{
		{"good", vectorPrefix, "", ""},
		{"good with a body", vectorPrefix + "&body_md5=" + md5OfHello, "hello", ""},
		{"good at -600", at("1353087579"), "", ""},
		{"good at +600", at("1353088779"), "", ""},
		{"old", at("1353087578"), "", "Timestamp expired: Given timestamp (2012-11-16T17:39:38Z) not within 600s of server time (2012-11-16T17:49:39Z): " +
			"off by 10m1s; set the clocks, or the server's -auth-window (0 for no check)"},
		{"early", at("1353088780"), "", "Timestamp expired"},
		{"at 0", at("0"), "", "Timestamp expired"},
		{"in milliseconds", at("1353088179000"), "", "Timestamp invalid"},
		{"negative", at("-1"), "", "Timestamp invalid"},
		{"no timestamp", "auth_key=" + vectorName + "&auth_version=1.0", "", "Timestamp required"},
		{"no version", "auth_key=" + vectorName + "&auth_timestamp=1353088179", "", "Version required"},
		{"other version", strings.Replace(vectorPrefix, "1.0", "2.0", 1), "", "Version not supported"},
		{"no key", "auth_timestamp=1353088179&auth_version=1.0", "", "Missing parameter: auth_key"},
		{"other key", strings.Replace(vectorPrefix, "278d", "278e", 1), "", "Unknown auth_key"},
		{"body without MD5", vectorPrefix, "hello", "body_md5, required when there is a body"},
		{"empty MD5", vectorPrefix + "&body_md5=", "", "Invalid body_md5"},
		{"empty MD5 and a body", vectorPrefix + "&body_md5=", "hello", "Invalid body_md5"},
		{"MD5 of another body", vectorPrefix + "&body_md5=" + md5OfHello, "Hello", "Invalid body_md5"},
		{"MD5 and no body", vectorPrefix + "&body_md5=" + md5OfHello, "", "Invalid body_md5"},
		{"MD5 in upper case", vectorPrefix + "&body_md5=" + strings.ToUpper(md5OfHello), "hello", "Invalid body_md5"},
		{"MD5 too long", vectorPrefix + "&body_md5=" + md5OfHello + "0", "hello", "Invalid body_md5"},
		{"MD5 with a space", vectorPrefix + "&body_md5=+" + md5OfHello, "hello", "Invalid body_md5"},
	} {
		err := apiRequest{"POST", "/apps/3/events", test.query, test.body, 0}.sign().check()
		if test.part == "" && err != nil || test.part != "" && (err == nil || !strings.Contains(err.Error(), test.part)) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.part)
		}
	}
}

// TestArrayParams: the reference library signs an array value by value, PHP's joined by commas; both forms pass, but not one
// for the other.
func TestArrayParams(t *testing.T) {
	request := func(query string) apiRequest { return apiRequest{"POST", "/apps/3/events", query, "", 0} }
	list, joined := vectorPrefix+"&channels[]=c1&channels[]=c2", vectorPrefix+"&channels=c1,c2"
	for _, query := range []string{list, joined} {
		if err := request(query).sign().check(); err != nil {
			t.Errorf("%s: %v", query, err)
		}
	}
	_, signature, _ := strings.Cut(request(list).sign().query, "&auth_signature=")
	if request(joined+"&auth_signature="+signature).check() == nil {
		t.Error("the signature of one form passes for the other")
	}
	query, want := "", "" // so many that a sort which is not stable would mix them
	for i := range 50 {
		query += fmt.Sprintf("&c[]=%d&b%d=", i*7%50, i)
		want += fmt.Sprintf("&c[]=%d", i*7%50)
	}
	ps, err := sign.ParseParams(nil, query)
	if text := string(sign.RequestText(nil, "GET", "/x", ps)); err != nil || !strings.HasSuffix(text, want) {
		t.Errorf("got %q, %v, want it to end with %q", text, err, want)
	}
}

// TestPaths: a request may be signed over its path as it was sent or decoded.
func TestPaths(t *testing.T) {
	for _, signed := range []string{"/apps/3/users/a%20b", "/apps/3/users/a b", "/apps/3/users/a+b"} {
		r := apiRequest{"GET", signed, vectorPrefix, "", 0}.sign()
		ps, _ := sign.ParseParams(nil, r.query)
		err := checkRequest(vectorKeys, "GET", []string{"/apps/3/users/a%20b", "/apps/3/users/a b"}, ps, time.Unix(vectorTime, 0), authWindow)
		if ok := !strings.Contains(signed, "+"); ok != (err == nil) {
			t.Errorf("signed over %q: got %v, want it to pass: %v", signed, err, ok)
		}
	}
}

// TestSignedQuery: the requests of the vectors, signed as commands sign theirs, and one of everything that has to be escaped.
func TestSignedQuery(t *testing.T) {
	for _, c := range []struct {
		method, path string
		ps           sign.Params
		body, digest string
	}{
		{"POST", "/apps/3/events", nil, docBody, "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"},
		{"GET", "/apps/3/channels", sign.Params{{Name: "filter_by_prefix", Value: "presence-"}, {Name: "info", Value: "user_count,subscription_count"}}, "", "ff97d40ab3fbbd15394386a29c12998c33635305357b2e2abd18dc67efe3f87d"},
		{"GET", "/apps/3/channels", nil, "", "1cafa6382331c976588eb6bd3925a988e4158402be06c4626d0e97d2981f5382"},
		{"POST", "/apps/3/users/12345/terminate_connections", nil, "{}", "01fa634edeb0cae84115307cad5c23f65a46cd286461b1c89637a3b5871a8f0e"},
		{"GET", "/apps/3/channels", sign.Params{{Name: "x", Value: "a b+c&d=e%20/é#;"}}, "", ""},
	} {
		now := time.Unix(vectorTime, 0)
		query := vectorKeys[1].SignedQuery(c.method, c.path, c.ps, []byte(c.body), vectorTime)
		if !strings.Contains(query, "&auth_signature="+c.digest) {
			t.Errorf("%s %s: %s, want the signature %s", c.method, c.path, query, c.digest)
		}
		ps, err := sign.ParseParams(nil, query)
		if err == nil {
			err = checkRequest(vectorKeys, c.method, []string{c.path}, ps, now, authWindow)
		}
		if err == nil {
			err = checkBodyMD5(ps, []byte(c.body))
		}
		if err != nil {
			t.Errorf("%s %s: %s is refused: %v", c.method, c.path, query, err)
		}
		for _, p := range c.ps {
			if got := ps.Get(p.Name); got != p.Value {
				t.Errorf("%s is %q", p.Name, got)
			}
		}
	}
}

// TestClockNotSet: requests of any age are good while the clock of the machine stands before the build, and only then. The log
// says so once.
func TestClockNotSet(t *testing.T) {
	var lines bytes.Buffer
	log.SetOutput(&lines)
	defer log.SetOutput(errorOutput)
	s := serverOf(t, testOptions(t))
	boot, now := time.Unix(0, 0), time.Unix(1_800_000_000, 0) // a board without a battery
	s.clock.built = now.Add(-listen.Day)
	h := s.offlineHandler()
	for _, test := range []struct {
		clock, signed time.Time
		want          int
	}{
		{boot, now, 200},
		{boot, boot, 200},
		{s.clock.built.Add(-time.Second), now.Add(-10 * 365 * listen.Day), 200},
		{s.clock.built, s.clock.built, 200}, // the time has come over the network
		{s.clock.built, now, 401},
		{now, now, 200},
		{now, now.Add(-time.Hour), 401},
		{boot, now.Add(-time.Hour), 200}, // and is lost again
	} {
		s.clock.now = func() time.Time { return test.clock }
		if status, answer := publishAt(t, h, test.signed, "e"); status != test.want || status == 401 && !strings.Contains(answer, "-auth-window") {
			t.Errorf("signed at %s, clock at %s: %d %q, want %d", test.signed, test.clock, status, answer, test.want)
		}
	}
	if n := strings.Count(lines.String(), "the clock of this machine is not set"); n != 1 {
		t.Errorf("said %d times:\n%s", n, lines.String())
	}
	const unsigned = "/apps/1/channels?auth_key=key&auth_version=1.0&auth_signature=x"
	for query, want := range map[string]string{"": "Timestamp required", "&auth_timestamp=x": "Timestamp invalid", "&auth_timestamp=5": "Invalid signature"} {
		if status, answer := recordAPI(t, h, "GET", unsigned+query, ""); status != 401 || !strings.Contains(answer, want) {
			t.Errorf("%s: %d %q, want 401 and %s", query, status, answer, want)
		}
	}
}

// TestAuthWindow: with -auth-window 0 the age of requests does not count.
func TestAuthWindow(t *testing.T) {
	now := time.Now()
	for window, ages := range map[string]map[time.Duration]int{
		"0":  {0: 200, time.Hour: 200, -3650 * listen.Day: 200},
		"1h": {0: 200, time.Hour - time.Minute: 200, time.Minute - time.Hour: 200, time.Hour + time.Minute: 401, -3650 * listen.Day: 401},
	} {
		h := serverOf(t, testOptions(t, "-auth-window", window)).offlineHandler()
		for age, want := range ages {
			if status, answer := publishAt(t, h, now.Add(-age), "e"); status != want {
				t.Errorf("-auth-window %s, %s ago: %d %q, want %d", window, age, status, answer, want)
			}
		}
	}
}

// TestBuiltAt: the linker's time counts if it can be right.
func TestBuiltAt(t *testing.T) {
	defer func(b string) { built = b }(built)
	for _, stamp := range []string{"", "yesterday", "2026-01-02T03:04:05Z"} {
		built = stamp
		if at := builtAt(); at.Before(sourceTime) || at.After(time.Now()) {
			t.Errorf("%q: %s", stamp, at)
		}
	}
	if built = "2999-01-02T03:04:05Z"; builtAt().Year() != 2999 {
		t.Errorf("%s: %s", built, builtAt())
	}
}
