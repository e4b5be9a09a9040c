//go:build verifiers

package thirdparty

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// audience is whom the verifiers' tokens are for. authn doesn't know it, so
// it gets what anybody gets: RS256 and at+jwt.
const audience = "your-name"

// verifier is one program under docs/verify.
type verifier struct {
	name      string
	toolchain toolchain
	command   func(t *testing.T, ready string) []string
	// What docs/verify.md says that it does.
	eddsa   bool // verifies EdDSA
	refetch bool // fetches at once for a kid that it has never seen, after a made-up one too
}

func verifiers() []verifier {
	java := func(t *testing.T, ready string) []string {
		classpath, err := os.ReadFile(filepath.Join(ready, "classpath"))
		if err != nil {
			t.Fatal(err)
		}
		return []string{
			"java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
			"-cp", filepath.Join(ready, "target", "classes") + ":" + strings.TrimSpace(string(classpath)), "Main",
		}
	}
	goProgram := func(name string) func(*testing.T, string) []string {
		return func(t *testing.T, _ string) []string {
			program := filepath.Join(t.TempDir(), name)
			build := exec.CommandContext(t.Context(), "nice", "go", "build", "-o", program, "./"+name)
			build.Dir = filepath.Join(root, "docs", "verify", "go") // its go.mod leads back here
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			return []string{program}
		}
	}
	return []verifier{
		{"pkg/verify", golang, goProgram("pkgverify"), true, true},
		{"go-oidc", golang, goProgram("oidc"), true, true},
		{"keyfunc", golang, goProgram("keyfunc"), true, true},
		{"jwx", golang, goProgram("jwx"), true, false},
		{"jose", node, func(_ *testing.T, ready string) []string {
			return []string{"node", filepath.Join(ready, "verifier.js")}
		}, true, false},
		{"PyJWT", python, func(_ *testing.T, ready string) []string {
			return []string{filepath.Join(ready, "venv", "bin", "python"), filepath.Join(ready, "verifier.py")}
		}, true, false},
		{"Nimbus", nimbus, java, false, false},
		{"Spring Security", spring, java, false, true},
		{"jsonwebtoken", rust, func(_ *testing.T, ready string) []string {
			return []string{filepath.Join(ready, "target", "debug", "verifier")}
		}, true, false},
	}
}

// ask sends a token and returns the answer.
func (p *process) ask(token string) (good bool, answer string) {
	p.t.Helper()
	if _, err := p.stdin.Write([]byte(token + "\n")); err != nil {
		p.t.Fatalf("%s: %v\n%s", p.name, err, p.said())
	}
	answer = p.line()
	good = strings.HasPrefix(answer, "ok ")
	if !good && !strings.HasPrefix(answer, "refused ") {
		p.t.Fatalf("%s answers %q", p.name, answer)
	}
	return good, answer
}

// TestVerifiers asks every program for its verdict on the same tokens.
func TestVerifiers(t *testing.T) {
	i := startIssuer(t)
	all := verifiers()
	running := map[string]*process{}
	for _, v := range all {
		ready := ""
		if v.toolchain.build != nil {
			ready = v.toolchain.install(t)
		}
		running[v.name] = start(t, v.name, v.environment(i), v.command(t, ready)...)
	}
	each := func(name string, ask func(t *testing.T, v verifier, p *process)) {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			for _, v := range all {
				t.Run(v.name, func(t *testing.T) { ask(t, v, running[v.name]) })
			}
			t.Logf("%.1f s", time.Since(began).Seconds())
		})
	}
	accepted := func(t *testing.T, p *process, what, token string) {
		t.Helper()
		good, answer := p.ask(token)
		if subject := part(t, token, 1)["sub"].(string); !good || !strings.Contains(answer, subject) {
			t.Errorf("%s: %s", what, answer)
		}
	}

	first, refresh := i.login(audience)
	if header := part(t, first, 0); header["alg"] != "RS256" || header["typ"] != "at+jwt" {
		t.Fatalf("authn gives an unknown audience %v", header)
	}
	eddsa := i.sign(jose.EdDSA, "at+jwt", part(t, first, 1))
	each("accepts good tokens", func(t *testing.T, v verifier, p *process) {
		accepted(t, p, "RS256", first)
		if good, answer := p.ask(eddsa); good != v.eddsa {
			t.Errorf("EdDSA: %s, and docs/verify.md says %t", answer, v.eddsa)
		}
	})
	bad := i.wrong(first)
	bad["a refresh token"] = refresh
	each("refuses bad ones", func(t *testing.T, _ verifier, p *process) {
		for _, what := range slices.Sorted(maps.Keys(bad)) {
			if good, _ := p.ask(bad[what]); good {
				t.Errorf("it accepts a token that is %s", what)
			}
		}
		accepted(t, p, "a good one after them", first)
	})
	t.Logf("%d bad tokens", len(bad))

	i.rotate(audience)
	second, _ := i.login(audience)
	each("goes along with a rotation", func(t *testing.T, _ verifier, p *process) {
		accepted(t, p, "the new key", second)
		accepted(t, p, "the key before", first)
	})
	// The key that signs from now on was made at the rotation: nobody holds
	// it yet. And the first one is gone.
	i.revoke(part(t, first, 0)["kid"].(string))
	i.rotate(audience)
	third, _ := i.login(audience)
	each("fetches for a kid that it has never seen", func(t *testing.T, v verifier, p *process) {
		if v.refetch {
			accepted(t, p, "the newest key", third)
			if good, _ := p.ask(first); good {
				t.Error("it takes a revoked key, though it has fetched the keys since")
			}
		}
		accepted(t, p, "the key before", second)
	})
	// Who has never held the revoked key doesn't take it.
	each("starts without a revoked key", func(t *testing.T, v verifier, _ *process) {
		p := start(t, v.name, v.environment(i), running[v.name].cmd.Args...)
		accepted(t, p, "the newest key", third)
		if good, _ := p.ask(first); good {
			t.Error("it takes a revoked key")
		}
	})
}

