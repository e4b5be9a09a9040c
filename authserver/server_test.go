package authserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/test/engines"
)

const testIssuer = "http://127.0.0.1:8000"

// onBothEngines runs a test on SQLite and on PostgreSQL.
func onBothEngines(t *testing.T, test func(*testing.T, *database.SQL)) {
	for _, e := range []struct {
		name string
		open func(testing.TB) *database.SQL
		set  migrations.Set
	}{
		{"SQLite", engines.SQLite, migrations.AuthnSQLite},
		{"PostgreSQL", engines.Postgres, migrations.AuthnPostgres},
	} {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			db := e.open(t)
			if _, err := migrations.Up(t.Context(), db.Write.DB, e.set); err != nil {
				t.Fatal(err)
			}
			test(t, db)
		})
	}
}

// clock is a clock that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }

func (c *clock) Add(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.now = c.now.Add(d) }

// testSealer is one for all tests, so that a second server on the same database
// can open the ring that the first one made.
var testSealer = sync.OnceValues(func() (keys.Sealer, error) { return keys.NewSealer(keys.GenerateSealingKey()) })

// authn is a server under test.
type authn struct {
	*Server
	t     testing.TB
	clock *clock
	log   *bytes.Buffer
	store *Store
}

func newAuthn(t testing.TB, db *database.SQL, change ...func(*Options)) *authn {
	t.Helper()
	a := &authn{t: t, clock: &clock{now: time.Now()}, log: &bytes.Buffer{}}
	sealer, err := testSealer()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewJSONHandler(a.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	keeper, err := keys.NewKeeper(struct{ keys.Store }{keys.NewSQLStore(db.Write)}, sealer, keys.DefaultPolicy(), // without its clock: time is the test's
		keys.Options{Now: a.clock.Now, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := keeper.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.store, err = NewStore(t.Context(), db.Write, db.Read)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.store.Close() })
	o := Options{
		Issuer: testIssuer, Keys: keeper, Log: log, Now: a.clock.Now, Version: "test", Backdate: DefaultBackdate,
		Accounts: NewAccounts(a.store, AccountsOptions{Now: a.clock.Now, Sealer: sealer}),
	}
	for _, c := range change {
		c(&o)
	}
	a.Server, err = New(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// forward moves the clock, and lets the keeper see it.
func (a *authn) forward(d time.Duration) {
	a.t.Helper()
	a.clock.Add(d)
	if err := a.issuer.keys.Tick(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
}

// request makes a request; body is sent as JSON unless it is nil, or as it is
// when it is a string.
func (a *authn) request(method, path, bearer string, body any) *http.Request {
	a.t.Helper()
	var reader io.Reader
	if text, ok := body.(string); ok {
		reader = strings.NewReader(text)
	} else if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			a.t.Fatal(err)
		}
		reader = bytes.NewReader(raw)
	}
	r := httptest.NewRequestWithContext(a.t.Context(), method, path, reader)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	return r
}

// call sends a request.
func (a *authn) call(method, path, bearer string, body any) *httptest.ResponseRecorder {
	a.t.Helper()
	w := httptest.NewRecorder()
	a.ServeHTTP(w, a.request(method, path, bearer, body))
	return w
}

type member = map[string]any

// must is call, with the wanted status and the body as a map.
func (a *authn) must(status int, method, path, bearer string, body any) member {
	a.t.Helper()
	w := a.call(method, path, bearer, body)
	if w.Code != status {
		a.t.Fatalf("%s %s: %d, want %d: %s", method, path, w.Code, status, w.Body)
	}
	var m member
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil {
			a.t.Fatalf("%s %s: %v: %s", method, path, err, w.Body)
		}
	}
	return m
}

const testPassword = "una frase larga y mía"

func (a *authn) register(email string) member {
	a.t.Helper()
	return a.must(201, "POST", "/authn/register", "", member{
		"email": email, "password": testPassword, "first_name": "Ana", "last_name": "García", "company": "Ejemplo",
	})
}

func (a *authn) login(email string) (access, refresh string) {
	a.t.Helper()
	m := a.must(200, "POST", "/authn/token", "", member{"email": email, "password": testPassword})
	return m["access"].(string), m["refresh"].(string)
}

func TestFlow(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		u := a.register("Ana@Ejemplo.example")
		if u["id"] == "" || u["email"] != "Ana@Ejemplo.example" || u["password"] != nil || fmt.Sprint(u["roles"]) != "[user]" {
			t.Errorf("registered %v", u)
		}
		if id := fmt.Sprint(u["id"]); len(id) != 36 || id[14] != '7' {
			t.Errorf("id %s is not a UUIDv7", id)
		}

		m := a.must(200, "POST", "/authn/token/", "", member{"username": "ANA@ejemplo.example", "password": testPassword})
		if m["access"] != m["access_token"] || m["refresh"] != m["refresh_token"] || m["token_type"] != "Bearer" || m["expires_in"] != 300.0 ||
			m["scope"] != "inmuebles:read inmuebles:write" {
			t.Errorf("tokens %v", m)
		}
		access, refresh := m["access"].(string), m["refresh"].(string)
		c, header := a.claims(access)
		if header.Algorithm != "EdDSA" || header.ExtraHeaders["typ"] != "at+jwt" {
			t.Errorf("header %+v", header)
		}
		now := a.clock.Now().Unix()
		if c.Issuer != testIssuer || c.Subject != u["id"] || c.UserID != u["id"] || !c.Audience.Has("inmuebles") || c.ClientID != "urbandata" ||
			c.Expiry != now+300 || c.IssuedAt != now-5 || c.NotBefore != 0 || c.ID == "" || c.Use != "access" || c.Roles[0] != token.RoleUser {
			t.Errorf("claims %+v", c)
		}

		if me := a.must(200, "GET", "/authn/me", access, nil); me["id"] != u["id"] {
			t.Errorf("me %v", me)
		}
		next := a.must(200, "POST", "/authn/token/refresh", "", member{"refresh": refresh})
		if next["refresh"] == refresh || next["access"] == access {
			t.Error("refresh gives nothing new")
		}
		newAccess, _ := next["access"].(string)
		a.must(204, "POST", "/authn/sign_out", newAccess, nil)
		a.must(401, "POST", "/authn/token/refresh", "", member{"refresh": next["refresh"]})
		a.must(401, "GET", "/authn/me", newAccess, nil)

		if log := a.log.String(); strings.Contains(log, testPassword) || strings.Contains(strings.ToLower(log), "ejemplo.example") ||
			strings.Contains(log, refresh) || strings.Contains(log, access) {
			t.Errorf("the log holds a secret or an address:\n%s", log)
		}
	})
}

