package authserver

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/urbandata/urbandata/pkg/web"
)

// What needs that a user reads mail: resetting a password, verifying an
// address, changing it. Each is a request, which is answered the same whoever
// exists, and the use of the link that came by mail. A server that sends no
// mail doesn't have these routes.

// ErrLink says that a link gives nothing: it is made up, has expired, was
// used, or its user is disabled or has another address by now.
var ErrLink = errors.New("authserver: the link is not valid")

// ErrUnverified says that the right password was given, but nobody has shown
// to read the address's mail. Another mail is on its way.
var ErrUnverified = errors.New("authserver: the e-mail address is not verified")

// link is the secret of a link in a mail: 256 random bits.
type link [32]byte

const linkPrefix = "udl_" // lets secret scanners find a leaked one

func newLink() (l link) {
	_, _ = rand.Read(l[:]) // never fails
	return l
}

// parseLink takes the text of a link's token apart, or returns [ErrLink].
func parseLink(text string) (l link, err error) {
	body, ok := strings.CutPrefix(text, linkPrefix)
	if !ok || len(body) != base64.RawURLEncoding.EncodedLen(len(l)) {
		return l, ErrLink
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil {
		return l, ErrLink
	}
	copy(l[:], raw)
	return l, nil
}

func (l link) String() string { return linkPrefix + base64.RawURLEncoding.EncodeToString(l[:]) }

// hash is what the database keeps of it.
func (l link) hash() []byte {
	sum := sha256.Sum256(l[:])
	return sum[:]
}

type resetInput struct {
	AcceptLanguage string `header:"Accept-Language" doc:"Of the mail, where the user has set none"`
	Body           struct {
		Email string `json:"email" format:"email" maxLength:"254" example:"ana@example.es"`
	}
}

func (s *Server) requestReset(ctx context.Context, in *resetInput) (*struct{}, error) {
	return nil, s.accounts.requestReset(ctx, in.Body.Email, chooseLanguage(in.AcceptLanguage))
}

type confirmResetInput struct {
	Body struct {
		Token    string `json:"token" maxLength:"256" doc:"What follows #token= in the link" example:"udl_…"`
		Password string `json:"new_password" maxLength:"1024" doc:"8 to 128 characters, not a common password, not like the user's other values" example:"another long phrase"`
	}
}

func (s *Server) confirmReset(ctx context.Context, in *confirmResetInput) (*struct{}, error) {
	return nil, s.accounts.confirmReset(ctx, in.Body.Token, in.Body.Password)
}

type confirmEmailInput struct {
	Body struct {
		Token string `json:"token" maxLength:"256" doc:"What follows #token= in the link" example:"udl_…"`
	}
}

func (s *Server) confirmEmail(ctx context.Context, in *confirmEmailInput) (*struct{}, error) {
	return nil, s.accounts.confirmEmail(ctx, in.Body.Token)
}

func (s *Server) requestVerification(ctx context.Context, _ *struct{}) (*struct{}, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	return nil, s.accounts.requestVerification(ctx, c.user)
}

type emailInput struct {
	Body struct {
		Email    string `json:"email" format:"email" maxLength:"254" doc:"The new address" example:"ana@example.es"`
		Password string `json:"password" maxLength:"1024" doc:"The present password" example:"a long phrase of your own"`
	}
}

func (s *Server) requestEmail(ctx context.Context, in *emailInput) (*struct{}, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	return nil, s.accounts.requestEmail(ctx, c, in.Body.Email, in.Body.Password)
}

// requestReset has a link for another password sent, if somebody has the
// address. Whether, it doesn't ask: one row is stored in any case.
func (a *Accounts) requestReset(ctx context.Context, email, language string) error {
	_, key, err := parseEmail(email)
	if err != nil {
		return err
	}
	if err := a.limit.reset(ctx, key); err != nil {
		return err
	}
	// Whose the address is, isn't known yet, as with what was refused.
	a.refusals.count(ctx, actResetRequested, "", key)
	return a.send(ctx, a.mail(mailReset, nil, key, language))
}

// requestVerification has a link sent that verifies a user's address.
func (a *Accounts) requestVerification(ctx context.Context, user *userRow) error {
	if user.EmailVerifiedAt != nil {
		return nil
	}
	if err := a.limit.reset(ctx, user.ID); err != nil {
		return err
	}
	return a.send(ctx, a.mail(mailVerify, user, "", ""))
}

// requestEmail has a link sent to an address that the caller wants to have.
// It returns [ErrPassword] or a [*FieldError]. An address that somebody else
// has is treated as any other here: its owner is told.
func (a *Accounts) requestEmail(ctx context.Context, c *caller, address, password string) error {
	email, _, err := parseEmail(address)
	if err != nil {
		return err
	}
	if err := a.confirmPassword(ctx, c.user, password); err != nil {
		return err
	}
	if err := a.limit.reset(ctx, c.user.ID); err != nil {
		return err
	}
	err = a.store.enqueueRecorded(ctx, a.mail(mailChange, c.user, email, ""), a.now(), act{what: actEmailRequested, whom: userName(c.user.ID)})
	a.outbox.call()
	return err
}

// send puts mail into the outbox, outside a transaction.
func (a *Accounts) send(ctx context.Context, row *outboxRow) error {
	err := a.store.enqueue(ctx, row)
	a.outbox.call()
	return err
}

// linkPatience is how long one who uses a link keeps others from using it
// before it is done: longer than a password waits to be hashed.
const linkPatience = 30 * time.Second

// confirmReset uses a link to choose another password; all sessions end. It
// returns [ErrLink], or a [*FieldError], after which the link still works.
//
// One of those who use a link at once claims it before the hash is computed:
// a link costs one hash, not one for each try.
func (a *Accounts) confirmReset(ctx context.Context, text, password string) error {
	l, err := a.findLink(ctx, text, mailReset)
	if err != nil {
		return err
	}
	if err := a.allowed("new_password", password, &l.userRow); err != nil {
		return err
	}
	if err := a.store.claimLink(ctx, l.Hash, a.now(), linkPatience); err != nil {
		return err
	}
	hash, err := a.hasher.hash(ctx, password)
	if err == nil {
		err = a.store.resetPassword(ctx, l, hash, a.mail(mailPasswordChanged, &l.userRow, "", ""), a.now())
	}
	if err != nil && !errors.Is(err, ErrLink) {
		return errors.Join(err, a.store.releaseLink(context.WithoutCancel(ctx), l.Hash))
	}
	a.outbox.call()
	if err == nil {
		err = a.limit.forget(ctx, l.EmailKey)
	}
	return err
}

// confirmEmail uses a link that verifies an address or changes it. It returns
// [ErrLink] or [ErrEmailTaken].
func (a *Accounts) confirmEmail(ctx context.Context, text string) error {
	l, err := a.findLink(ctx, text, mailVerify, mailChange)
	if err != nil {
		return err
	}
	if l.Purpose == mailVerify {
		return a.store.verifyEmail(ctx, l, a.now())
	}
	err = a.store.changeEmail(ctx, l, a.mail(mailEmailChanged, &l.userRow, l.Email, ""), a.now())
	a.outbox.call()
	return err
}

// findLink returns the link of a text, if it is for one of these purposes.
func (a *Accounts) findLink(ctx context.Context, text string, purposes ...mailKind) (*linkRow, error) {
	if err := a.limit.token(ctx); err != nil {
		return nil, err
	}
	token, err := parseLink(text)
	if err != nil {
		return nil, a.limit.badToken(ctx, err)
	}
	l, err := a.store.findLink(ctx, token.hash(), a.now())
	switch {
	case err == nil && slices.Contains(purposes, l.Purpose):
		return l, nil
	case err == nil, errors.Is(err, ErrLink):
		return nil, a.limit.badToken(ctx, ErrLink)
	}
	return nil, err
}

// mailProblem are the answers to this file's errors, or nil.
func mailProblem(err error) *web.Problem {
	switch {
	case errors.Is(err, ErrLink):
		return web.NewProblem(http.StatusBadRequest, "invalid_link", "The link is not valid, or not any more. Ask for another one.",
			web.AtMember("/token", "is not valid, or not any more"))
	case errors.Is(err, ErrUnverified):
		return invalidGrant("email_unverified", "The e-mail address has to be verified first: see the mail that was sent to it.")
	}
	return nil
}
