package keys

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Options are what a keeper may be given; the zero Options are good.
type Options struct {
	Name   string           // this replica in logs and in the history; "keeper" if empty
	Logger *slog.Logger     // slog.Default if nil
	Now    func() time.Time // time.Now if nil
	Random io.Reader        // crypto/rand.Reader if nil; some of Go's key generation has its own

	// Probe makes sure that verifiers can fetch the JWKS: it fetches it as
	// they do. It is asked only when a planned rotation is due, which an
	// error then holds back, for the policy's MaxHold at most. The first tick
	// doesn't ask: nothing is served yet. Nil never holds anything back.
	Probe func(context.Context) error
}

// Keeper keeps the ring in step with the store, and signs with it. All its
// methods may be called concurrently.
type Keeper struct {
	store  Store
	sealer Sealer
	policy Policy
	name   string
	log    *slog.Logger
	now    func() time.Time
	random io.Reader
	probe  func(context.Context) error
	watch  *watch

	current atomic.Pointer[snapshot] // nil until the first good tick
	wake    chan struct{}            // holds one wish for a tick

	turn sync.Mutex // one tick or change at a time, from load to install; guards holding

	holding  string       // the kids that are held back, as last logged
	held     atomic.Int64 // how many they are
	clockOff atomic.Int64 // how far the clock is from the store's, in nanoseconds, as far as is certain

	ticks, failures, conflicts, made atomic.Uint64
	lastFailure                      atomic.Pointer[failure] // nil after a good tick
}

type failure struct{ err error }

// snapshot is what one good tick found. It is never changed, only replaced.
type snapshot struct {
	*view
	readAt time.Time // before the load began; how old the ring may be is counted from here
}

// view is what follows from one ring.
type view struct {
	ring    Ring
	signers map[jose.SignatureAlgorithm]*Signer
	public  map[string]jose.JSONWebKey // every published key by kid
	jwks    *JWKS
}

// NewKeeper checks the policy and returns a keeper that has not started: call
// Tick once, and go on only if it succeeds, then Run. The error wraps
// [ErrPolicy].
func NewKeeper(store Store, sealer Sealer, policy Policy, options Options) (*Keeper, error) {
	if err := policy.Validate(); err != nil {
		return nil, err
	}
	k := &Keeper{
		store: store, sealer: sealer, policy: policy,
		name:   cmp.Or(options.Name, "keeper"),
		log:    cmp.Or(options.Logger, slog.Default()),
		now:    options.Now,
		random: options.Random,
		probe:  options.Probe,
		watch:  newWatch(policy.Registered),
		wake:   make(chan struct{}, 1),
	}
	if k.now == nil {
		k.now = time.Now
	}
	if k.random == nil {
		k.random = rand.Reader
	}
	return k, nil
}

// Policy is the one that the keeper was made with.
func (k *Keeper) Policy() Policy { return k.policy }

// Tick brings the ring up to the present: what the store holds, and what is
// due by now. With nothing to do it is one query. After an error the last
// good ring stays in use.
//
// The error wraps [ErrSealed] when the ring that is stored can't be opened,
// and [ErrDamaged] when it isn't one; neither is ever cured by making a new
// ring.
func (k *Keeper) Tick(ctx context.Context) error {
	if err := k.change(ctx, nil); err != nil {
		return err
	}
	k.note(ctx)
	return nil
}

// Saw tells the keeper what a verifier says of itself when it fetches the
// JWKS: its name and the ETag of the set that it holds, empty when it holds
// none. It costs a look into a map; what is new is written to the store with
// the next tick. See [Sighting].
func (k *Keeper) Saw(verifier, etag string) { k.watch.saw(verifier, etag, k.clock()) }

// note writes down what Saw has collected. A failure costs nothing but time:
// it is tried again with the next tick.
func (k *Keeper) note(ctx context.Context) {
	taken := k.watch.take()
	if len(taken) == 0 {
		return
	}
	err := k.seedWatch(ctx)
	if err == nil {
		err = k.store.Note(ctx, taken)
	}
	if err != nil {
		k.watch.undo(taken)
		k.log.WarnContext(ctx, "which verifiers hold which keys could not be written down", "err", err)
		return
	}
	k.watch.done(taken, k.clock())
}

