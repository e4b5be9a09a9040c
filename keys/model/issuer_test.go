package model

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/keys"
)

// unit is one tick of the model's time.
const unit = time.Second

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(t int) time.Time { return epoch.Add(time.Duration(t) * unit) }

// units is a duration in ticks.
func units(d time.Duration) int { return int(d / unit) }

// rel is a moment in ticks from now.
func rel(t time.Time, now int) int { return int(t.Sub(epoch)/unit) - now }

// world is what happens, whatever the policy says: the parameters that a
// policy must be made for, and what the operator may do.
type world struct {
	name     string
	policy   keys.Policy // valid, and made for this world
	dropped  keys.Policy // with other algorithms, when deploys is set
	deploys  bool        // replicas start with dropped, and with policy after a restart
	offset   [2]int      // of the replicas' clocks, in ticks; they differ by no more than the skew
	atomic   bool        // load, Step and swap are one action: nobody comes between
	crashes  bool        // replicas are killed and started again
	probes   bool        // evidence holds planned rotations back, or doesn't
	rotates  int         // how often an operator asks for a rotation
	urgent   int         // how often for an emergency rotation
	revokes  int         // how often a key is revoked
	panics   bool        // the balancer doesn't heed /readyz
	replicas int
}

// mutant is one fault, put around what production decides. The zero mutant is
// production.
type mutant struct {
	name      string
	policy    func(*keys.Policy)
	step      func(now time.Time, before, after keys.Ring) keys.Ring // changes what is stored
	needs     func(ring keys.Ring) bool                              // whether keys are made at all
	rotate    func(before, after keys.Ring)                          // changes what Rotate has planned
	revoke    func(before, after keys.Ring)                          // changes what Revoke has planned
	unlisted  func(k *keys.Key) bool                                 // a published key that isn't served
	listed    func(k *keys.Key) bool                                 // an unpublished one that is
	blindSwap bool                                                   // CAS ignored
	maxStale  int                                                    // more ticks for which a replica signs
	inWorld   func(*world)                                           // a world in which it shows
}

type replica struct {
	down     bool
	old      bool // runs the policy from before the deployment
	view     view
	loaded   bool // between load and swap
	current  bool // what was loaded is still what is stored
	ring     keys.Ring
	fresh    []jose.SignatureAlgorithm
	unserved bool
	since    int // when the load began
}

// view is what a replica has in memory: what it serves and signs with.
type view struct {
	ok      bool
	readAt  int
	listed  []string
	signing []string
}

// issuer is one state of everything on the issuer's side.
type issuer struct {
	now      int
	ring     keys.Ring
	replicas [2]replica
	tokens   map[string]int // until when a token of the key is accepted, leeway included
	recent   []served       // what a fetch may get, through the shared cache or not
	revoked  map[string]fact
	rotates  int
	urgent   int
	revokes  int
	made     int
}

// fact is when a key was revoked, and the number of the last key made before.
type fact struct{ at, made int }

type served struct {
	set  []string
	last int // when a replica last served it
}

func (s *issuer) clone() *issuer {
	c := *s
	c.ring = keys.Ring{Version: s.ring.Version, Keys: slices.Clone(s.ring.Keys)}
	c.recent = slices.Clone(s.recent)
	c.tokens = make(map[string]int, len(s.tokens))
	for k, v := range s.tokens {
		c.tokens[k] = v
	}
	if s.revoked != nil {
		c.revoked = make(map[string]fact, len(s.revoked))
		for k, v := range s.revoked {
			c.revoked[k] = v
		}
	}
	return &c
}

// violation is a broken invariant.
type violation struct{ what string }

func (v *violation) Error() string { return v.what }

func broken(format string, args ...any) *violation {
	return &violation{fmt.Sprintf(format, args...)}
}

// move is an action and where it leads.
type move struct {
	label string
	to    *issuer
	time  bool // time goes on
	wrong *violation
}

// machine makes the moves of one world under one mutant.
type machine struct {
	w      world
	m      mutant
	policy [2]keys.Policy // what Step is given: the new one, and the one before
}

