package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/youmark/pkcs8"
)

var (
	// ErrKeyFile says that a text isn't a key in a form that can be read.
	ErrKeyFile = errors.New("keys: not a key")

	// ErrWeakKey says that a key is too short, or of a kind that is known to
	// have been broken.
	ErrWeakKey = errors.New("keys: a weak key")

	// ErrMismatch says that the two halves of a key don't belong together.
	ErrMismatch = errors.New("keys: the private half belongs to another public half")

	// ErrDuplicate says that the ring has the key already, or one that shares
	// its modulus, a factor of it, or its kid.
	ErrDuplicate = errors.New("keys: the ring has it already")

	// ErrPassphrase says that a key file needs a passphrase, or another one.
	ErrPassphrase = errors.New("keys: the passphrase doesn't open the key")
)

// ForeignKey is a key that was made elsewhere, as [ParseKeys] has read it.
type ForeignKey struct {
	KeyID   string                  // its kid; "" when the file doesn't say
	Alg     jose.SignatureAlgorithm // by its file, or by its type
	Public  crypto.PublicKey
	Private crypto.Signer // nil for a public key
}

// ParseKeys reads keys that were made elsewhere: a JWK, a JWK Set of public
// keys (RFC 7517), or PEM with a private key (PKCS #8, encrypted or not, PKCS
// #1, SEC 1), a public key or a certificate. Only PEM may be encrypted, and
// only to passphrase. In a set, what isn't a signing key of an algorithm that
// a policy may name is left out.
//
// The error wraps [ErrKeyFile], [ErrPassphrase], [ErrMismatch] or
// [ErrWeakKey], and never holds what was read.
func ParseKeys(text, passphrase []byte) ([]ForeignKey, error) {
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("%w: it is longer than %d bytes", ErrKeyFile, maxKeyFile)
	}
	var found []ForeignKey
	var err error
	if trimmed := bytes.TrimSpace(text); bytes.HasPrefix(trimmed, []byte("{")) {
		found, err = parseJWKs(trimmed)
	} else {
		found, err = parsePEM(text, passphrase)
	}
	if err != nil {
		return nil, err
	}
	for i := range found {
		if err := found[i].check(); err != nil {
			return nil, err
		}
	}
	return found, nil
}

const maxKeyFile = 256 << 10

func parseJWKs(text []byte) ([]ForeignKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("%w: it is not JSON", ErrKeyFile)
	}
	if set.Keys == nil {
		k, err := parseJWK(text)
		return []ForeignKey{k}, err
	}
	var found []ForeignKey
	for _, raw := range set.Keys {
		switch k, err := parseJWK(raw); {
		case errors.Is(err, errOtherUse):
		case err != nil:
			return nil, err
		case k.Private != nil:
			return nil, fmt.Errorf("%w: a set with private keys in it; give one key at a time", ErrKeyFile)
		default:
			found = append(found, k)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: the set has no signing key that can be used here", ErrKeyFile)
	}
	return found, nil
}

// errOtherUse says that a JWK is well and of no use here.
var errOtherUse = fmt.Errorf("%w: it is for another use or algorithm; take EdDSA, RS256, PS256 or ES256", ErrKeyFile)

func parseJWK(raw []byte) (ForeignKey, error) {
	// go-jose's own errors may quote what they read, which may be private.
	var about struct {
		Type  string `json:"kty"`
		Curve string `json:"crv"`
		Alg   string `json:"alg"`
		Use   string `json:"use"`
		X     string `json:"x"`
	}
	if err := json.Unmarshal(raw, &about); err != nil {
		return ForeignKey{}, fmt.Errorf("%w: it is not a JWK", ErrKeyFile)
	}
	if _, known := algorithms[jose.SignatureAlgorithm(about.Alg)]; about.Use == "enc" || about.Alg != "" && !known {
		return ForeignKey{}, errOtherUse
	}
	switch about.Type + " " + about.Curve {
	case "RSA ", "OKP Ed25519", "EC P-256":
	default:
		return ForeignKey{}, errOtherUse
	}
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(raw); err != nil {
		if bytes.Contains(raw, []byte(`"d"`)) {
			return ForeignKey{}, fmt.Errorf("%w: it is not a JWK, or its halves don't belong together", ErrKeyFile)
		}
		return ForeignKey{}, fmt.Errorf("%w: it is not a JWK", ErrKeyFile)
	}
	k := ForeignKey{KeyID: jwk.KeyID, Alg: jose.SignatureAlgorithm(jwk.Algorithm), Public: jwk.Key}
	if !jwk.IsPublic() {
		private, ok := jwk.Key.(crypto.Signer)
		if !ok {
			return ForeignKey{}, errOtherUse
		}
		k.Private, k.Public = private, jwk.Public().Key
	}
	return k, nil
}

