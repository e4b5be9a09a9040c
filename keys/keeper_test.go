package keys_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/jmoiron/sqlx"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/cli/database"
)

// clock is a time of day that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) set(after time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = dawn.Add(after)
}

// wire is a store that can be cut, counts what goes through it, and lets a
// test act before a swap.
type wire struct {
	keys.Store
	mu           sync.Mutex
	cut          bool
	loads, swaps int
	beforeSwap   func()
}

var errCut = errors.New("the wire is cut")

func (w *wire) Load(ctx context.Context) (keys.Ring, error) {
	w.mu.Lock()
	w.loads++
	cut := w.cut
	w.mu.Unlock()
	if cut {
		return keys.Ring{}, errCut
	}
	return w.Store.Load(ctx)
}

func (w *wire) Swap(ctx context.Context, old int64, next keys.Ring, events []keys.Event) error {
	w.mu.Lock()
	w.swaps++
	act := w.beforeSwap
	w.beforeSwap = nil
	w.mu.Unlock()
	if act != nil {
		act()
	}
	return w.Store.Swap(ctx, old, next, events)
}

func (w *wire) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
}

// memory is a store that lives in the test's process.
func memory(t testing.TB) keys.Store {
	t.Helper()
	db, err := database.OpenSQL(t.Context(), "sqlite::memory:", database.Normal)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if _, err := migrations.Up(t.Context(), db.Write.DB, migrations.AuthnSQLite); err != nil {
		t.Fatal(err)
	}
	return keys.NewSQLStore(db.Write)
}

// edOnly spares a test the making of RSA keys.
func edOnly() keys.Policy {
	p := keys.DefaultPolicy()
	p.Algorithms = []jose.SignatureAlgorithm{jose.EdDSA}
	return p
}

