package resourceserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/web"
	"github.com/urbandata/urbandata/resourceserver/query"
)

const (
	pathStats = pathAll + "/stats"

	paramGroup = "group"
	paramOf    = "of"

	maxGroupFields = 5
	maxGroups      = 1000
)

// ErrTooManyGroups is returned where the fields to group by make more groups
// than an answer may have.
var ErrTooManyGroups = errors.New("resourceserver: too many groups")

// StatsQuery asks for figures about the documents that Where is true of.
type StatsQuery struct {
	Where query.Node
	Group []*query.Field // by whose values the documents are put together; groupable
	Of    []*query.Field // numbers, of which the figures are
	Most  int            // groups
}

// Group is what is known about the documents that are equal in the fields of
// a [StatsQuery.Group].
type Group struct {
	Keys  []any // the values of those fields: int64, bool, string, or nil for null
	Count int64
	Of    []Figures // as the query's Of
}

// Figures are about the values of one field that aren't null.
type Figures struct {
	Count    int64
	Min, Max float64
	Sum      int64 // of what addend makes of each value
}

// coordinateUnit is the part of a degree by which coordinates are added up:
// 10 µ°, which is a centimetre on the equator. Sums of whole numbers have one
// result, whoever adds in whatever order; sums of fractions haven't.
const coordinateUnit = 1e7

// addend is a value as it is added up: in SQLite and in MongoDB by the same
// two operations of IEEE 754.
func addend(f *query.Field, v float64) int64 {
	if f.Kind == query.Float {
		v = math.Floor(float64(v*coordinateUnit) + 0.5) // the conversion keeps the compiler from one rounding for two
	}
	return int64(v)
}

// Mean is the arithmetic mean. Without values there is none.
func (s *Figures) Mean(f *query.Field) (mean float64, ok bool) {
	if s.Count == 0 {
		return 0, false
	}
	n := float64(s.Count)
	if f.Kind == query.Float {
		n *= coordinateUnit
	}
	return float64(s.Sum) / n, true
}

// groupable reports whether documents can be put together by a field: those
// with few values.
func groupable(f *query.Field) bool {
	return f.Kind == query.Int || f.Kind == query.Bool || f.Name == nameOwner
}

func isNumber(f *query.Field) bool { return f.Kind == query.Int || f.Kind == query.Float }

// bounds are those of a number that is valid.
func bounds(f *query.Field) (least, most float64) {
	if f.Kind == query.Float {
		b := float64(fields[fieldIndex[f.Name]].bound)
		return -b, b
	}
	return math.MinInt32, math.MaxInt32
}

// named are the fields that a query looks at beside its filter, each once.
func (q *StatsQuery) named() []*query.Field {
	all := slices.Clone(q.Group)
	for _, f := range q.Of {
		if !slices.Contains(all, f) {
			all = append(all, f)
		}
	}
	return all
}

// finish puts groups in the order of their keys, which is that of a list, or
// returns the error for too many.
func (q *StatsQuery) finish(groups []Group) ([]Group, error) {
	if len(groups) > q.Most {
		return nil, fmt.Errorf("%w: %d is the limit", ErrTooManyGroups, q.Most)
	}
	order := make(query.Order, len(q.Group))
	for i, f := range q.Group {
		order[i].Field = f
	}
	key := func(g Group) func(*query.Field) any {
		return func(f *query.Field) any { return g.Keys[slices.Index(q.Group, f)] }
	}
	slices.SortFunc(groups, func(a, b Group) int { return order.Compare(key(a), key(b)) })
	return groups, nil
}

