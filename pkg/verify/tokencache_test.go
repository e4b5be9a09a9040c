package verify_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

// caching returns a fixed verifier with a token cache, and how many of its
// verdicts came from there.
func caching(tb testing.TB, issuer *verifytest.Issuer, change ...func(*verify.Options)) (*verify.Verifier, *int) {
	tb.Helper()
	hits := new(int)
	return fixed(tb, issuer, append(change, func(o *verify.Options) {
		if o.TokenCacheBytes == 0 {
			o.TokenCacheBytes = verify.DefaultTokenCacheBytes
		}
		o.Hooks.Verified = func(out verify.Outcome) {
			if out.Cached {
				*hits++
			}
		}
	})...), hits
}

func TestTokenCacheAnswersAlike(t *testing.T) {
	issuer := verifytest.NewIssuer(t, verify.Algorithms()...)
	v, hits := caching(t, issuer)
	for _, alg := range verify.Algorithms() {
		raw := issuer.Mint(alg, issuer.Claims("user-1", "a", "b"))
		first, err := v.Verify(t.Context(), raw)
		want(t, "first", err, nil)
		second, err := v.Verify(t.Context(), strings.Clone(raw))
		want(t, "second", err, nil)
		if first != second {
			t.Errorf("%s: other claims from the cache", alg)
		}
		// Whatever is not that token byte for byte is judged by itself.
		for i := range len(raw) {
			changed := []byte(raw)
			changed[i] ^= 1
			if _, err := v.Verify(t.Context(), string(changed)); err == nil {
				t.Fatalf("%s: accepted with byte %d changed", alg, i)
			}
		}
	}
	if n := len(verify.Algorithms()); *hits != n {
		t.Errorf("%d hits, want %d", *hits, n)
	}
	if s := v.Stats(); s.Tokens != 4 || s.TokensStored != 4 || s.TokenBytes == 0 {
		t.Errorf("stats %+v", s)
	}
}

// The clock goes on, and back, over tokens that are held.
func TestTokenCacheHonoursTimes(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	now := time.Unix(2_000_000_000, 0)
	v, hits := caching(t, issuer, func(o *verify.Options) {
		o.Leeway = 10 * time.Second
		o.Now = func() time.Time { return now }
	})
	raw := issuer.Sign(verify.EdDSA, fmt.Sprintf(`{"alg":"EdDSA","kid":%q,"typ":"at+jwt"}`, issuer.KeyID(verify.EdDSA)),
		fmt.Sprintf(`{"iss":%q,"aud":"verifytest","sub":"u","exp":2000000100,"nbf":2000000000}`, issuer.URL))
	for _, tc := range []struct {
		at   time.Duration
		want error
		hits int
	}{
		{0, nil, 0},
		{time.Second, nil, 1},
		{110*time.Second - 1, nil, 2},
		{110 * time.Second, verify.ErrExpired, 3},
		{-10 * time.Second, nil, 4},
		{-10*time.Second - 1, verify.ErrNotYetValid, 5},
		{0, nil, 6},
	} {
		now = time.Unix(2_000_000_000, 0).Add(tc.at)
		want(t, fmt.Sprint("at ", tc.at), verifyOne(t, v, raw), tc.want)
		if *hits != tc.hits {
			t.Errorf("at %v: %d hits, want %d", tc.at, *hits, tc.hits)
		}
	}
}

// A token is void in the instant in which its key leaves the set, and so is
// everything when the set is too old to be used.
func TestTokenCacheFollowsTheKeySet(t *testing.T) {
	bubble(t, func(o *verify.Options, _ *endpoint) {
		o.TokenCacheBytes = verify.DefaultTokenCacheBytes
		o.Cache.MaxStale = time.Minute
	}, func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
		k.now = func() time.Time { return time.Now().Add(24 * time.Hour) }
		old := k.token()
		for range 2 {
			want(t, "old", verifyOne(t, v, old), nil)
		}
		k.Rotate()
		e.set(serve(k.KeySet(), maxAge(300)))
		want(t, "new", verifyOne(t, v, k.token()), nil)
		want(t, "old, its key still there", verifyOne(t, v, old), nil)
		k.Revoke()
		e.set(serve(k.KeySet(), maxAge(300)))
		want(t, "a made-up kid fetches", verifyOne(t, v, k.named("made-up")), verify.ErrKeyUnknown)
		if s := v.Stats(); s.Tokens != 0 || s.TokenBytes != 0 {
			t.Errorf("kept of the set before: %+v", s)
		}
		want(t, "old, its key gone", verifyOne(t, v, old), verify.ErrKeyUnknown)

		fresh := k.token()
		want(t, "fresh", verifyOne(t, v, fresh), nil)
		e.set(fail)
		time.Sleep(6*time.Minute + time.Second)
		synctest.Wait()
		want(t, "set too old", verifyOne(t, v, fresh), verify.ErrKeySetUnavailable)
	})
}

