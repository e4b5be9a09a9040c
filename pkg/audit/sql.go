package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
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

	begin, claim, insert, seal, next, head string
	enqueue, queued, unqueue, insertOrigin string
}

// NewLog returns the log of a name, on a migrated database.
func NewLog(db *sqlx.DB, name string) *Log {
	const columns = `seq, at, actor, action, subject, reason, before_state, after_state, hash, origin_hash`
	return &Log{
		db: db, name: name,
		begin: db.Rebind(`INSERT INTO audit_heads (log, seq, hash) VALUES (?, 0, ?) ON CONFLICT (log) DO NOTHING`),
		claim: db.Rebind(`UPDATE audit_heads SET seq = seq + ? WHERE log = ? RETURNING seq, hash`),
		insert: db.Rebind(`INSERT INTO audit_entries (log, ` + columns + `)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`),
		seal: db.Rebind(`UPDATE audit_heads SET hash = ? WHERE log = ?`),
		next: db.Rebind(selectEntry + ` WHERE e.log = ? AND e.seq > ? ORDER BY e.seq LIMIT ?`),
		head: db.Rebind(`SELECT seq, hash FROM audit_heads WHERE log = ?`),

		enqueue: db.Rebind(QueueSQL("")),
		queued: db.Rebind(`SELECT id, 0 AS seq, at, actor, action, subject, reason, before_state, after_state, origin, origin_of, origin_salt, origin_hash
			FROM audit_queue WHERE log = ? ORDER BY id LIMIT ?`),
		unqueue:      `DELETE FROM audit_queue WHERE id IN (?)`,
		insertOrigin: db.Rebind(`INSERT INTO audit_origins (log, seq, at, origin, origin_of, origin_salt) VALUES (?, ?, ?, ?, ?, ?)`),
	}
}

const selectEntry = `SELECT e.seq, e.at, e.actor, e.action, e.subject, e.reason, e.before_state, e.after_state, e.hash, e.origin_hash,
		coalesce(o.origin, '') AS origin, coalesce(o.origin_of, '') AS origin_of, o.origin_salt
	FROM audit_entries e LEFT JOIN audit_origins o ON o.log = e.log AND o.seq = e.seq`

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

	Origin     string `db:"origin"`
	OriginOf   string `db:"origin_of"`
	OriginSalt []byte `db:"origin_salt"`
	OriginHash []byte `db:"origin_hash"`
}

func (r *row) entry() Entry {
	e := Entry{
		Seq: r.Seq, At: time.UnixMilli(r.At).UTC(), Actor: r.Actor, Action: r.Action, Subject: r.Subject,
		Reason: r.Reason, Before: r.Before, After: r.After, Origin: r.Origin, OriginOf: r.OriginOf,
	}
	copy(e.Hash[:], r.Hash) // of another length it doesn't verify, as it should
	copy(e.OriginSalt[:], r.OriginSalt)
	copy(e.OriginHash[:], r.OriginHash)
	return e
}

// Append writes entries to the end of the log, in their order, within tx: they
// are there when tx commits. Until then others wait who append to the log, so
// it comes last in tx: who waits for the end of a log holds nothing that those
// before it want.
func (l *Log) Append(ctx context.Context, tx *sqlx.Tx, entries ...Entry) error {
	if len(entries) == 0 {
		return nil
	}
	head, err := l.hold(ctx, tx, len(entries))
	if err != nil {
		return err
	}
	return l.write(ctx, tx, head, entries)
}

// hold locks the end of the log until tx ends, makes room for n entries there,
// and returns the head before them.
func (l *Log) hold(ctx context.Context, tx *sqlx.Tx, n int) (Head, error) {
	if _, err := tx.ExecContext(ctx, l.begin, l.name, make([]byte, len(Hash{}))); err != nil {
		return Head{}, fmt.Errorf("audit: append: %w", err)
	}
	var end int64
	var hash []byte
	if err := tx.QueryRowxContext(ctx, l.claim, n, l.name).Scan(&end, &hash); err != nil {
		return Head{}, fmt.Errorf("audit: append: %w", err)
	}
	head := Head{Seq: end - int64(n)}
	if copy(head.Hash[:], hash) != len(hash) || len(hash) != len(head.Hash) {
		return Head{}, fmt.Errorf("%w: its head is no hash", ErrBroken)
	}
	return head, nil
}

