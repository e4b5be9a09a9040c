package verify_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

// chaos is a verifier whose key server misbehaves over real HTTP, and the
// outcomes of its fetches.
type chaos struct {
	*verify.Verifier
	fetches chan verify.Fetch
}

func startChaos(t *testing.T, server *httptest.Server, issuer *verifytest.Issuer) *chaos {
	t.Helper()
	c := &chaos{fetches: make(chan verify.Fetch, 1024)}
	o := issuer.Options()
	o.JWKSURL = server.URL + "/jwks.json"
	o.Cache.FetchTimeout = 150 * time.Millisecond
	o.Cache.MinAge, o.Cache.DefaultAge = 50*time.Millisecond, 50*time.Millisecond
	o.Hooks.Fetched = func(f verify.Fetch) {
		select {
		case c.fetches <- f:
		default:
		}
	}
	v, err := verify.New(o)
	if err != nil {
		t.Fatal(err)
	}
	c.Verifier = v
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return c
}

// errAny stands for every failure in [chaos.next].
var errAny = errors.New("any failure")

// next waits for a fetch that ended with err (nil: well).
func (c *chaos) next(t *testing.T, err error) verify.Fetch {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case f := <-c.fetches:
			if errors.Is(f.Err, err) || errors.Is(err, errAny) && f.Err != nil {
				return f
			}
		case <-timeout:
			t.Fatalf("no fetch with %v", err)
		}
	}
}

// The endpoint starts well, misbehaves, starts from bad, and recovers.
func TestChaos(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(verifytest.NewIssuer(t).KeySet())
	}))
	t.Cleanup(elsewhere.Close)

	var bomb bytes.Buffer // a few kilobytes that unpack to 50 MB
	z := gzip.NewWriter(&bomb)
	for range 50 {
		_, _ = io.WriteString(z, strings.Repeat(" ", 1<<20))
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}

	for _, tc := range []struct {
		name    string
		handler http.HandlerFunc
		want    error
	}{
		{"500", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "sorry", 500) }, verify.ErrFetch},
		{"404", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, verify.ErrFetch},
		{"503 with a good set", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(503)
			_, _ = w.Write(issuer.KeySet())
		}, verify.ErrFetch},
		{"429", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "0") // TestRetryAfter has more
			w.WriteHeader(429)
		}, verify.ErrFetch},
		{"truncated", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100000")
			_, _ = io.WriteString(w, `{"keys":[`)
		}, verify.ErrFetch},
		{"empty object", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{}`) }, verify.ErrKeySet},
		{"no keys", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"keys":[]}`) }, verify.ErrKeySet},
		{"HTML", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>hello</html>") }, verify.ErrKeySet},
		{"empty", func(http.ResponseWriter, *http.Request) {}, verify.ErrKeySet},
		{"50 MB", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"keys":[`)
			for range 50 {
				if _, err := io.WriteString(w, strings.Repeat(" ", 1<<20)); err != nil {
					return
				}
			}
		}, verify.ErrKeySet},
		{"gzip bomb", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb.Bytes())
		}, verify.ErrKeySet},
		{"not gzip", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, "plain")
		}, verify.ErrFetch},
		{"redirect elsewhere", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusFound)
		}, verify.ErrFetch},
		{"redirect to another scheme", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://"+r.Host+"/jwks.json", http.StatusFound)
		}, verify.ErrFetch},
		{"redirect in a ring", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/jwks.json?again", http.StatusFound)
		}, verify.ErrFetch},
		{"slow head", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, verify.ErrFetch},
		{"slow body", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"keys":[`)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, verify.ErrFetch},
		{"byte by byte", func(w http.ResponseWriter, r *http.Request) {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for _, b := range issuer.KeySet() {
				select {
				case <-tick.C:
				case <-r.Context().Done():
					return
				}
				_, _ = w.Write([]byte{b})
				_ = http.NewResponseController(w).Flush()
			}
		}, verify.ErrFetch},
		{"reset", func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}, verify.ErrFetch},
		{"not HTTP", func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			_, _ = io.WriteString(conn, "SSH-2.0-OpenSSH_9.2\r\n")
			_ = conn.Close()
		}, verify.ErrFetch},
		{"endless headers", func(w http.ResponseWriter, _ *http.Request) {
			for i := range 2000 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 100))
			}
		}, verify.ErrFetch},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var bad atomic.Bool
			bad.Store(true)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if bad.Load() {
					tc.handler(w, r)
					return
				}
				_, _ = w.Write(issuer.KeySet())
			}))
			t.Cleanup(server.Close)
			c := startChaos(t, server, issuer)

			c.next(t, tc.want)
			if _, err := c.Verify(t.Context(), issuer.Token("u")); !errors.Is(err, verify.ErrKeySetUnavailable) {
				t.Errorf("bad from the start: %v, want %v", err, verify.ErrKeySetUnavailable)
			}
			bad.Store(false)
			c.next(t, nil)
			if _, err := c.Verify(t.Context(), issuer.Token("u")); err != nil {
				t.Errorf("recovered: %v", err)
			}
			bad.Store(true)
			for range 2 {
				c.next(t, errAny)
			}
			if _, err := c.Verify(t.Context(), issuer.Token("u")); err != nil {
				t.Errorf("bad later: %v", err)
			}
		})
	}
}

