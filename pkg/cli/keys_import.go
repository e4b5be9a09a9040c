package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/term"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/cli/database"
)

type keysImportCmd struct {
	File          string        `arg:"" placeholder:"FILE" help:"File with the key, or - for standard input."`
	KeyID         string        `name:"kid" placeholder:"KID" help:"The kid by which tokens name it, where the file doesn't say; its thumbprint if neither does."`
	Alg           string        `placeholder:"ALG" help:"PS256 for an RSA key that isn't RS256's; otherwise by the key."`
	AtOnce        bool          `xor:"where" help:"Sign with it from now on, in the place of the key that does: when its verifiers hold it already."`
	VerifyOnly    time.Duration `xor:"where" placeholder:"TIME" help:"Publish the public half for this long, and never sign with it: as long as tokens of it may live."`
	confirmation  `embed:""`
	sealing       `embed:""`
	authnDatabase `embed:""`
	policyOf      `embed:""`
}

// Help is shown by --help.
func (*keysImportCmd) Help() string {
	return `
Reads a JWK, PKCS #8 (encrypted too), PKCS #1, SEC 1 or, to verify only, a public key, a certificate or a JWK Set. The key keeps its kid. It is announced, and signs behind the stand-by, unless one of the flags below says otherwise. Refused are RSA keys with fewer than 2048 bits, an exponent below 65537, the fingerprint of ROCA, primes that lie close together or a factor in common with another key, halves that don't belong together, and what the ring has already, also revoked.

  urbandata keys import old-issuer.pem --kid 2021-01 --at-once
  urbandata keys import --verify-only 24h old-jwks.json

An encrypted file's passphrase is asked for, or comes from URBANDATA_KEY_PASSPHRASE or the file that URBANDATA_KEY_PASSPHRASE_FILE names. Give it the policy settings that authn has.` + changeHelp
}

// where is the placement that the flags ask for.
func (c *keysImportCmd) where() keys.Placement {
	switch {
	case c.AtOnce:
		return keys.AtOnce
	case c.VerifyOnly != 0:
		return keys.VerifyOnly
	}
	return keys.InTurn
}

// Run imports.
func (c *keysImportCmd) Run(p *program) error {
	policy, err := c.policy()
	if err != nil {
		return err
	}
	if c.VerifyOnly < 0 || c.VerifyOnly > 400*24*time.Hour {
		return wrongSetting("--verify-only", "it must lie between 1s and 9600h")
	}
	found, err := c.read(p)
	if err != nil {
		return err
	}
	var sealer keys.Sealer
	if c.where() != keys.VerifyOnly {
		if sealer, err = c.sealer(p, &c.authnDatabase); err != nil {
			return err
		}
	}
	return c.ring(p, func(db *database.SQL, store *keys.SQLStore) error {
		sealed, err := c.seal(p, store, sealer, found)
		if err != nil {
			return err
		}
		edit := func(now time.Time, ring keys.Ring) (keys.Ring, []keys.Event, error) {
			var events []keys.Event
			for _, k := range sealed {
				next, more, err := keys.Import(now, ring, k, c.where(), c.VerifyOnly, policy)
				if err != nil {
					return ring, nil, err
				}
				ring, events = next, append(events, more...)
			}
			return ring, events, nil
		}
		preview, err := keys.Preview(p.ctx, store, p.clock, edit)
		if err != nil {
			return refused(err)
		}
		for _, k := range sealed {
			c.explain(p.stdout, preview, preview.After.Key(k.ID))
		}
		if err := c.confirm(p); err != nil {
			return err
		}
		_, err = apply(p, db, store, edit)
		return refused(err)
	})
}

// seal makes keys of the ring of them. The sealer must open those that the ring
// has: it is then the one that replicas hold.
func (c *keysImportCmd) seal(p *program, store keys.Store, sealer keys.Sealer, found []keys.ForeignKey) ([]keys.Key, error) {
	if sealer != nil {
		ring, err := store.Load(p.ctx)
		if err == nil {
			_, err = keys.Reseal(p.ctx, sealer, ring)
		}
		if err != nil {
			return nil, opened(err)
		}
	}
	sealed := make([]keys.Key, len(found))
	for i := range found {
		var err error
		if sealed[i], err = keys.SealForeign(p.ctx, sealer, found[i], sealer != nil); err != nil {
			return nil, refused(err)
		}
	}
	return sealed, nil
}

