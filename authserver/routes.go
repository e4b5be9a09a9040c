package authserver

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/web"
)

// access says who may call a route. Its zero value says nothing: the server
// doesn't start.
type access int

const (
	public       access = iota + 1 // anybody
	user                           // whoever has an access token of ours
	grants                         // anybody, and errors are RFC 6749's too
	admin                          // whoever may manage keys
	adminUsers                     // … users
	adminClients                   // … clients and audiences
	auditor                        // whoever may read the audit
)

// adminScopes are the scopes of routes that are for administrators.
var adminScopes = map[access]string{
	admin: token.ScopeKeysAdmin, adminUsers: token.ScopeUsersAdmin, adminClients: token.ScopeClientsAdmin, auditor: token.ScopeAuditRead,
}

// register is the route table.
func (s *Server) register() error {
	if err := s.registerWellKnown(); err != nil { // GET /.well-known/…; mux looks at the first first
		return err
	}
	s.Health.Register(s.api)
	if s.accounts.options.Mail.Verify == VerifyRequired {
		route(s, http.MethodPost, "/authn/register", public, 202, s.registerSilently, "Register a user; a link goes to the address")
	} else {
		route(s, http.MethodPost, "/authn/register", public, 201, s.registerUser, "Register a user")
	}
	route(s, http.MethodPost, "/authn/token", grants, 200, s.token, "Log in: a password for an access and a refresh token")
	route(s, http.MethodPost, "/authn/token/refresh", grants, 200, s.refreshToken, "A refresh token for the next pair")
	route(s, http.MethodPost, "/authn/sign_out", public, 204, s.signOut, "End a session, by its access token or its refresh token")
	route(s, http.MethodGet, "/authn/me", user, 200, s.me, "The user whose token this is")
	route(s, http.MethodPatch, "/authn/me", user, 200, s.changeProfile, "Change one's profile (RFC 7396): what is absent stays, null empties")
	route(s, http.MethodDelete, "/authn/me", user, 202, s.deleteMe, "Delete one's account: it is erased after a grace period", recentLogin)
	route(s, http.MethodGet, "/authn/me/data", user, 200, s.data, "All that is kept about one")
	route(s, http.MethodPost, "/authn/me/password", user, 204, s.changePassword, "Change one's password; one's other sessions end", strongLogin)
	route(s, http.MethodPost, "/authn/restore", public, 204, s.restore, "Bring back an account that its owner deleted")
	if s.accounts.options.Sealer != nil {
		route(s, http.MethodPost, "/authn/me/totp", user, 200, s.offerSecondFactor, "Be offered a second factor (RFC 6238)")
		route(s, http.MethodPost, "/authn/me/totp/confirm", user, 200, s.confirmSecondFactor, "Turn it on by its first code; recovery codes come back")
		route(s, http.MethodDelete, "/authn/me/totp", user, 204, s.removeSecondFactor, "Turn it off")
		route(s, http.MethodPost, "/authn/me/recovery_codes", user, 200, s.newRecoveryCodes, "New recovery codes in the place of the old")
	}
	if s.accounts.outbox != nil {
		route(s, http.MethodPost, "/authn/me/email", user, 202, s.requestEmail, "Ask for another address; a link goes there", strongLogin)
		route(s, http.MethodPost, "/authn/email/verify", user, 202, s.requestVerification, "Have the mail sent again that verifies one's address")
		route(s, http.MethodPost, "/authn/email/confirm", public, 204, s.confirmEmail, "Use a link that verifies or changes an address")
		route(s, http.MethodPost, "/authn/password/reset", public, 202, s.requestReset, "Ask for a link to choose another password")
		route(s, http.MethodPost, "/authn/password/reset/confirm", public, 204, s.confirmReset, "Use such a link; all sessions end")
	}
	route(s, http.MethodGet, "/authn/me/tokens", user, 200, s.listAPITokens, "One's API tokens, the newest first")
	route(s, http.MethodPost, "/authn/me/tokens", user, 201, s.createAPIToken, "Make an API token for a program of one's own", recentLogin)
	route(s, http.MethodDelete, "/authn/me/tokens/{id}", user, 204, s.deleteAPIToken, "End one of one's API tokens")
	route(s, http.MethodGet, "/authn/sessions", user, 200, s.listSessions, "One's live sessions, the newest first")
	route(s, http.MethodDelete, "/authn/sessions", user, 204, s.endAllSessions, "End all of one's sessions, this one too")
	route(s, http.MethodDelete, "/authn/sessions/others", user, 204, s.endOtherSessions, "End one's other sessions")
	route(s, http.MethodDelete, "/authn/sessions/{id}", user, 204, s.endSession, "End one of one's sessions")
	route(s, http.MethodGet, "/admin/keys", admin, 200, s.listKeys, "The signing keys, their states, what comes next and who holds them")
	route(s, http.MethodPost, "/admin/keys/rotate", admin, 200, s.rotateKey, "Let the next key of an algorithm take over: when every verifier holds it, or at once", recentLogin)
	route(s, http.MethodPost, "/admin/keys/{kid}/revoke", admin, 200, s.revokeKey, "Take a key out of use for ever, at once", recentLogin)
	route(s, http.MethodGet, "/admin/keys/history", admin, 200, s.keyHistory, "What happened to the keys, the newest first")
	s.registerAdmin() // /admin/users, /admin/clients, /admin/audiences, /admin/audit
	s.registerOAuth() // POST /oauth2/…
	s.documentNulls()
	return s.api.RegisterDocs() // GET /docs, /openapi.json
}

