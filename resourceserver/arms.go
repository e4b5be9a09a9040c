package resourceserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"github.com/urbandata/urbandata/resourceserver/query"
)

const (
	// maxArms is how many values of property_type are looked for one by one.
	maxArms = 8

	// manyDocuments is from how many on a condition on start_month is looked
	// for value by value: with fewer, what an index passes by instead is less
	// than what that costs.
	manyDocuments = 50_000
)

// arms splits the condition of a query into several, one of which is true of
// each document that it is true of, so that an index has what each of them
// finds in the order wanted, and the database has only to merge: else it would
// walk through all of a listing_type, or sort. MongoDB does so by itself on a
// first page. Most queries have one arm, their condition.
func arms(q *Query) []query.Node {
	one := []query.Node{q.Where}
	if !q.byDateOfListing() {
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
	values := distinct(q.Where.Nodes[kinds].List)
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

// byDateOfListing reports whether the query is one whose condition may be
// split: several conditions, by date.
func (q *Query) byDateOfListing() bool {
	return q.Where.Op == query.And && len(q.Order) == 2 && q.Order[0].Field == filterFields["date"]
}

func distinct(list []any) (values []any) {
	for _, v := range list {
		if !slices.Contains(values, v) {
			values = append(values, v)
		}
	}
	return values
}

// A range of months, behind a listing_type and a property_type and by date,
// has no index: one that has the month before the date has each month's rows
// in order, and one that has it behind passes by all that are newer and of
// another month, more of them the more there are. So the months take the place
// of the range, each of which an index has in order. Nothing keeps a client
// from writing others than the twelve: these are looked for as well.

// monthRange is what a query asks of the month, apart from the rest.
type monthRange struct {
	listing any
	kinds   []any
	month   query.Node // all conditions on start_month together
	rest    []query.Node
}

// months finds a range of months that values can take the place of.
func (q *Query) months() (r monthRange, ok bool) {
	if !q.byDateOfListing() {
		return r, false
	}
	r.month.Op = query.And
	for _, n := range q.Where.Nodes {
		switch {
		case n.Field == filterFields["start_month"]:
			r.month.Nodes = append(r.month.Nodes, n)
		case n.Op == query.Eq && n.Field == filterFields["listing_type"] && r.listing == nil:
			r.listing = n.Value
		case n.Op == query.Eq && n.Field == filterFields["property_type"] && r.kinds == nil:
			r.kinds = []any{n.Value}
		case n.Op == query.In && n.Field == filterFields["property_type"] && r.kinds == nil:
			r.kinds = distinct(n.List)
		default:
			r.rest = append(r.rest, n)
		}
	}
	return r, r.listing != nil && len(r.kinds) > 0 && len(r.kinds) <= maxArms && len(r.month.Nodes) > 0
}

// among are those of the twelve months that the range has.
func (r *monthRange) among() (months []any) {
	for month := int64(1); month <= 12; month++ {
		if r.month.Match(func(*query.Field) any { return month }) {
			months = append(months, month)
		}
	}
	return months
}

// The columns of the index inmuebles_month, as it has them.
const (
	sqliteMonth   = `(CASE WHEN document ->> '$.start_month' IN (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12) THEN document ->> '$.start_month' ELSE 0 END)`
	sqliteDateKey = `(coalesce(document ->> '$.date_key', document ->> '$.date'))`
)

// byMonths reports whether months are to take the place of a range of them:
// not where the documents are few, or found by another index.
func (s *SQLite) byMonths(ctx context.Context, q *Query, from *candidates) (bool, error) {
	if r, ok := q.months(); !ok || !from.all() || len(r.among()) == 12 {
		return false, nil
	}
	n, err := s.size(ctx)
	return n >= s.many, err
}

// monthsSQL is findSQL for a query with a range of months: the index has what
// all arms are merged by, and only the rows of the page are fetched.
func monthsSQL(q *Query, one *step, keyed bool) (text string, args []any) {
	r, _ := q.months()
	rest := query.Join(query.Node{Op: query.And, Nodes: r.rest}, one.part)
	rest = rest.Replaced(filterFields["date"], sqliteDateKey)
	order := "key, name"
	switch {
	case slices.ContainsFunc(one.part.Nodes, func(n query.Node) bool { return n.Op == query.Eq && n.Field == filterFields["date"] }):
		order = "name" // with one date in the order SQLite would sort by it
	case q.Order[0].Desc:
		order = "key DESC, name"
	}
	if q.Order[1].Desc {
		order += " DESC"
	}
	// All arms have the same values, by their numbers: to give SQLite one costs
	// as much as a row. A packed row's is the first.
	head := "SELECT " + sqliteColumns + ", key FROM ("
	if !keyed {
		head, args = "SELECT CAST(group_concat(packed, '"+rowMark+"') AS BLOB), count(*) FROM (SELECT "+packedColumns+" FROM (", append(args, maxPageBytes/(q.Limit+1))
	}
	first := len(args) + 1
	args = append(append(args, r.listing), r.kinds...)
	number := func(n *query.Node) string {
		text, more := n.AppendSQL(nil, nil)
		var b strings.Builder
		for part := range strings.SplitAfterSeq(string(text), "?") {
			if b.WriteString(part); strings.HasSuffix(part, "?") {
				b.WriteString(strconv.Itoa(len(args) + 1))
				args, more = append(args, more[0]), more[1:]
			}
		}
		return b.String()
	}
	behind, others := number(&rest), number(&r.month)
	b := append(make([]byte, 0, 8<<10), head...)
	for i := range r.kinds {
		for j, month := range append(r.among(), int64(0)) {
			if i+j > 0 {
				b = append(b, " UNION ALL "...)
			}
			b = fmt.Appendf(b, "SELECT seq AS row, %s AS key, id AS name FROM inmuebles WHERE listing_type = ?%d AND property_type = ?%d AND %s = %d AND %s",
				sqliteDateKey, first, first+1+i, sqliteMonth, month, behind)
			if month == int64(0) {
				b = append(b, " AND "+others...)
			}
		}
	}
	b = fmt.Appendf(b, " ORDER BY %[1]s LIMIT ?%[2]d+0 OFFSET ?%[3]d) CROSS JOIN inmuebles ON seq = row ORDER BY %[1]s", order, len(args)+1, len(args)+2)
	if !keyed {
		b = fmt.Appendf(b, " LIMIT ?%d+0)", len(args)+1) // with one, an aggregate has the rows in their order
	}
	return string(b), args
}

// byMonths is q with those of the twelve months that are wanted in the place of
// a range of them, which finds the same if no document has another month that
// is wanted: one that others finds. MongoDB makes arms of the months. ok is
// false where there is nothing to gain.
func (s *Mongo) byMonths(ctx context.Context, q *Query) (by Query, others query.Node, ok bool, err error) {
	r, ok := q.months()
	months := r.among()
	if !ok || len(months) == 12 { // nothing to pass by
		return by, others, false, nil
	}
	if n, err := s.size(ctx); err != nil || n < s.many {
		return by, others, false, err
	}
	with := func(month ...query.Node) query.Node {
		return query.Node{Op: query.And, Nodes: append([]query.Node{
			{Op: query.Eq, Field: filterFields["listing_type"], Value: r.listing},
			{Op: query.In, Field: filterFields["property_type"], List: r.kinds},
		}, month...)}
	}
	var twelve []any
	for month := int64(1); month <= 12; month++ {
		twelve = append(twelve, month)
	}
	by = *q
	by.Where = with(append(r.rest, query.Node{Op: query.In, Field: filterFields["start_month"], List: months})...)
	return by, with(r.month, query.Node{Op: query.Nin, Field: filterFields["start_month"], List: twelve}), true, nil
}

// eachMonth splits arms further, where months are asked for one by one: each
// arm, behind a cursor, then has an index in its order. MongoDB splits them by
// itself on a first page.
func eachMonth(arms []query.Node) (all []query.Node) {
	for _, arm := range arms {
		months := -1
		if arm.Op == query.And {
			months = slices.IndexFunc(arm.Nodes, func(n query.Node) bool {
				return n.Op == query.In && n.Field == filterFields["start_month"] && len(n.List) > 0 && len(n.List) <= 12
			})
		}
		if months < 0 {
			all = append(all, arm)
			continue
		}
		for _, month := range distinct(arm.Nodes[months].List) {
			one := query.Node{Op: query.And, Nodes: slices.Clone(arm.Nodes)}
			one.Nodes[months] = query.Node{Op: query.Eq, Field: filterFields["start_month"], Value: month}
			all = append(all, one)
		}
	}
	return all
}

// monthsIndex is the one that has a month's documents in their order. Behind a
// cursor there are dozens of arms, for each of which MongoDB would weigh all
// indexes.
var monthsIndex = bson.D{
	{Key: "listing_type", Value: 1},
	{Key: "property_type", Value: 1},
	{Key: "start_month", Value: 1},
	{Key: "date_key", Value: -1},
	{Key: "_id", Value: 1},
}

// findByMonths is find with months in the place of a range, and asks
// meanwhile whether that was right. ok is false where it wasn't, or isn't
// worth it.
func (s *Mongo) findByMonths(ctx context.Context, q *Query) (page Page, ok bool, err error) {
	by, others, ok, err := s.byMonths(ctx, q)
	if err != nil || !ok {
		return Page{}, false, err
	}
	some := make(chan error, 1)
	go func() {
		some <- s.inmuebles.FindOne(ctx, others.Mongo(), options.FindOne().SetProjection(bson.D{{Key: "_id", Value: 1}}).SetMaxTime(timeLeft(ctx))).Err()
	}()
	var hint any
	if q.After != nil {
		hint = monthsIndex
	}
	page, err = s.findPage(ctx, &by, hint)
	const badValue = 2 // of the hint: the index is gone
	if code, is := errors.AsType[mongo.CommandError](err); is && code.Code == badValue && hint != nil {
		page, err = s.findPage(ctx, &by, nil)
	}
	switch none := <-some; {
	case err != nil:
		return Page{}, false, err
	case errors.Is(none, mongo.ErrNoDocuments):
		return page, true, nil
	case none != nil:
		return Page{}, false, mongoError("look for months", none)
	}
	if q.Into != nil {
		q.Into.clear()
	}
	return Page{}, false, nil
}

// sizeFor is how long a size of the collection is good enough.
const sizeFor = time.Minute

// size is about how many documents there are, to choose a plan by.
func (s *Mongo) size(ctx context.Context) (int64, error) {
	if known := s.sized.Load(); known != nil && time.Since(known.at) < sizeFor {
		return known.n, nil
	}
	n, err := s.inmuebles.EstimatedDocumentCount(ctx, options.EstimatedDocumentCount().SetMaxTime(timeLeft(ctx)))
	if err != nil {
		return 0, mongoError("count", err)
	}
	s.sized.Store(&mongoSize{n, time.Now()})
	return n, nil
}

// mongoSize is about how many documents there were.
type mongoSize struct {
	n  int64
	at time.Time
}

// size is about how many documents there are, or have been, to choose a plan
// by.
func (s *SQLite) size(ctx context.Context) (n int64, err error) {
	stmt, err := s.finds.get(ctx, `SELECT coalesce(max(seq), 0) FROM inmuebles`) //nolint:sqlclosecheck // it is kept
	if err != nil {
		return 0, err
	}
	return n, sqliteError(ctx, "count", stmt.QueryRowxContext(ctx).Scan(&n))
}
