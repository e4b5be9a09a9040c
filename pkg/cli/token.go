package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urbandata/urbandata/pkg/verify"
)

type tokenCmd struct {
	Inspect tokenInspectCmd `cmd:"" help:"Show a token's header and claims and, with --issuer, whether it verifies."`
}

type tokenInspectCmd struct {
	File     string `arg:"" optional:"" default:"-" placeholder:"FILE" help:"File with the token, or - for standard input."`
	Issuer   string `placeholder:"URL" help:"Verify as inmuebles would a token of this issuer."`
	JWKSURL  string `name:"jwks-url" placeholder:"URL" help:"Where the issuer's keys are; its /.well-known/jwks.json if not set."`
	Audience string `default:"inmuebles" placeholder:"NAME" help:"The aud wanted with --issuer. (${default})"`
}

// Help is shown by --help.
func (*tokenInspectCmd) Help() string {
	return `
A token is as good as a password for as long as it lives, so it is read from a file or from standard input, never from an argument:

  urbandata token inspect < token.txt
  urbandata token inspect --issuer http://127.0.0.1:8000 < token.txt

With --issuer the exit code is 1 when the token doesn't verify.`
}

const inspectTimeout = 10 * time.Second

// Run prints what is in the token.
func (c *tokenInspectCmd) Run(p *program) error {
	in := p.stdin
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			// The name isn't repeated: it may be a token, given by mistake.
			return wrongSetting("FILE", "it can't be read (%s); name a file, or write the token to standard input", reason(err))
		}
		defer func() { _ = f.Close() }() // only read
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxSecretFile))
	if err != nil {
		return fmt.Errorf("read the token: %w", err)
	}
	text := strings.TrimSpace(string(raw))
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return errors.New("this is not a token: a JWT has three parts with dots between them")
	}
	for i, name := range []string{"header", "claims"} {
		shown, err := indented(parts[i])
		if err != nil {
			return fmt.Errorf("the %s is not base64url of a JSON object", name)
		}
		fmt.Fprintf(p.stdout, "%s %s\n", name, shown)
	}
	c.times(p, parts[1])
	if c.Issuer == "" {
		_, err := fmt.Fprintln(p.stdout, "signature not checked (give --issuer to verify)")
		return err
	}
	return c.verify(p, text)
}

func indented(part string) (string, error) {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return "", err
	}
	return b.String(), nil
}

// times says in words when the token was made and when it ends.
func (*tokenInspectCmd) times(p *program, payload string) {
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return // said by the caller
	}
	var c struct{ Iat, Nbf, Exp *float64 }
	if json.Unmarshal(raw, &c) != nil {
		return // not numbers: there is nothing to say
	}
	now := time.Now()
	for _, t := range []struct {
		name         string
		at           *float64
		past, future string
	}{
		{"iat", c.Iat, "issued %s ago", "issued %s in the future"},
		{"nbf", c.Nbf, "valid since %s ago", "not valid for another %s"},
		{"exp", c.Exp, "expired %s ago", "expires in %s"},
	} {
		if t.at == nil {
			continue
		}
		at := time.Unix(int64(*t.at), 0)
		words, d := t.future, at.Sub(now)
		if d < 0 {
			words, d = t.past, -d
		}
		fmt.Fprintf(p.stdout, "%s %s, "+words+"\n", t.name, at.UTC().Format(time.RFC3339), d.Round(time.Second))
	}
}

// verify checks the token as a resource server does.
func (c *tokenInspectCmd) verify(p *program, text string) error {
	if c.JWKSURL == "" {
		c.JWKSURL = c.Issuer + jwksPath
	}
	v, err := verify.New(verify.Options{Issuer: c.Issuer, Audience: c.Audience, JWKSURL: c.JWKSURL, Types: []string{"at+jwt", "JWT"}})
	if err != nil {
		return wrongSetting("--issuer or --jwks-url", "%s", err)
	}
	ctx, cancel := context.WithTimeout(p.ctx, inspectTimeout)
	defer cancel()
	go func() { _ = v.Run(ctx) }() // ends with ctx; Wait tells how it went
	if err := v.Wait(ctx); err != nil {
		return fmt.Errorf("the keys of the issuer can't be had from %s: %w", c.JWKSURL, err)
	}
	if _, err := v.Verify(ctx, text); err != nil {
		return fmt.Errorf("the token does not verify: %w", err)
	}
	_, err = fmt.Fprintln(p.stdout, "verified: signature, typ, iss, aud and times are good")
	return err
}
