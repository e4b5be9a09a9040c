package resourceserver

import (
	"bytes"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
	"go.mongodb.org/mongo-driver/x/bsonx/bsoncore"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// generalStored is the answer of a row by way of an Inmueble, "" if there is
// none.
func generalStored(id, owner string, created, updated sql.NullInt64, doc []byte) string {
	var m Inmueble
	if m.parseAnyStored(id, doc) != nil {
		return ""
	}
	m.Owner, m.CreatedAt, m.UpdatedAt = owner, fromMilli(created), fromMilli(updated)
	return string(m.AppendJSON(nil))
}

// generalBSON is the same of a document of MongoDB's.
func generalBSON(doc []byte) string {
	m, _, err := parseBSON(doc)
	if err != nil {
		return ""
	}
	return string(m.AppendJSON(nil))
}

// checkStored: the short way says what the general way says, or nothing.
func checkStored(t *testing.T, id, owner string, created, updated sql.NullInt64, doc []byte) (short bool) {
	t.Helper()
	r := &sqliteRow{[]byte(id), []byte(owner), created, updated, doc}
	got, ok := appendStoredAnswer([]byte("before"), r)
	if !ok {
		return false
	}
	checkKeys(t, r)
	if want := "before" + generalStored(id, owner, created, updated, doc); string(got) != want {
		t.Errorf("document %q of %q:\n got %s\nwant %s", doc, id, got, want)
	}
	return true
}

// checkKeys: what a row that goes the short way is compared by is what its
// inmueble is, but for a date with a key of its own.
func checkKeys(t *testing.T, r *sqliteRow) {
	t.Helper()
	m, err := r.inmueble()
	must(t, err)
	var members map[string]any
	must(t, json.Unmarshal(r.document, &members))
	var order query.Order
	for _, name := range allMembers {
		order = append(order, query.Key{Field: filterFields[name]})
	}
	keys, err := r.keys(order)
	must(t, err)
	for i, k := range order {
		want := m.filterValue(k.Field)
		if v, ok := want.(bool); ok {
			want = map[bool]int64{true: 1}[v]
		}
		if own, ok := members[k.Field.Name+keySuffix]; ok && k.Field.Kind == query.Date {
			want = own
		}
		if keys[i] != want {
			t.Errorf("%s of %s is %#v, want %#v", k.Field.Name, r.document, keys[i], want)
		}
	}
}

func checkBSON(t *testing.T, doc []byte) (short bool) {
	t.Helper()
	got, ok := appendBSONAnswer([]byte("before"), doc)
	if !ok {
		return false
	}
	if want := "before" + generalBSON(doc); string(got) != want {
		t.Errorf("document %x:\n got %s\nwant %s", doc, got, want)
	}
	return true
}

// pieces are such as texts are made of: each way of writing, and each limit
// of it.
var pieces = []string{
	"a", " ", "ñ", "Á", "«", "🏠", `"`, `\`, "/", "\n", "\r", "\t", "\b", "\f", "\x01", "\x1f", "\x7f", "\u0080", "\u2028", "\ufeff", "\ufffd",
	"<", ">", "&", "'", "{", "}", ",", ":", "2021-03-01", "2021-03-01T10:00:00+02:00", "12345678", strings.Repeat("x", 60), strings.Repeat("é", 40),
}

// brokenPieces are no texts, or none that may be stored.
var brokenPieces = []string{"\x00", "\xff", "\xc3", "\xed\xa0\x80", strings.Repeat("é", 64), strings.Repeat("x", 501)}

// anInmueble makes one up that may be valid.
func anInmueble(r *rand.Rand) Inmueble {
	text := func(most int) string {
		var b strings.Builder
		for range r.IntN(most) {
			b.WriteString(pieces[r.IntN(len(pieces))])
			if r.IntN(200) == 0 {
				b.WriteString(brokenPieces[r.IntN(len(brokenPieces))])
			}
		}
		return b.String()
	}
	whole := func() int32 {
		return []int32{0, 1, -1, int32(r.Uint32()), math.MaxInt32, math.MinInt32, 999_999_999, -10}[r.IntN(8)]
	}
	maybe := func() *int32 {
		if r.IntN(2) == 0 {
			return nil
		}
		v := whole()
		return &v
	}
	degrees := func(most float64) float64 {
		v := []float64{
			0, 1, -1, most, -most, .5, -.5, 1e-6, -1e-6, 9.999e-7, 1e-300, math.SmallestNonzeroFloat64, math.Copysign(0, -1), most + .1, math.NaN(), math.Inf(1),
			(r.Float64()*2 - 1) * most, math.Round((r.Float64()*2-1)*most*1e6) / 1e6, math.Round((r.Float64()*2-1)*most*1e12) / 1e12, -3.7037902999999997, 89.99999999999999,
		}
		return v[r.IntN(len(v))]
	}
	moment := func() time.Time {
		return []time.Time{
			{},
			dawn, time.UnixMilli(minMilli).UTC(), time.UnixMilli(maxMilli).UTC(), time.UnixMilli(-1).UTC(),
			time.UnixMilli(r.Int64N(4e12) - 2e12).UTC(),
		}[r.IntN(6)]
	}
	m := Inmueble{
		ID: text(3), OtherID: text(3), BuildStatus: whole(), IsActive: r.IntN(2) == 0, StartMonth: whole(), ConstructionType: maybe(), DateDiff: whole(),
		Description: text(30), DateIn: text(3), PropertyType: whole(), EndWeek: whole(), TypologyType: whole(),
		XCoord: degrees(180), YCoord: degrees(90), BoundaryID: maybe(), Title: text(10), ListingType: whole(), Date: text(3),
		Owner: text(3), CreatedAt: moment(), UpdatedAt: moment(),
	}
	if r.IntN(10) == 0 {
		m.ID = []string{".", "..", "...", strings.Repeat("x", maxID), strings.Repeat("é", maxID+1)}[r.IntN(5)]
	}
	return m
}

// TestAnswersAreTheGeneralWays: whatever is stored, in our form, in another or
// spoiled, is answered with the same bytes the short way as the general way;
// and what this program wrote goes the short way.
func TestAnswersAreTheGeneralWays(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	var met, short [4]int
	for range 50_000 {
		m := anInmueble(r)
		created, updated := milli(m.CreatedAt), milli(m.UpdatedAt)
		if r.IntN(20) == 0 {
			updated = sql.NullInt64{Int64: []int64{minMilli - 1, maxMilli + 1, time.Time{}.UnixMilli(), math.MinInt64}[r.IntN(4)], Valid: true}
		}
		stored, raw := m.appendStored(nil), m.appendBSON(nil)
		count := func(i int, ok bool) {
			met[i]++
			if ok {
				short[i]++
			}
		}
		sound := m.Validate() == nil
		ok := checkStored(t, m.ID, m.Owner, created, updated, stored)
		if sound {
			count(0, ok)
		}
		ok = checkBSON(t, raw)
		if sound {
			count(1, ok)
		}
		// And spoiled: a byte is another, or left out, or doubled.
		for range 3 {
			count(2, checkStored(t, m.ID, m.Owner, created, updated, spoilt(r, stored)))
			count(3, checkBSON(t, spoiltBSON(r, raw)))
		}
		if t.Failed() {
			break
		}
	}
	t.Logf("the short way: %d of %d rows, %d of %d documents; %d of %d and %d of %d when spoiled",
		short[0], met[0], short[1], met[1], short[2], met[2], short[3], met[3])
	for i := range 2 { // a text with a control character or an owner that isn't sound goes the other, and most have one
		if short[i] < met[i]/10 {
			t.Errorf("the short way is for few: %d of %d", short[i], met[i])
		}
	}
	for m, err := range Samples(1, 500, "owner-1") {
		must(t, err)
		if !checkStored(t, m.ID, m.Owner, milli(m.CreatedAt), milli(m.UpdatedAt), m.appendStored(nil)) || !checkBSON(t, m.appendBSON(nil)) ||
			!checkBSON(t, (&loadMark{primitive.NewObjectID()}).on(m.appendBSON(nil))) {
			t.Fatalf("not the short way: %s", m.AppendJSON(nil))
		}
	}
}

func spoilt(r *rand.Rand, doc []byte) []byte {
	doc = bytes.Clone(doc)
	i := r.IntN(len(doc))
	switch r.IntN(4) {
	case 0:
		doc[i] = byte(r.Uint32())
	case 1:
		doc[i] = `0123456789-+.eE"\,:{}[]u /tfn`[r.IntN(29)]
	case 2:
		doc = append(doc[:i], doc[i+1:]...)
	case 3:
		doc = append(doc[:i+1], doc[i:]...)
	}
	return doc
}

