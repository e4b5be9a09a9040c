package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/web"
)

// The OAuth 2.0 endpoints for clients. They speak what stock clients do:
// forms in, and out JSON with the error codes of RFC 6749 §5.2, whatever
// Accept says.
//
//	form ─▶ known parameters, each once ─▶ client authentication ─▶ handler ─▶ JSON, no-store

const (
	tokenPath      = "/oauth2/token" //nolint:gosec // an address
	revokePath     = "/oauth2/revoke"
	introspectPath = "/oauth2/introspect"

	maxForm = 64 << 10 // bytes

	// formTimeout is how long a form may take to arrive: as long as any body of
	// the other routes.
	formTimeout = 5 * time.Second
)

// param is one parameter of a form.
type param struct {
	name, doc string
	required  bool
}

var (
	// clientParams are how a client may prove who it is, at every endpoint.
	clientParams = []param{
		{"client_id", "The client, where it isn't in the Authorization header", false},
		{"client_secret", "Its secret, where it isn't in the Authorization header (RFC 6749 §2.3.1)", false},
		{"client_assertion_type", assertionType + " (RFC 7523 §2.2)", false},
		{"client_assertion", "A JWT that the client has signed: iss and sub are its id, aud is the issuer or this endpoint, and exp and jti are there", false},
	}
	tokenParams = append([]param{
		{"grant_type", grantTypes, true},
		{"scope", "What the token is to allow, separated by spaces; all that it may, if absent (RFC 6749 §3.3)", false},
		{"audience", "Whom the token is for; the client's only one, or inmuebles, if absent", false},
		{"refresh_token", "With grant_type=refresh_token", false},
	}, exchangeParams...)
	aboutToken = []param{
		{"token", "An access token, a refresh token or an API token", true},
		{"token_type_hint", "Ignored: the token itself tells (RFC 7009 §2.1)", false},
	}
)

// registerOAuth is the route table for clients.
func (s *Server) registerOAuth() {
	s.oauthRoute(tokenPath, "oauth2-token", "A token for a client or an API token, or the next pair for a refresh token (RFC 6749 §4.4, §6; RFC 8693)", tokenParams, s.oauthToken)
	s.oauthRoute(revokePath, "oauth2-revoke", "End the session of a token, or a token without one (RFC 7009)", aboutToken, s.oauthRevoke)
	s.oauthRoute(introspectPath, "oauth2-introspect", "Whether a token is good right now (RFC 7662)", aboutToken, s.oauthIntrospect)
}

// oauthRequest is a form and who sent it.
type oauthRequest struct {
	form   map[string]string
	client *Client // [application] when nobody said who they are
	peer   peer
}

// acting names the client in the audit; with the application it is the user.
func (r *oauthRequest) acting(ctx context.Context) context.Context {
	if r.client == application {
		return ctx
	}
	return WithActor(ctx, clientName(r.client.ID))
}

// oauthRoute registers an endpoint: its parameters are those of the table, and
// so is its description.
func (s *Server) oauthRoute(path, id, summary string, own []param, h func(context.Context, *oauthRequest) (any, error)) {
	params := slices.Concat(own, clientParams)
	s.api.Public(http.MethodPost, path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // clients show no token
		ctx := s.notePeer(r.Context(), r, w.Header().Set)
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(formTimeout)) // a recorder in a test has none
		form, err := readForm(r, params)
		if err != nil {
			writeOAuthError(ctx, w, err)
			return
		}
		client, err := s.authenticateClient(ctx, r, form, s.issuer.url+path)
		if errors.Is(err, ErrClient) {
			err = s.accounts.limit.badToken(ctx, err)
		}
		if err != nil {
			writeOAuthError(ctx, w, err)
			return
		}
		out, err := h(ctx, &oauthRequest{form, client, peerOf(ctx)})
		if err != nil {
			writeOAuthError(ctx, w, err)
			return
		}
		writeOAuth(w, http.StatusOK, out)
	}))

	schema := &huma.Schema{Type: huma.TypeObject, Properties: map[string]*huma.Schema{}}
	for _, p := range params {
		property := &huma.Schema{Type: huma.TypeString, Description: p.doc}
		if p.required {
			one := 1 // an empty value counts as none
			property.MinLength = &one
			schema.Required = append(schema.Required, p.name)
		}
		schema.Properties[p.name] = property
	}
	object := map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{Type: huma.TypeObject}}}
	responses := map[string]*huma.Response{"200": {Description: "OK", Content: object}}
	for _, status := range []int{400, 401, 408, 413, 429, 499, 500, 503} {
		responses[strconv.Itoa(status)] = &huma.Response{Description: "An error of RFC 6749 §5.2", Content: object}
	}
	s.api.Huma.OpenAPI().AddOperation(&huma.Operation{
		OperationID: id, Method: http.MethodPost, Path: path, Summary: summary, Tags: []string{"oauth2"},
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{formType: {Schema: schema}}},
		Responses:   responses,
	})
}