// claims checks a token with go-jose against the published key set, as a third
// party would.
func (a *authn) claims(text string) (token.Claims, jose.Header) {
	a.t.Helper()
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(a.call("GET", "/.well-known/jwks.json", "", nil).Body.Bytes(), &set); err != nil {
		a.t.Fatal(err)
	}
	jws, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.EdDSA, jose.RS256})
	if err != nil {
		a.t.Fatal(err)
	}
	payload, err := jws.Verify(set)
	if err != nil {
		a.t.Fatal(err)
	}
	var c token.Claims
	if err := json.Unmarshal(payload, &c); err != nil {
		a.t.Fatal(err)
	}
	return c, jws.Signatures[0].Protected
}

func TestRefreshReuseAndGrace(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		a.register("ana@ejemplo.example")
		_, first := a.login("ana@ejemplo.example")
		refresh := func(status int, text string) string {
			t.Helper()
			m := a.must(status, "POST", "/authn/token/refresh", "", member{"refresh": text})
			s, _ := m["refresh"].(string)
			return s
		}
		second := refresh(200, first)
		if again := refresh(200, first); again != second {
			t.Error("a lost answer is not answered with the current token")
		}
		third := refresh(200, second)
		if again := refresh(200, first); again != third {
			t.Error("two rotations later, the first token is not answered with the current one")
		}
		a.forward(time.Hour)
		fourth := refresh(200, third)
		a.forward(DefaultSessionLimits().Grace + time.Millisecond)
		refresh(401, third)  // after its grace: reuse
		refresh(401, fourth) // so the family has ended

		_, other := a.login("ana@ejemplo.example") // other sessions have not
		refresh(200, other)

		_, idle := a.login("ana@ejemplo.example")
		a.forward(DefaultSessionLimits().Idle)
		refresh(401, idle)
	})
}

