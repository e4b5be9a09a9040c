package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/urbandata/urbandata/pkg/token"
)

const defaultType = token.TypeAccess

// A Verifier verifies the access tokens of one issuer, or of several (see
// [NewMulti]). It is safe for concurrent use. Make it with [New].
type Verifier struct {
	options  Options // of the first issuer, resolved
	issuers  []*trust
	byIssuer map[string]*trust // nil if there is one issuer
	tokens   *tokenCache       // nil if it is off
	running  atomic.Bool
}

// trust is one issuer: what its tokens must say, and its keys.
type trust struct {
	options Options // resolved
	cache   *cache
	ends    *follower // nil if revocations are not followed
}

// New validates o and returns a Verifier that is not started: see
// [Verifier.Run]. The error is [ErrOptions], and names the field.
func New(o Options) (*Verifier, error) { return NewMulti(o) }

// NewMulti returns one Verifier for the tokens of several issuers. A token's
// iss says whose checklist and keys it is held against, and nothing more: it
// must then pass them, by a key of that issuer alone. Issuers share no key, no
// fetch budget and no kid, so none can speak for another or hurt it. A token
// costs what it costs with one issuer.
//
// What is decided before the issuer is known (MaxTokenBytes, Realm, Now,
// TokenCacheBytes, Hooks.Verified) is that of the first. The error is
// [ErrOptions], also if two name the same Issuer.
func NewMulti(issuers ...Options) (*Verifier, error) {
	v := &Verifier{}
	for _, o := range issuers {
		o, err := o.resolve()
		if err != nil {
			return nil, err
		}
		t := &trust{options: o, cache: newCache(o)}
		if o.Revocations.URL != "" {
			t.ends = newFollower(t)
		}
		v.issuers = append(v.issuers, t)
	}
	switch len(v.issuers) {
	case 0:
		return nil, fmt.Errorf("%w: no issuer", ErrOptions)
	case 1:
	default:
		v.byIssuer = make(map[string]*trust, len(v.issuers))
		for _, t := range v.issuers {
			if v.byIssuer[t.options.Issuer] != nil {
				return nil, fmt.Errorf("%w: Issuer %s is there twice", ErrOptions, t.options.Issuer)
			}
			v.byIssuer[t.options.Issuer] = t
		}
	}
	v.options = v.issuers[0].options
	if v.tokens = newTokenCache(v.options.TokenCacheBytes); v.tokens != nil {
		for _, t := range v.issuers {
			t.cache.changed = func() { v.tokens.purge(v.options.Now()) }
		}
	}
	return v, nil
}

// Run keeps the key sets fresh, and follows what has ended, until ctx ends,
// then returns nil. It fetches at
// once, and retries until the first set is there. It must be running for keys
// to be fetched; with Options.Keys it has nothing to do. With several issuers
// it runs a goroutine for each, and returns when all have ended. The error is
// [ErrRunning] if it is running already.
func (v *Verifier) Run(ctx context.Context) error {
	if !v.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer v.running.Store(false)
	var others sync.WaitGroup
	defer others.Wait()
	for _, t := range v.issuers[1:] {
		others.Go(func() { t.cache.run(ctx) })
	}
	for _, t := range v.issuers {
		if t.ends != nil {
			others.Go(func() { t.ends.run(ctx) })
		}
	}
	v.issuers[0].cache.run(ctx)
	return nil
}

// Check is for a readiness probe: nil if tokens can be verified, else
// [ErrKeySetUnavailable] or [ErrRevocationsUnavailable] with the cause. With
// several issuers it is nil if the tokens of any can be: else one issuer's
// outage would take the service from the users of all. It does no I/O.
func (v *Verifier) Check() error {
	var all []error
	for _, t := range v.issuers {
		err := t.cache.check()
		if err == nil {
			err = t.ends.ready()
		}
		if err == nil {
			return nil
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}

// Wait returns nil once a first usable key set of every issuer has come, and
// its revocations, if they are followed, were asked for a first time; or an
// error that is ctx's and [ErrKeySetUnavailable] or [ErrRevocationsUnavailable].
// [Verifier.Run] must be running or be about to.
func (v *Verifier) Wait(ctx context.Context) error {
	for _, t := range v.issuers {
		select {
		case <-t.cache.first:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrKeySetUnavailable, context.Cause(ctx))
		}
		if t.ends == nil {
			continue
		}
		select {
		case <-t.ends.first:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrRevocationsUnavailable, context.Cause(ctx))
		}
	}
	return nil
}

