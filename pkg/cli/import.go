package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urbandata/urbandata/resourceserver"
)

type importCmd struct {
	File  string `arg:"" placeholder:"FILE" help:"CSV file, or - for standard input."`
	Owner string `placeholder:"USER-ID" help:"The user (id, not address) who will own the inmuebles. Without one only an admin can change them."`

	inmueblesDatabase `embed:""`
}

// Help is shown by --help.
func (*importCmd) Help() string {
	return `
The first row names the columns: id_uda (becomes _id; one is made where it is empty), id (becomes other_id, letters and digits kept; a row without is skipped), coordinates "x,y" (or x_coord and y_coord), is_active, and the other fields by their names. Empty, null and none are null.

All rows are stored or none: a bad row, or an _id that is taken, is reported by line and column, and nothing is stored.`
}

// Run imports the file and prints the report.
func (c *importCmd) Run(p *program) (err error) {
	url, err := c.url(p)
	if err != nil {
		return err
	}
	in := p.stdin
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return wrongSetting("FILE", "%s can't be read (%s); name a CSV file, or - for standard input", c.File, reason(err))
		}
		defer func() { _ = f.Close() }() // only read
		in = f
	}
	store, closer, err := openInmuebles(p.ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closer()) }()
	report, err := resourceserver.Import(p.ctx, store, in, resourceserver.ImportOptions{Owner: c.Owner, Now: time.Now()})
	printReport(p.stdout, report)
	if err != nil {
		return fmt.Errorf("nothing was stored: %w", err)
	}
	return nil
}

func printReport(w io.Writer, r resourceserver.Report) {
	fmt.Fprintf(w, "%d rows read, %d stored, %d skipped (no id), %d given a new _id (no id_uda)\n", r.Rows, r.Stored, r.Skipped, r.MadeIDs)
	if len(r.UnknownColumns) > 0 {
		fmt.Fprintf(w, "columns not known and left out: %s\n", strings.Join(r.UnknownColumns, ", "))
	}
	for _, bad := range r.Bad {
		fmt.Fprintln(w, bad)
	}
	if r.MoreBad {
		fmt.Fprintln(w, "… and more")
	}
}