func parsePEM(text, passphrase []byte) ([]ForeignKey, error) {
	var found []ForeignKey
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "EC PARAMETERS" { // openssl writes it before the key
			continue
		}
		parsed, err := parseBlock(block, passphrase)
		if err != nil {
			return nil, err
		}
		k := ForeignKey{Public: parsed}
		if private, ok := parsed.(crypto.Signer); ok {
			k.Private, k.Public = private, private.Public()
		}
		found = append(found, k)
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%w: neither PEM nor a JWK", ErrKeyFile)
	case 1:
		return found, nil
	}
	return nil, fmt.Errorf("%w: more than one key; give one at a time", ErrKeyFile)
}

// parseBlock reads a block of PEM. The parsers' errors are not passed on: they
// may quote what they read.
func parseBlock(block *pem.Block, passphrase []byte) (any, error) {
	var parsed any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		if block.Headers["DEK-Info"] != "" {
			return nil, fmt.Errorf("%w: it is encrypted in OpenSSL's old way, which is broken; turn it into PKCS #8 with openssl pkcs8 -topk8", ErrKeyFile)
		}
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		if block.Headers["DEK-Info"] != "" {
			return nil, fmt.Errorf("%w: it is encrypted in OpenSSL's old way, which is broken; turn it into PKCS #8 with openssl pkcs8 -topk8", ErrKeyFile)
		}
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		if len(passphrase) == 0 {
			return nil, fmt.Errorf("%w: it is encrypted, and there is no passphrase", ErrPassphrase)
		}
		if parsed, _, err = pkcs8.ParsePrivateKey(block.Bytes, passphrase); err != nil {
			return nil, ErrPassphrase
		}
	case "PUBLIC KEY":
		parsed, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		parsed, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var certificate *x509.Certificate
		if certificate, err = x509.ParseCertificate(block.Bytes); err == nil {
			parsed = certificate.PublicKey
		}
	default:
		return nil, fmt.Errorf("%w: PEM of a type that isn't a key's", ErrKeyFile)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: the PEM holds no key that can be read, or its halves don't belong together", ErrKeyFile)
	}
	return parsed, nil
}

// check makes sure of the algorithm, the halves and the strength.
func (k *ForeignKey) check() error {
	if key, ok := k.Public.(*rsa.PublicKey); ok { // before anything is computed with it
		if err := checkRSA(key); err != nil {
			return err
		}
	}
	if k.Alg == "" {
		switch {
		case isEd25519(k.Public):
			k.Alg = jose.EdDSA
		case isRSA(k.Public):
			k.Alg = jose.RS256
		case isP256(k.Public):
			k.Alg = jose.ES256
		}
	}
	if alg, known := algorithms[k.Alg]; !known || !alg.fits(k.Public) {
		return fmt.Errorf("%w: its type isn't one of EdDSA (Ed25519), RS256, PS256 (RSA) or ES256 (P-256), or not the one that its alg says", ErrKeyFile)
	}
	if k.KeyID != "" && !ValidKeyID(k.KeyID) {
		return fmt.Errorf("%w: its kid must be 1 to 128 visible ASCII characters without quotes, backslashes, & and angle brackets", ErrKeyFile)
	}
	if k.Private == nil {
		return nil
	}
	if key, ok := k.Private.(*rsa.PrivateKey); ok {
		if key.Validate() != nil {
			return ErrMismatch
		}
		if len(key.Primes) != 2 {
			return fmt.Errorf("%w: it has %d primes, and other software takes two only", ErrWeakKey, len(key.Primes))
		}
	}
	// The private half alone, as PKCS #8 keeps it, must lead to the public
	// one.
	der, err := x509.MarshalPKCS8PrivateKey(k.Private)
	if err != nil {
		return ErrMismatch
	}
	defer clear(der)
	again, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return ErrMismatch
	}
	private, ok := again.(crypto.Signer)
	if !ok || !equal(private.Public(), k.Public) {
		return ErrMismatch
	}
	k.Private = private
	return nil
}