// A hundred at once: each is answered, all with the same current token, and
// the session lives on.
func TestConcurrentRefresh(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		a.register("ana@ejemplo.example")
		_, shared := a.login("ana@ejemplo.example")
		for round := range 3 {
			answers := make([]string, 100)
			var wg sync.WaitGroup
			for i := range answers {
				wg.Go(func() {
					w := a.call("POST", "/authn/token/refresh", "", member{"refresh": shared})
					var m struct{ Refresh string }
					_ = json.Unmarshal(w.Body.Bytes(), &m)
					answers[i] = m.Refresh
				})
			}
			wg.Wait()
			for i, got := range answers {
				if got == "" || got != answers[0] {
					t.Fatalf("round %d: answer %d is %q, the first is %q", round, i, got, answers[0])
				}
			}
			shared = answers[0]
		}
	})
}

// Many workers that share one token store and refresh as fast as they can: a
// worker may be several rotations behind, and nobody is logged out.
func TestSharedTokenStore(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		a.register("ana@ejemplo.example")
		_, first := a.login("ana@ejemplo.example")
		var mu sync.Mutex
		shared := first
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 10 {
					mu.Lock()
					mine := shared
					mu.Unlock()
					w := a.call("POST", "/authn/token/refresh", "", member{"refresh": mine})
					var m struct{ Refresh string }
					if _ = json.Unmarshal(w.Body.Bytes(), &m); w.Code != 200 {
						t.Errorf("logged out: %d %s", w.Code, w.Body)
						return
					}
					mu.Lock()
					shared = m.Refresh
					mu.Unlock()
				}
			})
		}
		wg.Wait()
	})
}

func TestConcurrentRegister(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		codes := make([]int, 8)
		var wg sync.WaitGroup
		for i := range codes {
			wg.Go(func() {
				email := "ana@ejemplo.example"
				if i%2 == 0 {
					email = "ANA@Ejemplo.Example"
				}
				codes[i] = a.call("POST", "/authn/register", "", member{"email": email, "password": testPassword}).Code
			})
		}
		wg.Wait()
		count := map[int]int{}
		for _, c := range codes {
			count[c]++
		}
		if count[201] != 1 || count[409] != 7 {
			t.Errorf("statuses %v, want one 201 and seven 409", count)
		}
	})
}

func TestOperator(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		ctx := t.Context()
		if _, err := a.accounts.Create(ctx, NewUser{Email: "jefa@ejemplo.example", Password: testPassword, Roles: []token.Role{token.RoleAdmin}}); err != nil {
			t.Fatal(err)
		}
		a.register("ana@ejemplo.example")
		access, _ := a.login("jefa@ejemplo.example")
		if c, _ := a.claims(access); !c.Scope.Has(token.ScopeInmueblesAdmin) {
			t.Errorf("an admin's scope is %v", c.Scope)
		}
		users, err := a.accounts.List(ctx, "", 10)
		if err != nil || len(users) != 2 || users[0].Email != "ana@ejemplo.example" {
			t.Errorf("list: %v %v", users, err)
		}
		if users, _ = a.accounts.List(ctx, users[0].Email, 10); len(users) != 1 {
			t.Errorf("second page: %v", users)
		}
		anaAccess, refresh := a.login("ana@ejemplo.example")
		if err := a.accounts.Disable(ctx, "ANA@ejemplo.example"); err != nil {
			t.Fatal(err)
		}
		a.must(401, "POST", "/authn/token/refresh", "", member{"refresh": refresh})
		a.must(401, "GET", "/authn/me", anaAccess, nil)
		wrong := a.call("POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": "wrong wrong"})
		disabled := a.call("POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": testPassword})
		unknown := a.call("POST", "/authn/token", "", member{"email": "nadie@ejemplo.example", "password": testPassword})
		if disabled.Code != 401 || disabled.Body.String() != wrong.Body.String() || wrong.Body.String() != unknown.Body.String() {
			t.Errorf("three kinds of refusal can be told apart:\n%s\n%s\n%s", wrong.Body, disabled.Body, unknown.Body)
		}
		if err := a.accounts.SetPassword(ctx, "ana@ejemplo.example", "otra frase larga"); err != nil {
			t.Fatal(err)
		}
		a.must(200, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": "otra frase larga"})
		for _, err := range []error{a.accounts.Disable(ctx, "x@y.example"), a.accounts.SetPassword(ctx, "x@y.example", testPassword)} {
			if err != ErrNoUser { //nolint:errorlint // returned as it is
				t.Errorf("%v, want ErrNoUser", err)
			}
		}
	})
}

