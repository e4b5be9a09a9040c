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

// factorRow is a stored second factor.
type factorRow struct {
	UserID   string `db:"user_id"`
	Sealed   []byte `db:"sealed"`
	SealedBy string `db:"sealed_by"`
	LastStep int64  `db:"last_step"`
}

const selectFactor = "SELECT user_id, sealed, sealed_by, last_step FROM second_factors"

// offerFactor stores a factor that isn't on, in the place of one that was
// offered before. It returns [ErrSecondFactor] when one is on.
func (s *Store) offerFactor(ctx context.Context, userID string, sealed []byte, by string) error {
	err := s.changed(ctx, "UPDATE users SET second_factor_at = NULL WHERE id = ? AND second_factor_at IS NULL AND disabled_at IS NULL",
		[]any{userID}, func(tx *sqlx.Tx) error { // the row of the user is locked: nobody turns it on meanwhile
			_, err := tx.ExecContext(ctx, tx.Rebind(`INSERT INTO second_factors (user_id, sealed, sealed_by, last_step) VALUES (?, ?, ?, 0)
				ON CONFLICT (user_id) DO UPDATE SET sealed = excluded.sealed, sealed_by = excluded.sealed_by, last_step = 0`), userID, sealed, by)
			if err != nil {
				return fmt.Errorf("store a second factor: %w", err)
			}
			return nil
		})
	if errors.Is(err, ErrNoUser) {
		return ErrSecondFactor
	}
	return err
}

// factor returns a user's factor, on or offered, or [ErrSecondFactor].
func (s *Store) factor(ctx context.Context, userID string) (*factorRow, error) {
	var row factorRow
	err := s.write.GetContext(ctx, &row, s.write.Rebind(selectFactor+" WHERE user_id = ?"), userID)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrSecondFactor
	}
	if err != nil {
		return nil, fmt.Errorf("read a second factor: %w", err)
	}
	return &row, nil
}

// takeStep notes that a code was taken, or returns [ErrOTP] when it or a later
// one was before.
func (s *Store) takeStep(ctx context.Context, userID string, step int64) error {
	return s.oneRow(ctx, "use a second factor", ErrOTP, "UPDATE second_factors SET last_step = ? WHERE user_id = ? AND last_step < ?", step, userID, step)
}

// spendRecoveryCode deletes a recovery code, or returns [ErrOTP] when the user
// has none of that hash.
func (s *Store) spendRecoveryCode(ctx context.Context, userID string, hash []byte) error {
	return s.oneRow(ctx, "use a second factor", ErrOTP, "DELETE FROM recovery_codes WHERE user_id = ? AND hash = ?", userID, hash)
}

// turnOnFactor turns an offered factor on, with recovery codes, or returns
// [ErrNoUser] when one is on already.
func (s *Store) turnOnFactor(ctx context.Context, userID string, codes [][]byte, notice *outboxRow, now time.Time) error {
	return s.changed(ctx, "UPDATE users SET second_factor_at = ?, updated_at = ? WHERE id = ? AND second_factor_at IS NULL AND disabled_at IS NULL",
		[]any{now.UnixMilli(), now.UnixMilli(), userID},
		func(tx *sqlx.Tx) error { return putRecoveryCodes(ctx, tx, userID, codes) },
		s.recorded(ctx, now, act{what: actFactorOn, whom: userName(userID)}),
		notify(ctx, notice))
}

// replaceRecoveryCodes puts codes in the place of those that a user has.
func (s *Store) replaceRecoveryCodes(ctx context.Context, userID string, codes [][]byte, now time.Time) error {
	return s.transaction(ctx, func(tx *sqlx.Tx) error {
		if err := putRecoveryCodes(ctx, tx, userID, codes); err != nil {
			return err
		}
		return s.record(ctx, tx, now, act{what: actRecoveryCodes, whom: userName(userID)})
	})
}

func putRecoveryCodes(ctx context.Context, tx *sqlx.Tx, userID string, codes [][]byte) error {
	if _, err := tx.ExecContext(ctx, tx.Rebind("DELETE FROM recovery_codes WHERE user_id = ?"), userID); err != nil {
		return fmt.Errorf("delete recovery codes: %w", err)
	}
	for _, hash := range codes {
		if _, err := tx.ExecContext(ctx, tx.Rebind("INSERT INTO recovery_codes (user_id, hash) VALUES (?, ?)"), userID, hash); err != nil {
			return fmt.Errorf("store recovery codes: %w", err)
		}
	}
	return nil
}

// turnOffFactor deletes the factor and recovery codes of the user of an
// address, or returns [ErrNoUser].
func (s *Store) turnOffFactor(ctx context.Context, emailKey string, notice *outboxRow, now time.Time) error {
	drop := func(table string) func(*sqlx.Tx) error {
		return func(tx *sqlx.Tx) error {
			_, err := tx.ExecContext(ctx, tx.Rebind("DELETE FROM "+table+" WHERE user_id = (SELECT id FROM users WHERE email_key = ?)"), emailKey)
			if err != nil {
				return fmt.Errorf("delete a second factor: %w", err)
			}
			return nil
		}
	}
	return s.changed(ctx, "UPDATE users SET second_factor_at = NULL, updated_at = ? WHERE email_key = ?", []any{now.UnixMilli(), emailKey},
		drop("second_factors"), drop("recovery_codes"), s.aboutAddress(ctx, emailKey, now, act{what: actFactorOff}), notify(ctx, notice))
}

// sealedOtherwise returns up to limit factors that another key sealed than the
// one of an id, in the order of their users, after one.
func (s *Store) sealedOtherwise(ctx context.Context, id, after string, limit int) ([]factorRow, error) {
	if after == "" {
		after = uuid.Nil.String()
	}
	var rows []factorRow
	err := s.write.SelectContext(ctx, &rows, s.write.Rebind(selectFactor+" WHERE sealed_by <> ? AND user_id > ? ORDER BY user_id LIMIT ?"), id, after, limit)
	if err != nil {
		return nil, fmt.Errorf("look for second factors to seal anew: %w", err)
	}
	return rows, nil
}

// resealFactor stores a factor's secret sealed anew, unless there is another
// one by now.
func (s *Store) resealFactor(ctx context.Context, row *factorRow, sealed []byte, by string) error {
	_, err := s.write.ExecContext(ctx, s.write.Rebind("UPDATE second_factors SET sealed = ?, sealed_by = ? WHERE user_id = ? AND sealed = ?"),
		sealed, by, row.UserID, row.Sealed)
	if err != nil {
		return fmt.Errorf("store a second factor sealed anew: %w", err)
	}
	return nil
}
