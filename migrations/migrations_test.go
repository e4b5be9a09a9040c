package migrations_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/test/engines"
)

// Ten replicas that start at once on an empty database: each file is applied
// once, and everybody finds the schema complete.
func TestTenReplicasAtOnce(t *testing.T) {
	lite := "sqlite:" + t.TempDir() + "/a/b.db"
	for _, tc := range []struct {
		name, url string
		set       migrations.Set
	}{
		{"authn on SQLite", lite, migrations.AuthnSQLite},
		{"authn on PostgreSQL", engines.PostgresURL(t), migrations.AuthnPostgres},
		{"inmuebles on SQLite", "sqlite:" + t.TempDir() + "/c.db", migrations.InmueblesSQLite},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var applied atomic.Int64
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					db, err := database.OpenSQL(t.Context(), tc.url, database.Full)
					if err != nil {
						t.Error(err)
						return
					}
					defer func() { _ = db.Close() }()
					versions, err := migrations.Up(t.Context(), db.Write.DB, tc.set)
					if err != nil {
						t.Error(err)
					}
					applied.Add(int64(len(versions)))
				})
			}
			wg.Wait()
			db, err := database.OpenSQL(t.Context(), tc.url, database.Full)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = db.Close() }()
			var want int64
			if err := db.Write.Get(&want, "SELECT count(*) FROM goose_db_version WHERE version_id > 0"); err != nil {
				t.Fatal(err)
			}
			if want == 0 || applied.Load() != want {
				t.Errorf("%d files were applied, the table has %d", applied.Load(), want)
			}
		})
	}
}

// A database in memory has no file to lock.
func TestMemory(t *testing.T) {
	db, err := database.OpenSQL(t.Context(), "sqlite::memory:", database.Full)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for i, want := range []bool{true, false} {
		applied, err := migrations.Up(t.Context(), db.Write.DB, migrations.AuthnSQLite)
		if err != nil || (len(applied) > 0) != want {
			t.Errorf("time %d: applied %v, %v", i, applied, err)
		}
	}
}
