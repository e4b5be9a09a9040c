package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/cli/database"
)

type keysCmd struct {
	List    keysListCmd    `cmd:"" help:"List the signing keys, their states and what comes next."`
	Plan    keysPlanCmd    `cmd:"" help:"Show what will happen to the signing keys, and when."`
	Rotate  keysRotateCmd  `cmd:"" help:"Let the next key take over before its time."`
	Revoke  keysRevokeCmd  `cmd:"" help:"Take a key out of use for ever, and show who goes on taking it, and for how long."`
	Import  keysImportCmd  `cmd:"" help:"Take in a key that another issuer has made."`
	Export  keysExportCmd  `cmd:"" help:"Write public keys, or a private one encrypted to a passphrase."`
	Rewrap  keysRewrapCmd  `cmd:"" help:"Seal all private halves with the first sealing key."`
	History keysHistoryCmd `cmd:"" help:"Show who changed which key, when and why; verify that nothing was tampered with."`
	Doctor  keysDoctorCmd  `cmd:"" help:"Look at an issuer from outside, as a third party does, and say who suffers from what."`
}

// exitDeclined is the exit code of a command that asked whether to go ahead
// and was told no.
const exitDeclined = 6

const changeHelp = `

It says what it will do and what that breaks, and asks; without a terminal to ask on it needs --yes. It works on the database itself, by the same compare-and-swap as the replicas of authn, whether they run or not: those that run follow within a second on PostgreSQL, within a tick elsewhere.

Exit codes: 0 done, or nothing to do. 1 failed, and nothing has changed. 2 a wrong setting. 6 it asked, and the answer was no.`

// confirmation is the flag of commands that ask.
type confirmation struct {
	Yes bool `help:"Go ahead without asking."`
}

// confirm asks on the terminal whether to go ahead.
func (c confirmation) confirm(p *program) error {
	if c.Yes {
		return nil
	}
	if f, ok := p.stdin.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return wrongSetting("--yes", "standard input is no terminal, so nobody can be asked; add it to go ahead")
	}
	return ask(p.stdin, p.stderr)
}

// ask takes nothing but yes for a yes.
func ask(in io.Reader, out io.Writer) error {
	fmt.Fprint(out, "Go ahead? Type yes: ")
	answer, err := bufio.NewReader(io.LimitReader(in, 1024)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	if strings.TrimSpace(answer) != "yes" {
		fmt.Fprintln(out, "nothing was changed")
		return &verdictError{exitDeclined}
	}
	return nil
}

// ring opens the store of the ring and calls f with it.
func (d *authnDatabase) ring(p *program, f func(*database.SQL, *keys.SQLStore) error) (err error) {
	db, err := d.open(p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return f(db, keys.NewSQLStore(db.Write))
}

// clock is the time as commands have it.
func (p *program) clock() time.Time {
	if p.now != nil {
		return p.now()
	}
	return time.Now()
}

// actor names whoever runs a command, for the history.
func actor() string { return operator() + " (command line)" }

// operator is the user of this machine, and the machine.
func operator() string {
	name, host := "unknown", "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}

// apply makes an edit and says what came of it.
func apply(p *program, db *database.SQL, store keys.Store, edit keys.Edit) (keys.Changed, error) {
	c, err := keys.Change(p.ctx, store, p.clock, actor(), edit)
	switch {
	case err != nil:
		return c, err
	case len(c.Events) == 0:
		_, err = fmt.Fprintln(p.stdout, "nothing to do: somebody else has done it meanwhile")
		return c, err
	}
	soon := "within a tick (10s unless set)"
	if db.Kind == database.Postgres {
		soon = "within a second"
	}
	_, err = fmt.Fprintf(p.stdout, "done: ring %d is stored; replicas that run follow %s\n", c.After.Version, soon)
	return c, err
}

// policyOf is the policy of authn, for commands that must know it: give them
// the same settings.
type policyOf struct {
	TokenLife time.Duration `default:"5m" env:"URBANDATA_AUTH_TOKEN_LIFE" help:"Life of an access token. (${env}, ${default})"`
	Policy    policyFlags   `embed:""`
}

func (f *policyOf) policy() (keys.Policy, error) { return f.Policy.policy(f.TokenLife) }

// stamp is a time as all commands print it.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

// brief is a span in the largest units that matter.
func brief(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", (d+12*time.Hour)/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%.4g h", float64(d.Round(6*time.Minute))/float64(time.Hour))
	case d >= 2*time.Minute:
		return fmt.Sprintf("%.3g min", float64(d.Round(6*time.Second))/float64(time.Minute))
	default:
		return fmt.Sprintf("%d s", d/time.Second)
	}
}