// However many tokens come, the bytes are bounded, and the room goes on to be
// of use.
func TestTokenCacheIsBounded(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	const limit = 256 << 10
	v, hits := caching(t, issuer, func(o *verify.Options) { o.TokenCacheBytes = limit })
	for i := range 2000 {
		raw := issuer.Token("u", strings.Repeat("x", i%2000))
		want(t, "token", verifyOne(t, v, raw), nil)
		if s := v.Stats(); s.TokenBytes > limit {
			t.Fatalf("%d bytes after %d tokens", s.TokenBytes, i)
		}
	}
	s := v.Stats()
	t.Logf("%+v", s)
	if s.TokensEvicted == 0 || s.Tokens < 50 {
		t.Errorf("stats %+v", s)
	}
	recent := issuer.Token("u")
	before := *hits
	for range 2 {
		want(t, "recent", verifyOne(t, v, recent), nil)
	}
	if *hits != before+1 {
		t.Error("a full cache keeps no more")
	}
	// One that is too large for its share is verified and not kept.
	stored := v.Stats().TokensStored
	want(t, "large", verifyOne(t, v, issuer.Token("u", strings.Repeat("x", 3000))), nil)
	if v.Stats().TokensStored != stored {
		t.Error("a large token was kept")
	}
}

func TestTokenCacheUnderConcurrency(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	v := fixed(t, issuer, func(o *verify.Options) { o.TokenCacheBytes = 16 << 10 }) // one set of eight
	raws := make([]string, 20)
	for i := range raws {
		raws[i] = issuer.Token(fmt.Sprint("user-", i))
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				n := (i*7 + g) % len(raws)
				claims, err := v.Verify(t.Context(), raws[n])
				if err != nil || claims.Subject != fmt.Sprint("user-", n) {
					t.Errorf("%v, %+v", err, claims)
					return
				}
			}
		})
	}
	wg.Wait()
	if s := v.Stats(); s.TokenBytes > 16<<10 || s.Tokens > 8 {
		t.Errorf("stats %+v", s)
	}
}

type tenant struct {
	Tenant string `json:"tenant"`
	Limits struct {
		Rate int `json:"rate"`
	} `json:"limits"`
}

func TestPrivateClaims(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	sign := func(more string) string {
		return issuer.Sign(verify.EdDSA, fmt.Sprintf(`{"alg":"EdDSA","kid":%q,"typ":"at+jwt"}`, issuer.KeyID(verify.EdDSA)),
			fmt.Sprintf(`{"iss":%q,"aud":"verifytest","sub":"u","exp":4e9%s}`, issuer.URL, more))
	}
	for _, tc := range []struct {
		name, more string
		tenant     string
		rate       int
		want       error
	}{
		{"there", `,"tenant":"t1","limits":{"rate":7}`, "t1", 7, nil},
		{"absent", ``, "", 0, nil},
		{"of the wrong kind", `,"tenant":7`, "", 0, verify.ErrClaims},
		{"out of range", `,"limits":{"rate":1e99}`, "", 0, verify.ErrClaims},
		{"twice, in two cases", `,"tenant":"t1","Tenant":"t2"`, "", 0, verify.ErrClaims},
		{"twice, by the Kelvin sign", `,"k":1,"` + "\u212a" + `":2`, "", 0, verify.ErrClaims},
		{"twice inside", `,"limits":{"rate":1,"RATE":2}`, "", 0, verify.ErrClaims},
		{"twice among many", `,"tenant":"a"` + manyMembers(50) + `,"TENANT":"b"`, "", 0, verify.ErrClaims},
	} {
		for _, v := range []*verify.Verifier{fixed(t, issuer), fixed(t, issuer, func(o *verify.Options) { o.TokenCacheBytes = 1 << 20 })} {
			for range 2 {
				claims, private, err := verify.As[tenant](t.Context(), v, sign(tc.more))
				if !errors.Is(err, tc.want) {
					t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
				}
				if err == nil && (claims.Subject != "u" || private.Tenant != tc.tenant || private.Limits.Rate != tc.rate) {
					t.Errorf("%s: %+v, %+v", tc.name, claims, private)
				}
			}
		}
	}
	v := fixed(t, issuer)
	if _, _, err := verify.As[tenant](t.Context(), v, "x"); !errors.Is(err, verify.ErrMalformed) {
		t.Errorf("%v, want %v", err, verify.ErrMalformed)
	}
	if _, err := verify.Private[tenant](t.Context()); !errors.Is(err, verify.ErrMissing) {
		t.Errorf("%v, want %v", err, verify.ErrMissing)
	}
}

