package forwardauth_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/urbandata/urbandata/pkg/forwardauth"
	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

// BenchmarkVerify is an answer to a token that has been seen before, in times
// of /livez: what HTTP, log line and metrics cost anyway. The two are measured
// in turns, so that a busy machine slows both.
func BenchmarkVerify(b *testing.B) {
	issuer := verifytest.NewIssuer(b)
	o := issuer.Options()
	o.TokenCacheBytes = verify.DefaultTokenCacheBytes
	v, err := verify.New(o)
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = v.Run(b.Context()) }()
	if err := v.Wait(b.Context()); err != nil {
		b.Fatal(err)
	}
	s, err := forwardauth.New(forwardauth.Options{Verifier: v, Realm: "r"})
	if err != nil {
		b.Fatal(err)
	}
	answer := func(path, authorization string) time.Duration {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header.Set("Authorization", authorization)
		w := httptest.NewRecorder()
		began := time.Now()
		s.ServeHTTP(w, r)
		took := time.Since(began)
		if w.Code != http.StatusOK {
			b.Fatalf("%s: %d", path, w.Code)
		}
		return took
	}
	token := "Bearer " + issuer.Token("user-1", "read")
	var verified, live time.Duration
	for b.Loop() {
		verified += answer("/verify?scope=read", token)
		live += answer("/livez", token)
	}
	b.ReportMetric(float64(verified)/float64(live), "x/livez")
	b.ReportMetric(float64(verified.Nanoseconds())/float64(b.N), "ns/verify")
}
