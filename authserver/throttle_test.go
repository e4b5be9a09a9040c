package authserver

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/urbandata/urbandata/pkg/cli/database"
)

// newThrottled is a server with limits of its own.
func newThrottled(t *testing.T, db *database.SQL, limits Limits) *mailing {
	t.Helper()
	m := &mailing{box: &postbox{}}
	m.authn = newAuthn(t, db, func(o *Options) {
		o.Accounts = NewAccounts(o.Accounts.store, AccountsOptions{
			Now: o.Now, Limits: &limits, Mail: MailOptions{Mailer: m.box, URL: testIssuer, Verify: VerifyOff},
		})
	})
	return m
}

// try logs in from an address.
func (a *authn) try(address, email, password string, more ...string) *httptest.ResponseRecorder {
	a.t.Helper()
	body := member{"email": email, "password": password}
	if len(more) > 0 {
		body["refresh"] = more[0]
	}
	return a.from(address+":1", "", "POST", "/authn/token", "", body)
}

func (a *authn) wantTry(status int, address, email, password string, more ...string) *httptest.ResponseRecorder {
	a.t.Helper()
	w := a.try(address, email, password, more...)
	if w.Code != status {
		a.t.Fatalf("login from %s: %d, want %d: %v %s", address, w.Code, status, w.Header(), w.Body)
	}
	if (status == 429) != (w.Header().Get("Retry-After") != "") || w.Header().Get("RateLimit") == "" || w.Header().Get("RateLimit-Policy") == "" {
		a.t.Errorf("%d with header %v", status, w.Header())
	}
	return w
}

func retryAfter(t *testing.T, w *httptest.ResponseRecorder) time.Duration {
	t.Helper()
	n, err := strconv.Atoi(w.Header().Get("Retry-After"))
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n) * time.Second
}

// A stranger, from wherever, is slowed down more and more, and the owner isn't.
func TestStrangersCantLockAnOwnerOut(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newThrottled(t, db, Limits{LoginAccount: Limit{5, time.Hour}, LoginDevice: Limit{3, time.Hour}})
		a.register("ana@ejemplo.example")
		const home, away, owner = "192.0.2.1", "198.51.100.1", "ana@ejemplo.example"
		w := a.wantTry(200, home, owner, testPassword)
		_, refresh, _ := strings.Cut(w.Body.String(), `"refresh":"`)
		refresh, _, _ = strings.Cut(refresh, `"`)

		for i := range 5 { // from many addresses, unknown users too
			a.wantTry(401, fmt.Sprint("203.0.113.", i), owner, "not my password")
			a.wantTry(401, fmt.Sprint("203.0.113.", i), "nadie@ejemplo.example", "not my password")
		}
		known := a.wantTry(429, "203.0.113.9", owner, "not my password")
		unknown := a.wantTry(429, "203.0.113.9", "nadie@ejemplo.example", "not my password")
		if known.Body.String() != unknown.Body.String() || known.Header().Get("RateLimit") != unknown.Header().Get("RateLimit") ||
			known.Header().Get("Retry-After") != unknown.Header().Get("Retry-After") {
			t.Errorf("a known and an unknown address can be told apart:\n%v %s\n%v %s", known.Header(), known.Body, unknown.Header(), unknown.Body)
		}
		if !strings.Contains(known.Body.String(), `"too_many_requests"`) || !strings.Contains(known.Body.String(), `"temporarily_unavailable"`) {
			t.Error(known.Body)
		}
		a.wantTry(429, away, owner, testPassword) // a stranger's right password, too: nobody can tell

		a.wantTry(200, home, owner, testPassword)          // a known network
		a.wantTry(200, away, owner, testPassword, refresh) // a known device, elsewhere
		a.must(204, "POST", "/authn/sign_out", "", member{"refresh": refresh})
		a.wantTry(200, "198.51.100.2", owner, testPassword, refresh) // its token gives nothing any more
		a.wantTry(429, "203.0.113.9", "nadie@ejemplo.example", testPassword, refresh)
		a.wantTry(429, "203.0.113.9", owner, testPassword, "udr_"+strings.Repeat("A", 107))

		// The delay grows, and is bounded.
		last := retryAfter(t, a.try("203.0.113.9", owner, "not my password"))
		if last != time.Second {
			t.Errorf("the first delay is %v", last)
		}
		for range 15 {
			a.forward(last)
			a.wantTry(401, "203.0.113.77", owner, "not my password")
			next := retryAfter(t, a.wantTry(429, "203.0.113.9", owner, "not my password"))
			if next < last || next > maxDelay {
				t.Errorf("after %v comes %v", last, next)
			}
			last = next
		}
		if last != maxDelay {
			t.Errorf("the last delay is %v, want %v", last, maxDelay)
		}
		a.forward(time.Hour)
		a.wantTry(401, "203.0.113.9", owner, "not my password")

		// A reset by mail lets the owner in from anywhere.
		for i := range 4 {
			a.wantTry(401, fmt.Sprint("203.0.113.", i), owner, "not my password")
		}
		a.wantTry(429, "198.51.100.3", owner, testPassword)
		a.must(202, "POST", "/authn/password/reset", "", member{"email": owner})
		token := a.letter(owner, "Restablece tu contraseña")
		a.must(204, "POST", "/authn/password/reset/confirm", "", member{"token": token, "new_password": otherPassword})
		a.wantTry(200, "198.51.100.3", owner, otherPassword)
	})
}

