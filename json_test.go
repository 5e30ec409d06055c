package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestCheckJSON(t *testing.T) {
	nest := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	objects := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	for _, test := range []struct{ name, text, want string }{ // want: a part of the error, or "" if the text is accepted
		{"null", "null", ""},
		{"true", "true", ""},
		{"false", "false", ""},
		{"zero", "0", ""},
		{"minus zero", "-0", ""},
		{"integer", "-1234567890", ""},
		{"fraction", "0.5", ""},
		{"zeros after the point", "10.00", ""},
		{"exponents", "[1e0,1E+1,-1e-1,0e00,1.5e007]", ""},
		{"number beyond every type", "1e400", ""},
		{"400 digits", strings.Repeat("9", 400), ""},
		{"empty string", `""`, ""},
		{"every short escape", `"\"\\\/\b\f\n\r\t"`, ""},
		{"unicode escapes", `"\u0000\u00e9\uD83D\uDE00\uabCD"`, ""},
		{"lone surrogates", `["\ud800","\udc00","\ud800\ud800","\udc00\ud800","\ud800x"]`, ""}, // grammar, RFC 8259 section 8.2
		{"DEL and above", "\"\x7f\u0080\u2028\ufeff\U0010ffff\"", ""},
		{"empty array", "[ \t\r\n]", ""},
		{"empty object", "{ \t\r\n}", ""},
		{"space everywhere", " \n{ \t\"a\" \r: [ 1 , 2 ] , \"b\" : { } }\t", ""},
		{"duplicate names", `{"a":1,"a":2}`, ""},
		{"empty name", `{"":1}`, ""},
		{"escaped name", `{"\u0061\n":1}`, ""},
		{"16 deep", nest(16), ""},
		{"16 objects deep", objects(16), ""},
		{"16 deep, twice", "[" + nest(15) + "," + nest(15) + "]", ""},
		{"as many values as may be", "[" + strings.Repeat("1,", 98) + "1]", ""},
		{"names are no values", "{" + strings.Repeat(`"a":1,`, 98) + `"a":1}`, ""},

		{"empty", "", "unexpected end"},
		{"only space", " \n", "unexpected end"},
		{"BOM", "\ufeff{}", "expected a value"},
		{"BOM after", "{}\ufeff", "more text"},
		{"two values", "{}{}", "more text"},
		{"two numbers", "1 2", "more text"},
		{"closing bracket after", "[]]", "more text"},
		{"NUL after", "[]\x00", "more text"},
		{"NUL before", "\x00[]", "expected a value"},
		{"NUL alone", "\x00", "expected a value"},
		{"NUL in an array", "[\x00]", "expected a value"},
		{"NUL in an object", "{\x00}", "expected a name"},
		{"vertical tab", "\v1", "expected a value"},
		{"form feed", "1\f", "more text"},
		{"NEL", "\u00851", "expected a value"},
		{"non-breaking space", "\u00a01", "expected a value"},
		{"comment", "/**/1", "expected a value"},
		{"comment after", "1//", "more text"},
		{"comment in an array", "[1/**/]", "expected a comma"},

		{"trailing comma", "[1,]", "expected a value"},
		{"trailing comma in an object", `{"a":1,}`, "expected a name"},
		{"leading comma", "[,1]", "expected a value"},
		{"leading comma in an object", `{,"a":1}`, "expected a name"},
		{"comma alone", "[,]", "expected a value"},
		{"two commas", "[1,,2]", "expected a value"},
		{"no comma", "[1 2]", "expected a comma"},
		{"no comma between members", `{"a":1 "b":2}`, "expected a comma"},
		{"semicolon", "[1;2]", "expected a comma"},
		{"colon in an array", "[1:2]", "expected a comma"},
		{"wrong bracket", "[1}", "expected a comma"},
		{"wrong brace", `{"a":1]`, "expected a comma"},
		{"open array", "[1", "expected a comma"},
		{"open array after a comma", "[1,", "unexpected end"},
		{"open object", `{"a":1`, "expected a comma"},
		{"array begins", "[", "unexpected end"},
		{"object begins", "{", "expected a name"},
		{"no colon", `{"a" 1}`, "expected a colon"},
		{"two colons", `{"a"::1}`, "expected a value"},
		{"no value", `{"a":}`, "expected a value"},
		{"name alone", `{"a"}`, "expected a colon"},
		{"name ends the text", `{"a"`, "expected a colon"},
		{"colon ends the text", `{"a":`, "unexpected end"},
		{"name without quotes", "{a:1}", "expected a name"},
		{"name in single quotes", "{'a':1}", "expected a name"},
		{"name a number", "{1:1}", "expected a name"},
		{"name null", "{null:1}", "expected a name"},

		{"word cut", "tru", "expected a value"},
		{"word cut in an array", "[nul]", "expected a value"},
		{"word in upper case", "True", "expected a value"},
		{"word longer", "nullx", "more text"},
		{"two words", "truefalse", "more text"},
		{"undefined", "undefined", "expected a value"},

		{"two points", "1.2.3", "more text"},
		{"bare exponent", "1e", "expected a digit in the exponent"},
		{"exponent with a sign alone", "1e+", "expected a digit in the exponent"},
		{"exponent with two signs", "1e+-1", "expected a digit in the exponent"},
		{"exponent with a point", "1e1.5", "more text"},
		{"two exponents", "1e1e1", "more text"},
		{"two signs", "--1", "expected a digit"},
		{"plus", "+1", "expected a value"},
		{"plus after minus", "-+1", "expected a digit"},
		{"leading zero", "01", "more text"},
		{"leading zero after minus", "-01", "more text"},
		{"two zeros", "00", "more text"},
		{"point first", ".5", "expected a value"},
		{"point after minus", "-.5", "expected a digit"},
		{"point last", "1.", "expected a digit after the point"},
		{"point before exponent", "1.e1", "expected a digit after the point"},
		{"minus alone", "-", "expected a digit"},
		{"minus and a bracket", "[-]", "expected a digit"},
		{"minuses between", "1-2-3", "more text"},
		{"hexadecimal", "0x10", "more text"},
		{"underscore", "1_000", "more text"},
		{"Arabic digit", "\u0661", "expected a value"},
		{"NaN", "NaN", "expected a value"},
		{"nan", "nan", "expected a value"},
		{"inf", "inf", "expected a value"},
		{"Infinity", "-Infinity", "expected a digit"},

		{"raw NUL", "\"\x00\"", "control character"},
		{"raw control character", "\"\x01\"", "control character"},
		{"raw control character before an escape", "\"\x01\\n\"", "control character"},
		{"raw control character after an escape", "\"\\n\x1f\"", "control character"},
		{"raw newline", "\"\n\"", "control character"},
		{"raw tab in a name", "{\"\t\":1}", "control character"},
		{"escape unknown", `"\q"`, "unknown escape"},
		{"escape in upper case", `"\N"`, "unknown escape"},
		{"escape of a quote", `"\'"`, "unknown escape"},
		{"escape of a newline", "\"\\\n\"", "unknown escape"},
		{"escape hexadecimal", `"\x41"`, "unknown escape"},
		{"escape octal", `"\0"`, "unknown escape"},
		{"escape in a name", `{"\q":1}`, "unknown escape"},
		{"escape cut", `"\`, "unknown escape"},
		{"unicode escape in upper case", `"\U0041"`, "unknown escape"},
		{"unicode escape short", `"\u12"`, "four hexadecimal"},
		{"unicode escape cut", `"\u123`, "four hexadecimal"},
		{"unicode escape with a G", `"\u123G"`, "four hexadecimal"},
		{"unicode escape with a sign", `"\u+123"`, "four hexadecimal"},
		{"unicode escape with an @", `"\u@123"`, "four hexadecimal"},
		{"unicode escape with a `", "\"\\u`123\"", "four hexadecimal"},
		{"string without an end", `"abc`, "string without an end"},
		{"string ends with an escaped quote", `"abc\"`, "string without an end"},
		{"name without an end", `{"abc`, "string without an end"},
		{"quote alone", `"`, "string without an end"},
		{"single quotes", "'a'", "expected a value"},

		{"invalid UTF-8", "\"\xff\"", "not UTF-8"},
		{"invalid UTF-8 in a name", "{\"\xc3\":1}", "not UTF-8"},
		{"invalid UTF-8 after the value", "1\x80", "not UTF-8"},
		{"overlong", "\"\xc0\xaf\"", "not UTF-8"},
		{"surrogate in UTF-8", "\"\xed\xa0\x80\"", "not UTF-8"},
		{"beyond Unicode", "\"\xf4\x90\x80\x80\"", "not UTF-8"},
		{"UTF-16", "\xff\xfe[\x00]\x00", "not UTF-8"},

		{"17 deep", nest(17), "nested too deep"},
		{"17 objects deep", objects(17), "nested too deep"},
		{"17 open", strings.Repeat("[", 17), "nested too deep"},
		{"16 open", strings.Repeat("[", 16), "unexpected end"},
		{"17 deep after 16", "[" + nest(15) + "," + nest(16) + "]", "nested too deep"},
		{"a million deep", strings.Repeat("[", 1_000_000), "nested too deep"},
		{"a million objects deep", strings.Repeat(`{"":`, 1_000_000), "nested too deep"},
		{"deep and then NULs", strings.Repeat("[", 298) + "t" + strings.Repeat("\x00", 1<<16), "nested too deep"},
		{"one value too many", "[" + strings.Repeat("1,", 99) + "1]", "too many values"},
		{"one member too many", "{" + strings.Repeat(`"a":1,`, 99) + `"a":1}`, "too many values"},
		{"containers are values", "[" + strings.Repeat("{},", 99) + "{}]", "too many values"},
	} {
		err := checkJSON([]byte(test.text), 16, 100)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %.100q: got %v, want %q", test.name, test.text, err, test.want)
		}
		if err != nil && len(err.Error()) > 200 {
			t.Errorf("%s: the error has %d bytes", test.name, len(err.Error()))
		}
	}
	if err := checkJSON([]byte("0"), 0, 1); err != nil {
		t.Errorf("a scalar needs no depth: got %v", err)
	}
	if err := checkJSON([]byte("[]"), 0, 1); err == nil {
		t.Error("[] passes with depth 0")
	}
}

