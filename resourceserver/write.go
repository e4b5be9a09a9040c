package resourceserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/web"
)

const (
	typeJSON   = "application/json"
	typePatch  = "application/merge-patch+json"
	typeNDJSON = "application/x-ndjson"

	headerKey = "Idempotency-Key"

	maxBulk     = 1000    // inmuebles of a POST
	maxBulkBody = 8 << 20 // bytes of a POST

	// keepAnswers is how long an answer stands behind its Idempotency-Key.
	keepAnswers = 24 * time.Hour
)

// Conditions are the headers that a change may carry.
type Conditions struct {
	IfMatch     string `header:"If-Match" doc:"Entity tags, of which the inmueble must have one now, or *: else 412 (RFC 9110)"`
	IfNoneMatch string `header:"If-None-Match" doc:"Entity tags, of which the inmueble must have none now: else 412"`
	Prefer      string `header:"Prefer" doc:"return=minimal for an answer without a body, return=representation for the inmueble (RFC 7240)"`
}

type replaceInput struct {
	ID string `path:"id" doc:"The inmueble's _id, percent-encoded" example:"65f1c0ffee65f1c0ffee65f1"`
	Conditions
	Body replacement
}

type patchInput struct {
	ID string `path:"id" doc:"The inmueble's _id, percent-encoded" example:"65f1c0ffee65f1c0ffee65f1"`
	Conditions
	Body patch `contentType:"application/merge-patch+json"`
}

type deleteInput struct {
	ID          string `path:"id" doc:"The inmueble's _id, percent-encoded" example:"65f1c0ffee65f1c0ffee65f1"`
	IfMatch     string `header:"If-Match" doc:"Entity tags, of which the inmueble must have one now, or *: else 412 (RFC 9110)"`
	IfNoneMatch string `header:"If-None-Match" doc:"Entity tags, of which the inmueble must have none now: else 412"`
}

// changedOutput answers a PUT or PATCH.
type changedOutput struct {
	Status  int
	ETag    string `header:"ETag" doc:"Strong entity tag of the inmueble as it is now"`
	Applied string `header:"Preference-Applied" doc:"The preferences that were granted"`
	Body    any
}

// condition is who asks, and on what condition.
func (s *Server) condition(ctx context.Context, ifMatch, ifNoneMatch string) (By, error) {
	match, header, err := ParseMatch(ifMatch, ifNoneMatch)
	if err != nil {
		return By{}, web.Invalid(web.FieldError{Header: header, Detail: errTags.reason})
	}
	if s.requireIfMatch && !match.only.given() {
		return By{}, web.NewProblem(http.StatusPreconditionRequired, "precondition_required",
			"This server changes an inmueble only for who says with If-Match which one they have seen: send the ETag of a GET.")
	}
	_, by := asker(ctx)
	return by.If(match), nil
}

func (s *Server) replace(ctx context.Context, in *replaceInput) (*changedOutput, error) {
	m := in.Body.Inmueble
	if m.ID != in.ID {
		return nil, web.Invalid(web.AtMember("/_id", "must be the _id in the path"))
	}
	by, err := s.condition(ctx, in.IfMatch, in.IfNoneMatch)
	if err != nil {
		return nil, err
	}
	m.UpdatedAt = stamp(s.now())
	if err := s.catalogues.Validate(&Row{m, allGiven}); err != nil {
		return nil, invalid("", err)
	}
	stored, err := s.store.Replace(ctx, m, by)
	return s.changed(ctx, in.Prefer, in.ID, stored, err)
}

func (s *Server) patch(ctx context.Context, in *patchInput) (*changedOutput, error) {
	stored, err := s.patchOne(ctx, in.ID, in.IfMatch, in.IfNoneMatch, &in.Body)
	if err != nil {
		return nil, s.changeProblem(ctx, in.ID, err)
	}
	return s.changed(ctx, in.Prefer, in.ID, stored, nil)
}

// patchOne changes one inmueble. The error is an answer or the store's.
func (s *Server) patchOne(ctx context.Context, id, ifMatch, ifNoneMatch string, body *patch) (Inmueble, error) {
	if !validID(id) {
		return Inmueble{}, ErrNotFound
	}
	if body.ID != "" && body.ID != id || body.ID == "" && body.given&1 != 0 {
		return Inmueble{}, web.Invalid(web.AtMember("/_id", "must be the _id of the inmueble that is changed"))
	}
	by, err := s.condition(ctx, ifMatch, ifNoneMatch)
	if err != nil {
		return Inmueble{}, err
	}
	row := body.Row
	if bad := s.catalogues.check(&row); bad != nil {
		return Inmueble{}, invalid("", bad)
	}
	row.UpdatedAt = stamp(s.now())
	return s.store.Update(ctx, id, by, func(current Inmueble) (Inmueble, error) {
		next := row.merge(current)
		return next, next.Validate()
	})
}

