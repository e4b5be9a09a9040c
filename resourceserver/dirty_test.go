package resourceserver

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/unicode"
)

func gzipped(t testing.TB, text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := io.WriteString(w, text)
	must(t, errors.Join(err, w.Close()))
	return b.String()
}

func zstded(t testing.TB, text string) string {
	w, err := zstd.NewWriter(nil)
	must(t, err)
	return string(w.EncodeAll([]byte(text), nil))
}

func encoded(t testing.TB, e interface{ String(string) (string, error) }, text string) string {
	out, err := e.String(text)
	must(t, err)
	return out
}

// TestDirtyFiles: files as people have them, each with its right answer. What
// is stored of a good row is always row's inmueble.
func TestDirtyFiles(t *testing.T) {
	csvFile := header + row() + row("id_uda", "u2", "title", "Segundo")
	semicolons := func(s string) string {
		// The coordinates' comma stays.
		var out strings.Builder
		r := csv.NewReader(strings.NewReader(s))
		w := csv.NewWriter(&out)
		w.Comma = ';'
		records, err := r.ReadAll()
		must(t, errors.Join(err, w.WriteAll(records)))
		return out.String()
	}
	ndjson := strings.ReplaceAll(`{"_id":"u1",`+body()[1:]+"\n"+`{"_id":"u2",`+body("title", `"Segundo"`)[1:]+"\n", " 🏠", "")
	utf16le := unicode.UTF16(unicode.LittleEndian, unicode.UseBOM).NewEncoder()
	for name, tt := range map[string]struct {
		file     string
		opts     ImportOptions
		format   string
		encoding string
		packing  string
	}{
		"plain":                    {file: csvFile},
		"a byte order mark":        {file: "\uFEFF" + csvFile},
		"CRLF":                     {file: strings.ReplaceAll(csvFile, "\n", "\r\n")},
		"no line end at the end":   {file: strings.TrimSuffix(csvFile, "\n")},
		"empty lines":              {file: strings.ReplaceAll(csvFile, "\n", "\n\r\n\n")},
		"semicolons":               {file: semicolons(csvFile)},
		"tabs":                     {file: strings.ReplaceAll(semicolons(csvFile), ";", "\t")},
		"Excel's sep":              {file: "sep=;\r\n" + semicolons(csvFile)},
		"all quoted":               {file: `"` + strings.NewReplacer("\n", "\"\n\"", ",", `","`, `"-3.7038,40.4168"`, "-3.7038,40.4168").Replace(strings.TrimSuffix(csvFile, "\n")) + `"`},
		"gzip":                     {file: gzipped(t, csvFile), packing: "gzip"},
		"two gzips, one by one":    {file: gzipped(t, csvFile[:100]) + gzipped(t, csvFile[100:]), packing: "gzip"},
		"zstd":                     {file: zstded(t, csvFile), packing: "zstd"},
		"UTF-16, little-endian":    {file: encoded(t, utf16le, csvFile), encoding: EncodingUTF16LE},
		"UTF-16, no mark":          {file: encoded(t, unicode.UTF16(unicode.LittleEndian, unicode.IgnoreBOM).NewEncoder(), csvFile), encoding: EncodingUTF16LE},
		"UTF-16, big-endian":       {file: encoded(t, unicode.UTF16(unicode.BigEndian, unicode.UseBOM).NewEncoder(), csvFile), encoding: EncodingUTF16BE},
		"UTF-16 packed":            {file: gzipped(t, encoded(t, utf16le, csvFile)), packing: "gzip", encoding: EncodingUTF16LE},
		"Windows-1252":             {file: encoded(t, charmap.Windows1252.NewEncoder(), csvFile), encoding: EncodingWindows1252},
		"Latin-1, said":            {file: encoded(t, charmap.ISO8859_1.NewEncoder(), csvFile), opts: ImportOptions{Encoding: EncodingWindows1252}, encoding: EncodingWindows1252},
		"Windows-1252, far behind": {file: encoded(t, charmap.Windows1252.NewEncoder(), header+strings.Repeat(row("id", "", "title", "x", "description", "x"), 3000)+csvFile[len(header):]), encoding: EncodingWindows1252},
		"a header of other names":  {file: strings.Replace(csvFile, header, "ID UDA,Id,Build-Status,ACTIVO,startMonth,CONSTRUCTION_TYPE,datediff,Descripción,Date In,Property Type,End_Week,typology type,Coordenadas,Boundary,Título,LISTING_TYPE,Fecha\n", 1)},
		"decimal commas":           {file: strings.ReplaceAll(csvFile, "-3.7038,40.4168", "-3,7038; 40,4168")},
		"decimal commas, no more":  {file: strings.ReplaceAll(csvFile, "-3.7038,40.4168", "-3,7038,40,4168")},
		"decimal commas, spaced":   {file: strings.ReplaceAll(csvFile, "-3.7038,40.4168", "-3,7038, 40,4168")},
		"coordinates in brackets":  {file: strings.ReplaceAll(csvFile, "-3.7038,40.4168", "( -3.7038 , 40.4168 )")},
		"coordinates apart":        {file: strings.ReplaceAll(csvFile, "-3.7038,40.4168", "-3.7038 40.4168")},
		"y before x":               {file: strings.ReplaceAll(csvFile, "-3.7038,40.4168", "40.4168,-3.7038"), opts: ImportOptions{SwapXY: true}},
		"NDJSON":                   {file: ndjson, format: FormatNDJSON},
		"NDJSON, CRLF, a mark":     {file: "\uFEFF\r\n" + strings.ReplaceAll(ndjson, "\n", "\r\n\r\n"), format: FormatNDJSON},
		"NDJSON, zstd":             {file: zstded(t, ndjson), format: FormatNDJSON, packing: "zstd"},
		"NDJSON, what GET answers": {file: strings.ReplaceAll(ndjson, "}", `,"owner":"mallory","created_at":null,"updated_at":"2020-01-01T00:00:00.000Z"}`), format: FormatNDJSON},
	} {
		t.Run(name, func(t *testing.T) {
			store, _ := openSQLite(t)
			opts := tt.opts
			opts.Owner, opts.Now = asImporter.Owner, asImporter.Now
			report, err := Import(t.Context(), store, strings.NewReader(tt.file), opts)
			must(t, err)
			if tt.format == "" {
				tt.format = FormatCSV
			}
			if tt.encoding == "" {
				tt.encoding = EncodingUTF8
			}
			if report.Stored != 2 || report.Format != tt.format || report.Encoding != tt.encoding || report.Packing != tt.packing ||
				report.UnknownColumns != nil || report.Bad != nil || report.OtherDates != 0 || report.LookSwapped {
				t.Errorf("report %+v", report)
			}
			got, err := store.Get(t.Context(), "u1")
			must(t, err)
			wantSame(t, got, imported("u1"))
			got, err = store.Get(t.Context(), "u2")
			must(t, err)
			want := imported("u2")
			want.Title = "Segundo"
			wantSame(t, got, want)

			// The same file twice changes nothing.
			for _, how := range []OnDuplicate{SkipDuplicate, ReplaceDuplicate, MergeDuplicate} {
				opts.OnDuplicate, opts.Now = how, noon
				report, err := Import(t.Context(), store, strings.NewReader(tt.file), opts)
				if must(t, err); report.Stored+report.Changed > 0 || report.Existing+report.Unchanged != 2 {
					t.Errorf("a second time: %+v", report)
				}
			}
		})
	}
}

