// Package web is what both services share over HTTP: a huma API on
// gorilla/mux with the house's settings, problem details, the chain around
// every request, health, the documentation page, and a server that drains.
//
// A request walks through it like this:
//
//	Server (limits, timeouts)
//	  → Handler: trace id, security headers, panic → 500, log line, metrics
//	    → one trailing slash off, HEAD as GET
//	      → mux: route, or 404 / 405 with Allow
//	        → huma: media type, query, strict JSON, schema → your function
//
// The services put their routes on [API].Huma (typed operations) or on
// [API].Router (plain handlers), and map their errors to a [Problem].
package web

import (
	"context"
	"errors"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humamux"
	"github.com/gorilla/mux"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// Info describes an API in its OpenAPI document.
type Info struct {
	Title       string
	Description string // Markdown
	Version     string

	// PostgREST has errors carry message, details and hint too, which the
	// clients of PostgREST show.
	PostgREST bool
}

// API is where a service registers its routes.
type API struct {
	Huma   huma.API
	Router *mux.Router

	guard  func(huma.Context, func(huma.Context))
	access map[string]string // of method and path: who may use it (access.go)
}

// Guard has every operation go through f before anything of the request is
// judged: who may not ask isn't told what is wrong with the question. Set it
// before serving.
func (a *API) Guard(f func(ctx huma.Context, next func(huma.Context))) { a.guard = f }

// MaxBody is the size limit of a request body, in bytes, where the operation
// sets no other.
const MaxBody = 1 << 20

// BearerScheme is the name of the security scheme in the OpenAPI document. An
// operation that wants scopes says Security: web.Scopes("a", "b").
const BearerScheme = "bearer"

// Scopes is the Security of an operation that needs all of these scopes.
func Scopes(names ...string) []map[string][]string {
	return []map[string][]string{{BearerScheme: names}}
}

// ScopesOf are the scopes that an operation needs, and whether it needs a
// token at all.
func ScopesOf(op *huma.Operation) (scopes []string, authenticated bool) {
	for _, s := range op.Security {
		if scopes, ok := s[BearerScheme]; ok {
			return scopes, true
		}
	}
	return nil, false
}

// NewAPI makes an empty API. What huma does otherwise by default and this
// doesn't: names in another case, repeated and unknown members and
// parameters, missing or foreign media types are all refused; no value is
// echoed in an error; no link to a schema in a body; nothing is loaded from
// elsewhere.
func NewAPI(info Info) *API {
	router := mux.NewRouter().SkipClean(true).UseEncodedPath()
	router.Use(atRoute)
	router.NotFoundHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		NewProblem(http.StatusNotFound, "no_such_path", "There is nothing at this path.").Write(w, r)
	})
	router.MethodNotAllowedHandler = methodNotAllowed(router)

	api := humamux.New(router, huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info:    &huma.Info{Title: info.Title, Version: info.Version, Description: info.Description},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{BearerScheme: {
					Type: "http", Scheme: "bearer", BearerFormat: "JWT",
					Description: "An access token (RFC 9068) from `POST /authn/token`.",
				}},
			},
		},
		// huma looks formats up under both names.
		Formats:                      map[string]huma.Format{"application/json": jsonFormat, "json": jsonFormat},
		DefaultFormat:                "application/json",
		Transformers:                 []huma.Transformer{writeProblems(info.PostgREST)},
		RejectUnknownQueryParameters: true,
	})
	a := &API{Huma: api, Router: router}
	api.UseMiddleware(a.checkGuard, a.checkMediaType, a.checkQuery)
	return a
}

// AsSent marks an operation that judges the charset and the content coding of
// its body itself: Operation{Metadata: web.AsSent}.
var AsSent = map[string]any{asSentKey: true}

const asSentKey = "urbandata.as-sent"

func (a *API) checkGuard(ctx huma.Context, next func(huma.Context)) {
	if a.guard == nil {
		next(ctx)
		return
	}
	a.guard(ctx, next)
}

// Fail writes err as the answer from a huma middleware.
func (a *API) Fail(ctx huma.Context, p *Problem) {
	_ = huma.WriteErr(a.Huma, ctx, p.Status, p.Error(), p) // it logs nothing useful, and the client is gone
}

