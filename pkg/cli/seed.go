package cli

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/urbandata/urbandata/resourceserver"
)

type seedCmd struct {
	N     int    `arg:"" placeholder:"N" help:"How many inmuebles to make up."`
	Seed  uint64 `default:"1" placeholder:"NUMBER" help:"Another number makes others; the same number the same. (${default})"`
	Owner string `placeholder:"USER-ID" help:"The user (id, not address) who will own the inmuebles. Without one only an admin can change them."`

	catalogueFlag     `embed:""`
	inmueblesDatabase `embed:""`
}

// Help is shown by --help.
func (*seedCmd) Help() string {
	return `
For trying things out: properties in real places of Spain, with Spanish texts. The first N of one seed are always the same, so more can be added later, and a second time changes nothing. Codes that a catalogue lacks are changed into some that it has.`
}

// Run stores them.
func (c *seedCmd) Run(p *program) (err error) {
	url, err := c.url(p)
	if err != nil {
		return err
	}
	if c.N < 1 {
		return wrongSetting("N", "a number from 1 on is wanted")
	}
	catalogues, err := c.read()
	if err != nil {
		return err
	}
	store, closer, err := openInmuebles(p.ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closer()) }()
	l, err := seed(p.ctx, store, catalogues.Fit(resourceserver.Samples(c.Seed, c.N, c.Owner)))
	if err != nil {
		return fmt.Errorf("nothing was stored: %w", err)
	}
	fmt.Fprintf(p.stdout, "%d stored, %d were there already\n", l[resourceserver.Inserted], l[resourceserver.Skipped])
	return nil
}

// seed stores made-up inmuebles, but for those that are there.
func seed(ctx context.Context, store resourceserver.Store, rows iter.Seq2[resourceserver.Row, error]) (resourceserver.Loaded, error) {
	return store.Load(ctx, resourceserver.Batch{Rows: rows, OnDuplicate: resourceserver.SkipDuplicate})
}
