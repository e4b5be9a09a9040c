package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/cli/database"
)

type keysPlanCmd struct {
	Days          int  `default:"90" help:"How far to look ahead. (${default})"`
	JSON          bool `help:"One JSON object a line, for each change."`
	authnDatabase `embed:""`
	policyOf      `embed:""`
}

// Help is shown by --help.
func (*keysPlanCmd) Help() string {
	return `
Drives the function that authn itself runs over the stored ring, to where it will be when nobody asks for anything. Give it the policy settings that authn has. Nothing is changed, and no sealing key is needed.`
}

// chartWidth is how many columns the chart has for time.
const chartWidth = 60

// Run prints the plan.
func (c *keysPlanCmd) Run(p *program) error {
	policy, err := c.policy()
	if err != nil {
		return err
	}
	if c.Days < 1 || c.Days > 3650 {
		return wrongSetting("--days", "it must lie between 1 and 3650")
	}
	return c.ring(p, func(_ *database.SQL, store *keys.SQLStore) error {
		ring, now, err := keys.LoadNow(p.ctx, store, p.clock)
		if err != nil {
			return err
		}
		until := now.Add(time.Duration(c.Days) * 24 * time.Hour)
		_, events := keys.Plan(now, until, ring, policy)
		if c.JSON {
			for _, e := range events {
				if err := json.NewEncoder(p.stdout).Encode(struct {
					At     time.Time  `json:"at"`
					KeyID  string     `json:"kid"`
					Alg    string     `json:"alg"`
					From   keys.State `json:"from,omitempty"`
					To     keys.State `json:"to,omitempty"`
					Reason string     `json:"reason"`
				}{e.At.UTC(), e.KeyID, string(e.Alg), e.From, e.To, e.Reason}); err != nil {
					return fmt.Errorf("write an event: %w", err)
				}
			}
			return nil
		}
		chart(p.stdout, now, until, ring, events)
		fmt.Fprintln(p.stdout)
		for _, e := range events {
			what := e.Reason
			if e.To != "" {
				what = string(e.To) + ": " + what
			}
			fmt.Fprintf(p.stdout, "%s  %-5s  %s  %s\n", stamp(e.At), e.Alg, e.KeyID, what)
		}
		if len(events) == 0 {
			fmt.Fprintln(p.stdout, "nothing will happen until then")
		}
		return nil
	})
}

// lane is a key on the chart: what it is from when on.
type lane struct {
	id, alg string
	marks   []mark
}

type mark struct {
	at    time.Time
	state keys.State
}

// chart draws a line for each key, those of an algorithm together.
func chart(out io.Writer, from, to time.Time, ring keys.Ring, events []keys.Event) {
	var lanes []*lane
	find := func(id, alg string) *lane {
		for _, l := range lanes {
			if l.id == id {
				return l
			}
		}
		l := &lane{id: id, alg: alg}
		lanes = append(lanes, l)
		return l
	}
	for i := range ring.Keys {
		if k := &ring.Keys[i]; k.Published() {
			l := find(k.ID, string(k.Alg))
			l.marks = append(l.marks, mark{from, k.State})
		}
	}
	for _, e := range events {
		if e.To == "" || e.From == keys.Retired {
			continue
		}
		l := find(e.KeyID, string(e.Alg))
		l.marks = append(l.marks, mark{e.At, e.To})
	}
	width := 0
	var algs []string
	for _, l := range lanes {
		width = max(width, len(l.id))
		if !slices.Contains(algs, l.alg) {
			algs = append(algs, l.alg)
		}
	}
	slices.Sort(algs)
	days := int(to.Sub(from).Hours()+12) / 24
	fmt.Fprintf(out, "%-*s  %s%*s\n", width, "", from.UTC().Format(time.DateOnly), chartWidth-len(time.DateOnly), fmt.Sprintf("day %d", days))
	for _, alg := range algs {
		fmt.Fprintln(out, alg)
		for _, l := range lanes {
			if l.alg == alg {
				fmt.Fprintf(out, "%-*s  %s\n", width, l.id, strings.TrimRight(l.draw(from, to), " "))
			}
		}
	}
	fmt.Fprintln(out, ". announced   # signing   - retiring")
}

// draw is the line of a key. A column shows the last that is short: retiring
// often lasts an hour of a column's day and a half.
func (l *lane) draw(from, to time.Time) string {
	symbols := map[keys.State]byte{keys.Announced: '.', keys.Signing: '#', keys.Retiring: '-'}
	weight := map[byte]int{' ': 0, '.': 1, '#': 2, '-': 3}
	line := []byte(strings.Repeat(" ", chartWidth))
	column := func(t time.Time) int {
		return int(int64(t.Sub(from)) / max(1, int64(to.Sub(from))/chartWidth))
	}
	for i, m := range l.marks {
		symbol, shown := symbols[m.state]
		if !shown {
			continue
		}
		end := to
		if i+1 < len(l.marks) {
			end = l.marks[i+1].at
		}
		for x := max(0, column(m.at)); x <= min(chartWidth-1, column(end)); x++ {
			if weight[symbol] > weight[line[x]] {
				line[x] = symbol
			}
		}
	}
	return string(line)
}
