package verify_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
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
		{"429", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(429)
		}, verify.ErrFetch},
		{"truncated", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100000")
			_, _ = io.WriteString(w, `{"keys":[`)
		}, verify.ErrFetch},
		{"empty object", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{}`) }, verify.ErrKeySet},
		{"no keys", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"keys":[]}`) }, verify.ErrKeySet},
		{"HTML", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>hello</html>") }, verify.ErrKeySet},
		{"huge", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"keys":[`)
			for range 8 {
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

// A certificate that nobody vouches for is no key server.
func TestUntrustedTLS(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(issuer.KeySet())
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	c := startChaos(t, server, issuer)
	c.next(t, verify.ErrFetch)
	if err := c.Check(); !errors.Is(err, verify.ErrKeySetUnavailable) {
		t.Errorf("Check: %v, want %v", err, verify.ErrKeySetUnavailable)
	}
}

// Two key servers behind one address that hold different sets: whichever
// answered last, a token of either is taken after at most one more fetch, and
// no set is a mixture.
func TestAlternatingSets(t *testing.T) {
	a, b := verifytest.NewIssuer(t), verifytest.NewIssuer(t)
	var turn atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if turn.Add(1)%2 == 0 {
			_, _ = w.Write(a.KeySet())
			return
		}
		_, _ = w.Write(b.KeySet())
	}))
	t.Cleanup(server.Close)
	c := startChaos(t, server, a)
	for range 6 {
		f := c.next(t, nil)
		if f.Keys != 1 {
			t.Fatalf("a set of %d keys", f.Keys)
		}
	}
	if s := c.Stats(); s.Changes < 2 {
		t.Errorf("stats %+v", s)
	}
}
