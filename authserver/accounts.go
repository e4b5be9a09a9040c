package authserver

import (
	"context"
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"golang.org/x/text/unicode/norm"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/web"
)

// ErrCredentials says that no enabled user has this address and password. It
// doesn't say which of the three it was, and each costs the same.
var ErrCredentials = errors.New("authserver: wrong e-mail address or password")

// User is a user as the API and the command line show one.
type User struct {
	ID        string       `json:"id" format:"uuid" doc:"UUIDv7; the sub of the user's tokens"`
	Email     string       `json:"email" format:"email"`
	Verified  bool         `json:"email_verified" doc:"Whether somebody has shown to read the address's mail"`
	FirstName string       `json:"first_name"`
	LastName  string       `json:"last_name"`
	Company   string       `json:"company"`
	Roles     []token.Role `json:"roles" nullable:"false"`
	Factor    bool         `json:"second_factor" doc:"Whether a login needs a code besides the password"`
	Language  string       `json:"language" doc:"Of mail to the user, such as es or en; empty for the default"`
	CreatedAt time.Time    `json:"created_at"`
	Disabled  bool         `json:"disabled"`
	EraseAt   *time.Time   `json:"erase_at,omitempty" doc:"When the account is erased, if its owner deleted it"`
}

// NewUser is what a user is made from.
type NewUser struct {
	Email, Password, FirstName, LastName, Company string
	Language                                      string       // of mail: es, en or another that there is, or "" for the default
	Roles                                         []token.Role // none means [token.RoleUser]
}

// FieldError says what is wrong with one value of a [NewUser].
type FieldError struct {
	Field  string    // email, password, first_name, last_name, company or roles
	Reason i18n.Text // "must …" or "is …"
}

// Error names the field and the reason, never the value.
func (e *FieldError) Error() string { return e.Field + " " + e.Reason.String() }

const maxName = 150 // code points

// Accounts is what can be done with users and their sessions, by HTTP or from
// the command line. It is safe for concurrent use.
type Accounts struct {
	store   *Store
	hasher  *hasher
	now     func() time.Time
	options AccountsOptions
	limits  SessionLimits
	outbox  *outbox // nil if no mail is sent
	limit   *throttle

	refusals *refusals // that are to be in the audit
}

// AccountsOptions are how accounts behave. The zero value has every default.
type AccountsOptions struct {
	Sessions      SessionLimits    // [DefaultSessionLimits] if zero
	DeletionGrace time.Duration    // [DefaultDeletionGrace] if zero
	Mail          MailOptions      // no mail if there is no Mailer
	Breached      *BreachedList    // passwords that may not be chosen; none if nil
	Limits        *Limits          // [DefaultLimits] if nil
	Sealer        keys.Sealer      // of second factors; nobody can have one if nil
	AuditOrigins  time.Duration    // for how long the audit keeps networks and devices; [DefaultAuditOrigins] if zero
	Now           func() time.Time // the clock, time.Now if nil
}

// SessionLimits says how long a session lasts.
type SessionLimits struct {
	Grace    time.Duration // how long a superseded refresh token is still answered
	Idle     time.Duration // a session ends when it isn't refreshed for this long
	Lifetime time.Duration // a session ends at this age
}

// DefaultSessionLimits forgive a lost answer for ten seconds and end a session
// after a week without a sign of life or after ninety days.
func DefaultSessionLimits() SessionLimits {
	return SessionLimits{Grace: 10 * time.Second, Idle: 7 * 24 * time.Hour, Lifetime: 90 * 24 * time.Hour}
}

// NewAccounts works on a store.
func NewAccounts(store *Store, o AccountsOptions) *Accounts {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Sessions == (SessionLimits{}) {
		o.Sessions = DefaultSessionLimits()
	}
	if o.DeletionGrace == 0 {
		o.DeletionGrace = DefaultDeletionGrace
	}
	if o.AuditOrigins == 0 {
		o.AuditOrigins = DefaultAuditOrigins
	}
	if o.Limits == nil {
		limits := DefaultLimits()
		o.Limits = &limits
	}
	return &Accounts{
		limit: newThrottle(store, *o.Limits, o.Now), refusals: newRefusals(store, o.Now),
		store: store, hasher: newHasher(), now: o.Now, options: o, limits: o.Sessions,
		outbox: newOutbox(store, o.Mail, o.Now),
	}
}

