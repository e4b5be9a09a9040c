package doctor

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify"
)

// token says whether the token verifies, why not, and who would refuse it
// although it is good. It never shows the token.
func (x *examiner) token(ctx context.Context) {
	r := x.report
	r.Token = TokenBad
	header, claims, ok := takeApart(x.Token)
	if !ok {
		r.add(Broken, checkToken, nil, "this is no JWT: three parts of base64url with dots between, the first two JSON objects")
		return
	}
	audience := x.Audience
	if audience == "" && len(claims.Audience) > 0 {
		audience = claims.Audience[0]
		r.add(Note, checkToken, nil, "no audience was given; the token's own, %.60q, is taken", audience)
	}
	known := slices.ContainsFunc(r.Keys, func(k Key) bool { return k.KeyID == header.KeyID })
	set, err := verify.ParseKeySet(r.set)
	if err != nil {
		r.add(Broken, checkToken, nil, "no key of the set can be used")
		return
	}
	v, err := verify.New(verify.Options{
		Issuer: x.Issuer, Audience: audience, Keys: set, Types: []string{token.TypeAccess, token.TypeJWT}, Now: x.Now,
	})
	if err != nil {
		r.add(Broken, checkToken, nil, "it can't be checked: %s", plain(err))
		return
	}
	now := x.Now()
	_, err = v.Verify(ctx, x.Token)
	switch reason := verify.Reason(err); {
	case !slices.Contains(verify.Algorithms(), header.Algorithm):
		r.add(Broken, checkToken, nil, "its alg is %.20q, which no verifier of access tokens should take", header.Algorithm)
	case err == nil:
		r.Token = TokenGood
		r.add(OK, checkToken, nil, "it verifies, for another %v", claims.ExpiresAt().Sub(now).Round(time.Second))
		x.refusals(header, claims, now)
	case reason == "key_unknown" && !known:
		r.add(Broken, checkToken, nil, "its key %.64q is not in the set: it was retired or revoked, or the set is a copy from before it was made", header.KeyID)
	case reason == "key_unknown":
		r.add(Broken, checkToken, nil, "its key %.64q is in the set, but not for alg %s", header.KeyID, header.Algorithm)
	case reason == "signature":
		r.add(Broken, checkToken, nil, "its signature is not that of the key %.64q in the set: it was altered, or another key has the same kid", header.KeyID)
	case reason == "expired":
		r.add(Broken, checkToken, nil, "it expired %v ago", now.Sub(claims.ExpiresAt()).Round(time.Second))
	case reason == "not_yet_valid":
		r.add(Broken, checkToken, nil, "it is not valid yet: iat or nbf is ahead of our clock by %v",
			max(time.Unix(claims.IssuedAt, 0).Sub(now), time.Unix(claims.NotBefore, 0).Sub(now)).Round(time.Second))
	case reason == "issuer":
		r.add(Broken, checkToken, nil, "its iss is %.100q, and %.100q is wanted, byte for byte", claims.Issuer, x.Issuer)
	case reason == "audience":
		r.add(Broken, checkToken, nil, "it is for %.100q, and not for %.60q", strings.Join(claims.Audience, ", "), audience)
	case reason == "algorithm":
		r.add(Broken, checkToken, nil, "its key %.64q is in the set, but not for alg %s", header.KeyID, header.Algorithm)
	case reason == "type":
		r.add(Broken, checkToken, nil, "its typ is %.40q, and at+jwt is wanted (RFC 9068 §2.1)", header.Type)
	default:
		r.add(Broken, checkToken, nil, "it does not verify: %s", verify.Detail(err))
	}
}

// refusals are what stock verifiers have against a good token.
func (x *examiner) refusals(header tokenHeader, claims token.Claims, now time.Time) {
	r := x.report
	if strings.EqualFold(header.Type, token.TypeAccess) {
		r.add(Note, checkToken, libraries("nimb", "spr"), "typ at+jwt is refused by their defaults: they need one line of configuration (docs/verify.md)")
	} else {
		r.add(Note, checkToken, libraries("a9068"), "typ %.20q is refused: it takes at+jwt only", header.Type)
	}
	if header.Algorithm == "EdDSA" {
		r.add(Note, checkToken, withoutEdDSA(), "EdDSA is not among what they do: their audience should get RS256")
	}
	if ahead := time.Unix(claims.IssuedAt, 0).Sub(now); ahead > 0 {
		r.add(Warning, checkToken, libraries("pyjwt", "authl", "a9068", "auth0", "jwx2", "jwx3", "php"), "iat is %v ahead of our clock", ahead.Round(time.Second))
	}
	if claims.NotBefore != 0 && time.Unix(claims.NotBefore, 0).After(now.Add(-time.Second)) {
		r.add(Warning, checkToken, libraries("jose", "jrsa", "pyjwt", "authl", "a9068", "auth0", "jwx2", "jwx3", "kfun", "rb3", "rb2", "php"), "nbf leaves no room for a clock that is behind")
	}
}

type tokenHeader struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
	Type      string `json:"typ"`
}

func takeApart(text string) (header tokenHeader, claims token.Claims, ok bool) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return header, claims, false
	}
	head, err1 := base64.RawURLEncoding.DecodeString(parts[0])
	body, err2 := base64.RawURLEncoding.DecodeString(parts[1])
	ok = err1 == nil && err2 == nil && json.Unmarshal(head, &header) == nil && json.Valid(body)
	_ = json.Unmarshal(body, &claims) // claims of a wrong type are the verifier's to find
	return header, claims, ok
}
