// Package bench compares pkg/verify with the Go libraries of docs/verify.md
// that the main module doesn't have: go test -bench . in this folder. For
// go-jose and jwx see pkg/verify's own benchmarks.
package bench

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/golang-jwt/jwt/v5"

	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

// BenchmarkVerify prints each library's time for one token in terms of the bare
// signature check and one json.Unmarshal of the same claims, measured in turns
// with it. All hold the key already.
func BenchmarkVerify(b *testing.B) {
	for _, alg := range []string{verify.EdDSA, verify.RS256} {
		issuer := verifytest.NewIssuer(b, alg)
		public := issuer.PublicKey(alg)
		claims := issuer.Claims("0199d0f4-7c1e-7000-8000-000000000001", "inmuebles:read", "inmuebles:write")
		claims.Roles, claims.Session = []token.Role{token.RoleUser}, "0199d0f4-7c1e-7000-8000-000000000002"
		compact := issuer.Mint(alg, claims)

		ours := issuer.Verifier(b)
		keys := func(*jwt.Token) (any, error) { return public, nil }
		remote := oidc.NewVerifier(issuer.URL, &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{public}},
			&oidc.Config{ClientID: verifytest.Audience, SupportedSigningAlgs: []string{oidc.RS256, oidc.EdDSA}})
		for _, bm := range []struct {
			name   string
			verify func() error
		}{
			{"pkg-verify", func() error { _, err := ours.Verify(b.Context(), compact); return err }},
			{"golang-jwt", func() error {
				_, err := jwt.ParseWithClaims(compact, &jwt.RegisteredClaims{}, keys, jwt.WithValidMethods([]string{alg}),
					jwt.WithIssuer(issuer.URL), jwt.WithAudience(verifytest.Audience), jwt.WithExpirationRequired())
				return err
			}},
			{"go-oidc", func() error { _, err := remote.Verify(b.Context(), compact); return err }},
		} {
			b.Run(alg+"/"+bm.name, func(b *testing.B) { inTurns(b, bm.verify, raw(b, public, compact)) })
		}
	}
}

func inTurns(b *testing.B, library, least func() error) {
	var theirs, raws []time.Duration
	for b.Loop() {
		t0 := time.Now()
		err := least()
		t1 := time.Now()
		if err == nil {
			err = library()
		}
		t2 := time.Now()
		if err != nil {
			b.Fatal(err)
		}
		raws = append(raws, t1.Sub(t0))
		theirs = append(theirs, t2.Sub(t1))
	}
	slices.Sort(theirs)
	slices.Sort(raws)
	b.ReportMetric(float64(theirs[len(theirs)/2])/float64(raws[len(raws)/2]), "x/raw")
	b.ReportMetric(testing.AllocsPerRun(100, func() { _ = library() }), "allocs/library")
}

func raw(b *testing.B, public crypto.PublicKey, compact string) func() error {
	parts := strings.Split(compact, ".")
	signed := []byte(parts[0] + "." + parts[1])
	payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
	signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
	return func() error {
		switch k := public.(type) {
		case ed25519.PublicKey:
			if !ed25519.Verify(k, signed, signature) {
				b.Fatal("bad signature")
			}
		case *rsa.PublicKey:
			sum := sha256.Sum256(signed)
			if err := rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], signature); err != nil {
				return err
			}
		}
		var claims token.Claims
		return json.Unmarshal(payload, &claims)
	}
}
