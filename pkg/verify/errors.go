package verify

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/urbandata/urbandata/pkg/token"
)

// The reasons for which a token or a request is refused. Every error of
// [Verifier.Verify], [TokenFromRequest], [CheckScope] and [CheckLogin] wraps
// exactly one of them. None carries any part of the token.
var (
	// ErrMissing: the request carries no token.
	ErrMissing = errors.New("verify: no token")
	// ErrAmbiguous: the request carries two tokens, or one header twice, so
	// that two readers of it could see two different callers.
	ErrAmbiguous = errors.New("verify: more than one token in the request")
	// ErrMalformed: not a compact JWS of acceptable size with canonical
	// base64url parts and a strict JSON header.
	ErrMalformed = errors.New("verify: malformed token")
	// ErrCritical: the header names an extension that must be understood
	// (crit or b64); none is.
	ErrCritical = errors.New("verify: unknown critical header")
	// ErrAlgorithm: alg is not allowed, or is not the algorithm of the key
	// that kid names.
	ErrAlgorithm = errors.New("verify: algorithm not allowed")
	// ErrType: typ, or the token_type claim, is not that of an access token.
	ErrType = errors.New("verify: not an access token")
	// ErrKeyUnknown: kid is not in the key set held, and a fetch was not due
	// or did not bring it.
	ErrKeyUnknown = errors.New("verify: unknown key")
	// ErrKeySetUnavailable: no usable key set is held, so no statement about
	// any token can be made.
	ErrKeySetUnavailable = errors.New("verify: no usable key set")
	// ErrSignature: the signature is not the key's over this token.
	ErrSignature = errors.New("verify: wrong signature")
	// ErrExpired: exp has passed.
	ErrExpired = errors.New("verify: token expired")
	// ErrNotYetValid: nbf or iat lies in the future.
	ErrNotYetValid = errors.New("verify: token not yet valid")
	// ErrIssuer: iss is not, byte for byte, the issuer expected.
	ErrIssuer = errors.New("verify: wrong issuer")
	// ErrAudience: aud does not contain this service.
	ErrAudience = errors.New("verify: wrong audience")
	// ErrClaims: the payload is not the strict JSON object that package token
	// describes, or lacks a claim it must have. With one issuer it was signed.
	ErrClaims = errors.New("verify: unusable claims")
	// ErrRevoked: the issuer has said that the token's session has ended, that
	// its user or client is disabled, or that it is withdrawn itself.
	ErrRevoked = errors.New("verify: token revoked")
	// ErrRevocationsUnavailable: the issuer has said nothing about what has
	// ended for longer than RevocationOptions.MaxSilence.
	ErrRevocationsUnavailable = errors.New("verify: revocations unavailable")
	// ErrScope: the token is good, but lacks a scope (see [CheckScope]).
	ErrScope = errors.New("verify: insufficient scope")
	// ErrLogin: the token is good, but the login that it comes from is too old
	// or not strong enough for the operation (see [CheckLogin]).
	ErrLogin = errors.New("verify: insufficient user authentication")
)

// Errors of set-up, never of a token.
var (
	// ErrOptions: [New] was given options that can't work.
	ErrOptions = errors.New("verify: bad options")
	// ErrRunning: Run was called while it is running.
	ErrRunning = errors.New("verify: already running")
	// ErrKeySet: a document is not a JWK Set with at least one usable key.
	ErrKeySet = errors.New("verify: unusable key set document")
	// ErrFetch: the key set or the revocations could not be fetched.
	ErrFetch = errors.New("verify: fetch failed")
	// ErrRevocations: a document is not the issuer's present word on what has
	// ended.
	ErrRevocations = errors.New("verify: unusable revocations")
)

// class is what the outside may learn of a sentinel error.
type class struct {
	err    error
	reason string // label for metrics and logs
	status int
	code   string // RFC 6750 §3.1; empty: none is sent
	detail string // the sentence that the client reads
}

// What an attacker could vary to learn about keys and allow-lists reads alike
// from outside: one sentence for all of it.
const notValid = "The access token is not valid."

