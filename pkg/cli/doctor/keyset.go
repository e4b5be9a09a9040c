package doctor

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/urbandata/urbandata/pkg/verify"
)

// member is a JWK, raw.
type member map[string]json.RawMessage

// text is a member that is a string; ok is false when it is there and isn't.
func (m member) text(name string) (value string, ok bool) {
	raw, there := m[name]
	if !there {
		return "", true
	}
	return value, json.Unmarshal(raw, &value) == nil
}

// readKeySet reads the members of a set, whatever is in them.
func readKeySet(body []byte) ([]member, error) {
	var set struct {
		Keys []member `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, err
	}
	if set.Keys == nil {
		return nil, fmt.Errorf("no keys")
	}
	return set.Keys, nil
}

const (
	nimbusLimit = 50 * 1024 // bytes of a set, by default
	manyKeys    = 50
)

// keySet judges the set and each of its members.
func (x *examiner) keySet(body []byte) {
	r := x.report
	members, err := readKeySet(body)
	if err != nil {
		r.Reached = false
		r.add(Broken, checkKeys, []string{"everybody"}, "it is no JSON object with a list of keys (RFC 7517 §5)")
		return
	}
	if len(members) == 0 {
		r.add(Broken, checkKeys, []string{"everybody"}, "the set is empty")
		return
	}
	if len(body) > nimbusLimit {
		r.add(Broken, checkKeys, libraries("nimb"), "the set has %d bytes, over its limit of 50 KiB", len(body))
	}
	if len(members) > manyKeys {
		r.add(Warning, checkKeys, nil, "the set has %d keys: keys that sign and verify nothing any more should leave it", len(members))
	}
	before := len(r.Findings)
	kids, material, algs := map[string]int{}, map[string]string{}, map[string]int{}
	for i, m := range members {
		k := x.judge(i, m)
		r.Keys = append(r.Keys, k)
		if k.KeyID != "" {
			if kids[k.KeyID]++; kids[k.KeyID] == 2 {
				r.add(Broken, checkKeys, []string{"everybody, each in its own way"}, "two keys have the kid %.64q", k.KeyID)
			}
		}
		public := string(m["n"]) + string(m["x"]) + string(m["y"])
		if other, twice := material[public]; twice && public != "" {
			r.add(Warning, checkKeys, nil, "%s and %s are the same key", other, name(i, k))
		}
		material[public] = name(i, k)
		algs[k.Algorithm]++
	}
	for alg, n := range algs {
		if n == 1 && alg != "" {
			r.add(Warning, checkKeys, nil, "there is one key for %.20q: none stands by, so an emergency would need a key that nobody holds", alg)
		}
	}
	set, err := verify.ParseKeySet(body)
	switch {
	case err != nil:
		r.add(Broken, checkKeys, []string{"pkg/verify"}, "pkg/verify can use none of it: %s", plain(err))
	case len(set.Skipped()) > 0:
		for _, s := range set.Skipped() {
			r.add(Note, checkKeys, []string{"pkg/verify"}, "pkg/verify leaves out the key %.64q: %s", s.KeyID, plain(s.Reason))
		}
	case len(r.Findings) == before:
		r.add(OK, checkKeys, nil, "%d keys, which every verifier of the table can read", set.Len())
	}
}

func name(i int, k Key) string {
	if k.KeyID == "" {
		return fmt.Sprintf("key %d", i+1)
	}
	return fmt.Sprintf("key %.64q", k.KeyID)
}

// judge looks at one member.
func (x *examiner) judge(i int, m member) Key {
	r := x.report
	var k Key
	for field, into := range map[string]*string{"kid": &k.KeyID, "kty": &k.Type, "crv": &k.Curve, "alg": &k.Algorithm, "use": &k.Use} {
		value, ok := m.text(field)
		if !ok {
			r.add(Broken, checkKeys, []string{"everybody"}, "key %d: %s is no text", i+1, field)
		}
		*into = value
	}
	who := name(i, k)
	for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"} {
		if _, there := m[private]; there {
			r.add(Broken, checkKeys, []string{"everybody: anyone can sign with it"}, "%s has the private member %q: revoke it at once", who, private)
			break
		}
	}
	strict := libraries("jwx2", "jwx3", "rjwks", "rauth")
	var want []string // algorithms that fit
	switch {
	case k.Type == "":
		r.add(Broken, checkKeys, strict, "%s has no kty", who)
	case k.Type == "RSA":
		want = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
		x.rsa(who, m)
	case k.Type == "EC":
		want = map[string][]string{"P-256": {"ES256"}, "P-384": {"ES384"}, "P-521": {"ES512"}}[k.Curve]
		if want == nil {
			r.add(Broken, checkKeys, strict, "%s has the curve %.20q: one unknown member costs them the whole set", who, k.Curve)
		}
	case k.Type == "OKP" && k.Curve == "Ed25519":
		want = []string{"EdDSA"}
	case k.Type == "OKP" && k.Curve == "Ed448":
		want = []string{"EdDSA"}
		r.add(Broken, checkKeys, libraries("rauth"), "%s has the curve Ed448: it refuses the whole set", who)
	case k.Type == "OKP":
		r.add(Broken, checkKeys, libraries("rauth"), "%s has the curve %.20q: it refuses the whole set", who, k.Curve)
	case k.Type == "oct":
		r.add(Broken, checkKeys, []string{"everybody: anyone can sign with it"}, "%s is symmetric: it must not be published", who)
	default:
		r.add(Broken, checkKeys, strict, "%s has the kty %.20q: one unknown member costs them the whole set; newer kinds belong under another URL", who, k.Type)
	}
	switch {
	case k.Algorithm == "":
		r.add(Broken, checkKeys, libraries("jwx2", "jwx3", "rjwks", "rauth", "php"), "%s has no alg", who)
	case k.Algorithm == "Ed25519":
		r.add(Broken, checkKeys, allBut("jwx2", "jwx3"), "%s has alg Ed25519 (RFC 9864): they know it as EdDSA only", who)
	case want != nil && !slices.Contains(want, k.Algorithm) && k.Use != "enc":
		r.add(Broken, checkKeys, []string{"everybody"}, "%s has alg %.20q, which isn't one of its kty %s", who, k.Algorithm, k.Type)
	}
	if k.KeyID == "" {
		r.add(Broken, checkKeys, libraries("jrsa", "pyjwt", "authl", "a9068", "spr", "rjwt", "rjwks", "jwx2", "jwx3", "rb3", "rb2", "php"), "%s has no kid: they find keys by it", who)
	}
	switch k.Use {
	case "sig":
	case "":
		r.add(Broken, checkKeys, libraries("rb3"), "%s has no use: its README's loader takes sig only", who)
	default:
		r.add(Note, checkKeys, nil, "%s has use %.20q: it verifies no token", who, k.Use)
	}
	for _, field := range []string{"n", "e", "x", "y"} {
		value, ok := m.text(field)
		if _, there := m[field]; !there || ok && wellEncoded(value) {
			continue
		}
		r.add(Broken, checkKeys, []string{"everybody that is strict"}, "%s: %q is not base64url without padding (RFC 7518 §2)", who, field)
	}
	return k
}

func wellEncoded(value string) bool {
	_, err := base64.RawURLEncoding.Strict().DecodeString(value)
	return err == nil && !strings.ContainsAny(value, "\r\n") // which Go skips
}

// rsa judges an RSA key's numbers.
func (x *examiner) rsa(who string, m member) {
	n, e := decoded(m, "n"), decoded(m, "e")
	switch bits := new(big.Int).SetBytes(n).BitLen(); {
	case bits == 0:
		x.report.add(Broken, checkKeys, []string{"everybody"}, "%s has no n", who)
	case bits < 2048:
		x.report.add(Broken, checkKeys, []string{"everybody: it can be factored, and many refuse it"}, "%s has %d bits: 2048 is the least", who, bits)
	case bits > 8192:
		x.report.add(Warning, checkKeys, []string{"pkg/verify"}, "%s has %d bits: one verification costs milliseconds", who, bits)
	case n[len(n)-1]&1 == 0:
		x.report.add(Broken, checkKeys, []string{"everybody: it can be factored"}, "%s has an even n", who)
	}
	if len(e) == 0 || e[len(e)-1]&1 == 0 || len(e) == 1 && e[0] < 3 {
		x.report.add(Broken, checkKeys, []string{"everybody"}, "%s has an exponent that is even or tiny", who)
	} else if len(e) == 1 {
		x.report.add(Warning, checkKeys, nil, "%s has the exponent %d: 65537 is usual, and some refuse less", who, e[0])
	}
}

// decoded is a number without leading zeros; nil when it can't be read.
func decoded(m member, field string) []byte {
	value, _ := m.text(field)
	raw, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil {
		return nil
	}
	for len(raw) > 0 && raw[0] == 0 {
		raw = raw[1:]
	}
	return raw
}
