package docs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// shownPart is the part of a program or configuration that a page shows, with
// the lines around it that say so.
var shownPart = regexp.MustCompile(`(?ms)^[^\n]*shown in docs/([a-z-]+\.md) from here\n(.*?)^[^\n]*shown in docs/([a-z-]+\.md) to here$`)

// shown returns the page that shows a part of a file, and the part without
// what indents all of it; "" if there is none.
func shown(content string) (page, part string, err error) {
	found := shownPart.FindAllStringSubmatch(content, -1)
	switch {
	case len(found) == 0 && !strings.Contains(content, "shown in docs/"):
		return "", "", nil
	case len(found) != 1, found[0][1] != found[0][3], strings.Count(content, "shown in docs/") != 2:
		return "", "", fmt.Errorf("a part that is shown needs one line where it begins and one where it ends")
	}
	lines := strings.Split(strings.Trim(found[0][2], "\n"), "\n")
	indent := -1
	for _, line := range lines {
		if text := strings.TrimLeft(line, " \t"); text != "" && (indent < 0 || len(line)-len(text) < indent) {
			indent = len(line) - len(text)
		}
	}
	for i, line := range lines {
		lines[i] = line[min(indent, len(line)):]
	}
	return "docs/" + found[0][1], strings.Join(lines, "\n") + "\n", nil
}

// TestPagesShowTheFiles: what a page shows of a file below docs/verify is what
// stands there, and what `make test-verifiers` runs.
func TestPagesShowTheFiles(t *testing.T) {
	block := regexp.MustCompile("(?ms)^<!-- file: ([^\n]+) -->\n```[a-z]*\n(.*?)^```$")
	onPages := map[string]string{} // page and file → block
	for page, text := range pages(t) {
		for _, m := range block.FindAllStringSubmatch(text, -1) {
			onPages[page+" docs/"+m[1]] = m[2]
		}
	}
	err := filepath.WalkDir(filepath.Join(root, "docs", "verify"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		page, want, err := shown(string(content))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return nil
		}
		if page == "" {
			return nil
		}
		got, ok := onPages[page+" "+name]
		delete(onPages, page+" "+name)
		switch {
		case !ok:
			t.Errorf("%s doesn't show %s, below a line <!-- file: %s -->", page, name, strings.TrimPrefix(name, "docs/"))
		case got != want:
			t.Errorf("%s shows of %s\n%sand there it says\n%s", page, name, got, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for at := range onPages {
		t.Errorf("no such file, or it has no part to show: %s", at)
	}
}

func TestShownRefuses(t *testing.T) {
	for name, content := range map[string]string{
		"no end":       "// shown in docs/verify.md from here\na\n",
		"no beginning": "a\n// shown in docs/verify.md to here\n",
		"two pages":    "// shown in docs/verify.md from here\na\n// shown in docs/api.md to here\n",
		"two parts":    strings.Repeat("// shown in docs/verify.md from here\na\n// shown in docs/verify.md to here\n", 2),
	} {
		if page, part, err := shown(content); err == nil {
			t.Errorf("%s was taken: %q of %q", name, part, page)
		}
	}
}
