// Simulate drives a fleet of verifiers through rotations and revocations, a
// hundred thousand of them in some seconds: how many requests reach the
// issuer, and how long a stolen key is taken.
//
//	go run ./test/simulate
//	go run ./test/simulate -verifiers 1000 -seed 7 -plots docs/scale
//
// The decisions are production's: the issuer's ring is moved by keys.Step with
// the default policy, and each verifier waits, keeps its set and asks for
// unknown kids as pkg/verify/pace says, with pkg/verify's defaults. What is
// simulated is the rest: time, the network, a CDN that keeps an answer for its
// max-age and sends one request for all who wait. The same seed gives the same
// run.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	log.SetFlags(0)
	verifiers := flag.Int("verifiers", 100_000, "how many")
	edges := flag.Int("edges", 40, "points of presence of the CDN")
	seed := flag.Uint64("seed", 1, "of all randomness")
	plots := flag.String("plots", "", "folder for plots (SVG)")
	flag.Parse()
	if *verifiers < 1 || *edges < 1 {
		log.Fatal("simulate: -verifiers and -edges must be 1 or more")
	}
	if err := simulate(os.Stdout, *verifiers, *edges, *seed, *plots); err != nil {
		log.Fatal("simulate: ", err)
	}
}

func simulate(out io.Writer, verifiers, edges int, seed uint64, plots string) error {
	fmt.Fprintf(out, "%d verifiers, %d edges, seed %d\n\n", verifiers, edges, seed)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "origin/s mean\tmost\tedges/s most\teach asks an hour\ton demand\trefused, good\t50 % refuse\t99 %\t100 %\t ")
	all := scenarios(edges)
	results := make([]*result, len(all))
	group := new(errgroup.Group)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for n, s := range all {
		group.Go(func() (err error) {
			results[n], err = play(s, verifiers, seed)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, r := range results {
		most, mean := r.origin.most(settled, r.length)
		atEdges, asked := "–", mean
		if r.edges > 0 {
			var n int
			n, asked = r.edge.most(settled, r.length)
			atEdges = fmt.Sprint(n)
		}
		fmt.Fprintf(table, "%.1f\t%d\t%s\t%.1f\t%d\t%d\t%s\t%s\t%s\t  %s\n", mean, most, atEdges,
			asked*3600/float64(verifiers), r.onDemand, r.rejected,
			r.by(0.5, verifiers), r.by(0.99, verifiers), r.by(1, verifiers), r.name)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	if plots == "" {
		return nil
	}
	return plotAll(plots, results, verifiers)
}

// by is [result.after] for a person.
func (r *result) by(share float64, verifiers int) string {
	if r.revoke == 0 {
		return "–"
	}
	d, ok := r.after(share, verifiers)
	if !ok {
		return "never"
	}
	return d.Round(time.Second).String()
}
