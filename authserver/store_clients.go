package authserver

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/jmoiron/sqlx"

	"github.com/urbandata/urbandata/pkg/token"
)

// clientRow is a stored client.
type clientRow struct {
	ID             string  `db:"id"`
	Name           string  `db:"name"`
	Auth           string  `db:"auth_method"`
	SecretHash     []byte  `db:"secret_hash"`
	OldSecretHash  []byte  `db:"old_secret_hash"`
	OldSecretUntil *int64  `db:"old_secret_until"`
	JWKS           *string `db:"jwks"`
	Grants         string  `db:"grants"`
	Scopes         string  `db:"scopes"`
	Audiences      string  `db:"audiences"`
	CreatedAt      int64   `db:"created_at"`
	UpdatedAt      int64   `db:"updated_at"`
	DisabledAt     *int64  `db:"disabled_at"`
}

const (
	clientColumns = `id, name, auth_method, secret_hash, old_secret_hash, old_secret_until, jwks, grants, scopes, audiences,
	created_at, updated_at, disabled_at`
	selectClient = "SELECT " + clientColumns + " FROM clients"
)

func (r *clientRow) client() (*Client, error) {
	c := &Client{
		ID: r.ID, Name: r.Name, Auth: ClientAuth(r.Auth), Grants: strings.Fields(r.Grants),
		Scope: token.ParseScope(r.Scopes), Audiences: strings.Fields(r.Audiences),
		CreatedAt: time.UnixMilli(r.CreatedAt).UTC(), Disabled: r.DisabledAt != nil,
		secret: r.SecretHash, oldSecret: r.OldSecretHash,
	}
	if r.OldSecretUntil != nil {
		c.oldUntil = time.UnixMilli(*r.OldSecretUntil)
	}
	if r.JWKS != nil {
		c.keys = new(jose.JSONWebKeySet)
		if err := json.Unmarshal([]byte(*r.JWKS), c.keys); err != nil {
			return nil, fmt.Errorf("read the keys of client %s: %w", r.ID, err)
		}
	}
	return c, nil
}

// clientState is what the audit says of a client.
type clientState struct {
	Name      string   `json:"name"`
	Auth      string   `json:"auth"`
	Grants    []string `json:"grants"`
	Scope     string   `json:"scope"`
	Audiences []string `json:"audiences"`
}

func (r *clientRow) state() clientState {
	return clientState{r.Name, r.Auth, strings.Fields(r.Grants), r.Scopes, strings.Fields(r.Audiences)}
}

// insertClient stores a client.
func (s *Store) insertClient(ctx context.Context, r *clientRow) error {
	return s.transaction(ctx, func(tx *sqlx.Tx) error {
		_, err := tx.NamedExecContext(ctx, "INSERT INTO clients ("+clientColumns+`)
			VALUES (:id, :name, :auth_method, :secret_hash, :old_secret_hash, :old_secret_until, :jwks, :grants, :scopes, :audiences,
				:created_at, :updated_at, :disabled_at)`, r)
		if err != nil {
			return fmt.Errorf("store a client: %w", err)
		}
		return s.record(ctx, tx, time.UnixMilli(r.CreatedAt), act{what: actClientCreated, whom: clientName(r.ID), after: r.state()})
	})
}

// changeClient has f change a client, and returns it as it is then, or
// [ErrNoClient], or what f returns.
func (s *Store) changeClient(ctx context.Context, id string, now time.Time, f func(*clientRow) error) (*clientRow, error) {
	defer s.ended() // perhaps
	var row clientRow
	err := s.transaction(ctx, func(tx *sqlx.Tx) error {
		err := tx.GetContext(ctx, &row, tx.Rebind(selectClient+" WHERE id = ?"+forChange(tx)), id)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNoClient
		}
		if err != nil {
			return fmt.Errorf("find a client: %w", err)
		}
		was := row
		if err := f(&row); err != nil {
			return err
		}
		row.UpdatedAt = now.UnixMilli()
		if _, err := tx.NamedExecContext(ctx, `UPDATE clients SET name = :name, jwks = :jwks, grants = :grants, scopes = :scopes,
			audiences = :audiences, disabled_at = :disabled_at, updated_at = :updated_at WHERE id = :id`, row); err != nil {
			return fmt.Errorf("change a client: %w", err)
		}
		for _, c := range []struct {
			happened bool
			act
		}{
			{!reflect.DeepEqual(was.state(), row.state()), act{what: actClientChanged, before: was.state(), after: row.state()}},
			{was.JWKS != nil && *was.JWKS != *row.JWKS, act{what: actClientKeys}},
			{was.DisabledAt == nil && row.DisabledAt != nil, act{what: actClientDisabled}},
			{was.DisabledAt != nil && row.DisabledAt == nil, act{what: actClientEnabled}},
		} {
			if !c.happened {
				continue
			}
			c.whom = clientName(id)
			if err := s.record(ctx, tx, now, c.act); err != nil {
				return err
			}
		}
		return nil
	})
	return &row, err
}

// removeClient deletes a client, or returns [ErrNoClient].
func (s *Store) removeClient(ctx context.Context, id string, now time.Time) error {
	defer s.ended()
	return s.transaction(ctx, func(tx *sqlx.Tx) error {
		if err := oneRow(ctx, tx, "remove a client", ErrNoClient, "DELETE FROM clients WHERE id = ?", id); err != nil {
			return err
		}
		return s.record(ctx, tx, now, act{what: actClientRemoved, whom: clientName(id)})
	})
}

