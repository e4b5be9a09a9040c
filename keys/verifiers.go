package keys

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Verifier is a stock verifier: a library with the settings that its README
// shows, as it was measured for docs/verify.md. What it needs decides how long
// a key must be announced; how long it goes on with a key that was taken out
// of the set decides how long a stolen one is of use.
type Verifier struct {
	Name       string // short, as in Policy.Verifiers
	Library    string
	EdDSA      bool   // it verifies EdDSA as well; all of them do RS256
	Keeps      Span   // how long it uses a set before it fetches again
	UnknownKid string // what it does about a kid that it doesn't hold

	// Lead is how long a key must be published before it signs, with no
	// cache between and while somebody sends made-up kids all the time, so
	// that every limit on fetches is used up. A verifier that no lead can
	// save has Unsafe and says why.
	Lead   Span
	Unsafe string

	// Removed is how long a key that left the set is still accepted when no
	// other kid than those it knows comes; Flushed the same from the moment
	// at which tokens with a kid new to it come.
	Removed, Flushed Span
}

// Span is a time that may depend on the max-age of the JWKS.
type Span struct {
	Least   time.Duration
	MaxAge  bool          // the max-age where that is longer than Least
	Late    time.Duration // on top, for one that looks at its clock only now and then
	Forever bool          // until it is restarted
}

// At is the span for a max-age; ok is false when it has no end.
func (s Span) At(maxAge time.Duration) (d time.Duration, ok bool) {
	if s.Forever {
		return 0, false
	}
	d = s.Least
	if s.MaxAge {
		d = max(d, maxAge)
	}
	return d + s.Late, true
}

// String is the span in words, such as "max(900 s, max-age) + 900 s".
func (s Span) String() string {
	if s.Forever {
		return "for ever"
	}
	var text string
	least := fmt.Sprintf("%d s", s.Least/time.Second)
	if s.Least%time.Hour == 0 {
		least = fmt.Sprintf("%d h", s.Least/time.Hour)
	}
	switch {
	case s.MaxAge && s.Least > 0:
		text = "max(" + least + ", max-age)"
	case s.MaxAge:
		text = "max-age"
	case s.Least == 0:
		text = "0"
	default:
		text = least
	}
	if s.Late > 0 {
		text += fmt.Sprintf(" + %d s", s.Late/time.Second)
	}
	return text
}

func seconds(n int) Span { return Span{Least: time.Duration(n) * time.Second} }

var (
	atOnce  = Span{}
	forEver = Span{Forever: true}
	hours10 = seconds(36_000)
	quarter = Span{Least: 900 * time.Second, MaxAge: true}
	jwx2    = Span{Least: 900 * time.Second, MaxAge: true, Late: 900 * time.Second}
)

