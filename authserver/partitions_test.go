package authserver

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/test/engines"
)

// partitionSQL is what docs/scale.md tells an operator to do, who has a billion
// sessions.
func partitionSQL(t testing.TB) string {
	t.Helper()
	page, err := os.ReadFile("../docs/scale.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "<!-- partitions -->\n```sql\n")
	text, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("docs/scale.md has no partitions")
	}
	return text
}

// partitioned is PostgreSQL with the sessions in partitions.
func partitioned(t testing.TB) *database.SQL {
	t.Helper()
	db := engines.Postgres(t)
	if _, err := migrations.Up(t.Context(), db.Write.DB, migrations.AuthnPostgres); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Write.ExecContext(t.Context(), partitionSQL(t)); err != nil {
		t.Fatalf("docs/scale.md: %v", err)
	}
	return db
}

// TestPartitionsAreWhole: the partitioned table has the columns, indexes, keys
// and triggers that the migrations made, and all sessions.
func TestPartitionsAreWhole(t *testing.T) {
	t.Parallel()
	db := engines.Postgres(t)
	if _, err := migrations.Up(t.Context(), db.Write.DB, migrations.AuthnPostgres); err != nil {
		t.Fatal(err)
	}
	a := newAuthn(t, db)
	a.register("ana@ejemplo.example")
	for range 20 {
		a.login("ana@ejemplo.example")
	}
	describe := func() (all []string) {
		t.Helper()
		for _, query := range []string{
			`SELECT format('%s %s %s %s', attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(d.adbin, d.adrelid))
				FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
				WHERE attrelid = 'sessions'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attname`,
			`SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'sessions'::regclass ORDER BY 1`,
			`SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'sessions'::regclass ORDER BY 1`,
			`SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'sessions'::regclass AND NOT tgisinternal ORDER BY 1`,
			`SELECT count(*)::text FROM sessions`,
		} {
			var some []string
			if err := db.Write.SelectContext(t.Context(), &some, query); err != nil {
				t.Fatal(err)
			}
			all = append(all, some...)
		}
		return all
	}
	before := describe()
	if _, err := db.Write.ExecContext(t.Context(), partitionSQL(t)); err != nil {
		t.Fatal(err)
	}
	only := regexp.MustCompile(` ON (ONLY )?`) // how an index of partitions is written
	for i, after := range describe() {
		if i >= len(before) || only.ReplaceAllString(after, " ON ") != only.ReplaceAllString(before[i], " ON ") {
			t.Errorf("partitioned: %s", after)
		}
	}
	var parts int
	if err := db.Write.GetContext(t.Context(), &parts, `SELECT count(DISTINCT tableoid) FROM sessions`); err != nil || parts < 2 {
		t.Errorf("the sessions are in %d partitions: %v", parts, err)
	}
}

// TestPartitionsAreTold: what happens most looks at one partition.
func TestPartitionsAreTold(t *testing.T) {
	t.Parallel()
	db := partitioned(t)
	conn, err := db.Write.Connx(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	// As for a statement that was prepared and ran for a while.
	if _, err := conn.ExecContext(t.Context(), "SET plan_cache_mode = force_generic_plan"); err != nil {
		t.Fatal(err)
	}
	const id = "'0199d0f4-7c1e-7000-8000-000000000001'"
	for name, statement := range map[string]string{"rotate": rotateSQL, "read": readSessionSQL} {
		text := conn.Rebind(statement)
		if _, err := conn.ExecContext(t.Context(), "PREPARE "+name+" AS "+text); err != nil {
			t.Fatal(err)
		}
		args := make([]string, strings.Count(statement, "?"))
		for i := range args {
			args[i] = "NULL"
		}
		before, _, _ := strings.Cut(statement, "id = ?"+map[bool]string{true: " AND current_hash"}[name == "rotate"])
		args[strings.Count(before, "?")] = id
		var plan []string
		if err := conn.SelectContext(t.Context(), &plan, "EXPLAIN EXECUTE "+name+" ("+strings.Join(args, ", ")+")"); err != nil {
			t.Fatal(err)
		}
		all := strings.Join(plan, "\n")
		if n := strings.Count(all, " Scan using sessions_"); n != 1 || !strings.Contains(all, "Subplans Removed: 15") {
			t.Errorf("%s: %d partitions are looked at:\n%s", name, n, all)
		}
	}
}

// TestPartitions: a session's life, and its end in every way, on partitions.
func TestPartitions(t *testing.T) {
	t.Parallel()
	a := newAuthn(t, partitioned(t))
	a.register("ana@ejemplo.example")
	a.register("eva@ejemplo.example")
	var access, refresh [20]string
	for i := range access {
		access[i], refresh[i] = a.login("ana@ejemplo.example")
	}
	_, other := a.login("eva@ejemplo.example")
	if got := len(a.sessions(access[0])); got != len(access) {
		t.Errorf("%d sessions are listed, want %d", got, len(access))
	}
	goOn := func(token string) string {
		t.Helper()
		next, _ := a.must(200, "POST", "/authn/token/refresh", "", member{"refresh": token})["refresh"].(string)
		return next
	}
	published := func() {
		t.Helper()
		if got := len(a.published().Entries); got != 1 { // the one before has expired
			t.Errorf("%d endings are published, want 1", got)
		}
	}
	for i := range refresh {
		next := goOn(refresh[i])
		a.forward(time.Minute)
		refresh[i] = goOn(next)
		if i == 0 { // shown again, long superseded: a thief's
			a.forward(time.Hour)
			a.must(401, "POST", "/authn/token/refresh", "", member{"refresh": next})
			a.must(401, "POST", "/authn/token/refresh", "", member{"refresh": refresh[0]})
			published()
		}
	}
	a.must(204, "POST", "/authn/sign_out", "", member{"refresh": refresh[1]})
	a.must(401, "POST", "/authn/token/refresh", "", member{"refresh": refresh[1]})
	published()
	fresh, _ := a.login("ana@ejemplo.example")
	a.must(204, "DELETE", "/authn/sessions", fresh, nil)
	a.must(401, "POST", "/authn/token/refresh", "", member{"refresh": refresh[2]})
	goOn(other)

	count := func() (n int) {
		t.Helper()
		if err := a.store.write.GetContext(t.Context(), &n, "SELECT count(*) FROM sessions"); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := count()
	a.forward(200 * 24 * time.Hour)
	if err := a.accounts.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := count(); before != len(access)+2 || after != 0 {
		t.Errorf("%d sessions, and %d after all have expired", before, after)
	}
}
