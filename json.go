package main

// JSON from outside is read in one pass, parseObject, which accepts exactly the grammar of RFC 8259 within our limits, and
// finds the members we act on. Values stay the bytes they came in: nothing is allocated for them, and what we decided on is
// what we pass on.

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"math"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonError says where a text stops being JSON that we accept.
type jsonError struct {
	what string
	at   int // offset in bytes
}

func (e *jsonError) Error() string { return fmt.Sprintf("invalid JSON at byte %d: %s", e.at, e.what) }

// checkJSON returns nil if b is one JSON text (RFC 8259) in UTF-8, nested at most depth deep and made of at most values
// values. It does not allocate unless it returns an error, and does not look for duplicate names: parseObject does.
func checkJSON(b []byte, depth, values int) error {
	s := jsonScanner{b: b, depth: depth, values: values}
	return s.scan()
}

// parseObject is checkJSON for a text that must be an object. It puts the values of the named members, which are parts of b,
// into found (as long as names, at most eight, all nil). None of those may stand twice: parsers disagree on which of two counts, so an object
// we decide by must not have any. Members with other names are passed over.
func parseObject(b []byte, depth, values int, names []string, found []value) error {
	s := jsonScanner{b: b, depth: depth, values: values, outermost: depth - 1, names: names}
	if err := s.scan(); err != nil {
		return err
	}
	for i := range found {
		if at := s.places[i]; at.to > 0 {
			found[i] = b[at.from:at.to]
		}
	}
	if b = bytes.TrimLeft(b, " \t\n\r"); b[0] != '{' {
		return errors.New("expected an object")
	}
	if s.twice != "" {
		return fmt.Errorf("%q stands twice", s.twice)
	}
	return nil
}

// jsonScanner walks over b. Its methods return "" or what is wrong at i.
type jsonScanner struct {
	b      []byte
	i      int
	depth  int // levels that may still be opened
	values int // values that may still come

	outermost int // depth within the outermost object, whose members with these names are looked for
	names     []string
	places    [8]struct{ from, to int } // of their values; not the values, or the compiler would put all of this on the heap
	twice     string                    // the first of names that stands twice
}

// scan checks all of b.
func (s *jsonScanner) scan() error {
	if !utf8.Valid(s.b) {
		return &jsonError{"not UTF-8", 0}
	}
	s.space()
	what := s.value()
	if what == "" {
		s.space()
		if s.i < len(s.b) {
			what = "more text after the value"
		}
	}
	if what != "" {
		return &jsonError{what, s.i}
	}
	return nil
}

// peek returns the byte at i.
func (s *jsonScanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0 // never legal outside a string, so that it needs no second return value
}

func (s *jsonScanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

func (s *jsonScanner) value() string {
	if s.values--; s.values < 0 {
		return "too many values"
	}
	switch c := s.peek(); {
	case c == '{':
		return s.list('}')
	case c == '[':
		return s.list(']')
	case c == '"':
		return s.text()
	case c == '-' || isDigit(c):
		return s.number()
	case c == 't':
		return s.word("true")
	case c == 'f':
		return s.word("false")
	case c == 'n':
		return s.word("null")
	case s.i >= len(s.b):
		return "unexpected end"
	}
	return "expected a value"
}

// list scans an array or an object whose opening bracket is at i.
func (s *jsonScanner) list(end byte) string {
	if s.depth--; s.depth < 0 {
		return "nested too deep"
	}
	s.i++
	s.space()
	for first := true; s.peek() != end; first = false {
		if !first {
			if s.peek() != ',' {
				return "expected a comma or the closing bracket"
			}
			s.i++
			s.space()
		}
		var what string
		if end == '}' {
			what = s.member()
		} else {
			what = s.value()
		}
		if what != "" {
			return what
		}
		s.space()
	}
	s.i++
	s.depth++
	return ""
}

func (s *jsonScanner) member() string {
	if s.peek() != '"' {
		return "expected a name in quotes"
	}
	from := s.i
	if what := s.text(); what != "" {
		return what
	}
	name := value(s.b[from:s.i])
	s.space()
	if s.peek() != ':' {
		return "expected a colon"
	}
	s.i++
	s.space()
	from = s.i
	what := s.value()
	if what == "" && s.depth == s.outermost && len(s.names) > 0 {
		s.note(name, from)
	}
	return what
}

// note keeps the place of a member of the outermost object, from…i, if it is one of those looked for.
func (s *jsonScanner) note(name value, from int) {
	text := name[1 : len(name)-1]
	if bytes.IndexByte(text, '\\') >= 0 {
		var b [128]byte
		if len(text) > len(b) {
			return // none of ours is that long, however it is written
		}
		text = name.appendText(b[:0])
	}
	for i, n := range s.names {
		if string(text) != n {
			continue
		}
		if s.places[i].to > 0 && s.twice == "" {
			s.twice = n
		}
		s.places[i].from, s.places[i].to = from, s.i
	}
}

// text scans a string whose opening quote is at i.
func (s *jsonScanner) text() string {
	for s.i++; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return ""
		case c < 0x20:
			return "control character in a string"
		case c == '\\':
			s.i++
			if what := s.escape(); what != "" {
				return what
			}
		}
	}
	return "string without an end"
}

