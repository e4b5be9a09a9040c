package resourceserver

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"testing"

	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

// sink is a ResponseWriter that keeps the status alone.
type sink struct {
	header http.Header
	status int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(b []byte) (int, error) { return len(b), nil }
func (s *sink) WriteHeader(status int)      { s.status = status }

// BenchmarkRequests measures whole requests, token and all, at 20,000
// documents.
func BenchmarkRequests(b *testing.B) {
	for _, e := range theEngines {
		store, _ := e.open(b)
		_, err := importInto(b.Context(), store, docsOf(20_000, nil))
		must(b, err)
		issuer := verifytest.NewIssuer(b)
		server, err := New(Options{Store: store, Verifier: issuer.Verifier(b), Log: slog.New(slog.DiscardHandler)})
		must(b, err)
		bearer := "Bearer " + issuer.Token("alice", token.ScopeInmueblesRead, token.ScopeInmueblesWrite)
		for _, bm := range []struct{ name, method, target, body string }{
			{"get", "GET", "/inmuebles/010000", ""},
			{"list of 50", "GET", "/inmuebles?limit=50&_id=gt.010000", ""},
			{"create", "POST", "/inmuebles", body()},
			{"replace by the same", "PUT", "/inmuebles/000001", body("_id", `"000001"`)},
		} {
			b.Run(e.name+"/"+bm.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					r, err := http.NewRequestWithContext(b.Context(), bm.method, bm.target, io.NopCloser(bytes.NewReader([]byte(bm.body))))
					must(b, err)
					r.Header.Set("Authorization", bearer)
					r.Header.Set("Content-Type", "application/json")
					w := &sink{header: http.Header{}}
					server.ServeHTTP(w, r)
					if w.status >= 300 {
						b.Fatalf("status %d", w.status)
					}
				}
			})
		}
	}
}

// BenchmarkImport measures rows of CSV, validated and stored.
func BenchmarkImport(b *testing.B) {
	for _, e := range theEngines {
		b.Run(e.name, func(b *testing.B) {
			store, _ := e.open(b)
			r, w := io.Pipe()
			go func() {
				_, err := io.WriteString(w, header)
				for i := 0; i < b.N && err == nil; i++ {
					_, err = io.WriteString(w, row("id_uda", fmt.Sprint(i)))
				}
				_ = w.CloseWithError(err)
			}()
			b.ResetTimer()
			report, err := Import(b.Context(), store, r, asImporter)
			if err != nil || report.Stored != b.N {
				b.Fatalf("%v, %+v", err, report)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// BenchmarkRender and its fellows are the inner loops.
func BenchmarkRender(b *testing.B) {
	m := sample("65f1c0ffee65f1c0ffee65f1")
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = m.AppendJSON(buf[:0])
	}
}

func BenchmarkParseBSON(b *testing.B) {
	m := sample("65f1c0ffee65f1c0ffee65f1")
	doc := m.appendBSON(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := parseBSON(doc); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseStored(b *testing.B) {
	m := sample("65f1c0ffee65f1c0ffee65f1")
	doc := m.appendStored(nil)
	b.ReportAllocs()
	for b.Loop() {
		if err := m.parseStored(m.ID, doc); err != nil {
			b.Fatal(err)
		}
	}
}
