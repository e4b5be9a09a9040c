package resourceserver

import (
	"slices"
	"testing"

	"go.mongodb.org/mongo-driver/bson"
)

// TestSweep: dates that the release before, or another program, stored without
// a key get it when a server starts, and compare as moments from then on.
func TestSweep(t *testing.T) {
	dates := map[string]string{"a": "2021-03-02", "b": "2021-03-02T01:00:00+02:00", "c": "ayer", "d": "20210303"}
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			for id, date := range dates {
				m := sample(id)
				m.Date, m.DateIn = date, "2021-03-01 10:00"
				must(t, store.Insert(t.Context(), m))
			}
			prepare := func() {
				t.Helper()
				switch s := store.(type) {
				case *SQLite:
					must(t, s.sweep(t.Context()))
				case *Mongo:
					must(t, s.Prepare(t.Context()))
				}
			}
			switch s := store.(type) {
			case *SQLite:
				s.write.MustExecContext(t.Context(), `UPDATE inmuebles SET document = json_remove(document, '$.date_key', '$.date_in_key')`)
			case *Mongo:
				_, err := s.inmuebles.UpdateMany(t.Context(), bson.D{}, bson.D{{Key: "$unset", Value: bson.D{{Key: "date_key", Value: ""}, {Key: "date_in_key", Value: ""}}}})
				must(t, err)
			}
			prepare()
			prepare() // nothing is left to do
			c := newClient(t, store)
			for query, want := range map[string]string{
				"order=date":                       "b a d c",
				"date=2021-03-01T23:00:00Z":        "b",
				"date_in=2021-03-01T10:00:00Z":     "a b c d",
				"date=gte.2021-03-02&date=lt.2022": "a d",
			} {
				if got := idsOf(c.do("GET", at(query), "").want(200)); got != want {
					t.Errorf("%s: %q, want %q", query, got, want)
				}
			}
			// What was swept is as it was written.
			for id, date := range dates {
				m, err := store.Get(t.Context(), id)
				must(t, err)
				if m.Date != date {
					t.Errorf("%s: the date is %q, was %q", id, m.Date, date)
				}
			}
		})
	}
}

// TestCursorKey: the servers on one database have one key.
func TestCursorKey(t *testing.T) {
	sqlite, _ := openSQLite(t)
	mongo, _ := openMongo(t)
	for _, store := range []Store{sqlite, mongo} {
		var one, two []byte
		var err error
		switch s := store.(type) {
		case *SQLite:
			one, err = s.CursorKey(t.Context())
			must(t, err)
			two, err = s.CursorKey(t.Context())
		case *Mongo:
			one, err = s.CursorKey(t.Context())
			must(t, err)
			two, err = NewMongo(s.inmuebles.Database()).CursorKey(t.Context())
		}
		must(t, err)
		if len(one) != 32 || !slices.Equal(one, two) {
			t.Errorf("%T: keys of %d and %d bytes, or different", store, len(one), len(two))
		}
	}
}