// Wrong passwords at a known device count for it, and for it alone.
func TestDeviceLimit(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newThrottled(t, db, Limits{LoginAccount: Limit{5, time.Hour}, LoginDevice: Limit{3, time.Hour}})
		a.register("ana@ejemplo.example")
		const home = "192.0.2.1"
		a.wantTry(200, home, "ana@ejemplo.example", testPassword)
		a.wantTry(401, home, "ana@ejemplo.example", "not my password")
		a.wantTry(401, home, "ana@ejemplo.example", "not my password")
		a.wantTry(200, home, "ana@ejemplo.example", testPassword) // forgets them
		for range 3 {
			a.wantTry(401, home, "ana@ejemplo.example", "not my password")
		}
		w := a.wantTry(429, home, "ana@ejemplo.example", testPassword)
		if got := w.Header().Get("RateLimit"); got != `"login_device";r=0;t=1` {
			t.Errorf("RateLimit: %s", got)
		}
		if got := w.Header().Get("RateLimit-Policy"); got != `"login_device";q=3;w=3600` {
			t.Errorf("RateLimit-Policy: %s", got)
		}
		w = a.wantTry(200, "198.51.100.1", "ana@ejemplo.example", testPassword) // the account isn't concerned

		// Who confirms something with a password meets the same count.
		_, access, _ := strings.Cut(w.Body.String(), `"access":"`)
		access, _, _ = strings.Cut(access, `"`)
		a.clock.Add(time.Second)
		w = a.from(home+":1", "", "POST", "/authn/me/password", access, member{"current_password": "x", "new_password": otherPassword})
		if w.Code != 403 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		w = a.from(home+":1", "", "DELETE", "/authn/me", access, member{"password": testPassword})
		if w.Code != 429 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

func TestNetworkLimits(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newThrottled(t, db, Limits{
			LoginNetwork: Limit{4, 10 * time.Minute}, RegisterNetwork: Limit{3, time.Hour},
			ResetAddress: Limit{2, time.Hour}, ResetNetwork: Limit{3, time.Hour}, TokenNetwork: Limit{3, 10 * time.Minute},
		})
		post := func(address, path string, body member) int {
			t.Helper()
			w := a.from(address, "", "POST", path, "", body)
			if (w.Code == 429) != (w.Header().Get("Retry-After") != "") {
				t.Errorf("%d with %v", w.Code, w.Header())
			}
			return w.Code
		}
		steps := func(name string, want []int, f func() int) {
			t.Helper()
			for i, code := range want {
				if got := f(); got != code {
					t.Errorf("%s %d: %d, want %d", name, i, got, code)
				}
			}
		}
		one, two := "[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1"
		n := 0
		register := func() int {
			n++
			return post(one, "/authn/register", member{"email": fmt.Sprint("u", n, "@ejemplo.example"), "password": testPassword})
		}
		steps("register", []int{201, 201, 201, 429}, register)
		if code := post("[2001:db8:1:2:ffff::9]:1", "/authn/register", member{"email": "v@ejemplo.example", "password": testPassword}); code != 429 {
			t.Errorf("the same /64: %d", code)
		}
		if code := post(two, "/authn/register", member{"email": "v@ejemplo.example", "password": testPassword}); code != 201 {
			t.Errorf("another /64: %d", code)
		}
		if code := post(one, "/authn/register", member{"email": "v@ejemplo.example", "password": "short"}); code != 422 {
			t.Errorf("what won't do isn't counted: %d", code)
		}
		a.forward(time.Hour)
		steps("register after an hour", []int{201}, register)

		m := 0
		steps("login", []int{401, 401, 401, 401, 429}, func() int {
			m++
			return post(one, "/authn/token", member{"email": fmt.Sprint("u", m, "@ejemplo.example"), "password": "not my password"})
		})
		if code := post(two, "/authn/token", member{"email": "u1@ejemplo.example", "password": testPassword}); code != 200 {
			t.Errorf("another network: %d", code)
		}
		a.forward(10 * time.Minute)
		steps("login after the window", []int{200}, func() int {
			return post(one, "/authn/token", member{"email": "u1@ejemplo.example", "password": testPassword})
		})

		reset := func(address, email string) func() int {
			return func() int { return post(address, "/authn/password/reset", member{"email": email}) }
		}
		steps("reset of one", []int{202, 202, 429}, reset(one, "u1@ejemplo.example"))
		steps("reset of nobody", []int{202, 202, 429}, reset(two, "nadie@ejemplo.example"))
		steps("reset of another", []int{202, 429}, reset(one, "u2@ejemplo.example"))

		refresh := func(address string) func() int {
			return func() int { return post(address, "/authn/token/refresh", member{"refresh": "udr_made_up"}) }
		}
		steps("refresh", []int{401, 401, 401, 429}, refresh(one))
		steps("refresh elsewhere", []int{401}, refresh(two))
		if code := post(one, "/authn/password/reset/confirm", member{"token": "udl_made_up", "new_password": otherPassword}); code != 429 {
			t.Errorf("a link from there: %d", code)
		}
		oauth := func() int { // another endpoint, the same count
			r := httptest.NewRequest("POST", "/oauth2/token", strings.NewReader("grant_type=refresh_token&refresh_token=udr_made_up"))
			r.RemoteAddr = one
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			w := httptest.NewRecorder()
			a.ServeHTTP(w, r)
			if (w.Code == 429) != (w.Header().Get("Retry-After") != "") {
				t.Errorf("%d with %v", w.Code, w.Header())
			}
			return w.Code
		}
		steps("refresh by OAuth", []int{429}, oauth)
		a.forward(10 * time.Minute)
		steps("refresh by OAuth after the window", []int{400, 400, 400, 429}, oauth)
		a.forward(10 * time.Minute)
		steps("refresh after the window", []int{401}, refresh(one))

		a.forward(24 * time.Hour)
		if err := a.accounts.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		var rows int
		if err := db.Write.Get(&rows, "SELECT count(*) FROM throttle"); err != nil || rows != 0 {
			t.Errorf("%d counts are left (%v)", rows, err)
		}
	})
}

