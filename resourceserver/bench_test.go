package resourceserver

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/bson"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
	"github.com/urbandata/urbandata/test/engines"
)

// sink is a ResponseWriter that keeps the status alone.
type sink struct {
	header http.Header
	status int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(b []byte) (int, error) { return len(b), nil }
func (s *sink) WriteHeader(status int)      { s.status = status }

// BenchmarkRequests measures whole requests, token and all, at 20,000
// documents.
func BenchmarkRequests(b *testing.B) {
	for _, e := range theEngines {
		store, _ := e.open(b)
		_, err := importInto(b.Context(), store, docsOf(20_000, nil))
		must(b, err)
		issuer := verifytest.NewIssuer(b)
		server, err := New(Options{Store: store, Verifier: issuer.Verifier(b), Log: slog.New(slog.DiscardHandler)})
		must(b, err)
		bearer := "Bearer " + issuer.Token("alice", token.ScopeInmueblesRead, token.ScopeInmueblesWrite)
		for _, bm := range []struct{ name, method, target, body string }{
			{"get", "GET", "/inmuebles/010000", ""},
			{"list of 50", "GET", "/inmuebles?limit=50&_id=gt.010000", ""},
			{"create", "POST", "/inmuebles", body()},
			{"replace by the same", "PUT", "/inmuebles/000001", body("_id", `"000001"`)},
		} {
			b.Run(e.name+"/"+bm.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					r, err := http.NewRequestWithContext(b.Context(), bm.method, bm.target, io.NopCloser(bytes.NewReader([]byte(bm.body))))
					must(b, err)
					r.Header.Set("Authorization", bearer)
					r.Header.Set("Content-Type", "application/json")
					w := &sink{header: http.Header{}}
					server.ServeHTTP(w, r)
					if w.status >= 300 {
						b.Fatalf("status %d", w.status)
					}
				}
			})
		}
	}
}

// BenchmarkLoad measures rows of CSV, read, validated and stored, against the
// floor: the bare driver inserting the same, ready-made, into the same table
// with the same indexes. Both are timed in one run, by turns.
func BenchmarkLoad(b *testing.B) {
	const rows = 100_000
	var file bytes.Buffer
	file.WriteString(header)
	for i := range rows {
		file.WriteString(row("id_uda", fmt.Sprint(i)))
	}
	for _, e := range []struct {
		name  string
		store func(testing.TB) Store
		floor func(b *testing.B)
	}{
		{"SQLite", func(t testing.TB) Store { s, _ := openSQLite(t); return s }, sqliteFloor},
		{"MongoDB", func(t testing.TB) Store { s, _ := openMongo(t); return s }, mongoFloor},
	} {
		b.Run(e.name, func(b *testing.B) {
			var ours, floor time.Duration
			for range b.N {
				begun := time.Now()
				e.floor(b)
				floor += time.Since(begun)
				store := e.store(b)
				begun = time.Now()
				report, err := Import(b.Context(), store, bytes.NewReader(file.Bytes()), asImporter)
				if err != nil || report.Stored != rows {
					b.Fatalf("%v, %+v", err, report)
				}
				ours += time.Since(begun)
			}
			b.ReportMetric(float64(rows*b.N)/ours.Seconds(), "rows/s")
			b.ReportMetric(floor.Seconds()/ours.Seconds(), "x/floor")
		})
	}
}

const floorRows = 100_000

func sqliteFloor(b *testing.B) {
	db := engines.SQLite(b)
	_, err := migrations.Up(b.Context(), db.Write.DB, migrations.InmueblesSQLite)
	must(b, err)
	m := sample("")
	doc := string(m.appendStored(nil))
	tx, err := db.Write.Begin()
	must(b, err)
	stmt, err := tx.Prepare(`INSERT INTO inmuebles (id, owner, created_at, updated_at, document) VALUES (?, ?, ?, ?, ?)`)
	must(b, err)
	defer func() { _ = stmt.Close() }() // the transaction's end has closed it
	for i := range floorRows {
		_, err := stmt.Exec(fmt.Sprint(i), "importer", 1, 1, doc)
		must(b, err)
	}
	must(b, tx.Commit())
}

func mongoFloor(b *testing.B) {
	db := engines.Mongo(b)
	must(b, NewMongo(db).Prepare(b.Context()))
	c := db.Collection("inmuebles")
	batch := make([]any, 0, importBatch)
	for i := range floorRows {
		m := sample(fmt.Sprint(i))
		if batch = append(batch, bson.Raw(m.appendBSON(nil))); len(batch) == importBatch {
			_, err := c.InsertMany(b.Context(), batch)
			must(b, err)
			batch = batch[:0]
		}
	}
}

// BenchmarkRender and its fellows are the inner loops.
func BenchmarkRender(b *testing.B) {
	m := sample("65f1c0ffee65f1c0ffee65f1")
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = m.AppendJSON(buf[:0])
	}
}

func BenchmarkParseBSON(b *testing.B) {
	m := sample("65f1c0ffee65f1c0ffee65f1")
	doc := m.appendBSON(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := parseBSON(doc); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseStored(b *testing.B) {
	m := sample("65f1c0ffee65f1c0ffee65f1")
	doc := m.appendStored(nil)
	b.ReportAllocs()
	for b.Loop() {
		if err := m.parseStored(m.ID, doc); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAnswer is what a document of a list costs between the database and
// the answer, the short way.
func BenchmarkAnswer(b *testing.B) {
	m := sample("65f1c0ffee65f1c0ffee65f1")
	stored, raw, at := m.appendStored(nil), m.appendBSON(nil), milli(dawn)
	buf := make([]byte, 0, 1024)
	for _, bm := range []struct {
		name   string
		answer func() bool
	}{
		{"SQLite", func() (ok bool) {
			buf, ok = appendStoredAnswer(buf[:0], &sqliteRow{[]byte(m.ID), []byte(m.Owner), at, at, stored})
			return ok
		}},
		{"MongoDB", func() (ok bool) {
			buf, ok = appendBSONAnswer(buf[:0], raw)
			return ok
		}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !bm.answer() {
					b.Fatal("not the short way")
				}
			}
		})
	}
}
