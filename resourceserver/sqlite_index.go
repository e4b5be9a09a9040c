package resourceserver

import (
	"context"
	"math"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// The indexes of places (an R*Tree) and of words (FTS5) are filled behind the
// writers: a trigger notes each row that was inserted, changed or deleted in
// inmuebles_changed, whichever program did it, and [SQLite.Run] brings the
// indexes up to date and strikes the row out, in one transaction. A query
// takes for candidates what an index names and what is noted, and looks at
// each itself. So it is right at every moment, and a writer waits for no
// index.

const (
	// changedBatch is how many rows one transaction of Run takes, while other
	// writers wait: some 10 ms.
	changedBatch = 500

	// mergedPages is how many pages of the index of words are put together
	// when there is nothing else to do.
	mergedPages = 500

	// maxChanged is how many noted rows a query looks at beside an index. With
	// more, as after an import, it does without the index.
	maxChanged = 1000

	// maxCounted is how many rows are counted and added up by way of an index.
	// With more, the table is as good.
	maxCounted = 100_000
)

// Run keeps the indexes that are filled behind the writers, as long as ctx
// lives. A server runs it.
func (s *SQLite) Run(ctx context.Context) error {
	const (
		others = 5 * time.Second        // after which another program's changes are seen
		pause  = 100 * time.Millisecond // for writers to come together
	)
	for {
		for {
			n, err := s.index(ctx)
			if err != nil || n == 0 { // a busy database is tried again
				break
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
		case <-time.After(others):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// noteChange has Run look.
func (s *SQLite) noteChange() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// index brings the indexes up to date with some of the noted rows, and
// returns how many.
func (s *SQLite) index(ctx context.Context) (n int64, err error) {
	var last *int64
	if err := s.finds.db.GetContext(ctx, &last, `SELECT max(seq) FROM (SELECT seq FROM inmuebles_changed ORDER BY seq LIMIT ?)`, changedBatch); err != nil {
		return 0, sqliteError(ctx, "look for changes", err)
	}
	if last == nil {
		return 0, nil
	}
	err = s.begin(ctx, func(tx *sqlx.Tx) error {
		for _, text := range []string{
			`DELETE FROM inmuebles_places WHERE seq IN (SELECT seq FROM inmuebles_changed WHERE seq <= ?)`,
			`INSERT INTO inmuebles_places SELECT seq, x_coord, x_coord, y_coord, y_coord FROM inmuebles
				WHERE seq IN (SELECT seq FROM inmuebles_changed WHERE seq <= ?)` + sqliteIsOfKind(filterFields["x_coord"]) + sqliteIsOfKind(filterFields["y_coord"]),
			`DELETE FROM inmuebles_words WHERE rowid IN (SELECT seq FROM inmuebles_changed WHERE seq <= ?)`,
			`INSERT INTO inmuebles_words (rowid, words) SELECT seq, inmuebles_words(title, description) FROM inmuebles
				WHERE seq IN (SELECT seq FROM inmuebles_changed WHERE seq <= ?)`,
			`DELETE FROM inmuebles_changed WHERE seq <= ?`,
		} {
			result, err := tx.ExecContext(ctx, text, *last)
			if err != nil {
				return sqliteError(ctx, "index", err)
			}
			n, _ = result.RowsAffected()
		}
		if n == changedBatch {
			return nil
		}
		// The last ones: FTS5 looks a word up in each of its parts, so these are
		// put together, a bounded number of pages at a time.
		_, err := tx.ExecContext(ctx, `INSERT INTO inmuebles_words (inmuebles_words, rank) VALUES ('merge', ?)`, mergedPages)
		return sqliteError(ctx, "merge", err)
	})
	return n, err
}

// candidates are rows by an index that is filled behind the writers: a list
// of seq that has each row which a condition is true of, among others. Its
// zero value is all rows.
type candidates struct {
	text string // a SELECT
	args []any
}

// placesOf are the candidates for a condition on places.
func placesOf(where *query.Node) candidates { return placesIn(where.Boxes()) }

// placesIn are those in boxes.
func placesIn(boxes []query.Box) (c candidates) {
	for i, b := range boxes {
		if i > 0 {
			c.text += " UNION ALL "
		}
		c.text += "SELECT seq FROM inmuebles_places WHERE max_x >= ? AND min_x <= ? AND max_y >= ? AND min_y <= ?"
		c.args = append(c.args, b.West, b.East, b.South, b.North)
	}
	return c
}

// wordsOf are the candidates for a condition on words.
func wordsOf(where *query.Node) (c candidates) {
	clauses := where.Clauses()
	if clauses == nil {
		return c
	}
	var match strings.Builder
	for i, clause := range clauses {
		if i > 0 {
			match.WriteString(" AND ")
		}
		for j, word := range clause {
			before := " OR "
			if j == 0 {
				before = "("
			}
			word, beginning := strings.CutSuffix(word, "*")
			match.WriteString(before + `"` + word + `"`)
			if beginning {
				match.WriteByte('*')
			}
		}
		match.WriteByte(')')
	}
	return candidates{"SELECT rowid FROM inmuebles_words WHERE inmuebles_words MATCH ?", []any{match.String()}}
}

func (c *candidates) all() bool { return c.text == "" }

// number counts candidates up to most.
func (s *SQLite) number(ctx context.Context, c *candidates, most int) (n int, err error) {
	stmt, err := s.finds.get(ctx, "SELECT count(*) FROM (SELECT 1 FROM ("+c.text+") LIMIT ?)") //nolint:sqlclosecheck // it is kept
	if err != nil {
		return 0, err
	}
	err = stmt.QueryRowxContext(ctx, append(c.args[:len(c.args):len(c.args)], most)...).Scan(&n)
	return n, sqliteError(ctx, "count candidates", err)
}

// worth is up to how many candidates are looked at, instead of the rows in an
// order until a page is full.
type worth struct {
	places, words int
	ranges        bool // places are also what ranges of both coordinates have
}

// counted are those of a count, and of figures, which have no order.
var counted = worth{places: maxCounted, words: maxCounted}

// worthOf are those of a page. Of n rows, those in the order pass by n/m for
// each of m candidates, until the page is full: as many as there are
// candidates where m² is n times the page. Where the order's index has the
// places, a row that is passed by costs a fifteenth of a candidate, which is
// fetched and sorted; and where the order is that of places, the strip that
// they lie in is passed by and no other row.
func (s *SQLite) worthOf(ctx context.Context, q *Query) (w worth, err error) {
	w.ranges = q.newestOfPlace()
	if w.ranges || q.Where.Boxes() != nil || q.Where.Clauses() != nil {
		n, err := s.size(ctx)
		if err != nil {
			return w, err
		}
		m := math.Sqrt(float64(n) * float64(q.Limit+q.Skip+1))
		w.places, w.words = int(m), int(m)
		if w.ranges {
			w.places = int(m / math.Sqrt(15))
		}
	}
	if q.alongPlaces() {
		w.places, w.words = min(w.places, 4*q.Limit), min(w.words, 4*q.Limit)
	}
	return w, nil
}

// narrow finds the fewest candidates for a condition, if an index names some
// and they are worth it. usable is whether an index may be used at all.
func (s *SQLite) narrow(ctx context.Context, where *query.Node, w worth) (fewest candidates, usable bool, err error) {
	options := []candidates{placesOf(where), wordsOf(where)}
	if w.ranges && options[0].all() {
		options[0] = placesIn(where.Ranges(filterFields["x_coord"], filterFields["y_coord"]))
	}
	best := math.MaxInt
	changed := candidates{text: "SELECT seq FROM inmuebles_changed"}
	for i := range options {
		c := &options[i]
		if c.all() {
			continue
		}
		if !usable {
			n, err := s.number(ctx, &changed, maxChanged+1)
			if err != nil || n > maxChanged {
				return candidates{}, false, err
			}
			usable = true
		}
		most := min([]int{w.places, w.words}[i], best)
		n, err := s.number(ctx, c, most+1)
		if err != nil {
			return candidates{}, false, err
		}
		if n <= most {
			fewest, best = *c, n
		}
	}
	return fewest, usable, nil
}

// appendFrom appends from which rows, and the beginning of a WHERE. Without
// candidates SQLite chooses an index by itself.
func (c *candidates) appendFrom(b []byte, args []any) ([]byte, []any) {
	if c.all() {
		return append(b, " FROM inmuebles WHERE "...), args
	}
	b = append(append(b, " FROM inmuebles NOT INDEXED WHERE seq IN ("...), c.text...)
	return append(b, " UNION ALL SELECT seq FROM inmuebles_changed) AND "...), append(args, c.args...)
}

// appendAround appends a further condition on the coordinates, if there is one
// to say, by which the index on the longitude serves what is about places.
func appendAround(b []byte, args []any, where query.Node) ([]byte, []any) {
	around := where.Around()
	if around.All() {
		return b, args
	}
	return around.AppendSQL(append(b, " AND "...), args)
}

// alongPlaces reports whether the order is one by which places that are
// together come together.
func (q *Query) alongPlaces() bool {
	return q.Order.ByDistance() || q.Order[0].Field == filterFields["x_coord"]
}