// read reads the file, and gives the key its kid and algorithm.
func (c *keysImportCmd) read(p *program) ([]keys.ForeignKey, error) {
	in := p.stdin
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return nil, wrongSetting("FILE", "it can't be read (%s); name a file, or - for standard input", reason(err))
		}
		defer func() { _ = f.Close() }() // only read
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	defer clear(text)
	found, err := keys.ParseKeys(text, nil)
	if errors.Is(err, keys.ErrPassphrase) {
		var passphrase string
		if passphrase, err = p.keyPassphrase(c.File == "-", false); err != nil {
			return nil, err
		}
		found, err = keys.ParseKeys(text, []byte(passphrase))
	}
	if err != nil {
		return nil, refused(err)
	}
	switch {
	case len(found) > 1 && (c.where() != keys.VerifyOnly || c.KeyID != "" || c.Alg != ""):
		return nil, wrongSetting("FILE", "it is a set of %d keys: those can only verify, each with its own kid and alg; give one key, or --verify-only alone", len(found))
	case c.Alg != "" && (c.Alg != string(jose.PS256) || found[0].Alg != jose.RS256 && found[0].Alg != jose.PS256):
		return nil, wrongSetting("--alg", "it may be PS256 for an RSA key; every other key has one algorithm")
	case c.KeyID != "" && !keys.ValidKeyID(c.KeyID):
		return nil, wrongSetting("--kid", "it must be 1 to 128 visible ASCII characters without quotes, backslashes, & and angle brackets")
	case c.KeyID != "" && found[0].KeyID != "" && found[0].KeyID != c.KeyID:
		return nil, wrongSetting("--kid", "the file says that the kid is %s", found[0].KeyID)
	}
	if c.KeyID != "" {
		found[0].KeyID = c.KeyID
	}
	if c.Alg != "" {
		found[0].Alg = jose.PS256
	}
	return found, nil
}

// refused is a key's refusal in a sentence of the command line.
func refused(err error) error {
	if errors.Is(err, keys.ErrPolicy) {
		return wrongSetting("--keys-algorithms (URBANDATA_KEYS_ALGORITHMS)", "%s", strings.TrimPrefix(err.Error(), keys.ErrPolicy.Error()+": "))
	}
	return err
}

// explain says what becomes of the key.
func (c *keysImportCmd) explain(out io.Writer, preview keys.Changed, k *keys.Key) {
	fmt.Fprintf(out, "%s (%s): ", k.ID, k.Alg)
	switch {
	case k.State == keys.Retiring:
		fmt.Fprintf(out, "published until %s, and verifies only\n", stamp(k.UnpublishAt))
		fmt.Fprintln(out, "  until then, whoever holds its private half can make tokens that verifiers of this issuer take")
		if len(preview.Before.Keys) == 0 {
			fmt.Fprintln(out, "  the ring is new: authn's own keys are announced beside it, and sign only after the lead, because verifiers hold the other issuer's set")
		}
	case k.State == keys.Announced:
		fmt.Fprintf(out, "published now, signs from %s to %s\n  breaks nobody\n", stamp(k.ActivateAt), stamp(k.RetireAt))
	default:
		fmt.Fprintf(out, "signs from now on, until %s\n", stamp(k.RetireAt))
		if current := preview.Before.Signing(k.Alg); current != nil {
			fmt.Fprintf(out, "  %s stops signing, and stays published until %s\n", current.ID, stamp(preview.After.Key(current.ID).UnpublishAt))
		}
		fmt.Fprintln(out, "  breaks nobody whose verifiers hold it already, from the issuer that it comes from; others refuse its tokens until they fetch")
	}
	if k.State != keys.Retiring {
		fmt.Fprintln(out, "  erase the file, and see to it that nobody else holds the private half: revoke what was only half kept")
	}
}