// write writes the entries for which hold has made room.
func (l *Log) write(ctx context.Context, tx *sqlx.Tx, head Head, entries []Entry) error {
	for _, e := range entries {
		head = head.next(l.name, &e)
		if _, err := tx.ExecContext(ctx, l.insert, l.name, e.Seq, e.At.UnixMilli(), e.Actor, e.Action, e.Subject,
			e.Reason, e.Before, e.After, e.Hash[:], hashOrNull(e.OriginHash)); err != nil {
			return fmt.Errorf("audit: append: %w", err)
		}
		if e.Origin == "" {
			continue
		}
		if _, err := tx.ExecContext(ctx, l.insertOrigin, l.name, e.Seq, e.At.UnixMilli(), e.Origin, e.OriginOf, e.OriginSalt[:]); err != nil {
			return fmt.Errorf("audit: append: %w", err)
		}
	}
	if _, err := tx.ExecContext(ctx, l.seal, head.Hash[:], l.name); err != nil {
		return fmt.Errorf("audit: append: %w", err)
	}
	return nil
}

func hashOrNull(h Hash) []byte {
	if h == (Hash{}) {
		return nil
	}
	return h[:]
}

// Enqueue writes entries that Settle is to chain, within tx or outside of one.
// It locks nothing, so it may come anywhere.
func (l *Log) Enqueue(ctx context.Context, on sqlx.ExtContext, entries ...Entry) error {
	for _, e := range entries {
		if _, err := on.ExecContext(ctx, l.enqueue, l.QueueArgs(e)...); err != nil {
			return fmt.Errorf("audit: queue an entry: %w", err)
		}
	}
	return nil
}

// QueueSQL is the statement of Enqueue for one entry, with ? for its arguments:
// for who prepares it, or makes it one with the statement of the act. from is
// the name of a table or of a common table expression: the entry is written
// for each of its rows; "" writes it once.
func QueueSQL(from string) string {
	statement := `INSERT INTO audit_queue (log, at, actor, action, subject, reason, before_state, after_state, origin, origin_of, origin_salt, origin_hash)
		SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?`
	if from != "" {
		statement += " FROM " + from
	}
	return statement
}

// QueueArgs are the arguments of QueueSQL for an entry of the log.
func (l *Log) QueueArgs(e Entry) []any {
	e.bind()
	var salt []byte
	if e.Origin != "" {
		salt = e.OriginSalt[:]
	}
	return []any{
		l.name, e.At.UnixMilli(), e.Actor, e.Action, e.Subject, e.Reason, e.Before, e.After,
		e.Origin, e.OriginOf, salt, hashOrNull(e.OriginHash),
	}
}

// settleAtOnce is how many entries one transaction of Settle chains.
const settleAtOnce = 200

// Settle chains what is queued and returns how many entries that was. Those
// who settle at once take turns. A serialisation failure is the caller's to
// try again; nothing is done twice.
func (l *Log) Settle(ctx context.Context) (int, error) {
	for settled := 0; ; {
		n, err := l.settle(ctx)
		if settled += n; err != nil || n < settleAtOnce {
			return settled, err
		}
	}
}

