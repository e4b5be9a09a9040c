package authserver

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/urbandata/urbandata/pkg/cli/database"
)

func djangoDump() string {
	user := func(model, pk, email, more string) string {
		return fmt.Sprintf(`{"model":%q,"pk":%s,"fields":{"email":%q,"password":%q,"first_name":"Ana","last_name":"Gil",
			"date_joined":"2021-03-04T05:06:07.089Z","groups":[1],"user_permissions":[]%s}}`, model, pk, email, djangoHashes["pbkdf2, small"], more)
	}
	return "\ufeff[" + strings.Join([]string{
		`{"model":"auth.permission","pk":1,"fields":{"name":"Can add"}}`,
		`{"model":"auth.permission","pk":2,"fields":{"name":"Can change"}}`,
		user("users.user", "1", "ana@ejemplo.example", `,"company":"Casas","is_superuser":true`),
		user("users.user", `"c0ffee"`, "Eva@ejemplo.example", `,"is_active":false`),
		`{"model":"users.user","pk":3,"fields":{"email":"luz@ejemplo.example","password":"!x8V5d0Y88R1MzVRab8U6VtIgrFOeisjrPy2wnR0X"}}`,
		`{"model":"sessions.session","pk":"x","fields":{}}`,
	}, ",\n") + "]"
}

func TestImportDjango(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		load := func(text string, o ImportOptions) (*ImportReport, error) {
			o.Format = ImportDjango
			return a.accounts.Import(t.Context(), strings.NewReader(text), o)
		}
		count := func(want int) {
			t.Helper()
			if users, err := a.accounts.List(t.Context(), "", 100); err != nil || len(users) != want {
				t.Fatalf("%d users are stored, want %d (%v)", len(users), want, err)
			}
		}
		r, err := load(djangoDump(), ImportOptions{DryRun: true})
		if err != nil || r.Imported != 3 {
			t.Errorf("dry run: %+v, %v", r, err)
		}
		count(0)
		r, err = load(djangoDump(), ImportOptions{})
		if err != nil || r.Imported != 3 || r.Admins != 1 || r.Disabled != 1 || r.WithoutPassword != 1 || len(r.Bad) != 0 ||
			r.Other["auth.permission"] != 2 || r.Other["sessions.session"] != 1 {
			t.Errorf("%+v, %v", r, err)
		}
		users, err := a.accounts.List(t.Context(), "", 10)
		if err != nil || len(users) != 3 {
			t.Fatal(users, err)
		}
		ana := users[0]
		if ana.Company != "Casas" || ana.FirstName != "Ana" || !ana.CreatedAt.Equal(time.Date(2021, 3, 4, 5, 6, 7, 89e6, time.UTC)) ||
			fmt.Sprint(ana.Roles) != "[admin]" || !ana.Verified || ana.Disabled || users[1].Email != "Eva@ejemplo.example" || !users[1].Disabled {
			t.Errorf("%+v", users)
		}
		a.must(200, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": djangoPassword})
		for _, email := range []string{"eva@ejemplo.example", "luz@ejemplo.example"} {
			a.must(401, "POST", "/authn/token", "", member{"email": email, "password": djangoPassword})
		}

		// Once more: all are taken, and nothing is stored.
		if r, err = load(djangoDump(), ImportOptions{}); !errors.Is(err, ErrImport) || len(r.Bad) != 3 || r.Bad[0].Where != "object 3 (users.user 1)" || r.Bad[0].Reason != "email is taken" {
			t.Errorf("again: %+v, %v", r, err)
		}
		mixed := `[{"model":"users.user","pk":7,"fields":{"email":"new@ejemplo.example","password":"!"}},
			{"model":"users.user","pk":8,"fields":{"email":"NEW@ejemplo.example","password":"!"}},
			{"model":"users.user","pk":9,"fields":{"email":"","password":"!"}},
			{"model":"users.user","pk":10,"fields":{"email":"a@ejemplo.example","password":"md5$salt$0123456789"}},
			{"model":"users.user","pk":11,"fields":{"email":"b@ejemplo.example","password":"!","first_name":"a\u0000b","date_joined":"yesterday"}},
			{"model":"users.user","pk":12,"fields":{"email":7,"password":"!"}},
			{"model":"users.user","pk":13,"fields":{"email":"c@ejemplo.example","password":"pbkdf2_sha256$1000$a\u0000b$toMkxz2QtViXwEVKDite2M2m/XfJYZnP3q9fbBcLblY="}}]`
		if r, err = load(mixed, ImportOptions{}); !errors.Is(err, ErrImport) || len(r.Bad) != 6 {
			t.Errorf("mixed: %+v, %v", r, err)
		}
		count(3)
		r, err = load(mixed, ImportOptions{SkipBad: true})
		if err != nil || r.Imported != 1 {
			t.Errorf("skipping: %+v, %v", r, err)
		}
		for i, want := range []string{"email is taken", "email must be", "(md5)", "created_at must be", "email is not of the type", "format"} {
			if !strings.Contains(r.Bad[i].Reason, want) {
				t.Errorf("fault %d is %+v, want %s", i, r.Bad[i], want)
			}
		}
		count(4)

		for _, text := range []string{"", "x", "{}", "[", "[1]", `[{"model":"users.user","pk":1,"fields":{"email":"z@ejemplo.example","password":"!"}}`, `[{"model":"users.user","pk":1,"fields":{"email":"z@ejemplo.example","password":"!"}},{]`} {
			if r, err := load(text, ImportOptions{SkipBad: true}); err == nil || errors.Is(err, ErrImport) {
				t.Errorf("%q: %+v, %v", text, r, err)
			}
		}
		count(4)
	})
}

