package doctor

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// issuer is one that tests spoil.
type issuer struct {
	t       *testing.T
	url     string
	set     []map[string]any
	raw     string            // the key set's body, instead of set
	header  map[string]string // of the key set; "" takes a field away
	status  int
	change  func(metadata map[string]any, name string)
	handler func(w http.ResponseWriter, r *http.Request) bool // true: answered
	ed      ed25519.PrivateKey
	fetches atomic.Int64
}

var testKeys = sync.OnceValue(func() (out struct {
	ed  ed25519.PrivateKey
	rsa [2]*rsa.PrivateKey
},
) {
	_, out.ed, _ = ed25519.GenerateKey(rand.Reader)
	for i := range out.rsa {
		out.rsa[i], _ = rsa.GenerateKey(rand.Reader, 2048)
	}
	return out
})

func jwk(t *testing.T, key any, kid, alg string) map[string]any {
	t.Helper()
	raw, err := json.Marshal(jose.JSONWebKey{Key: key, KeyID: kid, Algorithm: alg, Use: "sig"})
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	k := testKeys()
	_, standby, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{t: t, ed: k.ed, status: 200, header: map[string]string{
		"Content-Type": "application/jwk-set+json", "Cache-Control": "public, max-age=300", "Access-Control-Allow-Origin": "*",
	}, set: []map[string]any{
		jwk(t, k.ed.Public(), "ed-1", "EdDSA"), jwk(t, standby.Public(), "ed-2", "EdDSA"),
		jwk(t, k.rsa[0].Public(), "rs-1", "RS256"), jwk(t, k.rsa[1].Public(), "rs-2", "RS256"),
	}}
	server := httptest.NewServer(i)
	t.Cleanup(server.Close)
	i.url = server.URL
	return i
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if i.handler != nil && i.handler(w, r) {
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/.well-known/")
	if name == "jwks.json" {
		i.jwks(w, r)
		return
	}
	m := map[string]any{"issuer": i.url, "jwks_uri": i.url + "/.well-known/jwks.json"}
	if i.change != nil {
		i.change(m, name)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(m)
}

func (i *issuer) jwks(w http.ResponseWriter, r *http.Request) {
	i.fetches.Add(1)
	body := []byte(i.raw)
	if i.raw == "" {
		var err error
		if body, err = json.Marshal(map[string]any{"keys": i.set}); err != nil {
			panic(err)
		}
	}
	etag := fmt.Sprintf(`"%x"`, len(body))
	w.Header().Set("Etag", etag)
	for name, value := range i.header {
		if value == "" {
			w.Header().Del(name)
			continue
		}
		w.Header().Set(name, value)
	}
	if r.Header.Get("If-None-Match") == etag && i.status == 200 {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.WriteHeader(i.status)
	_, _ = w.Write(body)
}

func (i *issuer) examine(change ...func(*Options)) *Report {
	o := Options{Issuer: i.url}
	for _, c := range change {
		c(&o)
	}
	return Examine(i.t.Context(), o)
}

// finding returns the first finding whose message has a text.
func (r *Report) finding(text string) *Finding {
	for i := range r.Findings {
		if strings.Contains(r.Findings[i].Message, text) {
			return &r.Findings[i]
		}
	}
	return nil
}

func (r *Report) String() string {
	var b strings.Builder
	r.Text(&b)
	return b.String()
}

func TestGoodIssuer(t *testing.T) {
	r := newIssuer(t).examine()
	if r.Worst() != OK || !r.Reached || len(r.Keys) != 4 || r.MaxAge != 5*time.Minute {
		t.Errorf("worst %s, reached %t:\n%s", r.Worst(), r.Reached, r)
	}
}

func TestBadIssuers(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(*issuer)
		level Level
		says  string
		who   string // one of those that it hits; "" for any
	}{
		{"another issuer in the metadata", func(i *issuer) {
			i.change = func(m map[string]any, _ string) { m["issuer"] = "https://other.example" }
		}, Broken, "byte by byte", ""},
		{"a slash too many in one document", func(i *issuer) {
			i.change = func(m map[string]any, name string) {
				if name == "openid-configuration" {
					m["issuer"] = i.url + "/"
				}
			}
		}, Broken, "byte by byte", ""},
		{"no issuer in the metadata", func(i *issuer) { i.change = func(m map[string]any, _ string) { delete(m, "issuer") } }, Broken, "has no issuer", ""},
		{"no jwks_uri", func(i *issuer) { i.change = func(m map[string]any, _ string) { delete(m, "jwks_uri") } }, Broken, "has no jwks_uri", ""},
		{"two key sets", func(i *issuer) {
			i.change = func(m map[string]any, name string) { m["jwks_uri"] = i.url + "/.well-known/jwks.json?" + name }
		}, Broken, "different key sets", ""},
		{"jwks_uri without TLS elsewhere", func(i *issuer) {
			i.change = func(m map[string]any, _ string) { m["jwks_uri"] = "http://keys.invalid/jwks" }
		}, Broken, "not https", ""},
		{"no metadata", func(i *issuer) {
			i.handler = func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "jwks.json") {
					return false
				}
				http.NotFound(w, r)
				return true
			}
		}, Broken, "no metadata names the key set", ""},
		{"metadata is HTML", func(i *issuer) {
			i.handler = func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "jwks.json") {
					return false
				}
				_, _ = w.Write([]byte("<html>"))
				return true
			}
		}, Broken, "not JSON", ""},
		{"the set answers 503", func(i *issuer) { i.status = 503 }, Broken, "answers 503", ""},
		{"the set is HTML", func(i *issuer) { i.raw = "<html>" }, Broken, "no JSON object", ""},
		{"the set is a list", func(i *issuer) { i.raw = "[]" }, Broken, "no JSON object", ""},
		{"the set has no keys", func(i *issuer) { i.raw = "{}" }, Broken, "no JSON object", ""},
		{"the set is empty", func(i *issuer) { i.raw = `{"keys":[]}` }, Broken, "empty", ""},
		{"the set is endless", func(i *issuer) { i.raw = `{"keys":[]}` + strings.Repeat(" ", maxDocument) }, Broken, "longer than", ""},
		{"the set is too big for Nimbus", func(i *issuer) {
			i.set[0]["x5u"] = strings.Repeat("x", nimbusLimit)
		}, Broken, "over its limit", "Nimbus 10.10"},
		{"text/html as media type", func(i *issuer) { i.header["Content-Type"] = "text/html" }, Warning, "media type", ""},
		{"a cookie", func(i *issuer) { i.header["Set-Cookie"] = "a=b" }, Warning, "cookie", ""},
		{"no-store", func(i *issuer) { i.header["Cache-Control"] = "no-store" }, Warning, "forbids shared caches", ""},
		{"no max-age", func(i *issuer) { i.header["Cache-Control"] = "" }, Warning, "no max-age", "jose4j 0.9.7"},
		{"max-age in words", func(i *issuer) { i.header["Cache-Control"] = "max-age=long" }, Warning, "no number of seconds", ""},
		{"max-age of a day", func(i *issuer) { i.header["Cache-Control"] = "max-age=86400" }, Warning, "a revoked key goes on", ""},
		{"behind a CDN", func(i *issuer) { i.header["Age"] = "120" }, Note, "a shared cache stands between", ""},
		{"behind a CDN that keeps it too long", func(i *issuer) { i.header["Age"] = "4000" }, Broken, "over its max-age", ""},
		{"Vary: *", func(i *issuer) { i.header["Vary"] = "*" }, Warning, "Vary: *", ""},
		{"Vary: User-Agent", func(i *issuer) { i.header["Vary"] = "Accept-Encoding, User-Agent" }, Warning, "user-agent", ""},
		{"no ETag", func(i *issuer) { i.header["Etag"] = "" }, Note, "no ETag", ""},
		{"an ETag that it doesn't know", func(i *issuer) { i.header["Etag"] = `"other"` }, Warning, "instead of 304", ""},
		{"an ETag that changes", func(i *issuer) {
			i.handler = func(w http.ResponseWriter, r *http.Request) bool {
				i.header["Etag"] = fmt.Sprintf(`"%d"`, i.fetches.Load())
				return false
			}
		}, Warning, "ETag changed", ""},
		{"nothing with ?kid", func(i *issuer) {
			i.handler = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.RawQuery != "" {
					http.NotFound(w, r)
				}
				return r.URL.RawQuery != ""
			}
		}, Broken, "?kid=", "jwt-authorizer 0.15 (Rust)"},
		{"replicas that differ", func(i *issuer) {
			i.handler = func(w http.ResponseWriter, r *http.Request) bool {
				if i.fetches.Load() == 3 {
					i.set = i.set[:3]
				}
				return false
			}
		}, Warning, "different sets", ""},
		{"ML-DSA in the set", func(i *issuer) {
			i.set = append(i.set, map[string]any{"kty": "AKP", "alg": "ML-DSA-44", "kid": "pq", "use": "sig", "pub": "AAAA"})
		}, Broken, `kty "AKP"`, "jwx 2.1 `jwk.Cache`"},
		{"Ed448", func(i *issuer) { i.set[0]["crv"] = "Ed448" }, Broken, "Ed448", "jwt-authorizer 0.15 (Rust)"},
		{"an unknown curve", func(i *issuer) {
			i.set[0]["kty"], i.set[0]["crv"], i.set[0]["alg"] = "EC", "secp256k1", "ES256K"
		}, Broken, "secp256k1", "jwx 3.3 `jwk.Cache`"},
		{"a symmetric key", func(i *issuer) {
			i.set = append(i.set, map[string]any{"kty": "oct", "k": "AAAA", "kid": "h", "alg": "HS256", "use": "sig"})
		}, Broken, "symmetric", ""},
		{"a private key", func(i *issuer) { i.set[0]["d"] = "AAAA" }, Broken, `private member "d"`, ""},
		{"no kid", func(i *issuer) { delete(i.set[0], "kid") }, Broken, "no kid", "PyJWT 2.15"},
		{"one kid twice", func(i *issuer) { i.set[1]["kid"] = "ed-1" }, Broken, "two keys have the kid", ""},
		{"one key twice", func(i *issuer) { i.set[1]["x"] = i.set[0]["x"] }, Warning, "are the same key", ""},
		{"no alg", func(i *issuer) { delete(i.set[2], "alg") }, Broken, "no alg", "firebase/php-jwt 7.0"},
		{"no use", func(i *issuer) { delete(i.set[2], "use") }, Broken, "no use", "ruby-jwt 3.2, README's loader"},
		{"alg Ed25519", func(i *issuer) { i.set[0]["alg"] = "Ed25519" }, Broken, "RFC 9864", "jose 6.2 (Node)"},
		{"alg of another kty", func(i *issuer) { i.set[0]["alg"] = "RS256" }, Broken, "isn't one of its kty", ""},
		{"kid is a number", func(i *issuer) { i.set[0]["kid"] = 7 }, Broken, "kid is no text", ""},
		{"padded base64", func(i *issuer) { i.set[0]["x"] = fmt.Sprint(i.set[0]["x"]) + "=" }, Broken, "without padding", ""},
		{"RSA with 1024 bits", func(i *issuer) { i.set[2]["n"] = strings.Repeat("A", 2) + strings.Repeat("z", 170) }, Broken, "2048 is the least", ""},
		{"RSA with an even exponent", func(i *issuer) { i.set[2]["e"] = "AQAC" }, Broken, "even or tiny", ""},
		{"RSA with exponent 1", func(i *issuer) { i.set[2]["e"] = "AQ" }, Broken, "even or tiny", ""},
		{"no stand-by", func(i *issuer) { i.set = i.set[1:] }, Warning, "none stands by", ""},
		{"a clock that is wrong", func(i *issuer) {
			i.header["Date"] = time.Now().Add(10 * time.Minute).UTC().Format(http.TimeFormat)
		}, Broken, "differ by", ""},
		{"a clock that is ahead", func(i *issuer) {
			i.header["Date"] = time.Now().Add(20 * time.Second).UTC().Format(http.TimeFormat)
		}, Warning, "ahead of ours", "PyJWT 2.15"},
		{"redirects", func(i *issuer) {
			i.handler = func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "jwks.json") && r.URL.Query().Get("to") == "" {
					http.Redirect(w, r, r.URL.Path+"?to=here", http.StatusFound)
					return true
				}
				return false
			}
		}, Warning, "redirects", ""},
		{"redirects without end", func(i *issuer) {
			i.handler = func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, r.URL.Path, http.StatusFound)
				return true
			}
		}, Broken, "the key set can't be had: too many redirects", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			i := newIssuer(t)
			tc.spoil(i)
			r := i.examine()
			f := r.finding(tc.says)
			if f == nil || f.Level != tc.level || tc.who != "" && !slices.Contains(f.Who, tc.who) {
				t.Errorf("found %+v; want %q as %s, with %q among those hit:\n%s", f, tc.says, tc.level, tc.who, r)
			}
			if rank[r.Worst()] < rank[tc.level] {
				t.Errorf("the worst is %s, want %s", r.Worst(), tc.level)
			}
		})
	}
}