func spoiltBSON(r *rand.Rand, doc []byte) []byte {
	if doc = spoilt(r, doc); r.IntN(2) == 0 && len(doc) > 4 {
		binary.LittleEndian.PutUint32(doc, uint32(len(doc)))
	}
	// The general reader trusts the driver, which reads no document that isn't
	// one: neither do we here.
	if bsoncore.Document(doc).Validate() != nil {
		return nil
	}
	return doc
}

// TestForeignAnswers: documents as other programs write them, on both engines,
// are answered as the general way has it.
func TestForeignAnswers(t *testing.T) {
	m := sample("65f1c0ffee65f1c0ffee65f1")
	var doc bson.D
	must(t, bson.Unmarshal(m.appendBSON(nil), &doc))
	change := func(f func(d bson.D) bson.D) []byte {
		b, err := bson.Marshal(f(append(bson.D(nil), doc...)))
		must(t, err)
		return b
	}
	set := func(name string, v any) []byte {
		return change(func(d bson.D) bson.D {
			for i := range d {
				if d[i].Key == name {
					d[i].Value = v
				}
			}
			return d
		})
	}
	for name, raw := range map[string][]byte{
		"another order":       change(func(d bson.D) bson.D { d[1], d[2] = d[2], d[1]; return d }),
		"the _id last":        change(func(d bson.D) bson.D { return append(d[1:], d[0]) }),
		"one more":            change(func(d bson.D) bson.D { return append(d, bson.E{Key: "more", Value: 1}) }),
		"twice":               change(func(d bson.D) bson.D { return append(d, bson.E{Key: "title", Value: "again"}) }),
		"no keys":             change(func(d bson.D) bson.D { return append(d[:18:18], d[20:]...) }),
		"an int64":            set("build_status", int64(1)),
		"a whole double":      set("build_status", 1.0),
		"an int for a double": set("x_coord", int32(3)),
		"null":                set("boundary_id", nil),
		"null title":          set("title", nil),
		"-0":                  set("x_coord", math.Copysign(0, -1)),
		"the year 1":          set(nameCreatedAt, primitive.DateTime(time.Time{}.UnixMilli())),
		"digits for other_id": set("other_id", int64(1)<<40),
		"an ObjectID":         set("_id", primitive.NewObjectID()),
		"owner is a number":   set(nameOwner, 1),
	} {
		if checkBSON(t, raw) {
			t.Errorf("%s goes the short way", name)
		}
		var page Page
		answers := &Answers{}
		page.addBSON(answers, raw)
		if want := generalBSON(raw); string(answers.list()) != "["+want+"]" {
			t.Errorf("%s: %s, want %s", name, answers.list(), want)
		}
	}
	own := string(m.appendStored(nil))
	for name, stored := range map[string]string{
		"white space":      strings.Replace(own, ":1,", ": 1,", 1),
		"another order":    strings.Replace(own, `"build_status":1,"is_active":true,`, `"is_active":true,"build_status":1,`, 1),
		"one more":         strings.Replace(own, "{", `{"more":[1],`, 1),
		"twice":            strings.Replace(own, "{", `{"title":"x",`, 1),
		"1.0":              strings.Replace(own, ":1,", ":1.0,", 1),
		"an escape":        strings.Replace(own, "Ático", `\u00c1tico`, 1),
		"a slash":          strings.Replace(own, "Ático", `\/`, 1),
		"an exponent":      strings.Replace(own, "40.4168", "404168e-4", 1),
		"a zero too many":  strings.Replace(own, "40.4168", "40.41680", 1),
		"digits":           strings.Replace(own, `"A1"`, `123456789012345678901`, 1),
		"null":             strings.Replace(own, `"boundary_id":9`, `"boundary_id":null`, 1),
		"the default":      strings.Replace(own, `"date_diff":4`, `"date_diff":0`, 1),
		"a key of no date": strings.Replace(own, `"date_in":"2021-03-01"`, `"date_in":"2021-03-01","date_in_key":7`, 1),
		"not there":        strings.Replace(own, `"date_in":"2021-03-01",`, "", 1),
	} {
		if stored == own {
			t.Fatalf("%s: nothing is changed", name)
		}
		at := milli(dawn)
		if checkStored(t, m.ID, m.Owner, at, at, []byte(stored)) != (name == "the default") {
			t.Errorf("%s goes the other way", name)
		}
		var page Page
		answers := &Answers{}
		page.addStored(answers, &sqliteRow{[]byte(m.ID), []byte(m.Owner), at, at, []byte(stored)})
		if want := generalStored(m.ID, m.Owner, at, at, []byte(stored)); string(answers.list()) != "["+want+"]" {
			t.Errorf("%s: %s, want %s", name, answers.list(), want)
		}
	}
}

