package resourceserver

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// variety is a handful of documents that differ.
func variety() []Inmueble {
	var all []Inmueble
	add := func(id string, change func(m *Inmueble)) {
		m := sample(id)
		change(&m)
		all = append(all, m)
	}
	two := int32(2)
	add("a", func(m *Inmueble) { m.ListingType, m.Date, m.Title = 1, "2021-03-01", "Piso en Sol" })
	add("b", func(m *Inmueble) { m.ListingType, m.Date, m.Title = 1, "2021-03-01T01:00:00+02:00", "PISO (ático), 3" })
	add("c", func(m *Inmueble) { m.ListingType, m.Date, m.BoundaryID = 2, "2021-03-03", nil })
	add("d", func(m *Inmueble) { m.ListingType, m.Date, m.BoundaryID, m.Title = 2, "2021-03-02", &two, "" })
	add("e", func(m *Inmueble) { m.ListingType, m.Date, m.Owner, m.DateDiff = 3, "pronto", "bob", 0 })
	return all
}

func fill(t testing.TB, s Store, all []Inmueble) {
	t.Helper()
	for _, m := range all {
		must(t, s.Insert(t.Context(), m))
	}
}

// idsOf are the ids of a page.
func idsOf(a answer) string {
	a.t.Helper()
	var ids []string
	for _, m := range decode[[]map[string]any](a) {
		ids = append(ids, fmt.Sprint(m["_id"]))
	}
	return strings.Join(ids, " ")
}

// link is the target of a relation, "" if there is none.
func link(a answer, rel string) string { return linkIn(a.Header().Get("Link"), rel) }

func linkIn(header, rel string) string {
	found := regexp.MustCompile(`<([^>]*)>; rel="` + rel + `"`).FindStringSubmatch(header)
	if found == nil {
		return ""
	}
	return found[1]
}

// at is the path of a list with a query that isn't percent-encoded, but for an
// & in a value.
func at(query string) string {
	var parts []string
	for part := range strings.SplitSeq(query, "&") {
		name, v, _ := strings.Cut(part, "=")
		parts = append(parts, name+"="+url.QueryEscape(strings.ReplaceAll(v, "%26", "&")))
	}
	return "/inmuebles?" + strings.Join(parts, "&")
}

