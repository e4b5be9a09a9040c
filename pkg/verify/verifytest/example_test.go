package verifytest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

// hello is a handler to be tested.
func hello(w http.ResponseWriter, r *http.Request) {
	claims, _ := verify.FromContext(r.Context())
	_, _ = fmt.Fprint(w, "hello ", claims.Subject)
}

// A test of a handler behind the middleware: an issuer, a verifier of its
// tokens, a token.
func TestHello(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	h := issuer.Verifier(t).Middleware(http.HandlerFunc(hello))
	bearer := "Bearer " + issuer.Token("user-1", "inmuebles:read")

	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", bearer)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Body.String() != "hello user-1" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// See TestHello in this file for the whole.
func ExampleNewIssuer() {
	_ = func(t *testing.T) {
		issuer := verifytest.NewIssuer(t)
		h := issuer.Verifier(t).Middleware(http.HandlerFunc(hello))
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", "Bearer "+issuer.Token("user-1", "inmuebles:read"))
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
}
