package verify_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/pace"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

// endpoint is a key server without a network, for tests in a synctest bubble.
type endpoint struct {
	mu      sync.Mutex // guards what follows
	asked   []time.Time
	tags    []string      // the If-None-Match of each request
	delay   time.Duration // before each answer
	respond func() (status int, header map[string]string, body string)
}

func (e *endpoint) RoundTrip(r *http.Request) (*http.Response, error) {
	e.mu.Lock()
	e.asked = append(e.asked, time.Now())
	e.tags = append(e.tags, r.Header.Get("If-None-Match"))
	delay, respond := e.delay, e.respond
	e.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	status, header, body := respond()
	if status == 0 {
		return nil, errors.New("connection refused")
	}
	h := http.Header{}
	for k, v := range header {
		h.Set(k, v)
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

func (e *endpoint) set(respond func() (int, map[string]string, string)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.respond = respond
}

func (e *endpoint) slow(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.delay = d
}

func (e *endpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.asked)
}

func (e *endpoint) last() (at time.Time, tag string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asked[len(e.asked)-1], e.tags[len(e.tags)-1]
}

func serve(doc []byte, header map[string]string) func() (int, map[string]string, string) {
	return func() (int, map[string]string, string) { return 200, header, string(doc) }
}

func fail() (int, map[string]string, string) { return 0, nil, "" }

func maxAge(seconds int) map[string]string {
	return map[string]string{"Cache-Control": "public, max-age=" + strconv.Itoa(seconds)}
}

// keyring signs in a bubble, where no listener may be.
type keyring struct {
	*verifytest.Issuer
	now func() time.Time
}

// token mints a token that the bubble's clock finds good.
func (k keyring) token() string { return k.named(k.KeyID(verify.EdDSA)) }

func (k keyring) named(kid string) string {
	return k.Sign(verify.EdDSA, fmt.Sprintf(`{"alg":"EdDSA","kid":%q,"typ":"at+jwt"}`, kid),
		fmt.Sprintf(`{"iss":%q,"aud":"verifytest","sub":"u","exp":%d}`, k.URL, k.now().Add(time.Minute).Unix()))
}

// bubble runs f in a synctest bubble with a running verifier on an endpoint
// that serves the issuer's keys with max-age 300.
func bubble(t *testing.T, change func(*verify.Options, *endpoint), f func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring)) {
	t.Helper()
	issuer := verifytest.NewIssuer(t)
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{respond: serve(issuer.KeySet(), maxAge(300))}
		o := issuer.Options()
		o.HTTPClient = &http.Client{Transport: e}
		if change != nil {
			change(&o, e)
		}
		v, err := verify.New(o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- v.Run(ctx) }()
		synctest.Wait()
		f(t, v, e, keyring{issuer, time.Now})
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func want(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func verifyOne(t *testing.T, v *verify.Verifier, raw string) error {
	t.Helper()
	_, err := v.Verify(t.Context(), raw)
	return err
}

func TestRefreshAhead(t *testing.T) {
	bubble(t, nil, func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
		time.Sleep(4 * time.Hour)
		synctest.Wait()
		spread := map[time.Duration]bool{}
		for i := 1; i < e.count(); i++ {
			gap := e.asked[i].Sub(e.asked[i-1])
			if gap < 210*time.Second || gap > 270*time.Second {
				t.Errorf("a gap of %v, want 210 to 270 s", gap)
			}
			spread[gap] = true
		}
		if len(spread) < 50 {
			t.Errorf("only %d different gaps in four hours: no jitter", len(spread))
		}
		want(t, "after hours", verifyOne(t, v, k.token()), nil)
		if s := v.Stats(); s.Changes != 1 || s.Failures != 0 || s.Stale {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestLifeWithinClamps(t *testing.T) {
	for _, tc := range []struct {
		name     string
		header   map[string]string
		min, max time.Duration
	}{
		{"max-age", maxAge(600), 420 * time.Second, 540 * time.Second},
		{"less Age", map[string]string{"Cache-Control": "max-age=600", "Age": "500"}, 101 * time.Second, 108 * time.Second},
		{"older than that", map[string]string{"Cache-Control": "max-age=600", "Age": "6000"}, 7 * time.Second, 14 * time.Second},
		{"zero", maxAge(0), 10 * time.Second, 14 * time.Second},
		{"no-store", map[string]string{"Cache-Control": "no-store"}, 10 * time.Second, 14 * time.Second},
		{"a year", maxAge(365 * 86400), 42 * time.Minute, 54 * time.Minute},
		{"silent", nil, 210 * time.Second, 270 * time.Second},
	} {
		bubble(t, func(o *verify.Options, e *endpoint) {
			_, _, doc := e.respond()
			e.set(serve([]byte(doc), tc.header))
		}, func(t *testing.T, _ *verify.Verifier, e *endpoint, _ keyring) {
			first, _ := e.last()
			time.Sleep(tc.max)
			synctest.Wait()
			second, _ := e.last()
			if gap := second.Sub(first); gap < tc.min || gap > tc.max {
				t.Errorf("%s: next fetch after %v, want %v to %v", tc.name, gap, tc.min, tc.max)
			}
		})
	}
}

// store lets the endpoint answer as a CDN does: with a copy of doc that it
// keeps for its max-age of 300 s and gives to everybody.
func (e *endpoint) store(doc func() []byte) {
	var held []byte
	var since time.Time
	e.set(func() (int, map[string]string, string) {
		age := time.Since(since)
		if age >= 300*time.Second {
			held, since, age = doc(), time.Now(), 0
		}
		h := maxAge(300)
		h["Age"] = strconv.Itoa(int(age / time.Second))
		return 200, h, string(held)
	})
}

// Behind a cache a verifier asks once for each copy, when the one before has
// ended. It drops a revoked key with the copy. It is never late, so that even
// one that may use no stale set goes on.
func TestBehindCache(t *testing.T) {
	var published atomic.Value
	bubble(t, func(o *verify.Options, e *endpoint) {
		o.Cache.MaxStale = -1
		_, _, doc := e.respond()
		published.Store([]byte(doc))
		e.slow(time.Second)
		e.store(func() []byte { return published.Load().([]byte) })
	}, func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
		want(t, "Wait", v.Wait(t.Context()), nil)
		until := func(d time.Duration, done func(verify.Stats) bool) (took time.Duration) {
			for took < d && !done(v.Stats()) {
				if s := v.Stats(); s.Stale || !s.Usable {
					t.Fatalf("after %v: stats %+v", took, s)
				}
				time.Sleep(time.Second)
				took += time.Second
			}
			return took
		}
		n := e.count()
		until(4*time.Hour, func(verify.Stats) bool { return false })
		if got := e.count() - n; got < 46 || got > 48 {
			t.Errorf("%d fetches in four hours, want one in 300 s", got)
		}
		const most = 300*time.Second + verify.DefaultMinAge
		for range 20 {
			k.Rotate()
			published.Store(k.KeySet())
			if took := until(2*most, func(s verify.Stats) bool { return s.Keys == 2 }); took > most {
				t.Errorf("a new key was seen after %v", took)
			}
			want(t, "new key", verifyOne(t, v, k.token()), nil)
			k.Revoke()
			published.Store(k.KeySet())
			if took := until(2*most, func(s verify.Stats) bool { return s.Keys == 1 }); took > most {
				t.Errorf("a revoked key was taken for %v", took)
			}
		}
	})
}

func TestNotModified(t *testing.T) {
	bubble(t, func(_ *verify.Options, e *endpoint) {
		_, _, doc := e.respond()
		e.set(serve([]byte(doc), map[string]string{"Cache-Control": "max-age=300", "ETag": `"v1"`}))
	}, func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
		want(t, "first", verifyOne(t, v, k.token()), nil)
		e.set(func() (int, map[string]string, string) { return 304, maxAge(300), "" })
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if _, tag := e.last(); tag != `"v1"` {
			t.Errorf("If-None-Match is %q", tag)
		}
		want(t, "after a day of 304", verifyOne(t, v, k.token()), nil)
		if s := v.Stats(); s.Failures != 0 || s.Changes != 1 || s.Age > 5*time.Minute {
			t.Errorf("stats %+v", s)
		}
	})
}

// 304 to a question without If-None-Match brings nothing.
func TestUnaskedNotModified(t *testing.T) {
	bubble(t, func(_ *verify.Options, e *endpoint) {
		e.set(func() (int, map[string]string, string) { return 304, nil, "" })
	}, func(t *testing.T, v *verify.Verifier, _ *endpoint, _ keyring) {
		want(t, "Check", v.Check(), verify.ErrKeySetUnavailable)
		want(t, "Check", v.Check(), verify.ErrFetch)
	})
}

func TestDownAtStartThenUp(t *testing.T) {
	var fetches []verify.Fetch
	bubble(t, func(o *verify.Options, e *endpoint) {
		e.set(fail)
		o.Hooks.Fetched = func(f verify.Fetch) { fetches = append(fetches, f) }
	}, func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
		want(t, "Check", v.Check(), verify.ErrKeySetUnavailable)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := e.count(); n < 9 || n > 12 {
			t.Errorf("%d attempts in the first minute, want 9 to 12", n)
		}
		e.set(serve(k.KeySet(), maxAge(300)))
		time.Sleep(pace.LastRetry)
		synctest.Wait()
		want(t, "Check", v.Check(), nil)
		want(t, "Verify", verifyOne(t, v, k.token()), nil)
		last := fetches[len(fetches)-1]
		if fetches[0].Err == nil || last.Err != nil || !last.Changed || last.Keys != 1 || last.Status != 200 {
			t.Errorf("fetches told: first %+v, last %+v", fetches[0], last)
		}
	})
}

// A request that finds no set need not wait out the pause after a failure,
// but only as often as the budget allows.
func TestRequestsHurryTheFirstSet(t *testing.T) {
	bubble(t, func(_ *verify.Options, e *endpoint) { e.set(fail) },
		func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
			time.Sleep(time.Minute)
			synctest.Wait()
			n := e.count()
			for range 100 {
				want(t, "down", verifyOne(t, v, k.token()), verify.ErrKeySetUnavailable)
			}
			if got := e.count() - n; got != verify.DefaultBurst {
				t.Errorf("100 requests made %d fetches, want %d", got, verify.DefaultBurst)
			}
			time.Sleep(verify.DefaultEvery)
			e.set(serve(k.KeySet(), maxAge(300)))
			want(t, "up", verifyOne(t, v, k.token()), nil)
		})
}

func TestStaleThenFailClosed(t *testing.T) {
	bubble(t, func(o *verify.Options, _ *endpoint) { o.Cache.MaxStale = 30 * time.Minute },
		func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
			e.set(fail)
			time.Sleep(35*time.Minute - time.Second)
			want(t, "just before the end", verifyOne(t, v, k.token()), nil)
			if s := v.Stats(); !s.Stale || !s.Usable {
				t.Errorf("stats %+v", s)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			want(t, "at the end", verifyOne(t, v, k.token()), verify.ErrKeySetUnavailable)
			want(t, "Check", v.Check(), verify.ErrKeySetUnavailable)
			e.set(serve(k.KeySet(), maxAge(300)))
			time.Sleep(verify.DefaultEvery) // a token that comes need not wait for pace.LastRetry
			want(t, "after", verifyOne(t, v, k.token()), nil)
		})
}

// An outage within MaxStale: tokens with known kids wait for nothing, attempts
// get rare, and made-up kids cost their budget instead of adding to them. When
// it is over, what has changed is known a minute later.
func TestKeySetOutage(t *testing.T) {
	bubble(t, nil, func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
		attempts := func(perSecond func(i int)) int {
			n := e.count()
			for i := range 600 {
				perSecond(i)
				began := time.Now()
				want(t, "known", verifyOne(t, v, k.token()), nil)
				if waited := time.Since(began); waited != 0 {
					t.Fatalf("a known kid waited %v", waited)
				}
				time.Sleep(time.Second)
			}
			return e.count() - n
		}
		e.set(fail)
		time.Sleep(10 * time.Minute)
		if got := attempts(func(int) {}); got < 10 || got > 20 {
			t.Errorf("%d attempts in ten minutes, want one in 30 to 60 s", got)
		}
		got := attempts(func(i int) {
			want(t, "made up", verifyOne(t, v, k.named(fmt.Sprint("kid-", i))), verify.ErrKeyUnknown)
		})
		if most := verify.DefaultBurst + 600/10; got > most {
			t.Errorf("%d attempts in ten minutes of made-up kids, want %d", got, most)
		}
		k.Rotate()
		e.set(serve(k.KeySet(), maxAge(300)))
		time.Sleep(pace.LastRetry)
		synctest.Wait()
		if s := v.Stats(); s.Keys != 2 || s.Stale {
			t.Errorf("stats %+v", s)
		}
	})
}

