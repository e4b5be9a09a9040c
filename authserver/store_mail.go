package authserver

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
)

// outboxRow is mail that is to be sent.
type outboxRow struct {
	ID        string   `db:"id"`
	Kind      mailKind `db:"kind"`
	UserID    *string  `db:"user_id"`
	Address   string   `db:"address"`
	Language  string   `db:"language"`
	Dedupe    string   `db:"dedupe"`
	CreatedAt int64    `db:"created_at"`
	DueAt     int64    `db:"due_at"`
	ExpiresAt int64    `db:"expires_at"`
	Attempts  int      `db:"attempts"`
	Lease     string   `db:"lease"`
}

// enqueue puts mail into the outbox. One that says the same and waits there is
// replaced, and tried at once; if it is just being sent, it is sent again.
func enqueue(ctx context.Context, on execer, m *outboxRow) error {
	_, err := sqlx.NamedExecContext(ctx, on, `INSERT INTO outbox
		(id, kind, user_id, address, language, dedupe, created_at, due_at, expires_at, attempts, lease)
		VALUES (:id, :kind, :user_id, :address, :language, :dedupe, :created_at, :due_at, :expires_at, 0, '')
		ON CONFLICT (dedupe) DO UPDATE SET address = excluded.address, language = excluded.language,
			due_at = excluded.due_at, expires_at = excluded.expires_at, attempts = 0, lease = ''`, m)
	if err != nil {
		return fmt.Errorf("put a mail into the outbox: %w", err)
	}
	return nil
}

// enqueue is the function outside a transaction.
func (s *Store) enqueue(ctx context.Context, m *outboxRow) error { return enqueue(ctx, s.write, m) }

// enqueueRecorded is enqueue, and an act of the audit.
func (s *Store) enqueueRecorded(ctx context.Context, m *outboxRow, now time.Time, a act) error {
	return s.transaction(ctx, func(tx *sqlx.Tx) error {
		if err := enqueue(ctx, tx, m); err != nil {
			return err
		}
		return s.record(ctx, tx, now, a)
	})
}

// outboxLength is how much mail waits, and whether some of it is due.
func (s *Store) outboxLength(ctx context.Context, now time.Time) (waiting int, due bool, err error) {
	var row struct {
		Waiting int   `db:"waiting"`
		Next    int64 `db:"next"`
	}
	if err := s.read.GetContext(ctx, &row, "SELECT count(*) AS waiting, coalesce(min(due_at), 0) AS next FROM outbox"); err != nil {
		return 0, false, fmt.Errorf("look into the outbox: %w", err)
	}
	return row.Waiting, row.Waiting > 0 && row.Next <= now.UnixMilli(), nil
}

// leaseMail takes up to limit mails that are due, for whoever names the lease
// alone, until a moment. Replicas that ask at once get different ones.
func (s *Store) leaseMail(ctx context.Context, lease string, now, until time.Time, limit int) ([]outboxRow, error) {
	lock := ""
	if s.write.DriverName() == "postgres" { // SQLite has one writer
		lock = " FOR UPDATE SKIP LOCKED"
	}
	var rows []outboxRow
	err := s.write.SelectContext(ctx, &rows, s.write.Rebind(`UPDATE outbox SET lease = ?, due_at = ?, attempts = attempts + 1
		WHERE id IN (SELECT id FROM outbox WHERE due_at <= ? ORDER BY due_at LIMIT ?`+lock+`)
		RETURNING id, kind, user_id, address, language, dedupe, created_at, due_at, expires_at, attempts, lease`),
		lease, until.UnixMilli(), now.UnixMilli(), limit)
	if err != nil {
		return nil, fmt.Errorf("take mail from the outbox: %w", err)
	}
	return rows, nil
}

// dropMail takes a leased mail out of the outbox.
func (s *Store) dropMail(ctx context.Context, m *outboxRow) error {
	_, err := s.write.ExecContext(ctx, s.write.Rebind("DELETE FROM outbox WHERE id = ? AND lease = ?"), m.ID, m.Lease)
	if err != nil {
		return fmt.Errorf("take a mail out of the outbox: %w", err)
	}
	return nil
}

// delayMail gives a leased mail back, to be sent later.
func (s *Store) delayMail(ctx context.Context, m *outboxRow, due time.Time) error {
	_, err := s.write.ExecContext(ctx, s.write.Rebind("UPDATE outbox SET lease = '', due_at = ? WHERE id = ? AND lease = ?"),
		due.UnixMilli(), m.ID, m.Lease)
	if err != nil {
		return fmt.Errorf("give a mail back to the outbox: %w", err)
	}
	return nil
}

// linkRow is a link that was sent, and the user that it is about.
type linkRow struct {
	Hash      []byte   `db:"hash"`
	Purpose   mailKind `db:"purpose"`
	LinkEmail string   `db:"link_email"`
	userRow
}

// insertLink stores a link before its mail is sent.
func (s *Store) insertLink(ctx context.Context, hash []byte, purpose mailKind, userID, email string, now, expires time.Time) error {
	_, err := s.write.ExecContext(ctx, s.write.Rebind(`INSERT INTO email_links
		(hash, purpose, user_id, email, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)`),
		hash, purpose, userID, email, now.UnixMilli(), expires.UnixMilli())
	if err != nil {
		return fmt.Errorf("store a link: %w", err)
	}
	return nil
}

// findLink returns a link that can be used, or [ErrLink].
func (s *Store) findLink(ctx context.Context, hash []byte, now time.Time) (*linkRow, error) {
	var row linkRow
	err := s.write.GetContext(ctx, &row, s.write.Rebind(`SELECT l.hash, l.purpose, l.email AS link_email, u.* FROM email_links l
		JOIN (`+selectUser+` WHERE disabled_at IS NULL) u ON u.id = l.user_id WHERE l.hash = ? AND l.expires_at > ?`),
		hash, now.UnixMilli())
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrLink
	}
	if err != nil {
		return nil, fmt.Errorf("find a link: %w", err)
	}
	return &row, nil
}

