package resourceserver

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// listed is a page in the order of the _id.
type listed struct {
	Page
	Next string // the after of the next page, "" when there is none
}

// list reads the page behind an _id.
func list(ctx context.Context, s Store, after string, limit int) (listed, error) {
	order, err := query.ParseOrder(filterFields, "")
	if err != nil {
		return listed{}, err
	}
	q := Query{Order: order, Limit: limit}
	if after != "" {
		q.After = []any{after}
	}
	page, err := s.Find(ctx, q)
	l := listed{Page: page}
	if page.More {
		l.Next, _ = page.After[0].(string)
	}
	return l, err
}

// The values that documents and conditions of TestFindProperty are made of:
// few, so that they meet.
var (
	someTexts  = []string{"", "a", "A", "ab", "Ático", "ático", "atico", "ÑU", "ñu", "z%_", "a.b,c\"(d)", "\\", "🏠", "\uFFFD", "k\nl", "\u212A", "a\u0301tico·AB", "\u0301ab \u0301", "Año 3º, 90m²", "b-c aB"}
	someDates  = []string{"2021-03-01", "2021-03-01T00:00:00Z", "2021-03-01T01:00:00+02:00", "2021-02-28T23:00", "20210302", "2021-03-01 10:00:00.5", "ayer", "", "2021-3-1", "zzz"}
	someWords  = []string{"a", "A", "ático", "atico", "ATI:*", "ab", "b", "nu", "!a", "k", "a&b", "a|d", "a&!(b|c)", "!(a&b)", "l|k", "z", "ano", "90m", "c"}
	someInts   = []int32{math.MinInt32, -1, 0, 1, 2, 3, math.MaxInt32}
	someFloats = []float64{-90, -3.7038, -0.5, 0, 1e-7, 40.4168, 90}
	someTimes  = []time.Time{{}, dawn, dawn.Add(time.Millisecond), noon}
	somePats   = []string{"*", "a*", "*A", "_", "*ti_o", "á*", "*ñ*", "%\\%*", "", "a.b*", "*\\\\*", "k?l", "*l", "*b*c*", "k"}
)

// fewValues generates inmuebles with values of those above.
func fewValues(r *rapid.T, id string) Inmueble {
	m := Inmueble{ID: id}
	for i := range fields[1:] {
		f := &fields[1+i]
		switch p := f.at(&m).(type) {
		case *string:
			if *p = rapid.SampledFrom(someTexts).Draw(r, f.name); f.isDate() {
				*p = rapid.SampledFrom(someDates).Draw(r, f.name)
			}
		case *int32:
			*p = rapid.SampledFrom(someInts).Draw(r, f.name)
		case **int32:
			if rapid.Bool().Draw(r, f.name+" set") {
				v := rapid.SampledFrom(someInts).Draw(r, f.name)
				*p = &v
			}
		case *bool:
			*p = rapid.Bool().Draw(r, f.name)
		case *float64:
			*p = rapid.SampledFrom(someFloats).Draw(r, f.name)
		}
	}
	m.Owner = rapid.SampledFrom([]string{"", "alice", "bob"}).Draw(r, "owner")
	m.CreatedAt = rapid.SampledFrom(someTimes).Draw(r, "created")
	m.UpdatedAt = rapid.SampledFrom(someTimes).Draw(r, "updated")
	return m
}

var filterNames = func() (names []string) {
	for name, f := range filterFields {
		if f.Any == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}()

// anyValue is a value for a condition, as a request writes it.
func anyValue(r *rapid.T, f *query.Field) string {
	switch f.Kind {
	case query.Int:
		return fmt.Sprint(rapid.SampledFrom(someInts).Draw(r, "int"))
	case query.Float:
		return fmt.Sprint(rapid.SampledFrom(someFloats).Draw(r, "float"))
	case query.Bool:
		return fmt.Sprint(rapid.Bool().Draw(r, "bool"))
	case query.Time:
		return rapid.SampledFrom(someTimes[1:]).Draw(r, "time").Format(time.RFC3339Nano)
	case query.Date:
		return rapid.SampledFrom(someDates).Draw(r, "date")
	}
	return rapid.SampledFrom(someTexts).Draw(r, "text")
}

func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// anyTerm is a term of a group, as a request writes it.
func anyTerm(r *rapid.T, depth int) string {
	not := rapid.SampledFrom([]string{"", "not."}).Draw(r, "not")
	if depth > 0 && rapid.IntRange(0, 2).Draw(r, "group") == 0 {
		var parts []string
		for range rapid.IntRange(1, 3).Draw(r, "terms") {
			parts = append(parts, anyTerm(r, depth-1))
		}
		return not + rapid.SampledFrom([]string{"and", "or"}).Draw(r, "word") + "(" + strings.Join(parts, ",") + ")"
	}
	if rapid.IntRange(0, 5).Draw(r, "full text") == 0 {
		name := rapid.SampledFrom([]string{"title", "description", "text", "other_id"}).Draw(r, "field")
		return name + "." + not + rapid.SampledFrom([]string{"fts", "plfts"}).Draw(r, "operator") + "." + quoted(rapid.SampledFrom(someWords).Draw(r, "words"))
	}
	f := filterFields[rapid.SampledFrom(filterNames).Draw(r, "field")]
	operators := []string{"eq", "neq", "gt", "gte", "lt", "lte", "in", "is"}
	if f.Kind == query.Text || f.Kind == query.Date {
		operators = append(operators, "like", "ilike")
	}
	operator := rapid.SampledFrom(operators).Draw(r, "operator")
	operand := ""
	switch operator {
	case "in":
		var list []string
		for range rapid.IntRange(0, 3).Draw(r, "values") {
			list = append(list, quoted(anyValue(r, f)))
		}
		operand = "(" + strings.Join(list, ",") + ")"
	case "is":
		operand = rapid.SampledFrom([]string{"null", "not_null"}).Draw(r, "is")
	case "like", "ilike":
		operand = quoted(rapid.SampledFrom(somePats).Draw(r, "pattern"))
	default:
		operand = quoted(anyValue(r, f))
	}
	return f.Name + "." + not + operator + "." + operand
}

func anyOrder(r *rapid.T) string {
	var parts []string
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(filterNames), 0, 3, rapid.ID[string]).Draw(r, "order") {
		if name != "description" { // which nothing can be ordered by
			parts = append(parts, name+rapid.SampledFrom([]string{"", ".asc", ".desc", ".desc.nullslast", ".nullsfirst", ".nullslast"}).Draw(r, "direction"))
		}
	}
	return strings.Join(parts, ",")
}

