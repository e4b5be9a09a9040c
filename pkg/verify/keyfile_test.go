package verify_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

// A process after another: the first meets a good issuer and leaves a file,
// the second meets one that is down.
func TestKeyFile(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	for _, tc := range []struct {
		name    string
		between func(t *testing.T, path string)
		options func(*verify.Options)
		want    error
	}{
		{"at once", func(*testing.T, string) {}, nil, nil},
		{"just not too old", func(*testing.T, string) { time.Sleep(65*time.Minute - time.Second) }, nil, nil},
		{"too old", func(*testing.T, string) { time.Sleep(65 * time.Minute) }, nil, verify.ErrKeySetUnavailable},
		{
			"too old by the bounds of this process",
			func(*testing.T, string) { time.Sleep(3 * time.Minute) },
			func(o *verify.Options) { o.Cache.MaxAge, o.Cache.MaxStale = time.Minute, time.Minute },
			verify.ErrKeySetUnavailable,
		},
		{"gone", func(t *testing.T, path string) { noError(t, os.Remove(path)) }, nil, verify.ErrKeySetUnavailable},
		{"of another issuer", func(*testing.T, string) {}, func(o *verify.Options) { o.Issuer = "https://id.example" }, verify.ErrKeySetUnavailable},
		{"of another URL", func(*testing.T, string) {}, func(o *verify.Options) { o.JWKSURL += "?" }, verify.ErrKeySetUnavailable},
		{"writable by others", func(t *testing.T, path string) { noError(t, os.Chmod(path, 0o620)) }, nil, verify.ErrKeySetUnavailable},
		{"readable by others", func(t *testing.T, path string) { noError(t, os.Chmod(path, 0o644)) }, nil, nil},
		{"empty", func(t *testing.T, path string) { noError(t, os.WriteFile(path, nil, 0o600)) }, nil, verify.ErrKeySetUnavailable},
		{"truncated", func(t *testing.T, path string) {
			text, err := os.ReadFile(path)
			noError(t, err)
			noError(t, os.WriteFile(path, text[:len(text)/2], 0o600))
		}, nil, verify.ErrKeySetUnavailable},
		{"damaged", func(t *testing.T, path string) { edit(t, path, `"jwks":"e`, `"jwks":"f`) }, nil, verify.ErrKeySetUnavailable},
		{"huge", func(t *testing.T, path string) {
			noError(t, os.WriteFile(path, make([]byte, 2<<20), 0o600))
		}, nil, verify.ErrKeySetUnavailable},
		{"from the future", func(t *testing.T, path string) { edit(t, path, `"fetched":"2`, `"fetched":"3`) }, nil, verify.ErrKeySetUnavailable},
		{"a negative life", func(t *testing.T, path string) { edit(t, path, `"life_seconds":`, `"life_seconds":-`) }, nil, verify.ErrKeySetUnavailable},
		{"an endless life", func(t *testing.T, path string) {
			edit(t, path, `"life_seconds":`, `"life_seconds":9`)
			time.Sleep(2*time.Hour + time.Second)
		}, nil, verify.ErrKeySetUnavailable},
		{"a folder", func(t *testing.T, path string) {
			noError(t, os.Remove(path))
			noError(t, os.Mkdir(path, 0o700))
		}, nil, verify.ErrKeySetUnavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			folder := t.TempDir()
			path := filepath.Join(folder, "keys.json")
			synctest.Test(t, func(t *testing.T) {
				e := &endpoint{respond: serve(issuer.KeySet(), maxAge(300))}
				k := keyring{issuer, time.Now}
				options := func() verify.Options {
					o := issuer.Options()
					o.HTTPClient = &http.Client{Transport: e}
					o.Cache.File = path
					o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
					return o
				}
				runWhile(t, options(), func(v *verify.Verifier) {
					want(t, "first process", verifyOne(t, v, k.token()), nil)
					if v.Stats().FromFile {
						t.Error("it says that its set is from the file")
					}
				})
				if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("%v, %v", info, err)
				}
				tc.between(t, path)
				e.set(fail)
				o := options()
				if tc.options != nil {
					tc.options(&o)
				}
				runWhile(t, o, func(v *verify.Verifier) {
					want(t, "second process", verifyOne(t, v, k.token()), tc.want)
					want(t, "its Check", v.Check(), tc.want)
					if s := v.Stats(); s.FromFile != (tc.want == nil) {
						t.Errorf("stats %+v", s)
					}
					if tc.options != nil {
						return
					}
					e.set(serve(k.KeySet(), maxAge(300)))
					time.Sleep(10 * time.Second)
					synctest.Wait()
					want(t, "when the issuer is back", verifyOne(t, v, k.token()), nil)
					if s := v.Stats(); s.FromFile {
						t.Errorf("stats %+v", s)
					}
				})
			})
			if left, err := filepath.Glob(filepath.Join(folder, ".*")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// A set from disk lives no longer than if this process had fetched it, and a
// restart does not bring back a key that a reachable issuer has taken out.
func TestKeyFileProlongsNothing(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	path := filepath.Join(t.TempDir(), "keys.json")
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{respond: serve(issuer.KeySet(), maxAge(300))}
		k := keyring{issuer, time.Now}
		o := issuer.Options()
		o.HTTPClient = &http.Client{Transport: e}
		o.Cache.File = path
		runWhile(t, o, func(v *verify.Verifier) { want(t, "good", verifyOne(t, v, k.token()), nil) })

		e.set(fail)
		time.Sleep(30 * time.Minute)
		runWhile(t, o, func(v *verify.Verifier) {
			want(t, "half its time", verifyOne(t, v, k.token()), nil)
			time.Sleep(35*time.Minute + time.Second)
			want(t, "all of it", verifyOne(t, v, k.token()), verify.ErrKeySetUnavailable)
		})

		e.set(serve(k.KeySet(), maxAge(300)))
		runWhile(t, o, func(v *verify.Verifier) { want(t, "good again", verifyOne(t, v, k.token()), nil) })
		stolen := k.token()
		k.Rotate()
		k.Revoke()
		e.set(serve(k.KeySet(), maxAge(300)))
		runWhile(t, o, func(v *verify.Verifier) {
			want(t, "revoked before the restart", verifyOne(t, v, stolen), verify.ErrKeyUnknown)
		})
	})
}

// A file that can't be written costs nothing but itself, and each
// confirmation renews its date.
func TestKeyFileIsWrittenWithEachConfirmation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	bubble(t, func(o *verify.Options, e *endpoint) {
		_, _, doc := e.respond()
		e.set(serve([]byte(doc), map[string]string{"Cache-Control": "max-age=300", "ETag": `"v1"`}))
		o.Cache.File = path
	}, func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
		before, err := os.ReadFile(path)
		noError(t, err)
		e.set(func() (int, map[string]string, string) { return 304, maxAge(300), "" })
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		after, err := os.ReadFile(path)
		noError(t, err)
		if string(before) == string(after) || len(before) != len(after) && len(after) < 100 {
			t.Errorf("before a 304: %s\nafter: %s", before, after)
		}
		noError(t, os.RemoveAll(filepath.Dir(path)))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		want(t, "without its folder", verifyOne(t, v, k.token()), nil)
	})
}