// Stats is the state of the key set and of the token cache, and counts since
// New. With several issuers it adds up what can be added, and tells the worst
// of the rest.
func (v *Verifier) Stats() Stats {
	s := v.issuers[0].stats()
	for _, t := range v.issuers[1:] {
		s.add(t.stats())
	}
	s.Tokens, s.TokenBytes = v.tokens.size()
	if v.tokens != nil {
		s.TokensStored, s.TokensEvicted = v.tokens.stored.Load(), v.tokens.evicted.Load()
	}
	return s
}

// StatsOf is the state of the key set of one issuer; ok is false if the
// Verifier was not made for it.
func (v *Verifier) StatsOf(issuer string) (s Stats, ok bool) {
	for _, t := range v.issuers {
		if t.options.Issuer == issuer {
			return t.stats(), true
		}
	}
	return Stats{}, false
}

func (t *trust) stats() Stats {
	s := t.cache.snapshotStats()
	s.Revocations = t.ends.snapshotStats()
	return s
}

// Verify returns the claims of raw, a compact JWS, or the reason why it is
// refused: an error that is one of this package's (see [Reason]). ctx bounds
// the wait for a fetch, which happens only if raw names a key that is not
// held. The claims may be shared and must not be changed.
func (v *Verifier) Verify(ctx context.Context, raw string) (*token.Claims, error) {
	got, err := v.verify(ctx, raw)
	if err != nil {
		return nil, err
	}
	return &got.Claims, nil
}

// verify looks in the cache, goes through the checklist if raw is not there,
// and tells the hook.
func (v *Verifier) verify(ctx context.Context, raw string) (*verified, error) {
	now := v.options.Now()
	if got := v.recall(raw, now); got != nil {
		err := got.by.checkTimes(&got.payload, now)
		v.observe(got.by, got.key, true, err)
		if err != nil {
			return nil, err
		}
		return got, nil
	}
	got := &verified{}
	err := v.check(ctx, raw, got)
	v.observe(got.by, got.key, false, err)
	if err != nil {
		return nil, err
	}
	v.tokens.put(raw, got, v.options.Now())
	return got, nil
}

// recall returns what the cache knows of raw, if the key set that it was
// verified by is the one held and may be used; else nil.
func (v *Verifier) recall(raw string, now time.Time) *verified {
	if len(raw) > v.options.MaxTokenBytes { // not worth a hash
		return nil
	}
	got := v.tokens.get(raw)
	if got == nil {
		return nil
	}
	if snap := got.by.cache.current.Load(); !snap.usable(now) || snap.set != got.set {
		return nil
	}
	return got
}

// observe calls the hook.
func (v *Verifier) observe(by *trust, k *key, cached bool, err error) {
	if v.options.Hooks.Verified == nil {
		return
	}
	o := Outcome{Reason: Reason(err), Cached: cached}
	if by != nil {
		o.Issuer = by.options.Issuer
	}
	if k != nil {
		o.KeyID, o.Algorithm = k.id, k.alg
	}
	v.options.Hooks.Verified(o)
}