func TestSeveralIssuers(t *testing.T) {
	a, b, c := verifytest.NewIssuer(t, verify.EdDSA), verifytest.NewIssuer(t, verify.RS256), verifytest.NewIssuer(t)
	options := func(i *verifytest.Issuer) verify.Options {
		o := fixedOptions(t, i)
		o.TokenCacheBytes = 1 << 20
		return o
	}
	v, err := verify.NewMulti(options(a), options(b))
	if err != nil {
		t.Fatal(err)
	}
	head := func(alg, kid string) string { return fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"at+jwt"}`, alg, kid) }
	body := func(iss string) string {
		return fmt.Sprintf(`{"iss":%q,"aud":"verifytest","sub":"u","exp":4e9}`, iss)
	}
	for _, tc := range []struct {
		name, raw string
		want      error
	}{
		{"of a", a.Token("u"), nil},
		{"of b", b.Token("u"), nil},
		{"of neither", c.Token("u"), verify.ErrIssuer},
		{"a's key, b's name", a.Sign(verify.EdDSA, head(verify.EdDSA, a.KeyID(verify.EdDSA)), body(b.URL)), verify.ErrKeyUnknown},
		{"a's key, b's name and kid", a.Sign(verify.EdDSA, head(verify.RS256, b.KeyID(verify.RS256)), body(b.URL)), verify.ErrSignature},
		{"a's name twice", a.Sign(verify.EdDSA, head(verify.EdDSA, a.KeyID(verify.EdDSA)), body(a.URL)[:1]+fmt.Sprintf(`"iss":%q,`, b.URL)+body(a.URL)[1:]), verify.ErrClaims},
		{"no name", a.Sign(verify.EdDSA, head(verify.EdDSA, a.KeyID(verify.EdDSA)), `{"aud":"verifytest","sub":"u","exp":4e9}`), verify.ErrIssuer},
	} {
		for range 2 { // the second time from the caches
			want(t, tc.name, verifyOne(t, v, tc.raw), tc.want)
		}
	}
	if s := v.Stats(); s.Keys != 2 || !s.Usable || s.Tokens != 2 {
		t.Errorf("stats %+v", s)
	}
	if s, ok := v.StatsOf(b.URL); !ok || s.Keys != 1 {
		t.Errorf("stats of b %+v", s)
	}
	if _, ok := v.StatsOf(c.URL); ok {
		t.Error("stats of a stranger")
	}
	for name, issuers := range map[string][]verify.Options{
		"none":  nil,
		"twice": {options(a), options(a)},
		"bad":   {options(a), {}},
	} {
		if _, err := verify.NewMulti(issuers...); !errors.Is(err, verify.ErrOptions) {
			t.Errorf("%s: %v, want %v", name, err, verify.ErrOptions)
		}
	}
}

// One issuer's outage is felt by its own users only.
func TestOneOfSeveralIssuersIsDown(t *testing.T) {
	up, down := verifytest.NewIssuer(t), verifytest.NewIssuer(t)
	first, second := up.Options(), down.Options()
	second.JWKSURL = down.URL + "/nothing-here"
	arrived := make(chan struct{})
	first.Hooks.Fetched = func(f verify.Fetch) {
		if f.Changed {
			close(arrived)
		}
	}
	v, err := verify.NewMulti(first, second)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { want(t, "Run", v.Run(ctx), nil) })
	defer running.Wait()
	defer cancel()
	<-arrived
	over, stop := context.WithCancel(ctx)
	stop()
	want(t, "Wait for both", v.Wait(over), verify.ErrKeySetUnavailable)
	want(t, "Check", v.Check(), nil)
	want(t, "up", verifyOne(t, v, up.Token("u")), nil)
	want(t, "down", verifyOne(t, v, down.Token("u")), verify.ErrKeySetUnavailable)
	if v.Stats().Usable {
		t.Error("stats say that all sets are usable")
	}
	want(t, "second Run", v.Run(ctx), verify.ErrRunning)
}