// Create stores a user whose address the operator vouches for. The error joins
// a [*FieldError] for each value that won't do, or is [ErrEmailTaken],
// [ErrBusy], or a failure of the database.
func (a *Accounts) Create(ctx context.Context, n NewUser) (*User, error) {
	ctx = operating(ctx)
	row, err := a.newUser(n)
	if err != nil {
		return nil, err
	}
	row.EmailVerifiedAt = &row.CreatedAt
	turn, err := a.hasher.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer turn.end()
	return a.create(ctx, turn, row, n.Password, nil)
}

// register stores a user who came by HTTP. The errors are those of
// [Accounts.Create].
func (a *Accounts) register(ctx context.Context, n NewUser) (*User, error) {
	row, err := a.newUser(n)
	if err != nil {
		return nil, err
	}
	turn, err := a.hasher.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer turn.end()
	if err := a.limit.register(ctx); err != nil {
		return nil, err
	}
	var welcome *outboxRow
	if a.options.Mail.Verify == VerifyWarn {
		welcome = a.mail(mailVerify, row, "", "")
	}
	defer a.outbox.call()
	return a.create(ctx, turn, row, n.Password, welcome)
}

// registerSilently stores a user whose address has to be verified. One that is
// taken gets mail instead, and no error says so: for both the hash is computed
// and the same statements run.
func (a *Accounts) registerSilently(ctx context.Context, n NewUser) error {
	row, err := a.newUser(n)
	if err != nil {
		return err
	}
	turn, err := a.hasher.enter(ctx)
	if err != nil {
		return err
	}
	defer turn.end()
	if err := a.limit.register(ctx); err != nil {
		return err
	}
	if row.PasswordHash, err = turn.hash(ctx, n.Password); err != nil {
		return err
	}
	defer a.outbox.call()
	return a.store.insertOrTell(ctx, row, a.mail(mailVerify, row, "", ""), a.mail(mailKnown, nil, row.EmailKey, n.Language))
}

// newRow checks a new user's values but for the password, and is what is
// stored but for its hash. The error joins [*FieldError]s.
func (a *Accounts) newRow(n NewUser) (*userRow, error) {
	email, key, err := parseEmail(n.Email)
	errs := []error{err}
	for _, f := range []struct{ field, value string }{
		{"first_name", n.FirstName}, {"last_name", n.LastName}, {"company", n.Company},
	} {
		if reason := badText(f.value); reason != "" {
			errs = append(errs, &FieldError{f.field, reason})
		}
	}
	if len(n.Roles) == 0 {
		n.Roles = []token.Role{token.RoleUser}
	}
	for _, r := range n.Roles {
		if !r.Valid() {
			errs = append(errs, &FieldError{"roles", i18n.Textf("must be of %s", joinRoles(token.Roles(), ", "))})
		}
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("make a user id: %w", err)
	}
	now := a.now().UnixMilli()
	return &userRow{
		ID: id.String(), Email: email, EmailKey: key,
		FirstName: n.FirstName, LastName: n.LastName, Company: n.Company,
		Language: n.Language, Roles: joinRoles(n.Roles, " "), CreatedAt: now, UpdatedAt: now,
	}, errors.Join(errs...)
}

// newUser is newRow with a check of the password.
func (a *Accounts) newUser(n NewUser) (*userRow, error) {
	row, err := a.newRow(n)
	if row == nil {
		return nil, err
	}
	like := *row
	like.Email = n.Email // also where it isn't valid
	return row, errors.Join(err, a.allowed("password", n.Password, &like))
}

// create hashes the password and stores a user, with mail if there is some.
func (a *Accounts) create(ctx context.Context, turn *turn, row *userRow, password string, welcome *outboxRow) (*User, error) {
	// Ask before hashing: a taken address shouldn't cost 20 ms of a core. The
	// unique column decides when two ask at once.
	if _, err := a.store.findUser(ctx, row.EmailKey); err == nil {
		a.refusals.count(ctx, actRegisterRefused, "email_taken", row.EmailKey)
		return nil, ErrEmailTaken
	} else if !errors.Is(err, ErrNoUser) {
		return nil, err
	}
	var err error
	if row.PasswordHash, err = turn.hash(ctx, password); err != nil {
		return nil, err
	}
	if err := a.store.insertUser(ctx, row, welcome); err != nil {
		return nil, err
	}
	return row.user(), nil
}

// allowed checks that a user may choose a password. The error is a
// [*FieldError], or that of the list of breached passwords.
func (a *Accounts) allowed(field, password string, user *userRow) error {
	reason := weakness(password, user.Email, user.FirstName, user.LastName, user.FirstName+user.LastName, user.Company)
	if reason != "" {
		return &FieldError{field, reason}
	}
	breached, err := a.options.Breached.has(password)
	if breached {
		return &FieldError{field, "is known to attackers from a data breach"}
	}
	return err
}

