// Package keystest holds the contract of [keys.Store] as a test suite. Every
// store runs it, so that a keeper can't tell one from another.
package keystest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/keys"
)

// Dawn is the moment at which the suite's rings begin.
var Dawn = time.Date(2026, 1, 1, 0, 0, 0, 123_000_000, time.UTC)

// Key makes an Ed25519 key in a state, with a schedule from Dawn on. What is
// sealed in it is no private half: a store must not care.
func Key(t testing.TB, state keys.State) keys.Key {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	k := keys.Key{
		ID: base64.RawURLEncoding.EncodeToString(sum), Alg: jose.EdDSA, Public: public, State: state,
		AnnouncedAt: Dawn, ReadyAt: Dawn.Add(1 * time.Hour), ActivateAt: Dawn.Add(2 * time.Hour),
		RetireAt: Dawn.Add(3 * time.Hour), UnpublishAt: Dawn.Add(4 * time.Hour),
	}
	switch state {
	case keys.Announced, keys.Signing:
		k.Sealed = keys.Sealed("\x01\x02idbox\x00\xff")
	case keys.Revoked:
		k.RevokedAt, k.Reason = Dawn.Add(5*time.Hour), "stolen; «ñ»"
	}
	return k
}

// TestStore runs the suite. open returns a new, empty store.
func TestStore(t *testing.T, open func(t *testing.T) keys.Store) {
	for _, tc := range []struct {
		name string
		run  func(*testing.T, keys.Store)
	}{
		{"a new store is empty", testEmpty},
		{"a ring comes back as it went", testRoundTrip},
		{"a swap replaces the whole ring", testReplace},
		{"a swap from an old version changes nothing", testConflict},
		{"an impossible ring changes nothing", testImpossible},
		{"a cancelled swap changes nothing", testCancelled},
		{"the history is the newest first", testHistory},
		{"of many swaps at once one wins", testRace},
		{"nobody sees half a swap", testAtomic},
		{"sightings: the last of each verifier", testSightings},
		{"sightings: old ones and too many are forgotten", testSightingsBounded},
		{"sightings: many replicas at once", testSightingsRace},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.run(t, open(t))
		})
	}
}

func swap(t testing.TB, s keys.Store, old int64, ring keys.Ring, events ...keys.Event) {
	t.Helper()
	if err := s.Swap(t.Context(), old, ring, events); err != nil {
		t.Fatalf("swap %d: %v", old, err)
	}
}

func load(t testing.TB, s keys.Store) keys.Ring {
	t.Helper()
	ring, err := s.Load(t.Context())
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return ring
}

// want compares what is stored with a ring, whatever the order of its keys.
func want(t testing.TB, s keys.Store, version int64, wanted ...keys.Key) {
	t.Helper()
	got := load(t, s)
	if got.Version != version || len(got.Keys) != len(wanted) {
		t.Fatalf("version %d with %d keys, want version %d with %d", got.Version, len(got.Keys), version, len(wanted))
	}
	for _, w := range wanted {
		g := got.Key(w.ID)
		if g == nil {
			t.Fatalf("%s is missing", w.ID)
		}
		if !g.Public.(ed25519.PublicKey).Equal(w.Public) || !bytes.Equal(g.Sealed, w.Sealed) || (g.Sealed == nil) != (w.Sealed == nil) {
			t.Errorf("the halves of %s changed", w.ID)
		}
		a, b := *g, w
		a.Public, b.Public, a.Sealed, b.Sealed = nil, nil, nil, nil
		if fmt.Sprintf("%+v", a) != fmt.Sprintf("%+v", b) {
			t.Errorf("key is\n%+v, want\n%+v", a, b)
		}
	}
}

func testEmpty(t *testing.T, s keys.Store) {
	want(t, s, 0)
	if events, err := s.History(t.Context(), 10); err != nil || len(events) != 0 {
		t.Errorf("history %v, error %v", events, err)
	}
}

func testRoundTrip(t *testing.T, s keys.Store) {
	var all []keys.Key
	for i, state := range []keys.State{keys.Revoked, keys.Retired, keys.Retiring, keys.Signing, keys.Announced} {
		k := Key(t, state)
		k.AnnouncedAt = Dawn.Add(time.Duration(5-i) * time.Millisecond)
		all = append(all, k)
	}
	swap(t, s, 0, keys.Ring{Keys: all})
	want(t, s, 1, all...)
	if got := load(t, s).Keys; !slices.IsSortedFunc(got, func(a, b keys.Key) int { return a.AnnouncedAt.Compare(b.AnnouncedAt) }) {
		t.Error("the keys aren't oldest first")
	}
}