// TestCheckJSONPosition: the error names the first byte that cannot be.
func TestCheckJSONPosition(t *testing.T) {
	for text, want := range map[string]int{"": 0, " x": 1, "[1,]": 3, `{"a" 1}`: 5, `"ab`: 3, "\"a\x01\"": 2, `"\q"`: 2, `"\u00g0"`: 5, "01": 1, "[[[": 2, "tru": 0} {
		err := checkJSON([]byte(text), 2, 10)
		if e, ok := err.(*jsonError); !ok || e.at != want {
			t.Errorf("%q: got %v, want an error at byte %d", text, err, want)
		}
	}
}

// measureJSON returns the depth and the number of values of valid JSON.
func measureJSON(b []byte) (depth, values int) {
	level := 0
	values = 1
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case '[', '{':
			level++
			depth = max(depth, level)
			if next := bytes.TrimLeft(b[i+1:], " \t\r\n"); next[0] != ']' && next[0] != '}' {
				values++
			}
		case ']', '}':
			level--
		case ',':
			values++
		}
	}
	return depth, values
}

// checkAgainstStd compares checkJSON with encoding/json, and its limits with measureJSON; and what value makes of what it
// accepts with what encoding/json does.
func checkAgainstStd(t *testing.T, b []byte) {
	t.Helper()
	before := string(b)
	err := checkJSON(b, 100, 1_000_000)
	if string(b) != before {
		t.Errorf("checkJSON changed %q to %q", before, b)
	}
	if !json.Valid(b) || !utf8.Valid(b) {
		if err == nil {
			t.Errorf("%q: accepted, want it refused", b)
		}
		return
	}
	depth, values := measureJSON(b)
	if depth > 100 {
		if err == nil {
			t.Errorf("%q: accepted, want it refused for its depth", b)
		}
		return
	}
	if err != nil {
		t.Errorf("%q: got %v, want it accepted", b, err)
	}
	if err := checkJSON(b, depth, values); err != nil {
		t.Errorf("%q with depth %d and %d values: got %v", b, depth, values, err)
	}
	if depth > 0 && checkJSON(b, depth-1, values) == nil {
		t.Errorf("%q passes with depth %d", b, depth-1)
	}
	if checkJSON(b, depth, values-1) == nil {
		t.Errorf("%q passes with %d values", b, values-1)
	}
	var want bytes.Buffer
	json.Compact(&want, b)
	v := value(bytes.Trim(b, " \t\r\n"))
	if got := v.appendCompact(nil); string(got) != want.String() {
		t.Errorf("%q: compact it is %s, want %s", b, got, want.Bytes())
	}
	checkValue(t, v)
}

