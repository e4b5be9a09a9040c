package authserver

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/web"
)

// Second factors: time-based one-time passwords (RFC 6238), and recovery codes
// for who has lost the device.
//
//	none ── POST /authn/me/totp ──▶ offered ── …/confirm, a first code ──▶ on
//	  ▲                                                                   │
//	  └──────────── DELETE /authn/me/totp, an operator ───────────────────┘
//
// A code is of 30 s, and one step of clock difference either way is forgiven.
// Each code is taken once: the step of the last one is stored by the same
// statement that compares it. Secrets are sealed as signing keys are, and
// sealed anew when the sealing key changes.

var (
	// ErrOTPRequired says that the password was right, and that a code is
	// needed too.
	ErrOTPRequired = errors.New("authserver: a one-time password is needed")

	// ErrOTP says that a code isn't right, or was used.
	ErrOTP = errors.New("authserver: the one-time password is not right")

	// ErrSecondFactor says that there is a second factor already, or none.
	ErrSecondFactor = errors.New("authserver: the second factor is not in that state")
)

const (
	otpPeriod     = 30 * time.Second
	otpSkew       = 1 // steps either way
	otpSecretSize = 20
	recoveryCodes = 10
	recoverySize  = 15 // bytes: with 112 bits or more, a plain hash will do (ASVS 5.0, 6.5.2)
)

// How a session began (RFC 8176).
const (
	amrPassword       = "pwd"
	amrPasswordAndOTP = "pwd otp mfa" //nolint:gosec // names of methods
)

var base32Encoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// assurance is the acr of a session: the authenticator assurance level of NIST
// 800-63B that its login had.
func assurance(amr string) string {
	if amr == amrPasswordAndOTP {
		return token.ACRTwoFactors
	}
	return token.ACRSingleFactor
}

type passwordOnlyInput struct {
	Body struct {
		Password string `json:"password" maxLength:"1024" doc:"The present password" example:"a long phrase of your own"`
	}
}

type offerOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         struct {
		Secret string `json:"secret" doc:"In base32, to type into an authenticator" example:"JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"`
		URI    string `json:"uri" doc:"The same to show as a QR code" example:"otpauth://totp/…"`
	}
}

func (s *Server) offerSecondFactor(ctx context.Context, in *passwordOnlyInput) (*offerOutput, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	out := &offerOutput{CacheControl: "no-store"}
	out.Body.Secret, out.Body.URI, err = s.accounts.offerSecondFactor(ctx, c.user, in.Body.Password, s.issuer.url)
	return out, err
}

type codeInput struct {
	Body struct {
		Code string `json:"code" maxLength:"64" doc:"The code that the authenticator shows" example:"123456"`
	}
}

type codesOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         struct {
		RecoveryCodes []string `json:"recovery_codes" nullable:"false" doc:"Each takes the place of a code once; they are not shown again"`
	}
}

func (s *Server) confirmSecondFactor(ctx context.Context, in *codeInput) (*codesOutput, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	out := &codesOutput{CacheControl: "no-store"}
	out.Body.RecoveryCodes, err = s.accounts.confirmSecondFactor(ctx, c.user, in.Body.Code)
	return out, err
}

type bothFactorsInput struct {
	Body struct {
		Password string `json:"password" maxLength:"1024" doc:"The present password" example:"a long phrase of your own"`
		OTP      string `json:"otp,omitempty" maxLength:"64" doc:"A code of the second factor, or a recovery code, if one is on" example:"123456"`
	}
}

func (s *Server) removeSecondFactor(ctx context.Context, in *bothFactorsInput) (*struct{}, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	return nil, s.accounts.removeSecondFactor(ctx, c.user, in.Body.Password, in.Body.OTP)
}

func (s *Server) newRecoveryCodes(ctx context.Context, in *bothFactorsInput) (*codesOutput, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	out := &codesOutput{CacheControl: "no-store"}
	out.Body.RecoveryCodes, err = s.accounts.newRecoveryCodes(ctx, c.user, in.Body.Password, in.Body.OTP)
	return out, err
}