// check is the checklist. Its order: what costs least comes first, nothing of
// the payload is believed before the signature, and no fetch happens for a
// token that no key could save. It fills got as far as it comes.
func (v *Verifier) check(ctx context.Context, raw string, got *verified) error {
	// 1. There is a token, of a size worth reading.
	switch {
	case raw == "":
		return ErrMissing
	case len(raw) > v.options.MaxTokenBytes:
		return fmt.Errorf("%w: longer than %d bytes", ErrMalformed, v.options.MaxTokenBytes)
	}

	// 2. It is a compact JWS: three parts, none empty, canonical base64url.
	// An unsigned token (empty third part), a JWE (five parts) and the JSON
	// serialisations end here.
	parts, err := split(raw)
	if err != nil {
		return err
	}
	got.text = parts.payload

	// With several issuers, iss picks the one whose token this claims to be.
	// That is all that is believed of the payload until its key has signed it.
	by, parsed := v.issuers[0], false
	if v.byIssuer != nil {
		if err := parseClaims(parts.payload, &got.payload); err != nil {
			return err
		}
		if by, parsed = v.byIssuer[got.Issuer], true; by == nil {
			return ErrIssuer
		}
	}
	got.by = by

	// 3.–7. The header names a key that we hold. A header seen before, behind
	// a good signature by a key of the present set, has passed already.
	snap := by.cache.current.Load()
	var k *key
	if snap.usable(by.options.Now()) {
		k = snap.headers.get(parts.header)
	}
	seen := k != nil
	if !seen {
		if k, snap, err = by.keyFor(ctx, parts.header, by.options.Types, by.options.Algorithms); err != nil {
			return err
		}
	}
	got.key, got.set = k, snap.set

	// 8. The signature is that key's. A bad one never causes a fetch: the key
	// is known, and anyone can make bad signatures.
	if !k.public.verify(parts.signed, parts.signature) {
		return ErrSignature
	}
	if !seen {
		snap.headers.add(parts.header, k)
	}

	// 9.–15. What the issuer says holds here and now.
	if !parsed {
		if err := parseClaims(parts.payload, &got.payload); err != nil {
			return err
		}
	}
	return by.checkClaims(&got.payload)
}

// keyFor makes the checks of a header, and finds its key.
func (t *trust) keyFor(ctx context.Context, encoded []byte, types, algorithms []string) (*key, *snapshot, error) {
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
	if !slices.Contains(algorithms, h.alg) {
		return nil, nil, ErrAlgorithm
	}

	// 6. typ says that it is an access token (RFC 9068 §4, RFC 8725 §3.11), so
	// an ID token or a logout token of the same issuer is not taken for one.
	if !slices.Contains(types, mediaType(h.typ)) {
		return nil, nil, ErrType
	}

	// 7. kid names a key of the issuer's set, and alg is the algorithm of that
	// key. kid is compared with the set's and used for nothing else: it is no
	// path, no query, no address.
	if h.kid == "" || len(h.kid) > maxKeyID {
		return nil, nil, fmt.Errorf("%w: kid is absent or not of 1 to %d bytes", ErrMalformed, maxKeyID)
	}
	keys, snap, err := t.cache.find(ctx, h.kid)
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
func (t *trust) checkClaims(p *payload) error {
	// 9. iss is the issuer, byte for byte (RFC 9068 §4): a slash more is
	// another issuer.
	if p.Issuer != t.options.Issuer {
		return ErrIssuer
	}

	// 10. aud contains this service.
	if !p.Audience.Has(t.options.Audience) {
		return ErrAudience
	}

	// 11. exp is there.
	if !p.hasExpiry {
		return fmt.Errorf("%w: no exp", ErrClaims)
	}

	// 12. Its time has come and has not passed, and nobody has ended it.
	if err := t.checkTimes(p, t.options.Now()); err != nil {
		return err
	}

	// 13. sub says who it is about.
	if p.Subject == "" {
		return fmt.Errorf("%w: no sub", ErrClaims)
	}

	// 14. token_type, if there, says access: the original API's refresh tokens
	// were JWTs of the same issuer.
	if p.hasUse && p.Use != token.UseAccess {
		return ErrType
	}
	return nil
}

// checkTimes is what can become wrong with a token that was good. It is asked
// again each time that a token is found in the cache, so whatever else may end
// a token early has its place here.
func (t *trust) checkTimes(p *payload, now time.Time) error {
	leeway := t.options.Leeway
	// A token is good up to, but not at, its exp (RFC 7519 §4.1.4).
	if !now.Before(p.ExpiresAt().Add(leeway)) {
		return ErrExpired
	}
	if p.hasNotBefore && time.Unix(p.NotBefore, 0).After(now.Add(leeway)) {
		return fmt.Errorf("%w: nbf is ahead", ErrNotYetValid)
	}
	if p.hasIssuedAt && time.Unix(p.IssuedAt, 0).After(now.Add(leeway)) {
		return fmt.Errorf("%w: iat is ahead", ErrNotYetValid)
	}
	return t.ends.check(p, now)
}
