package authserver

import (
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/test/engines"
)

func TestProfile(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		a.register("ana@ejemplo.example")
		access, _ := a.login("ana@ejemplo.example")
		send := func(contentType, body string) *httptest.ResponseRecorder {
			r := a.request("PATCH", "/authn/me", access, body)
			r.Header.Set("Content-Type", contentType)
			w := httptest.NewRecorder()
			a.ServeHTTP(w, r)
			return w
		}
		const merge = "application/merge-patch+json"
		for _, tc := range []struct {
			name, contentType, body string
			status                  int
			want                    string // first, last, company, language; or a pointer
		}{
			{"nothing", merge, `{}`, 200, "Ana|García|Ejemplo|"},
			{"one", merge, `{"first_name":"Eva"}`, 200, "Eva|García|Ejemplo|"},
			{"null takes away", merge, `{"company":null}`, 200, "Eva|García||"},
			{"empty", merge, `{"last_name":""}`, 200, "Eva|||"},
			{"all", merge, `{"first_name":"Ana","last_name":"Gil","company":"Pisos","language":"en"}`, 200, "Ana|Gil|Pisos|en"},
			{"no language", merge, `{"language":null}`, 200, "Ana|Gil|Pisos|"},
			{"as JSON", "application/json", `{"company":"Casas"}`, 200, "Ana|Gil|Casas|"},
			{"another language", merge, `{"language":"xx"}`, 422, "/language"},
			{"too long", merge, `{"company":"` + strings.Repeat("x", 151) + `"}`, 422, "/company"},
			{"control character", merge, `{"company":"a\u0007b"}`, 422, "/company"},
			{"number", merge, `{"company":7}`, 422, "/company"},
			{"object", merge, `{"company":{}}`, 422, "/company"},
			{"roles", merge, `{"roles":["admin"]}`, 422, "/roles"},
			{"e-mail", merge, `{"email":"x@y.example"}`, 422, "/email"},
			{"password", merge, `{"password":"x"}`, 422, "/password"},
			{"twice", merge, `{"company":"a","company":"b"}`, 400, "/company"},
			{"other case", merge, `{"Company":"a"}`, 422, "/Company"},
			{"list", merge, `[]`, 422, ""},
			{"no body", merge, ``, 400, ""},
			{"JSON Patch", "application/json-patch+json", `[]`, 415, ""},
			{"form", "application/x-www-form-urlencoded", `company=a`, 415, ""},
		} {
			w := send(tc.contentType, tc.body)
			if w.Code != tc.status {
				t.Errorf("%s: %d, want %d: %s", tc.name, w.Code, tc.status, w.Body)
				continue
			}
			if tc.status == 200 {
				var u User
				if err := json.Unmarshal(w.Body.Bytes(), &u); err != nil {
					t.Fatal(err)
				}
				if got := strings.Join([]string{u.FirstName, u.LastName, u.Company, u.Language}, "|"); got != tc.want {
					t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
				}
			} else if tc.want != "" && !strings.Contains(w.Body.String(), `"pointer":"`+tc.want+`"`) {
				t.Errorf("%s: it doesn't name %s: %s", tc.name, tc.want, w.Body)
			}
		}
		if m := a.must(200, "GET", "/authn/me", access, nil); m["company"] != "Casas" || m["last_name"] != "Gil" {
			t.Errorf("afterwards: %v", m)
		}
		a.must(401, "PATCH", "/authn/me", "", `{}`)
		a.must(204, "POST", "/authn/sign_out", access, nil)
		a.must(401, "PATCH", "/authn/me", access, `{"company":"x"}`)
	})
}

func TestRegisterTakesALanguage(t *testing.T) {
	a := newSQLiteAuthn(t)
	for email, tc := range map[string]struct{ header, body, want string }{
		"a@ejemplo.example": {"en-GB,en;q=0.9,es;q=0.5", "", "en"},
		"b@ejemplo.example": {"xx, es-AR;q=0.8", "", "es"},
		"c@ejemplo.example": {"xx", "", ""},
		"d@ejemplo.example": {"", "", ""},
		"e@ejemplo.example": {"en", "es", "es"},
		"f@ejemplo.example": {";;q=x,,\"", "", ""},
	} {
		body := member{"email": email, "password": testPassword}
		if tc.body != "" {
			body["language"] = tc.body
		}
		r := a.request("POST", "/authn/register", "", body)
		r.Header.Set("Accept-Language", tc.header)
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		var u User
		if err := json.Unmarshal(w.Body.Bytes(), &u); err != nil || w.Code != 201 || u.Language != tc.want {
			t.Errorf("%+v: %d %s", tc, w.Code, w.Body)
		}
	}
}