// keyPassphrase gets the passphrase of a key file from the environment or the
// terminal.
func (p *program) keyPassphrase(stdinTaken, twice bool) (string, error) {
	if value, err := p.secret(envKeyPassphrase); err != nil || value != "" {
		return value, err
	}
	f, ok := p.stdin.(*os.File)
	if !ok || stdinTaken || !term.IsTerminal(int(f.Fd())) {
		return "", wrongSetting(envKeyPassphrase, "it is not set, and there is no terminal to ask on; set it, or %s_FILE", envKeyPassphrase)
	}
	var typed [2]string
	for i, prompt := range []string{"Passphrase of the key file: ", "Again: "}[:map[bool]int{false: 1, true: 2}[twice]] {
		fmt.Fprint(p.stderr, prompt)
		raw, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(p.stderr)
		if err != nil {
			return "", fmt.Errorf("read the passphrase: %w", err)
		}
		typed[i] = string(raw)
	}
	if twice && typed[0] != typed[1] {
		return "", errors.New("the two passphrases differ")
	}
	return typed[0], nil
}

type keysExportCmd struct {
	KeyID         string `arg:"" optional:"" name:"kid" help:"One key, as keys list shows it; all published ones if not given. After -- when it begins with a hyphen."`
	Format        string `default:"jwk" enum:"jwk,pem" placeholder:"FORMAT" help:"jwk (a JWK Set) or pem. (${default})"`
	Private       bool   `help:"With the private half, as PKCS #8 encrypted to a passphrase."`
	Out           string `placeholder:"PATH" help:"File to write, which must not exist; standard output if not set, for public keys."`
	sealing       `embed:""`
	authnDatabase `embed:""`
}

// Help is shown by --help.
func (*keysExportCmd) Help() string {
	return `
Public keys need no sealing key. A private half leaves only encrypted (PBES2 with scrypt and AES-256), into a file of mode 0600, with a passphrase of 16 characters or more that is asked for twice, or comes from URBANDATA_KEY_PASSPHRASE or the file that URBANDATA_KEY_PASSPHRASE_FILE names. OpenSSL reads it, and so does keys import. From then on there is a copy that no rotation erases.

  urbandata keys export --format pem
  urbandata keys export --private --out signing.pem uCJr1Z7fVUCT2Rd-k8YxAsV8XFT1kj9TDVCB0vJjOR0`
}

// Run exports.
func (c *keysExportCmd) Run(p *program) error {
	if c.Private && (c.KeyID == "" || c.Out == "") {
		return wrongSetting("--private", "it goes with one kid and --out")
	}
	return c.ring(p, func(_ *database.SQL, store *keys.SQLStore) error {
		ring, err := store.Load(p.ctx)
		if err != nil {
			return err
		}
		list := ring.Published()
		if c.KeyID != "" {
			k := ring.Key(c.KeyID)
			if k == nil {
				return fmt.Errorf("there is no key %q; see \"urbandata keys list\"", c.KeyID)
			}
			list = []keys.Key{*k}
		}
		var text []byte
		switch {
		case c.Private:
			text, err = c.private(p, &list[0])
		case c.Format == "pem":
			text, err = keys.ExportPEM(list)
		default:
			text, err = keys.ExportJWKS(list)
		}
		if err != nil {
			return err
		}
		if c.Out == "" {
			_, err = p.stdout.Write(text)
			return err
		}
		if err := writeNew(c.Out, text); err != nil {
			return wrongSetting("--out", "%s can't be written (%s); name a file that doesn't exist yet", filepath.Base(c.Out), linkReason(err))
		}
		_, err = fmt.Fprintf(p.stdout, "written to %s\n", c.Out)
		return err
	})
}

// private is the encrypted private half.
func (c *keysExportCmd) private(p *program, k *keys.Key) ([]byte, error) {
	sealer, err := c.sealer(p, &c.authnDatabase)
	if err != nil {
		return nil, err
	}
	passphrase, err := p.keyPassphrase(false, true)
	if err != nil {
		return nil, err
	}
	text, err := keys.ExportPrivate(p.ctx, sealer, k, []byte(passphrase))
	if errors.Is(err, keys.ErrPassphrase) {
		return nil, wrongSetting(envKeyPassphrase, "a passphrase must have %d characters or more", keys.MinPassphrase)
	}
	return text, opened(err)
}

// linkReason is [reason], for what writeNew returns as well.
func linkReason(err error) string {
	var link *os.LinkError
	if errors.As(err, &link) {
		return link.Err.Error()
	}
	return reason(err)
}
