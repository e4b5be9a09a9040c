package cli

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/pkg/web"
)

// testProgram is a program whose environment, arguments and input a test sets.
type testProgram struct {
	*program
	out, err *bytes.Buffer
}

func newProgram(t *testing.T, env map[string]string, args ...string) *testProgram {
	t.Helper()
	p := &testProgram{out: &bytes.Buffer{}, err: &bytes.Buffer{}}
	p.program = &program{
		ctx: t.Context(), args: args, getenv: func(name string) string { return env[name] },
		stdin: strings.NewReader(""), stdout: p.out, stderr: p.err,
	}
	return p
}

func TestSecret(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tc := range []struct {
		name  string
		env   map[string]string
		value string
		says  string // part of the sentence
	}{
		{"none", nil, "", ""},
		{"variable", map[string]string{"X": "s3cret"}, "s3cret", ""},
		{"file", map[string]string{"X_FILE": write("a", " s3cret\n")}, "s3cret", ""},
		{"both", map[string]string{"X": "s3cret", "X_FILE": dir + "/a"}, "", "unset one"},
		{"no such file", map[string]string{"X_FILE": dir + "/none"}, "", "X_FILE: the file can't be read"},
		{"empty file", map[string]string{"X_FILE": write("b", "\n")}, "", "empty"},
		{"too long", map[string]string{"X_FILE": write("c", strings.Repeat("x", maxSecretFile+1))}, "", "too long"},
		{"a folder", map[string]string{"X_FILE": dir}, "", "can't be read"},
	} {
		value, err := newProgram(t, tc.env).secret("X")
		var wrong *settingError
		if value != tc.value || (tc.says == "") != (err == nil) {
			t.Errorf("%s: %q, %v", tc.name, value, err)
		} else if err != nil && (!errors.As(err, &wrong) || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%s: %v, should say %q", tc.name, err, tc.says)
		}
	}
}

func TestDatabaseURL(t *testing.T) {
	const secret = "postgres://u:hunter2@host/db"
	for _, tc := range []struct {
		name  string
		value string // the flag's, or its variable's
		args  []string
		env   map[string]string
		want  string
		says  string
	}{
		{"nothing set", "", nil, nil, "sqlite:x.db", ""},
		{"password from the environment", secret, nil, nil, secret, ""},
		{"password as an argument", secret, []string{"--database", secret}, nil, "", "arguments can be read"},
		{"password as an argument, joined", secret, []string{"--database=" + secret}, nil, "", "arguments can be read"},
		{"no password, as an argument", "postgres://host/db", []string{"--database", "postgres://host/db"}, nil, "postgres://host/db", ""},
		{"wrong kind", "mongodb://host/db", nil, nil, "", "must be sqlite:PATH or postgres://…"},
		{"no URL", "hunter2", nil, nil, "", "must be sqlite:PATH or postgres://…"},
		{"both", "sqlite:y.db", nil, map[string]string{"X_FILE": "f"}, "", "unset one"},
	} {
		got, err := newProgram(t, tc.env, tc.args...).databaseURL(databaseSetting{"--x", "X"}, tc.value, "sqlite:x.db", database.SQLite, database.Postgres)
		if got != tc.want || (tc.says == "") != (err == nil) {
			t.Errorf("%s: %q, %v", tc.name, got, err)
		} else if err != nil && (!strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: %v, should say %q and nothing secret", tc.name, err, tc.says)
		}
	}
}

