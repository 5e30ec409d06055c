package main

// Client bytes meet three things here, in this order: checkJSON, which accepts exactly the grammar of RFC 8259 within
// our limits and allocates nothing; fastjson, which then only finds fields; and members, which refuses a field that
// stands twice. fastjson alone would accept much that is not JSON and spend megabytes on a few hundred bytes.

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"github.com/valyala/fastjson"
)

// jsonError says where a text stops being JSON that we accept.
type jsonError struct {
	what string
	at   int // offset in bytes
}

func (e *jsonError) Error() string { return fmt.Sprintf("invalid JSON at byte %d: %s", e.at, e.what) }

// checkJSON returns nil if b is one JSON text (RFC 8259) in UTF-8, nested at most depth deep and made of at most values
// values. It does not allocate unless it returns an error, and does not look for duplicate names: members does.
func checkJSON(b []byte, depth, values int) error {
	s := jsonScanner{b: b, depth: depth, values: values}
	if !utf8.Valid(b) {
		return &jsonError{"not UTF-8", 0}
	}
	s.space()
	what := s.value()
	if what == "" {
		s.space()
		if s.i < len(b) {
			what = "more text after the value"
		}
	}
	if what != "" {
		return &jsonError{what, s.i}
	}
	return nil
}

// jsonScanner walks over b. Its methods return "" or what is wrong at i.
type jsonScanner struct {
	b      []byte
	i      int
	depth  int // levels that may still be opened
	values int // values that may still come
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
		return s.list('}', s.member)
	case c == '[':
		return s.list(']', s.value)
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
func (s *jsonScanner) list(end byte, item func() string) string {
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
		if what := item(); what != "" {
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
	if what := s.text(); what != "" {
		return what
	}
	s.space()
	if s.peek() != ':' {
		return "expected a colon"
	}
	s.i++
	s.space()
	return s.value()
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

// members puts the values of the named members of o into found (as long as names; nil where there is none) and returns
// the first of the names that o holds twice, or "". Parsers disagree on which of two counts, so an object we decide by
// must not have any. Members with other names are passed over.
func members(o *fastjson.Object, names []string, found []*fastjson.Value) (twice string) {
	o.Visit(func(key []byte, v *fastjson.Value) {
		for i, name := range names {
			if string(key) != name {
				continue
			}
			if found[i] != nil && twice == "" {
				twice = name
			}
			found[i] = v
		}
	})
	return twice
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
// fastjson's own escaper writes Go's escapes, which are not JSON's.
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
