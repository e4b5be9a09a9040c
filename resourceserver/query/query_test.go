package query

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/bson"
	"pgregory.net/rapid"
)

// some is the allow-list of the tests.
var some = func() Fields {
	fields := Fields{}
	for _, f := range []Field{
		{Name: "_id", Kind: Text},
		{Name: "title", Kind: Text, Default: ""},
		{Name: "date", Kind: Date, Raw: "date", Path: "date_key"},
		{Name: "listing_type", Kind: Int},
		{Name: "property_type", Kind: Int},
		{Name: "end_week", Kind: Int},
		{Name: "date_diff", Kind: Int, Default: int64(0)},
		{Name: "construction_type", Kind: Int, Nullable: true},
		{Name: "boundary_id", Kind: Int, Nullable: true},
		{Name: "x_coord", Kind: Float},
		{Name: "is_active", Kind: Bool},
		{Name: "created_at", Kind: Time, Nullable: true},
	} {
		f.Column = f.Name
		if f.Path == "" {
			f.Path = f.Name
		}
		fields[f.Name] = &f
	}
	fields["text"] = &Field{Name: "text", Long: true, Any: []*Field{fields["title"], fields["_id"]}}
	return fields
}()

// show writes a tree for people.
func show(n *Node) string {
	names := map[Op]string{
		Eq: "=", Neq: "<>", Gt: ">", Gte: ">=", Lt: "<", Lte: "<=", In: "in", Nin: "not in", Null: "is null", NotNull: "is not null",
		Like: "like", Nlike: "not like", Ilike: "ilike", Nilike: "not ilike", Word: "has", Nword: "has no",
	}
	one := func(v any) string {
		if s, ok := v.(string); ok {
			return strconv.Quote(s)
		}
		return fmt.Sprint(v)
	}
	switch n.Op {
	case And, Or:
		word := map[Op]string{And: "and", Or: "or"}[n.Op]
		if len(n.Nodes) == 0 {
			return "()" + word
		}
		var parts []string
		for i := range n.Nodes {
			parts = append(parts, show(&n.Nodes[i]))
		}
		return "(" + strings.Join(parts, " "+word+" ") + ")"
	case In, Nin:
		var parts []string
		for _, v := range n.List {
			parts = append(parts, one(v))
		}
		return n.Field.Name + " " + names[n.Op] + " [" + strings.Join(parts, " ") + "]"
	case Null, NotNull:
		return n.Field.Name + " " + names[n.Op]
	}
	return n.Field.Name + " " + names[n.Op] + " " + one(n.Value)
}

// split takes a query string apart that is not percent-encoded.
func split(query string) url.Values {
	values := url.Values{}
	for part := range strings.SplitSeq(query, "&") {
		name, v, _ := strings.Cut(part, "=")
		values.Add(name, strings.ReplaceAll(v, "%26", "&"))
	}
	return values
}

type vector struct{ Query, Tree, Parameter, Error, Why string }

func vectors(t testing.TB) (accepted, refused []vector) {
	raw, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var all struct{ Accepted, Refused []vector }
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	return all.Accepted, all.Refused
}

func TestVectors(t *testing.T) {
	accepted, refused := vectors(t)
	if len(accepted) < 30 || len(refused) < 25 {
		t.Fatalf("only %d and %d vectors", len(accepted), len(refused))
	}
	for _, v := range accepted {
		n, err := Parse(some, split(v.Query))
		if err != nil {
			t.Errorf("%s: %v", v.Query, err)
		} else if got := show(&n); got != v.Tree {
			t.Errorf("%s: %s, want %s", v.Query, got, v.Tree)
		}
	}
	for _, v := range refused {
		n, err := Parse(some, split(v.Query))
		e, ok := errors.AsType[*Error](err)
		if !ok {
			t.Errorf("%s: accepted as %s", v.Query, show(&n))
		} else if e.Parameter != v.Parameter || !strings.Contains(e.Reason.String(), v.Error) {
			t.Errorf("%s: %v, want %s at %s", v.Query, e, v.Error, v.Parameter)
		}
	}
}

