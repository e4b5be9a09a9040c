//go:build unix

package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var (
	killOperations = flag.Int("operations", 600, "acknowledged logins, refreshes and sign-outs under SIGKILL, on each engine (make kill: 10000)")
	killSeed       = flag.Uint64("seed", 1, "of what is asked for and killed when")
)

// TestSIGKILL kills authn and PostgreSQL with SIGKILL at random moments while
// users log in, refresh and sign out. Afterwards all that was acknowledged is
// there, and nothing is half done:
//
//   - each session whose login was acknowledged, and no sign-out was asked
//     for, is in its user's list, and goes on by the last refresh token that
//     its client has
//   - none whose sign-out was acknowledged is in the list or goes on
//   - of those whose sign-out got no answer, each does both or neither
//   - a session that nobody knows of is one of a login that got no answer
//
// A client does what a good client does: a request that got no answer, or 503,
// is sent again as it was. No refresh may be refused because of that.
func TestSIGKILL(t *testing.T) {
	t.Parallel()
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		in := newInstallation(t)
		in.ledger.expect("the signing ring could not be brought up to date; the last good one stays in use")
		pg := startPostgres(t)
		in.ledger.secret("the database's password", pg.url[strings.Index(pg.url, "postgres:")+9:strings.Index(pg.url, "@")])
		in.authDatabase, in.sealingKey = pg.url, file(t, newSealingKey()+"\n")
		newSiege(t, in, 2, pg).run()
	})
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		in := newInstallation(t)
		in.authDatabase, in.sealingKey = "sqlite:"+filepath.Join(t.TempDir(), "authn.db"), file(t, newSealingKey()+"\n")
		newSiege(t, in, 1, nil).run()
	})
}

// siege is authn under kill -9.
type siege struct {
	t        *testing.T
	in       *installation
	pg       *postgres
	replicas []*replica
	http     *http.Client
	killed   map[string]int // by what; the killer's own

	operations  atomic.Int64  // acknowledged
	reached     chan struct{} // tells the killer of each
	over        chan struct{}
	unanswered  atomic.Int64
	unavailable atomic.Int64
}

// replica is one authn process, and where it listens.
type replica struct {
	process *process
	url     atomic.Pointer[string]
}

func newSiege(t *testing.T, in *installation, replicas int, pg *postgres) *siege {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	s := &siege{
		t: t, in: in, pg: pg, killed: map[string]int{}, over: make(chan struct{}), reached: make(chan struct{}, 1<<20),
		// A client of its own: of what is answered at the last moment no log
		// line may be left, which the ledger would miss.
		http: &http.Client{Transport: transport, Timeout: patience},
	}
	for range replicas {
		r := &replica{}
		s.replicas = append(s.replicas, r)
		s.startReplica(r)
	}
	return s
}

func (s *siege) startReplica(r *replica) {
	s.t.Helper()
	r.process = start(s.t, s.in.ledger, settings{
		"URBANDATA_AUTH_DATABASE": s.in.authDatabase, "URBANDATA_SEALING_KEY_FILE": s.in.sealingKey,
		"URBANDATA_AUTH_ISSUER": issuer, "URBANDATA_AUTH_LISTEN": "127.0.0.1:0",
		"URBANDATA_AUTH_REFRESH_GRACE": "2m",  // outlasts a restart
		"URBANDATA_AUTH_LIMITS":        "off", // the end shows many tokens of ended sessions
	}.with(settings{"URBANDATA_LOG_LEVEL": "info"}), "authserver")
	url := r.process.url()
	r.url.Store(&url)
}

func (s *siege) run() {
	t := s.t
	const users = 8
	people := make([]*besieged, users)
	for i := range people {
		people[i] = &besieged{
			siege: s, person: s.in.client.newPerson(), random: rand.New(rand.NewPCG(*killSeed, uint64(i))),
		}
		s.in.client.register(*s.replicas[0].url.Load(), people[i].person)
	}
	began := time.Now()
	var work sync.WaitGroup
	for _, p := range people {
		work.Go(p.live)
	}
	var killer sync.WaitGroup
	killer.Go(s.kill)
	work.Wait()
	close(s.over)
	killer.Wait()

	// The last kill, with nobody asking, so that the end is asked of what the
	// disk has.
	for _, r := range s.replicas {
		r.process.kill()
	}
	if s.pg != nil {
		s.pg.kill()
		s.pg.start()
	}
	for _, r := range s.replicas {
		s.startReplica(r)
	}
	var total tally
	for _, p := range people {
		p.reckon()
		total.add(p.tally)
	}
	kills := s.killed["server"]
	t.Logf("kill: logins=%d refreshes=%d sign_outs=%d killed server=%d postgres=%d lost=%d half=%d",
		total.logins, total.refreshes, total.signOuts, kills, s.killed["postgres"], total.lost, total.half)
	t.Logf("requests without an answer %d, answered 503 %d; sign-outs whose answer was lost and never asked for again %d, of which took place %d; logins whose answer was lost %d, of which took place %d; seed %d, %v",
		s.unanswered.Load(), s.unavailable.Load(), total.openSignOuts, total.openEnded, total.openLogins, total.orphans, *killSeed, time.Since(began).Round(time.Second))
	if total.lost > 0 || total.half > 0 {
		t.Error("something that was acknowledged is lost, or something is half done")
	}
	if kills == 0 || s.pg != nil && s.killed["postgres"] == 0 {
		t.Error("nothing was killed")
	}
	for _, r := range s.replicas {
		r.process.terminate()
		r.process.ended()
	}
}

