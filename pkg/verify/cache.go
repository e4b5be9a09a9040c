package verify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/urbandata/urbandata/pkg/verify/pace"
)

// maxWaiting bounds the callers that wait for a fetch at one time. Whoever
// comes later is refused at once.
const maxWaiting = 1024

// snapshot is a key set and how long it may be used. It is immutable but for
// headers, and replaced as a whole.
type snapshot struct {
	pace.Span
	set     *KeySet
	doc     []byte // what set was read from; nil without a file to keep it in
	etag    string
	file    bool // it was read from the file, and not confirmed since
	headers *headerCache
}

func (s *snapshot) usable(now time.Time) bool { return s != nil && s.Usable(now) }

// cache holds the key set and fetches it. The set is read by one atomic load;
// all fetching is done by the one goroutine that is in run. When it is to fetch
// is package pace's to say.
type cache struct {
	current atomic.Pointer[snapshot]

	fetcher *fetcher // nil: the set is fixed
	file    *keyFile // nil: there is none
	options CacheOptions
	now     func() time.Time
	log     *slog.Logger
	hook    func(Fetch)
	changed func() // called when another set has taken the place of one; nil: nobody

	first chan struct{} // closed when the first set has come
	wake  chan struct{} // tells run that there is a flight to make

	mu      sync.Mutex // guards what follows; never held during a fetch
	running bool
	flight  *flight // the fetch asked for or under way, nil if none
	waiting int
	gate    pace.Gate
	stats   Stats
	last    error // of the last attempt
}

// flight is one fetch, shared by all who wait for it.
type flight struct {
	done     chan struct{} // closed when it is over
	onDemand bool
	started  bool // guarded by cache.mu: the request may be on its way
	ok       bool // written before done is closed: the issuer has answered
}

func newCache(o Options) *cache {
	c := &cache{
		options: o.Cache, now: o.Now, log: o.Logger, hook: o.Hooks.Fetched,
		first: make(chan struct{}),
		wake:  make(chan struct{}, 1),
		gate:  pace.NewGate(o.Cache.Burst, o.Cache.Every),
	}
	if o.Keys != nil {
		c.current.Store(&snapshot{Span: pace.Span{Fetched: o.Now()}, set: o.Keys, headers: new(headerCache)})
		close(c.first)
		return c
	}
	c.fetcher = newFetcher(o)
	if o.Cache.File != "" {
		c.file = &keyFile{path: o.Cache.File, issuer: o.Issuer, url: o.JWKSURL, limit: o.Cache.MaxKeySetBytes}
	}
	return c
}

// find returns the keys with this kid, and the snapshot they are of. If the
// snapshot held has none it may wait for a fetch: see join.
func (c *cache) find(ctx context.Context, kid string) ([]*key, *snapshot, error) {
	snap := c.current.Load()
	if snap.usable(c.now()) {
		if keys := snap.set.keys[kid]; keys != nil {
			return keys, snap, nil
		}
	}
	f, mine := c.join(kid, snap)
	if f != nil {
		if err := c.await(ctx, f); err != nil {
			return nil, nil, fmt.Errorf("%w: gave up waiting for it: %w", ErrKeySetUnavailable, err)
		}
	}
	if snap = c.current.Load(); !snap.usable(c.now()) {
		return nil, nil, c.unavailable(snap)
	}
	if keys := snap.set.keys[kid]; keys != nil {
		return keys, snap, nil
	}
	if mine && f.ok {
		c.mu.Lock()
		c.gate.Missed(kid, c.now())
		c.mu.Unlock()
	}
	return nil, nil, fmt.Errorf("%w: kid is not in the key set", ErrKeyUnknown)
}

// join returns the fetch that a caller who missed kid in snap should wait for,
// or nil if there is none to wait for, or snap has been replaced since. A new
// one is started only against the budget, which is claimed here, before the
// fetch. Only a fetch that starts after the kid came in can prove the kid
// absent: mine says that this one does.
//
// The same budget serves callers that find no usable set at all: they need not
// wait out run's pause after a failure.
func (c *cache) join(kid string, snap *snapshot) (f *flight, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	switch {
	case !c.running, c.fetcher == nil, c.waiting >= maxWaiting, c.gate.Absent(kid, now):
		return nil, false
	case c.current.Load() != snap:
		return nil, false
	case c.flight != nil:
	case !c.gate.Open(now):
		c.stats.Denied++
		return nil, false
	default:
		c.flight = &flight{done: make(chan struct{}), onDemand: true}
		c.wake <- struct{}{} // has room: there was no flight
	}
	c.waiting++
	return c.flight, !c.flight.started
}