func (v verifier) environment(i *issuer) []string {
	return []string{"ISSUER=" + i.url, "AUDIENCE=" + audience}
}

// wrong are tokens that are wrong in one thing each, most of them signed with
// authn's own key.
func (i *issuer) wrong(good string) map[string]string {
	claims := part(i.t, good, 1)
	with := func(name string, value any) string {
		changed := maps.Clone(claims)
		changed[name] = value
		return i.sign(jose.RS256, "at+jwt", changed)
	}
	without := func(name string) string {
		changed := maps.Clone(claims)
		delete(changed, name)
		return i.sign(jose.RS256, "at+jwt", changed)
	}
	elsewhere, _ := i.login("elsewhere")
	signer, err := i.keeper.Signer(jose.RS256)
	if err != nil {
		i.t.Fatal(err)
	}
	kid, parts := signer.KeyID(), strings.Split(good, ".")
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		i.t.Fatal(err)
	}
	// signed has any header that the test likes, and a signature that is
	// made as how says.
	signed := func(header object, how func(text []byte) ([]byte, error)) string {
		text := encode(i.t, header) + "." + parts[1]
		signature, err := how([]byte(text))
		if err != nil {
			i.t.Fatal(err)
		}
		return text + "." + base64.RawURLEncoding.EncodeToString(signature)
	}
	rs256 := func(key *rsa.PrivateKey) func([]byte) ([]byte, error) {
		return func(text []byte) ([]byte, error) {
			sum := sha256.Sum256(text)
			return rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
		}
	}
	forge := func(header object) string { return signed(header, rs256(stranger)) }
	rsaKey, _ := i.private(jose.RS256)
	rsaPrivate := rsaKey.(*rsa.PrivateKey)
	edKey, edKid := i.private(jose.EdDSA)
	der, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		i.t.Fatal(err)
	}
	hmacText := encode(i.t, object{"alg": "HS256", "typ": "at+jwt", "kid": kid}) + "." + parts[1]
	mac := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	mac.Write([]byte(hmacText))

	now := time.Now()
	return map[string]string{
		"expired":                        with("exp", now.Add(-2*time.Minute).Unix()),
		"without exp":                    without("exp"),
		"for somebody else":              elsewhere,
		"for nobody":                     without("aud"),
		"for a name that begins like it": with("aud", audience+"-too"),
		"from another issuer":            with("iss", "https://evil.example"),
		"from the issuer with a slash":   with("iss", i.url+"/"),
		"from no issuer":                 without("iss"),
		"about nobody":                   without("sub"),
		"of typ JWT":                     i.sign(jose.RS256, "JWT", claims),
		"of typ logout+jwt":              i.sign(jose.RS256, "logout+jwt", claims),
		"not yet valid":                  with("nbf", now.Add(time.Hour).Unix()),
		"forged under our kid":           forge(object{"alg": "RS256", "typ": "at+jwt", "kid": kid}),
		"forged under a made-up kid":     forge(object{"alg": "RS256", "typ": "at+jwt", "kid": "made-up"}),
		"forged with its key inside": forge(object{"alg": "RS256", "typ": "at+jwt", "kid": kid, "jwk": jose.JSONWebKey{
			Key: stranger.Public(), KeyID: kid, Algorithm: "RS256",
		}}),
		"of another algorithm of its RSA key": signed(object{"alg": "RS512", "typ": "at+jwt", "kid": kid}, func(text []byte) ([]byte, error) {
			sum := sha512.Sum512(text)
			return rsa.SignPKCS1v15(rand.Reader, rsaPrivate, crypto.SHA512, sum[:])
		}),
		"of another padding of its RSA key": signed(object{"alg": "PS256", "typ": "at+jwt", "kid": kid}, func(text []byte) ([]byte, error) {
			sum := sha256.Sum256(text)
			return rsa.SignPSS(rand.Reader, rsaPrivate, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}),
		"signed by an RSA key and says EdDSA": signed(object{"alg": "EdDSA", "typ": "at+jwt", "kid": kid}, rs256(rsaPrivate)),
		"signed by an Ed25519 key and says RS256": signed(object{"alg": "RS256", "typ": "at+jwt", "kid": edKid}, func(text []byte) ([]byte, error) {
			return edKey.Sign(rand.Reader, text, crypto.Hash(0))
		}),
		"of no typ":                  signed(object{"alg": "RS256", "kid": kid}, rs256(rsaPrivate)),
		"unsigned":                   encode(i.t, object{"alg": "none", "typ": "at+jwt", "kid": kid}) + "." + parts[1] + ".",
		"signed with the public key": hmacText + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)),
		"changed":                    parts[0] + "." + encode(i.t, object{"sub": "admin"}) + "." + parts[2],
		"cut":                        good[:len(good)-8],
		"no token":                   "no-token",
		"empty":                      "",
	}
}

func encode(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}
