//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
)

// chromiumEnv names the browser for tests of pages. It is no server: a test
// starts it with a profile of its own.
const chromiumEnv = "URBANDATA_TEST_CHROMIUM"

// findChromium returns a browser's program, and how it came: the one that is
// given, one on this machine, or Debian's package. Containers don't help here.
func findChromium(ctx context.Context, from []string) (program, where string, err error) {
	if slices.Contains(from, given) {
		if program := os.Getenv(chromiumEnv); program != "" {
			return program, chromiumEnv, nil
		}
	}
	look := func() string {
		for _, name := range []string{"chromium", "chromium-browser", "google-chrome-stable", "google-chrome"} {
			if program, err := exec.LookPath(name); err == nil {
				return program
			}
		}
		return ""
	}
	if slices.Contains(from, binaries) {
		if program := look(); program != "" {
			return program, program, nil
		}
	}
	if slices.Contains(from, packages) {
		if err := exclusively(ctx, func() error { return aptInstall(ctx, "chromium") }); err != nil {
			return "", "", fmt.Errorf("there is no Chromium, and it can't be installed: %w; install it, or name it in %s", err, chromiumEnv)
		}
		if program := look(); program != "" {
			return program, "Debian's package", nil
		}
	}
	return "", "", fmt.Errorf("there is no Chromium: install it, or name it in %s", chromiumEnv)
}
