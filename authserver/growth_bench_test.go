package authserver

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"github.com/urbandata/urbandata/pkg/token"
)

var benchUsers = flag.Int("users", 100_000, "users and sessions of the larger database of BenchmarkGrowth")

// fewUsers is the size of the smaller one.
const fewUsers = 1000

// grown is a server on a PostgreSQL that holds n users, each with a session, a
// login in the audit and a client of the same number. User i, from 1 on, has
// the id, the address and the refresh token that grownID, grownEmail and
// grownToken tell.
type grown struct {
	*Server
	b     *testing.B
	n     int
	rand  *mathrand.Rand
	now   time.Time            // when the sessions were stored
	shown map[int]refreshToken // of sessions that have been refreshed
	extra int                  // users that were registered since

	basic string // Authorization of a client
	root  grant  // of an administrator's login
}

func newGrown(b *testing.B, n int) *grown {
	b.Helper()
	s, _ := busy(b)
	g := &grown{Server: s, b: b, n: n, rand: mathrand.New(mathrand.NewPCG(1, 2)), now: time.Now(), shown: map[int]refreshToken{}}
	hash, err := s.accounts.hasher.hash(b.Context(), testPassword)
	if err != nil {
		b.Fatal(err)
	}
	fillPostgres(b, s.accounts.store.write, n, hash, g.now)
	client, secret, err := s.clients.Create(b.Context(), NewClient{Name: "bench", Scope: token.Scope{token.ScopeInmueblesRead}})
	if err != nil {
		b.Fatal(err)
	}
	r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/", nil)
	r.SetBasicAuth(client.ID, secret)
	g.basic = r.Header.Get("Authorization")
	const root = "root@ejemplo.example"
	if _, err := s.accounts.Create(b.Context(), NewUser{Email: root, Password: testPassword, Roles: []token.Role{token.RoleAdmin}}); err != nil {
		b.Fatal(err)
	}
	login, err := s.accounts.login(b.Context(), root, testPassword, "", clientID, AdminAudience, nil, peer{})
	if err != nil {
		b.Fatal(err)
	}
	g.root = *login
	for range 2 { // the first publishes and deletes what is there
		if err := s.feed.step(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	return g
}

// grownID is an id like those that are given: a UUIDv7 of one second after the
// other, or so.
func grownID(kind string, i int) uuid.UUID {
	h := grownHex(kind, i)
	return uuid.MustParse(fmt.Sprintf("%012x7%s8%s", 1_700_000_000_000+1000*i, h[:3], h[3:18]))
}

func grownHex(kind string, i int) string {
	sum := md5.Sum(fmt.Append(nil, kind, i))
	return hex.EncodeToString(sum[:])
}

// grownEmail is in another order than the ids are.
func grownEmail(i int) string {
	return fmt.Sprintf("%s.%d@ejemplo.example", grownHex("email", i)[:10], i)
}

// grownToken is the first refresh token of the session of user i.
func grownToken(i int) refreshToken {
	t := refreshToken{session: grownID("session", i), secret: sha256.Sum256(fmt.Append(nil, "secret", i))}
	mark := sha256.Sum256(fmt.Append(nil, "mark", i))
	return t.marked(mark[:])
}

// fillPostgres stores what the functions above tell. A session was last
// refreshed at some time of the last six days, from the network that the
// benchmark's requests come from, too: from another one, a refresh would change
// an index.
func fillPostgres(b testing.TB, db *sqlx.DB, n int, hash string, now time.Time) {
	b.Helper()
	id := func(kind string) string {
		h := "md5('" + kind + "' || i)"
		return "(lpad(to_hex(1700000000000 + 1000::bigint * i), 12, '0') || '7' || substr(" + h + ", 1, 3) || '8' || substr(" + h + ", 4, 15))::uuid"
	}
	bytes := func(kind string) string { return "sha256(convert_to('" + kind + "' || i, 'UTF8'))" }
	run := func(statement string, args ...any) {
		b.Helper()
		if _, err := db.ExecContext(b.Context(), statement, args...); err != nil {
			b.Fatal(err)
		}
	}
	run(`INSERT INTO users (id, email, email_key, password_hash, first_name, last_name, company, roles, created_at, updated_at)
		SELECT `+id("user")+`, email, email, $2, 'Ana María', 'García Pérez', 'Ejemplo S. L.', 'user', 1, 1
		FROM (SELECT i, left(md5('email' || i), 10) || '.' || i || '@ejemplo.example' AS email FROM generate_series(1, $1::int) i) made`, n, hash)
	run(`INSERT INTO sessions (id, user_id, client_id, audience, mark_key, current_hash, history, created_at, rotated_at,
			idle_expires_at, expires_at, user_agent, network, amr)
		SELECT `+id("session")+`, `+id("user")+`, 'urbandata', 'inmuebles', `+bytes("mark")+`, sha256(`+bytes("secret")+`), '',
			refreshed, refreshed, refreshed + 7 * 86400000, refreshed + 90::bigint * 86400000,
			'Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0', '192.0.2.1', 'pwd'
		FROM (SELECT i, $2::bigint - (random() * 6 * 86400000)::bigint AS refreshed FROM generate_series(1, $1::int) i) made`, n, now.UnixMilli())
	run(`INSERT INTO audit_entries (log, seq, at, actor, action, subject, reason, before_state, after_state, hash, origin_hash)
		SELECT 'accounts', i, $2::bigint - 1000 * ($1::int - i), 'user ' || `+id("user")+`, 'login', 'user ' || `+id("user")+`, '', '',
			'{"session":"' || `+id("session")+` || '","client":"urbandata","audience":"inmuebles","amr":"pwd"}', `+bytes("a")+`, `+bytes("b")+`
		FROM generate_series(1, $1::int) i`, n, now.UnixMilli())
	run(`INSERT INTO audit_origins (log, seq, at, origin, origin_of, origin_salt)
		SELECT log, seq, at, '{"network":"198.51.100.7","user_agent":"Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"}',
			substr(actor, 6), substr(hash, 1, 16) FROM audit_entries`)
	run(`INSERT INTO audit_heads (log, seq, hash) SELECT log, seq, hash FROM audit_entries ORDER BY seq DESC LIMIT 1`)
	run(`INSERT INTO clients (id, name, auth_method, secret_hash, grants, scopes, audiences, created_at, updated_at)
		SELECT `+id("client")+`, 'made', 'client_secret', `+bytes("client")+`, 'client_credentials', 'inmuebles:read', 'inmuebles', 1, 1
		FROM generate_series(1, $1::int) i`, n)
	run("VACUUM ANALYZE")
}

// any is one of the users.
func (g *grown) any() int { return 1 + g.rand.IntN(g.n) }

// call sends a request, which must be answered as wanted, and returns the answer.
func (g *grown) call(want int, method, path, authorization, contentType string, body io.Reader) []byte {
	g.b.Helper()
	r := httptest.NewRequestWithContext(g.b.Context(), method, path, body)
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	w := httptest.NewRecorder()
	if g.ServeHTTP(w, r); w.Code != want {
		g.b.Fatalf("%s %s with %d users: %d, want %d: %s", method, path, g.n, w.Code, want, w.Body)
	}
	return w.Body.Bytes()
}

// get sends a request with an access token.
func (g *grown) get(path, access string) {
	g.call(200, http.MethodGet, path, "Bearer "+access, "", nil)
}

func (g *grown) form(path string, form url.Values) []byte {
	return g.call(200, http.MethodPost, path, g.basic, formType, strings.NewReader(form.Encode()))
}

func (g *grown) json(path string, body member) (answer member) {
	text, err := json.Marshal(body)
	if err != nil {
		g.b.Fatal(err)
	}
	want := map[string]int{"/authn/register": 201, "/authn/sign_out": 204}[path]
	if want == 0 {
		want = 200
	}
	text = g.call(want, http.MethodPost, path, "", "application/json", bytes.NewReader(text))
	if len(text) > 0 {
		if err := json.Unmarshal(text, &answer); err != nil {
			g.b.Fatal(err)
		}
	}
	return answer
}

// refresh shows the current token of a session.
func (g *grown) refresh(i int) {
	now, ok := g.shown[i]
	if !ok {
		now = grownToken(i)
	}
	in := g.json("/authn/token/refresh", member{"refresh": now.String()})
	text, _ := in["refresh"].(string)
	next, err := parseRefreshToken(text)
	if err != nil {
		g.b.Fatal(err)
	}
	g.shown[i] = next
}

// token is an access token of a grant.
func (g *grown) token(of *grant) string {
	text, _, _, err := g.issuer.issue(g.b.Context(), of)
	if err != nil {
		g.b.Fatal(err)
	}
	return text
}

// access is an access token of a user's session.
func (g *grown) access(i int) string {
	return g.token(&grant{
		SessionID: grownID("session", i), UserID: grownID("user", i).String(), ClientID: clientID, Audience: InmueblesAudience,
		Roles: []token.Role{token.RoleUser}, AuthTime: time.Now(), AMR: "pwd",
	})
}

// administrator is an access token of the administrator's session.
func (g *grown) administrator(int) string { return g.token(&g.root) }

// BenchmarkGrowth measures what a request costs with many users, and with many
// keys, against the same with few.
func BenchmarkGrowth(b *testing.B) {
	b.Run("users", growthOfUsers)
	b.Run("keys", growthOfKeys)
}

// growthOfUsers: what a request or a step in the background costs on a
// PostgreSQL with -users users and sessions, against the same with 1,000.
// Passwords are hashed as cheaply as can be: the hash is the same for all, and
// would hide what grows. Each time another user is taken, at random, so what
// isn't in the database's memory shows.
func growthOfUsers(b *testing.B) {
	dear := hashParams
	hashParams = argonParams{memory: 8, time: 1, threads: 1}
	b.Cleanup(func() { hashParams = dear })
	began := time.Now()
	few, many := newGrown(b, fewUsers), newGrown(b, *benchUsers)
	b.Logf("made %d and %d users in %v", few.n, many.n, time.Since(began))

	for _, tc := range []struct {
		name    string
		prepare func(g *grown, i int) string // beforehand; what it returns goes to do
		do      func(g *grown, i int, prepared string)
	}{
		{"login", nil, func(g *grown, i int, _ string) {
			g.json("/authn/token", member{"email": grownEmail(i), "password": testPassword})
		}},
		{"refresh", nil, func(g *grown, i int, _ string) { g.refresh(i) }},
		{"client_credentials", nil, func(g *grown, i int, _ string) {
			g.form(tokenPath, url.Values{"grant_type": {GrantClientCredentials}})
		}},
		{"introspect", (*grown).access, func(g *grown, _ int, access string) {
			if text := g.form(introspectPath, url.Values{"token": {access}}); !bytes.Contains(text, []byte(`"active":true`)) {
				g.b.Fatalf("introspect: %s", text)
			}
		}},
		{"sign-out", func(g *grown, i int) string { return startSession(g.b, g.accounts, grownEmail(i)).String() }, func(g *grown, _ int, refresh string) {
			g.json("/authn/sign_out", member{"refresh": refresh})
		}},
		{"register", nil, func(g *grown, i int, _ string) {
			g.extra++
			g.json("/authn/register", member{
				"email": fmt.Sprintf("new.%d@ejemplo.example", g.extra), "password": testPassword, "first_name": "Ana", "last_name": "García", "company": "",
			})
		}},
		{"me", (*grown).access, func(g *grown, _ int, access string) { g.get("/authn/me", access) }},
		{"sessions", (*grown).access, func(g *grown, _ int, access string) { g.get("/authn/sessions", access) }},
		{"admin, users", (*grown).administrator, func(g *grown, _ int, access string) { g.get("/admin/users?limit=50", access) }},
		{"admin, users by address", (*grown).administrator, func(g *grown, i int, access string) {
			g.get("/admin/users?limit=50&email="+grownEmail(i), access)
		}},
		{"admin, audit of a user", (*grown).administrator, func(g *grown, i int, access string) {
			g.get("/admin/audit?limit=50&subject="+url.QueryEscape(userName(grownID("user", i).String())), access)
		}},
		{"audit, chain one", func(g *grown, i int) string { return startSession(g.b, g.accounts, grownEmail(i)).String() }, func(g *grown, _ int, _ string) {
			if err := g.accounts.SettleAudit(g.b.Context()); err != nil {
				g.b.Fatal(err)
			}
		}},
		{"purge, idle", nil, func(g *grown, _ int, _ string) {
			if err := g.accounts.Sweep(g.b.Context()); err != nil {
				g.b.Fatal(err)
			}
		}},
		{"revocations, idle", nil, func(g *grown, _ int, _ string) {
			if err := g.feed.step(g.b.Context()); err != nil {
				g.b.Fatal(err)
			}
		}},
	} {
		b.Run(tc.name, func(b *testing.B) {
			took := map[*grown][]time.Duration{}
			for _, g := range []*grown{few, many} { // statements, plans
				g.b = b
				if err := g.accounts.SettleAudit(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				for _, g := range []*grown{few, many} {
					i, prepared := g.any(), ""
					if tc.prepare != nil {
						prepared = tc.prepare(g, i)
					}
					began := time.Now()
					tc.do(g, i, prepared)
					took[g] = append(took[g], time.Since(began))
				}
			}
			small, large := medianOf(took[few]), medianOf(took[many])
			b.ReportMetric(0, "ns/op") // of two requests
			b.ReportMetric(float64(large)/float64(small), "x/1000")
			b.ReportMetric(float64(small)/1e6, "ms-1000")
			b.ReportMetric(float64(large)/1e6, "ms-many")
		})
	}
}

// growthOfKeys: what a request costs with 40 keys in the set, against
// the four that there are at first: for each of two algorithms one that signs
// and one that stands by. The answer grows with the keys, so of it the bytes
// are printed, too.
func growthOfKeys(b *testing.B) {
	few, many := benchmarked(b), benchmarked(b)
	for len(many.issuer.keys.Ring().Keys) < 40 {
		if err := many.issuer.keys.Tick(b.Context()); err != nil {
			b.Fatal(err)
		}
		if many.issuer.keys.Ring().Standby(jose.EdDSA) == nil {
			continue
		}
		if err := many.issuer.keys.Rotate(b.Context(), jose.EdDSA, true); err != nil {
			b.Fatal(err)
		}
	}
	g := &grant{UserID: uuid.NewString(), SessionID: uuid.New(), ClientID: clientID, Audience: InmueblesAudience, Roles: []token.Role{token.RoleUser}}
	tokens := map[*Server]string{}
	etags := map[*Server]string{}
	answer := map[*Server]int{}
	issue := func(s *Server) string {
		text, _, _, err := s.issuer.issue(b.Context(), g)
		if err != nil {
			b.Fatal(err)
		}
		return text
	}
	get := func(s *Server, etag string, want int) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, jwksPath, http.NoBody)
		if etag != "" {
			r.Header.Set("If-None-Match", etag)
		}
		w := httptest.NewRecorder()
		if s.ServeHTTP(w, r); w.Code != want {
			b.Fatalf("the key set: %d, want %d", w.Code, want)
		}
		return w
	}
	for _, s := range []*Server{few, many} {
		w := get(s, "", http.StatusOK)
		tokens[s], etags[s], answer[s] = issue(s), w.Header().Get("Etag"), w.Body.Len()
	}
	for _, tc := range []struct {
		name string
		do   func(*Server)
	}{
		{"issue", func(s *Server) { issue(s) }},
		{"verify", func(s *Server) {
			if _, err := s.issuer.read(tokens[s]); err != nil {
				b.Fatal(err)
			}
		}},
		{"JWKS", func(s *Server) { get(s, "", http.StatusOK) }},
		{"JWKS, 304", func(s *Server) { get(s, etags[s], http.StatusNotModified) }},
	} {
		b.Run(tc.name, func(b *testing.B) {
			took := map[*Server][]time.Duration{}
			for b.Loop() {
				for _, s := range []*Server{few, many} {
					began := time.Now()
					tc.do(s)
					took[s] = append(took[s], time.Since(began))
				}
			}
			b.ReportMetric(0, "ns/op") // of two
			b.ReportMetric(float64(medianOf(took[many]))/float64(medianOf(took[few])), "x/4-keys")
			b.ReportMetric(float64(medianOf(took[many]))/1e3, "µs-40-keys")
			if tc.name == "JWKS" {
				b.ReportMetric(float64(answer[few]), "bytes-4-keys")
				b.ReportMetric(float64(answer[many]), "bytes-40-keys")
			}
		})
	}
}
