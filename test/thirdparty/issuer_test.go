//go:build verifiers

package thirdparty

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/cli/database"
)

type object = map[string]any

// issuer is a running authserver on SQLite, and its ring.
type issuer struct {
	t       *testing.T
	url     string
	process *process
	ops     []string // the environment of an operator's commands
	keeper  *keys.Keeper
	sealer  *wiretap
}

// wiretap is a sealer that keeps the private halves that it opens: the test
// signs what no signer of package keys would.
type wiretap struct {
	keys.Sealer
	opened []crypto.Signer
}

// Open does so.
func (w *wiretap) Open(ctx context.Context, id string, box, identity []byte) ([]byte, error) {
	der, err := w.Sealer.Open(ctx, id, box, identity)
	if err != nil {
		return nil, err
	}
	private, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	w.opened = append(w.opened, private.(crypto.Signer))
	return der, nil
}

// private is the private half of the key that signs now for an algorithm.
func (i *issuer) private(alg jose.SignatureAlgorithm) (private crypto.Signer, kid string) {
	i.t.Helper()
	signer, err := i.keeper.Signer(alg)
	if err != nil {
		i.t.Fatal(err)
	}
	for _, private := range i.sealer.opened {
		if private.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(signer.Public()) {
			return private, signer.KeyID()
		}
	}
	i.t.Fatalf("the private half of %s was never opened", signer.KeyID())
	return nil, ""
}

const (
	email    = "ana@example.es"
	password = "una frase larga y mia"
)

// startIssuer starts an authserver of its own, with one user.
func startIssuer(t *testing.T) *issuer {
	t.Helper()
	folder := t.TempDir()
	sealing := keys.GenerateSealingKey()
	sealingFile := filepath.Join(folder, "sealing.key")
	if err := os.WriteFile(sealingFile, []byte(sealing.Encode()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	databaseURL := "sqlite:" + filepath.Join(folder, "authn.db")
	address := freeAddress(t)
	i := &issuer{t: t, url: "http://" + address, ops: []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"),
		"URBANDATA_AUTH_DATABASE=" + databaseURL, "URBANDATA_SEALING_KEY_FILE=" + sealingFile,
	}}
	i.process = start(t, "authserver", []string{
		"URBANDATA_AUTH_LISTEN=" + address, "URBANDATA_AUTH_DATABASE=" + databaseURL,
		"URBANDATA_SEALING_KEY_FILE=" + sealingFile, "URBANDATA_METRICS_LISTEN=off", "URBANDATA_DRAIN_DELAY=0s",
	}, binary, "authserver")
	eventually(t, "authserver is ready", func() bool {
		answer, err := http.Get(i.url + "/readyz")
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	i.post("/authn/register", object{
		"email": email, "password": password, "first_name": "Ana", "last_name": "Ruiz", "company": "Casas",
	})

	sealer, err := keys.NewSealer(sealing)
	if err != nil {
		t.Fatal(err)
	}
	db, err := database.OpenSQL(t.Context(), databaseURL, database.Full)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	i.sealer = &wiretap{Sealer: sealer}
	i.keeper, err = keys.NewKeeper(keys.NewSQLStore(db.Write), i.sealer, keys.DefaultPolicy(), keys.Options{
		Name: "thirdparty", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	i.tick()
	return i
}

// post sends JSON and returns the JSON of a 2xx answer.
func (i *issuer) post(path string, body object) object {
	i.t.Helper()
	content, err := json.Marshal(body)
	if err != nil {
		i.t.Fatal(err)
	}
	answer, err := http.Post(i.url+path, "application/json", bytes.NewReader(content))
	if err != nil {
		i.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode/100 != 2 {
		i.t.Fatalf("POST %s: %s, %v: %s", path, answer.Status, err, text)
	}
	var members object
	if err := json.Unmarshal(text, &members); err != nil {
		i.t.Fatal(err)
	}
	return members
}

// login returns the tokens that authn issues for an audience.
func (i *issuer) login(audience string) (access, refresh string) {
	i.t.Helper()
	pair := i.post("/authn/token", object{"email": email, "password": password, "audience": audience})
	return pair["access"].(string), pair["refresh"].(string)
}

func (i *issuer) tick() {
	i.t.Helper()
	if err := i.keeper.Tick(i.t.Context()); err != nil {
		i.t.Fatal(err)
	}
}

// rotate lets the stand-by of RS256 sign at once, and waits until authn does.
func (i *issuer) rotate(audience string) {
	i.t.Helper()
	if err := i.keeper.Rotate(context.Background(), jose.RS256, true); err != nil {
		i.t.Fatal(err)
	}
	i.tick()
	signer, err := i.keeper.Signer(jose.RS256)
	if err != nil {
		i.t.Fatal(err)
	}
	eventually(i.t, "authn signs with the new key", func() bool {
		access, _ := i.login(audience)
		return part(i.t, access, 0)["kid"] == signer.KeyID()
	})
}

// revoke takes a key out of the set.
func (i *issuer) revoke(kid string) {
	i.t.Helper()
	if err := i.keeper.Revoke(i.t.Context(), kid, "stolen"); err != nil {
		i.t.Fatal(err)
	}
}

// sign signs claims with the key that signs now for an algorithm.
func (i *issuer) sign(alg jose.SignatureAlgorithm, typ string, claims object) string {
	i.t.Helper()
	signer, err := i.keeper.Signer(alg)
	if err != nil {
		i.t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		i.t.Fatal(err)
	}
	token, err := signer.Sign(typ, payload)
	if err != nil {
		i.t.Fatal(err)
	}
	return token
}

// part decodes the header (0) or the claims (1) of a token.
func part(t *testing.T, token string, n int) object {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[n])
	if err != nil {
		t.Fatal(err)
	}
	var members object
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&members); err != nil {
		t.Fatal(err)
	}
	return members
}

// freeAddress is a loopback address that nobody listens at just now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