func TestFilters(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			fill(t, store, variety())
			c := newClient(t, store)
			for params, want := range map[string]string{
				"listing_type=1":                                     "a b",
				"listing_type=eq.1&title=ilike.*piso*":               "a b",
				"listing_type=gte.1&listing_type=lt.3":               "a b c d",
				"title=like.*piso*":                                  "",
				"title=ilike.*ático*":                                "b c e",
				"title=ilike.*atico*":                                "",
				"or=(title.eq.\"PISO (ático), 3\",boundary_id.eq.2)": "b d",
				"title=in.(\"PISO (ático), 3\",Piso en Sol)":         "a b",
				"title=eq.":                 "d",
				"title=fts.atico":           "b c e",
				"text=plfts.PISO sol":       "a",
				"text=fts.céntric:*%26!sol": "b c d e",
				"text=not.fts.piso":         "",
				"text=plfts." + strings.Repeat(strings.Repeat("u", query.MaxWord)+" ", 120): "", // as much as there may be
				"title=fts.pis": "",
				"or=(title.fts.sol,title.fts.\"atico%263\")": "a b",
				"date_diff=0":          "e",
				"boundary_id=is.null":  "c",
				"boundary_id=neq.2":    "a b e",
				"boundary_id=not.eq.2": "a b e",
				"not.or=(listing_type.eq.1,boundary_id.is.null)":    "d e",
				"date=lt.2021-03-01":                                "b",
				"date=gte.2021-03-01&date=lte.2021-03-02T00:00:00Z": "a d",
				"date=2021-02-28T23:00:00Z":                         "b",
				"date=gt.2022":                                      "e",
				"owner=bob":                                         "e",
				"created_at=gte.2026-03-01T06:30:00.123Z":           "a b c d e",
				"created_at=gt.2026-03-01T06:30:00.123Z":            "",
				"is_active=is.true&x_coord=lt.0":                    "a b c d e",
				"_id=in.(a,e,x)":                                    "a e",
				"order=date":                                        "b a d c e",
				"order=date.desc.nullslast,_id":                     "e c d a b",
				"order=listing_type.desc,date":                      "e d c b a",
				"order=boundary_id":                                 "d e b a c",
				"order=boundary_id.nullsfirst,_id":                  "c d a b e",
				"order=boundary_id.desc":                            "c a b e d",
				"order=title,_id.desc":                              "d b a e c",
				"order=_id.desc&limit=2":                            "e d",
				"offset=3":                                          "d e",
			} {
				if got := idsOf(c.do("GET", at(params), "").want(200)); got != want {
					t.Errorf("%s: %q, want %q", params, got, want)
				}
			}
			for query, want := range map[string]string{ // parameter: reason
				"surface=1":                         "surface: is not a known parameter",
				"listing_type=x":                    "listing_type: has a value that isn't a whole number",
				"or=(a.eq.1)":                       "or: names a field that doesn't exist",
				"order=surface":                     "order: names a field that doesn't exist",
				"order=description":                 "order: names a field that is too long",
				"order=date&order=date":             "order: is given more than once",
				"select=surface":                    "select: names a member that doesn't exist",
				"select=title::text":                "select: names a member that doesn't exist",
				"select=title,title":                "select: names a member twice",
				"select=x:title,x:date":             "select: names a member twice",
				"limit=1001":                        "limit: must be from 1 to 1000",
				"offset=10001":                      "offset: must be from 0 to 10000",
				"offset=-1":                         "offset: must be from 0 to 10000",
				"offset=x":                          "offset: isn't a whole number",
				"cursor=x":                          "cursor: is not one from a Link header",
				"title=" + strings.Repeat("x", 9e3): "title: makes the filter too long: 8192 bytes is the limit",
			} {
				p := decode[problem](c.do("GET", at(query), "").want(400))
				if p.Code != "invalid_query" || len(p.Errors) != 1 || !strings.HasPrefix(p.Errors[0].Parameter+": "+p.Errors[0].Detail, want) {
					t.Errorf("%.60s: %+v, want %s", query, p, want)
				}
			}
			p := decode[struct{ Message, Code, Details, Hint string }](c.do("GET", at("offset=10001"), "").want(400))
			if p.Message == "" || p.Code == "" || !strings.Contains(p.Details, "offset") || !strings.Contains(p.Hint, "cursor") {
				t.Errorf("for PostgREST's clients: %+v", p)
			}
		})
	}
}

