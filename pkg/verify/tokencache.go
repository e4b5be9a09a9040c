package verify

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// The cache of verified tokens. A client sends one token with every request of
// its life, and only the first need cost a signature check.
//
//   - A token enters behind a good signature and good claims, so forgeries can
//     neither fill it nor be found in it.
//   - It is found by the whole token, byte for byte. The hash, seeded at random
//     for each process, only says where to look: two tokens of one hash are
//     still two tokens.
//   - What time can change (exp, nbf, iat, the life of the key set) is checked
//     again at every hit, by the very code that checked it at first.
//   - What it holds is of one [KeySet]. When another set takes its place, all
//     of that is void in the same instant, and dropped in the next.
//
// It is an array of sets of eight places. A token may be in either of two sets,
// and goes to the emptier, which fills them evenly. A set has its share of the
// bytes, so the whole can't outgrow its bound, and nothing needs to sweep it. A
// hit is a few atomic loads and no lock, so it scales with the cores.

const (
	ways = 8
	// placeBytes is what a token may be expected to take. Ours take 1.6 KB.
	placeBytes = 2 << 10
	setBytes   = ways * placeBytes

	// minTokenCacheBytes is one set.
	minTokenCacheBytes = setBytes
)

// verified is a token that was found good. It is immutable.
type verified struct {
	payload
	text string // the payload, decoded
	key  *key
	by   *trust  // whose checklist it passed
	set  *KeySet // that key was of

	// What follows is for the cache alone.
	raw  string
	cost int64
}

// size bounds the memory that v holds on to.
func (v *verified) size() int64 {
	const entry = int64(unsafe.Sizeof(verified{})) + 64 // and what the allocator rounds up
	const word = int64(unsafe.Sizeof(""))
	// The strings of the claims are parts of text, unless they were escaped.
	return entry + int64(len(v.raw)) + 2*int64(len(v.text)) +
		word*int64(cap(v.Audience)+cap(v.Scope)+cap(v.Roles)+cap(v.AMR))
}

// tokenSet is eight places. A tag is part of the hash of what is in the place
// beside it, and spares looking there; between the two writes it may be wrong,
// which costs a hit and no more.
type tokenSet struct {
	tags   [ways]atomic.Uint32
	places [ways]atomic.Pointer[verified]

	mu    sync.Mutex   // guards writing to all of it
	bytes atomic.Int64 // at most setBytes
}

// tokenCache is safe for concurrent use; nil holds nothing.
type tokenCache struct {
	seed maphash.Seed
	sets []tokenSet

	stored  atomic.Uint64
	evicted atomic.Uint64 // good ones, for want of room
}

func newTokenCache(limit int64) *tokenCache {
	if limit == 0 {
		return nil
	}
	return &tokenCache{seed: maphash.MakeSeed(), sets: make([]tokenSet, limit/setBytes)}
}

// at is where a token of this hash is, if anywhere.
func (c *tokenCache) at(hash uint64) (one, other *tokenSet) {
	n := uint64(len(c.sets))
	return &c.sets[hash%n], &c.sets[(hash>>32^0x9e3779b9)%n]
}

// tag is the part of a hash that the choice of the sets uses least.
func tag(hash uint64) uint32 { return uint32(hash >> 16) } //nolint:gosec // a part of it is what is wanted

// get returns what was found out about raw, or nil. Whether it still holds is
// for recall to say.
func (c *tokenCache) get(raw string) *verified {
	if c == nil {
		return nil
	}
	hash := maphash.String(c.seed, raw)
	one, other := c.at(hash)
	if v := one.get(hash, raw); v != nil {
		return v
	}
	return other.get(hash, raw)
}

func (s *tokenSet) get(hash uint64, raw string) *verified {
	t := tag(hash)
	for i := range s.tags {
		if s.tags[i].Load() != t {
			continue
		}
		if v := s.places[i].Load(); v != nil && v.raw == raw {
			return v
		}
	}
	return nil
}

// put keeps v, which is of raw, where there is room for it: in the place of
// one that is void, else of those that are the first to expire. One that
// would take more than a quarter of a set is not kept.
func (c *tokenCache) put(raw string, v *verified, now time.Time) {
	if c == nil {
		return
	}
	v.raw = strings.Clone(raw) // else it would keep the whole request's header
	v.cost = v.size()
	if v.cost > setBytes/4 {
		return
	}
	hash := maphash.String(c.seed, raw)
	set, other := c.at(hash)
	if other.bytes.Load() < set.bytes.Load() {
		set = other
	}
	set.mu.Lock()
	defer set.mu.Unlock()
	free := -1
	for i := range set.places {
		switch v := set.places[i].Load(); {
		case v == nil:
			free = i
		case v.raw == raw, !v.holds(now):
			set.remove(i)
			free = i
		}
	}
	for free < 0 || set.bytes.Load()+v.cost > setBytes {
		free = set.first()
		set.remove(free)
		c.evicted.Add(1)
	}
	set.bytes.Add(v.cost)
	set.places[free].Store(v)
	set.tags[free].Store(tag(hash))
	c.stored.Add(1)
}

// first is the place of the token that is the first to expire. s is not empty.
func (s *tokenSet) first() int {
	first, exp := -1, int64(0)
	for i := range s.places {
		if v := s.places[i].Load(); v != nil && (first < 0 || v.Expiry < exp) {
			first, exp = i, v.Expiry
		}
	}
	return first
}

// remove empties a place that is not empty. s.mu is held.
func (s *tokenSet) remove(i int) {
	s.bytes.Add(-s.places[i].Load().cost)
	s.places[i].Store(nil)
}

// purge drops what is void.
func (c *tokenCache) purge(now time.Time) {
	if c == nil {
		return
	}
	for i := range c.sets {
		set := &c.sets[i]
		set.mu.Lock()
		for j := range set.places {
			if v := set.places[j].Load(); v != nil && !v.holds(now) {
				set.remove(j)
			}
		}
		set.mu.Unlock()
	}
}

// holds says whether v could still be answered with: its key set is the one
// held, and it has not expired.
func (v *verified) holds(now time.Time) bool {
	snap := v.by.cache.current.Load()
	return snap.usable(now) && snap.set == v.set && now.Before(v.ExpiresAt().Add(v.by.options.Leeway))
}

// size is the number of tokens held and the bytes they take. Those that have
// expired count until others take their places.
func (c *tokenCache) size() (tokens int, bytes int64) {
	if c == nil {
		return 0, 0
	}
	for i := range c.sets {
		set := &c.sets[i]
		bytes += set.bytes.Load()
		for j := range set.places {
			if set.places[j].Load() != nil {
				tokens++
			}
		}
	}
	return tokens, bytes
}
