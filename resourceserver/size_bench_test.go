package resourceserver

import (
	"fmt"
	"net/url"
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
// each index, how many rows a second were loaded, and what SQLite's indexes
// that are filled behind the writers took. Every size is on disk,
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
					begun = time.Now()
					settled(b, store)
					b.ReportMetric(time.Since(begun).Seconds()/float64(n)*1e6, "µs/indexed")
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

// BenchmarkGrowth measures what the documented queries cost with 200,000
// inmuebles against 20,000, for docs/scale.md. Both are asked by turns.
func BenchmarkGrowth(b *testing.B) {
	for _, e := range theEngines {
		var stores []Store
		var deep [][]any // where the page in the middle begins
		order := queryOf(b, "order=date.desc").Order
		for _, n := range []int{20_000, 200_000} {
			store, _ := e.open(b)
			_, err := store.Load(b.Context(), Batch{Rows: Samples(1, n, "owner-1")})
			must(b, err)
			settled(b, store)
			middle, err := store.Find(b.Context(), Query{Order: order, Skip: n / 2, Limit: 1})
			must(b, err)
			stores, deep = append(stores, store), append(deep, middle.First)
		}
		for _, q := range []struct {
			name, text string
			deep       bool
		}{
			{"list of 50", "order=date.desc", false},
			{"the same, half-way down", "order=date.desc", true},
			{"3 conditions", "listing_type=eq.1&property_type=in.(1,2)&start_month=gte.3&order=date.desc", false},
			{"of a boundary", "boundary_id=eq.1005&order=date.desc", false},
			{"box of a quarter", "bbox=-3.71,40.43,-3.70,40.44", false},
			{"near, of a quarter", "near=-3.7046,40.4264,500", false},
			{"near, of a country", "near=-3.7046,40.4264,500000", false},
			{"near, nothing there", "near=-30,40,500000", false},
			{"area of a quarter", "within=" + url.QueryEscape(`{"type":"Polygon","coordinates":[[[-3.71,40.43],[-3.7,40.43],[-3.7,40.44],[-3.71,40.43]]]}`), false},
			{"area of a quarter, by date", "order=date.desc&within=" + url.QueryEscape(`{"type":"Polygon","coordinates":[[[-3.71,40.43],[-3.7,40.43],[-3.7,40.44],[-3.71,40.43]]]}`), false},
			{"words that few have", "text=plfts.parquesol%20estudio%20terraza&order=date.desc", false},
			{"a word that many have", "text=plfts.piso&order=date.desc", false},
			{"words that nobody has", "text=plfts.castillo&order=date.desc", false},
			{"title, nothing found", "title=ilike.*castillo*&order=date.desc", false},
			{"ordered by title", "order=title", false},
		} {
			b.Run(e.name+"/"+q.name, func(b *testing.B) {
				find := func(i int) time.Duration {
					page := queryOf(b, q.text)
					page.Limit = 50
					if q.deep {
						page.After = deep[i]
					}
					begun := time.Now()
					_, err := stores[i].Find(b.Context(), page)
					must(b, err)
					return time.Since(begun)
				}
				_, _ = find(0), find(1) // not the first time, when nothing is in memory
				var took [2]time.Duration
				for b.Loop() {
					took[0] += find(0)
					took[1] += find(1)
				}
				b.ReportMetric(0, "ns/op") // of both together
				b.ReportMetric(float64(took[0].Microseconds())/float64(b.N), "µs/20000")
				b.ReportMetric(took[1].Seconds()/took[0].Seconds(), "x/20000")
			})
		}
	}
}

// queryOf is what a query string asks for.
func queryOf(t testing.TB, text string) Query {
	t.Helper()
	q, err := ParseQuery(text)
	must(t, err)
	return q
}