func newSealer(t testing.TB, newest keys.SealingKey, older ...keys.SealingKey) keys.Sealer {
	t.Helper()
	s, err := keys.NewSealer(newest, older...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var discard = slog.New(slog.DiscardHandler)

var testSealingKey = keys.GenerateSealingKey()

func newKeeper(t testing.TB, store keys.Store, policy keys.Policy, options keys.Options) *keys.Keeper {
	t.Helper()
	if options.Logger == nil {
		options.Logger = discard
	}
	k, err := keys.NewKeeper(store, newSealer(t, testSealingKey), policy, options)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func tick(t testing.TB, keepers ...*keys.Keeper) {
	t.Helper()
	for _, k := range keepers {
		if err := k.Tick(t.Context()); err != nil {
			t.Fatalf("tick: %v", err)
		}
	}
}

func sign(t testing.TB, k *keys.Keeper, alg jose.SignatureAlgorithm) string {
	t.Helper()
	signer, err := k.Signer(alg)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signer.Sign("at+jwt", []byte(`{"sub":"ana"}`))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// verify checks a token as a third party would: with nothing but the JWKS.
func verify(t testing.TB, k *keys.Keeper, token string) error {
	t.Helper()
	doc, err := k.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(doc.Body, &set); err != nil {
		t.Fatal(err)
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.EdDSA, jose.RS256, jose.ES256, jose.PS256})
	if err != nil {
		t.Fatal(err)
	}
	found := set.Key(jws.Signatures[0].Header.KeyID)
	if len(found) != 1 {
		return keys.ErrNoKey
	}
	if found[0].Algorithm != jws.Signatures[0].Header.Algorithm {
		t.Errorf("the header says %s, the JWK %s", jws.Signatures[0].Header.Algorithm, found[0].Algorithm)
	}
	payload, err := jws.Verify(found[0])
	if err == nil && string(payload) != `{"sub":"ana"}` {
		t.Errorf("payload is %s", payload)
	}
	return err
}

func TestKeeperRefusesAnUnsafePolicy(t *testing.T) {
	p := keys.DefaultPolicy()
	p.AnnounceLead = time.Minute
	if _, err := keys.NewKeeper(nil, nil, p, keys.Options{}); !errors.Is(err, keys.ErrPolicy) {
		t.Errorf("error %v, want ErrPolicy", err)
	}
}

func TestKeeperBeforeItsFirstTick(t *testing.T) {
	k := newKeeper(t, memory(t), edOnly(), keys.Options{})
	if _, err := k.Signer(jose.EdDSA); !errors.Is(err, keys.ErrNotReady) {
		t.Errorf("Signer: error %v, want ErrNotReady", err)
	}
	if _, err := k.JWKS(); !errors.Is(err, keys.ErrNotReady) {
		t.Errorf("JWKS: error %v, want ErrNotReady", err)
	}
	if err := k.Check(t.Context()); !errors.Is(err, keys.ErrNotReady) {
		t.Errorf("Check: error %v, want ErrNotReady", err)
	}
	if _, ok := k.PublicKey("x"); ok || len(k.Ring().Keys) != 0 {
		t.Error("there are keys before the first tick")
	}
}

// go-jose is the judge of what we sign by hand.
func TestTokensOfEveryAlgorithm(t *testing.T) {
	p := keys.DefaultPolicy()
	p.Algorithms = []jose.SignatureAlgorithm{jose.EdDSA, jose.RS256, jose.ES256, jose.PS256}
	k := newKeeper(t, memory(t), p, keys.Options{})
	tick(t, k)
	for _, alg := range p.Algorithms {
		for range 20 { // ECDSA's numbers vary in length
			token := sign(t, k, alg)
			if err := verify(t, k, token); err != nil {
				t.Fatalf("%s: %v", alg, err)
			}
			signer, _ := k.Signer(alg)
			header, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
			if want := fmt.Sprintf(`{"alg":"%s","kid":"%s","typ":"at+jwt"}`, alg, signer.KeyID()); err != nil || string(header) != want {
				t.Fatalf("header is %s, want %s", header, want)
			}
			if key, ok := k.PublicKey(signer.KeyID()); !ok || key.Algorithm != string(alg) || signer.Algorithm() != alg {
				t.Fatalf("the public half is %+v", key)
			}
		}
	}
	signer, _ := k.Signer(jose.EdDSA)
	for _, typ := range []string{"", `JWT"`, "a\\b", "a b", "ñ", "a\x00", strings.Repeat("a", 200)} {
		if _, err := signer.Sign(typ, nil); !errors.Is(err, keys.ErrType) {
			t.Errorf("typ %q: error %v, want ErrType", typ, err)
		}
	}
	if _, err := k.Signer(jose.HS256); !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("HS256: error %v, want ErrNoKey", err)
	}
}

func TestJWKS(t *testing.T) {
	p := keys.DefaultPolicy()
	p.Algorithms = append(p.Algorithms, jose.ES256)
	store := memory(t)
	a, b := newKeeper(t, store, p, keys.Options{}), newKeeper(t, store, p, keys.Options{})
	tick(t, a, a, b)
	doc, _ := a.JWKS()
	other, _ := b.JWKS()
	if !bytes.Equal(doc.Body, other.Body) || doc.ETag != other.ETag {
		t.Errorf("two replicas serve\n%s and\n%s", doc.Body, other.Body)
	}
	if doc.CacheControl != "public, max-age=300" || doc.MaxAge != 300*time.Second || doc.ContentType != "application/jwk-set+json" {
		t.Errorf("document is %+v", doc)
	}
	if len(doc.ETag) < 20 || doc.ETag[0] != '"' || doc.ETag[len(doc.ETag)-1] != '"' {
		t.Errorf("ETag is %s", doc.ETag)
	}
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(doc.Body, &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 6 {
		t.Errorf("%d keys, want one that signs and one stand-by for each of 3 algorithms", len(set.Keys))
	}
	members := map[string]string{
		"EdDSA": "alg crv kid kty use x",
		"RS256": "alg e kid kty n use",
		"ES256": "alg crv kid kty use x y",
	}
	for _, k := range set.Keys {
		names := strings.Join(slices.Sorted(maps.Keys(k)), " ")
		if names != members[k["alg"]] || k["use"] != "sig" {
			t.Errorf("the members of %s are %s", k["alg"], names)
		}
	}
}

func TestARingThatCantBeOpened(t *testing.T) {
	store := memory(t)
	tick(t, newKeeper(t, store, edOnly(), keys.Options{}))
	before, _ := store.Load(t.Context())
	foreign, _ := keys.NewKeeper(store, newSealer(t, keys.GenerateSealingKey()), edOnly(), keys.Options{})
	for range 2 {
		err := foreign.Tick(t.Context())
		if !errors.Is(err, keys.ErrSealed) || !strings.Contains(err.Error(), testSealingKey.ID()) {
			t.Errorf("error %v, want ErrSealed, and the id %s", err, testSealingKey.ID())
		}
	}
	if err := foreign.Check(t.Context()); !errors.Is(err, keys.ErrNotReady) || !errors.Is(err, keys.ErrSealed) {
		t.Errorf("Check: %v", err)
	}
	if after, _ := store.Load(t.Context()); after.Version != before.Version {
		t.Error("the ring was changed")
	}

	// A stand-by sealed by a key that is lost counts too, long before it is
	// to sign.
	newer := keys.GenerateSealingKey()
	both, err := keys.NewKeeper(store, newSealer(t, newer, testSealingKey), edOnly(), keys.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	tick(t, both) // makes the stand-by
	if by := both.Ring().Standby(jose.EdDSA).Sealed.By(); by != newer.ID() {
		t.Errorf("the stand-by is sealed by %s, want the newest, %s", by, newer.ID())
	}
	if err := newKeeper(t, store, edOnly(), keys.Options{}).Tick(t.Context()); !errors.Is(err, keys.ErrSealed) || !strings.Contains(err.Error(), newer.ID()) {
		t.Errorf("error %v, want ErrSealed, and the id %s", err, newer.ID())
	}
}

func TestTenKeepersAtOnce(t *testing.T) {
	eachEngine(t, func(t *testing.T, open func(testing.TB) *sqlx.DB) {
		store := keys.NewSQLStore(open(t))
		policy := keys.DefaultPolicy()
		keepers := make([]*keys.Keeper, 10)
		for i := range keepers {
			keepers[i] = newKeeper(t, store, policy, keys.Options{Name: fmt.Sprint("replica ", i)})
		}
		for range 2 {
			var group sync.WaitGroup
			for _, k := range keepers {
				group.Go(func() {
					if err := k.Tick(t.Context()); err != nil {
						t.Errorf("tick: %v", err)
					}
				})
			}
			group.Wait()
		}
		tick(t, keepers...) // whoever lost last has read the winner's ring by now
		ring, err := store.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, alg := range policy.Algorithms {
			count := map[keys.State]int{}
			for _, k := range ring.Keys {
				if k.Alg == alg {
					count[k.State]++
				}
			}
			if !maps.Equal(count, map[keys.State]int{keys.Signing: 1, keys.Announced: 1}) {
				t.Errorf("%s has %v", alg, count)
			}
		}
		var made uint64
		first, _ := keepers[0].JWKS()
		for _, k := range keepers {
			made += k.Stats().Made
			if doc, _ := k.JWKS(); !bytes.Equal(doc.Body, first.Body) {
				t.Error("replicas serve different key sets")
			}
			for _, alg := range policy.Algorithms {
				if err := verify(t, keepers[0], sign(t, k, alg)); err != nil {
					t.Errorf("a replica's token: %v", err)
				}
			}
		}
		if made != 4 || ring.Version != 2 {
			t.Errorf("%d keys made and stored in %d swaps, want 4 in 2", made, ring.Version)
		}
		if events, _ := store.History(t.Context(), 100); len(events) != 4 || !strings.HasPrefix(events[0].Actor, "replica ") {
			t.Errorf("history is %v", events)
		}
	})
}

// A keeper that loses the race throws its keys away and takes the winner's.
func TestALostSwap(t *testing.T) {
	store := memory(t)
	winner := newKeeper(t, store, edOnly(), keys.Options{})
	w := &wire{Store: store, beforeSwap: func() { tick(t, winner, winner) }}
	loser := newKeeper(t, w, edOnly(), keys.Options{})
	tick(t, loser)
	if s := loser.Stats(); s.Conflicts != 1 || s.Made != 0 || s.Version != 2 {
		t.Errorf("stats are %+v", s)
	}
	if err := verify(t, winner, sign(t, loser, jose.EdDSA)); err != nil {
		t.Error(err)
	}
}

func TestATickWithNothingToDo(t *testing.T) {
	w := &wire{Store: memory(t)}
	k := newKeeper(t, w, edOnly(), keys.Options{})
	tick(t, k, k)
	doc, _ := k.JWKS()
	loads, swaps := w.loads, w.swaps
	tick(t, k)
	if w.loads != loads+1 || w.swaps != swaps {
		t.Errorf("%d loads and %d swaps", w.loads-loads, w.swaps-swaps)
	}
	if again, _ := k.JWKS(); again != doc {
		t.Error("the JWKS was rendered again")
	}
}

func TestRotationThroughTheKeeper(t *testing.T) {
	eachEngine(t, func(t *testing.T, open func(testing.TB) *sqlx.DB) {
		db := open(t)
		store := struct{ keys.Store }{keys.NewSQLStore(db)} // without its clock: time is the test's
		c := &clock{now: dawn}
		p := edOnly()
		k := newKeeper(t, store, p, keys.Options{Now: c.Now})
		tick(t, k, k)
		old := sign(t, k, jose.EdDSA)
		first := k.Ring().Signing(jose.EdDSA).ID
		standby := k.Ring().Standby(jose.EdDSA).ID

		c.set(p.RotationPeriod)
		tick(t, k)
		if got := k.Ring().Signing(jose.EdDSA).ID; got != standby {
			t.Errorf("%s signs, want the stand-by %s", got, standby)
		}
		var sealed []byte
		if err := db.Get(&sealed, db.Rebind(`SELECT sealed FROM signing_keys WHERE kid = ?`), first); err != nil || sealed != nil {
			t.Errorf("the private half is still in its row, error %v", err)
		}
		c.set(p.RotationPeriod + p.Retention - time.Second)
		tick(t, k)
		if err := verify(t, k, old); err != nil {
			t.Errorf("a token from before the rotation: %v", err)
		}
		c.set(p.RotationPeriod + p.Retention)
		tick(t, k)
		if err := verify(t, k, old); !errors.Is(err, keys.ErrNoKey) {
			t.Errorf("after the retention: error %v, want ErrNoKey", err)
		}
		if err := verify(t, k, sign(t, k, jose.EdDSA)); err != nil {
			t.Error(err)
		}
	})
}

func TestRotateAndRevokeThroughTheKeeper(t *testing.T) {
	store := memory(t)
	c := &clock{now: dawn}
	p := edOnly()
	k, operator := newKeeper(t, store, p, keys.Options{Now: c.Now}), newKeeper(t, store, p, keys.Options{Now: c.Now, Name: "ana"})
	tick(t, k, k)
	c.set(p.AnnounceLead)
	standby := k.Ring().Standby(jose.EdDSA).ID
	if err := operator.Rotate(t.Context(), jose.EdDSA, false); err != nil {
		t.Fatal(err)
	}
	tick(t, k)
	if got := k.Ring().Signing(jose.EdDSA).ID; got != standby {
		t.Errorf("%s signs, want %s", got, standby)
	}

	stolen := sign(t, k, jose.EdDSA)
	if err := operator.Revoke(t.Context(), standby, "stolen"); err != nil {
		t.Fatal(err)
	}
	tick(t, k)
	if err := verify(t, k, stolen); !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("a token of the revoked key: error %v, want ErrNoKey", err)
	}
	if _, ok := k.PublicKey(standby); ok {
		t.Error("the revoked key is still published")
	}
	if err := verify(t, k, sign(t, k, jose.EdDSA)); err != nil {
		t.Errorf("a token after the revocation: %v", err)
	}
	if k.Ring().Standby(jose.EdDSA) == nil {
		t.Error("no fresh key was announced")
	}
	if err := operator.Revoke(t.Context(), "nobody", ""); !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("error %v, want ErrNoKey", err)
	}
	if s := operator.Stats(); s.Failures != 0 {
		t.Errorf("a refused change counts as %d failures", s.Failures)
	}
	events, _ := store.History(t.Context(), 100)
	if !slices.ContainsFunc(events, func(e keys.Event) bool {
		return e.KeyID == standby && e.To == keys.Revoked && e.Actor == "ana" && e.Reason == "stolen"
	}) {
		t.Errorf("the history doesn't tell who revoked: %v", events)
	}
}

func TestALostStore(t *testing.T) {
	w := &wire{Store: memory(t)}
	c := &clock{now: dawn}
	p := edOnly()
	k := newKeeper(t, w, p, keys.Options{Now: c.Now})
	tick(t, k, k)
	token := sign(t, k, jose.EdDSA)

	w.setCut(true)
	c.set(p.MaxStale())
	if err := k.Tick(t.Context()); !errors.Is(err, errCut) {
		t.Fatalf("error %v, want errCut", err)
	}
	if err := k.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	if err := verify(t, k, sign(t, k, jose.EdDSA)); err != nil {
		t.Errorf("a token without the store: %v", err)
	}

	c.set(p.MaxStale() + time.Millisecond)
	if _, err := k.Signer(jose.EdDSA); !errors.Is(err, keys.ErrStale) {
		t.Errorf("Signer: error %v, want ErrStale", err)
	}
	if err := k.Check(t.Context()); !errors.Is(err, keys.ErrStale) || !errors.Is(err, errCut) {
		t.Errorf("Check: error %v, want ErrStale and its cause", err)
	}
	if err := verify(t, k, token); err != nil {
		t.Errorf("verification without the store: %v", err)
	}

	w.setCut(false)
	tick(t, k)
	if err := k.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	sign(t, k, jose.EdDSA)
}

// Run over ninety days, in a bubble where time is free: every rotation comes
// on time, each key is announced for its lead, and one that signs is always
// there.
func TestRun(t *testing.T) {
	store := memory(t) // outside the bubble, as its connection outlives it
	synctest.Test(t, func(t *testing.T) {
		p := edOnly()
		p.Tick = 30 * time.Minute
		p.Retention = 2 * time.Hour
		p.AnnounceLead = 3 * time.Hour
		k := newKeeper(t, store, p, keys.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		tick(t, k)
		begin := time.Now()
		done := make(chan struct{})
		go func() { defer close(done); k.Run(ctx) }()

		time.Sleep(p.Tick / 8)
		synctest.Wait()
		if k.Ring().Standby(jose.EdDSA) == nil {
			t.Error("the first stand-by doesn't come soon after the first key")
		}
		signers := map[string]bool{}
		for time.Since(begin) < 3*p.RotationPeriod+12*time.Hour {
			time.Sleep(6 * time.Hour)
			synctest.Wait()
			token := sign(t, k, jose.EdDSA)
			if err := verify(t, k, token); err != nil {
				t.Fatalf("after %v: %v", time.Since(begin), err)
			}
			s := k.Ring().Signing(jose.EdDSA)
			signers[s.ID] = true
			if late := s.ActivateAt.Sub(begin) % p.RotationPeriod; late > 4*p.Tick {
				t.Errorf("a rotation came %v late", late)
			}
		}
		if len(signers) != 4 {
			t.Errorf("%d keys have signed in three periods", len(signers))
		}

		// Wake brings the next tick forward, however far off it is.
		ticks := k.Stats().Ticks
		k.Wake()
		synctest.Wait()
		if got := k.Stats().Ticks; got != ticks+1 {
			t.Errorf("%d ticks after Wake", got-ticks)
		}
		cancel()
		<-done
	})
}

// A store that comes and goes costs log lines, no panic and no wrong key.
func TestRunWithABrokenStore(t *testing.T) {
	w := &wire{Store: memory(t)}
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p := edOnly()
		k := newKeeper(t, w, p, keys.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		tick(t, k, k)
		done := make(chan struct{})
		go func() { defer close(done); k.Run(ctx) }()
		w.setCut(true)
		time.Sleep(p.MaxStale() + time.Minute)
		synctest.Wait()
		if _, err := k.Signer(jose.EdDSA); !errors.Is(err, keys.ErrStale) {
			t.Errorf("error %v, want ErrStale", err)
		}
		w.setCut(false)
		time.Sleep(p.Tick + time.Second)
		synctest.Wait()
		sign(t, k, jose.EdDSA)
		cancel()
		<-done
		if !strings.Contains(log.String(), errCut.Error()) {
			t.Errorf("the log doesn't say why:\n%s", log.String())
		}
		if strings.Contains(log.String(), "PRIVATE") || strings.Contains(log.String(), testSealingKey.Encode()) {
			t.Error("the log holds a secret")
		}
	})
}
