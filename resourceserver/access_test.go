package resourceserver

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/web"
)

// A route that was registered around the table keeps the server from starting:
// New makes an API like this one, and returns the error of RegisterDocs.
func TestRoutesAroundTheTable(t *testing.T) {
	store, _ := openSQLite(t)
	s := newClient(t, store).server
	h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	for name, tc := range map[string]struct {
		around func(*web.API)
		want   error
	}{
		"the table alone": {func(*web.API) {}, nil},
		"a handler":       {func(a *web.API) { a.Router.Path("/backdoor").Methods("GET").Handler(h) }, web.ErrUndeclared},
		"an operation": {func(a *web.API) {
			huma.Register(a.Huma, huma.Operation{OperationID: "backdoor", Method: "GET", Path: "/backdoor"}, s.list)
		}, web.ErrUndeclared},
		"no scope": {func(a *web.API) {
			route(a, "GET", "/backdoor", "", s.list, 200, nil, "backdoor", "?")
		}, web.ErrUndeclared},
	} {
		api := web.NewAPI(web.Info{Title: "test", Version: "1"})
		s.routes(api)
		s.Health.Register(api)
		tc.around(api)
		if err := api.RegisterDocs(); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

// anonymous shows no token.
func (c client) anonymous() *client {
	c.token = ""
	return &c
}

// Every route wants the scope that the API's manual says, and no other will do.
func TestRoutesWantTheirScopes(t *testing.T) {
	store, _ := openSQLite(t)
	c := newClient(t, store)
	manual, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{} // of method and path
	for line := range strings.Lines(string(manual)) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		scope := strings.Trim(cells[2], " `")
		for _, op := range strings.Split(cells[1], ",") {
			op, _, _ = strings.Cut(strings.Trim(op, " `"), "?")
			said[op] = scope
		}
	}
	var document struct {
		Paths map[string]map[string]struct {
			Security []map[string][]string
		}
	}
	if err := json.Unmarshal(c.do("GET", "/openapi.json", "").want(200).Body.Bytes(), &document); err != nil {
		t.Fatal(err)
	}
	n := 0
	for path, methods := range document.Paths {
		for method, op := range methods {
			n++
			method = strings.ToUpper(method)
			if len(op.Security) == 0 || len(op.Security[0][web.BearerScheme]) != 1 {
				t.Errorf("%s %s: the document says it wants %v, not one scope", method, path, op.Security)
				continue
			}
			scope := op.Security[0][web.BearerScheme][0]
			if got := said[method+" "+path]; got != scope {
				t.Errorf("%s %s wants %s; docs/api.md says %q", method, path, scope, got)
			}
			others := []string{}
			for _, s := range token.Scopes() {
				if s != scope {
					others = append(others, s)
				}
			}
			at := strings.NewReplacer("{id}", "x", "{name}", "x").Replace(path)
			c.as("alice", others...).do(method, at, "{}").want(403)
			c.anonymous().do(method, at, "{}").want(401)
		}
	}
	if n < 10 {
		t.Errorf("%d routes", n)
	}
}