func newMachine(w world, m mutant) *machine {
	if m.inWorld != nil {
		m.inWorld(&w)
	}
	x := &machine{w: w, m: m, policy: [2]keys.Policy{w.policy, w.dropped}}
	if m.policy != nil {
		m.policy(&x.policy[0])
		m.policy(&x.policy[1])
	}
	return x
}

func (x *machine) policyOf(s *issuer, i int) keys.Policy {
	if s.replicas[i].old {
		return x.policy[1]
	}
	return x.policy[0]
}

func (x *machine) start() *issuer {
	s := &issuer{tokens: map[string]int{}}
	for i := range s.replicas {
		s.replicas[i].old = x.w.deploys
		s.replicas[i].down = i >= x.w.replicas
	}
	return s
}

func (x *machine) maxStale() int { return units(x.w.policy.MaxStale()) }

// ready reports whether a replica is: the balancer sends it requests, and it
// signs.
func (x *machine) ready(s *issuer, i int) bool {
	r := &s.replicas[i]
	return !r.down && r.view.ok && s.now-r.view.readAt <= x.maxStale()
}

// serving are the replicas that answer a fetch: those that are ready. A
// balancer that heeds /readyz sends nobody to the others.
func (x *machine) serving(s *issuer) []int {
	var serving []int
	for i := range s.replicas {
		if r := &s.replicas[i]; x.ready(s, i) || x.w.panics && !r.down && r.view.ok {
			serving = append(serving, i)
		}
	}
	return serving
}

// observe brings up to date what follows from a state: every replica that may
// sign does, and whoever may fetch does.
func (x *machine) observe(s *issuer) {
	for i := range s.replicas {
		r := &s.replicas[i]
		if r.down || !r.view.ok || s.now-r.view.readAt > x.maxStale()+x.m.maxStale {
			continue
		}
		for _, id := range r.view.signing {
			until := s.now + x.w.offset[i] + units(x.w.policy.TokenLife+x.w.policy.Leeway)
			s.tokens[id] = max(s.tokens[id], until)
		}
	}
	for _, i := range x.serving(s) {
		set := s.replicas[i].view.listed
		if n := slices.IndexFunc(s.recent, func(o served) bool { return slices.Equal(o.set, set) }); n >= 0 {
			s.recent[n].last = s.now
		} else {
			s.recent = append(s.recent, served{set, s.now})
		}
	}
	maxAge := units(x.w.policy.JWKSMaxAge)
	s.recent = slices.DeleteFunc(s.recent, func(o served) bool { return s.now-o.last > maxAge })
	for id, until := range s.tokens {
		if until <= s.now {
			delete(s.tokens, id)
		}
	}
}

// see is what a replica keeps of a ring.
func (x *machine) see(ring keys.Ring, readAt int) view {
	v := view{ok: true, readAt: readAt}
	for i := range ring.Keys {
		k := &ring.Keys[i]
		if k.Published() && (x.m.unlisted == nil || !x.m.unlisted(k)) || x.m.listed != nil && x.m.listed(k) {
			v.listed = append(v.listed, k.ID)
		}
		if k.State == keys.Signing {
			v.signing = append(v.signing, k.ID)
		}
	}
	return v
}

func (x *machine) makeKeys(s *issuer, algs []jose.SignatureAlgorithm) []keys.Key {
	var fresh []keys.Key
	for _, alg := range algs {
		s.made++
		fresh = append(fresh, keys.Key{ID: fmt.Sprintf("%06d", s.made), Alg: alg, Sealed: keys.Sealed("box")})
	}
	return fresh
}

func (x *machine) needs(s *issuer, i int, ring keys.Ring, e keys.Evidence) []jose.SignatureAlgorithm {
	if x.m.needs != nil && !x.m.needs(ring) {
		return nil
	}
	return keys.Needs(at(s.now+x.w.offset[i]), ring, x.policyOf(s, i), e)
}

// edit is what an operator asked for.
type edit func(now time.Time, ring keys.Ring) (keys.Ring, error)

