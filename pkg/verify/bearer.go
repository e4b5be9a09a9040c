package verify

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// LegacyHeader is where clients of the original API send their token, without
// a scheme before it.
const LegacyHeader = "access-token"

// legacyKey is LegacyHeader in canonical form.
var legacyKey = http.CanonicalHeaderKey(LegacyHeader)

// The error codes of RFC 6750 §3.1, and of RFC 9470 §3.
const (
	codeRequest = "invalid_request"
	codeToken   = "invalid_token"
	codeScope   = "insufficient_scope"
	codeLogin   = "insufficient_user_authentication"
)

// TokenFromRequest returns the token of a request: from "Authorization:
// Bearer" (RFC 6750 §2.1; the scheme in any case) or from [LegacyHeader]. It
// is never taken from the query or a form, where it ends in logs and browser
// histories (RFC 9700 §4.3.2).
//
// Both headers may hold the same token. The error is [ErrMissing] without a
// token (another scheme, or an empty header, holds none), [ErrAmbiguous] if
// either header is there twice or the two differ, [ErrMalformed] if what is
// there can't be a token by its syntax.
func TokenFromRequest(r *http.Request) (string, error) {
	raw, err := carried(r)
	if err == nil && !token68(raw) {
		return "", fmt.Errorf("%w: not the syntax of a token", ErrMalformed)
	}
	return raw, err
}

// carried is [TokenFromRequest] without the look at the syntax.
func carried(r *http.Request) (string, error) {
	authorization, err := single(r.Header, "Authorization")
	if err != nil {
		return "", err
	}
	legacy, err := single(r.Header, legacyKey)
	if err != nil {
		return "", err
	}
	bearer := ""
	scheme, rest, _ := strings.Cut(authorization, " ")
	if strings.EqualFold(scheme, "Bearer") {
		bearer = strings.TrimLeft(rest, " ")
	}
	switch {
	case bearer == "" && legacy == "":
		return "", ErrMissing
	case bearer == "":
		return legacy, nil
	case legacy != "" && bearer != legacy:
		return "", fmt.Errorf("%w: Authorization and %s differ", ErrAmbiguous, LegacyHeader)
	}
	return bearer, nil
}

// single returns the value of a header that may be there once. The name is in
// canonical form.
func single(h http.Header, name string) (string, error) {
	switch values := h[name]; len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	default:
		return "", fmt.Errorf("%w: %s is there %d times", ErrAmbiguous, name, len(values))
	}
}

// token68 is the syntax of a token in a header (RFC 9110 §11.2).
func token68(s string) bool {
	s = strings.TrimRight(s, "=")
	for i := range len(s) {
		if c := s[i]; !base64url[c] && c != '.' && c != '~' && c != '+' && c != '/' {
			return false
		}
	}
	return s != ""
}

// Challenge turns an error of this package into the answer's status and its
// WWW-Authenticate header (RFC 6750 §3, RFC 9470 §3), which is empty if none belongs there:
//
//	no token             401  Bearer realm="…"
//	two tokens           400  … error="invalid_request"
//	refused token        401  … error="invalid_token"
//	lacking scope        403  … error="insufficient_scope", scope="…"
//	old or weak login    401  … error="insufficient_user_authentication", acr_values="…", max_age="…"
//	no usable key set    503  none; the caller may add Retry-After
//	any other error      500  none
//
// error_description is [Detail]: constant for each class.
func Challenge(err error, realm string) (status int, wwwAuthenticate string) {
	c := classify(err)
	if c.status >= 500 {
		return c.status, ""
	}
	var b strings.Builder
	b.WriteString("Bearer realm=")
	quote(&b, realm)
	if c.code == "" {
		return c.status, b.String()
	}
	b.WriteString(", error=")
	quote(&b, c.code)
	b.WriteString(", error_description=")
	quote(&b, c.detail)
	if lacking := (*ScopeError)(nil); errors.As(err, &lacking) {
		b.WriteString(", scope=")
		quote(&b, lacking.Need.String())
	}
	if lacking := (*LoginError)(nil); errors.As(err, &lacking) {
		if len(lacking.Need.ACR) > 0 {
			b.WriteString(", acr_values=")
			quote(&b, strings.Join(lacking.Need.ACR, " "))
		}
		if age := lacking.Need.MaxAge; age > 0 {
			b.WriteString(", max_age=")
			quote(&b, strconv.Itoa(int((age+time.Second-1)/time.Second)))
		}
	}
	return c.status, b.String()
}

// quote writes a quoted-string (RFC 9110 §5.6.4). What a header can't carry
// becomes a question mark.
func quote(b *strings.Builder, s string) {
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"', c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c < ' ', c >= 0x7f:
			b.WriteByte('?')
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
}
