package authserver

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/pkg/token"
)

// administrator makes one and logs in for an audience.
func (a *authn) administrator(email, audience string) string {
	a.t.Helper()
	if _, err := a.accounts.Create(a.t.Context(), NewUser{Email: email, Password: testPassword, Roles: []token.Role{token.RoleAdmin}}); err != nil {
		a.t.Fatal(err)
	}
	access, _ := a.must(200, "POST", "/authn/token", "", member{"email": email, "password": testPassword, "audience": audience})["access"].(string)
	return access
}

// ask sends a request with an Idempotency-Key.
func (a *authn) ask(path, bearer, key, body string) *httptest.ResponseRecorder {
	a.t.Helper()
	r := httptest.NewRequestWithContext(a.t.Context(), http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+bearer)
	r.Header.Set("Idempotency-Key", key)
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	return w
}

func (a *authn) signing(alg jose.SignatureAlgorithm) *keys.Key {
	a.t.Helper()
	k := a.issuer.keys.Ring().Signing(alg)
	if k == nil {
		a.t.Fatalf("nothing signs for %s", alg)
	}
	return k
}

func TestAdminKeys(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		admin := a.administrator("root@ejemplo.example", AdminAudience)

		// Look.
		list, _ := a.must(200, "GET", "/admin/keys", admin, nil)["keys"].([]any)
		if len(list) != 4 {
			t.Fatalf("%d keys, want 4", len(list))
		}
		for _, k := range list {
			m, _ := k.(member)
			for secret := range m {
				if strings.Contains(secret, "private") || secret == "sealed" || secret == "d" {
					t.Errorf("a key is listed with %q", secret)
				}
			}
		}

		// Rotate at once, and once only.
		first := a.signing(jose.EdDSA).ID
		const emergency = `{"alg":"EdDSA","emergency":true}`
		w := a.ask("/admin/keys/rotate", admin, "night-1", emergency)
		if second := a.signing(jose.EdDSA).ID; w.Code != 200 || second == first {
			t.Fatalf("rotate: %d %s", w.Code, w.Body)
		}
		second := a.signing(jose.EdDSA).ID
		again := a.ask("/admin/keys/rotate", admin, "night-1", emergency)
		if again.Code != 200 || again.Body.String() != w.Body.String() || again.Header().Get("Idempotency-Replayed") != "true" || a.signing(jose.EdDSA).ID != second {
			t.Errorf("sent again: %d %q, want the first answer", again.Code, again.Body)
		}
		if w := a.ask("/admin/keys/rotate", admin, "night-1", `{"alg":"RS256"}`); w.Code != 422 || !strings.Contains(w.Body.String(), "idempotency_key_reused") {
			t.Errorf("another request with the key: %d %s", w.Code, w.Body)
		}
		if w := a.ask("/admin/keys/rotate", admin, "night-2", emergency); w.Code != 200 || a.signing(jose.EdDSA).ID == second {
			t.Errorf("with another key it must rotate again: %d %s", w.Code, w.Body)
		}

		// To a key that is named: it is done when that one signs, and refused
		// when it doesn't stand by.
		signs := a.signing(jose.EdDSA).ID
		a.forward(time.Second) // a stand-by
		if w := a.ask("/admin/keys/rotate", admin, "night-4", `{"alg":"EdDSA","emergency":true,"to":"`+signs+`"}`); w.Code != 200 || a.signing(jose.EdDSA).ID != signs {
			t.Errorf("to the key that signs: %d %s", w.Code, w.Body)
		}
		if w := a.ask("/admin/keys/rotate", admin, "night-5", `{"alg":"EdDSA","emergency":true,"to":"`+first+`"}`); w.Code != 409 || a.signing(jose.EdDSA).ID != signs {
			t.Errorf("to a key that has retired: %d %s", w.Code, w.Body)
		}
		next := a.issuer.keys.Ring().Standby(jose.EdDSA).ID
		if w := a.ask("/admin/keys/rotate", admin, "night-6", `{"alg":"RS256","emergency":true,"to":"`+next+`"}`); w.Code != 404 {
			t.Errorf("to a key of another algorithm: %d %s", w.Code, w.Body)
		}
		if w := a.ask("/admin/keys/rotate", admin, "night-7", `{"alg":"EdDSA","emergency":true,"to":"`+next+`"}`); w.Code != 200 || a.signing(jose.EdDSA).ID != next {
			t.Errorf("to the stand-by: %d %s", w.Code, w.Body)
		}

		// Revoke.
		stolen := a.signing(jose.EdDSA).ID // the other algorithm's signed our own token
		if w := a.ask("/admin/keys/"+stolen+"/revoke", admin, "night-3", `{"reason":"found in a backup"}`); w.Code != 200 {
			t.Fatalf("revoke: %d %s", w.Code, w.Body)
		}
		if k := a.issuer.keys.Ring().Key(stolen); k == nil || k.State != keys.Revoked || k.Reason != "found in a backup" {
			t.Errorf("after the revocation the key is %+v", k)
		}
		if jwks := a.call("GET", jwksPath, "", nil); strings.Contains(jwks.Body.String(), stolen) {
			t.Error("the revoked key is still published")
		}
		if w := a.call("POST", "/admin/keys/nosuchkey/revoke", admin, member{"reason": "x"}); w.Code != 404 {
			t.Errorf("revoke of an unknown key: %d %s", w.Code, w.Body)
		}

		// History.
		if w := a.call("GET", "/admin/keys/history?limit=1000", admin, nil); w.Code != 200 || !strings.Contains(w.Body.String(), stolen) || !strings.Contains(w.Body.String(), `"actor":"user `) {
			t.Errorf("history: %d %s", w.Code, w.Body)
		}
	})
}

