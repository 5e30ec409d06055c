package wire

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"edge/internal/edgetest"
)

func TestParseChannel(t *testing.T) {
	const (
		private, presence = KindPrivate, KindPrivate | KindPresence
		encrypted         = KindPrivate | KindEncrypted
		invalid           = ^Kind(0)
	)
	for name, want := range map[string]Kind{
		"a": KindPublic, "my-channel": KindPublic, "AZaz09_-=@,.;": KindPublic, "-": KindPublic, "1": KindPublic,
		"private-a": private, "private-": private, "private--": private, "private-private-a": private, "private-presence-a": private,
		"private-cache-a": private | KindCache, "private-cache-": private | KindCache, "private-cachea": private, "private-cache": private,
		"private-encrypted-a": encrypted, "private-encrypted-": encrypted, "private-encrypted": private, "private-encrypteda": private,
		"private-encrypted-cache-a": encrypted | KindCache, "private-encrypted-cache-": encrypted | KindCache,
		"private-encrypted-cache": encrypted, "private-cache-encrypted-a": private | KindCache,
		"presence-a": presence, "presence-": presence, "presence-cache-a": presence | KindCache, "presence-cache": presence,
		"presence-encrypted-a": presence, "presence-encrypted-cache-a": presence,
		"cache-a": KindCache, "cache-": KindCache, "cache-private-a": KindCache, "cache-presence-a": KindCache,
		"#server-to-user-1": KindUser, "#server-to-user-a=@,.;b": KindUser, "#server-to-user--": KindUser, "#server-to-user-private-a": KindUser,

		"privateer": KindPublic, "private": KindPublic, "Private-a": KindPublic, "PRIVATE-a": KindPublic, "private_a": KindPublic,
		"private.a": KindPublic, "xprivate-a": KindPublic, "-private-a": KindPublic, "privat-e": KindPublic,
		"presence": KindPublic, "presences": KindPublic, "mypresence-x": KindPublic, "Presence-x": KindPublic,
		"cache": KindPublic, "cached": KindPublic, "mycache-x": KindPublic, "my-cache-x": KindPublic, "Cache-x": KindPublic,
		"encrypted-x": KindPublic, "server-to-user-1": KindPublic,

		"": invalid, "#": invalid, "##": invalid, "#x": invalid, "#a#": invalid, "a#": invalid, "#private-a": invalid, "#presence-a": invalid,
		"#cache-a": invalid, "#server-to-user": invalid, "#server-to-user-": invalid, "#server-to-user-a#": invalid, "##server-to-user-a": invalid,
		"#Server-to-user-a": invalid, "#server-to-user_a": invalid, "private-#server-to-user-a": invalid, "#server-to-user-#server-to-user-a": invalid,
		"a:b": invalid, "a b": invalid, " a": invalid, "a ": invalid, "a\n": invalid, "a/b": invalid, "../a": invalid, "%2e": invalid, "a+b": invalid,
		"a\x00": invalid, "a\u202e": invalid, "é": invalid, "a\"b": invalid, `a\b`: invalid, "a!": invalid, "a*": invalid, "a~": invalid, "private-a b": invalid,
	} {
		got, ok := ParseChannel(name, 200)
		if got2, ok2 := ParseChannel([]byte(name), 200); got2 != got || ok2 != ok {
			t.Errorf("%q: got %b, %v as bytes, %b, %v as a string", name, got2, ok2, got, ok)
		}
		if want == invalid && ok || want != invalid && (!ok || got != want) {
			t.Errorf("%q: got %b, %v, want %b", name, got, ok, want)
		}
	}
}

// TestParseChannelBytes has every byte at every place.
func TestParseChannelBytes(t *testing.T) {
	const legal = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-=@,.;"
	for c := range 256 {
		want := strings.IndexByte(legal, byte(c)) >= 0
		for _, format := range []string{"%s", "%sa", "a%s", "a%sb", "private-%s", "presence-cache-a%s", "#server-to-user-%s", "#server-to-user-%sa"} {
			name := fmt.Sprintf(format, []byte{byte(c)})
			if _, ok := ParseChannel(name, 200); ok != want {
				t.Errorf("%q: got %v, want %v", name, ok, want)
			}
		}
	}
}

func TestParseChannelLength(t *testing.T) {
	for _, prefix := range []string{"", "cache-", "private-", "private-encrypted-cache-", "presence-", "#server-to-user-"} {
		for _, limit := range []int{1, 32, 164, 200} {
			for n := max(1, len(prefix)+1); n < 210; n++ {
				name := prefix + strings.Repeat("x", n-len(prefix))
				if _, ok := ParseChannel(name, limit); ok != (n <= limit) {
					t.Errorf("%d bytes %.30s…, limit %d: got %v", n, name, limit, ok)
				}
			}
		}
	}
}

