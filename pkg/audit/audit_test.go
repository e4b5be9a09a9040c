package audit_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/audit"
	"github.com/urbandata/urbandata/test/engines"
)

func eachEngine(t *testing.T, run func(t *testing.T, open func(testing.TB) *sqlx.DB)) {
	migrated := func(t testing.TB, db *sqlx.DB, set migrations.Set) *sqlx.DB {
		t.Helper()
		if _, err := migrations.Up(t.Context(), db.DB, set); err != nil {
			t.Fatal(err)
		}
		return db
	}
	t.Run("SQLite", func(t *testing.T) {
		run(t, func(t testing.TB) *sqlx.DB { return migrated(t, engines.SQLite(t).Write, migrations.AuthnSQLite) })
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		run(t, func(t testing.TB) *sqlx.DB { return migrated(t, engines.Postgres(t).Write, migrations.AuthnPostgres) })
	})
}

var dawn = time.Date(2026, 1, 1, 0, 0, 0, 123_456_789, time.UTC)

func appendTo(ctx context.Context, db *sqlx.DB, log *audit.Log, entries ...audit.Entry) error {
	tx, err := db.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := log.Append(ctx, tx, entries...); err != nil {
		return err
	}
	return tx.Commit()
}

func entry(i int) audit.Entry {
	return audit.Entry{
		At: dawn.Add(time.Duration(i) * time.Hour), Actor: "ana@host", Action: "key.signing", Subject: fmt.Sprint("k", i),
		Reason: "«ñ»; a\nline", Before: `{"a":1}`, After: `{"a":2}`,
	}
}