// A redirect within the origin is followed.
func TestRedirectWithinOrigin(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/jwks.json" {
			http.Redirect(w, r, "/keys/current", http.StatusFound)
			return
		}
		_, _ = w.Write(issuer.KeySet())
	}))
	t.Cleanup(server.Close)
	c := startChaos(t, server, issuer)
	c.next(t, nil)
	if _, err := c.Verify(t.Context(), issuer.Token("u")); err != nil {
		t.Error(err)
	}
}

// What the endpoint calls its answer is not looked at: many call a key set
// text/plain, and what it is shows when it is read.
func TestContentTypeOfKeySet(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	for _, of := range []string{"text/html; charset=utf-8", "image/png", "nonsense", ""} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = []string{of}
			_, _ = w.Write(issuer.KeySet())
		}))
		t.Cleanup(server.Close)
		c := startChaos(t, server, issuer)
		c.next(t, nil)
		want(t, of, verifyOne(t, c.Verifier, issuer.Token("u")), nil)
	}
}

// Who can't show a certificate for the name asked for is no key server.
func TestTLSFailures(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	quiet := log.New(io.Discard, "", 0)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(issuer.KeySet())
	}))
	server.Config.ErrorLog = quiet
	server.StartTLS()
	t.Cleanup(server.Close)
	plain := httptest.NewServer(server.Config.Handler)
	plain.Config.ErrorLog = quiet
	t.Cleanup(plain.Close)
	trusted := x509.NewCertPool()
	trusted.AddCert(server.Certificate())

	for _, tc := range []struct {
		name, url string
		config    *tls.Config
		want      error
	}{
		{"good", server.URL, &tls.Config{RootCAs: trusted}, nil},
		{"of an authority that nobody knows", server.URL, &tls.Config{}, verify.ErrFetch},
		{"for another name", "https://id.example", &tls.Config{RootCAs: trusted}, verify.ErrFetch},
		{"not any more valid", server.URL, &tls.Config{RootCAs: trusted, Time: func() time.Time { return time.Date(2150, 1, 1, 0, 0, 0, 0, time.UTC) }}, verify.ErrFetch},
		{"not yet valid", server.URL, &tls.Config{RootCAs: trusted, Time: func() time.Time { return time.Date(1960, 1, 1, 0, 0, 0, 0, time.UTC) }}, verify.ErrFetch},
		{"no common version", server.URL, &tls.Config{RootCAs: trusted, MaxVersion: tls.VersionTLS11}, verify.ErrFetch},
		{"no TLS at all", strings.Replace(plain.URL, "http:", "https:", 1), &tls.Config{RootCAs: trusted}, verify.ErrFetch},
	} {
		at := strings.TrimPrefix(server.URL, "https://")
		if tc.name == "no TLS at all" {
			at = strings.TrimPrefix(plain.URL, "http://")
		}
		fetches := make(chan verify.Fetch, 100)
		o := issuer.Options()
		o.JWKSURL = tc.url
		o.HTTPClient = &http.Client{Transport: &http.Transport{
			TLSClientConfig: tc.config,
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, at)
			},
		}}
		o.Hooks.Fetched = func(f verify.Fetch) {
			select {
			case fetches <- f:
			default:
			}
		}
		v, err := verify.New(o)
		noError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- v.Run(ctx) }()
		want(t, tc.name, (<-fetches).Err, tc.want)
		if tc.want != nil {
			want(t, tc.name, v.Check(), verify.ErrKeySetUnavailable)
		}
		cancel()
		noError(t, <-done)
	}
}

// Two key servers behind one address, of which one missed a rotation: a token
// of either is taken, at the price of a fetch, while the budget lasts. No set
// is a mixture, so what one of them revoked is not kept alive by the other.
func TestAlternatingSets(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	sets, tokens := [2][]byte{issuer.KeySet()}, [2]string{issuer.Token("u")}
	issuer.Rotate()
	issuer.Revoke()
	sets[1], tokens[1] = issuer.KeySet(), issuer.Token("u")
	var turn atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=3600")
		_, _ = w.Write(sets[(turn.Add(1)-1)%2])
	}))
	t.Cleanup(server.Close)
	c := startChaos(t, server, issuer)
	noError(t, c.Wait(t.Context()))
	for i := range verify.DefaultBurst + 1 {
		want(t, fmt.Sprint("token ", i), verifyOne(t, c.Verifier, tokens[i%2]), nil)
		if s := c.Stats(); s.Keys != 1 || s.Changes != uint64(i)+1 {
			t.Fatalf("after %d: %+v", i, s)
		}
	}
	want(t, "when the budget is used up", verifyOne(t, c.Verifier, tokens[(verify.DefaultBurst+1)%2]), verify.ErrKeyUnknown)
	want(t, "the other, meanwhile", verifyOne(t, c.Verifier, tokens[verify.DefaultBurst%2]), nil)
}

