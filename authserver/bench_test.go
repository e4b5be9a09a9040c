package authserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"golang.org/x/crypto/argon2"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/test/engines"
)

// What a request for tokens costs on PostgreSQL, against the floor: one row
// inserted and one token signed. What is called in process is measured against
// the floor called in process. What comes over HTTP, from clients in another
// process, is measured against the least handler that does the same, by the
// same clients: that is the promise, because a service can do nothing without
// being asked. The ratio to the floor without HTTP is printed beside it. They
// are measured in turns, a round of each, by as many clients as there are
// connections: the machine's mood changes.

const (
	benchClients = 16
	benchEach    = 50 // requests of each client in a round
)

// round has every client do something as often as benchEach.
func round(f func(client int) error) error {
	var failed atomic.Value
	var clients sync.WaitGroup
	for i := range benchClients {
		clients.Go(func() {
			for range benchEach {
				if err := f(i); err != nil {
					failed.Store(err)
					return
				}
			}
		})
	}
	clients.Wait()
	err, _ := failed.Load().(error)
	return err
}

// cost is the time and the CPU of this process that something took.
type cost struct{ wall, cpu time.Duration }

func measure(f func() error) (cost, error) {
	before, began := cpuTime(), time.Now()
	err := f()
	return cost{time.Since(began), cpuTime() - before}, err
}

// cpuTime is what this process has used of all cores.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// floors are what requests are measured against, by name. The first is that
// of the promise.
type floor struct {
	name  string
	round func() error
}

// against measures rounds of ours and of the floors in turns.
func against(b *testing.B, ours func() error, floors ...floor) {
	b.Helper()
	rounds := []func() error{ours}
	for _, f := range floors {
		rounds = append(rounds, f.round)
	}
	for _, warm := range rounds { // connections, statements
		if err := warm(); err != nil {
			b.Fatal(err)
		}
	}
	sums := make([]cost, len(rounds))
	n := 0
	for b.Loop() {
		for i, f := range rounds {
			c, err := measure(f)
			if err != nil {
				b.Fatal(err)
			}
			sums[i].wall, sums[i].cpu = sums[i].wall+c.wall, sums[i].cpu+c.cpu
		}
		n += benchClients * benchEach
	}
	sum, least := sums[0], sums[1]
	b.ReportMetric(0, "ns/op") // of some rounds: it says nothing
	for i, f := range floors {
		b.ReportMetric(float64(sum.wall)/float64(sums[1+i].wall), "x/"+f.name)
	}
	b.ReportMetric(float64(sum.cpu)/float64(least.cpu), "x/"+floors[0].name+"-CPU")
	b.ReportMetric(float64(n)/sum.wall.Seconds(), "requests/s")
	b.ReportMetric(float64(n)/least.wall.Seconds(), "floor/s")
	b.ReportMetric(sum.cpu.Seconds()*1000/float64(n), "ms-CPU/request")
	b.ReportMetric(float64(runtime.GOMAXPROCS(0)), "cores")
}

// busy is a server on PostgreSQL as in production, but that its log goes
// nowhere and a superseded token is forgotten at once: clients refresh every
// few minutes, so nothing is within its grace any more. The function is the
// least that a request for tokens can do.
func busy(b *testing.B) (s *Server, least func(context.Context) (string, error)) {
	b.Helper()
	db := engines.Postgres(b)
	store, keeper, log := onDatabase(b, db, migrations.AuthnPostgres)
	limits := DefaultSessionLimits()
	limits.Grace = time.Nanosecond
	s, err := New(Options{Issuer: testIssuer, Keys: keeper, Log: log, Backdate: DefaultBackdate, Accounts: NewAccounts(store, AccountsOptions{Sessions: limits})})
	if err != nil {
		b.Fatal(err)
	}
	return s, insertAndSign(b, s, db.Write)
}

// insertAndSign stores the hash of a new refresh token and signs an access
// token, which it returns.
func insertAndSign(b *testing.B, s *Server, db *sqlx.DB) func(context.Context) (string, error) {
	b.Helper()
	if _, err := db.ExecContext(b.Context(), "CREATE TABLE floor (id uuid PRIMARY KEY, hash text NOT NULL)"); err != nil {
		b.Fatal(err)
	}
	insert, err := db.PreparexContext(b.Context(), "INSERT INTO floor (id, hash) VALUES ($1, $2)")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = insert.Close() })
	session := uuid.New()
	return func(ctx context.Context) (string, error) {
		first, _ := newFamily(session)
		if _, err := insert.ExecContext(ctx, uuid.NewString(), hex.EncodeToString(first.hash())); err != nil {
			return "", err
		}
		text, _, _, err := s.issuer.issue(ctx, &grant{SessionID: session, UserID: session.String(), Audience: InmueblesAudience})
		return text, err
	}
}

