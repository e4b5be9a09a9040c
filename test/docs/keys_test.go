package docs

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// keysBlock is a block of docs/keys.md that is run, and the output that the
// page shows after it, if any. Those in a list are indented.
var keysBlock = regexp.MustCompile("(?ms)^ *<!-- run: keys -->\n *```sh\n(.*?)^ *```\n(?:\n *```text\n(.*?)^ *```$)?")

// masks are for what differs each time.
var masks = []struct {
	what *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\dZ`), "TIME"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d `), "DAY "},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "HASH"},
	{regexp.MustCompile(`[A-Za-z0-9_-]{43}`), "KID"},
	{regexp.MustCompile(`\b[0-9a-f]{16}\b`), "SEALER"},
	{regexp.MustCompile(`\S+@\S+ \(command line\)`), "WHO"},
	{regexp.MustCompile(`\S+/\d+`), "REPLICA"},
	{regexp.MustCompile(`in (?:1\d\d min|2 h) rather`), "in 2 h rather"},
	{regexp.MustCompile(`(?m) +`), " "},
	{regexp.MustCompile(`(?m)^ | $`), ""},
}

// masked is an output without what differs, line by line in one order: keys
// that were made in the same millisecond are listed by their random ids.
func masked(text string) string {
	for _, m := range masks {
		text = m.what.ReplaceAllString(text, m.by)
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestKeysManual runs every block of docs/keys.md, in order, on the data of an
// authn that has run, and compares what it prints with what the page shows.
func TestKeysManual(t *testing.T) {
	data, folder := filepath.Join(t.TempDir(), "data"), t.TempDir()
	prelude := "export PATH=" + filepath.Dir(program(t)) + ":$PATH URBANDATA_DATA_DIR=" + data + "\n"
	t.Run("a ring", func(t *testing.T) {
		stdout, _ := start(t, nil, "up", "--auth-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--metrics-listen", "off", "--data-dir", data)
		await(t, stdout, "/inmuebles")
		// The stand-bys are made in the background.
		for begun := time.Now(); ; {
			if strings.Count(bash(t, folder, prelude+"urbandata keys list"), " announced ") == 2 {
				return
			}
			if time.Since(begun) > patience {
				t.Fatal("there are no stand-bys")
			}
		}
	})
	page := read(t, "docs/keys.md")
	blocks := keysBlock.FindAllStringSubmatch(page, -1)
	if want := strings.Count(page, "<!-- run: keys -->"); len(blocks) != want || want < 10 {
		t.Fatalf("%d blocks of %d were found", len(blocks), want)
	}
	shown := 0
	for _, b := range blocks {
		out := bash(t, folder, prelude+b[1])
		if b[2] == "" {
			continue
		}
		shown++
		if got, want := masked(out), masked(b[2]); got != want {
			t.Errorf("%s\nprints\n%s\nand docs/keys.md shows\n%s", b[1], got, want)
		}
	}
	if want := strings.Count(page, "```text"); shown != want || shown < 8 {
		t.Errorf("%d outputs of %d were compared", shown, want)
	}
}
