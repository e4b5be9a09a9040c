package resourceserver

import (
	"net/http"
	"strings"
	"testing"

	"github.com/urbandata/urbandata/pkg/i18n/i18ntest"
	"github.com/urbandata/urbandata/pkg/token"
)

// TestLanguages: whatever is refused is refused in the client's language, with
// codes that are the same in all. Reads that other tests have refused are asked
// in all languages too: see client.do.
func TestLanguages(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			c := newClient(t, store).catalogued(catalogueFile)
			c.do("POST", "/inmuebles", body()).want(201)
			id := decode[map[string]any](c.do("POST", "/inmuebles", body()).want(201))["_id"].(string)
			one := "/inmuebles/" + id
			bob := c.as("bob", token.ScopeInmueblesRead, token.ScopeInmueblesWrite)
			reader := c.as("carol", token.ScopeInmueblesRead)
			stranger := *c
			stranger.token = ""
			forger := stranger
			forger.token = "a.b.c"
			long := `"` + strings.Repeat("ñ", 30_000) + `"`

			for _, tc := range []struct {
				c              *client
				method, target string
				body           string
				status         int
			}{
				{c, "GET", "/nowhere", "", 404},
				{c, "PUT", "/inmuebles", body(), 405},
				{&stranger, "GET", "/inmuebles", "", 401},
				{&forger, "GET", "/inmuebles", "", 401},
				{stranger.with("Authorization", "Bearer x").with("Access-Token", "y"), "GET", "/inmuebles", "", 400},
				{reader, "POST", "/inmuebles", body(), 403},
				{c, "GET", "/inmuebles/none", "", 404},
				{c, "GET", "/catalogues/title", "", 404},
				{bob, "PUT", one, body("_id", `"`+id+`"`), 403},
				{bob, "DELETE", one, "", 403},
				{c, "PUT", one, body("_id", `"other"`), 422},
				{c, "PATCH", one, `{"_id":"other"}`, 422},
				{c.with("If-Match", `"x"`), "PATCH", one, `{"title":"x"}`, 412},
				{c.with("If-Match", `x`), "PATCH", one, `{"title":"x"}`, 422},

				{c, "POST", "/inmuebles", ``, 400},
				{c, "POST", "/inmuebles", `{`, 400},
				{c, "POST", "/inmuebles", `{"title":"a","title":"b"}`, 400},
				{c, "POST", "/inmuebles", `{"title":"\ud800"}`, 400},
				{c, "POST", "/inmuebles", strings.Repeat("[", 100) + strings.Repeat("]", 100), 400},
				{c, "POST", "/inmuebles", `{}`, 422},
				{c, "POST", "/inmuebles", `[]`, 422},
				{c, "POST", "/inmuebles", `[{}, {"x":1}]`, 422},
				{c, "POST", "/inmuebles", `7`, 422},
				{c, "POST", "/inmuebles", body("listing_type", "11"), 422},
				{c, "POST", "/inmuebles", body("nickname", "1"), 422},
				{c, "POST", "/inmuebles", body("owner", `"me"`), 422},
				{c, "POST", "/inmuebles", body("description", long), 422},
				{c, "POST", "/inmuebles", body("title", `"a\u0000b"`), 422},
				{c, "POST", "/inmuebles", body("title", `7`), 422},
				{c, "POST", "/inmuebles", body("other_id", `true`), 422},
				{c, "POST", "/inmuebles", body("other_id", `1.5`), 422},
				{c, "POST", "/inmuebles", body("is_active", `"yes"`), 422},
				{c, "POST", "/inmuebles", body("x_coord", `181`), 422},
				{c, "POST", "/inmuebles", body("x_coord", `1e999`), 400},
				{c, "POST", "/inmuebles", body("y_coord", `-90.5`), 422},
				{c, "POST", "/inmuebles", body("y_coord", `"1"`), 422},
				{c, "POST", "/inmuebles", body("build_status", `2147483648`), 422},
				{c, "POST", "/inmuebles", body("build_status", `1.5`), 422},
				{c, "POST", "/inmuebles", body("build_status", `null`), 422},
				{c, "POST", "/inmuebles?x=1", body(), 422},
				{c.with("Content-Type", "text/plain"), "POST", "/inmuebles", body(), 415},
				{c.with("Content-Encoding", "gzip"), "POST", "/inmuebles", body(), 415},
				{c.with("Prefer", "resolution=merge-duplicates"), "POST", "/inmuebles", `[{"_id":"new","title":"x"}]`, 422},
				{c.with("Prefer", "resolution=merge-duplicates"), "POST", "/inmuebles", `[{"_id":"..","title":"x"}]`, 422},

				{c, "GET", "/inmuebles?x=1", "", 400},
				{c, "GET", "/inmuebles?%zz", "", 400},
				{c, "GET", "/inmuebles?limit=0", "", 400},
				{c, "GET", "/inmuebles?limit=x", "", 400},
				{c, "GET", "/inmuebles?limit=", "", 400},
				{c, "GET", "/inmuebles?limit=1&limit=1", "", 400},
				{c, "GET", "/inmuebles?offset=10001", "", 400},
				{c, "GET", "/inmuebles?cursor=x", "", 400},
				{c, "GET", "/inmuebles?cursor=x&offset=1", "", 400},
				{c.with("Range", "10001-10002"), "GET", "/inmuebles", "", 400},
				{c.with("Prefer", "count=exact"), "GET", "/inmuebles?offset=50", "", 416},
				{c.with("Accept", "text/html"), "GET", "/inmuebles", "", 406},
				{c.with("Accept", "text/html"), "GET", "/inmuebles/stats", "", 406},
				{c.with("Accept", typeObject), "GET", "/inmuebles", "", 406},
				{c.with("Accept", typeObject), "GET", "/inmuebles?title=nothing", "", 406},
				{c.with("Accept", "text/csv"), "GET", "/inmuebles?limit=1", "", 400},
				{c, "GET", "/inmuebles?select=x", "", 400},
				{c, "GET", "/inmuebles?select=title,title", "", 400},
				{c, "GET", "/inmuebles?select=:title", "", 400},
				{c, "GET", "/inmuebles?order=x", "", 400},
				{c, "GET", "/inmuebles?order=description", "", 400},
				{c, "GET", "/inmuebles?order=title.up", "", 400},
				{c, "GET", "/inmuebles?order=title,title", "", 400},
				{c, "GET", "/inmuebles?order=title,date,x_coord,y_coord,owner,end_week", "", 400},
				{c, "GET", "/inmuebles?bbox=1", "", 400},
				{c, "GET", "/inmuebles?bbox=0,91,0,0", "", 400},
				{c, "GET", "/inmuebles?bbox=0,2,0,1", "", 400},
				{c, "GET", "/inmuebles?title=cs.x", "", 400},
				{c, "GET", "/inmuebles?title=not.x", "", 400},
				{c, "GET", "/inmuebles?title=is.x", "", 400},
				{c, "GET", "/inmuebles?title=is.true", "", 400},
				{c, "GET", "/inmuebles?title=like." + strings.Repeat("x", 501), "", 400},
				{c, "GET", `/inmuebles?title=like.x\`, "", 400},
				{c, "GET", "/inmuebles?title=fts(spanish).x", "", 400},
				{c, "GET", "/inmuebles?title=fts.", "", 400},
				{c, "GET", "/inmuebles?title=fts.a%20b", "", 400},
				{c, "GET", "/inmuebles?title=fts.(a", "", 400},
				{c, "GET", "/inmuebles?title=fts.a)", "", 400},
				{c, "GET", "/inmuebles?title=fts.a:B", "", 400},
				{c, "GET", "/inmuebles?title=fts." + strings.Repeat("x", 200), "", 400},
				{c, "GET", "/inmuebles?title=%00", "", 400},
				{c, "GET", "/inmuebles?text=eq.x", "", 400},
				{c, "GET", "/inmuebles?end_week=x", "", 400},
				{c, "GET", "/inmuebles?end_week=like.x", "", 400},
				{c, "GET", "/inmuebles?end_week=fts.x", "", 400},
				{c, "GET", "/inmuebles?x_coord=in.(1,x)", "", 400},
				{c, "GET", "/inmuebles?x_coord=in.(1", "", 400},
				{c, "GET", "/inmuebles?x_coord=in.1", "", 400},
				{c, "GET", "/inmuebles?x_coord=in.(1)x", "", 400},
				{c, "GET", `/inmuebles?title=in.("x)`, "", 400},
				{c, "GET", "/inmuebles?is_active=x", "", 400},
				{c, "GET", "/inmuebles?created_at=x", "", 400},
				{c, "GET", "/inmuebles?created_at=gt.2024-01-01T00:00:00.0001Z", "", 400},
				{c, "GET", "/inmuebles?or=x", "", 400},
				{c, "GET", "/inmuebles?or=(x.eq.1)", "", 400},
				{c, "GET", "/inmuebles?or=(title)", "", 400},
				{c, "GET", "/inmuebles?or=(title.x.1)", "", 400},
				{c, "GET", "/inmuebles?or=(not.title.eq.1)", "", 400},
				{c, "GET", "/inmuebles?or=(title.eq.1", "", 400},
				{c, "GET", "/inmuebles?or=(title.eq.1)&or=(title.eq.1)", "", 400},
				{c, "GET", "/inmuebles?or=" + strings.Repeat("(or", 20), "", 400},
				{c, "GET", "/inmuebles?title=" + strings.Repeat("x", 100_000), "", 400},
				{c, "GET", "/inmuebles?title=in.(" + strings.Repeat("x,", 2000) + "x)", "", 400},
				{c, "GET", "/inmuebles/stats?x=1", "", 400},
				{c, "GET", "/inmuebles/stats?group=x", "", 400},
				{c, "GET", "/inmuebles/stats?group=title", "", 400},
				{c, "GET", "/inmuebles/stats?of=title", "", 400},
				{c, "GET", "/inmuebles/stats?group=owner,owner", "", 400},
				{c, "GET", "/inmuebles/stats?group=owner,is_active,end_week,start_month,build_status,property_type,typology_type,listing_type,boundary_id", "", 400},
				{c, "PATCH", "/inmuebles?_id=x", `{"title":"x"}`, 400},
				{c, "PATCH", "/inmuebles", `{"title":"x"}`, 422},
				{c, "DELETE", "/inmuebles?_id=eq.x&select=nothing", "", 400},
				{c.with("Accept", "text/html"), "DELETE", "/inmuebles?_id=eq.x", "", 406},
			} {
				t.Run(tc.method+" "+tc.target[:min(len(tc.target), 60)], func(t *testing.T) {
					w := i18ntest.Problem(t, tc.c.server, func() *http.Request { return tc.c.request(tc.method, tc.target, tc.body) })
					if w.Code != tc.status {
						t.Errorf("%d, want %d: %s", w.Code, tc.status, w.Body)
					}
				})
			}
		})
	}
}
