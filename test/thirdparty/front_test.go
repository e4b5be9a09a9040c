//go:build verifiers

package thirdparty

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// kind is a reverse proxy that docs/verify has a configuration for.
type kind struct {
	name, get string
	files     []string // below docs/verify
	command   func(program, folder string) []string
	down      int // what a client gets when verify-proxy can't be reached
}

var kinds = []kind{
	{
		name: "nginx", get: "install it, such as by apt-get install nginx-light",
		files: []string{"nginx.conf", "verify-request.conf"},
		command: func(program, folder string) []string {
			return []string{program, "-p", folder, "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off; pid nginx.pid; error_log stderr warn;"}
		},
		down: http.StatusServiceUnavailable,
	},
	{
		name: "caddy", get: "install it, such as by apt-get install caddy",
		files: []string{"Caddyfile"},
		command: func(program, folder string) []string {
			return []string{program, "run", "--adapter", "caddyfile", "--config", filepath.Join(folder, "Caddyfile")}
		},
		down: http.StatusBadGateway,
	},
}

// program finds the reverse proxy.
func (k kind) program(t *testing.T) string {
	t.Helper()
	for _, name := range []string{k.name, "/usr/sbin/" + k.name} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatalf("%s is missing: %s", k.name, k.get)
	return ""
}

// front is a real reverse proxy with the configuration of docs/verify, before
// an upstream that says what it was asked.
type front struct {
	t        *testing.T
	url      string
	asked    atomic.Int64   // how often the upstream was reached
	received chan recording // the last request that it got
}

type recording struct {
	header http.Header
	method string
	path   string
	body   string
}