// seedWatch tells the watch once what was written before this process, so
// that restarts don't make room for more names.
func (k *Keeper) seedWatch(ctx context.Context) error {
	if k.watch.seeded() {
		return nil
	}
	sightings, err := k.store.Sightings(ctx)
	if err != nil {
		return err
	}
	k.watch.seed(sightings, k.clock())
	return nil
}

// Rotate lets the stand-by of an algorithm take over: as soon as every
// verifier holds it, or at once in an emergency. See the function [Rotate].
func (k *Keeper) Rotate(ctx context.Context, alg jose.SignatureAlgorithm, emergency bool) error {
	return k.change(ctx, func(now time.Time, ring Ring) (Ring, []Event, error) {
		return Rotate(now, ring, alg, emergency)
	})
}

// Revoke takes a key out of use for ever; see the function [Revoke].
func (k *Keeper) Revoke(ctx context.Context, id, reason string) error {
	return k.change(ctx, func(now time.Time, ring Ring) (Ring, []Event, error) {
		return Revoke(now, ring, id, reason)
	})
}

// change makes a tick, and an edit before its Step.
func (k *Keeper) change(ctx context.Context, edit Edit) error {
	k.turn.Lock()
	defer k.turn.Unlock()
	k.ticks.Add(1)
	err := k.swap(ctx, edit)
	switch {
	case err == nil:
		k.lastFailure.Store(nil)
	case edit == nil: // a refused edit says nothing about the store
		k.failures.Add(1)
		k.lastFailure.Store(&failure{err})
	}
	return err
}

// maxAttempts bounds how often one tick runs behind other replicas. Each lost
// swap means that another one was won, and a ring soon has nothing left to
// do.
const maxAttempts = 100

func (k *Keeper) swap(ctx context.Context, edit Edit) error {
	var evidence *Evidence // gathered once, if it is wanted at all
	for range maxAttempts {
		readAt := k.clock()
		ring, err := k.load(ctx, readAt)
		if err != nil {
			return err
		}
		// Opened before anything is made, so that no key is ever made beside
		// a ring that can't be opened.
		found, err := k.view(ctx, ring)
		if err != nil {
			return err
		}

		now := k.clock()
		edited, events, err := ring, []Event(nil), error(nil)
		if edit != nil {
			if edited, events, err = edit(now, ring); err != nil {
				return err
			}
		}
		holdable := Holdable(now, edited, k.policy)
		if len(holdable) > 0 && evidence == nil {
			if evidence, err = k.gather(ctx); err != nil {
				return err
			}
		}
		// The zero Evidence of a moment at which nothing can be held back.
		known := Evidence{}
		if evidence != nil {
			known = *evidence
		}
		// Making keys takes time, so it is over before the transaction, and
		// before the moment that Step writes into the keys.
		fresh, err := k.makeKeys(ctx, Needs(now, edited, k.policy, known))
		if err != nil {
			return err
		}
		next, more := Step(k.clock(), edited, fresh, k.policy, known)
		events = append(events, more...)
		k.noteHeld(ctx, next, holdable)
		if len(events) == 0 {
			k.install(found, readAt)
			return nil
		}
		if err := k.checkClock(); err != nil {
			// With a wrong clock it may read, not write: it would let a key
			// sign before its time.
			if len(ring.Keys) > 0 {
				k.install(found, readAt)
			}
			return fmt.Errorf("a change of the ring is left to a replica whose clock is right: %w", err)
		}
		for i := range events {
			events[i].Actor = cmp.Or(actorOf(ctx), k.name)
		}
		next.Version = ring.Version + 1
		// Opened before it is stored: what can't be opened must not get there.
		made, err := k.view(ctx, next)
		if err != nil {
			return err
		}
		err = k.store.Swap(ctx, ring.Version, next, events)
		if errors.Is(err, ErrConflict) {
			k.conflicts.Add(1)
			continue
		}
		if err != nil {
			return err
		}
		k.made.Add(uint64(len(fresh)))
		for _, e := range events {
			k.log.InfoContext(ctx, "signing key changed", "kid", e.KeyID, "alg", e.Alg,
				"from", e.From, "to", e.To, "reason", e.Reason, "ring", next.Version)
		}
		k.install(made, readAt)
		return nil
	}
	return fmt.Errorf("keys: lost %d swaps in a row: %w", maxAttempts, ErrConflict)
}

