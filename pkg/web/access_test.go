package web

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
)

// A service with a route that doesn't say who may use it doesn't start,
// however the route came to the router.
func TestRoutesSayWhoMayUseThem(t *testing.T) {
	h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	operation := func(a *API) {
		huma.Register(a.Huma, huma.Operation{OperationID: "op", Method: http.MethodGet, Path: "/op"},
			func(context.Context, *struct{}) (*struct{}, error) { return &struct{}{}, nil })
	}
	for _, tc := range []struct {
		name     string
		register func(a *API)
		want     error
		says     string
	}{
		{"nothing", func(*API) {}, nil, ""},
		{"a public handler", func(a *API) { a.Public(http.MethodGet, "/x", h) }, nil, ""},
		{"an operation with a scope", func(a *API) { a.Declare(http.MethodGet, "/op", "things:read"); operation(a) }, nil, ""},
		{"an operation for anybody", func(a *API) { a.DeclarePublic(http.MethodGet, "/op"); operation(a) }, nil, ""},
		{"two methods", func(a *API) {
			a.DeclarePublic(http.MethodGet, "/x")
			a.Declare(http.MethodPut, "/x", "things:write")
			a.Router.Path("/x").Methods(http.MethodGet, http.MethodPut).Handler(h)
		}, nil, ""},

		{"an operation", operation, ErrUndeclared, "GET /op"},
		{"an operation with an empty scope", func(a *API) { a.Declare(http.MethodGet, "/op", ""); operation(a) }, ErrUndeclared, "GET /op"},
		{"a handler", func(a *API) { a.Router.Path("/x").Methods(http.MethodGet).Handler(h) }, ErrUndeclared, "GET /x"},
		{"another method", func(a *API) {
			a.Public(http.MethodGet, "/x", h)
			a.Router.Path("/x").Methods(http.MethodDelete).Handler(h)
		}, ErrUndeclared, "DELETE /x"},
		{"one of two methods", func(a *API) {
			a.DeclarePublic(http.MethodGet, "/x")
			a.Router.Path("/x").Methods(http.MethodGet, http.MethodPut).Handler(h)
		}, ErrUndeclared, "PUT /x"},
		{"any method", func(a *API) { a.DeclarePublic(http.MethodGet, "/x"); a.Router.Handle("/x", h) }, ErrUndeclared, `"/x"`},
		{"a prefix of a declared path", func(a *API) {
			a.DeclarePublic(http.MethodGet, "/x")
			a.Router.PathPrefix("/x").Methods(http.MethodGet).Handler(h)
		}, ErrUndeclared, `"/x"`},
		{"another name of the variable", func(a *API) {
			a.DeclarePublic(http.MethodGet, "/x/{id}")
			a.Router.Path("/x/{any:.*}").Methods(http.MethodGet).Handler(h)
		}, ErrUndeclared, "GET /x/{any:.*}"},
		{"a second one behind the first", func(a *API) {
			a.Public(http.MethodGet, "/x", h)
			a.Router.Path("/x").Methods(http.MethodGet).Host("internal").Handler(h)
		}, ErrUndeclared, "GET /x"},
		{"no path", func(a *API) { a.Router.Methods(http.MethodGet).Handler(h) }, ErrUndeclared, `""`},
		{"below a router of its own", func(a *API) {
			a.Router.PathPrefix("/sub").Subrouter().Path("/x").Methods(http.MethodGet).Handler(h)
		}, ErrUndeclared, "GET /sub/x"},
	} {
		a := NewAPI(Info{Title: "test", Version: "1"})
		NewHealth().Register(a)
		tc.register(a)
		err := a.RegisterDocs()
		if !errors.Is(err, tc.want) || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %v about %s", tc.name, err, tc.want, tc.says)
		}
	}
}
