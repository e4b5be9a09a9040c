// Reads tokens from standard input, one a line, and says of each whether it is
// good. ISSUER and AUDIENCE are environment variables.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"
)

// shown in docs/verify.md from here

func newVerifier(ctx context.Context, issuer, audience string) *oidc.IDTokenVerifier {
	keys := oidc.NewRemoteKeySet(ctx, issuer+"/.well-known/jwks.json")
	return oidc.NewVerifier(issuer, keys, &oidc.Config{
		ClientID:             audience,
		SupportedSigningAlgs: []string{oidc.RS256, oidc.EdDSA}, // otherwise RS256 only
	})
}

func verify(ctx context.Context, v *oidc.IDTokenVerifier, token string) (*oidc.IDToken, error) {
	verified, err := v.Verify(ctx, token)
	if err != nil {
		return nil, err
	}
	var header struct{ Typ string }
	encoded, _, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(encoded)
	if err == nil {
		err = json.Unmarshal(raw, &header)
	}
	if err != nil || !strings.EqualFold(header.Typ, "at+jwt") || verified.Subject == "" {
		return nil, errors.New("not an access token")
	}
	return verified, nil // verified.Claims(&yours) reads the rest, such as scope
}

// shown in docs/verify.md to here

func main() {
	ctx := context.Background()
	v := newVerifier(ctx, os.Getenv("ISSUER"), os.Getenv("AUDIENCE"))
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if token, err := verify(ctx, v, lines.Text()); err != nil {
			fmt.Printf("refused %v\n", err)
		} else {
			fmt.Printf("ok %s\n", token.Subject)
		}
	}
}
