package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urbandata/urbandata/keys"
)

// Settings of accounts that won't do end the start with exit code 2, and say
// nothing secret.
func TestWrongAccountSettings(t *testing.T) {
	dir := t.TempDir()
	notList := filepath.Join(dir, "list.txt")
	if err := os.WriteFile(notList, []byte("password\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	smtp := []string{"--smtp-server", "127.0.0.1:1", "--mail-from", "a@ejemplo.example"}
	for _, tc := range []struct {
		args []string
		env  map[string]string
		says string
	}{
		{[]string{"--deletion-grace", "1s"}, nil, "--deletion-grace"},
		{[]string{"--email-verification", "maybe"}, nil, "--email-verification"},
		{[]string{"--email-verification", "required"}, nil, "URBANDATA_SMTP_SERVER"},
		{[]string{"--account-url", "https://id.example/"}, nil, "URBANDATA_AUTH_ACCOUNT_URL"},
		{[]string{"--breached-passwords", notList}, nil, "URBANDATA_AUTH_BREACHED_PASSWORDS"},
		{[]string{"--breached-passwords", filepath.Join(dir, "none")}, nil, "URBANDATA_AUTH_BREACHED_PASSWORDS"},
		{[]string{"--limits", notList}, nil, "URBANDATA_AUTH_LIMITS"},
		{[]string{"--limits", filepath.Join(dir, "none")}, nil, "URBANDATA_AUTH_LIMITS"},
		{[]string{"--trusted-proxies", "proxy.example"}, nil, "URBANDATA_AUTH_TRUSTED_PROXIES"},
		{[]string{"--forwarded-field", "Via"}, nil, "--forwarded-field"},
		{[]string{"--smtp-server", "127.0.0.1:1"}, nil, "URBANDATA_MAIL_FROM"},
		{[]string{"--smtp-server", "127.0.0.1:x", "--mail-from", "a@ejemplo.example"}, nil, "URBANDATA_SMTP_SERVER"},
		{[]string{"--smtp-server", "smtp://a:hunter2@h", "--mail-from", "a@ejemplo.example"}, nil, "URBANDATA_SMTP_SERVER"},
		{[]string{"--smtp-server", "127.0.0.1:1", "--mail-from", "nobody"}, nil, "--mail-from"},
		{append(smtp, "--smtp-username", "x"), nil, "URBANDATA_SMTP_PASSWORD"},
		{smtp, map[string]string{envSMTPPassword: "hunter2"}, "URBANDATA_SMTP_USERNAME"},
		{append(smtp, "--smtp-username", "x", "--smtp-tls", "off"), map[string]string{envSMTPPassword: "hunter2"}, "without TLS"},
		{append(smtp, "--smtp-ca-file", notList), nil, "URBANDATA_SMTP_CA_FILE"},
	} {
		env := map[string]string{envSealingKey: keys.GenerateSealingKey().Encode()}
		for name, value := range tc.env {
			env[name] = value
		}
		p := newProgram(t, env, append([]string{"authserver", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--database", "sqlite:" + dir + "/a.db"}, tc.args...)...)
		if code := run(p.program); code != exitSetting {
			t.Errorf("%v: exit code %d, want 2: %s", tc.args, code, p.err)
		}
		if text := p.err.String(); !strings.Contains(text, tc.says) || strings.Contains(text, "hunter2") {
			t.Errorf("%v: %s, should say %s and nothing secret", tc.args, text, tc.says)
		}
	}
}

func TestUsersImport(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "users.csv")
	if err := os.WriteFile(path, []byte("email,roles\nana@ejemplo.example,admin\nnobody,user\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{[]string{path}, exitFailed, "", "line 3: email must be an e-mail address, name@domain\nurbandata: nothing was imported: 1 users won't do"},
		{[]string{"--skip", "--dry-run", path}, exitOK, "would import 1 users (1 admin, 0 disabled, 1 without a usable password), skipped 1\n", "line 3"},
		{[]string{"--skip", path}, exitOK, "imported 1 users", "line 3"},
		{[]string{"--skip", path}, exitOK, "imported 0 users", "line 2: email is taken"},
		{[]string{"-"}, exitSetting, "", "--format"},
		{[]string{"--format", "django", "-"}, exitFailed, "", "JSON array"},
		{[]string{filepath.Join(dir, "none.csv")}, exitSetting, "", "FILE"},
	} {
		p := newProgram(t, nil, append([]string{"users", "import", "--data-dir", dir}, tc.args...)...)
		if code := run(p.program); code != tc.code || !strings.Contains(p.out.String(), tc.stdout) || !strings.Contains(p.err.String(), tc.stderr) {
			t.Errorf("%v: exit code %d\n%s%s", tc.args, code, p.out, p.err)
		}
	}
}
