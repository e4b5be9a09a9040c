package i18n_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// made is a language that nobody speaks: one file is all that it takes.
const made = `{
	"is required": "egas",
	"still to be translated": "",
	"must be %s": "belu %s",
	"%s or %s": "%s vo %s",
	"%d of %s": "%[2]s ki %[1]d",
	"must have at most %d characters": {"one": "%d tok", "few": "%d toki", "many": "%d tokov", "other": "%d toku"}
}`

func madeUp(t *testing.T) *i18n.Catalogue {
	t.Helper()
	c, err := i18n.Load(fstest.MapFS{"pl.json": {Data: []byte(made)}, "es.json": {Data: []byte(`{"is required": "es obligatorio"}`)}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAnotherLanguage(t *testing.T) {
	c := madeUp(t)
	if got, want := c.Languages(), []string{"en", "es", "pl"}; !slices.Equal(got, want) {
		t.Errorf("languages %v, want %v", got, want)
	}
	l := c.Choose([]string{"fr, pl-PL;q=0.9, es;q=0.8"})
	for _, tc := range []struct {
		text        i18n.Text
		want, plain string
	}{
		{"is required", "egas", "is required"},
		{"still to be translated", "still to be translated", "still to be translated"},
		{"nobody has translated this", "nobody has translated this", "nobody has translated this"},
		{i18n.Textf("must be %s", "x"), "belu x", "must be x"},
		{i18n.Textf("must be %s", i18n.Text("is required")), "belu egas", "must be is required"},
		{i18n.Textf("must be %s", i18n.Or{}), "belu ", "must be "},
		{i18n.Textf("must be %s", i18n.Or{"a"}), "belu a", "must be a"},
		{i18n.Textf("must be %s", i18n.Or{"a", "b"}), "belu a vo b", "must be a or b"},
		{i18n.Textf("must be %s", i18n.Or{"a", "b", "c"}), "belu a, b vo c", "must be a, b or c"},
		{i18n.Textf("%d of %s", 3, "x"), "x ki 3", "3 of x"},
		{i18n.Textf("must have at most %d characters", 1), "1 tok", "must have at most 1 characters"},
		{i18n.Textf("must have at most %d characters", 3), "3 toki", "must have at most 3 characters"},
		{i18n.Textf("must have at most %d characters", 20_000), "20000 tokov", "must have at most 20000 characters"},
	} {
		if got := l.Say(tc.text); got != tc.want {
			t.Errorf("%q: %q, want %q", string(tc.text), got, tc.want)
		}
		if got := tc.text.String(); got != tc.plain {
			t.Errorf("%q: in English %q, want %q", string(tc.text), got, tc.plain)
		}
	}
}

func TestLoad(t *testing.T) {
	for name, tc := range map[string]struct{ file, text, want string }{
		"not a tag":       {"notalanguage.json", `{}`, "not the tag of a language"},
		"English":         {"en.json", `{}`, "not the tag of a language"},
		"not JSON":        {"es.json", `{"a": "b",}`, "es.json"},
		"twice":           {"es.json", `{"a": "b", "a": "c"}`, "duplicate"},
		"neither":         {"es.json", `{"a": 1}`, "es.json"},
		"no such form":    {"es.json", `{"a": {"some": "x", "other": "y"}}`, "some"},
		"no form for all": {"es.json", `{"a": {"one": "x"}}`, "other"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := i18n.Load(fstest.MapFS{tc.file: {Data: []byte(tc.text)}})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

type named string

// What goes in comes out as fmt would have it.
func TestTextf(t *testing.T) {
	for _, tc := range []struct {
		format string
		args   []any
	}{
		{"nothing", nil},
		{"100%%", nil},
		{"%d %d %d", []any{1, int32(-2), uint16(3)}},
		{"%d", []any{int64(math.MinInt64)}},
		{"%v %v", []any{0.5, -180.0}},
		{"%v %g", []any{1e21, float32(0.25)}},
		{"%v", []any{math.Inf(1)}},
		{"%s %v", []any{"x", "y"}},
		{"%q", []any{`a "b"`}},
		{"%s", []any{named("x")}},
		{"%t", []any{true}},
		{"%s", []any{errors.New("broken")}},
		{"%s", []any{time.Minute}},
		{"%s", []any{"<>&\u2028é€😀"}},
		{"%[2]s %[1]s", []any{"a", "b"}},
		{"%05d|%-4s|%.2f", []any{42, "x", 1.0 / 3}},
	} {
		got := i18n.Textf(tc.format, tc.args...)
		if want := fmt.Sprintf(tc.format, tc.args...); got.String() != want {
			t.Errorf("%q: %q, want %q", tc.format, got.String(), want)
		}
	}
}

// An argument can be what it likes: it is never read as a part of the text.
func FuzzTextf(f *testing.F) {
	for _, s := range []string{"", "x", "\x00", "\x00[]", "%s", "%!d", "\xff", `{"t":"is required"}`, `]`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		clean := strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
		text := i18n.Textf("must be %s", i18n.Textf("%s, after %d bytes", s, 7))
		got := text.String()
		if !strings.HasPrefix(got, "must be ") || !strings.HasSuffix(got, ", after 7 bytes") || strings.Contains(got, "\x00") {
			t.Fatalf("%q", got)
		}
		if middle := strings.TrimSuffix(strings.TrimPrefix(got, "must be "), ", after 7 bytes"); len([]rune(middle)) < len([]rune(clean)) {
			t.Errorf("%q became %q", s, middle)
		}
		es := i18n.Of("es").Say(text)
		if !strings.HasSuffix(es, ", tras 7 bytes") {
			t.Errorf("in Spanish %q", es)
		}
		if translated := i18n.Of("es").Translate(text); translated.String() != es {
			t.Errorf("translated once %q, twice %q", es, translated)
		}
	})
}

func TestJSON(t *testing.T) {
	out, err := json.Marshal(map[string]i18n.Text{"a": i18n.Textf("must be %s", "x"), "b": "is required"})
	if want := `{"a":"must be x","b":"is required"}`; err != nil || string(out) != want {
		t.Errorf("%s, %v, want %s", out, err, want)
	}
}

// What is kept can be said in every language later.
func TestKept(t *testing.T) {
	type row struct{ Reason i18n.Kept }
	text := i18n.Textf("must have at most %d characters", 150)
	out, err := json.Marshal(row{i18n.Kept(text)})
	if err != nil {
		t.Fatal(err)
	}
	var back row
	if err := json.Unmarshal(out, &back); err != nil || back.Reason.Text() != text {
		t.Errorf("%q, %v, want %q", back.Reason, err, text)
	}
	if got := i18n.Of("es").Say(back.Reason.Text()); got != "debe tener como máximo 150 caracteres" {
		t.Errorf("%q", got)
	}
}

func BenchmarkSay(b *testing.B) {
	text, l := i18n.Textf("must have at most %d characters", 150), i18n.Of("es")
	b.ReportAllocs()
	for b.Loop() {
		l.Say(text)
	}
}

func BenchmarkTextf(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_ = i18n.Textf("must have at most %d characters", 150)
	}
}
