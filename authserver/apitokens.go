package authserver

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/web"
)

// Personal API tokens are for a user's own programs. One is shown to nobody but
// this server, which gives short-lived access tokens for it (RFC 8693):
//
//	POST /authn/me/tokens ─▶ udp_…, shown once ─▶ POST /oauth2/token ─▶ access token,
//	recent login, less scope                       each few minutes      verified offline
//
// It is less than its user in every way. Its scope is a part of what the user
// had when it was made, and what it gives is never more than the user has now.
// It expires. Its access tokens say nothing about a login (auth_time, acr and
// amr), for there was none: no route that wants one lets them through, nor does
// anything of /authn/me or /admin. They name no roles: those would say more
// than the scope does. Their sid is the token's id.
//
// A token is
//
//	udp_ base62( 32 random bytes ) base62( CRC-32 of all before )
//
// so that secret scanners know one by its look, without asking. The database
// keeps its SHA-256. It ends when it is deleted or revoked (RFC 7009, by
// whoever has it: a finder may), when it expires, and with all sessions of its
// user when a reset, an operator or the end of the account ends those. A
// password that its user changes leaves it. Access tokens of one that ends are
// in the revocations feed.

var (
	// ErrAPIToken says that an API token gives nothing: it is made up, ended
	// or expired, or its user is disabled.
	ErrAPIToken = fmt.Errorf("%w: not an API token, or not any more", ErrInvalidGrant)

	// ErrNoAPIToken says that the user has no such API token.
	ErrNoAPIToken = errors.New("authserver: no such API token")

	// ErrTooManyAPITokens says that the user has as many as can be.
	ErrTooManyAPITokens = errors.New("authserver: too many API tokens")
)

const (
	apiTokenPrefix   = "udp_"
	apiTokenDigits   = 43 // of 32 bytes in base 62
	apiTokenChecksum = 6  // of 4 bytes

	maxAPITokens    = 50  // of a user, that haven't expired
	maxAPITokenDays = 365 // of life
)

// newAPIToken makes a token's text.
func newAPIToken() string {
	var secret [secretSize]byte
	_, _ = rand.Read(secret[:]) // never fails
	text := apiTokenPrefix + base62(new(big.Int).SetBytes(secret[:]), apiTokenDigits)
	return text + apiTokenSum(text)
}

// base62 writes a number that fits with so many digits.
func base62(n *big.Int, digits int) string {
	text := n.Text(62)
	return strings.Repeat("0", digits-len(text)) + text
}

func apiTokenSum(text string) string {
	return base62(big.NewInt(int64(crc32.ChecksumIEEE([]byte(text)))), apiTokenChecksum)
}

// hashAPIToken is what the database keeps of a token, or [ErrAPIToken] for text
// that can't be one.
func hashAPIToken(text string) ([]byte, error) {
	if len(text) != len(apiTokenPrefix)+apiTokenDigits+apiTokenChecksum || !strings.HasPrefix(text, apiTokenPrefix) ||
		apiTokenSum(text[:len(text)-apiTokenChecksum]) != text[len(text)-apiTokenChecksum:] {
		return nil, ErrAPIToken
	}
	sum := sha256.Sum256([]byte(text))
	return sum[:], nil
}

// APIToken is a user's token as the user is shown it.
type APIToken struct {
	ID         string      `json:"id" format:"uuid" doc:"The sid of its access tokens"`
	Name       string      `json:"name"`
	Scope      token.Scope `json:"scope" doc:"What its access tokens may be for at most, separated by spaces"`
	CreatedAt  time.Time   `json:"created_at"`
	ExpiresAt  time.Time   `json:"expires_at"`
	LastUsedAt *time.Time  `json:"last_used_at" nullable:"true" doc:"The hour in which it was last used; null for never"`
}

func (r *apiTokenRow) token() APIToken {
	t := APIToken{
		ID: r.ID.String(), Name: r.Name, Scope: token.ParseScope(r.Scopes),
		CreatedAt: time.UnixMilli(r.CreatedAt).UTC(), ExpiresAt: time.UnixMilli(r.ExpiresAt).UTC(),
	}
	if r.LastUsedAt != nil {
		at := time.UnixMilli(*r.LastUsedAt).UTC()
		t.LastUsedAt = &at
	}
	return t
}

