package resourceserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
	"github.com/urbandata/urbandata/resourceserver/query"
)

var objectID = regexp.MustCompile(`^[0-9a-f]{24}$`)

// TestCRUD walks the whole API, with and without the trailing slash, on both
// engines.
func TestCRUD(t *testing.T) {
	for _, e := range theEngines {
		for _, slash := range []string{"", "/"} {
			t.Run(e.name+slash, func(t *testing.T) {
				t.Parallel()
				store, _ := e.open(t)
				crud(t, newClient(t, store), slash)
			})
		}
	}
}

func crud(t *testing.T, c *client, slash string) {
	all := "/inmuebles" + slash
	if got := c.do("GET", all, "").want(200).Body.String(); got != "[]" {
		t.Errorf("an empty list is %s", got)
	}

	created := c.do("POST", all, body("construction_type", "", "date_diff", "", "description", "", "boundary_id", "null", "title", "")).want(201)
	m := decode[map[string]any](created)
	id, _ := m["_id"].(string)
	if !objectID.MatchString(id) {
		t.Errorf("_id %q", id)
	}
	one := "/inmuebles/" + id + slash
	if got := created.Header().Get("Location"); got != "/inmuebles/"+id {
		t.Errorf("Location %q", got)
	}
	wantMembers := map[string]any{
		"_id": id, "other_id": "A1", "build_status": 1.0, "is_active": true, "start_month": 2.0, "construction_type": nil,
		"date_diff": 0.0, "description": "", "date_in": "2021-03-01", "property_type": 6.0, "end_week": 7.0, "typology_type": 8.0,
		"x_coord": -3.7038, "y_coord": 40.4168, "boundary_id": nil, "title": "", "listing_type": 10.0, "date": "2021-03-02",
		"owner": "alice", "created_at": "2026-03-01T06:30:00.123Z", "updated_at": "2026-03-01T06:30:00.123Z",
	}
	if fmt.Sprint(m) != fmt.Sprint(wantMembers) {
		t.Errorf("created %v\nwant    %v", m, wantMembers)
	}
	got := c.do("GET", one, "").want(200)
	if got.Body.String() != created.Body.String() {
		t.Errorf("GET %s\nwant %s", got.Body, created.Body)
	}
	if cc := got.Header().Get("Cache-Control"); !strings.Contains(cc, "private") {
		t.Errorf("Cache-Control %q lets a shared cache keep it", cc)
	}
	if list := c.do("GET", all, "").want(200).Body.String(); list != "["+created.Body.String()+"]" {
		t.Errorf("the list is %s", list)
	}

	// What GET gave can be PUT back, and then nothing changed.
	c.clock.advance(time.Hour)
	if same := c.do("PUT", one, got.Body.String()).want(200); same.Body.String() != got.Body.String() {
		t.Errorf("PUT of the same %s\nwant %s", same.Body, got.Body)
	}
	put := decode[map[string]any](c.do("PUT", one, body("_id", `"`+id+`"`, "other_id", "17", "owner", `"mallory"`, "created_at", `1`)).want(200))
	for name, want := range map[string]any{
		"other_id": "17", "title": "Ático 🏠", "owner": "alice",
		"created_at": "2026-03-01T06:30:00.123Z", "updated_at": "2026-03-01T07:30:00.123Z",
	} {
		if put[name] != want {
			t.Errorf("after PUT %s is %v, want %v", name, put[name], want)
		}
	}

	// Reading is for all who may read, changing for the owner and for admins.
	bob := c.as("bob", token.ScopeInmueblesRead, token.ScopeInmueblesWrite)
	bob.do("GET", one, "").want(200)
	for _, refused := range []answer{bob.do("PUT", one, body("_id", `"`+id+`"`)), bob.do("DELETE", one, "")} {
		refused.want(403)
		if got := refused.Header().Get("WWW-Authenticate"); !strings.Contains(got, `error="insufficient_scope"`) || !strings.Contains(got, `scope="inmuebles:admin"`) {
			t.Errorf("WWW-Authenticate %q", got)
		}
	}
	changed := decode[map[string]any](c.admin().do("PUT", one, body("_id", `"`+id+`"`, "title", `"by an admin"`)).want(200))
	if changed["owner"] != "alice" || changed["title"] != "by an admin" {
		t.Errorf("after an admin's PUT: %v", changed)
	}

	p := decode[problem](c.do("PUT", "/inmuebles/other"+slash, body("_id", `"`+id+`"`)).want(422))
	if len(p.Errors) != 1 || *p.Errors[0].Pointer != "/_id" {
		t.Errorf("PUT with another _id: %+v", p)
	}
	c.do("DELETE", one, "").want(204)
	missing := "Inmueble with ID " + id + " does not exist"
	for _, gone := range []answer{c.do("GET", one, ""), c.do("DELETE", one, ""), c.do("PUT", one, body("_id", `"`+id+`"`)), bob.do("DELETE", one, "")} {
		if p := decode[problem](gone.want(404)); p.Detail != missing {
			t.Errorf("detail %q, want %q", p.Detail, missing)
		}
	}
}

