package verify_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
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
	o := fixedOptions(tb, issuer)
	for _, f := range change {
		f(&o)
	}
	v, err := verify.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// fixedOptions are those of the issuer with its keys as they are now.
func fixedOptions(tb testing.TB, issuer *verifytest.Issuer) verify.Options {
	tb.Helper()
	keys, err := verify.ParseKeySet(issuer.KeySet())
	if err != nil {
		tb.Fatal(err)
	}
	o := issuer.Options()
	o.JWKSURL, o.Keys = "", keys
	return o
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
		"no issuer":                 func(o *verify.Options) { o.Issuer = "" },
		"no audience":               func(o *verify.Options) { o.Audience = "" },
		"no keys":                   func(o *verify.Options) { o.JWKSURL = "" },
		"keys twice":                func(o *verify.Options) { o.Keys = keys },
		"empty keys":                func(o *verify.Options) { o.JWKSURL, o.Keys = "", &verify.KeySet{} },
		"http":                      func(o *verify.Options) { o.JWKSURL = "http://id.example/jwks.json" },
		"another scheme":            func(o *verify.Options) { o.JWKSURL = "file:///etc/jwks.json" },
		"relative":                  func(o *verify.Options) { o.JWKSURL = "/jwks.json" },
		"password in it":            func(o *verify.Options) { o.JWKSURL = "https://u:p@id.example/" },
		"fragment":                  func(o *verify.Options) { o.JWKSURL = "https://id.example/#x" },
		"unknown algorithm":         func(o *verify.Options) { o.Algorithms = []string{"HS256"} },
		"none":                      func(o *verify.Options) { o.Algorithms = []string{"none"} },
		"empty type":                func(o *verify.Options) { o.Types = []string{""} },
		"leeway of a day":           func(o *verify.Options) { o.Leeway = 24 * time.Hour },
		"negative size":             func(o *verify.Options) { o.MaxTokenBytes = -1 },
		"clamps crossed":            func(o *verify.Options) { o.Cache.MinAge, o.Cache.MaxAge = time.Hour, time.Minute },
		"default outside":           func(o *verify.Options) { o.Cache.DefaultAge = 24 * time.Hour },
		"negative budget":           func(o *verify.Options) { o.Cache.Burst = -1 },
		"negative deadline":         func(o *verify.Options) { o.Cache.FetchTimeout = -1 },
		"negative least age":        func(o *verify.Options) { o.Cache.MinAge = -1 },
		"revocations over http":     func(o *verify.Options) { o.Revocations.URL = "http://id.example/r" },
		"revocations of a query":    func(o *verify.Options) { o.Revocations.URL = "https://id.example/r?x" },
		"revocations without a URL": func(o *verify.Options) { o.Revocations.Optional = true },
		"a short silence": func(o *verify.Options) {
			o.Revocations = verify.RevocationOptions{URL: "https://id.example/r", MaxSilence: time.Second}
		},
		"negative entries": func(o *verify.Options) {
			o.Revocations = verify.RevocationOptions{URL: "https://id.example/r", MaxEntries: -1}
		},
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
