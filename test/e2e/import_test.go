package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
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

// TestExportMoves moves made-up inmuebles from one database into another and
// finds them the same.
func TestExportMoves(t *testing.T) {
	from := settings{"URBANDATA_API_DATABASE": engines.SQLiteURL(t)}
	to := settings{"URBANDATA_API_DATABASE": engines.MongoURL(t)}
	if out := must(t, from, "", "seed", "1500", "--seed", "7"); out != "1500 stored, 0 were there already\n" {
		t.Errorf("seed: %s", out)
	}
	if out := must(t, from, "", "seed", "1501", "--seed", "7"); out != "1 stored, 1500 were there already\n" {
		t.Errorf("seed again: %s", out)
	}
	path := filepath.Join(t.TempDir(), "all.csv.zst")
	must(t, from, "", "export", path)
	must(t, to, "", "import", path)
	for _, format := range []string{"csv", "json", "ndjson", "geojson"} {
		was, is := must(t, from, "", "export", "--format", format), must(t, to, "", "export", "--format", format)
		if format != "csv" { // times are the import's
			times := regexp.MustCompile(`"(created|updated)_at":"[^"]*"`)
			was, is = times.ReplaceAllString(was, ""), times.ReplaceAllString(is, "")
		}
		if was != is || len(was) < 100_000 {
			t.Errorf("%s: %d bytes became %d others", format, len(was), len(is))
		}
	}
	if o := command(t, to, "", "export", filepath.Join(t.TempDir(), "no such folder", "x.csv")); o.code != 2 {
		t.Errorf("export to nowhere: %+v", o)
	}
}
