package resourceserver

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"github.com/urbandata/urbandata/resourceserver/query"
)

const (
	// maxArms is how many values of property_type are looked for one by one.
	maxArms = 8

	// maxMonths is how many values of start_month are. There are twelve, but
	// nothing keeps a client from writing others.
	maxMonths = 24

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
	kinds, months, listing := -1, -1, false
	if !q.byDateOfListing() {
		return one
	}
	for i := range q.Where.Nodes {
		switch n := &q.Where.Nodes[i]; {
		case n.Op == query.Eq && n.Field == filterFields["listing_type"]:
			listing = true
		case n.Op == query.In && n.Field == filterFields["property_type"]:
			kinds = i
		case n.Op == query.In && n.Field == monthByValue:
			months = i
		}
	}
	if !listing || kinds < 0 && months < 0 {
		return one
	}
	all := one
	for _, split := range []struct{ at, most int }{{kinds, maxArms}, {months, maxMonths}} {
		if split.at < 0 {
			continue
		}
		values := distinct(q.Where.Nodes[split.at].List)
		if len(values) == 0 || len(values) > split.most {
			return one
		}
		var parts []query.Node
		for _, part := range all {
			for _, v := range values {
				arm := query.Node{Op: query.And, Nodes: slices.Clone(part.Nodes)}
				arm.Nodes[split.at] = query.Node{Op: query.Eq, Field: part.Nodes[split.at].Field, Value: v}
				parts = append(parts, arm)
			}
		}
		all = parts
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
// another month, more of them the more there are. So the months that there
// are take the place of the range. An index knows them, with a look at one key
// for each.

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
			continue
		case n.Op == query.Eq && n.Field == filterFields["listing_type"]:
			r.listing = n.Value
		case n.Op == query.Eq && n.Field == filterFields["property_type"]:
			r.kinds = []any{n.Value}
		case n.Op == query.In && n.Field == filterFields["property_type"]:
			r.kinds = distinct(n.List)
		}
		r.rest = append(r.rest, n)
	}
	return r, r.listing != nil && len(r.kinds) > 0 && len(r.kinds) <= maxArms && len(r.month.Nodes) > 0
}

// replaced is the condition with values in the place of the range.
func (r *monthRange) replaced(by *query.Field, values []any) query.Node {
	return query.Node{Op: query.And, Nodes: append(slices.Clip(r.rest), query.Node{Op: query.In, Field: by, List: values})}
}

// monthByValue is start_month as the index inmuebles_month has it.
var monthByValue = func() *query.Field {
	f := *filterFields["start_month"]
	f.Column = `json_extract(document, '$.start_month')`
	return &f
}()

// findMonths looks for the months of a listing_type's property_types one after
// the other, from each to the next: a row for each, and one without for the
// end. What is asked of them comes behind.
const findMonths = `WITH RECURSIVE found (kind, month) AS (
	SELECT value, (SELECT min(json_extract(document, '$.start_month')) FROM inmuebles WHERE listing_type = ? AND property_type = value)
		FROM json_each(?)
	UNION ALL
	SELECT kind, (SELECT min(json_extract(document, '$.start_month')) FROM inmuebles
		WHERE listing_type = ? AND property_type = kind AND json_extract(document, '$.start_month') > month)
		FROM found WHERE month IS NOT NULL
	LIMIT ?)
SELECT `

// sqliteMonths puts the months that there are into the place of a range of
// them.
type sqliteMonths struct {
	monthRange
	stmt *sqlx.Stmt
	args []any
}

// months are what takes the place of a range of months, or nil if nothing has
// to: they would be no better where the documents are few, or found by
// another index.
func (s *SQLite) months(ctx context.Context, q *Query, steps []step) (*sqliteMonths, error) {
	r, ok := q.months()
	if !ok || !steps[0].from.all() {
		return nil, nil
	}
	if n, err := s.size(ctx); err != nil || n < s.many {
		return nil, err
	}
	month := *filterFields["start_month"]
	month.Column = "month"
	asked := query.Node{Op: query.And}
	for _, n := range r.month.Nodes {
		n.Field = &month
		asked.Nodes = append(asked.Nodes, n)
	}
	kinds, err := json.Marshal(r.kinds)
	if err != nil {
		return nil, fmt.Errorf("resourceserver: look for months: %w", err)
	}
	text, behind := asked.AppendSQL([]byte(findMonths), nil)
	stmt, err := s.finds.get(ctx, string(text)+", month FROM found")
	return &sqliteMonths{r, stmt, append([]any{r.listing, string(kinds), r.listing, mostMonths}, behind...)}, err
}

// mostMonths is how many rows findMonths may have, and one more.
const mostMonths = maxArms*(maxMonths+1) + 1

// replace changes q as of the moment of tx, unless there are too many months.
func (m *sqliteMonths) replace(ctx context.Context, tx *sqlx.Tx, q *Query) error {
	rows, err := tx.StmtxContext(ctx, m.stmt).QueryxContext(ctx, m.args...) //nolint:sqlclosecheck // the end of the transaction does
	if err != nil {
		return sqliteError(ctx, "look for months", err)
	}
	defer func() { _ = rows.Close() }() // an error of reading is rows.Err's
	var values []any
	n := 0
	for rows.Next() {
		var month any
		var wanted sql.NullBool
		if err := rows.Scan(&wanted, &month); err != nil {
			return sqliteError(ctx, "look for months", err)
		}
		n++
		if wanted.Bool && month != nil && !slices.Contains(values, month) {
			values = append(values, month)
		}
	}
	if err := rows.Err(); err != nil {
		return sqliteError(ctx, "look for months", err)
	}
	if n < mostMonths && len(values) <= maxMonths {
		q.Where = m.replaced(monthByValue, values)
	}
	return nil
}

// byMonths puts those of the twelve months that are wanted into the place of a
// range of them, if no document has another one that is wanted, and the
// documents are many. MongoDB makes arms of them.
func (s *Mongo) byMonths(ctx context.Context, q *Query) error {
	r, ok := q.months()
	if !ok {
		return nil
	}
	var values, twelve []any
	for month := int64(1); month <= 12; month++ {
		twelve = append(twelve, month)
		if r.month.Match(func(*query.Field) any { return month }) {
			values = append(values, month)
		}
	}
	if len(values) == len(twelve) { // nothing to pass by
		return nil
	}
	if n, err := s.size(ctx); err != nil || n < s.many {
		return err
	}
	others := query.Node{Op: query.And, Nodes: []query.Node{
		{Op: query.Eq, Field: filterFields["listing_type"], Value: r.listing},
		{Op: query.In, Field: filterFields["property_type"], List: r.kinds},
		r.month,
		{Op: query.Nin, Field: filterFields["start_month"], List: twelve},
	}}
	err := s.inmuebles.FindOne(ctx, others.Mongo(), options.FindOne().SetProjection(bson.D{{Key: "_id", Value: 1}}).SetMaxTime(timeLeft(ctx))).Err()
	if errors.Is(err, mongo.ErrNoDocuments) {
		q.Where = r.replaced(filterFields["start_month"], values)
		return nil
	}
	return mongoError("look for months", err)
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
