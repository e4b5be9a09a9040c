package cli

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/cli/database"
)

const (
	defaultDataDir = "urbandata-data"

	envAuthDatabase = "URBANDATA_AUTH_DATABASE"
	envAPIDatabase  = "URBANDATA_API_DATABASE"
	envSealingKey   = "URBANDATA_SEALING_KEY"
	envPassword     = "URBANDATA_PASSWORD" //nolint:gosec // the variable's name

	envSealingPassphrase = "URBANDATA_SEALING_PASSPHRASE"
	envKeyPassphrase     = "URBANDATA_KEY_PASSPHRASE" //nolint:gosec // the variable's name
)

// settingError is a wrong setting: one sentence that names it and the fix.
type settingError struct {
	setting string
	problem string
}

func (e *settingError) Error() string { return e.setting + ": " + e.problem }

func wrongSetting(setting, format string, args ...any) error {
	return &settingError{setting, fmt.Sprintf(format, args...)}
}

// maxSecretFile bounds what is read from a file that should hold a secret.
const maxSecretFile = 64 << 10

// secret reads a secret from the environment variable, or from the file that
// the variable with _FILE names; "" when neither is set. White space around
// what a file holds is dropped.
func (p *program) secret(name string) (string, error) {
	value, path := p.getenv(name), p.getenv(name+"_FILE")
	switch {
	case value != "" && path != "":
		return "", wrongSetting(name, "it is set, and %s_FILE is set too; unset one of them", name)
	case path == "":
		return value, nil
	}
	raw, err := readSecretFile(name+"_FILE", path)
	return string(bytes.TrimSpace(raw)), err
}

func readSecretFile(setting, path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, wrongSetting(setting, "the file can't be read (%s); name one that this user may read", reason(err))
	}
	defer func() { _ = f.Close() }() // only read
	raw, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	switch {
	case err != nil:
		return nil, wrongSetting(setting, "the file can't be read (%s); name one that this user may read", reason(err))
	case len(raw) > maxSecretFile:
		return nil, wrongSetting(setting, "the file is too long to be a secret; name the right one")
	case len(bytes.TrimSpace(raw)) == 0:
		return nil, wrongSetting(setting, "the file is empty; put the secret into it")
	}
	return raw, nil
}

// reason is an error of the file system without the path, which the sentence
// around it has already named by its setting.
func reason(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

// databaseSetting is a flag that names a database, and its variable.
type databaseSetting struct{ flag, env string }

var (
	authSetting = databaseSetting{"--database", envAuthDatabase}
	apiSetting  = databaseSetting{"--database", envAPIDatabase}
)

func (d databaseSetting) String() string { return d.flag + " (" + d.env + ")" }

// wrong names the setting when err says that it is no URL; any other error is
// the database's own.
func (d databaseSetting) wrong(err error) error {
	if errors.Is(err, database.ErrURL) {
		return wrongSetting(d.String(), "%s; write it as in https://www.postgresql.org/docs/current/libpq-connect.html or https://www.mongodb.com/docs/manual/reference/connection-string/, with special characters percent-encoded",
			strings.TrimPrefix(err.Error(), database.ErrURL.Error()+": "))
	}
	return err
}

// databaseURL is the URL to use: the flag's or its variable's value, the one
// in the file that the variable with _FILE names, or fallback. A URL with a
// password must not have come as an argument, where every user of the machine
// can read it.
func (p *program) databaseURL(from databaseSetting, value, fallback string, kinds ...database.Kind) (string, error) {
	setting, name := from.String(), from.env
	if value != "" && database.HasPassword(value) {
		for _, arg := range p.args {
			if strings.Contains(arg, value) {
				return "", wrongSetting(setting,
					"the URL has a password, and arguments can be read by every user of this machine; set %s or %s_FILE instead", name, name)
			}
		}
	}
	if path := p.getenv(name + "_FILE"); path != "" {
		if value != "" {
			return "", wrongSetting(setting, "it is set, and %s_FILE is set too; unset one of them", name)
		}
		var err error
		if value, err = p.secret(name); err != nil {
			return "", err
		}
	}
	if value == "" {
		value = fallback
	}
	kind, err := database.KindOf(value)
	for _, k := range kinds {
		if kind == k {
			return value, nil
		}
	}
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k) + map[database.Kind]string{database.SQLite: ":PATH"}[k]
		if k != database.SQLite {
			names[i] += "://…"
		}
	}
	if err != nil || len(names) > 0 {
		return "", wrongSetting(setting, "it must be %s", strings.Join(names, " or "))
	}
	return value, nil
}