func TestAnswersInTurn(t *testing.T) {
	for n := range 4 {
		a := &Answers{}
		var want []string
		for i := range n {
			a.close(append(a.open(), fmt.Sprint(i)...))
			want = append([]string{fmt.Sprint(i)}, want...)
		}
		a.reverse()
		for i := range n {
			if got := string(a.one(i)); got != want[i] {
				t.Errorf("%d of %d is %s", i, n, got)
			}
		}
		if got := string(a.list()); got != "["+strings.Join(want, ",")+"]" {
			t.Errorf("%d are %s", n, got)
		}
	}
}

// FuzzAnswers: the short way and the general way agree on any bytes.
func FuzzAnswers(f *testing.F) {
	for m, err := range Samples(1, 3, "owner-1") {
		must(f, err)
		f.Add(m.ID, m.Owner, m.CreatedAt.UnixMilli(), m.appendStored(nil), m.appendBSON(nil))
	}
	f.Fuzz(func(t *testing.T, id, owner string, at int64, stored, raw []byte) {
		ms := sql.NullInt64{Int64: at, Valid: at != 0}
		if (at < minMilli || at > maxMilli) && ms.Valid { // the column's CHECK
			ms = sql.NullInt64{}
		}
		if checkStored(t, id, owner, ms, ms, stored) {
			var members map[string]any
			must(t, json.Unmarshal(stored, &members))
		}
		if bsoncore.Document(raw).Validate() == nil {
			checkBSON(t, raw)
		}
	})
}

