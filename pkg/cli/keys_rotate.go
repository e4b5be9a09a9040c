package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/cli/database"
)

type keysRotateCmd struct {
	Alg           string        `placeholder:"ALG" help:"The algorithm whose next key is to take over; all of them if not set."`
	Emergency     bool          `help:"At once, whether every verifier holds the next key or not."`
	JWKSMaxAge    time.Duration `name:"keys-jwks-max-age" default:"5m" placeholder:"TIME" env:"URBANDATA_KEYS_JWKS_MAX_AGE" help:"The max-age that the key set is served with. (${env}, ${default})"`
	confirmation  `embed:""`
	authnDatabase `embed:""`
}

// Help is shown by --help.
func (*keysRotateCmd) Help() string {
	return `
Without --emergency the next key takes over as soon as every verifier that the policy covers holds it, which breaks nobody. No sealing key is needed.` + changeHelp
}

// Run rotates.
func (c *keysRotateCmd) Run(p *program) error {
	return c.ring(p, func(db *database.SQL, store *keys.SQLStore) error {
		ring, now, err := keys.LoadNow(p.ctx, store, p.clock)
		if err != nil {
			return err
		}
		standbys, err := c.standbys(ring)
		if err != nil {
			return err
		}
		// About the stand-bys of this moment: when one of them doesn't stand
		// by any more, its rotation has happened.
		edit := func(now time.Time, ring keys.Ring) (keys.Ring, []keys.Event, error) {
			var events []keys.Event
			for _, wanted := range standbys {
				next := ring.Standby(wanted.Alg)
				if next == nil || next.ID != wanted.ID {
					continue
				}
				changed, more, err := keys.Rotate(now, ring, wanted.Alg, c.Emergency)
				if err != nil {
					return ring, nil, err
				}
				ring, events = changed, append(events, more...)
			}
			return ring, events, nil
		}
		planned, events, err := edit(now, ring)
		if err != nil {
			return err
		}
		for _, k := range standbys {
			c.explain(p.stdout, now, ring, planned.Key(k.ID), k.ActivateAt)
		}
		if len(events) == 0 {
			_, err := fmt.Fprintln(p.stdout, "nothing to do")
			return err
		}
		if err := c.confirm(p); err != nil {
			return err
		}
		_, err = apply(p, db, store, edit)
		return err
	})
}

// standbys are the keys that are to take over.
func (c *keysRotateCmd) standbys(ring keys.Ring) ([]keys.Key, error) {
	var found []keys.Key
	for i := range ring.Keys {
		k := &ring.Keys[i]
		if next := ring.Standby(k.Alg); next != nil && next.ID == k.ID && (c.Alg == "" || c.Alg == string(k.Alg)) {
			found = append(found, *k)
		}
	}
	switch {
	case len(found) > 0:
		return found, nil
	case c.Alg != "":
		return nil, fmt.Errorf("%s has no key to rotate to; see \"urbandata keys list\"", c.Alg)
	}
	return nil, errors.New("there is no key to rotate to: authn makes one when it runs")
}

// explain says what a rotation does and whom it breaks.
func (c *keysRotateCmd) explain(out io.Writer, now time.Time, ring keys.Ring, next *keys.Key, planned time.Time) {
	if !next.ActivateAt.Before(planned) {
		fmt.Fprintf(out, "%s: %s takes over at %s as it is, which is no later\n", next.Alg, next.ID, stamp(planned))
		return
	}
	when := "at " + stamp(next.ActivateAt)
	if !next.ActivateAt.After(now) {
		when = "now"
	}
	fmt.Fprintf(out, "%s: %s takes over %s, in %s rather than at %s\n", next.Alg, next.ID, when, brief(max(0, next.ActivateAt.Sub(now))), stamp(planned))
	if current := ring.Signing(next.Alg); current != nil {
		fmt.Fprintf(out, "  %s stops signing then, and stays published for %s, as long as its tokens live\n", current.ID, brief(current.UnpublishAt.Sub(current.RetireAt)))
	}
	if !next.ActivateAt.Before(next.ReadyAt) || !now.Before(next.ReadyAt) {
		fmt.Fprintf(out, "  breaks nobody that the policy covers: all hold it from %s on\n", stamp(next.ReadyAt))
		return
	}
	fmt.Fprintf(out, "  it has been published for %s, so these may refuse its tokens; for how long at worst, with a cache between that keeps the key set for its max-age:\n", brief(now.Sub(next.AnnouncedAt)))
	table := tabwriter.NewWriter(out, 4, 0, 2, ' ', 0)
	for _, v := range keys.Verifiers() {
		lead, _ := v.Lead.At(c.JWKSMaxAge) // every lead has an end
		switch rest := lead + c.JWKSMaxAge - now.Sub(next.AnnouncedAt); {
		case v.Unsafe != "":
			fmt.Fprintf(table, "    no end\t%s\t%s: %s\n", v.Name, v.Library, v.Unsafe)
		case rest > 0:
			fmt.Fprintf(table, "    %s\t%s\t%s\n", brief(rest), v.Name, v.Library)
		}
	}
	_ = table.Flush() // as Fprintf: if it can't be written, there is nobody to tell
}

