//go:build verifiers

package postgrest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
	"github.com/urbandata/urbandata/resourceserver"
	"github.com/urbandata/urbandata/test/engines"
)

// installed is a folder with the client, fetched by npm as the lock file says
// and kept for the next run.
var installed = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	files := map[string][]byte{}
	sum := sha256.New()
	for _, name := range []string{"package.json", "package-lock.json"} {
		if files[name], err = os.ReadFile(name); err != nil {
			return "", err
		}
		_, _ = sum.Write(files[name])
	}
	folder := filepath.Join(cache, "urbandata", "postgrest-"+hex.EncodeToString(sum.Sum(nil)[:8]))
	if _, err := os.Stat(filepath.Join(folder, "node_modules", ".package-lock.json")); err == nil {
		return folder, nil
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			return "", err
		}
	}
	cmd := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = folder
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return folder, nil
})

type step struct {
	Step    string
	Data    json.RawMessage
	Count   *int
	Status  int
	Code    string
	Message bool
	Details string
	Hint    string
}

func (s step) String() string {
	text := fmt.Sprintf("%d %s", s.Status, s.Data)
	if s.Count != nil {
		text += fmt.Sprintf(" of %d", *s.Count)
	}
	if s.Code != "" {
		text += " " + s.Code
	}
	if s.Details != "" {
		text += ": " + s.Details
	}
	return text
}

// wanted is what each step of client.mjs gives.
var wanted = [][2]string{
	{"select", `200 [{"_id":"a","lat":40},{"_id":"b","lat":41}]`},
	{"eq", `200 [{"_id":"a"}]`},
	{"in", `200 [{"_id":"b"},{"_id":"d"}]`},
	{"gte lt", `200 [{"_id":"b"},{"_id":"c"}]`},
	{"or", `200 [{"_id":"a"},{"_id":"d"}]`},
	{"not", `200 [{"_id":"a"},{"_id":"b"},{"_id":"c"}]`},
	{"ilike", `200 [{"_id":"a"},{"_id":"c"}]`},
	{"textSearch", `200 [{"_id":"c"}]`},
	{"textSearch of plain text", `200 [{"_id":"d"}]`},
	{"is", `200 [{"_id":"d"}]`},
	{"match", `200 [{"_id":"c"}]`},
	{"order", `200 [{"_id":"d"},{"_id":"b"},{"_id":"c"},{"_id":"a"}]`},
	{"nulls", `200 [{"_id":"c"},{"_id":"b"},{"_id":"a"},{"_id":"d"}]`},
	{"range", `200 [{"_id":"b"},{"_id":"c"}] of 4`},
	{"head", `200  of 4`},
	{"single", `200 {"_id":"c","title":"PISO"}`},
	{"single of none", `406  PGRST116: The result contains 0 rows`},
	{"single of many", `406  PGRST116: The result contains several rows`},
	{"maybeSingle", `200 {"_id":"c"}`},
	{"maybeSingle of none", `200 `},
	{"unknown", `400  invalid_query: surface is not a known parameter`},
	{"insert", `201 {"title":"Nuevo"}`},
	{"insert of two", `201 [{"title":"x"},{"title":"y"}]`},
	{"insert of nothing back", `201 `},
	{"update", `200 [{"title":"Otro"}]`},
	{"update of none", `200 []`},
	{"update of nothing back", `204 `},
	{"updated", `200 {"title":"Otro","start_month":10}`},
	{"update of everything", `422  validation_failed: listing_type unknown query parameter`},
	{"delete", `200 {"title":"Otro"}`},
	{"delete again", `204 `},
	{"upsert", `200 [{"_id":"c","title":"Encima"}]`},
}

func sqliteStore(t *testing.T) resourceserver.Store {
	db := engines.SQLite(t)
	if _, err := migrations.Up(t.Context(), db.Write.DB, migrations.InmueblesSQLite); err != nil {
		t.Fatal(err)
	}
	s, err := resourceserver.NewSQLite(t.Context(), db.Write, db.Read)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func mongoStore(t *testing.T) resourceserver.Store {
	s := resourceserver.NewMongo(engines.Mongo(t))
	if err := s.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestStockClient: select, eq, in, or, order, range, limit, single,
// maybeSingle, insert, update and delete.
func TestStockClient(t *testing.T) {
	folder, err := installed()
	if err != nil {
		t.Fatalf("the stock client can't be had: %v", err)
	}
	script, err := os.ReadFile("client.mjs")
	if err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func(*testing.T) resourceserver.Store{"SQLite": sqliteStore, "MongoDB": mongoStore} {
		t.Run(name, func(t *testing.T) {
			store := open(t)
			for i, title := range []string{`Piso "A", (1)`, `a\b`, "PISO", "Casa, (2)"} {
				boundary := int32(i)
				m := resourceserver.Inmueble{
					ID: string(rune('a' + i)), OtherID: "1", StartMonth: int32(i + 1), XCoord: -3, YCoord: float64(40 + i), ListingType: int32(min(i+1, 2)),
					Title: title, Date: []string{"2021-01-01", "2021-03-01", "2021-02-01", "2021-04-01"}[i], Owner: "alice", BoundaryID: &boundary,
				}
				if i == 3 {
					m.BoundaryID = nil
				}
				if err := store.Insert(t.Context(), m); err != nil {
					t.Fatal(err)
				}
			}
			issuer := verifytest.NewIssuer(t)
			server, err := resourceserver.New(resourceserver.Options{Store: store, Verifier: issuer.Verifier(t)})
			if err != nil {
				t.Fatal(err)
			}
			web := httptest.NewServer(server)
			defer web.Close()
			cmd := exec.CommandContext(t.Context(), "node", "--input-type=module", "-")
			cmd.Dir, cmd.Stdin = folder, bytes.NewReader(script)
			cmd.Env = append(os.Environ(), "TEST_URL="+web.URL, "TEST_TOKEN="+issuer.Token("alice", token.ScopeInmueblesRead, token.ScopeInmueblesWrite))
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("the client: %v\n%s", err, out)
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			if len(lines) != len(wanted) {
				t.Errorf("%d steps, want %d", len(lines), len(wanted))
			}
			for i, line := range lines[:min(len(lines), len(wanted))] {
				var s step
				if err := json.Unmarshal([]byte(line), &s); err != nil {
					t.Fatal(err)
				}
				if s.Step != wanted[i][0] || s.String() != wanted[i][1] {
					t.Errorf("%s: %s\nwant %s: %s", s.Step, s, wanted[i][0], wanted[i][1])
				}
				if s.Code != "" && !s.Message {
					t.Errorf("%s: an error without a message", s.Step)
				}
			}
		})
	}
}
