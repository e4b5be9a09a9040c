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

// changeProfile changes what is set, and returns the user as it is then, or
// [ErrNoUser].
func (s *Store) changeProfile(ctx context.Context, id string, first, last, company, language patch, now time.Time) (*userRow, error) {
	query, args := "UPDATE users SET updated_at = ?", []any{now.UnixMilli()}
	for _, c := range []struct {
		column string
		patch
	}{{"first_name", first}, {"last_name", last}, {"company", company}, {"language", language}} {
		if c.Set {
			query, args = query+", "+c.column+" = ?", append(args, c.Value)
		}
	}
	var u userRow
	err := s.write.GetContext(ctx, &u, s.write.Rebind(query+" WHERE id = ? AND disabled_at IS NULL RETURNING "+userColumns), append(args, id)...)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNoUser
	}
	if err != nil {
		return nil, fmt.Errorf("change a user's profile: %w", err)
	}
	return &u, nil
}

// changed runs an UPDATE of one user within a transaction, and then more, or
// returns [ErrNoUser] when it met none.
func (s *Store) changed(ctx context.Context, update string, args []any, more ...func(*sqlx.Tx) error) error {
	defer s.ended() // perhaps
	return s.transaction(ctx, func(tx *sqlx.Tx) error {
		if err := oneRow(ctx, tx, "change a user", ErrNoUser, update, args...); err != nil {
			return err
		}
		return inTurn(tx, more...)
	})
}

// inTurn calls functions until one returns an error.
func inTurn(tx *sqlx.Tx, more ...func(*sqlx.Tx) error) error {
	for _, f := range more {
		if err := f(tx); err != nil {
			return err
		}
	}
	return nil
}

// transaction runs f in a transaction; a deadlock or serialisation failure is
// tried again.
func (s *Store) transaction(ctx context.Context, f func(*sqlx.Tx) error) error {
	for try := 1; ; try++ {
		err := s.attempt(ctx, f)
		if err == nil || try == maxTries || !isAborted(err) {
			return err
		}
	}
}

