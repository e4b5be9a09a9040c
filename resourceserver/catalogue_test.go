package resourceserver

import (
	"errors"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// catalogueFile allows what body and row have.
const catalogueFile = `{
	"listing_type": [{"code": 10, "es": "Venta", "en": "For sale"}, {"code": -2, "es": "Alquiler", "en": "To let", "note": "since 2024"}, {"code": 0}],
	"construction_type": [{"code": 3, "es": "Ladrillo", "en": "Brick"}]
}`

func catalogues(t testing.TB, file string) *Catalogues {
	t.Helper()
	c, err := ReadCatalogues(strings.NewReader(file))
	must(t, err)
	return c
}

// catalogued is the same API with another configuration.
func (c client) catalogued(file string) *client {
	c.t.Helper()
	server, err := New(Options{
		Store: c.server.store, Verifier: c.server.verifier, Metrics: prometheus.NewRegistry(), Now: c.clock.Now,
		Catalogues: catalogues(c.t, file),
	})
	must(c.t, err)
	c.server = server
	return &c
}

func TestReadCatalogues(t *testing.T) {
	for name, tc := range map[string]struct{ file, want string }{
		"nothing":           {``, "not a catalogue"},
		"not an object":     {`[]`, "not a catalogue"},
		"twice":             {`{"listing_type":[{"code":1}],"listing_type":[{"code":1}]}`, "duplicate"},
		"no such field":     {`{"surface":[{"code":1}]}`, `"surface" is no field that is a code`},
		"text":              {`{"title":[{"code":1}]}`, `"title" is no field that is a code`},
		"a difference":      {`{"date_diff":[{"code":1}]}`, `"date_diff" is no field that is a code`},
		"no codes":          {`{"listing_type":[]}`, "listing_type must have 1 to 10000 codes"},
		"too many":          {`{"listing_type":[` + strings.Repeat(`{"code":1},`, maxCodes) + `{"code":1}]}`, "1 to 10000 codes"},
		"null":              {`{"listing_type":null}`, "listing_type must have 1 to 10000 codes"},
		"no code":           {`{"listing_type":[{"code":1},{"es":"Venta"}]}`, "listing_type lacks the code of entry 2"},
		"a code twice":      {`{"listing_type":[{"code":1},{"code":1}]}`, "listing_type has the code 1 twice"},
		"33 bits":           {`{"listing_type":[{"code":4294967296}]}`, "not a catalogue"},
		"a fraction":        {`{"listing_type":[{"code":1.5}]}`, "not a catalogue"},
		"another language":  {`{"listing_type":[{"code":1,"fr":"Vente"}]}`, "unknown object member name"},
		"a long label":      {`{"listing_type":[{"code":1,"es":"` + strings.Repeat("ñ", maxLabel+1) + `"}]}`, "at the code 1 that must have at most 200 characters"},
		"a NUL in a label":  {`{"listing_type":[{"code":1,"en":"\u0000"}]}`, "U+0000"},
		"something behind":  {catalogueFile + `{}`, "not a catalogue"},
		"a very large file": {strings.Repeat(" ", MaxCatalogueFile) + `{}`, "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadCatalogues(strings.NewReader(tc.file))
			if !errors.Is(err, ErrCatalogue) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
	t.Run("the most", func(t *testing.T) {
		var codes []string
		for i := range maxCodes {
			codes = append(codes, `{"code":`+strconv.Itoa(i)+`}`)
		}
		catalogues(t, `{"boundary_id":[`+strings.Join(codes, ",")+`]}`)
	})
}

func FuzzReadCatalogues(f *testing.F) {
	f.Add(catalogueFile)
	f.Fuzz(func(t *testing.T, file string) {
		c, err := ReadCatalogues(strings.NewReader(file))
		if err != nil {
			if !errors.Is(err, ErrCatalogue) {
				t.Error(err)
			}
			return
		}
		for _, one := range c.all {
			if len(one.order) == 0 || len(one.order) != len(one.has) {
				t.Errorf("%s has %v", fields[one.at].name, one.order)
			}
		}
	})
}

// TestCatalogueGuards: whatever brings a code in.
func TestCatalogueGuards(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			before := newClient(t, store)
			old := before.do("POST", "/inmuebles", body("listing_type", "99")).want(201).Header().Get("Location")
			c := before.catalogued(catalogueFile)
			at := c.do("POST", "/inmuebles", body()).want(201).Header().Get("Location")
			c.do("POST", "/inmuebles", body("listing_type", "-2.0", "construction_type", "null")).want(201)
			upsert := c.with("Prefer", "resolution=merge-duplicates")
			id := strings.TrimPrefix(at, "/inmuebles/")

			for name, tc := range map[string]struct {
				do      answer
				pointer []string
			}{
				"POST":         {c.do("POST", "/inmuebles", body("listing_type", "11")), []string{"/listing_type"}},
				"POST, two":    {c.do("POST", "/inmuebles", body("listing_type", "11", "construction_type", "1")), []string{"/construction_type", "/listing_type"}},
				"POST, many":   {c.do("POST", "/inmuebles", "["+body()+","+body("construction_type", "4")+"]"), []string{"/1/construction_type"}},
				"POST, merged": {upsert.do("POST", "/inmuebles", `[{"_id":"`+id+`","listing_type":1}]`), []string{"/0/listing_type"}},
				"PUT":          {c.do("PUT", at, body("_id", `"`+id+`"`, "listing_type", "11")), []string{"/listing_type"}},
				"PATCH":        {c.do("PATCH", at, `{"construction_type":5}`), []string{"/construction_type"}},
				"PATCH, where": {c.do("PATCH", "/inmuebles?_id=eq."+id, `{"construction_type":5}`), []string{"/construction_type"}},
			} {
				p := decode[problem](tc.do.want(422))
				var pointers []string
				for _, e := range p.Errors {
					pointers = append(pointers, *e.Pointer)
					if !strings.HasPrefix(e.Detail, "must be a code of the catalogue ") {
						t.Errorf("%s: %s", name, e.Detail)
					}
				}
				if !slices.Equal(pointers, tc.pointer) {
					t.Errorf("%s: it is said of %q, want %q", name, pointers, tc.pointer)
				}
			}
			if n := decode[[]any](c.do("GET", "/inmuebles", "").want(200)); len(n) != 3 {
				t.Errorf("%d are stored", len(n))
			}

			// What was stored before the catalogue is read, and other members change.
			c.do("GET", old, "").want(200)
			if a := decode[map[string]any](c.do("PATCH", old, `{"title":"Piso"}`).want(200)); a["title"] != "Piso" || a["listing_type"] != 99.0 {
				t.Errorf("%v", a)
			}
			c.do("PATCH", old, `{"listing_type":0}`).want(200)
			c.do("PATCH", at, `{"construction_type":null}`).want(200)
		})
	}
}

