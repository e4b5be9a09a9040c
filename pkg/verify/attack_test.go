package verify_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

const corpus = "testdata/attacks.json"

// The corpus against the verifier, in each of its make-ups, and the
// middleware. The running server is in package e2e.
func TestAttacks(t *testing.T) {
	issuer, other := verifytest.NewIssuer(t, verify.Algorithms()...), verifytest.NewIssuer(t)
	cached := func(o *verify.Options) { o.TokenCacheBytes = 1 << 20 }
	verifiers := map[string]*verify.Verifier{
		"plain": fixed(t, issuer), "cached": fixed(t, issuer, cached),
		"running": issuer.Verifier(t), "one of two": both(t, other, issuer),
	}
	attacker := verifytest.NewAttacker(t, issuer)
	attacks := verifytest.LoadAttacks(t, corpus)
	good, names := 0, map[string]bool{}
	for _, attack := range attacks {
		if attack.Name == "" || attack.Source == "" || names[attack.Name] {
			t.Errorf("%q has no name of its own, or no source", attack.Name)
		}
		names[attack.Name] = true
		raw := attacker.Token(attack)
		for make, v := range verifiers {
			for range 2 { // the second time whatever caches there are have it
				claims, err := v.Verify(t.Context(), raw)
				if got := verify.Reason(err); got != attack.Want && !(make == "one of two" && earlier(got, attack.Want)) {
					t.Errorf("%s, %s: %v, want %s", make, attack.Name, err, attack.Want)
				}
				if (claims == nil) == (err == nil) {
					t.Errorf("%s, %s: claims %v with error %v", make, attack.Name, claims, err)
				}
				if err == nil {
					continue
				}
				for _, part := range append(strings.Split(raw, "."), issuer.KeyID(verify.EdDSA)) {
					if len(part) > 8 && strings.Contains(err.Error(), part) {
						t.Errorf("%s: the error repeats part of the token: %v", attack.Name, err)
					}
				}
			}
			atMiddleware(t, v, attack, raw)
		}
		if attack.Want == "ok" {
			good++
		}
	}
	t.Logf("%d attacks and %d odd but good tokens, against %d make-ups and the middleware of each", len(attacks)-good, good, len(verifiers))
	if len(attacks)-good < 150 {
		t.Errorf("only %d attacks", len(attacks)-good)
	}
	for make, v := range verifiers {
		if _, err := v.Verify(t.Context(), issuer.Token("u")); err != nil {
			t.Errorf("%s: a good token after them: %v", make, err)
		}
	}
}

// earlier says whether a verifier of several issuers may refuse by got what
// one of a single issuer refuses by want: it looks at iss first, so what is
// wrong with the payload comes before what is wrong with the rest.
func earlier(got, want string) bool {
	return (got == "issuer" || got == "claims") && want != "ok"
}

func both(t *testing.T, issuers ...*verifytest.Issuer) *verify.Verifier {
	t.Helper()
	var all []verify.Options
	for _, issuer := range issuers {
		o := fixedOptions(t, issuer)
		o.TokenCacheBytes = 1 << 20
		all = append(all, o)
	}
	v, err := verify.NewMulti(all...)
	noError(t, err)
	return v
}

func atMiddleware(t *testing.T, v *verify.Verifier, attack verifytest.Attack, raw string) {
	t.Helper()
	reached := false
	h := v.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	for header, value := range map[string]string{"Authorization": "Bearer " + raw, verify.LegacyHeader: raw} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set(header, value)
		w := httptest.NewRecorder()
		reached = false
		h.ServeHTTP(w, r)
		// A space before or behind a header's value is not part of it.
		wellMeant := attack.Want == "ok" || header == "Authorization" && strings.TrimLeft(raw, " ") != raw
		switch {
		case reached != (wellMeant && w.Code == http.StatusOK):
			t.Errorf("%s, %s: the handler was reached", header, attack.Name)
		case !reached && (w.Code != http.StatusUnauthorized || !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer realm=")):
			t.Errorf("%s, %s: %d %s", header, attack.Name, w.Code, w.Header())
		case attack.Want == "ok" && !reached:
			t.Errorf("%s, %s: a good token was refused", header, attack.Name)
		}
	}
}