func route[I, O any](s *Server, method, path string, who access, status int, h func(context.Context, *I) (*O, error), summary string, demands ...demand) {
	op := huma.Operation{
		OperationID: s.operationID(method, path),
		Method:      method, Path: path, Summary: summary, DefaultStatus: status, Tags: []string{"authn"},
		MaxBodyBytes: 64 << 10,
		Middlewares:  huma.Middlewares{s.withPeer},
		Errors:       []int{400, 401, 413, 415, 422, 429, 503},
	}
	switch who {
	case user:
		s.api.Declare(method, path, "users")
		op.Errors = append(op.Errors, 403, 404, 409)
		op.Security = web.Scopes()
		op.Middlewares = append(op.Middlewares, s.authenticate)
	case admin, adminUsers, adminClients, auditor:
		s.api.Declare(method, path, adminScopes[who])
		op.Errors = append(op.Errors, 403, 404, 409)
		op.Security = web.Scopes(adminScopes[who])
		op.Middlewares = append(op.Middlewares, s.authenticate, s.authorizeAdmin(adminScopes[who]))
		if op.Tags = []string{"admin"}; who == admin {
			op.Tags = []string{"keys"}
		}
	case grants:
		s.api.DeclarePublic(method, path)
		op.Metadata = web.OAuth
	case public:
		s.api.DeclarePublic(method, path)
		op.Errors = append(op.Errors, 409)
	}
	wanted := s.stepUp.wanted(who, demands)
	if wanted != nil {
		op.Middlewares = append(op.Middlewares, s.demanding(wanted))
		op.Responses = map[string]*huma.Response{}
		defer func() { wanted.document(s.api.Huma.OpenAPI().Paths[path], method) }()
	}
	const mergePatch = "application/merge-patch+json"
	if method == http.MethodPatch { // clients that know only application/json mean the same
		op.RequestBody = &huma.RequestBody{Content: map[string]*huma.MediaType{mergePatch: {}}}
		defer func() { op.RequestBody.Content["application/json"] = op.RequestBody.Content[mergePatch] }()
	}
	huma.Register(s.api.Huma, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := h(ctx, in)
		limitStateOf(ctx).send()
		if err == nil {
			return out, nil
		}
		p := problem(ctx, err)
		if who == grants {
			p = p.ForOAuth()
		}
		return nil, p
	})
}

