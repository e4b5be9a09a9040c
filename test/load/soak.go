//go:build unix

package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"

	"github.com/urbandata/urbandata/keys"
)

// mix is how often each operation comes in a second of the soak: an afternoon's
// proportions, at about a third of what two cores carry beside the clients.
var mix = map[string]float64{
	"register": 0.5, "login": 2, "refresh": 100, "client_credentials": 50, "JWKS": 50,
	"get": 200, "list": 30, "filter": 15, "post": 5, "export": 0.1, "import": 0.1,
}

// soakPolicy rotates keys every minute, with lead and retention as the policy
// wants them.
func soakPolicy() keys.Policy {
	p := keys.DefaultPolicy()
	p.JWKSMaxAge, p.TokenLife, p.Leeway = 2*time.Second, 20*time.Second, 0
	p.Tick, p.Skew, p.ReplicaLag, p.VerifierSlack, p.MaxHold = time.Second, time.Second, 5*time.Second, 0, 5*time.Second
	p.AnnounceLead, p.Retention = p.MinLead()+2*time.Second, p.MinRetention()+2*time.Second
	p.RotationPeriod = max(time.Minute, p.AnnounceLead+2*time.Second)
	return p
}

// soakArgs are authn's for that policy.
func soakArgs() []string {
	p := soakPolicy()
	return []string{
		"--token-life", p.TokenLife.String(), "--keys-rotation-period", p.RotationPeriod.String(), "--keys-announce-lead", p.AnnounceLead.String(),
		"--keys-retention", p.Retention.String(), "--keys-jwks-max-age", p.JWKSMaxAge.String(), "--keys-leeway", p.Leeway.String(),
		"--keys-tick", p.Tick.String(), "--keys-skew", p.Skew.String(), "--keys-replica-lag", p.ReplicaLag.String(),
		"--keys-verifier-slack", p.VerifierSlack.String(), "--keys-max-hold", p.MaxHold.String(),
	}
}

// series is a gauge over the time of a soak, or the p99 of an operation.
type series struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Values []float64 `json:"values"` // at equal distances from the start to the end
	Growth float64   `json:"growth"` // the last quarter against the second
	OK     bool      `json:"ok"`
	most   float64

	before, after float64 // the medians of these quarters
}

// judge compares the medians of quarters. The first one warms up.
func (s *series) judge() {
	n := len(s.Values) / 4
	if n == 0 {
		return
	}
	s.before, s.after = middle(s.Values[n:2*n]), middle(s.Values[len(s.Values)-n:])
	s.Growth = s.after / max(s.before, 1e-9)
	s.OK = s.Growth <= s.most
}