func TestAudiences(t *testing.T) {
	db := engines.SQLite(t)
	if _, err := migrations.Up(t.Context(), db.Write.DB, migrations.AuthnSQLite); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		override jose.SignatureAlgorithm
		audience string
		alg, typ string
	}{
		{"", "", "EdDSA", "at+jwt"},
		{"", "inmuebles", "EdDSA", "at+jwt"},
		{"", "somebody", "RS256", "at+jwt"},
		{"", "spring", "RS256", "JWT"},
		{"", "modern", "EdDSA", "at+jwt"},
		{jose.RS256, "inmuebles", "RS256", "at+jwt"},
		{jose.EdDSA, "somebody", "EdDSA", "at+jwt"},
	} {
		a := newAuthn(t, db, func(o *Options) {
			o.SigningAlg = tc.override
			o.Audiences = map[string]Audience{"spring": {Alg: jose.RS256, Type: token.TypeJWT}, "modern": {Alg: jose.EdDSA, Type: token.TypeAccess}}
		})
		if w := a.call("POST", "/authn/register", "", member{"email": "ana@ejemplo.example", "password": testPassword}); w.Code != 201 && w.Code != 409 {
			t.Fatal(w.Body)
		}
		m := a.must(200, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": testPassword, "audience": tc.audience})
		c, h := a.claims(m["access"].(string))
		want := tc.audience
		if want == "" {
			want = "inmuebles"
		}
		if h.Algorithm != tc.alg || h.ExtraHeaders["typ"] != tc.typ || len(c.Audience) != 1 || c.Audience[0] != want {
			t.Errorf("%+v: header %+v, aud %v", tc, h, c.Audience)
		}
		a.must(200, "GET", "/authn/me", m["access"].(string), nil)
		next := a.must(200, "POST", "/authn/token/refresh", "", member{"refresh_token": m["refresh"]})
		if c, _ := a.claims(next["access"].(string)); !c.Audience.Has(want) {
			t.Errorf("%+v: after a refresh aud is %v", tc, c.Audience)
		}
	}
}

// TestNullCountsAsAbsent: and the document says so.
func TestNullCountsAsAbsent(t *testing.T) {
	a := newAuthn(t, migrated(t))
	a.must(201, "POST", "/authn/register", "", member{
		"email": "ana@ejemplo.example", "password": testPassword, "first_name": nil, "last_name": nil, "company": nil, "language": nil,
	})
	m := a.must(200, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "username": nil, "password": testPassword, "audience": nil})
	a.must(200, "POST", "/authn/token/refresh", "", member{"refresh": m["refresh"], "refresh_token": nil})
	a.must(422, "POST", "/authn/register", "", member{"email": nil, "password": testPassword}) // required

	var document struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct{ Type any }
			}
		}
	}
	w := a.call("GET", "/openapi.json", "", nil)
	if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"email": "string", "password": "string", "first_name": "[string null]", "language": "[string null]"} {
		if got := fmt.Sprint(document.Components.Schemas["RegisterInputBody"].Properties[name].Type); got != want {
			t.Errorf("%s is of type %s in the document, want %s", name, got, want)
		}
	}
}