// start starts the reverse proxy, which asks the verify-proxy at an address.
func (k kind) start(t *testing.T, verifyProxy string) *front {
	t.Helper()
	f := &front{t: t, received: make(chan recording, 1)}
	upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		f.asked.Add(1)
		f.received <- recording{r.Header, r.Method, r.URL.RequestURI(), string(body)}
	}))
	t.Cleanup(upstream.Close)

	folder, address := t.TempDir(), freeAddress(t)
	f.url = "http://" + address
	addresses := strings.NewReplacer(
		"127.0.0.1:8002", verifyProxy, "127.0.0.1:8080", address,
		"127.0.0.1:3000", strings.TrimPrefix(upstream.URL, "http://"),
	)
	for _, name := range k.files {
		text, err := os.ReadFile(filepath.Join(root, "docs", "verify", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, name), []byte(addresses.Replace(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// nginx's workers may run as another user, who has to reach the folder.
	for parent := folder; parent != os.TempDir() && len(parent) > 1; parent = filepath.Dir(parent) {
		_ = os.Chmod(parent, 0o755)
	}
	p := start(t, k.name, []string{"XDG_DATA_HOME=" + folder, "XDG_CONFIG_HOME=" + folder}, k.command(k.program(t), folder)...)
	eventually(t, k.name+" listens", func() bool {
		select {
		case <-p.done:
			t.Fatalf("%s ended:\n%s", k.name, p.said())
		default:
		}
		answer, err := http.Get(f.url + "/")
		if err == nil {
			_ = answer.Body.Close()
		}
		return err == nil
	})
	return f
}

// reply is what the client got.
type reply struct {
	status int
	header http.Header
}

// ask sends a request through the reverse proxy. The upstream's view of it is nil if it
// didn't get there.
func (f *front) ask(method, path, body string, header http.Header) (reply, *recording) {
	f.t.Helper()
	before := f.asked.Load()
	r, err := http.NewRequestWithContext(f.t.Context(), method, f.url+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	r.Header = header
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	_, _ = io.Copy(io.Discard, answer.Body)
	got := reply{answer.StatusCode, answer.Header}
	if f.asked.Load() == before {
		return got, nil
	}
	seen := <-f.received
	return got, &seen
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// startVerifyProxy starts `urbandata verify-proxy` and returns its address.
func startVerifyProxy(t *testing.T, issuer string, environment ...string) string {
	t.Helper()
	address := freeAddress(t)
	start(t, "verify-proxy", append(environment,
		"URBANDATA_PROXY_LISTEN="+address, "URBANDATA_PROXY_ISSUER="+issuer, "URBANDATA_PROXY_AUDIENCE="+audience,
		"URBANDATA_METRICS_LISTEN=off", "URBANDATA_DRAIN_DELAY=0s",
	), binary, "verify-proxy")
	eventually(t, "verify-proxy listens", func() bool {
		answer, err := http.Get("http://" + address + "/livez")
		if err == nil {
			_ = answer.Body.Close()
		}
		return err == nil
	})
	return address
}

func ready(address string) bool {
	answer, err := http.Get("http://" + address + "/readyz")
	if err != nil {
		return false
	}
	_ = answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// TestReverseProxies: what is good reaches the upstream with its identity,
// and nothing else does, whatever a client says of itself.
func TestReverseProxies(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) { testFront(t, k) })
	}
}

func testFront(t *testing.T, k kind) {
	i := startIssuer(t)
	keySet := filepath.Join(t.TempDir(), "keys")
	address := startVerifyProxy(t, i.url, "URBANDATA_PROXY_JWKS_CACHE_FILE="+keySet)
	eventually(t, "verify-proxy is ready", func() bool { return ready(address) })
	f := k.start(t, address)
	token, _ := i.login(audience)
	claims := part(t, token, 1)
	admin := i.sign(jose.EdDSA, "at+jwt", func() object {
		c := part(t, token, 1)
		c["sub"], c["scope"], c["roles"] = "the-admin", "inmuebles:read inmuebles:admin", []string{"admin", "auditor"}
		return c
	}())

	t.Run("a good token", func(t *testing.T) {
		h := bearer(token)
		h.Set("Cookie", "a=b")
		answer, seen := f.ask(http.MethodPost, "/a/b?c=d", "the body", h)
		if answer.status != http.StatusOK || seen == nil {
			t.Fatalf("%d, upstream saw %v", answer.status, seen)
		}
		if seen.method != http.MethodPost || seen.path != "/a/b?c=d" || seen.body != "the body" || seen.header.Get("Cookie") != "a=b" {
			t.Errorf("the upstream got another request: %+v", seen)
		}
		for name, want := range map[string]string{
			"X-Auth-Subject": claims["sub"].(string), "X-Auth-Client": "urbandata", "X-Auth-Scope": claims["scope"].(string),
			"X-Auth-Roles": "user", "X-Auth-Expires": claims["exp"].(interface{ String() string }).String(),
		} {
			if got := seen.header.Values(name); !slices.Equal(got, []string{want}) {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if got := seen.header.Values("Authorization"); got != nil {
			t.Error("the upstream got the token")
		}
	})

	t.Run("identity from the client never passes", func(t *testing.T) {
		for _, h := range []http.Header{
			{"X-Auth-Subject": {"root"}, "X-Auth-Roles": {"admin"}, "X-Auth-Scope": {"everything"}, "X-Auth-Client": {"x"}, "X-Auth-Expires": {"1"}},
			{"x-auth-subject": {"root"}, "X-AUTH-ROLES": {"admin"}},
			{"X-Auth-Subject": {"root", "root"}},
			{"X_Auth_Subject": {"root"}, "X_AUTH_ROLES": {"admin"}}, // CGI and WSGI make the same of it
			{"X-Auth_Subject": {"root"}, "X_auth-Roles": {"admin"}},
		} {
			h["Authorization"] = []string{"Bearer " + token}
			_, seen := f.ask(http.MethodGet, "/", "", h)
			if seen == nil {
				t.Fatalf("%v: the upstream wasn't asked", h)
			}
			for name, values := range seen.header {
				if like := strings.ReplaceAll(http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-")), "-", ""); strings.HasPrefix(like, "XAuth") &&
					(len(values) != 1 || slices.Contains([]string{"root", "admin", "everything", "x", "1"}, values[0]) || strings.Contains(name, "_")) {
					t.Errorf("%v: the upstream got %s: %q", h, name, values)
				}
			}
			if answer, seen := f.ask(http.MethodGet, "/", "", func() http.Header { h := h.Clone(); delete(h, "Authorization"); return h }()); answer.status != http.StatusUnauthorized || seen != nil {
				t.Errorf("%v without a token: %d", h, answer.status)
			}
		}
		// A token without roles: what would be left is the client's.
		c := part(t, token, 1)
		c["roles"], c["scope"] = []string{}, ""
		h := bearer(i.sign(jose.RS256, "at+jwt", c))
		h.Set("X-Auth-Roles", "admin")
		h.Set("X-Auth-Scope", "everything")
		if _, seen := f.ask(http.MethodGet, "/", "", h); seen == nil || seen.header.Get("X-Auth-Roles") != "" || seen.header.Get("X-Auth-Scope") != "" {
			t.Errorf("the upstream saw %+v", seen)
		}
	})

	t.Run("without a good token", func(t *testing.T) {
		const invalid = `Bearer realm="your-name", error="invalid_token"`
		answer, seen := f.ask(http.MethodGet, "/", "", http.Header{})
		if got := answer.header.Get("WWW-Authenticate"); answer.status != http.StatusUnauthorized || got != `Bearer realm="your-name"` || seen != nil {
			t.Errorf("no token: %d, %s", answer.status, got)
		}
		for what, bad := range i.wrong(token) {
			if bad == "" {
				continue // as no token
			}
			answer, seen := f.ask(http.MethodGet, "/", "", bearer(bad))
			if got := answer.header.Get("WWW-Authenticate"); answer.status != http.StatusUnauthorized || !strings.HasPrefix(got, invalid) || seen != nil {
				t.Errorf("a token that is %s: %d, %s", what, answer.status, got)
			}
		}
		if k.name == "nginx" {
			if answer, seen := f.ask(http.MethodGet, "/_verify", "", bearer(token)); answer.status != http.StatusNotFound || seen != nil {
				t.Errorf("the question itself is open to clients: %d", answer.status)
			}
		}
	})

	t.Run("scope", func(t *testing.T) {
		if answer, seen := f.ask(http.MethodGet, "/admin/users", "", bearer(token)); answer.status != http.StatusForbidden || seen != nil {
			t.Errorf("a user: %d", answer.status)
		}
		if answer, seen := f.ask(http.MethodGet, "/admin/users?scope=inmuebles:read", "", bearer(token)); answer.status != http.StatusForbidden || seen != nil {
			t.Errorf("a user who asks for less: %d", answer.status)
		}
		answer, seen := f.ask(http.MethodGet, "/admin/users", "", bearer(admin))
		if answer.status != http.StatusOK || seen == nil || seen.header.Get("X-Auth-Subject") != "the-admin" || seen.header.Get("X-Auth-Roles") != "admin auditor" {
			t.Errorf("an admin: %d, upstream saw %+v", answer.status, seen)
		}
		if answer, _ := f.ask(http.MethodGet, "/admin/", "", http.Header{}); answer.status != http.StatusUnauthorized {
			t.Errorf("nobody: %d", answer.status)
		}
	})

	t.Run("rotation", func(t *testing.T) {
		i.rotate(audience)
		renewed, _ := i.login(audience)
		for what, token := range map[string]string{"new": renewed, "old": token} {
			if answer, _ := f.ask(http.MethodGet, "/", "", bearer(token)); answer.status != http.StatusOK {
				t.Errorf("the %s key: %d", what, answer.status)
			}
		}
	})

	t.Run("the issuer is down", func(t *testing.T) {
		i.process.stop()
		if answer, _ := f.ask(http.MethodGet, "/", "", bearer(token)); answer.status != http.StatusOK {
			t.Errorf("with the keys at hand: %d", answer.status)
		}
		content, err := os.ReadFile(keySet)
		if err != nil {
			t.Fatal(err)
		}
		other := filepath.Join(t.TempDir(), "keys") // each has its own
		if err := os.WriteFile(other, content, 0o600); err != nil {
			t.Fatal(err)
		}
		address := startVerifyProxy(t, i.url, "URBANDATA_PROXY_JWKS_CACHE_FILE="+other)
		eventually(t, "a new verify-proxy has the keys from its file", func() bool { return ready(address) })
		if answer, _ := k.start(t, address).ask(http.MethodGet, "/", "", bearer(token)); answer.status != http.StatusOK {
			t.Errorf("with the keys in a file: %d", answer.status)
		}

		address = startVerifyProxy(t, i.url)
		if ready(address) {
			t.Error("a verify-proxy without keys says that it is ready")
		}
		// Nobody can say whether the token is good: nothing passes.
		answer, seen := k.start(t, address).ask(http.MethodGet, "/", "", bearer(token))
		if answer.status != http.StatusServiceUnavailable || answer.header.Get("Retry-After") != "10" || seen != nil {
			t.Errorf("without keys: %d, Retry-After %q, upstream saw %v", answer.status, answer.header.Get("Retry-After"), seen)
		}
	})

	t.Run("verify-proxy is down", func(t *testing.T) {
		if answer, seen := k.start(t, freeAddress(t)).ask(http.MethodGet, "/", "", bearer(token)); answer.status != k.down || seen != nil {
			t.Errorf("%d, want %d; upstream saw %v", answer.status, k.down, seen)
		}
	})
}