// changeProblem is the answer to an error of patchOne.
func (s *Server) changeProblem(ctx context.Context, id string, err error) error {
	if p, ok := errors.AsType[*web.Problem](err); ok {
		return p
	}
	if errors.Is(err, ErrInvalid) && !errors.Is(err, ErrUnreadable) {
		return invalid("", err)
	}
	return s.problem(ctx, id, err)
}

// changed answers with what is stored now.
func (s *Server) changed(ctx context.Context, preferences, id string, stored Inmueble, err error) (*changedOutput, error) {
	if err != nil {
		return nil, s.problem(ctx, id, err)
	}
	body := stored.AppendJSON(nil)
	p := prefer{ret: parsePrefer(preferences).ret}
	if p.minimal() {
		return &changedOutput{http.StatusNoContent, etagOf(body), p.applied(), []byte(nil)}, nil
	}
	return &changedOutput{http.StatusOK, etagOf(body), p.applied(), jsontext.Value(body)}, nil
}

func (s *Server) delete(ctx context.Context, in *deleteInput) (*struct{}, error) {
	if !validID(in.ID) {
		return nil, s.problem(ctx, in.ID, ErrNotFound)
	}
	by, err := s.condition(ctx, in.IfMatch, in.IfNoneMatch)
	if err != nil {
		return nil, err
	}
	if err := s.store.Delete(ctx, in.ID, by); err != nil {
		return nil, s.problem(ctx, in.ID, err)
	}
	return nil, nil
}

type createInput struct {
	Prefer string `header:"Prefer" doc:"return=minimal or return=representation (RFC 7240); resolution=merge-duplicates changes an inmueble whose _id exists, resolution=ignore-duplicates leaves it"`
	Key    string `header:"Idempotency-Key" maxLength:"255" doc:"Any text, new for each new request: when the answer was lost, the same request with the same key gets it again within 24 hours, and nothing is created twice"`
	Type   string `header:"Content-Type" hidden:"true"`
	Selection
	Columns string `query:"columns" doc:"Ignored, for clients of PostgREST: a row has the members that it has"`

	RawBody []byte `contentType:"application/json"`
}

// createdOutput answers a POST.
type createdOutput struct {
	Status   int
	Location string `header:"Location" doc:"Where the inmueble is; not sent for many"`
	ETag     string `header:"ETag" doc:"Strong entity tag of the inmueble; not sent for many"`
	Applied  string `header:"Preference-Applied" doc:"The preferences that were granted"`
	Body     any
}

// created is what a POST did, as it is kept for an Idempotency-Key.
type created struct {
	Status   int            `json:"status"`
	Location string         `json:"location,omitempty"`
	ETag     string         `json:"etag,omitempty"`
	Body     jsontext.Value `json:"body"`
}

func (c *created) output(p prefer) *createdOutput {
	out := &createdOutput{c.Status, c.Location, c.ETag, p.applied(), c.Body}
	if p.minimal() {
		out.Body = []byte(nil)
	}
	return out
}

func (s *Server) create(ctx context.Context, in *createInput) (*createdOutput, error) {
	p := parsePrefer(in.Prefer)
	rows, many, err := s.readRows(in.RawBody, in.Type, p.onDuplicate() != FailDuplicate)
	if err != nil {
		return nil, err
	}
	sub, by := asker(ctx)
	now := stamp(s.now())
	for i := range rows {
		r := &rows[i]
		if r.ID == "" {
			r.ID = NewID()
		}
		r.Owner, r.CreatedAt, r.UpdatedAt = sub, now, now
		if err := s.catalogues.Validate(r); err != nil {
			return nil, invalid(place(many, i), err)
		}
	}
	if !many && in.Key == "" && p.onDuplicate() == FailDuplicate { // by far the most
		if err := s.store.Insert(ctx, rows[0].Inmueble); err != nil {
			return nil, s.problem(ctx, rows[0].ID, err)
		}
		one := answerTo(http.StatusCreated, &rows[0].Inmueble)
		return one.output(p), nil
	}
	return s.load(ctx, in, p, rows, many, by, sub)
}

// answerTo is the answer about one inmueble.
func answerTo(status int, m *Inmueble) created {
	body := m.AppendJSON(nil)
	return created{status, pathAll + "/" + url.PathEscape(m.ID), etagOf(body), body}
}

// place is the JSON Pointer of the i-th inmueble of a body.
func place(many bool, i int) string {
	if !many {
		return ""
	}
	return "/" + strconv.Itoa(i)
}

