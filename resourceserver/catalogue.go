package resourceserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/web"
)

// A field that is a code may have a catalogue: the codes that it may have,
// and what they mean. Which these are is the owner's to say, so there is none
// unless a file gives it.
//
// The rule is about what comes in: the members that a request or a row gives.
// What is stored stays readable whatever the catalogue says, because a code
// that is taken out of it must not take documents with it; nor does a PATCH
// of other members fail by it.
//
// So the checks of the database (checks.go) know no catalogue. They see whole
// documents, and not which members a write has given: they would refuse the
// PATCH of a title where a code was taken out of the catalogue since. And a
// catalogue belongs to the servers' configuration, of which there are two
// during a roll-out, while the database would have one.

// The bounds of a catalogue file.
const (
	MaxCatalogueFile = 4 << 20 // bytes
	maxCodes         = 10_000  // of one field
	maxLabel         = 200     // code points
	maxNote          = 1000
)

// catalogued are the fields that may have a catalogue: all integers but the
// one that is a difference.
var catalogued = func() (at []int) {
	for i := range fields {
		if _, isCode := fields[i].code(&Inmueble{}); isCode && fields[i].name != "date_diff" {
			at = append(at, i)
		}
	}
	return at
}()

// code returns the field's value in m, nil for null, if it is an integer.
func (f *field) code(m *Inmueble) (code *int32, ok bool) {
	switch p := f.at(m).(type) {
	case *int32:
		return p, true
	case **int32:
		return *p, true
	}
	return nil, false
}

// ErrCatalogue is wrapped by the error for a file that is no catalogue.
var ErrCatalogue = errors.New("resourceserver: not a catalogue")

// Catalogues says which codes fields may have. The nil *Catalogues allows all.
type Catalogues struct {
	all   []*catalogue // in the order of fields
	names []byte       // the answer to GET /catalogues
}

// catalogue is that of one field.
type catalogue struct {
	at     int            // index into fields
	has    map[int32]bool // the codes
	order  []int32        // as the file has them
	answer [len(languages)]representation
}

// representation is an answer that stays the same.
type representation struct {
	body []byte
	etag string
}

// The languages of labels; the first is for who asks for none of them.
var (
	languages = [...]string{"es", "en"}
	chooser   = i18n.NewChooser(languages[:]...)
)

// entry is one code in a catalogue file.
type entry struct {
	Code *int32 `json:"code"`
	ES   string `json:"es"`
	EN   string `json:"en"`
	Note string `json:"note"` // for who keeps the file; nobody else sees it
}

// label is what the code means in one of languages: its digits where the file
// doesn't say.
func (e *entry) label(lang int) string {
	if l := [...]string{e.ES, e.EN}[lang]; l != "" {
		return l
	}
	return strconv.Itoa(int(*e.Code))
}

// ReadCatalogues reads a file of catalogues: a JSON object with an array of
// codes by the name of their field,
//
//	{"listing_type": [{"code": 1, "es": "Venta", "en": "For sale"}, …], …}
//
// where es, en, and a note for who keeps the file, may be left out. The error
// wraps ErrCatalogue and names the place, or is the reader's.
func ReadCatalogues(r io.Reader) (*Catalogues, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxCatalogueFile+1))
	if err != nil {
		return nil, fmt.Errorf("resourceserver: read the catalogue: %w", err)
	}
	if len(text) > MaxCatalogueFile {
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrCatalogue, MaxCatalogueFile)
	}
	var file map[string][]entry
	if err := json.Unmarshal(text, &file, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCatalogue, err)
	}
	c := &Catalogues{}
	for _, at := range catalogued {
		name := fields[at].name
		entries, ok := file[name]
		if !ok {
			continue
		}
		delete(file, name)
		one, err := newCatalogue(at, entries)
		if err != nil {
			return nil, fmt.Errorf("%w: %s %w", ErrCatalogue, name, err)
		}
		c.all = append(c.all, one)
	}
	for name := range file {
		return nil, fmt.Errorf("%w: %q is no field that is a code", ErrCatalogue, name)
	}
	c.names = c.appendNames(nil)
	return c, nil
}

func newCatalogue(at int, entries []entry) (*catalogue, error) {
	if len(entries) == 0 || len(entries) > maxCodes {
		return nil, fmt.Errorf("must have 1 to %d codes", maxCodes)
	}
	c := &catalogue{at: at, has: make(map[int32]bool, len(entries))}
	for i := range entries {
		e := &entries[i]
		if e.Code == nil {
			return nil, fmt.Errorf("lacks the code of entry %d", i+1)
		}
		if c.has[*e.Code] {
			return nil, fmt.Errorf("has the code %d twice", *e.Code)
		}
		c.has[*e.Code] = true
		c.order = append(c.order, *e.Code)
		for _, text := range []struct {
			is    string
			bound int
		}{{e.ES, maxLabel}, {e.EN, maxLabel}, {e.Note, maxNote}} {
			if reason := checkText(text.is, text.bound); reason != "" {
				return nil, fmt.Errorf("has a text at the code %d that %s", *e.Code, reason)
			}
		}
	}
	for i := range languages {
		body := c.appendJSON(nil, entries, i)
		c.answer[i] = representation{body, etagOf(body)}
	}
	return c, nil
}

