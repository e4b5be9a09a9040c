package web

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/cors"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// Metrics are the counters of one service's requests.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	panics   prometheus.Counter
}

// NewMetrics registers the request metrics of a service.
func NewMetrics(reg prometheus.Registerer, service string) *Metrics {
	labels := prometheus.Labels{"service": service}
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "urbandata_http_requests_total", Help: "Requests answered, by route, method and status.", ConstLabels: labels,
		}, []string{"route", "method", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "urbandata_http_request_seconds", Help: "Time from a request's header to the end of its answer.", ConstLabels: labels,
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"route"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "urbandata_http_panics_total", Help: "Requests that ended in a panic and were answered 500.", ConstLabels: labels,
		}),
	}
	reg.MustRegister(m.requests, m.duration, m.panics)
	return m
}

// record is what the chain learns about one request on its way.
type record struct {
	traceID string
	header  http.Header // of the request
	route   string      // the template, never the path: a path may hold anything
	cause   error       // what a problem hid from the client
	http.ResponseWriter
	status int
	bytes  int64
}

type recordKey struct{}

func recordOf(ctx context.Context) *record {
	r, _ := ctx.Value(recordKey{}).(*record)
	return r
}

// RequestID is the trace id of the request that ctx belongs to, 32 hex
// digits, or "".
func RequestID(ctx context.Context) string {
	if r := recordOf(ctx); r != nil {
		return r.traceID
	}
	return ""
}

// Language is the language for the request that ctx belongs to, for an answer
// that is no [Problem]. It says so by Content-Language, and by Vary.
func Language(ctx context.Context) *i18n.Language {
	if r := recordOf(ctx); r != nil {
		return i18n.Choose(r.header[acceptLanguage])
	}
	return i18n.Of(i18n.English)
}

// NoteCause puts err into the log line of the request that ctx belongs to.
// The client never sees it. Give it nothing secret.
func NoteCause(ctx context.Context, err error) {
	if r := recordOf(ctx); r != nil && r.cause == nil {
		r.cause = err
	}
}

func (r *record) WriteHeader(status int) {
	if r.status == 0 || r.status < 200 { // 1xx may come before
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *record) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	if len(b) <= writePiece {
		n, err := r.ResponseWriter.Write(b)
		r.bytes += int64(n)
		return n, err
	}
	// A long answer stays in memory for as long as its reader takes: there is
	// so much time for each piece, and none for one that stands still.
	control := http.NewResponseController(r.ResponseWriter)
	sum := 0
	for piece := range slices.Chunk(b, writePiece) {
		_ = control.SetWriteDeadline(time.Now().Add(pieceTimeout)) // a recorder in a test has none
		n, err := r.ResponseWriter.Write(piece)
		sum += n
		r.bytes += int64(n)
		if err != nil {
			return sum, err
		}
	}
	return sum, nil
}

// Unwrap lets http.ResponseController through.
func (r *record) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Handler is the chain around an API: see the package comment. Pages of these
// origins may call it (CORS); none but its own if there are none.
func (a *API) Handler(log *slog.Logger, metrics *Metrics, origins ...string) http.Handler {
	routes := http.Handler(a.Router)
	if len(origins) > 0 {
		routes = crossOrigin(origins).Handler(routes)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &record{traceID: traceID(r.Header.Get("Traceparent")), header: r.Header, ResponseWriter: w}
		h := w.Header()
		h["X-Request-Id"] = []string{rec.traceID}
		h["X-Content-Type-Options"] = nosniff
		h["Referrer-Policy"] = noReferrer
		h["Content-Security-Policy"] = noContent
		ctx := context.WithValue(r.Context(), recordKey{}, rec)

		defer func() {
			if v := recover(); v != nil {
				if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares the value itself
					panic(v)
				}
				metrics.panics.Inc()
				rec.cause = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
				if rec.status == 0 {
					Internal(context.Background(), rec.cause).Write(rec, r)
				}
			}
			took := time.Since(start)
			route, method := rec.route, knownMethod(r.Method)
			if route == "" {
				route = "none"
			}
			metrics.requests.WithLabelValues(route, method, strconv.Itoa(rec.status)).Inc()
			metrics.duration.WithLabelValues(route).Observe(took.Seconds())
			if level := rec.level(); log.Enabled(ctx, level) {
				attrs := []slog.Attr{
					slog.String("request_id", rec.traceID), slog.String("method", method), slog.String("route", route),
					slog.Int("status", rec.status), slog.Int64("bytes", rec.bytes), slog.Duration("took", took),
				}
				if rec.cause != nil {
					attrs = append(attrs, slog.String("cause", rec.cause.Error()))
				}
				log.LogAttrs(ctx, level, "request", attrs...)
			}
		}()
		routes.ServeHTTP(rec, normalise(r.WithContext(ctx)))
	})
}

