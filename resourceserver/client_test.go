package resourceserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/urbandata/urbandata/pkg/i18n/i18ntest"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

// client is a user of the API under test.
type client struct {
	t      testing.TB
	server *Server
	issuer *verifytest.Issuer
	token  string
	header http.Header // beside the token
	log    *bytes.Buffer
	reg    *prometheus.Registry
	clock  *clock
}

// clock is a time that stands still unless told.
type clock struct {
	mu  sync.Mutex // guards now
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newClient(t testing.TB, store Store) *client {
	t.Helper()
	c := &client{
		t: t, issuer: verifytest.NewIssuer(t), header: http.Header{}, log: &bytes.Buffer{},
		reg: prometheus.NewRegistry(), clock: &clock{now: dawn},
	}
	jobs, _ := store.(JobStore)
	server, err := New(Options{
		Store: store, Jobs: jobs, Verifier: c.issuer.Verifier(t), Metrics: c.reg, Now: c.clock.Now,
		Log: slog.New(slog.NewJSONHandler(c.log, nil)),
	})
	must(t, err)
	c.server = server
	return c.as("alice", token.ScopeInmueblesRead, token.ScopeInmueblesWrite)
}

// as is the same API asked by another.
func (c client) as(sub string, scopes ...string) *client {
	c.token = c.issuer.Token(sub, scopes...)
	return &c
}

func (c client) with(name, value string) *client {
	c.header = c.header.Clone()
	c.header.Add(name, value)
	return &c
}

func (c *client) admin() *client {
	return c.as("root", token.ScopeInmueblesRead, token.ScopeInmueblesWrite, token.ScopeInmueblesAdmin)
}

// metric is the value of a counter with these labels' values.
func (c *client) metric(name string, labels ...string) float64 {
	c.t.Helper()
	families, err := c.reg.Gather()
	must(c.t, err)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			var values []string
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if slices.Equal(values, labels) {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

type answer struct {
	*httptest.ResponseRecorder
	t testing.TB
}

// do sends a request. A read that is refused for what it asks is asked in every
// language.
func (c *client) do(method, target, body string) answer {
	c.t.Helper()
	w := httptest.NewRecorder()
	c.server.ServeHTTP(w, c.request(method, target, body))
	if t, ok := c.t.(*testing.T); ok && method == http.MethodGet && (w.Code == 400 || w.Code == 404 || w.Code == 406) {
		i18ntest.Problem(t, c.server, func() *http.Request { return c.request(method, target, body) })
	}
	return answer{w, c.t}
}

func (c *client) request(method, target, body string) *http.Request {
	c.t.Helper()
	r := httptest.NewRequestWithContext(c.t.Context(), method, target, strings.NewReader(body))
	if body == "" {
		r.Body = http.NoBody
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	switch method {
	case http.MethodPost, http.MethodPut:
		r.Header.Set("Content-Type", "application/json")
	case http.MethodPatch:
		r.Header.Set("Content-Type", "application/merge-patch+json")
	}
	for name, values := range c.header {
		r.Header[name] = values
	}
	return r
}

func (a answer) want(status int) answer {
	a.t.Helper()
	if a.Code != status {
		a.t.Fatalf("status %d, want %d: %.500s", a.Code, status, a.Body)
	}
	if want := "application/json"; status < 300 && a.Body.Len() > 0 && a.Header().Get("Content-Type") != want {
		a.t.Errorf("Content-Type %q, want %q", a.Header().Get("Content-Type"), want)
	}
	if want := "application/problem+json"; status >= 400 && a.Header().Get("Content-Type") != want {
		a.t.Errorf("Content-Type %q, want %q", a.Header().Get("Content-Type"), want)
	}
	return a
}

// decode reads the body into a map, or for an array a list of them.
func decode[T any](a answer) T {
	a.t.Helper()
	var v T
	if err := json.Unmarshal(a.Body.Bytes(), &v); err != nil {
		a.t.Fatalf("%v in %.300s", err, a.Body)
	}
	return v
}

type problem struct {
	Status int
	Code   string
	Detail string
	Errors []struct {
		Pointer   *string
		Parameter string
		Header    string
		Detail    string
	}
}

// members is a valid request's JSON, member by member.
var members = [][2]string{
	{"other_id", `"A1"`},
	{"build_status", `1`},
	{"is_active", `true`},
	{"start_month", `2`},
	{"construction_type", `3`},
	{"date_diff", `4`},
	{"description", `"Piso céntrico"`},
	{"date_in", `"2021-03-01"`},
	{"property_type", `6`},
	{"end_week", `7`},
	{"typology_type", `8`},
	{"x_coord", `-3.7038`},
	{"y_coord", `40.4168`},
	{"boundary_id", `9`},
	{"title", `"Ático 🏠"`},
	{"listing_type", `10`},
	{"date", `"2021-03-02"`},
}

// body is a valid request with some members set (name, JSON, name, JSON, …),
// or left out where the JSON is "".
func body(changes ...string) string {
	set := map[string]string{}
	var order []string
	for _, m := range members {
		set[m[0]] = m[1]
		order = append(order, m[0])
	}
	for i := 0; i < len(changes); i += 2 {
		if _, known := set[changes[i]]; !known {
			order = append(order, changes[i])
		}
		set[changes[i]] = changes[i+1]
	}
	var parts []string
	for _, name := range order {
		if set[name] != "" {
			parts = append(parts, fmt.Sprintf("%q:%s", name, set[name]))
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}
