package verify

import (
	"maps"
	"strings"
	"sync/atomic"
	"time"
)

// What an attacker can make grow, and its bounds. The memory of a verifier
// under a flood of made-up tokens is the sum of these.

// bucket is a token bucket: burst at once, then one each every. The zero time
// is when it was last full.
type bucket struct {
	burst  int
	every  time.Duration
	tokens int
	filled time.Time // up to when refills are counted
}

// take claims one fetch if the budget has one. It never waits.
func (b *bucket) take(now time.Time) bool {
	switch n := now.Sub(b.filled) / b.every; {
	case n < 0: // the clock went back: start to count again
		b.filled = now
	case n >= time.Duration(b.burst-b.tokens):
		b.tokens, b.filled = b.burst, now
	default:
		b.tokens += int(n)
		b.filled = b.filled.Add(n * b.every)
	}
	if b.tokens == 0 {
		return false
	}
	b.tokens--
	return true
}

// absentees remembers kids that the issuer was asked for and does not have.
// It holds maxAbsent at most; a new one takes the place of the oldest.
type absentees struct {
	until map[string]time.Time
	ring  []string
	next  int
}

func (a *absentees) has(kid string, now time.Time) bool {
	until, ok := a.until[kid]
	// Further ahead than absentFor is an entry only if the clock went back.
	return ok && now.Before(until) && until.Sub(now) <= absentFor
}

func (a *absentees) add(kid string, now time.Time) {
	if a.until == nil {
		a.until = make(map[string]time.Time)
	}
	if _, ok := a.until[kid]; !ok {
		kid = strings.Clone(kid) // else it would keep the whole header
		if len(a.ring) < maxAbsent {
			a.ring = append(a.ring, kid)
		} else {
			delete(a.until, a.ring[a.next])
			a.ring[a.next] = kid
			a.next = (a.next + 1) % maxAbsent
		}
	}
	a.until[kid] = now.Add(absentFor)
}

func (a *absentees) clear() { *a = absentees{} }

const (
	maxHeaders     = 64
	maxHeaderBytes = 1024
)

// headerCache maps a header, as it stands in the token, to the key that it
// names. An issuer writes one header per key, so all checks of a header need
// be made only once. A header enters only behind a good signature: forgeries
// can neither fill it nor be found in it. It belongs to one snapshot's set,
// and to the options of one verifier.
type headerCache struct {
	known atomic.Pointer[map[string]*key]
}

func (c *headerCache) get(header []byte) *key {
	known := c.known.Load()
	if known == nil {
		return nil
	}
	return (*known)[string(header)]
}

// add keeps header unless the cache is full. Two at the same time may lose
// one; the next token brings it again.
func (c *headerCache) add(header []byte, k *key) {
	old := c.known.Load()
	var next map[string]*key
	if old != nil {
		if len(*old) >= maxHeaders {
			return
		}
		next = maps.Clone(*old)
	} else {
		next = make(map[string]*key)
	}
	if len(header) > maxHeaderBytes {
		return
	}
	next[string(header)] = k
	c.known.CompareAndSwap(old, &next)
}
