package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// asvs are the chapters of OWASP ASVS 5.0.0 that docs/security.md goes
// through, with the number of requirements of each section.
var asvs = map[int][]int{
	6:  {3, 12, 8, 6, 8, 4, 2, 4},
	7:  {3, 4, 2, 5, 3, 2},
	9:  {3, 4},
	10: {2, 3, 5, 16, 5, 2, 3},
}

var (
	requirement = regexp.MustCompile(`(?m)^\| (\d+\.\d+\.\d+) \| ([a-z/]*) \| (.*) \|$`)
	namedTest   = regexp.MustCompile("`((?:[a-z0-9]+/)*[a-z0-9]+)\\.((?:Test|Fuzz)[A-Za-z0-9]+)`")
	namedFile   = regexp.MustCompile("`((?:[a-z0-9_-]+/)+[a-z0-9_-]+\\.[a-z]+)`")
)

// TestSecurityIsWhole: each requirement is there once, in its turn, with a
// verdict and a reason, and each test and file that the page names exists.
func TestSecurityIsWhole(t *testing.T) {
	page := read(t, "docs/security.md")
	var want, got []string
	for _, chapter := range []int{6, 7, 9, 10} {
		for section, n := range asvs[chapter] {
			for i := range n {
				want = append(want, fmt.Sprintf("%d.%d.%d", chapter, section+1, i+1))
			}
		}
	}
	for _, m := range requirement.FindAllStringSubmatch(page, -1) {
		got = append(got, m[1])
		if !slices.Contains([]string{"yes", "part", "no", "n/a"}, m[2]) || len(m[3]) < 5 {
			t.Errorf("%s: the verdict is %q, the reason %q", m[1], m[2], m[3])
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the requirements are\n%v\nwant\n%v", got, want)
	}

	tests := namedTest.FindAllStringSubmatch(page, -1)
	if len(tests) < 50 {
		t.Errorf("%d tests are named", len(tests))
	}
	for _, m := range tests {
		files, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(m[1]), "*_test.go"))
		if err != nil || !slices.ContainsFunc(files, func(file string) bool {
			text, err := os.ReadFile(file)
			return err == nil && strings.Contains(string(text), "\nfunc "+m[2]+"(")
		}) {
			t.Errorf("there is no test %s in %s", m[2], m[1])
		}
	}
	for _, m := range namedFile.FindAllStringSubmatch(page, -1) {
		if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(m[1]))); err != nil {
			t.Errorf("there is no file %s", m[1])
		}
	}
}
