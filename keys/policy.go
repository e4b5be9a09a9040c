package keys

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Policy says how keys are made and how long each part of their life lasts.
// [DefaultPolicy] is safe for every stock verifier that can be kept safe by
// timing; a changed one must pass Validate.
//
// The store keeps whole milliseconds, and so should a policy.
type Policy struct {
	// Algorithms are those with a key: EdDSA, RS256, ES256, PS256. One that
	// is added on a ring in use is announced first, and signs after the lead.
	// One that is taken away signs out its schedule and gets no successor.
	Algorithms []jose.SignatureAlgorithm

	// RSABits is the size of RSA keys to come: 2048, 3072 or 4096.
	RSABits int

	// RotationPeriod is how long a key signs.
	RotationPeriod time.Duration

	// AnnounceLead is how long a key is published before it may sign.
	AnnounceLead time.Duration

	// Retention is how long a key stays published after it stopped signing.
	Retention time.Duration

	// JWKSMaxAge is the max-age that the JWKS is served with, in whole
	// seconds.
	JWKSMaxAge time.Duration

	// TokenLife is the longest life of an access token.
	TokenLife time.Duration

	// Leeway is by how much a verifier may let a token outlive its exp.
	Leeway time.Duration

	// Tick is how often a replica looks at the store. Another replica's
	// change is seen within this time.
	Tick time.Duration

	// Skew is the most by which the clocks of two replicas differ. Half of it
	// is how far one may be ahead of the store's, and tokens must be dated
	// back by as much: stock verifiers refuse an iat ahead of their clock.
	Skew time.Duration

	// ReplicaLag is how much longer than Tick a replica may go on signing
	// with the ring in memory when it has lost the store.
	ReplicaLag time.Duration

	// VerifierSlack is for verifiers that refresh on their own schedule
	// only and never for an unknown kid. One half is the least time for
	// which they keep a set, the other how late they may look at it again.
	// 1800 s is what jwx v2 needs, the slowest that was measured.
	VerifierSlack time.Duration

	// Verifiers are the kinds of verifier that use the issuer, by the short
	// names of [Verifiers], when all of them are known. AnnounceLead then
	// need be no longer than the slowest of them, and of pkg/verify, demands,
	// and VerifierSlack counts for nothing. Empty means any of the table.
	Verifiers []string

	// Activate is what a planned rotation waits for when its time has come.
	Activate Activation

	// Registered are the names by which running verifiers make themselves
	// known, each process by one of its own: those that OnEvidence waits for.
	Registered []string

	// MaxHold is how long a planned rotation may be held back beyond its time:
	// by OnEvidence, and while the JWKS can't be fetched. Then it goes ahead.
	MaxHold time.Duration
}

// DefaultPolicy is made for the verifiers measured in docs/verify.md.
func DefaultPolicy() Policy {
	return Policy{
		Algorithms:     []jose.SignatureAlgorithm{jose.EdDSA, jose.RS256},
		RSABits:        2048,
		RotationPeriod: 30 * 24 * time.Hour,
		AnnounceLead:   2 * time.Hour,
		Retention:      time.Hour,
		JWKSMaxAge:     300 * time.Second,
		TokenLife:      300 * time.Second,
		Leeway:         60 * time.Second,
		Tick:           10 * time.Second,
		Skew:           10 * time.Second,
		ReplicaLag:     10 * time.Minute,
		VerifierSlack:  1800 * time.Second,
		Activate:       OnSchedule,
		MaxHold:        time.Hour,
	}
}

// MinLead is the least AnnounceLead that breaks no covered verifier: a cache
// that has just refreshed keeps its set for max(VerifierSlack/2, JWKSMaxAge),
// looks again up to VerifierSlack/2 late, may then be handed a response that
// a cache between has held for JWKSMaxAge, from a replica that has lost the
// store and serves the set from before for MaxStale (from then on it isn't
// ready, and is asked no more), while the replica that activates the key has
// a clock that is ahead by Skew.
//
// Where Verifiers are named, the longest lead that one of them needs, or
// pkg/verify, takes the place of the first two terms.
func (p Policy) MinLead() time.Duration {
	lead, _ := p.verifierLead()
	return lead + p.JWKSMaxAge + p.MaxStale() + p.Skew
}