// Logins and refreshes that succeed write no count, and replicas share those
// that there are.
func TestCountsAreSharedAndCheap(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		limits := Limits{LoginAccount: Limit{5, time.Hour}, LoginDevice: Limit{4, time.Hour}, LoginNetwork: Limit{100, time.Hour}, TokenNetwork: Limit{3, time.Hour}}
		a, b := newThrottled(t, db, limits), newThrottled(t, db, limits)
		a.register("ana@ejemplo.example")
		for range 3 {
			_, refresh := a.login("ana@ejemplo.example")
			a.must(200, "POST", "/authn/token/refresh", "", member{"refresh": refresh})
		}
		var rows int
		if err := db.Write.Get(&rows, "SELECT count(*) FROM throttle"); err != nil || rows != 0 {
			t.Errorf("%d counts were written by successes (%v)", rows, err)
		}
		for i := range 4 {
			server := []*mailing{a, b}[i%2]
			server.wantTry(401, "203.0.113.1", "ana@ejemplo.example", "not my password")
		}
		a.wantTry(429, "203.0.113.1", "ana@ejemplo.example", "not my password")
		b.wantTry(429, "203.0.113.1", "ana@ejemplo.example", "not my password")
		var texts []string
		if err := db.Write.Select(&texts, "SELECT key FROM throttle"); err != nil || len(texts) != 3 {
			t.Fatalf("%v %v", texts, err)
		}
		if all := strings.Join(texts, " "); strings.Contains(all, "ana") || strings.Contains(all, "203.0.113") {
			t.Errorf("an address is kept: %s", all)
		}
	})
}