// await waits until f is over or ctx ends.
func (c *cache) await(ctx context.Context, f *flight) error {
	defer func() {
		c.mu.Lock()
		c.waiting--
		c.mu.Unlock()
	}()
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// unavailable says why there is no usable set.
func (c *cache) unavailable(snap *snapshot) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case snap != nil:
		return fmt.Errorf("%w: the last good one is too old, and fetching failed: %w", ErrKeySetUnavailable, orUnknown(c.last))
	case c.last != nil:
		return fmt.Errorf("%w: none fetched yet: %w", ErrKeySetUnavailable, c.last)
	case !c.running:
		return fmt.Errorf("%w: Run was not started", ErrKeySetUnavailable)
	}
	return fmt.Errorf("%w: none fetched yet", ErrKeySetUnavailable)
}

func orUnknown(err error) error {
	if err == nil {
		return errors.New("no attempt since")
	}
	return err
}

// run fetches until ctx ends: at once, then ahead of each set's end, after a
// failure with growing pauses, and when join asks for it. When the very first
// attempt fails it looks for a set on disk.
func (c *cache) run(ctx context.Context) {
	c.mu.Lock()
	c.running = true
	c.flight = &flight{done: make(chan struct{})}
	c.mu.Unlock()
	defer c.stop()

	if c.fetcher == nil {
		<-ctx.Done()
		return
	}
	failures := 0
	for {
		f := c.take()
		ok := c.refresh(ctx, f)
		if ctx.Err() != nil {
			return
		}
		if failures++; ok {
			failures = 0
		}
		timer := time.NewTimer(c.pause(failures))
		select {
		case <-timer.C:
		case <-c.wake:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// take starts the flight that is asked for, or one of its own.
func (c *cache) take() *flight {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flight == nil {
		c.flight = &flight{done: make(chan struct{})}
	}
	select { // the wish that this flight fulfils
	case <-c.wake:
	default:
	}
	c.flight.started = true
	return c.flight
}

// land ends a flight and lets go those who wait for it.
func (c *cache) land(f *flight, ok bool) {
	c.mu.Lock()
	c.flight = nil
	c.mu.Unlock()
	f.ok = ok
	close(f.done)
}

func (c *cache) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running = false
	if c.flight != nil {
		close(c.flight.done)
		c.flight = nil
	}
	select {
	case <-c.wake:
	default:
	}
}

// pause is how long to wait for the next fetch.
func (c *cache) pause(failures int) time.Duration {
	if failures == 0 {
		return c.current.Load().Ahead(jitter)
	}
	c.mu.Lock()
	wait := c.gate.Wait(c.now())
	c.mu.Unlock()
	return pace.Again(failures, pace.LastRetry, wait, jitter)
}

// jitter is a [pace.Jitter].
func jitter(d time.Duration) time.Duration {
	return time.Duration(rand.Int64N(int64(d) + 1)) //nolint:gosec // spreads load, guards nothing
}

// refresh makes one fetch and puts what it brings in place. A failure leaves
// the set held as it is.
func (c *cache) refresh(ctx context.Context, f *flight) (ok bool) {
	old := c.current.Load()
	etag := ""
	if old != nil {
		etag = old.etag
	}
	asked := c.now()
	got, err := c.fetcher.fetch(ctx, etag)
	took := c.now().Sub(asked)
	if err != nil && ctx.Err() != nil { // stopped, which says nothing of the issuer
		c.land(f, false)
		return false
	}
	changed := false
	if err == nil {
		next := &snapshot{Span: c.options.rules().Span(asked, got.promise), set: got.set, etag: got.etag}
		changed = old == nil || got.set != nil && got.set.sum != old.set.sum
		if changed {
			next.headers = new(headerCache)
		} else {
			next.set, next.headers = old.set, old.headers
		}
		if next.doc = got.doc; got.set == nil {
			next.doc = old.doc
		}
		c.hold(next)
	} else if old == nil {
		c.restore(asked)
	}

	c.mu.Lock()
	c.last = err
	c.gate.Answered(asked.Add(took), changed, got.wait)
	c.stats.Fetches++
	if err != nil {
		c.stats.Failures++
	}
	if f.onDemand {
		c.stats.OnDemand++
	}
	if changed {
		c.stats.Changes++
	}
	c.mu.Unlock()
	c.land(f, err == nil)
	c.report(f, got, took, changed, err)
	if err == nil && c.file != nil {
		held := c.current.Load()
		if err := c.file.save(held.doc, held.Fetched, held.Stale.Sub(held.Fetched)); err != nil {
			c.log.Warn("key set not kept on disk", "file", c.file.path, "error", err.Error())
		}
	}
	return err == nil
}

// hold puts a snapshot in place.
func (c *cache) hold(next *snapshot) {
	if c.file == nil {
		next.doc = nil
	}
	switch old := c.current.Swap(next); {
	case old == nil:
		close(c.first)
	case old.set != next.set && c.changed != nil:
		c.changed()
	}
}

// restore puts the set on disk in place, if there is one that may be used.
func (c *cache) restore(now time.Time) {
	if c.file == nil {
		return
	}
	set, fetched, life, err := c.file.load(now)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			c.log.Warn("key set on disk not used", "error", err.Error())
		}
		return
	}
	// The bounds are those of this process. No ETag: what comes next is to
	// come from the issuer as a whole.
	span := c.options.rules().Span(fetched, pace.Promise{Said: true, Left: life})
	next := &snapshot{Span: span, set: set, file: true, headers: new(headerCache)}
	if !next.usable(now) {
		c.log.Warn("key set on disk not used", "file", c.file.path, "error", "it is too old", "fetched", fetched)
		return
	}
	c.hold(next)
	c.log.Warn("key set taken from disk, because the issuer can't be reached", "file", c.file.path, "fetched", fetched, "keys", set.size)
}

