package query

import (
	"cmp"
	"strings"
)

// Match reports whether the tree is true of a document, of which value gives
// the fields: with their defaults, nil for null, dates as they were written.
// It is the meaning that the printers are held to.
func (n *Node) Match(value func(*Field) any) bool {
	switch n.Op {
	case And:
		for i := range n.Nodes {
			if !n.Nodes[i].Match(value) {
				return false
			}
		}
		return true
	case Or:
		for i := range n.Nodes {
			if n.Nodes[i].Match(value) {
				return true
			}
		}
		return false
	case Near:
		return n.Value.(*Circle).has(value)
	case Inside:
		return n.Value.(*Area).has(value)
	}
	v := value(n.Field)
	if v == nil {
		return n.Op == Null || n.Op == Nin && len(n.List) == 0
	}
	switch text, _ := v.(string); n.Op {
	case Like, Ilike:
		return MatchPattern(n.Value.(string), text, n.Op == Ilike)
	case Nlike, Nilike:
		return !MatchPattern(n.Value.(string), text, n.Op == Nilike)
	case Word, Nword:
		return MatchWord(n.Value.(string), text) == (n.Op == Word)
	}
	v = n.Field.key(v)
	switch n.Op {
	case Null, NotNull:
		return n.Op == NotNull
	case In, Nin:
		for _, one := range n.List {
			if compare(v, one) == 0 {
				return n.Op == In
			}
		}
		return n.Op == Nin
	}
	switch c := compare(v, n.Value); n.Op {
	case Eq:
		return c == 0
	case Neq:
		return c != 0
	case Gt:
		return c > 0
	case Gte:
		return c >= 0
	case Lt:
		return c < 0
	default:
		return c <= 0
	}
}

// of is the field's value in a document.
func (f *Field) of(value func(*Field) any) any {
	if f.from != nil {
		return f.from.haversine(value)
	}
	return value(f)
}

// key is what a value is compared by.
func (f *Field) key(v any) any {
	if text, ok := v.(string); ok && f.Kind == Date {
		return DateKey(text)
	}
	return v
}

// compare compares two values of one kind.
func compare(a, b any) int {
	switch a := a.(type) {
	case string:
		b, _ := b.(string)
		return strings.Compare(a, b) // in UTF-8 the order of bytes is that of code points
	case int64:
		b, _ := b.(int64)
		return cmp.Compare(a, b)
	case float64:
		b, _ := b.(float64)
		return cmp.Compare(a, b)
	case bool:
		b, _ := b.(bool)
		switch {
		case a == b:
			return 0
		case a:
			return 1
		}
		return -1
	}
	return 0
}

// Compare compares two documents by an order.
func (o Order) Compare(a, b func(*Field) any) int {
	for _, k := range o {
		x, y := k.Field.of(a), k.Field.of(b)
		if x == nil || y == nil {
			if x == nil && y == nil {
				continue
			}
			if (x == nil) == k.NullsFirst {
				return -1
			}
			return 1
		}
		if c := compare(k.Field.key(x), k.Field.key(y)); c != 0 {
			if k.Desc {
				return -c
			}
			return c
		}
	}
	return 0
}
