package authserver

import (
	"context"
	"errors"
	"time"
)

// What users do with their own account: look at it, change it, delete it.
//
//	          DELETE /authn/me             the grace passes
//	account ───────────────────▶ deleted ─────────────────▶ erased by the sweep
//	   ▲                            │
//	   └────────────────────────────┘ POST /authn/restore
//
// A deleted account is disabled, with its sessions ended. Logging in doesn't
// bring it back by itself: a forgotten program would undo what its owner wants.

var (
	// ErrPassword says that the password that was given to confirm something
	// isn't the user's.
	ErrPassword = errors.New("authserver: the password is not the present one")

	// ErrDeleted says that the right password was given for an account that
	// its owner deleted, and that will be erased.
	ErrDeleted = errors.New("authserver: the account is deleted")
)

// DefaultDeletionGrace is for how long an account that its owner deleted can
// be brought back.
const DefaultDeletionGrace = 30 * 24 * time.Hour

type profileInput struct {
	Body struct {
		FirstName patch `json:"first_name,omitzero" required:"false" maxLength:"150"`
		LastName  patch `json:"last_name,omitzero" required:"false" maxLength:"150"`
		Company   patch `json:"company,omitzero" required:"false" maxLength:"150"`
		Language  patch `json:"language,omitzero" required:"false" maxLength:"35" doc:"Of mail to the user, such as es or en; null for the default"`
	} `contentType:"application/merge-patch+json"`
}

func (s *Server) me(ctx context.Context, _ *struct{}) (*userOutput, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	return &userOutput{Location: "/authn/me", CacheControl: "no-store", Body: c.user.user()}, nil
}

func (s *Server) changeProfile(ctx context.Context, in *profileInput) (*userOutput, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	b := in.Body
	u, err := s.accounts.changeProfile(ctx, c, b.FirstName, b.LastName, b.Company, b.Language)
	if err != nil {
		return nil, err
	}
	return &userOutput{Location: "/authn/me", CacheControl: "no-store", Body: u}, nil
}

type passwordInput struct {
	Body struct {
		Current string `json:"current_password" maxLength:"1024" doc:"The present password" example:"a long phrase of your own"`
		New     string `json:"new_password" maxLength:"1024" doc:"8 to 128 characters, not a common password, not like the user's other values" example:"another long phrase"`
	}
}

func (s *Server) changePassword(ctx context.Context, in *passwordInput) (*struct{}, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	return nil, s.accounts.changePassword(ctx, c, in.Body.Current, in.Body.New)
}

type deleteOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         struct {
		EraseAt time.Time `json:"erase_at" doc:"When the account is erased, unless it is restored"`
	}
}

type deleteInput struct {
	Body struct {
		Password string `json:"password" maxLength:"1024" doc:"The present password" example:"a long phrase of your own"`
		OTP      string `json:"otp,omitempty" maxLength:"64" doc:"Not needed: the login has shown the second factor. Checked if it is there" example:"123456"`
	}
}

func (s *Server) deleteMe(ctx context.Context, in *deleteInput) (*deleteOutput, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	out := &deleteOutput{CacheControl: "no-store"}
	out.Body.EraseAt, err = s.accounts.deleteOwn(ctx, c, in.Body.Password, in.Body.OTP)
	return out, err
}

type restoreInput struct {
	Body struct {
		Email    string `json:"email" maxLength:"254" example:"ana@example.es"`
		Password string `json:"password" maxLength:"1024" example:"a long phrase of your own"`
		OTP      string `json:"otp,omitempty" maxLength:"64" doc:"A code of the second factor, or a recovery code, if one is on" example:"123456"`
	}
}

func (s *Server) restore(ctx context.Context, in *restoreInput) (*struct{}, error) {
	return nil, s.accounts.restore(ctx, in.Body.Email, in.Body.Password, in.Body.OTP)
}

// Data is all that authn keeps about a user, but for what proves things to us:
// hashes of passwords and tokens.
type Data struct {
	ExportedAt time.Time     `json:"exported_at"`
	User       *User         `json:"user"`
	APITokens  []APIToken    `json:"api_tokens" nullable:"false"`
	Sessions   []SessionData `json:"sessions" nullable:"false" doc:"The newest 10,000, ended ones too until they are deleted"`
}

// SessionData is a session, living or not.
type SessionData struct {
	Session
	EndedAt     *time.Time `json:"ended_at" nullable:"true"`
	EndedReason *string    `json:"ended_reason" nullable:"true"`
}

type dataOutput struct {
	CacheControl string `header:"Cache-Control"`
	Disposition  string `header:"Content-Disposition"`
	Body         *Data
}

func (s *Server) data(ctx context.Context, _ *struct{}) (*dataOutput, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	d, err := s.accounts.data(ctx, c)
	return &dataOutput{CacheControl: "no-store", Disposition: `attachment; filename="account.json"`, Body: d}, err
}