func TestWalkThroughPages(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			fill(t, store, variety())
			c := newClient(t, store)
			for _, order := range []string{"date", "date.desc.nullslast,_id", "boundary_id.desc,listing_type", "boundary_id.nullsfirst", "title", "is_active,x_coord", "created_at,date_diff.desc"} {
				whole := strings.Fields(idsOf(c.do("GET", at("order="+order), "").want(200)))
				var ids, back []string
				last := ""
				for next := at("limit=2&order=" + order); next != ""; {
					a := c.do("GET", next, "").want(200)
					ids = append(ids, strings.Fields(idsOf(a))...)
					last, next = next, link(a, "next")
				}
				if !slices.Equal(ids, whole) {
					t.Errorf("%s: in pages %q, at once %q", order, ids, whole)
				}
				for prev := last; prev != ""; {
					a := c.do("GET", prev, "").want(200)
					back = append(strings.Fields(idsOf(a)), back...)
					prev = link(a, "prev")
					if prev != "" {
						// There and back again.
						forth := c.do("GET", link(c.do("GET", prev, "").want(200), "next"), "").want(200)
						if idsOf(forth) != idsOf(a) {
							t.Errorf("%s: prev and next of %q lead to %q", order, idsOf(a), idsOf(forth))
						}
					}
				}
				if !slices.Equal(back, whole) {
					t.Errorf("%s: backwards in pages %q, at once %q", order, back, whole)
				}
				if first := link(c.do("GET", last, "").want(200), "first"); idsOf(c.do("GET", first, "").want(200)) != strings.Join(whole[:2], " ") {
					t.Errorf("%s: first is %s", order, first)
				}
			}
			// A page stays where it is while others write before it.
			a := c.do("GET", at("order=date&limit=2"), "").want(200)
			early := sample("0")
			early.Date = "2020-01-01"
			fill(t, store, []Inmueble{early})
			must(t, store.Delete(t.Context(), "a", Admin)) // the cursor's own
			if got := idsOf(c.do("GET", link(a, "next"), "").want(200)); got != "d c" {
				t.Errorf("the second page is %q", got)
			}
			// A cursor belongs to its order.
			u := strings.Replace(link(a, "next"), "order=date", "order=title", 1)
			p := decode[problem](c.do("GET", u, "").want(400))
			if len(p.Errors) != 1 || p.Errors[0].Parameter != "cursor" {
				t.Errorf("a cursor of another order: %+v", p)
			}
			p = decode[problem](c.do("GET", link(a, "next")+"&offset=1", "").want(400))
			if len(p.Errors) != 1 || p.Errors[0].Parameter != "offset" {
				t.Errorf("cursor and offset: %+v", p)
			}
		})
	}
}

func TestRepresentation(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			fill(t, store, variety())
			c := newClient(t, store)

			if got, want := c.do("GET", at("select=lat:y_coord,title,_id,created_at&_id=eq.a"), "").want(200).Body.String(),
				`[{"lat":40.4168,"title":"Piso en Sol","_id":"a","created_at":"2026-03-01T06:30:00.123Z"}]`; got != want {
				t.Errorf("select: %s, want %s", got, want)
			}
			if got := decode[[]map[string]any](c.do("GET", at("select=x:_id,*"), "").want(200)); len(got[0]) != len(fields)+4 || got[0]["x"] != "a" {
				t.Errorf("select with *: %v", got[0])
			}

			object := c.with("Accept", typeObject)
			a := object.do("GET", at("_id=eq.a"), "")
			if a.Code != 200 || a.Header().Get("Content-Type") != typeObject || decode[map[string]any](a)["_id"] != "a" {
				t.Errorf("one row: %d, %q, %.200s", a.Code, a.Header().Get("Content-Type"), a.Body)
			}
			for query, want := range map[string]string{"_id=eq.x": "The result contains 0 rows", "listing_type=1": "The result contains several rows"} {
				p := decode[struct{ Code, Details string }](object.do("GET", at(query), "").want(406))
				if p.Code != "PGRST116" || p.Details != want {
					t.Errorf("%s: %+v", query, p)
				}
			}
			c.with("Accept", "text/html").do("GET", "/inmuebles", "").want(406)
			c.with("Accept", "text/html, */*;q=0.1").do("GET", "/inmuebles", "").want(200)
			c.with("Accept", "application/json;q=0, */*").do("GET", "/inmuebles", "")

			for _, tt := range []struct {
				query, prefer, rng, want string
				status                   int
			}{
				{"", "", "", "0-4/*", 200},
				{"limit=2", "count=exact", "", "0-1/5", 200},
				{"limit=2&offset=3", "count=estimated", "", "3-4/5", 200},
				{"listing_type=1", "count=planned", "", "0-1/2", 200},
				{"_id=x", "count=exact", "", "*/0", 200},
				{"", "count=exact", "1-2", "1-2/5", 206},
				{"", "count=exact", "3-900", "3-4/5", 200},
				{"", "", "4-", "4-4/*", 200},
				{"limit=1", "", "3-4", "0-0/*", 200},
				{"", "", "bytes=0-5", "0-4/*", 200},
				{"", "", "4-2", "0-4/*", 200},
				{"", "count=exact", "6-9", "*/5", 416},
				{"offset=6", "count=exact", "", "*/5", 416},
			} {
				target := "/inmuebles"
				if tt.query != "" {
					target = at(tt.query)
				}
				asked := c.with("Prefer", tt.prefer)
				if tt.rng != "" {
					asked = asked.with("Range", tt.rng)
				}
				a := asked.do("GET", target, "").want(tt.status)
				if got := a.Header().Get("Content-Range"); got != tt.want {
					t.Errorf("%q, Prefer %q, Range %q: Content-Range %q, want %q", tt.query, tt.prefer, tt.rng, got, tt.want)
				}
			}

			a = c.do("GET", "/inmuebles?limit=2", "").want(200)
			tag := a.Header().Get("Etag")
			a = c.with("If-None-Match", tag).do("GET", "/inmuebles?limit=2", "").want(http.StatusNotModified)
			if a.Body.Len() > 0 || a.Header().Get("Etag") != tag {
				t.Errorf("304 with %d bytes, ETag %q", a.Body.Len(), a.Header().Get("Etag"))
			}
			m := variety()[1]
			m.Title = "otro"
			_, err := store.Replace(t.Context(), m, Admin)
			must(t, err)
			c.with("If-None-Match", tag).do("GET", "/inmuebles?limit=2", "").want(200)
		})
	}
}

