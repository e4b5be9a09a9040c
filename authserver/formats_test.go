package authserver

import (
	"crypto/sha1"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/urbandata/urbandata/pkg/cli/database"
)

// djangoHashes were made by Django 5.2 of "contraseña ﬁna", with a ligature.
var djangoHashes = map[string]string{
	"argon2":           "argon2$argon2id$v=19$m=102400,t=2,p=8$YmJ2SzVWbGliSGY0S2c5dTVaR0dVRw$K+5x4ygguHrtPg28m/W6FIX0s4GJb0uCW6RqyfAiFSo",
	"bcrypt_sha256":    "bcrypt_sha256$$2b$12$UIoeDMLhR56GFnfkF7Aawe175r/hBoEgj/iMiic0m5LgBmAwVjz8e",
	"bcrypt_sha256, 5": "bcrypt_sha256$$2b$05$KREGrJhiPlNA3p5b4s3Xx.67AJqGtXclZXKHcNsNWu0o0mt/3fwFK",
	"scrypt":           "scrypt$16384$t1kk0LzFkB5GuxAXX8Yuvs$8$5$aVtwWiePILGW/F5qit1XOcPLU0rczXEZydPFCxK1fgmfQX3bV8jlMHkkMFEdXtRZxLFSMcyBQ/cmmXd6y/kgxg==",
	"scrypt, small":    "scrypt$1024$salt$8$5$VDb8a4S8ebIbLUleLh9WTz7DsR6t77SM9XS+OsaxwOHtxxL7WKutmchqLfcjuvDNMLRKheiLcPQRzKv3grs8Jw==",
	"pbkdf2_sha256":    "pbkdf2_sha256$1000000$saltysalt$zn8M8+DNM9k1WPn+S4EpBsSakqfoOGPaW9llo4ykpRg=",
	"pbkdf2, small":    "pbkdf2_sha256$1000$saltysalt$toMkxz2QtViXwEVKDite2M2m/XfJYZnP3q9fbBcLblY=",
}

const djangoPassword = "contraseña ﬁna"

func TestDjangoFormats(t *testing.T) {
	h := newHasher()
	for name, stored := range djangoHashes {
		for password, want := range map[string]bool{djangoPassword: true, "contraseña fina": false, "": false} {
			ok, outdated, err := h.verify(t.Context(), stored, password)
			if err != nil || ok != want || outdated != want {
				t.Errorf("%s with %q: %v, outdated %v, %v", name, password, ok, outdated, err)
			}
		}
	}
	if ok, _, err := h.verify(t.Context(), "!8V5d0Y88R1MzVRab8U6VtIgrFOeisjrPy2wnR0Xy", "!8V5d0Y88R1MzVRab8U6VtIgrFOeisjrPy2wnR0Xy"); ok || err != nil {
		t.Errorf("an unusable password: %v, %v", ok, err)
	}
}

func TestParseHashRefuses(t *testing.T) {
	sum := djangoHashes["pbkdf2, small"][len("pbkdf2_sha256$1000$saltysalt$"):]
	long := djangoHashes["scrypt, small"][len("scrypt$1024$salt$8$5$"):]
	for _, stored := range []string{
		"plain", "md5$salt$hash", "pbkdf2_sha1$1000$salt$" + sum, "$2b$05$KREGrJhiPlNA3p5b4s3Xx.67AJqGtXclZXKHcNsNWu0o0mt/3fwFK",
		"pbkdf2_sha256$", "pbkdf2_sha256$0$salt$" + sum, "pbkdf2_sha256$10000001$salt$" + sum, "pbkdf2_sha256$x$salt$" + sum,
		"pbkdf2_sha256$1000$$" + sum, "pbkdf2_sha256$1000$salt$AAAA", "pbkdf2_sha256$1000$salt$" + sum + "$x",
		"bcrypt_sha256$", "bcrypt_sha256$$2b$16$UIoeDMLhR56GFnfkF7Aawe175r/hBoEgj/iMiic0m5LgBmAwVjz8e", "bcrypt_sha256$$2b$05$x",
		"scrypt$", "scrypt$1000$salt$8$1$" + long, "scrypt$1048576$salt$64$1$" + long, "scrypt$1024$salt$0$1$" + long, "scrypt$1024$salt$8$1$AAAA",
		"argon2$", "argon2$argon2d$v=19$m=512,t=2,p=2$c29tZXNhbHQ$PvgvyXZuGRAsC0j+a8rKgrzpKnb6EDcjgqIbYNDJwHk",
		"argon2$argon2id$v=19$m=9999999,t=2,p=8$c29tZXNhbHQ$PvgvyXZuGRAsC0j+a8rKgrzpKnb6EDcjgqIbYNDJwHk",
	} {
		if _, err := parseHash(stored); !errors.Is(err, errHashFormat) {
			t.Errorf("%q: %v, want errHashFormat", stored, err)
		}
	}
}

