package authserver

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
)

// sessionRow is a stored session as its user may see it.
type sessionRow struct {
	ID            uuid.UUID `db:"id"`
	UserAgent     string    `db:"user_agent"`
	Network       string    `db:"network"`
	Audience      string    `db:"audience"`
	CreatedAt     int64     `db:"created_at"`
	RotatedAt     int64     `db:"rotated_at"`
	IdleExpiresAt int64     `db:"idle_expires_at"`
	ExpiresAt     int64     `db:"expires_at"`
	EndedAt       *int64    `db:"ended_at"`
	EndedReason   *string   `db:"ended_reason"`
}

const selectSession = `SELECT id, user_agent, network, audience, created_at, rotated_at, idle_expires_at, expires_at,
	ended_at, ended_reason FROM sessions`

// isLive is the condition of a session that lives; its two arguments are the
// present moment.
const isLive = " ended_at IS NULL AND expires_at > ? AND idle_expires_at > ? "

// isOf is the condition that a session, which its id finds, is a user's. The
// cast keeps PostgreSQL from the index on users: it takes it for as good as the
// one on ids, and a user can have thousands of sessions.
const isOf = " CAST(user_id AS TEXT) = ? "

// listSessions returns up to limit of a user's live sessions, the newest
// first: an id is a UUIDv7, so ids are in the order of their making.
func (s *Store) listSessions(ctx context.Context, userID, before string, limit int, now time.Time) ([]sessionRow, error) {
	var rows []sessionRow
	ms := now.UnixMilli()
	// Asked of the writer: who has just ended a session doesn't see it again.
	err := s.write.SelectContext(ctx, &rows, s.write.Rebind(selectSession+
		" WHERE user_id = ? AND id < ? AND"+isLive+"ORDER BY id DESC LIMIT ?"), userID, before, ms, ms, limit)
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	return rows, nil
}

// allSessions returns up to limit of a user's sessions, living or not, the
// newest first.
func (s *Store) allSessions(ctx context.Context, userID string, limit int) ([]sessionRow, error) {
	var rows []sessionRow
	err := s.write.SelectContext(ctx, &rows, s.write.Rebind(selectSession+" WHERE user_id = ? ORDER BY id DESC LIMIT ?"), userID, limit)
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	return rows, nil
}

const endOwnSQL = "UPDATE sessions SET ended_at = ?, ended_reason = ? WHERE id = ? AND" + isOf + "AND" + isLive

// endOwn ends a live session of a user, or returns [ErrNoSession].
func (s *Store) endOwn(ctx context.Context, userID string, id uuid.UUID, reason string, now time.Time) error {
	ms := now.UnixMilli()
	defer s.ended()
	return s.transaction(ctx, func(tx *sqlx.Tx) error {
		err := oneRow(ctx, tx, "end a session", ErrNoSession,
			endOwnSQL, ms, reason, id.String(), userID, ms, ms)
		if err != nil {
			return err
		}
		return s.record(ctx, tx, now, act{what: actSessionEnded, whom: userName(userID), why: reason, after: sessionsState{[]string{id.String()}, 1}})
	})
}

// endAll ends a user's sessions but one ([uuid.Nil] for none).
func (s *Store) endAll(ctx context.Context, userID string, but uuid.UUID, reason string, now time.Time) error {
	defer s.ended()
	return s.transaction(ctx, func(tx *sqlx.Tx) error { return s.endAllWithin(ctx, tx, userID, but, reason, now) })
}

// endAllWithin is endAll as part of a transaction.
func (s *Store) endAllWithin(ctx context.Context, tx *sqlx.Tx, userID string, but uuid.UUID, reason string, now time.Time) error {
	const named = 100 // of how many the audit has the ids
	var ended []string
	err := tx.SelectContext(ctx, &ended, tx.Rebind(`UPDATE sessions SET ended_at = ?, ended_reason = ?
		WHERE user_id = ? AND id <> ? AND ended_at IS NULL RETURNING id`), now.UnixMilli(), reason, userID, but.String())
	if err != nil {
		return fmt.Errorf("end a user's sessions: %w", err)
	}
	if len(ended) == 0 {
		return nil
	}
	return s.record(ctx, tx, now, act{
		what: actSessionEnded, whom: userName(userID), why: reason,
		after: sessionsState{ended[:min(len(ended), named)], len(ended)},
	})
}

// endEverything ends all of a user's sessions and API tokens, as part of a
// transaction that has locked the row of the user.
func (s *Store) endEverything(ctx context.Context, tx *sqlx.Tx, userID, reason string, now time.Time) error {
	if err := s.endAllWithin(ctx, tx, userID, uuid.Nil, reason, now); err != nil {
		return err
	}
	return s.endAPITokens(ctx, tx, userID, reason, now)
}