// List returns up to limit users in the order of their addresses, after the
// given one ("" for the first page).
func (a *Accounts) List(ctx context.Context, after string, limit int) ([]User, error) {
	rows, err := a.store.listUsers(ctx, foldEmail(after), limit)
	if err != nil {
		return nil, err
	}
	users := make([]User, len(rows))
	for i := range rows {
		users[i] = *rows[i].user()
	}
	return users, nil
}

// SetPassword gives a user another password, enables the account again if it
// was disabled or deleted, and ends the user's sessions. Errors are those of
// [Accounts.Create], and [ErrNoUser].
func (a *Accounts) SetPassword(ctx context.Context, email, password string) error {
	ctx = operating(ctx)
	user, err := a.store.findUser(ctx, foldEmail(email))
	if err != nil {
		return err
	}
	hash, err := a.choose(ctx, "password", password, user)
	if err != nil {
		return err
	}
	return a.store.setPassword(ctx, user.EmailKey, hash, a.now())
}

// Disable is [Accounts.Change] for the user of an address, whom it disables.
func (a *Accounts) Disable(ctx context.Context, email string) error {
	disabled := true
	_, err := a.ChangeByEmail(ctx, email, UserChange{Disabled: &disabled})
	return err
}

// grant is a session with its current refresh token: all that is needed to
// make an access token.
type grant struct {
	SessionID uuid.UUID
	UserID    string
	ClientID  string
	Audience  string
	Roles     []token.Role
	Refresh   refreshToken

	AuthTime   time.Time // of the login
	AMR        string    // how it was made: RFC 8176, with spaces between
	Unverified bool      // and this server asks for a verified address

	// Scope is what a client may do in its own name, or who has an API token;
	// for a user, what it was asked to be narrowed to, or nil.
	Scope token.Scope

	APIToken bool      // SessionID is an API token's: nobody has logged in
	Until    time.Time // when the access token must have expired, unless zero
}

// authenticate returns the user who has this address and password, or
// [ErrCredentials]. An unknown address, a wrong password and a disabled user
// are one error at one cost: a hash is computed for each. Only the right
// password gets [ErrOTPRequired], [ErrOTP] or [ErrDeleted], and with the last
// comes the user too.
//
// Users who were imported have hashes of other costs. For an address that
// nobody has, what the next user has is computed (after the last comes the
// first): each address has one cost, and unknown ones have the same costs, as
// often, as known ones.
func (a *Accounts) authenticate(ctx context.Context, turn *turn, email, password, code string, from peer) (*login, error) {
	key := foldEmail(email)
	user, attempt, err := a.limit.try(ctx, key, from)
	if err != nil {
		return nil, err
	}
	ok, outdated, err := turn.verify(ctx, user.PasswordHash, password)
	deleted := user.DisabledBy == byOwner && user.EraseAt != nil && *user.EraseAt > a.now().UnixMilli()
	switch {
	case err != nil:
		return nil, err
	case !ok || user.EmailKey != key || user.DisabledAt != nil && !deleted:
		return nil, a.limit.failed(ctx, attempt, ErrCredentials)
	}
	l := &login{user: user, outdated: outdated}
	if l.amr, err = a.checkSecondFactor(ctx, user, code); errors.Is(err, ErrOTP) {
		return nil, a.limit.failed(ctx, attempt, ErrOTP)
	}
	if err != nil {
		return nil, err
	}
	if err := a.limit.passed(ctx, attempt); err != nil {
		return nil, err
	}
	if deleted {
		return l, ErrDeleted
	}
	return l, nil
}

// login is a user who has shown who it is.
type login struct {
	user     *userRow
	outdated bool   // whether the password is to be stored anew
	amr      string // how it was shown
}

// login starts a session, or returns what [Accounts.authenticate] does, or
// [ErrUnverified], or [ErrUnmet] where the login isn't of one of the acr values,
// or [ErrBusy], before a statement has run.
func (a *Accounts) login(ctx context.Context, email, password, code, clientID, audience string, acr []string, from peer) (*grant, error) {
	turn, err := a.hasher.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer turn.end()
	g, err := a.tryLogin(ctx, turn, email, password, code, clientID, audience, acr, from)
	if errors.Is(err, ErrNoUser) {
		// The user was disabled or given another password meanwhile, or the
		// same one stored anew by another login: look again.
		g, err = a.tryLogin(ctx, turn, email, password, code, clientID, audience, acr, from)
	}
	if errors.Is(err, ErrNoUser) {
		err = ErrCredentials
	}
	a.refusals.refused(ctx, actLoginFailed, foldEmail(email), err)
	return g, err
}

