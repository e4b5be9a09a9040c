package authserver

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// A request with an Idempotency-Key is carried out once, however often it is
// sent (draft-ietf-httpapi-idempotency-key-header):
//
//	(none) ──claim──▶ running ──▶ answered ──a day──▶ (forgotten)
//	                     │  └─ failed ──▶ (none): it may be sent again
//	                     └─ its process died: whoever sends it again a minute
//	                        later takes it over, with the subject as first found
//
// The subject is what makes taking over safe: it says what the first one was
// about to change, so that a change that was made isn't made twice.

var (
	// ErrIdempotencyReuse says that a key came with another request before.
	ErrIdempotencyReuse = errors.New("authserver: the idempotency key was used for another request")

	// ErrIdempotencyRunning says that a request with this key is still being
	// carried out.
	ErrIdempotencyRunning = errors.New("authserver: a request with this idempotency key is being carried out")
)

const (
	idempotencyLife  = 24 * time.Hour
	idempotencyLease = time.Minute // longer than any request takes
	idempotencyMost  = 1000        // keys of one user that are remembered
)

// idempotently calls do, or returns what it returned for an earlier request
// with the same key of the same user; replayed tells. A key that is empty is
// none. request is what makes two requests the same.
func idempotently[O any](ctx context.Context, s *Store, now time.Time, userID, key, subject string, request any,
	do func(subject string) (*O, error),
) (out *O, replayed bool, err error) {
	if key == "" {
		out, err = do(subject)
		return out, false, err
	}
	text, err := json.Marshal(request)
	if err != nil {
		return nil, false, fmt.Errorf("fingerprint a request: %w", err)
	}
	fingerprint := sha256.Sum256(text)
	subject, answer, err := s.claim(ctx, userID, key, subject, fingerprint[:], now)
	if err != nil {
		return nil, false, err
	}
	if answer != nil {
		out = new(O)
		if err := json.Unmarshal(answer, out); err != nil {
			return nil, false, fmt.Errorf("read a kept answer: %w", err)
		}
		return out, true, nil
	}
	out, err = do(subject)
	// The client may have left; what was done is written down all the same.
	ctx = context.WithoutCancel(ctx)
	if err != nil {
		return nil, false, errors.Join(err, s.unclaim(ctx, userID, key))
	}
	if answer, err = json.Marshal(out); err != nil {
		return nil, false, fmt.Errorf("keep an answer: %w", err)
	}
	return out, false, s.keepAnswer(ctx, userID, key, answer)
}

// claim makes the caller the one who carries a request out: then answer is
// nil. It returns the answer that is kept, [ErrIdempotencyReuse] or
// [ErrIdempotencyRunning].
func (s *Store) claim(ctx context.Context, userID, key, subject string, fingerprint []byte, now time.Time) (first string, answer []byte, err error) {
	ms := now.UnixMilli()
	// What is over goes first, and so do the oldest of too many.
	if _, err := s.write.ExecContext(ctx, s.write.Rebind(`DELETE FROM idempotency_keys WHERE created_at < ? OR user_id = ? AND key IN
		(SELECT key FROM idempotency_keys WHERE user_id = ? ORDER BY created_at DESC, key LIMIT 1000000 OFFSET ?)`),
		now.Add(-idempotencyLife).UnixMilli(), userID, userID, idempotencyMost-1); err != nil {
		return "", nil, fmt.Errorf("forget idempotency keys: %w", err)
	}
	res, err := s.write.ExecContext(ctx, s.write.Rebind(`INSERT INTO idempotency_keys (user_id, key, fingerprint, subject, created_at)
		VALUES (?, ?, ?, ?, ?) ON CONFLICT (user_id, key) DO NOTHING`), userID, key, fingerprint, subject, ms)
	if err != nil {
		return "", nil, fmt.Errorf("claim an idempotency key: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 1 {
		return subject, nil, err
	}
	var row struct {
		Fingerprint []byte `db:"fingerprint"`
		Subject     string `db:"subject"`
		Answer      []byte `db:"answer"`
		CreatedAt   int64  `db:"created_at"`
	}
	err = s.write.GetContext(ctx, &row, s.write.Rebind(`SELECT fingerprint, subject, answer, created_at FROM idempotency_keys
		WHERE user_id = ? AND key = ?`), userID, key)
	switch {
	case errors.Is(err, sql.ErrNoRows): // the other one has just failed
		return "", nil, ErrIdempotencyRunning
	case err != nil:
		return "", nil, fmt.Errorf("read an idempotency key: %w", err)
	case subtle.ConstantTimeCompare(row.Fingerprint, fingerprint) != 1:
		return "", nil, ErrIdempotencyReuse
	case row.Answer != nil:
		return "", row.Answer, nil
	case now.Sub(time.UnixMilli(row.CreatedAt)) < idempotencyLease:
		return "", nil, ErrIdempotencyRunning
	}
	res, err = s.write.ExecContext(ctx, s.write.Rebind(`UPDATE idempotency_keys SET created_at = ?
		WHERE user_id = ? AND key = ? AND created_at = ? AND answer IS NULL`), ms, userID, key, row.CreatedAt)
	if err != nil {
		return "", nil, fmt.Errorf("take an idempotency key over: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return "", nil, errors.Join(err, ErrIdempotencyRunning)
	}
	return row.Subject, nil, nil
}

func (s *Store) unclaim(ctx context.Context, userID, key string) error {
	_, err := s.write.ExecContext(ctx, s.write.Rebind("DELETE FROM idempotency_keys WHERE user_id = ? AND key = ? AND answer IS NULL"), userID, key)
	if err != nil {
		return fmt.Errorf("give an idempotency key back: %w", err)
	}
	return nil
}

func (s *Store) keepAnswer(ctx context.Context, userID, key string, answer []byte) error {
	_, err := s.write.ExecContext(ctx, s.write.Rebind("UPDATE idempotency_keys SET answer = ? WHERE user_id = ? AND key = ?"), answer, userID, key)
	if err != nil {
		return fmt.Errorf("keep an answer: %w", err)
	}
	return nil
}
