package web

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/gorilla/mux"
)

// Every route says who may use it, where it is registered: a service's route
// table with [API.Declare], whatever wants no token at all with [API.Public].
// [API.RegisterDocs] looks at what the router holds in the end, so a route that
// was registered around that, or says nothing, keeps the service from starting.

// ErrUndeclared is wrapped by what [API.RegisterDocs] says of routes that don't
// say who may use them.
var ErrUndeclared = errors.New("web: a route doesn't say who may use it")

// anybody is who may use a public route.
const anybody = "anybody"

// Declare notes who may use a route: a scope, or another word for whom the
// service lets through there. It checks nothing itself.
func (a *API) Declare(method, path, who string) {
	if a.access == nil {
		a.access = map[string]string{}
	}
	a.access[method+" "+path] = who
}

// DeclarePublic notes that anybody may use a route.
func (a *API) DeclarePublic(method, path string) { a.Declare(method, path, anybody) }

// Public registers a handler of which nobody has to show a token.
func (a *API) Public(method, path string, h http.Handler) {
	a.DeclarePublic(method, path)
	a.Router.Path(path).Methods(method).Handler(h)
}

// checkRoutes returns [ErrUndeclared] for every route of the router that isn't
// declared: also for one that takes any method, or a prefix of paths, or stands
// behind another of the same name.
func (a *API) checkRoutes() error {
	seen := map[string]bool{}
	var errs []error
	err := a.Router.Walk(func(route *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		path, _ := route.GetPathTemplate() // "" where it has none
		pattern, _ := route.GetPathRegexp()
		methods, _ := route.GetMethods()
		if !strings.HasSuffix(pattern, "$") || len(methods) == 0 {
			errs = append(errs, fmt.Errorf("%w: %q, for methods %q: give it one path and its methods", ErrUndeclared, path, methods))
			return nil
		}
		for _, method := range methods {
			name := method + " " + path
			if a.access[name] == "" || seen[name] {
				errs = append(errs, fmt.Errorf("%w: %s", ErrUndeclared, name))
			}
			seen[name] = true
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}