func TestRoundTrip(t *testing.T) {
	eachEngine(t, func(t *testing.T, open func(testing.TB) *sqlx.DB) {
		db := open(t)
		log, other := audit.NewLog(db, "keys"), audit.NewLog(db, "accounts")
		if head, err := log.Verify(t.Context(), nil, nil); err != nil || head != (audit.Head{}) {
			t.Fatalf("a new log: %v, %v", head, err)
		}
		if err := appendTo(t.Context(), db, log, entry(1), entry(2)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(appendTo(t.Context(), db, other, entry(7)), appendTo(t.Context(), db, log, entry(3)), appendTo(t.Context(), db, log)); err != nil {
			t.Fatal(err)
		}
		var seen []string
		head, err := log.Verify(t.Context(), nil, func(e audit.Entry) error { seen = append(seen, e.Subject); return nil })
		if err != nil || head.Seq != 3 || fmt.Sprint(seen) != "[k1 k2 k3]" {
			t.Fatalf("head %v, entries %v, error %v", head, seen, err)
		}
		newest, err := log.Newest(t.Context(), 2)
		if err != nil || len(newest) != 2 || newest[0].Hash != head.Hash {
			t.Fatalf("newest %v, %v", newest, err)
		}
		want := entry(2)
		want.Seq, want.Hash, want.At = 2, newest[1].Hash, want.At.Truncate(time.Millisecond)
		if newest[1] != want {
			t.Errorf("entry is\n%+v, want\n%+v", newest[1], want)
		}
		again, err := audit.ParseHead(head.String())
		if err != nil || again != head {
			t.Errorf("%v came back as %v, %v", head, again, err)
		}
		if _, err := log.Verify(t.Context(), &again, nil); err != nil {
			t.Errorf("with the head that was noted: %v", err)
		}
		stop := errors.New("enough")
		if _, err := log.Verify(t.Context(), nil, func(audit.Entry) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("error %v, want the caller's", err)
		}
	})
}

// Writers at once make one chain; what is rolled back leaves no hole.
func TestConcurrentAppend(t *testing.T) {
	eachEngine(t, func(t *testing.T, open func(testing.TB) *sqlx.DB) {
		db := open(t)
		log := audit.NewLog(db, "keys")
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if i%4 == 3 {
					tx, err := db.BeginTxx(t.Context(), nil)
					if err == nil {
						err = errors.Join(log.Append(t.Context(), tx, entry(i)), tx.Rollback())
					}
					if err != nil {
						t.Error(err)
					}
					return
				}
				if err := appendTo(t.Context(), db, log, entry(i), entry(i)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if head, err := log.Verify(t.Context(), nil, nil); err != nil || head.Seq != 30 {
			t.Errorf("head %v, error %v", head, err)
		}
	})
}

func TestTampering(t *testing.T) {
	const unlock = `DROP TRIGGER audit_no_update; DROP TRIGGER audit_no_delete;`
	eachEngine(t, func(t *testing.T, open func(testing.TB) *sqlx.DB) {
		for _, tc := range []struct {
			name, sql string
			noted     bool // whether the true head was noted before
			want      error
		}{
			{"nothing", ``, true, nil},
			{"an actor", `UPDATE audit_entries SET actor = 'bob@host' WHERE seq = 2`, false, audit.ErrBroken},
			{"an action", `UPDATE audit_entries SET action = 'key.retired' WHERE seq = 2`, false, audit.ErrBroken},
			{"a reason", `UPDATE audit_entries SET reason = '' WHERE seq = 4`, false, audit.ErrBroken},
			{"a time", `UPDATE audit_entries SET at = at + 1 WHERE seq = 1`, false, audit.ErrBroken},
			{"text moved from one column to the next", `UPDATE audit_entries SET before_state = '', after_state = '{"a":1}{"a":2}' WHERE seq = 1`, false, audit.ErrBroken},
			{"a hash", `UPDATE audit_entries SET hash = (SELECT hash FROM audit_entries WHERE seq = 1) WHERE seq = 3`, false, audit.ErrBroken},
			{"one taken out", `DELETE FROM audit_entries WHERE seq = 2`, false, audit.ErrBroken},
			{"one taken out and the others moved up", `DELETE FROM audit_entries WHERE seq = 3; UPDATE audit_entries SET seq = 3 WHERE seq = 4; UPDATE audit_heads SET seq = 3`, false, audit.ErrBroken},
			{"two in another order", `UPDATE audit_entries SET seq = 9 WHERE seq = 2; UPDATE audit_entries SET seq = 2 WHERE seq = 3; UPDATE audit_entries SET seq = 3 WHERE seq = 9`, false, audit.ErrBroken},
			{"one doubled", `INSERT INTO audit_entries SELECT log, 5, at, actor, action, subject, reason, before_state, after_state, hash FROM audit_entries WHERE seq = 4; UPDATE audit_heads SET seq = 5`, false, audit.ErrBroken},
			{"from another log", `UPDATE audit_entries SET log = 'x'; UPDATE audit_heads SET log = 'x'`, true, audit.ErrBroken},
			{"the end cut off", `DELETE FROM audit_entries WHERE seq = 4`, false, audit.ErrBroken},
			{"all of it", `DELETE FROM audit_entries`, false, audit.ErrBroken},
			{"all of it and the head", `DELETE FROM audit_entries; DELETE FROM audit_heads`, true, audit.ErrBroken},
			{"the head", `UPDATE audit_heads SET seq = 5`, false, audit.ErrBroken},
			// A chain made without a secret can't tell these by itself.
			{"the end cut off and the head set back", cutOff, false, nil},
			{"the end cut off and the head set back, with the head noted", cutOff, true, audit.ErrBroken},
		} {
			t.Run(tc.name, func(t *testing.T) {
				db := open(t)
				log := audit.NewLog(db, "keys")
				if err := appendTo(t.Context(), db, log, entry(1), entry(2), entry(3), entry(4)); err != nil {
					t.Fatal(err)
				}
				head, err := log.Verify(t.Context(), nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				off := unlock
				if db.DriverName() == "postgres" {
					off = `DROP TRIGGER audit_append_only ON audit_entries;`
				}
				if _, err := db.Exec(off + tc.sql); err != nil {
					t.Fatal(err)
				}
				var known *audit.Head
				if tc.noted {
					known = &head
				}
				if _, err := log.Verify(t.Context(), known, nil); !errors.Is(err, tc.want) {
					t.Errorf("error %v, want %v", err, tc.want)
				}
			})
		}
	})
}

const cutOff = `DELETE FROM audit_entries WHERE seq = 4; UPDATE audit_heads SET seq = 3, hash = (SELECT hash FROM audit_entries WHERE seq = 3)`

// A log that was written anew from the first entry, as anybody can who owns
// the tables, isn't the one whose head was noted.
func TestWrittenAnew(t *testing.T) {
	eachEngine(t, func(t *testing.T, open func(testing.TB) *sqlx.DB) {
		var heads [2]audit.Head
		var logs [2]*audit.Log
		for i := range heads {
			db := open(t)
			logs[i] = audit.NewLog(db, "keys")
			forged := entry(1)
			if i == 1 {
				forged.Actor = "nobody"
			}
			err := appendTo(t.Context(), db, logs[i], forged, entry(2))
			if err == nil {
				heads[i], err = logs[i].Verify(t.Context(), nil, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := logs[1].Verify(t.Context(), &heads[0], nil); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("error %v, want ErrBroken", err)
		}
	})
}

// The tables refuse what would be a mistake.
func TestAppendOnly(t *testing.T) {
	eachEngine(t, func(t *testing.T, open func(testing.TB) *sqlx.DB) {
		db := open(t)
		if err := appendTo(t.Context(), db, audit.NewLog(db, "keys"), entry(1)); err != nil {
			t.Fatal(err)
		}
		for _, statement := range []string{`UPDATE audit_entries SET actor = 'x'`, `DELETE FROM audit_entries`} {
			if _, err := db.Exec(statement); err == nil || !strings.Contains(err.Error(), "append-only") {
				t.Errorf("%s: error %v", statement, err)
			}
		}
	})
}

func FuzzParseHead(f *testing.F) {
	f.Add("42:" + strings.Repeat("9f", 32))
	f.Add(":")
	f.Add("-1:" + strings.Repeat("00", 32))
	f.Fuzz(func(t *testing.T, text string) {
		head, err := audit.ParseHead(text)
		if err != nil {
			if !errors.Is(err, audit.ErrHead) {
				t.Fatalf("error %v, want ErrHead", err)
			}
			return
		}
		if again, err := audit.ParseHead(head.String()); err != nil || again != head {
			t.Fatalf("%v came back as %v, %v", head, again, err)
		}
	})
}
