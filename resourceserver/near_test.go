package resourceserver

import (
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/bson"
	"pgregory.net/rapid"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// Longitudes and latitudes of documents, circles and corners: few, so that
// they meet, and with them the ends of the world.
var (
	someX = []float64{-180, -179.99, -3.7038, -3.7, -3.69, 0, 1e-7, 2.5, 90, 179.99, 180}
	someY = []float64{-90, -89.99, -45, 0, 1e-7, 40.41, 40.4168, 40.42, 45, 89.99, 90}
)

func sampleAt(id string, x, y float64) Inmueble {
	m := sample(id)
	m.XCoord, m.YCoord = x, y
	return m
}

// anyPlace is the value of a parameter that is about a place.
func anyPlace(r *rapid.T) (parameter, value string) {
	one := func(of []float64, label string, bound float64) float64 {
		if rapid.IntRange(0, 3).Draw(r, label+" is any") == 0 {
			return math.Round(rapid.Float64Range(-bound, bound).Draw(r, label)*1000) / 1000
		}
		return rapid.SampledFrom(of).Draw(r, label)
	}
	point := func() (x, y float64) { return one(someX, "x", 180), one(someY, "y", 90) }
	switch rapid.IntRange(0, 2).Draw(r, "kind") {
	case 0:
		x, y := point()
		metres := rapid.SampledFrom([]float64{0.001, 1, 500, 1200, 40_000, 1_000_000}).Draw(r, "metres")
		return paramNear, fmt.Sprintf("%v,%v,%v", x, y, metres)
	case 1: // a triangle
		var corners []string
		for range 3 {
			x, y := point()
			corners = append(corners, fmt.Sprintf("[%v,%v]", x, y))
		}
		return paramWithin, `{"type":"Polygon","coordinates":[[` + strings.Join(append(corners, corners[0]), ",") + `]]}`
	}
	// A star around a place, with another one in it as a hole: it never
	// crosses itself.
	x, y := one([]float64{-3.7, 0, 170, -170}, "middle x", 170), one([]float64{40.4168, 0, 80, -80}, "middle y", 80)
	var rings []string
	n := rapid.IntRange(3, 12).Draw(r, "corners")
	far := rapid.SampledFrom([]float64{0.001, 0.1, 5, 10}).Draw(r, "far")
	for _, part := range []float64{1, 0.1}[:rapid.IntRange(1, 2).Draw(r, "rings")] {
		var corners []string
		for i := range n {
			reach := far * part * rapid.SampledFrom([]float64{1, 0.7, 0.5}).Draw(r, "reach")
			sin, cos := math.Sincos(2 * math.Pi * float64(i) / float64(n))
			corners = append(corners, fmt.Sprintf("[%v,%v]", x+reach*cos, y+reach*sin))
		}
		rings = append(rings, "["+strings.Join(append(corners, corners[0]), ",")+"]")
	}
	return paramWithin, `{"type":"Polygon","coordinates":[` + strings.Join(rings, ",") + `]}`
}

// TestPlacesProperty: random circles and polygons find the same documents in
// the same order in both stores, page by page and backwards, as plain Go
// does, alone and with a filter.
func TestPlacesProperty(t *testing.T) {
	var all []Inmueble
	for i, x := range someX {
		for j, y := range someY {
			all = append(all, sampleAt(fmt.Sprintf("p%d-%d", i, j), x, y))
		}
	}
	for i := range 60 { // a neighbourhood, with twins
		all = append(all, sampleAt(fmt.Sprintf("n%d", i), -3.7038+float64(i%10)*0.0031, 40.4168+float64(i/2%15)*0.0017))
	}
	for i := range all {
		all[i].ListingType = int32(i % 3)
	}
	var stores []Store
	for _, e := range theEngines {
		s, _ := e.open(t)
		fill(t, s, all)
		stores = append(stores, s)
	}
	checks := 0
	rapid.Check(t, func(r *rapid.T) {
		if checks++; checks == 20 { // by the index that is filled behind the writers
			settled(t, stores[0])
		}
		params := url.Values{}
		parameter, value := anyPlace(r)
		params.Set(parameter, value)
		if rapid.Bool().Draw(r, "filtered") {
			params.Set("listing_type", "in.(0,2)")
		}
		if parameter == paramWithin && rapid.Bool().Draw(r, "ordered") {
			params.Set(paramOrder, rapid.SampledFrom([]string{"_id", "date.desc", "y_coord"}).Draw(r, "order"))
		}
		where, order, err := parseFilter(params)
		if err != nil {
			if strings.Contains(err.Error(), "encloses nothing") || strings.Contains(err.Error(), "differ") || strings.Contains(err.Error(), "crosses itself") {
				r.Skip(err)
			}
			r.Fatalf("%v: %v", params, err)
		}
		sorted := slices.Clone(all)
		slices.SortFunc(sorted, func(a, b Inmueble) int { return order.Compare(a.filterValue, b.filterValue) })
		var want []string
		for _, m := range sorted {
			if where.Match(m.filterValue) {
				want = append(want, m.ID)
			}
		}
		q := Query{Where: where, Order: order, Limit: max(rapid.IntRange(1, 30).Draw(r, "limit"), len(want)/4)}
		for i, s := range stores {
			if got := walkQuery(r, t, s, q); !slices.Equal(got, want) {
				r.Fatalf("%s: %v: %q, want %q", theEngines[i].name, params, got, want)
			}
			if count, err := s.Count(t.Context(), where, 0); err != nil || count != len(want) {
				r.Fatalf("%s: %v: counted %d, %v, want %d", theEngines[i].name, params, count, err, len(want))
			}
			skip := q
			skip.Skip = 3
			page, err := s.Find(t.Context(), skip)
			if err != nil || len(page.Items) != max(0, min(q.Limit, len(want)-3)) || len(page.Items) > 0 && page.Items[0].ID != want[3] {
				r.Fatalf("%s: %v: behind the third: %d, %v", theEngines[i].name, params, len(page.Items), err)
			}
		}
	})
}

// byOthers changes or adds a document as another program does, which knows
// nothing of indexes.
func byOthers(t testing.TB, s Store, id string, set map[string]any) {
	t.Helper()
	switch s := s.(type) {
	case *SQLite:
		for name, v := range set {
			_, err := s.write.ExecContext(t.Context(), `UPDATE inmuebles SET document = json_set(document, '$.`+name+`', ?) WHERE id = ?`, v, id)
			must(t, err)
		}
	case *Mongo:
		_, err := s.inmuebles.UpdateByID(t.Context(), id, bson.M{"$set": set})
		must(t, err)
	}
}

// settled brings whatever is indexed behind the writers up to date.
func settled(t testing.TB, s Store) {
	t.Helper()
	for {
		n := int64(0)
		var err error
		switch s := s.(type) {
		case *SQLite:
			n, err = s.index(t.Context())
		case *Mongo:
			err = s.checkWords(t.Context())
		}
		must(t, err)
		if n == 0 {
			return
		}
	}
}

func TestPlaces(t *testing.T) {
	const (
		square  = `within={"type":"Polygon","coordinates":[[[-4,40],[-3,40],[-3,41],[-4,41],[-4,40]]]}`
		arctic  = `within={"type":"Polygon","coordinates":[[[-180,80],[180,80],[180,90],[-180,90],[-180,80]]]}`
		pacific = `within={"type":"MultiPolygon","coordinates":[[[[170,-20],[180,-20],[180,20],[170,20],[170,-20]]],[[[-180,-20],[-170,-20],[-170,20],[-180,20],[-180,-20]]]]}`
	)
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, spoil := e.open(t)
			for id, at := range places {
				must(t, store.Insert(t.Context(), sampleAt(id, at[0], at[1])))
			}
			spoil(t, "off", "", outOfRange)
			spoil(t, "nan", "", notFinite)
			for id, x := range map[string]any{"text": "-3.7", "yes": true} {
				must(t, store.Insert(t.Context(), sampleAt(id, -3.7, 40.4)))
				byOthers(t, store, id, map[string]any{"x_coord": x})
			}
			if s, ok := store.(*Mongo); ok {
				must(t, store.Insert(t.Context(), sampleAt("list", -3.7, 40.4)))
				byOthers(t, s, "list", map[string]any{"x_coord": bson.A{-3.7, -3.6}})
				byOthers(t, s, "yes", map[string]any{"y_coord": bson.M{"a": 1}})
			}
			c := newClient(t, store)
			check := func(when string) {
				t.Helper()
				for query, want := range map[string]string{
					"near=-3.7038,40.4168,1":              "madrid",
					"near=-3.5,40.3,100000":               "madrid corner",
					"near=-3,40,100000":                   "corner madrid",
					"near=-3,40,100000&listing_type=eq.7": "",
					"near=-3.5,40.3,100000&limit=1":       "madrid",
					"near=-3.5,40.3,100000&offset=1":      "corner",
					"near=179,10,200000":                  "east west", // of one place, so by _id
					"near=-179,10,200000":                 "east west",
					"near=-155,89.9,20000":                "north",
					"near=0,-90,1":                        "south",
					"near=0,0,0.001":                      "zero",
					"near=-3.5,40.3,100000&" + square:     "madrid corner",
					square:                                "madrid corner",
					square + "&order=_id":                 "corner madrid",
					square + "&select=_id&limit=1":        "madrid",
					square + "&title=fts.nothing":         "",
					arctic:                                "north",
					pacific:                               "west samoa fiji east",
					pacific + "&bbox=-180,0,-170,20":      "west east",
					pacific + "&near=180,10,1":            "east west",
				} {
					if got := idsOf(c.do("GET", at(query), "").want(200)); got != want {
						t.Errorf("%s, %s: %q, want %q", when, query, got, want)
					}
				}
			}
			check("at once")
			settled(t, store)
			check("by the index")
			for what, want := range map[string]string{
				"near=1,2":              "near must be three numbers",
				"near=1,2,2000000":      "near must be of a distance",
				"near=1,2,3&near=1,2,3": "near is given more than once",
				"near=":                 "near has no value",
				"near=1,2,3&order=date": "order can't be used together with near",
				"within=POLYGON":        "within must be a JSON object",
				`within={"type":"Polygon","coordinates":[[[0,0],[1,0],[1,1],[0,1]]]}`: "within has a ring 1 that isn't closed",
			} {
				p := decode[problem](c.do("GET", at(what), "").want(400))
				if len(p.Errors) != 1 || !strings.Contains(p.Errors[0].Parameter+" "+p.Errors[0].Detail, want) {
					t.Errorf("%s: %+v, want %s", what, p, want)
				}
			}
			a := c.do("GET", "/inmuebles/stats?near=-3.5,40.3,100000", "").want(200)
			if got := a.Body.String(); !strings.Contains(got, `"count":2`) {
				t.Errorf("figures of what is near: %s", got)
			}
			a = c.with("Prefer", "count=exact").do("GET", at("near=-3.5,40.3,100000&limit=1"), "").want(200)
			if got := a.Header().Get("Content-Range"); got != "0-0/2" {
				t.Errorf("Content-Range %s", got)
			}
			next := link(a, "next")
			if got := idsOf(c.do("GET", next, "").want(200)); got != "corner" {
				t.Errorf("the next page has %q", got)
			}
			p := decode[problem](c.do("GET", strings.Replace(next, "near=-3.5", "near=-3.6", 1), "").want(400))
			if len(p.Errors) != 1 || p.Errors[0].Parameter != "cursor" {
				t.Errorf("a cursor around another place: %+v", p)
			}
			a = c.with("Accept", "application/geo+json").do("GET", at("near=-3.5,40.3,100000"), "")
			if got := a.Body.String(); strings.Count(got, `"Feature"`) != 2 || strings.Index(got, "madrid") > strings.Index(got, "corner") {
				t.Errorf("GeoJSON: %s", got)
			}
		})
	}
}