var classes = [...]class{
	{ErrMissing, "missing", 401, "", "An access token is required."},
	{ErrAmbiguous, "ambiguous", 400, codeRequest, "Send exactly one access token."},
	{ErrMalformed, "malformed", 401, codeToken, "The access token is malformed."},
	{ErrCritical, "critical", 401, codeToken, notValid},
	{ErrAlgorithm, "algorithm", 401, codeToken, notValid},
	{ErrType, "type", 401, codeToken, notValid},
	{ErrKeyUnknown, "key_unknown", 401, codeToken, notValid},
	{ErrKeySetUnavailable, "key_set_unavailable", 503, "", "Tokens can't be verified at the moment. Try again soon."},
	{ErrSignature, "signature", 401, codeToken, notValid},
	{ErrExpired, "expired", 401, codeToken, "The access token has expired."},
	{ErrNotYetValid, "not_yet_valid", 401, codeToken, "The access token is not yet valid."},
	{ErrIssuer, "issuer", 401, codeToken, "The access token is not for this service."},
	{ErrAudience, "audience", 401, codeToken, "The access token is not for this service."},
	{ErrClaims, "claims", 401, codeToken, notValid},
	{ErrRevoked, "revoked", 401, codeToken, "The access token has been revoked."},
	{ErrRevocationsUnavailable, "revocations_unavailable", 503, "", "Tokens can't be verified at the moment. Try again soon."},
	{ErrScope, "scope", 403, codeScope, "The access token lacks a scope that this operation needs."},
	{ErrLogin, "login", 401, codeLogin, "The operation needs a more recent or a stronger login."},
}

// unclassified stands for an error that is not of this package.
var unclassified = class{reason: "other", status: 500, detail: "The request could not be authorized."}

func classify(err error) class {
	for _, c := range classes {
		if errors.Is(err, c.err) {
			return c
		}
	}
	return unclassified
}

// Reason is a short constant name of err's class for metric labels and logs:
// "ok" for nil, "expired" for [ErrExpired], "key_unknown" for
// [ErrKeyUnknown] and so on; "other" for an error that is not of this package.
func Reason(err error) string {
	if err == nil {
		return "ok"
	}
	return classify(err).reason
}

// Detail is the sentence about err that a client may read. It is constant per
// class, and the same for all the ways in which a forgery can fail.
func Detail(err error) string { return classify(err).detail }

// A ScopeError says which scopes an operation needs. It is [ErrScope].
type ScopeError struct {
	Need token.Scope // everything the operation needs, not only what is lacking
}

func (e *ScopeError) Error() string { return fmt.Sprintf("%v: needs %q", ErrScope, e.Need.String()) }

// Is makes errors.Is(err, ErrScope) true.
func (e *ScopeError) Is(target error) bool { return target == ErrScope }

// CheckScope returns nil if claims hold every scope of need, else a
// [*ScopeError]. Claims that are nil hold none.
func CheckScope(claims *token.Claims, need ...string) error {
	for _, s := range need {
		if claims == nil || !claims.Scope.Has(s) {
			return &ScopeError{Need: need}
		}
	}
	return nil
}

// Login is what an operation wants of the login that a token comes from
// (RFC 9470). The zero value wants nothing.
type Login struct {
	// ACR lists the acr values that will do, the preferred first: "aal2" for
	// two factors at our issuer. Compared exactly; none: any will do.
	ACR []string
	// MaxAge is how long ago the login may be by auth_time, which a refresh
	// leaves as it is; 0: as long as you like.
	MaxAge time.Duration
}

// A LoginError says what login an operation needs. It is [ErrLogin].
type LoginError struct{ Need Login }

func (e *LoginError) Error() string {
	return fmt.Sprintf("%v: needs acr %q, max_age %v", ErrLogin, e.Need.ACR, e.Need.MaxAge)
}

// Is makes errors.Is(err, ErrLogin) true.
func (e *LoginError) Is(target error) bool { return target == ErrLogin }

// CheckLogin returns nil if claims come from a login as need wants it at the
// moment now, else a [*LoginError]. Claims without auth_time or acr (a program's
// own token) are of no login, and so are claims that are nil.
func CheckLogin(claims *token.Claims, need Login, now time.Time) error {
	switch {
	case claims == nil,
		len(need.ACR) > 0 && !slices.Contains(need.ACR, claims.ACR),
		need.MaxAge > 0 && (claims.AuthTime <= 0 || now.Sub(time.Unix(claims.AuthTime, 0)) > need.MaxAge):
		return &LoginError{Need: need}
	}
	return nil
}
