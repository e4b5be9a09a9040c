package cli

import (
	"strings"
	"testing"

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