func testReplace(t *testing.T, s keys.Store) {
	a, b, c := Key(t, keys.Signing), Key(t, keys.Announced), Key(t, keys.Retired)
	swap(t, s, 0, keys.Ring{Keys: []keys.Key{a, b, c}})
	// A hand-over: at no moment may the store think that two keys sign.
	a.State, a.Sealed, a.RetireAt = keys.Retiring, nil, Dawn.Add(time.Minute)
	b.State = keys.Signing
	d := Key(t, keys.Announced)
	swap(t, s, 1, keys.Ring{Keys: []keys.Key{b, d, a}})
	want(t, s, 2, a, b, d)
}

func testConflict(t *testing.T, s keys.Store) {
	a, b := Key(t, keys.Signing), Key(t, keys.Signing)
	swap(t, s, 0, keys.Ring{Keys: []keys.Key{a}}, keys.Event{At: Dawn, KeyID: a.ID})
	for _, old := range []int64{-1, 0, 2, 7} {
		err := s.Swap(t.Context(), old, keys.Ring{Keys: []keys.Key{b}}, []keys.Event{{At: Dawn, KeyID: b.ID}})
		if !errors.Is(err, keys.ErrConflict) {
			t.Errorf("swap from version %d: error %v, want ErrConflict", old, err)
		}
	}
	want(t, s, 1, a)
	if events, _ := s.History(t.Context(), 10); len(events) != 1 {
		t.Errorf("history %v", events)
	}
}

// What a fault in the code above would bring is refused below as well.
func testImpossible(t *testing.T, s keys.Store) {
	a := Key(t, keys.Signing)
	swap(t, s, 0, keys.Ring{Keys: []keys.Key{a}})
	outlived := Key(t, keys.Retiring)
	outlived.Sealed = a.Sealed
	for name, ring := range map[string][]keys.Key{
		"two signing keys":              {a, Key(t, keys.Signing)},
		"one key twice":                 {a, a},
		"a private half after its time": {a, outlived},
		"a state that doesn't exist":    {a, Key(t, "resting")},
	} {
		if err := s.Swap(t.Context(), 1, keys.Ring{Keys: ring}, nil); err == nil || errors.Is(err, keys.ErrConflict) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	want(t, s, 1, a)
}

func testCancelled(t *testing.T, s keys.Store) {
	a := Key(t, keys.Signing)
	swap(t, s, 0, keys.Ring{Keys: []keys.Key{a}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Swap(ctx, 1, keys.Ring{Keys: []keys.Key{Key(t, keys.Signing)}}, nil); err == nil {
		t.Error("a cancelled swap succeeded")
	}
	if _, err := s.Load(ctx); err == nil {
		t.Error("a cancelled load succeeded")
	}
	want(t, s, 1, a)
}

func testHistory(t *testing.T, s keys.Store) {
	k := Key(t, keys.Signing)
	ring := keys.Ring{Keys: []keys.Key{k}}
	var wanted []keys.Event
	for v := range int64(3) {
		var events []keys.Event
		for i := range 3 {
			events = append(events, keys.Event{
				At: Dawn.Add(time.Duration(i) * time.Millisecond), KeyID: k.ID, Alg: k.Alg,
				From: keys.Announced, To: keys.Signing, Actor: "ana", Reason: fmt.Sprintf("reason %d.%d", v, i),
			})
		}
		swap(t, s, v, ring, events...)
		for _, e := range events {
			e.Version = v + 1
			wanted = append([]keys.Event{e}, wanted...)
		}
	}
	for _, limit := range []int{1, 4, 9, 100} {
		got, err := s.History(t.Context(), limit)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, wanted[:min(limit, len(wanted))]) {
			t.Errorf("limit %d: history is\n%v, want\n%v", limit, got, wanted)
		}
	}
}

func testRace(t *testing.T, s keys.Store) {
	const replicas, rounds = 10, 5
	for round := range int64(rounds) {
		var group sync.WaitGroup
		errs := make([]error, replicas)
		rings := make([]keys.Ring, replicas)
		for i := range replicas {
			rings[i] = keys.Ring{Keys: []keys.Key{Key(t, keys.Signing)}}
			group.Go(func() {
				errs[i] = s.Swap(t.Context(), round, rings[i], []keys.Event{{At: Dawn, KeyID: rings[i].Keys[0].ID}})
			})
		}
		group.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner < 0:
				winner = i
			case err == nil:
				t.Fatal("two swaps from one version succeeded")
			case !errors.Is(err, keys.ErrConflict):
				t.Fatalf("error %v, want ErrConflict", err)
			}
		}
		if winner < 0 {
			t.Fatal("no swap succeeded")
		}
		want(t, s, round+1, rings[winner].Keys...)
	}
	if events, err := s.History(t.Context(), 100); err != nil || len(events) != rounds {
		t.Errorf("%d events of %d swaps, error %v", len(events), rounds, err)
	}
}