// checkValue compares the strings and arrays of v with what encoding/json reads.
func checkValue(t *testing.T, v value) {
	t.Helper()
	switch {
	case v.is('"'):
		var want string
		json.Unmarshal(v, &want)
		if got := string(v.text()); got != want || decodedLen(v) != len(want) && !strings.Contains(want, "\ufffd") { // half a pair counts two
			t.Errorf("%s: read as %q of %d bytes, want %q", v, got, decodedLen(v), want)
		}
	case v.is('['):
		var want []json.RawMessage
		json.Unmarshal(v, &want)
		got := slices.Collect(v.items())
		first, all := v.first(2)
		if !slices.EqualFunc(got, want, func(a value, b json.RawMessage) bool { return string(a) == string(b) }) || all != len(got) || len(first) != min(all, 2) {
			t.Errorf("%s: items %q, want %q", v, got, want)
		}
		for _, item := range got {
			checkValue(t, item)
		}
	case v.is('{'):
		var want map[string]json.RawMessage
		json.Unmarshal(v, &want)
		names := slices.Collect(maps.Keys(want))
		names = names[:min(len(names), 8)]
		found := make([]value, len(names))
		err := parseObject(v, 100, 1_000_000, names, found)
		for i, name := range names {
			if err == nil && string(found[i]) != string(want[name]) {
				t.Errorf("%s: member %q is %s, want %s", v, name, found[i], want[name])
			}
			checkValue(t, found[i])
		}
	}
}

