// Package authserver is authn: it registers and logs in users, issues access
// tokens and rotating refresh tokens, and publishes the keys and the metadata
// by which anyone verifies an access token without asking it.
//
// What a login leads to:
//
//	email, password ─▶ Accounts.login ─▶ session (a family of refresh tokens)
//	                                        │
//	                                        ├─▶ access token, 5 minutes, a JWT:
//	                                        │   nobody asks authn about it; who
//	                                        │   follows the revocations feed hears
//	                                        │   within a second that it has ended
//	                                        └─▶ refresh token, opaque, used once:
//	                                            ─▶ Accounts.refresh ─▶ the next pair
//
// A session ends by sign-out, by age, when it lies idle, when a superseded
// refresh token is shown after its grace (it was stolen, or its thief was),
// when the password changes or is reset, and when the user is disabled or
// deletes the account. session.go tells how.
//
// What a user asks for may need mail (outbox.go) and is counted (throttle.go).
// No answer tells which addresses are known: not by what it says, nor by its
// status, its header or its time. Where that needs an effort, the comments say
// how it is made.
//
// Files: routes.go the route table · peer.go where a request comes from ·
// accounts.go logging in and registering · profile.go, sessions.go,
// recovery.go, secondfactor.go what users do with their accounts · stepup.go what
// wants a recent or strong login · importer.go users from elsewhere · session.go refresh tokens · password.go, breached.go which
// passwords may be chosen · hash.go, formats.go how they are kept ·
// outbox.go, mail.go, smtp.go mail · limits.go, throttle.go how often ·
// audit.go who did what · admin*.go what administrators do over HTTP ·
// apitokens.go what users' programs have · issue.go access tokens · wellknown.go keys and metadata · revocations.go
// what has ended before its time · store*.go the SQL.
package authserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
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
	StepUp     StepUp                  // what routes demand of logins

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

	api         *web.API
	proxies     Proxies
	proxyNotice sync.Once
	accounts    *Accounts
	clients     *Clients
	issuer      *issuer
	stepUp      StepUp
	feed        *feed
	log         *slog.Logger
	logins      *prometheus.CounterVec
	fetches     fetchCounters

	jwksFields atomic.Pointer[jwksFields] // of the set that was served last
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
	if o.StepUp.MaxAge == 0 {
		o.StepUp.MaxAge = DefaultStepUpAge
	}
	if o.StepUp.MaxAge < time.Second {
		return nil, fmt.Errorf("%w: StepUp.MaxAge must be a second at least", ErrOptions)
	}
	if o.StepUp.AdminFactor && o.Accounts.options.Sealer == nil {
		return nil, fmt.Errorf("%w: administrators can't have a second factor without a Sealer", ErrOptions)
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
	fixed := map[string]Audience{InmueblesAudience: {Alg: jose.EdDSA, Type: token.TypeAccess}}
	for name, a := range o.Audiences {
		fixed[name] = a
	}
	feed := newFeed(o, o.Metrics)
	s := &Server{
		feed: feed, accounts: o.Accounts, clients: NewClients(o.Accounts.store, o.Now), log: o.Log, proxies: o.Proxies, stepUp: o.StepUp,
		issuer: &issuer{
			url: o.Issuer, keys: o.Keys, backdate: o.Backdate, now: o.Now,
			audiences: &audiences{fixed: fixed, override: o.SigningAlg, store: o.Accounts.store},
		},
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "urbandata_grants_total", Help: "Token requests, by grant and outcome.",
		}, []string{"grant", "outcome"}),
		Health: web.NewHealth(
			web.Check{Name: "database", Func: o.Accounts.store.Check},
			web.Check{Name: "keys", Func: o.Keys.Check},
			web.Check{Name: "revocations", Func: feed.Check},
		),
	}
	if err := s.checkAlgorithms(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	o.Metrics.MustRegister(s.logins)
	if b := o.Accounts.outbox; b != nil {
		b.log = o.Log
		o.Metrics.MustRegister(b.sent, b.waiting)
	} else if v := o.Accounts.options.Mail.Verify; v == VerifyWarn || v == VerifyRequired {
		return nil, fmt.Errorf("%w: addresses can't be verified without a Mailer", ErrOptions)
	}
	s.fetches = newFetchCounters(o.Metrics)
	s.api = web.NewAPI(web.Info{Title: "urbandata authn", Version: o.Version, Description: apiDescription})
	// As it goes over the wire: names with spaces between (RFC 6749 §3.3).
	s.api.Huma.OpenAPI().Components.Schemas.RegisterTypeAlias(reflect.TypeFor[token.Scope](), reflect.TypeFor[string]())
	if err := s.register(); err != nil {
		return nil, err
	}
	s.Handler = s.api.Handler(o.Log, web.NewMetrics(o.Metrics, "authn"), o.Origins...)
	return s, nil
}

const apiDescription = "Users, sessions and tokens. Every path also works with a trailing slash. " +
	"Errors are `application/problem+json` (RFC 9457) and, where tokens are issued, carry the members of RFC 6749 §5.2 too."

// Run publishes what has ended, sends mail, and deletes what has expired now
// and then, until ctx ends.
func (s *Server) Run(ctx context.Context) {
	// Nothing else goes before this: until the feed has been read once the
	// server isn't ready, and by now there is one connection to the database.
	s.feed.look(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { s.watchClients(ctx) })
	group.Go(func() {
		s.accounts.runAudit(ctx, func(err error) {
			s.log.LogAttrs(ctx, slog.LevelWarn, "the audit could not be brought up to date", slog.String("cause", err.Error()))
		})
	})
	group.Go(func() { s.feed.run(ctx) })
	if b := s.accounts.outbox; b != nil {
		group.Go(func() { b.run(ctx) })
	}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := s.accounts.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.LogAttrs(ctx, slog.LevelWarn, "what has expired could not be deleted", slog.String("cause", err.Error()))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Wake has the server look at once for what has ended: see
// [RevocationsChannel]. It never blocks.
func (s *Server) Wake() { s.accounts.store.ended() }

// checkAlgorithms makes sure that there is a key for whatever an audience
// gets.
func (s *Server) checkAlgorithms() error {
	have := map[jose.SignatureAlgorithm]bool{}
	for _, a := range s.issuer.keys.Policy().Algorithms {
		have[a] = true
	}
	check := map[string]Audience{"any other": otherAudience}
	maps.Copy(check, s.issuer.audiences.fixed)
	for name, a := range check {
		if override := s.issuer.audiences.override; override != "" {
			a.Alg = override
		}
		if !have[a.Alg] {
			return fmt.Errorf("audience %q is to get %s tokens, but the key policy has no key for that algorithm", name, a.Alg)
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
