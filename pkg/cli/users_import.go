package cli

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/urbandata/urbandata/authserver"
)

type usersImportCmd struct {
	File          string `arg:"" help:"The file, or - for standard input."`
	Format        string `enum:"auto,django,csv" default:"auto" help:"django (what dumpdata writes), csv, or auto: by the file's name, .json or .csv."`
	Skip          bool   `help:"Import the users that will do and leave out the others, instead of importing none."`
	DryRun        bool   `name:"dry-run" help:"Check and report, and store nothing."`
	authnDatabase `embed:""`
}

// Help is shown by --help.
func (*usersImportCmd) Help() string {
	return `
django: ./manage.py dumpdata auth.user (or your own user model) > users.json. Objects with email and password are users; is_superuser becomes the role admin, all other permissions and groups are dropped, and an account that isn't active is disabled.

csv: a header and the columns email, password_hash, first_name, last_name, company, language (es, en), roles (with spaces between), created_at (2024-01-31T08:30:00Z), disabled (true, false). Only email is needed.

Passwords are read as Django stores them (pbkdf2_sha256, argon2, bcrypt_sha256, scrypt) or as urbandata does, and stored anew at the next login. Users without one that can be used choose one by a reset. All addresses count as verified.`
}

// Run imports and reports.
func (c *usersImportCmd) Run(p *program) (err error) {
	format := authserver.ImportFormat(c.Format)
	if c.Format == "auto" {
		switch {
		case strings.HasSuffix(c.File, ".json"):
			format = authserver.ImportDjango
		case strings.HasSuffix(c.File, ".csv"):
			format = authserver.ImportCSV
		default:
			return wrongSetting("--format", "the file's name doesn't say what is in it; set django or csv")
		}
	}
	file := p.stdin
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return wrongSetting("FILE", "it can't be read (%s)", reason(err))
		}
		defer func() { _ = f.Close() }() // only read
		file = f
	}
	return c.accounts(p, func(a *authserver.Accounts) error {
		report, err := a.Import(p.ctx, file, authserver.ImportOptions{Format: format, SkipBad: c.Skip, DryRun: c.DryRun})
		if err != nil && !errors.Is(err, authserver.ErrImport) {
			return fmt.Errorf("nothing was imported: %w", err)
		}
		for _, bad := range report.Bad {
			fmt.Fprintf(p.stderr, "%s: %s\n", bad.Where, bad.Reason)
		}
		for _, model := range slices.Sorted(maps.Keys(report.Other)) {
			fmt.Fprintf(p.stderr, "%d of %s: no users\n", report.Other[model], model)
		}
		if err != nil {
			return fmt.Errorf("nothing was imported: %d users won't do; mend them, or leave them out with --skip", len(report.Bad))
		}
		done := "imported"
		if c.DryRun {
			done = "would import"
		}
		_, err = fmt.Fprintf(p.stdout, "%s %d users (%d admin, %d disabled, %d without a usable password), skipped %d\n",
			done, report.Imported, report.Admins, report.Disabled, report.WithoutPassword, len(report.Bad))
		return err
	})
}
