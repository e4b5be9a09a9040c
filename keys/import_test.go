package keys_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/keys"
)

func pemOf(t testing.TB, kind string, der []byte, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func pkcs8Of(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pemOf(t, "PRIVATE KEY", der, err)
}

func publicPEM(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	return pemOf(t, "PUBLIC KEY", der, err)
}

func jwkOf(t testing.TB, key any, kid, alg string) string {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKey{Key: key, KeyID: kid, Algorithm: alg, Use: "sig"})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rsaKey is one RSA key of 2048 bits for all tests.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// rsaWith is the public half for a modulus and an exponent.
func rsaWith(t testing.TB, n *big.Int, e int) string {
	t.Helper()
	return publicPEM(t, &rsa.PublicKey{N: n, E: e})
}

// rocaModulus is made as Infineon's library made them: two primes of the form
// k·M + (65537^a mod M). For the fingerprint it doesn't matter whether they
// are prime, and finding out takes long.
func rocaModulus() *big.Int {
	m := big.NewInt(1)
	for _, p := range []int64{2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167} {
		m.Mul(m, big.NewInt(p))
	}
	factor := func(a, k int64) *big.Int {
		f := new(big.Int).Exp(big.NewInt(65537), big.NewInt(a), m)
		multiple := new(big.Int).Lsh(big.NewInt(k), uint(1024-m.BitLen()-3))
		return f.Add(f, multiple.Mul(multiple, m))
	}
	return new(big.Int).Mul(factor(1234567, 9), factor(7654321, 13))
}

func TestParseKeys(t *testing.T) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	_, otherEd, _ := ed25519.GenerateKey(rand.Reader)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	r := rsaKey()
	ecDER, ecErr := x509.MarshalECPrivateKey(ec)
	foreign := jwkOf(t, ed, "a", "EdDSA")
	x := func(k ed25519.PrivateKey) string {
		return base64.RawURLEncoding.EncodeToString(k.Public().(ed25519.PublicKey))
	}
	mismatched := strings.Replace(foreign, x(ed), x(otherEd), 1)
	mixed := *r
	mixed.N = new(big.Int).Add(r.N, big.NewInt(2))
	even := new(big.Int).Lsh(big.NewInt(1), 2050)
	near := new(big.Int).Lsh(big.NewInt(1), 1024)
	near.Add(near, big.NewInt(643)) // odd, and no small prime divides it or what is 4 more
	nearModulus := new(big.Int).Mul(near, new(big.Int).Add(near, big.NewInt(100)))

	for _, tc := range []struct {
		name, text string
		want       error
		says       string
		found      string // kid alg half of each
	}{
		{name: "PKCS #8, Ed25519", text: pkcs8Of(t, ed), found: "/EdDSA/private"},
		{name: "PKCS #8, RSA", text: pkcs8Of(t, r), found: "/RS256/private"},
		{name: "PKCS #8, P-256", text: pkcs8Of(t, ec), found: "/ES256/private"},
		{name: "PKCS #1", text: pemOf(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(r), nil), found: "/RS256/private"},
		{name: "SEC 1, after its parameters", text: pemOf(t, "EC PARAMETERS", []byte{1}, nil) + pemOf(t, "EC PRIVATE KEY", ecDER, ecErr), found: "/ES256/private"},
		{name: "a public key", text: publicPEM(t, ed.Public()), found: "/EdDSA/public"},
		{name: "PKCS #1, public", text: pemOf(t, "RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&r.PublicKey), nil), found: "/RS256/public"},
		{name: "a JWK", text: foreign, found: "a/EdDSA/private"},
		{name: "a JWK, RSA", text: jwkOf(t, r, "2021-01", ""), found: "2021-01/RS256/private"},
		{name: "a JWK, PS256", text: " " + jwkOf(t, r, "x", "PS256"), found: "x/PS256/private"},
		{name: "a JWK, P-256", text: jwkOf(t, ec, "", "ES256"), found: "/ES256/private"},
		{name: "a set", text: `{"keys":[` + jwkOf(t, ed.Public(), "a", "EdDSA") + `,{"kty":"AKP","alg":"ML-DSA-65"},` + jwkOf(t, p384.Public(), "c", "ES384") + `,` + jwkOf(t, r.Public(), "b", "") + `]}`, found: "a/EdDSA/public b/RS256/public"},

		{name: "nothing", want: keys.ErrKeyFile},
		{name: "garbage", text: "SECRET", want: keys.ErrKeyFile},
		{name: "broken JSON", text: `{"kty":"OKP","d":"SECRET`, want: keys.ErrKeyFile},
		{name: "a set of nothing", text: `{"keys":[]}`, want: keys.ErrKeyFile, says: "no signing key"},
		{name: "a set with a private key", text: `{"keys":[` + foreign + `]}`, want: keys.ErrKeyFile, says: "private keys in it"},
		{name: "a symmetric JWK", text: `{"kty":"oct","k":"U0VDUkVU"}`, want: keys.ErrKeyFile},
		{name: "a JWK to encrypt with", text: strings.Replace(jwkOf(t, r, "", ""), `"use":"sig"`, `"use":"enc"`, 1), want: keys.ErrKeyFile, says: "another use"},
		{name: "another curve", text: pkcs8Of(t, p384), want: keys.ErrKeyFile, says: "P-256"},
		{name: "the alg of another type", text: strings.Replace(foreign, `"EdDSA"`, `"RS256"`, 1), want: keys.ErrKeyFile},
		{name: "a kid with a quote", text: strings.Replace(foreign, `"kid":"a"`, `"kid":"a\"b"`, 1), want: keys.ErrKeyFile, says: "kid"},
		{name: "two keys", text: pkcs8Of(t, ed) + pkcs8Of(t, otherEd), want: keys.ErrKeyFile, says: "more than one"},
		{name: "a certificate request", text: pemOf(t, "CERTIFICATE REQUEST", []byte{1}, nil), want: keys.ErrKeyFile},
		{name: "cut short", text: pemOf(t, "PRIVATE KEY", []byte{0x30, 0x2e}, nil), want: keys.ErrKeyFile},
		{name: "OpenSSL's old encryption", text: "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: DES-EDE3-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n", want: keys.ErrKeyFile, says: "old way"},
		{name: "too long", text: strings.Repeat(" ", 300<<10), want: keys.ErrKeyFile},

		{name: "mismatched halves, Ed25519", text: mismatched, want: keys.ErrKeyFile, says: "halves"},
		{name: "mismatched halves, RSA", text: pemOf(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(&mixed), nil), want: keys.ErrKeyFile, says: "halves"},

		{name: "RSA, 1024 bits", text: publicPEM(t, short.Public()), want: keys.ErrWeakKey, says: "1024 bits"},
		{name: "exponent 3", text: rsaWith(t, r.N, 3), want: keys.ErrWeakKey, says: "tiny"},
		{name: "exponent 17", text: rsaWith(t, r.N, 17), want: keys.ErrWeakKey, says: "tiny"},
		{name: "an even exponent", text: rsaWith(t, r.N, 65536), want: keys.ErrWeakKey, says: "even"},
		{name: "an even modulus", text: rsaWith(t, even, 65537), want: keys.ErrWeakKey, says: "modulus is even"},
		{name: "a small factor", text: rsaWith(t, new(big.Int).Mul(r.N, big.NewInt(101)), 65537), want: keys.ErrWeakKey, says: "divided by 101"},
		{name: "ROCA", text: rsaWith(t, rocaModulus(), 65537), want: keys.ErrWeakKey, says: "ROCA"},
		{name: "primes close together", text: rsaWith(t, nearModulus, 65537), want: keys.ErrWeakKey, says: "Fermat"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			found, err := keys.ParseKeys([]byte(tc.text), nil)
			if !errors.Is(err, tc.want) {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
			if err != nil && (!strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "SECRET")) {
				t.Errorf("error is %q, want one that says %q", err, tc.says)
			}
			var list []string
			for _, k := range found {
				half := "public"
				if k.Private != nil {
					half = "private"
				}
				list = append(list, fmt.Sprintf("%s/%s/%s", k.KeyID, k.Alg, half))
			}
			if strings.Join(list, " ") != tc.found {
				t.Errorf("found %v, want %s", list, tc.found)
			}
		})
	}
}

// Ordinary keys are not taken for weak ones.
func TestGoodKeysPass(t *testing.T) {
	for range 5 {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := keys.ParseKeys([]byte(pkcs8Of(t, k)), nil); err != nil {
			t.Error(err)
		}
	}
}

var (
	day    = 24 * time.Hour
	policy = keys.DefaultPolicy()
	start  = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
)

func sealerOf(t testing.TB) keys.Sealer {
	t.Helper()
	s, err := keys.NewSealer(keys.GenerateSealingKey())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// foreignKey is an Ed25519 key of another issuer.
func foreignKey(t testing.TB, sealer keys.Sealer, kid string, private bool) keys.Key {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	found, err := keys.ParseKeys([]byte(jwkOf(t, ed, kid, "EdDSA")), nil)
	if err != nil {
		t.Fatal(err)
	}
	k, err := keys.SealForeign(t.Context(), sealer, found[0], private)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// drive steps a ring to a moment as a keeper would, and insists on the
// invariants all the way.
func drive(t testing.TB, sealer keys.Sealer, ring keys.Ring, from, to time.Time) keys.Ring {
	t.Helper()
	for now := from; !now.After(to); now = now.Add(time.Hour) {
		for range 2 {
			var fresh []keys.Key
			for _, alg := range keys.Needs(now, ring, policy, keys.Evidence{}) {
				k := foreignKey(t, sealer, "", true)
				k.Alg, k.Imported = alg, false
				fresh = append(fresh, k)
			}
			ring, _ = keys.Step(now, ring, fresh, policy, keys.Evidence{})
		}
		signing := map[jose.SignatureAlgorithm]int{}
		revoked := slices.ContainsFunc(ring.Keys, func(k keys.Key) bool { return k.State == keys.Revoked })
		for i := range ring.Keys {
			k := &ring.Keys[i]
			if k.State == keys.Signing {
				signing[k.Alg]++
				if k.ActivateAt.Before(k.ReadyAt) && !revoked {
					t.Fatalf("%v: %s signs before its time", now, k.ID)
				}
			}
			if (k.State == keys.Signing || k.State == keys.Announced) != (k.Sealed != nil) {
				t.Fatalf("%v: %s is %s: %v", now, k.ID, k.State, k.Sealed)
			}
		}
		for alg, n := range signing {
			if n != 1 {
				t.Fatalf("%v: %d keys sign for %s", now, n, alg)
			}
		}
	}
	return ring
}

func TestImportInTurn(t *testing.T) {
	sealer := sealerOf(t)
	ring := drive(t, sealer, keys.Ring{}, start, start)
	standby, current := ring.Standby(jose.EdDSA).ID, ring.Signing(jose.EdDSA).ID
	now := start.Add(day)
	ring, events, err := keys.Import(now, ring, foreignKey(t, sealer, "theirs", true), keys.InTurn, 0, policy)
	if err != nil || len(events) != 1 {
		t.Fatal(events, err)
	}
	if got := ring.Key("theirs"); got.State != keys.Announced || !got.ActivateAt.Equal(ring.Key(standby).RetireAt) {
		t.Errorf("imported key %+v, want it behind the stand-by", got)
	}
	for _, tc := range []struct {
		after time.Duration
		signs string
	}{{2 * day, current}, {31 * day, standby}, {61 * day, "theirs"}} {
		ring = drive(t, sealer, ring, now, start.Add(tc.after))
		now = start.Add(tc.after)
		if got := ring.Signing(jose.EdDSA).ID; got != tc.signs {
			t.Errorf("after %v %s signs, want %s", tc.after, got, tc.signs)
		}
	}
	ring = drive(t, sealer, ring, now, start.Add(95*day))
	if got := ring.Key("theirs"); got.State != keys.Retired {
		t.Errorf("after 95 days it is %s", got.State)
	}
}

func TestImportAtOnce(t *testing.T) {
	sealer := sealerOf(t)
	ring := drive(t, sealer, keys.Ring{}, start, start)
	standby, current := *ring.Standby(jose.EdDSA), ring.Signing(jose.EdDSA).ID
	ring, _, err := keys.Import(start.Add(day), ring, foreignKey(t, sealer, "theirs", true), keys.AtOnce, 0, policy)
	if err != nil {
		t.Fatal(err)
	}
	if k := ring.Signing(jose.EdDSA); k.ID != "theirs" || !k.RetireAt.Equal(standby.ActivateAt) {
		t.Errorf("%+v signs", k)
	}
	if k := ring.Key(current); k.State != keys.Retiring || k.Sealed != nil {
		t.Errorf("the key before is %s, %v", k.State, k.Sealed)
	}
	ring = drive(t, sealer, ring, start.Add(day), start.Add(31*day))
	if k := ring.Signing(jose.EdDSA); k.ID != standby.ID {
		t.Errorf("%s signs, want the stand-by, whose turn was planned before", k.ID)
	}
}

// A stand-by that was about to take over waits until the imported key has had
// its turn.
func TestImportAtOnceBeforeHandOver(t *testing.T) {
	sealer := sealerOf(t)
	ring := drive(t, sealer, keys.Ring{}, start, start)
	standby := ring.Standby(jose.EdDSA).ID
	now := ring.Standby(jose.EdDSA).ActivateAt.Add(-time.Minute)
	ring, _, err := keys.Import(now, ring, foreignKey(t, sealer, "theirs", true), keys.AtOnce, 0, policy)
	if err != nil {
		t.Fatal(err)
	}
	ring = drive(t, sealer, ring, now, now.Add(29*day))
	if k := ring.Signing(jose.EdDSA); k.ID != "theirs" {
		t.Errorf("%s signs, want the imported key", k.ID)
	}
	ring = drive(t, sealer, ring, now.Add(29*day), now.Add(31*day))
	if k := ring.Signing(jose.EdDSA); k.ID != standby {
		t.Errorf("%s signs, want the stand-by", k.ID)
	}
}

// A new ring that begins with another issuer's key signs with it from the
// first moment, and the key made here takes its turn.
func TestImportIntoEmptyRing(t *testing.T) {
	sealer := sealerOf(t)
	ring, _, err := keys.Import(start, keys.Ring{}, foreignKey(t, sealer, "theirs", true), keys.InTurn, 0, policy)
	if err != nil {
		t.Fatal(err)
	}
	old := foreignKey(t, sealer, "older", false)
	ring, _, err = keys.Import(start, ring, old, keys.VerifyOnly, day, policy)
	if err != nil {
		t.Fatal(err)
	}
	ring = drive(t, sealer, ring, start, start.Add(23*time.Hour))
	if ring.Signing(jose.EdDSA).ID != "theirs" || ring.Key("older").State != keys.Retiring {
		t.Errorf("%+v", ring.Keys)
	}
	ring = drive(t, sealer, ring, start.Add(23*time.Hour), start.Add(25*time.Hour))
	if ring.Key("older").State != keys.Retired {
		t.Errorf("the key to verify only is %s after its time", ring.Key("older").State)
	}
	if k := ring.Standby(jose.EdDSA); k == nil || k.Imported {
		t.Errorf("stand-by %+v, want one that was made here", k)
	}
}

// Begun with a key to verify only, a ring is in use: verifiers hold the other
// issuer's set, so the keys made here are announced for the whole lead.
func TestVerifyOnlyFirst(t *testing.T) {
	sealer := sealerOf(t)
	ring, _, err := keys.Import(start, keys.Ring{}, foreignKey(t, sealer, "older", false), keys.VerifyOnly, 10*day, policy)
	if err != nil {
		t.Fatal(err)
	}
	ring = drive(t, sealer, ring, start, start.Add(time.Hour))
	if k := ring.Signing(jose.EdDSA); k != nil {
		t.Errorf("%s signs before the lead is over", k.ID)
	}
	ring = drive(t, sealer, ring, start.Add(time.Hour), start.Add(policy.AnnounceLead))
	if ring.Signing(jose.EdDSA) == nil {
		t.Error("nothing signs after the lead")
	}
}

// A revocation of everything that signs is mended at once even though a key
// to verify only is there.
func TestVerifyOnlyDoesNotHideBereavement(t *testing.T) {
	sealer := sealerOf(t)
	ring := drive(t, sealer, keys.Ring{}, start, start)
	ring, _, err := keys.Import(start.Add(day), ring, foreignKey(t, sealer, "older", false), keys.VerifyOnly, 10*day, policy)
	if err != nil {
		t.Fatal(err)
	}
	now := start.Add(2 * day)
	for _, id := range []string{ring.Standby(jose.EdDSA).ID, ring.Signing(jose.EdDSA).ID} {
		if ring, _, err = keys.Revoke(now, ring, id, "stolen"); err != nil {
			t.Fatal(err)
		}
	}
	if ring = drive(t, sealer, ring, now, now); ring.Signing(jose.EdDSA) == nil {
		t.Error("nothing signs")
	}
}

func TestImportRefuses(t *testing.T) {
	sealer := sealerOf(t)
	r := rsaKey()
	load := func(text string) keys.Key {
		found, err := keys.ParseKeys([]byte(text), nil)
		if err != nil {
			t.Fatal(err)
		}
		k, err := keys.SealForeign(t.Context(), sealer, found[0], found[0].Private != nil)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	ring, _, err := keys.Import(start, keys.Ring{}, load(jwkOf(t, r, "theirs", "RS256")), keys.AtOnce, 0, policy)
	if err != nil {
		t.Fatal(err)
	}
	revoked, _, err := keys.Revoke(start, ring, "theirs", "stolen")
	if err != nil {
		t.Fatal(err)
	}
	another, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sharing := new(big.Int).Mul(r.Primes[0], another.Primes[0])
	ed := foreignKey(t, sealer, "x", true)
	for _, tc := range []struct {
		name  string
		ring  keys.Ring
		key   keys.Key
		where keys.Placement
		want  error
	}{
		{"the same key", ring, load(jwkOf(t, r, "theirs", "RS256")), keys.InTurn, keys.ErrDuplicate},
		{"the same key by another kid", ring, load(jwkOf(t, r, "other", "PS256")), keys.VerifyOnly, keys.ErrDuplicate},
		{"a revoked key", revoked, load(jwkOf(t, r, "again", "RS256")), keys.VerifyOnly, keys.ErrDuplicate},
		{"another key by the same kid", ring, foreignKey(t, sealer, "theirs", true), keys.InTurn, keys.ErrDuplicate},
		{"the same modulus", ring, load(rsaWith(t, r.N, 65539)), keys.VerifyOnly, keys.ErrDuplicate},
		{"a shared factor", ring, load(rsaWith(t, sharing, 65537)), keys.VerifyOnly, keys.ErrWeakKey},
		{"no private half", ring, foreignKey(t, sealer, "x", false), keys.InTurn, keys.ErrKeyFile},
		{"an algorithm without a place", ring, func() keys.Key { k := ed; k.Alg = jose.ES256; return k }(), keys.AtOnce, keys.ErrPolicy},
		{"a good one", ring, ed, keys.InTurn, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			next, events, err := keys.Import(start, tc.ring, tc.key, tc.where, day, policy)
			if !errors.Is(err, tc.want) {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
			if err != nil && (len(events) > 0 || len(next.Keys) != len(tc.ring.Keys)) {
				t.Error("the ring changed all the same")
			}
		})
	}
}

// What is exported comes back, in our own reader and in OpenSSL.
func TestExport(t *testing.T) {
	sealer := sealerOf(t)
	const passphrase = "correct horse battery staple"
	for _, text := range []string{jwkOf(t, rsaKey(), "theirs", "RS256"), pkcs8Of(t, ed25519.NewKeyFromSeed(make([]byte, 32)))} {
		found, err := keys.ParseKeys([]byte(text), nil)
		if err != nil {
			t.Fatal(err)
		}
		k, err := keys.SealForeign(t.Context(), sealer, found[0], true)
		if err != nil {
			t.Fatal(err)
		}
		for name, export := range map[string]func([]keys.Key) ([]byte, error){"JWKS": keys.ExportJWKS, "PEM": keys.ExportPEM} {
			out, err := export([]keys.Key{k})
			if err != nil {
				t.Fatal(err)
			}
			back, err := keys.ParseKeys(out, nil)
			if err != nil || len(back) != 1 || back[0].Private != nil || back[0].Alg != k.Alg {
				t.Errorf("%s: %+v, %v", name, back, err)
			}
		}
		out, err := keys.ExportPrivate(t.Context(), sealer, &k, []byte(passphrase))
		if err != nil {
			t.Fatal(err)
		}
		back, err := keys.ParseKeys(out, []byte(passphrase))
		if err != nil || back[0].Private == nil || !back[0].Private.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(k.Public) {
			t.Errorf("%+v, %v", back, err)
		}
		for _, wrong := range []string{"", "another passphrase"} {
			if _, err := keys.ParseKeys(out, []byte(wrong)); !errors.Is(err, keys.ErrPassphrase) {
				t.Errorf("passphrase %q: error %v, want ErrPassphrase", wrong, err)
			}
		}
		openssl := exec.Command("openssl", "pkey", "-noout", "-passin", "pass:"+passphrase)
		openssl.Stdin = bytes.NewReader(out)
		if answer, err := openssl.CombinedOutput(); err != nil {
			t.Errorf("openssl: %v\n%s", err, answer)
		}
		if _, err := keys.ExportPrivate(t.Context(), sealer, &k, []byte("short")); !errors.Is(err, keys.ErrPassphrase) {
			t.Errorf("a short passphrase: error %v, want ErrPassphrase", err)
		}
		if _, err := keys.ExportPrivate(t.Context(), sealerOf(t), &k, []byte(passphrase)); !errors.Is(err, keys.ErrSealed) {
			t.Errorf("another sealing key: error %v, want ErrSealed", err)
		}
		k.Sealed = nil
		if _, err := keys.ExportPrivate(t.Context(), sealer, &k, []byte(passphrase)); !errors.Is(err, keys.ErrNoKey) {
			t.Errorf("an erased half: error %v, want ErrNoKey", err)
		}
	}
}

func FuzzParseKeys(f *testing.F) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	f.Add([]byte(pkcs8Of(f, ed)))
	f.Add([]byte(jwkOf(f, ed, "a", "EdDSA")))
	f.Add([]byte(jwkOf(f, rsaKey(), "a", "")))
	f.Add([]byte(`{"keys":[` + jwkOf(f, ed.Public(), "a", "EdDSA") + `]}`))
	f.Add([]byte(publicPEM(f, rsaKey().Public())))
	f.Add([]byte(`{"kty":"RSA","n":"","e":"AQ"}`))
	f.Add([]byte(`{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}`))
	sealer := sealerOf(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		found, err := keys.ParseKeys(text, nil)
		if err != nil {
			for _, known := range []error{keys.ErrKeyFile, keys.ErrWeakKey, keys.ErrMismatch, keys.ErrPassphrase} {
				if errors.Is(err, known) {
					return
				}
			}
			t.Fatalf("error %v is none of ours", err)
		}
		// Whatever is accepted can be sealed, imported and published.
		for _, k := range found {
			key, err := keys.SealForeign(context.Background(), sealer, k, k.Private != nil)
			if err != nil {
				t.Fatal(err)
			}
			ring, _, err := keys.Import(start, keys.Ring{}, key, keys.VerifyOnly, day, policy)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := keys.ExportJWKS(ring.Keys); err != nil {
				t.Fatal(err)
			}
		}
	})
}
