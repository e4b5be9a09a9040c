// Package pace decides when a verifier asks for its issuer's key set, and for
// how long it uses the one that it holds. It decides only: it has no clock, no
// network and no goroutine, so that pkg/verify can drive one verifier by it in
// real time, and test/simulate a hundred thousand in a few seconds.
//
//	          answer                    Stale              Expires
//	asked ──────────────▶ fresh ─────────┬──── stale ────────┬──── refused
//	  ▲                     │            │  (used if no      │
//	  └── Ahead: 70–90 % ───┘            │   better is had)  │
//	  └── Again: 0.1 s, 0.2 s, … 10 s after failures ────────┘
//	  └── Gate: at once for a kid that the set doesn't have, within a budget
package pace

import (
	"strings"
	"time"
)

const (
	// FirstRetry is the wait after a failed fetch. It doubles with each, up to
	// LastRetry; half of it is random.
	FirstRetry = 100 * time.Millisecond
	// LastRetry is the longest wait.
	LastRetry = 10 * time.Second

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

// Life is for how long an answer is fresh that promises d; said is false if it
// promises nothing.
func (r Rules) Life(d time.Duration, said bool) time.Duration {
	if !said {
		return r.DefaultAge
	}
	return min(max(d, r.MinAge), r.MaxAge)
}

// Span is the use of a set that was asked for at a moment and is fresh for
// life. It runs from the question, not from the answer: a set may be replaced
// while it is on its way.
func (r Rules) Span(asked time.Time, life time.Duration) Span {
	return Span{Fetched: asked, Stale: asked.Add(life), Expires: asked.Add(life + r.MaxStale)}
}

// Span is for how long a set may be used.
type Span struct {
	Fetched time.Time // when the issuer last said that this is the set
	Stale   time.Time // from here on it should have been replaced
	Expires time.Time // from here on it must not be used; zero: never
}

// Usable reports whether the set may be used at a moment.
func (s Span) Usable(now time.Time) bool { return s.Expires.IsZero() || now.Before(s.Expires) }

// Late reports whether the set should have been replaced by a moment.
func (s Span) Late(now time.Time) bool { return !s.Expires.IsZero() && !now.Before(s.Stale) }

// Jitter is a random duration in [0, d].
type Jitter func(d time.Duration) time.Duration

// Ahead is how long to wait after a good answer: between 70 and 90 % of the
// set's life, ahead of its end and not in step with other verifiers.
func (s Span) Ahead(jitter Jitter) time.Duration {
	life := s.Stale.Sub(s.Fetched)
	return life*7/10 + jitter(life/5)
}

// Again is how long to wait after so many failures in a row, of an issuer that
// wants to be left alone for wait.
func Again(failures int, wait time.Duration, jitter Jitter) time.Duration {
	d := LastRetry
	if n := failures - 1; n < 7 {
		d = min(FirstRetry<<n, LastRetry)
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
