package cli

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/schollz/progressbar/v3"
)

// progress tells a person how far a long command is: a bar on a terminal,
// and otherwise a line now and then.
type progress struct {
	w     io.Writer
	bar   *progressbar.ProgressBar // nil where there is no terminal
	total int64                    // bytes to be read, or -1 when that isn't known
	read  int64
	begun time.Time
	told  time.Time
}

// progressEvery is how often a line is written.
const progressEvery = 10 * time.Second

func newProgress(p *program, total int64) *progress {
	g := &progress{w: p.stderr, total: total, begun: time.Now(), told: time.Now()}
	if f, ok := p.stderr.(*os.File); ok && isatty.IsTerminal(f.Fd()) {
		g.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(p.stderr), progressbar.OptionShowBytes(true), progressbar.OptionSetPredictTime(true),
			progressbar.OptionFullWidth(), progressbar.OptionThrottle(200*time.Millisecond), progressbar.OptionClearOnFinish())
	}
	return g
}

// reader counts what is read.
func (g *progress) reader(r io.Reader) io.Reader { return &counted{r, g} }

type counted struct {
	io.Reader
	g *progress
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.g.read += int64(n)
	return n, err
}

// rows tells how many rows are done.
func (g *progress) rows(n int) {
	rate := float64(n) / max(time.Since(g.begun).Seconds(), 1e-3)
	if g.bar != nil {
		g.bar.Describe(fmt.Sprintf("%d rows, %.0f rows/s", n, rate))
		_ = g.bar.Set64(g.read) // it is only shown
		return
	}
	if time.Since(g.told) < progressEvery {
		return
	}
	g.told = time.Now()
	line := fmt.Sprintf("%d rows, %.0f rows/s", n, rate)
	if g.total > 0 && g.read > 0 {
		left := time.Duration(float64(time.Since(g.begun)) * float64(g.total-g.read) / float64(g.read))
		line += fmt.Sprintf(", %d %% read, about %s to go", 100*g.read/g.total, left.Round(time.Second))
	}
	fmt.Fprintln(g.w, line)
}

// end takes the bar away.
func (g *progress) end() {
	if g.bar != nil {
		_ = g.bar.Finish() // it is only shown
	}
}
