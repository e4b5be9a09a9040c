package resourceserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/urbandata/urbandata/pkg/token"
)

// failingLater is a store whose second page can't be read.
type failingLater struct {
	Store
	pages int
}

func (f *failingLater) Find(ctx context.Context, q Query) (Page, error) {
	if f.pages++; f.pages > 1 {
		return Page{}, errors.New("boom")
	}
	return f.Store.Find(ctx, q)
}

func TestStreams(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, spoil := e.open(t)
			const many = 2*maxLimit + 500
			_, err := store.Load(t.Context(), Batch{Rows: func(yield func(Row, error) bool) {
				for i := range many {
					m := sample(fmt.Sprintf("%06d", i))
					m.ListingType = int32(i % 2)
					m.Title = strings.Repeat("x", i%3)
					if !yield(Row{m, allGiven}, nil) {
						return
					}
				}
			}})
			must(t, err)
			spoil(t, "000000x", "alice", notFinite)
			c := newClient(t, store)

			a := c.with("Accept", "application/x-ndjson").do("GET", at("listing_type=1&order=_id.desc"), "")
			lines := strings.Split(strings.TrimSuffix(a.Body.String(), "\n"), "\n")
			if a.Code != 200 || a.Header().Get("Content-Type") != "application/x-ndjson" || len(lines) != many/2 {
				t.Errorf("NDJSON: %d, %q, %d lines", a.Code, a.Header().Get("Content-Type"), len(lines))
			}
			var first struct {
				ID string `json:"_id"`
			}
			must(t, json.Unmarshal([]byte(lines[0]), &first))
			if want := fmt.Sprintf("%06d", many-1); first.ID != want {
				t.Errorf("NDJSON begins with %q, want %q", first.ID, want)
			}

			var features struct {
				Type     string
				Features []struct {
					ID       string
					Geometry struct{ Coordinates []float64 }
				}
			}
			a = c.with("Accept", "application/geo+json").do("GET", "/inmuebles", "")
			must(t, json.Unmarshal(a.Body.Bytes(), &features))
			if len(features.Features) != many || features.Features[0].Geometry.Coordinates[1] != 40.4168 {
				t.Errorf("GeoJSON: %d features", len(features.Features))
			}
			if a = c.with("Accept", "application/geo+json").do("GET", at("_id=x"), ""); !json.Valid(a.Body.Bytes()) {
				t.Errorf("GeoJSON of nothing: %s", a.Body)
			}

			// What is exported imports again to the same documents.
			file := c.with("Accept", "text/csv").do("GET", "/inmuebles", "")
			if got := file.Header().Get("Content-Type"); !strings.HasPrefix(got, "text/csv") {
				t.Errorf("CSV: Content-Type %q", got)
			}
			other, _ := e.open(t)
			report, err := Import(t.Context(), other, bytes.NewReader(file.Body.Bytes()), asImporter)
			if err != nil || report.Stored != many {
				t.Fatalf("imported again: %+v, %v", report, err)
			}
			if got := newClient(t, other).with("Accept", "text/csv").do("GET", "/inmuebles", ""); got.Body.String() != file.Body.String() {
				t.Error("what was exported, imported and exported again is different")
			}

			for _, name := range []string{"select=_id", "limit=5", "offset=1"} {
				c.with("Accept", "text/csv").do("GET", at(name), "").want(400)
			}

			// A broken stream doesn't end as a whole one does.
			broken := newClient(t, &failingLater{Store: store})
			server := httptest.NewServer(broken.server)
			defer server.Close()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/inmuebles", http.NoBody)
			must(t, err)
			r.Header.Set("Authorization", "Bearer "+broken.issuer.Token("alice", token.ScopeInmueblesRead))
			r.Header.Set("Accept", "application/x-ndjson")
			answer, err := http.DefaultClient.Do(r)
			must(t, err)
			defer func() { _ = answer.Body.Close() }()
			if body, err := io.ReadAll(answer.Body); err == nil {
				t.Errorf("a broken stream looks whole: %d bytes", len(body))
			}
		})
	}
}
