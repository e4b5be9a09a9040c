//go:build unix

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/urbandata/urbandata/test/engines"
)

// asCommand makes the test binary behave as the command itself.
const asCommand = "URBANDATA_TEST_AS_WITH"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// anyPlace is where the tests have their engines from: not from the servers
// that they may be running on.
const anyPlace = "-from=binaries,docker,packages"

// process is a run of the command.
type process struct {
	*exec.Cmd
	stdout *bufio.Reader
	stderr *strings.Builder
	tmp    string
	alive  *os.File // reads EOF when the last process of the run has ended
}

// start runs the command in a scratch folder of its own.
func start(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	tmp := scratchFor(t)
	// Every process of the run inherits this pipe, whoever starts it.
	alive, held, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.Command(os.Args[0], args...), stderr: &strings.Builder{}, tmp: tmp, alive: alive}
	p.Env = append(os.Environ(), asCommand+"=1", "TMPDIR="+tmp, postgresEnv+"=", mongoEnv+"=")
	p.Env = append(p.Env, env...)
	p.ExtraFiles = []*os.File{held}
	p.Stderr = p.stderr
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdout = bufio.NewReader(out)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Process.Kill()
		_ = p.Wait()
		_ = alive.Close()
	})
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	return p
}

// scratchFor returns a folder that goes away with the test, and that the
// account of a PostgreSQL server gets through when the test runs as root.
func scratchFor(t *testing.T) string {
	t.Helper()
	tmp := t.TempDir()
	if err := os.Chmod(filepath.Dir(tmp), 0o711); err != nil {
		t.Fatal(err)
	}
	return tmp
}

// line reads a line of what COMMAND prints.
func (p *process) line(t *testing.T) string {
	t.Helper()
	s, err := p.stdout.ReadString('\n')
	if err != nil {
		t.Fatalf("COMMAND printed nothing: %v\n%s", err, p.stderr)
	}
	return strings.TrimSpace(s)
}

// ends waits for the run's end and checks its exit code, and that no process
// and no file is left.
func (p *process) ends(t *testing.T, want int) {
	t.Helper()
	if _, err := io.Copy(io.Discard, p.stdout); err != nil {
		t.Error(err)
	}
	p.gone(t)
	err := p.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := p.ProcessState.ExitCode(); got != want {
		t.Errorf("exit code %d, want %d\n%s", got, want, p.stderr)
	}
	if left := p.scratch(t); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// gone returns when no process of the run is left.
func (p *process) gone(t *testing.T) {
	t.Helper()
	if _, err := io.Copy(io.Discard, p.alive); err != nil {
		t.Error(err)
	}
}

func (p *process) scratch(t *testing.T) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(p.tmp, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

func TestRunsCommandWithBothEngines(t *testing.T) {
	t.Parallel()
	p := start(t, nil, anyPlace, "--", "sh", "-c",
		"echo $"+postgresEnv+"; echo $"+mongoEnv+"; exit 7")
	if got := p.line(t); !strings.HasPrefix(got, "postgres://") {
		t.Errorf("%s is %q", postgresEnv, got)
	}
	if got := p.line(t); !strings.HasPrefix(got, "mongodb://") {
		t.Errorf("%s is %q", mongoEnv, got)
	}
	p.ends(t, 7)
	for _, want := range []string{"PostgreSQL 1", "MongoDB ", "ready in"} {
		if !strings.Contains(p.stderr.String(), want) {
			t.Errorf("%q isn't in what it says: %s", want, p.stderr)
		}
	}
}

func TestPassesSignalsOnAndStopsServers(t *testing.T) {
	for _, test := range []struct {
		name    string
		command string
		want    int
	}{
		{"a command that ends well", `trap 'kill $!; exit 9' TERM; sleep 60 & echo ready; wait`, 9},
		{"a command that dies of it", `echo ready; exec sleep 60`, 128 + int(syscall.SIGTERM)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := start(t, nil, anyPlace, "--", "sh", "-c", test.command)
			if got := p.line(t); got != "ready" {
				t.Fatalf("COMMAND printed %q", got)
			}
			if err := p.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			p.ends(t, test.want)
		})
	}
}

func TestServersDieWithIt(t *testing.T) {
	t.Parallel()
	if !diesWithParent {
		t.Log("only Linux ends children with their parent")
		return
	}
	p := start(t, nil, anyPlace, "--", "sh", "-c", "echo ready; exec sleep 60")
	p.line(t)
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.gone(t)
	if left := p.scratch(t); len(left) == 0 {
		t.Fatal("there is no scratch folder to sweep")
	}
	next := start(t, []string{"TMPDIR=" + p.tmp}, anyPlace, "-only=mongodb", "--", "true")
	next.ends(t, 0)
	if left := p.scratch(t); len(left) != 0 {
		t.Errorf("the next run left %v", left)
	}
}

func TestGivenServerIsUsedAndLeftAlone(t *testing.T) {
	t.Parallel()
	server := start(t, nil, anyPlace, "-only=postgres", "--", "sh", "-c", "echo $"+postgresEnv+"; exec sleep 60")
	url := server.line(t)
	for range 2 { // the second finds it still there
		p := start(t, []string{postgresEnv + "=" + url}, "-only=postgres", "--", "sh", "-c", "echo $"+postgresEnv)
		if got := p.line(t); got != url {
			t.Errorf("it uses %q, want %q", got, url)
		}
		p.ends(t, 0)
	}
}

// A container engine is the one thing that can't be had everywhere. This
// stands in for its client, and runs the real mongod with the arguments that
// the container would get.
const fakeDocker = `#!/bin/sh
case "$1" in
info|image|rm) exit 0;;
pull) [ "$3" = ` + mongoImage + ` ]; exit;;
run) ;;
*) exit 1;;
esac
while [ "$1" != mongod ]; do shift; done
shift 2 # mongod --bind_ip_all
mkdir data
exec "$MONGOD" --bind_ip 127.0.0.1 --nounixsocket --dbpath data "$@"
`

func TestContainer(t *testing.T) {
	t.Parallel()
	mongod := findMongod()
	if mongod == "" {
		var err error
		if mongod, err = installMongod(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "docker"), []byte(fakeDocker), 0o700); err != nil {
		t.Fatal(err)
	}
	p := start(t, []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "MONGOD=" + mongod},
		"-from=docker", "-only=mongodb", "--", "sh", "-c", "echo $"+mongoEnv)
	if got := p.line(t); !strings.HasPrefix(got, "mongodb://127.0.0.1:") {
		t.Errorf("%s is %q", mongoEnv, got)
	}
	p.ends(t, 0)
}

