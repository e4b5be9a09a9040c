package verify_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

// signedToken is a token of the fuzzer, and what can be said of it without our
// own code.
type signedToken struct {
	raw, header, payload string
	head, claims         map[string]any // nil if encoding/json can't read it
}

// stricter is where we refuse on purpose what go-jose and jwx both accept: the
// whole list. Each says which refusal it explains, and when.
var stricter = []struct {
	why    string
	reason string
	when   func(t signedToken) bool
}{
	{"only canonical base64url, so that a token is written in one way", "malformed", func(t signedToken) bool { return !isCanonical(t.raw) }},
	{"a bound on size", "malformed", func(t signedToken) bool { return len(t.raw) > verify.DefaultMaxTokenBytes }},
	{"JSON of one meaning: no name twice, UTF-8 only, not too deep", "malformed", func(t signedToken) bool { return !strict(t.header) }},
	{"the same of claims", "claims", func(t signedToken) bool { return !strict(t.payload) }},
	{"header members are strings", "malformed", func(t signedToken) bool { return !areStrings(t.head, "alg", "typ", "kid") }},
	{"kid is there, of up to 256 bytes", "malformed", func(t signedToken) bool {
		kid, _ := t.head["kid"].(string)
		return kid == "" || len(kid) > 256
	}},
	{"no critical extension exists", "critical", func(t signedToken) bool { return has(t.head, "crit") || has(t.head, "b64") }},
	{"typ is that of an access token", "type", func(t signedToken) bool {
		typ, _ := t.head["typ"].(string)
		return !strings.EqualFold(strings.TrimPrefix(strings.ToLower(typ), "application/"), "at+jwt")
	}},
	{"token_type, if there, is access", "type", func(t signedToken) bool { return has(t.claims, "token_type") && t.claims["token_type"] != "access" }},
	{"sub is there", "claims", func(t signedToken) bool { return t.claims["sub"] == nil || t.claims["sub"] == "" }},
	{"claims of the contract are of their kind", "claims", func(t signedToken) bool {
		return !areStrings(t.claims, "iss", "sub", "client_id", "jti", "sid", "scope", "user_id", "token_type") || !numbers(t.claims, "exp", "nbf", "iat") ||
			!list(t.claims["roles"], true) || has(t.claims, "aud") && !list(t.claims["aud"], false)
	}},
	{"times within ±2^53", "claims", func(t signedToken) bool { return !within(t.claims, "exp", "nbf", "iat") }},
	{"a fraction of a second is rounded to the side that refuses", "expired", func(t signedToken) bool { return fraction(t.claims["exp"]) }},
	{"the same", "not_yet_valid", func(t signedToken) bool { return fraction(t.claims["nbf"]) || fraction(t.claims["iat"]) }},
}

// looser is where we accept what both refuse: we do not even read those.
func looser(t signedToken) bool {
	for name := range t.head {
		if !slices.Contains([]string{"alg", "typ", "kid"}, name) {
			return true
		}
	}
	return false
}

func has(m map[string]any, name string) bool { _, ok := m[name]; return ok }

// areStrings says whether those members that are there are strings.
func areStrings(m map[string]any, names ...string) bool {
	for _, name := range names {
		if v, ok := m[name]; ok {
			if _, ok := v.(string); !ok {
				return false
			}
		}
	}
	return true
}

func numbers(m map[string]any, names ...string) bool {
	for _, name := range names {
		if v, ok := m[name]; ok {
			if _, ok := v.(json.Number); !ok {
				return false
			}
		}
	}
	return true
}

func within(m map[string]any, names ...string) bool {
	for _, name := range names {
		n, _ := m[name].(json.Number)
		if f, err := n.Float64(); n != "" && (err != nil || f < -1<<53 || f > 1<<53) {
			return false
		}
	}
	return true
}

func fraction(v any) bool {
	n, _ := v.(json.Number)
	_, err := n.Int64()
	return err != nil
}

// list says whether v is a list of strings: null if that is allowed, and a
// string alone if it is not.
func list(v any, null bool) bool {
	switch v := v.(type) {
	case nil:
		return null
	case string:
		return !null
	case []any:
		return !slices.ContainsFunc(v, func(e any) bool { _, ok := e.(string); return !ok })
	}
	return false
}