func TestLimits(t *testing.T) {
	deep := func(n int) string {
		return strings.Repeat("and(", n-1) + "listing_type.eq.1" + strings.Repeat(")", n-1)
	}
	for _, tt := range []struct {
		name, parameter, value, want string
	}{
		{"a long filter", "title", "eq." + strings.Repeat("x", MaxLength), "8192 bytes is the limit"},
		{"a deep filter", "and", "(" + deep(MaxDepth+1) + ")", "8 levels is the limit"},
		{"many values", "listing_type", "in.(1" + strings.Repeat(",1", MaxTerms) + ")", "500 conditions is the limit"},
		{"many conditions", "or", "(end_week.eq.1" + strings.Repeat(",end_week.gt.1", MaxTerms) + ")", "500 conditions is the limit"},
		{"a long pattern", "title", "like." + strings.Repeat("x", MaxPattern+1), "500 characters is the limit"},
		{"a long word", "title", "fts." + strings.Repeat("ñ", MaxWord+1), "64 characters is the limit"},
		{"many words", "text", "plfts." + strings.Repeat("a ", MaxTerms/2), "500 conditions is the limit"},
		{"deep full text", "title", "fts." + strings.Repeat("(", MaxDepth) + "a" + strings.Repeat(")", MaxDepth), "8 levels is the limit"},
		{"NUL", "title", "eq.\x00", "U+0000"},
		{"ill-formed text", "title", "eq.\xff", "valid Unicode"},
	} {
		_, err := Parse(some, url.Values{tt.parameter: {tt.value}})
		if e, ok := errors.AsType[*Error](err); !ok || !strings.Contains(e.Reason.String(), tt.want) || e.Parameter != tt.parameter {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
	for _, v := range []url.Values{
		{"and": {"(" + deep(MaxDepth) + ")"}},
		{"listing_type": {"in.(1" + strings.Repeat(",1", MaxTerms-1) + ")"}},
	} {
		if _, err := Parse(some, v); err != nil {
			t.Errorf("just within the limit: %v", err)
		}
	}
}

func TestOrder(t *testing.T) {
	for _, tt := range []struct{ order, want, reversed, reason string }{
		{order: "", want: "_id", reversed: "_id.desc"},
		{order: "_id.desc", want: "_id.desc", reversed: "_id"},
		{order: "date.desc.nullslast,_id", want: "date.desc,_id", reversed: "date,_id.desc"},
		{order: "date.desc", want: "date.desc,_id", reversed: "date,_id.desc"},
		{order: "date", want: "date,_id.desc", reversed: "date.desc,_id"},
		{order: "boundary_id.desc.nullslast,title.asc,_id,end_week", want: "boundary_id.desc.nullslast,title,_id", reversed: "boundary_id.nullsfirst,title.desc,_id.desc"},
		{order: "boundary_id.nullsfirst", want: "boundary_id.nullsfirst,_id.desc", reversed: "boundary_id.desc.nullslast,_id"},
		{order: "surface", reason: "doesn't exist"},
		{order: "date,,_id", reason: "doesn't exist"},
		{order: "date.up", reason: "isn't a direction"},
		{order: "date.nullslast.desc", reason: "isn't a direction"},
		{order: "date,date.desc", reason: "twice"},
		{order: "date,title,end_week,listing_type,property_type,x_coord", reason: "5 is the limit"},
	} {
		o, err := ParseOrder(some, tt.order)
		if tt.reason != "" {
			if e, ok := errors.AsType[*Error](err); !ok || !strings.Contains(e.Reason.String(), tt.reason) {
				t.Errorf("%s: %v, want %s", tt.order, err, tt.reason)
			}
			continue
		}
		if err != nil || o.String() != tt.want || o.Reversed().String() != tt.reversed {
			t.Errorf("%q: %s, backwards %s, %v; want %s, %s", tt.order, o, o.Reversed(), err, tt.want, tt.reversed)
		}
		again, err := ParseOrder(some, o.String())
		if err != nil || again.String() != o.String() {
			t.Errorf("%s read again is %s, %v", o, again, err)
		}
	}
}

func TestDateKey(t *testing.T) {
	for text, want := range map[string]string{
		"2021-03-01":                       "2021-03-01",
		"20210301":                         "2021-03-01",
		"2021-03-01T00:00":                 "2021-03-01",
		"2021-03-01 00:00:00.000":          "2021-03-01",
		"2021-03-01T00:00:00Z":             "2021-03-01",
		"2021-03-01T23:30:00-02":           "2021-03-02T01:30:00",
		"2021-03-01T23:30:00-0200":         "2021-03-02T01:30:00",
		"2021-03-01T10:00:00.123456+00:00": "2021-03-01T10:00:00.123456",
		"2021-03-01t10:00:00,50z":          "2021-03-01T10:00:00.5",
		"20210301T1015":                    "2021-03-01T10:15:00",
		"2024-02-29":                       "2024-02-29",
		"2024-02-30T00:00":                 "2024-02-30T00:00",
		"2021-03-01T24:00":                 "2021-03-01T24:00",
		"2021-03-01T10:60":                 "2021-03-01T10:60",
		"2021-03-01T10:00:00.":             "2021-03-01T10:00:00.",
		"2021-03-01T10:00:00.1234567891":   "2021-03-01T10:00:00.1234567891",
		"2021-03-01T10":                    "2021-03-01T10",
		"0000-01-01T00:00+01:00":           "0000-01-01T00:00+01:00",
		"1 de marzo":                       "1 de marzo",
		"":                                 "",
	} {
		if got := DateKey(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		if got := DateKey(want); got != want {
			t.Errorf("the key of the key %q is %q", want, got)
		}
	}
}

// TestPatterns holds the matcher to the simplest expression that means the
// same, and the expression that MongoDB gets, freed of its atomic groups, to
// the matcher.
func TestPatterns(t *testing.T) {
	letters := rapid.StringOfN(rapid.RuneFrom([]rune(`aAbñÑÁkK\%_*.[ſs`+"\n")), 0, 8, -1)
	rapid.Check(t, func(r *rapid.T) {
		pattern, reason := parsePattern(letters.Draw(r, "pattern"))
		if reason != "" {
			r.Skip(reason)
		}
		text, fold := letters.Draw(r, "text"), rapid.Bool().Draw(r, "fold")
		simple := `(?s)\A`
		escaped := false
		for _, c := range pattern {
			switch {
			case !escaped && c == '\\':
				escaped = true
				continue
			case !escaped && c == '%':
				simple += ".*"
			case !escaped && c == '_':
				simple += "."
			case fold:
				simple += "(?i:" + regexp.QuoteMeta(string(c)) + ")"
			default:
				simple += regexp.QuoteMeta(string(c))
			}
			escaped = false
		}
		want := regexp.MustCompile(simple + `\z`).MatchString(text)
		if got := MatchPattern(pattern, text, fold); got != want {
			r.Fatalf("%q like %q (fold %v): %v, want %v", text, pattern, fold, got, want)
		}
		plain := regexp.MustCompile(strings.ReplaceAll(regex(pattern, fold), "(?>", "(?:"))
		if got := plain.MatchString(text); got != want {
			r.Fatalf("%q by %s: %v, want %v", text, plain, got, want)
		}
	})
}

// FuzzParse: no text of a request panics, breaks a limit, or gets into the
// SQL; what was refused is an *Error that doesn't repeat it.
func FuzzParse(f *testing.F) {
	accepted, refused := vectors(f)
	for _, v := range append(accepted, refused...) {
		name, value, _ := strings.Cut(v.Query, "=")
		f.Add(name, value)
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		n, err := Parse(some, url.Values{name: {value}, "title": {"neq.x"}})
		if err != nil {
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		text, args := n.AppendSQL(nil, nil)
		if strings.Count(string(text), "?") != len(args) {
			t.Errorf("%d values for %s", len(args), text)
		}
		if !regexp.MustCompile(`\A[a-z_0-9 (),?<>=ANDORTLISU]*\z`).Match(text) {
			t.Errorf("the SQL is %s", text)
		}
		if _, err := bson.Marshal(n.Mongo()); err != nil {
			t.Error(err)
		}
		n.Match(func(f *Field) any {
			return map[Kind]any{Text: "x", Date: "2021-03-01", Int: int64(1), Float: 1.5, Bool: true, Time: int64(7)}[f.Kind]
		})
	})
}

func BenchmarkParse(b *testing.B) {
	values, _ := url.ParseQuery("listing_type=eq.1&property_type=in.(1,2)&start_month=gte.3&title=ilike.*piso*&or=(boundary_id.is.null,construction_type.not.eq.3)")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(some, values); err != nil {
			b.Fatal(err)
		}
	}
}
