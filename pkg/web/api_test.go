package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"
)

type echo struct {
	Title string `json:"title" minLength:"1" maxLength:"10"`
	Count int32  `json:"count,omitempty" minimum:"-5" maximum:"5"`
	Note  *int   `json:"note,omitempty" nullable:"true"`
}

type echoInput struct {
	ID    string `path:"id"`
	Limit int    `query:"limit" minimum:"1" maximum:"9"`
	Body  echo
}

type echoOutput struct{ Body echo }

type service struct {
	http.Handler
	log  *bytes.Buffer
	reg  *prometheus.Registry
	seen []string // ids that a handler was called with
}

func newService(t testing.TB) *service {
	t.Helper()
	s := &service{log: &bytes.Buffer{}, reg: prometheus.NewRegistry()}
	a := NewAPI(Info{Title: "test", Version: "1"})
	for _, path := range []string{"/echo/{id}", "/oauth/{id}"} {
		a.DeclarePublic(http.MethodPost, path)
		op := huma.Operation{OperationID: path, Method: http.MethodPost, Path: path, MaxBodyBytes: 2000}
		if path == "/oauth/{id}" {
			op.Metadata = OAuth
		}
		huma.Register(a.Huma, op, func(_ context.Context, in *echoInput) (*echoOutput, error) {
			s.seen = append(s.seen, in.ID)
			return &echoOutput{in.Body}, nil
		})
	}
	a.DeclarePublic(http.MethodGet, "/fail")
	huma.Register(a.Huma, huma.Operation{OperationID: "fail", Method: http.MethodGet, Path: "/fail"},
		func(ctx context.Context, _ *struct{}) (*struct{}, error) {
			return nil, Internal(ctx, errors.New("pq: secret table is gone"))
		})
	a.Public(http.MethodGet, "/panic", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") }))
	NewHealth().Register(a)
	if err := a.RegisterDocs(); err != nil {
		t.Fatal(err)
	}
	s.Handler = a.Handler(slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})), NewMetrics(s.reg, "test"))
	return s
}