// places are at borders, both sides of the antimeridian, and the poles.
var places = map[string][2]float64{
	"madrid": {-3.7038, 40.4168}, "corner": {-3, 40}, "fiji": {178, -18}, "samoa": {-172, -13.8},
	"east": {180, 10}, "west": {-180, 10}, "north": {25, 90}, "south": {-70, -90}, "zero": {0, 0},
}

func TestBox(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			for id, at := range places {
				m := sample(id)
				m.XCoord, m.YCoord = at[0], at[1]
				must(t, store.Insert(t.Context(), m))
			}
			c := newClient(t, store)
			for box, want := range map[string]string{
				"-4,40,-3,41":                "madrid corner",
				"-3,40,-3,40":                "corner",
				"-2.9,39,0,41":               "",
				"170,-20,-170,20":            "west samoa fiji east",
				"178,-90,-172,90":            "west samoa south north fiji east",
				"-180,0,-175,20":             "west east",
				"175,0,180,20":               "west east",
				"-180,-90,180,90":            "west samoa south madrid corner zero north fiji east",
				"0,80,10,90":                 "north",
				"0,-90,1,-80":                "south",
				"0,0,0,0":                    "zero",
				"-180,10,-180,10":            "west east",
				"-4,40,-3,41&listing_type=7": "",
				"-4,40,-3,41&order=_id":      "corner madrid",
			} {
				if got := idsOf(c.do("GET", at("bbox="+box), "").want(200)); got != want {
					t.Errorf("%s: %q, want %q", box, got, want)
				}
			}
			var ids []string
			for next := at("bbox=170,-90,-170,90&limit=2"); next != ""; {
				a := c.do("GET", next, "").want(200)
				ids = append(ids, idsOf(a))
				next = link(a, "next")
			}
			if got, want := strings.Join(ids, " "), "west samoa south north fiji east"; got != want {
				t.Errorf("in pages %q, want %q", got, want)
			}
			for box, want := range map[string]string{
				"1,2,3": "must be four numbers", "1,2,3,4,5": "must be four numbers", "a,2,3,4": "must be four numbers", "NaN,2,3,4": "must be four numbers",
				"0x1,2,3,4": "must be four numbers", "-181,0,0,0": "has a longitude beyond 180", "0,0,0,91": "latitude beyond 90", "0,2,1,1": "has a south",
				",,,": "must be four numbers", "1e999,0,0,0": "must be four numbers",
			} {
				p := decode[problem](c.do("GET", at("bbox="+box), "").want(400))
				if len(p.Errors) != 1 || p.Errors[0].Parameter != "bbox" || !strings.Contains(p.Errors[0].Detail, want) {
					t.Errorf("%s: %+v, want %s", box, p, want)
				}
			}
		})
	}
}
