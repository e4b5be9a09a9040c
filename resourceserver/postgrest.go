package resourceserver

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/web"
)

// PostgREST's clients change a row by a filter on its key where others name
// it in the path, and want the rows that a change met as an array, through
// select. These routes are that spelling of POST, PATCH and DELETE; what
// happens is the other routes' doing.

// Selection is what such a change wants back.
type Selection struct {
	Select string `query:"select" doc:"Members of the answer, as for a list; the answer is then an array"`
	Accept string `header:"Accept" doc:"application/json, or application/vnd.pgrst.object+json for the only row as an object"`
}

type changeWhereInput struct {
	ID string `query:"_id" required:"true" doc:"eq. and the _id" example:"eq.65f1c0ffee65f1c0ffee65f1"`
	Conditions
	Selection
	Body patch `contentType:"application/merge-patch+json"`
}

type deleteWhereInput struct {
	ID          string `query:"_id" required:"true" doc:"eq. and the _id" example:"eq.65f1c0ffee65f1c0ffee65f1"`
	IfMatch     string `header:"If-Match" doc:"Entity tags, of which the inmueble must have one now, or *: else 412 (RFC 9110)"`
	IfNoneMatch string `header:"If-None-Match" doc:"Entity tags, of which the inmueble must have none now: else 412"`
	Prefer      string `header:"Prefer" doc:"return=representation for what was deleted (RFC 7240)"`
	Selection
}

type rowsOutput struct {
	Status      int
	ContentType string `header:"Content-Type"`
	Applied     string `header:"Preference-Applied" doc:"The preferences that were granted"`
	Body        []byte
}

// theID is the _id that a filter names.
func theID(filter string) (string, error) {
	id, ok := strings.CutPrefix(filter, "eq.")
	if !ok || !validID(id) {
		return "", wrong("_id", "must be eq. and an _id: one inmueble at a time is changed", "")
	}
	return id, nil
}

// shape is how the rows of a change go back.
type shape struct {
	members []member
	object  bool
}

func (in *Selection) shape() (shape, error) {
	kind := accepted(in.Accept, typeJSON, typeObject)
	if kind == "" {
		return shape{}, web.NewProblem(http.StatusNotAcceptable, "not_acceptable", i18n.Textf("Only %s and %s can be had here.", typeJSON, typeObject))
	}
	members, err := parseSelect(in.Select)
	if err != nil {
		return shape{}, wrongQuery(err)
	}
	return shape{members, kind == typeObject}, nil
}

// rows answers with the rows that a change met, none or one.
func (s shape) rows(preferences string, met []Inmueble) (*rowsOutput, error) {
	p := prefer{ret: parsePrefer(preferences).ret}
	if p.ret != "representation" {
		return &rowsOutput{Status: http.StatusNoContent, Applied: p.applied()}, nil
	}
	l := listing{members: s.members, object: s.object}
	out := &rowsOutput{http.StatusOK, typeJSON, p.applied(), nil}
	if s.object {
		if len(met) == 0 {
			return nil, notSingle(0)
		}
		out.ContentType = typeObject
	}
	out.Body = l.render(met)
	return out, nil
}

// notSingle is the answer where one row was asked for.
func notSingle(n int) error {
	p := web.NewProblem(http.StatusNotAcceptable, codeSingle, "One row was asked for, and there are none or several.")
	p.Details = "The result contains several rows"
	if n == 0 {
		p.Details = "The result contains 0 rows"
	}
	return p
}

// createSelect is create, with its answer through select where that is given.
func (s *Server) createSelect(ctx context.Context, in *createInput) (*createdOutput, error) {
	shape, err := in.shape()
	if err != nil {
		return nil, err
	}
	out, err := s.create(ctx, in)
	if err != nil || in.Select == "" {
		return out, err
	}
	body, ok := out.Body.(jsontext.Value)
	if !ok { // return=minimal
		return out, nil
	}
	rows := []jsontext.Value{body}
	if body.Kind() == '[' {
		rows = nil
		if err := json.Unmarshal(body, &rows); err != nil {
			return nil, web.Internal(ctx, err)
		}
	}
	for i := range rows {
		if rows[i], err = shape.of(rows[i]); err != nil {
			return nil, web.Internal(ctx, err)
		}
	}
	if shape.object && len(rows) == 1 {
		out.Body = rows[0]
		return out, nil
	}
	all := jsontext.Value("[")
	for i, one := range rows {
		if i > 0 {
			all = append(all, ',')
		}
		all = append(all, one...)
	}
	out.Body = append(all, ']')
	return out, nil
}

