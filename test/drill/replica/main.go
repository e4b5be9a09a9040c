// Command replica is urbandata with a clock that may be wrong, for the drill:
// the same command line, and one more variable.
//
//	URBANDATA_DRILL_CLOCK_OFFSET=750ms replica authserver …
//
// It is a program of its own so that the one that is shipped has no such
// setting. libfaketime can't do it: Go asks the kernel for the time, not libc.
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/urbandata/urbandata/pkg/cli"
)

func main() {
	var offset time.Duration
	if text := os.Getenv("URBANDATA_DRILL_CLOCK_OFFSET"); text != "" {
		var err error
		if offset, err = time.ParseDuration(text); err != nil {
			fmt.Fprintln(os.Stderr, "replica: the offset:", err)
			os.Exit(2)
		}
	}
	os.Exit(cli.MainAt(func() time.Time { return time.Now().Add(offset) }))
}