func (c *catalogue) appendJSON(b []byte, entries []entry, lang int) []byte {
	b = append(b, `{"name":`...)
	b = appendText(b, fields[c.at].name)
	b = append(b, `,"codes":[`...)
	for i := range entries {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"code":`...)
		b = strconv.AppendInt(b, int64(*entries[i].Code), 10)
		b = append(b, `,"label":`...)
		b = append(appendText(b, entries[i].label(lang)), '}')
	}
	return append(b, "]}"...)
}

func (c *Catalogues) appendNames(b []byte) []byte {
	b = append(b, '[')
	for i, one := range c.all {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"name":`...)
		b = appendText(b, fields[one.at].name)
		b = append(b, `,"codes":`...)
		b = append(strconv.AppendInt(b, int64(len(one.order)), 10), '}')
	}
	return append(b, ']')
}

// of is the catalogue of a field, or nil.
func (c *Catalogues) of(name string) *catalogue {
	if c == nil {
		return nil
	}
	i := slices.IndexFunc(c.all, func(one *catalogue) bool { return fields[one.at].name == name })
	if i < 0 {
		return nil
	}
	return c.all[i]
}

// Validate is [Inmueble.Validate], and that the given fields have codes of
// their catalogues.
func (c *Catalogues) Validate(r *Row) error {
	bad, _ := r.Inmueble.Validate().(ValidationError) //nolint:errorlint // it returns nothing else
	if bad = append(bad, c.check(r)...); bad != nil {
		return bad
	}
	return nil
}

// check lists the given fields that have a code which isn't in the catalogue.
// Null is none.
func (c *Catalogues) check(r *Row) (bad ValidationError) {
	if c == nil {
		return nil
	}
	for _, one := range c.all {
		f := &fields[one.at]
		if r.given&(1<<one.at) == 0 {
			continue
		}
		if code, _ := f.code(&r.Inmueble); code != nil && !one.has[*code] {
			bad = append(bad, FieldError{f.name, i18n.Textf("must be a code of the catalogue %s", f.name)})
		}
	}
	return bad
}