// TestLenient: other spellings of valid values.
func TestLenient(t *testing.T) {
	store, _ := openSQLite(t)
	c := newClient(t, store)
	for _, tt := range []struct{ name, json, want string }{
		{"other_id", `169`, `"169"`},
		{"other_id", `169.0`, `"169"`},
		{"other_id", `-0`, `"0"`},
		{"other_id", `1e3`, `"1000"`},
		{"other_id", `-1234567890123456789012`, `"-1234567890123456789012"`},
		{"other_id", `10000000000000000000000`, `"10000000000000000000000"`},
		{"other_id", `""`, `""`},
		{"build_status", `169.0`, `169`},
		{"build_status", `1.5e1`, `15`},
		{"build_status", `-2147483648`, `-2147483648`},
		{"build_status", `2147483647.0`, `2147483647`},
		{"boundary_id", `0`, `0`},
		{"boundary_id", `1e2`, `100`},
		{"x_coord", `180`, `180`},
		{"x_coord", `-0.0`, `0`},
		{"x_coord", `1e-7`, `1e-07`},
		{"y_coord", `-90`, `-90`},
		{"title", `"\ud83c\udfe0\n\"\\"`, `"🏠\n\"\\"`},
		{"title", `"` + strings.Repeat("🏠", 500) + `"`, `"` + strings.Repeat("🏠", 500) + `"`},
		{"description", `"` + strings.Repeat("ñ", 20_000) + `"`, `"` + strings.Repeat("ñ", 20_000) + `"`},
		{"description", `"</script>\u2028"`, `"</script>` + "\u2028" + `"`},
		{"date", `"$where"`, `"$where"`},
	} {
		created := c.do("POST", "/inmuebles", body(tt.name, tt.json)).want(201).Body.String()
		if want := fmt.Sprintf("%q:%s", tt.name, tt.want); !strings.Contains(created, want) {
			t.Errorf("%s %.60s: want %.60s in %.900s", tt.name, tt.json, want, created)
		}
	}
}

