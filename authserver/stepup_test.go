package authserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/pkg/token"
)

// stepUpTo sends a request that is to be refused, and returns what the
// challenge asks for.
func (a *authn) stepUpTo(method, path, bearer string, body any) string {
	a.t.Helper()
	w := a.call(method, path, bearer, body)
	var p struct{ Code, Detail string }
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != 401 || p.Code != "insufficient_user_authentication" {
		a.t.Errorf("%s %s: %d %s, want a challenge", method, path, w.Code, w.Body)
	}
	prefix := fmt.Sprintf(`Bearer realm="authn", error="insufficient_user_authentication", error_description=%q`, p.Detail)
	rest, ok := strings.CutPrefix(w.Header().Get("WWW-Authenticate"), prefix)
	if !ok {
		a.t.Errorf("%s %s: challenge %s", method, path, w.Header().Get("WWW-Authenticate"))
	}
	return strings.TrimPrefix(rest, ", ")
}

// A route that wants a recent login takes one that is, whatever was refreshed
// meanwhile, and another login is what helps.
func TestRecentLogin(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		if _, err := a.accounts.Create(t.Context(), NewUser{Email: "root@ejemplo.example", Password: testPassword, Roles: []token.Role{token.RoleAdmin}}); err != nil {
			t.Fatal(err)
		}
		a.administrator("eva@ejemplo.example", AdminAudience) // the last one can't go
		credentials := member{"email": "root@ejemplo.example", "password": testPassword, "audience": AdminAudience}
		m := a.must(200, "POST", "/authn/token", "", credentials)
		began := a.clock.Now().Unix()
		rotate := member{"alg": "EdDSA", "emergency": true}

		a.forward(DefaultStepUpAge - time.Second)
		m = a.must(200, "POST", "/authn/token/refresh", "", member{"refresh": m["refresh"]})
		a.must(200, "POST", "/admin/keys/rotate", m["access"].(string), rotate)

		a.forward(2 * time.Second)
		m = a.must(200, "POST", "/authn/token/refresh", "", member{"refresh": m["refresh"]})
		access, _ := m["access"].(string)
		if c, _ := a.claims(access); c.AuthTime != began || c.ACR != token.ACRSingleFactor || fmt.Sprint(c.AMR) != "[pwd]" {
			t.Errorf("a refresh changed what the login was: %+v", c)
		}
		before := a.issuer.keys.Ring().Version
		for _, r := range []struct {
			method, path string
			body         any
		}{
			{"POST", "/admin/keys/rotate", rotate},
			{"POST", "/admin/keys/nosuchkey/revoke", member{"reason": "x"}},
			{"DELETE", "/authn/me", member{"password": testPassword}},
			{"DELETE", "/authn/me", "what is wrong with the body is told to nobody who may not ask"},
		} {
			if got := a.stepUpTo(r.method, r.path, access, r.body); got != `max_age="600"` {
				t.Errorf("%s %s asks for %s", r.method, r.path, got)
			}
		}
		if after := a.issuer.keys.Ring().Version; after != before {
			t.Errorf("a refused request changed the ring: %d, was %d", after, before)
		}
		a.must(200, "GET", "/admin/keys", access, nil)
		a.must(200, "GET", "/authn/me", access, nil)
		a.must(204, "POST", "/authn/me/password", access, member{"current_password": testPassword, "new_password": testPassword + "!"}) // asks itself

		// What the challenge says goes to the login as it is.
		credentials["password"], credentials["max_age"] = testPassword+"!", 600
		access, _ = a.must(200, "POST", "/authn/token", "", credentials)["access"].(string)
		a.must(200, "POST", "/admin/keys/rotate", access, rotate)
		a.administrator("another@ejemplo.example", AdminAudience) // one has to be left
		a.must(202, "DELETE", "/authn/me", access, member{"password": testPassword + "!"})
		a.must(401, "POST", "/admin/keys/rotate", access, rotate) // of a session that has ended
	})
}