// of is a row's JSON through select.
func (s shape) of(row jsontext.Value) (jsontext.Value, error) {
	if s.members == nil {
		return row, nil
	}
	var has map[string]jsontext.Value
	if err := json.Unmarshal(row, &has); err != nil {
		return nil, err
	}
	b := jsontext.Value("{")
	for i, m := range s.members {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, m.label...), has[allMembers[m.at]]...)
	}
	return append(b, '}'), nil
}

// changeWhere is patch for whoever names the row by a filter. A filter that
// meets nothing changes nothing.
func (s *Server) changeWhere(ctx context.Context, in *changeWhereInput) (*rowsOutput, error) {
	id, err := theID(in.ID)
	if err != nil {
		return nil, err
	}
	shape, err := in.shape()
	if err != nil {
		return nil, err
	}
	stored, err := s.patchOne(ctx, id, in.IfMatch, in.IfNoneMatch, &in.Body)
	if errors.Is(err, ErrNotFound) {
		return shape.rows(in.Prefer, nil)
	}
	if err != nil {
		return nil, s.changeProblem(ctx, id, err)
	}
	return shape.rows(in.Prefer, []Inmueble{stored})
}

// deleteWhere is delete for whoever names the row by a filter.
func (s *Server) deleteWhere(ctx context.Context, in *deleteWhereInput) (*rowsOutput, error) {
	id, err := theID(in.ID)
	if err != nil {
		return nil, err
	}
	shape, err := in.shape()
	if err != nil {
		return nil, err
	}
	by, err := s.condition(ctx, in.IfMatch, in.IfNoneMatch)
	if err != nil {
		return nil, err
	}
	wanted := parsePrefer(in.Prefer).ret == "representation"
	for {
		var gone []Inmueble
		if wanted {
			m, err := s.store.Get(ctx, id)
			switch {
			case errors.Is(err, ErrNotFound):
				return shape.rows(in.Prefer, nil)
			case err != nil && !errors.Is(err, ErrUnreadable):
				return nil, s.problem(ctx, id, err)
			case err == nil:
				gone = []Inmueble{m}
			}
		}
		deleting := by
		if gone != nil && in.IfMatch == "" && in.IfNoneMatch == "" { // what goes back is what is deleted
			match, _, err := ParseMatch(gone[0].ETag(), "")
			if err != nil {
				return nil, web.Internal(ctx, err)
			}
			deleting = by.If(match)
		}
		err := s.store.Delete(ctx, id, deleting)
		switch {
		case errors.Is(err, ErrNotFound):
			return shape.rows(in.Prefer, nil)
		case errors.Is(err, ErrChanged) && in.IfMatch == "" && in.IfNoneMatch == "":
			continue // ends with the request's time at the latest
		case err != nil:
			return nil, s.problem(ctx, id, err)
		}
		return shape.rows(in.Prefer, gone)
	}
}

// documentPostgREST says in the API's document what huma can't draw from
// types.
func documentPostgREST(a *web.API) {
	schemas := a.Huma.OpenAPI().Components.Schemas
	for _, op := range []*huma.Operation{a.Huma.OpenAPI().Paths[pathAll].Patch, a.Huma.OpenAPI().Paths[pathAll].Delete} {
		answers(op, http.StatusNoContent, nil, "Done, or there was nothing to do", http.StatusOK)
		op.Responses["200"].Description = "Prefer: return=representation: the rows that the filter met, none or one"
		op.Responses["200"].Content[typeObject] = &huma.MediaType{Schema: selectedSchema(schemas)}
	}
	change := a.Huma.OpenAPI().Paths[pathAll].Patch.RequestBody.Content
	change[typeJSON] = change[typePatch]
}