// rounds has every client call f, as often as in a round.
func rounds(f func(context.Context) (string, error)) func() error {
	return func() error {
		return round(func(int) error {
			_, err := f(context.Background())
			return err
		})
	}
}

// minimalHandler is the least that can answer the requests of [grantRequests]:
// it reads the body, does what f does, and answers in JSON. No route, no check,
// no log, no metric, no field but Content-Type.
func minimalHandler(f func(context.Context) (string, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Refresh string `json:"refresh"`
		}
		body, err := io.ReadAll(r.Body)
		if err == nil && r.Header.Get("Content-Type") != formType {
			err = json.Unmarshal(body, &in)
		}
		var access string
		if err == nil {
			access, err = f(r.Context())
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(member{"access_token": access, "refresh": in.Refresh, "token_type": "Bearer", "expires_in": 300})
	})
}

// benchSessionsEach is how many sessions a client has, which it refreshes in
// turn: as with many users, who do so every few minutes, the next refresh is of
// another row, in another page.
const benchSessionsEach = 64

// grantRequests are the requests of each client: refreshes go from token to
// token, client credentials stay the same.
type grantRequests struct {
	Path          string
	Authorization string     // "" for refreshes
	Tokens        [][]string // of each client: of each of its sessions

	turns [benchClients]int
}

// do sends one and takes the next token from the answer.
func (g *grantRequests) do(client int, base string, send func(*http.Request) (int, []byte, error)) error {
	body, contentType := url.Values{"grant_type": {GrantClientCredentials}}.Encode(), formType
	var current *string
	if g.Authorization == "" {
		g.turns[client]++
		current = &g.Tokens[client][g.turns[client]%benchSessionsEach]
		body, contentType = `{"refresh":"`+*current+`"}`, "application/json"
	}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, base+g.Path, strings.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", contentType)
	if g.Authorization != "" {
		r.Header.Set("Authorization", g.Authorization)
	}
	status, answer, err := send(r)
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("%s: %d %s, %w", g.Path, status, answer, err)
	}
	if current != nil {
		_, rest, _ := bytes.Cut(answer, []byte(`"refresh":"`))
		next, _, ok := bytes.Cut(rest, []byte(`"`))
		if !ok {
			return fmt.Errorf("no next token: %s", answer)
		}
		*current = string(next)
	}
	return nil
}

// startSession starts a session as a login does that has checked the password,
// and returns its refresh token.
func startSession(b *testing.B, a *Accounts, email string) refreshToken {
	b.Helper()
	user, err := a.store.findUser(b.Context(), email)
	if err != nil {
		b.Fatal(err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		b.Fatal(err)
	}
	first, mark := newFamily(id)
	now := time.Now()
	err = a.store.startSession(b.Context(), &newSession{
		ID: id, UserID: user.ID, ClientID: clientID, Audience: InmueblesAudience, MarkKey: mark, CurrentHash: first.hash(),
		CreatedAt: now, IdleExpiresAt: now.Add(time.Hour), ExpiresAt: now.Add(time.Hour), AMR: "pwd",
	}, user.PasswordHash)
	if err != nil {
		b.Fatal(err)
	}
	return first
}

func BenchmarkGrants(b *testing.B) {
	s, least := busy(b)
	bare := floor{"insert+sign", rounds(least)}
	if _, err := s.accounts.Create(b.Context(), NewUser{Email: "ana@ejemplo.example", Password: testPassword}); err != nil {
		b.Fatal(err)
	}
	client, secret, err := s.clients.Create(b.Context(), NewClient{Name: "bench", Scope: token.Scope{token.ScopeInmueblesRead}})
	if err != nil {
		b.Fatal(err)
	}
	basic := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/", nil)
	basic.SetBasicAuth(client.ID, secret)
	for _, tc := range []struct {
		name string
		make func() *grantRequests
	}{
		{"refresh", func() *grantRequests {
			g := &grantRequests{Path: "/authn/token/refresh"}
			for range benchClients {
				var tokens []string
				for range benchSessionsEach {
					tokens = append(tokens, startSession(b, s.accounts, "ana@ejemplo.example").String())
				}
				g.Tokens = append(g.Tokens, tokens)
			}
			return g
		}},
		{"client_credentials", func() *grantRequests {
			return &grantRequests{Path: tokenPath, Authorization: basic.Header.Get("Authorization")}
		}},
	} {
		// The handler alone, with all that every request goes through.
		b.Run(tc.name+"/handler", func(b *testing.B) {
			g := tc.make()
			against(b, func() error {
				return round(func(client int) error {
					return g.do(client, testIssuer, func(r *http.Request) (int, []byte, error) {
						w := httptest.NewRecorder()
						s.ServeHTTP(w, r)
						return w.Code, w.Body.Bytes(), nil
					})
				})
			}, bare)
		})
		// Over loopback, from another process: the CPU is the server's alone.
		b.Run(tc.name+"/loopback", func(b *testing.B) {
			server, minimal := httptest.NewServer(s), httptest.NewServer(minimalHandler(least))
			defer server.Close()
			defer minimal.Close()
			g := tc.make()
			against(b, startLoad(b, server.URL, g), floor{"HTTP-insert+sign", startLoad(b, minimal.URL, g)}, bare)
		})
	}
}

// loadEnv tells a copy of the test program to be the clients of a server.
const loadEnv = "URBANDATA_BENCH_LOAD"

func TestMain(m *testing.M) {
	if base := os.Getenv(loadEnv); base != "" {
		if err := beLoad(base); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// beLoad sends a round of requests for each line on standard input, after the
// first, which says what they are, and answers each with a line.
func beLoad(base string) error {
	lines := bufio.NewReader(os.Stdin)
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return err
	}
	var g grantRequests
	if err := json.Unmarshal(line, &g); err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: benchClients}, Timeout: time.Minute}
	for {
		if _, err := lines.ReadBytes('\n'); err != nil {
			return nil //nolint:nilerr // the benchmark is over
		}
		err := round(func(i int) error {
			return g.do(i, base, func(r *http.Request) (int, []byte, error) {
				w, err := client.Do(r)
				if err != nil {
					return 0, nil, err
				}
				defer func() { _ = w.Body.Close() }()
				answer, err := io.ReadAll(w.Body)
				return w.StatusCode, answer, err
			})
		})
		if err != nil {
			return err
		}
		fmt.Println("done")
	}
}

