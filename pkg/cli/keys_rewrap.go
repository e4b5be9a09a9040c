package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/cli/database"
)

// sealing is the setting of commands that must open or seal a private half.
type sealing struct {
	SealingKeyFile string `placeholder:"PATH" env:"URBANDATA_SEALING_KEY_FILE" help:"File with the sealing keys, as authn has it; or set URBANDATA_SEALING_KEY, or URBANDATA_SEALING_PASSPHRASE (or _FILE). (${env}, else DATA-DIR/sealing.key)"`
}

// sealer reads the sealing key. Where nothing is set, the data folder of `up`
// has one.
func (s *sealing) sealer(p *program, d *authnDatabase) (keys.Sealer, error) {
	path := s.SealingKeyFile
	if path == "" && p.getenv(envSealingKey) == "" && p.getenv(envSealingPassphrase) == "" && p.getenv(envSealingPassphrase+"_FILE") == "" && d.Database == "" {
		if own := filepath.Join(d.DataDir, "sealing.key"); exists(own) {
			path = own
		}
	}
	return p.sealer(path)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// opened says in one sentence that the sealing key isn't the right one.
func opened(err error) error {
	if errors.Is(err, keys.ErrSealed) {
		return wrongSetting("--sealing-key-file (URBANDATA_SEALING_KEY_FILE)",
			"it is not the key that the signing keys were sealed with (%s); give that one, too", err)
	}
	return err
}

type keysRewrapCmd struct {
	confirmation  `embed:""`
	sealing       `embed:""`
	authnDatabase `embed:""`
}

// Help is shown by --help.
func (*keysRewrapCmd) Help() string {
	return `
Seals every private half with the first line of the sealing-key file. It must hold the old keys too, and so must every replica of authn hold the new one before: put it into the file as a second line, restart them one by one, swap the two lines, run this, and take the old line out.` + changeHelp
}

// maxRewraps bounds how often replicas may have sealed with the old key
// meanwhile.
const maxRewraps = 10

// Run moves all rows, those too that replicas add meanwhile.
func (c *keysRewrapCmd) Run(p *program) error {
	sealer, err := c.sealer(p, &c.authnDatabase)
	if err != nil {
		return err
	}
	return c.ring(p, func(db *database.SQL, store *keys.SQLStore) error {
		for round := range maxRewraps {
			ring, err := store.Load(p.ctx)
			if err != nil {
				return err
			}
			resealed, err := keys.Reseal(p.ctx, sealer, ring)
			if err != nil {
				return opened(err)
			}
			if len(resealed) == 0 {
				_, err := fmt.Fprintf(p.stdout, "every private half is sealed by %s\n", sealer.ID())
				return err
			}
			for i := range ring.Keys {
				if r, ok := resealed[ring.Keys[i].ID]; ok {
					fmt.Fprintf(p.stdout, "%s: sealed by %s, to be sealed by %s\n", ring.Keys[i].ID, r.Old.By(), r.New.By())
				}
			}
			if round == 0 {
				fmt.Fprintf(p.stdout, "breaks nobody, as long as every replica of authn holds %s already: one that doesn't can't follow, and stops signing after 10 minutes\n", sealer.ID())
				if err := c.confirm(p); err != nil {
					return err
				}
			}
			if _, err := apply(p, db, store, func(now time.Time, ring keys.Ring) (keys.Ring, []keys.Event, error) {
				return keys.Rewrap(now, ring, resealed)
			}); err != nil {
				return err
			}
		}
		return fmt.Errorf("replicas have gone on sealing with another key for %d rounds; give all of them the new one as the first line", maxRewraps)
	})
}
