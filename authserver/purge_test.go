package authserver

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/urbandata/urbandata/pkg/cli/database"
)

// TestPurgeByIndex: what has expired is found by an index, so that purging it
// costs what there is to purge, and reads nothing else.
func TestPurgeByIndex(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		for _, tc := range []struct{ table, key, condition string }{
			{"sessions", "id", "expires_at < ?"},
			{"throttle", "key", "expires_at <= ?"},
			{"email_links", "hash", "expires_at <= ?"},
			{"users", "id", "erase_at <= ?"},
			{"client_assertions", "id", "expires_at < ?"},
			{"api_tokens", "id", "expires_at <= ?"},
			{"revocations", "id", "at < ?"},
		} {
			column, _, _ := strings.Cut(tc.condition, " ")
			query, explain, want := deleteSomeSQL(tc.table, tc.key, tc.condition), "EXPLAIN QUERY PLAN ", "("+column+"<?)"
			tx, err := db.Write.BeginTxx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if db.Kind == database.Postgres {
				// An empty table is scanned, whatever indexes it has.
				if _, err := tx.ExecContext(t.Context(), "SET LOCAL enable_seqscan = off"); err != nil {
					t.Fatal(err)
				}
				explain, want = "EXPLAIN ", "Index Cond: ("+column+" <"
			}
			plan, err := lastColumn(t.Context(), tx, explain+query, 1, 1000)
			if err := errors.Join(err, tx.Rollback()); err != nil {
				t.Fatal(err)
			}
			if text := strings.Join(plan, "\n"); !strings.Contains(text, want) {
				t.Errorf("%s: no index on %s:\n%s", tc.table, column, text)
			}
		}
	})
}

// lastColumn is the last value of each row of a query.
func lastColumn(ctx context.Context, tx *sqlx.Tx, query string, args ...any) (values []string, err error) {
	rows, err := tx.QueryxContext(ctx, tx.Rebind(query), args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // Err tells
	for rows.Next() {
		row, err := rows.SliceScan()
		if err != nil {
			return nil, err
		}
		values = append(values, fmt.Sprint(row[len(row)-1]))
	}
	return values, rows.Err()
}

var benchSessions = flag.Int("sessions", 100_000, "expired sessions that BenchmarkPurge deletes; as many are kept")

// BenchmarkPurge deletes expired sessions, among as many that live, while
// others log in and refresh: rows a second, how long a batch holds its locks,
// and what those notice. It prints what a million users and sessions take.
func BenchmarkPurge(b *testing.B) {
	s, _ := busy(b)
	db, n := s.accounts.store.write, *benchSessions
	if _, err := s.accounts.Create(b.Context(), NewUser{Email: "ana@ejemplo.example", Password: testPassword}); err != nil {
		b.Fatal(err)
	}
	run := func(statement string, args ...any) {
		b.Helper()
		if _, err := db.ExecContext(b.Context(), statement, args...); err != nil {
			b.Fatal(err)
		}
	}
	// Users and sessions of usual sizes, in a random order of expiry.
	run(`INSERT INTO users (id, email, email_key, password_hash, first_name, last_name, company, roles, created_at, updated_at)
		SELECT gen_random_uuid(), 'a.person.' || n || '@example.es', 'a.person.' || n || '@example.es',
			'$argon2id$v=19$m=19456,t=2,p=1$' || left(md5(n::text), 22) || '$' || md5(n::text) || left(md5(n::text), 11),
			'Ana María', 'García Pérez', 'Ejemplo S. L.', 'user', 1, 1
		FROM generate_series(1, $1) n`, n)
	now := time.Now()
	run(`INSERT INTO sessions (id, user_id, client_id, audience, mark_key, current_hash, history, created_at, rotated_at,
			idle_expires_at, expires_at, user_agent, network, amr)
		SELECT gen_random_uuid(), id, 'urbandata', 'inmuebles', decode(md5(id::text) || md5(id::text), 'hex'), decode(md5(id::text) || md5(id::text), 'hex'), '',
			1, 1, 1, $1::bigint + CASE WHEN half THEN -1 ELSE 1 END * (1 + random() * 1e9)::bigint,
			'Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0', '192.0.2.7', 'pwd'
		FROM users, (VALUES (true), (false)) AS h(half) WHERE email_key LIKE 'a.person.%'`, now.UnixMilli())
	run("ANALYZE")
	size := func(table string, rows int) float64 {
		var bytes int64
		if err := db.GetContext(b.Context(), &bytes, "SELECT pg_total_relation_size($1::regclass)", table); err != nil {
			b.Fatal(err)
		}
		return float64(bytes) / float64(rows)
	}
	user, session := size("users", n), size("sessions", 2*n)

	const batch = 1000
	var purged int64
	var batches []time.Duration
	purge := func() {
		err := untilFew(b.Context(), batch, func() (int64, error) {
			began := time.Now()
			deleted, err := s.accounts.store.sweep(b.Context(), now, batch)
			batches, purged = append(batches, time.Since(began)), purged+deleted
			return deleted, err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	// refreshes for as long as ctx says, one after the other: what each took.
	refreshes := func(ctx context.Context) (took []time.Duration) {
		g, err := s.accounts.login(b.Context(), "ana@ejemplo.example", testPassword, "", clientID, InmueblesAudience, nil, peer{})
		if err != nil {
			b.Error(err)
			return nil
		}
		token := g.Refresh.String()
		for ctx.Err() == nil {
			began := time.Now()
			g, err := s.accounts.refresh(b.Context(), token, peer{})
			if err != nil {
				b.Error(err)
				return nil
			}
			took, token = append(took, time.Since(began)), g.Refresh.String()
		}
		return took
	}
	for b.Loop() {
		if purged > 0 {
			continue // what is gone is gone
		}
		quiet, cancel := context.WithTimeout(b.Context(), 3*time.Second)
		before := refreshes(quiet)
		cancel()
		during, done := context.WithCancel(b.Context())
		var all sync.WaitGroup
		var meanwhile []time.Duration
		all.Go(func() { meanwhile = refreshes(during) })
		began := time.Now()
		purge()
		took := time.Since(began)
		done()
		all.Wait()
		slices.Sort(batches)
		slices.Sort(meanwhile)
		var busyFor time.Duration
		for _, d := range batches {
			busyFor += d
		}
		b.ReportMetric(float64(purged)/took.Seconds(), "rows/s")
		b.ReportMetric(float64(purged)/busyFor.Seconds(), "rows/s-without-rests")
		b.ReportMetric(float64(medianOf(batches))/1e6, "ms/batch")
		b.ReportMetric(float64(batches[len(batches)-1])/1e6, "ms/longest-batch")
		b.ReportMetric(float64(medianOf(meanwhile))/float64(medianOf(before)), "x/refresh-alone")
		b.ReportMetric(float64(meanwhile[len(meanwhile)*99/100])/1e6, "ms/refresh-p99")
		b.ReportMetric(float64(before[len(before)*99/100])/1e6, "ms/refresh-alone-p99")
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(user, "bytes/user")
	b.ReportMetric(session, "bytes/session")
	if purged != int64(n) {
		b.Errorf("%d of %d were purged", purged, n)
	}
}
