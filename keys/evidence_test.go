package keys_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/jmoiron/sqlx"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/test/engines"
)

func sighting(verifier string, kids ...string) keys.Sighting {
	return keys.Sighting{Verifier: verifier, ETag: `"e"`, Keys: kids, At: dawn}
}

// What holds a rotation back, what doesn't, and for how long.
func TestEvidenceHoldsBackWhatIsPlanned(t *testing.T) {
	hold := keys.DefaultPolicy().MaxHold
	both := []keys.Sighting{sighting("a", "EdDSA-1", "EdDSA-2"), sighting("b", "EdDSA-2")}
	one := []keys.Sighting{sighting("a", "EdDSA-1", "EdDSA-2"), sighting("b", "EdDSA-1"), sighting("c", "EdDSA-2")}
	for _, tc := range []struct {
		name     string
		activate keys.Activation
		evidence keys.Evidence
		late     time.Duration // since its moment
		before   func(h *history)
		held     bool
	}{
		{name: "on schedule, nothing is known", activate: keys.OnSchedule},
		{name: "on schedule, a verifier is behind", activate: keys.OnSchedule, evidence: keys.Evidence{Sightings: one}},
		{name: "on schedule, the JWKS is out of reach", activate: keys.OnSchedule, evidence: keys.Evidence{Unserved: true}, held: true},
		{name: "the JWKS is out of reach until the deadline", activate: keys.OnSchedule, evidence: keys.Evidence{Unserved: true}, late: hold - time.Millisecond, held: true},
		{name: "the JWKS is out of reach at the deadline", activate: keys.OnSchedule, evidence: keys.Evidence{Unserved: true}, late: hold},
		{name: "on evidence, nothing is known", activate: keys.OnEvidence, held: true},
		{name: "on evidence, one of two", activate: keys.OnEvidence, evidence: keys.Evidence{Sightings: one}, held: true},
		{name: "on evidence, both", activate: keys.OnEvidence, evidence: keys.Evidence{Sightings: both}},
		{name: "on evidence, both, the JWKS out of reach", activate: keys.OnEvidence, evidence: keys.Evidence{Sightings: both, Unserved: true}, held: true},
		{name: "on evidence, until the deadline", activate: keys.OnEvidence, late: hold - time.Millisecond, held: true},
		{name: "on evidence, at the deadline", activate: keys.OnEvidence, late: hold},
		{name: "an emergency, before the key is ready", activate: keys.OnEvidence, evidence: keys.Evidence{Unserved: true}, before: func(h *history) {
			h.now = dawn.Add(time.Minute)
			h.ring, _, _ = keys.Rotate(h.now, h.ring, jose.EdDSA, true)
		}},
		{name: "an emergency while it is held back", activate: keys.OnEvidence, evidence: keys.Evidence{Unserved: true}, before: func(h *history) {
			h.ring, _, _ = keys.Rotate(h.now, h.ring, jose.EdDSA, true)
		}},
		{name: "asked for, not in an emergency", activate: keys.OnEvidence, before: func(h *history) {
			h.now = dawn.Add(h.policy.AnnounceLead)
			h.ring, _, _ = keys.Rotate(h.now, h.ring, jose.EdDSA, false)
		}, held: true},
		{name: "the signing key is revoked", activate: keys.OnEvidence, evidence: keys.Evidence{Unserved: true}, before: func(h *history) {
			h.now = dawn.Add(time.Minute)
			h.ring, _, _ = keys.Revoke(h.now, h.ring, "EdDSA-1", "stolen")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHistory(t, jose.EdDSA)
			h.policy.Activate, h.policy.Registered = tc.activate, []string{"a", "b"}
			if err := h.policy.Validate(); err != nil {
				t.Fatal(err)
			}
			h.settle()
			h.now = dawn.Add(h.policy.RotationPeriod + tc.late)
			if tc.before != nil {
				tc.before(h)
			}
			holdable := keys.Holdable(h.now, h.ring, h.policy)
			needs := keys.Needs(h.now, h.ring, h.policy, tc.evidence)
			after, _ := keys.Step(h.now, h.ring, nil, h.policy, tc.evidence)
			if held := after.Key("EdDSA-2").State == keys.Announced; held != tc.held {
				t.Errorf("held %v, want %v", held, tc.held)
			}
			if tc.held && (len(holdable) != 1 || len(needs) != 0) {
				t.Errorf("holdable %v, needs %v", holdable, needs)
			}
			if !tc.held && len(needs) != 1 {
				t.Errorf("needs %v, want a successor", needs)
			}
		})
	}
}

