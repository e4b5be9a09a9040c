//go:build verifiers

package thirdparty

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const root = "../.." // of the repository, from here

// patience is for whatever should happen at once. Only a hang exceeds it.
const patience = 30 * time.Second

// binary is the program under test.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	folder, err := os.MkdirTemp("", "urbandata-thirdparty-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(folder) }()
	binary = filepath.Join(folder, "urbandata")
	build := exec.Command("go", "build", "-o", binary, "github.com/urbandata/urbandata")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the program:", err)
		return 1
	}
	return m.Run()
}

// process is a program that runs until the test ends.
type process struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   chan string // lines of standard output, closed at its end
	done  chan struct{}

	mu  sync.Mutex
	err []string // lines of standard error
}

// start runs a program with nothing of this process's environment but the
// paths, until the test ends, when it is asked to go and must.
func start(t *testing.T, name string, environment []string, command ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, cmd: exec.Command(command[0], command[1:]...), out: make(chan string, 1000), done: make(chan struct{})}
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}, environment...)
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin = stdin
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(p.out)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			p.out <- lines.Text()
		}
	})
	reading.Go(func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			p.mu.Lock()
			p.err = append(p.err, lines.Text())
			p.mu.Unlock()
		}
	})
	go func() {
		reading.Wait()
		_ = p.cmd.Wait() // how a stopped program ends is its own business
		close(p.done)
	}()
	t.Cleanup(p.stop)
	return p
}

// stop ends the process: politely, then not.
func (p *process) stop() {
	_ = p.stdin.Close()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.done
		p.t.Errorf("%s goes on after SIGTERM", p.name)
		return
	}
	if code := p.cmd.ProcessState.ExitCode(); p.cmd.Path == binary && code != 0 {
		p.t.Errorf("%s ended with exit code %d after SIGTERM, want 0", p.name, code)
	}
	if p.t.Failed() {
		p.t.Logf("the last that %s said:\n%s", p.name, p.said())
	}
}

// said is the end of its standard error.
func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.err[max(0, len(p.err)-20):], "\n")
}

// line is the next line of standard output.
func (p *process) line() string {
	p.t.Helper()
	select {
	case line, ok := <-p.out:
		if !ok {
			p.t.Fatalf("%s ended:\n%s", p.name, p.said())
		}
		return line
	case <-time.After(patience):
		p.t.Fatalf("%s says nothing:\n%s", p.name, p.said())
	}
	return ""
}

// eventually looks again and again until ok, or fails.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatalf("still not: %s", what)
		}
	}
}
