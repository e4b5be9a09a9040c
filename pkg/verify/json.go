package verify

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A strict JSON reader. encoding/json takes the last of two members of one
// name, matches names without regard to case, and replaces bad UTF-8: each is
// a way for two readers to see two different tokens (RFC 7515 §4, RFC 7519
// §4, RFC 8725 §2.6). This one refuses:
//
//   - two members of one name in an object, after unescaping
//   - text that is not UTF-8, and escapes that are half of a surrogate pair
//   - more than maxDepth levels of nesting
//   - anything after the value
//
// Strings without escapes are returned as parts of the input, so that a
// payload costs one allocation for all its strings.

const (
	// maxDepth is how deeply headers, claims and keys may nest. Ours nest two
	// deep.
	maxDepth = 16
	// maxLooseDepth is the same for what is only read past; it bounds the
	// stack.
	maxLooseDepth = 256
)

// manyMembers is from where on an object's names are kept in a map, so that
// no input costs quadratic time.
const manyMembers = 24

var (
	errSyntax    = errors.New("not valid JSON")
	errDuplicate = errors.New("a member appears twice")
	errDepth     = errors.New("nested too deeply")
	errKind      = errors.New("a member is of the wrong kind")
	errUnicode   = errors.New("text is not valid Unicode")
	errNumber    = errors.New("a number is out of range")
)

type reader struct {
	s     string
	i     int
	depth int

	// loose lets duplicate members and more levels pass: for reading past
	// foreign values that are judged by themselves later.
	loose bool

	// folded takes two names for one if they differ only in case, as
	// encoding/json does.
	folded bool
}

func (r *reader) space() {
	for r.i < len(r.s) {
		switch r.s[r.i] {
		case ' ', '\t', '\n', '\r':
			r.i++
		default:
			return
		}
	}
}

// peek is the first byte of the next token, or 0 at the end of the input.
func (r *reader) peek() byte {
	r.space()
	if r.i < len(r.s) {
		return r.s[r.i]
	}
	return 0
}

// eat reads c if it is the next token.
func (r *reader) eat(c byte) bool {
	if r.peek() != c {
		return false
	}
	r.i++
	return true
}

// end is an error unless all of the input has been read.
func (r *reader) end() error {
	if r.space(); r.i != len(r.s) {
		return errSyntax
	}
	return nil
}

// descend counts a level of nesting.
func (r *reader) descend() error {
	r.depth++
	if r.depth > maxLooseDepth || !r.loose && r.depth > maxDepth {
		return errDepth
	}
	return nil
}

// names is the set of member names seen in one object.
type names struct {
	list []string
	set  map[string]struct{}
}

// add reports whether name is new.
func (n *names) add(name string) bool {
	if n.set != nil {
		if _, seen := n.set[name]; seen {
			return false
		}
		n.set[name] = struct{}{}
		return true
	}
	for _, s := range n.list {
		if s == name {
			return false
		}
	}
	if n.list = append(n.list, name); len(n.list) == manyMembers {
		n.set = make(map[string]struct{}, 4*manyMembers)
		for _, s := range n.list {
			n.set[s] = struct{}{}
		}
	}
	return true
}

// object reads an object and calls member after each name; member must read
// exactly the value.
func (r *reader) object(member func(name string) error) error {
	if !r.eat('{') {
		return r.wrongKind()
	}
	if err := r.descend(); err != nil {
		return err
	}
	var buf [manyMembers]string
	seen := names{list: buf[:0]}
	if r.eat('}') {
		r.depth--
		return nil
	}
	for {
		name, err := r.str()
		if err != nil {
			return err
		}
		known := name
		if r.folded {
			known = fold(name)
		}
		if !r.loose && !seen.add(known) {
			return errDuplicate
		}
		if !r.eat(':') {
			return errSyntax
		}
		if err := member(name); err != nil {
			return err
		}
		if r.eat('}') {
			r.depth--
			return nil
		}
		if !r.eat(',') {
			return errSyntax
		}
	}
}

// array reads an array and calls element before each element; element must
// read exactly the element.
func (r *reader) array(element func() error) error {
	if !r.eat('[') {
		return r.wrongKind()
	}
	if err := r.descend(); err != nil {
		return err
	}
	if r.eat(']') {
		r.depth--
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if r.eat(']') {
			r.depth--
			return nil
		}
		if !r.eat(',') {
			return errSyntax
		}
	}
}

// wrongKind tells a well-formed value of another kind from no value at all.
func (r *reader) wrongKind() error {
	switch c := r.peek(); {
	case c == '{', c == '[', c == '"', c == '-', c == 't', c == 'f', c == 'n', '0' <= c && c <= '9':
		return errKind
	default:
		return errSyntax
	}
}

// value reads past any value.
func (r *reader) value() error {
	switch c := r.peek(); {
	case c == '{':
		return r.object(func(string) error { return r.value() })
	case c == '[':
		return r.array(r.value)
	case c == '"':
		_, err := r.str()
		return err
	case c == 't':
		return r.literal("true")
	case c == 'f':
		return r.literal("false")
	case c == 'n':
		return r.literal("null")
	default:
		_, err := r.number()
		return err
	}
}