// TestIDs: an _id may hold what a URL can only carry percent-encoded.
func TestIDs(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			c := newClient(t, store)
			for _, id := range []string{
				"plain", "a b", "a/b", "/", "a/", "%2F", "100%", "?", "#", "ñ", "🏠", "a+b", "a.b", "...", "$gt", `"`, `\`,
				"a;b", "a,b", "<x>", "{id}", "\u0001", strings.Repeat("x", maxID),
			} {
				insert(t, store, id)
				path := "/inmuebles/" + url.PathEscape(id)
				for _, slash := range []string{"", "/"} {
					m := decode[map[string]any](c.do("GET", path+slash, "").want(200))
					if m["_id"] != id {
						t.Errorf("%q: got %q", id, m["_id"])
					}
				}
				jsonID, err := json.Marshal(id)
				must(t, err)
				c.do("PUT", path, body("_id", string(jsonID))).want(200)
				c.do("DELETE", path, "").want(204)
				_, err = store.Get(t.Context(), id)
				wantErr(t, err, ErrNotFound)
			}
			for _, path := range []string{"%00", "%FF", "%ED%A0%80", "..", ".", "%2E%2E", strings.Repeat("x", maxID+1), strings.Repeat("%F0%9F%8F%A0", 2000)} {
				c.do("GET", "/inmuebles/"+path, "").want(404)
				c.do("DELETE", "/inmuebles/"+path, "").want(404)
			}
		})
	}
}

// TestPages walks the list by its links alone.
func TestPages(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, spoil := e.open(t)
			_, err := importInto(t.Context(), store, docsOf(250, nil))
			must(t, err)
			spoil(t, "000099x", "alice", notFinite) // the last of the first page of 101
			c := newClient(t, store)

			for target, want := range map[string][]int{
				"/inmuebles":            {100, 99, 51}, // one is left out
				"/inmuebles/?limit=101": {100, 101, 49},
				"/inmuebles?limit=1000": {250},
			} {
				var sizes []int
				var last string
				for next := target; next != ""; {
					a := c.do("GET", next, "").want(200)
					items := decode[[]map[string]any](a)
					sizes = append(sizes, len(items))
					for _, m := range items {
						id, _ := m["_id"].(string)
						if id <= last {
							t.Errorf("%s: %q after %q", next, id, last)
						}
						last = id
					}
					link := a.Header().Get("Link")
					if !strings.Contains(link, `rel="first"`) {
						t.Errorf("%s: Link %q", next, link)
					}
					next = ""
					if found := regexp.MustCompile(`<([^>]*)>; rel="next"`).FindStringSubmatch(link); found != nil {
						next = found[1]
					}
				}
				if slices.Sort(sizes); !slices.Equal(sizes, slices.Sorted(slices.Values(want))) {
					t.Errorf("%s: pages of %v, want %v", target, sizes, want)
				}
			}

			for _, tt := range []struct{ query, parameter string }{
				{"limit=0", "limit"},
				{"limit=1001", "limit"},
				{"limit=-1", "limit"},
				{"limit=x", "limit"},
				{"limit=", "limit"},
				{"limit=1&limit=2", "limit"},
				{"limit=99999999999999999999", "limit"},
				{"limit=1.5", "limit"},
				{"limit=NaN", "limit"},
				{"cursor=", "cursor"},
				{"cursor=x", "cursor"},
				{"cursor=AQ", "cursor"},
				{"cursor=AmE", "cursor"},
				{"cursor=AWF", "cursor"},
				{"cursor=Af8", "cursor"},
				{"cursor=AWE&cursor=AWE", "cursor"},
				{"cursor=%00", "cursor"},
				{"cursor=AWE%3D", "cursor"},
				{"cursor=" + strings.Repeat("A", 9000), "cursor"},
				{"Limit=1", "Limit"},
				{"page=2", "page"},
			} {
				p := decode[problem](c.do("GET", "/inmuebles?"+tt.query, "").want(400))
				if len(p.Errors) != 1 || p.Errors[0].Parameter != tt.parameter {
					t.Errorf("%.40s: %+v, want parameter %s", tt.query, p, tt.parameter)
				}
			}
			c.do("GET", "/inmuebles?limit=%zz", "").want(400)
		})
	}
}

// TestUnreadable: one bad document spoils nothing, and an admin mends it.
func TestUnreadable(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, spoil := e.open(t)
			insert(t, store, "a", "z")
			for i, how := range spoilings {
				spoil(t, fmt.Sprintf("bad%d", i), "alice", how)
			}
			c := newClient(t, store)
			if items := decode[[]any](c.do("GET", "/inmuebles", "").want(200)); len(items) != 2 {
				t.Errorf("%d items listed, want 2", len(items))
			}
			if n := c.metric("urbandata_unreadable_documents_total"); n != float64(len(spoilings)) {
				t.Errorf("%v unreadable documents counted, want %d", n, len(spoilings))
			}
			if log := c.log.String(); !strings.Contains(log, `"id":"bad0"`) || strings.Contains(log, "Ático") || strings.Contains(log, "NaN") {
				t.Errorf("the log must name the documents, and nothing in them: %s", log)
			}
			for i := range spoilings {
				id := fmt.Sprintf("bad%d", i)
				if p := decode[problem](c.do("GET", "/inmuebles/"+id, "").want(404)); p.Code != "unreadable" {
					t.Errorf("code %q", p.Code)
				}
				if i%2 == 0 {
					c.admin().do("DELETE", "/inmuebles/"+id, "").want(204)
					continue
				}
				c.as("bob", token.ScopeInmueblesWrite).do("PUT", "/inmuebles/"+id, body("_id", `"`+id+`"`)).want(403)
				c.admin().do("PUT", "/inmuebles/"+id, body("_id", `"`+id+`"`)).want(200)
				c.do("GET", "/inmuebles/"+id, "").want(200)
			}
		})
	}
}

// TestTokens: who is let in, and what the others are told.
func TestTokens(t *testing.T) {
	store, _ := openSQLite(t)
	c := newClient(t, store)
	good, other := c.token, c.issuer.Token("bob", "inmuebles:read")
	claims := c.issuer.Claims("alice", "inmuebles:read")
	claims.Expiry = time.Now().Add(-time.Hour).Unix()
	expired := c.issuer.Mint(verify.EdDSA, claims)
	claims = c.issuer.Claims("alice", "inmuebles:read")
	claims.Audience = token.Audience{"elsewhere"}
	foreign := c.issuer.Mint(verify.EdDSA, claims)
	forged := good[:len(good)-8] + "AAAAAAAA"

	for _, tt := range []struct {
		name, method  string
		header        []string // name, value, …
		status        int
		code, inReply string // in WWW-Authenticate
	}{
		{"bearer", "GET", []string{"Authorization", "Bearer " + good}, 200, "", ""},
		{"bearer in another case", "GET", []string{"Authorization", "bearer " + good}, 200, "", ""},
		{"the original's header", "GET", []string{"access-token", good}, 200, "", ""},
		{"both the same", "GET", []string{"Authorization", "Bearer " + good, "access-token", good}, 200, "", ""},
		{"both, different", "GET", []string{"Authorization", "Bearer " + good, "access-token", other}, 400, "token_ambiguous", `error="invalid_request"`},
		{"none", "GET", nil, 401, "token_missing", `Bearer realm="inmuebles"`},
		{"none, in a query", "GET", nil, 401, "token_missing", `Bearer`},
		{"another scheme", "GET", []string{"Authorization", "Basic YTpi"}, 401, "token_missing", `Bearer`},
		{"empty", "GET", []string{"Authorization", "Bearer "}, 401, "token_missing", `Bearer`},
		{"rubbish", "GET", []string{"Authorization", "Bearer rubbish"}, 401, "token_invalid", `error="invalid_token"`},
		{"expired", "GET", []string{"Authorization", "Bearer " + expired}, 401, "token_expired", `error="invalid_token"`},
		{"for another audience", "GET", []string{"Authorization", "Bearer " + foreign}, 401, "token_invalid", `error="invalid_token"`},
		{"forged", "GET", []string{"Authorization", "Bearer " + forged}, 401, "token_invalid", `error="invalid_token"`},
		{"without the scope to write", "POST", []string{"Authorization", "Bearer " + other}, 403, "insufficient_scope", `scope="inmuebles:write"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := *c
			asked.t, asked.token = t, ""
			for i := 0; i < len(tt.header); i += 2 {
				asked = *asked.with(http.CanonicalHeaderKey(tt.header[i]), tt.header[i+1])
			}
			target := "/inmuebles"
			a := asked.do(tt.method, target, body()).want(tt.status)
			if tt.status == 200 {
				return
			}
			if p := decode[problem](a); p.Code != tt.code {
				t.Errorf("code %q, want %q", p.Code, tt.code)
			}
			if got := a.Header().Get("WWW-Authenticate"); !strings.Contains(got, tt.inReply) {
				t.Errorf("WWW-Authenticate %q, want %q in it", got, tt.inReply)
			}
		})
	}
	if ids, _ := walk(t, store, 10); len(ids) != 0 {
		t.Errorf("a refused request stored %q", ids)
	}
	if log := c.log.String(); strings.Contains(log, good) || strings.Contains(log, forged) || strings.Contains(log, "alice") {
		t.Error("the log holds a token or a claim")
	}
	if n := c.metric("urbandata_tokens_checked_total", "expired"); n != 1 {
		t.Errorf("%v expired tokens counted, want 1", n)
	}
	// A route of each kind wants its scope.
	nobody := c.as("alice")
	for _, r := range [][2]string{
		{"GET", "/inmuebles"}, {"POST", "/inmuebles"}, {"GET", "/inmuebles/a"}, {"PUT", "/inmuebles/a"}, {"PATCH", "/inmuebles/a"}, {"DELETE", "/inmuebles/a"},
	} {
		nobody.do(r[0], r[1], body("_id", `"a"`)).want(403)
	}
	c.do("POST", "/inmuebles/a", "").want(405)
}

