package resourceserver

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"pgregory.net/rapid"
)

// planned has a store choose the plans of many documents, however few it has.
func planned(s Store, many int64) {
	switch s := s.(type) {
	case *SQLite:
		s.many = many
	case *Mongo:
		s.many = many
	}
}

// TestMonthsProperty: with the months in the place of a range of them, a list
// by date has what plain Go finds, page by page and backwards: where the
// months are twelve, and where clients wrote others, or other programs what is
// none.
func TestMonthsProperty(t *testing.T) {
	for _, e := range theEngines {
		for _, others := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/others=%v", e.name, others), func(t *testing.T) {
				t.Parallel()
				store, _ := e.open(t)
				planned(store, 0)
				var all []Inmueble
				for i := range 400 {
					m := sample(fmt.Sprintf("%03d", i))
					m.ListingType, m.PropertyType, m.StartMonth = int32(1+i%2), int32(1+i/2%3), int32(1+i/6%12)
					m.Date = fmt.Sprintf("2026-%02d-%02d", m.StartMonth, 1+i%5)
					if others && i%7 == 0 {
						m.StartMonth = []int32{0, -3, 13, math.MaxInt32}[i/7%4]
					}
					all = append(all, m)
				}
				fill(t, store, all)
				if others {
					for i, month := range []any{3.5, "7", nil, "x"} {
						m := sample(fmt.Sprintf("spoiled %d", i))
						m.ListingType, m.PropertyType = 1, 1
						must(t, store.Insert(t.Context(), m))
						byOthers(t, store, m.ID, map[string]any{"start_month": month})
					}
				}
				rapid.Check(t, func(r *rapid.T) {
					params := url.Values{paramOrder: {rapid.SampledFrom([]string{"date", "date.desc"}).Draw(r, "order")}}
					params.Set("listing_type", rapid.SampledFrom([]string{"eq.1", "eq.2", "eq.9"}).Draw(r, "listing"))
					params.Set("property_type", rapid.SampledFrom([]string{"eq.1", "in.(1,2)", "in.(3,1,2,1)", "in.(9)"}).Draw(r, "kinds"))
					for range rapid.IntRange(1, 2).Draw(r, "conditions") {
						params.Add("start_month", rapid.SampledFrom([]string{
							"gte.3", "gt.12", "lt.6", "lte.0", "neq.4", "in.(2,3,13)", "eq.5", "not.in.(5,6)", "not.gte.8", "gte.-5", "is.null", "not.is.null",
						}).Draw(r, "month"))
					}
					if rapid.IntRange(0, 3).Draw(r, "more") == 0 {
						params.Set("or", "(start_month.lt.9,date.gte.2026-09-03)")
					}
					where, order, err := parseFilter(params)
					must(t, err)
					sorted := slices.Clone(all)
					slices.SortFunc(sorted, func(a, b Inmueble) int { return order.Compare(a.filterValue, b.filterValue) })
					var want []string
					for _, m := range sorted {
						if where.Match(m.filterValue) {
							want = append(want, m.ID)
						}
					}
					q := Query{Where: where, Order: order, Limit: max(rapid.IntRange(1, 30).Draw(r, "limit"), len(want)/4)}
					if got := walkQuery(r, t, store, q); !slices.Equal(got, want) {
						r.Fatalf("%v: %q, want %q", params, got, want)
					}
					q.Skip = 2
					page, err := store.Find(t.Context(), q)
					must(t, err)
					planned(store, math.MaxInt64)
					other, err := store.Find(t.Context(), q)
					planned(store, 0)
					must(t, err)
					if !slices.EqualFunc(page.Items, other.Items, func(a, b Inmueble) bool { return a.ID == b.ID }) || len(page.Unreadable) != len(other.Unreadable) {
						r.Fatalf("%v: %v, else %v", params, page, other)
					}
					q.Skip = 0
					for begin := 0; ; { // as a request has it
						q.Into = &Answers{}
						ready, err := store.Find(t.Context(), q)
						must(t, err)
						for i := range q.Into.Len() {
							if !strings.Contains(string(q.Into.one(i)), `"_id":"`+want[begin+i]+`"`) {
								r.Fatalf("%v: answer %d is %s, want %s", params, begin+i, q.Into.one(i), want[begin+i])
							}
						}
						if begin += q.Into.Len(); !ready.More {
							if begin != len(want) {
								r.Fatalf("%v: %d answers, want %d", params, begin, len(want))
							}
							break
						}
						q.After, q.Skip = ready.After, ready.Skip
					}
				})
			})
		}
	}
}

