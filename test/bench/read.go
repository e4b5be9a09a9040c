package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// module is what package names begin with in the output.
const module = "github.com/urbandata/urbandata/"

// figure is a metric of a benchmark.
type figure struct {
	pkg  string // below the module
	name string // BenchmarkX/sub, without the number of cores
	unit string
}

// outcome is what a run of benchmarks brought: the figures, each as often as
// the benchmark ran, and the packages and tests that failed.
type outcome struct {
	figures map[figure][]float64
	failed  []string
}

// read reads the events of `go test -json` (go doc test2json). Lines that are
// none are what other programs print in between.
func read(in io.Reader) (outcome, error) {
	run := outcome{figures: map[figure][]float64{}}
	text := map[string]*strings.Builder{} // a line may come in several events
	var order []string
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		var e struct{ Action, Package, Test, Output string }
		if json.Unmarshal(line, &e) == nil && e.Action != "" {
			if text[e.Package] == nil {
				text[e.Package] = new(strings.Builder)
				order = append(order, e.Package)
			}
			switch e.Action {
			case "output":
				text[e.Package].WriteString(e.Output)
			case "fail", "build-fail":
				run.failed = append(run.failed, strings.TrimSpace(e.Package+" "+e.Test))
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return run, fmt.Errorf("read: %w", err)
		}
	}
	for _, pkg := range order {
		for line := range strings.Lines(text[pkg].String()) {
			run.add(strings.TrimPrefix(pkg, module), line)
		}
	}
	return run, nil
}

// add takes in a result line:
//
//	BenchmarkX/sub-2   	 100	 123 ns/op	 1.04 x/raw	 7 allocs/op
func (o *outcome) add(pkg, line string) {
	fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
	name := strings.TrimSpace(fields[0])
	if !strings.HasPrefix(name, "Benchmark") || len(fields) < 3 {
		return
	}
	if _, err := strconv.Atoi(strings.TrimSpace(fields[1])); err != nil {
		return
	}
	if i := strings.LastIndexByte(name, '-'); i > 0 {
		if _, err := strconv.Atoi(name[i+1:]); err == nil {
			name = name[:i]
		}
	}
	for _, f := range fields[2:] {
		number, unit, ok := strings.Cut(strings.TrimSpace(f), " ")
		v, err := strconv.ParseFloat(number, 64)
		if !ok || err != nil {
			continue
		}
		key := figure{pkg, name, unit}
		o.figures[key] = append(o.figures[key], v)
	}
}

// row is a promise and what became of it, a member of bench.json.
type row struct {
	Name     string   `json:"name"`
	Unit     string   `json:"unit"`
	Value    *float64 `json:"measured"` // the median of the runs; null if there was none
	Target   float64  `json:"target"`
	OK       bool     `json:"ok"`
	Measured bool     `json:"-"`

	sign   string // how Value and Target should compare
	within bool   // the target is missed, by no more than the margin
	exact  bool   // no machine's mood changes it
}

// judge holds figures to promises, in the promises' order.
func judge(figures map[figure][]float64, promises []promise) []row {
	rows := make([]row, 0, len(promises))
	for _, p := range promises {
		r := row{Name: p.name, Unit: p.unit, Target: p.target, sign: "≤", exact: p.exact()}
		if p.least {
			r.sign = "≥"
		}
		if values := figures[figure{p.pkg, p.bench, p.unit}]; len(values) > 0 {
			v := median(values)
			r.Value, r.Measured = &v, true
			r.OK = p.kept(v, p.margin)
			r.within = r.OK && !p.kept(v, 0)
		}
		rows = append(rows, r)
	}
	return rows
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
