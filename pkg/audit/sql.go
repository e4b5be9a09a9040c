package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
)

// Log is one log in the tables audit_entries and audit_heads of a PostgreSQL
// or SQLite database. Its methods may be called concurrently.
//
// The row of audit_heads is the lock: Append counts it up first, so that a
// second one waits there until the first has been committed.
type Log struct {
	db   *sqlx.DB
	name string

	begin, claim, insert, seal, newest, next, head string
}

// NewLog returns the log of a name, on a migrated database.
func NewLog(db *sqlx.DB, name string) *Log {
	const columns = `seq, at, actor, action, subject, reason, before_state, after_state, hash`
	return &Log{
		db: db, name: name,
		begin: db.Rebind(`INSERT INTO audit_heads (log, seq, hash) VALUES (?, 0, ?) ON CONFLICT (log) DO NOTHING`),
		claim: db.Rebind(`UPDATE audit_heads SET seq = seq + ? WHERE log = ? RETURNING seq, hash`),
		insert: db.Rebind(`INSERT INTO audit_entries (log, ` + columns + `)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`),
		seal:   db.Rebind(`UPDATE audit_heads SET hash = ? WHERE log = ?`),
		newest: db.Rebind(`SELECT ` + columns + ` FROM audit_entries WHERE log = ? ORDER BY seq DESC LIMIT ?`),
		next:   db.Rebind(`SELECT ` + columns + ` FROM audit_entries WHERE log = ? AND seq > ? ORDER BY seq LIMIT ?`),
		head:   db.Rebind(`SELECT seq, hash FROM audit_heads WHERE log = ?`),
	}
}

// row is an entry as it is stored.
type row struct {
	Seq     int64  `db:"seq"`
	At      int64  `db:"at"` // Unix milliseconds
	Actor   string `db:"actor"`
	Action  string `db:"action"`
	Subject string `db:"subject"`
	Reason  string `db:"reason"`
	Before  string `db:"before_state"`
	After   string `db:"after_state"`
	Hash    []byte `db:"hash"`
}

func (r *row) entry() Entry {
	e := Entry{
		Seq: r.Seq, At: time.UnixMilli(r.At).UTC(), Actor: r.Actor, Action: r.Action, Subject: r.Subject,
		Reason: r.Reason, Before: r.Before, After: r.After,
	}
	copy(e.Hash[:], r.Hash) // of another length it doesn't verify, as it should
	return e
}

// Append writes entries to the end of the log, in their order, within tx: they
// are there when tx commits.
func (l *Log) Append(ctx context.Context, tx *sqlx.Tx, entries ...Entry) error {
	if len(entries) == 0 {
		return nil
	}
	if _, err := tx.ExecContext(ctx, l.begin, l.name, make([]byte, len(Hash{}))); err != nil {
		return fmt.Errorf("audit: append: %w", err)
	}
	var end int64
	var hash []byte
	if err := tx.QueryRowxContext(ctx, l.claim, len(entries), l.name).Scan(&end, &hash); err != nil {
		return fmt.Errorf("audit: append: %w", err)
	}
	head := Head{Seq: end - int64(len(entries))}
	if copy(head.Hash[:], hash) != len(hash) || len(hash) != len(head.Hash) {
		return fmt.Errorf("%w: its head is no hash", ErrBroken)
	}
	for _, e := range entries {
		head = head.next(l.name, &e)
		if _, err := tx.ExecContext(ctx, l.insert, l.name, e.Seq, e.At.UnixMilli(), e.Actor, e.Action, e.Subject,
			e.Reason, e.Before, e.After, e.Hash[:]); err != nil {
			return fmt.Errorf("audit: append: %w", err)
		}
	}
	if _, err := tx.ExecContext(ctx, l.seal, head.Hash[:], l.name); err != nil {
		return fmt.Errorf("audit: append: %w", err)
	}
	return nil
}

// Newest returns the newest entries, at most limit, the newest first. It
// doesn't verify them.
func (l *Log) Newest(ctx context.Context, limit int) ([]Entry, error) {
	var rows []row
	if err := l.db.SelectContext(ctx, &rows, l.newest, l.name, limit); err != nil {
		return nil, fmt.Errorf("audit: read: %w", err)
	}
	entries := make([]Entry, len(rows))
	for i := range rows {
		entries[i] = rows[i].entry()
	}
	return entries, nil
}

// page is how many entries Verify reads at a time.
const page = 500

// Verify reads the whole log, the oldest entry first, and returns its head.
// The error wraps [ErrBroken] when an entry isn't as it was written, and, with
// a head that was noted earlier, when the log up to there isn't the same; the
// head is then that of the last good entry. each is called with every good
// entry, and ends the reading with an error of its own; nil is none.
func (l *Log) Verify(ctx context.Context, known *Head, each func(Entry) error) (Head, error) {
	c := check{log: l.name, known: known}
	tx, err := l.db.BeginTxx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil { // an engine that has no such level has it always
		tx, err = l.db.BeginTxx(ctx, nil)
	}
	if err != nil {
		return Head{}, fmt.Errorf("audit: verify: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // it has only read
	for {
		var rows []row
		if err := tx.SelectContext(ctx, &rows, l.next, l.name, c.at.Seq, page); err != nil {
			return c.at, fmt.Errorf("audit: verify: %w", err)
		}
		for i := range rows {
			e := rows[i].entry()
			if err := c.entry(e); err != nil {
				return c.at, err
			}
			if each == nil {
				continue
			}
			if err := each(e); err != nil {
				return c.at, err
			}
		}
		if len(rows) < page {
			break
		}
	}
	var stored Head
	var hash []byte
	err = tx.QueryRowxContext(ctx, l.head, l.name).Scan(&stored.Seq, &hash)
	if err != nil && !errors.Is(err, sql.ErrNoRows) { // a log that nobody has written to
		return c.at, fmt.Errorf("audit: verify: %w", err)
	}
	copy(stored.Hash[:], hash)
	return c.at, c.end(stored)
}