// TestCatalogueOfImport: the same, by column and by line.
func TestCatalogueOfImport(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			opts := asImporter
			opts.Catalogues, opts.SkipBad = catalogues(t, catalogueFile), true
			csv := strings.Replace(header, "listing_type", "Listing Type", 1) + row() + row("id_uda", "u2", "listing_type", "11") + row("id_uda", "u3", "construction_type", "")
			report, err := Import(t.Context(), store, strings.NewReader(csv), opts)
			must(t, err)
			if want := []RowError{{3, "Listing Type", i18n.Textf("must be a code of the catalogue %s", "listing_type")}}; !reflect.DeepEqual(report.Bad, want) || report.Stored != 2 {
				t.Errorf("%d stored, bad %v, want %v", report.Stored, report.Bad, want)
			}
			// Of a merge, only what is given.
			opts.OnDuplicate = MergeDuplicate
			report, err = Import(t.Context(), store, strings.NewReader(`{"_id":"u1","construction_type":4}`+"\n"+`{"_id":"u1","title":"Piso"}`), opts)
			must(t, err)
			if want := []RowError{{1, "construction_type", i18n.Textf("must be a code of the catalogue %s", "construction_type")}}; !reflect.DeepEqual(report.Bad, want) || report.Changed != 1 {
				t.Errorf("%d changed, bad %v, want %v", report.Changed, report.Bad, want)
			}
		})
	}
}

// TestCatalogueDraft: what is drafted of rows can be read, and allows them.
func TestCatalogueDraft(t *testing.T) {
	store, _ := openSQLite(t)
	var file strings.Builder
	file.WriteString(header)
	for i := range maxDrafted + 1 {
		file.WriteString(row("id_uda", "u"+strconv.Itoa(i), "boundary_id", strconv.Itoa(i), "end_week", strconv.Itoa(i%maxDrafted), "construction_type", "", "title", `"the ""first"""`))
	}
	file.WriteString(row("id_uda", "last", "listing_type", "-7", "title", ""))
	opts := asImporter
	opts.Draft = &CatalogueDraft{}
	_, err := Import(t.Context(), store, strings.NewReader(file.String()), opts)
	must(t, err)
	text, leftOut := opts.Draft.File()
	if want := []string{"boundary_id"}; !slices.Equal(leftOut, want) {
		t.Errorf("left out: %q, want %q", leftOut, want)
	}
	for _, want := range []string{
		"\"listing_type\": [\n    {\"code\": -7, \"es\": \"\", \"en\": \"\", \"note\": \"1 row\"},\n    {\"code\": 10, \"es\": \"\", \"en\": \"\", \"note\": \"201 rows: the \\\"first\\\"\"}\n  ]",
		"\"construction_type\": [\n    {\"code\": 3,",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%.2000s", want, text)
		}
	}
	opts = asImporter
	opts.Catalogues, opts.OnDuplicate = catalogues(t, string(text)), ReplaceDuplicate
	report, err := Import(t.Context(), store, strings.NewReader(file.String()), opts)
	must(t, err)
	if report.Unchanged != maxDrafted+2 || report.Bad != nil {
		t.Errorf("%+v", report)
	}
	if text, _ := (&CatalogueDraft{}).File(); catalogues(t, string(text)).all != nil {
		t.Errorf("of no rows: %s", text)
	}
}