// The key that flushes verifiers after a revocation isn't held back either.
func TestAFlushIsNotHeldBack(t *testing.T) {
	h := newHistory(t, jose.EdDSA)
	h.settle()
	h.at(10 * 24 * time.Hour)
	h.ring, _, _ = keys.Revoke(h.now, h.ring, "EdDSA-1", "stolen")
	h.settle()
	h.want("EdDSA-1:revoked EdDSA-2:signing EdDSA-3:announced")
	h.now = h.now.Add(h.policy.AnnounceLead)
	h.ring, _ = keys.Step(h.now, h.ring, nil, h.policy, keys.Evidence{Unserved: true})
	if k := h.ring.Signing(jose.EdDSA); k.ID != "EdDSA-3" {
		t.Errorf("%s signs, want the fresh key", k.ID)
	}
}

func TestHolding(t *testing.T) {
	seen := []keys.Sighting{sighting("a", "x", "y"), sighting("b", "x"), sighting("z", "y")}
	holding, missing := keys.Holding("y", []string{"a", "b", "c"}, seen)
	if fmt.Sprint(holding, missing) != "[a] [b c]" {
		t.Errorf("%v hold it, %v don't", holding, missing)
	}
}

// notes counts how often sightings are written.
type notes struct {
	keys.Store
	mu    sync.Mutex
	notes int
	cut   bool
}

func (n *notes) Note(ctx context.Context, s []keys.Sighting) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut {
		return errCut
	}
	n.notes++
	return n.Store.Note(ctx, s)
}

