package keys_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/keys"
)

var dawn = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// history is a ring and the moment it is at. Its fresh keys are names only:
// Step never looks at a key's material.
type history struct {
	t      failer
	policy keys.Policy
	now    time.Time
	ring   keys.Ring
	made   int
	events []keys.Event
}

// failer is what *testing.T and *rapid.T share.
type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func newHistory(t failer, algs ...jose.SignatureAlgorithm) *history {
	p := keys.DefaultPolicy()
	p.Algorithms = algs
	return &history{t: t, policy: p, now: dawn}
}

func (h *history) fresh() []keys.Key {
	var fresh []keys.Key
	for _, alg := range keys.Needs(h.now, h.ring, h.policy, keys.Evidence{}) {
		h.made++
		fresh = append(fresh, keys.Key{ID: fmt.Sprintf("%s-%d", alg, h.made), Alg: alg, Sealed: keys.Sealed("box")})
	}
	return fresh
}

// step makes one round of a keeper.
func (h *history) step() []keys.Event {
	next, events := keys.Step(h.now, h.ring, h.fresh(), h.policy, keys.Evidence{})
	h.ring, h.events = next, append(h.events, events...)
	return events
}

// settle steps until there is nothing to do.
func (h *history) settle() {
	h.t.Helper()
	for range 10 {
		if len(h.step()) == 0 {
			return
		}
	}
	h.t.Fatal("Step never comes to rest")
}

func (h *history) at(after time.Duration) { h.now = dawn.Add(after); h.settle() }

// states is the ring as "id:state …", oldest first.
func (h *history) states() string {
	var out []string
	for _, k := range h.ring.Keys {
		out = append(out, k.ID+":"+string(k.State))
	}
	return strings.Join(out, " ")
}

func (h *history) want(states string) {
	h.t.Helper()
	if got := h.states(); got != states {
		h.t.Fatalf("at %v the ring is\n%s, want\n%s", h.now.Sub(dawn), got, states)
	}
}

func TestGenesisSignsAtOnceAndThenHasStandbys(t *testing.T) {
	h := newHistory(t, jose.EdDSA, jose.RS256)
	h.step()
	h.want("EdDSA-1:signing RS256-2:signing")
	h.step()
	h.want("EdDSA-1:signing EdDSA-3:announced RS256-2:signing RS256-4:announced")
	if events := h.step(); len(events) != 0 {
		t.Errorf("a ring at rest has events: %v", events)
	}
}

func TestPlannedRotation(t *testing.T) {
	h := newHistory(t, jose.EdDSA)
	period, retention := h.policy.RotationPeriod, h.policy.Retention
	h.settle()
	h.at(period - time.Millisecond)
	h.want("EdDSA-1:signing EdDSA-2:announced")
	h.at(period)
	h.want("EdDSA-1:retiring EdDSA-2:signing EdDSA-3:announced")
	if k := h.ring.Key("EdDSA-1"); k.Sealed != nil {
		t.Error("the private half outlived signing")
	}
	h.at(period + retention - time.Millisecond)
	h.want("EdDSA-1:retiring EdDSA-2:signing EdDSA-3:announced")
	h.at(period + retention)
	h.want("EdDSA-1:retired EdDSA-2:signing EdDSA-3:announced")
	h.at(2 * period)
	h.want("EdDSA-1:retired EdDSA-2:retiring EdDSA-3:signing EdDSA-4:announced")
	h.at(2*period + retention)
	h.want("EdDSA-2:retired EdDSA-3:signing EdDSA-4:announced")
}

