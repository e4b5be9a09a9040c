package authserver

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/pkg/token"
)

// apiToken makes a token for whoever has logged in.
func (a *authn) apiToken(access, scope string, days int) (id, text string) {
	a.t.Helper()
	m := a.must(201, "POST", "/authn/me/tokens", access, member{"name": "nightly export", "scope": scope, "days": days})
	return m["id"].(string), m["token"].(string)
}

// exchange shows an API token at the token endpoint. more has further
// parameters, in pairs.
func (a *authn) exchange(text string, more ...string) *httptest.ResponseRecorder {
	a.t.Helper()
	form := url.Values{"grant_type": {GrantTokenExchange}, "subject_token": {text}, "subject_token_type": {typeAPIToken}}
	for i := 0; i < len(more); i += 2 {
		form.Set(more[i], more[i+1])
		if more[i+1] == "" {
			form.Del(more[i])
		}
	}
	return a.post(tokenPath, "", "", form)
}

const readAndWrite = "inmuebles:read inmuebles:write"

func TestAPITokens(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		user := a.register("ana@ejemplo.example")
		access, _ := a.login("ana@ejemplo.example")
		began := a.clock.Now().UTC().Truncate(time.Millisecond)

		m := a.must(201, "POST", "/authn/me/tokens", access, member{"name": "  nightly export ", "scope": "inmuebles:write inmuebles:read inmuebles:read", "days": 30})
		id, text := m["id"].(string), m["token"].(string)
		if !regexp.MustCompile(`^udp_[0-9A-Za-z]{49}$`).MatchString(text) || m["name"] != "nightly export" || m["scope"] != readAndWrite || m["last_used_at"] != nil ||
			m["expires_at"] != began.AddDate(0, 0, 30).Format("2006-01-02T15:04:05.999Z") {
			t.Errorf("made %v", m)
		}
		list := func() string { return a.call("GET", "/authn/me/tokens", access, nil).Body.String() }
		if got := list(); !strings.Contains(got, id) || strings.Contains(got, "udp_") {
			t.Errorf("listed as %s", got)
		}
		var stored string
		if err := db.Write.Get(&stored, "SELECT name || ' ' || scopes || ' ' || CAST(hash AS TEXT) FROM api_tokens"); err != nil || strings.Contains(stored, text[4:]) {
			t.Errorf("stored as %q (%v)", stored, err)
		}

		// What it gives.
		m = a.answered(a.exchange(text), 200, "")
		if m["token_type"] != "Bearer" || m["issued_token_type"] != typeAccessToken || m["scope"] != readAndWrite || m["expires_in"] != 300.0 || m["refresh_token"] != nil {
			t.Errorf("exchanged for %v", m)
		}
		jwt := m["access_token"].(string)
		c, _ := a.claims(jwt)
		if c.Subject != user["id"] || c.UserID != user["id"] || c.Session != id || c.ClientID != "urbandata" || c.Scope.String() != readAndWrite ||
			!c.Audience.Has(InmueblesAudience) || len(c.Roles) != 0 || c.AuthTime != 0 || c.ACR != "" || c.AMR != nil {
			t.Errorf("claims %+v", c)
		}
		m = a.answered(a.exchange(text, "scope", "inmuebles:read", "audience", "reports", "requested_token_type", typeJWT, "client_id", "urbandata"), 200, "")
		if c, _ := a.claims(m["access_token"].(string)); c.Scope.String() != "inmuebles:read" || !c.Audience.Has("reports") {
			t.Errorf("less: %+v", c)
		}

		// When it was used is noted once an hour.
		hour := a.clock.Now().UTC().Truncate(time.Hour)
		if got := list(); !strings.Contains(got, `"last_used_at":"`+hour.Format(time.RFC3339)) {
			t.Errorf("used in the hour %s: %s", hour, got)
		}
		if _, err := db.Write.Exec("UPDATE api_tokens SET last_used_at = last_used_at + 1"); err != nil {
			t.Fatal(err)
		}
		a.answered(a.exchange(text), 200, "")
		var used int64
		if err := db.Write.Get(&used, "SELECT last_used_at FROM api_tokens"); err != nil || used != hour.UnixMilli()+1 {
			t.Errorf("used at %d (%v), want what was there", used, err)
		}
		a.forward(time.Hour)
		a.answered(a.exchange(text), 200, "")
		if err := db.Write.Get(&used, "SELECT last_used_at FROM api_tokens"); err != nil || used != hour.Add(time.Hour).UnixMilli() {
			t.Errorf("used at %d (%v), want the next hour", used, err)
		}

		// What clients are told.
		client, secret := a.client(NewClient{})
		introspect := func(text string) member {
			return a.answered(a.post(introspectPath, client.ID, secret, url.Values{"token": {text}}), 200, "")
		}
		jwt = a.answered(a.exchange(text), 200, "")["access_token"].(string)
		if m := introspect(text); m["active"] != true || m["scope"] != readAndWrite || m["sub"] != user["id"] || m["aud"] != nil || m["jti"] != id {
			t.Errorf("introspected: %v", m)
		}
		if m := introspect(jwt); m["active"] != true || m["sid"] != id {
			t.Errorf("introspected: %v", m)
		}
		a.answered(a.post(introspectPath, "", "", url.Values{"token": {text}}), 401, "invalid_client")

		access, _ = a.login("ana@ejemplo.example")
		if m := a.must(200, "GET", "/authn/me/data", access, nil); len(m["api_tokens"].([]any)) != 1 {
			t.Errorf("the user's data: %v", m)
		}
		a.register("eva@ejemplo.example")
		others, _ := a.login("eva@ejemplo.example")
		a.must(404, "DELETE", "/authn/me/tokens/"+id, others, nil)
		a.must(204, "DELETE", "/authn/me/tokens/"+id, access, nil)
		a.must(404, "DELETE", "/authn/me/tokens/"+id, access, nil)
		a.answered(a.exchange(text), 400, "invalid_request")
		for _, text := range []string{text, jwt} {
			if m := introspect(text); m["active"] != false {
				t.Errorf("introspected after its end: %v", m)
			}
		}
		if got := strings.TrimSpace(list()); got != "[]" {
			t.Errorf("listed after its end: %s", got)
		}
		if log := a.log.String(); strings.Contains(log, text) || strings.Contains(log, "nightly") {
			t.Errorf("the log holds a token or its name:\n%s", log)
		}
	})
}

