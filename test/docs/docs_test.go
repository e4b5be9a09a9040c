package docs

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urbandata/urbandata/pkg/cli/database"
)

// pages are the documents, by their path from the root.
func pages(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(names) < 4 {
		t.Fatalf("found %q in docs/: %v", names, err)
	}
	all := map[string]string{}
	for _, name := range append(names, filepath.Join(root, "README.md")) {
		rel, err := filepath.Rel(root, name)
		if err != nil {
			t.Fatal(err)
		}
		all[rel] = read(t, rel)
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestReadmeIsShort(t *testing.T) {
	if n := strings.Count(read(t, "README.md"), "\n"); n > 100 {
		t.Errorf("README.md has %d lines; it should have 100 at most", n)
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notSlug = regexp.MustCompile(`[^\p{L}\p{N}\- _]`)
	fenced  = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
)

// anchors are the names that GitHub gives a page's headings.
func anchors(text string) []string {
	var names []string
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		names = append(names, strings.ReplaceAll(notSlug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return names
}

func TestLinksLeadSomewhere(t *testing.T) {
	for name, text := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			target, anchor, _ := strings.Cut(m[1], "#")
			path := name
			if target != "" {
				path = filepath.Join(filepath.Dir(name), target)
			}
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				t.Errorf("%s: the link to %s leads nowhere: %v", name, m[1], err)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(read(t, path)), anchor) {
				t.Errorf("%s: %s has no heading %q", name, path, anchor)
			}
		}
	}
}

// code is what stands in code blocks and code spans, one piece a line, with
// shell lines that go on joined.
func code(text string) []string {
	var pieces []string
	spans := regexp.MustCompile("`[^`\n]+`")
	for _, block := range fenced.FindAllString(text, -1) {
		pieces = append(pieces, strings.Split(strings.ReplaceAll(block, "\\\n", ""), "\n")...)
	}
	for line := range strings.Lines(fenced.ReplaceAllString(text, "")) {
		if strings.HasPrefix(line, "    ") {
			pieces = append(pieces, line)
			continue
		}
		for _, span := range spans.FindAllString(line, -1) {
			pieces = append(pieces, strings.Trim(span, "`"))
		}
	}
	return pieces
}

var (
	usage   = regexp.MustCompile(`(?:^|[\s(;&|])urbandata((?: [a-z][a-z-]*)*)`)
	compose = regexp.MustCompile(`docker compose run(?: --?[a-zA-Z]+)* (?:authn|inmuebles)((?: [a-z][a-z-]*)*)`)
	flag    = regexp.MustCompile(`(?:^|[\s(\[])(--[a-z][a-z-]*)`)
)

// foreign are the flags of other programs that the documents name.
var foreign = map[string]string{"--build": "docker compose up", "--wait": "docker compose up", "--rm": "docker compose run", "--data-urlencode": "curl", "--data-binary": "curl"}

// TestEverythingNamedExists: commands, flags and variables.
func TestEverythingNamedExists(t *testing.T) {
	c := readCommandLine(t)
	texts := pages(t)
	texts["Dockerfile"] = "```\n" + read(t, "Dockerfile") + "```\n"
	texts["compose.yaml"] = "```\n" + read(t, "compose.yaml") + "```\n"
	for name, text := range texts {
		for _, piece := range code(text) {
			for _, m := range append(usage.FindAllStringSubmatch(piece, -1), compose.FindAllStringSubmatch(piece, -1)...) {
				words := strings.Fields(m[1])
				command := ""
				for len(words) > 0 && c.groups[command] {
					command = strings.TrimSpace(command + " " + words[0])
					words = words[1:]
				}
				if _, ok := c.commands[command]; !ok && !strings.HasSuffix(name, "ile") && name != "compose.yaml" {
					t.Errorf("%s: there is no command %q, in %q", name, command, piece)
					continue
				}
				rest := piece[strings.Index(piece, m[0]):]
				for _, f := range flag.FindAllStringSubmatch(rest, -1) {
					if foreign[f[1]] == "" && name != "compose.yaml" && !slices.Contains(c.commands[command], f[1]) {
						t.Errorf("%s: urbandata %s has no flag %s, in %q", name, command, f[1], piece)
					}
				}
			}
			for _, f := range flag.FindAllStringSubmatch(piece, -1) {
				if strings.HasSuffix(name, ".md") && c.flags[f[1]] == nil && (foreign[f[1]] == "" || !strings.Contains(piece, foreign[f[1]])) {
					t.Errorf("%s: there is no flag %s, in %q", name, f[1], piece)
				}
			}
		}
		for _, variable := range helpVariable.FindAllString(text, -1) {
			if !c.has(variable) {
				t.Errorf("%s: there is no variable %s", name, variable)
			}
		}
	}
}

func TestEverySettingIsDocumented(t *testing.T) {
	c := readCommandLine(t)
	operations := read(t, "docs/operations.md")
	for name := range c.flags {
		if !strings.Contains(operations, "`"+name+"`") {
			t.Errorf("docs/operations.md: %s is missing, a flag of %q", name, slices.Sorted(maps.Keys(c.flags[name])))
		}
	}
	for name := range c.variables {
		if !strings.Contains(operations, "`"+name+"`") && !strings.HasSuffix(name, "_FILE") {
			t.Errorf("docs/operations.md: %s is missing", name)
		}
	}
	for name := range c.commands {
		if name != "" && !c.groups[name] && !strings.Contains(operations, "`urbandata "+name+"`") {
			t.Errorf("docs/operations.md: `urbandata %s` is missing", name)
		}
	}
}

// up is a running `urbandata up` on free ports.
type up struct {
	stdout                 <-chan string // what comes after the banner
	banner                 string
	authn, inmuebles, meta string // addresses
	data                   string // its data folder
}

func startUp(t *testing.T) up {
	t.Helper()
	u := up{authn: freeAddress(t), inmuebles: freeAddress(t), meta: freeAddress(t), data: filepath.Join(t.TempDir(), "data")}
	stdout, _ := start(t, nil, "up", "--auth-listen", u.authn, "--api-listen", u.inmuebles, "--metrics-listen", u.meta, "--data-dir", u.data)
	for !strings.HasSuffix(u.banner, "/inmuebles\n") {
		u.banner += await(t, stdout, "") + "\n"
	}
	u.stdout = stdout
	u.banner = strings.NewReplacer(u.authn, "127.0.0.1:8000", u.inmuebles, "127.0.0.1:8001").Replace(u.banner)
	return u
}

// here puts the real addresses into a script, and has it work on the data of
// what runs: `urbandata` is the program that was built.
func (u up) here(t *testing.T, script string) string {
	t.Helper()
	prelude := fmt.Sprintf("export PATH=%q:$PATH URBANDATA_DATA_DIR=%q\n", filepath.Dir(program(t)), u.data)
	return prelude + strings.NewReplacer("127.0.0.1:8000", u.authn, "127.0.0.1:8001", u.inmuebles).Replace(script)
}

var marked = regexp.MustCompile("(?ms)^<!-- run(?:: ([a-z]+))? -->\n```sh\n(.*?)^```$")

// scripts are a page's marked blocks of a kind, in order.
func scripts(text, kind string) (blocks []string) {
	for _, m := range marked.FindAllStringSubmatch(text, -1) {
		if m[1] == kind {
			blocks = append(blocks, m[2])
		}
	}
	return blocks
}

// bash runs a script in a folder; any failed command in it fails the test.
func bash(t *testing.T, folder, script string) string {
	t.Helper()
	for _, tool := range []string{"bash", "curl", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("the documents' commands need %s: install it", tool)
		}
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = folder
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, script, out)
	}
	return string(out)
}