// documentNulls says of every optional member of a request that it may be null:
// that counts as absent, here as in huma, and the document is to be true.
func (s *Server) documentNulls() {
	document := s.api.Huma.OpenAPI()
	for _, path := range document.Paths {
		for _, op := range []*huma.Operation{path.Post, path.Put, path.Patch, path.Delete} {
			if op == nil || op.RequestBody == nil || op.RequestBody.Content["application/json"] == nil {
				continue
			}
			body := op.RequestBody.Content["application/json"].Schema
			if body.Ref != "" {
				body = document.Components.Schemas.SchemaFromRef(body.Ref)
			}
			for name, member := range body.Properties {
				if !slices.Contains(body.Required, name) && member.Ref == "" {
					member.Nullable = true
					if len(member.Enum) > 0 && !slices.Contains(member.Enum, nil) {
						member.Enum = append(member.Enum, nil)
					}
				}
			}
		}
	}
}

// operationID names an operation: its path, and the method unless that is GET,
// or POST where the path has nothing yet.
func (s *Server) operationID(method, path string) string {
	id := strings.NewReplacer("/", "-", "{", "", "}", "").Replace(strings.TrimPrefix(strings.TrimPrefix(path, "/authn"), "/"))
	if method == http.MethodGet || method == http.MethodPost && s.api.Huma.OpenAPI().Paths[path] == nil {
		return id
	}
	return id + "-" + strings.ToLower(method)
}

// problem is the one place where this package's errors become answers.
func problem(ctx context.Context, err error) *web.Problem {
	var p *web.Problem
	if errors.As(err, &p) {
		return p
	}
	if p := throttledProblem(err); p != nil {
		web.NoteCause(ctx, err)
		return p
	}
	if p := mailProblem(err); p != nil {
		return p
	}
	if p := factorProblem(ctx, err); p != nil {
		return p
	}
	if p := adminProblem(err); p != nil {
		return p
	}
	switch {
	case errors.Is(err, ErrEmailTaken):
		return web.NewProblem(http.StatusConflict, "email_taken", "A user with this e-mail address exists.",
			web.AtMember("/email", "is taken"))
	case errors.Is(err, ErrDeleted):
		return invalidGrant("account_deleted", "The account is deleted and will be erased. Its owner can restore it until then.")
	case errors.Is(err, ErrPassword):
		return web.NewProblem(http.StatusForbidden, "wrong_password", "The password given is not the account's.")
	case errors.Is(err, ErrCredentials):
		return invalidGrant("wrong_credentials", "No active account has this e-mail address and password.")
	case errors.Is(err, ErrUnmet):
		p := web.NewProblem(http.StatusBadRequest, "unmet_authentication_requirements",
			"The user has no second factor, and the login is to be as acr_values says. Turn one on first.")
		p.OAuthError = p.Code // OpenID Connect Unmet Authentication Requirements
		return p
	case errors.Is(err, ErrInvalidGrant):
		web.NoteCause(ctx, err)
		return invalidGrant("invalid_refresh_token", "The refresh token is not valid, or not any more. Log in again.")
	case errors.Is(err, ErrAudienceClosed):
		p := web.NewProblem(http.StatusBadRequest, "invalid_target", "Tokens for this audience are for registered clients only.",
			web.AtMember("/audience", "is not open to users"))
		p.OAuthError = "invalid_target" // RFC 8707 §2
		return p
	case errors.Is(err, errNoLogin):
		return userNeeded()
	case errors.Is(err, ErrNoAPIToken):
		return web.NewProblem(http.StatusNotFound, "not_found", "You have no such API token, or it has ended.")
	case errors.Is(err, ErrTooManyAPITokens):
		return web.NewProblem(http.StatusConflict, "too_many_tokens", "You have as many API tokens as can be. Delete one first.")
	case errors.Is(err, errToken), errors.Is(err, ErrNoUser):
		web.NoteCause(ctx, err)
		return unauthorized()
	case errors.Is(err, ErrNoSession):
		return web.NewProblem(http.StatusNotFound, "not_found", "You have no such session, or it has ended.")
	case errors.Is(err, keys.ErrNoKey):
		web.NoteCause(ctx, err)
		return web.NewProblem(http.StatusNotFound, "no_such_key", "There is no such key, or none of this algorithm that could take over.")
	case errors.Is(err, keys.ErrNotStandby):
		web.NoteCause(ctx, err)
		return web.NewProblem(http.StatusConflict, "not_standby", "The key is not the one that is next to sign. Look at the keys again.",
			web.AtMember("/to", "is not the key that stands by"))
	case errors.Is(err, ErrIdempotencyReuse):
		return web.NewProblem(http.StatusUnprocessableEntity, "idempotency_key_reused", "This Idempotency-Key came with another request before. Use a new one.",
			web.FieldError{Header: "Idempotency-Key", Detail: "was used for another request"})
	case errors.Is(err, ErrIdempotencyRunning):
		return web.NewProblem(http.StatusConflict, "idempotency_key_in_use", "A request with this Idempotency-Key is being carried out. Send it again in a while.").
			With("Retry-After", "60")
	case errors.Is(err, keys.ErrConflict), errors.Is(err, keys.ErrClock):
		web.NoteCause(ctx, err)
		return web.Unavailable(2 * time.Second)
	case errors.Is(err, ErrBusy), errors.Is(err, errNoSigner), errors.Is(err, keys.ErrStale), errors.Is(err, keys.ErrNotReady):
		web.NoteCause(ctx, err)
		return web.Unavailable(2 * time.Second)
	}
	if fields := fieldErrors(err); fields != nil {
		return web.Invalid(fields...)
	}
	if isUnavailable(err) {
		web.NoteCause(ctx, err)
		return web.Unavailable(2 * time.Second)
	}
	return web.Internal(ctx, err)
}

