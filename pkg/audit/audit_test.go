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
			{"one doubled", `INSERT INTO audit_entries SELECT log, 5, at, actor, action, subject, reason, before_state, after_state, hash, origin_hash FROM audit_entries WHERE seq = 4; UPDATE audit_heads SET seq = 5`, false, audit.ErrBroken},
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

// queue is appendTo for what Settle is to chain.
func queue(ctx context.Context, db *sqlx.DB, log *audit.Log, entries ...audit.Entry) error {
	tx, err := db.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := log.Enqueue(ctx, tx, entries...); err != nil {
		return err
	}
	return tx.Commit()
}

func withOrigin(i int, of string) audit.Entry {
	e := entry(i)
	e.Origin, e.OriginOf = fmt.Sprintf(`{"network":"192.0.2.%d"}`, i), of
	return e
}

// What is queued by many at once, while others settle, is chained once; what
// is rolled back never.
func TestSettle(t *testing.T) {
	eachEngine(t, func(t *testing.T, open func(testing.TB) *sqlx.DB) {
		db := open(t)
		log := audit.NewLog(db, "accounts")
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				if i%10 == 9 {
					if _, err := log.Settle(t.Context()); err != nil {
						t.Error(err)
					}
					return
				}
				if err := queue(t.Context(), db, log, withOrigin(i, "ana")); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, want := range []bool{true, false} {
			n, err := log.Settle(t.Context())
			if err != nil || !want && n != 0 {
				t.Errorf("settled %d, %v", n, err)
			}
		}
		seen := map[string]int{}
		head, err := log.Verify(t.Context(), nil, func(e audit.Entry) error { seen[e.Subject]++; return nil })
		if err != nil || head.Seq != 90 || len(seen) != 90 {
			t.Errorf("head %v, %d different entries, error %v", head, len(seen), err)
		}
	})
}

