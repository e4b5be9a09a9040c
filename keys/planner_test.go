package keys

import (
	"encoding/json"
	"testing"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/test/engines"
)

// Every start and every tick loads the ring. PostgreSQL knows nothing yet of
// new tables, and never gathers statistics of small ones that hardly change:
// what it then takes the statement to cost must stay far from the 100,000 at
// which it begins to compile statements.
func TestLoadIsPlannedAsCheap(t *testing.T) {
	db := engines.Postgres(t).Write
	if _, err := migrations.Up(t.Context(), db.DB, migrations.AuthnPostgres); err != nil {
		t.Fatal(err)
	}
	var text []byte
	if err := db.GetContext(t.Context(), &text, "EXPLAIN (FORMAT JSON) "+NewSQLStore(db).load); err != nil {
		t.Fatal(err)
	}
	var plans []struct {
		Plan struct {
			Cost float64 `json:"Total Cost"`
			Rows float64 `json:"Plan Rows"`
		}
	}
	if err := json.Unmarshal(text, &plans); err != nil || len(plans) != 1 {
		t.Fatalf("%v\n%s", err, text)
	}
	if p := plans[0].Plan; p.Cost == 0 || p.Cost > 1000 {
		t.Errorf("the planner expects a cost of %.0f and %.0f rows", p.Cost, p.Rows)
	}
}
