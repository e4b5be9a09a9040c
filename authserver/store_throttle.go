package authserver

import (
	"context"
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

// knownDevice names the device or network that the user of an address has
// logged in from before, or is "": the session of the refresh token that is
// shown, if it is one of the user's, however old, or else the network. For an
// address that nobody has, the same statements run.
func (s *Store) knownDevice(ctx context.Context, emailKey, network, refresh string) (string, error) {
	if shown, err := parseRefreshToken(refresh); err == nil {
		row, err := s.loadSession(ctx, shown.session)
		if err != nil && !errors.Is(err, ErrInvalidGrant) {
			return "", err
		}
		if err == nil && shown.genuine(row.MarkKey) && row.EmailKey == emailKey {
			return "session " + shown.session.String(), nil
		}
	}
	var known bool
	if err := s.knownNetwork.GetContext(ctx, &known, emailKey, network); err != nil {
		return "", fmt.Errorf("ask for a known network: %w", err)
	}
	if known {
		return "network " + network, nil
	}
	return "", nil
}
