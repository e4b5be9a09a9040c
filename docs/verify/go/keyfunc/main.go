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

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"
)

// shown in docs/verify.md from here

func newKeys(ctx context.Context, issuer string) (keyfunc.Keyfunc, error) {
	return keyfunc.NewDefaultOverrideCtx(ctx, []string{issuer + "/.well-known/jwks.json"}, keyfunc.Override{
		RefreshInterval:   5 * time.Minute,                                // otherwise an hour
		RefreshUnknownKID: rate.NewLimiter(rate.Every(10*time.Second), 5), // otherwise one in 5 minutes
		RateLimitWaitMax:  time.Second,                                    // otherwise a made-up kid waits for a minute
	})
}

func verify(keys keyfunc.Keyfunc, issuer, audience, token string) (*jwt.Token, error) {
	parsed, err := jwt.Parse(token, keys.Keyfunc,
		jwt.WithValidMethods([]string{"RS256", "EdDSA"}),
		jwt.WithIssuer(issuer), jwt.WithAudience(audience),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(30*time.Second), jwt.WithStrictDecoding())
	if err != nil {
		return nil, err
	}
	typ, _ := parsed.Header["typ"].(string)
	kid, _ := parsed.Header["kid"].(string)
	subject, err := parsed.Claims.GetSubject()
	if !strings.EqualFold(typ, "at+jwt") || kid == "" || subject == "" || err != nil {
		return nil, errors.New("not an access token")
	}
	return parsed, nil
}

// shown in docs/verify.md to here

func main() {
	issuer, audience := os.Getenv("ISSUER"), os.Getenv("AUDIENCE")
	keys, err := newKeys(context.Background(), issuer)
	if err != nil {
		log.Fatal(err)
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		token, err := verify(keys, issuer, audience, lines.Text())
		if err != nil {
			fmt.Printf("refused %q\n", err)
			continue
		}
		subject, _ := token.Claims.GetSubject()
		fmt.Printf("ok %s\n", subject)
	}
}