// Nobody ticked for a year: the stand-by takes over late, and its successor
// still gets the whole lead.
func TestRotationAfterALongStandstill(t *testing.T) {
	h := newHistory(t, jose.EdDSA)
	h.settle()
	year := 365 * 24 * time.Hour
	h.at(year)
	h.want("EdDSA-1:retiring EdDSA-2:signing EdDSA-3:announced")
	h.at(year + h.policy.AnnounceLead - time.Millisecond)
	if k := h.ring.Signing(jose.EdDSA); k.ID != "EdDSA-2" {
		t.Errorf("%s signs before its lead is over", k.ID)
	}
	h.at(year + h.policy.AnnounceLead)
	if k := h.ring.Signing(jose.EdDSA); k.ID != "EdDSA-3" {
		t.Errorf("%s signs, long after its time", k.ID)
	}
}

// A stand-by takes over on time even when no successor can be made.
func TestStepWithoutFreshKeys(t *testing.T) {
	h := newHistory(t, jose.EdDSA)
	h.settle()
	h.ring, _ = keys.Step(dawn.Add(h.policy.RotationPeriod), h.ring, nil, h.policy, keys.Evidence{})
	h.want("EdDSA-1:retiring EdDSA-2:signing")
}

func TestRotate(t *testing.T) {
	h := newHistory(t, jose.EdDSA)
	h.settle()
	rotate := func(emergency bool) int {
		t.Helper()
		ring, events, err := keys.Rotate(h.now, h.ring, jose.EdDSA, emergency)
		if err != nil {
			t.Fatal(err)
		}
		h.ring = ring
		h.settle()
		return len(events)
	}

	rotate(false) // the stand-by is minutes old: it must wait for its lead
	h.want("EdDSA-1:signing EdDSA-2:announced")
	if n := rotate(false); n != 0 {
		t.Errorf("asking twice made %d events", n)
	}
	h.at(h.policy.AnnounceLead)
	h.want("EdDSA-1:retiring EdDSA-2:signing EdDSA-3:announced")
	if got, want := h.ring.Key("EdDSA-1").UnpublishAt, h.now.Add(h.policy.Retention); !got.Equal(want) {
		t.Errorf("published until %v, want %v", got, want)
	}
	if got, want := h.ring.Key("EdDSA-3").ActivateAt, h.now.Add(h.policy.RotationPeriod); !got.Equal(want) {
		t.Errorf("the successor is planned for %v, want %v", got, want)
	}

	rotate(true)
	h.want("EdDSA-1:retiring EdDSA-2:retiring EdDSA-3:signing EdDSA-4:announced")

	if _, _, err := keys.Rotate(h.now, h.ring, jose.RS256, false); !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("error %v, want ErrNoKey", err)
	}
}

