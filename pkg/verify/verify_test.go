package verify_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

// fixed returns a verifier that holds the issuer's keys and fetches none.
func fixed(tb testing.TB, issuer *verifytest.Issuer, change ...func(*verify.Options)) *verify.Verifier {
	tb.Helper()
	keys, err := verify.ParseKeySet(issuer.KeySet())
	if err != nil {
		tb.Fatal(err)
	}
	o := issuer.Options()
	o.JWKSURL, o.Keys = "", keys
	for _, f := range change {
		f(&o)
	}
	v, err := verify.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func TestGoodTokens(t *testing.T) {
	issuer := verifytest.NewIssuer(t, verify.Algorithms()...)
	v := fixed(t, issuer)
	for _, alg := range verify.Algorithms() {
		want := issuer.Claims("user-1", "a", "b")
		want.Roles = []token.Role{token.RoleUser}
		want.Session = "family-1"
		raw := issuer.Mint(alg, want)
		for range 2 { // the second time from the header cache
			got, err := v.Verify(t.Context(), raw)
			if err != nil {
				t.Fatalf("%s: %v", alg, err)
			}
			if fmt.Sprint(*got) != fmt.Sprint(want) {
				t.Errorf("%s: claims are\n%v, want\n%v", alg, *got, want)
			}
		}
	}
}

// What other issuers may write and RFC 9068 allows.
func TestUnusualGoodTokens(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	v := fixed(t, issuer)
	now := time.Now().Unix()
	kid := issuer.KeyID(verify.EdDSA)
	head := fmt.Sprintf(`{"alg":"EdDSA","kid":%q,"typ":"at+jwt"}`, kid)
	body := fmt.Sprintf(`{"iss":%q,"aud":%q,"sub":"u","exp":%d}`, issuer.URL, verifytest.Audience, now+60)
	for name, c := range map[string]struct{ header, payload string }{
		"least":                {head, body},
		"type in capitals":     {strings.Replace(head, "at+jwt", "AT+JWT", 1), body},
		"type with prefix":     {strings.Replace(head, "at+jwt", "application/at+jwt", 1), body},
		"type in mixed case":   {strings.Replace(head, "at+jwt", "Application/At+Jwt", 1), body},
		"escaped names":        {strings.Replace(head, `"alg"`, `"\u0061lg"`, 1), strings.Replace(body, `"iss"`, `"i\u0073s"`, 1)},
		"space between tokens": {" { \"alg\" :\t\"EdDSA\",\r\n" + head[len(`{"alg":"EdDSA",`):] + "\n", " " + body + " "},
		"aud in a list":        {head, strings.Replace(body, `"aud":`, `"aud":["other",`, 1)[:strings.Index(body, `,"sub"`)+len(`["other",`)] + "]" + body[strings.Index(body, `,"sub"`):]},
		"exp with a fraction":  {head, strings.Replace(body, fmt.Sprint(now+60), fmt.Sprintf("%d.5", now+60), 1)},
		"exp with an exponent": {head, strings.Replace(body, fmt.Sprint(now+60), "4e9", 1)},
		"foreign members":      {head[:len(head)-1] + `,"jku":"https://evil.example/","jwk":{"kty":"oct","k":"AAAA"},"x5u":"x","x5c":["x"],"x5t":1,"cty":"x","zip":"DEF"}`, body[:len(body)-1] + `,"acr":null,"n":{"a":[1,-2.5e3,true,false,null]},"Exp":"x","ISS":7}`},
		"within leeway":        {head, strings.Replace(body, fmt.Sprint(now+60), fmt.Sprintf(`%d,"iat":%d,"nbf":%d`, now-20, now+20, now+20), 1)},
		"many members":         {head, body[:len(body)-1] + manyMembers(300) + "}"},
	} {
		if _, err := v.Verify(t.Context(), issuer.Sign(verify.EdDSA, c.header, c.payload)); err != nil {
			t.Errorf("%s: %v\n%s\n%s", name, err, c.header, c.payload)
		}
	}
}

func manyMembers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"m%d":0`, i)
	}
	return b.String()
}

// Each hostile token names the error it must meet.
func TestHostileTokens(t *testing.T) {
	issuer := verifytest.NewIssuer(t, verify.Algorithms()...)
	stranger := verifytest.NewIssuer(t, verify.EdDSA, verify.RS256)
	v := fixed(t, issuer)
	now := time.Now().Unix()
	kid := func(alg string) string { return issuer.KeyID(alg) }
	ed := kid(verify.EdDSA)
	good := issuer.Token("u")
	parts := strings.Split(good, ".")

	// One thing changed in an otherwise good header or payload.
	head := fmt.Sprintf(`{"alg":"EdDSA","kid":%q,"typ":"at+jwt"}`, ed)
	body := fmt.Sprintf(`{"iss":%q,"aud":%q,"sub":"u","exp":%d,"iat":%d,"token_type":"access"}`,
		issuer.URL, verifytest.Audience, now+300, now)
	exp, iat := fmt.Sprintf(`"exp":%d`, now+300), fmt.Sprintf(`"iat":%d`, now)
	header := func(old, with string) string { return issuer.Sign(verify.EdDSA, replace(t, head, old, with), body) }
	claim := func(old, with string) string { return issuer.Sign(verify.EdDSA, head, replace(t, body, old, with)) }
	unsigned := func(alg string) string {
		return b64(fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"at+jwt"}`, alg, ed)) + "." + b64(body)
	}
	hs256 := func(secret []byte, kid string) string {
		signed := b64(fmt.Sprintf(`{"alg":"HS256","kid":%q,"typ":"at+jwt"}`, kid)) + "." + b64(body)
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(signed))
		return signed + "." + b64(string(mac.Sum(nil)))
	}
	// A good token of alg with another signature.
	resigned := func(alg string, change func(sig []byte) []byte) string {
		p := strings.Split(issuer.Mint(alg, issuer.Claims("u")), ".")
		sig, _ := base64.RawURLEncoding.DecodeString(p[2])
		return p[0] + "." + p[1] + "." + b64(string(change(sig)))
	}
	der, _ := x509.MarshalPKIXPublicKey(issuer.PublicKey(verify.RS256))
	public := issuer.PublicKey(verify.EdDSA).(ed25519.PublicKey)

	for _, tc := range []struct {
		name, token string
		want        error
	}{
		// Form.
		{"empty", "", verify.ErrMissing},
		{"one dot", ".", verify.ErrMalformed},
		{"only dots", "..", verify.ErrMalformed},
		{"no dots", parts[0], verify.ErrMalformed},
		{"two parts", parts[0] + "." + parts[1], verify.ErrMalformed},
		{"four parts", good + ".", verify.ErrMalformed},
		{"five parts, as a JWE", good + ".AA.AA", verify.ErrMalformed},
		{"empty header", "." + parts[1] + "." + parts[2], verify.ErrMalformed},
		{"empty payload", parts[0] + ".." + parts[2], verify.ErrMalformed},
		{"empty signature", parts[0] + "." + parts[1] + ".", verify.ErrMalformed},
		{"padded signature", good + "==", verify.ErrMalformed},
		{"padded header", parts[0] + "=." + parts[1] + "." + parts[2], verify.ErrMalformed},
		{"trailing bits", good[:len(good)-1] + trailingBits(good[len(good)-1]), verify.ErrMalformed},
		{"impossible length", parts[0] + "." + parts[1] + "." + parts[2] + "AAA", verify.ErrMalformed},
		{"standard alphabet", parts[0] + "." + parts[1] + ".+/" + parts[2][2:], verify.ErrMalformed},
		{"line end inside", parts[0] + "." + parts[1] + "\n." + parts[2], verify.ErrMalformed},
		{"carriage return at the end", good + "\r", verify.ErrMalformed},
		{"space in front", " " + good, verify.ErrMalformed},
		{"NUL at the end", good + "\x00", verify.ErrMalformed},
		{"with the scheme", "Bearer " + good, verify.ErrMalformed},
		{"JSON serialisation", `{"payload":"","signatures":[]}`, verify.ErrMalformed},
		{"not ASCII", "é" + good, verify.ErrMalformed},
		{"too long", parts[0] + "." + strings.Repeat("A", 16<<10) + "." + parts[2], verify.ErrMalformed},
		{"a megabyte of dots", strings.Repeat(".", 1<<20), verify.ErrMalformed},

		// Header.
		{"header not JSON", issuer.Sign(verify.EdDSA, "alg=EdDSA", body), verify.ErrMalformed},
		{"header a list", issuer.Sign(verify.EdDSA, "["+head+"]", body), verify.ErrMalformed},
		{"header null", issuer.Sign(verify.EdDSA, "null", body), verify.ErrMalformed},
		{"header twice", issuer.Sign(verify.EdDSA, head+head, body), verify.ErrMalformed},
		{"header truncated", issuer.Sign(verify.EdDSA, head[:len(head)-1], body), verify.ErrMalformed},
		{"header with a BOM", issuer.Sign(verify.EdDSA, "\ufeff"+head, body), verify.ErrMalformed},
		{"header not UTF-8", header(`"typ"`, "\"x\":\"\xff\",\"typ\""), verify.ErrMalformed},
		{"header with half a surrogate pair", header(`"typ"`, `"x":"\ud800","typ"`), verify.ErrMalformed},
		{"alg twice", header(`"typ"`, `"alg":"none","typ"`), verify.ErrMalformed},
		{"alg twice, escaped", header(`"typ"`, `"\u0061lg":"none","typ"`), verify.ErrMalformed},
		{"duplicate deep inside", header(`"typ"`, `"jwk":{"a":1,"a":2},"typ"`), verify.ErrMalformed},
		{"deep nesting", header(`"typ"`, `"x":`+strings.Repeat("[", 3000)+strings.Repeat("]", 3000)+`,"typ"`), verify.ErrMalformed},
		{"a comma too many", header(`"at+jwt"`, `"at+jwt",`), verify.ErrMalformed},
		{"leading zero", header(`"typ"`, `"x":01,"typ"`), verify.ErrMalformed},
		{"control character", header(`"typ"`, "\"x\":\"\n\",\"typ\""), verify.ErrMalformed},
		{"crit unknown", header(`"typ"`, `"crit":["exp"],"exp":1,"typ"`), verify.ErrCritical},
		{"crit empty", header(`"typ"`, `"crit":[],"typ"`), verify.ErrCritical},
		{"crit null", header(`"typ"`, `"crit":null,"typ"`), verify.ErrCritical},
		{"b64 false", header(`"typ"`, `"b64":false,"crit":["b64"],"typ"`), verify.ErrCritical},
		{"b64 without crit", header(`"typ"`, `"b64":false,"typ"`), verify.ErrCritical},

		// alg.
		{"alg none, no signature", unsigned("none") + ".", verify.ErrMalformed},
		{"alg none", unsigned("none") + ".AA", verify.ErrAlgorithm},
		{"alg None", unsigned("None") + ".AA", verify.ErrAlgorithm},
		{"alg nOnE", unsigned("nOnE") + ".AA", verify.ErrAlgorithm},
		{"alg empty", unsigned("") + ".AA", verify.ErrAlgorithm},
		{"alg with a space", header(`"EdDSA"`, `"EdDSA "`), verify.ErrAlgorithm},
		{"alg in lower case", header(`"EdDSA"`, `"eddsa"`), verify.ErrAlgorithm},
		{"alg Ed25519", header(`"EdDSA"`, `"Ed25519"`), verify.ErrAlgorithm},
		{"alg absent", header(`"alg":"EdDSA",`, ``), verify.ErrAlgorithm},
		{"alg named ALG", header(`"alg"`, `"ALG"`), verify.ErrAlgorithm},
		{"alg a list", header(`"EdDSA"`, `["EdDSA"]`), verify.ErrMalformed},
		{"alg null", header(`"EdDSA"`, `null`), verify.ErrMalformed},
		{"alg a number", header(`"EdDSA"`, `1`), verify.ErrMalformed},
		{"HS256 with the PEM", hs256(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), kid(verify.RS256)), verify.ErrAlgorithm},
		{"HS256 with the DER", hs256(der, kid(verify.RS256)), verify.ErrAlgorithm},
		{"HS256 with the Ed25519 key", hs256(public, ed), verify.ErrAlgorithm},
		{"HS256 with nothing", hs256(nil, ed), verify.ErrAlgorithm},
		{"RS512", header(`"EdDSA"`, `"RS512"`), verify.ErrAlgorithm},
		{"RS256 for the Ed25519 key", header(`"EdDSA"`, `"RS256"`), verify.ErrAlgorithm},
		{"EdDSA for the RSA key", header(ed, kid(verify.RS256)), verify.ErrAlgorithm},
		{"PS256 for the RS256 key", issuer.Sign(verify.RS256, fmt.Sprintf(`{"alg":"PS256","kid":%q,"typ":"at+jwt"}`, kid(verify.RS256)), body), verify.ErrAlgorithm},

		// typ.
		{"typ absent", header(`,"typ":"at+jwt"`, ``), verify.ErrType},
		{"typ JWT", header(`at+jwt`, `JWT`), verify.ErrType},
		{"typ of an ID token", header(`at+jwt`, `id+jwt`), verify.ErrType},
		{"typ of a logout token", header(`at+jwt`, `logout+jwt`), verify.ErrType},
		{"typ with a longer name", header(`at+jwt`, `at+jwt2`), verify.ErrType},
		{"typ with another tree", header(`at+jwt`, `text/at+jwt`), verify.ErrType},
		{"typ with the prefix twice", header(`at+jwt`, `application/application/at+jwt`), verify.ErrType},
		{"typ with a look-alike", header(`at+jwt`, "\u0430t+jwt"), verify.ErrType}, // a Cyrillic а
		{"typ a number", header(`"at+jwt"`, `1`), verify.ErrMalformed},

		// kid.
		{"kid absent", header(fmt.Sprintf(`"kid":%q,`, ed), ``), verify.ErrMalformed},
		{"kid empty", header(ed, ``), verify.ErrMalformed},
		{"kid null", header(`"`+ed+`"`, `null`), verify.ErrMalformed},
		{"kid a number", header(`"`+ed+`"`, `7`), verify.ErrMalformed},
		{"kid huge", header(ed, strings.Repeat("k", 300)), verify.ErrMalformed},
		{"kid unknown", header(ed, `unknown`), verify.ErrKeyUnknown},
		{"kid a path", header(ed, `../../../dev/null`), verify.ErrKeyUnknown},
		{"kid an injection", header(ed, `x' UNION SELECT 'key'--`), verify.ErrKeyUnknown},
		{"kid an address", header(ed, `https://evil.example/jwks.json`), verify.ErrKeyUnknown},
		{"kid with NUL", header(ed, ed+`\u0000`), verify.ErrKeyUnknown},
		{"kid in another case", header(ed, strings.ToLower(ed)), verify.ErrKeyUnknown},
		{"another issuer's token", stranger.Token("u"), verify.ErrKeyUnknown},

		// Signature.
		{"another issuer's key under our kid", stranger.Sign(verify.EdDSA, head, body), verify.ErrSignature},
		{"embedded key", stranger.Sign(verify.EdDSA, replace(t, head, `"typ"`, fmt.Sprintf(
			`"jwk":{"kty":"OKP","crv":"Ed25519","x":%q},"typ"`, b64(string(stranger.PublicKey(verify.EdDSA).(ed25519.PublicKey))))), body), verify.ErrSignature},
		{"another payload", parts[0] + "." + b64(body+" ") + "." + parts[2], verify.ErrSignature},
		{"another header", b64(head+" ") + "." + parts[1] + "." + parts[2], verify.ErrSignature},
		{"short signature", resigned(verify.EdDSA, func(s []byte) []byte { return s[:63] }), verify.ErrSignature},
		{"long signature", resigned(verify.EdDSA, func(s []byte) []byte { return append(s, 0) }), verify.ErrSignature},
		{"zero signature", resigned(verify.EdDSA, func(s []byte) []byte { return make([]byte, len(s)) }), verify.ErrSignature},
		{"Ed25519 S plus L", resigned(verify.EdDSA, plusOrder), verify.ErrSignature},
		{"Ed25519 R the neutral point", resigned(verify.EdDSA, func([]byte) []byte { return append([]byte{1}, make([]byte, 63)...) }), verify.ErrSignature},
		{"ES256 zero", resigned(verify.ES256, func(s []byte) []byte { return make([]byte, len(s)) }), verify.ErrSignature},
		{"ES256 r zero", resigned(verify.ES256, func(s []byte) []byte { clear(s[:32]); return s }), verify.ErrSignature},
		{"ES256 s zero", resigned(verify.ES256, func(s []byte) []byte { clear(s[32:]); return s }), verify.ErrSignature},
		{"ES256 all ones", resigned(verify.ES256, func(s []byte) []byte { return []byte(strings.Repeat("\xff", len(s))) }), verify.ErrSignature},
		{"ES256 in DER", resigned(verify.ES256, toDER), verify.ErrSignature},
		{"ES256 with zeros in front", resigned(verify.ES256, func(s []byte) []byte {
			return append(append(append([]byte{0}, s[:32]...), 0), s[32:]...)
		}), verify.ErrSignature},
		{"RS256 zero", resigned(verify.RS256, func(s []byte) []byte { return make([]byte, len(s)) }), verify.ErrSignature},
		{"RS256 one", resigned(verify.RS256, func(s []byte) []byte { return append(make([]byte, len(s)-1), 1) }), verify.ErrSignature},
		{"RS256 short", resigned(verify.RS256, func(s []byte) []byte { return s[1:] }), verify.ErrSignature},
		{"RS256 with a zero in front", resigned(verify.RS256, func(s []byte) []byte { return append([]byte{0}, s...) }), verify.ErrSignature},
		{"RS256 plus n", resigned(verify.RS256, func(s []byte) []byte {
			n := issuer.PublicKey(verify.RS256).(*rsa.PublicKey).N
			return new(big.Int).Add(new(big.Int).SetBytes(s), n).Bytes()
		}), verify.ErrSignature},
		{"PS256 signature under RS256", issuer.Sign(verify.PS256, fmt.Sprintf(`{"alg":"RS256","kid":%q,"typ":"at+jwt"}`, kid(verify.RS256)), body), verify.ErrSignature},

		// Claims of a signed payload.
		{"payload not JSON", issuer.Sign(verify.EdDSA, head, "hello"), verify.ErrClaims},
		{"payload a nested token", issuer.Sign(verify.EdDSA, head, good), verify.ErrClaims},
		{"payload a list", issuer.Sign(verify.EdDSA, head, "["+body+"]"), verify.ErrClaims},
		{"payload twice", issuer.Sign(verify.EdDSA, head, body+body), verify.ErrClaims},
		{"payload nested", claim(`"sub"`, `"x":`+strings.Repeat(`{"a":`, 1500)+"1"+strings.Repeat("}", 1500)+`,"sub"`), verify.ErrClaims},
		{"sub twice", claim(`"sub":"u"`, `"sub":"u","sub":"admin"`), verify.ErrClaims},
		{"sub twice, escaped", claim(`"sub":"u"`, `"sub":"u","s\u0075b":"admin"`), verify.ErrClaims},
		{"foreign member twice", claim(`"sub":"u"`, `"sub":"u","x":1,"x":1`), verify.ErrClaims},
		{"twice among many", claim(`"sub":"u"`, `"sub":"u"`+manyMembers(100)+`,"m50":1`), verify.ErrClaims},
		{"iss absent", claim(fmt.Sprintf(`"iss":%q,`, issuer.URL), ``), verify.ErrIssuer},
		{"iss of another", claim(issuer.URL, "https://evil.example"), verify.ErrIssuer},
		{"iss with a slash more", claim(issuer.URL, issuer.URL+"/"), verify.ErrIssuer},
		{"iss in capitals", claim(issuer.URL, strings.ToUpper(issuer.URL)), verify.ErrIssuer},
		{"iss a list", claim(fmt.Sprintf("%q", issuer.URL), fmt.Sprintf("[%q]", issuer.URL)), verify.ErrClaims},
		{"iss null", claim(fmt.Sprintf("%q", issuer.URL), "null"), verify.ErrClaims},
		{"aud absent", claim(`"aud":"verifytest",`, ``), verify.ErrAudience},
		{"aud of another", claim(`"verifytest"`, `"other"`), verify.ErrAudience},
		{"aud with ours inside", claim(`"verifytest"`, `"verifytest2"`), verify.ErrAudience},
		{"aud with spaces", claim(`"verifytest"`, `"other verifytest"`), verify.ErrAudience},
		{"aud an empty list", claim(`"verifytest"`, `[]`), verify.ErrAudience},
		{"aud a list without us", claim(`"verifytest"`, `["a","b"]`), verify.ErrAudience},
		{"aud a nested list", claim(`"verifytest"`, `[["verifytest"]]`), verify.ErrClaims},
		{"aud a mixed list", claim(`"verifytest"`, `["verifytest",1]`), verify.ErrClaims},
		{"aud an object", claim(`"verifytest"`, `{"verifytest":true}`), verify.ErrClaims},
		{"aud null", claim(`"verifytest"`, `null`), verify.ErrClaims},
		{"exp absent", claim(","+exp, ``), verify.ErrClaims},
		{"exp named Exp", claim(`"exp"`, `"Exp"`), verify.ErrClaims},
		{"exp a string", claim(exp, fmt.Sprintf(`"exp":"%d"`, now+300)), verify.ErrClaims},
		{"exp null", claim(exp, `"exp":null`), verify.ErrClaims},
		{"exp true", claim(exp, `"exp":true`), verify.ErrClaims},
		{"exp 1e999", claim(exp, `"exp":1e999`), verify.ErrClaims},
		{"exp the largest int64", claim(exp, `"exp":9223372036854775807`), verify.ErrClaims},
		{"exp past int64", claim(exp, `"exp":99999999999999999999`), verify.ErrClaims},
		{"exp NaN", claim(exp, `"exp":NaN`), verify.ErrClaims},
		{"exp hexadecimal", claim(exp, `"exp":0xffffffff`), verify.ErrClaims},
		{"exp with a plus", claim(exp, `"exp":+4000000000`), verify.ErrClaims},
		{"exp in Arabic digits", claim(exp, `"exp":٤٠٠٠٠٠٠٠٠٠`), verify.ErrClaims},
		{"exp passed", claim(exp, fmt.Sprintf(`"exp":%d`, now-60)), verify.ErrExpired},
		{"exp zero", claim(exp, `"exp":0`), verify.ErrExpired},
		{"exp negative", claim(exp, `"exp":-1`), verify.ErrExpired},
		{"exp in the smallest numbers", claim(exp, `"exp":1e-400`), verify.ErrExpired},
		{"nbf ahead", claim(exp, exp+fmt.Sprintf(`,"nbf":%d`, now+120)), verify.ErrNotYetValid},
		{"nbf a string", claim(exp, exp+`,"nbf":"0"`), verify.ErrClaims},
		{"iat ahead", claim(iat, fmt.Sprintf(`"iat":%d`, now+120)), verify.ErrNotYetValid},
		{"iat in milliseconds", claim(iat, fmt.Sprintf(`"iat":%d000`, now)), verify.ErrNotYetValid},
		{"iat a string", claim(iat, `"iat":"now"`), verify.ErrClaims},
		{"sub absent", claim(`"sub":"u",`, ``), verify.ErrClaims},
		{"sub empty", claim(`"u"`, `""`), verify.ErrClaims},
		{"sub a number", claim(`"u"`, `1`), verify.ErrClaims},
		{"sub an object", claim(`"u"`, `{"$ne":""}`), verify.ErrClaims},
		{"scope a list", claim(`"sub"`, `"scope":["admin"],"sub"`), verify.ErrClaims},
		{"roles a string", claim(`"sub"`, `"roles":"admin","sub"`), verify.ErrClaims},
		{"a refresh token", claim(`"access"`, `"refresh"`), verify.ErrType},
		{"token_type empty", claim(`"access"`, `""`), verify.ErrType},
	} {
		claims, err := v.Verify(t.Context(), tc.token)
		if !errors.Is(err, tc.want) || claims != nil {
			t.Errorf("%s: %v (%s), want %v", tc.name, err, verify.Reason(err), tc.want)
		}
		for _, part := range append(strings.Split(tc.token, "."), ed) {
			if err != nil && len(part) > 8 && strings.Contains(err.Error(), part) {
				t.Errorf("%s: the error repeats part of the token: %v", tc.name, err)
			}
		}
	}
	if _, err := v.Verify(t.Context(), good); err != nil {
		t.Errorf("a good token after them: %v", err)
	}
}

