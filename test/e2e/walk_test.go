package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestWalk is the main job, as the original's clients do it: what one replica
// is told, another is asked.
func TestWalk(t *testing.T) {
	everyWay(t, func(t *testing.T, in *installation) {
		s := in.start(nil)
		walkSession(in.client, s)
		walkInmuebles(in.client, s)
		walkPages(in.client, s)
		walkTokenHeaders(in.client, s)
		walkKeys(in.client, s)
		walkDocs(in.client, s)
		walkTrace(in.client, s)
		for _, p := range s.processes {
			fmt.Printf("figures: %s after the walk: rss=%.1fMiB\n", p.name, p.resident().all())
		}
		s.stop()
	})
}

// walkSession: register → log in → me → refresh → sign out.
func walkSession(c *client, s *system) {
	one, other := s.auths()
	api, _ := s.apis()
	p := c.newPerson()
	id := c.register(one, p)
	shout := person{strings.ToUpper(p.email), p.password}
	c.want(http.StatusConflict, http.MethodPost, other+"/authn/register/", object{"email": shout.email, "password": p.password})
	slash := c.newPerson()
	c.want(http.StatusCreated, http.MethodPost, other+"/authn/register/", object{"email": slash.email, "password": slash.password})

	first := c.login(other, shout)
	byName := c.pairOf(c.want(http.StatusOK, http.MethodPost, one+"/authn/token/", object{"username": p.email, "password": p.password}))
	unknown := c.newPerson()
	refused := c.want(http.StatusUnauthorized, http.MethodPost, one+"/authn/token", object{"email": unknown.email, "password": p.password})
	wrong := c.want(http.StatusUnauthorized, http.MethodPost, one+"/authn/token", object{"email": p.email, "password": unknown.password})
	if !bytes.Equal(refused.body, wrong.body) {
		c.t.Errorf("a wrong password and an unknown user differ:\n%s\n%s", wrong.body, refused.body)
	}
	for _, path := range []string{one + "/authn/me", other + "/authn/me/"} {
		me := into[object](c.want(http.StatusOK, http.MethodGet, path, nil, bearer(first.Access)))
		if me["id"] != id || me["first_name"] != "Ana" || me["company"] != "Ejemplo S. L." {
			c.t.Errorf("%s is %v, want the user %s", path, me, id)
		}
	}
	c.want(http.StatusUnauthorized, http.MethodGet, one+"/authn/me", nil)

	second := c.refresh(one, first.Refresh)
	third := c.pairOf(c.want(http.StatusOK, http.MethodPost, other+"/authn/token/refresh/", object{"refresh": second.Refresh}))
	for _, base := range s.api {
		c.want(http.StatusOK, http.MethodGet, base+"/inmuebles", nil, bearer(third.Access))
	}
	// The answer with the third pair was lost on the way, say.
	again := c.refresh(one, second.Refresh)
	c.refresh(other, again.Refresh)

	c.want(http.StatusNoContent, http.MethodPost, other+"/authn/sign_out", nil, bearer(third.Access))
	c.want(http.StatusUnauthorized, http.MethodPost, one+"/authn/token/refresh", object{"refresh": again.Refresh})
	c.want(http.StatusUnauthorized, http.MethodGet, one+"/authn/me", nil, bearer(third.Access))
	// Another session of the same user goes on, until it is signed out too.
	c.want(http.StatusOK, http.MethodGet, api+"/inmuebles", nil, bearer(byName.Access))
	c.want(http.StatusNoContent, http.MethodPost, one+"/authn/sign_out/", object{"refresh": byName.Refresh})
	c.want(http.StatusUnauthorized, http.MethodPost, other+"/authn/token/refresh", object{"refresh": byName.Refresh})
}

