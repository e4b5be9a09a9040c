package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/urbandata/urbandata/test/engines"
)

// BenchmarkImportMemory imports a million rows of each format, and a thousand,
// and reports by how much more the process grew: whatever the size, it must be
// little. A packed file needs its window besides: the widest that an import takes
// is 16 MiB, and the packed one here has it. The most memory of an ended process
// is the system's figure.
func BenchmarkImportMemory(b *testing.B) {
	const few, many = 1_000, 1_000_000
	const packed = "ndjson.zst"
	columns := "id_uda,id,coordinates,is_active,build_status,start_month,date_in,property_type,end_week,typology_type,listing_type,date,title,description\n"
	const object = `{"_id":"m%d","other_id":"A%[1]d","x_coord":-3.7,"y_coord":40.4,"is_active":true,"build_status":1,"start_month":3,"date_in":"2020-01-15",` +
		`"property_type":1,"end_week":12,"typology_type":2,"listing_type":1,"date":"2020-01-20","title":"Piso de 3 habitaciones en Sol","description":"Muy luminoso, con balcón a la calle."}`
	formats := map[string]struct{ begin, row, between, end string }{
		packed:   {"", object + "\n", "", ""},
		"csv":    {columns, `m%d,A%[1]d,"-3.7,40.4",t,1,3,2020-01-15,1,12,2,1,2020-01-20,Piso de 3 habitaciones en Sol,"Muy luminoso, con balcón a la calle."` + "\n", "", ""},
		"ndjson": {"", object + "\n", "", ""},
		"json":   {"[", object, ",\n", "]\n"},
	}
	for name, f := range formats {
		file := func(b *testing.B, rows int) string {
			path := filepath.Join(b.TempDir(), "file")
			out, err := os.Create(path)
			if err != nil {
				b.Fatal(err)
			}
			w := bufio.NewWriter(out)
			ends := []func() error{w.Flush, out.Close}
			if name == packed {
				zip, err := zstd.NewWriter(out, zstd.WithWindowSize(16<<20), zstd.WithEncoderConcurrency(1))
				if err != nil {
					b.Fatal(err)
				}
				w.Reset(zip)
				ends = []func() error{w.Flush, zip.Close, out.Close}
			}
			_, _ = io.WriteString(w, f.begin)
			for i := range rows {
				if i > 0 {
					_, _ = io.WriteString(w, f.between)
				}
				fmt.Fprintf(w, f.row, i)
			}
			_, _ = io.WriteString(w, f.end)
			for _, end := range ends {
				if err := end(); err != nil {
					b.Fatal(err)
				}
			}
			return path
		}
		for engine, url := range map[string]func(testing.TB) string{"SQLite": engines.SQLiteURL, "MongoDB": engines.MongoURL} {
			b.Run(name+"/"+engine, func(b *testing.B) {
				for b.Loop() {
					grown := map[int]float64{} // MiB
					var took time.Duration
					for _, rows := range []int{few, many} {
						cmd := exec.CommandContext(b.Context(), binary, "import", "--batch", "20000", file(b, rows))
						cmd.Env, cmd.Dir = settings{"URBANDATA_API_DATABASE": url(b)}.environ(), b.TempDir()
						begun := time.Now()
						if out, err := cmd.CombinedOutput(); err != nil {
							b.Fatalf("%v: %s", err, out)
						}
						took = time.Since(begun)
						usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
						if !ok || runtime.GOOS != "linux" {
							b.Fatal("this needs Linux, whose figure is in KiB")
						}
						grown[rows] = float64(usage.Maxrss) / 1024
					}
					b.ReportMetric(grown[many]-grown[few], "MiB-more")
					b.ReportMetric(grown[many], "MiB")
					b.ReportMetric(many/took.Seconds(), "rows/s")
				}
			})
		}
	}
}