func TestImportCSV(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		load := func(text string, o ImportOptions) (*ImportReport, error) {
			o.Format = ImportCSV
			return a.accounts.Import(t.Context(), strings.NewReader(text), o)
		}
		const header = "email,password_hash,first_name,last_name,company,language,roles,created_at,disabled\r\n"
		good := header + "ana@ejemplo.example," + djangoHashes["scrypt, small"] + ",Ana,\"Gil, de\nX\",Casas,es,viewer editor,2020-01-02T03:04:05Z,false\r\n"
		if r, err := load("\ufeff"+good, ImportOptions{}); !errors.Is(err, ErrImport) || !strings.Contains(r.Bad[0].Reason, "last_name must not have control") {
			t.Errorf("a name of two lines: %+v, %v", r, err)
		}
		good = strings.ReplaceAll(good, "\nX", "")
		if r, err := load(good, ImportOptions{}); err != nil || r.Imported != 1 {
			t.Fatalf("%+v, %v", r, err)
		}
		a.must(200, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": djangoPassword})
		bad := header + "b@ejemplo.example,,,,,fr,king,2020,maybe\nc@ejemplo.example,,,,,,,,\nd\xff@ejemplo.example,,,,,,,,\ne@ejemplo.example,!\xff,,,,,,,\n"
		r, err := load(bad, ImportOptions{SkipBad: true})
		if err != nil || r.Imported != 1 || len(r.Bad) != 3 || r.Bad[0].Where != "line 2" || !strings.Contains(r.Bad[0].Reason, "disabled") {
			t.Errorf("%+v, %v", r, err)
		}
		for name, text := range map[string]string{
			"nothing": "", "no email": "first_name\nx\n", "unknown column": "email,password\nx,y\n", "twice": "email,email\nx,y\n",
			"short line": "email,roles\nx@ejemplo.example\n", "open quote": "email\n\"x@ejemplo.example\n",
		} {
			if r, err := load(text, ImportOptions{}); err == nil || errors.Is(err, ErrImport) {
				t.Errorf("%s: %+v, %v", name, r, err)
			}
		}
		if users, err := a.accounts.List(t.Context(), "", 100); err != nil || len(users) != 2 {
			t.Errorf("%d users are stored, want 2 (%v)", len(users), err)
		}
	})
}

func FuzzImport(f *testing.F) {
	f.Add(djangoDump())
	f.Add("email,roles,disabled\nana@ejemplo.example,admin,false\n")
	a := NewAccounts(nil, AccountsOptions{})
	f.Fuzz(func(t *testing.T, text string) {
		for _, in := range []func(yield func(*imported, error) bool){readDjango(strings.NewReader(text)), readCSV(strings.NewReader(text))} {
			for u, err := range in {
				if err != nil {
					break
				}
				if u.model != "" {
					continue
				}
				row, err := a.importedRow(u)
				if err == nil && (row.Email == "" || strings.ContainsRune(row.PasswordHash, 0) || row.Roles == "") {
					t.Errorf("taken: %+v", row)
				} else if err != nil && faultOf(err) == "" {
					t.Errorf("no reason is given: %v", err)
				}
			}
		}
	})
}
