package authserver

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/test/engines"
)

const firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"

// from is a request from an address with a User-Agent.
func (a *authn) from(address, userAgent, method, path, bearer string, body any) *httptest.ResponseRecorder {
	a.t.Helper()
	r := a.request(method, path, bearer, body)
	r.RemoteAddr = address
	r.Header.Set("User-Agent", userAgent)
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	return w
}

// sessions is the list that an access token gets, all pages of it.
func (a *authn) sessions(access string) (all []Session) {
	a.t.Helper()
	for path := "/authn/sessions?limit=2"; path != ""; {
		w := a.call("GET", path, access, nil)
		if w.Code != http.StatusOK {
			a.t.Fatalf("GET %s: %d %s", path, w.Code, w.Body)
		}
		var page []Session
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
			a.t.Fatalf("%v: %s", err, w.Body)
		}
		all = append(all, page...)
		path, _, _ = strings.Cut(strings.TrimPrefix(w.Header().Get("Link"), "<"), ">")
	}
	return all
}

func TestSessions(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		a.register("ana@ejemplo.example")
		a.register("eva@ejemplo.example")
		login := func(email, address, userAgent string) (access, refresh string) {
			t.Helper()
			w := a.from(address, userAgent, "POST", "/authn/token", "", member{"email": email, "password": testPassword})
			var m struct{ Access, Refresh string }
			if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil || w.Code != http.StatusOK {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			return m.Access, m.Refresh
		}
		first, firstRefresh := login("ana@ejemplo.example", "192.0.2.7:1", firefox)
		a.forward(time.Second)
		second, secondRefresh := login("ana@ejemplo.example", "[2001:db8:1:2:3::4]:1", "curl/8.5.0")
		a.forward(time.Second)
		third, thirdRefresh := login("ana@ejemplo.example", "192.0.2.8:1", "")
		others, othersRefresh := login("eva@ejemplo.example", "192.0.2.9:1", firefox)

		list := a.sessions(second)
		if len(list) != 3 {
			t.Fatalf("%d sessions are listed, want 3: %+v", len(list), list)
		}
		for i, want := range []Session{
			{Device: "", Network: "192.0.2.8"},
			{Device: "curl", UserAgent: "curl/8.5.0", Network: "2001:db8:1:2::/64", Current: true},
			{Device: "Firefox on Linux", UserAgent: firefox, Network: "192.0.2.7"},
		} {
			got := list[i]
			if got.Device != want.Device || got.UserAgent != want.UserAgent || got.Network != want.Network || got.Current != want.Current ||
				got.Audience != "inmuebles" || !got.ExpiresAt.Equal(got.LastUsedAt.Add(DefaultSessionLimits().Idle)) {
				t.Errorf("session %d is %+v, want %+v", i, got, want)
			}
		}
		created := list[2].CreatedAt
		if c, _ := a.claims(first); c.Session != list[2].ID {
			t.Errorf("id %s is not the sid %s", list[2].ID, c.Session)
		}

		// A refresh says where a session is used now.
		a.forward(time.Minute)
		w := a.from("192.0.2.77:1", "curl/9", "POST", "/authn/token/refresh", "", member{"refresh": firstRefresh})
		if w.Code != http.StatusOK {
			t.Fatal(w.Body)
		}
		if got := a.sessions(second)[2]; got.Network != "192.0.2.77" || got.UserAgent != "curl/9" || !got.CreatedAt.Equal(created) ||
			!got.LastUsedAt.After(created) {
			t.Errorf("after a refresh: %+v", got)
		}

		// Nobody sees or ends another's.
		notMine := "/authn/sessions/" + a.sessions(others)[0].ID
		if m := a.must(404, "DELETE", notMine, first, nil); m["code"] != "not_found" {
			t.Errorf("another's session: %v", m)
		}
		a.must(404, "DELETE", "/authn/sessions/01a203e0-beac-7480-9f3b-f73098445376", first, nil)
		a.must(422, "DELETE", "/authn/sessions/x", first, nil)
		a.must(422, "GET", "/authn/sessions?before=x", first, nil)
		a.must(401, "GET", "/authn/sessions", "", nil)

		// One, the others, all.
		a.must(204, "DELETE", "/authn/sessions/"+list[0].ID, first, nil)
		a.must(404, "DELETE", "/authn/sessions/"+list[0].ID, first, nil)
		a.must(401, "POST", "/authn/token/refresh", "", member{"refresh": thirdRefresh})
		for _, c := range []struct{ method, path string }{{"GET", "/authn/sessions"}, {"DELETE", "/authn/sessions"}, {"DELETE", "/authn/sessions/others"}, {"DELETE", notMine}} {
			a.must(401, c.method, c.path, third, nil) // its access token hasn't expired, but its session has ended
		}
		a.must(204, "DELETE", "/authn/sessions/others", first, nil)
		if list = a.sessions(first); len(list) != 1 || !list[0].Current {
			t.Errorf("after the others ended: %+v", list)
		}
		a.must(401, "POST", "/authn/token/refresh", "", member{"refresh": secondRefresh})
		a.must(204, "DELETE", "/authn/sessions", first, nil)
		a.must(401, "GET", "/authn/sessions", first, nil)
		a.must(200, "POST", "/authn/token/refresh", "", member{"refresh": othersRefresh})

		// What ended or expired isn't listed.
		access, _ := login("ana@ejemplo.example", "192.0.2.7:1", "")
		if list = a.sessions(access); len(list) != 1 {
			t.Errorf("ended sessions are listed: %+v", list)
		}
		a.forward(DefaultSessionLimits().Idle)
		access, _ = login("ana@ejemplo.example", "192.0.2.7:1", "")
		if list = a.sessions(access); len(list) != 1 {
			t.Errorf("idle sessions are listed: %+v", list)
		}
	})
}

