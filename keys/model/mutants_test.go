package model

import (
	"time"

	"github.com/urbandata/urbandata/keys"
)

// mutants is every fault that the model must find. Each says what the
// counterexample must be about.
var mutants = []struct {
	mutant
	want string
}{
	// The inequalities of the policy, each without one of its terms.
	{mutant{name: "lead without the time for which a set is kept", policy: lead(func(p *keys.Policy) { p.VerifierSlack, p.JWKSMaxAge = unit, 0 }, unit)}, "refuses a valid token"},
	{mutant{name: "lead without the verifier's lateness", policy: lead(func(p *keys.Policy) { p.VerifierSlack = 0 }, 0)}, "refuses a valid token"},
	{mutant{name: "lead without max-age", policy: lead(func(p *keys.Policy) { p.JWKSMaxAge = 0 }, 0)}, "refuses a valid token"},
	{mutant{name: "lead without the tick", policy: lead(func(p *keys.Policy) { p.Tick = 0 }, 0)}, "refuses a valid token"},
	{mutant{name: "lead without the replica lag", policy: lead(func(p *keys.Policy) { p.ReplicaLag = 0 }, 0)}, "refuses a valid token"},
	{mutant{name: "lead without the skew", policy: lead(func(p *keys.Policy) { p.Skew = 0 }, 0)}, "refuses a valid token"},
	{mutant{name: "retention without the token's life", policy: retention(func(p *keys.Policy) { p.TokenLife = 0 })}, "refuses a valid token"},
	{mutant{name: "retention without the leeway", policy: retention(func(p *keys.Policy) { p.Leeway = 0 })}, "refuses a valid token"},
	{mutant{name: "retention without the tick", policy: retention(func(p *keys.Policy) { p.Tick = 0 })}, "refuses a valid token"},
	{mutant{name: "retention without the replica lag", policy: retention(func(p *keys.Policy) { p.ReplicaLag = 0 })}, "refuses a valid token"},
	{mutant{name: "retention with the skew once", policy: func(p *keys.Policy) { p.Retention -= p.Skew }}, "refuses a valid token"},
	{mutant{name: "no retention", policy: func(p *keys.Policy) { p.Retention = 0 }}, "left the set"},
	{mutant{name: "period below the lead", policy: func(p *keys.Policy) { p.RotationPeriod = p.AnnounceLead - unit }}, "longer than the period"},
	{mutant{name: "no bound on holding back", policy: func(p *keys.Policy) { p.MaxHold = 100 * unit }, inWorld: unserved}, "longer than MaxHold"},

	// Each timestamp, moved.
	{mutant{name: "announced earlier", step: eachNew(func(k, _ *keys.Key) { k.AnnouncedAt = k.AnnouncedAt.Add(-unit) })}, "before it was made"},
	{mutant{name: "ready earlier", step: eachNew(func(k, _ *keys.Key) { k.ReadyAt = k.ReadyAt.Add(-unit) })}, "refuses a valid token"},
	{mutant{name: "signs earlier", step: eachNew(func(k, current *keys.Key) {
		k.ActivateAt = k.ReadyAt.Add(-unit)
		k.ReadyAt = k.ActivateAt // or it would be taken for an emergency
		if current != nil {
			current.RetireAt = k.ActivateAt
		}
	})}, "refuses a valid token"},
	{mutant{name: "signs later than its predecessor stops", step: eachNew(func(k, current *keys.Key) {
		if current != nil {
			k.ActivateAt = k.ActivateAt.Add(unit)
		}
	})}, "doesn't add up"},
	{mutant{name: "stops earlier than its successor signs", step: eachNew(func(_, current *keys.Key) {
		if current != nil {
			current.RetireAt = current.RetireAt.Add(-unit)
		}
	})}, "doesn't add up"},
	{mutant{name: "unpublished earlier", step: eachIn(keys.Retiring, func(k *keys.Key) { k.UnpublishAt = k.UnpublishAt.Add(-unit) })}, "refuses a valid token"},
	{mutant{name: "revoked long ago", step: eachIn(keys.Revoked, func(k *keys.Key) { k.RevokedAt = epoch.Add(-time.Hour) }), inWorld: revokedUnserved}, "just revoked"},

	// What a careless rotation does.
	{mutant{name: "signs as soon as it is published, as dex does", step: eachNew(func(k, current *keys.Key) {
		k.ReadyAt, k.ActivateAt = k.AnnouncedAt, k.AnnouncedAt.Add(unit)
		if current != nil {
			current.RetireAt = k.ActivateAt
		}
	})}, "refuses a valid token"},
	{mutant{name: "the stand-by isn't published", unlisted: in(keys.Announced)}, "refuses a valid token"},
	{mutant{name: "a key that stops leaves the set", unlisted: in(keys.Retiring)}, "refuses a valid token"},
	{mutant{name: "no stand-by is made", needs: func(r keys.Ring) bool { return r.Signing("EdDSA") == nil }}, "no key stands by"},
	{mutant{name: "the predecessor signs on", step: taken(func(was, _ *keys.Key) { was.State, was.Sealed = keys.Signing, keys.Sealed("box") })}, "2 keys sign"},
	{mutant{name: "the successor doesn't start", step: taken(func(_, is *keys.Key) { is.State, is.ActivateAt = keys.Announced, is.ActivateAt.Add(unit) })}, "no key signs"},
	{mutant{name: "retired without retiring", step: taken(func(was, _ *keys.Key) { was.State = keys.Retired })}, "left the set"},
	{mutant{name: "a state goes back", step: taken(func(was, _ *keys.Key) { was.State, was.Sealed = keys.Announced, keys.Sealed("box") })}, "went back"},
	{mutant{name: "the private half stays", step: taken(func(was, _ *keys.Key) { was.Sealed = keys.Sealed("box") })}, "private half"},
	{mutant{name: "the private half goes too early", step: eachIn(keys.Announced, func(k *keys.Key) { k.Sealed = nil })}, "private half"},
	{mutant{name: "forgotten while it retires", step: func(_ time.Time, _, after keys.Ring) keys.Ring {
		return without(after, func(k *keys.Key) bool { return k.State == keys.Retiring })
	}}, "forgotten"},

	// Replicas that don't agree.
	{mutant{name: "the swap doesn't compare", blindSwap: true, inWorld: interleaved}, "forgotten while it was signing"},
	{mutant{name: "a replica without the store signs on", maxStale: 2}, "refuses a valid token"},
	{mutant{name: "clocks differ by more than the skew", inWorld: func(w *world) { w.offset[1]++ }}, "refuses a valid token"},
	{mutant{name: "the balancer asks replicas that aren't ready", inWorld: func(w *world) { w.panics = true }}, "refuses a valid token"},

	// Urgent matters.
	{mutant{name: "an emergency waits until the key is ready", inWorld: probing, rotate: func(before, after keys.Ring) {
		if k := after.Standby("EdDSA"); k.ActivateAt.Before(k.ReadyAt) {
			k.ActivateAt = k.ReadyAt
			after.Signing("EdDSA").RetireAt = k.ReadyAt
		}
	}}, "emergency rotation isn't made at once"},
	{mutant{name: "a revoked key stays published", listed: in(keys.Revoked), inWorld: revoking}, "revoked key"},
	{mutant{name: "a revoked key comes back", step: eachIn(keys.Revoked, func(k *keys.Key) { k.State, k.Sealed = keys.Announced, keys.Sealed("box") }), inWorld: revoking}, "went back"},
	{mutant{name: "a revoked key keeps its private half", step: eachIn(keys.Revoked, func(k *keys.Key) { k.Sealed = keys.Sealed("box") }), inWorld: revoking}, "private half"},
	{mutant{name: "the next key waits its period after a revocation", inWorld: revoking, revoke: func(before, after keys.Ring) {
		now, next := after.Signing("EdDSA"), after.Standby("EdDSA")
		if now != nil && next != nil {
			next.ActivateAt = before.Standby("EdDSA").ActivateAt.Add(2 * unit)
			now.RetireAt = next.ActivateAt
		}
	}}, "longer than its lead"},
	{mutant{name: "nothing signs after a revocation", inWorld: revoking, revoke: func(_, after keys.Ring) {
		if after.Signing("EdDSA") == nil && after.Standby("EdDSA") != nil {
			k := after.Standby("EdDSA")
			k.ActivateAt = k.ReadyAt.Add(unit)
		}
	}}, "no key signs"},

	// Algorithms that come and go.
	{mutant{name: "the first key of a new algorithm signs at once", inWorld: adding, step: eachNew(func(k, current *keys.Key) {
		if current == nil {
			k.State, k.ReadyAt, k.ActivateAt = keys.Signing, k.AnnouncedAt, k.AnnouncedAt
		}
	})}, "refuses a valid token"},
	{mutant{name: "the keys of a dropped algorithm go at once", inWorld: dropping, step: func(_ time.Time, before, after keys.Ring) keys.Ring {
		if after.Standby("RS256") != nil || before.Standby("RS256") == nil {
			return after
		}
		return without(after, func(k *keys.Key) bool { return k.Alg == "RS256" })
	}}, "forgotten"},
}