// sealer makes the sealer of signing keys from --sealing-key-file or, where
// that is empty, from the variable, and from passphrases. With both, the
// sealing key seals and the passphrases only open.
func (p *program) sealer(path string) (keys.Sealer, error) {
	setting, raw := "--sealing-key-file (URBANDATA_SEALING_KEY_FILE)", []byte(nil)
	passphrases, err := p.passphraseSealer()
	if err != nil {
		return nil, err
	}
	switch value := p.getenv(envSealingKey); {
	case value != "" && path != "":
		return nil, wrongSetting(setting, "it is set, and %s is set too; unset one of them", envSealingKey)
	case path != "":
		if raw, err = readSecretFile(setting, path); err != nil {
			return nil, err
		}
	case value != "":
		setting, raw = envSealingKey, []byte(value)
	case passphrases != nil:
		return passphrases, nil
	default:
		return nil, wrongSetting(setting,
			"it is not set, and signing keys are not stored unsealed; name a file with 32 random bytes in base64, as made by: openssl rand -base64 32")
	}
	sealer, err := parseSealer(setting, raw)
	if err != nil || passphrases == nil {
		return sealer, err
	}
	return keys.JoinSealers(sealer, passphrases), nil
}

// passphraseSealer makes a sealer from the passphrases, one a line, the newest
// first; nil when there is none.
func (p *program) passphraseSealer() (keys.Sealer, error) {
	text, err := p.secret(envSealingPassphrase)
	if err != nil || text == "" {
		return nil, err
	}
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	lines = slices.DeleteFunc(lines, func(line string) bool { return line == "" })
	sealer, err := keys.NewPassphraseSealer(lines[0], lines[1:]...)
	if err != nil {
		return nil, wrongSetting(envSealingPassphrase, "a passphrase must have %d characters or more; take six random words", keys.MinPassphrase)
	}
	return sealer, nil
}

func parseSealer(setting string, raw []byte) (keys.Sealer, error) {
	if len(raw) == 32 && bytes.ContainsFunc(raw, func(r rune) bool { return r < ' ' || r > '~' }) {
		raw = []byte(base64.StdEncoding.EncodeToString(raw)) // the bytes themselves
	}
	list, err := keys.ParseSealingKeys(bytes.NewReader(raw))
	if err != nil {
		return nil, wrongSetting(setting,
			"it holds no sealing key; put 32 random bytes in base64 there, as made by: openssl rand -base64 32")
	}
	sealer, err := keys.NewSealer(list[0], list[1:]...)
	if err != nil {
		return nil, fmt.Errorf("use the sealing key: %w", err)
	}
	return sealer, nil
}

// dataDir makes the data folder, for its owner alone.
func dataDir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return wrongSetting("--data-dir (URBANDATA_DATA_DIR)", "the folder can't be made (%s); name one that can", reason(err))
	}
	if err := os.Chmod(path, 0o700); err != nil { //nolint:gosec // a folder needs x
		return wrongSetting("--data-dir (URBANDATA_DATA_DIR)", "the folder can't be closed to others (%s); name one that this user owns", reason(err))
	}
	return nil
}

func authFile(dataDir string) string { return "sqlite:" + filepath.Join(dataDir, "authn.db") }
func apiFile(dataDir string) string  { return "sqlite:" + filepath.Join(dataDir, "inmuebles.db") }

// listen binds an address, or says which setting is wrong.
func listen(p *program, setting, address string) (net.Listener, error) {
	var config net.ListenConfig
	l, err := config.Listen(p.ctx, "tcp", address)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return nil, wrongSetting(setting, "can't listen on %s (%s); name a free address, such as 127.0.0.1:0 for any port", address, err)
	}
	return l, nil
}
