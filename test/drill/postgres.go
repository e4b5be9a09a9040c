//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	_ "github.com/lib/pq" // the postgres driver

	"github.com/urbandata/urbandata/test/process"
)

// postgres is a private server that the drill can restart. It flushes as in
// production.
type postgres struct {
	starter *process.Starter
	command []string
	account *syscall.Credential
	dir     string
	url     string
	process *process.Process
}

// startPostgres makes a cluster in a folder and starts it. `make drill` runs
// the drill under test/engines/with, which installs PostgreSQL where there is
// none, and whose server tells where its programs are.
func startPostgres(ctx context.Context, s *process.Starter, scratch string) (*postgres, error) {
	bin, err := postgresPrograms(ctx)
	if err != nil {
		return nil, err
	}
	account, err := postgresAccount()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(scratch, "postgres")
	passwordFile, password := filepath.Join(dir, "password"), rand.Text()
	if err := errors.Join(os.Chmod(scratch, 0o711), os.Mkdir(dir, 0o700), os.WriteFile(passwordFile, []byte(password), 0o600)); err != nil { //nolint:gosec // the server's account passes through
		return nil, fmt.Errorf("make the server's folder: %w", err)
	}
	if account != nil {
		for _, path := range []string{dir, passwordFile} {
			if err := os.Chown(path, int(account.Uid), int(account.Gid)); err != nil {
				return nil, fmt.Errorf("give the server's folder to its account: %w", err)
			}
		}
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "--pgdata", data, "--username", "postgres", //nolint:gosec // found above
		"--auth", "scram-sha-256", "--pwfile", passwordFile, "--encoding", "UTF8", "--no-locale", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = dir, &syscall.SysProcAttr{Credential: account}
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", password),
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), Path: "/postgres", RawQuery: "sslmode=disable",
	}
	p := &postgres{
		starter: s, account: account, dir: dir, url: u.String(),
		command: []string{
			filepath.Join(bin, "postgres"), "-D", data, "-p", strconv.Itoa(port),
			"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "shared_buffers=32MB",
		},
	}
	return p, p.start(ctx)
}

func (p *postgres) start(ctx context.Context) (err error) {
	cmd := exec.Command(p.command[0], p.command[1:]...) //nolint:gosec,noctx // found by postgresPrograms; ended by the starter
	cmd.Dir, cmd.SysProcAttr = p.dir, &syscall.SysProcAttr{Credential: p.account}
	if p.process, err = p.starter.Start(cmd); err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	db, err := sql.Open("postgres", p.url)
	if err != nil {
		return fmt.Errorf("open PostgreSQL: %w", err)
	}
	defer func() { _ = db.Close() }() // nothing was written
	return until(ctx, time.Minute, "PostgreSQL answers", func() error { return db.PingContext(ctx) })
}

// restart ends every session, as an update of the server would.
func (p *postgres) restart(ctx context.Context) error {
	p.process.End(syscall.SIGINT)
	return p.start(ctx)
}

// postgresPrograms is the folder of initdb and postgres.
func postgresPrograms(ctx context.Context) (string, error) {
	var bins []string
	if given := os.Getenv("URBANDATA_TEST_POSTGRES"); given != "" {
		var bin string
		db, err := sql.Open("postgres", given)
		if err != nil {
			return "", fmt.Errorf("open the given PostgreSQL: %w", err)
		}
		defer func() { _ = db.Close() }() // only read
		if err := db.QueryRowContext(ctx, "SELECT setting FROM pg_config WHERE name = 'BINDIR'").Scan(&bin); err != nil {
			return "", fmt.Errorf("ask the given PostgreSQL for its programs: %w", err)
		}
		bins = append(bins, bin)
	}
	if initdb, err := exec.LookPath("initdb"); err == nil {
		if target, err := filepath.EvalSymlinks(initdb); err == nil {
			bins = append(bins, filepath.Dir(target))
		}
	}
	debian, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is good
	for _, bin := range append(bins, debian...) {
		if _, err := exec.LookPath(filepath.Join(bin, "initdb")); err == nil {
			return bin, nil
		}
	}
	return "", errors.New("PostgreSQL's programs are not on this machine: use `make drill`, which installs them")
}

// postgresAccount is whom the server runs as: ourselves, unless we are root,
// which PostgreSQL refuses.
func postgresAccount() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // no other account is needed
	}
	var err error
	for _, name := range []string{"postgres", "nobody"} {
		var u *user.User
		if u, err = user.Lookup(name); err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if err = errors.Join(uidErr, gidErr); err == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, fmt.Errorf("PostgreSQL refuses to run as root, and there is no other account: %w", err)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a local bind
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	_, text, err := net.SplitHostPort(l.Addr().String())
	if err = errors.Join(err, l.Close()); err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	return strconv.Atoi(text)
}

// until asks again and again until there is no error.
func until(ctx context.Context, patience time.Duration, what string, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if !pause(ctx, 50*time.Millisecond) {
			return fmt.Errorf("waited until %s: %w", what, err)
		}
	}
}

// pause waits, and reports whether it wasn't cut short.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