// An access token that comes from no login opens nothing of the account, and
// no challenge asks a program to log in.
func TestAPITokensAreNoLogin(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		admin := a.administrator("root@ejemplo.example", AdminAudience)
		_, text := a.apiToken(admin, "keys:admin inmuebles:read", 1)
		a.answered(a.exchange(text, "audience", AdminAudience), 400, "invalid_target")
		jwt, _ := a.answered(a.exchange(text), 200, "")["access_token"].(string)
		for _, r := range []struct {
			method, path string
			body         any
		}{
			{"GET", "/authn/me", nil},
			{"PATCH", "/authn/me", member{"first_name": "x"}},
			{"DELETE", "/authn/me", member{"password": testPassword}},
			{"GET", "/authn/me/data", nil},
			{"GET", "/authn/me/tokens", nil},
			{"POST", "/authn/me/tokens", member{"name": "x", "scope": "inmuebles:read", "days": 365}},
			{"POST", "/authn/me/password", member{"current_password": testPassword, "new_password": testPassword + "!"}},
			{"GET", "/authn/sessions", nil},
			{"DELETE", "/authn/sessions", nil},
			{"POST", "/authn/sign_out", nil},
		} {
			w := a.call(r.method, r.path, jwt, r.body)
			if w.Code != 403 || !strings.Contains(w.Body.String(), `"user_needed"`) {
				t.Errorf("%s %s: %d %s", r.method, r.path, w.Code, w.Body)
			}
		}
		for _, path := range []string{"/admin/keys", "/admin/keys/history"} {
			if m := a.must(403, "GET", path, jwt, nil); m["code"] != "insufficient_scope" {
				t.Errorf("%s: %v", path, m)
			}
		}
		// Even if one were for authn itself.
		forged, _, _, err := a.issuer.issue(t.Context(), &grant{
			UserID: "01a203e0-beac-7480-9f3b-f73098445376", ClientID: clientID, Audience: AdminAudience, Scope: token.Scope{token.ScopeKeysAdmin}, APIToken: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range [][2]string{{"GET", "/admin/keys"}, {"POST", "/admin/keys/rotate"}} {
			if m := a.must(403, r[0], r[1], forged, member{"alg": "EdDSA"}); m["code"] != "user_needed" {
				t.Errorf("%v: %v", r, m)
			}
		}
		a.answered(a.post(revokePath, "", "", url.Values{"token": {jwt}}), 200, "") // the access token alone
		client, secret := a.client(NewClient{})
		if m := a.answered(a.post(introspectPath, client.ID, secret, url.Values{"token": {jwt}}), 200, ""); m["active"] != false {
			t.Errorf("introspected after its withdrawal: %v", m)
		}
		a.answered(a.exchange(text), 200, "")

		// And making one wants a recent login.
		a.forward(DefaultStepUpAge + time.Second)
		_, refresh := a.login("root@ejemplo.example")
		a.forward(DefaultStepUpAge + time.Second)
		access, _ := a.must(200, "POST", "/authn/token/refresh", "", member{"refresh": refresh})["access"].(string)
		if got := a.stepUpTo("POST", "/authn/me/tokens", access, member{"name": "x", "scope": "inmuebles:read", "days": 1}); got != `max_age="600"` {
			t.Errorf("asks for %s", got)
		}
	})
}

