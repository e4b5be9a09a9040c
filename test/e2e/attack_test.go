package e2e

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

// startAPI starts inmuebles on SQLite for the tokens of an issuer that is none
// of ours.
func startAPI(t *testing.T, l *ledger, issuer *verifytest.Issuer, args ...string) (*process, string) {
	t.Helper()
	p := start(t, l, settings{}.with(nil), append([]string{
		"resourceserver", "--listen", "127.0.0.1:0",
		"--issuer", issuer.URL, "--audience", verifytest.Audience, "--data-dir", t.TempDir(),
	}, args...)...)
	return p, p.url()
}

// TestAttacks: the corpus of pkg/verify against the running program, in both
// headers. What no HTTP client would send goes by a bare connection.
func TestAttacks(t *testing.T) {
	t.Parallel()
	issuer := verifytest.NewIssuer(t, verify.Algorithms()...)
	l := newLedger(t)
	c := newClient(t, l)
	p, api := startAPI(t, l, issuer)
	eventually(t, "it is ready", func() bool {
		a, err := c.try(http.MethodGet, api+"/readyz", nil)
		return err == nil && a.status == http.StatusOK
	})
	attacker := verifytest.NewAttacker(t, issuer)
	attacks := verifytest.LoadAttacks(t, filepath.Join("..", "..", "pkg", "verify", "testdata", "attacks.json"))
	statuses := map[int]int{}
	for _, attack := range attacks {
		token := attacker.Token(attack)
		for _, header := range []string{"Authorization: Bearer ", "Access-Token: "} {
			var a answer
			var err error
			name, value, _ := strings.Cut(header+token, ": ")
			if sendable(value) && len(token) < hugeToken {
				a, err = c.try(http.MethodGet, api+"/inmuebles", nil, func(r *http.Request) { r.Header.Set(name, value) })
			} else {
				a, err = sendRaw(api, "GET /inmuebles HTTP/1.1\r\nHost: x\r\n"+name+": "+value+"\r\nConnection: close\r\n\r\n", false)
			}
			statuses[a.status]++
			// The white space around a header's value is not part of it
			// (RFC 9110 §5.5), so a good token stays good in it.
			wellMeant := attack.Want == "ok" || strings.TrimSpace(token) != token
			switch {
			case err != nil:
				t.Errorf("%s in %s: %v", attack.Name, name, err)
			case attack.Want == "ok" && a.status != http.StatusOK:
				t.Errorf("%s in %s: %d, want 200: %s", attack.Name, name, a.status, a.body)
			case wellMeant && a.status == http.StatusOK:
			case len(token) >= hugeToken && a.status == http.StatusRequestHeaderFieldsTooLarge:
			case a.status == http.StatusBadRequest && !sendable(value):
			case a.status != http.StatusUnauthorized || !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer realm="):
				t.Errorf("%s in %s: %d %s, want 401: %s", attack.Name, name, a.status, a.header, a.body)
			case strings.Contains(string(a.body), "verify:"):
				t.Errorf("%s in %s: the cause is given away: %s", attack.Name, name, a.body)
			}
		}
	}
	t.Logf("%d recipes in two headers, answers by status: %v, %.0f MiB", len(attacks), statuses, p.resident().all())
	c.want(http.StatusOK, http.MethodGet, api+"/inmuebles", nil, bearer(issuer.Token("u", "inmuebles:read")))
	p.terminate()
	p.ended()
}

// TestStartWithoutIssuer: inmuebles says who it is when it asks for keys, and
// with a file of them it starts while the issuer is down.
func TestStartWithoutIssuer(t *testing.T) {
	t.Parallel()
	issuer := verifytest.NewIssuer(t)
	var asked atomic.Value
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Header.Get("Urbandata-Verifier"))
		_, _ = w.Write(issuer.KeySet())
	}))
	t.Cleanup(keys.Close)
	l := newLedger(t)
	c := newClient(t, l)
	ready := func(api string, want int) {
		t.Helper()
		eventually(t, "the right answer at /readyz", func() bool {
			a, err := c.try(http.MethodGet, api+"/readyz", nil)
			return err == nil && a.status == want
		})
	}
	path := filepath.Join(t.TempDir(), "keys.json")
	arguments := []string{"--jwks-url", keys.URL, "--jwks-cache-file", path, "--verifier-name", "inmuebles-7"}
	token := bearer(issuer.Token("u", "inmuebles:read"))

	p, api := startAPI(t, l, issuer, arguments...)
	ready(api, http.StatusOK)
	c.want(http.StatusOK, http.MethodGet, api+"/inmuebles", nil, token)
	if asked.Load() != "inmuebles-7" {
		t.Errorf("the issuer was asked by %v", asked.Load())
	}
	eventually(t, "the file is there", func() bool { m, _ := filepath.Glob(path); return len(m) == 1 })
	p.terminate()
	p.ended()
	keys.Close()

	p, api = startAPI(t, l, issuer, arguments...)
	ready(api, http.StatusOK)
	c.want(http.StatusOK, http.MethodGet, api+"/inmuebles", nil, token)
	p.terminate()
	p.ended()

	p, api = startAPI(t, l, issuer, "--jwks-url", keys.URL)
	ready(api, http.StatusServiceUnavailable)
	c.want(http.StatusServiceUnavailable, http.MethodGet, api+"/inmuebles", nil, token)
	p.terminate()
	p.ended()
}

// hugeToken is of a length that package net/http refuses by itself, before
// there is a request.
const hugeToken = 100_000

// sendable says whether an HTTP client sends the text as a header's value.
func sendable(value string) bool {
	return !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}
