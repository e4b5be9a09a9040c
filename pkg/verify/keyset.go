package verify

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
)

const (
	minRSABits = 2048
	maxRSABits = 8192 // beyond, one verification costs milliseconds
)

// A KeySet is a parsed JWK Set (RFC 7517 §5). It is immutable.
type KeySet struct {
	keys    map[string][]*key // by kid; more than one only for different algorithms
	size    int
	skipped []SkippedKey
	sum     [sha256.Size]byte // of the document
}

// A SkippedKey is a member of a JWK Set that is not used.
type SkippedKey struct {
	KeyID  string // as far as it could be read
	Reason error
}

// Why a key is skipped.
var (
	errPrivate  = errors.New("it has private members, so others hold it too")
	errNoID     = errors.New("it has no kid, or one that is too long")
	errUse      = errors.New("it is not for verifying signatures")
	errFamily   = errors.New("unknown kty or crv")
	errWrongAlg = errors.New("alg is unknown or is not of this kty")
	errWeak     = errors.New("its parameters are not safe")
	errTwice    = errors.New("two different keys have this kid and alg")
)

// Len is the number of usable keys.
func (s *KeySet) Len() int { return s.size }

// Skipped lists the keys of the document that are not used, and why.
func (s *KeySet) Skipped() []SkippedKey { return append([]SkippedKey(nil), s.skipped...) }

// ParseKeySet reads a JWK Set. Each key is judged by itself: one that this
// package can't or won't use is skipped (see [KeySet.Skipped]) and never costs
// the others. It is skipped if
//
//   - kty, crv or alg is unknown (of OKP only Ed25519, of EC only P-256), or
//     alg does not belong to kty; without alg, an RSA key is for RS256
//   - it has no kid, or private or symmetric members (d, p, q, k, …)
//   - use is there and not "sig", or key_ops is there without "verify"
//   - it is weak: RSA under 2048 or over 8192 bits or with an even or tiny
//     exponent, a point that is not on its curve
//   - another key has the same kid and alg but other parameters. Then both are
//     dropped: which of them is meant can't be known, and to take the first
//     would let the order decide who signs. An exact repeat is one key.
//
// The error is [ErrKeySet] if the document is not a JSON object with a list
// "keys", or no key is usable.
func ParseKeySet(doc []byte) (*KeySet, error) {
	set := &KeySet{keys: map[string][]*key{}, sum: sha256.Sum256(doc)}
	dropped := map[[2]string]bool{}
	found := false
	text := string(doc)
	r := reader{s: text}
	err := r.object(func(name string) error {
		// Foreign members, and each key, may repeat names inside: a key is
		// judged when its turn comes.
		r.loose = true
		defer func() { r.loose = false }()
		if name != "keys" {
			return r.value()
		}
		found = true
		return r.array(func() error {
			r.space()
			start := r.i
			if err := r.value(); err != nil {
				return err
			}
			id, k, err := parseKey(text[start:r.i])
			if err != nil {
				set.skipped = append(set.skipped, SkippedKey{KeyID: id, Reason: err})
				return nil
			}
			set.add(k, dropped)
			return nil
		})
	})
	if err == nil {
		err = r.end()
	}
	switch {
	case err != nil:
		return nil, wrap(ErrKeySet, err)
	case !found:
		return nil, fmt.Errorf(`%w: no member "keys"`, ErrKeySet)
	case set.size == 0:
		return nil, fmt.Errorf("%w: no usable key among %d", ErrKeySet, len(set.skipped))
	}
	return set, nil
}

// add puts k into the set. dropped holds the (kid, alg) that no key can have.
func (s *KeySet) add(k *key, dropped map[[2]string]bool) {
	name := [2]string{k.id, k.alg}
	skip := func() { s.skipped = append(s.skipped, SkippedKey{KeyID: k.id, Reason: errTwice}) }
	if dropped[name] {
		skip()
		return
	}
	same := s.keys[k.id]
	for i, other := range same {
		switch {
		case other.alg != k.alg:
		case other.public.equal(k.public):
			return
		default:
			dropped[name] = true
			if same = append(same[:i], same[i+1:]...); len(same) == 0 {
				delete(s.keys, k.id)
			} else {
				s.keys[k.id] = same
			}
			s.size--
			skip()
			skip()
			return
		}
	}
	s.keys[k.id] = append(same, k)
	s.size++
}

