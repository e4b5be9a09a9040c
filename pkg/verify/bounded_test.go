package verify

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
	for i := range 3 * maxAbsent {
		a.add(name(i), now)
	}
	if len(a.until) != maxAbsent || len(a.ring) != maxAbsent {
		t.Errorf("%d entries, %d in the ring; want %d", len(a.until), len(a.ring), maxAbsent)
	}
	if a.has(name(0), now) || !a.has(name(3*maxAbsent-1), now) || a.has(name(3*maxAbsent-1), now.Add(absentFor)) {
		t.Error("the oldest is remembered, the newest is not, or for too long")
	}
}

func TestHeaderCacheIsBounded(t *testing.T) {
	var c headerCache
	for i := range 3 * maxHeaders {
		c.add([]byte{byte(i)}, &key{})
	}
	c.add(make([]byte, maxHeaderBytes+1), &key{})
	if n := len(*c.known.Load()); n != maxHeaders {
		t.Errorf("%d headers, want %d", n, maxHeaders)
	}
}
