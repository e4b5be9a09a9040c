package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urbandata/urbandata/keys"
)

// mask is a set of keys, by their place in the ring of a state.
type mask uint16

// renaming says which place each key has after a move: 4 bits each, 15 for a
// key that is gone.
type renaming uint64

func (r renaming) apply(m mask) mask {
	var out mask
	for i := 0; m != 0; i++ {
		if m&1 != 0 {
			if to := r >> (4 * i) & 15; to != 15 {
				out |= 1 << to
			}
		}
		m >>= 1
	}
	return out
}

// node is what the verifiers see of one state of the issuer.
type node struct {
	owed    mask   // keys with tokens that every covered verifier must accept
	revoked mask   // keys that were revoked
	fresh   mask   // keys that were made after the last revocation
	since   uint8  // ticks since the last revocation, up to a bound
	recent  []mask // the sets that a fetch may get
	parent  int32
	label   uint16 // of the move from parent
	first   int32  // its edges
	edges   int32
}

type edge struct {
	to    int32
	keys  uint16 // the renaming
	label uint16
	time  bool
}

// graph is every state of the issuer that can be reached.
type graph struct {
	x           *machine
	nodes       []node
	edges       []edge
	renamings   []renaming
	labels      []string
	renamingIDs map[renaming]uint16
	labelIDs    map[string]uint16
	bound       int // beyond which the time since a revocation doesn't matter
}

// counterexample is a broken invariant and the way to it.
type counterexample struct {
	what  string
	trace []string
}

func (c *counterexample) String() string {
	return c.what + "\n\t" + strings.Join(c.trace, "\n\t")
}

// explore walks breadth first over all states of the issuer, or, with most >
// 0, over the first so many: enough to find a counterexample, not to prove
// that there is none.
func explore(x *machine, most int) (*graph, *counterexample) {
	g := &graph{x: x, renamingIDs: map[renaming]uint16{}, labelIDs: map[string]uint16{}}
	p := x.w.policy
	g.bound = units(p.JWKSMaxAge+p.MaxStale()) + 6 // longer than any kind keeps a key by time
	known := map[string]int32{}
	var states []*issuer
	var buffer []byte
	visit := func(s *issuer, parent int32, label uint16) int32 {
		buffer = g.encode(buffer[:0], s)
		if id, ok := known[string(buffer)]; ok {
			return id
		}
		id := int32(len(g.nodes))
		known[string(buffer)] = id
		n := g.observe(s)
		n.parent, n.label = parent, label
		g.nodes = append(g.nodes, n)
		states = append(states, s)
		return id
	}
	visit(x.start(), -1, g.label("start"))
	for i := int32(0); int(i) < len(g.nodes); i++ {
		if most > 0 && len(g.nodes) > most {
			break
		}
		s := states[i]
		states[i] = nil
		first := len(g.edges)
		for _, m := range x.moves(s) {
			if m.wrong != nil {
				return g, &counterexample{m.wrong.what, g.replay(append(g.path(i), g.label(m.label)), nil)}
			}
			r := rename(s, m.to)
			id, ok := g.renamingIDs[r]
			if !ok {
				id = uint16(len(g.renamings))
				g.renamingIDs[r] = id
				g.renamings = append(g.renamings, r)
			}
			label := g.label(m.label)
			g.edges = append(g.edges, edge{visit(m.to, i, label), id, label, m.time})
		}
		g.nodes[i].first, g.nodes[i].edges = int32(first), int32(len(g.edges)-first)
	}
	return g, nil
}

func (g *graph) label(text string) uint16 {
	id, ok := g.labelIDs[text]
	if !ok {
		id = uint16(len(g.labels))
		g.labelIDs[text] = id
		g.labels = append(g.labels, text)
	}
	return id
}

// path is the labels of the moves from the start to a node.
func (g *graph) path(id int32) []uint16 {
	var labels []uint16
	for ; g.nodes[id].parent >= 0; id = g.nodes[id].parent {
		labels = append(labels, g.nodes[id].label)
	}
	slices.Reverse(labels)
	return labels
}

// replay makes the moves again and tells what happened. between is what
// happens before a move, on the verifiers' side.
func (g *graph) replay(labels []uint16, between map[int][]func(*issuer) string) []string {
	s := g.x.start()
	var out []string
	line := func(s *issuer, what string) { out = append(out, fmt.Sprintf("%3d  %-55s %s", s.now, what, picture(s))) }
	for n, l := range labels {
		for _, what := range between[n] {
			line(s, what(s))
		}
		for _, m := range g.x.moves(s) {
			if m.label == g.labels[l] {
				s = m.to
				break
			}
		}
		if g.labels[l] != "time goes on" {
			line(s, g.labels[l])
		}
	}
	for _, what := range between[len(labels)] {
		line(s, what(s))
	}
	return out
}

