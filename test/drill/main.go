//go:build unix

// Command drill rotates keys under real verifiers and counts what breaks:
//
//	make drill                                  # 60 s
//	go run ./test/drill -length 10m
//	go run ./test/drill -naive                  # a rotation that must break some: the drill can see it
//	go run ./test/drill -real-time              # 40 min, nothing scaled
//
// What runs, all of it real and on loopback:
//
//	minters ──▶ round-robin ──▶ authserver ×3 ──▶ PostgreSQL
//	                ▲  (and a cache that honours max-age, as a CDN)
//	                └── victims: jwx, go-oidc, keyfunc, pkg/verify (Go), jose (Node),
//	                    PyJWT (Python), Nimbus (Java), each a process of its own
//
// Tokens are minted all the time. Each is shown to every victim again and
// again, from its first moment to its last, and once more when it has expired.
// Meanwhile keys rotate every few seconds, by schedule and because the
// operator asks; replicas are killed and come back; one replica's clock is
// wrong by most of what the policy bears; PostgreSQL is restarted; forged
// tokens with made-up kids keep the victims' cooldowns busy; a key is stolen
// and revoked, while the thief goes on signing with it.
//
// A refusal of a token that was good all the while is a wrong rejection. Taking
// a forged or expired token, or the thief's after the bound, is a wrong
// acceptance. The exit code is 0 when there was neither (with -naive: when
// there were wrong rejections), and enough happened to say so.
//
// To see a rotation every few seconds, the policy's times and the victims' are
// divided by the same number, -scale. What isn't a cache isn't scaled: time-outs
// are the network's.
//
// With -naive the round-robin takes keys out of the JWKS that don't sign yet:
// a key is published at the moment it signs, as dex does it. Nothing else is
// different.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/urbandata/urbandata/test/process"
)

// options are the command line.
type options struct {
	length  time.Duration
	scale   int
	rate    int
	naive   bool
	cdn     bool
	flood   bool
	victims string
	verbose bool
}

func main() {
	process.DieWithGoRun()
	var o options
	realTime := flag.Bool("real-time", false, "nothing scaled, 40 minutes")
	flag.DurationVar(&o.length, "length", time.Minute, "how long tokens are minted")
	flag.IntVar(&o.scale, "scale", 600, "divides the times of the policy and of the victims' caches")
	flag.IntVar(&o.rate, "rate", 8, "tokens minted in a second")
	flag.BoolVar(&o.naive, "naive", false, "publish a key at the moment it signs, as dex does")
	flag.BoolVar(&o.cdn, "cdn", true, "a cache that honours max-age stands before the JWKS")
	flag.BoolVar(&o.flood, "flood", true, "show the victims tokens with made-up kids all the time")
	flag.StringVar(&o.victims, "victims", strings.Join(victimNames(), ","), "who verifies")
	flag.BoolVar(&o.verbose, "v", false, "print what happens when")
	flag.Parse()
	if *realTime {
		o.scale, o.length = 1, 40*time.Minute
	}
	if o.scale < 1 || o.rate < 1 || o.length < 20*time.Second || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "drill: -scale and -rate must be 1 or more, -length 20s or more")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.length+10*time.Minute) // builds and installs among it
	defer cancel()
	if err := drill(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "drill:", err)
		os.Exit(1)
	}
}

// drill is one whole run. When it returns, whatever it started has ended and
// its scratch folder is gone.
func drill(ctx context.Context, o options) (err error) {
	scratch, err := process.Scratch("drill")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	starter := process.NewStarter()
	defer starter.EndAll()

	policy := scaled(o.scale)
	if err := policy.Validate(); err != nil {
		return fmt.Errorf("scale %d: %w", o.scale, err)
	}
	fmt.Printf("scale 1/%d: a key is announced %v before it signs, signs %v, stays %v; max-age %v, tokens live %v\n",
		o.scale, policy.AnnounceLead, policy.RotationPeriod, policy.Retention, policy.JWKSMaxAge, policy.TokenLife)

	cast, err := install(ctx, strings.Split(o.victims, ","))
	if err != nil {
		return err
	}
	db, err := startPostgres(ctx, starter, scratch)
	if err != nil {
		return err
	}
	cluster, err := startCluster(ctx, starter, scratch, o, policy, db)
	if err != nil {
		return err
	}
	defer cluster.close()
	trial := newTrial(o, policy, cluster)
	if err := trial.logIn(ctx); err != nil {
		return err
	}
	for _, c := range cast {
		v, err := c.start(ctx, starter, cluster.url, o.scale)
		if err != nil {
			return err
		}
		trial.victims = append(trial.victims, v)
	}
	if err := trial.run(ctx); err != nil {
		return err
	}
	return trial.report(os.Stdout)
}