func testAtomic(t *testing.T, s keys.Store) {
	// Each ring has as many keys as its version says.
	const swaps = 30
	var all []keys.Key
	for range swaps {
		all = append(all, Key(t, keys.Announced))
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				ring, err := s.Load(t.Context())
				if err != nil || int64(len(ring.Keys)) != ring.Version {
					t.Errorf("version %d has %d keys, error %v", ring.Version, len(ring.Keys), err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for v := range int64(swaps) {
		if err := s.Swap(t.Context(), v, keys.Ring{Keys: all[:v+1]}, nil); err != nil {
			t.Errorf("swap %d: %v", v, err)
			break
		}
	}
	close(done)
	readers.Wait()
}

func sightings(t testing.TB, s keys.Store) []keys.Sighting {
	t.Helper()
	found, err := s.Sightings(t.Context())
	if err != nil {
		t.Fatalf("sightings: %v", err)
	}
	return found
}

func note(t testing.TB, s keys.Store, noted ...keys.Sighting) {
	t.Helper()
	if err := s.Note(t.Context(), noted); err != nil {
		t.Fatalf("note: %v", err)
	}
}

func testSightings(t *testing.T, s keys.Store) {
	if found := sightings(t, s); len(found) != 0 {
		t.Errorf("a new store has %v", found)
	}
	note(t, s)
	b := keys.Sighting{Verifier: "b", ETag: `"1"`, Keys: []string{"x", "y"}, At: Dawn}
	none := keys.Sighting{Verifier: "A", At: Dawn.Add(time.Millisecond)}
	note(t, s, b, none)
	older, newer := b, b
	older.ETag, older.At = `"0"`, Dawn.Add(-time.Millisecond)
	newer.ETag, newer.Keys, newer.At = `"2"`, []string{"y"}, Dawn.Add(time.Hour)
	equal := func(wanted ...keys.Sighting) {
		t.Helper()
		found := sightings(t, s)
		if len(found) != len(wanted) {
			t.Fatalf("sightings are %v, want %v", found, wanted)
		}
		for i, w := range wanted {
			if g := found[i]; g.Verifier != w.Verifier || g.ETag != w.ETag || !slices.Equal(g.Keys, w.Keys) || !g.At.Equal(w.At) || g.At.Location() != time.UTC {
				t.Errorf("sighting is %+v, want %+v", g, w)
			}
		}
	}
	note(t, s, older)
	equal(none, b)
	note(t, s, newer)
	equal(none, newer)
	swap(t, s, 0, keys.Ring{Keys: []keys.Key{Key(t, keys.Signing)}}) // the ring and they don't meet
	equal(none, newer)
}

func testSightingsBounded(t *testing.T, s keys.Store) {
	many := make([]keys.Sighting, 3*keys.MaxSightings)
	for i := range many {
		many[i] = keys.Sighting{Verifier: fmt.Sprintf("v%04d", i), At: Dawn.Add(time.Duration(i) * time.Millisecond)}
	}
	note(t, s, many...)
	found := sightings(t, s)
	if n := len(found); n < keys.MaxSightings || n > 2*keys.MaxSightings || found[n-1].Verifier != many[len(many)-1].Verifier {
		t.Errorf("of %d verifiers %d are remembered, the last is %s", len(many), n, found[n-1].Verifier)
	}
	note(t, s, keys.Sighting{Verifier: "late", At: Dawn.Add(365 * 24 * time.Hour)})
	if found := sightings(t, s); len(found) != 1 || found[0].Verifier != "late" {
		t.Errorf("a year later %d are remembered", len(found))
	}
}

func testSightingsRace(t *testing.T, s keys.Store) {
	const replicas, verifiers = 8, 20
	var group sync.WaitGroup
	for r := range replicas {
		group.Go(func() {
			var noted []keys.Sighting
			for v := range verifiers {
				noted = append(noted, keys.Sighting{Verifier: fmt.Sprint(v), At: Dawn.Add(time.Duration(r) * time.Second)})
			}
			if r%2 == 0 { // in any order
				slices.Reverse(noted)
			}
			if err := s.Note(t.Context(), noted); err != nil {
				t.Errorf("note: %v", err)
			}
		})
	}
	group.Wait()
	for _, one := range sightings(t, s) {
		if !one.At.Equal(Dawn.Add((replicas - 1) * time.Second)) {
			t.Errorf("%s was last seen at %v", one.Verifier, one.At)
		}
	}
}
