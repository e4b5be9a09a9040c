package model

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/keys"
)

// tight is a policy with no tick to spare, and period more than the lead.
// Every term of its inequalities is a tick, but for the change.
func tight(period int, change ...func(*keys.Policy)) keys.Policy {
	p := keys.Policy{
		Algorithms: []jose.SignatureAlgorithm{jose.EdDSA}, RSABits: 2048,
		JWKSMaxAge: unit, TokenLife: unit, Leeway: unit, Tick: unit, Skew: unit, ReplicaLag: unit,
		VerifierSlack: 2 * unit, Activate: keys.OnSchedule, MaxHold: 2 * unit,
	}
	for _, c := range change {
		c(&p)
	}
	p.AnnounceLead, p.Retention = p.MinLead(), p.MinRetention()
	p.RotationPeriod = p.AnnounceLead + time.Duration(period)*unit
	if err := p.Validate(); err != nil {
		panic(err)
	}
	return p
}

func noLag(p *keys.Policy) { p.ReplicaLag = 0 }

func both(p keys.Policy) keys.Policy {
	p.Algorithms = []jose.SignatureAlgorithm{jose.EdDSA, jose.RS256}
	return p
}

var ahead = [2]int{0, 1}

// worlds are those that are walked through; -short leaves out the long ones.
var worlds = []struct {
	world
	long bool
}{
	{world{name: "one replica, every request of an operator", policy: tight(0), replicas: 1, atomic: true, rotates: 1, urgent: 1, revokes: 1, probes: true}, false},
	{world{name: "two replicas, rotations asked for", policy: tight(2), replicas: 2, offset: ahead, atomic: true, rotates: 1}, false},
	{world{name: "a rotation asked for, crashes, a JWKS out of reach", policy: tight(1), replicas: 2, offset: ahead, atomic: true, crashes: true, rotates: 1, probes: true}, true},
	{world{name: "an emergency, at any moment", policy: tight(0), replicas: 2, offset: ahead, atomic: true, urgent: 1}, false},
	{world{name: "any key revoked, at any moment", policy: tight(0), replicas: 2, offset: ahead, atomic: true, revokes: 1}, true},
	{world{name: "load and swap apart, swaps lost", policy: tight(0, noLag), replicas: 2, offset: ahead}, true},
	{world{name: "load and swap apart, one clock, crashes", policy: tight(0, noLag), replicas: 2, crashes: true}, false},
	{world{name: "an algorithm comes", policy: both(tight(0, noLag)), dropped: tight(0, noLag), deploys: true, replicas: 2, atomic: true}, true},
	{world{name: "an algorithm goes", policy: tight(0, noLag), dropped: both(tight(0, noLag)), deploys: true, replicas: 2, atomic: true}, true},
}

// kinds are the kinds of verifier, their times scaled down: the slack is two
// ticks where it is 1800 s, max-age one where it is 300 s.
var kinds = []kind{
	{name: "jwx2", stands: "a fixed life or max-age, looked at late, no fetch for a kid", life: 1, late: 1},
	{name: "jwx3", stands: "a fixed life or max-age, no fetch for a kid (jwx3, and pkg/verify with its budget used up)", life: 1},
	{name: "jose", stands: "a fixed life, a fetch for a kid after a cooldown (jose, pyjwt, nimb, kfun)", life: 3, atUse: true, refetch: true, cooldown: 1},
	{name: "rauth", stands: "for ever, a fetch for a kid after a long cooldown (rauth, rb3, php)", forEver: true, refetch: true, cooldown: 2},
	{name: "oidc", stands: "for ever, a fetch for each kid (oidc, authl, rjwt, rb2; spr, jose4j, rjwks too)", forEver: true, refetch: true},
	{name: "jrsa", stands: "each kid by itself, a fetch for each", perKid: true, refetch: true},
}

// uncovered are the kinds that no lead can save, as docs/verify.md says.
var uncovered = []kind{
	{name: "auth0", stands: "each kid by itself, from a budget that made-up kids use up", perKid: true, refetch: true, bucket: true},
	{name: "a9068", stands: "for ever, never a fetch", forEver: true},
}

