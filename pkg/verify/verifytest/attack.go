package verifytest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" //nolint:gosec // what no verifier may take any more
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/urbandata/urbandata/pkg/verify"
)

// An Attack is a recipe for one hostile token. The corpus is
// pkg/verify/testdata/attacks.json; each verifier of the house is run against
// it, and anyone may run theirs.
//
// Header, Payload and Token are templates (text/template) with the functions
// of [Attacker.Token]. The first two have a default, which makes a good token.
// Token puts it together out of .Header, .Payload (the text), .H, .P and .S
// (the encoded parts).
type Attack struct {
	Name   string `json:"name"`
	Source string `json:"source"` // where the attack is from: an RFC's section, a CVE, a paper
	Want   string `json:"want"`   // as of [verify.Reason]; "ok" for a token that is odd but good

	Header  string `json:"header,omitempty"`
	Payload string `json:"payload,omitempty"`
	// Key signs: an algorithm's name for the issuer's key (default EdDSA),
	// "stranger:" and an algorithm for another issuer's, "hmac:" and pem, der,
	// jwk, bytes, modulus, kid or nothing for HS256 with what is public of the
	// key that kid names.
	Key string `json:"key,omitempty"`
	// Signature changes the signature: see signatures in attack.go.
	Signature string `json:"signature,omitempty"`
	Token     string `json:"token,omitempty"`
}

const (
	defaultHeader  = `{"alg":"{{alg}}","kid":"{{kid}}","typ":"at+jwt"}`
	defaultPayload = `{"iss":"{{iss}}","aud":"{{aud}}","sub":"u","exp":{{now 300}},"iat":{{now 0}},"scope":"inmuebles:read","token_type":"access"}`
	defaultForm    = `{{.H}}.{{.P}}.{{.S}}`
)

// LoadAttacks reads a corpus. A recipe with an unknown member is an error.
func LoadAttacks(tb testing.TB, path string) []Attack {
	tb.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var all []Attack
	if err := d.Decode(&all); err != nil {
		tb.Fatal(err)
	}
	return all
}

// An Attacker makes the tokens of attacks on the verifiers of one issuer.
type Attacker struct {
	tb       testing.TB
	issuer   *Issuer
	stranger *Issuer
}

// NewAttacker returns an attacker of issuer, which must have a key for every
// algorithm.
func NewAttacker(tb testing.TB, issuer *Issuer) *Attacker {
	tb.Helper()
	return &Attacker{tb: tb, issuer: issuer, stranger: NewIssuer(tb, verify.Algorithms()...)}
}