func TestGetCatalogues(t *testing.T) {
	store, _ := openSQLite(t)
	none := newClient(t, store)
	if got := none.do("GET", "/catalogues", "").want(200).Body.String(); got != "[]" {
		t.Errorf("without a file: %s", got)
	}
	none.do("GET", "/catalogues/listing_type", "").want(404)
	c := none.catalogued(catalogueFile)
	a := c.do("GET", "/catalogues/", "").want(200)
	if want := `[{"name":"construction_type","codes":1},{"name":"listing_type","codes":3}]`; a.Body.String() != want {
		t.Errorf("%s, want %s", a.Body, want)
	}
	c.with("If-None-Match", a.Header().Get("ETag")).do("GET", "/catalogues", "").want(304)

	const es = `{"name":"listing_type","codes":[{"code":10,"label":"Venta"},{"code":-2,"label":"Alquiler"},{"code":0,"label":"0"}]}`
	const en = `{"name":"listing_type","codes":[{"code":10,"label":"For sale"},{"code":-2,"label":"To let"},{"code":0,"label":"0"}]}`
	tags := map[string]string{}
	for header, want := range map[string]string{
		"": es, "es": es, "es-MX": es, "en-GB, es;q=0.5": en, "fr, en;q=0.1": en, "fr": es, "*": es, "en;q=0.1, es;q=0.9": es, "\xff;;": es,
	} {
		a := c.with("Accept-Language", header).do("GET", "/catalogues/listing_type", "").want(200)
		if a.Body.String() != want {
			t.Errorf("%q: %s", header, a.Body)
		}
		language := map[string]string{es: "es", en: "en"}[want]
		if got := a.Header().Get("Content-Language"); got != language || !slices.Contains(a.Header().Values("Vary"), "Accept-Language") {
			t.Errorf("%q: Content-Language %q, Vary %q", header, got, a.Header().Values("Vary"))
		}
		tags[a.Header().Get("ETag")] = want
		c.with("Accept-Language", header).with("If-None-Match", a.Header().Get("ETag")).do("GET", "/catalogues/listing_type", "").want(304)
	}
	if len(tags) != 2 {
		t.Errorf("entity tags %v", tags)
	}
	for _, name := range []string{"build_status", "LISTING_TYPE", "title", "%00"} {
		if p := decode[problem](c.do("GET", "/catalogues/"+name, "").want(404)); p.Code != "not_found" {
			t.Errorf("%s: %+v", name, p)
		}
	}
	c.as("viewer", "inmuebles:write").do("GET", "/catalogues", "").want(403)
}

// TestCatalogueInDocument: whoever reads the API's document sees the codes.
func TestCatalogueInDocument(t *testing.T) {
	store, _ := openSQLite(t)
	c := newClient(t, store).catalogued(catalogueFile)
	document := decode[struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct {
					Type any
					Enum []any
				}
			}
		}
	}](c.do("GET", "/openapi.json", "").want(200))
	for shape, wanted := range map[string]bool{schemaNew: true, schemaReplacement: true, schemaPatch: true, schemaElement: true, schemaAnswer: false} {
		for field, want := range map[string][]any{"listing_type": {10.0, -2.0, 0.0}, "construction_type": {3.0, nil}, "build_status": nil} {
			p := document.Components.Schemas[shape].Properties[field]
			if !wanted {
				want = nil
			}
			if p.Type == nil || !reflect.DeepEqual(p.Enum, want) {
				t.Errorf("%s.%s is of type %v, one of %v, want %v", shape, field, p.Type, p.Enum, want)
			}
		}
	}
}

// TestExampleCatalogue: the one in docs says what the made-up codes mean, all
// of them and no others.
func TestExampleCatalogue(t *testing.T) {
	file, err := os.ReadFile("../docs/catalogue.json")
	must(t, err)
	c := catalogues(t, string(file))
	unused := map[string]map[int32]bool{}
	for _, one := range c.all {
		unused[fields[one.at].name] = map[int32]bool{}
		for code := range one.has {
			unused[fields[one.at].name][code] = true
		}
	}
	for r, err := range Samples(1, 5000, "") {
		must(t, err)
		if bad := c.check(&r); bad != nil {
			t.Fatal(bad)
		}
		for _, one := range c.all {
			if code, _ := fields[one.at].code(&r.Inmueble); code != nil {
				delete(unused[fields[one.at].name], *code)
			}
		}
	}
	for name, codes := range unused {
		if len(codes) > 0 {
			t.Errorf("%s: no made-up inmueble has %v", name, codes)
		}
	}
}