// TestMonthsPlan: what is passed by for a page of some months doesn't grow
// with what is newer and of others, on no page.
func TestMonthsPlan(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			planned(store, 0)
			_, err := store.Load(t.Context(), Batch{Rows: func(yield func(Row, error) bool) {
				for i := range 6000 {
					m := sample(fmt.Sprintf("%06d", i))
					m.ListingType, m.PropertyType, m.StartMonth = int32(1+i%2), int32(1+i/2%3), int32(1+i/500)
					m.Date = fmt.Sprintf("2026-%02d-%02d", 13-m.StartMonth, 1+i%28) // the newest of all have the first month
					if !yield(Row{m, allGiven}, nil) {
						return
					}
				}
			}})
			must(t, err)
			q := queryOf(t, "listing_type=eq.1&property_type=in.(1,2)&start_month=gte.5&order=date.desc")
			q.Limit = 20
			for page := range 3 {
				switch s := store.(type) {
				case *SQLite:
					steps, err := s.steps(t.Context(), &q)
					must(t, err)
					for i := range 2 * len(steps) {
						text, args := findSQL(&q, &steps[i/2], i%2 == 0) // and packed
						if n := strings.Count(text, "UNION ALL"); n != 2*9-1 {
							t.Errorf("page %d has %d arms: %s", page, n+1, text)
						}
						var plan []struct {
							ID, Parent, Notused int
							Detail              string
						}
						must(t, s.finds.db.SelectContext(t.Context(), &plan, "EXPLAIN QUERY PLAN "+text, append(args, q.Limit+1, 0)...))
						for _, one := range plan {
							if strings.Contains(one.Detail, "TEMP B-TREE") || strings.Contains(one.Detail, " INDEX ") && !strings.Contains(one.Detail, "INDEX inmuebles_month") {
								t.Errorf("page %d: %s", page, one.Detail)
							}
						}
					}
				case *Mongo:
					by, _, ok, err := s.byMonths(t.Context(), &q)
					must(t, err)
					if !ok {
						t.Fatal("the range stays")
					}
					filter, _, sort := mongoPlan(&by)
					var answer bson.M
					must(t, s.inmuebles.Database().RunCommand(t.Context(), bson.D{
						{Key: "explain", Value: bson.D{
							{Key: "find", Value: s.inmuebles.Name()}, {Key: "filter", Value: filter}, {Key: "sort", Value: sort}, {Key: "limit", Value: q.Limit + 1},
						}},
						{Key: "verbosity", Value: "executionStats"},
					}).Decode(&answer))
					stats, ok := answer["executionStats"].(bson.M)
					if !ok {
						t.Fatalf("a plan of another form: %v", answer)
					}
					if keys, ok := stats["totalKeysExamined"].(int32); !ok || keys > 100 {
						t.Errorf("page %d: %v keys examined", page, stats["totalKeysExamined"])
					}
				}
				got, err := store.Find(t.Context(), q)
				must(t, err)
				if len(got.Items) != q.Limit || !got.More {
					t.Fatalf("page %d has %d items", page, len(got.Items))
				}
				q.After = got.After
			}
		})
	}
}

// TestReplacedIndex: an index of an earlier release goes when the one that
// takes its place is there.
func TestReplacedIndex(t *testing.T) {
	store, _ := openMongo(t)
	s := store.(*Mongo)
	_, err := s.inmuebles.Indexes().CreateOne(t.Context(), mongo.IndexModel{Keys: bson.D{{Key: "date_key", Value: -1}, {Key: "_id", Value: 1}}})
	must(t, err)
	must(t, s.Prepare(t.Context()))
	specs, err := s.inmuebles.Indexes().ListSpecifications(t.Context())
	must(t, err)
	for _, one := range specs {
		if slices.Contains(replacedIndexes, one.Name) {
			t.Errorf("%s is still there", one.Name)
		}
	}
	if len(specs) != len(mongoIndexes)+1 { // and that of the _id
		t.Errorf("%d indexes, want %d", len(specs), len(mongoIndexes)+1)
	}
}

// TestMonthsIndexIsGone: an operator who drops the index makes pages dear, and
// breaks none.
func TestMonthsIndexIsGone(t *testing.T) {
	t.Parallel()
	store, _ := openMongo(t)
	planned(store, 0)
	_, err := store.Load(t.Context(), Batch{Rows: Samples(1, 500, "owner-1")})
	must(t, err)
	s, _ := store.(*Mongo)
	q := queryOf(t, "listing_type=eq.1&property_type=in.(1,2)&start_month=gte.3&order=date.desc")
	q.Limit = 20
	first, err := s.Find(t.Context(), q)
	must(t, err)
	q.After, q.Skip = first.After, first.Skip
	with, err := s.Find(t.Context(), q)
	must(t, err)
	_, err = s.inmuebles.Indexes().DropOneWithKey(t.Context(), monthsIndex)
	must(t, err)
	without, err := s.Find(t.Context(), q)
	must(t, err)
	if len(with.Items) != 20 || len(without.Items) != 20 || with.Items[0].ID != without.Items[0].ID || with.Items[19].ID != without.Items[19].ID {
		t.Errorf("%d items with the index, %d without", len(with.Items), len(without.Items))
	}
}
