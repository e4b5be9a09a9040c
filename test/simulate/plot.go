package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// plotAll writes the plots of docs/scale.md into a folder.
func plotAll(dir string, results []*result, verifiers int) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("plot: %w", err)
	}
	var rotations, outages, refusals []line
	for _, r := range results {
		if r.rotate > 0 {
			rotations = append(rotations, line{r.name, r.perSecond()})
		}
		if r.away > 0 && r.again == 0 {
			outages = append(outages, line{r.name, r.perSecond()})
		}
		if r.revoke > 0 && r.again == 0 {
			refusals = append(refusals, line{r.name, r.refusing(verifiers)})
		}
	}
	for _, p := range []struct {
		file, title, y string
		lines          []line
	}{
		{"rotation.svg", "Requests for the key set at the origin", "a second", rotations},
		{"outage.svg", "Requests at the origin: revocation, and an outage of 10 min", "a second", outages},
		{"revocation.svg", "Verifiers that refuse the revoked key", "%", refusals},
	} {
		if err := draw(filepath.Join(dir, p.file), p.title, p.y, p.lines); err != nil {
			return err
		}
	}
	return nil
}

// line is one line of a plot, over minutes.
type line struct {
	name   string
	points plotter.XYs
}

// bin is what a point of a plot stands for; the largest second counts.
const bin = 10 * time.Second

// perSecond is the largest number of requests a second at the origin.
func (r *result) perSecond() (xy plotter.XYs) {
	for from := time.Duration(0); from < r.length; from += bin {
		most, _ := r.origin.most(from, from+bin)
		xy = append(xy, plotter.XY{X: from.Minutes(), Y: float64(most)})
	}
	return xy
}

// refusing is the share of the verifiers that refuse the revoked key, in per
// cent, from the revocation on.
func (r *result) refusing(verifiers int) (xy plotter.XYs) {
	n := 0
	for after := time.Duration(0); after <= r.length-r.revoke; after += bin {
		for n < len(r.dropped) && r.dropped[n] <= after {
			n++
		}
		xy = append(xy, plotter.XY{X: after.Minutes(), Y: 100 * float64(n) / float64(verifiers)})
	}
	return xy
}

func draw(file, title, y string, lines []line) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, "minutes", y
	p.Y.Min = 0
	// Where the lines aren't. On the left the text follows the sample, and
	// can't run into it where the viewer's font is wider than ours.
	p.Legend.TextStyle.Font.Size = vg.Points(8)
	p.Legend.Left, p.Legend.Top, p.Legend.XOffs = true, true, vg.Centimeter/4
	if y == "%" {
		p.Legend.Top, p.Legend.XOffs, p.Legend.YOffs = false, 11*vg.Centimeter, vg.Centimeter
	}
	for n, l := range lines {
		drawn, err := plotter.NewLine(l.points)
		if err != nil {
			return fmt.Errorf("plot %s: %w", l.name, err)
		}
		drawn.Color, drawn.Dashes = plotutil.Color(n), plotutil.Dashes(n)
		p.Add(drawn)
		p.Legend.Add(l.name, drawn)
	}
	if err := p.Save(20*vg.Centimeter, 10*vg.Centimeter, file); err != nil {
		return fmt.Errorf("plot %s: %w", file, err)
	}
	return nil
}
