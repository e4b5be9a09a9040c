package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/pace"
)

const fleetSize, edgeCount = 500, 10

// played are the scenarios by name, played once.
func played(t *testing.T) map[string]*result {
	t.Helper()
	by := map[string]*result{}
	for _, s := range scenarios(edgeCount) {
		r, err := play(s, fleetSize, 1)
		if err != nil {
			t.Fatal(err)
		}
		by[s.name] = r
	}
	return by
}

// What docs/scale.md says of a fleet must hold for a small one.
func TestScenarios(t *testing.T) {
	by := played(t)
	most := func(name string) int {
		n, _ := by[name].origin.most(settled, length)
		return n
	}
	for name, r := range by {
		if r.again == 0 && r.rejected > 0 {
			t.Errorf("%s: %d good tokens refused", name, r.rejected)
		}
		if r.revoke > 0 && (r.missing > 0 || len(r.dropped) != fleetSize) {
			t.Errorf("%s: %d verifiers never refused the revoked key", name, r.missing)
		}
		if r.edges > 0 && r.away == 0 {
			// Each edge asks once in a max-age of 300 s.
			if total := sum(r.origin.count); total > edgeCount*int(r.length/(300*time.Second)+2) {
				t.Errorf("%s: %d requests at the origin", name, total)
			}
		}
		last, ok := r.after(1, fleetSize)
		// Directly: a set's life. Behind a CDN: what is left of the edge's, and
		// MinAge. In an outage: its end, and the last wait.
		bound := 300*time.Second + verify.DefaultMinAge
		if r.away > 0 {
			bound = r.back - r.revoke + pace.LastRetry + time.Second
		}
		if r.revoke > 0 && (!ok || last > bound) {
			t.Errorf("%s: the last refused after %v, want %v", name, last, bound)
		}
	}
	if a, b := most("rotation, no CDN, all start together"), most("rotation, no CDN, all start together, no jitter"); a*3 > b {
		t.Errorf("jitter: %d a second at the most, %d without", a, b)
	}
	// A verifier asks a CDN no more often than it would ask the origin.
	if cdn, direct := sum(by["rotation"].edge.count), sum(by["rotation, no CDN"].origin.count); cdn > direct {
		t.Errorf("%d requests at the edges, %d without a CDN", cdn, direct)
	}
	// When an outage has lasted for a while, each asks once in 45 s.
	r := by["revocation, no CDN, the same outage"]
	if _, mean := r.origin.most(r.back-5*time.Minute, r.back); mean > fleetSize/40.0 {
		t.Errorf("%.1f attempts a second in an outage", mean)
	}
	if by["two revocations, 1 min apart, no CDN"].onDemand == 0 {
		t.Error("a key that nobody has seen was asked for by nobody")
	}
}

func sum(counts []int) (total int) {
	for _, n := range counts {
		total += n
	}
	return total
}

// The same seed gives the same run, another seed another.
func TestSeed(t *testing.T) {
	run := func(seed uint64) string {
		var out bytes.Buffer
		if err := simulate(&out, 300, 3, seed, ""); err != nil {
			t.Fatal(err)
		}
		_, table, _ := bytes.Cut(out.Bytes(), []byte("\n"))
		return string(table)
	}
	first := run(1)
	if again := run(1); again != first {
		t.Errorf("two runs differ:\n%s\n%s", first, again)
	}
	if run(2) == first {
		t.Error("another seed gives the same run")
	}
}

func TestPlots(t *testing.T) {
	dir := t.TempDir()
	if err := simulate(&bytes.Buffer{}, 50, 2, 1, dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"rotation.svg", "outage.svg", "revocation.svg"} {
		if text, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Contains(text, []byte("</svg>")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Events happen in the order of their times, and those of one moment in the
// order in which they were planned.
func TestWorld(t *testing.T) {
	w := newWorld(1)
	var got []int
	for n := range 1000 {
		d := w.upTo(20 * time.Second).Truncate(time.Second)
		w.after(d, func() { got = append(got, int(d/time.Second)*1000+n) })
	}
	w.run(w.now.Add(time.Minute))
	if len(got) != 1000 {
		t.Fatalf("%d events", len(got))
	}
	for n := 1; n < len(got); n++ {
		if got[n] < got[n-1] {
			t.Fatalf("event %d before %d", got[n-1], got[n])
		}
	}
}
