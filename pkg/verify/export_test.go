package verify

import (
	"time"

	"github.com/urbandata/urbandata/pkg/token"
)

// Hold puts entries into a verifier's table, as if its issuer had sent them.
func Hold(v *Verifier, entries ...token.Revocation) {
	var ends []end
	for _, r := range entries {
		for kind, value := range []string{bySession: r.Session, bySubject: r.Subject, byClient: r.ClientID, byID: r.ID} {
			if value != "" {
				ends = append(ends, end{kind, value, ending{r.Expiry, r.Before}})
			}
		}
	}
	v.issuers[0].ends.ends.add(ends, time.Now())
}