// Whatever is not a usable set leaves the one that is held.
func TestBadAnswersReplaceNothing(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	doc := string(issuer.KeySet())
	for name, respond := range map[string]func() (int, map[string]string, string){
		"500":           func() (int, map[string]string, string) { return 500, nil, doc },
		"404":           func() (int, map[string]string, string) { return 404, nil, "" },
		"204":           func() (int, map[string]string, string) { return 204, nil, "" },
		"206":           func() (int, map[string]string, string) { return 206, nil, doc },
		"empty body":    serve(nil, nil),
		"empty object":  serve([]byte(`{}`), nil),
		"no keys":       serve([]byte(`{"keys":[]}`), nil),
		"null keys":     serve([]byte(`{"keys":null}`), nil),
		"keys twice":    serve([]byte(strings.TrimSuffix(doc, "}")+`,"keys":[]}`), nil),
		"unusable keys": serve([]byte(`{"keys":[{"kty":"AKP","kid":"x"},{}]}`), nil),
		"truncated":     serve([]byte(doc[:len(doc)/2]), nil),
		"HTML":          serve([]byte("<!doctype html><title>Welcome</title>"), nil),
		"trailing":      serve([]byte(doc+"x"), nil),
		"too long":      serve([]byte(doc+strings.Repeat(" ", verify.DefaultMaxKeySetBytes)), nil),
		"refused":       fail,
	} {
		bubble(t, nil, func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
			e.set(respond)
			time.Sleep(6 * time.Minute)
			synctest.Wait()
			want(t, name, verifyOne(t, v, k.token()), nil)
			if s := v.Stats(); s.Failures == 0 || s.Changes != 1 {
				t.Errorf("%s: stats %+v", name, s)
			}
		})
	}
}