// appendRandomJSON appends a JSON text in a random layout.
func appendRandomJSON(dst []byte, r *rand.Rand, depth int) []byte {
	pick := func(from ...string) { dst = append(dst, from[r.IntN(len(from))]...) }
	space := func() { pick("", "", "", "", " ", "\n", "\t\r") }
	text := func() {
		dst = append(dst, '"')
		for range r.IntN(4) {
			pick("a", "event", "é", "😀", `\"`, `\\`, `\/`, `\b`, `\u0000`, `\uD83d\ude00`, `\ud800`, "\x7f", "[", "{", ",", ":", "}")
		}
		dst = append(dst, '"')
	}
	space()
	switch n := r.IntN(10); {
	case n < 3 && depth > 0:
		dst = append(dst, '[')
		for i := range r.IntN(5) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendRandomJSON(dst, r, depth-1)
		}
		space()
		dst = append(dst, ']')
	case n < 6 && depth > 0:
		dst = append(dst, '{')
		for i := range r.IntN(5) {
			if i > 0 {
				dst = append(dst, ',')
			}
			space()
			text()
			space()
			dst = append(dst, ':')
			dst = appendRandomJSON(dst, r, depth-1)
		}
		space()
		dst = append(dst, '}')
	case n < 8:
		text()
	default:
		pick("0", "-1", "1.5", "1e9", "-0.0E-07", "12345678901234567890", "true", "false", "null")
	}
	space()
	return dst
}

// mutate changes a few bytes of b, mostly to ones that mean something in JSON.
func mutate(b []byte, r *rand.Rand) []byte {
	b = slices.Clone(b)
	for range 1 + r.IntN(3) {
		const alphabet = "[]{}\",:\\u019.eE+- \n\x00\x1f\xffatn"
		at, c := r.IntN(len(b)+1), alphabet[r.IntN(len(alphabet))]
		switch r.IntN(4) {
		case 0:
			b = slices.Insert(b, at, c)
		case 1:
			b = b[:at]
		case 2:
			b = slices.Delete(b, at, min(at+1, len(b)))
		default:
			if at < len(b) {
				b[at] = c
			}
		}
	}
	return b
}

func TestCheckJSONRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	valid := 0
	for i := 0; i < 20_000 && !t.Failed(); i++ {
		b := appendRandomJSON(nil, r, r.IntN(8))
		if !json.Valid(b) {
			t.Fatalf("the generator made %q", b)
		}
		checkAgainstStd(t, b)
		if b = mutate(b, r); json.Valid(b) {
			valid++
		}
		checkAgainstStd(t, b)
	}
	if valid == 0 || valid == 20_000 {
		t.Errorf("%d of 20,000 mutants are valid", valid)
	}
	if t.Failed() {
		t.Logf("seed %d", seed)
	}
}

func TestJSONAllocations(t *testing.T) {
	messages := [][]byte{
		[]byte(`{"event":"client-x","channel":"presence-a","data":{"a":[1,2.5e3,"\u00e9\n",null,true,{}]}}`),
		[]byte(strings.Repeat("[", 16) + strings.Repeat("]", 16)),
		[]byte(`"` + strings.Repeat(`é\"`, 1000) + `"`),
	}
	buffer := make([]byte, 0, 1<<16)
	for _, b := range messages {
		if n := testing.AllocsPerRun(100, func() {
			if err := checkJSON(b, 16, 8192); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("checkJSON(%.80q) allocates %v times, want 0", b, n)
		}
		if n := testing.AllocsPerRun(100, func() { buffer = appendString(buffer[:0], b) }); n != 0 {
			t.Errorf("appendString(%.80q) allocates %v times, want 0", b, n)
		}
	}
	hostile := []byte(strings.Repeat("[", 298) + "t" + strings.Repeat("\x00", 1<<16))
	if n := testing.AllocsPerRun(100, func() { checkJSON(hostile, 16, 8192) }); n > 2 {
		t.Errorf("a hostile text costs %v allocations, want 2", n)
	}
}

func TestIsInteger(t *testing.T) {
	for token, want := range map[string]bool{
		"0": true, "-0": true, "1": true, "-1": true, "9007199254740993": true, strings.Repeat("9", 100): true,
		"": false, "-": false, "1.0": false, "1e3": false, "1E3": false, "01": false, "+1": false, " 1": false, "1 ": false,
		`"1"`: false, "true": false, "0x1": false, "1e": false, "1.": false, "\x001": false,
	} {
		if got := isInteger([]byte(token)); got != want {
			t.Errorf("isInteger(%q) = %v, want %v", token, got, want)
		}
	}
}

func TestParseObjectRefuses(t *testing.T) {
	for _, text := range []string{``, ` `, `1`, `[]`, `"{}"`, `null`, ` [{"event":1}]`, `{`, `{"event":}`, `{} {}`, `{"event":1,}`} {
		var found [1]value
		if err := parseObject([]byte(text), 10, 100, []string{"event"}, found[:]); err == nil {
			t.Errorf("%s: accepted", text)
		}
	}
}

func TestMembers(t *testing.T) {
	names := []string{"event", "channel", "data"}
	for _, test := range []struct{ text, values, twice string }{ // values, with - for absent
		{`{}`, "- - -", ""},
		{`{"event":1,"channel":2,"data":3}`, "1 2 3", ""},
		{`{"data":3,"event":1}`, "1 - 3", ""},
		{`{"ev\u0065nt":1}`, "1 - -", ""},
		{`{"Event":1,"event ":2,"eventx":3,"even":4,"":5}`, "- - -", ""},
		{`{"event":null}`, "null - -", ""},
		{`{"other":1,"other":2,"event":3}`, "3 - -", ""},
		{`{"data":{"event":1,"event":2},"event":3}`, `3 - {"event":1,"event":2}`, ""},
		{`{"event":1,"event":1}`, "", "event"},
		{`{"event":1,"ev\u0065nt":2}`, "", "event"},
		{`{"ev\u0065nt":1,"event":2}`, "", "event"},
		{`{"\u0065\u0076\u0065\u006E\u0074":1,"x":0,"\u0065vent":2}`, "", "event"},
		{`{"event":null,"event":null}`, "", "event"},
		{`{"data":1,"channel":2,"data":3,"channel":4}`, "", "data"},
		{`{"event":1,"event":2,"event":3}`, "", "event"},
	} {
		var found [3]value
		err := parseObject([]byte(test.text), 10, 100, names, found[:])
		var values []string
		for _, f := range found {
			if f == nil {
				values = append(values, "-")
			} else {
				values = append(values, string(f))
			}
		}
		wantErr := ""
		if test.twice != "" {
			wantErr = fmt.Sprintf("%q stands twice", test.twice)
		}
		if got := strings.Join(values, " "); wantErr == "" && (err != nil || got != test.values) || wantErr != "" && (err == nil || err.Error() != wantErr) {
			t.Errorf("%s: got %s, %v, want %s, %s", test.text, got, err, test.values, wantErr)
		}
	}
}

func TestDecodedLen(t *testing.T) {
	literals := []string{
		`""`, `"a"`, `"\\"`, `"\""`, `"\/"`, `"\n\r\t\b\f"`, `"é"`, `"😀"`, `"\u0000"`, `"\u007f"`, `"\u0080"`, `"\u07ff"`, `"\u07FF"`,
		`"\u0800"`, `"\ud7ff"`, `"\ue000"`, `"\uFFFF"`, `"\ud800\udc00"`, `"\uD83D\uDE00"`, `"\udbff\udfff"`, `"\ud83d\ude00\ud83d\ude00x"`,
		`"\\u0041"`, `"\\\\u0041"`, `"\\\u0041"`, `"\"\u0041\""`, `"a\u00e9b\u20acc"`, `"{\"user_id\":\"\\u00e9\"}"`,
	}
	for r := rune(0); r <= utf8.MaxRune; r += 101 { // as encoding/json, and as escapes
		if !utf8.ValidRune(r) {
			continue
		}
		b, _ := json.Marshal(string(r))
		literals = append(literals, string(b))
		if r < 0x10000 {
			literals = append(literals, fmt.Sprintf(`"x\u%04x"`, r), fmt.Sprintf(`"\u%04Xx"`, r))
		} else {
			literals = append(literals, fmt.Sprintf(`"\u%04x\u%04X"`, 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff))
		}
	}
	for _, literal := range literals {
		var s string
		if err := json.Unmarshal([]byte(literal), &s); err != nil {
			t.Fatal(literal, err)
		}
		if got := decodedLen([]byte(literal)); got != len(s) {
			t.Errorf("decodedLen(%s) = %d, want %d", literal, got, len(s))
		}
	}
}

// hostileStrings are what a client may put where a string stands.
var hostileStrings = func() []string {
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

func TestAppendString(t *testing.T) {
	for _, s := range hostileStrings {
		want := string([]rune(s)) // a U+FFFD for each byte that is not UTF-8
		literal := appendString([]byte("before"), s)
		if fromBytes := appendString([]byte("before"), []byte(s)); string(fromBytes) != string(literal) {
			t.Errorf("%q: got %s from bytes, %s from a string", s, fromBytes, literal)
		}
		literal, found := bytes.CutPrefix(literal, []byte("before"))
		if err := checkJSON(literal, 0, 1); err != nil || !found || !json.Valid(literal) {
			t.Errorf("%q: got %s, which is not valid: %v", s, literal, err)
			continue
		}
		var std string
		if err := json.Unmarshal(literal, &std); err != nil || std != want {
			t.Errorf("%q: encoding/json reads %s as %q, want %q", s, literal, std, want)
		}
		if got := string(value(literal).text()); got != want {
			t.Errorf("%q: %s is read as %q, want %q", s, literal, got, want)
		}
		if got := decodedLen(literal); got != len(want) {
			t.Errorf("%q: decodedLen(%s) = %d, want %d", s, literal, got, len(want))
		}
	}
	for s, want := range map[string]string{"": `""`, "a/é😀\x7f": "\"a/é😀\x7f\"", "\"\\\n\r\t": `"\"\\\n\r\t"`, "\x00\b\x1f": `"\u0000\u0008\u001f"`, "\xff": "\"\ufffd\""} {
		if got := string(appendString(nil, s)); got != want {
			t.Errorf("appendString(%q) = %s, want %s", s, got, want)
		}
	}
}