// With the default limits a client that behaves meets none.
func TestDefaultLimitsLetClientsBe(t *testing.T) {
	a := newSQLiteAuthn(t)
	a.register("ana@ejemplo.example")
	for range 60 {
		a.login("ana@ejemplo.example")
		a.must(401, "POST", "/authn/token/refresh", "", member{"refresh": "x"})
	}
	for range 9 {
		a.must(401, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": "not my password"})
	}
	a.login("ana@ejemplo.example")
}

func TestParseLimits(t *testing.T) {
	got, err := ParseLimits([]byte(`{"login_device":{"max":3,"window":"15m"},"reset_network":null}`))
	want := DefaultLimits()
	want.LoginDevice, want.ResetNetwork = Limit{3, 15 * time.Minute}, Limit{}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := ParseLimits([]byte(`{}`)); err != nil || got != DefaultLimits() {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{
		"", "null", "[]", `{"login":{"max":3,"window":"1h"}}`, `{"login_device":3}`, `{"login_device":{"max":0,"window":"1h"}}`,
		`{"login_device":{"max":3}}`, `{"login_device":{"max":3,"window":"1ms"}}`, `{"login_device":{"max":3,"window":"1h","x":1}}`, `{"login_device":{"max":1e9,"window":"1h"}}`,
	} {
		if _, err := ParseLimits([]byte(text)); !errors.Is(err, ErrLimits) {
			t.Errorf("%s: %v, want ErrLimits", text, err)
		}
	}
}

func FuzzParseLimits(f *testing.F) {
	f.Add([]byte(`{"login_device":{"max":3,"window":"15m"},"reset_network":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		limits, err := ParseLimits(text)
		if err != nil {
			return
		}
		for name, l := range limits.byName() {
			if *l != (Limit{}) && (l.Max < 1 || l.Window < time.Second) {
				t.Errorf("%s: %s is %+v", text, name, *l)
			}
		}
	})
}

// The table in the documents is the defaults.
func TestLimitsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	defaults := DefaultLimits()
	names := defaults.byName()
	rows := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (\\d+) \\| (\\w+) \\|").FindAllStringSubmatch(string(page), -1)
	found := 0
	for _, row := range rows {
		limit, ok := names[row[1]]
		if !ok {
			continue
		}
		found++
		window, err := time.ParseDuration(row[3])
		if err != nil || row[2] != strconv.Itoa(limit.Max) || window != limit.Window {
			t.Errorf("%s is %+v, and documented as %s in %s", row[1], *limit, row[2], row[3])
		}
	}
	if found != len(names) {
		t.Errorf("%d of %d limits are documented", found, len(names))
	}
}

// TestForLogin: what a login reads before it hashes. For an address that nobody
// has it is another user's hash, whatever the address; what is known of that
// user's networks counts for nobody else.
func TestForLogin(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		from := peer{Network: netip.MustParsePrefix("192.0.2.7/32")}
		limit := a.accounts.limit
		if user, attempt, err := limit.try(t.Context(), "a", from); err != nil || user.EmailKey != "" || attempt.known {
			t.Errorf("without users: %v, %v, %v", user, attempt, err)
		}
		for _, email := range []string{"bea@ejemplo.example", "dora@ejemplo.example"} {
			if _, err := a.accounts.Create(t.Context(), NewUser{Email: email, Password: testPassword}); err != nil {
				t.Fatal(err)
			}
			if _, err := a.accounts.login(t.Context(), email, testPassword, "", clientID, InmueblesAudience, nil, from); err != nil {
				t.Fatal(err)
			}
		}
		for _, tc := range []struct {
			email, network, user string
			known                bool
		}{
			{"bea@ejemplo.example", "192.0.2.7/32", "bea@ejemplo.example", true},
			{"bea@ejemplo.example", "192.0.2.8/32", "bea@ejemplo.example", false},
			{"ana@ejemplo.example", "192.0.2.7/32", "bea@ejemplo.example", false},
			{"carla@ejemplo.example", "192.0.2.7/32", "dora@ejemplo.example", false},
			{"zoe@ejemplo.example", "192.0.2.7/32", "bea@ejemplo.example", false}, // after the last comes the first
		} {
			user, attempt, err := limit.try(t.Context(), tc.email, peer{Network: netip.MustParsePrefix(tc.network)})
			if err != nil || user.EmailKey != tc.user || attempt.known != tc.known || user.PasswordHash == "" {
				t.Errorf("%s from %s: %s, known %v, %v; want %s, %v", tc.email, tc.network, user.EmailKey, attempt.known, err, tc.user, tc.known)
			}
		}
	})
}
