package authserver

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
)

// maxCounters is how many counts are asked for at once.
const maxCounters = 3

// readCounts reads up to maxCounters counts, in one statement.
func (s *Store) readCounts(ctx context.Context, counters []*counter) error {
	var keys [maxCounters]any
	for i := range keys {
		keys[i] = counters[min(i, len(counters)-1)].key
	}
	var rows []throttleRow
	if err := s.counts.SelectContext(ctx, &rows, keys[:]...); err != nil {
		return fmt.Errorf("read counts: %w", err)
	}
	for _, c := range counters {
		for _, r := range rows {
			if r.Key == c.key {
				c.row = r
			}
		}
	}
	return nil
}

// addCounts adds one to each count, in one transaction, and reads them. The
// window of one that delays begins anew with each failure, that of one that
// caps doesn't.
func (s *Store) addCounts(ctx context.Context, counters []*counter, now time.Time) error {
	sorted := slices.SortedFunc(slices.Values(counters), func(a, b *counter) int { return strings.Compare(a.key, b.key) }) // two can't wait for each other
	return s.transaction(ctx, func(tx *sqlx.Tx) error {
		for _, c := range sorted {
			expires := "throttle.expires_at"
			if c.delays {
				expires = "excluded.expires_at"
			}
			err := tx.GetContext(ctx, &c.row, tx.Rebind(`INSERT INTO throttle (key, count, last_at, expires_at) VALUES (?, 1, ?, ?)
				ON CONFLICT (key) DO UPDATE SET last_at = excluded.last_at,
					count = CASE WHEN throttle.expires_at <= excluded.last_at THEN 1 ELSE throttle.count + 1 END,
					expires_at = CASE WHEN throttle.expires_at <= excluded.last_at THEN excluded.expires_at ELSE `+expires+` END
				RETURNING key, count, last_at, expires_at`), c.key, now.UnixMilli(), now.Add(c.limit.Window).UnixMilli())
			if err != nil {
				return fmt.Errorf("add to a count: %w", err)
			}
		}
		return nil
	})
}

// dropCount forgets a count.
func (s *Store) dropCount(ctx context.Context, key string) error {
	if _, err := s.write.ExecContext(ctx, s.write.Rebind("DELETE FROM throttle WHERE key = ?"), key); err != nil {
		return fmt.Errorf("forget a count: %w", err)
	}
	return nil
}

// expireCounts deletes counts that are over.
func (s *Store) expireCounts(ctx context.Context, now time.Time, limit int) (int64, error) {
	return s.deleteSome(ctx, "throttle", "key", "expires_at <= ?", now.UnixMilli(), limit)
}

// userForLoginSQL finds the user of an address or, if nobody has it, the one of
// the next (after the last comes the first), whether that user has been on a
// network, and whether anything is counted under the keys. It is one statement
// at one cost, whoever has the address.
const userForLoginSQL = "SELECT " + userColumns + `,
		EXISTS (SELECT 1 FROM sessions WHERE network <> '' AND user_id = users.id AND network = ?) AS known,
		EXISTS (SELECT 1 FROM throttle WHERE key IN (?, ?, ?, ?)) AS counted
	FROM users WHERE email_key = COALESCE(
		(SELECT MIN(email_key) FROM users WHERE email_key >= ?), (SELECT MIN(email_key) FROM users))`

// candidate is who may be logging in, and what there is to know before the
// password is looked at.
type candidate struct {
	userRow
	Known   bool `db:"known"`   // whether the network is the user's
	Counted bool `db:"counted"` // whether any of the counters may be more than 0
}

// forLogin finds the candidate for an address, by [userForLoginSQL]. Without
// any user it returns [ErrNoUser].
func (s *Store) forLogin(ctx context.Context, emailKey, network string, counters [4]*counter) (*candidate, error) {
	var c candidate
	err := s.userForLogin.GetContext(ctx, &c, network, counters[0].key, counters[1].key, counters[2].key, counters[3].key, emailKey)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNoUser
	}
	if err != nil {
		return nil, fmt.Errorf("find who logs in: %w", err)
	}
	return &c, nil
}

// shownSession names the session of the refresh token that is shown at a login,
// however old it is, or is "" if that is no session of the user of the address.
func (s *Store) shownSession(ctx context.Context, emailKey, refresh string) (string, error) {
	shown, err := parseRefreshToken(refresh)
	if err != nil {
		return "", nil //nolint:nilerr // nothing was shown
	}
	row, err := s.loadSession(ctx, shown.session)
	if errors.Is(err, ErrInvalidGrant) {
		return "", nil
	}
	if err != nil || !shown.genuine(row.MarkKey) || row.EmailKey != emailKey {
		return "", err
	}
	return "session " + shown.session.String(), nil
}