// TestAnswersOfPages: a walk that asks for answers meets the same documents as
// one that asks for inmuebles, with the same cursors, in both directions,
// through documents in our form, in others' and spoiled ones; and a list of
// values that is looked for value by value finds what the same words say in
// another way.
func TestAnswersOfPages(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, spoil := e.open(t)
			_, err := store.Load(t.Context(), Batch{Rows: func(yield func(Row, error) bool) {
				for i := range 400 {
					m := sample(fmt.Sprintf("%06d", i))
					m.ListingType, m.PropertyType, m.StartMonth = int32(i%2), int32(i%4), int32(i%12)
					m.Date = []string{"2020-01-01", "2020-01-02T10:00:00+02:00", "2020-01-02", "soon"}[i%5%4]
					if i%7 == 0 {
						m.Title = "\x01" // SQLite's documents have an escape for it: the general way
					}
					if !yield(Row{m, allGiven}, nil) {
						return
					}
				}
			}})
			must(t, err)
			for i, how := range []spoiling{fieldMissing, tooLong, fractionForInt} {
				spoil(t, fmt.Sprintf("%06dx", 100*i), "alice", how)
			}
			walk := func(text string, limit int, back, answers bool) (ids []string) {
				q := queryOf(t, text)
				if back {
					q.Order = q.Order.Reversed()
				}
				for q.Limit = limit; ; {
					if answers {
						q.Into = &Answers{}
					}
					page, err := store.Find(t.Context(), q)
					must(t, err)
					if answers {
						for i := range q.Into.Len() {
							var m struct {
								ID string `json:"_id"`
							}
							must(t, json.Unmarshal(q.Into.one(i), &m))
							ids = append(ids, m.ID)
						}
					} else {
						for i := range page.Items {
							ids = append(ids, page.Items[i].ID)
						}
					}
					for _, u := range page.Unreadable {
						ids = append(ids, u.ID+" can't be read")
					}
					ids = append(ids, fmt.Sprint(page.First, page.After, page.Skip, page.More))
					if !page.More {
						return ids
					}
					q.After, q.Skip = page.After, page.Skip
				}
			}
			for _, text := range []string{
				"order=date.desc", "order=date", "order=_id", "order=is_active,title,x_coord", "order=boundary_id,date", "order=updated_at.desc", "order=date_in,owner",
				"listing_type=eq.1&property_type=in.(1,3,3)&start_month=gte.3&order=date.desc", "listing_type=eq.1&property_type=in.(3,1)&order=date",
			} {
				for _, limit := range []int{1, 7, 1000} {
					for _, back := range []bool{false, true} {
						want := walk(text, limit, back, false)
						if got := walk(text, limit, back, true); strings.Join(got, "\n") != strings.Join(want, "\n") {
							t.Errorf("%s by %d, back is %t:\n got %q\nwant %q", text, limit, back, got, want)
						}
					}
				}
			}
			in := walk("listing_type=eq.1&property_type=in.(1,3,3)&start_month=gte.3&order=date.desc", 9, false, true)
			or := walk("listing_type=eq.1&or=(property_type.eq.1,property_type.eq.3)&start_month=gte.3&order=date.desc", 9, false, false)
			if len(in) < 150 || strings.Join(in, "\n") != strings.Join(or, "\n") {
				t.Errorf("a list of values finds\n%q, its values one by one\n%q", in, or)
			}
		})
	}
}