func FuzzParseHash(f *testing.F) {
	for _, stored := range djangoHashes {
		f.Add(stored)
	}
	f.Fuzz(func(t *testing.T, stored string) {
		if h, err := parseHash(stored); err == nil && (h.matches == nil || h.memory > maxHashMemory) {
			t.Errorf("%q gets past the bounds", stored)
		}
	})
}

// Imported users log in with the password they had, also many at once, and
// afterwards have a hash of ours.
func TestRehash(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		store := func(email, hash string) {
			if err := a.store.insertUser(t.Context(), &userRow{ID: uuid.NewString(), Email: email, EmailKey: email, PasswordHash: hash, Roles: "user"}, nil); err != nil {
				t.Fatal(err)
			}
		}
		store("ana@ejemplo.example", djangoHashes["pbkdf2, small"])
		store("eva@ejemplo.example", djangoHashes["scrypt, small"])
		hash := func(email string) string {
			u, err := a.store.findUser(t.Context(), email)
			if err != nil {
				t.Fatal(err)
			}
			return u.PasswordHash
		}
		a.must(401, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": testPassword})
		if hash("ana@ejemplo.example") != djangoHashes["pbkdf2, small"] {
			t.Error("a failed login changed the hash")
		}
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				a.must(200, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": djangoPassword})
			})
		}
		wg.Wait()
		if got := hash("ana@ejemplo.example"); !strings.HasPrefix(got, fmt.Sprintf("$argon2id$v=19$m=%d,t=%d,p=1$", hashParams.memory, hashParams.time)) {
			t.Errorf("afterwards the hash is %s", got)
		}
		a.must(200, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": djangoPassword})
		// From now on it is normalised, as all are.
		a.must(200, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": "contraseña fina"})

		// Nobody's address is before Eva's: what she has is computed for it.
		a.must(401, "POST", "/authn/token", "", member{"email": "dana@ejemplo.example", "password": djangoPassword})
		a.must(401, "POST", "/authn/token", "", member{"email": "zoe@ejemplo.example", "password": djangoPassword})
		a.must(401, "POST", "/authn/token", "", member{"email": "eva\x00@ejemplo.example", "password": djangoPassword})
		if hash("eva@ejemplo.example") != djangoHashes["scrypt, small"] {
			t.Error("a login of somebody else changed the hash")
		}
	})
}

func TestBreachedList(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 1000} {
		for _, end := range []string{"\n", "\r\n", ":17\r\n"} {
			var lines, in []string
			for i := range n {
				in = append(in, fmt.Sprintf("password %d", i))
				count := ""
				if end == ":17\r\n" {
					count = fmt.Sprint(":", rand.IntN(10_000_000))
				}
				lines = append(lines, fmt.Sprintf("%X%s%s", sha1.Sum([]byte(in[i])), count, strings.TrimPrefix(end, ":17")))
			}
			slices.Sort(lines)
			for _, text := range []string{strings.Join(lines, ""), strings.TrimRight(strings.Join(lines, ""), "\r\n")} {
				l, err := NewBreachedList(strings.NewReader(text), int64(len(text)))
				if err != nil {
					t.Fatal(n, err)
				}
				for _, p := range in {
					if has, err := l.has(p); !has || err != nil {
						t.Fatalf("%d lines: %q is not found, %v", n, p, err)
					}
				}
				for i := range 100 {
					if has, err := l.has(fmt.Sprint("other ", i)); has || err != nil {
						t.Fatalf("%d lines: found what isn't there, %v", n, err)
					}
				}
			}
		}
	}
	sorted := strings.Repeat(fmt.Sprintf("%040X:1\n", 7), 100) + strings.Repeat(fmt.Sprintf("%040X:1\n", 3), 100)
	for _, text := range []string{"", "x", "password\n", strings.Repeat("A", 39) + "\n", strings.Repeat("A", 500), sorted} {
		if _, err := NewBreachedList(strings.NewReader(text), int64(len(text))); !errors.Is(err, ErrBreachedList) {
			t.Errorf("%.50q: %v, want ErrBreachedList", text, err)
		}
	}
}

func TestBreachedPasswords(t *testing.T) {
	a := newSQLiteAuthn(t)
	text := fmt.Sprintf("%X:3\n", sha1.Sum([]byte(otherPassword)))
	list, err := NewBreachedList(strings.NewReader(text), int64(len(text)))
	if err != nil {
		t.Fatal(err)
	}
	a.accounts.options.Breached = list
	m := a.must(422, "POST", "/authn/register", "", member{"email": "ana@ejemplo.example", "password": otherPassword})
	if !strings.Contains(toJSON(m), "data breach") {
		t.Errorf("%v", m)
	}
	a.register("ana@ejemplo.example")
	access, _ := a.login("ana@ejemplo.example")
	a.must(422, "POST", "/authn/me/password", access, member{"current_password": testPassword, "new_password": otherPassword})
}
