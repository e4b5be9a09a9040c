package web

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urbandata/urbandata/pkg/i18n/i18ntest"
)

// TestLanguages: whatever this package refuses, it refuses in the client's
// language.
func TestLanguages(t *testing.T) {
	const js = "application/json"
	deep := strings.Repeat("[", 100) + strings.Repeat("]", 100)
	s := newService(t)
	for _, tc := range []struct{ method, target, contentType, body string }{
		{"GET", "/nowhere", "", ""},
		{"DELETE", "/echo/1", "", ""},
		{"GET", "/fail", "", ""},
		{"GET", "/panic", "", ""},
		{"POST", "/echo/1", "", `{"title":"ok"}`},
		{"POST", "/echo/1", "text/plain", `{"title":"ok"}`},
		{"POST", "/echo/1", js, ``},
		{"POST", "/echo/1", js, `{"title":`},
		{"POST", "/echo/1", js, `{"title":"ok","count":NaN}`},
		{"POST", "/echo/1", js, `{"title":"ok"} {}`},
		{"POST", "/echo/1", js, `{"title":"ok","title":"ok"}`},
		{"POST", "/echo/1", js, `[]`},
		{"POST", "/echo/1", js, `null`},
		{"POST", "/echo/1", js, `{}`},
		{"POST", "/echo/1", js, `{"title":7}`},
		{"POST", "/echo/1", js, `{"title":""}`},
		{"POST", "/echo/1", js, `{"title":"12345678901"}`},
		{"POST", "/echo/1", js, `{"title":"ok","x":1,"y":2}`},
		{"POST", "/echo/1", js, `{"title":"ok","count":6}`},
		{"POST", "/echo/1", js, `{"title":"ok","count":-6}`},
		{"POST", "/echo/1", js, `{"title":"ok","count":1.5}`},
		{"POST", "/echo/1", js, `{"title":"ok","count":true}`},
		{"POST", "/echo/1", js, `{"title":"ok","note":1e300}`},
		{"POST", "/echo/1", js, deep},
		{"POST", "/echo/1", js, `{"title":"` + strings.Repeat("x", 3000) + `"}`},
		{"POST", "/echo/1?limit=0", js, `{"title":"ok"}`},
		{"POST", "/echo/1?limit=10", js, `{"title":"ok"}`},
		{"POST", "/echo/1?limit=x", js, `{"title":"ok"}`},
		{"POST", "/echo/1?limit=1&limit=1", js, `{"title":"ok"}`},
		{"POST", "/echo/1?limit=", js, `{"title":"ok"}`},
		{"POST", "/echo/1?other=1", js, `{"title":"ok"}`},
		{"POST", "/echo/1?%zz", js, `{"title":"ok"}`},
		{"POST", "/oauth/1", js, `{"title":7}`},
		{"POST", "/oauth/1", "text/plain", `{"title":"ok"}`},
	} {
		t.Run(tc.method+" "+tc.target+" "+tc.body[:min(len(tc.body), 30)], func(t *testing.T) {
			i18ntest.Problem(t, s, func() *http.Request {
				r := httptest.NewRequest(tc.method, tc.target, strings.NewReader(tc.body))
				if tc.contentType != "" {
					r.Header.Set("Content-Type", tc.contentType)
				}
				return r
			})
		})
	}
}

// BenchmarkLanguages: what Accept-Language costs an answer, and an error. Of
// what goes well nothing looks at it.
func BenchmarkLanguages(b *testing.B) {
	s := newService(b)
	for _, tc := range []struct{ name, body string }{{"answer", `{"title":"ok"}`}, {"error", `{"title":7,"count":6}`}} {
		b.Run(tc.name, func(b *testing.B) {
			took := map[string][]time.Duration{}
			languages := []string{"", "es-MX,es;q=0.9,en;q=0.8"}
			for b.Loop() {
				slices.Reverse(languages)
				s.log.Reset()
				for _, language := range languages {
					r := httptest.NewRequest("POST", "/echo/1?limit=1", strings.NewReader(tc.body))
					r.Header.Set("Content-Type", "application/json")
					if language != "" {
						r.Header.Set("Accept-Language", language)
					}
					w := httptest.NewRecorder()
					start := time.Now()
					s.ServeHTTP(w, r)
					took[language] = append(took[language], time.Since(start))
				}
			}
			median := func(d []time.Duration) float64 { slices.Sort(d); return float64(d[len(d)/2]) }
			slices.Sort(languages)
			b.ReportMetric(median(took[languages[1]])/median(took[languages[0]]), "x/English")
		})
	}
}