// Token makes the token of an attack. Its templates have these functions:
//
//	alg           the algorithm of the key that signs
//	kid, kid ALG  the kid of that key, or of the issuer's key for ALG
//	iss aud       as the verifier wants them
//	now N         the time in N seconds, as a NumericDate
//	good          a good token
//	jwk           the public key of a stranger, as a JWK
//	repeat S N, upper S, lower S, hex S (bytes), encode S (base64url), members N
func (a *Attacker) Token(attack Attack) string {
	a.tb.Helper()
	alg, secret := verify.EdDSA, ""
	signer := a.issuer
	switch where, what, ok := strings.Cut(attack.Key, ":"); {
	case attack.Key == "":
	case !ok:
		alg = attack.Key
	case where == "stranger":
		signer, alg = a.stranger, what
	case where == "hmac":
		alg, secret = "HS256", what
	}
	functions := template.FuncMap{
		"alg": func() string { return alg },
		"kid": func(of ...string) string {
			switch {
			case len(of) > 0:
				return a.issuer.KeyID(of[0])
			case secret != "":
				return a.issuer.KeyID(verify.RS256)
			}
			return a.issuer.KeyID(alg) // a stranger signs under the issuer's name
		},
		"iss":  func() string { return a.issuer.URL },
		"aud":  func() string { return Audience },
		"now":  func(n int64) int64 { return time.Now().Unix() + n },
		"good": func() string { return a.issuer.Token("u", "inmuebles:read") },
		"jwk": func() (string, error) {
			m, err := a.stranger.key(verify.EdDSA).jwk()
			if err != nil {
				return "", err
			}
			text, err := json.Marshal(m)
			return string(text), err
		},
		"repeat": func(s string, n int) string { return strings.Repeat(s, n) },
		"upper":  strings.ToUpper,
		"lower":  strings.ToLower,
		"hex": func(s string) (string, error) {
			b, err := hex.DecodeString(s)
			return string(b), err
		},
		"encode": func(s string) string { return encode([]byte(s)) },
		"members": func(n int) string {
			var b strings.Builder
			for i := range n {
				b.WriteString(`"m` + big.NewInt(int64(i)).String() + `":0,`)
			}
			return b.String()
		},
	}
	fill := func(text, usual string, data any) string {
		if text == "" {
			text = usual
		}
		t, err := template.New(attack.Name).Funcs(functions).Parse(text)
		if err != nil {
			a.tb.Fatal(err)
		}
		var b strings.Builder
		if err := t.Execute(&b, data); err != nil {
			a.tb.Fatal(err)
		}
		return b.String()
	}
	parts := struct{ Header, Payload, H, P, S string }{
		Header: fill(attack.Header, defaultHeader, nil), Payload: fill(attack.Payload, defaultPayload, nil),
	}
	parts.H, parts.P = encode([]byte(parts.Header)), encode([]byte(parts.Payload))
	signed := []byte(parts.H + "." + parts.P)
	var signature []byte
	if secret != "" {
		mac := hmac.New(sha256.New, a.secret(secret))
		mac.Write(signed)
		signature = mac.Sum(nil)
	} else {
		var err error
		if signature, err = signer.key(alg).sign(signed); err != nil {
			a.tb.Fatal(err)
		}
		if attack.Signature != "" {
			change := signatures[attack.Signature]
			if change == nil {
				a.tb.Fatalf("%s: no such change of a signature: %s", attack.Name, attack.Signature)
			}
			signature = change(signature, signer.key(alg).private, signed)
		}
	}
	parts.S = encode(signature)
	return fill(attack.Token, defaultForm, parts)
}

// secret is what is public about the issuer's keys, as a secret of HMAC.
func (a *Attacker) secret(form string) []byte {
	public := a.issuer.PublicKey(verify.RS256).(*rsa.PublicKey)
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		a.tb.Fatal(err)
	}
	switch form {
	case "pem":
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	case "pem without line end":
		return bytes.TrimSpace(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	case "pkcs1 pem":
		return pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(public)})
	case "der":
		return der
	case "jwk":
		m, err := a.issuer.key(verify.RS256).jwk()
		if err != nil {
			a.tb.Fatal(err)
		}
		text, _ := json.Marshal(m) // strings always marshal
		return text
	case "jwks":
		return a.issuer.KeySet()
	case "modulus":
		return public.N.Bytes()
	case "bytes":
		return a.issuer.PublicKey(verify.EdDSA).(ed25519.PublicKey)
	case "kid":
		return []byte(a.issuer.KeyID(verify.RS256))
	case "nothing":
		return nil
	case "zero":
		return []byte{0}
	}
	a.tb.Fatalf("no such secret: %s", form)
	return nil
}

