//go:build unix

package main

import (
	"context"
	"net"
	"slices"
	"strconv"
	"testing"
)

// Between the choice of a port and the server's start, anybody may take it.
func TestTakenPortIsTriedAgain(t *testing.T) {
	for _, test := range []struct {
		engine   engine
		portFlag string
	}{
		{newPostgres(false), "-p"},
		{newMongo(false), "--port"},
	} {
		t.Run(test.engine.name, func(t *testing.T) {
			t.Parallel()
			found := test.engine.find()
			if found == "" {
				var err error
				if found, err = test.engine.install(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			taken, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = taken.Close() }()

			ctx, stop := context.WithCancel(t.Context())
			attempts := 0
			f := finder{say: t.Logf, scratch: scratchFor(t)}
			err = f.fromRecipe(ctx, test.engine, func(folder string) (recipe, error) {
				attempts++
				r, err := test.engine.private(found, folder)
				if attempts == 1 && err == nil {
					i := slices.Index(r.server, test.portFlag)
					r.server[i+1] = strconv.Itoa(taken.Addr().(*net.TCPAddr).Port)
				}
				return r, err
			}, found, func(string, string) func(string) {
				return func(string) { stop() }
			})
			if err != nil {
				t.Error(err)
			}
			if attempts != 2 {
				t.Errorf("it started %d times, want 2", attempts)
			}
		})
	}
}
