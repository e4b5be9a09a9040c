package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// settings are environment variables of a process. It gets no others: what
// the developer's shell has set must not decide a test.
type settings map[string]string

func (s settings) environ() []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.TempDir()}
	for name, value := range s {
		env = append(env, name+"="+value)
	}
	return env
}

// process is one running urbandata.
type process struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd

	urls chan string   // where it listens, as it says so itself
	done chan struct{} // closed when it has ended and all it wrote was read
	code int           // exit code, -1 when a signal ended it; valid after done

	mu      sync.Mutex // guards what follows
	printed []string   // lines of standard output
	log     []string   // lines of standard error
}

// start starts urbandata with arguments and settings, in a private folder. It
// is killed when the test ends, or shortly before the test binary's time is
// up, so that none is left behind.
func start(t *testing.T, l *ledger, env settings, args ...string) *process {
	t.Helper()
	ctx := context.Background()
	if deadline, ok := t.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-5*time.Second))
		t.Cleanup(cancel)
	}
	p := &process{
		t: t, name: args[0], cmd: exec.CommandContext(ctx, binary, args...),
		urls: make(chan string, 2), done: make(chan struct{}),
	}
	p.cmd.Env, p.cmd.Dir = env.environ(), t.TempDir()
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
	reading.Go(func() { eachLine(stdout, p.banner) })
	reading.Go(func() { eachLine(stderr, p.logged) })
	go func() {
		reading.Wait()
		_ = p.cmd.Wait() // the code tells
		p.code = p.cmd.ProcessState.ExitCode()
		close(p.done)
	}()
	l.watch(p)
	t.Cleanup(func() {
		p.kill()
		if log := p.lines(); t.Failed() {
			t.Logf("the last that %s logged:\n%s", p.name, strings.Join(log[max(0, len(log)-40):], "\n"))
		}
	})
	return p
}

func eachLine(r io.Reader, f func(string)) {
	for b := bufio.NewReader(r); ; {
		line, err := b.ReadString('\n')
		if line = strings.TrimSuffix(line, "\n"); line != "" {
			f(line)
		}
		if err != nil {
			return
		}
	}
}

// banner keeps what `up` prints, and takes the addresses out of it.
func (p *process) banner(line string) {
	p.mu.Lock()
	p.printed = append(p.printed, line)
	p.mu.Unlock()
	if f := strings.Fields(line); len(f) > 1 && (f[0] == "authn" || f[0] == "inmuebles") {
		p.urls <- f[1]
	}
}

// logged keeps a log line, and takes the address out of the one with which a
// service says that it is up.
func (p *process) logged(line string) {
	p.mu.Lock()
	p.log = append(p.log, line)
	p.mu.Unlock()
	var entry struct{ Msg, Address string }
	if json.Unmarshal([]byte(line), &entry) == nil && strings.HasSuffix(entry.Msg, " is up") {
		p.urls <- "http://" + entry.Address
	}
}

// lines is what it has logged so far.
func (p *process) lines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log[:len(p.log):len(p.log)]
}

// url is the next address that the process says it listens at.
func (p *process) url() string {
	p.t.Helper()
	select {
	case u := <-p.urls:
		return u
	case <-p.done:
		p.t.Fatalf("%s ended with exit code %d instead of listening", p.name, p.code)
	case <-time.After(patience):
		p.t.Fatalf("%s doesn't say where it listens", p.name)
	}
	return ""
}

// terminate asks the process to end.
func (p *process) terminate() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatalf("SIGTERM to %s: %v", p.name, err)
	}
}

// ended waits for the end and wants exit code 0.
func (p *process) ended() {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("%s goes on after SIGTERM", p.name)
	}
	if p.code != 0 {
		p.t.Errorf("%s ended with exit code %d after SIGTERM, want 0", p.name, p.code)
	}
}

// kill ends the process without asking, as a power cut would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// memory is the resident memory of a process in MiB: what is its own, and the
// pages of the program's file, which all processes of the program share and
// the system can drop and read again.
type memory struct{ own, file float64 }

func (m memory) all() float64 { return m.own + m.file }

// resident is the memory of the process, or nothing where the system doesn't
// tell it in /proc.
func (p *process) resident() (m memory) {
	status, _ := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/status")
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 {
			kib, _ := strconv.ParseFloat(f[1], 64)
			switch f[0] {
			case "RssAnon:", "RssShmem:":
				m.own += kib / 1024
			case "RssFile:":
				m.file += kib / 1024
			}
		}
	}
	return m
}

// outcome is how a command went that ends by itself.
type outcome struct {
	code           int
	stdout, stderr string
}

// command runs urbandata to its end, with text on standard input.
func command(t *testing.T, env settings, stdin string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env, cmd.Dir = env.environ(), t.TempDir()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%v: %v, %v\n%s", args, err, ctx.Err(), stderr.String())
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// must runs a command that has to succeed and returns what it printed.
func must(t *testing.T, env settings, stdin string, args ...string) string {
	t.Helper()
	o := command(t, env, stdin, args...)
	if o.code != 0 {
		t.Fatalf("%v ended with exit code %d: %s%s", args, o.code, o.stdout, o.stderr)
	}
	return o.stdout
}

// file writes a private file and returns its path.
func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// freeAddress is a loopback address that nobody listens at just now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// eventually looks every few milliseconds until ok, or fails.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("still not: %s", what)
		}
	}
}
