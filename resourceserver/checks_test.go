package resourceserver

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
)

// jsonValues are values of members as other programs may write them: what is
// right for some, and wrong for others.
func jsonValues(r *rand.Rand) string {
	texts := []int{0, 1, 64, 65, 500, 501, 20_000, 20_001}
	letter := []string{"a", "ñ", "🏠", `\ud83c\udfe0`, `\u00f1`}[r.IntN(5)]
	switch r.IntN(6) {
	case 0:
		return `"` + strings.Repeat(letter, texts[r.IntN(len(texts))]) + `"`
	case 1:
		return []string{
			`"a\u0000b"`, `"\\u0000"`, `"\\\u0000"`, `"\ud83c"`, `"\udfe0\ud83c"`, `"\\ud83c"`, `"x\uD83Cx"`, `"\ud7ff"`, `"\ue000"`, `"\ufffd"`, "\"\ufffd\"", `"퟿"`, `"\""`, `"."`,
		}[r.IntN(14)]
	case 2:
		return []string{"null", "true", "false", `{}`, `[]`, `["a"]`, `{"a":1,"b":{"a":2}}`, `{"a":1,"\u0061":2}`, `[{"a":1,"a":2}]`, `{"\ud83c":1}`, `["\udfe0"]`}[r.IntN(11)]
	case 3:
		return []string{
			"0", "-0", "7", "-7", "7.0", "7e0", "70e-1", "7.5", "1e-400", "1e400", "-1e400", "2147483647", "2147483648", "-2147483648", "-2147483649", "2147483647.0",
			"180", "180.0", "180.00001", "-180", "90", "-90.5", "9007199254740993", "9223372036854775807", "9223372036854775808", "1e22", "1e23", "10e21", "1.5e1", "1.55e1",
			"12345678901234567890123", "1234567890123456789012", "10000000000000000000000", "-10000000000000000000000", "10000000000000000000001", "1.000", "1.001", "0.0", "-0.0", "0e0",
		}[r.IntN(40)]
	}
	return fmt.Sprint(r.IntN(400) - 200)
}

// jsonDocument is a stored document with some members changed.
func jsonDocument(r *rand.Rand) string {
	m := sample("x")
	names, values := []string{}, map[string]string{}
	for i := range fields[1:] {
		f := &fields[1+i]
		names = append(names, f.name)
		values[f.name] = string(f.appendValue(nil, &m))
	}
	var parts []string
	for range r.IntN(3) {
		name := names[r.IntN(len(names))]
		switch r.IntN(8) {
		case 0:
			delete(values, name)
		case 1:
			parts = append(parts, fmt.Sprintf("%q:%s", name, jsonValues(r))) // twice
		case 2:
			parts = append(parts, fmt.Sprintf("%q:%s", []string{"_id", "owner", "surface", "date_key", "Title"}[r.IntN(5)], jsonValues(r)))
		case 3:
			delete(values, "title")
			parts = append(parts, `"\u0074itle":`+jsonValues(r))
		default:
			values[name] = jsonValues(r)
		}
	}
	for _, name := range names {
		if v, ok := values[name]; ok {
			parts = append(parts, fmt.Sprintf("%q: %s", name, v))
		}
	}
	r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	return "{" + strings.Join(parts, ", ") + "}"
}