// invalidGrant is RFC 6749's invalid_grant, with the 401 that the original's
// clients know in the place of 400.
func invalidGrant(code string, detail i18n.Text) *web.Problem {
	p := web.NewProblem(http.StatusUnauthorized, code, detail).With("WWW-Authenticate", `Bearer realm="authn"`)
	p.OAuthError, p.OAuthDescription = "invalid_grant", detail.String()
	return p
}

func unauthorized() *web.Problem {
	return web.NewProblem(http.StatusUnauthorized, "invalid_token", "The access token is missing, expired or not valid.").
		With("WWW-Authenticate", `Bearer realm="authn", error="invalid_token"`)
}

// fieldErrors collects the [*FieldError]s that err joins.
func fieldErrors(err error) (fields []web.FieldError) {
	var f *FieldError
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			fields = append(fields, fieldErrors(e)...)
		}
	} else if errors.As(err, &f) {
		fields = append(fields, web.AtMember("/"+f.Field, f.Reason))
	}
	return fields
}

type claimsKey struct{}

// authenticate lets a request through that has an access token of ours.
func (s *Server) authenticate(ctx huma.Context, next func(huma.Context)) {
	claims, err := s.bearer(ctx.Header("Authorization"))
	if err != nil {
		web.NoteCause(ctx.Context(), err)
		s.api.Fail(ctx, unauthorized())
		return
	}
	next(huma.WithValue(ctx, claimsKey{}, claims))
}

// bearer reads the access token of an Authorization header (RFC 6750 §2.1).
func (s *Server) bearer(header string) (*token.Claims, error) {
	scheme, text, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return nil, errToken
	}
	return s.issuer.read(strings.TrimLeft(text, " "))
}

