// Package forwardauth is a verifier for everybody who can't link one: a
// reverse proxy asks it about each request (nginx auth_request, Traefik
// forwardAuth, Caddy forward_auth, Envoy ext_authz over HTTP), and lets the
// request through or not by the status of the answer.
//
//	client ──request──► reverse proxy ──────request + identity──────► upstream
//	                      │        ▲
//	            GET /verify        │ 200 + X-Auth-…, or 401, 403, 503
//	                      ▼        │
//	                    this package ── offline, by pkg/verify
//
// # The question
//
// [Path] is asked with the header of the original request; only its token
// counts (see [verify.TokenFromRequest]). Scopes that the token must have come
// from [Options] and from the query, ?scope=a&scope=b or ?scope=a+b, which the
// reverse proxy writes in its configuration: what is asked for in either place
// is needed. A query that says anything else is a mistake in that
// configuration (a misspelt scope, a client's own query that is handed on) and
// lets nobody through.
//
// [EnvoyPath] is the same for Envoy, which puts the path and the query of the
// original request behind it. They are the client's, so they decide nothing:
// the scopes are those of Options.
//
// Neither the original method nor the original path is looked at. Proxies
// hand them over in headers that a client can send as well, where a
// configuration forgets to overwrite them; which scope a path needs belongs
// where the path is routed.
//
// # The answer
//
//	200  let it through; the identity is in the headers below
//	401  no token, a bad one, or two; WWW-Authenticate (RFC 6750 §3) says which
//	403  a good token without a scope that is needed
//	503  no key set: nothing can be said about any token; Retry-After
//	500  the proxy's configuration is wrong
//
// Two tokens, for which RFC 6750 has 400, are 401 here: nginx takes no status
// of the 4xx but 401 and 403, and would make a client's mistake a 500.
//
// # The identity
//
// All of [Headers] are in each 200, in the order and the form of the claims:
//
//	X-Auth-Subject  sub
//	X-Auth-Client   client_id
//	X-Auth-Scope    scope, single spaces between
//	X-Auth-Roles    roles, single spaces between
//	X-Auth-Expires  exp, in seconds since 1970
//
// They have one prefix of their own, so that a proxy can strip what a client
// sends under these names by one rule, and are named after what they hold and
// not after us: an upstream need not know who verified. A value is visible
// ASCII. A token with a claim that can't be said in it (a line break, a space
// within a name, é) is refused, because the nearest that could be said would be
// somebody else.
//
// # What is trusted
//
// Whoever can reach the upstream around the reverse proxy is anybody they
// like: the upstream must listen to the proxy alone. So must this service, as
// it tells the holder of a token what is in it. The reverse proxy must
// overwrite all of Headers on the way to the upstream.
package forwardauth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/web"
)

// Where to ask.
const (
	Path      = "/verify"
	EnvoyPath = "/ext_authz"
)

// The headers that carry the identity.
const (
	HeaderSubject = "X-Auth-Subject"
	HeaderClient  = "X-Auth-Client"
	HeaderScope   = "X-Auth-Scope"
	HeaderRoles   = "X-Auth-Roles"
	HeaderExpires = "X-Auth-Expires"
)

// Headers are all that carry the identity: what a reverse proxy must overwrite.
func Headers() []string {
	return []string{HeaderSubject, HeaderClient, HeaderScope, HeaderRoles, HeaderExpires}
}

var (
	// ErrOptions is returned by [New] for options that can't work.
	ErrOptions = errors.New("forwardauth: bad options")
	// ErrQuery says that a reverse proxy asks with a query that it can't
	// have meant.
	ErrQuery = errors.New("forwardauth: bad query")
)

// Options is what a server is made of. Verifier and Realm are needed.
type Options struct {
	Verifier *verify.Verifier // the caller runs it
	Realm    string           // of the challenges
	Scopes   []string         // that every token must have

	Log     *slog.Logger          // nil logs nothing
	Metrics prometheus.Registerer // nil keeps none
}

// Server answers reverse proxies. It has no life of its own: it starts
// nothing and needs no closing.
type Server struct {
	Health *web.Health // to be drained before the listener closes

	verifier *verify.Verifier
	realm    string
	scopes   []string
	tokens   *prometheus.CounterVec
	handler  http.Handler
}

