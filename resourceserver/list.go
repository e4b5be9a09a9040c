package resourceserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/web"
	"github.com/urbandata/urbandata/resourceserver/query"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
	maxOffset    = 10_000

	// maxEstimate is where an estimated count stops.
	maxEstimate = 10_000
)

const (
	typeObject = "application/vnd.pgrst.object+json" // PostgREST's word for a single row
	codeSingle = "PGRST116"                          // and for not having one: clients look for it
)

// The parameters of a list that aren't filters.
const (
	paramSelect = "select"
	paramOrder  = "order"
	paramLimit  = "limit"
	paramOffset = "offset"
	paramCursor = "cursor"
	paramBox    = "bbox"
	paramNear   = "near"
	paramWithin = "within"
)

type listInput struct {
	Accept      string `header:"Accept" doc:"application/json for a page; application/vnd.pgrst.object+json for the only row as an object; application/x-ndjson, text/csv or application/geo+json for everything that matches"`
	Prefer      string `header:"Prefer" doc:"count=exact or count=estimated (RFC 7240)"`
	Range       string `header:"Range" doc:"First and last row, such as 0-24, where the query has neither limit nor offset"`
	IfNoneMatch string `header:"If-None-Match" doc:"Entity tags that the client holds: 304 when the page still has one of them (RFC 9110)"`

	query url.Values
}

// Resolve takes the query string as it is: which parameters there may be is
// the filter language's to say.
func (in *listInput) Resolve(ctx huma.Context) []error {
	u := ctx.URL()
	in.query = u.Query()
	return nil
}

type listOutput struct {
	Status       int
	ContentType  string   `header:"Content-Type"`
	ETag         string   `header:"ETag" doc:"Strong entity tag of the page, for If-None-Match (RFC 9110)"`
	Link         string   `header:"Link" doc:"RFC 8288: rel=first, and rel=next and rel=prev where there is such a page"`
	ContentRange string   `header:"Content-Range" doc:"First and last row and how many there are, such as 0-24/573; * for what isn't known"`
	Applied      string   `header:"Preference-Applied" doc:"The preference that was granted"`
	Vary         []string `header:"Vary"` // a slice is added to what the CORS layer says
	Body         func(huma.Context)
}

// send is the body of an answer that is there, or of one without any. done,
// unless it is nil, is called when nobody needs the body any more.
func send(status int, body []byte, done func()) func(huma.Context) {
	return func(ctx huma.Context) {
		if body != nil {
			ctx.SetHeader("Content-Length", strconv.Itoa(len(body))) // else a large one goes in chunks
		}
		ctx.SetStatus(status)
		if body != nil {
			_, _ = ctx.BodyWriter().Write(body) // the client may have left; there is nobody to tell
		}
		if done != nil {
			done()
		}
	}
}

// listing is what a request for a list asks for.
type listing struct {
	Query
	order   query.Order // of the list; Query.Order is the other way round for a page that is read backwards
	back    bool
	seek    bool // from a cursor
	ranged  bool // by the Range header
	members []member
	object  bool
	count   string // exact, estimated or ""
	params  url.Values
}

// wrongQuery is the answer to a parameter that can't be used. PostgREST's
// clients are told the hint too.
func wrongQuery(err error) error {
	e, ok := errors.AsType[*query.Error](err)
	if !ok {
		return err
	}
	p := web.NewProblem(http.StatusBadRequest, "invalid_query", i18n.Textf("The query is not valid: %s %s.", e.Parameter, e.Reason), web.AtParameter(e.Parameter, e.Reason))
	p.Hint = e.Hint
	return p
}

func wrong(parameter string, reason, hint i18n.Text) error {
	return wrongQuery(&query.Error{Parameter: parameter, Reason: reason, Hint: hint})
}

// readListing reads a request for a list. The error is the answer.
func (s *Server) readListing(in *listInput) (*listing, error) {
	l := &listing{params: in.query}
	for _, name := range slices.Sorted(maps.Keys(in.query)) {
		values := in.query[name]
		switch name {
		case paramSelect, paramOrder, paramLimit, paramOffset, paramCursor, paramBox, paramNear, paramWithin:
			if len(values) > 1 {
				return nil, wrong(name, "is given more than once", "")
			}
			if values[0] == "" {
				return nil, wrong(name, "has no value", "")
			}
		default:
			if !filterFields.IsFilter(name) {
				return nil, wrong(shown(name), "is not a known parameter", "parameters are the names of fields, text, and, or, bbox, near, within, select, order, limit, offset and cursor")
			}
		}
	}
	var err error
	if l.Where, l.order, err = parseFilter(in.query); err != nil {
		return nil, wrongQuery(err)
	}
	l.Order = l.order
	if l.members, err = parseSelect(in.query.Get(paramSelect)); err != nil {
		return nil, wrongQuery(err)
	}
	if err := l.readPlace(s.cursorKey, in); err != nil {
		return nil, err
	}
	l.count = parsePrefer(in.Prefer).count
	return l, nil
}

