//go:build unix

package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/urbandata/urbandata/test/process"
)

// candidate is a verifier that can be put on trial.
type candidate struct {
	name    string
	folder  string     // of its source, under test/drill/victims
	install [][]string // run in a copy of that folder, or in the folder itself with {out} to write to
	inPlace bool
	command []string // {out} is the folder that install left
	eddsa   bool
	keeps   string // for how long it keeps keys in production
}

var candidates = []candidate{
	golang("jwx", "jwx", "15 min, looked at every 15 min"),
	golang("oidc", "go-oidc", "for ever; unknown kid: fetch"),
	golang("keyfunc", "keyfunc", "1 h; unknown kid: 1 in 5 min"),
	{
		name: "pkg/verify", folder: "urbandata", eddsa: true, keeps: "max-age; unknown kid: 5, then 1 in 10 s", inPlace: true,
		install: [][]string{{"go", "build", "-o", "{out}/victim", "."}},
		command: []string{"{out}/victim", "-issuer", "{issuer}", "-jwks", "{jwks}", "-scale", "{scale}"},
	},
	{
		name: "jose", folder: "node", eddsa: true, keeps: "600 s; unknown kid: 1 in 30 s",
		install: [][]string{{"npm", "ci", "--no-audit", "--no-fund", "--silent"}},
		command: []string{"node", "{out}/victim.mjs", "--issuer", "{issuer}", "--jwks", "{jwks}", "--scale", "{scale}"},
	},
	{
		name: "PyJWT", folder: "python", eddsa: true, keeps: "300 s; unknown kid: 1 in 30 s",
		install: [][]string{{"python3", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", "lib", "-r", "requirements.txt"}},
		command: []string{"env", "PYTHONPATH={out}/lib", "python3", "{out}/victim.py", "--issuer", "{issuer}", "--jwks", "{jwks}", "--scale", "{scale}"},
	},
	{
		name: "Nimbus", folder: "java", keeps: "300 s; unknown kid: 2 in 30 s",
		install: [][]string{
			{"mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=jars"},
			{"javac", "-cp", "jars/*", "Victim.java"},
		},
		command: []string{"java", "-Xmx96m", "-XX:TieredStopAtLevel=1", "-cp", "{out}:{out}/jars/*", "Victim", "--issuer", "{issuer}", "--jwks", "{jwks}", "--scale", "{scale}"},
	},
}

func golang(library, name, keeps string) candidate {
	return candidate{
		name: name, folder: "golang", eddsa: true, keeps: keeps, inPlace: true,
		install: [][]string{{"go", "build", "-o", "{out}/victim", "."}},
		command: []string{"{out}/victim", "-library", library, "-issuer", "{issuer}", "-jwks", "{jwks}", "-scale", "{scale}"},
	}
}

func victimNames() (names []string) {
	for _, c := range candidates {
		names = append(names, c.name)
	}
	return names
}

// source is test/drill, where this file was compiled from.
func source() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(file)
}

// actor is a candidate that is installed.
type actor struct {
	candidate
	out string
}

// install gets the libraries through their own registries' clients into the
// user's cache folder, once for each version of the files that name them.
func install(ctx context.Context, names []string) (cast []actor, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("find a folder for the victims' libraries: %w", err)
	}
	for _, name := range names {
		i := slices.IndexFunc(candidates, func(c candidate) bool { return c.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no victim %q; there are %s", name, strings.Join(victimNames(), ", "))
		}
		c := candidates[i]
		out, err := c.get(ctx, filepath.Join(cache, "urbandata-drill"))
		if err != nil {
			return nil, fmt.Errorf("victim %s: %w; -victims leaves some out", name, err)
		}
		cast = append(cast, actor{c, out})
	}
	return cast, nil
}

// get returns the folder of the installed candidate.
func (c candidate) get(ctx context.Context, cache string) (string, error) {
	folder := filepath.Join(source(), "victims", c.folder)
	hash := sha256.New()
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path) //nolint:gosec // our own sources
		fmt.Fprintf(hash, "%s %d\n%s", filepath.Base(path), len(content), content)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read its source: %w", err)
	}
	out := filepath.Join(cache, fmt.Sprintf("%s-%x", c.folder, hash.Sum(nil)[:8]))
	if _, err := os.Stat(out); err == nil && !c.inPlace { // a Go build knows best whether it is up to date
		return out, nil
	}
	temporary := out
	if !c.inPlace {
		if err := os.MkdirAll(cache, 0o755); err != nil { //nolint:gosec // nothing secret
			return "", fmt.Errorf("make the cache folder: %w", err)
		}
		if temporary, err = os.MkdirTemp(cache, "new-"); err != nil {
			return "", fmt.Errorf("make the cache folder: %w", err)
		}
		defer func() { _ = os.RemoveAll(temporary) }() // moved away, if all went well
		if err := os.CopyFS(temporary, os.DirFS(folder)); err != nil {
			return "", fmt.Errorf("copy its source: %w", err)
		}
		folder = temporary
	} else if err := os.MkdirAll(out, 0o755); err != nil { //nolint:gosec // nothing secret
		return "", fmt.Errorf("make the cache folder: %w", err)
	}
	for _, command := range c.install {
		args := fill(command, "{out}", temporary)
		cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // from the table above
		cmd.Dir = folder
		if text, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, text)
		}
	}
	if temporary == out {
		return out, nil
	}
	if err := os.Rename(temporary, out); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("keep what was installed: %w", err)
	}
	return out, nil
}

