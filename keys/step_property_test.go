package keys_test

import (
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"pgregory.net/rapid"

	"github.com/urbandata/urbandata/keys"
)

// lawful holds what must be true of every ring, and remembers what must stay
// true from one ring to the next.
type lawful struct {
	order   map[keys.State]int
	last    map[string]keys.Key
	seen    map[string]bool // every id that was ever in the ring
	excused map[string]bool // keys that may sign before they are ready
}

func newLawful() *lawful {
	return &lawful{
		order: map[keys.State]int{keys.Announced: 1, keys.Signing: 2, keys.Retiring: 3, keys.Retired: 4, keys.Revoked: 5},
		last:  map[string]keys.Key{}, seen: map[string]bool{}, excused: map[string]bool{},
	}
}

// check compares a ring with the one before it. now is the moment of the step.
func (l *lawful) check(t *rapid.T, h *history) {
	signing, standby := map[jose.SignatureAlgorithm]int{}, map[jose.SignatureAlgorithm]int{}
	current := map[string]keys.Key{}
	for _, k := range h.ring.Keys {
		current[k.ID] = k
		was, known := l.last[k.ID]
		if !known && l.seen[k.ID] {
			t.Fatalf("%s came back", k.ID)
		}
		if known && l.order[k.State] < l.order[was.State] {
			t.Fatalf("%s went from %s back to %s", k.ID, was.State, k.State)
		}
		if (k.Sealed != nil) != (k.State == keys.Announced || k.State == keys.Signing) {
			t.Fatalf("%s is %s, and its private half is %v", k.ID, k.State, k.Sealed)
		}
		switch k.State {
		case keys.Announced:
			standby[k.Alg]++
		case keys.Signing:
			signing[k.Alg]++
			if !known { // genesis, or in the place of a revoked key
				l.excused[k.ID] = true
			}
			if k.ActivateAt.Before(k.ReadyAt) && !l.excused[k.ID] {
				t.Fatalf("%s signs from %v on and is ready at %v", k.ID, k.ActivateAt, k.ReadyAt)
			}
			if !l.excused[k.ID] && k.ReadyAt.Sub(k.AnnouncedAt) < h.policy.MinLead() {
				t.Fatalf("%s was announced for %v", k.ID, k.ReadyAt.Sub(k.AnnouncedAt))
			}
		case keys.Retiring:
			if k.UnpublishAt.Sub(k.RetireAt) < h.policy.MinRetention() {
				t.Fatalf("%s retires for %v", k.ID, k.UnpublishAt.Sub(k.RetireAt))
			}
		}
	}
	for id, was := range l.last {
		k, still := current[id]
		gone := !still || !k.Published()
		if was.State == keys.Signing && gone && (!still || k.State != keys.Revoked) {
			t.Fatalf("%s signed and left the JWKS without retiring", id)
		}
		if was.State == keys.Retiring && gone && (!still || k.State != keys.Revoked) && h.now.Before(was.UnpublishAt) {
			t.Fatalf("%s left the JWKS at %v, before %v", id, h.now, was.UnpublishAt)
		}
		if !still && was.State != keys.Retired {
			t.Fatalf("%s was forgotten while it was %s", id, was.State)
		}
	}
	for alg, n := range signing {
		if n > 1 {
			t.Fatalf("%d keys sign for %s", n, alg)
		}
	}
	for alg := range signing {
		if next := h.ring.Standby(alg); next != nil && !next.ActivateAt.Equal(h.ring.Signing(alg).RetireAt) {
			t.Fatalf("%s stops at %v, and its successor starts at %v", alg, h.ring.Signing(alg).RetireAt, next.ActivateAt)
		}
	}
	for alg, n := range standby {
		if n > 1 {
			t.Fatalf("%d keys stand by for %s", n, alg)
		}
	}
	for _, k := range h.ring.Keys {
		l.seen[k.ID] = true
	}
	l.last = current
}

