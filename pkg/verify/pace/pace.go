// Package pace decides when a verifier asks for its issuer's key set, and for
// how long it uses the one that it holds. It decides only: it has no clock, no
// network and no goroutine, so that pkg/verify can drive one verifier by it in
// real time, and test/simulate a hundred thousand in a few seconds.
//
//	          answer                    Stale              Expires
//	asked ──────────────▶ fresh ─────────┬──── stale ────────┬──── refused
//	  ▲                     │            │  (used if no      │
//	  ├── Ahead: see Span ──┘            │   better is had)  │
//	  ├── Again: 0.1 s, 0.2 s, … 60 s after failures ────────┘
//	  └── Gate: at once for a kid that the set doesn't have, within a budget
//
// Again and Gate don't add up: each fetch, whoever wanted it, starts the wait
// anew. So a verifier asks an issuer that is down once in 45 s on average, or
// as often as the budget allows while tokens with unknown kids come, and while
// no set may be used any more: then a service that is asked is back within the
// budget's ten seconds, not Again's minute.
package pace

import (
	"strings"
	"time"
)

const (
	// FirstRetry is the wait after a failed fetch. It doubles with each, up to
	// LastRetry; half of it is random.
	FirstRetry = 100 * time.Millisecond
	// LastRetry is the longest wait. Nothing is lost by it while the set held
	// may be used, but that a revoked key is taken for so long after an
	// outage; and an issuer that comes back is not held down by all who wait
	// for it.
	LastRetry = time.Minute

	// MaxPatience is the longest that an issuer can make a verifier wait
	// after a failure. It is far less than a set may be stale, so no wrong
	// answer can cut a verifier off.
	MaxPatience = time.Minute

	// MaxAbsent bounds the kids remembered as absent.
	MaxAbsent = 1024
	// AbsentFor is for how long a kid is remembered as absent. An entry can
	// never hide a key: the set held is asked first. It only spares the
	// budget. So a short time is enough, and it lets a kid be asked for again
	// that one replica of the issuer already signs with and another did not
	// yet publish.
	AbsentFor = 30 * time.Second
)

// Rules are the bounds on a set's life. See pkg/verify's CacheOptions.
type Rules struct {
	MinAge, MaxAge, DefaultAge, MaxStale time.Duration
}

// Promise is what an answer says of its own life (RFC 9111 §4.2).
type Promise struct {
	Said bool          // it says anything; else what follows is empty
	Left time.Duration // for how long it is fresh from now on: max-age less Age
	Copy bool          // a cache has it in store (Age, §5.1), and will give no other for so long
}

// Span is the use of a set that was asked for at a moment and came with a
// promise. It runs from the question, not from the answer: a set may be
// replaced while it is on its way.
//
// An issuer is asked again at 70 to 90 % of the set's life, ahead of its end.
// A cache would give the same copy once more, with a life that is shorter, and
// so again and again. It is asked when the copy has ended: a tenth of MinAge
// after, because Age counts in whole seconds, and up to half of it, so that
// those who hold the same copy don't come at once. For that such a copy lives
// longer by MinAge, as one that has no life left does in any case.
func (r Rules) Span(asked time.Time, p Promise) Span {
	life := r.DefaultAge
	if p.Said {
		life = min(max(p.Left, r.MinAge), r.MaxAge)
	}
	first, spread := life*7/10, life/5
	if p.Copy && p.Left+r.MinAge <= r.MaxAge {
		life = p.Left + r.MinAge
		first, spread = max(p.Left+r.MinAge/10, r.MinAge/2), r.MinAge*4/10
	}
	return Span{
		Fetched: asked, Stale: asked.Add(life), Expires: asked.Add(life + r.MaxStale),
		first: first, spread: spread,
	}
}

// Span is for how long a set may be used.
type Span struct {
	Fetched time.Time // when the issuer last said that this is the set
	Stale   time.Time // from here on it should have been replaced
	Expires time.Time // from here on it must not be used; zero: never

	first, spread time.Duration // see Ahead
}

