package wire

// JSON from clients and from callers of the API: fastjson reads it, behind one guard.
//
// fastjson is a fast reader of JSON that somebody else has checked: it takes NaN, 01, a control character before an
// escape and any bytes for text, and needs 88 bytes for each value. What we act on must be what others read too, and
// what we decided on is what we pass on: values stay the bytes they came in, without the space between them.

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/valyala/fastjson"
)

// shape is FNV-1a, of what nobody outside can know the beginning.
const shapePrime = 1099511628211

var shapeSeed = rand.Uint64()

// CheckJSON is the guard: it returns an error unless b is one JSON text (RFC 8259) in UTF-8, at most depth levels deep
// and of at most values values. n is how many these are; an array or object with nothing but space in it counts twice.
// shape is the same for texts that differ in strings, numbers and words only. Names that stand twice are for pick.
func CheckJSON(b []byte, depth, values int) (n int, shape uint64, err error) {
	if !utf8.Valid(b) {
		return 0, 0, errors.New("invalid JSON: not UTF-8")
	}
	open := 0
	n, shape = 1, shapeSeed
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] < ' ' {
					return 0, 0, errors.New("invalid JSON: control character in a string")
				}
				if b[i] == '\\' {
					i++ // a quote does not end the string here
				}
			}
		case ',':
			n++
			shape = (shape ^ ',') * shapePrime
		case '[', '{':
			if i+1 < len(b) && b[i+1] != ']' && b[i+1] != '}' {
				n++ // the first of what is in it
			}
			shape = (shape ^ uint64(b[i])) * shapePrime
			if open++; open > depth {
				return 0, 0, fmt.Errorf("invalid JSON: nested more than %d levels deep", depth)
			}
		case ']', '}':
			open--
			shape = (shape ^ ']') * shapePrime
		case 't', 'f', 'n': // the error of fastjson would repeat all that follows
			rest := b[i:]
			if !bytes.HasPrefix(rest, []byte("true")) && !bytes.HasPrefix(rest, []byte("false")) &&
				!bytes.HasPrefix(rest, []byte("null")) {
				return 0, 0, errors.New("invalid JSON: a word that is not true, false or null")
			}
		}
	}
	if n > values {
		return 0, 0, fmt.Errorf("invalid JSON: more than %d values", values)
	}
	if err := fastjson.ValidateBytes(b); err != nil {
		return 0, 0, errors.New("invalid JSON: " + jsonProblem(err.Error()))
	}
	return n, shape, nil
}

// jsonProblem is what fastjson says of an error, on a line and without the brackets around it.
func jsonProblem(text string) string {
	what, at, _ := strings.Cut(text, "; unparsed tail: ")
	for strings.HasPrefix(what, "cannot parse ") {
		_, inner, ok := strings.Cut(what, ": ")
		if !ok {
			break
		}
		what = inner
	}
	if at == `""` {
		at = "the end"
	}
	if at != "" {
		what += " at " + at
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?' // it repeats a byte of the text
		}
		return r
	}, what)
}

// smallTree is how many values a text may have whose parser is kept for the next. Larger ones share one parser, one
// after the other, so that what clients make it hold stays bounded.
const smallTree = 256

// treeParser is a parser that is new again after a while. fastjson keeps, for each place in the order of values, room
// for the largest array or object that ever stood there: texts made for it could make it hold the square of what one
// has.
type treeParser struct {
	fastjson.Parser
	room  int    // bytes that it may keep by now
	shape uint64 // of the last text; only of the large one
}

const mostRoom, mostSmallRoom = 6 << 20, 128 << 10 // bytes that the large parser and a small one may keep

var (
	smallParsers = sync.Pool{New: func() any { return new(treeParser) }}
	largeParser  treeParser
	largeMu      sync.Mutex // guards largeParser
)

// ReadJSON has use look at the tree of b, if CheckJSON accepts b. The tree is valid until use returns, which must be
// soon, and must not read JSON itself.
func ReadJSON(b []byte, depth, values int, use func(*fastjson.Value) error) error {
	n, shape, err := CheckJSON(b, depth, values)
	if err != nil {
		return err
	}
	var p *treeParser
	room := 8*n + 32*bytes.Count(b, []byte(":")) // for values in arrays, and for members
	if n > smallTree || len(b) > MaxBuffer {     // of b it keeps a copy
		largeMu.Lock()
		defer largeMu.Unlock()
		p = &largeParser
		if shape != p.shape { // else there is room already
			p.room, p.shape = p.room+room, shape
		}
		if p.room > mostRoom || n > SocketValues { // so many only the API takes
			defer func() { largeParser = treeParser{} }()
		}
	} else {
		p = smallParsers.Get().(*treeParser)
		if p.room += room; p.room <= mostSmallRoom {
			defer smallParsers.Put(p)
		}
	}
	v, err := p.ParseBytes(b)
	if err != nil {
		return err
	}
	return use(v)
}