// checkMediaType answers 415 unless the body is of a type that the operation
// takes. An absent type is refused too: a page elsewhere can make a browser
// send that, or a form's, without asking first.
func (a *API) checkMediaType(ctx huma.Context, next func(huma.Context)) {
	body := ctx.Operation().RequestBody
	r, _ := humamux.Unwrap(ctx)
	if body != nil && (body.Required || r.ContentLength != 0) {
		mediaType, params, err := mime.ParseMediaType(ctx.Header("Content-Type"))
		charset := strings.ToLower(params["charset"])
		asSent := ctx.Operation().Metadata[asSentKey] != nil
		if _, ok := body.Content[mediaType]; err != nil || !ok || charset != "" && charset != "utf-8" && !asSent {
			want := slices.Sorted(maps.Keys(body.Content))
			a.Fail(ctx, NewProblem(http.StatusUnsupportedMediaType, "unsupported_media_type",
				i18n.Textf("Content-Type must be %s.", i18n.Or(want))).With("Accept", strings.Join(want, ", ")))
			return
		}
		if coding := ctx.Header("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") && !asSent {
			a.Fail(ctx, NewProblem(http.StatusUnsupportedMediaType, "unsupported_content_coding",
				"The body must not be compressed.").With("Accept-Encoding", "identity"))
			return
		}
	}
	next(ctx)
}

// checkQuery refuses what huma would quietly read some way: a query that
// can't be parsed, a parameter given twice, one without a value. An operation
// with SkipValidateParams judges its parameters itself.
func (a *API) checkQuery(ctx huma.Context, next func(huma.Context)) {
	u := ctx.URL()
	if u.RawQuery == "" {
		next(ctx)
		return
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		a.Fail(ctx, NewProblem(http.StatusBadRequest, "malformed", "The query can't be parsed."))
		return
	}
	if ctx.Operation().SkipValidateParams {
		next(ctx)
		return
	}
	var errs []FieldError
	for _, p := range ctx.Operation().Parameters {
		values, ok := query[p.Name]
		switch {
		case p.In != "query" || !ok:
		case len(values) > 1:
			errs = append(errs, AtParameter(p.Name, "is given more than once"))
		case values[0] == "":
			errs = append(errs, AtParameter(p.Name, "has no value"))
		}
	}
	if errs != nil {
		a.Fail(ctx, Invalid(errs...))
		return
	}
	next(ctx)
}

// methodNotAllowed answers 405 with the methods that the path has (RFC 9110
// §15.5.6).
func methodNotAllowed(router *mux.Router) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var allow []string
		probe := *r
		for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			probe.Method = m
			var match mux.RouteMatch
			if router.Match(&probe, &match) && match.MatchErr == nil {
				allow = append(allow, m)
				if m == http.MethodGet {
					allow = append(allow, http.MethodHead)
				}
			}
		}
		NewProblem(http.StatusMethodNotAllowed, "method_not_allowed", "This path doesn't have this method: see Allow.").
			With("Allow", strings.Join(allow, ", ")).Write(w, r)
	})
}

// atRoute runs once a route is found: it names the route for the log line and
// the metrics, and decodes the path's variables (mux hands them over as they
// stood in the path, so that a slash in an id may be written %2F).
func atRoute(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rec := recordOf(r.Context()); rec != nil {
			if route := mux.CurrentRoute(r); route != nil {
				rec.route, _ = route.GetPathTemplate() // every route here has one
			}
		}
		vars := mux.Vars(r)
		for name, v := range vars {
			if strings.IndexByte(v, '%') >= 0 {
				if plain, err := url.PathUnescape(v); err == nil {
					vars[name] = plain
				}
			}
		}
		if r.Body != nil && r.Body != http.NoBody {
			r.Body = &body{r.Body}
		}
		next.ServeHTTP(w, r)
	})
}

// body turns a failed read of the request into the answer that it deserves;
// huma would call a broken chunk or a client that left our own fault.
type body struct{ inner io.ReadCloser }

func (b *body) Read(p []byte) (int, error) {
	n, err := b.inner.Read(p)
	if err == nil || err == io.EOF {
		return n, err
	}
	var tooLarge *http.MaxBytesError
	var network net.Error
	switch {
	case errors.As(err, &tooLarge):
		return n, NewProblem(http.StatusRequestEntityTooLarge, "too_large", "The body is too large.")
	case errors.As(err, &network) && network.Timeout():
		return n, NewProblem(http.StatusRequestTimeout, "timeout", "The body didn't arrive in time.")
	case errors.Is(err, context.Canceled):
		return n, NewProblem(statusClientClosed, "client_closed", "The client closed the request.")
	}
	return n, NewProblem(http.StatusBadRequest, "malformed", "The body can't be read.")
}

func (b *body) Close() error { return b.inner.Close() }