// claimLink lets one of those who use a link at once go on, for a while, and
// returns [ErrLink] to the others.
func (s *Store) claimLink(ctx context.Context, hash []byte, now time.Time, patience time.Duration) error {
	res, err := s.write.ExecContext(ctx, s.write.Rebind(`UPDATE email_links SET claimed_at = ?
		WHERE hash = ? AND expires_at > ? AND (claimed_at IS NULL OR claimed_at < ?)`),
		now.UnixMilli(), hash, now.UnixMilli(), now.Add(-patience).UnixMilli())
	if err != nil {
		return fmt.Errorf("claim a link: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil {
		return fmt.Errorf("claim a link: %w", err)
	} else if n == 0 {
		return ErrLink
	}
	return nil
}

// releaseLink takes claimLink back.
func (s *Store) releaseLink(ctx context.Context, hash []byte) error {
	if _, err := s.write.ExecContext(ctx, s.write.Rebind("UPDATE email_links SET claimed_at = NULL WHERE hash = ?"), hash); err != nil {
		return fmt.Errorf("release a link: %w", err)
	}
	return nil
}

// useLink deletes a link within a transaction, or returns [ErrLink] when
// another one has.
func useLink(ctx context.Context, tx *sqlx.Tx, hash []byte) error {
	res, err := tx.ExecContext(ctx, tx.Rebind("DELETE FROM email_links WHERE hash = ?"), hash)
	if err != nil {
		return fmt.Errorf("use a link: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil {
		return fmt.Errorf("use a link: %w", err)
	} else if n == 0 {
		return ErrLink
	}
	return nil
}

// dropLinks deletes a user's links: those for one purpose, or all if that is
// empty.
func dropLinks(ctx context.Context, on execer, userID string, purpose mailKind) error {
	_, err := on.ExecContext(ctx, on.Rebind("DELETE FROM email_links WHERE user_id = ? AND (CAST(? AS TEXT) = '' OR purpose = ?)"),
		userID, purpose, purpose)
	if err != nil {
		return fmt.Errorf("delete a user's links: %w", err)
	}
	return nil
}

// resetPassword uses a link: the user gets another password, the address
// counts as verified, and all sessions end, in one transaction. It returns
// [ErrLink] when the link was used meanwhile, or the user disabled.
func (s *Store) resetPassword(ctx context.Context, l *linkRow, hash string, notice *outboxRow, now time.Time) error {
	ms := now.UnixMilli()
	err := s.changed(ctx, `UPDATE users SET password_hash = ?, updated_at = ?, email_verified_at = coalesce(email_verified_at, ?)
		WHERE id = ? AND email = ? AND disabled_at IS NULL`, []any{hash, ms, ms, l.ID, l.LinkEmail},
		s.recorded(ctx, now, act{what: actPasswordReset, whom: userName(l.ID)}),
		func(tx *sqlx.Tx) error { return useLink(ctx, tx, l.Hash) },
		func(tx *sqlx.Tx) error { return dropLinks(ctx, tx, l.ID, mailReset) },
		func(tx *sqlx.Tx) error { return s.endEverything(ctx, tx, l.ID, "password reset", now) },
		notify(ctx, notice))
	if errors.Is(err, ErrNoUser) {
		return ErrLink
	}
	return err
}

// verifyEmail uses a link: the address counts as verified. It returns
// [ErrLink] when the link was used meanwhile, or the address changed.
func (s *Store) verifyEmail(ctx context.Context, l *linkRow, now time.Time) error {
	err := s.changed(ctx, "UPDATE users SET email_verified_at = ?, updated_at = ? WHERE id = ? AND email = ? AND disabled_at IS NULL",
		[]any{now.UnixMilli(), now.UnixMilli(), l.ID, l.LinkEmail},
		s.recorded(ctx, now, act{what: actEmailVerified, whom: userName(l.ID)}),
		func(tx *sqlx.Tx) error { return useLink(ctx, tx, l.Hash) },
		func(tx *sqlx.Tx) error { return dropLinks(ctx, tx, l.ID, mailVerify) })
	if errors.Is(err, ErrNoUser) {
		return ErrLink
	}
	return err
}

// changeEmail uses a link: the user gets the address to which it was sent. It
// returns [ErrLink] when the link was used meanwhile, or [ErrEmailTaken].
func (s *Store) changeEmail(ctx context.Context, l *linkRow, notice *outboxRow, now time.Time) error {
	ms := now.UnixMilli()
	err := s.changed(ctx, `UPDATE users SET email = ?, email_key = ?, email_verified_at = ?, updated_at = ?
		WHERE id = ? AND disabled_at IS NULL`, []any{l.LinkEmail, foldEmail(l.LinkEmail), ms, ms, l.ID},
		s.recorded(ctx, now, act{what: actEmailChanged, whom: userName(l.ID)}),
		func(tx *sqlx.Tx) error { return useLink(ctx, tx, l.Hash) },
		func(tx *sqlx.Tx) error { return dropLinks(ctx, tx, l.ID, "") }, // they went to the old address
		notify(ctx, notice))
	switch {
	case errors.Is(err, ErrNoUser):
		return ErrLink
	case isUnique(err):
		return ErrEmailTaken
	}
	return err
}

// notify puts a notice into the outbox within a transaction, if there is one.
func notify(ctx context.Context, notice *outboxRow) func(*sqlx.Tx) error {
	return func(tx *sqlx.Tx) error {
		if notice == nil {
			return nil
		}
		return enqueue(ctx, tx, notice)
	}
}