// picture is a ring in one line: 1:retiring 2:signing 3:announced.
func picture(s *issuer) string {
	var out []string
	for i := range s.ring.Keys {
		k := &s.ring.Keys[i]
		text := strings.TrimLeft(k.ID, "0") + ":" + string(k.State)
		switch k.State {
		case keys.Announced:
			text += fmt.Sprintf("(signs at %d)", rel(k.ActivateAt, 0))
		case keys.Retiring:
			text += fmt.Sprintf("(until %d)", rel(k.UnpublishAt, 0))
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

func rename(from, to *issuer) renaming {
	var r renaming
	for i := range from.ring.Keys {
		place := slices.IndexFunc(to.ring.Keys, func(k keys.Key) bool { return k.ID == from.ring.Keys[i].ID })
		if place < 0 {
			place = 15
		}
		r |= renaming(place) << (4 * i)
	}
	return r
}

func (s *issuer) mask(ids []string) mask {
	var m mask
	for _, id := range ids {
		for i := range s.ring.Keys {
			if s.ring.Keys[i].ID == id {
				m |= 1 << i
			}
		}
	}
	return m
}

func (g *graph) observe(s *issuer) node {
	n := node{since: uint8(g.bound)}
	if len(s.ring.Keys) > 15 {
		panic("model: too many keys for a mask")
	}
	last := -1
	for i := range s.ring.Keys {
		k := &s.ring.Keys[i]
		f, revoked := s.revoked[k.ID]
		if revoked {
			n.revoked |= 1 << i
			n.since = min(n.since, uint8(min(g.bound, s.now-f.at)))
			last = max(last, f.made)
			continue
		}
		if s.tokens[k.ID] > s.now && urgentUntil(k) <= s.now {
			n.owed |= 1 << i
		}
	}
	if last >= 0 {
		for i := range s.ring.Keys {
			if k := &s.ring.Keys[i]; k.State != keys.Revoked && number(k.ID) > last {
				n.fresh |= 1 << i
			}
		}
	}
	for _, r := range s.recent {
		if m := s.mask(r.set); !slices.Contains(n.recent, m) {
			n.recent = append(n.recent, m)
		}
	}
	return n
}

// encode writes all of a state that decides what can happen from it on, and
// nothing else: keys by their place instead of their name, times from now,
// and those that are past for every clock as just past.
func (g *graph) encode(b []byte, s *issuer) []byte {
	x := g.x
	past := min(0, x.w.offset[0], x.w.offset[1])
	clip := func(t, least int) byte { return byte(max(t, least) + 64) }
	b = append(b, byte(s.rotates), byte(s.urgent), byte(s.revokes), byte(len(s.ring.Keys)))
	for i := range s.ring.Keys {
		b = g.encodeKey(b, s, &s.ring.Keys[i], past)
	}
	for i := range s.replicas {
		r := &s.replicas[i]
		if r.down {
			b = append(b, 255)
			continue
		}
		b = append(b, flag(r.old)|flag(r.view.ok)<<1|flag(r.loaded)<<2|flag(r.current)<<3|flag(r.unserved)<<4)
		if r.view.ok {
			listed, signing := s.mask(r.view.listed), s.mask(r.view.signing)
			b = append(b, byte(min(s.now-r.view.readAt, x.maxStale()+x.m.maxStale+1)), byte(listed), byte(listed>>8), byte(signing), byte(signing>>8))
		}
		if r.loaded {
			b = append(b, byte(min(s.now-r.since, x.maxStale()+x.m.maxStale+1)))
			if r.current || x.m.blindSwap {
				b = append(b, byte(len(r.fresh)))
				for _, alg := range r.fresh {
					b = append(b, alg[0])
				}
			}
			if !r.current && x.m.blindSwap {
				b = append(b, byte(len(r.ring.Keys)))
				for n := range r.ring.Keys {
					k := &r.ring.Keys[n]
					m := s.mask([]string{k.ID})
					b = append(b, byte(m), byte(m>>8))
					b = g.encodeKey(b, s, k, past)
				}
			}
		}
	}
	for i := range s.ring.Keys {
		b = append(b, clip(s.tokens[s.ring.Keys[i].ID]-s.now, 0))
		if f, ok := s.revoked[s.ring.Keys[i].ID]; ok {
			b = append(b, byte(min(s.now-f.at, g.bound)))
			for j := range s.ring.Keys {
				b = append(b, flag(number(s.ring.Keys[j].ID) > f.made))
			}
		}
	}
	start := len(b)
	for _, r := range s.recent {
		m := s.mask(r.set)
		b = append(b, byte(s.now-r.last), byte(m), byte(m>>8))
	}
	sortTriples(b[start:])
	return b
}

func (g *graph) encodeKey(b []byte, s *issuer, k *keys.Key, past int) []byte {
	p := g.x.w.policy
	clip := func(t, least int) byte { return byte(max(t, least) + 64) }
	r := func(least int, t int) byte { return clip(t-s.now, least) }
	b = append(b, byte(rank[k.State]), k.Alg[0], flag(k.Sealed != nil)|flag(k.ActivateAt.Before(k.ReadyAt))<<1, r(past, rel(k.AnnouncedAt, 0)))
	switch k.State {
	case keys.Announced:
		hold := 0
		if g.x.w.probes {
			hold = units(p.MaxHold)
		}
		b = append(b, r(past, rel(k.ReadyAt, 0)), r(past-hold, rel(k.ActivateAt, 0)),
			byte(units(k.RetireAt.Sub(k.ActivateAt))), byte(units(k.UnpublishAt.Sub(k.RetireAt))))
	case keys.Signing:
		b = append(b, r(past, rel(k.RetireAt, 0)), byte(units(k.UnpublishAt.Sub(k.RetireAt))), r(0, urgentUntil(k)))
	case keys.Retiring:
		b = append(b, r(past, rel(k.UnpublishAt, 0)), r(0, urgentUntil(k)))
	case keys.Retired:
		b = append(b, r(past-units(p.RotationPeriod), rel(k.UnpublishAt, 0)))
	case keys.Revoked:
		least := past
		if g.x.w.probes {
			least -= 2 * units(p.AnnounceLead)
		}
		b = append(b, r(least, rel(k.RevokedAt, 0)))
	}
	return b
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func sortTriples(b []byte) {
	for i := 3; i < len(b); i += 3 {
		for j := i; j > 0 && string(b[j-3:j]) > string(b[j:j+3]); j -= 3 {
			for n := range 3 {
				b[j-3+n], b[j+n] = b[j+n], b[j-3+n]
			}
		}
	}
}
