package database

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKindOf(t *testing.T) {
	for _, tc := range []struct {
		url  string
		kind Kind
		want error
	}{
		{"sqlite:a.db", SQLite, nil},
		{"sqlite:/a/b.db", SQLite, nil},
		{"sqlite::memory:", SQLite, nil},
		{"postgres://host/db", Postgres, nil},
		{"postgresql://host/db", Postgres, nil},
		{"mongodb://host/db", MongoDB, nil},
		{"mongodb+srv://host/db", MongoDB, nil},
		{"", "", ErrURL},
		{"sqlite:", "", ErrURL},
		{"a.db", "", ErrURL},
		{"mysql://host/db", "", ErrURL},
		{"user:hunter2@host", "", ErrURL},
	} {
		kind, err := KindOf(tc.url)
		if kind != tc.kind || !errors.Is(err, tc.want) {
			t.Errorf("%q: %q, %v", tc.url, kind, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error repeats the URL: %v", err)
		}
	}
}

func TestHasPassword(t *testing.T) {
	for _, tc := range []struct {
		url  string
		want bool
	}{
		{"postgres://u:p@host/db", true},
		{"postgres://u:@host/db", true},
		{"postgres://host/db?password=x", true},
		{"postgres://host/db?sslpassword=x", true},
		{"mongodb://u:p@a,b,c/db?replicaSet=r", true},
		{"postgres://u:%zz@host/db", true},
		{"postgres://u@host/db", false},
		{"postgres://host/db", false},
		{"sqlite:/a@b.db", false},
	} {
		if got := HasPassword(tc.url); got != tc.want {
			t.Errorf("%q: %v, want %v", tc.url, got, tc.want)
		}
	}
}

func TestSQLite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new folder", "año %20?.db")
	db, err := OpenSQL(t.Context(), "sqlite:"+path, Full)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"} {
		var got string
		if err := db.Write.Get(&got, "PRAGMA "+pragma); err != nil || got != want {
			t.Errorf("%s is %q (%v), want %q", pragma, got, err, want)
		}
	}
	if _, err := db.Write.Exec("CREATE TABLE t (a INTEGER)"); err != nil {
		t.Error(err)
	}
	if _, err := db.Read.Exec("INSERT INTO t VALUES (1)"); err == nil {
		t.Error("the reading pool writes")
	}
}

func TestWrongKinds(t *testing.T) {
	if _, err := OpenSQL(t.Context(), "mongodb://host/db", Full); !errors.Is(err, ErrURL) {
		t.Errorf("OpenSQL: %v, want ErrURL", err)
	}
	if _, err := OpenMongo(t.Context(), "sqlite:a.db"); !errors.Is(err, ErrURL) {
		t.Errorf("OpenMongo: %v, want ErrURL", err)
	}
	_, err := OpenMongo(t.Context(), "mongodb://u:hunter2@host/?tls=maybe")
	if !errors.Is(err, ErrURL) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a bad option: %v, want ErrURL without the URL", err)
	}
}