// parseFilter reads what a list is about: the conditions, the places, and the
// order, which goes from west to east through a box or an area unless told,
// and from near to far around a place.
func parseFilter(params url.Values) (where query.Node, order query.Order, err error) {
	if where, err = query.Parse(filterFields, params); err != nil {
		return where, nil, err
	}
	text := params.Get(paramOrder)
	x, y := filterFields["x_coord"], filterFields["y_coord"]
	for _, place := range []struct {
		parameter string
		parse     func(parameter, text string, x, y *query.Field) (query.Node, error)
	}{{paramBox, query.ParseBox}, {paramWithin, query.ParseWithin}} {
		value := params.Get(place.parameter)
		if value == "" {
			continue
		}
		inside, err := place.parse(place.parameter, value, x, y)
		if err != nil {
			return where, nil, err
		}
		if where = query.Join(where, inside); text == "" {
			text = "x_coord"
		}
	}
	near := params.Get(paramNear)
	if near == "" {
		order, err = query.ParseOrder(filterFields, text)
		return where, order, err
	}
	if params.Has(paramOrder) {
		return where, nil, &query.Error{
			Parameter: paramOrder, Reason: "can't be used together with near, which orders by the distance",
			Hint: "leave out order; or ask for a bbox or a within, which take any",
		}
	}
	inside, order, err := query.ParseNear(paramNear, near, x, y, filterFields["_id"])
	return query.Join(where, inside), order, err
}

// readPlace reads which part of the list is wanted.
func (l *listing) readPlace(key []byte, in *listInput) error {
	number := func(name string, least, most, otherwise int, hint i18n.Text) (int, error) {
		text := in.query.Get(name)
		if text == "" {
			return otherwise, nil
		}
		n, err := strconv.Atoi(text)
		switch {
		case err != nil && !errors.Is(err, strconv.ErrRange), strings.HasPrefix(text, "+"):
			return 0, wrong(name, "isn't a whole number", "")
		case err != nil, n < least, n > most:
			return 0, wrong(name, i18n.Textf("must be from %d to %d", least, most), hint)
		}
		return n, nil
	}
	const deep = "to get deeper, follow rel=next of the Link header: its cursor costs the same on every page"
	var err error
	if l.Limit, err = number(paramLimit, 1, maxLimit, defaultLimit, ""); err != nil {
		return err
	}
	if l.Skip, err = number(paramOffset, 0, maxOffset, 0, deep); err != nil {
		return err
	}
	if text := in.query.Get(paramCursor); text != "" {
		if in.query.Has(paramOffset) {
			return wrong(paramOffset, "can't be used together with cursor", "")
		}
		c, err := decodeCursor(key, text)
		if err != nil {
			return wrong(paramCursor, "is not one from a Link header of this API", "begin at the first page")
		}
		if c.order != l.order.String() {
			return wrong(paramCursor, "is of a list in another order", "begin at the first page")
		}
		l.seek, l.back, l.After, l.Skip = true, c.back, c.after, c.skip
		if l.back {
			l.Order = l.order.Reversed()
		}
		return nil
	}
	if from, to, ok := parseRange(in.Range); ok && !in.query.Has(paramLimit) && !in.query.Has(paramOffset) {
		if from > maxOffset {
			p := wrong("Range", i18n.Textf("begins behind row %d", maxOffset), deep)
			return p
		}
		l.ranged, l.Skip = true, from
		if to >= 0 {
			l.Limit = min(to-from+1, maxLimit)
		}
	}
	return nil
}

// parseRange reads PostgREST's form of a Range, without a unit: rows from-to,
// or from- for all behind. Any other is ignored, as RFC 9110 §14.2 has it.
func parseRange(header string) (from, to int, ok bool) {
	first, last, dashed := strings.Cut(strings.TrimPrefix(header, "items="), "-")
	from, err := strconv.Atoi(first)
	if err != nil || !dashed || from < 0 {
		return 0, 0, false
	}
	if last == "" {
		return from, -1, true
	}
	to, err = strconv.Atoi(last)
	return from, to, err == nil && to >= from
}

