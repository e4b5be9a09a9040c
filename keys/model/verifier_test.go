package model

import (
	"cmp"
	"fmt"
	"strings"
)

// kind is a kind of verifier, as docs/verify.md has measured them, with its
// times in ticks.
type kind struct {
	name     string
	stands   string // for which stock verifiers
	forEver  bool   // keeps a set until something else makes it fetch
	life     int    // else for how long
	late     int    // and how much longer, for one that looks at its clock now and then
	atUse    bool   // fetches an old set anew with the next token, not by itself
	refetch  bool   // fetches for an unknown kid
	cooldown int    // this long after any fetch at the earliest
	perKid   bool   // keeps keys one by one
	bucket   bool   // has a budget of fetches, which made-up kids use up
}

// watcher is a verifier's state beside the issuer's.
type watcher struct {
	node int32
	held mask
	age  uint8 // ticks since the last fetch, up to a bound
	on   bool
}

func (w watcher) pack() uint64 {
	p := uint64(uint32(w.node))<<25 | uint64(w.held)<<9 | uint64(w.age)<<1
	if w.on {
		p |= 1
	}
	return p
}

func unpack(p uint64) watcher {
	return watcher{int32(p >> 25), mask(p >> 9), uint8(p >> 1), p&1 != 0}
}

// set is an open-addressing hash set of packed states; it never holds 0.
type set struct {
	slots []uint64
	used  int
}

func (s *set) add(p uint64) bool {
	p++ // no state is 0
	if 2*s.used >= len(s.slots) {
		old := s.slots
		s.slots, s.used = make([]uint64, max(1024, 4*len(old))), 0
		for _, q := range old {
			if q != 0 {
				s.add(q - 1)
			}
		}
	}
	for i := hash(p) & uint64(len(s.slots)-1); ; i = (i + 1) & uint64(len(s.slots)-1) {
		switch s.slots[i] {
		case 0:
			s.slots[i] = p
			s.used++
			return true
		case p:
			return false
		}
	}
}

func hash(p uint64) uint64 {
	p ^= p >> 31
	p *= 0x9e3779b97f4a7c15
	return p ^ p>>29
}

// product is one kind of verifier beside every state of the issuer.
type product struct {
	g           *graph
	k           kind
	states      []uint64
	parents     []int32
	seen        set
	transitions int
	wrong       *counterexample
}

// watch walks over all states of the issuer and one verifier. Verifiers don't
// act on each other but through the caches between, and what those may answer
// is in each node; so one at a time is enough.
func watch(g *graph, k kind) *product {
	p := &product{g: g, k: k}
	p.visit(watcher{}, -1)
	for i := 0; i < len(p.states) && p.wrong == nil; i++ {
		p.expand(unpack(p.states[i]), int32(i))
	}
	return p
}

func (p *product) visit(w watcher, from int32) {
	p.transitions++
	packed := w.pack()
	if p.seen.add(packed) {
		p.states = append(p.states, packed)
		p.parents = append(p.parents, from)
	}
}

// due reports whether the set is as old as it may get: it can't be used any
// more without a fetch.
func (p *product) due(w watcher) bool {
	switch k := p.k; {
	case k.forEver || k.perKid:
		return false
	case k.atUse:
		return int(w.age) >= k.life
	default:
		return int(w.age) >= k.life+k.late
	}
}

func (p *product) expand(w watcher, from int32) {
	n := &p.g.nodes[w.node]
	due := w.on && p.due(w)
	for _, e := range p.g.edges[n.first : n.first+n.edges] {
		next := w
		next.node, next.held = e.to, p.g.renamings[e.keys].apply(w.held)
		if e.time && w.on {
			if due && !p.k.atUse && len(n.recent) > 0 {
				continue // it fetches first
			}
			next.age = uint8(min(int(w.age)+1, max(p.k.life+p.k.late, p.k.cooldown)))
		}
		p.visit(next, from)
	}
	if len(n.recent) == 0 {
		return
	}
	fetch := func() {
		for _, set := range n.recent {
			p.visit(watcher{w.node, set, 0, true}, from)
		}
	}
	if !p.k.perKid {
		fetch() // it starts, or starts again; it may also fetch by its schedule
	} else if !w.on {
		p.visit(watcher{w.node, 0, 0, true}, from)
	}
	if !w.on {
		return
	}
	if p.k.perKid {
		for held := w.held; held != 0; held &= held - 1 { // one is too old
			p.visit(watcher{w.node, w.held &^ (held & -held), 0, true}, from)
		}
	}
	if !due && w.held&n.revoked != 0 {
		p.checkRevoked(w, n, from)
	}
	for owed := n.owed &^ w.held; owed != 0 && !due; owed &= owed - 1 {
		p.meet(w, n, owed&-owed, from)
	}
	if due && p.k.atUse {
		for owed := n.owed; owed != 0; owed &= owed - 1 {
			p.meet(w, n, owed&-owed, from)
		}
	}
}

