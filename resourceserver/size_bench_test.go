package resourceserver

import (
	"fmt"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"go.mongodb.org/mongo-driver/bson"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/test/engines"
)

// sizes are bytes by what they are of: "documents", or the name of an index.
type sizes map[string]int64

// BenchmarkSize prints what made-up inmuebles take, at 20,000 and 200,000, as
// docs/scale.md has it: bytes a document, of the documents as stored and of
// each index, and how many rows a second were loaded. Every size is on disk,
// after compression; "raw" is before.
func BenchmarkSize(b *testing.B) {
	for _, n := range []int{20_000, 200_000} {
		for _, e := range []struct {
			name string
			open func(testing.TB) (Store, func(testing.TB) sizes)
		}{{"SQLite", sizedSQLite}, {"MongoDB", sizedMongo}} {
			b.Run(fmt.Sprintf("%s/%d", e.name, n), func(b *testing.B) {
				for b.Loop() {
					store, measure := e.open(b)
					begun := time.Now()
					_, err := store.Load(b.Context(), Batch{Rows: Samples(1, n, "owner-1")})
					must(b, err)
					b.ReportMetric(float64(n)/time.Since(begun).Seconds(), "rows/s")
					b.ReportMetric(0, "ns/op") // it is how long the loading took
					for name, bytes := range measure(b) {
						b.ReportMetric(float64(bytes)/float64(n), "B/"+name)
					}
				}
			})
		}
	}
}

// sizedSQLite asks SQLite for the pages of each table and index.
func sizedSQLite(t testing.TB) (Store, func(testing.TB) sizes) {
	db := engines.SQLite(t)
	_, err := migrations.Up(t.Context(), db.Write.DB, migrations.InmueblesSQLite)
	must(t, err)
	store, err := NewSQLite(t.Context(), db.Write, db.Read)
	must(t, err)
	t.Cleanup(func() { must(t, store.Close()) })
	return store, func(t testing.TB) sizes {
		s := sizes{}
		var rows []struct {
			Name string `db:"name"`
			Size int64  `db:"size"`
		}
		must(t, sqlx.SelectContext(t.Context(), db.Read, &rows, `SELECT name, sum(pgsize) AS size FROM dbstat GROUP BY name`))
		for _, r := range rows {
			s[r.Name] = r.Size
		}
		return s
	}
}

func sizedMongo(t testing.TB) (Store, func(testing.TB) sizes) {
	db := engines.Mongo(t)
	store := NewMongo(db)
	must(t, store.Prepare(t.Context()))
	return store, func(t testing.TB) sizes {
		admin := db.Client().Database("admin")
		must(t, admin.RunCommand(t.Context(), bson.D{{Key: "fsync", Value: 1}}).Err())
		var stats struct {
			Size        int64            `bson:"size"`
			StorageSize int64            `bson:"storageSize"`
			Indexes     map[string]int64 `bson:"indexSizes"`
		}
		must(t, db.RunCommand(t.Context(), bson.D{{Key: "collStats", Value: "inmuebles"}}).Decode(&stats))
		s := sizes{"raw": stats.Size, "documents": stats.StorageSize}
		for name, size := range stats.Indexes {
			s[name] = size
		}
		return s
	}
}
