package keys_test

import (
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/keys"
)

// A plan is what then happens: every event of it, at its time, in its order.
func TestPlan(t *testing.T) {
	sealer := sealerOf(t)
	for _, begin := range []time.Duration{0, 40 * day} {
		ring := keys.Ring{}
		if begin > 0 {
			ring = drive(t, sealer, ring, start, start.Add(begin))
		}
		now, until := start.Add(begin), start.Add(begin+90*day)
		_, planned := keys.Plan(now, until, ring, policy)
		var happened []keys.Event
		for at := now; !at.After(until); at = at.Add(time.Hour) {
			for range 2 {
				var fresh []keys.Key
				for _, alg := range keys.Needs(at, ring, policy, keys.Evidence{}) {
					k := foreignKey(t, sealer, "", true)
					k.Alg = alg
					fresh = append(fresh, k)
				}
				var more []keys.Event
				ring, more = keys.Step(at, ring, fresh, policy, keys.Evidence{})
				happened = append(happened, more...)
			}
		}
		if len(planned) != len(happened) || len(planned) == 0 {
			t.Fatalf("%d events were planned, %d have happened", len(planned), len(happened))
		}
		count := func(events []keys.Event, to keys.State, alg jose.SignatureAlgorithm) (times []string) {
			for _, e := range events {
				if e.To == to && e.Alg == alg {
					times = append(times, e.At.Format(time.RFC3339))
				}
			}
			return times
		}
		for _, state := range []keys.State{keys.Announced, keys.Signing, keys.Retiring, keys.Retired} {
			for _, alg := range policy.Algorithms {
				a, b := strings.Join(count(planned, state, alg), " "), strings.Join(count(happened, state, alg), " ")
				if a != b {
					t.Errorf("%s %s: planned at\n%s, happened at\n%s", alg, state, a, b)
				}
			}
		}
	}
}

// A policy that is sped up, and a ring of a policy that has changed since,
// have a plan that ends.
func TestPlanEnds(t *testing.T) {
	fast := policy
	fast.RotationPeriod = time.Second
	if _, events := keys.Plan(start, start.Add(365*day), keys.Ring{}, fast); len(events) == 0 {
		t.Error("no events")
	}
	ring := drive(t, sealerOf(t), keys.Ring{}, start, start)
	none := policy
	none.Algorithms = []jose.SignatureAlgorithm{jose.ES256}
	end, _ := keys.Plan(start, start.Add(365*day), ring, none)
	if end.Signing(jose.EdDSA) != nil || end.Signing(jose.ES256) == nil {
		t.Errorf("after a year %+v", end.Keys)
	}
}
