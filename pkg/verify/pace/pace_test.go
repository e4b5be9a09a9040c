package pace

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestBucket(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	b := bucket{burst: 2, every: 10 * time.Second, tokens: 2}
	for i, tc := range []struct {
		at   int
		want bool
	}{
		{1000, true},
		{1000, true},
		{1000, false},
		{1009, false},
		{1010, true},
		{1019, false},
		{1020, true},
		{1100, true},
		{1100, true},
		{1100, false},
		{500, false}, // the clock went back
		{505, false},
		{510, true},
	} {
		if got := b.take(at(tc.at)); got != tc.want {
			t.Errorf("take %d, at %d: %v, want %v", i, tc.at, got, tc.want)
		}
	}
}

func TestAbsenteesAreBounded(t *testing.T) {
	var a absentees
	now := time.Unix(0, 0)
	name := func(i int) string { return string(rune(0x4e00 + i)) }
	for i := range 3 * MaxAbsent {
		a.add(name(i), now)
	}
	if len(a.until) != MaxAbsent || len(a.ring) != MaxAbsent {
		t.Errorf("%d entries, %d in the ring; want %d", len(a.until), len(a.ring), MaxAbsent)
	}
	if a.has(name(0), now) || !a.has(name(3*MaxAbsent-1), now) || a.has(name(3*MaxAbsent-1), now.Add(AbsentFor)) {
		t.Error("the oldest is remembered, the newest is not, or for too long")
	}
}

// The least and the most that the random part can make of a wait.
var (
	least Jitter = func(time.Duration) time.Duration { return 0 }
	most  Jitter = func(d time.Duration) time.Duration { return d }
)

var rules = Rules{MinAge: 15 * time.Second, MaxAge: time.Hour, DefaultAge: 5 * time.Minute, MaxStale: time.Hour}

func TestWaits(t *testing.T) {
	ahead := func(p Promise) func(Jitter) time.Duration { return rules.Span(time.Unix(0, 0), p).Ahead }
	again := func(failures int, wait time.Duration) func(Jitter) time.Duration {
		return func(j Jitter) time.Duration { return Again(failures, LastRetry, wait, j) }
	}
	for _, tc := range []struct {
		name        string
		wait        func(Jitter) time.Duration
		least, most time.Duration
	}{
		{"ahead of 5 min", ahead(Promise{Said: true, Left: 5 * time.Minute}), 210 * time.Second, 270 * time.Second},
		{"ahead of an answer that says nothing", ahead(Promise{}), 210 * time.Second, 270 * time.Second},
		{"ahead of one that is not to be kept", ahead(Promise{Said: true}), 10500 * time.Millisecond, 13500 * time.Millisecond},
		{"ahead of a day", ahead(Promise{Said: true, Left: 24 * time.Hour}), 42 * time.Minute, 54 * time.Minute},
		{"a new copy of 5 min", ahead(Promise{Said: true, Left: 5 * time.Minute, Copy: true}), 301500 * time.Millisecond, 307500 * time.Millisecond},
		{"a copy with a minute left", ahead(Promise{Said: true, Left: time.Minute, Copy: true}), 61500 * time.Millisecond, 67500 * time.Millisecond},
		{"a copy with two seconds left", ahead(Promise{Said: true, Left: 2 * time.Second, Copy: true}), 7500 * time.Millisecond, 13500 * time.Millisecond},
		{"a copy that has ended", ahead(Promise{Said: true, Copy: true}), 7500 * time.Millisecond, 13500 * time.Millisecond},
		{"a copy of a day", ahead(Promise{Said: true, Left: 23 * time.Hour, Copy: true}), 42 * time.Minute, 54 * time.Minute},
		{"first failure", again(1, 0), 50 * time.Millisecond, 100 * time.Millisecond},
		{"fourth failure", again(4, 0), 400 * time.Millisecond, 800 * time.Millisecond},
		{"tenth failure", again(10, 0), 25600 * time.Millisecond, 51200 * time.Millisecond},
		{"eleventh failure", again(11, 0), 30 * time.Second, time.Minute},
		{"millionth failure", again(1_000_000, 0), 30 * time.Second, time.Minute},
		{"asked to wait", again(1, 20*time.Second), 20 * time.Second, 22 * time.Second},
		{"asked to wait for less", again(20, time.Second), 30 * time.Second, time.Minute},
	} {
		if low, high := tc.wait(least), tc.wait(most); low != tc.least || high != tc.most {
			t.Errorf("%s: %v to %v, want %v to %v", tc.name, low, high, tc.least, tc.most)
		}
	}
}