// swap is the rest of a tick or of an edit: Step on what was loaded, and the
// compare-and-swap. It changes s.
func (x *machine) swap(s *issuer, i int, loaded keys.Ring, current bool, fresh []jose.SignatureAlgorithm, e keys.Evidence, since int, ask edit) *violation {
	now := at(s.now + x.w.offset[i])
	policy := x.policyOf(s, i)
	edited, asked := loaded, false
	if ask != nil {
		next, err := ask(now, loaded)
		if err != nil {
			return nil
		}
		edited, asked = next, true
		fresh = x.needs(s, i, edited, e)
	}
	made := s.made
	next, events := keys.Step(now, edited, x.makeKeys(s, fresh), policy, e)
	if wrong := x.heldRightly(s, now, next, policy); wrong != nil {
		return wrong
	}
	changed := len(events) > 0 || asked
	if x.m.step != nil {
		mutated := x.m.step(now, loaded, next)
		changed = changed || fmt.Sprint(mutated.Keys) != fmt.Sprint(next.Keys)
		next = mutated
	}
	r := &s.replicas[i]
	if !changed {
		if !r.down {
			r.view = x.see(loaded, since)
		}
		for _, alg := range policy.Algorithms {
			if current && loaded.Standby(alg) == nil {
				return broken("no key stands by for %s, and none is made", alg)
			}
		}
		return nil
	}
	if !current && !x.m.blindSwap {
		return nil // a conflict: nothing is stored, and it will load again
	}
	before := s.ring
	next.Version = before.Version + 1
	s.ring = next
	for j := range s.replicas {
		if s.replicas[j].loaded {
			s.replicas[j].current = false
		}
	}
	if !r.down {
		r.view = x.see(next, since)
	}
	return x.lawful(s, now, before, next, policy, made)
}

// heldRightly checks what Step left announced although it was due.
func (x *machine) heldRightly(s *issuer, now time.Time, ring keys.Ring, policy keys.Policy) *violation {
	for _, alg := range policy.Algorithms {
		next := ring.Standby(alg)
		if next == nil || next.ActivateAt.After(now) {
			continue
		}
		switch {
		case ring.Signing(alg) == nil:
			return broken("the stand-by is held back while nothing signs")
		case next.ActivateAt.Before(next.ReadyAt):
			return broken("an emergency rotation is held back")
		case !next.ActivateAt.Add(x.w.policy.MaxHold).After(now):
			return broken("a rotation is held back for longer than MaxHold")
		}
		for id, f := range s.revoked {
			if r := ring.Key(id); r != nil && r.Alg == alg && s.now-f.at+units(x.w.policy.Skew) < 2*units(x.w.policy.AnnounceLead) {
				return broken("a rotation is held back although a key was just revoked")
			}
		}
	}
	return nil
}

var rank = map[keys.State]int{keys.Announced: 1, keys.Signing: 2, keys.Retiring: 3, keys.Retired: 4, keys.Revoked: 5}