func (s *Store) attempt(ctx context.Context, f func(*sqlx.Tx) error) error {
	tx, err := s.write.BeginTxx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin a transaction: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// replacePassword puts a hash in the place of the one that u has, and ends
// u's sessions but one ([uuid.Nil] for none), in one transaction. It returns
// [ErrNoUser] when the hash is no longer that one or u is disabled.
func (s *Store) replacePassword(ctx context.Context, u *userRow, hash string, keep uuid.UUID, notice *outboxRow, now time.Time) error {
	return s.changed(ctx, `UPDATE users SET password_hash = ?, updated_at = ?
		WHERE id = ? AND password_hash = ? AND disabled_at IS NULL`,
		[]any{hash, now.UnixMilli(), u.ID, u.PasswordHash},
		s.recorded(ctx, now, act{what: actPasswordChanged, whom: userName(u.ID)}),
		func(tx *sqlx.Tx) error { return s.endAllWithin(ctx, tx, u.ID, keep, "password changed", now) },
		func(tx *sqlx.Tx) error { return dropLinks(ctx, tx, u.ID, mailReset) },
		notify(ctx, notice))
}

// rehash puts another hash of the same password in the place of the one that
// u has, unless that isn't there any more. Sessions go on.
func (s *Store) rehash(ctx context.Context, u *userRow, hash string) error {
	_, err := s.write.ExecContext(ctx, s.write.Rebind("UPDATE users SET password_hash = ? WHERE id = ? AND password_hash = ?"),
		hash, u.ID, u.PasswordHash)
	if err != nil {
		return fmt.Errorf("store a password hash: %w", err)
	}
	return nil
}

// deleteUser disables the account of u on its owner's behalf, to be erased
// later, and ends its sessions, in one transaction. It returns [ErrNoUser]
// when u was disabled or given another password meanwhile, or
// [ErrLastAdministrator].
func (s *Store) deleteUser(ctx context.Context, u *userRow, eraseAt time.Time, notice *outboxRow, now time.Time) error {
	defer s.ended()
	return s.transaction(ctx, func(tx *sqlx.Tx) error {
		if err := keepAdministrator(ctx, tx, u.ID); err != nil {
			return err
		}
		err := oneRow(ctx, tx, "delete a user", ErrNoUser, `UPDATE users SET disabled_at = ?, disabled_by = ?, erase_at = ?, updated_at = ?
			WHERE id = ? AND password_hash = ? AND disabled_at IS NULL`,
			now.UnixMilli(), byOwner, eraseAt.UnixMilli(), now.UnixMilli(), u.ID, u.PasswordHash)
		if err != nil {
			return err
		}
		return inTurn(tx, s.recorded(ctx, now, act{what: actDeleted, whom: userName(u.ID), after: deletedState{eraseAt.UTC()}}),
			func(tx *sqlx.Tx) error { return s.endEverything(ctx, tx, u.ID, "account deleted", now) },
			notify(ctx, notice))
	})
}

// restoreUser takes deleteUser back, or returns [ErrNoUser] when the account
// has been erased, disabled by an operator, or given another password.
func (s *Store) restoreUser(ctx context.Context, u *userRow, now time.Time) error {
	return s.changed(ctx, `UPDATE users SET disabled_at = NULL, disabled_by = '', erase_at = NULL, updated_at = ?
		WHERE id = ? AND password_hash = ? AND disabled_by = ? AND erase_at > ?`,
		[]any{now.UnixMilli(), u.ID, u.PasswordHash, byOwner, now.UnixMilli()},
		s.recorded(ctx, now, act{what: actRestored, whom: userName(u.ID)}))
}

// expireLinks deletes links that have expired.
func (s *Store) expireLinks(ctx context.Context, now time.Time, limit int) (int64, error) {
	return s.deleteSome(ctx, "email_links", "hash", "expires_at <= ?", now.UnixMilli(), limit)
}

// eraseUsers deletes users whose time has come, and all that belongs to them,
// a bounded number at a time, and returns how many. Of the audit, where they
// came from goes too. The end of its chain is held before a user's row is:
// nothing of theirs is on its way there from the queue.
func (s *Store) eraseUsers(ctx context.Context, now time.Time, limit int) (int64, error) {
	var due bool
	if err := s.read.GetContext(ctx, &due, s.read.Rebind("SELECT EXISTS (SELECT 1 FROM users WHERE erase_at <= ?)"), now.UnixMilli()); err != nil || !due {
		return 0, wrapped("erase users", err)
	}
	var ids []string
	err := s.transaction(ctx, func(tx *sqlx.Tx) error {
		if err := s.audit.Hold(ctx, tx); err != nil {
			return err
		}
		ids = nil
		if err := tx.SelectContext(ctx, &ids, tx.Rebind(`DELETE FROM users WHERE id IN
			(SELECT id FROM users WHERE erase_at <= ? LIMIT ?) RETURNING id`), now.UnixMilli(), limit); err != nil {
			return fmt.Errorf("erase users: %w", err)
		}
		for _, id := range ids {
			if err := s.audit.Forget(ctx, tx, id); err != nil {
				return err
			}
			if err := s.record(ctx, tx, now, act{what: actErased, who: actorSystem, whom: userName(id)}); err != nil {
				return err
			}
		}
		return nil
	})
	return int64(len(ids)), err
}

func wrapped(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// forgetOrigins erases where entries of the audit from before a moment came
// from, a bounded number at a time, and returns how many.
func (s *Store) forgetOrigins(ctx context.Context, before time.Time, limit int) (int64, error) {
	return s.audit.ForgetBefore(ctx, before, limit)
}

// deleteSome deletes up to limit rows of a table. There is an index for every
// condition: TestPurgeByIndex.
func (s *Store) deleteSome(ctx context.Context, table, key, condition string, arg any, limit int) (int64, error) {
	res, err := s.write.ExecContext(ctx, s.write.Rebind(deleteSomeSQL(table, key, condition)), arg, limit)
	if err != nil {
		return 0, fmt.Errorf("delete old rows of %s: %w", table, err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return 0, fmt.Errorf("delete old rows of %s: %w", table, err)
	}
	return n, nil
}

func deleteSomeSQL(table, key, condition string) string {
	return fmt.Sprintf("DELETE FROM %[1]s WHERE %[2]s IN (SELECT %[2]s FROM %[1]s WHERE %[3]s LIMIT ?)", table, key, condition)
}

// importUsers runs f in a transaction, which is undone if f returns an error.
// What f is handed stores a user, or returns [ErrEmailTaken] and does nothing.
func (s *Store) importUsers(ctx context.Context, f func(insert func(*userRow) error) error) error {
	return s.attempt(ctx, func(tx *sqlx.Tx) error {
		stmt, err := tx.PrepareNamedContext(ctx, insertUserSQL+" ON CONFLICT (email_key) DO NOTHING")
		if err != nil {
			return fmt.Errorf("import users: %w", err)
		}
		defer func() { _ = stmt.Close() }() // it goes with the transaction
		return f(func(u *userRow) error {
			res, err := stmt.ExecContext(ctx, u)
			if err != nil {
				return fmt.Errorf("import a user: %w", err)
			}
			n, err := res.RowsAffected()
			if err != nil {
				return fmt.Errorf("import a user: %w", err)
			}
			if n == 0 {
				return ErrEmailTaken
			}
			return s.record(ctx, tx, time.UnixMilli(u.UpdatedAt), act{what: actImported, whom: userName(u.ID), after: rolesState{parseRoles(u.Roles)}})
		})
	})
}
