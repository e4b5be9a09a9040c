package keys_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/keys"
)

// The table of docs/verify.md is the table of the package.
func TestVerifiersAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/verify.md")
	if err != nil {
		t.Fatal(err)
	}
	yes := map[bool]string{true: "yes", false: "no"}
	for _, v := range keys.Verifiers() {
		lead := v.Lead.String()
		if v.Unsafe != "" {
			lead = "none helps: " + v.Unsafe
		}
		removed := v.Removed.String()
		switch v.Flushed {
		case v.Removed:
		case keys.Span{}:
			removed += " / at once"
		default:
			removed += " / " + v.Flushed.String()
		}
		row := fmt.Sprintf("| `%s` | %s | %s | %s | %s | %s | %s |", v.Name, v.Library, yes[v.EdDSA], v.Keeps, v.UnknownKid, lead, removed)
		if !strings.Contains(string(page), row+"\n") {
			t.Errorf("docs/verify.md lacks the row\n%s", row)
		}
	}
}

func TestFindVerifier(t *testing.T) {
	for name, want := range map[string]string{
		"jose": "jose", "JOSE": "jose", "nimbD": "nimb", "sprAT": "spr", "spring": "spr", "inmuebles": "urbandata",
		"jos": "", "": "", "node-jose": "",
	} {
		v, ok := keys.FindVerifier(name)
		if v.Name != want || ok != (want != "") {
			t.Errorf("%q is %q, %v; want %q", name, v.Name, ok, want)
		}
	}
	seen := map[string]bool{}
	for _, v := range keys.Verifiers() {
		if seen[v.Name] {
			t.Errorf("%s is there twice", v.Name)
		}
		seen[v.Name] = true
		if found, ok := keys.FindVerifier(strings.ToUpper(v.Name)); !ok || found != v {
			t.Errorf("%s isn't found", v.Name)
		}
	}
	if len(seen) != 20 { // ours and 19 libraries
		t.Errorf("the table has %d verifiers", len(seen))
	}
}

func TestSpan(t *testing.T) {
	jwx2, _ := keys.FindVerifier("jwx2")
	for _, tc := range []struct {
		span keys.Span
		text string
		at   time.Duration // for a max-age of an hour; -1 for no end
	}{
		{keys.Span{}, "0", 0},
		{keys.Span{Least: 30 * time.Second}, "30 s", 30 * time.Second},
		{keys.Span{MaxAge: true}, "max-age", time.Hour},
		{jwx2.Lead, "max(900 s, max-age) + 900 s", time.Hour + 15*time.Minute},
		{keys.Span{Forever: true}, "for ever", -1},
	} {
		d, ok := tc.span.At(time.Hour)
		if tc.span.String() != tc.text || ok != (tc.at >= 0) || ok && d != tc.at {
			t.Errorf("%+v is %q, %v, %v", tc.span, tc.span, d, ok)
		}
	}
}

func TestPolicyWarnings(t *testing.T) {
	p := keys.DefaultPolicy()
	if w := p.Warnings(); len(w) != 0 {
		t.Errorf("the default policy warns: %v", w)
	}
	p.Verifiers = []string{"jose", "auth0", "a9068"}
	if w := p.Warnings(); len(w) != 2 || !strings.Contains(w[0], "auth0") || !strings.Contains(w[1], "a9068") {
		t.Errorf("warnings are %q", w)
	}
	p.Verifiers, p.Algorithms = []string{"jose", "spring"}, []jose.SignatureAlgorithm{jose.EdDSA}
	if w := p.Warnings(); len(w) != 1 || !strings.Contains(w[0], "Spring") || !strings.Contains(w[0], "RS256") {
		t.Errorf("warnings are %q", w)
	}
}