// load reads the ring, and the store's clock beside it where it has one.
func (k *Keeper) load(ctx context.Context, begun time.Time) (Ring, error) {
	clocked, ok := k.store.(Clocked)
	if !ok {
		return k.store.Load(ctx)
	}
	ring, stored, err := clocked.LoadAt(ctx)
	if err != nil || stored.IsZero() {
		return ring, err
	}
	// The store looked at its clock at some moment of the query; only what
	// lies outside is certain.
	var off time.Duration
	begun = begun.Truncate(time.Millisecond) // as the store does
	switch ended := k.clock(); {
	case stored.Before(begun):
		off = begun.Sub(stored)
	case stored.After(ended):
		off = ended.Sub(stored)
	}
	k.clockOff.Store(int64(off))
	return ring, nil
}

// checkClock is nil as long as the clock is known to be within half the skew
// of the store's: then two replicas differ by no more than the whole of it.
func (k *Keeper) checkClock() error {
	off := time.Duration(k.clockOff.Load())
	if most := k.policy.Skew / 2; off > most || -off > most {
		where := "ahead of"
		if off < 0 {
			where = "behind"
		}
		return fmt.Errorf("%w: it is %v %s the database's, and half of the policy's Skew, %v, is the most",
			ErrClock, off.Abs().Round(time.Millisecond), where, most)
	}
	return nil
}

