//go:build unix

package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Scratch makes a private folder for a program of this name; who asked removes
// it. Folders of runs that were killed outright go first: their processes the
// kernel has ended.
func Scratch(name string) (string, error) {
	folders, _ := filepath.Glob(filepath.Join(os.TempDir(), "urbandata-"+name+"-*-*")) // the pattern is good
	for _, folder := range folders {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(folder), "urbandata-"+name+"-%d-", &pid); err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(folder) // another run may be at it
		}
	}
	folder, err := os.MkdirTemp("", fmt.Sprintf("urbandata-%s-%d-", name, os.Getpid()))
	if err != nil {
		return "", fmt.Errorf("make a scratch folder: %w", err)
	}
	return folder, nil
}