// A request whose process died is taken over a minute later, and what it had
// done isn't done again.
func TestIdempotencyTakesOver(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		admin := a.administrator("root@ejemplo.example", AdminAudience)
		const emergency = `{"alg":"EdDSA","emergency":true}`
		if w := a.ask("/admin/keys/rotate", admin, "k", emergency); w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		signs := a.signing(jose.EdDSA).ID
		// As if the process had died after the rotation and before its answer
		// was kept.
		if _, err := db.Write.ExecContext(t.Context(), "UPDATE idempotency_keys SET answer = NULL"); err != nil {
			t.Fatal(err)
		}
		if w := a.ask("/admin/keys/rotate", admin, "k", emergency); w.Code != 409 || w.Header().Get("Retry-After") == "" {
			t.Errorf("while it may still run: %d %s", w.Code, w.Body)
		}
		a.forward(idempotencyLease + time.Second)
		if w := a.ask("/admin/keys/rotate", admin, "k", emergency); w.Code != 200 || a.signing(jose.EdDSA).ID != signs {
			t.Errorf("taken over: %d %s; signs with %s, want %s", w.Code, w.Body, a.signing(jose.EdDSA).ID, signs)
		}
	})
}

// What is remembered has an end, in time and in number.
func TestIdempotencyIsBounded(t *testing.T) {
	a := newSQLiteAuthn(t)
	now := a.clock.Now()
	ask := func(key string, now time.Time) (ran bool) {
		_, _, err := idempotently(t.Context(), a.store, now, "u", key, "", 1, func(string) (*int, error) { ran = true; n := 1; return &n, nil })
		if err != nil {
			t.Fatal(err)
		}
		return ran
	}
	for i := range idempotencyMost + 50 {
		ask(strings.Repeat("k", 1+i%250)+time.Duration(i).String(), now.Add(time.Duration(i)*time.Millisecond))
	}
	var n int
	if err := a.store.write.GetContext(t.Context(), &n, "SELECT COUNT(*) FROM idempotency_keys"); err != nil || n != idempotencyMost {
		t.Errorf("%d keys are remembered, %v; want %d", n, err, idempotencyMost)
	}
	if !ask("a", now.Add(time.Hour)) || ask("a", now.Add(2*time.Hour)) || !ask("a", now.Add(time.Hour+idempotencyLife+time.Minute)) {
		t.Error("a key must be remembered for a day, and no longer")
	}
}

