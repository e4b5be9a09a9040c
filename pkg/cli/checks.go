package cli

import (
	"errors"
	"fmt"

	"github.com/urbandata/urbandata/resourceserver"
)

type inmueblesCmd struct {
	Checks checksCmd `cmd:"" help:"See or set whether the database itself refuses documents that are no valid inmueble."`
}

type checksCmd struct {
	Do string `arg:"" default:"show" enum:"show,off,warn,error" help:"What the database is to do with such a document: off, warn or error. Without it, or with show, see how it stands."`

	inmueblesDatabase `embed:""`
}

// Help is shown by --help.
func (*checksCmd) Help() string {
	return `
The servers check whatever they write. This is for other programs that write into their database: a validator of the collection with MongoDB, triggers with SQLite, that let in exactly what the servers can read. warn notes others and lets them in (MongoDB in its log, SQLite counts them here), error refuses them. What is stored stays, and a document that isn't valid may be changed. Catalogues are not looked at.

With MongoDB the user needs the role dbAdmin. Set it again after an update of urbandata, if this command then says so.

Exit codes: 0 every document is valid, 1 failed, 2 a wrong setting, 3 some documents are not valid, or the checks are another release's.`
}

// exitChecks is for a database in which not all is well.
const exitChecks = 3

// Run sets the checks, if it is to, and tells how they stand.
func (c *checksCmd) Run(p *program) (err error) {
	url, err := c.url(p)
	if err != nil {
		return err
	}
	store, closer, err := openInmuebles(p.ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closer()) }()
	if c.Do != "show" {
		if err := store.SetChecks(p.ctx, resourceserver.Checks(c.Do)); errors.Is(err, resourceserver.ErrChecks) {
			return wrongSetting("--database (URBANDATA_API_DATABASE)", "its user may not change the collection's validator; give it the role dbAdmin, or name another user")
		} else if err != nil {
			return err
		}
	}
	is, err := store.CheckStatus(p.ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "the database's checks: %s\n", is.Checks)
	if is.Other {
		fmt.Fprintf(p.stdout, "they are another release's: set them again (urbandata inmuebles checks %s)\n", is.Checks)
	}
	fmt.Fprintf(p.stdout, "documents that are no valid inmueble: %d\n", is.Invalid)
	if is.Checks == resourceserver.ChecksWarn && is.Found > 0 {
		fmt.Fprintf(p.stdout, "of them written since it warns: %d\n", is.Found)
	}
	if is.Other || is.Invalid > 0 {
		return &verdictError{exitChecks}
	}
	return nil
}
