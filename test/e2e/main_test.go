// Package e2e drives the real program from outside: it builds the binary,
// starts it as processes with private data, and speaks to it over HTTP as the
// original's clients did. It knows the program by its command line, its
// environment, its logs and its two APIs. The one thing that it takes from
// inside is the signing key (hostile_test.go), to make what a thief would.
//
// Each subject runs on both ways to run urbandata (system_test.go):
//
//	embedded   up: both services in one process, on SQLite
//	replicas   authserver ×2 on PostgreSQL, resourceserver ×2 on MongoDB
//
// Whatever a test does, its ledger (ledger_test.go) checks when the processes
// have ended: their logs are JSON, hold no secret that went over the wire, and
// have one line for each answered request, under the id in its X-Request-Id.
//
// The engines come from `make test`, or for this package alone:
//
//	go run ./test/engines/with -- go test -v ./test/e2e
//
// Processes live in real time, so where a test has to wait for one it looks
// again and again, up to a generous limit; nothing is asserted on time.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// binary is the program under test.
var binary string

// patience is for whatever should happen at once. Only a hang exceeds it, also
// on a machine that is busy with other tests.
const patience = 30 * time.Second

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "urbandata-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "urbandata")
	// As it is released (Dockerfile): TestFigures measures it.
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "github.com/urbandata/urbandata")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the program:", err)
		return 1
	}
	return m.Run()
}