// A salt of another length than the hash is not RFC 7518's PS256.
func TestPS256Salt(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	doc := fmt.Sprintf(`{"keys":[{"kty":"RSA","kid":"k","alg":"PS256","n":%q,"e":"AQAB"}]}`, b64(string(private.N.Bytes())))
	keys, err := verify.ParseKeySet([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	v, err := verify.New(verify.Options{Issuer: "i", Audience: "a", Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	signed := b64(`{"alg":"PS256","kid":"k","typ":"at+jwt"}`) + "." + b64(`{"iss":"i","aud":"a","sub":"s","exp":4e9}`)
	sum := sha256.Sum256([]byte(signed))
	for salt, want := range map[int]error{rsa.PSSSaltLengthEqualsHash: nil, 20: verify.ErrSignature, rsa.PSSSaltLengthAuto: verify.ErrSignature} {
		sig, err := rsa.SignPSS(rand.Reader, private, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: salt})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(t.Context(), signed+"."+b64(string(sig))); !errors.Is(err, want) {
			t.Errorf("salt %d: %v, want %v", salt, err, want)
		}
	}
}

// The bounds of time, to the nanosecond.
func TestTimes(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	base := time.Unix(2_000_000_000, 0)
	for _, tc := range []struct {
		name  string
		times string
		at    time.Duration // the clock, from base
		want  error
	}{
		{"just before exp", `"exp":2000000000`, 10*time.Second - 1, nil},
		{"at exp", `"exp":2000000000`, 10 * time.Second, verify.ErrExpired},
		{"exp's fraction is cut", `"exp":2000000000.9`, 10 * time.Second, verify.ErrExpired},
		{"nbf just ahead", `"exp":2000000100,"nbf":2000000000`, -10*time.Second - 1, verify.ErrNotYetValid},
		{"at nbf", `"exp":2000000100,"nbf":2000000000`, -10 * time.Second, nil},
		{"nbf's fraction is rounded up", `"exp":2000000100,"nbf":1999999999.1`, -10*time.Second - 1, verify.ErrNotYetValid},
		{"iat just ahead", `"exp":2000000100,"iat":2000000000`, -10*time.Second - 1, verify.ErrNotYetValid},
		{"at iat", `"exp":2000000100,"iat":2000000000`, -10 * time.Second, nil},
		{"exp at the largest integer", `"exp":9007199254740992`, 0, nil},
	} {
		v := fixed(t, issuer, func(o *verify.Options) {
			o.Leeway = 10 * time.Second
			o.Now = func() time.Time { return base.Add(tc.at) }
		})
		raw := issuer.Sign(verify.EdDSA, fmt.Sprintf(`{"alg":"EdDSA","kid":%q,"typ":"at+jwt"}`, issuer.KeyID(verify.EdDSA)),
			fmt.Sprintf(`{"iss":%q,"aud":"verifytest","sub":"u",%s}`, issuer.URL, tc.times))
		if _, err := v.Verify(t.Context(), raw); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

func TestAllowLists(t *testing.T) {
	issuer := verifytest.NewIssuer(t, verify.EdDSA, verify.ES256)
	v := fixed(t, issuer, func(o *verify.Options) {
		o.Algorithms = []string{verify.ES256}
		o.Types = []string{"application/JWT"}
	})
	sign := func(alg, typ string) string {
		return issuer.Sign(alg, fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":%q}`, alg, issuer.KeyID(alg), typ),
			fmt.Sprintf(`{"iss":%q,"aud":"verifytest","sub":"u","exp":4e9}`, issuer.URL))
	}
	for _, tc := range []struct {
		alg, typ string
		want     error
	}{
		{verify.ES256, "JWT", nil},
		{verify.ES256, "jwt", nil},
		{verify.ES256, "at+jwt", verify.ErrType},
		{verify.EdDSA, "JWT", verify.ErrAlgorithm},
	} {
		if _, err := v.Verify(t.Context(), sign(tc.alg, tc.typ)); !errors.Is(err, tc.want) {
			t.Errorf("%s %s: %v, want %v", tc.alg, tc.typ, err, tc.want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	keys, err := verify.ParseKeySet(issuer.KeySet())
	if err != nil {
		t.Fatal(err)
	}
	ok := func() verify.Options {
		return verify.Options{Issuer: "i", Audience: "a", JWKSURL: "https://id.example/jwks.json"}
	}
	for name, change := range map[string]func(*verify.Options){
		"no issuer":          func(o *verify.Options) { o.Issuer = "" },
		"no audience":        func(o *verify.Options) { o.Audience = "" },
		"no keys":            func(o *verify.Options) { o.JWKSURL = "" },
		"keys twice":         func(o *verify.Options) { o.Keys = keys },
		"empty keys":         func(o *verify.Options) { o.JWKSURL, o.Keys = "", &verify.KeySet{} },
		"http":               func(o *verify.Options) { o.JWKSURL = "http://id.example/jwks.json" },
		"another scheme":     func(o *verify.Options) { o.JWKSURL = "file:///etc/jwks.json" },
		"relative":           func(o *verify.Options) { o.JWKSURL = "/jwks.json" },
		"password in it":     func(o *verify.Options) { o.JWKSURL = "https://u:p@id.example/" },
		"fragment":           func(o *verify.Options) { o.JWKSURL = "https://id.example/#x" },
		"unknown algorithm":  func(o *verify.Options) { o.Algorithms = []string{"HS256"} },
		"none":               func(o *verify.Options) { o.Algorithms = []string{"none"} },
		"empty type":         func(o *verify.Options) { o.Types = []string{""} },
		"leeway of a day":    func(o *verify.Options) { o.Leeway = 24 * time.Hour },
		"negative size":      func(o *verify.Options) { o.MaxTokenBytes = -1 },
		"clamps crossed":     func(o *verify.Options) { o.Cache.MinAge, o.Cache.MaxAge = time.Hour, time.Minute },
		"default outside":    func(o *verify.Options) { o.Cache.DefaultAge = 24 * time.Hour },
		"negative budget":    func(o *verify.Options) { o.Cache.Burst = -1 },
		"negative deadline":  func(o *verify.Options) { o.Cache.FetchTimeout = -1 },
		"negative least age": func(o *verify.Options) { o.Cache.MinAge = -1 },
	} {
		o := ok()
		change(&o)
		if _, err := verify.New(o); !errors.Is(err, verify.ErrOptions) {
			t.Errorf("%s: %v, want %v", name, err, verify.ErrOptions)
		}
	}
	for _, url := range []string{"https://id.example/k", "http://127.0.0.1:8000/k", "http://localhost/k", "http://[::1]/k"} {
		o := ok()
		o.JWKSURL = url
		if _, err := verify.New(o); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestHooksSeeOutcomes(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	var seen []verify.Outcome
	v := fixed(t, issuer, func(o *verify.Options) {
		o.Hooks.Verified = func(out verify.Outcome) { seen = append(seen, out) }
	})
	good := issuer.Token("u")
	_, _ = v.Verify(context.Background(), good)
	_, _ = v.Verify(context.Background(), good[:len(good)-4]+"AAAA")
	_, _ = v.Verify(context.Background(), "x")
	kid := issuer.KeyID(verify.EdDSA)
	want := []verify.Outcome{
		{Reason: "ok", KeyID: kid, Algorithm: "EdDSA", Issuer: issuer.URL},
		{Reason: "signature", KeyID: kid, Algorithm: "EdDSA", Issuer: issuer.URL},
		{Reason: "malformed"},
	}
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("outcomes %v, want %v", seen, want)
	}
}

func replace(t *testing.T, s, old, with string) string {
	t.Helper()
	if strings.Count(s, old) != 1 {
		t.Fatalf("%q is not once in %q", old, s)
	}
	return strings.Replace(s, old, with, 1)
}

// trailingBits is another last character that stands for the same bytes. An
// Ed25519 signature has 64 bytes, so its last character has four bits unused.
func trailingBits(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, c)|1])
}

// plusOrder adds the order of the base point to S: the same signature to a
// verifier that reduces S.
func plusOrder(sig []byte) []byte {
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	s := make([]byte, 32)
	for i, b := range sig[32:] {
		s[31-i] = b
	}
	sum := new(big.Int).Add(new(big.Int).SetBytes(s), order).FillBytes(make([]byte, 32))
	out := append([]byte(nil), sig[:32]...)
	for i := range sum {
		out = append(out, sum[31-i])
	}
	return out
}

// toDER writes r and s as ASN.1, each with a zero in front so that its length
// does not depend on them.
func toDER(sig []byte) []byte {
	out := []byte{0x30, 70, 0x02, 33, 0}
	out = append(out, sig[:32]...)
	out = append(out, 0x02, 33, 0)
	return append(out, sig[32:]...)
}
