package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestHelp: every command explains itself, with the variables of its settings.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ command, want string }{
		{"", "resourceserver"},
		{"up", "URBANDATA_DATA_DIR"},
		{"authserver", "URBANDATA_AUTH_DATABASE_FILE"},
		{"resourceserver", "URBANDATA_API_JWKS_URL"},
		{"migrate", "URBANDATA_API_DATABASE"},
		{"import", "id_uda"},
		{"users", "set-password"},
		{"users create", "URBANDATA_PASSWORD_FILE"},
		{"users list", "--json"},
		{"users set-password", "URBANDATA_PASSWORD_FILE"},
		{"users disable", "e-mail"},
		{"keys", "list"},
		{"keys list", "announced"},
		{"token", "inspect"},
		{"token inspect", "standard input"},
		{"version", "Print the version"},
	} {
		t.Run("urbandata "+tc.command, func(t *testing.T) {
			o := command(t, nil, "", append(strings.Fields(tc.command), "--help")...)
			if o.code != 0 || o.stderr != "" || !strings.HasPrefix(o.stdout, "Usage: urbandata "+tc.command) || !strings.Contains(o.stdout, tc.want) {
				t.Errorf("exit code %d, without %q: %s%s", o.code, tc.want, o.stdout, o.stderr)
			}
		})
	}
	if got := must(t, nil, "", "version"); !strings.HasPrefix(got, "urbandata ") || strings.Count(got, "\n") != 1 {
		t.Errorf("version: %s", got)
	}
}

// TestBanner: what `up` prints is at most ten lines, and does what it says when
// it is pasted into a shell.
func TestBanner(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Fatal("this test pastes what `up` prints, which takes curl: apt-get install curl")
	}
	in := embedded(t)
	in.ledger.secret("the banner's e-mail address", "ana@example.es")
	in.ledger.secret("the banner's password", "una frase larga y mia")
	s := in.start(nil)
	p := s.processes[0]
	var printed []string
	eventually(t, "the line with which one lists inmuebles", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		printed = slices.Clone(p.printed)
		return len(printed) > 0 && strings.HasSuffix(printed[len(printed)-1], s.api[0]+"/inmuebles")
	})
	if len(printed) > 10 {
		t.Errorf("it prints %d lines, want at most ten", len(printed))
	}
	script := printed[slices.IndexFunc(printed, func(line string) bool { return strings.HasPrefix(line, "#") }):]
	shell := exec.CommandContext(t.Context(), "sh", "-e", "-c", strings.Join(script, "\n"))
	shell.Env = settings{}.environ()
	out, err := shell.CombinedOutput()
	if err != nil || strings.Count(string(out), `"title":"Piso en Sol"`) != 2 {
		t.Errorf("pasted:\n%s\nit answers: %v\n%s", strings.Join(script, "\n"), err, out)
	}
	s.stop()
}

// TestMigrate: it makes the schema, and doing it again changes nothing.
func TestMigrate(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	first := must(t, nil, "", "migrate", "--data-dir", data)
	again := must(t, settings{"URBANDATA_DATA_DIR": data}, "", "migrate")
	if strings.Count(first, "applied") != 2 || strings.Count(again, "up to date") != 2 {
		t.Errorf("first %q, then %q", first, again)
	}
	if info, err := os.Stat(data); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the data folder: %v, %v, want mode 0700", info, err)
	}
	mongo := must(t, settings{"URBANDATA_API_DATABASE": "mongodb://127.0.0.1:1"}, "", "migrate")
	if !strings.Contains(mongo, "no migration") {
		t.Errorf("MongoDB: %q", mongo)
	}
}