// load stores rows in one step, and at most once under an Idempotency-Key.
func (s *Server) load(ctx context.Context, in *createInput, p prefer, rows []Row, many bool, by By, sub string) (*createdOutput, error) {
	var stored []Inmueble
	var fresh bool
	answer := func() created {
		status := http.StatusOK
		if fresh {
			status = http.StatusCreated
		}
		if !many {
			return answerTo(status, &stored[0])
		}
		body := []byte{'['}
		for i := range stored {
			if i > 0 {
				body = append(body, ',')
			}
			body = stored[i].AppendJSON(body)
		}
		return created{Status: status, Body: append(body, ']')}
	}
	b := Batch{
		OnDuplicate: p.onDuplicate(), By: by, Replayable: true,
		Rows: func(yield func(Row, error) bool) {
			stored, fresh = make([]Inmueble, 0, len(rows)), false // it may be a further attempt
			for _, r := range rows {
				if !yield(r, nil) {
					return
				}
			}
		},
		Stored: func(m Inmueble, what Outcome) {
			stored = append(stored, m)
			fresh = fresh || what == Inserted
		},
	}
	if in.Key != "" {
		key := hash(sub, in.Key)
		if _, busy := s.inFlight.LoadOrStore(key, true); busy {
			return nil, s.problem(ctx, "", ErrInProgress)
		}
		defer s.inFlight.Delete(key)
		b.Once = &Once{
			Key: key, Print: hash(in.Type, p.resolution, string(in.RawBody)), Now: s.now(), Keep: keepAnswers,
			Answer: func() []byte {
				kept, err := json.Marshal(answer())
				if err != nil { // it is made of JSON
					panic(err)
				}
				return kept
			},
		}
	}
	_, err := s.store.Load(ctx, b)
	if repeat, ok := errors.AsType[*RepeatError](err); ok {
		var before created
		if err := json.Unmarshal(repeat.Answer, &before); err != nil {
			return nil, s.problem(ctx, "", fmt.Errorf("read a kept answer: %w", err))
		}
		return before.output(p), nil
	}
	if bad, ok := errors.AsType[*BatchError](err); ok {
		return nil, s.refuseRow(ctx, bad, place(many, bad.Ordinal))
	}
	if err != nil {
		return nil, s.problem(ctx, "", err)
	}
	done := answer()
	return done.output(p), nil
}

// refuseRow answers to a row that can't be stored.
func (s *Server) refuseRow(ctx context.Context, bad *BatchError, at string) error {
	switch {
	case errors.Is(bad.Err, ErrInvalid):
		return invalid(at, bad.Err)
	case errors.Is(bad.Err, ErrUnreadable):
		s.leftOut(ctx, bad.ID)
		return web.Invalid(web.AtMember(at+"/_id", "is that of a document that can't be read: PUT mends it, DELETE removes it"))
	}
	return s.problem(ctx, bad.ID, bad.Err)
}

