package authserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"github.com/urbandata/urbandata/pkg/audit"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/pkg/token"
)

// list gets a list, whole, a page at a time.
func (a *authn) list(path, bearer string) (all []member) {
	a.t.Helper()
	for path != "" {
		w := a.call("GET", path, bearer, nil)
		var page []member
		if err := json.Unmarshal(w.Body.Bytes(), &page); w.Code != 200 || err != nil {
			a.t.Fatalf("GET %s: %d %s", path, w.Code, w.Body)
		}
		if w.Header().Get("Cache-Control") != "no-store" {
			a.t.Errorf("GET %s: Cache-Control %q", path, w.Header().Get("Cache-Control"))
		}
		all = append(all, page...)
		path, _, _ = strings.Cut(strings.TrimPrefix(w.Header().Get("Link"), "<"), ">")
	}
	return all
}

func column(rows []member, name string) string {
	var values []string
	for _, r := range rows {
		values = append(values, fmt.Sprint(r[name]))
	}
	return strings.Join(values, " ")
}

func TestAdminUsers(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		admin := a.administrator("root@ejemplo.example", AdminAudience)
		ana, _ := a.register("Ana@ejemplo.example")["id"].(string)
		a.clock.Add(time.Second)
		luz, _ := a.register("luz@otro.example")["id"].(string)
		gone, _ := a.register("ana_x@ejemplo.example")["id"].(string)
		eva, _ := a.register("eva%@ejemplo.example")["id"].(string)
		access, refresh := a.login("ana@ejemplo.example")

		// Look.
		a.must(202, "DELETE", "/admin/users/"+gone, admin, nil)
		a.must(200, "PATCH", "/admin/users/"+eva, admin, member{"disabled": true})
		for _, tc := range []struct{ query, want string }{
			{"", "eva%@ejemplo.example ana_x@ejemplo.example luz@otro.example Ana@ejemplo.example root@ejemplo.example"},
			{"?limit=2", "eva%@ejemplo.example ana_x@ejemplo.example luz@otro.example Ana@ejemplo.example root@ejemplo.example"},
			{"?email=ANA", "ana_x@ejemplo.example Ana@ejemplo.example"},
			{"?email=ana_x@ejemplo.example&limit=1", "ana_x@ejemplo.example"},
			{"?email=eva%25", "eva%@ejemplo.example"},
			{"?email=%25", ""},
			{"?email=_", ""},
			{"?role=admin", "root@ejemplo.example"},
			{"?role=viewer", ""},
			{"?role=user&state=enabled&limit=1", "luz@otro.example Ana@ejemplo.example"},
			{"?state=disabled", "eva%@ejemplo.example"},
			{"?state=deleted", "ana_x@ejemplo.example"},
			{"?state=enabled&email=a", "Ana@ejemplo.example"},
			{"?before=" + luz, "Ana@ejemplo.example root@ejemplo.example"},
		} {
			if got := column(a.list("/admin/users"+tc.query, admin), "email"); got != tc.want {
				t.Errorf("%s: %s, want %s", tc.query, got, tc.want)
			}
		}
		u := a.must(200, "GET", "/admin/users/"+ana, admin, nil)
		if u["email"] != "Ana@ejemplo.example" || u["disabled"] != false || u["disabled_by"] != nil || u["password_hash"] != nil {
			t.Errorf("a user is %v", u)
		}
		if u := a.must(200, "GET", "/admin/users/"+gone, admin, nil); u["disabled_by"] != "operator" || u["erase_at"] == nil {
			t.Errorf("a deleted user is %v", u)
		}
		a.must(404, "GET", "/admin/users/"+uuid.NewString(), admin, nil)

		// Change.
		u = a.must(200, "PATCH", "/admin/users/"+ana, admin, member{"roles": []string{"editor", "viewer", "editor"}})
		if fmt.Sprint(u["roles"]) != "[editor viewer]" || u["disabled"] != false {
			t.Errorf("changed to %v", u)
		}
		if u = a.must(200, "PATCH", "/admin/users/"+ana, admin, member{"roles": nil, "disabled": nil}); fmt.Sprint(u["roles"]) != "[editor viewer]" {
			t.Errorf("null changed it to %v", u)
		}
		next := a.must(200, "POST", "/authn/token/refresh", "", member{"refresh": refresh})
		if c, _ := a.claims(next["access"].(string)); !c.Scope.Has(token.ScopeInmueblesAdmin) {
			t.Errorf("the next token has the scope %v", c.Scope)
		}
		a.must(404, "PATCH", "/admin/users/"+uuid.NewString(), admin, member{"disabled": true})

		// Sessions.
		a.login("ana@ejemplo.example")
		sessions := a.list("/admin/users/"+ana+"/sessions?limit=1", admin)
		if len(sessions) != 2 || sessions[0]["current"] != false {
			t.Errorf("sessions %v", sessions)
		}
		a.must(204, "DELETE", "/admin/users/"+ana+"/sessions/"+sessions[1]["id"].(string), admin, nil)
		a.must(404, "DELETE", "/admin/users/"+ana+"/sessions/"+sessions[1]["id"].(string), admin, nil)
		a.must(404, "DELETE", "/admin/users/"+luz+"/sessions/"+sessions[0]["id"].(string), admin, nil)
		a.must(401, "GET", "/authn/me", access, nil)
		a.must(204, "DELETE", "/admin/users/"+ana+"/sessions", admin, nil)
		if left := a.list("/admin/users/"+ana+"/sessions", admin); len(left) != 0 {
			t.Errorf("sessions %v are left", left)
		}
		a.must(404, "GET", "/admin/users/"+uuid.NewString()+"/sessions", admin, nil)
		a.must(404, "DELETE", "/admin/users/"+uuid.NewString()+"/sessions", admin, nil)
		if root := a.list("/admin/users/"+a.must(200, "GET", "/authn/me", admin, nil)["id"].(string)+"/sessions", admin); len(root) != 1 || root[0]["current"] != true {
			t.Errorf("one's own sessions are %v", root)
		}

		// Disable and enable, delete and bring back.
		access, refresh = a.login("ana@ejemplo.example")
		a.must(200, "PATCH", "/admin/users/"+ana, admin, member{"disabled": true})
		a.must(401, "GET", "/authn/me", access, nil)
		a.must(401, "POST", "/authn/token/refresh", "", member{"refresh": refresh})
		a.must(401, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": testPassword})
		a.must(200, "PATCH", "/admin/users/"+ana, admin, member{"disabled": false})
		access, _ = a.login("ana@ejemplo.example")
		first := a.must(202, "DELETE", "/admin/users/"+ana, admin, nil)
		a.must(401, "GET", "/authn/me", access, nil)
		a.forward(time.Hour)
		m := a.must(200, "POST", "/authn/token", "", member{"email": "root@ejemplo.example", "password": testPassword, "audience": AdminAudience})
		admin, _ = m["access"].(string)
		if again := a.must(202, "DELETE", "/admin/users/"+ana, admin, nil); again["erase_at"] != first["erase_at"] {
			t.Errorf("deleted again, it is erased at %v, before at %v", again["erase_at"], first["erase_at"])
		}
		if e := a.must(401, "POST", "/authn/restore", "", member{"email": "ana@ejemplo.example", "password": testPassword}); e["code"] != "wrong_credentials" {
			t.Errorf("its owner restores it: %v", e)
		}
		if u := a.must(200, "PATCH", "/admin/users/"+ana, admin, member{"disabled": false}); u["erase_at"] != nil || u["disabled"] != false {
			t.Errorf("brought back it is %v", u)
		}
		a.login("ana@ejemplo.example")

		// The last administrator.
		me, _ := a.must(200, "GET", "/authn/me", admin, nil)["id"].(string)
		for _, r := range []struct {
			method, path string
			body         any
		}{
			{"PATCH", "/admin/users/" + me, member{"roles": []string{"user"}}},
			{"PATCH", "/admin/users/" + me, member{"disabled": true}},
			{"DELETE", "/admin/users/" + me, nil},
			{"DELETE", "/authn/me", member{"password": testPassword}},
		} {
			if e := a.must(409, r.method, r.path, admin, r.body); e["code"] != "last_administrator" {
				t.Errorf("%s %s %v: %v", r.method, r.path, r.body, e)
			}
		}
		a.must(200, "PATCH", "/admin/users/"+me, admin, member{"roles": []string{"user", "admin"}})
		a.must(200, "PATCH", "/admin/users/"+luz, admin, member{"roles": []string{"admin"}})
		a.must(200, "PATCH", "/admin/users/"+me, admin, member{"roles": []string{"user"}})
		a.must(403, "GET", "/admin/users", admin, nil)
		if err := a.accounts.Disable(t.Context(), "luz@otro.example"); err != nil {
			t.Errorf("an operator disables the last one: %v", err)
		}

		// All of it is in the audit, with who did it.
		var acts []string
		for _, e := range a.audited() {
			if e.Actor == userName(me) && e.Action != actLogin {
				acts = append(acts, said(e, map[string]string{me: "root", ana: "ana", luz: "luz", gone: "gone", eva: "eva"}))
			}
		}
		want := []string{
			"user root | user.deleted | user gone | ",
			"user root | user.disabled | user eva | ",
			"user root | user.roles_changed | user ana | ",
			"user root | session.ended | user ana | ended by an administrator",
			"user root | session.ended | user ana | ended by an administrator",
			"user root | user.disabled | user ana | ",
			"user root | session.ended | user ana | user disabled",
			"user root | user.enabled | user ana | ",
			"user root | user.deleted | user ana | ",
			"user root | session.ended | user ana | account deleted",
			"user root | user.enabled | user ana | ",
			"user root | user.roles_changed | user root | ",
			"user root | user.roles_changed | user luz | ",
			"user root | user.roles_changed | user root | ",
		}
		if !slices.Equal(acts, want) {
			t.Errorf("the audit of root is\n%s\nwant\n%s", strings.Join(acts, "\n"), strings.Join(want, "\n"))
		}
	})
}