const formType = "application/x-www-form-urlencoded"

// oauthError is an error answer of RFC 6749 §5.2.
type oauthError struct {
	status      int
	Code        string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

func (e *oauthError) Error() string { return e.Code + ": " + e.Description }

func badRequest(code, description string) error {
	return &oauthError{http.StatusBadRequest, code, description}
}

// readForm reads the parameters that an endpoint has. Others are ignored, and
// so is one without a value (RFC 6749 §3.2).
func readForm(r *http.Request, params []param) (map[string]string, error) {
	if r.URL.RawQuery != "" {
		return nil, badRequest("invalid_request", "The parameters belong into the body: addresses end up in logs.")
	}
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != formType {
		return nil, badRequest("invalid_request", "Content-Type must be "+formType+".")
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxForm))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, &oauthError{http.StatusRequestEntityTooLarge, "invalid_request", "The body is too large."}
	}
	if err != nil {
		return nil, err
	}
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, badRequest("invalid_request", "The body can't be parsed as a form.")
	}
	form := map[string]string{}
	for _, p := range params {
		switch given := values[p.name]; {
		case len(given) > 1:
			return nil, badRequest("invalid_request", p.name+" is given more than once.")
		case len(given) == 1 && given[0] != "":
			// VSCHAR of RFC 6749, appendix A: nothing that we take needs more.
			if strings.ContainsFunc(given[0], func(r rune) bool { return r < ' ' || r > '~' }) {
				return nil, badRequest("invalid_request", p.name+" must have printable ASCII characters only.")
			}
			form[p.name] = given[0]
		case p.required:
			return nil, badRequest("invalid_request", p.name+" is required.")
		}
	}
	return form, nil
}

// authenticateClient finds out who asks: by secret, by assertion, or nobody,
// which is [application] (RFC 6749 §2.3).
func (s *Server) authenticateClient(ctx context.Context, r *http.Request, form map[string]string, endpoint string) (*Client, error) {
	id, secret, assertion := form["client_id"], form["client_secret"], form["client_assertion"]
	if err := s.accounts.limit.token(ctx); err != nil {
		return nil, err
	}
	authorization := r.Header.Get("Authorization")
	ways := 0
	for _, way := range []string{authorization, secret, assertion} {
		if way != "" {
			ways++
		}
	}
	if ways > 1 {
		return nil, badRequest("invalid_request", "Authenticate in one way only.")
	}
	switch {
	case authorization != "":
		basicID, basicSecret, ok := basicCredentials(r)
		if !ok || id != "" && id != basicID {
			return nil, ErrClient
		}
		return s.clients.bySecret(ctx, basicID, basicSecret)
	case secret != "":
		return s.clients.bySecret(ctx, id, secret)
	case assertion != "":
		if form["client_assertion_type"] != assertionType {
			return nil, badRequest("invalid_request", "client_assertion_type must be "+assertionType+".")
		}
		return s.clients.byAssertion(ctx, assertion, id, s.issuer.url, endpoint)
	case id != "" && id != application.ID:
		return nil, ErrClient
	}
	return application, nil
}

// basicCredentials reads a client's id and secret from the Authorization
// header. Each is percent-encoded like a form's value (RFC 6749 §2.3.1); ours
// have nothing to encode, so it doesn't matter that some clients don't.
func basicCredentials(r *http.Request) (id, secret string, ok bool) {
	user, password, ok := r.BasicAuth()
	if !ok {
		return "", "", false
	}
	id, err := url.QueryUnescape(user)
	if err != nil || !validAudience(id) {
		return "", "", false
	}
	secret, err = url.QueryUnescape(password)
	return id, secret, err == nil
}

