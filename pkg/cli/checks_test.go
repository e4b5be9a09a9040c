package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/urbandata/urbandata/test/engines"
)

// TestInmueblesChecks: on both engines, what the command sets it finds.
func TestInmueblesChecks(t *testing.T) {
	for name, url := range map[string]func(testing.TB) string{"SQLite": engines.SQLiteURL, "MongoDB": engines.MongoURL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := map[string]string{envAPIDatabase: url(t)}
			for _, tt := range []struct{ args, want string }{
				{"", "checks: off"}, {"warn", "checks: warn"}, {"", "checks: warn"}, {"error", "checks: error"}, {"off", "checks: off"}, {"", "inmueble: 0\n"},
			} {
				p := newProgram(t, env, append([]string{"inmuebles", "checks"}, strings.Fields(tt.args)...)...)
				if code := run(p.program); code != exitOK || !strings.Contains(p.out.String(), tt.want) {
					t.Errorf("%q: exit code %d, %q: %s%s", tt.args, code, tt.want, p.out, p.err)
				}
			}
			if p := newProgram(t, env, "inmuebles", "checks", "maybe"); run(p.program) != exitSetting {
				t.Errorf("maybe: %s%s", p.out, p.err)
			}
		})
	}
}

// TestImportLimits: values that mean nothing are refused by name.
func TestImportLimits(t *testing.T) {
	for want, f := range map[string]inmueblesFlags{
		"--import-max-mb": {ImportMaxMB: 0, ImportKeep: time.Hour},
		"--import-keep":   {ImportMaxMB: 1, ImportKeep: time.Second},
	} {
		if _, err := f.limits(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want it to name %s", err, want)
		}
	}
	if l, err := (&inmueblesFlags{ImportMaxMB: 2, ImportKeep: time.Hour}).limits(); err != nil || l.MaxBytes != 2<<20 || l.Keep != time.Hour {
		t.Errorf("%+v %v", l, err)
	}
}
