package cli

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/cli/database"
)

type keysListCmd struct {
	JSON          bool     `help:"One JSON object a line."`
	Registered    []string `name:"keys-registered" placeholder:"NAME" env:"URBANDATA_KEYS_REGISTERED" help:"Count these verifiers, by the names that they send as Urbandata-Verifier, rather than all that were seen. (${env})"`
	authnDatabase `embed:""`
}

// Help is shown by --help.
func (*keysListCmd) Help() string {
	return `
Reads the stored ring; no sealing key is needed. A key is announced (published, not signing), signing, retiring (published, verifies what it signed), retired, or revoked. HELD BY counts the verifiers that have told that they hold a key: those that use pkg/verify and have a name.`
}

// listedKey is one line of the list.
type listedKey struct {
	KeyID      string     `json:"kid"`
	Algorithm  string     `json:"alg"`
	State      keys.State `json:"state"`
	Since      time.Time  `json:"since"`
	Next       keys.State `json:"next,omitempty"`
	NextAt     *time.Time `json:"next_at,omitempty"`
	LastSigned *time.Time `json:"last_signed,omitempty"` // at the latest; absent while it signs and before
	SealedBy   string     `json:"sealed_by,omitempty"`   // empty once the private half is erased
	Imported   bool       `json:"imported,omitempty"`
	HeldBy     []string   `json:"held_by"` // verifiers that have said so
	Missing    []string   `json:"missing"` // and those that haven't
	Reason     string     `json:"reason,omitempty"`
}

// Run prints the ring.
func (c *keysListCmd) Run(p *program) error {
	return c.ring(p, func(_ *database.SQL, store *keys.SQLStore) error {
		ring, err := store.Load(p.ctx)
		if err != nil {
			return err
		}
		sightings, err := store.Sightings(p.ctx)
		if err != nil {
			return err
		}
		registered := c.Registered
		if len(registered) == 0 {
			for _, s := range sightings {
				registered = append(registered, s.Verifier)
			}
		}
		table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
		if !c.JSON {
			fmt.Fprintln(table, "KID\tALG\tSTATE\tSINCE\tNEXT\tLAST SIGNED\tHELD BY\tSEALED BY")
		}
		for i := range ring.Keys {
			l := list(&ring.Keys[i], registered, sightings)
			if c.JSON {
				if err := json.NewEncoder(p.stdout).Encode(l); err != nil {
					return fmt.Errorf("write a key: %w", err)
				}
				continue
			}
			l.row(table)
		}
		if !c.JSON && len(ring.Keys) == 0 {
			fmt.Fprintln(table, "(none: authn makes them when it first starts)")
		}
		return table.Flush()
	})
}

func list(k *keys.Key, registered []string, sightings []keys.Sighting) listedKey {
	l := listedKey{
		KeyID: k.ID, Algorithm: string(k.Alg), State: k.State, Since: k.Since().UTC(),
		SealedBy: k.Sealed.By(), Imported: k.Imported, HeldBy: []string{}, Missing: []string{}, Reason: k.Reason,
	}
	if state, at, ok := k.Next(); ok {
		at = at.UTC()
		l.Next, l.NextAt = state, &at
	}
	ended := k.RetireAt.UTC()
	if k.State == keys.Revoked && k.RevokedAt.Before(ended) {
		ended = k.RevokedAt.UTC()
	}
	if k.State != keys.Announced && k.State != keys.Signing && k.ActivateAt.Before(ended) {
		l.LastSigned = &ended
	}
	if holding, missing := keys.Holding(k.ID, registered, sightings); k.Published() {
		l.HeldBy, l.Missing = append(l.HeldBy, holding...), append(l.Missing, missing...)
	}
	return l
}

func (l *listedKey) row(table *tabwriter.Writer) {
	next, last, held, sealedBy := "-", "-", "-", l.SealedBy
	if l.NextAt != nil {
		next = fmt.Sprintf("%s %s", l.Next, l.NextAt.Format(time.RFC3339))
	}
	switch {
	case l.State == keys.Signing:
		last = "now"
	case l.LastSigned != nil:
		last = l.LastSigned.Format(time.RFC3339)
	}
	if all := len(l.HeldBy) + len(l.Missing); all > 0 {
		held = fmt.Sprintf("%d of %d", len(l.HeldBy), all)
	}
	if sealedBy == "" {
		sealedBy = "(erased)"
	}
	fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.KeyID, l.Algorithm, l.State, l.Since.Format(time.RFC3339), next, last, held, sealedBy)
}