// gather asks for what may hold a planned rotation back.
func (k *Keeper) gather(ctx context.Context) (*Evidence, error) {
	e := new(Evidence)
	if k.probe != nil {
		if e.Unserved = k.current.Load() == nil; !e.Unserved {
			ctx, cancel := context.WithTimeout(ctx, probeTimeout)
			defer cancel()
			if err := k.probe(ctx); err != nil {
				e.Unserved = true
				k.log.WarnContext(ctx, "a rotation is due and the JWKS can't be fetched", "err", err)
			}
		}
	}
	if k.policy.Activate == OnEvidence {
		var err error
		if e.Sightings, err = k.store.Sightings(ctx); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// probeTimeout bounds a probe. Stock verifiers give up earlier.
const probeTimeout = 5 * time.Second

// noteHeld counts the stand-bys that were due and still don't sign, and says
// so when that has changed.
func (k *Keeper) noteHeld(ctx context.Context, next Ring, holdable []Key) {
	var held []string
	for i := range holdable {
		if key := next.Key(holdable[i].ID); key != nil && key.State == Announced {
			held = append(held, key.ID)
		}
	}
	k.held.Store(int64(len(held)))
	if now := strings.Join(held, " "); now != k.holding {
		k.holding = now
		if now != "" {
			k.log.WarnContext(ctx, "a planned rotation is held back: not every registered verifier is known to hold the next key, or the JWKS can't be fetched",
				"kid", now, "most", k.policy.MaxHold)
		}
	}
}

// makeKeys makes one key for each algorithm, all at once: an RSA key takes a
// tenth of a second and more.
func (k *Keeper) makeKeys(ctx context.Context, algs []jose.SignatureAlgorithm) ([]Key, error) {
	fresh := make([]Key, len(algs))
	errs := make([]error, len(algs))
	var group sync.WaitGroup
	for i, alg := range algs {
		group.Go(func() {
			fresh[i], errs[i] = makeKey(ctx, k.sealer, k.random, alg, k.policy.RSABits)
		})
	}
	group.Wait()
	return fresh, errors.Join(errs...)
}

// view derives what a ring means for this replica. Every private half in it
// must open; those that sign stay in memory, and go when their view is
// replaced. What the view in use has derived already isn't derived again.
func (k *Keeper) view(ctx context.Context, ring Ring) (*view, error) {
	var last view
	if s := k.current.Load(); s != nil {
		last = *s.view
		if reflect.DeepEqual(last.ring, ring) {
			return s.view, nil
		}
	}
	v := &view{ring: ring, signers: make(map[jose.SignatureAlgorithm]*Signer), public: make(map[string]jose.JSONWebKey)}
	for i := range ring.Keys {
		key := &ring.Keys[i]
		if key.Published() {
			v.public[key.ID] = publicJWK(key)
		}
		if key.Sealed == nil {
			continue
		}
		if known := last.ring.Key(key.ID); known != nil && string(known.Sealed) == string(key.Sealed) {
			if key.State == Announced {
				continue // opened once, and unchanged
			}
			if signer := last.signers[key.Alg]; signer != nil && signer.kid == key.ID {
				v.signers[key.Alg] = signer
				continue
			}
		}
		private, err := openKey(ctx, k.sealer, key)
		if err != nil {
			return nil, err
		}
		if key.State != Signing {
			erase(private) // it opens, which is all that was to be known
			continue
		}
		v.signers[key.Alg] = newSigner(key, private, k.random)
	}
	var err error
	v.jwks, err = renderJWKS(ring, k.policy.JWKSMaxAge)
	return v, err
}

// install puts a view in use. What another replica has done shows here.
func (k *Keeper) install(v *view, readAt time.Time) {
	k.watch.publish(v.jwks.ETag, v.ring)
	last := k.current.Swap(&snapshot{view: v, readAt: readAt})
	switch {
	case last == nil || last.ring.Version == v.ring.Version:
	case last.ring.Version > v.ring.Version:
		k.log.Warn("the signing ring went back; was the database restored from a backup?",
			"from", last.ring.Version, "to", v.ring.Version)
	default:
		k.log.Info("signing ring changed", "from", last.ring.Version, "to", v.ring.Version)
	}
}

// Run ticks until ctx ends: each Tick of the policy at the latest, when a
// transition is due, and after Wake. A failed tick is logged and tried again;
// the last good ring stays in use.
func (k *Keeper) Run(ctx context.Context) {
	timer := time.NewTimer(k.pause())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-k.wake:
		}
		if err := k.Tick(ctx); err != nil && ctx.Err() == nil {
			k.log.ErrorContext(ctx, "the signing ring could not be brought up to date; the last good one stays in use", "err", err)
		}
		timer.Reset(k.pause())
	}
}

// Wake asks Run to tick now. It never blocks.
func (k *Keeper) Wake() {
	select {
	case k.wake <- struct{}{}:
	default: // it has been asked already
	}
}

// pause is how long Run waits before the next tick, never longer than the
// policy's Tick. It is drawn at random, so that replicas don't all come at
// the same moment, each with a key of its own making.
func (k *Keeper) pause() time.Duration {
	regular := k.jitter(k.policy.Tick/2, k.policy.Tick)
	s := k.current.Load()
	if s == nil || k.lastFailure.Load() != nil || k.held.Load() > 0 {
		return regular
	}
	now := k.clock()
	if len(Needs(now, s.ring, k.policy, Evidence{})) == 0 {
		at, ok := Due(s.ring, k.policy)
		if !ok || at.Sub(now) >= regular {
			return regular
		}
		if wait := at.Sub(now); wait > 0 {
			return min(regular, wait+k.jitter(0, k.policy.Tick/8))
		}
	}
	return k.jitter(0, k.policy.Tick/8)
}

func (k *Keeper) jitter(from, to time.Duration) time.Duration {
	return from + mathrand.N(to-from+1) //nolint:gosec // spreads load, guards nothing
}

