package keys

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// JWKS is the key set as it is served (RFC 7517 §5), rendered once for each
// ring. Every replica renders the same bytes for the same ring. Body is
// shared: nobody may write to it.
type JWKS struct {
	Body         []byte
	ETag         string        // strong, with its quotes; depends on Body alone
	ContentType  string        // application/jwk-set+json
	CacheControl string        // public, max-age=… in seconds
	MaxAge       time.Duration // the same max-age
}

// renderJWKS writes the published keys of the ring, oldest first. A key has
// exactly kty, its public members, kid, use and alg: all that stock verifiers
// need, and nothing that one of them refuses.
func renderJWKS(ring Ring, maxAge time.Duration) (*JWKS, error) {
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}} // an empty list, not null
	for _, k := range ring.Published() {
		set.Keys = append(set.Keys, publicJWK(&k))
	}
	body, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("keys: render the JWKS: %w", err)
	}
	sum := sha256.Sum256(body)
	return &JWKS{
		Body:         body,
		ETag:         `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`,
		ContentType:  "application/jwk-set+json",
		CacheControl: fmt.Sprintf("public, max-age=%d", maxAge/time.Second),
		MaxAge:       maxAge,
	}, nil
}

func publicJWK(k *Key) jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.Public, KeyID: k.ID, Algorithm: string(k.Alg), Use: "sig"}
}
