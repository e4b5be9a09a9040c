package cli

import (
	"errors"
	"fmt"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/cli/database"
)

type migrateCmd struct {
	AuthDatabase string `placeholder:"URL" env:"URBANDATA_AUTH_DATABASE" help:"authn's database: sqlite:PATH or postgres://…. (${env})"`
	APIDatabase  string `name:"api-database" placeholder:"URL" env:"URBANDATA_API_DATABASE" help:"inmuebles' database: sqlite:PATH; MongoDB needs no migration. (${env})"`
	DataDir      string `default:"${datadir}" placeholder:"PATH" env:"URBANDATA_DATA_DIR" help:"Folder of the SQLite files that are migrated when neither URL is set. (${env}, ${default})"`
}

// Help is shown by --help.
func (*migrateCmd) Help() string {
	return `
The services do the same when they start, under the same lock. This command is for who wants it done before a roll-out.`
}

// Run migrates what the settings name.
func (c *migrateCmd) Run(p *program) error {
	authSetting := databaseSetting{"--auth-database", envAuthDatabase}
	apiSetting := databaseSetting{"--api-database", envAPIDatabase}
	authURL, err := p.optionalURL(authSetting, c.AuthDatabase, database.SQLite, database.Postgres)
	if err != nil {
		return err
	}
	apiURL, err := p.optionalURL(apiSetting, c.APIDatabase, database.SQLite, database.MongoDB)
	if err != nil {
		return err
	}
	if authURL == "" && apiURL == "" {
		if err := dataDir(c.DataDir); err != nil {
			return err
		}
		authURL, apiURL = authFile(c.DataDir), apiFile(c.DataDir)
	}
	if authURL != "" {
		if err := c.migrate(p, authSetting, "authn", authURL, migrations.AuthnSQLite, migrations.AuthnPostgres); err != nil {
			return err
		}
	}
	if kind, _ := database.KindOf(apiURL); kind == database.MongoDB { // checked above
		_, err := fmt.Fprintln(p.stdout, "inmuebles: MongoDB needs no migration")
		return err
	}
	if apiURL != "" {
		return c.migrate(p, apiSetting, "inmuebles", apiURL, migrations.InmueblesSQLite, migrations.Set{})
	}
	return nil
}

// optionalURL is databaseURL where nothing may be set.
func (p *program) optionalURL(from databaseSetting, value string, kinds ...database.Kind) (string, error) {
	if value == "" && p.getenv(from.env+"_FILE") == "" {
		return "", nil
	}
	return p.databaseURL(from, value, "", kinds...)
}

func (*migrateCmd) migrate(p *program, from databaseSetting, name, url string, sqlite, postgres migrations.Set) (err error) {
	db, err := openAuthn(p.ctx, from, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	set := sqlite
	if db.Kind == database.Postgres {
		set = postgres
	}
	applied, err := migrations.Up(p.ctx, db.Write.DB, set)
	if err != nil {
		return err
	}
	if len(applied) == 0 {
		_, err = fmt.Fprintf(p.stdout, "%s: up to date\n", name)
	} else {
		_, err = fmt.Fprintf(p.stdout, "%s: applied %v\n", name, applied)
	}
	return err
}
