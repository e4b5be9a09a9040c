package verify

import (
	"errors"
	"hash/maphash"
	"maps"
	"strings"
	"sync/atomic"
	"time"
)

// What the issuer has said to have ended: a table that every verification
// consults, and that one goroutine writes. It is maps behind atomic pointers,
// so a look is a hash or two, without a lock and without an allocation, and
// news of one session copies one small map.

// The claims by which tokens can be named.
const (
	bySession = iota
	bySubject
	byClient
	byID
	endKinds
)

// maxEndValue is the longest value of a claim in an entry, in bytes.
const maxEndValue = 256

// ending is what is known of the tokens with one value of a claim.
type ending struct {
	until  int64 // from here on the entry says nothing, in Unix seconds; leeway is in it
	before int64 // only tokens with an earlier iat have ended; 0: all
}

// end is an entry as it comes from the issuer.
type end struct {
	kind  int
	value string
	ending
}

const endShards = 256

type endTable struct {
	seed  maphash.Seed
	kinds [endKinds]struct {
		size   atomic.Int64 // 0: there is nothing to look for
		shards [endShards]atomic.Pointer[map[string]ending]
	}
}

func newEndTable() *endTable { return &endTable{seed: maphash.MakeSeed()} }

func (t *endTable) shard(value string) int {
	return int(maphash.String(t.seed, value) % endShards)
}

// ended says whether a token with these claims has ended.
func (t *endTable) ended(p *payload, now time.Time) bool {
	return t.has(bySession, p.Session, p, now) || t.has(bySubject, p.Subject, p, now) ||
		t.has(byClient, p.ClientID, p, now) || t.has(byID, p.ID, p, now)
}

func (t *endTable) has(kind int, value string, p *payload, now time.Time) bool {
	k := &t.kinds[kind]
	if value == "" || k.size.Load() == 0 {
		return false
	}
	m := k.shards[t.shard(value)].Load()
	if m == nil {
		return false
	}
	e, ok := (*m)[value]
	return ok && now.Unix() < e.until && (e.before == 0 || p.IssuedAt < e.before)
}

// size is the number of entries.
func (t *endTable) size() (n int) {
	for i := range t.kinds {
		n += int(t.kinds[i].size.Load())
	}
	return n
}

// grouped sorts entries by the map that they belong to, and keeps the order of
// those of one map.
func (t *endTable) grouped(ends []end) map[[2]int][]end {
	groups := map[[2]int][]end{}
	for _, e := range ends {
		at := [2]int{e.kind, t.shard(e.value)}
		groups[at] = append(groups[at], e)
	}
	return groups
}

// replace puts a whole list in the place of what is held.
func (t *endTable) replace(ends []end, now time.Time) {
	groups := t.grouped(ends)
	for kind := range t.kinds {
		for shard := range endShards {
			t.set(kind, shard, groups[[2]int{kind, shard}], nil, now)
		}
	}
}

// add puts entries to those held, each in the place of an earlier one about
// the same value.
func (t *endTable) add(ends []end, now time.Time) {
	for at, group := range t.grouped(ends) {
		t.set(at[0], at[1], group, t.kinds[at[0]].shards[at[1]].Load(), now)
	}
}

// sweep forgets what says nothing any more.
func (t *endTable) sweep(now time.Time) {
	for kind := range t.kinds {
		for shard := range endShards {
			old := t.kinds[kind].shards[shard].Load()
			if old == nil {
				continue
			}
			for _, e := range *old {
				if e.until <= now.Unix() {
					t.set(kind, shard, nil, old, now)
					break
				}
			}
		}
	}
}

