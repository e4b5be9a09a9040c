package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/authserver"
	"github.com/urbandata/urbandata/pkg/token"
)

type clientsCmd struct {
	Create       clientsCreateCmd  `cmd:"" help:"Register a program that gets tokens in its own name; prints its id and secret, once."`
	List         clientsListCmd    `cmd:"" help:"List clients."`
	RotateSecret clientsRotateCmd  `cmd:"" help:"Give a client a new secret; the one before goes on for a while."`
	SetKeys      clientsSetKeysCmd `cmd:"" help:"Put a client's public keys in place of those it had."`
	Disable      clientsDisableCmd `cmd:"" help:"Keep a client from getting tokens."`
	Enable       clientsEnableCmd  `cmd:"" help:"Let a disabled client get tokens again."`
}

// clients calls f with the clients of the database.
func (d *authnDatabase) clients(p *program, f func(*authserver.Clients) error) (err error) {
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
	err = f(authserver.NewClients(store, nil))
	switch {
	case errors.Is(err, authserver.ErrNoClient):
		return errors.New("there is no such client, or it authenticates in another way")
	case errors.Is(err, authserver.ErrNoAudience):
		return errors.New("no audience of this name is registered")
	case errors.Is(err, authserver.ErrAudienceTaken):
		return errors.New("an audience of this name is registered already; remove it first")
	}
	return err
}

type clientsCreateCmd struct {
	Name          string   `arg:"" help:"What people call it."`
	Grant         []string `default:"client_credentials" enum:"client_credentials,refresh_token" help:"Grant types it may use. Repeatable."`
	Scope         []string `required:"" placeholder:"SCOPE" help:"What it may ask for, such as inmuebles:read. Repeatable."`
	Audience      []string `default:"inmuebles" help:"Whom its tokens may be for. Repeatable."`
	JWKS          string   `name:"jwks" type:"existingfile" placeholder:"FILE" help:"Its public keys, a JSON Web Key Set: it signs assertions (private_key_jwt) and has no secret."`
	JSON          bool     `help:"One JSON object."`
	authnDatabase `embed:""`
}

// Help is shown by --help.
func (*clientsCreateCmd) Help() string {
	return `
The secret is printed once and kept only as a hash. A program gets a token with it at POST /oauth2/token:

  urbandata clients create "nightly report" --scope inmuebles:read`
}

// createdClient is a client with the secret that is shown once.
type createdClient struct {
	*authserver.Client
	Secret string `json:"client_secret,omitempty"`
}

// Run creates the client and prints what it needs to log in.
func (c *clientsCreateCmd) Run(p *program) error {
	n := authserver.NewClient{Name: c.Name, Grants: c.Grant, Scope: token.Scope(c.Scope), Audiences: c.Audience}
	if c.JWKS != "" {
		var err error
		if n.JWKS, err = os.ReadFile(c.JWKS); err != nil {
			return fmt.Errorf("read the keys: %w", err)
		}
	}
	return c.clients(p, func(clients *authserver.Clients) error {
		client, secret, err := clients.Create(p.ctx, n)
		if err != nil {
			return err
		}
		if c.JSON {
			return json.NewEncoder(p.stdout).Encode(createdClient{client, secret}) //nolint:gosec // shown once, to whom it is for
		}
		fmt.Fprintf(p.stdout, "client_id      %s\n", client.ID)
		if secret != "" {
			fmt.Fprintf(p.stdout, "client_secret  %s\n", secret)
			fmt.Fprintln(p.stderr, "The secret is not kept and can't be shown again.")
		}
		return nil
	})
}

type clientsListCmd struct {
	JSON          bool `help:"One JSON object a line."`
	authnDatabase `embed:""`
}

// Run prints every client, a page at a time.
func (c *clientsListCmd) Run(p *program) error {
	rows := listing[authserver.Client]{
		header: "CLIENT ID\tNAME\tAUTH\tGRANTS\tSCOPE\tAUDIENCES\tCREATED\tSTATE",
		row: func(one authserver.Client) string {
			state := "enabled"
			if one.Disabled {
				state = "disabled"
			}
			return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", one.ID, one.Name, one.Auth, strings.Join(one.Grants, " "),
				one.Scope, strings.Join(one.Audiences, " "), one.CreatedAt.Format(time.DateOnly), state)
		},
		key: func(one authserver.Client) string { return one.ID },
	}
	return c.clients(p, func(clients *authserver.Clients) error {
		return rows.print(p, c.JSON, func(after string, limit int) ([]authserver.Client, error) {
			return clients.List(p.ctx, after, limit)
		})
	})
}

type clientsRotateCmd struct {
	ClientID      string        `arg:"" help:"The client's id."`
	Overlap       time.Duration `default:"24h" help:"How long the secret before goes on; 0 ends it at once, as when it was stolen. (${default})"`
	authnDatabase `embed:""`
}

// Run prints the new secret.
func (c *clientsRotateCmd) Run(p *program) error {
	if c.Overlap < 0 {
		return wrongSetting("--overlap", "it must not be negative")
	}
	return c.clients(p, func(clients *authserver.Clients) error {
		secret, err := clients.RotateSecret(p.ctx, c.ClientID, c.Overlap)
		if err != nil {
			return err
		}
		fmt.Fprintf(p.stdout, "client_secret  %s\n", secret)
		fmt.Fprintf(p.stderr, "The one before goes on for %v. Access tokens that are out go on until they expire.\n", c.Overlap)
		return nil
	})
}