// signatures are the ways to change a signature s by the private key k over a
// text. A thief has no private key: those that use it make what a broken
// verifier would take for good, and so are harder to refuse.
var signatures = map[string]func(s []byte, k crypto.Signer, text []byte) []byte{
	"none":          func([]byte, crypto.Signer, []byte) []byte { return nil },
	"zero":          func(s []byte, _ crypto.Signer, _ []byte) []byte { return make([]byte, len(s)) },
	"ones":          func(s []byte, _ crypto.Signer, _ []byte) []byte { return bytes.Repeat([]byte{0xff}, len(s)) },
	"one byte":      func([]byte, crypto.Signer, []byte) []byte { return []byte{0} },
	"drop first":    func(s []byte, _ crypto.Signer, _ []byte) []byte { return s[1:] },
	"drop last":     func(s []byte, _ crypto.Signer, _ []byte) []byte { return s[:len(s)-1] },
	"half":          func(s []byte, _ crypto.Signer, _ []byte) []byte { return s[:len(s)/2] },
	"append zero":   func(s []byte, _ crypto.Signer, _ []byte) []byte { return append(s, 0) },
	"prepend zero":  func(s []byte, _ crypto.Signer, _ []byte) []byte { return append([]byte{0}, s...) },
	"twice":         func(s []byte, _ crypto.Signer, _ []byte) []byte { return append(s, s...) },
	"flip first":    func(s []byte, _ crypto.Signer, _ []byte) []byte { s[0] ^= 1; return s },
	"flip last":     func(s []byte, _ crypto.Signer, _ []byte) []byte { s[len(s)-1] ^= 1; return s },
	"reversed":      func(s []byte, _ crypto.Signer, _ []byte) []byte { slices.Reverse(s); return s },
	"halves turned": func(s []byte, _ crypto.Signer, _ []byte) []byte { return append(s[len(s)/2:], s[:len(s)/2]...) },
	"hexadecimal":   func(s []byte, _ crypto.Signer, _ []byte) []byte { return []byte(hex.EncodeToString(s)) },
	"megabyte":      func([]byte, crypto.Signer, []byte) []byte { return make([]byte, 1<<20) },

	// Ed25519 (RFC 8032 §5.1.7): S is little-endian and below the order L.
	"S+L": func(s []byte, _ crypto.Signer, _ []byte) []byte {
		return withS(s, new(big.Int).Add(scalar(s), edOrder))
	},
	"S+8L": func(s []byte, _ crypto.Signer, _ []byte) []byte {
		return withS(s, new(big.Int).Add(scalar(s), new(big.Int).Lsh(edOrder, 3)))
	},
	"S=0": func(s []byte, _ crypto.Signer, _ []byte) []byte { return withS(s, new(big.Int)) },
	"S=L": func(s []byte, _ crypto.Signer, _ []byte) []byte { return withS(s, edOrder) },
	"L-S": func(s []byte, _ crypto.Signer, _ []byte) []byte {
		return withS(s, new(big.Int).Sub(edOrder, scalar(s)))
	},
	"R neutral":    func(s []byte, _ crypto.Signer, _ []byte) []byte { return append(point("01"), s[32:]...) },
	"R neutral, 0": func([]byte, crypto.Signer, []byte) []byte { return append(point("01"), make([]byte, 32)...) },
	"R of order 2": func([]byte, crypto.Signer, []byte) []byte {
		return append(point("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"), make([]byte, 32)...)
	},
	"R of order 4": func([]byte, crypto.Signer, []byte) []byte { return append(point("00"), make([]byte, 32)...) },
	"R of order 8": func([]byte, crypto.Signer, []byte) []byte {
		return append(point("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), make([]byte, 32)...)
	},
	"R not canonical": func([]byte, crypto.Signer, []byte) []byte {
		return append(point("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"), make([]byte, 32)...)
	},
	"R with its sign turned": func(s []byte, _ crypto.Signer, _ []byte) []byte { s[31] ^= 0x80; return s },
	"Ed25519ph": func(_ []byte, k crypto.Signer, text []byte) []byte {
		sum := sha512.Sum512(text)
		return must(k.Sign(nil, sum[:], &ed25519.Options{Hash: crypto.SHA512}))
	},
	"Ed25519ctx": func(_ []byte, k crypto.Signer, text []byte) []byte {
		return must(k.Sign(nil, text, &ed25519.Options{Context: "JWT"}))
	},
	"of the hash": func(_ []byte, k crypto.Signer, text []byte) []byte {
		sum := sha256.Sum256(text)
		return ed25519.Sign(k.(ed25519.PrivateKey), sum[:])
	},

	// ECDSA (RFC 7518 §3.4): r and s, 32 bytes each, from 1 to below n.
	"r=0": func(s []byte, _ crypto.Signer, _ []byte) []byte { clear(s[:32]); return s },
	"s=0": func(s []byte, _ crypto.Signer, _ []byte) []byte { clear(s[32:]); return s },
	"r=n": func(s []byte, _ crypto.Signer, _ []byte) []byte { copy(s[:32], p256.N.Bytes()); return s },
	"s=n": func(s []byte, _ crypto.Signer, _ []byte) []byte { copy(s[32:], p256.N.Bytes()); return s },
	"r=n, s=n": func(s []byte, _ crypto.Signer, _ []byte) []byte {
		return append(p256.N.Bytes(), p256.N.Bytes()...)
	},
	"r=1, s=1": func(s []byte, _ crypto.Signer, _ []byte) []byte { clear(s); s[31], s[63] = 1, 1; return s },
	"r=p":      func(s []byte, _ crypto.Signer, _ []byte) []byte { copy(s[:32], p256.P.Bytes()); return s },
	"n-s": func(s []byte, _ crypto.Signer, _ []byte) []byte {
		new(big.Int).Sub(p256.N, new(big.Int).SetBytes(s[32:])).FillBytes(s[32:])
		return s
	},
	"DER": func(s []byte, _ crypto.Signer, _ []byte) []byte {
		return must(asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(s[:32]), new(big.Int).SetBytes(s[32:])}))
	},
	"each with a zero in front": func(s []byte, _ crypto.Signer, _ []byte) []byte {
		return slices.Concat([]byte{0}, s[:32], []byte{0}, s[32:])
	},
	"ECDSA of SHA-512": func(_ []byte, k crypto.Signer, text []byte) []byte {
		sum := sha512.Sum512(text)
		r, s, err := ecdsa.Sign(rand.Reader, k.(*ecdsa.PrivateKey), sum[:])
		if err != nil {
			panic(err)
		}
		return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	},

	// RSASSA-PKCS1-v1_5 (RFC 8017 §8.2.2): as long as n, below n, of one form.
	"plus n": func(s []byte, k crypto.Signer, _ []byte) []byte {
		return new(big.Int).Add(new(big.Int).SetBytes(s), k.Public().(*rsa.PublicKey).N).Bytes()
	},
	"one": func(s []byte, _ crypto.Signer, _ []byte) []byte { clear(s); s[len(s)-1] = 1; return s },
	"n-1": func(s []byte, k crypto.Signer, _ []byte) []byte {
		return new(big.Int).Sub(k.Public().(*rsa.PublicKey).N, big.NewInt(1)).FillBytes(s)
	},
	"PKCS #1 of SHA-1": func(_ []byte, k crypto.Signer, text []byte) []byte {
		h := crypto.SHA1.New()
		h.Write(text)
		return must(rsa.SignPKCS1v15(nil, k.(*rsa.PrivateKey), crypto.SHA1, h.Sum(nil)))
	},
	"PKCS #1 of SHA-512": func(_ []byte, k crypto.Signer, text []byte) []byte {
		sum := sha512.Sum512(text)
		return must(rsa.SignPKCS1v15(nil, k.(*rsa.PrivateKey), crypto.SHA512, sum[:]))
	},
	"PKCS #1 without DigestInfo": func(_ []byte, k crypto.Signer, text []byte) []byte {
		sum := sha256.Sum256(text)
		return must(rsa.SignPKCS1v15(nil, k.(*rsa.PrivateKey), 0, sum[:]))
	},
	"PSS": func(_ []byte, k crypto.Signer, text []byte) []byte {
		sum := sha256.Sum256(text)
		return must(rsa.SignPSS(rand.Reader, k.(*rsa.PrivateKey), crypto.SHA256, sum[:], nil))
	},
	"PSS of SHA-384": func(_ []byte, k crypto.Signer, text []byte) []byte {
		sum := sha512.Sum384(text)
		return must(rsa.SignPSS(rand.Reader, k.(*rsa.PrivateKey), crypto.SHA384, sum[:], nil))
	},
	"PSS with a salt of one byte": func(_ []byte, k crypto.Signer, text []byte) []byte {
		sum := sha256.Sum256(text)
		return must(rsa.SignPSS(rand.Reader, k.(*rsa.PrivateKey), crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: 1}))
	},
	"PKCS #1": func(_ []byte, k crypto.Signer, text []byte) []byte {
		sum := sha256.Sum256(text)
		return must(rsa.SignPKCS1v15(nil, k.(*rsa.PrivateKey), crypto.SHA256, sum[:]))
	},
	"short padding, rubbish behind": func(s []byte, k crypto.Signer, text []byte) []byte {
		em := append([]byte{0, 1, 255, 255, 255, 255, 255, 255, 255, 255, 0}, digestInfo(text)...)
		return power(k, append(em, make([]byte, len(s)-len(em))...))
	},
	"rubbish in the padding": func(s []byte, k crypto.Signer, text []byte) []byte {
		em := padded(len(s), digestInfo(text), 0xff)
		em[20] = 0x2a
		return power(k, em)
	},
	"padding of type 0": func(s []byte, k crypto.Signer, text []byte) []byte {
		em := padded(len(s), digestInfo(text), 0)
		em[1] = 0
		return power(k, em)
	},
	"padding of type 2": func(s []byte, k crypto.Signer, text []byte) []byte {
		em := padded(len(s), digestInfo(text), 0x42)
		em[1] = 2
		return power(k, em)
	},
	"no padding": func(s []byte, k crypto.Signer, text []byte) []byte {
		sum := sha256.Sum256(text)
		return power(k, append(make([]byte, len(s)-len(sum)), sum[:]...))
	},
	"DigestInfo without NULL": func(s []byte, k crypto.Signer, text []byte) []byte {
		sum := sha256.Sum256(text)
		info, _ := hex.DecodeString("302f300b0609608648016503040201" + "0420")
		return power(k, padded(len(s), append(info, sum[:]...), 0xff))
	},
	"DigestInfo with rubbish": func(s []byte, k crypto.Signer, text []byte) []byte {
		info := digestInfo(text)
		info[1] += 4
		return power(k, padded(len(s), append(info, 4, 2, 0xbe, 0xef), 0xff))
	},
}

