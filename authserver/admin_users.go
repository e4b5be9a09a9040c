package authserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/web"
)

// What administrators do with users over HTTP, and operators on the command
// line, by the same methods of [Accounts]. Who does it is in the context, and
// the act is in the audit.

// ErrLastAdministrator says that nobody would be left who can manage users.
var ErrLastAdministrator = errors.New("authserver: it is the last administrator")

// registerAdmin is the route table of administrators, but for keys.
func (s *Server) registerAdmin() {
	route(s, http.MethodGet, "/admin/users", adminUsers, 200, s.listUsers, "Users, the newest first")
	route(s, http.MethodGet, "/admin/users/{id}", adminUsers, 200, s.getUser, "A user")
	route(s, http.MethodPatch, "/admin/users/{id}", adminUsers, 200, s.changeUser, "Give a user other roles, or disable or enable the account", recentLogin)
	route(s, http.MethodDelete, "/admin/users/{id}", adminUsers, 202, s.deleteUser, "Delete a user's account: it is erased after the grace period", recentLogin)
	route(s, http.MethodGet, "/admin/users/{id}/sessions", adminUsers, 200, s.listUserSessions, "A user's live sessions, the newest first")
	route(s, http.MethodDelete, "/admin/users/{id}/sessions", adminUsers, 204, s.endUserSessions, "End all sessions of a user")
	route(s, http.MethodDelete, "/admin/users/{id}/sessions/{sid}", adminUsers, 204, s.endUserSession, "End one session of a user")
	if s.accounts.outbox != nil {
		route(s, http.MethodPost, "/admin/users/{id}/password_reset", adminUsers, 202, s.sendReset, "Send a user a link to choose another password")
	}
	route(s, http.MethodGet, "/admin/clients", adminClients, 200, s.listClients, "Clients, by id")
	route(s, http.MethodPost, "/admin/clients", adminClients, 201, s.createClient, "Register a client; its secret is shown once", recentLogin)
	route(s, http.MethodGet, "/admin/clients/{id}", adminClients, 200, s.getClient, "A client")
	route(s, http.MethodPatch, "/admin/clients/{id}", adminClients, 200, s.changeClient, "Change a client, disable it or enable it", recentLogin)
	route(s, http.MethodDelete, "/admin/clients/{id}", adminClients, 204, s.removeClient, "Remove a client for ever")
	route(s, http.MethodPost, "/admin/clients/{id}/rotate_secret", adminClients, 200, s.rotateClientSecret, "Give a client a new secret, which is shown once; the one before goes on for a while", recentLogin)
	route(s, http.MethodGet, "/admin/audiences", adminClients, 200, s.listAudiences, "The registered audiences, by name")
	route(s, http.MethodPost, "/admin/audiences", adminClients, 201, s.createAudience, "Register an audience")
	route(s, http.MethodDelete, "/admin/audiences/{name}", adminClients, 204, s.removeAudience, "Forget an audience: it gets what an unknown one does")
	route(s, http.MethodGet, "/admin/audit", auditor, 200, s.readAudit, "Who did what to whom, from where and when; as NDJSON it can be verified")
	s.documentAudit()
}

// adminProblem are the answers to errors about what administrators manage, or
// nil.
func adminProblem(err error) *web.Problem {
	switch {
	case errors.Is(err, ErrLastAdministrator):
		return web.NewProblem(http.StatusConflict, "last_administrator",
			"This is the last administrator who can log in. Make another one first.")
	case errors.Is(err, ErrNoClient):
		return web.NewProblem(http.StatusNotFound, "no_such_client", "There is no such client, or it authenticates in another way.")
	case errors.Is(err, ErrNoAudience):
		return web.NewProblem(http.StatusNotFound, "no_such_audience", "No audience of this name is registered.")
	case errors.Is(err, ErrAudienceTaken):
		return web.NewProblem(http.StatusConflict, "audience_taken", "An audience of this name is registered already.",
			web.AtMember("/name", "is registered already"))
	}
	return nil
}

// aboutUser turns the errors of methods about another user, which are the
// caller's own elsewhere.
func aboutUser(err error) error {
	switch {
	case errors.Is(err, ErrNoUser):
		return web.NewProblem(http.StatusNotFound, "no_such_user", "There is no user with this id.")
	case errors.Is(err, ErrNoSession):
		return web.NewProblem(http.StatusNotFound, "not_found", "The user has no such session, or it has ended.")
	}
	return err
}

// AdminUser is a user as administrators see one.
type AdminUser struct {
	User
	UpdatedAt  time.Time  `json:"updated_at"`
	DisabledAt *time.Time `json:"disabled_at,omitempty"`
	DisabledBy string     `json:"disabled_by,omitempty" enum:"owner,operator" doc:"owner: who deleted the account, and can restore it until erase_at"`
}

