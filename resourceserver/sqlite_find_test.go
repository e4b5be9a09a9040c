package resourceserver

import (
	"context"
	"testing"
	"time"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/test/engines"
)

// TestStatementsOfATransaction: a page behind a cursor is made of several
// statements in a transaction, which has a connection: with none left, they are
// prepared all the same.
func TestStatementsOfATransaction(t *testing.T) {
	t.Parallel()
	db := engines.SQLite(t)
	_, err := migrations.Up(t.Context(), db.Write.DB, migrations.InmueblesSQLite)
	must(t, err)
	db.Read.SetMaxOpenConns(1)
	s, err := NewSQLite(t.Context(), db.Write, db.Read)
	must(t, err)
	_, err = s.Load(t.Context(), Batch{Rows: Samples(1, 1000, "owner-1")})
	must(t, err)
	q, err := ParseQuery("order=date.desc")
	must(t, err)
	q.Limit = 50
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 3 { // the third time they are there
		page, err := s.Find(ctx, q)
		must(t, err)
		if len(page.Items) != 50 || !page.More {
			t.Errorf("%d items, more: %v", len(page.Items), page.More)
		}
		q.After, q.Skip = page.After, page.Skip
	}
}
