package main

import (
	"time"

	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/pace"
)

// rules are pkg/verify's defaults.
var rules = pace.Rules{
	MinAge: verify.DefaultMinAge, MaxAge: verify.DefaultMaxAge,
	DefaultAge: verify.DefaultAge, MaxStale: verify.DefaultMaxStale,
}

// fleet is all verifiers of a simulation and what is counted of them.
type fleet struct {
	*world
	issuer *issuer
	jitter pace.Jitter

	// How often a token with the newest kid arrives at each verifier, while it
	// doesn't have that kid.
	tokens time.Duration

	revoked  string          // the kid that is watched, "" if none
	at       time.Time       // when it was revoked
	dropped  []time.Duration // after which the verifiers refused it, in order
	rejected int             // good tokens refused for want of their key
	onDemand int             // fetches for an unknown kid
	all      []*verifier
}

// verifier is one process with pkg/verify: what its cache does, with the same
// decisions, and no more.
type verifier struct {
	*fleet
	source interface{ fetch(func(answer)) }

	span     pace.Span
	version  int // of the set that it holds, -1 if none
	gate     pace.Gate
	failures int
	flying   bool
	waiting  []string // kids of the tokens that wait for the flight
	mine     string   // the one of them that asked for it
	plan     uint64   // of the fetch to come; another one has taken its place if it isn't this
	dropped  bool
	awaits   bool // a token with an unknown kid is to arrive
}

func (f *fleet) add(source interface{ fetch(func(answer)) }, start time.Duration) {
	v := &verifier{fleet: f, source: source, version: -1, gate: pace.NewGate(verify.DefaultBurst, verify.DefaultEvery)}
	f.all = append(f.all, v)
	f.after(start, v.fetch)
}

func (v *verifier) fetch() {
	v.flying = true
	asked := v.now
	v.source.fetch(func(a answer) { v.landed(asked, a) })
}

func (v *verifier) landed(asked time.Time, a answer) {
	v.flying = false
	wait := time.Duration(0)
	if a.ok {
		changed := a.version != v.version
		v.version, v.failures = a.version, 0
		v.span = rules.Span(asked, pace.Promise{Said: true, Left: v.issuer.policy.JWKSMaxAge - a.age, Copy: a.stored})
		v.gate.Answered(v.now, changed, 0)
		if v.mine != "" && !v.has(v.mine) {
			v.gate.Missed(v.mine, v.now)
		}
		wait = v.span.Ahead(v.jitter)
		v.look()
	} else {
		v.failures++
		v.gate.Answered(v.now, false, 0)
		wait = pace.Again(v.failures, pace.LastRetry, v.gate.Wait(v.now), v.jitter)
	}
	for _, kid := range v.waiting {
		if !v.has(kid) {
			v.rejected++
		}
	}
	v.waiting, v.mine = v.waiting[:0], ""
	v.plan++
	mine := v.plan
	v.after(wait, func() {
		if mine == v.plan && !v.flying {
			v.fetch()
		}
	})
	v.expectTokens()
}

// has reports whether tokens of a key are accepted.
func (v *verifier) has(kid string) bool {
	return v.version >= 0 && v.span.Usable(v.now) && v.issuer.sets[v.version][kid]
}

// look notes the moment from which the watched key is refused.
func (v *verifier) look() {
	if v.revoked != "" && !v.dropped && !v.has(v.revoked) {
		v.dropped = true
		v.fleet.dropped = append(v.fleet.dropped, v.now.Sub(v.at))
	}
}

// expectTokens lets tokens of the key that signs arrive, while the verifier
// doesn't have it. Those of keys that it has cost no fetch.
func (v *verifier) expectTokens() {
	if v.awaits || v.version < 0 || v.has(v.issuer.signing()) {
		return
	}
	v.awaits = true
	v.after(v.about(v.tokens), func() {
		v.awaits = false
		v.token(v.issuer.signing())
		v.expectTokens()
	})
}

// token is one with this kid: see find and join in pkg/verify.
func (v *verifier) token(kid string) {
	if v.has(kid) {
		return
	}
	switch {
	case v.gate.Absent(kid, v.now):
		v.rejected++
	case v.flying:
		v.waiting = append(v.waiting, kid)
	case v.gate.Open(v.now):
		v.onDemand++
		v.waiting, v.mine = append(v.waiting, kid), kid
		v.plan++
		v.fetch()
	default:
		v.rejected++
	}
}
