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
	"math/big"

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

// detached copies a public half out of its private one. That of an RSA key
// points into it and would keep it in memory for as long as the key is known.
func detached(public crypto.PublicKey) crypto.PublicKey {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return &rsa.PublicKey{N: new(big.Int).Set(k.N), E: k.E}
	case *ecdsa.PublicKey:
		return &ecdsa.PublicKey{Curve: k.Curve, X: k.X, Y: k.Y} //nolint:staticcheck // a copy; nothing is computed with them
	default:
		return public
	}
}

// erase overwrites a private half in memory, as far as Go allows: the numbers
// that can be reached. What the standard library has derived from them, and
// copies that the garbage collector or the system made, it can't reach; they
// are freed with it. A signer of another kind is asked to erase itself, if it
// can.
func erase(private crypto.Signer) {
	switch k := private.(type) {
	case ed25519.PrivateKey:
		clear(k)
	case *rsa.PrivateKey:
		zero(append([]*big.Int{k.D, k.Precomputed.Dp, k.Precomputed.Dq, k.Precomputed.Qinv}, k.Primes...)...)
	case *ecdsa.PrivateKey:
		zero(k.D) //nolint:staticcheck // it is there, so it must go
	case interface{ Erase() }:
		k.Erase()
	}
}

func zero(numbers ...*big.Int) {
	for _, n := range numbers {
		if n != nil {
			clear(n.Bits()[:cap(n.Bits())])
		}
	}
}

// makeKey generates a key and seals its private half. Nothing keeps the
// private half: it is read back from its sealed form, which proves that it
// can be before anything is stored.
func makeKey(ctx context.Context, sealer Sealer, random io.Reader, alg jose.SignatureAlgorithm, rsaBits int) (Key, error) {
	private, err := algorithms[alg].generate(random, rsaBits)
	if err != nil {
		return Key{}, fmt.Errorf("keys: make a key for %s: %w", alg, err)
	}
	public := detached(private.Public())
	defer erase(private)
	kid, err := thumbprint(public)
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
	return Key{ID: kid, Alg: alg, Public: public, Sealed: sealed}, nil
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
		erase(private)
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