// TestImportTwice: rows without an _id are given the same one.
func TestImportTwice(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			file := header + row("id_uda", "") + row("id_uda", "") + row("id_uda", "none", "title", "another")
			report, err := Import(t.Context(), store, strings.NewReader(file), asImporter)
			must(t, err)
			if report.Stored != 3 || report.MadeIDs != 3 {
				t.Errorf("%+v", report)
			}
			opts := asImporter
			opts.OnDuplicate = ReplaceDuplicate
			report, err = Import(t.Context(), store, strings.NewReader(file), opts)
			if must(t, err); report.Unchanged != 3 || report.Stored != 0 {
				t.Errorf("a second time: %+v", report)
			}
		})
	}
}

// TestRejects: bad rows are left out, and are in the rejects file as they
// were.
func TestRejects(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			insert(t, store, "taken")
			bad := []struct{ row, line, column, reason string }{
				{row("end_week", "x"), "3", "end_week", "end_week must be an integer of 32 bits"},
				{"a,b\n", "4", "", "has more or fewer values than the header"},
				{row("title", `a"b`), "5", "", "has a quote inside a value that is not quoted"},
				{row("date", "", "coordinates", `"200,1"`), "6", "date", "date is required"},
				{row("description", "\"two\nlines\"", "build_status", "1.5"), "7", "build_status", "build_status must be an integer of 32 bits"},
				{row("id_uda", "taken"), "10", "id_uda", "id_uda is taken, in the database or further up in the file"},
				{row("id_uda", "u1"), "11", "id_uda", "id_uda is taken, in the database or further up in the file"},
				{row("title", `"never closed`), "13", "", "has a quote inside a quoted value that is not doubled"}, // by the coordinates' one
			}
			file := header + row()
			for i, b := range bad {
				if i == 5 {
					file += row("id_uda", "u9")
				}
				if i == 7 {
					file += row("id_uda", "u10")
				}
				file += b.row
			}
			file += row("id_uda", "u11")
			var rejects strings.Builder
			opts := asImporter
			opts.SkipBad, opts.Rejects = true, &rejects
			report, err := Import(t.Context(), store, strings.NewReader(file), opts)
			must(t, err)
			if report.Stored != 4 || report.Rejected != len(bad) || report.Rows != 4+len(bad) {
				t.Errorf("%+v", report)
			}
			ids, _ := walk(t, store, 10)
			wantIDs(t, ids, "taken", "u1", "u10", "u11", "u9")
			records, err := csv.NewReader(strings.NewReader(rejects.String())).ReadAll()
			must(t, err)
			want := map[string]string{"line": "column|reason|row"}
			for _, b := range bad {
				want[b.line] = b.column + "|" + b.reason + "|" + strings.TrimSuffix(b.row, "\n")
			}
			got := map[string]string{}
			for _, r := range records {
				got[r[0]] = strings.Join(r[1:], "|")
			}
			if !maps.Equal(got, want) {
				t.Errorf("rejects %q\nwant    %q", got, want)
			}
		})
	}
}

