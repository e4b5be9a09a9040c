package authserver

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/test/engines"
)

func newSQLiteAuthn(t *testing.T) *authn {
	t.Helper()
	db := engines.SQLite(t)
	if _, err := migrations.Up(t.Context(), db.Write.DB, migrations.AuthnSQLite); err != nil {
		t.Fatal(err)
	}
	return newAuthn(t, db)
}

// Bad input is refused with a problem that says where, and stores nothing.
func TestHostileRequests(t *testing.T) {
	a := newSQLiteAuthn(t)
	a.register("ana@ejemplo.example")
	const good = `"password":"una frase larga y mía"`
	for _, tc := range []struct {
		name, path, body string
		status           int
		pointer          string
	}{
		{"no body", "register", ``, 400, ""},
		{"empty object", "register", `{}`, 422, "/email"},
		{"null", "register", `null`, 422, ""},
		{"no e-mail", "register", `{` + good + `}`, 422, "/email"},
		{"no password", "register", `{"email":"b@ejemplo.example"}`, 422, "/password"},
		{"e-mail is a number", "register", `{"email":7,` + good + `}`, 422, "/email"},
		{"e-mail is null", "register", `{"email":null,` + good + `}`, 422, "/email"},
		{"e-mail without at", "register", `{"email":"b",` + good + `}`, 422, "/email"},
		{"e-mail with a name", "register", `{"email":"B <b@ejemplo.example>",` + good + `}`, 422, "/email"},
		{"e-mail with a comment", "register", `{"email":"b(x)@ejemplo.example",` + good + `}`, 422, "/email"},
		{"e-mail with NUL", "register", `{"email":"b\u0000@ejemplo.example",` + good + `}`, 422, "/email"},
		{"e-mail with a line break", "register", `{"email":"b@ejemplo.example\r\nBcc: x@y.example",` + good + `}`, 422, "/email"},
		{"e-mail too long", "register", `{"email":"b@` + strings.Repeat("a.", 150) + `example",` + good + `}`, 422, "/email"},
		{"taken in another case", "register", `{"email":"ANA@ejemplo.EXAMPLE",` + good + `}`, 409, "/email"},
		{"short password", "register", `{"email":"b@ejemplo.example","password":"short"}`, 422, "/password"},
		{"common password", "register", `{"email":"b@ejemplo.example","password":"password1"}`, 422, "/password"},
		{"password like the address", "register", `{"email":"bernardo@ejemplo.example","password":"bernardo1"}`, 422, "/password"},
		{"name with NUL", "register", `{"email":"b@ejemplo.example",` + good + `,"first_name":"a\u0000b"}`, 422, "/first_name"},
		{"name too long", "register", `{"email":"b@ejemplo.example",` + good + `,"last_name":"` + strings.Repeat("x", 151) + `"}`, 422, "/last_name"},
		{"lone surrogate", "register", `{"email":"b@ejemplo.example",` + good + `,"company":"\ud800"}`, 400, "/company"},
		{"chooses its role", "register", `{"email":"b@ejemplo.example",` + good + `,"roles":["admin"]}`, 422, "/roles"},
		{"chooses its id", "register", `{"email":"b@ejemplo.example",` + good + `,"id":"1"}`, 422, "/id"},
		{"two passwords", "register", `{"email":"b@ejemplo.example",` + good + `,"password":"otra frase larga"}`, 400, "/password"},
		{"password in another case", "register", `{"email":"b@ejemplo.example","Password":"otra frase larga"}`, 422, "/Password"},
		{"nested", "register", strings.Repeat("[", 60_000), 400, ""},
		{"huge", "register", `{"email":"` + strings.Repeat("x", 100_000) + `"}`, 413, ""},

		{"token: nothing", "token", `{}`, 400, "/password"},
		{"token: no address", "token", `{` + good + `}`, 400, "/email"},
		{"token: two addresses", "token", `{"email":"a@b.example","username":"c@d.example",` + good + `}`, 400, "/username"},
		{"token: list", "token", `{"email":["ana@ejemplo.example"],` + good + `}`, 400, "/email"},
		{"token: operator", "token", `{"email":"ana@ejemplo.example","password":{"$ne":null}}`, 400, "/password"},
		{"token: wrong", "token", `{"email":"ana@ejemplo.example","password":"otra frase larga"}`, 401, ""},
		{"token: empty password", "token", `{"email":"ana@ejemplo.example","password":""}`, 401, ""},
		{"token: nobody", "token", `{"email":"nadie@ejemplo.example",` + good + `}`, 401, ""},
		{"token: quotes", "token", `{"email":"' OR 1=1 --",` + good + `}`, 401, ""},
		{"token: NUL", "token", `{"email":"a\u0000",` + good + `}`, 401, ""},
		{"token: audience with spaces", "token", `{"email":"ana@ejemplo.example",` + good + `,"audience":"a b"}`, 400, "/audience"},

		{"refresh: nothing", "token/refresh", `{}`, 400, "/refresh"},
		{"refresh: number", "token/refresh", `{"refresh":7}`, 400, "/refresh"},
		{"refresh: rubbish", "token/refresh", `{"refresh":"x"}`, 401, ""},
		{"refresh: made up", "token/refresh", `{"refresh":"udr_` + strings.Repeat("A", 86) + `"}`, 401, ""},
		{"refresh: a JWT", "token/refresh", `{"refresh":"eyJhbGciOiJub25lIn0.e30."}`, 401, ""},
		{"sign out: rubbish", "sign_out", `{"refresh":"x"}`, 401, ""},
		{"sign out: nothing", "sign_out", ``, 401, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var body any
			if tc.body != "" || tc.path != "sign_out" {
				body = tc.body
			}
			w := a.call("POST", "/authn/"+tc.path, "", body)
			if w.Code != tc.status {
				t.Fatalf("%d, want %d: %s", w.Code, tc.status, w.Body)
			}
			var p struct {
				Code, Detail, Error string
				Errors              []struct{ Pointer, Detail string }
			}
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Code == "" || p.Detail == "" {
				t.Fatalf("%v: %s", err, w.Body)
			}
			if w.Header().Get("Content-Type") != "application/problem+json" || w.Header().Get("Cache-Control") != "no-store" {
				t.Errorf("headers %v", w.Header())
			}
			if tc.pointer != "" && (len(p.Errors) == 0 || p.Errors[0].Pointer != tc.pointer) {
				t.Errorf("errors don't begin with %s: %s", tc.pointer, w.Body)
			}
			if strings.HasPrefix(tc.path, "token") {
				want := map[int]string{400: "invalid_request", 401: "invalid_grant"}[tc.status]
				if p.Error != want {
					t.Errorf("error %q, want %q (RFC 6749 §5.2)", p.Error, want)
				}
			}
			if (w.Code == 401) != (w.Header().Get("WWW-Authenticate") != "") {
				t.Errorf("%d with WWW-Authenticate %q", w.Code, w.Header().Get("WWW-Authenticate"))
			}
		})
	}
	users, err := a.accounts.List(t.Context(), "", 100)
	if err != nil || len(users) != 1 {
		t.Errorf("%d users are stored, want 1 (%v)", len(users), err)
	}
}