func (a *Accounts) tryLogin(ctx context.Context, turn *turn, email, password, code, clientID, audience string, acr []string, from peer) (*grant, error) {
	l, err := a.authenticate(ctx, turn, email, password, code, from)
	if err != nil {
		return nil, err
	}
	if !meets(assurance(l.amr), acr) {
		return nil, ErrUnmet
	}
	user := l.user
	unverified := user.EmailVerifiedAt == nil && a.outbox != nil && a.outbox.Verify != VerifyOff
	if unverified && a.outbox.Verify == VerifyRequired {
		var throttled *ThrottledError
		if err := a.requestVerification(ctx, user); err != nil && !errors.As(err, &throttled) {
			return nil, err
		}
		return nil, ErrUnverified
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("make a session id: %w", err)
	}
	refresh, markKey := newFamily(id)
	now := a.now()
	err = a.store.startSession(ctx, &newSession{
		ID: id, UserID: user.ID, ClientID: clientID, Audience: audience,
		MarkKey: markKey, CurrentHash: refresh.hash(),
		CreatedAt: now, IdleExpiresAt: now.Add(a.limits.Idle), ExpiresAt: now.Add(a.limits.Lifetime),
		Peer: from, AMR: l.amr,
	}, user.PasswordHash)
	if err != nil {
		return nil, err
	}
	if l.outdated {
		a.rehash(ctx, turn, user, password)
	}
	return &grant{
		SessionID: id, UserID: user.ID, ClientID: clientID, Audience: audience,
		Roles: parseRoles(user.Roles), Refresh: refresh, AuthTime: now, AMR: l.amr, Unverified: unverified,
	}, nil
}

// rehash stores the password that was just checked in today's form. If that
// can't be done, the next login does it.
func (a *Accounts) rehash(ctx context.Context, turn *turn, user *userRow, password string) {
	hash, err := turn.hash(ctx, password)
	if err == nil {
		err = a.store.rehash(ctx, user, hash)
	}
	if err != nil {
		web.NoteCause(ctx, fmt.Errorf("store a password anew: %w", err))
	}
}

// refresh rotates a refresh token, or returns an error that wraps
// [ErrInvalidGrant]. In the usual case it is one statement, which is repeated
// after a deadlock, a serialisation failure or a broken connection.
func (a *Accounts) refresh(ctx context.Context, text string, from peer) (*grant, error) {
	if err := a.limit.token(ctx); err != nil {
		return nil, err
	}
	g, err := a.rotate(ctx, text, from)
	if errors.Is(err, ErrInvalidGrant) {
		err = a.limit.badToken(ctx, err)
	}
	return g, err
}

func (a *Accounts) rotate(ctx context.Context, text string, from peer) (*grant, error) {
	shown, err := parseRefreshToken(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidGrant, err)
	}
	now := a.now()
	nonce := newNonce() // one for all tries: a try that did take place is found again
	next := shown.next(nonce)
	row, err := a.store.rotateSession(ctx, now, shown, next, nonce, a.limits.Grace, a.limits.Idle, from)
	if err != nil {
		return nil, err
	}
	if row != nil {
		return row.grant(next.marked(row.MarkKey)), nil
	}

	row, err = a.store.loadSession(ctx, shown.session)
	if err != nil {
		return nil, err
	}
	current, err := row.judge(now, shown, a.limits.Grace)
	if errors.Is(err, ErrReused) {
		if endErr := a.store.end(ctx, shown.session, row.UserID, reasonReused, now); endErr != nil {
			return nil, endErr
		}
	}
	if err != nil {
		return nil, err
	}
	return row.grant(current), nil
}

func (s *session) grant(refresh refreshToken) *grant {
	return &grant{
		SessionID: refresh.session, UserID: s.UserID, ClientID: s.ClientID, Audience: s.Audience,
		Roles: parseRoles(s.Roles), Refresh: refresh, AuthTime: time.UnixMilli(s.CreatedAt), AMR: s.AMR,
	}
}

// signOut ends the session of a refresh token. A token that isn't genuine
// ends nothing and returns [ErrInvalidGrant]; a genuine one, however old,
// does.
func (a *Accounts) signOut(ctx context.Context, text string) error {
	shown, err := parseRefreshToken(text)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidGrant, err)
	}
	row, err := a.store.loadSession(ctx, shown.session)
	if err != nil {
		return err
	}
	if !shown.genuine(row.MarkKey) {
		return ErrInvalidGrant
	}
	return a.store.end(ctx, shown.session, row.UserID, "signed out", a.now())
}