// findClient returns a client, or [ErrNoClient].
func (s *Store) findClient(ctx context.Context, id string) (*clientRow, error) {
	var r clientRow
	err := s.clientByID.GetContext(ctx, &r, id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNoClient
	}
	if err != nil {
		return nil, fmt.Errorf("find a client: %w", err)
	}
	return &r, nil
}

// listClients returns up to limit clients by id, after one.
func (s *Store) listClients(ctx context.Context, after string, limit int) ([]clientRow, error) {
	var rows []clientRow
	err := s.read.SelectContext(ctx, &rows, s.read.Rebind(selectClient+" WHERE id > ? ORDER BY id LIMIT ?"), after, limit)
	if err != nil {
		return nil, fmt.Errorf("list clients: %w", err)
	}
	return rows, nil
}

// rotateSecret puts a secret in place of the present one, which goes on until
// a moment. With the hash of the secret that is to go on, found, it may be
// repeated with another hash: the one that was put in its place meanwhile is
// dropped, since nobody has been told it.
func (s *Store) rotateSecret(ctx context.Context, id string, found, hash []byte, now, until time.Time) error {
	return s.transaction(ctx, func(tx *sqlx.Tx) error {
		old, more, args := "secret_hash", "", []any{until.UnixMilli(), hash, now.UnixMilli(), id}
		if found != nil {
			more = " AND (secret_hash = ? OR old_secret_hash = ?)"
			old = "CASE WHEN secret_hash = ? THEN secret_hash ELSE old_secret_hash END"
			args = append(append([]any{found}, args...), found, found)
		}
		err := oneRow(ctx, tx, "change a client", ErrNoClient, `UPDATE clients SET old_secret_hash = `+old+`, old_secret_until = ?, secret_hash = ?, updated_at = ?
			WHERE id = ? AND auth_method = 'client_secret'`+more, args...)
		if err != nil {
			return err
		}
		return s.record(ctx, tx, now, act{what: actClientSecret, whom: clientName(id), after: secretState{until.UTC()}})
	})
}

// secretState is what the audit says of a secret that was rotated.
type secretState struct {
	OldUntil time.Time `json:"old_until"`
}

// spendAssertion notes that an assertion was used; fresh is false when it had
// been.
func (s *Store) spendAssertion(ctx context.Context, id []byte, expires time.Time) (fresh bool, err error) {
	_, err = s.spend.ExecContext(ctx, id, expires.UnixMilli())
	if isUnique(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("note an assertion: %w", err)
	}
	return true, nil
}

// sweepAssertions forgets up to limit assertions that have expired, and
// returns how many.
func (s *Store) sweepAssertions(ctx context.Context, now time.Time, limit int) (int64, error) {
	return s.deleteSome(ctx, "client_assertions", "id", "expires_at < ?", now.UnixMilli(), limit)
}

// audienceName is how an audience is named in the audit.
func audienceName(name string) string { return "audience " + name }

// insertAudience stores an audience, or returns [ErrAudienceTaken].
func (s *Store) insertAudience(ctx context.Context, a *RegisteredAudience) error {
	forUsers := 0
	if a.ForUsers {
		forUsers = 1
	}
	err := s.transaction(ctx, func(tx *sqlx.Tx) error {
		_, err := tx.ExecContext(ctx, tx.Rebind(
			"INSERT INTO audiences (name, alg, typ, token_life, for_users, created_at) VALUES (?, ?, ?, ?, ?, ?)"),
			a.Name, string(a.Alg), a.Type, a.TokenLife.Milliseconds(), forUsers, a.CreatedAt.UnixMilli())
		if err != nil {
			return fmt.Errorf("store an audience: %w", err)
		}
		return s.record(ctx, tx, a.CreatedAt, act{what: actAudienceCreated, whom: audienceName(a.Name), after: a})
	})
	if isUnique(err) {
		return ErrAudienceTaken
	}
	return err
}

// listAudiences returns all of them by name: they are few.
func (s *Store) listAudiences(ctx context.Context) ([]RegisteredAudience, error) {
	var rows []struct {
		Name      string `db:"name"`
		Alg       string `db:"alg"`
		Type      string `db:"typ"`
		TokenLife int64  `db:"token_life"`
		ForUsers  int    `db:"for_users"`
		CreatedAt int64  `db:"created_at"`
	}
	err := s.read.SelectContext(ctx, &rows, "SELECT name, alg, typ, token_life, for_users, created_at FROM audiences ORDER BY name")
	if err != nil {
		return nil, fmt.Errorf("list audiences: %w", err)
	}
	audiences := make([]RegisteredAudience, len(rows))
	for i, r := range rows {
		audiences[i] = RegisteredAudience{
			r.Name, jose.SignatureAlgorithm(r.Alg), r.Type,
			time.Duration(r.TokenLife) * time.Millisecond, r.ForUsers == 1, time.UnixMilli(r.CreatedAt).UTC(),
		}
	}
	return audiences, nil
}

// deleteAudience removes an audience, or returns [ErrNoAudience].
func (s *Store) deleteAudience(ctx context.Context, name string, now time.Time) error {
	return s.transaction(ctx, func(tx *sqlx.Tx) error {
		if err := oneRow(ctx, tx, "remove an audience", ErrNoAudience, "DELETE FROM audiences WHERE name = ?", name); err != nil {
			return err
		}
		return s.record(ctx, tx, now, act{what: actAudienceRemoved, whom: audienceName(name)})
	})
}