func TestRevoke(t *testing.T) {
	lead := keys.DefaultPolicy().AnnounceLead
	day := 24 * time.Hour
	for _, tc := range []struct {
		name   string
		revoke []string
		want   string
		flush  string // what must have taken over a lead later, so that verifiers refetch
	}{
		{"signing", []string{"EdDSA-2"}, "EdDSA-1:retiring EdDSA-2:revoked EdDSA-3:signing EdDSA-4:announced", "EdDSA-4"},
		{"stand-by", []string{"EdDSA-3"}, "EdDSA-1:retiring EdDSA-2:signing EdDSA-3:revoked EdDSA-4:announced", "EdDSA-4"},
		{"retiring", []string{"EdDSA-1"}, "EdDSA-1:revoked EdDSA-2:signing EdDSA-3:announced", ""},
		{"signing and stand-by", []string{"EdDSA-3", "EdDSA-2"}, "EdDSA-1:retiring EdDSA-2:revoked EdDSA-3:revoked EdDSA-4:signing EdDSA-5:announced", "EdDSA-4"},
		{"stand-by after signing", []string{"EdDSA-2", "EdDSA-3"}, "EdDSA-1:retiring EdDSA-2:revoked EdDSA-3:revoked EdDSA-4:signing EdDSA-5:announced", "EdDSA-4"},
		{"all", []string{"EdDSA-1", "EdDSA-2", "EdDSA-3"}, "EdDSA-1:revoked EdDSA-2:revoked EdDSA-3:revoked EdDSA-4:signing EdDSA-5:announced", "EdDSA-4"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHistory(t, jose.EdDSA)
			h.policy.Retention = 2 * day // so that there is a retiring key
			h.settle()
			h.at(h.policy.RotationPeriod)
			h.now = h.now.Add(lead / 2)
			for _, id := range tc.revoke {
				ring, events, err := keys.Revoke(h.now, h.ring, id, "stolen")
				if err != nil || len(events) != 1 {
					t.Fatalf("revoke %s: %v, %v", id, events, err)
				}
				if k := ring.Key(id); k.Published() || k.Sealed != nil || k.Reason != "stolen" || !k.RevokedAt.Equal(h.now) {
					t.Errorf("revoked key is %+v", k)
				}
				if again, events, err := keys.Revoke(h.now, ring, id, "again"); err != nil || events != nil || again.Key(id).Reason != "stolen" {
					t.Errorf("revoking twice: %v, %v", events, err)
				}
				h.ring = ring
			}
			h.settle()
			h.want(tc.want)
			revokedAt := h.now
			if tc.flush != "" {
				h.at(revokedAt.Sub(dawn) + lead)
				if k := h.ring.Signing(jose.EdDSA); k.ID != tc.flush {
					t.Errorf("%s signs a lead later, want %s", k.ID, tc.flush)
				}
				return
			}
			// The stand-by is known to all, so it flushes nothing: it takes
			// over when it is ready, and the key made then a lead after that.
			h.at(h.policy.RotationPeriod + lead)
			h.want("EdDSA-1:revoked EdDSA-2:retiring EdDSA-3:signing EdDSA-4:announced")
			h.at(h.policy.RotationPeriod + 2*lead)
			if k := h.ring.Signing(jose.EdDSA); k.ID != "EdDSA-4" {
				t.Errorf("%s signs two leads later", k.ID)
			}
		})
	}
	h := newHistory(t, jose.EdDSA)
	if _, _, err := keys.Revoke(dawn, h.ring, "nobody", ""); !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("error %v, want ErrNoKey", err)
	}
}

func TestARevokedKeyNeverComesBack(t *testing.T) {
	h := newHistory(t, jose.EdDSA)
	h.settle()
	h.ring, _, _ = keys.Revoke(h.now, h.ring, "EdDSA-2", "stolen")
	back := []keys.Key{{ID: "EdDSA-2", Alg: jose.EdDSA, Sealed: keys.Sealed("box")}}
	if _, events := keys.Step(h.now, h.ring, back, h.policy, keys.Evidence{}); len(events) != 0 {
		t.Errorf("events %v", events)
	}
	h.at(10 * 365 * 24 * time.Hour)
	if k := h.ring.Key("EdDSA-2"); k == nil || k.State != keys.Revoked {
		t.Errorf("ten years later it is %+v", k)
	}
}

// An algorithm added to a ring in use is announced before it signs; one that
// is dropped runs out and is gone.
func TestAlgorithmsComeAndGo(t *testing.T) {
	h := newHistory(t, jose.EdDSA)
	h.settle()
	day := 24 * time.Hour
	h.policy.Algorithms = []jose.SignatureAlgorithm{jose.EdDSA, jose.ES256}
	h.at(day)
	h.want("EdDSA-1:signing EdDSA-2:announced ES256-3:announced")
	h.at(day + h.policy.AnnounceLead)
	h.want("EdDSA-1:signing EdDSA-2:announced ES256-3:signing ES256-4:announced")

	h.policy.Algorithms = []jose.SignatureAlgorithm{jose.ES256}
	h.at(29 * day)
	h.want("EdDSA-1:signing EdDSA-2:announced ES256-3:signing ES256-4:announced")
	h.at(h.policy.RotationPeriod)
	h.want("EdDSA-1:retiring EdDSA-2:retired ES256-3:signing ES256-4:announced")
	h.at(h.policy.RotationPeriod + h.policy.Retention)
	h.want("EdDSA-1:retired EdDSA-2:retired ES256-3:signing ES256-4:announced")
}

