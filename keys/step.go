package keys

import (
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Step moves the ring to where it should be at a moment, and returns the new
// ring and what changed; no events means that nothing is to be stored. It is
// pure: the ring that it is given stays as it is, and the same input gives
// the same output.
//
// fresh are keys made since [Needs] asked for them, with ID, Alg, Public and
// Sealed set; Step gives them their state and schedule. One that isn't needed
// any more, or was in the ring before, is dropped.
//
// evidence may hold a planned rotation back, for policy.MaxHold at most. An
// urgent one never: an emergency [Rotate], a key that takes the place of a
// revoked one, and whatever comes within two leads of a revocation, which is
// how long it takes until a key that nobody has seen has flushed verifiers.
//
// The ring's Version is left alone; [Store.Swap] counts it up.
//
// What holds after Step, whatever the time and the ring it is given:
//   - one signing key at most for each algorithm
//   - no key's state has gone back, and no key has come back
//   - only an announced or a signing key has its private half
//   - a key signs only after its ReadyAt, but for the first keys of a ring,
//     one that takes the place of a revoked key, and an emergency [Rotate]
//   - a key that stops signing stays published for its retention
func Step(now time.Time, ring Ring, fresh []Key, policy Policy, evidence Evidence) (Ring, []Event) {
	s := newStep(now, ring, policy)
	s.evidence = evidence
	s.advance()
	// Decided before the first key is admitted: the keys of several
	// algorithms may be the first ones together.
	genesis := s.ring.find((*Key).Published) == nil
	for i := range fresh {
		s.admit(fresh[i], genesis)
	}
	return s.ring, s.events
}

// Needs returns the algorithms for which Step could use a fresh key at a
// moment: those without a stand-by, counting a stand-by that is about to take
// over as gone. A new ring takes two rounds: the first makes the keys that
// sign, the second the stand-bys.
func Needs(now time.Time, ring Ring, policy Policy, evidence Evidence) []jose.SignatureAlgorithm {
	s := newStep(now, ring, policy)
	s.evidence = evidence
	s.advance()
	var needs []jose.SignatureAlgorithm
	for _, alg := range policy.Algorithms {
		if s.ring.Standby(alg) == nil {
			needs = append(needs, alg)
		}
	}
	return needs
}

// Holdable returns the stand-bys whose planned moment has come and that
// evidence may still hold back: only for them need a keeper gather any.
func Holdable(now time.Time, ring Ring, policy Policy) []Key {
	s := newStep(now, ring, policy)
	var found []Key
	for _, alg := range policy.Algorithms {
		if next := s.ring.Standby(alg); next != nil && s.due(next.ActivateAt) && s.holdable(next) {
			found = append(found, *next)
		}
	}
	return found
}

// Due is the moment from which Step has something to do, fresh keys aside;
// ok is false when nothing is planned.
func Due(ring Ring, policy Policy) (at time.Time, ok bool) {
	for i := range ring.Keys {
		k := &ring.Keys[i]
		var t time.Time
		switch k.State {
		case Announced:
			t = k.ActivateAt
		case Signing:
			if slices.Contains(policy.Algorithms, k.Alg) {
				continue // its successor's ActivateAt ends it
			}
			t = k.RetireAt
		case Retiring:
			t = k.UnpublishAt
		case Retired:
			t = k.UnpublishAt.Add(policy.RotationPeriod)
		default:
			continue
		}
		if !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	return at, ok
}

// Rotate brings the stand-by's activation forward: to the moment at which
// every verifier holds it, or, in an emergency, to now whether they do or
// not. A stand-by that is due sooner is left alone. The plan of an emergency
// lies before the key's ReadyAt, by which Step knows it. It wraps [ErrNoKey] when
// the algorithm has no stand-by. Like Step it is pure, and Step does the
// rest.
func Rotate(now time.Time, ring Ring, alg jose.SignatureAlgorithm, emergency bool) (Ring, []Event, error) {
	s := newStep(now, ring, Policy{})
	next := s.ring.Standby(alg)
	if next == nil {
		return ring, nil, fmt.Errorf("%w: %s has no stand-by to rotate to", ErrNoKey, alg)
	}
	at, why := later(s.now, next.ReadyAt), "rotation asked for"
	if emergency {
		at, why = s.now, "emergency rotation asked for"
		if !at.Before(next.ReadyAt) {
			at = next.ReadyAt.Add(-time.Millisecond)
		}
	}
	if !at.Before(next.ActivateAt) {
		return ring, nil, nil
	}
	s.bringForward(next, at, later(s.now, at).Add(next.RetireAt.Sub(next.ActivateAt)))
	s.event(next, Announced, why)
	return s.ring, s.events, nil
}

// Revoke takes a key out of the JWKS and out of use, for ever, and erases its
// private half. It wraps [ErrNoKey] when the ring doesn't have the key;
// revoking a revoked one changes nothing.
//
// When the key was signing, the stand-by signs from now on. Whichever
// published key was revoked, the key that Step makes next takes over as soon
// as its lead allows: many verifiers drop a removed key only when they meet a
// kid that they have never seen. Like Step it is pure, and Step does the
// rest.
func Revoke(now time.Time, ring Ring, id, reason string) (Ring, []Event, error) {
	s := newStep(now, ring, Policy{})
	k := s.ring.Key(id)
	if k == nil {
		return ring, nil, fmt.Errorf("%w: %q", ErrNoKey, id)
	}
	from := k.State
	if from == Revoked {
		return ring, nil, nil
	}
	published := k.Published()
	k.State, k.RevokedAt, k.Reason, k.Sealed = Revoked, s.now, reason, nil
	s.event(k, from, reason)
	if !published {
		return s.ring, s.events, nil
	}

	// A key that retires as soon as it signs is followed by the next one
	// after the shortest lead.
	next := s.ring.Standby(k.Alg)
	switch {
	case next == nil:
		if current := s.ring.Signing(k.Alg); current != nil {
			current.stopAt(s.now)
		}
	case from == Signing:
		s.bringForward(next, s.now, s.now)
	default:
		at := later(s.now, next.ReadyAt)
		s.bringForward(next, at, at)
	}
	return s.ring, s.events, nil
}

// step is one evaluation: the moment, the rules, and the ring as it becomes.
type step struct {
	now      time.Time
	policy   Policy
	evidence Evidence
	ring     Ring
	events   []Event
}

func newStep(now time.Time, ring Ring, policy Policy) *step {
	// Milliseconds, because that is what the store keeps: a ring must not
	// change by being stored.
	return &step{now: now.UTC().Truncate(time.Millisecond), policy: policy, ring: ring.clone()}
}

// advance makes every transition that is due and needs no fresh key.
func (s *step) advance() {
	var algs []jose.SignatureAlgorithm
	for i := range s.ring.Keys {
		if alg := s.ring.Keys[i].Alg; !slices.Contains(algs, alg) {
			algs = append(algs, alg)
		}
	}
	for _, alg := range algs {
		s.handOver(alg)
	}
	for i := 0; i < len(s.ring.Keys); {
		k := &s.ring.Keys[i]
		if k.State != Retired || !s.due(k.UnpublishAt.Add(s.policy.RotationPeriod)) {
			i++
			continue
		}
		s.events = append(s.events, Event{At: s.now, KeyID: k.ID, Alg: k.Alg, From: Retired, Reason: "forgotten"})
		s.ring.Keys = slices.Delete(s.ring.Keys, i, i+1)
	}
	for i := range s.ring.Keys {
		if k := &s.ring.Keys[i]; k.State == Retiring && s.due(k.UnpublishAt) {
			s.unpublish(k, "its last token has expired")
		}
	}
}

// handOver lets the stand-by of an algorithm take over when it is due.
func (s *step) handOver(alg jose.SignatureAlgorithm) {
	current, next := s.ring.Signing(alg), s.ring.Standby(alg)
	if next != nil && !s.due(next.ActivateAt) {
		next = nil
	}
	if !slices.Contains(s.policy.Algorithms, alg) {
		// The algorithm has left the policy. Its keys run out their schedule
		// rather than end at once: during a roll-out a replica with the old
		// policy would make them anew, and the two would never agree.
		if current != nil && s.due(current.RetireAt) {
			s.retire(current, "its algorithm has left the policy")
		}
		if next != nil {
			s.unpublish(next, "its algorithm has left the policy")
		}
		return
	}
	if next == nil || s.held(next) {
		return
	}
	if current != nil {
		s.retire(current, "its successor takes over")
	}
	next.State, next.ActivateAt = Signing, s.now
	s.event(next, Announced, "takes over")
}

// held reports whether evidence holds a stand-by back that is due.
func (s *step) held(next *Key) bool {
	if !s.holdable(next) {
		return false
	}
	if s.evidence.Unserved {
		return true
	}
	if s.policy.Activate != OnEvidence {
		return false
	}
	_, missing := Holding(next.ID, s.policy.Registered, s.evidence.Sightings)
	return len(missing) > 0
}

// holdable reports whether a stand-by may be held back at all.
func (s *step) holdable(next *Key) bool {
	switch {
	case s.ring.Signing(next.Alg) == nil: // nothing would sign meanwhile
		return false
	case next.ActivateAt.Before(next.ReadyAt): // an emergency
		return false
	case s.due(next.ActivateAt.Add(s.policy.MaxHold)):
		return false
	}
	return s.ring.find(func(k *Key) bool {
		return k.Alg == next.Alg && k.State == Revoked && !s.due(k.RevokedAt.Add(2*s.policy.AnnounceLead))
	}) == nil
}

// retire ends a key's signing. Its tokens live on, so it stays published for
// the longer of the retention it was made with and today's: replicas with
// either policy may have signed with it.
func (s *step) retire(k *Key, why string) {
	retention := max(k.UnpublishAt.Sub(k.RetireAt), s.policy.Retention)
	k.State, k.Sealed = Retiring, nil
	k.RetireAt, k.UnpublishAt = s.now, s.now.Add(retention)
	s.event(k, Signing, why)
}

func (s *step) unpublish(k *Key, why string) {
	from := k.State
	k.State, k.Sealed, k.UnpublishAt = Retired, nil, s.now
	s.event(k, from, why)
}

// admit gives a fresh key its place and schedule.
func (s *step) admit(k Key, genesis bool) {
	if !slices.Contains(s.policy.Algorithms, k.Alg) || s.ring.Key(k.ID) != nil || s.ring.Standby(k.Alg) != nil {
		return
	}
	why := "stand-by"
	k.State = Announced
	k.AnnouncedAt, k.RevokedAt, k.Reason = s.now, time.Time{}, ""
	k.ReadyAt = s.now.Add(s.policy.AnnounceLead)
	switch current := s.ring.Signing(k.Alg); {
	case current != nil:
		k.ActivateAt = later(k.ReadyAt, current.RetireAt)
		current.stopAt(k.ActivateAt)
	case s.bereft(k.Alg):
		// Not every verifier will know it at once, but without it every
		// login fails.
		why, k.State = "takes the place of a revoked key", Signing
		k.ActivateAt = s.now
	case genesis:
		// No verifier holds anything yet, so there is nobody to wait for.
		why, k.State = "first key", Signing
		k.ReadyAt, k.ActivateAt = s.now, s.now
	default:
		// An algorithm that is new to a ring in use: verifiers hold a set
		// without it.
		why = "first key of a new algorithm"
		k.ActivateAt = k.ReadyAt
	}
	k.RetireAt = k.ActivateAt.Add(s.policy.RotationPeriod)
	k.UnpublishAt = k.RetireAt.Add(s.policy.Retention)
	s.ring.Keys = append(s.ring.Keys, k)
	s.ring.sort()
	s.event(&k, "", why)
}

// bereft reports whether an algorithm has lost its signing key and its
// stand-by to revocation: then its newest key is a revoked one.
func (s *step) bereft(alg jose.SignatureAlgorithm) bool {
	var newest *Key
	for i := range s.ring.Keys {
		if k := &s.ring.Keys[i]; k.Alg == alg && (newest == nil || !k.AnnouncedAt.Before(newest.AnnouncedAt)) {
			newest = k
		}
	}
	return newest != nil && newest.State == Revoked
}

// bringForward plans a stand-by's activation and retirement anew, and its
// predecessor's retirement with it.
func (s *step) bringForward(next *Key, activate, retire time.Time) {
	next.ActivateAt = activate
	next.stopAt(retire)
	if current := s.ring.Signing(next.Alg); current != nil {
		current.stopAt(activate)
	}
}

func (s *step) due(t time.Time) bool { return !t.After(s.now) }

func (s *step) event(k *Key, from State, why string) {
	s.events = append(s.events, Event{At: s.now, KeyID: k.ID, Alg: k.Alg, From: from, To: k.State, Reason: why})
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
