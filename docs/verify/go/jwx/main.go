// Reads tokens from standard input, one a line, and says of each whether it is
// good. ISSUER and AUDIENCE are environment variables.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/lestrrat-go/jwx/v2/jwt"
)

// shown in docs/verify.md from here

func newKeys(ctx context.Context, issuer string) (jwk.Set, error) {
	url := issuer + "/.well-known/jwks.json"
	cache := jwk.NewCache(ctx, jwk.WithRefreshWindow(time.Minute)) // otherwise it looks every 15 minutes
	err := cache.Register(url,
		jwk.WithRefreshInterval(5*time.Minute), // otherwise 15 minutes, and up to 15 late
		jwk.WithIgnoreParseError(true))         // otherwise one key of a new kind loses the whole set
	if err != nil {
		return nil, err
	}
	// Once, and not for each unknown kid: every Refresh leaves a timer behind.
	if _, err := cache.Refresh(ctx, url); err != nil {
		return nil, err // don't start without keys: the cache would keep an empty set
	}
	return jwk.NewCachedSet(cache, url), nil
}

func verify(keys jwk.Set, issuer, audience, token string) (jwt.Token, error) {
	// jwt.WithKeySet goes by the key's alg, and looks at neither the header's nor typ.
	key := func(_ context.Context, sink jws.KeySink, sig *jws.Signature, _ *jws.Message) error {
		header := sig.ProtectedHeaders()
		alg := header.Algorithm()
		key, ok := keys.LookupKeyID(header.KeyID())
		switch {
		case !ok:
			return errors.New("unknown key")
		case alg != jwa.RS256 && alg != jwa.EdDSA, key.Algorithm() != alg:
			return errors.New("wrong algorithm")
		case !strings.EqualFold(header.Type(), "at+jwt"):
			return errors.New("not an access token")
		}
		sink.Key(alg, key)
		return nil
	}
	return jwt.ParseString(token, jwt.WithKeyProvider(jws.KeyProviderFunc(key)),
		jwt.WithIssuer(issuer), jwt.WithAudience(audience), jwt.WithAcceptableSkew(30*time.Second),
		jwt.WithRequiredClaim(jwt.ExpirationKey), jwt.WithRequiredClaim(jwt.SubjectKey))
}

// shown in docs/verify.md to here

func main() {
	issuer, audience := os.Getenv("ISSUER"), os.Getenv("AUDIENCE")
	keys, err := newKeys(context.Background(), issuer)
	if err != nil {
		log.Fatal(err)
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if token, err := verify(keys, issuer, audience, lines.Text()); err != nil {
			fmt.Printf("refused %q\n", err)
		} else {
			fmt.Printf("ok %s\n", token.Subject())
		}
	}
}
