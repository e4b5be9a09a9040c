package keys

import (
	"bufio"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// A Sealer encrypts private halves for the store and opens them again. It
// holds one sealing key or several: the newest seals, all open, so sealing
// keys can be changed one replica at a time. A KMS can stand behind it. Its
// methods may be called concurrently.
type Sealer interface {
	// ID names the sealing key that Seal uses: 1 to 255 bytes of printable
	// ASCII that hold no secret.
	ID() string

	// Seal encrypts plaintext and binds it to identity: Open refuses the
	// result under any other.
	Seal(ctx context.Context, plaintext, identity []byte) ([]byte, error)

	// Open returns what Seal was given by the sealing key of that id. The
	// error wraps ErrSealed when that key isn't held, or when box or identity
	// isn't what it was; a sealer that couldn't be reached returns another
	// error.
	Open(ctx context.Context, id string, box, identity []byte) ([]byte, error)
}

// Sealed is a private half as it is stored:
//
//	1 byte   version of this layout, 1
//	1 byte   length n of the sealing key's id
//	n bytes  the sealing key's id
//	rest     what the Sealer made of the PKCS #8 encoding
//
// The layout, the id, the algorithm and the kid are bound into the box, so a
// row's private half can't be moved to another row.
type Sealed []byte

const sealedVersion = 1

// split takes the layout apart; ok is false for anything else than the
// layout above.
func (s Sealed) split() (id string, box []byte, ok bool) {
	if len(s) < 2 || s[0] != sealedVersion {
		return "", nil, false
	}
	n := int(s[1])
	if n == 0 || len(s) < 2+n {
		return "", nil, false
	}
	id = string(s[2 : 2+n])
	return id, s[2+n:], validSealerID(id)
}

// By is the id of the sealing key that opens it, or "" when there is nothing
// sealed or it can't be read.
func (s Sealed) By() string {
	id, _, _ := s.split()
	return id
}

// String says by which key it is sealed, never what it holds.
func (s Sealed) String() string {
	if len(s) == 0 {
		return "erased"
	}
	return "sealed by " + s.By()
}

// Format keeps every verb, %x too, from printing the bytes.
func (s Sealed) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalText keeps the bytes out of JSON.
func (s Sealed) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue keeps the bytes out of logs.
func (s Sealed) LogValue() slog.Value { return slog.StringValue(s.String()) }

func validSealerID(id string) bool {
	for _, c := range []byte(id) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(id) > 0 && len(id) < 256
}

// seal wraps the encoded private half of the key (kid, alg) in the layout.
func seal(ctx context.Context, sealer Sealer, kid string, alg jose.SignatureAlgorithm, plaintext []byte) (Sealed, error) {
	id := sealer.ID()
	if !validSealerID(id) {
		return nil, fmt.Errorf("keys: the sealer's id %q is not 1 to 255 printable characters", id)
	}
	box, err := sealer.Seal(ctx, plaintext, identity(kid, alg, id))
	if err != nil {
		return nil, fmt.Errorf("keys: seal %s: %w", kid, err)
	}
	return slices.Concat([]byte{sealedVersion, byte(len(id))}, []byte(id), box), nil //nolint:gosec // validSealerID bounds it
}

// unseal undoes seal. The caller clears the result.
func unseal(ctx context.Context, sealer Sealer, kid string, alg jose.SignatureAlgorithm, s Sealed) ([]byte, error) {
	id, box, ok := s.split()
	if !ok {
		return nil, fmt.Errorf("%w: what is stored for %s was not written by this package", ErrSealed, kid)
	}
	plaintext, err := sealer.Open(ctx, id, box, identity(kid, alg, id))
	if err != nil {
		return nil, fmt.Errorf("keys: open %s, sealed with sealing key %s: %w", kid, id, err)
	}
	return plaintext, nil
}

// identity is the associated data of a box. Its parts hold no newline.
func identity(kid string, alg jose.SignatureAlgorithm, sealerID string) []byte {
	return fmt.Appendf(nil, "urbandata signing key\n%d\n%s\n%s\n%s\n", sealedVersion, sealerID, alg, kid)
}

// SealingKey is a 256-bit secret from which private halves are sealed. It
// prints and logs as its id. The zero SealingKey is of no use.
type SealingKey struct{ secret [sealingKeySize]byte }

const sealingKeySize = 32

// GenerateSealingKey makes a sealing key from 32 bytes of the system's
// randomness.
func GenerateSealingKey() SealingKey {
	var k SealingKey
	_, _ = rand.Read(k.secret[:]) // never fails, by its documentation
	return k
}

// ParseSealingKey reads a sealing key: 32 bytes as base64 or base64url with
// or without padding, or as hexadecimal, with white space around it. The
// error wraps [ErrSealingKey] and doesn't hold the text.
func ParseSealingKey(text string) (SealingKey, error) {
	text = strings.TrimSpace(text)
	var raw []byte
	err := ErrSealingKey
	switch unpadded := strings.TrimSuffix(text, "="); len(unpadded) {
	case hex.EncodedLen(sealingKeySize):
		raw, err = hex.DecodeString(text)
	case base64.RawStdEncoding.EncodedLen(sealingKeySize):
		// Strict refuses stray bits after the last byte: one key, one text.
		standard := strings.NewReplacer("-", "+", "_", "/").Replace(unpadded)
		raw, err = base64.RawStdEncoding.Strict().DecodeString(standard)
	}
	defer clear(raw)
	if err != nil || len(raw) != sealingKeySize {
		return SealingKey{}, fmt.Errorf("%w: 32 bytes are wanted, as 43 or 44 characters of base64 or 64 of hexadecimal", ErrSealingKey)
	}
	k := SealingKey{secret: [sealingKeySize]byte(raw)}
	if k == (SealingKey{}) {
		return SealingKey{}, fmt.Errorf("%w: it is all zeros", ErrSealingKey)
	}
	return k, nil
}

// ParseSealingKeys reads a sealing-key file: one key a line, the newest
// first; empty lines and lines that start with # are skipped. There must be
// one key at least. The error wraps [ErrSealingKey] and names the line, not
// what is in it.
func ParseSealingKeys(r io.Reader) ([]SealingKey, error) {
	var found []SealingKey
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		k, err := ParseSealingKey(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		found = append(found, k)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("keys: read the sealing keys: %w", err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: there is none in the file", ErrSealingKey)
	}
	return found, nil
}

// ID names the key without giving it away: 16 hexadecimal digits derived from
// it.
func (k SealingKey) ID() string { return hex.EncodeToString(k.derive("id", 8)) }

// Encode returns the secret as ParseSealingKey reads it, for the file that
// keeps it.
func (k SealingKey) Encode() string { return base64.RawURLEncoding.EncodeToString(k.secret[:]) }

// String is the key's id.
func (k SealingKey) String() string { return k.ID() }

// Format keeps every verb from printing the secret.
func (k SealingKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.ID()) }

// LogValue is the key's id.
func (k SealingKey) LogValue() slog.Value { return slog.StringValue(k.ID()) }

// derive gives each use of the secret a key of its own, so that the public id
// says nothing about the one that encrypts.
func (k SealingKey) derive(use string, size int) []byte {
	out, err := hkdf.Key(sha256.New, k.secret[:], nil, "urbandata sealing key 1 "+use, size)
	if err != nil {
		panic("keys: hkdf: " + err.Error()) // only for a size that we don't ask for
	}
	return out
}

// aesSealer seals with AES-256-GCM and random nonces. A sealing key may seal
// 2³² times; a ring seals a few times a month.
type aesSealer struct {
	id    string
	aeads map[string]cipher.AEAD
}

// NewSealer returns a [Sealer] that seals with AES-256-GCM under the newest
// sealing key, and opens what newest or any of the older ones has sealed.
func NewSealer(newest SealingKey, older ...SealingKey) (Sealer, error) {
	s := &aesSealer{id: newest.ID(), aeads: make(map[string]cipher.AEAD)}
	for _, k := range append([]SealingKey{newest}, older...) {
		if k == (SealingKey{}) {
			return nil, fmt.Errorf("%w: it is all zeros", ErrSealingKey)
		}
		block, err := aes.NewCipher(k.derive("AES-256-GCM", 32))
		if err != nil {
			return nil, fmt.Errorf("keys: sealing key: %w", err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, fmt.Errorf("keys: sealing key: %w", err)
		}
		s.aeads[k.ID()] = aead
	}
	return s, nil
}

func (s *aesSealer) ID() string { return s.id }

func (s *aesSealer) Seal(_ context.Context, plaintext, identity []byte) ([]byte, error) {
	return s.aeads[s.id].Seal(nil, nil, plaintext, identity), nil //nolint:gosec // this AEAD draws its own nonces
}

func (s *aesSealer) Open(_ context.Context, id string, box, identity []byte) ([]byte, error) {
	aead, ok := s.aeads[id]
	if !ok {
		return nil, fmt.Errorf("%w: sealing key %s is wanted, and the one given is %s", ErrSealed, id, s.id)
	}
	plaintext, err := aead.Open(nil, nil, box, identity)
	if err != nil {
		return nil, fmt.Errorf("%w: what is stored was altered, or belongs to another key", ErrSealed)
	}
	return plaintext, nil
}
