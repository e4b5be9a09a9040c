package docs

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// document is what compose.yaml says, by path: services.authn.image.
type document struct {
	keys  map[string][]string // the members of a mapping, in order
	value map[string]string   // scalars, unquoted
	list  map[string][]string // sequences of scalars
}

// parseYAML reads the part of YAML that compose.yaml keeps to, so that the
// module needs no parser for one file: block mappings, two spaces deeper each;
// sequences of scalars, in blocks or in JSON; literal blocks; comments on
// lines of their own. All else is an error.
func parseYAML(text string) (*document, error) {
	d := &document{map[string][]string{}, map[string]string{}, map[string][]string{}}
	var path []string
	literal := ""
	member := regexp.MustCompile(`^([A-Za-z][A-Za-z0-9_-]*):(?: (.*))?$`)
	for n, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		content := strings.TrimLeft(line, " ")
		depth := (len(line) - len(content)) / 2
		if literal != "" && (content == "" || depth >= len(path)) {
			d.value[literal] += strings.TrimPrefix(line, strings.Repeat("  ", len(path))) + "\n"
			continue
		}
		literal = ""
		if content == "" || content[0] == '#' {
			continue
		}
		bad := func(what string) (*document, error) { return nil, fmt.Errorf("line %d: %s: %q", n+1, what, line) }
		if (len(line)-len(content))%2 != 0 || strings.Contains(line, "\t") || depth > len(path) {
			return bad("indented otherwise than by two spaces")
		}
		path = path[:depth]
		if item, ok := strings.CutPrefix(content, "- "); ok {
			at := strings.Join(path, ".")
			if key, value, isMember := strings.Cut(item, ": "); isMember && !strings.HasPrefix(item, `"`) { // a mapping: its first member stands for it
				d.list[at] = append(d.list[at], value)
				path = append(path, fmt.Sprintf("%s[%s]", key, value))
				continue
			}
			scalar, err := scalarYAML(item)
			if err != nil {
				return bad(err.Error())
			}
			d.list[at] = append(d.list[at], scalar)
			continue
		}
		m := member.FindStringSubmatch(content)
		if m == nil {
			return bad("not a member of a mapping")
		}
		parent := strings.Join(path, ".")
		if slices.Contains(d.keys[parent], m[1]) {
			return bad("stands there twice")
		}
		d.keys[parent] = append(d.keys[parent], m[1])
		path = append(path, m[1])
		at := strings.Join(path, ".")
		switch {
		case m[2] == "|":
			literal = at
		case strings.HasPrefix(m[2], "["):
			var items []string
			if err := json.Unmarshal([]byte(m[2]), &items); err != nil {
				return bad("a list that is not JSON")
			}
			d.list[at] = items
		case m[2] != "":
			scalar, err := scalarYAML(m[2])
			if err != nil {
				return bad(err.Error())
			}
			d.value[at] = scalar
		}
	}
	return d, nil
}

func scalarYAML(s string) (string, error) {
	if strings.HasPrefix(s, `"`) {
		var plain string
		err := json.Unmarshal([]byte(s), &plain)
		return plain, err
	}
	if strings.ContainsAny(s[:1], "&*!|>%@`{['") || strings.Contains(s, ": ") || strings.Contains(s, " #") {
		return "", fmt.Errorf("beyond the YAML that this reads")
	}
	return s, nil
}

func readCompose(t *testing.T) *document {
	t.Helper()
	d, err := parseYAML(read(t, "compose.yaml"))
	if err != nil {
		t.Fatalf("compose.yaml: %v", err)
	}
	return d
}

func TestParseYAMLRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"anchor":     "a: &x b\n",
		"twice":      "a: b\na: c\n",
		"odd indent": "a:\n   b: c\n",
		"too deep":   "a: b\n    c: d\n",
		"bad list":   "a: [b]\n",
		"bare text":  "a\n",
		"open quote": `a: "b` + "\n",
		"tab":        "a:\n\tb: c\n",
	} {
		if d, err := parseYAML(text); err == nil {
			t.Errorf("%s was taken: %+v", name, d)
		}
	}
}

// TestComposeIsWhole: what a service refers to is there, and nothing is there
// that none refers to.
func TestComposeIsWhole(t *testing.T) {
	d := readCompose(t)
	if strings.Contains(read(t, "compose.yaml"), "$") {
		t.Error("compose.yaml has a $, which Compose would replace")
	}
	used := map[string]bool{}
	for _, name := range d.keys["services"] {
		service := "services." + name
		for _, kind := range []string{"secrets", "configs", "volumes"} {
			for _, item := range d.list[service+"."+kind] {
				item, _, _ = strings.Cut(item, ":") // volume:path
				used[kind+"."+item] = true
				if !slices.Contains(d.keys[kind], item) {
					t.Errorf("%s: %s has no %s", name, kind, item)
				}
			}
		}
		for _, other := range append(d.keys[service+".depends_on"], d.list[service+".depends_on"]...) {
			if !slices.Contains(d.keys["services"], other) {
				t.Errorf("%s depends on %s, which isn't there", name, other)
			}
			healthy := d.value[service+".depends_on."+other+".condition"] == "service_healthy"
			if healthy && len(d.list["services."+other+".healthcheck.test"]) == 0 {
				t.Errorf("%s waits for the health of %s, which has no check", name, other)
			}
		}
		for _, variable := range d.keys[service+".environment"] {
			path, ok := strings.CutPrefix(d.value[service+".environment."+variable], "/run/secrets/")
			if ok && !slices.Contains(d.list[service+".secrets"], path) {
				t.Errorf("%s: %s names the secret %s, which it doesn't have", name, variable, path)
			}
		}
	}
	for _, kind := range []string{"secrets", "configs", "volumes"} {
		for _, item := range d.keys[kind] {
			if !used[kind+"."+item] {
				t.Errorf("%s.%s is used by no service", kind, item)
			}
		}
	}
	// The load balancer knows each service's replicas and port, and its own
	// check asks through both.
	haproxy, check := d.value["configs.haproxy.content"], strings.Join(d.list["services.front.healthcheck.test"], " ")
	for name, variable := range map[string]string{"authn": "URBANDATA_AUTH_LISTEN", "inmuebles": "URBANDATA_API_LISTEN"} {
		_, port, _ := strings.Cut(d.value["services."+name+".environment."+variable], ":")
		replicas := d.value["services."+name+".deploy.replicas"]
		if want := fmt.Sprintf("server-template %[1]s %[2]s %[1]s:%[3]s\n", name, replicas, port); !strings.Contains(haproxy, want) {
			t.Errorf("the configuration of HAProxy lacks %q", want)
		}
		if !strings.Contains(haproxy, "bind :"+port+"\n") || !strings.Contains(check, "http://127.0.0.1:"+port+"/readyz") ||
			!slices.Contains(d.list["services.front.ports"], "127.0.0.1:"+port+":"+port) {
			t.Errorf("port %s of %s is not bound, published and checked", port, name)
		}
	}
}

