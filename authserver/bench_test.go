package authserver

import (
	"context"
	"encoding/hex"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/test/engines"
)

// What a refresh costs on PostgreSQL, against the floor: one row inserted and
// one token signed. Both are measured in turns, a round of each, by as many
// clients as there are connections: the machine's mood changes.
func BenchmarkRefresh(b *testing.B) {
	db := engines.Postgres(b)
	if _, err := migrations.Up(b.Context(), db.Write.DB, migrations.AuthnPostgres); err != nil {
		b.Fatal(err)
	}
	a := newAuthn(b, db)
	a.register("ana@ejemplo.example")
	if _, err := db.Write.ExecContext(b.Context(), "CREATE TABLE floor (id uuid PRIMARY KEY, hash text NOT NULL)"); err != nil {
		b.Fatal(err)
	}
	insert, err := db.Write.PreparexContext(b.Context(), "INSERT INTO floor (id, hash) VALUES ($1, $2)")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = insert.Close() }()

	const clients = 16
	tokens := make([]string, clients)
	for i := range tokens {
		_, tokens[i] = a.login("ana@ejemplo.example")
	}
	// Clients refresh every few minutes: nothing is within its grace any more.
	var refreshed atomic.Int64
	began := a.clock.Now()
	a.accounts.now = func() time.Time { return began.Add(time.Duration(refreshed.Add(1)) * a.accounts.limits.Grace) }
	refresh := func(ctx context.Context, i int) error {
		g, err := a.accounts.refresh(ctx, tokens[i], peer{})
		if err != nil {
			return err
		}
		tokens[i] = g.Refresh.String()
		_, _, _, err = a.issuer.issue(ctx, g)
		return err
	}
	session := uuid.New()
	floor := func(ctx context.Context, i int) error {
		first, _ := newFamily(session)
		if _, err := insert.ExecContext(ctx, uuid.NewString(), hex.EncodeToString(first.hash())); err != nil {
			return err
		}
		_, _, _, err := a.issuer.issue(ctx, &grant{SessionID: session, UserID: session.String(), Audience: InmueblesAudience})
		return err
	}
	round := func(f func(context.Context, int) error) time.Duration {
		const each = 50
		var failed atomic.Value
		began := time.Now()
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() {
				for range each {
					if err := f(b.Context(), i); err != nil {
						failed.Store(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if err := failed.Load(); err != nil {
			b.Fatal(err)
		}
		return time.Since(began) / (clients * each)
	}
	round(refresh) // connections, statements
	round(floor)
	var ours, least time.Duration
	n := 0
	for b.Loop() {
		ours, least, n = ours+round(refresh), least+round(floor), n+1
	}
	b.ReportMetric(float64(ours)/float64(least), "x/insert+sign")
	b.ReportMetric(float64(time.Second)*float64(n)/float64(ours), "refreshes/s")
	b.ReportMetric(float64(runtime.GOMAXPROCS(0)), "cores")
}
