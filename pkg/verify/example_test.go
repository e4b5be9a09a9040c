package verify_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify"
)

// exampleKeys is the public key of RFC 8037, Appendix A.2.
const exampleKeys = `{"keys":[{"kty":"OKP","crv":"Ed25519","use":"sig","alg":"EdDSA","kid":"2026-01",
	"x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`

func exampleVerifier() *verify.Verifier {
	keys, err := verify.ParseKeySet([]byte(exampleKeys))
	if err != nil {
		log.Fatal(err)
	}
	v, err := verify.New(verify.Options{Issuer: "https://id.example", Audience: "inmuebles", Keys: keys})
	if err != nil {
		log.Fatal(err)
	}
	return v
}

// A service: keys from the issuer, kept fresh in the background.
func Example() {
	v, err := verify.New(verify.Options{
		Issuer:   "https://id.example",
		Audience: "inmuebles",
		JWKSURL:  "https://id.example/.well-known/jwks.json",
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() { _ = v.Run(ctx) }()

	list := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, _ := verify.FromContext(r.Context())
		_, _ = fmt.Fprintf(w, "hello %s", claims.Subject)
	})
	mux := http.NewServeMux()
	mux.Handle("GET /inmuebles", v.Middleware(v.Require("inmuebles:read")(list)))
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if v.Check() != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	// Serve mux.
}

// The middleware answers by itself.
func ExampleVerifier_Middleware() {
	h := exampleVerifier().Middleware(http.NotFoundHandler())
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/inmuebles", nil))
	fmt.Println(w.Code, w.Header().Get("WWW-Authenticate"))
	fmt.Print(w.Body)
	// Output:
	// 401 Bearer realm="inmuebles"
	// {"title":"Unauthorized","status":401,"detail":"An access token is required."}
}

// A server with its own way to answer errors makes the steps by itself.
func ExampleChallenge() {
	v := exampleVerifier()
	r := httptest.NewRequest(http.MethodGet, "/inmuebles", nil)
	r.Header.Set("Authorization", "Bearer not.a.token")

	claims, err := v.VerifyRequest(r)
	if err == nil {
		err = verify.CheckScope(claims, "inmuebles:read")
	}
	status, challenge := verify.Challenge(err, "inmuebles")
	fmt.Println(status, verify.Reason(err))
	fmt.Println(challenge)
	// Output:
	// 401 malformed
	// Bearer realm="inmuebles", error="invalid_token", error_description="The access token is malformed."
}

// Claims of your own, as a struct.
func ExampleAs() {
	type mine struct {
		Tenant string `json:"tenant"`
	}
	const signed = "eyJhbGciOiJFZERTQSIsImtpZCI6IjIwMjYtMDEiLCJ0eXAiOiJhdCtqd3QifQ." +
		"eyJpc3MiOiJodHRwczovL2lkLmV4YW1wbGUiLCJhdWQiOiJpbm11ZWJsZXMiLCJzdWIiOiJ1c2VyLTEiLCJleHAiOjQxMDI0NDQ4MDAsInRlbmFudCI6Im1hZHJpZCJ9." +
		"qRmTTsravhYRMr05xfvlRklz62UXImvx4b3wQH1o6DNCDKLbncCz7LIEJ_RgquZShO9lJ8v5n84JlD-QnXs8Bw"
	claims, private, err := verify.As[mine](context.Background(), exampleVerifier(), signed)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(claims.Subject, private.Tenant)
	// Output: user-1 madrid
}

// Claims of your own, in a handler.
func ExamplePrivate() {
	type mine struct {
		Tenant string `json:"tenant"`
	}
	list := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		private, err := verify.Private[mine](r.Context())
		if err != nil {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = fmt.Fprint(w, private.Tenant)
	})
	http.Handle("GET /inmuebles", exampleVerifier().Middleware(list))
}

// Tokens of two issuers, each with its own keys, budget and audience.
func ExampleNewMulti() {
	v, err := verify.NewMulti(
		verify.Options{Issuer: "https://id.example", Audience: "inmuebles", JWKSURL: "https://id.example/.well-known/jwks.json"},
		verify.Options{Issuer: "https://partner.example", Audience: "api://inmuebles", JWKSURL: "https://partner.example/keys"},
	)
	if err != nil {
		log.Fatal(err)
	}
	s, _ := v.StatsOf("https://partner.example")
	fmt.Println(s.Usable, v.Check() != nil)
	// Output: false true
}

