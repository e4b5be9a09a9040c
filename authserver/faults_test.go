package authserver

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/test/engines"
)

// What becomes of refreshes when PostgreSQL undoes a transaction, or the
// connection to it breaks. dex reads, changes and writes the token in one
// SERIALIZABLE transaction, then writes that it was used to the user's sessions
// in another, and answers 500 where either fails. If it is the second, the
// client has a token that is superseded, and never gets the one that isn't:
// the user logs in again. naive does the same, to show that these tests see it.

// serializable is a migrated PostgreSQL database whose transactions are all
// SERIALIZABLE, behind a wire that tests cut. direct doesn't go by the wire.
func serializable(t *testing.T) (db, direct *database.SQL, w *wire) {
	t.Helper()
	raw := engines.PostgresURL(t)
	open := func(rawURL string) *database.SQL {
		db, err := database.OpenSQL(t.Context(), rawURL, database.Full)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	first := open(raw)
	if _, err := migrations.Up(t.Context(), first.Write.DB, migrations.AuthnPostgres); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Write.ExecContext(t.Context(), "ALTER DATABASE "+pq.QuoteIdentifier(u.Path[1:])+" SET default_transaction_isolation = 'serializable'"); err != nil {
		t.Fatal(err)
	}
	w = newWire(t, u.Host)
	direct = open(raw)
	u.Host = w.address
	db = open(u.String())
	var level string
	if err := db.Write.GetContext(t.Context(), &level, "SHOW transaction_isolation"); err != nil || level != "serializable" {
		t.Fatalf("transactions are %s, %v", level, err)
	}
	return db, direct, w
}

// wire is what lies between authn and PostgreSQL.
type wire struct {
	address string
	cuts    atomic.Int64

	mu  sync.Mutex
	cut func() (now bool, after int) // guarded by mu
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	w := &wire{address: l.Addr().String(), cut: intact}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return // closed
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			w.join(near, far)
		}
	}()
	return w
}

// where says what is to be asked before each piece that authn sends. If it
// answers now, the piece doesn't arrive any more. Otherwise, if after isn't
// negative, the piece arrives, PostgreSQL does what it says and answers, and
// the connection breaks after so many bytes of the answer: 0 is the moment
// between COMMIT and its answer.
func (w *wire) where(cut func() (now bool, after int)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
}

// once cuts the wire at the next piece, and then not again.
func (w *wire) once(now bool, after int) {
	done := false
	w.where(func() (bool, int) {
		if done {
			return false, -1
		}
		done = true
		return now, after
	})
}

func intact() (now bool, after int) { return false, -1 }

func (w *wire) whole() { w.where(intact) }

func (w *wire) join(near, far net.Conn) {
	var left atomic.Int64 // bytes until the cut, -1 for none
	left.Store(-1)
	end := sync.OnceFunc(func() { _, _ = near.Close(), far.Close() })
	go func() {
		defer end()
		for piece := make([]byte, 64<<10); ; {
			n, err := near.Read(piece)
			if err != nil {
				return
			}
			w.mu.Lock()
			now, after := w.cut()
			w.mu.Unlock()
			if now || after >= 0 {
				w.cuts.Add(1)
			}
			if now {
				return
			}
			if after >= 0 {
				left.Store(int64(after))
			}
			if _, err := far.Write(piece[:n]); err != nil {
				return
			}
		}
	}()
	go func() {
		defer end()
		for piece := make([]byte, 64<<10); ; {
			n, err := far.Read(piece)
			if err != nil {
				return
			}
			if most := left.Load(); most >= 0 && most < int64(n) {
				_, _ = near.Write(piece[:most])
				return
			} else if most >= 0 {
				left.Store(most - int64(n))
			}
			if _, err := near.Write(piece[:n]); err != nil {
				return
			}
		}
	}()
}

// naive refreshes as dex does. Its tokens are a row of their own, and all of a
// user's sessions are another.
type naive struct {
	db   *sql.DB
	meet func() // between reading the user's sessions and writing them
}

