package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/urbandata/urbandata/authserver"
	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/pkg/token"
)

type usersCmd struct {
	Create      usersCreateCmd      `cmd:"" help:"Create a user, with any role."`
	List        usersListCmd        `cmd:"" help:"List users."`
	SetRoles    usersSetRolesCmd    `cmd:"" help:"Give a user other roles in place of those that the user has."`
	SetPassword usersSetPasswordCmd `cmd:"" help:"Give a user another password, enable the account and end its sessions."`
	Disable     usersDisableCmd     `cmd:"" help:"Keep a user from logging in and end the sessions."`
	Enable      usersEnableCmd      `cmd:"" help:"Let a user that is disabled or deleted log in again."`
	Delete      usersDeleteCmd      `cmd:"" help:"Disable a user, to be erased after the grace period, and end the sessions."`
	RemoveTOTP  usersRemoveTOTPCmd  `cmd:"" name:"remove-totp" help:"Turn a user's second factor off, for who has lost the device and the recovery codes."`
	Import      usersImportCmd      `cmd:"" help:"Bring users along with their passwords, from Django or CSV: all or none."`
}

// authnDatabase is the setting of commands that work on authn's database,
// whether its server runs or not.
type authnDatabase struct {
	Database string `placeholder:"URL" env:"URBANDATA_AUTH_DATABASE" help:"sqlite:PATH or postgres://…; with a password only from ${env} or ${env}_FILE. (sqlite:DATA-DIR/authn.db)"`
	DataDir  string `default:"${datadir}" placeholder:"PATH" env:"URBANDATA_DATA_DIR" help:"Folder of the SQLite file when no database is named. (${env}, ${default})"`
}

func (d *authnDatabase) url(p *program) (string, error) {
	return p.databaseURL(authSetting, d.Database, authFile(d.DataDir), database.SQLite, database.Postgres)
}

func (d *authnDatabase) open(p *program) (*database.SQL, error) {
	url, err := d.url(p)
	if err != nil {
		return nil, err
	}
	db, err := openAuthn(p.ctx, authSetting, url)
	if err != nil {
		return nil, err
	}
	if _, err := migrations.Up(p.ctx, db.Write.DB, authnSet(db)); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// accounts calls f with the accounts of the database.
func (d *authnDatabase) accounts(p *program, f func(*authserver.Accounts) error) error {
	return d.accountsWith(p, authserver.AccountsOptions{}, f)
}

func (d *authnDatabase) accountsWith(p *program, o authserver.AccountsOptions, f func(*authserver.Accounts) error) (err error) {
	db, err := d.open(p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	store, err := authserver.NewStore(p.ctx, db.Write, db.Read)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	p.operate()
	err = f(authserver.NewAccounts(store, o))
	var field *authserver.FieldError
	switch {
	case errors.Is(err, authserver.ErrNoUser):
		return errors.New("there is no user with this address")
	case errors.Is(err, authserver.ErrEmailTaken):
		return errors.New("a user with this address exists")
	case errors.As(err, &field):
		return fmt.Errorf("%w", err)
	}
	return err
}

const passwordHelp = `
The password is asked for on the terminal, or read from standard input, URBANDATA_PASSWORD, or the file that URBANDATA_PASSWORD_FILE names. It is never an argument: those can be read by every user of the machine.`

// password gets a new password from the environment, the terminal or standard
// input.
func (p *program) password() (string, error) {
	if value, err := p.secret(envPassword); err != nil || value != "" {
		return value, err
	}
	f, ok := p.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		line, err := bufio.NewReader(io.LimitReader(p.stdin, 4096)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read the password: %w", err)
		}
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			return "", wrongSetting(envPassword, "there is no password on standard input either; write one there, or set %s_FILE", envPassword)
		}
		return line, nil
	}
	var typed [2]string
	for i, prompt := range []string{"Password: ", "Again: "} {
		fmt.Fprint(p.stderr, prompt)
		raw, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(p.stderr)
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		typed[i] = string(raw)
	}
	if typed[0] != typed[1] {
		return "", errors.New("the two passwords differ")
	}
	return typed[0], nil
}

type usersCreateCmd struct {
	Email         string   `arg:"" help:"The user's e-mail address."`
	Role          []string `default:"user" enum:"viewer,user,editor,admin" help:"viewer (read), user (and write one's own), editor (and anyone's), admin. Repeatable."`
	FirstName     string   `help:"First name."`
	LastName      string   `help:"Last name."`
	Company       string   `help:"Company."`
	authnDatabase `embed:""`
}

// Help is shown by --help.
func (*usersCreateCmd) Help() string { return passwordHelp }

// Run creates the user and prints its id.
func (c *usersCreateCmd) Run(p *program) error {
	password, err := p.password()
	if err != nil {
		return err
	}
	roles := make([]token.Role, len(c.Role))
	for i, r := range c.Role {
		roles[i] = token.Role(r)
	}
	return c.accounts(p, func(a *authserver.Accounts) error {
		u, err := a.Create(p.ctx, authserver.NewUser{
			Email: c.Email, Password: password, FirstName: c.FirstName, LastName: c.LastName, Company: c.Company, Roles: roles,
		})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(p.stdout, u.ID)
		return err
	})
}