func TestRotation(t *testing.T) {
	bubble(t, nil, func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
		old := k.token()
		want(t, "old", verifyOne(t, v, old), nil)
		k.Rotate()
		e.set(serve(k.KeySet(), maxAge(300)))
		n := e.count()
		want(t, "new key, found at once", verifyOne(t, v, k.token()), nil)
		want(t, "old key", verifyOne(t, v, old), nil)
		if got := e.count() - n; got != 1 {
			t.Errorf("%d fetches, want 1", got)
		}
		k.Revoke()
		e.set(serve(k.KeySet(), maxAge(300)))
		oldAgain := old
		time.Sleep(45 * time.Second) // the token still lives
		want(t, "revoked, not yet fetched", verifyOne(t, v, oldAgain), nil)
		want(t, "a made-up kid fetches", verifyOne(t, v, k.named("made-up")), verify.ErrKeyUnknown)
		want(t, "revoked", verifyOne(t, v, oldAgain), verify.ErrKeyUnknown)
	})
}

// 5,000 callers with made-up kids, 1,000 with good tokens, and an endpoint that
// takes 3 s.
func TestFloodOfUnknownKids(t *testing.T) {
	bubble(t, nil, func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
		e.slow(3 * time.Second)
		n, began := e.count(), time.Now()
		good := k.token()
		var wg sync.WaitGroup
		for i := range 5000 {
			forged := b64(fmt.Sprintf(`{"alg":"EdDSA","kid":"kid-%d","typ":"at+jwt"}`, i)) + good[strings.IndexByte(good, '.'):]
			wg.Go(func() { want(t, "forged", verifyOne(t, v, forged), verify.ErrKeyUnknown) })
			if i%5 != 0 {
				continue
			}
			wg.Go(func() {
				want(t, "good", verifyOne(t, v, good), nil)
				if waited := time.Since(began); waited != 0 {
					t.Errorf("a good token waited %v", waited)
				}
			})
		}
		wg.Wait()
		if got := e.count() - n; got > verify.DefaultBurst {
			t.Errorf("%d fetches, want at most %d", got, verify.DefaultBurst)
		}
		t.Logf("6,000 requests, 5,000 made-up kids: %d fetches in %v", e.count()-n, time.Since(began))
	})
}