// report tells the log and the hook.
func (c *cache) report(f *flight, got answer, took time.Duration, changed bool, err error) {
	keys := 0
	if snap := c.current.Load(); snap != nil {
		keys = snap.set.size
	}
	switch {
	case err != nil:
		c.log.Warn("key set fetch failed", "url", c.fetcher.url, "error", err.Error(), "keys_held", keys)
	case changed:
		c.log.Info("key set changed", "url", c.fetcher.url, "keys", keys)
		for _, s := range got.set.skipped {
			c.log.Warn("key skipped", "kid", s.KeyID, "reason", s.Reason.Error())
		}
	}
	if c.hook != nil {
		c.hook(Fetch{
			OnDemand: f.onDemand, Status: got.status, Duration: took, Changed: changed, Keys: keys, Err: err,
		})
	}
}

// check is nil if a usable set is held.
func (c *cache) check() error {
	snap := c.current.Load()
	if snap.usable(c.now()) {
		return nil
	}
	return c.unavailable(snap)
}

// snapshotStats fills in the present state.
func (c *cache) snapshotStats() Stats {
	c.mu.Lock()
	s := c.stats
	c.mu.Unlock()
	snap, now := c.current.Load(), c.now()
	if snap == nil {
		return s
	}
	s.Keys, s.Skipped = snap.set.size, len(snap.set.skipped)
	s.Age = max(0, now.Sub(snap.Fetched))
	s.Usable = snap.usable(now)
	s.FromFile = snap.file
	s.Stale = snap.Late(now)
	return s
}

// Stats is the state of the key set and of the token cache, and the counts
// since New.
type Stats struct {
	Keys     int           // usable keys held
	Skipped  int           // members of the same document that are not used
	Age      time.Duration // since the issuer last confirmed the set
	Usable   bool          // tokens can be verified
	Stale    bool          // the set has outlived what the issuer promised
	FromFile bool          // the set is that of CacheOptions.File: none was fetched yet

	Fetches  uint64 // attempts
	Failures uint64 // attempts that brought neither a usable set nor 304
	OnDemand uint64 // attempts asked for by unknown kids
	Denied   uint64 // unknown kids that found the budget empty
	Changes  uint64 // times that the set became another, the first included

	Tokens        int    // verified tokens held, expired ones included
	TokenBytes    int64  // what they take, at most Options.TokenCacheBytes
	TokensStored  uint64 // tokens that were verified and then kept
	TokensEvicted uint64 // good ones given up for want of room

	Revocations RevocationStats // zero if they are not followed
}

// add adds the stats of another issuer.
func (s *Stats) add(o Stats) {
	s.Keys += o.Keys
	s.Skipped += o.Skipped
	s.Age = max(s.Age, o.Age)
	s.Usable = s.Usable && o.Usable
	s.Stale = s.Stale || o.Stale
	s.FromFile = s.FromFile || o.FromFile
	s.Fetches += o.Fetches
	s.Failures += o.Failures
	s.OnDemand += o.OnDemand
	s.Denied += o.Denied
	s.Changes += o.Changes
	s.Revocations.add(o.Revocations)
}