// lead makes the lead that MinLead would be under another policy.
func lead(change func(*keys.Policy), more time.Duration) func(*keys.Policy) {
	return func(p *keys.Policy) {
		other := *p
		change(&other)
		p.AnnounceLead = other.MinLead() + more
	}
}

func retention(change func(*keys.Policy)) func(*keys.Policy) {
	return func(p *keys.Policy) {
		other := *p
		change(&other)
		p.Retention = other.MinRetention()
	}
}

func in(state keys.State) func(*keys.Key) bool {
	return func(k *keys.Key) bool { return k.State == state }
}

// eachNew changes the keys that a Step has announced, given the one that signs
// for the algorithm, if any.
func eachNew(change func(k, current *keys.Key)) func(time.Time, keys.Ring, keys.Ring) keys.Ring {
	return func(_ time.Time, before, after keys.Ring) keys.Ring {
		for i := range after.Keys {
			if k := &after.Keys[i]; before.Key(k.ID) == nil && k.State == keys.Announced {
				change(k, after.Signing(k.Alg))
			}
		}
		return after
	}
}

// eachIn changes the keys that a Step has brought into a state.
func eachIn(state keys.State, change func(*keys.Key)) func(time.Time, keys.Ring, keys.Ring) keys.Ring {
	return func(_ time.Time, before, after keys.Ring) keys.Ring {
		for i := range after.Keys {
			k := &after.Keys[i]
			if was := before.Key(k.ID); k.State == state && (was == nil || was.State != state) {
				change(k)
			}
		}
		return after
	}
}