type clientsSetKeysCmd struct {
	ClientID      string `arg:"" help:"The client's id."`
	JWKS          string `arg:"" type:"existingfile" help:"File with its public keys, a JSON Web Key Set. To rotate without a gap, put the old and the new one in, and later the new one alone."`
	authnDatabase `embed:""`
}

// Run replaces the keys.
func (c *clientsSetKeysCmd) Run(p *program) error {
	text, err := os.ReadFile(c.JWKS)
	if err != nil {
		return fmt.Errorf("read the keys: %w", err)
	}
	return c.clients(p, func(clients *authserver.Clients) error {
		if err := clients.SetKeys(p.ctx, c.ClientID, text); err != nil {
			return err
		}
		_, err := fmt.Fprintln(p.stdout, "keys replaced")
		return err
	})
}

type clientsDisableCmd struct {
	ClientID      string `arg:"" help:"The client's id."`
	authnDatabase `embed:""`
}

// Run disables the client.
func (c *clientsDisableCmd) Run(p *program) error {
	return c.clients(p, func(clients *authserver.Clients) error {
		if err := clients.SetDisabled(p.ctx, c.ClientID, true); err != nil {
			return err
		}
		_, err := fmt.Fprintln(p.stdout, "disabled; access tokens that are out are refused within a second by who follows the revocations, and expire within the token life (5 minutes unless set)")
		return err
	})
}

type clientsEnableCmd struct {
	ClientID      string `arg:"" help:"The client's id."`
	authnDatabase `embed:""`
}

// Run enables the client.
func (c *clientsEnableCmd) Run(p *program) error {
	return c.clients(p, func(clients *authserver.Clients) error {
		if err := clients.SetDisabled(p.ctx, c.ClientID, false); err != nil {
			return err
		}
		_, err := fmt.Fprintln(p.stdout, "enabled")
		return err
	})
}

type audiencesCmd struct {
	Create audiencesCreateCmd `cmd:"" help:"Register an audience: what tokens it gets, and who may ask."`
	List   audiencesListCmd   `cmd:"" help:"List the registered audiences."`
	Remove audiencesRemoveCmd `cmd:"" help:"Forget an audience; from then on it gets what any other does (RS256, at+jwt)."`
}

type audiencesCreateCmd struct {
	Name          string        `arg:"" help:"The aud of its tokens."`
	Alg           string        `default:"RS256" enum:"RS256,EdDSA" help:"What its tokens are signed with. EdDSA is 40 times cheaper here; half of the stock verifiers don't do it. (${default})"`
	Typ           string        `default:"at+jwt" enum:"at+jwt,JWT" help:"The header's typ. JWT for Nimbus and Spring Security with their defaults. (${default})"`
	TokenLife     time.Duration `default:"0" help:"Life of its tokens, never longer than the server's --token-life; 0 for that. (${default})"`
	ClientsOnly   bool          `help:"Users may not ask for its tokens, only clients that have it in their list."`
	authnDatabase `embed:""`
}

// Help is shown by --help.
func (*audiencesCreateCmd) Help() string {
	return `
Servers that run learn of it within seconds. What authserver's --audience says of the same name goes before.`
}

// Run registers the audience.
func (c *audiencesCreateCmd) Run(p *program) error {
	return c.clients(p, func(clients *authserver.Clients) error {
		_, err := clients.AddAudience(p.ctx, authserver.RegisteredAudience{
			Name: c.Name, Alg: jose.SignatureAlgorithm(c.Alg), Type: c.Typ, TokenLife: c.TokenLife, ForUsers: !c.ClientsOnly,
		})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(p.stdout, "registered")
		return err
	})
}

type audiencesListCmd struct {
	JSON          bool `help:"One JSON object a line."`
	authnDatabase `embed:""`
}

// listedAudience is an audience with its token life in seconds.
type listedAudience struct {
	authserver.RegisteredAudience
	TokenLife float64 `json:"token_life"` // 0 for the server's
}

// Run prints the audiences.
func (c *audiencesListCmd) Run(p *program) error {
	return c.clients(p, func(clients *authserver.Clients) error {
		list, err := clients.Audiences(p.ctx)
		if err != nil {
			return err
		}
		table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
		if !c.JSON {
			fmt.Fprintln(table, "AUDIENCE\tALG\tTYP\tTOKEN LIFE\tWHO MAY ASK\tCREATED")
		}
		for _, a := range list {
			if c.JSON {
				if err := json.NewEncoder(p.stdout).Encode(listedAudience{a, a.TokenLife.Seconds()}); err != nil {
					return fmt.Errorf("write an audience: %w", err)
				}
				continue
			}
			life, who := "the server's", "users and clients"
			if a.TokenLife > 0 {
				life = a.TokenLife.String()
			}
			if !a.ForUsers {
				who = "clients"
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", a.Name, a.Alg, a.Type, life, who, a.CreatedAt.Format(time.DateOnly))
		}
		return table.Flush()
	})
}

type audiencesRemoveCmd struct {
	Name          string `arg:"" help:"The aud of its tokens."`
	authnDatabase `embed:""`
}

// Run forgets the audience.
func (c *audiencesRemoveCmd) Run(p *program) error {
	return c.clients(p, func(clients *authserver.Clients) error {
		if err := clients.RemoveAudience(p.ctx, c.Name); err != nil {
			return err
		}
		_, err := fmt.Fprintln(p.stdout, "removed")
		return err
	})
}