// The clock jumps, by a machine that slept or a time server that erred: what
// is refused then is taken again when it is right, and nothing is stuck.
func TestClockJumps(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	var jump atomic.Int64
	now := func() time.Time { return time.Now().Round(0).Add(time.Duration(jump.Load())) } // without the monotonic clock
	var down atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.WriteHeader(503)
			return
		}
		w.Header().Set("Cache-Control", "max-age=300")
		_, _ = w.Write(issuer.KeySet())
	}))
	t.Cleanup(server.Close)
	o := issuer.Options()
	o.JWKSURL, o.Now, o.TokenCacheBytes = server.URL, now, 1<<20
	v, err := verify.New(o)
	noError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	noError(t, v.Wait(ctx))
	token := func() string { // good by the verifier's clock
		c := issuer.Claims("u")
		c.IssuedAt, c.Expiry = now().Unix(), now().Unix()+300
		return issuer.Mint(verify.EdDSA, c)
	}
	first := token()
	want(t, "before", verifyOne(t, v, first), nil)

	jump.Store(int64(24 * time.Hour))
	want(t, "a day ahead, the issuer up", verifyOne(t, v, token()), nil)
	want(t, "a day ahead, the token of before", verifyOne(t, v, first), verify.ErrExpired)
	jump.Store(int64(-24 * time.Hour))
	want(t, "a day back", verifyOne(t, v, token()), nil)
	want(t, "a day back, the token of before", verifyOne(t, v, first), verify.ErrNotYetValid)
	want(t, "a day back, an unknown kid", verifyOne(t, v, issuer.Sign(verify.EdDSA, `{"alg":"EdDSA","kid":"x","typ":"at+jwt"}`, `{}`)), verify.ErrKeyUnknown)
	jump.Store(0)
	want(t, "right again", verifyOne(t, v, first), nil)

	down.Store(true)
	jump.Store(int64(48 * time.Hour))
	want(t, "two days ahead, the issuer down", verifyOne(t, v, token()), verify.ErrKeySetUnavailable)
	jump.Store(0)
	want(t, "right again, the issuer down", verifyOne(t, v, first), nil)
	cancel()
	noError(t, <-done)
}

// 10,000 requests in flight at once, half of them with kids that somebody made
// up, while the endpoint is slow: every good token is taken, the issuer is asked within the budget, and memory is bounded.
func TestFloodInFlight(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	var fetches atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fetches.Add(1)
		select {
		case <-time.After(100 * time.Millisecond):
		case <-r.Context().Done():
		}
		w.Header().Set("Cache-Control", "max-age=3600")
		_, _ = w.Write(issuer.KeySet())
	}))
	t.Cleanup(server.Close)
	o := issuer.Options()
	o.JWKSURL, o.TokenCacheBytes = server.URL, 1<<20
	v, err := verify.New(o)
	noError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	noError(t, v.Wait(ctx))
	h := v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))

	old := issuer.Token("u")
	var good []string
	for i := range 100 {
		good = append(good, issuer.Token(fmt.Sprint("user-", i)))
	}
	made := make([]string, inFlight/2)
	for i := range made {
		made[i] = b64(fmt.Sprintf(`{"alg":"EdDSA","kid":"made-up-%d-%s","typ":"at+jwt"}`, i, strings.Repeat("x", 200))) + old[strings.IndexByte(old, '.'):]
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, began := fetches.Load(), time.Now()
	start := make(chan struct{})
	held := heap()
	var wg sync.WaitGroup
	var accepted, refused, wrong atomic.Int64
	ask := func(raw string, want int) {
		<-start
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", "Bearer "+raw)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch {
		case w.Code != want:
			wrong.Add(1)
		case want == http.StatusNoContent:
			accepted.Add(1)
		default:
			refused.Add(1)
		}
	}
	for i := range inFlight / 2 {
		wg.Go(func() { ask(made[i], http.StatusUnauthorized) })
		wg.Go(func() { ask(good[i%len(good)], http.StatusNoContent) })
	}
	close(start)
	wg.Wait()
	took, asked := time.Since(began), fetches.Load()-before
	grown := int64(heap()) - int64(held)
	t.Logf("%d in flight: %d accepted, %d refused, %d fetches (budget %d at once, one more each %v) in %v, %d KiB of heap kept",
		inFlight, accepted.Load(), refused.Load(), asked, verify.DefaultBurst, verify.DefaultEvery, took.Round(time.Millisecond), grown>>10)
	if wrong.Load() != 0 {
		t.Errorf("%d requests with another answer", wrong.Load())
	}
	if most := verify.DefaultBurst + int64(took/verify.DefaultEvery) + 1; asked > most {
		t.Errorf("%d fetches, want at most %d", asked, most)
	}
	if grown > 8<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	cancel()
	noError(t, <-done)
}