// The budget holds for ever, and a flood does not keep a new key out.
func TestBudget(t *testing.T) {
	bubble(t, func(_ *verify.Options, e *endpoint) {
		_, _, doc := e.respond()
		e.set(serve([]byte(doc), maxAge(3600)))
	}, func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
		n := e.count()
		for i := range 600 {
			want(t, "flood", verifyOne(t, v, k.named(fmt.Sprint("kid-", i))), verify.ErrKeyUnknown)
			time.Sleep(time.Second)
		}
		got := e.count() - n
		if most := verify.DefaultBurst + 600/10; got > most || got < most-2 {
			t.Errorf("%d fetches in ten minutes, want about %d", got, most)
		}
		if s := v.Stats(); s.OnDemand != uint64(got) || s.Denied != 600-uint64(got) {
			t.Errorf("stats %+v", s)
		}
		k.Rotate()
		e.set(serve(k.KeySet(), maxAge(3600)))
		for i := range 10 {
			_ = verifyOne(t, v, k.named(fmt.Sprint("more-", i)))
			time.Sleep(time.Second)
		}
		want(t, "new key under flood", verifyOne(t, v, k.token()), nil)
	})
}

func TestAbsentKidIsRemembered(t *testing.T) {
	bubble(t, nil, func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
		ghost := k.named("ghost")
		n := e.count()
		for range 10 {
			want(t, "ghost", verifyOne(t, v, ghost), verify.ErrKeyUnknown)
		}
		if got := e.count() - n; got != 1 {
			t.Errorf("%d fetches, want 1", got)
		}
		// A changed set clears the memory.
		k.Rotate()
		e.set(serve(k.KeySet(), maxAge(300)))
		want(t, "new key", verifyOne(t, v, k.token()), nil)
		n = e.count()
		want(t, "ghost again", verifyOne(t, v, ghost), verify.ErrKeyUnknown)
		if got := e.count() - n; got != 1 {
			t.Errorf("%d fetches after the set changed, want 1", got)
		}
		// And so does time.
		time.Sleep(31 * time.Second)
		want(t, "ghost later", verifyOne(t, v, k.named("ghost")), verify.ErrKeyUnknown)
		if got := e.count() - n; got != 2 {
			t.Errorf("%d fetches after half a minute, want 2", got)
		}
	})
}

