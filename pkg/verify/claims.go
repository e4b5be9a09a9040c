package verify

import (
	"github.com/urbandata/urbandata/pkg/token"
)

// payload is the claims with what [token.Claims] can't say: which of the
// times were there.
type payload struct {
	token.Claims
	hasExpiry, hasIssuedAt, hasNotBefore, hasUse bool
}

// parseClaims reads a payload. Names are compared exactly. A claim of package
// token that is of the wrong kind is an error, null included (but for roles,
// auth_time, acr and amr); claims that it does not know are read past.
//
// A time with a fraction is rounded to the side that refuses: exp and auth_time
// down, nbf and iat up.
func parseClaims(s string, p *payload) error {
	r := reader{s: s}
	err := r.object(func(name string) (err error) {
		switch name {
		case "iss":
			p.Issuer, err = r.str()
		case "sub":
			p.Subject, err = r.str()
		case "aud":
			p.Audience, err = audience(&r)
		case "client_id":
			p.ClientID, err = r.str()
		case "exp":
			p.Expiry, _, err = r.seconds()
			p.hasExpiry = true
		case "iat":
			_, p.IssuedAt, err = r.seconds()
			p.hasIssuedAt = true
		case "nbf":
			_, p.NotBefore, err = r.seconds()
			p.hasNotBefore = true
		case "jti":
			p.ID, err = r.str()
		case "sid":
			p.Session, err = r.str()
		case "scope":
			var s string
			s, err = r.str()
			p.Scope = token.ParseScope(s)
		case "roles":
			err = r.unlessNull(func() (err error) { p.Roles, err = roles(&r); return err })
		case "auth_time":
			err = r.unlessNull(func() (err error) { p.AuthTime, _, err = r.seconds(); return err })
		case "acr":
			err = r.unlessNull(func() (err error) { p.ACR, err = r.str(); return err })
		case "amr":
			err = r.unlessNull(func() (err error) { p.AMR, err = texts(&r); return err })
		case "user_id":
			p.UserID, err = r.str()
		case "token_type":
			p.Use, err = r.str()
			p.hasUse = true
		default:
			err = r.value()
		}
		return err
	})
	if err == nil {
		err = r.end()
	}
	if err != nil {
		return wrap(ErrClaims, err)
	}
	return nil
}

// audience reads a string or a list of strings (RFC 7519 §4.1.3).
func audience(r *reader) (token.Audience, error) {
	if r.peek() == '"' {
		one, err := r.str()
		return token.Audience{one}, err
	}
	return texts(r)
}

// texts reads a list of strings.
func texts(r *reader) (list []string, err error) {
	err = r.array(func() error {
		s, err := r.str()
		list = append(list, s)
		return err
	})
	return list, err
}

// roles reads a list of strings.
func roles(r *reader) (list []token.Role, err error) {
	err = r.array(func() error {
		s, err := r.str()
		list = append(list, token.Role(s))
		return err
	})
	return list, err
}

// unlessNull reads with read, or null, which counts as nothing: package token
// writes a nil list so, and other issuers write it for how a user logged in.
func (r *reader) unlessNull(read func() error) error {
	if r.peek() == 'n' {
		return r.literal("null")
	}
	return read()
}
