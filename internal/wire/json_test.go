package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/valyala/fastjson"

	"edge/internal/edgetest"
)

// TestCheckJSONBounds: the bounds are exact. The grammar is that of encoding/json, see checkAgainstStd and
// testdata/json.
func TestCheckJSONBounds(t *testing.T) {
	nest := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	objects := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	for _, test := range []struct{ name, text, want string }{ // want: a part of the error, or "" if the text is accepted
		{"16 deep", nest(16), ""},
		{"16 objects deep", objects(16), ""},
		{"16 deep, twice", "[" + nest(15) + "," + nest(15) + "]", ""},
		{"as many values as may be", "[" + strings.Repeat("1,", 98) + "1]", ""},
		{"names are no values", "{" + strings.Repeat(`"a":1,`, 98) + `"a":1}`, ""},
		{"brackets and commas in strings", `"` + strings.Repeat(`[{,\"`, 1000) + `"`, ""},
		{"17 deep", nest(17), "levels deep"},
		{"17 objects deep", objects(17), "levels deep"},
		{"17 open", strings.Repeat("[", 17), "levels deep"},
		{"16 open", strings.Repeat("[", 16), "missing ']'"},
		{"17 deep after 16", "[" + nest(15) + "," + nest(16) + "]", "levels deep"},
		{"closed more than opened", strings.Repeat("]", 50) + nest(50), "expecting 0..9 digit"},
		{"a million deep", strings.Repeat("[", 1_000_000), "levels deep"},
		{"a million objects deep", strings.Repeat(`{"":`, 1_000_000), "levels deep"},
		{"deep and then NULs", strings.Repeat("[", 298) + "t" + strings.Repeat("\x00", 1<<16), "levels deep"},
		{"one value too many", "[" + strings.Repeat("1,", 99) + "1]", "100 values"},
		{"one member too many", "{" + strings.Repeat(`"a":1,`, 99) + `"a":1}`, "100 values"},
		{"containers are values", "[" + strings.Repeat("{},", 99) + "{}]", "100 values"},
		{"as many containers as may be", "[" + strings.Repeat("{},", 98) + "[]]", ""},
		{"16 levels around a fault", strings.Repeat("[1,", 16) + "0x" + strings.Repeat("]", 16), "missing ','"},
		{"words without an end", strings.Repeat("nan", 10_000), "a word"},
		{"no words", "[true,false,null,truefalse]", "missing ','"},
	} {
		_, _, err := CheckJSON([]byte(test.text), 16, 100)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %.100q: got %v, want %q", test.name, test.text, err, test.want)
		}
		if err != nil && len(err.Error()) > 250 {
			t.Errorf("%s: the error has %d bytes: %v", test.name, len(err.Error()), err)
		}
	}
	if _, _, err := CheckJSON([]byte("0"), 0, 1); err != nil {
		t.Errorf("a scalar needs no depth: got %v", err)
	}
	if _, _, err := CheckJSON([]byte("[]"), 0, 2); err == nil {
		t.Error("[] passes with depth 0")
	}
}

