//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// report is all that a run found, as it stands in load.json.
type report struct {
	Date       string    `json:"date"`
	Machine    machine   `json:"machine"`
	Seconds    float64   `json:"seconds"`
	Workers    int       `json:"workers"`
	Operations []*result `json:"operations"`
	Promises   []promise `json:"promises"`
	Abuse      []figure  `json:"abuse"`
}

// promise is a figure and what it is to be.
type promise struct {
	Name     string  `json:"name"`
	Unit     string  `json:"unit"`
	Measured float64 `json:"measured"`
	Target   float64 `json:"target"`
	Least    bool    `json:"least,omitempty"` // at least the target, not at most
	OK       bool    `json:"ok"`
}

// noise is what a machine that others use may take away.
const noise = 0.10

// promised is what the operations are to show. The ratios over HTTP of what
// inmuebles does are `make bench`'s, which measures them more closely.
var promised = []struct {
	operation, name, unit string
	target                float64
	least                 bool
	of                    func(*result) float64
}{
	{"refresh", "refresh", "a second", 3000, true, func(r *result) float64 { return r.Ours.PerSecond }},
	{"refresh", "refresh, server's CPU", "ms", 0.25, false, func(r *result) float64 { return r.Ours.CPU }},
	{"refresh", "refresh, of the rate of one insert and one signature", "× the floor", 0.5, true, rate},
	{"client_credentials", "client_credentials, server's CPU", "ms", 0.30, false, func(r *result) float64 { return r.Ours.CPU }},
	{"login", "login", "× the floor's CPU", 1.05, false, cpu},
	{"JWKS", "JWKS", "× the floor's time", 1.05, false, func(r *result) float64 { return 1 / rate(r) }},
	{"verify + get", "verify + get", "× the floor's CPU", 1.15, false, cpu},
	{"list", "list", "× the floor's CPU", 1.10, false, cpu},
	{"filter", "filter", "× the floor's CPU", 1.15, false, cpu},
	{"post", "post", "× the floor's CPU", 1.30, false, cpu},
}

func rate(r *result) float64 { return r.Ours.PerSecond / r.Floor.PerSecond }
func cpu(r *result) float64  { return r.Ours.CPU / r.Floor.CPU }

// judge holds what was measured to what was promised.
func (r *report) judge() {
	for _, p := range promised {
		for _, o := range r.Operations {
			if o.Name == p.operation {
				r.promise(p.name, p.unit, p.of(o), p.target, p.least)
			}
		}
	}
}

func (r *report) promise(name, unit string, measured, target float64, least bool) {
	ok := measured <= target*(1+noise)
	if least {
		ok = measured >= target*(1-noise)
	}
	r.Promises = append(r.Promises, promise{name, unit, measured, target, least, ok})
}

// kept reports whether all promises are, but for noise.
func (r *report) kept() bool {
	for _, p := range r.Promises {
		if !p.OK {
			return false
		}
	}
	return true
}

// table is in Markdown, so that a page shows it as it is printed.
type table struct{ rows [][]string }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) String() string {
	widths := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	var b strings.Builder
	line := func(row []string) {
		for i, cell := range row {
			fmt.Fprintf(&b, "| %s%s ", cell, strings.Repeat(" ", widths[i]-len([]rune(cell))))
		}
		b.WriteString("|\n")
	}
	line(t.rows[0])
	b.WriteString(strings.Repeat("|---", len(widths)) + "|\n")
	for _, row := range t.rows[1:] {
		line(row)
	}
	return b.String()
}