// TestDryRun: the report is that of the import, and nothing is stored.
func TestDryRun(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			insert(t, store, "u1")
			var file strings.Builder
			file.WriteString(header + row("title", "changed"))
			const many = maxTransaction + 2000
			for i := range many {
				file.WriteString(row("id_uda", fmt.Sprint(i)))
			}
			file.WriteString(row("id_uda", "0", "title", "further down") + row("title", "bad", "date", ""))
			opts := asImporter
			opts.DryRun, opts.OnDuplicate, opts.SkipBad = true, ReplaceDuplicate, true
			dry, err := Import(t.Context(), store, strings.NewReader(file.String()), opts)
			must(t, err)
			if dry.Stored != many || dry.Changed != 2 || dry.Rejected != 1 || dry.Done != 0 {
				t.Errorf("%+v", dry)
			}
			got, err := store.Get(t.Context(), "u1")
			must(t, err)
			wantSame(t, got, sample("u1"))
			if ids, _ := walk(t, store, 1000); len(ids) != 1 {
				t.Errorf("%d stored by a dry run", len(ids))
			}
			opts.DryRun = false
			done, err := Import(t.Context(), store, strings.NewReader(file.String()), opts)
			must(t, err)
			if dry.Done = done.Done; fmt.Sprintf("%+v", dry) != fmt.Sprintf("%+v", done) {
				t.Errorf("dry  %+v\nreal %+v", dry, done)
			}
		})
	}
}

// TestBatches: what was complete stays, and an import from the next row on
// makes the whole.
func TestBatches(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			var good, bad strings.Builder
			good.WriteString(header)
			bad.WriteString(header)
			for i := 1; i <= 1000; i++ {
				good.WriteString(row("id_uda", "", "title", fmt.Sprint(i)))
				if i == 777 {
					bad.WriteString(row("id_uda", "", "end_week", "x"))
				} else {
					bad.WriteString(row("id_uda", "", "title", fmt.Sprint(i)))
				}
			}
			opts := asImporter
			opts.Batch = 100
			report, err := Import(t.Context(), store, strings.NewReader(bad.String()), opts)
			wantErr(t, err, ErrBadRows)
			if report.Done != 700 || report.Stored != 700 {
				t.Errorf("%+v", report)
			}
			opts.From = report.Done + 1
			report, err = Import(t.Context(), store, strings.NewReader(good.String()), opts)
			must(t, err)
			if report.Stored != 300 || report.Done != 1000 {
				t.Errorf("%+v", report)
			}
			opts.From, opts.OnDuplicate = 0, ReplaceDuplicate
			if report, err = Import(t.Context(), store, strings.NewReader(good.String()), opts); err != nil || report.Unchanged != 1000 {
				t.Errorf("the whole once more: %+v, %v", report, err)
			}
		})
	}
}

