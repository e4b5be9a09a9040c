package verify_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

func TestTokenFromRequest(t *testing.T) {
	type headers = map[string][]string
	for _, tc := range []struct {
		name   string
		header headers
		token  string
		want   error
	}{
		{"bearer", headers{"Authorization": {"Bearer a.b.c"}}, "a.b.c", nil},
		{"lower case", headers{"Authorization": {"bearer a.b.c"}}, "a.b.c", nil},
		{"upper case", headers{"Authorization": {"BEARER a.b.c"}}, "a.b.c", nil},
		{"two spaces", headers{"Authorization": {"Bearer  a.b.c"}}, "a.b.c", nil},
		{"legacy", headers{"Access-Token": {"a.b.c"}}, "a.b.c", nil},
		{"both the same", headers{"Authorization": {"Bearer a.b.c"}, "Access-Token": {"a.b.c"}}, "a.b.c", nil},
		{"legacy beside Basic", headers{"Authorization": {"Basic dTpw"}, "Access-Token": {"a.b.c"}}, "a.b.c", nil},
		{"legacy beside an empty bearer", headers{"Authorization": {"Bearer"}, "Access-Token": {"a.b.c"}}, "a.b.c", nil},
		{"bearer beside an empty legacy", headers{"Authorization": {"Bearer a"}, "Access-Token": {""}}, "a", nil},
		{"every character of the syntax", headers{"Authorization": {"Bearer aZ09-._~+/=="}}, "aZ09-._~+/==", nil},

		{"nothing", headers{}, "", verify.ErrMissing},
		{"empty", headers{"Authorization": {""}}, "", verify.ErrMissing},
		{"scheme alone", headers{"Authorization": {"Bearer"}}, "", verify.ErrMissing},
		{"scheme and spaces", headers{"Authorization": {"Bearer   "}}, "", verify.ErrMissing},
		{"another scheme", headers{"Authorization": {"Basic dTpw"}}, "", verify.ErrMissing},
		{"a longer scheme", headers{"Authorization": {"BearerX a"}}, "", verify.ErrMissing},
		{"no scheme", headers{"Authorization": {"a.b.c"}}, "", verify.ErrMissing},
		{"tab", headers{"Authorization": {"Bearer\ta.b.c"}}, "", verify.ErrMissing},

		{"two words", headers{"Authorization": {"Bearer a b"}}, "", verify.ErrMalformed},
		{"a list", headers{"Authorization": {"Bearer a, Bearer b"}}, "", verify.ErrMalformed},
		{"quotes", headers{"Authorization": {`Bearer "a"`}}, "", verify.ErrMalformed},
		{"padding first", headers{"Authorization": {"Bearer =a"}}, "", verify.ErrMalformed},
		{"only padding", headers{"Authorization": {"Bearer =="}}, "", verify.ErrMalformed},
		{"not ASCII", headers{"Authorization": {"Bearer é"}}, "", verify.ErrMalformed},
		{"legacy with a scheme", headers{"Access-Token": {"Bearer a"}}, "", verify.ErrMalformed},

		{"differ", headers{"Authorization": {"Bearer a"}, "Access-Token": {"b"}}, "", verify.ErrAmbiguous},
		{"twice", headers{"Authorization": {"Bearer a", "Bearer b"}}, "", verify.ErrAmbiguous},
		{"twice the same", headers{"Authorization": {"Bearer a", "Bearer a"}}, "", verify.ErrAmbiguous},
		{"with Basic", headers{"Authorization": {"Bearer a", "Basic dTpw"}}, "", verify.ErrAmbiguous},
		{"legacy twice", headers{"Access-Token": {"a", "a"}}, "", verify.ErrAmbiguous},
	} {
		r := httptest.NewRequest(http.MethodPost, "/?access_token=query&access-token=query", strings.NewReader("access_token=form"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for k, v := range tc.header {
			r.Header[k] = v
		}
		got, err := verify.TokenFromRequest(r)
		if got != tc.token || !errors.Is(err, tc.want) {
			t.Errorf("%s: %q, %v; want %q, %v", tc.name, got, err, tc.token, tc.want)
		}
	}
}

func TestChallenge(t *testing.T) {
	const realm = `Bearer realm="inmuebles"`
	for _, tc := range []struct {
		err       error
		status    int
		challenge string
		reason    string
	}{
		{verify.ErrMissing, 401, realm, "missing"},
		{verify.ErrAmbiguous, 400, realm + `, error="invalid_request", error_description="Send exactly one access token."`, "ambiguous"},
		{verify.ErrMalformed, 401, realm + `, error="invalid_token", error_description="The access token is malformed."`, "malformed"},
		{verify.ErrExpired, 401, realm + `, error="invalid_token", error_description="The access token has expired."`, "expired"},
		{verify.ErrSignature, 401, realm + `, error="invalid_token", error_description="The access token is not valid."`, "signature"},
		{verify.ErrKeyUnknown, 401, realm + `, error="invalid_token", error_description="The access token is not valid."`, "key_unknown"},
		{verify.ErrAlgorithm, 401, realm + `, error="invalid_token", error_description="The access token is not valid."`, "algorithm"},
		{verify.ErrKeySetUnavailable, 503, "", "key_set_unavailable"},
		{
			verify.CheckScope(&token.Claims{}, "inmuebles:read", "inmuebles:write"), 403,
			realm + `, error="insufficient_scope", error_description="The access token lacks a scope that this operation needs.", scope="inmuebles:read inmuebles:write"`, "scope",
		},
		{verify.ErrScope, 403, realm + `, error="insufficient_scope", error_description="The access token lacks a scope that this operation needs."`, "scope"},
		{
			verify.CheckLogin(nil, verify.Login{ACR: []string{"aal2", "aal3"}, MaxAge: 1500 * time.Millisecond}, time.Now()), 401,
			realm + `, error="insufficient_user_authentication", error_description="The operation needs a more recent or a stronger login.", acr_values="aal2 aal3", max_age="2"`, "login",
		},
		{
			verify.CheckLogin(nil, verify.Login{ACR: []string{`a"b`}}, time.Now()), 401,
			realm + `, error="insufficient_user_authentication", error_description="The operation needs a more recent or a stronger login.", acr_values="a\"b"`, "login",
		},
		{verify.ErrLogin, 401, realm + `, error="insufficient_user_authentication", error_description="The operation needs a more recent or a stronger login."`, "login"},
		{context.Canceled, 500, "", "other"},
	} {
		wrapped := fmt.Errorf("doing something: %w", tc.err)
		status, challenge := verify.Challenge(wrapped, "inmuebles")
		if status != tc.status || challenge != tc.challenge {
			t.Errorf("%v: %d %s\nwant %d %s", tc.err, status, challenge, tc.status, tc.challenge)
		}
		if got := verify.Reason(wrapped); got != tc.reason {
			t.Errorf("%v: reason %q, want %q", tc.err, got, tc.reason)
		}
	}
	if _, got := verify.Challenge(verify.ErrMissing, "a\"b\\c\r\nX: é"); got != `Bearer realm="a\"b\\c??X: ?"` {
		t.Errorf("quoted realm: %s", got)
	}
	if got := verify.Reason(nil); got != "ok" {
		t.Errorf("reason of nil: %q", got)
	}
}

func TestCheckScope(t *testing.T) {
	claims := &token.Claims{Scope: token.Scope{"a", "b"}}
	for _, tc := range []struct {
		claims *token.Claims
		need   []string
		want   error
	}{
		{claims, nil, nil},
		{claims, []string{"a"}, nil},
		{claims, []string{"b", "a"}, nil},
		{claims, []string{"a", "c"}, verify.ErrScope},
		{claims, []string{""}, verify.ErrScope},
		{nil, []string{"a"}, verify.ErrScope},
	} {
		if err := verify.CheckScope(tc.claims, tc.need...); !errors.Is(err, tc.want) {
			t.Errorf("%v: %v, want %v", tc.need, err, tc.want)
		}
	}
}

func TestCheckLogin(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	at := func(ago time.Duration, acr string) *token.Claims {
		return &token.Claims{AuthTime: now.Add(-ago).Unix(), ACR: acr}
	}
	recent, strong := verify.Login{MaxAge: time.Minute}, verify.Login{ACR: []string{"aal2", "aal3"}}
	both := verify.Login{ACR: strong.ACR, MaxAge: recent.MaxAge}
	for _, tc := range []struct {
		name   string
		claims *token.Claims
		need   verify.Login
		want   error
	}{
		{"nothing wanted", &token.Claims{}, verify.Login{}, nil},
		{"just in time", at(time.Minute, ""), recent, nil},
		{"a second late", at(time.Minute+time.Second, ""), recent, verify.ErrLogin},
		{"an issuer whose clock is ahead", at(-time.Hour, ""), recent, nil},
		{"no auth_time", &token.Claims{ACR: "aal2"}, recent, verify.ErrLogin},
		{"auth_time before 1970", &token.Claims{AuthTime: -1}, verify.Login{MaxAge: 1 << 62}, verify.ErrLogin},
		{"strong, however long ago", at(time.Hour, "aal2"), strong, nil},
		{"another that will do", at(0, "aal3"), strong, nil},
		{"weak", at(0, "aal1"), strong, verify.ErrLogin},
		{"another case", at(0, "AAL2"), strong, verify.ErrLogin},
		{"no acr", at(0, ""), strong, verify.ErrLogin},
		{"both", at(time.Second, "aal2"), both, nil},
		{"strong but old", at(time.Hour, "aal2"), both, verify.ErrLogin},
		{"recent but weak", at(0, "aal1"), both, verify.ErrLogin},
		{"no claims", nil, verify.Login{}, verify.ErrLogin},
	} {
		if err := verify.CheckLogin(tc.claims, tc.need, now); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

func TestMiddleware(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	var reasons []string
	v := fixed(t, issuer, func(o *verify.Options) {
		o.Hooks.Verified = func(out verify.Outcome) { reasons = append(reasons, out.Reason) }
	})
	down, err := verify.New(issuer.Options())
	if err != nil {
		t.Fatal(err)
	}
	greet := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, ok := verify.FromContext(r.Context())
		_, _ = fmt.Fprint(w, claims.Subject, ok)
	})
	strong, recent := verify.Login{ACR: []string{token.ACRTwoFactors}}, verify.Login{MaxAge: time.Minute}
	loggedIn := func(acr string, at time.Time) string {
		claims := issuer.Claims("u")
		claims.ACR, claims.AMR, claims.AuthTime = acr, []string{"pwd"}, at.Unix()
		return issuer.Mint(verify.EdDSA, claims)
	}
	for _, tc := range []struct {
		name    string
		handler http.Handler
		header  string
		status  int
		body    string
		extra   string // a header that must be there
	}{
		{"good", v.Middleware(greet), "Bearer " + issuer.Token("u"), 200, "utrue", ""},
		{"scope", v.Middleware(v.Require("a")(greet)), "Bearer " + issuer.Token("u", "a"), 200, "utrue", ""},
		{"no token", v.Middleware(greet), "", 401, "An access token is required.", "Www-Authenticate"},
		{"bad token", v.Middleware(greet), "Bearer x", 401, "The access token is malformed.", "Www-Authenticate"},
		{"no scope", v.Middleware(v.Require("a")(greet)), "Bearer " + issuer.Token("u", "b"), 403, "The access token lacks a scope that this operation needs.", "Www-Authenticate"},
		{"Require alone", v.Require("a")(greet), "Bearer " + issuer.Token("u", "a"), 401, "An access token is required.", "Www-Authenticate"},
		{"Require nothing alone", v.Require()(greet), "", 401, "An access token is required.", "Www-Authenticate"},
		{"strong login", v.Middleware(v.RequireLogin(strong)(greet)), "Bearer " + loggedIn("aal2", time.Now()), 200, "utrue", ""},
		{"weak login", v.Middleware(v.RequireLogin(strong)(greet)), "Bearer " + loggedIn("aal1", time.Now()), 401, "The operation needs a more recent or a stronger login.", "Www-Authenticate"},
		{"recent login, within the leeway", v.Middleware(v.RequireLogin(recent)(greet)), "Bearer " + loggedIn("aal1", time.Now().Add(-62*time.Second)), 200, "utrue", ""},
		{"old login", v.Middleware(v.RequireLogin(recent)(greet)), "Bearer " + loggedIn("aal1", time.Now().Add(-time.Hour)), 401, "The operation needs a more recent or a stronger login.", "Www-Authenticate"},
		{"RequireLogin alone", v.RequireLogin(verify.Login{})(greet), "", 401, "An access token is required.", "Www-Authenticate"},
		{"no keys", down.Middleware(greet), "Bearer " + issuer.Token("u"), 503, "Tokens can't be verified at the moment. Try again soon.", "Retry-After"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		if tc.header != "" {
			r.Header.Set("Authorization", tc.header)
		}
		w := httptest.NewRecorder()
		tc.handler.ServeHTTP(w, r)
		body := w.Body.String()
		if tc.status != 200 {
			var p struct {
				Title, Detail string
				Status        int
			}
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != tc.status || p.Title != http.StatusText(tc.status) {
				t.Errorf("%s: %v, problem %+v", tc.name, err, p)
			}
			body = p.Detail
			if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("%s: content type %q", tc.name, got)
			}
		}
		if w.Code != tc.status || body != tc.body {
			t.Errorf("%s: %d %q, want %d %q", tc.name, w.Code, body, tc.status, tc.body)
		}
		if tc.extra != "" && w.Header().Get(tc.extra) == "" {
			t.Errorf("%s: no %s", tc.name, tc.extra)
		}
	}
	if got, want := strings.Join(reasons, " "), "ok ok missing malformed ok scope missing missing ok ok login ok ok login missing"; got != want {
		t.Errorf("reasons %q, want %q", got, want)
	}
}

func TestContext(t *testing.T) {
	if _, ok := verify.FromContext(t.Context()); ok {
		t.Error("claims from nowhere")
	}
	if _, ok := verify.FromContext(verify.NewContext(t.Context(), nil)); ok {
		t.Error("nil claims count as claims")
	}
	want := &token.Claims{Subject: "u"}
	if got, ok := verify.FromContext(verify.NewContext(t.Context(), want)); !ok || got != want {
		t.Errorf("%v, %v", got, ok)
	}
}