// verifiers is the table of docs/verify.md, which a test compares with it.
var verifiers = []Verifier{
	{Name: "urbandata", Library: "pkg/verify", EdDSA: true, Keeps: Span{Least: 15 * time.Second, MaxAge: true}, UnknownKid: "5 fetches, then one in 10 s", Lead: Span{Least: 15 * time.Second, MaxAge: true}, Removed: Span{Least: 15 * time.Second, MaxAge: true}, Flushed: seconds(10)},
	{Name: "jose", Library: "jose 6.2 (Node)", EdDSA: true, Keeps: seconds(600), UnknownKid: "fetch, 30 s apart", Lead: seconds(30), Removed: seconds(600), Flushed: seconds(30)},
	{Name: "jrsa", Library: "jwks-rsa 4.1 + jsonwebtoken 9.0 (Node)", Keeps: seconds(600), UnknownKid: "fetch each time", Removed: seconds(600), Flushed: seconds(600)},
	{Name: "pyjwt", Library: "PyJWT 2.15", EdDSA: true, Keeps: seconds(300), UnknownKid: "fetch, 30 s apart", Lead: seconds(30), Removed: seconds(300), Flushed: seconds(30)},
	{Name: "authl", Library: "Authlib 1.9, OpenID client", EdDSA: true, Keeps: forEver, UnknownKid: "fetch each time", Removed: forEver, Flushed: atOnce},
	{Name: "a9068", Library: "Authlib 1.9, RFC 9068 validator as documented", Keeps: forEver, UnknownKid: "never", Unsafe: "it keeps the first set until it is restarted", Removed: forEver, Flushed: forEver},
	{Name: "nimb", Library: "Nimbus 10.10", Keeps: seconds(300), UnknownKid: "2 fetches in 30 s", Lead: seconds(30), Removed: seconds(270), Flushed: seconds(30)},
	{Name: "jose4j", Library: "jose4j 0.9.7", EdDSA: true, Keeps: Span{MaxAge: true}, UnknownKid: "fetch each time", Removed: Span{MaxAge: true}, Flushed: atOnce},
	{Name: "spr", Library: "Spring Security 6.5", Keeps: seconds(300), UnknownKid: "fetch each time", Removed: seconds(300), Flushed: atOnce},
	{Name: "auth0", Library: "Auth0 jwks-rsa 0.24 + java-jwt 4.6", Keeps: hours10, UnknownKid: "10 fetches, then one a minute", Unsafe: "it fetches for each new kid, and made-up ones use up its fetches", Removed: hours10, Flushed: hours10},
	{Name: "rjwt", Library: "jsonwebtoken 11.1 (Rust), own loop", EdDSA: true, Keeps: forEver, UnknownKid: "fetch each time", Removed: forEver, Flushed: atOnce},
	{Name: "rjwks", Library: "jwks_client_rs 0.6", EdDSA: true, Keeps: seconds(86_400), UnknownKid: "fetch each time", Removed: seconds(86_400), Flushed: atOnce},
	{Name: "rauth", Library: "jwt-authorizer 0.15 (Rust)", EdDSA: true, Keeps: forEver, UnknownKid: "fetch, 600 s apart", Lead: seconds(600), Removed: forEver, Flushed: seconds(600)},
	{Name: "jwx2", Library: "jwx 2.1 `jwk.Cache`", EdDSA: true, Keeps: jwx2, UnknownKid: "never", Lead: jwx2, Removed: jwx2, Flushed: jwx2},
	{Name: "jwx3", Library: "jwx 3.3 `jwk.Cache`", EdDSA: true, Keeps: quarter, UnknownKid: "never", Lead: quarter, Removed: quarter, Flushed: quarter},
	{Name: "oidc", Library: "go-oidc 3.21", EdDSA: true, Keeps: forEver, UnknownKid: "fetch each time", Removed: forEver, Flushed: atOnce},
	{Name: "kfun", Library: "keyfunc 3.9 + golang-jwt 5.3", EdDSA: true, Keeps: seconds(3600), UnknownKid: "fetch, 300 s apart", Lead: seconds(300), Removed: seconds(3600), Flushed: seconds(300)},
	{Name: "rb3", Library: "ruby-jwt 3.2, README's loader", Keeps: forEver, UnknownKid: "fetch, 300 s apart", Lead: seconds(300), Removed: forEver, Flushed: seconds(300)},
	{Name: "rb2", Library: "ruby-jwt 2.5, README's loader", Keeps: forEver, UnknownKid: "fetch each time", Removed: forEver, Flushed: atOnce},
	{Name: "php", Library: "firebase/php-jwt 7.0", EdDSA: true, Keeps: forEver, UnknownKid: "10 fetches a minute", Lead: seconds(60), Removed: forEver, Flushed: seconds(60)},
}

// other names of the same libraries: the table's columns, and what people call
// them. Settings that only change which typ is taken keep keys alike.
var verifierAliases = map[string]string{
	"nimbd": "nimb", "nimbus": "nimb", "sprat": "spr", "spring": "spr", "keyfunc": "kfun", "go-oidc": "oidc",
	"authlib": "authl", "inmuebles": "urbandata",
}

// Verifiers is the table of the verifiers that were measured, our own first.
func Verifiers() []Verifier { return slices.Clone(verifiers) }

// FindVerifier looks a verifier up by its short name, whatever its case; ok is
// false when the table has none.
func FindVerifier(name string) (v Verifier, ok bool) {
	name = strings.ToLower(name)
	if short, alias := verifierAliases[name]; alias {
		name = short
	}
	i := slices.IndexFunc(verifiers, func(v Verifier) bool { return v.Name == name })
	if i < 0 {
		return Verifier{}, false
	}
	return verifiers[i], true
}

// verifierNames is for messages.
func verifierNames() string {
	names := make([]string, len(verifiers))
	for i, v := range verifiers {
		names[i] = v.Name
	}
	return strings.Join(names, ", ")
}
