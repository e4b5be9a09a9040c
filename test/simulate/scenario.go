package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/urbandata/urbandata/pkg/verify/pace"
)

// scenario is what happens to a fleet. Times count from its start.
type scenario struct {
	name     string
	edges    int           // points of presence of the CDN; 0: everybody asks the origin
	together bool          // all verifiers start in the same ten seconds, not within their first interval
	still    bool          // waits have no random part
	rotate   time.Duration // when a planned rotation is asked for; 0: not at all
	revoke   time.Duration // when the signing key is revoked
	again    time.Duration // when the key that took its place is revoked too
	away     time.Duration // when an outage of the origin begins
	back     time.Duration // and ends
	length   time.Duration
}

// The shape of the scenarios: the fleet has settled when something happens.
const (
	settled = 15 * time.Minute
	length  = 45 * time.Minute
)

func scenarios(edges int) []scenario {
	const emergency = settled + 5*time.Minute
	return []scenario{
		{name: "rotation", rotate: settled, edges: edges, length: length},
		{name: "rotation, no CDN", rotate: settled, length: length},
		{name: "rotation, no CDN, all start together", rotate: settled, together: true, length: length},
		{name: "rotation, no CDN, all start together, no jitter", rotate: settled, together: true, still: true, length: length},
		{name: "revocation", revoke: emergency, edges: edges, length: length},
		{name: "revocation, no jitter", revoke: emergency, edges: edges, together: true, still: true, length: length},
		{name: "revocation, no CDN", revoke: emergency, length: length},
		{name: "revocation, outage of 10 min from 2 min later", revoke: emergency, away: emergency + 2*time.Minute, back: emergency + 12*time.Minute, edges: edges, length: length},
		{name: "revocation, no CDN, the same outage", revoke: emergency, away: emergency + 2*time.Minute, back: emergency + 12*time.Minute, length: length},
		{name: "revocation, no CDN, no jitter, the same outage", revoke: emergency, away: emergency + 2*time.Minute, back: emergency + 12*time.Minute, together: true, still: true, length: length},
		{name: "two revocations, 1 min apart", revoke: emergency, again: emergency + time.Minute, edges: edges, length: length},
		{name: "two revocations, 1 min apart, no CDN", revoke: emergency, again: emergency + time.Minute, length: length},
		{name: "two revocations, 1 min apart, no CDN, an outage with the second", revoke: emergency, again: emergency + time.Minute, away: emergency + time.Minute + time.Second, back: emergency + 11*time.Minute, length: length},
	}
}

// result is what a scenario showed.
type result struct {
	scenario
	origin   *counter // requests at the origin, by second
	edge     *counter // requests at the edges
	dropped  []time.Duration
	missing  int // verifiers that take the revoked key at the end
	onDemand int
	rejected int
	started  time.Time
}

// play runs a scenario with so many verifiers.
func play(s scenario, verifiers int, seed uint64) (*result, error) {
	w := newWorld(seed)
	i, err := newIssuer(w)
	if err != nil {
		return nil, err
	}
	// The ring's first keys are a week old, and the next one is ready.
	w.run(w.now.Add(7 * 24 * time.Hour))
	i.served = counter{from: w.now}
	f := &fleet{world: w, issuer: i, tokens: 10 * time.Second, jitter: w.upTo}
	if s.still {
		f.jitter = middle
	}
	i.changed = func() {
		for _, v := range f.all {
			v.expectTokens()
		}
	}
	asked := &counter{from: w.now}
	points := make([]*edge, s.edges)
	for n := range points {
		points[n] = &edge{issuer: i, fetches: asked}
	}
	for _, p := range points { // each has its own phase: others use it too
		w.after(w.upTo(i.policy.JWKSMaxAge), func() { p.fetch(func(answer) {}) })
	}
	over := i.policy.JWKSMaxAge
	if s.together {
		over = 10 * time.Second
	}
	for n := range verifiers {
		var source interface{ fetch(func(answer)) } = i
		if s.edges > 0 {
			source = points[n%s.edges]
		}
		f.add(source, i.policy.JWKSMaxAge+w.upTo(over))
	}
	r := &result{scenario: s, origin: &i.served, edge: asked, started: w.now}
	failed := error(nil)
	plan := func(at time.Duration, do func() error) {
		if at > 0 {
			w.after(at, func() {
				if err := do(); err != nil && failed == nil {
					failed = fmt.Errorf("%s, %v after its start: %w", s.name, at, err)
				}
			})
		}
	}
	watch := func() error {
		kid, err := i.revoke()
		if err != nil {
			return err
		}
		f.revoked, f.at, f.dropped = kid, w.now, nil
		for _, v := range f.all {
			v.dropped = false
		}
		return nil
	}
	plan(s.rotate, i.rotate)
	plan(s.revoke, watch)
	plan(s.again, watch)
	plan(s.away, func() error { i.away = true; return nil })
	plan(s.back, func() error { i.away = false; return nil })
	w.run(w.now.Add(s.length))
	if failed != nil {
		return nil, failed
	}
	for _, v := range f.all {
		v.look() // who holds no usable set refuses it as well
		if f.revoked != "" && !v.dropped {
			r.missing++
		}
	}
	slices.Sort(f.dropped)
	r.dropped, r.onDemand, r.rejected = f.dropped, f.onDemand, f.rejected
	return r, nil
}

// middle is what a wait is without a random part.
var middle pace.Jitter = func(d time.Duration) time.Duration { return d / 2 }

// after is by when a share of the verifiers refused the revoked key; ok is
// false if they didn't.
func (r *result) after(share float64, verifiers int) (d time.Duration, ok bool) {
	n := int(share*float64(verifiers)+0.5) - 1
	if n < 0 || n >= len(r.dropped) {
		return 0, false
	}
	return r.dropped[n], true
}

// counter counts events by the second.
type counter struct {
	from  time.Time
	count []int
}

func (c *counter) add(now time.Time) {
	second := int(now.Sub(c.from) / time.Second)
	for len(c.count) <= second {
		c.count = append(c.count, 0)
	}
	c.count[second]++
}

// most is the largest count of a second in a part of the run, mean the average.
func (c *counter) most(from, to time.Duration) (most int, mean float64) {
	total := 0
	for s := int(from / time.Second); s < int(to/time.Second) && s < len(c.count); s++ {
		most = max(most, c.count[s])
		total += c.count[s]
	}
	return most, float64(total) / (to - from).Seconds()
}