// TestChecksAreTheRule: what the database lets in is what the server reads.
func TestChecksAreTheRule(t *testing.T) {
	const documents = 1000
	ids := []string{"x", "ñ", strings.Repeat("ñ", maxID), strings.Repeat("ñ", maxID+1), ".", "..", "...", "a\x00b", "a\n"}
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		store, _ := openSQLite(t)
		s := store.(*SQLite)
		must(t, s.SetChecks(t.Context(), ChecksError))
		r := rand.New(rand.NewPCG(1, 2))
		counts := map[bool]int{}
		for i := range documents {
			doc, id := jsonDocument(r), fmt.Sprint("x", i)
			if i < len(ids) {
				doc, id = string(new(sample("x")).appendStored(nil)), ids[i]
			}
			var m Inmueble
			want := m.parseStored(id, []byte(doc))
			_, err := s.write.ExecContext(t.Context(), `INSERT INTO inmuebles (id, owner, document) VALUES (?, '', ?)`, id, doc)
			if (want == nil) != (err == nil) {
				t.Errorf("%q %.300s: the server says %v, the database %v", id, doc, want, err)
			}
			counts[want == nil]++
		}
		t.Logf("%d were valid, %d weren't", counts[true], counts[false])
		is, err := s.CheckStatus(t.Context())
		must(t, err)
		if is != (CheckStatus{Checks: ChecksError}) || count(t, s) != counts[true] || counts[true] < documents/10 || counts[false] < documents/10 {
			t.Errorf("%+v with %d documents, want %d", is, count(t, s), counts[true])
		}
	})
	t.Run("MongoDB", func(t *testing.T) {
		t.Parallel()
		store, _ := openMongo(t)
		s := store.(*Mongo)
		must(t, s.SetChecks(t.Context(), ChecksError))
		r := rand.New(rand.NewPCG(3, 4))
		counts := map[bool]int{}
		for i := range documents {
			doc := bsonDocument(r)
			id := any(fmt.Sprint("x", i))
			switch {
			case i < len(ids):
				id = ids[i]
			case i < len(ids)+3:
				id = []any{int32(7), 7.5, primitive.NewObjectID()}[i-len(ids)]
			}
			if i < len(ids)+3 {
				must(t, bson.Unmarshal(new(sample("x")).appendBSON(nil), &doc))
			}
			raw, err := bson.Marshal(append(bson.D{{Key: "_id", Value: id}}, without(doc, "_id")...))
			must(t, err)
			_, _, want := parseBSON(raw)
			_, err = s.inmuebles.InsertOne(t.Context(), bson.Raw(raw))
			if (want == nil) != (err == nil) {
				t.Errorf("%.400s: the server says %v, the database %v", bson.Raw(raw), want, err)
			}
			counts[want == nil]++
		}
		t.Logf("%d were valid, %d weren't", counts[true], counts[false])
		is, err := s.CheckStatus(t.Context())
		must(t, err)
		if is != (CheckStatus{Checks: ChecksError}) || count(t, s) != counts[true] || counts[true] < documents/10 || counts[false] < documents/10 {
			t.Errorf("%+v with %d documents, want %d", is, count(t, s), counts[true])
		}
	})
}

func without(doc bson.D, name string) (rest bson.D) {
	for _, e := range doc {
		if e.Key != name {
			rest = append(rest, e)
		}
	}
	return rest
}

func bsonDocument(r *rand.Rand) bson.D {
	m := sample("x")
	var doc bson.D
	if err := bson.Unmarshal(m.appendBSON(nil), &doc); err != nil {
		panic(err)
	}
	for range r.IntN(3) {
		i := r.IntN(len(doc))
		if r.IntN(6) == 0 {
			doc = append(doc[:i], doc[i+1:]...)
			continue
		}
		doc[i].Value = bsonValue(r)
	}
	return doc
}

func bsonValue(r *rand.Rand) any {
	decimal, err := primitive.ParseDecimal128("7")
	if err != nil {
		panic(err)
	}
	texts := []int{0, 1, 64, 65, 500, 501, 20_000, 20_001}
	switch r.IntN(5) {
	case 0:
		return strings.Repeat([]string{"a", "ñ", "🏠"}[r.IntN(3)], texts[r.IntN(len(texts))])
	case 1:
		return []any{
			"a\x00b", "\x00", "a\n", "\n", ".", "a\xffb", "\xed\xa0\x80", "\ufffd", "\u0085", "\u2028",
		}[r.IntN(10)]
	case 2:
		return []any{
			nil, true, false,
			bson.D{},
			bson.A{},
			bson.A{"a"},
			bson.A{int32(1)},
			decimal, primitive.Symbol("a"),
			primitive.Regex{Pattern: "a"},
			primitive.DateTime(0), primitive.DateTime(minMilli), primitive.DateTime(minMilli - 1), primitive.DateTime(maxMilli), primitive.DateTime(maxMilli + 1),
			primitive.Timestamp{T: 1},
			primitive.NewObjectID(),
			primitive.Binary{Data: []byte("a")},
			primitive.MinKey{},
			primitive.Undefined{},
			bson.A{primitive.DateTime(0)},
		}[r.IntN(21)]
	case 3:
		return []any{
			math.NaN(), math.Inf(1), math.Inf(-1), 7.0, 7.5, math.Copysign(0, -1), 2147483647.0, 2147483648.0, -2147483648.0, -2147483649.0, 180.0, 180.0001, -90.0, -90.5,
			float64(1 << 53), float64(1<<53 + 2), -float64(1 << 53), 1e300, 5e-324, 1e-9,
			int64(7), int64(math.MaxInt32), int64(math.MaxInt32 + 1), int64(math.MinInt32), int64(math.MinInt32 - 1), int64(math.MaxInt64), int32(math.MinInt32), int32(181),
		}[r.IntN(28)]
	}
	return int32(r.IntN(400) - 200)
}