func TestAdminSendsReset(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newMailing(t, db, VerifyOff)
		admin := a.administrator("root@ejemplo.example", AdminAudience)
		ana, _ := a.register("ana@ejemplo.example")["id"].(string)
		a.must(202, "POST", "/admin/users/"+ana+"/password_reset", admin, nil)
		a.must(204, "POST", "/authn/password/reset/confirm", "", member{"token": a.link(), "new_password": "otra frase larga"})
		a.must(404, "POST", "/admin/users/"+uuid.NewString()+"/password_reset", admin, nil)
		a.must(200, "PATCH", "/admin/users/"+ana, admin, member{"disabled": true})
		if e := a.must(409, "POST", "/admin/users/"+ana+"/password_reset", admin, nil); e["code"] != "user_disabled" {
			t.Errorf("for one who is disabled: %v", e)
		}
	})
}

// A hundred changes at once that each take an administrator away: one is
// always left, and what was answered is in the audit.
func TestAnAdministratorIsLeft(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		const administrators, changes = 8, 100
		var ids []string
		for i := range administrators {
			row := &userRow{
				ID: uuid.Must(uuid.NewV7()).String(), Email: fmt.Sprintf("root%d@ejemplo.example", i), EmailKey: fmt.Sprintf("root%d@ejemplo.example", i),
				PasswordHash: "!", Roles: "user admin", CreatedAt: a.clock.Now().UnixMilli(),
			}
			if err := a.store.insertUser(t.Context(), row, nil); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, row.ID)
		}
		yes := true
		var wg sync.WaitGroup
		var mu sync.Mutex
		done := map[string]int{}
		for i := range changes {
			wg.Go(func() {
				ctx := WithActor(t.Context(), userName(ids[i%administrators]))
				target := ids[(i*3+i/administrators)%administrators]
				var err error
				switch i % 4 {
				case 0, 1:
					_, err = a.accounts.Change(ctx, target, UserChange{Roles: []token.Role{token.RoleUser}})
				case 2:
					_, err = a.accounts.Change(ctx, target, UserChange{Disabled: &yes})
				case 3:
					_, err = a.accounts.Delete(ctx, target)
				}
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					done["done"]++
				case errors.Is(err, ErrLastAdministrator):
					done["refused"]++
				default:
					t.Errorf("change %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		left, err := a.accounts.Find(t.Context(), UserFilter{Role: token.RoleAdmin, State: UserEnabled, Limit: 100})
		if err != nil || len(left) != 1 {
			t.Errorf("%d administrators are left, want one (%v)", len(left), err)
		}
		taken := 0
		for _, e := range a.audited() {
			if e.Action == actRoles {
				taken++
			}
		}
		t.Logf("%v; %d lost the role", done, taken)
		if done["refused"] == 0 || done["done"]+done["refused"] != changes {
			t.Errorf("outcomes %v", done)
		}
	})
}

func TestAdminClients(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		admin := a.administrator("root@ejemplo.example", AdminAudience)
		grant := func(status int, id, secret string) {
			t.Helper()
			w := a.post("/oauth2/token", id, secret, url.Values{"grant_type": {"client_credentials"}})
			if w.Code != status {
				t.Errorf("a token for client %s: %d, want %d: %s", id, w.Code, status, w.Body)
			}
		}
		decode := func(w *httptest.ResponseRecorder, status int) member {
			t.Helper()
			var m member
			if err := json.Unmarshal(w.Body.Bytes(), &m); w.Code != status || err != nil {
				t.Fatalf("%d, want %d: %s", w.Code, status, w.Body)
			}
			return m
		}

		// Create, once.
		const body = `{"name":"nightly report","scope":"inmuebles:read inmuebles:write","audiences":["maps","inmuebles"]}`
		w := a.ask("/admin/clients", admin, "c1", body)
		created := decode(w, 201)
		id, secret := fmt.Sprint(created["client_id"]), fmt.Sprint(created["client_secret"])
		if created["auth"] != "client_secret" || created["scope"] != "inmuebles:read inmuebles:write" || fmt.Sprint(created["grants"]) != "[client_credentials]" ||
			w.Header().Get("Location") != "/admin/clients/"+id || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("created %v, %v", created, w.Header())
		}
		grant(200, id, secret)
		again := a.ask("/admin/clients", admin, "c1", body)
		if again.Code != 201 || again.Body.String() != w.Body.String() || again.Header().Get("Idempotency-Replayed") != "true" {
			t.Errorf("sent again: %d %s", again.Code, again.Body)
		}
		if w := a.ask("/admin/clients", admin, "c1", `{"name":"x","scope":"inmuebles:read"}`); w.Code != 422 {
			t.Errorf("another request with the key: %d", w.Code)
		}
		var kept string
		if err := db.Write.Get(&kept, "SELECT CAST(answer AS TEXT) FROM idempotency_keys"); db.Kind == database.SQLite && (err != nil || strings.Contains(kept, secretPrefix)) {
			t.Errorf("the answer is kept as %s, %v", kept, err)
		}
		// The process died after it had made the client, and its answer was
		// not kept: the client is there once, with a secret that works.
		if _, err := db.Write.Exec("UPDATE idempotency_keys SET answer = NULL"); err != nil {
			t.Fatal(err)
		}
		a.forward(idempotencyLease + time.Second)
		over := decode(a.ask("/admin/clients", admin, "c1", body), 201)
		if over["client_id"] != id || over["client_secret"] == secret || len(a.list("/admin/clients", admin)) != 1 {
			t.Errorf("taken over: %v", over)
		}
		secret = fmt.Sprint(over["client_secret"])
		grant(200, id, secret)

		// Rotate, once; also when it is taken over, the secret that the
		// client has goes on.
		rotated := decode(a.ask("/admin/clients/"+id+"/rotate_secret", admin, "r1", `{"overlap":3600}`), 200)
		grant(200, id, secret)
		grant(200, id, fmt.Sprint(rotated["client_secret"]))
		if _, err := db.Write.Exec("UPDATE idempotency_keys SET answer = NULL WHERE key = 'r1'"); err != nil {
			t.Fatal(err)
		}
		a.forward(idempotencyLease + time.Second)
		over = decode(a.ask("/admin/clients/"+id+"/rotate_secret", admin, "r1", `{"overlap":3600}`), 200)
		grant(200, id, secret)
		grant(401, id, fmt.Sprint(rotated["client_secret"]))
		grant(200, id, fmt.Sprint(over["client_secret"]))
		a.forward(time.Hour)
		grant(401, id, secret)
		secret = fmt.Sprint(over["client_secret"])
		m := a.must(200, "POST", "/authn/token", "", member{"email": "root@ejemplo.example", "password": testPassword, "audience": AdminAudience})
		admin, _ = m["access"].(string)
		stolen := decode(a.ask("/admin/clients/"+id+"/rotate_secret", admin, "", `{"overlap":0}`), 200)
		grant(401, id, secret)
		secret = fmt.Sprint(stolen["client_secret"])

		// Change.
		c := a.must(200, "PATCH", "/admin/clients/"+id, admin, member{"name": "report", "scope": "inmuebles:read", "grants": nil})
		if c["name"] != "report" || c["scope"] != "inmuebles:read" || fmt.Sprint(c["audiences"]) != "[inmuebles maps]" || c["client_secret"] != nil {
			t.Errorf("changed to %v", c)
		}
		if got := a.must(200, "GET", "/admin/clients/"+id, admin, nil); fmt.Sprint(got) != fmt.Sprint(c) {
			t.Errorf("it is %v, the change said %v", got, c)
		}
		a.must(200, "PATCH", "/admin/clients/"+id, admin, member{"disabled": true})
		grant(401, id, secret)
		a.must(200, "PATCH", "/admin/clients/"+id, admin, member{"disabled": false})
		grant(200, id, secret)
		a.must(404, "PATCH", "/admin/clients/"+id, admin, member{"jwks": json.RawMessage(publicSet(t, jose.EdDSA, newKey(t, jose.EdDSA)))})

		// With keys.
		keyed := a.must(201, "POST", "/admin/clients", admin, member{"name": "signs", "scope": "inmuebles:read", "jwks": json.RawMessage(publicSet(t, jose.EdDSA, newKey(t, jose.EdDSA)))})
		if keyed["auth"] != "private_key_jwt" || keyed["client_secret"] != nil {
			t.Errorf("with keys: %v", keyed)
		}
		a.must(200, "PATCH", "/admin/clients/"+keyed["client_id"].(string), admin, member{"jwks": json.RawMessage(publicSet(t, jose.EdDSA, newKey(t, jose.EdDSA)))})
		a.must(404, "POST", "/admin/clients/"+keyed["client_id"].(string)+"/rotate_secret", admin, member{})
		if all := a.list("/admin/clients?limit=1", admin); len(all) != 2 {
			t.Errorf("listed %v", all)
		}

		// Remove.
		a.must(204, "DELETE", "/admin/clients/"+id, admin, nil)
		a.must(404, "DELETE", "/admin/clients/"+id, admin, nil)
		a.must(404, "GET", "/admin/clients/"+id, admin, nil)
		grant(401, id, secret)

		// Audiences.
		name := "https://maps.example/v1"
		made := a.must(201, "POST", "/admin/audiences", admin, member{"name": name, "typ": "JWT", "token_life": 60})
		if made["alg"] != "RS256" || made["for_users"] != true || made["token_life"] != 60.0 {
			t.Errorf("made %v", made)
		}
		m = a.must(200, "POST", "/authn/token", "", member{"email": "root@ejemplo.example", "password": testPassword, "audience": name})
		if m["expires_in"] != 60.0 {
			t.Errorf("its tokens live for %v s", m["expires_in"])
		}
		if e := a.must(409, "POST", "/admin/audiences", admin, member{"name": name}); e["code"] != "audience_taken" {
			t.Errorf("a second one: %v", e)
		}
		if e := a.must(422, "POST", "/admin/audiences", admin, member{"name": "x", "alg": "ES256"}); !strings.Contains(fmt.Sprint(e["errors"]), "/alg") {
			t.Errorf("without keys: %v", e)
		}
		if got := column(a.list("/admin/audiences", admin), "name"); got != name {
			t.Errorf("listed %s", got)
		}
		a.must(204, "DELETE", "/admin/audiences/https:%2F%2Fmaps.example%2Fv1", admin, nil)
		a.must(404, "DELETE", "/admin/audiences/https:%2F%2Fmaps.example%2Fv1", admin, nil)

		for _, e := range a.audited() {
			if text := fmt.Sprintf("%+v", e); strings.Contains(text, secretPrefix) {
				t.Errorf("the audit has a secret: %s", text)
			}
		}
	})
}