func TestWrongSettingsExit2(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		args []string
		env  map[string]string
		says string
	}{
		{[]string{"nonsense"}, nil, "argument too many"},
		{[]string{"authserver", "--nope"}, nil, "--nope"},
		{[]string{"authserver", "--database", "sqlite:" + dir + "/a.db"}, nil, "--sealing-key-file"},
		{[]string{"authserver", "--database", "sqlite:" + dir + "/a.db"}, map[string]string{envSealingKey: "short"}, envSealingKey},
		{[]string{"authserver", "--database", "mongodb://x/y"}, nil, "--database"},
		{[]string{"resourceserver", "--issuer", "ftp://x"}, nil, "--issuer"},
		{[]string{"resourceserver", "--listen", "nowhere.invalid:x"}, nil, "--listen"},
		{[]string{"resourceserver", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--jwks-url", "http://elsewhere.example/keys", "--database", "sqlite::memory:"}, nil, "--jwks-url"},
		{[]string{"verify-proxy"}, nil, "--audience"},
		{[]string{"verify-proxy", "--audience", "x", "--issuer", "https://id.example/"}, nil, "--issuer"},
		{[]string{"verify-proxy", "--audience", "x", "--jwks-url", "http://elsewhere.example/keys"}, nil, "--jwks-url"},
		{[]string{"verify-proxy", "--audience", "x"}, map[string]string{"URBANDATA_PROXY_SCOPES": "a b"}, "--scope"},
		{[]string{"verify-proxy", "--audience", "x", "--token-cache-mb", "-1"}, nil, "--token-cache-mb"},
		{[]string{"verify-proxy", "--audience", "x", "--verifier-name", "a b"}, nil, "--verifier-name"},
		{[]string{"verify-proxy", "--audience", "x", "--jwks-cache-file", dir + "/missing/keys"}, nil, "--jwks-cache-file"},
		{[]string{"verify-proxy", "--audience", "x", "--listen", "nowhere.invalid:x"}, nil, "--listen"},
		{[]string{"users", "create", "a@b.example", "--role", "king"}, nil, "--role"},
		{[]string{"users", "create", "a@b.example", "--data-dir", dir}, nil, envPassword},
		{[]string{"import", dir + "/none.csv", "--data-dir", dir}, nil, "FILE"},
		{[]string{"up", "--token-life", "1000h", "--data-dir", dir, "--auth-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--metrics-listen", "off"}, nil, "--token-life"},
		{[]string{"up", "--audience", "x=HS256", "--data-dir", dir, "--auth-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--metrics-listen", "off"}, nil, "--audience"},
	} {
		p := newProgram(t, tc.env, tc.args...)
		if code := run(p.program); code != exitSetting || !strings.Contains(p.err.String(), tc.says) {
			t.Errorf("%v: exit %d, %q should name %s", tc.args, code, p.err, tc.says)
		}
	}
}

// A data folder that lost its sealing key must not get another one.
func TestLostSealingKey(t *testing.T) {
	dir := t.TempDir()
	c := &upCmd{DataDir: dir}
	p := newProgram(t, nil)
	sealer, err := c.sealer(p.program)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "sealing.key")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the sealing key: %v, %v", info, err)
	}
	again, err := c.sealer(p.program)
	if err != nil || again.ID() != sealer.ID() {
		t.Errorf("the second time it is another: %v", err)
	}

	db, err := openAuthn(t.Context(), authSetting, authFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	keeper, err := keys.NewKeeper(keys.NewSQLStore(db.Write), sealer, keys.DefaultPolicy(), keys.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := keeper.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	var wrong *settingError
	if _, err := c.sealer(p.program); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "sealing.key is missing") {
		t.Errorf("%v, want a sentence about the missing key", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error("a new sealing key was made")
	}
}

func TestBannerIsTenLines(t *testing.T) {
	p := newProgram(t, nil)
	(&upCmd{DataDir: "d"}).banner(p.program, "http://a", "http://b", nil)
	if n := strings.Count(p.out.String(), "\n"); n > 10 {
		t.Errorf("%d lines:\n%s", n, p.out)
	}
}

// The background outlives the drain, and a background that fails ends
// everything.
func TestGroupOrder(t *testing.T) {
	log := (&logging{Level: "error", Format: "json"}).logger(newProgram(t, nil).program)
	for _, fail := range []error{nil, errors.New("broken")} {
		p := newProgram(t, nil)
		l, err := listen(p.program, "x", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		g := newGroup(log)
		var order []string
		ctx, cancel := context.WithCancel(t.Context())
		health := web.NewHealth()
		g.serve("x", l, http.NotFoundHandler(), health, drainFlags{Timeout: time.Second})
		g.closers = append(g.closers, func() error { order = append(order, "closed"); return nil })
		g.background = append(g.background, func(ctx context.Context) error {
			if fail != nil {
				return fail
			}
			cancel()
			<-ctx.Done()
			if res, err := http.Get("http://" + l.Addr().String()); err == nil {
				_ = res.Body.Close()
				t.Error("the background ended while the server still answered")
			}
			order = append(order, "background")
			return nil
		})
		err = g.run(ctx)
		cancel()
		if !errors.Is(err, fail) {
			t.Errorf("run: %v, want %v", err, fail)
		}
		if want := map[bool]string{true: "background closed", false: "closed"}[fail == nil]; strings.Join(order, " ") != want {
			t.Errorf("order %v, want %s", order, want)
		}
	}
}

// A command line that begins with a command has it alone built; every other
// one has them all, and finds the same.
func TestMeant(t *testing.T) {
	all := commands()
	for _, tc := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"up"}},
		{[]string{"up"}, []string{"up"}},
		{[]string{"keys", "list"}, []string{"keys"}},
		{[]string{"--help"}, nil},
		{[]string{"--log-level", "debug", "version"}, nil},
		{[]string{"--data-dir", "x"}, nil}, // up's, which is the default
		{[]string{"nonsense"}, nil},
	} {
		var got, want []string
		for _, c := range meant(tc.args) {
			got = append(got, c.name)
		}
		if want = tc.want; want == nil {
			for _, c := range all {
				want = append(want, c.name)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", tc.args, got, want)
		}
	}
	for _, c := range all {
		alone, among := newProgram(t, nil, c.name, "--help"), newProgram(t, nil, "--log-format", "json", c.name, "--help")
		if a, b := run(alone.program), run(among.program); a != exitOK || b != exitOK || alone.out.String() != among.out.String() {
			t.Errorf("the help of %s is another when it alone is built", c.name)
		}
	}
}