// lawful compares a stored ring with the one before it.
func (x *machine) lawful(s *issuer, now time.Time, before, after keys.Ring, policy keys.Policy, made int) *violation {
	signs := map[jose.SignatureAlgorithm]int{}
	for i := range after.Keys {
		k := &after.Keys[i]
		was := before.Key(k.ID)
		if was != nil && rank[k.State] < rank[was.State] {
			return broken("a key's state went back from %s to %s", was.State, k.State)
		}
		if was == nil && k.State != keys.Announced && k.State != keys.Signing {
			return broken("a key came back as %s", k.State)
		}
		if was == nil && !k.AnnouncedAt.Equal(now) {
			return broken("a key is announced %v before it was made", now.Sub(k.AnnouncedAt))
		}
		if (k.Sealed != nil) != (k.State == keys.Announced || k.State == keys.Signing) {
			return broken("the private half of a key that is %s is there: %v", k.State, k.Sealed != nil)
		}
		if k.State == keys.Signing {
			signs[k.Alg]++
		}
		if k.State == keys.Revoked {
			if s.revoked == nil {
				s.revoked = map[string]fact{}
			}
			if _, known := s.revoked[k.ID]; !known {
				s.revoked[k.ID] = fact{s.now, made}
			}
		}
	}
	for i := range before.Keys {
		was := &before.Keys[i]
		k := after.Key(was.ID)
		switch {
		case k == nil && was.State != keys.Retired:
			return broken("a key was forgotten while it was %s", was.State)
		case was.State == keys.Signing && k != nil && k.State == keys.Retired:
			return broken("a key left the set in the moment in which it stopped signing")
		}
	}
	for _, alg := range policy.Algorithms {
		signing, standby := after.Signing(alg), after.Standby(alg)
		switch {
		case signs[alg] > 1:
			return broken("%d keys sign for %s", signs[alg], alg)
		case signing == nil && (before.Signing(alg) != nil || standby == nil):
			return broken("no key signs for %s", alg)
		case signing != nil && standby != nil && !signing.RetireAt.Equal(standby.ActivateAt):
			return broken("the schedule doesn't add up: one stops %v before the other starts", standby.ActivateAt.Sub(signing.RetireAt))
		}
		if signing != nil && standby != nil && before.Signing(alg) == nil == (len(before.Keys) == 0) &&
			(before.Signing(alg) == nil || before.Signing(alg).ID != signing.ID) && before.Key(standby.ID) == nil &&
			signing.RetireAt.Sub(signing.ActivateAt) > x.policy[0].RotationPeriod {
			return broken("a key is to sign for %v, longer than the period", signing.RetireAt.Sub(signing.ActivateAt))
		}
		// Flushing comes first: as long as no key made after a revocation
		// signs, the next one isn't planned for later than its lead.
		if standby != nil && signing != nil {
			for id, f := range s.revoked {
				if r := after.Key(id); r == nil || r.Alg != alg || flushed(after, alg, f) {
					continue
				}
				if standby.ActivateAt.After(standby.ReadyAt) && standby.ActivateAt.After(at(s.now+units(x.w.policy.Skew))) {
					return broken("after a revocation the next key waits longer than its lead")
				}
			}
		}
	}
	return nil
}

// flushed reports whether a key that was made after a revocation has begun to
// sign: whoever meets it fetches a set without the revoked one.
func flushed(ring keys.Ring, alg jose.SignatureAlgorithm, f fact) bool {
	return slices.ContainsFunc(ring.Keys, func(k keys.Key) bool {
		return k.Alg == alg && k.State != keys.Announced && k.State != keys.Revoked && number(k.ID) > f.made
	})
}

func number(id string) int {
	n, err := strconv.Atoi(id)
	if err != nil {
		panic(err)
	}
	return n
}