func (r *reader) literal(want string) error {
	if !strings.HasPrefix(r.s[r.i:], want) {
		return errSyntax
	}
	r.i += len(want)
	return nil
}

// number reads a number and returns its text (RFC 8259 §6).
func (r *reader) number() (string, error) {
	c := r.peek()
	if c != '-' && (c < '0' || c > '9') {
		return "", r.wrongKind()
	}
	start := r.i
	if c == '-' {
		r.i++
	}
	// The integer part has no leading zero.
	whole := r.digits()
	if whole == 0 || (whole > 1 && r.s[r.i-whole] == '0') {
		return "", errSyntax
	}
	if r.i < len(r.s) && r.s[r.i] == '.' {
		r.i++
		if r.digits() == 0 {
			return "", errSyntax
		}
	}
	if r.i < len(r.s) && (r.s[r.i] == 'e' || r.s[r.i] == 'E') {
		r.i++
		if r.i < len(r.s) && (r.s[r.i] == '+' || r.s[r.i] == '-') {
			r.i++
		}
		if r.digits() == 0 {
			return "", errSyntax
		}
	}
	return r.s[start:r.i], nil
}

// digits reads digits and returns how many.
func (r *reader) digits() int {
	start := r.i
	for r.i < len(r.s) && '0' <= r.s[r.i] && r.s[r.i] <= '9' {
		r.i++
	}
	return r.i - start
}

// str reads a string.
func (r *reader) str() (string, error) {
	if r.peek() != '"' {
		return "", r.wrongKind()
	}
	r.i++
	start, ascii := r.i, true
	for ; r.i < len(r.s); r.i++ {
		switch c := r.s[r.i]; {
		case c == '"':
			s := r.s[start:r.i]
			if !ascii && !utf8.ValidString(s) {
				return "", errUnicode
			}
			r.i++
			return s, nil
		case c == '\\':
			return r.escaped(start)
		case c < ' ':
			return "", errSyntax
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return "", errSyntax
}

// escaped reads the rest of a string that began at start and whose first
// escape is at r.i.
func (r *reader) escaped(start int) (string, error) {
	out := append(make([]byte, 0, 2*(r.i-start)+16), r.s[start:r.i]...)
	for r.i < len(r.s) {
		c := r.s[r.i]
		r.i++
		switch {
		case c == '"':
			if !utf8.Valid(out) {
				return "", errUnicode
			}
			return string(out), nil
		case c < ' ':
			return "", errSyntax
		case c != '\\':
			out = append(out, c)
		default:
			var err error
			if out, err = r.escape(out); err != nil {
				return "", err
			}
		}
	}
	return "", errSyntax
}

// escape reads what follows a backslash and appends what it stands for.
func (r *reader) escape(out []byte) ([]byte, error) {
	if r.i >= len(r.s) {
		return nil, errSyntax
	}
	c := r.s[r.i]
	r.i++
	switch c {
	case '"', '\\', '/':
		return append(out, c), nil
	case 'b':
		return append(out, '\b'), nil
	case 'f':
		return append(out, '\f'), nil
	case 'n':
		return append(out, '\n'), nil
	case 'r':
		return append(out, '\r'), nil
	case 't':
		return append(out, '\t'), nil
	case 'u':
	default:
		return nil, errSyntax
	}
	u, err := r.hex4()
	if err != nil {
		return nil, err
	}
	if utf16.IsSurrogate(u) {
		if !strings.HasPrefix(r.s[r.i:], `\u`) {
			return nil, errUnicode
		}
		r.i += 2
		low, err := r.hex4()
		if err != nil {
			return nil, err
		}
		if u = utf16.DecodeRune(u, low); u == utf8.RuneError {
			return nil, errUnicode
		}
	}
	return utf8.AppendRune(out, u), nil
}

func (r *reader) hex4() (rune, error) {
	if len(r.s)-r.i < 4 {
		return 0, errSyntax
	}
	var u rune
	for _, c := range []byte(r.s[r.i : r.i+4]) {
		switch {
		case '0' <= c && c <= '9':
			u = u<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			u = u<<4 | rune(c-'a'+10)
		case 'A' <= c && c <= 'F':
			u = u<<4 | rune(c-'A'+10)
		default:
			return 0, errSyntax
		}
	}
	r.i += 4
	return u, nil
}

// maxInteger is up to where every JSON reader agrees on an integer
// (RFC 8259 §6).
const maxInteger = 1 << 53

// seconds reads a NumericDate (RFC 7519 §2): a JSON number of seconds since
// 1970, perhaps with a fraction. It returns the whole seconds below and above.
func (r *reader) seconds() (floor, ceil int64, err error) {
	text, err := r.number()
	if err != nil {
		return 0, 0, err
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		if n < -maxInteger || n > maxInteger {
			return 0, 0, errNumber
		}
		return n, n, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f < -maxInteger || f > maxInteger {
		return 0, 0, errNumber
	}
	floor = int64(f)
	if float64(floor) > f {
		floor--
	}
	ceil = floor
	if float64(ceil) < f {
		ceil++
	}
	return floor, ceil, nil
}

// wrap puts a reader's complaint under a sentinel error.
func wrap(sentinel, err error) error { return fmt.Errorf("%w: %w", sentinel, err) }