func TestAdminAudit(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		admin := a.administrator("root@ejemplo.example", AdminAudience)
		ana, _ := a.register("ana@ejemplo.example")["id"].(string)
		a.login("ana@ejemplo.example")
		a.clock.Add(time.Minute)
		then := a.clock.Now().UTC().Truncate(time.Millisecond)
		a.must(401, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": "not my password"})
		client := a.must(201, "POST", "/admin/clients", admin, member{"name": "x", "scope": "inmuebles:read"})["client_id"].(string)
		since := "since=" + strings.ReplaceAll(then.Format(time.RFC3339Nano), "+", "%2B")
		until := "until=" + then.Format(time.RFC3339Nano)

		for _, tc := range []struct{ query, want string }{
			{"", "login.failed client.created login user.registered login user.created"},
			{"?limit=1", "login.failed client.created login user.registered login user.created"},
			{"?order=asc", "user.created login user.registered login client.created login.failed"},
			{"?order=asc&limit=2", "user.created login user.registered login client.created login.failed"},
			{"?subject=" + ana, "login.failed login user.registered"},
			{"?actor=" + ana, "login user.registered"},
			{"?actor=user%20" + ana + "&limit=1", "login user.registered"},
			{"?subject=" + client, "client.created"},
			{"?actor=anonymous", "login.failed"},
			{"?actor=operator", "user.created"},
			{"?action=login", "login login"},
			{"?action=login&subject=" + ana, "login"},
			{"?" + since, "login.failed client.created"},
			{"?" + until + "&limit=2", "login user.registered login user.created"},
			{"?action=nothing", ""},
		} {
			got := strings.Fields(column(a.list("/admin/audit"+tc.query, admin), "action"))
			want := strings.Fields(tc.want)
			slices.Sort(got) // what is refused is chained when somebody looks
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", tc.query, got, want)
			}
		}
		if keys := a.list("/admin/audit?log=keys", admin); len(keys) == 0 || keys[0]["log"] != "keys" {
			t.Errorf("the keys' are %v", keys)
		}
		one := a.list("/admin/audit?action=login&limit=1&subject="+ana, admin)[0]
		if one["actor"] != "user "+ana || one["before"] != nil || fmt.Sprint(one["origin"]) != "map[network:192.0.2.1]" || one["after"].(member)["amr"] != "pwd" {
			t.Errorf("an entry is %v", one)
		}

		// As NDJSON it verifies, and what was changed on its way doesn't.
		for accept, ndjson := range map[string]bool{
			"application/x-ndjson": true, "application/x-ndjson;q=0.5, application/json;q=0.4": true,
			"application/json, application/x-ndjson;q=0.5": false, "*/*": false, "text/html": false,
		} {
			r := a.request("GET", "/admin/audit?order=asc", admin, nil)
			r.Header.Set("Accept", accept)
			w := httptest.NewRecorder()
			a.ServeHTTP(w, r)
			if got := w.Header().Get("Content-Type") == "application/x-ndjson"; got != ndjson || w.Code != 200 || !strings.Contains(fmt.Sprint(w.Header()["Vary"]), "Accept") {
				t.Errorf("Accept: %s: %d %v", accept, w.Code, w.Header())
			}
			if !ndjson {
				continue
			}
			if log, head, err := audit.VerifyFile(strings.NewReader(w.Body.String()), nil, nil, nil); err != nil || log != AuditLog || head.Seq != 6 {
				t.Errorf("%s up to %v: %v", log, head, err)
			}
			forged := strings.Replace(w.Body.String(), "not", "NOT", 1)
			forged = strings.Replace(forged, ana, client[:8]+ana[8:], 1)
			if _, _, err := audit.VerifyFile(strings.NewReader(forged), nil, nil, nil); !errors.Is(err, audit.ErrBroken) {
				t.Errorf("forged: %v, want ErrBroken", err)
			}
		}
	})
}