// A failed fetch proves nothing about a kid.
func TestFailedFetchIsNotRemembered(t *testing.T) {
	bubble(t, nil, func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
		k.Rotate()
		e.set(fail)
		want(t, "issuer down", verifyOne(t, v, k.token()), verify.ErrKeyUnknown)
		e.set(serve(k.KeySet(), maxAge(300)))
		want(t, "issuer up", verifyOne(t, v, k.token()), nil)
	})
}

func TestBadSignatureNeverFetches(t *testing.T) {
	bubble(t, nil, func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
		good := k.token()
		n := e.count()
		for range 100 {
			want(t, "forged", verifyOne(t, v, good[:strings.LastIndexByte(good, '.')+1]+strings.Repeat("A", 86)), verify.ErrSignature)
			want(t, "other alg", verifyOne(t, v, b64(fmt.Sprintf(`{"alg":"RS256","kid":%q,"typ":"at+jwt"}`, k.KeyID(verify.EdDSA)))+good[strings.IndexByte(good, '.'):]), verify.ErrAlgorithm)
		}
		if e.count() != n {
			t.Errorf("%d fetches, want none", e.count()-n)
		}
	})
}

// A caller leaves when its context ends; the fetch goes on for the others.
func TestCallerGivesUp(t *testing.T) {
	bubble(t, nil, func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
		k.Rotate()
		e.set(serve(k.KeySet(), maxAge(300)))
		e.slow(4 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := v.Verify(ctx, k.token())
		want(t, "impatient", err, verify.ErrKeySetUnavailable)
		want(t, "impatient", err, context.DeadlineExceeded)
		want(t, "patient", verifyOne(t, v, k.token()), nil)
		if took := time.Since(began); took != 4*time.Second {
			t.Errorf("took %v, want 4s: one fetch for both", took)
		}
	})
}