func fill(command []string, pairs ...string) []string {
	r, out := strings.NewReplacer(pairs...), make([]string, len(command))
	for i, word := range command {
		out[i] = r.Replace(word)
	}
	return out
}

// victim is a verifier on trial: a process that answers a line for each line.
type victim struct {
	actor
	process *process.Process

	writing sync.Mutex // one line at a time; never held with mu, or a full pipe would stop the reader too
	stdin   io.Writer

	mu      sync.Mutex // guards asked and waiting
	asked   int
	waiting map[string]func(verdict)

	score score // guarded by the trial
}

// verdict is a victim's answer.
type verdict struct {
	ok     bool
	reason string
	at     time.Time
}

func (a actor) start(ctx context.Context, s *process.Starter, issuer string, scale int) (*victim, error) {
	args := fill(a.command, "{out}", a.out, "{issuer}", issuer, "{jwks}", issuer+"/.well-known/jwks.json", "{scale}", strconv.Itoa(scale))
	cmd := exec.Command(args[0], args[1:]...) //nolint:gosec,noctx // from the table above; ended by the starter
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("victim %s: %w", a.name, err)
	}
	started, err := s.Start(cmd)
	if err != nil {
		return nil, fmt.Errorf("victim %s: %w", a.name, err)
	}
	v := &victim{actor: a, process: started, stdin: stdin, waiting: map[string]func(verdict){}}
	ready := make(chan struct{})
	go v.read(stdout, ready)
	select {
	case <-ready:
		return v, nil
	case <-started.Done():
		return nil, fmt.Errorf("victim %s ended instead of getting ready", a.name)
	case <-time.After(time.Minute):
		return nil, fmt.Errorf("victim %s doesn't get ready", a.name)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (v *victim) read(stdout io.Reader, ready chan<- struct{}) {
	lines := bufio.NewScanner(stdout)
	for first := true; lines.Scan(); {
		if first && lines.Text() == "ready" {
			close(ready)
			first = false
			continue
		}
		id, answer, _ := strings.Cut(lines.Text(), " ")
		v.mu.Lock()
		tell := v.waiting[id]
		delete(v.waiting, id)
		v.mu.Unlock()
		if tell != nil {
			reason, refused := strings.CutPrefix(answer, "no")
			tell(verdict{ok: !refused, reason: strings.TrimSpace(reason), at: time.Now()})
		}
	}
}

// ask shows the victim a token; tell is called with its verdict, if one comes.
func (v *victim) ask(audience, token string, tell func(verdict)) {
	v.mu.Lock()
	v.asked++
	id := strconv.Itoa(v.asked)
	v.waiting[id] = tell
	v.mu.Unlock()
	v.writing.Lock()
	defer v.writing.Unlock()
	_, _ = fmt.Fprintf(v.stdin, "%s %s %s\n", id, audience, token) // an ended victim gives no verdicts, which the report shows
}

// silent is how many questions have had no answer.
func (v *victim) silent() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.waiting)
}
