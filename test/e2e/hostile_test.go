package e2e

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/cli/database"
)

// TestHostileTokens: no token opens either service but one that authn made
// for it, and none makes it stumble. Forgeries come in two kinds: those of who
// lacks the key, and, with the real key, those that only a claim gives away.
func TestHostileTokens(t *testing.T) {
	everyWay(t, func(t *testing.T, in *installation) {
		c := in.client
		s := in.start(nil)
		auth, _ := s.auths()
		p := c.newPerson()
		c.register(auth, p)
		good := c.login(auth, p)
		elsewhere := c.pairOf(c.want(http.StatusOK, http.MethodPost, auth+"/authn/token",
			object{"email": p.email, "password": p.password, "audience": "elsewhere"}))
		c.want(http.StatusUnauthorized, http.MethodGet, s.api[0]+"/inmuebles", nil, bearer(elsewhere.Access))
		c.want(http.StatusOK, http.MethodGet, auth+"/authn/me", nil, bearer(elsewhere.Access))

		forged := forgeries(t, good)
		maps.Copy(forged, misused(t, in, good.Access))
		for what, token := range forged {
			for _, base := range s.api {
				c.refused(what, base+"/inmuebles", bearer(token))
				c.refused(what, base+"/inmuebles", legacy(token))
			}
			for _, base := range s.auth {
				switch what {
				case "for somebody else": // at authn a user's token is good, whomever it is for
				case "not yet issued": // authn issues none such, and reads only its own
				default:
					c.refused(what, base+"/authn/me", bearer(token))
				}
			}
		}
		c.want(http.StatusUnauthorized, http.MethodPost, auth+"/authn/token/refresh", object{"refresh": good.Access})
		for _, base := range s.api {
			c.want(http.StatusOK, http.MethodGet, base+"/inmuebles", nil, bearer(good.Access))
		}
		t.Logf("%d hostile tokens, each refused with 401", len(forged))
		s.stop()
	})
}

// refused wants 401, and the challenge that belongs to it.
func (c *client) refused(what, url string, token option) {
	c.t.Helper()
	a, err := c.try(http.MethodGet, url, nil, token)
	if err != nil || a.status != http.StatusUnauthorized || !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer ") {
		c.t.Errorf("%s at %s: %d %v %s, want 401", what, url, a.status, err, a.body)
	}
}

func base64url(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// headerOf reads the header of a JWT.
func headerOf(t *testing.T, token string) object {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	var header object
	if err := json.Unmarshal(raw, &header); err != nil {
		t.Fatal(err)
	}
	return header
}

// forgeries are made of a good pair by who lacks the signing key.
func forgeries(t *testing.T, good pair) map[string]string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good.Access, ".")
	kid := str(headerOf(t, good.Access)["kid"])
	// signed has a header of the forger's and a signature of the forger's key.
	signed := func(header string) string {
		text := base64url(header) + "." + parts[1]
		return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(private, []byte(text)))
	}
	unsigned := func(header string) string { return base64url(header) + "." + parts[1] + "." }
	withHeader := func(header string) string { return base64url(header) + "." + parts[1] + "." + parts[2] }
	confused := base64url(`{"alg":"HS256","typ":"at+jwt","kid":"`+kid+`"}`) + "." + parts[1]
	mac := hmac.New(sha256.New, public)
	mac.Write([]byte(confused))

	return map[string]string{
		"alg none":                   unsigned(`{"alg":"none","typ":"at+jwt","kid":"` + kid + `"}`),
		"alg None":                   unsigned(`{"alg":"None","typ":"at+jwt","kid":"` + kid + `"}`),
		"alg none, with a signature": withHeader(`{"alg":"none","typ":"at+jwt","kid":"` + kid + `"}`),
		"alg RS256 for an EdDSA key": withHeader(`{"alg":"RS256","typ":"at+jwt","kid":"` + kid + `"}`),
		"alg HS256":                  confused + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)),
		"alg unknown":                withHeader(`{"alg":"XX999","typ":"at+jwt","kid":"` + kid + `"}`),
		"no alg":                     withHeader(`{"typ":"at+jwt","kid":"` + kid + `"}`),
		"alg a list":                 withHeader(`{"alg":["EdDSA"],"typ":"at+jwt","kid":"` + kid + `"}`),
		"alg null":                   withHeader(`{"alg":null,"typ":"at+jwt","kid":"` + kid + `"}`),
		"alg a number":               withHeader(`{"alg":1,"typ":"at+jwt","kid":"` + kid + `"}`),
		"alg twice":                  withHeader(`{"alg":"EdDSA","alg":"none","typ":"at+jwt","kid":"` + kid + `"}`),
		"another key, our kid":       signed(`{"alg":"EdDSA","typ":"at+jwt","kid":"` + kid + `"}`),
		"another key, unknown kid":   signed(`{"alg":"EdDSA","typ":"at+jwt","kid":"nobody"}`),
		"another key, no kid":        signed(`{"alg":"EdDSA","typ":"at+jwt"}`),
		"a kid that is a path":       signed(`{"alg":"EdDSA","typ":"at+jwt","kid":"../../dev/null"}`),
		"a kid that is a list":       signed(`{"alg":"EdDSA","typ":"at+jwt","kid":["` + kid + `"]}`),
		"the key in the header":      signed(`{"alg":"EdDSA","typ":"at+jwt","jwk":{"kty":"OKP","crv":"Ed25519","x":"` + base64.RawURLEncoding.EncodeToString(public) + `"}}`),
		"a URL for the key":          signed(`{"alg":"EdDSA","typ":"at+jwt","kid":"` + kid + `","jku":"http://127.0.0.1:1/keys"}`),
		"crit":                       signed(`{"alg":"EdDSA","typ":"at+jwt","kid":"` + kid + `","crit":["x"],"x":1}`),
		"header no object":           withHeader(`[]`),
		"header no JSON":             withHeader(`{`),
		"header nested 1,000 deep":   withHeader(`{"alg":` + strings.Repeat("[", 1000)),
		"no signature":               parts[0] + "." + parts[1] + ".",
		"two parts":                  parts[0] + "." + parts[1],
		"four parts":                 good.Access + ".x",
		"payload changed":            parts[0] + "." + base64url(`{"iss":"`+issuer+`","sub":"admin","scope":"inmuebles:admin"}`) + "." + parts[2],
		"signature cut":              good.Access[:len(good.Access)-4],
		"signature padded":           good.Access + "=",
		"dots":                       "..",
		"not base64url":              "a+b.c/d.e",
		"a refresh token":            good.Refresh,
		"huge":                       strings.Repeat("a", 12_000),
	}
}