// oauthTokens is the answer of RFC 6749 §5.1.
type oauthTokens struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int    `json:"expires_in"`
	RefreshToken string `json:"refresh_token,omitempty"`
	Scope        string `json:"scope"`
	IssuedType   string `json:"issued_token_type,omitempty"` // RFC 8693 §2.2.1
}

const grantTypes = GrantClientCredentials + ", " + GrantRefreshToken + " or " + GrantTokenExchange

func (s *Server) oauthToken(ctx context.Context, r *oauthRequest) (any, error) {
	kind := r.form["grant_type"]
	switch {
	case kind != GrantClientCredentials && kind != GrantRefreshToken && kind != GrantTokenExchange:
		return nil, badRequest("unsupported_grant_type", "grant_type must be "+grantTypes+".")
	case kind == GrantClientCredentials && r.client == application:
		return nil, ErrClient
	case !slices.Contains(r.client.Grants, kind):
		return nil, badRequest("unauthorized_client", "The client is not registered for this grant type.")
	}
	var g *grant
	var err error
	label, issued := kind, ""
	switch kind {
	case GrantClientCredentials:
		g, err = clientGrant(r)
	case GrantRefreshToken:
		g, err = s.refreshGrant(ctx, r)
	case GrantTokenExchange:
		label, issued = "token_exchange", typeAccessToken
		g, err = s.exchange(ctx, r)
	}
	t, err := s.answer(ctx, label, g, err)
	if err != nil {
		return nil, err
	}
	b := t.Body
	return &oauthTokens{b.AccessToken, b.TokenType, b.ExpiresIn, b.RefreshToken, b.Scope, issued}, nil
}

// clientGrant is what a client gets in its own name.
func clientGrant(r *oauthRequest) (*grant, error) {
	g := &grant{ClientID: r.client.ID, Audience: r.form["audience"], Scope: r.client.Scope}
	if asked := token.ParseScope(r.form["scope"]); len(asked) > 0 {
		if g.Scope = r.client.Scope.Intersect(asked); len(g.Scope) < len(slices.Compact(slices.Sorted(slices.Values(asked)))) {
			return nil, badRequest("invalid_scope", "The client may not have all of this scope.")
		}
	}
	if g.Audience == "" {
		if g.Audience = InmueblesAudience; len(r.client.Audiences) == 1 {
			g.Audience = r.client.Audiences[0]
		}
	}
	if !slices.Contains(r.client.Audiences, g.Audience) {
		return nil, badRequest("invalid_target", "The client may not have tokens for this audience.") // RFC 8707 §2
	}
	return g, nil
}

// refreshGrant rotates a refresh token of the client that asks. All sessions
// there are belong to [application]; another client's own come with the
// authorization code.
func (s *Server) refreshGrant(ctx context.Context, r *oauthRequest) (*grant, error) {
	text := r.form["refresh_token"]
	if text == "" {
		return nil, badRequest("invalid_request", "refresh_token is required.")
	}
	if r.client != application {
		if _, err := s.sessionOf(ctx, r.client, text); err != nil {
			return nil, err
		}
	}
	g, err := s.accounts.refresh(ctx, text, r.peer)
	if err != nil {
		return nil, err
	}
	if asked := token.ParseScope(r.form["scope"]); len(asked) > 0 {
		g.Scope = asked // more than there is, is left out, and the answer says so (RFC 6749 §3.3)
	}
	return g, nil
}

// sessionOf returns the session of a genuine refresh token of the client's, or
// [ErrInvalidGrant].
func (s *Server) sessionOf(ctx context.Context, client *Client, text string) (*session, error) {
	shown, err := parseRefreshToken(text)
	if err != nil {
		return nil, ErrInvalidGrant
	}
	row, err := s.accounts.store.loadSession(ctx, shown.session)
	if err != nil {
		return nil, err
	}
	if row.ClientID != client.ID || !shown.genuine(row.MarkKey) {
		return nil, ErrInvalidGrant
	}
	return row, nil
}

