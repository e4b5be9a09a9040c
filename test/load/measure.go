//go:build unix

package main

import (
	"context"
	"fmt"
	"time"
)

// figures are what one side of an operation, ours or the floor, was seen to do.
type figures struct {
	// The closed model: as many clients as there are ask without a pause.
	PerSecond   float64 `json:"requests_per_second"`
	CPU         float64 `json:"cpu_ms"`          // of the service, a request
	DatabaseCPU float64 `json:"database_cpu_ms"` // of all the server's processes, a request; 0 if it is elsewhere
	Written     float64 `json:"log_bytes"`       // of the database's log, its journal, a request
	Allocations float64 `json:"allocations"`     // of the service, a request
	Allocated   float64 `json:"allocated_bytes"` // the same in bytes
	Memory      float64 `json:"memory_mb"`       // resident, the most seen at the end of a turn
	Busy        latency `json:"latency_closed_ms"`
	// The open model: requests come at a constant rate.
	Rate  float64 `json:"rate"` // a second
	Quiet latency `json:"latency_open_ms"`
}

// latency are percentiles in milliseconds.
type latency struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
}

func latencyOf(o *outcome) latency {
	ms := func(share float64) float64 { return o.percentile(share).Seconds() * 1000 }
	return latency{ms(0.5), ms(0.99), ms(0.999)}
}

// result is a line of the table.
type result struct {
	Name    string  `json:"name"`
	Service string  `json:"service"`
	Rows    int     `json:"rows,omitempty"` // that a request moves
	Clients int     `json:"clients"`
	Ours    figures `json:"ours"`
	Floor   figures `json:"floor"`
}

// used is what a service and its database's server have used so far.
type used struct{ cpu, database, written, mallocs, bytes float64 }

func (s *system) used(ctx context.Context, of *service, database *database) (used, error) {
	const mallocs, bytes = "go_memstats_mallocs_total", "go_memstats_alloc_bytes_total"
	g, err := s.gauges(ctx, of, mallocs, bytes)
	if err != nil {
		return used{}, err
	}
	u := used{cpu: readStat(of.process.PID()).cpu.Seconds(), mallocs: g[mallocs], bytes: g[bytes]}
	if database.cpu != nil {
		u.database = database.cpu().Seconds()
	}
	if u.written, err = database.written(ctx); err != nil {
		return used{}, fmt.Errorf("how much %s has written: %w", database.name, err)
	}
	return u, nil
}

// turns is how often ours and the floor take turns, so that the machine's mood
// strikes both.
const turns = 4

// side is one of the two that take turns.
type side struct {
	name    string
	call    call
	service *service
	figures *figures
	closed  outcome
	open    outcome
	used    used
}

// measure runs an operation and its floor by turns, first closed, then open at
// half of the rate that ours reached.
func (c *clients) measure(ctx context.Context, op *operation, clients int, d time.Duration) (*result, error) {
	if op.clients > 0 {
		clients = min(clients, op.clients)
	}
	r := &result{Name: op.name, Service: op.service.name, Rows: op.rows, Clients: clients}
	sides := []*side{
		{name: op.name, call: op.ours, service: op.service, figures: &r.Ours},
		{name: op.name + ", floor", call: op.floor, service: c.floor, figures: &r.Floor},
	}
	if err := c.supply(ctx, op, 2000); err != nil {
		return nil, err
	}
	for _, s := range sides { // connections and statements are made
		if err := closed(ctx, s.call, clients, 100*time.Millisecond).err(s.name); err != nil {
			return nil, err
		}
	}
	for range turns {
		for _, s := range sides {
			if s == sides[0] {
				if err := c.supply(ctx, op, int(c.fastest*1.5*d.Seconds()/turns)+100); err != nil {
					return nil, err
				}
			}
			if err := c.oneTurn(ctx, op, s, clients, d/turns); err != nil {
				return nil, err
			}
		}
	}
	for _, s := range sides {
		s.finish()
	}
	c.fastest = max(c.fastest, r.Ours.PerSecond)

	rate := r.Ours.PerSecond / 2
	for range 2 {
		for _, s := range sides {
			if s == sides[0] {
				if err := c.supply(ctx, op, int(rate*d.Seconds()/2)+1); err != nil {
					return nil, err
				}
			}
			out := open(ctx, s.call, rate, d/2)
			if err := out.err(s.name); err != nil {
				return nil, err
			}
			s.open.merge(out)
		}
	}
	for _, s := range sides {
		s.figures.Rate, s.figures.Quiet = rate, latencyOf(&s.open)
	}
	return r, ctx.Err()
}

// supply gets what requests use up.
func (c *clients) supply(ctx context.Context, op *operation, n int) error {
	if op.before == nil {
		return nil
	}
	if err := op.before(ctx, n); err != nil {
		return fmt.Errorf("get ready for %s: %w", op.name, err)
	}
	return nil
}

// oneTurn is a turn of the closed model.
func (c *clients) oneTurn(ctx context.Context, op *operation, s *side, clients int, d time.Duration) error {
	before, err := c.used(ctx, s.service, op.service.database)
	if err != nil {
		return err
	}
	out := closed(ctx, s.call, clients, d)
	if err := out.err(s.name); err != nil {
		return err
	}
	after, err := c.used(ctx, s.service, op.service.database)
	if err != nil {
		return err
	}
	s.closed.merge(out)
	s.used.cpu += after.cpu - before.cpu
	s.used.database += after.database - before.database
	s.used.written += after.written - before.written
	s.used.mallocs += after.mallocs - before.mallocs
	s.used.bytes += after.bytes - before.bytes
	s.figures.Memory = max(s.figures.Memory, float64(resident(s.service.process.PID()))/1e6)
	return nil
}

// finish makes figures of what the turns saw.
func (s *side) finish() {
	n := float64(len(s.closed.latencies))
	s.figures.PerSecond = s.closed.perSecond()
	s.figures.CPU, s.figures.DatabaseCPU = s.used.cpu*1000/n, s.used.database*1000/n
	s.figures.Written = s.used.written / n
	s.figures.Allocations, s.figures.Allocated = s.used.mallocs/n, s.used.bytes/n
	s.figures.Busy = latencyOf(&s.closed)
}
