package resourceserver

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// What an import that stored nothing returns, wrapped, besides the store's
// errors.
var (
	// ErrHeader: the first row is not one that names the columns.
	ErrHeader = errors.New("resourceserver: the file's first row doesn't name the columns it must")
	// ErrBadRows: there are rows that are no valid inmuebles; the report
	// lists the first of them.
	ErrBadRows = errors.New("resourceserver: the file has bad rows")
)

const (
	maxReported = 20      // rows in a report
	maxRow      = 1 << 20 // bytes of a row: an unclosed quote must not take the whole file into memory
)

// ImportOptions says what the file doesn't.
type ImportOptions struct {
	Owner string    // the sub that will own the inmuebles; "" is nobody, so that only an admin can change them
	Now   time.Time // becomes created_at and updated_at
}

// Report tells what an import did, or would have done but for the error.
type Report struct {
	Rows    int // read, without the header
	Stored  int // 0 with any error
	Skipped int // rows without an id
	MadeIDs int // rows without an id_uda, which were given a new _id

	UnknownColumns []string   // were ignored
	Bad            []RowError // the first 20
	MoreBad        bool       // there are others
}

// RowError says what is wrong with one value of a file. It never repeats the
// value.
type RowError struct {
	Line   int    // of the file, from 1
	Column string // as the header names it, "" for the whole row
	Reason string
}

// String is a line for a person.
func (e RowError) String() string {
	if e.Column == "" {
		return fmt.Sprintf("line %d: the row %s", e.Line, e.Reason)
	}
	return fmt.Sprintf("line %d: %s %s", e.Line, e.Column, e.Reason)
}

// Import stores the inmuebles of a CSV file, all or none, reading it in
// constant memory. The first row names the columns, in any order:
//
//	id_uda       the _id; where it is null one is made
//	id           the other_id, of which letters and digits are kept; a row without is skipped
//	coordinates  "x,y", for x_coord and y_coord, which may be columns of their own
//	is_active    true/false, t/f, 1/0, yes/no, sí/no
//	others       as the fields are named; an integer may be written 3.0
//
// An empty value, null and none, in any case, are null. A column may be
// missing where its field may. Columns of other names are ignored, and
// reported. The encoding is UTF-8, with or without a byte order mark.
//
// The error wraps ErrHeader, ErrBadRows, ErrDuplicate, or is the store's or
// the reader's. The report is true with every error.
func Import(ctx context.Context, store Store, r io.Reader, opts ImportOptions) (Report, error) {
	rows := newRowReader(r, opts)
	if err := rows.readHeader(); err != nil {
		return rows.report, err
	}
	l, err := store.Load(ctx, Batch{By: Admin, Rows: func(yield func(Row, error) bool) {
		for {
			m, err := rows.next()
			if errors.Is(err, io.EOF) || !yield(Row{m, allGiven}, err) || err != nil {
				return
			}
		}
	}})
	rows.report.Stored = l[Inserted]
	if dup, ok := errors.AsType[*BatchError](err); ok {
		rows.bad(rows.lines[dup.Ordinal%importBatch], rows.columnOf[0], "is taken, in the database or further up in the file")
	}
	// The transaction is over; look for more bad rows to tell of at once.
	for errors.Is(err, ErrBadRows) && !rows.report.MoreBad && ctx.Err() == nil {
		if _, again := rows.next(); again != nil && !errors.Is(again, ErrBadRows) {
			break
		}
	}
	return rows.report, err
}

// rowReader makes inmuebles of the rows of a file.
type rowReader struct {
	csv      *csv.Reader
	limit    *rowLimit
	opts     ImportOptions
	columns  []column
	columnOf [len(fields)]string // the column that each field comes from, for messages
	report   Report

	// The lines that the last inmuebles were on, by their number in the
	// import modulo importBatch: a store tells of a duplicate that late.
	lines [importBatch]int
	made  int // inmuebles so far
}