// Who has a second factor must have shown it; who has none can't be asked.
func TestStrongLogin(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		a.register("ana@ejemplo.example")
		login := func(status int, more member) member {
			t.Helper()
			body := member{"email": "ana@ejemplo.example", "password": testPassword}
			for k, v := range more {
				body[k] = v
			}
			return a.must(status, "POST", "/authn/token", "", body)
		}
		if m := login(400, member{"acr_values": "aal2"}); m["code"] != "unmet_authentication_requirements" || m["error"] != m["code"] {
			t.Errorf("a login without what it is asked for: %v", m)
		}
		login(401, member{"acr_values": "aal2", "password": "not my password"})
		login(400, member{"acr_values": "aal3"})
		login(200, member{"acr_values": "aal2 aal1"})
		access, _ := login(200, nil)["access"].(string)
		change := member{"current_password": testPassword, "new_password": testPassword + "!"}
		a.must(403, "POST", "/authn/me/password", access, member{"current_password": "not my password", "new_password": testPassword + "!"})
		secret, recovery := a.enrol(access)

		// From that moment the session isn't enough.
		if got := a.stepUpTo("POST", "/authn/me/password", access, change); got != `acr_values="aal2"` {
			t.Errorf("a new password asks for %s", got)
		}
		if got := a.stepUpTo("DELETE", "/authn/me", access, member{"password": testPassword}); got != `acr_values="aal2", max_age="600"` {
			t.Errorf("the end of the account asks for %s", got)
		}
		a.forward(time.Minute)
		m := login(200, member{"otp": a.code(secret), "acr_values": "aal2", "max_age": 600})
		access, _ = m["access"].(string)
		a.must(204, "POST", "/authn/me/password", access, change)
		a.forward(time.Hour) // no matter where the password is asked for
		m = a.must(200, "POST", "/authn/token/refresh", "", member{"refresh": m["refresh"]})
		access, _ = m["access"].(string)
		change["current_password"], change["new_password"] = change["new_password"], testPassword
		a.must(204, "POST", "/authn/me/password", access, change)
		if got := a.stepUpTo("DELETE", "/authn/me", access, member{"password": testPassword}); got != `acr_values="aal2", max_age="600"` {
			t.Errorf("the end of the account asks for %s", got)
		}
		// The code of the login isn't wanted again.
		access, _ = login(200, member{"otp": recovery[0]})["access"].(string)
		a.must(202, "DELETE", "/authn/me", access, member{"password": testPassword})
	})
}

func TestAdministratorsNeedASecondFactor(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db, func(o *Options) { o.StepUp = StepUp{MaxAge: time.Hour, AdminFactor: true} })
		access := a.administrator("root@ejemplo.example", AdminAudience)
		if got := a.stepUpTo("GET", "/admin/keys", access, nil); got != `acr_values="aal2"` {
			t.Errorf("a look asks for %s", got)
		}
		if got := a.stepUpTo("POST", "/admin/keys/rotate", access, member{"alg": "EdDSA"}); got != `acr_values="aal2", max_age="3600"` {
			t.Errorf("a rotation asks for %s", got)
		}
		a.must(204, "POST", "/authn/me/password", access, member{"current_password": testPassword, "new_password": testPassword + "!"})
		a.must(204, "POST", "/authn/me/password", access, member{"current_password": testPassword + "!", "new_password": testPassword})
		_, recovery := a.enrol(access)
		m := a.must(200, "POST", "/authn/token", "", member{
			"email": "root@ejemplo.example", "password": testPassword, "otp": recovery[0], "acr_values": "aal2", "audience": AdminAudience,
		})
		access, _ = m["access"].(string)
		a.must(200, "GET", "/admin/keys", access, nil)
		a.must(200, "POST", "/admin/keys/rotate", access, member{"alg": "EdDSA", "emergency": true})
		// Without the factor, the session that had shown it is worth nothing more.
		a.must(204, "DELETE", "/authn/me/totp", access, member{"password": testPassword, "otp": recovery[1]})
		if got := a.stepUpTo("GET", "/admin/keys", access, nil); got != `acr_values="aal2"` {
			t.Errorf("a look asks for %s", got)
		}
	})
}

// A program has nobody to log in: it isn't sent to and fro.
func TestProgramsDoNotStepUp(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		access, _, _, err := a.issuer.issue(t.Context(), &grant{ClientID: "robot", Audience: AdminAudience, Scope: token.Scope{token.ScopeKeysAdmin}})
		if err != nil {
			t.Fatal(err)
		}
		before := a.issuer.keys.Ring().Version
		for _, path := range []string{"/admin/keys/rotate", "/admin/keys/k/revoke"} {
			if m := a.must(403, "POST", path, access, member{"alg": "EdDSA", "reason": "x"}); m["code"] != "user_needed" {
				t.Errorf("%s: %v", path, m)
			}
		}
		if after := a.issuer.keys.Ring().Version; after != before {
			t.Errorf("the ring is at %d, was at %d", after, before)
		}
	})
}

func TestStepUpOptions(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		good := Options{Issuer: testIssuer, Accounts: a.accounts, Keys: a.issuer.keys}
		for name, change := range map[string]func(*Options){
			"a short age": func(o *Options) { o.StepUp.MaxAge = time.Millisecond },
			"no sealer": func(o *Options) {
				o.StepUp.AdminFactor, o.Accounts = true, NewAccounts(a.store, AccountsOptions{Sealer: keys.Sealer(nil)})
			},
		} {
			o := good
			change(&o)
			if _, err := New(o); !errors.Is(err, ErrOptions) {
				t.Errorf("%s: %v, want ErrOptions", name, err)
			}
		}

		var document struct {
			Paths map[string]map[string]struct {
				Description string
				Responses   map[string]struct{ Headers map[string]any }
			}
		}
		if err := json.Unmarshal(a.call("GET", "/openapi.json", "", nil).Body.Bytes(), &document); err != nil {
			t.Fatal(err)
		}
		op := document.Paths["/admin/keys/rotate"]["post"]
		if !strings.Contains(op.Description, "at most 600 seconds ago (RFC 9470)") || op.Responses["401"].Headers["WWW-Authenticate"] == nil {
			t.Errorf("the document says of a rotation: %+v", op)
		}
	})
}
