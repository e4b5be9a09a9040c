package e2e

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urbandata/urbandata/test/engines"
)

// secretMark is in every secret of TestWrongSettings, to be looked for in what
// the program says.
const secretMark = "sup3rs3cr3t"

// TestWrongSettings: a wrong setting stops the start with exit code 2 and one
// sentence that names it, and gives no secret away.
func TestWrongSettings(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() }) // the cases below run when this function is over
	busy := taken.Addr().String()
	sealingKey := file(t, newSealingKey())
	missing := filepath.Join(t.TempDir(), "missing")
	empty, rubbish, long := file(t, " \n"), file(t, secretMark), file(t, strings.Repeat(secretMark, 10_000))
	folder := t.TempDir()
	notFolder := filepath.Join(file(t, ""), "data")

	// A folder whose ring is sealed with another key, and one whose key is lost.
	otherKey, lostKey := sealedFolder(t), sealedFolder(t)
	if err := os.WriteFile(filepath.Join(otherKey, "sealing.key"), []byte(newSealingKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(lostKey, "sealing.key")); err != nil {
		t.Fatal(err)
	}
	sqlite := "sqlite:" + filepath.Join(t.TempDir(), "x.db")
	postgres := "postgres://urbandata:" + secretMark + "@127.0.0.1:1/urbandata?sslmode=disable"
	mongodb := "mongodb://urbandata:" + secretMark + "@127.0.0.1:1/urbandata"

	authserver := func(more ...string) []string {
		return append([]string{"authserver", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--database", sqlite, "--sealing-key-file", sealingKey}, more...)
	}
	authserverEnv := func(more ...string) []string {
		return append([]string{"authserver", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--sealing-key-file", sealingKey}, more...)
	}
	unsealed := []string{"authserver", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--database", sqlite}
	resource := func(more ...string) []string {
		return append([]string{"resourceserver", "--listen", "127.0.0.1:0", "--metrics-listen", "off"}, more...)
	}
	up := func(more ...string) []string {
		return append([]string{"up", "--auth-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--metrics-listen", "off"}, more...)
	}

	for _, tc := range []struct {
		name string
		env  settings
		args []string
		want string // the setting, as the sentence names it
	}{
		{"no such command", nil, []string{"serve"}, "argument"},
		{"no such flag", nil, []string{"authserver", "--port", "80"}, "--port"},
		{"no such log level", settings{"URBANDATA_LOG_LEVEL": "loud"}, []string{"version"}, "--log-level"},
		{"a duration that is none", nil, authserver("--token-life", "soon"), "--token-life"},
		{"a token life that is too long", nil, authserver("--token-life", "48h"), "URBANDATA_AUTH_TOKEN_LIFE"},
		{"tokens that a clock ahead makes too early", nil, authserver("--keys-skew", "30s"), "URBANDATA_AUTH_TOKEN_BACKDATE"},
		{"an algorithm that isn't there", nil, authserver("--signing-alg", "HS256"), "URBANDATA_AUTH_SIGNING_ALG"},
		{"an audience without algorithm", settings{"URBANDATA_AUTH_AUDIENCES": "spring=none"}, authserver(), "URBANDATA_AUTH_AUDIENCES"},

		{"an issuer with a slash", nil, authserver("--issuer", "https://id.example/"), "--issuer"},
		{"an issuer that is no URL", settings{"URBANDATA_AUTH_ISSUER": "id.example"}, authserver(), "URBANDATA_AUTH_ISSUER"},
		{"an issuer with a query", nil, up("--issuer", "https://id.example?x=1"), "--issuer"},
		{"an issuer with a password", settings{"URBANDATA_AUTH_ISSUER": "https://a:" + secretMark + "@id.example"}, up(), "URBANDATA_AUTH_ISSUER"},
		{"inmuebles: an issuer with a slash", settings{"URBANDATA_API_ISSUER": "https://id.example/"}, resource(), "URBANDATA_API_ISSUER"},
		{"inmuebles: keys without TLS", nil, resource("--database", sqlite, "--jwks-url", "http://id.example/keys"), "URBANDATA_API_JWKS_URL"},
		{"inmuebles: no URL for the keys", settings{"URBANDATA_API_JWKS_URL": "file:///etc/passwd"}, resource("--database", sqlite), "URBANDATA_API_JWKS_URL"},

		{"a port that is taken", nil, authserver("--listen", busy), "URBANDATA_AUTH_LISTEN"},
		{"a port that is no number", settings{"URBANDATA_API_LISTEN": "127.0.0.1:http://"}, []string{"resourceserver", "--metrics-listen", "off"}, "URBANDATA_API_LISTEN"},
		{"up: authn's port is taken", nil, up("--auth-listen", busy), "--auth-listen"},
		{"up: inmuebles' port is taken", nil, up("--api-listen", busy), "--api-listen"},
		{"a port for metrics that is taken", nil, authserver("--metrics-listen", busy), "--metrics-listen"},

		{"a password as an argument", nil, authserverEnv("--database", postgres), "URBANDATA_AUTH_DATABASE"},
		{"a password as an argument, in one word", nil, authserverEnv("--database=" + postgres), "URBANDATA_AUTH_DATABASE"},
		{"inmuebles: a file in no folder", settings{"URBANDATA_API_JWKS_CACHE_FILE": filepath.Join(missing, "keys.json")}, resource("--database", sqlite), "URBANDATA_API_JWKS_CACHE_FILE"},
		{"inmuebles: a name of two words", settings{"URBANDATA_API_VERIFIER_NAME": "two words"}, resource("--database", sqlite), "URBANDATA_API_VERIFIER_NAME"},
		{"inmuebles: a token cache of less than nothing", nil, resource("--database", sqlite, "--token-cache-mb=-1"), "URBANDATA_API_TOKEN_CACHE_MB"},
		{"a password as an argument of inmuebles", nil, resource("--database", mongodb), "URBANDATA_API_DATABASE"},
		{"a password as an argument of migrate", nil, []string{"migrate", "--auth-database", postgres}, "URBANDATA_AUTH_DATABASE"},
		{"a password in a query as an argument", nil, authserverEnv("--database", "postgres://h/d?password="+secretMark), "URBANDATA_AUTH_DATABASE"},
		{"authn on MongoDB", settings{"URBANDATA_AUTH_DATABASE": mongodb}, authserverEnv(), "URBANDATA_AUTH_DATABASE"},
		{"inmuebles on PostgreSQL", settings{"URBANDATA_API_DATABASE": postgres}, resource(), "URBANDATA_API_DATABASE"},
		{"another engine", settings{"URBANDATA_AUTH_DATABASE": "mysql://a:" + secretMark + "@h/d"}, authserverEnv(), "URBANDATA_AUTH_DATABASE"},
		{"a database URL without a scheme", settings{"URBANDATA_AUTH_DATABASE": secretMark}, authserverEnv(), "URBANDATA_AUTH_DATABASE"},
		{"a PostgreSQL URL that can't be parsed", settings{"URBANDATA_AUTH_DATABASE": "postgres://a:%zz" + secretMark + "@h/d"}, authserverEnv(), "URBANDATA_AUTH_DATABASE"},
		{"a MongoDB URL that can't be parsed", settings{"URBANDATA_API_DATABASE": "mongodb://a:%zz" + secretMark + "@h/d"}, resource(), "URBANDATA_API_DATABASE"},
		{"a database URL in a file that isn't there", settings{"URBANDATA_AUTH_DATABASE_FILE": missing}, authserverEnv(), "URBANDATA_AUTH_DATABASE_FILE"},
		{"a database URL in a folder", settings{"URBANDATA_API_DATABASE_FILE": folder}, resource(), "URBANDATA_API_DATABASE_FILE"},
		{"a database URL in an empty file", settings{"URBANDATA_AUTH_DATABASE_FILE": empty}, authserverEnv(), "URBANDATA_AUTH_DATABASE_FILE"},
		{"a database URL in a huge file", settings{"URBANDATA_AUTH_DATABASE_FILE": long}, authserverEnv(), "URBANDATA_AUTH_DATABASE_FILE"},
		{"a database URL twice", settings{"URBANDATA_AUTH_DATABASE": postgres, "URBANDATA_AUTH_DATABASE_FILE": rubbish}, authserverEnv(), "URBANDATA_AUTH_DATABASE_FILE"},
		{"inmuebles: a database URL twice", settings{"URBANDATA_API_DATABASE": mongodb, "URBANDATA_API_DATABASE_FILE": rubbish}, resource(), "URBANDATA_API_DATABASE_FILE"},

		{"no sealing key", nil, unsealed, "URBANDATA_SEALING_KEY_FILE"},
		{"a sealing key that isn't there", settings{"URBANDATA_SEALING_KEY_FILE": missing}, unsealed, "URBANDATA_SEALING_KEY_FILE"},
		{"an empty sealing key", settings{"URBANDATA_SEALING_KEY_FILE": empty}, unsealed, "URBANDATA_SEALING_KEY_FILE"},
		{"a sealing key that is none", settings{"URBANDATA_SEALING_KEY_FILE": rubbish}, unsealed, "URBANDATA_SEALING_KEY_FILE"},
		{"a sealing key in the environment that is none", settings{"URBANDATA_SEALING_KEY": secretMark}, unsealed, "URBANDATA_SEALING_KEY"},
		{"a sealing key twice", settings{"URBANDATA_SEALING_KEY": secretMark, "URBANDATA_SEALING_KEY_FILE": sealingKey}, unsealed, "URBANDATA_SEALING_KEY"},
		{"another sealing key", nil, []string{
			"authserver", "--listen", "127.0.0.1:0", "--metrics-listen", "off",
			"--database", "sqlite:" + filepath.Join(otherKey, "authn.db"), "--sealing-key-file", sealingKey,
		}, "URBANDATA_SEALING_KEY_FILE"},
		{"up: another sealing key", nil, up("--data-dir", otherKey), "sealing"},
		{"up: a lost sealing key", nil, up("--data-dir", lostKey), "URBANDATA_DATA_DIR"},
		{"up: a data folder that can't be", settings{"URBANDATA_DATA_DIR": notFolder}, up(), "URBANDATA_DATA_DIR"},

		{"users: no password", nil, []string{"users", "create", "a@ejemplo.example", "--data-dir", folder}, "URBANDATA_PASSWORD"},
		{"users: a password twice", settings{"URBANDATA_PASSWORD": secretMark, "URBANDATA_PASSWORD_FILE": rubbish}, []string{"users", "create", "a@ejemplo.example", "--data-dir", folder}, "URBANDATA_PASSWORD_FILE"},
		{"users: a password as an argument", nil, []string{"users", "create", "a@ejemplo.example", secretMark, "--data-dir", folder}, "argument"},
		{"token: as an argument", nil, []string{"token", "inspect", "eyJhbGciOiJub25lIn0." + secretMark + ".x"}, "FILE"},
		{"import: a file that isn't there", nil, []string{"import", missing, "--data-dir", folder}, "FILE"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			o := command(t, tc.env, "", tc.args...)
			if o.code != 2 {
				t.Errorf("exit code %d, want 2", o.code)
			}
			wantSentence(t, o.stderr, tc.want)
			if o.stdout != "" {
				t.Errorf("on standard output: %s", o.stdout)
			}
		})
	}
}

// TestUnreachable: a database that doesn't answer is no wrong setting, but
// ends the start too, and gives no secret away.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	sealingKey := file(t, newSealingKey())
	password := func(raw string) string {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword("urbandata", secretMark)
		return u.String()
	}
	for _, tc := range []struct {
		name string
		env  settings
		args []string
		want string
	}{
		{"no PostgreSQL", settings{"URBANDATA_AUTH_DATABASE": "postgres://a:" + secretMark + "@127.0.0.1:1/d?sslmode=disable"}, []string{"authserver"}, "PostgreSQL"},
		{"a wrong password", settings{"URBANDATA_AUTH_DATABASE": password(engines.PostgresURL(t))}, []string{"authserver"}, "PostgreSQL"},
		{"no MongoDB", settings{"URBANDATA_API_DATABASE": "mongodb://a:" + secretMark + "@127.0.0.1:1/d?serverSelectionTimeoutMS=200"}, []string{"resourceserver"}, "MongoDB"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			env := settings{"URBANDATA_SEALING_KEY_FILE": sealingKey}.with(tc.env)
			o := command(t, env, "", append(tc.args, "--listen", "127.0.0.1:0")...)
			if o.code != 1 {
				t.Errorf("exit code %d, want 1", o.code)
			}
			wantSentence(t, o.stderr, tc.want)
		})
	}
}

// wantSentence wants one line for a person that holds the text, and no secret.
// After a mistake in the arguments a second line may point to the help.
func wantSentence(t *testing.T, stderr, text string) {
	t.Helper()
	line, rest, _ := strings.Cut(strings.TrimSpace(stderr), "\n")
	if !strings.HasPrefix(line, "urbandata: ") || !strings.Contains(line, text) {
		t.Errorf("it doesn't name %s: %s", text, stderr)
	}
	if rest != "" && !strings.HasPrefix(rest, `Run "urbandata `) || strings.Contains(rest, "\n") {
		t.Errorf("more than one sentence: %s", stderr)
	}
	if strings.Contains(stderr, secretMark) {
		t.Errorf("a secret: %s", stderr)
	}
}

// sealedFolder is the data folder of an `up` that has run.
func sealedFolder(t *testing.T) string {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	p := start(t, newLedger(t), settings{}.with(nil), "up", "--auth-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--data-dir", data)
	p.url()
	p.terminate()
	p.ended()
	return data
}
