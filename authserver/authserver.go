// Package authserver is authn: it registers and logs in users, issues access
// tokens and rotating refresh tokens, and publishes the keys and the metadata
// by which anyone verifies an access token without asking it.
//
// What a login leads to:
//
//	email, password ─▶ Accounts.login ─▶ session (a family of refresh tokens)
//	                                        │
//	                                        ├─▶ access token, 5 minutes, a JWT:
//	                                        │   nobody asks authn about it, and
//	                                        │   nothing can call it back
//	                                        └─▶ refresh token, opaque, used once:
//	                                            ─▶ Accounts.refresh ─▶ the next pair
//
// A session ends by sign-out, by age, when it lies idle, when a superseded
// refresh token is shown after its grace (it was stolen, or its thief was),
// when the password changes, and when the user is disabled. session.go tells
// how.
//
// Files: routes.go the route table · accounts.go what can be done, whoever
// asks · store.go the SQL · session.go refresh tokens · password.go, hash.go
// passwords · issue.go access tokens · wellknown.go keys and metadata.
package authserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/web"
)

// ErrOptions is wrapped by what [New] says about its options.
var ErrOptions = errors.New("authserver: bad options")

// Options are what a [Server] is made of. Issuer, Accounts and Keys are
// needed; the rest has defaults.
type Options struct {
	Issuer   string // the iss claim: an http or https URL that doesn't end with a slash
	Accounts *Accounts
	Keys     *keys.Keeper // has ticked once

	Audiences  map[string]Audience     // besides inmuebles, which gets EdDSA
	SigningAlg jose.SignatureAlgorithm // for every audience, unless empty
	Backdate   time.Duration           // by how much iat lies in the past

	Log     *slog.Logger          // slog.Default if nil
	Metrics prometheus.Registerer // a registry of its own if nil
	Now     func() time.Time      // time.Now if nil
	Version string                // for the OpenAPI document
	Origins []string              // whose pages may call the API (CORS)
	Proxies Proxies               // whose word about the client's address is taken
}

// DefaultBackdate is by how much iat is set back: six stock verifiers refuse a
// token that is a second ahead of their clock.
const DefaultBackdate = 5 * time.Second

// sweepEvery is how often expired sessions are deleted.
const sweepEvery = time.Hour

// Server is authn. It is an http.Handler.
type Server struct {
	http.Handler
	Health *web.Health

	api      *web.API
	proxies  Proxies
	accounts *Accounts
	issuer   *issuer
	log      *slog.Logger
	logins   *prometheus.CounterVec
}

// New checks the options and makes a server; it starts nothing. The error
// wraps [ErrOptions].
func New(o Options) (*Server, error) {
	if err := CheckIssuer(o.Issuer); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	if o.Accounts == nil || o.Keys == nil {
		return nil, fmt.Errorf("%w: Accounts and Keys are needed", ErrOptions)
	}
	if o.Backdate < 0 || o.Backdate > time.Minute {
		return nil, fmt.Errorf("%w: Backdate must be between 0 and a minute", ErrOptions)
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	audiences := map[string]Audience{InmueblesAudience: {Alg: jose.EdDSA, Type: token.TypeAccess}}
	for name, a := range o.Audiences {
		audiences[name] = a
	}
	s := &Server{
		accounts: o.Accounts, log: o.Log, proxies: o.Proxies,
		issuer: &issuer{
			url: o.Issuer, keys: o.Keys, audiences: audiences, override: o.SigningAlg, backdate: o.Backdate, now: o.Now,
		},
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "urbandata_grants_total", Help: "Token requests, by grant (password, refresh) and outcome.",
		}, []string{"grant", "outcome"}),
		Health: web.NewHealth(
			web.Check{Name: "database", Func: o.Accounts.store.Check},
			web.Check{Name: "keys", Func: o.Keys.Check},
		),
	}
	if err := s.checkAlgorithms(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	o.Metrics.MustRegister(s.logins)
	s.api = web.NewAPI(web.Info{Title: "urbandata authn", Version: o.Version, Description: apiDescription})
	if err := s.register(); err != nil {
		return nil, err
	}
	s.Handler = s.api.Handler(o.Log, web.NewMetrics(o.Metrics, "authn"), o.Origins...)
	return s, nil
}

const apiDescription = "Users, sessions and tokens. Every path also works with a trailing slash. " +
	"Errors are `application/problem+json` (RFC 9457) and, where tokens are issued, carry the members of RFC 6749 §5.2 too."

// Run deletes expired sessions now and then, until ctx ends.
func (s *Server) Run(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := s.accounts.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.LogAttrs(ctx, slog.LevelWarn, "expired sessions could not be deleted", slog.String("cause", err.Error()))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// checkAlgorithms makes sure that there is a key for whatever an audience
// gets.
func (s *Server) checkAlgorithms() error {
	have := map[jose.SignatureAlgorithm]bool{}
	for _, a := range s.issuer.keys.Policy().Algorithms {
		have[a] = true
	}
	names := []string{"\x00any other"}
	for name := range s.issuer.audiences {
		names = append(names, name)
	}
	for _, name := range names {
		a := s.issuer.audience(name)
		if !have[a.Alg] {
			return fmt.Errorf("audience %q is to get %s tokens, but the key policy has no key for that algorithm", strings.TrimPrefix(name, "\x00"), a.Alg)
		}
		if a.Type != token.TypeAccess && a.Type != token.TypeJWT {
			return fmt.Errorf("audience %q: the typ must be %s or %s", name, token.TypeAccess, token.TypeJWT)
		}
	}
	return nil
}

// CheckIssuer says what is wrong with an issuer identifier (RFC 8414 §2), or
// nil. Verifiers compare it byte by byte, so there is one way to write it.
func CheckIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	switch {
	case err != nil, u.Scheme != "https" && u.Scheme != "http", u.Host == "":
		return errors.New("the issuer must be an http or https URL, such as https://id.example")
	case u.RawQuery != "", u.Fragment != "", u.User != nil, strings.HasSuffix(issuer, "?"), strings.HasSuffix(issuer, "#"):
		return errors.New("the issuer must have no query, no fragment and no user")
	case strings.HasSuffix(issuer, "/"):
		return errors.New("the issuer must not end with a slash: verifiers compare it byte by byte")
	}
	return nil
}