// walkInmuebles: create → get → list → put → delete.
func walkInmuebles(c *client, s *system) {
	auth, _ := s.auths()
	one, other := s.apis()
	p, stranger := c.newPerson(), c.newPerson()
	owner := c.register(auth, p)
	c.register(auth, stranger)
	mine, theirs := bearer(c.login(auth, p).Access), bearer(c.login(auth, stranger).Access)

	m := newInmueble()
	m["other_id"] = 90071992547409931
	created := c.want(http.StatusCreated, http.MethodPost, one+"/inmuebles/", m, mine)
	doc := into[object](created)
	id, location := str(doc["_id"]), created.header.Get("Location")
	if id == "" || location != "/inmuebles/"+id || doc["owner"] != owner || doc["other_id"] != "90071992547409931" ||
		doc["title"] != "Piso en Sol" || doc["date_diff"] != 0.0 || doc["boundary_id"] != nil {
		c.t.Errorf("created at %q: %s", location, created.body)
	}
	for _, url := range []string{one + location, other + location, other + location + "/"} {
		if got := c.want(http.StatusOK, http.MethodGet, url, nil, mine); !bytes.Equal(got.body, created.body) {
			c.t.Errorf("got    %s\nstored %s", got.body, created.body)
		}
	}
	c.want(http.StatusUnprocessableEntity, http.MethodPost, one+"/inmuebles", doc, mine)

	same := into[object](c.want(http.StatusOK, http.MethodPut, other+location+"/", doc, mine)) // as it was answered
	m["_id"], m["other_id"] = id, doc["other_id"]                                              // as the original's clients send it
	m["title"], m["boundary_id"] = "Ático en Sol", 28079
	changed := into[object](c.want(http.StatusOK, http.MethodPut, one+location, m, mine))
	unchanged := into[object](c.want(http.StatusOK, http.MethodPut, other+location, m, mine))
	if same["title"] != "Piso en Sol" || changed["title"] != "Ático en Sol" || unchanged["title"] != "Ático en Sol" ||
		changed["boundary_id"] != 28079.0 || changed["created_at"] != doc["created_at"] || changed["owner"] != owner {
		c.t.Errorf("PUT answered %v, %v, %v", same, changed, unchanged)
	}
	m["_id"] = "another"
	c.want(http.StatusUnprocessableEntity, http.MethodPut, one+location, m, mine)
	m["_id"] = id
	c.want(http.StatusForbidden, http.MethodPut, one+location, m, theirs)
	c.want(http.StatusForbidden, http.MethodDelete, one+location, nil, theirs)
	if got := into[object](c.want(http.StatusOK, http.MethodGet, one+location, nil, theirs)); got["title"] != "Ático en Sol" {
		c.t.Errorf("a stranger sees %v", got)
	}

	c.want(http.StatusNoContent, http.MethodDelete, other+location, nil, mine)
	want := fmt.Sprintf("Inmueble with ID %s does not exist", id)
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		if gone := c.want(http.StatusNotFound, method, one+location+"/", nil, mine); into[object](gone)["detail"] != want {
			c.t.Errorf("%s: %s, want the detail %q", method, gone.body, want)
		}
	}
	c.want(http.StatusNotFound, http.MethodPut, one+location, m, mine)
}

// nextPage finds the next page in a Link header (RFC 8288).
var nextPage = regexp.MustCompile(`<([^>]*)>; rel="next"`)

