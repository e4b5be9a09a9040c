package resourceserver

import (
	"slices"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// maxArms is how many values of property_type are looked for one by one.
const maxArms = 8

// arms splits the condition of a query into several, one of which is true of
// each document that it is true of, so that an index has what each of them
// finds in the order wanted, and the database has only to merge: else it would
// walk through all of a listing_type, or sort. MongoDB does so by itself on a
// first page. Most queries have one arm, their condition.
func arms(q *Query) []query.Node {
	one := []query.Node{q.Where}
	if q.Where.Op != query.And || len(q.Order) != 2 || q.Order[0].Field != filterFields["date"] {
		return one
	}
	kinds, listing := -1, false
	for i := range q.Where.Nodes {
		switch n := &q.Where.Nodes[i]; {
		case n.Op == query.Eq && n.Field == filterFields["listing_type"]:
			listing = true
		case n.Op == query.In && n.Field == filterFields["property_type"]:
			kinds = i
		}
	}
	if !listing || kinds < 0 {
		return one
	}
	var values []any
	for _, v := range q.Where.Nodes[kinds].List {
		if !slices.Contains(values, v) {
			values = append(values, v)
		}
	}
	if len(values) == 0 || len(values) > maxArms {
		return one
	}
	all := make([]query.Node, len(values))
	for i, v := range values {
		all[i] = query.Node{Op: query.And, Nodes: slices.Clone(q.Where.Nodes)}
		all[i].Nodes[kinds] = query.Node{Op: query.Eq, Field: filterFields["property_type"], Value: v}
	}
	return all
}
