package authserver

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/token"
)

// Clients are programs that get tokens in their own name (RFC 6749 §4.4), or
// ask what a token is worth (RFC 7662). This file says what can be done with
// them, whoever asks; oauth.go is their endpoints.
//
// A client proves who it is by a secret of 256 random bits, of which the
// database keeps a SHA-256 (there is nothing to guess, so nothing has to be
// slow), or by a JWT that it signs with its own key (RFC 7523), of which we
// hold the public half only.

var (
	// ErrClient says that a client is unknown, disabled, or hasn't proved who
	// it is. It doesn't say which.
	ErrClient = errors.New("authserver: the client could not be authenticated")

	// ErrNoClient says that there is no client by that id.
	ErrNoClient = errors.New("authserver: no such client")

	// ErrNoAudience says that there is no registered audience by that name.
	ErrNoAudience = errors.New("authserver: no such audience")

	// ErrAudienceTaken says that an audience is registered already.
	ErrAudienceTaken = errors.New("authserver: the audience is registered already")
)

// ClientAuth is how a client proves who it is.
type ClientAuth string

// The ways.
const (
	ClientSecret  ClientAuth = "client_secret"   // in the Authorization header or in the form (RFC 6749 §2.3.1)
	PrivateKeyJWT ClientAuth = "private_key_jwt" // RFC 7523 §2.2
)

// The grant types of a client.
const (
	GrantClientCredentials = "client_credentials"
	GrantRefreshToken      = "refresh_token"
)

// Client is a registered program.
type Client struct {
	ID        string      `json:"client_id"`
	Name      string      `json:"name"`
	Auth      ClientAuth  `json:"auth"`
	Grants    []string    `json:"grants"`
	Scope     token.Scope `json:"scope"` // what it may ask for
	Audiences []string    `json:"audiences"`
	CreatedAt time.Time   `json:"created_at"`
	Disabled  bool        `json:"disabled"`

	secret, oldSecret []byte // hashes; the old one is good until oldUntil
	oldUntil          time.Time
	keys              *jose.JSONWebKeySet
}

// application is the client that users log in with at /authn/token. It is a
// public one: it has no secret, and can only refresh, and exchange what users
// made for their own programs.
var application = &Client{ID: clientID, Name: "urbandata", Grants: []string{GrantRefreshToken, GrantTokenExchange}}

// NewClient is what a client is made from.
type NewClient struct {
	ID        string // made if empty
	Name      string
	Grants    []string // none means client_credentials
	Scope     token.Scope
	Audiences []string // none means inmuebles
	JWKS      []byte   // its public keys, for private_key_jwt; empty for a secret
}

// Clients is what can be done with clients and audiences. It is safe for
// concurrent use.
type Clients struct {
	store *Store
	now   func() time.Time
}

// NewClients works on a store. now is the clock, nil for the real one.
func NewClients(store *Store, now func() time.Time) *Clients {
	if now == nil {
		now = time.Now
	}
	return &Clients{store, now}
}

// secretPrefix lets secret scanners find a leaked one.
const secretPrefix = "udc_"

func newSecret() (text string, hash []byte) {
	var secret [secretSize]byte
	_, _ = rand.Read(secret[:]) // never fails
	text = secretPrefix + base64.RawURLEncoding.EncodeToString(secret[:])
	return text, hashSecret(text)
}