// All that a service in production may want to set.
func ExampleOptions() {
	v, err := verify.New(verify.Options{
		Issuer:          "https://id.example",
		Audience:        "inmuebles",
		JWKSURL:         "https://id.example/.well-known/jwks.json",
		Name:            "inmuebles@madrid-1",          // who asks, for the issuer's operator
		TokenCacheBytes: verify.DefaultTokenCacheBytes, // one signature check a token
		Algorithms:      []string{verify.EdDSA},        // what this audience gets
		Cache: verify.CacheOptions{
			File:     "/var/cache/inmuebles/keys.json", // start while the issuer is down
			MaxStale: 30 * time.Minute,                 // then fail closed
		},
		Hooks: verify.Hooks{
			Verified: func(o verify.Outcome) { /* count o.Reason, o.Cached */ },
			Fetched:  func(f verify.Fetch) { /* count f.Err != nil, observe f.Duration */ },
		},
	})
	fmt.Println(v != nil, err)
	// Output: true <nil>
}

// What metrics may show.
func ExampleVerifier_Stats() {
	s := exampleVerifier().Stats()
	fmt.Println(s.Keys, s.Usable, s.Stale, s.Tokens)
	// Output: 1 true false 0
}

// A readiness probe.
func ExampleVerifier_Check() {
	v, err := verify.New(verify.Options{Issuer: "https://id.example", Audience: "inmuebles", JWKSURL: "https://id.example/keys"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(v.Check()) // Run has not fetched any
	// Output: verify: no usable key set: Run was not started
}

// A route that wants a scope; it stands inside Middleware.
func ExampleVerifier_Require() {
	v := exampleVerifier()
	h := v.Require("inmuebles:write")(http.NotFoundHandler())
	ctx := verify.NewContext(context.Background(), &token.Claims{Subject: "user-1", Scope: token.Scope{"inmuebles:read"}})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/inmuebles", nil).WithContext(ctx))
	fmt.Println(w.Code, w.Header().Get("WWW-Authenticate"))
	// Output:
	// 403 Bearer realm="inmuebles", error="insufficient_scope", error_description="The access token lacks a scope that this operation needs.", scope="inmuebles:write"
}

// A route that wants a login with two factors, ten minutes ago at most
// (RFC 9470); it stands inside Middleware.
func ExampleVerifier_RequireLogin() {
	v := exampleVerifier()
	h := v.RequireLogin(verify.Login{ACR: []string{token.ACRTwoFactors}, MaxAge: 10 * time.Minute})(http.NotFoundHandler())
	ctx := verify.NewContext(context.Background(), &token.Claims{Subject: "user-1", AuthTime: time.Now().Unix(), ACR: token.ACRSingleFactor})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/payments", nil).WithContext(ctx))
	fmt.Println(w.Code, w.Header().Get("WWW-Authenticate"))
	// Output:
	// 401 Bearer realm="inmuebles", error="insufficient_user_authentication", error_description="The operation needs a more recent or a stronger login.", acr_values="aal2", max_age="600"
}

// A label for a metric, and a sentence for the client.
func ExampleReason() {
	fmt.Println(verify.Reason(verify.ErrExpired), "|", verify.Detail(verify.ErrExpired))
	fmt.Println(verify.Reason(verify.ErrSignature), "|", verify.Detail(verify.ErrSignature))
	// Output:
	// expired | The access token has expired.
	// signature | The access token is not valid.
}

// Errors are sentinels: compare them with errors.Is.
func ExampleVerifier_Verify() {
	_, err := exampleVerifier().Verify(context.Background(), "eyJhbGciOiJub25lIn0.e30.AA")
	fmt.Println(errors.Is(err, verify.ErrAlgorithm))
	// Output: true
}

// A key that can't be used is skipped and told, and does not cost the others.
func ExampleParseKeySet() {
	keys, err := verify.ParseKeySet([]byte(`{"keys":[
		{"kty":"AKP","alg":"ML-DSA-44","kid":"new","pub":"AAAA"},
		{"kty":"OKP","crv":"Ed25519","kid":"2026-01","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
	]}`))
	fmt.Println(keys.Len(), err)
	for _, s := range keys.Skipped() {
		fmt.Println(s.KeyID, s.Reason)
	}
	// Output:
	// 1 <nil>
	// new unknown kty or crv
}