func (l *Log) settle(ctx context.Context) (int, error) {
	// Look before locking: mostly there is nothing.
	var rows []queuedRow
	if err := l.db.SelectContext(ctx, &rows, l.queued, l.name, 1); err != nil || len(rows) == 0 {
		return 0, wrap("settle", err)
	}
	tx, err := l.db.BeginTxx(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("audit: settle: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	// The end of the chain first: whoever else settles waits here, and then
	// finds in the queue what is left.
	head, err := l.hold(ctx, tx, 0)
	if err != nil {
		return 0, err
	}
	rows = nil
	if err := tx.SelectContext(ctx, &rows, l.queued, l.name, settleAtOnce); err != nil || len(rows) == 0 {
		return 0, wrap("settle", err)
	}
	entries, ids := make([]Entry, len(rows)), make([]int64, len(rows))
	for i := range rows {
		entries[i], ids[i] = rows[i].entry(), rows[i].ID
	}
	if _, err := tx.ExecContext(ctx, l.db.Rebind(`UPDATE audit_heads SET seq = seq + ? WHERE log = ?`), len(rows), l.name); err != nil {
		return 0, fmt.Errorf("audit: settle: %w", err)
	}
	if err := l.write(ctx, tx, head, entries); err != nil {
		return 0, err
	}
	// By id: a transaction that began before may still add one between them.
	query, args, err := sqlx.In(l.unqueue, ids)
	if err == nil {
		_, err = tx.ExecContext(ctx, tx.Rebind(query), args...)
	}
	if err != nil {
		return 0, fmt.Errorf("audit: settle: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return 0, fmt.Errorf("audit: settle: %w", err)
	}
	return len(rows), nil
}

// queuedRow is an entry that isn't chained yet.
type queuedRow struct {
	ID int64 `db:"id"`
	row
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("audit: %s: %w", doing, err)
}

// Hold locks the end of the log until tx ends: nothing is chained meanwhile.
// It comes first in tx, before anything that one who enqueues may hold.
func (l *Log) Hold(ctx context.Context, tx *sqlx.Tx) error {
	_, err := l.hold(ctx, tx, 0)
	return err
}

// Forget erases the origins that are a person's, chained or queued. tx has
// called Hold, so that none is on its way from one to the other.
func (l *Log) Forget(ctx context.Context, tx *sqlx.Tx, person string) error {
	for _, statement := range []string{
		`DELETE FROM audit_origins WHERE origin_of = ? AND log = ?`,
		`UPDATE audit_queue SET origin = '', origin_salt = NULL, origin_of = '' WHERE origin_of = ? AND log = ?`,
	} {
		if _, err := tx.ExecContext(ctx, tx.Rebind(statement), person, l.name); err != nil {
			return fmt.Errorf("audit: forget: %w", err)
		}
	}
	return nil
}

// ForgetBefore erases up to limit origins of entries from before a moment, and
// returns how many.
func (l *Log) ForgetBefore(ctx context.Context, before time.Time, limit int) (int64, error) {
	result, err := l.db.ExecContext(ctx, l.db.Rebind(`DELETE FROM audit_origins WHERE log = ? AND seq IN
		(SELECT seq FROM audit_origins WHERE log = ? AND at < ? ORDER BY at LIMIT ?)`), l.name, l.name, before.UnixMilli(), limit)
	if err != nil {
		return 0, fmt.Errorf("audit: forget: %w", err)
	}
	n, err := result.RowsAffected()
	return n, wrap("forget", err)
}

// Filter chooses entries. The zero value chooses all, the newest first.
type Filter struct {
	Actor, Action, Subject string    // exactly; "" for any
	Since, Until           time.Time // from the one on, before the other; zero for no bound
	Before, After          int64     // numbers between which the entry's lies; 0 for no bound
	Oldest                 bool      // the oldest first
	Limit                  int       // at most
}

// Find returns the entries that a filter chooses. It doesn't verify them.
func (l *Log) Find(ctx context.Context, f Filter) ([]Entry, error) {
	query, args := selectEntry+" WHERE e.log = ?", []any{l.name}
	where := func(condition string, arg any) { query, args = query+" AND e."+condition, append(args, arg) }
	for _, c := range []struct{ condition, value string }{{"actor = ?", f.Actor}, {"action = ?", f.Action}, {"subject = ?", f.Subject}} {
		if c.value != "" { // no entry has what PostgreSQL can't read
			where(c.condition, strings.ReplaceAll(strings.ToValidUTF8(c.value, "\ufffd"), "\x00", "\ufffd"))
		}
	}
	if !f.Since.IsZero() {
		where("at >= ?", f.Since.UnixMilli())
	}
	if !f.Until.IsZero() {
		where("at < ?", f.Until.UnixMilli())
	}
	if f.After > 0 {
		where("seq > ?", f.After)
	}
	if f.Before > 0 {
		where("seq < ?", f.Before)
	}
	query += " ORDER BY e.seq"
	if !f.Oldest {
		query += " DESC"
	}
	var rows []row
	if err := l.db.SelectContext(ctx, &rows, l.db.Rebind(query+" LIMIT ?"), append(args, f.Limit)...); err != nil {
		return nil, fmt.Errorf("audit: read: %w", err)
	}
	entries := make([]Entry, len(rows))
	for i := range rows {
		entries[i] = rows[i].entry()
	}
	return entries, nil
}

// Newest returns the newest entries, at most limit, the newest first. It
// doesn't verify them.
func (l *Log) Newest(ctx context.Context, limit int) ([]Entry, error) {
	return l.Find(ctx, Filter{Limit: limit})
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
