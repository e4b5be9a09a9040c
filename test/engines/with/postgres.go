//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	_ "github.com/lib/pq" // the postgres driver
)

const postgresImage = "postgres:17"

func newPostgres(durable bool) engine {
	return engine{
		name: "postgres", title: "PostgreSQL", env: postgresEnv,
		answers: postgresAnswers,
		find:    findPostgres,
		private: func(bin, folder string) (recipe, error) { return privatePostgres(bin, folder, durable) },
		image:   postgresImage,
		contained: func(folder string) (recipe, error) {
			return containedPostgres(folder, durable)
		},
		install: installPostgres,
	}
}

func installPostgres(ctx context.Context) (bin string, err error) {
	err = exclusively(ctx, func() error {
		if bin = findPostgres(); bin != "" {
			return nil // another run has just installed it
		}
		if err := aptInstall(ctx, "postgresql"); err != nil {
			return err
		}
		if bin = findPostgres(); bin == "" {
			return errors.New("the package postgresql brought no initdb")
		}
		return nil
	})
	return bin, err
}

// postgresSettings are the server's settings, as arguments.
func postgresSettings(durable bool) []string {
	s := []string{"-c", "max_connections=250", "-c", "shared_buffers=64MB"}
	if !durable {
		s = append(s, "-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")
	}
	return s
}

func privatePostgres(bin, folder string, durable bool) (recipe, error) {
	port, err := freePort()
	if err != nil {
		return recipe{}, err
	}
	account, err := postgresAccount()
	if err != nil {
		return recipe{}, err
	}
	password := rand.Text()
	passwordFile, data := filepath.Join(folder, "password"), filepath.Join(folder, "data")
	if err := os.WriteFile(passwordFile, []byte(password), 0o600); err != nil {
		return recipe{}, fmt.Errorf("write the password file: %w", err)
	}
	if account != nil {
		for _, path := range []string{folder, passwordFile} {
			if err := os.Chown(path, int(account.Uid), int(account.Gid)); err != nil {
				return recipe{}, fmt.Errorf("give the data folder to the server's account: %w", err)
			}
		}
	}
	initdb := []string{
		filepath.Join(bin, "initdb"), "--pgdata", data, "--username", "postgres",
		"--auth", "scram-sha-256", "--pwfile", passwordFile, "--encoding", "UTF8", "--no-sync",
	}
	// Text compares by code point, as the C locale does, but lower() knows
	// every letter, as in production.
	if runtime.GOOS == "linux" {
		initdb = append(initdb, "--locale", "C.UTF-8")
	} else {
		initdb = append(initdb, "--no-locale")
	}
	server := []string{
		filepath.Join(bin, "postgres"), "-D", data, "-p", strconv.Itoa(port),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
	}
	return recipe{
		prepare: [][]string{initdb},
		server:  append(server, postgresSettings(durable)...),
		dir:     folder,
		user:    account,
		log:     filepath.Join(filepath.Dir(folder), filepath.Base(folder)+".log"),
		url:     postgresURL(port, password),
		answers: postgresAnswers,
		stop:    syscall.SIGINT,  // "fast": ends the sessions
		orphan:  syscall.SIGQUIT, // "immediate"; a SIGKILL would leave its children to find out
		portTaken: func(log string) bool {
			return strings.Contains(log, "could not bind")
		},
	}, nil
}

func containedPostgres(folder string, durable bool) (recipe, error) {
	port, err := freePort()
	if err != nil {
		return recipe{}, err
	}
	password := rand.Text()
	r := container(folder, postgresImage,
		[]string{
			"--publish", fmt.Sprintf("127.0.0.1:%d:5432", port),
			"--env", "POSTGRES_PASSWORD", // its value is in the environment, which ps(1) doesn't show
		},
		append([]string{"postgres"}, postgresSettings(durable)...))
	r.env = []string{"POSTGRES_PASSWORD=" + password}
	r.url = postgresURL(port, password)
	r.answers = postgresAnswers
	return r, nil
}

func postgresURL(port int, password string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword("postgres", password),
		Host:     fmt.Sprintf("127.0.0.1:%d", port),
		Path:     "/postgres",
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

func postgresAnswers(ctx context.Context, rawURL string) (version string, err error) {
	db, err := sql.Open("postgres", rawURL)
	if err != nil {
		return "", err
	}
	defer func() { _ = db.Close() }()
	if err := db.QueryRowContext(ctx, "SHOW server_version").Scan(&version); err != nil {
		return "", err
	}
	version, _, _ = strings.Cut(version, " ") // "15.18 (Debian …)"
	return version, nil
}

// findPostgres returns the folder of initdb and postgres: the one in PATH,
// else the newest of those where distributions put them outside of it.
func findPostgres() string {
	if initdb, err := exec.LookPath("initdb"); err == nil {
		if target, err := filepath.EvalSymlinks(initdb); err == nil && hasPostgres(filepath.Dir(target)) {
			return filepath.Dir(target)
		}
	}
	var bins []string
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",          // Debian
		"/usr/pgsql-*/bin",                   // PGDG on Fedora and its kin
		"/opt/homebrew/opt/postgresql@*/bin", // macOS
		"/usr/local/opt/postgresql@*/bin",
	} {
		found, _ := filepath.Glob(pattern)
		for _, bin := range found {
			if hasPostgres(bin) {
				bins = append(bins, bin)
			}
		}
	}
	return newest(bins, postgresVersion)
}

func hasPostgres(bin string) bool {
	for _, program := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(filepath.Join(bin, program)); err != nil {
			return false
		}
	}
	return true
}

var number = regexp.MustCompile(`\d+`)

// postgresVersion reads the major version out of a folder's path.
func postgresVersion(bin string) int {
	n, _ := strconv.Atoi(number.FindString(filepath.Base(filepath.Dir(bin))))
	return n
}

// postgresAccount returns the account to run the server as: nil for our own,
// and for root, which PostgreSQL refuses, an unprivileged one.
func postgresAccount() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	var errs []error
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
		errs = append(errs, err1, err2)
	}
	return nil, fmt.Errorf("PostgreSQL refuses to run as root, and there is no other account: %w", errors.Join(errs...))
}