// Two replicas of different releases alternate on one ring, one with the
// algorithm and one without. They must come to rest.
func TestReplicasThatDisagreeOnAlgorithms(t *testing.T) {
	h := newHistory(t, jose.EdDSA, jose.RS256)
	both := h.policy
	h.settle()
	one := both
	one.Algorithms = []jose.SignatureAlgorithm{jose.EdDSA}
	before := h.made
	for i := range 1000 {
		h.policy = []keys.Policy{one, both}[i%2]
		h.now = dawn.Add(time.Duration(i) * time.Minute)
		h.step()
	}
	if h.made != before {
		t.Errorf("%d keys were made by replicas that disagree", h.made-before)
	}
}

// A change of policy leaves the schedule of keys that are out alone, but for
// a retention that has grown: then replicas of both policies may have signed.
func TestPolicyChangeSparesKeysThatAreOut(t *testing.T) {
	h := newHistory(t, jose.EdDSA)
	h.settle()
	period := h.policy.RotationPeriod
	h.policy.RotationPeriod = 365 * 24 * time.Hour
	h.policy.Retention = 10 * time.Hour
	h.at(period)
	h.want("EdDSA-1:retiring EdDSA-2:signing EdDSA-3:announced")
	if got := h.ring.Key("EdDSA-1").UnpublishAt.Sub(h.now); got != 10*time.Hour {
		t.Errorf("retention is %v", got)
	}
	h.policy.Retention = keys.DefaultPolicy().Retention
	h.at(period + 9*time.Hour)
	h.want("EdDSA-1:retiring EdDSA-2:signing EdDSA-3:announced")
	if got := h.ring.Key("EdDSA-2").UnpublishAt.Sub(h.ring.Key("EdDSA-2").RetireAt); got != time.Hour {
		t.Errorf("the plan of a key that is out became %v", got)
	}

	// EdDSA-3 was made for ten hours; today's policy has one.
	h.at(2*period + time.Hour)
	h.now = h.ring.Key("EdDSA-3").RetireAt
	h.settle()
	k := h.ring.Key("EdDSA-3")
	if k == nil || k.State != keys.Retiring || k.UnpublishAt.Sub(k.RetireAt) != 10*time.Hour {
		t.Errorf("the retention of EdDSA-3 was cut: %+v", k)
	}
}

func TestStepIsPure(t *testing.T) {
	h := newHistory(t, jose.EdDSA, jose.RS256)
	h.settle()
	before := slices.Clone(h.ring.Keys)
	later := dawn.Add(h.policy.RotationPeriod)
	a, _ := keys.Step(later, h.ring, nil, h.policy, keys.Evidence{})
	b, _ := keys.Step(later, h.ring, nil, h.policy, keys.Evidence{})
	for i := range before {
		if fmt.Sprint(h.ring.Keys[i]) != fmt.Sprint(before[i]) {
			t.Errorf("Step changed the ring it was given: %v", h.ring.Keys[i])
		}
	}
	if fmt.Sprint(a) != fmt.Sprint(b) {
		t.Error("Step gave two answers to one question")
	}
}

// Whoever waits for Due misses nothing.
func TestDue(t *testing.T) {
	h := newHistory(t, jose.EdDSA, jose.RS256)
	if at, ok := keys.Due(h.ring, h.policy); ok {
		t.Errorf("an empty ring is due at %v", at)
	}
	h.settle()
	for range 50 {
		at, ok := keys.Due(h.ring, h.policy)
		if !ok {
			t.Fatal("a ring in use has nothing planned")
		}
		if _, events := keys.Step(at.Add(-time.Millisecond), h.ring, nil, h.policy, keys.Evidence{}); len(events) != 0 {
			t.Fatalf("before %v: %v", at, events)
		}
		h.now = at
		if len(h.step()) == 0 {
			t.Fatalf("at %v nothing happened", at)
		}
		h.settle()
	}
}