// Value is one JSON value that has been checked, without space between its tokens; nil if there was none.
type Value []byte

// appendValue appends v to dst, and returns it too. Nobody must have asked v for its type or text before: of a string
// fastjson appends what is not JSON then.
func appendValue(dst []byte, v *fastjson.Value) ([]byte, Value) {
	from := len(dst)
	dst = v.MarshalTo(dst)
	return dst, Value(dst[from:len(dst):len(dst)])
}

// Pick puts the named members of an object into found, which is as long as names and all nil. None of them may stand
// twice, however it is written: parsers disagree on which of two counts, so an object we decide by must not have any.
// Other members are passed over.
func Pick(object *fastjson.Value, names []string, found []*fastjson.Value) (err error) {
	o := object.GetObject()
	if o == nil {
		return errors.New("expected an object")
	}
	o.Visit(func(name []byte, member *fastjson.Value) {
		i := slices.Index(names, string(name))
		switch {
		case i < 0 || err != nil:
		case found[i] != nil:
			err = fmt.Errorf("%q stands twice", names[i])
		default:
			found[i] = member
		}
	})
	return err
}

// AppendMembers is pick for values that last: they lie in what it appends to dst, which it returns.
func AppendMembers(dst []byte, object *fastjson.Value, names []string, found []Value) ([]byte, error) {
	var members [maxFields]*fastjson.Value
	if err := Pick(object, names, members[:len(names)]); err != nil {
		return dst, err
	}
	for i, m := range members[:len(names)] {
		if m != nil {
			dst, found[i] = appendValue(dst, m)
		}
	}
	return dst, nil
}

// maxFields is how many members of one object we look for.
const maxFields = 8

// ParseObject is AppendMembers for a text, within the bounds of CheckJSON.
func ParseObject(dst, b []byte, depth, values int, names []string, found []Value) ([]byte, error) {
	err := ReadJSON(b, depth, values, func(v *fastjson.Value) (err error) {
		dst, err = AppendMembers(slices.Grow(dst, len(b)), v, names, found)
		return err
	})
	return dst, err
}

// ParseArray returns the first values of an array, most at most, and how many it has in all; none of anything else.
// They lie in what it appends to dst, which it returns.
func ParseArray(dst []byte, array Value, most int) (_ []byte, first []Value, all int) {
	if !array.Is('[') {
		return dst, nil, 0
	}
	// It was within these bounds as a part of another.
	ReadJSON(array, APIDepth, APIValues, func(v *fastjson.Value) error {
		items := v.GetArray()
		all = len(items)
		first = make([]Value, min(most, all))
		for i := range first {
			dst, first[i] = appendValue(dst, items[i])
		}
		return nil
	})
	return dst, first, all
}

// Is reports whether v begins with c: a quote for a string, a bracket for an object or array, n for null.
func (v Value) Is(c byte) bool { return len(v) > 0 && v[0] == c }

// absent reports whether v is null or not there, which counts as the same.
func (v Value) absent() bool { return v == nil || v.Is('n') }

// isInteger reports whether v is a number without fraction and exponent.
func (v Value) isInteger() bool {
	return len(v) > 0 && strings.IndexByte("-0123456789", v[0]) >= 0 && !bytes.ContainsAny(v, ".eE")
}

// Text returns what a string stands for: a part of it, or a copy if it has escapes. Half of a surrogate pair becomes
// U+FFFD, as with encoding/json; fastjson would lose what follows it.
func (v Value) Text() []byte {
	in := v[1 : len(v)-1]
	if bytes.IndexByte(in, '\\') < 0 {
		return in
	}
	out := make([]byte, 0, len(in))
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

// hex4 reads the four digits of an escape.
func hex4(b []byte) (r rune) {
	n, _ := strconv.ParseUint(string(b[:4]), 16, 16) // checked before
	return rune(n)
}

// AppendString appends s as a JSON string literal (RFC 8259 section 7). Bytes that are not UTF-8 become U+FFFD.
func AppendString[T string | []byte](dst []byte, s T) []byte {
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
			r, size = utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
			if r != utf8.RuneError || size > 1 {
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

// AppendComma appends a comma unless an array or object was just opened, so before each of its items.
func AppendComma(dst []byte) []byte {
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

// Exceeds reports whether an event that carries v has more than most bytes of data.
func (v Value) Exceeds(most int) bool {
	if v.Is('"') {
		raw := len(v) - 2 // a byte is written with one to six
		return raw > 6*most || raw > most && len(v.Text()) > most
	}
	return len(v) > most
}

// Literal returns v as the JSON string literal that an event carries as data. A string keeps the very bytes it came
// with; other values become a string that holds them.
func (v Value) Literal() []byte {
	if v.Is('"') {
		return v
	}
	if v == nil {
		v = Value("null")
	}
	return AppendString(make([]byte, 0, len(v)+len(v)/4), []byte(v))
}