// checkRSA refuses keys that are known to be breakable.
func checkRSA(k *rsa.PublicKey) error {
	switch bits := k.N.BitLen(); {
	case bits < 2048:
		return fmt.Errorf("%w: RSA with %d bits; 2048 are the least", ErrWeakKey, bits)
	case bits > 8192:
		return fmt.Errorf("%w: RSA with %d bits; verifiers take 8192 at most", ErrKeyFile, bits)
	case k.N.Bit(0) == 0:
		return fmt.Errorf("%w: its modulus is even", ErrWeakKey)
	case k.E%2 == 0:
		return fmt.Errorf("%w: its exponent, %d, is even", ErrWeakKey, k.E)
	case k.E < 65537:
		return fmt.Errorf("%w: its exponent, %d, is tiny; 65537 is the least (NIST SP 800-56B §6.2)", ErrWeakKey, k.E)
	case isROCA(k.N):
		return fmt.Errorf("%w: its modulus has the fingerprint of ROCA (CVE-2017-15361)", ErrWeakKey)
	case closePrimes(k.N):
		return fmt.Errorf("%w: its primes lie close together (Fermat's factorisation, CVE-2022-26320)", ErrWeakKey)
	}
	for _, p := range smallPrimes {
		if new(big.Int).Mod(k.N, big.NewInt(p)).Sign() == 0 {
			return fmt.Errorf("%w: its modulus can be divided by %d", ErrWeakKey, p)
		}
	}
	return nil
}

// smallPrimes are those that the ROCA fingerprint looks at.
var smallPrimes = []int64{
	3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97,
	101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
}

// isROCA reports whether a modulus was made by Infineon's library, whose
// primes are k·M + (65537^a mod M), with M the product of the first primes
// (Nemec et al., "The Return of Coppersmith's Attack", 2017, §2.3): modulo each
// of them it lies in the group that 65537 generates. For another modulus the
// odds of that are about one in 2²⁷.
func isROCA(n *big.Int) bool {
	for _, p := range smallPrimes {
		rest := new(big.Int).Mod(n, big.NewInt(p)).Int64()
		member := false
		for x, i := int64(1), int64(0); i < p && !member; i++ {
			member = x == rest
			x = x * 65537 % p
		}
		if !member {
			return false
		}
	}
	return true
}

// closePrimes tries a hundred rounds of Fermat's factorisation.
func closePrimes(n *big.Int) bool {
	a := new(big.Int).Sqrt(n)
	if new(big.Int).Mul(a, a).Cmp(n) == 0 {
		return true
	}
	one := big.NewInt(1)
	for range 100 {
		a.Add(a, one)
		b2 := new(big.Int).Mul(a, a)
		b2.Sub(b2, n)
		b := new(big.Int).Sqrt(b2)
		if new(big.Int).Mul(b, b).Cmp(b2) == 0 {
			return true
		}
	}
	return false
}

// Placement is where an imported key begins.
type Placement string

// The placements.
const (
	// InTurn announces the key: it signs after the lead, behind the stand-by
	// if there is one.
	InTurn Placement = "in turn"

	// AtOnce lets the key sign from now on, in the place of the one that
	// does: for the key of an issuer that this one takes the place of, whose
	// verifiers hold it already.
	AtOnce Placement = "at once"

	// VerifyOnly publishes the public half, which verifies and never signs:
	// for other keys of that issuer, until the tokens that they have signed
	// are over. In the ring it is a retiring key.
	VerifyOnly Placement = "verify only"
)

// SealForeign makes a key for [Import] of one that was made elsewhere: its
// private half, if it has one and keep is true, sealed. A kid of its own is
// kept, because tokens and verifiers' caches name it.
func SealForeign(ctx context.Context, sealer Sealer, f ForeignKey, keep bool) (Key, error) {
	kid, err := thumbprint(f.Public)
	if err != nil {
		return Key{}, err
	}
	k := Key{ID: kid, Alg: f.Alg, Public: f.Public, Imported: true}
	if f.KeyID != "" {
		k.ID = f.KeyID
	}
	if !keep {
		return k, nil
	}
	if f.Private == nil {
		return Key{}, fmt.Errorf("%w: it has no private half, so it can only verify", ErrKeyFile)
	}
	der, err := x509.MarshalPKCS8PrivateKey(f.Private)
	if err != nil {
		return Key{}, fmt.Errorf("keys: encode the private half of %s: %w", k.ID, err)
	}
	defer clear(der)
	k.Sealed, err = seal(ctx, sealer, k.ID, k.Alg, der)
	return k, err
}

