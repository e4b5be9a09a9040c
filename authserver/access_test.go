package authserver

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/web"
)

// A route that was registered around the table keeps the server from starting:
// register is what New returns the error of.
func TestRoutesAroundTheTable(t *testing.T) {
	h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	a := newAuthn(t, migrated(t))
	for name, around := range map[string]func(){
		"a handler":                func() { a.api.Router.Path("/authn/backdoor").Methods("GET").Handler(h) },
		"a table's path, any verb": func() { a.api.Router.Handle("/authn/me", h) },
		"no word about who":        func() { route(a.Server, "GET", "/authn/backdoor", 0, 200, a.me, "?") },
	} {
		a.api = web.NewAPI(web.Info{Title: "test", Version: "1"})
		around()
		if err := a.Server.register(); !errors.Is(err, web.ErrUndeclared) {
			t.Errorf("%s: %v, want ErrUndeclared", name, err)
		}
	}
	a.api = web.NewAPI(web.Info{Title: "test", Version: "1"})
	if err := a.Server.register(); err != nil {
		t.Errorf("the table alone: %v", err)
	}
}

// What the document says of a route's token is what the route does.
func TestRoutesWantTheirTokens(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		a.register("ana@ejemplo.example")
		own, _ := a.login("ana@ejemplo.example")
		elsewhere := a.administrator("root@ejemplo.example", InmueblesAudience)
		var document struct {
			Paths map[string]map[string]struct {
				Security []map[string][]string
			}
		}
		if err := json.Unmarshal(a.call("GET", "/openapi.json", "", nil).Body.Bytes(), &document); err != nil {
			t.Fatal(err)
		}
		guarded := 0
		for path, methods := range document.Paths {
			for method, op := range methods {
				public := len(op.Security) == 0
				if admin := strings.HasPrefix(path, "/admin/"); admin && public {
					t.Errorf("%s %s is for anybody", method, path)
				}
				if public {
					continue
				}
				guarded++
				method = strings.ToUpper(method)
				for _, bearer := range []string{"", "rubbish"} {
					if w := a.call(method, path, bearer, member{}); w.Code != 401 {
						t.Errorf("%s %s with the token %q: %d %s", method, path, bearer, w.Code, w.Body)
					}
				}
				if len(op.Security[0][web.BearerScheme]) == 0 {
					continue
				}
				for who, bearer := range map[string]string{"a user": own, "an administrator elsewhere": elsewhere} {
					if w := a.call(method, path, bearer, member{}); w.Code != 403 || !strings.Contains(w.Header().Get("WWW-Authenticate"), `error="insufficient_scope"`) {
						t.Errorf("%s %s as %s: %d %s", method, path, who, w.Code, w.Body)
					}
				}
				for _, scope := range op.Security[0][web.BearerScheme] {
					if !token.Scope(token.Scopes()).Has(scope) {
						t.Errorf("%s %s wants %s, which nobody can have", method, path, scope)
					}
				}
			}
		}
		if guarded < 10 {
			t.Errorf("%d routes want a token", guarded)
		}
	})
}
