package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/urbandata/urbandata/keys"
)

type keysCmd struct {
	List   keysListCmd   `cmd:"" help:"List the signing keys, their states and what comes next."`
	Doctor keysDoctorCmd `cmd:"" help:"Look at an issuer from outside, as a third party does, and say who suffers from what."`
}

type keysListCmd struct {
	JSON          bool `help:"One JSON object a line."`
	authnDatabase `embed:""`
}

// Help is shown by --help.
func (*keysListCmd) Help() string {
	return `
Reads the stored ring; no sealing key is needed. A key is announced (published, not signing), signing, retiring (published, verifies what it signed), retired, or revoked.`
}

// listedKey is one line of the list.
type listedKey struct {
	KeyID     string     `json:"kid"`
	Algorithm string     `json:"alg"`
	State     keys.State `json:"state"`
	Since     time.Time  `json:"since"`
	Next      keys.State `json:"next,omitempty"`
	NextAt    *time.Time `json:"next_at,omitempty"`
	SealedBy  string     `json:"sealed_by,omitempty"` // empty once the private half is erased
}

// Run prints the ring.
func (c *keysListCmd) Run(p *program) (err error) {
	db, err := c.open(p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	ring, err := keys.NewSQLStore(db.Write).Load(p.ctx)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	if !c.JSON {
		fmt.Fprintln(table, "KID\tALG\tSTATE\tSINCE\tNEXT\tSEALED BY")
	}
	for i := range ring.Keys {
		k := &ring.Keys[i]
		l := listedKey{KeyID: k.ID, Algorithm: string(k.Alg), State: k.State, Since: k.Since().UTC(), SealedBy: k.Sealed.By()}
		next := "-"
		if state, at, ok := k.Next(); ok {
			at = at.UTC()
			l.Next, l.NextAt = state, &at
			next = fmt.Sprintf("%s %s", state, at.Format(time.RFC3339))
		}
		if c.JSON {
			if err := json.NewEncoder(p.stdout).Encode(l); err != nil {
				return fmt.Errorf("write a key: %w", err)
			}
			continue
		}
		sealedBy := l.SealedBy
		if sealedBy == "" {
			sealedBy = "(erased)"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", l.KeyID, l.Algorithm, l.State, l.Since.Format(time.RFC3339), next, sealedBy)
	}
	if !c.JSON && len(ring.Keys) == 0 {
		fmt.Fprintln(table, "(none: authn makes them when it first starts)")
	}
	return table.Flush()
}
