package forwardauth_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/urbandata/urbandata/pkg/forwardauth"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
	"github.com/urbandata/urbandata/pkg/web"
)

func newServer(t *testing.T, o forwardauth.Options) *forwardauth.Server {
	t.Helper()
	o.Realm = verifytest.Audience
	s, err := forwardauth.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAnswers(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	verifier := issuer.Verifier(t)
	open := newServer(t, forwardauth.Options{Verifier: verifier})
	readers := newServer(t, forwardauth.Options{Verifier: verifier, Scopes: []string{"read"}})

	good := "Bearer " + issuer.Token("user-1", "read", "write")
	expired := issuer.Claims("user-1")
	expired.Expiry = time.Now().Add(-time.Hour).Unix()
	elsewhere := issuer.Claims("user-1")
	elsewhere.Audience = token.Audience{"elsewhere"}
	mint := func(c token.Claims) string { return "Bearer " + issuer.Mint(verify.EdDSA, c) }

	const (
		none  = `Bearer realm="verifytest"`
		bad   = `Bearer realm="verifytest", error="invalid_token"`
		lacks = `Bearer realm="verifytest", error="insufficient_scope"`
	)
	for name, c := range map[string]struct {
		server        *forwardauth.Server
		method, path  string
		authorization []string
		legacy        string

		status    int
		challenge string // what it begins with
	}{
		"good":                    {path: "/verify", authorization: []string{good}, status: 200},
		"good, HEAD":              {method: "HEAD", path: "/verify", authorization: []string{good}, status: 200},
		"good, with a slash":      {path: "/verify/", authorization: []string{good}, status: 200},
		"good, in the old header": {path: "/verify", legacy: strings.TrimPrefix(good, "Bearer "), status: 200},
		"no token":                {path: "/verify", status: 401, challenge: none},
		"another scheme":          {path: "/verify", authorization: []string{"Basic dTpw"}, status: 401, challenge: none},
		"no JWS":                  {path: "/verify", authorization: []string{"Bearer x"}, status: 401, challenge: bad},
		"expired":                 {path: "/verify", authorization: []string{mint(expired)}, status: 401, challenge: bad},
		"for somebody else":       {path: "/verify", authorization: []string{mint(elsewhere)}, status: 401, challenge: bad},
		"two tokens": {
			path: "/verify", authorization: []string{good, good}, status: 401,
			challenge: `Bearer realm="verifytest", error="invalid_request"`,
		},
		"two headers": {
			path: "/verify", authorization: []string{good}, legacy: "x", status: 401,
			challenge: `Bearer realm="verifytest", error="invalid_request"`,
		},

		"a scope that it has":          {path: "/verify?scope=read", authorization: []string{good}, status: 200},
		"both scopes that it has":      {path: "/verify?scope=read&scope=write", authorization: []string{good}, status: 200},
		"both, with a space":           {path: "/verify?scope=read+write", authorization: []string{good}, status: 200},
		"a scope that it hasn't":       {path: "/verify?scope=admin", authorization: []string{good}, status: 403, challenge: lacks},
		"one of two":                   {path: "/verify?scope=read%20admin", authorization: []string{good}, status: 403, challenge: lacks},
		"part of a scope's name":       {path: "/verify?scope=rea", authorization: []string{good}, status: 403, challenge: lacks},
		"a scope in another case":      {path: "/verify?scope=READ", authorization: []string{good}, status: 403, challenge: lacks},
		"the server's scope":           {server: readers, path: "/verify", authorization: []string{"Bearer " + issuer.Token("u", "write")}, status: 403, challenge: lacks},
		"the server's scope and more":  {server: readers, path: "/verify?scope=write", authorization: []string{good}, status: 200},
		"only the query's scope":       {server: readers, path: "/verify?scope=write", authorization: []string{"Bearer " + issuer.Token("u", "write")}, status: 403, challenge: lacks},
		"without a token, for a scope": {path: "/verify?scope=admin", status: 401, challenge: none},

		"an empty scope":          {path: "/verify?scope=", authorization: []string{good}, status: 500},
		"two spaces":              {path: "/verify?scope=read++write", authorization: []string{good}, status: 500},
		"a scope with a quote":    {path: "/verify?scope=%22", authorization: []string{good}, status: 500},
		"a misspelt parameter":    {path: "/verify?scopes=admin", authorization: []string{good}, status: 500},
		"a parameter more":        {path: "/verify?scope=read&x=1", authorization: []string{good}, status: 500},
		"a query that is broken":  {path: "/verify?scope=%zz", authorization: []string{good}, status: 500},
		"a semicolon in a query":  {path: "/verify?scope=read;scope=admin", authorization: []string{good}, status: 500},
		"a path that isn't there": {path: "/verify/more", authorization: []string{good}, status: 404},
		"the root":                {path: "/", authorization: []string{good}, status: 404},

		"Envoy":                       {method: "POST", path: "/ext_authz/inmuebles?scope=admin&x=%zz", authorization: []string{good}, status: 200},
		"Envoy, at the root":          {method: "PROPFIND", path: "/ext_authz/", authorization: []string{good}, status: 200},
		"Envoy, a path to clean":      {path: "/ext_authz/../a//b/%2e%2e/livez", authorization: []string{good}, status: 200},
		"Envoy, without a token":      {method: "OPTIONS", path: "/ext_authz/x", status: 401, challenge: none},
		"Envoy, the server's scope":   {server: readers, path: "/ext_authz/x", authorization: []string{"Bearer " + issuer.Token("u")}, status: 403, challenge: lacks},
		"Envoy, nothing with a slash": {path: "/ext_authzx", authorization: []string{good}, status: 404},
	} {
		t.Run(name, func(t *testing.T) {
			s, method := c.server, c.method
			if s == nil {
				s = open
			}
			if method == "" {
				method = http.MethodGet
			}
			r := httptest.NewRequest(method, c.path, nil)
			r.Header["Authorization"] = c.authorization
			if c.legacy != "" {
				r.Header.Set(verify.LegacyHeader, c.legacy)
			}
			// None of what a client may say about itself comes back.
			for _, h := range forwardauth.Headers() {
				r.Header.Set(h, "admin")
			}
			r.Header.Set("X-Forwarded-Method", "OPTIONS")
			r.Header.Set("X-Forwarded-Uri", "/livez")
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if w.Code != c.status {
				t.Fatalf("%d, want %d: %s", w.Code, c.status, w.Body)
			}
			if got := w.Header().Get("WWW-Authenticate"); !strings.HasPrefix(got, c.challenge) || (got == "") != (c.challenge == "") {
				t.Errorf("WWW-Authenticate: %s, want %s…", got, c.challenge)
			}
			if got := w.Header().Get("Cache-Control"); got != "no-store" {
				t.Errorf("Cache-Control: %s", got)
			}
			for _, h := range forwardauth.Headers() {
				if values := w.Header().Values(h); c.status == 200 && (len(values) != 1 || values[0] == "admin") || c.status != 200 && values != nil {
					t.Errorf("%s: %q with a %d", h, values, c.status)
				}
			}
		})
	}
}

func TestIdentity(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	s := newServer(t, forwardauth.Options{Verifier: issuer.Verifier(t)})
	claims := func(change func(*token.Claims)) token.Claims {
		c := issuer.Claims("user-1", "read", "write")
		c.ClientID, c.Roles = "app", []token.Role{"user", "editor"}
		change(&c)
		return c
	}
	for name, c := range map[string]struct {
		claims token.Claims
		want   []string // subject, client, scope, roles; nil: refused
	}{
		"all":                    {claims(func(*token.Claims) {}), []string{"user-1", "app", "read write", "user editor"}},
		"nothing but a subject":  {claims(func(c *token.Claims) { c.ClientID, c.Scope, c.Roles = "", nil, nil }), []string{"user-1", "", "", ""}},
		"a URL":                  {claims(func(c *token.Claims) { c.Subject = "https://a.example/~b?c=d,e" }), []string{"https://a.example/~b?c=d,e", "app", "read write", "user editor"}},
		"a line break":           {claims: claims(func(c *token.Claims) { c.Subject = "user-1\r\nX-Auth-Roles: admin" })},
		"a line feed":            {claims: claims(func(c *token.Claims) { c.Subject = "user\n1" })},
		"NUL":                    {claims: claims(func(c *token.Claims) { c.Subject = "user\x001" })},
		"a space":                {claims: claims(func(c *token.Claims) { c.Subject = "user 1" })},
		"a space before":         {claims: claims(func(c *token.Claims) { c.Subject = " user-1" })},
		"beyond ASCII":           {claims: claims(func(c *token.Claims) { c.Subject = "josé" })},
		"a client's line break":  {claims: claims(func(c *token.Claims) { c.ClientID = "a\nb" })},
		"a scope beyond ASCII":   {claims: claims(func(c *token.Claims) { c.Scope = token.Scope{"read", "adm\u0131n"} })},
		"a role that is two":     {claims: claims(func(c *token.Claims) { c.Roles = []token.Role{"user admin"} })},
		"a role that is nothing": {claims: claims(func(c *token.Claims) { c.Roles = []token.Role{"", "user"} })},
		"a role's line break":    {claims: claims(func(c *token.Claims) { c.Roles = []token.Role{"user\r\n\r\nadmin"} })},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/verify", nil)
			r.Header.Set("Authorization", "Bearer "+issuer.Mint(verify.EdDSA, c.claims))
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			var got []string
			for _, h := range forwardauth.Headers()[:4] {
				got = append(got, w.Header().Values(h)...)
			}
			switch {
			case !slices.Equal(got, c.want):
				t.Errorf("%d, identity %q, want %q", w.Code, got, c.want)
			case c.want == nil && w.Code != http.StatusUnauthorized:
				t.Errorf("%d, want 401", w.Code)
			case c.want != nil && w.Header().Get(forwardauth.HeaderExpires) != strconv.FormatInt(c.claims.Expiry, 10):
				t.Errorf("expires %s", w.Header().Get(forwardauth.HeaderExpires))
			}
		})
	}
}

