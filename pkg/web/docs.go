package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/swaggest/swgui/v5/static"
)

var (
	//go:embed docs/index.html
	docsPage []byte
	//go:embed docs/init.js
	docsScript []byte
)

// Everything comes from here; Swagger UI's icons are data: images.
const docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// RegisterDocs serves the OpenAPI document at /openapi.json and Swagger UI at
// /docs, all from the binary. Call it after the last route is registered: all
// must say who may use them, else it returns [ErrUndeclared]. Each is made
// when it is first asked for: most processes never are, and rendering the
// document would be among the dearest parts of a start.
func (a *API) RegisterDocs() error {
	a.Public(http.MethodGet, "/openapi.json", onDemand(func() http.Handler {
		document, err := json.Marshal(a.Huma.OpenAPI())
		if err != nil { // the tests of each service read it
			panic(fmt.Errorf("web: render the OpenAPI document: %w", err))
		}
		return NewAsset(document, "application/json", map[string]string{
			"Cache-Control": "no-cache", "Access-Control-Allow-Origin": "*",
		})
	}))
	page := map[string]string{"Cache-Control": "no-cache", "Content-Security-Policy": docsPolicy}
	a.Public(http.MethodGet, "/docs", NewAsset(docsPage, "text/html; charset=utf-8", page))
	a.Public(http.MethodGet, "/docs/init.js", NewAsset(docsScript, "text/javascript; charset=utf-8", page))
	for _, name := range []string{"swagger-ui-bundle.js.gz", "swagger-ui.css.gz"} {
		a.Public(http.MethodGet, "/docs/"+strings.TrimSuffix(name, ".gz"), onDemand(func() http.Handler { return compressedAsset(name) }))
	}
	return a.checkRoutes()
}

// onDemand is a handler that is made by the first request for it.
func onDemand(build func() http.Handler) http.Handler {
	handler := sync.OnceValue(build)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler().ServeHTTP(w, r) })
}

// Asset is an answer made once: bytes, a strong ETag, headers. It answers a
// matching If-None-Match with 304 (RFC 9110 §13.1.2).
type Asset struct {
	Body    []byte
	ETag    string
	headers [][2]string
}

// NewAsset renders an asset; headers are sent with 200 and 304 alike.
func NewAsset(body []byte, contentType string, headers map[string]string) Asset {
	sum := sha256.Sum256(body)
	a := Asset{Body: body, ETag: `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`}
	a.headers = append(a.headers, [2]string{"Etag", a.ETag}, [2]string{"Content-Type", contentType})
	for name, value := range headers {
		a.headers = append(a.headers, [2]string{http.CanonicalHeaderKey(name), value})
	}
	return a
}

// ServeHTTP sends the asset.
func (a Asset) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	for _, kv := range a.headers {
		h.Set(kv[0], kv[1])
	}
	if MatchesETag(r.Header.Values("If-None-Match"), a.ETag) {
		h.Del("Content-Type")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(a.Body)))
	_, _ = w.Write(a.Body) // the client may have left; there is nobody to tell
}

// MatchesETag reports whether an If-None-Match header names etag, by weak
// comparison (RFC 9110 §8.8.3.2).
func MatchesETag(ifNoneMatch []string, etag string) bool {
	etag = strings.TrimPrefix(etag, "W/")
	for _, line := range ifNoneMatch {
		for candidate := range strings.SplitSeq(line, ",") {
			candidate = strings.TrimSpace(candidate)
			if candidate == "*" || strings.TrimPrefix(candidate, "W/") == etag {
				return true
			}
		}
	}
	return false
}

// compressedAsset serves a file of Swagger UI as the library carries it,
// gzipped, to whoever takes that, else unpacked.
func compressedAsset(name string) http.Handler {
	packed, err := static.FS.ReadFile(name)
	if err != nil { // a test asks for each
		panic(fmt.Errorf("web: Swagger UI lacks %s: %w", name, err))
	}
	contentType := "text/javascript; charset=utf-8"
	if path.Ext(strings.TrimSuffix(name, ".gz")) == ".css" {
		contentType = "text/css; charset=utf-8"
	}
	asset := NewAsset(packed, contentType, map[string]string{
		"Cache-Control": "public, max-age=86400", "Content-Encoding": "gzip", "Vary": "Accept-Encoding",
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			asset.ServeHTTP(w, r)
			return
		}
		z, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil { // the library's own file
			panic(err)
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Vary", "Accept-Encoding")
		_, _ = io.Copy(w, z) //nolint:gosec // not a bomb: a file of the library, 1.4 MB unpacked
	})
}