// offerSecondFactor makes a secret for a user, which counts for nothing until
// it is confirmed. It returns [ErrPassword] or [ErrSecondFactor].
func (a *Accounts) offerSecondFactor(ctx context.Context, user *userRow, password, issuer string) (secret, uri string, err error) {
	if user.SecondFactorAt != nil {
		return "", "", ErrSecondFactor
	}
	if err := a.confirm(ctx, user, password, ""); err != nil {
		return "", "", err
	}
	raw := make([]byte, otpSecretSize)
	_, _ = rand.Read(raw) // never fails
	sealed, err := a.options.Sealer.Seal(ctx, raw, factorIdentity(user.ID))
	if err != nil {
		return "", "", fmt.Errorf("seal a second factor: %w", err)
	}
	if err := a.store.offerFactor(ctx, user.ID, sealed, a.options.Sealer.ID()); err != nil {
		return "", "", err
	}
	secret = base32Encoding.EncodeToString(raw)
	name := issuer
	if u, err := url.Parse(issuer); err == nil {
		name = u.Hostname()
	}
	query := url.Values{"secret": {secret}, "issuer": {name}, "algorithm": {"SHA1"}, "digits": {"6"}, "period": {"30"}}
	return secret, "otpauth://totp/" + url.PathEscape(name+":"+user.Email) + "?" + query.Encode(), nil
}

// factorIdentity is bound into a sealed secret: no other user's will open.
func factorIdentity(userID string) []byte { return []byte("second factor of " + userID) }

// confirmSecondFactor turns on the factor that was offered, if its first code
// is right, and returns recovery codes. It returns [ErrOTP] or
// [ErrSecondFactor].
func (a *Accounts) confirmSecondFactor(ctx context.Context, user *userRow, code string) (codes []string, err error) {
	if user.SecondFactorAt != nil {
		return nil, ErrSecondFactor
	}
	defer func() { a.refusals.refused(ctx, actConfirmFailed, user.EmailKey, err) }()
	_, attempt, err := a.limit.try(ctx, user.EmailKey, peerOf(ctx))
	if err != nil {
		return nil, err
	}
	if err := a.takeCode(ctx, user, code); errors.Is(err, ErrOTP) {
		return nil, a.limit.failed(ctx, attempt, ErrOTP)
	} else if err != nil {
		return nil, err
	}
	codes, hashes := makeRecoveryCodes()
	err = a.store.turnOnFactor(ctx, user.ID, hashes, a.mail(mailSecondFactor, user, "", ""), a.now())
	if errors.Is(err, ErrNoUser) {
		return nil, ErrSecondFactor // turned on meanwhile
	}
	a.outbox.call()
	return codes, err
}

// removeSecondFactor turns the factor off. It returns [ErrPassword],
// [ErrOTPRequired], [ErrOTP] or [ErrSecondFactor].
func (a *Accounts) removeSecondFactor(ctx context.Context, user *userRow, password, code string) error {
	if user.SecondFactorAt == nil {
		return ErrSecondFactor
	}
	if err := a.confirm(ctx, user, password, code); err != nil {
		return err
	}
	err := a.store.turnOffFactor(ctx, user.EmailKey, a.mail(mailSecondFactor, user, "", ""), a.now())
	a.outbox.call()
	return err
}

// RemoveSecondFactor turns a user's second factor off for an operator, or
// returns [ErrNoUser] when nobody has the address.
func (a *Accounts) RemoveSecondFactor(ctx context.Context, email string) error {
	ctx = operating(ctx)
	return a.store.turnOffFactor(ctx, foldEmail(email), nil, a.now())
}

// newRecoveryCodes takes the place of the user's recovery codes. It returns
// what removeSecondFactor does.
func (a *Accounts) newRecoveryCodes(ctx context.Context, user *userRow, password, code string) ([]string, error) {
	if user.SecondFactorAt == nil {
		return nil, ErrSecondFactor
	}
	if err := a.confirm(ctx, user, password, code); err != nil {
		return nil, err
	}
	codes, hashes := makeRecoveryCodes()
	return codes, a.store.replaceRecoveryCodes(ctx, user.ID, hashes, a.now())
}

