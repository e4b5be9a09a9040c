// Command urbandata is pkg/verify on trial in the drill (test/drill). The
// protocol is that of ../golang/main.go, which is a module of its own.
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

	"github.com/urbandata/urbandata/pkg/verify"
)

func main() {
	issuer := flag.String("issuer", "", "the iss wanted")
	jwks := flag.String("jwks", "", "where the keys are")
	scale := flag.Int("scale", 1, "divides the times for which keys are kept")
	flag.Parse()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o := verify.Options{Issuer: *issuer, JWKSURL: *jwks}
	if *scale > 1 {
		down := func(d time.Duration) time.Duration { return d / time.Duration(*scale) }
		o.Leeway = down(verify.DefaultLeeway)
		o.Cache = verify.CacheOptions{
			MinAge: down(verify.DefaultMinAge), DefaultAge: down(verify.DefaultAge),
			MaxAge: down(verify.DefaultMaxAge), MaxStale: down(verify.DefaultMaxStale), Every: down(verify.DefaultEvery),
		}
	}
	verifiers := map[string]*verify.Verifier{}
	for _, audience := range []string{"drill-rs256", "drill-eddsa"} { // a verifier is for one
		o.Audience = audience
		v, err := verify.New(o)
		if err != nil {
			log.Fatal(err)
		}
		go func() { _ = v.Run(ctx) }() // ends with ctx; Wait tells how it went
		if err := v.Wait(ctx); err != nil {
			log.Fatal(err)
		}
		verifiers[audience] = v
	}
	fmt.Println("ready")
	var out sync.Mutex // one line at a time
	var running sync.WaitGroup
	room := make(chan struct{}, 256)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		part := strings.SplitN(lines.Text(), " ", 3)
		if len(part) != 3 || verifiers[part[1]] == nil {
			log.Fatalf("%d words, or no such audience", len(part))
		}
		room <- struct{}{}
		running.Go(func() {
			defer func() { <-room }()
			answer := "ok"
			if _, err := verifiers[part[1]].Verify(ctx, part[2]); err != nil {
				answer = "no " + err.Error()
			}
			out.Lock()
			defer out.Unlock()
			fmt.Println(part[0], answer)
		})
	}
	running.Wait()
}
