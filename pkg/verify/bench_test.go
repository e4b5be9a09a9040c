package verify_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
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
		bare(tb, public, signed, signature)
		var claims token.Claims
		if err := json.Unmarshal(payload, &claims); err != nil {
			tb.Fatal(err)
		}
	}
}

// bare is the signature check alone.
func bare(tb testing.TB, public crypto.PublicKey, signed, signature []byte) {
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
}

// benchClaims are those of a token as authn issues it.
func benchClaims(issuer *verifytest.Issuer) token.Claims {
	claims := issuer.Claims("0199d0f4-7c1e-7000-8000-000000000001", "inmuebles:read", "inmuebles:write")
	claims.Roles, claims.Session = []token.Role{token.RoleUser}, "0199d0f4-7c1e-7000-8000-000000000002"
	return claims
}

// inTurns runs ours and theirs in turns, so that a busy machine slows both
// alike, and reports the ratio of the medians under the unit: whoever takes the
// processor away in the midst of one run spoils that run only.
func inTurns(b *testing.B, unit string, ours, theirs func()) {
	b.Helper()
	var our, their []time.Duration
	for b.Loop() {
		t0 := time.Now()
		theirs()
		t1 := time.Now()
		ours()
		t2 := time.Now()
		their = append(their, t1.Sub(t0))
		our = append(our, t2.Sub(t1))
	}
	b.ReportMetric(float64(median(our))/float64(median(their)), unit)
	b.ReportMetric(float64(median(our)), "ns/ours")
	b.ReportMetric(testing.AllocsPerRun(100, ours), "allocs/ours")
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// BenchmarkVerify prints what a verification of a token costs that is not in
// the cache, by us and by the libraries that judge us, in raw verifications.
func BenchmarkVerify(b *testing.B) {
	for _, alg := range []string{verify.EdDSA, verify.RS256} {
		issuer := verifytest.NewIssuer(b, alg)
		compact := issuer.Mint(alg, benchClaims(issuer))
		least := raw(b, issuer, alg, compact)
		v := fixed(b, issuer)
		j := newJudges(b, issuer, time.Now())
		several := []verify.Options{}
		for range 20 {
			several = append(several, fixedOptions(b, verifytest.NewIssuer(b)))
		}
		multi, err := verify.NewMulti(append(several, fixedOptions(b, issuer))...)
		if err != nil {
			b.Fatal(err)
		}
		for _, bm := range []struct {
			name   string
			verify func() error
		}{
			{"pkg-verify", func() error { _, err := v.Verify(b.Context(), compact); return err }},
			{"pkg-verify of 21 issuers", func() error { _, err := multi.Verify(b.Context(), compact); return err }},
			{"go-jose", func() error { return j.goJose(compact) }},
			{"jwx", func() error { return j.jwxV2(compact) }},
		} {
			b.Run(alg+"/"+bm.name, func(b *testing.B) {
				inTurns(b, "x/raw", func() {
					if err := bm.verify(); err != nil {
						b.Fatal(err)
					}
				}, least)
			})
		}
		b.Run(alg+"/signature alone", func(b *testing.B) {
			k := issuer.PublicKey(alg)
			i := strings.LastIndexByte(compact, '.')
			signature, _ := base64.RawURLEncoding.DecodeString(compact[i+1:])
			inTurns(b, "x/raw", func() { bare(b, k, []byte(compact[:i]), signature) }, least)
		})
	}
}

// BenchmarkGrowth prints what a verification costs with 40 keys in the set, in
// verifications with one.
func BenchmarkGrowth(b *testing.B) {
	one, many := verifytest.NewIssuer(b), verifytest.NewIssuer(b)
	for range 39 {
		many.Rotate()
	}
	if set, err := verify.ParseKeySet(many.KeySet()); err != nil || set.Len() != 40 {
		b.Fatalf("a set of %d keys: %v", set.Len(), err)
	}
	call := func(issuer *verifytest.Issuer) func() {
		v, compact := fixed(b, issuer), issuer.Mint(verify.EdDSA, benchClaims(issuer))
		return func() {
			if _, err := v.Verify(b.Context(), compact); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("keys", func(b *testing.B) { inTurns(b, "x/1-key", call(many), call(one)) })
}

// BenchmarkVerifyFillsCache is the worst for the cache: each token is new to
// it, and takes the place of another.
func BenchmarkVerifyFillsCache(b *testing.B) {
	issuer := verifytest.NewIssuer(b)
	least := raw(b, issuer, verify.EdDSA, issuer.Mint(verify.EdDSA, benchClaims(issuer)))
	v := fixed(b, issuer, func(o *verify.Options) { o.TokenCacheBytes = 16 << 10 })
	compact := make([]string, 64)
	for i := range compact {
		compact[i] = issuer.Mint(verify.EdDSA, benchClaims(issuer))
	}
	i := 0
	inTurns(b, "x/raw", func() {
		i++
		if _, err := v.Verify(b.Context(), compact[i%len(compact)]); err != nil {
			b.Fatal(err)
		}
	}, least)
}

// BenchmarkVerifyCached is a token that is in the cache, beside 5,000 others.
// With several cores at it, x/alone says what one verification costs then in
// terms of one that has the machine to itself, in the best of all rounds: 1.0
// is perfect.
func BenchmarkVerifyCached(b *testing.B) {
	issuer := verifytest.NewIssuer(b)
	v := fixed(b, issuer, func(o *verify.Options) { o.TokenCacheBytes = verify.DefaultTokenCacheBytes })
	compact := make([]string, 5000)
	for i := range compact {
		compact[i] = issuer.Mint(verify.EdDSA, benchClaims(issuer))
		if _, err := v.Verify(b.Context(), compact[i]); err != nil {
			b.Fatal(err)
		}
	}
	if n := v.Stats().TokensEvicted; n > 0 {
		b.Fatalf("%d of %d tokens found no room", n, len(compact))
	}
	one := func(i int) {
		if _, err := v.Verify(b.Context(), compact[i%len(compact)]); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("one core", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			one(i)
		}
	})
	b.Run("all cores", func(b *testing.B) {
		const batch = 2000
		cores := runtime.GOMAXPROCS(0)
		var alone, together []time.Duration
		for b.Loop() {
			t0 := time.Now()
			for i := range batch {
				one(i)
			}
			t1 := time.Now()
			var wg sync.WaitGroup
			for g := range cores {
				wg.Go(func() {
					for i := range batch {
						one(i + g*batch)
					}
				})
			}
			wg.Wait()
			t2 := time.Now()
			alone = append(alone, t1.Sub(t0))
			together = append(together, t2.Sub(t1))
		}
		b.ReportMetric(float64(slices.Min(together))/float64(slices.Min(alone)), "x/alone")
		b.ReportMetric(float64(median(alone).Nanoseconds())/batch, "ns/verify")
		b.ReportMetric(float64(cores), "cores")
	})
}

// BenchmarkMiddleware compares a handler behind the middleware, with a token
// in the cache, with the same handler alone: over HTTP on loopback, and as a
// call without a network. The handler writes a list of 20 properties.
func BenchmarkMiddleware(b *testing.B) {
	issuer := verifytest.NewIssuer(b)
	v := fixed(b, issuer, func(o *verify.Options) { o.TokenCacheBytes = verify.DefaultTokenCacheBytes })
	bearer := "Bearer " + issuer.Mint(verify.EdDSA, benchClaims(issuer))
	type property struct {
		ID, Title, Address string
		X, Y               float64
		Rooms              int
	}
	list := make([]property, 20)
	for i := range list {
		list[i] = property{"0199d0f4-7c1e-7000-8000-000000000001", "Piso en Sol", "Calle Mayor 1, Madrid", -3.7038, 40.4168, i}
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(list)
	})
	guarded := v.Middleware(v.Require("inmuebles:read")(handler))

	b.Run("call", func(b *testing.B) {
		call := func(h http.Handler) func() {
			return func() {
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				r.Header.Set("Authorization", bearer)
				w := httptest.NewRecorder()
				if h.ServeHTTP(w, r); w.Code != http.StatusOK {
					b.Fatal(w.Code)
				}
			}
		}
		inTurns(b, "x/without-auth", call(guarded), call(handler))
	})
	b.Run("HTTP", func(b *testing.B) {
		client := &http.Client{Transport: &http.Transport{}}
		get := func(h http.Handler) func() {
			server := httptest.NewServer(h)
			b.Cleanup(server.Close)
			return func() {
				r, _ := http.NewRequestWithContext(b.Context(), http.MethodGet, server.URL, nil)
				r.Header.Set("Authorization", bearer)
				response, err := client.Do(r)
				if err != nil || response.StatusCode != http.StatusOK {
					b.Fatal(err, response)
				}
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
			}
		}
		inTurns(b, "x/without-auth", get(guarded), get(handler))
	})
}

// BenchmarkParseKeySet reads a set of 20 keys, half of them RSA, and takes
// turns with encoding/json, which only splits it into members.
func BenchmarkParseKeySet(b *testing.B) {
	issuer := verifytest.NewIssuer(b, verify.EdDSA, verify.RS256)
	for range 9 {
		issuer.Rotate()
	}
	doc := issuer.KeySet()
	inTurns(b, "x/json.Unmarshal", func() {
		if set, err := verify.ParseKeySet(doc); err != nil || set.Len() != 20 {
			b.Fatal(err)
		}
	}, func() {
		var split struct {
			Keys []struct {
				Kty, Crv, Kid, Alg, Use, X, Y, N, E string
			}
		}
		if err := json.Unmarshal(doc, &split); err != nil || len(split.Keys) != 20 {
			b.Fatal(err)
		}
	})
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

// An allocation more on the way of every request shows here. Package rsa makes
// nine of its own for each signature.
func TestAllocations(t *testing.T) {
	for _, tc := range []struct {
		name, alg string
		cache     int64
		most      float64
	}{
		{"EdDSA", verify.EdDSA, 0, 9},
		{"RS256", verify.RS256, 0, 9 + 9},
		{"cached", verify.EdDSA, verify.DefaultTokenCacheBytes, 0},
	} {
		issuer := verifytest.NewIssuer(t, tc.alg)
		v := fixed(t, issuer, func(o *verify.Options) { o.TokenCacheBytes = tc.cache })
		compact := issuer.Mint(tc.alg, benchClaims(issuer))
		if n := testing.AllocsPerRun(100, func() { _, _ = v.Verify(t.Context(), compact) }); n > tc.most {
			t.Errorf("%s: %v allocations, want at most %v", tc.name, n, tc.most)
		}
		followed := verify.RevocationOptions{URL: "https://id.example/r", MaxSilence: -1}
		v = fixed(t, issuer, func(o *verify.Options) { o.TokenCacheBytes, o.Revocations = tc.cache, followed })
		verify.Hold(v, token.Revocation{Session: "another", Expiry: time.Now().Unix() + 300}, token.Revocation{Subject: "another", Expiry: time.Now().Unix() + 300})
		if n := testing.AllocsPerRun(100, func() { _, _ = v.Verify(t.Context(), compact) }); n > tc.most {
			t.Errorf("%s, with revocations: %v allocations, want at most %v", tc.name, n, tc.most)
		}
	}
}

// BenchmarkRevocations is a verification by a verifier that holds a list of
// 10,000 endings, in terms of one by a verifier that follows none: with the
// token in the cache, and anew. Each takes a whole batch of tokens, in turns.
func BenchmarkRevocations(b *testing.B) {
	f := newFeed(b)
	for i := range 10_000 {
		f.entries = append(f.entries, token.Revocation{Session: fmt.Sprintf("0199d0f4-7c1e-7000-9000-%012d", i), Expiry: time.Now().Unix() + 3600})
	}
	f.seq = int64(len(f.entries))
	for _, bm := range []struct {
		name  string
		cache int64
		batch int
	}{{"cached", verify.DefaultTokenCacheBytes, 2000}, {"anew", 0, 20}} {
		b.Run(bm.name, func(b *testing.B) {
			without := fixed(b, f.issuer, func(o *verify.Options) { o.TokenCacheBytes = bm.cache })
			with := fixed(b, f.issuer, func(o *verify.Options) {
				o.TokenCacheBytes = bm.cache
				o.Revocations.URL, o.HTTPClient = "https://id.example/r", &http.Client{Transport: f}
			})
			ctx, cancel := context.WithCancel(b.Context())
			var running sync.WaitGroup
			running.Go(func() { _ = with.Run(ctx) })
			defer running.Wait()
			defer cancel()
			if err := with.Wait(ctx); err != nil || with.Stats().Revocations.Entries != 10_000 {
				b.Fatal(err, with.Stats())
			}
			compact := f.issuer.Mint(verify.EdDSA, benchClaims(f.issuer))
			run := func(v *verify.Verifier) func() {
				return func() {
					for range bm.batch {
						if _, err := v.Verify(ctx, compact); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
			inTurns(b, "x/without", run(with), run(without))
			one := func(v *verify.Verifier) float64 {
				return testing.AllocsPerRun(1000, func() { _, _ = v.Verify(ctx, compact) })
			}
			b.ReportMetric(one(with)-one(without), "more-allocs")
		})
	}
}
