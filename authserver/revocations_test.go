package authserver

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/test/engines"
)

// published has the replica look at the database, and returns its list.
func (a *authn) published() token.Revocations {
	a.t.Helper()
	if err := a.feed.step(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
	a.feed.listCost = 0 // whatever it costs on a busy machine
	if err := a.feed.step(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
	w := a.call("GET", revocationsPath, "", nil)
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/jwt" {
		a.t.Fatalf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	return a.statement(w.Body.String())
}

// statement checks a JWT of the feed as a third party would.
func (a *authn) statement(text string) token.Revocations {
	a.t.Helper()
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(a.call("GET", jwksPath, "", nil).Body.Bytes(), &set); err != nil {
		a.t.Fatal(err)
	}
	jws, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		a.t.Fatal(err)
	}
	payload, err := jws.Verify(set)
	if err != nil {
		a.t.Fatal(err)
	}
	var r token.Revocations
	if err := json.Unmarshal(payload, &r); err != nil {
		a.t.Fatal(err)
	}
	now := a.clock.Now().Unix()
	if typ := jws.Signatures[0].Protected.ExtraHeaders["typ"]; typ != token.TypeRevocations ||
		r.Issuer != testIssuer || r.IssuedAt > now || r.Expiry <= now || r.Expiry > now+62 || r.TokenLife != 300 || r.Entries == nil {
		a.t.Fatalf("%v %+v at %d", typ, r, now)
	}
	return r
}

// names are a list's entries, but for their exp.
func names(r token.Revocations) (all []string) {
	for _, e := range r.Entries {
		name := "sid " + e.Session
		switch {
		case e.Subject != "":
			name = "sub " + e.Subject
		case e.ClientID != "":
			name = "client_id " + e.ClientID
		case e.ID != "":
			name = "jti " + e.ID
		}
		if e.Before > 0 {
			name += " before"
		}
		all = append(all, name)
	}
	return all
}

// Whatever ends something is in the feed, by whichever way it came.
func TestEndsArePublished(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newMailing(t, db, VerifyOff)
		ctx := t.Context()
		u := a.register("ana@ejemplo.example")
		sub := "sub " + u["id"].(string)
		c, secret := a.client(NewClient{Grants: []string{GrantClientCredentials}, Audiences: []string{InmueblesAudience}})
		var access, refresh, sid string
		login := func() (string, string, string) {
			t.Helper()
			access, refresh := a.login("ana@ejemplo.example")
			claims, _ := a.claims(access)
			return access, refresh, "sid " + claims.Session
		}
		check := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, tc := range []struct {
			name string
			do   func(other string) []string // returns what is wanted
		}{
			{"sign-out by access token", func(string) []string { a.must(204, "POST", "/authn/sign_out", access, nil); return []string{sid} }},
			{"sign-out by refresh token", func(string) []string {
				a.must(204, "POST", "/authn/sign_out", "", member{"refresh": refresh})
				return []string{sid}
			}},
			{"end one", func(other string) []string {
				a.must(204, "DELETE", "/authn/sessions/"+strings.TrimPrefix(other, "sid "), access, nil)
				return []string{other}
			}},
			{"end the others", func(other string) []string {
				a.must(204, "DELETE", "/authn/sessions/others", access, nil)
				return []string{other}
			}},
			{"end all", func(other string) []string {
				a.must(204, "DELETE", "/authn/sessions", access, nil)
				return []string{other, sid}
			}},
			{"password change", func(other string) []string {
				a.must(204, "POST", "/authn/me/password", access, member{"current_password": testPassword, "new_password": otherPassword})
				check(a.accounts.SetPassword(ctx, "ana@ejemplo.example", testPassword)) // by an operator
				return []string{other, sid}
			}},
			{"password reset", func(other string) []string {
				a.must(202, "POST", "/authn/password/reset", "", member{"email": "ana@ejemplo.example"})
				link := a.letter("ana@ejemplo.example", "Restablece tu contraseña")
				a.must(204, "POST", "/authn/password/reset/confirm", "", member{"token": link, "new_password": otherPassword})
				check(a.accounts.SetPassword(ctx, "ana@ejemplo.example", testPassword))
				return []string{other, sid}
			}},
			{"reuse", func(string) []string {
				a.must(200, "POST", "/authn/token/refresh", "", member{"refresh": refresh})
				a.forward(time.Minute)
				a.must(401, "POST", "/authn/token/refresh", "", member{"refresh": refresh})
				return []string{sid}
			}},
			{"revoke a refresh token", func(string) []string {
				a.answered(a.post(revokePath, "", "", url.Values{"token": {refresh}}), 200, "")
				return []string{sid}
			}},
			{"revoke an access token", func(string) []string {
				a.answered(a.post(revokePath, "", "", url.Values{"token": {access}}), 200, "")
				return []string{sid}
			}},
			{"revoke a client's token", func(string) []string {
				own := a.answered(a.post(tokenPath, c.ID, secret, url.Values{"grant_type": {GrantClientCredentials}}), 200, "")["access_token"].(string)
				a.answered(a.post(revokePath, c.ID, secret, url.Values{"token": {own}}), 200, "")
				claims, _ := a.claims(own)
				return []string{"jti " + claims.ID}
			}},
			{"disable a client", func(string) []string {
				check(a.clients.SetDisabled(ctx, c.ID, true))
				check(a.clients.SetDisabled(ctx, c.ID, true)) // nothing new
				return []string{"client_id " + c.ID}
			}},
			{"enable a client", func(string) []string {
				check(a.clients.SetDisabled(ctx, c.ID, false))
				return []string{"client_id " + c.ID + " before"}
			}},
			{"deletion and restoration", func(other string) []string {
				a.must(202, "DELETE", "/authn/me", access, member{"password": testPassword})
				a.must(204, "POST", "/authn/restore", "", member{"email": "ana@ejemplo.example", "password": testPassword})
				return []string{sub, other, sid, sub + " before"}
			}},
			{"disabling", func(other string) []string {
				check(a.accounts.Disable(ctx, "ana@ejemplo.example"))
				return []string{sub, other, sid}
			}},
		} {
			check(a.store.endAll(ctx, u["id"].(string), uuid.Nil, "another test", a.clock.Now()))
			a.deliver()
			_, _, other := login()
			access, refresh, sid = login()
			before := a.published()
			want := tc.do(other)
			after := a.published()
			got := names(after)[len(before.Entries):]
			sortSessions(got)
			sortSessions(want)
			if !slices.Equal(got, want) {
				t.Errorf("%s: published %q, want %q", tc.name, got, want)
			}
			if after.Sequence != before.Sequence+int64(len(got)) {
				t.Errorf("%s: from %d to %d with %d entries", tc.name, before.Sequence, after.Sequence, len(got))
			}
		}

		// One who is deleted at once, by hand.
		a.register("eva@ejemplo.example")
		before := a.published()
		if _, err := db.Write.ExecContext(ctx, "DELETE FROM users WHERE email_key = 'eva@ejemplo.example'"); err != nil {
			t.Fatal(err)
		}
		if got := a.published(); len(got.Entries) != len(before.Entries)+1 || got.Entries[len(got.Entries)-1].Subject == "" {
			t.Errorf("after a deletion %q", names(got))
		}
	})
}

