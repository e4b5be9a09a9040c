package verifytest_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

// The three lines of the package comment.
func TestHandler(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, _ := verify.FromContext(r.Context())
		_, _ = w.Write([]byte(claims.Subject))
	})

	issuer := verifytest.NewIssuer(t)
	h := issuer.Verifier(t).Middleware(handler)
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	req.Header.Set("Authorization", "Bearer "+issuer.Token("user-1", "inmuebles:read"))

	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	if w.Code != 200 || w.Body.String() != "user-1" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestEveryAlgorithm(t *testing.T) {
	issuer := verifytest.NewIssuer(t, verify.Algorithms()...)
	v := issuer.Verifier(t)
	for _, alg := range verify.Algorithms() {
		if _, err := v.Verify(t.Context(), issuer.Mint(alg, issuer.Claims("u"))); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
}

func TestChangedClaims(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	v := issuer.Verifier(t)
	claims := issuer.Claims("u")
	claims.Expiry = time.Now().Add(-time.Hour).Unix()
	if _, err := v.Verify(t.Context(), issuer.Mint(verify.EdDSA, claims)); !errors.Is(err, verify.ErrExpired) {
		t.Errorf("%v, want %v", err, verify.ErrExpired)
	}
}

func TestRotateAndRevoke(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	v := issuer.Verifier(t)
	old := issuer.Token("u")
	issuer.Rotate()
	for _, raw := range []string{old, issuer.Token("u"), old} {
		if _, err := v.Verify(t.Context(), raw); err != nil {
			t.Error(err)
		}
	}
	issuer.Revoke()
	if _, err := issuer.Verifier(t).Verify(t.Context(), old); !errors.Is(err, verify.ErrKeyUnknown) {
		t.Errorf("%v, want %v", err, verify.ErrKeyUnknown)
	}
}