// meet shows the verifier a good token of a key that it doesn't hold, or not
// any more.
func (p *product) meet(w watcher, n *node, key mask, from int32) {
	mayFetch := p.k.refetch && int(w.age) >= p.k.cooldown || p.k.atUse && p.due(w)
	if p.k.bucket || !mayFetch {
		p.refused(w, key, "and may not fetch", from)
		return
	}
	for _, set := range n.recent {
		if set&key == 0 {
			p.refused(w, key, "and fetches a set without it", from)
			return
		}
		if p.k.perKid {
			p.visit(watcher{w.node, w.held | key, 0, true}, from)
		} else {
			p.visit(watcher{w.node, set, 0, true}, from)
		}
	}
}

func (p *product) refused(w watcher, key mask, why string, from int32) {
	if p.wrong == nil {
		p.wrong = p.trace(from, fmt.Sprintf("%s refuses a valid token", p.k.name),
			func(s *issuer) string {
				return p.k.name + " meets a token of " + names(s, key) + ", doesn't hold it " + why
			})
	}
}

// checkRevoked checks that what still accepts a revoked key may.
func (p *product) checkRevoked(w watcher, n *node, from int32) {
	if p.wrong != nil || p.k.perKid {
		return
	}
	pol := p.g.x.w.policy
	reach := units(pol.JWKSMaxAge + pol.MaxStale()) // a fetch may still get it
	switch {
	case w.held&n.fresh != 0:
		p.wrong = p.trace(from, p.k.name+" holds a revoked key beside one that was made later", nil)
	case !p.k.forEver && int(n.since) > reach+p.k.life+p.k.late:
		p.wrong = p.trace(from, fmt.Sprintf("%s accepts a revoked key after %d ticks", p.k.name, n.since), nil)
	case int(n.since)-int(w.age) > reach && int(w.age) < max(p.k.life+p.k.late, p.k.cooldown): // below its bound the age is exact
		p.wrong = p.trace(from, p.k.name+" got a revoked key from a fetch long after it was revoked", nil)
	}
}

func (p *product) trace(from int32, what string, last func(*issuer) string) *counterexample {
	var steps []watcher
	for i := from; i >= 0; i = p.parents[i] {
		steps = append(steps, unpack(p.states[i]))
	}
	var labels []uint16
	between := map[int][]func(*issuer) string{}
	for i := len(steps) - 1; i > 0; i-- {
		a, b := steps[i], steps[i-1]
		moved := false
		if a.node != b.node || a.age+1 == b.age {
			for _, e := range p.g.edges[p.g.nodes[a.node].first : p.g.nodes[a.node].first+p.g.nodes[a.node].edges] {
				if e.to == b.node && p.g.renamings[e.keys].apply(a.held) == b.held {
					labels = append(labels, e.label)
					moved = true
					break
				}
			}
		}
		if !moved {
			between[len(labels)] = append(between[len(labels)], func(s *issuer) string { return p.k.name + " fetches, and holds " + names(s, b.held) })
		}
	}
	if last != nil {
		between[len(labels)] = append(between[len(labels)], last)
	}
	return &counterexample{what, p.g.replay(labels, between)}
}

func names(s *issuer, m mask) string {
	var out []string
	for i := range s.ring.Keys {
		if m&(1<<i) != 0 {
			out = append(out, strings.TrimLeft(s.ring.Keys[i].ID, "0"))
		}
	}
	return cmp.Or(strings.Join(out, " and "), "nothing")
}