func newNaive(t *testing.T, db *database.SQL, tokens ...string) *naive {
	t.Helper()
	for _, statement := range []string{
		"CREATE TABLE naive_tokens (id int PRIMARY KEY, token text NOT NULL)",
		"CREATE TABLE naive_sessions (user_id int PRIMARY KEY, uses int NOT NULL)",
		"INSERT INTO naive_sessions VALUES (1, 0)",
	} {
		if _, err := db.Write.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	for id, token := range tokens {
		if _, err := db.Write.ExecContext(t.Context(), "INSERT INTO naive_tokens VALUES ($1, $2)", id, token); err != nil {
			t.Fatal(err)
		}
	}
	return &naive{db: db.Write.DB, meet: func() {}}
}

// refresh returns the next token, or 400 for one that was used before, or 500.
func (n *naive) refresh(ctx context.Context, id int, shown string) (next string, status int) {
	used := errors.New("claimed twice")
	var raw [16]byte
	_, _ = rand.Read(raw[:])
	next = hex.EncodeToString(raw[:])
	err := n.transaction(ctx, func(tx *sql.Tx) error {
		var token string
		if err := tx.QueryRowContext(ctx, "SELECT token FROM naive_tokens WHERE id = $1", id).Scan(&token); err != nil {
			return err
		}
		if token != shown {
			return used
		}
		_, err := tx.ExecContext(ctx, "UPDATE naive_tokens SET token = $1 WHERE id = $2", next, id)
		return err
	})
	if errors.Is(err, used) {
		return "", http.StatusBadRequest
	}
	if err == nil {
		err = n.transaction(ctx, func(tx *sql.Tx) error {
			var uses int
			if err := tx.QueryRowContext(ctx, "SELECT uses FROM naive_sessions WHERE user_id = 1").Scan(&uses); err != nil {
				return err
			}
			n.meet()
			_, err := tx.ExecContext(ctx, "UPDATE naive_sessions SET uses = $1 WHERE user_id = 1", uses+1)
			return err
		})
	}
	if err != nil {
		return "", http.StatusInternalServerError
	}
	return next, http.StatusOK
}

func (n *naive) transaction(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := n.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// TestNaiveRefreshDies reproduces the fault: of ten sessions of one user that
// refresh at the same moment, nine get 500, and none of those goes on, however
// often its client asks again.
func TestNaiveRefreshDies(t *testing.T) {
	db, _, w := serializable(t)
	const sessions = 10
	tokens := make([]string, sessions)
	for i := range tokens {
		tokens[i] = fmt.Sprint("first ", i)
	}
	n := newNaive(t, db, tokens...)
	var met, all sync.WaitGroup
	met.Add(sessions)
	n.meet = func() { met.Done(); met.Wait() }
	codes := make([]int, sessions)
	for i := range sessions {
		all.Go(func() { _, codes[i] = n.refresh(t.Context(), i, tokens[i]) })
	}
	all.Wait()
	n.meet = func() {}
	dead := 0
	for i, code := range codes {
		if code != http.StatusInternalServerError {
			continue
		}
		dead++
		for range 3 {
			if _, again := n.refresh(t.Context(), i, tokens[i]); again != http.StatusBadRequest {
				t.Errorf("session %d is answered %d: it isn't dead", i, again)
			}
		}
	}
	if dead != sessions-1 {
		t.Errorf("%d of %d sessions died of a serialization failure: %v", dead, sessions, codes)
	}
	// So it does when the answer to COMMIT is lost, by pieces: BEGIN, SELECT,
	// UPDATE and COMMIT, some of which go in two.
	lost := false
	for pieces := 1; pieces <= 12 && !lost; pieces++ {
		id := sessions + pieces
		if _, err := db.Write.ExecContext(t.Context(), "INSERT INTO naive_tokens VALUES ($1, 'first')", id); err != nil {
			t.Fatal(err)
		}
		left := pieces
		w.where(func() (bool, int) {
			if left--; left == 0 {
				return false, 0
			}
			return false, -1
		})
		_, code := n.refresh(t.Context(), id, "first")
		w.whole()
		if code == http.StatusInternalServerError {
			_, again := n.refresh(t.Context(), id, "first")
			lost = again == http.StatusBadRequest
		}
	}
	if !lost {
		t.Error("no lost answer to COMMIT killed a session")
	}
	t.Logf("naive: %d of %d sessions dead by serialization failures, and one by a lost answer to COMMIT", dead, sessions)
}

// refreshIn is the refresh token of an answer.
func (a *authn) refreshIn(w *httptest.ResponseRecorder) string {
	a.t.Helper()
	var m struct{ Refresh string }
	if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil || m.Refresh == "" {
		a.t.Errorf("half an answer: %s, %v", w.Body, err)
	}
	return m.Refresh
}

// goOn has a client refresh as good clients do: it asks again, by the same
// token, when there was no answer or it was 503. It returns the next token.
func (a *authn) goOn(refresh string) string {
	a.t.Helper()
	for range 50 {
		w := a.call("POST", "/authn/token/refresh", "", member{"refresh": refresh})
		switch w.Code {
		case http.StatusOK:
			return a.refreshIn(w)
		case http.StatusServiceUnavailable: // it may have taken place
		default:
			a.t.Errorf("a session is logged out: %d %s", w.Code, w.Body)
			return ""
		}
	}
	a.t.Error("503 for ever")
	return ""
}

// TestRefreshUndone: PostgreSQL undoes statements as it does for a
// serialization failure and a deadlock, in their midst and at COMMIT, when all
// that they return has been sent. Every session goes on, and no token that was
// handed out is worth nothing.
func TestRefreshUndone(t *testing.T) {
	for _, at := range []struct{ name, trigger string }{
		{"statement", "CREATE TRIGGER undo BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION undo()"},
		{"COMMIT", "CREATE CONSTRAINT TRIGGER undo AFTER UPDATE ON sessions DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION undo()"},
	} {
		for name, code := range map[string]pqerror.Code{"serialization failure": pqerror.TRSerializationFailure, "deadlock": pqerror.TRDeadlockDetected} {
			t.Run(name+" at "+at.name, func(t *testing.T) {
				t.Parallel()
				db, direct, _ := serializable(t)
				a := newAuthn(t, db)
				a.register("ana@ejemplo.example")
				_, refresh := a.login("ana@ejemplo.example")
				// Sequences aren't undone: they count tries.
				for _, statement := range []string{
					"CREATE SEQUENCE tries",
					`CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
						IF nextval('tries') % 5 <> 0 THEN RAISE EXCEPTION 'undone by the test' USING ERRCODE = '` + string(code) + `'; END IF;
						RETURN NEW; END $$`,
					at.trigger,
				} {
					if _, err := direct.Write.ExecContext(t.Context(), statement); err != nil {
						t.Fatal(err)
					}
				}
				first := refresh
				for range 10 {
					refresh = a.goOn(refresh)
				}
				if a.goOn(first) != refresh { // nobody's clock has moved
					t.Error("the first token leads elsewhere")
				}
				var tries int
				if err := direct.Write.GetContext(t.Context(), &tries, "SELECT last_value FROM tries"); err != nil || tries < 50 {
					t.Errorf("%d tries, %v: nothing was undone", tries, err)
				}
				// Sign-out meets the same.
				for range 10 {
					if w := a.call("POST", "/authn/sign_out", "", member{"refresh": refresh}); w.Code == http.StatusNoContent {
						break
					} else if w.Code != http.StatusServiceUnavailable {
						t.Fatalf("sign-out: %d %s", w.Code, w.Body)
					}
				}
				a.must(401, "POST", "/authn/token/refresh", "", member{"refresh": refresh})
			})
		}
	}
}

// TestRefreshCut cuts the connection at each piece that a refresh, a login and
// a sign-out send, before it arrives and after it was carried out, with any
// part of its answer.
func TestRefreshCut(t *testing.T) {
	t.Parallel()
	db, direct, w := serializable(t)
	a := newAuthn(t, db)
	a.register("ana@ejemplo.example")
	_, refresh := a.login("ana@ejemplo.example")
	cuts := func(what string, f func()) {
		t.Helper()
		before := w.cuts.Load()
		for _, c := range []struct {
			now   bool
			after int
		}{{true, -1}, {false, 0}, {false, 1}, {false, 5}, {false, 60}, {false, 150}} {
			w.once(c.now, c.after)
			f()
			w.whole()
		}
		if n := w.cuts.Load() - before; n != 6 {
			t.Errorf("%s: the wire was cut %d times, want 6", what, n)
		}
	}
	cuts("refresh", func() { refresh = a.goOn(refresh) })
	if next := a.goOn(refresh); next == refresh {
		t.Error("no next token")
	}
	logins := 0
	cuts("login", func() {
		w := a.call("POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": testPassword})
		if w.Code == http.StatusOK {
			logins++
			a.goOn(a.refreshIn(w))
		} else if w.Code != http.StatusServiceUnavailable {
			t.Errorf("login: %d %s", w.Code, w.Body)
		}
	})
	// The last piece of a login, which stores the session.
	var user struct {
		ID   string `db:"id"`
		Hash string `db:"password_hash"`
	}
	if err := direct.Read.GetContext(t.Context(), &user, "SELECT id, password_hash FROM users"); err != nil {
		t.Fatal(err)
	}
	cuts("storing a session", func() {
		id, err := uuid.NewV7()
		if err != nil {
			t.Fatal(err)
		}
		first, markKey := newFamily(id)
		now := a.clock.Now()
		err = a.store.startSession(t.Context(), &newSession{
			ID: first.session, UserID: user.ID, ClientID: clientID, Audience: InmueblesAudience, MarkKey: markKey, CurrentHash: first.hash(),
			CreatedAt: now, IdleExpiresAt: now.Add(a.accounts.limits.Idle), ExpiresAt: now.Add(a.accounts.limits.Lifetime),
		}, user.Hash)
		if err != nil && !isUnavailable(err) {
			t.Errorf("storing a session: %v", err)
		}
		if err == nil {
			a.goOn(first.String())
		}
	})
	ending := make([]string, 6)
	for i := range ending {
		_, ending[i] = a.login("ana@ejemplo.example")
	}
	cuts("sign-out", func() {
		refresh := ending[0]
		ending = ending[1:]
		for range 10 {
			if w := a.call("POST", "/authn/sign_out", "", member{"refresh": refresh}); w.Code == http.StatusNoContent {
				break
			} else if w.Code != http.StatusServiceUnavailable {
				t.Fatalf("sign-out: %d %s", w.Code, w.Body)
			}
		}
		a.must(401, "POST", "/authn/token/refresh", "", member{"refresh": refresh})
	})
	t.Logf("%d cuts; %d of 6 logins were answered 200", w.cuts.Load(), logins)
}

// TestRefreshStorm: sessions of one user refresh at the same time, each after
// its own last answer, while the user's row changes, under SERIALIZABLE and on
// connections that break at random. Nobody is logged out.
func TestRefreshStorm(t *testing.T) {
	t.Parallel()
	db, _, w := serializable(t)
	a := newAuthn(t, db)
	a.register("ana@ejemplo.example")
	const sessions, rounds = 10, 20
	tokens := make([]string, sessions)
	access := ""
	for i := range tokens {
		access, tokens[i] = a.login("ana@ejemplo.example")
	}
	random := mathrand.New(mathrand.NewPCG(1, 1))
	w.where(func() (bool, int) {
		switch random.IntN(40) {
		case 0:
			return true, -1
		case 1:
			return false, random.IntN(100)
		}
		return false, -1
	})
	var work sync.WaitGroup
	for i := range tokens {
		work.Go(func() {
			for range rounds {
				if tokens[i] = a.goOn(tokens[i]); tokens[i] == "" {
					return
				}
			}
		})
	}
	work.Go(func() {
		for n := range rounds {
			w := a.call("PATCH", "/authn/me", access, member{"company": fmt.Sprint(n)})
			if w.Code != http.StatusOK && w.Code != http.StatusServiceUnavailable {
				t.Errorf("profile: %d %s", w.Code, w.Body)
			}
		}
	})
	work.Wait()
	w.whole()
	for _, token := range tokens {
		a.goOn(token)
	}
	t.Logf("%d refreshes, the wire cut %d times, nobody logged out", sessions*rounds, w.cuts.Load())
}

// TestRoundTrips counts what goes to PostgreSQL and back for a request. The
// refresh and the client's token, of which there are most, are one statement
// that was prepared before, and so are the start and the end of a session with
// their entries in the audit.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	db, _, w := serializable(t)
	a := newAuthn(t, db)
	a.register("ana@ejemplo.example")
	access, refresh := a.login("ana@ejemplo.example")
	_, ending := a.login("ana@ejemplo.example")
	c, secret := a.client(NewClient{})
	key := newKey(t, jose.EdDSA)
	signer, _ := a.client(NewClient{JWKS: publicSet(t, jose.EdDSA, key)})
	clientToken := func(form url.Values, id, secret string) func() int {
		form.Set("grant_type", GrantClientCredentials)
		return func() int { return a.post(tokenPath, id, secret, form).Code }
	}
	call := func(method, path, bearer string, body any) func() int {
		return func() int { return a.call(method, path, bearer, body).Code }
	}
	for _, tc := range []struct {
		name   string
		send   func() int
		status int
		want   int64
	}{
		{"refresh", call("POST", "/authn/token/refresh", "", member{"refresh": refresh}), 200, 1},
		{"refresh again, within the grace", call("POST", "/authn/token/refresh", "", member{"refresh": refresh}), 200, 2},
		{"client_credentials by secret", clientToken(url.Values{}, c.ID, secret), 200, 1},
		{"client_credentials by private_key_jwt", clientToken(url.Values{
			"client_assertion_type": {assertionType},
			"client_assertion": {assert(t, jose.EdDSA, key, "", member{
				"iss": signer.ID, "sub": signer.ID, "aud": testIssuer, "exp": a.clock.Now().Unix() + 60, "jti": "1",
			})},
		}, "", ""), 200, 2},
		{"login: user, network and counts; the session with its audit entry", call("POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": testPassword}), 200, 2},
		{"who am I", call("GET", "/authn/me", access, nil), 200, 1},
		{"sign-out by access token", call("POST", "/authn/sign_out", access, nil), 204, 1},
		{"sign-out by refresh token: the session before", call("POST", "/authn/sign_out", "", member{"refresh": ending}), 204, 2},
		{"keys", call("GET", "/.well-known/jwks.json", "", nil), 200, 0},
	} {
		var pieces atomic.Int64
		w.where(func() (bool, int) { pieces.Add(1); return false, -1 })
		if status := tc.send(); status != tc.status {
			t.Errorf("%s: %d, want %d", tc.name, status, tc.status)
		}
		w.whole()
		if n := pieces.Load(); n != tc.want {
			t.Errorf("%s: %d round trips, want %d", tc.name, n, tc.want)
		}
	}
}