// taken changes both keys of a hand-over.
func taken(change func(was, is *keys.Key)) func(time.Time, keys.Ring, keys.Ring) keys.Ring {
	return func(_ time.Time, before, after keys.Ring) keys.Ring {
		was, is := before.Signing("EdDSA"), after.Signing("EdDSA")
		if was != nil && is != nil && was.ID != is.ID && after.Key(was.ID) != nil {
			change(after.Key(was.ID), is)
		}
		return after
	}
}

func without(r keys.Ring, gone func(*keys.Key) bool) keys.Ring {
	kept := r.Keys[:0:0]
	for i := range r.Keys {
		if !gone(&r.Keys[i]) {
			kept = append(kept, r.Keys[i])
		}
	}
	r.Keys = kept
	return r
}

func probing(w *world) { w.probes, w.urgent, w.revokes, w.rotates = true, 1, 1, 0 }

func unserved(w *world) { w.probes, w.rotates = true, 0 }

func revokedUnserved(w *world) {
	w.policy = tight(0)
	w.probes, w.revokes, w.rotates = true, 1, 0
}

func revoking(w *world) { w.revokes, w.rotates = 1, 0 }

func interleaved(w *world) { w.atomic, w.rotates = false, 0 }

func adding(w *world) {
	w.dropped = w.policy
	w.policy = both(w.policy)
	w.deploys, w.rotates = true, 0
}

func dropping(w *world) {
	w.dropped = both(w.policy)
	w.deploys, w.rotates = true, 0
}
