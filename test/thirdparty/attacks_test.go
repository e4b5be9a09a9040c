//go:build verifiers

package thirdparty

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

// forgeries are the reasons for which pkg/verify refuses what somebody else
// made, or made for somebody else, or what is over.
var forgeries = []string{"signature", "key_unknown", "algorithm", "audience", "issuer", "expired"}

// forgiven is what a library takes although pkg/verify calls it a forgery. In
// each the issuer's key has signed all that counts.
var forgiven = map[string][]string{
	"jwx": {
		"spliced: another header",  // it verifies the header as it would write it: white space doesn't count
		"exp: zero", "exp: 1e-400", // it takes 0 for none
	},
	"go-oidc": {"iss: named Iss"},                 // encoding/json reads names in any case
	"Nimbus":  {"RS256: DigestInfo without NULL"}, // Java reads the older encoding too
}

// TestAttacks asks the programs about the corpus of pkg/verify: none takes a
// forgery. What the issuer's own key has signed, and is only odd, such as a
// claim that is there twice, each takes or not by its own lights.
func TestAttacks(t *testing.T) {
	issuer := verifytest.NewIssuer(t, verify.Algorithms()...)
	attacker := verifytest.NewAttacker(t, issuer)
	attacks := verifytest.LoadAttacks(t, filepath.Join(root, "pkg", "verify", "testdata", "attacks.json"))
	for _, v := range verifiers() {
		t.Run(v.name, func(t *testing.T) {
			ready := ""
			if v.toolchain.build != nil {
				ready = v.toolchain.install(t)
			}
			p := start(t, v.name, []string{"ISSUER=" + issuer.URL, "AUDIENCE=" + verifytest.Audience}, v.command(t, ready)...)
			asked, odd := 0, 0
			for _, attack := range attacks {
				token := attacker.Token(attack)
				if len(token) > 32<<10 || strings.ContainsFunc(token, func(r rune) bool { return r < ' ' || r > '~' }) {
					continue // it isn't one line
				}
				asked++
				good, answer := p.ask(token)
				switch {
				case attack.Name == "control: good, RS256":
					// Spring's validator wants client_id and jti, which the corpus hasn't.
					if !good && v.name != "Spring Security" {
						t.Errorf("it refuses a good token: %s", answer)
					}
				case !good || attack.Want == "ok":
				case !slices.Contains(forgeries, attack.Want):
					odd++
				case !slices.Contains(forgiven[v.name], attack.Name):
					t.Errorf("it takes %q", attack.Name)
				}
			}
			t.Logf("of %d it takes no forgery, and %d that are odd and the issuer's", asked, odd)
		})
	}
}
