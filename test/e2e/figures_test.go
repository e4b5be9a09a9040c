package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/urbandata/urbandata/test/engines"
)

// warmStarts is how often each service is started on data that is there.
const warmStarts = 5

// TestFigures measures what starting and being there costs: the time from the
// start of the process to the first 200 of /readyz, and the resident memory
// then. They are printed and not asserted: the machine may be busy. It runs
// before the parallel tests.
func TestFigures(t *testing.T) {
	l := newLedger(t)
	// The keys for inmuebles come from an authn that runs all the time.
	addr := freeAddress(t)
	jwks := "http://" + addr + "/.well-known/jwks.json"
	sealingKey := file(t, newSealingKey())
	keyServer := start(t, l, quiet, "authserver", "--listen", addr, "--issuer", issuer,
		"--database", engines.SQLiteURL(t), "--sealing-key-file", sealingKey)
	keyServer.url()

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
		var all []time.Duration
		var memory []float64
		for range 1 + warmStarts {
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
			all = append(all, time.Since(begin))
			memory = append(memory, p.resident())
			p.terminate()
			p.ended()
		}
		warm := slices.Sorted(slices.Values(all[1:]))
		slices.Sort(memory)
		fmt.Printf("figures: %s: start=%s median=%s first=%s rss=%.1fMiB\n", tc.name,
			warm[0].Round(time.Millisecond), warm[len(warm)/2].Round(time.Millisecond), all[0].Round(time.Millisecond), memory[len(memory)/2])
	}
	keyServer.terminate()
	keyServer.ended()
}

// quiet is for a measurement: the usual logs, and no time spent on draining.
var quiet = settings{"URBANDATA_METRICS_LISTEN": "127.0.0.1:0", "URBANDATA_DRAIN_DELAY": "0s"}
