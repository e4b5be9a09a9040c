package resourceserver

import (
	"context"
	"fmt"
	"strings"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// statsSQL is the statement for figures: for each group its keys, its count,
// and four figures of each field.
func statsSQL(q *StatsQuery, from *candidates) (text string, args []any) {
	var b strings.Builder
	b.WriteString("SELECT ")
	for _, f := range q.Group {
		b.WriteString(f.Column + ", ")
	}
	b.WriteString("count(*)")
	for _, f := range q.Of {
		sum := "CAST(%[1]s AS INTEGER)"
		if f.Kind == query.Float {
			sum = fmt.Sprintf("CAST(floor(%%[1]s * %.1f + 0.5) AS INTEGER)", coordinateUnit)
		}
		fmt.Fprintf(&b, ", count(%[1]s), min(%[1]s), max(%[1]s), sum("+sum+")", f.Column)
	}
	condition, args := from.appendFrom(nil, nil)
	condition, args = q.Where.AppendSQL(condition, args)
	if from.all() {
		condition, args = appendAround(condition, args, q.Where)
	}
	b.Write(condition)
	for _, f := range q.named() {
		b.WriteString(sqliteIsOfKind(f))
	}
	for i := range q.Group {
		if i == 0 {
			b.WriteString(" GROUP BY 1")
			continue
		}
		fmt.Fprintf(&b, ", %d", i+1)
	}
	b.WriteString(" LIMIT ?")
	return b.String(), append(args, q.Most+1)
}

// sqliteIsOfKind is a further condition, true where the field is null if it
// may be, or what a valid document has.
func sqliteIsOfKind(f *query.Field) string {
	var is string
	switch f.Kind {
	case query.Bool:
		return fmt.Sprintf(" AND typeof(%[1]s) = 'integer' AND %[1]s IN (0, 1)", f.Column)
	case query.Int, query.Float:
		least, most := bounds(f)
		is = fmt.Sprintf("typeof(%[1]s) IN ('integer', 'real') AND %[1]s BETWEEN %.0[2]f AND %.0[3]f", f.Column, least, most)
		if f.Kind == query.Int {
			is += fmt.Sprintf(" AND %[1]s = CAST(%[1]s AS INTEGER)", f.Column)
		}
	default: // a column of text
		return ""
	}
	if f.Nullable {
		return fmt.Sprintf(" AND (%s IS NULL OR %s)", f.Column, is)
	}
	return " AND " + is
}

// Stats is one statement.
func (s *SQLite) Stats(ctx context.Context, q StatsQuery) ([]Group, error) {
	from, _, err := s.narrow(ctx, &q.Where, counted)
	if err != nil {
		return nil, err
	}
	text, args := statsSQL(&q, &from)
	stmt, err := s.finds.get(ctx, text) //nolint:sqlclosecheck // it is kept
	if err != nil {
		return nil, err
	}
	rows, err := stmt.QueryxContext(ctx, args...)
	if err != nil {
		return nil, sqliteError(ctx, "add up", err)
	}
	defer func() { _ = rows.Close() }() // an error of reading is rows.Err's
	var groups []Group
	values := make([]any, len(q.Group)+1+4*len(q.Of))
	into := make([]any, len(values))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return nil, sqliteError(ctx, "add up", err)
		}
		groups = append(groups, q.sqliteGroup(values))
	}
	if err := rows.Err(); err != nil {
		return nil, sqliteError(ctx, "add up", err)
	}
	return q.finish(groups)
}

// sqliteGroup reads a row of statsSQL.
func (q *StatsQuery) sqliteGroup(values []any) Group {
	g := Group{Keys: make([]any, len(q.Group)), Of: make([]Figures, len(q.Of))}
	for i, f := range q.Group {
		switch v := values[i].(type) {
		case nil:
		case string:
			g.Keys[i] = v
		default:
			n := int64(sqliteNumber(v))
			if g.Keys[i] = n; f.Kind == query.Bool {
				g.Keys[i] = n == 1
			}
		}
	}
	values = values[len(q.Group):]
	g.Count, _ = values[0].(int64)
	for i := range q.Of {
		s, of := &g.Of[i], values[1+4*i:]
		s.Count, _ = of[0].(int64)
		s.Min, s.Max = sqliteNumber(of[1]), sqliteNumber(of[2])
		s.Sum, _ = of[3].(int64)
	}
	return g
}

// sqliteNumber is a number of either type; null is 0.
func sqliteNumber(v any) float64 {
	switch v := v.(type) {
	case int64:
		return float64(v)
	case float64:
		return v
	}
	return 0
}
