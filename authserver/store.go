package authserver

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/audit"
)

var (
	// ErrEmailTaken says that another user has this address.
	ErrEmailTaken = errors.New("authserver: the e-mail address is taken")

	// ErrNoUser says that there is no such user.
	ErrNoUser = errors.New("authserver: no such user")
)

// Store keeps users and sessions in PostgreSQL or SQLite: one set of
// statements for both. Every method is one statement, or one transaction
// where it says so, and is safe for concurrent use by any number of replicas.
type Store struct {
	write, read *sqlx.DB
	audit       *audit.Log // in the same database, so that an act and its entry are one transaction
	logs        map[string]*audit.Log

	// The hot statements, prepared once: lib/pq makes two round trips of
	// one that isn't.
	userByEmail, userForLogin, userByID, insertSession, rotate, readSession, endSession, liveUser,
	queueEntry, counts, clientByID, spend, apiTokenHash, apiTokenID, peekRevoked, readRevoked *sqlx.Stmt

	wake chan struct{} // see ended
}

// NewStore prepares the statements on migrated databases. write and read are
// the two pools of one database, or one pool twice. The caller closes the
// pools after the store.
func NewStore(ctx context.Context, write, read *sqlx.DB) (*Store, error) {
	s := &Store{write: write, read: read, wake: make(chan struct{}, 1), audit: audit.NewLog(write, AuditLog)}
	s.logs = map[string]*audit.Log{AuditLog: s.audit, keys.AuditLog: audit.NewLog(write, keys.AuditLog)}
	for _, p := range []struct {
		stmt **sqlx.Stmt
		db   *sqlx.DB
		text string
	}{
		{&s.userByEmail, read, selectUser + " WHERE email_key = ?"},
		{&s.userForLogin, read, userForLoginSQL},
		{&s.userByID, read, selectUser + " WHERE id = ?"},
		{&s.insertSession, write, s.withEntry(insertSessionSQL)},
		{&s.rotate, write, rotateSQL},
		{&s.readSession, write, readSessionSQL},
		{&s.endSession, write, s.withEntry(endSessionSQL)},
		{&s.liveUser, read, selectUser + ` WHERE disabled_at IS NULL AND id =
			(SELECT user_id FROM sessions WHERE id = ? AND` + isLive + `)`},
		{&s.queueEntry, write, audit.QueueSQL("")},
		{&s.counts, read, "SELECT key, count, last_at, expires_at FROM throttle WHERE key IN (?, ?, ?)"},
		{&s.clientByID, read, selectClient + " WHERE id = ?"},
		{&s.apiTokenHash, read, selectAPIToken + " WHERE t.hash = ? AND" + isUsable},
		{&s.apiTokenID, read, selectAPIToken + " WHERE t.id = ? AND" + isUsable},
		{&s.spend, write, "INSERT INTO client_assertions (id, expires_at) VALUES (?, ?)"},
		{&s.peekRevoked, read, peekRevocationsSQL},
		{&s.readRevoked, read, readRevocationsSQL},
	} {
		stmt, err := p.db.PreparexContext(ctx, p.db.Rebind(p.text)) //nolint:sqlclosecheck // Close does
		if err != nil {
			return nil, fmt.Errorf("prepare the statements of authserver: %w", errors.Join(err, s.Close()))
		}
		*p.stmt = stmt
	}
	return s, nil
}

// Close releases the statements.
func (s *Store) Close() error {
	var errs []error
	for _, stmt := range []*sqlx.Stmt{
		s.userByEmail, s.userForLogin, s.userByID, s.insertSession, s.rotate, s.readSession, s.endSession, s.liveUser,
		s.queueEntry, s.counts, s.clientByID, s.spend, s.apiTokenHash, s.apiTokenID, s.peekRevoked, s.readRevoked,
	} {
		if stmt != nil {
			errs = append(errs, stmt.Close())
		}
	}
	return errors.Join(errs...)
}

// Check returns nil when the database answers.
func (s *Store) Check(ctx context.Context) error {
	var one int
	if err := s.read.GetContext(ctx, &one, "SELECT 1"); err != nil {
		return fmt.Errorf("ask the database: %w", err)
	}
	return nil
}

