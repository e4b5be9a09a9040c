package resourceserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

const header = "id_uda,id,build_status,is_active,start_month,construction_type,date_diff,description,date_in," +
	"property_type,end_week,typology_type,coordinates,boundary_id,title,listing_type,date\n"

// row is a good row of a file; changes are column, value, …
func row(changes ...string) string {
	values := map[string]string{
		"id_uda": "u1", "id": "A-1", "build_status": "1", "is_active": "true", "start_month": "2", "construction_type": "3",
		"date_diff": "4", "description": "Piso céntrico", "date_in": "2021-03-01", "property_type": "6", "end_week": "7",
		"typology_type": "8", "coordinates": `"-3.7038,40.4168"`, "boundary_id": "9", "title": "Ático", "listing_type": "10", "date": "2021-03-02",
	}
	for i := 0; i < len(changes); i += 2 {
		values[changes[i]] = changes[i+1]
	}
	var out []string
	for name := range strings.SplitSeq(strings.TrimSpace(header), ",") {
		out = append(out, values[name])
	}
	return strings.Join(out, ",") + "\n"
}

// imported is what row's inmueble is.
func imported(id string) Inmueble {
	m := sample(id)
	m.Description, m.Title, m.Owner = "Piso céntrico", "Ático", "importer"
	return m
}

var asImporter = ImportOptions{Owner: "importer", Now: dawn}

func TestImport(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			file := "\uFEFF" + header +
				row() +
				row("id_uda", "u2", "construction_type", "", "date_diff", "None", "description", "NULL", "boundary_id", "none", "title", "") +
				row("id_uda", "u3", "id", "") +
				row("id_uda", "u4", "id", "null") +
				row("id_uda", "u5", "id", "--") +
				row("id_uda", "", "title", "made") +
				row("id_uda", " u6 ", "id", "ES/28.001 ñ", "is_active", "Sí", "build_status", "3.0", "construction_type", " 5 ",
					"coordinates", `" -180 , 90.0"`, "description", "\"two\nlines, \"\"quoted\"\"\"") +
				row("id_uda", "u7", "is_active", "F")
			report, err := Import(t.Context(), store, strings.NewReader(file), asImporter)
			must(t, err)
			if report.Rows != 8 || report.Stored != 5 || report.Skipped != 3 || report.MadeIDs != 1 || report.Bad != nil || report.UnknownColumns != nil {
				t.Errorf("report %+v", report)
			}

			want := imported("u1")
			got, err := store.Get(t.Context(), "u1")
			must(t, err)
			wantSame(t, got, want)

			want = imported("u2")
			want.ConstructionType, want.DateDiff, want.Description, want.BoundaryID, want.Title = nil, 0, "", nil, ""
			got, err = store.Get(t.Context(), "u2")
			must(t, err)
			wantSame(t, got, want)

			want = imported("u6")
			five := int32(5)
			want.OtherID, want.BuildStatus, want.ConstructionType, want.XCoord, want.YCoord = "ES28001ñ", 3, &five, -180, 90
			want.Description = "two\nlines, \"quoted\""
			got, err = store.Get(t.Context(), "u6")
			must(t, err)
			wantSame(t, got, want)

			got, err = store.Get(t.Context(), "u7")
			must(t, err)
			if got.IsActive {
				t.Error("F is true")
			}
			ids, _ := walk(t, store, 10)
			made := slices.IndexFunc(ids, objectID.MatchString)
			if len(ids) != 5 || made < 0 {
				t.Fatalf("ids %q", ids)
			}
			got, err = store.Get(t.Context(), ids[made])
			must(t, err)
			want = imported(ids[made])
			want.Title = "made"
			wantSame(t, got, want)

			// Once more: every _id is taken, and nothing changes.
			report, err = Import(t.Context(), store, strings.NewReader(file), asImporter)
			wantErr(t, err, ErrDuplicate)
			if report.Stored != 0 || len(report.Bad) != 1 || report.Bad[0].Line != 2 || report.Bad[0].Column != "id_uda" {
				t.Errorf("report of a second time %+v", report)
			}
			if ids, _ := walk(t, store, 10); len(ids) != 5 {
				t.Errorf("ids %q", ids)
			}
		})
	}
}

