package query

import (
	"strings"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// Key is one field of an order.
type Key struct {
	Field      *Field
	Desc       bool
	NullsFirst bool
}

// Order is what a list is sorted by. [ParseOrder] makes it total: its last
// key is the _id.
type Order []Key

const nameID = "_id"

// ParseOrder reads the value of order: fields with a comma between, each with
// .asc or .desc and .nullsfirst or .nullslast behind it as wanted. Nulls come
// last ascending and first descending unless said. What the order leaves open
// the _id decides, against the direction of the last field: so date, date.desc
// and date.desc,_id are one index, read from either end.
func ParseOrder(fields Fields, text string) (Order, error) {
	fail := func(reason, hint i18n.Text) (Order, error) { return nil, &Error{"order", reason, hint} }
	var order Order
	if text != "" {
		for part := range strings.SplitSeq(text, ",") {
			words := strings.Split(part, ".")
			f := fields[words[0]]
			if f == nil {
				return fail("names a field that doesn't exist", "the fields are those of an inmueble")
			}
			if f.Long {
				return fail("names a field that is too long to order by", "")
			}
			k := Key{Field: f}
			words = words[1:]
			if len(words) > 0 && (words[0] == "asc" || words[0] == "desc") {
				k.Desc, words = words[0] == "desc", words[1:]
			}
			k.NullsFirst = k.Desc
			if len(words) > 0 && (words[0] == "nullsfirst" || words[0] == "nullslast") {
				k.NullsFirst, words = words[0] == "nullsfirst", words[1:]
			}
			if len(words) > 0 {
				return fail("has something behind a field that isn't a direction",
					"write field, field.asc or field.desc, and .nullsfirst or .nullslast behind that")
			}
			for _, other := range order {
				if other.Field == f {
					return fail("names a field twice", "")
				}
			}
			if order = append(order, k); len(order) > MaxOrder {
				return fail("names too many fields: 5 is the limit", "")
			}
		}
	}
	for i, k := range order {
		if k.Field.Name == nameID {
			return order[:i+1], nil // nothing is left to decide
		}
	}
	desc := len(order) > 0 && !order[len(order)-1].Desc
	return append(order, Key{Field: fields[nameID], Desc: desc, NullsFirst: desc}), nil
}

// String writes the order in one way, whichever way it was given.
func (o Order) String() string {
	var b strings.Builder
	for i, k := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(k.Field.Name)
		if k.Desc {
			b.WriteString(".desc")
		}
		if k.Field.Nullable && k.NullsFirst != k.Desc {
			if k.NullsFirst {
				b.WriteString(".nullsfirst")
			} else {
				b.WriteString(".nullslast")
			}
		}
	}
	return b.String()
}

// Reversed is the order backwards.
func (o Order) Reversed() Order {
	back := make(Order, len(o))
	for i, k := range o {
		back[i] = Key{k.Field, !k.Desc, !k.NullsFirst}
	}
	return back
}

// Seek splits what comes behind a document with these keys (dates by their
// [DateKey], nil for null) into parts: no document is in two of them, each is
// a range of an index on the order, and all of one comes before all of the
// next. So a page needs no more than its own documents, however deep it lies.
func (o Order) Seek(keys []any) []Node {
	var parts []Node
	for i := len(o) - 1; i >= 0; i-- {
		var same []Node
		for j := range o[:i] {
			if keys[j] == nil {
				same = append(same, Node{Op: Null, Field: o[j].Field})
			} else {
				same = append(same, o[j].Field.on(Eq, keys[j]))
			}
		}
		k := o[i]
		part := func(n Node) { parts = append(parts, both(append(same[:len(same):len(same)], n)...)) }
		switch {
		case keys[i] != nil:
			op := Gt
			if k.Desc {
				op = Lt
			}
			part(k.Field.on(op, keys[i]))
			if k.Field.Nullable && !k.NullsFirst {
				part(Node{Op: Null, Field: k.Field})
			}
		case k.NullsFirst:
			part(Node{Op: NotNull, Field: k.Field})
		}
	}
	return parts
}

// on is the condition that the field stands in a relation to a key.
func (f *Field) on(op Op, key any) Node {
	if v, ok := key.(float64); ok && f.from != nil {
		return f.from.on(op, v)
	}
	return Node{Op: op, Field: f, Value: key}
}
