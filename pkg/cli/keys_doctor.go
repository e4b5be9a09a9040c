package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urbandata/urbandata/authserver"
	"github.com/urbandata/urbandata/pkg/cli/doctor"
)

type keysDoctorCmd struct {
	Issuer    string        `required:"" placeholder:"URL" help:"The issuer to look at, as in its iss."`
	JWKSURL   string        `name:"jwks-url" placeholder:"URL" help:"Where its keys are; by its metadata if not set."`
	TokenFile string        `name:"token-file" placeholder:"PATH" help:"File with an access token to be verified, or - for standard input. With --watch it is read again at each look."`
	Audience  string        `placeholder:"NAME" help:"The aud that the token must have; its own if not set."`
	JSON      bool          `help:"One JSON object; with --watch one a line for each change."`
	Watch     bool          `help:"Go on looking, and say what changes and who would break, until interrupted."`
	Every     time.Duration `default:"10s" placeholder:"TIME" help:"How often --watch looks. (${default})"`
}

// Help is shown by --help.
func (*keysDoctorCmd) Help() string {
	return `
Looks at an issuer as a third party does, over HTTP alone: no database, no secret. It tells what is wrong with its metadata, key set, caching and clock, and which stock verifiers suffer. A token is read from a file or from standard input, never from an argument.

  urbandata keys doctor --issuer https://id.example
  urbandata keys doctor --issuer https://id.example --token-file - < token.txt

Exit codes: 0 all is well, or nothing worse than a note. 1 the key set can't be had. 2 a wrong setting. 3 warnings. 4 somebody refuses good tokens, or could take bad ones. 5 the token doesn't verify, and nothing else is worse than a warning.`
}

// The doctor's exit codes beside the common ones.
const (
	exitWarnings = 3
	exitBroken   = 4
	exitBadToken = 5
)

// verdictError ends a command that has said all there is to say with a code of
// its own.
type verdictError struct{ code int }

func (e *verdictError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// Run looks once, or until it is interrupted.
func (c *keysDoctorCmd) Run(p *program) error {
	if err := authserver.CheckIssuer(strings.TrimSuffix(c.Issuer, "/")); err != nil {
		return wrongSetting("--issuer", "%s", strings.TrimPrefix(err.Error(), "the issuer "))
	}
	if c.Watch && (c.Every < time.Second || c.Every > time.Hour) {
		return wrongSetting("--every", "it must lie between 1s and 1h")
	}
	if c.Watch {
		return c.watch(p)
	}
	token, err := c.token(p)
	if err != nil {
		return err
	}
	report := doctor.Examine(p.ctx, doctor.Options{Issuer: c.Issuer, JWKSURL: c.JWKSURL, Token: token, Audience: c.Audience})
	if p.ctx.Err() != nil {
		return p.ctx.Err()
	}
	if c.JSON {
		out := json.NewEncoder(p.stdout)
		out.SetIndent("", "  ")
		if err := out.Encode(report); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	} else {
		report.Text(p.stdout)
	}
	switch worst := report.Worst(); {
	case !report.Reached:
		return &verdictError{exitFailed}
	case worst == doctor.Broken:
		return &verdictError{exitBroken}
	case report.Token == doctor.TokenBad:
		return &verdictError{exitBadToken}
	case worst == doctor.Warning:
		return &verdictError{exitWarnings}
	}
	return nil
}

// token reads the token, if there is one to read.
func (c *keysDoctorCmd) token(p *program) (string, error) {
	var raw []byte
	var err error
	switch c.TokenFile {
	case "":
		return "", nil
	case "-":
		raw, err = io.ReadAll(io.LimitReader(p.stdin, maxSecretFile))
	default:
		var f *os.File
		if f, err = os.Open(c.TokenFile); err == nil {
			defer func() { _ = f.Close() }() // only read
			raw, err = io.ReadAll(io.LimitReader(f, maxSecretFile))
		}
	}
	if err != nil {
		// The name isn't repeated: it may be a token, given by mistake.
		return "", wrongSetting("--token-file", "it can't be read (%s); name a file, or - for standard input", reason(err))
	}
	return strings.TrimSpace(string(raw)), nil
}

// watch looks again and again until it is interrupted, which is no failure. Its
// exit code is that of the worst that it saw.
func (c *keysDoctorCmd) watch(p *program) error {
	if c.TokenFile == "-" {
		return wrongSetting("--token-file", "with --watch it must be a file, which is read again at each look")
	}
	var watch doctor.Watch
	worst := doctor.OK
	tick := time.NewTicker(c.Every)
	defer tick.Stop()
	for {
		token, err := c.token(p)
		if err != nil {
			return err
		}
		report := doctor.Examine(p.ctx, doctor.Options{Issuer: c.Issuer, JWKSURL: c.JWKSURL})
		if p.ctx.Err() == nil {
			for _, change := range watch.Observe(report, doctor.KeyOf(token)) {
				if change.Level == doctor.Broken || change.Level == doctor.Warning && worst != doctor.Broken {
					worst = change.Level
				}
				if c.JSON {
					if err := json.NewEncoder(p.stdout).Encode(change); err != nil {
						return fmt.Errorf("write a change: %w", err)
					}
				} else {
					change.Text(p.stdout)
				}
			}
		}
		select {
		case <-tick.C:
			continue
		case <-p.ctx.Done():
		}
		switch worst {
		case doctor.Broken:
			return &verdictError{exitBroken}
		case doctor.Warning:
			return &verdictError{exitWarnings}
		}
		return nil
	}
}