func hashSecret(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

// Create stores a client and returns it with its secret, which can't be had
// again; the secret is empty for a client with keys. The error joins a
// [*FieldError] for each value that won't do.
func (c *Clients) Create(ctx context.Context, n NewClient) (client *Client, secret string, err error) {
	if len(n.Grants) == 0 {
		n.Grants = []string{GrantClientCredentials}
	}
	if len(n.Audiences) == 0 {
		n.Audiences = []string{InmueblesAudience}
	}
	errs := checkClient(n.Name, n.Grants, n.Scope, n.Audiences)
	row := &clientRow{
		ID: cmp.Or(n.ID, newClientID()), Name: n.Name, Auth: string(ClientSecret),
		Grants: joinSet(n.Grants), Scopes: joinSet(n.Scope), Audiences: joinSet(n.Audiences),
		CreatedAt: c.now().UnixMilli(), UpdatedAt: c.now().UnixMilli(),
	}
	if len(n.JWKS) > 0 {
		keys, err := clientKeys(n.JWKS)
		if err != nil {
			errs = append(errs, err)
		}
		row.Auth, row.JWKS = string(PrivateKeyJWT), &keys
	} else {
		secret, row.SecretHash = newSecret()
	}
	if err := errors.Join(errs...); err != nil {
		return nil, "", err
	}
	if err := c.store.insertClient(operating(ctx), row); err != nil {
		return nil, "", err
	}
	client, err = row.client()
	return client, secret, err
}

func newClientID() string { return strings.ReplaceAll(uuid.NewString(), "-", "") }

// checkClient says what won't do of a client: a [*FieldError] each.
func checkClient(name string, grants []string, scope token.Scope, audiences []string) (errs []error) {
	refuse := func(field string, reason i18n.Text) { errs = append(errs, &FieldError{field, reason}) }
	if name == "" || badText(name) != "" {
		refuse("name", i18n.Textf("must have 1 to %d printable characters", maxName))
	}
	if len(grants) == 0 || slices.ContainsFunc(grants, func(g string) bool { return g != GrantClientCredentials && g != GrantRefreshToken }) {
		refuse("grants", i18n.Textf("must be of %s", GrantClientCredentials+", "+GrantRefreshToken))
	}
	if len(scope) == 0 || slices.ContainsFunc(scope, func(s string) bool { return !slices.Contains(token.Scopes(), s) }) {
		refuse("scope", i18n.Textf("must be of %s", strings.Join(token.Scopes(), ", ")))
	}
	if len(audiences) == 0 || slices.ContainsFunc(audiences, func(a string) bool { return !validAudience(a) }) {
		refuse("audiences", i18n.Textf("must have 1 to %d visible ASCII characters", maxAudience))
	}
	return errs
}

// Get returns a client, or [ErrNoClient].
func (c *Clients) Get(ctx context.Context, id string) (*Client, error) {
	row, err := c.store.findClient(ctx, id)
	if err != nil {
		return nil, err
	}
	return row.client()
}

// ClientChange is what is changed of a client; nil is left as it is.
type ClientChange struct {
	Name      *string
	Grants    []string
	Scope     token.Scope
	Audiences []string
	JWKS      []byte // of a client with keys
	Disabled  *bool
}

// Change changes a client, all or nothing, and returns it as it is then. Access
// tokens that are out stay as they are until they expire. It returns
// [ErrNoClient], also for keys of a client with a secret, or joined
// [*FieldError]s.
func (c *Clients) Change(ctx context.Context, id string, change ClientChange) (*Client, error) {
	row, err := c.store.changeClient(operating(ctx), id, c.now(), func(row *clientRow) error {
		var errs []error
		if change.Name != nil {
			row.Name = *change.Name
		}
		for _, set := range []struct {
			to     *string
			values []string
		}{{&row.Grants, change.Grants}, {&row.Scopes, change.Scope}, {&row.Audiences, change.Audiences}} {
			if set.values != nil {
				*set.to = joinSet(set.values)
			}
		}
		if change.JWKS != nil {
			if row.JWKS == nil {
				return ErrNoClient
			}
			keys, err := clientKeys(change.JWKS)
			if err != nil {
				errs = append(errs, err)
			}
			row.JWKS = &keys
		}
		if ms := c.now().UnixMilli(); change.Disabled != nil && *change.Disabled != (row.DisabledAt != nil) {
			row.DisabledAt = nil
			if *change.Disabled {
				row.DisabledAt = &ms
			}
		}
		return errors.Join(append(errs, checkClient(row.Name, strings.Fields(row.Grants), strings.Fields(row.Scopes), strings.Fields(row.Audiences))...)...)
	})
	if err != nil {
		return nil, err
	}
	return row.client()
}

// Remove forgets a client for ever. It returns [ErrNoClient].
func (c *Clients) Remove(ctx context.Context, id string) error {
	return c.store.removeClient(operating(ctx), id, c.now())
}

// List returns up to limit clients in the order of their ids, after one ("" for
// the first page).
func (c *Clients) List(ctx context.Context, after string, limit int) ([]Client, error) {
	rows, err := c.store.listClients(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	clients := make([]Client, len(rows))
	for i := range rows {
		client, err := rows[i].client()
		if err != nil {
			return nil, err
		}
		clients[i] = *client
	}
	return clients, nil
}

// RotateSecret gives a client a new secret and returns it. The one before goes
// on for the overlap, so that nothing breaks while it is brought to where the
// client runs. It returns [ErrNoClient], also for a client without secrets.
func (c *Clients) RotateSecret(ctx context.Context, id string, overlap time.Duration) (secret string, err error) {
	return c.rotateFrom(ctx, id, nil, overlap)
}

// rotateFrom is RotateSecret for a client whose secret has a hash, or had it
// before a rotation of which nobody was told; nil is any.
func (c *Clients) rotateFrom(ctx context.Context, id string, found []byte, overlap time.Duration) (secret string, err error) {
	secret, hash := newSecret()
	now := c.now()
	return secret, c.store.rotateSecret(operating(ctx), id, found, hash, now, now.Add(overlap))
}

// SetKeys puts a client's public keys in place of those it had. It returns
// [ErrNoClient], also for a client with a secret, or a [*FieldError].
func (c *Clients) SetKeys(ctx context.Context, id string, jwks []byte) error {
	_, err := c.Change(ctx, id, ClientChange{JWKS: jwks})
	return err
}

// SetDisabled keeps a client from getting tokens, or lets it again. The
// revocations tell who follows them to refuse the access tokens that are out.
// It returns [ErrNoClient].
func (c *Clients) SetDisabled(ctx context.Context, id string, disabled bool) error {
	_, err := c.Change(ctx, id, ClientChange{Disabled: &disabled})
	return err
}

// Sweep forgets assertions that have expired, a bounded number at a time.
func (c *Clients) Sweep(ctx context.Context) error {
	const batch = 1000
	return untilFew(ctx, batch, func() (int64, error) { return c.store.sweepAssertions(ctx, c.now(), batch) })
}

// bySecret returns the client that has this secret, or [ErrClient].
func (c *Clients) bySecret(ctx context.Context, id, secret string) (*Client, error) {
	client, err := c.enabled(ctx, id)
	if err != nil {
		return nil, err
	}
	hash := hashSecret(secret)
	ok := client.Auth == ClientSecret &&
		(subtle.ConstantTimeCompare(hash, client.secret) == 1 ||
			client.oldSecret != nil && c.now().Before(client.oldUntil) && subtle.ConstantTimeCompare(hash, client.oldSecret) == 1)
	if !ok {
		return nil, fmt.Errorf("%w: wrong secret", ErrClient)
	}
	return client, nil
}

// enabled finds a client that isn't disabled, or returns [ErrClient].
func (c *Clients) enabled(ctx context.Context, id string) (*Client, error) {
	row, err := c.store.findClient(ctx, id)
	if errors.Is(err, ErrNoClient) {
		return nil, fmt.Errorf("%w: unknown", ErrClient)
	}
	if err != nil {
		return nil, err
	}
	if row.DisabledAt != nil {
		return nil, fmt.Errorf("%w: disabled", ErrClient)
	}
	return row.client()
}

// maxClientKeys bounds a client's key set.
const maxClientKeys = 10

// clientKeys checks the public keys of a client and returns them as they are
// stored. The error is a [*FieldError].
func clientKeys(text []byte) (string, error) {
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(text, &set); err != nil || len(set.Keys) == 0 || len(set.Keys) > maxClientKeys {
		return "", &FieldError{"jwks", i18n.Textf("must be a JSON Web Key Set (RFC 7517) with 1 to %d keys", maxClientKeys)}
	}
	for i := range set.Keys {
		k := &set.Keys[i]
		switch {
		case !k.IsPublic():
			return "", &FieldError{"jwks", "must hold public keys only: keep the private half where the client runs"}
		case !k.Valid() || !fitsAssertion(k):
			return "", &FieldError{"jwks", "must hold keys of RSA (2048 bits or more), EC P-256 or Ed25519"}
		}
	}
	out, err := json.Marshal(set)
	if err != nil {
		return "", fmt.Errorf("store a client's keys: %w", err)
	}
	return string(out), nil
}

// RegisteredAudience is an audience that is kept in the database.
type RegisteredAudience struct {
	Name      string                  `json:"name"`
	Alg       jose.SignatureAlgorithm `json:"alg"`
	Type      string                  `json:"typ"`
	TokenLife time.Duration           `json:"-"` // 0 for the server's; a longer one is cut to that
	ForUsers  bool                    `json:"for_users"`
	CreatedAt time.Time               `json:"created_at"`
}

const maxAudience = 200

// validAudience reports whether a name is 1 to 200 visible ASCII characters.
func validAudience(name string) bool {
	return name != "" && len(name) <= maxAudience && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' })
}

// AddAudience registers an audience. Servers that run learn of it within
// seconds. It returns it as it is stored, [ErrAudienceTaken], or joined
// [*FieldError]s.
func (c *Clients) AddAudience(ctx context.Context, a RegisteredAudience) (*RegisteredAudience, error) {
	var errs []error
	if !validAudience(a.Name) {
		errs = append(errs, &FieldError{"name", i18n.Textf("must have 1 to %d visible ASCII characters", maxAudience)})
	}
	if a.Type != token.TypeAccess && a.Type != token.TypeJWT {
		errs = append(errs, &FieldError{"typ", i18n.Textf("must be %s or %s", token.TypeAccess, token.TypeJWT)})
	}
	if a.TokenLife < 0 || a.TokenLife > 0 && a.TokenLife < time.Second {
		errs = append(errs, &FieldError{"token_life", "must be a second or more"})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	a.CreatedAt = c.now()
	return &a, c.store.insertAudience(operating(ctx), &a)
}

// Audiences lists the registered audiences by name.
func (c *Clients) Audiences(ctx context.Context) ([]RegisteredAudience, error) {
	return c.store.listAudiences(ctx)
}

// RemoveAudience forgets an audience: from then on it gets what an unknown one
// does. It returns [ErrNoAudience].
func (c *Clients) RemoveAudience(ctx context.Context, name string) error {
	return c.store.deleteAudience(operating(ctx), name, c.now())
}

func joinSet(names []string) string {
	set := slices.Clone(names)
	slices.Sort(set)
	return strings.Join(slices.Compact(set), " ")
}
