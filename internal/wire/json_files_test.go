package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// openJSON has our verdict on the files i_*.json, which are about what RFC 8259 leaves open: a part of the error that
// the text gets as the data of an event on a socket and in the API, "" if it is accepted. Every such file matches one
// of the patterns.
var openJSON = []struct{ pattern, socket, api string }{
	{"i_number_*", "", ""},                                               // never made a number of, section 6
	{"i_string_u_*", "", ""},                                             // half a surrogate pair is grammar, section 8.2
	{"i_string_invalid_*", "not UTF-8", "not UTF-8"},                     // section 8.1
	{"i_structure_bom*", "expecting 0..9 digit", "expecting 0..9 digit"}, // may be passed over by section 8.1, is not by browsers
	{"i_object_duplicate_*", "", ""},                                     // in objects that edge does not read, section 4
	{"i_array_nested_16", "levels deep", ""},                             // with the object around it that is 17, section 9
	{"i_array_nested_17*", "levels deep", ""},
	{"i_array_nested_31", "levels deep", ""},
	{"i_array_nested_32", "levels deep", "levels deep"},
	{"i_array_nested_33", "levels deep", "levels deep"},
	{"i_array_nested_301", "levels deep", "levels deep"}, // fastjson's own limit
	{"i_array_nested_2000", "levels deep", "levels deep"},
	{"i_object_nested_16", "levels deep", ""},
	{"i_object_nested_31", "levels deep", ""},
	{"i_object_nested_32", "levels deep", "levels deep"},
	{"i_object_nested_1000", "levels deep", "levels deep"},
}

// legalJSON is RFC 8259 as encoding/json reads it, and our limits.
func legalJSON(b []byte, depth, values int) bool {
	if !utf8.Valid(b) || !json.Valid(b) {
		return false
	}
	d, v := measureJSON(b)
	return d <= depth && v <= values
}

// jsonFile is a file of testdata/json: y_ must be accepted, n_ refused, i_ is in openJSON.
type jsonFile struct {
	name        string
	text        []byte
	socket, api string // a part of the error that it gets as data, "" if it is accepted
}

