package authserver

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/test/engines"
)

// post sends a form, with the client's id and secret in the Authorization
// header unless id is empty.
func (a *authn) post(path, id, secret string, form url.Values) *httptest.ResponseRecorder {
	a.t.Helper()
	r := httptest.NewRequestWithContext(a.t.Context(), http.MethodPost, path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", formType)
	r.Header.Set("Accept", "text/html")
	if id != "" {
		r.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	}
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	return w
}

// answered checks status and error code of an answer and returns it.
func (a *authn) answered(w *httptest.ResponseRecorder, status int, code string) member {
	a.t.Helper()
	var m member
	if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil {
		a.t.Fatalf("%v: %s", err, w.Body)
	}
	if got, _ := m["error"].(string); w.Code != status || got != code {
		a.t.Fatalf("%d %q, want %d %q: %s", w.Code, got, status, code, w.Body)
	}
	if h := w.Header(); h.Get("Content-Type") != "application/json" || h.Get("Cache-Control") != "no-store" {
		a.t.Fatalf("header %v", h)
	}
	if challenge := w.Header().Get("WWW-Authenticate"); (challenge != "") != (status == http.StatusUnauthorized) {
		a.t.Fatalf("%d has the challenge %q", status, challenge)
	}
	return m
}

func (a *authn) client(n NewClient) (*Client, string) {
	a.t.Helper()
	if n.Name == "" {
		n.Name = "a client"
	}
	if n.Scope == nil {
		n.Scope = token.Scope{token.ScopeInmueblesRead, token.ScopeInmueblesWrite}
	}
	c, secret, err := a.clients.Create(a.t.Context(), n)
	if err != nil {
		a.t.Fatal(err)
	}
	return c, secret
}

func TestClientCredentials(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		c, secret := a.client(NewClient{})
		other, _ := a.client(NewClient{Grants: []string{GrantRefreshToken}, Audiences: []string{"maps", "inmuebles"}})
		grant := func(extra ...string) url.Values {
			v := url.Values{"grant_type": {GrantClientCredentials}}
			for i := 0; i < len(extra); i += 2 {
				v.Add(extra[i], extra[i+1])
			}
			return v
		}

		m := a.answered(a.post(tokenPath, c.ID, secret, grant()), 200, "")
		if m["token_type"] != "Bearer" || m["expires_in"] != 300.0 || m["refresh_token"] != nil || m["scope"] != "inmuebles:read inmuebles:write" {
			t.Errorf("answer %v", m)
		}
		claims, header := a.claims(m["access_token"].(string))
		if claims.Subject != c.ID || claims.ClientID != c.ID || claims.Session != "" || claims.UserID != "" || !claims.Audience.Has("inmuebles") ||
			len(claims.Roles) != 0 || header.Algorithm != "EdDSA" {
			t.Errorf("claims %+v", claims)
		}
		// A client is no user: the user's routes are closed to it.
		a.must(403, "GET", "/authn/me", m["access_token"].(string), nil)

		for _, tc := range []struct {
			name, id, secret string
			form             url.Values
			status           int
			code             string
		}{
			{"secret in the form", "", "", grant("client_id", c.ID, "client_secret", secret), 200, ""},
			{"trailing parameters are ignored", c.ID, secret, grant("resource_owner", "x", "nonce", "y"), 200, ""},
			{"less scope", c.ID, secret, grant("scope", "inmuebles:read"), 200, ""},
			{"same client twice", c.ID, secret, grant("client_id", c.ID), 200, ""},

			{"nobody", "", "", grant(), 401, "invalid_client"},
			{"wrong secret", c.ID, secret + "x", grant(), 401, "invalid_client"},
			{"empty secret", c.ID, "", grant(), 401, "invalid_client"},
			{"unknown client", "nobody", secret, grant(), 401, "invalid_client"},
			{"id that no database takes", "a\x00b", secret, grant(), 401, "invalid_client"},
			{"header and form differ", c.ID, secret, grant("client_id", other.ID), 401, "invalid_client"},
			{"two ways", c.ID, secret, grant("client_secret", secret), 400, "invalid_request"},
			{"no grant type", c.ID, secret, url.Values{}, 400, "invalid_request"},
			{"password grant", c.ID, secret, url.Values{"grant_type": {"password"}}, 400, "unsupported_grant_type"},
			{"too much scope", c.ID, secret, grant("scope", "inmuebles:read inmuebles:admin"), 400, "invalid_scope"},
			{"another audience", c.ID, secret, grant("audience", "maps"), 400, "invalid_target"},
			{"twice", c.ID, secret, grant("scope", "inmuebles:read", "scope", "inmuebles:read"), 400, "invalid_request"},
			{"control character", c.ID, secret, grant("audience", "a\x00"), 400, "invalid_request"},
			{"assertion of no type", "", "", grant("client_assertion", "a.b.c"), 400, "invalid_request"},
			{"assertion that is none", "", "", grant("client_assertion", "a.b.c", "client_assertion_type", assertionType), 401, "invalid_client"},
		} {
			t.Run(tc.name, func(t *testing.T) {
				a := *a
				a.t = t
				a.answered(a.post(tokenPath, tc.id, tc.secret, tc.form), tc.status, tc.code)
			})
		}

		refresher, refresherSecret := a.client(NewClient{Grants: []string{GrantRefreshToken}})
		a.answered(a.post(tokenPath, refresher.ID, refresherSecret, grant()), 400, "unauthorized_client")

		for name, r := range map[string]*http.Request{
			"JSON":       a.request("POST", tokenPath, "", member{"grant_type": "client_credentials"}),
			"in the URL": a.request("POST", tokenPath+"?client_secret="+secret, "", nil),
			"no form":    httptest.NewRequestWithContext(t.Context(), "POST", tokenPath, strings.NewReader("grant_type=%zz")),
		} {
			if name == "no form" {
				r.Header.Set("Content-Type", formType)
			}
			w := httptest.NewRecorder()
			a.ServeHTTP(w, r)
			a.answered(w, 400, "invalid_request")
		}
		if strings.Contains(a.log.String(), secret) {
			t.Error("the log holds a secret")
		}
	})
}

