//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
)

const scratchPattern = "urbandata-engines-*"

// scratch is a folder for the data of this run. A lock file in it is held for
// as long as the run lives, so a folder that can be locked has been left by a
// run that was killed.
type scratch struct {
	path string
	lock *flock.Flock
}

func newScratch() (*scratch, error) {
	for {
		path, err := os.MkdirTemp("", scratchPattern)
		if err != nil {
			return nil, fmt.Errorf("make a scratch folder: %w", err)
		}
		// A server that runs as another account must get through to its own
		// folder in here, but see nothing else.
		if err := os.Chmod(path, 0o711); err != nil { //nolint:gosec // the folders in it are 0700
			return nil, fmt.Errorf("make a scratch folder: %w", err)
		}
		lock := flock.New(lockPath(path))
		locked, err := lock.TryLock()
		if err != nil {
			return nil, fmt.Errorf("lock the scratch folder: %w", err)
		}
		if locked {
			return &scratch{path, lock}, nil
		}
		// Another run's sweep got hold of it first and is removing it.
	}
}

func (s *scratch) remove() {
	_ = os.RemoveAll(s.path)
	_ = s.lock.Unlock()
}

// sweepScratch removes the folders of runs that were killed. What it may not
// remove, or isn't sure of, it leaves.
func sweepScratch() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), scratchPattern))
	for _, path := range left {
		if _, err := os.Stat(lockPath(path)); err != nil {
			continue // just being made
		}
		lock := flock.New(lockPath(path))
		if locked, err := lock.TryLock(); err != nil || !locked {
			continue
		}
		_ = os.RemoveAll(path)
		_ = lock.Unlock()
	}
}

func lockPath(folder string) string { return filepath.Join(folder, "lock") }