// brokenStore fails every call with err.
type brokenStore struct{ err error }

func (b brokenStore) Get(context.Context, string) (Inmueble, error)       { return Inmueble{}, b.err }
func (b brokenStore) Find(context.Context, Query) (Page, error)           { return Page{}, b.err }
func (b brokenStore) Count(context.Context, query.Node, int) (int, error) { return 0, b.err }
func (b brokenStore) Stats(context.Context, StatsQuery) ([]Group, error)  { return nil, b.err }
func (b brokenStore) Insert(context.Context, Inmueble) error              { return b.err }
func (b brokenStore) Replace(context.Context, Inmueble, By) (Inmueble, error) {
	return Inmueble{}, b.err
}
func (b brokenStore) Delete(context.Context, string, By) error { return b.err }
func (b brokenStore) Update(context.Context, string, By, func(Inmueble) (Inmueble, error)) (Inmueble, error) {
	return Inmueble{}, b.err
}
func (b brokenStore) Load(context.Context, Batch) (Loaded, error) { return Loaded{}, b.err }
func (b brokenStore) Check(context.Context) error                 { return b.err }

// TestFailingStore: the client learns nothing of a failure's cause, and what
// is worth another try says so.
func TestFailingStore(t *testing.T) {
	for _, tt := range []struct {
		name   string
		err    error
		status int
	}{
		{"database away", fmt.Errorf("%w: dial 10.0.0.1", ErrUnavailable), 503},
		{"out of time", fmt.Errorf("read: %w", context.DeadlineExceeded), 503},
		{"anything else", errors.New("dial 10.0.0.1"), 500},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClient(t, brokenStore{tt.err})
			for _, a := range []answer{
				c.do("GET", "/inmuebles", ""), c.do("GET", "/inmuebles/stats", ""), c.do("GET", "/inmuebles/a", ""), c.do("POST", "/inmuebles", body()),
				c.do("PUT", "/inmuebles/a", body("_id", `"a"`)), c.do("DELETE", "/inmuebles/a", ""),
				c.do("PATCH", "/inmuebles/a", `{"title":"x"}`), c.do("POST", "/inmuebles", "["+body()+"]"),
			} {
				a.want(tt.status)
				if strings.Contains(a.Body.String(), "10.0.0.1") {
					t.Errorf("the answer tells the cause: %s", a.Body)
				}
				if tt.status == 503 && a.Header().Get("Retry-After") == "" {
					t.Error("503 without Retry-After")
				}
			}
			c.server.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/livez", nil))
			w := httptest.NewRecorder()
			c.server.ServeHTTP(w, httptest.NewRequest("GET", "/readyz", nil))
			if w.Code != 503 {
				t.Errorf("/readyz is %d", w.Code)
			}
		})
	}
}

