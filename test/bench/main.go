// Bench reads what `go test -json -bench` prints and holds it to what was
// promised (promises.go): one table, bench.json beside it, and an exit status
// of 1 if a promise is broken by more than its margin for noise.
//
//	make bench                        all of it, on real databases
//	make bench BENCH=JWKS             some of it
//	go test -json -run '^$' -bench . -benchmem ./pkg/verify | go run ./test/bench -short
//
// What it measures are ratios of two things in one run, by turns, so that a
// slow or busy machine slows both; allocations depend on no machine at all.
// With -short only these are held to their targets, and times are told, for
// runs of a few iterations on machines that others use too.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"text/tabwriter"
)

func main() {
	log.SetFlags(0)
	short := flag.Bool("short", false, "fail for allocations only: times are told")
	whole := flag.Bool("whole", false, "fail if a promise was not measured")
	into := flag.String("o", "bench.json", "where the figures go")
	flag.Parse()
	kept, err := report(os.Stdin, os.Stdout, *into, *short, *whole)
	if err != nil {
		log.Fatal("bench: ", err)
	}
	if !kept {
		os.Exit(1)
	}
}

// report reads from in, prints to out and writes the file. kept is false if a
// promise is broken or a test failed.
func report(in io.Reader, out io.Writer, file string, short, whole bool) (kept bool, err error) {
	run, err := read(in)
	if err != nil {
		return false, err
	}
	kept = true
	rows := judge(run.figures, promises)
	missing := 0
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "promise\ttarget\tmeasured\treference\t")
	for i := range rows {
		r := &rows[i]
		verdict := ""
		switch {
		case !r.Measured:
			missing++
			kept = kept && !whole
			continue
		case r.OK && r.within:
			verdict = "within noise"
		case r.OK:
		case short && !r.exact:
			verdict = "missed (only told)"
		default:
			verdict = "MISSED"
			kept = false
		}
		fmt.Fprintf(table, "%s\t%s %s\t%s\t%s\t%s\n", r.Name, r.sign, decimal(r.Target), decimal(*r.Value), r.Unit, verdict)
	}
	if err := table.Flush(); err != nil {
		return false, fmt.Errorf("print: %w", err)
	}
	if missing > 0 {
		fmt.Fprintf(out, "%d of %d promises not measured\n", missing, len(rows))
	}
	for _, f := range run.failed {
		fmt.Fprintf(out, "FAILED: %s\n", f)
		kept = false
	}
	if len(run.figures) == 0 {
		return false, fmt.Errorf("no benchmark in what was read")
	}
	text, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return false, fmt.Errorf("write %s: %w", file, err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o600); err != nil {
		return false, fmt.Errorf("write the figures: %w", err)
	}
	return kept, nil
}

// decimal writes a figure as a person wants it: no more than three digits
// behind the point.
func decimal(v float64) string {
	if v >= 1000 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}
