package query

import (
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// operators are the words of the dialect.
var operators = map[string]Op{
	"eq": Eq, "neq": Neq, "gt": Gt, "gte": Gte, "lt": Lt, "lte": Lte,
	"in": In, "is": Null, "like": Like, "ilike": Ilike, "fts": fullText, "plfts": plainText,
}

// foreign are operators that PostgREST has and this doesn't: a value that
// begins with one is no text that somebody looks for.
var foreign = map[string]bool{
	"match": true, "imatch": true, "isdistinct": true, "phfts": true, "wfts": true,
	"cs": true, "cd": true, "ov": true, "sl": true, "sr": true, "nxr": true, "nxl": true, "adj": true,
}

const (
	hintOperators i18n.Text = "there are eq, neq, gt, gte, lt, lte, in, is, like, ilike, fts and plfts, each also behind not."
	hintAlone     i18n.Text = "a value alone means eq; else it is operator.value, and the operators are eq, neq, gt, gte, lt, lte, in, is, like, ilike, fts and plfts, each also behind not."
)

// reasonAny is why a condition can't be one on a [Field.Any].
const reasonAny = "stands for several members, and is for full text alone"

// IsFilter reports whether a parameter of this name is a part of the filter.
func (fields Fields) IsFilter(name string) bool {
	switch name {
	case "and", "or", "not.and", "not.or":
		return true
	}
	return fields[name] != nil
}

// Parse reads the filter of a query string: the parameters that are named as
// a field, of which each value is one more condition, and and, or, not.and
// and not.or, once each. Other parameters are not looked at. The error is an
// *[Error].
func Parse(fields Fields, values url.Values) (Node, error) {
	var names []string
	length := 0
	for name, all := range values {
		if fields.IsFilter(name) {
			names = append(names, name)
			for _, v := range all {
				length += len(name) + len(v)
			}
		}
	}
	if names == nil {
		return Node{}, nil
	}
	slices.Sort(names) // one error of several, and one statement, whatever the order
	p := &parser{fields: fields}
	if length > MaxLength {
		p.parameter = names[0]
		return Node{}, p.fail(i18n.Textf("makes the filter too long: %d bytes is the limit", MaxLength), "")
	}
	var nodes []Node
	for _, name := range names {
		p.parameter = name
		f := fields[name]
		if f == nil && len(values[name]) > 1 {
			return Node{}, p.fail("is given more than once", i18n.Textf("put its conditions into one %s=(…)", name))
		}
		for _, v := range values[name] {
			if !wellFormed(v) {
				return Node{}, p.fail("must be valid Unicode text without the character U+0000", "")
			}
			var n Node
			var err error
			if f != nil {
				n, err = p.condition(f, v)
			} else {
				n, err = p.whole(name, v)
			}
			if err != nil {
				return Node{}, err
			}
			nodes = append(nodes, n)
		}
	}
	return both(nodes...), nil
}

func wellFormed(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

type parser struct {
	fields    Fields
	parameter string // being read
	terms     int
	rest      string // of a group
}

func (p *parser) fail(reason, hint i18n.Text) error { return &Error{p.parameter, reason, hint} }

// at is a reason of a syntax error, with its place and not the text there.
func (p *parser) at(reason i18n.Text, whole int) error {
	return p.fail(i18n.Textf("%s, after %d bytes", reason, whole-len(p.rest)), "put a value with , ( ) or \" in it between double quotes")
}

// condition reads the value of a parameter named as a field.
func (p *parser) condition(f *Field, v string) (Node, error) {
	rest, not := strings.CutPrefix(v, "not.")
	word, operand, dotted := strings.Cut(rest, ".")
	op, known := operators[word]
	switch {
	case dotted && known:
	case dotted && strings.HasSuffix(word, ")") && strings.Contains(word, "fts("):
		return Node{}, p.fail("names a language, which full text doesn't have here", "leave out the parentheses: words are compared as they are, but for case and accents")
	case dotted && foreign[word]:
		return Node{}, p.fail("has an operator that there isn't here", hintOperators)
	case not:
		return Node{}, p.fail("has no operator behind not.", hintOperators)
	default:
		op, operand = Eq, v
	}
	if op != In {
		return p.leaf(f, op, not, operand)
	}
	if f.Any != nil {
		return Node{}, p.fail(reasonAny, hintText)
	}
	p.rest = operand
	list, err := p.list(len(operand))
	if err == nil && p.rest != "" {
		err = p.at("has something behind the )", len(operand))
	}
	if err != nil {
		return Node{}, err
	}
	return p.members(f, not, list)
}

// whole reads the value of and, or, not.and or not.or.
func (p *parser) whole(name, v string) (Node, error) {
	word, not := strings.CutPrefix(name, "not.")
	p.rest = v
	n, err := p.group(word, not, 1, len(v))
	if err == nil && p.rest != "" {
		err = p.at("has something behind the )", len(v))
	}
	return n, err
}

// group reads (…, …) of an and or an or, which lies depth levels deep.
func (p *parser) group(word string, not bool, depth, whole int) (Node, error) {
	if depth > MaxDepth {
		return Node{}, p.fail(i18n.Textf("is nested too deep: %d levels is the limit", MaxDepth), "")
	}
	if !p.has('(') {
		return Node{}, p.at("lacks a (", whole)
	}
	n := Node{Op: And}
	if word == "or" {
		n.Op = Or
	}
	if not {
		n.Op = negated[n.Op]
	}
	for {
		one, err := p.term(not, depth, whole)
		if err != nil {
			return Node{}, err
		}
		n.Nodes = append(n.Nodes, one)
		switch {
		case p.has(','):
		case p.has(')'):
			return n, nil
		default:
			return Node{}, p.at("lacks a , or a )", whole)
		}
	}
}

func (p *parser) has(c byte) bool {
	if p.rest == "" || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

// name takes what comes before the next of . ( ) , and ".
func (p *parser) name() string {
	end := strings.IndexAny(p.rest, `.(),"`)
	if end < 0 {
		end = len(p.rest)
	}
	name := p.rest[:end]
	p.rest = p.rest[end:]
	return name
}

// term reads one term of a group; not is whether it stands under an odd
// number of nots.
func (p *parser) term(not bool, depth, whole int) (Node, error) {
	word := p.name()
	negate := not
	if word == "not" && p.has('.') {
		negate = !not
		if word = p.name(); word != "and" && word != "or" {
			return Node{}, p.at("has a not. that isn't followed by and or or", whole)
		}
	}
	if word == "and" || word == "or" {
		return p.group(word, negate, depth+1, whole)
	}
	f := p.fields[word]
	if f == nil {
		return Node{}, p.fail(i18n.Textf("names a field that doesn't exist, after %d bytes", whole-len(p.rest)-len(word)), "the fields are those of an inmueble")
	}
	if !p.has('.') {
		return Node{}, p.at("lacks an operator behind a field", whole)
	}
	word = p.name()
	if word == "not" && p.has('.') {
		negate = !negate
		word = p.name()
	}
	op, known := operators[word]
	if !known || !p.has('.') {
		return Node{}, p.fail(i18n.Textf("has an operator that there isn't here, after %d bytes", whole-len(p.rest)-len(word)), hintOperators)
	}
	if op == In {
		if f.Any != nil {
			return Node{}, p.fail(reasonAny, hintText)
		}
		list, err := p.list(whole)
		if err != nil {
			return Node{}, err
		}
		return p.members(f, negate, list)
	}
	operand, err := p.word(whole)
	if err != nil {
		return Node{}, err
	}
	return p.leaf(f, op, negate, operand)
}

// list reads the (…) of an in.
func (p *parser) list(whole int) ([]string, error) {
	if !p.has('(') {
		return nil, p.at("lacks a ( behind in.", whole)
	}
	if p.has(')') {
		return nil, nil
	}
	var list []string
	for {
		w, err := p.word(whole)
		if err != nil {
			return nil, err
		}
		list = append(list, w)
		switch {
		case p.has(','):
		case p.has(')'):
			return list, nil
		default:
			return nil, p.at("lacks a , or a )", whole)
		}
	}
}

// word reads a value of a group or a list, in quotes or not.
func (p *parser) word(whole int) (string, error) {
	if !p.has('"') {
		end := strings.IndexAny(p.rest, `,()"`)
		if end < 0 {
			end = len(p.rest)
		}
		w := p.rest[:end]
		p.rest = p.rest[end:]
		return w, nil
	}
	var b strings.Builder
	for i := 0; i < len(p.rest); i++ {
		switch c := p.rest[i]; c {
		case '"':
			p.rest = p.rest[i+1:]
			return b.String(), nil
		case '\\':
			if i++; i == len(p.rest) {
				return "", p.at(`has a " without its fellow`, whole)
			}
			b.WriteByte(p.rest[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", p.at(`has a " without its fellow`, whole)
}

// count takes note of n more terms.
func (p *parser) count(n int) error {
	if p.terms += n; p.terms > MaxTerms {
		return p.fail(i18n.Textf("makes the filter too large: %d conditions is the limit, each value of an in counted as one", MaxTerms), "")
	}
	return nil
}

func (p *parser) members(f *Field, not bool, list []string) (Node, error) {
	if err := p.count(max(1, len(list))); err != nil {
		return Node{}, err
	}
	n := Node{Op: In, Field: f}
	if not {
		n.Op = Nin
	}
	for _, text := range list {
		v, reason := f.value(text)
		if reason != "" {
			return Node{}, p.fail(i18n.Textf("has a value that %s", reason), "")
		}
		n.List = append(n.List, v)
	}
	return n, nil
}

// leaf makes a condition of its parts.
func (p *parser) leaf(f *Field, op Op, not bool, operand string) (Node, error) {
	if err := p.count(1); err != nil {
		return Node{}, err
	}
	if f.Any != nil && op != fullText && op != plainText {
		return Node{}, p.fail(reasonAny, hintText)
	}
	n := Node{Op: op, Field: f}
	switch op {
	case fullText, plainText:
		return p.fullText(f, op, not, operand)
	case Null:
		return p.is(f, not, operand)
	case Like, Ilike:
		if f.Kind != Text && f.Kind != Date {
			return Node{}, p.fail("is no text: like and ilike are for text alone", "")
		}
		pattern, reason := parsePattern(operand)
		if reason != "" {
			return Node{}, p.fail(reason, "")
		}
		n.Value = pattern
	default:
		v, reason := f.value(operand)
		if reason != "" {
			return Node{}, p.fail(i18n.Textf("has a value that %s", reason), hintAlone)
		}
		n.Value = v
	}
	if not {
		n.Op = negated[n.Op]
	}
	return n, nil
}

// is reads what comes behind is: about null, or a bool.
func (p *parser) is(f *Field, not bool, operand string) (Node, error) {
	switch word := strings.ToLower(operand); word {
	case "null", "not_null":
		if word == "not_null" {
			not = !not
		}
		switch {
		case !f.Nullable && not:
			return Node{}, nil // true of everything
		case !f.Nullable:
			return Node{Op: Or}, nil
		case not:
			return Node{Op: NotNull, Field: f}, nil
		}
		return Node{Op: Null, Field: f}, nil
	case "true", "false":
		if f.Kind != Bool {
			return Node{}, p.fail("is no bool: is.true and is.false are for is_active alone", "")
		}
		return Node{Op: Eq, Field: f, Value: (word == "true") != not}, nil
	}
	return Node{}, p.fail("has an is without null, not_null, true or false behind it", "")
}

// value reads a value of the field's kind, as a tree holds it. reason is "" or
// what is wrong with it.
func (f *Field) value(text string) (v any, reason i18n.Text) {
	switch f.Kind {
	case Text:
		return text, ""
	case Date:
		return DateKey(text), ""
	case Int:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, "isn't a whole number"
		}
		return n, ""
	case Float:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsInf(n, 0) || math.IsNaN(n) || strings.Trim(text, "0123456789+-.eE") != "" {
			return nil, "isn't a number"
		}
		return n + 0, "" // no -0
	case Bool:
		switch strings.ToLower(text) {
		case "true", "t":
			return true, ""
		case "false", "f":
			return false, ""
		}
		return nil, "isn't true or false"
	default:
		t, ok := parseDate(text)
		if !ok {
			return nil, "isn't a date of ISO 8601"
		}
		if t.Nanosecond()%int(time.Millisecond) != 0 {
			return nil, "is finer than a millisecond"
		}
		return t.UnixMilli(), ""
	}
}
