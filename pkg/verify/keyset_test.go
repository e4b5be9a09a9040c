package verify_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/urbandata/urbandata/pkg/verify"
)

// One odd key never costs the others.
func TestKeysAreJudgedOneByOne(t *testing.T) {
	edX := func() string {
		public, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return b64(string(public))
	}
	x, x2 := edX(), edX()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	n := b64(string(private.N.Bytes()))
	weak := b64(string(private.N.Bytes()[:128]) + "\x01")
	even := private.N.Bytes()
	even[255] &^= 1
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := ec.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	px, py := b64(string(point[1:33])), b64(string(point[33:]))
	const okp = `{"kty":"OKP","crv":"Ed25519","kid":"k","x":"%s"%s}`
	ed := func(more string) string { return fmt.Sprintf(okp, x, more) }
	rs := func(n, e, more string) string {
		return fmt.Sprintf(`{"kty":"RSA","kid":"k","n":%q,"e":%q%s}`, n, e, more)
	}

	for _, tc := range []struct {
		name string
		keys string // beside one good key
		used int    // of them
		skip int
	}{
		{"Ed25519", ed(``), 1, 0},
		{"Ed25519 with all", ed(`,"alg":"EdDSA","use":"sig","key_ops":["verify"],"x5c":["a"],"more":{"a":[1]}`), 1, 0},
		{"RSA", rs(n, "AQAB", ``), 1, 0},
		{"RSA for PS256", rs(n, "AQAB", `,"alg":"PS256"`), 1, 0},
		{"one kid, two algorithms", rs(n, "AQAB", ``) + "," + rs(n, "AQAB", `,"alg":"PS256"`), 2, 0},
		{"EC", fmt.Sprintf(`{"kty":"EC","crv":"P-256","kid":"k","x":%q,"y":%q}`, px, py), 1, 0},
		{"RSA repeated", rs(n, "AQAB", ``) + "," + rs(n, "AQAB", `,"alg":"RS256"`), 1, 0},
		{"RSA for PS256 repeated", rs(n, "AQAB", `,"alg":"PS256"`) + "," + rs(n, "AQAB", `,"alg":"PS256","use":"sig"`), 1, 0},
		{"RSA, two of one kid", rs(n, "AQAB", ``) + "," + rs(n, "Aw", ``), 0, 2},
		{"EC repeated", fmt.Sprintf(`{"kty":"EC","crv":"P-256","kid":"k","x":%q,"y":%q},{"kty":"EC","crv":"P-256","kid":"k","y":%q,"x":%q}`, px, py, py, px), 1, 0},
		{"repeated", ed(``) + "," + ed(`,"use":"sig"`), 1, 0},

		{"two keys of one kid", ed(``) + "," + fmt.Sprintf(okp, x2, ``), 0, 2},
		{"three keys of one kid", ed(``) + "," + fmt.Sprintf(okp, x2, ``) + "," + ed(``), 0, 3},
		{"two of one kid beside another algorithm", ed(``) + "," + rs(n, "AQAB", ``) + "," + fmt.Sprintf(okp, x2, ``), 1, 2},
		{"AKP", `{"kty":"AKP","kid":"k","alg":"ML-DSA-44","pub":"AAAA"}`, 0, 1},
		{"unknown kty", `{"kty":"XYZ","kid":"k"}`, 0, 1},
		{"no kty", `{"kid":"k"}`, 0, 1},
		{"symmetric", `{"kty":"oct","kid":"k","k":"AAAA"}`, 0, 1},
		{"Ed448", `{"kty":"OKP","crv":"Ed448","kid":"k","x":"AAAA"}`, 0, 1},
		{"X25519", `{"kty":"OKP","crv":"X25519","kid":"k","x":"` + x + `"}`, 0, 1},
		{"P-384", `{"kty":"EC","crv":"P-384","kid":"k","x":"AAAA","y":"AAAA"}`, 0, 1},
		{"unknown alg", rs(n, "AQAB", `,"alg":"RS512"`), 0, 1},
		{"alg of another kty", ed(`,"alg":"RS256"`), 0, 1},
		{"alg null", ed(`,"alg":null`), 0, 1},
		{"for encryption", ed(`,"use":"enc"`), 0, 1},
		{"use empty", ed(`,"use":""`), 0, 1},
		{"to sign only", ed(`,"key_ops":["sign"]`), 0, 1},
		{"no kid", strings.Replace(ed(``), `"kid":"k",`, ``, 1), 0, 1},
		{"kid a number", strings.Replace(ed(``), `"k"`, `1`, 1), 0, 1},
		{"kid huge", strings.Replace(ed(``), `"k"`, `"`+strings.Repeat("k", 257)+`"`, 1), 0, 1},
		{"private Ed25519", ed(`,"d":"AAAA"`), 0, 1},
		{"private RSA", rs(n, "AQAB", `,"d":"AAAA"`), 0, 1},
		{"private in part", rs(n, "AQAB", `,"qi":"AAAA"`), 0, 1},
		{"private in capitals", ed(`,"D":"AAAA"`), 0, 1},
		{"weak RSA", rs(weak, "AQAB", ``), 0, 1},
		{"huge RSA", rs(strings.Repeat(n, 9), "AQAB", ``), 0, 1},
		{"even RSA", rs(b64(string(even)), "AQAB", ``), 0, 1},
		{"exponent one", rs(n, "AQ", ``), 0, 1},
		{"exponent even", rs(n, "AQAA", ``), 0, 1},
		{"exponent huge", rs(n, "AQAAAAAAAAABAAE", ``), 0, 1},
		{"no modulus", `{"kty":"RSA","kid":"k","e":"AQAB"}`, 0, 1},
		{"no exponent", `{"kty":"RSA","kid":"k","n":"` + n + `"}`, 0, 1},
		{"short Ed25519", `{"kty":"OKP","crv":"Ed25519","kid":"k","x":"AAAA"}`, 0, 1},
		{"no x", `{"kty":"OKP","crv":"Ed25519","kid":"k"}`, 0, 1},
		{"not on the curve", fmt.Sprintf(`{"kty":"EC","crv":"P-256","kid":"k","x":%q,"y":%q}`, px, px), 0, 1},
		{"no y", fmt.Sprintf(`{"kty":"EC","crv":"P-256","kid":"k","x":%q}`, px), 0, 1},
		{"member twice", ed(`,"kid":"other"`), 0, 1},
		{"not base64", `{"kty":"OKP","crv":"Ed25519","kid":"k","x":"!!"}`, 0, 1},
		{"nested deep", ed(`,"more":` + strings.Repeat("[", 50) + strings.Repeat("]", 50)), 0, 1},
		{"not an object", `1,null,"x",[[]],true`, 0, 5},
	} {
		good := fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","kid":"good","x":"%s","alg":"EdDSA","use":"sig"}`, x)
		for _, doc := range []string{`{"keys":[` + tc.keys + `,` + good + `]}`, `{"a":{"b":1,"b":2},"keys":[` + good + `,` + tc.keys + `],"z":[]}`} {
			set, err := verify.ParseKeySet([]byte(doc))
			if err != nil {
				t.Errorf("%s: %v", tc.name, err)
				continue
			}
			if set.Len() != tc.used+1 || len(set.Skipped()) != tc.skip {
				t.Errorf("%s: %d used, %d skipped (%v); want %d, %d", tc.name, set.Len()-1, len(set.Skipped()), set.Skipped(), tc.used, tc.skip)
			}
		}
	}
}

func TestUnusableKeySets(t *testing.T) {
	for _, doc := range []string{
		``, ` `, `null`, `[]`, `"keys"`, `{}`, `{"keys":{}}`, `{"keys":null}`, `{"keys":[]}`, `{"keys":[{}]}`,
		`{"keys":[{"kty":"AKP"}]}`, `{"keys":[`, `{"keys":[]}x`, `{"Keys":[]}`, `<html>`,
		`{"keys":[],"keys":[]}`, `{"x":` + strings.Repeat("[", 100_000),
	} {
		if set, err := verify.ParseKeySet([]byte(doc)); !errors.Is(err, verify.ErrKeySet) || set != nil {
			t.Errorf("%.40s: %v, want %v", doc, err, verify.ErrKeySet)
		}
	}
}
