package cli

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/urbandata/urbandata/authserver"
	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/test/engines"
)

// realIssuer is authn itself, with two keys of each algorithm; spoil may change
// what it answers.
func realIssuer(t *testing.T, spoil func(http.Handler) http.Handler) (url string, keeper *keys.Keeper) {
	t.Helper()
	db := engines.SQLite(t)
	if _, err := migrations.Up(t.Context(), db.Write.DB, migrations.AuthnSQLite); err != nil {
		t.Fatal(err)
	}
	sealer, err := keys.NewSealer(keys.GenerateSealingKey())
	if err != nil {
		t.Fatal(err)
	}
	if keeper, err = keys.NewKeeper(keys.NewSQLStore(db.Write), sealer, keys.DefaultPolicy(), keys.Options{}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the stand-bys come with the second
		if err := keeper.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	store, err := authserver.NewStore(t.Context(), db.Write, db.Read)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	var handler http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	s, err := authserver.New(authserver.Options{
		Issuer: server.URL, Keys: keeper, Accounts: authserver.NewAccounts(store, authserver.AccountsOptions{}),
	})
	if err != nil {
		t.Fatal(err)
	}
	handler = s
	if spoil != nil {
		handler = spoil(s)
	}
	return server.URL, keeper
}

// without serves nothing under a path.
func without(path string) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, path) {
				http.NotFound(w, r)
				return
			}
			h.ServeHTTP(w, r)
		})
	}
}

func TestDoctorExitCodes(t *testing.T) {
	good, keeper := realIssuer(t, nil)
	warned, _ := realIssuer(t, without("/.well-known/openid-configuration"))
	without, _ := realIssuer(t, without("/.well-known/jwks"))
	private, _ := realIssuer(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != jwksPath {
				h.ServeHTTP(w, r)
				return
			}
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			_, _ = w.Write([]byte(strings.Replace(rec.Body.String(), `"kty"`, `"d":"AAAA","kty"`, 1)))
		})
	})
	signer, err := keeper.Signer("EdDSA")
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(map[string]any{
		"iss": good, "sub": "u", "aud": "inmuebles", "client_id": "c", "jti": "1", "iat": time.Now().Unix(), "exp": time.Now().Unix() + 60, "scope": "",
	})
	if err != nil {
		t.Fatal(err)
	}
	token, err := signer.Sign("at+jwt", payload)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		args  []string
		stdin string
		code  int
		says  string // on standard output or error
	}{
		{"well", []string{"--issuer", good}, "", 0, "which every verifier of the table can read"},
		{"a good token", []string{"--issuer", good, "--token-file", "-"}, token, 0, "it verifies"},
		{"a good token in a file", []string{"--issuer", good, "--token-file", file, "--audience", "inmuebles"}, "", 0, "it verifies"},
		{"a token for another", []string{"--issuer", good, "--token-file", file, "--audience", "spring"}, "", 5, "it is for"},
		{"no token", []string{"--issuer", good, "--token-file", "-"}, "hunter2", 5, "no JWT"},
		{"one document is missing", []string{"--issuer", warned}, "", 3, "answers 404"},
		{"a private key", []string{"--issuer", private}, "", 4, "revoke it at once"},
		{"no key set", []string{"--issuer", without}, "", 1, "answers 404"},
		{"nobody there", []string{"--issuer", "http://127.0.0.1:1"}, "", 1, "can't be had"},
		{"no issuer", nil, "", 2, "--issuer"},
		{"no URL", []string{"--issuer", "ftp://x"}, "", 2, "--issuer"},
		{"a token as an argument", []string{"--issuer", good, "--token-file", token}, "", 2, "--token-file"},
		{"standard input again and again", []string{"--issuer", good, "--watch", "--token-file", "-"}, token, 2, "must be a file"},
		{"too often", []string{"--issuer", good, "--watch", "--every", "1ms"}, "", 2, "--every"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProgram(t, nil, append([]string{"keys", "doctor"}, tc.args...)...)
			p.stdin = strings.NewReader(tc.stdin)
			code := run(p.program)
			if text := p.out.String() + p.err.String(); code != tc.code || !strings.Contains(text, tc.says) || strings.Contains(text, token) {
				t.Errorf("exit code %d, want %d; it should say %q and no token:\n%s", code, tc.code, tc.says, text)
			}
		})
	}

	t.Run("JSON", func(t *testing.T) {
		p := newProgram(t, nil, "keys", "doctor", "--json", "--issuer", good)
		var report struct {
			Reached  bool
			Keys     []map[string]string
			Findings []map[string]any
		}
		if code := run(p.program); code != 0 || json.Unmarshal(p.out.Bytes(), &report) != nil || !report.Reached || len(report.Keys) != 4 || len(report.Findings) == 0 {
			t.Errorf("exit code %d: %s", code, p.out)
		}
	})
}

// The watch sees an emergency, in which a key signs before everybody has it.
func TestDoctorWatch(t *testing.T) {
	url, keeper := realIssuer(t, nil)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	p := newProgram(t, nil, "keys", "doctor", "--issuer", url, "--watch", "--every", "1s", "--json")
	p.ctx = ctx
	seen := make(lines, 16)
	p.stdout = seen
	ended := make(chan int, 1)
	go func() { ended <- run(p.program) }()
	if first := <-seen; !strings.Contains(first, "watching 4 keys") {
		t.Fatalf("it begins with %s", first)
	}
	if err := keeper.Rotate(ctx, "EdDSA", true); err != nil { // makes a new stand-by
		t.Fatal(err)
	}
	if err := keeper.Tick(ctx); err != nil {
		t.Fatal(err)
	}
	for line := range seen {
		if strings.Contains(line, "if the key signed now they could refuse") {
			if !strings.Contains(line, "jwx 2.1") {
				t.Errorf("it doesn't name the slowest: %s", line)
			}
			break
		}
	}
	stop()
	if code := <-ended; code != exitWarnings { // of the two that no lead helps
		t.Errorf("exit code %d, want %d", code, exitWarnings)
	}
}

// lines is a writer that hands on what is written.
type lines chan string

func (l lines) Write(b []byte) (int, error) { l <- string(b); return len(b), nil }