func TestSightingsAreWrittenSeldom(t *testing.T) {
	store := &notes{Store: memory(t)}
	c := &clock{now: dawn}
	p := edOnly()
	p.Registered = []string{"inmuebles"}
	k := newKeeper(t, store, p, keys.Options{Now: c.Now})
	tick(t, k, k)
	old, _ := k.JWKS()
	sightings := func() string {
		t.Helper()
		found, err := store.Sightings(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, s := range found {
			out = append(out, fmt.Sprintf("%s %d keys", s.Verifier, len(s.Keys)))
		}
		return strings.Join(out, ", ")
	}

	k.Saw("inmuebles", "") // it starts, and holds nothing
	for range 100 {
		k.Saw("inmuebles", "W/"+old.ETag)
	}
	store.cut = true
	tick(t, k) // a failure costs nothing but time
	store.cut = false
	for range 10 {
		tick(t, k)
		k.Saw("inmuebles", old.ETag)
	}
	if got := sightings(); store.notes != 1 || got != "inmuebles 2 keys" {
		t.Errorf("%d writes, of %q", store.notes, got)
	}

	// A new set, and still somebody who holds the old one.
	c.set(p.AnnounceLead)
	if err := k.Rotate(t.Context(), jose.EdDSA, false); err != nil {
		t.Fatal(err)
	}
	k.Saw("inmuebles", old.ETag)
	k.Saw("map", old.ETag)
	tick(t, k)
	holding, missing := keys.Holding(k.Ring().Standby(jose.EdDSA).ID, []string{"inmuebles", "map"}, mustSee(t, store))
	if len(holding) != 0 || len(missing) != 2 {
		t.Errorf("%v hold the new key", holding)
	}
	now, _ := k.JWKS()
	k.Saw("map", now.ETag)
	tick(t, k)
	holding, _ = keys.Holding(k.Ring().Standby(jose.EdDSA).ID, []string{"inmuebles", "map"}, mustSee(t, store))
	if fmt.Sprint(holding) != "[map]" {
		t.Errorf("%v hold the new key", holding)
	}

	// A set that nobody has served changes nothing; a name that can't be
	// one, and more names than there is room for, are dropped.
	written := store.notes
	k.Saw("map", `"made-up"`)
	for _, name := range []string{"", "a b", "a,b", "ñ", strings.Repeat("x", keys.MaxVerifierName+1), "a\n"} {
		k.Saw(name, now.ETag)
	}
	tick(t, k)
	if store.notes != written {
		t.Errorf("written %s", sightings())
	}
	for i := range 10 * keys.MaxSightings {
		k.Saw(fmt.Sprint("flood-", i), now.ETag)
	}
	k.Saw("inmuebles", now.ETag)
	tick(t, k)
	found := mustSee(t, store)
	if len(found) > keys.MaxSightings {
		t.Errorf("%d verifiers are remembered", len(found))
	}
	if holding, _ := keys.Holding(k.Ring().Standby(jose.EdDSA).ID, []string{"inmuebles"}, found); len(holding) != 1 {
		t.Error("a flood of names drove out the registered one")
	}

	// A restart doesn't make room for more.
	again := newKeeper(t, store, p, keys.Options{Now: c.Now})
	tick(t, again)
	again.Saw("x", now.ETag)
	tick(t, again)
	for i := range 10 * keys.MaxSightings {
		again.Saw(fmt.Sprint("second-flood-", i), now.ETag)
	}
	tick(t, again)
	if found := mustSee(t, store); len(found) > keys.MaxSightings+1 {
		t.Errorf("%d verifiers are remembered after a restart", len(found))
	}
}

func mustSee(t testing.TB, s keys.Store) []keys.Sighting {
	t.Helper()
	found, err := s.Sightings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// The whole way: two replicas, a verifier that fetches now from one and now
// from the other, and a rotation that waits for it.
func TestARotationWaitsForItsVerifier(t *testing.T) {
	store := memory(t)
	c := &clock{now: dawn}
	p := edOnly()
	p.Activate, p.Registered = keys.OnEvidence, []string{"inmuebles"}
	a, b := newKeeper(t, store, p, keys.Options{Now: c.Now}), newKeeper(t, store, p, keys.Options{Now: c.Now})
	tick(t, a, a, b)
	first := a.Ring().Signing(jose.EdDSA).ID
	c.set(p.RotationPeriod)
	tick(t, a, b)
	if got := a.Ring().Signing(jose.EdDSA).ID; got != first || a.Stats().Held != 1 {
		t.Fatalf("%s signs before its verifier holds it; held: %d", got, a.Stats().Held)
	}
	set, _ := b.JWKS()
	b.Saw("inmuebles", set.ETag)
	tick(t, b, a)
	if got := a.Ring().Signing(jose.EdDSA).ID; got == first || a.Stats().Held != 0 {
		t.Errorf("it doesn't rotate though its verifier holds the key; held: %d", a.Stats().Held)
	}

	// The next time nobody says anything.
	second := a.Ring().Signing(jose.EdDSA).ID
	c.set(2*p.RotationPeriod + p.MaxHold - time.Minute)
	tick(t, a, b)
	if got := a.Ring().Signing(jose.EdDSA).ID; got != second {
		// The set of the first rotation holds the key after next already.
		if holding, _ := keys.Holding(got, p.Registered, mustSee(t, store)); len(holding) != 1 {
			t.Errorf("it rotates to %s, which its verifier doesn't hold, before the deadline", got)
		}
	}
	c.set(2*p.RotationPeriod + p.MaxHold)
	tick(t, a, b)
	if got := a.Ring().Signing(jose.EdDSA).ID; got == second {
		t.Error("it is held back beyond the deadline")
	}
}

func TestAProbeThatFails(t *testing.T) {
	store := memory(t)
	c := &clock{now: dawn}
	p := edOnly()
	var asked int
	reach := errCut
	probe := func(context.Context) error { asked++; return reach }
	k := newKeeper(t, store, p, keys.Options{Now: c.Now, Probe: probe})
	tick(t, k, k, k)
	if asked != 0 {
		t.Errorf("the probe was asked %d times with nothing due", asked)
	}
	first := k.Ring().Signing(jose.EdDSA).ID
	c.set(p.RotationPeriod)
	tick(t, k)
	if got := k.Ring().Signing(jose.EdDSA).ID; got != first || asked != 1 || k.Stats().Held != 1 {
		t.Errorf("%s signs; asked %d times, held %d", got, asked, k.Stats().Held)
	}
	if err := k.Check(t.Context()); err != nil {
		t.Errorf("a rotation that waits makes it unready: %v", err)
	}
	// An emergency doesn't ask.
	if err := k.Rotate(t.Context(), jose.EdDSA, true); err != nil {
		t.Fatal(err)
	}
	second := k.Ring().Signing(jose.EdDSA).ID
	if second == first || asked != 1 {
		t.Errorf("%s signs; asked %d times", second, asked)
	}
	c.set(2 * p.RotationPeriod)
	tick(t, k)
	reach = nil
	tick(t, k)
	if got := k.Ring().Signing(jose.EdDSA).ID; got == second || asked != 3 {
		t.Errorf("%s signs after the JWKS came back; asked %d times", got, asked)
	}

	// A replica that has just started serves nothing yet, and doesn't ask.
	c.set(3*p.RotationPeriod + time.Minute)
	third := k.Ring().Signing(jose.EdDSA).ID
	started := newKeeper(t, store, p, keys.Options{Now: c.Now, Probe: probe})
	tick(t, started)
	if got := started.Ring().Signing(jose.EdDSA).ID; got != third || asked != 3 {
		t.Errorf("%s signs at the first tick; asked %d times", got, asked)
	}
	tick(t, started)
	if got := started.Ring().Signing(jose.EdDSA).ID; got == third {
		t.Error("the second tick doesn't rotate")
	}
}

// clocked is a store with a clock of its own.
type clocked struct {
	keys.Store
	now func() time.Time
}

func (s clocked) LoadAt(ctx context.Context) (keys.Ring, time.Time, error) {
	ring, err := s.Load(ctx)
	return ring, s.now(), err
}

func TestAWrongClock(t *testing.T) {
	truth := &clock{now: dawn}
	store := memory(t)
	p := edOnly()
	right := newKeeper(t, clocked{store, truth.Now}, p, keys.Options{Now: truth.Now})
	tick(t, right, right)
	for _, tc := range []struct {
		off  time.Duration
		want error
		says string
	}{
		{0, nil, ""},
		{p.Skew / 2, nil, ""},
		{-p.Skew / 2, nil, ""},
		{p.Skew/2 + time.Millisecond, keys.ErrClock, "5.001s ahead of the database's"},
		{-p.Skew/2 - time.Millisecond, keys.ErrClock, "5.001s behind the database's"},
		{24 * 365 * time.Hour, keys.ErrClock, "ahead"},
	} {
		t.Run(fmt.Sprint(tc.off), func(t *testing.T) {
			version := right.Ring().Version
			k := newKeeper(t, clocked{store, truth.Now}, p, keys.Options{Now: func() time.Time { return truth.Now().Add(tc.off) }})
			err := k.Tick(t.Context())
			if tc.off < 24*time.Hour && err != nil {
				t.Fatalf("tick: %v", err) // there is nothing to change
			}
			if tc.off > 24*time.Hour && !errors.Is(err, keys.ErrClock) {
				t.Errorf("a change with a wrong clock: error %v, want ErrClock", err)
			}
			if err := k.Check(t.Context()); !errors.Is(err, tc.want) || err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("Check: %v, want %v", err, tc.want)
			}
			tick(t, right)
			if right.Ring().Version != version {
				t.Error("the ring was changed")
			}
			if _, err := k.JWKS(); err != nil {
				t.Errorf("it doesn't serve the ring: %v", err)
			}
		})
	}
	// On an empty store it makes no first key.
	k := newKeeper(t, clocked{memory(t), truth.Now}, p, keys.Options{Now: func() time.Time { return dawn.Add(time.Hour) }})
	if err := k.Tick(t.Context()); !errors.Is(err, keys.ErrClock) {
		t.Errorf("error %v, want ErrClock", err)
	}
	if err := k.Check(t.Context()); !errors.Is(err, keys.ErrNotReady) || !errors.Is(err, keys.ErrClock) {
		t.Errorf("Check: %v, want ErrNotReady and why", err)
	}
}

// The real clock of a real database.
func TestTheDatabasesClock(t *testing.T) {
	eachEngine(t, func(t *testing.T, open func(testing.TB) *sqlx.DB) {
		store := keys.NewSQLStore(open(t))
		ring, stored, err := store.LoadAt(t.Context())
		if err != nil || ring.Version != 0 {
			t.Fatalf("%v, %v", ring, err)
		}
		if strings.Contains(t.Name(), "SQLite") != stored.IsZero() {
			t.Errorf("the store's clock says %v", stored)
		}
		p := edOnly()
		off := newKeeper(t, store, p, keys.Options{Now: func() time.Time { return time.Now().Add(time.Hour) }})
		if err := off.Tick(t.Context()); errors.Is(err, keys.ErrClock) != !stored.IsZero() {
			t.Errorf("an hour ahead: %v", err)
		}
	})
}

// Another replica hears of a swap without asking.
func TestListen(t *testing.T) {
	url := engines.PostgresURL(t)
	db := postgresAt(t, url)
	store := keys.NewSQLStore(db)
	woken := make(chan struct{}, 100)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	k := newKeeper(t, store, edOnly(), keys.Options{})
	go func() { done <- keys.Listen(ctx, url, discard, func() { woken <- struct{}{} }) }()
	wait := func(why string) {
		t.Helper()
		select {
		case <-woken:
		case err := <-done:
			t.Fatalf("Listen ended: %v", err)
		case <-ctx.Done():
			t.Fatalf("not woken %s", why)
		}
	}
	wait("when it begins")
	tick(t, k)
	wait("by a swap")
	if len(woken) != 0 {
		t.Errorf("woken %d times by one swap", len(woken)+1)
	}
	// A swap that is lost tells nobody; a lost connection is made again, and
	// then wakes for what was missed.
	if err := store.Swap(ctx, 0, keys.Ring{}, nil); !errors.Is(err, keys.ErrConflict) {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND query LIKE 'LISTEN%'`); err != nil {
		t.Fatal(err)
	}
	wait("by a new connection")
	tick(t, k)
	wait("by a swap after it")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Listen: %v", err)
	}
}

// Of a thousand rotations asked for at once, by ten replicas, what is left is
// a legal ring.
func TestAThousandRotationsAtOnce(t *testing.T) {
	eachEngine(t, func(t *testing.T, open func(testing.TB) *sqlx.DB) {
		store := keys.NewSQLStore(open(t))
		keepers := make([]*keys.Keeper, 10)
		for i := range keepers {
			keepers[i] = newKeeper(t, store, edOnly(), keys.Options{Name: fmt.Sprint("replica ", i)})
			tick(t, keepers[i])
		}
		tick(t, keepers[0])
		var group sync.WaitGroup
		var mu sync.Mutex
		rotated := 0
		for i := range 1000 {
			group.Go(func() {
				err := keepers[i%10].Rotate(t.Context(), jose.EdDSA, i%50 == 0)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					rotated++
				case !errors.Is(err, keys.ErrConflict): // a hundred lost swaps in a row
					t.Errorf("rotate: %v", err)
				}
			})
		}
		group.Wait()
		ring, err := store.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		count := map[keys.State]int{}
		for _, k := range ring.Keys {
			count[k.State]++
			if (k.Sealed != nil) != (k.State == keys.Announced || k.State == keys.Signing) {
				t.Errorf("%s is %s, and its private half is %v", k.ID, k.State, k.Sealed)
			}
		}
		if count[keys.Signing] != 1 || count[keys.Announced] != 1 || rotated == 0 {
			t.Errorf("%d rotations left %v", rotated, count)
		}
		// Each of the twenty emergencies was made, once.
		if emergencies := count[keys.Retiring]; emergencies != 20 {
			t.Errorf("%d keys were replaced by 20 emergencies", emergencies)
		}
		for _, k := range keepers {
			tick(t, k)
			if err := verify(t, keepers[0], sign(t, k, jose.EdDSA)); err != nil {
				t.Errorf("a replica's token: %v", err)
			}
		}
		events, err := store.History(t.Context(), 100_000)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(events, func(e keys.Event) bool { return strings.Contains(e.Reason, "emergency") }) {
			t.Error("the history knows of no emergency")
		}
	})
}
