package keys_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/keys/keystest"
	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/test/engines"
)

// eachEngine runs a test on a new database of each engine.
func eachEngine(t *testing.T, run func(t *testing.T, open func(testing.TB) *sqlx.DB)) {
	t.Run("SQLite", func(t *testing.T) { run(t, sqlite) })
	t.Run("PostgreSQL", func(t *testing.T) { run(t, postgres) })
}

func sqlite(t testing.TB) *sqlx.DB {
	t.Helper()
	db := engines.SQLite(t).Write
	if _, err := migrations.Up(t.Context(), db.DB, migrations.AuthnSQLite); err != nil {
		t.Fatal(err)
	}
	return db
}

func postgres(t testing.TB) *sqlx.DB {
	t.Helper()
	return postgresAt(t, engines.PostgresURL(t))
}

func postgresAt(t testing.TB, url string) *sqlx.DB {
	t.Helper()
	opened, err := database.OpenSQL(context.Background(), url, database.Normal)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = opened.Close() })
	db := opened.Write
	if _, err := migrations.Up(t.Context(), db.DB, migrations.AuthnPostgres); err != nil {
		t.Fatal(err)
	}
	return db
}

func TestSQLStore(t *testing.T) {
	eachEngine(t, func(t *testing.T, open func(testing.TB) *sqlx.DB) {
		keystest.TestStore(t, func(t *testing.T) keys.Store { return keys.NewSQLStore(open(t)) })
	})
}

// What was done to the tables by hand is found, and never taken for a new
// store.
func TestSQLStoreFindsDamage(t *testing.T) {
	eachEngine(t, func(t *testing.T, open func(testing.TB) *sqlx.DB) {
		for _, statement := range []string{
			`DELETE FROM signing_keys`,
			`DELETE FROM signing_ring`,
			`UPDATE signing_ring SET version = 0`,
			`UPDATE signing_keys SET alg = 'RS256'`,
			`UPDATE signing_keys SET alg = 'none'`,
			`UPDATE signing_keys SET kid = 'another'`,
			`UPDATE signing_keys SET public_key = sealed`,
		} {
			t.Run(statement, func(t *testing.T) {
				t.Parallel()
				db := open(t)
				store := keys.NewSQLStore(db)
				if err := store.Swap(t.Context(), 0, keys.Ring{Keys: []keys.Key{keystest.Key(t, keys.Signing)}}, nil); err != nil {
					t.Fatal(err)
				}
				if _, err := db.Exec(statement); err != nil {
					t.Fatal(err)
				}
				if _, err := store.Load(t.Context()); !errors.Is(err, keys.ErrDamaged) {
					t.Errorf("error %v, want ErrDamaged", err)
				}
			})
		}
	})
}