// strict is the verdict of another strict reader.
func strict(text string) bool {
	d := jsontext.NewDecoder(strings.NewReader(text))
	for {
		_, err := d.ReadToken()
		switch {
		case errors.Is(err, io.EOF):
			return true
		case err != nil || d.StackDepth() > 16:
			return false
		}
	}
}

func object(text string) (m map[string]any) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if d.Decode(&m) != nil {
		return nil
	}
	return m
}

// Whatever header and payload the fuzzer makes up is signed, so that the
// verdict is on them and not on a signature that can't be right: we accept
// nothing that go-jose and jwx both refuse, and refuse nothing that both
// accept, but for the tables above.
func FuzzVerdicts(f *testing.F) {
	issuer := verifytest.NewIssuer(f, verify.Algorithms()...)
	now := time.Unix(2_000_000_000, 0)
	v := fixed(f, issuer, func(o *verify.Options) {
		o.Leeway = -1
		o.Now = func() time.Time { return now }
	})
	j := newJudges(f, issuer, now)
	const head, body = `{"alg":"EdDSA","kid":"KID","typ":"at+jwt"}`, `{"iss":"ISS","aud":"verifytest","sub":"u","exp":2000000300,"iat":2000000000}`
	for i := range verify.Algorithms() {
		f.Add(byte(i), strings.Replace(head, "EdDSA", verify.Algorithms()[i], 1), body, uint16(0), byte(0))
	}
	f.Add(byte(0), head, body, uint16(50), byte('A'))
	for _, edit := range [][2]string{
		{`"typ":"at+jwt"`, `"typ":"JWT"`},
		{`"typ"`, `"crit":["x"],"x":1,"typ"`},
		{`"typ"`, `"alg":"none","typ"`},
		{`"typ"`, `"jwk":{"kty":"oct","k":"AA"},"typ"`},
		{`EdDSA`, `RS256`},
	} {
		f.Add(byte(0), strings.Replace(head, edit[0], edit[1], 1), body, uint16(0), byte(0))
	}
	for _, edit := range [][2]string{
		{`"verifytest"`, `["a","verifytest"]`},
		{`2000000300`, `2000000000.5`},
		{`2000000300`, `2e9`},
		{`2000000300`, `1e999`},
		{`"sub"`, `"nbf":2000000001,"sub"`},
		{`"sub"`, `"sub":"a","sub"`},
		{`"sub"`, `"jti":1,"roles":null,"scope":"a b","sub"`},
		{`"sub"`, `"x":{"y":[1,2,{}]},"sub"`},
	} {
		f.Add(byte(0), head, strings.Replace(body, edit[0], edit[1], 1), uint16(0), byte(0))
	}
	f.Fuzz(func(t *testing.T, of byte, header, payload string, at uint16, with byte) {
		alg := verify.Algorithms()[int(of)%len(verify.Algorithms())]
		tok := signedToken{
			header:  strings.Replace(header, "KID", issuer.KeyID(alg), 1),
			payload: strings.Replace(payload, "ISS", issuer.URL, 1),
		}
		tok.head, tok.claims = object(tok.header), object(tok.payload)
		tok.raw = issuer.Sign(alg, tok.header, tok.payload)
		if i := int(at); i > 0 && i <= len(tok.raw) { // a byte of the token itself
			tok.raw = tok.raw[:i-1] + string(rune(with)) + tok.raw[i:]
		}
		_, ours := v.Verify(context.Background(), tok.raw)
		theirs := [2]error{j.goJose(tok.raw), j.jwxV2(tok.raw)}
		switch {
		case ours == nil && theirs[0] != nil && theirs[1] != nil && !looser(tok):
			t.Fatalf("accepted %s\n%s\nbut go-jose: %v\njwx: %v", tok.header, tok.payload, theirs[0], theirs[1])
		case ours != nil && theirs[0] == nil && theirs[1] == nil:
			for _, s := range stricter {
				if s.reason == verify.Reason(ours) && s.when(tok) {
					return
				}
			}
			t.Fatalf("refused %q\n%q: %v\nbut go-jose and jwx accept it", tok.header, tok.payload, ours)
		}
	})
}