// kill kills at random moments until the work is over: after some more
// acknowledged operations and up to 20 ms. What was killed is started again.
func (s *siege) kill() {
	random := rand.New(rand.NewPCG(*killSeed, 1<<32))
	targets := []string{"server"}
	if s.pg != nil {
		targets = []string{"server", "postgres", "both"}
	}
	every := max(120, *killOperations/40)
	for n := 0; ; n++ {
		for range every/2 + random.IntN(every) {
			select {
			case <-s.reached:
			case <-s.over:
				return
			}
		}
		select {
		case <-time.After(time.Duration(random.IntN(20_000)) * time.Microsecond):
		case <-s.over:
			return
		}
		target := targets[n%len(targets)] // each in its turn, at a random moment
		r := s.replicas[random.IntN(len(s.replicas))]
		if target != "server" {
			s.pg.kill()
			s.killed["postgres"]++
		}
		if target != "postgres" {
			r.process.kill()
			s.killed["server"]++
		}
		if target != "server" {
			s.pg.start()
		}
		if target != "postgres" {
			s.startReplica(r)
		}
	}
}

// tally counts what came of a user's operations.
type tally struct {
	logins, refreshes, signOuts                  int
	openLogins, orphans, openSignOuts, openEnded int
	lost, half                                   int
}

func (t *tally) add(o tally) {
	t.logins, t.refreshes, t.signOuts = t.logins+o.logins, t.refreshes+o.refreshes, t.signOuts+o.signOuts
	t.openLogins, t.orphans = t.openLogins+o.openLogins, t.orphans+o.orphans
	t.openSignOuts, t.openEnded = t.openSignOuts+o.openSignOuts, t.openEnded+o.openEnded
	t.lost, t.half = t.lost+o.lost, t.half+o.half
}

// besieged is a user, and the sessions that the user's clients know of.
type besieged struct {
	*siege
	person
	random             *rand.Rand
	living, open, gone []*sessionOfOne // live, sign-out without an answer, signed out
	tally              tally
}

// sessionOfOne is a session as its client has it.
type sessionOfOne struct {
	id, access, refresh string
	at                  time.Time // of the access token
}

// errUnanswered says that nobody knows whether a request was carried out.
var errUnanswered = errors.New("no answer")

// errRefused says that nobody listened: it was not.
var errRefused = errors.New("nobody listens")

// ask sends a request to a replica. The error is errUnanswered for a
// connection that broke, and for 503 too, or errRefused.
func (b *besieged) ask(method, path, bearer string, body object) (status int, answer []byte, err error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		content = bytes.NewReader(text)
	}
	base := *b.replicas[b.random.IntN(len(b.replicas))].url.Load()
	r, err := http.NewRequestWithContext(b.t.Context(), method, base+path, content)
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	response, err := b.http.Do(r)
	if err == nil {
		defer func() { _ = response.Body.Close() }()
		answer, err = io.ReadAll(response.Body)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return 0, nil, errRefused
	}
	if err != nil {
		b.unanswered.Add(1)
		return 0, nil, errUnanswered
	}
	if response.StatusCode == http.StatusServiceUnavailable {
		b.unavailable.Add(1)
		return response.StatusCode, nil, errUnanswered
	}
	if response.StatusCode >= 500 {
		b.t.Errorf("%s: %d, want 503 when the database is away: %s", path, response.StatusCode, answer)
	}
	return response.StatusCode, answer, nil
}

// again repeats f, with a pause between, until it is answered.
func (b *besieged) again(what string, f func() error) {
	pause := time.NewTicker(50 * time.Millisecond)
	defer pause.Stop()
	end := time.After(patience)
	for f() != nil {
		select {
		case <-pause.C:
		case <-end:
			b.t.Errorf("no answer to %s", what)
			return
		}
	}
}

func (b *besieged) live() {
	const most = 12 // live sessions that get refreshed; the others have had enough
	share := int64(*killOperations)
	for b.operations.Load() < share && !b.t.Failed() {
		known := b.living[max(0, len(b.living)-most):]
		switch n := b.random.IntN(100); {
		case len(known) == 0 || n < 15:
			b.login()
		case n < 29:
			b.signOut(b.random.IntN(len(b.living)))
		default:
			b.refreshOne(known[b.random.IntN(len(known))])
		}
	}
}

func (b *besieged) acknowledged(count *int) {
	*count++
	b.operations.Add(1)
	b.reached <- struct{}{}
}