func (u *userRow) adminUser() AdminUser {
	a := AdminUser{User: *u.user(), UpdatedAt: time.UnixMilli(u.UpdatedAt).UTC()}
	if u.DisabledAt != nil {
		at := time.UnixMilli(*u.DisabledAt).UTC()
		a.DisabledAt, a.DisabledBy = &at, byOperator
		if u.DisabledBy == byOwner {
			a.DisabledBy = byOwner
		}
	}
	return a
}

// UserFilter chooses users.
type UserFilter struct {
	Email  string     // what the address begins with, without regard to case; "" for any
	Role   token.Role // "" for any
	State  UserState  // "" for any
	Before string     // the id of the last of the page before; "" for the first page
	Limit  int
}

// UserChange is what is changed of a user; nil is left as it is.
type UserChange struct {
	Roles    []token.Role
	Disabled *bool
}

// Find returns the users that a filter chooses, the newest first.
func (a *Accounts) Find(ctx context.Context, f UserFilter) ([]AdminUser, error) {
	rows, err := a.store.findUsers(ctx, f)
	if err != nil {
		return nil, err
	}
	users := make([]AdminUser, len(rows))
	for i := range rows {
		users[i] = rows[i].adminUser()
	}
	return users, nil
}

// Get returns a user, or [ErrNoUser].
func (a *Accounts) Get(ctx context.Context, id string) (*AdminUser, error) {
	row, err := a.store.getUser(ctx, a.store.write, id, "")
	if err != nil {
		return nil, err
	}
	u := row.adminUser()
	return &u, nil
}

// Change gives a user other roles, and keeps the user from logging in or lets
// the user again, all or nothing. Who is disabled has no sessions left, and the
// revocations tell who follows them to refuse the access tokens that are out;
// of somebody else these have the roles of the moment they were issued until
// they expire. It returns the user as it is then, [ErrNoUser], a
// [*FieldError], or [ErrLastAdministrator], which an operator never gets.
func (a *Accounts) Change(ctx context.Context, id string, c UserChange) (*AdminUser, error) {
	ctx = operating(ctx)
	if c.Roles != nil && len(c.Roles) == 0 {
		return nil, &FieldError{"roles", "must name a role"}
	}
	for _, r := range c.Roles {
		if !r.Valid() {
			return nil, &FieldError{"roles", i18n.Textf("must be of %s", joinRoles(token.Roles(), ", "))}
		}
	}
	if c.Roles != nil { // a set
		set := []token.Role{}
		for _, r := range c.Roles {
			if !slices.Contains(set, r) {
				set = append(set, r)
			}
		}
		c.Roles = set
	}
	row, err := a.store.changeUser(ctx, id, c, a.now())
	if err != nil {
		return nil, err
	}
	u := row.adminUser()
	return &u, nil
}

// ChangeByEmail is Change for the user of an address.
func (a *Accounts) ChangeByEmail(ctx context.Context, email string, c UserChange) (*AdminUser, error) {
	u, err := a.store.findUser(ctx, foldEmail(email))
	if err != nil {
		return nil, err
	}
	return a.Change(ctx, u.ID, c)
}

// Delete deletes a user's account and says when it is erased. Until then it
// can be enabled again by [Accounts.Change], but not restored by its owner. It
// returns [ErrNoUser] or [ErrLastAdministrator].
func (a *Accounts) Delete(ctx context.Context, id string) (eraseAt time.Time, err error) {
	now := a.now()
	return a.store.deleteByAdministrator(operating(ctx), id, now.Add(a.options.DeletionGrace).UTC().Truncate(time.Millisecond), now)
}

// DeleteByEmail is Delete for the user of an address.
func (a *Accounts) DeleteByEmail(ctx context.Context, email string) (eraseAt time.Time, err error) {
	u, err := a.store.findUser(ctx, foldEmail(email))
	if err != nil {
		return time.Time{}, err
	}
	return a.Delete(ctx, u.ID)
}

// EndSessions ends all sessions of a user, or returns [ErrNoUser].
func (a *Accounts) EndSessions(ctx context.Context, id string) error {
	if _, err := a.store.getUser(ctx, a.store.write, id, ""); err != nil {
		return err
	}
	return a.store.endAll(operating(ctx), id, uuid.Nil, "ended by an administrator", a.now())
}

// sendReset has a link sent to a user to choose another password. It returns
// [ErrNoUser], also for one who is disabled: the link would give nothing.
func (a *Accounts) sendReset(ctx context.Context, id string) error {
	u, err := a.store.getUser(ctx, a.store.write, id, "")
	if err != nil {
		return err
	}
	if u.DisabledAt != nil {
		return web.NewProblem(http.StatusConflict, "user_disabled", "The user is disabled, and a link would give nothing.")
	}
	err = a.store.enqueueRecorded(ctx, a.mail(mailReset, u, "", ""), a.now(), act{what: actResetRequested, whom: userName(id)})
	a.outbox.call()
	return err
}