// counted is the sum of a counter over its labels.
func (s *service) counted(t *testing.T, name string) (sum float64) {
	t.Helper()
	families, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func (s *service) do(method, target, contentType, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func TestRefusals(t *testing.T) {
	const js = "application/json"
	deep := strings.Repeat("[", 100) + strings.Repeat("]", 100)
	for _, tc := range []struct {
		name, path, contentType, body string
		status                        int
		where                         string // pointer or parameter of the first error
	}{
		{"good", "/echo/1", js, `{"title":"ok"}`, 200, ""},
		{"good, charset", "/echo/1", js + "; charset=UTF-8", `{"title":"ok"}`, 200, ""},
		{"whole number written as a float", "/echo/1", js, `{"title":"ok","count":3.0}`, 200, ""},
		{"whole number with exponent", "/echo/1", js, `{"title":"ok","count":5e0}`, 200, ""},
		{"null for nullable", "/echo/1", js, `{"title":"ok","note":null}`, 200, ""},
		{"no body", "/echo/1", js, ``, 400, ""},
		{"not JSON", "/echo/1", js, `{"title":`, 400, "/title"},
		{"NaN", "/echo/1", js, `{"title":"ok","count":NaN}`, 400, "/count"},
		{"two documents", "/echo/1", js, `{"title":"ok"} {}`, 400, ""},
		{"byte order mark", "/echo/1", js, "\ufeff" + `{"title":"ok"}`, 400, ""},
		{"array", "/echo/1", js, `[]`, 422, ""},
		{"null body", "/echo/1", js, `null`, 422, ""},
		{"text", "/echo/1", js, `"x"`, 422, ""},
		{"missing member", "/echo/1", js, `{}`, 422, "/title"},
		{"wrong type", "/echo/1", js, `{"title":7}`, 422, "/title"},
		{"too long", "/echo/1", js, `{"title":"12345678901"}`, 422, "/title"},
		{"unknown member", "/echo/1", js, `{"title":"ok","x":1}`, 422, "/x"},
		{"unknown member to escape", "/echo/1", js, `{"title":"ok","a/b~c":1}`, 422, "/a~1b~0c"},
		{"other case", "/echo/1", js, `{"title":"ok","TITLE":""}`, 422, "/TITLE"},
		{"repeated member", "/echo/1", js, `{"title":"ok","title":""}`, 400, "/title"},
		{"repeated by escape", "/echo/1", js, `{"title":"ok","t\u0069tle":""}`, 400, "/title"},
		{"fraction", "/echo/1", js, `{"title":"ok","count":1.5}`, 422, "/count"},
		{"too large", "/echo/1", js, `{"title":"ok","count":6}`, 422, "/count"},
		{"beyond int64", "/echo/1", js, `{"title":"ok","count":9223372036854775808}`, 422, "/count"},
		{"beyond float64", "/echo/1", js, `{"title":"ok","count":1e999}`, 400, "/count"},
		{"lone surrogate", "/echo/1", js, `{"title":"\ud800"}`, 400, "/title"},
		{"invalid UTF-8", "/echo/1", js, "{\"title\":\"\xff\"}", 400, "/title"},
		{"deep", "/echo/1", js, `{"title":` + deep + `}`, 400, ""},
		{"body too large", "/echo/1", js, `{"title":"` + strings.Repeat("x", 3000) + `"}`, 413, ""},
		{"no media type", "/echo/1", "", `{"title":"ok"}`, 415, ""},
		{"form", "/echo/1", "application/x-www-form-urlencoded", `title=ok`, 415, ""},
		{"other suffix", "/echo/1", "image/svg+json", `{"title":"ok"}`, 415, ""},
		{"other charset", "/echo/1", js + "; charset=latin1", `{"title":"ok"}`, 415, ""},
		{"unknown parameter", "/echo/1?nope=1", js, `{"title":"ok"}`, 422, "nope"},
		{"repeated parameter", "/echo/1?limit=1&limit=2", js, `{"title":"ok"}`, 422, "limit"},
		{"empty parameter", "/echo/1?limit=", js, `{"title":"ok"}`, 422, "limit"},
		{"parameter out of range", "/echo/1?limit=10", js, `{"title":"ok"}`, 422, "limit"},
		{"parameter not a number", "/echo/1?limit=x", js, `{"title":"ok"}`, 422, "limit"},
		{"query not parsable", "/echo/1?limit=%zz", js, `{"title":"ok"}`, 400, ""},
		{"no such path", "/nope", js, `{}`, 404, ""},
		{"double slash", "//echo/1", js, `{"title":"ok"}`, 404, ""},
		{"two trailing slashes", "/echo/1//", js, `{"title":"ok"}`, 404, ""},
		{"OAuth: 422 becomes 400", "/oauth/1", js, `{}`, 400, "/title"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newService(t)
			w := s.do(http.MethodPost, tc.path, tc.contentType, tc.body)
			if w.Code != tc.status {
				t.Fatalf("status %d, want %d: %s", w.Code, tc.status, w.Body)
			}
			if called := len(s.seen) > 0; called != (tc.status == 200) {
				t.Errorf("handler called: %v", called)
			}
			if tc.status == 200 {
				return
			}
			var p Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
				t.Fatalf("%v: %s", err, w.Body)
			}
			if ct := w.Header().Get("Content-Type"); ct != problemType {
				t.Errorf("Content-Type %q", ct)
			}
			if p.Status != tc.status || p.Code == "" || p.Detail == "" || p.Title == "" {
				t.Errorf("incomplete problem: %s", w.Body)
			}
			if tc.where != "" && (len(p.Errors) == 0 || p.Errors[0].where() != tc.where) {
				t.Errorf("errors point elsewhere than %q: %s", tc.where, w.Body)
			}
			if strings.Contains(tc.path, "oauth") != (p.OAuthError != "") {
				t.Errorf("OAuth members: %s", w.Body)
			}
		})
	}
}

// An error never repeats what was sent: it may be a password.
func TestErrorsDoNotEcho(t *testing.T) {
	s := newService(t)
	for _, body := range []string{
		`{"title":"hunter2-hunter2"}`, `{"title":"ok","count":"hunter2"}`, `{"title":"hunter2`, `{"note":"hunter2"}`, `"hunter2"`,
	} {
		if w := s.do(http.MethodPost, "/echo/1", "application/json", body); strings.Contains(w.Body.String(), "hunter2") {
			t.Errorf("%s is echoed: %s", body, w.Body)
		}
	}
	if strings.Contains(s.log.String(), "hunter2") {
		t.Errorf("the log has it: %s", s.log)
	}
}