func TestAdminIsForAdministrators(t *testing.T) {
	a := newSQLiteAuthn(t)
	admin := a.administrator("root@ejemplo.example", AdminAudience)
	elsewhere := a.administrator("root2@ejemplo.example", "tercero")
	a.register("ana@ejemplo.example")
	user, _ := a.must(200, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": testPassword, "audience": AdminAudience})["access"].(string)
	demoted := a.administrator("root3@ejemplo.example", AdminAudience)
	if _, err := a.store.write.ExecContext(t.Context(), "UPDATE users SET roles = 'user' WHERE email_key = 'root3@ejemplo.example'"); err != nil {
		t.Fatal(err)
	}
	gone := a.administrator("root4@ejemplo.example", AdminAudience)
	a.must(204, "POST", "/authn/sign_out", gone, nil)

	a.forward(time.Second) // the stand-bys
	kid, before := a.signing(jose.EdDSA).ID, a.issuer.keys.Ring().Version
	routes := []struct{ method, path, body string }{
		{"GET", "/admin/keys", ""},
		{"GET", "/admin/keys/history", ""},
		{"POST", "/admin/keys/rotate", `{"alg":"EdDSA","emergency":true}`},
		{"POST", "/admin/keys/rotate", `{"alg":7}`}, // who may not ask isn't told what is wrong with the question
		{"POST", "/admin/keys/" + kid + "/revoke", `{"reason":"x"}`},
		{"GET", "/admin/users", ""},
		{"GET", "/admin/users/" + uuid.Nil.String(), ""},
		{"PATCH", "/admin/users/" + uuid.Nil.String(), `{"roles":["admin"]}`},
		{"DELETE", "/admin/users/" + uuid.Nil.String(), ""},
		{"GET", "/admin/users/" + uuid.Nil.String() + "/sessions", ""},
		{"DELETE", "/admin/users/" + uuid.Nil.String() + "/sessions", ""},
		{"DELETE", "/admin/users/" + uuid.Nil.String() + "/sessions/" + uuid.Nil.String(), ""},
		{"GET", "/admin/clients", ""},
		{"POST", "/admin/clients", `{"name":"x","scope":"inmuebles:read"}`},
		{"GET", "/admin/clients/x", ""},
		{"PATCH", "/admin/clients/x", `{"disabled":true}`},
		{"DELETE", "/admin/clients/x", ""},
		{"POST", "/admin/clients/x/rotate_secret", `{}`},
		{"GET", "/admin/audiences", ""},
		{"POST", "/admin/audiences", `{"name":"x"}`},
		{"DELETE", "/admin/audiences/x", ""},
		{"GET", "/admin/audit", ""},
	}
	for _, tc := range []struct {
		name, bearer string
		status       int
	}{
		{"nobody", "", 401},
		{"rubbish", "x", 401},
		{"a user", user, 403},
		{"an administrator's token for another service", elsewhere, 403},
		{"who is no administrator any more", demoted, 403},
		{"who has signed out", gone, 401},
	} {
		for _, r := range routes {
			if strings.Contains(r.body, "7") && (tc.name[0] == 'w') {
				continue // known only after the body was read
			}
			var body any
			if r.body != "" {
				body = r.body
			}
			if w := a.call(r.method, r.path, tc.bearer, body); w.Code != tc.status || w.Header().Get("WWW-Authenticate") == "" && tc.status == 401 {
				t.Errorf("%s, %s %s: %d, want %d: %s", tc.name, r.method, r.path, w.Code, tc.status, w.Body)
			}
		}
	}

	// An administrator's own nonsense changes nothing either.
	for _, tc := range []struct {
		name, path, key, body string
		status                int
	}{
		{"no body", "rotate", "k", ``, 400},
		{"no alg", "rotate", "k", `{}`, 422},
		{"alg none", "rotate", "k", `{"alg":"none"}`, 422},
		{"an algorithm without keys", "rotate", "k1", `{"alg":"ES256"}`, 404},
		{"to is a path", "rotate", "k", `{"alg":"EdDSA","to":"../x"}`, 422},
		{"to is nobody", "rotate", "k3", `{"alg":"EdDSA","to":"nobody"}`, 404},
		{"alg is a list", "rotate", "k", `{"alg":["EdDSA"]}`, 422},
		{"emergency is text", "rotate", "k", `{"alg":"EdDSA","emergency":"true"}`, 422},
		{"an unknown member", "rotate", "k", `{"alg":"EdDSA","force":true}`, 422},
		{"a member in another case", "rotate", "k", `{"alg":"EdDSA","Emergency":true}`, 422},
		{"alg twice", "rotate", "k", `{"alg":"EdDSA","alg":"RS256"}`, 400},
		{"nested", "rotate", "k", strings.Repeat("[", 60_000), 400},
		{"huge", "rotate", "k", `{"alg":"` + strings.Repeat("x", 100_000) + `"}`, 413},
		{"a key with a space", "rotate", "a b", `{"alg":"EdDSA"}`, 422},
		{"a key that is too long", "rotate", strings.Repeat("k", 256), `{"alg":"EdDSA"}`, 422},
		{"a key with other letters", "rotate", "ñ", `{"alg":"EdDSA"}`, 422},
		{"no reason", kid + "/revoke", "k", `{}`, 422},
		{"an empty reason", kid + "/revoke", "k", `{"reason":""}`, 422},
		{"a blank reason", kid + "/revoke", "k", `{"reason":"  "}`, 422},
		{"a reason with NUL", kid + "/revoke", "k", `{"reason":"a\u0000b"}`, 422},
		{"a reason with a line break", kid + "/revoke", "k", `{"reason":"a\nlevel=INFO"}`, 422},
		{"a reason that is too long", kid + "/revoke", "k", `{"reason":"` + strings.Repeat("x", 151) + `"}`, 422},
		{"a kid with quotes", "%27%20OR%201=1/revoke", "k", `{"reason":"x"}`, 422},
		{"a kid with a path", "..%2f..%2fetc/revoke", "k", `{"reason":"x"}`, 422},
		{"a kid that is too long", strings.Repeat("k", 65) + "/revoke", "k", `{"reason":"x"}`, 422},
		{"a kid that nobody has", strings.Repeat("k", 43) + "/revoke", "k2", `{"reason":"x"}`, 404},
	} {
		w := a.ask("/admin/keys/"+tc.path, admin, tc.key, tc.body)
		if w.Code != tc.status || w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d, want %d: %s", tc.name, w.Code, tc.status, w.Body)
		}
		if strings.Contains(w.Body.String(), admin) {
			t.Errorf("%s: the answer holds the access token", tc.name)
		}
	}
	if now := a.issuer.keys.Ring().Version; now != before {
		t.Errorf("the ring went from version %d to %d", before, now)
	}
	if strings.Contains(a.log.String(), admin) {
		t.Error("the log holds an access token")
	}
}