// startLoad starts the clients, and returns a round of them.
func startLoad(b *testing.B, base string, g *grantRequests) func() error {
	b.Helper()
	program, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.CommandContext(b.Context(), program)
	cmd.Env, cmd.Stderr = append(os.Environ(), loadEnv+"="+base), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = in.Close(), cmd.Wait() })
	if err := json.NewEncoder(in).Encode(g); err != nil {
		b.Fatal(err)
	}
	lines := bufio.NewReader(out)
	return func() error {
		if _, err := in.Write([]byte("\n")); err != nil {
			return err
		}
		line, err := lines.ReadString('\n')
		if err != nil || line != "done\n" {
			return fmt.Errorf("the clients: %s%w", line, err)
		}
		return nil
	}
}

// BenchmarkLogin: what a login costs beyond the hash of its password, which is
// dear on purpose. One at a time, in turns with the bare hash, and with the hash
// followed by what must be: a row inserted, which is flushed, and a token
// signed. How long a flush takes is the disk's affair.
func BenchmarkLogin(b *testing.B) {
	s, least := busy(b)
	if _, err := s.accounts.Create(b.Context(), NewUser{Email: "ana@ejemplo.example", Password: testPassword}); err != nil {
		b.Fatal(err)
	}
	body, err := json.Marshal(member{"email": "ana@ejemplo.example", "password": testPassword})
	if err != nil {
		b.Fatal(err)
	}
	login := func() error {
		r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/authn/token", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		if s.ServeHTTP(w, r); w.Code != http.StatusOK {
			return fmt.Errorf("login: %d %s", w.Code, w.Body)
		}
		return nil
	}
	bare := func() error {
		p := hashParams
		argon2.IDKey([]byte(testPassword), make([]byte, saltSize), p.time, p.memory, p.threads, hashSize)
		return nil
	}
	stored := func() error {
		_ = bare()
		_, err := least(b.Context())
		return err
	}
	var ours, floor, lasting []time.Duration
	var oursCPU, floorCPU, lastingCPU time.Duration
	for b.Loop() {
		for _, one := range []struct {
			all *[]time.Duration
			cpu *time.Duration
			f   func() error
		}{{&ours, &oursCPU, login}, {&floor, &floorCPU, bare}, {&lasting, &lastingCPU, stored}} {
			c, err := measure(one.f)
			if err != nil {
				b.Fatal(err)
			}
			*one.all, *one.cpu = append(*one.all, c.wall), *one.cpu+c.cpu
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(medianOf(ours))/float64(medianOf(floor)), "x/argon2id")
	b.ReportMetric(float64(medianOf(ours))/float64(medianOf(lasting)), "x/argon2id+insert+sign")
	b.ReportMetric(float64(oursCPU)/float64(floorCPU), "x/argon2id-CPU")
	b.ReportMetric(float64(medianOf(floor))/1e6, "argon2id-ms")
}