type apiTokensOutput struct {
	CacheControl string     `header:"Cache-Control"`
	Body         []APIToken `nullable:"false"`
}

func (s *Server) listAPITokens(ctx context.Context, _ *struct{}) (*apiTokensOutput, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	tokens, err := s.accounts.apiTokens(ctx, c.user.ID)
	return &apiTokensOutput{CacheControl: "no-store", Body: tokens}, err
}

type apiTokenInput struct {
	Body struct {
		Name  string `json:"name" maxLength:"150" doc:"What it is for" example:"nightly export"`
		Scope string `json:"scope" maxLength:"1024" doc:"What its access tokens may be for, separated by spaces: no more than the user may" example:"inmuebles:read"`
		Days  int    `json:"days" minimum:"1" maximum:"365" doc:"After how many days it expires" example:"90"`
	}
}

type newAPITokenOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         struct {
		APIToken
		Token string `json:"token" doc:"The token. It is not shown again" example:"udp_…"`
	}
}

func (s *Server) createAPIToken(ctx context.Context, in *apiTokenInput) (*newAPITokenOutput, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	out := &newAPITokenOutput{CacheControl: "no-store"}
	out.Body.APIToken, out.Body.Token, err = s.accounts.createAPIToken(ctx, c, in.Body.Name, token.ParseScope(in.Body.Scope), in.Body.Days)
	return out, err
}

type apiTokenIDInput struct {
	ID uuid.UUID `path:"id" format:"uuid"`
}

func (s *Server) deleteAPIToken(ctx context.Context, in *apiTokenIDInput) (*struct{}, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	return nil, s.accounts.store.endAPIToken(ctx, c.user.ID, in.ID, "ended by its user", s.issuer.now())
}

// apiTokens are a user's tokens that haven't expired, the newest first.
func (a *Accounts) apiTokens(ctx context.Context, userID string) ([]APIToken, error) {
	rows, err := a.store.listAPITokens(ctx, userID, maxAPITokens, a.now())
	if err != nil {
		return nil, err
	}
	tokens := make([]APIToken, len(rows))
	for i := range rows {
		tokens[i] = rows[i].token()
	}
	return tokens, nil
}

// createAPIToken makes a token for the caller, and returns it with its text,
// which can't be had again. It returns [ErrTooManyAPITokens], or joins a
// [*FieldError] for each value that won't do.
func (a *Accounts) createAPIToken(ctx context.Context, c *caller, name string, scope token.Scope, days int) (t APIToken, text string, err error) {
	var errs []error
	if name = strings.TrimSpace(name); name == "" {
		errs = append(errs, &FieldError{"name", "must say something"})
	} else if reason := badText(name); reason != "" {
		errs = append(errs, &FieldError{"name", reason})
	}
	has := token.ScopesOf(parseRoles(c.user.Roles))
	slices.Sort(scope)
	scope = slices.Compact(scope)
	if len(scope) == 0 || len(scope.Intersect(has)) < len(scope) {
		errs = append(errs, &FieldError{"scope", i18n.Textf("must be some of what you may yourself: %s", strings.Join(has, ", "))})
	}
	if days < 1 || days > maxAPITokenDays {
		errs = append(errs, &FieldError{"days", i18n.Textf("must be between 1 and %d", maxAPITokenDays)})
	}
	if err := errors.Join(errs...); err != nil {
		return t, "", err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return t, "", fmt.Errorf("make the id of an API token: %w", err)
	}
	text = newAPIToken()
	hash, err := hashAPIToken(text)
	if err != nil {
		return t, "", err
	}
	now := a.now()
	row := &apiTokenRow{
		ID: id, UserID: c.user.ID, Name: name, Scopes: joinSet(scope),
		CreatedAt: now.UnixMilli(), ExpiresAt: now.AddDate(0, 0, days).UnixMilli(),
	}
	err = a.store.insertAPIToken(ctx, row, hash, c.session, maxAPITokens, a.mail(mailAPIToken, c.user, "", ""), now)
	a.outbox.call()
	return row.token(), text, err
}