// TestPlacesOfOthers: a document that another program moved, copied or
// removed is found where it is, at once and later.
func TestPlacesOfOthers(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			must(t, store.Insert(t.Context(), sampleAt("a", -3.7, 40.4)))
			must(t, store.Insert(t.Context(), sampleAt("b", -3.7, 40.4)))
			settled(t, store)
			c := newClient(t, store)
			for i := range 4 {
				x := float64(i * 10)
				byOthers(t, store, "a", map[string]any{"x_coord": x})
				for range 2 {
					for query, want := range map[string]string{
						fmt.Sprintf("near=%v,40.4,10", x): "a",
						"near=-3.7,40.4,10":               "b",
						fmt.Sprintf(`within={"type":"Polygon","coordinates":[[[%v,40],[%v,40],[%v,41],[%v,40]]]}`, x-1, x+2, x-1, x-1): "a",
					} {
						if got := idsOf(c.do("GET", at(query), "").want(200)); got != want {
							t.Errorf("%s: %q, want %q", query, got, want)
						}
					}
					settled(t, store)
				}
			}
			if s, ok := store.(*SQLite); ok {
				for _, change := range []string{
					`UPDATE inmuebles SET seq = 77 WHERE id = 'b'`,
					`INSERT OR REPLACE INTO inmuebles (seq, id, owner, document) SELECT 78, id, owner, document FROM inmuebles WHERE id = 'b'`,
					`DELETE FROM inmuebles WHERE id = 'a'; INSERT INTO inmuebles (seq, id, owner, document) SELECT 1, 'a2', owner, document FROM inmuebles WHERE id = 'b'`,
				} {
					_, err := s.write.ExecContext(t.Context(), change)
					must(t, err)
					for range 2 {
						if got := idsOf(c.do("GET", at("near=-3.7,40.4,10"), "").want(200)); !strings.HasSuffix(got, "b") {
							t.Errorf("%s: %q", change, got)
						}
						settled(t, store)
					}
				}
				if got := idsOf(c.do("GET", at("near=-3.7,40.4,10"), "").want(200)); got != "a2 b" {
					t.Errorf("at the end %q", got)
				}
			}
		})
	}
}

