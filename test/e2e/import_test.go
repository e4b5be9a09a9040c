package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/urbandata/urbandata/test/engines"
)

// TestImportInterrupted ends an import in the middle, in good order and
// without asking. Afterwards nothing of it is there: the same import stores
// every row as new. That it was in the middle is seen on its pipe, which it
// has read further than it keeps in memory.
func TestImportInterrupted(t *testing.T) {
	const rows = 12_000
	row := func(i int) string {
		return fmt.Sprintf("u%d,A%d,\"-3.7,40.4\",t,1,3,2020-01-15,1,12,2,1,2020-01-20,%s\n", i, i, strings.Repeat("Piso con comas ", 30))
	}
	const header = "id_uda,id,coordinates,is_active,build_status,start_month,date_in,property_type,end_week,typology_type,listing_type,date,title\n"
	for name, url := range map[string]func(testing.TB) string{"SQLite": engines.SQLiteURL, "MongoDB": engines.MongoURL} {
		for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
			t.Run(fmt.Sprint(name, " ", signal), func(t *testing.T) {
				t.Parallel()
				env := settings{"URBANDATA_API_DATABASE": url(t)}
				ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
				defer cancel()
				cmd := exec.CommandContext(ctx, binary, "import", "-")
				cmd.Env, cmd.Dir = env.environ(), t.TempDir()
				stdin, err := cmd.StdinPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				_, err = io.WriteString(stdin, header)
				for i := 0; i < rows && err == nil; i++ {
					_, err = io.WriteString(stdin, row(i))
				}
				if err != nil {
					t.Fatalf("the import ended by itself: %v", err)
				}
				if err := cmd.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
				err = cmd.Wait()
				var exit *exec.ExitError
				if !errors.As(err, &exit) || signal == syscall.SIGINT && exit.ExitCode() != 1 {
					t.Fatalf("interrupted: %v", err)
				}

				var whole strings.Builder
				whole.WriteString(header)
				for i := range rows {
					whole.WriteString(row(i))
				}
				report := must(t, env, "", "import", file(t, whole.String()))
				if want := fmt.Sprintf("%d rows read, %d stored", rows, rows); !strings.Contains(report, want) {
					t.Errorf("after an interrupted import: %s", report)
				}
				report = must(t, env, "", "import", "--on-duplicate", "replace", file(t, whole.String()))
				if want := fmt.Sprintf("0 changed, %d were the same already", rows); !strings.Contains(report, want) {
					t.Errorf("the same file twice: %s", report)
				}
			})
		}
	}
}