const otherPassword = "otra frase, también larga"

func TestChangePassword(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		a.register("ana@ejemplo.example")
		mine, myRefresh := a.login("ana@ejemplo.example")
		other, otherRefresh := a.login("ana@ejemplo.example")
		change := func(status int, current, password string) member {
			t.Helper()
			return a.must(status, "POST", "/authn/me/password", mine, member{"current_password": current, "new_password": password})
		}
		if m := change(403, "not my password", otherPassword); m["code"] != "wrong_password" {
			t.Errorf("wrong password: %v", m)
		}
		for _, weak := range []string{"short", "password1", "ana@ejemplo.example"} {
			if m := change(422, testPassword, weak); !strings.Contains(toJSON(m), `"/new_password"`) {
				t.Errorf("weak: %v", m)
			}
		}
		a.must(200, "GET", "/authn/me", other, nil) // nothing has ended yet
		change(204, testPassword, otherPassword)
		a.must(401, "GET", "/authn/me", other, nil)
		a.must(401, "POST", "/authn/token/refresh", "", member{"refresh": otherRefresh})
		a.must(200, "POST", "/authn/token/refresh", "", member{"refresh": myRefresh})
		a.must(401, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": testPassword})
		a.must(200, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": otherPassword})
	})
}

// Of several changes at once that all know the present password, one wins.
func TestConcurrentPasswordChanges(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		a.register("ana@ejemplo.example")
		access, _ := a.login("ana@ejemplo.example")
		codes := make([]int, 8)
		var wg sync.WaitGroup
		for i := range codes {
			wg.Go(func() {
				codes[i] = a.call("POST", "/authn/me/password", access,
					member{"current_password": testPassword, "new_password": otherPassword + string(rune('a'+i))}).Code
			})
		}
		wg.Wait()
		won := -1
		for i, code := range codes {
			if code == 204 && won < 0 {
				won = i
			} else if code != 403 {
				t.Errorf("change %d is answered %d", i, code)
			}
		}
		if won < 0 {
			t.Fatal("none has won")
		}
		a.must(200, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": otherPassword + string(rune('a'+won))})
	})
}

func TestDeleteAndRestore(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		a.register("ana@ejemplo.example")
		a.register("eva@ejemplo.example")
		login := member{"email": "ana@ejemplo.example", "password": testPassword}
		remove := func() {
			t.Helper()
			access, refresh := a.login("ana@ejemplo.example")
			a.must(403, "DELETE", "/authn/me", access, member{"password": "not my password"})
			m := a.must(202, "DELETE", "/authn/me", access, member{"password": testPassword})
			at, err := time.Parse(time.RFC3339, m["erase_at"].(string))
			if want := a.clock.Now().Add(DefaultDeletionGrace); err != nil || at.Sub(want).Abs() > time.Second {
				t.Errorf("erase_at %v, want %v (%v)", at, want, err)
			}
			a.must(401, "GET", "/authn/me", access, nil)
			a.must(401, "POST", "/authn/token/refresh", "", member{"refresh": refresh})
			if m := a.must(401, "POST", "/authn/token", "", login); m["code"] != "account_deleted" || m["error"] != "invalid_grant" {
				t.Errorf("login: %v", m)
			}
			wrong := a.call("POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": "not my password"})
			unknown := a.call("POST", "/authn/token", "", member{"email": "nadie@ejemplo.example", "password": "not my password"})
			if wrong.Body.String() != unknown.Body.String() {
				t.Errorf("who doesn't know the password learns of the account:\n%s\n%s", wrong.Body, unknown.Body)
			}
			a.must(409, "POST", "/authn/register", "", login)
		}
		remove()
		a.must(401, "POST", "/authn/restore", "", member{"email": "ana@ejemplo.example", "password": "not my password"})
		a.must(401, "POST", "/authn/restore", "", member{"email": "nadie@ejemplo.example", "password": testPassword})
		a.must(204, "POST", "/authn/restore", "", login)
		a.must(204, "POST", "/authn/restore", "", login) // it is there: nothing to do
		remove()

		// An operator's disabling can't be undone by its owner.
		if err := a.accounts.Disable(t.Context(), "ana@ejemplo.example"); err != nil {
			t.Fatal(err)
		}
		a.must(401, "POST", "/authn/restore", "", login)
		if m := a.must(401, "POST", "/authn/token", "", login); m["code"] != "wrong_credentials" {
			t.Errorf("disabled by an operator: %v", m)
		}
		if err := a.accounts.SetPassword(t.Context(), "ana@ejemplo.example", testPassword); err != nil {
			t.Fatal(err)
		}
		remove()

		a.forward(DefaultDeletionGrace - time.Hour)
		if err := a.accounts.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.must(401, "POST", "/authn/token", "", login)
		a.forward(time.Hour)
		a.must(401, "POST", "/authn/restore", "", login) // the time has come, if not yet the sweep
		if err := a.accounts.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		users, err := a.accounts.List(t.Context(), "", 10)
		if err != nil || len(users) != 1 || users[0].Email != "eva@ejemplo.example" {
			t.Errorf("after the sweep: %v, %v", users, err)
		}
		var sessions int
		if err := db.Write.Get(&sessions, "SELECT count(*) FROM sessions"); err != nil || sessions != 0 {
			t.Errorf("%d sessions of an erased user are left (%v)", sessions, err)
		}
		a.register("ana@ejemplo.example")
	})
}