// TestHealth: ready with a database and keys, until it drains.
func TestHealth(t *testing.T) {
	store, _ := openSQLite(t)
	c := newClient(t, store)
	c.token = ""
	for _, path := range []string{"/livez", "/readyz", "/openapi.json"} {
		c.do("GET", path, "").want(200)
	}
	if docs := c.do("GET", "/docs", ""); docs.Code != 200 {
		t.Errorf("/docs is %d", docs.Code)
	}
	c.server.Health.Drain()
	if a := c.do("GET", "/readyz", ""); a.Code != 503 {
		t.Errorf("/readyz is %d while draining", a.Code)
	}
	keyless, err := verify.New(verify.Options{Issuer: "https://id.example", Audience: "inmuebles", JWKSURL: "https://id.example/jwks"})
	must(t, err)
	server, err := New(Options{Store: store, Verifier: keyless})
	must(t, err)
	c.server = server
	if a := c.do("GET", "/readyz", ""); a.Code != 503 || !strings.Contains(a.Body.String(), `"keys":"failing"`) {
		t.Errorf("/readyz without keys: %d %s", a.Code, a.Body)
	}
	c.as("alice", "inmuebles:read").do("GET", "/inmuebles", "").want(503)
}

func TestOptions(t *testing.T) {
	store, _ := openSQLite(t)
	for _, o := range []Options{{}, {Store: store}, {Verifier: verifytest.NewIssuer(t).Verifier(t)}} {
		_, err := New(o)
		wantErr(t, err, ErrOptions)
	}
}

