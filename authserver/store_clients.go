package authserver

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

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

// insertClient stores a client.
func (s *Store) insertClient(ctx context.Context, r *clientRow) error {
	_, err := s.write.NamedExecContext(ctx, "INSERT INTO clients ("+clientColumns+`)
		VALUES (:id, :name, :auth_method, :secret_hash, :old_secret_hash, :old_secret_until, :jwks, :grants, :scopes, :audiences,
			:created_at, :updated_at, :disabled_at)`, r)
	if err != nil {
		return fmt.Errorf("store a client: %w", err)
	}
	return nil
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
// a moment.
func (s *Store) rotateSecret(ctx context.Context, id string, hash []byte, now, until time.Time) error {
	return s.oneRow(ctx, "change a client", ErrNoClient, `UPDATE clients SET old_secret_hash = secret_hash, old_secret_until = ?, secret_hash = ?, updated_at = ?
		WHERE id = ? AND auth_method = 'client_secret'`, until.UnixMilli(), hash, now.UnixMilli(), id)
}

func (s *Store) setClientKeys(ctx context.Context, id, jwks string, now time.Time) error {
	return s.oneRow(ctx, "change a client", ErrNoClient, `UPDATE clients SET jwks = ?, updated_at = ?
		WHERE id = ? AND auth_method = 'private_key_jwt'`, jwks, now.UnixMilli(), id)
}

func (s *Store) disableClient(ctx context.Context, id string, disabled bool, now time.Time) error {
	var at *int64
	if ms := now.UnixMilli(); disabled {
		at = &ms
	}
	defer s.ended()
	return s.oneRow(ctx, "change a client", ErrNoClient, "UPDATE clients SET disabled_at = ?, updated_at = ? WHERE id = ?", at, now.UnixMilli(), id)
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

// insertAudience stores an audience, or returns [ErrAudienceTaken].
func (s *Store) insertAudience(ctx context.Context, a *RegisteredAudience) error {
	forUsers := 0
	if a.ForUsers {
		forUsers = 1
	}
	_, err := s.write.ExecContext(ctx, s.write.Rebind(
		"INSERT INTO audiences (name, alg, typ, token_life, for_users, created_at) VALUES (?, ?, ?, ?, ?, ?)"),
		a.Name, string(a.Alg), a.Type, a.TokenLife.Milliseconds(), forUsers, a.CreatedAt.UnixMilli())
	if isUnique(err) {
		return ErrAudienceTaken
	}
	if err != nil {
		return fmt.Errorf("store an audience: %w", err)
	}
	return nil
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
func (s *Store) deleteAudience(ctx context.Context, name string) error {
	return s.oneRow(ctx, "remove an audience", ErrNoAudience, "DELETE FROM audiences WHERE name = ?", name)
}