// sign makes a token with the issuer's key.
func (i *issuer) sign(kid, typ string, claims map[string]any) string {
	i.t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: i.ed},
		(&jose.SignerOptions{}).WithType(jose.ContentType(typ)).WithHeader("kid", kid))
	if err != nil {
		i.t.Fatal(err)
	}
	all := map[string]any{
		"iss": i.url, "sub": "u", "aud": "inmuebles", "client_id": "c", "jti": "1", "scope": "",
		"iat": time.Now().Unix() - 5, "exp": time.Now().Unix() + 300,
	}
	for name, value := range claims {
		all[name] = value
	}
	payload, err := json.Marshal(all)
	if err != nil {
		i.t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		i.t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return text
}

func TestToken(t *testing.T) {
	i := newIssuer(t)
	now := time.Now().Unix()
	good := i.sign("ed-1", "at+jwt", nil)
	parts := strings.Split(good, ".")
	for _, tc := range []struct {
		name, token, audience string
		verifies              bool
		says, who             string
	}{
		{"good", good, "", true, "EdDSA is not among", "Spring Security 6.5"},
		{"good, at+jwt", good, "inmuebles", true, "refused by their defaults", "Nimbus 10.10"},
		{"good, typ JWT", i.sign("ed-1", "JWT", nil), "inmuebles", true, "it takes at+jwt only", "Authlib 1.9, RFC 9068 validator as documented"},
		{"a key that isn't there", i.sign("gone", "at+jwt", nil), "", false, "is not in the set", ""},
		{"a kid of another key", i.sign("ed-2", "at+jwt", nil), "", false, "its signature is not", ""},
		{"a kid of another kty", i.sign("rs-1", "at+jwt", nil), "", false, "but not for alg", ""},
		{"expired", i.sign("ed-1", "at+jwt", map[string]any{"exp": now - 600}), "", false, "expired 10m", ""},
		{"from the future", i.sign("ed-1", "at+jwt", map[string]any{"iat": now + 600, "exp": now + 900}), "", false, "not valid yet", ""},
		{"iat ahead a little", i.sign("ed-1", "at+jwt", map[string]any{"iat": now + 20}), "", true, "ahead of our clock", "PyJWT 2.15"},
		{"another issuer", i.sign("ed-1", "at+jwt", map[string]any{"iss": "https://other.example"}), "", false, "its iss is", ""},
		{"another audience", good, "spring", false, "it is for", ""},
		{"typ of a logout token", i.sign("ed-1", "logout+jwt", nil), "", false, "its typ is", ""},
		{"no signature", "eyJhbGciOiJub25lIn0." + parts[1] + ".", "", false, "alg is", ""},
		{"altered", parts[0] + "." + parts[1] + "." + strings.Repeat("A", 86), "", false, "its signature is not", ""},
		{"rubbish", "hunter2", "", false, "no JWT", ""},
		{"empty parts", "..", "", false, "no JWT", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := i.examine(func(o *Options) { o.Token, o.Audience = tc.token, tc.audience })
			f := r.finding(tc.says)
			if (r.Token == TokenGood) != tc.verifies || f == nil || tc.who != "" && !slices.Contains(f.Who, tc.who) {
				t.Errorf("the token %s; found %+v, want %q with %q:\n%s", r.Token, f, tc.says, tc.who, r)
			}
			if r.Worst() != OK {
				t.Errorf("a bad token makes the issuer %s", r.Worst())
			}
			raw, err := json.Marshal(r)
			if err != nil || strings.Contains(string(raw)+r.String(), tc.token) && len(tc.token) > 10 {
				t.Errorf("the report shows the token, or can't be written: %v", err)
			}
		})
	}
}