// TestImportColumns: any order, columns of their own for the coordinates,
// optional ones left out, unknown ones reported.
func TestImportColumns(t *testing.T) {
	store, _ := openSQLite(t)
	file := "y_coord, x_coord,surface,date,listing_type,typology_type,end_week,property_type,date_in,start_month,is_active,build_status,id\n" +
		"40.4168,-3.7038,80,2021-03-02,10,8,7,6,2021-03-01,2,1,1,A1\n"
	report, err := Import(t.Context(), store, strings.NewReader(file), asImporter)
	must(t, err)
	if report.Stored != 1 || report.MadeIDs != 1 || !slices.Equal(report.UnknownColumns, []string{"surface"}) {
		t.Errorf("report %+v", report)
	}
	page, err := list(t.Context(), store, "", 1)
	must(t, err)
	want := imported(page.Items[0].ID)
	want.ConstructionType, want.DateDiff, want.Description, want.BoundaryID, want.Title = nil, 0, "", nil, ""
	wantSame(t, page.Items[0], want)
}

func TestImportHeader(t *testing.T) {
	for name, tt := range map[string]struct{ file, says string }{
		"empty":             {"", "empty"},
		"only a mark":       {"\uFEFF", "empty"},
		"no header":         {row(), "lacks"},
		"a column missing":  {strings.Replace(header, "end_week,", "surface,", 1), "lacks end_week"},
		"no id":             {strings.Replace(header, ",id,", ",", 1), "lacks id"},
		"no coordinates":    {strings.Replace(header, "coordinates,", "", 1), "lacks x_coord, y_coord"},
		"a column twice":    {strings.Replace(header, "title", "date", 1), "date and date are the same"},
		"coordinates twice": {strings.Replace(header, "title", "x_coord", 1), "coordinates and x_coord are the same"},
		"two keys":          {"_id," + header, "_id and id_uda are the same"},
		"a broken quote":    {`"id`, "never closed"},
		"another delimiter": {strings.ReplaceAll(header, ",", "|"), "lacks"},
	} {
		t.Run(name, func(t *testing.T) {
			report, err := Import(t.Context(), brokenStore{errors.New("must not be asked")}, strings.NewReader(tt.file), asImporter)
			wantErr(t, err, ErrHeader)
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want %q in it", err, tt.says)
			}
			if name == "a column missing" && !slices.Equal(report.UnknownColumns, []string{"surface"}) {
				t.Errorf("unknown columns %q", report.UnknownColumns)
			}
		})
	}
}

// TestImportBadValue: each bad value is named by line and column, and nothing
// is stored.
func TestImportBadValue(t *testing.T) {
	store, _ := openSQLite(t)
	for _, tt := range [][2]string{
		{"build_status", "x"},
		{"build_status", "1.5"},
		{"build_status", "2147483648"},
		{"build_status", "null"},
		{"build_status", "0x10"},
		{"build_status", "1_000"},
		{"build_status", "1e999"},
		{"build_status", "nan"},
		{"construction_type", "yes"},
		{"boundary_id", "1e10"},
		{"is_active", "maybe"},
		{"is_active", "2"},
		{"is_active", ""},
		{"date", ""},
		{"date", strings.Repeat("x", 65)},
		{"title", "a\x00b"},
		{"title", "\xff"},
		{"title", strings.Repeat("x", 501)},
		{"id_uda", ".."},
		{"id_uda", strings.Repeat("x", 129)},
		{"id", strings.Repeat("x", 65)},
		{"coordinates", "5"},
		{"coordinates", `"1,2,3"`},
		{"coordinates", `","`},
		{"coordinates", `"p,q"`},
		{"coordinates", `"181,0"`},
		{"coordinates", `"0,-91"`},
		{"coordinates", `"NaN,0"`},
		{"coordinates", `"Infinity,0"`},
		{"coordinates", `"1e999,0"`},
		{"coordinates", "none"},
	} {
		report, err := Import(t.Context(), store, strings.NewReader(header+row("id_uda", "good")+row(tt[0], tt[1])), asImporter)
		wantErr(t, err, ErrBadRows)
		if len(report.Bad) == 0 || report.Bad[0].Line != 3 || report.Bad[0].Column != tt[0] || report.Bad[0].Reason == "" {
			t.Errorf("%s %.20q: %+v", tt[0], tt[1], report.Bad)
		}
		if s := fmt.Sprint(report.Bad); len(tt[1]) > 3 && strings.Contains(s, tt[1]) {
			t.Errorf("the report repeats the value: %s", s)
		}
	}
	for name, second := range map[string]string{
		"too few values": "a,b\n", "too many": strings.TrimSpace(row()) + ",x\n", "a bare quote": row("title", `a"b`),
		"a quote never closed": row("title", `"a`), "text behind a quote": row("title", `"a"b`),
	} {
		report, err := Import(t.Context(), store, strings.NewReader(header+row("id_uda", "good")+second), asImporter)
		wantErr(t, err, ErrBadRows)
		if len(report.Bad) == 0 || report.Bad[0].Line != 3 || report.Bad[0].Column != "" {
			t.Errorf("%s: %+v", name, report.Bad)
		}
	}
	if ids, _ := walk(t, store, 10); len(ids) != 0 {
		t.Errorf("stored %q", ids)
	}
}

