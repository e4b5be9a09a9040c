package authserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/web"
)

// Step-up (RFC 9470): what does lasting harm in the hands of a thief wants more
// than a good access token. The route table says of a route what it demands of
// the login that the token comes from:
//
//	strongLogin   the second factor, if the user has one
//	recentLogin   that, and not longer ago than StepUp.MaxAge
//
//	token ─▶ auth_time, acr ─┬─ they do ──▶ the handler
//	                         └─ they don't ─▶ 401 insufficient_user_authentication,
//	                            with acr_values and max_age ─▶ the client sends both to
//	                            POST /authn/token, with the user's password and code,
//	                            and repeats the request with the token it gets
//
// What is wanted depends on the user: who has no second factor can't be asked
// for it, unless StepUp.AdminFactor makes administrators have one. So the user
// is looked up, and a session from before the factor was turned on isn't
// enough from that moment on.
//
// A refresh doesn't step up: auth_time, acr and amr stay those of the login. A
// program has nobody to log in, whether it asks in its own name or has an API
// token of a user's. It is refused with 403, for no challenge could help it: an
// operator has the command line.
//
// Routes that ask for the password in their body have no need of a recent
// login.

// demand is what a route wants of its caller's login.
type demand int

const (
	strongLogin demand = iota + 1
	recentLogin
)

// StepUp says what the demands of routes come to.
type StepUp struct {
	MaxAge      time.Duration // of a login that counts as recent; [DefaultStepUpAge] if zero
	AdminFactor bool          // what administrators do wants a second factor, of all of them
}

// DefaultStepUpAge is for how long a login counts as recent.
const DefaultStepUpAge = 10 * time.Minute

// ErrUnmet says that a login was right, but isn't as strong as it was asked to
// be: the user has no second factor.
var ErrUnmet = errors.New("authserver: the login doesn't meet what was asked of it")

// errNoLogin says that an access token comes from nobody's login: a client got
// it in its own name, or for an API token.
var errNoLogin = errors.New("authserver: the access token comes from no login")

func userNeeded() *web.Problem {
	return web.NewProblem(http.StatusForbidden, "user_needed", "This is for users who have logged in themselves: a program's token won't do.")
}

// wanted is a demand, as it is for one route.
type wanted struct {
	factor bool          // of everybody, not only of who has one
	strong bool          // of who has one
	maxAge time.Duration // 0 for any
}

// wanted is what a route's demands come to, nil if there are none.
func (u StepUp) wanted(who access, demands []demand) *wanted {
	w := &wanted{factor: u.AdminFactor && adminScopes[who] != ""}
	for _, d := range demands {
		w.strong = true
		if d == recentLogin {
			w.maxAge = u.MaxAge
		}
	}
	if !w.factor && !w.strong {
		return nil
	}
	return w
}

// demanding comes after authenticate: it lets a request through whose token
// comes from a login of the kind that is wanted.
func (s *Server) demanding(w *wanted) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		if err := s.checkLogin(ctx.Context(), w); err != nil {
			s.api.Fail(ctx, problem(ctx.Context(), err))
			return
		}
		next(ctx)
	}
}

func (s *Server) checkLogin(ctx context.Context, w *wanted) error {
	claims, _ := ctx.Value(claimsKey{}).(*token.Claims)
	c, err := s.caller(ctx)
	if err != nil {
		return err
	}
	has := c.user.SecondFactorAt != nil
	factor := w.factor || w.strong && has
	switch age := s.issuer.now().Sub(time.Unix(claims.AuthTime, 0)); {
	case factor && !has:
		return w.challenge(factor, "This needs a login with a second factor, and there is none yet. Turn one on, then log in anew with it.")
	case factor && claims.ACR != token.ACRTwoFactors:
		return w.challenge(factor, "This needs a login with the second factor. Log in anew, and repeat the request with the new access token.")
	case w.maxAge > 0 && age > w.maxAge:
		return w.challenge(factor, "This needs a recent login. Log in anew, and repeat the request with the new access token.")
	}
	return nil
}

// challenge is the answer of RFC 9470 §3. It names all that is wanted, also
// what the token meets: the next login has to meet it too.
func (w *wanted) challenge(factor bool, detail i18n.Text) *web.Problem {
	const code = "insufficient_user_authentication"
	var b strings.Builder
	fmt.Fprintf(&b, `Bearer realm="authn", error=%q, error_description=%q`, code, detail.String())
	if factor {
		fmt.Fprintf(&b, `, acr_values=%q`, token.ACRTwoFactors)
	}
	if w.maxAge > 0 {
		fmt.Fprintf(&b, `, max_age="%d"`, seconds(w.maxAge))
	}
	return web.NewProblem(http.StatusUnauthorized, code, detail).With("WWW-Authenticate", b.String())
}

// document says in the OpenAPI document what an operation wants, once it is
// registered.
func (w *wanted) document(path *huma.PathItem, method string) {
	op := map[string]*huma.Operation{
		http.MethodGet: path.Get, http.MethodPost: path.Post, http.MethodPatch: path.Patch, http.MethodPut: path.Put, http.MethodDelete: path.Delete,
	}[method]
	text := "The access token must come from a login with the second factor, if the user has one"
	if w.factor {
		text = "The access token must come from a login with a second factor"
	}
	if w.maxAge > 0 {
		text += ", at most " + strconv.Itoa(seconds(w.maxAge)) + " seconds ago"
	}
	op.Description = text + " (RFC 9470). Otherwise the answer is 401 `insufficient_user_authentication`:" +
		" log in anew, and repeat the request with the new access token."
	op.Responses["401"].Headers = map[string]*huma.Param{"WWW-Authenticate": {
		Description: "error=\"insufficient_user_authentication\" where the login won't do, with the acr_values and max_age that the next one has to meet",
		Schema:      &huma.Schema{Type: huma.TypeString},
	}}
}

// meets reports whether a login is as strong as one of the values of an
// acr_values parameter, if there is any.
func meets(acr string, values []string) bool {
	return len(values) == 0 || slices.Contains(values, acr) ||
		acr == token.ACRTwoFactors && slices.Contains(values, token.ACRSingleFactor)
}