type usersListCmd struct {
	JSON          bool `help:"One JSON object a line."`
	authnDatabase `embed:""`
}

// Run prints every user, a page at a time.
func (c *usersListCmd) Run(p *program) error {
	rows := listing[authserver.User]{
		header: "ID\tE-MAIL\tROLES\tCREATED\tSTATE",
		row: func(u authserver.User) string {
			state := "enabled"
			if u.Disabled {
				state = "disabled"
			}
			if u.EraseAt != nil {
				state = "erased " + u.EraseAt.Format(time.DateOnly)
			}
			return fmt.Sprintf("%s\t%s\t%s\t%s\t%s", u.ID, u.Email, strings.Trim(fmt.Sprint(u.Roles), "[]"), u.CreatedAt.Format(time.DateOnly), state)
		},
		key: func(u authserver.User) string { return u.Email },
	}
	return c.accounts(p, func(a *authserver.Accounts) error {
		return rows.print(p, c.JSON, func(after string, limit int) ([]authserver.User, error) {
			return a.List(p.ctx, after, limit)
		})
	})
}

type usersSetPasswordCmd struct {
	Email         string `arg:"" help:"The user's e-mail address."`
	authnDatabase `embed:""`
}

// Help is shown by --help.
func (*usersSetPasswordCmd) Help() string { return passwordHelp }

// Run sets the password.
func (c *usersSetPasswordCmd) Run(p *program) error {
	password, err := p.password()
	if err != nil {
		return err
	}
	return c.accounts(p, func(a *authserver.Accounts) error {
		if err := a.SetPassword(p.ctx, c.Email, password); err != nil {
			return err
		}
		_, err := fmt.Fprintln(p.stdout, "password set; all sessions of this user have ended")
		return err
	})
}

type usersDisableCmd struct {
	Email         string `arg:"" help:"The user's e-mail address."`
	authnDatabase `embed:""`
}

// Run disables the user.
func (c *usersDisableCmd) Run(p *program) error {
	return c.accounts(p, func(a *authserver.Accounts) error {
		if err := a.Disable(p.ctx, c.Email); err != nil {
			return err
		}
		_, err := fmt.Fprintln(p.stdout, "disabled; all sessions have ended, and access tokens that are out are refused within a second by who follows the revocations, and expire within the token life (5 minutes unless set)")
		return err
	})
}

type usersEnableCmd struct {
	Email         string `arg:"" help:"The user's e-mail address."`
	authnDatabase `embed:""`
}

// Run enables the user.
func (c *usersEnableCmd) Run(p *program) error {
	return c.accounts(p, func(a *authserver.Accounts) error {
		disabled := false
		if _, err := a.ChangeByEmail(p.ctx, c.Email, authserver.UserChange{Disabled: &disabled}); err != nil {
			return err
		}
		_, err := fmt.Fprintln(p.stdout, "enabled")
		return err
	})
}

type usersSetRolesCmd struct {
	Email         string   `arg:"" help:"The user's e-mail address."`
	Role          []string `required:"" enum:"viewer,user,editor,admin" help:"viewer (read), user (and write one's own), editor (and anyone's), admin. Repeatable; all that the user is to have."`
	authnDatabase `embed:""`
}

// Run gives the roles.
func (c *usersSetRolesCmd) Run(p *program) error {
	roles := make([]token.Role, len(c.Role))
	for i, r := range c.Role {
		roles[i] = token.Role(r)
	}
	return c.accounts(p, func(a *authserver.Accounts) error {
		if _, err := a.ChangeByEmail(p.ctx, c.Email, authserver.UserChange{Roles: roles}); err != nil {
			return err
		}
		_, err := fmt.Fprintln(p.stdout, "roles set; access tokens that are out have the old ones until they expire (5 minutes unless set)")
		return err
	})
}

type usersDeleteCmd struct {
	Email         string        `arg:"" help:"The user's e-mail address."`
	DeletionGrace time.Duration `default:"720h" env:"URBANDATA_AUTH_DELETION_GRACE" help:"When the account is erased. Until then users enable brings it back. (${env})"`
	authnDatabase `embed:""`
}

// Run deletes the user.
func (c *usersDeleteCmd) Run(p *program) error {
	if c.DeletionGrace < time.Minute {
		return wrongSetting("--deletion-grace (URBANDATA_AUTH_DELETION_GRACE)", "it must be a minute at least, such as 720h")
	}
	return c.accountsWith(p, authserver.AccountsOptions{DeletionGrace: c.DeletionGrace}, func(a *authserver.Accounts) error {
		at, err := a.DeleteByEmail(p.ctx, c.Email)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(p.stdout, "deleted; all sessions have ended, and the account is erased at %s\n", at.Format(time.RFC3339))
		return err
	})
}

type usersRemoveTOTPCmd struct {
	Email         string `arg:"" help:"The user's e-mail address."`
	authnDatabase `embed:""`
}

// Run turns the second factor off.
func (c *usersRemoveTOTPCmd) Run(p *program) error {
	return c.accounts(p, func(a *authserver.Accounts) error {
		if err := a.RemoveSecondFactor(p.ctx, c.Email); err != nil {
			return err
		}
		_, err := fmt.Fprintln(p.stdout, "the second factor is off: the password alone logs in")
		return err
	})
}
