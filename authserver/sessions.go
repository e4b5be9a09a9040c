package authserver

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/mileusna/useragent"

	"github.com/urbandata/urbandata/pkg/token"
)

// What users do with their own sessions. Every route here asks the database
// whether the session that the access token belongs to still lives: an access
// token alone outlives its session by up to its own life.

// ErrNoSession says that the user has no such live session.
var ErrNoSession = errors.New("authserver: no such session")

// Session is a live session as its user is shown it.
type Session struct {
	ID         string    `json:"id" format:"uuid" doc:"The sid of its access tokens"`
	Device     string    `json:"device" doc:"Browser or program and system, from the User-Agent; empty if it sent none" example:"Firefox on Linux"`
	UserAgent  string    `json:"user_agent" doc:"The User-Agent of its last login or refresh"`
	Network    string    `json:"network" doc:"Where it was last used from: an IPv4 address or an IPv6 /64" example:"192.0.2.7"`
	Audience   string    `json:"audience" doc:"Whom its access tokens are for" example:"inmuebles"`
	CreatedAt  time.Time `json:"created_at"`
	LastUsedAt time.Time `json:"last_used_at" doc:"Its login or last refresh"`
	ExpiresAt  time.Time `json:"expires_at" doc:"When it ends if it is used no more"`
	Current    bool      `json:"current" doc:"Whether the request was made with its access token"`
}

// device is a User-Agent in words: "Firefox on Linux", "curl".
func device(userAgent string) string {
	if userAgent == "" {
		return ""
	}
	ua := useragent.Parse(userAgent)
	name := ua.Name
	if name == "" || name == userAgent {
		name, _, _ = strings.Cut(userAgent, "/")
	}
	if ua.OS == "" || ua.OS == name {
		return name
	}
	return name + " on " + ua.OS
}

// caller is the user whose access token a request came with, and the live
// session that it belongs to.
type caller struct {
	user    *userRow
	session uuid.UUID
}

// caller returns [ErrNoUser] when the session has ended or the user is
// disabled, or errNoLogin when the token comes from no session.
func (s *Server) caller(ctx context.Context) (*caller, error) {
	claims, _ := ctx.Value(claimsKey{}).(*token.Claims)
	if claims.AuthTime == 0 {
		return nil, errNoLogin
	}
	session, err := uuid.Parse(claims.Session)
	if err != nil {
		return nil, errToken
	}
	user, err := s.accounts.store.userOfSession(ctx, session, s.issuer.now())
	if err != nil {
		return nil, err
	}
	return &caller{user, session}, nil
}

type sessionsInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many at most"`
	Before string `query:"before" format:"uuid" doc:"The id of the last one of the page before"`
}

type sessionsOutput struct {
	CacheControl string `header:"Cache-Control"`
	Link         string `header:"Link" doc:"rel=next leads to the next page (RFC 8288)"`
	Body         []Session
}

func (s *Server) listSessions(ctx context.Context, in *sessionsInput) (*sessionsOutput, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	return s.sessionsPage(ctx, c, "/authn/sessions", in)
}

// sessionsPage is a page of the sessions of a user, at a path.
func (s *Server) sessionsPage(ctx context.Context, c *caller, path string, in *sessionsInput) (*sessionsOutput, error) {
	sessions, more, err := s.accounts.sessions(ctx, c, in.Before, in.Limit)
	if err != nil {
		return nil, err
	}
	out := &sessionsOutput{CacheControl: "no-store", Body: sessions}
	if more {
		out.Link = nextLink(path, map[string]string{"before": sessions[len(sessions)-1].ID, "limit": strconv.Itoa(in.Limit)})
	}
	return out, nil
}

// nextLink leads to the next page, by the parameters that have a value.
func nextLink(path string, params map[string]string) string {
	query := url.Values{}
	for name, value := range params {
		if value != "" {
			query.Set(name, value)
		}
	}
	return "<" + path + "?" + query.Encode() + `>; rel="next"`
}

type sessionInput struct {
	ID uuid.UUID `path:"id" format:"uuid"`
}

func (s *Server) endSession(ctx context.Context, in *sessionInput) (*struct{}, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	return nil, s.accounts.endSession(ctx, c, in.ID)
}

func (s *Server) endOtherSessions(ctx context.Context, _ *struct{}) (*struct{}, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	return nil, s.accounts.store.endAll(ctx, c.user.ID, c.session, "ended by its user", s.issuer.now())
}

func (s *Server) endAllSessions(ctx context.Context, _ *struct{}) (*struct{}, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	return nil, s.accounts.store.endAll(ctx, c.user.ID, uuid.Nil, "ended by its user", s.issuer.now())
}

// sessions returns up to limit of the caller's live sessions, the newest
// first, from the one before on, and whether there are more.
func (a *Accounts) sessions(ctx context.Context, c *caller, before string, limit int) ([]Session, bool, error) {
	if before == "" {
		before = uuid.Max.String()
	}
	rows, err := a.store.listSessions(ctx, c.user.ID, before, limit+1, a.now())
	if err != nil {
		return nil, false, err
	}
	more := len(rows) > limit
	sessions := make([]Session, min(len(rows), limit))
	for i := range sessions {
		sessions[i] = rows[i].session()
		sessions[i].Current = rows[i].ID == c.session
	}
	return sessions, more, nil
}

// endSession ends one of the caller's live sessions, or returns
// [ErrNoSession]: another user's looks as if it weren't there.
func (a *Accounts) endSession(ctx context.Context, c *caller, id uuid.UUID) error {
	return a.store.endOwn(ctx, c.user.ID, id, "ended by its user", a.now())
}

func (r *sessionRow) session() Session {
	return Session{
		ID: r.ID.String(), Device: device(r.UserAgent), UserAgent: r.UserAgent, Network: r.Network, Audience: r.Audience,
		CreatedAt: time.UnixMilli(r.CreatedAt).UTC(), LastUsedAt: time.UnixMilli(r.RotatedAt).UTC(),
		ExpiresAt: time.UnixMilli(min(r.IdleExpiresAt, r.ExpiresAt)).UTC(),
	}
}
