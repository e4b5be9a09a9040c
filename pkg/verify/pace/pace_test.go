package pace

import (
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

func TestWaits(t *testing.T) {
	rules := Rules{MinAge: 15 * time.Second, MaxAge: time.Hour, DefaultAge: 5 * time.Minute, MaxStale: time.Hour}
	for _, tc := range []struct {
		name        string
		wait        func(Jitter) time.Duration
		least, most time.Duration
	}{
		{"ahead of 5 min", rules.Span(time.Unix(0, 0), rules.Life(5*time.Minute, true)).Ahead, 210 * time.Second, 270 * time.Second},
		{"ahead of an answer that says nothing", rules.Span(time.Unix(0, 0), rules.Life(0, false)).Ahead, 210 * time.Second, 270 * time.Second},
		{"ahead of one that is old already", rules.Span(time.Unix(0, 0), rules.Life(0, true)).Ahead, 10500 * time.Millisecond, 13500 * time.Millisecond},
		{"ahead of a day", rules.Span(time.Unix(0, 0), rules.Life(24*time.Hour, true)).Ahead, 42 * time.Minute, 54 * time.Minute},
		{"first failure", func(j Jitter) time.Duration { return Again(1, 0, j) }, 50 * time.Millisecond, 100 * time.Millisecond},
		{"fourth failure", func(j Jitter) time.Duration { return Again(4, 0, j) }, 400 * time.Millisecond, 800 * time.Millisecond},
		{"hundredth failure", func(j Jitter) time.Duration { return Again(100, 0, j) }, 5 * time.Second, 10 * time.Second},
		{"asked to wait", func(j Jitter) time.Duration { return Again(1, 20*time.Second, j) }, 20 * time.Second, 22 * time.Second},
	} {
		if low, high := tc.wait(least), tc.wait(most); low != tc.least || high != tc.most {
			t.Errorf("%s: %v to %v, want %v to %v", tc.name, low, high, tc.least, tc.most)
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