// take puts the tokens of an answer into a session.
func (o *sessionOfOne) take(answer []byte) error {
	var p pair
	if err := json.Unmarshal(answer, &p); err != nil || p.Access == "" || p.Refresh == "" {
		return fmt.Errorf("half an answer: %q, %w", answer, err)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(p.Access, ".")[1])
	if err != nil {
		return err
	}
	var claims struct{ Sid string }
	if err := json.Unmarshal(payload, &claims); err != nil || claims.Sid == "" {
		return fmt.Errorf("claims %q: %w", payload, err)
	}
	if o.id != "" && o.id != claims.Sid {
		return fmt.Errorf("session %s became %s", o.id, claims.Sid)
	}
	o.id, o.access, o.refresh, o.at = claims.Sid, p.Access, p.Refresh, time.Now()
	return nil
}

func (b *besieged) login() {
	b.again("a login", func() error {
		status, answer, err := b.ask(http.MethodPost, "/authn/token", "", object{"email": b.email, "password": b.password})
		if err != nil {
			if !errors.Is(err, errRefused) {
				b.tally.openLogins++
			}
			return err
		}
		one := &sessionOfOne{}
		if status != http.StatusOK {
			b.t.Errorf("login: %d %s", status, answer)
		} else if err := one.take(answer); err != nil {
			b.t.Error(err)
		} else {
			b.living = append(b.living, one)
			b.acknowledged(&b.tally.logins)
		}
		return nil
	})
}

// refreshOne refreshes until it is answered, by the same token each time.
func (b *besieged) refreshOne(one *sessionOfOne) {
	b.again("a refresh", func() error {
		status, answer, err := b.ask(http.MethodPost, "/authn/token/refresh", "", object{"refresh": one.refresh})
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			b.tally.lost++
			b.t.Errorf("a session was logged out: %d %s", status, answer)
		} else if err := one.take(answer); err != nil {
			b.t.Error(err)
		} else {
			b.acknowledged(&b.tally.refreshes)
		}
		return nil
	})
}

// signOut ends a session by its refresh token or its access token. Some
// clients ask again when there is no answer; others close the window.
func (b *besieged) signOut(n int) {
	one := b.living[n]
	bearer, body := "", object{"refresh": one.refresh}
	if b.random.IntN(2) == 0 && time.Since(one.at) < 3*time.Minute {
		bearer, body = one.access, nil
	}
	b.living = slices.Delete(b.living, n, n+1)
	asksAgain := b.random.IntN(2) == 0
	b.again("a sign-out", func() error {
		status, answer, err := b.ask(http.MethodPost, "/authn/sign_out", bearer, body)
		switch {
		case err != nil && !asksAgain:
			b.open = append(b.open, one)
			b.tally.openSignOuts++
			return nil
		case err != nil:
			return err
		case status != http.StatusNoContent:
			b.t.Errorf("sign-out: %d %s", status, answer)
		default:
			b.gone = append(b.gone, one)
			b.acknowledged(&b.tally.signOuts)
		}
		return nil
	})
}

// reckon compares what the user's clients know with what authn has.
func (b *besieged) reckon() {
	t := b.t
	listed := map[string]bool{}
	me := &sessionOfOne{} // to ask with
	status, answer, err := b.ask(http.MethodPost, "/authn/token", "", object{"email": b.email, "password": b.password})
	if err != nil || status != http.StatusOK || me.take(answer) != nil {
		t.Fatalf("login: %d %s %v", status, answer, err)
	}
	status, answer, err = b.ask(http.MethodGet, "/authn/sessions?limit=1000", me.access, nil)
	var rows []struct{ ID string }
	if err != nil || status != http.StatusOK || json.Unmarshal(answer, &rows) != nil || len(rows) == 1000 {
		t.Fatalf("the sessions: %d %.200s %v", status, answer, err)
	}
	for _, r := range rows {
		listed[r.ID] = true
	}
	delete(listed, me.id)
	// goesOn reports whether a session's last token still gives something.
	goesOn := func(one *sessionOfOne) bool {
		status, answer, err := b.ask(http.MethodPost, "/authn/token/refresh", "", object{"refresh": one.refresh})
		if err != nil || status != http.StatusOK && status != http.StatusUnauthorized {
			t.Fatalf("a refresh at the end: %d %s %v", status, answer, err)
		}
		return status == http.StatusOK
	}
	for _, one := range b.living {
		if !listed[one.id] || !goesOn(one) {
			b.tally.lost++
			t.Errorf("session %s is lost: listed %t", one.id, listed[one.id])
		}
		delete(listed, one.id)
	}
	for _, one := range b.gone {
		if listed[one.id] || goesOn(one) {
			b.tally.lost++
			t.Errorf("the sign-out of session %s is lost: listed %t", one.id, listed[one.id])
		}
		delete(listed, one.id)
	}
	for _, one := range b.open {
		was := listed[one.id]
		if goesOn(one) != was {
			b.tally.half++
			t.Errorf("session %s is half ended: listed %t", one.id, was)
		}
		if !was {
			b.tally.openEnded++
		}
		delete(listed, one.id)
	}
	if b.tally.orphans = len(listed); b.tally.orphans > b.tally.openLogins {
		b.tally.half++
		t.Errorf("%d sessions that nobody asked for, and %d logins without an answer", b.tally.orphans, b.tally.openLogins)
	}
}