// 429 and 503 may say when to come again; up to a minute is given.
func TestRetryAfter(t *testing.T) {
	for after, wait := range map[string]time.Duration{
		"30": 30 * time.Second, "86400": time.Minute, "-5": 0, "soon": 0, "Wed, 21 Oct 2099 07:28:00 GMT": 0,
	} {
		bubble(t, nil, func(t *testing.T, v *verify.Verifier, e *endpoint, k keyring) {
			e.set(func() (int, map[string]string, string) { return 429, map[string]string{"Retry-After": after}, "" })
			want(t, "unknown", verifyOne(t, v, k.named("a")), verify.ErrKeyUnknown)
			n, began := e.count(), time.Now()
			for range 20 {
				want(t, "unknown", verifyOne(t, v, k.named("b")), verify.ErrKeyUnknown)
			}
			if got := e.count() - n; (got == 0) != (wait > 0) {
				t.Errorf("Retry-After %s: %d fetches", after, got)
			}
			want(t, "known", verifyOne(t, v, k.token()), nil)
			if wait == 0 {
				return
			}
			time.Sleep(wait - 1)
			synctest.Wait()
			if got := e.count() - n; got != 0 {
				t.Errorf("Retry-After %s: %d fetches before %v", after, got, wait)
			}
			time.Sleep(wait/10 + 1)
			synctest.Wait()
			if at, _ := e.last(); at.Sub(began) < wait || at.Sub(began) > wait+wait/10 {
				t.Errorf("Retry-After %s: next after %v", after, at.Sub(began))
			}
		})
	}
}

// The issuer is told who asks.
func TestName(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	for name, want := range map[string]error{
		"": nil, "inmuebles-1.madrid": nil, strings.Repeat("n", 64): nil,
		strings.Repeat("n", 65): verify.ErrOptions, "two words": verify.ErrOptions, "a\r\nX: y": verify.ErrOptions, "é": verify.ErrOptions,
	} {
		got := make(chan string, 100)
		o := issuer.Options()
		o.Name = name
		o.HTTPClient = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			got <- r.Header.Get("Urbandata-Verifier")
			return nil, errors.New("no")
		})}
		v, err := verify.New(o)
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", name, err, want)
		}
		if want != nil {
			continue
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- v.Run(ctx) }()
		if sent := <-got; sent != name {
			t.Errorf("sent %q, want %q", sent, name)
		}
		cancel()
		noError(t, <-done)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// runWhile runs a verifier while f lasts.
func runWhile(t *testing.T, o verify.Options, f func(v *verify.Verifier)) {
	t.Helper()
	v, err := verify.New(o)
	noError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	synctest.Wait()
	f(v)
	cancel()
	noError(t, <-done)
}

func edit(t *testing.T, path, old, with string) {
	t.Helper()
	text, err := os.ReadFile(path)
	noError(t, err)
	noError(t, os.WriteFile(path, []byte(replace(t, string(text), old, with)), 0o600))
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
