package verify_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

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

	raw, err := verify.TokenFromRequest(r)
	if err == nil {
		_, err = v.Verify(r.Context(), raw)
	}
	status, challenge := verify.Challenge(err, "inmuebles")
	fmt.Println(status, verify.Reason(err))
	fmt.Println(challenge)
	// Output:
	// 401 malformed
	// Bearer realm="inmuebles", error="invalid_token", error_description="The access token is malformed."
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
