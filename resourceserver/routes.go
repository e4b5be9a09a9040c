package resourceserver

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/web"
)

const (
	pathAll = "/inmuebles"
	pathOne = "/inmuebles/{id}"

	read  = token.ScopeInmueblesRead
	write = token.ScopeInmueblesWrite // and inmuebles:admin for other people's
)

// routes is the whole API. The path may end in a slash (package web).
func (s *Server) routes(a *web.API) {
	components := a.Huma.OpenAPI().Components
	components.SecuritySchemes[verify.LegacyHeader] = &huma.SecurityScheme{
		Type: "apiKey", In: "header", Name: verify.LegacyHeader,
		Description: "The same access token, alone, as clients of the first version send it.",
	}
	one, many := answerSchema(components.Schemas), pageSchema(components.Schemas)
	names, catalogue := catalogueSchemas(components.Schemas)

	route(a, http.MethodGet, pathAll, read, s.list, 200, many, "list-inmuebles", "A page of all inmuebles")
	route(a, http.MethodPost, pathAll, write, s.createSelect, 201, createdSchema(one, many), "create-inmueble", "Create an inmueble, or many, owned by who asks")
	route(a, http.MethodPatch, pathAll, write, s.changeWhere, 200, many, "patch-inmuebles", "Change some members of the inmueble that a filter on _id names")
	route(a, http.MethodDelete, pathAll, write, s.deleteWhere, 200, many, "delete-inmuebles", "Delete the inmueble that a filter on _id names")
	s.importRoutes(a)                                                                                                                            // before pathOne
	route(a, http.MethodGet, pathStats, read, s.stats, 200, statsSchema(), "inmuebles-stats", "Figures about the inmuebles that a filter finds") // before pathOne
	route(a, http.MethodGet, pathOne, read, s.get, 200, one, "get-inmueble", "One inmueble")
	route(a, http.MethodPut, pathOne, write, s.replace, 200, one, "replace-inmueble", "Replace all of an inmueble")
	route(a, http.MethodPatch, pathOne, write, s.patch, 200, one, "patch-inmueble", "Change some members of an inmueble")
	route(a, http.MethodDelete, pathOne, write, s.delete, 204, nil, "delete-inmueble", "Delete an inmueble")
	route(a, http.MethodGet, pathCatalogues, read, s.listCatalogues, 200, names, "list-catalogues", "The members that have a catalogue of codes")
	route(a, http.MethodGet, pathCatalogue, read, s.getCatalogue, 200, catalogue, "get-catalogue", "The codes that a member may be given")
	documentList(a)
	documentStats(a)
	documentWrites(a, one, many)
	documentPostgREST(a)
	documentCatalogues(a)
	s.catalogues.document(components.Schemas)
}