// walkPages: the pages of a list hold every inmueble once, whichever replica
// answers.
func walkPages(c *client, s *system) {
	auth, _ := s.auths()
	p := c.newPerson()
	c.register(auth, p)
	token := c.login(auth, p).Access
	var want, got []string
	for i := range 5 {
		want = append(want, str(c.create(s.api[i%len(s.api)], token, newInmueble())["_id"]))
	}
	pages := 0
	for path := "/inmuebles/?limit=2"; path != ""; pages++ {
		page := c.want(http.StatusOK, http.MethodGet, s.api[pages%len(s.api)]+path, nil, bearer(token))
		for _, m := range into[[]object](page) {
			got = append(got, str(m["_id"]))
		}
		path = ""
		if next := nextPage.FindStringSubmatch(page.header.Get("Link")); next != nil {
			path = next[1]
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) || pages < 3 {
		c.t.Errorf("%d pages list %v, want %v", pages, got, want)
	}
	whole := into[[]object](c.want(http.StatusOK, http.MethodGet, s.api[0]+"/inmuebles", nil, bearer(token)))
	if len(whole) != len(want) {
		c.t.Errorf("the list has %d inmuebles, want %d", len(whole), len(want))
	}
}

// walkTokenHeaders: the two headers that may carry a token.
func walkTokenHeaders(c *client, s *system) {
	one, other := s.auths()
	p := c.newPerson()
	c.register(one, p)
	a, b := c.login(one, p).Access, c.login(other, p).Access
	for _, base := range s.api {
		list := base + "/inmuebles"
		for _, token := range []string{a, b} {
			c.want(http.StatusOK, http.MethodGet, list, nil, bearer(token))
			c.want(http.StatusOK, http.MethodGet, list+"/", nil, legacy(token))
			c.want(http.StatusOK, http.MethodGet, list, nil, bearer(token), legacy(token))
		}
		c.want(http.StatusBadRequest, http.MethodGet, list, nil, bearer(a), legacy(b))
		none := c.want(http.StatusUnauthorized, http.MethodGet, list, nil)
		if got := none.header.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Bearer ") || strings.Contains(got, "error=") {
			c.t.Errorf("without a token: WWW-Authenticate: %s", got)
		}
		bad := c.want(http.StatusUnauthorized, http.MethodGet, list, nil, bearer(a[:len(a)-6]+"AAAAAA"))
		if got := bad.header.Get("WWW-Authenticate"); !strings.Contains(got, `error="invalid_token"`) {
			c.t.Errorf("with a bad token: WWW-Authenticate: %s", got)
		}
	}
}

// walkKeys: the key set and the metadata, as verifiers fetch them. The set may
// grow at any moment, by a key that will sign one day, and one replica may know
// of it before another.
func walkKeys(c *client, s *system) {
	one, other := s.auths()
	p := c.newPerson()
	c.register(one, p)
	used := map[string]string{} // kid → alg
	for _, base := range []string{one, other} {
		for _, audience := range []string{"inmuebles", "elsewhere"} {
			login := object{"email": p.email, "password": p.password, "audience": audience}
			head := headerOf(c.t, c.pairOf(c.want(http.StatusOK, http.MethodPost, base+"/authn/token", login)).Access)
			if alg := str(head["alg"]); (alg == "EdDSA") != (audience == "inmuebles") || head["typ"] != "at+jwt" {
				c.t.Errorf("the token for %s has the header %v", audience, head)
			}
			used[str(head["kid"])] = str(head["alg"])
		}
	}
	if len(used) != 2 {
		c.t.Errorf("the replicas sign with %v, want one key for each algorithm", used)
	}
	for _, base := range s.auth {
		published := map[string]string{}
		for _, k := range into[keySet](walkKeySet(c, base+"/.well-known/jwks.json")).Keys {
			published[str(k["kid"])] = str(k["alg"])
			for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "k"} {
				if _, ok := k[private]; ok {
					c.t.Errorf("the key set publishes %s", private)
				}
			}
			if str(k["kid"]) == "" || k["use"] != "sig" {
				c.t.Errorf("key %v", k)
			}
		}
		for kid, alg := range used {
			if published[kid] != alg {
				c.t.Errorf("%s publishes %v, and not %s, which signs %s", base, published, kid, alg)
			}
		}
		for _, name := range []string{"oauth-authorization-server", "openid-configuration"} {
			m := into[object](c.want(http.StatusOK, http.MethodGet, base+"/.well-known/"+name, nil))
			if m["issuer"] != issuer || m["jwks_uri"] != issuer+"/.well-known/jwks.json" {
				c.t.Errorf("%s: %v", name, m)
			}
		}
	}
}