// middle is the median.
func middle(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

// soaked is what a soak found, as it stands in soak.json.
type soaked struct {
	Date      string         `json:"date"`
	Machine   machine        `json:"machine"`
	Minutes   float64        `json:"minutes"`
	Requests  map[string]int `json:"requests"`
	Rotations int            `json:"rotations"`
	Series    []*series      `json:"series"`
}

// A gauge may grow by a tenth: a collection that comes later, a pool that finds
// its size. A p99 of some hundred requests wanders more.
const (
	mostGauge = 1.10
	mostP99   = 1.50
)

// soak runs the mix for d and looks at what grows.
func (c *clients) soak(ctx context.Context, d time.Duration) (*soaked, error) {
	window := max(d/40, time.Second)
	windows := int(d / window)
	out := &soaked{Date: time.Now().UTC().Format(time.DateOnly), Machine: c.machine, Requests: map[string]int{}}
	var mu sync.Mutex // guards out
	began := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	kids := map[string]bool{}
	ended := make(chan struct{})
	group.Go(func() error { return c.renew(ctx, ended, kids) })
	group.Go(func() error {
		all, err := c.watch(ctx, ended, d/200)
		mu.Lock()
		defer mu.Unlock()
		out.Series = append(all, out.Series...)
		return err
	})
	asking := new(sync.WaitGroup)
	for _, op := range c.operations() {
		perSecond := mix[op.name]
		if perSecond == 0 {
			continue
		}
		asking.Add(1)
		group.Go(func() error {
			defer asking.Done()
			p99 := &series{Name: op.name + ", p99", Unit: "ms", most: mostP99}
			n := 0
			due := func(windows int) int { return int(float64(windows) * perSecond * window.Seconds()) }
			for w := range windows {
				wait(ctx, time.Until(began.Add(time.Duration(w)*window)))
				if due(w+1) == due(w) { // it comes less than once a window
					continue
				}
				o := open(ctx, op.ours, perSecond, window)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err := o.err(op.name); err != nil {
					return err
				}
				n += len(o.latencies)
				p99.Values = append(p99.Values, latencyOf(o).P99)
			}
			mu.Lock()
			defer mu.Unlock()
			out.Requests[op.name] = n
			if perSecond*window.Seconds() >= 100 { // of fewer it's the slowest one
				out.Series = append(out.Series, p99)
			}
			return nil
		})
	}
	group.Go(func() error {
		asking.Wait()
		close(ended)
		return nil
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	out.Minutes, out.Rotations = time.Since(began).Minutes(), len(kids)-1
	for _, s := range out.Series {
		s.judge()
	}
	return out, nil
}

// renew shows inmuebles a new token every second, and keeps the kids of their
// keys.
func (c *clients) renew(ctx context.Context, ended <-chan struct{}, kids map[string]bool) error {
	for {
		token, err := c.credentials(ctx, c.authn.url+"/oauth2/token", c.clientID, c.clientSecret)
		if err != nil {
			return err
		}
		c.seen.Store("Bearer " + token)
		first, _, _ := strings.Cut(token, ".")
		var header struct{ Kid string }
		text, err := base64.RawURLEncoding.DecodeString(first)
		if err := errors.Join(err, json.Unmarshal(text, &header)); err != nil {
			return fmt.Errorf("read a token's header: %w", err)
		}
		kids[header.Kid] = true
		select {
		case <-time.After(time.Second):
		case <-ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watch looks at the gauges every so often.
func (c *clients) watch(ctx context.Context, ended <-chan struct{}, every time.Duration) ([]*series, error) {
	var all []*series
	byName := map[string]*series{}
	note := func(name, unit string, v float64) {
		s := byName[name]
		if s == nil {
			s = &series{Name: name, Unit: unit, most: mostGauge}
			byName[name] = s
			all = append(all, s)
		}
		s.Values = append(s.Values, v)
	}
	for {
		for _, of := range []*service{c.authn, c.inmuebles} {
			const goroutines, heap = "go_goroutines", "go_memstats_heap_inuse_bytes"
			g, err := c.gauges(ctx, of, goroutines, heap)
			if err != nil {
				return nil, err
			}
			pid := of.process.PID()
			note(of.name+", memory", "MB", float64(resident(pid))/1e6)
			note(of.name+", heap", "MB", g[heap]/1e6)
			note(of.name+", goroutines", "", g[goroutines])
			note(of.name+", file handles", "", float64(files(pid)))
		}
		var n float64
		if err := c.postgres.GetContext(ctx, &n, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()`); err != nil {
			return nil, fmt.Errorf("count PostgreSQL's connections: %w", err)
		}
		note("PostgreSQL, connections", "", n)
		status, err := c.mongoStatus(ctx)
		if err != nil {
			return nil, err
		}
		note("MongoDB, connections", "", status.Connections.Current)
		select {
		case <-time.After(every):
		case <-ended:
			return all, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *soaked) kept() bool {
	for _, one := range s.Series {
		if !one.OK {
			return false
		}
	}
	return true
}

func (s *soaked) table() string {
	var t table
	t.row("", "in the second quarter", "in the last", "times", "at most", "")
	for _, one := range s.Series {
		verdict := ""
		if !one.OK {
			verdict = "grows"
		}
		t.row(one.Name, digits(one.before)+" "+one.Unit, digits(one.after)+" "+one.Unit, digits(one.Growth), digits(one.most), verdict)
	}
	return t.String()
}

// write prints the table, and writes soak.json and the plots.
func (s *soaked) write(out io.Writer, folder, page string) error {
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return fmt.Errorf("write the figures: %w", err)
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write the figures: %w", err)
	}
	if err := os.WriteFile(filepath.Join(folder, "soak.json"), append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the figures: %w", err)
	}
	folder = plots(folder, page)
	if err := errors.Join(
		s.draw(filepath.Join(folder, "soak-memory.svg"), "Memory of the services", "MB", false, func(one *series) bool { return one.Unit == "MB" }),
		s.draw(filepath.Join(folder, "soak-p99.svg"), "Latency, p99", "ms", true, func(one *series) bool { return one.Unit == "ms" }),
	); err != nil {
		return err
	}
	names := make([]string, 0, len(s.Requests))
	sum := 0
	for name, n := range s.Requests {
		names = append(names, fmt.Sprintf("%s %d", name, n))
		sum += n
	}
	slices.Sort(names)
	head := fmt.Sprintf("%s, %.3g minutes, %d requests (%s), none failed; %d rotations of the key\n", s.Date, s.Minutes, sum, strings.Join(names, ", "), s.Rotations)
	table := s.table()
	fmt.Fprintf(out, "%s\n%s\n", head, table)
	if page == "" {
		return nil
	}
	return fillPage(page, map[string]string{"soak": head + "\n" + table})
}

// draw draws the series that are wanted, over minutes.
func (s *soaked) draw(file, title, unit string, logarithmic bool, wanted func(*series) bool) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, "minutes", unit
	if logarithmic {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	} else {
		p.Y.Min = 0
	}
	n := 0
	for _, one := range s.Series {
		if !wanted(one) {
			continue
		}
		var xy plotter.XYs
		for i, v := range one.Values {
			xy = append(xy, plotter.XY{X: s.Minutes * float64(i+1) / float64(len(one.Values)), Y: max(v, 0.01)})
		}
		line, err := plotter.NewLine(xy)
		if err != nil {
			return fmt.Errorf("plot %s: %w", one.Name, err)
		}
		line.Color, line.Dashes = plotutil.Color(n), plotutil.Dashes(n/7)
		p.Add(line)
		p.Legend.Add(strings.TrimSuffix(one.Name, ", p99"), line)
		n++
	}
	if n == 0 {
		return nil
	}
	if p.Y.Max *= 1.4; logarithmic {
		p.Y.Max *= 10
	}
	return save(p, file)
}
