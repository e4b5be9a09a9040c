//go:build unix

// Command load measures the whole of urbandata: real processes on loopback, on
// a real PostgreSQL and a real MongoDB, against the least that such a service
// can do (test/load/floor), in the same run.
//
//	make load                                        # ≤ 10 min; a table, load/load.json and plots
//	make load LOADFLAGS='-seconds 2 -only refresh,get'
//	make profile NAME=refresh                        # CPU, heap, mutex and block profiles of a run
//	make soak                                        # 10 min of all at once, with a rotation every minute: does anything grow?
//
// What runs:
//
//	this program ──▶ authn ──────▶ PostgreSQL
//	   clients   ──▶ inmuebles ──▶ MongoDB
//	             ──▶ floor ──────▶ databases of its own, at the same servers
//
// Each operation is measured twice. In the closed model a number of clients ask
// without a pause, ours and the floor by turns: requests a second, and from
// /proc and the Go runtime what a request costs the service and the database's
// server. In the open model requests come at a constant rate, half of what ours
// reached, whether those before were answered or not, and a latency counts from
// when its request was due: no coordinated omission.
//
// Last, somebody abuses services of their own: 10,000 connections that lie idle,
// a flood of logins, clients that send and read a byte a second (abuse.go). What
// all others notice of it is measured by turns, with it and without.
//
// Clients, services and databases share the machine, so requests a second are
// far from what a service does that has it to itself. The CPU of a request
// isn't, nor are the ratios to the floor.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urbandata/urbandata/test/process"
)

// settings are the command line.
type settings struct {
	seconds float64
	workers int
	only    string
	out     string
	page    string
	profile string
	soak    time.Duration
	short   bool
}

func main() {
	process.DieWithGoRun()
	var o settings
	flag.Float64Var(&o.seconds, "seconds", 8, "how long each of an operation's four runs takes")
	flag.IntVar(&o.workers, "workers", 16, "clients of the closed model")
	flag.StringVar(&o.only, "only", "", "operations to measure, or abuses: connections, flood, slow; with a comma between; all if not set")
	flag.StringVar(&o.out, "out", "load", "folder for load.json, soak.json and the plots")
	flag.StringVar(&o.page, "page", "", "page whose tables are to be replaced by those of this run; the plots go into a folder beside it")
	flag.StringVar(&o.profile, "profile", "", "folder for profiles of the service; nothing is measured then")
	flag.DurationVar(&o.soak, "soak", 0, "run all operations at the same time, for so long, and look at what grows")
	flag.BoolVar(&o.short, "short", false, "tell what is missed, but don't fail for it: for short runs on busy machines")
	flag.Parse()
	if o.seconds <= 0 || o.workers < 1 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "load: -seconds must be more than 0, -workers 1 or more")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	kept, err := load(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
	}
	if err != nil || !kept && !o.short {
		os.Exit(1)
	}
}

// load is one whole run. When it returns, whatever it started has ended and
// its scratch folder and databases are gone.
func load(ctx context.Context, o settings) (kept bool, err error) {
	scratch, err := process.Scratch("load")
	if err != nil {
		return false, err
	}
	defer func() {
		if err != nil {
			tellCauses(os.Stderr, scratch)
		}
		err = errors.Join(err, os.RemoveAll(scratch))
	}()
	s := &system{starter: process.NewStarter(), scratch: scratch, authnArgs: []string{"--token-life", "30m"}}
	if o.soak > 0 {
		s.authnArgs = soakArgs()
	}
	// A session is refreshed every few minutes in life, and many times a second
	// here: none of its last tokens is to be within the grace still, all of
	// which it would keep.
	s.authnArgs = append(s.authnArgs, "--refresh-grace", "1ms")
	defer func() { err = errors.Join(err, s.end()) }()
	if err := s.start(ctx); err != nil {
		return false, err
	}
	c, err := newClients(ctx, s, 128)
	if err != nil {
		return false, fmt.Errorf("log clients in: %w", err)
	}
	if o.soak > 0 {
		found, err := c.soak(ctx, o.soak)
		if err != nil {
			return false, err
		}
		return found.kept(), found.write(os.Stdout, o.out, o.page)
	}
	abuses, only := wantedAbuses(o.only)
	var operations []*operation
	if len(abuses) == 0 || only != "" || o.only == "" {
		if operations, err = wanted(c.operations(), only); err != nil {
			return false, err
		}
	}
	duration := time.Duration(o.seconds * float64(time.Second))
	if o.profile != "" {
		for _, op := range operations {
			if err := c.profile(ctx, op, o.workers, duration, o.profile); err != nil {
				return false, err
			}
		}
		return true, nil
	}
	r := &report{Machine: s.machine, Seconds: o.seconds, Workers: o.workers, Date: time.Now().UTC().Format(time.DateOnly)}
	for _, op := range operations {
		one, err := c.measure(ctx, op, o.workers, duration)
		if err != nil {
			return false, err
		}
		fmt.Fprintf(os.Stderr, "%-18s %8.0f/s, %.2f × the floor's CPU\n", one.Name, one.Ours.PerSecond, one.Ours.CPU/one.Floor.CPU)
		r.Operations = append(r.Operations, one)
	}
	r.judge()
	if err := c.suffer(ctx, r, abuses, duration); err != nil {
		return false, err
	}
	if err := r.write(os.Stdout, o.out, o.page); err != nil {
		return false, err
	}
	return r.kept(), nil
}

// tellCauses prints the last that the services' logs say of a cause.
func tellCauses(w io.Writer, folder string) {
	logs, _ := filepath.Glob(filepath.Join(folder, "*.log")) // the pattern is good
	for _, log := range logs {
		text, _ := os.ReadFile(log)
		last := ""
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, `"cause"`) {
				last = line
			}
		}
		if last != "" {
			fmt.Fprintf(w, "%s: %s", filepath.Base(log), last)
		}
	}
}

// wanted are the operations with these names.
func wanted(all []*operation, names string) ([]*operation, error) {
	if names == "" {
		return all, nil
	}
	var some []*operation
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(all, func(o *operation) bool { return o.name == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("-only: there is no operation %q", name)
		}
		some = append(some, all[i])
	}
	return some, nil
}