// What ends an API token, and what doesn't.
func TestAPITokensEnd(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newThrottled(t, db, Limits{})
		const email = "ana@ejemplo.example"
		for _, tc := range []struct {
			name string
			do   func(access, id, text string) error
			ends bool
		}{
			{"an account that is erased", func(string, string, string) error {
				_, err := db.Write.Exec("DELETE FROM users")
				return err
			}, true},
			{"nothing", func(string, string, string) error { return nil }, false},
			{"all sessions ended by their user", func(access, _, _ string) error { a.must(204, "DELETE", "/authn/sessions", access, nil); return nil }, false},
			{"a changed password", func(access, _, _ string) error {
				a.must(204, "POST", "/authn/me/password", access, member{"current_password": testPassword, "new_password": testPassword + "!"})
				return nil
			}, false},
			{"another day", func(string, string, string) error { a.forward(29 * 24 * time.Hour); return nil }, false},

			{"its expiry", func(string, string, string) error { a.forward(30 * 24 * time.Hour); return nil }, true},
			{"its deletion", func(access, id, _ string) error {
				a.must(204, "DELETE", "/authn/me/tokens/"+id, access, nil)
				return nil
			}, true},
			{"its revocation, by whoever has it", func(_, _, text string) error {
				a.answered(a.post(revokePath, "", "", url.Values{"token": {text}}), 200, "")
				return nil
			}, true},
			{"an operator's new password", func(string, string, string) error {
				return a.accounts.SetPassword(t.Context(), email, testPassword+"!")
			}, true},
			{"an operator who disables, and one who enables again", func(string, string, string) error {
				err := a.accounts.Disable(t.Context(), email)
				_, err2 := db.Write.Exec("UPDATE users SET disabled_at = NULL")
				return errors.Join(err, err2)
			}, true},
			{"an account disabled behind our back", func(string, string, string) error {
				_, err := db.Write.Exec(db.Write.Rebind("UPDATE users SET disabled_at = ?"), a.clock.Now().UnixMilli())
				return err
			}, true},
			{"a password reset by mail", func(string, string, string) error {
				a.must(202, "POST", "/authn/password/reset", "", member{"email": email})
				link := ""
				for _, m := range a.deliver() {
					if _, after, ok := strings.Cut(m.Link, "#token="); ok {
						link = after
					}
				}
				a.must(204, "POST", "/authn/password/reset/confirm", "", member{"token": link, "new_password": testPassword + "!"})
				return nil
			}, true},
			{"an account that was deleted, and restored", func(access, _, _ string) error {
				a.must(202, "DELETE", "/authn/me", access, member{"password": testPassword})
				a.must(204, "POST", "/authn/restore", "", member{"email": email, "password": testPassword})
				return nil
			}, true},
		} {
			user, _ := a.register(email)["id"].(string)
			access, _ := a.login(email)
			id, text := a.apiToken(access, readAndWrite, 30)
			a.answered(a.exchange(text), 200, "")
			if err := tc.do(access, id, text); err != nil {
				t.Fatalf("%s: %v", tc.name, err)
			}
			w := a.exchange(text)
			if tc.ends {
				if m := a.answered(w, 400, "invalid_request"); m["error_description"] != "The subject_token is not valid, or not any more." {
					t.Errorf("%s: %v", tc.name, m)
				}
				// Its access tokens are refused too, by who follows the feed; but
				// they don't outlive its expiry.
				got := names(a.published())
				if !strings.HasPrefix(tc.name, "its expiry") && !slices.Contains(got, "sid "+id) && !slices.Contains(got, "sub "+user) {
					t.Errorf("%s isn't in the revocations: %v", tc.name, got)
				}
			} else if w.Code != 200 {
				t.Errorf("%s ended it: %s", tc.name, w.Body)
			}
			if _, err := db.Write.Exec("DELETE FROM users"); err != nil {
				t.Fatal(err)
			}
			var left int
			if err := db.Write.Get(&left, "SELECT COUNT(*) FROM api_tokens"); err != nil || left != 0 {
				t.Errorf("%s: %d tokens of nobody are left (%v)", tc.name, left, err)
			}
		}
	})
}