// TestChecks: what they do to others, and not to this server.
func TestChecks(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, spoil := e.open(t)
			s := store.(Checker)
			c := newClient(t, store)
			status := func(want CheckStatus) {
				t.Helper()
				if is, err := s.CheckStatus(t.Context()); err != nil || is != want {
					t.Errorf("%+v %v, want %+v", is, err, want)
				}
			}
			// write stores a document that is no inmueble, past the server.
			write := func(id string) error {
				doc := sample(id)
				switch s := store.(type) {
				case *SQLite:
					_, err := s.write.ExecContext(t.Context(), `INSERT INTO inmuebles (id, owner, document) VALUES (?, '', ?)`, id,
						strings.Replace(string(doc.appendStored(nil)), `"end_week":7`, `"end_week":"7"`, 1))
					return err
				case *Mongo:
					_, err := s.inmuebles.InsertOne(t.Context(), bson.D{{Key: "_id", Value: id}, {Key: "title", Value: "no more"}})
					return err
				}
				return errors.New("another store")
			}
			// change changes a document past the server.
			change := func(id, end string) error {
				switch s := store.(type) {
				case *SQLite:
					_, err := s.write.ExecContext(t.Context(), `UPDATE inmuebles SET document = json_set(document, '$.end_week', json(?)) WHERE id = ?`, end, id)
					return err
				case *Mongo:
					_, err := s.inmuebles.UpdateByID(t.Context(), id, bson.D{{Key: "$set", Value: bson.D{{Key: "end_week", Value: end}}}})
					return err
				}
				return errors.New("another store")
			}
			status(CheckStatus{Checks: ChecksOff})
			spoil(t, "old", "alice", textForNumber)
			must(t, write("off"))
			status(CheckStatus{Checks: ChecksOff, Invalid: 2})

			must(t, s.SetChecks(t.Context(), ChecksWarn))
			must(t, write("warned"))
			found := 0
			if e.name == "SQLite" {
				found = 1
			}
			status(CheckStatus{Checks: ChecksWarn, Invalid: 3, Found: found})

			must(t, s.SetChecks(t.Context(), ChecksError))
			if write("refused") == nil {
				t.Error("a document that is no inmueble was let in")
			}
			status(CheckStatus{Checks: ChecksError, Invalid: 3})
			must(t, change("old", `"8"`)) // it was none before
			// The server itself goes on: one, many, more than a transaction
			// takes; what is unreadable can be mended and removed.
			one := decode[struct {
				ID string `json:"_id"`
			}](c.do("POST", "/inmuebles", body()).want(201))
			if change(one.ID, `"8"`) == nil {
				t.Error("a good document was spoiled")
			}
			c.do("PATCH", "/inmuebles/"+one.ID, `{"title":"other"}`).want(200)
			c.do("PUT", "/inmuebles/old", body("_id", `"old"`)).want(200)
			c.admin().do("DELETE", "/inmuebles/off", "").want(204)
			rows := 5000 // more than a transaction of MongoDB takes
			if e.name == "SQLite" {
				rows = 100
			}
			report, err := Import(t.Context(), store, strings.NewReader(many(rows)), asImporter)
			if err != nil || report.Stored != rows {
				t.Errorf("%+v %v", report, err)
			}
			// A large load that fails puts back even what is no inmueble.
			opts := asImporter
			opts.OnDuplicate = ReplaceDuplicate
			file := strings.Replace(many(rows+100), "m000000", "warned", 1) + row("end_week", "x")
			_, err = Import(t.Context(), store, strings.NewReader(file), opts)
			wantErr(t, err, ErrBadRows)
			status(CheckStatus{Checks: ChecksError, Invalid: 1})

			must(t, s.SetChecks(t.Context(), ChecksOff))
			must(t, write("again"))
			status(CheckStatus{Checks: ChecksOff, Invalid: 2})
		})
	}
}
