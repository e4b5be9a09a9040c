//go:build unix

package main

import (
	"fmt"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// plot draws what the tables say.
func (r *report) plot(folder string) error {
	if err := r.plotCosts(filepath.Join(folder, "costs.svg")); err != nil {
		return err
	}
	return r.plotWaits(filepath.Join(folder, "waits.svg"))
}

// plotCosts draws bars: the CPU of a request against the floor's.
func (r *report) plotCosts(file string) error {
	p := plot.New()
	p.Title.Text = "CPU of a request, service and database, times the floor's"
	p.Y.Min = 0
	var service, database plotter.Values
	var names []string
	for _, o := range r.Operations {
		names = append(names, o.Name)
		service = append(service, o.Ours.CPU/o.Floor.CPU)
		times := 0.0
		if o.Floor.DatabaseCPU >= 0.001 {
			times = o.Ours.DatabaseCPU / o.Floor.DatabaseCPU
		}
		database = append(database, times)
	}
	const width = 10
	for n, s := range []struct {
		name   string
		values plotter.Values
	}{{"service", service}, {"database", database}} {
		bars, err := plotter.NewBarChart(s.values, vg.Points(width))
		if err != nil {
			return fmt.Errorf("plot the costs: %w", err)
		}
		bars.Color, bars.Offset = plotutil.Color(n), vg.Points(width*(float64(n)-0.5))
		bars.LineStyle.Width = 0
		p.Add(bars)
		p.Legend.Add(s.name, bars)
	}
	floor := plotter.NewFunction(func(float64) float64 { return 1 })
	floor.Dashes = plotutil.Dashes(1)
	p.Add(floor)
	p.Legend.Add("the floor", floor)
	p.NominalX(names...)
	p.Y.Max *= 1.25
	return save(p, file)
}

// plotWaits draws the percentiles of ours and of the floor.
func (r *report) plotWaits(file string) error {
	p := plot.New()
	p.Title.Text, p.Y.Label.Text = "Latency at a constant rate, half of the most: p50, p99, p99.9", "ms"
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	var names []string
	for n, s := range []struct {
		name string
		of   func(*result) *figures
	}{{"ours", func(o *result) *figures { return &o.Ours }}, {"the floor", func(o *result) *figures { return &o.Floor }}} {
		var points plotter.XYs
		for i, o := range r.Operations {
			if n == 0 {
				names = append(names, o.Name)
			}
			l := s.of(o).Quiet
			x := float64(i) + 0.3*(float64(n)-0.5)
			for _, y := range []float64{l.P50, l.P99, l.P999} {
				points = append(points, plotter.XY{X: x, Y: max(y, 0.01)})
			}
			span, err := plotter.NewLine(plotter.XYs{{X: x, Y: max(l.P50, 0.01)}, {X: x, Y: max(l.P999, 0.01)}})
			if err != nil {
				return fmt.Errorf("plot the latencies: %w", err)
			}
			span.Color = plotutil.Color(n)
			p.Add(span)
		}
		marks, err := plotter.NewScatter(points)
		if err != nil {
			return fmt.Errorf("plot the latencies: %w", err)
		}
		marks.Color, marks.Shape, marks.Radius = plotutil.Color(n), plotutil.Shape(n), vg.Points(3)
		p.Add(marks)
		p.Legend.Add(s.name, marks)
	}
	p.NominalX(names...)
	p.Y.Max *= 4 // logarithmic
	return save(p, file)
}

// save draws with room for the names at the right, and for the legend at the
// top, where the caller has made room for it.
func save(p *plot.Plot, file string) error {
	p.X.Max += (p.X.Max - p.X.Min) / 24
	p.Legend.Top, p.Legend.Left, p.Legend.XOffs = true, true, vg.Centimeter/4
	p.Legend.TextStyle.Font.Size = vg.Points(8)
	p.X.Tick.Label.Font.Size = vg.Points(8)
	if err := p.Save(26*vg.Centimeter, 10*vg.Centimeter, file); err != nil {
		return fmt.Errorf("plot %s: %w", file, err)
	}
	return nil
}