// userRow is a stored user.
type userRow struct {
	ID           string `db:"id"`
	Email        string `db:"email"`
	EmailKey     string `db:"email_key"`
	PasswordHash string `db:"password_hash"`
	FirstName    string `db:"first_name"`
	LastName     string `db:"last_name"`
	Company      string `db:"company"`
	Roles        string `db:"roles"`
	CreatedAt    int64  `db:"created_at"`
	UpdatedAt    int64  `db:"updated_at"`
	DisabledAt   *int64 `db:"disabled_at"`
	DisabledBy   string `db:"disabled_by"` // byOwner, byOperator, or "" (which is an operator, too)
	EraseAt      *int64 `db:"erase_at"`
	Language     string `db:"language"`

	EmailVerifiedAt *int64 `db:"email_verified_at"`
	SecondFactorAt  *int64 `db:"second_factor_at"`
}

// Who disabled a user.
const (
	byOwner    = "owner"
	byOperator = "operator"
)

const userColumns = `id, email, email_key, password_hash, first_name, last_name, company, roles,
	created_at, updated_at, disabled_at, disabled_by, erase_at, language, email_verified_at, second_factor_at`

const selectUser = "SELECT " + userColumns + " FROM users"

const insertUserSQL = `INSERT INTO users (` + userColumns + `)
	VALUES (:id, :email, :email_key, :password_hash, :first_name, :last_name, :company, :roles,
		:created_at, :updated_at, :disabled_at, :disabled_by, :erase_at, :language, :email_verified_at, :second_factor_at)`

// insertUser stores a user, with mail if there is some, or returns
// [ErrEmailTaken].
func (s *Store) insertUser(ctx context.Context, u *userRow, welcome *outboxRow) error {
	err := s.transaction(ctx, func(tx *sqlx.Tx) error {
		if _, err := tx.NamedExecContext(ctx, insertUserSQL, u); err != nil {
			return fmt.Errorf("store a user: %w", err)
		}
		a := act{what: actRegistered, whom: userName(u.ID), after: rolesState{parseRoles(u.Roles)}}
		if actorOf(ctx) != "" {
			a.what = actCreated
		}
		if err := s.record(ctx, tx, time.UnixMilli(u.CreatedAt), a); err != nil {
			return err
		}
		return notify(ctx, welcome)(tx)
	})
	if isUnique(err) {
		return ErrEmailTaken
	}
	return err
}

// insertOrTell stores a user and mail, or, if the address is taken, other mail
// only, in one transaction.
func (s *Store) insertOrTell(ctx context.Context, u *userRow, welcome, known *outboxRow) error {
	return s.transaction(ctx, func(tx *sqlx.Tx) error {
		res, err := tx.NamedExecContext(ctx, insertUserSQL+" ON CONFLICT (email_key) DO NOTHING", u)
		if err != nil {
			return fmt.Errorf("store a user: %w", err)
		}
		n, err := res.RowsAffected()
		if err != nil {
			return fmt.Errorf("store a user: %w", err)
		}
		a := act{what: actRegistered, after: rolesState{parseRoles(u.Roles)}}
		if n == 0 {
			welcome = known
			a = act{what: actRegisterRefused, who: actorAnonymous, why: "email_taken"}
		}
		var id string
		if err := tx.GetContext(ctx, &id, tx.Rebind("SELECT id FROM users WHERE email_key = ?"), u.EmailKey); err != nil {
			return fmt.Errorf("store a user: %w", err)
		}
		a.whom = userName(id)
		if err := s.record(ctx, tx, time.UnixMilli(u.CreatedAt), a); err != nil {
			return err
		}
		return notify(ctx, welcome)(tx)
	})
}

// findUser returns the user of a folded address, or [ErrNoUser].
func (s *Store) findUser(ctx context.Context, emailKey string) (*userRow, error) {
	return one(ctx, s.userByEmail, emailKey)
}

// userOfSession returns the user whose live session this is, or [ErrNoUser]
// when the session has ended or expired or the user is disabled.
func (s *Store) userOfSession(ctx context.Context, session uuid.UUID, now time.Time) (*userRow, error) {
	return one(ctx, s.liveUser, session.String(), now.UnixMilli(), now.UnixMilli())
}

func one(ctx context.Context, stmt *sqlx.Stmt, args ...any) (*userRow, error) {
	var u userRow
	err := stmt.GetContext(ctx, &u, args...)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNoUser
	}
	if err != nil {
		return nil, fmt.Errorf("find a user: %w", err)
	}
	return &u, nil
}

