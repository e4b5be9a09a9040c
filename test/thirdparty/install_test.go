//go:build verifiers

package thirdparty

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"
)

// toolchain is how the programs of one folder get ready.
type toolchain struct {
	parent string     // docs/verify unless it says otherwise
	folder string     // under parent
	needs  []string   // programs
	get    string     // how to get them
	build  [][]string // in a copy of the folder, one after another
}

var (
	golang = toolchain{folder: "go", needs: []string{"go"}, get: "install Go, the version in go.mod or newer"}
	node   = toolchain{
		folder: "node", needs: []string{"node", "npm"}, get: "install Node.js 20.19 or newer, with npm",
		build: [][]string{{"npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"}},
	}
	python = toolchain{
		folder: "python", needs: []string{"python3"}, get: "install Python 3.9 or newer with venv, such as by apt-get install python3-venv",
		build: [][]string{
			{"python3", "-m", "venv", "--clear", "venv"},
			{"venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", "requirements.txt"},
		},
	}
	nimbus = maven("nimbus")
	spring = maven("spring")
	rust   = toolchain{
		folder: "rust", needs: []string{"cargo"}, get: "install Rust 1.88 or newer with cargo, such as by rustup",
		build: [][]string{{"cargo", "build", "--quiet", "--locked"}},
	}
)

func maven(folder string) toolchain {
	return toolchain{
		folder: folder, needs: []string{"javac", "mvn"}, get: "install a JDK 17 or newer and Maven, such as by apt-get install default-jdk-headless maven",
		build: [][]string{{"mvn", "--batch-mode", "--quiet", "compile", "dependency:build-classpath", "-Dmdep.outputFile=classpath"}},
	}
}

// of is the same toolchain for the folder of that name below another parent.
func (c toolchain) of(parent string) toolchain {
	c.parent = parent
	return c
}

// source is the folder, from the root of the repository.
func (c toolchain) source() string {
	if c.parent == "" {
		return filepath.Join("docs", "verify", c.folder)
	}
	return filepath.Join(c.parent, c.folder)
}

const stamp = ".ready"

// install makes a copy of the folder ready to run, in the user's cache, and
// returns the copy. One that is ready already is left as it is.
func (c toolchain) install(t *testing.T) string {
	t.Helper()
	began := time.Now()
	for _, program := range c.needs {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s can't be run, because %s is missing: %s", c.source(), program, c.get)
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	ready := filepath.Join(cache, "urbandata", "verifiers", c.parent, c.folder)
	if err := os.MkdirAll(filepath.Dir(ready), 0o700); err != nil {
		t.Fatal(err)
	}
	lock := flock.New(ready + ".lock") // another run may be installing
	if err := lock.Lock(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Unlock() }()

	source := filepath.Join(root, c.source())
	sum := c.sum(t, source)
	if was, err := os.ReadFile(filepath.Join(ready, stamp)); err == nil && string(was) == sum {
		t.Logf("%s: was ready", c.folder)
		return ready
	}
	_ = os.Remove(filepath.Join(ready, stamp)) // there may be none
	// What the last build left speeds up this one; a file that has gone from
	// the source goes from the copy when the user clears the cache.
	if err := copyFolder(ready, source); err != nil {
		t.Fatal(err)
	}
	for _, step := range c.build {
		command := exec.CommandContext(t.Context(), "nice", step...)
		command.Dir = ready
		if strings.Contains(step[0], "/") {
			command.Args[1] = "./" + step[0]
		}
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%s: %s: %v (if the toolchain is too old: %s)\n%s", c.source(), strings.Join(step, " "), err, c.get, out)
		}
	}
	if err := os.WriteFile(filepath.Join(ready, stamp), []byte(sum), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: installed and built in %.1f s", c.folder, time.Since(began).Seconds())
	return ready
}

// sum is over everything that a build depends on.
func (c toolchain) sum(t *testing.T, source string) string {
	t.Helper()
	h := sha256.New()
	fmt.Fprintln(h, c.build)
	err := filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		fmt.Fprintln(h, path)
		_, err = io.Copy(h, f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func copyFolder(to, from string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		content, err := os.ReadFile(path)
		return errors.Join(err, os.WriteFile(filepath.Join(to, rel), content, 0o600))
	})
}