type usersInput struct {
	Email  string     `query:"email" minLength:"1" maxLength:"254" doc:"What the address begins with, without regard to case" example:"ana@"`
	Role   token.Role `query:"role" enum:"viewer,user,editor,admin"`
	State  UserState  `query:"state" enum:"enabled,disabled,deleted"`
	Limit  int        `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many at most"`
	Before string     `query:"before" format:"uuid" doc:"The id of the last one of the page before"`
}

type usersOutput struct {
	CacheControl string `header:"Cache-Control"`
	Link         string `header:"Link" doc:"rel=next leads to the next page (RFC 8288)"`
	Body         []AdminUser
}

func (s *Server) listUsers(ctx context.Context, in *usersInput) (*usersOutput, error) {
	if _, err := s.administrator(ctx); err != nil {
		return nil, err
	}
	users, err := s.accounts.Find(ctx, UserFilter{in.Email, in.Role, in.State, in.Before, in.Limit + 1})
	if err != nil {
		return nil, err
	}
	out := &usersOutput{CacheControl: "no-store", Body: users}
	if len(users) > in.Limit {
		out.Body = users[:in.Limit]
		out.Link = nextLink("/admin/users", map[string]string{
			"email": in.Email, "role": string(in.Role), "state": string(in.State),
			"before": out.Body[in.Limit-1].ID, "limit": fmt.Sprint(in.Limit),
		})
	}
	return out, nil
}

type userInput struct {
	ID uuid.UUID `path:"id" format:"uuid"`
}

type adminUserOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         *AdminUser
}

func (s *Server) getUser(ctx context.Context, in *userInput) (*adminUserOutput, error) {
	if _, err := s.administrator(ctx); err != nil {
		return nil, err
	}
	u, err := s.accounts.Get(ctx, in.ID.String())
	return &adminUserOutput{"no-store", u}, aboutUser(err)
}

type changeUserInput struct {
	ID   uuid.UUID `path:"id" format:"uuid"`
	Body struct {
		Roles    []token.Role `json:"roles,omitempty" enum:"viewer,user,editor,admin" minItems:"1" maxItems:"10" doc:"All that the user is to have"`
		Disabled *bool        `json:"disabled,omitempty" doc:"true ends the sessions, too; false brings back an account that is deleted"`
	} `contentType:"application/merge-patch+json"`
}

func (s *Server) changeUser(ctx context.Context, in *changeUserInput) (*adminUserOutput, error) {
	c, err := s.administrator(ctx)
	if err != nil {
		return nil, err
	}
	u, err := s.accounts.Change(c.acting(ctx), in.ID.String(), UserChange{in.Body.Roles, in.Body.Disabled})
	return &adminUserOutput{"no-store", u}, aboutUser(err)
}

func (s *Server) deleteUser(ctx context.Context, in *userInput) (*deleteOutput, error) {
	c, err := s.administrator(ctx)
	if err != nil {
		return nil, err
	}
	out := &deleteOutput{CacheControl: "no-store"}
	out.Body.EraseAt, err = s.accounts.Delete(c.acting(ctx), in.ID.String())
	return out, aboutUser(err)
}

type userSessionsInput struct {
	ID     uuid.UUID `path:"id" format:"uuid"`
	Limit  int       `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many at most"`
	Before string    `query:"before" format:"uuid" doc:"The id of the last one of the page before"`
}

func (s *Server) listUserSessions(ctx context.Context, in *userSessionsInput) (*sessionsOutput, error) {
	c, err := s.administrator(ctx)
	if err != nil {
		return nil, err
	}
	user, err := s.accounts.store.getUser(ctx, s.accounts.store.write, in.ID.String(), "")
	if err != nil {
		return nil, aboutUser(err)
	}
	return s.sessionsPage(ctx, &caller{user, c.session}, "/admin/users/"+user.ID+"/sessions", &sessionsInput{in.Limit, in.Before})
}

func (s *Server) endUserSessions(ctx context.Context, in *userInput) (*struct{}, error) {
	c, err := s.administrator(ctx)
	if err != nil {
		return nil, err
	}
	return nil, aboutUser(s.accounts.EndSessions(c.acting(ctx), in.ID.String()))
}

type userSessionInput struct {
	ID      uuid.UUID `path:"id" format:"uuid"`
	Session uuid.UUID `path:"sid" format:"uuid"`
}

func (s *Server) endUserSession(ctx context.Context, in *userSessionInput) (*struct{}, error) {
	c, err := s.administrator(ctx)
	if err != nil {
		return nil, err
	}
	return nil, aboutUser(s.accounts.store.endOwn(c.acting(ctx), in.ID.String(), in.Session, "ended by an administrator", s.issuer.now()))
}

func (s *Server) sendReset(ctx context.Context, in *userInput) (*struct{}, error) {
	c, err := s.administrator(ctx)
	if err != nil {
		return nil, err
	}
	return nil, aboutUser(s.accounts.sendReset(c.acting(ctx), in.ID.String()))
}
