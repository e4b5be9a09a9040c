package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/urbandata/urbandata/test/engines"
)

const (
	warmStarts = 15              // of each service, on data that is there
	rest       = 3 * time.Second // after which nothing of a start goes on
)

// TestFigures measures what starting and being there costs: the size of the
// program, the time from the start of a process to the first 200 of /readyz,
// on an empty database and on one that is there, and the resident memory some
// seconds later. They are printed and not asserted: the machine may be busy.
// It runs before the parallel tests.
func TestFigures(t *testing.T) {
	l := newLedger(t)
	// The keys for inmuebles come from an authn that runs all the time.
	addr := freeAddress(t)
	jwks := "http://" + addr + "/.well-known/jwks.json"
	sealingKey := file(t, newSealingKey())
	keyServer := start(t, l, quiet, "authserver", "--listen", addr, "--issuer", issuer,
		"--database", engines.SQLiteURL(t), "--sealing-key-file", sealingKey)
	keyServer.url()
	if info, err := os.Stat(binary); err == nil {
		fmt.Printf("figures: the program, stripped: %.1f MB\n", float64(info.Size())/1e6)
	}

	authserver := []string{"authserver", "--issuer", issuer, "--sealing-key-file", sealingKey}
	resourceserver := []string{"resourceserver", "--issuer", issuer, "--jwks-url", jwks}
	for _, tc := range []struct {
		name, database, listen string
		args                   []string
	}{
		{"authserver on SQLite", engines.SQLiteURL(t), "AUTH", authserver},
		{"authserver on PostgreSQL", engines.PostgresURL(t), "AUTH", authserver},
		{"resourceserver on SQLite", engines.SQLiteURL(t), "API", resourceserver},
		{"resourceserver on MongoDB", engines.MongoURL(t), "API", resourceserver},
		{"up (both) on SQLite", "", "API", []string{"up", "--auth-listen", "127.0.0.1:0", "--data-dir", filepath.Join(t.TempDir(), "data")}},
	} {
		ready := func() (*process, time.Duration) {
			addr := freeAddress(t)
			env := maps.Clone(quiet)
			env["URBANDATA_"+tc.listen+"_LISTEN"], env["URBANDATA_"+tc.listen+"_DATABASE"] = addr, tc.database
			begin := time.Now()
			p := start(t, l, env, tc.args...)
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
			eventually(t, tc.name+" is ready", func() bool {
				response, err := client.Get("http://" + addr + "/readyz")
				if err != nil {
					return false
				}
				_ = response.Body.Close()
				return response.StatusCode == http.StatusOK
			})
			return p, time.Since(begin)
		}
		end := func(p *process) {
			p.terminate()
			p.ended()
		}
		p, first := ready()
		end(p)
		warm := make([]time.Duration, warmStarts)
		for i := range warm {
			p, warm[i] = ready()
			if i < warmStarts-1 {
				end(p)
			}
		}
		<-time.After(rest)
		m := p.resident()
		end(p)
		slices.Sort(warm)
		fmt.Printf("figures: %s: start=%.1fms (median of %d; min %.1fms) first=%.0fms rss=%.1fMiB (own %.1f, the program's file %.1f)\n", tc.name,
			milliseconds(warm[warmStarts/2]), warmStarts, milliseconds(warm[0]), milliseconds(first), m.all(), m.own, m.file)
	}
	keyServer.terminate()
	keyServer.ended()
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// quiet is for a measurement: the usual logs, and no time spent on draining.
var quiet = settings{"URBANDATA_METRICS_LISTEN": "127.0.0.1:0", "URBANDATA_DRAIN_DELAY": "0s"}