type registerInput struct {
	AcceptLanguage string `header:"Accept-Language" doc:"The user's language, where the body has none"`
	Body           struct {
		Email     string       `json:"email" format:"email" maxLength:"254" doc:"Unique without regard to case" example:"ana@example.es"`
		Password  string       `json:"password" maxLength:"1024" doc:"8 to 128 characters, not a common password, not like the other values" example:"a long phrase of your own"`
		FirstName string       `json:"first_name,omitempty" maxLength:"150" example:"Ana"`
		LastName  string       `json:"last_name,omitempty" maxLength:"150" example:"García"`
		Company   string       `json:"company,omitempty" maxLength:"150" example:"Ejemplo S. L."`
		Language  mailLanguage `json:"language,omitempty" doc:"Of mail to the user; from Accept-Language if absent"`
	}
}

type userOutput struct {
	Location     string `header:"Location" doc:"Where the user is found with a token"`
	CacheControl string `header:"Cache-Control"`
	Body         *User
}

func (s *Server) registerUser(ctx context.Context, in *registerInput) (*userOutput, error) {
	u, err := s.accounts.register(ctx, in.user())
	if err != nil {
		return nil, err
	}
	return &userOutput{Location: "/authn/me", CacheControl: "no-store", Body: u}, nil
}

// registerSilently answers the same for a new address and a known one.
func (s *Server) registerSilently(ctx context.Context, in *registerInput) (*struct{}, error) {
	return nil, s.accounts.registerSilently(ctx, in.user())
}

func (in *registerInput) user() NewUser {
	b := in.Body
	if b.Language == "" {
		b.Language = mailLanguage(chooseLanguage(in.AcceptLanguage))
	}
	return NewUser{
		Email: b.Email, Password: b.Password, FirstName: b.FirstName, LastName: b.LastName, Company: b.Company, Language: string(b.Language),
	}
}

type tokenInput struct {
	Body struct {
		Email    string `json:"email,omitempty" maxLength:"254" doc:"The user's address" example:"ana@example.es"`
		Username string `json:"username,omitempty" maxLength:"254" doc:"The same as email; exactly one of the two is needed"`
		Password string `json:"password" maxLength:"1024" example:"a long phrase of your own"`
		OTP      string `json:"otp,omitempty" maxLength:"64" doc:"A code of the second factor, or a recovery code, if one is on" example:"123456"`
		Refresh  string `json:"refresh,omitempty" maxLength:"4096" doc:"A refresh token that this device had before, even one that gives nothing any more: strangers' wrong passwords then don't count for it"`
		Audience string `json:"audience,omitempty" maxLength:"200" pattern:"^[!-~]*$" doc:"Whom the access token is for; inmuebles if absent" example:"inmuebles"`
		ACR      string `json:"acr_values,omitempty" maxLength:"200" doc:"How strong the login must be, values with spaces between, as a challenge says (RFC 9470): aal2 wants the second factor" example:"aal2"`
		MaxAge   int    `json:"max_age,omitempty" minimum:"0" doc:"Of a challenge, in seconds: a login meets any"`
	}
}

// tokens is the answer to every grant: the names of the original API and those
// of RFC 6749 §5.1.
type tokens struct {
	Access       string `json:"access" doc:"Access token: a JWT (RFC 9068)"`
	Refresh      string `json:"refresh" doc:"Refresh token: opaque, to be used once"`
	AccessToken  string `json:"access_token" doc:"The same as access"`
	RefreshToken string `json:"refresh_token" doc:"The same as refresh"`
	TokenType    string `json:"token_type" example:"Bearer"`
	ExpiresIn    int    `json:"expires_in" doc:"Seconds until the access token expires" example:"300"`
	Scope        string `json:"scope" doc:"What the access token allows, separated by spaces"`
	Unverified   bool   `json:"email_unverified,omitzero" required:"false" doc:"The user has still to verify the e-mail address, where this server asks for that"`
}

type tokensOutput struct {
	CacheControl string `header:"Cache-Control"`
	Pragma       string `header:"Pragma"`
	Body         tokens
}