// Fit puts a code of the catalogue in the place of each that isn't in it, the
// same one each time. It is for made-up rows, whose codes mean nothing.
func (c *Catalogues) Fit(rows iter.Seq2[Row, error]) iter.Seq2[Row, error] {
	if c == nil {
		return rows
	}
	return func(yield func(Row, error) bool) {
		for r, err := range rows {
			for _, one := range c.all {
				if code, _ := fields[one.at].code(&r.Inmueble); code != nil && !one.has[*code] {
					fitting := one.order[uint32(*code)%uint32(len(one.order))] //nolint:gosec // any will do
					fields[one.at].setInt(&r.Inmueble, int64(fitting))
				}
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// document says in the API's document which codes a body may have. It is only
// for readers: check finds one faster than huma does.
func (c *Catalogues) document(schemas huma.Registry) {
	if c == nil {
		return
	}
	for _, one := range c.all {
		codes := make([]any, len(one.order))
		for i, code := range one.order {
			codes[i] = code
		}
		for _, shape := range []string{schemaNew, schemaReplacement, schemaPatch, schemaElement} {
			p := schemas.Map()[shape].Properties[fields[one.at].name]
			may := codes
			if p.Nullable {
				may = append(slices.Clip(codes), nil)
			}
			if p.Extensions == nil {
				p.Extensions = map[string]any{}
			}
			p.Extensions["enum"] = may
		}
	}
}

const (
	pathCatalogues = "/catalogues"
	pathCatalogue  = "/catalogues/{name}"
)

// catalogueSchemas are those of the two answers.
func catalogueSchemas(r huma.Registry) (names, one *huma.Schema) {
	text := func(doc string) *huma.Schema { return &huma.Schema{Type: huma.TypeString, Description: doc} }
	integer := func(doc string) *huma.Schema {
		return &huma.Schema{Type: huma.TypeInteger, Format: "int32", Description: doc}
	}
	shape := func(properties map[string]*huma.Schema, required ...string) *huma.Schema {
		return &huma.Schema{Type: huma.TypeObject, Properties: properties, Required: required, AdditionalProperties: false}
	}
	code := register(r, "Code", "A code and what it means.", func() *huma.Schema {
		return shape(map[string]*huma.Schema{
			"code": integer("The code"), "label": text("What it means, in the language of Content-Language"),
		}, "code", "label")
	})
	one = register(r, "Catalogue", "The codes that a member of an inmueble may be given.", func() *huma.Schema {
		return shape(map[string]*huma.Schema{
			"name": text("The member"), "codes": {Type: huma.TypeArray, Items: code, Description: "In the order for people to read"},
		}, "name", "codes")
	})
	names = &huma.Schema{Type: huma.TypeArray, Items: register(r, "CatalogueName", "A member that has a catalogue.", func() *huma.Schema {
		return shape(map[string]*huma.Schema{"name": text("The member"), "codes": integer("How many there are")}, "name", "codes")
	})}
	return names, one
}

type cataloguesInput struct {
	IfNoneMatch string `header:"If-None-Match" doc:"Entity tags that the client holds: 304 when the answer still has one of them (RFC 9110)"`
}

type catalogueInput struct {
	Name           string `path:"name" doc:"The member of an inmueble" example:"listing_type"`
	IfNoneMatch    string `header:"If-None-Match" doc:"Entity tags that the client holds: 304 when the answer still has one of them (RFC 9110)"`
	AcceptLanguage string `header:"Accept-Language" doc:"The language of labels, es or en; es unless it asks for en (RFC 9110)"`
}

// fixedOutput is an answer that stays the same until a restart.
type fixedOutput struct {
	Status   int
	ETag     string   `header:"ETag" doc:"Strong entity tag, for If-None-Match (RFC 9110)"`
	Language string   `header:"Content-Language" doc:"Of the labels"`
	Vary     []string `header:"Vary"` // a slice is added to what the CORS layer says
	Body     any
}

// unless answers with r, or with 304.
func (r representation) unless(ifNoneMatch string) *fixedOutput {
	if held, err := parseTags(ifNoneMatch); err == nil && held.given() && held.weak(r.etag) { // a broken field is ignored
		return &fixedOutput{Status: http.StatusNotModified, ETag: r.etag, Body: []byte(nil)}
	}
	return &fixedOutput{Status: http.StatusOK, ETag: r.etag, Body: jsontext.Value(r.body)}
}

func (s *Server) listCatalogues(_ context.Context, in *cataloguesInput) (*fixedOutput, error) {
	names := []byte("[]")
	if s.catalogues != nil {
		names = s.catalogues.names
	}
	return representation{names, etagOf(names)}.unless(in.IfNoneMatch), nil
}

func (s *Server) getCatalogue(_ context.Context, in *catalogueInput) (*fixedOutput, error) {
	c := s.catalogues.of(in.Name)
	if c == nil {
		return nil, web.NewProblem(http.StatusNotFound, "not_found", "There is no catalogue of this name: GET /catalogues lists those that there are.")
	}
	i, _ := chooser.Choose([]string{in.AcceptLanguage})
	out := c.answer[i].unless(in.IfNoneMatch)
	out.Language, out.Vary = languages[i], []string{"Accept-Language"}
	return out, nil
}

// documentCatalogues adds what huma can't draw from types.
func documentCatalogues(a *web.API) {
	for _, path := range []string{pathCatalogues, pathCatalogue} {
		answers(a.Huma.OpenAPI().Paths[path].Get, http.StatusNotModified, nil, "The client has it: If-None-Match", http.StatusOK)
	}
}

// CatalogueDraft collects the codes of rows, for somebody to say what they
// mean.
type CatalogueDraft struct {
	codes [len(fields)]map[int32]*drafted // of those that may have a catalogue
}

// drafted is how often a code was met, and where first.
type drafted struct {
	rows  int
	title string
}

// maxDrafted is how many codes of one field a draft has: nobody writes labels
// for more, and where there are more they are hardly codes.
const maxDrafted = 200

// add takes note of a row's codes.
func (d *CatalogueDraft) add(r *Row) {
	for _, at := range catalogued {
		code, _ := fields[at].code(&r.Inmueble)
		if code == nil || r.given&(1<<at) == 0 || len(d.codes[at]) > maxDrafted {
			continue
		}
		if d.codes[at] == nil {
			d.codes[at] = map[int32]*drafted{}
		}
		one := d.codes[at][*code]
		if one == nil {
			one = &drafted{title: r.Title}
			d.codes[at][*code] = one
		}
		one.rows++
	}
}

// File is the draft as [ReadCatalogues] reads it: the codes in order, with no
// labels and a note that says how many rows have each, and the title of the
// first. Fields of more than 200 codes are left out, and named.
func (d *CatalogueDraft) File() (text []byte, leftOut []string) {
	text = []byte("{")
	sep := "\n"
	for _, at := range catalogued {
		codes := d.codes[at]
		if len(codes) > maxDrafted {
			leftOut = append(leftOut, fields[at].name)
		}
		if len(codes) == 0 || len(codes) > maxDrafted {
			continue
		}
		text = fmt.Appendf(text, "%s  %q: [", sep, fields[at].name)
		sep = ",\n"
		for i, code := range sortedCodes(codes) {
			if i > 0 {
				text = append(text, ',')
			}
			text = fmt.Appendf(text, "\n    {\"code\": %d, \"es\": \"\", \"en\": \"\", \"note\": ", code)
			text = append(appendText(text, codes[code].note()), '}')
		}
		text = append(text, "\n  ]"...)
	}
	return append(text, "\n}\n"...), leftOut
}

func sortedCodes(codes map[int32]*drafted) []int32 {
	var order []int32
	for code := range codes {
		order = append(order, code)
	}
	slices.Sort(order)
	return order
}

func (d *drafted) note() string {
	note := fmt.Sprintf("%d rows", d.rows)
	if d.rows == 1 {
		note = "1 row"
	}
	if d.title != "" {
		note += ": " + d.title
	}
	return note
}