// TestPackedPages: what can't be told apart in a packed page, or is too long
// for one, is read row by row; whatever there is, the answers are those about
// the page's inmuebles.
func TestPackedPages(t *testing.T) {
	long := strings.Repeat("x", 20_000)
	for name, tc := range map[string]struct {
		change func(m *Inmueble)
		want   error
	}{
		"as ever":                  {func(*Inmueble) {}, nil},
		"times that nobody knows":  {func(m *Inmueble) { m.CreatedAt, m.UpdatedAt = time.Time{}, time.Time{} }, nil},
		"nobody's":                 {func(m *Inmueble) { m.Owner = "" }, nil},
		"a column's mark in an id": {func(m *Inmueble) { m.ID += columnMark + "x" }, errNotPacked},
		"a row's mark in an id":    {func(m *Inmueble) { m.ID += rowMark + "x" }, errNotPacked},
		"a row's mark in an owner": {func(m *Inmueble) { m.Owner = rowMark }, errNotPacked},
		"a row in an owner": {func(m *Inmueble) {
			m.Owner = strings.Join([]string{"alice", "1", "1", "{}" + rowMark + "id", "bob"}, columnMark)
		}, errNotPacked},
		"marks in a text":       {func(m *Inmueble) { m.Title = columnMark + rowMark }, nil}, // JSON has an escape for them
		"a long text":           {func(m *Inmueble) { m.Description = long }, nil},
		"longer than its share": {func(m *Inmueble) { m.Description = strings.Repeat("\U0001F3E0", 20_000) }, errNotPacked},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, spoil := openSQLite(t)
			s, _ := store.(*SQLite)
			_, err := store.Load(t.Context(), Batch{Rows: func(yield func(Row, error) bool) {
				for i := range 150 {
					m := sample(fmt.Sprintf("%06d", i))
					if i == 50 {
						tc.change(&m)
					}
					if !yield(Row{m, allGiven}, nil) {
						return
					}
				}
			}})
			must(t, err)
			spoil(t, "000020x", "alice", fieldMissing)
			q := queryOf(t, "order=_id")
			q.Limit = 100
			want, err := store.Find(t.Context(), q)
			must(t, err)
			q.Into = &Answers{}
			if _, err := s.find(t.Context(), q, false); !errors.Is(err, tc.want) {
				t.Errorf("packed: %v, want %v", err, tc.want)
			}
			q.Into = &Answers{}
			got, err := store.Find(t.Context(), q)
			must(t, err)
			if q.Into.Len() != len(want.Items) || len(want.Items) != 99 {
				t.Fatalf("%d answers about %d", q.Into.Len(), len(want.Items))
			}
			for i := range want.Items {
				if answer := string(want.Items[i].AppendJSON(nil)); string(q.Into.one(i)) != answer {
					t.Errorf("%.300s\nwant %.300s", q.Into.one(i), answer)
				}
			}
			if a, b := fmt.Sprint(got.First, got.After, got.More, len(got.Unreadable)), fmt.Sprint(want.First, want.After, want.More, len(want.Unreadable)); a != b {
				t.Errorf("the place is %s, want %s", a, b)
			}
		})
	}
}
