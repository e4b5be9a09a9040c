package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"unicode"

	"github.com/urbandata/urbandata/pkg/token"
)

// As is [Verifier.Verify] for tokens with claims that package token does
// not know: it also reads the payload into a T, a struct with the json tags of
// those claims. The error is [ErrClaims] if they don't fit.
//
// encoding/json reads T, and takes names of any case for its members. So that
// no two readers see different claims, a payload in which two names of one
// object differ only in case is refused.
//
// The claims may be shared with other callers and must not be changed; the T is
// the caller's own. It is read anew each time: what it takes is the caller's
// choice, and can't be counted in the bound of the token cache.
func As[T any](ctx context.Context, v *Verifier, raw string) (*token.Claims, *T, error) {
	got, err := v.verify(ctx, raw)
	if err != nil {
		return nil, nil, err
	}
	private, err := privateOf[T](got)
	if err != nil {
		return nil, nil, err
	}
	return &got.Claims, private, nil
}

// Private returns the claims that the handler's request carries as a T, as
// [As] does. It belongs behind [Verifier.Middleware]: the error is
// [ErrMissing] if the context does not come from there.
func Private[T any](ctx context.Context) (*T, error) {
	got, ok := ctx.Value(claimsKey{}).(*verified)
	if !ok {
		return nil, ErrMissing
	}
	return privateOf[T](got)
}

// privateOf reads the payload, which was found to be strict JSON before.
func privateOf[T any](got *verified) (*T, error) {
	r := reader{s: got.text, folded: true}
	if err := r.value(); err != nil {
		return nil, wrap(ErrClaims, err)
	}
	private := new(T)
	if err := json.Unmarshal([]byte(got.text), private); err != nil {
		// The text of encoding/json's error may hold part of the payload.
		return nil, fmt.Errorf("%w: they are no %v", ErrClaims, reflect.TypeFor[T]())
	}
	return private, nil
}

// fold brings names that encoding/json takes for the same into one form.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
			least = min(least, other)
		}
		return least
	}, name)
}