// A fetch ends at its deadline, and so do those who wait for it.
func TestFetchDeadline(t *testing.T) {
	bubble(t, nil, func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
		e.slow(time.Hour)
		began := time.Now()
		want(t, "hanging endpoint", verifyOne(t, v, k.named("x")), verify.ErrKeyUnknown)
		if took := time.Since(began); took != verify.DefaultFetchTimeout {
			t.Errorf("took %v, want %v", took, verify.DefaultFetchTimeout)
		}
		want(t, "known key meanwhile", verifyOne(t, v, k.token()), nil)
	})
}

func TestRunTwiceAndAgain(t *testing.T) {
	bubble(t, nil, func(t *testing.T, v *verify.Verifier, _ *endpoint, _ keyring) {
		want(t, "second Run", v.Run(t.Context()), verify.ErrRunning)
	})
	issuer := verifytest.NewIssuer(t)
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{respond: serve(issuer.KeySet(), nil)}
		o := issuer.Options()
		o.HTTPClient = &http.Client{Transport: e}
		v, err := verify.New(o)
		if err != nil {
			t.Fatal(err)
		}
		k := keyring{issuer, time.Now}
		want(t, "not started", verifyOne(t, v, k.token()), verify.ErrKeySetUnavailable)
		for range 2 {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- v.Run(ctx) }()
			want(t, "Wait", v.Wait(t.Context()), nil)
			want(t, "Verify", verifyOne(t, v, k.token()), nil)
			cancel()
			want(t, "Run", <-done, nil)
			// Stopped, it goes on with what it holds and fetches nothing.
			n := e.count()
			want(t, "stopped", verifyOne(t, v, k.token()), nil)
			want(t, "stopped", verifyOne(t, v, k.named("x")), verify.ErrKeyUnknown)
			if e.count() != n {
				t.Error("a stopped verifier fetched")
			}
		}
	})
}

// Stopping lets go those who wait.
func TestStopDuringFetch(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{respond: serve(issuer.KeySet(), nil), delay: 3 * time.Second}
		o := issuer.Options()
		o.HTTPClient = &http.Client{Transport: e}
		v, err := verify.New(o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- v.Run(ctx) }()
		synctest.Wait()
		refused := make(chan error)
		go func() { refused <- verifyOne(t, v, keyring{issuer, time.Now}.token()) }()
		synctest.Wait()
		cancel()
		want(t, "Run", <-done, nil)
		want(t, "waiting caller", <-refused, verify.ErrKeySetUnavailable)
		short, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		want(t, "Wait", v.Wait(short), verify.ErrKeySetUnavailable)
	})
}

func TestFixedKeysFetchNothing(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	v := fixed(t, issuer)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- v.Run(ctx) }()
		synctest.Wait()
		k := keyring{issuer, time.Now}
		want(t, "unknown", verifyOne(t, v, k.named("x")), verify.ErrKeyUnknown)
		time.Sleep(1000 * time.Hour)
		want(t, "for ever", v.Check(), nil)
		want(t, "for ever", v.Wait(t.Context()), nil)
		cancel()
		want(t, "Run", <-done, nil)
	})
}

// The log says what an operator must know, and holds no token.
func TestLog(t *testing.T) {
	var log strings.Builder
	bubble(t, func(o *verify.Options, e *endpoint) {
		_, _, doc := e.respond()
		e.set(serve([]byte(strings.Replace(doc, "[", `[{"kty":"AKP","kid":"odd"},`, 1)), maxAge(300)))
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	}, func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
		raw := k.token()
		want(t, "good", verifyOne(t, v, raw), nil)
		e.set(fail)
		want(t, "unknown", verifyOne(t, v, k.named("x")), verify.ErrKeyUnknown)
		if s := v.Stats(); s.Keys != 1 || s.Skipped != 1 {
			t.Errorf("stats %+v", s)
		}
		synctest.Wait() // until the fetch has been told of
		for _, part := range strings.Split(raw, ".") {
			if strings.Contains(log.String(), part) {
				t.Error("the log holds part of a token")
			}
		}
	})
	for _, line := range []string{`msg="key set changed"`, `msg="key skipped" kid=odd`, `msg="key set fetch failed"`} {
		if !strings.Contains(log.String(), line) {
			t.Errorf("no %s in the log:\n%s", line, log.String())
		}
	}
}