type keysRevokeCmd struct {
	KeyID         string `arg:"" name:"kid" help:"The key, as keys list shows it; after -- when it begins with a hyphen."`
	Reason        string `required:"" placeholder:"TEXT" help:"Why; it goes into the history."`
	confirmation  `embed:""`
	authnDatabase `embed:""`
	policyOf      `embed:""`
}

// Help is shown by --help.
func (*keysRevokeCmd) Help() string {
	return `
For a private half that has got out, or may have. The key leaves the key set at once and never comes back; the stand-by, which everybody holds, signs from then on; refresh tokens go on. A fresh key is announced as well and takes over after the lead, because many verifiers drop a key only when they meet one that they have never seen. It prints for how long each stock verifier goes on taking the revoked key. No sealing key is needed.

  urbandata keys revoke --reason "found in a backup" uCJr1Z7fVUCT2Rd-k8YxAsV8XFT1kj9TDVCB0vJjOR0` + changeHelp
}

// Run revokes the key.
func (c *keysRevokeCmd) Run(p *program) error {
	policy, err := c.policy()
	if err != nil {
		return err
	}
	if c.Reason = strings.TrimSpace(c.Reason); c.Reason == "" || len(c.Reason) > 500 {
		return wrongSetting("--reason", "it must be 1 to 500 bytes")
	}
	return c.ring(p, func(db *database.SQL, store *keys.SQLStore) error {
		edit := func(now time.Time, ring keys.Ring) (keys.Ring, []keys.Event, error) {
			return keys.Revoke(now, ring, c.KeyID, c.Reason)
		}
		preview, err := keys.Preview(p.ctx, store, p.clock, edit)
		switch {
		case errors.Is(err, keys.ErrNoKey):
			return fmt.Errorf("there is no key %q; see \"urbandata keys list\"", c.KeyID)
		case err != nil:
			return err
		case len(preview.Events) == 0:
			_, err := fmt.Fprintf(p.stdout, "nothing to do: %s is revoked since %s\n", c.KeyID, stamp(preview.Before.Key(c.KeyID).RevokedAt))
			return err
		}
		c.explain(p.stdout, preview, policy)
		if err := c.confirm(p); err != nil {
			return err
		}
		_, err = apply(p, db, store, edit)
		return err
	})
}