// moves are all actions that are possible in a state.
func (x *machine) moves(s *issuer) []move {
	var out []move
	add := func(label string, to *issuer, wrong *violation) {
		x.observe(to)
		out = append(out, move{label: label, to: to, wrong: wrong})
	}
	evidence := []keys.Evidence{{}}
	if x.w.probes {
		evidence = append(evidence, keys.Evidence{Unserved: true})
	}
	for i := range x.w.replicas {
		r := &s.replicas[i]
		name := fmt.Sprintf("replica %d", i+1)
		if r.down {
			to := s.clone()
			to.replicas[i] = replica{}
			add(name+" starts", to, nil)
			continue
		}
		if x.w.crashes && !s.replicas[1-i].down && s.replicas[1-i].view.ok {
			to := s.clone()
			to.replicas[i] = replica{down: true}
			add(name+" is killed", to, nil)
		}
		if x.w.deploys && r.old {
			to := s.clone()
			to.replicas[i] = replica{}
			add(name+" is replaced by the new release", to, nil)
		}
		for _, e := range evidence {
			held := ""
			if e.Unserved {
				if len(keys.Holdable(at(s.now+x.w.offset[i]), s.ring, x.policyOf(s, i))) == 0 {
					continue
				}
				held = ", finds the JWKS out of reach"
			}
			switch {
			case x.w.atomic:
				to := s.clone()
				wrong := x.swap(to, i, to.ring, true, x.needs(to, i, to.ring, e), e, to.now, nil)
				add(name+" ticks"+held, to, wrong)
			case !r.loaded:
				to := s.clone()
				l := &to.replicas[i]
				l.loaded, l.current, l.ring, l.since, l.unserved = true, true, to.ring, to.now, e.Unserved
				l.fresh = x.needs(to, i, to.ring, e)
				add(name+" loads"+held, to, nil)
			}
		}
		if r.loaded {
			to := s.clone()
			l := to.replicas[i]
			to.replicas[i].loaded, to.replicas[i].ring, to.replicas[i].fresh = false, keys.Ring{}, nil
			wrong := x.swap(to, i, l.ring, l.current, l.fresh, keys.Evidence{Unserved: l.unserved}, l.since, nil)
			label := name + " swaps"
			if !l.current {
				label = name + " loses its swap"
			}
			add(label, to, wrong)
		}
	}
	for i := range x.w.replicas {
		by := fmt.Sprintf(" (clock of replica %d)", i+1)
		if s.replicas[i].down || i > 0 && x.w.offset[i] == x.w.offset[0] || !s.replicas[i].view.ok {
			continue
		}
		alg := x.w.policy.Algorithms[0]
		ask := func(label string, count func(*issuer), ask edit, urgent bool) {
			for _, e := range evidence {
				to := s.clone()
				count(to)
				// Another process with the same clock; it loads, edits and
				// swaps, again and again until nobody comes between.
				mine := to.replicas[i]
				wrong := x.swap(to, i, to.ring, true, nil, e, to.now, ask)
				if wrong == nil && urgent && to.ring.Version != s.ring.Version && to.ring.Signing(alg).ID != s.ring.Standby(alg).ID {
					wrong = broken("an emergency rotation isn't made at once")
				}
				if wrong != nil || to.ring.Version != s.ring.Version {
					current := to.replicas[i].current
					to.replicas[i] = mine
					to.replicas[i].current = current
					held := ""
					if e.Unserved {
						held = ", the JWKS out of reach"
					}
					add(label+by+held, to, wrong)
				}
			}
		}
		if s.rotates < x.w.rotates {
			ask("an operator rotates", func(to *issuer) { to.rotates++ }, func(now time.Time, ring keys.Ring) (keys.Ring, error) {
				return x.changed(x.m.rotate, ring)(keys.Rotate(now, ring, alg, false))
			}, false)
		}
		if s.urgent < x.w.urgent {
			ask("an operator rotates in an emergency", func(to *issuer) { to.urgent++ }, func(now time.Time, ring keys.Ring) (keys.Ring, error) {
				return x.changed(x.m.rotate, ring)(keys.Rotate(now, ring, alg, true))
			}, true)
		}
		if s.revokes < x.w.revokes {
			for n := range s.ring.Keys {
				k := &s.ring.Keys[n]
				if !k.Published() {
					continue
				}
				ask(fmt.Sprintf("an operator revokes the %s key %s", k.State, strings.TrimLeft(k.ID, "0")), func(to *issuer) { to.revokes++ }, func(now time.Time, ring keys.Ring) (keys.Ring, error) {
					return x.changed(x.m.revoke, ring)(keys.Revoke(now, ring, k.ID, "stolen"))
				}, false)
			}
		}
	}
	to := s.clone()
	to.now++
	x.observe(to)
	return append(out, move{label: "time goes on", to: to, time: true})
}

// changed passes on what Rotate or Revoke returned. To change nothing is no
// move.
func (x *machine) changed(mutate func(before, after keys.Ring), before keys.Ring) func(keys.Ring, []keys.Event, error) (keys.Ring, error) {
	return func(after keys.Ring, events []keys.Event, err error) (keys.Ring, error) {
		if err == nil && len(events) == 0 {
			err = keys.ErrNoKey
		}
		if err == nil && mutate != nil {
			mutate(before, after)
		}
		return after, err
	}
}

// urgentUntil is until when a verifier may refuse tokens of a key, by the
// documents: one that had to sign before it was ready. 0 for any other.
func urgentUntil(k *keys.Key) int {
	if k.ActivateAt.Before(k.ReadyAt) && k.State != keys.Announced {
		return rel(k.ReadyAt, 0)
	}
	return 0
}