// A verifier that names itself shows in the list, and nothing that it sends
// does harm.
func TestEvidence(t *testing.T) {
	a := newSQLiteAuthn(t)
	admin := a.administrator("root@ejemplo.example", AdminAudience)
	fetch := func(name, etag string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, jwksPath, nil)
		r.Header.Set("Urbandata-Verifier", name)
		if etag != "" {
			r.Header.Set("If-None-Match", etag)
		}
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		return w
	}
	etag := fetch("inmuebles-1", "").Header().Get("Etag")
	if w := fetch("inmuebles-1", etag); w.Code != 304 || w.Body.Len() > 0 {
		t.Errorf("with the present ETag: %d, %d bytes", w.Code, w.Body.Len())
	}
	for _, hostile := range []string{"", strings.Repeat("x", 10_000), "a,b", "a b", "<script>", "'; DROP TABLE users; --"} {
		if w := fetch(hostile, `"made up"`); w.Code != 200 {
			t.Errorf("%.20q: %d", hostile, w.Code)
		}
	}
	a.forward(time.Second) // sightings are written with the tick
	kid := a.signing(jose.EdDSA).ID
	for _, k := range a.must(200, "GET", "/admin/keys", admin, nil)["keys"].([]any) {
		m, _ := k.(member)
		held, _ := m["held_by"].([]any)
		if m["kid"] == kid && (len(held) != 1 || held[0] != "inmuebles-1") {
			t.Errorf("held by %v, want inmuebles-1", held)
		}
	}
}
