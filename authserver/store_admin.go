package authserver

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"github.com/urbandata/urbandata/pkg/token"
)

// What administrators and operators do with anyone's account.

// UserState is whether a user can log in.
type UserState string

// The states.
const (
	UserEnabled  UserState = "enabled"
	UserDisabled UserState = "disabled"
	UserDeleted  UserState = "deleted" // disabled, and to be erased
)

// isAdministrator is the condition of the index users_administrators.
const isAdministrator = "' ' || roles || ' ' LIKE '% admin %'"

// canAdminister is the condition of a user who is one and can log in.
const canAdminister = "(" + isAdministrator + " AND disabled_at IS NULL)"

// findUsers returns the users that a filter chooses, the newest first: an id is
// a UUIDv7, so ids are in the order of their making.
func (s *Store) findUsers(ctx context.Context, f UserFilter) ([]userRow, error) {
	query, args := selectUser+" WHERE id < ?", []any{f.Before}
	if f.Before == "" {
		args[0] = uuid.Max.String()
	}
	if prefix := foldEmail(strings.ToValidUTF8(f.Email, "\ufffd")); prefix != "" {
		bytes := "" // SQLite compares so by itself
		if s.read.DriverName() == "postgres" {
			bytes = ` COLLATE "C"`
		}
		query += " AND email_key" + bytes + " >= ? AND email_key" + bytes + " < ?"
		args = append(args, prefix, prefix+"\U0010ffff")
	}
	switch f.Role {
	case "":
	case token.RoleAdmin:
		query += " AND " + isAdministrator
	default:
		query += " AND ' ' || roles || ' ' LIKE ?"
		args = append(args, "% "+string(f.Role)+" %")
	}
	switch f.State {
	case UserEnabled:
		query += " AND disabled_at IS NULL"
	case UserDisabled:
		query += " AND disabled_at IS NOT NULL AND erase_at IS NULL"
	case UserDeleted:
		query += " AND disabled_at IS NOT NULL AND erase_at IS NOT NULL"
	}
	var users []userRow
	// Asked of the writer: who has just changed a user sees it.
	err := s.write.SelectContext(ctx, &users, s.write.Rebind(query+" ORDER BY id DESC LIMIT ?"), append(args, f.Limit)...)
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	return users, nil
}

// getUser returns the user of an id, or [ErrNoUser].
func (s *Store) getUser(ctx context.Context, on sqlx.QueryerContext, id, lock string) (*userRow, error) {
	var u userRow
	err := sqlx.GetContext(ctx, on, &u, s.write.Rebind(selectUser+" WHERE id = ?"+lock), id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNoUser
	}
	if err != nil {
		return nil, fmt.Errorf("find a user: %w", err)
	}
	return &u, nil
}

// forChange locks rows that are selected, but for those who only refer to
// them.
func forChange(tx *sqlx.Tx) string {
	if tx.DriverName() == "postgres" {
		return " FOR NO KEY UPDATE"
	}
	return "" // SQLite has one writer
}

// uuidType is what ids are stored as.
func uuidType(tx *sqlx.Tx) string {
	if tx.DriverName() == "postgres" {
		return "uuid"
	}
	return "text"
}

// keepAdministrator returns [ErrLastAdministrator] when a user is the only
// administrator who can log in. Until tx ends, nobody else takes one away: all
// who may, lock every administrator and the user that they change, in one
// order, before anything else. (The user may have been one when somebody else
// looked, so to lock that row later would be out of order.)
func keepAdministrator(ctx context.Context, tx *sqlx.Tx, id string) error {
	var locked []struct {
		ID            string
		Administrator bool
	}
	err := tx.SelectContext(ctx, &locked, tx.Rebind("SELECT id, "+canAdminister+" AS administrator FROM users WHERE id IN (SELECT id FROM users WHERE "+
		canAdminister+" UNION SELECT CAST(? AS "+uuidType(tx)+")) ORDER BY id"+forChange(tx)), id)
	if err != nil {
		return fmt.Errorf("look for administrators: %w", err)
	}
	last := false
	for _, u := range locked {
		if !u.Administrator {
			continue
		}
		if u.ID != id {
			return nil
		}
		last = true
	}
	if last {
		return ErrLastAdministrator
	}
	return nil
}

