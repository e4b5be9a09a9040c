package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/token"
)

// clientID is the client_id claim of a token that a user got with a password:
// the urbandata application itself (RFC 9068 §2.2 wants one).
const clientID = "urbandata"

// errToken says that an access token isn't one of ours, or no longer.
var errToken = errors.New("authserver: the access token is not valid")

// errNoSigner says that no key signs for the algorithm that an audience gets:
// one that the policy is new to is announced first.
var errNoSigner = errors.New("authserver: no key signs for the audience yet")

// issuer makes access tokens and, for authn's own endpoints, reads them.
type issuer struct {
	url       string
	keys      *keys.Keeper
	audiences *audiences
	backdate  time.Duration
	now       func() time.Time
}

// issue makes the access token of a grant and says how long it lives.
func (i *issuer) issue(ctx context.Context, g *grant) (text string, scope token.Scope, life time.Duration, err error) {
	audience, err := i.audiences.find(ctx, g.Audience)
	if err != nil {
		return "", nil, 0, fmt.Errorf("issue a token: %w", err)
	}
	signer, err := i.keys.Signer(audience.Alg)
	if errors.Is(err, keys.ErrNoKey) {
		return "", nil, 0, fmt.Errorf("%w: %w", errNoSigner, err)
	}
	if err != nil {
		return "", nil, 0, fmt.Errorf("issue a token: %w", err)
	}
	id, err := uuid.NewRandom()
	if err != nil {
		return "", nil, 0, fmt.Errorf("issue a token: %w", err)
	}
	now := i.now()
	life = i.keys.Policy().TokenLife
	if audience.Life > 0 {
		life = min(life, audience.Life) // keys stay published for tokens of the policy's life
	}
	if !g.Until.IsZero() {
		life = min(life, g.Until.Sub(now))
	}
	claims := token.Claims{
		Issuer: i.url, Subject: g.UserID, Audience: token.Audience{g.Audience}, ClientID: g.ClientID,
		Expiry: now.Add(life).Unix(), IssuedAt: now.Add(-i.backdate).Unix(), ID: id.String(),
		Session: g.SessionID.String(), Scope: token.ScopesOf(g.Roles), Roles: g.Roles,
		UserID: g.UserID, Use: token.UseAccess,
	}
	if g.UserID != "" && !g.APIToken {
		claims.AuthTime, claims.AMR, claims.ACR = g.AuthTime.Unix(), strings.Fields(g.AMR), assurance(g.AMR)
	}
	if g.UserID == "" { // a client in its own name: RFC 9068 §2.2
		claims.Subject, claims.Session, claims.Scope, claims.Roles = g.ClientID, "", g.Scope, []token.Role{}
	} else if g.APIToken {
		claims.Scope, claims.Roles = g.Scope, []token.Role{}
	} else if g.Scope != nil {
		claims.Scope = claims.Scope.Intersect(g.Scope)
	}
	payload, err := json.Marshal(&claims)
	if err != nil {
		return "", nil, 0, fmt.Errorf("issue a token: %w", err)
	}
	text, err = signer.Sign(audience.Type, payload)
	if err != nil {
		return "", nil, 0, fmt.Errorf("issue a token: %w", err)
	}
	return text, claims.Scope, life, nil
}

// maxToken bounds an access token's length before anything parses it.
const maxToken = 8 << 10

// read checks an access token that this server issued, for any audience: the
// endpoints that use it are about the user whose token it is. The error wraps
// errToken.
//
//  1. size, compact form, an algorithm that we sign with
//  2. typ, kid, the key's own algorithm
//  3. signature
//  4. iss, exp, token_type
func (i *issuer) read(text string) (*token.Claims, error) {
	if len(text) > maxToken {
		return nil, fmt.Errorf("%w: too long", errToken)
	}
	jws, err := jose.ParseSignedCompact(text, i.keys.Policy().Algorithms)
	if err != nil {
		return nil, fmt.Errorf("%w: malformed", errToken)
	}
	header := jws.Signatures[0].Protected
	typ, _ := header.ExtraHeaders[jose.HeaderType].(string)
	if !strings.EqualFold(typ, token.TypeAccess) && !strings.EqualFold(typ, token.TypeJWT) {
		return nil, fmt.Errorf("%w: wrong typ", errToken)
	}
	key, ok := i.keys.PublicKey(header.KeyID)
	if !ok || key.Algorithm != header.Algorithm {
		return nil, fmt.Errorf("%w: no such key", errToken)
	}
	payload, err := jws.Verify(key.Key)
	if err != nil {
		return nil, fmt.Errorf("%w: wrong signature", errToken)
	}
	var c token.Claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return nil, fmt.Errorf("%w: claims", errToken)
	}
	switch {
	case c.Issuer != i.url, c.Use != token.UseAccess, c.Subject == "":
		return nil, fmt.Errorf("%w: not an access token of this issuer", errToken)
	case !i.now().Before(c.ExpiresAt()):
		return nil, fmt.Errorf("%w: expired", errToken)
	}
	return &c, nil
}