// What an issuer sends reaches a terminal only quoted.
func TestReportIsSafeToPrint(t *testing.T) {
	i := newIssuer(t)
	i.set[0]["kid"], i.set[0]["use"] = "\x1b[2J\nok keys all is well", "\x07"
	i.header["Vary"] = "x\x7f"
	i.change = func(m map[string]any, _ string) { m["issuer"] = "\x1b[31m" }
	if text := i.examine().String(); strings.ContainsAny(text, "\x1b\x07\x7f") || strings.Contains(text, "\nok keys") {
		t.Errorf("control characters got through: %q", text)
	}
}

func FuzzKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"a","alg":"RS256","use":"sig"}]}`))
	f.Add([]byte(`{"keys":[{"kty":7},null,{}]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"","y":"=","d":null}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		x := &examiner{report: &Report{Reached: true}}
		x.keySet(body)
		if len(x.report.Findings) == 0 {
			t.Error("nothing was said about it")
		}
		_ = x.report.String()
	})
}

func FuzzToken(f *testing.F) {
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, text string) {
		if header, _, ok := takeApart(text); !ok && KeyOf(text) != header.KeyID {
			t.Error("two answers")
		}
	})
}

func TestWatch(t *testing.T) {
	const maxAge = 300 * time.Second
	began := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	look := func(after time.Duration, kids ...string) *Report {
		r := &Report{At: began.Add(after), Reached: true, MaxAge: maxAge}
		for _, kid := range kids {
			r.Keys = append(r.Keys, Key{KeyID: kid, Algorithm: "EdDSA"})
		}
		return r
	}
	says := func(t *testing.T, changes []Change, level Level, text, who string) {
		t.Helper()
		for _, c := range changes {
			if c.Level == level && strings.Contains(c.Message, text) && (who == "" || slices.Contains(c.Who, who)) {
				return
			}
		}
		t.Errorf("nothing of level %s says %q of %q:\n%+v", level, text, who, changes)
	}
	const jwx, jose, never = "jwx 2.1 `jwk.Cache`", "jose 6.2 (Node)", "Auth0 jwks-rsa 0.24 + java-jwt 4.6"

	t.Run("a rotation that breaks nobody", func(t *testing.T) {
		var w Watch
		says(t, w.Observe(look(0, "a"), "a"), OK, "watching 1 keys", "")
		if c := w.Observe(look(time.Second, "a"), "a"); len(c) > 0 {
			t.Errorf("nothing happened, and it says %+v", c)
		}
		c := w.Observe(look(10*time.Second, "a", "b"), "a")
		says(t, c, Note, "a new EdDSA key", "")
		says(t, c, Note, "from 2026-01-02T03:30:10Z on", jwx) // 1800 s later
		says(t, c, Note, "could refuse", jose)
		says(t, c, Warning, "no lead helps", never)
		c = w.Observe(look(2*time.Minute, "a", "b"), "a")
		says(t, c, Note, "could refuse", jwx)
		for _, change := range c {
			if slices.Contains(change.Who, jose) {
				t.Errorf("jose holds the key after 30 s: %+v", change)
			}
		}
		says(t, w.Observe(look(31*time.Minute, "a", "b"), "a"), OK, "it may sign", "")
		says(t, w.Observe(look(32*time.Minute, "a", "b"), "b"), OK, "everybody that a lead can help holds it", "")
		c = w.Observe(look(90*time.Minute, "b"), "b")
		says(t, c, Note, "until 2026-01-02T04:40:00Z at the latest", jose) // 600 s
		says(t, c, Note, "for ever", "go-oidc 3.21")
	})
	t.Run("a key that signs at once", func(t *testing.T) {
		var w Watch
		w.Observe(look(0, "a"), "a")
		c := w.Observe(look(10*time.Second, "a", "b"), "b")
		says(t, c, Broken, "may be refused until 2026-01-02T03:30:10Z", jwx)
		says(t, c, Broken, "may be refused", jose)
	})
	t.Run("behind a CDN", func(t *testing.T) {
		var w Watch
		first, second := look(0, "a"), look(10*time.Second, "a", "b")
		for _, r := range []*Report{first, second} {
			r.add(Note, checkCache, nil, "a shared cache stands between")
		}
		w.Observe(first, "")
		says(t, w.Observe(second, ""), Note, "from 2026-01-02T03:35:10Z on", jwx) // and max-age more
	})
	t.Run("an outage", func(t *testing.T) {
		var w Watch
		w.Observe(look(0, "a"), "")
		says(t, w.Observe(&Report{At: began}, ""), Broken, "can't be had", "")
		if c := w.Observe(&Report{At: began}, ""); len(c) > 0 {
			t.Errorf("said twice: %+v", c)
		}
		says(t, w.Observe(look(time.Minute, "a"), ""), OK, "there again", "")
	})
}
