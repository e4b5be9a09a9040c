package resourceserver

import (
	"encoding/json"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/bson"
	"pgregory.net/rapid"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// plainStats is the meaning that the stores are held to.
func plainStats(q *StatsQuery, all []Inmueble) []Group {
	type sums struct {
		Group
		values [][]float64
	}
	found := map[string]*sums{}
	if len(q.Group) == 0 {
		found["[]"] = &sums{Group{Keys: []any{}}, make([][]float64, len(q.Of))}
	}
	for i := range all {
		m := &all[i]
		if !q.Where.Match(m.filterValue) {
			continue
		}
		keys := make([]any, len(q.Group))
		for i, f := range q.Group {
			keys[i] = m.filterValue(f)
		}
		name := fmt.Sprintf("%#v", keys)
		if len(keys) == 0 {
			name = "[]"
		}
		g := found[name]
		if g == nil {
			g = &sums{Group{Keys: keys}, make([][]float64, len(q.Of))}
			found[name] = g
		}
		g.Count++
		for i, f := range q.Of {
			switch v := m.filterValue(f).(type) {
			case int64:
				g.values[i] = append(g.values[i], float64(v))
			case float64:
				g.values[i] = append(g.values[i], v)
			}
		}
	}
	var groups []Group
	for _, g := range found {
		g.Of = make([]Figures, len(q.Of))
		for i, values := range g.values {
			s := &g.Of[i]
			for _, v := range values {
				if s.Count++; s.Count == 1 {
					s.Min, s.Max = v, v
				}
				s.Min, s.Max = min(s.Min, v), max(s.Max, v)
				s.Sum += addend(q.Of[i], v)
			}
		}
		groups = append(groups, g.Group)
	}
	key := func(g Group) func(*query.Field) any {
		return func(f *query.Field) any { return g.Keys[slices.Index(q.Group, f)] }
	}
	var order query.Order
	for _, f := range q.Group {
		order = append(order, query.Key{Field: f})
	}
	slices.SortFunc(groups, func(a, b Group) int { return order.Compare(key(a), key(b)) })
	return groups
}

// TestStatsProperty: random filters, groups and fields give the same figures
// from both stores as plain Go does.
func TestStatsProperty(t *testing.T) {
	var stores []Store
	for _, e := range theEngines {
		s, _ := e.open(t)
		stores = append(stores, s)
	}
	var forGroup, forOf []*query.Field
	for _, name := range filterNames {
		f := filterFields[name]
		if groupable(f) {
			forGroup = append(forGroup, f)
		}
		if isNumber(f) {
			forOf = append(forOf, f)
		}
	}
	if len(forGroup) != 11 || len(forOf) != 11 {
		t.Fatalf("%d fields to group by and %d with figures", len(forGroup), len(forOf))
	}
	var all []Inmueble
	rapid.Check(t, func(r *rapid.T) {
		for n := len(all); n < 60; n++ { // documents first
			m := fewValues(r, fmt.Sprint(n))
			m.XCoord = rapid.Float64Range(-180, 180).Draw(r, "x") + 0 // no -0
			for _, s := range stores {
				if err := s.Insert(t.Context(), m); err != nil {
					r.Fatal(err)
				}
			}
			all = append(all, m)
		}
		q := StatsQuery{
			Group: rapid.SliceOfNDistinct(rapid.SampledFrom(forGroup), 0, 3, rapid.ID[*query.Field]).Draw(r, "group"),
			Of:    rapid.SliceOfNDistinct(rapid.SampledFrom(forOf), 0, 4, rapid.ID[*query.Field]).Draw(r, "of"),
			Most:  len(all),
		}
		text := ""
		if rapid.Bool().Draw(r, "filtered") {
			text = "(" + anyTerm(r, 1) + ")"
			var err error
			if q.Where, err = query.Parse(filterFields, url.Values{"and": {text}}); err != nil {
				r.Fatalf("%s: %v", text, err)
			}
		}
		want := string(q.appendJSON(nil, plainStats(&q, all)))
		for i, s := range stores {
			groups, err := s.Stats(t.Context(), q)
			if err != nil {
				r.Fatalf("%s: %s: %v", theEngines[i].name, text, err)
			}
			if got := string(q.appendJSON(nil, groups)); got != want {
				r.Fatalf("%s: %s:\n%s, want\n%s", theEngines[i].name, text, got, want)
			}
		}
	})
}

// TestMeanProperty: the mean is the exact one, but for the seventh decimal of
// a coordinate.
func TestMeanProperty(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		f := filterFields["x_coord"]
		values := rapid.SliceOfN(rapid.Float64Range(-180, 180), 1, 50).Draw(r, "values")
		var s Figures
		sum := new(big.Rat)
		for _, v := range values {
			s.Count++
			s.Sum += addend(f, v)
			sum.Add(sum, new(big.Rat).SetFloat64(v))
		}
		want, _ := sum.Quo(sum, big.NewRat(s.Count, 1)).Float64()
		got, ok := s.Mean(f)
		if diff := got - want; !ok || diff > 0.6e-7 || diff < -0.6e-7 {
			r.Fatalf("the mean of %v is %v, want %v", values, got, want)
		}
	})
}

