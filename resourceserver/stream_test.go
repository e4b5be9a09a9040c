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
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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

// asking is a store that knows how many pages are being read.
type asking struct {
	Store
	now atomic.Int64
}

func (a *asking) Find(ctx context.Context, q Query) (Page, error) {
	a.now.Add(1)
	defer a.now.Add(-1)
	return a.Store.Find(ctx, q)
}

// stalled is a reader that takes nothing until it is cut off.
type stalled struct {
	header  http.Header
	cut     chan struct{}
	largest atomic.Int64 // of the pieces
	within  atomic.Int64 // the longest that one may take
}

func (s *stalled) Header() http.Header { return s.header }
func (s *stalled) WriteHeader(int)     {}

func (s *stalled) SetReadDeadline(time.Time) error { return nil }

func (s *stalled) SetWriteDeadline(t time.Time) error {
	s.within.Store(int64(time.Until(t)))
	return nil
}

func (s *stalled) Write(b []byte) (int, error) {
	s.largest.Store(max(s.largest.Load(), int64(len(b))))
	<-s.cut
	return 0, os.ErrDeadlineExceeded
}

// A reader that takes nothing holds a page, and nothing of the database; there
// are only so many; and it is cut off soon.
func TestSlowReaders(t *testing.T) {
	inner, _ := openSQLite(t)
	store := &asking{Store: inner}
	_, err := store.Load(t.Context(), Batch{Rows: func(yield func(Row, error) bool) {
		for i := range maxLimit + 1 {
			if !yield(Row{sample(fmt.Sprintf("%06d", i)), allGiven}, nil) {
				return
			}
		}
	}})
	must(t, err)
	c := newClient(t, store).with("Accept", "application/x-ndjson")
	cut := make(chan struct{})
	var reading sync.WaitGroup
	var readers []*stalled
	begin := func(c *client) {
		s := &stalled{header: http.Header{}, cut: cut}
		readers = append(readers, s)
		reading.Go(func() {
			defer func() {
				if v := recover(); v != http.ErrAbortHandler { //nolint:errorlint // net/http compares the value itself
					t.Errorf("it ended with %v, want the connection cut", v)
				}
			}()
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/inmuebles", http.NoBody)
			r.Header.Set("Authorization", "Bearer "+c.token)
			r.Header.Set("Accept", "application/x-ndjson")
			c.server.ServeHTTP(s, r)
		})
	}
	for len(readers) < maxLists {
		if len(readers)%maxListsOwner == 0 {
			c = c.as(fmt.Sprintf("reader-%d", len(readers)), token.ScopeInmueblesRead)
		}
		begin(c)
	}
	soon(t, "all wait for their readers", func() bool {
		for _, s := range readers {
			if s.largest.Load() == 0 {
				return false
			}
		}
		return true
	})
	if n := store.now.Load(); n != 0 {
		t.Errorf("%d readers hold the database", n)
	}
	a := c.do("GET", "/inmuebles", "").want(429)
	if a.Header().Get("Retry-After") == "" || !strings.Contains(a.Body.String(), fmt.Sprintf("reading %d lists", maxListsOwner)) {
		t.Errorf("one too many of a reader: %v %s", a.Header(), a.Body)
	}
	other := c.as("somebody", token.ScopeInmueblesRead)
	if a := other.do("GET", "/inmuebles", "").want(503); a.Header().Get("Retry-After") == "" {
		t.Error("one too many of all: no Retry-After")
	}
	paging := *other
	paging.header = http.Header{}
	paging.do("GET", "/inmuebles?limit=1", "").want(200)
	close(cut)
	reading.Wait()
	for i, s := range readers {
		if n, within := s.largest.Load(), time.Duration(s.within.Load()); n > 64<<10 || within > streamTimeout {
			t.Errorf("reader %d had %v for %d bytes, want %v for 64 KiB at most", i, within, n, streamTimeout)
		}
	}
	if a := other.do("GET", "/inmuebles", ""); a.Code != 200 {
		t.Errorf("when all have gone: %d %s", a.Code, a.Body)
	}
}
