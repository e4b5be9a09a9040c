package authserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/web"
)

// A client assertion is a JWT by which a client proves that it holds a private
// key (RFC 7523 §2.2, OpenID Connect Core §9: private_key_jwt).

// assertionType is the only client_assertion_type that there is.
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// assertionAlgs are what an assertion may be signed with. Never HMAC: its key
// would be a shared secret that we had to keep in clear.
var assertionAlgs = []jose.SignatureAlgorithm{jose.EdDSA, ed25519Alg, jose.ES256, jose.PS256, jose.RS256}

// ed25519Alg is EdDSA by the name that says the curve too (RFC 9864 §2.2). It
// is what openid-client writes; go-jose knows the older name only.
const ed25519Alg jose.SignatureAlgorithm = "Ed25519"

const (
	maxAssertion     = 8 << 10          // bytes
	maxAssertionLife = time.Hour        // how far exp may lie ahead, and Authlib's does: for so long it is remembered
	assertionLeeway  = 30 * time.Second // between the client's clock and ours
	maxJTI           = 256              // bytes
)

// fitsAssertion reports whether a client may have a key of this kind.
func fitsAssertion(k *jose.JSONWebKey) bool {
	switch key := k.Key.(type) {
	case ed25519.PublicKey:
		return true
	case *rsa.PublicKey:
		return key.N.BitLen() >= 2048 && key.N.BitLen() <= 4096
	case *ecdsa.PublicKey:
		return key.Curve == elliptic.P256()
	}
	return false
}

// assertionClaims are the claims of RFC 7523 §3.
type assertionClaims struct {
	Issuer    string         `json:"iss"`
	Subject   string         `json:"sub"`
	Audience  token.Audience `json:"aud"`
	ID        string         `json:"jti"`
	Expiry    *float64       `json:"exp"`
	NotBefore *float64       `json:"nbf"`
	IssuedAt  *float64       `json:"iat"`
}

// byAssertion returns the client whose assertion this is, or an error that
// wraps [ErrClient]. claimed is the client_id that the request names, or "".
// audiences are our own names: the issuer and the endpoint asked.
//
//  1. size, compact form, an algorithm of assertionAlgs
//  2. iss, sub and, where it is given, client_id are one and the same client
//  3. the signature is by a key of that client's, of the header's kid if it
//     has one, and for the key's own algorithm
//  4. aud is us
//  5. exp is there, hasn't passed and isn't far ahead; nbf and iat aren't ahead
//  6. jti is there, and hasn't been used
func (c *Clients) byAssertion(ctx context.Context, text, claimed string, audiences ...string) (*Client, error) {
	refuse := func(why string) (*Client, error) { return nil, fmt.Errorf("%w: assertion: %s", ErrClient, why) }
	if len(text) > maxAssertion {
		return refuse("too long")
	}
	jws, err := jose.ParseSignedCompact(text, assertionAlgs)
	if err != nil {
		return refuse("malformed")
	}
	var claims assertionClaims
	if err := web.Unmarshal(jws.UnsafePayloadWithoutVerification(), &claims); err != nil {
		return refuse("claims")
	}
	if claims.Subject == "" || claims.Issuer != claims.Subject || claimed != "" && claimed != claims.Subject || !validAudience(claims.Subject) {
		return refuse("iss, sub and client_id are not one client")
	}
	client, err := c.enabled(ctx, claims.Subject)
	if err != nil {
		return nil, err
	}
	if client.keys == nil || !signedBy(jws, text, client.keys) {
		return refuse("signature")
	}
	if !slices.ContainsFunc(audiences, claims.Audience.Has) {
		return refuse("aud is somebody else")
	}
	now := c.now()
	switch {
	case claims.Expiry == nil:
		return refuse("no exp")
	case !now.Before(numericDate(*claims.Expiry).Add(assertionLeeway)):
		return refuse("expired")
	case numericDate(*claims.Expiry).After(now.Add(maxAssertionLife + assertionLeeway)):
		return refuse("exp is too far ahead")
	case claims.NotBefore != nil && numericDate(*claims.NotBefore).After(now.Add(assertionLeeway)),
		claims.IssuedAt != nil && numericDate(*claims.IssuedAt).After(now.Add(assertionLeeway)):
		return refuse("not valid yet")
	case claims.ID == "", len(claims.ID) > maxJTI:
		return refuse("no jti, or too long a one")
	}
	// A zero byte can't stand in a client's id, so no two pairs run together.
	id := sha256.Sum256([]byte(client.ID + "\x00" + claims.ID))
	fresh, err := c.store.spendAssertion(ctx, id[:], numericDate(*claims.Expiry).Add(assertionLeeway))
	if err != nil {
		return nil, err
	}
	if !fresh {
		return refuse("used before")
	}
	return client, nil
}

// signedBy reports whether a key of the set made the signature of text, which
// jws is the parsed form of. A key with a kid or an alg is tried only where the
// header agrees.
func signedBy(jws *jose.JSONWebSignature, text string, set *jose.JSONWebKeySet) bool {
	header := jws.Signatures[0].Protected
	for i := range set.Keys {
		k := &set.Keys[i]
		if header.KeyID != "" && k.KeyID != "" && header.KeyID != k.KeyID ||
			k.Algorithm != "" && algName(k.Algorithm) != algName(header.Algorithm) {
			continue
		}
		if header.Algorithm == string(ed25519Alg) {
			key, ok := k.Key.(ed25519.PublicKey)
			if ok && ed25519.Verify(key, []byte(text[:strings.LastIndexByte(text, '.')]), jws.Signatures[0].Signature) {
				return true
			}
			continue
		}
		if _, err := jws.Verify(k.Key); err == nil {
			return true
		}
	}
	return false
}

// algName is the one name of an algorithm that has two.
func algName(alg string) string {
	if alg == string(jose.EdDSA) {
		return string(ed25519Alg)
	}
	return alg
}

// numericDate is a NumericDate (RFC 7519 §2) as a time; one beyond all
// reason becomes a moment that no check lets pass.
func numericDate(seconds float64) time.Time {
	const most = 1 << 40
	if seconds > most || seconds < -most {
		return time.Unix(-most, 0)
	}
	return time.Unix(int64(seconds), 0)
}