// TestParserMemory: texts with the largest object in another place each time do not make parsers hold more and more.
func TestParserMemory(t *testing.T) {
	if edgetest.Race {
		t.Skip("the race detector needs memory of its own")
	}
	live := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := live()
	for _, most := range []int{smallTree, SocketValues} {
		for k := 0; k < most-10; k += most / 200 {
			text := []byte("[" + strings.Repeat("0,", k) + "{" + strings.Repeat(`"":0,`, most-k-8) + `"":0}]`)
			if err := ReadJSON(text, 3, most, func(*fastjson.Value) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
	if held := live() - before; held > 12<<20 {
		t.Errorf("%d bytes are held", held)
	}
}

// measureJSON returns the depth and the number of values of valid JSON, as CheckJSON counts them.
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
			if b[i+1] != ']' && b[i+1] != '}' {
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

// checkAgainstStd compares CheckJSON with encoding/json, and its limits with measureJSON; and what is read of a text
// that it accepts with what encoding/json reads.
func checkAgainstStd(t *testing.T, b []byte) {
	t.Helper()
	before := string(b)
	n, _, err := CheckJSON(b, 100, 1_000_000)
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
	if err != nil || n != values {
		t.Errorf("%q: got %d, %v, want it accepted with %d values", b, n, err, values)
	}
	if _, _, err := CheckJSON(b, depth, values); err != nil {
		t.Errorf("%q with depth %d and %d values: got %v", b, depth, values, err)
	}
	if _, _, err := CheckJSON(b, depth-1, values); depth > 0 && err == nil {
		t.Errorf("%q passes with depth %d", b, depth-1)
	}
	if _, _, err := CheckJSON(b, depth, values-1); err == nil {
		t.Errorf("%q passes with %d values", b, values-1)
	}
	var member [1]Value
	if _, err := ParseObject(nil, slices.Concat([]byte(`{"\u0061":`), b, []byte("}")), 101, 1_000_000, []string{"a"}, member[:]); err != nil {
		t.Errorf("%q as a member: %v", b, err)
	}
	if got := string(member[0]); got != compactly(b) {
		t.Errorf("%q: compact it is %s, want %s", b, got, compactly(b))
	}
	checkValue(t, member[0])
}

// compactly is b without the space between its tokens.
func compactly(b []byte) string {
	var c bytes.Buffer
	json.Compact(&c, b)
	return c.String()
}

// checkValue compares the strings, arrays and objects of v with what encoding/json reads.
func checkValue(t *testing.T, v Value) {
	t.Helper()
	switch {
	case v.Is('"'):
		var want string
		json.Unmarshal(v, &want)
		if got := string(v.Text()); got != want || v.Exceeds(len(want)) || len(want) > 0 && !v.Exceeds(len(want)-1) {
			t.Errorf("%s: read as %q, want %q; more than %d bytes: %v", v, got, want, len(want), v.Exceeds(len(want)))
		}
	case v.Is('['):
		if depth, n := measureJSON(v); depth > APIDepth || n > APIValues {
			return
		}
		var want []json.RawMessage
		json.Unmarshal(v, &want)
		_, got, all := ParseArray(nil, v, len(v))
		_, first, _ := ParseArray(nil, v, 2)
		if !slices.EqualFunc(got, want, func(a Value, b json.RawMessage) bool { return string(a) == string(b) }) || all != len(got) || len(first) != min(all, 2) {
			t.Errorf("%s: items %q, want %q", v, got, want)
		}
		for _, item := range got {
			checkValue(t, item)
		}
	case v.Is('{'):
		var want map[string]json.RawMessage
		json.Unmarshal(v, &want)
		names := slices.Collect(maps.Keys(want))
		names = names[:min(len(names), 8)]
		found := make([]Value, len(names))
		_, err := ParseObject(nil, v, 100, 1_000_000, names, found)
		for i, name := range names {
			if strings.Contains(name, "\ufffd") {
				continue // half of a surrogate pair, which is in no name that we look for
			}
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
			if _, _, err := CheckJSON(b, 16, 8192); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("checkJSON(%.80q) allocates %v times, want 0", b, n)
		}
		if n := testing.AllocsPerRun(100, func() { buffer = AppendString(buffer[:0], b) }); n != 0 {
			t.Errorf("appendString(%.80q) allocates %v times, want 0", b, n)
		}
	}
	hostile := []byte(strings.Repeat("[", 298) + "t" + strings.Repeat("\x00", 1<<16))
	if n := testing.AllocsPerRun(100, func() { CheckJSON(hostile, 16, 8192) }); n > 2 {
		t.Errorf("a hostile text costs %v allocations, want 2", n)
	}
}

func TestIsInteger(t *testing.T) {
	for token, want := range map[string]bool{
		"0": true, "-0": true, "1": true, "-1": true, "9007199254740993": true, strings.Repeat("9", 100): true,
		"": false, "1.0": false, "1e3": false, "1E3": false, `"1"`: false, "true": false, "null": false, "{}": false, "[1]": false,
	} {
		if got := Value(token).isInteger(); got != want {
			t.Errorf("isInteger(%q) = %v, want %v", token, got, want)
		}
	}
}

func TestParseObjectRefuses(t *testing.T) {
	for _, text := range []string{``, ` `, `1`, `[]`, `"{}"`, `null`, ` [{"event":1}]`, `{`, `{"event":}`, `{} {}`, `{"event":1,}`} {
		var found [1]Value
		if _, err := ParseObject(nil, []byte(text), 10, 100, []string{"event"}, found[:]); err == nil {
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
		var found [3]Value
		_, err := ParseObject(nil, []byte(test.text), 10, 100, names, found[:])
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

// TestText has every kind of escape, and says how long what it stands for is.
func TestText(t *testing.T) {
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
		checkValue(t, Value(literal))
	}
}

func TestAppendString(t *testing.T) {
	for _, s := range edgetest.HostileStrings {
		want := string([]rune(s)) // a U+FFFD for each byte that is not UTF-8
		literal := AppendString([]byte("before"), s)
		if fromBytes := AppendString([]byte("before"), []byte(s)); string(fromBytes) != string(literal) {
			t.Errorf("%q: got %s from bytes, %s from a string", s, fromBytes, literal)
		}
		literal, found := bytes.CutPrefix(literal, []byte("before"))
		if _, _, err := CheckJSON(literal, 0, 1); err != nil || !found || !json.Valid(literal) {
			t.Errorf("%q: got %s, which is not valid: %v", s, literal, err)
			continue
		}
		var std string
		if err := json.Unmarshal(literal, &std); err != nil || std != want {
			t.Errorf("%q: encoding/json reads %s as %q, want %q", s, literal, std, want)
		}
		checkValue(t, literal)
	}
	for s, want := range map[string]string{"": `""`, "a/é😀\x7f": "\"a/é😀\x7f\"", "\"\\\n\r\t": `"\"\\\n\r\t"`, "\x00\b\x1f": `"\u0000\u0008\u001f"`, "\xff": "\"\ufffd\""} {
		if got := string(AppendString(nil, s)); got != want {
			t.Errorf("appendString(%q) = %s, want %s", s, got, want)
		}
	}
}

// quoted is s as a JSON string literal.
func quoted(s string) []byte { return AppendString(nil, s) }
