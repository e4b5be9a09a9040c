package cli

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"
)

// listing is how rows are shown: as a table with a header line, or one JSON
// object a line.
type listing[T any] struct {
	header string         // names of the columns, with tabs between
	row    func(T) string // the columns, with tabs between
	key    func(T) string // after which the next page begins
}

// print shows the pages that next returns, the last of which is not full.
func (l listing[T]) print(p *program, asJSON bool, next func(after string, limit int) ([]T, error)) error {
	const page = 500
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	if !asJSON {
		fmt.Fprintln(table, l.header)
	}
	for after := ""; ; {
		rows, err := next(after, page)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if !asJSON {
				fmt.Fprintln(table, l.row(r))
			} else if err := json.NewEncoder(p.stdout).Encode(r); err != nil {
				return fmt.Errorf("write a row: %w", err)
			}
		}
		if len(rows) < page {
			return table.Flush()
		}
		after = l.key(rows[len(rows)-1])
	}
}