// explain says what becomes of the ring, and who goes on taking the key.
func (c *keysRevokeCmd) explain(out io.Writer, preview keys.Changed, policy keys.Policy) {
	key, now := preview.Before.Key(c.KeyID), preview.After.Key(c.KeyID).RevokedAt
	fmt.Fprintf(out, "%s (%s, %s since %s) is revoked now, for ever\n", key.ID, key.Alg, key.State, stamp(key.Since()))
	if !key.Published() {
		fmt.Fprintln(out, "  it isn't published any more, so no verifier that is up to date takes it: nothing else changes")
		return
	}
	next := preview.After.Standby(key.Alg)
	flush := now.Add(policy.AnnounceLead)
	switch {
	case key.State != keys.Signing:
		fmt.Fprintf(out, "  %s goes on signing until the next key has been announced long enough\n", signerName(preview.After.Signing(key.Alg)))
	case next == nil:
		fmt.Fprintln(out, "  there is no stand-by: authn makes a key that signs at once, and verifiers that don't fetch for an unknown key refuse its tokens for a while")
	case now.Before(next.ReadyAt):
		fmt.Fprintf(out, "  %s signs from now on; it is published since %s only, so a few verifiers may refuse its tokens until %s\n", next.ID, stamp(next.AnnouncedAt), stamp(next.ReadyAt))
	default:
		fmt.Fprintf(out, "  %s signs from now on; every verifier that the policy covers holds it since %s\n", next.ID, stamp(next.ReadyAt))
	}
	fmt.Fprintf(out, "  a fresh key is announced and signs from about %s on, which flushes verifiers that drop a key only for a new one\n", stamp(flush))
	if key.State == keys.Signing || key.State == keys.Retiring {
		fmt.Fprintln(out, "  good tokens of the key are refused as well; clients refresh and go on")
	}
	c.timeline(out, now, policy)
	fmt.Fprintf(out, "Sessions: refresh tokens aren't signed with this key, so none must end because of it. But whoever held the key could be anybody towards every service since %s. End the sessions and set the passwords of administrators and of accounts that were changed since: urbandata users set-password, urbandata users disable.\n", stamp(key.AnnouncedAt))
}

func signerName(k *keys.Key) string {
	if k == nil {
		return "whatever signs"
	}
	return k.ID
}

// contained is from when on a verifier refuses a key that has left the set.
type contained struct {
	verifier keys.Verifier
	after    time.Duration
	flushed  bool // by the fresh key
	never    bool
}

// containment computes it for each verifier: by its own refresh, or by the
// fresh key that takes over after the lead, whichever comes first.
func containment(list []keys.Verifier, maxAge, lead time.Duration) []contained {
	var out []contained
	for _, v := range list {
		c := contained{verifier: v}
		own, ends := v.Removed.At(maxAge)
		flushed, flushes := v.Flushed.At(maxAge)
		switch {
		case ends && (!flushes || own <= lead+flushed):
			c.after = own
		case flushes:
			c.after, c.flushed = lead+flushed, true
		default:
			c.never = true
		}
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b contained) int {
		if a.never != b.never {
			if a.never {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.after, b.after)
	})
	return out
}

// timeline prints who refuses the key from when on.
func (*keysRevokeCmd) timeline(out io.Writer, now time.Time, policy keys.Policy) {
	list := keys.Verifiers()
	if len(policy.Verifiers) > 0 {
		list = nil
		for _, name := range policy.Verifiers {
			if v, ok := keys.FindVerifier(name); ok && !slices.ContainsFunc(list, func(o keys.Verifier) bool { return o.Name == v.Name }) {
				list = append(list, v)
			}
		}
	}
	fmt.Fprintln(out, "Tokens made with the stolen key are refused")
	table := tabwriter.NewWriter(out, 4, 0, 2, ' ', 0)
	for _, c := range containment(list, policy.JWKSMaxAge, policy.AnnounceLead) {
		var when string
		switch {
		case c.never:
			when = "only when it is restarted\t"
		case c.after == 0:
			when = "at its next fetch\t"
		case c.flushed:
			when = fmt.Sprintf("%s, after the fresh key\t%s", brief(c.after), stamp(now.Add(c.after)))
		default:
			when = fmt.Sprintf("within %s\t%s", brief(c.after), stamp(now.Add(c.after)))
		}
		flushed, ok := c.verifier.Flushed.At(policy.JWKSMaxAge)
		note := ""
		if own, ends := c.verifier.Removed.At(policy.JWKSMaxAge); ok && (!ends || flushed < own) && !c.never {
			note = "at once when it meets a new kid"
			if flushed > 0 {
				note = brief(flushed) + " after it meets a new kid"
			}
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\t%s\n", c.verifier.Name, c.verifier.Library, when, note)
	}
	_ = table.Flush() // as Fprintf: if it can't be written, there is nobody to tell
	fmt.Fprintf(out, "  and up to %s later where a cache between holds the key set; restart what can't wait\n", brief(policy.JWKSMaxAge))
}
