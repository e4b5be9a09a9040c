package docs

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const root = "../.." // of the repository, from here

// patience bounds everything that waits for a process.
const patience = time.Minute

// binary is the program, built once.
var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(scratch, "urbandata")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

var scratch string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if scratch, err = os.MkdirTemp("", "urbandata-docs-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(scratch) }()
		return m.Run()
	}())
}

func program(t *testing.T) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// commandLine is what --help says of every command.
type commandLine struct {
	commands  map[string][]string        // "users create" → its flags; "" is the program
	groups    map[string]bool            // commands that only have sub-commands
	variables map[string]bool            // URBANDATA_…
	flags     map[string]map[string]bool // --flag → the commands that have it
}

var (
	helpCommand  = regexp.MustCompile(`(?m)^  ([a-z][a-z-]*(?: [a-z][a-z-]*)?)(?:  |$)`)
	helpFlag     = regexp.MustCompile(`(?m)^ +(?:-[a-z], )?(--[a-z][a-z-]*)`)
	helpVariable = regexp.MustCompile(`URBANDATA_[A-Z_]*[A-Z]`)
)

// theCommandLine reads the help of every command.
var theCommandLine = sync.OnceValues(func() (*commandLine, error) {
	path, err := binary()
	if err != nil {
		return nil, err
	}
	c := &commandLine{map[string][]string{}, map[string]bool{}, map[string]bool{}, map[string]map[string]bool{}}
	return c, c.read(path, "")
})

func (c *commandLine) read(path, command string) error {
	out, err := exec.Command(path, append(strings.Fields(command), "--help")...).Output()
	if err != nil {
		return fmt.Errorf("urbandata %s --help: %w", command, err)
	}
	help, subcommands, _ := strings.Cut(string(out), "\nCommands:\n")
	_, flags, _ := strings.Cut(help, "\nFlags:\n")
	c.commands[command] = []string{}
	for _, m := range helpFlag.FindAllStringSubmatch(flags, -1) {
		c.commands[command] = append(c.commands[command], m[1])
		if c.flags[m[1]] == nil {
			c.flags[m[1]] = map[string]bool{}
		}
		c.flags[m[1]][command] = true
	}
	for _, name := range helpVariable.FindAllString(help, -1) {
		c.variables[name] = true
	}
	for _, m := range helpCommand.FindAllStringSubmatch(subcommands, -1) {
		c.groups[command] = true
		if err := c.read(path, m[1]); err != nil {
			return err
		}
	}
	return nil
}

func readCommandLine(t *testing.T) *commandLine {
	t.Helper()
	c, err := theCommandLine()
	if err != nil {
		t.Fatal(err)
	}
	// Should the layout of the help change, nothing would be found, and
	// nothing would fail.
	for _, command := range []string{"up", "authserver", "resourceserver", "users create", "token inspect"} {
		if len(c.commands[command]) < 3 {
			t.Fatalf("the help of %q wasn't understood; commands found: %q", command, slices.Sorted(maps.Keys(c.commands)))
		}
	}
	return c
}

// has reports whether a variable exists: in the help, or as the file of a
// secret that is in the help.
func (c *commandLine) has(variable string) bool {
	return c.variables[variable] || c.variables[strings.TrimSuffix(variable, "_FILE")] && strings.HasSuffix(variable, "_FILE")
}

// start runs the program until the test ends, when it must drain and exit 0.
// It returns the two services' standard output and error, line by line.
func start(t *testing.T, environment []string, args ...string) (stdout, stderr <-chan string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	cmd := exec.CommandContext(ctx, program(t), args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "URBANDATA_") }), environment...)
	lines := func() chan string { return make(chan string, 10_000) }
	out, errs := lines(), lines()
	var done sync.WaitGroup
	for _, pipe := range []struct {
		open func() (reader, error)
		to   chan string
	}{
		{func() (reader, error) { return cmd.StdoutPipe() }, out},
		{func() (reader, error) { return cmd.StderrPipe() }, errs},
	} {
		r, err := pipe.open()
		if err != nil {
			t.Fatal(err)
		}
		done.Go(func() {
			defer close(pipe.to)
			for s := bufio.NewScanner(r); s.Scan(); {
				pipe.to <- s.Text()
			}
		})
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer cancel()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("stop %v: %v", args, err)
		}
		done.Wait()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	})
	return out, errs
}

type reader interface{ Read([]byte) (int, error) }

// await returns the first line with text in it.
func await(t *testing.T, lines <-chan string, text string) string {
	t.Helper()
	deadline := time.After(patience)
	var seen []string
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("it ended without saying %q:\n%s", text, strings.Join(seen, "\n"))
			}
			seen = append(seen, line)
			if strings.Contains(line, text) {
				return line
			}
		case <-deadline:
			t.Fatalf("it didn't say %q in time:\n%s", text, strings.Join(seen, "\n"))
		}
	}
}

// freeAddress is one that was free a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