// New makes a server, or returns an error that wraps [ErrOptions].
func New(o Options) (*Server, error) {
	switch {
	case o.Verifier == nil:
		return nil, fmt.Errorf("%w: no Verifier", ErrOptions)
	case o.Realm == "":
		return nil, fmt.Errorf("%w: no Realm", ErrOptions)
	}
	for _, s := range o.Scopes {
		if !scopeToken(s) {
			return nil, fmt.Errorf("%w: %q is not the name of one scope", ErrOptions, s)
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	s := &Server{
		verifier: o.Verifier, realm: o.Realm, scopes: o.Scopes,
		tokens: newMetrics(o.Metrics),
		Health: web.NewHealth(web.Check{Name: "keys", Func: func(context.Context) error { return o.Verifier.Check() }}),
	}
	api := web.NewAPI(web.Info{Title: "verify-proxy"})
	// Any method: Envoy asks with that of the original request.
	api.Router.Path(Path).HandlerFunc(s.ask)
	api.Router.Path(EnvoyPath).HandlerFunc(s.askEnvoy)
	api.Router.PathPrefix(EnvoyPath + "/").HandlerFunc(s.askEnvoy)
	s.Health.Register(api)
	s.handler = api.Handler(o.Log, web.NewMetrics(o.Metrics, "verify-proxy"))
	return s, nil
}

// newMetrics has the names that inmuebles has for the same: a process is one
// or the other.
func newMetrics(reg prometheus.Registerer) *prometheus.CounterVec {
	tokens := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "urbandata_tokens_checked_total", Help: "Tokens of requests, by what became of them.",
	}, []string{"result"})
	reg.MustRegister(tokens)
	return tokens
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// ask answers [Path].
func (s *Server) ask(w http.ResponseWriter, r *http.Request) {
	scopes, err := scopesOf(r.URL.RawQuery)
	if err != nil {
		web.Internal(r.Context(), err).Write(w, r)
		return
	}
	s.answer(w, r, append(scopes, s.scopes...))
}

// askEnvoy answers [EnvoyPath].
func (s *Server) askEnvoy(w http.ResponseWriter, r *http.Request) { s.answer(w, r, s.scopes) }

func (s *Server) answer(w http.ResponseWriter, r *http.Request, scopes []string) {
	who, err := s.identify(r, scopes)
	s.tokens.WithLabelValues(verify.Reason(err)).Inc()
	if err != nil {
		s.refusal(r.Context(), err).Write(w, r)
		return
	}
	h := w.Header()
	for name, value := range who {
		h.Set(name, value)
	}
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
}

// identify returns the identity's headers for a request with a good token.
func (s *Server) identify(r *http.Request, scopes []string) (map[string]string, error) {
	raw, err := verify.TokenFromRequest(r)
	if err != nil {
		return nil, err
	}
	claims, err := s.verifier.Verify(r.Context(), raw)
	if err != nil {
		return nil, err
	}
	if err := verify.CheckScope(claims, scopes...); err != nil {
		return nil, err
	}
	return identity(claims)
}

// identity says who it is in headers. The error wraps [verify.ErrClaims] when
// a claim has what a header can't carry unchanged.
func identity(c *token.Claims) (map[string]string, error) {
	roles := make([]string, len(c.Roles))
	for i, role := range c.Roles {
		roles[i] = string(role)
	}
	for claim, names := range map[string][]string{"sub": {c.Subject}, "client_id": {c.ClientID}, "scope": c.Scope, "roles": roles} {
		for _, name := range names {
			if !visible(name) || name == "" && claim != "client_id" {
				return nil, fmt.Errorf("%w: %s has what can't stand in a header", verify.ErrClaims, claim)
			}
		}
	}
	return map[string]string{
		HeaderSubject: c.Subject,
		HeaderClient:  c.ClientID,
		HeaderScope:   c.Scope.String(),
		HeaderRoles:   strings.Join(roles, " "),
		HeaderExpires: strconv.FormatInt(c.Expiry, 10),
	}, nil
}

// visible reports whether s is visible ASCII only (VCHAR, RFC 5234).
func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// refusal is the answer to a request that isn't let through.
func (s *Server) refusal(ctx context.Context, err error) *web.Problem {
	web.NoteCause(ctx, err)
	status, challenge := verify.Challenge(err, s.realm)
	switch status {
	case http.StatusServiceUnavailable:
		return web.Unavailable(10 * time.Second) // the verifier tries again at least that often
	case http.StatusForbidden:
		return web.NewProblem(status, "insufficient_scope", i18n.Foreign(verify.Detail(err))).With("WWW-Authenticate", challenge)
	case http.StatusBadRequest, http.StatusUnauthorized:
		code := "token_invalid"
		if errors.Is(err, verify.ErrMissing) {
			code = "token_missing"
		}
		return web.NewProblem(http.StatusUnauthorized, code, i18n.Foreign(verify.Detail(err))).With("WWW-Authenticate", challenge)
	}
	return web.Internal(ctx, err)
}

// scopesOf reads the query of [Path]: scope, as often as one likes, each with
// one name or several with spaces between. The error wraps [ErrQuery].
func scopesOf(query string) ([]string, error) {
	members, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Errorf("%w: it can't be parsed", ErrQuery)
	}
	var scopes []string
	for name, values := range members {
		if name != "scope" {
			return nil, fmt.Errorf("%w: only scope may be in it", ErrQuery)
		}
		for _, value := range values {
			for _, s := range strings.Split(value, " ") {
				if !scopeToken(s) {
					return nil, fmt.Errorf("%w: scope has what can't be a scope's name", ErrQuery)
				}
				scopes = append(scopes, s)
			}
		}
	}
	return scopes, nil
}

// scopeToken is the syntax of one scope (RFC 6749 §3.3).
func scopeToken(s string) bool { return s != "" && visible(s) && !strings.ContainsAny(s, `"\`) }
