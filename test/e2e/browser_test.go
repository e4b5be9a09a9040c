package e2e

import (
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urbandata/urbandata/test/engines"
)

// complaint is what Chromium says on its console, and what it calls a page's
// breach of its own policy.
var complaint = regexp.MustCompile(`(?i)CONSOLE|Content Security Policy|Refused to`)

// The documentation draws every operation in a real browser, from this server
// alone, without a word on the console: the page's strict policy lets all of
// it through.
func TestDocsInBrowser(t *testing.T) {
	chromium := engines.Chromium(t)
	in := embedded(t)
	s := in.start(nil)
	for base, wanted := range map[string][]string{
		s.auth[0]: {"/authn/register", "/authn/token", "/authn/token/refresh", "/authn/sign_out", "/authn/me", "/.well-known/jwks.json"},
		s.api[0]:  {"/inmuebles", "/inmuebles/{id}"},
	} {
		// Chromium's sandbox refuses to run as root; the page is our own.
		cmd := exec.CommandContext(t.Context(), chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
			"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
			"--user-data-dir="+t.TempDir(), "--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom", base+"/docs")
		var console strings.Builder
		cmd.Stderr = &console
		page, err := cmd.Output()
		if err != nil {
			t.Fatalf("run Chromium: %v\n%s", err, &console)
		}
		drawn := regexp.MustCompile(`data-path="([^"]+)"`).FindAllStringSubmatch(string(page), -1)
		for _, path := range wanted {
			if !slices.ContainsFunc(drawn, func(m []string) bool { return m[1] == path }) {
				t.Errorf("%s/docs doesn't show %s", base, path)
			}
		}
		for line := range strings.Lines(console.String()) {
			if complaint.MatchString(line) {
				t.Errorf("%s/docs: %s", base, line)
			}
		}
	}
	s.stop()
}