// digits writes a figure as a person wants it: three digits that count.
func digits(v float64) string {
	switch {
	case v == 0:
		return "–"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// costs is the closed model's table.
func (r *report) costs() string {
	var t table
	t.row("", "a second", "× the floor", "CPU ms", "× the floor", "database's CPU ms", "× the floor", "its log KB", "allocations", "KB", "memory MB")
	for _, o := range r.Operations {
		name := o.Name
		if o.Rows > 0 {
			name = fmt.Sprintf("%s of %d", name, o.Rows)
		}
		ours, floor := &o.Ours, &o.Floor
		t.row(name, digits(ours.PerSecond), digits(ours.PerSecond/floor.PerSecond), digits(ours.CPU), digits(ours.CPU/floor.CPU),
			digits(ours.DatabaseCPU), ratio(ours.DatabaseCPU, floor.DatabaseCPU), digits(ours.Written/1000), digits(ours.Allocations), digits(ours.Allocated/1000), digits(ours.Memory))
	}
	return t.String()
}

// ratio is empty where there is nothing to compare with.
func ratio(a, b float64) string {
	if b < 0.001 { // the floor asks no database
		return "–"
	}
	return digits(a / b)
}

// waits is the open model's table.
func (r *report) waits() string {
	var t table
	t.row("", "a second", "p50 ms", "p99", "p99.9", "floor's p50", "p99", "p99.9")
	for _, o := range r.Operations {
		ours, floor := &o.Ours.Quiet, &o.Floor.Quiet
		t.row(o.Name, digits(o.Ours.Rate), digits(ours.P50), digits(ours.P99), digits(ours.P999), digits(floor.P50), digits(floor.P99), digits(floor.P999))
	}
	return t.String()
}

// verdicts is the table of promises.
func (r *report) verdicts() string {
	var t table
	t.row("promise", "target", "measured", "", "")
	for _, p := range r.Promises {
		sign, verdict := "≤", ""
		if p.Least {
			sign = "≥"
		}
		switch met := p.Measured <= p.Target; {
		case !p.OK:
			verdict = "missed"
		case met == p.Least && p.Measured != p.Target:
			verdict = "within noise"
		}
		t.row(p.Name, sign+" "+digits(p.Target), digits(p.Measured), p.Unit, verdict)
	}
	return t.String()
}

// where names the machine.
func (r *report) where() string {
	m := &r.Machine
	return fmt.Sprintf("%s, %s, %d cores, %.0f GB; %s, %s, PostgreSQL %s, MongoDB %s; %d clients, %s s a run\n",
		r.Date, m.Processor, m.Cores, m.MemoryGB, m.System, m.Go, m.PostgreSQL, m.MongoDB, r.Workers, digits(r.Seconds))
}

// parts are what is printed, and what a page shows between the marks of its
// name.
func (r *report) parts() map[string]string {
	return map[string]string{"where": r.where(), "costs": r.costs(), "waits": r.waits(), "promises": r.verdicts(), "abuse": r.abused()}
}

// write prints the tables, and writes load.json, the plots and the page.
func (r *report) write(out io.Writer, folder, page string) error {
	parts := r.parts()
	for _, name := range []string{"where", "costs", "waits", "promises", "abuse"} {
		fmt.Fprintf(out, "%s\n", parts[name])
	}
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return fmt.Errorf("write the figures: %w", err)
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write the figures: %w", err)
	}
	if err := os.WriteFile(filepath.Join(folder, "load.json"), append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the figures: %w", err)
	}
	if len(r.Operations) > 0 {
		if err := r.plot(plots(folder, page)); err != nil {
			return err
		}
	}
	if page == "" {
		return nil
	}
	return fillPage(page, parts)
}

// plots is the folder for plots: the page's own, if there is a page.
func plots(folder, page string) string {
	if page == "" {
		return folder
	}
	return strings.TrimSuffix(page, filepath.Ext(page))
}

// fillPage replaces parts of a page.
func fillPage(page string, parts map[string]string) error {
	before, err := os.ReadFile(page)
	if err != nil {
		return fmt.Errorf("read the page: %w", err)
	}
	after, err := fill(before, parts)
	if err != nil {
		return fmt.Errorf("%s: %w", page, err)
	}
	return os.WriteFile(page, after, 0o644) //nolint:gosec // a page that anybody may read
}

// fill puts each part between its marks, <!-- load: costs --> and <!-- end -->.
func fill(page []byte, parts map[string]string) ([]byte, error) {
	const end = "<!-- end -->"
	for name, text := range parts {
		mark := fmt.Appendf(nil, "<!-- load: %s -->\n", name)
		before, rest, ok := bytes.Cut(page, mark)
		_, after, ended := bytes.Cut(rest, []byte(end))
		if !ok || !ended {
			return nil, fmt.Errorf("there is no %q with %s behind it", bytes.TrimSpace(mark), end)
		}
		page = bytes.Join([][]byte{before, mark, []byte("\n" + text + "\n"), []byte(end), after}, nil)
	}
	return page, nil
}