var (
	edOrder, _ = new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	p256       = elliptic.P256().Params()
)

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// scalar is the S of an Ed25519 signature.
func scalar(s []byte) *big.Int {
	little := slices.Clone(s[32:])
	slices.Reverse(little)
	return new(big.Int).SetBytes(little)
}

// withS is an Ed25519 signature with another S. What does not fit is cut.
func withS(s []byte, x *big.Int) []byte {
	big := x.FillBytes(make([]byte, 40))
	slices.Reverse(big)
	return append(slices.Clone(s[:32]), big[:32]...)
}

// point is an encoded point of the curve, filled up with zeros.
func point(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return append(b, make([]byte, 32-len(b))...)
}

// digestInfo is that of SHA-256 (RFC 8017 §9.2).
func digestInfo(text []byte) []byte {
	sum := sha256.Sum256(text)
	info, _ := hex.DecodeString("3031300d060960864801650304020105000420")
	return append(info, sum[:]...)
}

// padded is 0, 1, padding, 0, info.
func padded(size int, info []byte, padding byte) []byte {
	em := bytes.Repeat([]byte{padding}, size)
	em[0], em[1], em[size-len(info)-1] = 0, 1, 0
	copy(em[size-len(info):], info)
	return em
}

// power is the bare RSA operation.
func power(k crypto.Signer, em []byte) []byte {
	private := k.(*rsa.PrivateKey)
	return new(big.Int).Exp(new(big.Int).SetBytes(em), private.D, private.N).FillBytes(make([]byte, len(em)))
}