func newRowReader(r io.Reader, opts ImportOptions) *rowReader {
	limit := &rowLimit{r: r, left: maxRow}
	buffered := bufio.NewReader(limit)
	if bom, err := buffered.Peek(3); err == nil && string(bom) == "\uFEFF" {
		_, _ = buffered.Discard(len(bom)) // it is in the buffer
	}
	rows := &rowReader{csv: csv.NewReader(buffered), limit: limit, opts: opts}
	rows.csv.ReuseRecord = true
	return rows
}

// next reads rows up to one that makes an inmueble. It returns io.EOF at the
// end, ErrBadRows for a bad row, which it has put into the report, or the
// reader's error; after ErrBadRows it can be called again.
func (r *rowReader) next() (Inmueble, error) {
	for {
		r.limit.left = maxRow
		record, err := r.csv.Read()
		if errors.Is(err, io.EOF) {
			return Inmueble{}, io.EOF
		}
		r.report.Rows++
		if parse, ok := errors.AsType[*csv.ParseError](err); ok {
			r.bad(parse.StartLine, "", csvReason(parse.Err))
			return Inmueble{}, ErrBadRows
		}
		if err != nil {
			return Inmueble{}, fmt.Errorf("resourceserver: read the file after line %d: %w", r.lines[max(r.made-1, 0)%importBatch], err)
		}
		line, _ := r.csv.FieldPos(0)
		m, wrong, skip := r.parse(record)
		if skip {
			r.report.Skipped++
			continue
		}
		if wrong != nil {
			for _, e := range wrong {
				r.bad(line, e.Field, e.Reason)
			}
			return Inmueble{}, ErrBadRows
		}
		r.lines[r.made%importBatch] = line
		r.made++
		return m, nil
	}
}

func (r *rowReader) bad(line int, column, reason string) {
	if len(r.report.Bad) == maxReported {
		r.report.MoreBad = true
		return
	}
	r.report.Bad = append(r.report.Bad, RowError{line, strings.ToValidUTF8(column, "\uFFFD"), reason})
}

func csvReason(err error) string {
	switch {
	case errors.Is(err, csv.ErrFieldCount):
		return "has more or fewer values than the header"
	case errors.Is(err, csv.ErrQuote):
		return `has a quote inside a quoted value that is not doubled, or one that is never closed`
	case errors.Is(err, csv.ErrBareQuote):
		return `has a quote inside a value that is not quoted`
	}
	return "is not CSV"
}

// rowLimit fails when reading one row takes too many bytes.
type rowLimit struct {
	r    io.Reader
	left int // bytes that may still be read for this row
}

var errLongRow = fmt.Errorf("a row is longer than %d bytes: is a quote not closed?", maxRow)

func (l *rowLimit) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errLongRow
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

// readHeader reads the first row and finds out which column is what. It comes
// before the first next.
func (r *rowReader) readHeader() error {
	header, err := r.csv.Read() // fixes the number of values for all rows
	switch {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: the file is empty", ErrHeader)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrHeader, err)
	}
	var have seen
	for _, name := range header {
		name = strings.TrimSpace(name)
		c := columnNamed(name)
		if c.first < 0 {
			r.report.UnknownColumns = append(r.report.UnknownColumns, strings.ToValidUTF8(name, "\uFFFD"))
			r.columns = append(r.columns, c)
			continue
		}
		for i := c.first; i <= c.last; i++ {
			if have&(1<<i) != 0 {
				return fmt.Errorf("%w: %s and %s are the same", ErrHeader, r.columnOf[i], name)
			}
			have.mark(i)
			r.columnOf[i] = name
		}
		r.columns = append(r.columns, c)
	}
	if lacking := have.missing(1); lacking != nil {
		names := make([]string, len(lacking))
		for i, e := range lacking {
			names[i] = e.Field
			if e.Field == "other_id" {
				names[i] = "id"
			}
		}
		return fmt.Errorf("%w: it lacks %s", ErrHeader, strings.Join(slices.Compact(names), ", "))
	}
	if r.columnOf[0] == "" {
		r.columnOf[0] = "id_uda"
	}
	return nil
}