// set makes the map of one shard anew: of what old has and what group says.
func (t *endTable) set(kind, shard int, group []end, old *map[string]ending, now time.Time) {
	k := &t.kinds[kind]
	var next map[string]ending
	if old != nil {
		next = maps.Clone(*old)
	} else if len(group) > 0 {
		next = make(map[string]ending, len(group))
	}
	for _, e := range group {
		if _, ok := next[e.value]; ok {
			next[e.value] = e.ending
			continue
		}
		next[strings.Clone(e.value)] = e.ending // else it would keep the whole document
	}
	maps.DeleteFunc(next, func(_ string, e ending) bool { return e.until <= now.Unix() })
	was := 0
	if m := k.shards[shard].Load(); m != nil {
		was = len(*m)
	}
	if len(next) == 0 {
		if was > 0 {
			k.shards[shard].Store(nil)
		}
	} else {
		k.shards[shard].Store(&next)
	}
	k.size.Add(int64(len(next) - was))
}

// statement is what the issuer has signed about what has ended.
type statement struct {
	issuer                 string
	issuedAt, expiry       int64
	hasIssuedAt, hasExpiry bool
	hasSeq                 bool
	seq                    int64
	follows                bool // it follows upon after; else it is the whole list
	after                  int64
	tokenLife              int64
	hasEnds                bool
	ends                   []end // until without leeway
}

// parseStatement reads the payload of a JWT of revocations, with at most limit
// entries. Entries about claims that it doesn't know are read past.
func parseStatement(s string, limit int) (*statement, error) {
	var st statement
	r := reader{s: s}
	err := r.object(func(name string) (err error) {
		switch name {
		case "iss":
			st.issuer, err = r.str()
		case "iat":
			_, st.issuedAt, err = r.seconds()
			st.hasIssuedAt = true
		case "exp":
			st.expiry, _, err = r.seconds()
			st.hasExpiry = true
		case "seq":
			st.seq, err = r.count()
			st.hasSeq = true
		case "after":
			st.after, err = r.count()
			st.follows = true
		case "token_life":
			st.tokenLife, err = r.count()
		case "revocations":
			st.hasEnds = true
			err = r.array(func() error {
				e, known, err := r.revocation()
				if err == nil && known {
					st.ends = append(st.ends, e)
				}
				if len(st.ends) > limit {
					return errTooMany
				}
				return err
			})
		default:
			err = r.value()
		}
		return err
	})
	if err == nil {
		err = r.end()
	}
	switch {
	case err != nil:
	case !st.hasIssuedAt || !st.hasExpiry || !st.hasSeq || !st.hasEnds || st.issuer == "":
		err = errLacks
	case st.follows && st.after > st.seq:
		err = errNumber
	}
	if err != nil {
		return nil, wrap(ErrRevocations, err)
	}
	return &st, nil
}

// revocation reads one entry; known is false if it is about another claim.
func (r *reader) revocation() (e end, known bool, err error) {
	named, dated := 0, false
	err = r.object(func(name string) (err error) {
		var kind int
		switch name {
		case "sid":
			kind = bySession
		case "sub":
			kind = bySubject
		case "client_id":
			kind = byClient
		case "jti":
			kind = byID
		case "exp":
			_, e.until, err = r.seconds()
			dated = true
			return err
		case "before":
			_, e.before, err = r.seconds()
			return err
		default:
			return r.value()
		}
		named++
		e.kind = kind
		e.value, err = r.str()
		return err
	})
	switch {
	case err != nil:
		return e, false, err
	case named > 1:
		return e, false, errTwoNames
	case named == 0:
		return e, false, nil
	case !dated, e.value == "", len(e.value) > maxEndValue:
		return e, false, errLacks
	}
	return e, true, nil
}

// count reads a number that counts something.
func (r *reader) count() (int64, error) {
	floor, ceil, err := r.seconds()
	if err == nil && (floor != ceil || floor < 0) {
		err = errNumber
	}
	return floor, err
}

var (
	errLacks    = errors.New("a member is missing, empty or too long")
	errTwoNames = errors.New("an entry names two claims")
	errTooMany  = errors.New("more entries than Revocations.MaxEntries")
)