// walkQuery reads all that a query asks for in pages, then backwards from the
// first document of the last page, and returns the ids.
func walkQuery(r *rapid.T, t testing.TB, s Store, q Query) (ids []string) {
	var last []any
	var before int // how many come before last
	for pages := 0; ; pages++ {
		page, err := s.Find(t.Context(), q)
		if err != nil {
			r.Fatalf("find: %v", err)
		}
		if len(page.Items) > q.Limit || pages > 1000 {
			r.Fatalf("%d items on page %d, limit %d", len(page.Items), pages, q.Limit)
		}
		if page.First != nil {
			last, before = page.First, len(ids)
		}
		for _, m := range page.Items {
			ids = append(ids, m.ID)
		}
		if !page.More {
			break
		}
		q.After, q.Skip = page.After, page.Skip
	}
	if last == nil {
		return ids
	}
	var back []string
	q.Order, q.After, q.Skip = q.Order.Reversed(), last, 0
	for {
		page, err := s.Find(t.Context(), q)
		if err != nil {
			r.Fatalf("find backwards: %v", err)
		}
		for _, m := range page.Items {
			back = append(back, m.ID)
		}
		if !page.More {
			break
		}
		q.After, q.Skip = page.After, page.Skip
	}
	slices.Reverse(back)
	if !slices.Equal(back, ids[:before]) {
		r.Fatalf("backwards %q, forwards %q", back, ids[:before])
	}
	return ids
}

// TestFindProperty: random filters and orders give the same documents in the
// same order from both stores, page by page, as plain Go does.
func TestFindProperty(t *testing.T) {
	var stores []Store
	for _, e := range theEngines {
		s, _ := e.open(t)
		stores = append(stores, s)
	}
	var all []Inmueble
	n, checks := 0, 0
	rapid.Check(t, func(r *rapid.T) {
		if checks++; checks == 50 { // by the indexes that are filled behind the writers
			settled(t, stores[0])
		}
		for ; n < 40; n++ { // documents first
			m := fewValues(r, fmt.Sprintf("%s%d", rapid.SampledFrom([]string{"a", "B", "ñ", "🏠"}).Draw(r, "id"), n))
			for _, s := range stores {
				if err := s.Insert(t.Context(), m); err != nil {
					r.Fatal(err)
				}
			}
			all = append(all, m)
		}
		text := "(" + anyTerm(r, 2) + ")"
		where, err := query.Parse(filterFields, map[string][]string{"and": {text}})
		if err != nil {
			r.Fatalf("%s: %v", text, err)
		}
		orderText := anyOrder(r)
		order, err := query.ParseOrder(filterFields, orderText)
		if err != nil {
			r.Fatalf("%s: %v", orderText, err)
		}
		var want []string
		sorted := slices.Clone(all)
		slices.SortFunc(sorted, func(a, b Inmueble) int { return order.Compare(a.filterValue, b.filterValue) })
		for _, m := range sorted {
			if where.Match(m.filterValue) {
				want = append(want, m.ID)
			}
		}
		limit := rapid.IntRange(1, 7).Draw(r, "limit")
		for i, s := range stores {
			got := walkQuery(r, t, s, Query{Where: where, Order: order, Limit: limit})
			if !slices.Equal(got, want) {
				r.Fatalf("%s: %s by %s: %q, want %q", theEngines[i].name, text, order, got, want)
			}
			if count, err := s.Count(t.Context(), where, 0); err != nil || count != len(want) {
				r.Fatalf("%s: %s: counted %d, %v, want %d", theEngines[i].name, text, count, err, len(want))
			}
		}
	})
}