// parseKey reads one key. It also returns the kid of a key that it refuses.
func parseKey(text string) (id string, k *key, err error) {
	m, err := parseMembers(text)
	id = m.kid[:min(len(m.kid), maxKeyID)]
	if err != nil {
		return id, nil, err
	}
	alg, err := m.algorithm()
	if err != nil {
		return id, nil, err
	}
	public, err := m.public(alg)
	if err != nil {
		return id, nil, err
	}
	// A copy, or one key would keep the whole document.
	return id, &key{id: strings.Clone(m.kid), alg: alg, public: public}, nil
}

// members is what we read of a JWK; the numbers are still base64url.
type members struct {
	kty, crv, alg, use, kid         string
	n, e, x, y                      string
	hasUse, hasOps, canVerify, priv bool
}

// privateMembers are those that only who holds a private or a symmetric key
// writes (RFC 7518 §6, RFC 8037 §2, the draft of AKP).
var privateMembers = [...]string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}

func parseMembers(text string) (m members, err error) {
	r := reader{s: text}
	err = r.object(func(name string) (err error) {
		switch name {
		case "kty":
			m.kty, err = r.str()
		case "crv":
			m.crv, err = r.str()
		case "alg":
			m.alg, err = r.str()
		case "kid":
			m.kid, err = r.str()
		case "n":
			m.n, err = r.str()
		case "e":
			m.e, err = r.str()
		case "x":
			m.x, err = r.str()
		case "y":
			m.y, err = r.str()
		case "use":
			m.hasUse = true
			m.use, err = r.str()
		case "key_ops":
			m.hasOps = true
			err = r.array(func() error {
				op, err := r.str()
				m.canVerify = m.canVerify || op == "verify"
				return err
			})
		default:
			// In any case, because some other reader may take it in any case.
			m.priv = m.priv || slices.Contains(privateMembers[:], strings.ToLower(name))
			err = r.value()
		}
		return err
	})
	if err != nil {
		return m, err
	}
	switch {
	case m.priv:
		return m, errPrivate
	case m.kid == "", len(m.kid) > maxKeyID:
		return m, errNoID
	case m.hasUse && m.use != "sig", m.hasOps && !m.canVerify:
		return m, errUse
	}
	return m, nil
}

// algorithm is the one algorithm that the key is for.
func (m *members) algorithm() (string, error) {
	var of []string
	switch {
	case m.kty == "OKP" && m.crv == "Ed25519":
		of = []string{EdDSA}
	case m.kty == "EC" && m.crv == "P-256":
		of = []string{ES256}
	case m.kty == "RSA":
		of = []string{RS256, PS256}
	default:
		return "", errFamily
	}
	if m.alg == "" {
		return of[0], nil
	}
	for _, alg := range of {
		if alg == m.alg {
			return alg, nil
		}
	}
	return "", errWrongAlg
}

// public makes the key of its numbers (RFC 7518 §6, RFC 8037 §2). jwx does it
// in five times the time and leaves half of this to be checked; in the tests
// it judges this.
func (m *members) public(alg string) (publicKey, error) {
	switch alg {
	case EdDSA:
		x, err := octets(m.x)
		if err != nil || len(x) != ed25519.PublicKeySize || m.y != "" {
			return nil, errWeak
		}
		return edKey(x), nil
	case ES256:
		x, errX := octets(m.x)
		y, errY := octets(m.y)
		if errX != nil || errY != nil || len(x) != coordinate || len(y) != coordinate {
			return nil, errWeak
		}
		// It refuses a point that is not on the curve.
		k, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
		if err != nil {
			return nil, errWeak
		}
		return ecKey{k}, nil
	case RS256, PS256:
		// No exponent of more than 31 bits is of use, nor known to package rsa.
		e, err := octets(m.e)
		if err != nil || len(e) == 0 || len(e) > 4 {
			return nil, errWeak
		}
		n, err := octets(m.n)
		if err != nil {
			return nil, errWeak
		}
		k := &rsa.PublicKey{N: new(big.Int).SetBytes(n)}
		for _, b := range e {
			k.E = k.E<<8 | int(b)
		}
		bits := k.N.BitLen()
		if bits < minRSABits || bits > maxRSABits || k.N.Bit(0) == 0 || k.E < 3 || k.E > math.MaxInt32 || k.E%2 == 0 {
			return nil, errWeak
		}
		if alg == RS256 {
			return pkcs1Key{k}, nil
		}
		return pssKey{k}, nil
	}
	return nil, errFamily
}

// coordinate is the length of a coordinate on P-256 (RFC 7518 §6.2.1.2).
const coordinate = 32

// octets decodes canonical base64url.
func octets(s string) ([]byte, error) { return canonical.DecodeString(s) }