// Tokens that are not ours open nothing here.
func TestHostileTokens(t *testing.T) {
	a := newSQLiteAuthn(t)
	a.register("ana@ejemplo.example")
	good, _ := a.login("ana@ejemplo.example")
	a.must(200, "GET", "/authn/me", good, nil)
	claims, header := a.claims(good)

	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(kid string, change func(*token.Claims)) string {
		c := claims
		change(&c)
		payload, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: private, KeyID: kid}},
			(&jose.SignerOptions{}).WithType("at+jwt"))
		if err != nil {
			t.Fatal(err)
		}
		jws, err := signer.Sign(payload)
		if err != nil {
			t.Fatal(err)
		}
		text, err := jws.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	ours := func(typ string, change func(*token.Claims)) string {
		c := claims
		change(&c)
		payload, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		s, err := a.issuer.keys.Signer(jose.EdDSA)
		if err != nil {
			t.Fatal(err)
		}
		text, err := s.Sign(typ, payload)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	same := func(*token.Claims) {}
	parts := strings.Split(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt","kid":"` + header.KeyID + `"}`))
	for name, text := range map[string]string{
		"empty":                  "",
		"not a token":            "x",
		"unsigned":               none + "." + parts[1] + ".",
		"signature cut":          good[:len(good)-2],
		"payload changed":        parts[0] + "." + parts[1][:10] + "x" + parts[1][11:] + "." + parts[2],
		"other key, our kid":     sign(header.KeyID, same),
		"other key, no kid":      sign("", same),
		"other key, unknown kid": sign("x", same),
		"another issuer":         ours("at+jwt", func(c *token.Claims) { c.Issuer += "/" }),
		"expired":                ours("at+jwt", func(c *token.Claims) { c.Expiry = 1 }),
		"no exp":                 ours("at+jwt", func(c *token.Claims) { c.Expiry = 0 }),
		"not an access token":    ours("at+jwt", func(c *token.Claims) { c.Use = "refresh" }),
		"another typ":            ours("logout+jwt", same),
		"no session":             ours("at+jwt", func(c *token.Claims) { c.Session = "" }),
		"session is rubbish":     ours("at+jwt", func(c *token.Claims) { c.Session = "'; --" }),
		"huge":                   strings.Repeat("a", 100_000),
		"JSON serialisation":     `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
	} {
		w := a.call("GET", "/authn/me", text, nil)
		if w.Code != 401 || !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer ") {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

func TestWellKnown(t *testing.T) {
	a := newSQLiteAuthn(t)
	w := a.call("GET", "/.well-known/jwks.json?kid=x", "", nil)
	h := w.Header()
	if w.Code != 200 || h.Get("Content-Type") != "application/jwk-set+json" || h.Get("Access-Control-Allow-Origin") != "*" ||
		h.Get("Cache-Control") != "public, max-age=300" || !strings.HasPrefix(h.Get("Etag"), `"`) {
		t.Errorf("JWKS: %d %v", w.Code, h)
	}
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil || len(set.Keys) < 2 {
		t.Fatalf("%v: %s", err, w.Body)
	}
	for _, k := range set.Keys {
		if k["kid"] == "" || k["use"] != "sig" || (k["alg"] != "EdDSA" && k["alg"] != "RS256") || k["d"] != nil || k["p"] != nil {
			t.Errorf("key %v", k)
		}
	}
	r := httptest.NewRequest("GET", "/.well-known/jwks.json", nil)
	r.Header.Set("If-None-Match", h.Get("Etag"))
	again := httptest.NewRecorder()
	a.ServeHTTP(again, r)
	if again.Code != 304 || again.Body.Len() != 0 || again.Header().Get("Etag") != h.Get("Etag") {
		t.Errorf("conditional: %d", again.Code)
	}
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"} {
		m := a.must(200, "GET", path, "", nil)
		if m["issuer"] != testIssuer || m["jwks_uri"] != testIssuer+"/.well-known/jwks.json" {
			t.Errorf("%s: %v", path, m)
		}
	}
}

func TestCheckIssuer(t *testing.T) {
	for _, tc := range []struct {
		issuer string
		ok     bool
	}{
		{"https://id.example", true},
		{"https://id.example/tenant", true},
		{"http://127.0.0.1:8000", true},
		{"https://id.example/", false},
		{"https://id.example?x", false},
		{"https://id.example#x", false},
		{"https://id.example?", false},
		{"https://user@id.example", false},
		{"id.example", false},
		{"ftp://id.example", false},
		{"", false},
	} {
		if err := CheckIssuer(tc.issuer); (err == nil) != tc.ok {
			t.Errorf("%q: %v", tc.issuer, err)
		}
	}
}