// TestCommandsRun pastes the marked blocks of a page, in order, into one
// shell. An answer that is not 2xx fails its curl.
func TestCommandsRun(t *testing.T) {
	for page, result := range map[string]string{"README.md": `"_id"`, "docs/api.md": `"_id"`, "docs/accounts.md": `"last_used_at"`, "docs/oauth.md": `"active":true`, "docs/verify.md": `"revocations":[`} {
		t.Run(page, func(t *testing.T) {
			folder := t.TempDir()
			u := startUp(t)
			output, err := os.Create(filepath.Join(folder, "up.log")) // go run . > up.log
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				defer func() { _ = output.Close() }()
				for line := range u.stdout {
					_, _ = output.WriteString(line + "\n") // a script that misses it fails
				}
			}()
			blocks := scripts(read(t, page), "")
			if len(blocks) == 0 {
				t.Fatal("no block is marked <!-- run -->")
			}
			const strict = "curl() { command curl --fail-with-body --noproxy '*' \"$@\"; }\n"
			out := bash(t, folder, u.here(t, strict+strings.Join(blocks, "\n")))
			if !strings.Contains(out, result) {
				t.Errorf("no %s came back:\n%s", result, out)
			}
		})
	}
}

// TestAuditCommandsRun follows docs/operations.md: what is exported verifies,
// from one night to the next.
func TestAuditCommandsRun(t *testing.T) {
	u := startUp(t)
	blocks := scripts(read(t, "docs/operations.md"), "audit")
	if len(blocks) != 1 {
		t.Fatalf("found %d blocks marked <!-- run: audit -->", len(blocks))
	}
	folder := t.TempDir()
	user := func(name string) string {
		return "echo 'una frase larga y mia' | urbandata users create " + name + "@example.es\n"
	}
	out := bash(t, folder, u.here(t, user("ana")+strings.Replace(blocks[0], "urbandata audit export --after", user("luz")+"urbandata audit export --after", 1)))
	if strings.Count(out, "2 entries are as they were written") != 3 {
		t.Errorf("it says\n%s", out)
	}
	t.Run("forged", func(t *testing.T) {
		out := bash(t, folder, u.here(t, "sed 's/operator/anybody/' audit-1.ndjson > forged.ndjson; urbandata audit verify forged.ndjson || echo exit $?"))
		if !strings.Contains(out, "entry 1 isn't what was written") || !strings.Contains(out, "exit 4") {
			t.Errorf("it says\n%s", out)
		}
	})
}