// TestOperator: what an operator does on the command line while the services
// run, they know at once.
func TestOperator(t *testing.T) {
	everyWay(t, func(t *testing.T, in *installation) {
		c := in.client
		s := in.start(nil)
		auth, _ := s.auths()
		api, other := s.apis()
		db := settings{"URBANDATA_AUTH_DATABASE": in.authDatabase}

		boss, editor := c.newPerson(), c.newPerson()
		must(t, db, boss.password+"\n", "users", "create", boss.email, "--role", "admin", "--first-name", "Eva")
		passwordFile := file(t, editor.password+"\n")
		must(t, settings{"URBANDATA_AUTH_DATABASE": in.authDatabase, "URBANDATA_PASSWORD_FILE": passwordFile}, "", "users", "create", editor.email, "--role", "viewer")
		if o := command(t, db, boss.password+"\n", "users", "create", strings.ToUpper(boss.email)); o.code != 1 || !strings.Contains(o.stderr, "exists") {
			t.Errorf("the same user again: exit code %d, %s", o.code, o.stderr)
		}
		if o := command(t, db, "password\n", "users", "create", "x@ejemplo.example"); o.code != 1 {
			t.Errorf("a common password: exit code %d, %s", o.code, o.stderr)
		}
		emails := map[string]bool{}
		for line := range strings.Lines(must(t, db, "", "users", "list", "--json")) {
			var u struct{ Email string }
			if err := json.Unmarshal([]byte(line), &u); err != nil {
				t.Errorf("users list --json: %v: %s", err, line)
			}
			emails[strings.ToLower(u.Email)] = true
		}
		if len(emails) != 2 || !emails[strings.ToLower(boss.email)] {
			t.Errorf("users list: %v", emails)
		}

		admin, viewer := c.login(auth, boss), c.login(auth, editor)
		c.want(http.StatusForbidden, http.MethodPost, api+"/inmuebles", newInmueble(), bearer(viewer.Access))
		inspectToken(t, s, admin.Access)
		listKeys(t, in, s)

		rows := importTable(t, in, s)
		for _, id := range rows {
			c.want(http.StatusOK, http.MethodGet, other+"/inmuebles/"+id, nil, bearer(viewer.Access))
		}
		c.want(http.StatusNoContent, http.MethodDelete, api+"/inmuebles/"+rows[0], nil, bearer(admin.Access))

		changed := c.newPerson()
		must(t, db, changed.password, "users", "set-password", boss.email)
		c.want(http.StatusUnauthorized, http.MethodPost, auth+"/authn/token", object{"email": boss.email, "password": boss.password})
		c.want(http.StatusUnauthorized, http.MethodPost, auth+"/authn/token/refresh", object{"refresh": admin.Refresh})
		boss.password = changed.password
		c.login(auth, boss)
		must(t, db, "", "users", "disable", boss.email)
		c.want(http.StatusUnauthorized, http.MethodPost, auth+"/authn/token", object{"email": boss.email, "password": boss.password})
		if o := command(t, db, "", "users", "disable", "nobody@ejemplo.example"); o.code != 1 {
			t.Errorf("disable nobody: exit code %d, %s", o.code, o.stderr)
		}
		s.stop()
	})
}

// inspectToken: `token inspect` shows a token and tells a good one.
func inspectToken(t *testing.T, s *system, token string) {
	t.Helper()
	shown := must(t, nil, token+"\n", "token", "inspect")
	for _, want := range []string{`"alg": "EdDSA"`, `"typ": "at+jwt"`, `"aud": "inmuebles"`, issuer, "expires in", "not checked"} {
		if !strings.Contains(shown, want) {
			t.Errorf("token inspect doesn't show %s: %s", want, shown)
		}
	}
	verify := []string{"token", "inspect", "--issuer", issuer, "--jwks-url", s.auth[0] + "/.well-known/jwks.json"}
	if shown := must(t, nil, token, append(verify, file(t, token))...); !strings.Contains(shown, "verified") {
		t.Errorf("token inspect --issuer: %s", shown)
	}
	for what, o := range map[string]outcome{
		"another audience":    command(t, nil, token, append(verify, "--audience", "other")...),
		"a changed signature": command(t, nil, token[:len(token)-6]+"AAAAAA", verify...),
		"no token":            command(t, nil, "x", verify...),
	} {
		if o.code != 1 || strings.Contains(o.stderr, strings.Split(token, ".")[2]) {
			t.Errorf("token inspect with %s: exit code %d, %s", what, o.code, o.stderr)
		}
	}
}

