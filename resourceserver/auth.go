package resourceserver

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humamux"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/web"
)

// requestTimeout bounds all that a request does, so that a database that
// hangs costs a 503 and not a goroutine.
const requestTimeout = 15 * time.Second

// authenticate lets a request through that carries a good token with the
// scopes of its route. Answers depend on the token, wherever it stands, so no
// shared cache may keep them.
func (s *Server) authenticate(api *web.API) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		scopes, wanted := web.ScopesOf(ctx.Operation())
		if !wanted {
			next(ctx)
			return
		}
		r, _ := humamux.Unwrap(ctx)
		claims, err := s.verify(r, scopes)
		s.metrics.tokens.WithLabelValues(verify.Reason(err)).Inc()
		if err != nil {
			api.Fail(ctx, s.refusal(ctx.Context(), err))
			return
		}
		ctx.SetHeader("Cache-Control", "private, no-cache")
		bounded, cancel := context.WithTimeout(verify.NewContext(ctx.Context(), claims), requestTimeout)
		defer cancel()
		next(huma.WithContext(ctx, bounded))
	}
}

func (s *Server) verify(r *http.Request, scopes []string) (*token.Claims, error) {
	claims, err := s.verifier.VerifyRequest(r)
	if err != nil {
		return nil, err
	}
	return claims, verify.CheckScope(claims, scopes...)
}

// refusal is the answer to a request that isn't let through.
func (s *Server) refusal(ctx context.Context, err error) *web.Problem {
	web.NoteCause(ctx, err)
	status, challenge := verify.Challenge(err, s.realm)
	var code string
	switch {
	case status == http.StatusServiceUnavailable:
		return web.Unavailable(10 * time.Second) // the verifier tries again at least that often
	case status >= http.StatusInternalServerError:
		return web.Internal(ctx, err)
	case status == http.StatusForbidden:
		code = "insufficient_scope"
	case errors.Is(err, verify.ErrMissing):
		code = "token_missing"
	case errors.Is(err, verify.ErrAmbiguous):
		code = "token_ambiguous"
	case errors.Is(err, verify.ErrExpired):
		code = "token_expired"
	default:
		code = "token_invalid"
	}
	return web.NewProblem(status, code, i18n.Foreign(verify.Detail(err))).With("WWW-Authenticate", challenge)
}

// asker is who the request is from, as the store wants to know it.
func asker(ctx context.Context) (sub string, by By) {
	claims, ok := verify.FromContext(ctx)
	switch {
	case !ok: // no route without a scope asks
		return "", By{}
	case claims.Scope.Has(token.ScopeInmueblesAdmin):
		return claims.Subject, Admin
	}
	return claims.Subject, Owner(claims.Subject)
}

// problem is the one place where an error of the store becomes an answer.
func (s *Server) problem(ctx context.Context, id string, err error) error {
	switch {
	case errors.Is(err, ErrNotFound):
		return web.NewProblem(http.StatusNotFound, "not_found", i18n.Textf("Inmueble with ID %s does not exist", shown(id)))
	case errors.Is(err, ErrUnreadable):
		s.leftOut(ctx, id)
		return web.NewProblem(http.StatusNotFound, "unreadable", i18n.Textf(
			"Inmueble with ID %s is stored in a form that can't be read. PUT mends it, DELETE removes it.", shown(id)))
	case errors.Is(err, ErrNotOwner):
		lacking := &verify.ScopeError{Need: token.Scope{token.ScopeInmueblesAdmin}}
		_, challenge := verify.Challenge(lacking, s.realm)
		return web.NewProblem(http.StatusForbidden, "not_owner", i18n.Textf("Inmueble with ID %s belongs to somebody else.", shown(id))).
			With("WWW-Authenticate", challenge)
	case errors.Is(err, ErrChanged):
		return web.NewProblem(http.StatusPreconditionFailed, "precondition_failed", i18n.Textf(
			"Inmueble with ID %s is not as If-Match or If-None-Match wants it. GET it, and decide again.", shown(id)))
	case errors.Is(err, ErrDuplicate):
		return web.NewProblem(http.StatusConflict, "duplicate", i18n.Textf("Inmueble with ID %s exists.", shown(id)))
	case errors.Is(err, ErrOtherRequest):
		return web.Invalid(web.FieldError{Header: headerKey, Detail: "was used for another request"})
	case errors.Is(err, ErrInProgress):
		return web.NewProblem(http.StatusConflict, "in_progress", "A request with this Idempotency-Key is being worked on.").
			With("Retry-After", "1")
	case errors.Is(err, ErrUnavailable) && !errors.Is(context.Cause(ctx), context.Canceled):
		web.NoteCause(ctx, err)
		return web.Unavailable(time.Second)
	}
	return web.Internal(ctx, err)
}