// escape scans what follows a backslash and leaves i on its last byte.
func (s *jsonScanner) escape() string {
	switch s.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return ""
	case 'u':
		for range 4 {
			s.i++
			if !isHex(s.peek()) {
				return "expected four hexadecimal digits"
			}
		}
		return ""
	}
	return "unknown escape"
}

// number scans a number; it goes by the grammar only, so 1e400 is one.
func (s *jsonScanner) number() string {
	if s.peek() == '-' {
		s.i++
	}
	if s.peek() == '0' {
		s.i++
	} else if !s.digits() {
		return "expected a digit"
	}
	if s.peek() == '.' {
		s.i++
		if !s.digits() {
			return "expected a digit after the point"
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.i++
		if c := s.peek(); c == '+' || c == '-' {
			s.i++
		}
		if !s.digits() {
			return "expected a digit in the exponent"
		}
	}
	return ""
}

func (s *jsonScanner) digits() bool {
	from := s.i
	for isDigit(s.peek()) {
		s.i++
	}
	return s.i > from
}

func (s *jsonScanner) word(w string) string {
	if len(s.b)-s.i < len(w) || string(s.b[s.i:s.i+len(w)]) != w {
		return "expected a value"
	}
	s.i += len(w)
	return ""
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isHex(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }

// isInteger reports whether the JSON token is a number without fraction and exponent.
func isInteger(token []byte) bool {
	s := jsonScanner{b: token}
	return s.number() == "" && s.i == len(token) && !bytes.ContainsAny(token, ".eE")
}

// value is the text of one JSON value that has been checked, without space around it; nil if there was none.
type value []byte

// is reports whether v begins with c: a quote for a string, a bracket for an object or array, n for null.
func (v value) is(c byte) bool { return len(v) > 0 && v[0] == c }

// absent reports whether v is null or not there, which counts as the same.
func (v value) absent() bool { return v == nil || v.is('n') }

// text returns what a string stands for: a part of it, or a copy if it has escapes. Half of a surrogate pair becomes U+FFFD.
func (v value) text() []byte {
	in := v[1 : len(v)-1]
	if bytes.IndexByte(in, '\\') < 0 {
		return in
	}
	return v.appendText(make([]byte, 0, len(in)))
}

// appendText appends what a string stands for.
func (v value) appendText(out []byte) []byte {
	in := v[1 : len(v)-1]
	for i := 0; i < len(in); i++ {
		if in[i] != '\\' {
			out = append(out, in[i])
			continue
		}
		i++
		if in[i] == 'u' {
			r := hex4(in[i+1:])
			i += 4
			if rest := in[i+1:]; utf16.IsSurrogate(r) {
				second := rune(0)
				if len(rest) >= 6 && rest[0] == '\\' && rest[1] == 'u' {
					second = hex4(rest[2:])
				}
				if r = utf16.DecodeRune(r, second); r != utf8.RuneError {
					i += 6
				}
			}
			out = utf8.AppendRune(out, r)
		} else if at := strings.IndexByte("bfnrt", in[i]); at >= 0 {
			out = append(out, "\b\f\n\r\t"[at])
		} else {
			out = append(out, in[i]) // a quote, a backslash or a slash
		}
	}
	return out
}

// items yields the values of an array; of anything else none.
func (v value) items() iter.Seq[value] {
	return func(yield func(value) bool) {
		if !v.is('[') {
			return
		}
		s := jsonScanner{b: v, i: 1, depth: math.MaxInt, values: math.MaxInt} // v has been checked
		for s.space(); s.peek() != ']'; s.space() {
			if s.peek() == ',' {
				s.i++
				s.space()
			}
			from := s.i
			if s.value(); !yield(v[from:s.i]) {
				return
			}
		}
	}
}

// members yields the names and values of an object's members; of anything else none. Values are parts of v.
func (v value) members() iter.Seq2[string, value] {
	return func(yield func(string, value) bool) {
		if !v.is('{') {
			return
		}
		s := jsonScanner{b: v, i: 1, depth: math.MaxInt, values: math.MaxInt} // v has been checked
		for s.space(); s.peek() != '}'; s.space() {
			if s.peek() == ',' {
				s.i++
				s.space()
			}
			from := s.i
			s.text()
			name := value(v[from:s.i]).text()
			s.space()
			s.i++ // the colon
			s.space()
			from = s.i
			if s.value(); !yield(string(name), v[from:s.i]) {
				return
			}
		}
	}
}

// first returns the first n items, and how many there are in all.
func (v value) first(n int) (items []value, all int) {
	for item := range v.items() {
		if all++; all <= n {
			items = append(items, item)
		}
	}
	return items, all
}

// compact yields the bytes of v without the space between its tokens.
func (v value) compact(yield func(c byte) bool) {
	quoted, escaped := false, false
	for _, c := range v {
		switch {
		case escaped:
			escaped = false
		case c == '\\':
			escaped = true
		case c == '"':
			quoted = !quoted
		case !quoted && c <= ' ':
			continue
		}
		if !yield(c) {
			return
		}
	}
}

// appendCompact appends v without the space between its tokens.
func (v value) appendCompact(dst []byte) []byte {
	for c := range v.compact {
		dst = append(dst, c)
	}
	return dst
}

// decodedLen returns how many bytes of UTF-8 the JSON string literal (quotes included, already checked) stands for.
func decodedLen(literal []byte) int {
	n := len(literal) - 2
	for i := 1; i < len(literal)-1; i++ {
		if literal[i] != '\\' {
			continue
		}
		i++
		n--
		if literal[i] != 'u' {
			continue
		}
		r := hex4(literal[i+1:])
		i += 4
		switch {
		case r < 0x80:
			n -= 4
		case r < 0x800:
			n -= 3
		case 0xd800 <= r && r < 0xe000:
			n -= 3 // half of a pair, which is four bytes together
		default:
			n -= 2
		}
	}
	return n
}

// hex4 reads the four digits of an escape.
func hex4(b []byte) (r rune) {
	for _, c := range b[:4] {
		if isDigit(c) {
			r = r<<4 | rune(c-'0')
		} else {
			r = r<<4 | rune(c|0x20-'a'+10)
		}
	}
	return r
}

// appendString appends s as a JSON string literal (RFC 8259 section 7). Bytes that are not UTF-8 become U+FFFD.
func appendString[T string | []byte](dst []byte, s T) []byte {
	dst = append(dst, '"')
	from := 0 // what is not yet copied
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		size := 1
		if c >= utf8.RuneSelf {
			var r rune
			if r, size = utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))])); r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
		}
		dst = append(dst, s[from:i]...)
		dst = appendEscape(dst, c)
		i += size
		from = i
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

// appendComma appends a comma unless an array or object was just opened, so before each of its items.
func appendComma(dst []byte) []byte {
	if c := dst[len(dst)-1]; c == '[' || c == '{' {
		return dst
	}
	return append(dst, ',')
}

// appendEscape appends the escape for a byte that cannot stand for itself.
func appendEscape(dst []byte, c byte) []byte {
	const digits = "0123456789abcdef"
	switch {
	case c == '"' || c == '\\':
		return append(dst, '\\', c)
	case c == '\n':
		return append(dst, `\n`...)
	case c == '\r':
		return append(dst, `\r`...)
	case c == '\t':
		return append(dst, `\t`...)
	case c < 0x20:
		return append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
	}
	return append(dst, "\uFFFD"...)
}