// What a token gives is never more than its user has.
func TestAPITokensFollowTheirUser(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		a.register("ana@ejemplo.example")
		access, _ := a.login("ana@ejemplo.example")
		for _, scope := range []string{"inmuebles:admin", "inmuebles:read keys:admin", "nonsense", "*", "", " "} {
			m := a.must(422, "POST", "/authn/me/tokens", access, member{"name": "x", "scope": scope, "days": 1})
			if fmt.Sprint(m["errors"]) == "" || !strings.Contains(fmt.Sprint(m["errors"]), "/scope") {
				t.Errorf("scope %q: %v", scope, m)
			}
		}
		_, text := a.apiToken(access, readAndWrite, 30)
		become := func(role token.Role) {
			t.Helper()
			if _, err := db.Write.Exec(db.Write.Rebind("UPDATE users SET roles = ?"), string(role)); err != nil {
				t.Fatal(err)
			}
		}
		for _, tc := range []struct {
			role  token.Role
			asked string
			want  string // the scope, or the error
		}{
			{token.RoleAdmin, "", readAndWrite},
			{token.RoleAdmin, "inmuebles:admin", "invalid_scope"},
			{token.RoleViewer, "", "inmuebles:read"},
			{token.RoleViewer, "inmuebles:read", "inmuebles:read"},
			{token.RoleViewer, "inmuebles:write", "invalid_scope"},
			{token.RoleViewer, readAndWrite, "invalid_scope"},
			{"nobody", "", "invalid_scope"},
			{token.RoleUser, "", readAndWrite},
		} {
			become(tc.role)
			w := a.exchange(text, "scope", tc.asked)
			if strings.HasPrefix(tc.want, "invalid") {
				a.answered(w, 400, tc.want)
			} else if m := a.answered(w, 200, ""); m["scope"] != tc.want {
				t.Errorf("as %s, asked for %q: %v, want %q", tc.role, tc.asked, m["scope"], tc.want)
			}
		}

		// Its access tokens don't outlive it.
		a.forward(30*24*time.Hour - 10*time.Second)
		if m := a.answered(a.exchange(text), 200, ""); m["expires_in"].(float64) > 10 {
			t.Errorf("ten seconds before its end it gives a token for %v", m["expires_in"])
		}
	})
}