// An administrator's own nonsense is refused with what is wrong, and changes
// nothing.
func TestAdminNonsense(t *testing.T) {
	onBothEngines(t, testAdminNonsense)
}

func testAdminNonsense(t *testing.T, db *database.SQL) {
	a := newAuthn(t, db)
	admin := a.administrator("root@ejemplo.example", AdminAudience)
	ana, _ := a.register("ana@ejemplo.example")["id"].(string)
	client := a.must(201, "POST", "/admin/clients", admin, member{"name": "x", "scope": "inmuebles:read"})["client_id"].(string)
	before := len(a.audited())
	user, aClient := "/admin/users/"+ana, "/admin/clients/"+client
	long := strings.Repeat("x", 10_000)
	for _, tc := range []struct {
		name, method, path string
		body               any
		status             int
		where              string
	}{
		{"an unknown parameter", "GET", "/admin/users?name=x", nil, 422, "name"},
		{"a parameter twice", "GET", "/admin/users?role=user&role=admin", nil, 422, "role"},
		{"a parameter without a value", "GET", "/admin/users?email=", nil, 422, "email"},
		{"an unknown role", "GET", "/admin/users?role=root", nil, 422, "role"},
		{"an unknown state", "GET", "/admin/users?state=x", nil, 422, "state"},
		{"no limit", "GET", "/admin/users?limit=0", nil, 422, "limit"},
		{"too high a limit", "GET", "/admin/users?limit=1001", nil, 422, "limit"},
		{"a cursor that is none", "GET", "/admin/users?before=x", nil, 422, "before"},
		{"a long address", "GET", "/admin/users?email=" + long, nil, 422, "email"},
		{"an id that is none", "GET", "/admin/users/x", nil, 422, "id"},
		{"a session that is none", "DELETE", user + "/sessions/x", nil, 422, "sid"},
		{"no body", "PATCH", user, "", 400, ""},
		{"a list", "PATCH", user, "[]", 422, ""},
		{"no roles", "PATCH", user, member{"roles": []string{}}, 422, "/roles"},
		{"an unknown role", "PATCH", user, member{"roles": []string{"root"}}, 422, "/roles"},
		{"a role that is an object", "PATCH", user, `{"roles":[{}]}`, 422, "/roles"},
		{"a grant that is an object", "PATCH", aClient, `{"grants":[{},{}]}`, 422, "/grants"},
		{"a role that is null", "PATCH", user, `{"roles":[null]}`, 422, "/roles"},
		{"roles in one text", "PATCH", user, member{"roles": "user admin"}, 422, "/roles"},
		{"disabled is a text", "PATCH", user, member{"disabled": "true"}, 422, "/disabled"},
		{"an unknown member", "PATCH", user, member{"email": "x@y.example"}, 422, "/email"},
		{"a member in another case", "PATCH", user, member{"Roles": []string{"user"}}, 422, "/Roles"},
		{"a member twice", "PATCH", user, `{"disabled":true,"disabled":false}`, 400, "/disabled"},
		{"a body too large", "PATCH", user, `{"roles":["` + strings.Repeat("x", 100_000) + `"]}`, 413, ""},
		{"no name", "POST", "/admin/clients", member{"scope": "inmuebles:read"}, 422, "/name"},
		{"an empty name", "POST", "/admin/clients", member{"name": "", "scope": "inmuebles:read"}, 422, "/name"},
		{"a name with a line break", "POST", "/admin/clients", member{"name": "a\nb", "scope": "inmuebles:read"}, 422, "/name"},
		{"an unknown scope", "POST", "/admin/clients", member{"name": "x", "scope": "everything"}, 422, "/scope"},
		{"a blank scope", "POST", "/admin/clients", member{"name": "x", "scope": " "}, 422, "/scope"},
		{"a scope that is a list", "POST", "/admin/clients", member{"name": "x", "scope": []string{"inmuebles:read"}}, 422, "/scope"},
		{"an unknown grant", "POST", "/admin/clients", member{"name": "x", "scope": "inmuebles:read", "grants": []string{"password"}}, 422, "/grants"},
		{"no grant", "POST", "/admin/clients", member{"name": "x", "scope": "inmuebles:read", "grants": []string{}}, 422, "/grants"},
		{"an audience with spaces", "POST", "/admin/clients", member{"name": "x", "scope": "inmuebles:read", "audiences": []string{"a b"}}, 422, "/audiences"},
		{"a long audience", "POST", "/admin/clients", member{"name": "x", "scope": "inmuebles:read", "audiences": []string{long}}, 422, "/audiences"},
		{"keys that are none", "POST", "/admin/clients", member{"name": "x", "scope": "inmuebles:read", "jwks": member{"keys": []int{}}}, 422, "/jwks"},
		{"keys that are a text", "POST", "/admin/clients", member{"name": "x", "scope": "inmuebles:read", "jwks": "x"}, 422, "/jwks"},
		{"chooses its secret", "POST", "/admin/clients", member{"name": "x", "scope": "inmuebles:read", "client_secret": "x"}, 422, "/client_secret"},
		{"chooses its id", "POST", "/admin/clients", member{"name": "x", "scope": "inmuebles:read", "client_id": "x"}, 422, "/client_id"},
		{"a change to no scope", "PATCH", aClient, member{"scope": " "}, 422, "/scope"},
		{"a change to no audience", "PATCH", aClient, member{"audiences": []string{}}, 422, "/audiences"},
		{"a negative overlap", "POST", aClient + "/rotate_secret", member{"overlap": -1}, 422, "/overlap"},
		{"a long overlap", "POST", aClient + "/rotate_secret", member{"overlap": 2592001}, 422, "/overlap"},
		{"a fraction", "POST", aClient + "/rotate_secret", member{"overlap": 1.5}, 422, "/overlap"},
		{"a client that isn't there", "PATCH", "/admin/clients/x", member{"disabled": true}, 404, ""},
		{"a client with a long id", "GET", "/admin/clients/" + long[:100], nil, 422, "id"},
		{"a client with spaces", "GET", "/admin/clients/a%20b", nil, 422, "id"},
		{"an audience without a name", "POST", "/admin/audiences", member{}, 422, "/name"},
		{"an audience with a space", "POST", "/admin/audiences", member{"name": "a b"}, 422, "/name"},
		{"alg none", "POST", "/admin/audiences", member{"name": "x", "alg": "none"}, 422, "/alg"},
		{"another typ", "POST", "/admin/audiences", member{"name": "x", "typ": "jose"}, 422, "/typ"},
		{"a life of a year", "POST", "/admin/audiences", member{"name": "x", "token_life": 31536000}, 422, "/token_life"},
		{"another log", "GET", "/admin/audit?log=x", nil, 422, "log"},
		{"another order", "GET", "/admin/audit?order=x", nil, 422, "order"},
		{"no time", "GET", "/admin/audit?since=yesterday", nil, 422, "since"},
		{"a cursor of 0", "GET", "/admin/audit?cursor=0", nil, 422, "cursor"},
		{"a long actor", "GET", "/admin/audit?actor=" + long, nil, 422, "actor"},
		{"an action with quotes", "GET", "/admin/audit?action=%27%20OR%201=1", nil, 422, "action"},
	} {
		w := a.call(tc.method, tc.path, admin, tc.body)
		if w.Code != tc.status || w.Header().Get("Content-Type") != "application/problem+json" || !strings.Contains(w.Body.String(), tc.where) {
			t.Errorf("%s: %d, want %d with %q: %s", tc.name, w.Code, tc.status, tc.where, w.Body)
		}
	}
	for _, tc := range []struct{ path, want string }{
		{"/admin/audit?actor=%00&subject=%00", "[]"},
		{"/admin/users?email=%00", "[]"},
		{"/admin/users?email=%ff", "[]"},
		{"/admin/audit?actor=%ff", "[]"},
	} {
		if w := a.call("GET", tc.path, admin, nil); w.Code >= 500 || tc.want != "" && strings.TrimSpace(w.Body.String()) != tc.want {
			t.Errorf("%s: %d %s", tc.path, w.Code, w.Body)
		}
	}
	if after := len(a.audited()); after != before {
		t.Errorf("%d entries were added to the audit", after-before)
	}
}
