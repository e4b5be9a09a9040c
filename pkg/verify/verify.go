package verify

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/urbandata/urbandata/pkg/token"
)

const defaultType = token.TypeAccess

// A Verifier verifies the access tokens of one issuer. It is safe for
// concurrent use. Make it with [New].
type Verifier struct {
	options Options // resolved
	cache   *cache
}

// New validates o and returns a Verifier that is not started: see
// [Verifier.Run]. The error is [ErrOptions], and names the field.
func New(o Options) (*Verifier, error) {
	o, err := o.resolve()
	if err != nil {
		return nil, err
	}
	return &Verifier{options: o, cache: newCache(o)}, nil
}

// Run keeps the key set fresh until ctx ends, then returns nil. It fetches at
// once, and retries until the first set is there. It starts no goroutine and
// must be running for keys to be fetched; with Options.Keys it has nothing to
// do. The error is [ErrRunning] if it is running already.
func (v *Verifier) Run(ctx context.Context) error { return v.cache.run(ctx) }

// Check is for a readiness probe: nil if a usable key set is held, else
// [ErrKeySetUnavailable] with the cause. It does no I/O.
func (v *Verifier) Check() error { return v.cache.check() }

// Wait returns nil once a first usable key set has come, or an error that is
// both [ErrKeySetUnavailable] and ctx's. [Verifier.Run] must be running or be
// about to.
func (v *Verifier) Wait(ctx context.Context) error {
	select {
	case <-v.cache.first:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrKeySetUnavailable, context.Cause(ctx))
	}
}

// Stats is the state of the key set and counts since New.
func (v *Verifier) Stats() Stats { return v.cache.snapshotStats() }

// Verify returns the claims of raw, a compact JWS, or the reason why it is
// refused: an error that is one of this package's (see [Reason]). ctx bounds
// the wait for a fetch, which happens only if raw names a key that is not
// held. The claims may be shared and must not be changed.
func (v *Verifier) Verify(ctx context.Context, raw string) (*token.Claims, error) {
	claims, k, err := v.verify(ctx, raw)
	v.observe(k, err)
	return claims, err
}

// observe calls the hook.
func (v *Verifier) observe(k *key, err error) {
	if v.options.Hooks.Verified == nil {
		return
	}
	o := Outcome{Reason: Reason(err)}
	if k != nil {
		o.KeyID, o.Algorithm = k.id, k.alg
	}
	v.options.Hooks.Verified(o)
}

// verify is the checklist. Its order: what costs least comes first, nothing
// of the payload is believed before the signature, and no fetch happens for a
// token that no key could save. The key returned may be nil.
func (v *Verifier) verify(ctx context.Context, raw string) (*token.Claims, *key, error) {
	// 1. There is a token, of a size worth reading.
	switch {
	case raw == "":
		return nil, nil, ErrMissing
	case len(raw) > v.options.MaxTokenBytes:
		return nil, nil, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, v.options.MaxTokenBytes)
	}

	// 2. It is a compact JWS: three parts, none empty, canonical base64url.
	// An unsigned token (empty third part), a JWE (five parts) and the JSON
	// serialisations end here.
	parts, err := split(raw)
	if err != nil {
		return nil, nil, err
	}

	// 3.–7. The header names a key that we hold. A header seen before, behind
	// a good signature by a key of the present set, has passed already.
	snap := v.cache.current.Load()
	var k *key
	if snap.usable(v.options.Now()) {
		k = snap.headers.get(parts.header)
	}
	seen := k != nil
	if !seen {
		if k, snap, err = v.keyFor(ctx, parts.header); err != nil {
			return nil, nil, err
		}
	}

	// 8. The signature is that key's. A bad one never causes a fetch: the key
	// is known, and anyone can make bad signatures.
	if !k.public.verify(parts.signed, parts.signature) {
		return nil, k, ErrSignature
	}
	if !seen {
		snap.headers.add(parts.header, k)
	}

	// 9.–15. What the issuer says holds here and now.
	var p payload
	if err := parseClaims(parts.payload, &p); err != nil {
		return nil, k, err
	}
	if err := v.checkClaims(&p); err != nil {
		return nil, k, err
	}
	return &p.Claims, k, nil
}

// keyFor makes the checks of a header, and finds its key.
func (v *Verifier) keyFor(ctx context.Context, encoded []byte) (*key, *snapshot, error) {
	text, err := decode(nil, encoded)
	if err != nil {
		return nil, nil, err
	}
	// 3. The header is a strict JSON object: no name twice, bounded nesting.
	h, err := parseHeader(string(text))
	if err != nil {
		return nil, nil, err
	}

	// 4. It asks for no extension: we have none (RFC 7515 §4.1.11, RFC 7797).
	if h.critical {
		return nil, nil, ErrCritical
	}

	// 5. alg is allowed (RFC 8725 §3.1). It is compared exactly: "none" in any
	// spelling, HMAC, and an absent alg are simply not in the list.
	if !slices.Contains(v.options.Algorithms, h.alg) {
		return nil, nil, ErrAlgorithm
	}

	// 6. typ says that it is an access token (RFC 9068 §4, RFC 8725 §3.11), so
	// an ID token or a logout token of the same issuer is not taken for one.
	if !slices.Contains(v.options.Types, mediaType(h.typ)) {
		return nil, nil, ErrType
	}

	// 7. kid names a key of the issuer's set, and alg is the algorithm of that
	// key. kid is compared with the set's and used for nothing else: it is no
	// path, no query, no address.
	if h.kid == "" || len(h.kid) > maxKeyID {
		return nil, nil, fmt.Errorf("%w: kid is absent or not of 1 to %d bytes", ErrMalformed, maxKeyID)
	}
	keys, snap, err := v.cache.find(ctx, h.kid)
	if err != nil {
		return nil, nil, err
	}
	for _, k := range keys {
		if k.alg == h.alg {
			return k, snap, nil
		}
	}
	return nil, nil, fmt.Errorf("%w: the key named is for another", ErrAlgorithm)
}

// checkClaims makes the checks of a payload that is known to be the issuer's.
func (v *Verifier) checkClaims(p *payload) error {
	// 9. iss is the issuer, byte for byte (RFC 9068 §4): a slash more is
	// another issuer.
	if p.Issuer != v.options.Issuer {
		return ErrIssuer
	}

	// 10. aud contains this service.
	if !p.Audience.Has(v.options.Audience) {
		return ErrAudience
	}

	// 11. exp is there and has not passed. A token is good up to, but not at,
	// its exp (RFC 7519 §4.1.4).
	now, leeway := v.options.Now(), v.options.Leeway
	if !p.hasExpiry {
		return fmt.Errorf("%w: no exp", ErrClaims)
	}
	if !now.Before(p.ExpiresAt().Add(leeway)) {
		return ErrExpired
	}

	// 12. nbf, if there, has come.
	if p.hasNotBefore && time.Unix(p.NotBefore, 0).After(now.Add(leeway)) {
		return fmt.Errorf("%w: nbf is ahead", ErrNotYetValid)
	}

	// 13. iat, if there, is not in the future.
	if p.hasIssuedAt && time.Unix(p.IssuedAt, 0).After(now.Add(leeway)) {
		return fmt.Errorf("%w: iat is ahead", ErrNotYetValid)
	}

	// 14. sub says who it is about.
	if p.Subject == "" {
		return fmt.Errorf("%w: no sub", ErrClaims)
	}

	// 15. token_type, if there, says access: the original API's refresh tokens
	// were JWTs of the same issuer.
	if p.hasUse && p.Use != token.UseAccess {
		return ErrType
	}
	return nil
}
