package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDemo: 500 inmuebles the first time, and no more at the next start.
func TestDemo(t *testing.T) {
	url := apiFile(t.TempDir())
	for range 2 {
		if err := seedDemo(t.Context(), url, &catalogueFlag{}); err != nil {
			t.Fatal(err)
		}
		p := newProgram(t, map[string]string{envAPIDatabase: url}, "export", "--format", "ndjson")
		if code := run(p.program); code != exitOK || strings.Count(p.out.String(), "\n") != demoSize {
			t.Fatalf("exit code %d, %d lines: %s", code, strings.Count(p.out.String(), "\n"), p.err)
		}
	}
}

// TestSeedFitsTheCatalogue: what is made up has codes of the catalogue, by
// both ways to have it stored.
func TestSeedFitsTheCatalogue(t *testing.T) {
	file := filepath.Join(t.TempDir(), "codes.json")
	if err := os.WriteFile(file, []byte(`{"property_type": [{"code": 2}, {"code": 40}], "boundary_id": [{"code": -7}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, store := range map[string]func(url string) error{
		"demo": func(url string) error { return seedDemo(t.Context(), url, &catalogueFlag{file}) },
		"seed": func(url string) error {
			if p := newProgram(t, map[string]string{envAPIDatabase: url}, "seed", "500", "--catalogue", file); run(p.program) != exitOK {
				return errors.New(p.err.String())
			}
			return nil
		},
	} {
		url := apiFile(t.TempDir())
		if err := store(url); err != nil {
			t.Fatal(name, err)
		}
		counts := map[string]int{}
		for _, filter := range []string{"", "property_type=2", "property_type=40", "boundary_id=-7", "boundary_id=is.null"} {
			p := newProgram(t, map[string]string{envAPIDatabase: url}, "export", "--format", "ndjson", "--filter", filter)
			if run(p.program) != exitOK {
				t.Fatal(p.err)
			}
			counts[filter] = strings.Count(p.out.String(), "\n")
		}
		if counts["property_type=2"] == 0 || counts["property_type=40"] == 0 || counts[""] != 500 ||
			counts["property_type=2"]+counts["property_type=40"] != 500 || counts["boundary_id=-7"]+counts["boundary_id=is.null"] != 500 {
			t.Errorf("%s: %v", name, counts)
		}
	}
}

// TestExportFilter: the API's filters.
func TestExportFilter(t *testing.T) {
	url := apiFile(t.TempDir())
	if err := seedDemo(t.Context(), url, &catalogueFlag{}); err != nil {
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

// TestCatalogue: a draft of what is there, with which the same comes in, and
// nothing else.
func TestCatalogue(t *testing.T) {
	folder := t.TempDir()
	env := map[string]string{envAPIDatabase: apiFile(folder)}
	file, draft := filepath.Join(folder, "all.csv"), filepath.Join(folder, "catalogue.json")
	if err := seedDemo(t.Context(), env[envAPIDatabase], &catalogueFlag{}); err != nil {
		t.Fatal(err)
	}
	command := func(want int, says string, args ...string) {
		t.Helper()
		p := newProgram(t, env, args...)
		if code := run(p.program); code != want || !strings.Contains(p.out.String()+p.err.String(), says) {
			t.Errorf("%q: exit code %d, want %d and %q\n%s%s", args, code, want, says, p.out, p.err)
		}
	}
	command(exitOK, "500 exported", "export", file)
	command(exitOK, "is drafted", "import", "--dry-run", "--on-duplicate", "skip", "--infer-catalogue", draft, file)
	command(exitSetting, "new file", "import", "--dry-run", "--infer-catalogue", draft, file)
	command(exitOK, "500 were the same", "import", "--on-duplicate", "replace", "--catalogue", draft, file)
	command(exitSetting, "one of the two", "import", "--catalogue", draft, "--infer-catalogue", filepath.Join(folder, "x"), file)
	command(exitOK, "500 were the same", "import", "--on-duplicate", "replace", "--catalogue", filepath.Join("..", "..", "docs", "catalogue.json"), file)
	if err := os.WriteFile(draft, []byte(`{"listing_type":[{"code":1}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	command(exitFailed, "listing_type must be a code of the catalogue", "import", "--on-duplicate", "replace", "--catalogue", draft, file)
	command(exitFailed, "", "import", "--infer-catalogue", filepath.Join(folder, "none.json"), file) // they are there
	if _, err := os.Stat(filepath.Join(folder, "none.json")); err == nil {
		t.Error("a draft of an import that failed")
	}
	if err := os.WriteFile(draft, []byte(`{"surface":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	command(exitSetting, `"surface" is no field`, "resourceserver", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--catalogue", draft)
	command(exitSetting, "can't be read", "resourceserver", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--catalogue", filepath.Join(folder, "none.json"))
}
