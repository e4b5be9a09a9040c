package authserver

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
)

// apiTokenRow is a stored API token.
type apiTokenRow struct {
	ID         uuid.UUID `db:"id"`
	UserID     string    `db:"user_id"`
	Name       string    `db:"name"`
	Scopes     string    `db:"scopes"`
	CreatedAt  int64     `db:"created_at"`
	ExpiresAt  int64     `db:"expires_at"`
	LastUsedAt *int64    `db:"last_used_at"`
	Roles      string    `db:"roles"` // of its user, now
}

const (
	//nolint:gosec // columns
	selectAPIToken = `SELECT t.id, t.user_id, t.name, t.scopes, t.created_at, t.expires_at, t.last_used_at, u.roles
		FROM api_tokens t JOIN users u ON u.id = t.user_id`

	// isUsable is the condition of a token that counts; its argument is the
	// present moment.
	isUsable = " t.expires_at > ? AND u.disabled_at IS NULL "
)

// insertAPIToken stores a token of a user, made from a session, and mail that
// tells the user. It returns
// [ErrNoUser] when that has ended, or [ErrTooManyAPITokens].
//
// The row of the user is locked first. So is it by whatever ends all that a
// user has: a token isn't made behind a password reset, nor one too many.
func (s *Store) insertAPIToken(ctx context.Context, row *apiTokenRow, hash []byte, session uuid.UUID, most int, notice *outboxRow, now time.Time) error {
	ms := now.UnixMilli()
	return s.changed(ctx, "UPDATE users SET updated_at = updated_at WHERE id = ? AND disabled_at IS NULL", []any{row.UserID},
		func(tx *sqlx.Tx) error {
			var live, tokens int
			err := tx.QueryRowxContext(ctx, tx.Rebind(`SELECT (SELECT COUNT(*) FROM sessions WHERE id = ? AND`+isLive+`),
				(SELECT COUNT(*) FROM api_tokens WHERE user_id = ? AND expires_at > ?)`), session.String(), ms, ms, row.UserID, ms).Scan(&live, &tokens)
			switch {
			case err != nil:
				return fmt.Errorf("count API tokens: %w", err)
			case live == 0:
				return ErrNoUser
			case tokens >= most:
				return ErrTooManyAPITokens
			}
			_, err = tx.ExecContext(ctx, tx.Rebind(`INSERT INTO api_tokens (id, user_id, name, hash, scopes, created_at, expires_at)
				VALUES (?, ?, ?, ?, ?, ?, ?)`), row.ID.String(), row.UserID, row.Name, hash, row.Scopes, row.CreatedAt, row.ExpiresAt)
			if err != nil {
				return fmt.Errorf("store an API token: %w", err)
			}
			return s.record(ctx, tx, now, act{
				what: actAPITokenCreated, whom: userName(row.UserID),
				after: apiTokenState{row.ID.String(), row.Scopes, time.UnixMilli(row.ExpiresAt).UTC()},
			})
		}, notify(ctx, notice))
}

// listAPITokens returns up to limit of a user's tokens that count, the newest
// first.
func (s *Store) listAPITokens(ctx context.Context, userID string, limit int, now time.Time) ([]apiTokenRow, error) {
	var rows []apiTokenRow
	// Asked of the writer: who has just deleted a token doesn't see it again.
	err := s.write.SelectContext(ctx, &rows, s.write.Rebind(selectAPIToken+" WHERE t.user_id = ? AND"+isUsable+"ORDER BY t.id DESC LIMIT ?"),
		userID, now.UnixMilli(), limit)
	if err != nil {
		return nil, fmt.Errorf("list API tokens: %w", err)
	}
	return rows, nil
}

// apiTokenByHash returns a token that counts, or [ErrAPIToken].
func (s *Store) apiTokenByHash(ctx context.Context, hash []byte, now time.Time) (*apiTokenRow, error) {
	return apiToken(ctx, s.apiTokenHash, hash, now)
}

// apiTokenByID is apiTokenByHash for the id.
func (s *Store) apiTokenByID(ctx context.Context, id uuid.UUID, now time.Time) (*apiTokenRow, error) {
	return apiToken(ctx, s.apiTokenID, id.String(), now)
}

func apiToken(ctx context.Context, find *sqlx.Stmt, key any, now time.Time) (*apiTokenRow, error) {
	var row apiTokenRow
	err := find.GetContext(ctx, &row, key, now.UnixMilli())
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrAPIToken
	}
	if err != nil {
		return nil, fmt.Errorf("find an API token: %w", err)
	}
	return &row, nil
}

// useAPIToken notes that a token was used, unless that is noted for the hour.
func (s *Store) useAPIToken(ctx context.Context, row *apiTokenRow, now time.Time) error {
	hour := now.Truncate(time.Hour).UnixMilli()
	if row.LastUsedAt != nil && *row.LastUsedAt >= hour {
		return nil
	}
	_, err := s.write.ExecContext(ctx, s.write.Rebind("UPDATE api_tokens SET last_used_at = ? WHERE id = ? AND (last_used_at IS NULL OR last_used_at < ?)"),
		hour, row.ID.String(), hour)
	if err != nil {
		return fmt.Errorf("note the use of an API token: %w", err)
	}
	return nil
}

// endAPIToken ends a user's token, or returns [ErrNoAPIToken]. One that has
// ended has expired; a trigger puts it into the revocations feed.
func (s *Store) endAPIToken(ctx context.Context, userID string, id uuid.UUID, why string, now time.Time) error {
	defer s.ended()
	return s.transaction(ctx, func(tx *sqlx.Tx) error {
		err := oneRow(ctx, tx, "end an API token", ErrNoAPIToken,
			"UPDATE api_tokens SET expires_at = ? WHERE id = ? AND user_id = ? AND expires_at > ?", now.UnixMilli(), id.String(), userID, now.UnixMilli())
		if err != nil {
			return err
		}
		return s.record(ctx, tx, now, act{what: actAPITokenEnded, whom: userName(userID), why: why, after: apiTokensState{[]string{id.String()}}})
	})
}

// endAPITokens ends all of a user's tokens, as part of a transaction.
func (s *Store) endAPITokens(ctx context.Context, tx *sqlx.Tx, userID, why string, now time.Time) error {
	var ended []string
	err := tx.SelectContext(ctx, &ended, tx.Rebind("UPDATE api_tokens SET expires_at = ? WHERE user_id = ? AND expires_at > ? RETURNING id"),
		now.UnixMilli(), userID, now.UnixMilli())
	if err != nil {
		return fmt.Errorf("end a user's API tokens: %w", err)
	}
	if len(ended) == 0 {
		return nil
	}
	return s.record(ctx, tx, now, act{what: actAPITokenEnded, whom: userName(userID), why: why, after: apiTokensState{ended}})
}

// expireAPITokens deletes tokens that have expired.
func (s *Store) expireAPITokens(ctx context.Context, now time.Time, limit int) (int64, error) {
	return s.deleteSome(ctx, "api_tokens", "id", "expires_at <= ?", now.UnixMilli(), limit)
}