func TestClientChanges(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		ctx := t.Context()
		c, first := a.client(NewClient{})
		form := url.Values{"grant_type": {GrantClientCredentials}}

		second, err := a.clients.RotateSecret(ctx, c.ID, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		a.answered(a.post(tokenPath, c.ID, second, form), 200, "")
		a.answered(a.post(tokenPath, c.ID, first, form), 200, "") // during the overlap
		a.forward(time.Hour)
		a.answered(a.post(tokenPath, c.ID, first, form), 401, "invalid_client")
		a.answered(a.post(tokenPath, c.ID, second, form), 200, "")

		if err := a.clients.SetDisabled(ctx, c.ID, true); err != nil {
			t.Fatal(err)
		}
		a.answered(a.post(tokenPath, c.ID, second, form), 401, "invalid_client")
		if err := a.clients.SetDisabled(ctx, c.ID, false); err != nil {
			t.Fatal(err)
		}
		a.answered(a.post(tokenPath, c.ID, second, form), 200, "")

		for name, err := range map[string]error{
			"rotate":  func() error { _, err := a.clients.RotateSecret(ctx, "nobody", 0); return err }(),
			"disable": a.clients.SetDisabled(ctx, "nobody", true),
			"keys":    a.clients.SetKeys(ctx, c.ID, publicSet(t, jose.EdDSA, newKey(t, jose.EdDSA))), // it has a secret
		} {
			if !errors.Is(err, ErrNoClient) {
				t.Errorf("%s: %v, want ErrNoClient", name, err)
			}
		}
		list, err := a.clients.List(ctx, "", 10)
		if err != nil || len(list) != 1 || list[0].ID != c.ID || list[0].Scope.String() != "inmuebles:read inmuebles:write" {
			t.Errorf("list %v, %v", list, err)
		}
	})
}

