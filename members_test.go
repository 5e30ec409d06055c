package main

import (
	"slices"
	"strings"
	"testing"
)

// TestObjectMembers: what is not an object without doubts is refused, and of one that is nothing is changed.
func TestObjectMembers(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "unexpected end of JSON input",
		"null":                      "expected an object",
		`["a"]`:                     "expected an object",
		`{"a":1} x`:                 "invalid character 'x' after top-level value",
		"\ufeff{}":                  "invalid character 'ï' looking for beginning of value",
		"{\"a\":\"\xff\"}":          "not UTF-8",
		`{"a":1,"\u0061":2}`:        `"a" stands twice`,
		strings.Repeat("[", 10_001): "invalid character '[' exceeded max depth",
	} {
		if all, err := members([]byte(text)); err == nil || err.Error() != want || all != nil {
			t.Errorf("%.30q: %v, want %s", text, err, want)
		}
	}
	all, err := members([]byte("\n{ \"b\" : 1.50e400,\"A\":{ \"x\" : [] } , \"a\":\"\\ud800\" , \"\":null }\t"))
	want := []field{{"b", []byte("1.50e400")}, {"A", []byte(`{ "x" : [] }`)}, {"a", []byte(`"\ud800"`)}, {"", []byte("null")}}
	if err != nil || !slices.EqualFunc(all, want, func(a, b field) bool {
		return a.name == b.name && string(a.value) == string(b.value)
	}) {
		t.Errorf("%v, %q", err, all)
	}
}
