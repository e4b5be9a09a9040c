//go:build unix

package main

import (
	"time"

	"github.com/urbandata/urbandata/keys"
)

// noise is what a busy machine is late by. It is no part of the policy's
// inequalities, and does not shrink with the scale.
const noise = 2 * time.Second

// scaled is the default policy with its times divided by scale, as far as
// whole seconds and a busy machine allow. The lead is the least that the policy
// allows and not the default, which is three times as long: what is on trial is
// the inequality.
func scaled(scale int) keys.Policy {
	p := keys.DefaultPolicy()
	down := func(d, least time.Duration) time.Duration {
		return max(least, d/time.Duration(scale)).Truncate(time.Millisecond)
	}
	p.JWKSMaxAge = (down(p.JWKSMaxAge, time.Second) + time.Second - 1).Truncate(time.Second)
	p.TokenLife = (down(p.TokenLife, 4*time.Second) + time.Second - 1).Truncate(time.Second)
	p.Leeway = down(p.Leeway, 0)
	p.Tick = down(p.Tick, 200*time.Millisecond)
	p.Skew = down(p.Skew, time.Second)
	p.ReplicaLag = down(p.ReplicaLag, 2*time.Second)
	p.VerifierSlack = down(p.VerifierSlack, 0)
	p.MaxHold = down(p.MaxHold, 5*time.Second)
	if scale == 1 {
		p.ReplicaLag = time.Minute // so that retention fits the 40 minutes
	}
	p.AnnounceLead = p.MinLead() + noise
	p.Retention = p.MinRetention() + noise
	p.RotationPeriod = p.AnnounceLead
	if scale > 1 {
		p.RotationPeriod += 4 * time.Second // a stand-by is ready for a while, as it is for weeks in production
	}
	return p
}

// clockOffset is how wrong the last replica's clock is: nearly the half of the
// skew up to which a replica may still change the ring.
func clockOffset(p keys.Policy) time.Duration { return p.Skew * 45 / 100 }

// bound is for how long after its revocation a stolen key may be taken: the
// fresh key that is announced then takes over after the lead, which flushes
// whoever looks again only for a kid that is new; what they fetch may be as old
// as a cache allows.
func bound(p keys.Policy) time.Duration {
	return p.AnnounceLead + p.VerifierSlack + p.JWKSMaxAge + 2*p.Tick + p.Skew + noise
}
