package keys

import (
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Plan is what [Step] will do to a ring up to a moment, when nobody asks for
// anything and nothing holds a rotation back. It drives Step itself, from due
// moment to due moment; keys that will be made by then have made-up ids, such
// as "(EdDSA 1)". The ring is that of the last moment, and the first events
// are those that are due already.
func Plan(now, until time.Time, ring Ring, policy Policy) (Ring, []Event) {
	made := map[jose.SignatureAlgorithm]int{}
	var events []Event
	for steps := 0; steps < maxPlanned; steps++ {
		var fresh []Key
		for _, alg := range Needs(now, ring, policy, Evidence{}) {
			made[alg]++
			fresh = append(fresh, Key{ID: fmt.Sprintf("(%s %d)", alg, made[alg]), Alg: alg, Sealed: Sealed{}})
		}
		next, more := Step(now, ring, fresh, policy, Evidence{})
		ring, events = next, append(events, more...)
		if len(fresh) > 0 {
			continue // a new ring takes two rounds
		}
		due, ok := Due(ring, policy)
		if !ok || due.After(until) {
			break
		}
		now = later(now.Add(time.Millisecond), due)
	}
	return ring, events
}

// maxPlanned bounds a plan: a policy that is sped up for a drill rotates every
// few seconds.
const maxPlanned = 10_000