// sortSessions sorts the sids among names: a statement ends several in any
// order.
func sortSessions(names []string) {
	slices.SortStableFunc(names, func(a, b string) int {
		if strings.HasPrefix(a, "sid ") && strings.HasPrefix(b, "sid ") {
			return strings.Compare(a, b)
		}
		return 0
	})
}

// A session that was last used before the longest life of a token needs no
// entry, and entries go when their tokens have expired.
func TestEntriesLeave(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		a.register("ana@ejemplo.example")
		access, _ := a.login("ana@ejemplo.example")
		a.must(204, "POST", "/authn/sign_out", access, nil)
		old := a.published()
		if len(old.Entries) != 1 {
			t.Fatalf("%+v", old)
		}
		if left := old.Entries[0].Expiry - a.clock.Now().Unix(); left < 300 || left > 312 {
			t.Errorf("the entry is of use for %d s", left)
		}
		_, refresh := a.login("ana@ejemplo.example")
		a.forward(6*time.Minute + 20*time.Second)
		a.feed.purged = time.Time{}
		if r := a.published(); len(r.Entries) != 0 || r.Sequence != old.Sequence {
			t.Errorf("after its time %+v", r)
		}
		var rows int
		if err := db.Write.Get(&rows, "SELECT count(*) FROM revocations"); err != nil || rows != 0 {
			t.Errorf("%d rows are left (%v)", rows, err)
		}
		a.forward(26 * time.Hour)
		a.must(204, "POST", "/authn/sign_out", "", member{"refresh": refresh})
		if r := a.published(); r.Sequence != old.Sequence {
			t.Errorf("an entry for a session without tokens: %+v", r)
		}
	})
}