// oauthRevoke ends the session that a token belongs to, or, if there is none,
// that access token alone. A token that is none, or somebody else's, is
// answered like one that was revoked (RFC 7009 §2.2).
func (s *Server) oauthRevoke(ctx context.Context, r *oauthRequest) (any, error) {
	text := r.form["token"]
	if strings.HasPrefix(text, refreshPrefix) {
		_, err := s.sessionOf(ctx, r.client, text)
		if err == nil {
			err = s.accounts.signOut(r.acting(ctx), text)
		}
		if errors.Is(err, ErrInvalidGrant) {
			err = nil
		}
		return struct{}{}, err
	}
	if strings.HasPrefix(text, apiTokenPrefix) { // whoever has it: a finder may
		row, _, err := s.accounts.useAPIToken(ctx, text)
		if err == nil {
			err = s.accounts.store.endAPIToken(WithActor(ctx, actorAnonymous), row.UserID, row.ID, "revoked", s.issuer.now())
		}
		if errors.Is(err, ErrAPIToken) || errors.Is(err, ErrNoAPIToken) {
			err = nil
		}
		return struct{}{}, err
	}
	claims, err := s.issuer.read(text)
	if err != nil || claims.ClientID != r.client.ID {
		return struct{}{}, nil //nolint:nilerr // see above
	}
	id, err := uuid.Parse(claims.Session)
	if err != nil || claims.AuthTime == 0 { // a client's own, or an API token's
		return struct{}{}, s.accounts.store.withdraw(ctx, claims.ID, s.issuer.now())
	}
	return struct{}{}, s.accounts.store.end(r.acting(ctx), id, claims.Subject, "revoked", s.issuer.now())
}

// introspection is the answer of RFC 7662 §2.2.
type introspection struct {
	Active    bool           `json:"active"`
	Scope     string         `json:"scope,omitempty"`
	ClientID  string         `json:"client_id,omitempty"`
	TokenType string         `json:"token_type,omitempty"`
	Expiry    int64          `json:"exp,omitempty"`
	IssuedAt  int64          `json:"iat,omitempty"`
	Subject   string         `json:"sub,omitempty"`
	Audience  token.Audience `json:"aud,omitempty"`
	Issuer    string         `json:"iss,omitempty"`
	ID        string         `json:"jti,omitempty"`
	Session   string         `json:"sid,omitempty"`
}

// oauthIntrospect tells a client about a token that is for one of its
// audiences, or that it was given itself; of any other it learns nothing
// (RFC 7662 §4). Unlike offline verification it also asks whether the session
// still lives.
func (s *Server) oauthIntrospect(ctx context.Context, r *oauthRequest) (any, error) {
	if r.client == application {
		return nil, ErrClient
	}
	text := r.form["token"]
	if strings.HasPrefix(text, refreshPrefix) {
		return s.introspectRefresh(ctx, r.client, text)
	}
	if strings.HasPrefix(text, apiTokenPrefix) {
		return s.introspectAPIToken(ctx, text)
	}
	claims, err := s.issuer.read(text)
	if err != nil || claims.ClientID != r.client.ID && !slices.ContainsFunc(r.client.Audiences, claims.Audience.Has) {
		return introspection{}, nil //nolint:nilerr // not a token that this client may know of
	}
	if claims.Session != "" {
		id, err := uuid.Parse(claims.Session)
		if err != nil {
			return introspection{}, nil //nolint:nilerr // we don't write such
		}
		if claims.AuthTime == 0 {
			_, err = s.accounts.store.apiTokenByID(ctx, id, s.issuer.now())
		} else {
			_, err = s.accounts.store.userOfSession(ctx, id, s.issuer.now())
		}
		if errors.Is(err, ErrNoUser) || errors.Is(err, ErrAPIToken) {
			return introspection{}, nil
		}
		if err != nil {
			return nil, err
		}
	}
	if claims.AuthTime == 0 {
		if good, err := s.standsAlone(ctx, claims); err != nil || !good {
			return introspection{}, err
		}
	}
	return introspection{
		Active: true, Scope: claims.Scope.String(), ClientID: claims.ClientID, TokenType: "Bearer",
		Expiry: claims.Expiry, IssuedAt: claims.IssuedAt, Subject: claims.Subject, Audience: claims.Audience,
		Issuer: claims.Issuer, ID: claims.ID, Session: claims.Session,
	}, nil
}

// standsAlone says whether a token that belongs to no session is still good: it
// was not withdrawn, and its client is not disabled.
func (s *Server) standsAlone(ctx context.Context, claims *token.Claims) (bool, error) {
	withdrawn, err := s.accounts.store.withdrawn(ctx, claims.ID)
	if err != nil || withdrawn {
		return false, err
	}
	if claims.Subject != claims.ClientID {
		return true, nil
	}
	row, err := s.accounts.store.findClient(ctx, claims.ClientID)
	if errors.Is(err, ErrNoClient) {
		return false, nil
	}
	return err == nil && row.DisabledAt == nil, err
}