// TestMergeColumns: a file with some of the columns changes those.
func TestMergeColumns(t *testing.T) {
	store, _ := openSQLite(t)
	insert(t, store, "a", "b")
	opts := asImporter
	opts.OnDuplicate = MergeDuplicate
	report, err := Import(t.Context(), store, strings.NewReader("id_uda;Título;boundary_id\na;nuevo;\nb;null;7\n"), opts)
	must(t, err)
	if report.Changed != 2 {
		t.Errorf("%+v", report)
	}
	for id, title := range map[string]string{"a": "nuevo", "b": ""} {
		got, err := store.Get(t.Context(), id)
		must(t, err)
		want := sample(id)
		want.Title, want.UpdatedAt, want.BoundaryID = title, got.UpdatedAt, nil
		if seven := int32(7); id == "b" {
			want.BoundaryID = &seven
		}
		wantSame(t, got, want)
	}
	report, err = Import(t.Context(), store, strings.NewReader("id_uda,title\na,x\nnew,y\n"), opts)
	wantErr(t, err, ErrBadRows)
	if len(report.Bad) == 0 || report.Bad[0].Line != 3 || !strings.Contains(report.Bad[0].Reason.String(), "no such inmueble") {
		t.Errorf("%+v", report)
	}
	_, err = Import(t.Context(), store, strings.NewReader("id,title\nx,y\n"), opts)
	wantErr(t, err, ErrHeader)
}

// TestSwapped: a warning when most places lie in Spain the other way round.
func TestSwapped(t *testing.T) {
	store, _ := openSQLite(t)
	opts := asImporter
	opts.DryRun = true
	file := header + row("coordinates", `"40.4168,-3.7038"`) + row("id_uda", "u2", "coordinates", `"41.38,2.17"`) + row("id_uda", "u3", "date", "20/01/2026")
	report, err := Import(t.Context(), store, strings.NewReader(file), opts)
	must(t, err)
	if !report.LookSwapped || report.OtherDates != 1 {
		t.Errorf("%+v", report)
	}
}

