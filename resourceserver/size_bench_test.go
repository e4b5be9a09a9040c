package resourceserver

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"go.mongodb.org/mongo-driver/bson"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/resourceserver/query"
	"github.com/urbandata/urbandata/test/engines"
)

// sizes are bytes by what they are of: "documents", or the name of an index.
type sizes map[string]int64

// BenchmarkSize prints what made-up inmuebles take, at 20,000 and at 200,000,
// or -documents, as
// docs/scale.md has it: bytes a document, of the documents as stored and of
// each index, how many rows a second were loaded, and what SQLite's indexes
// that are filled behind the writers took. Every size is on disk,
// after compression; "raw" is before.
func BenchmarkSize(b *testing.B) {
	for _, n := range []int{20_000, *manyMore} {
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

// How many documents the benchmarks of growth measure with, against 20,000,
// and where databases that take minutes to fill are kept for the next run:
//
//	go run ./test/engines/with -durable -- go test -run '^$' -bench 'Growth|Depth' -timeout 60m ./resourceserver -documents 1000000
//
// What is kept at /tmp/g is /tmp/g20000.db of SQLite, and the database g20000
// of a MongoDB that stays, in URBANDATA_TEST_MONGODB.
var (
	manyMore = flag.Int("documents", 200_000, "how many documents the benchmarks of growth measure with")
	keptAt   = flag.String("kept", "", "where the benchmarks of growth keep their databases")
)

// filled is a store of n made-up inmuebles.
func filled(b *testing.B, e *engine, n int) Store {
	b.Helper()
	var store Store
	switch at := fmt.Sprintf("%s%d", *keptAt, n); {
	case *keptAt == "":
		store, _ = e.open(b)
	case e.name == "SQLite":
		// As the command opens it, but for the wait for the disk.
		db, err := sqlx.Open("sqlite", "file:"+at+".db?_txlock=immediate&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)")
		must(b, err)
		db.SetMaxOpenConns(1)
		read, err := sqlx.Open("sqlite", "file:"+at+".db?mode=ro&_pragma=query_only(1)")
		must(b, err)
		b.Cleanup(func() { must(b, errors.Join(read.Close(), db.Close())) })
		_, err = migrations.Up(b.Context(), db.DB, migrations.InmueblesSQLite)
		must(b, err)
		s, err := NewSQLite(b.Context(), db, read)
		must(b, err)
		b.Cleanup(func() { must(b, s.Close()) })
		store = s
	default:
		s := NewMongo(engines.Mongo(b).Client().Database(filepath.Base(at)))
		must(b, s.Prepare(b.Context()))
		store = s
	}
	has, err := store.Count(b.Context(), query.Node{}, 1)
	must(b, err)
	if has == 0 {
		_, err := store.Load(b.Context(), Batch{Rows: Samples(1, n, "owner-1")})
		must(b, err)
	}
	if _, ok := store.(*SQLite); ok || has == 0 { // or a run before has changed some
		settled(b, store)
	}
	return store
}

const (
	aQuarter = `within=%7B%22type%22:%22Polygon%22,%22coordinates%22:[[[-3.71,40.43],[-3.7,40.43],[-3.7,40.44],[-3.71,40.43]]]%7D`
	theNews  = "&order=date.desc"
)

// BenchmarkGrowth measures what requests of a store cost with 200,000
// inmuebles, or -documents, against 20,000, for docs/scale.md: the median of
// each. Both are asked by turns.
func BenchmarkGrowth(b *testing.B) {
	for i := range theEngines {
		e := &theEngines[i]
		var stores []Store
		sizes := []int{20_000, *manyMore}
		for _, n := range sizes {
			stores = append(stores, filled(b, e, n))
		}
		// turn is one request of the i-th store, of which the n-th is timed.
		type turn func(b *testing.B, i, n int) func() error
		one := func(n, size int) string { // an inmueble, another one each time
			return hex.EncodeToString(madeUpID(1, uint64(n)*7919%uint64(size)))
		}
		list := func(text string) turn {
			return func(b *testing.B, i, _ int) func() error {
				q := queryOf(b, text)
				q.Limit = 50
				return func() error { _, err := stores[i].Find(b.Context(), q); return err }
			}
		}
		// deep is a page that begins behind a part of a list.
		deep := func(text string, part float64) turn {
			var after [2][]any
			return func(b *testing.B, i, _ int) func() error {
				q := queryOf(b, text)
				if after[i] == nil {
					n, err := stores[i].Count(b.Context(), q.Where, 0)
					must(b, err)
					q.Skip, q.Limit = int(float64(n)*part), 1
					page, err := stores[i].Find(b.Context(), q)
					must(b, err)
					after[i] = page.First
				}
				q.After, q.Skip, q.Limit = after[i], 0, 50
				return func() error { _, err := stores[i].Find(b.Context(), q); return err }
			}
		}
		const three = "listing_type=eq.1&property_type=in.(1,2)&start_month=gte.3" + theNews
		for _, r := range []struct {
			name string
			turn turn
		}{
			{"list of 50", list("order=date.desc")},
			{"the same, a tenth down", deep("order=date.desc", .1)},
			{"the same, half-way down", deep("order=date.desc", .5)},
			{"the same, nine tenths down", deep("order=date.desc", .9)},
			{"3 conditions", list(three)},
			{"3 conditions, half-way down", deep(three, .5)},
			{"of a boundary", list("boundary_id=eq.1005" + theNews)},
			{"box of a quarter", list("bbox=-3.71,40.43,-3.70,40.44")},
			{"box of a quarter, by date", list("bbox=-3.71,40.43,-3.70,40.44" + theNews)},
			{"near, of a quarter", list("near=-3.7046,40.4264,500")},
			{"near, of a country", list("near=-3.7046,40.4264,500000")},
			{"near, nothing there", list("near=-30,40,500000")},
			{"area of a quarter", list(aQuarter)},
			{"area of a quarter, by date", list(aQuarter + theNews)},
			{"words that few have", list("text=plfts.parquesol%20estudio%20terraza" + theNews)},
			{"a word that one in forty has", list("text=plfts.parquesol" + theNews)},
			{"a word that many have", list("text=plfts.piso" + theNews)},
			{"words that nobody has", list("text=plfts.castillo" + theNews)},
			{"a count of a box", func(b *testing.B, i, _ int) func() error {
				q := queryOf(b, "bbox=-3.71,40.43,-3.70,40.44")
				return func() error { _, err := stores[i].Count(b.Context(), q.Where, 0); return err }
			}},
			{"figures of a boundary", func(b *testing.B, i, _ int) func() error {
				q := StatsQuery{Where: queryOf(b, "boundary_id=eq.1005").Where, Of: []*query.Field{filterFields["x_coord"]}, Most: 1}
				return func() error { _, err := stores[i].Stats(b.Context(), q); return err }
			}},
			{"title, nothing found", list("title=ilike.*castillo*" + theNews)},
			{"ordered by title", list("order=title")},
			{"get", func(b *testing.B, i, n int) func() error {
				return func() error { _, err := stores[i].Get(b.Context(), one(n, sizes[i])); return err }
			}},
			{"post", func(b *testing.B, i, n int) func() error {
				m := makeUp(2, uint64(n), "owner-2")
				m.ID = NewID()
				b.Cleanup(func() { must(b, stores[i].Delete(context.WithoutCancel(b.Context()), m.ID, Admin)) })
				return func() error { return stores[i].Insert(b.Context(), m) }
			}},
			{"patch", func(b *testing.B, i, n int) func() error {
				return func() error {
					_, err := stores[i].Update(b.Context(), one(n, sizes[i]), Admin, func(m Inmueble) (Inmueble, error) {
						m.BuildStatus++
						return m, nil
					})
					return err
				}
			}},
		} {
			b.Run(e.name+"/"+r.name, func(b *testing.B) {
				var took [2][]time.Duration
				ask := func(i, n int) time.Duration {
					do := r.turn(b, i, n)
					begun := time.Now()
					must(b, do())
					return time.Since(begun)
				}
				for n := range 3 { // not the first times, when nothing is in memory
					_, _ = ask(0, n), ask(1, n)
				}
				for n := 3; b.Loop(); n++ {
					for i := range took {
						took[i] = append(took[i], ask(i, n))
					}
				}
				for i := range took {
					slices.Sort(took[i])
				}
				few, many := took[0][len(took[0])/2], took[1][len(took[1])/2]
				b.ReportMetric(0, "ns/op") // of both together
				b.ReportMetric(float64(few.Nanoseconds())/1e3, "µs/20000")
				b.ReportMetric(many.Seconds()/few.Seconds(), "x/20000")
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
