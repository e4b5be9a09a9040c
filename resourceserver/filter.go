package resourceserver

import (
	"context"
	"database/sql/driver"
	"fmt"
	"iter"
	"strings"
	"time"

	"modernc.org/sqlite"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// keySuffix makes the name of a date's key of the name of the date: date_key
// is what date is compared by (query.DateKey). MongoDB's documents always
// have it, because an index needs it; SQLite's have it where it isn't the
// date itself. A document of another program may lack it: see sweep.
const keySuffix = "_key"

// isDate reports whether the field is a text that is compared as a date.
func (f *field) isDate() bool { return f.name == "date" || f.name == "date_in" }

// filterFields is what a filter and an order may name: every member of an
// answer. It is drawn from the table of fields.
var filterFields = func() query.Fields {
	all := query.Fields{}
	for i := range fields {
		f := &fields[i]
		q := &query.Field{Name: f.name, Column: f.name, Path: f.name}
		switch f.at(&Inmueble{}).(type) {
		case *string:
			q.Long = f.bound > 1000 // a cursor has to fit into a URL
			if !f.required {
				q.Default = ""
			}
		case *int32:
			q.Kind = query.Int
			if !f.required {
				q.Default = int64(0)
			}
		case **int32:
			q.Kind, q.Nullable = query.Int, true
		case *bool:
			q.Kind = query.Bool
		case *float64:
			q.Kind = query.Float
		}
		switch {
		case f.name == "_id":
			q.Column = "id"
		case f.name == "start_month", f.name == "x_coord", f.name == "y_coord": // as the indexes have them
			q.Column = "(document ->> '$." + f.name + "')"
		case f.isDate():
			q.Kind, q.Column, q.Path, q.Raw = query.Date, f.name+keySuffix, f.name+keySuffix, f.name
		}
		all[f.name] = q
	}
	all[nameOwner] = &query.Field{Name: nameOwner, Default: "", Column: nameOwner, Path: nameOwner}
	for _, name := range []string{nameCreatedAt, nameUpdatedAt} {
		all[name] = &query.Field{Name: name, Kind: query.Time, Nullable: true, Column: name, Path: name}
	}
	all["title"].Indexed, all["description"].Indexed = true, true
	all[nameText] = &query.Field{Name: nameText, Long: true, Any: []*query.Field{all["title"], all["description"]}}
	return all
}()

// nameText is what full text over title and description is asked of.
const nameText = "text"

// byID is the order of the _id.
var byID = func() query.Order {
	order, err := query.ParseOrder(filterFields, "")
	if err != nil { // a constant
		panic(err)
	}
	return order
}()

// Every yields every inmueble that q asks for, a page at a time whatever its
// Limit, and tells of those that can't be read. It meets whatever was there
// all the time.
func Every(ctx context.Context, s Store, q Query, unreadable func(Unreadable)) iter.Seq2[Inmueble, error] {
	return func(yield func(Inmueble, error) bool) {
		for q.Limit = maxLimit; ; {
			page, err := s.Find(ctx, q)
			if err != nil {
				yield(Inmueble{}, err)
				return
			}
			for i := range page.Items {
				if !yield(page.Items[i], nil) {
					return
				}
			}
			for _, u := range page.Unreadable {
				unreadable(u)
			}
			if !page.More {
				return
			}
			q.After, q.Skip = page.After, page.Skip
		}
	}
}

// aboutDates reports whether the query looks at the key of a date.
func (q *Query) aboutDates() bool {
	for _, k := range q.Order {
		if k.Field.Kind == query.Date {
			return true
		}
	}
	return dated(&q.Where)
}

func dated(n *query.Node) bool {
	if n.Field != nil {
		return n.Field.Kind == query.Date
	}
	for i := range n.Nodes {
		if dated(&n.Nodes[i]) {
			return true
		}
	}
	return false
}

// filterValue is the value of one of filterFields in m, as package query has
// it.
func (m *Inmueble) filterValue(f *query.Field) any {
	moment := func(t time.Time) any {
		if t.IsZero() {
			return nil
		}
		return t.UnixMilli()
	}
	switch f.Name {
	case nameOwner:
		return m.Owner
	case nameCreatedAt:
		return moment(m.CreatedAt)
	case nameUpdatedAt:
		return moment(m.UpdatedAt)
	}
	switch p := fields[fieldIndex[f.Name]].at(m).(type) {
	case *string:
		return *p
	case *int32:
		return int64(*p)
	case **int32:
		if *p == nil {
			return nil
		}
		return int64(**p)
	case *bool:
		return *p
	case *float64:
		return *p
	}
	panic("resourceserver: a field of a type that has no filter: " + f.Name)
}

// The driver keeps functions for all connections that are opened later.
func init() {
	sqlite.MustRegisterDeterministicScalarFunction("inmuebles_like", 3,
		func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
			pattern, _ := args[0].(string)
			fold, _ := args[2].(int64)
			switch text := args[1].(type) {
			case string:
				return query.MatchPattern(pattern, text, fold == 1), nil
			case nil: // a document of another program
				return nil, nil
			default:
				return query.MatchPattern(pattern, fmt.Sprint(text), fold == 1), nil
			}
		})
	sqlite.MustRegisterDeterministicScalarFunction("inmuebles_distance", 4,
		func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
			var at [4]float64 // longitude and latitude of a document, and of the middle
			for i := range at {
				switch v := args[i].(type) {
				case float64:
					at[i] = v
				case int64:
					at[i] = float64(v)
				default: // a document of another program
					return nil, nil
				}
			}
			return query.Haversine(at[2], at[3], at[0], at[1]), nil
		})
	sqlite.MustRegisterDeterministicScalarFunction("inmuebles_inside", 3,
		func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
			area, _ := args[0].([]byte)
			var at [2]float64
			for i := range at {
				switch v := args[1+i].(type) {
				case float64:
					at[i] = v
				case int64:
					at[i] = float64(v)
				default: // a document of another program
					return nil, nil
				}
			}
			return query.EncodedHas(area, at[0], at[1]), nil
		})
	sqlite.MustRegisterDeterministicScalarFunction("inmuebles_words", 2,
		func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
			title, _ := args[0].(string)
			description, _ := args[1].(string)
			return strings.Join(query.Words(title, description), " "), nil
		})
	sqlite.MustRegisterDeterministicScalarFunction("inmuebles_word", 2,
		func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
			word, _ := args[0].(string)
			if text, ok := args[1].(string); ok {
				return query.MatchWord(word, text), nil
			}
			return nil, nil // a document of another program
		})
}
