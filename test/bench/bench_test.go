package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// events is the output of a run as `go test -json` has it: a result may be in
// two events, and other programs print in between.
func events(pkg string, outputs ...string) string {
	var b strings.Builder
	b.WriteString("engines: PostgreSQL\n")
	for _, text := range outputs {
		line, _ := json.Marshal(map[string]string{"Action": "output", "Package": module + pkg, "Output": text})
		b.Write(append(line, '\n'))
	}
	return b.String()
}

func TestReport(t *testing.T) {
	const allocs = "BenchmarkVerify/EdDSA/pkg-verify-2  \t     100\t 52000 ns/op\t 1.02 x/raw\t 12.00 allocs/ours\n"
	for _, tc := range []struct {
		name         string
		in           string
		short, whole bool
		kept         bool
		want         string
	}{
		{"in two events", events("authserver", "BenchmarkJWKS-2   \t", "  100\t  900 ns/op\t 1.01 x/bare-mux\n"), false, false, true, "1.01"},
		{"the median counts", events("authserver",
			"BenchmarkJWKS-2\t1\t9 ns/op\t9.9 x/bare-mux\n", "BenchmarkJWKS-2\t1\t9 ns/op\t1.02 x/bare-mux\n", "BenchmarkJWKS-2\t1\t9 ns/op\t1.00 x/bare-mux\n"), false, false, true, "1.02"},
		{"within noise", events("authserver", "BenchmarkJWKS\t1\t9 ns/op\t1.12 x/bare-mux\n"), false, false, true, "within noise"},
		{"missed", events("authserver", "BenchmarkJWKS\t1\t9 ns/op\t1.30 x/bare-mux\n"), false, false, false, "MISSED"},
		{"missed in a short run", events("authserver", "BenchmarkJWKS\t1\t9 ns/op\t1.30 x/bare-mux\n"), true, false, true, "missed (only told)"},
		{"allocations in a short run", events("pkg/verify", allocs), true, false, false, "MISSED"},
		{"too slow a load", events("resourceserver", "BenchmarkLoad/MongoDB-2\t1\t9 ns/op\t0.5 x/floor\n"), false, false, false, "MISSED"},
		{"a load above its target", events("resourceserver", "BenchmarkLoad/MongoDB-2\t1\t9 ns/op\t1.5 x/floor\n"), false, false, true, "1.5"},
		{"some not measured", events("authserver", "BenchmarkJWKS\t1\t9 ns/op\t1.00 x/bare-mux\n"), false, true, false, "not measured"},
		{"a test failed", events("authserver", "BenchmarkJWKS\t1\t9 ns/op\t1.00 x/bare-mux\n") + `{"Action":"fail","Package":"` + module + `authserver","Test":"BenchmarkGrants"}`, false, false, false, "FAILED: " + module + "authserver BenchmarkGrants"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			kept, err := report(strings.NewReader(tc.in), &out, filepath.Join(t.TempDir(), "bench.json"), tc.short, tc.whole)
			if err != nil {
				t.Fatal(err)
			}
			if kept != tc.kept || !strings.Contains(out.String(), tc.want) {
				t.Errorf("kept %v, want %v with %q in\n%s", kept, tc.kept, tc.want, out.String())
			}
		})
	}
}

func TestNothingMeasured(t *testing.T) {
	if _, err := report(strings.NewReader("no benchmark\n"), &bytes.Buffer{}, filepath.Join(t.TempDir(), "x"), false, false); err == nil {
		t.Error("a run without a benchmark is good")
	}
}

// The file is for other programs: name, unit, measured, target, ok of each.
func TestFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bench.json")
	if _, err := report(strings.NewReader(events("authserver", "BenchmarkJWKS\t1\t9 ns/op\t1.01 x/bare-mux\n")), &bytes.Buffer{}, file, false, false); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var rows []map[string]any
	if err := json.Unmarshal(text, &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != len(promises) {
		t.Fatalf("%d rows of %d", len(rows), len(promises))
	}
	for _, r := range rows {
		if len(r) != 5 {
			t.Errorf("members of %v", r)
		}
		if r["name"] == "JWKS" && (r["measured"] != 1.01 || r["target"] != 1.05 || r["ok"] != true || r["unit"] != "x/bare-mux") {
			t.Errorf("JWKS: %v", r)
		}
		if r["name"] == "JWKS, 304" && (r["measured"] != nil || r["ok"] != false) {
			t.Errorf("what wasn't measured: %v", r)
		}
	}
}