// verifierLead is how long the slowest covered verifier may go on without a
// key that it could fetch, and who that is; "" when none is named.
func (p Policy) verifierLead() (lead time.Duration, name string) {
	if len(p.Verifiers) == 0 {
		return max(p.VerifierSlack/2, p.JWKSMaxAge) + p.VerifierSlack/2, ""
	}
	for _, wanted := range append([]string{verifiers[0].Name}, p.Verifiers...) {
		v, ok := FindVerifier(wanted)
		if !ok || v.Unsafe != "" {
			continue
		}
		if d, bounded := v.Lead.At(p.JWKSMaxAge); bounded && (d > lead || name == "") {
			lead, name = d, v.Name
		}
	}
	return lead, name
}

// Warnings are what is wrong with a valid policy all the same, a sentence
// each: verifiers that no lead can keep safe, and those that none of its
// algorithms suits.
func (p Policy) Warnings() []string {
	var warnings []string
	for _, name := range p.Verifiers {
		v, ok := FindVerifier(name)
		if ok && v.Unsafe != "" {
			warnings = append(warnings, fmt.Sprintf("%s (%s) may refuse tokens after each rotation, whatever the lead: %s", v.Name, v.Library, v.Unsafe))
		}
		if ok && !v.EdDSA && !slices.Contains(p.Algorithms, jose.RS256) {
			warnings = append(warnings, fmt.Sprintf("%s (%s) can't verify any of our tokens: it doesn't do EdDSA, and RS256 isn't among the algorithms", v.Name, v.Library))
		}
	}
	return warnings
}

// MinRetention is the least Retention after which no token of a key can be
// valid: a replica may sign with it until its ring in memory is too old, and
// that token lives for TokenLife, and Leeway longer where the verifier allows
// it. Skew counts twice: the replica that signs may be ahead of the verifiers'
// clock, and the one that takes the key out of the set ahead of the one that
// stopped it.
func (p Policy) MinRetention() time.Duration {
	return p.TokenLife + p.Leeway + p.MaxStale() + 2*p.Skew
}

// MaxStale is the age up to which the ring in memory may be signed with.
func (p Policy) MaxStale() time.Duration { return p.Tick + p.ReplicaLag }