// Import puts a key that was made elsewhere into the ring. until is of use
// with VerifyOnly: how long the key stays published. Like [Rotate] it is pure,
// and Step does the rest.
//
// The error wraps [ErrDuplicate] when the ring has the key, in whatever state,
// another one by its kid, or, for RSA, one that shares a factor of its
// modulus; and [ErrPolicy] when the policy has no place for its algorithm.
//
// Into a ring with no published key, InTurn is AtOnce: nobody holds anything
// that there would be a turn to wait for. A ring that was begun with
// VerifyOnly keys is one in use: verifiers hold a set without the keys that
// Step then makes, which are announced for the whole lead before they sign.
func Import(now time.Time, ring Ring, k Key, where Placement, until time.Duration, policy Policy) (Ring, []Event, error) {
	s := newStep(now, ring, policy)
	if err := s.unlike(&k); err != nil {
		return ring, nil, err
	}
	if where != VerifyOnly {
		if !slices.Contains(policy.Algorithms, k.Alg) {
			return ring, nil, fmt.Errorf("%w: the policy has no keys for %s, so the key would never sign; add it to Algorithms, or import it to verify only", ErrPolicy, k.Alg)
		}
		if k.Sealed == nil {
			return ring, nil, fmt.Errorf("%w: it has no private half, so it can only verify", ErrKeyFile)
		}
	}
	k.Imported, k.RevokedAt, k.Reason = true, time.Time{}, ""
	k.AnnouncedAt, k.ReadyAt = s.now, s.now
	current, standby := s.ring.Signing(k.Alg), s.ring.Standby(k.Alg)
	if where == InTurn && s.ring.find((*Key).Published) == nil {
		where = AtOnce
	}
	var why string
	switch where {
	case AtOnce:
		why = "imported, signs at once"
		k.State, k.ActivateAt = Signing, s.now
		k.RetireAt = s.now.Add(policy.RotationPeriod)
		switch {
		case standby == nil:
		case standby.ActivateAt.After(k.ReadyAt.Add(policy.AnnounceLead)): // its turn stays when it was planned
			k.RetireAt = standby.ActivateAt
		default: // it was about to take over: its turn comes after this key's
			signs := standby.RetireAt.Sub(standby.ActivateAt)
			standby.ActivateAt = later(k.RetireAt, standby.ReadyAt)
			standby.stopAt(standby.ActivateAt.Add(signs))
		}
		if current != nil {
			s.retire(current, "an imported key takes its place")
		}
		k.UnpublishAt = k.RetireAt.Add(policy.Retention)
	case VerifyOnly:
		why = "imported, to verify only"
		k.State, k.Sealed = Retiring, nil
		// Before all other keys: another issuer has published it before, and
		// the newest key of an algorithm must be one of those that sign.
		for i := range s.ring.Keys {
			if at := s.ring.Keys[i].AnnouncedAt; !at.After(k.AnnouncedAt) {
				k.AnnouncedAt = at.Add(-time.Millisecond)
			}
		}
		k.ReadyAt, k.ActivateAt = k.AnnouncedAt, k.AnnouncedAt
		k.RetireAt, k.UnpublishAt = s.now, s.now.Add(until)
	default:
		why = "imported, takes its turn"
		k.State, k.ReadyAt = Announced, s.now.Add(policy.AnnounceLead)
		k.ActivateAt = k.ReadyAt
		for i := range s.ring.Keys { // behind whoever signs and stands by
			if other := &s.ring.Keys[i]; other.Alg == k.Alg && (other.State == Signing || other.State == Announced) {
				k.ActivateAt = later(k.ActivateAt, other.RetireAt)
			}
		}
		k.RetireAt = k.ActivateAt.Add(policy.RotationPeriod)
		k.UnpublishAt = k.RetireAt.Add(policy.Retention)
	}
	s.ring.Keys = append(s.ring.Keys, k)
	s.ring.sort()
	s.event(&k, "", why)
	return s.ring, s.events, nil
}

// unlike compares a key with all that the ring has ever had and not forgotten.
func (s *step) unlike(k *Key) error {
	modulus, isRSA := k.Public.(*rsa.PublicKey)
	for i := range s.ring.Keys {
		other := &s.ring.Keys[i]
		if equal(k.Public, other.Public) {
			return fmt.Errorf("%w: as %s, which is %s", ErrDuplicate, other.ID, other.State)
		}
		if other.ID == k.ID {
			return fmt.Errorf("%w: another key has the kid %s", ErrDuplicate, k.ID)
		}
		if theirs, ok := other.Public.(*rsa.PublicKey); isRSA && ok {
			if modulus.N.Cmp(theirs.N) == 0 {
				return fmt.Errorf("%w: %s has the same modulus", ErrDuplicate, other.ID)
			}
			if new(big.Int).GCD(nil, nil, modulus.N, theirs.N).BitLen() > 1 {
				return fmt.Errorf("%w: its modulus has a factor in common with that of %s: both are broken", ErrWeakKey, other.ID)
			}
		}
	}
	return nil
}
