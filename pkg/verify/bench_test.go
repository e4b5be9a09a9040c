package verify_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

// raw is the least that a verifier must do: the signature, and one decode of
// the same claims by encoding/json.
func raw(tb testing.TB, issuer *verifytest.Issuer, alg, compact string) func() {
	tb.Helper()
	i := strings.LastIndexByte(compact, '.')
	signed := []byte(compact[:i])
	signature, err := base64.RawURLEncoding.DecodeString(compact[i+1:])
	if err != nil {
		tb.Fatal(err)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(compact, ".")[1])
	if err != nil {
		tb.Fatal(err)
	}
	public := issuer.PublicKey(alg)
	return func() {
		switch k := public.(type) {
		case ed25519.PublicKey:
			if !ed25519.Verify(k, signed, signature) {
				tb.Fatal("bad signature")
			}
		case *rsa.PublicKey:
			sum := sha256.Sum256(signed)
			if err := rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], signature); err != nil {
				tb.Fatal(err)
			}
		}
		var claims token.Claims
		if err := json.Unmarshal(payload, &claims); err != nil {
			tb.Fatal(err)
		}
	}
}

// BenchmarkVerify prints what a verification costs and its ratio to raw. The
// two are measured in turns, so a busy machine slows both alike.
func BenchmarkVerify(b *testing.B) {
	for _, alg := range []string{verify.EdDSA, verify.RS256} {
		b.Run(alg, func(b *testing.B) {
			issuer := verifytest.NewIssuer(b, alg)
			v := fixed(b, issuer)
			claims := issuer.Claims("0199d0f4-7c1e-7000-8000-000000000001", "inmuebles:read", "inmuebles:write")
			claims.Roles, claims.Session = []token.Role{token.RoleUser}, "0199d0f4-7c1e-7000-8000-000000000002"
			compact := issuer.Mint(alg, claims)
			least := raw(b, issuer, alg, compact)
			var ours, theirs time.Duration
			b.ReportAllocs()
			for b.Loop() {
				t0 := time.Now()
				least()
				t1 := time.Now()
				if _, err := v.Verify(b.Context(), compact); err != nil {
					b.Fatal(err)
				}
				theirs += t1.Sub(t0)
				ours += time.Since(t1)
			}
			b.ReportMetric(float64(ours)/float64(theirs), "x/raw")
			b.ReportMetric(float64(ours.Nanoseconds())/float64(b.N), "ns/verify")
			b.ReportMetric(testing.AllocsPerRun(100, func() { _, _ = v.Verify(b.Context(), compact) }), "allocs/verify")
		})
	}
}

// BenchmarkParseKeySet reads a set of 20 keys, half of them RSA, and takes
// turns with encoding/json, which only splits it into members.
func BenchmarkParseKeySet(b *testing.B) {
	issuer := verifytest.NewIssuer(b, verify.EdDSA, verify.RS256)
	for range 9 {
		issuer.Rotate()
	}
	doc := issuer.KeySet()
	var ours, theirs time.Duration
	b.ReportAllocs()
	for b.Loop() {
		t0 := time.Now()
		var split struct {
			Keys []struct {
				Kty, Crv, Kid, Alg, Use, X, Y, N, E string
			}
		}
		if err := json.Unmarshal(doc, &split); err != nil || len(split.Keys) != 20 {
			b.Fatal(err)
		}
		t1 := time.Now()
		if set, err := verify.ParseKeySet(doc); err != nil || set.Len() != 20 {
			b.Fatal(err)
		}
		theirs += t1.Sub(t0)
		ours += time.Since(t1)
	}
	b.ReportMetric(float64(ours)/float64(theirs), "x/json.Unmarshal")
	b.ReportMetric(float64(ours.Nanoseconds())/float64(b.N), "ns/set")
}

// BenchmarkRefuse prints what hostile tokens cost: less than a signature.
func BenchmarkRefuse(b *testing.B) {
	issuer := verifytest.NewIssuer(b)
	v := fixed(b, issuer)
	good := issuer.Token("u")
	for name, compact := range map[string]string{
		"malformed":   strings.Repeat("a", 1000),
		"none":        b64(`{"alg":"none","kid":"k","typ":"at+jwt"}`) + good[strings.IndexByte(good, '.'):],
		"unknown kid": b64(`{"alg":"EdDSA","kid":"k","typ":"at+jwt"}`) + good[strings.IndexByte(good, '.'):],
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(b.Context(), compact); err == nil {
					b.Fatal("accepted")
				}
			}
		})
	}
}

// An allocation more on the way of every request shows here.
func TestAllocations(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	v := fixed(t, issuer)
	compact := issuer.Token("u", "a", "b")
	const most = 9
	if n := testing.AllocsPerRun(100, func() { _, _ = v.Verify(t.Context(), compact) }); n > most {
		t.Errorf("%v allocations, want at most %d", n, most)
	}
}