// TestKeySetAway: without keys nothing is said about any token, and /readyz
// says so too; with them all is well again.
func TestKeySetAway(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	o := issuer.Options()
	o.JWKSURL = "http://127.0.0.1:1/" // nobody listens at tcpmux
	v, err := verify.New(o)
	if err != nil {
		t.Fatal(err)
	}
	metrics := prometheus.NewRegistry()
	s := newServer(t, forwardauth.Options{Verifier: v, Metrics: metrics})
	get := func(path string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header.Set("Authorization", "Bearer "+issuer.Token("user-1"))
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w
	}
	if w := get("/verify"); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || w.Header().Get("WWW-Authenticate") != "" {
		t.Errorf("%d %v, want 503 with Retry-After", w.Code, w.Header())
	}
	if w := get("/readyz"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d, want 503", w.Code)
	}
	if w := get("/livez"); w.Code != http.StatusOK {
		t.Errorf("/livez: %d, want 200", w.Code)
	}
	w := httptest.NewRecorder()
	web.DebugHandler(metrics).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if want := `urbandata_tokens_checked_total{result="key_set_unavailable"} 1`; !strings.Contains(w.Body.String(), want) {
		t.Errorf("no %s in\n%s", want, w.Body)
	}
}

func TestNewRefuses(t *testing.T) {
	v := verifytest.NewIssuer(t).Verifier(t)
	for name, o := range map[string]forwardauth.Options{
		"no verifier":    {Realm: "r"},
		"no realm":       {Verifier: v},
		"an empty scope": {Verifier: v, Realm: "r", Scopes: []string{""}},
		"two in one":     {Verifier: v, Realm: "r", Scopes: []string{"a b"}},
	} {
		if _, err := forwardauth.New(o); !errors.Is(err, forwardauth.ErrOptions) {
			t.Errorf("%s: error %v, want ErrOptions", name, err)
		}
	}
}

