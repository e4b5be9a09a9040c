//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// profile keeps a service busy with an operation, and writes what its runtime
// says of it meanwhile into a folder: first the CPU alone, which the others
// would take part in, then mutexes and blocking, and at the end what has been
// allocated.
func (c *clients) profile(ctx context.Context, op *operation, workers int, d time.Duration, folder string) error {
	if op.clients > 0 {
		workers = min(workers, op.clients)
	}
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return fmt.Errorf("write profiles: %w", err)
	}
	name := strings.NewReplacer(" + ", "-", " ", "-").Replace(op.name)
	during := fmt.Sprintf("?seconds=%d", max(1, int(d.Seconds())))
	for _, at := range []map[string]string{
		{"cpu": "profile" + during},
		{"mutex": "mutex" + during, "block": "block" + during},
		{"allocs": "allocs", "heap": "heap?gc=1"},
	} {
		if err := c.supply(ctx, op, int(20_000*d.Seconds())); err != nil {
			return err
		}
		asking, stop := context.WithCancel(ctx)
		busy, taking := new(errgroup.Group), new(errgroup.Group)
		var out *outcome
		busy.Go(func() error {
			ask := func(_ context.Context, client int) error { return op.ours(ctx, client) } // to its end
			out = closed(asking, ask, workers, d+5*time.Second)
			return nil
		})
		for kind, path := range at {
			taking.Go(func() error {
				status, text, err := c.get(ctx, op.service.metrics+"/debug/pprof/"+path)
				if err == nil && status != http.StatusOK {
					err = fmt.Errorf("%d %.200s", status, text)
				}
				if err != nil {
					return fmt.Errorf("take the profile %s: %w", kind, err)
				}
				file := filepath.Join(folder, name+"."+kind+".pprof")
				if err := os.WriteFile(file, text, 0o600); err != nil {
					return fmt.Errorf("write the profile: %w", err)
				}
				fmt.Printf("go tool pprof -top %s\n", file)
				return nil
			})
		}
		err := taking.Wait()
		stop()
		_ = busy.Wait()
		if err := errors.Join(err, out.err(op.name)); err != nil {
			return err
		}
	}
	return nil
}
