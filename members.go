package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// field is a member of a JSON object, with its value as it was written.
type field struct {
	name  string
	value json.RawMessage
}

// members reads a JSON object in UTF-8, for those who have time: its members stay in their order, and their values the bytes they
// came in. No name may stand twice: parsers disagree on which of two counts.
func members(b []byte) (all []field, err error) {
	if !utf8.Valid(b) {
		return nil, errors.New("not UTF-8")
	}
	if err := json.Unmarshal(b, new(json.RawMessage)); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b)) // which finds nothing wrong any more
	if open, _ := d.Token(); open != json.Delim('{') {
		return nil, errors.New("expected an object")
	}
	seen := map[string]bool{}
	for d.More() {
		name, _ := d.Token()
		f := field{name: name.(string)}
		d.Decode(&f.value)
		if seen[f.name] {
			return nil, fmt.Errorf("%.100q stands twice", f.name)
		}
		seen[f.name] = true
		all = append(all, f)
	}
	return all, nil
}
