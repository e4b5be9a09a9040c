package resourceserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func one(m Inmueble) iter.Seq2[Inmueble, error] {
	return func(yield func(Inmueble, error) bool) { yield(m, nil) }
}

// keeping is a nowhere that keeps what it is given.
type keeping struct {
	nowhere
	rows *[]Inmueble
}

func (k keeping) Load(_ context.Context, b Batch) (l Loaded, err error) {
	for r, err := range b.Rows {
		if err != nil {
			return Loaded{}, err
		}
		*k.rows = append(*k.rows, r.Inmueble)
		l[Inserted]++
	}
	return l, nil
}

// TestExportImport: what is exported imports again to the same documents,
// whatever they hold.
func TestExportImport(t *testing.T) {
	hard := []string{
		"", " ", "null", "None", `\`, `\null`, `\\`, `\ `, `"`, `""`, ",", "a,b", "a;b", "\r\n", "\n", "\r", "a\r", " a ", "\t", "\uFEFF", "ñ🏠", `\x`,
		"=1+1", "{", "[", "id_uda", "'", "-", "--", "A-1", "\u00a0", "null ", "sep=;", "\uFFFD", "\u2028",
	}
	for _, f := range []Format{CSV, NDJSON} {
		rapid.Check(t, func(r *rapid.T) {
			docs := rapid.SliceOfN(arbitrary(), 1, 4).Draw(r, "inmuebles")
			for i := range docs {
				m := &docs[i]
				for j := range fields {
					if p, ok := fields[j].at(m).(*string); ok && rapid.Bool().Draw(r, "hard") {
						*p = rapid.SampledFrom(hard).Draw(r, fields[j].name)
					}
				}
				if m.Validate() != nil {
					r.Skip("not valid")
				}
				m.Owner, m.CreatedAt, m.UpdatedAt = asImporter.Owner, asImporter.Now, asImporter.Now
			}
			var file bytes.Buffer
			n, err := Export(&file, f, func(yield func(Inmueble, error) bool) {
				for _, m := range docs {
					if !yield(m, nil) {
						return
					}
				}
			})
			if err != nil || n != len(docs) {
				r.Fatalf("%d exported of %d: %v", n, len(docs), err)
			}
			var rows []Inmueble
			report, err := Import(t.Context(), keeping{rows: &rows}, bytes.NewReader(file.Bytes()), asImporter)
			if err != nil || report.Stored != len(docs) || report.UnknownColumns != nil {
				r.Fatalf("%s\n%+v %v", file.String(), report, err)
			}
			for i := range docs {
				if asJSON(rows[i]) != asJSON(docs[i]) {
					r.Fatalf("%s\ncame back as %s\nwas          %s", file.String(), asJSON(rows[i]), asJSON(docs[i]))
				}
			}
		})
	}
}

func TestExportFormats(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, spoil := e.open(t)
			const many = 2500
			_, err := importInto(t.Context(), store, docsOf(many, nil))
			must(t, err)
			spoil(t, "000100x", "alice", notFinite)
			for _, f := range Formats {
				var out bytes.Buffer
				left := 0
				n, err := Export(&out, f, All(t.Context(), store, func(Unreadable) { left++ }))
				must(t, err)
				if n != many || left != 1 {
					t.Errorf("%s: %d exported, %d left out", f.Name, n, left)
				}
				first := sample("000000")
				switch f.Name {
				case "json", "geojson":
					var all any
					must(t, json.Unmarshal(out.Bytes(), &all))
					list, _ := all.([]any)
					if f.Name == "geojson" {
						m, _ := all.(map[string]any)
						list, _ = m["features"].([]any)
					}
					if len(list) != many {
						t.Errorf("%s has %d", f.Name, len(list))
					}
				case "csv":
					if want := header + string(first.AppendCSV(nil)); !strings.HasPrefix(out.String(), want) || strings.Count(out.String(), "\n") != many+1 {
						t.Errorf("CSV begins %.600q, want %q", out.String(), want)
					}
				case "ndjson":
					if !strings.HasPrefix(out.String(), asJSON(first)+"\n") || strings.Count(out.String(), "\n") != many {
						t.Errorf("NDJSON begins %.600q", out.String())
					}
				}
			}
		})
	}
}

func TestGeoJSON(t *testing.T) {
	var out strings.Builder
	_, err := Export(&out, GeoJSON, one(sample("a")))
	must(t, err)
	var got struct {
		Type     string
		Features []struct {
			Type, ID string
			Geometry struct {
				Type        string
				Coordinates []float64
			}
			Properties map[string]any
		}
	}
	must(t, json.Unmarshal([]byte(out.String()), &got))
	f := got.Features[0]
	if got.Type != "FeatureCollection" || f.Type != "Feature" || f.ID != "a" || f.Geometry.Type != "Point" ||
		fmt.Sprint(f.Geometry.Coordinates) != "[-3.7038 40.4168]" || f.Properties["title"] != "Ático 🏠" {
		t.Errorf("%+v", got)
	}
}

// TestExportMemory: an export of any size takes the same memory.
func TestExportMemory(t *testing.T) {
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var most uint64
	n, err := Export(io.Discard, CSV, func(yield func(Inmueble, error) bool) {
		for i := range 100_000 {
			if i%20_000 == 0 {
				runtime.GC()
				runtime.ReadMemStats(&now)
				most = max(most, now.HeapAlloc)
			}
			if !yield(sample(fmt.Sprint(i)), nil) {
				return
			}
		}
	})
	must(t, err)
	if grown := int64(most) - int64(before.HeapAlloc); n != 100_000 || grown > 2<<20 {
		t.Errorf("%d exported; the heap grew by %d KiB", n, grown>>10)
	}
}

func TestParseQuery(t *testing.T) {
	store, _ := openSQLite(t)
	_, err := importInto(t.Context(), store, docsOf(1500, nil))
	must(t, err)
	q, err := ParseQuery("_id=gte.000100&_id=lt.001300&order=_id.desc&listing_type=10")
	must(t, err)
	var ids []string
	for m, err := range Every(t.Context(), store, q, func(Unreadable) {}) {
		must(t, err)
		ids = append(ids, m.ID)
	}
	if len(ids) != 1200 || ids[0] != "001299" || ids[1199] != "000100" {
		t.Errorf("%d exported, from %s", len(ids), ids[0])
	}
	for _, text := range []string{"%zz", "surface=eq.1", "limit=1", "end_week=x.1", "order=surface"} {
		if _, err := ParseQuery(text); !errors.Is(err, ErrQuery) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
