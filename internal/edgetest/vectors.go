package edgetest

import "strings"

// The vectors are V1 to V17 of the protocol reference: samples of Pusher's documentation and of its libraries' tests,
// each computed again with openssl.

const (
	VectorKey    = "278d425bdf160c739803"
	VectorSecret = "7ad3773142a6692b25b8"
	VectorSocket = "1234.1234"
	VectorTime   = 1353088179

	// VectorQuery begins the query string of every signed request.
	VectorQuery = "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0"
)

// TokenVector is a token of VectorSocket for a channel with channel_data, or without a channel for a signin with
// user_data.
type TokenVector struct{ Name, Channel, Data, Digest string }

var TokenVectors = []TokenVector{
	{"V1", "private-foobar", "", "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"},
	{"V2", "presence-foobar", `{"user_id":10,"user_info":{"name":"Mr. Channels"}}`, "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80"},
	{"V3", "presence-foobar", `{"user_id":10,"user_info":{"name":"Mr. Pusher"}}`, "afaed3695da2ffd16931f457e338e6c9f2921fa133ce7dac49f529792be6304c"},
	{"V4", "presence-foobar", `{"user_id":"10","user_info":{"name":"Mr. Channels"}}`, "4c6d8fc42a207ba96a0779844171b0bb819d96ffceef9609f5cce596ab17a800"},
	{"V5", "presence-foobar", "", "71506e66e7fdca106571b8999a849ad34245bc653772e51e0026c1a2475b92ba"},
	{"V6", "private-encrypted-foobar", "", "e6a18892d037c5d5e76a2265df4f086ffc38631605530dfd214aa5bff495f533"},
	{"V7", "private-foobar", `{"a":1}`, "3f4243af5e27f47d11116e80a4b762a3b672c9b83f9e82645a0ba883c2592b09"},
	{"V8", "", `{"id":"12345"}`, "4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba"},
}

// Text is what is signed for v by the connection with this id.
func (v TokenVector) Text(id string) []byte {
	switch {
	case v.Channel == "":
		return []byte(id + "::user::" + v.Data)
	case v.Data == "":
		return []byte(id + ":" + v.Channel)
	}
	return []byte(id + ":" + v.Channel + ":" + v.Data)
}

// HostileStrings are what a client may put where a string stands.
var HostileStrings = func() []string {
	all := []string{
		"", "plain", `"`, `\`, `\"`, `","x":"`, `"}`, "</script>", "\u2028\u2029", "\ufeff", "\U000e0001", "\u202e", "é😀", `\u0041`, `\ud800`,
		"\x00", "\a\b\v\f\n\r\t", "\x1b[2J", "\x7f", "\u0080", "\u0085", "\ufffd", "\uffff", "\U0010ffff", "/", "'", "`", "%s%d", "&lt;",
		"\xff", "\xc3", "a\xc3", "\xc3a", "\xed\xa0\x80", "\xf0\x9f\x98", "\xf4\x90\x80\x80", "\xc0\x80", "\xe9\xe9\xe9\xe9", "😀\xf0", strings.Repeat("\x01\"é", 300),
	}
	for c := range 256 {
		all = append(all, string([]byte{byte(c)}), "x"+string([]byte{byte(c)})+"y")
	}
	return all
}()