// Refreshes that race with the end of their session: whatever the order, the
// session is over afterwards.
func TestEndRacesWithRefresh(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		a.register("ana@ejemplo.example")
		mine, _ := a.login("ana@ejemplo.example")
		_, refresh := a.login("ana@ejemplo.example")
		last := make([]string, 8)
		var wg sync.WaitGroup
		for i := range last {
			wg.Go(func() {
				for text := refresh; ; {
					var m struct{ Refresh string }
					w := a.call("POST", "/authn/token/refresh", "", member{"refresh": text})
					if w.Code != http.StatusOK || json.Unmarshal(w.Body.Bytes(), &m) != nil {
						if w.Code != http.StatusUnauthorized {
							t.Errorf("refused with %d: %s", w.Code, w.Body)
						}
						return
					}
					last[i], text = m.Refresh, m.Refresh
				}
			})
		}
		wg.Go(func() { a.must(204, "DELETE", "/authn/sessions/others", mine, nil) })
		wg.Wait()
		for _, text := range last {
			if text != "" {
				a.must(401, "POST", "/authn/token/refresh", "", member{"refresh": text})
			}
		}
	})
}

// TestSessionsByID: PostgreSQL finds a session by its id, and not by an index
// that has as few rows for the usual user, but thousands for some.
func TestSessionsByID(t *testing.T) {
	t.Parallel()
	db := engines.Postgres(t)
	if _, err := migrations.Up(t.Context(), db.Write.DB, migrations.AuthnPostgres); err != nil {
		t.Fatal(err)
	}
	fillPostgres(t, db.Write, 500, "", time.Now()) // one session each
	for name, query := range map[string]string{"rotate": rotateSQL, "end": endSessionSQL, "end one's own": endOwnSQL} {
		tx, err := db.Write.BeginTxx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, statement := range []string{"SET LOCAL plan_cache_mode = force_generic_plan", "PREPARE q AS " + tx.Rebind(query)} {
			if _, err := tx.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
		plan, err := lastColumn(t.Context(), tx, "EXPLAIN EXECUTE q (NULL"+strings.Repeat(", NULL", strings.Count(query, "?")-1)+")")
		if _, dropErr := tx.ExecContext(t.Context(), "DEALLOCATE q"); err == nil {
			err = dropErr
		}
		if err := errors.Join(err, tx.Rollback()); err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(plan, "\n"); !strings.Contains(text, "sessions_pkey") || strings.Contains(text, "sessions_user_network") {
			t.Errorf("%s:\n%s", name, text)
		}
	}
}
