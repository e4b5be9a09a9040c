package verify_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejwt "github.com/go-jose/go-jose/v4/jwt"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
	jwxjwt "github.com/lestrrat-go/jwx/v2/jwt"
	"pgregory.net/rapid"

	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

// judges are two independent libraries that hold the same keys.
type judges struct {
	issuer string
	now    time.Time
	jose   jose.JSONWebKeySet
	jwx    jwk.Set
}

func newJudges(tb testing.TB, issuer *verifytest.Issuer, now time.Time) *judges {
	tb.Helper()
	j := &judges{issuer: issuer.URL, now: now}
	if err := json.Unmarshal(issuer.KeySet(), &j.jose); err != nil {
		tb.Fatal(err)
	}
	var err error
	if j.jwx, err = jwk.Parse(issuer.KeySet()); err != nil {
		tb.Fatal(err)
	}
	return j
}

// goJose is the verdict of go-jose.
func (j *judges) goJose(raw string) error {
	parsed, err := josejwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.EdDSA, jose.RS256, jose.ES256, jose.PS256})
	if err != nil {
		return err
	}
	head := parsed.Headers[0]
	keys := j.jose.Key(head.KeyID)
	if len(keys) != 1 {
		return fmt.Errorf("%d keys of kid %q", len(keys), head.KeyID)
	}
	// go-jose leaves it to the caller to compare the two.
	if keys[0].Algorithm != head.Algorithm {
		return fmt.Errorf("alg %s for a key of %s", head.Algorithm, keys[0].Algorithm)
	}
	var c josejwt.Claims
	if err := parsed.Claims(keys[0], &c); err != nil {
		return err
	}
	if c.Expiry == nil {
		return errors.New("no exp")
	}
	return c.ValidateWithLeeway(josejwt.Expected{
		Issuer: j.issuer, AnyAudience: josejwt.Audience{verifytest.Audience}, Time: j.now,
	}, 0)
}

// jwxV2 is the verdict of jwx. jwx ignores the header's alg: compared here.
func (j *judges) jwxV2(raw string) error {
	message, err := jws.Parse([]byte(raw), jws.WithCompact())
	if err != nil {
		return err
	}
	head := message.Signatures()[0].ProtectedHeaders()
	k, ok := j.jwx.LookupKeyID(head.KeyID())
	if !ok {
		return fmt.Errorf("no key %q", head.KeyID())
	}
	if k.Algorithm().String() != head.Algorithm().String() {
		return fmt.Errorf("alg %s for a key of %s", head.Algorithm(), k.Algorithm())
	}
	_, err = jwxjwt.Parse([]byte(raw), jwxjwt.WithKey(k.Algorithm(), k), jwxjwt.WithValidate(true),
		jwxjwt.WithIssuer(j.issuer), jwxjwt.WithAudience(verifytest.Audience), jwxjwt.WithRequiredClaim("exp"),
		jwxjwt.WithClock(jwxjwt.ClockFunc(func() time.Time { return j.now })))
	return err
}

// isCanonical says whether every part is what encoding it again gives.
func isCanonical(raw string) bool {
	for part := range strings.SplitSeq(raw, ".") {
		b, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil || base64.RawURLEncoding.EncodeToString(b) != part {
			return false
		}
	}
	return true
}

// On tokens that are good, or wrong in ways that every library looks at, the
// verdict is that of go-jose and of jwx. Where we are stricter by purpose
// (typ, crit, duplicates, canonical form, …) is the table of FuzzVerdicts.
func TestVerdictsOfOtherLibraries(t *testing.T) {
	issuer := verifytest.NewIssuer(t, verify.Algorithms()...)
	now := time.Unix(2_000_000_000, 0)
	v := fixed(t, issuer, func(o *verify.Options) {
		o.Leeway = -1
		o.Now = func() time.Time { return now }
	})
	j := newJudges(t, issuer, now)
	good, bad := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		pick := func(name string, usual any, others ...any) any {
			// Three of four times the usual, or hardly a token would be good.
			if rapid.IntRange(0, 3).Draw(t, name+"?") > 0 {
				return usual
			}
			return rapid.SampledFrom(append(others, usual)).Draw(t, name)
		}
		alg := rapid.SampledFrom(verify.Algorithms()).Draw(t, "alg")
		head := map[string]any{
			"typ": "at+jwt",
			"alg": pick("header alg", alg, "EdDSA", "RS256", "ES256", "PS256", "HS256", "none", "RS512"),
			"kid": pick("kid", issuer.KeyID(alg), issuer.KeyID(verify.EdDSA), issuer.KeyID(verify.RS256), "unknown"),
		}
		claims := map[string]any{
			"sub": "u",
			"iss": pick("iss", issuer.URL, issuer.URL+"/", "", "https://evil.example"),
			"aud": pick("aud", verifytest.Audience, "other", []string{"other", verifytest.Audience}, []string{"other"}, []string{}),
			"exp": pick("exp", now.Unix()+60, now.Unix()+1, now.Unix()-1, 0),
		}
		for name, value := range map[string]any{
			"nbf": pick("nbf", nil, now.Unix()-1, now.Unix()+2),
			"iat": pick("iat", nil, now.Unix()-1, now.Unix()+2),
			"x":   pick("x", nil, "é\u2028<&>", []any{nil, 1.5, map[string]any{"a": true}}),
		} {
			if value != nil {
				claims[name] = value
			}
		}
		if rapid.IntRange(0, 9).Draw(t, "without") == 0 {
			delete(claims, rapid.SampledFrom([]string{"iss", "aud", "exp"}).Draw(t, "absent"))
		}
		header, _ := json.Marshal(head)
		payload, _ := json.Marshal(claims)
		raw := issuer.Sign(alg, string(header), string(payload))
		if rapid.IntRange(0, 3).Draw(t, "flip?") == 0 {
			i := rapid.IntRange(0, len(raw)-1).Draw(t, "flip")
			raw = raw[:i] + string(rapid.SampledFrom([]rune("Az09-_.=+")).Draw(t, "with")) + raw[i+1:]
		}
		_, ours := v.Verify(context.Background(), raw)
		theirs := [2]error{j.goJose(raw), j.jwxV2(raw)}
		switch {
		case ours == nil && theirs[0] != nil && theirs[1] != nil:
			t.Fatalf("accepted %s\nbut go-jose: %v\njwx: %v", raw, theirs[0], theirs[1])
		case ours != nil && theirs[0] == nil && theirs[1] == nil && isCanonical(raw):
			t.Fatalf("refused %s: %v\nbut go-jose and jwx accept", raw, ours)
		}
		if ours == nil {
			good++
		} else {
			bad++
		}
	})
	t.Logf("%d accepted, %d refused", good, bad)
	if good == 0 || bad == 0 {
		t.Errorf("%d accepted, %d refused: the generator shows nothing", good, bad)
	}
}
