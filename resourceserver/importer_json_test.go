package resourceserver

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestImportArray: an array's elements are judged as lines of NDJSON are, and
// what is wrong is told by the line that it begins on.
func TestImportArray(t *testing.T) {
	one, two := body("_id", `"u1"`), body("_id", `"u2"`, "title", `"[a], {b}, \"c\\"`)
	for name, tt := range map[string]struct {
		file string
		skip bool
		want string // what is stored, then line and reason of what isn't
	}{
		"two":              {" [\n" + one + ",\n  " + two + "\n]\n", false, "u1 u2"},
		"one line":         {"[" + one + "," + two + "]", false, "u1 u2"},
		"indented":         {"[\n{\n" + strings.TrimPrefix(strings.ReplaceAll(one, ",\"", ",\n\""), "{") + "\n]", false, "u1"},
		"none":             {"[ ]", false, ""},
		"cut off":          {"[" + one + ",\n" + two[:40], true, "u1 | 2 is cut off: the file ends inside the array"},
		"no bracket":       {"[" + one + "\n", true, "| 1 is cut off: the file ends inside the array"},
		"nothing":          {"", false, "| 1 is cut off: the file ends inside the array"},
		"more behind":      {"[" + one + "]\n" + two, true, "u1 | 2 stands behind the end of the array"},
		"a comma too many": {"[" + one + ",\n]", true, "u1 | 2 has no value between two commas, or before the end"},
		"two commas":       {"[" + one + ",,\n" + two + "]", true, "u1 u2 | 1 has no value between two commas, or before the end"},
		"no array":         {"{\"inmuebles\":[" + one + "]}", true, "| 1 is not in a JSON array, as the file must be"},
		"other values":     {"[" + one + ",\n7,\n" + two + ",null]", true, "u1 u2 | 2 is not a JSON object with each member once | 3 is not a JSON object with each member once"},
		"a bad one":        {"[" + one + ",\n" + body("end_week", `"x"`) + "]", false, "| 2 end_week must be an integer of 32 bits"},
		"too long":         {"[" + one + ",\n\"" + strings.Repeat("x", maxRow) + "\",\n" + two + "]", true, "u1 u2 | 2 is longer than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			store, _ := openSQLite(t)
			opts := asImporter
			opts.Format, opts.SkipBad = FormatJSON, tt.skip
			report, err := Import(t.Context(), store, strings.NewReader(tt.file), opts)
			if err != nil && (tt.skip || !errors.Is(err, ErrBadRows)) {
				t.Fatal(err)
			}
			ids, _ := walk(t, store, 10)
			got := strings.Join(ids, " ")
			for _, bad := range report.Bad {
				got = strings.TrimSpace(got + fmt.Sprintf(" | %d %s", bad.Line, strings.TrimSpace(bad.Column+" "+bad.Reason.String())))
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// TestImportOfJSONExport: what was exported as JSON comes back, without being
// told what it is, and from any row on.
func TestImportOfJSONExport(t *testing.T) {
	from, _ := openSQLite(t)
	_, err := from.Load(t.Context(), Batch{Rows: Samples(3, 50, "")})
	must(t, err)
	var file bytes.Buffer
	_, err = Export(&file, JSON, All(t.Context(), from, nil))
	must(t, err)
	to, _ := openSQLite(t)
	opts := asImporter
	opts.From = 11
	report, err := Import(t.Context(), to, bytes.NewReader(file.Bytes()), opts)
	must(t, err)
	if report.Format != FormatJSON || report.Stored != 40 {
		t.Errorf("report %+v", report)
	}
}

// TestImportMemoryOfArray: as TestImportMemory.
func TestImportMemoryOfArray(t *testing.T) {
	const rows = 40_000
	r, w := io.Pipe()
	go func() {
		sep := "["
		var err error
		for i := 0; i < rows && err == nil; i++ {
			_, err = io.WriteString(w, sep+body("_id", fmt.Sprintf("%q", fmt.Sprint(i))))
			sep = ",\n"
		}
		_, _ = io.WriteString(w, "]")
		_ = w.CloseWithError(err)
	}()
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var most uint64
	report, err := Import(t.Context(), watching{most: &most}, r, asImporter)
	must(t, err)
	if report.Stored != rows {
		t.Errorf("report %+v", report)
	}
	if grown := int64(most) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("the heap grew by %d KiB after collections", grown>>10)
	}
}

// FuzzArray: of an array that encoding/json reads, the elements are the same;
// any other file has a fault, or an element that is no JSON.
func FuzzArray(f *testing.F) {
	f.Add(`[{"a":[1,"],"]},2 , "\"" ]`)
	f.Add(`[1]]`)
	f.Add("[1,\n]")
	f.Fuzz(func(t *testing.T, file string) {
		l := lines{r: bufio.NewReaderSize(strings.NewReader(file), 16)}
		var got []string
		faulty := false
		for {
			_, err := l.element()
			if errors.Is(err, io.EOF) {
				break
			}
			if faulty = faulty || err != nil || !json.Valid(l.raw); err != nil && rowFault(err) == "" {
				t.Fatal(err)
			}
			got = append(got, string(l.raw))
		}
		var want []json.RawMessage
		wrong := json.Unmarshal([]byte(file), &want) != nil || !strings.HasPrefix(strings.TrimLeft(file, " \t\r\n"), "[")
		if wrong != faulty {
			t.Fatalf("faulty %t, want %t, of %q", faulty, wrong, file)
		}
		if !wrong && !slices.EqualFunc(got, want, func(a string, b json.RawMessage) bool { return a == string(b) }) {
			t.Errorf("%q, want %q", got, want)
		}
	})
}