// TestVary: what depends on the asker's origin says so, beside what else it
// depends on.
func TestVary(t *testing.T) {
	store, _ := openSQLite(t)
	c := newClient(t, store)
	server, err := New(Options{Store: store, Verifier: c.server.verifier, Catalogues: catalogues(t, catalogueFile), Origins: []string{"https://map.example"}})
	must(t, err)
	c.server = server
	for path, want := range map[string]string{"/inmuebles": "Origin, Accept, Prefer, Range", "/catalogues": "Origin", "/catalogues/listing_type": "Origin, Accept-Language"} {
		a := c.with("Origin", "https://map.example").do("GET", path, "").want(200)
		if got := strings.Join(a.Header().Values("Vary"), ", "); got != want {
			t.Errorf("%s: Vary: %s, want %s", path, got, want)
		}
	}
}

// TestDocument: the API's document says what the table of fields says.
func TestDocument(t *testing.T) {
	store, _ := openSQLite(t)
	c := newClient(t, store)
	raw := c.do("GET", "/openapi.json", "").want(200)
	doc := decode[struct {
		Components struct {
			Schemas map[string]struct {
				Required             []string
				AdditionalProperties any
				Properties           map[string]map[string]any
			}
		}
		Paths map[string]map[string]struct {
			Security  []map[string][]string
			Responses map[string]any
		}
	}](raw)
	for name, want := range map[string][2]int{schemaNew: {17, 12}, schemaReplacement: {21, 13}, schemaAnswer: {21, 21}, schemaPatch: {18, 0}, schemaElement: {18, 0}} {
		s := doc.Components.Schemas[name]
		if len(s.Properties) != want[0] || len(s.Required) != want[1] || s.AdditionalProperties != false {
			t.Errorf("%s: %d properties, %d required, want %v", name, len(s.Properties), len(s.Required), want)
		}
	}
	otherID := doc.Components.Schemas[schemaNew].Properties["other_id"]
	if fmt.Sprint(otherID["type"]) != "[string integer]" {
		t.Errorf("other_id: %v", otherID)
	}
	scopes := map[string]string{}
	for path, operations := range doc.Paths {
		for method, op := range operations {
			scopes[method+" "+path] = strings.Join(op.Security[0]["bearer"], " ")
		}
	}
	if want := map[string]string{
		"get /inmuebles": "inmuebles:read", "post /inmuebles": "inmuebles:write",
		"patch /inmuebles": "inmuebles:write", "delete /inmuebles": "inmuebles:write", "get /inmuebles/{id}": "inmuebles:read", "get /inmuebles/stats": "inmuebles:read",
		"put /inmuebles/{id}": "inmuebles:write", "patch /inmuebles/{id}": "inmuebles:write", "delete /inmuebles/{id}": "inmuebles:write",
		"get /catalogues": "inmuebles:read", "get /catalogues/{name}": "inmuebles:read",
		"post /inmuebles/import": "inmuebles:write", "get /inmuebles/imports": "inmuebles:read", "get /inmuebles/imports/{id}": "inmuebles:read",
		"delete /inmuebles/imports/{id}": "inmuebles:write", "get /inmuebles/imports/{id}/rejects": "inmuebles:read",
	}; fmt.Sprint(scopes) != fmt.Sprint(want) {
		t.Errorf("operations %v, want %v", scopes, want)
	}
	if testing.Verbose() {
		var pretty bytes.Buffer
		must(t, json.Indent(&pretty, raw.Body.Bytes(), "", " "))
		_, _ = io.Copy(t.Output(), &pretty)
	}
}

// TestConcurrentClients: many clients at once, each sees its own writes.
func TestConcurrentClients(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			c := newClient(t, store)
			var wg sync.WaitGroup
			for range racers {
				wg.Go(func() {
					for range 10 {
						a := c.do("POST", "/inmuebles", body())
						m := decode[map[string]any](a)
						if a.Code != 201 || c.do("GET", a.Header().Get("Location"), "").Code != 200 {
							t.Errorf("created, and not found: %d %v", a.Code, m)
						}
						c.do("GET", "/inmuebles?limit=10", "")
						if d := c.do("DELETE", a.Header().Get("Location"), ""); d.Code != 204 {
							t.Errorf("delete: %d", d.Code)
						}
					}
				})
			}
			wg.Wait()
			if ids, _ := walk(t, store, 100); len(ids) != 0 {
				t.Errorf("%d documents left", len(ids))
			}
		})
	}
}