// useAPIToken is what a token gives at this moment, or [ErrAPIToken]: its scope
// less what its user may not do any more.
func (a *Accounts) useAPIToken(ctx context.Context, text string) (*apiTokenRow, token.Scope, error) {
	hash, err := hashAPIToken(text)
	if err != nil {
		return nil, nil, err
	}
	row, err := a.store.apiTokenByHash(ctx, hash, a.now())
	if err != nil {
		return nil, nil, err
	}
	return row, token.ParseScope(row.Scopes).Intersect(token.ScopesOf(parseRoles(row.Roles))), nil
}

// The URIs of RFC 8693.
const (
	GrantTokenExchange = "urn:ietf:params:oauth:grant-type:token-exchange" //nolint:gosec // a name

	typeAPIToken    = "urn:urbandata:token-type:api-token"            //nolint:gosec // a name
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token" //nolint:gosec // a name
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"
)

// exchangeParams are the parameters of the grant, but for scope and audience.
var exchangeParams = []param{
	{"subject_token", "With grant_type=" + GrantTokenExchange + ": a personal API token", false},
	{"subject_token_type", typeAPIToken, false},
	{"requested_token_type", typeAccessToken + " or " + typeJWT + ", if anything", false},
	{"actor_token", "Not taken: nobody acts for anybody here", false},
	{"resource", "Not taken: name an audience", false},
}

// exchange gives an access token for an API token (RFC 8693 §2). An API token
// that is no good is invalid_request, as §2.2.2 wants it.
func (s *Server) exchange(ctx context.Context, r *oauthRequest) (*grant, error) {
	want := r.form["requested_token_type"]
	switch {
	case r.form["subject_token"] == "":
		return nil, badRequest("invalid_request", "subject_token is required.")
	case r.form["subject_token_type"] != typeAPIToken:
		return nil, badRequest("invalid_request", "subject_token_type must be "+typeAPIToken+".")
	case want != "" && want != typeAccessToken && want != typeJWT:
		return nil, badRequest("invalid_request", "requested_token_type must be "+typeAccessToken+".")
	case r.form["actor_token"] != "":
		return nil, badRequest("invalid_request", "actor_token is not taken.")
	case r.form["resource"] != "":
		return nil, badRequest("invalid_target", "resource is not taken: name an audience.")
	}
	row, scope, err := s.accounts.useAPIToken(ctx, r.form["subject_token"])
	if errors.Is(err, ErrAPIToken) {
		err = s.accounts.limit.badToken(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	if asked := token.ParseScope(r.form["scope"]); len(asked) > 0 {
		slices.Sort(asked)
		if asked = slices.Compact(asked); len(asked.Intersect(scope)) < len(asked) {
			return nil, badRequest("invalid_scope", "The API token doesn't give all of this scope, or its user may not have it any more.")
		}
		scope = asked
	}
	if len(scope) == 0 {
		return nil, badRequest("invalid_scope", "The API token's user may do nothing any more of what it is for.")
	}
	audience := r.form["audience"]
	if audience == "" {
		audience = InmueblesAudience
	}
	if !validAudience(audience) || audience == AdminAudience {
		return nil, badRequest("invalid_target", "An API token gives no access tokens for this audience.")
	}
	if err := s.issuer.audiences.forUser(ctx, audience); errors.Is(err, ErrAudienceClosed) {
		return nil, badRequest("invalid_target", "Tokens for this audience are for registered clients only.")
	} else if err != nil {
		return nil, err
	}
	if err := s.accounts.store.useAPIToken(ctx, row, s.issuer.now()); err != nil {
		web.NoteCause(ctx, err) // when it was used is nice to know, and no reason to refuse
	}
	return &grant{
		SessionID: row.ID, UserID: row.UserID, ClientID: r.client.ID, Audience: audience, Scope: scope,
		APIToken: true, Until: time.UnixMilli(row.ExpiresAt),
	}, nil
}
