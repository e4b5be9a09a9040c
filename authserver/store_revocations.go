package authserver

import (
	"context"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
)

// RevocationsChannel is what PostgreSQL is notified on when entries of the
// revocations feed have been numbered: see [keys.ListenOn].
const RevocationsChannel = "urbandata_revocations"

// revocationRow is a numbered entry of the feed. The database's triggers write
// it in the transaction that ends what it names.
type revocationRow struct {
	Seq    int64  `db:"seq"`
	Claim  string `db:"claim"`
	Value  string `db:"value"`
	At     int64  `db:"at"`
	Lifted bool   `db:"lifted"`
}

// numberBatch bounds how many entries are numbered in one transaction.
const numberBatch = 1000

const (
	peekRevocationsSQL = `SELECT seq, EXISTS (SELECT 1 FROM revocations WHERE seq IS NULL) AS unnumbered FROM revocations_feed WHERE id = 1`

	// One statement, hence of one moment: what it shows up to last is whole.
	// There is one row of the feed, and the condition says so to PostgreSQL,
	// which takes a table without statistics to have thousands: with some more
	// revocations it would compile the statement (JIT) each time.
	readRevocationsSQL = `SELECT f.seq AS last, COALESCE(r.seq, 0) AS seq, COALESCE(r.claim, '') AS claim,
			COALESCE(r.value, '') AS value, COALESCE(r.at, 0) AS at, COALESCE(r.lifted, 0) = 1 AS lifted
		FROM revocations_feed f LEFT JOIN revocations r ON r.seq > ? AND r.at > ?
		WHERE f.id = 1 ORDER BY r.seq`
)

// peekRevocations returns the last number given, and whether entries have
// none yet.
func (s *Store) peekRevocations(ctx context.Context) (last int64, unnumbered bool, err error) {
	var row struct {
		Seq        int64 `db:"seq"`
		Unnumbered bool  `db:"unnumbered"`
	}
	if err := s.peekRevoked.GetContext(ctx, &row); err != nil {
		return 0, false, fmt.Errorf("look at the revocations: %w", err)
	}
	return row.Seq, row.Unnumbered, nil
}

// numberRevocations gives the entries that have none their numbers, and
// returns whether some may be left.
//
// The numbers are without gaps and in the order of commits: they are given
// under the lock of one row, to entries that are there for everybody. What
// ends a session only inserts, and waits for nobody; this step waits, and
// takes all that has come together.
func (s *Store) numberRevocations(ctx context.Context) (more bool, err error) {
	err = s.transaction(ctx, func(tx *sqlx.Tx) error {
		// A statement of its own: the next one must see what was numbered by
		// whoever had the lock before.
		var last int64
		if err := tx.GetContext(ctx, &last, "UPDATE revocations_feed SET seq = seq WHERE id = 1 RETURNING seq"); err != nil {
			return fmt.Errorf("lock the revocations: %w", err)
		}
		res, err := tx.ExecContext(ctx, tx.Rebind(`UPDATE revocations SET seq = ? + fresh.n
			FROM (SELECT id, ROW_NUMBER() OVER (ORDER BY id) AS n FROM revocations WHERE seq IS NULL ORDER BY id LIMIT ?) AS fresh
			WHERE revocations.id = fresh.id`), last, numberBatch)
		if err != nil {
			return fmt.Errorf("number the revocations: %w", err)
		}
		n, err := res.RowsAffected()
		if err != nil || n == 0 {
			return err
		}
		more = n == numberBatch
		if _, err := tx.ExecContext(ctx, tx.Rebind("UPDATE revocations_feed SET seq = ? WHERE id = 1"), last+n); err != nil {
			return fmt.Errorf("number the revocations: %w", err)
		}
		if tx.DriverName() == "postgres" {
			if _, err := tx.ExecContext(ctx, "NOTIFY "+RevocationsChannel); err != nil {
				return fmt.Errorf("tell of revocations: %w", err)
			}
		}
		return nil
	})
	return more, err
}

// readRevocations returns the last number given, and the entries after one
// that ended after a moment, in order.
func (s *Store) readRevocations(ctx context.Context, after int64, since time.Time) (last int64, rows []revocationRow, err error) {
	var joined []struct {
		Last int64 `db:"last"`
		revocationRow
	}
	if err := s.readRevoked.SelectContext(ctx, &joined, after, since.UnixMilli()); err != nil {
		return 0, nil, fmt.Errorf("read the revocations: %w", err)
	}
	for i := range joined {
		last = joined[i].Last
		if joined[i].Seq > 0 {
			rows = append(rows, joined[i].revocationRow)
		}
	}
	return last, rows, nil
}

// withdraw ends one access token that belongs to no session.
func (s *Store) withdraw(ctx context.Context, id string, now time.Time) error {
	_, err := s.write.ExecContext(ctx, s.write.Rebind("INSERT INTO revocations (claim, value, at) VALUES ('jti', ?, ?)"), id, now.UnixMilli())
	if err != nil {
		return fmt.Errorf("withdraw a token: %w", err)
	}
	s.ended()
	return nil
}

// withdrawn says whether a token was.
func (s *Store) withdrawn(ctx context.Context, id string) (yes bool, err error) {
	err = s.read.GetContext(ctx, &yes, s.read.Rebind("SELECT EXISTS (SELECT 1 FROM revocations WHERE claim = 'jti' AND value = ?)"), id)
	if err != nil {
		return false, fmt.Errorf("look for a withdrawn token: %w", err)
	}
	return yes, nil
}

// purgeRevocations deletes up to limit entries of what ended before a moment.
func (s *Store) purgeRevocations(ctx context.Context, before time.Time, limit int) (int64, error) {
	return s.deleteSome(ctx, "revocations", "id", "at < ?", before.UnixMilli(), limit)
}

// ended wakes who publishes, if that is in this process: something has ended,
// and that is committed. It never blocks. A call that is forgotten costs a
// feedTick.
func (s *Store) ended() {
	select {
	case s.wake <- struct{}{}:
	default: // it has been woken already
	}
}
