package verify

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"math/big"
)

// The algorithms there are (RFC 7518 §3.1, RFC 8037 §3.1). There is no none
// and no HMAC, and no option brings them in: a verifier holds public keys only.
const (
	EdDSA = "EdDSA" // Ed25519
	RS256 = "RS256"
	ES256 = "ES256"
	PS256 = "PS256"
)

// Algorithms lists the algorithms there are.
func Algorithms() []string { return []string{EdDSA, RS256, ES256, PS256} }

// key is a public key for one algorithm (RFC 8725 §3.1: a key is used with
// one). It is immutable.
type key struct {
	id, alg string
	public  publicKey
}

// publicKey knows one way to check a signature.
type publicKey interface {
	verify(signed, signature []byte) bool
	equal(other publicKey) bool
}

type (
	edKey    ed25519.PublicKey
	pkcs1Key struct{ *rsa.PublicKey }
	pssKey   struct{ *rsa.PublicKey }
	ecKey    struct{ *ecdsa.PublicKey }
)

// Package ed25519 refuses S ≥ L, so a signature can't be altered and stay
// good.
func (k edKey) verify(signed, signature []byte) bool {
	return len(signature) == ed25519.SignatureSize && ed25519.Verify(ed25519.PublicKey(k), signed, signature)
}

func (k pkcs1Key) verify(signed, signature []byte) bool {
	sum := sha256.Sum256(signed)
	return rsa.VerifyPKCS1v15(k.PublicKey, crypto.SHA256, sum[:], signature) == nil
}

// The salt is as long as the hash (RFC 7518 §3.5).
var pss = rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}

func (k pssKey) verify(signed, signature []byte) bool {
	sum := sha256.Sum256(signed)
	return rsa.VerifyPSS(k.PublicKey, crypto.SHA256, sum[:], signature, &pss) == nil
}

// The signature is r and s, 32 bytes each (RFC 7518 §3.4), never DER. By the
// nature of ECDSA (r, n−s) is good as well: no signature may serve as the
// identity of a token.
func (k ecKey) verify(signed, signature []byte) bool {
	if len(signature) != 64 {
		return false
	}
	sum := sha256.Sum256(signed)
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	return ecdsa.Verify(k.PublicKey, sum[:], r, s)
}

func (k edKey) equal(other publicKey) bool {
	o, ok := other.(edKey)
	return ok && ed25519.PublicKey(k).Equal(ed25519.PublicKey(o))
}

func (k pkcs1Key) equal(other publicKey) bool {
	o, ok := other.(pkcs1Key)
	return ok && k.PublicKey.Equal(o.PublicKey)
}

func (k pssKey) equal(other publicKey) bool {
	o, ok := other.(pssKey)
	return ok && k.PublicKey.Equal(o.PublicKey)
}

func (k ecKey) equal(other publicKey) bool {
	o, ok := other.(ecKey)
	return ok && k.PublicKey.Equal(o.PublicKey)
}