func TestErrorsAreBounded(t *testing.T) {
	s := newService(t)
	var body strings.Builder
	body.WriteString(`{"title":"ok"`)
	for i := range 150 {
		body.WriteString(`,"m` + strings.Repeat("x", i%9) + string(rune('a'+i%26)) + string(rune('a'+i/26)) + `":1`)
	}
	body.WriteString(`}`)
	w := s.do(http.MethodPost, "/echo/1", "application/json", body.String())
	var p Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != 422 || len(p.Errors) != maxFieldErrors {
		t.Errorf("%d, %d errors, %v", w.Code, len(p.Errors), err)
	}
}

func TestPaths(t *testing.T) {
	s := newService(t)
	for _, tc := range []struct{ path, id string }{
		{"/echo/1", "1"},
		{"/echo/1/", "1"},
		{"/echo/a%2Fb", "a/b"},
		{"/echo/a%2Fb/", "a/b"},
		{"/echo/%C3%B1%20%25", "ñ %"},
		{"/echo/a%2F", "a/"},
		{"/echo/a%2f", "a/"},
		{"/echo/a%2f/", "a/"},
	} {
		s.seen = nil
		if w := s.do(http.MethodPost, tc.path, "application/json", `{"title":"ok"}`); w.Code != 200 || len(s.seen) != 1 || s.seen[0] != tc.id {
			t.Errorf("%s: %d, ids %q, want %q", tc.path, w.Code, s.seen, tc.id)
		}
	}
}