// parseFields reads the names of fields with a comma between.
func parseFields(parameter, text string, most int, fits func(*query.Field) bool, reason i18n.Text) ([]*query.Field, error) {
	if text == "" {
		return nil, nil
	}
	hint := func() i18n.Text {
		var names []string
		for name, f := range filterFields {
			if fits(f) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return i18n.Textf("there are %s", strings.Join(names, ", "))
	}
	var all []*query.Field
	for name := range strings.SplitSeq(text, ",") {
		f := filterFields[name]
		switch {
		case f == nil:
			return nil, wrong(parameter, "names a field that doesn't exist", hint())
		case !fits(f):
			return nil, wrong(parameter, reason, hint())
		case slices.Contains(all, f):
			return nil, wrong(parameter, "names a field twice", "")
		}
		if all = append(all, f); len(all) > most {
			return nil, wrong(parameter, i18n.Textf("names too many fields: %d is the limit", most), "")
		}
	}
	return all, nil
}

// parseStats reads the query string of a request for figures. The error is
// the answer.
func parseStats(params url.Values) (q StatsQuery, err error) {
	for _, name := range slices.Sorted(maps.Keys(params)) {
		switch name {
		case paramGroup, paramOf, paramBox, paramNear, paramWithin:
			if len(params[name]) > 1 {
				return q, wrong(name, "is given more than once", "")
			}
			if params[name][0] == "" {
				return q, wrong(name, "has no value", "")
			}
		default:
			if !filterFields.IsFilter(name) {
				return q, wrong(shown(name), "is not a known parameter", "parameters are the names of fields, text, and, or, bbox, near, within, group and of")
			}
		}
	}
	q.Most = maxGroups
	if q.Where, _, err = parseFilter(params); err != nil {
		return q, wrongQuery(err)
	}
	if q.Group, err = parseFields(paramGroup, params.Get(paramGroup), maxGroupFields, groupable, "names a field that is no code, is_active or owner"); err != nil {
		return q, err
	}
	q.Of, err = parseFields(paramOf, params.Get(paramOf), len(filterFields), isNumber, "names a field that is no number")
	return q, err
}

type statsInput struct {
	Accept      string `header:"Accept" doc:"application/json"`
	IfNoneMatch string `header:"If-None-Match" doc:"Entity tags that the client holds: 304 when the answer still has one of them (RFC 9110)"`

	query url.Values
}

// Resolve takes the query string as it is, as that of a list.
func (in *statsInput) Resolve(ctx huma.Context) []error {
	u := ctx.URL()
	in.query = u.Query()
	return nil
}

type statsOutput struct {
	Status int
	ETag   string `header:"ETag" doc:"Strong entity tag of the answer, for If-None-Match (RFC 9110)"`
	Body   any
}

func (s *Server) stats(ctx context.Context, in *statsInput) (*statsOutput, error) {
	q, err := parseStats(in.query)
	if err != nil {
		return nil, err
	}
	if accepted(in.Accept, typeJSON) == "" {
		return nil, web.NewProblem(http.StatusNotAcceptable, "not_acceptable", i18n.Textf("Only %s can be had here.", typeJSON))
	}
	groups, err := s.store.Stats(ctx, q)
	if errors.Is(err, ErrTooManyGroups) {
		return nil, wrong(paramGroup, i18n.Textf("makes too many groups: %d is the limit", maxGroups), "filter further, or group by fewer fields")
	}
	if err != nil {
		return nil, s.problem(ctx, "", err)
	}
	body := q.appendJSON(nil, groups)
	tag := etagOf(body)
	if held, err := parseTags(in.IfNoneMatch); err == nil && held.given() && held.weak(tag) {
		return &statsOutput{http.StatusNotModified, tag, []byte(nil)}, nil
	}
	return &statsOutput{http.StatusOK, tag, jsontext.Value(body)}, nil
}

// appendJSON appends the answer.
func (q *StatsQuery) appendJSON(b []byte, groups []Group) []byte {
	b = append(b, '[')
	for i := range groups {
		if i > 0 {
			b = append(b, ',')
		}
		b = q.appendGroup(b, &groups[i])
	}
	return append(b, ']')
}

func (q *StatsQuery) appendGroup(b []byte, g *Group) []byte {
	b = append(b, '{')
	for i, f := range q.Group {
		b = append(appendText(b, f.Name), ':')
		switch v := g.Keys[i].(type) {
		case int64:
			b = strconv.AppendInt(b, v, 10)
		case bool:
			b = strconv.AppendBool(b, v)
		case string:
			b = appendText(b, v)
		default:
			b = append(b, "null"...)
		}
		b = append(b, ',')
	}
	b = strconv.AppendInt(append(b, `"count":`...), g.Count, 10)
	b = append(b, `,"stats":{`...)
	for i, f := range q.Of {
		if i > 0 {
			b = append(b, ',')
		}
		s := &g.Of[i]
		b = append(appendText(b, f.Name), `:{"count":`...)
		b = strconv.AppendInt(b, s.Count, 10)
		mean, some := s.Mean(f)
		for _, one := range []struct {
			name  string
			value float64
		}{{"min", s.Min}, {"max", s.Max}, {"mean", mean}} {
			b = append(append(append(b, `,"`...), one.name...), `":`...)
			if some {
				b = appendNumber(b, one.value)
			} else {
				b = append(b, "null"...)
			}
		}
		b = append(b, '}')
	}
	return append(b, "}}"...)
}

// statsSchema is the answer's.
func statsSchema() *huma.Schema {
	none, most := 0.0, maxGroups
	count := func(doc string) *huma.Schema {
		return &huma.Schema{Type: huma.TypeInteger, Format: "int64", Minimum: &none, Description: doc}
	}
	number := func(doc string) *huma.Schema {
		return &huma.Schema{Type: huma.TypeNumber, Nullable: true, Description: doc}
	}
	group := &huma.Schema{
		Type: huma.TypeObject, AdditionalProperties: false, Required: []string{"count", "stats"},
		Properties: map[string]*huma.Schema{"count": count("Documents of the group")},
	}
	of := map[string]*huma.Schema{}
	for name, f := range filterFields {
		if groupable(f) {
			one := &huma.Schema{Type: huma.TypeInteger, Format: "int32", Nullable: f.Nullable}
			switch f.Kind {
			case query.Bool:
				one = &huma.Schema{Type: huma.TypeBoolean}
			case query.Text:
				one = &huma.Schema{Type: huma.TypeString}
			}
			one.Description = "The group's, if group names it"
			group.Properties[name] = one
		}
		if isNumber(f) {
			of[name] = &huma.Schema{
				Type: huma.TypeObject, AdditionalProperties: false, Required: []string{"count", "min", "max", "mean"},
				Properties: map[string]*huma.Schema{
					"count": count("Values that aren't null"),
					"min":   number("The least, null if there are none"),
					"max":   number("The greatest, null if there are none"),
					"mean":  number("The arithmetic mean, null if there are none; coordinates count to 7 decimals"),
				},
			}
		}
	}
	group.Properties["stats"] = &huma.Schema{
		Type: huma.TypeObject, AdditionalProperties: false, Properties: of, Description: "Of the fields that of names",
	}
	return &huma.Schema{Type: huma.TypeArray, Items: group, MaxItems: &most}
}

// statsParameters are those of a request for figures, for the API's document:
// those of a list that filter, and two of its own.
func statsParameters() []*huma.Param {
	text := &huma.Schema{Type: huma.TypeString}
	all := []*huma.Param{
		{Name: paramGroup, In: "query", Schema: text, Description: "Codes, is_active and owner, up to 5 with a comma between: a group for each combination of their values; one of all documents unless given"},
		{Name: paramOf, In: "query", Schema: text, Description: "Numbers with a comma between, of which to tell count, min, max and mean"},
	}
	for _, p := range listParameters() {
		if p.Name == paramBox || p.Name == paramNear || p.Name == paramWithin || filterFields.IsFilter(p.Name) {
			all = append(all, p)
		}
	}
	return all
}

// documentStats says in the API's document what huma can't draw from types.
func documentStats(a *web.API) {
	answers(a.Huma.OpenAPI().Paths[pathStats].Get, http.StatusNotModified, nil, "The client has it: If-None-Match", http.StatusOK)
}