// TestPlacesPlan: what is looked at for a page around a place, or of a small
// area, is what lies there, however much lies elsewhere.
func TestPlacesPlan(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			looked := map[int]map[string]int{}
			for _, n := range []int{2000, 10_000} {
				store, _ := e.open(t)
				_, err := store.Load(t.Context(), Batch{Rows: func(yield func(Row, error) bool) {
					for i := range n {
						m := sampleAt(fmt.Sprintf("%06d", i), -9+float64(i%1300)/100, 36+float64(i/1300))
						if i < 500 { // a town
							m.XCoord, m.YCoord = 12.5+float64(i%25)/1000, 45.5+float64(i/25)/1000
						}
						if !yield(Row{m, allGiven}, nil) {
							return
						}
					}
				}})
				must(t, err)
				settled(t, store)
				looked[n] = map[string]int{}
				for _, text := range []string{
					"near=12.51,45.51,200000",
					`within={"type":"Polygon","coordinates":[[[12.5,45.5],[12.51,45.5],[12.51,45.51],[12.5,45.5]]]}&order=date.desc`,
				} {
					q := queryOf(t, strings.ReplaceAll(text, `"`, "%22"))
					q.Limit = 20
					page, err := store.Find(t.Context(), q)
					must(t, err)
					if len(page.Items) < 20 {
						t.Fatalf("%s: %d items", text, len(page.Items))
					}
					looked[n][text] = lookedAt(t, store, q)
				}
			}
			for text, few := range looked[2000] {
				many := looked[10_000][text]
				t.Logf("%s: %d looked at of 2,000, %d of 10,000", text, few, many)
				if few > 500 || many > few {
					t.Errorf("%s: %d looked at of 2,000, %d of 10,000", text, few, many)
				}
			}
		})
	}
}

