//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// call sends one request and judges the answer. The number is of the client
// that sends it.
type call func(ctx context.Context, client int) error

// outcome is what a run of one call saw.
type outcome struct {
	latencies []time.Duration // of the good answers, sorted
	failures  int
	first     error // the first failure
	took      time.Duration
}

// perSecond is the rate of good answers.
func (o *outcome) perSecond() float64 { return float64(len(o.latencies)) / o.took.Seconds() }

// percentile is the least latency that this share of the answers kept to.
func (o *outcome) percentile(share float64) time.Duration {
	if len(o.latencies) == 0 {
		return 0
	}
	return o.latencies[max(0, int(math.Ceil(share*float64(len(o.latencies))))-1)]
}

// merge adds what another run of the same call saw.
func (o *outcome) merge(other *outcome) {
	o.latencies = append(o.latencies, other.latencies...)
	slices.Sort(o.latencies)
	o.failures += other.failures
	o.took += other.took
	if o.first == nil {
		o.first = other.first
	}
}

// err says so when any request failed: what was measured then is something else.
func (o *outcome) err(what string) error {
	if o.failures > 0 {
		return fmt.Errorf("%s: %d of %d failed, the first: %w", what, o.failures, o.failures+len(o.latencies), o.first)
	}
	if len(o.latencies) == 0 {
		return fmt.Errorf("%s: no answer in %v", what, o.took)
	}
	return nil
}

// collector gathers latencies of many goroutines.
type collector struct {
	mu sync.Mutex // guards out
	// out grows by appending, which is little beside a request.
	out outcome
}

func (c *collector) add(latency time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.out.latencies = append(c.out.latencies, latency)
		return
	}
	if c.out.failures++; c.out.first == nil {
		c.out.first = err
	}
}

func (c *collector) end(took time.Duration) *outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.Sort(c.out.latencies)
	c.out.took = took
	return &c.out
}

// closed has every client ask again as soon as it has its answer: how many
// requests go through, not how long one waits. Requests that are under way at
// the end are waited for, and their time counts.
func closed(ctx context.Context, f call, clients int, d time.Duration) *outcome {
	var c collector
	began := time.Now()
	var running sync.WaitGroup
	for client := range clients {
		running.Go(func() {
			for time.Since(began) < d && ctx.Err() == nil {
				from := time.Now()
				err := f(ctx, client)
				c.add(time.Since(from), err)
			}
		})
	}
	running.Wait()
	return c.end(time.Since(began))
}

// mostUnderWay bounds the requests of an open run that have no answer yet. A
// service that is so far behind has failed, and the machine is not to follow.
const mostUnderWay = 1 << 16

// errBehind is the failure of requests that could not be sent for that reason.
var errBehind = errors.New("too many requests are without an answer")

// open sends requests at a constant rate, whatever becomes of those before: as
// people come who know nothing of each other. A latency counts from the moment
// at which the request was due, so that one that waits for its turn, here or
// there, shows as slow (no coordinated omission).
func open(ctx context.Context, f call, perSecond float64, d time.Duration) *outcome {
	var c collector
	var running sync.WaitGroup
	var underWay atomic.Int64
	n := max(1, int(perSecond*d.Seconds()))
	began := time.Now()
	for i := 0; i < n && ctx.Err() == nil; i++ {
		due := began.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))
		if wait := time.Until(due); wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
		}
		if underWay.Load() >= mostUnderWay {
			c.add(0, errBehind)
			continue
		}
		underWay.Add(1)
		running.Go(func() {
			defer underWay.Add(-1)
			err := f(ctx, i)
			c.add(time.Since(due), err)
		})
	}
	running.Wait()
	return c.end(time.Since(began))
}