func TestClientRefused(t *testing.T) {
	a := newAuthn(t, migrated(t))
	private, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: newKey(t, jose.EdDSA)}}})
	if err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	good := NewClient{Name: "n", Scope: token.Scope{token.ScopeInmueblesRead}}
	for _, tc := range []struct {
		field  string
		change func(*NewClient)
	}{
		{"name", func(n *NewClient) { n.Name = "" }},
		{"name", func(n *NewClient) { n.Name = "a\nb" }},
		{"grants", func(n *NewClient) { n.Grants = []string{"password"} }},
		{"scope", func(n *NewClient) { n.Scope = nil }},
		{"scope", func(n *NewClient) { n.Scope = token.Scope{"everything"} }},
		{"audiences", func(n *NewClient) { n.Audiences = []string{"a b"} }},
		{"jwks", func(n *NewClient) { n.JWKS = []byte(`{}`) }},
		{"jwks", func(n *NewClient) { n.JWKS = []byte(`not JSON`) }},
		{"jwks", func(n *NewClient) { n.JWKS = private }},
		{"jwks", func(n *NewClient) { n.JWKS = []byte(`{"keys":[{"kty":"oct","k":"c2VjcmV0c2VjcmV0c2VjcmV0"}]}`) }},
		{"jwks", func(n *NewClient) { n.JWKS = publicSet(t, jose.RS256, weak) }},
	} {
		n := good
		tc.change(&n)
		var field *FieldError
		if _, _, err := a.clients.Create(t.Context(), n); !errors.As(err, &field) || field.Field != tc.field {
			t.Errorf("%+v: %v, want a FieldError of %s", n, err, tc.field)
		}
	}
	if list, err := a.clients.List(t.Context(), "", 10); err != nil || len(list) != 0 {
		t.Errorf("stored %v, %v", list, err)
	}
}

