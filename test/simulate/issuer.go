package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/keys"
)

// alg is the one that the simulated tokens are signed with.
const alg = jose.EdDSA

// issuer is authn: its ring moved by [keys.Step] each tick, and the key set as
// it publishes it. A version stands for a set of published keys, as an ETag
// does.
type issuer struct {
	*world
	policy keys.Policy
	ring   keys.Ring
	made   int

	version int
	sets    []map[string]bool // the kids of each version
	changed func()            // called when another key signs

	away   bool // an outage
	served counter
}

func newIssuer(w *world) (*issuer, error) {
	p := keys.DefaultPolicy()
	p.Algorithms = []jose.SignatureAlgorithm{alg}
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("the default policy: %w", err)
	}
	i := &issuer{world: w, policy: p}
	i.tick()
	return i, nil
}

// tick is one tick of the keeper, and plans the next.
func (i *issuer) tick() {
	i.advance()
	i.after(i.policy.Tick, i.tick)
}

func (i *issuer) advance() {
	before := i.signing()
	for {
		var fresh []keys.Key
		for _, a := range keys.Needs(i.now, i.ring, i.policy, keys.Evidence{}) {
			i.made++
			fresh = append(fresh, keys.Key{ID: fmt.Sprintf("key-%d", i.made), Alg: a, Sealed: keys.Sealed("sealed")})
		}
		next, events := keys.Step(i.now, i.ring, fresh, i.policy, keys.Evidence{})
		if len(events) == 0 {
			break
		}
		i.ring = next
	}
	i.publish()
	if i.changed != nil && i.signing() != before {
		i.changed()
	}
}

// publish gives the key set a new version if it is another.
func (i *issuer) publish() {
	set := map[string]bool{}
	for _, k := range i.ring.Published() {
		set[k.ID] = true
	}
	if len(i.sets) > 0 && equal(i.sets[i.version], set) {
		return
	}
	i.sets = append(i.sets, set)
	i.version = len(i.sets) - 1
}

func equal(a, b map[string]bool) bool {
	for kid := range a {
		if !b[kid] {
			return false
		}
	}
	return len(a) == len(b)
}

// signing is the kid that tokens are signed with.
func (i *issuer) signing() string {
	if k := i.ring.Signing(alg); k != nil {
		return k.ID
	}
	return ""
}

// rotate lets the stand-by take over as soon as every verifier holds it.
func (i *issuer) rotate() error {
	ring, _, err := keys.Rotate(i.now, i.ring, alg, false)
	if err != nil {
		return fmt.Errorf("rotate: %w", err)
	}
	i.ring = ring
	i.advance()
	return nil
}

// revoke takes the signing key out of use and says which it was.
func (i *issuer) revoke() (kid string, err error) {
	kid = i.signing()
	ring, _, err := keys.Revoke(i.now, i.ring, kid, "stolen")
	if err != nil {
		return "", fmt.Errorf("revoke: %w", err)
	}
	before := kid
	i.ring = ring
	i.advance()
	if i.changed != nil && i.signing() == before {
		return "", errors.New("revoke: the revoked key goes on signing")
	}
	return kid, nil
}

// The time that a request takes, there and back.
const (
	farAway = 80 * time.Millisecond // edge or verifier to origin
	nearBy  = 10 * time.Millisecond // verifier to edge
	refused = 1 * time.Millisecond  // by a server that isn't there
)

// answer is what a request for the key set brings.
type answer struct {
	ok      bool
	version int
	stored  bool          // an edge had it in store
	age     time.Duration // for so long, in whole seconds
}

// fetch is one request at the origin.
func (i *issuer) fetch(got func(answer)) {
	i.served.add(i.now)
	if i.away {
		i.after(farAway/2+refused, func() { got(answer{}) })
		return
	}
	i.after(farAway/2, func() {
		a := answer{ok: true, version: i.version}
		i.after(farAway/2, func() { got(a) })
	})
}

// edge is one point of presence of a CDN: it keeps an answer for max-age, sends
// one request for all who wait for the same thing, and keeps no errors.
type edge struct {
	*issuer
	held    answer
	fetched time.Time
	waiting []func(answer)
	fetches *counter
}

func (e *edge) fetch(got func(answer)) {
	e.fetches.add(e.now)
	e.after(nearBy, func() {
		if e.held.ok && e.now.Before(e.fetched.Add(e.policy.JWKSMaxAge)) {
			a := e.held
			a.stored, a.age = true, e.now.Sub(e.fetched).Truncate(time.Second)
			got(a)
			return
		}
		e.waiting = append(e.waiting, got)
		if len(e.waiting) > 1 {
			return
		}
		e.issuer.fetch(func(a answer) {
			e.held, e.fetched = a, e.now
			waiting := e.waiting
			e.waiting = nil
			for _, got := range waiting {
				got(a)
			}
		})
	})
}