// TestReadmeHasTheBanner: what README says that `up` prints, it prints.
func TestReadmeHasTheBanner(t *testing.T) {
	u := startUp(t)
	for line := range strings.Lines(scripts(read(t, "README.md"), "")[0]) {
		if !strings.Contains(u.banner, line) {
			t.Errorf("`up` doesn't print\n%sbut\n%s", line, u.banner)
		}
	}
}

// TestMetricsAreDocumented compares the names at /metrics, after some
// requests, with docs/operations.md.
func TestMetricsAreDocumented(t *testing.T) {
	u := startUp(t)
	bash(t, t.TempDir(), u.here(t, strings.Join(scripts(read(t, "README.md"), ""), "")))
	answer, err := http.Get("http://" + u.meta + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	documented, served := map[string]bool{}, map[string]bool{}
	for _, name := range regexp.MustCompile(`urbandata_[a-z_]+`).FindAllString(read(t, "docs/operations.md"), -1) {
		documented[name] = true
	}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (urbandata_[a-z_]+) `).FindAllStringSubmatch(string(body), -1) {
		served[m[1]] = true
		if !documented[m[1]] {
			t.Errorf("docs/operations.md: the metric %s is missing", m[1])
		}
	}
	for name := range documented {
		if !served[name] {
			t.Errorf("docs/operations.md: there is no metric %s", name)
		}
	}
}

// TestNewRing follows docs/operations.md for a lost sealing key: the SQL as it
// stands there, on a data folder that was in use.
func TestNewRing(t *testing.T) {
	blocks := regexp.MustCompile("(?ms)^ *```sql\n(.*?)^ *```$").FindAllStringSubmatch(read(t, "docs/operations.md"), -1)
	if len(blocks) != 1 {
		t.Fatalf("found %d blocks of SQL", len(blocks))
	}
	data := filepath.Join(t.TempDir(), "data")
	var before, after string
	run := func(name string, kids *string) {
		t.Run(name, func(t *testing.T) {
			address := freeAddress(t)
			stdout, _ := start(t, nil, "up", "--auth-listen", address, "--api-listen", "127.0.0.1:0", "--metrics-listen", "off", "--data-dir", data)
			await(t, stdout, "/inmuebles")
			answer, err := http.Get("http://" + address + "/.well-known/jwks.json")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = answer.Body.Close() }()
			body, err := io.ReadAll(answer.Body)
			if err != nil || answer.StatusCode != http.StatusOK {
				t.Fatalf("no keys: %s, %v", answer.Status, err)
			}
			*kids = string(body)
		})
	}
	run("before", &before)
	db, err := database.OpenSQL(t.Context(), "sqlite:"+filepath.Join(data, "authn.db"), database.Full)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Write.ExecContext(t.Context(), blocks[0][1])
	if err = errors.Join(err, db.Close(), os.Remove(filepath.Join(data, "sealing.key"))); err != nil {
		t.Fatal(err)
	}
	run("after", &after)
	for _, m := range regexp.MustCompile(`"kid":"([^"]+)"`).FindAllStringSubmatch(before, -1) {
		if strings.Contains(after, m[1]) {
			t.Errorf("the key %s is still published", m[1])
		}
	}
}