// newKey makes a private key for an algorithm.
func newKey(t *testing.T, alg jose.SignatureAlgorithm) any {
	t.Helper()
	var key any
	var err error
	switch alg {
	case jose.EdDSA, ed25519Alg:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case jose.ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicSet(t *testing.T, alg jose.SignatureAlgorithm, private any) []byte {
	t.Helper()
	k := jose.JSONWebKey{Key: private, KeyID: "k1", Algorithm: string(alg)}
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{k.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// assert signs an assertion.
func assert(t *testing.T, alg jose.SignatureAlgorithm, private any, kid string, claims any) string {
	t.Helper()
	payload, ok := claims.(string)
	if !ok {
		raw, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		payload = string(raw)
	}
	if alg == ed25519Alg { // go-jose doesn't know the name
		header, err := json.Marshal(member{"alg": alg, "kid": kid})
		if err != nil {
			t.Fatal(err)
		}
		text := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
		return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(private.(ed25519.PrivateKey), []byte(text)))
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: private, KeyID: kid}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestPrivateKeyJWT(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		now := a.clock.Now().Unix()
		for _, alg := range assertionAlgs {
			t.Run(string(alg), func(t *testing.T) {
				a := *a
				a.t = t
				key := newKey(t, alg)
				c, secret := a.client(NewClient{JWKS: publicSet(t, alg, key)})
				if secret != "" {
					t.Error("a client with keys has a secret")
				}
				try := func(text string) *httptest.ResponseRecorder {
					return a.post(tokenPath, "", "", url.Values{
						"grant_type": {GrantClientCredentials}, "client_assertion_type": {assertionType}, "client_assertion": {text},
					})
				}
				with := func(change func(member)) member {
					m := member{"iss": c.ID, "sub": c.ID, "aud": testIssuer, "exp": now + 60, "iat": now, "jti": fmt.Sprint(alg, rand.Text())}
					change(m)
					return m
				}
				good := assert(t, alg, key, "k1", with(func(member) {}))
				a.answered(try(good), 200, "")
				a.answered(try(good), 401, "invalid_client") // each counts once
				a.answered(try(assert(t, alg, key, "", with(func(m member) { m["aud"] = []string{"x", testIssuer + tokenPath} }))), 200, "")

				for name, text := range map[string]string{
					"another key":     assert(t, alg, newKey(t, alg), "k1", with(func(member) {})),
					"another kid":     assert(t, alg, key, "k2", with(func(member) {})),
					"another client":  assert(t, alg, key, "k1", with(func(m member) { m["sub"], m["iss"] = "nobody", "nobody" })),
					"iss is not sub":  assert(t, alg, key, "k1", with(func(m member) { m["iss"] = "x" })),
					"aud elsewhere":   assert(t, alg, key, "k1", with(func(m member) { m["aud"] = "https://elsewhere.example" })),
					"no aud":          assert(t, alg, key, "k1", with(func(m member) { delete(m, "aud") })),
					"no exp":          assert(t, alg, key, "k1", with(func(m member) { delete(m, "exp") })),
					"expired":         assert(t, alg, key, "k1", with(func(m member) { m["exp"] = now - 31 })),
					"exp far ahead":   assert(t, alg, key, "k1", with(func(m member) { m["exp"] = now + 3631 })),
					"exp beyond time": assert(t, alg, key, "k1", with(func(m member) { m["exp"] = 1e300 })),
					"nbf ahead":       assert(t, alg, key, "k1", with(func(m member) { m["nbf"] = now + 60 })),
					"iat ahead":       assert(t, alg, key, "k1", with(func(m member) { m["iat"] = now + 60 })),
					"no jti":          assert(t, alg, key, "k1", with(func(m member) { delete(m, "jti") })),
					"long jti":        assert(t, alg, key, "k1", with(func(m member) { m["jti"] = strings.Repeat("j", maxJTI+1) })),
					"claim twice":     assert(t, alg, key, "k1", `{"iss":"x","iss":"`+c.ID+`","sub":"`+c.ID+`"}`),
					"no JSON":         assert(t, alg, key, "k1", "no JSON"),
					"unsigned":        good[:strings.LastIndex(good, ".")+1],
					"too long":        strings.Repeat("a", maxAssertion+1),
				} {
					t.Run(name, func(t *testing.T) {
						a := a
						a.t = t
						a.answered(try(text), 401, "invalid_client")
					})
				}

				// A hundred at once: one of them counts.
				text := assert(t, alg, key, "k1", with(func(member) {}))
				var granted atomic.Int32
				var group sync.WaitGroup
				for range 20 {
					group.Go(func() {
						if try(text).Code == http.StatusOK {
							granted.Add(1)
						}
					})
				}
				group.Wait()
				if n := granted.Load(); n != 1 {
					t.Errorf("one assertion counted %d times", n)
				}

				next := newKey(t, alg)
				if err := a.clients.SetKeys(t.Context(), c.ID, publicSet(t, alg, next)); err != nil {
					t.Fatal(err)
				}
				a.answered(try(assert(t, alg, key, "k1", with(func(member) {}))), 401, "invalid_client")
				a.answered(try(assert(t, alg, next, "k1", with(func(member) {}))), 200, "")
			})
		}
		// HMAC with what is public of a key is no signature.
		key := newKey(t, jose.EdDSA)
		c, _ := a.client(NewClient{JWKS: publicSet(t, jose.EdDSA, key)})
		forged := assert(t, jose.HS256, publicSet(t, jose.EdDSA, key)[:32], "k1", member{"iss": c.ID, "sub": c.ID, "aud": testIssuer, "exp": now + 60, "jti": "x"})
		a.answered(a.post(tokenPath, "", "", url.Values{
			"grant_type": {GrantClientCredentials}, "client_assertion_type": {assertionType}, "client_assertion": {forged},
		}), 401, "invalid_client")

		a.forward(24 * time.Hour)
		if err := a.clients.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		var left int
		if err := db.Write.Get(&left, "SELECT count(*) FROM client_assertions"); err != nil || left != 0 {
			t.Errorf("%d spent assertions left, %v", left, err)
		}
	})
}

func TestOAuthUserSession(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		a.register("ana@ejemplo.example")
		access, refresh := a.login("ana@ejemplo.example")
		mine, secret := a.client(NewClient{Grants: []string{GrantClientCredentials, GrantRefreshToken}})
		theirs, theirSecret := a.client(NewClient{Audiences: []string{"maps"}})
		about := func(text string) url.Values { return url.Values{"token": {text}} }

		// A public client refreshes without a secret, and may narrow the scope.
		m := a.answered(a.post(tokenPath, "", "", url.Values{
			"grant_type": {GrantRefreshToken}, "refresh_token": {refresh}, "scope": {"inmuebles:read inmuebles:admin"},
		}), 200, "")
		if m["scope"] != "inmuebles:read" {
			t.Errorf("scope %v", m["scope"])
		}
		narrow, current := m["access_token"].(string), m["refresh_token"].(string)
		if c, _ := a.claims(narrow); c.Scope.String() != "inmuebles:read" {
			t.Errorf("claims %+v", c)
		}
		a.answered(a.post(tokenPath, "", "", url.Values{"grant_type": {GrantRefreshToken}}), 400, "invalid_request")
		a.answered(a.post(tokenPath, "", "", url.Values{"grant_type": {GrantRefreshToken}, "refresh_token": {"udr_rubbish"}}), 400, "invalid_grant")
		// Another client can't, and doesn't use it up either.
		a.answered(a.post(tokenPath, mine.ID, secret, url.Values{"grant_type": {GrantRefreshToken}, "refresh_token": {current}}), 400, "invalid_grant")

		active := func(want bool, id, secret, text string) member {
			t.Helper()
			m := a.answered(a.post(introspectPath, id, secret, about(text)), 200, "")
			if m["active"] != want || !want && len(m) != 1 {
				t.Fatalf("introspection %v, want active %v", m, want)
			}
			return m
		}
		if m := active(true, mine.ID, secret, access); m["client_id"] != "urbandata" || m["scope"] != "inmuebles:read inmuebles:write" || m["aud"] != "inmuebles" {
			t.Errorf("introspection %v", m)
		}
		active(false, theirs.ID, theirSecret, access) // it is for another audience
		active(false, mine.ID, secret, current)       // a refresh token is its client's own affair
		active(false, mine.ID, secret, "rubbish")
		a.answered(a.post(introspectPath, "", "", about(access)), 401, "invalid_client")
		a.answered(a.post(introspectPath, mine.ID, secret, url.Values{}), 400, "invalid_request")

		// Nobody ends a session that isn't theirs, and learns nothing of it.
		for _, text := range []string{current, access, "rubbish", "udr_rubbish"} {
			a.answered(a.post(revokePath, mine.ID, secret, about(text)), 200, "")
		}
		active(true, mine.ID, secret, access)
		a.answered(a.post(revokePath, "", "", about(current)), 200, "")
		active(false, mine.ID, secret, access)
		a.answered(a.post(tokenPath, "", "", url.Values{"grant_type": {GrantRefreshToken}, "refresh_token": {current}}), 400, "invalid_grant")

		access, _ = a.login("ana@ejemplo.example")
		a.answered(a.post(revokePath, "", "", about(access)), 200, "")
		active(false, mine.ID, secret, access)

		own := a.answered(a.post(tokenPath, mine.ID, secret, url.Values{"grant_type": {GrantClientCredentials}}), 200, "")["access_token"].(string)
		if m := active(true, mine.ID, secret, own); m["sub"] != mine.ID {
			t.Errorf("introspection %v", m)
		}
		a.answered(a.post(revokePath, theirs.ID, theirSecret, about(own)), 200, "") // not theirs
		active(true, mine.ID, secret, own)
		a.answered(a.post(revokePath, mine.ID, secret, about(own)), 200, "")
		active(false, mine.ID, secret, own)

		own = a.answered(a.post(tokenPath, mine.ID, secret, url.Values{"grant_type": {GrantClientCredentials}}), 200, "")["access_token"].(string)
		active(true, mine.ID, secret, own)
		a.forward(5 * time.Minute)
		active(false, mine.ID, secret, own)
	})
}