func (s *Server) list(ctx context.Context, in *listInput) (*listOutput, error) {
	l, err := s.readListing(in)
	if err != nil {
		return nil, err
	}
	out := &listOutput{Status: http.StatusOK, Vary: []string{"Accept, Prefer, Range"}}
	if out.ContentType = accepted(in.Accept, listTypes...); out.ContentType == "" {
		return nil, web.NewProblem(http.StatusNotAcceptable, "not_acceptable", i18n.Textf("Only %s can be had here.", strings.Join(listTypes, ", ")))
	}
	if f := streamed[out.ContentType]; f != nil {
		out.ContentType = f.MediaType
		out.Body, err = s.stream(ctx, l, f)
		return out, err
	}
	if l.object = out.ContentType == typeObject; l.object {
		l.Limit = min(l.Limit, 2) // enough to know that it isn't the only one
	}
	answers := takeAnswers()
	if l.members == nil {
		l.Into = answers
	}
	page, err := s.store.Find(ctx, l.Query)
	if err != nil {
		return nil, s.problem(ctx, "", err)
	}
	for _, u := range page.Unreadable {
		s.leftOut(ctx, u.ID)
	}
	total := -1
	if l.count != "" {
		most := 0
		if l.count == countEstimated {
			most = maxEstimate
		}
		if total, err = s.store.Count(ctx, l.Where, most); err != nil {
			return nil, s.problem(ctx, "", err)
		}
		out.Applied = "count=" + l.count
		if !l.seek && l.Skip > total {
			p := web.NewProblem(http.StatusRequestedRangeNotSatisfiable, "PGRST103", "There are no rows that far.")
			p.Details = i18n.Textf("An offset of %d was requested, but there are only %d rows.", l.Skip, total)
			return nil, p.With("Content-Range", fmt.Sprintf("*/%d", total))
		}
	}
	if l.members != nil { // through select
		for i := range page.Items {
			answers.close(page.Items[i].appendMembers(answers.open(), l.members))
		}
	}
	n := answers.Len()
	if l.object && n != 1 {
		return nil, notSingle(n)
	}
	if l.back {
		answers.reverse()
	}
	out.Link = s.links(l, &page)
	out.ContentRange = l.contentRange(n, total)
	if l.ranged && page.More {
		out.Status = http.StatusPartialContent
	}
	body := answers.list()
	if l.object { // whose tag is as good for If-Match as that of a GET by id
		body = answers.one(0)
		out.ETag = etagOf(body)
	} else {
		out.ETag = s.pageTags.of(body)
	}
	if held, err := parseTags(in.IfNoneMatch); err == nil && held.given() && held.weak(out.ETag) {
		out.Status, out.ContentType, body = http.StatusNotModified, "", nil
	}
	out.Body = send(out.Status, body, answers.giveBack)
	return out, nil
}

func (l *listing) render(items []Inmueble) []byte {
	if l.object {
		return l.append(make([]byte, 0, typicalAnswer), &items[0])
	}
	body := append(make([]byte, 0, 2+len(items)*typicalAnswer), '[')
	for i := range items {
		if i > 0 {
			body = append(body, ',')
		}
		body = l.append(body, &items[i])
	}
	return append(body, ']')
}

func (l *listing) append(b []byte, m *Inmueble) []byte {
	if l.members == nil {
		return m.AppendJSON(b)
	}
	return m.appendMembers(b, l.members)
}

// contentRange is the Content-Range of a page of n rows of total, which is -1
// when nobody counted. Where a page from a cursor stands isn't known.
func (l *listing) contentRange(n, total int) string {
	rows, all := "*", "*"
	if total >= 0 {
		all = strconv.Itoa(total)
	}
	switch {
	case l.seek && total < 0:
		return ""
	case !l.seek && n > 0:
		rows = strconv.Itoa(l.Skip) + "-" + strconv.Itoa(l.Skip+n-1)
	}
	return rows + "/" + all
}

// links is the Link header of a page. The targets are relative to the origin,
// which only the outermost proxy knows for sure.
func (s *Server) links(l *listing, page *Page) string {
	params := maps.Clone(l.params)
	if params == nil {
		params = url.Values{}
	}
	delete(params, paramOffset)
	delete(params, paramCursor)
	params.Set(paramLimit, strconv.Itoa(l.Limit))
	first := params.Encode()
	to := func(rel string, c *cursor) string {
		place := first
		if c != nil {
			c.order = l.order.String()
			place += "&" + paramCursor + "=" + c.encode(s.cursorKey)
		}
		return "<" + pathAll + "?" + place + `>; rel="` + rel + `"`
	}
	all := []string{to("first", nil)}
	start, end := page.First, page.After // of the page, in the order of the list
	if l.back {
		start, end = end, start
	}
	if l.back && page.First != nil {
		all = append(all, to("next", &cursor{after: end}))
	} else if !l.back && page.More {
		all = append(all, to("next", &cursor{after: end, skip: page.Skip}))
	}
	switch {
	case l.back && page.More:
		all = append(all, to("prev", &cursor{back: true, after: start, skip: page.Skip}))
	case !l.back && page.First != nil && (l.After != nil || l.Skip > 0):
		all = append(all, to("prev", &cursor{back: true, after: start}))
	}
	return strings.Join(all, ", ")
}

