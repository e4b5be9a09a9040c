package query

import (
	"regexp"
	"strings"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
)

// nothing matches no document, and needs no look at any.
var nothing = bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: bson.A{}}}}}

// WordsPath is where MongoDB's documents have their [Words], for an index. A
// document of another program may lack it.
const WordsPath = "_words"

// Mongo is the tree as a filter. A field that is missing, or null, has its
// default, or is null where it has none.
func (n *Node) Mongo() bson.D {
	exact := n.mongo()
	clauses := n.Clauses()
	if clauses == nil {
		return exact
	}
	all := bson.A{}
	for _, clause := range clauses {
		either := bson.A{nil} // what has no list of words is looked at
		for _, word := range clause {
			if beginning, ok := strings.CutSuffix(word, "*"); ok {
				either = append(either, primitive.Regex{Pattern: "^" + regexp.QuoteMeta(beginning)})
			} else {
				either = append(either, word)
			}
		}
		all = append(all, bson.D{{Key: WordsPath, Value: bson.D{{Key: "$in", Value: either}}}})
	}
	return bson.D{{Key: "$and", Value: append(all, exact)}}
}

func (n *Node) mongo() bson.D {
	f := n.Field
	on := func(path, operator string, v any) bson.D {
		return bson.D{{Key: path, Value: bson.D{{Key: operator, Value: v}}}}
	}
	switch n.Op {
	case And, Or:
		switch {
		case len(n.Nodes) == 0 && n.Op == And:
			return bson.D{}
		case len(n.Nodes) == 0:
			return nothing
		case len(n.Nodes) == 1:
			return n.Nodes[0].mongo()
		}
		all := make(bson.A, len(n.Nodes))
		for i := range n.Nodes {
			all[i] = n.Nodes[i].mongo()
		}
		if n.Op == And {
			return bson.D{{Key: "$and", Value: all}}
		}
		return bson.D{{Key: "$or", Value: all}}
	case Near:
		return n.Value.(*Circle).mongo()
	case Inside:
		return n.Value.(*Area).mongo()
	case Null:
		return on(f.Path, "$eq", nil)
	case NotNull:
		return on(f.Path, "$ne", nil)
	case In, Nin:
		return n.mongoList()
	case Eq, Neq:
		one := Node{Op: In, Field: f, List: []any{n.Value}}
		if n.Op == Neq {
			one.Op = Nin
		}
		return one.mongoList()
	case Like, Ilike, Nlike, Nilike, Word, Nword:
		pattern, _ := n.Value.(string)
		var expression primitive.Regex
		if n.Op == Word || n.Op == Nword {
			expression.Pattern = wordRegex(pattern)
		} else {
			expression.Pattern = regex(pattern, n.Op == Ilike || n.Op == Nilike)
		}
		not := n.Op == Nlike || n.Op == Nilike || n.Op == Nword
		d := bson.D{{Key: f.text(f.Path), Value: expression}}
		if not {
			d = on(f.text(f.Path), "$not", expression)
		}
		return n.withMissing(d, not)
	}
	return n.withMissing(on(f.Path, mongoOperators[n.Op], f.mongo(n.Value)), false)
}

var mongoOperators = [...]string{Gt: "$gt", Gte: "$gte", Lt: "$lt", Lte: "$lte"}

// withMissing makes d, which is true of a missing field if met says so, true
// of it where the condition is true of the default.
func (n *Node) withMissing(d bson.D, met bool) bson.D {
	f := n.Field
	if f.Default == nil {
		return d
	}
	wanted := n.Match(func(*Field) any { return f.Default })
	path := f.Path
	if n.Op >= Like {
		path = f.text(path)
	}
	switch {
	case wanted && !met:
		return bson.D{{Key: "$or", Value: bson.A{d, bson.D{{Key: path, Value: nil}}}}}
	case !wanted && met:
		return bson.D{{Key: "$and", Value: bson.A{d, bson.D{{Key: path, Value: bson.D{{Key: "$ne", Value: nil}}}}}}}
	}
	return d
}

// mongoList prints In, of which Eq is one with one value, and Nin.
func (n *Node) mongoList() bson.D {
	f := n.Field
	if len(n.List) == 0 {
		if n.Op == In {
			return nothing
		}
		return bson.D{}
	}
	list := make(bson.A, 0, len(n.List)+1)
	missing := n.Op == Nin && f.Nullable // null is not "not in" a list
	for _, v := range n.List {
		list = append(list, f.mongo(v))
		missing = missing || f.Default != nil && compare(v, f.Default) == 0
	}
	if missing {
		list = append(list, nil)
	}
	operator, value := "$in", any(list)
	switch {
	case n.Op == In && len(list) == 1:
		operator, value = "$eq", list[0]
	case n.Op == Nin && len(list) == 1:
		operator, value = "$ne", list[0]
	case n.Op == Nin:
		operator = "$nin"
	}
	return bson.D{{Key: f.Path, Value: bson.D{{Key: operator, Value: value}}}}
}

// mongo is a value as the documents have it.
func (f *Field) mongo(v any) any {
	if ms, ok := v.(int64); ok && f.Kind == Time {
		return primitive.DateTime(ms)
	}
	return v
}

// MongoSort is the order as MongoDB sorts. computed, unless it is empty, has
// the members that must be added first: an order whose nulls come where
// MongoDB wouldn't put them, or in which a missing field has a default, is of
// values that no index has.
func (o Order) MongoSort() (sort, computed bson.D) {
	direction := func(desc bool) int {
		if desc {
			return -1
		}
		return 1
	}
	for i, k := range o {
		f := k.Field
		n := string(rune('0' + i))
		path := f.Path
		switch {
		case f.from != nil:
			computed = append(computed, bson.E{Key: path, Value: f.from.mongoDistance()})
		case f.Default != nil:
			path = "_value" + n
			computed = append(computed, bson.E{Key: path, Value: bson.D{{Key: "$ifNull", Value: bson.A{"$" + f.Path, f.mongo(f.Default)}}}})
		case f.Nullable && k.NullsFirst == k.Desc: // MongoDB takes a null for the least of values
			null := "_null" + n
			computed = append(computed, bson.E{Key: null, Value: bson.D{{Key: "$lte", Value: bson.A{"$" + f.Path, nil}}}})
			sort = append(sort, bson.E{Key: null, Value: direction(k.NullsFirst)})
		}
		sort = append(sort, bson.E{Key: path, Value: direction(k.Desc)})
	}
	return sort, computed
}