func TestAPITokenRequests(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newThrottled(t, db, Limits{})
		a.register("ana@ejemplo.example")
		access, refresh := a.login("ana@ejemplo.example")
		for name, body := range map[string]any{
			"no name":          member{"name": "", "scope": "inmuebles:read", "days": 1},
			"a blank name":     member{"name": " \t", "scope": "inmuebles:read", "days": 1},
			"a control":        member{"name": "a\x00b", "scope": "inmuebles:read", "days": 1},
			"a long name":      member{"name": strings.Repeat("a", 151), "scope": "inmuebles:read", "days": 1},
			"no days":          member{"name": "x", "scope": "inmuebles:read"},
			"no time":          member{"name": "x", "scope": "inmuebles:read", "days": 0},
			"for ever":         member{"name": "x", "scope": "inmuebles:read", "days": 366},
			"half a day":       member{"name": "x", "scope": "inmuebles:read", "days": 0.5},
			"days beyond ints": `{"name":"x","scope":"inmuebles:read","days":1e300}`,
			"a list":           member{"name": "x", "scope": []string{"inmuebles:read"}, "days": 1},
			"a token given":    member{"name": "x", "scope": "inmuebles:read", "days": 1, "token": "udp_mine"},
		} {
			if w := a.call("POST", "/authn/me/tokens", access, body); w.Code != 422 && w.Code != 400 {
				t.Errorf("%s: %d %s", name, w.Code, w.Body)
			}
		}
		for _, id := range []string{"x", "00000000-0000-0000-0000-000000000000", "%00", "'; DELETE FROM users --"} {
			if w := a.call("DELETE", "/authn/me/tokens/"+url.PathEscape(id), access, nil); w.Code != 404 && w.Code != 422 {
				t.Errorf("delete of %q: %d %s", id, w.Code, w.Body)
			}
		}

		if got := a.deliver(); len(got) != 0 {
			t.Errorf("mail of what was refused: %+v", got)
		}
		_, text := a.apiToken(access, readAndWrite, 30)
		a.letter("ana@ejemplo.example", "Un nuevo token de API")
		last := text[len(text)-1:]
		other := "0"
		if last == other {
			other = "1"
		}
		client, secret := a.client(NewClient{Grants: []string{GrantClientCredentials, GrantRefreshToken}})
		for _, tc := range []struct {
			name string
			more []string
			code string
		}{
			{"no token", []string{"subject_token", ""}, "invalid_request"},
			{"no type", []string{"subject_token_type", ""}, "invalid_request"},
			{"another type", []string{"subject_token_type", typeAccessToken}, "invalid_request"},
			{"an access token", []string{"subject_token", access}, "invalid_request"},
			{"a refresh token", []string{"subject_token", refresh}, "invalid_request"},
			{"the prefix alone", []string{"subject_token", "udp_"}, "invalid_request"},
			{"a wrong checksum", []string{"subject_token", text[:len(text)-1] + other}, "invalid_request"},
			{"one that was never made", []string{"subject_token", newAPIToken()}, "invalid_request"},
			{"in another case", []string{"subject_token", strings.ToUpper(text)}, "invalid_request"},
			{"with more behind", []string{"subject_token", text + "0"}, "invalid_request"},
			{"60 KB", []string{"subject_token", strings.Repeat("u", 60_000)}, "invalid_request"},
			{"another kind wanted", []string{"requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request"},
			{"an actor", []string{"actor_token", "x"}, "invalid_request"},
			{"a resource", []string{"resource", "https://inmuebles.example"}, "invalid_target"},
			{"an audience with spaces", []string{"audience", "a b"}, "invalid_target"},
			{"a long audience", []string{"audience", strings.Repeat("a", 201)}, "invalid_target"},
			{"more scope", []string{"scope", "inmuebles:read inmuebles:admin"}, "invalid_scope"},
		} {
			m := a.answered(a.exchange(text, tc.more...), 400, tc.code)
			if strings.Contains(fmt.Sprint(m), text) {
				t.Errorf("%s: the answer repeats the token: %v", tc.name, m)
			}
		}
		form := url.Values{"grant_type": {GrantTokenExchange}, "subject_token": {text}, "subject_token_type": {typeAPIToken}}
		a.answered(a.post(tokenPath, client.ID, secret, form), 400, "unauthorized_client")
		a.answered(a.post(tokenPath, client.ID, "wrong", form), 401, "invalid_client")
		a.answered(a.post(tokenPath, "", "", url.Values{"grant_type": {GrantRefreshToken}, "refresh_token": {text}}), 400, "invalid_grant")
		if _, err := a.clients.AddAudience(t.Context(), RegisteredAudience{Name: "closed", Alg: "EdDSA", Type: token.TypeAccess}); err != nil {
			t.Fatal(err)
		}
		a.answered(a.exchange(text, "audience", "closed"), 400, "invalid_target")
		a.answered(a.exchange(text), 200, "")
		a.answered(a.post(revokePath, "", "", url.Values{"token": {newAPIToken()}}), 200, "") // RFC 7009 §2.2
		a.answered(a.exchange(text), 200, "")
	})
}

