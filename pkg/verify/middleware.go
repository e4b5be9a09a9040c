package verify

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/urbandata/urbandata/pkg/token"
)

// claimsKey is the context key of the claims: a *verified from the middleware,
// a *token.Claims from NewContext.
type claimsKey struct{}

// NewContext returns a context that carries claims: for handlers behind an
// adapter that verifies by itself, and for their tests.
func NewContext(ctx context.Context, claims *token.Claims) context.Context {
	return context.WithValue(ctx, claimsKey{}, claims)
}

// FromContext returns the claims of the verified token, which must not be
// changed. ok is false if there was none.
func FromContext(ctx context.Context) (claims *token.Claims, ok bool) {
	switch got := ctx.Value(claimsKey{}).(type) {
	case *verified:
		return &got.Claims, true
	case *token.Claims:
		return got, got != nil
	}
	return nil, false
}

// VerifyRequest is [TokenFromRequest] and [Verifier.Verify] in one, for servers
// with their own way to answer errors.
func (v *Verifier) VerifyRequest(r *http.Request) (*token.Claims, error) {
	got, err := v.verifyRequest(r)
	if err != nil {
		return nil, err
	}
	return &got.Claims, nil
}

// verifyRequest leaves the token's syntax to verify, which wants less than a
// header may hold.
func (v *Verifier) verifyRequest(r *http.Request) (*verified, error) {
	raw, err := carried(r)
	if err != nil {
		v.observe(nil, nil, false, err)
		return nil, err
	}
	return v.verify(r.Context(), raw)
}

// Middleware lets a request pass to next if it carries a good token, whose
// claims next finds with [FromContext]. It answers any other with problem
// details (RFC 9457) and the header of [Challenge].
func (v *Verifier) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, err := v.verifyRequest(r)
		if err != nil {
			v.refuse(w, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), claimsKey{}, got)))
	})
}

// Require returns a middleware that lets a request pass if its claims hold
// every scope. It belongs inside [Verifier.Middleware]; without claims in the
// context it refuses as for a request without a token.
func (v *Verifier) Require(scopes ...string) func(http.Handler) http.Handler {
	return v.require(func(claims *token.Claims) error { return CheckScope(claims, scopes...) })
}

// RequireLogin is [Verifier.Require] for what an operation wants of the login
// (RFC 9470): a client that is refused has its user log in anew, as the
// challenge says. Leeway is forgiven.
func (v *Verifier) RequireLogin(need Login) func(http.Handler) http.Handler {
	return v.require(func(claims *token.Claims) error {
		return CheckLogin(claims, need, v.options.Now().Add(-v.options.Leeway))
	})
}

func (v *Verifier) require(check func(*token.Claims) error) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			claims, ok := FromContext(r.Context())
			err := check(claims)
			if !ok {
				err = ErrMissing
			}
			if err != nil {
				v.observe(nil, nil, false, err)
				v.refuse(w, err)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// retryAfter is in seconds: DefaultEvery, after which a token that comes may ask
// for the key set again.
const retryAfter = "10"

// refuse answers with problem details.
func (v *Verifier) refuse(w http.ResponseWriter, err error) {
	status, challenge := Challenge(err, v.options.Realm)
	h := w.Header()
	if challenge != "" {
		h.Set("WWW-Authenticate", challenge)
	}
	if status == http.StatusServiceUnavailable {
		h.Set("Retry-After", retryAfter)
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Language", "en") // others: VerifyRequest, Challenge and one's own words
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// An error here means that the client has gone.
	_ = json.NewEncoder(w).Encode(problem{Title: http.StatusText(status), Status: status, Detail: Detail(err)})
}

// problem is RFC 9457 with the default type about:blank.
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}
