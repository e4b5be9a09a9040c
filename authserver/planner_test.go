package authserver

import (
	"errors"
	"strings"
	"testing"

	"github.com/urbandata/urbandata/pkg/cli/database"
)

// TestFeedIsOneRow: PostgreSQL knows that the feed has one row, also when it
// has no statistics yet. Else it would take what publishes a revocation to
// cost as much as millions of rows, and compile it each time.
func TestFeedIsOneRow(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		if db.Kind != database.Postgres {
			return
		}
		for query, args := range map[string][]any{peekRevocationsSQL: nil, readRevocationsSQL: {0, 0}} {
			tx, err := db.Write.BeginTxx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			plan, err := lastColumn(t.Context(), tx, "EXPLAIN "+query, args...)
			if err := errors.Join(err, tx.Rollback()); err != nil {
				t.Fatal(err)
			}
			if text := strings.Join(plan, "\n"); !strings.Contains(text, "Index Cond: (id = 1)") {
				t.Errorf("%s:\n%s", query, text)
			}
		}
	})
}
