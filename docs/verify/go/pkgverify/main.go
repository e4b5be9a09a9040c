// Reads tokens from standard input, one a line, and says of each whether it is
// good. ISSUER and AUDIENCE are environment variables.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/urbandata/urbandata/pkg/verify"
)

// shown in docs/verify.md from here

func newVerifier(ctx context.Context, issuer, audience string) (*verify.Verifier, error) {
	v, err := verify.New(verify.Options{
		Issuer:   issuer,
		Audience: audience,
		JWKSURL:  issuer + "/.well-known/jwks.json",
	})
	if err != nil {
		return nil, err
	}
	go v.Run(ctx) // keeps the keys fresh until ctx ends
	// Start without keys if need be: tokens are refused with 503 until they come.
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := v.Wait(ctx); err != nil {
		log.Print(err)
	}
	return v, nil
}

// shown in docs/verify.md to here

func main() {
	ctx := context.Background()
	v, err := newVerifier(ctx, os.Getenv("ISSUER"), os.Getenv("AUDIENCE"))
	if err != nil {
		log.Fatal(err)
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if claims, err := v.Verify(ctx, lines.Text()); err != nil {
			fmt.Printf("refused %v\n", err)
		} else {
			fmt.Printf("ok %s\n", claims.Subject)
		}
	}
}