// listUsers returns up to limit users by address, after a folded address.
func (s *Store) listUsers(ctx context.Context, after string, limit int) ([]userRow, error) {
	var users []userRow
	err := s.read.SelectContext(ctx, &users,
		s.read.Rebind(selectUser+" WHERE email_key > ? ORDER BY email_key LIMIT ?"), after, limit)
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	return users, nil
}

// setPassword sets a user's password hash, enables the account and ends its
// sessions, all in one transaction. It returns [ErrNoUser] when nobody has the
// address.
func (s *Store) setPassword(ctx context.Context, emailKey, hash string, now time.Time) error {
	return s.changed(ctx, `UPDATE users SET password_hash = ?, updated_at = ?, disabled_at = NULL, disabled_by = '', erase_at = NULL
		WHERE email_key = ?`, []any{hash, now.UnixMilli(), emailKey}, s.aboutAddress(ctx, emailKey, now, act{what: actPasswordSet}), s.endAllOf(ctx, emailKey, "password changed", now),
		func(tx *sqlx.Tx) error { return dropResets(ctx, tx, emailKey) })
}

// dropResets deletes the reset links of the user of an address.
func dropResets(ctx context.Context, tx *sqlx.Tx, emailKey string) error {
	_, err := tx.ExecContext(ctx, tx.Rebind(`DELETE FROM email_links WHERE purpose = ?
		AND user_id = (SELECT id FROM users WHERE email_key = ?)`), mailReset, emailKey)
	if err != nil {
		return fmt.Errorf("delete a user's links: %w", err)
	}
	return nil
}

// endAllOf ends all sessions of the user of an address.
func (s *Store) endAllOf(ctx context.Context, emailKey, reason string, now time.Time) func(*sqlx.Tx) error {
	return func(tx *sqlx.Tx) error {
		id, err := idOf(ctx, tx, emailKey)
		if err != nil {
			return err
		}
		return s.endEverything(ctx, tx, id, reason, now)
	}
}

// aboutAddress records an act about the user of an address.
func (s *Store) aboutAddress(ctx context.Context, emailKey string, now time.Time, a act) func(*sqlx.Tx) error {
	return func(tx *sqlx.Tx) error {
		id, err := idOf(ctx, tx, emailKey)
		if err != nil {
			return err
		}
		a.whom = userName(id)
		return s.record(ctx, tx, now, a)
	}
}

// idOf is the id of the user of an address, who is there.
func idOf(ctx context.Context, tx *sqlx.Tx, emailKey string) (id string, err error) {
	if err := tx.GetContext(ctx, &id, tx.Rebind("SELECT id FROM users WHERE email_key = ?"), emailKey); err != nil {
		return "", fmt.Errorf("find a user: %w", err)
	}
	return id, nil
}

// execer is a pool or a transaction.
type execer interface {
	sqlx.ExtContext
	Rebind(query string) string
}

// newSession is what is stored of a session at login.
type newSession struct {
	ID            uuid.UUID
	UserID        string
	ClientID      string
	Audience      string
	MarkKey       []byte
	CurrentHash   []byte
	CreatedAt     time.Time
	IdleExpiresAt time.Time
	ExpiresAt     time.Time
	Peer          peer
	AMR           string
}

// A session starts only for a user who, at that very moment, isn't disabled
// and still has the password that was checked: else the subquery is NULL,
// which the column refuses. Ids are random: one that is there already was put
// there by the same statement, whose answer was lost.
const insertSessionSQL = `INSERT INTO sessions (id, user_id, client_id, audience, mark_key, current_hash, history,
	created_at, rotated_at, idle_expires_at, expires_at, user_agent, network, amr)
	VALUES (?, (SELECT id FROM users WHERE id = ? AND password_hash = ? AND disabled_at IS NULL), ?, ?, ?, ?, '', ?, ?, ?, ?, ?, ?, ?)
	ON CONFLICT (id) DO NOTHING`