// TestImportManyBad: the first twenty are told of, from the whole file.
func TestImportManyBad(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			var file strings.Builder
			file.WriteString(header)
			for i := range 3000 {
				if i%100 == 99 {
					file.WriteString(row("id_uda", fmt.Sprint(i), "end_week", "x"))
				} else {
					file.WriteString(row("id_uda", fmt.Sprint(i)))
				}
			}
			report, err := Import(t.Context(), store, strings.NewReader(file.String()), asImporter)
			wantErr(t, err, ErrBadRows)
			if len(report.Bad) != maxReported || !report.MoreBad || report.Bad[19].Line != 2001 || report.Stored != 0 {
				t.Errorf("report %+v", report)
			}
			// A duplicate far back is told of by its line.
			good := strings.ReplaceAll(file.String(), ",x,", ",7,")
			report, err = Import(t.Context(), store, strings.NewReader(good+row("id_uda", "1")+row("id_uda", "new")), asImporter)
			wantErr(t, err, ErrDuplicate)
			if len(report.Bad) != 1 || report.Bad[0].Line != 3002 || report.Bad[0].Column != "id_uda" {
				t.Errorf("report %+v", report)
			}
			if ids, _ := walk(t, store, 10); len(ids) != 0 {
				t.Errorf("stored %q", ids)
			}
		})
	}
}

func TestImportReader(t *testing.T) {
	store, _ := openSQLite(t)
	_, err := Import(t.Context(), store, iotest.TimeoutReader(strings.NewReader(header+strings.Repeat(row(), 1000))), asImporter)
	if err == nil || errors.Is(err, ErrBadRows) {
		t.Errorf("a reader that fails: %v", err)
	}
	long := header + row() + `u2,"` + strings.Repeat("x", 2*maxRow) + "\n"
	_, err = Import(t.Context(), store, strings.NewReader(long), asImporter)
	wantErr(t, err, ErrBadRows)
	_, err = Import(t.Context(), store, strings.NewReader(strings.Repeat("x", maxRow+1)), asImporter)
	wantErr(t, err, errLongRow)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Import(ctx, store, strings.NewReader(header+row()), asImporter)
	wantErr(t, err, context.Canceled)
	if ids, _ := walk(t, store, 10); len(ids) != 0 {
		t.Errorf("stored %q", ids)
	}
}

// nowhere takes an import and keeps nothing.
type nowhere struct{ brokenStore }

func (nowhere) Load(_ context.Context, b Batch) (l Loaded, err error) {
	for _, err := range b.Rows {
		if err != nil {
			return Loaded{}, err
		}
		l[Inserted]++
	}
	return l, nil
}

// TestImportMemory: a file of any size takes the same memory.
func TestImportMemory(t *testing.T) {
	const rows = 40_000
	r, w := io.Pipe()
	go func() {
		_, err := io.WriteString(w, header)
		for i := 0; i < rows && err == nil; i++ {
			_, err = io.WriteString(w, row("id_uda", fmt.Sprint(i)))
		}
		_ = w.CloseWithError(err)
	}()
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var most uint64
	store := watching{most: &most}
	report, err := Import(t.Context(), store, r, asImporter)
	must(t, err)
	if report.Stored != rows {
		t.Errorf("report %+v", report)
	}
	if grown := int64(most) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("the heap grew by %d KiB after collections", grown>>10)
	}
}

// watching is a nowhere that notes the most live memory it has seen.
type watching struct {
	nowhere
	most *uint64
}

