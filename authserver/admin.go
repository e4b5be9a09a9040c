package authserver

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/web"
)

// What operators do with the signing keys over HTTP. It is the same as on the
// command line, by the same compare-and-swap.
//
// An access token for these routes must be for authn itself ("audience":
// "authn"): one that was made for another service is shown to that service,
// which could use it here. And the user must be an administrator now, not only
// when the token was made.

// AdminAudience is whom an access token must be for to manage keys, users and
// clients, and to read the audit.
const AdminAudience = "authn"

// AdminKey is a signing key as operators see it.
type AdminKey struct {
	KeyID       string     `json:"kid" doc:"RFC 7638 thumbprint"`
	Algorithm   string     `json:"alg" example:"EdDSA"`
	State       keys.State `json:"state" enum:"announced,signing,retiring,retired,revoked"`
	Since       time.Time  `json:"since" doc:"When it entered its state"`
	AnnouncedAt time.Time  `json:"announced_at"`
	ReadyAt     time.Time  `json:"ready_at" doc:"From when on every verifier that the policy covers holds it"`
	NextState   keys.State `json:"next_state,omitempty" enum:"signing,retiring,retired"`
	NextAt      *time.Time `json:"next_at,omitempty" doc:"When it is to enter its next state"`
	SealedBy    string     `json:"sealed_by,omitempty" doc:"Id of the sealing key; absent once the private half is erased"`
	Reason      string     `json:"reason,omitempty" doc:"Why it was revoked"`
	HeldBy      []string   `json:"held_by" doc:"Verifiers that have said that they hold it"`
	Missing     []string   `json:"missing" doc:"Registered verifiers that have not"`
}

// adminRing is the ring and what is known of it.
type adminRing struct {
	Version int64      `json:"version" doc:"Counts the changes"`
	Keys    []AdminKey `json:"keys" doc:"The oldest first"`
}

type adminRingOutput struct {
	CacheControl string `header:"Cache-Control"`
	Replayed     string `header:"Idempotency-Replayed" doc:"true when this is the answer to an earlier request with the same Idempotency-Key"`
	Body         adminRing
}

// administrator is [Server.caller], who must have the scope at this moment too.
func (s *Server) administrator(ctx context.Context) (*caller, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	scope, _ := ctx.Value(scopeKey{}).(string)
	if !token.ScopesOf(parseRoles(c.user.Roles)).Has(scope) {
		return nil, insufficientScope(scope)
	}
	return c, nil
}

// acting names the caller in the history and the audit of what is done under
// the context.
func (c *caller) acting(ctx context.Context) context.Context {
	return keys.WithActor(WithActor(ctx, userName(c.user.ID)), userName(c.user.ID))
}

func insufficientScope(scope string) *web.Problem {
	return web.NewProblem(http.StatusForbidden, "insufficient_scope",
		i18n.Textf("This needs an administrator's access token for this server: log in with \"audience\":%q.", AdminAudience)).
		With("WWW-Authenticate", `Bearer realm="authn", error="insufficient_scope", scope="`+scope+`"`)
}

// scopeKey is for the scope that a route of administrators needs.
type scopeKey struct{}

// authorizeAdmin comes after authenticate, for a route that needs a scope.
func (s *Server) authorizeAdmin(scope string) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		claims, _ := ctx.Context().Value(claimsKey{}).(*token.Claims)
		if !claims.Audience.Has(AdminAudience) || !claims.Scope.Has(scope) {
			s.api.Fail(ctx, insufficientScope(scope))
			return
		}
		next(huma.WithValue(ctx, scopeKey{}, scope))
	}
}

func (s *Server) listKeys(ctx context.Context, _ *struct{}) (*adminRingOutput, error) {
	if _, err := s.administrator(ctx); err != nil {
		return nil, err
	}
	return s.adminRing(ctx)
}

// adminRing is the ring as this replica has it, brought up to date.
func (s *Server) adminRing(ctx context.Context) (*adminRingOutput, error) {
	keeper := s.issuer.keys
	if err := keeper.Tick(ctx); err != nil {
		return nil, err
	}
	sightings, err := keeper.Sightings(ctx)
	if err != nil {
		return nil, err
	}
	ring := keeper.Ring()
	out := &adminRingOutput{CacheControl: "no-store", Body: adminRing{Version: ring.Version, Keys: []AdminKey{}}}
	for i := range ring.Keys {
		k := &ring.Keys[i]
		a := AdminKey{
			KeyID: k.ID, Algorithm: string(k.Alg), State: k.State, Since: k.Since(), AnnouncedAt: k.AnnouncedAt, ReadyAt: k.ReadyAt,
			SealedBy: k.Sealed.By(), Reason: k.Reason, HeldBy: []string{}, Missing: []string{},
		}
		if state, at, ok := k.Next(); ok {
			a.NextState, a.NextAt = state, &at
		}
		for _, seen := range sightings {
			if seen.Holds(k.ID) {
				a.HeldBy = append(a.HeldBy, seen.Verifier)
			}
		}
		if _, missing := keys.Holding(k.ID, keeper.Policy().Registered, sightings); k.Published() && missing != nil {
			a.Missing = missing
		}
		out.Body.Keys = append(out.Body.Keys, a)
	}
	return out, nil
}

