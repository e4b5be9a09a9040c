package resourceserver

import (
	"fmt"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo/options"

	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

// manyDates are n documents of 20 years.
func manyDates(n int) Batch {
	return Batch{Rows: func(yield func(Row, error) bool) {
		for i := range n {
			m := sample(fmt.Sprintf("%06d", i))
			m.ListingType, m.PropertyType, m.StartMonth = int32(i%5), int32(i%7), int32(i%12)
			m.Date = fmt.Sprintf("20%02d-%02d-%02d", i%20, 1+i%12, 1+i%28)
			if !yield(Row{m, allGiven}, nil) {
				return
			}
		}
	}}
}

// floorOf asks the bare driver for 50 stored documents in the order of the
// date, and copies them: no token, no route, no validation, no JSON.
func floorOf(b *testing.B, store Store) func() {
	b.Helper()
	buf := make([]byte, 0, 64<<10)
	switch s := store.(type) {
	case *SQLite:
		stmt, err := sqlx.Preparex(s.finds.db, "SELECT id, document FROM inmuebles ORDER BY date_key DESC, id LIMIT 51")
		must(b, err)
		b.Cleanup(func() { _ = stmt.Close() })
		return func() {
			rows, err := stmt.Query()
			must(b, err)
			defer func() { _ = rows.Close() }()
			buf = buf[:0]
			for rows.Next() {
				var id, document []byte
				must(b, rows.Scan(&id, &document))
				buf = append(append(buf, id...), document...)
			}
			must(b, rows.Err())
		}
	case *Mongo:
		return func() {
			cursor, err := s.inmuebles.Find(b.Context(), bson.D{},
				options.Find().SetSort(bson.D{{Key: "date_key", Value: -1}, {Key: "_id", Value: 1}}).SetLimit(51).SetBatchSize(52))
			must(b, err)
			buf = buf[:0]
			for cursor.Next(b.Context()) {
				buf = append(buf, cursor.Current...)
			}
			must(b, cursor.Err())
		}
	}
	b.Fatal("a store without a floor")
	return nil
}

// BenchmarkLists measures whole requests for 50 of 20,000 documents against
// the bare driver, and a page 15,000 documents deep against the first, by
// turns in one run.
func BenchmarkLists(b *testing.B) {
	for _, e := range theEngines {
		store, _ := e.open(b)
		_, err := store.Load(b.Context(), manyDates(20_000))
		must(b, err)
		issuer := verifytest.NewIssuer(b)
		server, err := New(Options{Store: store, Verifier: issuer.Verifier(b), Log: slog.New(slog.DiscardHandler)})
		must(b, err)
		bearer := "Bearer " + issuer.Token("alice", token.ScopeInmueblesRead)
		ask := func(target string) http.Header {
			r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, target, http.NoBody)
			must(b, err)
			r.Header.Set("Authorization", bearer)
			w := &sink{header: http.Header{}}
			server.ServeHTTP(w, r)
			if w.status != http.StatusOK && w.status != 0 {
				b.Fatalf("%s: status %d", target, w.status)
			}
			return w.header
		}
		floor := floorOf(b, store)
		deep := at("order=date.desc&limit=1000")
		for range 15 {
			deep = linkIn(ask(deep).Get("Link"), "next")
		}
		first := at("order=date.desc&limit=1000")
		for _, bm := range []struct {
			name, unit string
			ours       string
			reference  func()
		}{
			{"50 sorted", "x/floor", at("order=date.desc&limit=50"), floor},
			{"50 of three conditions", "x/floor", at("listing_type=eq.1&property_type=in.(1,2)&start_month=gte.3&order=date.desc&limit=50"), floor},
			{"deep page of 1000", "x/first", deep, func() { ask(first) }},
		} {
			b.Run(e.name+"/"+bm.name, func(b *testing.B) {
				b.ReportAllocs()
				var ours, reference time.Duration
				for b.Loop() {
					begun := time.Now()
					bm.reference()
					between := time.Now()
					ask(bm.ours)
					reference += between.Sub(begun)
					ours += time.Since(between)
				}
				b.ReportMetric(ours.Seconds()/reference.Seconds(), bm.unit)
			})
		}
	}
}