// hash tells texts apart without keeping them.
func hash(texts ...string) string {
	h := sha256.New()
	for _, t := range texts {
		fmt.Fprintf(h, "%d:%s", len(t), t)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// readRows reads the body of a POST: one inmueble, an array of them, or one a
// line. In an upsert each may name its _id and leave members out.
func (s *Server) readRows(body []byte, contentType string, upsert bool) (rows []Row, many bool, err error) {
	mediaType, _, _ := mime.ParseMediaType(contentType) // package web has read it
	text := bytes.TrimLeft(body, " \t\r\n")
	if mediaType != typeNDJSON && (len(text) == 0 || text[0] != '[') {
		r, err := s.readRow(body, upsert)
		if err != nil {
			return nil, false, err
		}
		return []Row{r}, false, nil
	}
	var elements []jsontext.Value
	if mediaType == typeNDJSON {
		for line := range bytes.Lines(body) {
			if line = bytes.TrimSpace(line); len(line) > 0 {
				elements = append(elements, line)
			}
		}
	} else if err := web.Unmarshal(body, &elements); err != nil {
		return nil, true, unreadableBody(err)
	}
	if len(elements) == 0 || len(elements) > maxBulk {
		return nil, true, web.Invalid(web.AtMember("", i18n.Textf("must have 1 to %d inmuebles: import takes more", maxBulk)))
	}
	var wrong *web.Problem
	rows = make([]Row, len(elements))
	for i, e := range elements {
		rows[i], err = s.readRow(e, upsert)
		var p *web.Problem
		if !errors.As(err, &p) {
			continue
		}
		for j := range p.Errors {
			pointer := place(true, i)
			if at := p.Errors[j].Pointer; at != nil {
				pointer += *at
			}
			p.Errors[j].Pointer = &pointer
		}
		if wrong == nil || len(wrong.Errors)+len(p.Errors) <= 20 && wrong.Status == p.Status {
			if wrong != nil {
				p.Errors = append(wrong.Errors, p.Errors...)
			}
			wrong = p
		}
	}
	if wrong != nil {
		return nil, true, wrong
	}
	return rows, true, nil
}

// readRow checks one inmueble against its schema and decodes it, as huma does
// with other bodies.
func (s *Server) readRow(text []byte, upsert bool) (Row, error) {
	schema := newInmueble{}.Schema(s.schemas)
	if upsert {
		schema = elementSchema(s.schemas)
	}
	var value any
	if err := web.Unmarshal(text, &value); err != nil {
		return Row{}, unreadableBody(err)
	}
	var result huma.ValidateResult
	pb := huma.NewPathBuffer(make([]byte, 0, 64), 0)
	pb.Push("body")
	huma.Validate(s.schemas, schema, pb, huma.ModeWriteToServer, value, &result)
	if result.Errors != nil {
		return Row{}, huma.NewError(http.StatusUnprocessableEntity, "", result.Errors...)
	}
	if upsert {
		var p patch
		if err := web.Unmarshal(text, &p); err != nil {
			return Row{}, notFitting(err)
		}
		return p.Row, nil
	}
	var n newInmueble
	if err := web.Unmarshal(text, &n); err != nil {
		return Row{}, notFitting(err)
	}
	return Row{n.Inmueble, allGiven}, nil
}

// unreadableBody is the answer to what isn't JSON.
func unreadableBody(err error) error {
	return huma.NewError(http.StatusBadRequest, "", &huma.ErrorDetail{Location: "body", Message: err.Error()})
}

// notFitting is the answer to a value that the schema can't judge.
func notFitting(err error) error {
	return huma.NewError(http.StatusUnprocessableEntity, "", &huma.ErrorDetail{Location: "body", Message: err.Error()})
}

// createdSchema is what a POST answers with.
func createdSchema(one, many *huma.Schema) *huma.Schema {
	return &huma.Schema{OneOf: []*huma.Schema{one, many}}
}

// documentWrites says in the API's document what huma can't draw from types:
// bodies of several shapes, and answers with other statuses.
func documentWrites(a *web.API, one, many *huma.Schema) {
	paths, schemas := a.Huma.OpenAPI().Paths, a.Huma.OpenAPI().Components.Schemas
	most, least := maxBulk, 1
	post := paths[pathAll].Post
	fresh, element := newInmueble{}.Schema(schemas), elementSchema(schemas)
	list := &huma.Schema{Type: huma.TypeArray, MinItems: &least, MaxItems: &most, Items: &huma.Schema{AnyOf: []*huma.Schema{fresh, element}}}
	post.RequestBody.Description = "One inmueble, an array of up to 1,000 of them, or one a line (NDJSON): all are stored or none. " +
		"With `Prefer: resolution=…` each may name its _id, and where that exists leave members out."
	post.RequestBody.Content[typeJSON].Schema = &huma.Schema{AnyOf: []*huma.Schema{fresh, element, list}}
	post.RequestBody.Content[typeNDJSON] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Description: "JSON objects, one a line"}}
	answers(post, http.StatusOK, createdSchema(one, many), "Nothing was new: what is stored now", http.StatusCreated)

	answers(paths[pathOne].Get, http.StatusNotModified, nil, "The client has it: If-None-Match", http.StatusOK)
	answers(paths[pathOne].Put, http.StatusNoContent, nil, "Replaced: Prefer: return=minimal", http.StatusOK)
	answers(paths[pathOne].Patch, http.StatusNoContent, nil, "Changed: Prefer: return=minimal", http.StatusOK)
	// Only for readers of the document: parseTags judges, and says more.
	for _, op := range []*huma.Operation{paths[pathOne].Put, paths[pathOne].Patch, paths[pathOne].Delete} {
		for _, p := range op.Parameters {
			if p.Name == "If-Match" || p.Name == "If-None-Match" {
				p.Schema.Extensions = map[string]any{"pattern": patternTags}
			}
		}
	}
	// Clients that know no merge patch send the same as plain JSON.
	change := paths[pathOne].Patch.RequestBody.Content
	change[typeJSON] = change[typePatch]
}

// answers adds an answer to an operation, with the header fields of another.
func answers(op *huma.Operation, status int, schema *huma.Schema, description string, like int) {
	r := &huma.Response{Description: description, Headers: op.Responses[strconv.Itoa(like)].Headers}
	if schema != nil {
		r.Content = map[string]*huma.MediaType{typeJSON: {Schema: schema}}
	}
	op.Responses[strconv.Itoa(status)] = r
}