func TestRegisteredAudiences(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db, func(o *Options) {
			o.Audiences = map[string]Audience{"fixed": {Alg: jose.RS256, Type: token.TypeJWT}}
		})
		ctx := t.Context()
		a.register("ana@ejemplo.example")
		for _, aud := range []RegisteredAudience{
			{Name: "maps", Alg: jose.EdDSA, Type: token.TypeJWT, TokenLife: time.Minute, ForUsers: true},
			{Name: "batch", Alg: jose.RS256, Type: token.TypeAccess, TokenLife: 24 * time.Hour},
			{Name: "fixed", Alg: jose.EdDSA, Type: token.TypeAccess, ForUsers: true},
		} {
			if _, err := a.clients.AddAudience(ctx, aud); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := a.clients.AddAudience(ctx, RegisteredAudience{Name: "maps", Alg: jose.EdDSA, Type: token.TypeJWT}); !errors.Is(err, ErrAudienceTaken) {
			t.Errorf("a second one: %v, want ErrAudienceTaken", err)
		}
		var field *FieldError
		for _, bad := range []RegisteredAudience{{Name: "a b", Type: "JWT"}, {Name: "x", Type: "jose"}, {Name: "x", Type: "JWT", TokenLife: 1}} {
			if _, err := a.clients.AddAudience(ctx, bad); !errors.As(err, &field) {
				t.Errorf("%+v: %v, want a FieldError", bad, err)
			}
		}
		if err := a.issuer.audiences.reload(ctx); err != nil { // as the running server does every few seconds
			t.Fatal(err)
		}
		c, secret := a.client(NewClient{Audiences: []string{"maps", "batch", "fixed", "unheard-of"}})
		for _, tc := range []struct {
			audience, alg, typ string
			life               float64
		}{
			{"maps", "EdDSA", "JWT", 60},
			{"batch", "RS256", "at+jwt", 300}, // never longer than keys are kept for
			{"fixed", "RS256", "JWT", 300},    // the settings win
			{"unheard-of", "RS256", "at+jwt", 300},
		} {
			m := a.answered(a.post(tokenPath, c.ID, secret, url.Values{"grant_type": {GrantClientCredentials}, "audience": {tc.audience}}), 200, "")
			if _, h := a.claims(m["access_token"].(string)); h.Algorithm != tc.alg || h.ExtraHeaders["typ"] != tc.typ || m["expires_in"] != tc.life {
				t.Errorf("%s: %s, %v, %v", tc.audience, h.Algorithm, h.ExtraHeaders["typ"], m["expires_in"])
			}
		}
		a.must(200, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": testPassword, "audience": "maps"})
		if m := a.must(400, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": testPassword, "audience": "batch"}); m["error"] != "invalid_target" {
			t.Errorf("a closed audience: %v", m)
		}
		// None of the client's is inmuebles, and it has several: it has to say.
		a.answered(a.post(tokenPath, c.ID, secret, url.Values{"grant_type": {GrantClientCredentials}}), 400, "invalid_target")

		if err := a.clients.RemoveAudience(ctx, "batch"); err != nil {
			t.Fatal(err)
		}
		if err := a.clients.RemoveAudience(ctx, "batch"); !errors.Is(err, ErrNoAudience) {
			t.Errorf("removed twice: %v, want ErrNoAudience", err)
		}
		if list, err := a.clients.Audiences(ctx); err != nil || len(list) != 2 || list[1].Name != "maps" || list[1].TokenLife != time.Minute || !list[1].ForUsers {
			t.Errorf("audiences %+v, %v", list, err)
		}
	})
}