func TestRevocationListIsCached(t *testing.T) {
	a := newAuthn(t, migrated(t))
	if w := a.call("GET", revocationsPath, "", nil); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("before the first look: %d %v", w.Code, w.Header())
	}
	if err := a.feed.Check(t.Context()); err == nil {
		t.Error("ready before the first look")
	}
	a.published()
	if err := a.feed.Check(t.Context()); err != nil {
		t.Error(err)
	}
	ask := func(etag string) *httptest.ResponseRecorder {
		r := a.request("GET", revocationsPath, "", nil)
		r.Header.Set("If-None-Match", etag)
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		return w
	}
	first := ask("")
	etag := first.Header().Get("ETag")
	if !strings.HasPrefix(etag, `"`) || first.Header().Get("Cache-Control") != "public, max-age=1" || first.Header().Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("%v", first.Header())
	}
	if w := ask(etag); w.Code != 304 || w.Body.Len() > 0 || w.Header().Get("ETag") != etag {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	a.published()
	if w := ask(etag); w.Code != 304 {
		t.Errorf("%d though nothing is new", w.Code)
	}
	a.forward(listAge)
	a.published() // signed anew
	if w := ask(etag); w.Code != 200 || w.Header().Get("ETag") == etag {
		t.Errorf("%d %v after %v", w.Code, w.Header(), listAge)
	}
	a.forward(listLife) // and nobody looks at the database
	if w := ask(etag); w.Code != 503 {
		t.Errorf("%d for a list that has expired", w.Code)
	}
	if err := a.feed.Check(t.Context()); err == nil {
		t.Error("ready with a list that has expired")
	}

	var m metadata
	if err := json.Unmarshal(a.call("GET", "/.well-known/oauth-authorization-server", "", nil).Body.Bytes(), &m); err != nil ||
		m.RevocationsURI != testIssuer+revocationsPath || m.RevocationsStreamURI != testIssuer+streamPath {
		t.Errorf("metadata %+v (%v)", m, err)
	}
}

// Four replicas number, publish and read while eight writers end sessions: each
// sees every entry, once, in the same order and without gaps.
func TestReplicasAgreeOnTheOrder(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		const replicas, writers, each = 4, 8, 40
		a := newAuthn(t, db)
		a.register("ana@ejemplo.example")
		var user string
		if err := db.Write.Get(&user, "SELECT id FROM users"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var reading sync.WaitGroup
		seen := make([][]revocationRow, replicas)
		for i := range replicas {
			reading.Go(func() {
				last := int64(0)
				for {
					written := ctx.Err() != nil // before looking, or the last entry may come after
					if _, err := a.store.numberRevocations(t.Context()); err != nil {
						t.Error(err)
						return
					}
					upTo, rows, err := a.store.readRevocations(t.Context(), last, time.Time{})
					if err != nil {
						t.Error(err)
						return
					}
					for _, r := range rows {
						if last++; r.Seq != last {
							t.Errorf("replica %d: %d after %d", i, r.Seq, last-1)
							return
						}
					}
					if upTo != last {
						t.Errorf("replica %d: up to %d with entries up to %d", i, upTo, last)
						return
					}
					seen[i] = append(seen[i], rows...)
					if len(rows) == 0 && written {
						return
					}
				}
			})
		}
		var writing sync.WaitGroup
		for range writers {
			writing.Go(func() {
				for range each {
					if err := a.store.withdraw(t.Context(), uuid.NewString(), a.clock.Now()); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		writing.Wait()
		cancel()
		reading.Wait()
		for i := range seen {
			if len(seen[i]) != writers*each || !slices.Equal(seen[i], seen[0]) {
				t.Errorf("replica %d saw %d entries, others %d", i, len(seen[i]), len(seen[0]))
			}
		}
	})
}

// reader reads a stream.
type reader struct {
	t    *testing.T
	a    *authn
	body *bufio.Reader
}

// open opens a stream of a running server.
func (a *authn) open(t *testing.T, server *httptest.Server, held string) *reader {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+streamPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	if held != "" {
		r.Header.Set("Last-Event-ID", held)
	}
	w, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Body.Close() })
	if w.StatusCode != 200 || w.Header.Get("Content-Type") != "text/event-stream" || w.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v", w.StatusCode, w.Header)
	}
	return &reader{t, a, bufio.NewReader(w.Body)}
}

