package keys

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"

	"github.com/go-jose/go-jose/v4"
)

// algorithm is what the package must know of a signature algorithm.
type algorithm struct {
	generate func(random io.Reader, rsaBits int) (crypto.Signer, error)
	fits     func(crypto.PublicKey) bool
	sign     func(random io.Reader, key crypto.Signer, message []byte) ([]byte, error)
}

// algorithms are those that a policy may name: one asymmetric algorithm for
// each key type that every stock verifier knows, and PS256.
var algorithms = map[jose.SignatureAlgorithm]algorithm{
	jose.EdDSA: {generateEd25519, isEd25519, signEdDSA},
	jose.RS256: {generateRSA, isRSA, signRS256},
	jose.PS256: {generateRSA, isRSA, signPS256},
	jose.ES256: {generateP256, isP256, signES256},
}

func generateEd25519(random io.Reader, _ int) (crypto.Signer, error) {
	_, key, err := ed25519.GenerateKey(random)
	return key, err
}

func generateRSA(random io.Reader, bits int) (crypto.Signer, error) {
	return rsa.GenerateKey(random, bits)
}

func generateP256(random io.Reader, _ int) (crypto.Signer, error) {
	return ecdsa.GenerateKey(elliptic.P256(), random)
}

func isEd25519(public crypto.PublicKey) bool {
	key, ok := public.(ed25519.PublicKey)
	return ok && len(key) == ed25519.PublicKeySize
}

func isRSA(public crypto.PublicKey) bool {
	key, ok := public.(*rsa.PublicKey)
	return ok && key.N.BitLen() >= 2048
}

func isP256(public crypto.PublicKey) bool {
	key, ok := public.(*ecdsa.PublicKey)
	return ok && key.Curve == elliptic.P256()
}

// makeKey generates a key and seals its private half. Nothing keeps the
// private half: it is read back from its sealed form, which proves that it
// can be before anything is stored.
func makeKey(ctx context.Context, sealer Sealer, random io.Reader, alg jose.SignatureAlgorithm, rsaBits int) (Key, error) {
	private, err := algorithms[alg].generate(random, rsaBits)
	if err != nil {
		return Key{}, fmt.Errorf("keys: make a key for %s: %w", alg, err)
	}
	kid, err := thumbprint(private.Public())
	if err != nil {
		return Key{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return Key{}, fmt.Errorf("keys: encode the private half of %s: %w", kid, err)
	}
	defer clear(der)
	sealed, err := seal(ctx, sealer, kid, alg, der)
	if err != nil {
		return Key{}, err
	}
	return Key{ID: kid, Alg: alg, Public: private.Public(), Sealed: sealed}, nil
}

// openKey unseals a private half and makes sure that it belongs to the key.
func openKey(ctx context.Context, sealer Sealer, k *Key) (crypto.Signer, error) {
	der, err := unseal(ctx, sealer, k.ID, k.Alg, k.Sealed)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		// The parser's error may quote what it read.
		return nil, fmt.Errorf("%w: the private half of %s is not PKCS #8", ErrSealed, k.ID)
	}
	private, ok := parsed.(crypto.Signer)
	if !ok || !algorithms[k.Alg].fits(private.Public()) || !equal(private.Public(), k.Public) {
		return nil, fmt.Errorf("%w: the private half of %s belongs to another key", ErrSealed, k.ID)
	}
	return private, nil
}

func equal(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}

// thumbprint is the RFC 7638 SHA-256 thumbprint, base64url.
func thumbprint(public crypto.PublicKey) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("keys: thumbprint: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}

// ValidKeyID reports whether a text may be the kid of a key that another
// issuer has made: 1 to 128 characters that need no escaping in JSON.
func ValidKeyID(id string) bool {
	for _, c := range []byte(id) {
		if c <= ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return id != "" && len(id) <= 128
}
