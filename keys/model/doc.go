// Package model proves, by looking at every possibility, that a rotation of
// signing keys refuses no valid token. It has tests only: `go test ./keys/model`.
//
// # What is checked
//
// A small world is walked through breadth first, until nothing new is found:
// two replicas of authn, their store, the caches between, one verifier, and
// time in ticks without end. The replicas decide with [keys.Step], [keys.Needs],
// [keys.Holdable], [keys.Rotate] and [keys.Revoke], the functions that
// production runs, under a policy that [keys.Policy.Validate] accepts and that
// has not a tick to spare: AnnounceLead is MinLead and Retention is
// MinRetention, so that an inequality that is too weak by one tick shows.
//
// In every state any of these may come next:
//
//   - a replica loads the ring, and later swaps what Step made of it, or finds
//     that the other one was first; or it does neither, for as long as it likes
//   - it is killed at any moment, loses what it had in memory, and starts again
//   - its clock is ahead of the other's by the whole skew
//   - it finds its JWKS out of reach when a rotation is due
//   - an operator rotates, rotates in an emergency, or revokes any published key
//   - a release with another list of algorithms replaces one replica, then both
//   - a verifier starts, fetches, is shown a token of any key that has a good
//     one, or a made-up kid; what it fetches comes from any replica that is
//     ready, or is up to max-age old
//   - time goes on
//
// Wherever a replica may sign, it has; a token is good until the verifier's
// leeway has passed after its exp by the clock of the replica.
//
// # What must hold
//
//  1. A verifier that the policy covers accepts every good token, whichever
//     kind of docs/verify.md it is.
//  2. One key signs for each algorithm, and another stands by.
//  3. A revoked key isn't accepted for longer than the kind of verifier keeps
//     keys; none fetches it anew; one that was made later comes soon.
//  4. States never go back, and no key comes back.
//  5. The private half is there while a key is announced or signing, no longer.
//  6. Only a planned rotation is held back, and never for longer than MaxHold.
//  7. The schedule adds up: one key stops when the next one starts.
//
// The first is relaxed for one case, as docs/keys.md says: a key that had to
// sign before its ReadyAt, because of an emergency rotation or because the one
// before it was revoked, may be refused until its ReadyAt, by verifiers that
// don't fetch for an unknown kid at once. Nothing else is relaxed: the tokens
// of all other keys are accepted meanwhile, and those of a revoked key are
// nobody's right.
//
// # Why this small world is enough
//
// Step looks at times only by comparing and adding them, so a world in ticks
// behaves as one in seconds, if each term of the inequalities has at least a
// tick. A ring keeps the keys of three generations, and the walk goes round
// until every state comes again: it has no end in time. Algorithms don't act
// on each other, but for the first keys of a ring and for their coming and
// going, which have worlds of their own. Verifiers act on each other through
// the caches between only, and a fetch may get anything that such a cache
// could hold; so one verifier of each kind stands for any number. A third
// replica does nothing that one of two couldn't: it is a source of old sets
// and of swaps that come first.
//
// States that differ only in the names of the keys, in the number of ticks
// since the beginning, or in moments that are past for every clock are one
// state. For each of these, what is left out decides nothing: keys are told
// apart by their place in the ring, and the functions compare moments with now.
//
// Not in the model, and so what the proof assumes: a balancer sends requests
// only to replicas that are ready (a world without that has its
// counterexample in the test); a fetch that fails is tried again; one replica
// at least can sign; the store does what [keys.Store] promises, which
// keystest checks; keys differ.
//
// # How it can fail
//
// Each line of the table of mutants is a fault put around what production
// decides: an inequality without one of its terms, a moment that is moved, a
// compare-and-swap that doesn't compare, a key that signs at once as dex does
// it. Each must be found, with a counterexample, or the test fails: a check
// that can't see a fault proves nothing. TestCounterexample prints one in full.
package model