func TestOwnData(t *testing.T) {
	a := newSQLiteAuthn(t)
	a.register("ana@ejemplo.example")
	old, _ := a.login("ana@ejemplo.example")
	a.must(204, "POST", "/authn/sign_out", old, nil)
	access, refresh := a.login("ana@ejemplo.example")
	w := a.call("GET", "/authn/me/data", access, nil)
	var d Data
	if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || w.Code != 200 {
		t.Fatalf("%d %v: %s", w.Code, err, w.Body)
	}
	if d.User.Email != "ana@ejemplo.example" || len(d.Sessions) != 2 || d.Sessions[0].EndedAt != nil || !d.Sessions[0].Current ||
		d.Sessions[1].EndedAt == nil || *d.Sessions[1].EndedReason != "signed out" {
		t.Errorf("%s", w.Body)
	}
	if text := w.Body.String(); strings.Contains(text, "argon2") || strings.Contains(text, refresh) || !strings.HasPrefix(w.Header().Get("Content-Disposition"), "attachment") {
		t.Errorf("%v %s", w.Header(), text)
	}
	a.must(401, "GET", "/authn/me/data", old, nil)
}

// On a PostgreSQL whose default is SERIALIZABLE, statements that meet are
// undone. Nobody is logged out by that, and nothing is answered 500.
func TestSerializable(t *testing.T) {
	t.Parallel()
	url := engines.PostgresURL(t)
	open := func() *database.SQL {
		db, err := database.OpenSQL(t.Context(), url, database.Full)
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	db := open()
	_, err := migrations.Up(t.Context(), db.Write.DB, migrations.AuthnPostgres)
	if err == nil {
		_, err = db.Write.ExecContext(t.Context(), `DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || current_database()
			|| ' SET default_transaction_isolation TO serializable'; END $$`)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	db = open()
	t.Cleanup(func() { _ = db.Close() })
	a := newAuthn(t, db)
	a.register("ana@ejemplo.example")
	access, refresh := a.login("ana@ejemplo.example")
	count := map[int]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			var code int
			switch i % 10 {
			case 0:
				code = a.call("PATCH", "/authn/me", access, `{"company":"x"}`).Code
			case 1:
				code = a.call("DELETE", "/authn/sessions/others", access, nil).Code
			default:
				code = a.call("POST", "/authn/token/refresh", "", member{"refresh": refresh}).Code
			}
			mu.Lock()
			count[code]++
			mu.Unlock()
		})
	}
	wg.Wait()
	for code := range count {
		if code != 200 && code != 204 && code != 503 {
			t.Errorf("statuses %v", count)
		}
	}
	if count[200] == 0 {
		t.Errorf("statuses %v: nothing came through", count)
	}
	a.must(200, "POST", "/authn/token/refresh", "", member{"refresh": refresh})
	t.Logf("statuses %v", count)
}

func toJSON(v any) string {
	raw, _ := json.Marshal(v)
	return string(raw)
}