// accepted is the type of those on offer that an Accept field likes best, the
// first of them if there is no field, or "" (RFC 9110 §12.5.1).
func accepted(header string, offer ...string) string {
	if strings.TrimSpace(header) == "" {
		return offer[0]
	}
	best, most := "", 0.0
	for _, one := range offer {
		kind, _, _ := strings.Cut(one, "/")
		quality, precision := 0.0, -1
		for part := range strings.SplitSeq(header, ",") {
			name, params, _ := strings.Cut(part, ";")
			q, p := 1.0, -1
			switch strings.ToLower(strings.TrimSpace(name)) {
			case one:
				p = 2
			case kind + "/*":
				p = 1
			case "*/*":
				p = 0
			}
			for param := range strings.SplitSeq(params, ";") {
				if v, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(param)), "q="); ok {
					q, _ = strconv.ParseFloat(v, 64) // what isn't a number is nothing
				}
			}
			if p > precision {
				quality, precision = q, p
			}
		}
		if quality > most {
			best, most = one, quality
		}
	}
	return best
}

// listParameters are those of a list, for the API's document.
func listParameters() (all []*huma.Param) {
	most, deepest, least, none := float64(maxLimit), float64(maxOffset), float64(1), float64(0)
	add := func(name, doc string, schema *huma.Schema) {
		all = append(all, &huma.Param{Name: name, In: "query", Description: doc, Schema: schema})
	}
	text := func() *huma.Schema { return &huma.Schema{Type: huma.TypeString} }
	add(paramSelect, "Members with a comma between, newname:member to rename; all unless given", text())
	add(paramOrder, "Fields with a comma between, each with .asc or .desc and .nullsfirst or .nullslast as wanted; _id unless given", text())
	add(paramLimit, "Documents a page holds at most; it may hold fewer and still have a next", &huma.Schema{
		Type: huma.TypeInteger, Default: defaultLimit, Minimum: &least, Maximum: &most,
	})
	add(paramOffset, "Documents to leave out from the first on; the cursor gets deeper, and at no cost", &huma.Schema{
		Type: huma.TypeInteger, Default: 0, Minimum: &none, Maximum: &deepest,
	})
	add(paramCursor, "Opaque, from the Link header of the page before", text())
	add(paramBox, "West, south, east and north of a box in degrees; a west greater than the east crosses the antimeridian. Its order is x_coord unless given", text())
	add(paramNear, fmt.Sprintf("Longitude, latitude and metres, of which there are at most %d: what is within that distance, the nearest first. It takes no order", query.MaxMetres), text())
	add(paramWithin, fmt.Sprintf("A Polygon or MultiPolygon of GeoJSON (RFC 7946) of at most %d positions: what it covers, borders included. Its order is x_coord unless given", query.MaxPositions), text())
	for _, name := range []string{"and", "or", "not.and", "not.or"} {
		add(name, "Conditions in parentheses with a comma between, such as (boundary_id.is.null,listing_type.not.eq.3)", text())
	}
	condition := func(name, doc string) {
		explode := true
		all = append(all, &huma.Param{
			Name: name, In: "query", Style: "form", Explode: &explode,
			Description: doc, Schema: &huma.Schema{Type: huma.TypeArray, Items: text()},
		})
	}
	condition(nameText, "Full text over title and description: plfts. and words, which must all be there; or fts. and words with & | ! ( ) between, and :* behind the beginning of one")
	for _, name := range allMembers {
		condition(name, "Condition on "+name+": operator.value, or a value alone for eq; several are joined by and")
	}
	return all
}

// documentList says in the API's document what huma can't draw from types.
func documentList(a *web.API) {
	get := a.Huma.OpenAPI().Paths[pathAll].Get
	get.Responses["200"].Content[typeObject] = &huma.MediaType{Schema: selectedSchema(a.Huma.OpenAPI().Components.Schemas)}
	part := huma.Response{
		Description: "A part of the rows that the Range asked for", Headers: get.Responses["200"].Headers,
		Content: map[string]*huma.MediaType{typeJSON: get.Responses["200"].Content[typeJSON]},
	}
	get.Responses["206"] = &part
	for name, f := range streamed {
		get.Responses["200"].Content[name] = &huma.MediaType{Schema: &huma.Schema{
			Type: huma.TypeString, Description: "Everything that matches, as " + f.Name + ": without select, limit, offset and cursor",
		}}
	}
	get.Responses["200"].Content["application/geo+json"].Schema = &huma.Schema{
		Type: huma.TypeObject, Description: "Everything that matches, as a FeatureCollection (RFC 7946): without select, limit, offset and cursor",
	}
	answers(get, http.StatusNotModified, nil, "The client has it: If-None-Match", http.StatusOK)
}