// changeProfile changes what is set. The error joins a [*FieldError] for each
// value that won't do.
func (a *Accounts) changeProfile(ctx context.Context, c *caller, first, last, company, language patch) (*User, error) {
	var errs []error
	for _, f := range []struct {
		field string
		patch
	}{{"first_name", first}, {"last_name", last}, {"company", company}} {
		if reason := badText(f.Value); reason != "" {
			errs = append(errs, &FieldError{f.field, reason})
		}
	}
	if reason := badLanguage(language.Value); reason != "" {
		errs = append(errs, &FieldError{"language", reason})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	row, err := a.store.changeProfile(ctx, c.user.ID, first, last, company, language, a.now())
	if err != nil {
		return nil, err
	}
	return row.user(), nil
}

// confirmPassword checks the password with which a user confirms something, or
// returns [ErrPassword].
func (a *Accounts) confirmPassword(ctx context.Context, user *userRow, password string) error {
	only := *user
	only.SecondFactorAt = nil
	return a.confirm(ctx, &only, password, "")
}

// confirm checks the password, and the code of the second factor if one is on,
// or returns [ErrPassword], [ErrOTPRequired] or [ErrOTP]. It counts as a login does: an access token that was
// stolen is no place to guess from.
func (a *Accounts) confirm(ctx context.Context, user *userRow, password, code string) (err error) {
	defer func() { a.refusals.refused(ctx, actConfirmFailed, user.EmailKey, err) }()
	_, attempt, err := a.limit.try(ctx, user.EmailKey, peerOf(ctx))
	if err != nil {
		return err
	}
	ok, _, err := a.hasher.verify(ctx, user.PasswordHash, password)
	switch {
	case err != nil:
		return err
	case !ok:
		return a.limit.failed(ctx, attempt, ErrPassword)
	}
	if _, err := a.checkSecondFactor(ctx, user, code); errors.Is(err, ErrOTP) {
		return a.limit.failed(ctx, attempt, ErrOTP)
	} else if err != nil {
		return err
	}
	return a.limit.passed(ctx, attempt)
}

// changePassword gives the caller another password and ends the caller's
// other sessions. It returns [ErrPassword] or a [*FieldError].
func (a *Accounts) changePassword(ctx context.Context, c *caller, current, password string) error {
	if err := a.confirmPassword(ctx, c.user, current); err != nil {
		return err
	}
	hash, err := a.choose(ctx, "new_password", password, c.user)
	if err != nil {
		return err
	}
	err = a.store.replacePassword(ctx, c.user, hash, c.session, a.mail(mailPasswordChanged, c.user, "", ""), a.now())
	a.outbox.call()
	if errors.Is(err, ErrNoUser) {
		return ErrPassword // it was changed meanwhile
	}
	return err
}

// choose checks that a user may choose a password, and hashes it. The error
// is a [*FieldError] or [ErrBusy].
func (a *Accounts) choose(ctx context.Context, field, password string, user *userRow) (hash string, err error) {
	if err := a.allowed(field, password, user); err != nil {
		return "", err
	}
	return a.hasher.hash(ctx, password)
}

// deleteOwn deletes the caller's account, and says when it is erased. The
// route has made sure of the second factor: a code is checked if there is one.
func (a *Accounts) deleteOwn(ctx context.Context, c *caller, password, code string) (time.Time, error) {
	var err error
	if code == "" {
		err = a.confirmPassword(ctx, c.user, password)
	} else {
		err = a.confirm(ctx, c.user, password, code)
	}
	if err != nil {
		return time.Time{}, err
	}
	now := a.now()
	eraseAt := now.Add(a.options.DeletionGrace).UTC().Truncate(time.Millisecond)
	err = a.store.deleteUser(ctx, c.user, eraseAt, a.mail(mailDeleted, c.user, "", ""), now)
	a.outbox.call()
	if errors.Is(err, ErrNoUser) {
		err = ErrPassword // it was changed meanwhile
	}
	return eraseAt, err
}

// restore brings an account back that its owner deleted; one that isn't
// deleted stays as it is. It returns [ErrCredentials] as a login does.
func (a *Accounts) restore(ctx context.Context, email, password, code string) error {
	turn, err := a.hasher.enter(ctx)
	if err != nil {
		return err
	}
	defer turn.end()
	l, err := a.authenticate(ctx, turn, email, password, code, peerOf(ctx))
	if errors.Is(err, ErrDeleted) {
		err = a.store.restoreUser(ctx, l.user, a.now())
	}
	if errors.Is(err, ErrNoUser) {
		err = ErrCredentials // erased, or given another password, meanwhile
	}
	a.refusals.refused(ctx, actLoginFailed, foldEmail(email), err)
	return err
}

// data is what authn knows of the caller.
func (a *Accounts) data(ctx context.Context, c *caller) (*Data, error) {
	const limit = 10_000
	rows, err := a.store.allSessions(ctx, c.user.ID, limit)
	if err != nil {
		return nil, err
	}
	tokens, err := a.apiTokens(ctx, c.user.ID)
	if err != nil {
		return nil, err
	}
	d := &Data{ExportedAt: a.now().UTC().Truncate(time.Millisecond), User: c.user.user(), APITokens: tokens, Sessions: make([]SessionData, len(rows))}
	for i := range rows {
		d.Sessions[i] = SessionData{Session: rows[i].session(), EndedReason: rows[i].EndedReason}
		d.Sessions[i].Current = rows[i].ID == c.session
		if rows[i].EndedAt != nil {
			at := time.UnixMilli(*rows[i].EndedAt).UTC()
			d.Sessions[i].EndedAt = &at
		}
	}
	return d, nil
}