// More than one batch, and all of it in order.
func TestSettleMany(t *testing.T) {
	eachEngine(t, func(t *testing.T, open func(testing.TB) *sqlx.DB) {
		db := open(t)
		log := audit.NewLog(db, "accounts")
		entries := make([]audit.Entry, 450)
		for i := range entries {
			entries[i] = entry(i)
		}
		if err := queue(t.Context(), db, log, entries...); err != nil {
			t.Fatal(err)
		}
		if n, err := log.Settle(t.Context()); err != nil || n != 450 {
			t.Fatalf("settled %d, %v", n, err)
		}
		i := 0
		if _, err := log.Verify(t.Context(), nil, func(e audit.Entry) error {
			if e.Subject != fmt.Sprint("k", i) {
				t.Errorf("entry %d is about %s", e.Seq, e.Subject)
			}
			i++
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

// Where something came from can be erased, and the chain stays; it can't be
// changed.
func TestOrigins(t *testing.T) {
	eachEngine(t, func(t *testing.T, open func(testing.TB) *sqlx.DB) {
		db := open(t)
		log := audit.NewLog(db, "accounts")
		err := errors.Join(
			appendTo(t.Context(), db, log, withOrigin(1, "ana"), withOrigin(2, "luz"), entry(3)),
			queue(t.Context(), db, log, withOrigin(4, "ana")))
		if err != nil {
			t.Fatal(err)
		}
		origins := func() (all []string) {
			t.Helper()
			if _, err := log.Settle(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := log.Verify(t.Context(), nil, func(e audit.Entry) error { all = append(all, e.Origin); return nil }); err != nil {
				t.Fatal(err)
			}
			return all
		}
		tx, err := db.BeginTxx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(log.Hold(t.Context(), tx), log.Forget(t.Context(), tx, "ana"), tx.Commit()); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%q", origins()); got != `["" "{\"network\":\"192.0.2.2\"}" "" ""]` {
			t.Errorf("after ana is forgotten the origins are %s", got)
		}
		var left int
		if err := db.Get(&left, `SELECT (SELECT count(*) FROM audit_origins WHERE origin LIKE '%192.0.2.4%' OR origin LIKE '%192.0.2.1%')
			+ (SELECT count(*) FROM audit_queue)`); err != nil || left != 0 {
			t.Errorf("%d rows still have what was erased, %v", left, err)
		}
		if n, err := log.ForgetBefore(t.Context(), dawn.Add(2*time.Hour), 10); err != nil || n != 0 {
			t.Errorf("forgot %d, %v", n, err)
		}
		if n, err := log.ForgetBefore(t.Context(), dawn.Add(3*time.Hour), 10); err != nil || n != 1 {
			t.Errorf("forgot %d, %v; want one", n, err)
		}
		if err := appendTo(t.Context(), db, log, withOrigin(5, "luz")); err != nil {
			t.Fatal(err)
		}
		origins()
		if _, err := db.Exec(`UPDATE audit_origins SET origin = '{"network":"198.51.100.7"}'`); err != nil {
			t.Fatal(err)
		}
		if _, err := log.Verify(t.Context(), nil, nil); !errors.Is(err, audit.ErrBroken) || !strings.Contains(err.Error(), "origin of entry 5") {
			t.Errorf("with another origin: %v, want ErrBroken for entry 5", err)
		}
	})
}

func TestFind(t *testing.T) {
	eachEngine(t, func(t *testing.T, open func(testing.TB) *sqlx.DB) {
		db := open(t)
		log := audit.NewLog(db, "accounts")
		for i := range 6 {
			e := entry(i)
			e.Actor = []string{"user a", "user b"}[i%2]
			e.Action = []string{"login", "login.failed", "user.deleted"}[i%3]
			if err := appendTo(t.Context(), db, log, e); err != nil {
				t.Fatal(err)
			}
		}
		for _, tc := range []struct {
			name   string
			filter audit.Filter
			want   string
		}{
			{"all", audit.Filter{Limit: 10}, "[6 5 4 3 2 1]"},
			{"the oldest first", audit.Filter{Limit: 10, Oldest: true}, "[1 2 3 4 5 6]"},
			{"who", audit.Filter{Limit: 10, Actor: "user b"}, "[6 4 2]"},
			{"what", audit.Filter{Limit: 10, Action: "login"}, "[4 1]"},
			{"whom", audit.Filter{Limit: 10, Subject: "k3"}, "[4]"},
			{"who and what", audit.Filter{Limit: 10, Actor: "user a", Action: "login"}, "[1]"},
			{"since", audit.Filter{Limit: 10, Since: dawn.Add(4 * time.Hour).Truncate(time.Millisecond)}, "[6 5]"},
			{"until", audit.Filter{Limit: 10, Until: dawn.Add(2 * time.Hour).Truncate(time.Millisecond)}, "[2 1]"},
			{"a page", audit.Filter{Limit: 2, Before: 4}, "[3 2]"},
			{"a page, the oldest first", audit.Filter{Limit: 2, After: 4, Oldest: true}, "[5 6]"},
			{"nobody", audit.Filter{Limit: 10, Actor: "user"}, "[]"},
		} {
			found, err := log.Find(t.Context(), tc.filter)
			got := []int64{}
			for _, e := range found {
				got = append(got, e.Seq)
			}
			if err != nil || fmt.Sprint(got) != tc.want {
				t.Errorf("%s: %v, %v; want %s", tc.name, got, err, tc.want)
			}
		}
	})
}

// exported is a log as a file.
func exported(t *testing.T, log *audit.Log, name string, f audit.Filter) string {
	t.Helper()
	f.Limit, f.Oldest = 100, true
	entries, err := log.Find(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	var file []byte
	for i := range entries {
		if file, err = audit.AppendLine(file, name, &entries[i]); err != nil {
			t.Fatal(err)
		}
	}
	return string(file)
}

// A file is verified as the log is, and tells the same.
func TestVerifyFile(t *testing.T) {
	eachEngine(t, func(t *testing.T, open func(testing.TB) *sqlx.DB) {
		db := open(t)
		log := audit.NewLog(db, "accounts")
		html := withOrigin(2, "ana")
		html.After = `{"name":"a<b>&\u003c","n":1.0}`
		if err := appendTo(t.Context(), db, log, entry(1), html, withOrigin(3, ""), entry(4)); err != nil {
			t.Fatal(err)
		}
		head, err := log.Verify(t.Context(), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		third, err := log.Find(t.Context(), audit.Filter{Limit: 1, Before: 4})
		if err != nil {
			t.Fatal(err)
		}
		after := &audit.Head{Seq: 3, Hash: third[0].Hash}
		whole := exported(t, log, "accounts", audit.Filter{})
		lines := strings.SplitAfter(strings.TrimSuffix(whole, "\n"), "\n")
		lines[3] += "\n"
		other := audit.Head{Seq: 2}
		for _, tc := range []struct {
			name, file   string
			after, known *audit.Head
			want         error
			says         string
		}{
			{"whole", whole, nil, &head, nil, ""},
			{"empty", "", nil, nil, nil, ""},
			{"its end, after what was noted", lines[3], after, &head, nil, ""},
			{"its end alone", lines[3], nil, nil, audit.ErrBroken, "after entry 0 comes entry 4"},
			{"changed", strings.Replace(whole, "ana@host", "bob@host", 1), nil, nil, audit.ErrBroken, "entry 1 isn't"},
			{"another state", strings.Replace(whole, `"n":1.0`, `"n":1`, 1), nil, nil, audit.ErrBroken, "entry 2 isn't"},
			{"another time", strings.Replace(whole, ":00.123Z", ":00.124Z", 1), nil, nil, audit.ErrBroken, "entry 1 isn't"},
			{"another origin", strings.Replace(whole, "192.0.2.3", "192.0.2.9", 1), nil, nil, audit.ErrBroken, "origin of entry 3"},
			{"a line taken out", lines[0] + lines[2] + lines[3], nil, nil, audit.ErrBroken, "after entry 1 comes entry 3"},
			{"two in another order", lines[0] + lines[2] + lines[1] + lines[3], nil, nil, audit.ErrBroken, "after entry 1 comes entry 3"},
			{"one doubled", lines[0] + lines[0], nil, nil, audit.ErrBroken, "after entry 1 comes entry 1"},
			{"of another log", strings.ReplaceAll(whole, `"log":"accounts"`, `"log":"keys"`), nil, nil, audit.ErrBroken, "entry 1 isn't"},
			{"of two logs", lines[0] + strings.Replace(lines[1], `"log":"accounts"`, `"log":"keys"`, 1), nil, nil, audit.ErrBroken, "of another log"},
			{"cut off, with the head noted", lines[0], nil, &head, audit.ErrBroken, "entry 4 has been there"},
			{"another one, with a head noted", whole, nil, &other, audit.ErrBroken, "entry 2 isn't the one"},
			{"rubbish", lines[0] + "x\n", nil, nil, audit.ErrBroken, "line 2, after entry 1"},
			{"a member more", strings.Replace(whole, `"log"`, `"x":1,"log"`, 1), nil, nil, audit.ErrBroken, "line 1, after entry 0"},
			{"a short hash", strings.Replace(whole, third[0].Hash.String(), "00", 1), nil, nil, audit.ErrBroken, "line 3, after entry 2"},
			{"a long line", lines[0] + strings.Repeat("x", 2<<20), nil, nil, audit.ErrBroken, "the line after entry 1"},
		} {
			_, got, err := audit.VerifyFile(strings.NewReader(tc.file), tc.after, tc.known, nil)
			if !errors.Is(err, tc.want) || tc.says != "" && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s: error %v, want %v with %q", tc.name, err, tc.want, tc.says)
			}
			if tc.want == nil && tc.file != "" && got != head {
				t.Errorf("%s: head %v, want %v", tc.name, got, head)
			}
		}
		if _, err := db.Exec(`DELETE FROM audit_origins`); err != nil {
			t.Fatal(err)
		}
		if _, got, err := audit.VerifyFile(strings.NewReader(exported(t, log, "accounts", audit.Filter{})), nil, &head, nil); err != nil || got != head {
			t.Errorf("without its origins: %v, %v", got, err)
		}
	})
}

func FuzzVerifyFile(f *testing.F) {
	var file []byte
	e := entry(1)
	e.Seq, e.At = 1, e.At.Truncate(time.Millisecond)
	file, err := audit.AppendLine(file, "accounts", &e)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(file))
	f.Add(`{"log":"a","seq":1}`)
	f.Add("\n\n{}")
	f.Fuzz(func(t *testing.T, text string) {
		_, head, err := audit.VerifyFile(strings.NewReader(text), nil, nil, nil)
		if err != nil && !errors.Is(err, audit.ErrBroken) {
			t.Fatalf("error %v, want ErrBroken", err)
		}
		if err == nil && head.Seq != 0 {
			t.Fatalf("a made-up file verified up to %v", head)
		}
	})
}
