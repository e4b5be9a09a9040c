//go:build verifiers

package thirdparty

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// stockClient is a program under test/thirdparty/clients: an OAuth 2.0 client
// as its library has it, told by a line of JSON what to ask for.
type stockClient struct {
	name      string
	toolchain toolchain
	command   func(t *testing.T, ready string) []string

	assertions []jose.SignatureAlgorithm // that it signs for private_key_jwt
	revokes    bool                      // it knows RFC 7009
	status     bool                      // it tells the status of an error
	refused    string                    // what it makes of invalid_client
}

const clientsFolder = "test/thirdparty/clients"

func stockClients() []stockClient {
	return []stockClient{
		{
			"openid-client", node.of(clientsFolder),
			func(_ *testing.T, ready string) []string { return []string{"node", filepath.Join(ready, "client.js")} },
			[]jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.PS256, jose.EdDSA},
			true, true, "invalid_client",
		},
		{
			"Authlib", python.of(clientsFolder),
			func(_ *testing.T, ready string) []string {
				return []string{filepath.Join(ready, "venv", "bin", "python"), filepath.Join(ready, "client.py")}
			},
			[]jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.EdDSA},
			true, true, "invalid_client",
		},
		{
			"Spring Security", spring.of(clientsFolder),
			func(t *testing.T, ready string) []string {
				classpath, err := os.ReadFile(filepath.Join(ready, "classpath"))
				if err != nil {
					t.Fatal(err)
				}
				return []string{
					"java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
					"-cp", filepath.Join(ready, "target", "classes") + ":" + strings.TrimSpace(string(classpath)), "Main",
				}
			},
			[]jose.SignatureAlgorithm{jose.ES256, jose.RS256},
			false, false,
			"invalid_token_response", // it reads the JSON of a 400 only; the text has all of it
		},
	}
}

// want sends one request to the program and returns its answer, which has to
// be as good as the error says: "" for none.
func (p *process) want(code string, request object) object {
	p.t.Helper()
	line, err := json.Marshal(request)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.stdin.Write(append(line, '\n')); err != nil {
		p.t.Fatalf("%s: %v\n%s", p.name, err, p.said())
	}
	var answer object
	if text := p.line(); json.Unmarshal([]byte(text), &answer) != nil {
		p.t.Fatalf("%s answers %q", p.name, text)
	}
	got, failed := answer["error"].(string)
	if failed != (code != "") || got != code {
		p.t.Fatalf("%s, asked to %s by %s: %v, want the error %q\n%s", p.name, request["do"], request["auth"], answer, code, p.said())
	}
	return answer
}

// client registers a client with an operator's command: with a secret, or with
// public keys.
func (i *issuer) client(keys *jose.JSONWebKeySet, grants ...string) (id, secret string) {
	i.t.Helper()
	args := []string{"clients", "create", "a stock client", "--scope", "inmuebles:read", "--scope", "inmuebles:write", "--audience", audience, "--json"}
	for _, g := range grants {
		args = append(args, "--grant", g)
	}
	if keys != nil {
		text, err := json.Marshal(keys)
		if err != nil {
			i.t.Fatal(err)
		}
		file := filepath.Join(i.t.TempDir(), "keys.json")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			i.t.Fatal(err)
		}
		args = append(args, "--jwks", file)
	}
	command := exec.CommandContext(i.t.Context(), binary, args...)
	command.Env = i.ops
	out, err := command.Output()
	var made struct {
		ID     string `json:"client_id"`
		Secret string `json:"client_secret"`
	}
	if err != nil || json.Unmarshal(out, &made) != nil || made.ID == "" || (made.Secret == "") != (keys != nil) {
		i.t.Fatalf("clients create: %v: %s", err, out)
	}
	return made.ID, made.Secret
}