// A network that shows too many that are no good is refused for a while.
func TestAPITokensAreThrottled(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newThrottled(t, db, Limits{TokenNetwork: Limit{3, time.Hour}})
		a.register("ana@ejemplo.example")
		access, _ := a.login("ana@ejemplo.example")
		_, text := a.apiToken(access, readAndWrite, 30)
		for range 3 {
			a.answered(a.exchange(text), 200, "") // good ones don't count
		}
		for _, code := range []string{"invalid_request", "invalid_request", "invalid_request"} {
			a.answered(a.exchange(newAPIToken()), 400, code)
		}
		a.answered(a.exchange(text), 429, "temporarily_unavailable")
	})
}

// Of many at once no more are made than may be, and none behind the back of
// what ends them all.
func TestAPITokensAtOnce(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newThrottled(t, db, Limits{})
		a.register("ana@ejemplo.example")
		access, _ := a.login("ana@ejemplo.example")
		statuses := make([]int, maxAPITokens+20)
		var wg sync.WaitGroup
		for i := range statuses {
			wg.Go(func() {
				statuses[i] = a.call("POST", "/authn/me/tokens", access, member{"name": "x", "scope": "inmuebles:read", "days": 1}).Code
			})
		}
		wg.Wait()
		slices.Sort(statuses)
		if made, _ := slices.BinarySearch(statuses, 409); made != maxAPITokens || statuses[0] != 201 || statuses[len(statuses)-1] != 409 {
			t.Errorf("statuses %v, want %d of 201", statuses, maxAPITokens)
		}
		a.forward(24 * time.Hour) // they expire
		if err := a.accounts.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		count := func(after time.Time) (n int) {
			t.Helper()
			if err := db.Write.Get(&n, db.Write.Rebind("SELECT COUNT(*) FROM api_tokens WHERE expires_at > ?"), after.UnixMilli()); err != nil {
				t.Fatal(err)
			}
			return n
		}
		if n := count(time.Time{}); n != 0 {
			t.Errorf("%d are left after their purge", n)
		}

		// One token, a hundred exchanges.
		access, _ = a.login("ana@ejemplo.example")
		_, text := a.apiToken(access, readAndWrite, 1)
		for range 100 {
			wg.Go(func() {
				if w := a.exchange(text); w.Code != 200 {
					t.Errorf("%d %s", w.Code, w.Body)
				}
			})
		}
		wg.Wait()

		// While a thief makes tokens with a session, the owner's password is
		// set anew: no token is left, whichever came first.
		for round := range 10 {
			access, _ = a.login("ana@ejemplo.example")
			for range 4 {
				wg.Go(func() {
					a.call("POST", "/authn/me/tokens", access, member{"name": "x", "scope": "inmuebles:read", "days": 1})
				})
			}
			wg.Go(func() {
				if err := a.accounts.SetPassword(t.Context(), "ana@ejemplo.example", testPassword); err != nil {
					t.Error(err)
				}
			})
			wg.Wait()
			if n := count(a.clock.Now()); n != 0 {
				t.Fatalf("round %d: %d tokens are left", round, n)
			}
		}
	})
}

// FuzzAPIToken: what passes the checksum is a token's text, and nothing else
// is looked up.
func FuzzAPIToken(f *testing.F) {
	f.Add(newAPIToken())
	f.Add("udp_" + strings.Repeat("0", 49))
	f.Add("udp_")
	f.Add("")
	f.Add("udr_" + strings.Repeat("é", 24) + "0")
	f.Fuzz(func(t *testing.T, text string) {
		hash, err := hashAPIToken(text)
		if err != nil {
			if !errors.Is(err, ErrAPIToken) || hash != nil {
				t.Errorf("%q: %v, %x", text, err, hash)
			}
			return
		}
		if len(text) != 53 || !strings.HasPrefix(text, apiTokenPrefix) || len(hash) != 32 || apiTokenSum(text[:47]) != text[47:] {
			t.Errorf("%q is taken for a token", text)
		}
		if changed := "udp_" + strings.Repeat("x", 43) + text[47:]; changed != text {
			if _, err := hashAPIToken(changed); err == nil && apiTokenSum(changed[:47]) != text[47:] {
				t.Errorf("%q is taken for a token", changed)
			}
		}
	})
}