// clock is the time of day. Its monotonic part is dropped: it stands still
// while a machine sleeps, and a ring grows old all the same.
func (k *Keeper) clock() time.Time { return k.now().Round(0) }

// Signer returns the signer of an algorithm. Ask for each token anew.
//
// The error is [ErrNotReady] before the first good tick; [ErrStale] when the
// store has been out of reach for longer than the policy allows, because
// another replica may have retired the key since; and it wraps [ErrNoKey]
// when no key signs for the algorithm.
func (k *Keeper) Signer(alg jose.SignatureAlgorithm) (*Signer, error) {
	s := k.current.Load()
	if s == nil {
		return nil, ErrNotReady
	}
	if k.clock().Sub(s.readAt) > k.policy.MaxStale() {
		k.Wake() // after a machine's sleep the store is there again
		return nil, ErrStale
	}
	if signer := s.signers[alg]; signer != nil {
		return signer, nil
	}
	if next := s.ring.Standby(alg); next != nil {
		return nil, fmt.Errorf("%w: the first one for %s signs from %s on", ErrNoKey, alg, next.ActivateAt.Format(time.RFC3339))
	}
	return nil, fmt.Errorf("%w: none for %s", ErrNoKey, alg)
}

// JWKS is the key set to serve. It goes on when the store is out of reach.
// The error is [ErrNotReady] before the first good tick.
func (k *Keeper) JWKS() (*JWKS, error) {
	s := k.current.Load()
	if s == nil {
		return nil, ErrNotReady
	}
	return s.jwks, nil
}

// PublicKey returns a published key as the JWKS has it; ok is false when
// there is none by that kid. It goes on when the store is out of reach.
func (k *Keeper) PublicKey(kid string) (key jose.JSONWebKey, ok bool) {
	s := k.current.Load()
	if s == nil {
		return jose.JSONWebKey{}, false
	}
	key, ok = s.public[kid]
	return key, ok
}

// Ring is the ring in memory: the zero Ring before the first good tick. To
// look at the stored one, for which no sealing key is needed, ask the
// [Store].
func (k *Keeper) Ring() Ring {
	s := k.current.Load()
	if s == nil {
		return Ring{}
	}
	return s.ring.clone()
}

// Check is nil as long as the keeper may sign; else the error wraps
// [ErrNotReady], [ErrStale] or [ErrClock], and what the last tick failed with.
// It asks nobody, and answers at once.
func (k *Keeper) Check(context.Context) error {
	err := ErrNotReady
	if s := k.current.Load(); s != nil {
		age := k.clock().Sub(s.readAt)
		if age <= k.policy.MaxStale() {
			return k.checkClock()
		}
		err = fmt.Errorf("%w: it was read %v ago", ErrStale, age.Round(time.Second))
	}
	if f := k.lastFailure.Load(); f != nil {
		err = fmt.Errorf("%w: %w", err, f.err)
	}
	return err
}

// Stats are counters since the keeper was made, and where it stands. They are
// read one by one, not at one moment.
type Stats struct {
	Ticks     uint64    // begun, changes that were asked for among them
	Failures  uint64    // that ended with an error
	Conflicts uint64    // swaps that another replica won
	Made      uint64    // keys made and stored
	Version   int64     // of the ring in memory
	ReadAt    time.Time // when the ring in memory was last known to be the stored one; zero before

	Held     int           // planned rotations that are due and held back
	ClockOff time.Duration // how far the clock is ahead of the store's, as far as that is certain
}

// Stats is for metrics.
func (k *Keeper) Stats() Stats {
	stats := Stats{
		Ticks: k.ticks.Load(), Failures: k.failures.Load(),
		Conflicts: k.conflicts.Load(), Made: k.made.Load(),
		Held: int(k.held.Load()), ClockOff: time.Duration(k.clockOff.Load()),
	}
	if s := k.current.Load(); s != nil {
		stats.Version, stats.ReadAt = s.ring.Version, s.readAt
	}
	return stats
}