// FuzzQuery: whatever a query says, it never takes a scope away.
func FuzzQuery(f *testing.F) {
	for _, q := range []string{"", "scope=a", "scope=a+b", "scope=", "scopes=a", "scope=a;scope=b", "scope=%zz", "&", "=", "scope=a&scope=%20"} {
		f.Add(q)
	}
	issuer := verifytest.NewIssuer(f)
	s, err := forwardauth.New(forwardauth.Options{Verifier: issuer.Verifier(f), Realm: "r", Scopes: []string{"needed"}})
	if err != nil {
		f.Fatal(err)
	}
	without := "Bearer " + issuer.Token("user-1", "a", "b")
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequest(http.MethodGet, "/verify", nil)
		r.URL.RawQuery = query
		r.Header.Set("Authorization", without)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != http.StatusForbidden && w.Code != http.StatusInternalServerError {
			t.Errorf("%q: %d", query, w.Code)
		}
	})
}

// FuzzIdentity: what a claim says arrives over HTTP as it is, or not at all.
func FuzzIdentity(f *testing.F) {
	issuer := verifytest.NewIssuer(f)
	s, err := forwardauth.New(forwardauth.Options{Verifier: issuer.Verifier(f), Realm: "r"})
	if err != nil {
		f.Fatal(err)
	}
	server := httptest.NewServer(s)
	f.Cleanup(server.Close)
	f.Add("user-1", "user", "read")
	f.Add("a\r\nb: c", "user,admin", "read\twrite")
	f.Add("é", "\x00", " ")
	f.Fuzz(func(t *testing.T, subject, role, scope string) {
		c := issuer.Claims(subject, scope)
		c.Roles = []token.Role{token.Role(role)}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/verify", nil)
		if err != nil {
			t.Fatal(err)
		}
		text := issuer.Mint(verify.EdDSA, c)
		if len(text) > 8<<10 {
			return // longer than a token may be
		}
		r.Header.Set("Authorization", "Bearer "+text)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = answer.Body.Close() }()
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			t.Fatal(err)
		}
		got := []string{answer.Header.Get("X-Auth-Subject"), answer.Header.Get("X-Auth-Roles"), answer.Header.Get("X-Auth-Scope")}
		want := []string{subject, role, token.ParseScope(scope).String()}
		if answer.StatusCode == http.StatusOK {
			if !slices.Equal(got, want) {
				t.Errorf("%q became %q", want, got)
			}
		} else if slices.ContainsFunc(got, func(s string) bool { return s != "" }) {
			t.Errorf("%q with a %d", got, answer.StatusCode)
		}
	})
}

