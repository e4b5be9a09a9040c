package resourceserver

import (
	"math"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/bson"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/test/engines"
)

// engine is a store under test, with a way round it into its database.
type engine struct {
	name string
	open func(t testing.TB) (Store, spoiler)
}

// spoiler stores one broken document under id, owned by owner.
type spoiler func(t testing.TB, id, owner string, how spoiling)

// spoiling is a way to break a document.
type spoiling string

const (
	fieldMissing   spoiling = "a field is missing"
	textForNumber  spoiling = "text where a number belongs"
	notFinite      spoiling = "a coordinate is not finite"
	outOfRange     spoiling = "a coordinate is off the globe"
	tooLong        spoiling = "a text is too long"
	fractionForInt spoiling = "a fraction where an integer belongs"
	beyondInt32    spoiling = "an integer is beyond 32 bits"
)

var spoilings = []spoiling{fieldMissing, textForNumber, notFinite, outOfRange, tooLong, fractionForInt, beyondInt32}

var theEngines = []engine{{"SQLite", openSQLite}, {"MongoDB", openMongo}}

func openSQLite(t testing.TB) (Store, spoiler) {
	db := engines.SQLite(t)
	if _, err := migrations.Up(t.Context(), db.Write.DB, migrations.InmueblesSQLite); err != nil {
		t.Fatal(err)
	}
	s, err := NewSQLite(t.Context(), db.Write, db.Read)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, func(t testing.TB, id, owner string, how spoiling) {
		m := sample(id)
		doc := string(m.appendStored(nil))
		switch how {
		case fieldMissing:
			doc = strings.Replace(doc, `"end_week":`, `"end_weak":`, 1)
		case textForNumber:
			doc = strings.Replace(doc, `"end_week":7`, `"end_week":"7"`, 1)
		case notFinite:
			doc = strings.Replace(doc, `"x_coord":`, `"x_coord":1e999,"was":`, 1)
		case outOfRange:
			doc = strings.Replace(doc, `"x_coord":`, `"x_coord":181,"was":`, 1)
		case tooLong:
			doc = strings.Replace(doc, `"date":"`, `"date":"`+strings.Repeat("x", 65), 1)
		case fractionForInt:
			doc = strings.Replace(doc, `"end_week":7`, `"end_week":7.5`, 1)
		case beyondInt32:
			doc = strings.Replace(doc, `"end_week":7`, `"end_week":2147483648`, 1)
		}
		if doc == string(m.appendStored(nil)) {
			t.Fatalf("nothing is spoiled: %s", how)
		}
		db.Write.MustExecContext(t.Context(), `INSERT INTO inmuebles (id, owner, document) VALUES (?, ?, ?)`, id, owner, doc)
	}
}

func openMongo(t testing.TB) (Store, spoiler) {
	db := engines.Mongo(t)
	s := NewMongo(db)
	must(t, s.Prepare(t.Context()))
	return s, func(t testing.TB, id, owner string, how spoiling) {
		m := sample(id)
		var doc bson.M
		if err := bson.Unmarshal(m.appendBSON(nil), &doc); err != nil {
			t.Fatal(err)
		}
		doc["owner"] = owner
		switch how {
		case fieldMissing:
			delete(doc, "end_week")
		case textForNumber:
			doc["end_week"] = "7"
		case notFinite:
			doc["x_coord"] = math.NaN()
		case outOfRange:
			doc["x_coord"] = 181.0
		case tooLong:
			doc["date"] = strings.Repeat("x", 65)
		case fractionForInt:
			doc["end_week"] = 7.5
		case beyondInt32:
			doc["end_week"] = int64(1 << 31)
		}
		if _, err := db.Collection("inmuebles").InsertOne(t.Context(), doc); err != nil {
			t.Fatal(err)
		}
	}
}
