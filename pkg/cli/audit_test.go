package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urbandata/urbandata/pkg/cli/database"
)

// What the commands do to users and clients is in the audit, with who ran
// them; it is exported and verified, and what was tampered with is named.
func TestAudit(t *testing.T) {
	dir := t.TempDir()
	url := "sqlite:" + filepath.Join(dir, "authn.db")
	command := func(input string, code int, args ...string) *testProgram {
		t.Helper()
		p := newProgram(t, map[string]string{"URBANDATA_AUTH_DATABASE": url}, args...)
		p.stdin = strings.NewReader(input)
		if got := run(p.program); got != code {
			t.Fatalf("%v: exit code %d, want %d: %s%s", args, got, code, p.out, p.err)
		}
		return p
	}
	const password = "una frase larga y mia\n"
	id := strings.TrimSpace(command(password, 0, "users", "create", "--role", "admin", "ana@ejemplo.example").out.String())
	command("", 0, "users", "set-roles", "--role", "editor", "--role", "viewer", "ana@ejemplo.example")
	command("", 0, "users", "disable", "ana@ejemplo.example")
	command("", 0, "users", "enable", "ana@ejemplo.example")
	command("", 0, "users", "delete", "ana@ejemplo.example")
	command(password, 0, "users", "set-password", "ana@ejemplo.example")
	command("", 0, "clients", "create", "report", "--scope", "inmuebles:read")
	command("", 0, "audiences", "create", "maps")

	all := command("", 0, "audit", "export")
	actions := []string{"user.created", "user.roles_changed", "user.disabled", "user.enabled", "user.deleted", "password.set", "client.created", "audience.created"}
	lines := strings.Split(strings.TrimSpace(all.out.String()), "\n")
	if len(lines) != len(actions) {
		t.Fatalf("%d entries, want %d:\n%s", len(lines), len(actions), all.out)
	}
	for i, want := range actions {
		if !strings.Contains(lines[i], `"action":"`+want+`"`) || !strings.Contains(lines[i], `"actor":"operator `+operator()+`"`) {
			t.Errorf("entry %d is %s, want %s by %s", i+1, lines[i], want, operator())
		}
		if strings.Contains(lines[i], "ejemplo") || strings.Contains(lines[i], "frase") {
			t.Errorf("it has an address or a password: %s", lines[i])
		}
	}
	head := strings.TrimPrefix(strings.TrimSpace(all.err.String()), "head ")

	for _, tc := range []struct {
		args string
		want int
	}{
		{"--subject " + id, 6},
		{"--action user.disabled", 1},
		{"--since 2020-01-01 --until 2020-01-02T00:00:00Z", 0},
		{"--since 2020-01-01", 8},
		{"--actor nobody", 0},
		{"--after " + head, 0},
		{"--log keys", 0},
	} {
		if got := strings.Count(command("", 0, append([]string{"audit", "export"}, strings.Fields(tc.args)...)...).out.String(), "\n"); got != tc.want {
			t.Errorf("%s: %d entries, want %d", tc.args, got, tc.want)
		}
	}
	if says := command("", 0, "audit", "verify", "--head", head).out.String(); !strings.Contains(says, "8 entries are as they were written\nhead "+head) {
		t.Errorf("it says %s", says)
	}
	command(all.out.String(), 0, "audit", "verify", "-")
	command("", 0, "audit", "verify", "--log", "keys")

	file := filepath.Join(dir, "audit.ndjson")
	for name, forged := range map[string]string{
		"entry 2 isn't what was written": strings.Replace(all.out.String(), `"editor"`, `"user"`, 1),
		"after entry 3 comes entry 5":    strings.Replace(all.out.String(), lines[3]+"\n", "", 1),
		"after entry 0 comes entry 8":    lines[7] + "\n",
	} {
		if err := os.WriteFile(file, []byte(forged), 0o600); err != nil {
			t.Fatal(err)
		}
		if says := command("", exitBroken, "audit", "verify", file).out.String(); !strings.Contains(says, name) {
			t.Errorf("it says %s, want %s", says, name)
		}
	}
	db, err := database.OpenSQL(t.Context(), url, database.Full)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Write.Exec("DROP TRIGGER audit_no_delete; DELETE FROM audit_entries WHERE log = 'accounts' AND seq = 5"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if says := command("", exitBroken, "audit", "verify", "--json").out.String(); !strings.Contains(says, `"intact":false`) || !strings.Contains(says, "after entry 4 comes entry 6") {
		t.Errorf("it says %s", says)
	}

	for _, args := range []string{
		"verify --head x", "verify --after 1:00", "verify --after " + head, "verify " + dir + "/none", "export --since yesterday", "export --until 7",
		"export --after x", "export --log x", "export --limit 1",
	} {
		if says := command("", exitSetting, append([]string{"audit"}, strings.Fields(args)...)...).err.String(); !strings.HasPrefix(says, "urbandata: ") {
			t.Errorf("%s: it says %s", args, says)
		}
	}
	for _, args := range []string{"set-roles --role root ana@ejemplo.example", "set-roles ana@ejemplo.example", "delete --deletion-grace 1s ana@ejemplo.example"} {
		command("", exitSetting, append([]string{"users"}, strings.Fields(args)...)...)
	}
	for _, args := range []string{"set-roles --role user nadie@ejemplo.example", "enable nadie@ejemplo.example", "delete nadie@ejemplo.example"} {
		if says := command("", exitFailed, append([]string{"users"}, strings.Fields(args)...)...).err.String(); !strings.Contains(says, "no user with this address") {
			t.Errorf("%s: it says %s", args, says)
		}
	}
}