// checkSecondFactor checks the code of a user whose password was right, if a
// factor is on, and says how the login was made. It returns [ErrOTPRequired]
// or [ErrOTP].
func (a *Accounts) checkSecondFactor(ctx context.Context, user *userRow, code string) (amr string, err error) {
	switch {
	case user.SecondFactorAt == nil:
		return amrPassword, nil
	case code == "":
		return "", ErrOTPRequired
	case len(code) == int(otp.DigitsSix):
		err = a.takeCode(ctx, user, code)
	default:
		err = a.store.spendRecoveryCode(ctx, user.ID, hashRecoveryCode(code))
	}
	return amrPasswordAndOTP, err
}

// takeCode takes a code of the user's factor, on or offered, or returns
// [ErrOTP]. Of several that show the same code, it is one's.
func (a *Accounts) takeCode(ctx context.Context, user *userRow, code string) error {
	row, err := a.store.factor(ctx, user.ID)
	if err != nil {
		return err
	}
	raw, err := a.options.Sealer.Open(ctx, row.SealedBy, row.Sealed, factorIdentity(user.ID))
	if err != nil {
		return fmt.Errorf("open a second factor: %w", err)
	}
	secret := base32Encoding.EncodeToString(raw)
	now := a.now().Unix() / int64(otpPeriod/time.Second)
	step, found := int64(0), 0
	for s := now - otpSkew; s <= now+otpSkew; s++ {
		want, err := hotp.GenerateCode(secret, uint64(s)) //nolint:gosec // the time is past 1970
		if err != nil {
			return fmt.Errorf("compute a one-time password: %w", err)
		}
		if subtle.ConstantTimeCompare([]byte(want), []byte(code)) == 1 && s > row.LastStep {
			step, found = s, 1
		}
	}
	if found == 0 {
		return ErrOTP
	}
	return a.store.takeStep(ctx, user.ID, step)
}

// makeRecoveryCodes makes codes of 120 random bits, and what is stored of them.
func makeRecoveryCodes() (codes []string, hashes [][]byte) {
	for range recoveryCodes {
		raw := make([]byte, recoverySize)
		_, _ = rand.Read(raw) // never fails
		text := strings.ToLower(base32Encoding.EncodeToString(raw))
		code := text[:4]
		for rest := text[4:]; rest != ""; rest = rest[4:] {
			code += "-" + rest[:4]
		}
		codes, hashes = append(codes, code), append(hashes, hashRecoveryCode(code))
	}
	return codes, hashes
}

// hashRecoveryCode is of a code however it was typed.
func hashRecoveryCode(code string) []byte {
	sum := sha256.Sum256([]byte(strings.ToLower(strings.NewReplacer("-", "", " ", "").Replace(code))))
	return sum[:]
}

// reseal seals second factors anew that are sealed by another key than the
// newest. One that can't be opened is left as it is.
func (a *Accounts) reseal(ctx context.Context) error {
	if a.options.Sealer == nil {
		return nil // the command line
	}
	id := a.options.Sealer.ID()
	for after := ""; ; {
		rows, err := a.store.sealedOtherwise(ctx, id, after, 100)
		if err != nil || len(rows) == 0 {
			return err
		}
		for _, row := range rows {
			after = row.UserID
			raw, err := a.options.Sealer.Open(ctx, row.SealedBy, row.Sealed, factorIdentity(row.UserID))
			if err != nil {
				continue
			}
			sealed, err := a.options.Sealer.Seal(ctx, raw, factorIdentity(row.UserID))
			if err != nil {
				return fmt.Errorf("seal a second factor: %w", err)
			}
			if err := a.store.resealFactor(ctx, &row, sealed, id); err != nil {
				return err
			}
		}
	}
}

// factorProblem are the answers to this file's errors, or nil: 401 where
// somebody wants a token, and 403 where there is one that is good.
func factorProblem(ctx context.Context, err error) *web.Problem {
	refused := invalidGrant
	if ctx.Value(claimsKey{}) != nil {
		refused = func(code string, detail i18n.Text) *web.Problem {
			return web.NewProblem(http.StatusForbidden, code, detail)
		}
	}
	switch {
	case errors.Is(err, ErrOTPRequired):
		return refused("otp_required", "The password is right; a code of the second factor is needed too, as otp.")
	case errors.Is(err, ErrOTP):
		return refused("wrong_otp", "The code is not right, or was used before.")
	case errors.Is(err, ErrSecondFactor):
		return web.NewProblem(http.StatusConflict, "second_factor_state", "There is a second factor already, or none.")
	}
	return nil
}
