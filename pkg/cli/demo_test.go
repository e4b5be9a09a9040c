package cli

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDemo: 500 inmuebles the first time, and no more at the next start.
func TestDemo(t *testing.T) {
	url := apiFile(t.TempDir())
	for range 2 {
		if err := seedDemo(t.Context(), url); err != nil {
			t.Fatal(err)
		}
		p := newProgram(t, map[string]string{envAPIDatabase: url}, "export", "--format", "ndjson")
		if code := run(p.program); code != exitOK || strings.Count(p.out.String(), "\n") != demoSize {
			t.Fatalf("exit code %d, %d lines: %s", code, strings.Count(p.out.String(), "\n"), p.err)
		}
	}
}

// TestExportFilter: the API's filters.
func TestExportFilter(t *testing.T) {
	url := apiFile(t.TempDir())
	if err := seedDemo(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	p := newProgram(t, map[string]string{envAPIDatabase: url}, "export", "--filter", "listing_type=2&order=date.desc")
	if code := run(p.program); code != exitOK {
		t.Fatalf("exit code %d: %s", code, p.err)
	}
	if n := strings.Count(p.out.String(), "\n") - 1; n < 100 || n > 300 {
		t.Errorf("%d of %d are for rent", n, demoSize)
	}
}

// TestImportSettings: values that mean nothing are refused by name.
func TestImportSettings(t *testing.T) {
	env := map[string]string{envAPIDatabase: apiFile(t.TempDir())}
	for _, args := range [][]string{
		{"import", "--batch", "-1", "-"},
		{"import", "--from", "-1", "-"},
		{"import", "--on-duplicate", "maybe", "-"},
		{"import", "--rejects", filepath.Join(t.TempDir(), "none", "x"), "-"},
		{"import", filepath.Join(t.TempDir(), "none.csv")},
		{"seed", "0"},
		{"export", "--filter", "surface=1"},
	} {
		if p := newProgram(t, env, args...); run(p.program) != exitSetting {
			t.Errorf("%q: %s", args, p.err)
		}
	}
}

// TestProgressLines: where there is no terminal, a line now and then.
func TestProgressLines(t *testing.T) {
	p := newProgram(t, nil)
	g := newProgress(p.program, 1000)
	g.rows(1000)
	if p.err.Len() > 0 {
		t.Errorf("at once: %s", p.err)
	}
	g.read = 250
	g.told, g.begun = time.Now().Add(-2*progressEvery), time.Now().Add(-2*progressEvery)
	g.rows(5000)
	if got := p.err.String(); !strings.Contains(got, "5000 rows, 2") || !strings.Contains(got, "rows/s, 25 % read, about 1m0s to go") {
		t.Errorf("%s", got)
	}
}