// brief leaves the long worlds out, as -short does.
var brief bool

var total struct{ states, transitions, killed, mutants int }

// The last line is for whoever looks for it, whatever else was printed.
func TestMain(m *testing.M) {
	code := m.Run()
	if total.states > 0 {
		fmt.Printf("model: states=%d transitions=%d mutants=%d/%d\n", total.states, total.transitions, total.killed, total.mutants)
	}
	os.Exit(code)
}

func TestModel(t *testing.T) {
	for _, w := range worlds {
		if w.long && (brief || testing.Short()) {
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			start := time.Now()
			g, wrong := explore(newMachine(w.world, mutant{}), 0)
			if wrong != nil {
				t.Fatal(wrong)
			}
			total.states += len(g.nodes)
			total.transitions += len(g.edges)
			watched := 0
			for _, k := range kinds {
				p := watch(g, k)
				watched += len(p.states)
				total.states += len(p.states)
				total.transitions += p.transitions
				if p.wrong != nil {
					t.Errorf("%s: %s", k.stands, p.wrong)
				}
			}
			t.Logf("%d states of the issuer, %d with each kind of verifier beside it, %.1f s", len(g.nodes), watched, time.Since(start).Seconds())
			if len(g.nodes) < 1000 {
				t.Errorf("only %d states: the world doesn't move", len(g.nodes))
			}
		})
	}
}

// find looks for a counterexample to a mutant.
func find(m mutant) *counterexample {
	w := world{name: m.name, policy: tight(2), replicas: 2, offset: ahead, atomic: true, rotates: 1}
	g, wrong := explore(newMachine(w, m), 30_000)
	for i := 0; wrong == nil && i < len(kinds); i++ {
		wrong = watch(g, kinds[i]).wrong
	}
	return wrong
}

func TestMutants(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			total.mutants++
			wrong := find(m.mutant)
			switch {
			case wrong == nil:
				t.Error("it lives")
			case !strings.Contains(wrong.what, m.want):
				t.Errorf("it was found by another rule: %s", wrong)
			default:
				total.killed++
				t.Logf("%s, in %d steps", wrong.what, len(wrong.trace))
			}
		})
	}
}

// A counterexample can be read.
func TestCounterexample(t *testing.T) {
	i := slices.IndexFunc(mutants, func(m struct {
		mutant
		want string
	},
	) bool {
		return strings.Contains(m.name, "dex")
	})
	wrong := find(mutants[i].mutant)
	if wrong == nil {
		t.Fatal("it lives")
	}
	t.Logf("%s:\n%s", mutants[i].name, wrong)
	if n := len(wrong.trace); n < 3 || !strings.Contains(wrong.trace[n-1], "meets a token") {
		t.Error("the trace doesn't end with the token that is refused")
	}
}

// The verifiers of which docs/verify.md says that no lead helps are broken by
// a rotation in the model too: it isn't blind.
func TestUncoveredVerifiers(t *testing.T) {
	w := worlds[1].world
	g, wrong := explore(newMachine(w, mutant{}), 0)
	if wrong != nil {
		t.Fatal(wrong)
	}
	for _, k := range uncovered {
		v, ok := keys.FindVerifier(k.name)
		if !ok || v.Unsafe == "" {
			t.Errorf("the table of keys doesn't say that %s is unsafe", k.name)
		}
		if p := watch(g, k); p.wrong == nil {
			t.Errorf("%s lives through rotations: docs/verify.md says that it can't", k.name)
		}
	}
}

// Every verifier of the table that can be kept safe is of a kind above, scaled
// down: none may need more than the slack stands for.
func TestKindsCoverTheTable(t *testing.T) {
	p := keys.DefaultPolicy()
	for _, v := range keys.Verifiers() {
		if v.Unsafe != "" {
			continue
		}
		if d, ok := v.Lead.At(p.JWKSMaxAge); !ok || d > max(p.VerifierSlack/2, p.JWKSMaxAge)+p.VerifierSlack/2 {
			t.Errorf("%s needs %v, more than the slack of the policy", v.Name, d)
		}
	}
}