type rotateInput struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" pattern:"^[!-~]+$" doc:"A text of your own, the same for a repeated request: it is then carried out once"`
	Body           struct {
		Alg       string `json:"alg" enum:"EdDSA,RS256,ES256,PS256" doc:"The algorithm whose next key is to take over" example:"EdDSA"`
		Emergency bool   `json:"emergency,omitempty" doc:"At once, whether every verifier holds the next key or not"`
		To        string `json:"to,omitempty" maxLength:"64" pattern:"^[A-Za-z0-9_-]+$" doc:"The kid that is to take over, as listed; 409 when another stands by. Without it a rotation that has just happened by itself is followed by one more, to a key that nobody holds yet"`
	}
}

// rotateKey is about one stand-by, the one of the moment if none is named: when
// that one signs, the rotation has happened.
func (s *Server) rotateKey(ctx context.Context, in *rotateInput) (*adminRingOutput, error) {
	c, err := s.administrator(ctx)
	if err != nil {
		return nil, err
	}
	alg := jose.SignatureAlgorithm(in.Body.Alg)
	keeper := s.issuer.keys
	if err := keeper.Tick(ctx); err != nil {
		return nil, err
	}
	subject := in.Body.To
	if next := keeper.Ring().Standby(alg); subject == "" && next != nil {
		subject = next.ID
	}
	if k := keeper.Ring().Key(subject); subject == "" || k != nil && k.Alg != alg {
		return nil, fmt.Errorf("%w: none for %s", keys.ErrNoKey, alg)
	}
	return s.change(ctx, c, in.IdempotencyKey, subject, []any{"rotate", in.Body}, func(subject string) error {
		s.log.InfoContext(ctx, "a rotation is asked for", slog.String("user", c.user.ID), slog.String("alg", in.Body.Alg),
			slog.String("to", subject), slog.Bool("emergency", in.Body.Emergency))
		return keeper.RotateTo(c.acting(ctx), subject, in.Body.Emergency)
	})
}

type revokeInput struct {
	KeyID          string `path:"kid" maxLength:"64" pattern:"^[A-Za-z0-9_-]+$"`
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" pattern:"^[!-~]+$" doc:"A text of your own, the same for a repeated request: it is then carried out once"`
	Body           struct {
		Reason string `json:"reason" minLength:"1" maxLength:"150" doc:"Why; it goes into the history" example:"its private half was found in a backup"`
	}
}

func (s *Server) revokeKey(ctx context.Context, in *revokeInput) (*adminRingOutput, error) {
	c, err := s.administrator(ctx)
	if err != nil {
		return nil, err
	}
	reason := strings.TrimSpace(in.Body.Reason)
	if bad := badText(reason); bad != "" || reason == "" {
		return nil, web.Invalid(web.AtMember("/reason", cmp.Or(bad, "must say something")))
	}
	return s.change(ctx, c, in.IdempotencyKey, in.KeyID, []any{"revoke", in.KeyID, in.Body}, func(string) error {
		s.log.InfoContext(ctx, "a revocation is asked for", slog.String("user", c.user.ID), slog.String("kid", in.KeyID))
		return s.issuer.keys.Revoke(c.acting(ctx), in.KeyID, reason)
	})
}

// change carries a change out once and answers with the ring after it.
func (s *Server) change(ctx context.Context, c *caller, key, subject string, request any, do func(subject string) error) (*adminRingOutput, error) {
	body, replayed, err := idempotently(ctx, s.accounts.store, s.issuer.now(), c.user.ID, key, subject, request,
		func(subject string) (*adminRing, error) {
			if err := do(subject); err != nil {
				return nil, err
			}
			out, err := s.adminRing(ctx)
			if err != nil {
				return nil, err
			}
			return &out.Body, nil
		})
	if err != nil {
		return nil, err
	}
	out := &adminRingOutput{CacheControl: "no-store", Body: *body}
	if replayed {
		out.Replayed = "true"
	}
	return out, nil
}

// AdminEvent is one change to one key.
type AdminEvent struct {
	Version   int64      `json:"version" doc:"Of the ring that the change led to"`
	At        time.Time  `json:"at"`
	KeyID     string     `json:"kid"`
	Algorithm string     `json:"alg"`
	From      keys.State `json:"from" doc:"Empty when the key was made; the same as to when only its schedule changed"`
	To        keys.State `json:"to" doc:"Empty when the key was forgotten"`
	Actor     string     `json:"actor" doc:"The replica or operator that made it"`
	Reason    string     `json:"reason"`
}

type keyHistoryInput struct {
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many at most"`
}

type keyHistoryOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         []AdminEvent
}

func (s *Server) keyHistory(ctx context.Context, in *keyHistoryInput) (*keyHistoryOutput, error) {
	if _, err := s.administrator(ctx); err != nil {
		return nil, err
	}
	events, err := s.issuer.keys.History(ctx, in.Limit)
	if err != nil {
		return nil, err
	}
	out := &keyHistoryOutput{CacheControl: "no-store", Body: []AdminEvent{}}
	for i := range events {
		e := &events[i]
		out.Body = append(out.Body, AdminEvent{
			Version: e.Version, At: e.At, KeyID: e.KeyID, Algorithm: string(e.Alg), From: e.From, To: e.To, Actor: e.Actor, Reason: e.Reason,
		})
	}
	return out, nil
}
