package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	"github.com/youmark/pkcs8"
)

// ExportJWKS is the public halves of keys as a JWK Set (RFC 7517 §5),
// indented.
func ExportJWKS(list []Key) ([]byte, error) {
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for i := range list {
		set.Keys = append(set.Keys, publicJWK(&list[i]))
	}
	compact, err := json.Marshal(set)
	var out bytes.Buffer
	if err == nil {
		err = json.Indent(&out, compact, "", "  ")
	}
	if err != nil {
		return nil, fmt.Errorf("keys: export: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// ExportPEM is the public halves of keys as PEM, each a SubjectPublicKeyInfo
// (RFC 7468 §13) after a line that tells its kid and algorithm.
func ExportPEM(list []Key) ([]byte, error) {
	var out bytes.Buffer
	for i := range list {
		der, err := marshalPublic(list[i].Public)
		if err != nil {
			return nil, fmt.Errorf("keys: export %s: %w", list[i].ID, err)
		}
		fmt.Fprintf(&out, "# kid %s alg %s\n", list[i].ID, list[i].Alg)
		if err := pem.Encode(&out, &pem.Block{Type: "PUBLIC KEY", Bytes: der}); err != nil {
			return nil, fmt.Errorf("keys: export %s: %w", list[i].ID, err)
		}
	}
	return out.Bytes(), nil
}

// MinPassphrase is the least length of a passphrase that seals, in bytes.
const MinPassphrase = 16

// ExportPrivate is a key with its private half as PEM, encrypted to a
// passphrase: PKCS #8 with PBES2 (RFC 8018), scrypt and AES-256-CBC, which
// OpenSSL and every JOSE library's tools read. It is never given out in clear.
// The error wraps [ErrNoKey] when the private half has been erased,
// [ErrSealed] when it can't be opened, and [ErrPassphrase] when the passphrase
// is too short.
func ExportPrivate(ctx context.Context, sealer Sealer, k *Key, passphrase []byte) ([]byte, error) {
	if len(passphrase) < MinPassphrase {
		return nil, fmt.Errorf("%w: it must have %d characters or more", ErrPassphrase, MinPassphrase)
	}
	if k.Sealed == nil {
		return nil, fmt.Errorf("%w: the private half of %s has been erased", ErrNoKey, k.ID)
	}
	private, err := openKey(ctx, sealer, k)
	if err != nil {
		return nil, err
	}
	// As strong as OWASP asks for; a larger cost is beyond the 32 MB that
	// OpenSSL allows by default.
	der, err := pkcs8.MarshalPrivateKey(private, passphrase, &pkcs8.Opts{
		Cipher:  pkcs8.AES256CBC,
		KDFOpts: pkcs8.ScryptOpts{SaltSize: 16, CostParameter: 1 << 14, BlockSize: 8, ParallelizationParameter: 5},
	})
	if err != nil {
		return nil, fmt.Errorf("keys: export %s: %w", k.ID, err)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "# kid %s alg %s\n", k.ID, k.Alg)
	if err := pem.Encode(&out, &pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der}); err != nil {
		return nil, fmt.Errorf("keys: export %s: %w", k.ID, err)
	}
	return out.Bytes(), nil
}