// keyPair makes a key for an algorithm: the private one as the client has it,
// the public set as the server gets it.
func keyPair(t *testing.T, alg jose.SignatureAlgorithm) (private jose.JSONWebKey, public *jose.JSONWebKeySet) {
	t.Helper()
	var key crypto.Signer
	var err error
	switch alg {
	case jose.ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.EdDSA:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	private = jose.JSONWebKey{Key: key, KeyID: "the client's", Algorithm: string(alg), Use: "sig"}
	return private, &jose.JSONWebKeySet{Keys: []jose.JSONWebKey{private.Public()}}
}

// TestClients: what a client does in its life, by three libraries as they are:
// nobody changes theirs for us.
func TestClients(t *testing.T) {
	i := startIssuer(t)
	id, secret := i.client(nil)
	t.Run("percent-encoded credentials", func(t *testing.T) { i.encodedCredentials(t, id, secret) })
	refreshOnly, refreshOnlySecret := i.client(nil, "refresh_token")
	for _, c := range stockClients() {
		t.Run(c.name, func(t *testing.T) {
			p := start(t, c.name, []string{"ISSUER=" + i.url, "AUTHLIB_INSECURE_TRANSPORT=1"}, c.command(t, c.toolchain.install(t))...)
			status := func(answer object, want int) {
				t.Helper()
				if got, _ := answer["status"].(float64); c.status && int(got) != want {
					t.Errorf("status %v, want %d: %v", answer["status"], want, answer)
				}
			}
			// token checks an access token of the client's own.
			token := func(answer object, of, scope string) {
				t.Helper()
				claims := part(t, answer["access_token"].(string), 1)
				if claims["sub"] != of || claims["client_id"] != of || claims["scope"] != scope || claims["aud"] != audience {
					t.Errorf("claims %v", claims)
				}
			}

			refused := func(request object) {
				t.Helper()
				answer := p.want(c.refused, request)
				status(answer, http.StatusUnauthorized)
				if c.refused != "invalid_client" && !strings.Contains(answer["error_description"].(string), `401 Unauthorized`) {
					t.Errorf("not refused by 401: %v", answer)
				}
			}

			metadata := p.want("", object{"do": "discover", "client_id": id})
			for _, name := range []string{"token", "revocation", "introspection"} {
				if want := i.url + "/oauth2/" + map[string]string{"token": "token", "revocation": "revoke", "introspection": "introspect"}[name]; metadata[name+"_endpoint"] != want {
					t.Errorf("%s_endpoint is %v, want %s", name, metadata[name+"_endpoint"], want)
				}
			}

			for _, auth := range []string{"client_secret_basic", "client_secret_post"} {
				with := func(what object) object {
					request := object{"do": "client_credentials", "auth": auth, "client_id": id, "client_secret": secret}
					for name, value := range what {
						request[name] = value
					}
					return request
				}
				token(p.want("", with(nil)), id, "inmuebles:read inmuebles:write")
				token(p.want("", with(object{"scope": "inmuebles:read"})), id, "inmuebles:read")
				status(p.want("invalid_scope", with(object{"scope": "inmuebles:read inmuebles:admin"})), http.StatusBadRequest)
				refused(with(object{"client_secret": secret + "+/%"}))
				refused(with(object{"client_id": "nobody"}))
				status(p.want("unauthorized_client", with(object{"client_id": refreshOnly, "client_secret": refreshOnlySecret})), http.StatusBadRequest)
			}

			for _, alg := range c.assertions {
				private, public := keyPair(t, alg)
				signer, _ := i.client(public)
				request := object{"do": "client_credentials", "auth": "private_key_jwt", "client_id": signer, "key": private, "alg": alg}
				token(p.want("", request), signer, "inmuebles:read inmuebles:write")
				token(p.want("", request), signer, "inmuebles:read inmuebles:write") // another jti
				request["key"], _ = keyPair(t, alg)
				refused(request)
			}

			// A user's session, which belongs to the application itself: a
			// public client.
			_, first := i.login(audience)
			refresh := func(code, refreshToken string) object {
				t.Helper()
				return p.want(code, object{"do": "refresh", "client_id": "urbandata", "token": refreshToken})
			}
			second := refresh("", first)
			third := refresh("", second["refresh_token"].(string))
			if part(t, third["access_token"].(string), 1)["client_id"] != "urbandata" || third["refresh_token"] == second["refresh_token"] {
				t.Errorf("refreshed: %v", third)
			}
			status(refresh("invalid_grant", first[:len(first)-1]), http.StatusBadRequest)

			introspect := func() object {
				t.Helper()
				return p.want("", object{
					"do": "introspect", "auth": "client_secret_basic", "client_id": id, "client_secret": secret, "token": third["access_token"],
				})
			}
			if answer := introspect(); answer["active"] != true || answer["sub"] != part(t, third["access_token"].(string), 1)["sub"] {
				t.Errorf("a live session's token: %v", answer)
			}
			last := third["refresh_token"].(string)
			if c.revokes {
				p.want("", object{"do": "revoke", "client_id": "urbandata", "token": last})
				p.want("", object{"do": "revoke", "client_id": "urbandata", "token": last}) // as if it were the first time
			} else {
				i.form(t, http.StatusOK, "/oauth2/revoke", "", "client_id=urbandata&token="+last)
			}
			if answer := introspect(); answer["active"] != false {
				t.Errorf("an ended session's token: %v", answer)
			}
			status(refresh("invalid_grant", last), http.StatusBadRequest)
		})
	}
}

// form sends a form as it is and wants a status.
func (i *issuer) form(t *testing.T, want int, path, authorization, body string) http.Header {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, i.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != want {
		t.Fatalf("%s: %s, want %d", path, answer.Status, want)
	}
	return answer.Header
}

// encodedCredentials: whoever encodes every byte of id and secret, which RFC
// 6749 §2.3.1 allows, is understood, and so is who encodes none. What can't be
// decoded is a wrong secret and no more. A challenge comes with 401 only:
// Spring takes a 400 that has one for an answer of another protocol.
func (i *issuer) encodedCredentials(t *testing.T, id, secret string) {
	t.Helper()
	every := func(s string) string {
		var out strings.Builder
		for _, b := range []byte(s) {
			fmt.Fprintf(&out, "%%%02x", b)
		}
		return out.String()
	}
	for _, tc := range []struct {
		name, id, secret, body string
		want                   int
	}{
		{"as they are", id, secret, "", http.StatusOK},
		{"every byte encoded", every(id), every(secret), "", http.StatusOK},
		{"encoded twice", every(every(id)), every(every(secret)), "", http.StatusUnauthorized},
		{"not decodable", id, "%zz" + secret, "", http.StatusUnauthorized},
		{"plus is a space", id, secret + "+", "", http.StatusUnauthorized},
		{"a scope that isn't its own", id, secret, "&scope=keys:admin", http.StatusBadRequest},
		{"no such grant", id, secret, "&grant_type=x", http.StatusBadRequest},
	} {
		h := i.form(t, tc.want, "/oauth2/token", "Basic "+base64.StdEncoding.EncodeToString([]byte(tc.id+":"+tc.secret)), "grant_type=client_credentials"+tc.body)
		if challenge := h.Get("WWW-Authenticate"); strings.HasPrefix(challenge, "Basic ") != (tc.want == http.StatusUnauthorized) {
			t.Errorf("%s: %d with WWW-Authenticate %q", tc.name, tc.want, challenge)
		}
	}
}