func (w watching) Load(ctx context.Context, b Batch) (Loaded, error) {
	n, rows := 0, b.Rows
	b.Rows = func(yield func(Row, error) bool) {
		for m, err := range rows {
			if n++; n%10_000 == 0 {
				runtime.GC()
				var now runtime.MemStats
				runtime.ReadMemStats(&now)
				*w.most = max(*w.most, now.HeapAlloc)
			}
			if !yield(m, err) {
				return
			}
		}
	}
	return w.nowhere.Load(ctx, b)
}

// FuzzImport: whatever the file, what reaches the store is valid, and every
// row is stored, skipped or told of.
func FuzzImport(f *testing.F) {
	f.Add(header + row())
	f.Add("\uFEFF" + header + row("id", "") + row("coordinates", "x"))
	f.Add(header + row("title", "\"a\nb\"\"c\"") + row("is_active", "SÍ"))
	f.Add(header + row("end_week", "3.0") + "a\n\"")
	f.Add("y_coord,x_coord,id\n1,2,3\n")
	f.Fuzz(func(t *testing.T, file string) {
		if len(file) > 1<<16 {
			return
		}
		report, err := Import(t.Context(), checking{t: t}, strings.NewReader(file), asImporter)
		if err != nil {
			if report.Stored != 0 || errors.Is(err, ErrBadRows) != (len(report.Bad) > 0) {
				t.Errorf("%v with %+v", err, report)
			}
			return
		}
		if report.Rows != report.Stored+report.Skipped || report.Bad != nil {
			t.Errorf("rows are lost: %+v", report)
		}
	})
}

// checking is a nowhere that looks at what comes.
type checking struct {
	nowhere
	t *testing.T
}

func (c checking) Load(ctx context.Context, b Batch) (Loaded, error) {
	rows := b.Rows
	b.Rows = func(yield func(Row, error) bool) {
		for m, err := range rows {
			if err == nil {
				must(c.t, m.Validate())
				var again Inmueble
				must(c.t, again.parseStored(m.ID, m.appendStored(nil)))
				again.Owner, again.CreatedAt, again.UpdatedAt = m.Owner, m.CreatedAt, m.UpdatedAt
				wantSame(c.t, again, m.Inmueble)
			}
			if !yield(m, err) {
				return
			}
		}
	}
	return c.nowhere.Load(ctx, b)
}

// FuzzParseStored: a document out of a database is read or refused, and what
// is read is valid and comes back as it is.
func FuzzParseStored(f *testing.F) {
	m := sample("a")
	f.Add(m.appendStored(nil))
	f.Add([]byte(`{"x_coord":1e999}`))
	f.Add([]byte(`{"a":[{}],"other_id":169.0}`))
	f.Add(bytes.Replace(m.appendStored(nil), []byte(`"end_week":7`), []byte(`"end_week":7e0,"end_week":-7.0`), 1))
	f.Add(bytes.Replace(m.appendStored(nil), []byte(`"date":"2021-03-02"`), []byte(`"date":"2021-03-02T00:00Z","date_key":"2021-03-02"`), 1))
	f.Fuzz(func(t *testing.T, doc []byte) {
		var m, again Inmueble
		err := m.parseStored("a", doc)
		if json.Valid(doc) { // the fast reader is given nothing else
			slow := again.parseAnyStored("a", doc)
			if (err == nil) != (slow == nil) || err == nil && asJSON(m) != asJSON(again) {
				t.Fatalf("fast %v %s, slow %v %s", err, asJSON(m), slow, asJSON(again))
			}
		}
		if err != nil {
			wantErr(t, err, ErrInvalid)
			return
		}
		again = Inmueble{}
		must(t, again.parseStored("a", m.appendStored(nil)))
		wantSame(t, again, m)
	})
}

// FuzzParseBSON: likewise for MongoDB's documents.
func FuzzParseBSON(f *testing.F) {
	m := sample("a")
	whole := m.appendBSON(nil)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, doc []byte) {
		m, id, err := parseBSON(doc)
		if id != m.ID {
			t.Errorf("id %q, want %q", id, m.ID)
		}
		if err != nil {
			wantErr(t, err, ErrInvalid)
			return
		}
		again, _, err := parseBSON(m.appendBSON(nil))
		must(t, err)
		wantSame(t, again, m)
	})
}

func TestAppendNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", -3.7038: "-3.7038", 180: "180", 1e-6: "0.000001", 9.5e-7: "9.5e-07", 5e-324: "5e-324", math.Pi: "3.141592653589793",
	} {
		if got := string(appendNumber(nil, v)); got != want {
			t.Errorf("%v is %s, want %s", v, got, want)
		}
	}
}