func TestStats(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, spoil := e.open(t)
			c := newClient(t, store)
			if got := c.do("GET", "/inmuebles/stats?of=date_diff", "").want(200).Body.String(); got != `[{"count":0,"stats":{"date_diff":{"count":0,"min":null,"max":null,"mean":null}}}]` {
				t.Errorf("of nothing: %s", got)
			}
			all := variety() // a b: listing 1; c d: listing 2; e: listing 3, without a date_diff
			all[1].YCoord, all[3].XCoord = -40.5, 0.25
			fill(t, store, all)
			for params, want := range map[string]string{
				"is_active=true":     `[{"count":5,"stats":{}}]`,
				"group=listing_type": `[{"listing_type":1,"count":2,"stats":{}},{"listing_type":2,"count":2,"stats":{}},{"listing_type":3,"count":1,"stats":{}}]`,
				"group=owner,is_active&of=date_diff": `[{"owner":"alice","is_active":true,"count":4,"stats":{"date_diff":{"count":4,"min":4,"max":4,"mean":4}}},` +
					`{"owner":"bob","is_active":true,"count":1,"stats":{"date_diff":{"count":1,"min":0,"max":0,"mean":0}}}]`,
				"group=boundary_id&date=lt.pronto": `[{"boundary_id":2,"count":1,"stats":{}},{"boundary_id":9,"count":2,"stats":{}},{"boundary_id":null,"count":1,"stats":{}}]`,
				"of=boundary_id,x_coord,y_coord&listing_type=lte.2": `[{"count":4,"stats":{"boundary_id":{"count":3,"min":2,"max":9,"mean":6.666666666666667},` +
					`"x_coord":{"count":4,"min":-3.7038,"max":0.25,"mean":-2.71535},"y_coord":{"count":4,"min":-40.5,"max":40.4168,"mean":20.1876}}}]`,
				"group=listing_type&of=listing_type&title=ilike.*piso*": `[{"listing_type":1,"count":2,"stats":{"listing_type":{"count":2,"min":1,"max":1,"mean":1}}}]`,
				"group=listing_type&bbox=0,40,1,41":                     `[{"listing_type":2,"count":1,"stats":{}}]`,
				"group=listing_type&or=(owner.eq.x,_id.in.())":          `[]`,
			} {
				if got := c.do("GET", strings.Replace(at(params), "/inmuebles?", "/inmuebles/stats?", 1), "").want(200).Body.String(); got != want {
					t.Errorf("%s: %s\nwant %s", params, got, want)
				}
			}
			first := c.do("GET", "/inmuebles/stats/?group=listing_type", "").want(200)
			c.with("If-None-Match", first.Header().Get("ETag")).do("GET", "/inmuebles/stats?group=listing_type", "").want(304)

			// What isn't valid in a field that is named isn't in its figures.
			for i, how := range spoilings {
				spoil(t, fmt.Sprintf("s%d", i), "alice", how)
			}
			for params, want := range map[string]float64{"": 12, "group=end_week": 8, "of=x_coord": 10, "group=end_week&of=x_coord": 6} {
				groups := decode[[]struct{ Count float64 }](c.do("GET", "/inmuebles/stats?"+params, "").want(200))
				if len(groups) != 1 || groups[0].Count != want {
					t.Errorf("%s beside spoiled documents: %v, want one of %v", params, groups, want)
				}
			}
			insert(t, store, "stats") // an _id like any other, but for the address of GET
			if got := idsOf(c.do("GET", "/inmuebles?_id=eq.stats", "").want(200)); got != "stats" {
				t.Errorf("found %q", got)
			}
			c.do("DELETE", "/inmuebles/stats", "").want(204)
			c.as("alice").do("GET", "/inmuebles/stats", "").want(403)
		})
	}
}

// TestStatsGroups: as many groups as there may be, and one more.
func TestStatsGroups(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			_, err := store.Load(t.Context(), Batch{Rows: func(yield func(Row, error) bool) {
				for i := range maxGroups + 1 {
					m := sample(fmt.Sprint(i))
					if m.PropertyType = int32(i); !yield(Row{m, allGiven}, nil) {
						return
					}
				}
			}})
			must(t, err)
			c := newClient(t, store)
			p := decode[problem](c.do("GET", "/inmuebles/stats?group=listing_type,property_type", "").want(400))
			if p.Code != "invalid_query" || len(p.Errors) != 1 || p.Errors[0].Parameter != "group" || p.Errors[0].Detail != "makes too many groups: 1000 is the limit" {
				t.Errorf("%+v", p)
			}
			groups := decode[[]map[string]any](c.do("GET", "/inmuebles/stats?group=property_type&property_type=gt.0", "").want(200))
			if len(groups) != maxGroups || groups[0]["property_type"] != 1.0 || groups[maxGroups-1]["property_type"] != float64(maxGroups) {
				t.Errorf("%d groups", len(groups))
			}
		})
	}
}

