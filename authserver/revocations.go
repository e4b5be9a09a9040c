package authserver

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/token"
)

// The revocations feed. An access token is verified offline, so by itself it
// outlives its session by up to its own life. The feed says what has ended
// since the oldest token that may live was made, and a verifier that follows it
// refuses those tokens within a second, without a call per request.
//
//	sign-out ─▶ UPDATE sessions ─▶ trigger: entry without a number     one
//	            UPDATE users …                                        transaction
//	                                   │ commit: acknowledged
//	                                   ▼
//	            wake, NOTIFY or a tick ─▶ number ─▶ read ─▶ sign   each replica
//	                                                          │
//	                       GET …/revocations  ◀── whole list ─┤
//	                       GET …/revocations/stream ◀─ what is new, or a heartbeat
//
// What is published is what was committed: an entry is written by a trigger, in
// the transaction of the end itself. Its number comes after that, in a short
// step under a lock, so numbers have no gaps and follow the order of commits,
// and what ends a session waits for nobody. A replica that can't reach the
// database says nothing, and so its silence is noticed.
//
// An entry leaves when the last token that it is about has expired.

const (
	revocationsPath = "/.well-known/revocations"
	streamPath      = revocationsPath + "/stream"

	// feedTick is how often a replica looks for what nobody woke it for: ends
	// by commands and by another release, and those of other replicas while
	// it can't listen to the database.
	feedTick = 100 * time.Millisecond

	// feedHeartbeat is how often a stream says that nothing is new.
	feedHeartbeat = 3 * time.Second

	// feedTimeout bounds one look at the database. While it hangs, nothing is
	// said.
	feedTimeout = 2 * time.Second

	// eventLife is for how long an event speaks of the present.
	eventLife = 5 * feedHeartbeat

	// listLife is for how long a list speaks of the present. A list that was
	// caught on its way and is shown again later fools nobody for longer.
	listLife = time.Minute

	// listAge is when a list is signed anew although nothing is new.
	listAge = listLife / 4

	// feedPurge is how often old entries are deleted.
	feedPurge      = time.Minute
	feedPurgeBatch = 1000
)

// feed publishes what has ended.
type feed struct {
	store    *Store
	keys     *keys.Keeper
	issuer   string
	alg      jose.SignatureAlgorithm
	backdate time.Duration
	now      func() time.Time
	log      *slog.Logger

	current atomic.Pointer[feedState] // nil before the first look at the database
	list    atomic.Pointer[feedList]  // nil before the first was signed
	first   chan struct{}             // closed when it is
	read    atomic.Int64              // when the database was last looked at, in Unix nanoseconds

	// Of run alone.
	failing  bool
	beat     time.Time // when the streams were last told something
	listed   time.Time // when the list was last signed
	listCost time.Duration
	purged   time.Time

	streams streams
}

// feedState is the feed up to one place. It is immutable, but that next is
// closed when another takes its place.
type feedState struct {
	seq     int64
	entries []feedEntry // all that count, in order
	prev    int64       // the place before
	event   []byte      // what came between, as streams send it; prev == seq: a heartbeat
	next    chan struct{}
}

// feedEntry is one entry, rendered.
type feedEntry struct {
	seq   int64
	until int64 // its exp
	text  []byte
}

// feedList is the whole list as it is served.
type feedList struct {
	seq          int64
	body         []byte
	expires      time.Time
	id           string // body's ETag
	etag, length []string
}

func newFeed(o Options, metrics prometheus.Registerer) *feed {
	f := &feed{
		store: o.Accounts.store, keys: o.Keys, issuer: o.Issuer, backdate: o.Backdate, now: o.Now, log: o.Log,
		alg: cmp.Or(o.SigningAlg, jose.EdDSA), first: make(chan struct{}),
	}
	if algs := f.keys.Policy().Algorithms; !slices.Contains(algs, f.alg) {
		f.alg = algs[0]
	}
	gauge := func(name, help string, value func() float64) {
		metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "urbandata_revocations_" + name, Help: help}, value))
	}
	gauge("sequence", "Place of the last entry of the revocations feed that this replica publishes.", func() float64 {
		if st := f.current.Load(); st != nil {
			return float64(st.seq)
		}
		return 0
	})
	gauge("entries", "Entries of the revocations feed: what has ended while access tokens of it may live.", func() float64 {
		if st := f.current.Load(); st != nil {
			return float64(len(st.entries))
		}
		return 0
	})
	gauge("read_timestamp_seconds", "When this replica last looked in the database for what has ended.", func() float64 {
		return float64(f.read.Load()) / 1e9
	})
	f.streams.register(metrics)
	return f
}

// Check is nil when the feed was read within the time that a verifier bears.
func (f *feed) Check(context.Context) error {
	if list := f.list.Load(); list == nil || !f.now().Before(list.expires) {
		return errors.New("authserver: the revocations have not been read")
	}
	return nil
}