// Sweep deletes sessions that expired a month ago, expired links and counts, and accounts whose owners
// deleted them, in small batches with rests between, until ctx ends or none is
// left. It is cheap and may run on every replica.
func (a *Accounts) Sweep(ctx context.Context) error {
	const batch, keep = 1000, 30 * 24 * time.Hour
	now := a.now()
	a.limit.sweep()
	return errors.Join(
		a.reseal(ctx),
		untilFew(ctx, batch, func() (int64, error) { return a.store.sweep(ctx, now.Add(-keep), batch) }),
		untilFew(ctx, batch, func() (int64, error) { return a.store.expireCounts(ctx, now, batch) }),
		untilFew(ctx, batch, func() (int64, error) { return a.store.expireLinks(ctx, now, batch) }),
		untilFew(ctx, batch, func() (int64, error) { return a.store.expireAPITokens(ctx, now, batch) }),
		untilFew(ctx, batch/10, func() (int64, error) { return a.store.eraseUsers(ctx, now, batch/10) }),
		untilFew(ctx, batch, func() (int64, error) { return a.store.forgetOrigins(ctx, now.Add(-a.options.AuditOrigins), batch) }),
	)
}

// restFor is how many times as long as a batch took nothing is deleted after
// it: whoever logs in meanwhile finds the database idle but for a tenth of the
// time.
const restFor = 9

// untilFew repeats f until it deletes less than a whole batch, and rests
// between.
func untilFew(ctx context.Context, batch int64, f func() (int64, error)) error {
	for {
		began := time.Now()
		if n, err := f(); err != nil || n < batch {
			return err
		}
		select {
		case <-time.After(restFor * time.Since(began)):
		case <-ctx.Done():
			return ctx.Err() //nolint:wrapcheck // it is the caller's
		}
	}
}

func (u *userRow) user() *User {
	user := &User{
		ID: u.ID, Email: u.Email, Verified: u.EmailVerifiedAt != nil, Factor: u.SecondFactorAt != nil, FirstName: u.FirstName, LastName: u.LastName, Company: u.Company, Language: u.Language,
		Roles: parseRoles(u.Roles), CreatedAt: time.UnixMilli(u.CreatedAt).UTC(), Disabled: u.DisabledAt != nil,
	}
	if u.EraseAt != nil {
		at := time.UnixMilli(*u.EraseAt).UTC()
		user.EraseAt = &at
	}
	return user
}

func parseRoles(s string) []token.Role {
	roles := []token.Role{}
	for _, name := range strings.Fields(s) {
		roles = append(roles, token.Role(name))
	}
	return roles
}

func joinRoles(roles []token.Role, sep string) string {
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = string(r)
	}
	return strings.Join(names, sep)
}

// maxEmail is the longest address that mail can carry (RFC 5321 §4.5.3.1.3).
const maxEmail = 254

// parseEmail returns an address as it is kept and as it is compared. The error
// is a [*FieldError].
func parseEmail(s string) (email, key string, err error) {
	email = norm.NFC.String(s)
	parsed, parseErr := mail.ParseAddress(email)
	local, domain, _ := strings.Cut(email, "@")
	switch {
	case len(email) > maxEmail:
		return "", "", &FieldError{"email", "must have at most 254 bytes"}
	case !utf8.ValidString(s), parseErr != nil, parsed.Name != "", parsed.Address != email, // "A <a@b>", "(c)a@b", quoted
		local == "", len(local) > 64, strings.ContainsAny(email, "\"\\()<>[],;: "),
		strings.HasPrefix(domain, "."), strings.HasSuffix(domain, "."), strings.Contains(domain, ".."),
		strings.ContainsFunc(email, unicode.IsControl):
		return "", "", &FieldError{"email", "must be an e-mail address, name@domain"}
	}
	return email, foldEmail(email), nil
}

// foldEmail is the form in which addresses are compared: without regard to
// case or to how a character was put together. NUL, which no address has and
// PostgreSQL can't store, becomes a character that no address has either.
func foldEmail(s string) string {
	return strings.ReplaceAll(strings.ToLower(norm.NFKC.String(s)), "\x00", "\ufffd")
}

// badText says what is wrong with a line of text for people, or "".
func badText(s string) i18n.Text {
	if utf8.RuneCountInString(s) > maxName {
		return "must have at most 150 characters"
	}
	if !utf8.ValidString(s) {
		return "must be valid Unicode"
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return "must not have control characters"
		}
	}
	return ""
}