// next reads an event.
func (r *reader) next() token.Revocations {
	r.t.Helper()
	var lines [3]string
	for i := range lines {
		line, err := r.body.ReadString('\n')
		if err != nil {
			r.t.Fatal(err)
		}
		lines[i] = strings.TrimSuffix(line, "\n")
	}
	id, ok := strings.CutPrefix(lines[0], "id: ")
	text, is := strings.CutPrefix(lines[1], "data: ")
	if !ok || !is || lines[2] != "" {
		r.t.Fatalf("event %q", lines)
	}
	s := r.a.statement(text)
	if id != strconv.FormatInt(s.Sequence, 10) {
		r.t.Fatalf("event %s is of %d", id, s.Sequence)
	}
	return s
}

// wants reads events until one that isn't a heartbeat.
func (r *reader) wants(after, seq int64, names []string) {
	r.t.Helper()
	for {
		s := r.next()
		if s.After == nil {
			r.t.Fatalf("a list, want what came after %d", after)
		}
		if *s.After == s.Sequence && seq != after {
			continue
		}
		if *s.After != after || s.Sequence != seq || !slices.Equal(namesOf(s), names) {
			r.t.Fatalf("from %d to %d: %q, want from %d to %d: %q", *s.After, s.Sequence, namesOf(s), after, seq, names)
		}
		return
	}
}

var namesOf = names

func TestRevocationStream(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { a.feed.run(ctx) })
		defer running.Wait()
		defer cancel()
		server := httptest.NewServer(a.Handler)
		defer server.Close()
		defer a.Health.Drain() // streams end, so that the server can
		for a.feed.Check(ctx) != nil {
			state := a.feed.current.Load()
			if state != nil {
				<-state.next
			}
		}
		a.register("ana@ejemplo.example")
		end := func() string {
			access, _ := a.login("ana@ejemplo.example")
			claims, _ := a.claims(access)
			a.must(204, "POST", "/authn/sign_out", access, nil)
			return "sid " + claims.Session
		}

		one := a.open(t, server, "")
		if s := one.next(); s.After != nil || s.Sequence != 0 {
			t.Fatalf("first event %+v", s)
		}
		if s := one.next(); s.After == nil || *s.After != 0 || s.Sequence != 0 { // a heartbeat
			t.Fatalf("second event %+v", s)
		}
		first := end()
		one.wants(0, 1, []string{first})
		second, third := end(), ""
		one.wants(1, 2, []string{second})

		// Who comes back gets what it lacks, and only that; who knows nothing,
		// everything.
		resumed := a.open(t, server, "1")
		resumed.wants(1, 2, []string{second})
		upToDate := a.open(t, server, "2")
		upToDate.wants(2, 2, nil)
		third = end()
		for _, r := range []*reader{one, resumed, upToDate} {
			r.wants(2, 3, []string{third})
		}
		a.open(t, server, "0").wants(0, 3, []string{first, second, third})
		for _, held := range []string{"", "x", "-1"} {
			fresh := a.open(t, server, held)
			s := fresh.next()
			if s.After != nil {
				t.Errorf("for %q: %+v", held, s)
			}
			for s.Sequence < 3 { // the list may have been signed a while ago
				after := s.Sequence
				if s = fresh.next(); s.After == nil || *s.After != after {
					t.Fatalf("after %d: %+v", after, s)
				}
			}
		}
		// One that has heard of a place that isn't there: the list, after a wait.
		if s := a.open(t, server, "9").next(); s.After != nil {
			t.Errorf("for a place to come: %+v", s)
		}
	})
}