func TestSocketID(t *testing.T) {
	for s, want := range map[string]SocketID{
		"1.2": {1, 2}, "0.0": {0, 0}, "218483.9471823": {218483, 9471823}, "9007199254740991.1": {1<<53 - 1, 1},
		"18446744073709551615.18446744073709551615": {1<<64 - 1, 1<<64 - 1},
		// Of the form, but of no connection:
		"01.2": {}, "1.02": {}, "00.0": {}, "18446744073709551616.1": {}, "1.18446744073709551616": {},
		strings.Repeat("9", 100) + ".1": {}, "1." + strings.Repeat("1", 1000): {},
	} {
		id, ok := ParseSocketID(s)
		fromBytes, _ := ParseSocketID([]byte(s))
		if !ok || id != want || fromBytes != want {
			t.Errorf("%.50q: got %v, %v, from bytes %v, want %v", s, id, ok, fromBytes, want)
		}
		if want != (SocketID{}) && (id.String() != s || string(id.Append([]byte("x"))) != "x"+s) {
			t.Errorf("%s is written %s", s, id)
		}
	}
	for _, s := range []string{"", ".", "1", "1.", ".1", "1.2.3", "1..2", "-1.2", "1.-2", "+1.2", "1.+2", " 1.2", "1.2 ", "1.2\n", "1. 2", "1,2", "a.b", "1.a",
		"0x1.2", "1e3.2", "1_0.2", "1.2:", "1.2:private-a", "١.٢", "1.2\x00", "１.２"} {
		if id, ok := ParseSocketID(s); ok {
			t.Errorf("%q: accepted as %v", s, id)
		}
	}
	seen := make(map[SocketID]bool)
	for range 1000 {
		id := NewSocketID()
		if got, ok := ParseSocketID(id.String()); !ok || got != id || seen[id] || id.a >= 1<<53 || id.b >= 1<<53 {
			t.Fatalf("%s: got %v, %v; seen %v", id, got, ok, seen[id])
		}
		seen[id] = true
	}
}

