//go:build unix

package main

import (
	"testing"
	"time"

	"github.com/urbandata/urbandata/keys"
)

// Whatever the scale, the policy is one that production would take.
func TestScaledPolicies(t *testing.T) {
	for _, scale := range []int{1, 2, 10, 60, 600, 3600, 100_000} {
		p := scaled(scale)
		if err := p.Validate(); err != nil {
			t.Errorf("scale %d: %v", scale, err)
		}
		if scale == 1 && p.RotationPeriod+2*time.Minute > 40*time.Minute {
			t.Errorf("in real time a rotation takes %v, and the drill 40 minutes", p.RotationPeriod)
		}
		if clockOffset(p) >= p.Skew/2 {
			t.Errorf("scale %d: a replica whose clock is off by %v may not change the ring", scale, clockOffset(p))
		}
	}
}

// The drill can tell right from wrong.
func TestJudge(t *testing.T) {
	now := time.Now()
	policy := scaled(600)
	for _, tc := range []struct {
		name       string
		ok         bool
		answered   time.Duration // from now; the token ends in a second
		revoked    time.Duration // before now; 0 for not
		good, bad  int
		takenAfter int
	}{
		{"taken", true, 0, 0, 1, 0, 0},
		{"refused", false, 0, 0, 1, 1, 0},
		{"refused when it may have expired", false, time.Second, 0, 0, 0, 0},
		{"refused after its revocation", false, 0, time.Second, 0, 0, 0},
		{"refused before its revocation", false, -2 * time.Second, time.Second, 1, 1, 0},
		{"taken soon after its revocation", true, 0, time.Second, 1, 0, 0},
		{"taken long after its revocation", true, 0, bound(policy) + time.Second, 0, 0, 1},
	} {
		tr := newTrial(options{}, policy, nil)
		if tc.revoked > 0 {
			tr.revoked["k"] = now.Add(-tc.revoked)
		}
		v := &victim{}
		tr.judge(v, "k", now.Add(time.Second), verdict{ok: tc.ok, at: now.Add(tc.answered)}, "")
		if got := v.score; got.good != tc.good || got.goodRefused != tc.bad || got.stolenTakenLate != tc.takenAfter {
			t.Errorf("%s: %+v", tc.name, got)
		}
	}
}

func TestVerdict(t *testing.T) {
	for _, tc := range []struct {
		name                               string
		naive                              bool
		rejections, acceptances, rotations int
		fine                               bool
	}{
		{"nothing wrong", false, 0, 0, 10, true},
		{"one wrong rejection", false, 1, 0, 10, false},
		{"one wrong acceptance", false, 0, 1, 10, false},
		{"nothing happened", false, 0, 0, 0, false},
		{"naive, and seen", true, 7, 0, 10, true},
		{"naive, and not seen", true, 0, 0, 10, false},
		{"naive, and a forgery taken", true, 7, 1, 10, false},
	} {
		tr := newTrial(options{naive: tc.naive, length: time.Minute}, scaled(600), nil)
		tr.minted = 100
		tr.victims = []*victim{{score: score{good: 1}}}
		if err := tr.verdict(tc.rejections, tc.acceptances, tc.rotations); (err == nil) != tc.fine {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	silent := newTrial(options{length: time.Minute}, keys.DefaultPolicy(), nil)
	silent.minted, silent.victims = 100, []*victim{{}}
	if silent.verdict(0, 0, 10) == nil {
		t.Error("a victim that gave no verdict is taken for one that refused nothing")
	}
}