// run publishes until ctx ends.
func (f *feed) run(ctx context.Context) {
	tick := time.NewTicker(feedTick)
	defer tick.Stop()
	for {
		wake := f.store.wake
		if f.failing {
			wake = nil // what fails isn't tried more often than the clock says
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-tick.C:
		}
		f.look(ctx)
	}
}

// look makes a step, and says in the log when that begins and ceases to fail.
func (f *feed) look(ctx context.Context) {
	err := f.step(ctx)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil && !f.failing:
		f.log.LogAttrs(ctx, slog.LevelWarn, "the revocations feed can't be published: verifiers go by the life of tokens", slog.String("cause", err.Error()))
	case err == nil && f.failing:
		f.log.LogAttrs(ctx, slog.LevelInfo, "the revocations feed is published again")
	}
	f.failing = err != nil
}

// step brings the feed to where the database is.
func (f *feed) step(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, feedTimeout)
	defer cancel()
	last, unnumbered, err := f.store.peekRevocations(ctx)
	if err != nil {
		return err
	}
	for more := unnumbered; more; {
		if more, err = f.store.numberRevocations(ctx); err != nil {
			return err
		}
	}
	st := f.current.Load()
	var fresh []feedEntry
	if st == nil || last != st.seq || unnumbered {
		if last, fresh, err = f.load(ctx, st); err != nil {
			return err
		}
	}
	if st != nil && last < st.seq {
		f.log.LogAttrs(ctx, slog.LevelError, "the revocations in the database end before what was published: was it restored from a backup? They are read anew",
			slog.Int64("published", st.seq), slog.Int64("database", last))
		st = nil
		if last, fresh, err = f.load(ctx, nil); err != nil {
			return err
		}
	}
	f.read.Store(time.Now().UnixNano())
	if err := f.publish(st, last, fresh); err != nil {
		return err
	}
	if time.Since(f.purged) < feedPurge {
		return nil
	}
	// A batch at a time: the next read isn't kept waiting.
	n, err := f.store.purgeRevocations(ctx, f.now().Add(-f.keep()), feedPurgeBatch)
	if n < feedPurgeBatch {
		f.purged = time.Now()
	}
	return err
}

// load reads what came after st, or all if that is nil.
func (f *feed) load(ctx context.Context, st *feedState) (last int64, fresh []feedEntry, err error) {
	after := int64(0)
	if st != nil {
		after = st.seq
	}
	last, rows, err := f.store.readRevocations(ctx, after, f.now().Add(-f.keep()))
	if err != nil {
		return 0, nil, err
	}
	fresh, err = f.render(rows)
	return last, fresh, err
}

// life is from an end to the exp of the last token made before it, by whatever
// replica's clock.
func (f *feed) life() time.Duration { return f.keys.Policy().TokenLife + f.keys.Policy().Skew }

// keep is for how long an entry is of use.
func (f *feed) keep() time.Duration { return f.life() + f.keys.Policy().Leeway }

// publish puts a state in place that goes up to last, and signs the list anew
// if that is due. st is nil for the first.
func (f *feed) publish(st *feedState, last int64, fresh []feedEntry) error {
	now := time.Now() // intervals are measured by a clock that nobody sets
	next := &feedState{seq: last, prev: last, entries: fresh, next: make(chan struct{})}
	if st != nil {
		next.prev = st.seq
		next.entries = append(f.living(st.entries), fresh...) // beyond what st shows
	}
	if st == nil || next.prev != last || now.Sub(f.beat) >= feedHeartbeat {
		text, err := f.sign(&next.prev, last, fresh, eventLife)
		if err != nil {
			return err
		}
		next.event = event(last, text)
		old := f.current.Swap(next)
		if f.beat = now; old != nil {
			close(old.next)
		}
		st = next
	}
	// A long list takes long to sign. Who wants the news at once has the
	// stream; at most a twentieth of a core goes into lists.
	list := f.list.Load()
	if list == nil || list.expires.Sub(f.now()) <= listLife-listAge || list.seq != last && now.Sub(f.listed) >= 20*f.listCost {
		return f.relist(st)
	}
	return nil
}

// living is without the entries at the start that no token needs any more.
func (f *feed) living(entries []feedEntry) []feedEntry {
	past := f.now().Add(-f.keys.Policy().Leeway).Unix()
	for len(entries) > 0 && entries[0].until <= past {
		entries = entries[1:]
	}
	return entries
}

// relist signs the whole list.
func (f *feed) relist(st *feedState) error {
	start := time.Now()
	text, err := f.sign(nil, st.seq, f.living(st.entries), listLife)
	if err != nil {
		return err
	}
	body := []byte(text)
	sum := sha256.Sum256(body)
	list := &feedList{
		seq: st.seq, body: body, expires: f.now().Add(listLife),
		id: `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`, length: []string{strconv.Itoa(len(body))},
	}
	list.etag = []string{list.id}
	if f.list.Swap(list) == nil {
		close(f.first)
	}
	f.listed, f.listCost = start, time.Since(start)
	return nil
}