// Usable reports whether the set may be used at a moment.
func (s Span) Usable(now time.Time) bool { return s.Expires.IsZero() || now.Before(s.Expires) }

// Late reports whether the set should have been replaced by a moment.
func (s Span) Late(now time.Time) bool { return !s.Expires.IsZero() && !now.Before(s.Stale) }

// Jitter is a random duration in [0, d].
type Jitter func(d time.Duration) time.Duration

// Ahead is how long to wait after a good answer before the next is asked for:
// at random, not in step with other verifiers.
func (s Span) Ahead(jitter Jitter) time.Duration { return s.first + jitter(s.spread) }

// Again is how long to wait after so many failures in a row: twice as long
// after each, up to most, and half of it at random. An issuer that wants to be
// left alone for wait is.
func Again(failures int, most, wait time.Duration, jitter Jitter) time.Duration {
	d := most
	if n := failures - 1; n < 16 {
		d = min(FirstRetry<<n, most)
	}
	return max(d/2+jitter(d/2), wait+jitter(wait/10))
}

// A Gate lets kids that the set doesn't have ask for a fetch, or not. Whoever
// can send tokens can make up kids, so it bounds what these cost the issuer.
// It is not safe for concurrent use.
type Gate struct {
	budget  bucket
	absent  absentees
	patient time.Time // until then the issuer wants to be left alone
}

// NewGate allows burst fetches at once, and one more each every.
func NewGate(burst int, every time.Duration) Gate {
	return Gate{budget: bucket{burst: burst, every: every, tokens: burst}}
}

// Open claims a fetch if one may be made. It never waits.
func (g *Gate) Open(now time.Time) bool { return g.Wait(now) == 0 && g.budget.take(now) }

// Absent reports whether kid is known to be absent.
func (g *Gate) Absent(kid string, now time.Time) bool { return g.absent.has(kid, now) }

// Missed remembers that a fetch which began after kid came in didn't bring it.
func (g *Gate) Missed(kid string, now time.Time) { g.absent.add(kid, now) }

// Answered takes note of an answer at a moment: whether the set changed by it,
// and for how long the issuer wants to be left alone (Retry-After).
func (g *Gate) Answered(now time.Time, changed bool, wait time.Duration) {
	g.patient = time.Time{}
	if wait > 0 {
		g.patient = now.Add(wait)
	}
	if changed {
		g.absent = absentees{}
	}
}

// Wait is for how long the issuer still wants to be left alone.
func (g *Gate) Wait(now time.Time) time.Duration {
	left := g.patient.Sub(now)
	if left < 0 || left > MaxPatience { // over, or the clock went back
		return 0
	}
	return left
}

// bucket is a token bucket: burst at once, then one each every. The zero time
// is when it was last full.
type bucket struct {
	burst  int
	every  time.Duration
	tokens int
	filled time.Time // up to when refills are counted
}

// take claims one fetch if the budget has one.
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
// It holds MaxAbsent at most; a new one takes the place of the oldest.
type absentees struct {
	until map[string]time.Time
	ring  []string
	next  int
}

func (a *absentees) has(kid string, now time.Time) bool {
	until, ok := a.until[kid]
	// Further ahead than AbsentFor is an entry only if the clock went back.
	return ok && now.Before(until) && until.Sub(now) <= AbsentFor
}

func (a *absentees) add(kid string, now time.Time) {
	if a.until == nil {
		a.until = make(map[string]time.Time)
	}
	if _, ok := a.until[kid]; !ok {
		kid = strings.Clone(kid) // else it would keep the whole header
		if len(a.ring) < MaxAbsent {
			a.ring = append(a.ring, kid)
		} else {
			delete(a.until, a.ring[a.next])
			a.ring[a.next] = kid
			a.next = (a.next + 1) % MaxAbsent
		}
	}
	a.until[kid] = now.Add(AbsentFor)
}