// TestComposeServicesStart makes the secrets with the commands of
// docs/operations.md, and runs both services with the command and variables of
// compose.yaml. Only what the other containers would be is put in its place:
// addresses, and SQLite for the databases.
func TestComposeServicesStart(t *testing.T) {
	d := readCompose(t)
	folder := t.TempDir()
	bash(t, folder, strings.Join(scripts(read(t, "docs/operations.md"), "secrets"), "\n"))
	if info, err := os.Stat(filepath.Join(folder, "secrets")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder of the secrets must have mode 0700: %v", err)
	}
	for _, name := range d.keys["secrets"] {
		info, err := os.Stat(filepath.Join(folder, d.value["secrets."+name+".file"]))
		if err != nil {
			t.Errorf("the commands make no secret %s: %v", name, err)
		} else if info.Mode().Perm()&0o044 != 0o044 {
			t.Errorf("the container's user can't read the secret %s: mode %o", name, info.Mode().Perm())
		}
	}
	for name, host := range map[string]string{"auth-database": "@postgres:", "api-database": "@mongodb:"} {
		path := filepath.Join(folder, "secrets", name)
		if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), host) {
			t.Errorf("%s doesn't lead to the service (%s): %v", name, host, err)
		}
		if err := os.WriteFile(path, []byte("sqlite:"+filepath.Join(folder, name+".db")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	authn, inmuebles := freeAddress(t), freeAddress(t)
	replace := strings.NewReplacer(
		"0.0.0.0:8000", authn, "http://authn:8000", "http://"+authn, "0.0.0.0:8001", inmuebles,
		"/run/secrets", filepath.Join(folder, "secrets"),
	)
	run := func(name, address string) {
		var environment []string
		for _, variable := range d.keys["services."+name+".environment"] {
			value := d.value["services."+name+".environment."+variable]
			if variable == "URBANDATA_METRICS_LISTEN" {
				value = "127.0.0.1:0"
			}
			environment = append(environment, variable+"="+replace.Replace(value))
		}
		_, stderr := start(t, environment, d.list["services."+name+".command"]...)
		await(t, stderr, name+" is up")
		for {
			answer, err := http.Get("http://" + address + "/readyz")
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
			await(t, stderr, "") // the next line of its log: each answer writes one
		}
	}
	run("authn", authn)
	run("inmuebles", inmuebles)
}

// TestDockerfile: what can be known without building it.
func TestDockerfile(t *testing.T) {
	dockerfile := read(t, "Dockerfile")
	build := regexp.MustCompile(`(?m)^RUN (CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X ([^=]+)=\$VERSION") -o (\S+) \.$`).FindStringSubmatch(dockerfile)
	if build == nil {
		t.Fatal("no line builds the static binary")
	}
	entry := regexp.MustCompile(`(?m)^ENTRYPOINT \["(.+)"\]$`).FindStringSubmatch(dockerfile)
	if entry == nil || !strings.Contains(dockerfile, "COPY --from=build "+build[3]+" "+entry[1]+"\n") {
		t.Errorf("the binary is built to %s, and isn't what the image runs", build[3])
	}
	if !regexp.MustCompile(`(?m)^USER 65532`).MatchString(dockerfile) {
		t.Error("the image runs as root")
	}
	// The variable that the linker sets must exist: it says nothing otherwise.
	pkg, variable, _ := strings.Cut(strings.TrimPrefix(build[2], "github.com/urbandata/urbandata/"), ".")
	if !regexp.MustCompile(`(?m)^var ` + variable + ` = ""$`).MatchString(read(t, pkg+"/version.go")) {
		t.Errorf("%s is no variable that the linker can set", build[2])
	}

	// What .dockerignore lets through is enough to build from.
	var let []string
	for line := range strings.Lines(read(t, ".dockerignore")) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "!"); ok {
			let = append(let, name)
			if _, err := os.Stat(filepath.Join(root, name)); err != nil {
				t.Errorf(".dockerignore: %v", err)
			}
		}
	}
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{with .Module}}{{if .Main}}{{$.ImportPath}}{{end}}{{end}}{{end}}", ".")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		top, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(path, "github.com/urbandata/urbandata"), "/"), "/")
		if top != "" && !slices.Contains(let, top) { // "" is main.go
			t.Errorf(".dockerignore keeps out %s, which the build needs", path)
		}
	}
}