// changeUser gives a user other roles, or disables or enables the account, and
// returns the user as it is then, or [ErrNoUser] or [ErrLastAdministrator].
// Who is disabled has no sessions left; who had deleted the account can't
// restore it any more, and it is erased as it would have been. Who is enabled
// isn't erased.
func (s *Store) changeUser(ctx context.Context, id string, c UserChange, now time.Time) (*userRow, error) {
	defer s.ended() // perhaps
	var u *userRow
	err := s.transaction(ctx, func(tx *sqlx.Tx) (err error) {
		disables := c.Disabled != nil && *c.Disabled
		if disables || c.Roles != nil && !slices.Contains(c.Roles, token.RoleAdmin) {
			if err := s.unlessOperator(ctx, tx, id); err != nil {
				return err
			}
		}
		if u, err = s.getUser(ctx, tx, id, forChange(tx)); err != nil {
			return err
		}
		var acts []act
		if c.Roles != nil && !slices.Equal(c.Roles, parseRoles(u.Roles)) {
			acts = append(acts, act{what: actRoles, whom: userName(id), before: rolesState{parseRoles(u.Roles)}, after: rolesState{c.Roles}})
			u.Roles = joinRoles(c.Roles, " ")
		}
		ms := now.UnixMilli()
		switch {
		case disables && (u.DisabledAt == nil || u.DisabledBy == byOwner):
			acts = append(acts, act{what: actDisabled, whom: userName(id)})
			u.DisabledAt, u.DisabledBy = &ms, byOperator
		case c.Disabled != nil && !disables && u.DisabledAt != nil:
			acts = append(acts, act{what: actEnabled, whom: userName(id)})
			u.DisabledAt, u.DisabledBy, u.EraseAt = nil, "", nil
		}
		if len(acts) == 0 {
			return nil
		}
		u.UpdatedAt = ms
		if err := oneRow(ctx, tx, "change a user", ErrNoUser,
			"UPDATE users SET roles = ?, disabled_at = ?, disabled_by = ?, erase_at = ?, updated_at = ? WHERE id = ?",
			u.Roles, u.DisabledAt, u.DisabledBy, u.EraseAt, u.UpdatedAt, id); err != nil {
			return err
		}
		for _, a := range acts {
			if err := s.record(ctx, tx, now, a); err != nil {
				return err
			}
		}
		if disables {
			return s.endEverything(ctx, tx, id, "user disabled", now)
		}
		return nil
	})
	return u, err
}

// unlessOperator is keepAdministrator but for an operator on the machine
// itself: an account that was stolen is disabled whoever's it is, and another
// administrator made.
func (s *Store) unlessOperator(ctx context.Context, tx *sqlx.Tx, id string) error {
	if strings.HasPrefix(actorOf(ctx), actorOperator) {
		return nil
	}
	return keepAdministrator(ctx, tx, id)
}

// deleteByAdministrator disables an account, to be erased later, and ends its
// sessions. It returns when it is erased, [ErrNoUser] or
// [ErrLastAdministrator]. One that is deleted already stays as it is.
func (s *Store) deleteByAdministrator(ctx context.Context, id string, eraseAt, now time.Time) (time.Time, error) {
	defer s.ended()
	err := s.transaction(ctx, func(tx *sqlx.Tx) error {
		if err := s.unlessOperator(ctx, tx, id); err != nil {
			return err
		}
		u, err := s.getUser(ctx, tx, id, forChange(tx))
		if err != nil {
			return err
		}
		if u.EraseAt != nil {
			eraseAt = time.UnixMilli(*u.EraseAt)
			if u.DisabledBy == byOperator {
				return nil
			}
		}
		if err := oneRow(ctx, tx, "delete a user", ErrNoUser,
			"UPDATE users SET disabled_at = coalesce(disabled_at, ?), disabled_by = ?, erase_at = ?, updated_at = ? WHERE id = ?",
			now.UnixMilli(), byOperator, eraseAt.UnixMilli(), now.UnixMilli(), id); err != nil {
			return err
		}
		return inTurn(tx,
			s.recorded(ctx, now, act{what: actDeleted, whom: userName(id), after: deletedState{eraseAt.UTC()}}),
			func(tx *sqlx.Tx) error { return s.endEverything(ctx, tx, id, "account deleted", now) })
	})
	return eraseAt.UTC(), err
}