func readJSONFiles(t *testing.T) (files []jsonFile) {
	t.Helper()
	names, err := filepath.Glob("testdata/json/*.json")
	if err != nil || len(names) < 300 {
		t.Fatalf("%d files: %v", len(names), err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f := jsonFile{name: strings.TrimSuffix(filepath.Base(name), ".json"), text: text}
		if err := f.judge(); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

// judge finds what the file's name says of it.
func (f *jsonFile) judge() error {
	switch f.name[:2] {
	case "y_":
		return nil
	case "n_":
		f.socket, f.api = "invalid JSON", "invalid JSON"
		return nil
	case "i_":
		for _, o := range openJSON {
			if ok, _ := path.Match(o.pattern, f.name); ok {
				f.socket, f.api = o.socket, o.api
				return nil
			}
		}
	}
	return fmt.Errorf("%s: no verdict", f.name)
}

// TestJSONFiles takes every file through the guard alone, as a message, as the data of one and as the data of an event
// of the API.
func TestJSONFiles(t *testing.T) {
	for _, f := range readJSONFiles(t) {
		t.Run(f.name, func(t *testing.T) {
			f.check(t)
			f.asMessage(t)
			f.asEvent(t)
		})
	}
}

// check compares the verdict with that of encoding/json, and that of the guard alone with both.
func (f jsonFile) check(t *testing.T) {
	if valid := json.Valid(f.text); f.name[0] != 'i' && valid != (f.name[0] == 'y') {
		t.Errorf("encoding/json says %v", valid)
	}
	for _, limit := range []struct {
		depth, values int
		part          string
	}{{socketDepth - 1, SocketValues - 3, f.socket}, {APIDepth - 1, APIValues - 3, f.api}} { // what is around data counts
		_, _, err := CheckJSON(f.text, limit.depth, limit.values)
		if (err == nil) != (limit.part == "") || err != nil && !strings.Contains(err.Error(), limit.part) {
			t.Errorf("at most %d deep: got %v, want %q", limit.depth, err, limit.part)
		}
	}
	checkAgainstStd(t, f.text)
}

// asMessage reads the text as a message and as the data of a client event, which says the same when it is relayed.
func (f jsonFile) asMessage(t *testing.T) {
	const before, after = `{"event":"client-x","channel":"private-json","data":`, "}"
	for _, message := range [][]byte{f.text, slices.Concat([]byte(before), f.text, []byte(after))} {
		m, err := readMessage(new([]byte), message)
		legal, isData := legalJSON(message, socketDepth, SocketValues), len(message) > len(f.text)
		if isData && (err == nil) != legal || !legal && err == nil || isData && !contains(err, f.socket) {
			t.Errorf("%.200q: got %v, legal: %v, want %q", message, err, legal, f.socket)
		}
		if err == nil && isData && string(m.Data.Literal()) != relayed(f.text) {
			t.Errorf("%.200q: relayed as %.200q", message, m.Data.Literal())
		}
	}
}

// contains reports whether err says part; none if that is empty.
func contains(err error, part string) bool {
	return (err == nil) == (part == "") && (err == nil || strings.Contains(err.Error(), part))
}

// relayed is what subscribers get for data: a string as it is, anything else as compact JSON in a string.
func relayed(data []byte) string {
	data = bytes.Trim(data, " \t\r\n")
	if data[0] == '"' {
		return string(data)
	}
	return string(quoted(compactly(data)))
}

// asEvent reads the text as the data of an event of the API.
func (f jsonFile) asEvent(t *testing.T) {
	body := slices.Concat([]byte(`{"name":"e","channel":"a","data":`), f.text, []byte("}"))
	var found [len(TriggerFields)]Value
	_, err := ParseObject(nil, body, APIDepth, APIValues, TriggerFields[:], found[:])
	if legal := legalJSON(body, APIDepth, APIValues); (err == nil) != legal || !contains(err, f.api) {
		t.Errorf("%.200q: got %v, legal: %v, want %q", body, err, legal, f.api)
	}
	if err == nil && string(found[fieldData]) != compactly(f.text) {
		t.Errorf("%.200q: data is %.200q", body, found[fieldData])
	}
}

// TestHostileObjects compares ParseObject with encoding/json on random objects whose names stand for each other in many
// spellings: the members it finds, and the duplicates it refuses.
func TestHostileObjects(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	twice := 0
	for i := 0; i < 20_000 && !t.Failed(); i++ {
		b := randomObject(r)
		var found [3]Value
		_, err := ParseObject(nil, b, 100, 1_000_000, messageFields, found[:])
		members, duplicate := stdMembers(t, b)
		if (err != nil) != duplicate || err != nil && !strings.HasSuffix(err.Error(), " stands twice") {
			t.Errorf("%s: got %v, duplicates: %v", b, err, duplicate)
		}
		for i, name := range messageFields {
			if err == nil && string(found[i]) != compactly(members[name]) {
				t.Errorf("%s: %q is %s, want %s", b, name, found[i], members[name])
			}
		}
		if duplicate {
			twice++
		}
	}
	if twice == 0 || twice == 20_000 {
		t.Errorf("%d of 20,000 objects have duplicates", twice)
	}
	if t.Failed() {
		t.Logf("seed %d", seed)
	}
}

// randomObject makes an object of a few members, most of whose names are those of a message.
func randomObject(r *rand.Rand) []byte {
	names := []string{"event", "channel", "data", "event", "channel", "data", "Event", "event ", "eve", "", "données", "data\x00"}
	b := []byte(" {"[r.IntN(2):])
	for i := range r.IntN(6) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		for _, c := range names[r.IntN(len(names))] {
			if c < ' ' || r.IntN(8) == 0 {
				b = fmt.Appendf(b, []string{`\u%04x`, `\u%04X`}[r.IntN(2)], c)
			} else {
				b = utf8.AppendRune(b, c)
			}
		}
		b = appendRandomJSON(append(b, "\" : "[:3+r.IntN(2)]...), r, 2)
	}
	return append(b, '}')
}

// stdMembers returns the members of an object as encoding/json reads them, and whether one of a message's stands twice.
func stdMembers(t *testing.T, b []byte) (members map[string]json.RawMessage, duplicate bool) {
	t.Helper()
	members = make(map[string]json.RawMessage)
	d := json.NewDecoder(bytes.NewReader(b))
	d.Token() // {
	for d.More() {
		name, err := d.Token()
		var v json.RawMessage
		if err = errors.Join(err, d.Decode(&v)); err != nil {
			t.Fatalf("the generator made %q: %v", b, err)
		}
		key := name.(string)
		_, there := members[key]
		duplicate = duplicate || there && slices.Contains(messageFields, key)
		members[key] = v
	}
	return members, duplicate
}