// TestAttacks: the corpus of pkg/verify. None but the good tokens in it gets
// a 200, and none gets anything but 401.
func TestAttacks(t *testing.T) {
	issuer := verifytest.NewIssuer(t, verify.Algorithms()...)
	s := newServer(t, forwardauth.Options{Verifier: issuer.Verifier(t)})
	attacker := verifytest.NewAttacker(t, issuer)
	attacks := verifytest.LoadAttacks(t, filepath.Join("..", "verify", "testdata", "attacks.json"))
	for _, attack := range attacks {
		raw := attacker.Token(attack)
		for header, value := range map[string]string{"Authorization": "Bearer " + raw, verify.LegacyHeader: raw} {
			r := httptest.NewRequest(http.MethodGet, "/verify", nil)
			r.Header.Set(header, value)
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			// White space around a header's value is not part of it.
			wellMeant := attack.Want == "ok" || strings.TrimSpace(raw) != raw
			switch {
			case attack.Want == "ok" && w.Code == http.StatusOK:
			case wellMeant && attack.Want != "ok" && w.Code == http.StatusOK:
			case w.Code != http.StatusUnauthorized, attack.Want == "ok", w.Header().Get(forwardauth.HeaderSubject) != "":
				t.Errorf("%s, %s: %d %v, want %s", header, attack.Name, w.Code, w.Header(), attack.Want)
			}
		}
	}
	t.Logf("%d recipes in two headers", len(attacks))
}
