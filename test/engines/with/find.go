//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

// The places to look in, in order.
const (
	given    = "given"
	binaries = "binaries"
	docker   = "docker"
	packages = "packages"
)

var places = []string{given, binaries, docker, packages}

// errAbsent means that a place doesn't have the engine; the next is tried.
var errAbsent = errors.New("not here")

// engine is one kind of server and the ways to have it.
type engine struct {
	name  string // as in -only
	title string // for people
	env   string // the variable that names a server
	// answers returns the version of the server at url when it is ready for
	// tests, and completes its set-up if that is still to do.
	answers func(ctx context.Context, url string) (version string, err error)
	// find returns a program or folder on this machine, "" if there is none.
	find func() string
	// private is a server from what find found, with its data in folder.
	private func(found, folder string) (recipe, error)
	// contained is a server in a container.
	contained func(folder string) (recipe, error)
	image     string
	// install gets the engine as packages, and returns what find would.
	install func(ctx context.Context) (found string, err error)
}

// started is an engine that answers, or the reason why there is none.
type started struct {
	env, url, about string
	err             error
}

// announcer returns the function that is called, with the server's version,
// once the server at url answers; where says where it came from.
type announcer func(url, where string) func(version string)

// finder has one engine served from the first place that can.
type finder struct {
	say     func(format string, args ...any)
	scratch string
	from    []string
}

// serve has e answer, sends where on ready, and returns when ctx is cancelled
// and the server has ended. The error, if any, comes before anything was sent.
func (f finder) serve(ctx context.Context, e engine, ready chan<- started) error {
	var tried []string
	for _, place := range f.from {
		up := false
		announce := func(url, where string) func(string) {
			return func(version string) {
				up = true
				ready <- started{env: e.env, url: url, about: fmt.Sprintf("%s %s (%s)", e.title, version, where)}
			}
		}
		err := f.at(ctx, place, e, announce)
		switch {
		case ctx.Err() != nil:
			return nil
		case up:
			f.say("%s: %v", e.title, err) // it ended under the tests
			return nil
		case err != nil && place == given && !errors.Is(err, errAbsent):
			return err // whoever names a server means that one
		}
		tried = append(tried, fmt.Sprintf("\n  %s: %v", place, err))
	}
	return fmt.Errorf("no %s to be had:%s\nInstall it, start Docker, or set %s to the URL of a server",
		e.title, strings.Join(tried, ""), e.env)
}

// at serves e from one place. An error before announce's function was called
// means that the place can't.
func (f finder) at(ctx context.Context, place string, e engine, announce announcer) error {
	switch place {
	case given:
		return f.fromGiven(ctx, e, announce)
	case docker:
		if err := dockerAnswers(ctx); err != nil {
			return err
		}
		return f.fromRecipe(ctx, e, func(folder string) (recipe, error) {
			if !hasImage(ctx, e.image) {
				f.say("%s: fetching the image %s", e.title, e.image)
			}
			return e.contained(folder)
		}, "Docker, "+e.image, announce)
	}
	found := ""
	if place == packages {
		f.say("%s: installing packages", e.title)
		var err error
		if found, err = e.install(ctx); err != nil {
			return err
		}
	} else if found = e.find(); found == "" {
		return errAbsent
	}
	return f.fromRecipe(ctx, e, func(folder string) (recipe, error) {
		return e.private(found, folder)
	}, found, announce)
}

// fromGiven uses the server that the environment names, and doesn't stop it.
func (f finder) fromGiven(ctx context.Context, e engine, announce announcer) error {
	raw := os.Getenv(e.env)
	if raw == "" {
		return fmt.Errorf("%w: %s isn't set", errAbsent, e.env)
	}
	// A parse error would show the URL, which may hold a password.
	if u, err := url.Parse(raw); err != nil || u.Host == "" {
		return fmt.Errorf("%s doesn't hold a URL with a host", e.env)
	}
	asking, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	version, err := e.answers(asking, raw)
	if err != nil {
		return fmt.Errorf("%s is set, but that server doesn't answer: %w", e.env, err)
	}
	announce(raw, "given")(version)
	<-ctx.Done()
	return nil
}

// fromRecipe starts a private server, with another port if its own was taken
// just before.
func (f finder) fromRecipe(ctx context.Context, e engine, cook func(folder string) (recipe, error), where string, announce announcer) error {
	const tries = 3
	var err error
	for range tries {
		var folder string
		folder, err = os.MkdirTemp(f.scratch, e.name+"-*")
		if err != nil {
			return fmt.Errorf("make a folder for %s: %w", e.title, err)
		}
		var r recipe
		if r, err = cook(folder); err != nil {
			return err
		}
		if err = r.serve(ctx, announce(r.url, where)); !errors.Is(err, errPortTaken) {
			return err
		}
	}
	return err
}

// newest returns the path with the highest version, "" of none.
func newest(paths []string, version func(path string) int) string {
	if len(paths) == 0 {
		return ""
	}
	return slices.MaxFunc(paths, func(a, b string) int { return version(a) - version(b) })
}
