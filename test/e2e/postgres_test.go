//go:build unix

package e2e

import (
	"crypto/rand"
	"database/sql"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	_ "github.com/lib/pq" // the postgres driver

	"github.com/urbandata/urbandata/test/engines"
)

// postgres is a PostgreSQL of a test's own, which it may kill. It flushes as
// in production, unlike the one that tests share.
type postgres struct {
	t       *testing.T
	url     string
	command []string
	dir     string
	account *syscall.Credential
	cmd     *exec.Cmd
	done    chan struct{} // closed when cmd has ended
	log     *os.File
}

// startPostgres makes a cluster with the programs of the server that tests
// share, and starts it.
func startPostgres(t *testing.T) *postgres {
	t.Helper()
	var bin string
	if err := engines.Postgres(t).Read.Get(&bin, "SELECT setting FROM pg_config WHERE name = 'BINDIR'"); err != nil {
		t.Fatalf("where are PostgreSQL's programs: %v", err)
	}
	account, err := postgresAccount()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "urbandata-e2e-postgres-") // not below the test's own, which its account can't reach
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	passwordFile, password := filepath.Join(dir, "password"), rand.Text()
	if err := os.WriteFile(passwordFile, []byte(password), 0o600); err != nil {
		t.Fatal(err)
	}
	if account != nil {
		for _, path := range []string{dir, passwordFile} {
			if err := os.Chown(path, int(account.Uid), int(account.Gid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	data, address := filepath.Join(dir, "data"), steadyAddress(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	initdb := exec.CommandContext(t.Context(), filepath.Join(bin, "initdb"), "--pgdata", data, "--username", "postgres",
		"--auth", "scram-sha-256", "--pwfile", passwordFile, "--encoding", "UTF8", "--no-locale", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = dir, &syscall.SysProcAttr{Credential: account}
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	u := url.URL{Scheme: "postgres", User: url.UserPassword("postgres", password), Host: address, Path: "/postgres", RawQuery: "sslmode=disable"}
	p := &postgres{
		t: t, url: u.String(), dir: dir, account: account,
		command: []string{
			filepath.Join(bin, "postgres"), "-D", data, "-p", port,
			"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "shared_buffers=32MB",
		},
	}
	if p.log, err = os.Create(filepath.Join(t.TempDir(), "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		_ = p.log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(p.log.Name())
			t.Logf("the last that PostgreSQL said:\n%s", text[max(0, len(text)-4000):])
		}
	})
	p.start()
	return p
}

// steadyAddress is a loopback address that nobody listens at, and that stays
// free while its server is away. A port that the system gives out itself
// doesn't: who dials it again and again while nobody listens gets it for its
// own end some day, and is connected to itself.
func steadyAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(20_000+mathrand.IntN(10_000))))
		if err != nil {
			continue // taken
		}
		defer func() { _ = l.Close() }()
		return l.Addr().String()
	}
	t.Fatal("no port is free")
	return ""
}

// start starts the server and waits until it answers. After a kill it repairs
// itself from its log first, and refuses to as long as a process of the last
// one lives.
func (p *postgres) start() {
	p.t.Helper()
	eventually(p.t, "PostgreSQL answers", func() bool {
		if p.cmd == nil {
			p.cmd, p.done = exec.Command(p.command[0], p.command[1:]...), make(chan struct{})
			p.cmd.Dir, p.cmd.SysProcAttr = p.dir, &syscall.SysProcAttr{Credential: p.account}
			p.cmd.Stderr = p.log
			if err := p.cmd.Start(); err != nil {
				p.t.Fatalf("start PostgreSQL: %v", err)
			}
			go func(cmd *exec.Cmd, done chan struct{}) { _ = cmd.Wait(); close(done) }(p.cmd, p.done)
		}
		select {
		case <-p.done:
			p.cmd = nil // it refused; again
			return false
		default:
		}
		db, err := sql.Open("postgres", p.url)
		if err != nil {
			p.t.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		return db.PingContext(p.t.Context()) == nil
	})
}

// kill kills every process of the server: the first one and, where the system
// tells them in /proc, its children. They would go by themselves a moment
// later, but for one that waits for a lock of another that was killed: it waits
// for ever, and no server starts on its data again. The first is stopped
// before, so that it makes no more meanwhile.
func (p *postgres) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGSTOP) // it may have ended
	for _, pid := range childrenOf(p.cmd.Process.Pid) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = p.cmd.Process.Kill()
	<-p.done
	p.cmd = nil
}

func childrenOf(parent int) (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range all {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // gone meanwhile
		}
		// pid (name) state parent …; the name may hold anything.
		_, rest, _ := strings.Cut(string(text), ") ")
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(parent) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// postgresAccount is whom the server runs as: ourselves, unless we are root,
// which PostgreSQL refuses.
func postgresAccount() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // no other account is needed
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return nil, err
		}
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}