func TestWithoutEnginesItSaysWhatToDo(t *testing.T) {
	nothing := []string{"PATH=" + t.TempDir(), "HOME=" + t.TempDir(), "XDG_CACHE_HOME="}
	for _, test := range []struct {
		name string
		env  []string
		args []string
		want []string
		exit int
	}{
		{
			"not on this machine", nothing,
			[]string{"-only=mongodb", "-from=given,binaries,docker", "--", "true"},
			[]string{"no MongoDB to be had", mongoEnv + " isn't set", "docker info", "set " + mongoEnv},
			exitNoEngines,
		},
		{
			"no answer",
			[]string{postgresEnv + "=postgres://u:hunter2@127.0.0.1:1/?sslmode=disable"},
			[]string{"-only=postgres", "--", "true"},
			[]string{postgresEnv + " is set", "doesn't answer"},
			exitNoEngines,
		},
		{
			"no URL",
			[]string{mongoEnv + "=mongodb://u:hunter2@["},
			[]string{"-only=mongodb", "--", "true"},
			[]string{mongoEnv + " doesn't hold a URL"},
			exitNoEngines,
		},
		{"no command", nil, []string{"-only=mongodb"}, []string{"usage: with"}, 2},
		{"no such engine", nil, []string{"-only=oracle", "--", "true"}, []string{"postgres, mongodb or chromium"}, 2},
		{"no such place", nil, []string{"-from=attic", "--", "true"}, []string{"given, binaries, docker, packages"}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := start(t, test.env, test.args...)
			p.ends(t, test.exit)
			said := p.stderr.String()
			for _, want := range test.want {
				if !strings.Contains(said, want) {
					t.Errorf("%q isn't in what it says: %s", want, said)
				}
			}
			if strings.Contains(said, "hunter2") {
				t.Errorf("it shows a password: %s", said)
			}
		})
	}
}

func TestVariablesAreThoseOfPackageEngines(t *testing.T) {
	got := fmt.Sprint(postgresEnv, mongoEnv)
	if want := fmt.Sprint(engines.PostgresEnv, engines.MongoEnv); got != want {
		t.Errorf("the variables are %s, want %s", got, want)
	}
}

func TestNewestPostgres(t *testing.T) {
	bins := []string{"/usr/lib/postgresql/9/bin", "/usr/lib/postgresql/17/bin", "/usr/pgsql-16/bin"}
	for range bins {
		bins = slices.Concat(bins[1:], bins[:1])
		if got, want := newest(bins, postgresVersion), "/usr/lib/postgresql/17/bin"; got != want {
			t.Errorf("newest of %v is %s, want %s", bins, got, want)
		}
	}
	if got := newest(nil, postgresVersion); got != "" {
		t.Errorf("newest of none is %s", got)
	}
}