// Validate returns nil for a policy that keeps every covered verifier whole.
// Otherwise the error wraps [ErrPolicy] and names, for each rule that is
// broken, the rule, the numbers and the field to change.
func (p Policy) Validate() error {
	var broken []error
	refuse := func(format string, args ...any) {
		broken = append(broken, fmt.Errorf("%w: %w", ErrPolicy, fmt.Errorf(format, args...)))
	}

	if len(p.Algorithms) == 0 {
		refuse("Algorithms is empty; name at least one of EdDSA, RS256, ES256, PS256")
	}
	for i, alg := range p.Algorithms {
		if _, ok := algorithms[alg]; !ok {
			refuse("Algorithms has %q; take EdDSA, RS256, ES256 or PS256", alg)
		}
		if slices.Contains(p.Algorithms[:i], alg) {
			refuse("Algorithms has %q twice", alg)
		}
	}
	if !slices.Contains([]int{2048, 3072, 4096}, p.RSABits) {
		refuse("RSABits is %d; take 2048, 3072 or 4096", p.RSABits)
	}
	for _, f := range []struct {
		name  string
		value time.Duration
		least time.Duration
	}{
		{"RotationPeriod", p.RotationPeriod, time.Millisecond},
		{"TokenLife", p.TokenLife, time.Millisecond},
		{"Tick", p.Tick, time.Millisecond},
		{"JWKSMaxAge", p.JWKSMaxAge, 0},
		{"Leeway", p.Leeway, 0},
		{"Skew", p.Skew, 0},
		{"ReplicaLag", p.ReplicaLag, 0},
		{"VerifierSlack", p.VerifierSlack, 0},
		{"AnnounceLead", p.AnnounceLead, 0},
		{"Retention", p.Retention, 0},
		{"MaxHold", p.MaxHold, 0},
	} {
		// The upper bound keeps the sums below far from overflow.
		if f.value < f.least || f.value > maxDuration {
			refuse("%s is %v; it must lie between %v and %v", f.name, f.value, f.least, maxDuration)
		}
	}
	if p.JWKSMaxAge%time.Second != 0 {
		refuse("JWKSMaxAge is %v; HTTP has whole seconds only", p.JWKSMaxAge)
	}
	for _, name := range p.Verifiers {
		if _, ok := FindVerifier(name); !ok {
			refuse("Verifiers has %.64q, which isn't in the table; take of %s, or leave Verifiers empty to cover all that can be", name, verifierNames())
		}
	}
	for i, name := range p.Registered {
		if !ValidVerifierName(name) {
			refuse("Registered has %.64q; a name is 1 to %d visible ASCII characters without a comma", name, MaxVerifierName)
		}
		if slices.Contains(p.Registered[:i], name) {
			refuse("Registered has %.64q twice", name)
		}
	}
	if len(p.Registered) > MaxSightings {
		refuse("Registered has %d names; %d are the most", len(p.Registered), MaxSightings)
	}
	switch p.Activate {
	case OnSchedule:
	case OnEvidence:
		if len(p.Registered) == 0 {
			refuse("Activate is %q and Registered is empty; name the verifiers to wait for", p.Activate)
		}
	default:
		refuse("Activate is %.64q; take %s or %s", p.Activate, OnSchedule, OnEvidence)
	}
	if len(broken) > 0 {
		return errors.Join(broken...) // the sums below would say nothing
	}

	least := p.MinLead()
	switch lead, slowest := p.verifierLead(); {
	case p.AnnounceLead >= least:
	case slowest != "":
		refuse("AnnounceLead ≥ the lead of %s + JWKSMaxAge + Tick + ReplicaLag + Skew"+
			" is broken: %v < %v + %v + %v + %v + %v = %v;"+
			" it would meet a key before it can hold it; raise AnnounceLead to %v or more",
			slowest, p.AnnounceLead, lead, p.JWKSMaxAge, p.Tick, p.ReplicaLag, p.Skew, least, least)
	default:
		refuse("AnnounceLead ≥ max(VerifierSlack/2, JWKSMaxAge) + VerifierSlack/2 + JWKSMaxAge + Tick + ReplicaLag + Skew"+
			" is broken: %v < max(%v, %v) + %v + %v + %v + %v + %v = %v;"+
			" a verifier would meet a key before it can hold it; raise AnnounceLead to %v or more",
			p.AnnounceLead, p.VerifierSlack/2, p.JWKSMaxAge, p.VerifierSlack/2, p.JWKSMaxAge, p.Tick, p.ReplicaLag, p.Skew, least, least)
	}
	if least := p.MinRetention(); p.Retention < least {
		refuse("Retention ≥ TokenLife + Leeway + Tick + ReplicaLag + 2·Skew"+
			" is broken: %v < %v + %v + %v + %v + 2·%v = %v;"+
			" a valid token would lose its key; raise Retention to %v or more",
			p.Retention, p.TokenLife, p.Leeway, p.Tick, p.ReplicaLag, p.Skew, least, least)
	}
	if p.RotationPeriod < p.AnnounceLead {
		refuse("RotationPeriod ≥ AnnounceLead is broken: %v < %v;"+
			" a key would have to take over before it has been announced long enough; raise RotationPeriod to %v or more",
			p.RotationPeriod, p.AnnounceLead, p.AnnounceLead)
	}
	return errors.Join(broken...)
}

// maxDuration bounds each field of a policy: ten years.
const maxDuration = 10 * 365 * 24 * time.Hour
