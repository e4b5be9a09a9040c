package keys

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"runtime"

	"github.com/go-jose/go-jose/v4"
)

// ErrType is returned by [Signer.Sign] for a typ that isn't a media type
// name.
var ErrType = errors.New("keys: typ is not a media type name")

// Signer signs with the key that was signing when it was asked for. Ask the
// keeper for one for each token and don't keep it: a Signer that is held goes
// on with a key that others may have retired.
type Signer struct {
	kid     string
	alg     jose.SignatureAlgorithm
	private crypto.Signer // in memory today; an HSM or a KMS fits behind it
	sign    func(io.Reader, crypto.Signer, []byte) ([]byte, error)
	random  io.Reader

	// The header up to the value of typ, in two parts. The first is a
	// multiple of three bytes and already encoded, because base64 turns each
	// three bytes into four characters, whatever comes after.
	encoded string
	rest    string
}

// newSigner returns the signer of a key. The private half is erased when the
// last reference to the signer is gone: the keeper drops its own as soon as
// the key stops signing, and a request that is signing just then finishes.
// The garbage collector, which notices, runs every two minutes at the latest.
func newSigner(k *Key, private crypto.Signer, random io.Reader) *Signer {
	s := signer(k, private, random)
	runtime.AddCleanup(s, erase, private)
	return s
}

func signer(k *Key, private crypto.Signer, random io.Reader) *Signer {
	// kid and alg need no escaping: base64url and a name out of our table.
	head := fmt.Sprintf(`{"alg":"%s","kid":"%s","typ":"`, k.Alg, k.ID)
	cut := len(head) / 3 * 3
	return &Signer{
		kid: k.ID, alg: k.Alg, private: private, sign: algorithms[k.Alg].sign, random: random,
		encoded: base64.RawURLEncoding.EncodeToString([]byte(head[:cut])),
		rest:    head[cut:],
	}
}

// KeyID is the kid of the key.
func (s *Signer) KeyID() string { return s.kid }

// Algorithm is the key's algorithm.
func (s *Signer) Algorithm() jose.SignatureAlgorithm { return s.alg }

// Public is the public half.
func (s *Signer) Public() crypto.PublicKey { return detached(s.private.Public()) }

// Sign returns payload as a compact JWS (RFC 7515 §7.1). Its header has
// exactly alg, kid and typ, in that order. The error is [ErrType] when typ
// isn't a media type name (RFC 6838 §4.2), with or without its first part.
func (s *Signer) Sign(typ string, payload []byte) (string, error) {
	if !validType(typ) {
		return "", ErrType
	}
	const room = 512 // an RSA-3072 signature; a longer one costs one more allocation
	b64 := base64.RawURLEncoding
	tail := s.rest + typ + `"}`
	out := make([]byte, 0, len(s.encoded)+b64.EncodedLen(len(tail))+b64.EncodedLen(len(payload))+2+room)
	out = append(out, s.encoded...)
	out = b64.AppendEncode(out, []byte(tail))
	out = append(out, '.')
	out = b64.AppendEncode(out, payload)
	signature, err := s.sign(s.random, s.private, out)
	runtime.KeepAlive(s) // or its private half might be erased while it signs
	if err != nil {
		return "", fmt.Errorf("keys: sign with %s: %w", s.kid, err)
	}
	out = append(out, '.')
	out = b64.AppendEncode(out, signature)
	return string(out), nil
}

// validType reports whether typ is made of the characters of a media type
// name, none of which JSON would escape.
func validType(typ string) bool {
	for _, c := range []byte(typ) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '+', c == '-', c == '.', c == '/', c == '_':
		default:
			return false
		}
	}
	return typ != "" && len(typ) < 128
}

func signEdDSA(random io.Reader, key crypto.Signer, message []byte) ([]byte, error) {
	return key.Sign(random, message, crypto.Hash(0))
}

func signRS256(random io.Reader, key crypto.Signer, message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	return key.Sign(random, digest[:], crypto.SHA256)
}

func signPS256(random io.Reader, key crypto.Signer, message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	return key.Sign(random, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256})
}

// signES256 turns the ASN.1 form that [crypto.Signer] gives into the fixed
// length of RFC 7518 §3.4: R and S, 32 bytes each.
func signES256(random io.Reader, key crypto.Signer, message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	der, err := key.Sign(random, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var rs struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &rs); err != nil || len(rest) > 0 ||
		rs.R.Sign() <= 0 || rs.S.Sign() <= 0 || rs.R.BitLen() > 256 || rs.S.BitLen() > 256 {
		return nil, errors.New("keys: the signer returned something else than an ECDSA signature")
	}
	out := make([]byte, 64)
	rs.R.FillBytes(out[:32])
	rs.S.FillBytes(out[32:])
	return out, nil
}