// startSession stores a session for the user whose password was checked
// against passwordHash, or returns [ErrNoUser] when that no longer holds.
func (s *Store) startSession(ctx context.Context, n *newSession, passwordHash string) error {
	created := n.CreatedAt.UnixMilli()
	err := s.audited(ctx, n.CreatedAt, act{
		what: actLogin, whom: userName(n.UserID), after: loginState{n.ID.String(), n.ClientID, n.Audience, n.AMR},
	}, s.insertSession,
		n.ID.String(), n.UserID, passwordHash, n.ClientID, n.Audience, n.MarkKey, n.CurrentHash, created, created,
		n.IdleExpiresAt.UnixMilli(), n.ExpiresAt.UnixMilli(), n.Peer.UserAgent, n.Peer.network(), n.AMR)
	if isNull(err) {
		return ErrNoUser
	}
	if err != nil {
		return fmt.Errorf("store a session: %w", err)
	}
	return nil
}

const rotateSQL = `UPDATE sessions SET
		current_hash = ?,
		history = CASE WHEN rotated_at < ? THEN CAST(? AS TEXT) ELSE substr(CAST(? AS TEXT) || history, 1, ?) END,
		rotated_at = ?,
		idle_expires_at = ?,
		user_agent = ?,
		network = ?
	WHERE id = ? AND current_hash = ? AND ended_at IS NULL AND expires_at > ? AND idle_expires_at > ?
		AND EXISTS (SELECT 1 FROM users WHERE users.id = sessions.user_id AND users.disabled_at IS NULL)
	RETURNING user_id, client_id, audience, mark_key, expires_at, created_at, amr,
		(SELECT users.roles FROM users WHERE users.id = sessions.user_id) AS roles`

// rotateSession puts next in the place of current, in one statement. It
// returns nil where current isn't the live current token of its session;
// [Store.loadSession] then tells why. It is repeated with the same arguments
// when it isn't known whether it took place: judge then finds current
// superseded and arrives at the same next.
func (s *Store) rotateSession(ctx context.Context, now time.Time, current, next refreshToken,
	nonce [secretSize]byte, grace, idle time.Duration, from peer,
) (*session, error) {
	ms := now.UnixMilli()
	entry := superseded(current.hash(), nonce, now)
	var row session
	err := again(func() error {
		return s.rotate.GetContext(ctx, &row, next.hash(),
			now.Add(-grace).UnixMilli(), entry, entry, historyMax*historyEntry,
			ms, now.Add(idle).UnixMilli(), from.UserAgent, from.network(),
			current.session.String(), current.hash(), ms, ms)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // the usual third outcome, said in the comment
	}
	if err != nil {
		return nil, fmt.Errorf("rotate a refresh token: %w", err)
	}
	return &row, nil
}

const readSessionSQL = `SELECT s.user_id, s.client_id, s.audience, s.mark_key, s.current_hash, s.history, s.rotated_at,
		s.idle_expires_at, s.expires_at, s.ended_at, s.ended_reason, s.created_at, s.amr,
		u.disabled_at IS NOT NULL AS disabled, u.roles, u.email_key
	FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.id = ?`

// loadSession reads a session, or returns [ErrInvalidGrant] when there is
// none.
func (s *Store) loadSession(ctx context.Context, id uuid.UUID) (*session, error) {
	var row session
	err := again(func() error { return s.readSession.GetContext(ctx, &row, id.String()) })
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrInvalidGrant
	}
	if err != nil {
		return nil, fmt.Errorf("read a session: %w", err)
	}
	return &row, nil
}

const endSessionSQL = "UPDATE sessions SET ended_at = ?, ended_reason = ? WHERE id = ? AND" + isOf + "AND ended_at IS NULL"

// end ends a session of a user; one that has ended already stays as it is.
func (s *Store) end(ctx context.Context, id uuid.UUID, userID, reason string, now time.Time) error {
	defer s.ended()
	a := act{what: actSessionEnded, whom: userName(userID), why: reason, after: sessionsState{[]string{id.String()}, 1}}
	if reason == reasonReused {
		a.what, a.who = actSessionReused, actorAnonymous // the thief, or who was robbed
	}
	if err := s.audited(ctx, now, a, s.endSession, now.UnixMilli(), reason, id.String(), userID); err != nil {
		return fmt.Errorf("end a session: %w", err)
	}
	return nil
}

// withEntry is a statement that changes one row, to be run by audited. On
// PostgreSQL the act and its entry in the audit become one statement: that is
// as much one transaction as two between BEGIN and COMMIT are, in one round
// trip in place of four. SQLite knows no such statement, and has no round
// trips.
func (s *Store) withEntry(statement string) string {
	if s.write.DriverName() != "postgres" {
		return statement
	}
	return "WITH act AS (" + statement + " RETURNING 1) " + audit.QueueSQL("act")
}

