package resourceserver

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// SQLite is a [Store] on one file, the embedded default. A change is one
// statement, and SQLite runs one writer at a time, so each is atomic by
// itself.
type SQLite struct {
	write, read *sqlx.DB
	finds       *statements   // of Find and Count
	changed     chan struct{} // wakes Run

	// Prepared once: parsing SQL costs as much as a read by key.
	get, check                   *sqlx.Stmt
	insert, replace, remove, has *sqlx.Stmt
	current, known               *sqlx.Stmt
	add, overwrite               *sqlx.Stmt // in a transaction that doesn't outlive their failure
	once, keepOnce, sweepOnce    *sqlx.Stmt

	folder importsFolder // of the files of imports over HTTP

	many int64 // documents: see manyDocuments
}

var _ Store = (*SQLite)(nil)

const sqliteColumns = `id, owner, created_at, updated_at, document`

// The condition of a By, in Replace and Delete: parameters ?2 and ?3 are
// whether anyone's may be changed, and the owner.
const sqliteBy = `(?2 OR (owner = ?3 AND owner <> ''))`

// NewSQLite prepares a store on a migrated database. Reads go to read, which
// may be the same pool; write must have a single connection. [SQLite.Close]
// releases the statements, not the pools.
func NewSQLite(ctx context.Context, write, read *sqlx.DB) (*SQLite, error) {
	s := &SQLite{write: write, read: read, finds: newStatements(read), changed: make(chan struct{}, 1), many: manyDocuments}
	for _, p := range []struct {
		stmt  **sqlx.Stmt
		db    *sqlx.DB
		query string
	}{
		{&s.get, read, `SELECT ` + sqliteColumns + ` FROM inmuebles WHERE id = ?`},
		{&s.check, read, `SELECT count(*) FROM (SELECT 1 FROM inmuebles LIMIT 1)`},
		{&s.insert, write, `INSERT INTO inmuebles (` + sqliteColumns + `) VALUES (?, ?, ?, ?, ?)`},
		// Within a transaction, so that a statement with a trigger can be undone
		// alone, SQLite first writes each page that it changes into a file, and
		// that is a third of an import. By OR FAIL it isn't undone.
		{&s.add, write, `INSERT OR FAIL INTO inmuebles (` + sqliteColumns + `) VALUES (?, ?, ?, ?, ?)`},
		{&s.overwrite, write, `UPDATE OR FAIL inmuebles SET updated_at = ?2, document = ?3 WHERE id = ?1`},
		// The right-hand sides see the row as it was.
		{&s.replace, write, `UPDATE inmuebles
			SET updated_at = CASE WHEN document = ?4 THEN updated_at ELSE ?5 END, document = ?4
			WHERE id = ?1 AND ` + sqliteBy + ` RETURNING owner, created_at, updated_at`},
		{&s.remove, write, `DELETE FROM inmuebles WHERE id = ?1 AND ` + sqliteBy},
		{&s.has, write, `SELECT EXISTS (SELECT 1 FROM inmuebles WHERE id = ?)`},
		{&s.current, write, `SELECT ` + sqliteColumns + ` FROM inmuebles WHERE id = ?`},
		{&s.known, write, `SELECT ` + sqliteColumns + ` FROM inmuebles WHERE id IN (SELECT value FROM json_each(?))`},
		{&s.once, write, `SELECT print, answer FROM idempotency WHERE key = ? AND expires_at > ?`},
		{&s.keepOnce, write, `INSERT INTO idempotency (key, print, answer, expires_at) VALUES (?, ?, ?, ?)`},
		{&s.sweepOnce, write, `DELETE FROM idempotency WHERE expires_at <= ?`},
	} {
		stmt, err := p.db.PreparexContext(ctx, p.query) //nolint:sqlclosecheck // Close does
		if err != nil {
			return nil, errors.Join(fmt.Errorf("resourceserver: prepare the SQLite store: %w", err), s.Close())
		}
		*p.stmt = stmt
	}
	if err := s.sweep(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close releases the prepared statements.
func (s *SQLite) Close() error {
	errs := []error{s.finds.close(), s.folder.close()}
	for _, stmt := range []*sqlx.Stmt{
		s.get, s.check, s.insert, s.replace, s.remove, s.has,
		s.current, s.add, s.overwrite, s.known, s.once, s.keepOnce, s.sweepOnce,
	} {
		if stmt != nil {
			errs = append(errs, stmt.Close())
		}
	}
	return errors.Join(errs...)
}

// Get reads one row by its key.
func (s *SQLite) Get(ctx context.Context, id string) (Inmueble, error) {
	rows, err := s.get.QueryxContext(ctx, id)
	if err != nil {
		return Inmueble{}, sqliteError(ctx, "read", err)
	}
	var page Page
	if err := readRows(ctx, rows, &page, &Query{Limit: 1, Order: byID}); err != nil {
		return Inmueble{}, err
	}
	switch {
	case len(page.Unreadable) > 0:
		return Inmueble{}, fmt.Errorf("%w: %w", ErrUnreadable, page.Unreadable[0].Err)
	case len(page.Items) == 0:
		return Inmueble{}, ErrNotFound
	}
	return page.Items[0], nil
}

// Insert adds one row.
func (s *SQLite) Insert(ctx context.Context, m Inmueble) error {
	defer s.noteChange()
	return s.insertWith(ctx, s.insert, &m)
}

// Replace is one UPDATE; only when it met no row does a second statement
// tell why.
func (s *SQLite) Replace(ctx context.Context, m Inmueble, by By) (Inmueble, error) {
	if by.match.looks() {
		return s.change(ctx, m.ID, by, func(*Inmueble, bool) (*Inmueble, error) { return &m, nil })
	}
	var created, updated sql.NullInt64
	err := s.replace.QueryRowxContext(ctx, m.ID, by.anyone, by.sub, string(m.appendStored(nil)), milli(m.UpdatedAt)).
		Scan(&m.Owner, &created, &updated)
	if errors.Is(err, sql.ErrNoRows) {
		return Inmueble{}, s.whyNot(ctx, m.ID)
	}
	if err != nil {
		return Inmueble{}, sqliteError(ctx, "replace", err)
	}
	m.CreatedAt, m.UpdatedAt = fromMilli(created), fromMilli(updated)
	s.noteChange()
	return m, nil
}

// Delete is one DELETE, with the same second statement.
func (s *SQLite) Delete(ctx context.Context, id string, by By) error {
	if by.match.looks() {
		_, err := s.change(ctx, id, by, func(*Inmueble, bool) (*Inmueble, error) { return nil, nil })
		return err
	}
	result, err := s.remove.ExecContext(ctx, id, by.anyone, by.sub)
	if err != nil {
		return sqliteError(ctx, "delete", err)
	}
	if n, err := result.RowsAffected(); err != nil {
		return sqliteError(ctx, "delete", err)
	} else if n == 0 {
		return s.whyNot(ctx, id)
	}
	return nil
}

// whyNot tells why a change met no row. The row may have come or gone since;
// either answer was true at some moment of the request.
func (s *SQLite) whyNot(ctx context.Context, id string) error {
	var exists bool
	if err := s.has.QueryRowxContext(ctx, id).Scan(&exists); err != nil {
		return sqliteError(ctx, "look for", err)
	}
	if exists {
		return ErrNotOwner
	}
	return ErrNotFound
}

// Check reads a row, so that a missing table or file shows.
func (s *SQLite) Check(ctx context.Context) error {
	var n int
	return sqliteError(ctx, "check", s.check.QueryRowxContext(ctx).Scan(&n))
}

// sqliteError says what was being done and puts a busy database or a request
// that ran out of time into the contract's words. nil stays nil.
func sqliteError(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	if cause := ctx.Err(); cause != nil { // SQLite says "interrupted"
		return fmt.Errorf("resourceserver: %s: %w", doing, cause)
	}
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		switch e.Code() & 0xff { // the primary code
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN:
			return fmt.Errorf("%w: %s: %w", ErrUnavailable, doing, err)
		}
	}
	return fmt.Errorf("resourceserver: %s: %w", doing, err)
}

// isTaken reports whether err says that the key exists.
func isTaken(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE
}

// milli is a time as a column keeps it.
func milli(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: t.UnixMilli(), Valid: !t.IsZero()}
}

func fromMilli(ms sql.NullInt64) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return time.UnixMilli(ms.Int64).UTC()
}
