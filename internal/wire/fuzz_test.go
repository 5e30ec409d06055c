package wire

import (
	"encoding/json"
	"iter"
	"regexp"
	"testing"
	"unicode/utf8"
)

func FuzzCheckJSON(f *testing.F) {
	for _, seed := range []string{
		"", "null", "-0.5e+10", `"\u00e9\ud83d\ude00\n"`, ` { "a" : [ 1 , { } , true , "x" ] } `, "[[[[]]]]", "[1,]", "01", "\"\x01\\n\"", `"\q"`, "\"\xff\"", "{}{}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkAgainstStd(t, b) })
}

// FuzzClientMessage takes a frame through all that reads it, as handleMessage does.
func FuzzClientMessage(f *testing.F) {
	for _, seed := range []string{
		`{"event":"pusher:ping"}`,
		`{"event":"pusher:subscribe","data":{"auth":"k:s","channel_data":"{\"user_id\":10,\"user_info\":\"\\u0001\"}","channel":"presence-a"}}`,
		`{"event":"pusher:subscribe","data":"{\"channel\":\"a\"}"}`,
		`{"event":"pusher:signin","data":{"auth":"k:s","user_data":"{\"id\":\"1\",\"user_info\":{},\"watchlist\":[\"1\",\"\\u0032\"]}"}}`,
		`{"event":"client-x","data":{"\u0041":["\ud800\n\u007f\"",1.50,null]},"channel":"private-a"}`,
		`{"ev\u0065nt":"client-x","event":"client-y","data":"\u2028","channel":"private-a"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		m, err := readMessage(new([]byte), frame)
		if err != nil {
			return
		}
		if _, _, err := CheckJSON(frame, socketDepth, SocketValues); err != nil || !json.Valid(frame) {
			t.Fatalf("%q: accepted, although %v", frame, err)
		}
		var data []byte
		if m.Data != nil {
			data = m.Data.Literal()
			if _, _, err := CheckJSON(data, 0, 1); err != nil {
				t.Fatalf("%q: relayed as %q: %v", frame, data, err)
			}
		}

		// The event that other clients get is accepted, and says the same.
		event, channel := string(m.Event), string(m.Channel)
		if data == nil {
			data = EmptyData
		}
		_, payloads, err := serverFrames(AppendEvent(nil, m.Event, "", data, channel))
		if err != nil || len(payloads) != 1 || !legalJSON([]byte(payloads[0]), socketDepth, SocketValues) {
			t.Fatalf("%q: became %q: %v", frame, payloads, err)
		}
		if m2, err := readMessage(new([]byte), []byte(payloads[0])); err != nil || string(m2.Event) != event || m2.takesData() && string(m2.Data) != string(data) {
			t.Fatalf("%q: %q is read as %q, %v", frame, payloads[0], m2.Event, err)
		}

		if r, err := m.ParseSubscribe(); err == nil {
			ParseChannel(r.Channel, 200)
			if id, info, err := ParseMember(r.ChannelData); err == nil {
				fuzzMember(t, id, info)
			}
		}
		if r, err := m.ParseSignin(); err == nil {
			if u, _, err := ParseUser(r.UserData); err == nil {
				fuzzMember(t, u.ID, u.Info)
				if b := AppendWatchlist(nil, u.Watchlist, u.Watchlist); len(u.Watchlist) > MaxWatchlist || len(b) > 0 && !validFrames(b) {
					t.Fatalf("%q: watchlist became %q", frame, b)
				}
			}
			if b := AppendSigninSuccess(nil, r.UserData); !validFrames(b) {
				t.Fatalf("%q: signin_success became %q", frame, b)
			}
		}
	})
}

// eachOf walks members, given as ids and user_info in turn.
func eachOf(pairs ...string) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for i := 0; i < len(pairs) && yield(pairs[i], []byte(pairs[i+1])); i += 2 {
		}
	}
}

// fuzzMember checks what is told of a member, and that it is read as the same.
func fuzzMember(t *testing.T, id string, info []byte) {
	b := AppendMemberAdded(nil, "presence-a", id, info)
	if id == "" || utf8.RuneCountInString(id) > MaxUserID || !legalJSON(info, socketDepth, SocketValues) || !validFrames(b) {
		t.Fatalf("member %q, %q became %q", id, info, b)
	}
	if b := AppendSucceeded(nil, "presence-a", eachOf(id, string(info))); !validFrames(b) {
		t.Fatalf("member %q, %q became %q", id, info, b)
	}
	_, payloads, _ := serverFrames(b)
	id2, info2, err := ParseMember(dataOf(payloads[0]))
	if err != nil && len(info) < 1000 || err == nil && (id2 != id || string(info2) != string(info)) {
		t.Fatalf("member %q, %q is read as %q, %q, %v", id, info, id2, info2, err)
	}
}

// dataOf returns what the data of a frame stands for if it is a string, or nil.
func dataOf(payload string) []byte {
	var m struct{ Data any }
	json.Unmarshal([]byte(payload), &m)
	if text, ok := m.Data.(string); ok {
		return []byte(text)
	}
	return nil
}

// validFrames reports whether b holds frames of valid JSON, whose data, if it is a string, is valid JSON too.
func validFrames(b []byte) bool {
	_, payloads, err := serverFrames(b)
	for _, payload := range payloads {
		if !json.Valid([]byte(payload)) {
			return false
		}
		if data := dataOf(payload); data != nil && !json.Valid(data) {
			return false
		}
	}
	return err == nil
}

func FuzzChannelName(f *testing.F) {
	for _, seed := range []string{"", "a", "privateer", "private-encrypted-cache-a", "presence-cache-a", "mycache-x", "#server-to-user-1", "#server-to-user-", "#x", "a:b", "é"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		const limit = 164
		want, wantOK := KindPublic, len(name) <= limit && channelPattern.MatchString(name)
		for k, pattern := range kindPatterns {
			if pattern.MatchString(name) {
				want |= k
			}
		}
		got, ok := ParseChannel(name, limit)
		if ok != wantOK || ok && got != want {
			t.Errorf("%q: got %b, %v, want %b, %v", name, got, ok, want, wantOK)
		}
		if fromBytes, ok2 := ParseChannel([]byte(name), limit); fromBytes != got || ok2 != ok {
			t.Errorf("%q: got %b, %v from bytes, %b, %v from a string", name, fromBytes, ok2, got, ok)
		}
	})
}

var (
	channelPattern = regexp.MustCompile(`^(#server-to-user-)?[A-Za-z0-9_\-=@,.;]+$`)
	kindPatterns   = map[Kind]*regexp.Regexp{
		KindPrivate:   regexp.MustCompile(`^(private|presence)-`),
		KindPresence:  regexp.MustCompile(`^presence-`),
		KindCache:     regexp.MustCompile(`^(private-encrypted-|private-|presence-|)cache-`),
		KindEncrypted: regexp.MustCompile(`^private-encrypted-`),
		KindUser:      regexp.MustCompile(`^#`),
	}
)