func (s *Server) token(ctx context.Context, in *tokenInput) (*tokensOutput, error) {
	b := in.Body
	email, audience := b.Email, b.Audience
	switch {
	case email == "":
		email = b.Username
	case b.Username != "" && b.Username != email:
		return nil, web.Invalid(web.AtMember("/username", "must not differ from email: send one of the two"))
	}
	if email == "" {
		return nil, web.Invalid(web.AtMember("/email", "is required (username will do as well)"))
	}
	if audience == "" {
		audience = InmueblesAudience
	}
	if err := s.issuer.audiences.forUser(ctx, audience); err != nil {
		return nil, err
	}
	from := peerOf(ctx)
	from.Refresh = b.Refresh
	g, err := s.accounts.login(ctx, email, b.Password, b.OTP, clientID, audience, strings.Fields(b.ACR), from)
	return s.answer(ctx, "password", g, err)
}

type refreshInput struct {
	Body struct {
		Refresh      string `json:"refresh,omitempty" maxLength:"4096" doc:"The refresh token of the last answer"`
		RefreshToken string `json:"refresh_token,omitempty" maxLength:"4096" doc:"The same as refresh; exactly one of the two is needed"`
	}
}

func (s *Server) refreshToken(ctx context.Context, in *refreshInput) (*tokensOutput, error) {
	text := in.Body.Refresh
	if text == "" {
		text = in.Body.RefreshToken
	}
	if text == "" {
		return nil, web.Invalid(web.AtMember("/refresh", "is required"))
	}
	g, err := s.accounts.refresh(ctx, text, peerOf(ctx))
	return s.answer(ctx, "refresh", g, err)
}

// answer makes the tokens of a grant, or passes its error on, and counts.
func (s *Server) answer(ctx context.Context, kind string, g *grant, err error) (*tokensOutput, error) {
	if err != nil {
		outcome := "failed"
		var throttled *ThrottledError
		switch {
		case errors.As(err, &throttled):
			outcome = "throttled"
		case errors.Is(err, ErrReused):
			outcome = "reused"
		case errors.Is(err, ErrCredentials), errors.Is(err, ErrInvalidGrant), errors.Is(err, ErrDeleted), errors.Is(err, ErrUnverified),
			errors.Is(err, ErrOTPRequired), errors.Is(err, ErrOTP), errors.Is(err, ErrUnmet):
			outcome = "refused"
		case errors.Is(err, ErrBusy):
			outcome = "busy"
		}
		s.logins.WithLabelValues(kind, outcome).Inc()
		return nil, err
	}
	accessToken, scope, life, err := s.issuer.issue(ctx, g)
	if err != nil {
		s.logins.WithLabelValues(kind, "failed").Inc()
		return nil, err
	}
	s.logins.WithLabelValues(kind, "granted").Inc()
	refresh := ""
	if g.UserID != "" && !g.APIToken { // a program asks again instead (RFC 6749 §4.4.3)
		refresh = g.Refresh.String()
	}
	return &tokensOutput{
		CacheControl: "no-store", Pragma: "no-cache", // RFC 6749 §5.1
		Body: tokens{
			Access: accessToken, Refresh: refresh, AccessToken: accessToken, RefreshToken: refresh,
			TokenType: "Bearer", ExpiresIn: int(life / time.Second), Scope: scope.String(), Unverified: g.Unverified,
		},
	}, nil
}

type signOutInput struct {
	Authorization string `header:"Authorization" doc:"Bearer and the session's access token; or send its refresh token in the body"`
	Body          *struct {
		Refresh string `json:"refresh" maxLength:"4096" doc:"A refresh token of the session"`
	} `required:"false"`
}

func (s *Server) signOut(ctx context.Context, in *signOutInput) (*struct{}, error) {
	if in.Body != nil {
		return nil, s.accounts.signOut(ctx, in.Body.Refresh)
	}
	claims, err := s.bearer(in.Authorization)
	if err != nil {
		return nil, err
	}
	if claims.AuthTime == 0 {
		return nil, errNoLogin
	}
	session, err := uuid.Parse(claims.Session)
	if err != nil {
		return nil, errToken
	}
	return nil, s.accounts.store.end(ctx, session, claims.Subject, "signed out", s.issuer.now())
}
