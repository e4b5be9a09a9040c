package doctor

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urbandata/urbandata/keys"
)

// Change is something that a [Watch] has seen happen.
type Change struct {
	At      time.Time `json:"at"`
	Level   Level     `json:"level"`
	KeyID   string    `json:"kid,omitempty"`
	Message string    `json:"message"`
	Who     []string  `json:"who,omitempty"` // verifiers that break, or that go on with a key
}

// Watch follows the key set through a rotation. What is in it at the first look
// is taken to be known to everybody. The zero Watch is ready.
type Watch struct {
	started bool
	keys    map[string]*watched
	unfit   bool // the set couldn't be had the last time
}

// watched is a key in the set.
type watched struct {
	alg     string
	since   time.Time // zero: from before the watch
	atRisk  []string  // who would break if it signed now, as last said
	signing bool
}

// wait is a verifier of the table, and how long it may be without a key.
type wait struct {
	library string
	lead    time.Duration
	never   string // why no lead is enough
}

// waits are how long after its publication a key is held, by verifier. behind
// says that a shared cache stands between.
func waits(maxAge time.Duration, behind bool) (out []wait) {
	for _, v := range keys.Verifiers() {
		lead, ok := v.Lead.At(maxAge)
		if behind {
			lead += maxAge
		}
		w := wait{library: v.Library, lead: lead, never: v.Unsafe}
		if !ok && w.never == "" {
			w.never = "it keeps the set that it has"
		}
		out = append(out, w)
	}
	slices.SortStableFunc(out, func(a, b wait) int { return cmp.Compare(a.lead, b.lead) })
	return out
}

// Observe takes the next look in and returns what has changed. signing is the
// kid of a token that was just made; empty if none is known.
func (w *Watch) Observe(r *Report, signing string) (changes []Change) {
	say := func(level Level, kid string, who []string, format string, args ...any) {
		changes = append(changes, Change{At: r.At, Level: level, KeyID: kid, Message: fmt.Sprintf(format, args...), Who: who})
	}
	if !r.Reached {
		if !w.unfit {
			say(Broken, "", nil, "the key set can't be had; when a key starts to sign now, whoever fetches at its first token refuses it")
		}
		w.unfit = true
		return changes
	}
	if w.unfit {
		say(OK, "", nil, "the key set is there again")
		w.unfit = false
	}
	behind := slices.ContainsFunc(r.Findings, func(f Finding) bool { return strings.HasPrefix(f.Message, "a shared cache") })
	present := map[string]bool{}
	for _, k := range r.Keys {
		if k.KeyID != "" {
			present[k.KeyID] = true
		}
	}
	if !w.started {
		w.started, w.keys = true, map[string]*watched{}
		for _, k := range r.Keys {
			w.keys[k.KeyID] = &watched{alg: k.Algorithm}
		}
		say(OK, "", nil, "watching %d keys, which are taken to be known to everybody; max-age is %v", len(w.keys), r.MaxAge)
	}
	for _, k := range r.Keys {
		if w.keys[k.KeyID] != nil || k.KeyID == "" {
			continue
		}
		w.keys[k.KeyID] = &watched{alg: k.Algorithm, since: r.At}
		say(Note, k.KeyID, nil, "a new %s key is published", k.Algorithm)
	}
	for _, kid := range slices.Sorted(maps.Keys(w.keys)) {
		if !present[kid] {
			delete(w.keys, kid)
			for _, g := range goneFrom(r.MaxAge) {
				until := "for ever, or until it meets a kid that is new to it"
				if g.bounded {
					until = "until " + r.At.Add(g.after).Format(time.RFC3339) + " at the latest"
				}
				say(Note, kid, g.who, "the key has left the set; it is still taken %s", until)
			}
			continue
		}
		w.follow(r, kid, kid == signing, behind, say)
	}
	return changes
}

// follow says who would break if a new key signed now, or who does.
func (w *Watch) follow(r *Report, kid string, signs, behind bool, say func(Level, string, []string, string, ...any)) {
	k := w.keys[kid]
	if k.since.IsZero() {
		if signs && !k.signing {
			k.signing = true
			say(OK, kid, nil, "the key signs, and was published before the watch began")
		}
		return
	}
	var atRisk []string
	var never []string
	var until time.Time
	for _, v := range waits(r.MaxAge, behind) {
		switch at := k.since.Add(v.lead); {
		case v.never != "":
			never = append(never, v.library)
		case at.After(r.At):
			atRisk = append(atRisk, v.library)
			until = at // the list is in this order
		}
	}
	started := signs && !k.signing
	k.signing = k.signing || signs
	if !started && k.atRisk != nil && slices.Equal(k.atRisk, atRisk) {
		return
	}
	first := k.atRisk == nil
	if k.atRisk = atRisk; atRisk == nil {
		k.atRisk = []string{}
	}
	switch {
	case k.signing && len(atRisk) > 0:
		say(Broken, kid, atRisk, "the key signs %v after it was published: tokens of it may be refused until %s", r.At.Sub(k.since).Round(time.Second), until.Format(time.RFC3339))
	case k.signing && started:
		say(OK, kid, nil, "the key signs, and everybody that a lead can help holds it")
	case len(atRisk) > 0:
		say(Note, kid, atRisk, "if the key signed now they could refuse its tokens; the last of them holds it from %s on", until.Format(time.RFC3339))
	default:
		say(OK, kid, nil, "everybody that a lead can help holds the key: it may sign")
	}
	if first && len(never) > 0 {
		say(Warning, kid, never, "no lead helps them: they may refuse a new key's tokens whenever it signs")
	}
}

// gone is a group of verifiers that go on with a removed key for as long.
type gone struct {
	after   time.Duration
	bounded bool
	who     []string
}

func goneFrom(maxAge time.Duration) (groups []gone) {
	for _, v := range keys.Verifiers() {
		after, bounded := v.Removed.At(maxAge)
		i := slices.IndexFunc(groups, func(g gone) bool { return g.after == after && g.bounded == bounded })
		if i < 0 {
			groups = append(groups, gone{after: after, bounded: bounded})
			i = len(groups) - 1
		}
		groups[i].who = append(groups[i].who, v.Library)
	}
	slices.SortFunc(groups, func(a, b gone) int {
		if a.bounded != b.bounded {
			if a.bounded {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.after, b.after)
	})
	return groups
}

// Text is the change for a person.
func (c *Change) Text(w io.Writer) {
	fmt.Fprintf(w, "%s %-8s %s", c.At.UTC().Format(time.RFC3339), strings.ToUpper(string(c.Level)), c.Message)
	if c.KeyID != "" {
		fmt.Fprintf(w, " (%s)", printable(c.KeyID))
	}
	fmt.Fprintln(w)
	if len(c.Who) > 0 {
		fmt.Fprintf(w, "%29s %s\n", "", strings.Join(c.Who, "; "))
	}
}

// KeyOf is the kid in a token's header, "" when there is none.
func KeyOf(text string) string {
	header, _, _ := takeApart(text)
	return header.KeyID
}