// route registers one operation. A scope is needed: without one the server
// doesn't start.
func route[I, O any](a *web.API, method, path, scope string, handler func(context.Context, *I) (*O, error),
	status int, answer *huma.Schema, id, summary string,
) {
	a.Declare(method, path, scope)
	op := huma.Operation{
		Method: method, Path: path, DefaultStatus: status,
		Security:    append(web.Scopes(scope), map[string][]string{verify.LegacyHeader: {}}),
		OperationID: id, Summary: summary, Tags: []string{"inmuebles"},
		Errors: []int{
			http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden,
			http.StatusUnprocessableEntity, http.StatusServiceUnavailable,
		},
	}
	if path == pathOne || path == pathCatalogue {
		op.Errors = append(op.Errors, http.StatusNotFound)
	}
	switch {
	case method == http.MethodGet && path == pathAll:
		op.Parameters, op.SkipValidateParams = listParameters(), true // readListing does
		op.Errors = slices.DeleteFunc(op.Errors, func(status int) bool { return status == http.StatusUnprocessableEntity })
		op.Errors = append(op.Errors, http.StatusNotAcceptable, http.StatusRequestedRangeNotSatisfiable)
	case path == pathStats:
		op.Parameters, op.SkipValidateParams = statsParameters(), true // parseStats does
		op.Errors = slices.DeleteFunc(op.Errors, func(status int) bool { return status == http.StatusUnprocessableEntity })
		op.Errors = append(op.Errors, http.StatusNotAcceptable)
	}
	switch method {
	case http.MethodPost:
		op.MaxBodyBytes, op.BodyReadTimeout, op.SkipValidateBody = maxBulkBody, requestTimeout, true // readRows does
		op.Errors = append(op.Errors, http.StatusNotAcceptable, http.StatusConflict)
	case http.MethodPut, http.MethodPatch, http.MethodDelete:
		if path == pathAll {
			op.Errors = append(op.Errors, http.StatusNotAcceptable)
		}
		op.Errors = append(op.Errors, http.StatusPreconditionFailed, http.StatusPreconditionRequired)
	}
	if method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch {
		op.Errors = append(op.Errors, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	if answer != nil {
		op.Responses = map[string]*huma.Response{strconv.Itoa(status): {
			Description: http.StatusText(status),
			Content:     map[string]*huma.MediaType{"application/json": {Schema: answer}},
		}}
	}
	huma.Register(a.Huma, op, handler)
}

func pageSchema(r huma.Registry) *huma.Schema {
	most := maxLimit
	return &huma.Schema{Type: huma.TypeArray, Items: selectedSchema(r), MaxItems: &most}
}

// selectedSchema is an inmueble, or what select makes of it.
func selectedSchema(r huma.Registry) *huma.Schema {
	return &huma.Schema{AnyOf: []*huma.Schema{answerSchema(r), {
		Type: huma.TypeObject, Description: "The members that select asks for, under the names that it gives them",
	}}}
}

// Answers are rendered by AppendJSON and sent as they are.
type (
	oneOutput struct {
		Status int
		ETag   string `header:"ETag" doc:"Strong entity tag of the inmueble, for If-None-Match and If-Match (RFC 9110)"`
		Body   any
	}
)

type getInput struct {
	ID          string `path:"id" doc:"The inmueble's _id, percent-encoded" example:"65f1c0ffee65f1c0ffee65f1"`
	IfNoneMatch string `header:"If-None-Match" doc:"Entity tags that the client holds: 304 when the inmueble still has one of them (RFC 9110)"`
}

func (s *Server) get(ctx context.Context, in *getInput) (*oneOutput, error) {
	if !validID(in.ID) {
		return nil, s.problem(ctx, in.ID, ErrNotFound)
	}
	m, err := s.store.Get(ctx, in.ID)
	if err != nil {
		return nil, s.problem(ctx, in.ID, err)
	}
	body := m.AppendJSON(nil)
	tag := etagOf(body)
	if held, err := parseTags(in.IfNoneMatch); err == nil && held.given() && held.weak(tag) { // a broken field is ignored
		return &oneOutput{http.StatusNotModified, tag, []byte(nil)}, nil
	}
	return &oneOutput{http.StatusOK, tag, jsontext.Value(body)}, nil
}

// invalid is the answer to a ValidationError of what stands at the pointer.
func invalid(at string, err error) error {
	var bad ValidationError
	if !errors.As(err, &bad) {
		return err
	}
	errs := make([]web.FieldError, len(bad))
	for i, e := range bad {
		errs[i] = web.AtMember(at+"/"+e.Field, e.Reason)
	}
	return web.Invalid(errs...)
}

// leftOut counts and logs a document that is no inmueble. The log has its id
// alone: what is wrong with it may quote what nobody vetted.
func (s *Server) leftOut(ctx context.Context, id string) {
	s.metrics.unreadable.Inc()
	s.log.LogAttrs(ctx, slog.LevelWarn, "a stored document is no valid inmueble",
		slog.String("id", shown(id)), slog.String("request_id", web.RequestID(ctx)))
}

// shown is an id as an answer or a log line repeats it: text, and not long.
func shown(id string) string {
	points := []rune(strings.ToValidUTF8(id, "\uFFFD"))
	if len(points) > maxID {
		return string(points[:maxID]) + "…"
	}
	return string(points)
}