// audited runs a statement that withEntry has made, and logs the act if it
// changed a row: both or neither. It may take place twice; the second time
// nothing may be left to change.
func (s *Store) audited(ctx context.Context, now time.Time, a act, stmt *sqlx.Stmt, args ...any) error {
	entry, err := a.entry(ctx, now)
	if err != nil {
		return err
	}
	return again(func() error {
		if s.write.DriverName() == "postgres" {
			_, err := stmt.ExecContext(ctx, slices.Concat(args, s.audit.QueueArgs(entry))...)
			return err //nolint:wrapcheck // the caller says what it was doing
		}
		return s.transaction(ctx, func(tx *sqlx.Tx) error {
			res, err := tx.StmtxContext(ctx, stmt).ExecContext(ctx, args...)
			if err != nil {
				return err //nolint:wrapcheck // the caller says what it was doing
			}
			if rows, err := res.RowsAffected(); err != nil || rows == 0 {
				return err //nolint:wrapcheck // it was so already, and has its entry
			}
			return s.queue(ctx, tx, entry)
		})
	})
}

// sweep deletes sessions that expired before a moment, a bounded number at a
// time, and returns how many.
func (s *Store) sweep(ctx context.Context, before time.Time, limit int) (int64, error) {
	return s.deleteSome(ctx, "sessions", "id", "expires_at < ?", before.UnixMilli(), limit)
}

// oneRow runs a statement, and returns none when it met no row. doing says in
// words what the statement does.
func (s *Store) oneRow(ctx context.Context, doing string, none error, statement string, args ...any) error {
	return oneRow(ctx, s.write, doing, none, statement, args...)
}

// oneRow may be part of a transaction.
func oneRow(ctx context.Context, on execer, doing string, none error, statement string, args ...any) error {
	res, err := on.ExecContext(ctx, on.Rebind(statement), args...)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if n == 0 {
		return none
	}
	return nil
}

// isUnique reports whether err says that a unique value is taken.
func isUnique(err error) bool {
	var lite *sqlite.Error
	return pq.As(err, pqerror.UniqueViolation) != nil ||
		errors.As(err, &lite) && (lite.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || lite.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

// isNull reports whether err says that a column may not be NULL.
func isNull(err error) bool {
	var lite *sqlite.Error
	return pq.As(err, pqerror.NotNullViolation) != nil ||
		errors.As(err, &lite) && lite.Code() == sqlite3.SQLITE_CONSTRAINT_NOTNULL
}

// isAborted reports whether err says that a transaction was undone because of
// another one, and that it may be tried again.
func isAborted(err error) bool {
	return pq.As(err, pqerror.TRSerializationFailure, pqerror.TRDeadlockDetected) != nil
}

// isTransient reports whether err may go away when the statement is repeated.
// It may have taken place all the same: a connection also breaks between COMMIT
// and its answer.
func isTransient(err error) bool {
	var network *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network) || pq.As(err, pqerror.TRSerializationFailure, pqerror.TRDeadlockDetected, pqerror.AdminShutdown,
		pqerror.CrashShutdown, pqerror.CannotConnectNow, pqerror.ConnectionFailure, pqerror.ConnectionException) != nil ||
		errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone)
}

// maxTries is how often a statement is sent that failed for a reason that may
// pass.
const maxTries = 3

// again repeats f while its failure may pass. f must be one that may take place
// twice; database/sql does the same with a connection that is found broken.
func again(f func() error) error {
	for try := 1; ; try++ {
		if err := f(); err == nil || try == maxTries || !isTransient(err) {
			return err
		}
	}
}

// isUnavailable reports whether err says that the database can't be used just
// now, as opposed to a statement that is wrong.
func isUnavailable(err error) bool {
	var lite *sqlite.Error
	var network net.Error
	return isTransient(err) || errors.As(err, &network) || pq.As(err, pqerror.TooManyConnections) != nil ||
		errors.As(err, &lite) && (lite.Code()&0xff == sqlite3.SQLITE_BUSY || lite.Code()&0xff == sqlite3.SQLITE_LOCKED ||
			lite.Code()&0xff == sqlite3.SQLITE_FULL || lite.Code()&0xff == sqlite3.SQLITE_IOERR)
}