func TestImportBroken(t *testing.T) {
	store, _ := openSQLite(t)
	file := header + strings.Repeat(row(), 10_000)
	for name, text := range map[string]string{
		"gzip, cut off": gzipped(t, file)[:300], "gzip, changed": gzipped(t, file)[:50] + "xxxxxxxx" + gzipped(t, file)[58:],
		"zstd, cut off": zstded(t, file)[:150], "gzip, the magic alone": "\x1f\x8b",
	} {
		_, err := Import(t.Context(), store, strings.NewReader(text), asImporter)
		if !errors.Is(err, ErrEncoding) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if ids, _ := walk(t, store, 10); len(ids) != 0 {
		t.Errorf("stored %q", ids)
	}
}

func TestParseNumber(t *testing.T) {
	for text, want := range map[string]float64{
		"1": 1, " -3,5 ": -3.5, "3.5": 3.5, "1.234,5": 1234.5, "12.345.678,25": 12345678.25, "1e3": 1000, "+7": 7, ",5": .5, "5,": 5,
	} {
		if got, ok := parseNumber(text); !ok || got != want {
			t.Errorf("%q is %v %v, want %v", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "-", "1,2,3", "1,2.3", "1.23,4", "0x10", "nan", "inf", "1_0", "1 000", "1e999", "1,5e", "é"} {
		if got, ok := parseNumber(text); ok {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestIsDate(t *testing.T) {
	for text, want := range map[string]bool{
		"2026-01-15": true, "2026-01-15T10:00:00Z": true, "2026-01-15 10:00:00": true, "2026-01-15T10:00": true, "2026-01-15T10:00:00.123+02:00": true,
		"15/01/2026": false, "2026-13-01": false, "2026-02-30": false, "": false, "2026": false, "2026-01-15x": false, "hoy": false,
	} {
		if isDate(text) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
}

// FuzzRows: whatever the file, every row is stored, skipped or left out, what
// is left out is told of, and reading it again tells the same.
func FuzzRows(f *testing.F) {
	f.Add([]byte(header+row()+row("id_uda", "\"a\nb\"")), byte(0))
	f.Add([]byte("id;x;y\n1;2,5;3\n"), byte(2))
	f.Add([]byte(`{"_id":"a"}`+"\n"), byte(3))
	f.Add([]byte("\xff\xfei\x00d\x00"), byte(1))
	f.Add([]byte(header+`"a"b,"`+"\n"+row()), byte(1))
	f.Fuzz(func(t *testing.T, file []byte, how byte) {
		if len(file) > 1<<16 {
			return
		}
		run := func() (Report, string, error) {
			var rejects strings.Builder
			opts := asImporter
			opts.SkipBad, opts.Rejects, opts.OnDuplicate = true, &rejects, OnDuplicate(how%4)
			report, err := Import(t.Context(), checking{t: t}, bytes.NewReader(file), opts)
			return report, rejects.String(), err
		}
		report, rejects, err := run()
		if err == nil && report.Rows != report.Stored+report.Skipped+report.Rejected {
			t.Errorf("rows are lost: %+v", report)
		}
		if records, err := csv.NewReader(strings.NewReader(rejects)).ReadAll(); err != nil || report.Rejected > 0 && len(records) != report.Rejected+1 {
			t.Errorf("%d rejects of %d can be read: %v", len(records)-1, report.Rejected, err)
		}
		again, rejectsAgain, errAgain := run()
		if fmt.Sprintf("%+v", report) != fmt.Sprintf("%+v", again) || rejects != rejectsAgain || (err == nil) != (errAgain == nil) {
			t.Errorf("%+v %v\nagain %+v %v", report, err, again, errAgain)
		}
	})
}

// conformLargeLoad: a load that is too large for a transaction is all or
// nothing, too.
func conformLargeLoad(t *testing.T, s Store, _ spoiler) {
	const many = maxTransaction + importBatch + importBatch/2
	insert(t, s, "000001", "b")
	rows := func(n int, err error) Batch {
		return Batch{By: Admin, OnDuplicate: ReplaceDuplicate, Rows: func(yield func(Row, error) bool) {
			for i := range n {
				m := sample(fmt.Sprintf("%06d", i))
				m.Title, m.UpdatedAt = "loaded", noon
				if !yield(Row{m, allGiven}, nil) {
					return
				}
			}
			if err != nil {
				yield(Row{}, err)
			}
		}}
	}
	boom := errors.New("boom")
	untouched := func() {
		t.Helper()
		ids, _ := walk(t, s, 1000)
		wantIDs(t, ids, "000001", "b")
		got, err := s.Get(t.Context(), "000001")
		must(t, err)
		wantSame(t, got, sample("000001"))
	}
	_, err := s.Load(t.Context(), rows(many, boom))
	wantErr(t, err, boom)
	untouched()

	ctx, cancel := context.WithCancel(t.Context())
	b := rows(many, nil)
	all, n := b.Rows, 0
	b.Rows = func(yield func(Row, error) bool) {
		for r, err := range all {
			if n++; n == many-10 {
				cancel()
			}
			if !yield(r, err) {
				return
			}
		}
	}
	_, err = s.Load(ctx, b)
	wantErr(t, err, context.Canceled)
	untouched()

	// A duplicate is told of by its ordinal, however far back it is.
	plain := rows(many, nil)
	plain.OnDuplicate = FailDuplicate
	_, err = s.Load(t.Context(), plain)
	if bad, ok := errors.AsType[*BatchError](err); !ok || bad.Ordinal != 1 || bad.ID != "000001" {
		t.Errorf("a duplicate: %v", err)
	}
	untouched()

	l, err := s.Load(t.Context(), rows(many, nil))
	if must(t, err); l != (Loaded{Inserted: many - 1, Changed: 1}) {
		t.Errorf("%v", l)
	}
	want := sample("000001")
	want.Title, want.UpdatedAt = "loaded", noon
	got, err := s.Get(t.Context(), "000001")
	must(t, err)
	wantSame(t, got, want)
	if l, err = s.Load(t.Context(), rows(many, nil)); err != nil || l != (Loaded{Unchanged: many}) {
		t.Errorf("once more: %v, %v", l, err)
	}
	if ids, _ := walk(t, s, 1000); len(ids) != many+1 || !slices.Contains(ids, "b") {
		t.Errorf("%d stored", len(ids))
	}
}
