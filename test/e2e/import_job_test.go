package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// importStatus is an import as the API answers it.
type importStatus struct {
	ID, State                         string
	Row, Rows, Stored, Done, Attempts int
	Error                             *struct{ Code, Detail string }
}

// TestImportKilled kills the process that works on an import over HTTP, in the
// middle, again and again. Another one, or the same when it is back, goes on, and in the
// end every row is stored once. Half of the rows have no id_uda, so that a row
// stored twice would be two inmuebles.
func TestImportKilled(t *testing.T) {
	const rows = 40_000
	var file strings.Builder
	file.WriteString("id_uda,id,coordinates,is_active,build_status,start_month,date_in,property_type,end_week,typology_type,listing_type,date,title\n")
	for i := range rows {
		id := ""
		if i%2 == 0 {
			id = fmt.Sprint("k", i)
		}
		fmt.Fprintf(&file, "%s,A%d,\"-3.7,40.4\",t,1,3,2020-01-15,1,12,2,1,2020-01-20,Piso con comas\n", id, i)
	}
	everyWay(t, func(t *testing.T, in *installation) {
		s := in.start(nil)
		p := in.client.newPerson()
		in.client.register(s.auth[0], p)
		token := in.client.login(s.auth[0], p).Access
		// Not the ledger's client: what is answered at the last moment may
		// have left no log line.
		ask := func(method, url, body string) (importStatus, http.Header, error) {
			r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
			if err != nil {
				return importStatus{}, nil, err
			}
			r.Header.Set("Authorization", "Bearer "+token)
			r.Header.Set("Content-Type", "text/csv")
			r.Header.Set("Prefer", "count=exact")
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				return importStatus{}, nil, err
			}
			defer func() { _ = response.Body.Close() }()
			text, err := io.ReadAll(response.Body)
			if err != nil {
				return importStatus{}, nil, err
			}
			if response.StatusCode >= 300 {
				return importStatus{}, nil, fmt.Errorf("%s: %s", response.Status, text)
			}
			var j importStatus
			if !strings.HasPrefix(string(text), "[") {
				err = json.Unmarshal(text, &j)
			}
			return j, response.Header, err
		}
		stored := 0
		for _, query := range []string{"", "?batch=5000&on-duplicate=skip"} {
			j, _, err := ask(http.MethodPost, s.api[0]+"/inmuebles/import"+query, strings.ReplaceAll(file.String(), ",A", ",A"+query[:min(len(query), 6)]))
			if err != nil {
				t.Fatal(err)
			}
			path := "/inmuebles/imports/" + j.ID
			kills := 2
			if query != "" {
				kills = 1
			}
			for kill := range kills {
				var victim *process
				// Deep in it, so that with batches some of them are stored.
				eventually(t, "it is deep in the import", func() bool {
					victim = nil
					for i, api := range s.api {
						process := s.processes[len(s.processes)-len(s.api)+i]
						if slices.ContainsFunc(process.lines(), func(line string) bool {
							return strings.Contains(line, "an import begins") && strings.Contains(line, j.ID) && strings.Contains(line, fmt.Sprintf(`"attempts":%d`, kill+1))
						}) {
							victim = process
						}
						j, _, err := ask(http.MethodGet, api+path, "")
						if err == nil && j.State == "done" {
							victim = nil
							return true
						}
						if err == nil && j.Attempts == kill+1 && j.Row >= 4_000*(kill+1) {
							return victim != nil
						}
					}
					return false
				})
				if victim == nil {
					t.Logf("%q: it was faster than the test", query)
					break
				}
				at := time.Now()
				victim.kill()
				if len(s.api) == 1 || kill+1 < kills {
					for _, p := range s.processes {
						if p != victim {
							p.kill()
						}
					}
					s = in.start(nil)
					token = in.client.login(s.auth[0], p).Access
				} else {
					s.api = slices.DeleteFunc(s.api, func(api string) bool {
						_, _, err := ask(http.MethodGet, api+path, "")
						return err != nil
					})
				}
				eventually(t, "somebody goes on", func() bool {
					j, _, err := ask(http.MethodGet, s.api[0]+path, "")
					return err == nil && (j.Attempts == kill+2 || j.State == "done")
				})
				t.Logf("%q: taken up again after %v", query, time.Since(at).Round(100*time.Millisecond))
			}
			eventually(t, "it ends", func() bool {
				j, _, err = ask(http.MethodGet, s.api[0]+path, "")
				return err == nil && (j.State == "done" || j.State == "failed")
			})
			if j.State != "done" || j.Rows != rows || j.Done != rows {
				t.Fatalf("%q: %+v %+v", query, j, j.Error)
			}
			stored += j.Stored
			_, header, err := ask(http.MethodGet, s.api[0]+"/inmuebles?select=_id&limit=1", "")
			if err != nil {
				t.Fatal(err)
			}
			_, found, _ := strings.Cut(header.Get("Content-Range"), "/")
			t.Logf("%q: %d attempts, %d rows read, %d stored as it says, %s inmuebles there", query, j.Attempts, j.Rows, j.Stored, found)
			if found != fmt.Sprint(stored) {
				t.Errorf("%q: %s inmuebles, want %d", query, found, stored)
			}
			for _, p := range s.processes {
				p.kill()
			}
			s = in.start(nil)
			token = in.client.login(s.auth[0], p).Access
		}
	})
}