// listKeys: `keys list` lists what the key set publishes.
func listKeys(t *testing.T, in *installation, s *system) {
	t.Helper()
	// First what is published: a key is stored before that.
	published := into[keySet](in.client.want(http.StatusOK, http.MethodGet, s.auth[0]+"/.well-known/jwks.json", nil))
	table := must(t, settings{"URBANDATA_AUTH_DATABASE": in.authDatabase}, "", "keys", "list")
	for _, k := range published.Keys {
		if !strings.Contains(table, str(k["kid"])) {
			t.Errorf("keys list doesn't have %s:\n%s", k["kid"], table)
		}
	}
	if signing := signingKeys(t, in); len(signing) != 2 || signing["EdDSA"] == "" || signing["RS256"] == "" {
		t.Errorf("keys list: signing are %v, want one for each algorithm", signing)
	}
}

// signingKeys are the ids of the keys that sign, by algorithm, as `keys list
// --json` has them.
func signingKeys(t *testing.T, in *installation) map[string]string {
	t.Helper()
	signing := map[string]string{}
	for line := range strings.Lines(must(t, settings{"URBANDATA_AUTH_DATABASE": in.authDatabase}, "", "keys", "list", "--json")) {
		var k struct{ Kid, Alg, State string }
		if err := json.Unmarshal([]byte(line), &k); err != nil || k.Kid == "" {
			t.Errorf("keys list --json: %v: %s", err, line)
		}
		if k.State != "signing" {
			continue
		}
		if signing[k.Alg] != "" {
			t.Errorf("two keys sign for %s", k.Alg)
		}
		signing[k.Alg] = k.Kid
	}
	return signing
}

// importTable imports files, good and bad, and returns the ids that are there.
func importTable(t *testing.T, in *installation, s *system) []string {
	t.Helper()
	const columns = "id_uda,id,coordinates,is_active,build_status,start_month,date_in,property_type,end_week,typology_type,listing_type,date,title\n"
	row := func(id, other, coordinates string) string {
		return id + "," + other + `,"` + coordinates + `",t,1,3,2020-01-15,1,12,2,1,2020-01-20,"Piso, con comas"` + "\n"
	}
	env := settings{"URBANDATA_API_DATABASE": in.apiDatabase}
	good := "\uFEFF" + columns + row("uda-1", "A-1", "-3.7,40.4") + row("uda-2", "null", "0,0") + row("uda-3", "B 3", "2.17,41.38")
	report := must(t, env, "", "import", file(t, good))
	if !strings.Contains(report, "3 rows read, 2 stored, 1 skipped") {
		t.Errorf("import: %s", report)
	}
	for what, tc := range map[string]struct{ text, want string }{
		"a bad row":       {columns + row("uda-4", "C4", "1,1") + row("uda-5", "D5", "1,91") + row("uda-6", "E6", "1,1"), "line 3: "},
		"a taken _id":     {columns + row("uda-7", "F7", "1,1") + row("uda-1", "G8", "1,1"), "line 3: id_uda"},
		"a missing value": {columns + "uda-9,H9\n", "line 2: "},
		"no header":       {row("uda-8", "H9", "1,1"), "first row"},
	} {
		o := command(t, env, tc.text, "import", "-")
		if o.code != 1 || !strings.Contains(o.stdout+o.stderr, tc.want) || !strings.Contains(o.stderr, "nothing was stored") {
			t.Errorf("import of %s: exit code %d, without %q: %s%s", what, o.code, tc.want, o.stdout, o.stderr)
		}
	}

	c := in.client
	p := c.newPerson()
	c.register(s.auth[0], p)
	token := bearer(c.login(s.auth[0], p).Access)
	m := into[object](c.want(http.StatusOK, http.MethodGet, s.api[0]+"/inmuebles/uda-1/", nil, token))
	if m["other_id"] != "A1" || m["x_coord"] != -3.7 || m["y_coord"] != 40.4 || m["is_active"] != true || m["title"] != "Piso, con comas" {
		t.Errorf("imported: %v", m)
	}
	c.want(http.StatusForbidden, http.MethodDelete, s.api[0]+"/inmuebles/uda-1", nil, token) // it is nobody's
	for _, id := range []string{"uda-2", "uda-4", "uda-5", "uda-6", "uda-7", "uda-9"} {
		c.want(http.StatusNotFound, http.MethodGet, s.api[0]+"/inmuebles/"+id, nil, token)
	}
	return []string{"uda-1", "uda-3"}
}