func TestStatsRefused(t *testing.T) {
	store, _ := openSQLite(t)
	c := newClient(t, store)
	for params, want := range map[string][2]string{
		"group=surface":               {"group", "names a field that doesn't exist"},
		"group=listing_type,":         {"group", "names a field that doesn't exist"},
		"group=title":                 {"group", "names a field that is no code, is_active or owner"},
		"group=x_coord":               {"group", "names a field that is no code, is_active or owner"},
		"group=date":                  {"group", "names a field that is no code, is_active or owner"},
		"group=owner,owner":           {"group", "names a field twice"},
		"group=":                      {"group", "has no value"},
		"group=owner&group=is_active": {"group", "is given more than once"},
		"of=title":                    {"of", "names a field that is no number"},
		"of=is_active":                {"of", "names a field that is no number"},
		"of=x_coord,x_coord":          {"of", "names a field twice"},
		"limit=5":                     {"limit", "is not a known parameter"},
		"order=listing_type":          {"order", "is not a known parameter"},
		"surface=eq.3":                {"surface", "is not a known parameter"},
		"listing_type=eq.x":           {"listing_type", "has a value that isn't a whole number"},
		"bbox=1":                      {"bbox", "must be four numbers with a comma between"},
		"group=" + strings.Join(codes()[:6], ","): {"group", "names too many fields: 5 is the limit"},
	} {
		p := decode[problem](c.do("GET", "/inmuebles/stats?"+params, "").want(400))
		if p.Code != "invalid_query" || len(p.Errors) != 1 || p.Errors[0].Parameter != want[0] || p.Errors[0].Detail != want[1] {
			t.Errorf("%s: %+v, want %q", params, p, want)
		}
	}
	c.with("Accept", "text/csv").do("GET", "/inmuebles/stats", "").want(406)
}

// codes are the names of the fields that hold whole numbers.
func codes() (names []string) {
	for _, name := range filterNames {
		if filterFields[name].Kind == query.Int {
			names = append(names, name)
		}
	}
	return names
}

// TestStatsPlan: figures about what an index finds look at nothing else.
func TestStatsPlan(t *testing.T) {
	plan := map[string]func(t *testing.T, s Store, q *StatsQuery) string{
		"SQLite": func(t *testing.T, s Store, q *StatsQuery) (plan string) {
			text, args := statsSQL(q, &candidates{})
			var steps []struct {
				ID, Parent, Notused int
				Detail              string
			}
			must(t, s.(*SQLite).finds.db.SelectContext(t.Context(), &steps, "EXPLAIN QUERY PLAN "+text, args...))
			for _, step := range steps {
				plan += step.Detail + "\n"
			}
			return plan
		},
		"MongoDB": func(t *testing.T, s Store, q *StatsQuery) string {
			all := s.(*Mongo).inmuebles
			var answer bson.M
			must(t, all.Database().RunCommand(t.Context(), bson.D{
				{Key: "explain", Value: bson.D{
					{Key: "aggregate", Value: all.Name()}, {Key: "pipeline", Value: mongoStats(q)}, {Key: "cursor", Value: bson.D{}},
				}},
				{Key: "verbosity", Value: "queryPlanner"},
			}).Decode(&answer))
			text, err := json.Marshal(answer)
			must(t, err)
			_, winner, ok := strings.Cut(string(text), `"winningPlan"`)
			if !ok {
				t.Fatalf("a plan of another form: %s", text)
			}
			return winner
		},
	}
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			_, err := store.Load(t.Context(), Batch{Rows: func(yield func(Row, error) bool) {
				for i := range 1000 {
					m := sample(fmt.Sprint(i))
					m.ListingType, m.Owner = int32(i%20), fmt.Sprint("owner-", i%30)
					if !yield(Row{m, allGiven}, nil) {
						return
					}
				}
			}})
			must(t, err)
			for params, want := range map[string]bool{
				"listing_type=eq.1&group=property_type&of=date_diff":          true,
				"owner=eq.owner-7&date=gte.2021-01-01&group=listing_type":     true,
				"build_status=eq.1&group=property_type&of=date_diff,end_week": false, // and the test can fail
			} {
				values, err := url.ParseQuery(params)
				must(t, err)
				q, err := parseStats(values)
				must(t, err)
				got := plan[e.name](t, store, &q)
				by := strings.Contains(got, "IXSCAN") && !strings.Contains(got, `"indexName":"_id_"`) || strings.Contains(got, "SEARCH inmuebles USING INDEX inmuebles_")
				if by != want {
					t.Errorf("%s: by an index: %v, want %v\n%s", params, by, want, got)
				}
			}
		})
	}
}
