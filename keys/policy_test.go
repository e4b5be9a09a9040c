package keys_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/keys"
)

func TestPolicyValidate(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*keys.Policy)
		want   error
		says   string // the rule or number that the error must name
	}{
		{name: "default", change: func(*keys.Policy) {}},
		{name: "every algorithm", change: func(p *keys.Policy) {
			p.Algorithms = []jose.SignatureAlgorithm{jose.EdDSA, jose.RS256, jose.ES256, jose.PS256}
		}},
		{name: "least lead", change: func(p *keys.Policy) { p.AnnounceLead = 2720 * time.Second }},
		{
			name:   "lead a millisecond short",
			change: func(p *keys.Policy) { p.AnnounceLead = 2720*time.Second - time.Millisecond },
			want:   keys.ErrPolicy, says: "raise AnnounceLead to 45m20s",
		},
		{
			name:   "max-age above half the slack",
			change: func(p *keys.Policy) { p.JWKSMaxAge = time.Hour },
			want:   keys.ErrPolicy, says: "max(15m0s, 1h0m0s) + 15m0s + 1h0m0s + 10s + 10m0s + 10s = 2h25m20s",
		},
		{name: "least retention", change: func(p *keys.Policy) { p.Retention = 990 * time.Second }},
		{
			name:   "retention a millisecond short",
			change: func(p *keys.Policy) { p.Retention = 990*time.Second - time.Millisecond },
			want:   keys.ErrPolicy, says: "Retention ≥ TokenLife + Leeway + Tick + ReplicaLag + 2·Skew",
		},
		{
			name:   "token outlives retention",
			change: func(p *keys.Policy) { p.TokenLife = time.Hour },
			want:   keys.ErrPolicy, says: "raise Retention to",
		},
		{
			name:   "period below lead",
			change: func(p *keys.Policy) { p.RotationPeriod = time.Hour },
			want:   keys.ErrPolicy, says: "RotationPeriod ≥ AnnounceLead is broken: 1h0m0s < 2h0m0s",
		},
		{name: "no algorithm", change: func(p *keys.Policy) { p.Algorithms = nil }, want: keys.ErrPolicy, says: "Algorithms is empty"},
		{
			name:   "shared secret",
			change: func(p *keys.Policy) { p.Algorithms = []jose.SignatureAlgorithm{jose.HS256} },
			want:   keys.ErrPolicy, says: `"HS256"`,
		},
		{
			name:   "algorithm twice",
			change: func(p *keys.Policy) { p.Algorithms = []jose.SignatureAlgorithm{jose.EdDSA, jose.EdDSA} },
			want:   keys.ErrPolicy, says: "twice",
		},
		{name: "weak RSA", change: func(p *keys.Policy) { p.RSABits = 1024 }, want: keys.ErrPolicy, says: "RSABits is 1024"},
		{name: "negative skew", change: func(p *keys.Policy) { p.Skew = -1 }, want: keys.ErrPolicy, says: "Skew"},
		{name: "no tick", change: func(p *keys.Policy) { p.Tick = 0 }, want: keys.ErrPolicy, says: "Tick is 0s"},
		{name: "sum would overflow", change: func(p *keys.Policy) { p.VerifierSlack = 1 << 62 }, want: keys.ErrPolicy, says: "VerifierSlack"},
		{
			name:   "max-age with a fraction",
			change: func(p *keys.Policy) { p.JWKSMaxAge = 1500 * time.Millisecond },
			want:   keys.ErrPolicy, says: "whole seconds",
		},
		{name: "named verifiers, the least lead of the slowest", change: func(p *keys.Policy) {
			p.Verifiers, p.AnnounceLead = []string{"jose", "rauth", "spring"}, (600+300+610+10)*time.Second
		}},
		{
			name: "named verifiers, a millisecond short", change: func(p *keys.Policy) {
				p.Verifiers, p.AnnounceLead = []string{"jose", "rauth"}, (600+300+610+10)*time.Second-time.Millisecond
			},
			want: keys.ErrPolicy, says: "the lead of rauth + JWKSMaxAge + Tick + ReplicaLag + Skew",
		},
		{name: "named verifiers that fetch at once still have pkg/verify beside them", change: func(p *keys.Policy) {
			p.Verifiers, p.AnnounceLead = []string{"OIDC"}, (300+300+610+10)*time.Second
		}},
		{
			name: "pkg/verify, a millisecond short", change: func(p *keys.Policy) {
				p.Verifiers, p.AnnounceLead = []string{"oidc"}, (300+300+610+10)*time.Second-time.Millisecond
			},
			want: keys.ErrPolicy, says: "the lead of urbandata",
		},
		{name: "named verifiers make the slack idle", change: func(p *keys.Policy) {
			p.Verifiers, p.VerifierSlack = []string{"jose"}, 48*time.Hour
		}},
		{name: "a verifier that no lead can save", change: func(p *keys.Policy) { p.Verifiers = []string{"auth0"} }},
		{name: "an unknown verifier", change: func(p *keys.Policy) { p.Verifiers = []string{"jose", "josé"} }, want: keys.ErrPolicy, says: `"josé"`},
		{
			name: "evidence without verifiers", change: func(p *keys.Policy) { p.Activate = keys.OnEvidence },
			want: keys.ErrPolicy, says: "Registered is empty",
		},
		{name: "evidence", change: func(p *keys.Policy) {
			p.Activate, p.Registered = keys.OnEvidence, []string{"inmuebles-1", "inmuebles-2"}
		}},
		{name: "a registered name with a space", change: func(p *keys.Policy) { p.Registered = []string{"a b"} }, want: keys.ErrPolicy, says: `"a b"`},
		{name: "a registered name twice", change: func(p *keys.Policy) { p.Registered = []string{"a", "a"} }, want: keys.ErrPolicy, says: "twice"},
		{name: "another activation", change: func(p *keys.Policy) { p.Activate = "at once" }, want: keys.ErrPolicy, says: "schedule or evidence"},
		{name: "held back for a negative time", change: func(p *keys.Policy) { p.MaxHold = -1 }, want: keys.ErrPolicy, says: "MaxHold"},
		{name: "zero policy", change: func(p *keys.Policy) { *p = keys.Policy{} }, want: keys.ErrPolicy, says: "RSABits"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := keys.DefaultPolicy()
			tc.change(&p)
			err := p.Validate()
			if !errors.Is(err, tc.want) {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
			if err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %q doesn't say %q", err, tc.says)
			}
		})
	}
}

func TestPolicyNamesEveryBrokenRule(t *testing.T) {
	p := keys.DefaultPolicy()
	p.AnnounceLead, p.Retention = time.Minute, time.Minute
	err := p.Validate()
	for _, field := range []string{"AnnounceLead", "Retention"} {
		if err == nil || !strings.Contains(err.Error(), "raise "+field) {
			t.Errorf("error %q doesn't name %s", err, field)
		}
	}
}