// render makes entries of rows.
func (f *feed) render(rows []revocationRow) ([]feedEntry, error) {
	entries := make([]feedEntry, len(rows))
	for i, r := range rows {
		ended := time.UnixMilli(r.At)
		e := token.Revocation{Expiry: ended.Add(f.life()).Unix() + 1} // rounded up
		if r.Lifted {
			// Tokens are dated back, and those from before were too.
			e.Before = ended.Add(-f.backdate).Unix()
		}
		switch r.Claim {
		case "sid":
			e.Session = r.Value
		case "sub":
			e.Subject = r.Value
		case "client_id":
			e.ClientID = r.Value
		case "jti":
			e.ID = r.Value
		}
		text, err := json.Marshal(e)
		if err != nil {
			return nil, fmt.Errorf("render a revocation: %w", err)
		}
		entries[i] = feedEntry{seq: r.Seq, until: e.Expiry, text: text}
	}
	return entries, nil
}

// sign makes the JWT that says what came after a place, or all if that is nil.
func (f *feed) sign(after *int64, seq int64, entries []feedEntry, life time.Duration) (string, error) {
	signer, err := f.keys.Signer(f.alg)
	if err != nil {
		return "", fmt.Errorf("sign the revocations: %w", err)
	}
	now := f.now()
	head, err := json.Marshal(token.Revocations{
		Issuer: f.issuer, IssuedAt: now.Add(-f.backdate).Unix(), Expiry: now.Add(life + time.Second - 1).Unix(),
		Sequence: seq, After: after, TokenLife: int64(f.keys.Policy().TokenLife / time.Second), Entries: []token.Revocation{},
	})
	if err != nil {
		return "", fmt.Errorf("render the revocations: %w", err)
	}
	// The entries are rendered already: they go in before "]}".
	size := len(head)
	for i := range entries {
		size += len(entries[i].text) + 1
	}
	payload := append(make([]byte, 0, size), head[:len(head)-len("]}")]...)
	for i := range entries {
		if i > 0 {
			payload = append(payload, ',')
		}
		payload = append(payload, entries[i].text...)
	}
	text, err := signer.Sign(token.TypeRevocations, append(payload, "]}"...))
	if err != nil {
		return "", fmt.Errorf("sign the revocations: %w", err)
	}
	return text, nil
}

// since is the event that takes a reader from a place before st to st.
func (f *feed) since(st *feedState, after int64) ([]byte, error) {
	if after == st.prev {
		return st.event, nil
	}
	from, _ := slices.BinarySearchFunc(st.entries, after+1, func(e feedEntry, seq int64) int { return cmp.Compare(e.seq, seq) })
	text, err := f.sign(&after, st.seq, st.entries[from:], eventLife)
	if err != nil {
		return nil, err
	}
	return event(st.seq, text), nil
}

// event is an event of a stream (WHATWG HTML §9.2).
func event(seq int64, data string) []byte {
	var b bytes.Buffer
	b.Grow(len(data) + 40)
	fmt.Fprintf(&b, "id: %d\ndata: %s\n\n", seq, data)
	return b.Bytes()
}

// streams counts the streams that are open, and refuses too many.
type streams struct {
	mu   sync.Mutex // guards what follows
	all  int
	from map[string]int // by network

	refused, dropped prometheus.Counter
}

const (
	// maxStreams is how many verifiers a replica streams to. Each costs a
	// goroutine and a connection, some 20 KB. Others can fetch the list.
	maxStreams = 2000

	// maxStreamsFrom is the same for one network, so that no stranger can take
	// all. A fleet behind one address has no more verifiers than this, or its
	// address is a proxy's that --trusted-proxies should name.
	maxStreamsFrom = 200
)

func (s *streams) register(metrics prometheus.Registerer) {
	s.from = map[string]int{}
	s.refused = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "urbandata_revocations_streams_refused_total", Help: "Streams of revocations that were not opened because there are too many.",
	})
	s.dropped = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "urbandata_revocations_streams_dropped_total", Help: "Streams of revocations that were closed because their reader was too slow.",
	})
	metrics.MustRegister(s.refused, s.dropped, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "urbandata_revocations_streams", Help: "Streams of revocations that are open.",
	}, func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(s.all)
	}))
}

// open claims a stream for a network; close gives it back.
func (s *streams) open(network string) (closer func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= maxStreams || s.from[network] >= maxStreamsFrom {
		s.refused.Inc()
		return nil, false
	}
	s.all++
	s.from[network]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all--
		if s.from[network]--; s.from[network] == 0 {
			delete(s.from, network)
		}
	}, true
}
