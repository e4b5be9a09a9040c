// Package resourceserver is inmuebles: a REST API of real-estate properties
// over MongoDB or SQLite. It knows who asks by verifying the request's access
// token offline; it holds no key, shares no secret with the issuer, and asks
// it nothing while a request waits.
//
// # A request
//
//	route table → token (pkg/verify) → scope of the route → strict body → Validate
//	  → Store, with the owner's condition inside the write → JSON
//
// The route table is in routes.go. Who has the scope of a route may use it;
// who may change which document is the store's to decide, in the same step as
// the change, so that nothing can come between the question and the act.
//
// # A document
//
// [Inmueble] is the type and one table of its fields. The API's schema,
// validation, JSON, BSON and CSV walk that table, so there is one place to
// change. What may be stored is one rule, [Inmueble.Validate], for requests,
// imports and what comes back out of a database:
//
//	request ─┐                     ┌─► SQLite    columns and ready JSON
//	CSV ─────┼─► Validate ─► Store ┤
//	         │                     └─► MongoDB   native BSON
//	stored ◄─┴─── Validate ◄────────── whatever is there
//
// Null and default members are not stored; answers carry every member.
//
// Besides, what comes in may be held to [Catalogues] of codes. What is stored
// isn't: a code that is taken out of one takes no document with it.
//
// # An import over HTTP
//
// Every other request is over when it is answered. An import is a job in the
// database, which some server works on ([Server.Run]): jobs.go draws its life.
//
// # A document that is no inmueble
//
// Other programs, and the original of this one, may have stored documents
// that the rule refuses: a field missing, a NaN. One such document spoils
// nothing. A list leaves it out; GET by its id answers 404 with the code
// unreadable, because there is no inmueble that could be answered, and
// because it is no fault of this server, which a 5xx would say. Each meeting
// is counted, and logged by id alone. Who may change it can mend it with PUT
// or remove it with DELETE.
package resourceserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/web"
)

// ErrOptions is returned by [New] for options that can't work.
var ErrOptions = errors.New("resourceserver: bad options")

// Options is what a server is made of. Store and Verifier are needed.
type Options struct {
	Store    Store
	Verifier *verify.Verifier // the caller runs it
	Realm    string           // of the challenges; "inmuebles" unless given
	Version  string           // of the program, for the API's document
	Origins  []string         // whose pages may call the API (CORS)

	// RequireIfMatch refuses a PUT, PATCH or DELETE without If-Match (428), so
	// that nobody overwrites what they haven't seen.
	RequireIfMatch bool

	// Catalogues say which codes may come in; nil lets all.
	Catalogues *Catalogues

	// Jobs keeps imports over HTTP, and Imports bounds them. Both stores do;
	// nil has no such imports.
	Jobs    JobStore
	Imports ImportLimits

	// CursorKey authenticates the cursors of lists, and makes the entity tags of
	// pages. Servers behind one address need the same: the one that their
	// database keeps. Nil makes one that dies with the process, and with it the
	// cursors that are out.
	CursorKey []byte

	Log     *slog.Logger          // nil logs nothing
	Metrics prometheus.Registerer // nil keeps none
	Now     func() time.Time      // time.Now unless given
}

// Server answers the API's requests. It starts nothing and needs no closing;
// imports over HTTP are worked on while [Server.Run] runs.
type Server struct {
	Health *web.Health // to be drained before the listener closes

	store    Store
	verifier *verify.Verifier
	realm    string
	log      *slog.Logger
	now      func() time.Time
	metrics  *metrics
	handler  http.Handler

	cursorKey      []byte
	pageTags       *pageTags
	requireIfMatch bool
	catalogues     *Catalogues
	schemas        huma.Registry // of the API's document, by which bodies are checked
	inFlight       sync.Map      // idempotency keys of requests being worked on

	jobs    JobStore
	imports ImportLimits
	working sync.Map      // *jobRun by the id of the job that is worked on here
	wake    chan struct{} // a job has come
	streams streams       // of events
	lists   streams       // of everything that matches
}

// New makes a server, or returns an error that wraps [ErrOptions].
func New(o Options) (*Server, error) {
	switch {
	case o.Store == nil:
		return nil, fmt.Errorf("%w: no Store", ErrOptions)
	case o.Verifier == nil:
		return nil, fmt.Errorf("%w: no Verifier", ErrOptions)
	}
	if o.Realm == "" {
		o.Realm = "inmuebles"
	}
	if o.Version == "" {
		o.Version = "unknown"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.CursorKey == nil {
		o.CursorKey = newCursorKey()
	}
	tags, err := newPageTags(o.CursorKey)
	if err != nil {
		return nil, fmt.Errorf("%w: CursorKey: %w", ErrOptions, err)
	}
	s := &Server{
		cursorKey: o.CursorKey, pageTags: tags,
		store: o.Store, verifier: o.Verifier, realm: o.Realm, log: o.Log, now: o.Now,
		requireIfMatch: o.RequireIfMatch, catalogues: o.Catalogues,
		jobs: o.Jobs, imports: o.Imports.withDefaults(), wake: make(chan struct{}, 1),
		metrics: newMetrics(o.Metrics),
		Health: web.NewHealth(
			web.Check{Name: "database", Func: o.Store.Check},
			web.Check{Name: "keys", Func: func(context.Context) error { return o.Verifier.Check() }},
		),
	}
	api := web.NewAPI(web.Info{Title: "inmuebles", Version: o.Version, Description: description, PostgREST: true})
	s.schemas = api.Huma.OpenAPI().Components.Schemas
	api.Guard(s.authenticate(api))
	s.routes(api)
	s.Health.Register(api)
	if err := api.RegisterDocs(); err != nil {
		return nil, err
	}
	s.handler = api.Handler(o.Log, web.NewMetrics(o.Metrics, "inmuebles"), o.Origins...)
	return s, nil
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

const description = `Real-estate properties (*inmuebles*). Whoever has a token with a route's scope may use it;
documents can be changed by their owner, or by anybody with ` + "`inmuebles:admin`" + `.

Every path may end in a slash. Errors are problem details (RFC 9457); those of a body name each
bad member by JSON Pointer. Members and parameters that are unknown, repeated or of another case are refused.`

// metrics counts what the request metrics of package web can't see.
type metrics struct {
	tokens     *prometheus.CounterVec
	unreadable prometheus.Counter
	imports    *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "urbandata_tokens_checked_total", Help: "Tokens of requests, by what became of them.",
		}, []string{"result"}),
		unreadable: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "urbandata_unreadable_documents_total", Help: "Times that a stored document was left out because it is no valid inmueble.",
		}),
	}
	m.imports = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "urbandata_imports_total", Help: "Imports over HTTP that ended here, by how.",
	}, []string{"state"})
	for _, s := range []JobState{JobDone, JobFailed, JobCancelled} {
		m.imports.WithLabelValues(string(s))
	}
	reg.MustRegister(m.tokens, m.unreadable, m.imports)
	return m
}