func TestParseMember(t *testing.T) {
	long := strings.Repeat("é", MaxUserID)
	for _, test := range []struct{ data, id, info string }{ // no id: refused
		{`{"user_id":"10"}`, "10", "{}"},
		{`{"user_id":10}`, "10", "{}"},
		{`{"user_id":0}`, "0", "{}"},
		{`{"user_id":-1}`, "-1", "{}"},
		{`{"user_id":9007199254740993}`, "9007199254740993", "{}"}, // 2^53 + 1, which no float holds
		{`{"user_id":123456789012345678901234567890}`, "123456789012345678901234567890", "{}"},
		{`{"user_id":" "}`, " ", "{}"},
		{`{"user_id":"a\"\\\u00e9\n\ud83d\ude00"}`, "a\"\\é\n😀", "{}"},
		{`{"user_id":"null"}`, "null", "{}"},
		{`{"us\u0065r_id":"1"}`, "1", "{}"},
		{`{"user_id":"` + long + `"}`, long, "{}"}, // characters, not bytes
		{`{"user_id":` + strings.Repeat("9", MaxUserID) + `}`, strings.Repeat("9", MaxUserID), "{}"},
		{" { \"user_id\" : 1 , \"user_info\" : { \"a\" : [ 1 , 2.50 ] } } ", "1", `{"a":[1,2.50]}`},
		{`{"user_id":"1","user_info":null}`, "1", "{}"},
		{`{"user_info":{"name":"Mr. \u0041\/\u00e9"},"user_id":"1"}`, "1", `{"name":"Mr. \u0041\/\u00e9"}`}, // its bytes, not read
		{`{"user_id":"1","user_info":{"user_id":"2","user_id":"3"}}`, "1", `{"user_id":"2","user_id":"3"}`},
		{`{"user_id":"1","user_info":[]}`, "1", `[]`},
		{`{"user_id":"1","user_info":1e400}`, "1", `1e400`},
		{`{"user_id":"1","user_info":false}`, "1", `false`},
		{`{"user_id":"1","user_info":""}`, "1", `""`},
		{`{"user_id":"1","user_info":"\u0001\u0007\\\"\u007f"}`, "1", `"\u0001\u0007\\\"\u007f"`},
		{`{"user_id":"1","user_info":"\"\udb40\udc01"}`, "1", `"\"\udb40\udc01"`},
		{`{"user_id":"1","id":2,"x":{"user_id":3}}`, "1", "{}"},

		{`{}`, "", ""},
		{`{"user_id":""}`, "", ""},
		{`{"user_id":null}`, "", ""},
		{`{"user_id":true}`, "", ""},
		{`{"user_id":1.0}`, "", ""},
		{`{"user_id":1.5}`, "", ""},
		{`{"user_id":1e3}`, "", ""},
		{`{"user_id":1E3}`, "", ""},
		{`{"user_id":-1.0e-1}`, "", ""},
		{`{"user_id":01}`, "", ""},
		{`{"user_id":+1}`, "", ""},
		{`{"user_id":NaN}`, "", ""},
		{`{"user_id":{}}`, "", ""},
		{`{"user_id":{"user_id":1}}`, "", ""},
		{`{"user_id":[1]}`, "", ""},
		{`{"user_id":"` + long + `x"}`, "", ""},
		{`{"user_id":` + strings.Repeat("9", MaxUserID+1) + `}`, "", ""},
		{`{"User_id":1}`, "", ""},
		{`{"user_id":"1","user_id":"1"}`, "", ""},
		{`{"user_id":"1","user_id":"2"}`, "", ""},
		{`{"user_id":"1","us\u0065r_id":"2"}`, "", ""},
		{`{"\u0075ser_id":"1","x":1,"user_id":"2"}`, "", ""},
		{`{"user_id":"1","user_info":{},"user_info":{}}`, "", ""},
		{`{"user_id":"1"`, "", ""},
		{`{"user_id":"1"}x`, "", ""},
		{`{"user_id":"1",}`, "", ""},
		{`{"user_id":"` + "\x01" + `"}`, "", ""},
		{`{"user_id":"` + "\xff" + `"}`, "", ""},
		{`[{"user_id":"1"}]`, "", ""},
		{`"{\"user_id\":\"1\"}"`, "", ""},
		{`1`, "", ""},
		{`null`, "", ""},
		{``, "", ""},
		{`{"user_id":"1","x":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + `}`, "", ""},
	} {
		data := []byte(test.data)
		id, info, err := ParseMember(data)
		clear(data) // what came out is a copy
		ParseMember([]byte(`{"user_id":"another","user_info":{"of":"the parser"}}`))
		if id != test.id || string(info) != test.info || (err == nil) != (test.id != "") {
			t.Errorf("%.100s: got %q, %s, %v, want %q, %s", test.data, id, info, err, test.id, test.info)
		}
		if err == nil && !json.Valid(info) {
			t.Errorf("%.100s: user_info %s is not valid JSON", test.data, info)
		}
	}
}

func TestParseUser(t *testing.T) {
	list := func(from, to int) string {
		var ids []string
		for i := from; i < to; i++ {
			ids = append(ids, fmt.Sprintf(`"%d"`, i))
		}
		return strings.Join(ids, ",")
	}
	long := strings.Repeat("x", MaxUserID)
	for _, test := range []struct {
		data, id, info string // no id: refused
		watchlist      string // JSON without brackets
		excess         bool
	}{
		{`{"id":"12345"}`, "12345", "{}", "", false},
		{`{"id":"1","user_info":{"a" : 1},"watchlist":["2","3"]}`, "1", `{"a":1}`, `"2","3"`, false},
		{`{"id":"1","watchlist":[]}`, "1", "{}", "", false},
		{`{"id":"1","watchlist":null,"user_info":null}`, "1", "{}", "", false},
		{`{"i\u0064":"1","watchlist":["1"]}`, "1", "{}", `"1"`, false}, // oneself
		{`{"id":"1","watchlist":["2","3","2","\u0032","3"]}`, "1", "{}", `"2","3"`, false},
		{`{"id":"1","user_info":"\u0001"}`, "1", `"\u0001"`, "", false},
		{`{"id":"` + long + `"}`, long, "{}", "", false},
		{`{"id":"1","watchlist":[` + list(0, 100) + `]}`, "1", "{}", list(0, 100), false},
		{`{"id":"1","watchlist":[` + list(0, 100) + `,` + list(0, 100) + `]}`, "1", "{}", list(0, 100), false}, // the same hundred
		{`{"id":"1","watchlist":[` + list(0, 101) + `]}`, "1", "{}", list(0, 100), true},
		{`{"id":"1","watchlist":[` + list(0, 50) + `,` + list(0, 101) + `]}`, "1", "{}", list(0, 100), true},
		{`{"id":"1","watchlist":[` + list(0, 1000) + `]}`, "1", "{}", list(0, 100), true},

		{`{}`, "", "", "", false},
		{`{"id":""}`, "", "", "", false},
		{`{"id":null}`, "", "", "", false},
		{`{"id":1}`, "", "", "", false},
		{`{"id":"a b"}`, "", "", "", false}, // #server-to-user-a b is no channel
		{`{"id":"é"}`, "", "", "", false},
		{`{"id":["1"]}`, "", "", "", false},
		{`{"user_id":"1"}`, "", "", "", false},
		{`{"id":"1","id":"1"}`, "", "", "", false},
		{`{"id":"1","\u0069d":"2"}`, "", "", "", false},
		{`{"id":"1","watchlist":[],"watchlist":[]}`, "", "", "", false},
		{`{"id":"` + long + `x"}`, "", "", "", false},
		{`{"id":"1","watchlist":"2"}`, "", "", "", false},
		{`{"id":"1","watchlist":{}}`, "", "", "", false},
		{`{"id":"1","watchlist":[2]}`, "", "", "", false},
		{`{"id":"1","watchlist":["2",null]}`, "", "", "", false},
		{`{"id":"1","watchlist":[""]}`, "", "", "", false},
		{`{"id":"1","watchlist":[["2"]]}`, "", "", "", false},
		{`[]`, "", "", "", false},
		{`{"id":"1"`, "", "", "", false},
		{``, "", "", "", false},
	} {
		data := []byte(test.data)
		u, excess, err := ParseUser(data)
		clear(data)
		ParseUser([]byte(`{"id":"another","user_info":{"of":"the parser"},"watchlist":["x"]}`))
		if test.id == "" {
			if err == nil {
				t.Errorf("%.80s: accepted as %+v", test.data, u)
			}
			continue
		}
		watchlist, _ := json.Marshal(append([]string{}, u.Watchlist...))
		if got := strings.Trim(string(watchlist), "[]"); err != nil || u.ID != test.id || string(u.Info) != test.info || got != test.watchlist || excess != test.excess {
			t.Errorf("%.80s: got %q, %s, %v, %v, %v, want %q, %s, %v, %v", test.data, u.ID, u.Info, u.Watchlist, excess, err, test.id, test.info, test.watchlist, test.excess)
		}
	}
}

func TestParseMessage(t *testing.T) {
	for _, test := range []struct{ frame, event, channel, data string }{ // no event: refused
		{`{"event":"pusher:ping"}`, "pusher:ping", "", ""}, // the Java client
		{`{"event":"pusher:ping","data":{}}`, "pusher:ping", "", "{}"},
		{`{"event":"client-x","channel":"private-a","data":{"x":1}}`, "client-x", "private-a", `{"x":1}`},
		{` { "data" : [ 1 , "\u0041" ] , "event" : "client-x" } `, "client-x", "", `[1,"\u0041"]`},
		{`{"event":"client-\u0062\"\n","data":null}`, "client-b\"\n", "", "null"},
		{`{"event":"a","data":null}`, "a", "", ""},
		{`{"ev\u0065nt":"a"}`, "a", "", ""},
		{`{"event":"a","channel":null}`, "a", "", ""},
		{`{"event":"client-a","data":"text"}`, "client-a", "", `"text"`},
		{`{"event":"a","user_id":"1","user_id":"2","other":{}}`, "a", "", ""},
		{`{"event":"pusher:a","data":{"event":"b","event":"c"}}`, "pusher:a", "", `{"event":"b","event":"c"}`},
		{`{"event":"a","data":{"event":"b"}}`, "a", "", ""},

		{`{}`, "", "", ""},
		{`[]`, "", "", ""},
		{`"event"`, "", "", ""},
		{`null`, "", "", ""},
		{`{"event":""}`, "", "", ""},
		{`{"event":null}`, "", "", ""},
		{`{"event":1}`, "", "", ""},
		{`{"event":["a"]}`, "", "", ""},
		{`{"event":{"event":"a"}}`, "", "", ""},
		{`{"Event":"a"}`, "", "", ""},
		{`{"data":{},"channel":"a"}`, "", "", ""},
		{`{"event":"a","channel":1}`, "", "", ""},
		{`{"event":"a","channel":["b"]}`, "", "", ""},
		{`{"event":"a","event":"a"}`, "", "", ""},
		{`{"event":"a","ev\u0065nt":"b"}`, "", "", ""},
		{`{"ev\u0065nt":1,"event":"b"}`, "", "", ""},
		{`{"event":"a","channel":"b","channel":"c"}`, "", "", ""},
		{`{"event":"a","data":1,"d\u0061ta":2}`, "", "", ""},
	} {
		if _, _, err := CheckJSON([]byte(test.frame), socketDepth, SocketValues); err != nil {
			t.Fatal(test.frame, err)
		}
		m, err := readMessage(new([]byte), []byte(test.frame))
		if test.event == "" {
			if err == nil {
				t.Errorf("%s: accepted", test.frame)
			}
			continue
		}
		data := string(m.Data)
		if err != nil || string(m.Event) != test.event || string(m.Channel) != test.channel || data != test.data {
			t.Errorf("%s: got %q, %q, %s, %v, want %q, %q, %s", test.frame, m.Event, m.Channel, data, err, test.event, test.channel, test.data)
		}
	}
}

func readMessage(buffer *[]byte, text []byte) (*Message, error) {
	m := &Message{Buffer: buffer}
	return m, m.Parse(text)
}

// withData is a message with this data.
func withData(data Value) *Message { return &Message{Data: data, Buffer: new([]byte)} }

// bothForms returns data as it is and as the string that slanger's clients send.
func bothForms(data string) [2]Value { return [2]Value{Value(data), quoted(data)} }

func TestParseSubscribe(t *testing.T) {
	for _, test := range []struct{ data, channel, auth, channelData string }{ // no channel: refused
		{`{"channel":"a"}`, "a", "", ""},
		{`{"auth":"","channel":"my-channel"}`, "my-channel", "", ""},
		{`{"auth":"KEY:SIG","channel":"private-foobar"}`, "private-foobar", "KEY:SIG", ""},
		{`{"auth":"K:S","channel_data":"{\"user_id\":\"\\u0041\"}","channel":"presence-a"}`, "presence-a", "K:S", `{"user_id":"\u0041"}`}, // byte for byte
		{`{"channel":"a","auth":null,"channel_data":null}`, "a", "", ""},
		{`{"ch\u0061nnel":"\u0061"}`, "a", "", ""},
		{`{"channel":"not \u0000 checked here"}`, "not \x00 checked here", "", ""},
		{`{"channel":"a","x":1,"x":2}`, "a", "", ""},

		{`{}`, "", "", ""},
		{`[]`, "", "", ""},
		{`1`, "", "", ""},
		{`null`, "", "", ""},
		{`["channel"]`, "", "", ""},
		{`{"channel":""}`, "", "", ""},
		{`{"channel":null}`, "", "", ""},
		{`{"channel":1}`, "", "", ""},
		{`{"channel":["a"]}`, "", "", ""},
		{`{"channel":"a","auth":1}`, "", "", ""},
		{`{"channel":"a","auth":{}}`, "", "", ""},
		{`{"channel":"a","channel_data":{"user_id":"1"}}`, "", "", ""},
		{`{"channel":"a","channel":"b"}`, "", "", ""},
		{`{"channel":"a","ch\u0061nnel":"b"}`, "", "", ""},
		{`{"channel":"a","auth":"x","auth":"x"}`, "", "", ""},
		{`{"channel":"a","channel_data":"{}","channel_dat\u0061":"{}"}`, "", "", ""},
	} {
		for form, data := range bothForms(test.data) {
			r, err := withData(data).ParseSubscribe()
			if test.channel == "" && err == nil {
				t.Errorf("%s (form %d): accepted", test.data, form)
			} else if test.channel != "" && (err != nil || string(r.Channel) != test.channel || string(r.Auth) != test.auth || string(r.ChannelData) != test.channelData) {
				t.Errorf("%s (form %d): got %q, %q, %s, %v, want %q, %q, %s", test.data, form, r.Channel, r.Auth, r.ChannelData, err, test.channel, test.auth, test.channelData)
			}
		}
	}
	for _, data := range []string{`""`, `"channel"`, `"{"`, `"{\"channel\":\"a\"}x"`, `"\"{\\\"channel\\\":\\\"a\\\"}\""`, `"[[[[[[[[[[[[[[[[["`, "\"{\\\"channel\\\":\\\"\\u0001\\\"}\""} {
		if r, err := withData(Value(data)).ParseSubscribe(); err == nil {
			t.Errorf("%s: accepted as %q", data, r)
		}
	}
	if _, err := withData(nil).ParseSubscribe(); err == nil {
		t.Error("no data: accepted")
	}
}

func TestParseSignin(t *testing.T) {
	for _, test := range []struct{ data, auth, userData, problem string }{
		{`{"auth":"K:S","user_data":"{\"id\":\"1\"}"}`, "K:S", `{"id":"1"}`, ""},
		{`{"user_data":"{}","auth":"x","channel":"a"}`, "x", "{}", ""},
		{`{}`, "", "", "Missing parameter: data.auth"},
		{`{"auth":"K:S"}`, "", "", "Missing parameter: data.user_data"},
		{`{"auth":"","user_data":"{}"}`, "", "", "Missing parameter: data.auth"},
		{`{"auth":"K:S","user_data":""}`, "", "", "Missing parameter: data.user_data"},
		{`{"auth":"K:S","user_data":null}`, "", "", "Missing parameter: data.user_data"},
		{`{"auth":"K:S","user_data":{"id":"1"}}`, "", "", `"user_data" must be a string`},
		{`{"auth":1,"user_data":"{}"}`, "", "", `"auth" must be a string`},
		{`{"auth":"a","auth":"b","user_data":"{}"}`, "", "", `"auth" stands twice`},
		{`{"auth":"a","user_data":"{}","user\u005fdata":"{}"}`, "", "", `"user_data" stands twice`},
		{`[]`, "", "", "expected an object"},
	} {
		for form, data := range bothForms(test.data) {
			r, err := withData(data).ParseSignin()
			if test.problem != "" && (err == nil || err.Error() != test.problem) {
				t.Errorf("%s (form %d): got %v, want %s", test.data, form, err, test.problem)
			} else if test.problem == "" && (err != nil || string(r.Auth) != test.auth || string(r.UserData) != test.userData) {
				t.Errorf("%s (form %d): got %q, %s, %v, want %q, %s", test.data, form, r.Auth, r.UserData, err, test.auth, test.userData)
			}
		}
	}
	if _, err := withData(nil).ParseSignin(); err == nil {
		t.Error("no data: accepted")
	}
}

func TestAppendLiteral(t *testing.T) {
	for data, want := range map[string]string{
		`{"x":1}`:                        `"{\"x\":1}"`,
		` { "x" : [ 1 , 2.50 ] } `:       `"{\"x\":[1,2.50]}"`,
		`"text"`:                         `"text"`,
		`""`:                             `""`,
		`"\u0041\/\ud800\n"`:             `"\u0041\/\ud800\n"`, // its bytes
		`{"\u0041":"\u0042\n\"","é":0}`:  `"{\"\\u0041\":\"\\u0042\\n\\\"\",\"é\":0}"`,
		`null`:                           `"null"`,
		`true`:                           `"true"`,
		`-1e400`:                         `"-1e400"`,
		`[]`:                             `"[]"`,
		"\"\x7f\u2028\U000e0001\"":       "\"\x7f\u2028\U000e0001\"",
		"[\"\x7f\u2028\U000e0001\\\"\"]": "\"[\\\"\x7f\u2028\U000e0001\\\\\\\"\\\"]\"",
	} {
		if got := string(member(t, data).Literal()); got != want {
			t.Errorf("%s: got %s, want %s", data, got, want)
		}
	}
	if got := string(Value(nil).Literal()); got != `"null"` {
		t.Errorf("no data: got %s", got)
	}
}

// member reads data as a member of an object.
func member(t *testing.T, data string) Value {
	t.Helper()
	var f [1]Value
	if _, err := ParseObject(nil, []byte(`{"a":`+data+"}"), socketDepth, SocketValues, []string{"a"}, f[:]); err != nil {
		t.Fatal(data, err)
	}
	return f[0]
}

func TestReservedEvent(t *testing.T) {
	for name, want := range map[string]bool{
		"pusher:ping": true, "pusher:": true, "pusher_internal:x": true, "pusher_internal:": true,
		"": false, "pusher": false, "pusher_internal": false, "Pusher:x": false, " pusher:x": false, "xpusher:": false, "client-pusher:x": false, "pusher-x": false,
	} {
		if got := ReservedEvent(name); got != want || ReservedEvent([]byte(name)) != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
}

// TestServerFrames has every frame the server sends as it stands in the protocol reference.
func TestServerFrames(t *testing.T) {
	odd, oddInfo := "a\"\\\n\u2028", `{"q":"\"\\\n"}`
	x := []byte("x")
	for _, test := range []struct {
		name  string
		frame []byte
		want  string
	}{
		{"established", AppendEstablished(x, SocketID{218483, 9471823}, 120*time.Second),
			`{"event":"pusher:connection_established","data":"{\"socket_id\":\"218483.9471823\",\"activity_timeout\":120}"}`},
		{"established, never 0", AppendEstablished(x, SocketID{1, 2}, 100*time.Millisecond),
			`{"event":"pusher:connection_established","data":"{\"socket_id\":\"1.2\",\"activity_timeout\":1}"}`},
		{"established, whole seconds", AppendEstablished(x, SocketID{1<<64 - 1, 0}, 2999*time.Millisecond),
			`{"event":"pusher:connection_established","data":"{\"socket_id\":\"18446744073709551615.0\",\"activity_timeout\":2}"}`},
		{"pong", append([]byte("x"), PongFrame...), `{"event":"pusher:pong","data":"{}"}`},
		{"error", AppendError(x, 0, "Existing subscription to channel my-channel", ""),
			`{"event":"pusher:error","data":{"code":null,"message":"Existing subscription to channel my-channel"}}`},
		{"error with code", AppendError(x, 4001, `App key "x"`, ""), `{"event":"pusher:error","data":{"code":4001,"message":"App key \"x\""}}`},
		{"error with channel", AppendError(x, CodeClientEventRate, "rate\n", "private-a\"\xff"),
			`{"event":"pusher:error","data":{"code":4301,"message":"rate\n"},"channel":"private-a\"` + "\ufffd" + `"}`},
		{"subscription_error", AppendSubscriptionError(x, []byte("private-x"), &SubscriptionError{"AuthError", "The connection is unauthorized.", 401}),
			`{"event":"pusher:subscription_error","channel":"private-x","data":{"type":"AuthError","error":"The connection is unauthorized.","status":401}}`},
		{"subscription_error, bad name", AppendSubscriptionError(x, []byte("\"\x00"), &SubscriptionError{"InvalidChannel", "\"\\", 400}),
			`{"event":"pusher:subscription_error","channel":"\"\u0000","data":{"type":"InvalidChannel","error":"\"\\","status":400}}`},
		{"succeeded", AppendSucceeded(x, "my-channel", nil), `{"event":"pusher_internal:subscription_succeeded","channel":"my-channel","data":"{}"}`},
		{"succeeded, two members", AppendSucceeded(x, "presence-foobar", eachOf("10", `{"name":"A"}`, "11", `{}`)),
			`{"event":"pusher_internal:subscription_succeeded","channel":"presence-foobar","data":"{\"presence\":{\"count\":2,\"ids\":[\"10\",\"11\"],\"hash\":{\"10\":{\"name\":\"A\"},\"11\":{}}}}"}`},
		{"succeeded, odd member", AppendSucceeded(x, "presence-a", eachOf(odd, oddInfo)),
			`{"event":"pusher_internal:subscription_succeeded","channel":"presence-a","data":"{\"presence\":{\"count\":1,\"ids\":[\"a\\\"\\\\\\n` + "\u2028" +
				`\"],\"hash\":{\"a\\\"\\\\\\n` + "\u2028" + `\":{\"q\":\"\\\"\\\\\\n\"}}}}"}`},
		{"member_added", AppendMemberAdded(x, "presence-foobar", "11", []byte(`{"name":"B"}`)),
			`{"event":"pusher_internal:member_added","channel":"presence-foobar","data":"{\"user_id\":\"11\",\"user_info\":{\"name\":\"B\"}}"}`},
		{"member_removed", AppendMemberRemoved(x, "presence-foobar", "11"),
			`{"event":"pusher_internal:member_removed","channel":"presence-foobar","data":"{\"user_id\":\"11\"}"}`},
		{"member_removed, odd", AppendMemberRemoved(x, "presence-a", odd),
			`{"event":"pusher_internal:member_removed","channel":"presence-a","data":"{\"user_id\":\"a\\\"\\\\\\n` + "\u2028" + `\"}"}`},
		{"subscription_count", AppendSubscriptionCount(x, "my-channel", 7),
			`{"event":"pusher_internal:subscription_count","channel":"my-channel","data":"{\"subscription_count\":7}"}`},
		{"cache_miss", AppendEvent(x, EventCacheMiss, "cache-x", EmptyData, ""), `{"event":"pusher:cache_miss","channel":"cache-x","data":"{}"}`},
		{"event", AppendEvent(x, "NAME", "CH", []byte(`"DATA"`), ""), `{"event":"NAME","channel":"CH","data":"DATA"}`},
		{"event without channel", AppendEvent(x, []byte("a\"\n"), "", []byte(`""`), ""), `{"event":"a\"\n","data":""}`},
		{"client event", AppendEvent(x, "client-typing", "presence-foobar", []byte(`"{\"x\":1}"`), "10"),
			`{"event":"client-typing","channel":"presence-foobar","data":"{\"x\":1}","user_id":"10"}`},
		{"signin_success", AppendSigninSuccess(x, []byte(`{"id":"12345","user_info":{},"watchlist":["1","2"]}`)),
			`{"event":"pusher:signin_success","data":{"user_data":"{\"id\":\"12345\",\"user_info\":{},\"watchlist\":[\"1\",\"2\"]}"}}`},
		{"watchlist", AppendWatchlist(x, []string{"1"}, []string{"2", "3"}),
			`{"event":"pusher_internal:watchlist_events","data":"{\"events\":[{\"name\":\"online\",\"user_ids\":[\"1\"]},{\"name\":\"offline\",\"user_ids\":[\"2\",\"3\"]}]}"}`},
		{"watchlist, online", AppendWatchlist(x, []string{"1", "\""}, nil),
			`{"event":"pusher_internal:watchlist_events","data":"{\"events\":[{\"name\":\"online\",\"user_ids\":[\"1\",\"\\\"\"]}]}"}`},
		{"watchlist, offline", AppendWatchlist(x, nil, []string{"1"}),
			`{"event":"pusher_internal:watchlist_events","data":"{\"events\":[{\"name\":\"offline\",\"user_ids\":[\"1\"]}]}"}`},
	} {
		opcodes, payloads, err := serverFrames(test.frame[1:])
		if err != nil || test.frame[0] != 'x' || len(payloads) != 1 || opcodes[0] != 1 || payloads[0] != test.want {
			t.Errorf("%s: %v, opcodes %d\ngot  %s\nwant %s", test.name, err, opcodes, payloads, test.want)
		}
		if !json.Valid([]byte(test.want)) {
			t.Errorf("%s: %s is not valid JSON", test.name, test.want)
		}
	}
	if got := AppendWatchlist([]byte("x"), nil, nil); string(got) != "x" {
		t.Errorf("empty watchlist: got %q, want nothing", got)
	}
}

// TestServerFramesHostile: with whatever strings, every frame is valid JSON, and so is the JSON inside its data.
func TestServerFramesHostile(t *testing.T) {
	for _, s := range edgetest.HostileStrings {
		if s == "" {
			continue
		}
		want := string([]rune(s))
		info := fmt.Appendf(nil, `{"k":%s}`, quoted(s))
		var b []byte
		b = AppendEvent(b, s, "c", quoted(s), s)
		b = AppendEvent(b, []byte(s), "", quoted(s), s)
		b = AppendError(b, 0, s, s)
		b = AppendSubscriptionError(b, []byte(s), &SubscriptionError{"AuthError", s, 401})
		b = AppendSucceeded(b, "presence-a", eachOf(s, string(info), "2", string(info)))
		b = AppendMemberAdded(b, "presence-a", s, info)
		b = AppendMemberRemoved(b, "presence-a", s)
		b = AppendSigninSuccess(b, []byte(s))
		b = AppendWatchlist(b, []string{s, s}, []string{s})
		_, payloads, err := serverFrames(b)
		if err != nil || len(payloads) != 9 {
			t.Fatalf("%q: %d frames, %v", s, len(payloads), err)
		}
		for i, payload := range payloads {
			if !legalJSON([]byte(payload), 8, 100) {
				t.Errorf("%q: frame %s is not valid", s, payload)
			}
			inner := dataOf(payload)
			if i < 2 {
				if string(inner) != want {
					t.Errorf("%q: frame %s has the data %q", s, payload, inner)
				}
			} else if len(inner) > 0 && !legalJSON(inner, 8, 100) {
				t.Errorf("%q: data %s is not valid", s, inner)
			}
		}
		var added struct {
			UserID   string            `json:"user_id"`
			UserInfo map[string]string `json:"user_info"`
		}
		if err := json.Unmarshal(dataOf(payloads[5]), &added); err != nil || added.UserID != want || added.UserInfo["k"] != want {
			t.Errorf("%q: member_added is read as %+v, %v", s, added, err)
		}
	}
}

// TestAppendEventAllocations guards the path of every published event (AppendEvent in protocol.go).
func TestAppendEventAllocations(t *testing.T) {
	dst := make([]byte, 0, 4096)
	name, data := []byte("client-é\"event"), quoted(strings.Repeat(`{"x":1}`, 100))
	if n := testing.AllocsPerRun(1000, func() { dst = AppendEvent(dst[:0], name, "presence-room", data, "user \"10\"") }); n != 0 {
		t.Errorf("appendEvent of bytes allocates %v times, want 0", n)
	}
	if n := testing.AllocsPerRun(1000, func() { dst = AppendEvent(dst[:0], "event", "presence-room", data, "") }); n != 0 {
		t.Errorf("appendEvent of a string allocates %v times, want 0", n)
	}
	if n := testing.AllocsPerRun(1000, func() { dst = AppendError(dst[:0], 4301, "too much", "private-a") }); n != 0 {
		t.Errorf("appendError allocates %v times, want 0", n)
	}
	frame, buffer := []byte(`{"event":"client-x","channel":"presence-a","data":{"a":[1,2,3],"b":"\u0041"}}`), new([]byte)
	if n := testing.AllocsPerRun(1000, func() {
		m := Message{Buffer: buffer}
		if err := m.Parse(frame); err != nil || len(m.Event) == 0 {
			t.Fatal(err)
		}
	}); n != 0 && !edgetest.Race { // with the race detector pools forget
		t.Errorf("parse allocates %v times, want 0", n)
	}
	if n := testing.AllocsPerRun(1000, func() {
		if k, ok := ParseChannel([]byte("private-encrypted-cache-a"), 200); !ok || k&KindCache == 0 {
			t.Fatal(k, ok)
		}
	}); n != 0 {
		t.Errorf("parseChannel allocates %v times, want 0", n)
	}
}

// TestPrefixes: of two prefixes the longer stands first, or it would never be found.
func TestPrefixes(t *testing.T) {
	for i, p := range prefixes {
		for _, q := range prefixes[:i] {
			if strings.HasPrefix(p.prefix, q.prefix) {
				t.Errorf("%q is hidden by %q", p.prefix, q.prefix)
			}
		}
	}
}
