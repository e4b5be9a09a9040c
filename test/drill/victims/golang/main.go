// Command golang is a verifier on trial in the drill (test/drill), built on a
// stock Go library with the settings that its README shows:
//
//	golang -library jwx|oidc|keyfunc -issuer URL -jwks URL -scale N
//
// It is a module of its own, because what is on trial is no dependency of
// urbandata. With -scale 1 every setting is as the README has it. With N the
// times for which keys are kept, and for which fetches are spaced, are divided
// by N, through the library's own settings.
//
// Each line "ID AUDIENCE TOKEN" on standard input is answered by a line
// "ID ok" or "ID no REASON", in any order; "ready" comes first.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/coreos/go-oidc/v3/oidc"
	golangjwt "github.com/golang-jwt/jwt/v5"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jwt"
	"golang.org/x/time/rate"
)

// check verifies a token for an audience.
type check func(ctx context.Context, audience, token string) error

// settings are what every library is told.
type settings struct {
	issuer, jwks string
	scale        int
}

// down is a time of production, scaled down.
func (s settings) down(d time.Duration) time.Duration { return d / time.Duration(s.scale) }

var libraries = map[string]func(context.Context, settings) (check, error){
	"jwx": newJWX, "oidc": newOIDC, "keyfunc": newKeyfunc,
}

func main() {
	var s settings
	library := flag.String("library", "", "the library on trial")
	flag.StringVar(&s.issuer, "issuer", "", "the iss wanted")
	flag.StringVar(&s.jwks, "jwks", "", "where the keys are")
	flag.IntVar(&s.scale, "scale", 1, "divides the times for which keys are kept")
	flag.Parse()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	open, ok := libraries[*library]
	if !ok || s.scale < 1 {
		log.Fatalf("-library %q -scale %d: there is no such trial", *library, s.scale)
	}
	check, err := open(ctx, s)
	if err != nil {
		log.Fatal(err)
	}
	serve(ctx, check)
}

// serve answers until standard input ends, each line by itself: a request that
// waits for keys holds up no other.
func serve(ctx context.Context, check check) {
	var out sync.Mutex
	say := func(format string, args ...any) {
		out.Lock()
		defer out.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	say("ready")
	var running sync.WaitGroup
	room := make(chan struct{}, 256)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		id, rest, _ := strings.Cut(lines.Text(), " ")
		audience, token, _ := strings.Cut(rest, " ")
		room <- struct{}{}
		running.Go(func() {
			defer func() { <-room }()
			if err := check(ctx, audience, token); err != nil {
				say("%s no %s", id, strings.ReplaceAll(err.Error(), "\n", " "))
				return
			}
			say("%s ok", id)
		})
	}
	running.Wait()
}

func newJWX(ctx context.Context, s settings) (check, error) {
	var cacheOptions []jwk.CacheOption
	var options []jwk.RegisterOption
	if s.scale > 1 {
		cacheOptions = append(cacheOptions, jwk.WithRefreshWindow(s.down(15*time.Minute)))
		options = append(options, jwk.WithMinRefreshInterval(s.down(15*time.Minute)))
	}
	cache := jwk.NewCache(ctx, cacheOptions...)
	if err := cache.Register(s.jwks, options...); err != nil {
		return nil, err
	}
	if _, err := cache.Refresh(ctx, s.jwks); err != nil {
		return nil, err
	}
	keys := jwk.NewCachedSet(cache, s.jwks)
	return func(_ context.Context, audience, token string) error {
		_, err := jwt.ParseString(token, jwt.WithKeySet(keys), jwt.WithIssuer(s.issuer),
			jwt.WithAudience(audience), jwt.WithRequiredClaim(jwt.ExpirationKey))
		return err
	}, nil
}

func newOIDC(ctx context.Context, s settings) (check, error) {
	keys := oidc.NewRemoteKeySet(ctx, s.jwks) // no time in it to scale
	return func(ctx context.Context, audience, token string) error {
		_, err := oidc.NewVerifier(s.issuer, keys, &oidc.Config{
			ClientID: audience, SupportedSigningAlgs: []string{oidc.RS256, oidc.EdDSA},
		}).Verify(ctx, token)
		return err
	}, nil
}

func newKeyfunc(ctx context.Context, s settings) (check, error) {
	var keys keyfunc.Keyfunc
	var err error
	if s.scale == 1 {
		keys, err = keyfunc.NewDefaultCtx(ctx, []string{s.jwks})
	} else {
		keys, err = keyfunc.NewDefaultOverrideCtx(ctx, []string{s.jwks}, keyfunc.Override{
			RefreshInterval:   s.down(time.Hour),
			RefreshUnknownKID: rate.NewLimiter(rate.Every(s.down(5*time.Minute)), 1),
			RateLimitWaitMax:  s.down(time.Minute),
		})
	}
	if err != nil {
		return nil, err
	}
	return func(_ context.Context, audience, token string) error {
		_, err := golangjwt.Parse(token, keys.Keyfunc, golangjwt.WithIssuer(s.issuer), golangjwt.WithAudience(audience),
			golangjwt.WithExpirationRequired(), golangjwt.WithValidMethods([]string{"RS256", "EdDSA"}))
		return err
	}, nil
}