// A replica that is late waits for what its reader was told by another.
func TestLateReplica(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		early, late := newAuthn(t, db), newAuthn(t, db)
		early.register("ana@ejemplo.example")
		late.published()
		access, _ := early.login("ana@ejemplo.example")
		early.must(204, "POST", "/authn/sign_out", access, nil)
		if s := early.published(); s.Sequence != 1 {
			t.Fatalf("%+v", s)
		}
		if st := late.feed.current.Load(); st.seq != 0 {
			t.Fatalf("late is at %d", st.seq)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			select {
			case <-late.store.wake: // caughtUp asks it to look
				if err := late.feed.step(ctx); err != nil {
					t.Error(err)
				}
			case <-ctx.Done():
			}
		})
		if !late.feed.caughtUp(ctx, 1) {
			t.Error("late did not catch up")
		}
		cancel()
		running.Wait()
	})
}

// A database that was restored from a backup ends before what was published.
func TestRestoredDatabase(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		for range 3 {
			if err := a.store.withdraw(t.Context(), uuid.NewString(), a.clock.Now()); err != nil {
				t.Fatal(err)
			}
		}
		if s := a.published(); s.Sequence != 3 {
			t.Fatalf("%+v", s)
		}
		for _, statement := range []string{"DELETE FROM revocations WHERE seq > 1", "UPDATE revocations_feed SET seq = 1"} {
			if _, err := db.Write.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
		if s := a.published(); s.Sequence != 1 || len(s.Entries) != 1 {
			t.Errorf("after the restoration %+v", s)
		}
		if !strings.Contains(a.log.String(), "restored from a backup") {
			t.Error("nobody is told")
		}
	})
}

// A replica that has lost its database falls silent.
func TestSilentWithoutDatabase(t *testing.T) {
	db := migrated(t)
	a := newAuthn(t, db)
	a.published()
	st := a.feed.current.Load()
	if err := a.store.Close(); err != nil {
		t.Fatal(err)
	}
	a.feed.beat = time.Time{} // a heartbeat is due
	if err := a.feed.step(t.Context()); err == nil {
		t.Fatal("no error")
	}
	if a.feed.current.Load() != st {
		t.Error("something was published")
	}
}

func TestStreamsAreBounded(t *testing.T) {
	a := newAuthn(t, migrated(t))
	a.published()
	for i := range maxStreamsFrom {
		done, ok := a.feed.streams.open("192.0.2.1")
		if !ok {
			t.Fatalf("stream %d is refused", i)
		}
		defer done()
	}
	r := a.request("GET", streamPath, "", nil) // from 192.0.2.1, says httptest
	w := httptest.NewRecorder()
	if a.ServeHTTP(w, r); w.Code != 503 || w.Header().Get("Retry-After") != "10" {
		t.Errorf("one too many: %d %v", w.Code, w.Header())
	}
	for i := a.feed.streams.all; i < maxStreams; i++ {
		if _, ok := a.feed.streams.open(fmt.Sprint(i / 100)); !ok {
			t.Fatalf("stream %d is refused", i)
		}
	}
	if _, ok := a.feed.streams.open("192.0.2.2"); ok {
		t.Error("more streams than may be")
	}

	b := newAuthn(t, migrated(t))
	b.published()
	b.Health.Drain()
	if w := b.call("GET", streamPath, "", nil); w.Code != 503 {
		t.Errorf("while draining: %d", w.Code)
	}
	if b.feed.streams.all != 0 {
		t.Errorf("%d streams are left", b.feed.streams.all)
	}
}

// stuck is a reader whose connection takes nothing.
type stuck struct {
	http.ResponseWriter
	deadline time.Time
}

func (s *stuck) SetReadDeadline(time.Time) error    { return nil }
func (s *stuck) SetWriteDeadline(t time.Time) error { s.deadline = t; return nil }
func (s *stuck) Write([]byte) (int, error) {
	time.Sleep(time.Until(s.deadline)) // of the bubble
	return 0, os.ErrDeadlineExceeded
}