func (s *Server) introspectRefresh(ctx context.Context, client *Client, text string) (any, error) {
	row, err := s.sessionOf(ctx, client, text)
	if err == nil {
		shown, _ := parseRefreshToken(text) // sessionOf has
		_, err = row.judge(s.issuer.now(), shown, s.accounts.limits.Grace)
	}
	if errors.Is(err, ErrInvalidGrant) {
		return introspection{}, nil
	}
	if err != nil {
		return nil, err
	}
	return introspection{
		Active: true, ClientID: row.ClientID, Subject: row.UserID, Issuer: s.issuer.url,
		Audience: token.Audience{row.Audience}, Expiry: min(row.ExpiresAt, row.IdleExpiresAt) / 1000,
	}, nil
}

// introspectAPIToken tells whoever has an API token what it gives; it could be
// exchanged as well. There is no audience: it isn't for anybody but this server.
func (s *Server) introspectAPIToken(ctx context.Context, text string) (any, error) {
	row, scope, err := s.accounts.useAPIToken(ctx, text)
	if errors.Is(err, ErrAPIToken) {
		return introspection{}, nil
	}
	if err != nil {
		return nil, err
	}
	return introspection{
		Active: true, Scope: scope.String(), ClientID: application.ID, Subject: row.UserID, Issuer: s.issuer.url, ID: row.ID.String(),
		Expiry: row.ExpiresAt / 1000, IssuedAt: row.CreatedAt / 1000,
	}, nil
}

// writeOAuthError is the one place where errors become answers here.
func writeOAuthError(ctx context.Context, w http.ResponseWriter, err error) {
	limitStateOf(ctx).send()
	var e *oauthError
	var p *web.Problem
	var throttled *ThrottledError
	switch {
	case errors.As(err, &throttled):
		web.NoteCause(ctx, err)
		w.Header().Set("Retry-After", strconv.Itoa(seconds(throttled.After)))
		e = &oauthError{http.StatusTooManyRequests, "temporarily_unavailable", tooOften}
	case errors.As(err, &e):
	case errors.Is(err, ErrClient):
		web.NoteCause(ctx, err)
		w.Header().Set("WWW-Authenticate", `Basic realm="authn"`)
		e = &oauthError{http.StatusUnauthorized, "invalid_client", "The client could not be authenticated."}
	case errors.Is(err, ErrAPIToken): // RFC 8693 §2.2.2
		web.NoteCause(ctx, err)
		e = &oauthError{http.StatusBadRequest, "invalid_request", "The subject_token is not valid, or not any more."}
	case errors.Is(err, ErrInvalidGrant):
		web.NoteCause(ctx, err)
		e = &oauthError{http.StatusBadRequest, "invalid_grant", "The refresh token is not valid, or not any more."}
	case errors.As(err, &p): // what reading the body came to
		e = &oauthError{p.Status, "invalid_request", p.Error()}
	case errors.Is(err, keys.ErrStale), errors.Is(err, keys.ErrNotReady), errors.Is(err, errNoSigner), isUnavailable(err):
		web.NoteCause(ctx, err)
		w.Header().Set("Retry-After", "2")
		e = &oauthError{http.StatusServiceUnavailable, "temporarily_unavailable", "The server can't answer this just now. Try again later."}
	default:
		p = web.Internal(ctx, err)
		e = &oauthError{p.Status, "server_error", p.Error()}
	}
	writeOAuth(w, e.status, e)
}

func writeOAuth(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil { // strings and numbers of our own: it can't
		panic(err)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	h.Set("Cache-Control", "no-store") // RFC 6749 §5.1
	h.Set("Pragma", "no-cache")
	w.WriteHeader(status)
	_, _ = w.Write(text) // the client may have left; there is nobody to tell
}

// watchClients reads the registered audiences anew and forgets spent
// assertions, until ctx ends.
func (s *Server) watchClients(ctx context.Context) {
	reload, sweep := time.NewTicker(audienceReload), time.NewTicker(sweepEvery)
	defer reload.Stop()
	defer sweep.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-reload.C:
			err = s.issuer.audiences.reload(ctx)
		case <-sweep.C:
			err = s.clients.Sweep(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "clients and audiences could not be looked after", "cause", err.Error())
		}
	}
}
