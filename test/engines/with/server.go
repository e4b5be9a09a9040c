//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	// startWithin bounds the time from a server's start to its first answer,
	// on a machine that compiles at the same time.
	startWithin = 90 * time.Second
	// stopWithin is how long a server may take to stop before it is killed.
	stopWithin = 15 * time.Second
	// askEvery is the pause between two looks at a server that is starting.
	askEvery = 50 * time.Millisecond
)

// recipe says how to start one private server. Preparation runs first and must
// end with success; then server stays.
type recipe struct {
	prepare [][]string // commands
	server  []string
	env     []string
	dir     string              // where both run
	user    *syscall.Credential // nil: as this process
	log     string              // the file that holds what the server says
	url     string
	answers func(ctx context.Context, url string) (version string, err error)
	stop    syscall.Signal // asks for a quick, clean stop
	orphan  syscall.Signal // what the kernel sends when this process dies
	cleanup func()         // after the end, or nil
	// portTaken reports whether the log says that the port wasn't free; there
	// is no code to match.
	portTaken func(log string) bool
}

// errPortTaken means that somebody took the chosen port between the choice and
// the server's start.
var errPortTaken = errors.New("its port was taken by another program")

// serve starts the server, sends ready when it answers, and returns when it has
// ended: because ctx was cancelled (nil), or by itself (an error).
func (r recipe) serve(ctx context.Context, ready func(version string)) error {
	// Pdeathsig is tied to the thread that starts the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if r.cleanup != nil {
		defer r.cleanup()
	}
	for _, args := range r.prepare {
		cmd := r.command(ctx, args)
		if out, err := cmd.CombinedOutput(); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("%s: %w: %s", args[0], err, lastLines(string(out), 3))
		}
	}

	log, err := os.OpenFile(r.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the server's log: %w", err)
	}
	defer func() { _ = log.Close() }()
	running, end := context.WithCancel(ctx)
	defer end()
	cmd := r.command(running, r.server)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the server: %w", err)
	}

	// The watcher asks until the server answers; Wait below sees its end,
	// which ends the watcher too.
	watch, ended := context.WithCancel(ctx)
	result := make(chan error, 1)
	go func() {
		version, err := r.await(watch)
		if err == nil {
			ready(version)
		} else if watch.Err() == nil {
			end() // it is up but never answered
		}
		result <- err
	}()
	waitErr := cmd.Wait()
	ended()
	awaitErr := <-result
	if ctx.Err() != nil {
		return nil
	}
	said := readFile(r.log)
	if awaitErr != nil && r.portTaken(said) {
		return errPortTaken
	}
	if awaitErr != nil && !errors.Is(awaitErr, context.Canceled) {
		return fmt.Errorf("the server didn't answer: %w: %s", awaitErr, lastLines(said, 3))
	}
	return fmt.Errorf("the server ended by itself (%v): %s", waitErr, lastLines(said, 3)) //nolint:errorlint // for a person; waitErr may be nil
}

// await asks the server until it answers, for startWithin at most.
func (r recipe) await(ctx context.Context) (version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		version, err = r.answers(ctx, r.url)
		if err == nil {
			return version, nil
		}
		select {
		case <-ctx.Done():
			return "", errors.Join(ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// command makes one process of the recipe: in a group of its own, so that
// Ctrl-C on the terminal reaches the tests first and the servers through us.
func (r recipe) command(ctx context.Context, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), r.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: r.user}
	dieWith(cmd.SysProcAttr, r.orphan)
	cmd.Cancel = func() error { return cmd.Process.Signal(r.stop) }
	cmd.WaitDelay = stopWithin
	return cmd
}

// freePort returns a loopback port that was free a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // nothing to wait for: it is closed at once
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil // a tcp listener has no other kind
}

func readFile(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// lastLines returns the last n lines of a log, for a message.
func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n  ")
}