func TestSlowReaderIsDropped(t *testing.T) {
	metrics := prometheus.NewRegistry()
	a := newAuthn(t, migrated(t), func(o *Options) { o.Metrics = metrics })
	a.published()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		list := *a.feed.list.Load() // by the bubble's clock it is of another time
		list.expires = a.clock.Now().Add(time.Hour)
		a.feed.list.Store(&list)
		a.streamRevocations(&stuck{ResponseWriter: httptest.NewRecorder()}, a.request("GET", streamPath, "", nil))
		if took := time.Since(begun); took != streamWrite {
			t.Errorf("it was dropped after %v", took)
		}
	})
	if a.feed.streams.all != 0 {
		t.Errorf("%d streams are left", a.feed.streams.all)
	}
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "urbandata_revocations_streams_dropped_total" && f.GetMetric()[0].GetCounter().GetValue() != 1 {
			t.Errorf("dropped: %v", f)
		}
	}
}

// BenchmarkRevocationList is a GET of the list in terms of one of the key set:
// the whole of 1,000 endings, and the question whether it has changed.
func BenchmarkRevocationList(b *testing.B) {
	s := benchmarked(b)
	now := s.feed.now()
	for i := range 1000 {
		if err := s.accounts.store.withdraw(b.Context(), fmt.Sprint(i), now); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.feed.step(b.Context()); err != nil {
		b.Fatal(err)
	}
	set, err := s.issuer.keys.JWKS()
	if err != nil {
		b.Fatal(err)
	}
	get := func(path, etag string) func() {
		return func() {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			if etag != "" {
				r.Header.Set("If-None-Match", etag)
			}
			w := httptest.NewRecorder()
			if s.ServeHTTP(w, r); w.Code != 200 && w.Code != 304 {
				b.Fatal(w.Code)
			}
		}
	}
	for _, bm := range []struct{ name, list, keys string }{{"whole", "", ""}, {"304", s.feed.list.Load().id, set.ETag}} {
		b.Run(bm.name, func(b *testing.B) {
			var list, keys []time.Duration
			for b.Loop() {
				t0 := time.Now()
				get(jwksPath, bm.keys)()
				t1 := time.Now()
				get(revocationsPath, bm.list)()
				list, keys = append(list, time.Since(t1)), append(keys, t1.Sub(t0))
			}
			b.ReportMetric(float64(medianOf(list))/float64(medianOf(keys)), "x/jwks")
		})
	}
}

// BenchmarkSignOut is what the entry in the feed adds to the end of a session:
// the UPDATE with the trigger, in terms of one of a session so old that none is
// written.
func BenchmarkSignOut(b *testing.B) {
	for _, engine := range []struct {
		name string
		open func(testing.TB) *database.SQL
		set  migrations.Set
	}{{"SQLite", engines.SQLite, migrations.AuthnSQLite}, {"PostgreSQL", engines.Postgres, migrations.AuthnPostgres}} {
		b.Run(engine.name, func(b *testing.B) {
			db := engine.open(b)
			if _, err := migrations.Up(b.Context(), db.Write.DB, engine.set); err != nil {
				b.Fatal(err)
			}
			a := newAuthn(b, db)
			a.register("ana@ejemplo.example")
			user, err := a.store.findUser(b.Context(), "ana@ejemplo.example")
			if err != nil {
				b.Fatal(err)
			}
			end := func(created time.Time) time.Duration {
				id, err := uuid.NewV7()
				if err != nil {
					b.Fatal(err)
				}
				refresh, markKey := newFamily(id)
				if err := a.store.startSession(b.Context(), &newSession{
					ID: id, UserID: user.ID, ClientID: clientID, Audience: InmueblesAudience, MarkKey: markKey, CurrentHash: refresh.hash(),
					CreatedAt: created, IdleExpiresAt: a.clock.Now().Add(time.Hour), ExpiresAt: a.clock.Now().Add(time.Hour), AMR: "pwd",
				}, user.PasswordHash); err != nil {
					b.Fatal(err)
				}
				begun := time.Now()
				if err := a.store.end(b.Context(), id, user.ID, "signed out", a.clock.Now()); err != nil {
					b.Fatal(err)
				}
				return time.Since(begun)
			}
			var with, without []time.Duration
			for b.Loop() {
				without = append(without, end(a.clock.Now().Add(-48*time.Hour)))
				with = append(with, end(a.clock.Now()))
			}
			b.ReportMetric(float64(medianOf(with))/float64(medianOf(without)), "x/without")
		})
	}
}