// walkKeySet gets the key set in all the ways in which caches do.
func walkKeySet(c *client, where string) answer {
	for {
		set := c.want(http.StatusOK, http.MethodGet, where, nil)
		etag := set.header.Get("Etag")
		if h := set.header; !strings.HasPrefix(etag, `"`) || !strings.HasPrefix(h.Get("Cache-Control"), "public, max-age=") ||
			h.Get("Access-Control-Allow-Origin") != "*" {
			c.t.Errorf("the key set is sent with %v", h)
		}
		head := c.want(http.StatusOK, http.MethodHead, where, nil)
		if now := c.want(http.StatusOK, http.MethodGet, where, nil, header("If-None-Match", `"other"`)); now.header.Get("Etag") != etag {
			continue // it has just grown
		}
		if len(head.body) != 0 || head.header.Get("Etag") != etag || head.header.Get("Content-Length") != fmt.Sprint(len(set.body)) {
			c.t.Errorf("HEAD: %v with a body of %d bytes", head.header, len(head.body))
		}
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			same, err := c.try(method, where, nil, header("If-None-Match", `"other", W/`+etag))
			if err != nil || same.status != http.StatusNotModified || len(same.body) != 0 || same.header.Get("Etag") != etag {
				c.t.Errorf("%s with the ETag: %d %v, %d bytes, %v", method, same.status, err, len(same.body), same.header)
			}
		}
		return set
	}
}

// assets finds what a page loads.
var assets = regexp.MustCompile(`(?:src|href)="([^"#]+)"`)

// walkDocs: each service describes itself, with nothing from elsewhere.
func walkDocs(c *client, s *system) {
	for _, base := range s.all() {
		paths, _ := into[object](c.want(http.StatusOK, http.MethodGet, base+"/openapi.json", nil))["paths"].(object)
		for _, path := range []string{"/authn/token", "/inmuebles"} {
			isAuth := slices.Contains(s.auth, base)
			if _, ok := paths[path]; ok != (isAuth == strings.HasPrefix(path, "/authn")) {
				c.t.Errorf("%s/openapi.json: %s is there: %v", base, path, ok)
			}
		}
		for _, docs := range []string{"/docs", "/docs/"} {
			page := c.want(http.StatusOK, http.MethodGet, base+docs, nil)
			if policy := page.header.Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") {
				c.t.Errorf("the page's policy is %q", policy)
			}
			at, err := url.Parse(base + docs)
			if err != nil {
				c.t.Fatal(err)
			}
			found := assets.FindAllSubmatch(page.body, -1)
			if len(found) < 3 {
				c.t.Errorf("%s loads %q, want a style sheet and two scripts at least", docs, found)
			}
			for _, m := range found {
				if strings.HasPrefix(string(m[1]), "data:") {
					continue // it is in the page
				}
				asset, err := at.Parse(string(m[1]))
				if err != nil || asset.Host != at.Host {
					c.t.Fatalf("%s loads %s, which is not its own: %v", docs, m[1], err)
				}
				c.want(http.StatusOK, http.MethodGet, asset.String(), nil)
			}
		}
		c.want(http.StatusOK, http.MethodGet, base+"/livez", nil)
		c.want(http.StatusOK, http.MethodGet, base+"/readyz/", nil)
	}
}

// walkTrace: a trace that comes with a request is kept, and rubbish isn't.
// That the log has the same id is the ledger's to check.
func walkTrace(c *client, s *system) {
	for i, base := range s.all() {
		id := fmt.Sprintf("4bf92f3577b34da6a3ce929d0e0e47%02x", i)
		kept := c.want(http.StatusOK, http.MethodGet, base+"/livez", nil, header("Traceparent", "00-"+id+"-00f067aa0ba902b7-01"))
		if got := kept.header.Get("X-Request-Id"); got != id {
			c.t.Errorf("the trace %s became the request %s", id, got)
		}
		for _, bad := range []string{"00-" + strings.Repeat("0", 32) + "-00f067aa0ba902b7-01", "ff-" + id + "-00f067aa0ba902b7-01", "\t\"x"} {
			made := c.want(http.StatusOK, http.MethodGet, base+"/livez", nil, header("Traceparent", bad))
			if got := made.header.Get("X-Request-Id"); len(got) != 32 || strings.Contains(bad, got) {
				c.t.Errorf("the traceparent %q made the request id %q", bad, got)
			}
		}
	}
}
