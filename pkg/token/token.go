// Package token is the wire contract between the issuer and whoever verifies:
// the claim set of an access token (RFC 9068), its header type, and the names
// of scopes and roles. It holds no key, signs nothing and checks nothing, so
// both services and third parties can import it.
//
// A token is a compact JWS. Its header is
//
//	{"alg":"EdDSA","kid":"<RFC 7638 thumbprint>","typ":"at+jwt"}
//
// and its payload a [Claims] as JSON.
package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// TypeAccess is the header's typ of an access token (RFC 9068 §2.1).
	TypeAccess = "at+jwt"

	// TypeJWT is the header's typ for an audience whose verifier refuses
	// at+jwt (Nimbus and Spring Security by their defaults).
	TypeJWT = "JWT"

	// UseAccess is the value of the token_type claim, which the clients of
	// the original API read.
	UseAccess = "access"
)

// Claims is the payload of an access token (RFC 9068 §2.2). Times are whole
// seconds since 1970 (RFC 7519 NumericDate).
type Claims struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	Audience  Audience `json:"aud"`
	ClientID  string   `json:"client_id"`
	Expiry    int64    `json:"exp"`
	IssuedAt  int64    `json:"iat"`
	NotBefore int64    `json:"nbf,omitempty"` // never sent by us: six stock verifiers refuse one that is a second ahead
	ID        string   `json:"jti"`
	Session   string   `json:"sid,omitempty"` // the refresh-token family this token was issued from
	Scope     Scope    `json:"scope"`
	Roles     []Role   `json:"roles"`

	// How the user logged in (RFC 9068 §2.2.1). A token that a program got in
	// its own name, or for a user who isn't there, has none of the three.
	AuthTime int64    `json:"auth_time,omitempty"` // when: of the login, not of the last refresh
	ACR      string   `json:"acr,omitempty"`       // how strongly: ours are ACRSingleFactor and ACRTwoFactors
	AMR      []string `json:"amr,omitempty"`       // by which methods (RFC 8176)

	// For the clients of the original API.
	UserID string `json:"user_id,omitempty"` // the same as sub
	Use    string `json:"token_type,omitempty"`
}

// ExpiresAt is the exp claim as a time.
func (c *Claims) ExpiresAt() time.Time { return time.Unix(c.Expiry, 0) }

// The values of the acr claim that we write: the authenticator assurance levels
// of NIST 800-63B.
const (
	ACRSingleFactor = "aal1"
	ACRTwoFactors   = "aal2"
)

// ErrAudience is returned for an aud claim that is neither a string nor a
// list of strings.
var ErrAudience = errors.New("token: aud is neither a string nor a list of strings")

// Audience is the aud claim: a string when there is one, else a list
// (RFC 7519 §4.1.3).
type Audience []string

// Has reports whether name is one of the audiences, by exact comparison.
func (a Audience) Has(name string) bool { return slices.Contains(a, name) }

// MarshalJSON writes a single audience as a string.
func (a Audience) MarshalJSON() ([]byte, error) {
	if len(a) == 1 {
		return json.Marshal(a[0])
	}
	return json.Marshal([]string(a))
}

// UnmarshalJSON reads a string or a list of strings, or returns [ErrAudience].
func (a *Audience) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var one string
		if err := json.Unmarshal(b, &one); err != nil {
			return fmt.Errorf("%w: %w", ErrAudience, err)
		}
		*a = Audience{one}
		return nil
	}
	// Pointers, because encoding/json reads null into a string as "".
	var many []*string
	if err := json.Unmarshal(b, &many); err != nil || many == nil {
		return ErrAudience
	}
	list := make(Audience, len(many))
	for i, s := range many {
		if s == nil {
			return ErrAudience
		}
		list[i] = *s
	}
	*a = list
	return nil
}

// Scope is a set of scope names, on the wire a string with single spaces
// between them (RFC 6749 §3.3, RFC 9068 §2.2.3).
type Scope []string

// The scopes that exist.
const (
	ScopeInmueblesRead  = "inmuebles:read"  // read every inmueble
	ScopeInmueblesWrite = "inmuebles:write" // create inmuebles, change and delete one's own
	ScopeInmueblesAdmin = "inmuebles:admin" // change and delete anyone's
	ScopeKeysAdmin      = "keys:admin"      // look at, rotate and revoke signing keys
	ScopeUsersAdmin     = "users:admin"     // look at, change and delete anyone's account, and end anyone's sessions
	ScopeClientsAdmin   = "clients:admin"   // register, change and remove clients and audiences
	ScopeAuditRead      = "audit:read"      // read who did what
)

// Has reports whether the set holds name.
func (s Scope) Has(name string) bool { return slices.Contains(s, name) }

// Scopes lists the scopes that exist, sorted.
func Scopes() []string { return ScopesOf(Roles()) }

// Intersect returns the names that are in both sets, in the order of s.
func (s Scope) Intersect(other Scope) Scope {
	both := Scope{}
	for _, name := range s {
		if other.Has(name) {
			both = append(both, name)
		}
	}
	return both
}

// ParseScope splits a scope string at its spaces.
func ParseScope(s string) Scope { return strings.Fields(s) }

// String joins the names with single spaces.
func (s Scope) String() string { return strings.Join(s, " ") }

// MarshalJSON writes the space-separated string.
func (s Scope) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// UnmarshalJSON reads the space-separated string; anything else is an error.
func (s *Scope) UnmarshalJSON(b []byte) error {
	var joined *string
	if err := json.Unmarshal(b, &joined); err != nil || joined == nil {
		return errors.New("token: scope is not a string")
	}
	*s = ParseScope(*joined)
	return nil
}

// Role is a named set of scopes that a user can hold.
type Role string

// The roles that exist. RoleUser is what a registration gets.
const (
	RoleViewer Role = "viewer"
	RoleUser   Role = "user"
	RoleEditor Role = "editor"
	RoleAdmin  Role = "admin"
)

// grants is the one table of what a role may do.
var grants = map[Role]Scope{
	RoleViewer: {ScopeInmueblesRead},
	RoleUser:   {ScopeInmueblesRead, ScopeInmueblesWrite},
	RoleEditor: {ScopeInmueblesRead, ScopeInmueblesWrite, ScopeInmueblesAdmin},
	RoleAdmin: {
		ScopeInmueblesRead, ScopeInmueblesWrite, ScopeInmueblesAdmin,
		ScopeKeysAdmin, ScopeUsersAdmin, ScopeClientsAdmin, ScopeAuditRead,
	},
}

// Valid reports whether r is a role that exists.
func (r Role) Valid() bool { _, ok := grants[r]; return ok }

// Roles lists the roles that exist, the weakest first.
func Roles() []Role { return []Role{RoleViewer, RoleUser, RoleEditor, RoleAdmin} }

// ScopesOf is the union of what roles grant, sorted. An unknown role grants
// nothing.
func ScopesOf(roles []Role) Scope {
	set := Scope{}
	for _, r := range roles {
		set = append(set, grants[r]...)
	}
	slices.Sort(set)
	return slices.Compact(set)
}
