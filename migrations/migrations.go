// Package migrations holds the SQL of every schema, embedded, and brings a
// database up to date under a lock, so that any number of replicas may start
// at once: one migrates, the others wait and find nothing left to do.
//
// A file that has been released is never changed; a new one is added. What a
// new file does must leave the previous release working, because during a
// roll-out both run on the same tables.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"time"

	"github.com/gofrs/flock"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed authn/postgres/*.sql authn/sqlite/*.sql inmuebles/sqlite/*.sql
var files embed.FS

// lockRetry is how often a waiting process looks at the SQLite lock.
const lockRetry = 20 * time.Millisecond

// Set names one schema on one engine.
type Set struct {
	dir     string
	dialect goose.Dialect
}

// The schemas. MongoDB has none: its indexes are made by the store.
var (
	AuthnPostgres   = Set{"authn/postgres", goose.DialectPostgres}
	AuthnSQLite     = Set{"authn/sqlite", goose.DialectSQLite3}
	InmueblesSQLite = Set{"inmuebles/sqlite", goose.DialectSQLite3}
)

// Up applies what is missing, in order, each file in its own transaction, and
// returns the versions it applied. db must be the writing pool.
//
// The lock is PostgreSQL's advisory lock, or for SQLite an flock on a file
// beside the database; either goes away with the process that held it.
func Up(ctx context.Context, db *sql.DB, set Set) ([]int64, error) {
	dir, err := fs.Sub(files, set.dir)
	if err != nil {
		return nil, fmt.Errorf("migrations: %w", err)
	}
	if latest(ctx, db, dir) {
		return nil, nil
	}
	var opts []goose.ProviderOption
	if set.dialect == goose.DialectPostgres {
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 60)) // every second, a minute long
		if err != nil {
			return nil, fmt.Errorf("migrations: %w", err)
		}
		opts = append(opts, goose.WithSessionLocker(locker))
	} else {
		unlock, err := lockSQLite(ctx, db)
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	provider, err := goose.NewProvider(set.dialect, db, dir, opts...)
	if err != nil {
		return nil, fmt.Errorf("migrations: %w", err)
	}
	results, err := provider.Up(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrations: apply %s: %w", set.dir, err)
	}
	applied := make([]int64, 0, len(results))
	for _, r := range results {
		applied = append(applied, r.Source.Version)
	}
	return applied, nil
}

// latest reports whether the newest file has been applied: the one query that
// a start usually costs. It may say no where yes would be right, never the
// other way round: files are only ever added, and applied in order.
func latest(ctx context.Context, db *sql.DB, dir fs.FS) bool {
	names, err := fs.Glob(dir, "*.sql") // in order
	if err != nil || len(names) == 0 {
		return false
	}
	newest, err := goose.NumericComponent(names[len(names)-1])
	if err != nil {
		return false
	}
	var applied int64
	err = db.QueryRowContext(ctx, "SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied").Scan(&applied)
	return err == nil && applied >= newest // an error: there is no such table yet
}

// lockSQLite takes the lock beside the database's file and returns its
// release. A database in memory has no file and needs no lock.
func lockSQLite(ctx context.Context, db *sql.DB) (func(), error) {
	var seq int
	var name, file string
	if err := db.QueryRowContext(ctx, "PRAGMA database_list").Scan(&seq, &name, &file); err != nil {
		return nil, fmt.Errorf("migrations: find the SQLite file: %w", err)
	}
	if file == "" {
		return func() {}, nil
	}
	l := flock.New(file + ".migrate.lock")
	if _, err := l.TryLockContext(ctx, lockRetry); err != nil {
		return nil, fmt.Errorf("migrations: lock %s: %w", l.Path(), err)
	}
	return func() { _ = l.Unlock() }, nil
}