// lookedAt is how many documents and keys of indexes a page costs.
func lookedAt(t testing.TB, s Store, q Query) (n int) {
	t.Helper()
	switch s := s.(type) {
	case *SQLite:
		steps, err := s.steps(t.Context(), &q)
		must(t, err)
		for i := range steps {
			text, args := findSQL(&q, &steps[i], true)
			var plan []struct {
				ID, Parent, Notused int
				Detail              string
			}
			must(t, s.finds.db.SelectContext(t.Context(), &plan, "EXPLAIN QUERY PLAN "+text, append(args, q.Limit+1, 0)...))
			for _, step := range plan {
				if strings.HasPrefix(step.Detail, "SCAN") && !strings.Contains(step.Detail, "INDEX") && step.Detail != "SCAN inmuebles_changed" {
					t.Errorf("%s", step.Detail)
				}
			}
			c := steps[i].from
			if c.all() { // in the order of an index
				if strings.Contains(fmt.Sprint(plan), "TEMP B-TREE") {
					t.Errorf("%v", plan)
				}
				n += q.Limit + 1
				continue
			}
			some, err := s.number(t.Context(), &c, 1<<30)
			must(t, err)
			n += some
			page := Page{Items: []Inmueble{}}
			must(t, findPart(t.Context(), s.finds.get, &q, &steps[i], &page, true))
			if page.More {
				break
			}
		}
	case *Mongo:
		parts, rest := q.rings(true)
		for _, part := range parts {
			ring := q
			ring.Where = query.Join(rest, part)
			filter, computed, sort := mongoPlan(&ring)
			var answer bson.M
			pipeline := bson.A{bson.M{"$match": filter}, bson.M{"$sort": sort}, bson.M{"$limit": q.Limit + 1}}
			if computed != nil {
				pipeline = slices.Insert(pipeline, 1, any(bson.M{"$addFields": computed}))
			}
			must(t, s.inmuebles.Database().RunCommand(t.Context(), bson.D{
				{Key: "explain", Value: bson.D{{Key: "aggregate", Value: s.inmuebles.Name()}, {Key: "pipeline", Value: pipeline}, {Key: "cursor", Value: bson.M{}}}},
				{Key: "verbosity", Value: "executionStats"},
			}).Decode(&answer))
			text, err := json.Marshal(answer)
			must(t, err)
			if strings.Contains(string(text), "COLLSCAN") {
				t.Errorf("%.2000s", text)
			}
			m := regexp.MustCompile(`"totalKeysExamined":(\d+)`).FindSubmatch(text)
			if m == nil {
				t.Fatalf("a plan of another form: %.2000s", text)
			}
			keys, _ := strconv.Atoi(string(m[1]))
			n += keys
			page, err := s.find(t.Context(), ring)
			must(t, err)
			if page.More {
				break
			}
		}
	}
	return n
}