// misused are signed with the real key, taken from the database with the
// sealing key, and are wrong in one claim or in their type.
func misused(t *testing.T, in *installation, good string) map[string]string {
	t.Helper()
	sealed, err := os.Open(in.sealingKey)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sealed.Close() }()
	sealingKeys, err := keys.ParseSealingKeys(sealed)
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := keys.NewSealer(sealingKeys[0])
	if err != nil {
		t.Fatal(err)
	}
	db, err := database.OpenSQL(t.Context(), in.authDatabase, database.Full)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	keeper, err := keys.NewKeeper(keys.NewSQLStore(db.Write), sealer, keys.DefaultPolicy(), keys.Options{Name: "e2e"})
	if err != nil {
		t.Fatal(err)
	}
	if err := keeper.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	signer, err := keeper.Signer(jose.EdDSA)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(good, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	sign := func(typ string, change func(object)) string {
		claims := object{}
		if err := json.Unmarshal(payload, &claims); err != nil {
			t.Fatal(err)
		}
		change(claims)
		token, err := signer.Sign(typ, encode(t, claims))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	set := func(name string, value any) string {
		return sign("at+jwt", func(c object) { c[name] = value })
	}
	without := func(name string) string {
		return sign("at+jwt", func(c object) { delete(c, name) })
	}
	same := func(object) {}
	// Without this one the rest would prove nothing.
	in.client.want(http.StatusOK, http.MethodGet, in.running.api[0]+"/inmuebles", nil, bearer(sign("at+jwt", same)))

	hour := time.Hour
	return map[string]string{
		"without exp":         without("exp"),
		"exp null":            set("exp", nil),
		"exp a text":          set("exp", "tomorrow"),
		"exp beyond int64":    set("exp", json.Number("1e30")),
		"expired":             set("exp", time.Now().Add(-hour).Unix()),
		"not yet issued":      sign("at+jwt", func(c object) { c["iat"], c["nbf"] = time.Now().Add(hour).Unix(), time.Now().Add(hour).Unix() }),
		"another issuer":      set("iss", "https://evil.example"),
		"issuer with a slash": set("iss", issuer+"/"),
		"without an issuer":   without("iss"),
		"for somebody else":   set("aud", "elsewhere"),
		"without sub":         without("sub"),
		"use refresh":         set("token_type", "refresh"),
		"another typ":         sign("logout+jwt", same),
	}
}