func FuzzAssertion(f *testing.F) {
	db := migrated(f)
	store, err := NewStore(f.Context(), db.Write, db.Read)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = store.Close() })
	clients := NewClients(store, nil)
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJ4Iiwic3ViIjoieCJ9.AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := clients.byAssertion(t.Context(), text, "", testIssuer); !errors.Is(err, ErrClient) {
			t.Fatalf("%q: %v, want ErrClient", text, err)
		}
	})
}

// migrated is a new SQLite database with authn's tables.
func migrated(t testing.TB) *database.SQL {
	t.Helper()
	db := engines.SQLite(t)
	if _, err := migrations.Up(t.Context(), db.Write.DB, migrations.AuthnSQLite); err != nil {
		t.Fatal(err)
	}
	return db
}

// TestStockClient: what docs/oauth.md shows of golang.org/x/oauth2, against a
// real listener.
func TestStockClient(t *testing.T) {
	a := newAuthn(t, migrated(t))
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	c, secret := a.client(NewClient{})
	for _, style := range []oauth2.AuthStyle{oauth2.AuthStyleAutoDetect, oauth2.AuthStyleInHeader, oauth2.AuthStyleInParams} {
		config := clientcredentials.Config{ClientID: c.ID, ClientSecret: secret, TokenURL: server.URL + tokenPath, AuthStyle: style}
		got, err := config.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if claims, _ := a.claims(got.AccessToken); claims.Subject != c.ID || got.TokenType != "Bearer" {
			t.Errorf("style %d: %+v", style, claims)
		}
		config.ClientSecret = "wrong"
		var refused *oauth2.RetrieveError
		if _, err := config.Token(t.Context()); !errors.As(err, &refused) || refused.ErrorCode != "invalid_client" {
			t.Errorf("style %d: %v, want invalid_client", style, err)
		}
	}
}
