//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// floodRate is how many logins come in a second: several times what two
	// cores can hash.
	floodRate = 400
	// floodConnections is how many they come by.
	floodConnections = 256
)

// strikeFlood has a crowd log in, each from another address: half of them with
// the right password, half with one of somebody who doesn't exist. Those who
// are refused don't wait.
func strikeFlood(ctx context.Context, v *victims, r *report, d time.Duration) error {
	crowd := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		MaxIdleConnsPerHost: floodConnections, MaxConnsPerHost: floodConnections,
	}}
	defer crowd.CloseIdleConnections()
	var granted, refused, turnedAway atomic.Int64
	logIn := func(ctx context.Context, i int) error {
		email := "load@ejemplo.example"
		if i%2 == 0 {
			email = v.someone()
		}
		q, err := http.NewRequestWithContext(ctx, http.MethodPost, v.authn.url+"/authn/token", bytes.NewReader(fmt.Appendf(nil, `{"email":%q,"password":%q}`, email, password)))
		if err != nil {
			return err
		}
		q.Header.Set("Content-Type", jsonType)
		q.Header.Set("X-Forwarded-For", fmt.Sprintf("10.%d.%d.%d", rand.IntN(256), rand.IntN(256), rand.IntN(256))) //nolint:gosec // no secret
		w, err := crowd.Do(q)
		if err != nil {
			return err
		}
		defer func() { _ = w.Body.Close() }()
		_, err = io.Copy(io.Discard, w.Body)
		switch w.StatusCode {
		case http.StatusOK:
			granted.Add(1)
		case http.StatusUnauthorized:
			refused.Add(1)
		case http.StatusServiceUnavailable:
			turnedAway.Add(1)
			if w.Header.Get("Retry-After") == "" {
				return fmt.Errorf("a login is turned away without Retry-After")
			}
		default:
			return fmt.Errorf("a login is answered %d", w.StatusCode)
		}
		return err
	}

	pid := v.authn.process.PID()
	before, most := resident(pid), int64(0)
	var flooded time.Duration
	bystanders := []*bystander{
		{name: "refresh", call: v.refresh, perSecond: 100, promised: true},
		{name: "JWKS", call: v.openly(v.authn.url + "/.well-known/jwks.json"), perSecond: 100, promised: true},
	}
	err := beside(ctx, turns, d/2, 0, d/2, bystanders, func(ctx context.Context) error {
		began := time.Now()
		defer func() { flooded += time.Since(began) }()
		watching, stop := context.WithCancel(context.WithoutCancel(ctx))
		var watch sync.WaitGroup
		watch.Go(func() {
			for watching.Err() == nil {
				most = max(most, resident(pid))
				select {
				case <-watching.Done():
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
		// A login that is under way at the end is given up.
		out := open(ctx, logIn, floodRate, d)
		stop()
		watch.Wait()
		if out.failures > 0 && ctx.Err() == nil {
			return out.err("the flood")
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.beside("in a flood of logins", bystanders)
	second := func(n *atomic.Int64) float64 { return float64(n.Load()) / flooded.Seconds() }
	r.found("logins in the flood", floodRate, 0, "a second")
	r.found("granted", second(&granted), 0, "a second")
	r.found("refused for the password", second(&refused), 0, "a second")
	r.found("turned away with 503", second(&turnedAway), 0, "a second")
	r.found("authn's memory in the flood, the most seen", float64(most)/1e6, float64(before)/1e6, "MB")
	return nil
}