// Whatever is promised, the next set is asked for before this one is late, and
// not more often than half of MinAge; and no life is longer than MaxAge.
func TestSpans(t *testing.T) {
	asked := time.Unix(1000, 0)
	for range 100_000 {
		p := Promise{Said: rand.IntN(4) > 0}
		if p.Said {
			p.Left, p.Copy = time.Duration(rand.Int64N(int64(2*time.Hour)>>rand.IntN(20))), rand.IntN(2) > 0
		}
		s := rules.Span(asked, p)
		low, high, life := s.Ahead(least), s.Ahead(most), s.Stale.Sub(asked)
		if low < rules.MinAge/2 || high-low < rules.MinAge/5 || high > life*9/10 && high > life-rules.MinAge/10 {
			t.Fatalf("%+v: asked again after %v to %v, of a life of %v", p, low, high, life)
		}
		if life < rules.MinAge || life > rules.MaxAge || s.Expires.Sub(s.Stale) != rules.MaxStale {
			t.Fatalf("%+v: %+v", p, s)
		}
		if p.Copy && p.Left < rules.MaxAge-rules.MinAge && low <= p.Left {
			t.Fatalf("%+v: asked again after %v, when the copy is still there", p, low)
		}
	}
}

// A cache of several machines, each with a copy of its own for max-age, that
// gives Age in whole seconds. Wherever it asks next, a verifier has what is new
// MinAge after the last old copy has ended, and asks no more often than needs
// be: once for each copy that it meets.
func TestCaches(t *testing.T) {
	jitter := func(d time.Duration) time.Duration { return time.Duration(rand.Int64N(int64(d) + 1)) }
	for _, tc := range []struct {
		name     string
		maxAge   time.Duration
		machines int
		up       bool // Age is rounded up
		busy     bool // others keep the copies filled
		fewest   time.Duration
	}{
		{"one", 5 * time.Minute, 1, false, false, 300 * time.Second},
		{"one, busy", 5 * time.Minute, 1, false, true, 299 * time.Second},
		{"one, Age rounded up", 5 * time.Minute, 1, true, true, 299 * time.Second},
		{"one, an hour less MinAge", time.Hour - 15*time.Second, 1, false, true, 58 * time.Minute},
		{"one, a minute", time.Minute, 1, false, true, 59 * time.Second},
		{"one, of no life", 0, 1, false, true, 10 * time.Second},
		{"three", 5 * time.Minute, 3, false, true, 150 * time.Second},
		{"three, Age rounded up", 5 * time.Minute, 3, true, true, 150 * time.Second},
	} {
		filled := make([]time.Duration, tc.machines) // since the start
		for n := range filled {
			filled[n] = -jitter(tc.maxAge)
		}
		const runs = 20_000
		now := time.Duration(0)
		for range runs {
			n := rand.IntN(tc.machines)
			age := now - filled[n]
			if age >= tc.maxAge {
				age -= tc.maxAge
				if !tc.busy || age > tc.maxAge {
					age = 0 // it is this request that fills it
				}
				filled[n] = now - age
			}
			said := age.Truncate(time.Second)
			if tc.up {
				said = (age + time.Second - 1).Truncate(time.Second)
			}
			span := rules.Span(time.Unix(0, 0).Add(now), Promise{Said: true, Left: max(0, tc.maxAge-said), Copy: true})
			now += span.Ahead(jitter)
			if old := now - filled[n]; old > tc.maxAge+rules.MinAge {
				t.Fatalf("%s: a set of %v ago is held", tc.name, old)
			}
		}
		if mean := now / runs; mean < tc.fewest {
			t.Errorf("%s: asked once in %v, want %v", tc.name, mean, tc.fewest)
		}
	}
}

func TestGate(t *testing.T) {
	now := time.Unix(1000, 0)
	g := NewGate(1, 10*time.Second)
	if !g.Open(now) || g.Open(now) {
		t.Fatal("not one fetch")
	}
	g.Missed("a", now)
	if !g.Absent("a", now) || g.Absent("b", now) {
		t.Error("the wrong kid is absent")
	}
	g.Answered(now, true, 0)
	if g.Absent("a", now) {
		t.Error("a kid is still absent after the set changed")
	}
	later := now.Add(10 * time.Second)
	g.Answered(now, false, 20*time.Second)
	if g.Open(later) {
		t.Error("a fetch while the issuer wants to be left alone")
	}
	if g.Wait(later) != 10*time.Second || g.Wait(now.Add(-time.Hour)) != 0 || g.Wait(now.Add(time.Hour)) != 0 {
		t.Error("the wrong wait")
	}
	if g.Answered(later, false, 0); !g.Open(later) {
		t.Error("no fetch after an answer that wants no wait")
	}
}