// The values of header fields that every answer has, made once. Nobody writes
// to them: Set replaces a slice, and Add finds no room in one.
var (
	nosniff    = []string{"nosniff"}
	noReferrer = []string{"no-referrer"}
	noContent  = []string{"default-src 'none'; frame-ancestors 'none'"}
)

// crossOrigin lets pages of other origins call the API from a browser. Tokens
// travel in a header that a page sets itself, so no credentials are allowed:
// a browser never adds anything of its own.
func crossOrigin(origins []string) *cors.Cors {
	return cors.New(cors.Options{
		AllowedOrigins: origins,
		AllowedMethods: []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete},
		AllowedHeaders: []string{"Authorization", "Access-Token", "Content-Encoding", "Content-Type", "Accept", "Accept-Language", "If-Match", "If-None-Match", "Idempotency-Key", "Last-Event-ID", "Prefer", "Range", "Range-Unit", "Traceparent"},
		ExposedHeaders: []string{"Content-Range", "Etag", "Idempotency-Replayed", "Link", "Location", "Preference-Applied", "Ratelimit", "Ratelimit-Policy", "Retry-After", "Www-Authenticate", "X-Request-Id"},
		MaxAge:         600,
	})
}

// level is how much the request matters to who reads the log: probes that
// find everything well come every few seconds and matter least.
func (r *record) level() slog.Level {
	switch {
	case r.status == http.StatusServiceUnavailable:
		return slog.LevelWarn // said on purpose, and passing
	case r.status >= 500:
		return slog.LevelError
	case r.route == livePath || r.route == readyPath:
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// normalise takes one trailing slash off the path, so that both spellings
// reach one route without a redirect that loses a body, and lets HEAD take
// the route of GET (net/http drops the body).
func normalise(r *http.Request) *http.Request {
	if r.Method == http.MethodHead {
		r.Method = http.MethodGet // r is already the chain's own copy
	}
	if p := r.URL.EscapedPath(); len(p) > 1 && strings.HasSuffix(p, "/") { // %2F at the end belongs to an id
		u := *r.URL
		u.Path = strings.TrimSuffix(u.Path, "/")
		u.RawPath = strings.TrimSuffix(u.RawPath, "/")
		r.URL = &u
	}
	return r
}

// knownMethod keeps made-up methods out of the metrics' labels.
func knownMethod(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "other"
}

// traceID is the trace id of a W3C traceparent, or a new one where there is
// none or it breaks the rules (Trace Context §3.2): version, 32 and 16 lower
// hex digits not all zero, flags.
func traceID(parent string) string {
	if len(parent) >= 55 && parent[2] == '-' && parent[35] == '-' && parent[52] == '-' &&
		(len(parent) == 55 && parent[:2] == "00" || parent[:2] != "00" && parent[:2] != "ff" && (len(parent) == 55 || parent[55] == '-')) {
		id, span := parent[3:35], parent[36:52]
		if isHex(parent[:2]) && isHex(id) && isHex(span) && isHex(parent[53:55]) &&
			strings.Trim(id, "0") != "" && strings.Trim(span, "0") != "" {
			return id
		}
	}
	var b [16]byte
	for {
		binary.NativeEndian.PutUint64(b[:8], mathrand.Uint64()) //nolint:gosec // it tells requests apart, and guards nothing
		binary.NativeEndian.PutUint64(b[8:], mathrand.Uint64()) //nolint:gosec // the same
		if b != [16]byte{} {
			return hex.EncodeToString(b[:])
		}
	}
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