func TestMethods(t *testing.T) {
	s := newService(t)
	if w := s.do(http.MethodDelete, "/livez", "", ""); w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("DELETE /livez: %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
	if w := s.do("BREW", "/echo/1", "", ""); w.Code != 405 || w.Header().Get("Allow") != "POST" {
		t.Errorf("BREW: %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
	srv := httptest.NewServer(s)
	defer srv.Close()
	res, err := http.Head(srv.URL + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if body, _ := io.ReadAll(res.Body); res.StatusCode != 200 || len(body) != 0 {
		t.Errorf("HEAD: %d, %q", res.StatusCode, body)
	}
	if !strings.Contains(s.log.String(), `"method":"HEAD"`) {
		t.Errorf("the log doesn't say HEAD: %s", s.log)
	}
}

func TestFailuresAreHidden(t *testing.T) {
	s := newService(t)
	w := s.do(http.MethodGet, "/fail", "", "")
	if w.Code != 500 || strings.Contains(w.Body.String(), "pq") || !strings.Contains(s.log.String(), "secret table") {
		t.Errorf("%d %s; log %s", w.Code, w.Body, s.log)
	}
	w = s.do(http.MethodGet, "/panic", "", "")
	if w.Code != 500 || w.Header().Get("Content-Type") != problemType || strings.Contains(w.Body.String(), "boom") {
		t.Errorf("panic: %d %s", w.Code, w.Body)
	}
	if n := s.counted(t, "urbandata_http_panics_total"); n != 1 {
		t.Errorf("%v panics counted", n)
	}
	id := w.Header().Get("X-Request-Id")
	if len(id) != 32 || !strings.Contains(s.log.String(), id) {
		t.Errorf("request id %q not in the log %s", id, s.log)
	}
}

// Pages of a named origin may call, others may not; nothing is said where no
// origin is named.
func TestCrossOrigin(t *testing.T) {
	a := NewAPI(Info{Title: "t", Version: "1"})
	NewHealth().Register(a)
	metrics := NewMetrics(prometheus.NewRegistry(), "t")
	log := slog.New(slog.DiscardHandler)
	for _, tc := range []struct {
		origins []string
		origin  string
		allowed string
	}{
		{nil, "https://map.example", ""},
		{[]string{"https://map.example"}, "https://map.example", "https://map.example"},
		{[]string{"https://map.example"}, "https://evil.example", ""},
		{[]string{"https://map.example"}, "null", ""},
	} {
		h := a.Handler(log, metrics, tc.origins...)
		for _, method := range []string{http.MethodGet, http.MethodOptions} {
			r := httptest.NewRequest(method, "/livez", nil)
			r.Header.Set("Origin", tc.origin)
			r.Header.Set("Access-Control-Request-Method", "GET")
			r.Header.Set("Access-Control-Request-Headers", "authorization")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if got := w.Header().Get("Access-Control-Allow-Origin"); got != tc.allowed {
				t.Errorf("%s from %s with %v: allowed %q, want %q", method, tc.origin, tc.origins, got, tc.allowed)
			}
			if w.Header().Get("Access-Control-Allow-Credentials") != "" {
				t.Error("credentials are allowed")
			}
		}
	}
}

func TestTraceID(t *testing.T) {
	const id = "4bf92f3577b34da6a3ce929d0e0e4736"
	for _, tc := range []struct {
		parent string
		kept   bool
	}{
		{"00-" + id + "-00f067aa0ba902b7-01", true},
		{"cc-" + id + "-00f067aa0ba902b7-01-what-comes-later", true},
		{"00-" + id + "-00f067aa0ba902b7-01-extra", false},
		{"ff-" + id + "-00f067aa0ba902b7-01", false},
		{"00-" + strings.ToUpper(id) + "-00f067aa0ba902b7-01", false},
		{"00-" + strings.Repeat("0", 32) + "-00f067aa0ba902b7-01", false},
		{"00-" + id + "-0000000000000000-01", false},
		{"00-" + id + "-00f067aa0ba902b7-0g", false},
		{"", false},
		{strings.Repeat("-", 60), false},
	} {
		got := traceID(tc.parent)
		if (got == id) != tc.kept || len(got) != 32 {
			t.Errorf("traceID(%q) = %q", tc.parent, got)
		}
	}
}

func TestDocs(t *testing.T) {
	s := newService(t)
	w := s.do(http.MethodGet, "/openapi.json", "", "")
	var doc struct {
		OpenAPI string         `json:"openapi"`
		Paths   map[string]any `json:"paths"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || doc.OpenAPI != "3.1.0" || doc.Paths["/echo/{id}"] == nil {
		t.Errorf("document %v %v", doc, err)
	}
	if strings.Contains(w.Body.String(), "$schema") {
		t.Error("the document speaks of $schema members")
	}
	r := httptest.NewRequest(http.MethodGet, "/openapi.json", nil)
	r.Header.Set("If-None-Match", `W/"x", `+w.Header().Get("Etag"))
	again := httptest.NewRecorder()
	s.ServeHTTP(again, r)
	if again.Code != http.StatusNotModified || again.Body.Len() != 0 {
		t.Errorf("conditional: %d", again.Code)
	}
	for _, path := range []string{"/docs", "/docs/", "/docs/init.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"} {
		if w := s.do(http.MethodGet, path, "", ""); w.Code != 200 || w.Body.Len() < 100 {
			t.Errorf("%s: %d, %d bytes", path, w.Code, w.Body.Len())
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{`{"title":"x"}`, `{"a":{"a":[1,2.5,null]}}`, `[[[`, `{"a":1,"a":2}`, `"\ud800"`, `1e999`, "\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v any
		err := Unmarshal(data, &v)
		if err == nil {
			if !json.Valid(data) {
				t.Fatalf("accepts %q, which encoding/json doesn't", data)
			}
			return
		}
		if _, reason, ok := splitDecodeError(err.Error()); !ok || reason == "" {
			t.Fatalf("error without a place or a reason: %q", err)
		}
	})
}

func FuzzTraceID(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Fuzz(func(t *testing.T, parent string) {
		if id := traceID(parent); len(id) != 32 || !isHex(id) {
			t.Errorf("%q gives the request id %q", parent, id)
		}
	})
}

func FuzzMatchesETag(f *testing.F) {
	f.Add(`W/"a", "b"`, `"b"`)
	f.Fuzz(func(t *testing.T, header, tag string) {
		for _, r := range tag { // RFC 9110 §8.8.3: etagc, the comma aside
			if r < '!' || r > '~' || r == ',' {
				return
			}
		}
		if tag != "" && !strings.HasPrefix(tag, "W/") && !MatchesETag([]string{header, "W/" + tag}, tag) {
			t.Errorf("%q isn't found behind %q", tag, header)
		}
	})
}