// Long histories under random safe policies, with everything that an operator
// and a crash can do, keep to the laws.
func TestHistoriesAreLawful(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		algs := []jose.SignatureAlgorithm{jose.EdDSA, jose.RS256}
		h := newHistory(rt, algs...)
		var names []string
		for _, v := range keys.Verifiers() {
			names = append(names, v.Name)
		}
		seconds := func(name string, from, to int) time.Duration {
			return time.Duration(rapid.IntRange(from, to).Draw(rt, name)) * time.Second
		}
		p := &h.policy
		p.Tick, p.Skew = seconds("tick", 1, 60), seconds("skew", 0, 60)
		p.JWKSMaxAge, p.VerifierSlack = seconds("max-age", 0, 3600), seconds("slack", 0, 3600)
		p.ReplicaLag, p.MaxHold = seconds("lag", 0, 1200), seconds("hold", 0, 7200)
		p.Verifiers = rapid.SliceOfN(rapid.SampledFrom(names), 0, 4).Draw(rt, "verifiers")
		if rapid.Bool().Draw(rt, "on evidence") {
			p.Activate, p.Registered = keys.OnEvidence, []string{"a", "b"}
		}
		p.AnnounceLead = p.MinLead() + seconds("more lead", 0, 7200)
		p.Retention = p.MinRetention() + seconds("more retention", 0, 7200)
		p.RotationPeriod = p.AnnounceLead + seconds("more period", 0, 86400)
		if err := p.Validate(); err != nil {
			rt.Fatal(err)
		}

		laws := newLawful()
		pick := func() string {
			if len(h.ring.Keys) == 0 {
				return ""
			}
			return h.ring.Keys[rapid.IntRange(0, len(h.ring.Keys)-1).Draw(rt, "key")].ID
		}
		rt.Repeat(map[string]func(*rapid.T){
			"tick": func(*rapid.T) {
				h.now = h.now.Add(p.Tick)
				h.step()
			},
			"wait": func(*rapid.T) {
				h.now = h.now.Add(seconds("wait", 0, 100_000))
				h.step()
			},
			"wait until due": func(*rapid.T) {
				if at, ok := keys.Due(h.ring, h.policy); ok && at.After(h.now) {
					h.now = at
				}
				h.step()
			},
			"tick with evidence": func(t *rapid.T) {
				if at, ok := keys.Due(h.ring, h.policy); ok && at.After(h.now) && rapid.Bool().Draw(t, "when due") {
					h.now = at
				}
				var e keys.Evidence
				e.Unserved = rapid.Bool().Draw(t, "unserved")
				for _, v := range p.Registered {
					if id := pick(); id != "" {
						e.Sightings = append(e.Sightings, keys.Sighting{Verifier: v, Keys: []string{id}})
					}
				}
				before := h.ring
				h.ring, _ = keys.Step(h.now, h.ring, nil, h.policy, e)
				for i := range h.ring.Keys {
					k := &h.ring.Keys[i]
					if k.State != keys.Announced || k.ActivateAt.After(h.now) {
						continue
					}
					holding, _ := keys.Holding(k.ID, p.Registered, e.Sightings)
					switch {
					case before.Signing(k.Alg) == nil, k.ActivateAt.Before(k.ReadyAt), !k.ActivateAt.Add(p.MaxHold).After(h.now):
						rt.Fatalf("%s is held back at %v: %+v", k.ID, h.now, k)
					case !e.Unserved && len(holding) == len(p.Registered):
						rt.Fatalf("%s is held back though all hold it", k.ID)
					}
				}
			},
			"tick without fresh keys": func(*rapid.T) {
				h.now = h.now.Add(p.Tick)
				h.ring, _ = keys.Step(h.now, h.ring, nil, h.policy, keys.Evidence{})
			},
			"tick with keys that nobody needs": func(*rapid.T) {
				h.settle()
				stray := []keys.Key{{ID: "stray", Alg: jose.EdDSA}, {ID: "foreign", Alg: jose.PS256}}
				if _, events := keys.Step(h.now, h.ring, stray, h.policy, keys.Evidence{}); len(events) > 0 {
					rt.Fatalf("keys that nobody needs made %v", events)
				}
			},
			"clock goes back": func(*rapid.T) { // no more than a replica's may
				back := h.now
				h.now = h.now.Add(-p.Skew)
				h.step()
				h.now = back
			},
			"rotate": func(*rapid.T) {
				if ring, _, err := keys.Rotate(h.now, h.ring, jose.EdDSA, false); err == nil {
					h.ring = ring
				}
				h.step()
			},
			"rotate in an emergency": func(*rapid.T) {
				if next := h.ring.Standby(jose.RS256); next != nil {
					laws.excused[next.ID] = true
					h.ring, _, _ = keys.Rotate(h.now, h.ring, jose.RS256, true)
				}
				h.step()
			},
			"revoke": func(*rapid.T) {
				if id := pick(); id != "" {
					alg := h.ring.Key(id).Alg
					if next := h.ring.Standby(alg); next != nil {
						laws.excused[next.ID] = true
					}
					h.ring, _, _ = keys.Revoke(h.now, h.ring, id, "stolen")
				}
				h.step()
			},
			"": func(t *rapid.T) { laws.check(t, h) },
		})

		// Left alone, every history comes to rest with one key that signs
		// and one that stands by, and has no more keys than it must.
		h.settle()
		h.now = h.now.Add(p.AnnounceLead + p.MaxHold)
		h.settle()
		for _, alg := range algs {
			if h.ring.Signing(alg) == nil || h.ring.Standby(alg) == nil {
				rt.Fatalf("%s signs with %v and has stand-by %v", alg, h.ring.Signing(alg), h.ring.Standby(alg))
			}
		}
	})
}
